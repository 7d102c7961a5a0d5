//! Worker processes: the program started again to do one thing apart from the server. The monitor of a container, the
//! unpacker of a layer and the host port listener are workers. Each is a word after the program's name
//! (`cellblock monitor …`), and the binary hands the rest of the command line to the crate that owns it.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Where the workers' executables are.
#[derive(Debug, Clone)]
pub struct Workers {
    directory: PathBuf,
    program: PathBuf,
}

impl Workers {
    /// The workers of the running program. A worker `NAME` is the file `cellblock-NAME` beside it where there is one,
    /// else the program itself with `NAME` as its first argument: so one binary alone is enough.
    ///
    /// # Errors
    /// The running executable cannot be found.
    pub fn of_this_program() -> std::io::Result<Self> {
        let program = std::env::current_exe()?;
        Ok(Self::of_program(&program))
    }

    /// The workers of the program at this path: tests, whose own executable has no workers, name the real one.
    #[must_use]
    pub fn of_program(program: &Path) -> Self {
        let directory = program.parent().map_or_else(|| PathBuf::from("/"), Path::to_owned);
        Self { directory, program: program.to_owned() }
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
}
