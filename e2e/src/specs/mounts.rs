//! Mounts of the host in a container: their rights and their mount points.

use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Result, ensure};
use proto::v1::MountPropagation;

use super::Spec;
use super::pod::{mount, security};
use super::stage::Stage;

pub(super) const SPECS: &[Spec] = &[
    Spec { name: "a mount that is not readonly is written through to the host", run: writable },
    Spec { name: "a readonly mount refuses every write", run: readonly },
    Spec { name: "a mount of a single file", run: file },
    Spec { name: "a directory is made for a mount whose host path is missing", run: missing },
    Spec { name: "a symbolic link as host path leads to what it names", run: linked_source },
    Spec { name: "a symbolic link below a mount's place does not lead out of the root", run: linked_destination },
    Spec { name: "mount propagation: as asked, or refused", run: propagation },
    Spec { name: "a mount does not hide one below it that was named before it", run: nested },
    Spec { name: "mounts below /dev, as kubelet's termination log", run: below_dev },
];

fn writable(stage: &Stage<'_>) -> Result<()> {
    let volume = stage.directory("volume")?;
    std::fs::write(volume.join("there"), "before\n")?;
    let container = stage.pod()?.container(|config| config.mounts = vec![mount(&volume, "/made/on/the/way", false)])?;
    let text = container.exec("cd /made/on/the/way && cat there && echo inside > new && rm there")?;
    ensure!(text == "before", "{text}");
    ensure!(std::fs::read_to_string(volume.join("new"))? == "inside\n", "the host does not have what was written");
    ensure!(!volume.join("there").exists(), "the host still has what was removed");
    let mounts = container.status()?.mounts;
    let [one] = &mounts[..] else { anyhow::bail!("the status has the mounts {mounts:?}") };
    ensure!(one.container_path == "/made/on/the/way" && !one.readonly, "the status has {one:?}");
    Ok(())
}

fn readonly(stage: &Stage<'_>) -> Result<()> {
    let volume = stage.directory("volume")?;
    std::fs::write(volume.join("there"), "before\n")?;
    let container = stage.pod()?.container(|config| config.mounts = vec![mount(&volume, "/data", true)])?;
    ensure!(container.exec("cat /data/there")? == "before", "it cannot be read");
    for script in ["echo x > /data/new", "echo x > /data/there", "rm /data/there", "mkdir /data/dir"] {
        container.fails(script)?;
    }
    ensure!(std::fs::read_to_string(volume.join("there"))? == "before\n", "the host's file was changed");
    ensure!(std::fs::read_dir(&volume)?.count() == 1, "the host has more than before");
    ensure!(container.status()?.mounts.iter().all(|mount| mount.readonly), "the status does not say readonly");
    Ok(())
}

fn file(stage: &Stage<'_>) -> Result<()> {
    let source = stage.directory("volume")?.join("file");
    std::fs::write(&source, "of the host\n")?;
    let container = stage.pod()?.container(|config| {
        config.mounts = vec![mount(&source, "/etc/one-file", false), mount(&source, "/etc/protected", true)];
    })?;
    ensure!(container.exec("cat /etc/one-file")? == "of the host", "it cannot be read");
    container.exec("echo of the container >> /etc/one-file")?;
    container.fails("echo x >> /etc/protected")?;
    let text = std::fs::read_to_string(&source)?;
    ensure!(text == "of the host\nof the container\n", "the host has {text:?}");
    Ok(())
}

fn missing(stage: &Stage<'_>) -> Result<()> {
    let path = stage.directory("volume")?.join("missing/below");
    let container = stage.pod()?.container(|config| config.mounts = vec![mount(&path, "/data", false)])?;
    container.exec("echo x > /data/new")?;
    ensure!(path.join("new").exists(), "what was written is not on the host");
    Ok(())
}

fn linked_source(stage: &Stage<'_>) -> Result<()> {
    let (volume, link) = (stage.directory("volume")?, stage.directory("links")?.join("link"));
    std::fs::write(volume.join("mark"), "behind the link\n")?;
    symlink(&volume, &link)?;
    let container = stage.pod()?.container(|config| config.mounts = vec![mount(&link, "/data", false)])?;
    ensure!(container.exec("cat /data/mark")? == "behind the link", "it leads elsewhere");
    container.exec("echo x > /data/new")?;
    ensure!(volume.join("new").exists(), "what was written is not where the link leads");
    Ok(())
}

/// A writable volume holds symbolic links; the next container has mounts below them.
fn linked_destination(stage: &Stage<'_>) -> Result<()> {
    let (host, volume, shared) = (stage.directory("host")?, stage.directory("volume")?, stage.directory("shared")?);
    std::fs::create_dir(host.join("target"))?;
    std::fs::write(volume.join("mark"), "mounted\n")?;
    symlink(&host, shared.join("absolute"))?;
    symlink("../../../../../../../../../../../../etc", shared.join("upwards"))?;
    let places = ["/shared/absolute/target", "/shared/upwards/specs-were-here"];
    let made = stage.pod()?.container(|config| {
        config.mounts = vec![mount(&shared, "/shared", false)];
        config.mounts.extend(places.map(|place| mount(&volume, place, false)));
    });
    // It may be refused; a mount must be inside.
    if let Ok(container) = &made {
        for place in places {
            ensure!(container.exec(&format!("cat {place}/mark"))? == "mounted", "{place} is not the volume");
        }
        container.exec("cd /shared/absolute/target && echo x > new")?;
        ensure!(volume.join("new").exists(), "what was written is not in the volume");
    }
    ensure!(std::fs::read_dir(host.join("target"))?.next().is_none(), "it was mounted on the host");
    ensure!(!Path::new("/etc/specs-were-here").exists(), "a directory was made on the host");
    Ok(())
}

fn nested(stage: &Stage<'_>) -> Result<()> {
    let (outer, inner) = (stage.directory("outer")?, stage.directory("inner")?);
    std::fs::write(outer.join("mark"), "outer\n")?;
    std::fs::write(inner.join("mark"), "inner\n")?;
    let container = stage.pod()?.container(|config| {
        config.mounts = vec![mount(&inner, "/m/n/o", false), mount(&inner, "/m/n", false), mount(&outer, "/m", false)];
    })?;
    let text = container.exec("cat /m/mark /m/n/mark /m/n/o/mark")?;
    ensure!(text == "outer\ninner\ninner", "it reads {text:?}");
    Ok(())
}

/// kubelet mounts its termination message there in every container.
fn below_dev(stage: &Stage<'_>) -> Result<()> {
    let volume = stage.directory("volume")?;
    let log = volume.join("log");
    std::fs::write(&log, "")?;
    std::fs::create_dir(volume.join("directory"))?;
    let pod = stage.pod()?;
    for readonly_rootfs in [false, true] {
        let container = pod.container(|config| {
            security(config).readonly_rootfs = readonly_rootfs;
            let directory = volume.join("directory");
            config.mounts = vec![
                mount(&log, "/dev/termination-log", false),
                mount(&directory, "/dev/made/one", false),
                mount(&log, "/dev/made/two", true),
            ];
        })?;
        container.exec(&format!("echo {readonly_rootfs} >> /dev/termination-log && echo x > /dev/made/one/file"))?;
        container.fails("echo x >> /dev/made/two")?;
        container.exec("echo x > /dev/null && test -c /dev/null")?;
    }
    let text = std::fs::read_to_string(&log)?;
    ensure!(text == "false\ntrue\n", "the host has {text:?}");
    ensure!(volume.join("directory/file").exists(), "what was written below /dev/made is not in the volume");
    Ok(())
}

/// On a private file system of its own: what the server does to a mount must not stay on the machine's.
fn propagation(stage: &Stage<'_>) -> Result<()> {
    let volume = stage.directory("volume")?;
    let _volume = stage.tmpfs(&volume)?;
    let pod = stage.pod()?;
    let mut wanted = mount(&volume, "/data", false);
    wanted.set_propagation(MountPropagation::PropagationBidirectional);
    pod.refused("/data", |config| config.mounts = vec![wanted.clone()])?;
    wanted.set_propagation(MountPropagation::PropagationHostToContainer);
    let container = pod.container(|config| config.mounts = vec![wanted])?;
    container.exec("echo x > /data/new")?;
    let later = stage.directory("volume/later")?;
    let mounted = stage.tmpfs(&later)?;
    std::fs::write(later.join("file"), "")?;
    if stage.system.propagates_mounts {
        container.exec("test -e /data/later/file")?;
    } else {
        container.fails("test -e /data/later/file")?;
    }
    drop(mounted);
    pod.remove()
}
