//! What an image asks for: volumes and an entry point; what a container writes to its root; and what the verbose status tells of
//! image and container.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use proto::v1::{ContainerConfig, ContainerStatsRequest, ImageSpec, ImageStatusRequest};
use serde_json::Value;

use super::Spec;
use super::pod::{mount, security};
use super::stage::Stage;
use crate::images::VOLUMES;
use crate::wait::eventually;

pub(super) const SPECS: &[Spec] = &[
    Spec { name: "volumes of the image: contents and mode kept, writable under a read-only root", run: declared },
    Spec { name: "volumes of the image: a container's own, and a mount of the request instead of one", run: own },
    Spec { name: "an entry point of one empty word counts as none", run: entrypoint },
    Spec { name: "what a container writes and removes shows in its statistics", run: written },
    Spec { name: "inspect: the OCI runtime spec on Linux, the jail's parameters on FreeBSD", run: inspect },
    Spec { name: "inspect of an image: its configuration with history, and its chain IDs", run: inspect_image },
];

/// A container of the image as it is.
fn plain(config: &mut ContainerConfig) {
    config.image = Some(ImageSpec { image: VOLUMES.to_owned(), ..ImageSpec::default() });
    config.command.clear();
}

fn declared(stage: &Stage<'_>) -> Result<()> {
    let pod = stage.pod()?;
    for readonly_rootfs in [false, true] {
        let container = pod.container(|config| {
            plain(config);
            security(config).readonly_rootfs = readonly_rootfs;
        })?;
        ensure!(container.exec("cat /kept/file")? == "of the image", "the contents are lost");
        let mode = container.exec("ls -ld /kept | { read -r mode rest; printf %.10s \"$mode\"; }")?;
        ensure!(mode == "drwxrwxrwt", "the mode is {mode}");
        for directory in ["/kept", "/missing/below", "/real/below", "/link/below"] {
            container.exec(&format!("echo x > {directory}/new && rm {directory}/new"))?;
        }
        let root = "echo x > /new-in-the-root";
        if readonly_rootfs { container.fails(root)? } else { container.exec(root).map(drop)? }
    }
    Ok(())
}

fn own(stage: &Stage<'_>) -> Result<()> {
    let (pod, volume) = (stage.pod()?, stage.directory("volume")?);
    let first = pod.container(plain)?;
    first.exec("echo first > /kept/file && echo x > /missing/below/new")?;
    let second = pod.container(|config| {
        plain(config);
        config.mounts = vec![mount(&volume, "/missing/below", false)];
    })?;
    ensure!(second.exec("cat /kept/file")? == "of the image", "two containers share a volume of their image");
    second.exec("test ! -e /missing/below/new && echo x > /missing/below/other")?;
    ensure!(volume.join("other").exists(), "the image's volume lies over a mount of the request");
    Ok(())
}

fn entrypoint(stage: &Stage<'_>) -> Result<()> {
    let pod = stage.pod()?;
    pod.container(plain)?.exec("true")?;
    let text = pod.output("unused", |config| {
        plain(config);
        config.args = ["echo", "the arguments alone"].map(str::to_owned).to_vec();
    })?;
    ensure!(text == "the arguments alone", "it printed {text:?}");
    Ok(())
}

fn written(stage: &Stage<'_>) -> Result<()> {
    const MIB: u64 = 1 << 20;
    let container = stage.pod()?.container(|_| ())?;
    let client = stage.ground.client;
    let used = || -> Result<u64> {
        let request = ContainerStatsRequest { container_id: container.id.clone() };
        let stats = client.call(client.runtime().container_stats(request))?.into_inner().stats;
        let layer = stats.and_then(|stats| stats.writable_layer).context("no writable layer")?;
        Ok(layer.used_bytes.context("no used bytes")?.value)
    };
    let empty = used()?;
    let until = |what: &str, holds: &dyn Fn(u64) -> bool| {
        eventually(Duration::from_secs(60), what, || Ok(holds(used()?).then_some(())))
    };
    // Random, so that no file system compresses it.
    container.exec("dd if=/dev/urandom of=/written bs=1024k count=8 2>/dev/null")?;
    until("the statistics with 8 MiB more", &|used| (7 * MIB..10 * MIB).contains(&used.saturating_sub(empty)))?;
    container.exec("rm /written")?;
    until("the statistics without them", &|used| used.saturating_sub(empty) < MIB)
}

fn inspect(stage: &Stage<'_>) -> Result<()> {
    let container = stage.pod()?.container(|_| ())?;
    let spec = container.info()?["runtimeSpec"].clone();
    if std::env::consts::OS == "freebsd" {
        ensure!(
            spec["jail"]["persist"] == true && spec["jail"]["path"].is_string(),
            "no parameters of a jail in {spec}"
        );
        return Ok(());
    }
    let namespaces = spec["linux"]["namespaces"].as_array().with_context(|| format!("no namespaces in {spec}"))?;
    let network = namespaces.iter().find(|namespace| namespace["type"] == "network");
    let path = network.and_then(|network| network["path"].as_str()).context("no path of the network namespace")?;
    ensure!(std::path::Path::new(path).exists(), "{path} does not exist");
    ensure!(spec["process"]["args"][0] == "tail" && spec["ociVersion"].is_string(), "not a config.json: {spec}");
    Ok(())
}

fn inspect_image(stage: &Stage<'_>) -> Result<()> {
    let image = Some(ImageSpec { image: VOLUMES.to_owned(), ..ImageSpec::default() });
    let client = stage.ground.client;
    let answer = client.call(client.image().image_status(ImageStatusRequest { image, verbose: true }))?.into_inner();
    let info: Value = serde_json::from_str(answer.info.get("info").context("a verbose status has no info")?)?;
    let spec = &info["imageSpec"];
    for (what, found) in [
        ("history", spec["history"][0]["created_by"].is_string()),
        ("rootfs", spec["rootfs"]["diff_ids"].as_array().is_some_and(|ids| ids.len() == 2)),
        ("created", spec["created"].is_string()),
        ("chain IDs", info["chainIDs"].as_array().is_some_and(|ids| ids.len() == 2 && ids[1] == info["chainID"])),
    ] {
        ensure!(found, "no {what} in {info}");
    }
    Ok(())
}
