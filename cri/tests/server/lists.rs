//! Lists and their filters, whole and in parts.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proto::v1::*;

use crate::world::{World, create, made, run_pod};

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn pods_are_filtered_by_id_state_and_labels() {
    let world = World::new();
    let server = world.start();
    let mut client = server.client();
    server.run(async {
        let mut ids = Vec::new();
        for name in ["a", "b", "c"] {
            ids.push(client.run_pod_sandbox(run_pod(name)).await.unwrap().into_inner().pod_sandbox_id);
        }
        client.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: ids[2].clone() }).await.unwrap();
        let ready = Some(PodSandboxStateValue { state: PodSandboxState::SandboxReady.into() });
        let cases = [
            (PodSandboxFilter::default(), vec![0, 1, 2]),
            (PodSandboxFilter { id: ids[1].clone(), ..Default::default() }, vec![1]),
            (PodSandboxFilter { id: ids[1][..20].to_owned(), ..Default::default() }, vec![1]),
            (PodSandboxFilter { id: "nothing".to_owned(), ..Default::default() }, vec![]),
            (PodSandboxFilter { state: ready, ..Default::default() }, vec![0, 1]),
            (PodSandboxFilter { label_selector: labels(&[("app", "a")]), ..Default::default() }, vec![0]),
            (
                PodSandboxFilter { label_selector: labels(&[("tier", "front")]), state: ready, ..Default::default() },
                vec![0, 1],
            ),
            (
                PodSandboxFilter { label_selector: labels(&[("app", "a"), ("tier", "back")]), ..Default::default() },
                vec![],
            ),
        ];
        for (filter, wanted) in cases {
            let wanted: BTreeSet<_> = wanted.into_iter().map(|index: usize| ids[index].clone()).collect();
            let request = ListPodSandboxRequest { filter: Some(filter.clone()) };
            let items = client.list_pod_sandbox(request).await.unwrap().into_inner().items;
            assert_eq!(items.into_iter().map(|pod| pod.id).collect::<BTreeSet<_>>(), wanted, "{filter:?}");
            let request = StreamPodSandboxesRequest { filter: Some(filter) };
            let mut parts = client.stream_pod_sandboxes(request).await.unwrap().into_inner();
            let mut streamed = BTreeSet::new();
            while let Some(part) = parts.message().await.unwrap() {
                streamed.extend(part.pod_sandboxes.into_iter().map(|pod| pod.id));
            }
            assert_eq!(streamed, wanted);
        }
    });
}

#[test]
fn containers_are_filtered_by_pod_id_state_and_labels() {
    let world = World::new();
    let server = world.start();
    server.pull(&world);
    let mut client = server.client();
    server.run(async {
        let (mut pods, mut ids) = (Vec::new(), Vec::new());
        for name in ["a", "b"] {
            let pod = client.run_pod_sandbox(run_pod(name)).await.unwrap().into_inner().pod_sandbox_id;
            let request = create(&world, &pod, name, "main", &["forever"]);
            ids.push(client.create_container(request).await.unwrap().into_inner().container_id);
            pods.push(pod);
        }
        client.start_container(StartContainerRequest { container_id: ids[0].clone() }).await.unwrap();
        let running = Some(ContainerStateValue { state: ContainerState::ContainerRunning.into() });
        let cases = [
            (ContainerFilter::default(), vec![0, 1]),
            (ContainerFilter { id: ids[1][..15].to_owned(), ..Default::default() }, vec![1]),
            (ContainerFilter { pod_sandbox_id: pods[1][..15].to_owned(), ..Default::default() }, vec![1]),
            (ContainerFilter { state: running, ..Default::default() }, vec![0]),
            (ContainerFilter { state: running, pod_sandbox_id: pods[1].clone(), ..Default::default() }, vec![]),
            (ContainerFilter { label_selector: labels(&[("name", "main")]), ..Default::default() }, vec![0, 1]),
            (ContainerFilter { label_selector: labels(&[("name", "other")]), ..Default::default() }, vec![]),
        ];
        for (filter, wanted) in cases {
            let wanted: BTreeSet<_> = wanted.into_iter().map(|index: usize| ids[index].clone()).collect();
            let request = ListContainersRequest { filter: Some(filter.clone()) };
            let containers = client.list_containers(request).await.unwrap().into_inner().containers;
            assert_eq!(containers.into_iter().map(|one| one.id).collect::<BTreeSet<_>>(), wanted, "{filter:?}");
        }
        let stats = client.list_container_stats(ListContainerStatsRequest::default()).await.unwrap().into_inner().stats;
        let with_cpu: Vec<_> = stats.iter().filter(|one| one.cpu.is_some()).collect();
        assert_eq!((stats.len(), with_cpu.len()), (2, 1));
        assert_eq!(with_cpu[0].attributes.as_ref().unwrap().id, ids[0]);
        let stats = client.list_pod_sandbox_stats(ListPodSandboxStatsRequest::default()).await.unwrap();
        assert_eq!(stats.into_inner().stats.len(), 2);
    });
}

#[test]
fn a_node_says_what_it_is() {
    let world = World::new();
    let server = world.start();
    let mut client = server.client();
    server.run(async {
        let status = client.status(StatusRequest { verbose: true }).await.unwrap().into_inner();
        let conditions = status.status.unwrap().conditions;
        assert_eq!(
            conditions.iter().map(|one| one.r#type.as_str()).collect::<Vec<_>>(),
            ["RuntimeReady", "NetworkReady"]
        );
        assert!(conditions.iter().all(|one| one.status && one.reason.is_empty()), "{conditions:?}");
        assert!(status.info.contains_key("config"));
        let names: Vec<_> = status.runtime_handlers.iter().map(|handler| handler.name.as_str()).collect();
        assert_eq!(names, ["", "other"]);
        let version = client.version(VersionRequest::default()).await.unwrap().into_inner();
        assert_eq!((version.runtime_name.as_str(), version.runtime_api_version.as_str()), ("cellblock", "v1"));
        let metrics = client.list_metric_descriptors(ListMetricDescriptorsRequest {}).await.unwrap().into_inner();
        assert!(metrics.descriptors.iter().any(|one| one.name == "container_memory_usage_bytes"));
    });
}

/// What critest 1.37 looks for, without what the runtimes that it is run on do not have either.
const METRICS: &str = "blkio_device_usage_total cpu_cfs_periods_total cpu_cfs_throttled_periods_total \
    cpu_cfs_throttled_seconds_total cpu_system_seconds_total cpu_usage_seconds_total cpu_user_seconds_total \
    file_descriptors fs_inodes_free fs_inodes_total fs_limit_bytes fs_reads_bytes_total fs_reads_total fs_usage_bytes \
    fs_writes_bytes_total fs_writes_total last_seen memory_cache memory_failcnt memory_failures_total \
    memory_kernel_usage memory_mapped_file memory_max_usage_bytes memory_rss memory_swap memory_usage_bytes \
    memory_working_set_bytes network_receive_bytes_total network_receive_errors_total \
    network_receive_packets_dropped_total network_receive_packets_total network_transmit_bytes_total \
    network_transmit_errors_total network_transmit_packets_dropped_total network_transmit_packets_total \
    oom_events_total processes sockets spec_cpu_period spec_cpu_shares spec_memory_limit_bytes \
    spec_memory_swap_limit_bytes start_time_seconds threads threads_max";

#[test]
fn metrics_have_cadvisors_names_their_labels_and_fractions() {
    let world = World::new();
    let server = world.start();
    server.pull(&world);
    let mut client = server.client();
    server.run(async {
        let (pod_sandbox_id, first) = made(&mut client, &world, &["forever"]).await;
        let first = ContainerStatusRequest { container_id: first, verbose: false };
        let image = client.container_status(first).await.unwrap().into_inner().status.unwrap().image_id;
        let mut request = create(&world, &pod_sandbox_id, "web", "side", &["forever"]);
        let config = request.config.as_mut().unwrap();
        // As kubelet asks: by the image's id, with its name beside.
        let image = ImageSpec { image, user_specified_image: "web:1".to_owned(), ..ImageSpec::default() };
        config.image = Some(image);
        let container_id = client.create_container(request).await.unwrap().into_inner().container_id;
        client.start_container(StartContainerRequest { container_id: container_id.clone() }).await.unwrap();
        let described = client.list_metric_descriptors(ListMetricDescriptorsRequest {}).await.unwrap().into_inner();
        let keys: BTreeMap<_, _> = described.descriptors.into_iter().map(|one| (one.name, one.label_keys)).collect();
        for name in METRICS.split_whitespace() {
            assert!(keys.contains_key(&format!("container_{name}")), "{name}");
        }
        let request = ListPodSandboxMetricsRequest {};
        let pods = client.list_pod_sandbox_metrics(request).await.unwrap().into_inner().pod_metrics;
        assert_eq!((pods.len(), pods[0].pod_sandbox_id.as_str()), (1, pod_sandbox_id.as_str()));
        let [container] = &pods[0].container_metrics[..] else { panic!("one container runs: {pods:?}") };
        for metric in pods[0].metrics.iter().chain(&container.metrics) {
            assert_eq!(metric.label_values.len(), keys[&metric.name].len(), "{metric:?}");
        }
        let of = |name: &str| container.metrics.iter().find(|one| one.name == format!("container_{name}")).unwrap();
        assert_eq!(of("last_seen").label_values, ["web", "default", "side", &container_id, "web:1"]);
        let cpu = of("cpu_usage_seconds_total");
        assert_eq!((cpu.value.unwrap().value, cpu.double_value.unwrap().value), (0, 0.001));
        let throttled = of("cpu_cfs_throttled_seconds_total");
        assert_eq!((throttled.value.unwrap().value, throttled.double_value.unwrap().value), (1, 1.5));
        assert_eq!((of("memory_failcnt").value.unwrap().value, of("memory_failcnt").double_value), (2, None));
        assert!(of("start_time_seconds").value.unwrap().value > 1_700_000_000);
        assert!(of("fs_limit_bytes").value.unwrap().value > 0);
    });
}

#[test]
fn the_stats_of_a_pod_read_each_container_once() {
    let world = World::new();
    let server = world.start();
    server.pull(&world);
    let mut client = server.client();
    server.run(async {
        let (pod_sandbox_id, container_id) = made(&mut client, &world, &["forever"]).await;
        client.start_container(StartContainerRequest { container_id }).await.unwrap();
        let request = PodSandboxStatsRequest { pod_sandbox_id };
        // The task that waits for its exit asks for a descriptor first.
        tokio::time::sleep(Duration::from_millis(200)).await;
        let calls = world.faults.calls();
        let stats = client.pod_sandbox_stats(request).await.unwrap().into_inner().stats.unwrap().linux.unwrap();
        assert_eq!(stats.containers.len(), 1);
        assert_eq!(world.faults.calls() - calls, 2, "what it uses, and what it has written");
    });
}
