//! A soak under an administrator who does things to the node at random, while the server is killed now and then. After each of
//! them the pods are right again within [`SETTLE`], or NotReady with a reason; nothing is lost that was not taken away, what is
//! lost can be removed and made anew, and nothing is left at the end. On Linux all of it is in a network and a mount namespace
//! of its own.

mod acts;
mod pods;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use proto::v1::StatusRequest;

use self::acts::{Act, Takes};
use self::pods::Pod;
use super::{PATIENCE, Plan, socket, start};
use crate::client::Client;
use crate::images::{BUSYBOX, HTTPD};
use crate::inventory::Inventory;
use crate::process::{Background, Program};
use crate::random::Random;
use crate::server::Site;
use crate::wait::until;

/// Standing pods: one is aimed at, the others are bystanders.
const PODS: usize = 3;
/// Their first host port.
const FIRST_PORT: u16 = 19_400;
/// Two rounds of the server's reconciler (3 s each) and the looks themselves; an emulated machine takes longer for those.
const SETTLE: Duration =
    Duration::from_secs(if matches!(std::env::consts::OS.as_bytes(), b"freebsd") { 40 } else { 8 });
/// How long an act lasts that is undone: a round of the reconciler.
const LASTS: Duration = Duration::from_secs(4);
/// Bytes of the server's root, a memory file system that can be filled: some copies of the test images.
const ROOT_SIZE: &str = "768m";
/// Set in the process that has namespaces of its own.
const ALONE: &str = "CELLBLOCK_E2E_ALONE";
/// Prepares the machine: the server's root, and on FreeBSD a ruleset that names the anchors of this server.
const PREPARE: &str = "
mkdir -p $DIR/root
mount -t tmpfs -o size=$SIZE tmpfs $DIR/root
if [ $(uname) = FreeBSD ]; then
    printf '%s\\n' \"nat-anchor \\\"$ANCHOR/*\\\"\" \"rdr-anchor \\\"$ANCHOR/*\\\"\" 'pass all' \"anchor \\\"$ANCHOR/*\\\"\" >$DIR/pf.conf
    pfctl -q -f $DIR/pf.conf
fi";

/// Starts this program again in namespaces of its own (Linux), where it may flush rulesets and unmount; does not return then.
///
/// # Errors
/// unshare(1) is missing.
pub fn be_alone() -> Result<()> {
    if std::env::consts::OS != "linux" {
        return Ok(());
    }
    if std::env::var_os(ALONE).is_some() {
        return shell("ip link set lo up", &[]);
    }
    let own = std::env::current_exe()?.into_os_string();
    let words = ["--net", "--mount", "--propagation", "private"].map(Into::into);
    let args = words.into_iter().chain([own]).chain(std::env::args_os().skip(1));
    Err(Program::new("unshare", args).env(ALONE, "1").replace())
}

/// The soak.
struct Hostile<'a> {
    site: &'a Site,
    dataset: String,
    client: Client,
    random: Random,
    server: Option<Background>,
    pods: Vec<Pod>,
    made: usize,
    killed: usize,
    /// For each act, how often it was done and the longest time until the pods were right.
    done: BTreeMap<&'static str, (usize, Duration)>,
    wrong: Vec<String>,
}

/// Runs it on a site without a server.
///
/// # Errors
/// Something was lost or left behind, or the soak could not run.
pub fn run(site: &Site, plan: &Plan) -> Result<()> {
    let seed = plan.seed.unwrap_or_else(Random::fresh_seed);
    println!("e2e soak --hostile --seconds {} --seed {seed}", plan.seconds);
    if std::env::consts::OS == "linux" {
        println!("not done here: a clock that jumps (this machine's clock is not the run's own)");
    }
    shell(PREPARE, &[("DIR", site.dir().display().to_string()), ("ANCHOR", format!("cellblock-{}", site.prefix()))])?;
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let client = Client::new(tokio.handle(), socket(site));
    let mut before = Inventory::take(site)?;
    let (server, _) = start(site, &client)?;
    before.add_directories(site);
    for image in [BUSYBOX, HTTPD] {
        client.pull(image).with_context(|| format!("cannot pull {image}"))?;
    }
    let mut hostile = Hostile {
        site,
        dataset: plan.zfs.clone().unwrap_or_default(),
        client,
        random: Random::new(seed),
        server: Some(server),
        pods: Vec::new(),
        made: 0,
        killed: 0,
        done: BTreeMap::new(),
        wrong: Vec::new(),
    };
    let ended = hostile.soak(Instant::now() + Duration::from_secs(plan.seconds));
    let left = hostile.end(&before);
    hostile.report();
    ended?;
    let left = left?;
    left.iter().for_each(|line| println!("leaked: {line}"));
    ensure!(hostile.wrong.is_empty() && left.is_empty(), "something was lost or leaked");
    Ok(())
}

impl Hostile<'_> {
    /// All acts in a random order, again and again.
    fn soak(&mut self, deadline: Instant) -> Result<()> {
        let acts = acts::all(!self.dataset.is_empty());
        while Instant::now() < deadline {
            let mut order: Vec<&Act> = acts.iter().collect();
            while !order.is_empty() && Instant::now() < deadline {
                let at = usize::try_from(self.random.below(order.len() as u64))?;
                let act = order.swap_remove(at);
                self.complete().with_context(|| format!("before {}", act.name))?;
                self.round(act).with_context(|| act.name)?;
            }
        }
        self.complete()
    }

    /// Makes the pods that are missing.
    fn complete(&mut self) -> Result<()> {
        while self.pods.len() < PODS {
            self.made += 1;
            let port = FIRST_PORT + u16::try_from(self.made % 100)?;
            self.pods.push(Pod::make(self.site, &self.client, &format!("hostile-{}", self.made), port)?);
        }
        // They serve once their processes are up.
        for at in 0..PODS {
            until(PATIENCE, || self.pods[at].look(&self.client, &self.pods[(at + 1) % PODS]))?;
        }
        Ok(())
    }

    fn round(&mut self, act: &Act) -> Result<()> {
        let target = usize::try_from(self.random.below(PODS as u64))?;
        let mut variables = self.pods[target].variables(self.site, &self.client)?;
        variables.push(("DATASET", self.dataset.clone()));
        let dies = self.random.one_in(4);
        println!("{}{}", act.name, if dies { ", while no server runs" } else { "" });
        if dies && let Some(server) = self.server.take() {
            server.kill()?;
            self.killed += 1;
        }
        shell(act.script, &variables)?;
        if dies {
            self.server = Some(start(self.site, &self.client)?.0);
        }
        let gone = (act.takes == Takes::Removed).then(|| self.pods.swap_remove(target));
        if let Some(gone) = &gone {
            self.note(act, "it cannot be removed", until(PATIENCE, || gone.remove(&self.client)));
        }
        if let Some(undo) = act.undo {
            if act.tells {
                self.note(act, "Status", until(SETTLE, || self.network_is_not_ready()));
            }
            std::thread::sleep(LASTS);
            shell(undo, &variables)?;
        }
        let since = Instant::now();
        let target = (gone.is_none() && act.takes != Takes::Nothing).then(|| self.pods.swap_remove(target));
        if let Some(target) = &target {
            self.settle_target(act, target);
        }
        for at in 0..self.pods.len() {
            let other = &self.pods[(at + 1) % self.pods.len()];
            let looked = until(SETTLE.saturating_sub(since.elapsed()), || self.pods[at].look(&self.client, other));
            self.note(act, "a pod that lost nothing", looked);
        }
        let (times, longest) = self.done.entry(act.name).or_default();
        *times += 1;
        *longest = since.elapsed().max(*longest);
        if let Some(target) = target {
            self.note(act, "what is left of it cannot be removed", until(PATIENCE, || target.remove(&self.client)));
        }
        Ok(())
    }

    /// Waits until the loss is told.
    fn settle_target(&mut self, act: &Act, pod: &Pod) {
        let told = match act.takes {
            Takes::Pod => until(SETTLE, || pod.is_gone(&self.client)),
            Takes::Container => until(SETTLE, || pod.lacks_container(&self.client)),
            // Whatever is left of it is removed.
            Takes::Nothing | Takes::Perhaps | Takes::Removed => Ok(()),
        };
        self.note(act, "the loss is not told", told);
    }

    fn network_is_not_ready(&self) -> Result<()> {
        let answer = self.client.call(self.client.runtime().status(StatusRequest::default()))?.into_inner();
        let conditions = answer.status.context("no status")?.conditions;
        let network = conditions.iter().find(|one| one.r#type == "NetworkReady").context("no NetworkReady")?;
        ensure!(!network.status && !network.message.is_empty(), "the network is said to be ready");
        Ok(())
    }

    fn note(&mut self, act: &Act, what: &str, outcome: Result<()>) {
        if let Err(error) = outcome {
            let line = format!("{}: {what}: {error:#}", act.name);
            println!("wrong: {line}");
            self.wrong.push(line);
        }
    }

    /// Removes everything; returns what is left.
    fn end(&mut self, before: &Inventory) -> Result<Vec<String>> {
        if self.server.is_none() {
            self.server = Some(start(self.site, &self.client)?.0);
        }
        for id in self.client.pods()? {
            until(PATIENCE, || Ok(self.client.remove_pod(&id)?)).with_context(|| format!("pod {id} at the end"))?;
        }
        // A start sweeps what was kept for a time, such as datasets that snapshots held.
        let server = self.server.take().context("a server runs")?;
        server.stop()?;
        start(self.site, &self.client)?.0.stop()?;
        let logs = self.site.dir().join("logs");
        std::fs::remove_dir_all(&logs).or_else(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        })?;
        let left = Inventory::left(before, self.site)?;
        shell("umount $DIR/root", &[("DIR", self.site.dir().display().to_string())])?;
        Ok(left)
    }

    fn report(&self) {
        for (name, (times, longest)) in &self.done {
            println!("{times:>4} times, right after {:>5.1} s at most: {name}", longest.as_secs_f32());
        }
        let acts: usize = self.done.values().map(|(times, _)| times).sum();
        println!(
            "{acts} acts, {} kills of the server, {} pods made, {} wrong",
            self.killed,
            self.made,
            self.wrong.len()
        );
    }
}

fn shell(script: &str, variables: &[(&'static str, String)]) -> Result<()> {
    let program = Program::new("sh", ["-e", "-c", script]).env("SIZE", ROOT_SIZE);
    let program = variables.iter().fold(program, |program, (name, value)| program.env(name, value));
    program.run().map(drop)
}
