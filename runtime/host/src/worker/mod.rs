//! Worker processes: the program runs itself with a word as its first argument (`cellblock unpack …`), and the crate
//! that owns the word handles the rest. Workers that outlive the server or start often use the smaller executable
//! `cellblock-monitor`.

pub mod lone;
mod sys;

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::SigSet;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Pid, Uid};

/// The exit code of a worker that could not detach because the host is out of processes: EX_TEMPFAIL of sysexits(3).
pub const EXHAUSTED: u8 = 75;

/// The smaller executable.
const MONITOR: &str = "cellblock-monitor";

/// The paths of the workers' executables.
#[derive(Debug, Clone)]
pub struct Workers {
    program: PathBuf,
    /// Where `cellblock-monitor` may be; the first that is there is used.
    monitors: Vec<PathBuf>,
}

impl Workers {
    /// Uses the running executable.
    ///
    /// # Errors
    /// The running executable's path is unknown.
    pub fn of_this_program() -> io::Result<Self> {
        let program = std::env::current_exe()?;
        Ok(Self::of_program(&program))
    }

    /// Uses the program at this path: tests, whose own executable has no workers, name the real one. `cellblock-monitor` is
    /// beside it, as cargo builds them, or in PREFIX/libexec of a program in PREFIX/sbin, as hier(7) of FreeBSD has it.
    #[must_use]
    pub fn of_program(program: &Path) -> Self {
        let beside = program.with_file_name(MONITOR);
        let installed = program.ancestors().nth(2).map(|prefix| prefix.join("libexec").join(MONITOR));
        Self { program: program.to_owned(), monitors: std::iter::once(beside).chain(installed).collect() }
    }

    /// Returns a command that runs the program with this word.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the place that the lint points to")]
    pub fn command(&self, word: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.arg(word);
        command
    }

    /// Returns a command that runs `cellblock-monitor` with this word, or the program if it is missing.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the place that the lint points to")]
    pub fn monitor(&self, word: &str) -> Command {
        let Some(monitor) = self.monitors.iter().find(|path| path.is_file()) else {
            return self.command(word);
        };
        let mut command = Command::new(monitor);
        command.arg(word);
        command
    }

    /// Starts `cellblock-monitor` in the root directory. Without `stdout`, its output goes to /dev/null. The caller
    /// reaps it.
    ///
    /// # Errors
    /// The process cannot be started.
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

    /// Starts a worker that detaches itself ([`leave`]), and returns when it has.
    ///
    /// # Errors
    /// The process cannot be started; [`crate::Exhausted`] when the host is out of processes.
    pub fn spawn_detached(&self, word: &str, args: &[impl AsRef<OsStr>], stdin: OwnedFd) -> io::Result<()> {
        // The parent half exits at once; its exit code reports a failed fork.
        let status = self.spawn(word, args, stdin, None)?.wait()?;
        match status.code() {
            Some(0) => Ok(()),
            Some(code) if code == i32::from(EXHAUSTED) => Err(io::Error::other(crate::Exhausted(
                "cannot fork a worker: the system is out of processes".to_owned(),
            ))),
            _ => Err(io::Error::other(format!("the worker ended with {status}"))),
        }
    }
}

/// Kills and reaps a worker.
pub fn end(mut worker: Child) {
    // A child that can be neither killed nor reaped is gone.
    let _ = worker.kill().and_then(|()| worker.wait());
}

/// Detaches from the program that started this worker: a new session, a child of init, no descriptors but the standard
/// streams, no ignored signal but SIGPIPE.
///
/// # Errors
/// The host is out of processes.
pub fn detach() -> io::Result<()> {
    sys::close_inherited();
    sys::ignore_pipe_only();
    if sys::fork_worker()?.is_some() {
        std::process::exit(0);
    }
    nix::unistd::setsid()?;
    std::env::set_current_dir("/")?;
    umask(Mode::from_bits_truncate(0o022));
    Ok(())
}

/// Gives up root's rights: this directory becomes the root directory, and this user and its group of the same number run the
/// process, with no other group, no core file and at most `files` open files. Without root (tests) only the limits are set.
///
/// # Errors
/// The kernel refuses.
pub fn drop_rights(root: &Path, user: u32, files: libc::rlim_t) -> io::Result<()> {
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    setrlimit(Resource::RLIMIT_NOFILE, files, files)?;
    if !Uid::effective().is_root() {
        return Ok(());
    }
    nix::unistd::chroot(root)?;
    std::env::set_current_dir("/")?;
    nix::unistd::setgroups(&[])?;
    nix::unistd::setgid(Gid::from_raw(user))?;
    nix::unistd::setuid(Uid::from_raw(user))?;
    Ok(())
}

/// Forks a single-threaded worker; returns the child's process id, or None in the child.
///
/// # Errors
/// The host is out of processes.
pub fn fork() -> io::Result<Option<Pid>> {
    sys::fork_worker()
}

/// Blocks SIGCHLD. Waits that use the returned mask receive it, so no child's end is missed.
///
/// # Errors
/// The kernel refuses.
pub fn block_child_signal() -> io::Result<SigSet> {
    sys::block_child_signal()
}
