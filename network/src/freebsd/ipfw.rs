//! ipfw(4) filters each vnet by a ruleset of its own, which denies everything unless the kernel was told otherwise
//! (net.inet.ip.fw.default_to_accept). A pod's vnet is taken out of it: what a pod sends passes the node's ipfw all the same,
//! whose rules are the operator's.

use std::ffi::CStr;
use std::io;

use host::run::Tool;
use host::{Need, Prefix};

use super::sys;

/// The name of the module.
const MODULE: &CStr = c"ipfw";
/// Whether ipfw filters in this process's vnet, one for each address family; missing while ipfw is not loaded.
const ENABLE: [&str; 2] = ["net.inet.ip.fw.enable", "net.inet6.ip6.fw.enable"];
/// Whether a ruleset passes what none of its rules matches.
const ACCEPTS: &str = "net.inet.ip.fw.default_to_accept";

/// Returns the id of the loaded module. When it changes, all vnets were closed anew.
pub(super) fn module() -> Option<i32> {
    sys::module_id(MODULE)
}

/// Takes this process's vnet out of ipfw. Idempotent; without ipfw nothing is to be done.
pub(super) fn open() -> io::Result<()> {
    for name in ENABLE {
        match sys::set_sysctl(name, &0i32.to_ne_bytes()) {
            Err(error) if error.raw_os_error() != Some(libc::ENOENT) => {
                return Err(io::Error::new(error.kind(), format!("cannot set {name}=0: {error}")));
            }
            _ => (),
        }
    }
    Ok(())
}

/// Reports whether the node's own ruleset passes pods' traffic, where it denies by default. Optional: the operator's rules may
/// name addresses instead of interfaces.
pub(super) fn need(prefix: &Prefix) -> Option<Need> {
    let is_on = |name: &str| sys::sysctl(name, 4).is_ok_and(|value| value != 0i32.to_ne_bytes());
    if !ENABLE.iter().any(|name| is_on(name)) || is_on(ACCEPTS) {
        return None;
    }
    let printed = Tool::new("/sbin/ipfw").args(["list"]).run().map(|output| output.stdout).unwrap_or_default();
    let passed = String::from_utf8_lossy(&printed).contains(&format!("via {prefix}*"));
    Some(Need {
        name: "ipfw".to_owned(),
        found: if passed { "passes the pods' interfaces" } else { "denies what no rule passes, the pods' traffic too" }
            .to_owned(),
        required: false,
        remedy: (!passed).then(|| format!("for example: ipfw add 100 allow ip from any to any via '{prefix}*'")),
    })
}
