//! Worker processes: the program started again to do one thing apart from the server. A worker is a word after the program's
//! name (`cellblock unpack …`), and the binary hands the rest of the command line to the crate that owns it. Workers that
//! outlive the server or start often have an executable of their own, `cellblock-monitor`, which is smaller.

mod sys;

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::SigSet;
use nix::sys::stat::{Mode, umask};
use nix::unistd::Pid;

/// The exit code of a worker that could not leave its program because the host has no process left: EX_TEMPFAIL of sysexits(3).
/// Nobody reads what it prints then.
pub const EXHAUSTED: u8 = 75;

/// Where the workers' executables are.
#[derive(Debug, Clone)]
pub struct Workers {
    program: PathBuf,
    monitor: PathBuf,
}

impl Workers {
    /// The workers of the running program.
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
        Self { program: program.to_owned(), monitor: program.with_file_name("cellblock-monitor") }
    }

    /// The command that starts the program itself with this word; the caller adds arguments and descriptors.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the place that the lint points to")]
    pub fn command(&self, word: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.arg(word);
        command
    }

    /// The command that starts `cellblock-monitor` with this word; where that is not beside the program, the program itself.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the place that the lint points to")]
    pub fn monitor(&self, word: &str) -> Command {
        if !self.monitor.is_file() {
            return self.command(word);
        }
        let mut command = Command::new(&self.monitor);
        command.arg(word);
        command
    }

    /// Starts `cellblock-monitor` with this word and these arguments, in the root directory, with this standard input, and with
    /// this standard output or none. The caller waits for its end.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn spawn(
        &self,
        word: &str,
        args: &[impl AsRef<OsStr>],
        stdin: OwnedFd,
        stdout: Option<OwnedFd>,
    ) -> io::Result<Child> {
        let stdout = stdout.map_or_else(Stdio::null, Stdio::from);
        self.monitor(word).args(args).current_dir("/").stdin(stdin).stdout(stdout).stderr(Stdio::null()).spawn()
    }

    /// Likewise a worker that leaves this program behind ([`leave`]); returns when it has.
    ///
    /// # Errors
    /// It cannot be started; [`crate::Exhausted`] when the host has no process left for it.
    pub fn spawn_detached(&self, word: &str, args: &[impl AsRef<OsStr>], stdin: OwnedFd) -> io::Result<()> {
        // The half that stays behind ends at once, and says why when the other half does not exist.
        let status = self.spawn(word, args, stdin, None)?.wait()?;
        match status.code() {
            Some(0) => Ok(()),
            Some(code) if code == i32::from(EXHAUSTED) => {
                Err(io::Error::other(crate::Exhausted("a worker: the system has no process left for it".to_owned())))
            }
            _ => Err(io::Error::other(format!("the worker ended with {status}"))),
        }
    }
}

/// Kills a worker and waits for its end. Idempotent.
pub fn end(mut worker: Child) {
    // A child that can neither be killed nor waited for is gone.
    let _ = worker.kill().and_then(|()| worker.wait());
}

/// Leaves the program behind that started this worker: it is in a session of its own, with no descriptor but the standard
/// streams, ignores no signal but PIPE, and outlives the program, as a child of init.
///
/// # Errors
/// The host has no process left.
pub fn leave() -> io::Result<()> {
    sys::close_inherited();
    sys::ignore_pipe_only();
    if sys::split()?.is_some() {
        std::process::exit(0);
    }
    nix::unistd::setsid()?;
    std::env::set_current_dir("/")?;
    umask(Mode::from_bits_truncate(0o022));
    Ok(())
}

/// Forks a worker, which has one thread; the child's process id, or None in the child.
///
/// # Errors
/// The host has no process left.
pub fn split() -> io::Result<Option<Pid>> {
    sys::split()
}

/// Blocks SIGCHLD except during the waits that are given the returned mask, which it interrupts: no child's end is missed.
///
/// # Errors
/// The kernel refuses.
pub fn hold_child_signal() -> io::Result<SigSet> {
    sys::hold_child_signal()
}
