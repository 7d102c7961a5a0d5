//! The server's side: starts monitors and sends them requests. When a monitor is gone, its files have the answer, unless it was
//! killed ([`state`]).

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use host::worker::Workers;

use super::protocol::{self, Greeting, MESSAGE_LIMIT, Reply, Request, VERSION};
use super::record::{self, ExitRecord, UNKNOWN_EXIT_CODE, now_ns, socket_path};
use super::{Target, WORKER, session};
use crate::{ContainerState, Error, Session, Started};

/// The limit for a monitor's reply: it limits itself what takes long (a start, a kill).
pub(super) const ANSWER_WAIT: Duration = Duration::from_secs(20);
/// The limit for a container's start.
const START_WAIT: Duration = Duration::from_secs(120);
/// How often a request is repeated when the monitor hangs up, which it does when it ends.
const ATTEMPTS: u32 = 3;
/// The interval between attempts to connect to a monitor that lives and takes no connection.
const CONNECT_RETRY: Duration = Duration::from_millis(10);

/// Starts the monitor of a container and the container; returns when its program runs.
///
/// # Errors
/// The backend's error; then no monitor is left and the container is as before.
pub(super) fn start(workers: &Workers, directory: &Path) -> Result<Started, Error> {
    let operation = format!("cannot start the monitor in {}", directory.display());
    let connection = spawn(workers, directory).map_err(Error::failed(&operation))?;
    let answer = protocol::receive::<Greeting>(connection.as_fd(), MESSAGE_LIMIT, START_WAIT)
        .and_then(|_| ask(&connection, &Request::State));
    match answer {
        Ok((Reply::State { pid, started_ns, .. }, _)) => Ok(record::started(pid, started_ns)),
        Ok((Reply::Failed(failure), _)) => Err(failure.into_error("cannot start the container")),
        Ok((other, _)) => Err(unexpected(&operation, &other)),
        // A container that ends at once takes its monitor with it, which has written the record.
        Err(error) => match record::read_exit(directory)? {
            Some(record) => Ok(record.started()),
            None => Err(Error::failed(operation)(error)),
        },
    }
}

/// The connection is made before the monitor exists: it is the first that the monitor serves.
fn spawn(workers: &Workers, directory: &Path) -> io::Result<UnixStream> {
    let path = socket_path(directory);
    host::fs::remove_file(&path)?;
    let listener = UnixListener::bind(&path)?;
    let connection = UnixStream::connect(&path)?;
    workers.spawn_detached(WORKER, &[directory], listener.into())?;
    Ok(connection)
}

/// The state of a container. If its monitor was killed, its processes are killed too, and that end is recorded.
///
/// # Errors
/// Its files cannot be read, or its monitor does not answer.
pub(super) fn state(directory: &Path) -> Result<ContainerState, Error> {
    if let Some(record) = record::read_exit(directory)? {
        return Ok(exited(&record));
    }
    let operation = format!("cannot ask the monitor in {}", directory.display());
    match request(directory, &Request::State)?.map(|answer| answer.reply) {
        None => state_without_monitor(directory),
        Some(Reply::State { exit: Some(record), .. }) => Ok(exited(&record)),
        Some(Reply::State { pid, started_ns, exit: None }) => {
            Ok(ContainerState::Running(record::started(pid, started_ns)))
        }
        Some(Reply::Failed(failure)) => Err(failure.into_error(&operation)),
        Some(other) => Err(unexpected(&operation, &other)),
    }
}

fn state_without_monitor(directory: &Path) -> Result<ContainerState, Error> {
    // The exit first: the monitor writes it before it ends.
    if let Some(record) = record::read_exit(directory)? {
        return Ok(exited(&record));
    }
    let Some(start) = record::read_start(directory)? else { return Ok(ContainerState::Created) };
    crate::platform::prepare_launch(Target::Container(directory))?.kill()?;
    let record = ExitRecord {
        version: VERSION,
        pid: start.pid,
        started_ns: start.started_ns,
        finished_ns: now_ns(),
        code: UNKNOWN_EXIT_CODE,
        signal: None,
        out_of_memory: false,
        message: "the container's monitor was killed: its exit code is not known".to_owned(),
    };
    record::write_exit(directory, &record)?;
    Ok(exited(&record))
}

fn exited(record: &ExitRecord) -> ContainerState {
    ContainerState::Exited { started: record.started(), exit: record.exit() }
}

/// A descriptor that reads as end-of-file once the exit is recorded.
///
/// # Errors
/// [`Error::Conflict`] for a container that was never started.
pub(super) fn exit_descriptor(directory: &Path) -> Result<OwnedFd, Error> {
    if let Some(Answer { connection, reply: Reply::Done, .. }) = request(directory, &Request::Wait)? {
        return Ok(connection.into());
    }
    if state(directory)? == ContainerState::Created {
        return Err(Error::conflict("the container was never started"));
    }
    let (ended, _) = UnixStream::pair().map_err(Error::failed("cannot create a descriptor"))?;
    Ok(ended.into())
}

/// Sends a signal to the first process; false: there is no monitor, so it does not run.
///
/// # Errors
/// An error of the kernel or the monitor.
pub(super) fn signal(directory: &Path, number: i32) -> Result<bool, Error> {
    request_done(directory, &Request::Signal { number }, "cannot signal the container")
}

/// Kills every process of the container and returns when the exit is recorded; false: there is no monitor.
///
/// # Errors
/// A process that does not die.
pub(crate) fn kill(directory: &Path) -> Result<bool, Error> {
    let wait = request(directory, &Request::Wait)?;
    let Some(Answer { connection: waiting, reply: Reply::Done, .. }) = wait else { return Ok(false) };
    if !request_done(directory, &Request::Kill, "cannot kill the container")? {
        return Ok(false);
    }
    let ended = host::wait::readable(waiting.as_fd(), ANSWER_WAIT).map_err(Error::failed("cannot wait"))?;
    if ended { Ok(true) } else { Err(Error::failed("cannot kill the container")("its end was not recorded in time")) }
}

/// Makes the monitor open the log's path again.
///
/// # Errors
/// [`Error::Conflict`] when the container is not running.
pub(super) fn reopen_log(directory: &Path) -> Result<(), Error> {
    if request_done(directory, &Request::ReopenLog, "cannot reopen the container's log")? {
        Ok(())
    } else {
        Err(not_running())
    }
}

/// Attaches to the streams of the first process, to its input only with `stdin`.
///
/// # Errors
/// [`Error::Conflict`] when the container is not running.
pub(super) fn attach(directory: &Path, stdin: bool) -> Result<Session, Error> {
    let operation = "cannot attach to the container";
    let answer = request(directory, &Request::Attach { stdin })?;
    let Answer { connection, reply, descriptors } = answer.ok_or_else(not_running)?;
    match reply {
        Reply::Attached { stdin, stdout, stderr } => {
            let mut descriptors = descriptors.into_iter();
            let mut take = |there: bool| if there { descriptors.next() } else { None };
            let (stdin, stdout, stderr) = (take(stdin), take(stdout), take(stderr));
            let control = Box::new(session::AttachControl::new(connection, directory));
            Ok(Session { stdin, stdout, stderr, control })
        }
        Reply::Failed(failure) => Err(failure.into_error(operation)),
        other => Err(unexpected(operation, &other)),
    }
}

/// Makes a request whose reply is `Done`; false: there is no monitor.
fn request_done(directory: &Path, wanted: &Request, operation: &str) -> Result<bool, Error> {
    match request(directory, wanted)?.map(|answer| answer.reply) {
        None => Ok(false),
        Some(Reply::Done) => Ok(true),
        Some(Reply::Failed(failure)) => Err(failure.into_error(operation)),
        Some(other) => Err(unexpected(operation, &other)),
    }
}

/// A reply, and the connection that it came on.
struct Answer {
    connection: UnixStream,
    reply: Reply,
    descriptors: Vec<OwnedFd>,
}

/// Makes a request on a new connection; None: there is no monitor.
fn request(directory: &Path, wanted: &Request) -> Result<Option<Answer>, Error> {
    for attempt in 1.. {
        let Some(connection) = connect(directory)? else { break };
        match ask(&connection, wanted) {
            Ok((reply, descriptors)) => return Ok(Some(Answer { connection, reply, descriptors })),
            Err(error) if is_hung_up(&error) && attempt < ATTEMPTS => {}
            Err(error) => {
                return Err(Error::failed(format!("cannot ask the monitor in {}", directory.display()))(error));
            }
        }
    }
    Ok(None)
}

/// Connects and reads the greeting; None: there is no monitor. That kills what runs in the container ([`state`]), so a failed
/// connection alone does not tell it: the queue of a busy monitor may be full, for which connect(2) of FreeBSD has the same
/// ECONNREFUSED as for a dead one's socket, and an older monitor hangs up on its sixty-fifth client.
fn connect(directory: &Path) -> Result<Option<UnixStream>, Error> {
    let until = Instant::now() + ANSWER_WAIT;
    loop {
        let greeted = UnixStream::connect(socket_path(directory)).and_then(|connection| {
            protocol::receive::<Greeting>(connection.as_fd(), MESSAGE_LIMIT, ANSWER_WAIT)?;
            Ok(connection)
        });
        let error = match greeted {
            Ok(connection) => return Ok(Some(connection)),
            Err(error) => error,
        };
        let refused = is_refused(&error);
        if refused && !record::is_held(directory)? {
            return Ok(None);
        }
        if !(refused || is_hung_up(&error)) || Instant::now() > until {
            return Err(Error::failed(format!("cannot reach the monitor in {}", directory.display()))(error));
        }
        std::thread::sleep(CONNECT_RETRY);
    }
}

pub(super) fn ask(connection: &UnixStream, request: &Request) -> io::Result<(Reply, Vec<OwnedFd>)> {
    protocol::send(connection.as_fd(), request, &[])?;
    protocol::receive(connection.as_fd(), MESSAGE_LIMIT, ANSWER_WAIT)
}

/// Whether nobody listens.
fn is_refused(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

/// Whether the monitor ended or closed the connection.
fn is_hung_up(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), ConnectionReset | BrokenPipe | UnexpectedEof)
}

fn not_running() -> Error {
    Error::conflict("the container is not running")
}

pub(super) fn unexpected(operation: &str, reply: &Reply) -> Error {
    Error::failed(operation)(format!("the monitor answered {reply:?}"))
}
