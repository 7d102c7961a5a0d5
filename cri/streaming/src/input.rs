//! The receive buffer of one stream, between the connection's reader and the stream's consumer. It is bounded, and the two
//! sides swap buffers, so that a frame costs no allocation.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

#[derive(Debug, Default)]
struct State {
    buffer: Vec<u8>,
    is_finished: bool,
    is_reset: bool,
    is_abandoned: bool,
}

#[derive(Debug)]
struct Shared {
    capacity: usize,
    state: Mutex<State>,
    filled: Notify,
    emptied: Notify,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The end that the connection's reader fills.
#[derive(Debug, Clone)]
pub(crate) struct InputWriter(Arc<Shared>);

/// Called with the number of bytes that the consumer has finished, for the sender's window.
pub(crate) type OnConsumed = Box<dyn Fn(usize) + Send + Sync>;

/// The end that the stream's consumer reads. Once it is dropped, what arrives is discarded.
pub struct Input {
    shared: Arc<Shared>,
    /// Bytes that the consumer took last and has not finished.
    taken: usize,
    on_consumed: Option<OnConsumed>,
}

/// The two ends of a buffer of `capacity` bytes.
#[must_use]
pub(crate) fn pair(capacity: usize, on_consumed: Option<OnConsumed>) -> (InputWriter, Input) {
    let shared = Arc::new(Shared { capacity, state: Mutex::default(), filled: Notify::new(), emptied: Notify::new() });
    (InputWriter(shared.clone()), Input { shared, taken: 0, on_consumed })
}

impl InputWriter {
    /// Adds what fits and returns how much that is: all of it when nobody will read it.
    fn try_write(&self, bytes: &[u8]) -> usize {
        let mut state = self.0.lock();
        if state.is_abandoned || state.is_finished || state.is_reset {
            return bytes.len();
        }
        let length = bytes.len().min(self.0.capacity.saturating_sub(state.buffer.len()));
        state.buffer.extend_from_slice(&bytes[..length]);
        self.0.filled.notify_one();
        length
    }

    /// Adds all of it, waiting for room.
    pub(crate) async fn write(&self, mut bytes: &[u8]) {
        loop {
            bytes = &bytes[self.try_write(bytes)..];
            if bytes.is_empty() {
                return;
            }
            self.0.emptied.notified().await;
        }
    }

    /// Marks the end; buffered bytes can still be read.
    pub(crate) fn finish(&self) {
        self.0.lock().is_finished = true;
        self.0.filled.notify_one();
    }

    /// Marks the stream as reset; buffered bytes can still be read.
    pub(crate) fn reset(&self) {
        self.0.lock().is_reset = true;
        self.0.filled.notify_one();
        self.0.emptied.notify_one();
    }
}

impl Input {
    /// Waits for bytes and replaces those in `buffer`, which the consumer has finished, by them. 0: the end.
    ///
    /// # Errors
    /// The stream was reset, or its connection is gone.
    pub async fn fill(&mut self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        buffer.clear();
        let done = std::mem::take(&mut self.taken);
        if let Some(on_consumed) = self.on_consumed.as_ref().filter(|_| done > 0) {
            on_consumed(done);
        }
        loop {
            if let Some(result) = self.take(buffer) {
                return result;
            }
            self.shared.filled.notified().await;
        }
    }

    fn take(&mut self, buffer: &mut Vec<u8>) -> Option<io::Result<usize>> {
        let mut state = self.shared.lock();
        if !state.buffer.is_empty() {
            std::mem::swap(&mut state.buffer, buffer);
            self.shared.emptied.notify_one();
            self.taken = buffer.len();
            return Some(Ok(self.taken));
        }
        if state.is_reset {
            return Some(Err(io::ErrorKind::ConnectionReset.into()));
        }
        state.is_finished.then_some(Ok(0))
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.is_abandoned = true;
        state.buffer = Vec::new();
        self.shared.emptied.notify_one();
    }
}

impl std::fmt::Debug for Input {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Input").field("shared", &self.shared).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::pair;

    #[tokio::test]
    async fn it_holds_its_capacity_and_credits_what_was_consumed() {
        let credited = Arc::new(AtomicUsize::new(0));
        let counter = credited.clone();
        let (input_writer, mut input) = pair(
            4,
            Some(Box::new(move |bytes| counter.store(bytes + counter.load(Ordering::SeqCst), Ordering::SeqCst))),
        );
        assert_eq!(input_writer.try_write(b"abcdef"), 4);
        let pushed = tokio::spawn(async move {
            input_writer.write(b"ef").await;
            input_writer.finish();
        });
        let mut buffer = Vec::new();
        assert_eq!(input.fill(&mut buffer).await.unwrap(), 4);
        assert_eq!((buffer.as_slice(), credited.load(Ordering::SeqCst)), (&b"abcd"[..], 0));
        assert_eq!(input.fill(&mut buffer).await.unwrap(), 2);
        assert_eq!((buffer.as_slice(), credited.load(Ordering::SeqCst)), (&b"ef"[..], 4));
        assert_eq!(input.fill(&mut buffer).await.unwrap(), 0);
        pushed.await.unwrap();
    }

    #[tokio::test]
    async fn without_a_consumer_everything_is_thrown_away() {
        let (input_writer, input) = pair(2, None);
        assert_eq!(input_writer.try_write(b"abc"), 2);
        drop(input);
        input_writer.write(&[0; 1000]).await;
    }

    #[tokio::test]
    async fn a_cut_is_seen_after_what_came_before_it() {
        let (input_writer, mut input) = pair(8, None);
        input_writer.write(b"ab").await;
        input_writer.reset();
        let mut buffer = Vec::new();
        assert_eq!(input.fill(&mut buffer).await.unwrap(), 2);
        assert!(input.fill(&mut buffer).await.is_err());
    }
}
