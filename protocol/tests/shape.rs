//! Answers of every API in every version, as another implementation writes them, are let through and read back; changed ones never
//! make the decoder panic or reserve more memory than they can need.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a failure ends the test")]

mod samples;

use bodley_protocol::frame::decode;
use bodley_protocol::messages::*;
use bodley_protocol::shape::{self, ShapeError};
use bytes::{Bytes, BytesMut};
use kafka_protocol::protocol::{Encodable, HeaderVersion, Message, Request};
use peak_alloc::PeakAlloc;

use samples::Sample;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// What a decoder may reserve at once beyond a multiple of the bytes that it got.
const SLACK: usize = 64 << 10;
/// One byte of a frame becomes so many at most: a struct with a tagged field of two bytes costs a node of a map.
const GROWTH: usize = 256;

fn frame<R>(version: i16, response: &R::Response) -> Vec<u8>
where
    R: Request,
    R::Response: Encodable,
{
    let mut out = BytesMut::new();
    let mut header = ResponseHeader::default().with_correlation_id(77);
    let header_version = R::Response::header_version(version);
    if header_version > 0 {
        header.unknown_tagged_fields.insert(9, Bytes::from_static(b"tag"));
    }
    header.encode(&mut out, header_version).unwrap();
    response.encode(&mut out, version).unwrap();
    out.to_vec()
}

/// Calls `each` with every API and version that the decoder has.
fn every(each: &mut impl Each) {
    fn versions<R>(each: &mut impl Each)
    where
        R: Request,
        R::Response: Sample + PartialEq + std::fmt::Debug,
    {
        let range = R::Response::VERSIONS;
        assert!(range.min <= range.max);
        for version in range.min..=range.max {
            each.version::<R>(version);
        }
    }
    versions::<ProduceRequest>(each);
    versions::<ListOffsetsRequest>(each);
    versions::<MetadataRequest>(each);
    versions::<OffsetCommitRequest>(each);
    versions::<OffsetFetchRequest>(each);
    versions::<FindCoordinatorRequest>(each);
    versions::<DescribeGroupsRequest>(each);
    versions::<ListGroupsRequest>(each);
    versions::<SaslHandshakeRequest>(each);
    versions::<CreateTopicsRequest>(each);
    versions::<InitProducerIdRequest>(each);
    versions::<OffsetForLeaderEpochRequest>(each);
    versions::<AddPartitionsToTxnRequest>(each);
    versions::<EndTxnRequest>(each);
    versions::<WriteTxnMarkersRequest>(each);
    versions::<DescribeConfigsRequest>(each);
    versions::<SaslAuthenticateRequest>(each);
    versions::<IncrementalAlterConfigsRequest>(each);
    versions::<OffsetDeleteRequest>(each);
    versions::<DescribeQuorumRequest>(each);
    versions::<DescribeProducersRequest>(each);
    versions::<DescribeTransactionsRequest>(each);
    versions::<ListTransactionsRequest>(each);
}

trait Each {
    fn version<R>(&mut self, version: i16)
    where
        R: Request,
        R::Response: Sample + PartialEq + std::fmt::Debug;
}

struct ReadBack(usize);

impl Each for ReadBack {
    fn version<R>(&mut self, version: i16)
    where
        R: Request,
        R::Response: Sample + PartialEq + std::fmt::Debug,
    {
        let response = R::Response::sample(version);
        let bytes = frame::<R>(version, &response);
        let name = format!("API {} v{version}", R::KEY);
        assert_eq!(decode::<R>(version, bytes.clone().into()).unwrap(), response, "{name}");
        for cut in 0..bytes.len() {
            assert!(shape::check(R::KEY, version, &bytes[..cut]).is_err(), "{name}, cut at {cut}");
        }
        let longer = [bytes.as_slice(), &[0]].concat();
        assert_eq!(shape::check(R::KEY, version, &longer), Err(ShapeError::LeftOver(1)), "{name}");
        self.0 += 1;
    }
}

struct Mutate {
    rng: fastrand::Rng,
    rounds: usize,
    passed: usize,
    refused: usize,
}

impl Mutate {
    /// Decodes in bounds, whatever comes of it.
    fn try_one<R: Request>(&mut self, version: i16, bytes: Vec<u8>) {
        let allowed = SLACK + GROWTH * bytes.len();
        let before = MEMORY.current_usage();
        MEMORY.reset_peak_usage();
        let result = decode::<R>(version, Bytes::from(bytes.clone()));
        let peak = MEMORY.peak_usage().saturating_sub(before);
        assert!(peak <= allowed, "API {} v{version}: {peak} bytes for {bytes:02x?}", R::KEY);
        if result.is_ok() { self.passed += 1 } else { self.refused += 1 }
    }
}

impl Each for Mutate {
    fn version<R>(&mut self, version: i16)
    where
        R: Request,
        R::Response: Sample + PartialEq + std::fmt::Debug,
    {
        let good = frame::<R>(version, &R::Response::sample(version));
        // Every place as if it were a length.
        let lengths: [&[u8]; 7] = [
            &i32::MAX.to_be_bytes(),
            &(-2i32).to_be_bytes(),
            &i32::MIN.to_be_bytes(),
            &[0x7f, 0xff],
            &[0xff, 0xff, 0xff, 0xff, 0x0f],
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
            &[0x80, 0x80, 0x80, 0x80, 0x80, 0x00],
        ];
        for at in 4..good.len() {
            for length in lengths {
                let mut bytes = good.clone();
                let end = (at + length.len()).min(bytes.len());
                bytes[at..end].copy_from_slice(&length[..end - at]);
                self.try_one::<R>(version, bytes);
            }
        }
        for _ in 0..self.rounds {
            let mut bytes = good.clone();
            for _ in 0..self.rng.usize(1..4) {
                let at = self.rng.usize(0..bytes.len());
                match self.rng.u8(0..4) {
                    0 => bytes[at] = self.rng.u8(..),
                    1 => bytes[at] ^= 1 << self.rng.u8(0..8),
                    2 => bytes.truncate(at.max(1)),
                    _ => bytes.insert(at, *self.rng.choice(&[0, 1, 2, 0x7f, 0x80, 0xff]).unwrap()),
                }
            }
            self.try_one::<R>(version, bytes);
        }
    }
}

/// One test, as memory is counted for the whole process.
#[test]
fn every_api_in_every_version() {
    let mut read = ReadBack(0);
    every(&mut read);
    assert!(read.0 > 90, "{} versions", read.0);

    let soak = std::env::var_os("BODLEY_SOAK").is_some();
    for seed in 0..if soak { 50 } else { 2 } {
        eprintln!("seed {seed}");
        let rng = fastrand::Rng::with_seed(seed);
        let mut mutate = Mutate { rng, rounds: 200, passed: 0, refused: 0 };
        every(&mut mutate);
        assert!(mutate.passed > 1000 && mutate.refused > 10_000, "{} {}", mutate.passed, mutate.refused);
    }
    too_many_elements();
    tags_of_the_wrong_size();
}

/// Elements that each take a few bytes here and hundreds there: more than memory is for.
fn too_many_elements() {
    let topics = |count: u32| {
        // Correlation id, no tags, throttle time, no brokers, no cluster id, controller.
        let mut bytes = vec![0, 0, 0, 77, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0];
        let mut length = count + 1;
        while length >= 0x80 {
            bytes.push(length as u8 | 0x80);
            length >>= 7;
        }
        bytes.push(length as u8);
        // Error, no name, id, not internal, no partitions, operations, no tags.
        bytes.extend((0..count).flat_map(|_| [0u8; 2 + 1 + 16 + 1 + 1 + 4 + 1]));
        bytes.push(0);
        bytes
    };
    assert_eq!(shape::check(MetadataRequest::KEY, 12, &topics(200_000)), Ok(()));
    let bytes = topics(1_000_000);
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    assert_eq!(shape::check(MetadataRequest::KEY, 12, &bytes), Err(ShapeError::TooLarge));
    assert!(MEMORY.peak_usage() - before < SLACK);
}

/// The decoder reads a tagged field that it knows without regard to its size: what follows would be read as something else.
fn tags_of_the_wrong_size() {
    // EndTxn v3 knows no tag; CreateTopics v7 knows tag 0 of a topic as an INT16.
    let topic = |size: u8| {
        let mut bytes = vec![0, 0, 0, 77, 0, 0, 0, 0, 0, 2];
        bytes.extend_from_slice(&[2, b't']);
        bytes.extend_from_slice(&[0; 16]);
        bytes.extend_from_slice(&[0, 0, 0, 0, 0, 0, 1, 0, 1, 1]); // error, message, partitions, replicas, no configs
        bytes.extend_from_slice(&[1, 0, size]);
        bytes.extend(vec![0; size.into()]);
        bytes.push(0);
        bytes
    };
    assert_eq!(shape::check(CreateTopicsRequest::KEY, 7, &topic(2)), Ok(()));
    assert!(shape::check(CreateTopicsRequest::KEY, 7, &topic(1)).is_err());
    assert!(shape::check(CreateTopicsRequest::KEY, 7, &topic(3)).is_err());
}
