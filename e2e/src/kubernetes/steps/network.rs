//! The pod's network under kubelet: addresses, host ports, the host's network, names.

use anyhow::{Context, Result, ensure};

use crate::kubernetes::NODE;
use crate::kubernetes::cluster::{Cluster, PATIENCE};
use crate::scenario::get;

/// As in the manifest.
const HOST_PORT: u16 = 18_421;
/// As in the manifest.
const HOST_NETWORK_PORT: u16 = 18_422;

pub(super) fn host_ports(cluster: &mut Cluster<'_, '_>) -> Result<()> {
    let kubectl = cluster.kubectl;
    for name in ["pod/ports", "pod/client"] {
        kubectl.wait(name, "condition=Ready", PATIENCE)?;
    }
    let pod = kubectl.get(&["pod/ports"])?;
    let address = pod["status"]["podIP"].as_str().context("the pod has no address")?;
    let node = kubectl.get(&[&format!("node/{NODE}")])?;
    let cidr = node["spec"]["podCIDR"].as_str().context("the node has no pod CIDR")?;
    let network = cidr.trim_end_matches(".0/24");
    ensure!(address.starts_with(&format!("{network}.")), "{address} is not of the node's {cidr}");
    for from in [format!("{address}:80"), format!("127.0.0.1:{HOST_PORT}"), format!("{}:{HOST_PORT}", cluster.address)]
    {
        let page = get(&from).with_context(|| format!("http://{from}/ from the node"))?;
        ensure!(page.contains("It works!"), "http://{from}/ from the node: {page}");
    }
    for (from, to) in [
        ("client", format!("{address}:80")),
        ("client", format!("{}:{HOST_PORT}", cluster.address)),
        ("ports", format!("{}:{HOST_PORT}", cluster.address)),
    ] {
        let page = kubectl.exec(from, &format!("wget -q -O - http://{to}/"));
        let page = page.with_context(|| format!("http://{to}/ from the pod {from}"))?;
        ensure!(page.contains("It works!"), "http://{to}/ from the pod {from}: {page}");
    }
    Ok(())
}

pub(super) fn host_network(cluster: &mut Cluster<'_, '_>) -> Result<()> {
    let kubectl = cluster.kubectl;
    kubectl.wait("pod/host-network", "condition=Ready", PATIENCE)?;
    let pod = kubectl.get(&["pod/host-network"])?;
    ensure!(pod["status"]["podIP"] == cluster.address, "its address is {}", pod["status"]["podIP"]);
    let page = get(&format!("127.0.0.1:{HOST_NETWORK_PORT}"))?;
    ensure!(page.contains("host network"), "the page is {page}");
    Ok(())
}

pub(super) fn names(cluster: &mut Cluster<'_, '_>) -> Result<()> {
    let kubectl = cluster.kubectl;
    kubectl.wait("pod/client", "condition=Ready", PATIENCE)?;
    let seen = kubectl.exec("client", "cat /etc/resolv.conf /etc/hosts")?;
    for wanted in ["nameserver 192.0.2.53", "search example.org", "options ndots:3", "192.0.2.54\talias.example.org"] {
        ensure!(seen.contains(wanted), "no {wanted:?} in\n{seen}");
    }
    Ok(())
}
