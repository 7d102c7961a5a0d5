//! The directory layout and the records of the backends that keep chains and roots in directories. `chains/HEX` is a complete
//! chain, `begun/HEX` one that is being unpacked, `containers/ID` a container's directory; a rename completes a chain.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use host::ContainerId;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{ChainId, Chains, FsUsage, every, tree};
use crate::{Digest, Error, durable};

const VERSION: u32 = 1;
const MODE: u32 = 0o600;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct ChainRecord {
    version: u32,
    /// The chain below it. Earlier servers recorded that of a tree too, which counts for nothing.
    pub(super) parent: Option<ChainId>,
    bytes: u64,
    inodes: u64,
}

/// The record of a container's root.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct ContainerRecord {
    version: u32,
    /// The chain of its root; None while it has volumes only.
    pub(super) chain: Option<ChainId>,
    pub(super) volumes: Vec<ChainId>,
    /// Usage of the new root, in bytes and inodes.
    pub(super) made: (u64, u64),
    /// Whether its root is the chain itself. An earlier server wrote none.
    #[serde(default)]
    pub(super) shared: bool,
}

/// A backend's directory.
#[derive(Debug)]
pub(super) struct Layout {
    directory: PathBuf,
    chains: Chains,
}

impl Layout {
    /// Opens the directory and creates missing parts.
    pub(super) fn open(directory: &Path, chains: Chains) -> Result<Self, Error> {
        for name in ["chains", "begun", "containers"] {
            let path = directory.join(name);
            fs::create_dir_all(&path).map_err(Error::io(format!("cannot create {}", path.display())))?;
        }
        Ok(Self { directory: directory.to_owned(), chains })
    }

    /// What the chains are.
    pub(super) fn chains(&self) -> Chains {
        self.chains
    }

    /// The chain that one on top of this parent needs: a tree needs none.
    fn needed(&self, parent: Option<ChainId>) -> Option<ChainId> {
        parent.filter(|_| self.chains != Chains::Trees)
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// The path of a complete chain.
    pub(super) fn chain(&self, chain: &ChainId) -> Result<PathBuf, Error> {
        Ok(self.directory.join("chains").join(chain.hex()?))
    }

    /// The path of a chain that is being unpacked.
    pub(super) fn begun(&self, chain: &ChainId) -> Result<PathBuf, Error> {
        Ok(self.directory.join("begun").join(chain.hex()?))
    }

    /// The path of a container's directory.
    pub(super) fn container(&self, id: &ContainerId) -> PathBuf {
        self.directory.join("containers").join(id.as_str())
    }

    /// The chains that were begun and not completed.
    pub(super) fn all_begun(&self) -> Result<Vec<ChainId>, Error> {
        Ok(names(&self.directory.join("begun"))?.iter().filter_map(|name| ChainId::from_hex(name)).collect())
    }

    pub(super) fn has(&self, chain: &ChainId) -> Result<bool, Error> {
        Ok(self.chain(chain)?.is_dir())
    }

    pub(super) fn chain_record(&self, chain: &ChainId) -> Result<ChainRecord, Error> {
        let record = read(&self.chain(chain)?.join("chain.json"))?;
        record.ok_or_else(|| Error::not_found(format!("layer chain {}", chain.0)))
    }

    pub(super) fn chain_usage(&self, chain: &ChainId) -> Result<FsUsage, Error> {
        self.chain_record(chain).map(|record| FsUsage { bytes: record.bytes, inodes: record.inodes })
    }

    /// Makes the directory to unpack a chain into, and records the parent that it needs. Removes an earlier attempt.
    pub(super) fn begin(&self, chain: &ChainId, parent: Option<&ChainId>) -> Result<PathBuf, Error> {
        let begun = self.begun(chain)?;
        remove(&begun)?;
        fs::create_dir(&begun).map_err(Error::io(format!("cannot create {}", begun.display())))?;
        let record = ChainRecord { version: VERSION, parent: self.needed(parent.cloned()), bytes: 0, inodes: 0 };
        write_unsynced(&begun.join("chain.json"), &record)?;
        Ok(begun)
    }

    /// Completes a chain: counts it, writes its record, and renames it. Idempotent.
    pub(super) fn commit(&self, chain: &ChainId) -> Result<(), Error> {
        if self.has(chain)? {
            return Ok(());
        }
        let begun = self.begun(chain)?;
        let record: Option<ChainRecord> = read(&begun.join("chain.json"))?;
        let record = record.ok_or_else(|| Error::not_found(format!("begun layer chain {}", chain.0)))?;
        // With its directory and its record, whose size does not change by a block.
        let FsUsage { bytes, inodes } = tree::usage(&begun)?;
        write_unsynced(&begun.join("chain.json"), &ChainRecord { bytes, inodes, ..record })?;
        let kept = fs::rename(&begun, self.chain(chain)?);
        kept.map_err(Error::io(format!("cannot keep layer chain {}", chain.0)))
    }

    /// Makes complete chains durable.
    pub(super) fn sync(&self, chains: &[ChainId]) -> Result<(), Error> {
        let paths = chains.iter().map(|chain| self.chain(chain)).collect::<Result<Vec<_>, _>>()?;
        durable::sync(&self.directory, paths.into_iter())
            .map_err(Error::io(format!("cannot sync {}", self.directory.display())))
    }

    /// Removes chains, and all that lack a chain below them, whoever uses them. Idempotent.
    pub(super) fn distrust(&self, chains: &[ChainId]) -> Result<(), Error> {
        let mut outcomes: Vec<_> = chains.iter().map(|chain| self.move_away(chain)).collect();
        loop {
            let there = self.inventory()?.0;
            let is_orphan = |chain: &&ChainId| {
                self.chain_record(chain)
                    .map_or(true, |record| self.needed(record.parent).is_some_and(|below| !there.contains(&below)))
            };
            let orphans: Vec<_> = there.iter().filter(is_orphan).collect();
            let left = orphans.len();
            outcomes.extend(orphans.into_iter().map(|chain| self.move_away(chain)));
            if left == 0 || outcomes.iter().any(Result::is_err) {
                return every(outcomes.into_iter());
            }
        }
    }

    /// Removes a chain, complete or begun. Moves a complete one to `begun` first: a crash leaves it to the next sweep.
    pub(super) fn remove_chain(&self, chain: &ChainId) -> Result<(), Error> {
        self.check_free(chain)?;
        self.move_away(chain)
    }

    fn move_away(&self, chain: &ChainId) -> Result<(), Error> {
        let (whole, begun) = (self.chain(chain)?, self.begun(chain)?);
        remove(&begun)?;
        match fs::rename(&whole, &begun) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::io(format!("cannot remove {}", whole.display()))(error))
            }
            _ => remove(&begun),
        }
    }

    /// Names a chain or a container that uses a chain.
    pub(super) fn check_free(&self, chain: &ChainId) -> Result<(), Error> {
        let conflict = |who: String| Error::Conflict { what: format!("layer chain {} is in use by {who}", chain.0) };
        let (chains, containers) = self.inventory()?;
        for other in chains {
            if self.chain_record(&other).is_ok_and(|record| self.needed(record.parent).as_ref() == Some(chain)) {
                return Err(conflict(format!("layer chain {}", other.0)));
            }
        }
        for id in containers {
            let record = self.container_record(&id)?;
            if record.is_some_and(|record| record.chain.as_ref() == Some(chain) || record.volumes.contains(chain)) {
                return Err(conflict(format!("container {id}")));
            }
        }
        Ok(())
    }

    pub(super) fn container_record(&self, id: &ContainerId) -> Result<Option<ContainerRecord>, Error> {
        read(&self.container(id).join("container.json"))
    }

    /// Changes the record of a container, and makes its directory.
    pub(super) fn note(&self, id: &ContainerId, change: impl FnOnce(&mut ContainerRecord)) -> Result<(), Error> {
        let directory = self.container(id);
        fs::create_dir_all(&directory).map_err(Error::io(format!("cannot create {}", directory.display())))?;
        let nothing =
            ContainerRecord { version: VERSION, chain: None, volumes: Vec::new(), made: (0, 0), shared: false };
        let mut record = self.container_record(id)?.unwrap_or(nothing);
        change(&mut record);
        write(&directory.join("container.json"), &record)
    }

    /// The complete chains, and every container with a directory, complete or not.
    pub(super) fn inventory(&self) -> Result<(Vec<ChainId>, Vec<ContainerId>), Error> {
        let chains = names(&self.directory.join("chains"))?.iter().filter_map(|name| ChainId::from_hex(name)).collect();
        let containers =
            names(&self.directory.join("containers"))?.iter().filter_map(|name| name.parse().ok()).collect();
        Ok((chains, containers))
    }
}

impl ChainId {
    /// The digits of the digest, for a file name.
    pub(super) fn hex(&self) -> Result<String, Error> {
        self.0.parse::<Digest>().map(|digest| digest.hex().to_owned())
    }

    /// Parses the digits of a file name.
    pub(super) fn from_hex(name: &str) -> Option<Self> {
        Digest::from_hex(name).map(|digest| Self(digest.to_string()))
    }
}

/// Removes a directory tree. Idempotent.
pub(super) fn remove(directory: &Path) -> Result<(), Error> {
    host::fs::remove_dir_all(directory).map_err(Error::io(format!("cannot remove {}", directory.display())))
}

fn names(directory: &Path) -> Result<Vec<String>, Error> {
    let listed = fs::read_dir(directory)
        .and_then(|entries| entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect());
    listed.map_err(Error::io(format!("cannot list {}", directory.display())))
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Error> {
    host::json::read(path).map_err(Error::of_file(path))
}

/// For what [`Layout::sync`] makes durable.
fn write_unsynced(path: &Path, record: &impl Serialize) -> Result<(), Error> {
    let bytes = serde_json::to_vec(record).expect("a record has string keys only");
    host::fs::replace(path, &bytes, MODE).map_err(Error::io(format!("cannot write {}", path.display())))
}

fn write(path: &Path, record: &impl Serialize) -> Result<(), Error> {
    let bytes = serde_json::to_vec(record).expect("a record has string keys only");
    host::fs::write_atomic(path, &bytes, MODE).map_err(Error::io(format!("cannot write {}", path.display())))
}

#[cfg(test)]
mod tests {
    use host::ContainerId;

    use super::Layout;
    use crate::rootfs::Chains;

    #[test]
    fn the_record_of_an_earlier_server_shares_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::open(directory.path(), Chains::Trees).unwrap();
        let id = ContainerId::random();
        std::fs::create_dir(layout.container(&id)).unwrap();
        let text = r#"{"version":1,"chain":null,"volumes":[],"made":[4096,3]}"#;
        std::fs::write(layout.container(&id).join("container.json"), text).unwrap();
        let record = layout.container_record(&id).unwrap().unwrap();
        assert_eq!((record.made, record.shared), ((4096, 3), false));
    }
}
