//! Facts about this kernel, asked once.

use std::collections::BTreeSet;
use std::sync::OnceLock;

use super::limits::Bounds;
use super::rights::Rights;
use super::sys::sysctl;

/// The size of a page if the kernel does not say, in bytes.
const PAGE_SIZE: u64 = 4096;
/// The bound on what the kernel has no number for: kern.maxthread is older than 15, but not all that it counts.
const BOUND: u64 = 100_000;

/// Whether rctl(4) counts and limits, which is chosen at boot.
pub(super) fn accounting() -> bool {
    static ENABLED: OnceLock<bool> = OnceLock::new();
    *ENABLED.get_or_init(|| sysctl::number("kern.racct.enable").is_ok_and(|enabled| enabled != 0))
}

/// Whether the node has swap space.
pub(super) fn has_swap() -> bool {
    sysctl::number("vm.swap_total").is_ok_and(|bytes| bytes > 0)
}

/// Whether the linuxulator is loaded (linux(4)).
pub(super) fn runs_linux() -> bool {
    sysctl::exists("compat.linux.osrelease")
}

/// The bounds of a container: half of what the kernel has for the whole node.
pub(super) fn bounds() -> Bounds {
    static BOUNDS: OnceLock<Bounds> = OnceLock::new();
    let half = |name: &str| sysctl::number(name).map_or(BOUND, |whole| (whole / 2).max(1));
    *BOUNDS.get_or_init(|| Bounds {
        processes: half("kern.maxproc"),
        threads: half("kern.maxthread"),
        files: half("kern.maxfiles"),
    })
}

/// Its release: `15.1-RELEASE-p1`.
pub(super) fn release() -> String {
    sysctl::text("kern.osrelease").unwrap_or_default()
}

/// The number of memory domains (numa(4)).
pub(super) fn domains() -> usize {
    sysctl::number("vm.ndomains").map_or(1, |count| usize::try_from(count).unwrap_or(1))
}

/// The size of a page, in bytes.
pub(super) fn page_size() -> u64 {
    static SIZE: OnceLock<u64> = OnceLock::new();
    *SIZE.get_or_init(|| sysctl::number("hw.pagesize").unwrap_or(PAGE_SIZE))
}

/// Whether a jail parameter exists: `allow.extattr` does since 15, those of file systems (`allow.mount.tmpfs`) with their
/// modules.
pub(super) fn has_parameter(name: &str) -> bool {
    static KNOWN: OnceLock<BTreeSet<String>> = OnceLock::new();
    let known = KNOWN.get_or_init(|| {
        let all = Rights::all_parameters().into_iter().map(|name| format!("allow.{name}"));
        all.filter(|name| sysctl::exists(&parameter_oid(name))).collect()
    });
    known.contains(name) || sysctl::exists(&parameter_oid(name))
}

/// The tree of sysctls with the kernel's jail parameters.
fn parameter_oid(name: &str) -> String {
    format!("security.jail.param.{name}")
}
