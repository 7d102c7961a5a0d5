//! `cellblock serve`: opens the backends of this node and serves on them until SIGTERM.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use host::Need;
use host::fault::Faults;
use host::worker::Workers;
use image::rootfs::{self, Rootfs};
use network::Network;
use runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};

use crate::config::{Config, RootfsKind};
use crate::lifecycle::written;
use crate::rpc::version::RUNTIME_NAME;
use crate::server::daemon::Server;
use crate::server::{directories, locks};
use crate::state::node::{self, Backends, Opening};

/// The limit on open files: some for each container, exec and stream. It is not higher because containers inherit it, and some
/// programs close every descriptor below it.
const OPEN_FILES: nix::libc::rlim_t = 65_536;
/// Where prefixes are locked: a place that all servers of the node know.
const RUN: &str = "/var/run";
/// Threads that may block at once: one for each call that waits for the kernel.
const BLOCKING_THREADS: usize = 512;

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// Why it could not begin, or what ended it.
pub fn run(config: Config) -> anyhow::Result<()> {
    log_to_stderr(&config)?;
    raise_file_limit()?;
    config.check_old_places(node::has_records)?;
    let locks = locks::lock(&config, RUN.as_ref())?;
    directories::close_state(&config)
        .with_context(|| format!("cannot close the state directory {}", config.state.display()))?;
    host::memory::set_thresholds();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().max_blocking_threads(BLOCKING_THREADS).build()?;
    // Inside the runtime, since sockets are registered with it. Nobody waits yet for what blocks here.
    let ended = runtime.block_on(async {
        let socket = config.socket()?;
        let backends = open_backends(&config)?;
        announce(&config, &backends);
        let streaming = streaming::Server::bind(streaming_settings(&config), backends.runtime.clone()).await?;
        let opening = Opening { config, streaming, faults: Faults::default(), written_period: written::PERIOD };
        let server = Server::open(locks, &socket, backends, opening)?;
        server.run(wait_for_stop()?).await?;
        Ok(())
    });
    // Its destructor would wait for every call that the server left behind.
    runtime.shutdown_background();
    ended
}

/// Opens the backends of this kernel by the configuration.
pub(crate) fn open_boundaries(config: &Config) -> anyhow::Result<Boundaries> {
    let workers = find_workers()?;
    let runtime = runtime::open(runtime::Settings {
        prefix: config.prefix.clone(),
        state: config.state.join(directories::RUNTIME),
        workers,
    })?;
    let network = network::open(network_settings(config)?)?;
    Ok((runtime, network, open_rootfs(config)?))
}

fn network_settings(config: &Config) -> anyhow::Result<network::Settings> {
    Ok(network::Settings {
        prefix: config.prefix.clone(),
        state: config.state.join(directories::NETWORK),
        workers: find_workers()?,
        untranslated: config.network.untranslated.clone(),
        mtu: config.network.mtu,
    })
}

type Boundaries = (Arc<dyn Runtime>, Arc<dyn Network>, Arc<dyn Rootfs>);

fn find_workers() -> anyhow::Result<Workers> {
    Workers::of_this_program().context("cannot find the program's own executable")
}

/// Opens the backends with the image store on them.
fn open_backends(config: &Config) -> anyhow::Result<Backends> {
    let (runtime, network, rootfs) = open_boundaries(config)?;
    let name = rootfs.name();
    let images = image::Images::open(image::Settings {
        root: config.root.join("images"),
        registry_config: Some(config.image.registry_config.clone()),
        registry_timeout: Duration::from_secs(config.image.registry_timeout_seconds),
        workers: find_workers()?,
        rootfs,
        platforms: platforms(config, &runtime.platforms()),
    })?;
    Ok(Backends { runtime, network, images, rootfs: name })
}

fn open_rootfs(config: &Config) -> anyhow::Result<Arc<dyn Rootfs>> {
    let kind = match config.image.rootfs {
        RootfsKind::Auto => rootfs::Kind::Auto,
        RootfsKind::Zfs => rootfs::Kind::Zfs,
        RootfsKind::Copy => rootfs::Kind::Copy,
        RootfsKind::Overlay => rootfs::Kind::Overlay,
    };
    let dataset = rootfs::Dataset {
        name: config.image.zfs_dataset.clone(),
        compression: config.image.zfs_compression.clone(),
        recordsize: config.image.zfs_recordsize.clone(),
    };
    let dataset = (!dataset.name.is_empty()).then_some(dataset);
    Ok(rootfs::open(kind, &config.root.join("rootfs"), dataset.as_ref())?)
}

fn streaming_settings(config: &Config) -> streaming::Settings {
    let certificate = config.streaming.tls_cert.clone().zip(config.streaming.tls_key.clone());
    streaming::Settings {
        address: config.streaming.address,
        certificate: certificate.map(|(chain, key)| streaming::Certificate { chain, key }),
        idle_timeout: Duration::from_secs(config.streaming.idle_timeout_seconds),
        ..streaming::Settings::default()
    }
}

/// The platforms whose images are pulled. Linux on FreeBSD only if the configuration allows it.
fn platforms(config: &Config, known: &[String]) -> Vec<String> {
    let own = known.first().and_then(|platform| platform.split('/').next()).unwrap_or_default();
    let allowed = |platform: &&String| config.image.allow_linux || platform.split('/').next() == Some(own);
    known.iter().filter(allowed).cloned().collect()
}

/// The need for a linuxulator, if the configuration allows Linux images and the kernel cannot run them.
pub(crate) fn linuxulator(config: &Config, known: &[String]) -> Option<Need> {
    let runs = known.iter().any(|platform| platform.starts_with("linux/"));
    (config.image.allow_linux && !runs).then(|| Need {
        name: "linuxulator".to_owned(),
        found: "not loaded, and image.allow_linux is true".to_owned(),
        required: false,
        remedy: Some("service linux enable; service linux start; service cellblock restart".to_owned()),
    })
}

fn announce(config: &Config, backends: &Backends) {
    let version = env!("CARGO_PKG_VERSION");
    info!(
        backend = backends.runtime.name(),
        rootfs = backends.rootfs,
        "{RUNTIME_NAME} {version} serves {}",
        config.root.display()
    );
    let needs = [backends.runtime.needs(), backends.images.needs(), backends.network.needs()].concat();
    for need in needs.into_iter().chain(linuxulator(config, &backends.runtime.platforms())) {
        if let Some(remedy) = &need.remedy {
            warn!(required = need.required, "{}: {}: {remedy}", need.name, need.found);
        }
    }
}

fn log_to_stderr(config: &Config) -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_new(&config.log_level)
        .with_context(|| format!("log_level: {:?} is not a level or a filter", config.log_level))?;
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    Ok(())
}

/// Raises the soft limit on open files (setrlimit(2)): the usual 1024 last for 200 pods.
fn raise_file_limit() -> anyhow::Result<()> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("cannot read the limit on open files")?;
    let wanted = hard.min(OPEN_FILES);
    if soft < wanted {
        setrlimit(Resource::RLIMIT_NOFILE, wanted, hard).context("cannot raise the limit on open files")?;
    }
    Ok(())
}

/// Returns a future that is ready on SIGTERM or SIGINT.
fn wait_for_stop() -> anyhow::Result<impl Future<Output = ()> + Send + 'static> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

#[cfg(test)]
mod tests {
    use super::{linuxulator, platforms};
    use crate::config::Config;

    #[test]
    fn linux_on_freebsd_is_for_who_allows_it_and_asked_of_a_kernel_without_it() {
        let mut config = Config::default();
        let without = ["freebsd/amd64".to_owned()];
        let both = ["freebsd/amd64".to_owned(), "linux/amd64".to_owned()];
        assert_eq!(platforms(&config, &both), without);
        assert_eq!(linuxulator(&config, &without), None);
        config.image.allow_linux = true;
        assert_eq!(platforms(&config, &both), both);
        assert_eq!(linuxulator(&config, &both), None);
        assert!(linuxulator(&config, &without).is_some_and(|need| !need.holds() && !need.required));
        assert_eq!(linuxulator(&config, &["linux/amd64".to_owned()]), None, "there it is no question");
    }
}
