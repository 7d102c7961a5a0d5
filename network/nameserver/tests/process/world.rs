//! A name server of a test, a client, and a resolver of the node that answers a few names.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use hickory_server::proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_server::proto::rr::{Name, RData, Record, RecordType};
use hickory_server::proto::serialize::binary::{BinDecodable, BinEncodable};
use host::worker::Workers;
use nameserver::{Nameserver, Settings, Told};

/// The limit of every wait.
const PATIENCE: Duration = Duration::from_secs(10);
/// How many addresses the name `many.example.org` has: more than fit a datagram of 512 bytes, fewer than one of 1232.
pub(crate) const MANY: u8 = 60;

/// A name server on 127.0.0.1 and ::1, and the directory that it lives in.
pub(crate) struct World {
    directory: tempfile::TempDir,
    pub(crate) settings: Settings,
    pub(crate) server: Nameserver,
    control: Option<UnixStream>,
}

impl World {
    /// A world whose name server was told nothing yet.
    pub(crate) fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let settings = Settings {
            domain: "local.cellblock".to_owned(),
            addresses: vec!["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()],
            port: free_port(),
            networks: vec!["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap(), "fd00:cb::/64".parse().unwrap()],
        };
        let workers = Workers::of_program(&std::env::current_exe().unwrap());
        let mut world = Self { server: Nameserver::new(directory.path(), workers), directory, settings, control: None };
        world.connect();
        world
    }

    /// Finds the name server or starts another, as a new server does.
    pub(crate) fn connect(&mut self) {
        self.control = Some(self.server.ensure(&self.settings).unwrap());
    }

    /// Ends the connection, as the end of the server does.
    pub(crate) fn disconnect(&mut self) {
        self.control = None;
    }

    pub(crate) fn tell(&mut self, told: &Told) {
        self.control.as_ref().unwrap().write_all(told.to_line().as_bytes()).unwrap();
    }

    pub(crate) fn pid(&self) -> i32 {
        std::fs::read_to_string(self.path().join("nameserver.pid")).unwrap().parse().unwrap()
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn at(&self, address: &str) -> SocketAddr {
        SocketAddr::new(address.parse().unwrap(), self.settings.port)
    }

    /// The addresses or names of an answer by UDP.
    pub(crate) fn ask(&self, name: &str, kind: RecordType) -> (ResponseCode, Vec<String>) {
        read(&by_udp(self.at("127.0.0.1"), &question(name, kind)))
    }

    /// Asks until the answer is this one; returns how long that took.
    pub(crate) fn until(&self, name: &str, kind: RecordType, wanted: &(ResponseCode, Vec<String>)) -> Duration {
        let started = Instant::now();
        loop {
            let found = self.ask(name, kind);
            if found == *wanted {
                return started.elapsed();
            }
            assert!(started.elapsed() < PATIENCE, "{name}: {found:?}, not {wanted:?}");
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.server.stop().unwrap();
    }
}

/// A port that is free on both addresses, UDP and TCP. It lies below those that FreeBSD (from 10000) and Linux (from 32768) give
/// to sockets without one: a port from there is free for UDP while a connection has it.
fn free_port() -> u16 {
    let addresses: [IpAddr; 2] = ["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()];
    let is_free = |port| {
        addresses.iter().all(|&one| UdpSocket::bind((one, port)).is_ok() && TcpListener::bind((one, port)).is_ok())
    };
    let of_process = u16::try_from(std::process::id() % 8000).unwrap();
    (0..8000).map(|next| 2000 + (of_process + next) % 8000).find(|&port| is_free(port)).unwrap()
}

pub(crate) fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

/// The question of a client that takes datagrams of this size.
pub(crate) fn with_size(mut message: Message, size: u16) -> Message {
    let mut edns = Edns::new();
    edns.set_max_payload(size);
    message.edns = Some(edns);
    message
}

/// Asks by UDP, again each second as resolvers do.
pub(crate) fn by_udp(to: SocketAddr, question: &Message) -> Message {
    let from: IpAddr = if to.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { "::1".parse().unwrap() };
    let started = Instant::now();
    loop {
        assert!(started.elapsed() < PATIENCE, "no answer from {to}");
        let socket = UdpSocket::bind((from, 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        socket.connect(to).unwrap();
        let mut buffer = [0; 4096];
        match socket.send(&question.to_bytes().unwrap()).and_then(|_| socket.recv(&mut buffer)) {
            Ok(length) => return Message::from_bytes(&buffer[..length]).unwrap(),
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => std::thread::sleep(Duration::from_millis(50)),
            Err(_) => (),
        }
    }
}

/// Asks by TCP.
pub(crate) fn by_tcp(stream: &mut TcpStream, question: &Message) -> Message {
    write_framed(stream, &question.to_bytes().unwrap());
    Message::from_bytes(&read_framed(stream).unwrap()).unwrap()
}

/// The code and the data of an answer.
pub(crate) fn read(answer: &Message) -> (ResponseCode, Vec<String>) {
    let mut data: Vec<String> = answer.answers.iter().map(|record| record.data.to_string()).collect();
    data.sort();
    (answer.metadata.response_code, data)
}

/// A resolver of the node: `example.org` and what is below it has an address, `many.example.org` has [`MANY`], and `silent` gets
/// no answer. It counts nothing and ends with the test.
pub(crate) fn resolver() -> SocketAddr {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let udp = UdpSocket::bind(address).unwrap();
    let tcp = TcpListener::bind(address).unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok((length, from)) = udp.recv_from(&mut buffer) {
            if let Some(answer) = resolve(&buffer[..length]) {
                udp.send_to(&answer, from).unwrap();
            }
        }
    });
    std::thread::spawn(move || {
        for stream in tcp.incoming() {
            let mut stream = stream.unwrap();
            while let Some(message) = read_framed(&mut stream) {
                if let Some(answer) = resolve(&message) {
                    write_framed(&mut stream, &answer);
                }
            }
        }
    });
    address
}

fn resolve(message: &[u8]) -> Option<Vec<u8>> {
    let asked = Message::from_bytes(message).unwrap();
    let query = asked.queries[0].clone();
    let mut answer = Message::new(asked.metadata.id, MessageType::Response, OpCode::Query);
    (answer.metadata.recursion_desired, answer.metadata.recursion_available) = (true, true);
    let name = query.name().to_string().to_lowercase();
    let addresses = match name.as_str() {
        "silent.example.org." => return None,
        "many.example.org." => MANY,
        _ if name.ends_with("example.org.") => 1,
        _ => 0,
    };
    if addresses == 0 {
        answer.metadata.response_code = ResponseCode::NXDomain;
    } else if query.query_type() == RecordType::A {
        for last in 1..=addresses {
            let data = RData::A(Ipv4Addr::new(192, 0, 2, last).into());
            answer.add_answer(Record::from_rdata(query.name().clone(), 60, data));
        }
    }
    answer.add_query(query);
    Some(answer.to_bytes().unwrap())
}

fn write_framed(stream: &mut TcpStream, message: &[u8]) {
    let length = u16::try_from(message.len()).unwrap();
    stream.write_all(&[&length.to_be_bytes()[..], message].concat()).unwrap();
}

fn read_framed(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length).ok()?;
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut message).ok()?;
    Some(message)
}
