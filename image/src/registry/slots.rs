//! Limits of concurrent downloads: for each host, and in all.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use reqwest::Url;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::locks::hold;

/// Downloads from one host: browsers take six, and a registry sees many nodes.
const OF_HOST: usize = 6;
/// Downloads in all: bounds connections and the memory of their pieces.
const IN_ALL: usize = 24;

/// See the module's description.
#[derive(Debug)]
pub(crate) struct Slots {
    hosts: Mutex<HashMap<String, Arc<Semaphore>>>,
    all: Arc<Semaphore>,
}

impl Default for Slots {
    fn default() -> Self {
        Self { hosts: Mutex::default(), all: Arc::new(Semaphore::new(IN_ALL)) }
    }
}

impl Slots {
    /// Waits for a slot at a host. Those who wait longest come first.
    pub(super) async fn take(&self, base: &Url) -> [OwnedSemaphorePermit; 2] {
        let host = {
            let mut hosts = hold(&self.hosts);
            let name = base.origin().ascii_serialization();
            // Nobody waits for one that has no other owner.
            hosts.retain(|other, slots| *other == name || Arc::strong_count(slots) > 1);
            Arc::clone(hosts.entry(name).or_insert_with(|| Arc::new(Semaphore::new(OF_HOST))))
        };
        // The host's first: those who wait for a busy host keep nobody from others.
        let host = host.acquire_owned().await.expect("it is never closed");
        [host, Arc::clone(&self.all).acquire_owned().await.expect("it is never closed")]
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use reqwest::Url;

    use super::{IN_ALL, OF_HOST, Slots};

    #[tokio::test]
    async fn a_host_and_all_hosts_have_their_limits() {
        let slots = Slots::default();
        let wait = async |n: usize| {
            let host = Url::parse(&format!("http://h{n}/v2")).unwrap();
            tokio::time::timeout(Duration::from_millis(20), slots.take(&host)).await
        };
        let mut taken = Vec::new();
        for _ in 0..OF_HOST {
            taken.push(wait(0).await.unwrap());
        }
        assert!(wait(0).await.is_err());
        for n in OF_HOST..IN_ALL {
            taken.push(wait(n).await.unwrap());
        }
        assert!(wait(1).await.is_err());
        taken.truncate(OF_HOST - 1);
        drop(wait(0).await.unwrap());
    }
}
