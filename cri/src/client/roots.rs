//! `cellblock export` and `import`: the root of a container as a stream of ZFS, and a root that pods can then ask for by annotation.

use std::io::Write;
use std::path::Path;

use proto::admin::{ExportRootRequest, ImportRootRequest};

use super::{answer, block_on, connect_admin, transfer};

/// Receives a snapshot of a container's root, into a file, or to `out` for `-`.
///
/// # Errors
/// No server answers, the server's refusal, or the file.
pub fn export(
    state: &Path,
    container: &str,
    snapshot: &str,
    output: &Path,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let request = ExportRootRequest { container: container.to_owned(), snapshot: snapshot.to_owned() };
    block_on(async {
        let call = async { answer(connect_admin(state).await?.export_root(request).await) };
        match transfer::receive(call, |message| message.chunk, output, out).await? {
            Some(outcome) => outcome.write(false, out),
            None => Ok(()),
        }
    })
}

/// Sends a root, from a file or the standard input for `-`.
///
/// # Errors
/// As [`export`].
pub fn import(state: &Path, name: &str, file: &Path) -> anyhow::Result<()> {
    block_on(async {
        let mut client = connect_admin(state).await?;
        let first = ImportRootRequest { name: name.to_owned(), chunk: Vec::new() };
        let message = |chunk| ImportRootRequest { name: String::new(), chunk };
        let call = async |messages| client.import_root(messages).await;
        transfer::send(file, false, (first, message), call).await.map(drop)
    })
}
