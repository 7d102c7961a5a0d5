//! The steps on the FreeBSD node.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::remote::Service;
use super::{Cluster, Kubectl, LINUX, NAMESPACE, NODE, Nodes, PATIENCE, has, many};
use crate::images::BUSYBOX;
use crate::kubernetes::kubectl::container;
use crate::kubernetes::steps::{self, restarts, streams};
use crate::scenario::get;
use crate::wait::until;

/// The steps of the Linux node that ask nothing of Linux.
const SHARED: [&str; 12] = [
    "a Deployment rolls, scales and is undone",
    "a StatefulSet keeps its names",
    "Jobs complete and fail",
    "init containers and sidecars",
    "crash loops and termination messages",
    "a container without memory is OOMKilled",
    "a pod that writes too much is evicted",
    "DNS and hosts",
    "pull policies",
    "kubectl attach",
    "kubectl port-forward",
    "a CronJob runs",
];
/// As in the manifest.
const HOST_PORT: u16 = 18_421;
/// How long the network is cut: the controller manager calls a node lost after 50 s.
const CUT: u32 = 60;
/// The time-out of what waits for a lost node or a restarted machine.
pub(super) const LONG: Duration = Duration::from_secs(600);
/// How long killed programs do not run.
const DOWN: Duration = Duration::from_secs(2);

/// Manifests of steps of our own.
const OURS_TEXT: &str = include_str!("../../../kubernetes/manifests/freebsd.yaml");
const LINUX_TEXT: &str = include_str!("../../../kubernetes/manifests/linux-client.yaml");
const STREAMS: &str = include_str!("../../../kubernetes/manifests/streams.yaml");
const PORTS: &str = include_str!("../../../kubernetes/manifests/network.yaml");
const MANY: &str = include_str!("../../../kubernetes/manifests/many.yaml");
const WORKLOADS: &str = include_str!("../../../kubernetes/manifests/workloads.yaml");

type Run = fn(&mut Nodes<'_, '_, '_>) -> Result<()>;

const OURS: [Own; 14] = [
    Own { name: "exec, http and tcp probes", manifest: OURS_TEXT, run: probes },
    Own { name: "volumes of every kind", manifest: OURS_TEXT, run: volumes },
    Own { name: "users, groups, a read-only root", manifest: OURS_TEXT, run: user },
    Own { name: "a DaemonSet on the host's network", manifest: OURS_TEXT, run: host_network },
    Own { name: "pods of both nodes reach each other, and host ports", manifest: PORTS, run: network },
    Own { name: "kubectl logs, logs -f", manifest: STREAMS, run: logs },
    Own { name: "kubectl exec, exec -it", manifest: STREAMS, run: exec },
    Own { name: "kubelet is killed and started", manifest: STREAMS, run: kubelet_killed },
    Own { name: "Cellblock is killed and started", manifest: STREAMS, run: cellblock_killed },
    Own { name: "both are killed and started", manifest: STREAMS, run: both_killed },
    Own { name: "the network is cut for a minute", manifest: STREAMS, run: network_cut },
    Own { name: "20 pods for ten minutes", manifest: MANY, run: many::run },
    Own { name: "the node is drained", manifest: WORKLOADS, run: drained },
    Own { name: "the machine restarts", manifest: WORKLOADS, run: restarted },
];

/// A step of the FreeBSD node alone.
pub(super) struct Own {
    name: &'static str,
    manifest: &'static str,
    run: Run,
}

pub(super) enum Step {
    Shared(&'static steps::Step),
    Own(&'static Own),
}

impl Step {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Shared(step) => step.name,
            Self::Own(step) => step.name,
        }
    }

    /// The manifest of its objects.
    pub(super) fn manifest(&self) -> &'static str {
        match self {
            Self::Shared(step) => step.manifest,
            Self::Own(step) => step.manifest,
        }
    }

    pub(super) fn run(&self, nodes: &mut Nodes<'_, '_, '_>) -> Result<()> {
        match self {
            Self::Shared(step) => (step.run)(&mut nodes.cluster),
            Self::Own(step) => (step.run)(nodes),
        }
    }
}

/// The steps whose name contains a text.
pub(super) fn selected(only: Option<&str>) -> Vec<Step> {
    let shared = steps::STEPS.iter().filter(|step| SHARED.contains(&step.name)).map(Step::Shared);
    let all = shared.chain(OURS.iter().map(Step::Own));
    all.filter(|step| only.is_none_or(|only| step.name().contains(only))).collect()
}

fn probes(nodes: &mut Nodes<'_, '_, '_>) -> Result<()> {
    let kubectl = nodes.cluster.kubectl;
    let ready = |pod: &Value| container(pod, "http")["ready"] == true;
    let pod = kubectl.until("pod/probed", PATIENCE, ready)?;
    ensure!(!has(&pod, "Ready"), "it is ready without its gate: {}", pod["status"]);
    kubectl.exec("probed:gate", "touch /tmp/ready")?;
    kubectl.wait("pod/probed", "condition=Ready", PATIENCE)?;
    kubectl.exec("probed:gate", "rm /tmp/ready")?;
    kubectl.wait("pod/probed", "condition=Ready=False", PATIENCE)
}

/// The output of a script in the pod `mounted`.
const SEEN: [(&str, &str); 12] = [
    ("cat /settings/colour", "red"),
    ("cat /etc/colour", "red"),
    ("cat /secret/word", "sesame"),
    ("stat -L -f %Lp:%g /secret/word", "440:2000"),
    ("grep colour /projected/labels", "colour=\"red\""),
    ("test -s /projected/token && echo token", "token"),
    ("echo $POD_NAME $COLOUR $MEMORY", "mounted red 268435456"),
    ("ifconfig | grep -q \"inet $POD_IP \" && echo same", "same"),
    ("echo x >/disk/file && stat -f %g /disk/file", "2000"),
    ("echo y >/memory/file && cat /memory/file", "y"),
    ("echo part >/part/file && cat /disk/part/file", "part"),
    ("touch /settings/new 2>/dev/null || echo read-only", "read-only"),
];

fn volumes(nodes: &mut Nodes<'_, '_, '_>) -> Result<()> {
    let kubectl = nodes.cluster.kubectl;
    kubectl.wait("pod/mounted", "condition=Ready", PATIENCE)?;
    for (script, wanted) in SEEN {
        let seen = kubectl.exec("mounted", script)?;
        ensure!(seen.trim() == wanted, "{script}: {seen:?} instead of {wanted:?}");
    }
    let mounts = nodes.remote.run("mount -t tmpfs")?;
    ensure!(mounts.contains("empty-dir/memory "), "the memory-backed volume is no tmpfs:\n{mounts}");
    kubectl.run(&["patch", "configmap/colours", "-p", "{\"data\": {\"colour\": \"blue\"}}"])?;
    until(LONG, || {
        let seen = kubectl.exec("mounted", "cat /settings/colour")?;
        ensure!(seen == "blue", "the volume still has {seen:?}");
        Ok(())
    })
}

fn user(nodes: &mut Nodes<'_, '_, '_>) -> Result<()> {
    let kubectl = nodes.cluster.kubectl;
    kubectl.wait("pod/somebody", "condition=Ready", PATIENCE)?;
    let seen = kubectl.exec("somebody", "id -u; id -g; id -G; touch /new 2>/dev/null || echo read-only")?;
    ensure!(seen == "1234\n2345\n2345 3456\nread-only\n", "the user sees {seen:?}");
    Ok(())
}

fn logs(nodes: &mut Nodes<'_, '_, '_>) -> Result<()> {
    streams::counted(&nodes.cluster)
}

fn exec(nodes: &mut Nodes<'_, '_, '_>) -> Result<()> {
    let kubectl = nodes.cluster.kubectl;
    kubectl.wait("pod/streams", "condition=Ready", PATIENCE)?;
    let script = "echo out; echo err >&2; exit 4";
    let output = kubectl.output(&["exec", "streams", "-c", "shell", "--", "sh", "-c", script])?;
    ensure!(output.stdout == "out\n" && output.stderr.starts_with("err\n"), "{output:?}");
    ensure!(output.status.code() == Some(4), "{output:?}");
    let echoed = kubectl.command(&["exec", "-i", "streams", "-c", "shell", "--", "cat"]).stdin("and back").run()?;
    ensure!(echoed == "and back", "through cat: {echoed:?}");
    // script(1) provides the terminal for -t.
    let line = kubectl.words("exec -it streams -c shell -- sh");
    let session = super::Program::new("script", ["-qec", &line, "/dev/null"]);
    let session = session.stdin("test -t 0 && echo terminal\nexit 5\n").output()?;
    ensure!(session.stdout.contains("terminal\r\n"), "exec -it: {session:?}");
    ensure!(session.status.code() == Some(5), "exec -it: {session:?}");
    Ok(())
}

fn host_network(nodes: &mut Nodes<'_, '_, '_>) -> Result<()> {
    let pods = nodes.cluster.kubectl.until("daemonset/host", PATIENCE, |set| set["status"]["numberReady"] == 1);
    pods.context("the DaemonSet is not ready")?;
    let pods = nodes.cluster.kubectl.get(&["pods", "-l", "app=host"])?;
    let address = &pods["items"][0]["status"]["podIP"];
    ensure!(*address == nodes.remote.address, "its address is {address}");
    Ok(())
}

fn network(nodes: &mut Nodes<'_, '_, '_>) -> Result<()> {
    let kubectl = nodes.cluster.kubectl;
    kubectl.apply(LINUX_TEXT)?;
    let address = |name: &str| -> Result<String> {
        kubectl.wait(&format!("pod/{name}"), "condition=Ready", PATIENCE)?;
        let pod = kubectl.get(&[&format!("pod/{name}")])?;
        Ok(pod["status"]["podIP"].as_str().context("the pod has no address")?.to_owned())
    };
    let (linux, freebsd) = (address("linux")?, address("ports")?);
    kubectl.wait("pod/client", "condition=Ready", PATIENCE)?;
    println!("{}", kubectl.run(&["get", "pods", "-o", "wide"])?);
    let host = format!("{}:{HOST_PORT}", nodes.remote.address);
    let fetch = |from: &str, command: &str, to: &str| -> Result<()> {
        let page = until(PATIENCE, || kubectl.exec(from, &format!("{command} http://{to}/")));
        let page = page.with_context(|| format!("http://{to}/ from the pod {from}"))?;
        ensure!(page.contains("It works!"), "http://{to}/ from the pod {from}: {page}");
        Ok(())
    };
    // Debian's BusyBox crashes with wget -T.
    let (busybox, base) = ("timeout 5 wget -q -O -", "fetch -T 5 -q -o -");
    fetch("linux", busybox, &freebsd)?;
    fetch("linux", busybox, &host)?;
    fetch("client", base, &linux)?;
    fetch("client", base, &freebsd)?;
    fetch("client", base, &host)?;
    let page = get(&host).context("the host port from the other machine")?;
    ensure!(page.contains("It works!"), "the host port from the other machine: {page}");
    Ok(())
}

pub(super) type Running = BTreeMap<String, (String, u64)>;

/// The FreeBSD node's running containers, and restarts of each.
pub(super) fn running(cluster: &Cluster<'_, '_>) -> Result<Running> {
    restarts::running_on(cluster, NODE)
}

/// Checks that running containers are unchanged, and a new pod runs there.
fn unharmed(nodes: &Nodes<'_, '_, '_>, before: &Running, pod: &str) -> Result<()> {
    let kubectl = nodes.cluster.kubectl;
    run_there(kubectl, pod)?;
    let after = running(&nodes.cluster)?;
    for (name, state) in before {
        let now = after.get(name);
        ensure!(now == Some(state), "{name} was {state:?} and is {now:?}");
    }
    kubectl.exec("counter", "true").map(drop)
}

fn run_there(kubectl: &Kubectl, pod: &str) -> Result<()> {
    let spec = serde_json::json!({"spec": {
        "nodeSelector": {"kubernetes.io/os": "freebsd"},
        "tolerations": [{"operator": "Exists", "effect": "NoSchedule"}],
    }});
    let image = format!("--image={BUSYBOX}");
    kubectl.run(&["run", pod, &image, "--restart=Never", &format!("--overrides={spec}"), "--", "echo", "new"])?;
    kubectl.until(&format!("pod/{pod}"), LONG, |pod| pod["status"]["phase"] == "Succeeded").map(drop)
}

fn killed(nodes: &Nodes<'_, '_, '_>, services: &[Service], pod: &str) -> Result<()> {
    let before = running(&nodes.cluster)?;
    ensure!(!before.is_empty(), "nothing runs on {NODE}");
    services.iter().try_for_each(|service| nodes.remote.signal(*service, "KILL"))?;
    std::thread::sleep(DOWN);
    services.iter().try_for_each(|service| nodes.remote.start(*service))?;
    unharmed(nodes, &before, pod)
}

fn kubelet_killed(nodes: &mut Nodes<'_, '_, '_>) -> Result<()> {
    killed(nodes, &[Service::Kubelet], "after-kubelet")
}

fn cellblock_killed(nodes: &mut Nodes<'_, '_, '_>) -> Result<()> {
    killed(nodes, &[Service::Cellblock], "after-cellblock")
}

fn both_killed(nodes: &mut Nodes<'_, '_, '_>) -> Result<()> {
    killed(nodes, &[Service::Cellblock, Service::Kubelet], "after-both")
}

fn ready(kubectl: &Kubectl, wanted: bool) -> Result<()> {
    kubectl.until(&format!("node/{NODE}"), LONG, |node| has(node, "Ready") == wanted).map(drop)
}

fn network_cut(nodes: &mut Nodes<'_, '_, '_>) -> Result<()> {
    let kubectl = nodes.cluster.kubectl;
    let before = running(&nodes.cluster)?;
    nodes.remote.cut(CUT)?;
    ready(kubectl, false)?;
    ready(kubectl, true)?;
    // An interface that goes down takes its routes along.
    nodes.remote.prepare()?;
    nodes.remote.add_route(&pod_cidr(kubectl)?)?;
    unharmed(nodes, &before, "after-cut")
}

/// The Linux node's pod network.
fn pod_cidr(kubectl: &Kubectl) -> Result<String> {
    let node = kubectl.get(&[&format!("node/{LINUX}")])?;
    Ok(node["spec"]["podCIDR"].as_str().context("the Linux node has no pod CIDR")?.to_owned())
}

fn drained(nodes: &mut Nodes<'_, '_, '_>) -> Result<()> {
    let kubectl = nodes.cluster.kubectl;
    let timeout = format!("--timeout={}s", PATIENCE.as_secs());
    let flags = ["--ignore-daemonsets", "--delete-emptydir-data", "--force", "--grace-period=1", &timeout];
    kubectl.command(&[&["drain", NODE][..], &flags].concat()).timeout(2 * PATIENCE).run()?;
    let left = kubectl.get(&["pods", "--field-selector", &format!("spec.nodeName={NODE}")])?;
    let names: Vec<&str> =
        left["items"].as_array().into_iter().flatten().filter_map(|pod| pod["metadata"]["name"].as_str()).collect();
    ensure!(names.iter().all(|name| name.starts_with("host-")), "pods are left after the drain: {names:?}");
    kubectl.run(&["uncordon", NODE])?;
    let rolled = ["rollout", "status", "deployment/web", &timeout];
    kubectl.command(&rolled).timeout(2 * PATIENCE).run().map(drop)
}

/// The Deployment's pods are back after a restart of their machine, with new containers.
fn restarted(nodes: &mut Nodes<'_, '_, '_>) -> Result<()> {
    let kubectl = nodes.cluster.kubectl;
    let before = running(&nodes.cluster)?;
    let restarts: u64 = before.values().map(|(_, restarts)| restarts).sum();
    nodes.remote.reboot()?;
    nodes.remote.prepare()?;
    nodes.remote.add_route(&pod_cidr(kubectl)?)?;
    nodes.remote.start(Service::Cellblock)?;
    nodes.remote.start(Service::Kubelet)?;
    ready(kubectl, true)?;
    until(LONG, || {
        let after = running(&nodes.cluster)?;
        let now: u64 = after.values().map(|(_, restarts)| restarts).sum();
        ensure!(
            after.keys().eq(before.keys()) && now >= restarts + before.len() as u64,
            "before: {before:?}; after: {after:?}; namespace {NAMESPACE}"
        );
        Ok(())
    })
}
