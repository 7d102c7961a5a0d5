//! Pods: created and removed repeatedly, found again, and removed with their containers.

use host::{Place, PodId};

use super::{Bench, Check, Subject, pod_spec};
use crate::Error;
use crate::spec::{PidScope, Scope};

pub(super) const CHECKS: &[Check] = &[
    ("a pod is made once however often it is asked for", made_once),
    ("a pod that is missing is removed already", missing),
    ("a pod is found by a server that was started again", found_again),
    ("a pod takes its containers with it", takes_containers),
    ("a pod that lost something is not whole, and can be removed or made anew", lost),
    ("a pod on the host's network is nowhere else", host_network),
    ("a pod cannot share the processes of a container", no_target),
    ("a spare becomes a pod", spare),
];

fn made_once(subject: &Subject) {
    let runtime = (subject.open)();
    let spec = pod_spec();
    let place = runtime.create_pod(&spec, None).expect("a pod is created");
    assert_ne!(place, Place::Host);
    assert_eq!(runtime.create_pod(&spec, None).expect("a pod is kept"), place);
    assert_eq!(runtime.place(&spec.id).expect("a pod has a place"), place);
    let found = runtime.inventory().expect("the inventory can be taken").pods;
    assert_eq!(found.iter().filter(|id| **id == spec.id).count(), 1);
    runtime.remove_pod(&spec.id).expect("a pod is removed");
    assert!(matches!(runtime.place(&spec.id), Err(Error::NotFound { .. })));
}

fn missing(subject: &Subject) {
    let runtime = (subject.open)();
    let id = PodId::random();
    runtime.remove_pod(&id).expect("what is missing is removed already");
    assert!(matches!(runtime.place(&id), Err(Error::NotFound { .. })));
    assert!(matches!(runtime.connect(&id, 80), Err(Error::NotFound { .. })));
    assert!(matches!(runtime.update_pod(&id, &pod_spec().resources), Err(Error::NotFound { .. })));
}

fn found_again(subject: &Subject) {
    let bench = Bench::new(subject);
    let place = bench.runtime.place(&bench.pod).expect("a pod has a place");
    let again = (subject.open)();
    assert_eq!(again.place(&bench.pod).expect("a pod is found again"), place);
    assert!(again.inventory().expect("the inventory can be taken").pods.contains(&bench.pod));
    again.remove_pod(&bench.pod).expect("a pod is removed by its id alone");
    bench.remove();
}

fn takes_containers(subject: &Subject) {
    let bench = Bench::new(subject);
    let running = bench.start(&subject.programs.block);
    let created = bench.create(&subject.programs.block);
    bench.runtime.remove_pod(&bench.pod).expect("a pod is removed with its containers");
    for id in [&running.id, &created.id] {
        assert!(matches!(bench.runtime.container_state(id), Err(Error::NotFound { .. })), "{id} is gone");
    }
}

fn lost(subject: &Subject) {
    let bench = Bench::new(subject);
    let whole = |id: &PodId| bench.runtime.whole_pods(std::slice::from_ref(id)).expect("the kernel can be asked");
    let is_whole = || whole(&bench.pod).contains(&bench.pod);
    let running = bench.start(&subject.programs.block);
    assert!(is_whole());
    (subject.lose)(&bench.pod);
    assert!(!is_whole());
    assert!(matches!(bench.runtime.place(&bench.pod), Err(Error::NotFound { .. })));
    let refused = bench.runtime.create_container(&bench.spec(&subject.programs.block));
    assert!(matches!(refused, Err(Error::NotFound { .. })), "{refused:?}");
    let found = bench.runtime.inventory().expect("the inventory can be taken");
    assert!(found.pods.contains(&bench.pod), "what is left of it is removed by its id");
    bench.runtime.kill_container(&running.id).expect("what may still run is killed");
    bench.runtime.remove_pod(&bench.pod).expect("a pod that lost something is removed");
    assert!(!bench.runtime.inventory().expect("the inventory can be taken").pods.contains(&bench.pod));

    let spec = pod_spec();
    bench.runtime.create_pod(&spec, None).expect("a pod is created");
    (subject.lose)(&spec.id);
    bench.runtime.create_pod(&spec, None).expect("a pod that lost something is made anew");
    assert_eq!(whole(&spec.id), [spec.id.clone()].into());
    assert_eq!(whole(&PodId::random()), [].into(), "it is none of the runtime's");
    bench.runtime.remove_pod(&spec.id).expect("a pod is removed");
    bench.remove();
}

fn host_network(subject: &Subject) {
    let runtime = (subject.open)();
    let spec = crate::spec::PodSpec { network: Scope::Host, hostname: None, ..pod_spec() };
    assert_eq!(runtime.create_pod(&spec, None).expect("a pod is created"), Place::Host);
    assert_eq!(runtime.place(&spec.id).expect("a pod has a place"), Place::Host);
    runtime.remove_pod(&spec.id).expect("a pod is removed");
}

fn no_target(subject: &Subject) {
    let runtime = (subject.open)();
    let spec = crate::spec::PodSpec { pid: PidScope::Target(host::ContainerId::random()), ..pod_spec() };
    let refused = runtime.create_pod(&spec, None);
    assert!(matches!(refused, Err(Error::Unsupported { .. } | Error::Invalid { .. })), "{refused:?}");
    runtime.remove_pod(&spec.id).expect("nothing was made");
}

fn spare(subject: &Subject) {
    let runtime = (subject.open)();
    let id = PodId::random();
    let Some(place) = runtime.create_spare(&id).expect("a spare is made, or there is no use for one") else { return };
    assert_eq!(runtime.create_spare(&id).expect("a spare is kept"), Some(place));
    let inventory = runtime.inventory().expect("the inventory can be taken");
    assert!(inventory.spares.contains(&id) && !inventory.pods.contains(&id));
    let spec = pod_spec();
    runtime.create_pod(&spec, Some(&id)).expect("a spare becomes a pod");
    let inventory = runtime.inventory().expect("the inventory can be taken");
    assert!(!inventory.spares.contains(&id) && inventory.pods.contains(&spec.id));
    runtime.remove_pod(&spec.id).expect("a pod is removed");
    runtime.create_spare(&id).expect("a spare is made");
    runtime.remove_pod(&id).expect("a spare is removed as a pod is");
}
