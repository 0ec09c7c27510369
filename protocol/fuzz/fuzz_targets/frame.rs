//! Answers that the kafka-protocol crate decodes: what the check of their shape lets through is decoded without a panic and without
//! more memory than libFuzzer's `-malloc_limit_mb=128` allows. The first two bytes choose API and version.

#![no_main]

use bodley_protocol::frame::decode;
use bodley_protocol::messages::*;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let [api, version, frame @ ..] = input else { return };
    let (version, frame) = (i16::from(version % 16), frame.to_vec().into());
    match api % 17 {
        0 => drop(decode::<ProduceRequest>(version, frame)),
        1 => drop(decode::<ListOffsetsRequest>(version, frame)),
        2 => drop(decode::<MetadataRequest>(version, frame)),
        3 => drop(decode::<OffsetCommitRequest>(version, frame)),
        4 => drop(decode::<OffsetFetchRequest>(version, frame)),
        5 => drop(decode::<FindCoordinatorRequest>(version, frame)),
        6 => drop(decode::<ListGroupsRequest>(version, frame)),
        7 => drop(decode::<SaslHandshakeRequest>(version, frame)),
        8 => drop(decode::<CreateTopicsRequest>(version, frame)),
        9 => drop(decode::<InitProducerIdRequest>(version, frame)),
        10 => drop(decode::<OffsetForLeaderEpochRequest>(version, frame)),
        11 => drop(decode::<AddPartitionsToTxnRequest>(version, frame)),
        12 => drop(decode::<EndTxnRequest>(version, frame)),
        13 => drop(decode::<DescribeConfigsRequest>(version, frame)),
        14 => drop(decode::<SaslAuthenticateRequest>(version, frame)),
        15 => drop(decode::<OffsetDeleteRequest>(version, frame)),
        _ => drop(decode::<IncrementalAlterConfigsRequest>(version, frame)),
    }
});
