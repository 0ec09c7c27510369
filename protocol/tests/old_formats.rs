//! Messages of the formats 0 and 1, in every codec, seen as batches.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a failure ends the test")]

use bodley_protocol::batch::{self, BatchError, Header, Producer};
use bodley_protocol::codecs::Codec;
use bodley_protocol::merge::Merge;
use bodley_protocol::records::{Payload, RecordsError};
use bodley_protocol::rewrite::rewrite;
use bodley_protocol::sieve::{Fate, Sieve};
use proptest::prelude::*;

mod old;

use old::{Form, OldRecord, mend, message, set};

const CODECS: [Codec; 4] = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4];
/// Where the value of a compressed message of format 1 without a key begins.
const VALUE: usize = 34;

fn forms() -> impl Strategy<Value = Form> {
    (0u8..2, 0usize..4, any::<bool>()).prop_map(|(magic, codec, append)| Form {
        magic,
        codec: CODECS[codec],
        is_append_time: append && magic == 1,
    })
}

fn every_form() -> Vec<Form> {
    let forms = CODECS.into_iter().flat_map(|codec| {
        [(0, false), (1, false), (1, true)].map(|(magic, is_append_time)| Form {
            magic,
            codec,
            is_append_time,
        })
    });
    forms.collect()
}

/// Records at rising offsets, with holes.
fn records() -> impl Strategy<Value = Vec<OldRecord>> {
    let bytes = || proptest::option::of(proptest::collection::vec(any::<u8>(), 0..300));
    let time = prop_oneof![Just(-1i64), 0i64..5000, 0i64..1 << 42];
    let step = prop_oneof![3 => Just(1i64), 1 => 2i64..50];
    (0i64..1 << 40, proptest::collection::vec((step, time, bytes(), bytes()), 1..30)).prop_map(
        |(start, made)| {
            let mut offset = start;
            let record = |(step, timestamp, key, value)| {
                offset += step;
                OldRecord { offset, timestamp, key, value }
            };
            made.into_iter().map(record).collect()
        },
    )
}

/// What a consumer sees of a set.
fn seen(form: Form, records: &[OldRecord]) -> Vec<OldRecord> {
    let time = |record: &OldRecord| match form {
        Form { magic: 0, .. } => -1,
        Form { codec: Codec::None, .. } | Form { is_append_time: false, .. } => record.timestamp,
        _ => records.last().unwrap().timestamp,
    };
    records.iter().map(|record| OldRecord { timestamp: time(record), ..record.clone() }).collect()
}

/// The batches at the head of each other, with their bytes.
fn split(mut bytes: &[u8]) -> Vec<(Header, &[u8])> {
    let mut batches = Vec::new();
    while let Some(header) = batch::view_checked(bytes).unwrap() {
        assert_eq!(batch::view(bytes), Ok(Some(header)));
        batches.push((header, &bytes[..header.size]));
        bytes = &bytes[header.size..];
    }
    assert!(bytes.is_empty());
    batches
}

fn decoded(header: &Header, bytes: &[u8]) -> Result<Vec<OldRecord>, RecordsError> {
    let payload = Payload::unpack(header, bytes)?;
    let records = payload.records().map(|record| {
        let record = record?;
        let body = record.parse_body().unwrap();
        assert!(body.headers.is_empty() && record.attributes == 0);
        let own = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
        let (key, value) = (own(body.key), own(body.value));
        Ok(OldRecord { offset: record.offset, timestamp: record.timestamp, key, value })
    });
    records.collect()
}

proptest! {
    #[test]
    fn a_set_is_seen_as_batches(form in forms(), records in records()) {
        let bytes = set(form, &records);
        let expected = seen(form, &records);
        let batches = split(&bytes);
        prop_assert_eq!(batches.len(), if form.codec == Codec::None { records.len() } else { 1 });
        let mut found = Vec::new();
        for (header, bytes) in batches {
            let own = decoded(&header, bytes).unwrap();
            prop_assert_eq!((header.magic as u8, header.codec()), (form.magic, form.codec.number() as u8));
            prop_assert_eq!(header.is_append_time(), form.is_append_time);
            prop_assert_eq!((header.base_offset, header.last_offset()), (own[0].offset, own.last().unwrap().offset));
            prop_assert_eq!(header.record_count as usize, own.len());
            let times = || own.iter().map(|record| record.timestamp);
            prop_assert_eq!(header.base_timestamp, times().min().unwrap());
            prop_assert_eq!(header.max_timestamp, times().max().unwrap());
            prop_assert_eq!((header.leader_epoch, header.producer_id, header.base_sequence), (-1, -1, -1));
            prop_assert!(header.is_old() && !header.is_control() && !header.is_transactional());
            // The cut tail of a Fetch.
            for cut in [0, 11, 17, 25, bytes.len() - 1] {
                prop_assert_eq!(batch::view_checked(&bytes[..cut.min(bytes.len() - 1)]), Ok(None));
                prop_assert_eq!(batch::view_cut(&bytes[..cut.min(bytes.len() - 1)]), Ok(None));
            }
            let mut copy = bytes.to_vec();
            let nobody = Producer { id: 1, epoch: 2, sequence: 3 };
            prop_assert!(!batch::patch_for_produce(&mut copy, &header, nobody) && copy == bytes);
            found.extend(own);
        }
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn what_is_wanted_becomes_batches_of_today(form in forms(), records in records(), first in 0usize..10, limit in 60usize..20_000) {
        let bytes = set(form, &records);
        let from = records[first.min(records.len() - 1)].offset;
        let sieve = Sieve::of_offsets(from..i64::MAX);
        let expected: Vec<_> = seen(form, &records).into_iter().filter(|record| record.offset >= from).collect();
        let (mut remade, mut merge) = (Vec::new(), Merge::new(limit));
        let (mut gathered, mut is_full) = (0, false);
        for (header, bytes) in split(&bytes) {
            let fate = sieve.fate(&header);
            prop_assert!(fate != Fate::Verbatim);
            prop_assert_eq!(fate == Fate::Skip, header.last_offset() < from);
            if let Some((new, count)) = rewrite(&header, bytes, &sieve).unwrap() {
                let header = batch::view_checked(&new).unwrap().unwrap();
                prop_assert_eq!((header.magic, header.codec(), header.record_count), (2, form.codec.number() as u8, count));
                prop_assert!(!header.has_holes() && !header.is_append_time());
                remade.extend(decoded(&header, &new).unwrap());
            }
            match merge.take(&header, bytes, &sieve).filter(|_| !is_full) {
                Some(count) => gathered += count,
                None => is_full = true,
            }
        }
        let bare = |records: &[OldRecord]| records.iter().map(|r| (r.timestamp, r.key.clone(), r.value.clone())).collect::<Vec<_>>();
        prop_assert_eq!(bare(&remade), bare(&expected));
        if let Some(sealed) = merge.seal().unwrap().filter(|_| gathered > 0 && !is_full) {
            let mut merged = vec![0; sealed.size()];
            prop_assert!(sealed.put(&mut merged));
            let header = batch::view_checked(&merged).unwrap().unwrap();
            prop_assert_eq!(bare(&decoded(&header, &merged).unwrap()), bare(&expected));
        }
    }

    #[test]
    fn a_flipped_bit_is_found(form in forms(), records in records(), at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let mut bytes = set(Form { codec: Codec::Gzip, ..form }, &records);
        let at = 12 + at.index(bytes.len() - 12);
        bytes[at] ^= 1 << bit;
        let found = batch::view_checked(&bytes);
        let is_other = matches!(found, Err(BatchError::UnknownMagic { .. })) || bytes[16] == 2;
        prop_assert!(is_other || matches!(found, Err(BatchError::OldCrc { .. })), "{found:?}");
    }

    #[test]
    fn noise_never_panics(mut noise in proptest::collection::vec(any::<u8>(), 0..200), magic in 0u8..2, attributes in 0u8..16) {
        if noise.len() > 17 {
            let size = noise.len() as i32 - 12;
            noise[..4].fill(0);
            noise[8..12].copy_from_slice(&size.to_be_bytes());
            (noise[16], noise[17]) = (magic, attributes);
            mend(&mut noise);
        }
        if let Ok(Some(header)) = batch::view_checked(&noise) {
            let _ = decoded(&header, &noise);
        }
    }

    /// Whatever lies in a compressed message under a good CRC: an error, or as many records as the header says.
    #[test]
    fn garbled_sets_are_named(form in forms(), records in records(), at in any::<prop::sample::Index>(), value: u8) {
        let magic = form.magic;
        let mut inner = set(Form { codec: Codec::None, ..form }, &records);
        let at = at.index(inner.len());
        inner[at] = value;
        let packed = Codec::Snappy.compress(&inner).unwrap();
        let offset = records.last().unwrap().offset;
        let wrapper = OldRecord { offset, timestamp: 0, key: None, value: Some(packed) };
        let bytes = message(magic, Codec::Snappy.number() as u8, &wrapper);
        match batch::view_checked(&bytes) {
            Ok(header) => {
                let header = header.unwrap();
                let found = decoded(&header, &bytes).unwrap();
                prop_assert_eq!(found.len(), header.record_count as usize);
                prop_assert!(found.is_sorted_by(|a, b| a.offset < b.offset));
                prop_assert_eq!(found.last().unwrap().offset, offset);
            }
            Err(BatchError::Old { .. }) => {}
            Err(other) => prop_assert!(false, "{other}"),
        }
    }
}

fn record(offset: i64, value: &[u8]) -> OldRecord {
    OldRecord { offset, timestamp: 7, key: None, value: Some(value.to_vec()) }
}

fn wrapper(magic: u8, codec: u8, offset: i64, inner: &[u8]) -> Vec<u8> {
    let packed = Codec::from_number(codec).unwrap().compress(inner).unwrap();
    message(magic, codec, &record(offset, &packed))
}

fn what(bytes: &[u8]) -> &'static str {
    match batch::view_checked(bytes) {
        Err(BatchError::Old { what, .. }) => what,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_no_message_set() {
    let plain = message(1, 0, &record(3, b"a"));
    // Compressed twice, of two formats, empty, of a codec that is younger, without a value.
    let twice = wrapper(1, 1, 3, &wrapper(1, 1, 3, &plain));
    assert_eq!(what(&twice), "a compressed message inside of another");
    assert_eq!(what(&wrapper(0, 1, 3, &plain)), "messages of another format inside");
    assert_eq!(what(&wrapper(1, 1, 3, &[])), "a compressed message that holds none");
    assert_eq!(what(&message(1, 4, &record(3, b"a"))), "codec");
    let none = OldRecord { value: None, ..record(3, b"") };
    assert_eq!(what(&message(1, 2, &none)), "a compressed message without a value");
    assert_eq!(what(&message(1, 1, &record(3, b"no gzip"))), "a compressed message that can't be unpacked");
    // Cut, with more behind it, out of order, before all offsets, or not where its last record is.
    assert_eq!(
        what(&wrapper(1, 1, 3, &plain[..plain.len() - 1])),
        "a compressed message that can't be unpacked"
    );
    assert_eq!(
        what(&wrapper(1, 1, 3, &[&plain[..], &[0; 5]].concat())),
        "a compressed message that can't be unpacked"
    );
    let disordered = [message(1, 0, &record(4, b"a")), plain.clone()].concat();
    assert_eq!(what(&wrapper(1, 1, 4, &disordered)), "offsets inside of a compressed message");
    let two = [message(1, 0, &record(0, b"a")), plain].concat();
    assert_eq!(what(&wrapper(1, 1, 2, &two)), "offsets inside of a compressed message");
    let old = message(0, 0, &record(3, b"a"));
    assert_eq!(what(&wrapper(0, 1, 4, &old)), "offsets inside of a compressed message");
    let header = batch::view_checked(&wrapper(1, 1, 9, &two)).unwrap().unwrap();
    assert_eq!((header.base_offset, header.last_offset(), header.record_count), (6, 9, 2));
    // Lengths that lie.
    for at in [VALUE - 8, VALUE - 4] {
        let mut lying = message(1, 0, &record(3, b"abc"));
        lying[at..at + 4].copy_from_slice(&2i32.to_be_bytes());
        mend(&mut lying);
        assert_eq!(what(&lying), "length of key or value");
    }
}

#[test]
fn a_small_message_that_unpacks_to_much() {
    let much = OldRecord { value: Some(vec![0; 64 << 20]), ..record(0, b"") };
    let bytes = wrapper(1, 1, 5, &message(1, 0, &much));
    let header = batch::view_checked(&bytes).unwrap().unwrap();
    assert_eq!((header.record_count, header.base_offset), (1, 5));
    assert!(bytes.len() < 1 << 20);
    // It is not merged, nor is anything kept of it.
    assert_eq!(Merge::new(256 << 10).take(&header, &bytes, &Sieve::of_offsets(0..9)), None);
}

#[test]
fn every_form_is_read_in_raw_blocks_too() {
    // librdkafka and others write no snappy-java framing.
    let inner = message(1, 0, &record(2, b"abc"));
    let raw = snap_raw(&inner);
    let bytes = message(1, 2, &record(2, &raw));
    let (header, bytes) = split(&bytes)[0];
    assert_eq!(decoded(&header, bytes).unwrap(), [record(2, b"abc")]);
    for form in every_form() {
        assert!(!split(&set(form, &[record(2, b"abc")])).is_empty(), "{form:?}");
    }
}

/// A raw snappy block of one literal.
fn snap_raw(bytes: &[u8]) -> Vec<u8> {
    assert!(bytes.len() < 60);
    [&[bytes.len() as u8, (bytes.len() as u8 - 1) << 2][..], bytes].concat()
}
