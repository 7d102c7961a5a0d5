//! Requests that cannot be honoured: each is refused with an error that names the field, and nothing is made.

use anyhow::{Context, Result, bail, ensure};
use proto::v1::*;

use super::Spec;
use super::pod::{mount, namespaces, pod_security, security};
use super::stage::Stage;

pub(super) const SPECS: &[Spec] = &[
    Spec { name: "a container with a bad field is refused by the field's name", run: container_fields },
    Spec { name: "a container that asks for what nobody can give is refused", run: container_demands },
    Spec { name: "a pod with a bad field is refused by the field's name", run: pod_fields },
    Spec { name: "a pod of an unknown runtime handler is refused", run: unknown_handler },
];

/// The word of the error, and the change that causes it.
type Case<T> = (&'static str, fn(&mut T));

const CONTAINER_FIELDS: &[Case<ContainerConfig>] = &[
    ("metadata", |config| config.metadata = None),
    ("metadata.name", |config| config.metadata = Some(ContainerMetadata::default())),
    ("image", |config| config.image = None),
    ("working_dir", |config| config.working_dir = "relative".to_owned()),
    ("log_path", |config| config.log_path = "../outside.log".to_owned()),
    ("envs[0].key", |config| config.envs = vec![KeyValue { key: "A=B".to_owned(), value: Vec::new() }]),
    ("envs[0].value", |config| config.envs = vec![KeyValue { key: "A".to_owned(), value: vec![0xff] }]),
    ("mounts[0].host_path", |config| config.mounts = vec![mount("relative".as_ref(), "/data", false)]),
    ("mounts[0].container_path", |config| config.mounts = vec![mount("/tmp".as_ref(), "relative", false)]),
    ("mounts[0].propagation", |config| {
        config.mounts = vec![Mount { propagation: 9, ..mount("/tmp".as_ref(), "/data", false) }];
    }),
    ("stop_signal", |config| config.stop_signal = 77),
    ("run_as_user", |config| security(config).run_as_user = Some(Int64Value { value: -1 })),
    ("run_as_username", |config| {
        security(config).run_as_user = Some(Int64Value { value: 1 });
        security(config).run_as_username = "daemon".to_owned();
    }),
    ("supplemental_groups", |config| security(config).supplemental_groups = vec![-5]),
    ("supplemental_groups_policy", |config| security(config).supplemental_groups_policy = 9),
    ("add_capabilities", |config| {
        let add_capabilities = vec!["NO SUCH".to_owned()];
        security(config).capabilities = Some(Capability { add_capabilities, ..Capability::default() });
    }),
    ("namespace_options.pid", |config| {
        security(config).namespace_options = Some(NamespaceOption { pid: 9, ..NamespaceOption::default() });
    }),
    ("registry.k8s.io/nothing:1", |config| {
        config.image = Some(ImageSpec { image: "registry.k8s.io/nothing:1".to_owned(), ..ImageSpec::default() });
    }),
];

const CONTAINER_DEMANDS: &[Case<ContainerConfig>] = &[
    ("windows", |config| config.windows = Some(WindowsContainerConfig::default())),
    ("CDI", |config| config.cdi_devices = vec![CdiDevice { name: "vendor.com/gpu=0".to_owned() }]),
    ("selinux_options", |config| security(config).selinux_options = Some(label())),
    ("no-such-profile", |config| {
        let mut profile = SecurityProfile { localhost_ref: "no-such-profile".to_owned(), ..SecurityProfile::default() };
        profile.set_profile_type(security_profile::ProfileType::Localhost);
        security(config).seccomp = Some(profile);
    }),
    ("uidMappings", |config| {
        let mapped = IdMapping { host_id: 1000, container_id: 0, length: 1 };
        config.mounts = vec![Mount { uid_mappings: vec![mapped], ..mount("/tmp".as_ref(), "/data", false) }];
    }),
];

const POD_FIELDS: &[Case<PodSandboxConfig>] = &[
    ("metadata", |config| config.metadata = None),
    ("metadata.name", |config| config.metadata = Some(PodSandboxMetadata::default())),
    ("hostname", |config| config.hostname = "not a name".to_owned()),
    ("windows", |config| config.windows = Some(WindowsPodSandboxConfig::default())),
    ("selinux_options", |config| pod_security(config).selinux_options = Some(label())),
    ("namespace_options.network", |config| namespaces(config).set_network(NamespaceMode::Container)),
    ("namespace_options.ipc", |config| namespaces(config).set_ipc(NamespaceMode::Target)),
    ("userns_options", |config| namespaces(config).userns_options = Some(UserNamespace::default())),
    ("annotations[jail.cellblock/allow.mlock]", |config| annotate(config, "jail.cellblock/allow.mlock", "true")),
    ("annotations[jail.cellblock/path]", |config| annotate(config, "jail.cellblock/path", "/")),
    ("annotations[resources.cellblock/readbps.main]", |config| {
        annotate(config, "resources.cellblock/readbps.main", "fast");
    }),
    ("no.such.parameter", |config| {
        config.linux.get_or_insert_default().sysctls = [("no.such.parameter".to_owned(), "1".to_owned())].into();
    }),
];

fn annotate(config: &mut PodSandboxConfig, key: &str, value: &str) {
    config.annotations.insert(key.to_owned(), value.to_owned());
}

fn label() -> SeLinuxOption {
    SeLinuxOption { level: "s0".to_owned(), ..SeLinuxOption::default() }
}

fn container_fields(stage: &Stage<'_>) -> Result<()> {
    containers(stage, CONTAINER_FIELDS)
}

fn container_demands(stage: &Stage<'_>) -> Result<()> {
    containers(stage, CONTAINER_DEMANDS)
}

fn containers(stage: &Stage<'_>, cases: &[Case<ContainerConfig>]) -> Result<()> {
    let pod = stage.pod()?;
    every(cases, |word, change| pod.refused(word, change))
}

fn pod_fields(stage: &Stage<'_>) -> Result<()> {
    every(POD_FIELDS, |word, change| stage.pod_refused(word, change))
}

/// Tries all, so that one report has every failure.
fn every<T>(cases: &[Case<T>], refused: impl Fn(&str, fn(&mut T)) -> Result<()>) -> Result<()> {
    let wrong: Vec<String> = cases
        .iter()
        .filter_map(|(word, change)| refused(word, *change).err())
        .map(|error| format!("{error:#}"))
        .collect();
    ensure!(wrong.is_empty(), "{}", wrong.join("; "));
    Ok(())
}

fn unknown_handler(stage: &Stage<'_>) -> Result<()> {
    let Err(status) = stage.run_pod(|_| (), "no-such-handler") else { bail!("a pod was made") };
    let named = status.message().contains("no-such-handler").then_some(());
    named.with_context(|| format!("the refusal does not name it: {status}"))
}
