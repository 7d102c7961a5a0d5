//! `cellblock stop-pods`: every container gets its stop signal and its grace, all at the same time, before the machine goes down.

use std::io::Write;

use anyhow::{Context as _, bail};
use futures::future::join_all;
use proto::v1::runtime_service_client::RuntimeServiceClient;
use proto::v1::{
    Container, ContainerFilter, ContainerState, ContainerStateValue, PodSandboxFilter, PodSandboxState,
    PodSandboxStateValue, StopContainerRequest, StopPodSandboxRequest, StreamContainersRequest,
    StreamPodSandboxesRequest,
};
use tonic::transport::Channel;

use super::outcome::print;
use super::{answer, block_on, connect_runtime, parts};
use crate::config::Config;

type Client = RuntimeServiceClient<Channel>;

/// Calls on one connection: the server lets through 256, and the others would wait for the grace of the first.
const CALLS: usize = 128;
/// kubelet's annotation of each container with its pod's terminationGracePeriodSeconds (kuberuntime's labels.go).
const GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";

/// Stops all running containers side by side, each with the grace of its pod, but at most `timeout` seconds; then their pods.
///
/// # Errors
/// No server answers; or what could not be stopped, after the rest was.
pub fn run(timeout: u32, config: &Config, out: &mut impl Write) -> anyhow::Result<()> {
    block_on(async {
        let containers = running(config).await?;
        let mut failed = on_each(config, &containers, |mut client, container| {
            let (container_id, timeout) = (container.id.clone(), grace(container, timeout));
            let operation = format!("cannot stop container {container_id}");
            let request = StopContainerRequest { container_id, timeout };
            async move { answer(client.stop_container(request).await).map(drop).context(operation) }
        })
        .await;
        let ended = containers.len() - failed.len();
        let pods = ready(config).await?;
        let kept = on_each(config, &pods, |mut client, id| {
            let (operation, pod_sandbox_id) = (format!("cannot stop pod {id}"), id.clone());
            let request = StopPodSandboxRequest { pod_sandbox_id };
            async move { answer(client.stop_pod_sandbox(request).await).map(drop).context(operation) }
        });
        let kept = kept.await;
        print(out, &format!("{ended} containers and {} pods stopped\n", pods.len() - kept.len()))?;
        failed.extend(kept);
        if failed.is_empty() { Ok(()) } else { bail!("{}", failed.join("; ")) }
    })
}

async fn running(config: &Config) -> anyhow::Result<Vec<Container>> {
    let state = Some(ContainerStateValue { state: ContainerState::ContainerRunning.into() });
    let request = StreamContainersRequest { filter: Some(ContainerFilter { state, ..ContainerFilter::default() }) };
    let listed = parts(connect_runtime(config).await?.stream_containers(request).await).await?;
    Ok(listed.into_iter().flat_map(|part| part.containers).collect())
}

async fn ready(config: &Config) -> anyhow::Result<Vec<String>> {
    let state = Some(PodSandboxStateValue { state: PodSandboxState::SandboxReady.into() });
    let filter = Some(PodSandboxFilter { state, ..PodSandboxFilter::default() });
    let request = StreamPodSandboxesRequest { filter };
    let listed = parts(connect_runtime(config).await?.stream_pod_sandboxes(request).await).await?;
    Ok(listed.into_iter().flat_map(|part| part.pod_sandboxes).map(|pod| pod.id).collect())
}

/// The seconds that a container has between its stop signal and its end.
fn grace(container: &Container, timeout: u32) -> i64 {
    let own = container.annotations.get(GRACE).and_then(|text| text.parse().ok());
    own.unwrap_or(i64::from(timeout)).clamp(0, timeout.into())
}

/// Makes a call for each item, all side by side; returns what failed.
async fn on_each<I, F>(config: &Config, items: &[I], call: impl Fn(Client, &I) -> F) -> Vec<String>
where
    F: Future<Output = anyhow::Result<()>>,
{
    let call = &call;
    let on_some = |some| async move {
        match connect_runtime(config).await {
            Ok(client) => join_all(<[I]>::iter(some).map(|item| call(client.clone(), item))).await,
            Err(error) => vec![Err(error)],
        }
    };
    let done = join_all(items.chunks(CALLS).map(on_some)).await;
    done.into_iter().flatten().filter_map(|outcome| Some(host::chain(outcome.err()?.as_ref()))).collect()
}

#[cfg(test)]
mod tests {
    use proto::v1::Container;

    use super::{GRACE, grace};

    #[test]
    fn a_container_has_its_pods_grace_within_the_time_for_all() {
        for (annotation, timeout, wanted) in [
            (None, 30, 30),
            (Some("5"), 30, 5),
            (Some("600"), 30, 30),
            (Some("0"), 30, 0),
            (Some("x"), 7, 7),
            (Some("-1"), 7, 0),
        ] {
            let annotations = annotation.map(|text| (GRACE.to_owned(), text.to_owned())).into_iter().collect();
            let container = Container { annotations, ..Container::default() };
            assert_eq!(grace(&container, timeout), wanted, "{annotation:?}");
        }
    }
}
