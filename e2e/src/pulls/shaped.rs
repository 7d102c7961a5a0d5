//! A line of 1 Gbit/s with 20 ms of delay, and a socket at its other end for a second registry, in a network namespace of its own.
//! What the kernel cannot shape is said and left out.

#[cfg(target_os = "freebsd")]
#[path = "namespace/freebsd.rs"]
mod namespace;
#[cfg(target_os = "linux")]
#[path = "namespace/linux.rs"]
mod namespace;

use std::fs::File;
use std::net::TcpListener;
use std::path::Path;

use anyhow::{Context, Result, anyhow};

use crate::process::Program;

/// The namespace, and the interfaces at both ends of its line.
const NAMESPACE: &str = "cb-bench-pull";
const ENDS: [&str; 2] = ["cbbp0", "cbbp1"];
/// Addresses that no run of Cellblock has (`Site::network`), nor containerd's bridge.
const ADDRESSES: [&str; 2] = ["10.199.0.1", "10.199.0.2"];

/// The other end of a line.
#[derive(Debug)]
pub struct Line {
    /// What it is like, for the table.
    pub what: String,
}

impl Line {
    /// Lays the line.
    pub fn lay() -> Result<Self> {
        remove();
        let mut line = Self { what: String::new() };
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
        Ok(line)
    }

    /// A socket that listens at the other end: it stays in the namespace of the thread that made it (network_namespaces(7)).
    pub fn listen(&self) -> Result<TcpListener> {
        let made = std::thread::spawn(|| -> Result<TcpListener> {
            namespace::enter(File::open(Path::new("/run/netns").join(NAMESPACE))?)?;
            Ok(TcpListener::bind((ADDRESSES[1], 0))?)
        });
        made.join()
            .map_err(|_| anyhow!("the thread panicked"))?
            .with_context(|| format!("cannot listen in {NAMESPACE}"))
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        remove();
    }
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
