//! A backend in memory that behaves like a kernel: its objects outlive the server ([`Kernel`] is shared by every [`Fake`] on
//! it), and every call can be made to fail or to hang ([`host::fault`]). It needs no rights. Its programs are words: `exit N`,
//! `print TEXT`, `copy` (standard input to standard output), `missing`; anything else runs until it is killed.

mod session;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use host::fault::Faults;
use host::{ContainerId, Need, Place, PodId};

use crate::spec::{
    ContainerSpec, ExecSpec, Identity, MountSource, NameOrId, PidScope, PodSpec, Profile, Resources, Scope, Signal,
};
use crate::{
    ContainerState, Details, Error, Exit, Features, Inventory, KernelObject, Runtime, Session, Started, Usage,
};
pub(crate) use session::Ended;

/// The name of this backend in its errors.
const BACKEND: &str = "fake";
/// A kernel parameter that this kernel lacks, for tests of refusals.
const MISSING_SYSCTL: &str = "net.missing";
/// Shells add it to a signal's number to make an exit code.
const SIGNALLED: i32 = 128;

/// The fake kernel's objects; a clone is the same kernel.
#[derive(Debug, Clone, Default)]
pub struct Kernel {
    state: Arc<Mutex<State>>,
    /// The faults of the calls to it.
    pub faults: Faults,
}

#[derive(Debug, Default)]
struct State {
    pods: BTreeMap<PodId, Pod>,
    spares: BTreeSet<PodId>,
    containers: BTreeMap<ContainerId, Container>,
    next_pid: u32,
}

#[derive(Debug)]
struct Pod {
    place: Place,
    /// Whether something outside the server removed its kernel objects.
    lost: bool,
    ports: BTreeMap<u16, UnixListener>,
}

#[derive(Debug)]
struct Container {
    spec: ContainerSpec,
    identity: Identity,
    state: ContainerState,
    ended: Option<Arc<Ended>>,
    attached: Vec<UnixStream>,
    usage: Usage,
}

impl Kernel {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends a running container as the kernel would, for tests of unexpected exits.
    ///
    /// # Panics
    /// When it is not running.
    pub fn finish(&self, id: &ContainerId, code: i32, out_of_memory: bool) {
        let mut state = self.lock();
        let container = state.containers.get_mut(id).expect("the test names a container that is there");
        assert!(matches!(container.state, ContainerState::Running(_)), "the container runs");
        container.finish(code, out_of_memory);
    }

    /// Loses everything, as a reboot does.
    pub fn reboot(&self) {
        let mut state = self.lock();
        for container in state.containers.values_mut() {
            container.finish(SIGNALLED + 9, false);
        }
        *state = State::default();
    }

    /// Loses a pod with its processes, as if somebody removed its jail behind the server's back; the backend's records stay.
    ///
    /// # Panics
    /// When there is no such pod.
    pub fn lose(&self, id: &PodId) {
        let mut state = self.lock();
        state.pods.get_mut(id).expect("the test names a pod that is there").lost = true;
        for container in state.containers.values_mut().filter(|container| container.spec.pod == *id) {
            container.finish(SIGNALLED + 9, false);
        }
    }

    /// Listens on a port of a pod: the test accepts what [`Runtime::connect`] connects.
    ///
    /// # Panics
    /// When there is no such pod.
    pub fn listen(&self, id: &PodId, port: u16, listener: UnixListener) {
        self.lock().pods.get_mut(id).expect("the test names a pod that is there").ports.insert(port, listener);
    }

    /// The specs of all containers, as the backend got them.
    #[must_use]
    pub fn specs(&self) -> Vec<ContainerSpec> {
        self.lock().containers.values().map(|container| container.spec.clone()).collect()
    }
}

impl Container {
    /// Writes a line to the log and to the attached clients. A fake log is not rotated.
    fn print(&mut self, text: &str) {
        if let Some(path) = &self.spec.log_path {
            let file = std::fs::OpenOptions::new().append(true).create(true).open(path);
            // A log that cannot be written does not stop a container; the conformance suite reads it.
            let _ = file.and_then(|mut file| writeln!(file, "1970-01-01T00:00:00.000000000Z stdout F {text}"));
        }
        self.attached.retain_mut(|stream| stream.write_all(format!("{text}\n").as_bytes()).is_ok());
    }

    fn finish(&mut self, code: i32, out_of_memory: bool) {
        let ContainerState::Running(started) = self.state else { return };
        let exit = Exit { at: SystemTime::now(), code, out_of_memory, message: String::new() };
        self.state = ContainerState::Exited { started, exit };
        self.attached.clear();
        if let Some(ended) = &self.ended {
            ended.end(code);
        }
    }

    fn start(&mut self, pid: u32) -> Result<Started, Error> {
        if self.state != ContainerState::Created {
            return Err(Error::conflict(format!("container {} was started already", self.spec.id)));
        }
        let args = self.spec.process.args.clone();
        let started = Started { pid, at: SystemTime::now() };
        if args.first().is_none_or(|program| program == "missing") {
            return Err(missing(&args));
        }
        self.state = ContainerState::Running(started);
        self.ended = Some(Arc::default());
        match (args[0].as_str(), args.get(1)) {
            ("exit", code) => self.finish(code.and_then(|code| code.parse().ok()).unwrap_or(0), false),
            ("print", Some(text)) => {
                self.print(text);
                self.finish(0, false);
            }
            _ => {}
        }
        Ok(started)
    }
}

pub(crate) fn missing(args: &[String]) -> Error {
    let program = args.first().cloned().unwrap_or_default();
    Error::Command { program, reason: "executable file not found in $PATH".to_owned(), exit_code: 127 }
}

/// The backend on a [`Kernel`].
#[derive(Debug, Clone, Default)]
pub struct Fake {
    /// The kernel that it speaks to.
    pub kernel: Kernel,
    /// Whether it supports spares.
    pub spares: bool,
}

impl Fake {
    /// Makes one call to the kernel, with the fault that is due.
    fn call<T>(&self, operation: &str, effect: impl FnOnce(&mut State) -> Result<T, Error>) -> Result<T, Error> {
        let failed = |source| Error::Failed { operation: operation.to_owned(), source };
        self.kernel.faults.call(operation, || effect(&mut self.kernel.lock()), failed)
    }
}

impl State {
    fn container(&mut self, id: &ContainerId) -> Result<&mut Container, Error> {
        self.containers.get_mut(id).ok_or_else(|| Error::not_found(format!("container {id}")))
    }

    fn pod(&mut self, id: &PodId) -> Result<&mut Pod, Error> {
        self.pods.get_mut(id).filter(|pod| !pod.lost).ok_or_else(|| Error::not_found(format!("pod {id}")))
    }

    fn running(&mut self, id: &ContainerId) -> Result<&mut Container, Error> {
        let container = self.container(id)?;
        match container.state {
            ContainerState::Running(_) => Ok(container),
            _ => Err(Error::conflict(format!("container {id} is not running"))),
        }
    }

    fn remove(&mut self, id: &ContainerId) {
        if let Some(mut container) = self.containers.remove(id) {
            container.finish(SIGNALLED + 9, false);
        }
    }
}

fn check(spec: &ContainerSpec) -> Result<Identity, Error> {
    for (index, mount) in spec.mounts.iter().enumerate() {
        if let MountSource::Host(path) = &mount.source
            && !path.exists()
        {
            let reason = format!("{} does not exist", path.display());
            return Err(Error::invalid(format!("mounts[{index}].source"), reason));
        }
    }
    let number = |name: &NameOrId, field: &str| match name {
        NameOrId::Id(id) => Ok(*id),
        NameOrId::Name(name) if name == "root" => Ok(0),
        NameOrId::Name(name) => Err(Error::invalid(field, format!("no {name:?} in the image"))),
    };
    let user = &spec.process.user;
    let uid = number(&user.user, "user")?;
    let gid = user.group.as_ref().map_or(Ok(0), |group| number(group, "group"))?;
    let groups: BTreeSet<u32> = user.supplemental.iter().copied().chain([gid]).collect();
    Ok(Identity { uid, gid, groups: groups.into_iter().collect() })
}

impl Runtime for Fake {
    fn name(&self) -> &'static str {
        BACKEND
    }

    fn platforms(&self) -> Vec<String> {
        vec!["linux/amd64".to_owned()]
    }

    fn needs(&self) -> Vec<Need> {
        Vec::new()
    }

    fn features(&self) -> Features {
        Features { recursive_read_only_mounts: true, supplemental_groups_policy: true }
    }

    /// No fault strikes here: it asks nothing of the kernel.
    fn check_pod(&self, spec: &PodSpec) -> Result<(), Error> {
        if matches!(spec.pid, PidScope::Target(_)) {
            return Err(Error::Unsupported { what: "a pod with pid TARGET".to_owned(), backend: BACKEND });
        }
        if spec.sysctls.contains_key(MISSING_SYSCTL) {
            return Err(Error::invalid("sysctls", format!("{MISSING_SYSCTL} does not exist")));
        }
        Ok(())
    }

    fn check_container(&self, spec: &ContainerSpec) -> Result<(), Error> {
        match &spec.security.apparmor {
            Profile::Localhost(name) => {
                Err(Error::Unsupported { what: format!("AppArmor profile {name:?}"), backend: BACKEND })
            }
            _ => Ok(()),
        }
    }

    /// No fault strikes here, as in [`Fake::check_pod`].
    fn can_share(&self, spec: &ContainerSpec, rootfs: &Path) -> Result<bool, Error> {
        let root = host::root::open(rootfs).map_err(Error::failed("cannot open the rootfs"))?;
        let has = |path: &Path| host::root::resolve(&root, path, None).is_ok();
        Ok(spec.readonly_rootfs && has(&spec.process.cwd) && spec.mounts.iter().all(|mount| has(&mount.destination)))
    }

    fn create_pod(&self, spec: &PodSpec, spare: Option<&PodId>) -> Result<Place, Error> {
        self.check_pod(spec)?;
        self.call("create pod", |state| {
            if let Ok(pod) = state.pod(&spec.id) {
                return Ok(pod.place.clone());
            }
            if let Some(spare) = spare
                && !state.spares.remove(spare)
            {
                return Err(Error::not_found(format!("spare {spare}")));
            }
            let own = Place::Jail(format!("cb-{}", spec.id.short()));
            let place = if spec.network == Scope::Host { Place::Host } else { own };
            state.pods.insert(spec.id.clone(), Pod { place: place.clone(), lost: false, ports: BTreeMap::new() });
            Ok(place)
        })
    }

    fn create_spare(&self, id: &PodId) -> Result<Option<Place>, Error> {
        if !self.spares {
            return Ok(None);
        }
        self.call("create spare", |state| {
            state.spares.insert(id.clone());
            Ok(Some(Place::Jail(format!("cb-spare-{}", id.short()))))
        })
    }

    fn place(&self, id: &PodId) -> Result<Place, Error> {
        self.call("place", |state| Ok(state.pod(id)?.place.clone()))
    }

    fn remove_pod(&self, id: &PodId) -> Result<(), Error> {
        self.call("remove pod", |state| {
            let inside = state.containers.iter().filter(|(_, container)| container.spec.pod == *id);
            let inside: Vec<ContainerId> = inside.map(|(id, _)| id.clone()).collect();
            inside.iter().for_each(|id| state.remove(id));
            state.spares.remove(id);
            state.pods.remove(id);
            Ok(())
        })
    }

    /// No fault strikes here: the server calls it every second, so which call is the Nth would depend on time.
    fn whole_pods(&self, pods: &[PodId]) -> Result<BTreeSet<PodId>, Error> {
        let state = self.kernel.lock();
        Ok(pods.iter().filter(|id| state.pods.get(*id).is_some_and(|pod| !pod.lost)).cloned().collect())
    }

    fn update_pod(&self, id: &PodId, _: &Resources) -> Result<(), Error> {
        self.call("update pod", |state| state.pod(id).map(|_| ()))
    }

    fn create_container(&self, spec: &ContainerSpec) -> Result<Identity, Error> {
        self.check_container(spec)?;
        self.call("create container", |state| {
            state.pod(&spec.pod)?;
            if let Some(container) = state.containers.get(&spec.id) {
                return Ok(container.identity.clone());
            }
            let identity = check(spec)?;
            let container = Container {
                spec: spec.clone(),
                identity: identity.clone(),
                state: ContainerState::Created,
                ended: None,
                attached: Vec::new(),
                usage: Usage { memory_limit_bytes: spec.resources.memory, ..Usage::default() },
            };
            state.containers.insert(spec.id.clone(), container);
            Ok(identity)
        })
    }

    fn start_container(&self, id: &ContainerId) -> Result<Started, Error> {
        self.call("start container", |state| {
            state.next_pid += 1;
            let pid = state.next_pid;
            state.container(id)?.start(pid)
        })
    }

    fn signal_container(&self, id: &ContainerId, signal: &Signal) -> Result<(), Error> {
        self.call("signal container", |state| {
            let number = match signal.0.as_str() {
                "TERM" => 15,
                "KILL" => 9,
                "INT" => 2,
                "HUP" => 1,
                "USR1" => 10,
                other => {
                    return Err(Error::invalid("signal", format!("no signal {other:?}")));
                }
            };
            let container = state.container(id)?;
            if number == 9 || !container.spec.process.args.iter().any(|arg| arg == "stubborn") {
                container.finish(SIGNALLED + number, false);
            }
            Ok(())
        })
    }

    fn kill_container(&self, id: &ContainerId) -> Result<(), Error> {
        self.call("kill container", |state| {
            state.container(id)?.finish(SIGNALLED + 9, false);
            Ok(())
        })
    }

    fn remove_container(&self, id: &ContainerId) -> Result<(), Error> {
        self.call("remove container", |state| {
            state.remove(id);
            Ok(())
        })
    }

    fn container_state(&self, id: &ContainerId) -> Result<ContainerState, Error> {
        self.call("container state", |state| Ok(state.container(id)?.state.clone()))
    }

    fn exit_descriptor(&self, id: &ContainerId) -> Result<OwnedFd, Error> {
        self.call("exit descriptor", |state| {
            let never = || Error::conflict(format!("container {id} was never started"));
            state.container(id)?.ended.as_ref().ok_or_else(never)?.descriptor()
        })
    }

    fn update_container(&self, id: &ContainerId, resources: &Resources) -> Result<(), Error> {
        self.call("update container", |state| {
            let container = state.container(id)?;
            container.usage.memory_limit_bytes = resources.memory.or(container.usage.memory_limit_bytes);
            Ok(())
        })
    }

    fn reopen_log(&self, id: &ContainerId) -> Result<(), Error> {
        self.call("reopen log", |state| {
            let path: Option<PathBuf> = state.running(id)?.spec.log_path.clone();
            let created = path.map(|path| std::fs::OpenOptions::new().append(true).create(true).open(path));
            created.transpose().map(|_| ()).map_err(Error::failed("cannot open the log"))
        })
    }

    fn exec(&self, id: &ContainerId, spec: &ExecSpec) -> Result<Session, Error> {
        self.call("exec", |state| {
            state.running(id)?;
            session::exec(spec)
        })
    }

    fn attach(&self, id: &ContainerId, _stdin: bool) -> Result<Session, Error> {
        self.call("attach", |state| {
            let container = state.running(id)?;
            let ended = container.ended.clone().expect("a running container has an end");
            let (session, output) = session::attach(ended)?;
            container.attached.push(output);
            Ok(session)
        })
    }

    fn connect(&self, id: &PodId, port: u16) -> Result<OwnedFd, Error> {
        self.call("connect", |state| {
            let operation = format!("cannot connect to port {port} of pod {id}");
            let refused = || std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
            let unavailable =
                |source: std::io::Error| Error::Unavailable { operation: operation.clone(), source: source.into() };
            let listener = state.pod(id)?.ports.get(&port).ok_or_else(refused).map_err(unavailable)?;
            let address = listener.local_addr().map_err(unavailable)?;
            Ok(UnixStream::connect_addr(&address).map_err(unavailable)?.into())
        })
    }

    fn kernel_object(&self, pod: &PodId, container: Option<&ContainerId>) -> Result<Option<KernelObject>, Error> {
        self.call("kernel object", |state| {
            let name = format!("cb-{}", pod.short());
            let Some(id) = container else {
                return Ok(state.pod(pod).ok().map(|_| KernelObject { name, number: Some(1) }));
            };
            Ok(match state.containers.get(id).map(|container| &container.state) {
                Some(ContainerState::Running(started)) => {
                    Some(KernelObject { name: format!("{name}.{}", id.short()), number: Some(started.pid) })
                }
                _ => None,
            })
        })
    }

    fn describe_container(&self, id: &ContainerId) -> Result<serde_json::Value, Error> {
        self.call("describe container", |state| {
            serde_json::to_value(&state.container(id)?.spec).map_err(Error::failed("cannot describe a container"))
        })
    }

    fn container_details(&self, id: &ContainerId) -> Result<Details, Error> {
        self.call("container details", |state| {
            state.running(id)?;
            Ok(Details { throttled_nanoseconds: Some(1_500_000_000), limit_hits: Some(2), ..Details::default() })
        })
    }

    fn container_usage(&self, id: &ContainerId) -> Result<Usage, Error> {
        self.call("container usage", |state| {
            let container = state.running(id)?;
            Ok(Usage { cpu_nanoseconds: Some(1_000_000), memory_bytes: Some(4096), ..container.usage })
        })
    }

    fn inventory(&self) -> Result<Inventory, Error> {
        self.call("inventory", |state| {
            let entry = |(id, container): (&ContainerId, &Container)| {
                (id.clone(), (container.spec.pod.clone(), container.state.clone()))
            };
            Ok(Inventory {
                pods: state.pods.keys().cloned().collect(),
                spares: state.spares.iter().cloned().collect(),
                containers: state.containers.iter().map(entry).collect(),
                unknown: Vec::new(),
            })
        })
    }
}
