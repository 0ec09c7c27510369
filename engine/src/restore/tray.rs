//! The batches of what was read at once in their part buffer, made ready to leave: patched in place, runs of small ones merged, rewritten where a broker would refuse
//! them.
//!
//! ```text
//! │ ready to leave │ free │ gathered, to be merged │ … │ not looked at yet │ other chunks │
//!                  ^ free                              ^ at                ^ end
//! ```
//! Runs end with their chunk.
//! What is made anew is put where batches lay that are dealt with, so nothing grows beside the buffer. Merged are whole stored batches only: wherever a
//! run is cut, what is done ends where a stored batch ends, and another run goes on from there whether it merges or not.

use std::ops::Range;
use std::sync::Arc;

use bodley_io::Filled;
use bodley_io::kafka::produce::ProducerIdentity;
use bodley_protocol::batch::{self, Header, Producer};
use bodley_protocol::codecs::Codec;
use bodley_protocol::merge::Merge;
use bodley_protocol::records::Payload;
use bodley_protocol::rewrite::rewrite;
use bodley_protocol::sieve::{Fate, Sieve};

use super::stand::Stand;

/// What a merged batch takes at most, bytes: requests of four such did best.
pub const MERGED_LEN: usize = 256 << 10;
/// Uncompressed batches below this are merged, bytes: four at least become one, which costs little more than a copy.
const SMALL: usize = 64 << 10;
/// The same for compressed ones, which are unpacked and packed again: up to some ms for a merged batch. From here on that is no less than what the saved
/// requests cost.
const SMALL_PACKED: usize = 8 << 10;

/// After so many gathered bytes others get a turn.
const MUCH_WORK: usize = 64 << 10;

/// Where so many packed batches of a chunk turned out to be too large, the others are likely to be, and are not unpacked to see.
const MANY_MISSES: u32 = 8;

/// A batch ready to be produced.
#[derive(Debug)]
pub struct Outgoing {
    chunk: Arc<Filled>,
    bytes: Bytes,
    /// Records in it.
    pub records: i32,
    /// Those of them that are stored in message format 0 or 1.
    pub old_records: i32,
    /// Stored batches in it.
    pub batches: u32,
    /// Source offset of the (first) stored batch's first record, for messages.
    pub source: i64,
    /// Offset that its first record gets at the target.
    pub target: i64,
}

#[derive(Debug)]
enum Bytes {
    /// A part of the chunk.
    Placed(Range<usize>),
    /// Made anew, and there was no room for it.
    New(Vec<u8>),
}

impl Outgoing {
    /// The batch.
    pub fn bytes(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Placed(place) => self.chunk.get(place.clone()).unwrap_or_default(),
            Bytes::New(bytes) => bytes,
        }
    }
}

/// What is wanted of a batch.
#[derive(Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Nothing.
    None,
    /// It goes as it is.
    All,
    /// The records with these offsets, in a batch of their own.
    Some(Vec<i64>),
}

/// What became of a batch.
pub struct Taken {
    /// Records of it that leave.
    pub records: i32,
    /// It was the last of many bytes that were looked into: others are to have a turn.
    pub has_worked: bool,
}

/// What was read at once, of which one chunk is being dealt with.
pub struct Tray {
    chunk: Filled,
    /// Which records are wanted of the chunk, and what is added to them.
    sieve: Sieve,
    at: usize,
    /// Of the chunk.
    end: usize,
    /// So far have the chunks not dealt with been moved, to make room.
    moved: usize,
    /// Bytes from `at` on that are batches whose CRC-32C is known to be good.
    checked: usize,
    free: usize,
    merge: Option<Merge>,
    /// So many packed batches were unpacked in vain.
    misses: u32,
    /// Bytes looked into since others had a turn.
    work: usize,
    /// Batches that are gathered in `merge`.
    run: Vec<Source>,
    ready: Vec<Piece>,
    /// So many of these were ready before the chunk.
    before: usize,
}

/// A stored batch that leaves.
#[derive(Clone, Copy)]
struct Source {
    at: usize,
    header: Header,
    /// It can't be sent as it is.
    is_to_be_rewritten: bool,
    records: i32,
    /// Records of the plan before it.
    number: i64,
    producer: Producer,
}

impl Source {
    fn place(&self) -> Range<usize> {
        self.at..self.at + self.header.size
    }

    fn old_records(&self) -> i32 {
        if self.header.is_old() { self.records } else { 0 }
    }
}

/// A batch that leaves.
struct Piece {
    bytes: Bytes,
    records: i32,
    old_records: i32,
    batches: u32,
    source: i64,
    /// Records of the plan before it.
    number: i64,
}

impl Tray {
    /// Of what was read. Small batches are merged up to `merge_up_to` bytes.
    pub fn new(chunk: Filled, merge_up_to: Option<usize>) -> Self {
        let merge = merge_up_to.map(Merge::new);
        let sieve = Sieve { offsets: 0..0, times: None, stamp: None };
        let (run, ready) = (Vec::new(), Vec::new());
        let (at, end, moved, checked, free) = (0, 0, 0, 0, 0);
        Self { chunk, sieve, at, end, moved, checked, free, merge, misses: 0, work: 0, run, ready, before: 0 }
    }

    /// Goes on with the chunk at `place`, which lies behind the last one, and of which `sieve` says what is wanted. The first batches, of `checked` bytes,
    /// have been checked.
    pub fn begin(&mut self, place: Range<usize>, checked: usize, sieve: Sieve) {
        (self.at, self.end) = (place.start + self.moved, place.end + self.moved);
        (self.checked, self.misses, self.sieve) = (checked, 0, sieve);
        self.before = self.ready.len();
    }

    /// Ends the chunk, of which all is dealt with.
    pub fn end_chunk(&mut self) -> Result<(), String> {
        self.close()
    }

    /// Nothing leaves of the chunk.
    pub fn abandon_chunk(&mut self) {
        self.run.clear();
        if let Some(merge) = &mut self.merge {
            merge.clear();
        }
        self.ready.truncate(self.before);
    }

    /// All of the chunk is dealt with.
    pub fn is_at_end(&self) -> bool {
        self.at >= self.end
    }

    /// What is to become of a batch, as far as its header tells.
    pub fn fate(&self, header: &Header) -> Fate {
        self.sieve.fate(header)
    }

    /// From this offset on nothing is wanted.
    pub fn end_of_wanted(&self) -> i64 {
        self.sieve.offsets.end
    }

    /// Something is added to each record.
    pub fn stamps(&self) -> bool {
        self.sieve.stamp.is_some()
    }

    /// The next batch's header; the batch is checked. An error says in words how it is damaged.
    pub fn head(&self) -> Result<Header, String> {
        let rest = self.chunk.get(self.at..self.end).unwrap_or_default();
        let header = if self.checked > 0 { batch::view(rest) } else { batch::view_checked(rest) };
        header.map_err(|e| e.to_string())?.ok_or_else(|| "a batch is cut".to_owned())
    }

    /// What is wanted of the next batch, as its records tell. `fate`: as its header does.
    pub fn wanted(&self, header: &Header, fate: Fate) -> Result<Wanted, String> {
        let batch = self.chunk.get(self.at..self.at + header.size).unwrap_or_default();
        let payload = Payload::unpack(header, batch).map_err(|e| e.to_string())?;
        let mut kept = Vec::new();
        for record in payload.records() {
            let record = record.map_err(|e| e.to_string())?;
            if self.sieve.keeps(&record) {
                kept.push(record.offset);
            }
        }
        Ok(match kept.len() {
            0 => Wanted::None,
            all if fate == Fate::Look && all == header.record_count as usize && !header.has_holes() => {
                Wanted::All
            }
            _ => Wanted::Some(kept),
        })
    }

    /// Nothing leaves of the next batch.
    pub fn skip(&mut self, header: &Header) {
        self.pass(header.size);
    }

    fn pass(&mut self, size: usize) {
        self.at += size;
        self.checked = self.checked.saturating_sub(size);
    }

    /// The next batch leaves; record `number` of the plan is its first. An error says in words how it is damaged.
    pub fn take(
        &mut self,
        header: &Header,
        is_to_be_rewritten: bool,
        stand: &Stand,
        number: i64,
    ) -> Result<Taken, String> {
        let ProducerIdentity { id, epoch } = stand.writer.identity;
        let producer = Producer { id, epoch, sequence: stand.sequence_of(number) };
        let header = *header;
        let mut source = Source { at: self.at, header, is_to_be_rewritten, records: 0, number, producer };
        let mut gathered = self.gather(&header);
        if gathered.is_none() && !self.run.is_empty() {
            self.close()?;
            source.at = self.at;
            gathered = self.gather(&header);
        }
        self.pass(header.size);
        let records = match gathered {
            Some(records) => {
                source.records = records;
                self.run.extend((records > 0).then_some(source));
                records
            }
            None => self.leave_alone(source)?,
        };
        let has_worked = self.work >= MUCH_WORK;
        self.work = if has_worked { 0 } else { self.work };
        Ok(Taken { records, has_worked })
    }

    /// Adds the next batch to those to be merged, if it is small and fits: its records that are wanted.
    fn gather(&mut self, header: &Header) -> Option<i32> {
        let is_packed = header.codec() as i16 != Codec::None.number();
        let small = if is_packed { SMALL_PACKED } else { SMALL };
        let is_wanted = header.size < small && !(is_packed && self.misses >= MANY_MISSES);
        let merge = self.merge.as_mut().filter(|_| is_wanted)?;
        let taken = merge.take(header, self.chunk.get(self.at..self.at + header.size)?, &self.sieve);
        // What was unpacked in vain is not known; some such size it was.
        self.work += if is_packed { MUCH_WORK / 4 } else { header.size };
        self.misses += u32::from(is_packed && taken.is_none() && self.run.is_empty());
        taken
    }

    /// Ends a run of gathered batches.
    fn close(&mut self) -> Result<(), String> {
        let run = std::mem::take(&mut self.run);
        let merged = match run.as_slice() {
            [] => false,
            [only] if !only.is_to_be_rewritten => false,
            [first, ..] => self.put_merged(first, &run)?,
        };
        if let Some(merge) = &mut self.merge {
            merge.clear();
        }
        if !merged {
            for source in &run {
                self.leave_alone(*source)?;
            }
        }
        Ok(())
    }

    /// Puts the merged batch where the batches of `run` lie, the first of which is `first`. `false`: there is no room for it; nothing has changed.
    fn put_merged(&mut self, first: &Source, run: &[Source]) -> Result<bool, String> {
        let Some(merge) = &self.merge else { return Ok(false) };
        let Some(sealed) = merge.seal().map_err(|e| e.to_string())? else { return Ok(false) };
        let size = sealed.size();
        let by = make_room(&mut self.chunk, (self.free, self.at), size);
        (self.at, self.end, self.moved) = (self.at + by, self.end + by, self.moved + by);
        let room = self.chunk.get_mut(self.free..self.at).unwrap_or_default();
        if !sealed.put(room) {
            return Ok(false);
        }
        let place = self.free..self.free + size;
        patch(room, first.producer)?;
        self.free = place.end;
        let records = run.iter().map(|source| source.records).sum();
        let old_records = run.iter().map(Source::old_records).sum();
        let (bytes, batches) = (Bytes::Placed(place), run.len() as u32);
        let (source, number) = (first.header.base_offset, first.number);
        self.ready.push(Piece { bytes, records, old_records, batches, source, number });
        Ok(true)
    }

    /// Makes one batch ready by itself, and says how many records of it leave.
    fn leave_alone(&mut self, mut source: Source) -> Result<i32, String> {
        let (place, header) = (source.place(), source.header);
        let (bytes, records) = if source.is_to_be_rewritten {
            let batch = self.chunk.get(place.clone()).unwrap_or_default();
            let made = rewrite(&header, batch, &self.sieve).map_err(|e| e.to_string())?;
            let Some((mut made, records)) = made else { return Ok(0) };
            patch(&mut made, source.producer)?;
            (self.put_back(made, place), records)
        } else {
            patch(self.chunk.get_mut(place.clone()).unwrap_or_default(), source.producer)?;
            self.free = place.end;
            (Bytes::Placed(place), header.record_count)
        };
        source.records = records;
        let (old_records, number) = (source.old_records(), source.number);
        self.ready.push(Piece {
            bytes,
            records,
            old_records,
            batches: 1,
            source: header.base_offset,
            number,
        });
        Ok(records)
    }

    /// Puts a batch that was made of the one at `place` into the buffer, if there is room.
    fn put_back(&mut self, made: Vec<u8>, place: Range<usize>) -> Bytes {
        let mut end = place.end;
        if end == self.at {
            let by = make_room(&mut self.chunk, (self.free, self.at), made.len());
            (self.at, self.end, self.moved) = (self.at + by, self.end + by, self.moved + by);
            end = self.at;
        }
        let back = self.free..self.free + made.len();
        match self.chunk.get_mut(back.clone()).filter(|_| back.end <= end) {
            Some(room) => {
                room.copy_from_slice(&made);
                self.free = back.end;
                Bytes::Placed(back)
            }
            None => Bytes::New(made),
        }
    }

    /// All that leaves, in order.
    pub fn finish(self, stand: &Stand) -> Vec<Outgoing> {
        let chunk = Arc::new(self.chunk);
        let outgoing = self.ready.into_iter().map(|piece| {
            let Piece { bytes, records, old_records, batches, source, number } = piece;
            let (chunk, target) = (Arc::clone(&chunk), stand.offset_of(number));
            Outgoing { chunk, bytes, records, old_records, batches, source, target }
        });
        outgoing.collect()
    }
}

/// Sees to it, where the buffer is not full, that between `free` and `at` there are `size` bytes: what is made anew may be larger, as deltas may have become
/// longer than the headers that are saved. Returns how far what lies from `at` on has moved.
fn make_room(chunk: &mut Filled, (free, at): (usize, usize), size: usize) -> usize {
    if size > at - free { chunk.spread(at, chunk.len() / 2 + MERGED_LEN) } else { 0 }
}

/// Of a batch that has been checked, or was made here.
fn patch(batch: &mut [u8], producer: Producer) -> Result<(), String> {
    let header = batch::view(batch).ok().flatten();
    let is_patched = header.is_some_and(|header| batch::patch_for_produce(batch, &header, producer));
    if is_patched { Ok(()) } else { Err("a batch has no header".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::restore::scan::{Bare, bare};
    use crate::restore::stand::Writer;
    use bodley_io::BufferPool;
    use bodley_protocol::records::Builder;
    use proptest::prelude::*;

    /// Codec, attributes beside it, times of its records, bytes of their bodies.
    type Batch = (u8, i16, Vec<i64>, usize);

    const APPEND_TIME: i16 = 8;

    fn chunk_of(batches: &[Batch]) -> Vec<u8> {
        let mut chunk = Vec::new();
        let mut base_offset = 7;
        for (codec, attributes, times, len) in batches {
            let mut builder = Builder::new(Codec::from_number(*codec).unwrap());
            for time in times {
                // A null key and null value, or noise in their place: bodies are not looked at.
                let noise = (0..*len).map(|n| (n as i64).wrapping_mul(*time | 1) as u8);
                builder.push(*time, 0, &noise.chain([1, 1, 0]).collect::<Vec<_>>());
            }
            let bytes = builder.finish().unwrap();
            let header = batch::view(&bytes).unwrap().unwrap();
            let attributes = header.attributes | attributes;
            let header = Header { base_offset, attributes, ..header };
            chunk.extend(batch::encode(&header, &bytes[batch::HEADER_LEN..]));
            base_offset = header.last_offset() + 1;
        }
        chunk
    }

    async fn filled(bytes: &[u8], room: usize) -> Filled {
        let pool = BufferPool::new(bytes.len() + room, usize::MAX);
        let mut buf = pool.get(bytes.len()).await.unwrap();
        buf[..bytes.len()].copy_from_slice(bytes);
        Filled::new(buf, 0, bytes.len())
    }

    /// What leaves of a chunk, at a target where it begins at offset 1000.
    async fn outgoing(
        bytes: &[u8],
        room: usize,
        offsets: Range<i64>,
        merge: Option<usize>,
    ) -> Result<Vec<Outgoing>, String> {
        let stand = Stand::fresh(1000, Writer::NOBODY);
        let mut checked = crate::vault::walk::Checked::default();
        checked.advance(bytes);
        let sieve = Sieve::of_offsets(offsets);
        let mut tray = Tray::new(filled(bytes, room).await, merge);
        tray.begin(0..bytes.len(), checked.bytes(), sieve);
        let mut number = 0;
        while !tray.is_at_end() {
            let header = tray.head()?;
            match tray.fate(&header) {
                Fate::Skip => tray.skip(&header),
                fate => {
                    let rewrite = fate != Fate::Verbatim;
                    number += i64::from(tray.take(&header, rewrite, &stand, number)?.records);
                }
            }
        }
        tray.end_chunk()?;
        Ok(tray.finish(&stand))
    }

    fn records(outgoing: &[Outgoing]) -> Vec<Bare> {
        let mut next = 1000;
        let mut records = Vec::new();
        for batch in outgoing {
            assert_eq!(batch.target, next);
            let header = batch::view_checked(batch.bytes()).unwrap().unwrap();
            assert_eq!((header.record_count, header.base_offset), (batch.records, 0));
            assert_eq!(i64::from(header.base_sequence), next - 1000);
            assert!(!header.has_holes() && !header.is_append_time());
            assert_eq!(header.size, batch.bytes().len());
            next += i64::from(batch.records);
            records.extend(bare(batch.bytes()).unwrap());
        }
        records
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().build().unwrap()
    }

    fn batches() -> impl Strategy<Value = Vec<Batch>> {
        let time = prop_oneof![0i64..1000, 0i64..1 << 45];
        let batch = (
            prop_oneof![4 => Just(0u8), 1 => 1u8..5],
            prop_oneof![4 => Just(0), 1 => Just(APPEND_TIME)],
            proptest::collection::vec(time, 1..40),
            prop_oneof![9 => 0usize..100, 1 => 2000usize..3000],
        );
        proptest::collection::vec(batch, 1..40)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        /// Whatever is merged, and whether there is room for it: the same records, whole stored batches, in the buffer.
        #[test]
        fn the_same_records_leave(batches in batches(), room in prop_oneof![Just(0usize), 0usize..100_000],
                                  limit in prop_oneof![60usize..3000, Just(MERGED_LEN)],
                                  first in 0i64..20, last in 20i64..2000) {
            let bytes = chunk_of(&batches);
            let all = |merge| runtime().block_on(outgoing(&bytes, room, first..last, merge)).unwrap();
            let (alone, merged) = (all(None), all(Some(limit)));
            prop_assert_eq!(records(&merged), records(&alone));
            prop_assert!(alone.iter().all(|batch| batch.batches == 1));
            let (mut source, mut ends) = (alone.iter(), 1000);
            for batch in &merged {
                prop_assert!(batch.batches == 1 || batch.bytes().len() <= limit);
                let parts: Vec<_> = source.by_ref().take(batch.batches as usize).collect();
                ends += parts.iter().map(|part| i64::from(part.records)).sum::<i64>();
                prop_assert_eq!(batch.target + i64::from(batch.records), ends);
                prop_assert_eq!(batch.source, parts[0].source);
            }
            prop_assert!(source.next().is_none());
        }

        #[test]
        fn garbled_records_are_judged_as_ever(batches in batches(), at in any::<prop::sample::Index>(),
                                              garbled in any::<prop::sample::Index>(), value: u8) {
            let mut bytes = chunk_of(&batches);
            // One byte of one payload, under a good CRC.
            let (mut from, mut place) = (0, at.index(batches.len()));
            while place > 0 {
                from += batch::declared_size(&bytes[from..]).unwrap();
                place -= 1;
            }
            let header = batch::view(&bytes[from..]).unwrap().unwrap();
            let mut payload = bytes[from + batch::HEADER_LEN..from + header.size].to_vec();
            let garbled = garbled.index(payload.len());
            payload[garbled] = value;
            bytes.splice(from..from + header.size, batch::encode(&header, &payload));
            let all = |merge| runtime().block_on(outgoing(&bytes, 100_000, 0..i64::MAX, merge));
            match (all(None), all(Some(MERGED_LEN))) {
                (Ok(alone), Ok(merged)) => {
                    let count = |all: &[Outgoing]| all.iter().map(|batch| batch.records).sum::<i32>();
                    prop_assert_eq!(count(&alone), count(&merged));
                }
                (Err(alone), Err(merged)) => prop_assert_eq!(alone, merged),
                (alone, merged) => prop_assert!(false, "{alone:?} {merged:?}"),
            }
        }
    }

    /// Twenty records at least are needed for deltas to outgrow a header. Then the room behind the chunk is used.
    #[test]
    fn what_grows_needs_room() {
        let batches: Vec<Batch> = (0..50).map(|n| (0, 0, vec![n << 30; 100], 10)).collect();
        let bytes = chunk_of(&batches);
        let leaving =
            |room| runtime().block_on(outgoing(&bytes, room, 0..i64::MAX, Some(MERGED_LEN))).unwrap();
        let (without, with) = (leaving(0), leaving(100_000));
        assert_eq!((without.len(), with.len()), (50, 1));
        assert_eq!(records(&without), records(&with));
        let tiny = chunk_of(&(0..5000).map(|n| (0, 0, vec![n << 20], 10)).collect::<Vec<_>>());
        let merged = runtime().block_on(outgoing(&tiny, 0, 0..i64::MAX, Some(MERGED_LEN))).unwrap();
        assert_eq!(merged.len(), 1, "single records always fit");
        assert!(merged.iter().all(|batch| matches!(batch.bytes, Bytes::Placed(_))));
    }
}
