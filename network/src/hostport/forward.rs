//! The listener's loop: one thread, poll(2), non-blocking sockets. Unwritten bytes stay in a buffer, and nothing more
//! is read meanwhile: a slow reader slows its writer down and memory stays small.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Socket, Type};

use super::flows::{Flows, IDLE};
use super::listen::Listening;

/// The limit of connections: two descriptors each, which with the flows stay below the 1,024 of a process. Others wait
/// in the kernel's backlog.
const CONNECTIONS: usize = 256;
/// Bytes per read, into one shared buffer: the longest datagram fits.
const CHUNK: usize = 64 << 10;
/// The pause before the next accept when descriptors or memory are exhausted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// One direction of a connection: bytes read and not yet written.
#[derive(Debug, Default)]
struct Direction {
    pending: Vec<u8>,
    ended: bool,
    closed: bool,
}

/// A client and its connection to the pod.
#[derive(Debug)]
struct Pair {
    client: TcpStream,
    pod: TcpStream,
    connected: bool,
    to_pod: Direction,
    to_client: Direction,
}

/// Serves until poll(2) fails.
pub(super) fn serve(sockets: Vec<Listening>) -> io::Error {
    let mut server =
        Server { sockets, pairs: Vec::new(), flows: Flows::default(), buffer: vec![0; CHUNK], pause: None };
    loop {
        match server.step() {
            Err(error) if error.kind() != ErrorKind::Interrupted => return error,
            _ => (),
        }
    }
}

struct Server {
    sockets: Vec<Listening>,
    pairs: Vec<Pair>,
    flows: Flows,
    buffer: Vec<u8>,
    /// The end of the pause before the next accept.
    pause: Option<Instant>,
}

impl Server {
    /// Polls once and serves every ready socket.
    fn step(&mut self) -> io::Result<()> {
        let now = Instant::now();
        self.pause = self.pause.filter(|until| *until > now);
        let ready = self.wait()?;
        let (listening, rest) = ready.split_at(self.sockets.len());
        let (pairs, flows) = rest.split_at(2 * self.pairs.len());
        // Flows first: a datagram from a client may remove one.
        self.flows.answer(&self.sockets, flows, &mut self.buffer);
        let mut index = 0;
        let buffer = &mut self.buffer;
        self.pairs.retain_mut(|pair| {
            index += 2;
            pair.step(pairs[index - 2], pairs[index - 1], buffer)
        });
        for index in (0..self.sockets.len()).filter(|index| !listening[*index].is_empty()) {
            self.receive(index);
        }
        self.flows.expire(Instant::now());
        Ok(())
    }

    /// Polls listening sockets, two sockets per pair, and flows, in this order. Leaves out a socket without interest,
    /// since poll(2) would report its end again and again.
    fn wait(&self) -> io::Result<Vec<PollFlags>> {
        let accepting = self.pause.is_none() && self.pairs.len() < CONNECTIONS;
        let mut all: Vec<(BorrowedFd<'_>, PollFlags)> = Vec::with_capacity(self.sockets.len() + 2 * self.pairs.len());
        for socket in &self.sockets {
            all.push(match socket {
                Listening::Tcp(listener, _) if accepting => (listener.as_fd(), PollFlags::POLLIN),
                Listening::Tcp(listener, _) => (listener.as_fd(), PollFlags::empty()),
                Listening::Udp(socket, _) => (socket.as_fd(), PollFlags::POLLIN),
            });
        }
        for pair in &self.pairs {
            let (client, pod) = pair.interest();
            all.extend([(pair.client.as_fd(), client), (pair.pod.as_fd(), pod)]);
        }
        all.extend(self.flows.sockets().map(|socket| (socket, PollFlags::POLLIN)));
        let waiting = all.iter().enumerate().filter(|(_, (_, flags))| !flags.is_empty());
        let (slots, mut polled): (Vec<usize>, Vec<PollFd>) =
            waiting.map(|(slot, (socket, flags))| (slot, PollFd::new(*socket, *flags))).unzip();
        poll(&mut polled, self.timeout())?;
        let mut ready = vec![PollFlags::empty(); all.len()];
        for (slot, polled) in slots.into_iter().zip(&polled) {
            ready[slot] = polled.revents().unwrap_or(PollFlags::empty());
        }
        Ok(ready)
    }

    fn timeout(&self) -> PollTimeout {
        let idle = (!self.flows.is_empty()).then_some(IDLE / 4);
        let pause = self.pause.map(|until| until.saturating_duration_since(Instant::now()) + Duration::from_millis(1));
        let shortest = [idle, pause].into_iter().flatten().min();
        shortest.map_or(PollTimeout::NONE, |time| PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX))
    }

    fn receive(&mut self, index: usize) {
        match &self.sockets[index] {
            Listening::Tcp(listener, target) => match accept(listener, *target) {
                Ok(pair) => self.pairs.extend(pair),
                Err(_) => self.pause = Some(Instant::now() + ACCEPT_PAUSE),
            },
            Listening::Udp(socket, target) => self.flows.forward(index, socket, *target, &mut self.buffer),
        }
    }
}

/// Accepts a connection and starts one to the pod; None if the client has gone or the pod is unreachable, which closes
/// the client's connection.
fn accept(listener: &TcpListener, target: SocketAddr) -> io::Result<Option<Pair>> {
    let client = match listener.accept() {
        Ok((client, _)) => client,
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::ConnectionAborted) => return Ok(None),
        Err(error) => return Err(error),
    };
    client.set_nonblocking(true)?;
    let pod = Socket::new(Domain::for_address(target), Type::STREAM, Some(socket2::Protocol::TCP))?;
    pod.set_nonblocking(true)?;
    match pod.connect(&target.into()) {
        Ok(()) => (),
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => (),
        Err(_) => return Ok(None),
    }
    let pod = TcpStream::from(pod);
    // Forward small writes at once, as the client sent them.
    let _ = pod.set_nodelay(true).and_then(|()| client.set_nodelay(true));
    Ok(Some(Pair { client, pod, connected: false, to_pod: Direction::default(), to_client: Direction::default() }))
}

impl Pair {
    /// Returns the poll flags of the client's and the pod's socket.
    fn interest(&self) -> (PollFlags, PollFlags) {
        if !self.connected {
            return (PollFlags::empty(), PollFlags::POLLOUT);
        }
        let side = |reads: &Direction, writes: &Direction| {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::POLLIN, !reads.ended && reads.pending.is_empty());
            flags.set(PollFlags::POLLOUT, !writes.pending.is_empty());
            flags
        };
        (side(&self.to_pod, &self.to_client), side(&self.to_client, &self.to_pod))
    }

    /// Serves the ready sockets; false when the connection is over or broken.
    fn step(&mut self, client: PollFlags, pod: PollFlags, buffer: &mut [u8]) -> bool {
        if client.is_empty() && pod.is_empty() {
            return true;
        }
        if !self.connected {
            self.connected = matches!(self.pod.take_error(), Ok(None)) && pod.contains(PollFlags::POLLOUT);
            return self.connected;
        }
        let done = self
            .to_pod
            .pump(&mut self.client, &mut self.pod, buffer)
            .and_then(|()| self.to_client.pump(&mut self.pod, &mut self.client, buffer));
        done.is_ok() && !(self.to_pod.closed && self.to_client.closed)
    }
}

impl Direction {
    /// Writes pending bytes, reads new ones, and forwards the end once everything before it is written.
    fn pump(&mut self, from: &mut TcpStream, to: &mut TcpStream, buffer: &mut [u8]) -> io::Result<()> {
        if !self.pending.is_empty() {
            let written = self.write(to)?;
            self.pending.drain(..written);
            if self.pending.is_empty() {
                // Free the buffer of an idle connection.
                self.pending = Vec::new();
            }
        }
        if self.pending.is_empty() && !self.ended {
            match from.read(buffer) {
                Ok(0) => self.ended = true,
                Ok(length) => {
                    self.pending.extend(&buffer[..length]);
                    let written = self.write(to)?;
                    self.pending.drain(..written);
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => (),
                Err(error) => return Err(error),
            }
        }
        if self.ended && self.pending.is_empty() && !self.closed {
            self.closed = true;
            match to.shutdown(Shutdown::Write) {
                // The other side has closed meanwhile.
                Err(error) if error.kind() != ErrorKind::NotConnected => return Err(error),
                _ => (),
            }
        }
        Ok(())
    }

    fn write(&self, to: &mut TcpStream) -> io::Result<usize> {
        match to.write(&self.pending) {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(0),
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
    use std::thread;
    use std::time::Duration;

    use super::super::listen::Listening;
    use super::serve;

    /// Starts a loop that forwards to `target`, in a thread that ends with the test.
    fn relay_tcp(target: SocketAddr) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || serve(vec![Listening::Tcp(listener, target)]));
        address
    }

    #[test]
    fn each_direction_is_closed_by_itself_and_nothing_is_lost() {
        const LENGTH: usize = 4 << 20;
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = relay_tcp(server.local_addr().unwrap());
        let pod = thread::spawn(move || {
            let (mut stream, _) = server.accept().unwrap();
            let mut all = Vec::new();
            stream.read_to_end(&mut all).unwrap();
            // The client has closed its direction; this one still works.
            stream.write_all(&all).unwrap();
        });
        let mut client = TcpStream::connect(address).unwrap();
        let sent: Vec<u8> = (0..LENGTH).map(|index| (index % 251) as u8).collect();
        client.write_all(&sent).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut received = Vec::new();
        client.read_to_end(&mut received).unwrap();
        assert!(received == sent, "{} of {LENGTH} bytes came back", received.len());
        pod.join().unwrap();
    }

    #[test]
    fn a_pod_that_does_not_listen_closes_the_connection() {
        let nobody = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = nobody.local_addr().unwrap();
        drop(nobody);
        let mut client = TcpStream::connect(relay_tcp(target)).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        assert!(matches!(client.read(&mut [0; 1]), Ok(0) | Err(_)));
    }

    #[test]
    fn more_connections_than_the_limit_wait_for_their_turn() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = relay_tcp(server.local_addr().unwrap());
        thread::spawn(move || {
            for stream in server.incoming() {
                let mut stream = stream.unwrap();
                thread::spawn(move || {
                    let mut byte = [0; 1];
                    while stream.read_exact(&mut byte).and_then(|()| stream.write_all(&byte)).is_ok() {}
                });
            }
        });
        let connect = || {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            stream.write_all(b"x").unwrap();
            stream
        };
        let answer = |mut stream: TcpStream| {
            stream.read_exact(&mut [0; 1]).unwrap();
            stream
        };
        // One after the other: the pod's backlog is shorter than the limit.
        let open: Vec<TcpStream> = (0..super::CONNECTIONS).map(|_| answer(connect())).collect();
        let waiting: Vec<TcpStream> = (0..20).map(|_| connect()).collect();
        drop(open);
        for stream in waiting {
            answer(stream);
        }
    }

    #[test]
    fn datagrams_find_their_way_back_to_each_client() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let target = server.local_addr().unwrap();
        thread::spawn(move || {
            let mut buffer = [0; 100];
            loop {
                let (length, from) = server.recv_from(&mut buffer).unwrap();
                server.send_to(&buffer[..length], from).unwrap();
            }
        });
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        let address = socket.local_addr().unwrap();
        thread::spawn(move || serve(vec![Listening::Udp(socket, target)]));
        let clients: Vec<UdpSocket> = (0..20).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
        for (index, client) in clients.iter().enumerate() {
            client.send_to(format!("client {index}").as_bytes(), address).unwrap();
        }
        for (index, client) in clients.iter().enumerate() {
            client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            let mut buffer = [0; 100];
            let length = client.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], format!("client {index}").as_bytes());
        }
    }
}
