//! exec and port-forward under load: much data, many clients, and clients that stop reading. Every byte arrives, and the server's
//! memory returns to its former size.

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::checks::Checks;
use crate::images::BUSYBOX;
use crate::process::resident_kib;
use crate::scenario::Files;
use crate::server::Site;
use crate::wait::{eventually, until};

/// Bytes of the large file.
const BIG: usize = 1 << 30;
/// Bytes of one of its blocks.
const BLOCK: usize = 1 << 20;
/// Concurrent clients.
const CLIENTS: usize = 200;
/// Bytes that each of them sends and gets back: more than any window or pipe.
const EACH: usize = 300_000;
/// Clients that do not read.
const IDLE: usize = 20;
/// Memory that may be left in the server, in KiB.
const LEFT_KIB: u64 = 10 << 10;
/// The time-out of anything; two hundred concurrent starts of crictl are slow.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long clients do not read: enough to fill all buffers up to the container.
const STANDSTILL: Duration = Duration::from_secs(5);
/// The port in the pod that sends the file, and the forwarded port on the host.
const PORTS: (u16, u16) = (9000, 18_413);

/// A running container with the file, and the file's digest.
struct Crowd<'a> {
    site: &'a Site,
    server: u32,
    pod: String,
    container: String,
    digest: String,
}

/// Runs all of it on a running server, whose process is `server`.
///
/// # Errors
/// The run's directory cannot be written to.
pub fn run(site: &Site, server: u32, checks: &mut Checks) -> Result<()> {
    let Some(crowd) = checks.check("a container for a crowd", || Crowd::start(site, server)) else { return Ok(()) };
    checks.check("1 GiB through exec", || crowd.exec_big());
    checks.check("1 GiB through port-forward", || crowd.forward_big());
    checks.check("200 execs at once leave no memory behind", || crowd.remembers_nothing(|| crowd.many()));
    checks.check("clients that do not read take no memory", || crowd.remembers_nothing(|| crowd.unread()));
    checks.check("the crowd's pod is removed", || {
        site.run(["rmp", "-f", &crowd.pod])?;
        std::fs::remove_dir_all(site.dir().join("crowd"))?;
        site.run(["rmi", BUSYBOX]).map(drop)
    });
    Ok(())
}

impl<'a> Crowd<'a> {
    fn start(site: &'a Site, server: u32) -> Result<Self> {
        let data = site.dir().join("crowd");
        std::fs::create_dir_all(&data)?;
        let digest = write_big(&mut File::create(data.join("big"))?)?;
        site.run(["pull", BUSYBOX])?;
        let files = Files { site };
        let mut pod = files.pod_value("crowd");
        pod["port_mappings"] = json!([]);
        let pod_file = files.write("pod-crowd", &pod)?;
        let mut container = files.container_value("crowd", BUSYBOX, &["sleep", "1000000"]);
        container["mounts"] = json!([{"container_path": "/data", "host_path": data, "readonly": true}]);
        // The page cache of the file counts as the container's memory.
        container["linux"] = json!({});
        let container_file = files.write("container-crowd", &container)?;
        let pod = site.run(["runp", &pod_file])?.trim().to_owned();
        let container = site.run(["create", &pod, &container_file, &pod_file])?.trim().to_owned();
        site.run(["start", &container])?;
        Ok(Self { site, server, pod, container, digest })
    }

    fn exec_big(&self) -> Result<()> {
        let mut hash = Sha256::new();
        let cat = self.site.crictl(["exec", &self.container, "cat", "/data/big"]);
        let flow = cat.flow_into(|bytes| hash.update(bytes))?;
        self.is_whole(flow.bytes, hash)
    }

    fn forward_big(&self) -> Result<()> {
        let (inside, outside) = (PORTS.0.to_string(), PORTS.1.to_string());
        let log = self.site.dir().join("crowd.log");
        let listen = ["exec", &self.container, "nc", "-l", "-p", &inside, "-e", "cat", "/data/big"];
        let listener = self.site.crictl(listen).background(&log)?;
        let there = format!("netstat -tln | grep -q :{inside}");
        until(PATIENCE, || self.site.crictl(["exec", "-s", &self.container, "sh", "-c", &there]).run())?;
        let forward = self.site.crictl(["port-forward", &self.pod, &format!("{outside}:{inside}")]).background(&log)?;
        // The listener serves one client: nothing else may connect.
        let mut stream = until(PATIENCE, || TcpStream::connect(("127.0.0.1", PORTS.1)).context("port-forward"))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let (mut buffer, mut bytes, mut hash) = (vec![0; BLOCK], 0, Sha256::new());
        while let length @ 1.. = stream.read(&mut buffer)? {
            bytes += length as u64;
            hash.update(&buffer[..length]);
        }
        forward.kill()?;
        listener.kill()?;
        self.is_whole(bytes, hash)
    }

    fn is_whole(&self, bytes: u64, hash: Sha256) -> Result<()> {
        let digest = hex::encode(hash.finalize());
        ensure!(bytes == BIG as u64 && digest == self.digest, "{bytes} of {BIG} bytes arrived, sha256 {digest}");
        Ok(())
    }

    /// Runs `what`, and waits until the server's memory is near its former size.
    fn remembers_nothing(&self, what: impl FnOnce() -> Result<()>) -> Result<()> {
        let before = resident_kib(self.server)?;
        what()?;
        let (after, mut now) = (resident_kib(self.server)?, 0);
        let settled = eventually(PATIENCE, "the server's memory", || {
            now = resident_kib(self.server)?;
            Ok((now < before + LEFT_KIB).then_some(()))
        });
        println!("memory of the server: {before} KiB before, {after} KiB at the end, {now} KiB later");
        settled
    }

    fn many(&self) -> Result<()> {
        std::thread::scope(|scope| {
            let clients: Vec<_> = (0..CLIENTS).map(|number| scope.spawn(move || self.echo(number))).collect();
            let ended = clients.into_iter().map(|client| client.join().unwrap_or_else(|_| Err(anyhow!("a panic"))));
            ended.collect::<Vec<Result<()>>>().into_iter().collect()
        })
    }

    fn echo(&self, number: usize) -> Result<()> {
        let word = format!("client {number} says so\n");
        let sent = word.repeat(EACH / word.len());
        let cat = self.site.crictl(["exec", "-i", &self.container, "cat"]);
        let output = cat.timeout(PATIENCE).stdin(sent.clone()).output()?;
        ensure!(output.status.success(), "client {number}: {}: {}", output.status, output.stderr);
        ensure!(output.stdout == sent, "client {number}: {} of {} bytes came back", output.stdout.len(), sent.len());
        Ok(())
    }

    /// Clients that stop reading block their own commands only, which end once the clients are killed.
    fn unread(&self) -> Result<()> {
        let yes = ["exec", &self.container, "yes"];
        let clients: Vec<_> = (0..IDLE).map(|_| self.site.crictl(yes).unread()).collect::<Result<_>>()?;
        let before = resident_kib(self.server)?;
        std::thread::sleep(STANDSTILL);
        let now = resident_kib(self.server)?;
        ensure!(now < before + LEFT_KIB, "{before} KiB became {now} KiB while they stood still");
        ensure!(self.site.run(["exec", &self.container, "echo", "there"])? == "there\n", "nobody else is served");
        drop(clients);
        let gone = ["exec", "-s", &self.container, "sh", "-c", "! pidof yes"];
        until(PATIENCE, || self.site.crictl(gone).run()).map(drop).context("their commands go on")
    }
}

/// Writes a file of distinct blocks and returns its digest.
fn write_big(file: &mut File) -> Result<String> {
    // xorshift64 (Marsaglia): the bytes need only differ.
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut block = Vec::with_capacity(BLOCK);
    while block.len() < BLOCK {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        block.extend_from_slice(&state.to_le_bytes());
    }
    let mut hash = Sha256::new();
    for number in 0..BIG / BLOCK {
        block[..8].copy_from_slice(&(number as u64).to_le_bytes());
        hash.update(&block);
        file.write_all(&block)?;
    }
    Ok(hex::encode(hash.finalize()))
}
