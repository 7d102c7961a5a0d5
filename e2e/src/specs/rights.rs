//! The rights of a container: a read-only root, privileges, capabilities, masked and read-only paths.

use anyhow::{Result, ensure};
use proto::v1::{Capability, ContainerConfig, ImageSpec, Int64Value};

use super::Spec;
use super::pod::{Pod, mount, pod_security, security};
use super::stage::Stage;
use crate::images::NO_NEW_PRIVS;
use crate::process::Program;

pub(super) const SPECS: &[Spec] = &[
    Spec { name: "readonly_rootfs false: the root can be written", run: writable_root },
    Spec { name: "readonly_rootfs true: the root cannot be written", run: readonly_root },
    Spec { name: "readonly_rootfs true: containers of one image, in which nothing must be made", run: readonly_roots },
    Spec { name: "privileged true: it may mount", run: privileged },
    Spec { name: "privileged false: it may not mount", run: not_privileged },
    Spec { name: "privileged in a pod that is not is refused", run: privileged_in_another_pod },
    Spec { name: "no_new_privs false: a set-user-id program gains its owner", run: new_privileges },
    Spec { name: "no_new_privs true: a set-user-id program gains nothing", run: no_new_privileges },
    Spec { name: "the host's users do not reach a set-user-id program of a container", run: out_of_reach },
    Spec { name: "a capability that is dropped is gone", run: dropped_capability },
    Spec { name: "a capability that is added is there", run: added_capability },
    Spec { name: "a capability that cannot be given is refused by its name", run: refused_capability },
    Spec { name: "masked_paths hide what the image has", run: masked_path },
    Spec { name: "readonly_paths cannot be written", run: readonly_path },
];

/// Needs the right to mount.
const MOUNT: &str = "mount -t tmpfs tmpfs /tmp && echo mounted > /tmp/mark && cat /tmp/mark";
/// An unprivileged user of the host: nobody, on both systems.
const NOBODY: u32 = 65_534;
/// Needs a raw socket.
const PING: &str = "ping -c 1 127.0.0.1";

/// A set-user-id file that would make a user of the host root (jail(8), BUGS; CVE-2024-25621): only users in the container may
/// reach it.
fn out_of_reach(stage: &Stage<'_>) -> Result<()> {
    let container = stage.pod()?.container(|_| ())?;
    container.exec("cp /bin/sh /mine && chmod 4755 /mine && chmod 755 /")?;
    let program = container.rootfs()?.join("mine");
    let may_run = format!("test -x {}", program.display());
    ensure!(Program::new("sh", ["-c", &may_run]).output()?.status.success(), "root itself does not reach {may_run}");
    let output = Program::new("sh", ["-c", &may_run]).user(NOBODY).output()?;
    ensure!(!output.status.success(), "user {NOBODY} reaches {}", program.display());
    Ok(())
}

fn writable_root(stage: &Stage<'_>) -> Result<()> {
    let container = stage.pod()?.container(|config| security(config).readonly_rootfs = false)?;
    let text = container.exec("echo written > /new && cat /new")?;
    ensure!(text == "written", "{text}");
    Ok(())
}

fn readonly_root(stage: &Stage<'_>) -> Result<()> {
    let pod = stage.pod()?;
    let volume = stage.directory("volume")?;
    let container = pod.container(|config| {
        security(config).readonly_rootfs = true;
        config.mounts = vec![mount(&volume, "/made/for/it", false)];
    })?;
    for path in ["/new", "/etc/new", "/tmp/new"] {
        container.fails(&format!("echo x > {path}"))?;
    }
    // Mounts in a read-only root stay writable, and their mount points were made before.
    container.exec("echo x > /made/for/it/new").map(drop)
}

fn readonly_roots(stage: &Stage<'_>) -> Result<()> {
    let pod = stage.pod()?;
    let readonly = || pod.container(|config| security(config).readonly_rootfs = true);
    let (one, other) = (readonly()?, readonly()?);
    let writable = pod.container(|_| ())?;
    writable.exec("echo x > /etc/new && echo x >> /etc/passwd")?;
    for container in [&one, &other] {
        container.fails("echo x > /etc/new")?;
        container.fails("echo x >> /etc/passwd")?;
        container.exec("test ! -e /etc/new && cat /etc/resolv.conf && echo x > /dev/null")?;
    }
    Ok(())
}

fn privileged_pod<'a>(stage: &'a Stage<'_>) -> Result<Pod<'a>> {
    stage.pod_with(|config| pod_security(config).privileged = true)
}

fn privileged(stage: &Stage<'_>) -> Result<()> {
    let pod = privileged_pod(stage)?;
    let container = pod.container(|config| security(config).privileged = true)?;
    let text = container.exec(MOUNT)?;
    ensure!(text == "mounted", "{text}");
    // A privileged pod does not make its containers privileged.
    pod.container(|_| ())?.fails(MOUNT)
}

fn not_privileged(stage: &Stage<'_>) -> Result<()> {
    stage.pod()?.container(|config| security(config).privileged = false)?.fails(MOUNT)
}

fn privileged_in_another_pod(stage: &Stage<'_>) -> Result<()> {
    stage.pod()?.refused("linux.security_context.privileged", |config| security(config).privileged = true)
}

/// The user that a set-user-id program of root's runs as when user 1000 starts it.
fn effective_user(stage: &Stage<'_>, no_new_privs: bool) -> Result<String> {
    let container = stage.pod()?.container(|config| {
        config.image = Some(ImageSpec { image: NO_NEW_PRIVS.to_owned(), ..ImageSpec::default() });
        config.command.clear();
        security(config).run_as_user = Some(Int64Value { value: 1000 });
        security(config).no_new_privs = no_new_privs;
    })?;
    container.ended()?;
    let text = container.log()?;
    Ok(text.split_whitespace().last().unwrap_or_default().to_owned())
}

fn new_privileges(stage: &Stage<'_>) -> Result<()> {
    let user = effective_user(stage, false)?;
    ensure!(user == "0", "the program ran as user {user}");
    Ok(())
}

fn no_new_privileges(stage: &Stage<'_>) -> Result<()> {
    let user = effective_user(stage, true)?;
    ensure!(user == "1000", "the program ran as user {user}");
    Ok(())
}

fn capabilities(config: &mut ContainerConfig) -> &mut Capability {
    security(config).capabilities.get_or_insert_default()
}

fn dropped_capability(stage: &Stage<'_>) -> Result<()> {
    let sysctls = stage.system.raw_ping.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let pod = stage.pod_with(|config| config.linux.get_or_insert_default().sysctls.extend(sysctls))?;
    pod.container(|_| ())?.exec(PING)?;
    for dropped in ["NET_RAW", "ALL"] {
        let container = pod.container(|config| capabilities(config).drop_capabilities = vec![dropped.to_owned()])?;
        container.fails(PING)?;
    }
    Ok(())
}

fn added_capability(stage: &Stage<'_>) -> Result<()> {
    // Mounting needs an administrator's rights on both systems.
    let container =
        stage.pod()?.container(|config| capabilities(config).add_capabilities = vec!["SYS_ADMIN".to_owned()])?;
    container.exec(MOUNT).map(drop)
}

fn refused_capability(stage: &Stage<'_>) -> Result<()> {
    let name = stage.system.refused_capability;
    let word = name.trim_start_matches("CAP_");
    stage.pod()?.refused(word, |config| capabilities(config).add_capabilities = vec![name.to_owned()])
}

fn masked_path(stage: &Stage<'_>) -> Result<()> {
    let pod = stage.pod()?;
    let script = "cat /etc/group | wc -c";
    let shown = pod.container(|_| ())?.exec(script)?;
    ensure!(shown.trim() != "0", "the image has nothing to hide");
    let container = pod.container(|config| {
        security(config).masked_paths = ["/etc/group", "/no/such/path"].map(str::to_owned).to_vec();
    })?;
    let hidden = container.exec(script)?;
    ensure!(hidden.trim() == "0", "{hidden} bytes can be seen");
    Ok(())
}

fn readonly_path(stage: &Stage<'_>) -> Result<()> {
    let pod = stage.pod()?;
    let container = pod.container(|config| {
        security(config).readonly_paths = ["/root", "/no/such/path"].map(str::to_owned).to_vec();
    })?;
    container.fails("echo x > /root/new")?;
    container.exec("ls /root && echo x > /tmp/new").map(drop)
}
