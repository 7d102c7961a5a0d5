//! The containers below a backend's state directory, through their monitors. What a monitor does is the same on every kernel
//! and is done here once; a backend makes containers, launches their processes, measures and removes them.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use host::worker::Workers;
use host::{ContainerId, PodId};
use serde::de::{DeserializeOwned, IgnoredAny};

use super::record::{self, SPEC};
use super::{client, session, signal_number};
use crate::spec::{ContainerSpec, ExecSpec, Signal};
use crate::{ContainerState, Error, Inventory, Session, Settings, Started};

/// Monitors that are asked at the same time: each answer is a switch to another process, which waits for its turn on a busy
/// machine, and a server that was killed is waited for.
const ASKED_AT_ONCE: usize = 16;

/// The state of a container; of one whose monitor does not answer what its files say, since the others are not to wait for it.
fn state_or_running(directory: &Path) -> Result<ContainerState, Error> {
    let error = match client::state(directory) {
        Err(error) if record::is_running(directory) => error,
        answer => return answer,
    };
    let Some(started) = record::read_start(directory)? else { return Err(error) };
    tracing::warn!(container = %directory.display(), "counts as running: {}", host::chain(&error));
    Ok(ContainerState::Running(record::started(started.pid, started.started_ns)))
}

fn not_found(id: &ContainerId) -> Error {
    Error::not_found(format!("container {}", id.short()))
}

/// The client of all monitors of one state directory.
#[derive(Debug)]
pub(crate) struct Supervised {
    directory: PathBuf,
    workers: Workers,
    /// The backend's own file in a container's directory. It is written last: a container that has one is whole.
    record: &'static str,
    /// The containers of each pod, whole or not; None: not read yet. Only this server makes and removes containers here, so the
    /// specs of all of them are read once, and not with each pod that is removed.
    pods: Mutex<Option<Pods>>,
}

type Pods = BTreeMap<PodId, BTreeSet<ContainerId>>;

impl Supervised {
    pub(crate) fn new(settings: &Settings, record: &'static str) -> Self {
        Self {
            directory: settings.state.join("containers"),
            workers: settings.workers.clone(),
            record,
            pods: Mutex::default(),
        }
    }

    /// The directory of all containers.
    pub(crate) fn root(&self) -> &Path {
        &self.directory
    }

    /// The directory of a container. It is named by the short id: the path of a unix socket may have 103 characters
    /// (sun_path on FreeBSD).
    pub(crate) fn directory(&self, id: &ContainerId) -> PathBuf {
        self.directory.join(id.short())
    }

    /// The directory of a whole container, and the backend's record in it.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub(crate) fn find<T: DeserializeOwned>(&self, id: &ContainerId) -> Result<(PathBuf, T), Error> {
        let directory = self.directory(id);
        let record = host::json::read(&directory.join(self.record))?;
        let record = record.ok_or_else(|| not_found(id))?;
        Ok((directory, record))
    }

    /// The directory and the record of a running container.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Conflict`].
    pub(crate) fn running<T: DeserializeOwned>(&self, id: &ContainerId) -> Result<(PathBuf, T), Error> {
        let found = self.find(id)?;
        match client::state(&found.0)? {
            ContainerState::Running(_) => Ok(found),
            _ => Err(Error::conflict(format!("container {} is not running", id.short()))),
        }
    }

    /// Likewise of one that runs by its files. Its monitor is not asked: where that was killed, the container counts as running
    /// until its state is asked for.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Conflict`].
    pub(crate) fn begun<T: DeserializeOwned>(&self, id: &ContainerId) -> Result<(PathBuf, T), Error> {
        let found = self.find(id)?;
        if record::is_running(&found.0) {
            Ok(found)
        } else {
            Err(Error::conflict(format!("container {} is not running", id.short())))
        }
    }

    /// The directory of a whole container. Its record is not read: a container is stopped even if that is damaged.
    fn whole(&self, id: &ContainerId) -> Result<PathBuf, Error> {
        let directory = self.directory(id);
        match directory.join(self.record).try_exists() {
            Ok(true) => Ok(directory),
            Ok(false) => Err(not_found(id)),
            Err(error) => Err(Error::failed(format!("cannot look at {}", directory.display()))(error)),
        }
    }

    pub(crate) fn start(&self, id: &ContainerId) -> Result<Started, Error> {
        let directory = self.whole(id)?;
        if client::state(&directory)? != ContainerState::Created {
            return Err(Error::conflict(format!("container {} was started already", id.short())));
        }
        client::start(&self.workers, &directory)
    }

    pub(crate) fn state(&self, id: &ContainerId) -> Result<ContainerState, Error> {
        client::state(&self.whole(id)?)
    }

    pub(crate) fn signal(&self, id: &ContainerId, signal: &Signal) -> Result<(), Error> {
        let directory = self.whole(id)?;
        client::signal(&directory, signal_number(signal)?).map(drop)
    }

    pub(crate) fn kill(&self, id: &ContainerId) -> Result<(), Error> {
        let directory = self.whole(id)?;
        if !client::kill(&directory)? {
            client::state(&directory)?;
        }
        Ok(())
    }

    pub(crate) fn exit_descriptor(&self, id: &ContainerId) -> Result<OwnedFd, Error> {
        client::exit_descriptor(&self.whole(id)?)
    }

    pub(crate) fn reopen_log(&self, id: &ContainerId) -> Result<(), Error> {
        client::reopen_log(&self.whole(id)?)
    }

    pub(crate) fn exec(&self, id: &ContainerId, spec: &ExecSpec) -> Result<Session, Error> {
        let (directory, _) = self.running::<IgnoredAny>(id)?;
        session::exec(&self.workers, &directory, spec)
    }

    pub(crate) fn attach(&self, id: &ContainerId, stdin: bool) -> Result<Session, Error> {
        client::attach(&self.whole(id)?, stdin)
    }

    /// Adds every container to an inventory, and every directory without a readable spec to the unknown objects.
    pub(crate) fn add_to(&self, inventory: &mut Inventory) -> Result<(), Error> {
        let all = host::json::read_each::<ContainerSpec>(&self.directory, SPEC)?;
        let share = all.len().div_ceil(ASKED_AT_ONCE).max(1);
        let states = std::thread::scope(|scope| {
            let ask = |share| move || self.states(share);
            let start = |share| std::thread::Builder::new().spawn_scoped(scope, ask(share));
            let threads = all.chunks(share).map(start).collect::<std::io::Result<Vec<_>>>();
            let threads = threads.map_err(Error::failed("cannot start a thread that asks monitors"))?;
            let join = |thread: std::thread::ScopedJoinHandle<'_, Result<Vec<_>, Error>>| {
                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            threads.into_iter().map(join).collect::<Result<Vec<_>, Error>>()
        })?;
        for ((directory, spec), state) in all.into_iter().zip(states.into_iter().flatten()) {
            match spec {
                Some(spec) => drop(inventory.containers.insert(spec.id, (spec.pod, state))),
                None => inventory.unknown.push(directory.display().to_string()),
            }
        }
        Ok(())
    }

    fn states(&self, containers: &[(PathBuf, Option<ContainerSpec>)]) -> Result<Vec<ContainerState>, Error> {
        let state = |(directory, spec): &(PathBuf, Option<_>)| {
            let is_whole = spec.is_some() && directory.join(self.record).exists();
            if is_whole { state_or_running(directory) } else { Ok(ContainerState::Created) }
        };
        containers.iter().map(state).collect()
    }

    /// The containers of a pod, whole or not.
    pub(crate) fn of_pod(&self, pod: &PodId) -> Result<Vec<ContainerId>, Error> {
        self.with_pods(|pods| pods.get(pod).into_iter().flatten().cloned().collect())
    }

    /// Notes a container of a pod, before anything of it is made. Idempotent.
    pub(crate) fn note(&self, pod: &PodId, id: &ContainerId) -> Result<(), Error> {
        self.with_pods(|pods| {
            pods.entry(pod.clone()).or_default().insert(id.clone());
        })
    }

    /// Forgets a container, of which nothing is left. Idempotent.
    pub(crate) fn forget(&self, id: &ContainerId) -> Result<(), Error> {
        self.with_pods(|pods| {
            pods.retain(|_, containers| {
                containers.remove(id);
                !containers.is_empty()
            });
        })
    }

    fn with_pods<T>(&self, work: impl FnOnce(&mut Pods) -> T) -> Result<T, Error> {
        let mut pods = self.pods.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pods) = &mut *pods {
            return Ok(work(pods));
        }
        let mut read = Pods::new();
        let all = host::json::read_each::<ContainerSpec>(&self.directory, SPEC)?;
        for spec in all.into_iter().filter_map(|(_, spec)| spec) {
            read.entry(spec.pod).or_default().insert(spec.id);
        }
        Ok(work(pods.insert(read)))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixListener;
    use std::path::{Path, PathBuf};

    use host::{ContainerId, PodId};

    use super::Supervised;
    use crate::monitor::record::{StartRecord, socket_path, spec_path, write_start};
    use crate::spec::ContainerSpec;
    use crate::{ContainerState, Error, Inventory, Settings};

    fn open(state: &Path) -> Supervised {
        let workers = host::worker::Workers::of_program("/nonexistent".as_ref());
        Supervised::new(&Settings { prefix: host::Prefix::default(), state: state.to_owned(), workers }, "record.json")
    }

    /// A container of which only the spec is there.
    fn with_spec(containers: &Supervised) -> (ContainerSpec, PathBuf) {
        let spec = crate::freebsd::example();
        let directory = containers.directory(&spec.id);
        std::fs::create_dir_all(&directory).unwrap();
        host::json::replace(&spec_path(&directory), &spec).unwrap();
        (spec, directory)
    }

    #[test]
    fn the_containers_of_a_pod_are_read_once() {
        let scratch = tempfile::tempdir().unwrap();
        let containers = open(scratch.path());
        let (spec, directory) = with_spec(&containers);
        assert_eq!(containers.of_pod(&spec.pod).unwrap(), std::slice::from_ref(&spec.id));
        // Nobody reads the files again.
        std::fs::remove_dir_all(&directory).unwrap();
        let (other, second) = (PodId::random(), ContainerId::random());
        containers.note(&other, &second).unwrap();
        assert_eq!(containers.of_pod(&spec.pod).unwrap(), std::slice::from_ref(&spec.id));
        assert_eq!(containers.of_pod(&other).unwrap(), std::slice::from_ref(&second));
        containers.forget(&spec.id).unwrap();
        assert_eq!(containers.of_pod(&spec.pod).unwrap(), []);
        assert_eq!(open(scratch.path()).of_pod(&other).unwrap(), [], "another server reads what is there");
    }

    /// One that does not answer keeps no server from its start, and is not taken for dead.
    #[test]
    fn a_container_whose_monitor_fails_counts_as_running() {
        let scratch = tempfile::tempdir().unwrap();
        let containers = open(scratch.path());
        let (spec, directory) = with_spec(&containers);
        std::fs::write(directory.join("record.json"), "7").unwrap();
        write_start(&directory, &StartRecord { version: 1, pid: 4711, started_ns: 1 }).unwrap();
        let listener = UnixListener::bind(socket_path(&directory)).unwrap();
        let monitor = std::thread::spawn(move || {
            let (mut connection, _) = listener.accept().unwrap();
            connection.write_all(b"no monitor speaks like this\n").unwrap();
        });
        let mut inventory = Inventory::default();
        containers.add_to(&mut inventory).unwrap();
        monitor.join().unwrap();
        let (_, state) = &inventory.containers[&spec.id];
        assert!(matches!(state, ContainerState::Running(started) if started.pid == 4711), "{state:?}");
    }

    #[test]
    fn a_container_runs_by_its_files_and_no_monitor_is_asked() {
        let scratch = tempfile::tempdir().unwrap();
        let containers = open(scratch.path());
        let id = ContainerId::random();
        let begun = || containers.begun::<u8>(&id).map(|(_, record)| record);
        assert!(matches!(begun(), Err(Error::NotFound { .. })));
        let directory = containers.directory(&id);
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("record.json"), "7").unwrap();
        assert!(matches!(begun(), Err(Error::Conflict { .. })), "it was not started");
        std::fs::write(directory.join("start.json"), "").unwrap();
        assert_eq!(begun().unwrap(), 7);
        std::fs::write(directory.join("exit.json"), "").unwrap();
        assert!(matches!(begun(), Err(Error::Conflict { .. })), "it has ended");
    }
}
