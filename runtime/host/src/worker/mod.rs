//! Worker processes: the program started again to do one thing apart from the server. The monitor of a container, the
//! unpacker of a layer and the host port listener are workers. Each is a word after the program's name
//! (`cellblock monitor …`), and the binary hands the rest of the command line to the crate that owns it. A worker that is needed
//! often can have a fork server.

mod fork;
mod sys;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use nix::sys::signal::SigSet;
use nix::sys::stat::{Mode, umask};
use nix::unistd::Pid;

use self::fork::{ForkServer, Work};

/// How a worker exits that could not leave its program because the host has nothing left for it: EX_TEMPFAIL of sysexits(3).
/// Nobody reads what it prints then.
pub const EXHAUSTED: u8 = 75;

/// Whether this process is a fork of a fork server: then it has no descriptor and no thread but its own.
static FORKED: AtomicBool = AtomicBool::new(false);

/// Where the workers' executables are, and the fork servers that run. A clone is the same.
#[derive(Debug, Clone)]
pub struct Workers {
    directory: PathBuf,
    program: PathBuf,
    fork_servers: Arc<Mutex<BTreeMap<&'static str, Arc<ForkServer>>>>,
}

impl Workers {
    /// The workers of the running program. A worker `NAME` is the file `cellblock-NAME` beside it where there is one,
    /// else the program itself with `NAME` as its first argument: so one binary alone is enough.
    ///
    /// # Errors
    /// The running executable cannot be found.
    pub fn of_this_program() -> io::Result<Self> {
        let program = std::env::current_exe()?;
        Ok(Self::of_program(&program))
    }

    /// The workers of the program at this path: tests, whose own executable has no workers, name the real one.
    #[must_use]
    pub fn of_program(program: &Path) -> Self {
        let directory = program.parent().map_or_else(|| PathBuf::from("/"), Path::to_owned);
        Self { directory, program: program.to_owned(), fork_servers: Arc::default() }
    }

    /// The command that starts the worker `name`; the caller adds arguments and descriptors.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the place that the lint points to")]
    pub fn command(&self, name: &str) -> Command {
        let own = self.directory.join(format!("cellblock-{name}"));
        if own.is_file() {
            return Command::new(own);
        }
        let mut command = Command::new(&self.program);
        command.arg(name);
        command
    }

    /// Starts a fork server for the worker `name`, which [`Workers::spawn`] and [`Workers::spawn_detached`] use from now on. For
    /// workers that somebody waits for.
    pub fn keep_fork_server(&self, name: &'static str) {
        let mut servers = self.fork_servers.lock().unwrap_or_else(PoisonError::into_inner);
        servers.entry(name).or_insert_with(|| Arc::new(ForkServer::new(self, name)));
    }

    /// Starts the worker `name` with these arguments, in the root directory, with this standard input, and with this standard
    /// output or none.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn spawn(
        &self,
        name: &'static str,
        args: &[impl AsRef<OsStr>],
        stdin: OwnedFd,
        stdout: Option<OwnedFd>,
    ) -> io::Result<Worker> {
        let fork_server = self.fork_servers.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
        if let Some(server) = fork_server {
            let args: Vec<&OsStr> = args.iter().map(AsRef::as_ref).collect();
            let work = Work { args: &args, stdin: stdin.as_fd(), stdout: stdout.as_ref().map(AsFd::as_fd) };
            let pid = server.begin(self, &work)?;
            return Ok(Worker(Kind::Fork { pid, server }));
        }
        let stdout = stdout.map_or_else(Stdio::null, Stdio::from);
        let mut command = self.command(name);
        command.args(args).current_dir("/").stdin(stdin).stdout(stdout).stderr(Stdio::null());
        command.spawn().map(|child| Worker(Kind::Child(child)))
    }

    /// Likewise a worker that leaves this program behind ([`leave`]); returns when it is on its own.
    ///
    /// # Errors
    /// It cannot be started; [`crate::Exhausted`] when the host has no process left for it.
    pub fn spawn_detached(&self, name: &'static str, args: &[impl AsRef<OsStr>], stdin: OwnedFd) -> io::Result<()> {
        match self.spawn(name, args, stdin, None)?.0 {
            Kind::Child(child) => left(child),
            Kind::Fork { .. } => Ok(()),
        }
    }
}

/// A worker that was started. One that ends by itself is to be [reaped](Worker::reap).
#[derive(Debug)]
pub struct Worker(Kind);

#[derive(Debug)]
enum Kind {
    Child(Child),
    Fork { pid: Pid, server: Arc<ForkServer> },
}

impl Worker {
    /// Kills it and returns when it is gone. It has ended: done already.
    pub fn end(mut self) {
        match &mut self.0 {
            // A child that can neither be killed nor waited for is gone.
            Kind::Child(child) => drop(child.kill().and_then(|()| child.wait())),
            Kind::Fork { pid, server } => server.end(*pid),
        }
    }

    /// Takes the end of one that ends by itself.
    ///
    /// # Errors
    /// The kernel says no.
    pub fn reap(self) -> io::Result<()> {
        match self.0 {
            Kind::Child(mut child) => child.wait().map(drop),
            // Its fork server does.
            Kind::Fork { .. } => Ok(()),
        }
    }
}

/// Waits for the half of a worker that stays behind when it leaves, which ends at once, and says why when the other half is
/// not there.
fn left(mut child: Child) -> io::Result<()> {
    let status = child.wait()?;
    match status.code() {
        Some(0) => Ok(()),
        Some(code) if code == i32::from(EXHAUSTED) => {
            Err(io::Error::other(crate::Exhausted("a worker: the system has no process left for it".to_owned())))
        }
        _ => Err(io::Error::other(format!("the worker ended with {status}"))),
    }
}

/// Leaves the program behind that started this worker: it is in a session of its own, with no descriptor but the standard
/// streams, ignores no signal but PIPE, and outlives the program, as a child of init.
///
/// # Errors
/// The host has no process left.
pub fn leave() -> io::Result<()> {
    if !FORKED.load(Ordering::Relaxed) {
        sys::close_inherited();
        sys::ignore_pipe_only();
        if sys::split()?.is_some() {
            std::process::exit(0);
        }
    }
    nix::unistd::setsid()?;
    std::env::set_current_dir("/")?;
    umask(Mode::from_bits_truncate(0o022));
    Ok(())
}

/// Forks a worker, which has one thread; the child's number, or None in the child.
///
/// # Errors
/// The host has no process left.
pub fn split() -> io::Result<Option<Pid>> {
    sys::split()
}

/// Blocks SIGCHLD except during the waits that are given the returned mask, which it interrupts: no child's end is missed.
///
/// # Errors
/// The kernel says no.
pub fn hold_child_signal() -> io::Result<SigSet> {
    sys::hold_child_signal()
}

/// The arguments of a worker: all that follow so many words. In a fork server this returns in its forks alone.
///
/// # Errors
/// A fork server is not needed any more: its program is gone.
pub fn args(skip: usize) -> io::Result<Vec<OsString>> {
    fork::given(std::env::args_os().skip(skip).collect())
}
