//! The locks of a server on what no other may use: its root directory, its state directory, and the prefix of its kernel names.
//! At its start a server removes what it finds there and has no record of, which would be the other server's pods.

use std::path::Path;

use host::fs::Lock;

use crate::config::Config;
use crate::server::daemon::ServeError;
use crate::server::directories;

/// The file in the root and in the state directory that a running server locks.
const FILE: &str = "lock";

/// Held by a running server. The kernel releases them when its process ends.
#[derive(Debug)]
pub struct Locks {
    _all: [Lock; 3],
}

/// Takes the locks; makes both directories, and closes the root directory to all but root. `run` is the directory of the prefix's
/// lock, `/var/run` but in tests.
///
/// # Errors
/// [`ServeError::Taken`] when another server has one of them.
pub fn lock(config: &Config, run: &Path) -> Result<Locks, ServeError> {
    let (root, state) = (config.root.as_path(), config.state.as_path());
    let failed = |path: &Path| {
        let operation = format!("lock {}", path.display());
        |source| ServeError::Host { operation, source }
    };
    host::fs::make_directory(root, directories::ROOT).map_err(failed(root))?;
    host::fs::set_mode(root, directories::ROOT).map_err(failed(root))?;
    host::fs::make_directory(state, directories::STATE).map_err(failed(state))?;
    let take = |what: String, file: &Path| {
        Lock::take(file).map_err(failed(file))?.ok_or_else(|| ServeError::Taken { what, file: file.to_owned() })
    };
    Ok(Locks {
        _all: [
            take(format!("root directory {}", root.display()), &root.join(FILE))?,
            take(format!("state directory {}", state.display()), &state.join(FILE))?,
            take(
                format!("prefix {:?}", config.prefix.as_str()),
                &run.join(format!("cellblock-{}.lock", config.prefix.as_str())),
            )?,
        ],
    })
}
