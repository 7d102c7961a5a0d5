//! The server's controls of executed processes and attached clients.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use host::worker::Workers;
use nix::sys::socket::{MsgFlags, recv};

use super::client::{self, ask, unexpected};
use super::protocol::{self, MESSAGE_LIMIT, Reply, Request};
use super::{EXEC, WORKER, sys};
use crate::spec::ExecSpec;
use crate::{ContainerState, Control, Error, Session};

/// The limit for a process' start in a container.
const EXEC_WAIT: Duration = Duration::from_secs(60);
/// The length of an exit code on the exit socket, in bytes.
const CODE_LENGTH: usize = size_of::<i32>();

/// Starts a process in the running container of a directory, under its own monitor.
///
/// # Errors
/// The backend's error; then nothing is left.
pub(super) fn exec(workers: &Workers, directory: &Path, spec: &ExecSpec) -> Result<Session, Error> {
    let operation = "cannot start the monitor of a process";
    let (control, theirs) = UnixStream::pair().map_err(Error::failed(operation))?;
    workers.spawn_detached(WORKER, &[EXEC], theirs.into()).map_err(Error::failed(operation))?;
    let begun = begin(&control, directory, spec).map_err(Error::failed(operation))?;
    let (reply, descriptors) = begun.answer;
    match reply {
        Reply::State { .. } => {}
        Reply::Failed(failure) => return Err(failure.into_error("cannot execute in the container")),
        other => return Err(unexpected(operation, &other)),
    }
    let terminal = descriptors.into_iter().next();
    let copy = || terminal.as_ref().map(OwnedFd::try_clone).transpose().map_err(Error::failed(operation));
    let (stdin, stdout, stderr) = if spec.tty {
        (if spec.stdin { copy()? } else { None }, copy()?, None)
    } else {
        (begun.stdin, begun.stdout, begun.stderr)
    };
    let control = Box::new(ExecControl { control: Mutex::new(control), exit: begun.exit, terminal });
    Ok(Session { stdin, stdout, stderr, control })
}

/// The server's ends of the descriptors that the monitor got, and its reply.
struct Begun {
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    exit: UnixStream,
    answer: (Reply, Vec<OwnedFd>),
}

/// Sends the request with the process' ends of its streams, closes them here, and waits for the reply.
fn begin(control: &UnixStream, directory: &Path, spec: &ExecSpec) -> io::Result<Begun> {
    let (exit, their_exit) = UnixStream::pair()?;
    let mut theirs: Vec<OwnedFd> = vec![their_exit.into()];
    let (mut stdin, mut stdout, mut stderr) = (None, None, None);
    if !spec.tty {
        if spec.stdin {
            let (reader, writer) = io::pipe()?;
            theirs.push(reader.into());
            stdin = Some(writer.into());
        } else {
            theirs.push(std::fs::File::open("/dev/null")?.into());
        }
        for place in [&mut stdout, &mut stderr] {
            let (reader, writer) = io::pipe()?;
            theirs.push(writer.into());
            *place = Some(reader.into());
        }
    }
    let request =
        Request::Launch { directory: directory.to_owned(), args: spec.args.clone(), tty: spec.tty, stdin: spec.stdin };
    let borrowed: Vec<BorrowedFd<'_>> = theirs.iter().map(AsFd::as_fd).collect();
    protocol::send(control.as_fd(), &request, &borrowed)?;
    drop(theirs);
    let answer = protocol::receive(control.as_fd(), MESSAGE_LIMIT, EXEC_WAIT)?;
    Ok(Begun { stdin, stdout, stderr, exit, answer })
}

/// Controls an executed process: when its connection closes, its monitor kills the process with all descendants.
#[derive(Debug)]
struct ExecControl {
    control: Mutex<UnixStream>,
    /// Gets the exit code, which is only peeked at.
    exit: UnixStream,
    terminal: Option<OwnedFd>,
}

impl Control for ExecControl {
    fn resize(&self, columns: u16, rows: u16) -> Result<(), Error> {
        let Some(terminal) = &self.terminal else { return Ok(()) };
        sys::resize(terminal.as_fd(), columns, rows).map_err(Error::failed("cannot resize the terminal"))
    }

    fn exit_descriptor(&self) -> Result<OwnedFd, Error> {
        let copy = self.exit.try_clone().map_err(Error::failed("cannot copy a descriptor"))?;
        Ok(copy.into())
    }

    fn wait(&self, timeout: Duration) -> Result<Option<i32>, Error> {
        let operation = "cannot wait for the executed process";
        if !host::wait::readable(self.exit.as_fd(), timeout).map_err(Error::failed(operation))? {
            return Ok(None);
        }
        let mut code = [0u8; CODE_LENGTH];
        let count = recv(self.exit.as_raw_fd(), &mut code, MsgFlags::MSG_PEEK).map_err(Error::failed(operation))?;
        if count < CODE_LENGTH {
            return Err(Error::failed(operation)("its monitor has gone without telling how it ended"));
        }
        Ok(Some(i32::from_ne_bytes(code)))
    }

    fn kill(&self) -> Result<(), Error> {
        let operation = "cannot kill the executed process";
        match ask(&lock(&self.control), &Request::Kill).map_err(Error::failed(operation))?.0 {
            Reply::Done => Ok(()),
            Reply::Failed(failure) => Err(failure.into_error(operation)),
            other => Err(unexpected(operation, &other)),
        }
    }
}

/// Controls an attached client.
#[derive(Debug)]
pub(super) struct AttachControl {
    connection: Mutex<UnixStream>,
    directory: PathBuf,
}

impl AttachControl {
    pub(super) fn new(connection: UnixStream, directory: &Path) -> Self {
        Self { connection: Mutex::new(connection), directory: directory.to_owned() }
    }
}

impl Control for AttachControl {
    fn resize(&self, columns: u16, rows: u16) -> Result<(), Error> {
        let operation = "cannot resize the container's terminal";
        let request = Request::Resize { columns, rows };
        match ask(&lock(&self.connection), &request).map_err(Error::failed(operation))?.0 {
            Reply::Done => Ok(()),
            Reply::Failed(failure) => Err(failure.into_error(operation)),
            other => Err(unexpected(operation, &other)),
        }
    }

    fn exit_descriptor(&self) -> Result<OwnedFd, Error> {
        client::exit_descriptor(&self.directory)
    }

    fn wait(&self, timeout: Duration) -> Result<Option<i32>, Error> {
        let ended = self.exit_descriptor()?;
        if !host::wait::readable(ended.as_fd(), timeout).map_err(Error::failed("cannot wait for the container"))? {
            return Ok(None);
        }
        match client::state(&self.directory)? {
            ContainerState::Exited { exit, .. } => Ok(Some(exit.code)),
            ContainerState::Running(_) | ContainerState::Created => Ok(None),
        }
    }

    fn kill(&self) -> Result<(), Error> {
        match lock(&self.connection).shutdown(std::net::Shutdown::Both) {
            Err(error) if error.kind() != io::ErrorKind::NotConnected => {
                Err(Error::failed("cannot let the attached client go")(error))
            }
            _ => Ok(()),
        }
    }
}

/// Requests on one connection take turns. A panic between a request and its reply breaks only that connection.
fn lock(connection: &Mutex<UnixStream>) -> MutexGuard<'_, UnixStream> {
    connection.lock().unwrap_or_else(PoisonError::into_inner)
}
