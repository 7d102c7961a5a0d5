//! The pods and containers that this server knows: in memory for everything that is asked, on disk for everything that
//! must be known after a restart. Every change goes to disk first, one transaction each, and only then can be seen.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use host::{ContainerId, PodId};
use ipnetwork::IpNetwork;

use crate::error::{Error, RecordError};
use crate::state::record::{Change, ContainerPhase, ContainerRecord, Disk, Loaded, PodPhase, PodRecord};

/// The records, in memory and on disk.
#[derive(Debug)]
pub(crate) struct Store {
    disk: Disk,
    memory: RwLock<Memory>,
    /// Held over a change, from reading what was to writing what is.
    writing: Mutex<()>,
}

/// Keyed by the text of the id, so that a prefix finds its id.
#[derive(Debug, Default)]
struct Memory {
    pods: BTreeMap<String, Arc<PodRecord>>,
    containers: BTreeMap<String, Arc<ContainerRecord>>,
}

impl Store {
    /// A store of what was loaded from `disk`.
    #[must_use]
    pub(crate) fn new(disk: Disk, loaded: &Loaded) -> Self {
        let pods = loaded.pods.values().map(|pod| (pod.id.to_string(), Arc::new(pod.clone()))).collect();
        let containers = loaded.containers.values().map(|one| (one.id.to_string(), Arc::new(one.clone()))).collect();
        Self { disk, memory: RwLock::new(Memory { pods, containers }), writing: Mutex::new(()) }
    }

    /// The file itself, for what is not kept in memory.
    #[must_use]
    pub(crate) fn disk(&self) -> &Disk {
        &self.disk
    }

    /// The pods that a client can see: not those that are being made.
    #[must_use]
    pub(crate) fn pods(&self) -> Vec<Arc<PodRecord>> {
        self.read().pods.values().filter(|pod| pod.phase != PodPhase::Creating).cloned().collect()
    }

    /// The containers that a client can see: not those that are being made.
    #[must_use]
    pub(crate) fn containers(&self) -> Vec<Arc<ContainerRecord>> {
        self.read().containers.values().filter(|one| one.phase != ContainerPhase::Creating).cloned().collect()
    }

    /// All containers of a pod, those that are being made too.
    #[must_use]
    pub(crate) fn containers_of(&self, pod: &PodId) -> Vec<Arc<ContainerRecord>> {
        self.read().containers.values().filter(|one| one.pod == *pod).cloned().collect()
    }

    /// A pod by its whole id, in any phase.
    #[must_use]
    pub(crate) fn pod(&self, id: &PodId) -> Option<Arc<PodRecord>> {
        self.read().pods.get(id.as_str()).cloned()
    }

    /// A container by its whole id, in any phase.
    #[must_use]
    pub(crate) fn container(&self, id: &ContainerId) -> Option<Arc<ContainerRecord>> {
        self.read().containers.get(id.as_str()).cloned()
    }

    /// A pod that a client can see, by its id or the beginning of it.
    ///
    /// # Errors
    /// There is none, or there are several.
    pub(crate) fn find_pod(&self, id: &str) -> Result<Arc<PodRecord>, Error> {
        let seen = |pod: &Arc<PodRecord>| pod.phase != PodPhase::Creating;
        find(&self.read().pods, id, "pod", seen)
    }

    /// A container that a client can see, by its id or the beginning of it.
    ///
    /// # Errors
    /// There is none, or there are several.
    pub(crate) fn find_container(&self, id: &str) -> Result<Arc<ContainerRecord>, Error> {
        let seen = |one: &Arc<ContainerRecord>| one.phase != ContainerPhase::Creating;
        find(&self.read().containers, id, "container", seen)
    }

    /// The addresses that pods have: those that are stopped have none any more.
    #[must_use]
    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        let memory = self.read();
        let with_addresses = memory.pods.values().filter(|pod| pod.phase != PodPhase::Stopped);
        with_addresses.flat_map(|pod| pod.network.addresses.iter().map(IpNetwork::ip)).collect()
    }

    /// An id for a new pod, of which no kernel name is that of another.
    #[must_use]
    pub(crate) fn new_pod_id(&self) -> PodId {
        let memory = self.read();
        loop {
            let id = PodId::random();
            if memory.pods.keys().all(|other| !other.starts_with(id.short())) {
                return id;
            }
        }
    }

    /// An id for a new container, of which no kernel name is that of another.
    #[must_use]
    pub(crate) fn new_container_id(&self) -> ContainerId {
        let memory = self.read();
        loop {
            let id = ContainerId::random();
            if memory.containers.keys().all(|other| !other.starts_with(id.short())) {
                return id;
            }
        }
    }

    /// Adds a pod; the spare that it names becomes its own in the same transaction. Blocking.
    ///
    /// # Errors
    /// The disk; nothing was changed then.
    pub(crate) fn put_pod(&self, record: PodRecord) -> Result<(), RecordError> {
        let _writing = self.writing();
        let mut changes = vec![Change::PutPod(&record)];
        changes.extend(record.spare.as_ref().map(Change::DeleteSpare));
        self.disk.apply(&changes)?;
        self.write().pods.insert(record.id.to_string(), Arc::new(record));
        Ok(())
    }

    /// Changes a pod, and returns it as it is then; None when there is no such pod. Blocking.
    ///
    /// # Errors
    /// The disk; nothing was changed then.
    pub(crate) fn change_pod(
        &self,
        id: &PodId,
        change: impl FnOnce(&mut PodRecord),
    ) -> Result<Option<Arc<PodRecord>>, RecordError> {
        let _writing = self.writing();
        let Some(old) = self.pod(id) else { return Ok(None) };
        let mut record = (*old).clone();
        change(&mut record);
        if record == *old {
            return Ok(Some(old));
        }
        self.disk.apply(&[Change::PutPod(&record)])?;
        let record = Arc::new(record);
        self.write().pods.insert(id.to_string(), record.clone());
        Ok(Some(record))
    }

    /// Changes a pod in memory even when the disk refuses: for what the kernel tells and will tell again after a restart.
    /// Returns whether anything changed, and what the disk said. Blocking.
    pub(crate) fn learn_pod(&self, id: &PodId, change: impl FnOnce(&mut PodRecord)) -> (bool, Result<(), RecordError>) {
        let _writing = self.writing();
        let Some(old) = self.pod(id) else { return (false, Ok(())) };
        let mut record = (*old).clone();
        change(&mut record);
        if record == *old {
            return (false, Ok(()));
        }
        let written = self.disk.apply(&[Change::PutPod(&record)]);
        self.write().pods.insert(id.to_string(), Arc::new(record));
        (true, written)
    }

    /// Forgets a pod. Missing: done already. Blocking.
    ///
    /// # Errors
    /// The disk; nothing was changed then.
    pub(crate) fn delete_pod(&self, id: &PodId) -> Result<(), RecordError> {
        let _writing = self.writing();
        if self.pod(id).is_some() {
            self.disk.apply(&[Change::DeletePod(id)])?;
            self.write().pods.remove(id.as_str());
        }
        Ok(())
    }

    /// Adds or replaces a container. Blocking.
    ///
    /// # Errors
    /// The disk; nothing was changed then.
    pub(crate) fn put_container(&self, record: ContainerRecord) -> Result<(), RecordError> {
        let _writing = self.writing();
        self.disk.apply(&[Change::PutContainer(&record)])?;
        self.write().containers.insert(record.id.to_string(), Arc::new(record));
        Ok(())
    }

    /// Changes a container, and returns it as it is then; None when there is no such container. Blocking.
    ///
    /// # Errors
    /// The disk; nothing was changed then.
    pub(crate) fn change_container(
        &self,
        id: &ContainerId,
        change: impl FnOnce(&mut ContainerRecord),
    ) -> Result<Option<Arc<ContainerRecord>>, RecordError> {
        let _writing = self.writing();
        let Some((old, record)) = self.edit(id, change) else { return Ok(None) };
        if record != old {
            self.disk.apply(&[Change::PutContainer(&record)])?;
            self.write().containers.insert(id.to_string(), record.clone());
        }
        Ok(Some(record))
    }

    /// Changes a container in memory even when the disk refuses: for what the kernel tells and will tell again after a
    /// restart. Returns whether anything changed, and what the disk said. Blocking.
    pub(crate) fn learn_container(
        &self,
        id: &ContainerId,
        change: impl FnOnce(&mut ContainerRecord),
    ) -> (bool, Result<(), RecordError>) {
        let _writing = self.writing();
        let Some((old, record)) = self.edit(id, change) else { return (false, Ok(())) };
        if record == old {
            return (false, Ok(()));
        }
        let written = self.disk.apply(&[Change::PutContainer(&record)]);
        self.write().containers.insert(id.to_string(), record);
        (true, written)
    }

    /// Forgets a container. Missing: done already. Blocking.
    ///
    /// # Errors
    /// The disk; nothing was changed then.
    pub(crate) fn delete_container(&self, id: &ContainerId) -> Result<(), RecordError> {
        let _writing = self.writing();
        if self.container(id).is_some() {
            self.disk.apply(&[Change::DeleteContainer(id)])?;
            self.write().containers.remove(id.as_str());
        }
        Ok(())
    }

    fn edit(
        &self,
        id: &ContainerId,
        change: impl FnOnce(&mut ContainerRecord),
    ) -> Option<(Arc<ContainerRecord>, Arc<ContainerRecord>)> {
        let old = self.container(id)?;
        let mut record = (*old).clone();
        change(&mut record);
        Some((old, Arc::new(record)))
    }

    fn writing(&self) -> MutexGuard<'_, ()> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self) -> RwLockReadGuard<'_, Memory> {
        self.memory.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Memory> {
        self.memory.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Finds what a client names: crictl shows 13 digits of an id and takes any beginning that is unique, as containerd does.
fn find<T: Clone>(
    map: &BTreeMap<String, T>,
    id: &str,
    what: &'static str,
    seen: impl Fn(&T) -> bool,
) -> Result<T, Error> {
    let missing = || Error::NotFound { what: format!("{what} {id:?}") };
    if id.is_empty() {
        return Err(Error::Invalid { field: format!("{what} id"), reason: "is empty".to_owned() });
    }
    let from = (Bound::Included(id), Bound::Unbounded);
    let mut matches =
        map.range::<str, _>(from).take_while(|(key, _)| key.starts_with(id)).filter(|(_, value)| seen(value));
    let (key, value) = matches.next().ok_or_else(missing)?;
    if key != id && matches.next().is_some() {
        return Err(Error::Invalid { field: format!("{what} id"), reason: format!("{id:?} begins several ids") });
    }
    Ok(value.clone())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::find;
    use crate::error::Error;

    #[test]
    fn an_id_is_found_by_any_beginning_that_is_unique() {
        let map = BTreeMap::from([("ab1".to_owned(), 1), ("ab2".to_owned(), 2), ("c".to_owned(), 3)]);
        let found = |id| find(&map, id, "pod", |_| true);
        assert!(matches!(found("ab1"), Ok(1)));
        assert!(matches!(found("c"), Ok(3)));
        assert!(matches!(found("ab"), Err(Error::Invalid { .. })));
        assert!(matches!(found("x"), Err(Error::NotFound { .. })));
        assert!(matches!(found(""), Err(Error::Invalid { .. })));
        assert!(matches!(find(&map, "c", "pod", |_| false), Err(Error::NotFound { .. })));
    }
}
