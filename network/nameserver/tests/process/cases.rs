//! What clients see of the name server.

use std::io::Write;
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use hickory_server::proto::op::{Message, MessageType, ResponseCode};
use hickory_server::proto::rr::RecordType;
use hickory_server::proto::serialize::binary::{BinDecodable, BinEncodable};
use nameserver::{Error, Record, Told};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::world::{MANY, World, by_tcp, by_udp, question, read, resolver, with_size};

/// All cases, by name.
pub(crate) const ALL: &[(&str, fn())] = &[
    ("names_and_addresses_lead_to_each_other", names_and_addresses_lead_to_each_other),
    ("records_follow_the_list", records_follow_the_list),
    ("other_names_are_asked_of_the_resolvers", other_names_are_asked_of_the_resolvers),
    ("what_does_not_fit_a_datagram_comes_by_tcp", what_does_not_fit_a_datagram_comes_by_tcp),
    ("it_outlives_the_server_and_comes_back_when_killed", it_outlives_the_server_and_comes_back_when_killed),
    ("other_settings_replace_it", other_settings_replace_it),
    ("a_taken_port_is_told", a_taken_port_is_told),
    ("it_has_no_rights", it_has_no_rights),
    ("strangers_and_nonsense_get_nothing", strangers_and_nonsense_get_nothing),
    ("a_silent_resolver_holds_up_nothing_else", a_silent_resolver_holds_up_nothing_else),
];

fn pods(pods: &[(&str, &[&str])], resolvers: &[SocketAddr]) -> Told {
    let addresses = |all: &[&str]| -> Vec<IpAddr> { all.iter().map(|one| one.parse().unwrap()).collect() };
    let records =
        pods.iter().map(|(name, all)| Record { name: (*name).to_owned(), addresses: addresses(all) }).collect();
    Told { records, resolvers: resolvers.to_vec() }
}

fn found(data: &[&str]) -> (ResponseCode, Vec<String>) {
    (ResponseCode::NoError, data.iter().map(|one| (*one).to_owned()).collect())
}

fn missing() -> (ResponseCode, Vec<String>) {
    (ResponseCode::NXDomain, Vec::new())
}

fn names_and_addresses_lead_to_each_other() {
    let mut world = World::start();
    world.tell(&pods(&[("web.default", &["127.1.0.2", "fd00:cb::2"]), ("db.a.default", &["127.1.0.3"])], &[]));
    for (name, kind, wanted) in [
        ("web.default.local.cellblock", RecordType::A, found(&["127.1.0.2"])),
        ("WEB.Default.local.CELLBLOCK", RecordType::A, found(&["127.1.0.2"])),
        ("web.default.local.cellblock", RecordType::AAAA, found(&["fd00:cb::2"])),
        ("db.a.default.local.cellblock", RecordType::A, found(&["127.1.0.3"])),
        // The name is there, with nothing of this kind; so is what only has names below it.
        ("db.a.default.local.cellblock", RecordType::AAAA, found(&[])),
        ("web.default.local.cellblock", RecordType::TXT, found(&[])),
        ("default.local.cellblock", RecordType::A, found(&[])),
        ("other.default.local.cellblock", RecordType::A, missing()),
        ("x.web.default.local.cellblock", RecordType::A, missing()),
        ("local.cellblock", RecordType::A, found(&["127.0.0.1"])),
        ("local.cellblock", RecordType::AAAA, found(&["::1"])),
        ("2.0.1.127.in-addr.arpa", RecordType::PTR, found(&["web.default.local.cellblock."])),
        ("9.0.1.127.in-addr.arpa", RecordType::PTR, missing()),
        (
            &format!("2.{}b.c.0.0.0.0.d.f.ip6.arpa", "0.".repeat(23)),
            RecordType::PTR,
            found(&["web.default.local.cellblock."]),
        ),
    ] {
        assert_eq!(world.ask(name, kind), wanted, "{name} {kind}");
    }
    let absent = by_udp(world.at("127.0.0.1"), &question("no.default.local.cellblock", RecordType::A));
    assert!(absent.metadata.authoritative && absent.authorities[0].ttl <= 1, "{absent}");
    let answer = by_udp(world.at("::1"), &question("web.default.local.cellblock", RecordType::A));
    assert_eq!(read(&answer), found(&["127.1.0.2"]), "by IPv6");
    assert!(answer.metadata.authoritative && answer.answers[0].ttl <= 5, "{answer}");
}

fn records_follow_the_list() {
    let mut world = World::start();
    world.tell(&pods(&[("web.default", &["127.1.0.2"])], &[]));
    world.until("web.default.local.cellblock", RecordType::A, &found(&["127.1.0.2"]));
    // As many as a node has.
    let record = |pod: u8| Record { name: format!("pod-{pod}.default"), addresses: vec![[127, 2, 0, pod].into()] };
    world.tell(&Told { records: (0..=u8::MAX).map(record).collect(), resolvers: Vec::new() });
    let took = world.until("pod-255.default.local.cellblock", RecordType::A, &found(&["127.2.0.255"]));
    println!("   256 records after {took:?}");
    assert_eq!(world.ask("web.default.local.cellblock", RecordType::A), missing());
}

fn other_names_are_asked_of_the_resolvers() {
    let mut world = World::start();
    world.tell(&pods(&[("web.default", &["127.1.0.2"])], &[resolver()]));
    assert_eq!(world.ask("www.example.org", RecordType::A), found(&["192.0.2.1"]));
    assert_eq!(world.ask("www.example.org", RecordType::AAAA), found(&[]));
    assert_eq!(world.ask("example.net", RecordType::A), missing());
    let answer = by_udp(world.at("127.0.0.1"), &question("www.example.org", RecordType::A));
    assert!(answer.metadata.recursion_available && !answer.metadata.authoritative, "{answer}");
    // Without resolvers nobody can be asked, and pods' names are answered all the same.
    world.tell(&pods(&[("web.default", &["127.1.0.2"])], &[]));
    world.until("www.example.org", RecordType::A, &(ResponseCode::Refused, Vec::new()));
    assert_eq!(world.ask("web.default.local.cellblock", RecordType::A), found(&["127.1.0.2"]));
}

fn what_does_not_fit_a_datagram_comes_by_tcp() {
    let mut world = World::start();
    world.tell(&pods(&[], &[resolver()]));
    let asked = question("many.example.org", RecordType::A);
    let cut = by_udp(world.at("127.0.0.1"), &asked);
    assert!(cut.metadata.truncation && cut.answers.len() < usize::from(MANY), "{cut}");
    let large = by_udp(world.at("127.0.0.1"), &with_size(asked.clone(), 4096));
    assert!(!large.metadata.truncation && large.answers.len() == usize::from(MANY), "{large}");
    let mut stream = TcpStream::connect(world.at("127.0.0.1")).unwrap();
    for _ in 0..2 {
        let whole = by_tcp(&mut stream, &asked);
        assert!(!whole.metadata.truncation && whole.answers.len() == usize::from(MANY), "{whole}");
    }
}

fn it_outlives_the_server_and_comes_back_when_killed() {
    let mut world = World::start();
    let told = pods(&[("web.default", &["127.1.0.2"])], &[]);
    world.tell(&told);
    let wanted = found(&["127.1.0.2"]);
    world.until("web.default.local.cellblock", RecordType::A, &wanted);
    let first = world.pid();
    world.disconnect();
    assert_eq!(world.ask("web.default.local.cellblock", RecordType::A), wanted, "without a server");
    world.connect();
    assert_eq!((world.pid(), world.ask("web.default.local.cellblock", RecordType::A)), (first, wanted.clone()));
    kill(Pid::from_raw(first), Signal::SIGKILL).unwrap();
    // One that is being killed may accept a connection; the server sees its end and asks again.
    while world.pid() == first {
        world.connect();
    }
    // It was told nothing yet: the question waits instead of being told that there is no such name.
    let asked = std::thread::scope(|scope| {
        let asked = scope
            .spawn(|| read(&by_udp(world.at("127.0.0.1"), &question("web.default.local.cellblock", RecordType::A))));
        std::thread::sleep(Duration::from_millis(200));
        assert!(!asked.is_finished());
        let control = world.server.ensure(&world.settings).unwrap();
        (&control).write_all(told.to_line().as_bytes()).unwrap();
        asked.join().unwrap()
    });
    assert_eq!(asked, wanted);
    world.server.stop().unwrap();
    world.server.stop().unwrap();
}

fn other_settings_replace_it() {
    let mut world = World::start();
    world.tell(&pods(&[("web.default", &["127.1.0.2"])], &[]));
    let first = world.pid();
    world.settings.domain = "pods".to_owned();
    world.connect();
    assert_ne!(world.pid(), first);
    world.tell(&pods(&[("web.default", &["127.1.0.2"])], &[]));
    world.until("web.default.pods", RecordType::A, &found(&["127.1.0.2"]));
}

fn a_taken_port_is_told() {
    let world = World::start();
    world.server.stop().unwrap();
    let taken = UdpSocket::bind(world.at("127.0.0.1")).unwrap();
    let error = world.server.ensure(&world.settings).unwrap_err();
    let wanted = format!("cannot listen on 127.0.0.1:{} (UDP)", world.settings.port);
    assert!(matches!(&error, Error::Refused(said) if said.contains(&wanted)), "{error}");
    drop(taken);
    world.server.ensure(&world.settings).unwrap();
}

/// Only where the test has rights that it could give up, and a system that shows them.
fn it_has_no_rights() {
    let world = World::start();
    let process = std::path::PathBuf::from(format!("/proc/{}", world.pid()));
    let Ok(status) = std::fs::read_to_string(process.join("status")) else { return };
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let words = |name: &str| -> Vec<&str> {
        status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().split_whitespace().collect()
    };
    assert_eq!((words("Uid:"), words("Gid:"), words("Groups:")), (vec!["65534"; 4], vec!["65534"; 4], vec![]));
    assert_eq!((words("CapEff:"), words("CapPrm:")), (vec!["0000000000000000"], vec!["0000000000000000"]));
    assert_eq!(std::fs::read_link(process.join("root")).unwrap(), world.path().join("empty"));
    // The standard streams, the lock, /dev/null, the control socket, four sockets, and the runtime's own.
    let open = std::fs::read_dir(process.join("fd")).unwrap().count();
    assert!(open < 20, "{open} files are open");
}

fn strangers_and_nonsense_get_nothing() {
    let mut world = World::start();
    world.settings.networks = vec!["127.0.0.1/32".parse().unwrap()];
    world.connect();
    world.tell(&pods(&[("web.default", &["127.1.0.2"])], &[]));
    world.until("web.default.local.cellblock", RecordType::A, &found(&["127.1.0.2"]));
    let asked = question("web.default.local.cellblock", RecordType::A);
    assert_eq!(read(&by_udp(world.at("::1"), &asked)), (ResponseCode::Refused, Vec::new()));
    let mut answer = asked.clone();
    answer.metadata.message_type = MessageType::Response;
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let sent: [&[u8]; 3] = [b"", &[0xff; 700], &answer.to_bytes().unwrap()];
    for bytes in sent {
        socket.send_to(bytes, world.at("127.0.0.1")).unwrap();
        let heard = socket.recv(&mut [0; 512]);
        assert!(heard.is_err(), "{bytes:?}: {heard:?}");
    }
    assert_eq!(world.ask("web.default.local.cellblock", RecordType::A), found(&["127.1.0.2"]));
}

fn a_silent_resolver_holds_up_nothing_else() {
    let mut world = World::start();
    world.tell(&pods(&[("web.default", &["127.1.0.2"])], &[resolver()]));
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let bytes = question("silent.example.org", RecordType::A).to_bytes().unwrap();
    // More than one client may have waiting: the last are told at once.
    for _ in 0..100 {
        socket.send_to(&bytes, world.at("127.0.0.1")).unwrap();
    }
    let mut buffer = [0; 512];
    let length = socket.recv(&mut buffer).unwrap();
    let refused = Message::from_bytes(&buffer[..length]).unwrap();
    assert_eq!(read(&refused), (ResponseCode::ServFail, Vec::new()));
    assert_eq!(world.ask("web.default.local.cellblock", RecordType::A), found(&["127.1.0.2"]));
}
