//! The response, as it arrives.

use super::{FETCH_TOPIC_ID, FIRST_FLEXIBLE, FetchError};
use crate::wire::{Length, Reader, WireError};
use crate::{ErrorCode, TopicId};

/// Tag of `DivergingEpoch` in a partition's tagged fields (KIP-595).
const TAG_DIVERGING_EPOCH: u32 = 0;
/// Longest topic name that a broker may send; Kafka's own limit is 249.
const MAX_NAME: usize = 1000;
/// Most aborted transactions in one response; a response of 16 MiB has no room for the batches of so many.
const MAX_ABORTED: usize = 1 << 20;

/// An aborted transaction that overlaps the fetched range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AbortedTransaction {
    /// Its producer.
    pub producer_id: i64,
    /// Offset of its first record in the partition.
    pub first_offset: i64,
}

/// What a response says of a partition before its records.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PartitionHead {
    /// Name, in versions below 13; else empty.
    pub topic: String,
    /// Id, from version 13; else zeros.
    pub topic_id: TopicId,
    /// Partition.
    pub partition: i32,
    /// Raw error code.
    pub error: i16,
    /// Offset behind the last replicated record.
    pub high_watermark: i64,
    /// Offset behind the last record that is decided.
    pub last_stable_offset: i64,
    /// First offset of the log; -1 below v5.
    pub log_start_offset: i64,
    /// Complete for a range that starts inside a transaction.
    pub aborted: Vec<AbortedTransaction>,
    /// Another broker that should be asked; -1: none.
    pub preferred_replica: i32,
    /// Bytes of records that follow.
    pub records_len: usize,
}

impl PartitionHead {
    /// The error code.
    pub fn error_code(&self) -> ErrorCode {
        ErrorCode(self.error)
    }
}

/// What the driver does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Present the unconsumed bytes again, with at least one more.
    More,
    /// Take `records_len` bytes from the stream (the first may be among those not consumed), then go on.
    Records(PartitionHead),
    /// A partition is complete. `Some((epoch, end))`: the log diverged; the leader's largest epoch at or below the one asked for ends at `end`.
    PartitionEnd(Option<(i32, i64)>),
    /// The response is complete.
    End {
        /// How long the broker held the answer back for a quota, ms.
        throttle_ms: i32,
        /// Error of the whole request.
        error: ErrorCode,
        /// Of the fetch session; 0: there is none.
        session: i32,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    Header,
    Partition,
    Topic,
    Response,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    CorrelationId,
    Prelude,
    Topic,
    Partition,
    Aborted { left: usize },
    RecordsLen,
    AfterRecords,
    TagCount(Owner),
    Tag { owner: Owner, left: u32 },
    Skip { owner: Owner, left_tags: u32, bytes: usize },
    PartitionEnd,
    Done,
}

/// Parses one Fetch response of a given version, from its correlation id on (the frame's length has been read).
#[derive(Debug)]
pub struct ResponseParser {
    version: i16,
    remaining: usize,
    state: State,
    correlation_id: i32,
    throttle_ms: i32,
    error: i16,
    session: i32,
    topics_left: usize,
    partitions_left: usize,
    aborted: usize,
    topic: String,
    topic_id: TopicId,
    head: PartitionHead,
    diverging: Option<(i32, i64)>,
}

type Parsed = Result<Option<Step>, WireError>;

impl ResponseParser {
    /// For a frame of `frame_len` bytes.
    pub fn new(version: i16, frame_len: usize) -> Self {
        Self {
            version,
            remaining: frame_len,
            state: State::CorrelationId,
            correlation_id: 0,
            throttle_ms: 0,
            error: 0,
            session: 0,
            topics_left: 0,
            partitions_left: 0,
            aborted: 0,
            topic: String::new(),
            topic_id: [0; 16],
            head: PartitionHead::default(),
            diverging: None,
        }
    }

    /// The correlation id; valid after the first step that consumed bytes.
    pub fn correlation_id(&self) -> i32 {
        self.correlation_id
    }

    /// Bytes of the frame that have not been consumed or taken as records.
    pub fn remaining(&self) -> usize {
        self.remaining
    }

    /// Goes on with `input`; returns how many of its bytes are used up, and what to do.
    pub fn step(&mut self, input: &[u8]) -> Result<(usize, Step), FetchError> {
        let mut consumed = 0;
        loop {
            let rest = input.get(consumed..).unwrap_or_default();
            let visible = rest.get(..self.remaining).unwrap_or(rest);
            let mut reader = Reader::new(visible);
            match self.parse(&mut reader) {
                Ok(step) => {
                    let used = visible.len() - reader.remaining();
                    consumed += used;
                    self.remaining -= used;
                    match step {
                        None => {}
                        Some(Step::End { .. }) if self.remaining > 0 => {
                            return Err(FetchError::LeftOver(self.remaining));
                        }
                        Some(Step::Records(head)) => {
                            self.remaining =
                                self.remaining.checked_sub(head.records_len).ok_or(FetchError::PastEnd)?;
                            return Ok((consumed, Step::Records(head)));
                        }
                        Some(step) => return Ok((consumed, step)),
                    }
                }
                Err(WireError::Short) if visible.len() < self.remaining => return Ok((consumed, Step::More)),
                Err(WireError::Short) => return Err(FetchError::PastEnd),
                Err(error) => return Err(FetchError::Wire(error)),
            }
        }
    }

    fn flexible(&self) -> bool {
        self.version >= FIRST_FLEXIBLE
    }

    /// Reads one section. State is changed only when the whole section was there.
    fn parse(&mut self, reader: &mut Reader<'_>) -> Parsed {
        match self.state {
            State::CorrelationId => {
                self.correlation_id = reader.i32()?;
                self.state = if self.flexible() { State::TagCount(Owner::Header) } else { State::Prelude };
            }
            State::Prelude => self.prelude(reader)?,
            State::Topic => return self.topic(reader),
            State::Partition => return self.partition(reader),
            State::Aborted { left } => return self.aborted(reader, left),
            State::RecordsLen => return self.records_len(reader),
            State::AfterRecords => {
                self.state =
                    if self.flexible() { State::TagCount(Owner::Partition) } else { State::PartitionEnd };
            }
            State::TagCount(owner) => {
                let left = reader.uvarint()?;
                self.state = State::Tag { owner, left };
            }
            State::Tag { owner, left } => self.tag(reader, owner, left)?,
            State::Skip { owner, left_tags, bytes } => {
                let n = bytes.min(reader.remaining().max(1));
                reader.take(n)?;
                self.state = match bytes - n {
                    0 => State::Tag { owner, left: left_tags },
                    bytes => State::Skip { owner, left_tags, bytes },
                };
            }
            State::PartitionEnd => {
                self.state = State::Partition;
                return Ok(Some(Step::PartitionEnd(self.diverging.take())));
            }
            State::Done => return Ok(Some(self.end())),
        }
        Ok(None)
    }

    fn prelude(&mut self, reader: &mut Reader<'_>) -> Result<(), WireError> {
        let throttle_ms = reader.i32()?;
        let (mut error, mut session) = (0, 0);
        if self.version >= 7 {
            (error, session) = (reader.i16()?, reader.i32()?);
        }
        self.topics_left = reader.length(Length::of(self.flexible()))?.unwrap_or(0);
        (self.throttle_ms, self.error, self.session) = (throttle_ms, error, session);
        self.state = State::Topic;
        Ok(())
    }

    fn topic(&mut self, reader: &mut Reader<'_>) -> Parsed {
        let Some(left) = self.topics_left.checked_sub(1) else {
            self.state = if self.flexible() { State::TagCount(Owner::Response) } else { State::Done };
            return Ok(None);
        };
        let flexible = self.flexible();
        if self.version >= FETCH_TOPIC_ID {
            self.topic_id = reader.uuid()?;
        } else {
            let length = reader.length(Length::of_string(flexible))?.unwrap_or(0);
            if length > MAX_NAME {
                return Err(WireError::Malformed("topic name"));
            }
            let name = std::str::from_utf8(reader.take(length)?);
            self.topic = name.map_err(|_| WireError::Malformed("topic name"))?.to_owned();
        }
        self.partitions_left = reader.length(Length::of(flexible))?.unwrap_or(0);
        self.topics_left = left;
        self.state = State::Partition;
        Ok(None)
    }

    fn partition(&mut self, reader: &mut Reader<'_>) -> Parsed {
        let Some(left) = self.partitions_left.checked_sub(1) else {
            self.state = if self.flexible() { State::TagCount(Owner::Topic) } else { State::Topic };
            return Ok(None);
        };
        let head = PartitionHead {
            topic: self.topic.clone(),
            topic_id: self.topic_id,
            partition: reader.i32()?,
            error: reader.i16()?,
            high_watermark: reader.i64()?,
            last_stable_offset: reader.i64()?,
            log_start_offset: if self.version >= 5 { reader.i64()? } else { -1 },
            aborted: Vec::new(),
            preferred_replica: -1,
            records_len: 0,
        };
        let aborted = reader.length(Length::of(self.flexible()))?.unwrap_or(0);
        self.head = head;
        self.partitions_left = left;
        self.state = State::Aborted { left: aborted };
        Ok(None)
    }

    fn aborted(&mut self, reader: &mut Reader<'_>, left: usize) -> Parsed {
        let Some(left) = left.checked_sub(1) else {
            if self.version >= 11 {
                self.head.preferred_replica = reader.i32()?;
            }
            self.state = State::RecordsLen;
            return Ok(None);
        };
        let entry = AbortedTransaction { producer_id: reader.i64()?, first_offset: reader.i64()? };
        if self.flexible() && reader.uvarint()? != 0 {
            return Err(WireError::Malformed("tagged field of an aborted transaction"));
        }
        self.aborted += 1;
        if self.aborted > MAX_ABORTED {
            return Err(WireError::Malformed("number of aborted transactions"));
        }
        self.head.aborted.push(entry);
        self.state = State::Aborted { left };
        Ok(None)
    }

    fn records_len(&mut self, reader: &mut Reader<'_>) -> Parsed {
        let length = reader.length(Length::of(self.flexible()))?.unwrap_or(0);
        let mut head = std::mem::take(&mut self.head);
        head.records_len = length;
        self.state = State::AfterRecords;
        Ok(Some(Step::Records(head)))
    }

    fn tag(&mut self, reader: &mut Reader<'_>, owner: Owner, left: u32) -> Result<(), WireError> {
        let Some(left) = left.checked_sub(1) else {
            self.state = match owner {
                Owner::Header => State::Prelude,
                Owner::Partition => State::PartitionEnd,
                Owner::Topic => State::Topic,
                Owner::Response => State::Done,
            };
            return Ok(());
        };
        let tag = reader.uvarint()?;
        let size = reader.uvarint()? as usize;
        if owner == Owner::Partition && tag == TAG_DIVERGING_EPOCH {
            let mut value = Reader::new(reader.take(size)?);
            let short = |_| WireError::Malformed("diverging epoch");
            self.diverging = Some((value.i32().map_err(short)?, value.i64().map_err(short)?));
            self.state = State::Tag { owner, left };
        } else if size == 0 {
            self.state = State::Tag { owner, left };
        } else {
            self.state = State::Skip { owner, left_tags: left, bytes: size };
        }
        Ok(())
    }

    fn end(&self) -> Step {
        Step::End { throttle_ms: self.throttle_ms, error: ErrorCode(self.error), session: self.session }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::{Bytes, BytesMut};
    use kafka_protocol::messages::fetch_response::{
        AbortedTransaction as Aborted, EpochEndOffset, FetchableTopicResponse, PartitionData,
    };
    use kafka_protocol::messages::{FetchResponse, ResponseHeader, TopicName};
    use kafka_protocol::protocol::{Encodable, HeaderVersion, StrBytes};
    use proptest::prelude::*;

    fn sample(version: i16, records: &[Vec<u8>]) -> Vec<u8> {
        let mut partitions = Vec::new();
        for (i, records) in records.iter().enumerate() {
            let mut data = PartitionData::default()
                .with_partition_index(i as i32)
                .with_error_code(if i == 2 { 6 } else { 0 })
                .with_high_watermark(100 + i as i64)
                .with_last_stable_offset(90)
                .with_records(Some(Bytes::copy_from_slice(records)));
            let aborted = Aborted::default().with_producer_id(7.into()).with_first_offset(40);
            data = data.with_aborted_transactions((i == 1).then(|| vec![aborted.clone(), aborted]));
            if version >= 12 && i == 3 {
                data = data.with_diverging_epoch(EpochEndOffset::default().with_epoch(3).with_end_offset(33));
            }
            partitions.push(data);
        }
        let mut topic = FetchableTopicResponse::default().with_partitions(partitions);
        if version >= 13 {
            topic = topic.with_topic_id(uuid::Uuid::from_u128(1));
        } else {
            topic = topic.with_topic(TopicName(StrBytes::from_static_str("orders")));
        }
        let mut response = FetchResponse::default()
            .with_throttle_time_ms(11)
            .with_session_id(if version >= 7 { 77 } else { 0 })
            .with_responses(vec![topic]);
        if version >= 16 {
            response.unknown_tagged_fields.insert(99, Bytes::from_static(&[1; 300]));
        }
        let mut out = BytesMut::new();
        let header = ResponseHeader::default().with_correlation_id(5);
        header.encode(&mut out, FetchResponse::header_version(version)).unwrap();
        response.encode(&mut out, version).unwrap();
        out.to_vec()
    }

    type Part = (PartitionHead, Vec<u8>, Option<(i32, i64)>);

    #[derive(Debug, PartialEq)]
    struct Seen(Vec<Part>, Step);

    /// Drives the parser with pieces of `piece` bytes.
    fn drive(version: i16, frame: &[u8], piece: usize) -> Result<Seen, FetchError> {
        let mut parser = ResponseParser::new(version, frame.len());
        let (mut from, mut to) = (0, 0);
        let mut seen: Vec<Part> = Vec::new();
        loop {
            let (used, step) = parser.step(&frame[from..to])?;
            from += used;
            match step {
                Step::More => to = (to + piece).min(frame.len()),
                Step::Records(head) => {
                    let records = frame[from..from + head.records_len].to_vec();
                    from += head.records_len;
                    to = to.max(from);
                    seen.push((head, records, None));
                }
                Step::PartitionEnd(diverging) => seen.last_mut().unwrap().2 = diverging,
                end @ Step::End { .. } => return Ok(Seen(seen, end)),
            }
        }
    }

    #[test]
    fn every_version_in_pieces_of_every_size() {
        let records: Vec<Vec<u8>> = vec![vec![1; 10], vec![2; 300], vec![], vec![3; 70_000]];
        for version in crate::versions::FETCH.min..=crate::versions::FETCH.max {
            let frame = sample(version, &records);
            let whole = drive(version, &frame, frame.len()).unwrap();
            let session = if version >= 7 { 77 } else { 0 };
            assert_eq!(whole.1, Step::End { throttle_ms: 11, error: ErrorCode(0), session });
            assert_eq!(whole.0.iter().map(|s| s.1.clone()).collect::<Vec<_>>(), records);
            assert_eq!(whole.0[1].0.aborted.len(), 2);
            assert_eq!(whole.0[2].0.error_code(), ErrorCode::NOT_LEADER_OR_FOLLOWER);
            assert_eq!(whole.0[3].2, (version >= 12).then_some((3, 33)));
            for piece in [1, 2, 3, 7, 19, 64, 1000] {
                assert_eq!(drive(version, &frame, piece).unwrap(), whole, "v{version}, pieces of {piece}");
            }
            assert_eq!(drive(version, &frame[..frame.len() - 1], 16), Err(FetchError::PastEnd));
            let longer = [frame, vec![0]].concat();
            assert_eq!(drive(version, &longer, 16), Err(FetchError::LeftOver(1)));
        }
    }

    #[test]
    fn aborted_transactions_do_not_fill_the_memory() {
        let mut frame = sample(4, &[]);
        frame.truncate(4 + 4); // correlation id, throttle time
        frame.extend_from_slice(&[0, 0, 0, 1, 0, 1, b'a', 0, 0, 0, 1]);
        frame.extend_from_slice(&[0; 4 + 2 + 8 + 8]);
        frame.extend_from_slice(&2_000_000i32.to_be_bytes());
        frame.resize(frame.len() + 32_000_000, 0);
        let error = drive(4, &frame, 32 << 10).unwrap_err();
        assert_eq!(error, FetchError::Wire(WireError::Malformed("number of aborted transactions")));
    }

    proptest! {
        #[test]
        fn hostile_bytes_end_in_an_error_or_an_end(version in 4i16..=18, at in 0usize..400, value: u8, piece in 1usize..50) {
            let mut frame = sample(version, &[vec![1; 10], vec![2; 30], vec![], vec![3; 70]]);
            let at = at % frame.len();
            frame[at] = value;
            let _ = drive(version, &frame, piece);
        }

        #[test]
        fn noise_never_panics(version in 4i16..=18, frame in proptest::collection::vec(any::<u8>(), 0..300), piece in 1usize..50) {
            let _ = drive(version, &frame, piece);
        }
    }
}
