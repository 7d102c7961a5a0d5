//! `cellblock image import` and `export`: archives to the server and from it, in pieces. A file that is exported appears whole or not
//! at all.

use std::fs::{File, OpenOptions};
use std::io::{IsTerminal, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use indicatif::{ProgressBar, ProgressStyle};
use proto::admin::{ExportImagesRequest, ExportImagesResponse, ImportImagesRequest};
use serde_json::json;
use tokio::sync::{mpsc, oneshot};
use tonic::Streaming;

use super::super::{answer, connect_admin, refused};
use super::show;
use crate::client::{outcome::Outcome, table};

/// Bytes of a message, and messages that wait for the server.
const CHUNK: usize = 256 << 10;
const WAITING: usize = 4;
const BAR: &str = "{msg} [{bar:40}] {bytes:>11} / {total_bytes:11} {bytes_per_sec}";

/// Sends an archive.
pub(super) async fn import(state: &Path, file: &Path, name: Option<&str>, quiet: bool) -> anyhow::Result<Outcome> {
    let (source, size): (Box<dyn Read + Send>, u64) = if file == Path::new("-") {
        if std::io::stdin().is_terminal() {
            bail!("the archive is read from the standard input, which is a terminal");
        }
        (Box::new(std::io::stdin()), 0)
    } else {
        let opened = File::open(file).with_context(|| format!("cannot open {}", file.display()))?;
        let size = opened.metadata().map_or(0, |metadata| metadata.len());
        (Box::new(opened), size)
    };
    let mut client = connect_admin(state).await?;
    let bar = bar(size, quiet);
    let (sender, mut chunks) = mpsc::channel(WAITING);
    let first = ImportImagesRequest { name: name.unwrap_or_default().to_owned(), chunk: Vec::new() };
    let sent = bar.clone();
    let (done, mut read) = oneshot::channel();
    // A thread of its own: one that waits for the standard input keeps nobody from the server's refusal.
    std::thread::spawn(move || {
        let _ = sender.blocking_send(first);
        let ended = send(source, &sender, &sent);
        // After a read error the stream must not end: the server would take it for the whole archive.
        let _ = done.send((ended, sender));
    });
    let requests = futures::stream::poll_fn(move |context| chunks.poll_recv(context));
    let importing = client.import_images(requests);
    tokio::pin!(importing);
    let imported = tokio::select! {
        imported = &mut importing => imported,
        read = &mut read => {
            let (ended, sender) = read.context("the reader ended in a defect")?;
            ended.with_context(|| format!("cannot read {}", file.display()))?;
            drop(sender);
            bar.set_message("unpacking");
            importing.await
        }
    };
    bar.finish_and_clear();
    let images = answer(imported)?.images;
    let images_json: Vec<_> = images.iter().map(show::admin_json).collect();
    Ok(Outcome { text: show::names(&images), json: json!({ "images": images_json }) })
}

/// Reads a file into messages, until nobody takes them any more.
fn send(mut source: impl Read, sender: &mpsc::Sender<ImportImagesRequest>, bar: &ProgressBar) -> std::io::Result<()> {
    loop {
        let mut chunk = Vec::with_capacity(CHUNK);
        source.by_ref().take(CHUNK as u64).read_to_end(&mut chunk)?;
        if chunk.is_empty() {
            return Ok(());
        }
        bar.inc(chunk.len() as u64);
        if sender.blocking_send(ImportImagesRequest { name: String::new(), chunk }).is_err() {
            return Ok(());
        }
    }
}

fn bar(size: u64, quiet: bool) -> ProgressBar {
    if quiet || size == 0 {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template(BAR).expect("the template is well formed");
    // Draws on the standard error, and nothing where that is no terminal.
    ProgressBar::new(size).with_style(style.progress_chars("=> ")).with_message("reading")
}

/// Receives an archive, into a file, or to `out`, to which nothing else is written then.
pub(super) async fn export(
    state: &Path,
    images: &[String],
    output: &Path,
    out: &mut impl Write,
) -> anyhow::Result<Option<Outcome>> {
    let to_stdout = output == Path::new("-");
    if to_stdout && std::io::stdout().is_terminal() {
        bail!("the archive goes to the standard output, which is a terminal: name a file by --output");
    }
    let request = ExportImagesRequest { images: images.to_vec() };
    let messages = answer(connect_admin(state).await?.export_images(request).await)?;
    if to_stdout {
        receive(messages, out).await.context("cannot write the standard output")?;
        return Ok(None);
    }
    let name = output.file_name().with_context(|| format!("{} names no file", output.display()))?;
    let begun = output.with_file_name(format!(".{}.{}", name.to_string_lossy(), std::process::id()));
    let written = tokio::select! {
        written = keep(messages, &begun, output) => written,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    let bytes = match written {
        Ok(bytes) => bytes,
        Err(error) => {
            host::fs::remove_file(&begun).with_context(|| format!("cannot remove {}", begun.display()))?;
            return Err(error.context(format!("cannot write {}", output.display())));
        }
    };
    let text = format!("{} {}\n", output.display(), table::bytes(bytes));
    Ok(Some(Outcome { text, json: json!({ "file": output, "bytes": bytes }) }))
}

async fn keep(messages: Streaming<ExportImagesResponse>, begun: &PathBuf, output: &Path) -> anyhow::Result<u64> {
    // Images may hold secrets.
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(begun)?;
    let bytes = receive(messages, &mut file).await?;
    file.sync_all()?;
    std::fs::rename(begun, output)?;
    Ok(bytes)
}

async fn receive(mut messages: Streaming<ExportImagesResponse>, to: &mut impl Write) -> anyhow::Result<u64> {
    let mut bytes = 0;
    while let Some(message) = messages.message().await.map_err(refused)? {
        to.write_all(&message.chunk)?;
        bytes += message.chunk.len() as u64;
    }
    to.flush()?;
    Ok(bytes)
}
