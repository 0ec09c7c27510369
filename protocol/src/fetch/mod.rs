//! Fetch (v4 to v18), written by hand: the request, and a response parser that never sees record bytes.
//!
//! On the way of a byte: the driver of a connection feeds [`ResponseParser`] the bytes that it has; at
//! [`Step::Records`] it reads that many bytes straight into a part buffer and goes on.
//! Source: the protocol guide, FetchRequest; KIP-516 (topic ids, v13), KIP-595 (diverging epoch, v12), KIP-903 (v15).

mod parser;

pub use parser::{AbortedTransaction, PartitionHead, ResponseParser, Step};

use crate::frame::{self, Head};
use crate::versions::FETCH_TOPIC_ID;
use crate::wire::{Length, WireError, Writer};
use crate::{NO_TOPIC_ID, TopicId};

const API_KEY: i16 = 1;
const FIRST_FLEXIBLE: i16 = 12;
const NO_REPLICA_ID: i16 = 15;
/// First version with sessions (KIP-227).
const SESSIONS: i16 = 7;

/// A Fetch response that can't be parsed. The connection is of no more use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// As the name says.
    #[error("malformed Fetch response: {0}")]
    Wire(WireError),
    /// The frame has another length than its fields.
    #[error("malformed Fetch response: a field reaches past the end of the frame")]
    PastEnd,
    /// Bytes are left when all fields are read.
    #[error("malformed Fetch response: {0} bytes left over")]
    LeftOver(usize),
}

/// What to ask of one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition<'a> {
    /// Name, for versions below 13.
    pub topic: &'a str,
    /// Id, from version 13.
    pub topic_id: TopicId,
    /// Partition.
    pub partition: i32,
    /// First offset wanted, inclusive.
    pub offset: i64,
    /// Leader epoch from Metadata, so that a stale leader refuses (v9+); -1: unchecked.
    pub leader_epoch: i32,
    /// Epoch of the batch before `offset`, so that a rewritten log shows (v12+); -1: unchecked.
    pub last_fetched_epoch: i32,
    /// Bytes wanted at most, unless the first batch alone is larger.
    pub max_bytes: i32,
}

/// Which records a Fetch may bring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// Up to the high watermark.
    Uncommitted,
    /// Up to the last stable offset, with the list of aborted transactions.
    Committed,
}

/// The limits of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// How far.
    pub isolation: Isolation,
    /// How long the broker may wait for `min_bytes`, ms.
    pub max_wait_ms: i32,
    /// Answer as soon as there are so many bytes.
    pub min_bytes: i32,
    /// Bytes of records in the response, unless the first batch alone is larger.
    pub max_bytes: i32,
}

/// A place in a fetch session: the broker remembers what was asked for, and is told only what changes (KIP-227; from version 7 on).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Session {
    /// As the broker gave it; 0: none.
    pub id: i32,
    /// Counts the session's requests: 0 asks for a session, -1 for none.
    pub epoch: i32,
}

impl Session {
    /// Outside of any session: the request says everything.
    pub const NONE: Self = Self { id: 0, epoch: -1 };
    /// The request says everything, and a session is to begin with it.
    pub const NEW: Self = Self { id: 0, epoch: 0 };

    /// The place of the request that follows, in the session of this id.
    pub fn next(self, id: i32) -> Self {
        Self { id, epoch: if self.epoch == i32::MAX { 1 } else { self.epoch + 1 } }
    }
}

/// What a request asks for.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// In a session: those that are new to it or ask for something else now. Partitions of one topic stand together.
    pub partitions: &'a [Partition<'a>],
    /// Those that the session is to forget; of each only the topic and the partition count.
    pub forgotten: &'a [Partition<'a>],
    /// Where in which session.
    pub session: Session,
    /// Topics go by their ids, where the version knows them.
    pub by_id: bool,
}

impl<'a> Asked<'a> {
    /// These, outside of any session.
    pub fn all(partitions: &'a [Partition<'a>]) -> Self {
        let by_id = partitions.iter().all(|partition| partition.topic_id != NO_TOPIC_ID);
        Self { partitions, forgotten: &[], session: Session::NONE, by_id }
    }
}

/// A Fetch request.
pub fn encode(head: Head<'_>, limits: Limits, rack: &str, asked: &Asked<'_>) -> Vec<u8> {
    let version = head.version;
    let flexible = version >= FIRST_FLEXIBLE;
    let mut out = frame::begin(API_KEY, head, flexible);
    if version < NO_REPLICA_ID {
        out.put_i32(-1);
    }
    out.put_i32(limits.max_wait_ms);
    out.put_i32(limits.min_bytes);
    out.put_i32(limits.max_bytes);
    out.put_i8(i8::from(limits.isolation == Isolation::Committed));
    if version >= SESSIONS {
        out.put_i32(asked.session.id);
        out.put_i32(asked.session.epoch);
    }
    let topics = by_topic(asked.partitions);
    out.put_length(Length::of(flexible), Some(topics.len()));
    for topic in topics {
        put_topic(&mut out, version, topic);
    }
    if version >= SESSIONS {
        let topics = by_topic(asked.forgotten);
        out.put_length(Length::of(flexible), Some(topics.len()));
        for topic in topics {
            put_forgotten(&mut out, version, topic);
        }
    }
    if version >= 11 {
        out.put_string(Length::of_string(flexible), rack);
    }
    frame::put_no_tags(&mut out, flexible);
    frame::finish(&mut out, 0);
    out
}

fn by_topic<'a, 'b>(partitions: &'a [Partition<'b>]) -> Vec<&'a [Partition<'b>]> {
    partitions.chunk_by(|a, b| a.topic_id == b.topic_id && a.topic == b.topic).collect()
}

fn put_forgotten(out: &mut Vec<u8>, version: i16, partitions: &[Partition<'_>]) {
    let flexible = version >= FIRST_FLEXIBLE;
    put_name(out, version, partitions);
    out.put_length(Length::of(flexible), Some(partitions.len()));
    for partition in partitions {
        out.put_i32(partition.partition);
    }
    frame::put_no_tags(out, flexible);
}

fn put_name(out: &mut Vec<u8>, version: i16, partitions: &[Partition<'_>]) {
    let Some(first) = partitions.first() else { return };
    if version >= FETCH_TOPIC_ID {
        out.extend_from_slice(&first.topic_id);
    } else {
        out.put_string(Length::of_string(version >= FIRST_FLEXIBLE), first.topic);
    }
}

fn put_topic(out: &mut Vec<u8>, version: i16, partitions: &[Partition<'_>]) {
    let flexible = version >= FIRST_FLEXIBLE;
    put_name(out, version, partitions);
    out.put_length(Length::of(flexible), Some(partitions.len()));
    for partition in partitions {
        out.put_i32(partition.partition);
        if version >= 9 {
            out.put_i32(partition.leader_epoch);
        }
        out.put_i64(partition.offset);
        if version >= FIRST_FLEXIBLE {
            out.put_i32(partition.last_fetched_epoch);
        }
        if version >= 5 {
            out.put_i64(-1); // log start offset, for followers only
        }
        out.put_i32(partition.max_bytes);
        frame::put_no_tags(out, flexible);
    }
    frame::put_no_tags(out, flexible);
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use kafka_protocol::messages::{FetchRequest, RequestHeader};
    use kafka_protocol::protocol::{Decodable, HeaderVersion};

    /// Another implementation reads what we wrote, in every version.
    #[test]
    fn every_version_is_read_back() {
        for version in crate::versions::FETCH.min..=crate::versions::FETCH.max {
            let partition = |topic, id, partition| Partition {
                topic,
                topic_id: [id; 16],
                partition,
                offset: 1 << 40,
                leader_epoch: 5,
                last_fetched_epoch: 4,
                max_bytes: 1000,
            };
            let head = Head { version, correlation_id: 9, client_id: "bodley" };
            let isolation = Isolation::Committed;
            let limits = Limits { isolation, max_wait_ms: 500, min_bytes: 1, max_bytes: 1 << 20 };
            let asked = [partition("a", 1, 0), partition("a", 1, 3), partition("b", 2, 0)];
            let forgotten = [partition("c", 3, 5), partition("c", 3, 6), partition("d", 4, 7)];
            let session = Session::NEW.next(77);
            let asked = Asked { partitions: &asked, forgotten: &forgotten, session, by_id: true };
            let frame = encode(head, limits, "rack-1", &asked);
            assert_eq!(i32::from_be_bytes(frame[..4].try_into().unwrap()) as usize, frame.len() - 4);
            let mut rest = Bytes::from(frame).slice(4..);
            let header = RequestHeader::decode(&mut rest, FetchRequest::header_version(version)).unwrap();
            assert_eq!(header.client_id.unwrap().as_str(), "bodley");
            let body = FetchRequest::decode(&mut rest, version).unwrap();
            assert!(rest.is_empty(), "v{version}");
            assert_eq!((body.max_wait_ms, body.max_bytes, body.isolation_level), (500, 1 << 20, 1));
            assert_eq!(body.topics.len(), 2);
            assert_eq!(body.topics[0].partitions[1].partition, 3);
            assert_eq!(body.topics[0].partitions[1].fetch_offset, 1 << 40);
            if version >= 9 {
                assert_eq!(body.topics[0].partitions[1].current_leader_epoch, 5);
            }
            if version >= SESSIONS {
                assert_eq!((body.session_id, body.session_epoch), (77, 1));
                let gone: Vec<_> = body.forgotten_topics_data.iter().map(|t| t.partitions.clone()).collect();
                assert_eq!(gone, [vec![5, 6], vec![7]]);
            }
            if version >= FETCH_TOPIC_ID {
                assert_eq!(body.forgotten_topics_data[1].topic_id.as_bytes(), &[4; 16]);
                assert_eq!(body.topics[1].topic_id.as_bytes(), &[2; 16]);
            } else {
                assert_eq!(body.topics[1].topic.as_str(), "b");
                assert!(version < SESSIONS || body.forgotten_topics_data[0].topic.as_str() == "c");
            }
        }
    }
}
