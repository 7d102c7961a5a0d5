//! Ports for servers that bind them later.

use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;

use anyhow::{Context, Result};

use crate::random::Random;

/// Below the ports that FreeBSD (from 10000) and Linux (from 32768) give to sockets without one: none of those takes it meanwhile.
const PORTS: Range<u16> = 2000..10_000;

/// Returns a free TCP port of 127.0.0.1.
pub(crate) fn free_port() -> Result<u16> {
    let mut random = Random::new(Random::fresh_seed());
    (0..PORTS.len())
        .filter_map(|_| PORTS.clone().nth(usize::try_from(random.below(PORTS.len() as u64)).ok()?))
        .find(|&port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok())
        .context("no port of 127.0.0.1 is free")
}
