//! Transactions that are open at the source when a backup begins: those that will end are noted, those that hang are errors.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a failure ends the test")]

mod common;

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bodley_io::kafka::cluster::To;
use bodley_io::kafka::produce::ProducerIdentity;
use bodley_io::kafka::{Address, ClientOptions, Cluster as Client, TopicPartition};
use bodley_protocol::StrBytes;
use bodley_protocol::batch::{self, HEADER_LEN, Header};
use bodley_protocol::codecs::Codec;
use bodley_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use bodley_protocol::messages::{ProduceRequest, TopicName, TransactionalId};
use bodley_protocol::records::Builder;
use bodley_testbed::workbench::{ProduceOptions, Record};
use bodley_testbed::{Cluster, ClusterOptions};

use common::site::Site;
use common::vault::Vault;
use common::{list, topics};

const TRANSACTIONAL: i16 = 1 << 4;
/// The last version before brokers add partitions to transactions by themselves (KIP-890).
const PRODUCE_CAP: i16 = 11;
/// What the cluster allows a transaction to last, and how old the records of the tests are: much less than by default.
const LIMIT_MS: u32 = 600_000;
const AGE_MS: i64 = 3_000_000;

fn some_time_ago() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64 - AGE_MS
}

/// Writes records of a transaction that no coordinator knows of, as a producer of an old version did whose request came too late.
async fn leave_hanging(client: &Arc<Client>, topic: &str) -> ProducerIdentity {
    let who = client.init_producer_id().await.unwrap();
    let mut records = Builder::new(Codec::None);
    (0..3).for_each(|_| records.push(some_time_ago(), 0, &[1, 1, 0]));
    let plain = records.finish().unwrap();
    let header = batch::view(&plain).unwrap().unwrap();
    let header = Header {
        attributes: header.attributes | TRANSACTIONAL,
        producer_id: who.id,
        producer_epoch: who.epoch,
        base_sequence: 0,
        ..header
    };
    let name = |text: &str| StrBytes::from_string(text.to_owned());
    let part = PartitionProduceData::default().with_index(0);
    let part = part.with_records(Some(batch::encode(&header, &plain[HEADER_LEN..]).into()));
    let of_topic =
        TopicProduceData::default().with_name(TopicName(name(topic))).with_partition_data(vec![part]);
    let request = ProduceRequest::default()
        .with_transactional_id(Some(TransactionalId(name("hanging"))))
        .with_acks(-1)
        .with_timeout_ms(10_000)
        .with_topic_data(vec![of_topic]);
    let tp = TopicPartition::new(&Arc::from(topic), 0);
    let leader = client.layout().partition(&tp).unwrap().leader.unwrap();
    let response = client.call_once(To::Broker(leader), PRODUCE_CAP, &request).await.unwrap();
    assert_eq!(response.responses[0].partition_responses[0].error_code, 0, "{response:?}");
    who
}

#[test]
fn what_hangs_is_an_error_and_what_is_open_a_note() {
    let options = ClusterOptions::new()
        .set("transaction.partition.verification.enable", "false")
        .set("transaction.max.timeout.ms", &LIMIT_MS.to_string());
    let cluster: &'static Cluster = Box::leak(Box::new(Cluster::start(options).unwrap()));
    let site = Site::at(cluster);
    let (open, hung) = ("still-open", "hung");
    for topic in [open, hung] {
        site.topic(topic, 1);
        site.write(topic, 0, "before", 5);
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let brokers = Address::parse_list(&cluster.bootstrap()).unwrap();
    let client = runtime.block_on(Client::open(brokers, ClientOptions::default())).unwrap();
    let who = runtime.block_on(leave_hanging(&client, hung));
    // As old by its records, but its coordinator knows of it.
    site.bench.begin_with_timeout("alive", &ProduceOptions::default(), LIMIT_MS - 1000).unwrap();
    site.bench.send("alive", open, &[Record::new(0).value("undecided").at(some_time_ago())]).unwrap();
    for topic in [open, hung] {
        site.write(topic, 0, "behind", 5);
    }

    let vault = Vault::new();
    let report = site.backup(&vault, &["--topic", open]).exits(0).json();
    let notes = list(&report, "notes");
    let told =
        |note: &&serde_json::Value| note.as_str().unwrap().contains("still-open-0: the transaction of");
    assert_eq!(notes.iter().filter(told).count(), 1, "{report:#}");
    let transaction = &list(&report, "transactions")[0];
    assert_eq!(
        (transaction["first_offset"].as_i64(), transaction["hanging"].as_bool()),
        (Some(5), Some(false))
    );
    assert!(transaction["age_ms"].as_i64().unwrap() >= AGE_MS, "{report:#}");

    let report = site.backup(&vault, &["--topic", hung]).exits(1).json();
    let errors = list(&report, "errors");
    assert_eq!(errors.len(), 1, "{report:#}");
    assert_eq!(errors[0]["code"], "hanging_transaction");
    assert_eq!((errors[0]["topic"].as_str(), errors[0]["partition"].as_i64()), (Some(hung), Some(0)));
    assert_eq!(errors[0]["offset"], 5);
    let message = errors[0]["message"].as_str().unwrap();
    assert!(message.contains(&format!("producer id {} (epoch {})", who.id, who.epoch)), "{message}");
    assert!(message.contains("10 min") && message.contains("8 offsets"), "{message}");
    let hint = errors[0]["hint"].as_str().unwrap();
    assert!(hint.contains("abort --topic hung --partition 0 --start-offset 5"), "{hint}");
    assert_eq!(topics(&report, hung)[0]["records"], 5, "what lies before it is in the vault");

    // What the command does.
    let tp = TopicPartition::new(&Arc::from(hung), 0);
    runtime.block_on(client.write_markers(who, &[tp])).unwrap();
    site.bench.commit("alive").unwrap();
    site.wait_for_stable_end(open, 12);
    site.wait_for_stable_end(hung, 14);
    let report = site.backup(&vault, &[]).exits(0).json();
    assert!(report.get("transactions").is_none(), "{report:#}");
    assert_eq!(
        (&topics(&report, hung)[0]["records"], &topics(&report, open)[0]["records"]),
        (&5.into(), &6.into())
    );
}
