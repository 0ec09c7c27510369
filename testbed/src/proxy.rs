//! A TCP proxy that does to connections what bad networks do.

mod flips;
mod steps;
mod wan;

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::ports;

use flips::Flips;
use steps::Watch;
pub use steps::{Delivery, Steps};
use wan::Wan;

const CHUNK: usize = 64 << 10;
const ACCEPT_POLL: Duration = Duration::from_millis(5);
/// How long a connection attempt waits until it looks again whether the proxy closes.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From client to server: requests.
    ToServer,
    /// From server to client: answers.
    ToClient,
}

/// What is done to the traffic now.
#[derive(Debug, Default)]
struct Faults {
    refuse: bool,
    stall_to_server: bool,
    stall_to_client: bool,
    swallow_to_client: bool,
    delay: Duration,
    /// Bytes per second that pass, both ways and all connections together.
    rate: Option<u64>,
    /// When all that has passed so far is paid for at this rate.
    paid: Option<Instant>,
    /// Bytes that may still pass, both ways, before all connections are cut.
    cut_in: Option<u64>,
    /// Cuts again and again: each time after a random number of bytes below this.
    cut_every: Option<(fastrand::Rng, u64)>,
    /// Bits that flip on the way to the server.
    flips_to_server: Flips,
    /// Likewise on the way to the client.
    flips_to_client: Flips,
    /// How many bits were flipped.
    flips: u64,
    /// Counts the requests of connections that are opened now.
    watch: Weak<Watch>,
    /// The line of connections that are opened now.
    wan: Option<Arc<Wan>>,
    closing: bool,
    cuts: u64,
    /// Connections that were tried while something listened here.
    attempts: u64,
    /// Connections that were let in.
    opened: u64,
    /// Bytes that went to clients.
    delivered: u64,
}

#[derive(Debug, Default)]
struct Shared {
    faults: Mutex<Faults>,
    changed: Condvar,
    pairs: Mutex<HashMap<u64, (TcpStream, TcpStream)>>,
}

/// A proxy from one loopback port to another. It ends when dropped.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Starts a proxy on a free port in front of the server at `target`.
    pub fn start(target: u16) -> Result<Self> {
        Self::start_at(ports::free_port()?, target)
    }

    pub(crate) fn start_at(port: u16, target: u16) -> Result<Self> {
        let listener = ports::listen(port)?;
        listener.set_nonblocking(true)?;
        let shared = Arc::new(Shared::default());
        let acceptor = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || accept(&shared, listener, port, target))
        };
        Ok(Self { port, shared, acceptor: Some(acceptor) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        ports::loopback(self.port)
    }

    /// Cuts all connections now; new ones are let in.
    pub fn cut(&self) {
        self.shared.cut();
    }

    /// Refuses new connections (nothing listens), or lets them in again. Those that are open stay open.
    pub fn refuse(&self, refuse: bool) {
        self.set(|f| f.refuse = refuse);
    }

    /// Holds all bytes back both ways, or lets them go on.
    pub fn stall(&self, stall: bool) {
        self.set(|f| (f.stall_to_server, f.stall_to_client) = (stall, stall));
    }

    /// Holds bytes back one way only. With answers held back and then [`Proxy::cut`], a client cannot know what
    /// became of its requests.
    pub fn stall_one_way(&self, direction: Direction, stall: bool) {
        self.set(|f| match direction {
            Direction::ToServer => f.stall_to_server = stall,
            Direction::ToClient => f.stall_to_client = stall,
        });
    }

    /// Lets requests pass and makes answers vanish, or stops doing so. A connection that lost bytes is no longer
    /// of use: cut it afterwards.
    pub fn swallow_answers(&self, swallow: bool) {
        self.set(|f| f.swallow_to_client = swallow);
    }

    /// Delays each chunk (of up to 64 KiB) this long.
    pub fn delay(&self, delay: Duration) {
        self.set(|f| f.delay = delay);
    }

    /// Lets so many bytes per second pass, both ways and all connections together; `None`: as many as come.
    pub fn throttle(&self, rate: Option<u64>) {
        self.set(|f| (f.rate, f.paid) = (rate, None));
    }

    /// Makes the way of connections that are opened from now on a long one, until [`Proxy::calm`]: every byte takes half of
    /// `round_trip`, however many are under way, and each direction carries so many bytes a second for all these
    /// connections together. Opening one takes a round trip. The other faults apply as well. There is no loss, no
    /// jitter, and no slow start: a connection fills the line at once.
    pub fn wan(&self, round_trip: Duration, bytes_per_second: u64) {
        self.set(|f| f.wan = Some(Arc::new(Wan::new(round_trip, bytes_per_second))));
    }

    /// Cuts all connections once, after so many more bytes both ways.
    pub fn cut_after(&self, bytes: u64) {
        self.set(|f| f.cut_in = Some(bytes));
    }

    /// Cuts all connections again and again, each time after a random number of bytes below `below`, until
    /// [`Proxy::calm`]. Prints the seed.
    pub fn cut_at_random(&self, seed: u64, below: u64) {
        eprintln!("proxy on port {}: cuts at random below {below} bytes, seed {seed}", self.port);
        self.set(|f| {
            let mut rng = fastrand::Rng::with_seed(seed);
            f.cut_in = Some(rng.u64(0..below.max(1)));
            f.cut_every = Some((rng, below.max(1)));
        });
    }

    /// Flips one bit on the way to the client, after so many more bytes.
    pub fn flip_bit_after(&self, bytes: u64) {
        self.set(|f| f.flips_to_client = Flips::once(bytes));
    }

    /// Flips one random bit on this way again and again, each time after a random number of bytes below `below`, until
    /// [`Proxy::calm`]. Prints the seed.
    pub fn flip_at_random(&self, direction: Direction, seed: u64, below: u64) {
        eprintln!(
            "proxy on port {}: flips {direction:?} at random below {below} bytes, seed {seed}",
            self.port
        );
        self.set(|f| *f.flips_mut(direction) = Flips::at_random(seed, below));
    }

    /// Counts the requests of connections that are opened from now on.
    pub fn count_requests(&self) -> Steps {
        self.watch(None)
    }

    /// Counts them as well, and at the `n`th, from 1, lets nothing more pass.
    pub fn stop_at_request(&self, n: usize, delivery: Delivery) -> Steps {
        self.watch(Some((n, delivery)))
    }

    fn watch(&self, stop: Option<(usize, Delivery)>) -> Steps {
        let steps = Steps::new(stop);
        self.set(|f| f.watch = Arc::downgrade(&steps.0));
        steps
    }

    /// Ends all faults.
    pub fn calm(&self) {
        self.set(|f| {
            let Faults { cuts, flips, attempts, opened, delivered, .. } = *f;
            *f = Faults { cuts, flips, attempts, opened, delivered, ..Faults::default() };
        });
    }

    /// How many times somebody tried to connect, whether the server was there or not, but for times in which it refused.
    pub fn attempts(&self) -> u64 {
        self.shared.faults().attempts
    }

    /// How many bits it has flipped.
    pub fn flips(&self) -> u64 {
        self.shared.faults().flips
    }

    /// How many connections it has let in.
    pub fn opened(&self) -> u64 {
        self.shared.faults().opened
    }

    /// How many bytes went to clients, but for connections whose requests are counted.
    pub fn delivered(&self) -> u64 {
        self.shared.faults().delivered
    }

    /// How many times byte counts made it cut.
    pub fn cuts(&self) -> u64 {
        self.shared.faults().cuts
    }

    /// How many connections are open.
    pub fn connections(&self) -> usize {
        self.shared.pairs().len()
    }

    fn set(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.shared.faults());
        self.shared.changed.notify_all();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.set(|f| f.closing = true);
        self.cut();
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
        self.cut(); // one that came in between
    }
}

impl Shared {
    fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pairs(&self) -> MutexGuard<'_, HashMap<u64, (TcpStream, TcpStream)>> {
        self.pairs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cut(&self) {
        for (_, (client, server)) in self.pairs().drain() {
            let _ = client.shutdown(Shutdown::Both);
            let _ = server.shutdown(Shutdown::Both);
        }
    }

    /// Applies the faults to a chunk. True: pass it on.
    fn admit(&self, chunk: &mut [u8], direction: Direction) -> bool {
        let mut faults = self.faults();
        let pause = faults.delay + faults.pay(chunk.len());
        if !pause.is_zero() {
            // A proxy that closes, or whose faults end, does not sit it out.
            let until = Instant::now() + pause;
            while let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
                && !faults.closing
                && (faults.rate.is_some() || !faults.delay.is_zero())
            {
                faults = self.changed.wait_timeout(faults, left).unwrap_or_else(PoisonError::into_inner).0;
            }
        }
        while !faults.closing && faults.stalled(direction) {
            faults = self.changed.wait(faults).unwrap_or_else(PoisonError::into_inner);
        }
        let cut = faults.spend(chunk, direction);
        let pass = !(faults.closing || direction == Direction::ToClient && faults.swallow_to_client);
        if pass && !cut && direction == Direction::ToClient {
            faults.delivered += chunk.len() as u64;
        }
        drop(faults);
        if cut {
            self.cut();
        }
        pass && !cut
    }
}

impl Faults {
    /// How long these bytes have to wait at the rate.
    fn pay(&mut self, bytes: usize) -> Duration {
        let Some(rate) = self.rate else { return Duration::ZERO };
        let now = Instant::now();
        let due = self.paid.map_or(now, |paid| paid.max(now));
        let due = due + Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64);
        self.paid = Some(due);
        due - now
    }

    fn stalled(&self, direction: Direction) -> bool {
        match direction {
            Direction::ToServer => self.stall_to_server,
            Direction::ToClient => self.stall_to_client,
        }
    }

    fn flips_mut(&mut self, direction: Direction) -> &mut Flips {
        match direction {
            Direction::ToServer => &mut self.flips_to_server,
            Direction::ToClient => &mut self.flips_to_client,
        }
    }

    /// Counts the chunk; true when it is the one to cut at.
    fn spend(&mut self, chunk: &mut [u8], direction: Direction) -> bool {
        let size = chunk.len() as u64;
        self.flips += u64::from(self.flips_mut(direction).pass(chunk));
        let Some(left) = self.cut_in else { return false };
        if left >= size {
            self.cut_in = Some(left - size);
            return false;
        }
        self.cut_in = self.cut_every.as_mut().map(|(rng, below)| rng.u64(0..*below));
        self.cuts += 1;
        true
    }
}

fn listen(port: u16) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(ports::loopback(port))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Takes connections in. While the proxy refuses, the listener is closed, so that attempts fail at once.
fn accept(shared: &Arc<Shared>, first: TcpListener, port: u16, target: u16) {
    let mut listener = Some(first);
    let mut next = 0;
    loop {
        let (refuse, closing) = {
            let faults = shared.faults();
            (faults.refuse, faults.closing)
        };
        if closing {
            return;
        }
        if refuse {
            listener = None;
        } else if listener.is_none() {
            listener = listen(port).ok();
        }
        match listener.as_ref().map(TcpListener::accept) {
            Some(Ok((client, _))) => {
                next += 1;
                shared.faults().attempts += 1;
                let (shared, id) = (Arc::clone(shared), next);
                thread::spawn(move || connect(&shared, id, client, target));
            }
            _ => thread::sleep(ACCEPT_POLL),
        }
    }
}

/// Joins a client with the server; any failure closes it, as the server's own failure would.
fn connect(shared: &Arc<Shared>, id: u64, client: TcpStream, target: u16) {
    let joined = || -> io::Result<_> {
        client.set_nonblocking(false)?;
        client.set_nodelay(true)?;
        let server = TcpStream::connect_timeout(&ports::loopback(target), CONNECT_LIMIT)?;
        server.set_nodelay(true)?;
        shared.pairs().insert(id, (client.try_clone()?, server.try_clone()?));
        Ok((client.try_clone()?, server.try_clone()?, server))
    };
    let Ok((client_reader, server_reader, server)) = joined() else { return };
    shared.faults().opened += 1;
    if shared.faults().closing {
        shared.cut();
    }
    let watch = shared.faults().watch.upgrade().filter(|watch| !watch.is_over());
    if let Some(watch) = watch {
        watch.open(id);
        let requests = {
            let watch = Arc::clone(&watch);
            thread::spawn(move || watch.requests(id, client_reader, server))
        };
        watch.answers(id, server_reader, client);
        let _ = requests.join();
        watch.close(id);
    } else {
        let wan = shared.faults().wan.clone();
        wan.iter().for_each(|wan| wan.handshake());
        let pass = |from, to, direction| match &wan {
            Some(wan) => wan.carry(shared, from, to, direction),
            None => pump(shared, from, to, direction),
        };
        thread::scope(|scope| {
            scope.spawn(|| pass(client_reader, server, Direction::ToServer));
            pass(server_reader, client, Direction::ToClient);
        });
    }
    shared.pairs().remove(&id);
}

/// Copies one way until either side ends.
fn pump(shared: &Shared, mut from: TcpStream, mut to: TcpStream, direction: Direction) {
    let mut buffer = vec![0; CHUNK];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        let Some(chunk) = buffer.get_mut(..n) else { break };
        if shared.admit(chunk, direction) && to.write_all(chunk).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
