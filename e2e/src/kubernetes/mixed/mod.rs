//! A FreeBSD machine as the second node of the cluster: the control plane and the first node are on this machine, and pods of both
//! reach each other by routes. The steps that mean the same on both systems are the first node's own, with other manifests beside.

mod manifests;
mod many;
mod remote;
mod steps;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use self::remote::{Remote, Service};
use super::certificates::Certificates;
use super::cluster::{self, Cluster, PATIENCE};
use super::kubectl::{Kubectl, has};
use super::kubelet::Kubelet;
use super::machine::Machine;
use super::programs::Programs;
use super::{Ground, NAMESPACE, NODE as LINUX, Server};
use crate::checks::Checks;
use crate::inventory::Inventory;
use crate::process::Program;
use crate::server::Site;
use crate::tools::Tools;
use crate::wait::until;

/// The name of the FreeBSD node.
const NODE: &str = "freebsd-e2e";

/// The FreeBSD machine, prepared by `e2e/freebsd/run.sh`.
#[derive(Debug, Clone, clap::Args)]
pub struct Plan {
    /// The command that runs a script there as root: `ssh -p 2222 root@host`.
    #[arg(long)]
    pub ssh: String,
    /// The directory there with cellblock, cellblock-monitor, kubelet, crictl and certs.d.
    #[arg(long)]
    pub dir: String,
    /// The machine's address on a network that it shares with this one.
    #[arg(long)]
    pub address: String,
    /// This machine's address on that network.
    #[arg(long)]
    pub gateway: String,
    /// Puts its containers' roots on ZFS, below this dataset of the machine.
    #[arg(long)]
    pub zfs: Option<String>,
    /// Runs only the steps whose name contains this.
    #[arg(long, value_name = "SUBSTRING")]
    pub only: Option<String>,
}

/// Runs the scenario on a new server at this site, whose registry has the Linux node's images.
pub fn run(site: &Site, tools: &Tools, plan: &Plan, checks: &mut Checks) -> Result<()> {
    let programs = Programs::build(tools)?;
    let mut before = Inventory::take(site)?;
    let mut machine = Machine::prepare(site)?;
    let names = [machine.address(), &plan.address];
    let certificates = Certificates::create(&site.dir().join("certificates"), &names)?;
    let ground = Ground { site, machine: &machine, programs: &programs, certificates: &certificates };
    let mut server = Server { site, running: None };
    if checks.check("the Linux node's server starts", || server.start()).is_some() {
        before.add_directories(site);
        two_nodes(&ground, &mut server, plan, checks);
        site.run(["rmp", "--all", "--force"])?;
        checks.check("the Linux node's server stops", || server.stop());
    }
    checks.check("the Linux machine is as it was", || machine.restore());
    checks.check("the Linux node leaves nothing behind", || Inventory::unchanged_since(&before, site));
    Ok(())
}

fn two_nodes(ground: &Ground<'_>, server: &mut Server<'_>, plan: &Plan, checks: &mut Checks) {
    let Some(mut plane) = checks.check("a control plane starts", || cluster::start_plane(ground)) else { return };
    let node = Some(plane.node.clone());
    let made = Kubelet::new(ground.site, ground.machine, ground.programs, ground.certificates, node);
    if let Some(mut kubelet) = checks.check("the Linux node is Ready", || cluster::node_ready(made?, &mut plane)) {
        let remote = Remote::new(plan, ground.machine.address());
        if let Some(remote) = checks.check("the FreeBSD machine answers", || remote.and_then(reached)) {
            let mut nodes = Nodes {
                remote: &remote,
                cluster: Cluster {
                    site: ground.site,
                    address: &remote.address,
                    kubectl: &plane.kubectl,
                    kubelet: &mut kubelet,
                    server,
                },
            };
            freebsd_node(ground, &mut nodes, plan, checks);
        }
        checks.check("kubelet stops on Linux", || kubelet.stop());
    }
    checks.check("the control plane stops", || plane.stop());
}

fn reached(remote: Remote) -> Result<Remote> {
    println!("the FreeBSD machine: {}", remote.run("uname -srm")?.trim());
    Ok(remote)
}

/// The cluster, and the machine of its FreeBSD node.
struct Nodes<'a, 'b, 'c> {
    remote: &'a Remote,
    cluster: Cluster<'b, 'c>,
}

/// Joins the FreeBSD node, runs the steps on it, and removes everything there.
fn freebsd_node(ground: &Ground<'_>, nodes: &mut Nodes<'_, '_, '_>, plan: &Plan, checks: &mut Checks) {
    let (remote, kubectl) = (nodes.remote, nodes.cluster.kubectl);
    let before = checks.check("what the FreeBSD machine has", || inventory(remote));
    let joined = checks.check("the FreeBSD node is Ready", || join(ground, remote, plan, kubectl));
    if let Some(cidrs) = &joined {
        scenario(nodes, plan, checks);
        checks.check("all pods go", || {
            cluster::all_go(nodes.cluster.site, kubectl)?;
            // Those that its kubelet found after the restart go in its rounds of a minute.
            until(PATIENCE, || {
                let left = remote.crictl("pods -q")?;
                ensure!(left.is_empty(), "pods are left on FreeBSD:\n{}", remote.crictl("pods")?);
                Ok(())
            })
        });
        checks.check("routes go", || linux_route("delete", &cidrs.freebsd, &remote.address));
    }
    checks.check("the FreeBSD node stops", || {
        // A failed join may have started neither.
        let _ = remote.signal(Service::Kubelet, "TERM");
        let _ = remote.crictl("rmp -fa");
        let _ = remote.crictl("rmi -a");
        let _ = remote.signal(Service::Cellblock, "TERM");
        remote.restore(joined.as_ref().map(|cidrs| cidrs.linux.as_str()))
    });
    if let Some(before) = before {
        checks.check("nothing is left on the FreeBSD machine", || {
            until(PATIENCE, || {
                let after = inventory(remote)?;
                ensure!(after == before, "before:\n{before}after:\n{after}");
                Ok(())
            })
        });
    }
}

/// Runs the steps, each with its objects; an emulated machine is too slow for all of them at once.
fn scenario(nodes: &mut Nodes<'_, '_, '_>, plan: &Plan, checks: &mut Checks) {
    let kubectl = nodes.cluster.kubectl;
    let steps = steps::selected(plan.only.as_deref());
    let mut applied: Option<(&str, String)> = None;
    for step in &steps {
        checks.check(&format!("FreeBSD: {}", step.name()), || {
            if applied.as_ref().is_none_or(|(text, _)| *text != step.manifest()) {
                if let Some((_, old)) = applied.take() {
                    let delete = kubectl.command(&["delete", "--ignore-not-found", "--wait=false", "-f", "-"]);
                    delete.stdin(old).run()?;
                }
                let json = manifests::for_freebsd(kubectl, step.manifest())?;
                kubectl.apply(&json)?;
                applied = Some((step.manifest(), json));
            }
            step.run(nodes)
        });
    }
}

/// Jails, interfaces, mounts and anchors there.
fn inventory(remote: &Remote) -> Result<String> {
    remote.run("jls -d -q name | sort; ifconfig -l; mount -p | awk '{print $2, $3}' | sort; pfctl -sA -v 2>/dev/null | grep / | sort; true")
}

/// The pod networks of the nodes.
struct Cidrs {
    linux: String,
    freebsd: String,
}

fn join(ground: &Ground<'_>, remote: &Remote, plan: &Plan, kubectl: &Kubectl) -> Result<Cidrs> {
    remote.configure(ground.certificates, plan.zfs.as_deref())?;
    remote.start(Service::Cellblock)?;
    remote.start(Service::Kubelet)?;
    let name = format!("node/{NODE}");
    let node = kubectl.until(&name, PATIENCE, |node| has(node, "Ready"));
    let node = node.with_context(|| format!("kubelet's log ends:\n{}", remote.log(Service::Kubelet)))?;
    ensure!(node["metadata"]["labels"]["kubernetes.io/os"] == "freebsd", "its labels: {}", node["metadata"]["labels"]);
    let cidr = |node: &Value| Some(node["spec"]["podCIDR"].as_str()?.to_owned());
    let linux = kubectl.get(&[&format!("node/{LINUX}")])?;
    let cidrs = Cidrs {
        linux: cidr(&linux).context("the Linux node has no pod CIDR")?,
        freebsd: cidr(&node).context("the FreeBSD node has no pod CIDR")?,
    };
    linux_route("replace", &cidrs.freebsd, &remote.address)?;
    remote.add_route(&cidrs.linux)?;
    println!("{}", kubectl.run(&["get", "nodes", "-o", "wide"])?);
    Ok(cidrs)
}

fn linux_route(verb: &str, network: &str, gateway: &str) -> Result<()> {
    Program::new("ip", ["route", verb, network, "via", gateway]).run().map(drop)
}
