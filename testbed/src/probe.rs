//! Asks a node, in fixed bytes, how many brokers it knows: the sign that it is up.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::ports;

/// A Metadata request, version 1, for no topic: length, API key 3, version, correlation id, client id "up", topics.
const REQUEST: [u8; 20] = [0, 0, 0, 16, 0, 3, 0, 1, 0, 0, 0, 7, 0, 2, b'u', b'p', 0, 0, 0, 0];
/// Length, correlation id, number of brokers.
const ANSWER_HEAD: usize = 12;
const LIMIT: Duration = Duration::from_secs(2);

/// The number of live brokers that the node at `port` knows; none when it does not answer.
pub(crate) fn brokers_known(port: u16) -> Option<u32> {
    let mut stream = TcpStream::connect_timeout(&ports::loopback(port), LIMIT).ok()?;
    stream.set_read_timeout(Some(LIMIT)).ok()?;
    stream.write_all(&REQUEST).ok()?;
    let mut head = [0; ANSWER_HEAD];
    stream.read_exact(&mut head).ok()?;
    head.last_chunk().map(|count| u32::from_be_bytes(*count))
}
