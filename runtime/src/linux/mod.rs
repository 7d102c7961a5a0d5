//! The development backend: network namespaces pinned without a pause process, and containers run by runc. It lets the server
//! be built, run and tested on Linux with the real clients; its name says so.

mod cgroup;
mod config;
mod connect;
mod container;
mod details;
mod init;
mod inventory;
mod launch;
mod mountinfo;
mod names;
mod needs;
mod pod;
mod record;
mod runc;
mod sys;
mod sysctl;
mod update;
mod usage;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use host::{ContainerId, Need, Place, PodId};

use self::cgroup::Hierarchies;
use self::names::Names;
use self::record::ContainerRecord;
use self::runc::Runc;
use crate::monitor::{Launch, Supervised, Target};
use crate::spec::{ContainerSpec, ExecSpec, Identity, PodSpec, Resources, Signal};
use crate::{
    ContainerState, Details, Error, Features, Inventory, KernelObject, Runtime, Session, Settings, Started, Usage,
};

/// The backend's name in errors and Status.
const NAME: &str = "linux (development)";

/// The backend.
struct Linux {
    settings: Settings,
    names: Names,
    containers: Supervised,
    runc: Runc,
    /// As they were found last.
    hierarchies: Mutex<Option<Arc<Hierarchies>>>,
}

/// Opens the backend: makes its state directory.
pub(crate) fn open(mut settings: Settings) -> Result<Arc<dyn Runtime>, Error> {
    let operation = || Error::failed(format!("cannot create {}", settings.state.display()));
    std::fs::create_dir_all(&settings.state).map_err(operation())?;
    // The kernel names mounts by their real paths.
    let state = std::fs::canonicalize(&settings.state).map_err(operation())?;
    settings.state = state;
    let names = Names::new(&settings.state, &settings.prefix);
    // runc would make its directory with the first container: a server without pods always looks the same.
    let containers = Supervised::new(&settings, record::FILE);
    for directory in [&names.pods(), containers.root(), &settings.state.join("runc")] {
        std::fs::create_dir_all(directory).map_err(Error::failed(format!("cannot create {}", directory.display())))?;
    }
    let runc = Runc::new(&settings.state);
    Ok(Arc::new(Linux { settings, names, containers, runc, hierarchies: Mutex::default() }))
}

pub(crate) fn prepare_launch(target: Target<'_>) -> Result<Box<dyn Launch>, Error> {
    launch::prepare(target)
}

pub(crate) fn worker(args: &[OsString]) -> Option<ExitCode> {
    (args.first()? == init::WORD).then(|| init::run(args))
}

/// glibc keeps two of the kernel's signals for itself: these are the numbers of signal(7).
pub(crate) fn realtime_signals() -> (i32, i32) {
    (libc::SIGRTMIN(), libc::SIGRTMAX())
}

impl Linux {
    /// The hierarchies, found once: the list of mounts, which tells them in version 1, has thousands of lines on a full node.
    fn hierarchies(&self) -> Result<Arc<Hierarchies>, Error> {
        let mut known = self.hierarchies.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = known.as_ref().filter(|found| found.are_mounted()) {
            return Ok(Arc::clone(found));
        }
        let found = Arc::new(Hierarchies::find()?);
        *known = Some(Arc::clone(&found));
        Ok(found)
    }

    /// Finds the hierarchies again: a node may mount what was missing.
    fn find_hierarchies(&self) -> Result<Arc<Hierarchies>, Error> {
        *self.hierarchies.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.hierarchies()
    }

    fn is_unified(&self) -> bool {
        self.hierarchies().is_ok_and(|found| matches!(*found, Hierarchies::V2(_)))
    }
}

impl Runtime for Linux {
    fn name(&self) -> &'static str {
        NAME
    }

    fn platforms(&self) -> Vec<String> {
        vec![format!("linux/{}", host::oci_architecture(std::env::consts::ARCH))]
    }

    fn needs(&self) -> Vec<Need> {
        needs::needs(self.find_hierarchies())
    }

    fn features(&self) -> Features {
        Features { recursive_read_only_mounts: needs::has_recursive_read_only(), supplemental_groups_policy: true }
    }

    fn check_pod(&self, spec: &PodSpec) -> Result<(), Error> {
        pod::check(spec)
    }

    fn check_container(&self, spec: &ContainerSpec) -> Result<(), Error> {
        config::check(spec, container::own_status().capabilities)
    }

    fn create_pod(&self, spec: &PodSpec, spare: Option<&PodId>) -> Result<Place, Error> {
        if spare.is_some() {
            return Err(Error::Unsupported { what: "a pod made from a spare".to_owned(), backend: NAME });
        }
        pod::create(self, spec)
    }

    fn create_spare(&self, _: &PodId) -> Result<Option<Place>, Error> {
        Ok(None)
    }

    fn place(&self, id: &PodId) -> Result<Place, Error> {
        pod::place(&self.names, id)
    }

    fn remove_pod(&self, id: &PodId) -> Result<(), Error> {
        pod::remove(self, id)
    }

    fn whole_pods(&self, pods: &[PodId]) -> Result<BTreeSet<PodId>, Error> {
        inventory::whole_pods(self, pods)
    }

    /// kubelet sets the limits of the pod's cgroup itself, before it reports them.
    fn update_pod(&self, id: &PodId, _: &Resources) -> Result<(), Error> {
        pod::find_whole(&self.names, id).map(drop)
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
        container::remove(self, id)
    }

    fn container_state(&self, id: &ContainerId) -> Result<ContainerState, Error> {
        self.containers.state(id)
    }

    fn exit_descriptor(&self, id: &ContainerId) -> Result<OwnedFd, Error> {
        self.containers.exit_descriptor(id)
    }

    fn update_container(&self, id: &ContainerId, resources: &Resources) -> Result<(), Error> {
        update::container(self, id, resources)
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
        connect::connect(&self.place(id)?, port)
    }

    fn kernel_object(&self, pod: &PodId, container: Option<&ContainerId>) -> Result<Option<KernelObject>, Error> {
        let found = match container {
            Some(id) => self.containers.state(id).map(|state| match state {
                ContainerState::Running(started) => Some((self.names.runc(id), Some(started.pid))),
                _ => None,
            }),
            None => pod::place(&self.names, pod).map(|place| match place {
                Place::Netns(path) => Some((path.display().to_string(), None)),
                _ => None,
            }),
        };
        match found {
            Ok(found) => Ok(found.map(|(name, number)| KernelObject { name, number })),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn describe_container(&self, id: &ContainerId) -> Result<serde_json::Value, Error> {
        let document = host::json::read(&self.containers.directory(id).join(launch::CONFIG))?;
        document.ok_or_else(|| Error::not_found(format!("container {id}")))
    }

    fn container_details(&self, id: &ContainerId) -> Result<Details, Error> {
        let (_, record) = self.containers.begun::<ContainerRecord>(id)?;
        Ok(details::read(&*self.hierarchies()?, &record.cgroup))
    }

    fn container_usage(&self, id: &ContainerId) -> Result<Usage, Error> {
        let (_, record) = self.containers.begun::<ContainerRecord>(id)?;
        usage::read(&*self.hierarchies()?, &record.cgroup)
    }

    fn inventory(&self) -> Result<Inventory, Error> {
        inventory::take(self)
    }
}
