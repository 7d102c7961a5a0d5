//! The faults of a soak, one after the other: the server is killed and restarted, and the registry is down for a while.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::{Scene, start};
use crate::process::{Background, resident_kib};
use crate::random::Random;
use crate::registry::Registry;

/// The longest time between two faults, in milliseconds: about a pod's life, so that each pod meets some.
const MOST_QUIET_MS: u64 = 5000;
/// The longest outage of the registry, in milliseconds.
const MOST_AWAY_MS: u64 = 3000;

/// The source of faults.
#[derive(Debug)]
pub(super) struct Chaos<'a> {
    pub(super) server: Option<Background>,
    pub(super) registry: Option<&'a mut Registry>,
    pub(super) random: Random,
}

impl Chaos<'_> {
    /// Causes faults until the soak is over.
    pub(super) fn run(&mut self, scene: &Scene<'_>) -> Result<()> {
        let mut until_outage: u64 = 3;
        while scene.goes_on() {
            self.quiet(scene);
            match &mut self.registry {
                Some(registry) if until_outage == 1 => {
                    until_outage = 1 + self.random.below(6);
                    outage(registry, Duration::from_millis(self.random.below(MOST_AWAY_MS)), scene)?;
                }
                _ => {
                    until_outage = (until_outage - 1).max(1);
                    self.restart(scene)?;
                }
            }
        }
        Ok(())
    }

    fn quiet(&mut self, scene: &Scene<'_>) {
        let end = Instant::now() + Duration::from_millis(self.random.below(MOST_QUIET_MS));
        while scene.goes_on() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn restart(&mut self, scene: &Scene<'_>) -> Result<()> {
        let Some(server) = self.server.take() else { return Ok(()) };
        let memory = resident_kib(server.pid())?;
        scene.server.fetch_add(1, Ordering::SeqCst);
        server.kill()?;
        let (server, took) = start(scene.site, &scene.client())?;
        scene.server.fetch_add(1, Ordering::SeqCst);
        self.server = Some(server);
        let mut tally = scene.tally();
        tally.restarts.push(took);
        tally.memory_kib[1] = tally.memory_kib[1].max(memory);
        Ok(())
    }
}

fn outage(registry: &mut Registry, away: Duration, scene: &Scene<'_>) -> Result<()> {
    scene.registry.fetch_add(1, Ordering::SeqCst);
    registry.kill()?;
    std::thread::sleep(away);
    registry.restart()?;
    scene.registry.fetch_add(1, Ordering::SeqCst);
    scene.tally().outages += 1;
    Ok(())
}
