//! The server's side: one name server with the right settings.

use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use host::worker::Workers;
use host::worker::lone::Lone;
use serde::{Deserialize, Serialize};

use crate::{Settings, WORKER};

/// The name of the lock and of the process id.
pub(crate) const FILES: &str = "nameserver";
/// What it was started with.
pub(crate) const SETTINGS: &str = "settings.json";
/// The socket on which the server tells it the records.
pub(crate) const CONTROL: &str = "control";
/// Its root directory, which stays empty.
pub(crate) const EMPTY: &str = "empty";
/// Printed once it listens.
pub(crate) const READY: &str = "ready";

/// Why there is no name server.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It does not start: its own words.
    #[error("the name server does not start: {0}")]
    Refused(String),
    /// The host fails.
    #[error("cannot {operation}")]
    Failed {
        /// The operation.
        operation: &'static str,
        /// The kernel's error.
        #[source]
        source: io::Error,
    },
}

impl Error {
    /// Makes an error of the host into this one.
    pub fn failed<E: Into<Box<dyn std::error::Error + Send + Sync>>>(operation: &'static str) -> impl Fn(E) -> Self {
        move |error| Self::Failed { operation, source: io::Error::other(error) }
    }
}

/// What a running name server was started with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Started {
    pub(crate) settings: Settings,
    /// The executable: after an upgrade there is another.
    program: String,
}

/// The name server of a directory, which only root may enter.
#[derive(Debug, Clone)]
pub struct Nameserver {
    directory: PathBuf,
    workers: Workers,
}

impl Nameserver {
    /// Starts nothing.
    #[must_use]
    pub fn new(directory: &Path, workers: Workers) -> Self {
        Self { directory: directory.to_owned(), workers }
    }

    /// Returns a connection to a name server with these settings, and starts it if none runs; one with others is replaced. It
    /// answers once [`crate::Told`] was written. Idempotent.
    ///
    /// # Errors
    /// [`Error::Refused`] when it cannot have its addresses; the host fails.
    pub fn ensure(&self, settings: &Settings) -> Result<UnixStream, Error> {
        let wanted =
            Started { settings: settings.clone(), program: self.program().map_err(Error::failed("find the program"))? };
        let lone = Lone::new(&self.directory, FILES);
        if lone.is_running().map_err(Error::failed("look for the name server"))? {
            // What cannot be read or does not listen is replaced.
            let running: Option<Started> = host::json::read(&self.directory.join(SETTINGS)).unwrap_or_default();
            if running.as_ref() == Some(&wanted)
                && let Ok(control) = UnixStream::connect(self.directory.join(CONTROL))
            {
                return Ok(control);
            }
            lone.kill().map_err(Error::failed("replace the name server"))?;
        }
        host::fs::make_directory(&self.directory.join(EMPTY), 0o700)
            .map_err(Error::failed("make the name server's root"))?;
        host::json::replace(&self.directory.join(SETTINGS), &wanted).map_err(Error::failed("write the settings"))?;
        self.start()?;
        UnixStream::connect(self.directory.join(CONTROL)).map_err(Error::failed("connect to the name server"))
    }

    /// Kills the name server, and removes its files but the lock. Idempotent.
    ///
    /// # Errors
    /// It cannot be killed, or a file cannot be removed.
    pub fn stop(&self) -> Result<(), Error> {
        Lone::new(&self.directory, FILES).kill().map_err(Error::failed("stop the name server"))?;
        let files = [CONTROL, SETTINGS].iter().try_for_each(|name| host::fs::remove_file(&self.directory.join(name)));
        files.map_err(Error::failed("remove the name server's files"))?;
        host::fs::remove_empty(&self.directory.join(EMPTY)).map_err(Error::failed("remove the name server's root"))
    }

    fn start(&self) -> Result<(), Error> {
        let failed = || Error::failed("start the name server");
        let mut command = self.workers.command(WORKER);
        command.arg(&self.directory).current_dir("/").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().map_err(failed())?;
        let mut answer = String::new();
        let mut stdout = child.stdout.take().expect("it is a pipe");
        let read = stdout.read_to_string(&mut answer);
        // The process itself is init's child: this one ended when it had forked.
        child.wait().map_err(failed())?;
        read.map_err(failed())?;
        match answer.trim_end() {
            READY => Ok(()),
            "" => Err(Error::Refused("it ended without a word".to_owned())),
            said => Err(Error::Refused(said.to_owned())),
        }
    }

    /// What tells the executable from another one at its path.
    fn program(&self) -> io::Result<String> {
        let found = std::fs::metadata(self.workers.command(WORKER).get_program())?;
        Ok(format!("{}:{}:{}.{}", found.dev(), found.ino(), found.mtime(), found.mtime_nsec()))
    }
}
