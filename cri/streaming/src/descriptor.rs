//! Asynchronous reads and writes of pipes, sockets and terminals. tokio's pipe ends serve for all of them: they do nothing but
//! read(2), write(2) and wait, and need no unsafe, unlike its `AsyncFd`.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use tokio::net::unix::pipe;

use super::wire::Chunk;

fn non_blocking(descriptor: OwnedFd) -> io::Result<OwnedFd> {
    let flags = OFlag::from_bits_retain(fcntl(descriptor.as_fd(), FcntlArg::F_GETFL)?);
    fcntl(descriptor.as_fd(), FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(descriptor)
}

/// A descriptor that is read without blocking.
#[derive(Debug)]
pub(super) struct Source(pipe::Receiver);

impl Source {
    /// Takes a descriptor over and sets it non-blocking.
    ///
    /// # Errors
    /// The descriptor cannot be polled (a regular file).
    pub(super) fn new(descriptor: OwnedFd) -> io::Result<Self> {
        Ok(Self(pipe::Receiver::from_owned_fd_unchecked(non_blocking(descriptor)?)?))
    }

    /// Reads available bytes into the chunk. 0: end of file, which a terminal whose peer has closed reports as EIO (pty(4)).
    ///
    /// # Errors
    /// The descriptor cannot be read.
    pub(super) async fn read(&self, chunk: &mut Chunk) -> io::Result<usize> {
        loop {
            self.0.readable().await?;
            match chunk.fill(|space| self.0.try_read(space)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.raw_os_error() == Some(Errno::EIO as i32) => return Ok(0),
                other => return other,
            }
        }
    }

    /// Waits until a read would not block.
    ///
    /// # Errors
    /// The descriptor cannot be polled.
    pub(super) async fn readable(&self) -> io::Result<()> {
        self.0.readable().await
    }
}

/// A descriptor that is written without blocking. Dropping it closes it.
#[derive(Debug)]
pub(super) struct Sink(pipe::Sender);

impl Sink {
    /// Takes a descriptor over and sets it non-blocking.
    ///
    /// # Errors
    /// The descriptor cannot be polled (a regular file).
    pub(super) fn new(descriptor: OwnedFd) -> io::Result<Self> {
        Ok(Self(pipe::Sender::from_owned_fd_unchecked(non_blocking(descriptor)?)?))
    }

    /// Writes all of it.
    ///
    /// # Errors
    /// Nobody reads any more.
    pub(super) async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            self.0.writable().await?;
            match self.0.try_write(bytes) {
                Ok(written) => bytes = &bytes[written..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Ends the writing side of a socket, even where another descriptor keeps the socket open.
    ///
    /// # Errors
    /// It is not a connected socket.
    pub(super) fn shut(&self) -> io::Result<()> {
        socket2::SockRef::from(&self.0).shutdown(std::net::Shutdown::Write)
    }
}

/// Splits a socket into its two directions.
///
/// # Errors
/// No descriptor is left, or this one cannot be polled.
pub(super) fn both(socket: OwnedFd) -> io::Result<(Source, Sink)> {
    let again = socket.try_clone()?;
    Ok((Source::new(again)?, Sink::new(socket)?))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::net::UnixStream;

    use super::{Chunk, Source, both};

    #[tokio::test]
    async fn what_is_written_is_read_and_the_end_is_seen() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let (source, sink) = both(ours.into()).unwrap();
        let mut chunk = Chunk::default();
        theirs.write_all(b"abc").unwrap();
        assert_eq!(source.read(&mut chunk).await.unwrap(), 3);
        assert_eq!(chunk.payload(), b"abc");
        sink.write_all(b"def").await.unwrap();
        sink.shut().unwrap();
        let theirs = Source::new(theirs.into()).unwrap();
        assert_eq!(theirs.read(&mut chunk).await.unwrap(), 3);
        assert_eq!(theirs.read(&mut chunk).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_regular_file_is_refused() {
        assert!(Source::new(tempfile::tempfile().unwrap().into()).is_err());
    }
}
