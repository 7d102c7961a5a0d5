//! Datasets, through libzfs_core where it can be loaded, else through zfs(8), which takes ten times as long. Lists and properties
//! always come from zfs(8): libzfs_core has no call for them.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::sync::Mutex;
use std::time::Duration;

use host::ContainerId;
use host::run::{Output, RunError, Tool};
use nix::errno::Errno;

use super::super::listed::{Listed, Next, TRASH, aside, has_own_snapshots, next, parse, snapshots};
use super::sys::Library;
use super::{ChainId, Dataset, Snapshot, errno, imported_already};
use crate::Error;
use crate::locks::hold;

/// Attempts for a busy dataset, and the pause between them: a process that was just killed is gone within this time.
const BUSY_ATTEMPTS: u32 = 20;
const BUSY_PAUSE: Duration = Duration::from_millis(100);
/// The parent of removed containers' datasets whose snapshots are kept.
const KEPT: &str = "kept";
/// The parent of imported roots, each with the snapshot that containers are cloned from.
const IMPORTED: &str = "imported";
const ROOT: &str = "root";
/// The property by which zfs-auto-snapshot and zfstools select datasets.
const SCHEDULED: &str = "com.sun:auto-snapshot";

/// The datasets below a parent.
#[derive(Debug)]
pub(super) struct Datasets {
    base: String,
    library: Option<Library>,
    /// Datasets in the trash, by their full names.
    aside: Mutex<BTreeSet<String>>,
}

impl Datasets {
    /// Creates the parent datasets.
    pub(super) fn open(parent: &Dataset) -> Result<Self, Error> {
        let base = parent.name.as_str();
        let library = Library::load()
            .inspect_err(|error| tracing::warn!(%error, "libzfs_core cannot be used: zfs(8) does its work, slower"))
            .ok();
        let datasets = Self { base: base.to_owned(), library, aside: Mutex::default() };
        datasets.check()?;
        let mut first = false;
        for name in ["chains", "containers", IMPORTED, TRASH, KEPT] {
            let dataset = format!("{base}/{name}");
            if !datasets.exists(&dataset)? {
                zfs(&["create", "-o", "mountpoint=legacy", "-o", "atime=off", &dataset])?;
                first |= name == "chains";
            }
        }
        // Clones inherit from their parents, as what is created or received (in the trash) does.
        for name in ["chains", "containers", IMPORTED, TRASH] {
            let properties = [("compression", &parent.compression), ("recordsize", &parent.recordsize)];
            for (property, value) in properties.into_iter().filter(|(_, value)| !value.is_empty()) {
                datasets.set(&format!("{base}/{name}"), property, value)?;
            }
        }
        if first && let Err(error) = datasets.leave_out_of_schedules() {
            tracing::warn!(error = host::chain(&error), dataset = base, "cannot set {SCHEDULED}");
        }
        Ok(datasets)
    }

    /// Excludes the dataset from scheduled snapshots, which would keep the space of removed layers and roots. Once, when the
    /// dataset is first used, and only if the administrator has not set the property.
    fn leave_out_of_schedules(&self) -> Result<(), Error> {
        let set = zfs(&["get", "-H", "-o", "value", "-s", "local,received", SCHEDULED, &self.base])?;
        if set.stdout.trim_ascii().is_empty() {
            zfs(&["set", &format!("{SCHEDULED}=false"), &self.base])?;
        }
        Ok(())
    }

    pub(super) fn base(&self) -> &str {
        &self.base
    }

    /// The mount state of the dataset, if it exists.
    pub(super) fn check(&self) -> Result<String, Error> {
        let output = zfs(&["list", "-H", "-o", "name,available", &self.base])?;
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        Ok(text.split_once('\t').map_or_else(|| text.clone(), |(_, free)| format!("{free} available")))
    }

    /// The parent of all chains, which holds nothing itself.
    pub(super) fn chains(&self) -> String {
        format!("{}/chains", self.base)
    }

    pub(super) fn chain(&self, chain: &ChainId) -> Result<String, Error> {
        Ok(format!("{}/{}", self.chains(), chain.hex()?))
    }

    pub(super) fn container(&self, id: &ContainerId) -> String {
        format!("{}/containers/{id}", self.base)
    }

    /// Whether a dataset or a snapshot exists.
    pub(super) fn exists(&self, name: &str) -> Result<bool, Error> {
        if let Some(library) = &self.library {
            return library.exists(name).map_err(Error::io(format!("cannot ask for {name}")));
        }
        match zfs(&["list", "-H", "-o", "name", name]) {
            Ok(_) => Ok(true),
            Err(error) if host::chain(&error).contains("does not exist") => Ok(false),
            Err(error) => Err(error),
        }
    }

    pub(super) fn create(&self, name: &str) -> Result<(), Error> {
        self.act(&["create", name], |library| library.create(name))
    }

    pub(super) fn clone_of(&self, snapshot: &str, name: &str) -> Result<(), Error> {
        self.act(&["clone", snapshot, name], |library| library.clone_of(snapshot, name))
    }

    /// Takes snapshots of different datasets in one transaction: all or none.
    pub(super) fn snapshot(&self, snapshots: &[String]) -> Result<(), Error> {
        let tool: Vec<&str> = std::iter::once("snapshot").chain(snapshots.iter().map(String::as_str)).collect();
        self.act(&tool, |library| library.snapshot(snapshots))
    }

    fn destroy(&self, name: &str) -> Result<(), Error> {
        gone(self.act(&["destroy", name], |library| library.destroy(name)))
    }

    /// Destroys a dataset. Idempotent. One that an administrator's snapshots, clones, holds or mounts keep is renamed into the
    /// trash, so that its name is free, and [`Datasets::sweep_aside`] destroys it later.
    pub(super) fn remove(&self, dataset: &str) -> Result<(), Error> {
        let Err(mut error) = self.destroy(dataset) else { return Ok(()) };
        let may_pass = self.snapshots(dataset).is_ok_and(|snapshots| snapshots.is_empty());
        if next(errno(&error), may_pass) == Next::Wait {
            match patiently(|| self.destroy(dataset)) {
                Ok(()) => return Ok(()),
                Err(later) => error = later,
            }
        }
        if next(errno(&error), false) == Next::Fail {
            return Err(error);
        }
        let aside = aside(&self.base, dataset, ContainerId::random().short());
        zfs(&["rename", "-u", dataset, &aside])?;
        tracing::warn!(
            dataset,
            aside,
            error = host::chain(&error),
            "snapshots, clones or holds of others keep a dataset: it is set aside, and removed when they are gone"
        );
        hold(&self.aside).insert(aside);
        Ok(())
    }

    /// Destroys a container's dataset and its snapshots, as [`Datasets::remove`].
    pub(super) fn remove_container(&self, dataset: &str) -> Result<(), Error> {
        if !self.exists(dataset)? {
            return Ok(());
        }
        self.destroy_snapshots(dataset)?;
        self.remove(dataset)
    }

    /// Destroys the snapshots of a dataset that nothing keeps.
    fn destroy_snapshots(&self, dataset: &str) -> Result<(), Error> {
        for snapshot in self.snapshots(dataset)? {
            match self.destroy_snapshot(&format!("{dataset}@{}", snapshot.name)) {
                Err(error) if next(errno(&error), false) == Next::Fail => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Records the trash of an earlier server.
    pub(super) fn note_aside(&self, names: Vec<String>) {
        hold(&self.aside).extend(names);
    }

    /// Destroys the datasets in the trash that nothing keeps any more. The next call retries the others.
    pub(super) fn sweep_aside(&self) {
        let names = hold(&self.aside).clone();
        for name in names {
            let emptied = if has_own_snapshots(&self.base, &name) { self.destroy_snapshots(&name) } else { Ok(()) };
            match emptied.and_then(|()| self.destroy(&name)) {
                Ok(()) => {
                    hold(&self.aside).remove(&name);
                }
                Err(error) if next(errno(&error), false) == Next::SetAside => {
                    tracing::debug!(dataset = name, error = host::chain(&error), "others still keep a dataset");
                }
                Err(error) if errno(&error) == Some(Errno::ENOENT) => {
                    hold(&self.aside).remove(&name);
                }
                Err(error) => {
                    tracing::warn!(
                        dataset = name,
                        error = host::chain(&error),
                        "cannot remove a dataset that was set aside"
                    );
                }
            }
        }
    }

    /// Sets a property. Idempotent.
    pub(super) fn set(&self, dataset: &str, property: &str, value: &str) -> Result<(), Error> {
        zfs(&["set", &format!("{property}={value}"), dataset]).map(drop)
    }

    /// What the snapshot shows that a dataset was cloned from, in bytes.
    pub(super) fn referenced_by_origin(&self, dataset: &str) -> Result<u64, Error> {
        let get = |property, name: &str| {
            let output = zfs(&["get", "-Hp", "-o", "value", property, name])?;
            Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        };
        let origin: String = get("origin", dataset)?;
        let text = get("referenced", &origin)?;
        text.parse().map_err(Error::failed(format!("zfs(8) tells {text:?} of what {origin} references")))
    }

    /// The snapshot that containers are cloned from, of an imported root.
    pub(super) fn imported(&self, name: &str) -> String {
        format!("{}/{IMPORTED}/{name}@{ROOT}", self.base)
    }

    /// Writes a snapshot as one whole stream, with blocks as they are on the disk.
    pub(super) fn send(&self, snapshot: &str, to: &mut dyn Write) -> Result<(), Error> {
        Tool::new("zfs").args(["send", "-Lec", snapshot]).run_to(to).map_err(failed)
    }

    /// Receives a whole stream of one snapshot under a name. It is received in the trash, where the next start removes what a
    /// server leaves that dies meanwhile, and becomes visible whole.
    pub(super) fn receive(&self, name: &str, from: &mut dyn Read) -> Result<(), Error> {
        let dataset = format!("{}/{IMPORTED}/{name}", self.base);
        let begun = aside(&self.base, &dataset, ContainerId::random().short());
        let received = self.receive_begun(&begun, from).and_then(|()| {
            zfs(&["rename", "-u", &begun, &dataset])
                .map_err(|error| if self.exists(&dataset).unwrap_or(false) { imported_already(name) } else { error })
        });
        if received.is_err()
            && let Err(error) = gone(zfs(&["destroy", "-r", &begun]).map(drop))
        {
            tracing::warn!(dataset = begun, error = host::chain(&error), "cannot remove what was received in part");
            hold(&self.aside).insert(begun);
        }
        received.map(drop)
    }

    fn receive_begun(&self, begun: &str, from: &mut dyn Read) -> Result<(), Error> {
        // With the snapshot's name, zfs(8) refuses a stream of several; `-x` and `-u` keep it from being mounted anywhere; `-h` leaves
        // holds behind, which nothing here would release.
        let snapshot = format!("{begun}@{ROOT}");
        Tool::new("zfs").args(["receive", "-h", "-u", "-x", "mountpoint", &snapshot]).run_from(from).map_err(failed)?;
        let get = |args: &[&str]| -> Result<Vec<String>, Error> {
            let output = zfs(&[&["get", "-H"], args, &[begun]].concat())?;
            Ok(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect())
        };
        let refused = |reason: String| Err(Error::invalid("stream", reason));
        let kind = get(&["-o", "value", "type"])?.concat();
        if kind != "filesystem" {
            return refused(format!("it has a {kind}, no file system"));
        }
        if get(&["-o", "value", "encryptionroot"])?.concat() == begun {
            return refused("it is raw (zfs send -w) and encrypted: its key is not here".to_owned());
        }
        let properties = get(&["-o", "property", "-s", "received", "all"])?;
        if properties.is_empty() {
            return Ok(());
        }
        refused(format!("it sets properties ({}): send it without -p and -R", properties.join(", ")))
    }

    /// Moves a container's dataset, which is not mounted, with its snapshots to where nothing removes it.
    pub(super) fn keep(&self, dataset: &str, id: &ContainerId) -> Result<(), Error> {
        zfs(&["rename", "-u", dataset, &format!("{}/{KEPT}/{id}", self.base)]).map(drop)
    }

    /// Idempotent.
    pub(super) fn destroy_snapshot(&self, snapshot: &str) -> Result<(), Error> {
        gone(self.act(&["destroy", snapshot], |library| library.destroy_snapshots(&[snapshot.to_owned()])))
    }

    /// Destroys snapshots of a dataset in one transaction: all or none.
    pub(super) fn destroy_all(&self, dataset: &str, names: &[&str]) -> Result<(), Error> {
        if names.is_empty() {
            return Ok(());
        }
        let whole: Vec<String> = names.iter().map(|name| format!("{dataset}@{name}")).collect();
        let listed = format!("{dataset}@{}", names.join(","));
        self.act(&["destroy", &listed], |library| library.destroy_snapshots(&whole))
    }

    /// Rolls back to the latest snapshot.
    pub(super) fn rollback(&self, dataset: &str, name: &str) -> Result<(), Error> {
        let snapshot = format!("{dataset}@{name}");
        self.act(&["rollback", &snapshot], |library| library.rollback(dataset, &snapshot))
    }

    /// A dataset's snapshots, the oldest first.
    pub(super) fn snapshots(&self, dataset: &str) -> Result<Vec<Snapshot>, Error> {
        let columns = "name,used,referenced,creation";
        let output = zfs(&["list", "-Hp", "-d", "1", "-t", "snapshot", "-s", "createtxg", "-o", columns, dataset])?;
        Ok(snapshots(&String::from_utf8_lossy(&output.stdout)))
    }

    /// Lists all datasets.
    pub(super) fn list(&self) -> Result<Listed, Error> {
        // A volume is what a server left that received one when it died.
        let kinds = "filesystem,volume,snapshot";
        let output = zfs(&["list", "-Hp", "-r", "-t", kinds, "-o", "name,used", &self.base])?;
        Ok(parse(&self.base, &String::from_utf8_lossy(&output.stdout)))
    }

    fn act(&self, tool: &[&str], call: impl FnOnce(&Library) -> io::Result<()>) -> Result<(), Error> {
        match &self.library {
            Some(library) => {
                call(library).map_err(Error::io(format!("cannot {} as zfs {}", tool[0], tool[1..].join(" "))))
            }
            None => zfs(tool).map(drop),
        }
    }
}

fn zfs(args: &[&str]) -> Result<Output, Error> {
    Tool::new("zfs").args(args).run().map_err(failed)
}

/// Maps the messages of zfs(8) to the errnos that libzfs_core returns.
fn failed(error: RunError) -> Error {
    let said = error.to_string();
    let number = match () {
        () if said.contains("does not exist") => Some(libc::ENOENT),
        () if said.contains("is busy") || said.contains("being held") => Some(libc::EBUSY),
        () if ["dependent clones", "has children", "is cloned"].iter().any(|text| said.contains(text)) => {
            Some(libc::EEXIST)
        }
        () if said.contains("out of space") => Some(libc::ENOSPC),
        () => None,
    };
    match number {
        Some(number) => Error::io(said)(io::Error::from_raw_os_error(number)),
        None => Error::failed("cannot use zfs(8)")(error),
    }
}

fn gone(done: Result<(), Error>) -> Result<(), Error> {
    match done {
        Err(error) if errno(&error) == Some(Errno::ENOENT) => Ok(()),
        done => done,
    }
}

/// Retries while the error is EBUSY.
fn patiently(destroy: impl Fn() -> Result<(), Error>) -> Result<(), Error> {
    for _ in 1..BUSY_ATTEMPTS {
        match destroy() {
            Err(error) if errno(&error) == Some(Errno::EBUSY) => std::thread::sleep(BUSY_PAUSE),
            done => return done,
        }
    }
    destroy()
}
