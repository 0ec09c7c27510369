//! Adjacent small batches as one large batch of the same codec.
//!
//! A Produce request takes one batch per partition, so a run of tiny batches costs a round trip each. Key, value, headers and attributes of a record
//! are copied as they lie; anew are its length, its timestamp delta and its offset delta. The batches themselves stay as they are until the
//! merged one is put somewhere: what turns out not to fit can still go the usual way.

use crate::batch::{HEADER_LEN, Header};
use crate::codecs::{Codec, CodecError, Unpacker};
use crate::old;
use crate::records::{Builder, Records, Sealed};
use crate::sieve::Sieve;

/// A packed batch takes part if it unpacks to this share of a merged one: fewer than four in one would not be worth it.
const SHARE: usize = 4;

/// Gathers the records of adjacent batches.
pub struct Merge {
    limit: usize,
    builder: Builder,
    unpacker: Unpacker,
    unpacked: Vec<u8>,
}

impl Merge {
    /// A merged batch, header included, takes at most `limit` bytes, packed and unpacked.
    pub fn new(limit: usize) -> Self {
        let (builder, unpacker) = (Builder::new(Codec::None), Unpacker::default());
        Self { limit, builder, unpacker, unpacked: Vec::new() }
    }

    /// Adds the records of `batch` that are wanted, and says how many these are. `None`: nothing was added, since it would become too large,
    /// has another codec than those before, or holds records that can't be read or are out of order. Header and CRC of `batch` have been checked.
    pub fn take(&mut self, header: &Header, batch: &[u8], sieve: &Sieve) -> Option<i32> {
        let codec = Codec::from_number(header.codec()).ok()?;
        if self.builder.is_empty() {
            self.builder.restart(codec);
        }
        let mark = self.builder.mark();
        let taken = if codec == self.builder.codec() { self.add(header, batch, sieve) } else { None };
        if taken.is_none() {
            self.builder.rewind(mark);
        }
        taken
    }

    fn add(&mut self, header: &Header, batch: &[u8], sieve: &Sieve) -> Option<i32> {
        let codec = self.builder.codec();
        let plain = if header.is_old() {
            let limit = if codec == Codec::None { self.limit } else { self.limit / SHARE };
            old::records_to(header, batch, limit, &mut self.unpacked).ok()?;
            &self.unpacked
        } else {
            let packed = batch.get(HEADER_LEN..header.size)?;
            if codec == Codec::None {
                packed
            } else {
                self.unpacker.unpack(codec, packed, self.limit / SHARE, &mut self.unpacked).ok()?;
                &self.unpacked
            }
        };
        let before = self.builder.count();
        let mut last = -1;
        for record in Records::of(header, plain) {
            let record = record.ok()?;
            if record.offset <= last {
                return None;
            }
            last = record.offset;
            if sieve.keeps(&record) {
                sieve.push(&mut self.builder, &record).ok()?;
            }
            if self.builder.len() > self.limit {
                return None;
            }
        }
        Some(self.builder.count() - before)
    }

    /// The merged batch: base offset 0, leader epoch -1, no producer. `None` when packing has made it larger than the limit.
    pub fn seal(&self) -> Result<Option<Sealed<'_>>, CodecError> {
        let sealed = self.builder.seal()?;
        Ok((sealed.size() <= self.limit).then_some(sealed))
    }

    /// Forgets what was taken.
    pub fn clear(&mut self) {
        self.builder.restart(Codec::None);
    }
}
