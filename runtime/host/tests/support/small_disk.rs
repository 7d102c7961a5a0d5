//! A disk that tests can fill; tests of other crates take this file by its path.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use host::run::Tool;

/// A file system in memory with little room, mounted as long as this lives.
#[derive(Debug)]
pub(crate) struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts one of N megabytes; None: only root can. Nothing may be skipped in CI.
    ///
    /// # Panics
    /// It cannot be mounted.
    #[must_use]
    pub(crate) fn mount(at: &Path, megabytes: u32) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: only root can mount a small file system");
            assert!(std::env::var_os("CI").is_none(), "nothing may be skipped in CI");
            return None;
        }
        let size = format!("size={megabytes}m");
        let mount = Tool::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).args([at]);
        let made = std::fs::create_dir_all(at).map_err(|error| error.to_string());
        made.and_then(|()| mount.run().map_err(|error| error.to_string())).expect("a small disk can be mounted");
        Some(Self(at.to_owned()))
    }

    /// Takes all the room that is left; it comes back when the file is removed.
    ///
    /// # Errors
    /// The file cannot be made.
    pub(crate) fn fill(&self) -> io::Result<PathBuf> {
        let path = self.0.join("filler");
        let mut file = File::create(&path)?;
        while file.write(&[0; 4096]).is_ok_and(|count| count > 0) {}
        Ok(path)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Files may still be open in a thread that ends just now: lazily on Linux, by force on FreeBSD.
        let umount = |how: &str| Tool::new("umount").args([how]).args([&self.0]).run();
        let _ = umount("-l").or_else(|_| umount("-f"));
    }
}
