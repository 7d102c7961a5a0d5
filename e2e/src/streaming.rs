//! Compares the throughput and latency of exec and port-forward with another server on the same machine. Rounds alternate between
//! the servers, so that other load affects both.

use std::io::Read;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::images::BUSYBOX;
use crate::process::Background;
use crate::pulls::median;
use crate::server::Site;
use crate::wait::until;

/// Bytes of one measurement.
const BYTES: u64 = 512 << 20;
/// Measurements; the median counts.
const ROUNDS: usize = 5;
/// The least ratio of our throughput to the other server's.
const LEAST: f64 = 0.95;
/// The time-out of a listener's start.
const PATIENCE: Duration = Duration::from_secs(15);

/// A server with a container to measure. The pod uses the host's network, for which containerd needs no plug-in.
struct Subject<'a> {
    site: &'a Site,
    pod: String,
    container: String,
    /// The port of its listener; the forwarded port is the next one.
    port: u16,
}

/// The measurements of one server.
#[derive(Default)]
struct Measured {
    /// MiB a second.
    exec: Vec<f64>,
    /// MiB a second.
    forward: Vec<f64>,
    /// Milliseconds.
    first: Vec<f64>,
}

/// Measures both servers, prints the medians and their ratios, and fails if ours is too slow. The other one must have the image.
pub fn compare(ours: &Site, theirs: &Site) -> Result<()> {
    let subjects = [Subject::start(ours, "ours", 18_421)?, Subject::start(theirs, "theirs", 18_431)?];
    let compared = measure(&subjects);
    for subject in &subjects {
        subject.site.run(["rmp", "--force", &subject.pod])?;
    }
    compared
}

fn measure(subjects: &[Subject<'_>; 2]) -> Result<()> {
    let mut measured = [Measured::default(), Measured::default()];
    let forwards = [subjects[0].forward()?, subjects[1].forward()?];
    for _ in 0..ROUNDS {
        for (subject, measured) in subjects.iter().zip(&mut measured) {
            measured.exec.push(subject.exec_throughput()?);
            measured.first.push(subject.first_byte()?);
            measured.forward.push(subject.forward_throughput()?);
        }
    }
    forwards.into_iter().flatten().try_for_each(Background::kill)?;
    let [ours, theirs] = measured;
    let exec = ratio("exec, MiB/s", &ours.exec, &theirs.exec);
    let forward = ratio("port-forward, MiB/s", &ours.forward, &theirs.forward);
    ratio("exec, first byte, ms", &ours.first, &theirs.first);
    ensure!(exec >= LEAST && forward >= LEAST, "a ratio of throughputs is below {LEAST}");
    Ok(())
}

fn ratio(what: &str, ours: &[f64], theirs: &[f64]) -> f64 {
    let (ours, theirs) = (median(ours), median(theirs));
    println!("{what}: {ours:.1}, beside {theirs:.1}: ratio {:.2}", ours / theirs);
    ours / theirs
}

fn per_second(bytes: u64, time: Duration) -> f64 {
    // Exact up to 2^53 bytes.
    bytes as f64 / f64::from(1 << 20) / time.as_secs_f64()
}

impl<'a> Subject<'a> {
    fn start(site: &'a Site, name: &str, port: u16) -> Result<Self> {
        if site.crictl(["inspecti", BUSYBOX]).run().is_err() {
            site.run(["pull", BUSYBOX])?;
        }
        let write = |kind: &str, value: serde_json::Value| -> Result<String> {
            let path = site.dir().join(format!("bench-{name}-{kind}.json"));
            std::fs::write(&path, value.to_string())?;
            path.into_os_string().into_string().ok().context("the site's directory is UTF-8")
        };
        let pod_file = write(
            "pod",
            json!({
                "metadata": {"name": format!("bench-{name}"), "uid": "bench", "namespace": "default"},
                "log_directory": site.dir(),
                "linux": {"security_context": {"namespace_options": {"network": 2}}},
            }),
        )?;
        let container_file = write(
            "container",
            json!({
                "metadata": {"name": "bench"},
                "image": {"image": BUSYBOX},
                "command": ["sleep", "3600"],
                "log_path": "bench.log",
                "linux": {},
            }),
        )?;
        let pod = site.run(["runp", &pod_file])?.trim().to_owned();
        let container = site.run(["create", &pod, &container_file, &pod_file])?.trim().to_owned();
        site.run(["start", &container])?;
        Ok(Self { site, pod, container, port })
    }

    fn exec_throughput(&self) -> Result<f64> {
        let count = format!("count={}", BYTES >> 20);
        let args = ["exec", &self.container, "dd", "if=/dev/zero", "bs=1M", &count];
        let flow = self.site.crictl(args).flow()?;
        ensure!(flow.bytes == BYTES, "{} of {BYTES} bytes arrived", flow.bytes);
        Ok(per_second(BYTES, flow.rest))
    }

    /// Milliseconds until the first byte.
    fn first_byte(&self) -> Result<f64> {
        let flow = self.site.crictl(["exec", &self.container, "echo", "word"]).flow()?;
        Ok(flow.first.as_secs_f64() * 1000.0)
    }

    /// Starts a listener in the pod, which sends all bytes to each client, and a port-forward to it.
    fn forward(&self) -> Result<[Background; 2]> {
        let (port, count) = (self.port.to_string(), format!("count={}", BYTES >> 20));
        let listen = ["exec", &self.container, "nc", "-ll", "-p", &port, "-e", "dd", "if=/dev/zero", "bs=1M", &count];
        let log = self.site.dir().join("bench.out");
        let listener = self.site.crictl(listen).background(&log)?;
        let ports = format!("{}:{port}", self.port + 1);
        let forward = self.site.crictl(["port-forward", &self.pod, &ports]).background(&log)?;
        // The listener first: a port-forward to a closed port ends with its first client.
        for port in [self.port, self.port + 1] {
            let connect = || TcpStream::connect(("127.0.0.1", port)).with_context(|| format!("port {port}"));
            until(PATIENCE, connect)?;
        }
        Ok([forward, listener])
    }

    fn forward_throughput(&self) -> Result<f64> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port + 1))?;
        let (start, mut buffer, mut bytes) = (Instant::now(), vec![0; 1 << 20], 0);
        loop {
            match stream.read(&mut buffer)? {
                0 => break,
                length => bytes += length as u64,
            }
        }
        ensure!(bytes == BYTES, "{bytes} of {BYTES} bytes arrived");
        Ok(per_second(BYTES, start.elapsed()))
    }
}
