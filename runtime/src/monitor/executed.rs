//! The monitor of one executed process, which is its parent. When its control connection ends while the process runs (the
//! session was dropped, the server died), it kills the process and all its descendants. The streams do not pass through it: the
//! process has the server's pipes, and the server gets the master of a terminal.

use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::signal::SigSet;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::detach;
use super::launch::{Launch, Launched, Streams, Target};
use super::protocol::{self, Arrived, Failure, Incoming, LAUNCH_LIMIT, MESSAGE_LIMIT, Reply, Request};
use super::record::now_ns;
use crate::Error;
use crate::spec::ExecSpec;

/// The limit for the server's request.
const REQUEST_WAIT: Duration = Duration::from_secs(10);

struct Executed {
    launch: Box<dyn Launch>,
    pid: Pid,
    control: UnixStream,
    incoming: Incoming,
    /// Gets the exit code once, as four bytes in native order. None: it has it.
    exit: Option<UnixStream>,
}

/// The worker: detaches, executes, waits. Its standard input is the control connection.
pub(super) fn run() -> Result<(), Error> {
    let control = UnixStream::from(detach().map_err(Error::failed("cannot detach the monitor"))?);
    let signals = host::worker::block_child_signal().map_err(Error::failed("cannot block SIGCHLD"))?;
    let (request, descriptors) = protocol::receive::<Request>(control.as_fd(), LAUNCH_LIMIT, REQUEST_WAIT)
        .map_err(Error::failed("cannot read what is to be executed"))?;
    let (reply, terminal, executed) = match execute(request, descriptors) {
        Ok((launch, launched, exit)) => {
            let reply = Reply::State { pid: launched.pid.as_raw(), started_ns: now_ns(), exit: None };
            (reply, launched.terminal, Ok((launch, launched.pid, exit)))
        }
        Err(error) => (Reply::Failed(Failure::of(&error)), None, Err(error)),
    };
    let passed: Vec<BorrowedFd<'_>> = terminal.iter().map(AsFd::as_fd).collect();
    // A server that is gone shows as the end of the control connection below.
    let _ = protocol::send(control.as_fd(), &reply, &passed);
    drop(terminal);
    let (launch, pid, exit) = executed?;
    Executed { launch, pid, control, incoming: Incoming::default(), exit: Some(exit) }.run(signals)
}

type Begun = (Box<dyn Launch>, Launched, UnixStream);

fn execute(request: Request, descriptors: Vec<OwnedFd>) -> Result<Begun, Error> {
    let Request::Launch { directory, args, tty, stdin } = request else {
        return Err(Error::conflict("nothing is executed yet"));
    };
    let missing = || Error::conflict("a descriptor of the process to execute is missing");
    let mut descriptors = descriptors.into_iter();
    let mut next = || descriptors.next().ok_or_else(missing);
    let exit = UnixStream::from(next()?);
    let streams =
        if tty { Streams::Terminal } else { Streams::Pipes { stdin: next()?, stdout: next()?, stderr: next()? } };
    let spec = ExecSpec { args, tty, stdin };
    let mut launch = crate::platform::prepare_launch(Target::Exec(&directory, &spec))?;
    launch.adopt_orphans()?;
    match launch.launch(streams) {
        Ok(launched) => Ok((launch, launched, exit)),
        Err(error) => {
            launch.release();
            Err(error)
        }
    }
}

impl Executed {
    fn run(mut self, signals: SigSet) -> Result<(), Error> {
        loop {
            self.reap();
            let [spoken, watched] = self.wait(&signals)?;
            if watched {
                self.launch.handle_watch();
            }
            if spoken && !self.listen() {
                break;
            }
        }
        // A process that ended by itself may leave others running, as in containerd.
        let killed = if self.exit.is_some() { self.launch.kill() } else { Ok(()) };
        self.launch.release();
        killed
    }

    /// Waits; returns whether the control connection and the backend's descriptor are ready. A child's end interrupts.
    fn wait(&self, signals: &SigSet) -> Result<[bool; 2], Error> {
        let mut descriptors = vec![PollFd::new(self.control.as_fd(), PollFlags::POLLIN)];
        descriptors.extend(self.launch.watch_descriptor().map(|watch| PollFd::new(watch, PollFlags::POLLIN)));
        match ppoll(&mut descriptors, None, Some(*signals)) {
            Ok(_) => {}
            Err(Errno::EINTR) => return Ok([false; 2]),
            Err(errno) => return Err(Error::failed("cannot poll")(errno)),
        }
        let ready = |index: usize| descriptors.get(index).and_then(PollFd::any).unwrap_or(false);
        Ok([ready(0), ready(1)])
    }

    /// Serves one request of the control connection; false: it has ended.
    fn listen(&mut self) -> bool {
        let text = match self.incoming.read(self.control.as_fd(), MESSAGE_LIMIT) {
            Ok(Arrived::Message(text, _)) => text,
            Ok(Arrived::Partly) => return true,
            Ok(Arrived::End) | Err(_) => return false,
        };
        let reply = match serde_json::from_slice::<Request>(&text) {
            Ok(Request::Kill) => match self.launch.kill() {
                Ok(()) => {
                    self.reap();
                    Reply::Done
                }
                Err(error) => Reply::Failed(Failure::of(&error)),
            },
            Ok(_) => Reply::Failed(Failure::conflict("an executed process is only killed")),
            Err(error) => Reply::Failed(Failure::conflict(format!("the monitor does not know this request: {error}"))),
        };
        protocol::send(self.control.as_fd(), &reply, &[]).is_ok()
    }

    /// Reaps all children, and sends the executed process' exit code.
    fn reap(&mut self) {
        loop {
            let code = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) if pid == self.pid => code,
                Ok(WaitStatus::Signaled(pid, signal, _)) if pid == self.pid => 128 + signal as i32,
                Ok(WaitStatus::StillAlive) | Err(_) => return,
                Ok(_) => continue,
            };
            if let Some(mut exit) = self.exit.take() {
                // The server may be gone.
                let _ = exit.write_all(&code.to_ne_bytes());
            }
        }
    }
}
