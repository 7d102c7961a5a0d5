//! Security contexts: namespaces, capabilities, profiles. Explicit demands that cannot be met are refused; defaults are accepted.

use host::ContainerId;
use proto::v1::security_profile::ProfileType;
use proto::v1::{
    CgroupMountMode, LinuxContainerSecurityContext, NamespaceMode, NamespaceOption, SeLinuxOption, SecurityProfile,
    UserNamespace,
};
use runtime::spec::{PidScope, Profile, Scope, Security};

use super::refusal::{Refusal, invalid};

/// `pod_privileged`: whether the pod allows privileged containers.
pub(super) fn security(context: &LinuxContainerSecurityContext, pod_privileged: bool) -> Result<Security, Refusal> {
    const FIELD: &str = "linux.security_context";
    if context.privileged && !pod_privileged {
        let reason = "true, but the pod's own linux.security_context.privileged is false";
        return Err(invalid(format!("{FIELD}.privileged"), reason));
    }
    selinux(&format!("{FIELD}.selinux_options"), context.selinux_options.as_ref())?;
    cgroups(context)?;
    let capabilities = context.capabilities.clone().unwrap_or_default();
    let mut security = Security {
        privileged: context.privileged,
        no_new_privileges: context.no_new_privs,
        add_capabilities: capability_names("add_capabilities", &capabilities.add_capabilities)?,
        drop_capabilities: capability_names("drop_capabilities", &capabilities.drop_capabilities)?,
        ambient_capabilities: capability_names("add_ambient_capabilities", &capabilities.add_ambient_capabilities)?,
        masked_paths: context.masked_paths.iter().map(Into::into).collect(),
        readonly_paths: context.readonly_paths.iter().map(Into::into).collect(),
        seccomp: seccomp(context)?,
        apparmor: apparmor(context)?,
    };
    if context.privileged {
        // A privileged container has no confinement, as in containerd.
        security.masked_paths.clear();
        security.readonly_paths.clear();
        security.seccomp = Profile::Unconfined;
        security.apparmor = Profile::Unconfined;
    }
    Ok(security)
}

fn capability_names(list: &str, names: &[String]) -> Result<Vec<String>, Refusal> {
    let plain = |name: &String| {
        let upper = name.to_ascii_uppercase();
        let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
        let valid =
            !short.is_empty() && short.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
        let field = || format!("linux.security_context.capabilities.{list}");
        if valid { Ok(short.to_owned()) } else { Err(invalid(field(), format!("{name:?} is no capability"))) }
    };
    names.iter().map(plain).collect()
}

/// The seccomp profile; unset, also in the deprecated field: unconfined, as in containerd.
#[expect(deprecated, reason = "an older kubelet sends seccomp_profile_path")]
fn seccomp(context: &LinuxContainerSecurityContext) -> Result<Profile, Refusal> {
    match &context.seccomp {
        Some(profile) => parse_profile("linux.security_context.seccomp", profile),
        None => parse_word("linux.security_context.seccomp_profile_path", &context.seccomp_profile_path),
    }
    .map(|profile| profile.unwrap_or(Profile::Unconfined))
}

/// The AppArmor profile; unset: the backend's default, as in containerd.
#[expect(deprecated, reason = "an older kubelet sends apparmor_profile")]
fn apparmor(context: &LinuxContainerSecurityContext) -> Result<Profile, Refusal> {
    match &context.apparmor {
        Some(profile) => parse_profile("linux.security_context.apparmor", profile),
        None => parse_word("linux.security_context.apparmor_profile", &context.apparmor_profile),
    }
    .map(|profile| profile.unwrap_or(Profile::RuntimeDefault))
}

fn parse_profile(field: &str, profile: &SecurityProfile) -> Result<Option<Profile>, Refusal> {
    // Each belongs to a profile of type OCI alone.
    if !profile.oci_ref.is_empty() {
        let reason = format!("{:?}: profiles of a registry are not supported", profile.oci_ref);
        return Err(invalid(format!("{field}.oci_ref"), reason));
    }
    if profile.base_profile.is_some() {
        return Err(invalid(format!("{field}.base_profile"), "set: profiles of a registry are not supported"));
    }
    match ProfileType::try_from(profile.profile_type) {
        Ok(ProfileType::RuntimeDefault) => Ok(Some(Profile::RuntimeDefault)),
        Ok(ProfileType::Unconfined) => Ok(Some(Profile::Unconfined)),
        Ok(ProfileType::Localhost) if profile.localhost_ref.is_empty() => {
            Err(invalid(format!("{field}.localhost_ref"), "empty, and the profile type is Localhost"))
        }
        Ok(ProfileType::Localhost) => Ok(Some(localhost(&profile.localhost_ref))),
        Ok(ProfileType::Oci) => {
            Err(invalid(format!("{field}.profile_type"), "OCI: profiles of a registry are not supported"))
        }
        Err(_) => Err(invalid(format!("{field}.profile_type"), format!("{} is no type", profile.profile_type))),
    }
}

/// Parses the words of the deprecated fields.
fn parse_word(field: &str, word: &str) -> Result<Option<Profile>, Refusal> {
    match word {
        "" => Ok(None),
        "runtime/default" | "docker/default" => Ok(Some(Profile::RuntimeDefault)),
        "unconfined" => Ok(Some(Profile::Unconfined)),
        _ if word.starts_with("localhost/") => Ok(Some(localhost(word))),
        _ => Err(invalid(field, format!("{word:?} is no profile"))),
    }
}

fn localhost(name: &str) -> Profile {
    Profile::Localhost(name.strip_prefix("localhost/").unwrap_or(name).to_owned())
}

/// Refuses a demand for a view of the cgroups: Status reports neither feature. Unset, a container has the backend's default.
fn cgroups(context: &LinuxContainerSecurityContext) -> Result<(), Refusal> {
    const FIELD: &str = "linux.security_context";
    let namespace = context.namespace_options.as_ref().and_then(|options| options.cgroupns_options.as_ref());
    if let Some(options) = namespace {
        let mode = NamespaceMode::try_from(options.mode)
            .map_or_else(|_| options.mode.to_string(), |mode| mode.as_str_name().to_owned());
        let field = format!("{FIELD}.namespace_options.cgroupns_options.mode");
        return Err(invalid(field, format!("{mode}: the cgroup namespace cannot be chosen")));
    }
    match CgroupMountMode::try_from(context.cgroup_mount_mode) {
        Ok(CgroupMountMode::Unspecified) => Ok(()),
        mode => {
            let name =
                mode.map_or_else(|_| context.cgroup_mount_mode.to_string(), |mode| mode.as_str_name().to_owned());
            Err(invalid(format!("{FIELD}.cgroup_mount_mode"), format!("{name}: the mode cannot be chosen")))
        }
    }
}

/// Refuses every SELinux label: no backend has SELinux, and the container would be less confined than its user believes.
pub(super) fn selinux(field: &str, options: Option<&SeLinuxOption>) -> Result<(), Refusal> {
    match options {
        Some(options) if *options != SeLinuxOption::default() => {
            let SeLinuxOption { user, role, r#type, level } = options;
            Err(invalid(field, format!("{user}:{role}:{type}:{level}: SELinux labels are not supported")))
        }
        _ => Ok(()),
    }
}

/// The scopes of a pod's namespaces: network, IPC and processes.
pub(super) fn pod_scopes(options: &NamespaceOption) -> Result<(Scope, Scope, PidScope), Refusal> {
    const FIELD: &str = "linux.security_context.namespace_options";
    user_namespace(&format!("{FIELD}.userns_options"), options.userns_options.as_ref())?;
    let scope = |name: &str, value: i32| match NamespaceMode::try_from(value) {
        Ok(NamespaceMode::Pod) => Ok(Scope::Pod),
        Ok(NamespaceMode::Node) => Ok(Scope::Host),
        _ => Err(invalid(format!("{FIELD}.{name}"), format!("{value} is neither POD nor NODE"))),
    };
    let pid = pid_scope(&format!("{FIELD}.pid"), options)?;
    if matches!(pid, PidScope::Target(_)) {
        return Err(invalid(format!("{FIELD}.pid"), "TARGET is for containers, not for pods"));
    }
    Ok((scope("network", options.network)?, scope("ipc", options.ipc)?, pid))
}

pub(super) fn pid_scope(field: &str, options: &NamespaceOption) -> Result<PidScope, Refusal> {
    match NamespaceMode::try_from(options.pid) {
        Ok(NamespaceMode::Pod) => Ok(PidScope::Pod),
        Ok(NamespaceMode::Container) => Ok(PidScope::Container),
        Ok(NamespaceMode::Node) => Ok(PidScope::Host),
        Ok(NamespaceMode::Target) => {
            let target: ContainerId = options
                .target_id
                .parse()
                .map_err(|error| invalid("linux.security_context.namespace_options.target_id", format!("{error}")))?;
            Ok(PidScope::Target(target))
        }
        Err(_) => Err(invalid(field, format!("{} is no mode", options.pid))),
    }
}

/// Refuses user namespaces. NODE and an unset field mean the host's.
pub(super) fn user_namespace(field: &str, options: Option<&UserNamespace>) -> Result<(), Refusal> {
    match options.map(|options| NamespaceMode::try_from(options.mode)) {
        None | Some(Ok(NamespaceMode::Node)) => Ok(()),
        Some(_) => Err(invalid(field, "user namespaces are not supported")),
    }
}

#[cfg(test)]
mod tests {
    use proto::v1::security_profile::ProfileType;
    use proto::v1::{
        Capability, CgroupNamespace, LinuxContainerSecurityContext, NamespaceMode, NamespaceOption, SeLinuxOption,
        SecurityProfile, SecurityProfileBase, UserNamespace,
    };
    use runtime::spec::{PidScope, Profile, Scope};

    use super::{pod_scopes, security};

    fn context() -> LinuxContainerSecurityContext {
        LinuxContainerSecurityContext::default()
    }

    fn profile(profile_type: ProfileType, name: &str) -> Option<SecurityProfile> {
        Some(SecurityProfile {
            profile_type: profile_type.into(),
            localhost_ref: name.to_owned(),
            ..SecurityProfile::default()
        })
    }

    #[test]
    fn nothing_set_is_no_seccomp_and_the_default_apparmor() {
        let got = security(&context(), false).unwrap();
        assert_eq!((got.seccomp, got.apparmor), (Profile::Unconfined, Profile::RuntimeDefault));
    }

    #[test]
    fn profiles_are_read_from_the_new_field_and_the_old() {
        let new = LinuxContainerSecurityContext { seccomp: profile(ProfileType::Localhost, "/p.json"), ..context() };
        assert_eq!(security(&new, false).unwrap().seccomp, Profile::Localhost("/p.json".to_owned()));
        for (word, wanted) in [
            ("runtime/default", Profile::RuntimeDefault),
            ("unconfined", Profile::Unconfined),
            ("localhost/p.json", Profile::Localhost("p.json".to_owned())),
        ] {
            #[expect(deprecated, reason = "the old field is what is tested")]
            let old = LinuxContainerSecurityContext { seccomp_profile_path: word.to_owned(), ..context() };
            assert_eq!(security(&old, false).unwrap().seccomp, wanted);
        }
    }

    #[test]
    fn a_privileged_container_needs_a_privileged_pod_and_is_confined_by_nothing() {
        let wanted = LinuxContainerSecurityContext {
            privileged: true,
            masked_paths: vec!["/proc/kcore".to_owned()],
            seccomp: profile(ProfileType::RuntimeDefault, ""),
            ..context()
        };
        assert!(security(&wanted, false).unwrap_err().to_string().contains("privileged"));
        let got = security(&wanted, true).unwrap();
        assert!(got.privileged && got.masked_paths.is_empty());
        assert_eq!((got.seccomp, got.apparmor), (Profile::Unconfined, Profile::Unconfined));
    }

    #[test]
    fn capabilities_lose_their_prefix_and_nonsense_is_refused() {
        let with = |names: &[&str]| LinuxContainerSecurityContext {
            capabilities: Some(Capability {
                add_capabilities: names.iter().map(|name| (*name).to_owned()).collect(),
                ..Capability::default()
            }),
            ..context()
        };
        assert_eq!(
            security(&with(&["CAP_NET_ADMIN", "sys_time", "ALL"]), false).unwrap().add_capabilities,
            ["NET_ADMIN", "SYS_TIME", "ALL"]
        );
        assert!(security(&with(&["NET ADMIN"]), false).unwrap_err().to_string().contains("NET ADMIN"));
    }

    #[test]
    fn what_nobody_can_give_is_refused() {
        let label = SeLinuxOption { level: "s0".to_owned(), ..SeLinuxOption::default() };
        let selinux = LinuxContainerSecurityContext { selinux_options: Some(label), ..context() };
        let refusal = security(&selinux, false).unwrap_err().to_string();
        assert_eq!(refusal, "linux.security_context.selinux_options: :::s0: SELinux labels are not supported");
        let empty = LinuxContainerSecurityContext { selinux_options: Some(SeLinuxOption::default()), ..context() };
        assert!(security(&empty, false).is_ok());
        let nameless = LinuxContainerSecurityContext { apparmor: profile(ProfileType::Localhost, ""), ..context() };
        assert!(security(&nameless, false).unwrap_err().to_string().contains("localhost_ref"));
    }

    #[test]
    fn what_came_with_kubernetes_1_38_is_refused_by_name() {
        let of_registry =
            |profile: SecurityProfile| LinuxContainerSecurityContext { seccomp: Some(profile), ..context() };
        let namespace = |mode: NamespaceMode| LinuxContainerSecurityContext {
            namespace_options: Some(NamespaceOption {
                cgroupns_options: Some(CgroupNamespace { mode: mode.into() }),
                ..NamespaceOption::default()
            }),
            ..context()
        };
        let mount = |mode: i32| LinuxContainerSecurityContext { cgroup_mount_mode: mode, ..context() };
        let oci = SecurityProfile { profile_type: ProfileType::Oci.into(), ..SecurityProfile::default() };
        let reference = SecurityProfile { oci_ref: "r/p@sha256:0".to_owned(), ..SecurityProfile::default() };
        let base = SecurityProfile { base_profile: Some(SecurityProfileBase::default()), ..SecurityProfile::default() };
        for (wanted, field) in [
            (of_registry(oci), "seccomp.profile_type: OCI"),
            (of_registry(reference), "seccomp.oci_ref: \"r/p@sha256:0\""),
            (of_registry(base), "seccomp.base_profile: set"),
            (namespace(NamespaceMode::Pod), "cgroupns_options.mode: POD"),
            (namespace(NamespaceMode::Node), "cgroupns_options.mode: NODE"),
            (mount(1), "cgroup_mount_mode: CGROUP_MOUNT_MODE_READ_ONLY"),
            (mount(9), "cgroup_mount_mode: 9"),
        ] {
            let refusal = security(&wanted, false).unwrap_err().to_string();
            assert!(refusal.contains(field), "{refusal}");
        }
        assert!(security(&mount(0), false).is_ok());
    }

    #[test]
    fn a_pods_scopes_are_read_and_a_user_namespace_is_refused() {
        let options = |network: NamespaceMode, pid: NamespaceMode, ipc: NamespaceMode| NamespaceOption {
            network: network.into(),
            pid: pid.into(),
            ipc: ipc.into(),
            ..NamespaceOption::default()
        };
        use NamespaceMode::{Container, Node, Pod, Target};
        assert_eq!(pod_scopes(&options(Pod, Container, Node)), Ok((Scope::Pod, Scope::Host, PidScope::Container)));
        assert_eq!(pod_scopes(&options(Node, Node, Pod)), Ok((Scope::Host, Scope::Pod, PidScope::Host)));
        assert!(pod_scopes(&options(Container, Pod, Pod)).is_err());
        assert!(pod_scopes(&options(Pod, Target, Pod)).is_err());
        let mut own_users = options(Pod, Pod, Pod);
        own_users.userns_options = Some(UserNamespace { mode: Pod.into(), ..UserNamespace::default() });
        assert!(pod_scopes(&own_users).is_err());
        own_users.userns_options = Some(UserNamespace { mode: Node.into(), ..UserNamespace::default() });
        assert!(pod_scopes(&own_users).is_ok());
    }
}
