//! The requests behind the URLs that were handed out. Each is kept for a minute and handed out once, to a client that knows its token.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How long a URL is valid: kubelet and crictl use it at once.
const LIFETIME: Duration = Duration::from_secs(60);
/// Unused URLs, as many as in kubelet's own streaming server.
const LIMIT: usize = 1000;
/// Random bytes of a token.
const BYTES: usize = 16;

/// Requests by their tokens.
#[derive(Debug)]
pub(super) struct Tokens<T>(Mutex<HashMap<String, (Instant, T)>>);

impl<T> Default for Tokens<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> Tokens<T> {
    /// Keeps a request and returns its token; None: there are too many.
    ///
    /// # Panics
    /// When the operating system gives no random bytes: no URL can be safe then.
    pub(super) fn insert(&self, request: T) -> Option<String> {
        let mut bytes = [0; BYTES];
        getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
        let token = hex::encode(bytes);
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        entries.retain(|_, (due, _)| *due > now);
        if entries.len() >= LIMIT {
            return None;
        }
        entries.insert(token.clone(), (now + LIFETIME, request));
        Some(token)
    }

    /// Takes the request of a token.
    pub(super) fn take(&self, token: &str) -> Option<T> {
        let (due, request) = self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(token)?;
        (due > Instant::now()).then_some(request)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::{LIFETIME, LIMIT, Tokens};

    #[tokio::test(start_paused = true)]
    async fn a_token_is_good_once_and_for_a_minute() {
        let tokens = Tokens::default();
        let (first, second) = (tokens.insert(1).unwrap(), tokens.insert(2).unwrap());
        assert_ne!(first, second);
        assert_eq!(first.len(), 32);
        assert_eq!(tokens.take(&first), Some(1));
        assert_eq!(tokens.take(&first), None);
        advance(LIFETIME).await;
        assert_eq!(tokens.take(&second), None);
    }

    #[tokio::test(start_paused = true)]
    async fn there_are_not_too_many_and_old_ones_make_room() {
        let tokens = Tokens::default();
        for _ in 0..LIMIT {
            tokens.insert(()).unwrap();
        }
        assert_eq!(tokens.insert(()), None);
        advance(LIFETIME).await;
        assert!(tokens.insert(()).is_some());
    }
}
