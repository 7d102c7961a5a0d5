//! `cellblock root CONTAINER`: where a container's root is on the host.

use std::io::Write;
use std::path::Path;

use proto::admin::FindRootRequest;

use super::outcome::print;
use super::{answer, block_on, connect_admin};

/// Writes the path to `out`, and what a person should know of it to `errors`.
///
/// # Errors
/// No server answers, or the server's refusal.
pub fn find(state: &Path, container: &str, out: &mut impl Write, errors: &mut impl Write) -> anyhow::Result<()> {
    let request = FindRootRequest { container: container.to_owned() };
    let found = block_on(async { answer(connect_admin(state).await?.find_root(request).await) })?;
    if !found.warning.is_empty() {
        writeln!(errors, "cellblock: warning: {}", found.warning)?;
    }
    print(out, &format!("{}\n", found.path))
}
