//! Roots on ZFS: a dataset for each chain, cloned from the chain below it and completed by its snapshot `@layer`, and a clone of
//! the uppermost chain for each container. All are mounted explicitly (`mountpoint=legacy`) and as long as needed: a chain while
//! it is unpacked, a container's root until it is discarded, an image volume as the read-only snapshot itself.
//! Datasets that an administrator's snapshots, clones or holds keep are renamed into `trash`, roots whose snapshots are kept into `kept`.
//! Roots that an administrator imported are in `imported`, each with the snapshot `@root`, which containers can be cloned from.
//! A container that got a spare root has a symbolic link to it (`containers/ID` to `containers/OTHER`).

mod dataset;
mod mounts;
mod roots;
mod sys;

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use host::{ContainerId, Need};
use nix::errno::Errno;
use nix::mount::MntFlags;
use nix::sys::statvfs::statvfs;

use self::dataset::Datasets;
use self::mounts::{mount, unmount_and_remove};
use self::roots::Roots;
use super::listed::LAYER;
use super::spares::Spares;
use super::{
    ChainId, Dataset, FsUsage, Rootfs, Snapshot, Unpacking, check_import_name, check_snapshot_is_new,
    check_snapshot_name, every, imported_already, missing_import, missing_snapshot, root_need,
};
use crate::Error;
use crate::locks::hold;

/// How long the listed sizes of datasets are reused: one slow listing serves all containers of a stats call.
const SIZES_AGE_MAX: Duration = Duration::from_secs(2);

/// The property by which an administrator finds a kept root.
const TITLE: &str = "cellblock:container";

/// The delay after a spare was used until the next one is made: the container that got it starts first.
const SPARE_PAUSE: Duration = Duration::from_secs(1);

/// Chains and roots as datasets.
#[derive(Debug)]
pub struct Zfs {
    roots: Arc<Roots>,
    spares: Arc<Spares>,
    /// Roots that stayed busy; the next discard retries them.
    deferred: Mutex<HashSet<ContainerId>>,
    sizes: Mutex<Option<(Instant, HashMap<String, u64>)>>,
    /// Held while [`Roots::space`] is mounted or unmounted; whether a failure was logged.
    space: Mutex<bool>,
}

impl Zfs {
    /// Opens the backend below an existing dataset; its mount points are in `directory`, which it creates.
    ///
    /// # Errors
    /// The dataset does not exist or cannot be changed.
    pub fn open(directory: &Path, dataset: &Dataset) -> Result<Self, Error> {
        for name in ["begun", "containers"] {
            let path = directory.join(name);
            fs::create_dir_all(&path).map_err(Error::io(format!("cannot create {}", path.display())))?;
        }
        let datasets = Datasets::open(dataset)?;
        let roots = Arc::new(Roots { datasets, directory: directory.to_owned() });
        Ok(Self {
            roots,
            spares: Arc::default(),
            deferred: Mutex::default(),
            sizes: Mutex::default(),
            space: Mutex::default(),
        })
    }

    fn begun(&self, chain: &ChainId) -> Result<PathBuf, Error> {
        Ok(self.roots.directory.join("begun").join(chain.hex()?))
    }

    fn datasets(&self) -> &Datasets {
        &self.roots.datasets
    }

    /// Gives a container without a root the spare of its chain, if there is one.
    fn adopt(&self, id: &ContainerId, chain: &ChainId) -> Result<(), Error> {
        let own = self.roots.containers().join(id.as_str());
        if own.symlink_metadata().is_ok() || self.datasets().exists(&self.roots.dataset(id))? {
            return Ok(());
        }
        let Some(spare) = self.spares.take(chain) else { return Ok(()) };
        symlink(spare.as_str(), &own).map_err(|error| {
            // The next start removes a spare that stays.
            discard_spares(&self.roots, &[spare]);
            Error::io(format!("cannot create {}", own.display()))(error)
        })
    }

    /// Makes the next spare of a chain later, on a thread.
    fn make_spare(&self, chain: &ChainId, layer: String) {
        let Some(id) = self.spares.begin(chain) else { return };
        let (roots, spares, of) = (Arc::clone(&self.roots), Arc::clone(&self.spares), chain.clone());
        let started = std::thread::Builder::new().spawn(move || {
            if !spares.wait(&of, &id, SPARE_PAUSE) {
                return;
            }
            match roots.make(&id, &layer) {
                Ok(_) => discard_spares(&roots, spares.finish(&of).as_slice()),
                Err(error) => {
                    tracing::debug!(chain = of.0, error = host::chain(&error), "cannot create a spare root");
                    discard_spares(&roots, &[id]);
                    spares.abandon(&of);
                }
            }
        });
        if started.is_err() {
            self.spares.abandon(chain);
        }
    }

    fn layer(&self, chain: &ChainId) -> Result<String, Error> {
        Ok(format!("{}@{LAYER}", self.datasets().chain(chain)?))
    }

    /// The snapshot of a complete chain.
    fn whole(&self, chain: &ChainId) -> Result<String, Error> {
        let layer = self.layer(chain)?;
        if self.datasets().exists(&layer)? {
            Ok(layer)
        } else {
            Err(Error::not_found(format!("layer chain {}", chain.0)))
        }
    }

    fn remove_begun(&self, chain: &ChainId) -> Result<(), Error> {
        unmount_and_remove(&self.begun(chain)?)?;
        let dataset = self.datasets().chain(chain)?;
        if self.datasets().exists(&dataset)? { self.datasets().remove(&dataset) } else { Ok(()) }
    }

    /// ZFS unmounts and destroys a mounted snapshot: the mount points tell which volumes use it.
    fn check_no_volume(&self, chain: &ChainId) -> Result<(), Error> {
        let containers = self.roots.containers();
        let volume = Path::new("volumes").join(chain.hex()?);
        let entries = fs::read_dir(&containers).map_err(Error::io(format!("cannot list {}", containers.display())))?;
        match entries.flatten().find(|entry| entry.path().join(&volume).exists()) {
            Some(entry) => {
                let id = entry.file_name().to_string_lossy().into_owned();
                Err(Error::Conflict { what: format!("layer chain {} is a volume of container {id}", chain.0) })
            }
            None => Ok(()),
        }
    }

    /// Bytes of every dataset, at most [`SIZES_AGE_MAX`] old.
    fn size(&self, dataset: &str) -> Result<Option<u64>, Error> {
        let mut sizes = hold(&self.sizes);
        if let Some((taken, known)) = &*sizes
            && taken.elapsed() < SIZES_AGE_MAX
            && let Some(bytes) = known.get(dataset)
        {
            return Ok(Some(*bytes));
        }
        let known = self.datasets().list()?.sizes;
        let bytes = known.get(dataset).copied();
        *sizes = Some((Instant::now(), known));
        Ok(bytes)
    }

    /// Removes what an earlier container of the same id left.
    fn finish_deferred(&self, id: &ContainerId) -> Result<(), Error> {
        if hold(&self.deferred).contains(id) {
            self.roots.destroy(id)?;
            hold(&self.deferred).remove(id);
        }
        Ok(())
    }

    fn existing(&self, id: &ContainerId) -> Result<String, Error> {
        let dataset = self.roots.dataset(id);
        let found = self.datasets().exists(&dataset)?;
        if found { Ok(dataset) } else { Err(Error::not_found(format!("root of container {id}"))) }
    }
}

impl Rootfs for Zfs {
    fn name(&self) -> &'static str {
        "zfs"
    }

    fn needs(&self) -> Vec<Need> {
        let found = self.datasets().check();
        let dataset = Need {
            name: format!("ZFS dataset {}", self.datasets().base()),
            found: found.as_ref().map_or_else(|error| host::chain(error), Clone::clone),
            required: true,
            remedy: found.is_err().then(|| format!("zfs create -p -o mountpoint=none {}", self.datasets().base())),
        };
        vec![root_need(), dataset]
    }

    fn has(&self, chain: &ChainId) -> Result<bool, Error> {
        self.datasets().exists(&self.layer(chain)?)
    }

    fn sweep(&self) -> Result<(), Error> {
        let listed = self.datasets().list()?;
        let begun = listed.chains.iter().filter(|chain| !listed.has(chain));
        let outcome = every(begun.map(|chain| self.remove_begun(chain)));
        self.datasets().note_aside(listed.aside);
        self.sweep_deferred();
        outcome
    }

    fn sweep_deferred(&self) {
        self.datasets().sweep_aside();
    }

    fn begin(&self, chain: &ChainId, parent: Option<&ChainId>) -> Result<Unpacking, Error> {
        let below = parent.map(|parent| self.whole(parent)).transpose()?;
        if self.has(chain)? {
            return Err(Error::Conflict { what: format!("layer chain {} is there already", chain.0) });
        }
        self.remove_begun(chain)?;
        let (dataset, directory) = (self.datasets().chain(chain)?, self.begun(chain)?);
        match below {
            Some(below) => self.datasets().clone_of(&below, &dataset)?,
            None => self.datasets().create(&dataset)?,
        }
        mount(&dataset, &directory, MntFlags::empty())?;
        Ok(Unpacking { chain: chain.clone(), directory, below: None })
    }

    fn commit(&self, unpacking: &Unpacking) -> Result<(), Error> {
        if !self.has(&unpacking.chain)? {
            // A snapshot holds all earlier writes, and is on the disk once it is made.
            self.datasets().snapshot(&[self.layer(&unpacking.chain)?])?;
        }
        unmount_and_remove(&self.begun(&unpacking.chain)?)
    }

    fn remove_chain(&self, chain: &ChainId) -> Result<(), Error> {
        discard_spares(&self.roots, self.spares.forget(chain).as_slice());
        if self.has(chain)? {
            self.check_no_volume(chain)?;
            let destroyed = self.datasets().destroy_snapshot(&self.layer(chain)?);
            // It has clones.
            destroyed.map_err(|error| match errno(&error) {
                Some(Errno::EEXIST | Errno::EBUSY) => Error::Conflict {
                    what: format!("layer chain {} is in use by another chain or a container", chain.0),
                },
                _ => error,
            })?;
        }
        self.remove_begun(chain)
    }

    fn chain_usage(&self, chain: &ChainId) -> Result<FsUsage, Error> {
        let missing = || Error::not_found(format!("layer chain {}", chain.0));
        let bytes = self.size(&self.datasets().chain(chain)?)?.ok_or_else(missing)?;
        // ZFS counts files of mounted datasets only.
        Ok(FsUsage { bytes, inodes: 0 })
    }

    fn prepare(&self, id: &ContainerId, chain: &ChainId) -> Result<PathBuf, Error> {
        self.finish_deferred(id)?;
        let layer = self.whole(chain)?;
        self.adopt(id, chain)?;
        let root = self.roots.make(id, &layer)?;
        self.make_spare(chain, layer);
        Ok(root)
    }

    fn has_datasets(&self) -> bool {
        true
    }

    fn prepare_imported(&self, id: &ContainerId, name: &str) -> Result<PathBuf, Error> {
        check_import_name(name)?;
        self.finish_deferred(id)?;
        let snapshot = self.datasets().imported(name);
        if self.datasets().exists(&snapshot)? { self.roots.make(id, &snapshot) } else { Err(missing_import(name)) }
    }

    fn limit(&self, id: &ContainerId, bytes: u64) -> Result<(), Error> {
        let dataset = self.existing(id)?;
        let below = self.datasets().referenced_by_origin(&dataset)?;
        self.datasets().set(&dataset, "refquota", &below.saturating_add(bytes).to_string())
    }

    fn keep_snapshots(&self, id: &ContainerId, title: &str) -> Result<(), Error> {
        let dataset = self.roots.dataset(id);
        if !self.datasets().exists(&dataset)? || self.datasets().snapshots(&dataset)?.is_empty() {
            return Ok(());
        }
        self.datasets().set(&dataset, TITLE, title)?;
        unmount_and_remove(&self.roots.root(id))?;
        self.datasets().keep(&dataset, id)
    }

    fn discard(&self, id: &ContainerId) -> Result<(), Error> {
        let waiting: Vec<ContainerId> = hold(&self.deferred).iter().filter(|other| *other != id).cloned().collect();
        for other in waiting {
            if self.roots.destroy(&other).is_ok() {
                hold(&self.deferred).remove(&other);
            }
        }
        match self.roots.destroy(id) {
            Err(error) if errno(&error) == Some(Errno::EBUSY) => {
                tracing::warn!(%id, error = host::chain(&error), "a container's root is busy and is removed later");
                hold(&self.deferred).insert(id.clone());
                Ok(())
            }
            done => {
                hold(&self.deferred).remove(id);
                done
            }
        }
    }

    fn usage(&self, id: &ContainerId) -> Result<FsUsage, Error> {
        // The list has every dataset: whether this one exists need not be asked for each container.
        let gone = || Error::not_found(format!("root of container {id}"));
        let bytes = self.size(&self.roots.dataset(id))?.ok_or_else(gone)?;
        let root = self.roots.root(id);
        let counted = match statvfs(&root) {
            Err(Errno::ENOENT) => return Err(gone()),
            counted => counted.map_err(Error::io(format!("cannot count the files of {}", root.display())))?,
        };
        Ok(FsUsage { bytes, inodes: counted.files().saturating_sub(counted.files_free()) })
    }

    fn volume(&self, id: &ContainerId, chain: &ChainId) -> Result<PathBuf, Error> {
        let layer = self.whole(chain)?;
        let target = self.roots.container(id).join("volumes").join(chain.hex()?);
        mount(&layer, &target, MntFlags::MNT_RDONLY)?;
        Ok(target)
    }

    fn directory(&self, id: &ContainerId) -> PathBuf {
        self.roots.container(id)
    }

    fn keep_spares(&self, most: usize) {
        discard_spares(&self.roots, &self.spares.set_limit(most));
    }

    /// Mounts it when it is asked for: an administrator may have unmounted it.
    fn mountpoint(&self) -> PathBuf {
        let mut told = hold(&self.space);
        let space = self.roots.space();
        let mounted = mount(&self.datasets().chains(), &space, MntFlags::MNT_RDONLY);
        if let Err(error) = &mounted
            && !*told
        {
            tracing::warn!(error = host::chain(error), "the free space is told of {}", self.roots.directory.display());
        }
        *told = mounted.is_err();
        if *told { self.roots.directory.clone() } else { space }
    }

    fn close(&self) -> Result<(), Error> {
        let _one_at_a_time = hold(&self.space);
        unmount_and_remove(&self.roots.space())
    }

    fn inventory(&self) -> Result<(Vec<ChainId>, Vec<ContainerId>), Error> {
        let listed = self.datasets().list()?;
        *hold(&self.sizes) = Some((Instant::now(), listed.sizes.clone()));
        let mut containers: HashSet<ContainerId> = listed.containers.iter().cloned().collect();
        let mut adopted = Vec::new();
        let path = self.roots.containers();
        let entries = fs::read_dir(&path).map_err(Error::io(format!("cannot list {}", path.display())))?;
        for id in entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()) {
            let owner = self.roots.owner(&id);
            adopted.extend((owner != id).then_some(owner));
            containers.insert(id);
        }
        containers.retain(|id| !adopted.contains(id) && !self.spares.has(id));
        hold(&self.deferred).iter().for_each(|id| drop(containers.take(id)));
        let chains = listed.chains.iter().filter(|chain| listed.has(chain)).cloned().collect();
        Ok((chains, containers.into_iter().collect()))
    }

    fn snapshot(&self, ids: &[ContainerId], name: &str) -> Result<(), Error> {
        check_snapshot_name(name)?;
        let mut wanted = Vec::new();
        for id in ids {
            let dataset = self.existing(id)?;
            let snapshot = format!("{dataset}@{name}");
            check_snapshot_is_new(id, name, self.datasets().exists(&snapshot)?)?;
            wanted.push(snapshot);
        }
        self.datasets().snapshot(&wanted)
    }

    fn rollback(&self, id: &ContainerId, name: &str) -> Result<(), Error> {
        check_snapshot_name(name)?;
        let dataset = self.existing(id)?;
        let all = self.datasets().snapshots(&dataset)?;
        let at = all.iter().position(|other| other.name == name).ok_or_else(|| missing_snapshot(id, name))?;
        // All or none: an export that runs keeps one of them.
        let later: Vec<&str> = all[at + 1..].iter().map(|later| later.name.as_str()).collect();
        self.datasets().destroy_all(&dataset, &later)?;
        self.datasets().rollback(&dataset, name)
    }

    fn snapshots(&self, id: &ContainerId) -> Result<Vec<Snapshot>, Error> {
        self.datasets().snapshots(&self.existing(id)?)
    }

    fn export(&self, id: &ContainerId, name: &str, to: &mut dyn Write) -> Result<(), Error> {
        check_snapshot_name(name)?;
        let snapshot = format!("{}@{name}", self.existing(id)?);
        if self.datasets().exists(&snapshot)? {
            self.datasets().send(&snapshot, to)
        } else {
            Err(missing_snapshot(id, name))
        }
    }

    fn import(&self, name: &str, from: &mut dyn Read) -> Result<(), Error> {
        check_import_name(name)?;
        if self.datasets().exists(&self.datasets().imported(name))? {
            return Err(imported_already(name));
        }
        self.datasets().receive(name, from)
    }
}

/// Removes spares. The next start removes one that stays: it belongs to no container.
fn discard_spares(roots: &Roots, ids: &[ContainerId]) {
    for id in ids {
        if let Err(error) = roots.destroy(id) {
            tracing::warn!(%id, error = host::chain(&error), "cannot remove a spare root");
        }
    }
}

/// The errno among an error's causes.
fn errno(error: &Error) -> Option<Errno> {
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        if let Some(number) = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error) {
            return Some(Errno::from_raw(number));
        }
        next = cause.source();
    }
    None
}
