//! Roots on overlayfs: a directory for each chain, and an upper directory for each container, mounted together. A layer is unpacked
//! into its own directory, beside a read-only mount of those below: through a mount of both, overlayfs would look up each new file
//! in every directory below (10,000 small files on eight chains take 0.57 s so, and 0.36 s beside them).

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use host::run::Tool;
use host::{ContainerId, Need};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::layout::{Layout, remove};
use super::{ChainId, FsUsage, Rootfs, STACKED, Unpacking, every, make_root, root_need, tree};
use crate::Error;

/// Bytes of mount options: mount(2) copies one page, and its last byte ends the text.
const OPTIONS_MAX: usize = 4095;
/// How long unmounting a busy mount is retried before it is detached (MNT_DETACH).
const BUSY_MAX: Duration = Duration::from_secs(2);
const BUSY_PAUSE: Duration = Duration::from_millis(20);
/// How often one mount point is unmounted: a crash between two calls may have stacked a second mount on it.
const STACK_MAX: usize = 8;

/// Chains and roots as overlayfs mounts below a directory.
#[derive(Debug)]
pub struct Overlay {
    layout: Layout,
}

impl Overlay {
    /// Opens the backend in a directory, which it creates.
    ///
    /// # Errors
    /// The directory cannot be used.
    pub fn open(directory: &Path) -> Result<Self, Error> {
        Ok(Self { layout: Layout::open(directory, STACKED)? })
    }

    /// Whether overlayfs can be mounted below this directory: not without root, and not on top of another overlay.
    #[must_use]
    pub fn works(directory: &Path) -> bool {
        let trial = directory.join("trial");
        let tried = ["lower", "upper", "work", "merged"]
            .iter()
            .try_for_each(|name| fs::create_dir_all(trial.join(name)))
            .map_err(Error::io("cannot create a directory"))
            .and_then(|()| mount_layers(&[trial.join("lower")], Some(&trial), &trial.join("merged"), MsFlags::empty()))
            .and_then(|()| unmount(&trial.join("merged")));
        tried.and(remove(&trial)).is_ok()
    }

    fn remove_begun(&self, chain: &ChainId) -> Result<(), Error> {
        let begun = self.layout.begun(chain)?;
        unmount(&begun.join("merged"))?;
        remove(&begun)
    }

    /// The directories of a chain's layers, the uppermost first, as overlayfs wants them.
    fn layers(&self, chain: &ChainId) -> Result<Vec<PathBuf>, Error> {
        let mut layers = Vec::new();
        let mut next = Some(chain.clone());
        while let Some(chain) = next {
            next = self.layout.chain_record(&chain)?.parent;
            layers.push(self.layout.chain(&chain)?.join("fs"));
        }
        Ok(layers)
    }
}

impl Rootfs for Overlay {
    fn name(&self) -> &'static str {
        "overlay"
    }

    fn needs(&self) -> Vec<Need> {
        // The kernel loads the module at the first mount; a check mounts nothing.
        let known = || fs::read_to_string("/proc/filesystems").is_ok_and(|list| list.contains("\toverlay\n"));
        let known = known() || (Tool::new("modprobe").args(["overlay"]).run().is_ok() && known());
        let overlay = Need {
            name: "overlayfs".to_owned(),
            found: if known { "the kernel has it" } else { "the kernel does not know it" }.to_owned(),
            required: true,
            remedy: (!known).then(|| "modprobe overlay, or configure rootfs = \"copy\"".to_owned()),
        };
        vec![root_need(), overlay]
    }

    fn has(&self, chain: &ChainId) -> Result<bool, Error> {
        self.layout.has(chain)
    }

    fn sweep(&self) -> Result<(), Error> {
        every(self.layout.all_begun()?.iter().map(|chain| self.remove_begun(chain)))
    }

    fn begin(&self, chain: &ChainId, parent: Option<&ChainId>) -> Result<Unpacking, Error> {
        let lower = parent.map(|parent| self.layers(parent)).transpose()?;
        self.remove_begun(chain)?;
        let begun = self.layout.begin(chain, parent)?;
        let upper = begun.join("upper");
        let Some(lower) = lower else {
            make_root(&upper)?;
            return Ok(Unpacking { chain: chain.clone(), directory: upper, below: None });
        };
        make_upper(&upper, &lower[0])?;
        let below = begun.join("merged");
        make_root(&below)?;
        show(&lower, &below, MsFlags::MS_NODEV | MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC)?;
        Ok(Unpacking { chain: chain.clone(), directory: upper, below: Some(below) })
    }

    fn commit(&self, unpacking: &Unpacking) -> Result<(), Error> {
        if self.layout.has(&unpacking.chain)? {
            return Ok(());
        }
        let begun = self.layout.begun(&unpacking.chain)?;
        unmount(&begun.join("merged"))?;
        remove(&begun.join("merged"))?;
        match fs::rename(begun.join("upper"), begun.join("fs")) {
            // An earlier attempt got this far.
            Err(error) if error.kind() == io::ErrorKind::NotFound && begun.join("fs").is_dir() => {}
            renamed => renamed.map_err(Error::io(format!("cannot keep {}", begun.display())))?,
        }
        self.layout.commit(&unpacking.chain)
    }

    fn sync(&self, chains: &[ChainId]) -> Result<(), Error> {
        self.layout.sync(chains)
    }

    fn distrust(&self, chains: &[ChainId]) -> Result<(), Error> {
        self.layout.distrust(chains)
    }

    fn remove_chain(&self, chain: &ChainId) -> Result<(), Error> {
        self.layout.check_free(chain)?;
        self.remove_begun(chain)?;
        self.layout.remove_chain(chain)
    }

    fn chain_usage(&self, chain: &ChainId) -> Result<FsUsage, Error> {
        self.layout.chain_usage(chain)
    }

    fn prepare(&self, id: &ContainerId, chain: &ChainId) -> Result<PathBuf, Error> {
        let layers = self.layers(chain)?;
        let own = self.layout.container(id);
        let root = own.join("root");
        self.layout.note(id, |record| record.chain = Some(chain.clone()))?;
        if mounted(&root)? {
            return Ok(root);
        }
        for name in ["work", "root"] {
            make_missing(&own.join(name))?;
        }
        if !own.join("upper").is_dir() {
            make_upper(&own.join("upper"), &layers[0])?;
        }
        mount_layers(&layers, Some(&own), &root, MsFlags::empty())?;
        Ok(root)
    }

    fn discard(&self, id: &ContainerId) -> Result<(), Error> {
        let own = self.layout.container(id);
        unmount(&own.join("root"))?;
        if let Some(record) = self.layout.container_record(id)? {
            for chain in &record.volumes {
                unmount(&own.join("volumes").join(chain.hex()?))?;
            }
        }
        remove(&own)
    }

    fn usage(&self, id: &ContainerId) -> Result<FsUsage, Error> {
        let upper = self.layout.container(id).join("upper");
        if !upper.is_dir() {
            return Err(Error::not_found(format!("root of container {id}")));
        }
        tree::usage(&upper)
    }

    fn volume(&self, id: &ContainerId, chain: &ChainId) -> Result<PathBuf, Error> {
        let layers = self.layers(chain)?;
        self.layout.note(id, |record| {
            if !record.volumes.contains(chain) {
                record.volumes.push(chain.clone());
            }
        })?;
        let target = self.layout.container(id).join("volumes").join(chain.hex()?);
        if mounted(&target)? {
            return Ok(target);
        }
        fs::create_dir_all(&target).map_err(Error::io(format!("cannot create {}", target.display())))?;
        show(&layers, &target, MsFlags::empty())?;
        Ok(target)
    }

    fn directory(&self, id: &ContainerId) -> PathBuf {
        self.layout.container(id)
    }

    fn mountpoint(&self) -> PathBuf {
        self.layout.directory().to_owned()
    }

    fn inventory(&self) -> Result<(Vec<ChainId>, Vec<ContainerId>), Error> {
        self.layout.inventory()
    }
}

/// Makes the upper directory with the attributes of the lower root: the mount shows those of the upper one.
fn make_upper(upper: &Path, below: &Path) -> Result<(), Error> {
    make_missing(upper)?;
    let failed = || format!("cannot copy the attributes of {} to {}", below.display(), upper.display());
    let metadata = fs::symlink_metadata(below).map_err(Error::io(failed()))?;
    tree::copy_attributes(&metadata, upper).map_err(Error::io(failed()))
}

fn make_missing(directory: &Path) -> Result<(), Error> {
    if directory.is_dir() { Ok(()) } else { make_root(directory) }
}

/// Mounts layers read-only, the uppermost first: one by itself, since overlayfs wants two.
fn show(layers: &[PathBuf], target: &Path, flags: MsFlags) -> Result<(), Error> {
    match layers {
        [layer] => bind_read_only(layer, target, flags),
        layers => mount_layers(layers, None, target, flags),
    }
}

/// Mounts layers, the uppermost first, below `own/upper` with `own/work`; without `own` the mount is read-only.
fn mount_layers(layers: &[PathBuf], own: Option<&Path>, target: &Path, flags: MsFlags) -> Result<(), Error> {
    let failed = || format!("cannot mount the layers at {}", target.display());
    let (upper, work) = (own.map(|own| own.join("upper")), own.map(|own| own.join("work")));
    let mut options = options(layers, upper.as_deref(), work.as_deref());
    // Paths that are too long together, or contain separators of options, are passed as descriptors.
    let mut held: Vec<OwnedFd> = Vec::new();
    if options.len() > OPTIONS_MAX
        || layers.iter().chain(&upper).any(|path| path.to_string_lossy().contains([':', ',', '\\']))
    {
        let mut short = |path: &PathBuf| -> Result<PathBuf, Error> {
            let opened = fs::OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY).open(path);
            let descriptor: OwnedFd = opened.map_err(Error::io(failed()))?.into();
            let short = PathBuf::from(format!("/proc/self/fd/{}", descriptor.as_raw_fd()));
            held.push(descriptor);
            Ok(short)
        };
        let layers = layers.iter().map(&mut short).collect::<Result<Vec<_>, _>>()?;
        let (upper, work) = (upper.as_ref().map(&mut short).transpose()?, work.as_ref().map(&mut short).transpose()?);
        options = self::options(&layers, upper.as_deref(), work.as_deref());
    }
    mount(Some("overlay"), target, Some("overlay"), flags, Some(options.as_str())).map_err(Error::io(failed()))
}

fn options(layers: &[PathBuf], upper: Option<&Path>, work: Option<&Path>) -> String {
    let lower: Vec<String> = layers.iter().map(|layer| layer.display().to_string()).collect();
    let mut options = format!("lowerdir={}", lower.join(":"));
    if let (Some(upper), Some(work)) = (upper, work) {
        options.push_str(&format!(",upperdir={},workdir={}", upper.display(), work.display()));
    }
    options
}

/// A bind mount takes its flags only when it is mounted again (mount(8)).
fn bind_read_only(from: &Path, target: &Path, flags: MsFlags) -> Result<(), Error> {
    let nothing = None::<&str>;
    let flags = flags | MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    mount(Some(from), target, nothing, MsFlags::MS_BIND, nothing)
        .and_then(|()| mount(nothing, target, nothing, flags, nothing))
        .map_err(Error::io(format!("cannot mount {} read-only", from.display())))
}

/// Whether the path is a mount point: it is on another mount than its parent. The list of all mounts, which has thousands of
/// lines on a full node, is not read.
fn mounted(path: &Path) -> Result<bool, Error> {
    if !path.is_dir() {
        return Ok(false);
    }
    let parent = path.parent().unwrap_or(path);
    let both = mount_of(path).and_then(|own| Ok((own, mount_of(parent)?)));
    let (own, below) = both.map_err(Error::io(format!("cannot tell what is mounted on {}", path.display())))?;
    Ok(own != below)
}

/// The number of the mount that a directory is on (`mnt_id` in proc_pid_fdinfo(5)).
fn mount_of(directory: &Path) -> io::Result<u64> {
    let opened = fs::OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY).open(directory)?;
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", opened.as_raw_fd()))?;
    let number = info.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok());
    number.ok_or_else(|| io::Error::other("the kernel does not say"))
}

/// Unmounts every mount at the path. Idempotent. A mount that stays busy is detached.
fn unmount(target: &Path) -> Result<(), Error> {
    let started = Instant::now();
    let failed = || format!("cannot unmount {}", target.display());
    for _ in 0..STACK_MAX {
        loop {
            let patient = started.elapsed() < BUSY_MAX;
            let flags = if patient { MntFlags::empty() } else { MntFlags::MNT_DETACH };
            match umount2(target, flags | MntFlags::UMOUNT_NOFOLLOW) {
                Ok(()) => break,
                // Not a mount point, or the path does not exist.
                Err(nix::Error::EINVAL | nix::Error::ENOENT) => return Ok(()),
                Err(nix::Error::EBUSY) if patient => std::thread::sleep(BUSY_PAUSE),
                Err(error) => return Err(Error::io(failed())(error)),
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::mounted;

    #[test]
    fn a_mount_point_is_told_from_a_directory() {
        let scratch = tempfile::tempdir().unwrap();
        assert!(mounted(Path::new("/proc")).unwrap());
        assert!(!mounted(Path::new("/proc/self/")).unwrap());
        assert!(!mounted(scratch.path()).unwrap());
        assert!(!mounted(&scratch.path().join("nothing")).unwrap());
    }
}
