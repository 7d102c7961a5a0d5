//! PodSandboxConfig into a PodSpec and a NetworkWish.

use host::PodId;
use proto::v1::{LinuxPodSandboxConfig, LinuxSandboxSecurityContext, PodSandboxConfig};
use runtime::spec::{PodSpec, Resources, Scope};

use super::network::{NetworkWish, wish};
use super::refusal::{Refusal, absolute, invalid, labels, name, required};
use super::{annotations, dns, jail, resources, security};
use crate::config::Config;
use crate::state::names;

/// The longest host name, in bytes: HOST_NAME_MAX on Linux; FreeBSD's MAXHOSTNAMELEN is longer.
const HOSTNAME_LENGTH: usize = 64;

/// The specs of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pod {
    pub(crate) spec: PodSpec,
    pub(crate) network: NetworkWish,
}

pub(crate) fn pod(id: &PodId, config: &PodSandboxConfig, handler: &str, server: &Config) -> Result<Pod, Refusal> {
    if !handler.is_empty() && !server.runtime_handlers.iter().any(|known| known == handler) {
        return Err(invalid("runtime_handler", format!("no runtime for {handler:?} is configured")));
    }
    check_metadata(config)?;
    if !config.log_directory.is_empty() {
        absolute("log_directory", &config.log_directory)?;
    }
    if config.windows.is_some() {
        return Err(invalid("windows", "this is no Windows node"));
    }
    annotations::check(&config.annotations, config.linux.is_some())?;
    let linux = config.linux.clone().unwrap_or_default();
    let context = linux.security_context.clone().unwrap_or_default();
    check_security(&context)?;
    let (network, ipc, pid) = security::pod_scopes(&context.namespace_options.clone().unwrap_or_default())?;
    let host_network = network == Scope::Host;
    Ok(Pod {
        spec: PodSpec {
            id: id.clone(),
            title: config.metadata.as_ref().map(names::namespaced).unwrap_or_default(),
            hostname: hostname(&config.hostname)?,
            network,
            ipc,
            pid,
            resolv_conf: dns::resolv_conf(config.dns_config.as_ref())?,
            sysctls: sysctls(&linux, host_network)?,
            cgroup_parent: cgroup_parent(&linux.cgroup_parent)?,
            privileged: context.privileged,
            resources: pod_resources(&linux)?,
            jail: jail::of_pod(&config.annotations, &server.jail_parameters)?,
            // Read from its file later: this is pure.
            filter: None,
        },
        network: wish(host_network, &config.annotations, &config.port_mappings, &server.network)?,
    })
}

/// The resources that the containers of a pod share.
pub(crate) fn pod_resources(linux: &LinuxPodSandboxConfig) -> Result<Resources, Refusal> {
    resources::resources("linux.resources", linux.resources.as_ref())
}

fn check_metadata(config: &PodSandboxConfig) -> Result<(), Refusal> {
    let metadata = required("metadata", config.metadata.as_ref())?;
    name("metadata.name", &metadata.name)?;
    name("metadata.uid", &metadata.uid)?;
    name("metadata.namespace", &metadata.namespace)?;
    labels("labels", &config.labels)?;
    labels("annotations", &config.annotations)
}

/// The pod's seccomp, user and root concern containerd's pause container. A pod here has no process, so only what holds for the
/// whole pod is checked.
fn check_security(context: &LinuxSandboxSecurityContext) -> Result<(), Refusal> {
    security::selinux("linux.security_context.selinux_options", context.selinux_options.as_ref())
}

fn hostname(text: &str) -> Result<Option<String>, Refusal> {
    let word = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    if text.len() > HOSTNAME_LENGTH || !text.bytes().all(word) {
        return Err(invalid("hostname", format!("{text:?} is no host name of at most {HOSTNAME_LENGTH} bytes")));
    }
    Ok(Some(text.to_owned()).filter(|text| !text.is_empty()))
}

fn sysctls(
    linux: &LinuxPodSandboxConfig,
    host_network: bool,
) -> Result<std::collections::BTreeMap<String, String>, Refusal> {
    for (name, value) in &linux.sysctls {
        let field = || format!("linux.sysctls[{name}]");
        if name.is_empty() || name.contains("..") || name.contains(['\0', '\n']) || value.contains('\n') {
            return Err(invalid(field(), format!("{value:?}: no kernel parameter")));
        }
        if host_network && (name.starts_with("net.") || name.starts_with("net/")) {
            return Err(invalid(field(), format!("{value:?}: the pod is on the host's network")));
        }
    }
    Ok(linux.sysctls.clone())
}

fn cgroup_parent(text: &str) -> Result<Option<String>, Refusal> {
    if text.split('/').any(|part| part == "..") || text.contains('\0') {
        return Err(invalid("linux.cgroup_parent", format!("{text:?} is no path in the hierarchy")));
    }
    Ok(Some(text.to_owned()).filter(|text| !text.is_empty()))
}

#[cfg(test)]
mod tests {
    use host::PodId;
    use proto::v1::{
        LinuxPodSandboxConfig, LinuxSandboxSecurityContext, NamespaceMode, NamespaceOption, PodSandboxConfig,
        PodSandboxMetadata, SeLinuxOption, WindowsPodSandboxConfig,
    };
    use runtime::spec::Scope;

    use super::{Pod, Refusal, pod};
    use crate::config::Config;

    fn config() -> PodSandboxConfig {
        let metadata = PodSandboxMetadata {
            name: "web".to_owned(),
            uid: "u".to_owned(),
            namespace: "default".to_owned(),
            attempt: 0,
        };
        PodSandboxConfig { metadata: Some(metadata), hostname: "web".to_owned(), ..PodSandboxConfig::default() }
    }

    fn with_name(name: &str) -> PodSandboxConfig {
        let mut config = config();
        config.metadata.as_mut().unwrap().name = name.to_owned();
        config
    }

    fn translate(config: &PodSandboxConfig) -> Result<Pod, Refusal> {
        pod(&PodId::random(), config, "", &Config::default())
    }

    fn with_linux(linux: LinuxPodSandboxConfig) -> PodSandboxConfig {
        PodSandboxConfig { linux: Some(linux), ..config() }
    }

    fn sysctl(name: &str, value: &str) -> LinuxPodSandboxConfig {
        LinuxPodSandboxConfig {
            sysctls: [(name.to_owned(), value.to_owned())].into(),
            ..LinuxPodSandboxConfig::default()
        }
    }

    #[test]
    fn a_pod_without_a_linux_section_is_an_ordinary_pod() {
        let got = translate(&config()).unwrap();
        assert_eq!((got.spec.network, got.spec.ipc, got.spec.privileged), (Scope::Pod, Scope::Pod, false));
        assert_eq!(got.spec.hostname.as_deref(), Some("web"));
        assert!(got.network.route && !got.network.host);
    }

    #[test]
    fn a_pod_on_the_hosts_network_cannot_change_it() {
        let mut linux = sysctl("net.ipv4.ip_forward", "1");
        assert!(translate(&with_linux(linux.clone())).is_ok());
        let options = NamespaceOption { network: NamespaceMode::Node.into(), ..NamespaceOption::default() };
        linux.security_context =
            Some(LinuxSandboxSecurityContext { namespace_options: Some(options), ..Default::default() });
        let refusal = translate(&with_linux(linux)).unwrap_err().to_string();
        assert!(refusal.contains("linux.sysctls[net.ipv4.ip_forward]"), "{refusal}");
    }

    #[test]
    fn what_cannot_be_is_refused_with_its_field() {
        let large = std::collections::BTreeMap::from([("k".to_owned(), "v".repeat(1 << 20))]);
        let label = SeLinuxOption { user: "u".to_owned(), ..SeLinuxOption::default() };
        let labelled = LinuxPodSandboxConfig {
            security_context: Some(LinuxSandboxSecurityContext { selinux_options: Some(label), ..Default::default() }),
            ..LinuxPodSandboxConfig::default()
        };
        let outside =
            LinuxPodSandboxConfig { cgroup_parent: "/a/../..".to_owned(), ..LinuxPodSandboxConfig::default() };
        for (wanted, field) in [
            (PodSandboxConfig { metadata: None, ..config() }, "metadata: missing"),
            (PodSandboxConfig { metadata: Some(PodSandboxMetadata::default()), ..config() }, "metadata.name: empty"),
            (PodSandboxConfig { hostname: "a b".to_owned(), ..config() }, "hostname: \"a b\""),
            (with_name(&"n".repeat(1025)), "metadata.name: has 1025 bytes, at most 1024"),
            (
                PodSandboxConfig { log_directory: "logs".to_owned(), ..config() },
                "log_directory: \"logs\" is not an absolute path",
            ),
            (PodSandboxConfig { labels: large.clone(), ..config() }, "labels: have 1048577 bytes"),
            (PodSandboxConfig { annotations: large, ..config() }, "annotations: have 1048577 bytes"),
            (PodSandboxConfig { windows: Some(WindowsPodSandboxConfig::default()), ..config() }, "windows"),
            (with_linux(sysctl("kernel.shm..x", "1")), "linux.sysctls[kernel.shm..x]"),
            (with_linux(labelled), "linux.security_context.selinux_options"),
            (with_linux(outside), "linux.cgroup_parent"),
        ] {
            let refusal = translate(&wanted).unwrap_err().to_string();
            assert!(refusal.contains(field), "{refusal}");
        }
    }

    #[test]
    fn only_configured_runtime_handlers_are_known() {
        let server = Config { runtime_handlers: vec!["jail".to_owned()], ..Config::default() };
        assert!(pod(&PodId::random(), &config(), "jail", &server).is_ok());
        let refusal = pod(&PodId::random(), &config(), "kata", &server).unwrap_err();
        assert!(refusal.to_string().contains("no runtime for \"kata\" is configured"));
    }
}
