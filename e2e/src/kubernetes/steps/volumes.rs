//! Volumes: contents, owners, and updates from their objects.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::kubernetes::cluster::{Cluster, PATIENCE};
use crate::kubernetes::{API_PORT, NAMESPACE};
use crate::wait::until;

/// The time-out of an update: kubelet syncs each pod's volumes at least once a minute.
const UPDATE: Duration = Duration::from_secs(120);

/// The output of a script in the pod.
const SEEN: [(&str, &str); 14] = [
    ("cat /settings/colour /settings/shape", "redround"),
    ("cat /etc/colour", "red"),
    ("cat /password/word", "sesame"),
    ("stat -L -c %a:%g /password/word", "440:2000"),
    ("cat /projected/deep/shape", "round"),
    ("grep colour /projected/labels", "colour=\"red\""),
    ("echo $POD_NAME $COLOUR $WORD $CPU", "volumes red sesame 300"),
    ("test \"$POD_IP\" = \"$(hostname -i)\" && echo same", "same"),
    ("echo x >/disk/file && stat -c %g /disk/file", "2000"),
    ("echo y >/memory/file && grep ' /memory ' /proc/mounts | cut -d ' ' -f 3", "tmpfs"),
    ("df -k /memory | tail -1 | awk '{print $(NF-4)}'", "8192"),
    ("echo part >/part/file && cat /disk/volumes/part/file", "part"),
    ("echo from the pod >/host/file && cat /host/file", "from the pod"),
    ("touch /settings/new 2>/dev/null || echo read-only", "read-only"),
];

pub(super) fn kinds(cluster: &mut Cluster<'_, '_>) -> Result<()> {
    cluster.kubectl.wait("pod/volumes", "condition=Ready", PATIENCE)?;
    for (script, wanted) in SEEN {
        let seen = cluster.kubectl.exec("volumes", script)?;
        ensure!(seen.trim() == wanted, "{script}: {seen:?} instead of {wanted:?}");
    }
    let on_host = std::fs::read_to_string(cluster.host_dir().join("volumes/file"))?;
    ensure!(on_host == "from the pod\n", "the host sees {on_host:?}");
    Ok(())
}

/// The pod has a token of its service account, and reaches the API server.
pub(super) fn token(cluster: &mut Cluster<'_, '_>) -> Result<()> {
    let kubectl = cluster.kubectl;
    kubectl.wait("pod/volumes", "condition=Ready", PATIENCE)?;
    let token = kubectl.exec("volumes", "cat /projected/token")?;
    let review =
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token.trim()}});
    let answer = kubectl.command(&["create", "-o", "json", "-f", "-"]).stdin(review.to_string()).run()?;
    let user = format!("system:serviceaccount:{NAMESPACE}:default");
    ensure!(answer.contains(&user), "the API server does not know the token: {answer}");
    // BusyBox has no suitable TLS: a connection is enough.
    let script = format!("timeout 5 nc {} {API_PORT} </dev/null", cluster.address);
    kubectl.exec("volumes", &script).context("the pod does not reach the API server").map(drop)
}

pub(super) fn updates(cluster: &mut Cluster<'_, '_>) -> Result<()> {
    let kubectl = cluster.kubectl;
    kubectl.wait("pod/volumes", "condition=Ready", PATIENCE)?;
    kubectl.run(&["patch", "configmap/settings", "-p", "{\"data\": {\"colour\": \"blue\", \"shape\": \"square\"}}"])?;
    kubectl.run(&["patch", "secret/password", "-p", "{\"stringData\": {\"word\": \"simsim\"}}"])?;
    kubectl.run(&["label", "--overwrite", "pod/volumes", "colour=blue"])?;
    let script = "cat /settings/colour /projected/deep/shape /password/word; grep colour /projected/labels";
    until(UPDATE, || {
        let seen = kubectl.exec("volumes", script)?;
        ensure!(seen.trim() == "bluesquaresimsimcolour=\"blue\"", "after the change the pod sees {seen:?}");
        Ok(())
    })?;
    // A sub-path mounts the old file: it is not updated.
    let seen = kubectl.exec("volumes", "cat /etc/colour")?;
    ensure!(seen == "red", "the sub-path became {seen:?}");
    Ok(())
}

pub(super) fn images(cluster: &mut Cluster<'_, '_>) -> Result<()> {
    let kubectl = cluster.kubectl;
    kubectl.wait("pod/image-volume", "condition=Ready", PATIENCE)?;
    let seen = kubectl.exec("image-volume", "cat /image/var/www/index.html /pages/index.html")?;
    ensure!(seen == "It works!\nIt works!\n", "in the image's volumes: {seen:?}");
    let written = kubectl.exec("image-volume", "touch /image/new 2>/dev/null || echo read-only")?;
    ensure!(written.trim() == "read-only", "the image's volume can be written to");
    Ok(())
}
