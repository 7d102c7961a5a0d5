//! Containers: their states and exits, specs that are refused, their logs, and a restarted server.

use host::ContainerId;

use super::{Bench, Check, Subject, eventually, readable};
use crate::spec::{Mount, MountOptions, MountSource, NameOrId, Propagation, Resources, Signal};
use crate::{ContainerState, Error};

pub(super) const CHECKS: &[Check] = &[
    ("a container is created, runs, and its exit code is exact", life),
    ("a container is made once and started once", once),
    ("a container that is missing is removed already", missing),
    ("a program that is not there is named", no_program),
    ("a mount source that is not there is named", no_source),
    ("a user that the image does not have is named", no_user),
    ("a signal reaches the first process", signal),
    ("a kill leaves nothing", kill),
    ("the log has every line, and is reopened", log),
    ("a container outlives its server", outlives),
    ("an exit is not lost while no server runs", exit_kept),
    ("usage is told of running containers", usage),
    ("what runs is found in the kernel", kernel_objects),
    ("a container whose record is damaged is killed and removed", damaged),
];

fn life(subject: &Subject) {
    let bench = Bench::new(subject);
    for code in [0, 3, 255] {
        let spec = bench.create(&(subject.programs.exit)(code));
        assert_eq!(bench.runtime.container_state(&spec.id).expect("it is known"), ContainerState::Created);
        assert!(matches!(bench.runtime.exit_descriptor(&spec.id), Err(Error::Conflict { .. })));
        let started = bench.runtime.start_container(&spec.id).expect("a container is started");
        let exit = bench.wait(&spec.id);
        assert_eq!((exit.code, exit.out_of_memory), (i32::from(code), false));
        assert!(exit.at >= started.at && started.pid > 0);
        bench.runtime.remove_container(&spec.id).expect("a container is removed");
    }
    bench.remove();
}

fn once(subject: &Subject) {
    let bench = Bench::new(subject);
    let spec = bench.spec(&subject.programs.block);
    let identity = bench.runtime.create_container(&spec).expect("a container is created");
    assert_eq!(bench.runtime.create_container(&spec).expect("a container is kept"), identity);
    assert_eq!((identity.uid, identity.gid), (0, 0));
    bench.runtime.start_container(&spec.id).expect("a container is started");
    assert!(matches!(bench.runtime.start_container(&spec.id), Err(Error::Conflict { .. })));
    assert!(matches!(bench.runtime.container_state(&spec.id), Ok(ContainerState::Running(_))));
    bench.remove();
}

fn damaged(subject: &Subject) {
    let bench = Bench::new(subject);
    let spec = bench.start(&subject.programs.block);
    (subject.damage)(&spec.id);
    bench.runtime.kill_container(&spec.id).expect("a container is killed");
    bench.wait(&spec.id);
    bench.runtime.remove_container(&spec.id).expect("a container is removed");
    bench.remove();
}

fn missing(subject: &Subject) {
    let runtime = (subject.open)();
    let id = ContainerId::random();
    runtime.remove_container(&id).expect("what is missing is removed already");
    assert!(matches!(runtime.container_state(&id), Err(Error::NotFound { .. })));
    assert!(matches!(runtime.start_container(&id), Err(Error::NotFound { .. })));
    assert!(matches!(runtime.exit_descriptor(&id), Err(Error::NotFound { .. })));
}

fn no_program(subject: &Subject) {
    let bench = Bench::new(subject);
    let spec = bench.create(&["missing".to_owned()]);
    let error = bench.runtime.start_container(&spec.id).expect_err("a program that is not there does not run");
    assert!(matches!(&error, Error::Command { program, exit_code: 127, .. } if program == "missing"), "{error:?}");
    assert_eq!(bench.runtime.container_state(&spec.id).expect("it is known"), ContainerState::Created);
    bench.remove();
}

fn no_source(subject: &Subject) {
    let bench = Bench::new(subject);
    let mut spec = bench.spec(&subject.programs.block);
    spec.mounts.push(Mount {
        destination: "/mnt".into(),
        source: MountSource::Host("/no/such/source".into()),
        readonly: false,
        recursive_readonly: false,
        propagation: Propagation::Private,
        options: MountOptions::default(),
    });
    let error = bench.runtime.create_container(&spec).expect_err("a missing source is refused");
    assert!(matches!(&error, Error::Invalid { .. }) && error.to_string().contains("/no/such/source"), "{error:?}");
    bench.remove();
}

fn no_user(subject: &Subject) {
    let bench = Bench::new(subject);
    let mut spec = bench.spec(&subject.programs.block);
    spec.process.user.user = NameOrId::Name("nobody-has-this-name".to_owned());
    let error = bench.runtime.create_container(&spec).expect_err("an unknown user is refused");
    assert!(matches!(&error, Error::Invalid { .. }) && error.to_string().contains("nobody-has-this-name"), "{error:?}");
    bench.remove();
}

fn signal(subject: &Subject) {
    let bench = Bench::new(subject);
    let spec = bench.start(&subject.programs.block);
    let refused = bench.runtime.signal_container(&spec.id, &Signal("NOSUCH".to_owned()));
    assert!(matches!(refused, Err(Error::Invalid { .. })), "{refused:?}");
    // A shell has its trap only some time after its start; until then the kernel ignores TERM for a namespace's init.
    eventually("TERM ends the container", || {
        bench.runtime.signal_container(&spec.id, &Signal::term()).expect("a signal is sent");
        !matches!(bench.runtime.container_state(&spec.id), Ok(ContainerState::Running(_)))
    });
    assert_eq!(bench.wait(&spec.id).code, 143);
    bench.runtime.signal_container(&spec.id, &Signal::term()).expect("a signal to what has ended is done already");
    bench.remove();
}

fn kill(subject: &Subject) {
    let bench = Bench::new(subject);
    let spec = bench.start(&subject.programs.block);
    bench.runtime.kill_container(&spec.id).expect("a container is killed");
    assert_eq!(bench.exited(&spec.id).code, 137);
    bench.runtime.kill_container(&spec.id).expect("what has ended is killed already");
    bench.remove();
}

fn log(subject: &Subject) {
    let bench = Bench::new(subject);
    let spec = bench.start(&(subject.programs.print)("a line for the log"));
    bench.wait(&spec.id);
    let text = bench.log(&spec);
    assert!(text.ends_with(" stdout F a line for the log\n") && text.lines().count() == 1, "{text:?}");
    assert!(matches!(bench.runtime.reopen_log(&spec.id), Err(Error::Conflict { .. })));

    let running = bench.start(&subject.programs.block);
    let path = running.log_path.clone().expect("the suite's containers have logs");
    let _ = std::fs::rename(&path, path.with_extension("1"));
    bench.runtime.reopen_log(&running.id).expect("a log is reopened");
    assert!(path.exists(), "the log is there anew");
    bench.remove();
}

fn outlives(subject: &Subject) {
    let bench = Bench::new(subject);
    let spec = bench.start(&subject.programs.block);
    let before = bench.runtime.container_state(&spec.id).expect("it is known");
    let again = (subject.open)();
    assert_eq!(again.container_state(&spec.id).expect("it is found again"), before);
    let descriptor = again.exit_descriptor(&spec.id).expect("a running container has an exit");
    assert!(!readable(&descriptor, std::time::Duration::from_millis(100)), "it still runs");
    again.kill_container(&spec.id).expect("it can be killed");
    assert!(readable(&descriptor, super::PATIENCE), "its end is seen");
    bench.remove();
}

fn exit_kept(subject: &Subject) {
    let bench = Bench::new(subject);
    let spec = bench.start(&(subject.programs.exit)(7));
    let again = (subject.open)();
    eventually("the exit is recorded", || !matches!(again.container_state(&spec.id), Ok(ContainerState::Running(_))));
    assert_eq!(bench.exited(&spec.id).code, 7);
    assert!(readable(&again.exit_descriptor(&spec.id).expect("it has an exit"), super::PATIENCE));
    bench.remove();
}

fn usage(subject: &Subject) {
    let bench = Bench::new(subject);
    let spec = bench.start(&subject.programs.block);
    let usage = bench.runtime.container_usage(&spec.id).expect("a running container's usage is told");
    assert!(usage.cpu_nanoseconds.is_some() && usage.memory_bytes.is_some(), "{usage:?}");
    bench.runtime.update_container(&spec.id, &Resources::default()).expect("an update of nothing changes nothing");
    bench.runtime.kill_container(&spec.id).expect("a container is killed");
    assert!(matches!(bench.runtime.container_usage(&spec.id), Err(Error::Conflict { .. })));
    bench.remove();
}

fn kernel_objects(subject: &Subject) {
    let bench = Bench::new(subject);
    let spec = bench.create(&subject.programs.block);
    let runtime = (subject.open)();
    let find = |container| runtime.kernel_object(&spec.pod, container).expect("the kernel can be asked");
    assert!(find(None).is_some_and(|pod| !pod.name.is_empty()));
    assert_eq!(find(Some(&spec.id)), None, "it was not started");
    bench.runtime.start_container(&spec.id).expect("a container is started");
    let running = find(Some(&spec.id)).expect("a running container is found");
    assert!(running.name.contains(spec.id.short()) && running.number.is_some(), "{running:?}");
    bench.runtime.kill_container(&spec.id).expect("a container is killed");
    assert_eq!(find(Some(&spec.id)), None, "it has ended");
    bench.remove();
    assert_eq!(find(None), None, "it was removed");
}
