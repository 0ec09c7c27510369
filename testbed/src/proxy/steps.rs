//! Counts the requests that pass a proxy, and stops everything at one of them. A request is a frame: a length of four bytes, then so many more.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// A longer frame is none.
const MAX_FRAME: usize = 100 << 20;

/// What becomes of the request at which everything stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// It does not reach the server, unless it is released later; nor does any request after it.
    Held,
    /// It is the last one that reaches the server. No answer reaches the client any more.
    Delivered,
}

#[derive(Debug, Default)]
struct State {
    /// Which API each request was of, in the order in which they came.
    apis: Vec<i16>,
    stop: Option<(usize, Delivery)>,
    /// The request to stop at has come.
    closed: bool,
    /// The answer that shows that it has had its effect: connection, and number there.
    awaited: Option<(u64, u64)>,
    /// What must become of that request has become of it.
    reached: bool,
    released: bool,
    /// Nobody wants to know any more.
    over: bool,
    links: HashMap<u64, Link>,
}

/// A connection.
#[derive(Debug, Default)]
struct Link {
    delivered: u64,
    answered: u64,
    /// The server has closed it.
    ended: bool,
}

#[derive(Debug, Default)]
pub(super) struct Watch {
    state: Mutex<State>,
    changed: Condvar,
}

/// The requests of all connections that were opened since [`Proxy::stop_at_request`](super::Proxy::stop_at_request) or
/// [`Proxy::count_requests`](super::Proxy::count_requests), until the next such call. The proxy's other faults leave these connections alone. When this is dropped,
/// they are cut, and what is held is gone.
#[derive(Debug)]
pub struct Steps(pub(super) Arc<Watch>);

impl Steps {
    pub(super) fn new(stop: Option<(usize, Delivery)>) -> Self {
        let watch = Watch::default();
        watch.state().stop = stop;
        Self(Arc::new(watch))
    }

    /// Whether the request to stop at has come: it is held, or the server has answered it.
    pub fn stopped(&self) -> bool {
        self.0.state().reached
    }

    /// How many requests have come.
    pub fn requests(&self) -> usize {
        self.0.state().apis.len()
    }

    /// Which API each of them was of.
    pub fn apis(&self) -> Vec<i16> {
        self.0.state().apis.clone()
    }

    /// Lets what is held go on to the server, whether the client still lives or not.
    pub fn release(&self) {
        self.0.change(|state| state.released = true);
    }

    /// How many connections are open. That of a dead client closes when the server has answered all that was sent.
    pub fn connections(&self) -> usize {
        self.0.state().links.len()
    }
}

impl Drop for Steps {
    fn drop(&mut self) {
        self.0.change(|state| state.over = true);
    }
}

impl Watch {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.state());
        self.changed.notify_all();
        result
    }

    /// Waits until this holds or nobody wants to know any more: then false.
    fn wait(&self, mut until: impl FnMut(&State) -> bool) -> bool {
        let open = |state: &mut State| !state.over && !until(state);
        let state = self.changed.wait_while(self.state(), open).unwrap_or_else(PoisonError::into_inner);
        !state.over
    }

    pub(super) fn is_over(&self) -> bool {
        self.state().over
    }

    pub(super) fn open(&self, link: u64) {
        self.change(|state| state.links.insert(link, Link::default()));
    }

    pub(super) fn close(&self, link: u64) {
        self.change(|state| state.links.remove(&link));
    }

    /// Copies requests until either side ends. A client that dies leaves behind what it has sent.
    pub(super) fn requests(&self, link: u64, mut client: TcpStream, mut server: TcpStream) {
        while let Ok(frame) = read_frame(&mut client) {
            if !self.admit(link, &frame) || server.write_all(&frame).is_err() {
                break;
            }
        }
        self.wait(|state| {
            let all_answered = |link: &Link| link.ended || link.answered >= link.delivered;
            state.links.get(&link).is_none_or(all_answered)
        });
        let _ = server.shutdown(Shutdown::Both);
        let _ = client.shutdown(Shutdown::Both);
    }

    /// Copies answers until the server ends. A client that is dead does not hear them.
    pub(super) fn answers(&self, link: u64, mut server: TcpStream, mut client: TcpStream) {
        while let Ok(frame) = read_frame(&mut server) {
            if self.change(|state| state.answered(link)) {
                let _ = client.write_all(&frame);
            }
        }
        self.change(|state| state.ended(link));
        let _ = client.shutdown(Shutdown::Both);
    }

    /// Counts a request, which waits here while it is held. True: pass it on.
    fn admit(&self, link: u64, frame: &[u8]) -> bool {
        let passes = |state: &State| !state.closed || state.released;
        loop {
            if !self.wait(passes) {
                return false;
            }
            let mut state = self.state();
            // Another one may have stopped everything in between.
            if !passes(&state) {
                continue;
            }
            let held = state.take(link, frame);
            drop(state);
            self.changed.notify_all();
            if held && !self.wait(passes) {
                return false;
            }
            self.change(|state| state.links.entry(link).or_default().delivered += 1);
            return true;
        }
    }
}

impl State {
    /// Counts a request; true: it is to be held.
    fn take(&mut self, link: u64, frame: &[u8]) -> bool {
        let api = frame.get(4..).and_then(|rest| rest.first_chunk()).copied();
        self.apis.push(i16::from_be_bytes(api.unwrap_or([0xff; 2])));
        match self.stop {
            Some((n, delivery)) if n == self.apis.len() => {
                self.closed = true;
                self.reached = delivery == Delivery::Held;
                if delivery == Delivery::Delivered {
                    self.awaited = self.links.get(&link).map(|of| (link, of.delivered + 1));
                }
                delivery == Delivery::Held
            }
            _ => false,
        }
    }

    /// An answer has come; true: it goes on.
    fn answered(&mut self, link: u64) -> bool {
        let of = self.links.entry(link).or_default();
        of.answered += 1;
        self.reached |= self.awaited == Some((link, of.answered));
        !(self.closed && self.stop.is_some_and(|(_, delivery)| delivery == Delivery::Delivered))
    }

    fn ended(&mut self, link: u64) {
        self.links.entry(link).or_default().ended = true;
        self.reached |= self.awaited.is_some_and(|(of, _)| of == link);
    }
}

fn read_frame(from: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let size = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if size > MAX_FRAME {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut frame = length.to_vec();
    frame.resize(4 + size, 0);
    let Some(body) = frame.get_mut(4..) else { return Ok(frame) };
    from.read_exact(body)?;
    Ok(frame)
}
