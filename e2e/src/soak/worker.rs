//! A client of a soak: in a loop it makes a pod with containers, uses them, compares their state with the first one, and removes
//! them. Every difference is a loss.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use proto::v1::ContainerState;

use super::calls::{Caller, Made};
use super::pod::{COUNTER, STOPPED, counted};
use super::{PATIENCE, POLL, Scene};
use crate::process::kill_worker;
use crate::random::Random;

/// A worker.
pub(super) struct Worker<'a> {
    calls: Caller<'a>,
    number: u64,
    made: u64,
}

/// A container that counts, with its first status.
struct Counter {
    id: String,
    started_at: i64,
    log: PathBuf,
}

impl<'a> Worker<'a> {
    pub(super) fn new(scene: &'a Scene<'a>, number: u64, random: Random) -> Self {
        Self { calls: Caller { scene, client: scene.client(), random }, number, made: 0 }
    }

    pub(super) fn run(mut self) {
        let scene = self.calls.scene;
        while scene.goes_on() {
            self.made += 1;
            let name = format!("soak-{}-{}", self.number, self.made);
            match self.cycle(&name) {
                Ok(()) => scene.tally().cycles += 1,
                Err(error) => scene.tally().lost.push(format!("{name}: {error:#}")),
            }
        }
    }

    fn cycle(&mut self, name: &str) -> Result<()> {
        let made = self.calls.run_pod(name)?;
        let mut counters = Vec::new();
        for number in 0..=self.calls.random.below(2) {
            counters.push(self.counter(&made, &format!("{name}-counter-{number}"))?);
        }
        let (ended, code) = self.exit(&made, &format!("{name}-exit"))?;
        for _ in 0..self.calls.random.below(4) {
            self.exec(&counters[0])?;
            counters.iter().try_for_each(|counter| self.counts_on(counter))?;
        }
        if self.calls.random.one_in(4) {
            self.kill_monitor(&counters.pop().context("there is a counter")?)?;
        }
        for counter in &counters {
            self.counts_on(counter)?;
            self.stop(counter)?;
        }
        ensure!(self.calls.pod(&made.id)?.network == made.network, "the addresses were {:?}", made.network);
        let status = self.calls.container(&ended)?;
        ensure!(status.exit_code == code, "the exit code was {code} and is {}", status.exit_code);
        if self.calls.random.one_in(2) {
            self.calls.stop_pod(&made.id)?;
        }
        self.calls.remove_pod(&made.id)?;
        std::fs::remove_dir_all(&made.config.log_directory).context("cannot remove the logs")
    }

    fn counter(&mut self, made: &Made, name: &str) -> Result<Counter> {
        let id = self.calls.create(made, name, COUNTER)?;
        self.calls.start(&id)?;
        let log = PathBuf::from(&made.config.log_directory).join(format!("{name}.log"));
        let counter = Counter { started_at: self.calls.container(&id)?.started_at, id, log };
        // It counts once its shell has set the trap of SIGTERM.
        self.counts_on(&counter)?;
        Ok(counter)
    }

    /// Checks the exit code of a container that exits by itself.
    fn exit(&mut self, made: &Made, name: &str) -> Result<(String, i32)> {
        let code = i32::try_from(self.calls.random.below(100))?;
        let id = self.calls.create(made, name, &format!("exit {code}"))?;
        self.calls.start(&id)?;
        let status = self.calls.exited(&id)?;
        ensure!(status.exit_code == code, "exit {code} is reported as {} ({})", status.exit_code, status.message);
        Ok((id, code))
    }

    /// Checks that the container is unchanged, and that its log grows without a gap.
    fn counts_on(&mut self, counter: &Counter) -> Result<()> {
        let start = Instant::now();
        let first = log(counter)?;
        while log(counter)? == first {
            ensure!(start.elapsed() < PATIENCE, "container {} counts no more: {first}", counter.id);
            std::thread::sleep(POLL);
        }
        let status = self.calls.container(&counter.id)?;
        ensure!(status.state() == ContainerState::ContainerRunning, "{} is {:?}", counter.id, status.state());
        ensure!(status.started_at == counter.started_at, "container {} was started again", counter.id);
        Ok(())
    }

    fn exec(&mut self, counter: &Counter) -> Result<()> {
        let word = format!("word-{}", self.calls.random.below(1_000_000));
        let answer = self.calls.exec(&counter.id, &format!("echo {word}; exit 9"))?;
        let right = String::from_utf8_lossy(&answer.stdout).trim_end() == word && answer.exit_code == 9;
        ensure!(right, "ExecSync: {answer:?} instead of {word}");
        Ok(())
    }

    /// Checks that a container whose monitor is killed is reported as exited.
    fn kill_monitor(&mut self, counter: &Counter) -> Result<()> {
        kill_worker("hold", &format!("containers/{}", &counter.id[..12]))?;
        self.calls.scene.tally().monitors_killed += 1;
        self.calls.exited(&counter.id)?;
        log(counter).map(drop)
    }

    fn stop(&mut self, counter: &Counter) -> Result<()> {
        self.calls.stop(&counter.id)?;
        let status = self.calls.exited(&counter.id)?;
        ensure!(status.exit_code == STOPPED, "a stopped container's exit code is {}", status.exit_code);
        log(counter).map(drop)
    }
}

/// The last number in its log.
fn log(counter: &Counter) -> Result<u64> {
    let text = std::fs::read_to_string(&counter.log).with_context(|| format!("no log {}", counter.log.display()))?;
    counted(&text).with_context(|| format!("the log of container {}", counter.id))
}
