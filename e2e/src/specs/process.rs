//! A container's first process: its working directory, environment, output and exit.

use anyhow::{Result, ensure};
use proto::v1::{ContainerConfig, KeyValue, LinuxContainerResources};

use super::Spec;
use super::stage::Stage;

pub(super) const SPECS: &[Spec] = &[
    Spec { name: "working_dir is made when it is missing", run: working_dir },
    Spec { name: "envs join and replace the image's", run: environment },
    Spec { name: "a container over its memory limit ends with 137 and OOMKilled", run: out_of_memory },
    Spec { name: "a container within its memory limit is left alone", run: within_memory },
    Spec { name: "pids.max limits the processes of a container", run: too_many_processes },
    Spec { name: "exit codes are told with their reasons", run: exit_codes },
];

/// The memory limit of a container, in bytes: enough for a shell.
const LIMIT: i64 = 64 << 20;
/// The buffer of dd, in bytes, which it fills.
const TOO_MUCH: u32 = 512 << 20;
const LITTLE: u32 = 8 << 20;

fn working_dir(stage: &Stage<'_>) -> Result<()> {
    let pod = stage.pod()?;
    let change = |config: &mut ContainerConfig| config.working_dir = "/made/by/the/runtime".to_owned();
    let printed = pod.output("pwd && echo x > file && cat /made/by/the/runtime/file", change)?;
    ensure!(printed == "/made/by/the/runtime\nx", "{printed}");
    let later = pod.container(change)?.exec("pwd")?;
    ensure!(later == "/made/by/the/runtime", "a process that was started later is in {later}");
    Ok(())
}

fn environment(stage: &Stage<'_>) -> Result<()> {
    let change = |config: &mut ContainerConfig| {
        let path = "/somewhere:/usr/sbin:/usr/bin:/sbin:/bin";
        let pairs = [("GREETING", "hello = world"), ("EMPTY", ""), ("PATH", path)];
        config.envs = pairs.map(|(key, value)| KeyValue { key: key.to_owned(), value: value.into() }).to_vec();
    };
    let script = "echo \"$GREETING\"; echo ${EMPTY-unset}; echo $PATH";
    let wanted = "hello = world\n\n/somewhere:/usr/sbin:/usr/bin:/sbin:/bin";
    let pod = stage.pod()?;
    let first = pod.output(script, change)?;
    ensure!(first == wanted, "the first process has {first:?}");
    let later = pod.container(change)?.exec(script)?;
    ensure!(later == wanted, "a process that was started later has {later:?}");
    Ok(())
}

fn limited(config: &mut ContainerConfig) {
    let resources = LinuxContainerResources { memory_limit_in_bytes: LIMIT, ..LinuxContainerResources::default() };
    config.linux.get_or_insert_default().resources = Some(resources);
}

fn too_many_processes(stage: &Stage<'_>) -> Result<()> {
    let unified = |config: &mut ContainerConfig| {
        let unified = [("pids.max".to_owned(), "4".to_owned())].into();
        let resources = LinuxContainerResources { unified, ..LinuxContainerResources::default() };
        config.linux.get_or_insert_default().resources = Some(resources);
    };
    let script = "for i in 1 2 3 4 5 6 7; do sleep 5 & done; echo all";
    let pod = stage.pod()?;
    let printed = pod.output(script, |_| ())?;
    ensure!(printed.contains("all"), "without a limit: {printed}");
    let container = pod.container(|config| {
        unified(config);
        config.command = ["sh", "-c", script].map(str::to_owned).to_vec();
    })?;
    container.ended()?;
    ensure!(!container.log()?.contains("all"), "all processes were started");
    Ok(())
}

fn out_of_memory(stage: &Stage<'_>) -> Result<()> {
    let pod = stage.pod()?;
    // It does not exit by itself: FreeBSD's monitor polls four times a second.
    let script = format!("dd if=/dev/zero of=/dev/null bs={TOO_MUCH}");
    let container = pod.container(|config| {
        limited(config);
        config.command = ["sh", "-c", &format!("exec {script}")].map(str::to_owned).to_vec();
    })?;
    let status = container.ended()?;
    ensure!(
        (status.exit_code, &*status.reason) == (137, "OOMKilled"),
        "exit code {}, {}",
        status.exit_code,
        status.reason
    );
    Ok(())
}

fn within_memory(stage: &Stage<'_>) -> Result<()> {
    let script = format!("dd if=/dev/zero of=/dev/null bs={LITTLE} count=20 2>/dev/null; echo done");
    let text = stage.pod()?.output(&script, limited)?;
    ensure!(text == "done", "{text}");
    Ok(())
}

fn exit_codes(stage: &Stage<'_>) -> Result<()> {
    let pod = stage.pod()?;
    for (script, code, reason) in [("exit 0", 0, "Completed"), ("exit 7", 7, "Error")] {
        let container = pod.container(|config| config.command = ["sh", "-c", script].map(str::to_owned).to_vec())?;
        let status = container.ended()?;
        let got = (status.exit_code, &*status.reason);
        ensure!(got == (code, reason), "{script}: {got:?}");
        ensure!(status.started_at > 0 && status.finished_at >= status.started_at, "{script}: {status:?}");
    }
    Ok(())
}
