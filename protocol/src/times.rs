//! The least and the greatest time of a batch's records, from the records' heads alone: no body is looked at, nothing is allocated.
//!
//! The batch header tells only the greatest time: its base timestamp is that of the first record, and deltas may be negative.

use crate::batch::{HEADER_LEN, Header};
use crate::codecs::{Codec, Unpacker};
use crate::wire::{Reader, WireError};

/// Least and greatest time of some records, ms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// No record is older.
    pub least: i64,
    /// No record is newer.
    pub greatest: i64,
}

/// The times in the payload of a batch of format 2, which is not compressed or has been unpacked. `None`: there is no record, or the payload does not hold
/// exactly as many records as the header says. An append time is not looked at.
pub fn span(header: &Header, payload: &[u8]) -> Option<Span> {
    let mut span = Span { least: i64::MAX, greatest: i64::MIN };
    let mut reader = Reader::new(payload);
    for _ in 0..header.record_count {
        let time = header.base_timestamp.wrapping_add(delta(&mut reader).ok()?);
        span = Span { least: span.least.min(time), greatest: span.greatest.max(time) };
    }
    (header.record_count > 0 && reader.remaining() == 0).then_some(span)
}

/// The timestamp delta of the next record, which is passed.
#[inline(always)]
fn delta(reader: &mut Reader<'_>) -> Result<i64, WireError> {
    let length = usize::try_from(reader.varint()?).map_err(|_| WireError::Malformed("record length"))?;
    let mut record = Reader::new(reader.take(length)?);
    record.i8()?;
    record.varlong()
}

/// Unpacks batches only to look at their records' times; what is unpacked is forgotten. Memory is used again from one to the next.
#[derive(Default)]
pub struct Peeker {
    unpacker: Unpacker,
    plain: Vec<u8>,
}

impl Peeker {
    /// The times in `batch`, whose header and CRC have been checked. `None` also when it can't be unpacked, or only to more than `limit` bytes.
    pub fn span(&mut self, header: &Header, batch: &[u8], limit: usize) -> Option<Span> {
        let packed = batch.get(HEADER_LEN..header.size)?;
        match Codec::from_number(header.codec()).ok()? {
            Codec::None => span(header, packed),
            codec => {
                self.unpacker.unpack(codec, packed, limit, &mut self.plain).ok()?;
                span(header, &self.plain)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch;
    use crate::records::Builder;
    use proptest::prelude::*;

    /// A batch of records with these times and bodies of these lengths.
    fn batch_of(codec: Codec, records: &[(i64, usize)]) -> Vec<u8> {
        let mut builder = Builder::new(codec);
        records.iter().for_each(|(time, len)| builder.push(*time, 0, &vec![1; *len]));
        builder.finish().unwrap()
    }

    proptest! {
        #[test]
        fn both_ends_are_true(records in proptest::collection::vec((prop_oneof![Just(-1i64), -5i64..5, any::<i64>()], 0usize..300), 1..40), codec in 0u8..5) {
            let bytes = batch_of(Codec::from_number(codec).unwrap(), &records);
            let header = batch::view_checked(&bytes).unwrap().unwrap();
            let times = || records.iter().map(|(time, _)| *time);
            let expected = Span { least: times().min().unwrap(), greatest: times().max().unwrap() };
            let mut peeker = Peeker::default();
            prop_assert_eq!(peeker.span(&header, &bytes, 1 << 20), Some(expected));
            // Twice, as memory is used again.
            prop_assert_eq!(peeker.span(&header, &bytes, 1 << 20), Some(expected));
            prop_assert!(codec == 0 || peeker.span(&header, &bytes, 2).is_none());
            // More or fewer records than the header says.
            for count in [header.record_count - 1, header.record_count + 1] {
                prop_assert_eq!(peeker.span(&Header { record_count: count, ..header }, &bytes, 1 << 20), None);
            }
        }

        #[test]
        fn noise_never_panics(noise in proptest::collection::vec(any::<u8>(), 0..200), count in 0i32..50, codec in 0i16..8) {
            let header = batch::view(&batch_of(Codec::None, &[(5, 3)])).unwrap().unwrap();
            let bytes = batch::encode(&Header { record_count: count, attributes: codec, ..header }, &noise);
            let header = Header { record_count: count, attributes: codec, size: bytes.len(), ..header };
            let _ = Peeker::default().span(&header, &bytes, 1 << 16);
        }
    }
}
