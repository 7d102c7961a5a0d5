//! The boundary between the monitor and a backend: launching a process with the monitor's streams, killing it with all its
//! descendants, and out-of-memory kills. The monitor knows nothing of jails, namespaces or runc.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use nix::unistd::Pid;

use crate::Error;
use crate::spec::ExecSpec;

/// What a monitor launches.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Target<'a> {
    /// The first process of the container with this directory, which has its `spec.json` and the backend's files.
    Container(&'a Path),
    /// Another process in that container.
    Exec(&'a Path, &'a ExecSpec),
}

/// A process' ends of its streams.
#[derive(Debug)]
pub(crate) enum Streams {
    /// Pipes, or /dev/null.
    Pipes {
        /// Its standard input.
        stdin: OwnedFd,
        /// Its standard output.
        stdout: OwnedFd,
        /// Its standard error.
        stderr: OwnedFd,
    },
    /// A terminal, which the backend opens inside the container; [`Launched`] has its master.
    Terminal,
}

/// A process that runs its program.
#[derive(Debug)]
pub(crate) struct Launched {
    /// Its pid on the host. It is a child of the monitor, by fork or by adoption, so that the monitor can reap it.
    pub(crate) pid: Pid,
    /// The master of its terminal.
    pub(crate) terminal: Option<OwnedFd>,
}

/// A process with all its descendants, as a backend runs it. The monitor's only thread makes all calls.
pub(crate) trait Launch {
    /// Makes the monitor the reaper of its descendants (PR_SET_CHILD_SUBREAPER, PROC_REAP_ACQUIRE). Called once, before
    /// [`Launch::launch`].
    ///
    /// # Errors
    /// Any error of the kernel.
    fn adopt_orphans(&self) -> Result<(), Error>;

    /// Starts the process; returns when it runs its program, or leaves nothing of it.
    ///
    /// # Errors
    /// [`Error::Command`] for a program that does not exist or cannot be run; any other.
    fn launch(&mut self, streams: Streams) -> Result<Launched, Error>;

    /// Kills every process of the container (of an exec: the process and its descendants) and returns when none is left but as
    /// a zombie, which the monitor reaps. Idempotent.
    ///
    /// # Errors
    /// A process that does not die within ten seconds.
    fn kill(&mut self) -> Result<(), Error>;

    /// Whether the container was killed for lack of memory. Called once the first process has ended, before
    /// [`Launch::release`].
    fn out_of_memory(&mut self) -> bool {
        false
    }

    /// Removes what this value made for itself alone (the cgroup of an exec). Called once at the end.
    fn release(&mut self) {}

    /// A descriptor to poll; [`Launch::handle_watch`] is called when it is readable.
    fn watch_descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Handles an event of [`Launch::watch_descriptor`].
    fn handle_watch(&mut self) {}
}
