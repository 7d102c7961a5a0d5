//! The seam between the monitor and a backend: how a process is started with the monitor's streams, how everything that it
//! started is killed, and whether memory killed it. The monitor knows nothing of jails, namespaces or runc.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use nix::unistd::Pid;

use crate::Error;
use crate::spec::ExecSpec;

/// What a monitor is to start.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Target<'a> {
    /// The first process of the container with this directory: its `spec.json` and whatever its backend put there.
    Container(&'a Path),
    /// One more process in that container.
    Exec(&'a Path, &'a ExecSpec),
}

/// The ends of its streams that a process gets.
#[derive(Debug)]
pub(crate) enum Streams {
    /// Pipes, or /dev/null where it has none.
    Pipes {
        /// Its standard input.
        stdin: OwnedFd,
        /// Its standard output.
        stdout: OwnedFd,
        /// Its standard error.
        stderr: OwnedFd,
    },
    /// A terminal, which the backend opens inside the container: its master is returned in [`Launched`].
    Terminal,
}

/// A process that runs the program that was asked for.
#[derive(Debug)]
pub(crate) struct Launched {
    /// Its number as the host sees it: a child of the monitor, by birth or by adoption, so that the monitor can wait for it.
    pub(crate) pid: Pid,
    /// The master of its terminal.
    pub(crate) terminal: Option<OwnedFd>,
}

/// One process and all that it starts, as a backend runs it. Every method is called in the monitor's only thread.
pub(crate) trait Launch {
    /// Makes the monitor the parent of orphans below it (PR_SET_CHILD_SUBREAPER, PROC_REAP_ACQUIRE). Called once, before
    /// [`Launch::launch`].
    ///
    /// # Errors
    /// The kernel says no.
    fn adopt_orphans(&self) -> Result<(), Error>;

    /// Starts the process; returns when it runs its program, or with nothing of it left.
    ///
    /// # Errors
    /// [`Error::Command`] for a program that is not there or cannot be run; any other.
    fn launch(&mut self, streams: Streams) -> Result<Launched, Error>;

    /// Kills every process of the container (of an exec: the process and everything that it started) and returns when none
    /// is left but as a zombie of this process, which the monitor reaps. None there: done already.
    ///
    /// # Errors
    /// A process that does not die within ten seconds.
    fn kill(&mut self) -> Result<(), Error>;

    /// Called once the first process has ended, before [`Launch::release`]: whether the kernel killed for lack of memory.
    fn out_of_memory(&mut self) -> bool {
        false
    }

    /// Called once at the end: removes what this value made for itself alone (the cgroup of an exec). What the container
    /// needs for its removal stays.
    fn release(&mut self) {}

    /// A descriptor to poll beside the streams; [`Launch::watched`] is called when it is readable.
    fn watch(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Something happened on [`Launch::watch`].
    fn watched(&mut self) {}
}
