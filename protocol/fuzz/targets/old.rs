//! Bytes as a message of format 0 or 1: what it holds, rewritten, merged.

use bodley_protocol::batch::{self, Producer};
use bodley_protocol::checksum::crc32;
use bodley_protocol::merge::Merge;
use bodley_protocol::records::Payload;
use bodley_protocol::rewrite;
use bodley_protocol::sieve::Sieve;

const SIZE: usize = 8;
const CRC: usize = 12;
const MAGIC: usize = 16;

/// One input.
pub fn run(data: &[u8]) {
    if data.len() <= MAGIC || data.len() > 1 << 16 {
        return;
    }
    // Checksum and size would keep the fuzzer out: set them right.
    let mut message = data.to_vec();
    message[MAGIC] &= 1;
    message[SIZE..CRC].copy_from_slice(&((data.len() - CRC) as i32).to_be_bytes());
    let crc = crc32(&message[MAGIC..]);
    message[CRC..MAGIC].copy_from_slice(&crc.to_be_bytes());
    let viewed = batch::view_checked(&message);
    assert_eq!(viewed, batch::view(&message));
    let Ok(Some(header)) = viewed else { return };
    assert!(header.is_old() && header.size == message.len() && header.base_offset >= 0);
    let payload = Payload::unpack(&header, &message).unwrap();
    let (mut count, mut next) = (0, header.base_offset);
    for record in payload.records() {
        let record = record.unwrap();
        assert!(record.offset >= next && record.offset <= header.last_offset());
        assert!(record.timestamp >= header.base_timestamp && record.timestamp <= header.max_timestamp);
        assert!(record.parse_body().unwrap().headers.is_empty());
        (count, next) = (count + 1, record.offset + 1);
    }
    assert_eq!((count, next), (header.record_count, header.last_offset() + 1));
    let all = Sieve::of_offsets(0..i64::MAX);
    let (new, kept) = rewrite::rewrite(&header, &message, &all).unwrap().unwrap();
    let new = batch::view_checked(&new).unwrap().unwrap();
    assert_eq!((new.record_count, kept), (count, count));
    assert!(!new.is_old() && !new.has_holes());
    let mut merge = Merge::new(1 << 16);
    assert!(merge.take(&header, &message, &all).is_none_or(|taken| taken == count));
    assert!(!batch::patch_for_produce(&mut message, &header, Producer { id: 1, epoch: 2, sequence: 3 }));
}
