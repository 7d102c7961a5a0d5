//! Processes: reaping (procctl(2)), the process table (sysctl kern.proc), the terminal, and the timer
//! and watches of a kqueue(2).

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::{null, null_mut};

use super::{c_string, checked, sysctl};

nix::ioctl_none_bad!(take_terminal, libc::TIOCSCTTY);

/// REAPER_PIDINFO_ZOMBIE in sys/procctl.h, since 14.0.
const ZOMBIE: u32 = 0x8;
/// REAPER_PIDINFO_VALID in sys/procctl.h.
const VALID: u32 = 0x1;
/// Not in libc: the number of this process's open descriptors, in sys/sysctl.h.
const KERN_PROC_NFDS: libc::c_int = 43;
/// The places of the smallest descriptor table, and those by which it grows, in kern/kern_descrip.c.
const NDFILE: RawFd = 20;
const NDENTRIES: RawFd = 64;
/// The limit on descendants in one call: the next call has others, when these are gone.
const DESCENDANTS: usize = 4096;
/// The limit on descendants whose memory is read four times a second.
const FEW_DESCENDANTS: usize = 64;

/// One process in the table.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::freebsd) struct Process {
    /// Its number.
    pub(in crate::freebsd) pid: i32,
    /// Its jail.
    pub(in crate::freebsd) jid: i32,
    /// Whether it waits to be reaped.
    pub(in crate::freebsd) zombie: bool,
    /// CPU time, its ended children's included, in microseconds.
    pub(in crate::freebsd) cpu_us: u64,
    /// That of its programs, its ended children's included, in microseconds.
    pub(in crate::freebsd) user_us: u64,
    /// That of the kernel for it, in the same way.
    pub(in crate::freebsd) system_us: u64,
    /// Its threads.
    pub(in crate::freebsd) threads: u64,
    /// Resident pages.
    pub(in crate::freebsd) resident: u64,
    /// Page faults served from memory, its children's included.
    pub(in crate::freebsd) minor_faults: u64,
    /// Page faults that read.
    pub(in crate::freebsd) major_faults: u64,
}

/// Ends this process without the exit handlers of its parent.
pub(in crate::freebsd) fn leave(code: i32) -> ! {
    // SAFETY: _exit(2) has no preconditions.
    unsafe { libc::_exit(code) }
}

/// Closes every descriptor from this one on.
pub(in crate::freebsd) fn close_from(first: RawFd) {
    // SAFETY: called in a child that is about to run another program: nothing in it uses the closed descriptors.
    unsafe { libc::closefrom(first) };
}

/// The size of the descriptor table of a child that this process, with one thread, forks next: `NDFILE` places, or all up to the last
/// open one, in multiples of `NDENTRIES` (fdcopy in kern/kern_descrip.c).
pub(in crate::freebsd) fn table_of_next_child() -> io::Result<RawFd> {
    let mib = [libc::CTL_KERN, libc::KERN_PROC, KERN_PROC_NFDS, 0];
    let value = sysctl::table(&mib, Some(size_of::<libc::c_int>()))?;
    let mut left =
        value.try_into().map(libc::c_int::from_ne_bytes).map_err(|_| io::Error::other("kern.proc.nfds is no int"))?;
    let mut places = 0;
    while left > 0 {
        // SAFETY: the call only looks whether the number is open.
        left -= libc::c_int::from(unsafe { libc::fcntl(places, libc::F_GETFD) } >= 0);
        places += 1;
    }
    Ok(if places <= NDFILE { NDFILE } else { (places + NDENTRIES - 1) / NDENTRIES * NDENTRIES })
}

/// Makes a descriptor known by this number alone, without the close-on-exec flag.
pub(in crate::freebsd) fn place(descriptor: BorrowedFd<'_>, number: RawFd) -> io::Result<()> {
    // SAFETY: the descriptor is open; the number is one that the child keeps for this.
    checked(unsafe { libc::dup2(descriptor.as_raw_fd(), number) }).map(drop)
}

/// Takes the descriptor with this number as its own.
pub(in crate::freebsd) fn adopt(number: RawFd) -> OwnedFd {
    // SAFETY: the caller has just placed a descriptor at this number, and nothing else owns it.
    unsafe { OwnedFd::from_raw_fd(number) }
}

/// Gives PIPE its default action, which the Rust runtime ignores, and blocks no signal: an exec would keep both. Others are not
/// ignored by a worker that has left its program, and an exec keeps no handler.
pub(in crate::freebsd) fn reset_signals() -> io::Result<()> {
    // SAFETY: the default action has no handler that could be unsafe.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    nix::sys::signal::SigSet::empty().thread_set_mask()?;
    Ok(())
}

/// Makes this process the parent of all orphans below it.
pub(in crate::freebsd) fn acquire_reaping() -> io::Result<()> {
    // SAFETY: PROC_REAP_ACQUIRE takes no argument.
    let result = unsafe { libc::procctl(libc::P_PID, own_id(), libc::PROC_REAP_ACQUIRE, null_mut()) };
    checked(result).map(drop)
}

/// Set-user-id programs give this process and its children no rights from now on.
pub(in crate::freebsd) fn forbid_new_privileges() -> io::Result<()> {
    let mut enable: libc::c_int = libc::PROC_NO_NEW_PRIVS_ENABLE;
    // SAFETY: PROC_NO_NEW_PRIVS_CTL reads one number, which lives through the call.
    let result = unsafe { libc::procctl(libc::P_PID, own_id(), libc::PROC_NO_NEW_PRIVS_CTL, (&raw mut enable).cast()) };
    checked(result).map(drop)
}

/// Nobody may trace this process until it runs another program.
pub(in crate::freebsd) fn forbid_tracing() -> io::Result<()> {
    let mut disable: libc::c_int = libc::PROC_TRACE_CTL_DISABLE_EXEC;
    // SAFETY: PROC_TRACE_CTL reads one number, which lives through the call.
    let result = unsafe { libc::procctl(libc::P_PID, own_id(), libc::PROC_TRACE_CTL, (&raw mut disable).cast()) };
    checked(result).map(drop)
}

fn own_id() -> libc::id_t {
    libc::id_t::from(std::process::id())
}

/// struct procctl_reaper_pidinfo.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct PidInfo {
    pid: libc::pid_t,
    subtree: libc::pid_t,
    flags: u32,
    padding: [u32; 15],
}

/// struct procctl_reaper_pids.
#[repr(C)]
struct Pids {
    count: u32,
    padding: [u32; 15],
    pids: *mut PidInfo,
}

/// struct procctl_reaper_kill.
#[repr(C)]
struct Kill {
    signal: libc::c_int,
    flags: u32,
    subtree: libc::pid_t,
    killed: u32,
    first_failed: libc::pid_t,
    padding: [u32; 15],
}

/// Kills all descendants of this process, which has acquired reaping. Idempotent.
pub(in crate::freebsd) fn kill_descendants() -> io::Result<()> {
    let mut wanted = Kill { signal: libc::SIGKILL, flags: 0, subtree: 0, killed: 0, first_failed: 0, padding: [0; 15] };
    // SAFETY: the structure is the header's and lives through the call.
    let result = unsafe { libc::procctl(libc::P_PID, own_id(), libc::PROC_REAP_KILL, (&raw mut wanted).cast()) };
    match checked(result) {
        Err(error) if error.raw_os_error() != Some(libc::ESRCH) => Err(error),
        _ => Ok(()),
    }
}

/// Whether a descendant of this process is more than a zombie.
pub(in crate::freebsd) fn has_living_descendants() -> io::Result<bool> {
    let mut list = vec![PidInfo::default(); DESCENDANTS];
    fill_descendants(&mut list)?;
    Ok(list.iter().take_while(|info| info.flags & VALID != 0).any(|info| info.flags & ZOMBIE == 0))
}

fn fill_descendants(list: &mut [PidInfo]) -> io::Result<()> {
    let count = u32::try_from(list.len()).map_err(io::Error::other)?;
    let mut wanted = Pids { count, padding: [0; 15], pids: list.as_mut_ptr() };
    // SAFETY: the structure is the header's, and its list has `count` entries; both live through the call.
    let result = unsafe { libc::procctl(libc::P_PID, own_id(), libc::PROC_REAP_GETPIDS, (&raw mut wanted).cast()) };
    checked(result).map(drop)
}

/// Every process of the node.
pub(in crate::freebsd) fn all() -> io::Result<Vec<Process>> {
    Ok(entries(&sysctl::table(&[libc::CTL_KERN, libc::KERN_PROC, libc::KERN_PROC_PROC], None)?).collect())
}

/// The descendants of this process, which has acquired reaping, without zombies; at most 64.
pub(in crate::freebsd) fn descendants() -> io::Result<Vec<Process>> {
    let mut list = vec![PidInfo::default(); FEW_DESCENDANTS];
    fill_descendants(&mut list)?;
    let living = list.iter().take_while(|info| info.flags & VALID != 0).filter(|info| info.flags & ZOMBIE == 0);
    let of = |info: &PidInfo| -> io::Result<Option<Process>> {
        let mib = [libc::CTL_KERN, libc::KERN_PROC, libc::KERN_PROC_PID, info.pid];
        match sysctl::table(&mib, Some(size_of::<libc::kinfo_proc>())) {
            Ok(bytes) => Ok(entries(&bytes).next()),
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(None),
            Err(error) => Err(error),
        }
    };
    living.filter_map(|info| of(info).transpose()).collect()
}

fn entries(bytes: &[u8]) -> impl Iterator<Item = Process> {
    let entries = bytes.chunks_exact(size_of::<libc::kinfo_proc>());
    // SAFETY: each piece is a whole structure that the kernel wrote; it need not be aligned, and all its values are valid.
    entries.map(|entry| process(&unsafe { entry.as_ptr().cast::<libc::kinfo_proc>().read_unaligned() }))
}

fn process(entry: &libc::kinfo_proc) -> Process {
    let unsigned = |number: i64| u64::try_from(number).unwrap_or(0);
    let (own, children) = (&entry.ki_rusage, &entry.ki_rusage_ch);
    let time = |at: libc::timeval| unsigned(at.tv_sec) * 1_000_000 + unsigned(at.tv_usec);
    Process {
        pid: entry.ki_pid,
        jid: entry.ki_jid,
        zombie: entry.ki_stat == libc::SZOMB,
        cpu_us: entry.ki_runtime + time(children.ru_utime) + time(children.ru_stime),
        user_us: time(own.ru_utime) + time(children.ru_utime),
        system_us: time(own.ru_stime) + time(children.ru_stime),
        threads: unsigned(entry.ki_numthreads.into()),
        resident: u64::try_from(entry.ki_rssize).unwrap_or(0),
        minor_faults: unsigned(own.ru_minflt) + unsigned(children.ru_minflt),
        major_faults: unsigned(own.ru_majflt) + unsigned(children.ru_majflt),
    }
}

/// An open descriptor.
#[derive(Debug, Clone, Copy)]
pub(in crate::freebsd) struct Descriptor {
    /// The process that has it.
    pub(in crate::freebsd) pid: i32,
    /// Whether it is a socket.
    pub(in crate::freebsd) socket: bool,
}

/// Every open descriptor of the node (sysctl kern.file).
pub(in crate::freebsd) fn descriptors() -> io::Result<Vec<Descriptor>> {
    // struct xfile, sys/file.h: its own size, of 8 bytes, the process at 8 and the type at 32.
    const SIZE: usize = 8;
    const PID: usize = 8;
    const TYPE: usize = 32;
    /// DTYPE_SOCKET.
    const SOCKET: i16 = 2;
    let table = sysctl::table(&sysctl::numbers("kern.file")?, None)?;
    let size = table.first_chunk::<SIZE>().map_or(0, |size| u64::from_ne_bytes(*size));
    let Some(size) = usize::try_from(size).ok().filter(|size| *size >= TYPE + size_of_val(&SOCKET)) else {
        return Ok(Vec::new());
    };
    let read = |entry: &[u8]| {
        let pid = i32::from_ne_bytes(*entry[PID..].first_chunk()?);
        let socket = i16::from_ne_bytes(*entry[TYPE..].first_chunk()?) == SOCKET;
        Some(Descriptor { pid, socket })
    };
    Ok(table.chunks_exact(size).filter_map(read).collect())
}

/// Sets the login name of this session; empty: it has none (getlogin(2)). Only root may.
pub(in crate::freebsd) fn set_login(name: &str) -> io::Result<()> {
    let name = c_string(name)?;
    // SAFETY: the name ends in a NUL, and the kernel only reads it.
    checked(unsafe { libc::setlogin(name.as_ptr()) }).map(drop)
}

/// Makes a terminal the controlling one of this session.
pub(in crate::freebsd) fn control_terminal(terminal: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the descriptor is open; the request takes no argument.
    unsafe { take_terminal(terminal.as_raw_fd()) }?;
    Ok(())
}

/// The path of a terminal's other side, by its master.
pub(in crate::freebsd) fn terminal_name(master: BorrowedFd<'_>) -> io::Result<String> {
    let mut name = [0u8; 64];
    // SAFETY: the descriptor is open and the buffer has the length that is given.
    let result = unsafe { libc::ptsname_r(master.as_raw_fd(), name.as_mut_ptr().cast(), name.len()) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
    Ok(String::from_utf8_lossy(&name[..end]).into_owned())
}

/// A kqueue.
pub(in crate::freebsd) fn queue() -> io::Result<OwnedFd> {
    // SAFETY: kqueue(2) has no preconditions.
    let descriptor = checked(unsafe { libc::kqueue() })?;
    Ok(adopt(descriptor))
}

/// Tells when something in a directory changes.
pub(in crate::freebsd) fn watch_directory(queue: BorrowedFd<'_>, directory: &File) -> io::Result<()> {
    let ident = usize::try_from(directory.as_raw_fd()).map_err(io::Error::other)?;
    change(queue, ident, libc::EVFILT_VNODE, (libc::EV_ADD | libc::EV_CLEAR, libc::NOTE_WRITE), 0)
}

/// Starts the one timer of a queue, or stops it.
pub(in crate::freebsd) fn set_timer(queue: BorrowedFd<'_>, milliseconds: Option<u32>) -> io::Result<()> {
    let Some(milliseconds) = milliseconds else {
        return match change(queue, 1, libc::EVFILT_TIMER, (libc::EV_DELETE, 0), 0) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            other => other,
        };
    };
    change(queue, 1, libc::EVFILT_TIMER, (libc::EV_ADD, libc::NOTE_MSECONDS), i64::from(milliseconds))
}

fn change(queue: BorrowedFd<'_>, ident: usize, filter: i16, (flags, notes): (u16, u32), data: i64) -> io::Result<()> {
    let event = libc::kevent { ident, filter, flags, fflags: notes, data, udata: null_mut(), ext: [0; 4] };
    // SAFETY: one change is read; there is no output.
    checked(unsafe { libc::kevent(queue.as_raw_fd(), &raw const event, 1, null_mut(), 0, null()) }).map(drop)
}

/// Takes what a queue has to tell.
pub(in crate::freebsd) fn drain(queue: BorrowedFd<'_>) -> io::Result<()> {
    let empty = libc::kevent { ident: 0, filter: 0, flags: 0, fflags: 0, data: 0, udata: null_mut(), ext: [0; 4] };
    let mut events = [empty; 4];
    let at_once = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the list has four entries, and the time lives through the call.
    checked(unsafe { libc::kevent(queue.as_raw_fd(), null(), 0, events.as_mut_ptr(), 4, &raw const at_once) }).map(drop)
}
