//! Port-forward: each connection into the pod has a pair of streams, one for its data and one for an error.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use host::PodId;
use runtime::Runtime;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::channel::Output;
use super::command::Context;
use super::descriptor::{Sink, Source, both};
use super::input::Input;
use super::process::blocking;
use super::spdy::frame::GoAwayStatus;
use super::spdy::{IncomingStream, Session as SpdySession, Stream};
use super::websocket::{Codec, Session as WebSocketSession};
use super::wire::{BoxRead, BoxWrite, Chunk};

/// A pod whose ports are forwarded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forward {
    /// The pod.
    pub pod: PodId,
    /// The ports for WebSocket clients, whose protocol does not name them; SPDY clients name any port themselves.
    pub ports: Vec<u16>,
}

/// A requested connection with both streams open.
struct Pair {
    pod: PodId,
    port: u16,
    input: Input,
    data: Output,
    error: Output,
    /// Whether the client can end its direction alone.
    half_close: bool,
}

/// A requested connection that waits for its second stream.
struct PendingPair {
    due: Instant,
    data: Option<(u16, Stream)>,
    error: Option<Stream>,
}

/// The role of a stream, by its `streamtype` header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Data,
    Error,
}

/// Serves a client over SPDY, many connections at a time.
///
/// # Errors
/// The client is gone.
pub(super) async fn serve_spdy(mut session: SpdySession, forward: Forward, context: &Context) -> io::Result<()> {
    let mut pending: BTreeMap<String, PendingPair> = BTreeMap::new();
    let mut pairs = JoinSet::new();
    loop {
        let due = pending.values().map(|half| half.due).min();
        tokio::select! {
            incoming = session.next_stream() => match incoming {
                Some(incoming) => {
                    if let Some(pair) = add(incoming, &mut pending, &forward.pod, context).await? {
                        pairs.spawn(connect(pair, context.backend.clone()));
                    }
                }
                None => return Ok(()),
            },
            Some(_) = pairs.join_next() => {}
            () = async { sleep_until(due.expect("it is only waited for when there is one")).await }, if due.is_some() => {
                expire(&mut pending).await?;
            }
            () = context.stopped.cancelled() => break,
            () = context.hangup.happened() => return Ok(()),
        }
    }
    session.close(GoAwayStatus::Ok).await;
    Ok(())
}

/// Adds a stream to its pair, and returns the pair once it is complete.
async fn add(
    incoming: IncomingStream,
    pending: &mut BTreeMap<String, PendingPair>,
    pod: &PodId,
    context: &Context,
) -> io::Result<Option<Pair>> {
    let Some((kind, port, request)) = purpose(&incoming) else {
        incoming.refuse().await?;
        return Ok(None);
    };
    let due = Instant::now() + context.creation_timeout;
    let half = pending.entry(request.clone()).or_insert(PendingPair { due, data: None, error: None });
    match kind {
        Kind::Data if half.data.is_none() => half.data = Some((port, incoming.accept().await?)),
        Kind::Error if half.error.is_none() => half.error = Some(incoming.accept().await?),
        Kind::Data | Kind::Error => {
            tracing::debug!(request, "a stream of a port-forward was opened twice");
            incoming.refuse().await?;
        }
    }
    if half.data.is_none() || half.error.is_none() {
        return Ok(None);
    }
    let half = pending.remove(&request).expect("it was just there");
    Ok(half.data.zip(half.error).map(|((port, data), error)| Pair {
        pod: pod.clone(),
        port,
        input: data.input,
        data: Output::Spdy(data.output),
        error: Output::Spdy(error.output),
        half_close: true,
    }))
}

/// Reads a stream's headers: its kind, its port, and the request id that pairs it with another.
fn purpose(incoming: &IncomingStream) -> Option<(Kind, u16, String)> {
    let port = incoming.headers.get("port")?.parse().ok().filter(|port| *port > 0)?;
    let (kind, first) = match incoming.headers.get("streamtype")? {
        "data" => (Kind::Data, incoming.id.wrapping_sub(2)),
        "error" => (Kind::Error, incoming.id),
        _ => return None,
    };
    // Clients without request ids open the error stream first and the data stream with the next id.
    let request = incoming.headers.get("requestid").map_or_else(|| format!("stream {first}"), str::to_owned);
    Some((kind, port, request))
}

/// Fails the requests whose second stream did not come in time.
async fn expire(pending: &mut BTreeMap<String, PendingPair>) -> io::Result<()> {
    let now = Instant::now();
    let late: Vec<String> = pending.iter().filter(|(_, half)| half.due <= now).map(|(id, _)| id.clone()).collect();
    for request in late {
        let Some(half) = pending.remove(&request) else { continue };
        let text = format!("request {request}: timed out waiting for streams");
        if let Some(error) = half.error {
            Output::Spdy(error.output).finish(text.as_bytes()).await?;
        }
        if let Some((_, mut data)) = half.data {
            data.output.reset().await?;
        }
    }
    Ok(())
}

/// Serves a client over the channels of a WebSocket. Each port is one connection with two channels, and both begin with the
/// port's number.
///
/// # Errors
/// The client is gone.
pub(super) async fn serve_websocket(
    connection: (BoxRead, BoxWrite),
    forward: Forward,
    codec: Codec,
    context: &Context,
) -> io::Result<()> {
    let readable: Vec<bool> = forward.ports.iter().flat_map(|_| [true, false]).collect();
    let (session, mut inputs) = WebSocketSession::start(connection, codec, &readable, context.idle_timeout);
    let mut pairs = JoinSet::new();
    for (index, port) in forward.ports.iter().enumerate() {
        let channel = u8::try_from(index * 2).expect("the server refuses more ports");
        let mut data = Output::WebSocket(session.output(channel));
        let mut error = Output::WebSocket(session.output(channel + 1));
        data.send(&mut Chunk::of(&port.to_le_bytes())).await?;
        error.send(&mut Chunk::of(&port.to_le_bytes())).await?;
        let input = inputs[index * 2].take().expect("the channel is readable");
        let pair = Pair { pod: forward.pod.clone(), port: *port, input, data, error, half_close: false };
        pairs.spawn(connect(pair, context.backend.clone()));
    }
    let ended = session.ended();
    tokio::select! {
        () = async { while pairs.join_next().await.is_some() {} } => {}
        () = ended.cancelled() => return Ok(()),
        () = context.gone() => return Ok(()),
    }
    session.close().await;
    Ok(())
}

/// Connects to the port and copies until either side is done.
async fn connect(mut pair: Pair, backend: Arc<dyn Runtime>) {
    let (pod, port) = (pair.pod.clone(), pair.port);
    let socket = blocking(move || backend.connect(&pod, port)).await;
    match socket.and_then(both) {
        Ok(socket) => copy(pair, socket).await,
        Err(error) => {
            let text = format!("error forwarding port {port} to pod {}, uid : {error}", pair.pod);
            tracing::debug!("{text}");
            // A client that no longer reads cannot be told.
            let _told = pair.error.finish(text.as_bytes()).await;
            let _gone = pair.data.reset().await;
        }
    }
}

/// How the direction into the pod ended.
enum Up {
    /// The client has ended its direction, or the pod reads no more.
    Finished,
    /// The client has reset the stream.
    Cut,
}

async fn copy(pair: Pair, (source, sink): (Source, Sink)) {
    let Pair { input, mut data, mut error, half_close, .. } = pair;
    let mut up = std::pin::pin!(copy_up(input, sink));
    let (read, is_up_done) = {
        let mut down = std::pin::pin!(copy_down(&source, &mut data));
        tokio::select! {
            end = &mut up => match end {
                Up::Finished => (down.await, true),
                Up::Cut => (Ok(()), true),
            },
            read = &mut down => (read, false),
        }
    };
    // A client that sees the end of the data resets that stream at once and then waits for the end of the error stream: finish
    // both, whatever it does in between.
    let text = read.err().map(|error| error.to_string()).unwrap_or_default();
    let _finished = data.finish(&[]).await;
    let _told = error.finish(text.as_bytes()).await;
    if !is_up_done && half_close {
        up.await;
    }
}

/// Copies from the pod to the client.
///
/// # Errors
/// The pod's socket failed. A client that does not listen is no error.
async fn copy_down(source: &Source, data: &mut Output) -> io::Result<()> {
    let mut chunk = Chunk::default();
    while source.read(&mut chunk).await? > 0 {
        if data.send(&mut chunk).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

async fn copy_up(mut input: Input, sink: Sink) -> Up {
    let mut buffer = Vec::new();
    loop {
        match input.fill(&mut buffer).await {
            Err(_) => return Up::Cut,
            Ok(0) => {
                // The pod may have closed it already.
                let _closed = sink.shut();
                return Up::Finished;
            }
            Ok(_) if sink.write_all(&buffer).await.is_err() => return Up::Finished,
            Ok(_) => {}
        }
    }
}
