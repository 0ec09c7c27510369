//! A long way: bytes arrive half a round trip after they left, however many are under way, and no faster than the
//! line takes them.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::{CHUNK, Direction, Shared};

/// How far the line may be behind before senders wait: the depth of the router's queue.
const BACKLOG: Duration = Duration::from_millis(20);
/// What a connection may have under way beyond what fills the line.
const SLACK: f64 = (2 * CHUNK) as f64;
const SMALLEST_CHUNK: f64 = 1460.0;

/// A line with two directions, each shared by all connections.
#[derive(Debug)]
pub(super) struct Wan {
    half_trip: Duration,
    rate: f64,
    to_server: Mutex<Option<Instant>>,
    to_client: Mutex<Option<Instant>>,
}

impl Wan {
    pub(super) fn new(round_trip: Duration, bytes_per_second: u64) -> Self {
        let (to_server, to_client) = (Mutex::default(), Mutex::default());
        Self { half_trip: round_trip / 2, rate: bytes_per_second.max(1) as f64, to_server, to_client }
    }

    /// What TCP needs before the client may send.
    pub(super) fn handshake(&self) {
        thread::sleep(self.half_trip * 2);
    }

    /// Waits until the line takes so many bytes; says when they arrive.
    fn send(&self, bytes: usize, direction: Direction) -> Instant {
        let line = match direction {
            Direction::ToServer => &self.to_server,
            Direction::ToClient => &self.to_client,
        };
        loop {
            let now = Instant::now();
            let mut busy = lock(line);
            let from = busy.map_or(now, |until| until.max(now));
            let wait = (from - now).saturating_sub(BACKLOG);
            if wait.is_zero() {
                let until = from + Duration::from_secs_f64(bytes as f64 / self.rate);
                *busy = Some(until);
                return until + self.half_trip;
            }
            drop(busy);
            thread::sleep(wait);
        }
    }

    /// So much that a chunk is a hundredth of a second or less.
    fn chunk(&self) -> usize {
        (self.rate / 100.0).clamp(SMALLEST_CHUNK, CHUNK as f64) as usize
    }

    /// What one connection may have under way in a direction.
    fn window(&self) -> usize {
        ((self.half_trip + BACKLOG).as_secs_f64() * self.rate + SLACK) as usize
    }

    /// Copies one way until either side ends; `shared` has the other faults, which come at the far end.
    pub(super) fn carry(&self, shared: &Shared, mut from: TcpStream, to: TcpStream, direction: Direction) {
        let way = Way { state: Mutex::default(), changed: Condvar::new() };
        let mut buffer = vec![0; self.chunk()];
        let window = self.window();
        thread::scope(|scope| {
            let end = from.try_clone();
            scope.spawn(|| {
                way.deliver(shared, to, direction);
                let _ = end.map(|from| from.shutdown(Shutdown::Both));
            });
            while let Ok(n @ 1..) = from.read(&mut buffer) {
                let Some(chunk) = buffer.get(..n) else { break };
                let due = self.send(n, direction);
                if !way.put(chunk, due, window) {
                    break;
                }
            }
            way.end(Instant::now() + self.half_trip);
        });
    }
}

/// What is under way on one connection in one direction.
#[derive(Debug)]
struct Way {
    state: Mutex<UnderWay>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct UnderWay {
    chunks: VecDeque<(Instant, Vec<u8>)>,
    bytes: usize,
    /// When the sender's end of the stream arrives.
    ends: Option<Instant>,
    /// Nobody takes anything any more.
    dead: bool,
}

impl Way {
    /// False when the far end is gone.
    fn put(&self, chunk: &[u8], due: Instant, window: usize) -> bool {
        let mut state = lock(&self.state);
        while state.bytes >= window && !state.dead {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.bytes += chunk.len();
        state.chunks.push_back((due, chunk.to_vec()));
        self.changed.notify_all();
        !state.dead
    }

    fn end(&self, at: Instant) {
        lock(&self.state).ends = Some(at);
        self.changed.notify_all();
    }

    /// The next chunk, when it is due; none at the end.
    fn next(&self) -> Option<Vec<u8>> {
        let mut state = lock(&self.state);
        loop {
            let due = state.chunks.front().map(|(due, _)| *due).or(state.ends);
            let now = Instant::now();
            state = match due {
                Some(due) if due <= now => return state.chunks.pop_front().map(|(_, chunk)| chunk),
                Some(due) => {
                    self.changed.wait_timeout(state, due - now).unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    fn deliver(&self, shared: &Shared, mut to: TcpStream, direction: Direction) {
        while let Some(mut chunk) = self.next() {
            let size = chunk.len();
            if shared.admit(&mut chunk, direction) && to.write_all(&chunk).is_err() {
                break;
            }
            lock(&self.state).bytes -= size;
            self.changed.notify_all();
        }
        lock(&self.state).dead = true;
        self.changed.notify_all();
        let _ = to.shutdown(Shutdown::Both);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
