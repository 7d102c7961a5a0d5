//! The output of a process, collected to its end without blocking and up to a limit; what is beyond is read and dropped, so
//! that the process is not held up.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// How much is read at a time, in bytes: a pipe holds that much.
const CHUNK: usize = 64 << 10;

/// A descriptor that is read without blocking.
///
/// # Errors
/// It cannot be polled: it is a regular file.
#[expect(deprecated, reason = "its successor is unsafe for types whose descriptor may change; a File's does not")]
pub fn awaited(descriptor: OwnedFd) -> io::Result<AsyncFd<File>> {
    let flags = OFlag::from_bits_retain(fcntl(descriptor.as_fd(), FcntlArg::F_GETFL)?);
    fcntl(descriptor.as_fd(), FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    AsyncFd::with_interest(File::from(descriptor), Interest::READABLE)
}

/// Reads to the end and keeps the first `limit` bytes.
///
/// # Errors
/// The descriptor cannot be polled or read.
pub async fn capture(descriptor: OwnedFd, limit: usize) -> io::Result<Vec<u8>> {
    let file = awaited(descriptor)?;
    let mut kept = Vec::new();
    let mut chunk = vec![0; CHUNK];
    loop {
        match file.async_io(Interest::READABLE, |mut file| file.read(&mut chunk)).await? {
            0 => return Ok(kept),
            count => kept.extend_from_slice(&chunk[..count.min(limit.saturating_sub(kept.len()))]),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::net::UnixStream;

    use super::capture;

    #[tokio::test]
    async fn the_beginning_is_kept_and_the_rest_is_read() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let writer = std::thread::spawn(move || theirs.write_all(&vec![b'x'; 1 << 20]).unwrap());
        assert_eq!(capture(ours.into(), 1000).await.unwrap(), vec![b'x'; 1000]);
        writer.join().unwrap();
    }
}
