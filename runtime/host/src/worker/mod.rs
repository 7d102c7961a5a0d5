//! Worker processes: the program started again to do one thing apart from the server. The monitor of a container, the
//! unpacker of a layer and the host port listener are workers. Each is a word after the program's name
//! (`cellblock monitor …`), and the binary hands the rest of the command line to the crate that owns it. A worker that a pod
//! or a container waits for can be started ahead.

mod ahead;
mod sys;

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use self::ahead::{Ahead, Work};

/// Where the workers' executables are, and those that wait for something to do. A clone is the same.
#[derive(Debug, Clone)]
pub struct Workers {
    directory: PathBuf,
    program: PathBuf,
    ahead: Arc<Ahead>,
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
        Self { directory, program: program.to_owned(), ahead: Arc::default() }
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

    /// From its first use on, one process of the worker `name` is started ahead, waits, and is what the next
    /// [`Workers::spawn`] uses. For workers that somebody waits for, where starting a process takes longer than its work.
    pub fn keep_ahead(&self, name: &'static str) {
        self.ahead.keep(name);
    }

    /// Starts the worker `name` with these arguments, in the root directory, with this standard input, and with this standard
    /// output or none.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn spawn(
        &self,
        name: &str,
        args: &[impl AsRef<OsStr>],
        stdin: OwnedFd,
        stdout: Option<OwnedFd>,
    ) -> io::Result<Child> {
        let args: Vec<&OsStr> = args.iter().map(AsRef::as_ref).collect();
        let work = Work { args: &args, stdin: stdin.as_fd(), stdout: stdout.as_ref().map(AsFd::as_fd) };
        if let Some(begun) = self.ahead.begin(self, name, &work) {
            return Ok(begun);
        }
        let stdout = stdout.map_or_else(Stdio::null, Stdio::from);
        self.command(name).args(args).current_dir("/").stdin(stdin).stdout(stdout).stderr(Stdio::null()).spawn()
    }
}

/// The arguments of a worker: all that follow so many words. One that was started ahead waits here for them, and has its standard
/// streams then.
///
/// # Errors
/// A worker that was started ahead is not needed: its server is gone.
pub fn args(skip: usize) -> io::Result<Vec<OsString>> {
    ahead::given(std::env::args_os().skip(skip).collect())
}
