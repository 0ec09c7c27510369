//! New batches for those that a broker would refuse, and for those of which not every record is wanted. (Which these are: `sieve.rs`.)
//!
//! A leader refuses batches whose record count differs from their offset span (compaction left holes) and clears the append-time
//! bit, which would let times fall back to the deltas, and takes no message of format 0 or 1. A batch that a bound cuts must lose records. These are
//! decoded, filtered and encoded again in their own codec; every other batch stays verbatim.

use crate::batch::Header;
use crate::codecs::Codec;
use crate::records::{Builder, Payload, RecordsError};
use crate::sieve::Sieve;

/// The records of `batch` that are wanted as a new batch (base offset 0, create times) and their number; `None` when none is left. The CRC of `batch` has been checked.
pub fn rewrite(header: &Header, batch: &[u8], sieve: &Sieve) -> Result<Option<(Vec<u8>, i32)>, RecordsError> {
    let payload = Payload::unpack(header, batch)?;
    let mut builder = Builder::new(Codec::from_number(header.codec())?);
    for record in payload.records() {
        let record = record?;
        if sieve.keeps(&record) {
            sieve.push(&mut builder, &record)?;
        }
    }
    let count = builder.count();
    if count == 0 {
        return Ok(None);
    }
    Ok(Some((builder.finish()?, count)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{encode, view_checked};

    fn sample(codec: Codec, attributes: i16) -> (Header, Vec<u8>) {
        let mut builder = Builder::new(codec);
        for i in 0..10u8 {
            builder.push(1000 - i64::from(i), 0, &[1, 2, i, 0]);
        }
        let bytes = builder.finish().unwrap();
        let mut header = view_checked(&bytes).unwrap().unwrap();
        header.base_offset = 100;
        header.attributes |= attributes;
        let bytes = encode(&header, &bytes[crate::batch::HEADER_LEN..]);
        (view_checked(&bytes).unwrap().unwrap(), bytes)
    }

    #[test]
    fn a_cut_batch_keeps_bodies_and_times() {
        for codec in [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
            let (header, bytes) = sample(codec, 0);
            let (cut, count) = rewrite(&header, &bytes, &Sieve::of_offsets(103..108)).unwrap().unwrap();
            assert_eq!(count, 5);
            let new = view_checked(&cut).unwrap().unwrap();
            assert_eq!((new.codec(), new.record_count, new.max_timestamp), (codec.number() as u8, 5, 997));
            let payload = Payload::unpack(&new, &cut).unwrap();
            let records: Vec<_> = payload.records().map(Result::unwrap).collect();
            assert_eq!(records[0].timestamp, 997);
            assert_eq!(records[4].body, &[1, 2, 7, 0]);
            assert!(rewrite(&header, &bytes, &Sieve::of_offsets(0..100)).unwrap().is_none());
        }
    }

    #[test]
    fn append_times_become_create_times() {
        let (header, bytes) = sample(Codec::Lz4, 8);
        let (new, _) = rewrite(&header, &bytes, &Sieve::of_offsets(0..200)).unwrap().unwrap();
        let header = view_checked(&new).unwrap().unwrap();
        assert!(!header.is_append_time());
        let payload = Payload::unpack(&header, &new).unwrap();
        assert!(payload.records().all(|record| record.unwrap().timestamp == 1000));
    }
}
