//! An error and its causes as one line, printed once at the edge of the program; and whether the host has run out of something,
//! which may pass or be mended by freeing room.

use std::error::Error;
use std::io;

use nix::errno::Errno;

use crate::Several;

/// Errnos of exhaustion: disk space or quota, open files of the system or the process, memory, processes (fork(2)) or threads,
/// socket buffers.
const USED_UP: [Errno; 7] =
    [Errno::ENOSPC, Errno::EDQUOT, Errno::ENFILE, Errno::EMFILE, Errno::ENOMEM, Errno::EAGAIN, Errno::ENOBUFS];

/// Exhaustion that is known from text only: a worker's or a tool's.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Exhausted(pub String);

/// Joins an error and its sources with `: `, leaving out a source whose text the line already ends with.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

/// Whether an error or one of its causes is exhaustion.
#[must_use]
pub fn is_exhausted(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(cause) = next {
        if says_used_up(cause) {
            return true;
        }
        next = cause.source();
    }
    false
}

/// Names the time-out of a socket (SO_RCVTIMEO, SO_SNDTIMEO), whose errno EAGAIN would count as exhaustion; other errors stay.
pub fn late(what: &str) -> impl Fn(io::Error) -> io::Error {
    move |error| match error.kind() {
        io::ErrorKind::WouldBlock => io::Error::new(io::ErrorKind::TimedOut, format!("{what} does not answer")),
        _ => error,
    }
}

fn says_used_up(cause: &(dyn Error + 'static)) -> bool {
    if cause.is::<Exhausted>() {
        return true;
    }
    if let Some(several) = cause.downcast_ref::<Several>() {
        return several.errors().iter().any(|error| is_exhausted(&**error));
    }
    if let Some(errno) = cause.downcast_ref::<Errno>() {
        return USED_UP.contains(errno);
    }
    let Some(error) = cause.downcast_ref::<io::Error>() else { return false };
    match (error.raw_os_error(), error.get_ref()) {
        (Some(number), _) => USED_UP.contains(&Errno::from_raw(number)),
        // The wrapped error is not among its sources.
        (None, Some(wrapped)) => is_exhausted(wrapped),
        (None, None) => false,
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use nix::errno::Errno;

    use super::{Exhausted, chain, is_exhausted, late};

    #[derive(Debug, thiserror::Error)]
    #[error("cannot attach pod 4f1c")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn causes_follow_their_error_once() {
        let error = Outer(std::io::Error::other("no such bridge"));
        assert_eq!(chain(&error), "cannot attach pod 4f1c: no such bridge");
    }

    #[test]
    fn a_socket_that_stays_silent_is_late_and_not_used_up() {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(std::time::Duration::from_millis(1))).unwrap();
        let read = || io::Read::read(&mut &ours, &mut [0]);
        let error = read().map_err(late("the worker")).unwrap_err();
        assert_eq!(chain(&error), "the worker does not answer");
        assert!(!is_exhausted(&error) && error.kind() == io::ErrorKind::TimedOut);
        drop(theirs);
        assert_eq!(read().map_err(late("the worker")).unwrap(), 0);
        let other = late("the worker")(io::Error::from_raw_os_error(Errno::EPIPE as i32));
        assert_eq!(other.raw_os_error(), Some(Errno::EPIPE as i32));
    }

    #[test]
    fn what_is_used_up_is_seen_below_every_wrapping() {
        let raw = |errno: Errno| io::Error::from_raw_os_error(errno as i32);
        for errno in [Errno::ENOSPC, Errno::EMFILE, Errno::ENFILE, Errno::EAGAIN] {
            assert!(is_exhausted(&errno) && is_exhausted(&raw(errno)) && is_exhausted(&Outer(raw(errno))), "{errno}");
            assert!(is_exhausted(&Outer(io::Error::other(Outer(raw(errno))))), "{errno}");
        }
        assert!(is_exhausted(&Outer(io::Error::other(Exhausted("no room".to_owned())))));
        assert!(!is_exhausted(&Errno::EPERM) && !is_exhausted(&raw(Errno::EIO)) && !is_exhausted(&raw(Errno::EBUSY)));
        assert!(!is_exhausted(&Outer(io::Error::other("no room, says a text"))));
    }
}
