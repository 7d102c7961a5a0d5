//! A standalone kubelet: it runs static pods from a directory, without an API server.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Ground;
use super::kubectl::{container, has};
use super::kubelet::Kubelet;
use crate::checks::Checks;
use crate::scenario::get;
use crate::server::Site;
use crate::wait::until;

/// The name for `--only`.
pub(super) const NAME: &str = "static pods";
const MANIFEST: &str = include_str!("../../kubernetes/manifests/static.yaml");
/// The pod's host port.
const PAGE: &str = "127.0.0.1:18420";
/// The time-out of a pod's start or end, images included, on two busy cores.
const PATIENCE: Duration = Duration::from_secs(90);

/// Runs the scenario.
pub(super) fn run(ground: &Ground<'_>, checks: &mut Checks) {
    let made = Kubelet::new(ground.site, ground.machine, ground.programs, ground.certificates, None);
    let Some(mut kubelet) = checks.check("static pods: kubelet starts", || {
        let mut kubelet = made?;
        kubelet.start()?;
        Ok(kubelet)
    }) else {
        return;
    };
    if checks.check("static pods: one comes", || comes(&kubelet)).is_some() {
        checks.check("static pods: kubelet is killed and started", || kubelet_again(&mut kubelet));
        checks.check("static pods: one changes", || changes(&kubelet));
    }
    checks.check("static pods: one goes", || goes(ground.site, &kubelet));
    checks.check("static pods: kubelet stops", || kubelet.stop());
}

fn file(kubelet: &Kubelet) -> PathBuf {
    kubelet.static_pods().join("static.yaml")
}

/// The pod, if it is ready.
fn ready(kubelet: &Kubelet) -> Result<Value> {
    let pods = kubelet.pods()?;
    let pod = pods.into_iter().next().context("kubelet has no pod")?;
    ensure!(has(&pod, "Ready"), "the pod is {}", pod["status"]);
    Ok(pod)
}

fn comes(kubelet: &Kubelet) -> Result<()> {
    std::fs::write(file(kubelet), MANIFEST)?;
    let pod = until(PATIENCE, || ready(kubelet))?;
    ensure!(container(&pod, "init")["state"]["terminated"]["exitCode"] == 0, "{}", pod["status"]);
    ensure!(container(&pod, "sidecar")["state"]["running"].is_object(), "{}", pod["status"]);
    let page = get(PAGE)?;
    ensure!(page.contains("made by init"), "http://{PAGE}/: {page}");
    Ok(())
}

fn kubelet_again(kubelet: &mut Kubelet) -> Result<()> {
    let before = until(PATIENCE, || ready(kubelet))?;
    kubelet.kill()?;
    ensure!(get(PAGE)?.contains("made by init"), "the pod does not answer without kubelet");
    kubelet.start()?;
    let after = until(PATIENCE, || ready(kubelet))?;
    for name in ["web", "sidecar"] {
        let (old, new) = (container(&before, name), container(&after, name));
        ensure!(old["containerID"] == new["containerID"], "{name} was {old} and is {new}");
    }
    Ok(())
}

fn changes(kubelet: &Kubelet) -> Result<()> {
    let before = until(PATIENCE, || ready(kubelet))?;
    std::fs::write(file(kubelet), MANIFEST.replace("value: \"1\"", "value: \"2\""))?;
    let after = until(PATIENCE, || {
        let pod = ready(kubelet)?;
        ensure!(pod["metadata"]["uid"] != before["metadata"]["uid"], "it is still the old pod");
        Ok(pod)
    })?;
    let (old, new) = (container(&before, "web"), container(&after, "web"));
    ensure!(old["containerID"] != new["containerID"], "the container is still {new}");
    ensure!(get(PAGE)?.contains("made by init"), "the host's port does not lead to the new pod");
    Ok(())
}

/// Polls the runtime: kubelet forgets a pod before it has stopped it.
fn goes(site: &Site, kubelet: &Kubelet) -> Result<()> {
    std::fs::remove_file(file(kubelet))?;
    until(PATIENCE, || {
        let left = site.run(["pods", "-q", "--state", "ready"])?;
        ensure!(left.is_empty(), "still there: {left}");
        Ok(())
    })
}
