//! Answers in good form whose words are lies.

use std::time::Duration;

use bodley_testbed::broker::kafka_protocol::messages::api_versions_response::ApiVersion;
use bodley_testbed::broker::kafka_protocol::messages::*;
use bodley_testbed::broker::kafka_protocol::protocol::StrBytes;
use bodley_testbed::broker::{Action, Call};
use bytes::Bytes;

use crate::common::{list, start, topics};
use crate::liar::{ORDERS, RECORDS, Stage, always, each};

/// What a case tells, and what has to be said of it.
struct Lie {
    name: &'static str,
    tell: fn(&Call<'_>) -> Action,
    /// An exit code that fits, and words of the message.
    ends: (i32, &'static str),
}

const fn lie(name: &'static str, tell: fn(&Call<'_>) -> Action, ends: (i32, &'static str)) -> Lie {
    Lie { name, tell, ends }
}

fn play(lies: &[Lie]) {
    each(
        lies,
        |lie| lie.name.to_owned(),
        |lie| {
            let stage = Stage::new();
            stage.brokers.script(lie.tell);
            let (code, words) = lie.ends;
            stage.backup_to(code).says(words);
            stage.recovers();
        },
    );
}

fn text(text: impl Into<String>) -> StrBytes {
    StrBytes::from_string(text.into())
}

fn metadata(call: &Call<'_>, change: impl FnOnce(&mut MetadataResponse)) -> Action {
    call.edit::<MetadataRequest>(change)
}

fn offsets(call: &Call<'_>, change: impl Fn(i64, &mut i64, &mut i16)) -> Action {
    let Some(request) = call.request::<ListOffsetsRequest>() else { return Action::Honest };
    let asked = request.topics[0].partitions[0].timestamp;
    call.edit::<ListOffsetsRequest>(|response| {
        for p in response.topics.iter_mut().flat_map(|topic| &mut topic.partitions) {
            change(asked, &mut p.offset, &mut p.error_code);
        }
    })
}

fn fetched(call: &Call<'_>, change: impl Fn(&mut fetch_response::PartitionData)) -> Action {
    call.edit::<FetchRequest>(|response| {
        response.responses.iter_mut().flat_map(|topic| &mut topic.partitions).for_each(change);
    })
}

const ABOUT_THE_CLUSTER: &[Lie] = &[
    lie("port 0", |c| metadata(c, |m| m.brokers[0].port = 0), (1, "port 0")),
    lie("port 65536", |c| metadata(c, |m| m.brokers[0].port = 65_536), (1, "port 65536")),
    lie("a negative port", |c| metadata(c, |m| m.brokers[1].port = -9), (1, "port -9")),
    lie("no host", |c| metadata(c, |m| m.brokers[0].host = text("")), (1, "advertises")),
    lie(
        "a host of 30 KB",
        |c| metadata(c, |m| m.brokers[0].host = text("h".repeat(30_000))),
        (1, "30000 bytes"),
    ),
    lie(
        "a host with escape codes",
        |c| metadata(c, |m| m.brokers[0].host = text("a\u{1b}[2J")),
        (1, "advertises"),
    ),
    lie(
        "a host that does not exist",
        |c| {
            metadata(c, |m| {
                m.brokers.iter_mut().for_each(|broker| broker.host = text("no-such-host.invalid"));
            })
        },
        (1, "no-such-host.invalid"),
    ),
    lie("no brokers", |c| metadata(c, |m| m.brokers.clear()), (1, "names no broker")),
    lie(
        "a cluster id with escape codes",
        |c| metadata(c, |m| m.cluster_id = Some(text("\u{9b}2J"))),
        (1, "impossible id"),
    ),
    lie(
        "a topic above the vault",
        |c| metadata(c, |m| m.topics[0].name = Some(TopicName(text("../../etc")))),
        (1, "../../etc"),
    ),
    lie(
        "a topic with escape codes",
        |c| metadata(c, |m| m.topics[0].name = Some(TopicName(text("\u{1b}]0;x\u{7}")))),
        (1, "impossible topic"),
    ),
    lie(
        "no leaders",
        |c| {
            metadata(c, |m| {
                m.topics[0].partitions.iter_mut().for_each(|p| p.leader_id = BrokerId(-1));
            })
        },
        (1, "orders-0"),
    ),
    lie(
        "leaders that are not there",
        |c| {
            metadata(c, |m| {
                m.topics[0].partitions.iter_mut().for_each(|p| p.leader_id = BrokerId(99));
            })
        },
        (1, "broker 99"),
    ),
    lie(
        "leaders that change each time",
        |c| {
            metadata(c, |m| {
                for p in &mut m.topics[0].partitions {
                    p.leader_id = BrokerId((p.partition_index + c.nth as i32 + 1) % 2);
                }
            })
        },
        (0, ORDERS),
    ),
    lie(
        "partitions with wrong numbers",
        |c| {
            metadata(c, |m| {
                m.topics[0].partitions.iter_mut().for_each(|p| p.partition_index = -7);
            })
        },
        (1, "orders-0"),
    ),
    lie(
        "a partition twice",
        |c| metadata(c, |m| m.topics[0].partitions[1].partition_index = 0),
        (1, "orders-1"),
    ),
    lie("an unknown error", |c| metadata(c, |m| m.topics[0].error_code = 31_999), (0, ORDERS)),
    lie("a topic without partitions", |c| metadata(c, |m| m.topics[0].partitions.clear()), (1, "orders")),
    lie(
        "a topic that is not to be seen",
        |c| {
            metadata(c, |m| {
                m.topics[0].error_code = 29;
                m.topics[0].partitions.clear();
            })
        },
        (1, "TOPIC_AUTHORIZATION_FAILED"),
    ),
];

#[test]
fn about_the_cluster() {
    play(ABOUT_THE_CLUSTER);
}

const ABOUT_VERSIONS_SETTINGS_AND_GROUPS: &[Lie] = &[
    lie(
        "no common versions",
        |c| {
            c.edit::<ApiVersionsRequest>(|r| {
                r.api_keys.iter_mut().for_each(|api| (api.min_version, api.max_version) = (500, 600));
            })
        },
        (1, "500..600"),
    ),
    lie(
        "ranges upside down",
        |c| {
            c.edit::<ApiVersionsRequest>(|r| {
                r.api_keys.iter_mut().for_each(|api| (api.min_version, api.max_version) = (9, -9));
            })
        },
        (1, "this program"),
    ),
    lie(
        "thousands of APIs",
        |c| {
            c.edit::<ApiVersionsRequest>(|r| {
                r.api_keys = (0..9000).map(|key| ApiVersion::default().with_api_key(key)).collect();
            })
        },
        (1, "127.0.0.1"),
    ),
    lie(
        "an error about settings",
        |c| {
            c.edit::<DescribeConfigsRequest>(|r| {
                r.results[0].error_code = 29;
                r.results[0].error_message = Some(text("no\u{1b}[31m".repeat(5000)));
            })
        },
        (1, ORDERS),
    ),
    lie(
        "an unknown error of groups",
        |c| c.edit::<ListGroupsRequest>(|r| r.error_code = 12_345),
        (1, "12345"),
    ),
    lie(
        "a coordinator that is not there",
        |c| c.edit::<FindCoordinatorRequest>(|r| r.node_id = BrokerId(77)),
        (1, "readers"),
    ),
    lie("never a coordinator", |c| c.edit::<FindCoordinatorRequest>(|r| r.error_code = 15), (1, "readers")),
    lie(
        "a coordinator that denies it",
        |c| c.edit::<OffsetFetchRequest>(|r| r.groups[0].error_code = 16),
        (1, "readers"),
    ),
];

#[test]
fn about_versions_settings_and_groups() {
    play(ABOUT_VERSIONS_SETTINGS_AND_GROUPS);
}

const ABOUT_OFFSETS: &[Lie] = &[
    lie("negative ends", |c| offsets(c, |_, offset, _| *offset = -5), (1, "orders-")),
    lie("the least number", |c| offsets(c, |_, offset, _| *offset = i64::MIN), (1, "orders-")),
    lie(
        "starts behind ends",
        |c| {
            offsets(c, |asked, offset, _| {
                *offset = if asked == -2 { i64::MAX } else { 3 };
            })
        },
        (1, "begins at offset"),
    ),
    lie(
        "ends that never come",
        |c| {
            offsets(c, |asked, offset, _| {
                *offset = if asked == -2 { 0 } else { i64::MAX };
            })
        },
        (1, "orders-"),
    ),
    lie("an unknown error", |c| offsets(c, |_, _, error| *error = 31_999), (1, "31999")),
    lie("another leader for ever", |c| offsets(c, |_, _, error| *error = 6), (1, "NOT_LEADER")),
    lie(
        "another topic",
        |c| c.edit::<ListOffsetsRequest>(|r| r.topics[0].name = TopicName(text("other"))),
        (1, "orders-"),
    ),
];

#[test]
fn about_offsets() {
    play(ABOUT_OFFSETS);
}

const ABOUT_RECORDS: &[Lie] = &[
    lie("another leader for ever", |c| fetched(c, |p| p.error_code = 6), (1, "NOT_LEADER")),
    lie("an unknown error", |c| fetched(c, |p| p.error_code = 31_999), (1, "31999")),
    lie("out of range", |c| fetched(c, |p| p.error_code = 1), (1, "orders-")),
    lie("another partition", |c| fetched(c, |p| p.partition_index += 40), (1, "not asked for")),
    lie("a negative partition", |c| fetched(c, |p| p.partition_index = -1), (1, "not asked for")),
    lie("nothing at all", |c| c.edit::<FetchRequest>(|r| r.responses.clear()), (1, "orders-")),
    lie("no records", |c| fetched(c, |p| (p.records, p.last_stable_offset) = (None, 5)), (1, "orders-")),
    lie(
        "part of a batch for ever",
        |c| {
            fetched(c, |p| {
                p.records = p.records.as_ref().map(|records| records.slice(..records.len().min(40)));
            })
        },
        (1, "orders-"),
    ),
    lie(
        "throttled for ever",
        |c| {
            c.edit::<FetchRequest>(|r| {
                r.throttle_time_ms = i32::MAX;
                r.responses.iter_mut().flat_map(|t| &mut t.partitions).for_each(|p| p.records = None);
            })
        },
        (1, "orders-"),
    ),
    lie(
        "negative throttle time",
        |c| {
            c.edit::<FetchRequest>(|r| {
                r.throttle_time_ms = i32::MIN;
                r.responses.iter_mut().flat_map(|t| &mut t.partitions).for_each(|p| p.records = None);
            })
        },
        (1, "orders-"),
    ),
    lie("an error of the whole", |c| c.edit::<FetchRequest>(|r| r.error_code = 71), (1, "orders-")),
];

#[test]
fn about_records() {
    play(ABOUT_RECORDS);
}

/// What is good is taken, the rest is not, and nothing is taken twice.
#[test]
fn a_partition_twice_in_one_answer() {
    let stage = Stage::new();
    stage.brokers.script(always(ApiKey::Fetch, |call| {
        call.edit::<FetchRequest>(|response| {
            for topic in &mut response.responses {
                let twice = topic.partitions.clone();
                topic.partitions.extend(twice);
            }
        })
    }));
    let ran = stage.backup();
    let records = stage.vault.verified()["records"].as_u64().unwrap();
    assert!(ran.code == Some(1) || records == 3 * RECORDS as u64, "{ran}");
    stage.recovers();
}

/// 60 MB of aborted transactions, and a batch that says to have 2 GB.
#[test]
fn memory_is_not_for_the_asking() {
    let stage = Stage::new();
    stage.brokers.script(always(ApiKey::Fetch, |call| {
        fetched(call, |partition| {
            let one = fetch_response::AbortedTransaction::default().with_first_offset(3);
            partition.aborted_transactions = Some(vec![one; 3 << 20]);
        })
    }));
    stage.backup().exits(1).says("aborted transactions");
    stage.brokers.script(always(ApiKey::Fetch, |call| {
        call.mangle(false, |frame| {
            // The batch's length, and that of the records before it, and of the frame.
            frame.splice(0..4, i32::MAX.to_be_bytes());
        })
    }));
    stage.backup().exits(1).says("2147483647 bytes");
    stage.recovers();
}

/// Hundreds of groups, each of which could be waited for.
#[test]
fn many_groups_without_a_coordinator() {
    let stage = Stage::new();
    stage.brokers.world(|world| {
        let one = world.groups["readers"].clone();
        world.groups.extend((0..400).map(|n| (format!("readers-{n}"), one.clone())));
    });
    stage.brokers.script(|call| call.edit::<FindCoordinatorRequest>(|response| response.error_code = 15));
    let ran = stage.backup().exits(1).says("readers-399");
    assert_eq!(ran.json()["records"], 3 * RECORDS);
    stage.recovers();
}

/// Only answers about epochs tell that a log was truncated and filled again.
#[test]
fn about_epochs() {
    type Change = fn(&mut offset_for_leader_epoch_response::EpochEndOffset);
    let lies: [(&str, Change, i32); 5] = [
        ("no such epoch", |end| (end.leader_epoch, end.end_offset) = (-1, -1), 3),
        ("an end below zero", |end| end.end_offset = i64::MIN, 3),
        ("an earlier epoch", |end| end.leader_epoch = 1, 3),
        ("an unknown error", |end| end.error_code = 31_999, 1),
        ("another partition", |end| end.partition += 50, 1),
    ];
    each(
        &lies,
        |(name, ..)| (*name).to_owned(),
        |(_, change, code)| {
            let stage = Stage::new();
            stage.new_leaders();
            let change = *change;
            stage.brokers.script(move |call| {
                call.edit::<OffsetForLeaderEpochRequest>(|response| {
                    response.topics.iter_mut().flat_map(|topic| &mut topic.partitions).for_each(change);
                })
            });
            stage.backup_to(*code).says("orders-");
            stage.recovers();
        },
    );
}

/// As large as the largest batch that a broker takes by default, and not a batch.
#[test]
fn answers_of_a_hundred_mebibytes() {
    let stage = Stage::new();
    stage.brokers.script(always(ApiKey::Fetch, |call| match call.nth {
        0..4 => fetched(call, |partition| partition.records = Some(Bytes::from(vec![0xff; 30 << 20]))),
        4 => fetched(call, |partition| partition.records = Some(Bytes::from(vec![0xff; 100 << 20]))),
        _ => Action::Honest,
    }));
    let ran = stage.backup();
    assert!(matches!(ran.code, Some(0 | 1)), "{ran}");
    stage.recovers();
}

/// The log was truncated, or so the broker says: nothing in the vault is lost, nothing is stored twice.
#[test]
fn a_log_that_shrinks() {
    let stage = Stage::new();
    stage.recovers();
    stage.brokers.script(|call| offsets(call, |asked, offset, _| *offset = if asked == -2 { 0 } else { 20 }));
    // Its leader epochs say that nothing is gone.
    stage.backup().exits(1).says("its last stable offset is 20").says("orders-");
    stage.recovers();
}

/// A throttle that ends is waited for.
#[test]
fn a_quota_is_no_reason_to_give_up() {
    let stage = Stage::new();
    stage.brokers.script(always(ApiKey::Fetch, |call| match call.nth {
        0..6 => call.edit::<FetchRequest>(|response| {
            response.throttle_time_ms = 50;
            for partition in response.responses.iter_mut().flat_map(|topic| &mut topic.partitions) {
                partition.records = Some(Bytes::new());
            }
        }),
        _ => Action::After(Duration::from_millis(50), Box::new(Action::Honest)),
    }));
    stage.run("backup", &["--give-up-after", "10s"]).exits(0);
    stage.recovers();
}

/// Hostile words on their way to a terminal: the text output has no control characters either.
#[test]
fn nothing_is_shown_raw() {
    let stage = Stage::new();
    stage.brokers.world(|world| {
        let offsets = world.groups.remove("readers").unwrap();
        world.groups.insert("evil\u{1b}[2J\u{9b}31m\u{202e}".into(), offsets);
    });
    stage.run("backup", &[]).exits(0);
    stage.brokers.script(always(ApiKey::OffsetFetch, |call| {
        call.edit::<OffsetFetchRequest>(|response| response.groups[0].error_code = 30)
    }));
    let (bootstrap, vault) = (stage.brokers.bootstrap(), stage.vault.url());
    let runs: [&[&str]; 3] = [
        &["backup", "-v", "-b", &bootstrap, "--vault", vault],
        &["show", "--groups", "--vault", vault],
        &["show", "--groups", "--vault", vault, "--output", "json"],
    ];
    for args in runs {
        let ran = crate::common::bodley(args);
        let raw = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
        assert!(!ran.out.contains(raw) && !ran.err.contains(raw), "{ran}");
        let shown = format!("{}{}", ran.out, ran.err);
        assert!(shown.contains("evil") && (shown.contains("u{1b}") || shown.contains("u001b")), "{ran}");
    }
    let shown = stage.vault.bodley("show", &["--groups"]).json();
    assert_eq!(list(&shown, "groups").len(), 1, "{shown}");
}

/// Where the cluster was there is another one, as after a disaster: none of it gets into this vault.
#[test]
fn another_cluster_in_its_place() {
    let stage = Stage::new();
    let (bootstrap, vault) = (stage.brokers.bootstrap(), stage.vault.url());
    let args = ["backup", "-v", "-b", &bootstrap, "--vault", vault, "--output", "json"];
    let mut run = start(&[&args[..], &["--follow", "--commit-interval", "1s"]].concat());
    run.reads();
    run = stage.vault.until(run, "all", |listed| {
        topics(listed, ORDERS).iter().any(|topic| topic["records"] == 3 * RECORDS)
    });
    stage.brokers.world(|world| {
        world.cluster_id = "another-cluster".into();
        world.create(ORDERS, 3, Default::default());
    });
    run.wait().exits(1).says("they are cluster another-cluster now, and were cluster scripted-cluster");
    let listed = stage.vault.listed();
    let lives = topics(&listed, ORDERS);
    assert_eq!((lives.len(), &lives[0]["records"]), (1, &(3 * RECORDS).into()), "{listed:#}");
    stage.run("backup", &[]).exits(2).says("this vault holds cluster scripted-cluster");
}

/// A leader that is cut off from its controllers answers for ever that there is nothing new; whoever knows better has the last word.
#[test]
fn a_leader_that_does_not_know_that_it_is_none() {
    let stage = Stage::new();
    let (bootstrap, vault) = (stage.brokers.bootstrap(), stage.vault.url());
    let args = ["backup", "-b", &bootstrap, "--vault", vault, "--follow", "--commit-interval", "1s"];
    let run = start(&args);
    let has = |listed: &serde_json::Value, records: usize| {
        topics(listed, ORDERS).iter().any(|topic| topic["records"] == records)
    };
    let run = stage.vault.until(run, "all", |listed| has(listed, 3 * RECORDS));
    let old = stage.brokers.world(|world| {
        let log = world.log(ORDERS, 0).unwrap();
        let old = log.leader;
        (log.leader, log.epoch) = (1 - old, log.epoch + 1);
        old
    });
    stage.brokers.script(move |call| match call.api {
        ApiKey::Fetch if call.node == old => call.edit::<FetchRequest>(|response| {
            let all = response.responses.iter_mut().flat_map(|topic| &mut topic.partitions);
            for partition in all.filter(|partition| partition.partition_index == 0) {
                (partition.error_code, partition.records) = (0, None);
                (partition.last_stable_offset, partition.high_watermark) = (RECORDS as i64, RECORDS as i64);
            }
        }),
        _ => Action::Honest,
    });
    stage.brokers.write(ORDERS, 0, 30).unwrap();
    let mut run = stage.vault.until(run, "what the new leader has", |listed| has(listed, 3 * RECORDS + 30));
    run.signal("TERM");
    run.wait().exits(0);
    stage.vault.verified();
}
