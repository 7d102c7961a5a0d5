//! Pods that run on the FreeBSD node for ten minutes: none is restarted or lost, nothing of them is left, and what Cellblock costs
//! meanwhile is printed.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::remote::Remote;
use super::steps::{LONG, running};
use super::{Nodes, PATIENCE};
use crate::wait::until;

/// The pods, of two containers each.
const PODS: usize = 20;
/// How long they run.
const RUN: Duration = Duration::from_secs(600);
/// The processes of Cellblock there, by name.
const PROGRAMS: [&str; 2] = ["cellblock", "cellblock-monitor"];

/// Longer than kubelet's rounds of collecting containers (`ContainerGCPeriod`).
const ROUND: Duration = Duration::from_secs(70);
/// What the machine holds of Cellblock's: jails and their interfaces, mounts, monitors. A spare pod has another name after each use.
const COUNTS: &str =
    "jls -d name | wc -l; ifconfig -l | wc -w; mount -p | wc -l; pgrep -x cellblock-monitor | wc -l; true";

pub(super) fn run(nodes: &mut Nodes<'_, '_, '_>) -> Result<()> {
    let (remote, kubectl) = (nodes.remote, nodes.cluster.kubectl);
    until(LONG, || {
        // Ended pods of earlier steps stay in the cluster, and kubelet keeps their records.
        let left = remote.crictl("pods -q --state ready")?;
        ensure!(left.is_empty(), "pods of earlier steps are left:\n{}", remote.crictl("pods")?);
        Ok(())
    })?;
    let before = steady(remote)?;
    scale(nodes, PODS)?;
    kubectl.wait("deployment/many", &format!("jsonpath={{.status.readyReplicas}}={PODS}"), LONG)?;
    let (then, cpu) = (running(&nodes.cluster)?, cpu_time(remote)?);
    ensure!(then.len() == 2 * PODS, "{} containers run", then.len());
    std::thread::sleep(RUN);
    let (now, used) = (running(&nodes.cluster)?, cpu_time(remote)?);
    for (name, state) in &then {
        ensure!(now.get(name) == Some(state), "{name} was {state:?} and is {:?}", now.get(name));
    }
    println!(
        "{PODS} pods for {} s on FreeBSD: no restart, none lost; CPU time of Cellblock: {:.1} s, of its monitors: {:.1} s",
        RUN.as_secs(),
        used[0] - cpu[0],
        used[1] - cpu[1]
    );
    scale(nodes, 0)?;
    until(LONG + PATIENCE, || {
        let after = counts(remote)?;
        // kubelet may still remove what is left of earlier steps.
        let more = after.iter().zip(&before).any(|(after, before)| after > before);
        ensure!(!more, "jails, interfaces, mounts and monitors were {before:?} and are {after:?}");
        Ok(())
    })
}

/// The counts when kubelet's rounds of a minute find nothing more to remove of earlier steps: it could hide as much that leaks.
fn steady(remote: &Remote) -> Result<Vec<usize>> {
    let mut last = counts(remote)?;
    until(LONG, || {
        std::thread::sleep(ROUND);
        let now = counts(remote)?;
        let is_steady = now == last;
        last.clone_from(&now);
        ensure!(is_steady, "jails, interfaces, mounts and monitors change: {now:?}");
        Ok(now)
    })
}

fn scale(nodes: &Nodes<'_, '_, '_>, pods: usize) -> Result<()> {
    nodes.cluster.kubectl.run(&["scale", "deployment/many", &format!("--replicas={pods}")]).map(drop)
}

fn counts(remote: &Remote) -> Result<Vec<usize>> {
    remote.run(COUNTS)?.split_whitespace().map(|count| Ok(count.parse()?)).collect()
}

/// Seconds that the programs and their ended children have used.
fn cpu_time(remote: &Remote) -> Result<[f64; 2]> {
    sum(&remote.run("ps -axS -o time= -o comm=")?)
}

/// Adds up lines of ps(1): minutes, seconds with two digits of fraction, and a name.
fn sum(list: &str) -> Result<[f64; 2]> {
    let mut sums = [0.0; 2];
    for line in list.lines() {
        let mut words = line.split_whitespace();
        let (Some(time), Some(name)) = (words.next(), words.next()) else { continue };
        let Some(program) = PROGRAMS.iter().position(|program| *program == name) else { continue };
        let (minutes, seconds) = time.split_once(':').with_context(|| format!("no time: {line}"))?;
        sums[program] += minutes.parse::<f64>()? * 60.0 + seconds.parse::<f64>()?;
    }
    Ok(sums)
}

#[test]
fn times_are_added_up_by_program() {
    let list = "  0:00.25 cellblock-monitor\n  2:01.50 cellblock\n999:00.00 idle\n  0:00.50 cellblock-monitor\n";
    assert_eq!(sum(list).unwrap(), [121.5, 0.75]);
    assert!(sum("1.5 cellblock").is_err());
}
