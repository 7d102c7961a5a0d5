//! The server's side: starts monitors and sends them requests. When a monitor is gone, its files have the answer, unless it was
//! killed ([`state`]).

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use host::worker::Workers;

use super::protocol::{self, Greeting, MESSAGE_LIMIT, Reply, Request, VERSION};
use super::record::{self, ExitRecord, Life, UNKNOWN_EXIT_CODE, now_ns, socket_path};
use super::{Target, WORKER, session};
use crate::{ContainerState, Error, Session, Started};

/// The limit for a monitor's reply: it limits itself what takes long (a start, a kill).
pub(super) const ANSWER_WAIT: Duration = Duration::from_secs(20);
/// The limit for a container's start.
const START_WAIT: Duration = Duration::from_secs(120);
/// How often a request is repeated when the monitor hangs up, which it does when it ends.
const ATTEMPTS: u32 = 3;
/// The interval between attempts to connect to a monitor that lives and takes no connection.
const RETRY: Duration = Duration::from_millis(10);
/// How long a monitor that holds no lock, since it is older, may refuse connections before it counts as dead.
const UNKNOWN_WAIT: Duration = Duration::from_secs(2);

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
    let operation = format!("cannot ask the monitor in {}", directory.display());
    let until = Instant::now() + ANSWER_WAIT;
    loop {
        if let Some(record) = record::read_exit(directory)? {
            return Ok(exited(&record));
        }
        match request(directory, &Request::State)?.map(|answer| answer.reply) {
            Some(Reply::State { exit: Some(record), .. }) => return Ok(exited(&record)),
            Some(Reply::State { pid, started_ns, exit: None }) => {
                return Ok(ContainerState::Running(record::started(pid, started_ns)));
            }
            Some(Reply::Failed(failure)) => return Err(failure.into_error(&operation)),
            Some(other) => return Err(unexpected(&operation, &other)),
            None => {}
        }
        if let Some(state) = state_without_monitor(directory)? {
            return Ok(state);
        }
        if Instant::now() > until {
            return Err(Error::failed(operation)(io::Error::from(io::ErrorKind::TimedOut)));
        }
    }
}

/// None: another thread is about to record the end.
fn state_without_monitor(directory: &Path) -> Result<Option<ContainerState>, Error> {
    let Some(start) = record::read_start(directory)? else { return Ok(Some(ContainerState::Created)) };
    let Some(_lock) = record::hold(directory)? else { return Ok(None) };
    if let Some(record) = record::read_exit(directory)? {
        return Ok(Some(exited(&record)));
    }
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
    Ok(Some(exited(&record)))
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
    let operation = "cannot kill the container";
    let wait = request(directory, &Request::Wait)?;
    let Some(Answer { connection, reply: Reply::Done, .. }) = wait else { return Ok(false) };
    // On the same connection: callers that each waited for a second one could fill the monitor's and wait for each other.
    match ask(&connection, &Request::Kill) {
        Ok((Reply::Done, _)) => {}
        Ok((Reply::Failed(failure), _)) => return Err(failure.into_error(operation)),
        Ok((other, _)) => return Err(unexpected(operation, &other)),
        Err(error) if is_hung_up(&error) => return Ok(false),
        Err(error) => return Err(Error::failed(operation)(error)),
    }
    let ended = host::wait::readable(connection.as_fd(), ANSWER_WAIT).map_err(Error::failed("cannot wait"))?;
    if ended { Ok(true) } else { Err(Error::failed(operation)("its end was not recorded in time")) }
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
    let begun = Instant::now();
    loop {
        let greeted = UnixStream::connect(socket_path(directory)).and_then(|connection| {
            protocol::receive::<Greeting>(connection.as_fd(), MESSAGE_LIMIT, ANSWER_WAIT)?;
            Ok(connection)
        });
        let error = match greeted {
            Ok(connection) => return Ok(Some(connection)),
            Err(error) => error,
        };
        let life = if is_refused(&error) { record::life(directory)? } else { Life::Lives };
        let may_change = is_refused(&error) || is_hung_up(&error);
        match life {
            Life::Over => return Ok(None),
            Life::Unknown if begun.elapsed() > UNKNOWN_WAIT => return Ok(None),
            Life::Lives if !may_change || begun.elapsed() > ANSWER_WAIT => {
                return Err(Error::failed(format!("cannot reach the monitor in {}", directory.display()))(error));
            }
            Life::Lives | Life::Unknown => std::thread::sleep(RETRY),
        }
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
    use io::ErrorKind::{BrokenPipe, ConnectionReset, NotConnected, UnexpectedEof};
    // FreeBSD 14 may answer a send to a peer that has just closed with ENOTCONN.
    matches!(error.kind(), ConnectionReset | BrokenPipe | NotConnected | UnexpectedEof)
}

fn not_running() -> Error {
    Error::conflict("the container is not running")
}

pub(super) fn unexpected(operation: &str, reply: &Reply) -> Error {
    Error::failed(operation)(format!("the monitor answered {reply:?}"))
}
