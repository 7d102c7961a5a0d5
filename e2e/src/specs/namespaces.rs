//! The namespaces of a pod: shared memory, processes, and the host name.

use anyhow::{Result, ensure};
use proto::v1::{ContainerConfig, NamespaceMode, PodSandboxState, StopPodSandboxRequest};

use super::Spec;
use super::pod::{namespaces, pod_security, security};
use super::stage::{PATIENCE, Stage};
use crate::process::Program;
use crate::wait::eventually;

pub(super) const SPECS: &[Spec] = &[
    Spec { name: "ipc POD: shared by the pod's containers, seen by nobody else", run: pod_ipc },
    Spec { name: "ipc POD: what a container leaves is gone with its pod", run: left_segment },
    Spec { name: "ipc NODE: the host's", run: host_ipc },
    Spec { name: "pid POD: what the containers of a pod see of each other", run: pod_pid },
    Spec { name: "pid CONTAINER: a container sees its own processes only", run: container_pid },
    Spec { name: "pid NODE: the host's processes, or refused", run: host_pid },
    Spec { name: "pid TARGET: another container's processes, or refused", run: target_pid },
    Spec { name: "the pod's host name is seen by its containers and by nobody else", run: hostname },
    Spec { name: "a container cannot change a host name that is not its own", run: hostname_is_kept },
    Spec { name: "a pod without a host name has the node's, and cannot rename the node", run: no_hostname },
    Spec { name: "a pod that loses its jail or network behind the server's back is not ready", run: lost },
];

fn pod_ipc(stage: &Stage<'_>) -> Result<()> {
    let (pod, other) = (stage.pod()?, stage.pod()?);
    let (maker, reader) = (pod.container(|_| ())?, pod.container(|_| ())?);
    let segment = stage.segment(&maker, "kept-by-the-pod")?;
    let text = reader.exec(&segment.read())?;
    ensure!(text == "kept-by-the-pod", "the pod's second container reads {text:?}");
    if !stage.system.shares_segment_keys {
        reader.fails(&format!("shm read {}", segment.key))?;
    }
    let stranger = other.container(|_| ())?;
    stranger.fails(&segment.read())?;
    stranger.fails(&format!("shm read {}", segment.key))
}

/// A segment references the credentials of its maker: a leaked one would keep a pod's jail in the kernel for ever.
fn left_segment(stage: &Stage<'_>) -> Result<()> {
    let pod = stage.pod()?;
    let segment = stage.segment(&pod.container(|_| ())?, "left-behind")?;
    pod.remove()?;
    eventually(PATIENCE, "the end of a segment that a pod left", || Ok((!segment.is_on_host()?).then_some(())))
}

/// kubelet replaces a pod that is not ready, and stops it.
fn lost(stage: &Stage<'_>) -> Result<()> {
    let pod = stage.pod()?;
    let container = pod.container(|_| ())?;
    Program::new("sh", ["-c", &stage.system.lose(&pod.id)]).run()?;
    eventually(PATIENCE, "a pod that is not ready", || {
        Ok((pod.status()?.state() == PodSandboxState::SandboxNotready).then_some(()))
    })?;
    stage.pod()?.container(|_| ())?;
    let client = stage.ground.client;
    client.call(client.runtime().stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: pod.id.clone() }))?;
    let status = container.ended()?;
    ensure!(status.exit_code == 137, "exit code {} ({})", status.exit_code, status.reason);
    pod.remove()
}

fn host_ipc(stage: &Stage<'_>) -> Result<()> {
    let shared = || stage.pod_with(|config| namespaces(config).set_ipc(NamespaceMode::Node));
    let (pod, other, own) = (shared()?, shared()?, stage.pod()?);
    let maker = pod.container(|_| ())?;
    let segment = stage.segment(&maker, "kept-by-the-host")?;
    ensure!(segment.is_on_host()?, "the host does not have the segment");
    let (key, list) = (segment.key.to_string(), maker.exec("ipcs")?);
    ensure!(list.split_whitespace().any(|word| word == key), "ipcs inside does not list {key}: {list}");
    let text = other.container(|_| ())?.exec(&segment.read())?;
    ensure!(text == "kept-by-the-host", "another pod on the host's IPC reads {text:?}");
    own.container(|_| ())?.fails(&segment.read())?;
    maker.exec(&format!("shm remove {key}"))?;
    ensure!(!segment.is_on_host()?, "the host still has the segment");
    Ok(())
}

fn pid(config: &mut ContainerConfig, mode: NamespaceMode, target: &str) {
    let options = security(config).namespace_options.get_or_insert_default();
    options.set_pid(mode);
    target.clone_into(&mut options.target_id);
}

/// A container whose only process is called sleep.
fn sleeper(config: &mut ContainerConfig) {
    config.command = ["sleep", "1000"].map(str::to_owned).to_vec();
}

fn pod_pid(stage: &Stage<'_>) -> Result<()> {
    let pod = stage.pod()?;
    let _first = pod.container(sleeper)?;
    let second = pod.container(|_| ())?;
    if stage.system.shares_processes_in_a_pod {
        second.exec("pgrep sleep")?;
        let init = second.exec("tr '\\0' ' ' < /proc/1/cmdline")?;
        ensure!(!init.contains('/'), "the pod's init shows paths of the host: {init}");
        return Ok(());
    }
    second.fails("pgrep sleep")
}

fn container_pid(stage: &Stage<'_>) -> Result<()> {
    let pod = stage.pod_with(|config| namespaces(config).set_pid(NamespaceMode::Container))?;
    let first = pod.container(|config| {
        sleeper(config);
        pid(config, NamespaceMode::Container, "");
    })?;
    let second = pod.container(|config| pid(config, NamespaceMode::Container, ""))?;
    first.exec("pgrep sleep")?;
    second.fails("pgrep sleep")?;
    second.fails(&format!("kill -0 {}", std::process::id()))
}

fn host_pid(stage: &Stage<'_>) -> Result<()> {
    let node = NamespaceMode::Node;
    if !stage.system.sees_other_processes {
        stage.pod_refused("processes", |config| namespaces(config).set_pid(node))?;
        return stage.pod()?.refused("processes", |config| pid(config, node, ""));
    }
    let pod = stage.pod_with(|config| namespaces(config).set_pid(node))?;
    let container = pod.container(|config| pid(config, node, ""))?;
    container.exec(&format!("kill -0 {}", std::process::id())).map(drop)
}

fn target_pid(stage: &Stage<'_>) -> Result<()> {
    let pod = stage.pod()?;
    let target = pod.container(|config| {
        sleeper(config);
        pid(config, NamespaceMode::Container, "");
    })?;
    let aim = |config: &mut ContainerConfig| pid(config, NamespaceMode::Target, &target.id);
    if !stage.system.sees_other_processes {
        return pod.refused("processes", aim);
    }
    pod.container(aim)?.exec("pgrep sleep")?;
    pod.refused("target_id", |config| pid(config, NamespaceMode::Target, "nobody"))
}

fn hostname(stage: &Stage<'_>) -> Result<()> {
    let host = Program::new::<&str>("hostname", []).run()?;
    let (pod, other) = (stage.pod()?, stage.pod()?);
    for pod in [&pod, &other] {
        let wanted = &pod.config.hostname;
        let text = pod.container(|_| ())?.exec("hostname; echo $HOSTNAME")?;
        ensure!(text == format!("{wanted}\n{wanted}"), "hostname: {text}, not {wanted}");
    }
    ensure!(Program::new::<&str>("hostname", []).run()? == host, "the host has another name than before");
    Ok(())
}

fn hostname_is_kept(stage: &Stage<'_>) -> Result<()> {
    let host = Program::new::<&str>("hostname", []).run()?;
    let pod = stage.pod_with(|config| pod_security(config).privileged = true)?;
    pod.container(|_| ())?.fails("hostname intruder")?;
    let text = pod.container(|_| ())?.exec("hostname")?;
    ensure!(text == pod.config.hostname, "the pod is called {text} now");
    // A privileged container may rename its pod, but not the host.
    let script = "hostname intruder; echo tried";
    pod.container(|config| security(config).privileged = true)?.exec(script)?;
    eventually(PATIENCE, "the host's own name", || {
        let now = Program::new::<&str>("hostname", []).run()?;
        Ok((now == host).then_some(()))
    })
}

/// critest once renamed the machine, because this pod shared the host's UTS namespace.
fn no_hostname(stage: &Stage<'_>) -> Result<()> {
    let name = || Program::new::<&str>("hostname", []).run();
    let host = name()?;
    let pod = stage.pod_with(|config| {
        config.hostname = String::new();
        pod_security(config).privileged = true;
    })?;
    let container = pod.container(|config| security(config).privileged = true)?;
    let text = container.exec("hostname")?;
    ensure!(text == host.trim(), "it is called {text}, the node {host}");
    // It may rename its pod.
    container.exec("hostname intruder; echo tried")?;
    let now = name()?;
    if now != host {
        Program::new("hostname", [host.trim()]).run()?;
    }
    ensure!(now == host, "the node is called {now} now");
    Ok(())
}
