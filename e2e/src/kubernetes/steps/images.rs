//! Images: pull policies, the status of a pod without its image, and image garbage collection.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::kubernetes::cluster::{Cluster, PATIENCE};
use crate::kubernetes::kubectl::container;
use crate::wait::until;

/// kubelet collects images every 5 minutes. A round fails when kubelet removes a container between its list and its status.
const IMAGE_GC: Duration = Duration::from_secs(660);
/// The image of a finished pod, which nothing else uses.
const UNUSED: &str = "test-image-2";

fn waits(pod: &Value, reasons: &[&str]) -> bool {
    reasons.iter().any(|reason| container(pod, "pull")["state"]["waiting"]["reason"] == *reason)
}

pub(super) fn policies(cluster: &mut Cluster<'_, '_>) -> Result<()> {
    let kubectl = cluster.kubectl;
    kubectl.wait("pod/pull-always", "condition=Ready", PATIENCE)?;
    kubectl.until("pod/pull-once", PATIENCE, |pod| pod["status"]["phase"] == "Succeeded")?;
    kubectl.until("pod/pull-never", PATIENCE, |pod| waits(pod, &["ErrImageNeverPull"]))?;
    let pod = kubectl.until("pod/pull-missing", PATIENCE, |pod| waits(pod, &["ImagePullBackOff"]))?;
    let says = container(&pod, "pull")["state"]["waiting"]["message"].to_string();
    ensure!(says.contains("not-there"), "the message does not name the image: {says}");
    Ok(())
}

/// kubelet keeps one dead container of a restarting one.
pub(super) fn container_garbage(cluster: &mut Cluster<'_, '_>) -> Result<()> {
    cluster.kubectl.until("pod/crash", PATIENCE, |pod| container(pod, "crash")["restartCount"].as_u64() >= Some(2))?;
    until(PATIENCE, || {
        let list = cluster.site.json(["ps", "-a", "-o", "json", "--label", "io.kubernetes.pod.name=crash"])?;
        let count = list["containers"].as_array().map_or(0, Vec::len);
        ensure!((1..=2).contains(&count), "there are {count} containers of the pod that crashes");
        Ok(())
    })
}

pub(super) fn image_garbage(cluster: &mut Cluster<'_, '_>) -> Result<()> {
    cluster.kubectl.until("pod/pull-once", PATIENCE, |pod| pod["status"]["phase"] == "Succeeded")?;
    cluster.kubectl.run(&["delete", "pod/pull-once"])?;
    ensure!(cluster.site.run(["images"])?.contains(UNUSED), "{UNUSED} was not pulled");
    let thresholds = |cluster: &mut Cluster<'_, '_>, high: u32, low: u32| {
        cluster.kubelet.set("imageGCHighThresholdPercent", json!(high));
        cluster.kubelet.set("imageGCLowThresholdPercent", json!(low));
        cluster.kubelet.stop()?;
        cluster.kubelet.start()
    };
    thresholds(cluster, 1, 0)?;
    let collected = until(IMAGE_GC, || {
        let images = cluster.site.run(["images"])?;
        ensure!(!images.contains(UNUSED), "{UNUSED} is still there:\n{images}");
        // An image in use stays.
        ensure!(images.contains("test-image-tags"), "an image in use is gone:\n{images}");
        Ok(())
    });
    thresholds(cluster, 85, 80)?;
    collected
}
