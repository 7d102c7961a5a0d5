//! Admin's FindRoot: the host path of a container's root, for programs of the host that change it, such as pkg(8) with `-c`.

use std::path::Path;
use std::sync::Arc;

use proto::admin::{FindRootRequest, FindRootResponse};

use crate::error::Error;
use crate::state::find;
use crate::state::node::Node;
use crate::state::record::{ContainerRecord, PodPhase};

pub(crate) async fn call(node: &Arc<Node>, request: &FindRootRequest) -> Result<FindRootResponse, Error> {
    let container = find::container(&node.store, &request.container)?;
    node.block(move |node| answer(node, &container)).await
}

fn answer(node: &Node, container: &ContainerRecord) -> Result<FindRootResponse, Error> {
    let short = container.id.short();
    let made =
        container.made.as_ref().ok_or_else(|| Error::State { what: format!("container {short} is not made") })?;
    let path = made.spec.rootfs.as_path();
    if made.spec.shared_rootfs {
        let what = format!("container {short} has no root of its own: its read-only root is the unpacked image in");
        let why = "which other containers have too and nothing may change";
        return Err(Error::State { what: format!("{what} {}, {why}", path.display()) });
    }
    if is_empty(path) {
        let what = format!("the root of container {short} is not mounted on {}", path.display());
        return Err(Error::State { what: format!("{what}: the node was started again, or it was removed") });
    }
    let pod_is_ready = node.store.pod(&container.pod).is_some_and(|pod| pod.phase == PodPhase::Ready);
    let warning = match (pod_is_ready, made.spec.readonly_rootfs) {
        (false, _) => "its pod is stopped: nothing is mounted in the root, not even /dev",
        (true, true) => {
            "its programs have the root read-only, with /dev and volumes in another place; this is what lies below"
        }
        (true, false) => "",
    };
    Ok(FindRootResponse { path: path.display().to_string(), warning: warning.to_owned() })
}

/// Whether nothing is there: ZFS roots are not mounted again after a reboot.
fn is_empty(path: &Path) -> bool {
    path.read_dir().map_or(true, |mut entries| entries.next().is_none())
}
