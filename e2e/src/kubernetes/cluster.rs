//! A cluster of one node: the control plane, kubelet and Cellblock, and the steps of the scenario on them.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::kubectl::{Kubectl, has};
use super::kubelet::Kubelet;
use super::plane::Plane;
use super::steps::{self, Step};
use super::{Ground, NAMESPACE, NODE, Plan, Server};
use crate::checks::Checks;
use crate::process::tail;
use crate::server::Site;
use crate::wait::until;

/// The time-out of a pod's start or end, on two busy cores, also of an emulated machine.
pub(super) const PATIENCE: Duration = Duration::from_secs(180);

/// The cluster under test.
pub(super) struct Cluster<'a, 'b> {
    /// The files of the run.
    pub(super) site: &'a Site,
    /// The node's address.
    pub(super) address: &'a str,
    /// An administrator's kubectl, in the namespace of the scenario.
    pub(super) kubectl: &'a Kubectl,
    /// The node's kubelet.
    pub(super) kubelet: &'a mut Kubelet,
    /// Cellblock.
    pub(super) server: &'a mut Server<'b>,
}

impl Cluster<'_, '_> {
    /// A directory of the host that the pods see.
    pub(super) fn host_dir(&self) -> std::path::PathBuf {
        host_dir(self.site)
    }
}

/// Starts a cluster, runs the selected steps, and removes everything.
pub(super) fn run(ground: &Ground<'_>, server: &mut Server<'_>, plan: &Plan, checks: &mut Checks) {
    let steps = steps::selected(plan);
    if steps.is_empty() {
        return;
    }
    let Some(mut plane) = checks.check("a control plane starts", || start_plane(ground)) else { return };
    let node = Some(plane.node.clone());
    let made = Kubelet::new(ground.site, ground.machine, ground.programs, ground.certificates, node);
    if let Some(mut kubelet) = checks.check("the node is Ready", || node_ready(made?, &mut plane)) {
        let applied = checks.check("the pods of the scenario are made", || apply(ground.site, &plane.kubectl, &steps));
        let (site, address) = (ground.site, ground.machine.address());
        let mut cluster = Cluster { site, address, kubectl: &plane.kubectl, kubelet: &mut kubelet, server };
        for step in steps.iter().filter(|_| applied.is_some()) {
            checks.check(step.name, || (step.run)(&mut cluster));
        }
        checks.check("all pods go", || all_go(cluster.site, cluster.kubectl));
        if checks.check("kubelet stops", || kubelet.stop()).is_none() {
            println!("kubelet's log ends:\n{}", tail(&kubelet.log()));
        }
    }
    checks.check("the control plane stops", || plane.stop());
}

pub(super) fn start_plane(ground: &Ground<'_>) -> Result<Plane> {
    let plane = Plane::start(ground.site, ground.machine, ground.programs, ground.certificates)?;
    plane.kubectl.run(&["create", "namespace", NAMESPACE])?;
    // The controller manager makes it; no pod is admitted before.
    until(PATIENCE, || plane.kubectl.get(&["serviceaccount", "default"]))?;
    Ok(plane)
}

pub(super) fn node_ready(mut kubelet: Kubelet, plane: &mut Plane) -> Result<Kubelet> {
    kubelet.start()?;
    let node = plane.kubectl.until(&format!("node/{NODE}"), PATIENCE, |node| has(node, "Ready"));
    let node = node.with_context(|| format!("kubelet's log ends:\n{}", tail(&kubelet.log())))?;
    let version = node["status"]["nodeInfo"]["containerRuntimeVersion"].as_str().unwrap_or_default();
    ensure!(version.starts_with("cellblock://"), "the node's runtime is {version:?}");
    plane.start_proxy()?;
    Ok(kubelet)
}

/// Applies all manifests at once, so that each step waits for its own pods only.
fn apply(site: &Site, kubectl: &Kubectl, steps: &[&Step]) -> Result<()> {
    let mut manifests: Vec<&str> = steps.iter().map(|step| step.manifest).filter(|text| !text.is_empty()).collect();
    manifests.dedup();
    let text = manifests.join("\n---\n").replace("${HOST_DIR}", &host_dir(site).to_string_lossy());
    kubectl.apply(&text)
}

fn host_dir(site: &Site) -> std::path::PathBuf {
    site.dir().join("host")
}

/// Removes every pod of the cluster, and waits until Cellblock has none.
pub(super) fn all_go(site: &Site, kubectl: &Kubectl) -> Result<()> {
    kubectl.run(&["delete", "namespace", NAMESPACE, "--wait=false"])?;
    until(2 * PATIENCE, || {
        let gone = kubectl.output(&["get", "namespace", NAMESPACE])?;
        ensure!(
            !gone.status.success(),
            "the namespace is still there: {}",
            kubectl.run(&["get", "pods", "-o", "wide"])?
        );
        let left = site.run(["pods", "-q"])?;
        ensure!(left.is_empty(), "pods are left:\n{}", site.run(["pods"])?);
        Ok(())
    })
}
