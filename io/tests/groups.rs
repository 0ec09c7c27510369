//! Many groups at once: against a real broker, and against ones that answer in part.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a failure ends the test")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bodley_io::kafka::groups::NewOffset;
use bodley_io::kafka::{Address, ClientOptions, Cluster as Client, TopicPartition};
use bodley_protocol::ErrorCode;
use bodley_testbed::broker::Action;
use bodley_testbed::broker::kafka_protocol::messages::{
    ApiKey, ListOffsetsRequest, OffsetCommitRequest, OffsetFetchRequest,
};
use bodley_testbed::workbench::{ProduceOptions, Record};
use bodley_testbed::{Brokers, shared_cluster};

async fn client(bootstrap: &str, give_up_after: Duration) -> Arc<Client> {
    let options = ClientOptions { give_up_after, ..ClientOptions::default() };
    Client::open(Address::parse_list(bootstrap).unwrap(), options).await.unwrap()
}

/// For each group an offset of its own in each partition.
fn offsets(groups: usize, topic: &str, partitions: i32) -> BTreeMap<String, Vec<NewOffset>> {
    let topic: Arc<str> = Arc::from(topic);
    let offset = |group: usize, partition: i32| NewOffset {
        tp: TopicPartition::new(&topic, partition),
        offset: (group as i64) * 1000 + i64::from(partition),
        metadata: Some(format!("of {group}")),
    };
    let of = |group: usize| (0..partitions).rev().map(|partition| offset(group, partition)).collect();
    (0..groups).map(|group| (format!("{topic}-g{group:04}"), of(group))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn offsets_of_many_groups_are_set_read_and_taken_away() {
    let cluster = shared_cluster().unwrap();
    cluster.workbench().unwrap().create_topic("io-groups", 20, &[]).unwrap();
    let client = client(&cluster.bootstrap(), Duration::from_secs(60)).await;
    let new = offsets(120, "io-groups", 20);
    let done = client.commit_groups(&new).await;
    assert!(done.len() == 120 && done.values().all(Result::is_ok), "{done:?}");

    let mut names: Vec<String> = new.keys().cloned().collect();
    names.push("io-groups-absent".into());
    let read = client.groups_offsets(&names).await;
    assert_eq!(read.len(), 121);
    assert!(read["io-groups-absent"].as_ref().unwrap().offsets.is_empty());
    for (group, new) in &new {
        let read = read[group].as_ref().unwrap();
        assert!(!read.unstable && read.offsets.len() == new.len());
        for new in new {
            let found = &read.offsets[&new.tp];
            assert_eq!((found.offset, &found.metadata), (new.offset, &new.metadata), "{group} {}", new.tp);
        }
    }

    let some = |group: &str| {
        let topic: Arc<str> = Arc::from("io-groups");
        (group.to_owned(), (0..5).map(|partition| TopicPartition::new(&topic, partition)).collect())
    };
    let of = BTreeMap::from([some("io-groups-g0000"), some("io-groups-g0001"), some("io-groups-absent")]);
    let done = client.delete_offsets(&of).await;
    assert!(done.len() == 3 && done.values().all(Result::is_ok), "{done:?}");
    let read = client.groups_offsets(&names[..3]).await;
    let left = |group: &str| {
        let offsets = &read[group].as_ref().unwrap().offsets;
        offsets.keys().map(|tp| tp.partition).collect::<Vec<i32>>()
    };
    assert_eq!(left("io-groups-g0000"), (5..20).collect::<Vec<_>>());
    assert_eq!(left("io-groups-g0002").len(), 20);
    let names: BTreeSet<String> = names.into_iter().collect();
    assert_eq!(client.live_groups(&names).await.unwrap(), BTreeSet::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn several_times_of_a_partition() {
    let cluster = shared_cluster().unwrap();
    let bench = cluster.workbench().unwrap();
    bench.create_topic("io-times", 2, &[("retention.ms", "-1")]).unwrap();
    let records: Vec<Record> =
        (0..20).map(|n| Record::new(0).value(format!("{n}")).at(1_000_000 + 10 * n)).collect();
    bench.produce("io-times", &records, &ProduceOptions::default().flush_every(5)).unwrap();
    let client = client(&cluster.bootstrap(), Duration::from_secs(60)).await;
    let topic: Arc<str> = Arc::from("io-times");
    let (full, empty) = (TopicPartition::new(&topic, 0), TopicPartition::new(&topic, 1));
    let times = [-5, 0, 1_000_000, 1_000_005, 1_000_190, 1_000_191];
    let asked: Vec<_> = times.iter().map(|time| (full.clone(), *time)).chain([(empty.clone(), 7)]).collect();
    let answers = client.offsets_for_times(&asked).await;
    assert!(answers.failed.is_empty(), "{answers:?}");
    let found: Vec<_> = times.iter().map(|time| answers.found[&(full.clone(), *time)]).collect();
    assert_eq!(found, [Some(0), Some(0), Some(0), Some(1), Some(19), None]);
    assert_eq!(answers.found[&(empty, 7)], None);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_answer_leaves_out_is_asked_for_again_and_then_an_error() {
    let brokers = Brokers::start(2).unwrap();
    brokers.topic("t", 4);
    let client = client(&brokers.bootstrap(), Duration::from_millis(600)).await;
    let new = offsets(60, "t", 4);
    let done = client.commit_groups(&new).await;
    assert!(done.values().all(Result::is_ok), "{done:?}");

    let names: Vec<String> = new.keys().cloned().collect();
    brokers.script(|call| match call.nth {
        0 => call.edit::<OffsetFetchRequest>(|response| drop(response.groups.pop())),
        1 => call.edit::<OffsetFetchRequest>(|response| response.groups[0].error_code = 14),
        _ => Action::Honest,
    });
    let read = client.groups_offsets(&names).await;
    assert!(read.len() == 60 && read.values().all(|read| read.as_ref().is_ok_and(|r| r.offsets.len() == 4)));
    // Sixty in three requests, and one more for those that failed.
    assert_eq!(brokers.asked(ApiKey::OffsetFetch), 4);

    brokers.script(|call| {
        call.edit::<OffsetFetchRequest>(|response| {
            response.groups.retain(|group| group.group_id.as_str() != "t-g0007");
        })
    });
    let read = client.groups_offsets(&names).await;
    let error = read["t-g0007"].as_ref().unwrap_err().to_string();
    assert!(error.contains("says nothing of t-g0007"), "{error}");
    assert_eq!(read.values().filter(|read| read.is_ok()).count(), 59);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_error_of_one_group_is_no_matter_to_the_others() {
    let brokers = Brokers::start(2).unwrap();
    brokers.topic("t", 4);
    let client = client(&brokers.bootstrap(), Duration::from_millis(600)).await;
    let new = offsets(30, "t", 4);
    brokers.script(|call| {
        let group = call.request::<OffsetCommitRequest>().map(|request| request.group_id.to_string());
        match (group.as_deref(), call.nth) {
            (Some("t-g0003"), _) => call.edit::<OffsetCommitRequest>(|response| {
                response.topics[0].partitions[2].error_code = 25;
            }),
            (Some("t-g0004"), _) => call.edit::<OffsetCommitRequest>(|response| {
                response.topics[0].partitions.truncate(3);
            }),
            (Some(_), 10) => call.edit::<OffsetCommitRequest>(|response| {
                response.topics[0].partitions[0].error_code = 16;
            }),
            (Some(_), 20) => Action::Close,
            _ => Action::Honest,
        }
    });
    let done = client.commit_groups(&new).await;
    assert_eq!(done["t-g0003"].as_ref().unwrap_err().code(), Some(ErrorCode::UNKNOWN_MEMBER_ID));
    assert!(done["t-g0004"].as_ref().unwrap_err().to_string().contains("says nothing of t-3"));
    assert_eq!(done.values().filter(|done| done.is_ok()).count(), 28, "{done:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn impossible_and_missing_offsets_of_times() {
    let brokers = Brokers::start(1).unwrap();
    brokers.topic("t", 2);
    brokers.write("t", 0, 10).unwrap();
    let client = client(&brokers.bootstrap(), Duration::from_millis(400)).await;
    let topic: Arc<str> = Arc::from("t");
    let asked = [0, 1].map(|partition| (TopicPartition::new(&topic, partition), 5));
    brokers.script(|call| {
        call.edit::<ListOffsetsRequest>(|response| {
            for partition in &mut response.topics[0].partitions {
                partition.offset = if partition.partition_index == 0 { -7 } else { -1 };
            }
        })
    });
    let answers = client.offsets_for_times(&asked).await;
    assert_eq!(answers.found.get(&asked[1]), Some(&None), "{answers:?}");
    assert!(answers.failed[&asked[0].0].to_string().contains("impossible offset"), "{answers:?}");
}
