//! Bytes as the records of a batch: packed by each codec, and unpacked. First byte: codec, second: number of records.

use bodley_protocol::batch::{self, Header};
use bodley_protocol::codecs::Codec;
use bodley_protocol::records::Payload;

const MAX: usize = 1 << 20;

/// One input.
pub fn run(data: &[u8]) {
    let [codec, count, payload @ ..] = data else { return };
    let codec = codec % 5;
    // What claims to be packed gives no more than asked for.
    if let Ok(known) = Codec::from_number(codec)
        && let Ok(plain) = known.decompress(payload, MAX)
    {
        assert!(plain.len() <= MAX);
    }
    let header = Header {
        magic: 2,
        base_offset: 100,
        size: 0,
        leader_epoch: 0,
        crc: 0,
        attributes: 0,
        last_offset_delta: i32::from(*count),
        base_timestamp: i64::MAX - 5,
        max_timestamp: i64::MAX,
        producer_id: -1,
        producer_epoch: -1,
        base_sequence: -1,
        record_count: i32::from(*count),
    };
    let bytes = batch::encode(&header, payload);
    let header = batch::view_checked(&bytes).unwrap().unwrap();
    let payload = Payload::unpack(&header, &bytes).unwrap();
    let mut seen = 0;
    for record in payload.records().flatten() {
        assert!((100..=100 + i64::from(*count)).contains(&record.offset));
        let _ = record.parse_body();
        seen += 1;
    }
    assert!(seen <= usize::from(*count));
}
