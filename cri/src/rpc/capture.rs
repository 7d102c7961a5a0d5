//! Collects the output of a process without blocking, up to a limit. Output beyond it is read and dropped, so that the process
//! does not wait for its reader.

use std::io::{self, Read as _};
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio_util::sync::CancellationToken;

use crate::lifecycle::exits::make_awaitable;

/// The size of a read, in bytes: what a pipe holds.
const CHUNK: usize = 64 << 10;

/// Reads to the end, or until `enough` is cancelled, and keeps the first `limit` bytes.
pub(crate) async fn capture(descriptor: OwnedFd, limit: usize, enough: &CancellationToken) -> io::Result<Vec<u8>> {
    let file = make_awaitable(descriptor)?;
    let mut kept = Vec::new();
    let mut chunk = vec![0; CHUNK];
    loop {
        let (read, is_last) = tokio::select! {
            biased;
            // A chunk holds all that the pipe still has.
            () = enough.cancelled() => (file.get_ref().read(&mut chunk).unwrap_or(0), true),
            read = file.async_io(Interest::READABLE, |mut file| file.read(&mut chunk)) => (read?, false),
        };
        kept.extend_from_slice(&chunk[..read.min(limit.saturating_sub(kept.len()))]);
        if read == 0 || is_last {
            return Ok(kept);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::net::UnixStream;

    use tokio_util::sync::CancellationToken;

    use super::capture;

    #[tokio::test]
    async fn the_beginning_is_kept_and_the_rest_is_read() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let writer = std::thread::spawn(move || theirs.write_all(&vec![b'x'; 1 << 20]).unwrap());
        assert_eq!(capture(ours.into(), 1000, &CancellationToken::new()).await.unwrap(), vec![b'x'; 1000]);
        writer.join().unwrap();
    }

    #[tokio::test]
    async fn a_writer_without_end_is_left_when_it_is_enough() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let writer = std::thread::spawn(move || while theirs.write_all(b"more").is_ok() {});
        let enough = CancellationToken::new();
        let told = enough.clone();
        let reader = tokio::spawn(async move { capture(ours.into(), 1000, &told).await });
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        enough.cancel();
        let kept = reader.await.unwrap().unwrap();
        assert!(kept.len() <= 1000 && b"more".repeat(250).starts_with(&kept), "{} bytes", kept.len());
        writer.join().unwrap();
    }

    #[tokio::test]
    async fn what_was_written_before_it_was_enough_is_kept() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(b"before").unwrap();
        let enough = CancellationToken::new();
        enough.cancel();
        assert_eq!(capture(ours.into(), 1000, &enough).await.unwrap(), b"before");
        drop(theirs);
    }
}
