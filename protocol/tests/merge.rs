//! Merged batches, as another decoder sees them, and what is not to be merged.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a failure ends the test")]

use std::ops::Range;

use bodley_protocol::batch::{self, HEADER_LEN, Header, Producer};
use bodley_protocol::codecs::Codec;
use bodley_protocol::merge::Merge;
use bodley_protocol::records::Builder;
use bodley_protocol::sieve::Sieve;
use bodley_protocol::wire::Writer;
use kafka_protocol::records::{Record, RecordBatchDecoder, TimestampType};
use proptest::prelude::*;

const ALL: [Codec; 5] = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];
/// All records with these offsets.
fn wanted(offsets: Range<i64>) -> Sieve {
    Sieve::of_offsets(offsets)
}

fn every() -> Sieve {
    wanted(0..i64::MAX)
}

/// A record as it is made: time, key, value, headers.
type Made = (i64, Option<Vec<u8>>, Option<Vec<u8>>, Vec<(String, Option<Vec<u8>>)>);

fn body((_, key, value, headers): &Made) -> Vec<u8> {
    let mut out = Vec::new();
    let mut put = |bytes: Option<&[u8]>| {
        out.put_varlong(bytes.map_or(-1, |bytes| bytes.len() as i64));
        out.extend_from_slice(bytes.unwrap_or_default());
    };
    put(key.as_deref());
    put(value.as_deref());
    out.put_varlong(headers.len() as i64);
    let mut put = |bytes: Option<&[u8]>| {
        out.put_varlong(bytes.map_or(-1, |bytes| bytes.len() as i64));
        out.extend_from_slice(bytes.unwrap_or_default());
    };
    for (name, value) in headers {
        put(Some(name.as_bytes()));
        put(value.as_deref());
    }
    out
}

/// A batch that begins at `base_offset`, with these attributes beside the codec.
fn batch_of(codec: Codec, base_offset: i64, attributes: i16, records: &[Made]) -> Vec<u8> {
    let mut builder = Builder::new(codec);
    records.iter().for_each(|record| builder.push(record.0, 0, &body(record)));
    let bytes = builder.finish().unwrap();
    let header = batch::view_checked(&bytes).unwrap().unwrap();
    let attributes = header.attributes | attributes;
    batch::encode(&Header { base_offset, attributes, ..header }, &bytes[HEADER_LEN..])
}

fn view(bytes: &[u8]) -> Header {
    batch::view_checked(bytes).unwrap().unwrap()
}

fn take(merge: &mut Merge, bytes: &[u8]) -> Option<i32> {
    merge.take(&view(bytes), bytes, &every())
}

fn sealed(merge: &Merge) -> Vec<u8> {
    let sealed = merge.seal().unwrap().unwrap();
    let mut bytes = vec![0; sealed.size()];
    assert!(!sealed.put(&mut bytes[1..]));
    assert!(bytes.iter().all(|byte| *byte == 0), "what does not fit is not begun");
    assert!(sealed.put(&mut bytes));
    bytes
}

/// The records, by the decoder of another library, which is built without codecs.
fn decoded(bytes: &[u8]) -> Vec<Record> {
    let header = view(bytes);
    let plain =
        Codec::from_number(header.codec()).unwrap().decompress(&bytes[HEADER_LEN..], 1 << 24).unwrap();
    let bytes = batch::encode(&Header { attributes: header.attributes & !7, ..header }, &plain);
    RecordBatchDecoder::decode(&mut bytes::Bytes::from(bytes)).unwrap().records
}

#[track_caller]
fn is_like(found: &Record, made: &Made, offset: i64) {
    let headers: Vec<_> =
        found.headers.iter().map(|(name, value)| (name.to_string(), value.as_deref())).collect();
    let expected: Vec<_> = made.3.iter().map(|(name, value)| (name.clone(), value.as_deref())).collect();
    assert_eq!((found.offset, found.timestamp), (offset, made.0));
    assert_eq!((found.key.as_deref(), found.value.as_deref()), (made.1.as_deref(), made.2.as_deref()));
    assert_eq!(headers, expected);
    assert!(!found.control && !found.transactional && found.timestamp_type == TimestampType::Creation);
}

fn made() -> impl Strategy<Value = Made> {
    let bytes = || proptest::option::of(proptest::collection::vec(any::<u8>(), 0..90));
    // The other library keeps headers in a map: names must differ.
    let headers = proptest::collection::btree_map("[a-z]{0,5}", bytes(), 0..4);
    let time = prop_oneof![0i64..100, 1_700_000_000_000i64..1_700_000_100_000, 0i64..i64::MAX / 4];
    (time, bytes(), bytes(), headers)
        .prop_map(|(time, key, value, headers)| (time, key, value, headers.into_iter().collect()))
}

fn batches() -> impl Strategy<Value = Vec<Vec<Made>>> {
    proptest::collection::vec(proptest::collection::vec(made(), 1..8), 1..12)
}

proptest! {
    #[test]
    fn the_same_records(batches in batches(), codec in 0u8..5, gap in 0i64..3, attributes in 0usize..3) {
        let codec = Codec::from_number(codec).unwrap();
        // Nothing, a transaction's, with a delete horizon.
        let attributes = [0, 1 << 4, 1 << 6][attributes];
        let mut merge = Merge::new(1 << 20);
        let mut offset = 100;
        for records in &batches {
            let bytes = batch_of(codec, offset, attributes, records);
            prop_assert_eq!(take(&mut merge, &bytes), Some(records.len() as i32));
            offset += records.len() as i64 + gap;
        }
        let mut bytes = sealed(&merge);
        let expected = batches.concat();
        let header = view(&bytes);
        prop_assert_eq!(header.size, bytes.len());
        prop_assert_eq!((header.base_offset, header.attributes), (0, codec.number()));
        prop_assert_eq!((header.record_count, header.last_offset_delta + 1), (expected.len() as i32, expected.len() as i32));
        prop_assert_eq!(header.base_timestamp, expected[0].0);
        prop_assert_eq!(header.max_timestamp, expected.iter().map(|record| record.0).max().unwrap());
        batch::patch_for_produce(&mut bytes, &header, Producer { id: 5, epoch: 1, sequence: 9 });
        let found = decoded(&bytes);
        prop_assert_eq!(found.len(), expected.len());
        found.iter().zip(&expected).enumerate().for_each(|(n, (found, made))| is_like(found, made, n as i64));
        // Merged once more it is the same.
        let mut again = Merge::new(1 << 20);
        prop_assert_eq!(take(&mut again, &bytes), Some(expected.len() as i32));
        let patched = view(&bytes);
        batch::patch_for_produce(&mut bytes, &patched, Producer { id: -1, epoch: -1, sequence: -1 });
        prop_assert_eq!(sealed(&again), bytes);
    }

    #[test]
    fn what_is_refused_leaves_no_trace(good in batches(), noise in proptest::collection::vec(any::<u8>(), 0..300),
                                       count in 1i32..9, codec in 0u8..5, cut in 0usize..300) {
        let codec = Codec::from_number(codec).unwrap();
        let (mut merge, mut alone) = (Merge::new(1 << 20), Merge::new(1 << 20));
        for (n, records) in good.iter().enumerate() {
            let bytes = batch_of(codec, 0, 0, records);
            // Noise, and a payload that ends early, under a good CRC.
            let header = Header { record_count: count, last_offset_delta: count - 1, ..view(&bytes) };
            let payload = &bytes[HEADER_LEN..];
            for bad in [&noise[..], &payload[..cut.min(payload.len() - 1)]] {
                let bad = batch::encode(&header, bad);
                let before = alone.seal().unwrap().map(|sealed| sealed.size());
                if take(&mut merge, &bad).is_some() {
                    return Ok(()); // noise that is a batch
                }
                let after = merge.seal().unwrap().map(|sealed| sealed.size());
                prop_assert!(n == 0 || before == after);
            }
            prop_assert!(take(&mut merge, &bytes) == take(&mut alone, &bytes));
        }
        prop_assert_eq!(sealed(&merge), sealed(&alone));
    }
}

fn record(n: i64) -> Made {
    (1000 + n, None, Some(vec![7; 40]), Vec::new())
}

fn ten(codec: Codec, base_offset: i64, attributes: i16) -> Vec<u8> {
    batch_of(codec, base_offset, attributes, &(0..10).map(record).collect::<Vec<_>>())
}

#[test]
fn another_codec_begins_another_batch() {
    for (one, other) in ALL.iter().flat_map(|one| ALL.map(|other| (*one, other))) {
        let mut merge = Merge::new(1 << 20);
        assert_eq!(take(&mut merge, &ten(one, 0, 0)), Some(10));
        assert_eq!(take(&mut merge, &ten(other, 10, 0)), (one == other).then_some(10));
        merge.clear();
        assert_eq!(take(&mut merge, &ten(other, 10, 0)), Some(10));
    }
    let mut unknown = ten(Codec::None, 0, 0);
    let header = Header { attributes: 5, ..view(&unknown) };
    unknown = batch::encode(&header, &unknown[HEADER_LEN..]);
    assert_eq!(take(&mut Merge::new(1 << 20), &unknown), None);
}

#[test]
fn the_limit_holds_to_the_byte() {
    for codec in ALL {
        let all = |codec| (0..8).map(move |n| ten(codec, 10 * n, 0));
        let size = |codec| {
            let mut merge = Merge::new(1 << 20);
            all(codec).for_each(|batch| _ = take(&mut merge, &batch).unwrap());
            sealed(&merge).len()
        };
        let size = size(codec).max(size(Codec::None));
        for (limit, fits) in [(size, true), (size - 1, false)] {
            let mut merge = Merge::new(limit);
            let taken: Vec<bool> = all(codec).map(|batch| take(&mut merge, &batch).is_some()).collect();
            assert_eq!(taken, [true, true, true, true, true, true, true, fits], "{codec:?}");
            assert!(sealed(&merge).len() <= limit);
        }
    }
    // Packing may make it larger.
    let plain = 4 * (500 + 10) + HEADER_LEN;
    let mut merge = Merge::new(plain);
    for n in 0..4 {
        let noise = (n * 500..(n + 1) * 500).map(|n: u32| (n.wrapping_mul(2_654_435_761) >> 13) as u8);
        let noise = batch_of(Codec::Gzip, n.into(), 0, &[(0, None, Some(noise.collect()), Vec::new())]);
        assert_eq!(take(&mut merge, &noise), Some(1));
    }
    assert!(merge.seal().unwrap().is_none_or(|sealed| sealed.size() <= plain));
}

/// A small payload that unpacks to much.
#[test]
fn bombs_are_refused() {
    for codec in ALL {
        let bomb = batch_of(codec, 0, 0, &[(0, None, Some(vec![0; 1 << 20]), Vec::new())]);
        assert_eq!(take(&mut Merge::new(256 << 10), &bomb), None);
        let mut merge = Merge::new(256 << 10);
        take(&mut merge, &ten(codec, 0, 0)).unwrap();
        assert_eq!(take(&mut merge, &bomb), None);
        assert_eq!(view(&sealed(&merge)).record_count, 10);
    }
}

/// Append times, holes and a bound that cuts are dealt with on the way.
#[test]
fn batches_that_can_not_stay_take_part() {
    for codec in ALL {
        let stamped = ten(codec, 100, 1 << 3);
        let mut merge = Merge::new(1 << 20);
        assert_eq!(merge.take(&view(&stamped), &stamped, &wanted(103..108)), Some(5));
        let bytes = ten(codec, 110, 0);
        let holed = Header { last_offset_delta: 30, ..view(&bytes) };
        let holed = batch::encode(&holed, &bytes[HEADER_LEN..]);
        assert_eq!(merge.take(&view(&holed), &holed, &every()), Some(10));
        assert_eq!(merge.take(&view(&bytes), &bytes, &wanted(0..110)), Some(0));
        let found = decoded(&sealed(&merge));
        let times: Vec<i64> = found.iter().map(|record| record.timestamp).collect();
        assert_eq!(times, [vec![1009; 5], (1000..1010).collect()].concat());
    }
}

/// Offsets that go back or stand still: such a batch is for a broker to judge.
#[test]
fn offsets_out_of_order_are_refused() {
    let one = |delta: i64| {
        let body = body(&record(0));
        let mut out = Vec::new();
        out.put_varlong(3 + body.len() as i64);
        out.put_i8(0);
        out.put_varlong(0);
        out.put_varlong(delta);
        [out, body].concat()
    };
    let header = Header { record_count: 2, last_offset_delta: 1, ..view(&ten(Codec::None, 5, 0)) };
    for (deltas, taken) in [([0, 1], Some(2)), ([1, 0], None), ([0, 0], None), ([1, 1], None)] {
        let bytes = batch::encode(&header, &deltas.map(one).concat());
        assert_eq!(take(&mut Merge::new(1 << 20), &bytes), taken, "{deltas:?}");
    }
}

#[test]
fn attributes_of_records_are_kept() {
    let mut builder = Builder::new(Codec::Zstd);
    builder.push(1, -7, &body(&record(0)));
    let bytes = builder.finish().unwrap();
    let mut merge = Merge::new(1 << 20);
    take(&mut merge, &bytes).unwrap();
    take(&mut merge, &bytes).unwrap();
    let bytes = sealed(&merge);
    let payload = bodley_protocol::records::Payload::unpack(&view(&bytes), &bytes).unwrap();
    assert!(payload.records().all(|record| record.unwrap().attributes == -7));
}
