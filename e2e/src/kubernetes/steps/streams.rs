//! kubectl on a running pod: logs, exec, attach, cp, port-forward, debug, describe, top.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::images::BUSYBOX;
use crate::kubernetes::cluster::{Cluster, PATIENCE};
use crate::kubernetes::kubectl::container;
use crate::kubernetes::{NAMESPACE, NODE};
use crate::process::Program;
use crate::scenario::get;
use crate::wait::until;

/// A free port of the node.
const FORWARDED: &str = "18423";

/// Runs a shell command with a time-out in seconds, and returns its output.
fn for_seconds(seconds: &str, line: &str) -> Result<String> {
    Ok(Program::new("timeout", [seconds, "sh", "-c", line]).output()?.stdout)
}

pub(super) fn logs(cluster: &mut Cluster<'_, '_>) -> Result<()> {
    counted(cluster)?;
    let restarted = |pod: &Value| container(pod, "unwell")["restartCount"].as_u64() >= Some(1);
    cluster.kubectl.until("pod/unwell", PATIENCE, restarted).map(drop)
}

/// A log from its beginning, its end, and as it grows.
pub(in crate::kubernetes) fn counted(cluster: &Cluster<'_, '_>) -> Result<()> {
    let kubectl = cluster.kubectl;
    kubectl.wait("pod/counter", "condition=Ready", PATIENCE)?;
    let head = until(PATIENCE, || {
        let head = kubectl.run(&["logs", "counter", "--limit-bytes=14"])?;
        ensure!(head == "line 1\nline 2\n", "the log begins with {head:?}");
        kubectl.run(&["logs", "counter", "--timestamps", "--tail=1", "--since=10s"])
    })?;
    ensure!(head.contains("Z line "), "with --timestamps: {head:?}");
    let followed = for_seconds("4", &kubectl.words("logs -f counter --tail=1"))?;
    let numbers: Vec<u32> = followed.lines().filter_map(|line| line.strip_prefix("line ")?.parse().ok()).collect();
    ensure!(numbers.len() >= 6, "logs -f for 4 s: {followed:?}");
    ensure!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]), "logs -f left something out: {numbers:?}");
    Ok(())
}

pub(super) fn exec(cluster: &mut Cluster<'_, '_>) -> Result<()> {
    let kubectl = cluster.kubectl;
    kubectl.wait("pod/streams", "condition=Ready", PATIENCE)?;
    let output =
        kubectl.output(&["exec", "streams", "-c", "shell", "--", "sh", "-c", "echo out; echo err >&2; exit 4"])?;
    ensure!(output.stdout == "out\n" && output.stderr.starts_with("err\n"), "{output:?}");
    ensure!(output.status.code() == Some(4), "{output:?}");
    let echoed = kubectl.command(&["exec", "-i", "streams", "-c", "shell", "--", "cat"]).stdin("and back").run()?;
    ensure!(echoed == "and back", "through cat: {echoed:?}");
    // script(1) provides the terminal for -t.
    let line = kubectl.words("exec -it streams -c shell -- sh");
    let session = Program::new("script", ["-qec", &line, "/dev/null"]).stdin("tty\nstty size\nexit 5\n").output()?;
    ensure!(session.stdout.contains("/dev/pts/"), "exec -it: {session:?}");
    ensure!(session.status.code() == Some(5), "exec -it: {session:?}");
    Ok(())
}

pub(super) fn attach(cluster: &mut Cluster<'_, '_>) -> Result<()> {
    cluster.kubectl.wait("pod/streams", "condition=Ready", PATIENCE)?;
    let line = cluster.kubectl.words("attach -i streams -c shell");
    let seen = for_seconds("4", &format!("(sleep 1; echo hello; sleep 10) | {line}"))?;
    ensure!(seen.contains("got hello\n"), "attach: {seen:?}");
    let log = cluster.kubectl.run(&["logs", "streams", "-c", "shell"])?;
    ensure!(log.contains("got hello\n"), "what an attached client saw is not in the log: {log:?}");
    Ok(())
}

pub(super) fn copy(cluster: &mut Cluster<'_, '_>) -> Result<()> {
    let kubectl = cluster.kubectl;
    kubectl.wait("pod/streams", "condition=Ready", PATIENCE)?;
    let (there, back) = (cluster.site.dir().join("copied"), cluster.site.dir().join("copied-back"));
    let bytes: Vec<u8> = (0..3_u32 << 20).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    std::fs::write(&there, &bytes)?;
    let inside = format!("{NAMESPACE}/streams:/tmp/copied");
    kubectl.run(&["cp", "-c", "shell", &there.to_string_lossy(), &inside])?;
    kubectl.run(&["cp", "-c", "shell", &inside, &back.to_string_lossy()])?;
    ensure!(std::fs::read(&back)? == bytes, "what was copied into the pod and back is not what it was");
    Ok(())
}

pub(super) fn port_forward(cluster: &mut Cluster<'_, '_>) -> Result<()> {
    let kubectl = cluster.kubectl;
    kubectl.wait("pod/streams", "condition=Ready", PATIENCE)?;
    let log = cluster.site.dir().join("port-forward.log");
    let ports = format!("{FORWARDED}:80");
    let forward = kubectl.command(&["port-forward", "pod/streams", &ports, "--address=127.0.0.1"]).background(&log)?;
    let pages: Vec<Result<String>> = (0..3).map(|_| get(&format!("127.0.0.1:{FORWARDED}"))).collect();
    forward.kill()?;
    for page in pages {
        let page = page?;
        ensure!(page.contains("It works!"), "through port-forward: {page}");
    }
    Ok(())
}

/// An ephemeral container sees the processes of a running one.
pub(super) fn debug(cluster: &mut Cluster<'_, '_>) -> Result<()> {
    let kubectl = cluster.kubectl;
    kubectl.wait("pod/streams", "condition=Ready", PATIENCE)?;
    let image = format!("--image={BUSYBOX}");
    let fixed = ["debug", "streams", &image, "--target=httpd", "-c", "debugger", "--profile=general", "--attach=false"];
    kubectl.run(&[&fixed[..], &["--", "sleep", "100000"]].concat())?;
    kubectl.until("pod/streams", PATIENCE, |pod| container(pod, "debugger")["state"]["running"].is_object())?;
    let processes = kubectl.exec("streams:debugger", "ps -o args; wget -q -O - http://127.0.0.1/")?;
    for wanted in ["httpd -f", "It works!"] {
        ensure!(processes.contains(wanted), "the debugger sees no {wanted:?}:\n{processes}");
    }
    let session = Program::new("script", ["-qec", &debug_line(cluster, &image), "/dev/null"]);
    let session = session.stdin("echo in $(tty)\nexit\n").output()?;
    ensure!(session.stdout.contains("in /dev/pts/"), "debug -it: {session:?}");
    Ok(())
}

fn debug_line(cluster: &Cluster<'_, '_>, image: &str) -> String {
    cluster.kubectl.words(&format!("debug -it streams {image} -c terminal --profile=general -- sh"))
}

/// A pod in the node's namespaces, with the node's root as a volume.
pub(super) fn debug_node(cluster: &mut Cluster<'_, '_>) -> Result<()> {
    let kubectl = cluster.kubectl;
    let (node, image) = (format!("node/{NODE}"), format!("--image={BUSYBOX}"));
    let script = "cat /host/proc/sys/kernel/hostname; cat /proc/[0-9]*/comm 2>/dev/null; true";
    let said =
        kubectl.run(&["debug", &node, &image, "--profile=sysadmin", "--attach=false", "--", "sh", "-c", script])?;
    let pod = said.split_whitespace().find(|word| word.starts_with("node-debugger-"));
    let pod = pod.with_context(|| format!("kubectl debug said {said:?}"))?;
    kubectl.until(&format!("pod/{pod}"), PATIENCE, |pod| pod["status"]["phase"] == "Succeeded")?;
    let seen = kubectl.run(&["logs", pod])?;
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname")?;
    ensure!(seen.starts_with(&name) && seen.contains("kubelet"), "the node's debugger saw {seen:?}");
    Ok(())
}

pub(super) fn describe(cluster: &mut Cluster<'_, '_>) -> Result<()> {
    let kubectl = cluster.kubectl;
    kubectl.wait("pod/counter", "condition=Ready", PATIENCE)?;
    let text = kubectl.run(&["describe", "pod/counter"])?;
    for wanted in ["Container ID:  cellblock://", "Ready:          True", "Created", "Started"] {
        ensure!(text.contains(wanted), "describe says no {wanted:?}:\n{text}");
    }
    let path = format!("/api/v1/nodes/{NODE}/proxy/stats/summary");
    until(PATIENCE, || {
        let summary: Value = serde_json::from_str(&kubectl.raw(&path)?)?;
        let pods = summary["pods"].as_array().context("no pods")?;
        let pod = pods.iter().find(|pod| pod["podRef"]["name"] == "counter").context("the pod is not in it")?;
        let container = &pod["containers"][0];
        for value in ["/cpu/usageCoreNanoSeconds", "/memory/workingSetBytes", "/rootfs/usedBytes", "/logs/usedBytes"] {
            let number = container.pointer(value).and_then(Value::as_u64);
            ensure!(number > Some(0), "{value} is {number:?} in {container}");
        }
        let node = summary.pointer("/node/runtime/imageFs/usedBytes").and_then(Value::as_u64);
        ensure!(node > Some(0), "the images take {node:?} bytes");
        Ok(())
    })
}

/// kubelet rotates a long log, and no line is lost meanwhile.
pub(super) fn rotation(cluster: &mut Cluster<'_, '_>) -> Result<()> {
    let kubectl = cluster.kubectl;
    kubectl.wait("pod/noisy", "condition=Ready", PATIENCE)?;
    let pod = kubectl.get(&["pod/noisy"])?;
    let uid = pod["metadata"]["uid"].as_str().context("a pod has a uid")?;
    let dir = cluster.site.dir().join(format!("kubelet/logs/{NAMESPACE}_noisy_{uid}/noisy"));
    let rotated = || -> Result<usize> { Ok(std::fs::read_dir(&dir)?.count()) };
    until(PATIENCE, || {
        let count = rotated()?;
        ensure!((3..=4).contains(&count), "{} has {count} files", dir.display());
        Ok(())
    })?;
    let last = || -> Result<u32> {
        let line = kubectl.run(&["logs", "noisy", "--tail=1"])?;
        let number = line.strip_prefix("line ").and_then(|rest| rest.split(':').next()?.parse().ok());
        number.with_context(|| format!("the last line is {line:.40?}"))
    };
    let first = last()?;
    std::thread::sleep(Duration::from_secs(1));
    ensure!(last()? > first, "the log does not go on after its rotation");
    Ok(())
}
