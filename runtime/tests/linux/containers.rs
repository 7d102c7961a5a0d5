//! Containers as they see themselves: files, mounts, rights, limits.

use std::path::PathBuf;

use host::run::Tool;
use runtime::conformance::pod_spec;
use runtime::spec::{Mount, MountOptions, MountSource, NameOrId, PidScope, PodSpec, Propagation, Resources, User};

use crate::bench::{eventually, in_pod};

fn host_mount(source: PathBuf, destination: &str, readonly: bool) -> Mount {
    Mount {
        destination: destination.into(),
        source: MountSource::Host(source),
        readonly,
        recursive_readonly: false,
        propagation: Propagation::Private,
        options: MountOptions::default(),
    }
}

#[test]
fn a_container_sees_what_its_pod_and_spec_say() {
    let sysctls = [("net.ipv4.ip_forward".to_owned(), "1".to_owned()), ("kernel.shmmax".to_owned(), "9999".to_owned())];
    in_pod(
        |spec| spec.sysctls = sysctls.into(),
        |bench| {
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
        },
    );
}

#[test]
fn every_user_binds_low_ports_and_pings_in_a_pods_own_network() {
    let read = |bench: &crate::bench::Bench| {
        let spec = bench.spec("cd /proc/sys/net/ipv4; cat ip_unprivileged_port_start ping_group_range");
        bench.output(&spec).1.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    in_pod(|_| (), |bench| assert_eq!(read(bench), ["0", "0", "2147483647"]));
    let own = [("net.ipv4.ip_unprivileged_port_start".to_owned(), "1024".to_owned())];
    in_pod(|spec| spec.sysctls = own.into(), |bench| assert_eq!(read(bench)[0], "1024"));
}

fn pod_with_parameter(name: &str, value: &str) -> PodSpec {
    PodSpec { sysctls: [(name.to_owned(), value.to_owned())].into(), ..pod_spec() }
}

#[test]
fn a_parameter_of_the_host_is_refused() {
    in_pod(
        |_| (),
        |bench| {
            for name in ["vm.swappiness", "kernel.panic", "net..x"] {
                let error = bench.runtime.create_pod(&pod_with_parameter(name, "1"), None).unwrap_err();
                assert!(error.to_string().contains(name), "{error}");
            }
        },
    );
}

#[test]
fn a_parameter_that_the_kernel_does_not_take_is_a_bad_request() {
    in_pod(
        |_| (),
        |bench| {
            for (name, value) in [("net.ipv4.ip_default_ttl", "many"), ("net.ipv4.no_such_parameter", "1")] {
                let spec = pod_with_parameter(name, value);
                let error = bench.runtime.create_pod(&spec, None).unwrap_err();
                assert!(matches!(&error, runtime::Error::Invalid { reason, .. } if reason.contains(name)), "{error}");
                bench.runtime.remove_pod(&spec.id).unwrap();
            }
        },
    );
}

#[test]
fn users_rights_and_filters_are_those_of_the_spec() {
    in_pod(
        |_| (),
        |bench| {
            let mut spec = bench.spec("while read l; do case $l in Uid*|Gid*|Groups*|CapEff*|CapAmb*|NoNew*|Seccomp:*) echo $l;; esac; done < /proc/self/status");
            std::fs::create_dir_all(spec.rootfs.join("etc")).unwrap();
            std::fs::write(spec.rootfs.join("etc/passwd"), "web:x:1000:2000::/:/bin/sh\n").unwrap();
            std::fs::write(spec.rootfs.join("etc/group"), "logs:x:3000:web\n").unwrap();
            let user = User {
                user: NameOrId::Name("web".to_owned()),
                group: None,
                supplemental: vec![7],
                merge_image_groups: true,
            };
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
        },
    );
}

#[test]
fn a_privileged_container_has_everything() {
    in_pod(
        |spec| spec.privileged = true,
        |bench| {
            let mut spec = bench.spec(
        "while read l; do case $l in CapEff*|Seccomp:*) echo $l;; esac; done < /proc/self/status; \
         test -c /dev/kmsg && echo kmsg; while read d p t o r; do case $p in /sys|/proc/sys) echo $p ${o%%,*};; esac; done < /proc/mounts",
    );
            spec.security.privileged = true;
            let (_, text) = bench.output(&spec);
            let own = std::fs::read_to_string("/proc/self/status").unwrap();
            let all = own.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap().trim();
            assert_eq!(text, format!("CapEff: {all}\nSeccomp: 0\nkmsg\n/sys rw\n"));
        },
    );
}

#[test]
fn mounts_are_where_they_should_be_and_no_more_writable_than_that() {
    in_pod(
        |_| (),
        |bench| {
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
        },
    );
}

#[test]
fn a_container_over_its_memory_is_killed_and_that_is_told() {
    in_pod(
        |_| (),
        |bench| {
            let mut spec = bench.spec("x=0123456789abcdef; while :; do x=$x$x; done");
            spec.resources.memory = Some(32 << 20);
            let (exit, _) = bench.output(&spec);
            assert_eq!((exit.code, exit.out_of_memory), (137, true));
        },
    );
}

#[test]
fn limits_are_set_updated_and_read_back() {
    in_pod(
        |_| (),
        |bench| {
            let mut spec = bench.spec("while :; do sleep 1; done");
            spec.resources =
                Resources { memory: Some(64 << 20), pids: Some(32), cpu_shares: Some(512), ..Resources::default() };
            bench.start(&spec);
            let limit = || bench.runtime.container_usage(&spec.id).unwrap().memory_limit_bytes;
            assert_eq!(limit(), Some(64 << 20));
            bench
                .runtime
                .update_container(&spec.id, &Resources { memory: Some(48 << 20), ..Resources::default() })
                .unwrap();
            assert_eq!(limit(), Some(48 << 20));
        },
    );
}

#[test]
fn a_pods_limits_are_kubelets_and_fall_on_no_container() {
    // 16 MiB, and all of it used.
    let script = "x=0123456789abcdef; i=0; while [ $i -lt 20 ]; do x=$x$x; i=$((i+1)); done; exit 7";
    let little = || Resources { memory: Some(4 << 20), cpu_quota: Some(20_000), ..Resources::default() };
    in_pod(
        |spec| spec.resources = little(),
        |bench| {
            assert_eq!(bench.output(&bench.spec(script)).0.code, 7);
            let mut own = bench.spec("while :; do sleep 1; done");
            own.resources.cpu_quota = Some(10_000);
            bench.start(&own);
            // A resize upwards, the pod's before the container's and after it.
            let larger = Resources { cpu_quota: Some(50_000), ..Resources::default() };
            bench.runtime.update_container(&own.id, &larger).unwrap();
            bench.runtime.update_pod(&bench.pod, &larger).unwrap();
            bench.runtime.update_pod(&bench.pod, &little()).unwrap();
            assert_eq!(bench.output(&bench.spec(script)).0.code, 7);
        },
    );
}

#[test]
fn a_pod_whose_init_was_killed_is_not_whole() {
    in_pod(
        |spec| spec.pid = PidScope::Pod,
        |bench| {
            let mut spec = bench.spec("while :; do sleep 1; done");
            spec.pid = PidScope::Pod;
            bench.start(&spec);
            let is_whole = || bench.runtime.whole_pods(std::slice::from_ref(&bench.pod)).unwrap().contains(&bench.pod);
            assert!(is_whole());
            let directory = bench.settings.state.canonicalize().unwrap().join("pods").join(bench.pod.short());
            // A spec that cannot be read for now tells nothing of the pod.
            let (spec_file, aside) = (directory.join("spec.json"), directory.join("aside"));
            std::fs::rename(&spec_file, &aside).unwrap();
            std::fs::create_dir(&spec_file).unwrap();
            assert!(bench.runtime.whole_pods(std::slice::from_ref(&bench.pod)).is_err());
            std::fs::remove_dir(&spec_file).unwrap();
            std::fs::rename(&aside, &spec_file).unwrap();
            let init = std::fs::read_to_string(directory.join("init.pid")).unwrap();
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(init.parse().unwrap()), nix::sys::signal::SIGKILL)
                .unwrap();
            // The kernel ends everything in its namespace.
            assert_eq!(bench.wait(&spec).code, 137);
            // The init itself goes last.
            eventually("the pod is whole", || !is_whole());
            assert!(matches!(bench.runtime.place(&bench.pod), Err(runtime::Error::NotFound { .. })));
        },
    );
}

#[test]
fn the_init_of_a_pod_tells_its_containers_nothing_of_the_host() {
    in_pod(
        |spec| spec.pid = PidScope::Pod,
        |bench| {
            let mut spec = bench.spec("cat /proc/1/cmdline /proc/1/comm; cat /proc/1/environ; exit 0");
            spec.pid = PidScope::Pod;
            spec.security.privileged = true;
            assert_eq!(bench.output(&spec).1, "cellblock\0hold\0init\0cellblock\n");
        },
    );
}

#[test]
fn a_containers_cgroup_has_its_whole_id() {
    in_pod(
        |_| (),
        |bench| {
            let spec = bench.spec("while :; do sleep 1; done");
            bench.start(&spec);
            let started = bench.started(&spec);
            let cgroups = std::fs::read_to_string(format!("/proc/{}/cgroup", started.pid)).unwrap();
            let of_cgroup = |line: &str| line.ends_with(&format!("/{}", spec.id));
            assert!(cgroups.lines().any(of_cgroup), "{cgroups}");
        },
    );
}

#[test]
fn a_container_whose_record_is_damaged_leaves_no_cgroup() {
    in_pod(
        |_| (),
        |bench| {
            let spec = bench.spec("while :; do sleep 1; done");
            bench.start(&spec);
            // find(1) fails where another test removes what it has just listed.
            let find = format!("find /sys/fs/cgroup -name {} 2>/dev/null || :", spec.id);
            let cgroups = || Tool::new("sh").args(["-c", &find]).run().unwrap().stdout;
            assert!(!cgroups().is_empty());
            let directory = bench.settings.state.join("containers").join(spec.id.short());
            std::fs::write(directory.join("launch.json"), "{").unwrap();
            bench.runtime.remove_container(&spec.id).unwrap();
            assert_eq!(String::from_utf8_lossy(&cgroups()), "");
        },
    );
}

#[test]
fn a_private_mount_is_made_shared_for_a_container_that_gets_its_later_mounts() {
    in_pod(
        |_| (),
        |bench| {
            let source = bench.directory.path().canonicalize().unwrap().join("source");
            let later = source.join("later");
            let tool = |program: &str, args: &[&std::path::Path]| Tool::new(program).args(args).run().unwrap();
            std::fs::create_dir(&source).unwrap();
            tool("mount", &["-t".as_ref(), "tmpfs".as_ref(), "tmpfs".as_ref(), &source]);
            tool("mount", &["--make-private".as_ref(), &source]);
            std::fs::create_dir(&later).unwrap();
            let mut spec = bench.spec("while ! [ -e /data/later/here ]; do sleep 0.05; done; echo seen");
            spec.mounts =
                vec![Mount { propagation: Propagation::Bidirectional, ..host_mount(source.clone(), "/data", true) }];
            let error = bench.runtime.create_container(&spec).unwrap_err().to_string();
            assert!(error.contains("/data: the source is not on a shared mount"), "{error}");
            spec.mounts[0].propagation = Propagation::HostToContainer;
            bench.start(&spec);
            tool("mount", &["-t".as_ref(), "tmpfs".as_ref(), "tmpfs".as_ref(), &later]);
            std::fs::write(later.join("here"), "").unwrap();
            assert_eq!(bench.wait(&spec).code, 0);
            assert_eq!(bench.log(&spec), "seen\n");
            bench.runtime.remove_container(&spec.id).unwrap();
            tool("umount", &[&later]);
            tool("umount", &[&source]);
        },
    );
}

#[test]
fn whatever_keeps_a_container_from_starting_leaves_nothing_of_it() {
    in_pod(
        |_| (),
        |bench| {
            let mut spec = bench.spec("exit 0");
            spec.process.cwd = "/bin/sh".into();
            bench.runtime.create_container(&spec).unwrap();
            bench.runtime.start_container(&spec.id).unwrap_err();
            assert_eq!(bench.runtime.container_state(&spec.id).unwrap(), runtime::ContainerState::Created);
            let states = bench.settings.state.join("runc");
            assert_eq!(std::fs::read_dir(states).unwrap().count(), 0, "runc has no container");
            bench.runtime.kill_container(&spec.id).unwrap();
        },
    );
}

#[test]
fn containers_of_a_pod_share_processes_when_it_says_so() {
    in_pod(
        |spec| spec.pid = PidScope::Pod,
        |bench| {
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
        },
    );
}

#[test]
fn a_mount_does_not_hide_one_below_it_that_was_named_before_it() {
    in_pod(
        |_| (),
        |bench| {
            let volumes = ["outer", "inner"].map(|name| bench.directory.path().join(name));
            for volume in &volumes {
                std::fs::create_dir(volume).unwrap();
                std::fs::write(volume.join("mark"), format!("{}\n", volume.display())).unwrap();
            }
            let [outer, inner] = volumes;
            let mut spec = bench.spec("cat /m/mark /m/n/mark; echo x > /memory/y/z && echo memory");
            let tmpfs = Mount { source: MountSource::Tmpfs { size: None }, ..host_mount("/".into(), "/memory", false) };
            spec.mounts = vec![
                host_mount(inner.clone(), "/m/n", false),
                host_mount(outer.clone(), "/m", false),
                host_mount(inner.clone(), "/memory/y", false),
                tmpfs,
            ];
            let text = bench.output(&spec).1;
            assert_eq!(text, format!("{}\n{}\nmemory\n", outer.display(), inner.display()));
            assert!(inner.join("z").exists());
        },
    );
}

#[test]
fn a_pod_without_a_host_name_has_a_uts_namespace_of_its_own() {
    in_pod(
        |spec| spec.hostname = None,
        |bench| {
            let spec = bench.spec("read name < /proc/sys/kernel/hostname; echo $name");
            assert_eq!(bench.output(&spec).1.trim_end(), nix::unistd::gethostname().unwrap().to_str().unwrap());
            let spec = bench.spec("while :; do sleep 1; done");
            bench.start(&spec);
            let started = bench.started(&spec);
            let of = |process: String| std::fs::read_link(format!("/proc/{process}/ns/uts")).unwrap();
            assert_ne!(of(started.pid.to_string()), of("self".to_owned()));
        },
    );
}

#[test]
fn a_pod_that_cannot_be_removed_names_every_container_that_is_in_the_way() {
    in_pod(
        |_| (),
        |bench| {
            let held = ["a", "b"].map(|_| {
                let spec = bench.spec("exit");
                bench.runtime.create_container(&spec).unwrap();
                let directory = bench.settings.state.join("containers").join(spec.id.short()).join("held");
                std::fs::create_dir(&directory).unwrap();
                Tool::new("mount").args(["-t", "tmpfs", "tmpfs"]).args([&directory]).run().unwrap();
                directory
            });
            let text = host::chain(&bench.runtime.remove_pod(&bench.pod).unwrap_err());
            for directory in held {
                assert!(text.contains(directory.to_str().unwrap()), "{text}");
                Tool::new("umount").args([&directory]).run().unwrap();
            }
        },
    );
}
