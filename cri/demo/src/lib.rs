//! `cellblock demo`: starts a registry and a server in a temporary directory, pulls an image, runs a pod and a container, shows its
//! log, a command in it, and its port from the host and through a host port, and removes everything. Each step is printed with its
//! time. The demo is a normal client: it speaks CRI over the socket to another process of this binary.

mod image;
pub mod program;
mod steps;

#[cfg(target_os = "freebsd")]
#[path = "freebsd.rs"]
mod platform;
#[cfg(target_os = "linux")]
#[path = "linux.rs"]
mod platform;

use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use host::worker::Workers;
use ipnetwork::IpNetwork;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

/// The prefix of the demo's kernel names: not that of a server that may run here.
const PREFIX: &str = "dm";
/// The configuration of the demo's server, in the demo's directory.
const CONFIG_FILE: &str = "cellblock.toml";
/// The default pod network.
pub const POD_CIDR: &str = "10.251.77.0/24";
/// The time-out of the server's start.
const READY: Duration = Duration::from_secs(30);

/// The options of the demo.
#[derive(Debug, Clone)]
pub struct Options {
    /// The pods' network.
    pub pod_cidr: IpNetwork,
    /// The host port of the pod; 0: any free one.
    pub host_port: u16,
    /// Whether the directory is kept at the end.
    pub keep: bool,
}

/// Runs the demo; removes its directory and all objects afterwards, also if a step fails.
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
    let mut clock = Clock::new()?;
    let program = std::env::current_exe()?;
    let (registry, serving) = testimage::serve(image::make(&program)?).await?;
    clock.step("registry", &format!("http://{registry} serves {}:latest from memory", image::REPOSITORY));
    let config = configure(directory, registry, options.pod_cidr)?;
    let mut filter = platform::Filter::new();
    let done = async {
        let changes = filter.install()?;
        if !changes.is_empty() {
            clock.step("filter", &changes.join(", "));
        }
        let server = Server::start(&program, directory)?;
        let done = steps::play(&mut clock, &server, &config, registry, options).await;
        done.and(server.stop())
    }
    .await;
    let removed = filter.remove();
    done.and(removed)?;
    drop(serving);
    clock.step("stop", "the server has ended");
    Ok(())
}

/// The configuration of the demo's server: the keys of `cellblock.toml` that differ from the defaults.
#[derive(Debug, Serialize)]
struct Config {
    root: PathBuf,
    state: PathBuf,
    address: String,
    prefix: &'static str,
    spares: u32,
    image: ImageConfig,
    network: NetworkConfig,
}

#[derive(Debug, Serialize)]
struct ImageConfig {
    registry_config: PathBuf,
}

#[derive(Debug, Serialize)]
struct NetworkConfig {
    pod_cidrs: [IpNetwork; 1],
}

/// Writes the configuration of the demo's server.
fn configure(directory: &Path, registry: SocketAddr, pod_cidr: IpNetwork) -> anyhow::Result<Config> {
    let config = Config {
        root: directory.join("root"),
        state: directory.join("state"),
        address: format!("unix://{}", directory.join("cri.sock").display()),
        prefix: PREFIX,
        spares: 0,
        image: ImageConfig { registry_config: directory.join("certs.d") },
        network: NetworkConfig { pod_cidrs: [pod_cidr] },
    };
    let hosts = config.image.registry_config.join(registry.to_string());
    std::fs::create_dir_all(&hosts)?;
    std::fs::write(hosts.join("hosts.toml"), format!("server = \"http://{registry}\"\n"))?;
    std::fs::write(directory.join(CONFIG_FILE), toml::to_string(&config)?)?;
    // kubelet makes a pod's log directory before RunPodSandbox.
    std::fs::create_dir_all(config.state.join("logs"))?;
    Ok(config)
}

/// The demo's server, a separate process as in production.
struct Server {
    child: Child,
    log: PathBuf,
}

impl Server {
    fn start(program: &Path, directory: &Path) -> anyhow::Result<Self> {
        let log = directory.join("server.log");
        let child = Workers::of_program(program)
            .command("serve")
            .arg("--config")
            .arg(directory.join(CONFIG_FILE))
            // A terminal's ^C is for the demo alone, which still needs the server to remove everything.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log)?)
            .spawn()
            .context("cannot start the server")?;
        Ok(Self { child, log })
    }

    /// Stops it by SIGTERM, and waits for it.
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

/// Prints steps with the time since the last one. After SIGINT or SIGTERM the demo ends with the current step, and removes
/// everything.
struct Clock {
    last: Instant,
    interrupted: Arc<AtomicBool>,
}

impl Clock {
    fn new() -> anyhow::Result<Self> {
        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let interrupted = Arc::new(AtomicBool::new(false));
        let flag = interrupted.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            flag.store(true, Ordering::Relaxed);
        });
        Ok(Self { last: Instant::now(), interrupted })
    }

    /// Prints a step; fails if a signal came meanwhile.
    fn advance(&mut self, name: &str, text: &str) -> anyhow::Result<()> {
        self.step(name, text);
        ensure!(!self.interrupted.load(Ordering::Relaxed), "interrupted by a signal");
        Ok(())
    }

    fn step(&mut self, name: &str, text: &str) {
        let took = self.last.elapsed();
        println!("{name:<10} {:>7.1} ms  {text}", took.as_secs_f64() * 1000.0);
        self.last = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use nix::sys::signal::{Signal, raise};

    use super::{CONFIG_FILE, Clock, POD_CIDR, configure};

    #[tokio::test]
    async fn a_signal_ends_the_demo_after_a_step() {
        let mut clock = Clock::new().unwrap();
        clock.advance("one", "before").unwrap();
        raise(Signal::SIGTERM).unwrap();
        let interrupted = async {
            while clock.advance("two", "after").is_ok() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), interrupted).await.unwrap();
    }

    #[test]
    fn the_configuration_is_toml_with_the_directory_s_paths() {
        let directory = tempfile::tempdir().unwrap();
        configure(directory.path(), "127.0.0.1:5000".parse().unwrap(), POD_CIDR.parse().unwrap()).unwrap();
        let text = std::fs::read_to_string(directory.path().join(CONFIG_FILE)).unwrap();
        let table: toml::Table = text.parse().unwrap();
        assert_eq!(table["network"]["pod_cidrs"][0].as_str(), Some(POD_CIDR));
        assert_eq!(table["root"].as_str(), directory.path().join("root").to_str());
        assert!(directory.path().join("certs.d/127.0.0.1:5000/hosts.toml").is_file());
    }
}
