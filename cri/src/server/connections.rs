//! The connections of gRPC clients, up to a limit: one more waits until another ends. If the kernel has no descriptor left, the
//! server pauses before it accepts again.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::transport::server::Connected;
use tracing::warn;

use crate::server::authority::Filter;

/// Concurrent connections: kubelet has two, and so has each crictl as long as its exec runs. The streaming server's limit can be
/// used in full.
pub const CONNECTIONS: usize = 2 * streaming::CONNECTIONS;
/// The pause for descriptors (accept(2): EMFILE, ENFILE), which come back when connections or files are closed.
const PAUSE: Duration = Duration::from_millis(100);

/// Accepts the connections to a socket.
pub(crate) fn accept(listener: UnixListener) -> impl Stream<Item = io::Result<Connection>> {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    futures::stream::unfold((listener, slots), |(listener, slots)| async move {
        let slot = slots.clone().acquire_owned().await.expect("the semaphore is never closed");
        let stream = loop {
            match listener.accept().await {
                Ok((stream, _)) => break stream,
                Err(error) => {
                    warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        };
        Some((Ok(Connection { stream, filter: Filter::default(), _slot: slot }), (listener, slots)))
    })
}

/// A connection and its slot. What the client sends passes the filter.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: UnixStream,
    filter: Filter,
    _slot: OwnedSemaphorePermit,
}

impl Connected for Connection {
    type ConnectInfo = <UnixStream as Connected>::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.filter.pass(&mut buffer.filled_mut()[before..]);
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
