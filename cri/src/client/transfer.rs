//! Files to the server and from it, in pieces. A file that is received appears whole or not at all.

use std::fs::{File, OpenOptions};
use std::io::{IsTerminal, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context as _, bail};
use futures::Stream;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use tokio::sync::{mpsc, oneshot};
use tonic::{Response, Status, Streaming};

use super::outcome::{Outcome, STDOUT_FAILED};
use super::{answer, refused, table};

/// Bytes of a message, and messages that wait for the server.
const CHUNK: usize = 256 << 10;
const WAITING: usize = 4;
const BAR: &str = "{msg} [{bar:40}] {bytes:>11} / {total_bytes:11} {bytes_per_sec}";

/// Sends a file, or the standard input for `-`, behind a first message, and returns the server's answer to `call`.
pub(super) async fn send<M: Send + 'static, T>(
    file: &Path,
    quiet: bool,
    (first, message): (M, fn(Vec<u8>) -> M),
    call: impl AsyncFnOnce(Messages<M>) -> Result<Response<T>, Status>,
) -> anyhow::Result<T> {
    let (source, size): (Box<dyn Read + Send>, u64) = if file == Path::new("-") {
        if std::io::stdin().is_terminal() {
            bail!("the file is read from the standard input, which is a terminal");
        }
        (Box::new(std::io::stdin()), 0)
    } else {
        let opened = File::open(file).with_context(|| format!("cannot open {}", file.display()))?;
        let size = opened.metadata().map_or(0, |metadata| metadata.len());
        (Box::new(opened), size)
    };
    let bar = bar(size, quiet);
    let (sender, mut chunks) = mpsc::channel(WAITING);
    let sent = bar.clone();
    let (done, mut read) = oneshot::channel();
    // A thread of its own: one that waits for the standard input keeps nobody from the server's refusal.
    std::thread::spawn(move || {
        let _ = sender.blocking_send(first);
        let ended = read_all(source, &sender, message, &sent);
        // After a read error the stream must not end: the server would take it for the whole file.
        let _ = done.send((ended, sender));
    });
    let sending = call(Box::pin(futures::stream::poll_fn(move |context| chunks.poll_recv(context))));
    tokio::pin!(sending);
    let sent = tokio::select! {
        sent = &mut sending => sent,
        read = &mut read => {
            let (ended, sender) = read.context("the reader ended in a defect")?;
            ended.with_context(|| format!("cannot read {}", file.display()))?;
            drop(sender);
            bar.set_message("unpacking");
            sending.await
        }
    };
    bar.finish_and_clear();
    answer(sent)
}

/// The messages of a call.
pub(super) type Messages<M> = std::pin::Pin<Box<dyn Stream<Item = M> + Send>>;

/// Reads a file into messages, until nobody takes them any more.
fn read_all<M>(
    mut source: impl Read,
    sender: &mpsc::Sender<M>,
    message: fn(Vec<u8>) -> M,
    bar: &ProgressBar,
) -> std::io::Result<()> {
    loop {
        let mut chunk = Vec::with_capacity(CHUNK);
        source.by_ref().take(CHUNK as u64).read_to_end(&mut chunk)?;
        if chunk.is_empty() {
            return Ok(());
        }
        bar.inc(chunk.len() as u64);
        if sender.blocking_send(message(chunk)).is_err() {
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

/// Receives a file, or writes to `out` for `-`, to which nothing else is written then.
pub(super) async fn receive<M>(
    call: impl Future<Output = anyhow::Result<Streaming<M>>>,
    chunk: fn(M) -> Vec<u8>,
    output: &Path,
    out: &mut impl Write,
) -> anyhow::Result<Option<Outcome>> {
    let to_stdout = output == Path::new("-");
    if to_stdout && std::io::stdout().is_terminal() {
        bail!("the file goes to the standard output, which is a terminal: name a file by --output");
    }
    let messages = call.await?;
    if to_stdout {
        write_all(messages, chunk, out, STDOUT_FAILED).await?;
        return Ok(None);
    }
    let name = output.file_name().with_context(|| format!("{} names no file", output.display()))?;
    let begun = output.with_file_name(format!(".{}.{}", name.to_string_lossy(), std::process::id()));
    // It may hold secrets; in a directory like /tmp the name may be somebody else's already.
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&begun);
    let file = file.with_context(|| cannot_write(output))?;
    let written = tokio::select! {
        written = keep(messages, chunk, (file, &begun), output) => written,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted").context(cannot_write(output))),
    };
    let bytes = match written {
        Ok(bytes) => bytes,
        Err(error) => {
            host::fs::remove_file(&begun).with_context(|| format!("cannot remove {}", begun.display()))?;
            return Err(error);
        }
    };
    let text = format!("{} {}\n", output.display(), table::bytes(bytes));
    Ok(Some(Outcome { text, json: json!({ "file": output, "bytes": bytes }) }))
}

async fn keep<M>(
    messages: Streaming<M>,
    chunk: fn(M) -> Vec<u8>,
    (mut file, begun): (File, &Path),
    output: &Path,
) -> anyhow::Result<u64> {
    let bytes = write_all(messages, chunk, &mut file, &cannot_write(output)).await?;
    file.sync_all().and_then(|()| std::fs::rename(begun, output)).with_context(|| cannot_write(output))?;
    Ok(bytes)
}

fn cannot_write(output: &Path) -> String {
    format!("cannot write {}", output.display())
}

/// Writes all messages. `failed` is the context of a write that fails; the server's own errors stand without it.
async fn write_all<M>(
    mut messages: Streaming<M>,
    chunk: fn(M) -> Vec<u8>,
    to: &mut impl Write,
    failed: &str,
) -> anyhow::Result<u64> {
    let mut bytes = 0;
    while let Some(message) = messages.message().await.map_err(refused)? {
        let chunk = chunk(message);
        to.write_all(&chunk).with_context(|| failed.to_owned())?;
        bytes += chunk.len() as u64;
    }
    to.flush().with_context(|| failed.to_owned())?;
    Ok(bytes)
}
