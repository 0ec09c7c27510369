//! What a server was asked.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hyper::header::HeaderMap;

use super::Head;

/// A request and what became of it.
#[derive(Debug, Clone)]
pub struct Record {
    /// Counts the requests of the server, from 0 on.
    pub number: u64,
    /// As the handler calls it.
    pub operation: &'static str,
    /// `GET`, `PUT`, …
    pub method: String,
    /// The decoded path.
    pub path: String,
    /// The query as it was sent.
    pub query: String,
    /// Its headers.
    pub headers: HeaderMap,
    /// Bytes of the request's body.
    pub bytes_in: u64,
    /// The status that was answered; 0: the client got no answer, because a rule had it so or because it had gone.
    pub status: u16,
    /// Bytes of the answer's body, as far as they were meant to be sent.
    pub bytes_out: u64,
    /// A rule had a hand in it.
    pub fault: bool,
}

impl Record {
    /// The value of a header of the request, if it is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    connections: u64,
    records: Vec<Record>,
    under_way: BTreeMap<&'static str, u64>,
    most: BTreeMap<&'static str, u64>,
}

/// The requests of a server. Clones are the same log. A request is in it before its answer begins.
#[derive(Debug, Clone, Default)]
pub struct Log(Arc<Mutex<State>>);

impl Log {
    /// All requests in the order in which they came.
    pub fn records(&self) -> Vec<Record> {
        let mut records = self.state().records.clone();
        records.sort_by_key(|record| record.number);
        records
    }

    /// Those of one operation, in the order in which they came.
    pub fn of(&self, operation: &str) -> Vec<Record> {
        self.records().into_iter().filter(|record| record.operation == operation).collect()
    }

    /// How many there were of one operation.
    pub fn count(&self, operation: &str) -> u64 {
        self.counts().get(operation).copied().unwrap_or(0)
    }

    /// How many there were of each operation.
    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        let mut counts = BTreeMap::new();
        for record in &self.state().records {
            *counts.entry(record.operation).or_default() += 1;
        }
        counts
    }

    /// How many requests of an operation were under way at the same time at most, from their first byte to their answer's last.
    pub fn most_at_once(&self, operation: &str) -> u64 {
        self.state().most.get(operation).copied().unwrap_or(0)
    }

    /// How many connections were opened.
    pub fn connections(&self) -> u64 {
        self.state().connections
    }

    /// Forgets all of it.
    pub fn clear(&self) {
        let mut state = self.state();
        state.records.clear();
        state.most.clear();
        state.connections = 0;
    }

    pub(super) fn connected(&self) {
        self.state().connections += 1;
    }

    /// Begins a record; it enters the log when the entry is done or dropped.
    pub(super) fn begin(&self, operation: &'static str, head: &Head) -> (Entry, UnderWay) {
        let mut state = self.state();
        let number = state.next;
        state.next += 1;
        let under_way = state.under_way.entry(operation).or_default();
        *under_way += 1;
        let now = *under_way;
        let most = state.most.entry(operation).or_default();
        *most = now.max(*most);
        let record = Record {
            number,
            operation,
            method: head.method.clone(),
            path: head.path.clone(),
            query: head.raw_query.clone(),
            headers: head.headers.clone(),
            bytes_in: 0,
            status: 0,
            bytes_out: 0,
            fault: false,
        };
        drop(state);
        (Entry { log: self.clone(), record: Some(record) }, UnderWay { log: self.clone(), operation })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A record in the making. A client that goes away drops the work on its request, and with it this.
pub(super) struct Entry {
    log: Log,
    record: Option<Record>,
}

impl Entry {
    pub(super) fn note(&mut self, change: impl FnOnce(&mut Record)) {
        if let Some(record) = &mut self.record {
            change(record);
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let Some(record) = self.record.take() {
            self.log.state().records.push(record);
        }
    }
}

/// Lives as long as a request is under way.
pub(super) struct UnderWay {
    log: Log,
    operation: &'static str,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if let Some(count) = self.log.state().under_way.get_mut(self.operation) {
            *count -= 1;
        }
    }
}
