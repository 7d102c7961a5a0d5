//! The backend: each method of the boundary finds its object and delegates.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use host::{ContainerId, Need, Place, PodId, Prefix};

use super::record::{CONTAINER_RECORD, ContainerRecord};
use super::usage::Counters;
use super::{NAME, container, enforce, filter, inside, inventory, jails, kernel, launch, names, needs, pod, refuse};
use crate::monitor::record::read_spec;
use crate::monitor::{Launch, Supervised, Target};
use crate::spec::{ContainerSpec, ExecSpec, Identity, PodSpec, Resources, Signal};
use crate::{
    ContainerState, Details, Error, Features, Inventory, KernelObject, Runtime, Session, Settings, Started, Usage,
};

/// The root of the pods' jails, in the state directory: an empty directory, in which no process runs. Those with rules of their own
/// have another ([`filter`]).
const EMPTY: &str = "empty";
/// The first and the last real-time signal (SIGRTMIN and SIGRTMAX in sys/signal.h).
const REALTIME: (i32, i32) = (65, 126);

pub(super) struct FreeBsd {
    pub(super) settings: Settings,
    pub(super) containers: Supervised,
    empty: PathBuf,
    counters: Counters,
}

/// Opens the backend: makes its state directory, and continues to destroy what an earlier server began to.
pub(crate) fn open(mut settings: Settings) -> Result<Arc<dyn Runtime>, Error> {
    let failed = || format!("cannot create {}", settings.state.display());
    std::fs::create_dir_all(&settings.state).map_err(Error::failed(failed()))?;
    // The kernel names mounts by their real paths.
    settings.state = settings.state.canonicalize().map_err(Error::failed(failed()))?;
    let empty = settings.state.join(EMPTY);
    // All of them now: a server without pods always looks the same.
    let containers = Supervised::new(&settings, CONTAINER_RECORD);
    for directory in [&settings.state.join("pods"), &settings.state.join("spares"), containers.root(), &empty] {
        std::fs::create_dir_all(directory).map_err(Error::failed(format!("cannot create {}", directory.display())))?;
    }
    let backend = FreeBsd { settings, containers, empty, counters: Counters::default() };
    container::prepare_masks(&backend).map_err(Error::failed("cannot create an empty file"))?;
    pod::sweep(&backend)?;
    Ok(Arc::new(backend))
}

pub(crate) fn prepare_launch(target: Target<'_>) -> Result<Box<dyn Launch>, Error> {
    launch::prepare(target)
}

pub(crate) fn worker(args: &[OsString]) -> Option<ExitCode> {
    inside::main(args)
}

pub(crate) fn realtime_signals() -> (i32, i32) {
    REALTIME
}

impl FreeBsd {
    pub(super) fn state(&self) -> &Path {
        &self.settings.state
    }

    pub(super) fn prefix(&self) -> &Prefix {
        &self.settings.prefix
    }

    pub(super) fn empty(&self) -> &Path {
        &self.empty
    }
}

impl Runtime for FreeBsd {
    fn name(&self) -> &'static str {
        NAME
    }

    fn platforms(&self) -> Vec<String> {
        let architecture = host::oci_architecture(std::env::consts::ARCH);
        let linux = kernel::runs_linux().then(|| format!("linux/{architecture}"));
        let release = kernel::release();
        let own = if release.is_empty() { "freebsd".to_owned() } else { format!("freebsd({release})") };
        std::iter::once(format!("{own}/{architecture}")).chain(linux).collect()
    }

    fn needs(&self) -> Vec<Need> {
        needs::needs()
    }

    /// nullfs does not show mounts below its source: read-only is always recursive.
    fn features(&self) -> Features {
        Features { recursive_read_only_mounts: true, supplemental_groups_policy: true }
    }

    fn check_pod(&self, spec: &PodSpec) -> Result<(), Error> {
        refuse::pod(spec, &kernel::has_parameter)
    }

    fn check_container(&self, spec: &ContainerSpec) -> Result<(), Error> {
        refuse::container(spec).map(drop)
    }

    fn can_share(&self, spec: &ContainerSpec, rootfs: &Path) -> Result<bool, Error> {
        container::can_share(self, spec, rootfs)
    }

    fn create_pod(&self, spec: &PodSpec, spare: Option<&PodId>) -> Result<Place, Error> {
        pod::create(self, spec, spare)
    }

    fn create_spare(&self, id: &PodId) -> Result<Option<Place>, Error> {
        pod::create_spare(self, id).map(Some)
    }

    fn load_filter(&self, id: &PodId) -> Result<bool, Error> {
        filter::load(self, id)
    }

    fn place(&self, id: &PodId) -> Result<Place, Error> {
        pod::place(self, id)
    }

    fn remove_pod(&self, id: &PodId) -> Result<(), Error> {
        pod::remove(self, id)
    }

    fn whole_pods(&self, pods: &[PodId]) -> Result<BTreeSet<PodId>, Error> {
        inventory::whole_pods(self, pods)
    }

    fn update_pod(&self, id: &PodId, resources: &Resources) -> Result<(), Error> {
        pod::update(self, id, resources)
    }

    fn create_container(&self, spec: &ContainerSpec) -> Result<Identity, Error> {
        container::create(self, spec)
    }

    fn start_container(&self, id: &ContainerId) -> Result<Started, Error> {
        self.containers.start(id)
    }

    fn signal_container(&self, id: &ContainerId, signal: &Signal) -> Result<(), Error> {
        self.containers.signal(id, signal)
    }

    fn kill_container(&self, id: &ContainerId) -> Result<(), Error> {
        self.containers.kill(id)
    }

    fn remove_container(&self, id: &ContainerId) -> Result<(), Error> {
        self.counters.forget(id);
        container::remove(self, id)
    }

    fn container_state(&self, id: &ContainerId) -> Result<ContainerState, Error> {
        self.containers.state(id)
    }

    fn exit_descriptor(&self, id: &ContainerId) -> Result<OwnedFd, Error> {
        self.containers.exit_descriptor(id)
    }

    fn update_container(&self, id: &ContainerId, resources: &Resources) -> Result<(), Error> {
        container::update(self, id, resources)
    }

    fn reopen_log(&self, id: &ContainerId) -> Result<(), Error> {
        self.containers.reopen_log(id)
    }

    fn exec(&self, id: &ContainerId, spec: &ExecSpec) -> Result<Session, Error> {
        self.containers.exec(id, spec)
    }

    fn attach(&self, id: &ContainerId, stdin: bool) -> Result<Session, Error> {
        self.containers.attach(id, stdin)
    }

    fn connect(&self, id: &PodId, port: u16) -> Result<OwnedFd, Error> {
        match pod::place(self, id)? {
            Place::Host => inside::connect_here(port).map_err(|source| Error::Unavailable {
                operation: format!("cannot connect to port {port} of the host"),
                source: source.into(),
            }),
            _ => inside::connect(&self.settings.workers, &names::pod(self.prefix(), id), port),
        }
    }

    fn kernel_object(&self, pod: &PodId, container: Option<&ContainerId>) -> Result<Option<KernelObject>, Error> {
        let name = match container {
            Some(id) => names::container(self.prefix(), pod, id),
            None => names::pod(self.prefix(), pod),
        };
        Ok(jails::find(&name)?.map(|found| KernelObject { name, number: u32::try_from(found.jid).ok() }))
    }

    fn describe_container(&self, id: &ContainerId) -> Result<serde_json::Value, Error> {
        container::describe(self, id)
    }

    fn container_details(&self, id: &ContainerId) -> Result<Details, Error> {
        let (directory, record) = self.containers.begun::<ContainerRecord>(id)?;
        let limits = enforce::wanted(&directory, &read_spec(&directory)?)?;
        self.counters.details(id, &record, limits.threads(kernel::bounds()))
    }

    fn container_usage(&self, id: &ContainerId) -> Result<Usage, Error> {
        let (directory, record) = self.containers.begun::<ContainerRecord>(id)?;
        let spec = read_spec(&directory)?;
        let limits = enforce::wanted(&directory, &spec)?;
        let siblings = || {
            let ids = self.containers.of_pod(&spec.pod).unwrap_or_default();
            ids.iter().map(|id| self.containers.directory(id)).collect()
        };
        let usage = self.counters.of(id, &record, siblings)?;
        Ok(Usage { memory_limit_bytes: limits.memory, ..usage })
    }

    fn inventory(&self) -> Result<Inventory, Error> {
        inventory::take(self)
    }
}
