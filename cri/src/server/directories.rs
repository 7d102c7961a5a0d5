//! The modes of the server's directories: only root may enter them. A container's root holds set-user-id programs that anybody
//! who reaches it can run outside the container (jail(8), BUGS; CVE-2024-25621). The same holds for everything mounted below these
//! directories: a dataset's mount points, read-only roots, a pod's files. Processes in a container do not come this way, since
//! their paths begin at their own root.
//!
//! The root directory has mode 0700. The state directory has 0711, since other users may reach sockets in it by their paths. Each
//! start of a server closes its entries to others: the CRI socket is root's.

use std::io;

use host::Need;

use crate::config::Config;
use crate::state::node::NAMESERVER;

pub(crate) const ROOT: u32 = 0o700;
pub(crate) const STATE: u32 = 0o711;
/// The mode of the state directory's entries.
const PRIVATE: u32 = 0o700;
/// The runtime's directory in the state directory.
pub(crate) const RUNTIME: &str = "runtime";
/// The network's directory in the state directory.
pub(crate) const NETWORK: &str = "network";

/// Makes missing directories; existing ones keep their modes.
pub(crate) fn make(config: &Config) -> io::Result<()> {
    host::fs::make_directory(&config.root, ROOT)?;
    host::fs::make_directory(&config.state, STATE)?;
    let names = (!config.network.names.is_empty()).then_some(NAMESERVER);
    let mut entries = [RUNTIME, NETWORK].into_iter().chain(names);
    entries.try_for_each(|name| host::fs::make_directory(&config.state.join(name), PRIVATE))
}

/// Makes missing directories, and closes the state directory and its entries. `locks::lock` closes the root directory.
pub(crate) fn close_state(config: &Config) -> io::Result<()> {
    make(config)?;
    host::fs::set_mode(&config.state, STATE)?;
    host::fs::close_to_others(&config.state)
}

/// Whether the directories are closed to others, for `cellblock check`.
pub(crate) fn needs(config: &Config) -> io::Result<Vec<Need>> {
    let open = host::fs::open_to_others(&config.state)?;
    let mut needs = vec![
        need("root directory", &config.root, host::fs::mode(&config.root)?, ROOT),
        need("state directory", &config.state, host::fs::mode(&config.state)?, STATE),
    ];
    needs.extend(open.iter().map(|(path, mode)| need("state directory", path, *mode, mode & PRIVATE)));
    Ok(needs)
}

fn need(name: &str, path: &std::path::Path, found: u32, wanted: u32) -> Need {
    let path = path.display();
    Need {
        name: name.to_owned(),
        found: format!("{path} has mode {found:04o}"),
        required: true,
        remedy: (found != wanted).then(|| format!("chmod {wanted:04o} {path}; a start of the server does it too")),
    }
}

#[cfg(test)]
mod tests {
    use super::{close_state, make, needs};
    use crate::config::Config;

    #[test]
    fn directories_that_others_may_enter_are_told_and_closed() {
        let scratch = tempfile::tempdir().unwrap();
        let (root, state) = (scratch.path().join("root"), scratch.path().join("state"));
        let config = Config { root: root.clone(), state: state.clone(), ..Config::default() };
        make(&config).unwrap();
        assert!(needs(&config).unwrap().iter().all(host::Need::holds));
        for (path, mode) in [(&root, 0o711), (&state, 0o755), (&state.join("runtime"), 0o755)] {
            host::fs::set_mode(path, mode).unwrap();
        }
        make(&config).unwrap();
        let told: Vec<_> = needs(&config).unwrap().into_iter().map(|need| (need.found, need.remedy)).collect();
        let wanted = [(&root, "0711", "0700"), (&state, "0755", "0711"), (&state.join("runtime"), "0755", "0700")];
        assert_eq!(told.len(), wanted.len());
        for ((found, remedy), (path, mode, closed)) in told.iter().zip(wanted) {
            assert_eq!(*found, format!("{} has mode {mode}", path.display()));
            assert!(remedy.as_ref().unwrap().starts_with(&format!("chmod {closed} {}", path.display())));
        }
        close_state(&config).unwrap();
        let open: Vec<_> = needs(&config).unwrap().into_iter().filter(|need| !need.holds()).collect();
        assert_eq!(open.len(), 1, "{open:?}");
        assert!(open[0].found.starts_with(&root.display().to_string()), "the root directory is closed with its lock");
    }
}
