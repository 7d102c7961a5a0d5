//! Fork servers. Such a one is a process of a worker that does nothing but fork when the worker is needed; its fork goes on as
//! if it had been started with these arguments and standard streams. To start a program takes longer than most of what workers
//! do, and forks share the memory that a program fills while it starts. A fork server waits on its standard input, a socket,
//! and ends with the program that started it; its forks go on.

use std::ffi::{OsStr, OsString};
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::{Workers, sys};

/// The one argument of a fork server.
const WORD: &str = "--fork-server";
/// How long a fork server may take to answer: it forks or kills.
const ANSWER_WAIT: Duration = Duration::from_secs(20);
/// The largest message, in bytes: arguments are a few paths.
const MESSAGE_MAX: u32 = 64 << 10;
/// A request's first four bytes say how many bytes of arguments follow, an answer is four bytes.
const NUMBER: usize = size_of::<u32>();

/// What a worker gets to do.
pub(super) struct Work<'a> {
    pub(super) args: &'a [&'a OsStr],
    pub(super) stdin: BorrowedFd<'a>,
    pub(super) stdout: Option<BorrowedFd<'a>>,
}

/// The fork server of a worker, as its users see it: one that is gone is started again.
#[derive(Debug)]
pub(super) struct ForkServer {
    name: &'static str,
    running: Mutex<Option<Running>>,
}

impl ForkServer {
    /// Starts it.
    pub(super) fn new(workers: &Workers, name: &'static str) -> Self {
        let running = Running::start(workers, name);
        if let Err(error) = &running {
            tracing::debug!(name, %error, "cannot start a fork server");
        }
        Self { name, running: Mutex::new(running.ok()) }
    }

    /// Has the worker forked; returns its number. One that ends while it forks is not asked twice: its fork may be at work.
    pub(super) fn begin(&self, workers: &Workers, work: &Work<'_>) -> io::Result<Pid> {
        let text: Vec<u8> = work.args.iter().flat_map(|arg| arg.as_bytes().iter().copied().chain([0])).collect();
        let length = i32::try_from(text.len()).ok().filter(|length| length.unsigned_abs() <= MESSAGE_MAX);
        let length = length.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "too many arguments"))?;
        let streams: Vec<RawFd> = [Some(work.stdin), work.stdout].iter().flatten().map(AsRawFd::as_raw_fd).collect();
        let mut kept = self.lock();
        let heard = kept.take().and_then(|running| match running.send(length, &text, &streams) {
            Ok(()) => Some(running),
            Err(error) => {
                tracing::debug!(name = self.name, %error, "a fork server is gone");
                running.give_up();
                None
            }
        });
        let running = match heard {
            Some(running) => running,
            None => {
                let running = Running::start(workers, self.name)?;
                running.send(length, &text, &streams)?;
                running
            }
        };
        match running.answer() {
            Ok(answer) => {
                *kept = Some(running);
                if answer > 0 { Ok(Pid::from_raw(answer)) } else { Err(io::Error::from_raw_os_error(-answer)) }
            }
            Err(error) => {
                running.give_up();
                Err(error)
            }
        }
    }

    /// Kills a fork and returns when it is gone. It has ended, or the fork server has: done already.
    pub(super) fn end(&self, pid: Pid) {
        let kept = self.lock();
        let Some(running) = kept.as_ref() else { return };
        if let Err(error) = running.send(-pid.as_raw(), &[], &[]).and_then(|()| running.answer()) {
            tracing::debug!(name = self.name, %error, "a fork server does not answer");
        }
    }

    /// What it holds is replaced as a whole: it is as good after a panic.
    fn lock(&self) -> MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
struct Running {
    child: Child,
    socket: UnixStream,
}

impl Running {
    fn start(workers: &Workers, name: &str) -> io::Result<Self> {
        let (socket, theirs) = UnixStream::pair()?;
        socket.set_read_timeout(Some(ANSWER_WAIT))?;
        let mut command = workers.command(name);
        command.arg(WORD).current_dir("/").stdin(OwnedFd::from(theirs)).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Self { child: command.spawn()?, socket })
    }

    /// Ends one that does not answer: its forks go on.
    fn give_up(mut self) {
        let _ended = self.child.kill().and_then(|()| self.child.wait());
    }

    /// One request: a number, what follows it, and descriptors.
    fn send(&self, number: i32, text: &[u8], streams: &[RawFd]) -> io::Result<()> {
        let rights = [ControlMessage::ScmRights(streams)];
        let rights = if streams.is_empty() { &[][..] } else { &rights };
        let head = number.to_ne_bytes();
        let sent =
            sendmsg::<()>(self.socket.as_raw_fd(), &[IoSlice::new(&head)], rights, MsgFlags::MSG_NOSIGNAL, None)?;
        if sent != NUMBER {
            return Err(io::ErrorKind::WriteZero.into());
        }
        (&self.socket).write_all(text)
    }

    /// What it says to a request: a fork's number, or an errno below zero.
    fn answer(&self) -> io::Result<i32> {
        let mut answer = [0; NUMBER];
        (&self.socket).read_exact(&mut answer)?;
        Ok(i32::from_ne_bytes(answer))
    }
}

/// See [`super::args`].
pub(super) fn given(args: Vec<OsString>) -> io::Result<Vec<OsString>> {
    if args != [WORD] {
        return Ok(args);
    }
    sys::close_inherited();
    sys::ignore_pipe_only();
    // Signals to its program's terminal are not for it.
    nix::unistd::setsid()?;
    let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let Fork { args, streams } = serve(&socket)?;
    drop(socket);
    let mut streams = streams.into_iter();
    if let Some(stdin) = streams.next() {
        nix::unistd::dup2_stdin(stdin)?;
    }
    if let Some(stdout) = streams.next() {
        nix::unistd::dup2_stdout(stdout)?;
    }
    sys::set_title(&args);
    Ok(args)
}

/// What a fork is to do.
#[derive(Debug)]
struct Fork {
    args: Vec<OsString>,
    streams: Vec<OwnedFd>,
}

/// What a fork server is asked.
#[derive(Debug)]
enum Request {
    Fork(Fork),
    /// To kill a fork.
    End(Pid),
}

/// The fork server: it returns in its forks, and with an error when nobody needs it any more.
fn serve(mut socket: &UnixStream) -> io::Result<Fork> {
    let during_wait = sys::hold_child_signal()?;
    loop {
        while matches!(waitpid(None, Some(WaitPidFlag::WNOHANG)), Ok(status) if status != WaitStatus::StillAlive) {}
        let mut descriptors = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
        match ppoll(&mut descriptors, None, Some(during_wait)) {
            Ok(_) => {}
            Err(Errno::EINTR) => continue,
            Err(errno) => return Err(errno.into()),
        }
        let answer = match receive(socket)? {
            Request::End(pid) => end(pid),
            Request::Fork(fork) => match sys::split() {
                Ok(None) => {
                    sys::release_child_signal()?;
                    super::FORKED.store(true, std::sync::atomic::Ordering::Relaxed);
                    return Ok(fork);
                }
                Ok(Some(pid)) => pid.as_raw(),
                Err(error) => -error.raw_os_error().unwrap_or(libc::EIO),
            },
        };
        socket.write_all(&answer.to_ne_bytes())?;
    }
}

/// Kills a child; a number that is no child's (any more) is nobody's.
fn end(pid: Pid) -> i32 {
    if matches!(waitpid(pid, Some(WaitPidFlag::WNOHANG)), Ok(WaitStatus::StillAlive)) {
        let _ended = kill(pid, Signal::SIGKILL).and_then(|()| waitpid(pid, None));
    }
    0
}

fn receive(mut socket: &UnixStream) -> io::Result<Request> {
    let mut head = [0; NUMBER];
    let mut streams = Vec::new();
    let mut space = nix::cmsg_space!([RawFd; 2]);
    let received = {
        let mut vector = [IoSliceMut::new(&mut head)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let message = recvmsg::<()>(socket.as_raw_fd(), &mut vector, Some(&mut space), flags)?;
        for control in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(descriptors) = control {
                streams.extend(descriptors.into_iter().map(sys::own));
            }
        }
        message.bytes
    };
    let number = i32::from_ne_bytes(head);
    if received == NUMBER && number < 0 {
        return Ok(Request::End(Pid::from_raw(-number)));
    }
    if received != NUMBER || streams.is_empty() || number.unsigned_abs() > MESSAGE_MAX {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut text = vec![0; number.unsigned_abs() as usize];
    socket.read_exact(&mut text)?;
    let args = text.split_inclusive(|byte| *byte == 0).map(|arg| OsString::from_vec(arg[..arg.len() - 1].to_vec()));
    Ok(Request::Fork(Fork { args: args.collect(), streams }))
}
