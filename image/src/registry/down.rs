//! Hosts that could not be reached lately: as long as there are others, they are asked last.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use reqwest::Url;

use crate::locks::hold;

/// How long a host counts as down: one dial time-out a minute, not one for each manifest and layer.
const DOWN: Duration = Duration::from_secs(60);
/// Hosts that are remembered.
const HOSTS_MAX: usize = 1024;

/// Origins (scheme, host and port), and until when each counts as down.
#[derive(Debug, Default)]
pub(crate) struct Down(Mutex<HashMap<String, Instant>>);

impl Down {
    /// Remembers a host that could not be reached.
    pub(super) fn note(&self, base: &Url) {
        let mut hosts = hold(&self.0);
        let now = Instant::now();
        hosts.retain(|_, until| *until > now);
        if hosts.len() < HOSTS_MAX {
            hosts.insert(base.origin().ascii_serialization(), now + DOWN);
        }
    }

    /// Forgets a host that answers.
    pub(super) fn heard(&self, base: &Url) {
        hold(&self.0).remove(&base.origin().ascii_serialization());
    }

    /// Whether a host counts as down.
    pub(super) fn has(&self, base: &Url) -> bool {
        hold(&self.0).get(&base.origin().ascii_serialization()).is_some_and(|until| *until > Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use reqwest::Url;

    use super::Down;

    #[test]
    fn a_host_is_down_until_it_answers() {
        let (down, url) = (Down::default(), |text| Url::parse(text).unwrap());
        down.note(&url("http://a:5000/v2"));
        assert!(down.has(&url("http://a:5000/other")) && !down.has(&url("http://a/v2")));
        down.heard(&url("http://a:5000/v2"));
        assert!(!down.has(&url("http://a:5000/v2")));
    }
}
