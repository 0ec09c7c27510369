//! Writes messages of the formats 0 and 1, as brokers before Kafka 0.11 kept them.

use bodley_protocol::checksum::crc32;
use bodley_protocol::codecs::Codec;

const APPEND_TIME: u8 = 1 << 3;

/// A record; one of format 0 has no time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OldRecord {
    pub offset: i64,
    pub timestamp: i64,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
}

/// How the messages of a set are written.
#[derive(Debug, Clone, Copy)]
pub struct Form {
    pub magic: u8,
    pub codec: Codec,
    /// The broker set the time; that of a set counts for all in it.
    pub is_append_time: bool,
}

/// One message that is not compressed, with these attributes.
pub fn message(magic: u8, attributes: u8, record: &OldRecord) -> Vec<u8> {
    let mut covered = vec![magic, attributes];
    if magic > 0 {
        covered.extend(record.timestamp.to_be_bytes());
    }
    for field in [&record.key, &record.value] {
        let length = field.as_ref().map_or(-1, |field| field.len() as i32);
        covered.extend(length.to_be_bytes());
        covered.extend(field.as_deref().unwrap_or_default());
    }
    let mut out = record.offset.to_be_bytes().to_vec();
    out.extend((covered.len() as i32 + 4).to_be_bytes());
    out.extend(crc32(&covered).to_be_bytes());
    out.extend(covered);
    out
}

/// What a broker keeps of `records`: one message for each, or a compressed one for all.
pub fn set(form: Form, records: &[OldRecord]) -> Vec<u8> {
    let Form { magic, codec, is_append_time } = form;
    let attributes = if is_append_time { APPEND_TIME } else { 0 };
    let Some(last) = records.last().filter(|_| codec != Codec::None) else {
        return records.iter().flat_map(|record| message(magic, attributes, record)).collect();
    };
    // In format 0 the offsets inside are the real ones, in format 1 they count from the first.
    let base = if magic > 0 { records[0].offset } else { 0 };
    let inner = records.iter().map(|record| OldRecord { offset: record.offset - base, ..record.clone() });
    let inner: Vec<u8> = inner.flat_map(|record| message(magic, 0, &record)).collect();
    let timestamp = match is_append_time {
        true => last.timestamp,
        false => records.iter().map(|record| record.timestamp).max().unwrap(),
    };
    let value = Some(pack(magic, codec, &inner));
    let wrapper = OldRecord { offset: last.offset, timestamp, key: None, value };
    message(magic, attributes | codec.number() as u8, &wrapper)
}

fn pack(magic: u8, codec: Codec, inner: &[u8]) -> Vec<u8> {
    let mut packed = codec.compress(inner).unwrap();
    if magic == 0 && codec == Codec::Lz4 {
        // KAFKA-3160: the checksum of flags `70 40` was taken with the frame's magic before them.
        assert_eq!(packed[4..7], [0x70, 0x40, 0xad]);
        packed[6] = 0xec;
    }
    packed
}

/// Puts the right CRC into a message.
pub fn mend(message: &mut [u8]) {
    let crc = crc32(&message[16..]);
    message[12..16].copy_from_slice(&crc.to_be_bytes());
}
