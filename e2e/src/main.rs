//! The real binary on a real kernel, driven by real clients: crictl, critest and specs of our own, with a registry on loopback. `make test` runs
//! `e2e all`; each part, and the stock kubelet, can be run by itself.

mod benches;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Parser, Subcommand};
use e2e::archives;
use e2e::base_images;
use e2e::checks::Checks;
use e2e::client::{Client, socket};
use e2e::critest::{Critest, Ran, STREAMING, Transport, judge, parse};
use e2e::crowd;
use e2e::dns::DOMAIN;
use e2e::grpcio;
use e2e::images::{self, Published};
use e2e::inventory::Inventory;
use e2e::kubernetes;
use e2e::pods;
use e2e::process::tail;
use e2e::pulls;
use e2e::registry::Registry;
use e2e::scenario;
use e2e::server::Site;
use e2e::soak;
use e2e::specs::{self, Ground};
use e2e::tools::{Os, Tools};

#[derive(Parser)]
#[command(about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Everything, and then an inventory, which must equal the one before.
    All(Options),
    /// The life of a pod through crictl.
    Crictl(Options),
    /// critest.
    Critest(Options),
    /// Our own conformance suite.
    Specs(SpecsOptions),
    /// The stock kubelet of Kubernetes: alone with static pods, then in a cluster of one node.
    Kubernetes {
        #[command(flatten)]
        plan: kubernetes::Plan,
        /// Keeps the directory of the run, with its logs.
        #[arg(long)]
        keep: bool,
    },
    /// A cluster of this machine and a FreeBSD machine, which `e2e/freebsd/run.sh cluster` prepares.
    Cluster {
        #[command(flatten)]
        plan: kubernetes::mixed::Plan,
        /// Keeps the directory of the run, with its logs.
        #[arg(long)]
        keep: bool,
    },
    /// Compares what many pods under kubelet cost with a containerd that it starts. Only a release build gives meaningful figures.
    BenchKubelet {
        #[command(flatten)]
        plan: kubernetes::bench::Plan,
    },
    /// Compares exec and port-forward with a containerd that it starts. Only a release build gives meaningful figures.
    BenchStreaming {
        /// The socket (`unix://PATH`) of another, running server with the image busybox.
        #[arg(long)]
        beside: Option<String>,
    },
    /// Times the calls of pods with more and more of them, beside a containerd that it starts. Only a release build gives
    /// meaningful figures.
    BenchPods {
        #[command(flatten)]
        plan: pods::Plan,
        /// Pulls the test images by the hosts.toml files below this directory, and measures Cellblock alone: for FreeBSD.
        #[arg(long, value_name = "DIR")]
        registry_config: Option<PathBuf>,
        /// Puts roots of containers on ZFS, below this dataset.
        #[arg(long, value_name = "DATASET", requires = "registry_config")]
        zfs: Option<String>,
        /// Keeps the directory of the run, with its logs.
        #[arg(long, requires = "registry_config")]
        keep: bool,
    },
    /// Compares pulls with a containerd that it starts. Only a release build gives meaningful figures.
    BenchPull(pulls::Plan),
    /// Pods come and go under faults; then the server is killed under many pods.
    Soak {
        #[command(flatten)]
        plan: soak::Plan,
        /// Pulls the test images by the hosts.toml files below this directory, instead of from a new registry: without outages,
        /// and where docker-registry is missing.
        #[arg(long, value_name = "DIR")]
        registry_config: Option<PathBuf>,
        /// Keeps the directory of the run, with its logs.
        #[arg(long)]
        keep: bool,
    },
    /// `cellblock image` with archives, and a server that is killed in an import. `crictl` has it too.
    Images {
        /// Pulls the test images by the hosts.toml files below this directory.
        #[arg(long, value_name = "DIR")]
        registry_config: PathBuf,
        /// Puts roots of containers on ZFS, below this dataset.
        #[arg(long, value_name = "DATASET")]
        zfs: Option<String>,
        /// Keeps the directory of the run, with its logs.
        #[arg(long)]
        keep: bool,
    },
    /// Pods run on while a server of an older commit is replaced by this one.
    Upgrade {
        #[command(flatten)]
        plan: soak::upgrade::Plan,
        /// Pulls the test images as the files below this directory say, instead of from a registry of its own.
        #[arg(long, value_name = "DIR", requires = "from")]
        registry_config: Option<PathBuf>,
        /// Keeps the directory of the run, with its logs.
        #[arg(long)]
        keep: bool,
    },
    /// Builds crictl and critest into the cache and prints their paths.
    Tools {
        /// For FreeBSD.
        #[arg(long)]
        freebsd: bool,
    },
    /// Runs a registry with the test images until its standard input ends.
    Registry {
        /// The directory of its files.
        dir: PathBuf,
        /// Makes the images for FreeBSD from this base system.
        #[arg(long, value_name = "DIR")]
        base: Option<PathBuf>,
    },
    /// Checks a report of critest on FreeBSD, and prints the failures.
    Judge {
        /// The JUnit report.
        report: PathBuf,
    },
}

#[derive(Args, Default)]
struct Options {
    /// Runs only the specs of critest that match this regular expression.
    #[arg(long)]
    only: Option<String>,
    /// Uses a running server by its socket (`unix://PATH`) instead of starting one: to compare with it.
    #[arg(long)]
    address: Option<String>,
    /// Keeps the directory of the run, with its logs.
    #[arg(long)]
    keep: bool,
}

#[derive(Args)]
struct SpecsOptions {
    #[command(flatten)]
    plan: specs::Plan,
    /// Uses a running server by its socket (`unix://PATH`), which can pull the test images.
    #[arg(long, requires = "dir")]
    address: Option<String>,
    /// The directory of volumes and logs, with an address.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// crictl, with an address.
    #[arg(long, default_value = "crictl")]
    crictl: PathBuf,
    /// Keeps the directory of the run, with its logs.
    #[arg(long)]
    keep: bool,
}

/// The selection of parts.
#[derive(Default)]
struct Parts {
    crictl: bool,
    specs: Option<specs::Plan>,
    critest: bool,
    soak: Option<soak::Plan>,
    upgrade: Option<soak::upgrade::Plan>,
    kubernetes: Option<kubernetes::Plan>,
    cluster: Option<kubernetes::mixed::Plan>,
}

/// The soak of `all`: long enough for dozens of faults, with enough pods to notice a slow recovery.
const SHORT_SOAK: soak::Plan = soak::Plan { seconds: 60, seed: None, pods: 20, hostile: false, zfs: None };

fn main() -> ExitCode {
    match command(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("e2e: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn command(command: Command) -> Result<()> {
    match command {
        Command::BenchStreaming { beside } => benches::streaming(beside.as_deref()),
        Command::BenchPods { plan, registry_config: None, .. } => benches::pods(&plan),
        Command::BenchPods { plan, registry_config: Some(certs), zfs, keep } => {
            without_registry(&certs, zfs.as_deref(), keep, |site, checks| {
                checks.check("calls with many pods", || pods::measure(&plan, site));
            })
        }
        Command::BenchPull(plan) if plan.by_hand => {
            without_registry(Path::new(pulls::by_hand::NO_HOSTS), plan.zfs.as_deref(), plan.keep, |site, checks| {
                checks.check("pulls beside those by hand", || pulls::by_hand::compare(&plan, site));
            })
        }
        Command::BenchPull(plan) => benches::pulls(&plan),
        Command::BenchKubelet { plan } => benches::kubelet(&plan),
        Command::All(options) => {
            let specs = Some(specs::Plan::default());
            let upgrade = Some(soak::upgrade::Plan::default());
            let soak = Some(SHORT_SOAK);
            let all = Parts { crictl: true, specs, critest: true, soak, upgrade, ..Parts::default() };
            run(&all, &options)
        }
        Command::Crictl(options) => run(&Parts { crictl: true, ..Parts::default() }, &options),
        Command::Critest(options) => run(&Parts { critest: true, ..Parts::default() }, &options),
        Command::Specs(options) => run_specs(options),
        Command::Kubernetes { plan, keep } => {
            run(&Parts { kubernetes: Some(plan), ..Parts::default() }, &Options { keep, ..Options::default() })
        }
        Command::Cluster { plan, keep } => {
            run(&Parts { cluster: Some(plan), ..Parts::default() }, &Options { keep, ..Options::default() })
        }
        Command::Soak { plan, registry_config: Some(certs), keep } => {
            without_registry(&certs, plan.zfs.as_deref(), keep, |site, checks| soak_at(site, None, &plan, checks))
        }
        Command::Soak { plan, registry_config: None, keep } => {
            if plan.hostile {
                // There is no network there: what the run needs is built before.
                prepare_tools()?;
                soak::hostile::be_alone()?;
            }
            run(&Parts { soak: Some(plan), ..Parts::default() }, &Options { keep, ..Options::default() })
        }
        Command::Images { registry_config, zfs, keep } => {
            without_registry(&registry_config, zfs.as_deref(), keep, images_at)
        }
        Command::Upgrade { plan, registry_config: Some(certs), keep } => {
            let from = plan.from.context("clap requires it beside the registry's configuration")?;
            without_registry(&certs, plan.zfs.as_deref(), keep, |site, checks| upgrade_at(site, &from, checks))
        }
        Command::Upgrade { plan, registry_config: None, keep } => {
            run(&Parts { upgrade: Some(plan), ..Parts::default() }, &Options { keep, ..Options::default() })
        }
        Command::Tools { freebsd } => {
            let (os, image) = match freebsd {
                true => (Os::Freebsd, images::by_digest("freebsd")?),
                false => (Os::Linux, images::by_digest("")?),
            };
            let tools = Tools::open_for(os)?;
            println!("{}", tools.crictl()?.display());
            println!("{}", tools.critest(&image.manifest.digest)?.display());
            Ok(())
        }
        Command::Registry { dir, base } => serve_registry(dir, base.as_deref()),
        Command::Judge { report } => judge_report(&report),
    }
}

/// Makes what a run without a network needs.
fn prepare_tools() -> Result<()> {
    let tools = Tools::open()?;
    tools.crictl()?;
    images::all(&tools)?;
    Ok(())
}

/// Serves the test images until its standard input ends.
fn serve_registry(dir: PathBuf, base: Option<&Path>) -> Result<()> {
    let tools = Tools::open()?;
    let images = match base {
        Some(base) => {
            let mut images = base_images::all(base)?;
            images.push(images::linux_shell(&tools)?);
            images
        }
        None => images::all(&tools)?,
    };
    let registry = registry(&std::path::absolute(dir)?, &images)?;
    println!("registry on {}; --registry-config {}", registry.address(), registry.certs().display());
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    registry.stop()
}

/// Compares critest's report with what is expected on FreeBSD.
fn judge_report(report: &Path) -> Result<()> {
    let report = std::fs::read_to_string(report).with_context(|| format!("no report {}", report.display()))?;
    let specs = parse(&report);
    let passed = specs.iter().filter(|spec| spec.status == "passed").count();
    println!("critest: {passed} of {} specs passed", specs.len());
    let others: Vec<_> = specs.iter().filter(|spec| spec.status != "passed").collect();
    others.iter().for_each(|spec| println!("  {}: {}: {}", spec.status, spec.name, spec.message));
    let wrong = judge(&specs, Ran::Freebsd)?;
    ensure!(wrong.is_empty(), "{} specs are not as expected:\n  {}", wrong.len(), wrong.join("\n  "));
    Ok(())
}

fn registry(dir: &Path, images: &[Published]) -> Result<Registry> {
    let registry = Registry::start(dir)?;
    registry.publish(images).context("cannot publish the test images")?;
    Ok(registry)
}

/// Runs the parts on new servers, in a directory that is removed at the end unless something failed.
fn run(parts: &Parts, options: &Options) -> Result<()> {
    let tools = Tools::open()?;
    let dir = run_directory()?;
    let mut all = images::all(&tools)?;
    if parts.kubernetes.is_some() {
        all.extend(kubernetes::images(&tools)?);
    }
    let mut registry = registry(&dir.path().join("registry"), &all)?;
    let site = Site::new(&dir.path().join("site"), registry.certs(), tools.crictl()?)?;
    let mut checks = Checks::default();
    if let Some(address) = &options.address {
        let site = site.at(address);
        if parts.crictl {
            scenario::run(&site, &mut checks)?;
        }
        if let Some(plan) = &parts.specs {
            specs_of(&site, plan, &mut checks)?;
        }
        if parts.critest {
            run_critest(&site, &tools, options, &mut checks);
        }
        registry.stop()?;
        return checks.finish();
    }
    if parts.crictl || parts.specs.is_some() || parts.critest {
        clients(&site, &tools, (parts, options), &mut checks)?;
    }
    if let Some(plan) = &parts.kubernetes {
        kubernetes::run(&site, &tools, plan, &mut checks)?;
    }
    if let Some(plan) = &parts.cluster {
        kubernetes::mixed::run(&site, &tools, plan, &mut checks)?;
    }
    if let Some(plan) = &parts.soak {
        soak_at(&site, Some(&mut registry), plan, &mut checks);
    }
    if let Some(plan) = &parts.upgrade {
        let from = plan.from.clone().map_or_else(|| soak::upgrade::build(&tools), Ok)?;
        upgrade_at(&site, &from, &mut checks);
    }
    registry.stop()?;
    finish(checks, &site, dir, options.keep)
}

/// Makes the directory of a run. Not in /tmp, which may be a small tmpfs; not in the target directory, whose path may be too long
/// for a socket. Readable by everybody, as the parents of the server's directories usually are: it must not protect them.
fn run_directory() -> Result<tempfile::TempDir> {
    let mode = std::fs::Permissions::from_mode(0o755);
    Ok(tempfile::Builder::new().prefix("cellblock-e2e-").permissions(mode).tempdir_in("/var/tmp")?)
}

fn soak_at(site: &Site, registry: Option<&mut Registry>, plan: &soak::Plan, checks: &mut Checks) {
    if plan.hostile {
        checks.check("a soak under an administrator", || soak::hostile::run(site, plan));
        return;
    }
    checks.check("a soak", || soak::run(site, registry, plan));
    checks.check("a server killed under many pods", || soak::many::run(site, plan.pods));
}

fn images_at(site: &Site, checks: &mut Checks) {
    let server = checks.check("the server starts", || site.serve());
    if let Some(server) = server.and_then(|server| archives::run(site, server, checks)) {
        checks.check("the server stops at SIGTERM", || server.stop());
    }
}

fn upgrade_at(site: &Site, from: &Path, checks: &mut Checks) {
    checks.check("an upgrade under running pods", || soak::upgrade::run(site, from));
}

/// Runs on servers of their own that pull as these files say, with roots on ZFS if a dataset is given.
fn without_registry(certs: &Path, zfs: Option<&str>, keep: bool, part: impl FnOnce(&Site, &mut Checks)) -> Result<()> {
    let dir = run_directory()?;
    let site = Site::new(&dir.path().join("site"), &std::path::absolute(certs)?, PathBuf::from("crictl"))?;
    zfs.iter().try_for_each(|dataset| site.put_roots_on_zfs(dataset))?;
    let mut checks = Checks::default();
    part(&site, &mut checks);
    finish(checks, &site, dir, keep)
}

/// Ends a run: removes its directory unless something failed.
fn finish(checks: Checks, site: &Site, dir: tempfile::TempDir, keep: bool) -> Result<()> {
    let result = checks.finish();
    if result.is_err() {
        println!("the server's log ends:\n{}", tail(&site.dir().join("cellblock.log")));
    }
    if result.is_err() || keep {
        println!("kept: {}", dir.keep().display());
    }
    result
}

/// Runs crictl, the specs and critest on one server.
fn clients(site: &Site, tools: &Tools, (parts, options): (&Parts, &Options), checks: &mut Checks) -> Result<()> {
    site.name_pods(DOMAIN)?;
    site.offer_filters()?;
    let mut before = Inventory::take(site)?;
    let Some(server) = checks.check("the server starts", || site.serve()) else { return Ok(()) };
    let mut running = Some(server);
    before.add_directories(site);
    if parts.crictl {
        scenario::run(site, checks)?;
        grpcio::check(site, tools, checks);
        if let Some(server) = running.take() {
            running = archives::run(site, server, checks);
        }
        if let Some(server) = running.take() {
            running = scenario::restart(site, server, checks)?;
        }
        if let Some(server) = &running {
            crowd::run(site, server.pid(), checks)?;
        }
    }
    if let Some(plan) = parts.specs.as_ref().filter(|_| running.is_some()) {
        specs_of(site, plan, checks)?;
    }
    if parts.critest && running.is_some() {
        run_critest(site, tools, options, checks);
    }
    if let Some(server) = running {
        checks.check("the server stops at SIGTERM", || server.stop());
    }
    checks.check("nothing is left behind", || Inventory::unchanged_since(&before, site));
    Ok(())
}

/// Runs the specs on a site's server.
fn specs_of(site: &Site, plan: &specs::Plan, checks: &mut Checks) -> Result<()> {
    specs_at(&site.address(), &site.dir().join("specs"), site.crictl_program(), plan, checks)
}

/// Runs the specs on the server with this address.
fn specs_at(address: &str, dir: &Path, crictl: &Path, plan: &specs::Plan, checks: &mut Checks) -> Result<()> {
    let socket = &socket(address)?;
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let client = Client::new(tokio.handle(), socket.clone());
    specs::run(&Ground { client: &client, socket, dir, crictl }, plan, checks)
}

fn run_specs(options: SpecsOptions) -> Result<()> {
    let (Some(address), Some(dir)) = (&options.address, &options.dir) else {
        let parts = Parts { specs: Some(options.plan), ..Parts::default() };
        return run(&parts, &Options { keep: options.keep, ..Options::default() });
    };
    let mut checks = Checks::default();
    specs_at(address, &std::path::absolute(dir)?, &options.crictl, &options.plan, &mut checks)?;
    checks.finish()
}

fn run_critest(site: &Site, tools: &Tools, options: &Options, checks: &mut Checks) {
    let only = options.only.as_deref();
    checks.check("critest", || {
        let passed = specs(site, tools, only, Transport::Spdy)?;
        ensure!(passed > 0, "no spec passed");
        Ok(())
    });
    if only.is_none() {
        checks.check("critest's streaming by WebSocket", || {
            let (streaming, all) = STREAMING;
            let passed = specs(site, tools, Some(streaming), Transport::WebSocket)?;
            ensure!(passed == all, "{passed} of {all} specs passed");
            Ok(())
        });
    }
}

/// Runs critest's specs and checks them; returns the number of passed ones.
fn specs(site: &Site, tools: &Tools, only: Option<&str>, transport: Transport) -> Result<usize> {
    let program = tools.critest(&images::by_digest("")?.manifest.digest)?;
    let report = std::path::absolute(format!("artifacts/junit-critest-linux{}.xml", transport.suffix()))?;
    let address = site.address();
    let critest = Critest { program: &program, address: &address, dir: site.dir(), report: &report, only, transport };
    let specs = critest.run()?;
    let passed = specs.iter().filter(|spec| spec.status == "passed").count();
    println!("critest: {passed} of {} specs passed; {}", specs.len(), report.display());
    let wrong = judge(&specs, if only.is_some() { Ran::Selected } else { Ran::All })?;
    if !wrong.is_empty() {
        bail!("{} specs are not as they should be:\n  {}", wrong.len(), wrong.join("\n  "));
    }
    Ok(passed)
}
