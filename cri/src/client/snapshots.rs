//! `cellblock snapshot|rollback|snapshots POD|CONTAINER`: clients of the running server's admin service.

use std::io::Write;
use std::path::Path;
use std::time::SystemTime;

use proto::admin::{ContainerSnapshot, ListSnapshotsRequest, RollbackRequest, SnapshotRequest};
use serde_json::json;

use super::outcome::Outcome;
use super::table::{age, aligned, bytes};
use super::{answer, block_on, connect_admin};

/// Snapshots the root of a container, or of all containers of a pod in one transaction.
///
/// # Errors
/// No server answers, or the server's refusal.
pub fn take(state: &Path, target: &str, name: &str) -> anyhow::Result<()> {
    let request = SnapshotRequest { target: target.to_owned(), name: name.to_owned() };
    block_on(async { answer(connect_admin(state).await?.snapshot(request).await).map(drop) })
}

/// Resets the root of a container, or of all containers of a pod one after the other, to a snapshot. None of them may run.
///
/// # Errors
/// As [`take`].
pub fn roll_back(state: &Path, target: &str, name: &str) -> anyhow::Result<()> {
    let request = RollbackRequest { target: target.to_owned(), name: name.to_owned() };
    block_on(async { answer(connect_admin(state).await?.rollback(request).await).map(drop) })
}

/// Lists the snapshots of a container, or of all containers of a pod, as text or as one JSON document.
///
/// # Errors
/// As [`take`]; or `out`.
pub fn list(state: &Path, target: &str, json: bool, out: &mut impl Write) -> anyhow::Result<()> {
    let request = ListSnapshotsRequest { target: target.to_owned() };
    let found = block_on(async { Ok(answer(connect_admin(state).await?.list_snapshots(request).await)?.snapshots) })?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    show(&found, now).write(json, out)
}

fn show(snapshots: &[ContainerSnapshot], now: u64) -> Outcome {
    let mut rows = vec![["CONTAINER", "SNAPSHOT", "USED", "REFER", "AGE"].map(str::to_owned)];
    rows.extend(snapshots.iter().map(|one| {
        let (container, name) = (one.container.clone(), one.name.clone());
        [container, name, bytes(one.used), bytes(one.referenced), age(now.saturating_sub(one.created))]
    }));
    let document = |one: &ContainerSnapshot| {
        json!({
            "containerId": one.container_id, "container": one.container, "name": one.name, "used": one.used,
            "referenced": one.referenced, "created": one.created,
        })
    };
    Outcome { text: aligned(&rows), json: json!({ "snapshots": snapshots.iter().map(document).collect::<Vec<_>>() }) }
}

#[cfg(test)]
mod tests {
    use proto::admin::ContainerSnapshot;

    use super::show;

    #[test]
    fn snapshots_are_shown_with_their_sizes() {
        let one = ContainerSnapshot {
            container_id: "0123".to_owned(),
            container: "main".to_owned(),
            name: "before-upgrade".to_owned(),
            used: 3 << 20,
            referenced: 5,
            created: 1_000_000,
        };
        let shown = show(&[one], 1_000_000 + 7200);
        let wanted = "\
CONTAINER  SNAPSHOT        USED      REFER  AGE
main       before-upgrade  3.00 MiB  5 B    2h
";
        assert_eq!(shown.text, wanted);
        assert_eq!(shown.json["snapshots"][0]["used"], 3 << 20);
    }
}
