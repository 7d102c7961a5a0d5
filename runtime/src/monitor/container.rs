//! The monitor of a container: starts its first process and stays until its end is recorded and every client has its output.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use host::fs::Lock;
use nix::poll::PollFlags;
use nix::sys::signal::SigSet;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::attach::{Client, read_some, set_nonblocking, write_some};
use super::launch::{Launch, Launched, Streams, Target};
use super::log::{Log, Stream};
use super::poll::{Source, Watched};
use super::protocol::{self, Failure, Greeting, Reply, VERSION};
use super::record::{self, ExitRecord, StartRecord, now_ns};
use super::{detach, serve};
use crate::Error;
use crate::spec::ContainerSpec;

/// The size of one read from a stream, in bytes.
const CHUNK: usize = 16 << 10;
/// How long output is read after the first process has ended: all others were killed, so only a descriptor that was passed out
/// of the container can keep a stream open.
const DRAIN: Duration = Duration::from_secs(2);
/// The interval between attempts to write an exit record.
const RECORD_RETRY: Duration = Duration::from_secs(1);
/// The limit on attached clients.
pub(super) const ATTACHED_LIMIT: usize = 64;
/// The limit on other connections, which are the server's: one for each call of the moment. More wait.
const ASKING_LIMIT: usize = 256;
/// The pause in accepting when no descriptor is left; the container's output waits in its pipes.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);
/// How long a failed start waits for the server to ask for its reason.
const FAILURE_WAIT: Duration = Duration::from_secs(10);

/// A running or ended container.
pub(super) struct Monitor {
    pub(super) directory: PathBuf,
    pub(super) launch: Box<dyn Launch>,
    /// None once the exit is recorded: then the files have the answers.
    pub(super) listener: Option<UnixListener>,
    /// Tells that this monitor lives; as the listener.
    lock: Option<Lock>,
    pub(super) clients: Vec<Client>,
    pub(super) log: Log,
    pub(super) pid: Pid,
    pub(super) started_ns: u64,
    pub(super) phase: Phase,
    /// The container's standard input, while somebody may write to it.
    pub(super) input: Option<File>,
    pub(super) input_backlog: Vec<u8>,
    /// Whether the input is closed once the backlog is written.
    pub(super) input_ends: bool,
    pub(super) stdin_once: bool,
    pub(super) outputs: [Option<File>; 2],
    pub(super) terminal: Option<OwnedFd>,
}

/// The phases of a monitor.
///
/// ```text
///          the first process ends           the output ends,          exit.json is written,
///          and all others are killed        or 2 s have passed        or the directory is gone
/// Running ─────────────────────────► Draining ─────────────► Recording ─────────────► Recorded
///                                                            │       ▲                  │ every attached client
///                                                            └───────┘                  ▼ has its output
///                                                        tried each second             (the monitor ends)
/// ```
pub(super) enum Phase {
    Running,
    /// The time until which output is still read.
    Draining(ExitRecord, Instant),
    /// The monitor itself reports the exit; the time of the next attempt to write the record.
    Recording(ExitRecord, Instant),
    /// The record reports the exit; the monitor accepts nobody.
    Recorded(ExitRecord),
}

/// The worker: detaches, starts the container and serves it. Its standard input is the server's listening socket.
pub(super) fn run(directory: &Path) -> Result<(), Error> {
    let listener = UnixListener::from(detach().map_err(Error::failed("cannot detach the monitor"))?);
    let signals = host::worker::block_child_signal().map_err(Error::failed("cannot block SIGCHLD"))?;
    match Monitor::start(directory) {
        Ok(mut monitor) => {
            listener.set_nonblocking(true).map_err(Error::failed("cannot prepare the monitor's socket"))?;
            monitor.listener = Some(listener);
            monitor.run(signals)
        }
        Err(error) => {
            send_failure(&listener, &error);
            Err(error)
        }
    }
}

/// Replies to the server that waits for the start with the error.
fn send_failure(listener: &UnixListener, error: &Error) {
    let told = || -> io::Result<()> {
        host::wait::readable(listener.as_fd(), FAILURE_WAIT)?;
        let (connection, _) = listener.accept()?;
        protocol::send(connection.as_fd(), &Greeting { version: VERSION }, &[])?;
        host::wait::readable(connection.as_fd(), FAILURE_WAIT)?;
        protocol::send(connection.as_fd(), &Reply::Failed(Failure::of(error)), &[])
    };
    // A server that died meanwhile finds the container as it was before.
    let _ = told();
}

impl Monitor {
    fn start(directory: &Path) -> Result<Self, Error> {
        let spec = record::read_spec(directory)?;
        let log = Log::open(spec.log_path.as_deref()).map_err(|source| Error::Failed {
            operation: format!("cannot open the log {}", spec.log_path.clone().unwrap_or_default().display()),
            source: source.into(),
        })?;
        let mut launch = crate::platform::prepare_launch(Target::Container(directory))?;
        launch.adopt_orphans()?;
        let lock = record::hold(directory)?.ok_or_else(|| Error::conflict("the container has a monitor already"))?;
        record::write_start(directory, &StartRecord { version: VERSION, pid: 0, started_ns: now_ns() })?;
        let launched = launch_with_streams(launch.as_mut(), &spec);
        let (launched, input, outputs) = match launched {
            Ok(launched) => launched,
            Err(error) => {
                record::remove_start(directory)?;
                return Err(error);
            }
        };
        let started_ns = now_ns();
        let pid = launched.pid;
        record::write_start(directory, &StartRecord { version: VERSION, pid: pid.as_raw(), started_ns })?;
        Ok(Self {
            directory: directory.to_owned(),
            launch,
            listener: None,
            lock: Some(lock),
            clients: Vec::new(),
            log,
            pid,
            started_ns,
            phase: Phase::Running,
            input,
            input_backlog: Vec::new(),
            input_ends: false,
            stdin_once: spec.stdin_once && launched.terminal.is_none(),
            outputs,
            terminal: launched.terminal,
        })
    }

    fn run(mut self, signals: SigSet) -> Result<(), Error> {
        loop {
            self.reap();
            self.advance();
            if self.is_done() {
                self.launch.release();
                return Ok(());
            }
            let timeout = self.timeout();
            let ready = Watched::of(&self).wait(timeout, &signals).map_err(Error::failed("cannot poll"))?;
            for (source, flags) in ready {
                self.serve(source, flags);
            }
            for client in &mut self.clients {
                if client.patience_left().is_some_and(|left| left.is_zero()) {
                    client.hang_up();
                }
            }
            self.clients.retain(|client| !client.is_gone());
        }
    }

    fn serve(&mut self, source: Source, flags: PollFlags) {
        match source {
            Source::Listener => self.accept(),
            Source::Output(stream) => self.read_output(stream),
            Source::Input => self.write_input(),
            Source::Watch => self.launch.handle_watch(),
            Source::Control(index) => serve::serve(self, index),
            Source::Stdin(index) => self.read_stdin(index),
            Source::Tail(index, stream) if flags.contains(PollFlags::POLLERR) => {
                if let Some(attached) = &mut self.clients[index].attached {
                    attached.outputs[stream as usize] = None;
                }
            }
            Source::Tail(index, stream) => {
                self.clients[index].flush(stream);
                if self.outputs[stream as usize].is_none() {
                    self.clients[index].end(stream);
                }
            }
        }
    }

    fn accept(&mut self) {
        let connection = match self.listener.as_ref().map(UnixListener::accept) {
            Some(Ok((connection, _))) => connection,
            Some(Err(error)) => {
                // poll(2) would report the same client again at once.
                if host::is_exhausted(&error) {
                    std::thread::sleep(ACCEPT_PAUSE);
                }
                return;
            }
            None => return,
        };
        if connection.set_nonblocking(true).is_err() {
            return;
        }
        if protocol::send(connection.as_fd(), &Greeting { version: VERSION }, &[]).is_ok() {
            self.clients.push(Client::new(connection));
        }
    }

    fn read_output(&mut self, stream: Stream) {
        let Some(output) = &mut self.outputs[stream as usize] else { return };
        let mut chunk = [0u8; CHUNK];
        match read_some(output, &mut chunk) {
            None => {}
            Some(0) => self.end_output(stream),
            Some(count) => {
                self.log.write(stream, &chunk[..count]);
                self.clients.iter_mut().for_each(|client| client.push(stream, &chunk[..count]));
            }
        }
    }

    fn end_output(&mut self, stream: Stream) {
        self.outputs[stream as usize] = None;
        self.clients.iter_mut().for_each(|client| client.end(stream));
    }

    fn read_stdin(&mut self, index: usize) {
        let Some(attached) = &mut self.clients[index].attached else { return };
        let Some(stdin) = &mut attached.stdin else { return };
        let mut chunk = [0u8; CHUNK / 4];
        match read_some(stdin, &mut chunk) {
            None => {}
            Some(0) => {
                attached.stdin = None;
                self.input_ends |= self.stdin_once;
                self.write_input();
            }
            Some(count) => {
                self.input_backlog.extend_from_slice(&chunk[..count]);
                self.write_input();
            }
        }
    }

    /// Writes as much of the backlog as the container's standard input takes; an input without a reader is closed.
    fn write_input(&mut self) {
        let Some(input) = &mut self.input else { return };
        let taken = write_some(input, &self.input_backlog);
        match taken {
            Ok(count) => drop(self.input_backlog.drain(..count)),
            Err(_) => self.input_ends = true,
        }
        if self.input_backlog.is_empty() || taken.is_err() {
            self.input_backlog = Vec::new();
            if self.input_ends {
                self.input = None;
                self.clients.iter_mut().filter_map(|client| client.attached.as_mut()).for_each(|a| a.stdin = None);
            }
        }
    }

    /// Reaps all children; the first process' end is the container's.
    fn reap(&mut self) {
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) if pid == self.pid => self.end(code, None),
                Ok(WaitStatus::Signaled(pid, signal, _)) if pid == self.pid => {
                    self.end(128 + signal as i32, Some(signal as i32));
                }
                Ok(WaitStatus::StillAlive) | Err(_) => return,
                Ok(_) => {}
            }
        }
    }

    fn end(&mut self, code: i32, signal: Option<i32>) {
        let finished_ns = now_ns();
        // A process that lost a child to the OOM killer and still succeeded was not killed for memory.
        let out_of_memory = code != 0 && self.launch.out_of_memory();
        let message = self.launch.kill().err().map(|error| host::chain(&error)).unwrap_or_default();
        let record = ExitRecord {
            version: VERSION,
            pid: self.pid.as_raw(),
            started_ns: self.started_ns,
            finished_ns,
            code,
            signal,
            out_of_memory,
            message,
        };
        self.phase = Phase::Draining(record, Instant::now() + DRAIN);
    }

    /// Once the container has ended and its output is read: ends the log, writes the record, and releases the waiting clients.
    fn advance(&mut self) {
        if let Phase::Draining(exit, until) = &self.phase {
            if self.outputs.iter().any(Option::is_some) && Instant::now() < *until {
                return;
            }
            self.phase = Phase::Recording(exit.clone(), Instant::now());
            self.log.flush(true);
            for stream in [Stream::Stdout, Stream::Stderr] {
                self.end_output(stream);
            }
        }
        let Phase::Recording(exit, at) = &self.phase else { return };
        if Instant::now() < *at {
            return;
        }
        // A caller that removed the directory needs no record, and must not keep a monitor for ever.
        self.phase = if record::write_exit(&self.directory, exit).is_ok() || !self.directory.exists() {
            (self.listener, self.lock) = (None, None);
            Phase::Recorded(exit.clone())
        } else {
            Phase::Recording(exit.clone(), Instant::now() + RECORD_RETRY)
        };
        (self.input, self.terminal) = (None, None);
        self.clients.retain(Client::is_behind);
    }

    /// Whether it takes another connection.
    pub(super) fn has_room(&self) -> bool {
        self.clients.len() - self.attached() < ASKING_LIMIT
    }

    /// The number of attached clients.
    pub(super) fn attached(&self) -> usize {
        self.clients.iter().filter(|client| client.attached.is_some()).count()
    }

    /// The end of the container; None: it runs.
    pub(super) fn exit(&self) -> Option<&ExitRecord> {
        match &self.phase {
            Phase::Running => None,
            Phase::Draining(exit, _) | Phase::Recording(exit, _) | Phase::Recorded(exit) => Some(exit),
        }
    }

    fn is_done(&self) -> bool {
        matches!(self.phase, Phase::Recorded(_)) && !self.clients.iter().any(Client::is_behind)
    }

    /// The time until the next deadline.
    fn timeout(&mut self) -> Option<Duration> {
        let patience = self.clients.iter().filter_map(Client::patience_left).min();
        let end = match &self.phase {
            Phase::Draining(_, at) | Phase::Recording(_, at) => Some(at.saturating_duration_since(Instant::now())),
            Phase::Running | Phase::Recorded(_) => None,
        };
        [self.log.flush(false), patience, end].into_iter().flatten().min()
    }
}

type Started = (Launched, Option<File>, [Option<File>; 2]);

/// Launches the process with new pipes or a terminal, and makes the monitor's ends nonblocking.
fn launch_with_streams(launch: &mut dyn Launch, spec: &ContainerSpec) -> Result<Started, Error> {
    let failed = || Error::failed::<io::Error>("cannot create the container's streams");
    if spec.process.tty {
        let launched = launch.launch(Streams::Terminal)?;
        let Some(terminal) = &launched.terminal else {
            return Err(failed()(io::Error::other("the backend gave no terminal")));
        };
        set_nonblocking(terminal.as_fd()).map_err(failed())?;
        let copy = || terminal.try_clone().map(File::from).map_err(failed());
        let input = if spec.stdin { Some(copy()?) } else { None };
        let output = copy()?;
        return Ok((launched, input, [Some(output), None]));
    }
    let (stdin, input) = if spec.stdin {
        let (theirs, ours) = io::pipe().map_err(failed())?;
        (OwnedFd::from(theirs), Some(File::from(OwnedFd::from(ours))))
    } else {
        (File::open("/dev/null").map_err(failed())?.into(), None)
    };
    let (out, stdout) = io::pipe().map_err(failed())?;
    let (err, stderr) = io::pipe().map_err(failed())?;
    let outputs = [File::from(OwnedFd::from(out)), File::from(OwnedFd::from(err))];
    for ours in input.iter().chain(&outputs) {
        set_nonblocking(ours.as_fd()).map_err(failed())?;
    }
    let launched = launch.launch(Streams::Pipes { stdin, stdout: stdout.into(), stderr: stderr.into() })?;
    Ok((launched, input, outputs.map(Some)))
}
