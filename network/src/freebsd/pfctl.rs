//! Drives pf(4) through pfctl(8), below our own anchor only.

use std::net::IpAddr;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use host::Need;
use host::Prefix;
use host::run::{RunError, Tool, exited_with};

use super::sys;
use crate::Error;
use crate::pf::rules::{self, Filter};
use crate::pf::sizes::Sizes;

/// pfctl(8).
const PROGRAM: &str = "/sbin/pfctl";
/// Serializes pfctl: pf refuses a second concurrent transaction.
static TRANSACTION: Mutex<()> = Mutex::new(());
/// Pauses between attempts, doubled each time: ten attempts in five seconds, longer than any pfctl takes.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Exists when pf is loaded.
const DEVICE: &str = "/dev/pf";

pub(super) fn is_loaded() -> bool {
    Path::new(DEVICE).exists()
}

/// Replaces the rules of an anchor.
pub(super) fn load(anchor: &str, rules: &str) -> Result<(), Error> {
    let Err(error) = run(&["-q", "-a", anchor, "-f", "-"], rules) else { return Ok(()) };
    let operation = format!("cannot load anchor {anchor}");
    match anchor_limit(&error) {
        Some(limit) => Err(Error::Exhausted {
            what: format!("{operation}: pf has no anchor left of {limit} (set limit anchors, pf.conf(5))"),
        }),
        None => Err(Error::failed(operation)(error)),
    }
}

/// Returns the limit of anchors if it caused the error; None if that cannot be found out.
fn anchor_limit(error: &RunError) -> Option<usize> {
    let RunError::Failed { stderr, .. } = error else { return None };
    rules::exhausted_limit(&run(&["-s", "memory"], "").ok()?, stderr)
}

/// Whether an anchor of this name exists, also one with only Ethernet rules.
fn anchor_exists(anchor: &str) -> Result<bool, Error> {
    let printed = run(&["-v", "-s", "Anchors"], "").map_err(Error::failed("cannot list the anchors of pf"))?;
    Ok(printed.lines().any(|line| line.trim() == anchor))
}

/// Empties an anchor, which removes it. Idempotent. An anchor that had tables stays listed, empty: the kernel of 15.1
/// does not drop it with its last table.
pub(super) fn flush(anchor: &str, tables: bool) -> Result<(), Error> {
    let failed = || format!("cannot flush anchor {anchor}");
    // Not `-F nat`: that never removes an anchor whose load failed half way.
    if let Err(error) = run(&["-q", "-a", anchor, "-f", "-"], "") {
        // At the limit of anchors even an empty load into a missing anchor fails, and a load that failed for it leaves
        // an anchor for Ethernet rules.
        let ethernet = run(&["-q", "-a", anchor, "-F", "ethernet"], "");
        if ethernet.is_err() || anchor_exists(anchor)? {
            return Err(Error::failed(failed())(error));
        }
    }
    if !tables {
        return Ok(());
    }
    match run(&["-q", "-a", anchor, "-F", "Tables"], "") {
        // It exits with 1 if there is no table.
        Err(error) if !exited_with(&error, 1) => Err(Error::failed(failed())(error)),
        _ => Ok(()),
    }
}

/// Whether an anchor has translation and filter rules.
pub(super) fn has_rules(anchor: &str) -> Result<bool, Error> {
    for kind in ["nat", "rules"] {
        match run(&["-q", "-a", anchor, "-s", kind], "") {
            // It exits with 1 if the anchor is missing.
            Err(error) if !exited_with(&error, 1) => {
                return Err(Error::failed(format!("cannot read anchor {anchor}"))(error));
            }
            Ok(printed) if !printed.trim().is_empty() => (),
            _ => return Ok(false),
        }
    }
    Ok(true)
}

/// Removes the states towards these addresses, so that another pod does not inherit them. By their ids: `-k FROM -k TO` of FreeBSD
/// 15.1 compares TO with the source and finds none (pfctl_net_kill_states in pfctl.c).
pub(super) fn forget_states(addresses: &[IpAddr]) -> Result<(), Error> {
    let failed = || format!("cannot forget the states of {addresses:?}");
    let printed = run(&["-q", "-s", "states", "-vv"], "").map_err(Error::failed(failed()))?;
    rules::states_to(addresses, &printed)
        .iter()
        .try_for_each(|state| run(&["-q", "-k", "id", "-k", state], "").map(drop))
        .map_err(Error::failed(failed()))
}

/// Lists the short ids of pods with an anchor.
pub(super) fn pods(prefix: &Prefix) -> Result<Vec<String>, Error> {
    if !is_loaded() {
        return Ok(Vec::new());
    }
    match run(&["-a", &rules::root(prefix), "-s", "Anchors"], "") {
        Ok(printed) => Ok(rules::pods_of(prefix, &printed).into_iter().map(str::to_owned).collect()),
        // It exits with 1 if the anchor is missing.
        Err(error) if exited_with(&error, 1) => Ok(Vec::new()),
        Err(error) => Err(Error::failed("cannot list the anchors of pf")(error)),
    }
}

/// Reports what pf lacks, from the output of pfctl.
pub(super) fn needs(prefix: &Prefix) -> Vec<Need> {
    let lines = rules::required_lines(prefix);
    if !is_loaded() {
        let anchors = rules::remedy(&lines).replace("service pf reload", "service pf start");
        let remedy = format!("run: kldload pf; sysrc pf_enable=YES\n{anchors}");
        return vec![need("pf", "not loaded", true, Some(remedy))];
    }
    let printed = |args: &[&str]| run(args, "").unwrap_or_else(|error| host::chain(&error));
    let (info, rules) = (printed(&["-s", "info"]), printed(&["-s", "nat"]));
    let enabled = rules::is_enabled(&info);
    let missing = rules::missing_lines(prefix, &rules);
    let anchored = if missing.is_empty() { "there".to_owned() } else { format!("missing: {}", missing.join(", ")) };
    vec![
        need(
            "pf",
            if enabled { "enabled" } else { "disabled" },
            true,
            (!enabled).then(|| "run: sysrc pf_enable=YES; service pf start".to_owned()),
        ),
        need("pf anchors", &anchored, true, (!missing.is_empty()).then(|| rules::remedy(&missing))),
        filter_need(prefix, &printed(&["-s", "rules"])),
        table_need(),
    ]
}

/// Checks that a pod's firewall will be heard: pf is enabled and its main ruleset names the anchors' filter rules.
pub(super) fn check_filter(prefix: &Prefix) -> Result<(), Error> {
    let failed = || Error::failed::<String>("cannot keep up the firewall of a pod");
    if !is_loaded() {
        return Err(failed()("pf is not loaded".to_owned()));
    }
    let print = |what| run(&["-s", what], "").map_err(Error::failed("cannot read pf's main ruleset"));
    if !rules::is_enabled(&print("info")?) {
        return Err(failed()("pf is disabled".to_owned()));
    }
    if rules::filter(prefix, &print("rules")?) == Filter::Unnamed {
        return Err(failed()(format!("pf's main ruleset lacks the line {}", rules::filter_line(prefix))));
    }
    Ok(())
}

/// Reports whether the filter rules of the anchor count. Required only where all pods are without a network otherwise.
fn filter_need(prefix: &Prefix, printed: &str) -> Need {
    let (found, required) = match rules::filter(prefix, printed) {
        Filter::Heard => return need("pf filter", "there", true, None),
        Filter::Unnamed => ("missing: pods can send from addresses that are not theirs", false),
        Filter::Blocked => ("missing or too early: pods are blocked", true),
    };
    let line = rules::filter_line(prefix);
    let remedy =
        format!("add to /etc/pf.conf, after the rules that block everything:\n{line}\nthen run: service pf reload");
    need("pf filter", found, required, Some(remedy))
}

/// Reports the table sizes. Optional: pods run with any size.
fn table_need() -> Need {
    let size = |name: &str| {
        let value = sys::sysctl(&format!("net.pf.{name}_hashsize"), size_of::<u64>()).unwrap_or_default();
        value.first_chunk().map_or(0, |value| u64::from_ne_bytes(*value))
    };
    let sizes =
        Sizes { states: size("states"), source_nodes: size("source_nodes"), udp_endpoints: size("udpendpoint") };
    let (found, lines) = sizes.report();
    need("pf tables", &found, false, lines)
}

fn need(name: &str, found: &str, required: bool, remedy: Option<String>) -> Need {
    Need { name: name.to_owned(), found: found.to_owned(), required, remedy }
}

/// Runs pfctl, one at a time, and again after a transient error. Every command is idempotent.
fn run(args: &[&str], input: &str) -> Result<String, RunError> {
    // The lock guards no data, so poisoning does not matter.
    let _transaction = TRANSACTION.lock().unwrap_or_else(PoisonError::into_inner);
    let mut pause = FIRST_PAUSE;
    loop {
        match Tool::new(PROGRAM).args(args).stdin(input).run() {
            Ok(output) => return Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            Err(error) if pause < LONGEST_PAUSE && is_transient(&error) => std::thread::sleep(pause),
            Err(error) => return Err(error),
        }
        pause *= 2;
    }
}

/// Whether pfctl failed because another process had a transaction open (EBUSY), or an interface vanished while it
/// listed them (ENXIO).
fn is_transient(error: &RunError) -> bool {
    let words = ["Device busy", "SIOCGIFGROUP: Device not configured"];
    matches!(error, RunError::Failed { stderr, .. } if words.iter().any(|word| stderr.contains(word)))
}
