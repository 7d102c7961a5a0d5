//! Questions by UDP and TCP, and their answers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_server::net::xfer::Protocol;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::{sleep, timeout};

use crate::answers::Answers;
use crate::slots::{Slot, Slots};

/// The longest question by UDP, in bytes: a name, a type, and options.
const QUESTION: usize = 4096;
/// TCP connections at once.
pub(crate) const CONNECTIONS: usize = 512;
/// The share of one pod.
pub(crate) const CONNECTIONS_EACH: usize = 16;
/// How long a connection may take for a question or an answer.
const IDLE: Duration = Duration::from_secs(10);
/// The pause after an error of a socket, which would come again at once.
const PAUSE: Duration = Duration::from_millis(100);

/// Answers what comes by UDP, for ever.
pub(crate) async fn udp(socket: UdpSocket, answers: Arc<Answers>) {
    let socket = Arc::new(socket);
    let mut buffer = vec![0; QUESTION];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else {
            sleep(PAUSE).await;
            continue;
        };
        let (message, socket, answers) = (buffer[..length].to_vec(), Arc::clone(&socket), Arc::clone(&answers));
        tokio::spawn(async move {
            if let Some(answer) = answers.to(message, from, Protocol::Udp).await {
                // An answer that is lost is asked for again.
                let _ = socket.send_to(&answer, from).await;
            }
        });
    }
}

/// Accepts connections, for ever. One too many is closed.
pub(crate) async fn tcp(listener: TcpListener, answers: Arc<Answers>, connections: Arc<Slots>) {
    loop {
        let Ok((stream, from)) = listener.accept().await else {
            sleep(PAUSE).await;
            continue;
        };
        if let Some(slot) = connections.take(from.ip()) {
            tokio::spawn(converse(stream, from, Arc::clone(&answers), slot));
        }
    }
}

/// Answers the questions of a connection, one after the other, each preceded by its length (RFC 1035, 4.2.2).
async fn converse(mut stream: TcpStream, from: SocketAddr, answers: Arc<Answers>, _slot: Slot) {
    loop {
        let question = async {
            let length = stream.read_u16().await?;
            let mut message = vec![0; usize::from(length)];
            stream.read_exact(&mut message).await.map(|_| message)
        };
        let Ok(Ok(message)) = timeout(IDLE, question).await else { return };
        let Some(answer) = answers.to(message, from, Protocol::Tcp).await else { return };
        let Ok(length) = u16::try_from(answer.len()) else { return };
        let framed = [&length.to_be_bytes()[..], &answer].concat();
        if !matches!(timeout(IDLE, stream.write_all(&framed)).await, Ok(Ok(()))) {
            return;
        }
    }
}
