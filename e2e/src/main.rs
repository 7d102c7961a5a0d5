//! The real binary on a real kernel, driven by real clients: crictl and critest, with a registry on loopback. `make test` runs
//! `e2e all`; each part can be run by itself.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use e2e::{images, registry, tools};

#[derive(Parser)]
#[command(about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Builds crictl and critest into the cache and prints where they are.
    Tools,
    /// Runs a registry with the test images until its standard input ends.
    Registry {
        /// Where its files go.
        dir: PathBuf,
    },
}

fn main() -> Result<()> {
    let tools = tools::Tools::open()?;
    match Arguments::parse().command {
        Command::Tools => {
            println!("{}", tools.crictl()?.display());
            println!("{}", tools.critest(&images::by_digest()?.manifest.digest)?.display());
            Ok(())
        }
        Command::Registry { dir } => {
            let dir = std::path::absolute(dir)?;
            let registry = registry::Registry::start(&dir)?;
            registry.publish(&images::all(&tools)?).context("cannot publish the test images")?;
            println!("registry on {}; --registry-config {}", registry.address(), registry.certs().display());
            std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
            registry.stop()
        }
    }
}
