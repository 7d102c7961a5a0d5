//! A soak: workers make, use and remove pods and containers at the same time, while the server is killed and started again,
//! monitors are killed, clients hang up and the registry goes away. At the end nothing that should be there may be lost, and
//! nothing that should be gone may be left.

mod calls;
mod chaos;
mod pod;
mod puller;
mod worker;

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

/// Workers that make pods at the same time: enough that every kind of call meets every other, on two cores.
const WORKERS: u64 = 4;
/// How long anything may take that goes on by itself, or that a fault delays.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often what goes on by itself is looked at.
const POLL: Duration = Duration::from_millis(50);
/// How long a server that was started may take until it serves.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// How long, and with which choices.
#[derive(Debug, Clone, clap::Args)]
pub struct Plan {
    /// How long pods are made and removed.
    #[arg(long, default_value_t = 300)]
    pub seconds: u64,
    /// Makes the same choices as a run before; which call meets which fault is up to the machine all the same.
    #[arg(long)]
    pub seed: Option<u64>,
    /// As many pods of two containers run when the server is killed under all of them.
    #[arg(long, default_value_t = 110)]
    pub pods: usize,
    /// Roots are on ZFS, below this dataset, which is there.
    #[arg(long, value_name = "DATASET")]
    pub zfs: Option<String>,
}

/// What happened.
#[derive(Debug, Default)]
struct Tally {
    cycles: u64,
    pulls: u64,
    /// Each is a server that was killed, with the time until the next one served.
    restarts: Vec<Duration>,
    monitors_killed: u64,
    hung_up: u64,
    outages: u64,
    /// Memory of servers, in KiB: the first one before any pod, the largest ever seen, and the last one after all pods.
    memory_kib: [u64; 3],
    /// What was not as it should be, in words.
    lost: Vec<String>,
    leaked: Vec<String>,
}

/// What the workers share with what makes faults.
#[derive(Debug)]
struct Scene<'a> {
    site: &'a Site,
    tokio: Handle,
    deadline: Instant,
    /// The faults cannot be made any more: the workers would wait for a server that does not come.
    broken: AtomicBool,
    /// Odd: no server is there; it grows with each kill and each start, so that a call knows whether it met one.
    server: AtomicU64,
    /// The same of the registry.
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

/// Whether what is counted here went away, or came, since it had this count.
fn away_since(count: &AtomicU64, then: u64) -> bool {
    then % 2 == 1 || count.load(Ordering::SeqCst) != then
}

/// Where the site's server listens.
fn socket(site: &Site) -> PathBuf {
    site.state().join("cellblock.sock")
}

/// Starts a server and returns when it serves, with the time that it took.
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

/// Runs a soak on a site that has no server now; without a registry to stop there are no outages of it.
///
/// # Errors
/// Something was lost or is left, or the soak could not be made.
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

/// The soak itself; the server that is there at its end, and what kept the faults from being made.
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

/// Workers remove what they make; what they gave up is removed here, since it is told already.
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
