//! What pods cost beside containerd, and how that grows with the pods that the node has: each call is timed with none, and then with
//! more and more pods of two containers, first on Cellblock and then on containerd, so that neither has the other's pods around it.
//! What runc and the kernel take for the same is timed without a server, among Cellblock's pods. Where there is no containerd (FreeBSD),
//! Cellblock is measured alone.

#[cfg(target_os = "freebsd")]
#[path = "pods/freebsd.rs"]
mod bare;
#[cfg(target_os = "linux")]
#[path = "pods/linux.rs"]
mod bare;

use std::fmt::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use proto::v1::*;

use self::bare::Bare;
use crate::client::{Client, socket};
use crate::containerd::Containerd;
use crate::images::BUSYBOX;
use crate::kubernetes::machine::remove_cgroups;
use crate::pulls::median;
use crate::server::Site;
use crate::tools::Tools;

/// The calls, in the order of a round's times.
const CALLS: [&str; 9] = [
    "ListContainerStats",
    "ListPodSandboxStats",
    "Status",
    "RunPodSandbox",
    "from scratch",
    "ExecSync",
    "RemoveContainer",
    "StopPodSandbox",
    "RemovePodSandbox",
];
/// Those that read something of every container: their times should lie on a line.
const LISTINGS: usize = 2;
/// The first calls, which only read.
const READING: usize = 3;
/// How many times as often as the others they are made: they are short, and vary most.
const READING_ROUNDS: usize = 3;
/// The containers of a pod.
const CONTAINERS: [&str; 2] = ["a", "b"];
/// How long the idle server's processor time is watched.
const IDLE: Duration = Duration::from_secs(20);

/// The plan of a run.
#[derive(Debug, Clone, clap::Args)]
pub struct Plan {
    /// The numbers of pods at which the calls are timed, in rising order.
    #[arg(long, value_delimiter = ',', default_values_t = [0, 100, 200, 400])]
    pub pods: Vec<usize>,
    /// How often each call is timed; the median counts.
    #[arg(long, default_value_t = 7)]
    pub rounds: usize,
}

/// A server whose calls are timed.
struct Subject<'a> {
    name: &'static str,
    client: Client,
    pid: u32,
    /// For the pods' logs.
    dir: &'a Path,
    /// The cgroup of its pods, as a kubelet gives it: without one containerd has no statistics of pods.
    group: &'a str,
}

/// A row of the result: the medians at each number of pods, in milliseconds.
struct Row {
    call: &'static str,
    server: &'static str,
    times: Vec<f64>,
    is_listing: bool,
}

/// What is measured of one server.
struct Rows {
    calls: Vec<Row>,
    alone: Vec<Row>,
    idle: Row,
}

impl Rows {
    fn of(server: &'static str) -> Self {
        let row = |call, server, is_listing| Row { call, server, times: Vec::new(), is_listing };
        Self {
            calls: CALLS.iter().enumerate().map(|(at, call)| row(call, server, at < LISTINGS)).collect(),
            alone: bare::CALLS.iter().map(|call| row(call, "", false)).collect(),
            idle: row("idle, ms of CPU a second", server, false),
        }
    }

    fn measured(self) -> impl Iterator<Item = Row> {
        self.calls.into_iter().chain([self.idle]).chain(self.alone).filter(|row| !row.times.is_empty())
    }
}

/// Times the calls of Cellblock, of runc and the kernel alone, and of a new containerd, and prints the medians.
pub fn compare(plan: &Plan, tools: &Tools, site: &Site, certs: &Path) -> Result<()> {
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let group = &*group(site);
    let (mut rows, measured) = ours(plan, Some(tools), site, &tokio)?;
    if measured.is_err() {
        print(plan, rows);
        return measured;
    }
    let peer = Containerd::start(tools, &site.dir().join("containerd"), certs)?;
    let client = Client::new(tokio.handle(), socket(peer.address())?);
    let theirs = Subject { name: "containerd", client, pid: peer.pid(), dir: site.dir(), group };
    let measured = theirs.measure(plan, None, &mut rows);
    // What was measured is worth reading also where the peer fails, or leaves pods behind.
    print(plan, rows);
    peer.stop()?;
    measured?;
    remove_cgroups(group)
}

/// Times the calls of Cellblock, and of the kernel alone, and prints the medians.
pub fn measure(plan: &Plan, site: &Site) -> Result<()> {
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let (rows, measured) = ours(plan, None, site, &tokio)?;
    // What was measured is worth reading also where the server fails later.
    print(plan, rows);
    measured
}

/// The rows of Cellblock, and whether all was measured and removed.
fn ours(
    plan: &Plan,
    tools: Option<&Tools>,
    site: &Site,
    tokio: &tokio::runtime::Runtime,
) -> Result<(Vec<Row>, Result<()>)> {
    ensure!(plan.rounds > 0 && plan.pods.is_sorted() && !plan.pods.is_empty(), "numbers of pods rise: {:?}", plan.pods);
    let bare = Bare::make(tools, &site.dir().join("bare"))?;
    let server = site.serve()?;
    let client = Client::new(tokio.handle(), socket(&site.address())?);
    let subject = Subject { name: "Cellblock", client, pid: server.pid(), dir: site.dir(), group: &group(site) };
    let mut rows = Vec::new();
    let measured = subject.measure(plan, bare.as_ref(), &mut rows);
    Ok((rows, measured.and(server.stop())))
}

fn group(site: &Site) -> String {
    format!("cellblock-{}-pods", site.prefix())
}

impl Subject<'_> {
    /// Times the calls at each number of pods. Adds what was measured and removes the pods, also after a failure.
    fn measure(&self, plan: &Plan, bare: Option<&Bare>, all: &mut Vec<Row>) -> Result<()> {
        let mut rows = Rows::of(self.name);
        let measured = self.measure_all(plan, bare, &mut rows);
        all.extend(rows.measured());
        let removed = self.client.pods()?.iter().try_for_each(|id| self.client.remove_pod(id));
        removed.context("cannot remove the pods of the benchmark")?;
        measured
    }

    fn measure_all(&self, plan: &Plan, bare: Option<&Bare>, rows: &mut Rows) -> Result<()> {
        self.client.pull(BUSYBOX)?;
        for (step, count) in plan.pods.iter().enumerate() {
            for number in self.client.pods()?.len()..*count {
                let (pod, config, _) = self.run_pod(&format!("full-{number}"))?;
                CONTAINERS.iter().try_for_each(|name| self.start(&pod, &config, name).map(drop))?;
            }
            println!("{} with {count} pods", self.name);
            rows.idle.times.push(self.idle()?);
            let (reading, changing) = rows.calls.split_at_mut(READING);
            // Before anything changes: on FreeBSD a removal is followed by a new spare.
            let rounds = (0..plan.rounds * READING_ROUNDS).map(|_| self.read());
            push_medians(reading, &rounds.collect::<Result<Vec<_>>>()?);
            let rounds = (0..plan.rounds).map(|round| self.round(&format!("round-{step}-{round}")));
            push_medians(changing, &rounds.collect::<Result<Vec<_>>>()?);
            if let Some(bare) = bare {
                let rounds = (0..plan.rounds).map(|_| bare.round()).collect::<Result<Vec<_>>>()?;
                push_medians(&mut rows.alone, &rounds);
            }
        }
        Ok(())
    }

    /// Times each call that only reads.
    fn read(&self) -> Result<[f64; READING]> {
        let client = &self.client;
        let containers = ListContainerStatsRequest::default();
        let (_, containers) = timed(|| client.call(client.runtime().list_container_stats(containers)))?;
        let pods = ListPodSandboxStatsRequest::default();
        let (_, pods) = timed(|| client.call(client.runtime().list_pod_sandbox_stats(pods)))?;
        let (_, status) = timed(|| client.call(client.runtime().status(StatusRequest::default())))?;
        Ok([containers, pods, status])
    }

    /// Times each other call once, on a pod that comes and goes.
    fn round(&self, name: &str) -> Result<[f64; CALLS.len() - READING]> {
        let client = &self.client;
        let begun = Instant::now();
        let (pod, config, run) = self.run_pod(name)?;
        let first = self.start(&pod, &config, CONTAINERS[0])?;
        let scratch = milliseconds(begun);
        self.start(&pod, &config, CONTAINERS[1])?;
        let exec = ExecSyncRequest { container_id: first.clone(), cmd: vec!["true".to_owned()], timeout: 60 };
        let (answer, exec) = timed(|| client.call(client.runtime().exec_sync(exec)))?;
        ensure!(answer.into_inner().exit_code == 0, "true failed");
        let stop = StopContainerRequest { container_id: first.clone(), timeout: 0 };
        client.call(client.runtime().stop_container(stop))?;
        let remove = RemoveContainerRequest { container_id: first };
        let (_, remove) = timed(|| client.call(client.runtime().remove_container(remove)))?;
        // The other container runs.
        let stop = StopPodSandboxRequest { pod_sandbox_id: pod.clone() };
        let (_, stop) = timed(|| client.call(client.runtime().stop_pod_sandbox(stop)))?;
        let ((), gone) = timed(|| client.remove_pod(&pod))?;
        Ok([run, scratch, exec, remove, stop, gone])
    }

    /// Runs a pod with a network of its own; its id, its configuration, and the time of the call.
    fn run_pod(&self, name: &str) -> Result<(String, PodSandboxConfig, f64)> {
        let config = PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: name.to_owned(),
                uid: name.to_owned(),
                namespace: "bench".to_owned(),
                attempt: 0,
            }),
            log_directory: self.dir.join("logs").display().to_string(),
            linux: Some(LinuxPodSandboxConfig {
                cgroup_parent: format!("/{}", self.group),
                ..LinuxPodSandboxConfig::default()
            }),
            ..PodSandboxConfig::default()
        };
        let request = RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: String::new() };
        let (answer, time) = timed(|| self.client.call(self.client.runtime().run_pod_sandbox(request)))?;
        Ok((answer.into_inner().pod_sandbox_id, config, time))
    }

    /// Creates and starts a container of a pod.
    fn start(&self, pod: &str, sandbox: &PodSandboxConfig, name: &str) -> Result<String> {
        let config = ContainerConfig {
            metadata: Some(ContainerMetadata { name: name.to_owned(), attempt: 0 }),
            image: Some(ImageSpec { image: BUSYBOX.to_owned(), ..ImageSpec::default() }),
            command: ["sleep", "1000000"].map(str::to_owned).to_vec(),
            log_path: format!("{pod}-{name}.log"),
            linux: Some(LinuxContainerConfig::default()),
            ..ContainerConfig::default()
        };
        let request = CreateContainerRequest {
            pod_sandbox_id: pod.to_owned(),
            config: Some(config),
            sandbox_config: Some(sandbox.clone()),
        };
        let made = self.client.call(self.client.runtime().create_container(request))?.into_inner().container_id;
        let request = StartContainerRequest { container_id: made.clone() };
        self.client.call(self.client.runtime().start_container(request))?;
        Ok(made)
    }

    /// The processor time that the server takes while nobody asks anything, in milliseconds a second.
    fn idle(&self) -> Result<f64> {
        let (before, begun) = (bare::cpu_time(self.pid)?, Instant::now());
        std::thread::sleep(IDLE);
        Ok((bare::cpu_time(self.pid)? - before) * 1000.0 / begun.elapsed().as_secs_f64())
    }
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1000.0
}

fn timed<T, E>(call: impl FnOnce() -> Result<T, E>) -> Result<(T, f64), E> {
    let begun = Instant::now();
    call().map(|answer| (answer, milliseconds(begun)))
}

/// Adds the median of each column of the rounds to its row.
fn push_medians<const N: usize>(rows: &mut [Row], rounds: &[[f64; N]]) {
    for (at, row) in rows.iter_mut().enumerate() {
        row.times.push(median(&rounds.iter().map(|round| round[at]).collect::<Vec<_>>()));
    }
}

fn print(plan: &Plan, mut rows: Vec<Row>) {
    let order = |row: &Row| CALLS.iter().position(|call| *call == row.call).unwrap_or(CALLS.len());
    rows.sort_by_key(order);
    let line = |call: &str, server: &str, columns: &[String], last: &str| {
        let mut text = format!("{call:<28}{server:<12}");
        for column in columns {
            let _ = write!(text, "{column:>10}");
        }
        println!("{text}  {last}");
    };
    println!("milliseconds, medians of {}", plan.rounds);
    let counts: Vec<String> = plan.pods.iter().map(|count| format!("{count} pods")).collect();
    line("", "", &counts, "growth");
    for row in rows {
        let columns: Vec<String> = row.times.iter().map(|time| format!("{time:.2}")).collect();
        let last = match row.is_listing {
            true => format!("R² {:.3}", linearity(&plan.pods[..row.times.len()], &row.times)),
            false => format!("{:.2}", row.times[row.times.len() - 1] / row.times[0]),
        };
        line(row.call, row.server, &columns, &last);
    }
}

/// The square of the correlation of times and counts: 1 on a line.
fn linearity(counts: &[usize], times: &[f64]) -> f64 {
    // Exact up to 2^53 pods.
    let counts: Vec<f64> = counts.iter().map(|count| *count as f64).collect();
    let mean = |of: &[f64]| of.iter().sum::<f64>() / of.len() as f64;
    let (x, y) = (mean(&counts), mean(times));
    let sum =
        |of: fn(f64, f64) -> f64| counts.iter().zip(times).map(|(count, time)| of(count - x, time - y)).sum::<f64>();
    sum(|x, y| x * y).powi(2) / (sum(|x, _| x * x) * sum(|_, y| y * y))
}

#[cfg(test)]
mod tests {
    use super::{linearity, timed};

    #[test]
    fn a_line_is_told_from_a_square() {
        assert!(linearity(&[0, 100, 200, 400], &[1.0, 11.0, 21.0, 41.0]) > 0.999);
        assert!(linearity(&[0, 100, 200, 400], &[0.0, 1.0, 4.0, 16.0]) < 0.98);
        assert!(timed(|| Ok::<_, ()>(1)).is_ok_and(|(value, time)| value == 1 && time >= 0.0));
    }
}
