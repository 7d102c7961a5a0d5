//! The registry's files once more, behind a line of 1 Gbit/s with 20 ms of delay: a second registry in a network namespace of its own.
//! What the kernel cannot shape is said and left out.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::process::{Background, Program};

/// The namespace, and the interfaces at both ends of its line.
const NAMESPACE: &str = "cb-bench-pull";
const ENDS: [&str; 2] = ["cbbp0", "cbbp1"];
/// Addresses that no run of Cellblock has (`Site::network`), nor containerd's bridge.
const ADDRESSES: [&str; 2] = ["10.199.0.1", "10.199.0.2"];
const PORT: u16 = 5000;
/// The time-out of the registry's start.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A line with a registry at its end.
#[derive(Debug)]
pub struct Line {
    registry: Option<Background>,
    /// What it is like, for the table.
    pub what: String,
}

impl Line {
    /// Lays the line, and starts a registry that serves these files.
    pub fn start(dir: &Path, storage: &Path) -> Result<Self> {
        remove();
        let mut line = Self { registry: None, what: String::new() };
        let ends = ADDRESSES.map(|address| format!("{address}/30"));
        ip(&["netns", "add", NAMESPACE])?;
        ip(&["link", "add", ENDS[0], "type", "veth", "peer", "name", ENDS[1], "netns", NAMESPACE])?;
        ip(&["address", "add", &ends[0], "dev", ENDS[0]])?;
        ip(&["link", "set", ENDS[0], "up"])?;
        inside("ip", &["address", "add", &ends[1], "dev", ENDS[1]])?;
        inside("ip", &["link", "set", ENDS[1], "up"])?;
        inside("ip", &["link", "set", "lo", "up"])?;
        let rate =
            ["qdisc", "add", "dev", ENDS[1], "root", "tbf", "rate", "1gbit", "burst", "256kb", "latency", "100ms"];
        inside("tc", &rate).context("this kernel has no tbf (CONFIG_NET_SCH_TBF)")?;
        // On the way there only: the round trip has the whole delay, and the rate's queue none of it.
        let delayed = Program::new("tc", ["qdisc", "add", "dev", ENDS[0], "root", "netem", "delay", "20ms"]).run();
        line.what = match &delayed {
            Ok(_) => "1 Gbit/s, 20 ms".to_owned(),
            Err(_) => "1 Gbit/s, no delay: this kernel has no netem (CONFIG_NET_SCH_NETEM)".to_owned(),
        };
        line.registry = Some(registry(dir, storage)?);
        Ok(line)
    }

    /// The registry's address.
    pub fn address() -> String {
        format!("{}:{PORT}", ADDRESSES[1])
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.registry = None;
        remove();
    }
}

fn registry(dir: &Path, storage: &Path) -> Result<Background> {
    let config = dir.join("shaped.yml");
    std::fs::write(
        &config,
        format!(
            "version: 0.1\nlog: {{level: warn}}\nstorage:\n  filesystem: {{rootdirectory: {storage:?}}}\nhttp:\n  addr: {}\n",
            Line::address()
        ),
    )?;
    let serve = ["netns".as_ref(), "exec".as_ref(), NAMESPACE.as_ref(), "docker-registry".as_ref(), "serve".as_ref()];
    let args = serve.into_iter().chain([config.as_os_str()]);
    let mut registry = Program::new("ip", args).background(&dir.join("shaped.log"))?;
    registry.until(TIMEOUT, || std::net::TcpStream::connect((ADDRESSES[1], PORT)).is_ok())?;
    Ok(registry)
}

fn ip(args: &[&str]) -> Result<()> {
    Program::new("ip", args).run().map(drop)
}

/// Runs a program in the namespace.
fn inside(program: &str, args: &[&str]) -> Result<()> {
    ip(&[&["netns", "exec", NAMESPACE, program][..], args].concat())
}

/// Removes what a run has left. The interfaces go with the namespace.
fn remove() {
    let _ = Program::new("ip", ["netns", "delete", NAMESPACE]).output();
    let _ = Program::new("ip", ["link", "delete", ENDS[0]]).output();
}
