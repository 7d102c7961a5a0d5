//! A layer that still arrives: a file that grows, and a socket that tells how much of it is there.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

/// See the module's description.
pub(super) struct Follow {
    file: File,
    socket: File,
    at: u64,
    there: u64,
    total: u64,
}

impl Follow {
    /// Waits for the first message: how large the file will be.
    pub(super) fn open(file: File, socket: OwnedFd) -> io::Result<Self> {
        let mut follow = Self { file, socket: socket.into(), at: 0, there: 0, total: 0 };
        follow.total = follow.told()?;
        Ok(follow)
    }

    /// Bytes of the whole file.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// Waits for a message: eight bytes, the least significant first. The end of the messages is an error.
    fn told(&mut self) -> io::Result<u64> {
        let mut message = [0; 8];
        self.socket.read_exact(&mut message)?;
        // The time that the worker may take counts from here: a download takes as long as it makes progress.
        nix::unistd::alarm::set(super::TIME_MAX);
        Ok(u64::from_le_bytes(message))
    }
}

impl Read for Follow {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.there && self.at < self.total {
            self.there = self.told()?.clamp(self.there, self.total);
        }
        let wanted = usize::try_from(self.there - self.at).map_or(buffer.len(), |there| there.min(buffer.len()));
        match self.file.read_at(&mut buffer[..wanted], self.at)? {
            0 if wanted > 0 => Err(io::ErrorKind::UnexpectedEof.into()),
            read => {
                self.at += read as u64;
                Ok(read)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::Follow;

    #[test]
    fn no_byte_is_read_before_it_is_there() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"hello, and what is no part of it").unwrap();
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let tell = |pipe: &mut UnixStream, bytes: u64| pipe.write_all(&bytes.to_le_bytes()).unwrap();
        tell(&mut ours, 5);
        tell(&mut ours, 2);
        let mut follow = Follow::open(file.try_clone().unwrap(), theirs.into()).unwrap();
        assert_eq!(follow.total(), 5);
        let mut buffer = [0; 16];
        assert_eq!(follow.read(&mut buffer).unwrap(), 2);
        // Less than before, and more than everything.
        tell(&mut ours, 1);
        tell(&mut ours, 100);
        assert_eq!(follow.read(&mut buffer).unwrap(), 3);
        assert_eq!(&buffer[..3], b"llo");
        assert_eq!(follow.read(&mut buffer).unwrap(), 0);
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        tell(&mut ours, 5);
        let mut follow = Follow::open(file, theirs.into()).unwrap();
        drop(ours);
        assert_eq!(follow.read(&mut buffer).unwrap_err().kind(), std::io::ErrorKind::UnexpectedEof);
    }
}
