//! The system call filter: the default one, a file of the node, or none. The default allows the calls of [`super::calls`] and
//! those of the container's capabilities; every other fails with EPERM.

use std::path::Path;

use serde_json::{Value, json};

use super::calls;
use crate::Error;
use crate::spec::Profile;

/// The flags of clone(2) that make a namespace: NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET.
const NAMESPACE_FLAGS: u64 = 0x7e02_0000;
/// The largest profile file, in bytes.
const PROFILE_LIMIT: u64 = 4 << 20;
/// The personalities of personality(2) that a container may have: Linux, UNAME26, PER_LINUX32, both, and the query.
const PERSONALITIES: [u64; 5] = [0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];
/// AF_ALG and AF_VSOCK have both been ways out of a container: socket(2) is allowed for the families below, between and above
/// them.
const AF_ALG: u64 = 38;
const AF_VSOCK: u64 = 40;
/// ENOSYS on every architecture that this backend is built for.
const ENOSYS: u32 = 38;

/// The calls of each capability.
const BY_CAPABILITY: &[(&str, &str)] = &[
    ("CAP_BPF", "bpf"),
    ("CAP_DAC_READ_SEARCH", "open_by_handle_at"),
    ("CAP_PERFMON", "perf_event_open"),
    (
        "CAP_SYS_ADMIN",
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie mount mount_setattr move_mount \
         open_tree perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog umount umount2 unshare",
    ),
    ("CAP_SYS_BOOT", "reboot"),
    ("CAP_SYS_CHROOT", "chroot"),
    ("CAP_SYS_MODULE", "delete_module finit_module init_module"),
    ("CAP_SYS_NICE", "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"),
    ("CAP_SYS_PACCT", "acct"),
    ("CAP_SYS_PTRACE", "kcmp pidfd_getfd process_madvise"),
    ("CAP_SYS_RAWIO", "ioperm iopl"),
    ("CAP_SYS_TIME", "clock_settime clock_settime64 settimeofday stime"),
    ("CAP_SYS_TTY_CONFIG", "vhangup"),
    ("CAP_SYSLOG", "syslog"),
];

/// The filter of a container with these capabilities; None: no filter.
pub(super) fn filter(profile: &Profile, capabilities: &[String]) -> Result<Option<Value>, Error> {
    match profile {
        Profile::Unconfined => Ok(None),
        Profile::RuntimeDefault => Ok(Some(default_filter(capabilities))),
        Profile::Localhost(path) => read(Path::new(path)).map(Some),
    }
}

fn read(path: &Path) -> Result<Value, Error> {
    let invalid = |reason: String| Error::invalid("security.seccomp", reason);
    let length = std::fs::metadata(path).map_err(|error| invalid(format!("{}: {error}", path.display())))?.len();
    if length > PROFILE_LIMIT {
        return Err(invalid(format!("{} has more than {PROFILE_LIMIT} bytes", path.display())));
    }
    let text = std::fs::read(path).map_err(|error| invalid(format!("{}: {error}", path.display())))?;
    let profile: Value =
        serde_json::from_slice(&text).map_err(|error| invalid(format!("{}: {error}", path.display())))?;
    if profile.get("defaultAction").is_none() {
        return Err(invalid(format!("{} has no defaultAction", path.display())));
    }
    Ok(profile)
}

fn default_filter(capabilities: &[String]) -> Value {
    let holds = |capability: &str| capabilities.iter().any(|held| held == capability);
    let mut rules = vec![
        allow(&calls::always().collect::<Vec<_>>()),
        allow(&["process_vm_readv", "process_vm_writev", "ptrace"]),
        allow_where("socket", &json!({ "index": 0, "value": AF_ALG, "op": "SCMP_CMP_LT" })),
        allow_where("socket", &json!({ "index": 0, "value": AF_ALG + 1, "op": "SCMP_CMP_EQ" })),
        allow_where("socket", &json!({ "index": 0, "value": AF_VSOCK, "op": "SCMP_CMP_GT" })),
    ];
    let equal = |value: &u64| json!({ "index": 0, "value": value, "op": "SCMP_CMP_EQ" });
    rules.extend(PERSONALITIES.iter().map(|value| allow_where("personality", &equal(value))));
    rules.extend(of_architecture().map(allow));
    for (capability, names) in BY_CAPABILITY {
        if holds(capability) {
            rules.push(allow(&names.split_whitespace().collect::<Vec<_>>()));
        }
    }
    if !holds("CAP_SYS_ADMIN") {
        let no_namespace = json!({ "index": 0, "value": NAMESPACE_FLAGS, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ" });
        rules.push(allow_where("clone", &no_namespace));
        // The flags of clone3 are in memory, where filters cannot see them; after ENOSYS a C library uses clone.
        rules.push(json!({ "names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": ENOSYS }));
    }
    json!({ "defaultAction": "SCMP_ACT_ERRNO", "architectures": architectures(), "syscalls": rules })
}

fn allow(names: &[&str]) -> Value {
    json!({ "names": names, "action": "SCMP_ACT_ALLOW" })
}

fn allow_where(name: &str, argument: &Value) -> Value {
    json!({ "names": [name], "action": "SCMP_ACT_ALLOW", "args": [argument] })
}

/// The machine's architecture and the others whose programs it runs.
fn architectures() -> &'static [&'static str] {
    match std::env::consts::ARCH {
        "x86_64" => &["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "aarch64" => &["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
        _ => &[],
    }
}

fn of_architecture() -> Option<&'static [&'static str]> {
    match std::env::consts::ARCH {
        "x86_64" => Some(&["arch_prctl", "modify_ldt"]),
        "aarch64" => Some(&[
            "arm_fadvise64_64",
            "arm_sync_file_range",
            "sync_file_range2",
            "breakpoint",
            "cacheflush",
            "set_tls",
        ]),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{Profile, default_filter, filter};

    fn allows(filter: &serde_json::Value, name: &str) -> bool {
        let rules = filter["syscalls"].as_array().unwrap();
        rules.iter().any(|rule| {
            rule["action"] == "SCMP_ACT_ALLOW"
                && rule["args"].is_null()
                && rule["names"].as_array().unwrap().iter().any(|n| n == name)
        })
    }

    #[test]
    fn a_capability_opens_its_calls_and_no_others() {
        let plain = default_filter(&["CAP_CHOWN".to_owned()]);
        let admin = default_filter(&["CAP_SYS_ADMIN".to_owned()]);
        for name in ["mount", "unshare", "setns", "clone", "keyctl", "io_uring_setup", "userfaultfd"] {
            assert!(!allows(&plain, name), "{name}");
        }
        assert!(allows(&plain, "openat") && allows(&admin, "mount") && allows(&admin, "clone"));
        assert!(!allows(&admin, "keyctl") && !allows(&admin, "reboot"));
    }

    #[test]
    fn a_profile_of_the_node_is_read_and_a_bad_one_is_refused_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("p.json");
        let profile = Profile::Localhost(path.display().to_string());
        assert!(filter(&profile, &[]).unwrap_err().to_string().contains("p.json"));
        std::fs::write(&path, r#"{"defaultAction":"SCMP_ACT_ALLOW"}"#).unwrap();
        assert_eq!(filter(&profile, &[]).unwrap().unwrap()["defaultAction"], "SCMP_ACT_ALLOW");
        std::fs::write(&path, "{}").unwrap();
        assert!(filter(&profile, &[]).is_err());
        assert!(filter(&Profile::Unconfined, &[]).unwrap().is_none());
    }
}
