//! Asks a name server for an IPv4 address, with a message of our own: tests should not depend on tested code.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

/// The domain of the pods' names on the servers of the tests.
pub const DOMAIN: &str = "local.cellblock";
/// How long an answer may take: what a resolver waits before it asks again (resolv.conf(5)).
const TIMEOUT: Duration = Duration::from_secs(5);
/// The id of our only question.
const ID: [u8; 2] = [0xce, 0x11];
/// The codes of answers (RFC 1035, 4.1.1).
const SUCCESS: u8 = 0;
const NO_SUCH_NAME: u8 = 3;

/// The IPv4 address of a name; None: there is no such name.
///
/// # Errors
/// No answer in time, or another one.
pub fn lookup(server: IpAddr, name: &str) -> Result<Option<Ipv4Addr>> {
    let socket = UdpSocket::bind(if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
    socket.set_read_timeout(Some(TIMEOUT))?;
    socket.connect((server, 53))?;
    socket.send(&question(name)?)?;
    let mut buffer = [0; 512];
    let length = socket.recv(&mut buffer).with_context(|| format!("{server} says nothing of {name}"))?;
    let answer = &buffer[..length];
    ensure!(length > 12 && answer[..2] == ID, "{server} says {answer:?} of {name}");
    match answer[3] & 0xf {
        NO_SUCH_NAME => Ok(None),
        // The last four bytes are the data of the last record, which is the answer when there are no others.
        SUCCESS if answer[7] == 1 && answer[8..12] == [0; 4] => {
            let data: [u8; 4] = answer[length - 4..].try_into()?;
            Ok(Some(data.into()))
        }
        code => bail!("{server} says {code} of {name}, with {} records", answer[7]),
    }
}

fn question(name: &str) -> Result<Vec<u8>> {
    // Recursion is desired, one question.
    let mut message = [&ID[..], &[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]].concat();
    for label in name.split('.') {
        message.push(u8::try_from(label.len())?);
        message.extend(label.bytes());
    }
    // The root; type A, class IN.
    message.extend([0, 0, 1, 0, 1]);
    Ok(message)
}
