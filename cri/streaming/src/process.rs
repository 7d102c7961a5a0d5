//! Connects a process with a client: copies both ways, resizes the terminal, and ends when either does.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};
use std::time::Duration;

use runtime::{Control, Session};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::channel::Output;
use super::descriptor::{Sink, Source};
use super::input::Input;
use super::status::Outcome;
use super::wire::Chunk;

/// How long to wait for more output after the process has exited: its children may hold the output open for ever.
const DRAIN: Duration = Duration::from_secs(1);
/// How long the exit code may take after the exit was seen, and how long the exit may take after an attached client's output
/// ended, before that client counts as cut off.
const EXIT_PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of incomplete terminal sizes; one takes thirty.
const RESIZE_LIMIT: usize = 4096;

/// The client's streams.
#[derive(Debug)]
pub(super) struct Streams {
    pub(super) stdin: Option<Input>,
    pub(super) stdout: Option<Output>,
    pub(super) stderr: Option<Output>,
    pub(super) error: Output,
    pub(super) resize: Option<Input>,
}

/// Serves the client until the process has exited and its output is sent. Dropping the future, when the client has gone, drops
/// the session.
pub(super) async fn join(session: Session, streams: &mut Streams, attached: bool) -> Outcome {
    let control = AsyncControl::new(session.control);
    let (stdout, stderr) = (session.stdout, session.stderr);
    let _stdin =
        streams.stdin.take().map(|input| AbortOnDropHandle::new(tokio::spawn(copy_stdin(input, session.stdin))));
    // Weak: dropping the control may block, which AsyncControl sees to.
    let sizes = streams.resize.take().map(|input| resize(input, Arc::downgrade(&control.share())));
    let _resize = sizes.map(|sizes| AbortOnDropHandle::new(tokio::spawn(sizes)));
    let exited = CancellationToken::new();
    let copies = async {
        tokio::join!(
            copy_output(stdout, streams.stdout.as_mut(), &exited),
            copy_output(stderr, streams.stderr.as_mut(), &exited)
        );
        if attached && tokio::time::timeout(EXIT_PATIENCE, exited.cancelled()).await.is_err() {
            return Err(io::Error::other("the output was not read for too long, and was cut off"));
        }
        Ok(())
    };
    let end = async {
        let end = control.exit().await;
        exited.cancel();
        end
    };
    match tokio::try_join!(copies, end) {
        Ok(_) if attached => Outcome::Exited(0),
        Ok(_) => control.code().await,
        Err(error) => Outcome::Failed(error.to_string()),
    }
}

/// Runs the blocking calls of a process's control, and its drop, on threads that may block.
struct AsyncControl(Option<Arc<dyn Control>>);

impl AsyncControl {
    fn new(control: Box<dyn Control>) -> Self {
        Self(Some(control.into()))
    }

    fn share(&self) -> Arc<dyn Control> {
        self.0.clone().expect("it is taken only when dropped")
    }

    async fn exit(&self) -> io::Result<()> {
        let control = self.share();
        let descriptor = blocking(move || control.exit_descriptor()).await?;
        Source::new(descriptor)?.readable().await
    }

    async fn code(&self) -> Outcome {
        let control = self.share();
        match blocking(move || control.wait(EXIT_PATIENCE)).await {
            Ok(Some(code)) => Outcome::Exited(code),
            Ok(None) => Outcome::Failed("it is not known how the command ended".to_owned()),
            Err(error) => Outcome::Failed(error.to_string()),
        }
    }
}

impl Drop for AsyncControl {
    fn drop(&mut self) {
        // Dropping the control kills the command, and waits for it.
        let control = self.0.take();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn_blocking(move || drop(control));
        }
    }
}

/// Calls a backend on a thread that may block; the error's text has all its causes.
pub(super) async fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> Result<T, runtime::Error> + Send + 'static,
) -> io::Result<T> {
    match tokio::task::spawn_blocking(call).await {
        Ok(result) => result.map_err(|error| io::Error::other(host::chain(&error))),
        Err(error) => Err(io::Error::other(error)),
    }
}

/// Copies the client's input to the process, and closes the descriptor at its end: the process reads end-of-file.
async fn copy_stdin(mut input: Input, stdin: Option<OwnedFd>) {
    let Some(Ok(sink)) = stdin.map(Sink::new) else { return };
    let mut buffer = Vec::new();
    // A reset stream ends like a finished one: a client that is gone is noticed elsewhere.
    while let Ok(1..) = input.fill(&mut buffer).await {
        if let Err(error) = sink.write_all(&buffer).await {
            tracing::debug!(%error, "a process takes no more input");
            return;
        }
    }
}

/// Copies the process's output to the client, or discards it: a process without a reader must not block. An output that the
/// client has reset is closed.
async fn copy_output(source: Option<OwnedFd>, mut output: Option<&mut Output>, exited: &CancellationToken) {
    let Some(Ok(source)) = source.map(Source::new) else { return };
    let mut chunk = Chunk::default();
    loop {
        let read = tokio::select! {
            biased;
            read = source.read(&mut chunk) => read,
            () = async { exited.cancelled().await; tokio::time::sleep(DRAIN).await } => return,
        };
        let sent = match (read, output.as_mut()) {
            (Ok(1..), Some(output)) => output.send(&mut chunk).await,
            (Ok(1..), None) => Ok(()),
            (Ok(_), _) => return,
            (Err(error), _) => Err(error),
        };
        if let Err(error) = sent {
            tracing::debug!(%error, "an output is not copied any more");
            return;
        }
    }
}

/// A terminal's size as clients send it.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Size {
    width: u16,
    height: u16,
}

/// Sets the terminal's size each time the client sends one.
async fn resize(mut input: Input, control: Weak<dyn Control>) {
    let (mut buffer, mut pending) = (Vec::new(), Vec::new());
    while let Ok(1..) = input.fill(&mut buffer).await {
        pending.extend_from_slice(&buffer);
        let Some(size) = last_size(&mut pending) else { continue };
        let Some(control) = control.upgrade() else { return };
        if let Err(error) = blocking(move || control.resize(size.width, size.height)).await {
            tracing::debug!(%error, "the terminal's size was not changed");
        }
    }
}

/// Takes the last complete size and all before it out of `pending`; bytes that are no sizes are dropped.
fn last_size(pending: &mut Vec<u8>) -> Option<Size> {
    let mut sizes = serde_json::Deserializer::from_slice(pending).into_iter::<Size>();
    let (mut last, mut done) = (None, 0);
    let mut wrong = pending.len() > RESIZE_LIMIT;
    while let Some(size) = sizes.next() {
        match size {
            Ok(size) => (last, done) = (Some(size), sizes.byte_offset()),
            Err(error) => wrong |= !error.is_eof(),
        }
    }
    pending.drain(..if wrong { pending.len() } else { done });
    last
}

#[cfg(test)]
mod tests {
    use super::{Size, last_size};

    #[test]
    fn sizes_come_in_pieces_and_several_at_once() {
        let mut pending = br#"{"Width":80,"Height":24}{"Width":100,"Height":30}{"Wid"#.to_vec();
        assert_eq!(last_size(&mut pending), Some(Size { width: 100, height: 30 }));
        pending.extend_from_slice(br#"th":1,"Height":2}"#);
        assert_eq!(last_size(&mut pending), Some(Size { width: 1, height: 2 }));
        assert!(pending.is_empty());
        let mut nonsense = b"hello".to_vec();
        assert_eq!(last_size(&mut nonsense), None);
        assert!(nonsense.is_empty());
        let mut endless = vec![b' '; 5000];
        assert_eq!(last_size(&mut endless), None);
        assert!(endless.is_empty());
    }
}
