//! The records of pods and containers: in memory to answer from, on disk for the next start. Every change is one transaction on disk
//! before anybody sees it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use host::{ContainerId, PodId};
use ipnetwork::IpNetwork;
use tokio::sync::watch;

use crate::error::{Error, RecordError};
use crate::state::clock::now;
use crate::state::names;
use crate::state::record::{
    Change, ContainerPhase, ContainerRecord, Disk, FormerAddresses, Loaded, PodPhase, PodRecord,
};

/// The records, in memory and on disk.
#[derive(Debug)]
pub(crate) struct Store {
    disk: Disk,
    memory: RwLock<Memory>,
    /// Held from reading the old record to writing the new one.
    writing: Mutex<()>,
    /// Changes with every pod.
    pods_changed: watch::Sender<()>,
}

/// Keyed by the text of the id, to find prefixes.
#[derive(Debug, Default)]
struct Memory {
    pods: BTreeMap<String, Arc<PodRecord>>,
    containers: BTreeMap<String, Arc<ContainerRecord>>,
    /// The containers of each pod that has any.
    by_pod: BTreeMap<PodId, BTreeSet<String>>,
}

impl Store {
    pub(crate) fn new(disk: Disk, loaded: &Loaded) -> Self {
        let pods = loaded.pods.values().map(|pod| (pod.id.to_string(), Arc::new(pod.clone()))).collect();
        let mut memory = Memory { pods, ..Memory::default() };
        loaded.containers.values().for_each(|one| memory.put(one.clone()));
        Self { disk, memory: RwLock::new(memory), writing: Mutex::new(()), pods_changed: watch::Sender::default() }
    }

    /// Tells of every change of a pod.
    pub(crate) fn pods_changed(&self) -> watch::Receiver<()> {
        self.pods_changed.subscribe()
    }

    /// For spares and settings, which are not kept in memory.
    pub(crate) fn disk(&self) -> &Disk {
        &self.disk
    }

    /// The pods that clients see: all but those in [`PodPhase::Creating`].
    pub(crate) fn pods(&self) -> Vec<Arc<PodRecord>> {
        self.read().pods.values().filter(|pod| pod.phase != PodPhase::Creating).cloned().collect()
    }

    /// The containers that clients see: all but those in [`ContainerPhase::Creating`].
    pub(crate) fn containers(&self) -> Vec<Arc<ContainerRecord>> {
        self.read().containers.values().filter(|one| one.phase != ContainerPhase::Creating).cloned().collect()
    }

    /// All containers, in any phase.
    pub(crate) fn containers_in_any_phase(&self) -> Vec<Arc<ContainerRecord>> {
        self.read().containers.values().cloned().collect()
    }

    /// All containers of a pod, in any phase.
    pub(crate) fn containers_of(&self, pod: &PodId) -> Vec<Arc<ContainerRecord>> {
        let memory = self.read();
        memory.by_pod.get(pod).into_iter().flatten().filter_map(|id| memory.containers.get(id)).cloned().collect()
    }

    /// A pod by its full id, in any phase.
    pub(crate) fn pod(&self, id: &PodId) -> Option<Arc<PodRecord>> {
        self.read().pods.get(id.as_str()).cloned()
    }

    /// A container by its full id, in any phase.
    pub(crate) fn container(&self, id: &ContainerId) -> Option<Arc<ContainerRecord>> {
        self.read().containers.get(id.as_str()).cloned()
    }

    /// A pod that clients see, by its id or an unambiguous prefix of it.
    pub(crate) fn find_pod(&self, id: &str) -> Result<Arc<PodRecord>, Error> {
        let seen = |pod: &Arc<PodRecord>| pod.phase != PodPhase::Creating;
        find(&self.read().pods, id, "pod", seen)
    }

    /// A container that clients see, by its id or an unambiguous prefix of it.
    pub(crate) fn find_container(&self, id: &str) -> Result<Arc<ContainerRecord>, Error> {
        let seen = |one: &Arc<ContainerRecord>| one.phase != ContainerPhase::Creating;
        find(&self.read().containers, id, "container", seen)
    }

    /// The addresses of all pods that are not stopped.
    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        let memory = self.read();
        let with_addresses = memory.pods.values().filter(|pod| pod.phase != PodPhase::Stopped);
        with_addresses.flat_map(|pod| pod.network.addresses.iter().map(IpNetwork::ip)).collect()
    }

    /// A new id, whose kernel names no other pod has.
    pub(crate) fn new_pod_id(&self) -> PodId {
        let memory = self.read();
        loop {
            let id = PodId::random();
            if !begins_a_key(&memory.pods, id.short()) {
                return id;
            }
        }
    }

    /// A new id, whose kernel names no other container has.
    pub(crate) fn new_container_id(&self) -> ContainerId {
        let memory = self.read();
        loop {
            let id = ContainerId::random();
            if !begins_a_key(&memory.containers, id.short()) {
                return id;
            }
        }
    }

    /// Adds a pod, takes over the spare that it names, remembers its addresses and forgets those of another name, in one
    /// transaction. Blocking.
    pub(crate) fn put_pod(&self, record: PodRecord, forgotten: Option<&str>) -> Result<(), RecordError> {
        let _writing = self.writing();
        let had = had(&record, record.created_at);
        let mut changes = vec![Change::PutPod(&record)];
        changes.extend(record.spare.as_ref().map(Change::DeleteSpare));
        changes.extend(had.as_ref().map(|(name, had)| Change::PutAddresses(name, had)));
        changes.extend(forgotten.map(Change::DeleteAddresses));
        self.disk.apply(&changes)?;
        self.show(Arc::new(record));
        Ok(())
    }

    /// Changes a pod and returns the new record; None: there is no such pod. If the disk fails, nothing changes. Blocking.
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
        let had = if record.phase == PodPhase::Stopped { given_back(&old) } else { None };
        let mut changes = vec![Change::PutPod(&record)];
        changes.extend(had.as_ref().map(|(name, had)| Change::PutAddresses(name, had)));
        self.disk.apply(&changes)?;
        let record = Arc::new(record);
        self.show(record.clone());
        Ok(Some(record))
    }

    /// Changes a pod in memory even if the disk fails: for facts that the kernel reports again after a restart. Returns whether
    /// anything changed, and the outcome of the write. Blocking.
    pub(crate) fn learn_pod(&self, id: &PodId, change: impl FnOnce(&mut PodRecord)) -> (bool, Result<(), RecordError>) {
        let _writing = self.writing();
        let Some(old) = self.pod(id) else { return (false, Ok(())) };
        let mut record = (*old).clone();
        change(&mut record);
        if record == *old {
            return (false, Ok(()));
        }
        let written = self.disk.apply(&[Change::PutPod(&record)]);
        self.show(Arc::new(record));
        (true, written)
    }

    /// Deletes a pod's record. Idempotent. Blocking.
    pub(crate) fn delete_pod(&self, id: &PodId) -> Result<(), RecordError> {
        let _writing = self.writing();
        if let Some(old) = self.pod(id) {
            let had = given_back(&old);
            let mut changes = vec![Change::DeletePod(id)];
            changes.extend(had.as_ref().map(|(name, had)| Change::PutAddresses(name, had)));
            self.disk.apply(&changes)?;
            self.write().pods.remove(id.as_str());
            self.pods_changed.send_replace(());
        }
        Ok(())
    }

    /// Adds or replaces a container. Blocking.
    pub(crate) fn put_container(&self, record: ContainerRecord) -> Result<(), RecordError> {
        let _writing = self.writing();
        self.disk.apply(&[Change::PutContainer(&record)])?;
        self.write().put(record);
        Ok(())
    }

    /// Changes a container and returns the new record; None: there is no such container. If the disk fails, nothing changes.
    /// Blocking.
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

    /// Changes a container in memory even if the disk fails; see [`Store::learn_pod`]. Blocking.
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

    /// Deletes a container's record. Idempotent. Blocking.
    pub(crate) fn delete_container(&self, id: &ContainerId) -> Result<(), RecordError> {
        let _writing = self.writing();
        if self.container(id).is_some() {
            self.disk.apply(&[Change::DeleteContainer(id)])?;
            self.write().remove(id);
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

    fn show(&self, pod: Arc<PodRecord>) {
        self.write().pods.insert(pod.id.to_string(), pod);
        self.pods_changed.send_replace(());
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

impl Memory {
    fn put(&mut self, record: ContainerRecord) {
        let id = record.id.to_string();
        self.by_pod.entry(record.pod.clone()).or_default().insert(id.clone());
        self.containers.insert(id, Arc::new(record));
    }

    fn remove(&mut self, id: &ContainerId) {
        let Some(record) = self.containers.remove(id.as_str()) else { return };
        if let Some(containers) = self.by_pod.get_mut(&record.pod) {
            containers.remove(id.as_str());
            if containers.is_empty() {
                self.by_pod.remove(&record.pod);
            }
        }
    }
}

/// Whether a key begins with this text.
fn begins_a_key<T>(map: &BTreeMap<String, T>, text: &str) -> bool {
    let from = (Bound::Included(text), Bound::Unbounded);
    map.range::<str, _>(from).next().is_some_and(|(key, _)| key.starts_with(text))
}

/// A pod's addresses as its successor of the same name gets them, with that name; None on the host's network.
fn had(record: &PodRecord, at: i64) -> Option<(String, FormerAddresses)> {
    let addresses: Vec<IpAddr> = record.network.addresses.iter().map(IpNetwork::ip).collect();
    let name = names::namespaced(record.config.metadata.as_ref()?);
    (!addresses.is_empty()).then_some((name, FormerAddresses { addresses, at }))
}

/// [`had`], of a pod that gives its addresses back; None: it did so before, and another pod may have them.
fn given_back(record: &PodRecord) -> Option<(String, FormerAddresses)> {
    if record.phase == PodPhase::Stopped { None } else { had(record, now()) }
}

/// Finds an object by an unambiguous prefix of its id, as containerd does: crictl shows 13 digits of an id.
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

    use super::{begins_a_key, find};
    use crate::error::Error;

    #[test]
    fn a_beginning_of_a_key_is_found() {
        let map = BTreeMap::from([("ab1".to_owned(), 1), ("b".to_owned(), 2)]);
        for (text, found) in [("a", true), ("ab1", true), ("ab2", false), ("ab11", false), ("b", true), ("c", false)] {
            assert_eq!(begins_a_key(&map, text), found, "{text}");
        }
    }

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
