//! Datasets: through libzfs_core where it can be loaded, else through zfs(8), which does the same and takes ten times as long.
//! What libzfs_core has no call for (lists, properties) zfs(8) answers.

use std::collections::{HashMap, HashSet};
use std::io;

use host::ContainerId;
use host::run::{Output, Tool};

use super::sys::Library;
use super::{ChainId, LAYER};
use crate::Error;

/// The datasets below one.
#[derive(Debug)]
pub(super) struct Datasets {
    base: String,
    library: Option<Library>,
}

/// What there is below the dataset.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Listed {
    /// All chains, whole or begun.
    pub(super) chains: Vec<ChainId>,
    whole: HashSet<ChainId>,
    pub(super) containers: Vec<ContainerId>,
    /// `used` of each, in bytes.
    pub(super) sizes: HashMap<String, u64>,
}

impl Listed {
    /// Whether a chain is whole.
    pub(super) fn has(&self, chain: &ChainId) -> bool {
        self.whole.contains(chain)
    }
}

impl Datasets {
    /// Makes the two datasets that all others are below.
    pub(super) fn open(base: &str) -> Result<Self, Error> {
        let library = Library::load()
            .inspect_err(|error| tracing::warn!(%error, "libzfs_core cannot be used: zfs(8) does its work, slower"))
            .ok();
        let datasets = Self { base: base.to_owned(), library };
        datasets.check()?;
        for name in ["chains", "containers"] {
            let dataset = format!("{base}/{name}");
            if !datasets.exists(&dataset)? {
                zfs(&["create", "-o", "mountpoint=legacy", "-o", "atime=off", &dataset])?;
            }
        }
        Ok(datasets)
    }

    pub(super) fn base(&self) -> &str {
        &self.base
    }

    /// Says what the dataset is, if it is there.
    pub(super) fn check(&self) -> Result<String, Error> {
        let output = zfs(&["list", "-H", "-o", "name,available", &self.base])?;
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        Ok(text.split_once('\t').map_or_else(|| text.clone(), |(_, free)| format!("{free} available")))
    }

    pub(super) fn chain(&self, chain: &ChainId) -> Result<String, Error> {
        Ok(format!("{}/chains/{}", self.base, chain.hex()?))
    }

    pub(super) fn container(&self, id: &ContainerId) -> String {
        format!("{}/containers/{id}", self.base)
    }

    /// Whether a dataset or a snapshot is there.
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

    pub(super) fn snapshot(&self, snapshot: &str) -> Result<(), Error> {
        self.act(&["snapshot", snapshot], |library| library.snapshot(snapshot))
    }

    /// Missing: done already.
    pub(super) fn destroy(&self, name: &str) -> Result<(), Error> {
        gone(self.act(&["destroy", name], |library| library.destroy(name)))
    }

    /// Missing: done already.
    pub(super) fn destroy_snapshot(&self, snapshot: &str) -> Result<(), Error> {
        gone(self.act(&["destroy", snapshot], |library| library.destroy_snapshot(snapshot)))
    }

    /// Back to the latest snapshot.
    pub(super) fn rollback(&self, dataset: &str, name: &str) -> Result<(), Error> {
        let snapshot = format!("{dataset}@{name}");
        self.act(&["rollback", &snapshot], |library| library.rollback(dataset, &snapshot))
    }

    /// The names of a dataset's snapshots, the oldest first.
    pub(super) fn snapshots(&self, dataset: &str) -> Result<Vec<String>, Error> {
        let output = zfs(&["list", "-H", "-d", "1", "-t", "snapshot", "-s", "createtxg", "-o", "name", dataset])?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok(text.lines().filter_map(|line| Some(line.split_once('@')?.1.to_owned())).collect())
    }

    /// Everything that there is.
    pub(super) fn list(&self) -> Result<Listed, Error> {
        let output = zfs(&["list", "-Hp", "-r", "-t", "filesystem,snapshot", "-o", "name,used", &self.base])?;
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

/// What zfs(8) lists. Names that are not ours are left alone.
fn parse(base: &str, text: &str) -> Listed {
    let mut listed = Listed::default();
    for line in text.lines() {
        let Some((name, used)) = line.split_once('\t') else { continue };
        if let Ok(bytes) = used.trim().parse() {
            listed.sizes.insert(name.to_owned(), bytes);
        }
        let Some(rest) = name.strip_prefix(base).and_then(|rest| rest.strip_prefix('/')) else { continue };
        match (rest.split_once('/'), rest.split_once('@')) {
            (Some(("chains", chain)), None) => listed.chains.extend(ChainId::from_hex(chain)),
            (Some(("chains", chain)), Some((_, LAYER))) => {
                listed.whole.extend(chain.split_once('@').and_then(|(chain, _)| ChainId::from_hex(chain)));
            }
            (Some(("containers", id)), None) => listed.containers.extend(id.parse().ok()),
            _ => {}
        }
    }
    listed
}

/// What zfs(8) says of a dataset that is busy or missing, as the numbers that libzfs_core gives.
fn zfs(args: &[&str]) -> Result<Output, Error> {
    Tool::new("zfs").args(args).run().map_err(|error| {
        let said = error.to_string();
        let number = match () {
            () if said.contains("does not exist") => Some(libc::ENOENT),
            () if said.contains("is busy") => Some(libc::EBUSY),
            () if said.contains("dependent clones") || said.contains("has children") => Some(libc::EEXIST),
            () if said.contains("out of space") => Some(libc::ENOSPC),
            () => None,
        };
        match number {
            Some(number) => Error::io(said)(io::Error::from_raw_os_error(number)),
            None => Error::failed("cannot use zfs(8)")(error),
        }
    })
}

fn gone(done: Result<(), Error>) -> Result<(), Error> {
    match done {
        Err(error) if super::errno(&error) == Some(nix::errno::Errno::ENOENT) => Ok(()),
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use super::{ChainId, parse};
    use crate::Digest;

    #[test]
    fn a_list_is_read() {
        let (whole, begun) = (Digest::of(b"a"), Digest::of(b"b"));
        let id = "0123456789abcdef".repeat(4);
        let text = format!(
            "tank/c\t100\ntank/c/chains\t60\ntank/c/chains/{0}\t40\ntank/c/chains/{0}@layer\t0\ntank/c/chains/{1}\t20\n\
             tank/c/containers\t30\ntank/c/containers/{id}\t30\ntank/c/containers/{id}@mine\t1\ntank/c/other\t1\ntank/c/chains/x\t1\n",
            whole.hex(),
            begun.hex()
        );
        let listed = parse("tank/c", &text);
        assert_eq!(listed.chains.len(), 2);
        assert!(listed.has(&ChainId(whole.to_string())) && !listed.has(&ChainId(begun.to_string())));
        assert_eq!(listed.containers[0].as_str(), id);
        assert_eq!(listed.sizes[&format!("tank/c/containers/{id}")], 30);
    }
}
