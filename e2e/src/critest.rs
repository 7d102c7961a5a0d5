//! Runs critest and judges it: a spec must pass, or stand in `critest-skips.toml` with its reason; what stands there and passes
//! is a failure too, and so is an entry that no spec has.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::process::{Program, tail};

/// All specs take about two minutes on two cores; this is for a busy machine.
const TIMEOUT: Duration = Duration::from_secs(40 * 60);
/// Every entry: the beginning of the names of its specs, and why they do not pass.
const SKIPS: &str = include_str!("../critest-skips.toml");

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Skips {
    skip: Vec<Skip>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Skip {
    /// The beginning of a spec's name.
    spec: String,
    /// Why.
    reason: String,
}

/// One spec of a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    /// Its name, without `[It] [k8s.io] `.
    pub name: String,
    /// `passed`, `failed`, `skipped`, `timedout` …
    pub status: String,
    /// Why it failed or was skipped.
    pub message: String,
}

/// What critest is run with.
#[derive(Debug)]
pub struct Critest<'a> {
    /// The program.
    pub program: &'a Path,
    /// The socket of the server, as `unix://PATH`.
    pub address: &'a str,
    /// Where its log and temporary files go.
    pub dir: &'a Path,
    /// Where the report is kept.
    pub report: &'a Path,
    /// Only the specs whose names match this regular expression.
    pub only: Option<&'a str>,
    /// What exec, attach and port-forward are carried by.
    pub transport: Transport,
}

/// What streams are carried by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// What kubelet speaks, and critest unless it is told otherwise.
    Spdy,
    /// What newer clients speak.
    WebSocket,
}

impl Transport {
    /// What the names of its reports end with.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Spdy => "",
            Self::WebSocket => "-websocket",
        }
    }

    fn switches(self) -> &'static [&'static str] {
        match self {
            Self::Spdy => &[],
            Self::WebSocket => &["-websocket-exec", "-websocket-attach", "-websocket-portforward"],
        }
    }
}

/// The specs that stream, as a regular expression; and how many there are.
pub const STREAMING: (&str, usize) = ("Streaming runtime should support", 5);

impl Critest<'_> {
    /// Runs it and returns what became of each spec.
    pub fn run(&self) -> Result<Vec<Spec>> {
        let temporary = self.dir.join("tmp");
        std::fs::create_dir_all(&temporary)?;
        if let Some(dir) = self.report.parent() {
            std::fs::create_dir_all(dir)?;
        }
        let _ = std::fs::remove_file(self.report);
        let mut args = vec![
            "-config=/dev/null".to_owned(),
            format!("-runtime-endpoint={}", self.address),
            format!("-image-endpoint={}", self.address),
            format!("-ginkgo.junit-report={}", self.report.display()),
            "-ginkgo.no-color".to_owned(),
        ];
        args.extend(self.only.map(|only| format!("-ginkgo.focus={only}")));
        args.extend(self.transport.switches().iter().map(|&switch| switch.to_owned()));
        let segments = shared_memory()?;
        let output = Program::new(self.program, &args).env("TMPDIR", &temporary).timeout(TIMEOUT).output()?;
        // The specs of host IPC leave behind what they made; nothing that the server made is among it.
        for id in shared_memory()?.difference(&segments) {
            Program::new("ipcrm", ["-m", id]).run()?;
        }
        let log = self.dir.join("critest.log");
        std::fs::write(&log, output.stdout + &output.stderr)?;
        let report = std::fs::read_to_string(self.report)
            .with_context(|| format!("critest wrote no report: {}:\n{}", output.status, tail(&log)))?;
        Ok(parse(&report))
    }
}

/// The System V shared memory segments of this machine.
fn shared_memory() -> Result<BTreeSet<String>> {
    let list = std::fs::read_to_string("/proc/sysvipc/shm")?;
    Ok(list.lines().skip(1).filter_map(|line| line.split_whitespace().nth(1).map(str::to_owned)).collect())
}

/// Which specs a report is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ran {
    /// All that critest has on Linux.
    All,
    /// Those of them that were selected.
    Selected,
    /// Those that its build for FreeBSD has.
    Freebsd,
}

/// What is wrong with these results, one line each. An entry of critest-skips.toml that no spec needs is wrong where all ran.
pub fn judge(specs: &[Spec], ran: Ran) -> Result<Vec<String>> {
    let skips: Skips = toml::from_str(SKIPS).context("critest-skips.toml")?;
    ensure!(
        skips.skip.iter().all(|skip| !skip.reason.trim().is_empty()),
        "critest-skips.toml: an entry without a reason"
    );
    let mut wrong = Vec::new();
    for spec in specs {
        let listed = skips.skip.iter().any(|skip| spec.name.starts_with(&skip.spec));
        let unselected = ran == Ran::Selected && spec.status == "skipped" && spec.message == "skipped";
        match (spec.status.as_str(), listed) {
            ("passed", true) => wrong.push(format!("passes, and stands in critest-skips.toml: {}", spec.name)),
            ("passed", false) | (_, true) => {}
            _ if unselected => {}
            (status, false) => wrong.push(format!("{status}: {}: {}", spec.name, spec.message)),
        }
    }
    let unknown = skips.skip.iter().filter(|skip| !specs.iter().any(|spec| spec.name.starts_with(&skip.spec)));
    let unknown = unknown.filter(|_| ran != Ran::Freebsd);
    wrong.extend(unknown.map(|skip| format!("critest-skips.toml: no spec begins with {:?}", skip.spec)));
    Ok(wrong)
}

/// The specs of a JUnit report as ginkgo writes it: one `testcase` for each, with what went wrong below it.
pub fn parse(report: &str) -> Vec<Spec> {
    let mut specs = Vec::new();
    for case in report.split("<testcase ").skip(1) {
        let (head, body) = case.split_once('>').unwrap_or((case, ""));
        let body = body.split("</testcase>").next().unwrap_or_default();
        let Some(name) = attribute(head, "name").and_then(|name| name.strip_prefix("[It] ").map(str::to_owned)) else {
            continue;
        };
        let below = ["<failure ", "<skipped ", "<error "].iter().find_map(|tag| body.split_once(tag));
        specs.push(Spec {
            name: name.trim_start_matches("[k8s.io] ").to_owned(),
            status: attribute(head, "status").unwrap_or_default(),
            message: below.and_then(|(_, rest)| attribute(rest, "message")).unwrap_or_default(),
        });
    }
    specs
}

fn attribute(tag: &str, name: &str) -> Option<String> {
    let (_, rest) = tag.split_once(&format!("{name}=\""))?;
    let (value, _) = rest.split_once('"')?;
    let plain = [
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&#34;", "\""),
        ("&quot;", "\""),
        ("&#39;", "'"),
        ("&#xA;", "\n"),
        ("&#x9;", "\t"),
    ];
    Some(plain.iter().fold(value.to_owned(), |text, (from, to)| text.replace(from, to)).replace("&amp;", "&"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str, status: &str, message: &str) -> Spec {
        Spec { name: name.into(), status: status.into(), message: message.into() }
    }

    #[test]
    fn reports_are_read() {
        let report = r#"<testsuites><testsuite>
<testcase name="[BeforeSuite]" classname="CRI" status="passed" time="0"></testcase>
<testcase name="[It] [k8s.io] Pod &#34;x&#34; &amp; y" classname="CRI" status="passed" time="1.5"><system-err>a</system-err></testcase>
<testcase name="[It] [k8s.io] Z" classname="CRI" status="failed" time="1"><failure message="Expected&#xA;b" type="failed">at</failure></testcase>
<testcase name="[It] [k8s.io] S" classname="CRI" status="skipped" time="0"><skipped message="skipped - no"></skipped></testcase>
</testsuite></testsuites>"#;
        let wanted = [
            spec("Pod \"x\" & y", "passed", ""),
            spec("Z", "failed", "Expected\nb"),
            spec("S", "skipped", "skipped - no"),
        ];
        assert_eq!(parse(report), wanted);
    }

    #[test]
    fn every_spec_passes_or_is_listed() {
        let skips: Skips = toml::from_str(SKIPS).unwrap();
        let listed: Vec<_> =
            skips.skip.iter().map(|skip| spec(&format!("{} x", skip.spec), "skipped", "skipped")).collect();
        assert_eq!(judge(&listed, Ran::All).unwrap(), [""; 0]);
        let mut specs = listed.clone();
        specs.push(spec("new", "skipped", "skipped - no"));
        assert!(judge(&specs, Ran::All).unwrap()[0].contains("skipped: new"));
        specs[0].status = "passed".into();
        assert!(judge(&specs, Ran::All).unwrap()[0].starts_with("passes, and stands in"));
        assert!(judge(&listed[1..], Ran::All).unwrap()[0].contains("no spec begins"));
        assert_eq!(judge(&listed[1..], Ran::Freebsd).unwrap(), [""; 0]);
    }
}
