//! `cellblock demo`: a registry, a server in a directory of its own, an image, a pod, a container; its log, a command in it,
//! its port from the host and through a host port; and everything removed. Each step is printed with its time. It is a user
//! of the server like any other: it speaks CRI over the socket to another process of this binary.

mod image;
pub mod program;
pub mod registry;
mod steps;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use host::worker::Workers;
use ipnetwork::IpNetwork;

use crate::config::Config;

/// What every kernel name of the demo starts with: not the prefix of a server that may run here.
const PREFIX: &str = "dm";
/// The demo's pod network unless the command line says otherwise.
pub const POD_CIDR: &str = "10.251.77.0/24";
/// How long the server may take to be ready.
const READY: Duration = Duration::from_secs(30);

/// What the demo is run with.
#[derive(Debug, Clone)]
pub struct Options {
    /// The pods' network.
    pub pod_cidr: IpNetwork,
    /// The host port that leads to the pod; 0: any that is free.
    pub host_port: u16,
    /// Whether the directory is kept at the end.
    pub keep: bool,
}

/// Runs the demo; its directory and all that it made are gone afterwards, also when a step fails.
///
/// # Errors
/// The step that failed, and why.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let directory = tempfile::Builder::new().prefix("cellblock-demo-").tempdir()?;
    let path = directory.path().to_owned();
    println!("cellblock {} demo in {}", env!("CARGO_PKG_VERSION"), path.display());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let done = runtime.block_on(play(&path, options));
    if options.keep || done.is_err() {
        let log = std::fs::read_to_string(path.join("server.log")).unwrap_or_default();
        if done.is_err() {
            eprintln!("--- the server's log\n{log}---");
        }
    }
    if options.keep {
        println!("kept: {}", directory.keep().display());
    }
    done
}

async fn play(directory: &Path, options: &Options) -> anyhow::Result<()> {
    let mut clock = Clock::new();
    let program = std::env::current_exe()?;
    let (address, registry) = registry::serve(image::make(&program, &platform())?).await?;
    clock.step("registry", &format!("http://{address} serves {}:latest from memory", image::REPOSITORY));

    let config = configure(directory, address, options)?;
    // A machine where nobody set up packet filtering gets a ruleset for the time of the demo.
    let filter = crate::serve::network_settings(&config)?;
    let changes = network::install_demo_ruleset(&filter)?;
    if !changes.is_empty() {
        clock.step("filter", &changes.join(", "));
    }
    let done = async {
        let server = Server::start(&program, directory, &config)?;
        let done = steps::play(&mut clock, &server, &config, address, options).await;
        let stopped = server.stop();
        done.and(stopped)
    }
    .await;
    network::remove_demo_ruleset(&filter)?;
    done?;
    drop(registry);
    clock.step("stop", "the server has ended");
    Ok(())
}

/// The demo's configuration, written where the server reads it.
fn configure(directory: &Path, registry: std::net::SocketAddr, options: &Options) -> anyhow::Result<Config> {
    let mut config = Config {
        root: directory.join("root"),
        state: directory.join("state"),
        address: format!("unix://{}", directory.join("cri.sock").display()),
        prefix: PREFIX.parse()?,
        spares: 0,
        ..Config::default()
    };
    config.image.registry_config = directory.join("certs.d");
    config.network.pod_cidrs = vec![options.pod_cidr];
    let hosts = config.image.registry_config.join(registry.to_string());
    std::fs::create_dir_all(&hosts)?;
    std::fs::write(hosts.join("hosts.toml"), format!("server = \"http://{registry}\"\n"))?;
    std::fs::write(directory.join("cellblock.toml"), config.commented())?;
    // kubelet makes a pod's log directory before it asks for the pod.
    std::fs::create_dir_all(config.state.join("logs"))?;
    Ok(config)
}

/// The server under demonstration: a process of its own, as in real life.
struct Server {
    child: Child,
    log: PathBuf,
}

impl Server {
    fn start(program: &Path, directory: &Path, config: &Config) -> anyhow::Result<Self> {
        config.check()?;
        let log = directory.join("server.log");
        let child = Workers::of_program(program)
            .command("serve")
            .arg("--config")
            .arg(directory.join("cellblock.toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log)?)
            .spawn()
            .context("cannot start the server")?;
        Ok(Self { child, log })
    }

    /// Stops it as an operator would, and waits for it.
    fn stop(mut self) -> anyhow::Result<()> {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id())?);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM)?;
        let status = self.child.wait()?;
        if !status.success() {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            bail!("the server ended with {status}: {}", log.lines().last().unwrap_or_default());
        }
        Ok(())
    }
}

/// Prints steps with the time since the step before.
struct Clock {
    last: Instant,
}

impl Clock {
    fn new() -> Self {
        Self { last: Instant::now() }
    }

    fn step(&mut self, name: &str, text: &str) {
        let took = self.last.elapsed();
        println!("{name:<10} {:>7.1} ms  {text}", took.as_secs_f64() * 1000.0);
        self.last = Instant::now();
    }
}

/// This program's platform, in the words of the OCI image specification (Go's).
fn platform() -> String {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    format!("{}/{architecture}", std::env::consts::OS)
}

/// An address and a port as a URL has them.
fn url(address: IpAddr, port: u16) -> String {
    format!("http://{}/", std::net::SocketAddr::new(address, port))
}
