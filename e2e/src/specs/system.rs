//! The differences between the systems, for all specs. docs/coverage.md has the reasons.

use anyhow::{Context, Result};

#[derive(Debug)]
pub(super) struct System {
    /// As in `std::env::consts::OS`.
    pub(super) os: &'static str,
    /// Whether a container may see processes outside its pod (pid NODE) or another container's (pid TARGET); refused otherwise.
    pub(super) sees_other_processes: bool,
    /// Whether the containers of a pod see each other's processes by default.
    pub(super) shares_processes_in_a_pod: bool,
    /// Whether other containers find a shared memory segment by its key. Otherwise they and the host find it by its id: FreeBSD's
    /// keys belong to a jail (`shm_find_segment_by_key` in kern/sysv_shm.c).
    pub(super) shares_segment_keys: bool,
    /// Whether a container sees what is mounted on the host later; otherwise it sees what was there when it was made.
    pub(super) propagates_mounts: bool,
    /// A numeric kernel parameter of each network, and the command that prints it.
    pub(super) pods_parameter: (&'static str, &'static str),
    /// Kernel parameters with which ping needs a raw socket: by default Linux has another way for every user (icmp(7)).
    pub(super) raw_ping: &'static [(&'static str, &'static str)],
    /// Kernel parameters of the whole machine.
    pub(super) hosts_parameters: &'static [&'static str],
    /// A capability that no container can have, known or not.
    pub(super) refused_capability: &'static str,
    /// Prints the names of network interfaces.
    pub(super) interfaces: &'static str,
    /// Removes a pod's jail or network like an administrator (POD: the short id in kernel names).
    lose: &'static str,
    /// Serves a line (LINE) on a port of 127.0.0.1 (PORT), and prints nothing.
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
        raw_ping: &[("net.ipv4.ping_group_range", "1 0")],
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
        raw_ping: &[],
        hosts_parameters: &["kern.maxproc", "vm.overcommit"],
        refused_capability: "CAP_NET_ADMIN",
        interfaces: "ifconfig -l",
        lose: "jail -R $(jls name | grep 'POD$')",
        serve: "while :; do echo LINE | nc -N -l 127.0.0.1 PORT >/dev/null 2>&1; done",
    },
];

impl System {
    /// The system of this machine, which is also the server's.
    pub(super) fn here() -> Result<&'static Self> {
        let os = std::env::consts::OS;
        SYSTEMS.iter().find(|system| system.os == os).with_context(|| format!("no specs for {os}"))
    }

    /// The script that removes the jail or network of this pod.
    pub(super) fn lose(&self, pod: &str) -> String {
        self.lose.replace("POD", &pod[..SHORT_ID])
    }

    /// The script that serves HTTP on a port of 127.0.0.1, one request at a time; the response ends with `line`.
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
