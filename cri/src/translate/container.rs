//! ContainerConfig into a ContainerSpec. `linux` may be absent: a kubelet built for FreeBSD sends none, and the image's user
//! still counts.

use std::path::{Path, PathBuf};

use host::ContainerId;
use image::ImageConfig;
use proto::v1::{ContainerConfig, LinuxContainerResources, PodSandboxConfig};
use runtime::spec::{ContainerSpec, MountSource, PidScope, PodSpec, Resources, Signal};

use super::mounts::ImageVolume;

use super::refusal::{Refusal, absolute, invalid, labels, name, required};
use super::{annotations, jail, mounts, process, resources, security, signal};
use crate::state::names;

/// What a container's spec is made from.
#[derive(Debug, Clone)]
pub(crate) struct Inputs<'a> {
    pub(crate) id: &'a ContainerId,
    pub(crate) config: &'a ContainerConfig,
    /// The request of its pod.
    pub(crate) pod_config: &'a PodSandboxConfig,
    pub(crate) pod: &'a PodSpec,
    pub(crate) image: &'a ImageConfig,
    /// The jail parameters that the configuration allows.
    pub(crate) jail_parameters: &'a [String],
}

/// A container that does not exist yet: it has no root, and the images that it mounts have no directories.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Draft {
    /// The paths that are missing are empty; [`Draft::complete`] fills them in.
    spec: ContainerSpec,
    pub(crate) volumes: Vec<ImageVolume>,
    /// The paths that the image declares as volumes; their mounts are the last ones, in this order.
    pub(crate) declared: Vec<PathBuf>,
    pub(crate) stop_signal: Signal,
}

impl Draft {
    pub(crate) fn log_path(&self) -> Option<&Path> {
        self.spec.log_path.as_deref()
    }

    /// The spec for [`runtime::Runtime::check_container`]: with directories that exist in place of those that are not made yet.
    pub(crate) fn sketch(&self) -> ContainerSpec {
        let any = PathBuf::from("/");
        self.complete(any.clone(), vec![any.clone(); self.volumes.len()], vec![any; self.declared.len()])
    }

    /// The spec with its root and the directories of [`Draft::volumes`] and [`Draft::declared`], in their order.
    pub(crate) fn complete(&self, rootfs: PathBuf, volumes: Vec<PathBuf>, declared: Vec<PathBuf>) -> ContainerSpec {
        let mut spec = ContainerSpec { rootfs, ..self.spec.clone() };
        for (volume, directory) in self.volumes.iter().zip(volumes) {
            spec.mounts[volume.index].source = MountSource::Host(directory);
        }
        for (mount, directory) in spec.mounts.iter_mut().rev().zip(declared.into_iter().rev()) {
            mount.source = MountSource::Host(directory);
        }
        spec
    }
}

pub(crate) fn container(inputs: &Inputs<'_>) -> Result<Draft, Refusal> {
    let config = inputs.config;
    check(config)?;
    let linux = config.linux.clone().unwrap_or_default();
    let context = linux.security_context.clone().unwrap_or_default();
    if let Some(options) = &context.namespace_options {
        let field = "linux.security_context.namespace_options.userns_options";
        security::user_namespace(field, options.userns_options.as_ref())?;
    }
    let (mut mounts, volumes) = mounts::mounts(&config.mounts)?;
    let declared = mounts::declared(&inputs.image.volumes, &config.mounts)?;
    mounts.extend(declared.iter().map(|path| mounts::of_declared(path)));
    let annotations = &inputs.pod_config.annotations;
    let container = names::own(config.metadata.as_ref());
    let rctl = annotations::rctl(container, annotations)?;
    let spec = ContainerSpec {
        id: inputs.id.clone(),
        pod: inputs.pod.id.clone(),
        title: format!("{}/{container}", inputs.pod.title),
        rootfs: PathBuf::new(),
        readonly_rootfs: context.readonly_rootfs,
        shared_rootfs: false,
        for_linux: inputs.image.os == "linux",
        process: process::process(config, inputs.image, inputs.pod.hostname.as_deref(), &context)?,
        pid: pid(&context, inputs.pod)?,
        mounts,
        devices: mounts::devices(&config.devices)?,
        resources: Resources { rctl, ..resources::resources("linux.resources", linux.resources.as_ref())? },
        security: security::security(&context, inputs.pod.privileged)?,
        jail: jail::of_container(container, annotations, inputs.jail_parameters)?,
        stdin: config.stdin,
        stdin_once: config.stdin_once,
        log_path: log_path(inputs.pod_config, config)?,
    };
    let stop_signal = signal::stop_signal(config.stop_signal, inputs.image.stop_signal.as_deref(), &inputs.image.os)?;
    Ok(Draft { spec, volumes, declared, stop_signal })
}

/// For UpdateContainerResources.
pub(crate) fn container_resources(wanted: Option<&LinuxContainerResources>) -> Result<Resources, Refusal> {
    resources::resources("linux", wanted)
}

/// The container's log path in the pod's log directory; None: either is not set.
fn log_path(pod: &PodSandboxConfig, config: &ContainerConfig) -> Result<Option<PathBuf>, Refusal> {
    if config.log_path.is_empty() || pod.log_directory.is_empty() {
        return Ok(None);
    }
    let directory = absolute("sandbox_config.log_directory", &pod.log_directory)?;
    let outside = |part: std::path::Component<'_>| !matches!(part, std::path::Component::Normal(_));
    if Path::new(&config.log_path).components().any(outside) || config.log_path.contains('\0') {
        return Err(invalid("log_path", format!("{:?} is not below the pod's log_directory", config.log_path)));
    }
    Ok(Some(directory.join(&config.log_path)))
}

fn check(config: &ContainerConfig) -> Result<(), Refusal> {
    let metadata = required("metadata", config.metadata.as_ref())?;
    name("metadata.name", &metadata.name)?;
    labels("labels", &config.labels)?;
    labels("annotations", &config.annotations)?;
    labels("image.annotations", &config.image.clone().unwrap_or_default().annotations)?;
    if config.windows.is_some() {
        return Err(invalid("windows", "this is no Windows node"));
    }
    if let Some(device) = config.cdi_devices.first() {
        return Err(invalid("CDI_devices", format!("{:?}: CDI devices are not supported", device.name)));
    }
    Ok(())
}

/// The container's scope, else its pod's.
fn pid(context: &proto::v1::LinuxContainerSecurityContext, pod: &PodSpec) -> Result<PidScope, Refusal> {
    match &context.namespace_options {
        Some(options) => security::pid_scope("linux.security_context.namespace_options.pid", options),
        None => Ok(pod.pid.clone()),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use host::{ContainerId, PodId};
    use image::ImageConfig;
    use proto::v1::{
        CdiDevice, ContainerConfig, ContainerMetadata, ImageSpec, LinuxContainerConfig, LinuxContainerSecurityContext,
        Mount, NamespaceMode, NamespaceOption, PodSandboxConfig, PodSandboxMetadata,
    };
    use runtime::spec::{MountSource, NameOrId, PidScope};

    use super::{Draft, Inputs, Refusal, container};

    fn config() -> ContainerConfig {
        let metadata = ContainerMetadata { name: "main".to_owned(), attempt: 0 };
        let command = vec!["/bin/sleep".to_owned()];
        ContainerConfig { metadata: Some(metadata), command, ..ContainerConfig::default() }
    }

    fn translate(config: &ContainerConfig) -> Result<Draft, Refusal> {
        let metadata = PodSandboxMetadata {
            name: "web".to_owned(),
            uid: "u".to_owned(),
            namespace: "default".to_owned(),
            attempt: 0,
        };
        let pod_config = PodSandboxConfig {
            metadata: Some(metadata),
            log_directory: "/var/log/pods/web".to_owned(),
            ..PodSandboxConfig::default()
        };
        let pod = crate::translate::pod(&PodId::random(), &pod_config, "", &crate::Config::default()).unwrap();
        container(&Inputs {
            id: &ContainerId::random(),
            config,
            pod_config: &pod_config,
            pod: &pod.spec,
            image: &ImageConfig {
                user: "www".to_owned(),
                os: "freebsd".to_owned(),
                volumes: vec!["/data".to_owned(), "/mnt".to_owned()],
                ..ImageConfig::default()
            },
            jail_parameters: &[],
        })
    }

    #[test]
    fn without_a_linux_section_the_images_user_still_counts() {
        let got = translate(&config()).unwrap();
        assert_eq!(got.spec.process.user.user, NameOrId::Name("www".to_owned()));
        assert_eq!((got.spec.pid, got.spec.log_path), (PidScope::Pod, None));
    }

    #[test]
    fn a_draft_gets_its_root_and_the_directories_of_its_images() {
        let image = Some(ImageSpec { image: "busybox".to_owned(), ..ImageSpec::default() });
        let mount = |host_path: &str, image: Option<ImageSpec>| Mount {
            host_path: host_path.to_owned(),
            container_path: "/mnt".to_owned(),
            readonly: image.is_some(),
            image,
            ..Mount::default()
        };
        let mounts = vec![mount("/a", None), mount("", image)];
        let draft = translate(&ContainerConfig { mounts, ..config() }).unwrap();
        assert_eq!(draft.volumes[0].image, "busybox");
        let spec = draft.complete("/root".into(), vec!["/images/busybox".into()], vec!["/volumes/0".into()]);
        let sources: Vec<_> = spec.mounts.iter().map(|mount| mount.source.clone()).collect();
        assert_eq!(sources, ["/a", "/images/busybox", "/volumes/0"].map(|path| MountSource::Host(path.into())));
        assert_eq!(spec.rootfs, Path::new("/root"));
    }

    #[test]
    fn a_log_is_below_the_pods_log_directory() {
        let with = |path: &str| ContainerConfig { log_path: path.to_owned(), ..config() };
        let got = translate(&with("main/0.log")).unwrap().spec.log_path.unwrap();
        assert_eq!(got, Path::new("/var/log/pods/web/main/0.log"));
        for path in ["../0.log", "/etc/passwd", "a\0b"] {
            assert!(translate(&with(path)).unwrap_err().to_string().contains("log_path"));
        }
    }

    #[test]
    fn a_container_may_see_what_its_pod_does_not() {
        let options = NamespaceOption { pid: NamespaceMode::Container.into(), ..NamespaceOption::default() };
        let context = LinuxContainerSecurityContext { namespace_options: Some(options), ..Default::default() };
        let linux = LinuxContainerConfig { security_context: Some(context), ..LinuxContainerConfig::default() };
        let got = translate(&ContainerConfig { linux: Some(linux), ..config() }).unwrap();
        assert_eq!(got.spec.pid, PidScope::Container);
    }

    #[test]
    fn what_cannot_be_is_refused_with_its_field() {
        let large = std::collections::BTreeMap::from([("k".to_owned(), "v".repeat(1 << 20))]);
        let cdi = vec![CdiDevice { name: "vendor.com/gpu=0".to_owned() }];
        for (wanted, field) in [
            (ContainerConfig { metadata: None, ..config() }, "metadata"),
            (ContainerConfig { metadata: Some(ContainerMetadata::default()), ..config() }, "metadata.name"),
            (ContainerConfig { labels: large.clone(), ..config() }, "labels: have 1048577 bytes"),
            (ContainerConfig { annotations: large, ..config() }, "annotations: have 1048577 bytes"),
            (ContainerConfig { cdi_devices: cdi, ..config() }, "vendor.com/gpu=0"),
            (ContainerConfig { stop_signal: 77, ..config() }, "stop_signal: 77"),
            (ContainerConfig { command: Vec::new(), ..config() }, "command"),
            (ContainerConfig { working_dir: "/a\0b".to_owned(), ..config() }, "working_dir: \"/a\\0b\""),
        ] {
            let refusal = translate(&wanted).unwrap_err().to_string();
            assert!(refusal.contains(field), "{refusal}");
        }
    }
}
