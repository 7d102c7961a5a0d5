//! The binary `cellblock`: the server and what an operator does beside it. A worker's word comes before everything else:
//! a worker is a small process that outlives the server, and must not carry a server's start with it.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use cri::config::{Config, DEFAULT_PATH};
use cri::serve;

/// A Kubernetes CRI server for FreeBSD nodes.
#[derive(Debug, Parser)]
#[command(name = "cellblock", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve CRI until SIGTERM; containers keep running.
    Serve(Overrides),
    /// Print the configuration in force, with its comments.
    Config(Overrides),
}

/// What the command line says over the configuration file.
#[derive(Debug, Args)]
struct Overrides {
    /// The configuration file; /etc/cellblock/cellblock.toml where there is one.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Records and images.
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// What is lost at a reboot; the socket is in it unless --address or the file says otherwise.
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// The CRI socket.
    #[arg(long, value_name = "unix://PATH")]
    address: Option<String>,
    /// The directory of registry hosts (certs.d).
    #[arg(long, value_name = "DIR")]
    registry_config: Option<PathBuf>,
    /// error, warn, info, debug, trace, or a filter such as info,image=debug.
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
}

impl Overrides {
    /// The configuration in force, checked.
    fn resolve(self) -> anyhow::Result<Config> {
        let mut config = match &self.config {
            Some(path) => Config::read(path)?,
            None if std::path::Path::new(DEFAULT_PATH).exists() => Config::read(DEFAULT_PATH.as_ref())?,
            None => Config::default(),
        };
        if let Some(root) = self.root {
            config.root = root;
        }
        if let Some(state) = self.state {
            if config.address == Config::default().address {
                config.address = format!("unix://{}/cellblock.sock", state.display());
            }
            config.state = state;
        }
        config.address = self.address.unwrap_or(config.address);
        config.image.registry_config = self.registry_config.unwrap_or(config.image.registry_config);
        config.log_level = self.log_level.unwrap_or(config.log_level);
        config.check()?;
        Ok(config)
    }
}

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    if let Some(worker) = args.get(1).and_then(|word| worker(word)) {
        return worker(&args[2..]);
    }
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cellblock: {}", host::chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

type Worker = fn(&[OsString]) -> ExitCode;

/// The worker that a word names.
fn worker(word: &OsString) -> Option<Worker> {
    match word.to_str()? {
        "monitor" => Some(runtime::monitor::main),
        "unpack" => Some(image::unpack::main),
        "hostport" => Some(network::hostport::main),
        _ => None,
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        Command::Serve(overrides) => serve::run(overrides.resolve()?),
        Command::Config(overrides) => {
            print!("{}", overrides.resolve()?.commented());
            Ok(())
        }
    }
}
