//! Many pods, each with two containers, under a server that is killed: the next one reports all of them unchanged.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, ensure};
use proto::v1::*;

use super::pod::{container, pod};
use super::{socket, start};
use crate::client::Client;
use crate::images::BUSYBOX;
use crate::inventory::Inventory;
use crate::process::resident_kib;
use crate::server::Site;

/// Concurrent clients that make and remove pods.
const CLIENTS: usize = 4;
/// Containers of a pod.
const CONTAINERS: usize = 2;
/// Their command, which uses no CPU time.
const SCRIPT: &str = "exec sleep 1000000";

/// A server's lists and statuses of pods and containers.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Picture {
    pub(super) pods: BTreeMap<String, PodSandboxStatus>,
    pub(super) containers: BTreeMap<String, ContainerStatus>,
}

/// Runs it on a site without a server.
///
/// # Errors
/// Something differs, or is left behind.
pub fn run(site: &Site, pods: usize) -> Result<()> {
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let client = Client::new(tokio.handle(), socket(site));
    let mut before = Inventory::take(site)?;
    let (server, empty) = start(site, &client)?;
    before.add_directories(site);
    client.pull(BUSYBOX)?;
    let names: Vec<String> = (1..=pods).map(|number| format!("many-{number}")).collect();
    let begin = Instant::now();
    let made = each(&client, names, |client, name| make(site, client, name));
    println!("{pods} pods × {CONTAINERS} containers made in {:.1} s", begin.elapsed().as_secs_f32());
    let compared = made.and_then(|()| picture(&client)).and_then(|then| {
        ensure!(then.pods.len() == pods && then.containers.len() == pods * CONTAINERS, "not all of them are listed");
        let memory = resident_kib(server.pid())?;
        server.kill()?;
        let (server, took) = start(site, &client)?;
        println!(
            "after kill -9 the server serves again in {:.3} s, with {pods} pods (with none: {:.3} s); its memory was {} MiB",
            took.as_secs_f32(),
            empty.as_secs_f32(),
            memory / 1024
        );
        Ok((server, then))
    });
    let (server, then) = match compared {
        Ok(compared) => compared,
        Err(error) => {
            let (server, _) = start(site, &client)?;
            each(&client, client.pods()?, |client, id| Ok(client.remove_pod(id)?))?;
            server.stop()?;
            return Err(error);
        }
    };
    let same = picture(&client).and_then(|now| unchanged(&then, &now));
    let removed = each(&client, client.pods()?, |client, id| Ok(client.remove_pod(id)?));
    server.stop()?;
    same.and(removed)?;
    Inventory::unchanged_since(&before, site)
}

/// Applies `act` to each with several concurrent clients; returns the first error.
fn each(client: &Client, of: Vec<String>, what: impl Fn(&Client, &str) -> Result<()> + Sync) -> Result<()> {
    let left = Mutex::new(of);
    let next = || left.lock().unwrap_or_else(PoisonError::into_inner).pop();
    std::thread::scope(|scope| {
        let work = || {
            while let Some(one) = next() {
                what(client, &one).with_context(|| one.clone())?;
            }
            Ok(())
        };
        let threads: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(work)).collect();
        let ended = threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err(anyhow!("a panic"))));
        ended.collect::<Vec<Result<()>>>().into_iter().collect()
    })
}

fn make(site: &Site, client: &Client, name: &str) -> Result<()> {
    let config = pod(name, &site.dir().join("logs"));
    let request = RunPodSandboxRequest { config: Some(config.clone()), ..RunPodSandboxRequest::default() };
    let id = client.call(client.runtime().run_pod_sandbox(request))?.into_inner().pod_sandbox_id;
    for number in 0..CONTAINERS {
        let request = CreateContainerRequest {
            pod_sandbox_id: id.clone(),
            config: Some(container(&format!("{name}-{number}"), SCRIPT, NamespaceMode::Container)),
            sandbox_config: Some(config.clone()),
        };
        let container_id = client.call(client.runtime().create_container(request))?.into_inner().container_id;
        client.call(client.runtime().start_container(StartContainerRequest { container_id }))?;
    }
    Ok(())
}

pub(super) fn picture(client: &Client) -> Result<Picture> {
    let mut picture = Picture::default();
    for id in client.pods()? {
        picture.pods.insert(id.clone(), client.pod(&id)?);
    }
    let list = client.call(client.runtime().list_containers(ListContainersRequest::default()))?.into_inner();
    for one in list.containers {
        picture.containers.insert(one.id.clone(), client.container(&one.id)?);
    }
    Ok(picture)
}

pub(super) fn unchanged(then: &Picture, now: &Picture) -> Result<()> {
    for (id, was) in &then.pods {
        ensure!(now.pods.get(id) == Some(was), "pod {id} was {was:?} and is {:?}", now.pods.get(id));
    }
    for (id, was) in &then.containers {
        ensure!(was.state() == ContainerState::ContainerRunning, "container {id} did not run: {was:?}");
        ensure!(now.containers.get(id) == Some(was), "container {id} was {was:?} and is {:?}", now.containers.get(id));
    }
    ensure!(then == now, "there is more than there was");
    Ok(())
}
