//! The idle time-out of a connection.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// The time of the last use of a connection.
#[derive(Debug)]
pub(crate) struct Activity {
    start: Instant,
    /// Milliseconds from `start` to the last use.
    last: AtomicU64,
    timeout: Duration,
}

impl Activity {
    /// Starts the clock; the connection is idle `timeout` after its last use.
    #[must_use]
    pub(crate) fn new(timeout: Duration) -> Self {
        Self { start: Instant::now(), last: AtomicU64::new(0), timeout }
    }

    /// Restarts the clock.
    pub(crate) fn touch(&self) {
        let elapsed = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(elapsed, Ordering::Relaxed);
    }

    /// Waits until the connection has been idle for its time-out.
    pub(crate) async fn expired(&self) {
        loop {
            let last = Duration::from_millis(self.last.load(Ordering::Relaxed));
            let due = self.start + last + self.timeout;
            if due <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(due).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::{advance, timeout};

    use super::Activity;

    #[tokio::test(start_paused = true)]
    async fn use_puts_the_end_off() {
        let activity = Activity::new(Duration::from_secs(10));
        advance(Duration::from_secs(9)).await;
        activity.touch();
        assert!(timeout(Duration::from_secs(9), activity.expired()).await.is_err());
        assert!(timeout(Duration::from_secs(2), activity.expired()).await.is_ok());
    }
}
