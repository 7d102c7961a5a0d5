//! The pods and containers of a soak, and a reader of their logs.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use proto::v1::*;

use crate::images::BUSYBOX;

/// The exit code of a stopped counter: no signal and no error of the shell has this number.
pub(super) const STOPPED: i32 = 7;
/// Counts into its log until it is stopped.
pub(super) const COUNTER: &str = "trap 'exit 7' TERM; i=0; while :; do i=$((i+1)); echo $i; sleep 0.1; done";
/// The label by which a lost pod or container is found.
const LABEL: &str = "soak";

/// A pod's configuration.
pub(super) fn pod(name: &str, logs: &Path) -> PodSandboxConfig {
    PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: name.to_owned(),
            uid: format!("uid-{name}"),
            namespace: "soak".to_owned(),
            attempt: 0,
        }),
        hostname: name.to_owned(),
        log_directory: logs.join(name).to_string_lossy().into_owned(),
        labels: label(name),
        linux: Some(LinuxPodSandboxConfig::default()),
        ..PodSandboxConfig::default()
    }
}

/// A container's configuration; its name is also its label and the name of its log.
pub(super) fn container(name: &str, script: &str, pid: NamespaceMode) -> ContainerConfig {
    let namespaces = NamespaceOption { pid: pid.into(), ..NamespaceOption::default() };
    let security = LinuxContainerSecurityContext {
        namespace_options: Some(namespaces),
        ..LinuxContainerSecurityContext::default()
    };
    ContainerConfig {
        metadata: Some(ContainerMetadata { name: name.to_owned(), attempt: 0 }),
        image: Some(ImageSpec { image: BUSYBOX.to_owned(), ..ImageSpec::default() }),
        command: ["sh", "-c", script].map(str::to_owned).to_vec(),
        labels: label(name),
        log_path: format!("{name}.log"),
        linux: Some(LinuxContainerConfig { security_context: Some(security), ..LinuxContainerConfig::default() }),
        ..ContainerConfig::default()
    }
}

/// Selects an object by its name.
pub(super) fn label(name: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(LABEL.to_owned(), name.to_owned())])
}

/// The last number in a counter's log in CRI's format (`TIME STREAM TAG LINE`); 0: none. An incomplete last line is still being
/// written.
pub(super) fn counted(log: &str) -> Result<u64> {
    let mut last = 0;
    for line in log.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        let number = words.get(3).and_then(|text| text.parse::<u64>().ok());
        let number = number.with_context(|| format!("the log has a line {line:?} after {last}"))?;
        ensure!(words[1..3] == ["stdout", "F"], "the log has a line {line:?} after {last}");
        ensure!(number == last + 1, "the log goes from {last} to {number}");
        last = number;
    }
    Ok(last)
}

#[test]
fn a_gap_in_a_log_is_seen() {
    let log = |numbers: &[&str]| numbers.iter().map(|number| format!("T stdout F {number}\n")).collect::<String>();
    assert_eq!(counted("").ok(), Some(0));
    assert_eq!(counted(&log(&["1", "2", "3"])).ok(), Some(3));
    assert_eq!(counted(&(log(&["1", "2"]) + "T stdo")).ok(), Some(2));
    for wrong in [&["2"][..], &["1", "3"], &["1", "1"], &["1", "x"]] {
        assert!(counted(&log(wrong)).is_err(), "{wrong:?}");
    }
    assert!(counted("T stdout P 1\n").is_err());
}
