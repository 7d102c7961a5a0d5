//! Enables IP forwarding by two sysctls and disables it again when the last server that needs it is gone.

use std::fs;
use std::path::{Path, PathBuf};

use host::Need;
use ipnetwork::IpNetwork;

use crate::Error;

/// The file of the sysctls that this server enabled.
const SWITCHED: &str = "forwarding.json";

/// IPv4 or not, and the name in sysctl(8).
const SYSCTLS: [(bool, &str); 2] = [(true, "net.ipv4.ip_forward"), (false, "net.ipv6.conf.all.forwarding")];

/// Enables forwarding for the families of these networks. Idempotent.
pub(super) fn enable(state: &Path, networks: &[IpNetwork]) -> Result<(), Error> {
    let mut switched = switched(state);
    for (ipv4, name) in SYSCTLS {
        let path = path(name);
        if !networks.iter().any(|network| network.is_ipv4() == ipv4) || is_on(name) {
            continue;
        }
        if !switched.iter().any(|known| known == name) {
            switched.push(name.to_owned());
        }
        // Recorded first, so that a server that dies here can still undo it.
        let text = serde_json::to_vec(&switched).expect("a list of strings has no keys");
        let file = state.join(SWITCHED);
        host::fs::write_atomic(&file, &text, 0o600)
            .map_err(Error::failed(format!("cannot write {}", file.display())))?;
        fs::write(&path, "1").map_err(Error::failed(format!("cannot set {name}")))?;
    }
    Ok(())
}

/// Undoes [`enable`], unless other servers need it. Idempotent.
pub(super) fn restore(state: &Path, others: bool) -> Result<(), Error> {
    for name in switched(state).iter().filter(|_| !others) {
        if SYSCTLS.iter().any(|(_, known)| known == name) {
            fs::write(path(name), "0").map_err(Error::failed(format!("cannot reset {name}")))?;
        }
    }
    let file = state.join(SWITCHED);
    host::fs::remove_file(&file).map_err(Error::failed(format!("cannot remove {}", file.display())))
}

/// Reports whether forwarding is on for the families of these networks.
pub(super) fn needs(networks: &[IpNetwork]) -> Vec<Need> {
    let needed = SYSCTLS.iter().filter(|(ipv4, _)| networks.iter().any(|network| network.is_ipv4() == *ipv4));
    let need = |name: &str| {
        let on = is_on(name);
        let remedy = (!on).then(|| format!("sysctl -w {name}=1"));
        let found = if on { "on" } else { "off" }.to_owned();
        Need { name: format!("forwarding ({name})"), found, required: true, remedy }
    };
    needed.map(|(_, name)| need(name)).collect()
}

fn is_on(name: &str) -> bool {
    fs::read_to_string(path(name)).is_ok_and(|value| value.trim() != "0")
}

fn switched(state: &Path) -> Vec<String> {
    host::json::read(&state.join(SWITCHED)).ok().flatten().unwrap_or_default()
}

fn path(name: &str) -> PathBuf {
    Path::new("/proc/sys").join(name.replace('.', "/"))
}
