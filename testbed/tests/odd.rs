//! Each oddity is really there, as the broker's files and the independent reader show it.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a failure ends the test")]

use std::collections::HashSet;
use std::time::{Duration, Instant};

use bodley_testbed::workbench::{BatchInfo, GroupOffset, ProduceOptions, Quota, Record};
use bodley_testbed::workloads::{Oddity, advance_odd_topics, write_odd_topics};
use bodley_testbed::{
    Cluster, CompareOptions, Dump, Isolation, Workbench, compare, compare_digests, shared_cluster,
};

fn until(is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < deadline, "it does not come");
        std::thread::sleep(Duration::from_millis(20));
    }
}

struct Odd<'a> {
    cluster: &'a Cluster,
    bench: &'a Workbench,
}

impl Odd<'_> {
    fn name(oddity: Oddity) -> String {
        format!("odd-{}", oddity.name())
    }

    fn batches(&self, oddity: Oddity) -> Vec<BatchInfo> {
        self.cluster.batches(0, &Self::name(oddity), 0).unwrap()
    }

    fn dump(&self, oddity: Oddity, isolation: Isolation) -> Dump {
        self.bench.dump(&Self::name(oddity), isolation).unwrap()
    }

    fn codecs(&self, oddity: Oddity) -> HashSet<String> {
        self.batches(oddity).into_iter().map(|b| b.codec).collect()
    }

    fn values(&self, oddity: Oddity, isolation: Isolation) -> Vec<String> {
        let records = self.dump(oddity, isolation).records().unwrap();
        records.iter().map(|r| r.value_text().unwrap_or_default()).collect()
    }
}

/// One test, as the topics take seconds to write.
#[test]
fn odd_topics_are_odd() {
    let cluster = shared_cluster().unwrap();
    let bench = cluster.workbench().unwrap();
    let specs = write_odd_topics(&bench, "odd-").unwrap();
    assert_eq!(specs.len(), Oddity::ALL.len());
    let odd = Odd { cluster, bench: &bench };

    codecs(&odd);
    nulls_and_headers(&odd);
    times(&odd);
    transactions(&odd);
    compaction(&odd);
    starts_and_ends(&odd);
    sizes_and_producers(&odd);
    increments(&odd);
    admin(&odd);
}

fn codecs(odd: &Odd<'_>) {
    let single = [
        (Oddity::CodecNone, "none"),
        (Oddity::CodecGzip, "gzip"),
        (Oddity::CodecSnappy, "snappy"),
        (Oddity::CodecLz4, "lz4"),
        (Oddity::CodecZstd, "zstd"),
        (Oddity::BrokerCompressed, "gzip"),
    ];
    for (oddity, codec) in single {
        assert_eq!(odd.codecs(oddity), HashSet::from([codec.to_owned()]), "{oddity:?}");
        assert!(odd.batches(oddity).iter().all(|b| b.records == 5), "{oddity:?}");
    }
    assert_eq!(odd.codecs(Oddity::CodecsMixed).len(), 5);
}

fn nulls_and_headers(odd: &Odd<'_>) {
    let records = odd.dump(Oddity::Nulls, Isolation::Committed).records().unwrap();
    let shapes: HashSet<_> =
        records.iter().map(|r| [r.key_text(), r.value_text()].map(|t| t.map(|t| t.is_empty()))).collect();
    for shape in [[None, None], [Some(true), Some(true)], [Some(false), None], [None, Some(false)]] {
        assert!(shapes.contains(&shape), "{shape:?} in {shapes:?}");
    }

    let records = odd.dump(Oddity::Headers, Isolation::Committed).records().unwrap();
    let names =
        |r: &bodley_testbed::dump::DumpedRecord| r.headers.iter().map(|h| h.0.clone()).collect::<Vec<_>>();
    assert!(records.iter().any(|r| names(r) == ["h", "h", "h"]));
    assert!(records.iter().any(|r| names(r) == ["", "", ""]));
    assert!(records.iter().any(|r| r.headers.iter().any(|h| h.1.is_none())));
    assert!(records.iter().any(|r| r.headers.iter().any(|h| h.1.as_ref().is_some_and(|v| v.size() == 0))));
}

fn times(odd: &Odd<'_>) {
    let times = |oddity| {
        let records = odd.dump(oddity, Isolation::Committed).records().unwrap();
        records.iter().map(|r| r.timestamp).collect::<Vec<_>>()
    };
    assert!(!times(Oddity::UnorderedTimes).is_sorted());
    assert_eq!(times(Oddity::OldTimes).first(), Some(&0));
    assert!(times(Oddity::FutureTimes).iter().all(|&t| t > 4_000_000_000_000));

    let kinds = |oddity| odd.batches(oddity).into_iter().map(|b| b.timestamp_type).collect::<Vec<_>>();
    assert!(kinds(Oddity::AppendTime).iter().all(|k| k == "LogAppendTime"));
    assert!(odd.codecs(Oddity::AppendTime).contains("zstd"));
    let ended = kinds(Oddity::AppendTimeEnded);
    assert_eq!(ended.first().map(String::as_str), Some("LogAppendTime"));
    assert_eq!(ended.last().map(String::as_str), Some("CreateTime"));
}

fn transactions(odd: &Odd<'_>) {
    for oddity in [Oddity::Transactions, Oddity::TransactionsInterleaved, Oddity::TransactionOpen] {
        let (committed, all) =
            (odd.values(oddity, Isolation::Committed), odd.values(oddity, Isolation::Uncommitted));
        assert!(!committed.iter().any(|v| v.starts_with("aborted")), "{oddity:?}");
        assert!(all.iter().any(|v| v.starts_with("aborted")), "{oddity:?}");
        assert!(committed.iter().any(|v| v.starts_with("committed")), "{oddity:?}");
        assert!(odd.batches(oddity).iter().any(|b| b.control), "{oddity:?}");
    }
    let batches = odd.batches(Oddity::TransactionsInterleaved);
    let (left, other) = (batches[0].producer_id, batches[1].producer_id);
    assert!(batches[0].transactional && batches[1].transactional && left != other);
    assert!(batches[2..].iter().any(|b| b.producer_id == left && !b.control));

    let open = odd.bench.describe(&Odd::name(Oddity::TransactionOpen)).unwrap();
    assert!(open.partitions[0].stable_end < open.partitions[0].end);
    let count = |values: Vec<String>, what: &str| values.iter().filter(|v| v.starts_with(what)).count();
    assert_eq!(count(odd.values(Oddity::TransactionOpen, Isolation::Committed), "held"), 0);
    assert_eq!(count(odd.values(Oddity::TransactionOpen, Isolation::Uncommitted), "held"), 5);
}

fn compaction(odd: &Odd<'_>) {
    for oddity in [Oddity::Compacted, Oddity::CompactedZstd] {
        let batches = odd.batches(oddity);
        assert!(batches.iter().any(|b| b.has_holes() && b.records > 0), "{oddity:?}: {batches:?}");
        let missing = batches.windows(2).any(|w| w[0].last_offset + 1 < w[1].base_offset);
        assert!(missing, "{oddity:?}: {batches:?}");
    }
    assert_eq!(odd.codecs(Oddity::CompactedZstd), HashSet::from(["zstd".to_owned()]));
    assert!(odd.batches(Oddity::CompactedEmptied).iter().any(|b| b.records == 0 && b.bytes == 61));

    let batches = odd.batches(Oddity::Tombstones);
    assert!(batches.iter().any(|b| b.delete_horizon && b.has_holes()), "{batches:?}");
    let records = odd.dump(Oddity::Tombstones, Isolation::Committed).records().unwrap();
    assert_eq!(records.iter().filter(|r| r.key.is_some() && r.value.is_none()).count(), 2);

    let keys: Vec<_> = odd.dump(Oddity::CompactedTransactions, Isolation::Uncommitted).records().unwrap();
    assert!(keys.iter().all(|r| !r.key_text().unwrap().starts_with("aborted")));
    assert!(odd.batches(Oddity::CompactedTransactions).iter().any(|b| b.control));
}

fn starts_and_ends(odd: &Odd<'_>) {
    let ends = |oddity| odd.bench.describe(&Odd::name(oddity)).unwrap().partitions;
    let trimmed = &ends(Oddity::Trimmed)[0];
    let batches = odd.batches(Oddity::Trimmed);
    assert!(batches.iter().any(|b| b.base_offset < trimmed.start && trimmed.start <= b.last_offset));
    assert_eq!(odd.dump(Oddity::Trimmed, Isolation::Committed).len() as i64, trimmed.end - trimmed.start);

    let emptied = &ends(Oddity::Emptied)[0];
    assert!(emptied.start == emptied.end && emptied.end > 0);
    assert!(odd.dump(Oddity::Emptied, Isolation::Committed).is_empty());
    assert_eq!(ends(Oddity::EmptyPartitions).iter().filter(|p| p.end == 0).count(), 4);
}

fn sizes_and_producers(odd: &Odd<'_>) {
    let large = odd.dump(Oddity::Large, Isolation::Committed).records().unwrap();
    assert!(large.iter().any(|r| r.value.as_ref().unwrap().size() == 5 << 20));
    assert!(odd.codecs(Oddity::Large).contains("zstd"));

    let ids = |oddity| odd.batches(oddity).into_iter().map(|b| b.producer_id).collect::<HashSet<_>>();
    assert_eq!(ids(Oddity::Idempotent).len(), 3);
    assert!(!ids(Oddity::Idempotent).contains(&-1));
    assert_eq!(ids(Oddity::NotIdempotent), HashSet::from([-1]));

    let many = odd.dump(Oddity::ManyPartitions, Isolation::Committed);
    assert!(many.partitions().len() == 50 && many.partitions().iter().all(|p| p.records == 3));
    assert_eq!(odd.batches(Oddity::TinyBatches).len(), 100);
}

/// A later round appends to each topic, and two readings joined at the first one's end are what both saw.
fn increments(odd: &Odd<'_>) {
    let first: Vec<Dump> = Oddity::ALL.iter().map(|&o| odd.dump(o, Isolation::Committed)).collect();
    advance_odd_topics(odd.bench, "odd-", 1).unwrap();
    for (early, &oddity) in first.iter().zip(Oddity::ALL.iter()) {
        let late = odd.dump(oddity, Isolation::Committed);
        let both = early.then(&late).unwrap();
        assert!(both.len() > early.len(), "{oddity:?}");
        assert_eq!(both.len(), both.records().unwrap().len() as u64, "{oddity:?}");
        if !oddity.is_compacted() && ![Oddity::Trimmed, Oddity::Emptied].contains(&oddity) {
            compare(&both, &late, CompareOptions { offsets: true, timestamp_type: true }).unwrap();
        }
        assert!(compare(early, &late, CompareOptions::default()).is_err(), "{oddity:?}");
    }
    let held = odd.values(Oddity::TransactionOpen, Isolation::Committed);
    assert_eq!(held.iter().filter(|v| v.starts_with("held")).count(), 7);
}

fn admin(odd: &Odd<'_>) {
    let name = Odd::name(Oddity::Idempotent);
    odd.bench.add_partitions(&name, 3).unwrap();
    let digest = odd.bench.digest(&name, Isolation::Committed, true).unwrap();
    assert_eq!(digest.partitions.len(), 3);
    compare_digests(&digest, &digest).unwrap();
    let other = odd.bench.digest(&Odd::name(Oddity::CodecNone), Isolation::Committed, true).unwrap();
    assert!(compare_digests(&digest, &other).is_err());

    let position = GroupOffset { metadata: "here".to_owned(), ..GroupOffset::new(&name, 1, 3) };
    odd.bench.commit_offsets("group", std::slice::from_ref(&position)).unwrap();
    assert_eq!(odd.bench.group_offsets("group").unwrap(), [position]);
    odd.bench.begin("with-offsets", &ProduceOptions::default()).unwrap();
    odd.bench.send("with-offsets", &name, &[Record::new(2).value("v")]).unwrap();
    odd.bench.send_offsets("with-offsets", "other", &[GroupOffset::new(&name, 0, 2)]).unwrap();
    odd.bench.commit("with-offsets").unwrap();
    // Markers are written after the producer is told.
    until(|| !odd.bench.group_offsets("other").unwrap_or_default().is_empty());
    until(|| odd.bench.describe(&name).unwrap().partitions.iter().all(|p| p.end == p.stable_end));
    assert_eq!(odd.bench.groups().unwrap(), ["group", "other"]);
    odd.bench.delete_group("other").unwrap();
    assert_eq!(odd.bench.groups().unwrap(), ["group"]);

    odd.bench.begin("crashes", &ProduceOptions::default()).unwrap();
    odd.bench.send("crashes", &name, &[Record::new(2).value("v")]).unwrap();
    odd.bench.drop_producer("crashes").unwrap();
    let hanging = &odd.bench.describe(&name).unwrap().partitions[2];
    assert_eq!(hanging.end, hanging.stable_end + 1);

    odd.bench.set_quota(Quota::Fetch, Some(1 << 20)).unwrap();
    odd.bench.set_quota(Quota::Fetch, None).unwrap();

    odd.bench.delete_topic(&name).unwrap();
    assert!(odd.bench.dump(&name, Isolation::Committed).is_err());
}
