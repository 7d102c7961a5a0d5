//! Runs critest and checks its report: a spec must pass, or be listed in `critest-skips.toml` with a reason. A listed spec that
//! passes is a failure too, and so is an entry without a spec.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::process::{Program, tail};

/// The time-out: all specs take about two minutes on two idle cores.
const TIMEOUT: Duration = Duration::from_secs(40 * 60);
/// The entries of `critest-skips.toml`.
const SKIPS: &str = include_str!("../critest-skips.toml");

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Skips {
    skip: Vec<Skip>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Skip {
    /// The prefix of the names of its specs.
    spec: String,
    /// The reason.
    reason: String,
}

/// One spec of a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    /// The name, without `[It] [k8s.io] `.
    pub name: String,
    /// `passed`, `failed`, `skipped`, `timedout` …
    pub status: String,
    /// The reason of a failure or a skip.
    pub message: String,
}

/// The parameters of critest.
#[derive(Debug)]
pub struct Critest<'a> {
    /// The program.
    pub program: &'a Path,
    /// The socket of the server, as `unix://PATH`.
    pub address: &'a str,
    /// The directory of its log and temporary files.
    pub dir: &'a Path,
    /// The directory of the report.
    pub report: &'a Path,
    /// Only the specs whose names match this regular expression.
    pub only: Option<&'a str>,
    /// The transport of exec, attach and port-forward.
    pub transport: Transport,
}

/// A transport of streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// The one of kubelet, and critest's default.
    Spdy,
    /// The one of newer clients.
    WebSocket,
}

impl Transport {
    /// The suffix of its reports' names.
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
    /// Runs it and returns the result of each spec.
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
        // The specs of host IPC leave their own segments behind; none is the server's.
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

/// The specs of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ran {
    /// All of critest on Linux.
    All,
    /// A selection.
    Selected,
    /// All of its FreeBSD build.
    Freebsd,
}

/// The failures of these results, one line each. If all specs ran, an entry of critest-skips.toml without a spec is one too.
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

/// Parses a JUnit report of ginkgo: one `testcase` for each spec, with its failure inside.
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
