//! The client of a soak that pulls and removes an image in a loop, while the registry comes and goes.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use proto::v1::{ImageSpec, RemoveImageRequest};
use tonic::{Code, Status};

use super::{PATIENCE, POLL, Scene, away_since};
use crate::client::Client;
use crate::images::HTTPD;

/// The pause between two pulls.
const PAUSE: Duration = Duration::from_secs(1);

/// A puller.
pub(super) struct Puller<'a> {
    scene: &'a Scene<'a>,
    client: Client,
}

impl<'a> Puller<'a> {
    pub(super) fn new(scene: &'a Scene<'a>) -> Self {
        Self { scene, client: scene.client() }
    }

    pub(super) fn run(&self) {
        while self.scene.goes_on() {
            let pulled = self
                .again("RemoveImage", || self.remove())
                .and_then(|()| self.again("PullImage", || self.client.pull(HTTPD)));
            match pulled {
                Ok(_) => self.scene.tally().pulls += 1,
                Err(error) => self.scene.tally().lost.push(format!("{HTTPD}: {error:#}")),
            }
            std::thread::sleep(PAUSE);
        }
    }

    fn remove(&self) -> Result<(), Status> {
        let image = Some(ImageSpec { image: HTTPD.to_owned(), ..ImageSpec::default() });
        self.client.call(self.client.image().remove_image(RemoveImageRequest { image })).map(drop)
    }

    /// Retries a call until it succeeds; only an error that a fault explains is retried.
    fn again<T>(&self, what: &str, call: impl Fn() -> Result<T, Status>) -> Result<T> {
        let start = Instant::now();
        loop {
            let then = [&self.scene.server, &self.scene.registry].map(|count| (count, count.load(Ordering::SeqCst)));
            let status = match call() {
                Ok(answer) => return Ok(answer),
                Err(status) => status,
            };
            let away = then.iter().any(|(count, then)| away_since(count, *then));
            let explained = away || status.code() == Code::Unavailable;
            ensure!(explained && start.elapsed() < PATIENCE, "{what}: {status}");
            std::thread::sleep(POLL);
        }
    }
}
