//! Transactions that are open when the run's ends are fixed: what lies behind their begin is left to a later run, and where nobody will ever end
//! one, no run gets there. Such a one hangs, and is an error.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bodley_io::kafka::producers::OpenTransaction;
use bodley_io::kafka::{Cluster, TopicPartition};

use crate::error::Severity;
use crate::moment::span as time;
use crate::report::{Issue, Transaction};

/// What a broker lets transactions last, unless it says otherwise.
const DEFAULT_LIMIT: Duration = Duration::from_secs(15 * 60);
const LIMIT_SETTING: &str = "transaction.max.timeout.ms";
/// Leaders are asked about so many partitions at most: more tell nothing new.
const MAX_PARTITIONS: usize = 2_000;
/// So many are named one by one: those that hang, and others.
const MAX_ERRORS: usize = 100;
const MAX_NOTES: usize = 5;
const MAX_LISTED: usize = 1_000;

/// A partition where something is open: its last stable offset is below its high watermark, which was asked for before.
#[derive(Debug, Clone)]
pub struct Suspect {
    /// Which.
    pub tp: TopicPartition,
    /// Offsets between the two, at least.
    pub behind: i64,
}

/// For the report.
#[derive(Debug, Default)]
pub struct Found {
    /// The open transactions.
    pub transactions: Vec<Transaction>,
    /// Those that hang.
    pub issues: Vec<Issue>,
    /// The others, and what could not be found out.
    pub notes: Vec<String>,
}

/// Asks leaders what is open. Never fails: what can't be found out is a note.
pub async fn look(cluster: &Arc<Cluster>, suspects: &[Suspect]) -> Found {
    if suspects.is_empty() {
        return Found::default();
    }
    let asked: Vec<TopicPartition> = suspects.iter().take(MAX_PARTITIONS).map(|s| s.tp.clone()).collect();
    let open = cluster.open_transactions(&asked).await;
    let mut found = Found::default();
    if let Some((tp, error)) = open.failed.first_key_value() {
        found.notes.push(format!(
            "transactions are open in {tp}{}, and which ones is not known: {error}",
            and_more(open.failed.len() - 1, "partition")
        ));
    }
    if let Some(rest) = suspects.len().checked_sub(asked.len()).filter(|rest| *rest > 0) {
        found
            .notes
            .push(format!("transactions are open in {rest} more partitions, which were not looked at"));
    }
    if !open.found.is_empty() {
        let limit = limit(cluster).await;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as i64;
        // Records may bear times of long ago: whatever its coordinator has under way does not hang.
        let old: Vec<OpenTransaction> =
            open.found.iter().filter(|open| is_old(open, limit, now)).take(MAX_LISTED).cloned().collect();
        let asked: BTreeSet<(i64, TopicPartition)> =
            old.iter().map(|open| (open.producer_id, open.tp.clone())).collect();
        let coordinated = if old.is_empty() { Ok(BTreeSet::new()) } else { cluster.coordinated(&old).await };
        let abandoned = match coordinated {
            Ok(coordinated) => &asked - &coordinated,
            Err(error) => {
                found
                    .notes
                    .push(format!("whether coordinators know of old transactions is not known: {error}"));
                BTreeSet::new()
            }
        };
        let behind = suspects.iter().map(|suspect| (&suspect.tp, suspect.behind)).collect();
        judge(&open.found, &Known { behind, abandoned, limit, now }, &mut found);
        let bootstrap = bootstrap(cluster);
        found.issues.iter_mut().for_each(|issue| advise(issue, &bootstrap));
    }
    found
}

/// What the brokers let a transaction last.
async fn limit(cluster: &Arc<Cluster>) -> Duration {
    let Some(broker) = cluster.layout().brokers.keys().next().copied() else { return DEFAULT_LIMIT };
    let told = cluster.broker_config(broker, LIMIT_SETTING).await.ok().flatten();
    told.and_then(|ms| ms.parse().ok()).map_or(DEFAULT_LIMIT, Duration::from_millis)
}

/// What transactions are judged by.
struct Known<'a> {
    /// Offsets that can't be read yet.
    behind: BTreeMap<&'a TopicPartition, i64>,
    /// No coordinator will end them.
    abandoned: BTreeSet<(i64, TopicPartition)>,
    /// What brokers let one last.
    limit: Duration,
    /// ms.
    now: i64,
}

/// Since its last record, ms. A producer's clock may be ahead.
fn age(transaction: &OpenTransaction, now: i64) -> Option<i64> {
    (transaction.last_timestamp >= 0).then(|| now.saturating_sub(transaction.last_timestamp).max(0))
}

fn is_old(transaction: &OpenTransaction, limit: Duration, now: i64) -> bool {
    age(transaction, now).is_some_and(|age| age as u128 > limit.as_millis())
}

fn judge(open: &[OpenTransaction], known: &Known<'_>, found: &mut Found) {
    let (limit, now) = (known.limit, known.now);
    let (mut hanging, mut young) = (0, 0);
    for transaction in open {
        let OpenTransaction { tp, first, producer_id, producer_epoch, .. } = transaction;
        let age = age(transaction, now);
        let hangs = is_old(transaction, limit, now) && known.abandoned.contains(&(*producer_id, tp.clone()));
        if found.transactions.len() < MAX_LISTED {
            found.transactions.push(Transaction {
                topic: tp.topic.to_string(),
                partition: tp.partition,
                producer_id: *producer_id,
                producer_epoch: *producer_epoch,
                first_offset: *first,
                age_ms: age,
                hanging: hangs,
            });
        }
        let who = format!("of producer id {producer_id} (epoch {producer_epoch}) from offset {first} on");
        let aged =
            age.map_or("whose age is not known".to_owned(), |age| format!("last written {} ago", time(age)));
        if hangs {
            hanging += 1;
            let lost = known.behind.get(tp).copied().unwrap_or_default();
            let message = format!(
                "{tp}: the transaction {who} hangs: {aged}, and brokers let none last longer than {}; at least {lost} offsets behind its begin are not in the vault",
                time(limit.as_millis() as i64)
            );
            if hanging <= MAX_ERRORS {
                let issue = Issue::new(CODE, Severity::Failed, message);
                found.issues.push(issue.at(&tp.topic, tp.partition as u32, Some(*first)));
            }
        } else {
            young += 1;
            if young <= MAX_NOTES {
                found.notes.push(format!(
                    "{tp}: the transaction {who} is open ({aged}): what lies behind its begin is left to a later run"
                ));
            }
        }
    }
    if young > MAX_NOTES {
        found.notes.push(format!("{} more transactions are open", young - MAX_NOTES));
    }
    if hanging > MAX_ERRORS {
        let message = format!("{} more transactions hang", hanging - MAX_ERRORS);
        found.issues.push(Issue::new(CODE, Severity::Failed, message));
    }
}

const CODE: &str = "hanging_transaction";

fn advise(issue: &mut Issue, bootstrap: &str) {
    let end = match (&issue.topic, issue.partition, issue.offset) {
        (Some(topic), Some(partition), Some(first)) => format!(
            "nothing is lost; if its producer is gone, end it: kafka-transactions.sh --bootstrap-server {bootstrap} abort --topic {topic} --partition {partition} --start-offset {first} (with --command-config as your cluster needs), and run again"
        ),
        _ => format!("see kafka-transactions.sh --bootstrap-server {bootstrap} find-hanging --broker-id ID"),
    };
    issue.hint = Some(end);
}

fn bootstrap(cluster: &Cluster) -> String {
    let layout = cluster.layout();
    layout.brokers.values().next().map_or_else(|| "HOST:PORT".to_owned(), ToString::to_string)
}

fn and_more(more: usize, what: &str) -> String {
    match more {
        0 => String::new(),
        1 => format!(" and 1 more {what}"),
        n => format!(" and {n} more {what}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transaction(partition: i32, first: i64, last_timestamp: i64) -> OpenTransaction {
        let tp = TopicPartition::new(&Arc::from("orders"), partition);
        OpenTransaction { tp, first, producer_id: 4000, producer_epoch: 2, last_timestamp }
    }

    fn judged(open: &[OpenTransaction]) -> Found {
        let mut found = Found::default();
        let behind = open.iter().map(|transaction| (&transaction.tp, 12)).collect();
        let abandoned = open.iter().filter(|t| t.tp.partition != 9).map(|t| (t.producer_id, t.tp.clone()));
        let limit = Duration::from_secs(900);
        judge(open, &Known { behind, abandoned: abandoned.collect(), limit, now: 10_000_000 }, &mut found);
        found
    }

    #[test]
    fn what_is_older_than_the_limit_hangs() {
        let found = judged(&[
            transaction(3, 17, 10_000_000 - 900_001),
            transaction(4, 18, 10_000_000 - 900_000),
            transaction(5, 19, 20_000_000),
            transaction(6, 20, -1),
            // Its coordinator has it under way.
            transaction(9, 21, 1),
        ]);
        let [mut issue] = <[Issue; 1]>::try_from(found.issues).unwrap();
        advise(&mut issue, "b:9092");
        assert_eq!((issue.code.as_str(), issue.severity), ("hanging_transaction", Severity::Failed));
        assert_eq!(
            (issue.topic.as_deref(), issue.partition, issue.offset),
            (Some("orders"), Some(3), Some(17))
        );
        for word in ["orders-3", "producer id 4000 (epoch 2)", "15 min", "12 offsets"] {
            assert!(issue.message.contains(word), "{}", issue.message);
        }
        let hint = issue.hint.unwrap();
        let command = "kafka-transactions.sh --bootstrap-server b:9092 abort --topic orders --partition 3 --start-offset 17";
        assert!(hint.contains(command), "{hint}");
        assert_eq!(found.notes.len(), 4);
        assert!(
            found.notes[0].contains("orders-4") && found.notes[0].contains("15 min ago"),
            "{:?}",
            found.notes
        );
        assert!(found.notes[1].contains("0 s ago") && found.notes[2].contains("age is not known"));
        let ages: Vec<_> = found.transactions.iter().map(|t| (t.partition, t.age_ms, t.hanging)).collect();
        assert_eq!(
            ages,
            [
                (3, Some(900_001), true),
                (4, Some(900_000), false),
                (5, Some(0), false),
                (6, None, false),
                (9, Some(9_999_999), false)
            ]
        );
    }

    #[test]
    fn thousands_are_counted_not_listed() {
        let young: Vec<_> = (10..1510).map(|n| transaction(n, 5, 9_999_999)).collect();
        let found = judged(&young);
        assert_eq!((found.notes.len(), found.transactions.len()), (6, 1000));
        assert!(found.notes[5].contains("1495 more"), "{}", found.notes[5]);
        let old: Vec<_> = (10..1510).map(|n| transaction(n, 5, 1)).collect();
        let found = judged(&old);
        assert_eq!((found.issues.len(), found.notes.len()), (101, 0));
        assert!(found.issues[100].message.contains("1400 more"));
    }
}
