//! The containers below a backend's state directory, through their monitors. What a monitor does is the same on every kernel
//! and is done here once; a backend makes containers, launches their processes, measures and removes them.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use host::worker::Workers;
use host::{ContainerId, PodId};
use serde::de::{DeserializeOwned, IgnoredAny};

use super::record::SPEC;
use super::{client, session, signal_number};
use crate::spec::{ContainerSpec, ExecSpec, Signal};
use crate::{ContainerState, Error, Inventory, Session, Settings, Started};

/// Monitors that are asked at the same time: each answer is a switch to another process, which waits for its turn on a busy
/// machine, and a server that was killed is waited for.
const ASKED_AT_ONCE: usize = 16;

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
}

impl Supervised {
    pub(crate) fn new(settings: &Settings, record: &'static str) -> Self {
        Self { directory: settings.state.join("containers"), workers: settings.workers.clone(), record }
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
            if is_whole { client::state(directory) } else { Ok(ContainerState::Created) }
        };
        containers.iter().map(state).collect()
    }

    /// The containers of a pod, whole or not.
    pub(crate) fn of_pod(&self, pod: &PodId) -> Result<Vec<ContainerId>, Error> {
        let all = host::json::read_each::<ContainerSpec>(&self.directory, SPEC)?;
        Ok(all.into_iter().filter_map(|(_, spec)| spec).filter(|spec| spec.pod == *pod).map(|spec| spec.id).collect())
    }
}
