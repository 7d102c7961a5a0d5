//! Workers that were started before there is anything for them to do. Such a one waits on its standard input, a socket, for
//! one message with its arguments and its standard streams, and goes on as if it had been started with them. It ends when
//! its server does.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

use super::{Workers, sys};

/// The one argument of a worker that waits.
const WAIT: &str = "--ahead";
/// How long after one was used the next is started: whoever used it is to be done first.
const PAUSE: Duration = Duration::from_millis(100);
/// The largest message, in bytes: arguments are a few paths.
const MESSAGE_MAX: u32 = 64 << 10;
/// The bytes before the arguments that say how many follow.
const LENGTH: usize = size_of::<u32>();

/// What a worker gets to do.
pub(super) struct Work<'a> {
    pub(super) args: &'a [&'a OsStr],
    pub(super) stdin: BorrowedFd<'a>,
    pub(super) stdout: Option<BorrowedFd<'a>>,
}

/// The workers that wait, by their names.
#[derive(Debug, Default)]
pub(super) struct Ahead(Mutex<BTreeMap<&'static str, Slot>>);

#[derive(Debug)]
enum Slot {
    Empty,
    /// Somebody is about to fill it.
    Starting,
    Waiting(Waiting),
}

#[derive(Debug)]
struct Waiting {
    child: Child,
    socket: UnixStream,
}

impl Ahead {
    pub(super) fn keep(&self, name: &'static str) {
        self.lock().entry(name).or_insert(Slot::Empty);
    }

    /// Hands the work to the worker that waits, if one does, and has the next one started.
    pub(super) fn begin(&self, workers: &Workers, name: &str, work: &Work<'_>) -> Option<Child> {
        let (name, waiting) = self.take(name)?;
        let workers = workers.clone();
        let refill = std::thread::Builder::new().spawn(move || {
            std::thread::sleep(PAUSE);
            workers.ahead.fill(&workers, name);
        });
        if refill.is_err() {
            // Without a thread the next use tries it again.
            self.lock().insert(name, Slot::Empty);
        }
        let Waiting { mut child, socket } = waiting?;
        match send(&socket, work) {
            Ok(()) => Some(child),
            Err(error) => {
                tracing::debug!(name, %error, "a worker that was started ahead is gone");
                let _ended = child.kill().and_then(|()| child.wait());
                None
            }
        }
    }

    /// Takes the one that waits and leaves the place to whoever fills it; None: nobody has to, or somebody does already.
    fn take(&self, name: &str) -> Option<(&'static str, Option<Waiting>)> {
        let mut kept = self.lock();
        let name = *kept.get_key_value(name)?.0;
        match kept.insert(name, Slot::Starting)? {
            Slot::Starting => None,
            Slot::Empty => Some((name, None)),
            Slot::Waiting(waiting) => Some((name, Some(waiting))),
        }
    }

    fn fill(&self, workers: &Workers, name: &'static str) {
        let slot = match start(workers, name) {
            Ok(waiting) => Slot::Waiting(waiting),
            Err(error) => {
                tracing::debug!(name, %error, "cannot start a worker ahead");
                Slot::Empty
            }
        };
        self.lock().insert(name, slot);
    }

    /// Each change of the map is one call: it is as good after a panic.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, Slot>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn start(workers: &Workers, name: &str) -> io::Result<Waiting> {
    let (socket, theirs) = UnixStream::pair()?;
    let mut command = workers.command(name);
    command.arg(WAIT).current_dir("/").stdin(OwnedFd::from(theirs)).stdout(Stdio::null()).stderr(Stdio::null());
    Ok(Waiting { child: command.spawn()?, socket })
}

/// Sends arguments, each ended by a zero byte, and the standard streams.
fn send(mut socket: &UnixStream, work: &Work<'_>) -> io::Result<()> {
    let text: Vec<u8> = work.args.iter().flat_map(|arg| arg.as_bytes().iter().copied().chain([0])).collect();
    let length = u32::try_from(text.len()).ok().filter(|length| *length <= MESSAGE_MAX);
    let length = length.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "too many arguments"))?;
    let streams: Vec<RawFd> = [Some(work.stdin), work.stdout].iter().flatten().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&streams)];
    let head = length.to_ne_bytes();
    let sent = sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(&head)], &rights, MsgFlags::empty(), None)?;
    if sent != LENGTH {
        return Err(io::ErrorKind::WriteZero.into());
    }
    socket.write_all(&text)
}

/// See [`super::args`].
pub(super) fn given(args: Vec<OsString>) -> io::Result<Vec<OsString>> {
    if args != [WAIT] {
        return Ok(args);
    }
    let (args, streams) = receive(UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?))?;
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

fn receive(mut socket: UnixStream) -> io::Result<(Vec<OsString>, Vec<OwnedFd>)> {
    let mut head = [0; LENGTH];
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
    let length = u32::from_ne_bytes(head);
    if received != LENGTH || streams.is_empty() || length > MESSAGE_MAX {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut text = vec![0; length as usize];
    socket.read_exact(&mut text)?;
    let args = text.split_inclusive(|byte| *byte == 0).map(|arg| OsString::from_vec(arg[..arg.len() - 1].to_vec()));
    Ok((args.collect(), streams))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::io::{Read, Write};
    use std::os::fd::{AsFd, OwnedFd};
    use std::os::unix::net::UnixStream;

    use super::{Work, receive, send};

    #[test]
    fn arguments_and_streams_arrive_as_they_were_sent() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (mut reader, stdin) = std::io::pipe().unwrap();
        let args = [OsStr::new("/a path"), OsStr::new(""), OsStr::new("word")];
        let work = Work { args: &args, stdin: stdin.as_fd(), stdout: Some(stdin.as_fd()) };
        send(&ours, &work).unwrap();
        drop(stdin);
        let (received, streams) = receive(theirs).unwrap();
        assert_eq!(received, args);
        assert_eq!(streams.len(), 2);
        for stream in streams {
            std::fs::File::from(stream).write_all(b"x").unwrap();
        }
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "xx");
    }

    #[test]
    fn a_server_that_is_gone_has_nothing_to_do() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(OwnedFd::from(ours));
        assert!(receive(theirs).is_err());
    }
}
