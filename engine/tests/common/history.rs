//! Histories that have everything in them that rows can say, from several writers.

use std::collections::BTreeMap;
use std::sync::Arc;

use bodley_engine::vault::SegmentRef;
use bodley_engine::vault::log::{Addition, Vault};
use bodley_engine::vault::rows::{AbortedRow, ConfigRow, GroupRow, Kind, Range, Reason, Rows, TopicRow};
use bodley_engine::vault::state::PartKey;
use bodley_io::store::SharedStore;

const WRITERS: u32 = 3;

/// A vault that grows at random. The same seed makes the same rows.
pub struct Histories {
    random: fastrand::Rng,
    writers: Vec<Vault>,
    /// Cursor and rewind epoch.
    cursors: BTreeMap<PartKey, (i64, u32)>,
    aborted: Vec<AbortedRow>,
    /// All topics have a name.
    named: bool,
}

impl Histories {
    pub async fn new(store: &SharedStore, seed: u64) -> Self {
        let mut writers = vec![Vault::create(Arc::clone(store), "cluster").await.unwrap()];
        for _ in 1..WRITERS {
            writers.push(Vault::open_for_writing(Arc::clone(store)).await.unwrap());
        }
        let random = fastrand::Rng::with_seed(seed);
        Self { random, writers, cursors: BTreeMap::new(), aborted: Vec::new(), named: false }
    }

    /// One more commit, and who made it.
    pub async fn commit(&mut self) -> &mut Vault {
        // Each partition belongs to one writer.
        let writer = self.random.u32(0..WRITERS);
        let segment = ulid::Ulid::from_bytes(self.random.u128(..).to_be_bytes());
        let mut rows = Rows::default();
        let mut parts: Vec<PartKey> = (0..3u8).map(|t| ([t + 1; 16], writer)).collect();
        self.random.shuffle(&mut parts);
        parts.truncate(self.random.usize(1..=3));
        for key in parts {
            self.ranges(key, segment.to_bytes(), &mut rows);
            self.transactions(key, &mut rows);
        }
        self.catalog(&mut rows);
        let segment = SegmentRef {
            id: segment.to_string(),
            bytes: self.random.u64(0..1 << 40),
            crc64: format!("{:016x}", self.random.u64(..)),
            class: 0,
        };
        let vault = &mut self.writers[writer as usize];
        vault.append(Addition { segments: vec![segment], rows }).await.unwrap();
        vault
    }

    fn ranges(&mut self, key: PartKey, segment: [u8; 16], rows: &mut Rows) {
        let random = &mut self.random;
        let (from, mut rewind) = self.cursors.get(&key).copied().unwrap_or((-1, 0));
        let mut first = from.max(0);
        if from > 0 && random.u8(0..6) == 0 {
            (first, rewind) = (random.i64(0..from), rewind + 1);
        }
        let mut count = random.usize(1..4);
        if from == -1 && random.bool() {
            // Noted as empty.
            count = 1;
            first = random.i64(0..50);
            rows.ranges.push(Range::without_chunk(key, rewind, Kind::Empty, first..first, from));
        }
        for _ in 1..=count {
            let next = first + random.i64(1..20);
            let kinds = [Kind::Data, Kind::Empty, Kind::Gap(Reason::Corrupt)];
            let row = Range::without_chunk(key, rewind, kinds[random.usize(0..3)], first..next, from);
            rows.ranges.push(Range {
                last_epoch: random.i32(-1..5),
                leader_epoch: random.i32(-1..5),
                lso: next,
                segment,
                position: random.u64(..),
                stored: random.u32(..),
                kept: random.i64(-1..9),
                crc64: random.u64(..),
                ..row
            });
            first = next;
        }
        self.cursors.insert(key, (first, rewind));
    }

    /// New ones, markers of earlier ones, also of epochs that were rewritten, and some opened again.
    fn transactions(&mut self, (topic, partition): PartKey, rows: &mut Rows) {
        let random = &mut self.random;
        let (next, rewind) = self.cursors[&(topic, partition)];
        let mut said: Vec<AbortedRow> = Vec::new();
        for _ in 0..random.usize(0..4) {
            let (producer_id, first) = (random.i64(0..5), random.i64(0..=next));
            let rewind = random.u32(0..=rewind);
            let marker = if random.bool() { i64::MAX } else { next };
            said.push(AbortedRow { topic, partition, rewind, producer_id, first, marker });
        }
        let known = self.aborted.iter().filter(|row| (row.topic, row.partition) == (topic, partition));
        for row in known.filter(|_| random.u8(0..3) == 0) {
            let marker = if row.marker == i64::MAX { next } else { i64::MAX };
            said.push(AbortedRow { marker, ..*row });
        }
        said.sort_by_key(|row| (row.rewind, row.producer_id, row.first));
        said.dedup_by_key(|row| (row.rewind, row.producer_id, row.first));
        self.aborted.extend(&said);
        rows.aborted.extend(said);
    }

    fn catalog(&mut self, rows: &mut Rows) {
        let (random, first) = (&mut self.random, !std::mem::replace(&mut self.named, true));
        for t in 1..4u8 {
            let topic = [t; 16];
            if random.bool() || first {
                let (present, partitions) = (random.bool(), random.u32(1..9));
                let (replication, internal, synthetic) = (random.u16(1..4), random.bool(), random.bool());
                let name = format!("topic-{}", t % 2);
                let incarnation = u32::from(t / 2);
                let row = TopicRow {
                    topic,
                    name,
                    present,
                    partitions,
                    replication,
                    internal,
                    synthetic,
                    incarnation,
                };
                rows.topics.push(row);
            }
            match random.u8(0..3) {
                0 => rows.configs.push(ConfigRow { topic, name: String::new(), value: None }),
                1 => {
                    for name in ["cleanup.policy", "retention.ms", "x"].iter().take(random.usize(1..4)) {
                        let value = random.bool().then(|| random.u32(..).to_string());
                        rows.configs.push(ConfigRow { topic, name: (*name).to_owned(), value });
                    }
                }
                _ => {}
            }
            if random.bool() {
                let group = format!("group-{}", random.u8(0..3));
                let present = random.bool();
                for partition in -1..if present { random.i32(0..4) } else { 0 } {
                    rows.groups.push(GroupRow {
                        group: group.clone(),
                        topic,
                        partition,
                        present,
                        kind: "classic".into(),
                        protocol_type: if partition < 0 { "consumer".into() } else { String::new() },
                        unstable: random.bool(),
                        taken: random.i64(0..1000),
                        offset: random.i64(-1..1000),
                        leader_epoch: random.i32(-1..3),
                        metadata: random.bool().then(|| "m".repeat(random.usize(0..9))),
                    });
                }
            }
        }
    }
}
