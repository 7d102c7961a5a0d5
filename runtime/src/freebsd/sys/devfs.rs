//! The rules of devfs, by ioctl on /dev (devfs(8), sys/fs/devfs/devfs.h): plain numbers and one pattern each.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::freebsd::devices::{PATTERN_LENGTH, Rule};

/// DEVFS_MAGIC.
const MAGIC: u32 = 0xdb0a_087a;
/// DRC_PATHPTRN: the rule has a pattern.
const HAS_PATTERN: i32 = 0x002;
/// DRA_BACTS: the rule hides or shows.
const HIDES_OR_SHOWS: i32 = 0x001;
/// DRB_HIDE.
const HIDE: i32 = 0x001;
/// DRB_UNHIDE.
const SHOW: i32 = 0x002;

/// struct devfs_rule.
#[repr(C)]
struct KernelRule {
    magic: u32,
    /// The ruleset in the upper half, the rule in the lower; rule 0: the kernel numbers it.
    id: u32,
    conditions: i32,
    dswflags: i32,
    pattern: [u8; PATTERN_LENGTH],
    actions: i32,
    hide_or_show: i32,
    uid: libc::uid_t,
    gid: libc::gid_t,
    mode: libc::mode_t,
    included: u16,
}

nix::ioctl_readwrite!(add_rule, b'D', 0, KernelRule);
nix::ioctl_write_ptr!(delete_rule, b'D', 1, u32);
nix::ioctl_write_ptr!(apply_rule, b'D', 2, KernelRule);
nix::ioctl_readwrite!(next_rule, b'D', 4, KernelRule);
nix::ioctl_readwrite!(next_ruleset, b'D', 12, u16);

/// Opens devfs: any of its directories will do.
pub(in crate::freebsd) fn open() -> io::Result<File> {
    File::open("/dev")
}

fn kernel_rule(ruleset: u16) -> KernelRule {
    KernelRule {
        magic: MAGIC,
        id: u32::from(ruleset) << 16,
        conditions: 0,
        dswflags: 0,
        pattern: [0; PATTERN_LENGTH],
        actions: 0,
        hide_or_show: 0,
        uid: 0,
        gid: 0,
        mode: 0,
        included: 0,
    }
}

fn encoded(ruleset: u16, rule: &Rule) -> io::Result<KernelRule> {
    let mut wanted = kernel_rule(ruleset);
    wanted.actions = HIDES_OR_SHOWS;
    wanted.hide_or_show = if rule.show { SHOW } else { HIDE };
    if let Some(pattern) = &rule.pattern {
        wanted.conditions = HAS_PATTERN;
        let room = wanted.pattern.get_mut(..pattern.len()).filter(|room| room.len() < PATTERN_LENGTH);
        room.ok_or_else(|| io::Error::from_raw_os_error(libc::ENAMETOOLONG))?.copy_from_slice(pattern.as_bytes());
    }
    Ok(wanted)
}

/// Adds a rule at the end of a ruleset, which exists by having rules.
pub(in crate::freebsd) fn add(devfs: &File, ruleset: u16, rule: &Rule) -> io::Result<()> {
    let mut wanted = encoded(ruleset, rule)?;
    // SAFETY: the descriptor is open, and the structure is the header's, alive through the call.
    unsafe { add_rule(devfs.as_raw_fd(), &raw mut wanted) }?;
    Ok(())
}

/// Applies a rule to the present entries of a devfs, and to none that appears later (DEVFSIO_RAPPLY).
pub(in crate::freebsd) fn apply(devfs: BorrowedFd<'_>, rule: &Rule) -> io::Result<()> {
    let wanted = encoded(0, rule)?;
    // SAFETY: the descriptor is open, and the structure is the header's, alive through the call.
    unsafe { apply_rule(devfs.as_raw_fd(), &raw const wanted) }?;
    Ok(())
}

/// Removes a ruleset with its rules. Idempotent.
pub(in crate::freebsd) fn remove(devfs: &File, ruleset: u16) -> io::Result<()> {
    loop {
        let mut rule = kernel_rule(ruleset);
        // SAFETY: the descriptor is open, and the structure is the header's, alive through the call.
        match unsafe { next_rule(devfs.as_raw_fd(), &raw mut rule) } {
            Ok(_) if rule.id >> 16 == u32::from(ruleset) => {}
            Ok(_) | Err(nix::errno::Errno::ENOENT | nix::errno::Errno::ESRCH) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        }
        // SAFETY: the descriptor is open, and the kernel reads one number.
        match unsafe { delete_rule(devfs.as_raw_fd(), &raw const rule.id) } {
            Ok(_) | Err(nix::errno::Errno::ENOENT | nix::errno::Errno::ESRCH) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// The number of the next ruleset after this one; None: there is none.
pub(in crate::freebsd) fn next(devfs: &File, after: u16) -> io::Result<Option<u16>> {
    let mut number = after;
    // SAFETY: the descriptor is open, and the kernel reads and writes one number.
    match unsafe { next_ruleset(devfs.as_raw_fd(), &raw mut number) } {
        Ok(_) => Ok(Some(number)),
        Err(nix::errno::Errno::ESRCH | nix::errno::Errno::ENOENT) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}
