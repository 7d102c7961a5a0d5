//! Pods: their names, parameters, ports, spares, and those that a killed server left half destroyed.

use std::fs;
use std::io::Read;

use host::PodId;
use runtime::conformance::pod_spec;
use runtime::spec::{Device, Filter, PodSpec, Resources, Scope};

use crate::bench::{Bench, add_program, eventually, tool};

/// Pods that come and go in one test: each takes seconds on an emulated machine.
const PODS: usize = 10;

#[test]
fn a_pod_has_a_name_and_parameters_of_its_own_and_its_ports_are_reached() {
    let sysctls = [("net.inet.ip.ttl".to_owned(), "77".to_owned())];
    let Some(bench) = Bench::new(|spec| spec.sysctls = sysctls.into()) else { return };
    let spec = bench.spec("hostname; hostname other 2>/dev/null || echo refused; sysctl -n net.inet.ip.ttl; nc -l 127.0.0.1 8080 < /greeting");
    for program in ["/bin/hostname", "/sbin/sysctl", "/usr/bin/nc"] {
        add_program(&spec.rootfs, program);
    }
    fs::write(spec.rootfs.join("greeting"), "welcome\n").unwrap();
    tool("ifconfig", &["-j", &bench.pod_jail(), "lo0", "inet", "127.0.0.1/8", "up"]);
    bench.start(&spec);
    let mut connection = None;
    eventually("somebody listens", || {
        connection = bench.runtime.connect(&bench.pod, 8080).ok();
        connection.is_some()
    });
    let mut connection = std::net::TcpStream::from(connection.unwrap());
    let mut text = [0u8; 8];
    connection.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"welcome\n");
    drop(connection);
    assert_eq!(bench.wait(&spec).code, 0);
    assert_eq!(bench.log(&spec), "inside\nrefused\n77\n");
    assert_ne!(tool("sysctl", &["-n", "net.inet.ip.ttl"]), "77\n");
    bench.remove();
}

#[test]
fn a_pod_has_a_filter_of_its_own_that_no_container_reaches() {
    let filter = |rules: &str| Some(Filter { name: "web.conf".to_owned(), rules: rules.to_owned() });
    let rules = "block drop in quick on lo0 proto tcp from any to any port 7001\npass all\n";
    let Some(bench) = Bench::new(|spec| (spec.privileged, spec.filter) = (true, filter(rules))) else { return };
    tool("kldload", &["-n", "pf"]);
    tool("ifconfig", &["-j", &bench.pod_jail(), "lo0", "inet", "127.0.0.1/8", "up"]);
    assert!(bench.runtime.load_filter(&bench.pod).unwrap());
    assert!(!bench.runtime.load_filter(&bench.pod).unwrap(), "they were loaded already");
    assert!(!tool("mount", &[]).contains("/filter/"), "pfctl has ended");
    let script = "nc -kl 127.0.0.1 7001 </dev/null & nc -kl 127.0.0.1 7002 </dev/null & ls /dev/pf || echo hidden; ls /dev/mem; wait";
    let mut spec = bench.spec(script);
    for program in ["/bin/ls", "/usr/bin/nc"] {
        add_program(&spec.rootfs, program);
    }
    spec.security.privileged = true;
    bench.start(&spec);
    eventually("somebody listens", || bench.runtime.connect(&bench.pod, 7002).is_ok());
    assert!(bench.runtime.connect(&bench.pod, 7001).is_err(), "the rules are not heard");
    eventually("it tells its devices", || bench.log(&spec).contains("hidden\n/dev/mem"));
    let mut asks = bench.spec("true");
    let source: std::path::PathBuf = "/dev/pf".into();
    asks.devices = vec![Device { destination: source.clone(), source, read: true, write: true, mknod: true }];
    assert!(bench.runtime.create_container(&asks).unwrap_err().to_string().contains("/dev/pf"));

    let wrong = PodSpec { filter: filter("pass all\nnonsense\n"), ..pod_spec() };
    bench.runtime.create_pod(&wrong, None).unwrap();
    let error = host::chain(&bench.runtime.load_filter(&wrong.id).unwrap_err());
    assert!(error.contains("web.conf:2: syntax error"), "{error}");
    bench.runtime.remove_pod(&wrong.id).unwrap();
    bench.remove();
}

#[test]
fn a_container_has_the_parameters_that_it_asks_for() {
    let parameters = [
        ("allow.mlock", "true"),
        ("allow.raw_sockets", "false"),
        ("osrelease", "13.9-TOLD"),
        ("osreldate", "1309000"),
        ("env", "KEY=inside"),
        ("meta", "seen=outside"),
    ];
    let names = parameters.map(|(name, _)| name.to_owned()).into();
    let Some(bench) = Bench::new(|spec| spec.jail = names) else { return };
    let mut spec = bench.spec("uname -rK; sysctl -n security.jail.env; sleep 1000");
    for program in ["/usr/bin/uname", "/sbin/sysctl"] {
        add_program(&spec.rootfs, program);
    }
    spec.jail = parameters.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    bench.start(&spec);
    eventually("it tells its release and its env", || bench.log(&spec).contains("KEY=inside"));
    assert_eq!(bench.log(&spec).lines().next(), Some("13.9-TOLD 1309000"));
    let jail = bench.jail(&spec);
    let seen = tool("jls", &["-j", &jail, "allow.mlock", "allow.raw_sockets", "allow.chflags", "meta"]);
    assert!(seen.starts_with("true false false ") && seen.contains("seen=outside"), "{seen:?}");
    let plain = bench.spec("sleep 1000");
    bench.start(&plain);
    assert_eq!(tool("jls", &["-j", &bench.jail(&plain), "allow.mlock", "allow.raw_sockets"]).trim(), "false true");
    let mut wrong = bench.spec("true");
    wrong.jail = [("vnet".to_owned(), "new".to_owned())].into();
    assert!(bench.runtime.create_container(&wrong).unwrap_err().to_string().contains("vnet"));
    let missing = PodSpec { jail: ["allow.vmm".to_owned()].into(), ..pod_spec() };
    if !tool("kldstat", &[]).contains("vmm.ko") {
        assert!(bench.runtime.create_pod(&missing, None).unwrap_err().to_string().contains("allow.vmm"));
    }
    bench.remove();
}

#[test]
fn any_user_binds_low_ports_in_a_pods_own_network() {
    let Some(bench) = Bench::new(|_| ()) else { return };
    let before = tool("sysctl", &["-n", "net.inet.ip.portrange.reservedhigh"]);
    let spare = PodId::random();
    bench.runtime.create_spare(&spare).unwrap();
    let from_spare = PodSpec { id: PodId::random(), ..pod_spec() };
    bench.runtime.create_pod(&from_spare, Some(&spare)).unwrap();
    for pod in [&bench.pod, &from_spare.id] {
        let mut spec = bench.spec("nc -l 127.0.0.1 80 & sleep 1; kill $! && echo bound");
        spec.pod = pod.clone();
        add_program(&spec.rootfs, "/usr/bin/nc");
        spec.process.user.user = runtime::spec::NameOrId::Id(1000);
        tool(
            "ifconfig",
            &["-j", &format!("{}{}", bench.settings.prefix, pod.short()), "lo0", "inet", "127.0.0.1/8", "up"],
        );
        assert_eq!(bench.output(&spec).1, "bound\n");
    }
    assert_eq!(tool("sysctl", &["-n", "net.inet.ip.portrange.reservedhigh"]), before);
    bench.runtime.remove_pod(&from_spare.id).unwrap();
    bench.remove();
}

#[test]
fn a_parameter_of_the_host_is_refused() {
    let Some(bench) = Bench::new(|_| ()) else { return };
    for name in ["kern.maxproc", "net.inet.no.such", "net.inet.tcp.hostcache.cachelimit"] {
        let spec = PodSpec { sysctls: [(name.to_owned(), "1".to_owned())].into(), ..pod_spec() };
        let error = bench.runtime.create_pod(&spec, None).unwrap_err();
        assert!(error.to_string().contains(name), "{error}");
        bench.runtime.remove_pod(&spec.id).unwrap();
    }
    bench.remove();
}

#[test]
fn a_pod_on_the_host_sees_the_hosts_network() {
    let on_the_host = |spec: &mut PodSpec| (spec.network, spec.hostname) = (Scope::Host, None);
    let Some(bench) = Bench::new(on_the_host) else { return };
    let spec = bench.spec("hostname; ifconfig -l");
    add_program(&spec.rootfs, "/bin/hostname");
    add_program(&spec.rootfs, "/sbin/ifconfig");
    let (_, text) = bench.output(&spec);
    assert_eq!(text.lines().next(), Some(tool("hostname", &[]).trim()));
    assert!(text.contains("vtnet0") || text.contains("em0") || text.contains("lo0"), "{text}");
    bench.remove();
}

#[test]
fn a_pod_that_was_being_destroyed_is_swept() {
    let Some(bench) = Bench::new(|_| ()) else { return };
    let name = format!("{}x0123456789ab", bench.settings.prefix);
    tool("jail", &["-c", &format!("name={name}"), "path=/", "persist"]);
    drop(runtime::open(bench.settings.clone()).unwrap());
    eventually("it is gone", || !tool("jls", &["name"]).contains(&name));
    bench.remove();
}

#[test]
fn a_spare_takes_its_pods_names() {
    let Some(bench) = Bench::new(|_| ()) else { return };
    let spare = PodId::random();
    bench.runtime.create_spare(&spare).unwrap();
    let on_the_host = PodSpec { network: Scope::Host, hostname: None, ..pod_spec() };
    assert!(bench.runtime.create_pod(&on_the_host, Some(&spare)).is_err());
    assert_eq!(bench.runtime.inventory().unwrap().spares, std::slice::from_ref(&spare));
    bench.runtime.remove_pod(&on_the_host.id).unwrap();
    let spec = PodSpec { ipc: Scope::Host, ..pod_spec() };
    bench.runtime.create_pod(&spec, Some(&spare)).unwrap();
    let jail = format!("{}{}", bench.settings.prefix, spec.id.short());
    let names = tool("jls", &["-j", &jail, "name", "host.hostname", "vnet", "sysvshm"]);
    assert_eq!(names.trim(), format!("{jail} {} new inherit", spec.hostname.unwrap()));
    bench.runtime.remove_pod(&spec.id).unwrap();
    bench.remove();
}

#[test]
fn many_pods_leave_nothing() {
    let Some(bench) = Bench::new(|_| ()) else { return };
    let rulesets = || tool("devfs", &["rule", "showsets"]);
    let before = rulesets();
    let mut ids = Vec::new();
    for round in 0..PODS {
        let spec = PodSpec { id: PodId::random(), ..pod_spec() };
        bench.runtime.create_pod(&spec, None).unwrap();
        let mut container = bench.spec("sleep 1000");
        container.pod = spec.id.clone();
        container.readonly_rootfs = round % 2 == 0;
        container.resources = Resources { pids: Some(9), cpu_quota: Some(50_000), ..Resources::default() };
        bench.start(&container);
        ids.push(spec.id.short().to_owned());
        // Some are stopped first, some are removed as they run.
        if round % 3 == 0 {
            bench.runtime.kill_container(&container.id).unwrap();
        }
        bench.runtime.remove_pod(&spec.id).unwrap();
        std::fs::remove_dir_all(&container.rootfs).unwrap();
    }
    assert_eq!(bench.runtime.inventory().unwrap().pods.len(), 1);
    let rules = tool("rctl", &[]);
    assert!(!ids.iter().any(|id| rules.contains(id)), "{rules}");
    assert!(!tool("mount", &[]).contains(bench.directory.path().to_str().unwrap()));
    eventually("no jail is left, not even dying", || {
        let jails = tool("jls", &["-d", "name"]);
        !ids.iter().any(|id| jails.contains(id))
    });
    let numbers = |text: &str| text.split_whitespace().filter(|n| n.parse::<u32>().is_ok_and(|n| n >= 20_000)).count();
    assert!(numbers(&rulesets()) <= numbers(&before), "rulesets: {} -> {}", before, rulesets());
    bench.remove();
}
