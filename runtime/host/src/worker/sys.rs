//! System calls of detached workers.

use std::io;

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::unistd::{ForkResult, Pid, fork};

/// The highest signal: _SIG_MAXSIG in sys/_sigset.h of FreeBSD; Linux has half as many.
const LAST_SIGNAL: i32 = 128;

/// See [`super::fork`].
pub(super) fn fork_worker() -> io::Result<Option<Pid>> {
    // SAFETY: a worker has only one thread, so the child may do anything.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(Some(child)),
        ForkResult::Child => Ok(None),
    }
}

/// Closes every descriptor beyond the first three, which an ancestor left open.
pub(super) fn close_inherited() {
    // SAFETY: called first thing in a worker, before it opens anything: no owner of these descriptors exists in it.
    unsafe { libc::close_range(3, libc::c_uint::MAX, 0) };
}

/// Resets ignored signals, which survive an exec, except SIGPIPE, which the Rust runtime ignores.
pub(super) fn ignore_pipe_only() {
    for signal in (1..=LAST_SIGNAL).filter(|signal| *signal != libc::SIGPIPE) {
        // SAFETY: all zeros is a value of this structure, which the kernel overwrites.
        let mut found: libc::sigaction = unsafe { std::mem::zeroed() };
        // SAFETY: nothing is changed, and the structure lives through the call.
        let known = unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut found) } == 0;
        if known && found.sa_sigaction == libc::SIG_IGN {
            // SAFETY: the default action has no handler that could be unsafe.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
    }
}

extern "C" fn interrupt(_: libc::c_int) {}

/// See [`super::block_child_signal`].
pub(super) fn block_child_signal() -> io::Result<SigSet> {
    let action = SigAction::new(SigHandler::Handler(interrupt), SaFlags::SA_NOCLDSTOP, SigSet::empty());
    // SAFETY: the handler does nothing, which is safe at any instant.
    unsafe { sigaction(Signal::SIGCHLD, &action) }?;
    let mut blocked = SigSet::empty();
    blocked.add(Signal::SIGCHLD);
    blocked.thread_block()?;
    let mut during_wait = SigSet::thread_get_mask()?;
    during_wait.remove(Signal::SIGCHLD);
    Ok(during_wait)
}
