//! A random walk over the RPCs against a model of what clients may expect, with failing calls, restarts and crashes on the
//! way. The seed is printed, and `CELLBLOCK_WALK_SEED` walks the same way again; `CELLBLOCK_WALK_STEPS` walks further.

use std::collections::BTreeMap;

use host::fault::Fault;
use proto::v1::*;

use crate::lifecycle::exited;
use crate::world::{Running, World, create, run_pod};

/// Steps of a walk in an ordinary test run: half a minute.
const STEPS: u64 = 1500;
/// The walk that every test run takes besides a fresh one.
const FIXED_SEED: u64 = 0x5eed_ce11_b10c;
/// As many as are there at once.
const MOST_PODS: usize = 4;
const MOST_CONTAINERS: usize = 3;

/// What clients may expect.
#[derive(Default)]
struct Model {
    pods: BTreeMap<String, Pod>,
    names: u64,
}

struct Pod {
    name: String,
    ready: bool,
    containers: BTreeMap<String, ContainerState>,
}

/// splitmix64: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).unwrap()
    }

    fn pick<T: Clone>(&mut self, of: &[T]) -> Option<T> {
        if of.is_empty() { None } else { Some(of[self.below(of.len())].clone()) }
    }
}

/// Makes a request until it succeeds: a fault strikes once, and its roll-back may need one more.
macro_rules! again {
    ($client:ident.$call:ident($request:expr)) => {{
        let request = $request;
        let mut left = 3;
        loop {
            left -= 1;
            match $client.$call(request.clone()).await {
                Ok(answer) => break answer.into_inner(),
                Err(status) => assert!(left > 0, "it never succeeds: {status}"),
            }
        }
    }};
}

struct Walk<'a> {
    world: &'a World,
    server: Option<Running>,
    model: Model,
    random: Random,
}

impl Walk<'_> {
    fn step(&mut self) {
        if self.random.below(3) == 0 {
            let fault = self.random.pick(&[Fault::FailBefore, Fault::FailAfter]).unwrap();
            let nth = 1 + self.random.next() % 8;
            self.world.faults.arm(nth, fault);
        }
        match self.random.below(12) {
            0 | 1 => self.run_pod(),
            2 => self.stop_pod(),
            3 => self.remove_pod(),
            4 | 5 => self.create(),
            6 | 7 => self.start(),
            8 => self.stop(),
            9 => self.end(),
            10 => self.remove(),
            _ => self.restart(),
        }
        self.world.faults.disarm();
        self.compare();
    }

    fn server(&self) -> &Running {
        self.server.as_ref().unwrap()
    }

    fn any_pod(&mut self, wanted: impl Fn(&Pod) -> bool) -> Option<String> {
        let ids: Vec<_> = self.model.pods.iter().filter(|(_, pod)| wanted(pod)).map(|(id, _)| id.clone()).collect();
        self.random.pick(&ids)
    }

    fn any_container(&mut self, state: Option<ContainerState>, in_ready: bool) -> Option<(String, String)> {
        let all: Vec<_> = self
            .model
            .pods
            .iter()
            .filter(|(_, pod)| pod.ready || !in_ready)
            .flat_map(|(id, pod)| pod.containers.iter().map(move |(one, state)| (id.clone(), one.clone(), *state)))
            .filter(|(_, _, is)| state.is_none_or(|wanted| wanted == *is))
            .map(|(pod, one, _)| (pod, one))
            .collect();
        self.random.pick(&all)
    }

    fn set(&mut self, pod: &str, container: &str, state: ContainerState) {
        self.model.pods.get_mut(pod).unwrap().containers.insert(container.to_owned(), state);
    }

    fn run_pod(&mut self) {
        if self.model.pods.len() >= MOST_PODS {
            return;
        }
        self.model.names += 1;
        let name = format!("pod{}", self.model.names);
        let mut client = self.server().client();
        let id = self.server().run(async { again!(client.run_pod_sandbox(run_pod(&name))).pod_sandbox_id });
        self.model.pods.insert(id, Pod { name, ready: true, containers: BTreeMap::new() });
    }

    fn stop_pod(&mut self) {
        let Some(id) = self.any_pod(|_| true) else { return };
        let mut client = self.server().client();
        let request = StopPodSandboxRequest { pod_sandbox_id: id.clone() };
        self.server().run(async { again!(client.stop_pod_sandbox(request)) });
        let pod = self.model.pods.get_mut(&id).unwrap();
        pod.ready = false;
        for state in pod.containers.values_mut() {
            if *state == ContainerState::ContainerRunning {
                *state = ContainerState::ContainerExited;
            }
        }
    }

    fn remove_pod(&mut self) {
        let Some(id) = self.any_pod(|_| true) else { return };
        let mut client = self.server().client();
        let request = RemovePodSandboxRequest { pod_sandbox_id: id.clone() };
        self.server().run(async { again!(client.remove_pod_sandbox(request)) });
        self.model.pods.remove(&id);
    }

    fn create(&mut self) {
        let Some(pod) = self.any_pod(|pod| pod.ready && pod.containers.len() < MOST_CONTAINERS) else { return };
        self.model.names += 1;
        let (name, pod_name) = (format!("c{}", self.model.names), self.model.pods[&pod].name.clone());
        let request = create(self.world, &pod, &pod_name, &name, &["forever"]);
        let mut client = self.server().client();
        let id = self.server().run(async { again!(client.create_container(request)).container_id });
        self.set(&pod, &id, ContainerState::ContainerCreated);
    }

    fn start(&mut self) {
        let Some((pod, id)) = self.any_container(Some(ContainerState::ContainerCreated), true) else { return };
        let mut client = self.server().client();
        let request = StartContainerRequest { container_id: id.clone() };
        // One that cannot be started has ended.
        let state = match self.server().run(client.start_container(request)) {
            Ok(_) => ContainerState::ContainerRunning,
            Err(_) => ContainerState::ContainerExited,
        };
        self.set(&pod, &id, state);
    }

    fn stop(&mut self) {
        let Some((pod, id)) = self.any_container(None, false) else { return };
        let mut client = self.server().client();
        let request = StopContainerRequest { container_id: id.clone(), timeout: 1 };
        self.server().run(async { again!(client.stop_container(request)) });
        if self.model.pods[&pod].containers[&id] == ContainerState::ContainerRunning {
            self.set(&pod, &id, ContainerState::ContainerExited);
        }
    }

    /// A container ends by itself.
    fn end(&mut self) {
        let Some((pod, id)) = self.any_container(Some(ContainerState::ContainerRunning), true) else { return };
        self.world.faults.disarm();
        let code = i32::try_from(self.random.below(100)).unwrap();
        self.world.kernel.finish(&id.parse().unwrap(), code, false);
        let mut client = self.server().client();
        assert_eq!(self.server().run(exited(&mut client, &id)).exit_code, code);
        self.set(&pod, &id, ContainerState::ContainerExited);
    }

    fn remove(&mut self) {
        let Some((pod, id)) = self.any_container(None, false) else { return };
        let mut client = self.server().client();
        let request = RemoveContainerRequest { container_id: id.clone() };
        self.server().run(async { again!(client.remove_container(request)) });
        self.model.pods.get_mut(&pod).unwrap().containers.remove(&id);
    }

    fn restart(&mut self) {
        self.world.faults.disarm();
        let server = self.server.take().unwrap();
        if self.random.below(2) == 0 {
            server.stop()
        } else {
            server.kill()
        }
        self.server = Some(self.world.start());
    }

    fn compare(&self) {
        let mut client = self.server().client();
        let (pods, containers) = self.server().run(async {
            let pods = client.list_pod_sandbox(ListPodSandboxRequest::default()).await.unwrap().into_inner().items;
            let all = client.list_containers(ListContainersRequest::default()).await.unwrap().into_inner().containers;
            (pods, all)
        });
        let pods: BTreeMap<_, _> = pods.into_iter().map(|pod| (pod.id.clone(), pod.state())).collect();
        let state = |ready| if ready { PodSandboxState::SandboxReady } else { PodSandboxState::SandboxNotready };
        let wanted = self.model.pods.iter().map(|(id, pod)| (id.clone(), state(pod.ready))).collect();
        assert_eq!(pods, wanted);
        let containers: BTreeMap<_, _> = containers.into_iter().map(|one| (one.id.clone(), one.state())).collect();
        let wanted = self.model.pods.values().flat_map(|pod| pod.containers.clone()).collect();
        assert_eq!(containers, wanted);
    }
}

fn walk(seed: u64) {
    let steps = std::env::var("CELLBLOCK_WALK_STEPS").ok().and_then(|text| text.parse().ok()).unwrap_or(STEPS);
    println!("CELLBLOCK_WALK_SEED={seed} CELLBLOCK_WALK_STEPS={steps}");
    let world = World::new();
    let server = world.start();
    server.pull(&world);
    let mut walk = Walk { world: &world, server: Some(server), model: Model::default(), random: Random(seed) };
    for _ in 0..steps {
        walk.step();
    }
    while !walk.model.pods.is_empty() {
        walk.remove_pod();
    }
    walk.compare();
    assert_eq!(world.leftovers(), Vec::<String>::new());
}

#[test]
fn a_walk_with_a_fixed_seed() {
    walk(FIXED_SEED);
}

#[test]
fn a_walk_with_a_fresh_seed() {
    let given = std::env::var("CELLBLOCK_WALK_SEED").ok().and_then(|text| text.parse().ok());
    let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    walk(given.unwrap_or(u64::try_from(clock.as_nanos() & u128::from(u64::MAX)).unwrap()));
}
