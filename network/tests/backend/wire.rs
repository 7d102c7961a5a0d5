//! TCP and UDP servers that answer with the caller's address, and clients. They use the network of their thread or
//! process.

use std::ffi::OsString;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use network::Protocol;

/// The sockets of a server.
pub(crate) struct Server {
    tcp: Vec<TcpListener>,
    udp: Vec<UdpSocket>,
}

impl Server {
    /// Listens on both families.
    pub(crate) fn open(port: u16) -> Self {
        let any: [IpAddr; 2] = ["0.0.0.0".parse().unwrap(), "::".parse().unwrap()];
        let tcp = any.map(|any| {
            let socket = bind(SocketAddr::new(any, port), socket2::Type::STREAM);
            socket.listen(16).unwrap();
            TcpListener::from(socket)
        });
        let udp = any.map(|any| UdpSocket::from(bind(SocketAddr::new(any, port), socket2::Type::DGRAM)));
        Self { tcp: tcp.into(), udp: udp.into() }
    }

    /// Serves in new threads.
    pub(crate) fn serve(self) {
        for listener in self.tcp {
            thread::spawn(move || {
                while let Ok((mut stream, peer)) = listener.accept() {
                    let _ = stream.write_all(peer.ip().to_string().as_bytes());
                }
            });
        }
        for socket in self.udp {
            thread::spawn(move || {
                let mut buffer = [0; 100];
                while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
                    let _ = socket.send_to(peer.ip().to_string().as_bytes(), peer);
                }
            });
        }
    }
}

fn bind(address: SocketAddr, kind: socket2::Type) -> socket2::Socket {
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), kind, None).unwrap();
    if address.is_ipv6() {
        socket.set_only_v6(true).unwrap();
    }
    socket.bind(&address.into()).unwrap_or_else(|error| panic!("cannot bind {address}: {error}"));
    socket
}

/// Calls a server and returns the caller's address as the server saw it.
pub(crate) fn ask(protocol: Protocol, address: SocketAddr, wait: Duration) -> io::Result<String> {
    match protocol {
        Protocol::Udp => ask_udp(address, wait),
        _ => ask_tcp(address, wait),
    }
}

fn ask_tcp(address: SocketAddr, wait: Duration) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, wait)?;
    stream.set_read_timeout(Some(wait))?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    if answer.is_empty() { Err(ErrorKind::UnexpectedEof.into()) } else { Ok(answer) }
}

fn ask_udp(address: SocketAddr, wait: Duration) -> io::Result<String> {
    let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any)?;
    socket.set_read_timeout(Some(wait))?;
    socket.connect(address)?;
    socket.send(b"?")?;
    let mut buffer = [0; 100];
    let length = socket.recv(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

/// Sends a datagram from a source address.
pub(crate) fn send(source: IpAddr, to: SocketAddr) -> io::Result<()> {
    UdpSocket::bind((source, 0))?.send_to(source.to_string().as_bytes(), to)?;
    Ok(())
}

/// For networks that only a process can be in: `wire serve PORT`, which says `ready`; `wire ask PROTOCOL ADDRESS
/// MILLISECONDS`; `wire send SOURCE ADDRESS`; `wire stall ADDRESS`, which opens a connection, sends what is never acknowledged, and waits.
pub(crate) fn main(args: &[OsString]) -> ExitCode {
    let words: Vec<&str> = args.iter().map(|arg| arg.to_str().unwrap()).collect();
    match words[..] {
        ["serve", port] => {
            Server::open(port.parse().unwrap()).serve();
            println!("ready");
            end_with_the_caller();
        }
        ["ask", protocol, address, wait] => {
            let protocol = if protocol == "udp" { Protocol::Udp } else { Protocol::Tcp };
            match ask(protocol, address.parse().unwrap(), Duration::from_millis(wait.parse().unwrap())) {
                Ok(answer) => println!("{answer}"),
                Err(error) => {
                    eprintln!("{error}");
                    return ExitCode::FAILURE;
                }
            }
        }
        ["send", source, to] => {
            if let Err(error) = send(source.parse().unwrap(), to.parse().unwrap()) {
                eprintln!("{error}");
                return ExitCode::FAILURE;
            }
        }
        ["stall", address] => {
            let mut stream = TcpStream::connect(address).unwrap();
            println!("ready");
            thread::sleep(Duration::from_millis(500));
            let _ = stream.write_all(&[0; 10_000]);
            end_with_the_caller();
        }
        _ => return ExitCode::from(64),
    }
    ExitCode::SUCCESS
}

/// Waits for the caller to close standard input.
fn end_with_the_caller() {
    let _ = io::copy(&mut io::stdin(), &mut io::sink());
}
