//! Limits, devices, and the end of everything that a container started.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

use runtime::spec::{ContainerSpec, Device, ExecSpec, Resources};
use runtime::{ContainerState, Error};

use crate::bench::{Bench, add_program, eventually, runs, tool};

#[test]
fn nothing_outlives_an_exec_that_is_killed_or_a_first_process() {
    let Some(bench) = Bench::new(|_| ()) else { return };
    let spec = bench.spec("sleep 987001 & while read x; do :; done; exit 5");
    let spec = ContainerSpec { stdin: true, ..spec };
    bench.start(&spec);
    let script = "(sleep 987002 & sleep 987003) & sleep 987004".to_owned();
    let args = vec!["sh".to_owned(), "-c".to_owned(), script];
    let session = bench.runtime.exec(&spec.id, &ExecSpec { args, tty: false, stdin: false }).unwrap();
    eventually("the tree runs", || ["987001", "987002", "987003", "987004"].iter().all(|word| runs(word)));
    session.control.kill().unwrap();
    assert!(!runs("987002") && !runs("987003") && !runs("987004") && runs("987001"));
    bench.runtime.signal_container(&spec.id, &runtime::spec::Signal::term()).unwrap();
    assert_eq!(bench.wait(&spec).code, 143);
    assert!(!runs("987001"));
    assert!(!tool("jls", &["name"]).contains(spec.id.short()), "its jail is gone");
    bench.remove();
}

#[test]
fn a_container_over_its_memory_is_killed_whole_and_that_is_told() {
    let Some(bench) = Bench::new(|_| ()) else { return };
    let mut spec = bench.spec("sleep 987101 & (x=0123456789abcdef; while :; do x=$x$x; sleep 0.2; done) & wait");
    spec.resources.memory = Some(48 << 20);
    let (exit, _) = bench.output(&spec);
    assert_eq!((exit.code, exit.out_of_memory), (137, true));
    assert!(!runs("987101"));
    let mut later = bench.spec("x=0123456789abcdef; read y; while :; do x=$x$x; sleep 0.2; done");
    (later.stdin, later.resources.memory) = (true, Some(1 << 30));
    bench.start(&later);
    bench.runtime.update_pod(&bench.pod, &Resources { memory: Some(48 << 20), ..Resources::default() }).unwrap();
    let session = bench.runtime.attach(&later.id, true).unwrap();
    File::from(session.stdin.unwrap()).write_all(b"\n").unwrap();
    assert!(bench.wait(&later).out_of_memory, "a limit of the pod that came later holds too");
    bench.remove();
}

#[test]
fn a_pods_limit_is_not_that_of_a_container_that_has_none() {
    let Some(bench) = Bench::new(|spec| spec.resources.memory = Some(48 << 20)) else { return };
    let mut limited = bench.spec("while :; do sleep 1; done");
    limited.resources.memory = Some(48 << 20);
    bench.start(&limited);
    // 64 MiB, and time enough for its monitor, and the other's, to look.
    let script = "x=0123456789abcdef; i=0; while [ $i -lt 22 ]; do x=$x$x; i=$((i+1)); done; sleep 3; exit 7";
    let (exit, _) = bench.output(&bench.spec(script));
    assert_eq!((exit.code, exit.out_of_memory), (7, false));
    assert!(matches!(bench.runtime.container_state(&limited.id), Ok(ContainerState::Running(_))));
    let free = bench.spec("while :; do sleep 1; done");
    bench.start(&free);
    bench.runtime.update_pod(&bench.pod, &Resources { cpu_quota: Some(20_000), ..Resources::default() }).unwrap();
    assert!(!tool("rctl", &[&format!("jail:{}", bench.jail(&free))]).contains("pcpu"));
    bench.remove();
}

#[test]
fn limits_are_rules_on_the_containers_jail() {
    let Some(bench) = Bench::new(|_| ()) else { return };
    let mut spec = bench.spec("while :; do sleep 1; done");
    spec.resources = Resources {
        memory: Some(64 << 20),
        pids: Some(32),
        cpu_quota: Some(50_000),
        cpuset_cpus: "0".to_owned(),
        cpuset_mems: "0".to_owned(),
        unified: [("memory.oom.group".to_owned(), "1".to_owned())].into(),
        rctl: [("readbps", 1 << 20), ("openfiles", 99)].map(|(name, amount)| (name.to_owned(), amount)).into(),
        ..Resources::default()
    };
    bench.start(&spec);
    let jail = bench.jail(&spec);
    let rules = || tool("rctl", &[&format!("jail:{jail}")]);
    for rule in ["readbps:throttle=1048576", "openfiles:deny=99"] {
        assert!(rules().contains(&format!("jail:{jail}:{rule}")), "{}", rules());
    }
    assert!(rules().contains(&format!("jail:{jail}:pcpu:deny=50")), "{}", rules());
    assert!(rules().contains(&format!("jail:{jail}:maxproc:deny=32")), "{}", rules());
    for resource in ["nthr", "openfiles"] {
        assert!(rules().contains(&format!("jail:{jail}:{resource}:deny=")), "{}", rules());
    }
    let set = tool("cpuset", &["-g", "-j", &jail]);
    assert!(set.contains("mask: 0\n") && set.contains("first-touch mask: 0\n"), "{set}");
    assert_eq!(bench.runtime.container_usage(&spec.id).unwrap().memory_limit_bytes, Some(64 << 20));
    let change = Resources { pids: Some(9), memory: Some(48 << 20), ..Resources::default() };
    bench.runtime.update_container(&spec.id, &change).unwrap();
    assert!(rules().contains("maxproc:deny=9") && rules().contains("pcpu:deny=50"), "{}", rules());
    assert_eq!(bench.runtime.container_usage(&spec.id).unwrap().memory_limit_bytes, Some(48 << 20));
    let nowhere = Resources { cpuset_cpus: "900".to_owned(), ..Resources::default() };
    assert!(matches!(bench.runtime.update_container(&spec.id, &nowhere), Err(Error::Invalid { .. })));
    // Neither its shell nor the sleep has the count of the server, with which no process could be forked.
    let used = tool("rctl", &["-u", &format!("jail:{jail}")]);
    let open = used.lines().find_map(|line| line.strip_prefix("openfiles=")?.parse::<u64>().ok());
    assert!(open.is_some_and(|open| open <= 2 * 21), "{used}");
    std::thread::sleep(std::time::Duration::from_secs(3));
    assert!(matches!(bench.runtime.container_state(&spec.id), Ok(ContainerState::Running(_))));
    let nowhere = Resources { cpuset_mems: "200".to_owned(), ..Resources::default() };
    let refused = bench.runtime.update_container(&spec.id, &nowhere).unwrap_err();
    assert!(refused.to_string().contains("cpuset_mems"), "{}", host::chain(&refused));
    bench.remove();
}

#[test]
fn a_container_has_as_many_processes_as_it_may() {
    let Some(bench) = Bench::new(|_| ()) else { return };
    let mut spec = bench.spec("for i in 1 2 3 4 5 6; do sleep 100 & done; echo all");
    spec.resources = Resources { pids: Some(4), ..Resources::default() };
    let (exit, text) = bench.output(&spec);
    assert!(exit.code != 0 && !text.contains("all"), "{exit:?} {text}");
    bench.remove();
}

#[test]
fn what_a_container_has_open_is_told() {
    let Some(bench) = Bench::new(|_| ()) else { return };
    tool("ifconfig", &["-j", &bench.pod_jail(), "lo0", "inet", "127.0.0.1/8", "up"]);
    let spec = bench.spec("nc -l 127.0.0.1 7000 </dev/null & while :; do :; done");
    add_program(&spec.rootfs, "/usr/bin/nc");
    bench.start(&spec);
    let details = || bench.runtime.container_details(&spec.id).unwrap();
    eventually("its socket and its time", || details().sockets == Some(1) && details().user_nanoseconds > Some(0));
    bench.runtime.container_usage(&spec.id).unwrap();
    let details = details();
    assert!(details.descriptors > details.sockets && details.threads >= Some(2), "{details:?}");
    assert!(details.peak_bytes > Some(0) && details.threads_limit > Some(0), "{details:?}");
    bench.remove();
}

#[test]
fn a_container_sees_the_devices_that_it_was_given() {
    let Some(bench) = Bench::new(|_| ()) else { return };
    let script = "for d in null pf mem fd/1; do test -e /dev/$d && echo $d; done; :";
    assert_eq!(bench.output(&bench.spec(script)).1, "null\nfd/1\n");
    let mut given = bench.spec(script);
    let mem = PathBuf::from("/dev/mem");
    given.devices = vec![Device { source: mem.clone(), destination: mem, read: true, write: true, mknod: false }];
    assert_eq!(bench.output(&given).1, "null\nmem\nfd/1\n");
    let mut privileged = bench.spec(script);
    privileged.security.privileged = true;
    assert_eq!(bench.output(&privileged).1, "null\nmem\nfd/1\n", "pf is its pod's");
    let before = tool("devfs", &["rule", "showsets"]);
    bench.remove();
    let numbers = |text: &str| text.split_whitespace().filter(|n| n.parse::<u32>().is_ok_and(|n| n >= 20_000)).count();
    assert!(numbers(&before) >= 2);
}

#[test]
fn a_container_whose_monitor_was_killed_is_ended() {
    let Some(bench) = Bench::new(|_| ()) else { return };
    let spec = bench.spec("sleep 987201 & sleep 987202");
    bench.start(&spec);
    let directory = bench.settings.state.canonicalize().unwrap().join("containers").join(spec.id.short());
    let monitors = tool("pgrep", &["-f", directory.to_str().unwrap()]);
    for pid in monitors.split_whitespace() {
        tool("kill", &["-9", pid]);
    }
    let again = runtime::open(bench.settings.clone()).unwrap();
    let mut exit = None;
    eventually("the loss is told", || {
        exit = match again.container_state(&spec.id).unwrap() {
            ContainerState::Exited { exit, .. } => Some(exit),
            _ => None,
        };
        exit.is_some()
    });
    assert!(exit.unwrap().message.contains("monitor"));
    assert!(!runs("987201") && !runs("987202"));
    bench.remove();
}
