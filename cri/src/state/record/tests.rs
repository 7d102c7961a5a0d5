//! Records of every version are read as long as there are servers that wrote them: the fixtures are never changed. A record of
//! another shape needs another version, with its own fixtures beside these. Version 2 has one more phase of a pod.

use super::disk::{parse, parse_pod};
use super::{ContainerPhase, ContainerRecord, PodPhase, PodRecord, Wire};

const POD: &str = include_str!("fixtures/pod-v1.json");
const FAILED_POD: &str = include_str!("fixtures/pod-failed-v2.json");
const FAILED_POD_V1: &str = include_str!("fixtures/pod-failed-v1.json");
const CONTAINER: &str = include_str!("fixtures/container-v1.json");

#[test]
fn a_pod_of_version_1_is_read() {
    let pod: PodRecord = parse(POD.as_bytes()).unwrap();
    assert_eq!(
        (pod.id.short(), pod.phase, pod.created_at),
        ("0123456789ab", PodPhase::Ready, 1_795_000_000_000_000_000)
    );
    let metadata = pod.config.metadata.as_ref().unwrap();
    assert_eq!((metadata.name.as_str(), metadata.attempt), ("web", 3));
    assert_eq!(pod.attachment.unwrap().addresses[0].to_string(), "10.20.0.2");
    assert_eq!(pod.network.host_ports[0].host_port, 8080);
}

#[test]
fn a_pod_whose_roll_back_failed_is_read_from_both_versions() {
    for fixture in [FAILED_POD, FAILED_POD_V1] {
        let pod = parse_pod(fixture.as_bytes()).unwrap();
        assert_eq!((pod.id.short(), pod.phase), ("0123456789ab", PodPhase::Failed));
    }
    // Of version 1 it is the reason that says it, and only of a pod that is not torn down.
    for (from, to) in [("could not be made", "was lost"), ("\"stopping\"", "\"stopped\"")] {
        let pod = parse_pod(FAILED_POD_V1.replacen(from, to, 1).as_bytes()).unwrap();
        assert_ne!(pod.phase, PodPhase::Failed);
    }
}

#[test]
fn a_container_of_version_1_is_read() {
    let container: ContainerRecord = parse(CONTAINER.as_bytes()).unwrap();
    let ContainerPhase::Exited(ended) = &container.phase else { panic!("{:?}", container.phase) };
    assert_eq!((ended.code, ended.reason.as_str()), (137, "OOMKilled"));
    let made = container.made.as_ref().unwrap();
    assert_eq!((made.identity.uid, made.stop_signal.0.as_str()), (1000, "TERM"));
    assert_eq!(made.spec.process.args, ["sleep", "1h"]);
    assert_eq!(container.config.metadata.as_ref().unwrap().name, "main");
}

#[test]
fn what_is_written_is_what_is_read() {
    let pod: PodRecord = parse(POD.as_bytes()).unwrap();
    let written = serde_json::json!({"version": super::VERSION, "record": pod}).to_string();
    assert_eq!(parse::<PodRecord>(written.as_bytes()).unwrap(), pod);
}

#[test]
fn a_newer_record_is_refused_with_words() {
    let newer = POD.replacen("\"version\": 1", "\"version\": 3", 1);
    let error = parse::<PodRecord>(newer.as_bytes()).unwrap_err();
    assert!(error.contains("version 3") && error.contains("newer server"), "{error}");
}

#[test]
fn a_request_survives_in_a_record() {
    let config = proto::v1::ContainerConfig {
        envs: vec![proto::v1::KeyValue { key: "K".to_owned(), value: vec![0xff, 0x00] }],
        ..Default::default()
    };
    let text = serde_json::to_string(&Wire(config.clone())).unwrap();
    assert_eq!(serde_json::from_str::<Wire<proto::v1::ContainerConfig>>(&text).unwrap().0, config);
}
