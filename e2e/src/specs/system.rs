//! What one system answers or spells in another way than the other: the only place where the specs know which one they run on.
//! docs/coverage.md has the reasons.

use anyhow::{Context, Result};

/// One system.
#[derive(Debug)]
pub(super) struct System {
    /// In Rust's words.
    os: &'static str,
    /// Whether a container may see processes outside its pod (pid NODE) or another container's (pid TARGET); refused otherwise.
    pub(super) sees_other_processes: bool,
    /// Whether the containers of a pod see each other's processes unless they ask for processes of their own.
    pub(super) shares_processes_in_a_pod: bool,
    /// Whether a segment of shared memory is found by its key outside the container that made it. Otherwise by its id only, and
    /// the host lists it under its id: FreeBSD's keys are each jail's own (`shm_find_segment_by_key` in kern/sysv_shm.c).
    pub(super) shares_segment_keys: bool,
    /// Whether mounts may be propagated; refused otherwise.
    pub(super) propagates_mounts: bool,
    /// The name of a parameter that every network has for itself, a number; and what prints it.
    pub(super) pods_parameter: (&'static str, &'static str),
    /// Parameters that are the whole machine's.
    pub(super) hosts_parameters: &'static [&'static str],
    /// A capability that no container can have, known or not.
    pub(super) refused_capability: &'static str,
    /// Prints the network interfaces, in words.
    pub(super) interfaces: &'static str,
    /// Takes a pod's jail or network away as an administrator would (POD: the beginning of its id in kernel names).
    lose: &'static str,
    /// Answers requests to a port of 127.0.0.1 (PORT) with a line (LINE), and prints nothing.
    serve: &'static str,
}

/// Digits of an id in a kernel name.
const SHORT_ID: usize = 12;

const SYSTEMS: [System; 2] = [
    System {
        os: "linux",
        sees_other_processes: true,
        shares_processes_in_a_pod: true,
        shares_segment_keys: true,
        propagates_mounts: true,
        pods_parameter: ("net.ipv4.ip_default_ttl", "cat /proc/sys/net/ipv4/ip_default_ttl"),
        hosts_parameters: &["kernel.pid_max", "vm.swappiness"],
        refused_capability: "CAP_FLY",
        interfaces: "ls /sys/class/net",
        lose: "umount $(awk '$2 ~ \"/pods/POD/net$\" {print $2}' /proc/mounts)",
        serve: "mkdir /tmp/www && echo LINE > /tmp/www/index.html && exec httpd -f -p 127.0.0.1:PORT -h /tmp/www",
    },
    System {
        os: "freebsd",
        sees_other_processes: false,
        shares_processes_in_a_pod: false,
        shares_segment_keys: false,
        propagates_mounts: false,
        pods_parameter: ("net.inet.ip.ttl", "sysctl -n net.inet.ip.ttl"),
        hosts_parameters: &["kern.maxproc", "vm.overcommit"],
        refused_capability: "CAP_NET_ADMIN",
        interfaces: "ifconfig -l",
        lose: "jail -R $(jls name | grep 'POD$')",
        serve: "while :; do echo LINE | nc -N -l 127.0.0.1 PORT >/dev/null 2>&1; done",
    },
];

impl System {
    /// The one that this program runs on: the server's socket is on the same machine.
    pub(super) fn here() -> Result<&'static Self> {
        let os = std::env::consts::OS;
        SYSTEMS.iter().find(|system| system.os == os).with_context(|| format!("no specs for {os}"))
    }

    /// A script that takes a pod with this id its jail or network away.
    pub(super) fn lose(&self, pod: &str) -> String {
        self.lose.replace("POD", &pod[..SHORT_ID])
    }

    /// A script that answers every HTTP request to a port of 127.0.0.1, one after the other; the answer ends with a line.
    pub(super) fn serve(&self, line: &str, port: u16) -> String {
        self.serve.replace("LINE", line).replace("PORT", &port.to_string())
    }
}

#[test]
fn this_system_is_known() {
    let system = System::here().unwrap();
    let script = system.serve("hello", 80);
    assert!(script.contains("echo hello ") && script.contains("80") && !script.contains("PORT"), "{script}");
}
