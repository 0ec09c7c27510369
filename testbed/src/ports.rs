//! Free loopback ports.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Below the range that systems take for outgoing connections: such a one could grab the port of a node that is
/// down for a moment.
const RANGE: std::ops::Range<u16> = 12_000..32_000;
const TRIES: usize = 1000;
const LIMIT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(5);

/// A port on which nothing listens, never given out twice by this process.
pub fn free_port() -> Result<u16> {
    static GIVEN: LazyLock<Mutex<HashSet<u16>>> = LazyLock::new(Mutex::default);
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    for _ in 0..TRIES {
        let port = fastrand::u16(RANGE);
        if !given.contains(&port) && TcpListener::bind(loopback(port)).is_ok() {
            given.insert(port);
            return Ok(port);
        }
    }
    bail!("no free port found on 127.0.0.1 in {RANGE:?}")
}

/// Listens on a port that [`free_port`] gave. A process that another thread starts at that moment has a copy of the
/// socket that tried the port, for as long as it takes to start.
pub(crate) fn listen(port: u16) -> Result<TcpListener> {
    let deadline = Instant::now() + LIMIT;
    loop {
        match TcpListener::bind(loopback(port)) {
            Err(e) if e.kind() == ErrorKind::AddrInUse && Instant::now() < deadline => thread::sleep(POLL),
            other => return other.with_context(|| format!("listen on 127.0.0.1:{port}")),
        }
    }
}

pub(crate) fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}
