//! A soak: concurrent workers make, use and remove pods and containers, while the server is killed and restarted, monitors are
//! killed, clients hang up and the registry is down. At the end nothing may be lost or left behind.

mod calls;
mod chaos;
mod pod;
mod puller;
mod worker;

pub mod hostile;
pub mod many;
pub mod upgrade;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::runtime::Handle;

use crate::client::Client;
use crate::images::{BUSYBOX, HTTPD};
use crate::inventory::Inventory;
use crate::process::{Background, resident_kib};
use crate::random::Random;
use crate::registry::Registry;
use crate::server::Site;
use chaos::Chaos;
use puller::Puller;
use worker::Worker;

/// Concurrent workers: enough that every kind of call meets every other, on two cores.
const WORKERS: u64 = 4;
/// The time-out of anything asynchronous, or delayed by a fault.
const PATIENCE: Duration = Duration::from_secs(60);
/// The interval of polling.
const POLL: Duration = Duration::from_millis(50);
/// The time-out of a server's start.
const START_TIMEOUT: Duration = Duration::from_secs(240);

/// The parameters of a soak.
#[derive(Debug, Clone, clap::Args)]
pub struct Plan {
    /// How long workers make and remove pods.
    #[arg(long, default_value_t = 300)]
    pub seconds: u64,
    /// Repeats the random choices of an earlier run; timing still decides which call meets which fault.
    #[arg(long)]
    pub seed: Option<u64>,
    /// Pods of two containers that run while the server is killed.
    #[arg(long, default_value_t = 110)]
    pub pods: usize,
    /// An administrator does things to the node at random, instead.
    #[arg(long)]
    pub hostile: bool,
    /// Keeps roots on ZFS, below this existing dataset.
    #[arg(long, value_name = "DATASET")]
    pub zfs: Option<String>,
}

/// The results.
#[derive(Debug, Default)]
struct Tally {
    cycles: u64,
    pulls: u64,
    /// For each killed server, the time until the next one served.
    restarts: Vec<Duration>,
    monitors_killed: u64,
    hung_up: u64,
    outages: u64,
    /// Memory of servers, in KiB: the first one before any pod, the largest ever seen, and the last one after all pods.
    memory_kib: [u64; 3],
    /// The differences, in words.
    lost: Vec<String>,
    leaked: Vec<String>,
}

/// The state that workers and faults share.
#[derive(Debug)]
struct Scene<'a> {
    site: &'a Site,
    tokio: Handle,
    deadline: Instant,
    /// Faults have failed: no server will come back, and workers stop.
    broken: AtomicBool,
    /// Counts kills and starts, so that a call can detect them; odd: no server runs.
    server: AtomicU64,
    /// The same for the registry.
    registry: AtomicU64,
    tally: Mutex<Tally>,
}

impl Scene<'_> {
    fn client(&self) -> Client {
        Client::new(&self.tokio, socket(self.site))
    }

    fn goes_on(&self) -> bool {
        Instant::now() < self.deadline && !self.broken.load(Ordering::SeqCst)
    }

    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a kill or a start happened since this count.
fn away_since(count: &AtomicU64, then: u64) -> bool {
    then % 2 == 1 || count.load(Ordering::SeqCst) != then
}

/// The socket of the site's server.
fn socket(site: &Site) -> PathBuf {
    site.state().join("cellblock.sock")
}

/// Starts a server, waits until it serves, and returns the time that it took.
fn start(site: &Site, client: &Client) -> Result<(Background, Duration)> {
    await_served(client, || site.start())
}

/// The same with what starts it.
fn await_served(client: &Client, start_server: impl FnOnce() -> Result<Background>) -> Result<(Background, Duration)> {
    let start = Instant::now();
    let mut server = start_server()?;
    while !client.serves() {
        server.check()?;
        ensure!(start.elapsed() < START_TIMEOUT, "the server does not serve after {START_TIMEOUT:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok((server, start.elapsed()))
}

/// Runs a soak on a site without a server; without a registry there are no outages.
///
/// # Errors
/// Something was lost or left behind, or the soak could not run.
pub fn run(site: &Site, registry: Option<&mut Registry>, plan: &Plan) -> Result<()> {
    let seed = plan.seed.unwrap_or_else(Random::fresh_seed);
    println!("e2e soak --seconds {} --seed {seed}", plan.seconds);
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let mut before = Inventory::take(site)?;
    let scene = Scene {
        site,
        tokio: tokio.handle().clone(),
        deadline: Instant::now() + Duration::from_secs(plan.seconds),
        broken: AtomicBool::new(false),
        server: AtomicU64::new(0),
        registry: AtomicU64::new(0),
        tally: Mutex::default(),
    };
    let client = scene.client();
    let (server, _) = start(site, &client)?;
    before.add_directories(site);
    for image in [BUSYBOX, HTTPD] {
        client.pull(image).with_context(|| format!("cannot pull {image}"))?;
    }
    scene.tally().memory_kib = [resident_kib(server.pid())?; 3];
    let (server, broken) = soak(&scene, Chaos { server: Some(server), registry, random: Random::new(seed) }, seed);
    let server = match server {
        Some(server) => server,
        None => start(site, &client)?.0,
    };
    remove_pods(&client, &scene);
    scene.tally().memory_kib[2] = resident_kib(server.pid())?;
    server.stop()?;
    scene.tally().leaked = Inventory::left(&before, site)?;
    broken?;
    report(&scene.tally())
}

/// Runs workers and faults; returns the last server, and the error that ended the faults.
fn soak(scene: &Scene<'_>, mut chaos: Chaos<'_>, seed: u64) -> (Option<Background>, Result<()>) {
    let broken = std::thread::scope(|scope| {
        for number in 1..=WORKERS {
            scope.spawn(move || Worker::new(scene, number, Random::new(seed.wrapping_add(number))).run());
        }
        scope.spawn(|| Puller::new(scene).run());
        let broken = chaos.run(scene);
        scene.broken.store(broken.is_err(), Ordering::SeqCst);
        broken
    });
    (chaos.server, broken)
}

/// Removes the pods that failed workers left: their failures are reported already.
fn remove_pods(client: &Client, scene: &Scene<'_>) {
    for pod in client.pods().unwrap_or_default() {
        if let Err(status) = client.remove_pod(&pod) {
            scene.tally().lost.push(format!("RemovePodSandbox of {pod} at the end: {status}"));
        }
    }
    match client.pods() {
        Ok(left) if left.is_empty() => {}
        Ok(left) => scene.tally().lost.push(format!("pods are there after they were removed: {left:?}")),
        Err(error) => scene.tally().lost.push(format!("{error:#}")),
    }
}

fn report(tally: &Tally) -> Result<()> {
    tally.lost.iter().for_each(|line| println!("lost: {line}"));
    tally.leaked.iter().for_each(|line| println!("leaked: {line}"));
    let mut restarts = tally.restarts.clone();
    restarts.sort_unstable();
    let seconds = |at: usize| restarts.get(at).copied().unwrap_or_default().as_secs_f32();
    let faults = restarts.len() as u64 + tally.monitors_killed + tally.hung_up + tally.outages;
    println!("cycles: {} (a pod with its containers, made, used and removed), {} pulls", tally.cycles, tally.pulls);
    println!(
        "faults survived: {faults} ({} kills of the server, {} of monitors, {} clients that hung up, {} outages of the registry)",
        restarts.len(),
        tally.monitors_killed,
        tally.hung_up,
        tally.outages
    );
    println!(
        "from the start of a server until it served: {:.2} s in the middle, {:.2} s at most",
        seconds(restarts.len() / 2),
        seconds(restarts.len().saturating_sub(1))
    );
    println!("lost objects: {}", tally.lost.len());
    println!("leaked objects: {}", tally.leaked.len());
    let [first, most, last] = tally.memory_kib.map(|kib| kib / 1024);
    let most = most.max(last);
    println!("memory of the server: {first} MiB at the start, {most} MiB at most, {last} MiB at the end");
    ensure!(tally.lost.is_empty() && tally.leaked.is_empty(), "something was lost or leaked");
    ensure!(tally.cycles > 0 && faults > 0, "nothing happened: a longer soak is needed");
    Ok(())
}
