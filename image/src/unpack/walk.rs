//! Resolves paths in the target directory by descriptors alone. A path is walked one component at a time from the root, as a
//! program in the image would: an absolute symbolic link starts at the root again, and a `..` above the root is refused. Nothing
//! else writes to the directory, so there is no race between check and use.

use std::cell::Cell;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::rc::Rc;

use nix::errno::Errno;
use nix::sys::stat::Mode;

use super::Failure;
use super::entry::shown;
use super::place::{Place, Step};

/// Components of a path. A path of 4096 bytes could have 2048; such deep trees are slow to walk and to remove.
const DEPTH_MAX: usize = 512;
/// Symbolic links on one path, as in Linux (path_resolution(7)).
const LINKS_MAX: usize = 40;
/// Names of the layers below that one layer hides.
const NAMES_MAX: usize = if cfg!(test) { 10_000 } else { 4_000_000 };
/// The mode of a directory that no entry is for.
const MODE: Mode = Mode::from_bits_truncate(0o755);

/// Splits a path of an archive into components, without `.` and empty ones. A leading slash is the layer's root, as some tools
/// write it; a `..` is refused.
pub(super) fn names(path: &[u8]) -> Result<Vec<&OsStr>, Failure> {
    let names: Vec<&OsStr> = path
        .split(|byte| *byte == b'/')
        .filter(|name| !name.is_empty() && *name != b".")
        .map(OsStr::from_bytes)
        .collect();
    if names.iter().any(|name| *name == "..") {
        return Err(Failure::invalid(format!("entry {}: it leads out of the layer's root", shown(path))));
    }
    if names.len() > DEPTH_MAX || names.iter().any(|name| name.len() > 255) {
        return Err(Failure::invalid(format!(
            "entry {}: it is nested deeper than {DEPTH_MAX}, or has a name longer than 255 bytes",
            shown(path)
        )));
    }
    Ok(names)
}

/// A resolved directory.
pub(super) struct Resolved {
    pub(super) place: Place,
    /// Its components from the root on, without symbolic links.
    pub(super) path: Vec<Vec<u8>>,
}

/// Walks paths below one directory.
pub(super) struct Places<'a> {
    root: &'a Place,
    /// The last result: entries of one directory usually follow one another.
    last: Option<Rc<Resolved>>,
    /// Names below that were looked at to be hidden.
    hidden: Cell<usize>,
}

impl<'a> Places<'a> {
    pub(super) fn new(root: &'a Place) -> Self {
        Self { root, last: None, hidden: Cell::new(0) }
    }

    /// Clears the cache: a removed entry may have been on its path.
    pub(super) fn forget(&mut self) {
        self.last = None;
    }

    /// Counts names below that are looked at to be hidden: a short layer could do it again and again.
    pub(super) fn hide(&self, names: usize) -> Result<(), Failure> {
        self.hidden.set(self.hidden.get().saturating_add(names));
        if self.hidden.get() > NAMES_MAX {
            return Err(Failure::invalid(format!("it hides more than {NAMES_MAX} names of the layers below")));
        }
        Ok(())
    }

    /// Finds a directory. With `make`, creates it unless another file is in its place; else a missing one is None.
    pub(super) fn directory(&mut self, names: &[&OsStr], make: bool) -> Result<Option<Rc<Resolved>>, Failure> {
        // By its path without links: an entry may replace a link of the layers below without a look at it.
        if let Some(last) = &self.last
            && last.path.iter().map(Vec::as_slice).eq(names.iter().map(|name| name.as_bytes()))
        {
            return Ok(Some(Rc::clone(last)));
        }
        let path = || shown(names.join(OsStr::new("/")).as_bytes());
        self.last = self.walk(names, make, &path)?.map(Rc::new);
        Ok(self.last.clone())
    }

    fn walk(&self, names: &[&OsStr], make: bool, path: &dyn Fn() -> String) -> Result<Option<Resolved>, Failure> {
        let failed = |error: Errno| Failure::system(format!("cannot reach {}", path()), error);
        let refuse = |reason: &str| Failure::invalid(format!("path {}: {reason}", path()));
        let mut left: Vec<Vec<u8>> = names.iter().rev().map(|name| name.as_bytes().to_vec()).collect();
        let (mut done, mut links) = (Vec::<Vec<u8>>::new(), 0);
        let mut here = self.reopen(&done).map_err(failed)?;
        while let Some(name) = left.pop() {
            if name == b".." {
                done.pop().ok_or_else(|| refuse("a symbolic link on it leads out of the layer's root"))?;
                here = self.reopen(&done).map_err(failed)?;
                continue;
            }
            match here.step(OsStr::from_bytes(&name)).map_err(failed)? {
                Step::Into(next) => (here, done) = (next, [done, vec![name]].concat()),
                Step::Missing if make => {
                    let (made, hidden) = here.make_missing(OsStr::from_bytes(&name), MODE).map_err(failed)?;
                    self.hide(hidden)?;
                    here = made;
                    done.push(name);
                }
                Step::File if make => return Err(refuse("a file stands where it has a directory")),
                Step::Missing | Step::File => return Ok(None),
                Step::Link(target) => {
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(refuse("it has more than 40 symbolic links"));
                    }
                    if target.starts_with(b"/") {
                        done.clear();
                        here = self.reopen(&done).map_err(failed)?;
                    }
                    let parts = target.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".");
                    left.extend(parts.rev().map(<[u8]>::to_vec));
                    if left.len() + done.len() > 2 * DEPTH_MAX {
                        return Err(refuse("it is nested too deep"));
                    }
                }
            }
        }
        Ok(Some(Resolved { place: here, path: done }))
    }

    /// Opens components that are known to be directories.
    fn reopen(&self, names: &[Vec<u8>]) -> nix::Result<Place> {
        let mut here = self.root.again()?;
        for name in names {
            here = match here.step(OsStr::from_bytes(name))? {
                Step::Into(next) => next,
                _ => return Err(Errno::ENOTDIR),
            };
        }
        Ok(here)
    }
}
