//! FreeBSD: sets up pf(4) and forwarding for the demo, and undoes both. An existing ruleset belongs to the operator and is never
//! changed.

use anyhow::{Context as _, bail};
use host::run::{Tool, exited_with};

use super::PREFIX;

/// pfctl(8).
const PFCTL: &str = "/sbin/pfctl";
/// Exists while pf is loaded.
const DEVICE: &str = "/dev/pf";
/// The sysctls of forwarding, one for each address family.
const FORWARDING: [&str; 2] = ["net.inet.ip.forwarding", "net.inet6.ip6.forwarding"];

/// A change that [`Filter::remove`] undoes.
#[derive(Debug)]
enum Change {
    Ruleset,
    Enabled,
    Sysctl(&'static str),
}

/// The changes so far. A loaded module stays.
#[derive(Debug)]
pub(crate) struct Filter {
    changes: Vec<Change>,
}

impl Filter {
    /// No changes yet.
    pub(crate) fn new() -> Self {
        Self { changes: Vec::new() }
    }

    /// Loads pf, loads a ruleset with the server's anchors if there is none, and enables forwarding. Returns a description of each
    /// change. [`Filter::remove`] undoes them, also after an error.
    ///
    /// # Errors
    /// The operator's ruleset lacks the anchors, or the kernel refuses a change.
    pub(crate) fn install(&mut self) -> anyhow::Result<Vec<String>> {
        let mut words = Vec::new();
        if !std::path::Path::new(DEVICE).exists() {
            Tool::new("/sbin/kldload").args(["-n", "pf"]).run().context("cannot load pf")?;
            words.push("kldload pf".to_owned());
        }
        let lines = [format!("nat-anchor \"cellblock-{PREFIX}/*\""), format!("rdr-anchor \"cellblock-{PREFIX}/*\"")];
        let rules = pfctl(&["-s", "rules"], "")? + &pfctl(&["-s", "nat"], "")?;
        let is_enabled = pfctl(&["-s", "info"], "")?.lines().any(|line| line.trim().starts_with("Status: Enabled"));
        if rules.trim().is_empty() {
            self.changes.push(Change::Ruleset);
            let filter = format!("pass all; anchor \"cellblock-{PREFIX}/*\"");
            let ruleset = format!("{}; {filter}", lines.join("; "));
            pfctl(&["-q", "-f", "-"], &(ruleset.replace("; ", "\n") + "\n"))?;
            words.push(format!("pf ruleset: {ruleset}"));
        } else if !is_enabled || !lines.iter().all(|line| has(&rules, line)) {
            bail!("pf has a ruleset of its own; enable it with these lines in /etc/pf.conf:\n{}", lines.join("\n"));
        }
        if !is_enabled {
            self.changes.push(Change::Enabled);
            switch("-e")?;
            words.push("pfctl -e".to_owned());
        }
        for name in FORWARDING {
            if sysctl(&["-n", name])?.trim() == "0" {
                self.changes.push(Change::Sysctl(name));
                sysctl(&[&format!("{name}=1")])?;
                words.push(format!("sysctl {name}=1"));
            }
        }
        Ok(words)
    }

    /// Undoes every change; returns the first error after all.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(crate) fn remove(self) -> anyhow::Result<()> {
        let undo = |change: &Change| match change {
            Change::Ruleset => pfctl(&["-q", "-f", "-"], "").map(drop),
            Change::Enabled => switch("-d"),
            Change::Sysctl(name) => sysctl(&[&format!("{name}=0")]).map(drop),
        };
        self.changes.iter().rev().map(undo).fold(Ok(()), Result::and)
    }
}

/// Whether the rules contain this line, or one for all anchors.
fn has(rules: &str, line: &str) -> bool {
    let keyword = line.split(' ').next().unwrap_or_default();
    let wanted = [format!("{line} all"), format!("{keyword} \"*\" all")];
    rules.lines().any(|rule| wanted.iter().any(|wanted| rule.trim() == wanted))
}

fn pfctl(args: &[&str], input: &str) -> anyhow::Result<String> {
    let output = Tool::new(PFCTL).args(args).stdin(input).run().with_context(|| format!("pfctl {}", args.join(" ")))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Switches pf on (`-e`) or off (`-d`). Idempotent: pfctl exits 1 if it is so already.
fn switch(flag: &str) -> anyhow::Result<()> {
    match Tool::new(PFCTL).args(["-q", flag]).run() {
        Err(error) if !exited_with(&error, 1) => Err(error).context("cannot switch pf"),
        _ => Ok(()),
    }
}

fn sysctl(args: &[&str]) -> anyhow::Result<String> {
    let output = Tool::new("/sbin/sysctl").args(args).run().with_context(|| format!("sysctl {}", args.join(" ")))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::has;

    #[test]
    fn an_anchor_is_found_by_its_name_or_for_every_name() {
        let line = "nat-anchor \"cellblock-dm/*\"";
        assert!(has("nat-anchor \"cellblock-dm/*\" all\n", line));
        assert!(has("scrub in all\n  nat-anchor \"*\" all", line));
        assert!(!has("nat-anchor \"cellblock/*\" all\nrdr-anchor \"*\" all", line));
    }
}
