//! Exec and attach: waits for the client's streams, starts the process, and sends its exit status at the end.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use host::ContainerId;
use runtime::Runtime;
use runtime::spec::ExecSpec;
use tokio::time::{Instant, timeout_at};

use super::channel::Output;
use super::connection::Hangup;
use super::process::{self, Streams, blocking};
use super::spdy::frame::GoAwayStatus;
use super::spdy::{IncomingStream, Session as SpdySession};
use super::status::{Format, Outcome};
use super::websocket::Session as WebSocketSession;
use super::wire::Chunk;

/// The channel numbers of a WebSocket: the three descriptors, the error, and the terminal's size.
const STDIN: usize = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: usize = 4;

/// A process to execute, or one to attach to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// The container.
    pub container: ContainerId,
    /// The program and its arguments; None: attach to the container's first process.
    pub args: Option<Vec<String>>,
    /// Whether it has a terminal.
    pub tty: bool,
    /// Whether the client sends input.
    pub stdin: bool,
    /// Whether the client wants its output.
    pub stdout: bool,
    /// Whether the client wants its standard error.
    pub stderr: bool,
}

/// The streams that a SPDY client has opened so far.
#[derive(Default)]
struct CommandStreams {
    stdin: Option<super::spdy::Stream>,
    stdout: Option<super::spdy::Stream>,
    stderr: Option<super::spdy::Stream>,
    error: Option<super::spdy::Stream>,
    resize: Option<super::spdy::Stream>,
}

impl CommandStreams {
    async fn add(&mut self, incoming: IncomingStream) -> io::Result<()> {
        let slot = match incoming.headers.get("streamtype") {
            Some("stdin") => &mut self.stdin,
            Some("stdout") => &mut self.stdout,
            Some("stderr") => &mut self.stderr,
            Some("error") => &mut self.error,
            Some("resize") => &mut self.resize,
            _ => return incoming.refuse().await,
        };
        if slot.is_some() {
            return incoming.refuse().await;
        }
        *slot = Some(incoming.accept().await?);
        Ok(())
    }

    fn complete(&self, command: &Command, resize: bool) -> bool {
        self.error.is_some()
            && (self.stdin.is_some() || !command.stdin)
            && (self.stdout.is_some() || !command.stdout)
            && (self.stderr.is_some() || !command.stderr)
            && (self.resize.is_some() || !(resize && command.tty))
    }
}

/// Serves a client over SPDY, `resize` when its protocol has a stream for the terminal's size.
///
/// # Errors
/// The client did not open the streams that it must, or is gone.
pub(super) async fn serve_spdy(
    mut session: SpdySession,
    command: Command,
    (format, resize): (Format, bool),
    context: &Context,
) -> io::Result<()> {
    let due = Instant::now() + context.creation_timeout;
    let mut opened = CommandStreams::default();
    while !opened.complete(&command, resize) {
        match timeout_at(due, session.next_stream()).await {
            Ok(Some(incoming)) => opened.add(incoming).await?,
            Ok(None) => return Err(io::ErrorKind::ConnectionReset.into()),
            Err(_) => {
                session.close(GoAwayStatus::ProtocolError).await;
                return Err(io::Error::new(io::ErrorKind::TimedOut, "the client did not open its streams in time"));
            }
        }
    }
    let output = |stream: super::spdy::Stream| Output::Spdy(stream.output);
    let (stdin, stdin_output) = opened.stdin.map(|stream| (stream.input, stream.output)).unzip();
    let mut streams = Streams {
        stdin: stdin.filter(|_| command.stdin),
        stdout: opened.stdout.map(output),
        stderr: opened.stderr.map(output),
        error: opened.error.map(output).expect("it was waited for"),
        resize: opened.resize.map(|stream| stream.input),
    };
    let outcome = tokio::select! {
        outcome = run(&command, &mut streams, &context.backend) => outcome,
        () = refuse_all(&mut session) => return Err(io::ErrorKind::ConnectionReset.into()),
        () = context.hangup.happened() => return Err(io::ErrorKind::ConnectionAborted.into()),
        () = context.stopped.cancelled() => stopped(),
    };
    for output in [&mut streams.stdout, &mut streams.stderr].into_iter().flatten() {
        // A client that has reset one of them still waits for the exit status.
        let _given_up = output.finish(&[]).await;
    }
    if let Some(mut output) = stdin_output {
        output.finish().await?;
    }
    streams.error.finish(&outcome.encode(format)).await?;
    drop(streams);
    session.close(GoAwayStatus::Ok).await;
    Ok(())
}

/// Refuses further streams; returns when the connection is gone.
async fn refuse_all(session: &mut SpdySession) {
    while let Some(incoming) = session.next_stream().await {
        if incoming.refuse().await.is_err() {
            return;
        }
    }
}

/// Serves a client over the channels of a WebSocket.
///
/// # Errors
/// The client is gone.
pub(super) async fn serve_websocket(
    connection: (super::wire::BoxRead, super::wire::BoxWrite),
    command: Command,
    (format, codec): (Format, super::websocket::Codec),
    context: &Context,
) -> io::Result<()> {
    let readable = [command.stdin, false, false, false, true];
    let (session, mut inputs) = WebSocketSession::start(connection, codec, &readable, context.idle_timeout);
    let output = |channel| Output::WebSocket(session.output(channel));
    let mut streams = Streams {
        stdin: inputs[STDIN].take(),
        stdout: command.stdout.then(|| output(STDOUT)),
        stderr: command.stderr.then(|| output(STDERR)),
        error: output(ERROR),
        resize: inputs[RESIZE].take(),
    };
    // kubelet's server sends an empty message too: it tells the client that the connection is established.
    let first = streams.stdout.as_mut().or(streams.stderr.as_mut()).unwrap_or(&mut streams.error);
    first.send(&mut Chunk::default()).await?;
    let ended = session.ended();
    let outcome = tokio::select! {
        outcome = run(&command, &mut streams, &context.backend) => outcome,
        () = ended.cancelled() => return Err(io::ErrorKind::ConnectionReset.into()),
        () = context.hangup.happened() => return Err(io::ErrorKind::ConnectionAborted.into()),
        () = context.stopped.cancelled() => stopped(),
    };
    streams.error.finish(&outcome.encode(format)).await?;
    drop(streams);
    session.close().await;
    Ok(())
}

/// What serving a connection needs.
pub(super) struct Context {
    pub(super) backend: Arc<dyn Runtime>,
    pub(super) hangup: Hangup,
    /// Cancelled when the server stops.
    pub(super) stopped: tokio_util::sync::CancellationToken,
    pub(super) creation_timeout: Duration,
    pub(super) idle_timeout: Duration,
}

impl Context {
    /// Returns once the client has hung up, or the server stops.
    pub(super) async fn gone(&self) {
        tokio::select! {
            () = self.hangup.happened() => {}
            () = self.stopped.cancelled() => {}
        }
    }
}

/// A client reads an error stream that only ends as success.
fn stopped() -> Outcome {
    Outcome::Failed("the server stopped before the command had ended".to_owned())
}

async fn run(command: &Command, streams: &mut Streams, backend: &Arc<dyn Runtime>) -> Outcome {
    let (backend, container, stdin) = (backend.clone(), command.container.clone(), command.stdin);
    let attached = command.args.is_none();
    let (begun, what) = match command.args.clone() {
        Some(args) => {
            let spec = ExecSpec { args, tty: command.tty, stdin };
            (blocking(move || backend.exec(&container, &spec)).await, "error executing command in container")
        }
        None => (blocking(move || backend.attach(&container, stdin)).await, "error attaching to container"),
    };
    let outcome = match begun {
        Ok(session) => process::join(session, streams, attached).await,
        Err(error) => Outcome::Failed(error.to_string()),
    };
    match outcome {
        Outcome::Failed(reason) => Outcome::Failed(format!("{what}: {reason}")),
        exited @ Outcome::Exited(_) => exited,
    }
}
