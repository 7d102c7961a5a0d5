//! Who a process is, and what terminal it has.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;

use runtime::spec::{ContainerSpec, ExecSpec, NameOrId, User};

use crate::bench::{Bench, PATIENCE, add_program, read_until, tool};

#[test]
fn a_process_is_the_user_that_was_asked_for() {
    let Some(bench) = Bench::new(|_| ()) else { return };
    let mut spec = bench.spec("id -u; id -g; id -G; pwd; echo $HOME; cat /etc/resolv.conf");
    add_program(&spec.rootfs, "/usr/bin/id");
    fs::create_dir_all(spec.rootfs.join("etc")).unwrap();
    fs::write(spec.rootfs.join("etc/passwd"), "web:x:1000:2000::/home/web:/bin/sh\n").unwrap();
    fs::write(spec.rootfs.join("etc/group"), "logs:x:3000:web\n").unwrap();
    spec.process.user =
        User { user: NameOrId::Name("web".to_owned()), group: None, supplemental: vec![7], merge_image_groups: true };
    let identity = bench.runtime.create_container(&spec).unwrap();
    assert_eq!((identity.uid, identity.gid, identity.groups), (1000, 2000, vec![7, 2000, 3000]));
    let (_, text) = bench.output(&spec);
    let mut lines: Vec<&str> = text.lines().collect();
    let mut groups: Vec<&str> = lines.remove(2).split(' ').collect();
    groups.sort_unstable();
    assert_eq!(groups, ["2000", "3000", "7"]);
    assert_eq!(lines, ["1000", "2000", "/work/below", "/home/web", "nameserver 192.0.2.1"]);
    bench.remove();
}

#[test]
fn a_working_directory_that_its_user_may_not_enter_is_entered() {
    let Some(bench) = Bench::new(|_| ()) else { return };
    let mut spec = bench.spec("/bin/pwd; test -r . || echo closed");
    add_program(&spec.rootfs, "/bin/pwd");
    spec.process.user.user = NameOrId::Id(1000);
    fs::create_dir_all(spec.rootfs.join("work/below")).unwrap();
    fs::set_permissions(spec.rootfs.join("work/below"), fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(bench.output(&spec).1, "/work/below\nclosed\n");
    bench.remove();
}

#[test]
fn the_login_is_the_users_and_not_the_servers() {
    let Some(bench) = Bench::new(|_| ()) else { return };
    for (user, wanted) in [(1000, "web\n"), (1001, "none\n")] {
        let mut spec = bench.spec("logname 2>/dev/null || echo none");
        add_program(&spec.rootfs, "/usr/bin/logname");
        fs::create_dir_all(spec.rootfs.join("etc")).unwrap();
        fs::write(spec.rootfs.join("etc/passwd"), "web:x:1000:2000::/home/web:/bin/sh\n").unwrap();
        spec.process.user.user = NameOrId::Id(user);
        assert_eq!(bench.output(&spec).1, wanted);
    }
    bench.remove();
}

/// Makes the root one of this userland.
fn set_userland(spec: &ContainerSpec, version: &str) {
    fs::create_dir_all(spec.rootfs.join("bin")).unwrap();
    fs::write(spec.rootfs.join("bin/freebsd-version"), format!("#!/bin/sh\nUSERLAND_VERSION=\"{version}\"\n")).unwrap();
}

#[test]
fn an_older_userland_hears_of_itself_and_a_newer_one_is_refused() {
    let Some(bench) = Bench::new(|_| ()) else { return };
    let kernel = [tool("uname", &["-r"]), tool("uname", &["-K"])].concat();
    for (version, told) in [
        (None, kernel.as_str()),
        (Some(kernel.lines().next().unwrap()), kernel.as_str()),
        (Some("14.0-RELEASE-p3"), "14.0-RELEASE-p3\n1400097\n"),
        (Some("13.2-RELEASE"), "13.2-RELEASE\n1302000\n"),
    ] {
        let spec = bench.spec("uname -r; uname -K");
        add_program(&spec.rootfs, "/usr/bin/uname");
        version.inspect(|version| set_userland(&spec, version));
        assert_eq!(bench.output(&spec).1, told, "{version:?}");
        bench.runtime.remove_container(&spec.id).unwrap();
    }
    let spec = bench.spec("uname -r");
    set_userland(&spec, "99.1-RELEASE");
    let error = bench.runtime.create_container(&spec).unwrap_err().to_string();
    assert!(error.contains("99.1-RELEASE") && error.contains(kernel.lines().next().unwrap()), "{error}");
    assert!(!bench.runtime.inventory().unwrap().containers.contains_key(&spec.id));
    bench.remove();
}

#[test]
fn a_program_has_its_standard_streams_and_no_other_descriptor() {
    let Some(bench) = Bench::new(|_| ()) else { return };
    let spec = bench.spec("for d in 3 4 5 6 7 8 9; do (: <&$d) 2>/dev/null && echo $d; done; echo done");
    assert_eq!(bench.output(&spec).1, "done\n");
    bench.remove();
}

#[test]
fn a_set_user_id_program_gains_nothing_where_it_may_not() {
    let Some(bench) = Bench::new(|_| ()) else { return };
    for (forbidden, wanted) in [(false, "0\n"), (true, "1000\n")] {
        let mut spec = bench.spec("id -u");
        add_program(&spec.rootfs, "/usr/bin/id");
        fs::set_permissions(spec.rootfs.join("usr/bin/id"), fs::Permissions::from_mode(0o4755)).unwrap();
        spec.process.user.user = NameOrId::Id(1000);
        spec.security.no_new_privileges = forbidden;
        assert_eq!(bench.output(&spec).1, wanted);
    }
    bench.remove();
}

#[test]
fn a_terminal_is_seen_inside_and_resized() {
    let Some(bench) = Bench::new(|_| ()) else { return };
    let spec = bench.spec("while :; do sleep 1; done");
    add_program(&spec.rootfs, "/bin/stty");
    bench.start(&spec);
    let script = "test -t 0 && echo is a $TERM; read x; stty size; exit 3".to_owned();
    let args = vec!["sh".to_owned(), "-c".to_owned(), script];
    let mut session = bench.runtime.exec(&spec.id, &ExecSpec { args, tty: true, stdin: true }).unwrap();
    let mut output = File::from(session.stdout.take().unwrap());
    read_until(&mut output, "is a xterm");
    session.control.resize(91, 33).unwrap();
    File::from(session.stdin.take().unwrap()).write_all(b"\n").unwrap();
    read_until(&mut output, "33 91");
    assert_eq!(session.control.wait(PATIENCE).unwrap(), Some(3));
    // A terminal keeps the jail that it was opened in.
    drop((session, output));
    let mut first = bench.spec("test -t 1 && echo a terminal; echo error >&2");
    first.process.tty = true;
    first.process.user.user = NameOrId::Id(1000);
    assert!(bench.output(&first).1.contains("a terminal"));
    bench.remove();
}
