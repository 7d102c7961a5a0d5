//! The file of the records: a redb database with a table each for pods, containers and spares. Values are JSON with a version. A
//! value that cannot be read is kept and reported. A failed write (a full disk) closes the file, and the next change opens it again,
//! since redb refuses a database after a failure.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use host::fault::Faults;
use host::reserve::Reserve;
use host::{ContainerId, PodId};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::RecordError;

use super::{ContainerPhase, ContainerRecord, PodPhase, PodRecord, VERSION};

type Table = TableDefinition<'static, &'static str, &'static [u8]>;

const PODS: Table = TableDefinition::new("pods");
const CONTAINERS: Table = TableDefinition::new("containers");
const SPARES: Table = TableDefinition::new("spares");
/// The addresses that pods had, by the pods' namespace and name: [`FormerAddresses`].
const ADDRESSES: Table = TableDefinition::new("addresses");
/// Settings that clients change at run time, by name.
const SETTINGS: Table = TableDefinition::new("settings");
/// The pod networks that UpdateRuntimeConfig set last.
const POD_NETWORKS: &str = "pod_networks";
/// How much of the database is kept in memory, in bytes: the records of 250 pods are about a megabyte.
const CACHE: usize = 4 << 20;

/// Bytes held in reserve for changes that free space: a hundred usual records, or three of the largest.
const RESERVE: usize = 1 << 20;

#[derive(Debug, Clone, Copy)]
pub(crate) enum Change<'a> {
    PutPod(&'a PodRecord),
    DeletePod(&'a PodId),
    PutContainer(&'a ContainerRecord),
    DeleteContainer(&'a ContainerId),
    PutSpare(&'a PodId),
    DeleteSpare(&'a PodId),
    PutPodNetworks(&'a [ipnetwork::IpNetwork]),
    PutAddresses(&'a str, &'a FormerAddresses),
    DeleteAddresses(&'a str),
}

/// The addresses that a pod has or had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FormerAddresses {
    pub(crate) addresses: Vec<IpAddr>,
    /// When it got them, or when it gave them back.
    pub(crate) at: i64,
}

impl Change<'_> {
    /// Whether it frees space, sooner or later: something ends or is removed.
    fn gives_room(&self) -> bool {
        match self {
            Self::PutPod(record) => record.phase >= PodPhase::Stopping,
            Self::PutContainer(record) => {
                matches!(record.phase, ContainerPhase::Exited(_) | ContainerPhase::Removing(_))
            }
            // An address is put beside the change of a pod, which decides.
            Self::DeletePod(_)
            | Self::DeleteContainer(_)
            | Self::DeleteSpare(_)
            | Self::PutAddresses(..)
            | Self::DeleteAddresses(_) => true,
            Self::PutSpare(_) | Self::PutPodNetworks(_) => false,
        }
    }
}

/// A record that cannot be read. It stays in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unreadable {
    pub(crate) table: String,
    /// The id of a pod or a container.
    pub(crate) key: String,
    pub(crate) reason: String,
}

/// The contents of the file.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    pub(crate) pods: BTreeMap<PodId, PodRecord>,
    pub(crate) containers: BTreeMap<ContainerId, ContainerRecord>,
    pub(crate) spares: Vec<PodId>,
    /// Set by UpdateRuntimeConfig; None: never.
    pub(crate) pod_networks: Option<Vec<ipnetwork::IpNetwork>>,
    /// The addresses that pods have or had, by namespace and name.
    pub(crate) addresses: BTreeMap<String, FormerAddresses>,
    pub(crate) unreadable: Vec<Unreadable>,
}

#[derive(Serialize)]
struct Written<'a, T> {
    version: u32,
    record: &'a T,
}

#[derive(Deserialize)]
struct Version {
    version: u32,
}

#[derive(Deserialize)]
struct Read<T> {
    record: T,
}

#[derive(Debug)]
pub(crate) struct Disk {
    path: PathBuf,
    database: Mutex<State>,
    reserve: Reserve,
    faults: Faults,
}

#[derive(Debug)]
enum State {
    Open(Database),
    /// A write failed; the next change opens the file again.
    Failed,
    /// Closed for good.
    Closed,
}

impl Disk {
    /// Opens or creates the file, with mode 0600. `faults` strike in tests only.
    pub(crate) fn open(path: &Path, faults: Faults) -> Result<Self, RecordError> {
        let database = open(path).map_err(error("open", path))?;
        let reserve = Reserve::open(&path.with_extension("reserve"), RESERVE);
        Ok(Self { path: path.to_owned(), database: Mutex::new(State::Open(database)), reserve, faults })
    }

    /// Reads all records. Values that cannot be read are in [`Loaded::unreadable`].
    pub(crate) fn load(&self) -> Result<Loaded, RecordError> {
        let mut state = self.lock();
        let database = self.database(&mut state)?;
        load(database).map_err(error("read", &self.path))
    }

    /// Makes all changes in one durable transaction. If the disk is full or broken, nothing changes.
    pub(crate) fn apply(&self, changes: &[Change<'_>]) -> Result<(), RecordError> {
        self.faults.call(
            "change of the records",
            || {
                if changes.iter().all(Change::gives_room) {
                    return self.reserve.spend(|| self.apply_once(changes));
                }
                self.apply_once(changes).inspect(|()| self.reserve.restore())
            },
            error("change", &self.path),
        )
    }

    fn apply_once(&self, changes: &[Change<'_>]) -> Result<(), RecordError> {
        let mut state = self.lock();
        let applied = apply(self.database(&mut state)?, changes);
        if applied.is_err() {
            *state = State::Failed;
        }
        applied.map_err(error("change", &self.path))
    }

    /// Closes the file for good: later changes are refused.
    pub(crate) fn close(&self) {
        *self.lock() = State::Closed;
    }

    fn database<'a>(&self, state: &'a mut State) -> Result<&'a Database, RecordError> {
        if matches!(state, State::Failed) {
            *state = State::Open(open(&self.path).map_err(error("open", &self.path))?);
        }
        match state {
            State::Open(database) => Ok(database),
            State::Failed | State::Closed => Err(error("use", &self.path)("they were closed".into())),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.database.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Boxed = Box<dyn std::error::Error + Send + Sync>;

fn error(operation: &'static str, path: &Path) -> impl FnOnce(Boxed) -> RecordError {
    move |source| RecordError { operation, path: path.to_owned(), source: find_kernel_error(source) }
}

/// redb's errors hide their source: unwraps them to the kernel's error if there is one.
fn find_kernel_error(source: Boxed) -> Boxed {
    let told = downcast::<redb::StorageError>(source)
        .or_else(downcast::<redb::DatabaseError>)
        .or_else(downcast::<redb::TransactionError>)
        .or_else(downcast::<redb::TableError>)
        .or_else(downcast::<redb::CommitError>);
    match told {
        Ok(redb::Error::Io(error)) => error.into(),
        Ok(other) => other.into(),
        Err(other) => other,
    }
}

fn downcast<E: Into<redb::Error> + std::error::Error + 'static>(source: Boxed) -> Result<redb::Error, Boxed> {
    source.downcast::<E>().map(|error| (*error).into())
}

fn open(path: &Path) -> Result<Database, Boxed> {
    use std::os::unix::fs::OpenOptionsExt;
    // redb would make it readable by everybody, and environments hold secrets.
    std::fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
    let database = redb::Builder::new().set_cache_size(CACHE).create(path)?;
    let transaction = database.begin_write()?;
    for table in [PODS, CONTAINERS, SPARES, ADDRESSES, SETTINGS] {
        transaction.open_table(table)?;
    }
    transaction.commit()?;
    Ok(database)
}

fn load(database: &Database) -> Result<Loaded, Boxed> {
    let mut loaded = Loaded::default();
    let transaction = database.begin_read()?;
    for entry in transaction.open_table(PODS)?.iter()? {
        let (key, value) = entry?;
        if let Some(record) = loaded.read("pods", key.value(), value.value(), parse_pod) {
            loaded.pods.insert(record.id.clone(), record);
        }
    }
    for entry in transaction.open_table(CONTAINERS)?.iter()? {
        let (key, value) = entry?;
        if let Some(record) = loaded.read::<ContainerRecord>("containers", key.value(), value.value(), parse) {
            loaded.containers.insert(record.id.clone(), record);
        }
    }
    for entry in transaction.open_table(SPARES)?.iter()? {
        let (key, value) = entry?;
        let spare = loaded.read::<PodId>("spares", key.value(), value.value(), parse);
        loaded.spares.extend(spare);
    }
    for entry in transaction.open_table(ADDRESSES)?.iter()? {
        let (key, value) = entry?;
        let had = loaded.read::<FormerAddresses>("addresses", key.value(), value.value(), parse);
        loaded.addresses.extend(had.map(|had| (key.value().to_owned(), had)));
    }
    if let Some(value) = transaction.open_table(SETTINGS)?.get(POD_NETWORKS)? {
        loaded.pod_networks = loaded.read("settings", POD_NETWORKS, value.value(), parse);
    }
    Ok(loaded)
}

impl Loaded {
    fn read<T>(&mut self, table: &str, key: &str, value: &[u8], parse: fn(&[u8]) -> Result<T, String>) -> Option<T> {
        match parse(value) {
            Ok(record) => Some(record),
            Err(reason) => {
                self.unreadable.push(Unreadable { table: table.to_owned(), key: key.to_owned(), reason });
                None
            }
        }
    }
}

/// Version 1 marks a pod whose roll-back failed by this reason, in [`PodPhase::Stopping`].
const FAILED_V1: &str = "it could not be made, and what there is of it could not be removed yet";

pub(super) fn parse_pod(value: &[u8]) -> Result<PodRecord, String> {
    let mut pod: PodRecord = parse(value)?;
    if version(value)? == 1 && pod.phase == PodPhase::Stopping && pod.reason == FAILED_V1 {
        pod.phase = PodPhase::Failed;
    }
    Ok(pod)
}

pub(super) fn parse<T: DeserializeOwned>(value: &[u8]) -> Result<T, String> {
    let version = version(value)?;
    if version > VERSION {
        return Err(format!("version {version} was written by a newer server; this one reads up to {VERSION}"));
    }
    let Read { record } = serde_json::from_slice(value).map_err(|error| error.to_string())?;
    Ok(record)
}

fn version(value: &[u8]) -> Result<u32, String> {
    let Version { version } = serde_json::from_slice(value).map_err(|error| error.to_string())?;
    Ok(version)
}

fn apply(database: &Database, changes: &[Change<'_>]) -> Result<(), Boxed> {
    let transaction = database.begin_write()?;
    for change in changes {
        match change {
            Change::PutPod(record) => put(&transaction, PODS, record.id.as_str(), record)?,
            Change::DeletePod(id) => delete(&transaction, PODS, id.as_str())?,
            Change::PutContainer(record) => put(&transaction, CONTAINERS, record.id.as_str(), record)?,
            Change::DeleteContainer(id) => delete(&transaction, CONTAINERS, id.as_str())?,
            Change::PutSpare(id) => put(&transaction, SPARES, id.as_str(), id)?,
            Change::DeleteSpare(id) => delete(&transaction, SPARES, id.as_str())?,
            Change::PutPodNetworks(networks) => put(&transaction, SETTINGS, POD_NETWORKS, networks)?,
            Change::PutAddresses(name, had) => put(&transaction, ADDRESSES, name, had)?,
            Change::DeleteAddresses(name) => delete(&transaction, ADDRESSES, name)?,
        }
    }
    transaction.commit()?;
    Ok(())
}

fn put<T: Serialize>(transaction: &redb::WriteTransaction, table: Table, key: &str, record: &T) -> Result<(), Boxed> {
    let value = serde_json::to_vec(&Written { version: VERSION, record })?;
    transaction.open_table(table)?.insert(key, value.as_slice())?;
    Ok(())
}

fn delete(transaction: &redb::WriteTransaction, table: Table, key: &str) -> Result<(), Boxed> {
    transaction.open_table(table)?.remove(key)?;
    Ok(())
}
