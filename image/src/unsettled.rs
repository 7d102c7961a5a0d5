//! What a power cut may still damage. Blobs and layers are renamed into place without a sync; before that, this file names them,
//! durably and with the boot. One sync some time after the pull settles them all, and the file forgets them. A server that starts
//! in another boot checks the blobs that stand in it and discards the layers, which are unpacked again from the blobs: after a
//! power cut an image is whole or gone. A server that starts in the same boot finds everything whole, and settles it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};

use crate::locks::hold;
use crate::rootfs::ChainId;
use crate::{Digest, Error, sys};

/// The written version. A newer one is refused.
const VERSION: u32 = 1;
const MODE: u32 = 0o600;

#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    version: u32,
    /// The kernel's number of the boot.
    boot: String,
    names: Names,
}

/// Blobs and chains.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Names {
    pub(crate) blobs: Vec<Digest>,
    pub(crate) chains: Vec<ChainId>,
}

/// See the module's description.
#[derive(Debug)]
pub(crate) struct Unsettled {
    path: PathBuf,
    boot: String,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    blobs: BTreeMap<Digest, Use>,
    chains: BTreeMap<ChainId, Use>,
    /// Counts the syncs that have begun.
    round: u64,
}

/// Who may still write to a name.
#[derive(Debug, Default, Clone, Copy)]
struct Use {
    pulls: usize,
    /// The round in which the last of them ended.
    ended: u64,
}

impl Use {
    /// Whether the sync of this round covers it: nobody has written to it since.
    fn is_settled(&self, round: u64) -> bool {
        self.pulls == 0 && self.ended < round
    }
}

/// The names of one pull. Dropping it leaves them to the next sync.
#[derive(Debug)]
pub(crate) struct Noted {
    unsettled: Arc<Unsettled>,
    names: Mutex<Names>,
}

impl Unsettled {
    /// Reads the file. Also returns what another boot left in it, which is forgotten only when it is written again.
    pub(crate) fn open(root: &Path) -> Result<(Self, Names), Error> {
        let path = root.join("unsettled.json");
        let boot = sys::boot().map_err(Error::io("cannot tell this boot from others"))?;
        let stored: Option<Stored> = host::json::read(&path).map_err(Error::of_file(&path))?;
        let stored = stored.unwrap_or(Stored { version: VERSION, boot: boot.clone(), names: Names::default() });
        if stored.version != VERSION {
            let reason = format!("has version {}, this program reads version {VERSION}", stored.version);
            return Err(Error::invalid(path.display().to_string(), reason));
        }
        let (names, suspect) =
            if stored.boot == boot { (stored.names, Names::default()) } else { (Names::default(), stored.names) };
        let mut state = State::default();
        state.blobs.extend(names.blobs.into_iter().map(|name| (name, Use::default())));
        state.chains.extend(names.chains.into_iter().map(|name| (name, Use::default())));
        Ok((Self { path, boot, state: Mutex::new(state) }, suspect))
    }

    /// Starts to collect the names of a pull.
    pub(crate) fn noted(self: &Arc<Self>) -> Noted {
        Noted { unsettled: Arc::clone(self), names: Mutex::default() }
    }

    /// Syncs what no pull writes to any more, and forgets it. Blocking.
    pub(crate) fn settle(&self, sync: impl FnOnce(&Names) -> Result<(), Error>) -> Result<(), Error> {
        let (names, round) = {
            let mut state = hold(&self.state);
            state.round += 1;
            (state.settled(), state.round)
        };
        if names == Names::default() {
            return Ok(());
        }
        sync(&names)?;
        let mut state = hold(&self.state);
        state.blobs.retain(|_, name| !name.is_settled(round));
        state.chains.retain(|_, name| !name.is_settled(round));
        self.write(&state)
    }

    /// Writes the file anew: what another boot left is dealt with.
    pub(crate) fn forget_others(&self) -> Result<(), Error> {
        self.write(&hold(&self.state))
    }

    fn write(&self, state: &State) -> Result<(), Error> {
        let names =
            Names { blobs: state.blobs.keys().cloned().collect(), chains: state.chains.keys().cloned().collect() };
        let stored = Stored { version: VERSION, boot: self.boot.clone(), names };
        let bytes = serde_json::to_vec(&stored).expect("it has string keys only");
        let failed = Error::io(format!("cannot write {}", self.path.display()));
        host::fs::write_atomic(&self.path, &bytes, MODE).map_err(failed)
    }
}

impl State {
    fn settled(&self) -> Names {
        let round = self.round;
        let blobs = self.blobs.iter().filter(|(_, name)| name.is_settled(round)).map(|(name, _)| name.clone());
        let chains = self.chains.iter().filter(|(_, name)| name.is_settled(round)).map(|(name, _)| name.clone());
        Names { blobs: blobs.collect(), chains: chains.collect() }
    }
}

impl Noted {
    /// Notes names, durably, before they are made. Blocking.
    pub(crate) fn add(&self, more: Names) -> Result<(), Error> {
        if more == Names::default() {
            return Ok(());
        }
        let mut state = hold(&self.unsettled.state);
        let known = state.blobs.len() + state.chains.len();
        more.blobs.iter().for_each(|name| state.blobs.entry(name.clone()).or_default().pulls += 1);
        more.chains.iter().for_each(|name| state.chains.entry(name.clone()).or_default().pulls += 1);
        {
            let mut names = hold(&self.names);
            names.blobs.extend(more.blobs);
            names.chains.extend(more.chains);
        }
        if state.blobs.len() + state.chains.len() == known { Ok(()) } else { self.unsettled.write(&state) }
    }
}

impl Drop for Noted {
    fn drop(&mut self) {
        let mut state = hold(&self.unsettled.state);
        let (names, ended) = (hold(&self.names).clone(), state.round);
        let end = |name: Option<&mut Use>| {
            if let Some(name) = name {
                (name.pulls, name.ended) = (name.pulls.saturating_sub(1), ended);
            }
        };
        names.blobs.iter().for_each(|name| end(state.blobs.get_mut(name)));
        names.chains.iter().for_each(|name| end(state.chains.get_mut(name)));
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use super::{Names, Unsettled};
    use crate::Digest;
    use crate::rootfs::ChainId;

    fn names(blobs: &[&str], chains: &[&str]) -> Names {
        let digest = |text: &&str| Digest::of(text.as_bytes());
        Names {
            blobs: blobs.iter().map(digest).collect(),
            chains: chains.iter().map(|text| ChainId(digest(text).to_string())).collect(),
        }
    }

    fn open(root: &Path) -> Arc<Unsettled> {
        let (unsettled, suspect) = Unsettled::open(root).unwrap();
        assert_eq!(suspect, Names::default());
        Arc::new(unsettled)
    }

    /// What a sync is asked for.
    fn synced(unsettled: &Unsettled, meanwhile: impl FnOnce()) -> Names {
        let mut asked = Names::default();
        unsettled
            .settle(|names| {
                asked = names.clone();
                meanwhile();
                Ok(())
            })
            .unwrap();
        asked
    }

    #[test]
    fn a_sync_settles_what_nobody_writes_to_since_it_began() {
        let root = tempfile::tempdir().unwrap();
        let unsettled = open(root.path());
        let (one, two) = (unsettled.noted(), unsettled.noted());
        one.add(names(&["a"], &["c"])).unwrap();
        two.add(names(&["a"], &[])).unwrap();
        two.add(names(&["b"], &[])).unwrap();
        assert_eq!(synced(&unsettled, || ()), Names::default(), "both are written to");
        drop(one);
        assert_eq!(synced(&unsettled, || ()), names(&[], &["c"]));
        drop(two);
        let again = unsettled.noted();
        let asked = synced(&unsettled, || {
            again.add(names(&["a"], &[])).unwrap();
            drop(again);
        });
        assert_eq!(asked.blobs.len(), 2);
        assert_eq!(synced(&unsettled, || ()), names(&["a"], &[]), "it was written to meanwhile");
        assert_eq!(synced(&unsettled, || ()), Names::default());
    }

    #[test]
    fn the_next_server_settles_it_and_another_boot_suspects_it() {
        let root = tempfile::tempdir().unwrap();
        open(root.path()).noted().add(names(&["a"], &["c"])).unwrap();
        let next = open(root.path());
        let path = root.path().join("unsettled.json");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replace(&next.boot, "another")).unwrap();
        for _ in 0..2 {
            let (_, suspect) = Unsettled::open(root.path()).unwrap();
            assert_eq!(suspect, names(&["a"], &["c"]));
        }
        Unsettled::open(root.path()).unwrap().0.forget_others().unwrap();
        open(root.path());
        std::fs::write(&path, text).unwrap();
        let again = open(root.path());
        assert_eq!(synced(&again, || ()), names(&["a"], &["c"]));
        assert_eq!(synced(&open(root.path()), || ()), Names::default());
        std::fs::write(&path, r#"{"version":2,"boot":"","names":{"blobs":[],"chains":[]}}"#).unwrap();
        assert!(Unsettled::open(root.path()).unwrap_err().to_string().contains("version 2"));
    }
}
