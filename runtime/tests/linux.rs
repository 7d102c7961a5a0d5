//! What only the Linux backend does, seen from inside its containers: namespaces, files, rights, limits, terminals, and what
//! becomes of a container whose monitor is killed. On another kernel there is nothing to test here.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use host::{ContainerId, PodId};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use runtime::spec::{
    ContainerSpec, ExecSpec, Mount, MountSource, NameOrId, PidScope, PodSpec, Process, Profile, Propagation, Resources,
    Scope, Security, User,
};
use runtime::{ContainerState, Exit, Runtime};

const PATIENCE: Duration = Duration::from_secs(20);

struct Bench {
    directory: tempfile::TempDir,
    settings: runtime::Settings,
    runtime: Arc<dyn Runtime>,
    pod: PodId,
}

impl Bench {
    /// A pod; None where this is not the backend.
    fn new(change: impl FnOnce(&mut PodSpec)) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let settings = common::settings(&directory.path().join("state"));
        let runtime = common::open(&settings).filter(|runtime| runtime.name().starts_with("linux"))?;
        let mut spec = PodSpec {
            id: PodId::random(),
            hostname: Some("inside".to_owned()),
            network: Scope::Pod,
            ipc: Scope::Pod,
            pid: PidScope::Container,
            resolv_conf: Some("nameserver 192.0.2.1\n".to_owned()),
            sysctls: std::collections::BTreeMap::new(),
            cgroup_parent: None,
            privileged: false,
            resources: Resources::default(),
        };
        change(&mut spec);
        runtime.create_pod(&spec, None).unwrap();
        Some(Self { directory, settings, runtime, pod: spec.id })
    }

    fn spec(&self, script: &str) -> ContainerSpec {
        let id = ContainerId::random();
        let log_path = Some(self.directory.path().join(format!("{}.log", id.short())));
        ContainerSpec {
            id,
            pod: self.pod.clone(),
            rootfs: common::make_rootfs(self.directory.path()),
            readonly_rootfs: false,
            process: Process {
                args: vec!["/bin/sh".to_owned(), "-c".to_owned(), script.to_owned()],
                env: vec![("PATH".to_owned(), "/bin".to_owned()), ("GREETING".to_owned(), "hello".to_owned())],
                cwd: "/work/below".into(),
                tty: false,
                user: User { user: NameOrId::Id(0), group: None, supplemental: Vec::new(), merge_image_groups: false },
            },
            pid: PidScope::Container,
            mounts: Vec::new(),
            devices: Vec::new(),
            resources: Resources::default(),
            security: Security {
                privileged: false,
                no_new_privileges: false,
                add_capabilities: Vec::new(),
                drop_capabilities: Vec::new(),
                ambient_capabilities: Vec::new(),
                masked_paths: vec!["/proc/keys".into()],
                readonly_paths: vec!["/proc/sys".into()],
                seccomp: Profile::RuntimeDefault,
                apparmor: Profile::RuntimeDefault,
            },
            stdin: false,
            stdin_once: false,
            log_path,
        }
    }

    fn start(&self, spec: &ContainerSpec) {
        self.runtime.create_container(spec).unwrap();
        self.runtime.start_container(&spec.id).unwrap();
    }

    fn wait(&self, spec: &ContainerSpec) -> Exit {
        let ended = self.runtime.exit_descriptor(&spec.id).unwrap();
        assert!(readable(&ended, PATIENCE), "the container ends");
        match self.runtime.container_state(&spec.id).unwrap() {
            ContainerState::Exited { exit, .. } => exit,
            other => panic!("{other:?}"),
        }
    }

    /// Runs a container to its end and returns its exit and its output.
    fn output(&self, spec: &ContainerSpec) -> (Exit, String) {
        self.start(spec);
        let exit = self.wait(spec);
        (exit, self.log(spec))
    }

    /// The text of the log: the fourth field of each entry, the line feed of a part taken away.
    fn log(&self, spec: &ContainerSpec) -> String {
        let text = std::fs::read_to_string(spec.log_path.as_ref().unwrap()).unwrap();
        let entry = |line: &str| {
            let mut fields = line.splitn(4, ' ').skip(2);
            let end = if fields.next() == Some("P") { "" } else { "\n" };
            fields.next().unwrap().to_owned() + end
        };
        text.split_terminator('\n').map(entry).collect()
    }

    fn eventually(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let until = Instant::now() + PATIENCE;
        while !holds() {
            assert!(Instant::now() < until, "{what}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn remove(self) {
        self.runtime.remove_pod(&self.pod).unwrap();
        assert_eq!(self.runtime.inventory().unwrap(), runtime::Inventory::default());
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        assert!(!mounts.contains(self.directory.path().to_str().unwrap()), "{mounts}");
    }
}

/// A test that fails leaves nothing on the machine either.
impl Drop for Bench {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Err(error) = self.runtime.remove_pod(&self.pod)
        {
            println!("cannot clean up: {}", host::chain(&error));
        }
    }
}

fn readable(descriptor: &impl AsFd, timeout: Duration) -> bool {
    let mut polled = [PollFd::new(descriptor.as_fd(), PollFlags::POLLIN)];
    poll(&mut polled, PollTimeout::try_from(timeout).unwrap()).unwrap() == 1
}

/// Reads until the text has come.
fn read_until(output: &mut File, wanted: &str) -> String {
    let mut text = String::new();
    let mut chunk = [0u8; 4096];
    while !text.contains(wanted) {
        assert!(readable(output, PATIENCE), "{wanted:?} does not come: {text:?}");
        let count = output.read(&mut chunk).unwrap();
        assert!(count > 0, "the end instead of {wanted:?}: {text:?}");
        text.push_str(&String::from_utf8_lossy(&chunk[..count]));
    }
    text
}

fn host_mount(source: PathBuf, destination: &str, readonly: bool) -> Mount {
    Mount {
        destination: destination.into(),
        source: MountSource::Host(source),
        readonly,
        recursive_readonly: false,
        propagation: Propagation::Private,
    }
}

#[test]
fn a_container_sees_what_its_pod_and_spec_say() {
    let sysctls = [("net.ipv4.ip_forward".to_owned(), "1".to_owned()), ("kernel.shmmax".to_owned(), "9999".to_owned())];
    let Some(bench) = Bench::new(|spec| spec.sysctls = sysctls.into()) else { return };
    let spec = bench.spec(
        "pwd; echo $GREETING; read n < /proc/sys/kernel/hostname; echo $n; read n < /etc/hostname; echo $n; \
         cat /etc/resolv.conf /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shmmax; \
         echo x > /proc/sys/kernel/shmmax || echo sysctl is read-only; echo 1 > /dev/shm/x && echo shm; echo $$",
    );
    let (exit, text) = bench.output(&spec);
    assert_eq!(exit.code, 0);
    let lines: Vec<&str> = text.lines().filter(|line| !line.contains("cannot create")).collect();
    let expected = [
        "/work/below",
        "hello",
        "inside",
        "inside",
        "nameserver 192.0.2.1",
        "1",
        "9999",
        "sysctl is read-only",
        "shm",
        "1",
    ];
    assert_eq!(lines, expected);
    bench.remove();
}

#[test]
fn a_parameter_of_the_host_is_refused() {
    let Some(bench) = Bench::new(|_| ()) else { return };
    for name in ["vm.swappiness", "kernel.panic", "net..x"] {
        let spec = PodSpec {
            id: PodId::random(),
            hostname: None,
            network: Scope::Pod,
            ipc: Scope::Pod,
            pid: PidScope::Container,
            resolv_conf: None,
            sysctls: [(name.to_owned(), "1".to_owned())].into(),
            cgroup_parent: None,
            privileged: false,
            resources: Resources::default(),
        };
        let error = bench.runtime.create_pod(&spec, None).unwrap_err();
        assert!(error.to_string().contains(name), "{error}");
    }
    bench.remove();
}

#[test]
fn users_rights_and_filters_are_those_of_the_spec() {
    let Some(bench) = Bench::new(|_| ()) else { return };
    let mut spec = bench.spec("while read l; do case $l in Uid*|Gid*|Groups*|CapEff*|CapAmb*|NoNew*|Seccomp:*) echo $l;; esac; done < /proc/self/status");
    std::fs::create_dir_all(spec.rootfs.join("etc")).unwrap();
    std::fs::write(spec.rootfs.join("etc/passwd"), "web:x:1000:2000::/:/bin/sh\n").unwrap();
    std::fs::write(spec.rootfs.join("etc/group"), "logs:x:3000:web\n").unwrap();
    let user =
        User { user: NameOrId::Name("web".to_owned()), group: None, supplemental: vec![7], merge_image_groups: true };
    spec.process.user = user;
    spec.security.no_new_privileges = true;
    spec.security.drop_capabilities = vec!["ALL".to_owned()];
    spec.security.add_capabilities = vec!["NET_BIND_SERVICE".to_owned()];
    spec.security.ambient_capabilities = vec!["NET_BIND_SERVICE".to_owned()];
    let identity = bench.runtime.create_container(&spec).unwrap();
    assert_eq!((identity.uid, identity.gid, identity.groups), (1000, 2000, vec![7, 2000, 3000]));
    let (_, text) = bench.output(&spec);
    let expected = "Uid: 1000 1000 1000 1000\nGid: 2000 2000 2000 2000\nGroups: 7 2000 3000\nCapEff: 0000000000000400\n\
        CapAmb: 0000000000000400\nNoNewPrivs: 1\nSeccomp: 2\n";
    assert_eq!(text, expected);
    bench.remove();
}

#[test]
fn a_privileged_container_has_everything() {
    let Some(bench) = Bench::new(|spec| spec.privileged = true) else { return };
    let mut spec = bench.spec(
        "while read l; do case $l in CapEff*|Seccomp:*) echo $l;; esac; done < /proc/self/status; \
         test -c /dev/kmsg && echo kmsg; while read d p t o r; do case $p in /sys|/proc/sys) echo $p ${o%%,*};; esac; done < /proc/mounts",
    );
    spec.security.privileged = true;
    let (_, text) = bench.output(&spec);
    let own = std::fs::read_to_string("/proc/self/status").unwrap();
    let all = own.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap().trim();
    assert_eq!(text, format!("CapEff: {all}\nSeccomp: 0\nkmsg\n/sys rw\n"));
    bench.remove();
}

#[test]
fn mounts_are_where_they_should_be_and_no_more_writable_than_that() {
    let Some(bench) = Bench::new(|_| ()) else { return };
    let shared = bench.directory.path().join("shared");
    std::fs::create_dir_all(&shared).unwrap();
    std::fs::write(shared.join("file"), "text\n").unwrap();
    let link = bench.directory.path().join("link");
    std::os::unix::fs::symlink(&shared, &link).unwrap();
    let mut spec = bench.spec(
        "cat /data/file; echo x > /data/new || echo data is read-only; echo more >> /one; echo x > /root-file || echo root is read-only; \
         echo x > /memory/x && echo memory; cat /etc/hosts",
    );
    spec.readonly_rootfs = true;
    spec.process.cwd = "/".into();
    std::fs::write(shared.join("hosts"), "my hosts\n").unwrap();
    let tmpfs = MountSource::Tmpfs { size: Some(1 << 20) };
    spec.mounts = vec![
        host_mount(link, "/data", true),
        host_mount(shared.join("file"), "/one", false),
        Mount { source: tmpfs, ..host_mount(PathBuf::new(), "/memory", false) },
        host_mount(shared.join("hosts"), "/etc/hosts", true),
    ];
    let (_, text) = bench.output(&spec);
    let lines: Vec<&str> = text.lines().filter(|line| !line.contains("cannot create")).collect();
    assert_eq!(lines, ["text", "data is read-only", "root is read-only", "memory", "my hosts"]);
    assert_eq!(std::fs::read_to_string(shared.join("file")).unwrap(), "text\nmore\n");
    bench.remove();
}

#[test]
fn a_container_over_its_memory_is_killed_and_that_is_told() {
    let Some(bench) = Bench::new(|_| ()) else { return };
    let mut spec = bench.spec("x=0123456789abcdef; while :; do x=$x$x; done");
    spec.resources.memory = Some(32 << 20);
    let (exit, _) = bench.output(&spec);
    assert_eq!((exit.code, exit.out_of_memory), (137, true));
    bench.remove();
}

#[test]
fn limits_are_set_updated_and_read_back() {
    let Some(bench) = Bench::new(|_| ()) else { return };
    let mut spec = bench.spec("while :; do sleep 1; done");
    spec.resources =
        Resources { memory: Some(64 << 20), pids: Some(32), cpu_shares: Some(512), ..Resources::default() };
    bench.start(&spec);
    let limit = || bench.runtime.container_usage(&spec.id).unwrap().memory_limit_bytes;
    assert_eq!(limit(), Some(64 << 20));
    bench.runtime.update_container(&spec.id, &Resources { memory: Some(48 << 20), ..Resources::default() }).unwrap();
    assert_eq!(limit(), Some(48 << 20));
    bench.runtime.update_pod(&bench.pod, &Resources { memory: Some(96 << 20), ..Resources::default() }).unwrap();
    bench.remove();
}

#[test]
fn containers_of_a_pod_share_processes_when_it_says_so() {
    let Some(bench) = Bench::new(|spec| spec.pid = PidScope::Pod) else { return };
    let mut first = bench.spec("echo $$; sleep 1000 & sleep 1001");
    first.pid = PidScope::Pod;
    bench.start(&first);
    let mut second = bench.spec("for p in /proc/[0-9]*; do read c < $p/comm; echo $c; done");
    second.pid = PidScope::Pod;
    let mut target = bench.spec("for p in /proc/[0-9]*; do read c < $p/comm; echo $c; done");
    target.pid = PidScope::Target(first.id.clone());
    for spec in [second, target] {
        let (_, text) = bench.output(&spec);
        assert_eq!(text.matches("sleep").count(), 2, "{text}");
    }
    bench.runtime.kill_container(&first.id).unwrap();
    bench.remove();
}

#[test]
fn an_attached_client_types_and_reads_and_another_server_takes_over() {
    let Some(bench) = Bench::new(|_| ()) else { return };
    let mut spec = bench.spec("while read line; do echo got $line; done; echo end");
    (spec.stdin, spec.stdin_once) = (true, true);
    bench.start(&spec);
    let watching = bench.runtime.attach(&spec.id, false).unwrap();
    assert!(watching.stdin.is_none());
    let session = runtime::open(bench.settings.clone()).unwrap().attach(&spec.id, true).unwrap();
    let (mut stdin, mut stdout) = (File::from(session.stdin.unwrap()), File::from(session.stdout.unwrap()));
    stdin.write_all(b"one\n").unwrap();
    assert_eq!(read_until(&mut stdout, "one\n"), "got one\n");
    drop(session.control);
    // What was sent before hanging up still arrives; then the input of a process that reads once has ended.
    stdin.write_all(b"two\n").unwrap();
    drop(stdin);
    assert_eq!(read_until(&mut File::from(watching.stdout.unwrap()), "end\n"), "got one\ngot two\nend\n");
    assert_eq!(bench.wait(&spec).code, 0);
    bench.remove();
}

#[test]
fn a_client_that_stands_still_is_cut_off_and_another_loses_nothing() {
    let Some(bench) = Bench::new(|_| ()) else { return };
    let mut spec = bench.spec("read go; i=0; while [ $i -lt 40000 ]; do echo line $i; i=$((i+1)); done");
    spec.stdin = true;
    bench.start(&spec);
    let still = bench.runtime.attach(&spec.id, false).unwrap();
    let mut session = bench.runtime.attach(&spec.id, true).unwrap();
    let started = Instant::now();
    File::from(session.stdin.take().unwrap()).write_all(b"go\n").unwrap();
    let mut text = String::new();
    File::from(session.stdout.unwrap()).read_to_string(&mut text).unwrap();
    let expected: String = (0..40000).map(|i| format!("line {i}\n")).collect();
    assert!(text == expected, "{} of {} bytes", text.len(), expected.len());
    assert!(started.elapsed() >= Duration::from_secs(9), "the client that stands still holds it for a while");
    assert_eq!(bench.wait(&spec).code, 0);
    assert!(bench.log(&spec) == expected, "the log has every line");
    drop(still);
    bench.remove();
}

#[test]
fn a_terminal_shows_its_size_and_hangs_up() {
    let Some(bench) = Bench::new(|_| ()) else { return };
    let mut spec = bench.spec("test -t 0 && echo terminal; read line; echo got $line; sleep 1000");
    (spec.process.tty, spec.stdin) = (true, true);
    bench.start(&spec);
    bench.eventually("the log shows the terminal", || bench.log(&spec).contains("terminal\r"));
    let session = bench.runtime.attach(&spec.id, true).unwrap();
    session.control.resize(101, 37).unwrap();
    File::from(session.stdin.unwrap()).write_all(b"hi\n").unwrap();
    assert!(read_until(&mut File::from(session.stdout.unwrap()), "got hi").starts_with("hi\r\n"));
    let shell = ["/bin/sh", "-c", "test -t 1 && echo exec terminal; read x; echo got $x; sleep 1000"];
    let exec = ExecSpec { args: shell.map(str::to_owned).into(), tty: true, stdin: true };
    let session = bench.runtime.exec(&spec.id, &exec).unwrap();
    let mut stdout = File::from(session.stdout.unwrap());
    read_until(&mut stdout, "exec terminal\r\n");
    session.control.resize(90, 30).unwrap();
    let mut stdin = File::from(session.stdin.unwrap());
    stdin.write_all(b"hello\n").unwrap();
    read_until(&mut stdout, "got hello");
    stdin.write_all(b"\x03").unwrap();
    assert_eq!(session.control.wait(PATIENCE).unwrap(), Some(130), "^C ends it");
    bench.remove();
}

#[test]
fn a_killed_exec_takes_its_daemons_along() {
    let Some(bench) = Bench::new(|_| ()) else { return };
    let spec = bench.spec("while :; do sleep 1; done");
    bench.start(&spec);
    let count = |name: &str| {
        let script = format!(
            "n=0; for p in /proc/[0-9]*; do read a < $p/comm; case $a in {name}) n=$((n+1));; esac; done; echo $n"
        );
        let exec = ExecSpec { args: vec!["/bin/sh".to_owned(), "-c".to_owned(), script], tty: false, stdin: false };
        let mut text = String::new();
        let session = bench.runtime.exec(&spec.id, &exec).unwrap();
        File::from(session.stdout.unwrap()).read_to_string(&mut text).unwrap();
        text.trim().parse::<u32>().unwrap()
    };
    let daemons = ["/bin/sh", "-c", "(cat /dev/zero > /dev/null &) & wait; exec cat /dev/zero > /dev/null"];
    for killed in [true, false] {
        let exec = ExecSpec { args: daemons.map(str::to_owned).into(), tty: false, stdin: false };
        let session = bench.runtime.exec(&spec.id, &exec).unwrap();
        bench.eventually("the daemon runs", || count("cat") == 2);
        if killed {
            session.control.kill().unwrap();
            assert_eq!(count("cat"), 0);
        }
        drop(session);
        bench.eventually("none is left", || count("cat") == 0);
    }
    bench.remove();
}

#[test]
fn a_container_whose_monitor_was_killed_is_told_to_be_dead_and_is() {
    let Some(bench) = Bench::new(|_| ()) else { return };
    let spec = bench.spec("while :; do sleep 1; done");
    bench.start(&spec);
    let ContainerState::Running(started) = bench.runtime.container_state(&spec.id).unwrap() else { panic!("it runs") };
    let status = std::fs::read_to_string(format!("/proc/{}/status", started.pid)).unwrap();
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim().parse().unwrap();
    let ended = bench.runtime.exit_descriptor(&spec.id).unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(parent), nix::sys::signal::Signal::SIGKILL).unwrap();
    assert!(readable(&ended, PATIENCE));
    match bench.runtime.container_state(&spec.id).unwrap() {
        ContainerState::Exited { exit, .. } => {
            assert!(exit.code == 255 && exit.message.contains("monitor"), "{exit:?}")
        }
        other => panic!("{other:?}"),
    }
    let state = std::fs::read_to_string(format!("/proc/{}/stat", started.pid)).unwrap_or_default();
    assert!(state.is_empty() || state.contains(") Z"), "{state}");
    bench.remove();
}

/// What only this process holds of memory, in KiB (proc_pid_smaps_rollup(5)): all that is not of a file. Pages of the program
/// itself count as private too while there is one monitor alone, and are shared by all of them.
fn private_memory(process: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{process}/smaps_rollup")).unwrap();
    let private = text.lines().filter(|line| line.starts_with("Anonymous"));
    private.map(|line| line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()).sum()
}

#[test]
fn a_monitor_is_small() {
    const LIMIT_KIB: u64 = 512;
    let Some(bench) = Bench::new(|_| ()) else { return };
    let spec = bench.spec("i=0; while [ $i -lt 1000 ]; do echo some line $i; i=$((i+1)); done; echo done; sleep 1000");
    let before = Instant::now();
    bench.start(&spec);
    let took = before.elapsed();
    bench.eventually("it has written", || bench.log(&spec).contains("done"));
    let ContainerState::Running(started) = bench.runtime.container_state(&spec.id).unwrap() else { panic!("it runs") };
    let status = std::fs::read_to_string(format!("/proc/{}/status", started.pid)).unwrap();
    let monitor = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim();
    let used = private_memory(monitor);
    println!("a monitor holds {used} KiB; the container was started in {} ms", took.as_millis());
    assert!(used < LIMIT_KIB, "{used} KiB");
    bench.remove();
}
