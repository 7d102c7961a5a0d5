//! Pods under the stock kubelet, alone, with static pods: on Cellblock, then on containerd in the same set-up. What each costs beside
//! its containers, how long kubelet waits for its lists, and what is left afterwards.

mod group;
mod metrics;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use self::group::Group;
use self::metrics::Relists;
use super::certificates::Certificates;
use super::kubectl::has;
use super::kubelet::Kubelet;
use super::machine::Machine;
use super::programs::Programs;
use crate::containerd::Containerd;
use crate::images::BUSYBOX;
use crate::inventory::Inventory;
use crate::server::Site;
use crate::tools::Tools;
use crate::wait::until;

/// Containers of a pod.
const CONTAINERS: usize = 2;
/// The time-out until all pods are ready, or gone, on two busy cores.
const PATIENCE: Duration = Duration::from_secs(30 * 60);
/// How long the removal of the last processes may take.
const SETTLE: Duration = Duration::from_secs(30);

/// The pods of a comparison.
#[derive(Debug, Clone, clap::Args)]
pub struct Plan {
    /// Pods, of two containers each; kubelet's usual limit is 110.
    #[arg(long, default_value_t = 110)]
    pub pods: usize,
    /// How long they run.
    #[arg(long, default_value_t = 15 * 60)]
    pub seconds: u64,
}

/// What a runtime costs: its server, and its processes for each pod or container, without the containers.
#[derive(Debug)]
struct Cost {
    ready: Duration,
    processes: usize,
    memory_kib: u64,
    cpu_to_make: Duration,
    cpu_to_run: Duration,
    relists: Relists,
    restarts: u64,
    /// Pods and processes that stay when all pods are removed.
    left: Vec<String>,
}

/// The tools of both runs.
struct Bench<'a> {
    programs: Programs,
    plan: &'a Plan,
}

/// Measures both, at sites whose registries have the images, and prints the costs.
///
/// # Errors
/// A container was restarted, or something is left behind.
pub fn run(site: &Site, other: &Path, certs: &Path, tools: &Tools, plan: &Plan) -> Result<()> {
    let bench = Bench { programs: Programs::build(tools)?, plan };
    let ours = cellblock(&bench, site).context("Cellblock")?;
    let theirs = containerd(&bench, (other, certs), tools).context("containerd")?;
    print(&ours, &theirs);
    for (name, cost) in [("Cellblock", &ours), ("containerd", &theirs)] {
        ensure!(cost.restarts == 0, "{name}: {} containers were restarted", cost.restarts);
        ensure!(cost.left.is_empty(), "{name}: left behind:\n  {}", cost.left.join("\n  "));
    }
    Ok(())
}

fn cellblock(bench: &Bench<'_>, site: &Site) -> Result<Cost> {
    let mut before = Inventory::take(site)?;
    let server = site.serve()?;
    before.add_directories(site);
    let cost = measure(bench, site, server.pid());
    server.stop()?;
    let mut cost = cost?;
    cost.left.extend(Inventory::left(&before, site)?);
    Ok(cost)
}

fn containerd(bench: &Bench<'_>, (dir, certs): (&Path, &Path), tools: &Tools) -> Result<Cost> {
    let peer = Containerd::start(tools, &dir.join("containerd"), certs)?;
    let site = Site::new(&dir.join("site"), certs, tools.crictl()?)?.at(peer.address());
    let cost = measure(bench, &site, peer.pid());
    peer.stop()?;
    cost
}

/// Runs the pods on the server at this site, which has this process id.
fn measure(bench: &Bench<'_>, site: &Site, server: u32) -> Result<Cost> {
    let group = Group::of(&format!("cellblock-{}-bench", site.prefix()), server)?;
    site.run(["pull", BUSYBOX])?;
    let mut machine = Machine::prepare(site)?;
    let certificates = Certificates::create(&site.dir().join("certificates"), &[machine.address()])?;
    let mut kubelet = Kubelet::new(site, &machine, &bench.programs, &certificates, None)?;
    // Not less than the pods; kubelet takes as many to be the most that a node can have.
    kubelet.set("maxPods", bench.plan.pods.max(110).into());
    kubelet.start()?;
    let measured = under(bench.plan, site, &group, &kubelet);
    // kubelet would make the pods again.
    kubelet.stop()?;
    site.run(["rmp", "--all", "--force"])?;
    machine.restore()?;
    let mut cost = measured?;
    cost.left = group.left(SETTLE)?;
    group.leave()?;
    Ok(cost)
}

fn under(plan: &Plan, site: &Site, group: &Group, kubelet: &Kubelet) -> Result<Cost> {
    let (start, cpu) = (Instant::now(), group.cpu()?);
    for number in 0..plan.pods {
        std::fs::write(kubelet.static_pods().join(format!("{number}.yaml")), manifest(number))?;
    }
    until(PATIENCE, || {
        let ready = kubelet.pods()?.iter().filter(|pod| has(pod, "Ready")).count();
        ensure!(ready == plan.pods, "{ready} of {} pods are ready", plan.pods);
        Ok(())
    })?;
    let (ready, made, relists) = (start.elapsed(), group.cpu()?, Relists::read(&kubelet.metrics()?)?);
    std::thread::sleep(Duration::from_secs(plan.seconds));
    let (run, relisted) = (group.cpu()?, Relists::read(&kubelet.metrics()?)?);
    let (processes, memory_kib) = group.memory()?;
    let restarts = kubelet.pods()?.iter().map(restarts).sum();
    for number in 0..plan.pods {
        std::fs::remove_file(kubelet.static_pods().join(format!("{number}.yaml")))?;
    }
    until(PATIENCE, || {
        let left = site.run(["pods", "-q", "--state", "ready"])?;
        ensure!(left.is_empty(), "{} pods are still ready", left.lines().count());
        Ok(())
    })?;
    Ok(Cost {
        ready,
        processes,
        memory_kib,
        cpu_to_make: made - cpu,
        cpu_to_run: run - made,
        relists: relisted.since(&relists),
        restarts,
        left: Vec::new(),
    })
}

fn restarts(pod: &serde_json::Value) -> u64 {
    let statuses = pod["status"]["containerStatuses"].as_array().into_iter().flatten();
    statuses.filter_map(|status| status["restartCount"].as_u64()).sum()
}

/// A pod whose containers use no CPU time of their own.
fn manifest(number: usize) -> String {
    let container = |name: usize| {
        format!(
            "    - {{name: c{name}, image: \"{BUSYBOX}\", imagePullPolicy: Never, command: [sleep, \"1000000\"]}}\n"
        )
    };
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: bench-{number}}}\nspec:\n  terminationGracePeriodSeconds: 1\n  \
         containers:\n{}",
        (0..CONTAINERS).map(container).collect::<String>()
    )
}

fn print(ours: &Cost, theirs: &Cost) {
    println!("{:<44} {:>12} {:>12} {:>8}", "", "Cellblock", "containerd", "ratio");
    let row = |name: &str, of: &dyn Fn(&Cost) -> f64| {
        let (our, their) = (of(ours), of(theirs));
        println!("{name:<44} {our:>12.2} {their:>12.2} {:>8.3}", our / their);
    };
    #[expect(clippy::cast_precision_loss, reason = "for people to read")]
    let number = |value: u64| value as f64;
    row("all pods ready after, s", &|cost| cost.ready.as_secs_f64());
    row("processes beside the containers", &|cost| number(cost.processes as u64));
    row("their memory (shared pages divided), MiB", &|cost| number(cost.memory_kib) / 1024.0);
    row("CPU time until all pods were ready, s", &|cost| cost.cpu_to_make.as_secs_f64());
    row("CPU time while they ran, s", &|cost| cost.cpu_to_run.as_secs_f64());
    for (name, cost) in [("Cellblock", ours), ("containerd", theirs)] {
        println!("{name}: {}; {} restarts, {} left behind", cost.relists, cost.restarts, cost.left.len());
    }
}
