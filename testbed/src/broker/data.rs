//! Honest answers about logs: Fetch, Produce, ListOffsets, OffsetForLeaderEpoch.

use anyhow::{Context, Result, bail};
use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::fetch_response::{FetchableTopicResponse, PartitionData};
use kafka_protocol::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsTopicResponse,
};
use kafka_protocol::messages::offset_for_leader_epoch_response::{
    EpochEndOffset, OffsetForLeaderTopicResult,
};
use kafka_protocol::messages::produce_response::{PartitionProduceResponse, TopicProduceResponse};
use kafka_protocol::messages::*;
use kafka_protocol::protocol::Request;
use kafka_protocol::records::RecordBatchDecoder;

use super::script::{Call, encode};
use super::world::{CORRUPT_MESSAGE, Log, World};

const OUT_OF_RANGE: i16 = 1;
const UNKNOWN_PARTITION: i16 = 3;
const NOT_LEADER: i16 = 6;
const FENCED_PRODUCER: i16 = 47;
const FROM_FOLLOWERS: i16 = 11;
const EARLIEST: i64 = -2;
/// First Fetch and Produce versions with topic ids.
const WITH_IDS: i16 = 13;

pub(super) fn answer(call: &Call<'_>, world: &mut World) -> Result<Bytes> {
    match call.api {
        ApiKey::Fetch => fetch(call, world),
        ApiKey::Produce => produce(call, world),
        ApiKey::ListOffsets => list_offsets(call, world),
        ApiKey::OffsetForLeaderEpoch => epochs(call, world),
        other => bail!("{other:?} is no request about logs"),
    }
}

fn asked<R: Request>(call: &Call<'_>) -> Result<R> {
    call.request().context("the request cannot be read")
}

/// A Fetch that finds nothing is not answered at once, as on a real broker.
pub(super) fn waits(call: &Call<'_>) -> bool {
    let Some(request) = call.request::<FetchRequest>() else { return false };
    let mut world = call.shared.world();
    !request.topics.iter().any(|topic| {
        let name = world.name_of(topic.topic_id).unwrap_or_else(|| topic.topic.to_string());
        topic.partitions.iter().any(|p| {
            let log = world.log(&name, p.partition as usize);
            log.is_none_or(|log| p.fetch_offset != log.end)
        })
    })
}

/// The partition, if this broker leads it.
fn led<'a>(call: &Call<'_>, world: &'a mut World, topic: &str, partition: i32) -> Result<&'a mut Log, i16> {
    let node = call.node;
    let log = world.log(topic, usize::try_from(partition).unwrap_or(usize::MAX)).ok_or(UNKNOWN_PARTITION)?;
    if log.leader == node { Ok(log) } else { Err(NOT_LEADER) }
}

/// The partition, if this broker may be fetched from: from version 11 on followers, and all brokers are, answer as well.
fn replica<'a>(
    call: &Call<'_>,
    world: &'a mut World,
    topic: &str,
    partition: i32,
) -> Result<&'a mut Log, i16> {
    if call.version < FROM_FOLLOWERS {
        return led(call, world, topic, partition);
    }
    world.log(topic, usize::try_from(partition).unwrap_or(usize::MAX)).ok_or(UNKNOWN_PARTITION)
}

fn fetch(call: &Call<'_>, world: &mut World) -> Result<Bytes> {
    let request: FetchRequest = asked(call)?;
    let mut room = request.max_bytes.max(0) as usize;
    let mut topics = Vec::new();
    for topic in request.topics {
        let name = match call.version >= WITH_IDS {
            true => world.name_of(topic.topic_id).unwrap_or_default(),
            false => topic.topic.to_string(),
        };
        let mut partitions = Vec::new();
        for asked in topic.partitions {
            let data = PartitionData::default().with_partition_index(asked.partition);
            let wanted = room.min(asked.partition_max_bytes.max(0) as usize);
            let data = match replica(call, world, &name, asked.partition) {
                Err(code) => data.with_error_code(code).with_high_watermark(-1),
                Ok(log) if !(log.start..=log.end).contains(&asked.fetch_offset) => {
                    data.with_error_code(OUT_OF_RANGE).with_high_watermark(-1)
                }
                Ok(log) => {
                    let records = read(log, asked.fetch_offset, wanted, room > 0);
                    room = room.saturating_sub(records.len());
                    let data = data.with_high_watermark(log.end).with_last_stable_offset(log.end);
                    let data = if call.version >= 5 { data.with_log_start_offset(log.start) } else { data };
                    data.with_records(Some(records))
                }
            };
            partitions.push(data);
        }
        let answered = FetchableTopicResponse::default().with_partitions(partitions);
        topics.push(match call.version >= WITH_IDS {
            true => answered.with_topic_id(topic.topic_id),
            false => answered.with_topic(topic.topic),
        });
    }
    encode(&FetchResponse::default().with_responses(topics), call.version)
}

/// Batches from the one that holds `offset` on; the first even if it is too large.
fn read(log: &Log, offset: i64, wanted: usize, at_least_one: bool) -> Bytes {
    let mut bytes = BytesMut::new();
    for stored in log.batches.iter().filter(|stored| stored.last >= offset) {
        let first = bytes.is_empty() && at_least_one;
        if !first && bytes.len() + stored.bytes.len() > wanted {
            break;
        }
        bytes.extend_from_slice(&stored.bytes);
    }
    bytes.freeze()
}

fn produce(call: &Call<'_>, world: &mut World) -> Result<Bytes> {
    let request: ProduceRequest = asked(call)?;
    let mut topics = Vec::new();
    for topic in request.topic_data {
        let name = match call.version >= WITH_IDS {
            true => world.name_of(topic.topic_id).unwrap_or_default(),
            false => topic.name.to_string(),
        };
        let mut partitions = Vec::new();
        for data in topic.partition_data {
            let result = stored(call, world, &name, data.index, data.records.unwrap_or_default());
            let answered = PartitionProduceResponse::default().with_index(data.index);
            partitions.push(match result {
                Ok(base) => answered.with_base_offset(base),
                Err(code) => answered.with_error_code(code).with_base_offset(-1),
            });
        }
        let answered = TopicProduceResponse::default().with_partition_responses(partitions);
        topics.push(match call.version >= WITH_IDS {
            true => answered.with_topic_id(topic.topic_id),
            false => answered.with_name(topic.name),
        });
    }
    encode(&ProduceResponse::default().with_responses(topics), call.version)
}

fn stored(call: &Call<'_>, world: &mut World, topic: &str, partition: i32, batch: Bytes) -> Result<i64, i16> {
    let set = RecordBatchDecoder::decode(&mut batch.clone()).map_err(|_| CORRUPT_MESSAGE)?;
    let log = led(call, world, topic, partition)?;
    // A leader knows a newer epoch from what is in its log, and from nothing else.
    if let Some(first) = set.records.first()
        && log.fenced.get(&first.producer_id).is_some_and(|newest| *newest > first.producer_epoch)
    {
        return Err(FENCED_PRODUCER);
    }
    log.produce(batch)
}

fn list_offsets(call: &Call<'_>, world: &mut World) -> Result<Bytes> {
    let request: ListOffsetsRequest = asked(call)?;
    let mut topics = Vec::new();
    for topic in request.topics {
        let mut partitions = Vec::new();
        for asked in topic.partitions {
            let answered =
                ListOffsetsPartitionResponse::default().with_partition_index(asked.partition_index);
            partitions.push(match led(call, world, &topic.name, asked.partition_index) {
                Err(code) => answered.with_error_code(code),
                Ok(log) => {
                    let offset = if asked.timestamp == EARLIEST { log.start } else { log.end };
                    let answered = answered.with_offset(offset);
                    if call.version >= 4 { answered.with_leader_epoch(log.epoch) } else { answered }
                }
            });
        }
        topics.push(ListOffsetsTopicResponse::default().with_name(topic.name).with_partitions(partitions));
    }
    encode(&ListOffsetsResponse::default().with_topics(topics), call.version)
}

fn epochs(call: &Call<'_>, world: &mut World) -> Result<Bytes> {
    let request: OffsetForLeaderEpochRequest = asked(call)?;
    let mut topics = Vec::new();
    for topic in request.topics {
        let mut partitions = Vec::new();
        for asked in topic.partitions {
            let end = EpochEndOffset::default().with_partition(asked.partition);
            partitions.push(match led(call, world, &topic.topic, asked.partition) {
                Err(code) => end.with_error_code(code),
                // Its log is all of one epoch, or so it says.
                Ok(log) => end.with_leader_epoch(asked.leader_epoch.min(log.epoch)).with_end_offset(log.end),
            });
        }
        topics
            .push(OffsetForLeaderTopicResult::default().with_topic(topic.topic).with_partitions(partitions));
    }
    encode(&OffsetForLeaderEpochResponse::default().with_topics(topics), call.version)
}
