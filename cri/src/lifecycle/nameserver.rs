//! Keeps the name server running and tells it the names of the pods, if the configuration has a domain for them. The name server
//! outlives this process and answers what it was told last; a new server finds it, or starts another.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::net::UnixStream as StdStream;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;
use nameserver::{Nameserver, PORT, Pod, RESOLV_CONF, Selected, Settings, Told};
use network::ipam;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use crate::state::node::{NAMESERVER, Node};
use crate::state::record::{PodPhase, PodRecord};

/// The pause before the first attempt to start it again, which every further attempt doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A name server that lived this long did not end because of how it was started.
const LIVED: Duration = Duration::from_secs(10);
/// The interval of looking at the node's resolvers and at the pod networks.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long the name server may take to read what it is told.
const PATIENCE: Duration = Duration::from_secs(5);

/// Keeps it until the server stops. Without a domain, ends the name server of a server that had one.
pub(crate) async fn run(node: Arc<Node>) {
    if node.config.network.names.is_empty() {
        if let Err(error) = node.tend(|node| stop(node)).await {
            warn!("{}", host::chain(&error));
        }
        return;
    }
    let (mut pause, mut refused) = (FIRST_PAUSE, BTreeSet::new());
    loop {
        let begun = Instant::now();
        let ended = keep(&node, &mut refused).await;
        if ended.is_ok() || begun.elapsed() > LIVED {
            pause = FIRST_PAUSE;
        }
        if let Err(why) = ended {
            // One line for each attempt: they are seldom.
            warn!("pods' names are not answered: {why}");
            node.set_nameless(Some(why));
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

/// Ends the name server; this server starts none after it. Idempotent. Blocking.
pub(crate) fn stop(node: &Node) -> Result<(), nameserver::Error> {
    let mut stopped = node.nameserver_stopped.lock().unwrap_or_else(PoisonError::into_inner);
    *stopped = true;
    find(node)?.stop()
}

/// Finds or starts the name server. Blocking.
fn start(node: &Node, settings: &Settings) -> Result<StdStream, String> {
    let stopped = node.nameserver_stopped.lock().unwrap_or_else(PoisonError::into_inner);
    if *stopped {
        return Err("the server stops".to_owned());
    }
    find(node).and_then(|nameserver| nameserver.ensure(settings)).map_err(|error| host::chain(&error))
}

fn find(node: &Node) -> Result<Nameserver, nameserver::Error> {
    let unknown = || nameserver::Error::failed("find the program's own executable")("it was not there at the start");
    let workers = node.workers.clone().ok_or_else(unknown)?;
    Ok(Nameserver::new(&node.config.state.join(NAMESERVER), workers))
}

/// Starts the name server and tells it every change, until it ends (an error) or needs other settings.
async fn keep(node: &Arc<Node>, refused: &mut BTreeSet<String>) -> Result<(), String> {
    let mut changes = node.store.pods_changed();
    let Some(settings) = settings(node) else {
        // kubelet sends the pod network.
        sleep(INTERVAL).await;
        return Ok(());
    };
    let wanted = settings.clone();
    let control = node.tend(move |node| start(node, &wanted)).await?;
    let lost = |error: std::io::Error| format!("the name server is lost: {error}");
    control.set_nonblocking(true).map_err(lost)?;
    let mut control = UnixStream::from_std(control).map_err(lost)?;
    let mut before = None;
    loop {
        changes.mark_unchanged();
        let own = settings.addresses.clone();
        let (found, resolvers) = node.tend(move |node| look(node, &own)).await;
        report(&found.refused, refused);
        let told = Told { records: found.records, resolvers };
        if before.as_ref() != Some(&told) {
            match timeout(PATIENCE, control.write_all(told.to_line().as_bytes())).await {
                Ok(written) => written.map_err(lost)?,
                Err(_) => {
                    let killed = node.tend(|node| find(node)?.stop()).await;
                    return Err(killed.map_or_else(|error| host::chain(&error), |()| "the name server hung".to_owned()));
                }
            }
            if before.is_none() {
                info!("pods' names are below {}", settings.domain);
                node.set_nameless(None);
            }
            before = Some(told);
        }
        tokio::select! {
            // The store lives as long as the node.
            _ = changes.changed() => (),
            () = ended(&control) => return Err("the name server ended".to_owned()),
            () = sleep(INTERVAL) => if self::settings(node).as_ref() != Some(&settings) { return Ok(()) },
        }
    }
}

/// Waits until the name server closes its end; it says nothing.
async fn ended(control: &UnixStream) {
    loop {
        let readable = control.readable().await.and_then(|()| control.try_read(&mut [0; 16]));
        if !matches!(readable, Err(error) if error.kind() == ErrorKind::WouldBlock) {
            return;
        }
    }
}

/// The settings by the pod networks in force and the former ones that pods still have; None: there are none.
fn settings(node: &Node) -> Option<Settings> {
    let pods = ready(node);
    let addresses = pods.iter().flat_map(|pod| &pod.network.addresses);
    let networks = ipam::with_former(&node.pod_networks(), addresses);
    let networks: BTreeSet<IpNetwork> = networks.iter().map(ipam::without_host_bits).collect();
    let gateways: BTreeSet<IpAddr> = networks.iter().map(|network| ipam::gateway(network).ip()).collect();
    (!networks.is_empty()).then(|| Settings {
        domain: node.config.network.names.clone(),
        addresses: gateways.into_iter().collect(),
        port: PORT,
        networks: networks.into_iter().collect(),
    })
}

fn ready(node: &Node) -> Vec<Arc<PodRecord>> {
    node.store.pods().into_iter().filter(|pod| pod.phase == PodPhase::Ready).collect()
}

/// The names of the ready pods, and the node's resolvers but for the name server's own addresses. Blocking.
fn look(node: &Node, own: &[IpAddr]) -> (Selected, Vec<SocketAddr>) {
    // Without the file nobody is asked.
    let resolvers = nameserver::resolvers(&std::fs::read_to_string(RESOLV_CONF).unwrap_or_default(), own);
    let pods = ready(node);
    let named = pods.iter().filter_map(|pod| {
        let metadata = pod.config.metadata.as_ref()?;
        let addresses: Vec<IpAddr> = pod.network.addresses.iter().map(IpNetwork::ip).collect();
        (!addresses.is_empty()).then_some(Pod {
            name: &metadata.name,
            namespace: &metadata.namespace,
            created_at: pod.created_at,
            addresses,
        })
    });
    (nameserver::select(&node.config.network.names, named), resolvers)
}

/// Logs each name that is refused once.
fn report(refused: &[String], reported: &mut BTreeSet<String>) {
    reported.retain(|name| refused.contains(name));
    for name in refused {
        if reported.insert(name.clone()) {
            warn!("pod {name:?} has no name in DNS: it is no name of labels of letters, digits and hyphens");
        }
    }
}
