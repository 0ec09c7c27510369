//! What opening a vault and committing to it cost: `cargo bench -p bodley-benches --bench vault`.

#![allow(clippy::unwrap_used, reason = "a failure ends the bench")]

use std::hint::black_box;

use bodley_engine::vault::rows::{Kind, Range, Rows};
use bodley_engine::vault::state::State;
use bodley_engine::vault::table::Table;
use criterion::{BatchSize, Criterion, Throughput};

const TABLE_ROWS: u32 = 100_000;
const COMMITS: u64 = 10_000;
/// Partitions that each commit moves.
const MOVED: u32 = 10;

/// A chunk of a partition, with values as different from row to row as real ones are.
fn range(partition: u32, seq: u64) -> Range {
    let (topic, records) = ((partition / 100).to_be_bytes(), 1000);
    let first = (seq as i64 - 1) * records;
    let from = if seq == 1 { -1 } else { first };
    let mut id = [7; 16];
    id.iter_mut().zip(topic).for_each(|(to, from)| *to = from);
    let mix = u64::from(partition).wrapping_add(seq << 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut row = Range::without_chunk((id, partition % 100), 0, Kind::Data, first..first + records, from);
    row.leader_epoch = 3;
    row.last_epoch = 3;
    row.lso = first + records;
    row.high_watermark = row.lso;
    row.segment = [(partition % 8) as u8; 16];
    row.position = u64::from(partition) * 150_000 + mix % 1000;
    row.stored = 140_000 + (mix % 20_000) as u32;
    row.records = records;
    row.kept = records;
    row.min_ts = i64::MIN;
    row.max_ts = 1_700_000_000_000 + (mix % 60_000) as i64;
    row.base_ts = row.max_ts - 500;
    row.crc64 = mix;
    row
}

fn tables(c: &mut Criterion) {
    let mut group = c.benchmark_group("table");
    group.sample_size(20);
    group.throughput(Throughput::Elements(TABLE_ROWS.into()));
    let rows = Rows { ranges: (0..TABLE_ROWS).map(|n| range(n, 1)).collect(), ..Rows::default() };
    group.bench_function("encode", |b| {
        b.iter_batched(
            || rows.clone(),
            |mut rows| rows.encode().unwrap().finish().unwrap(),
            BatchSize::PerIteration,
        );
    });
    let bytes = rows.clone().encode().unwrap().finish().unwrap();
    group.bench_function("decode", |b| {
        b.iter(|| Rows::decode(&Table::open("bench", black_box(&bytes)).unwrap()).unwrap());
    });
    group.finish();
}

fn folds(c: &mut Criterion) {
    let mut group = c.benchmark_group("fold");
    group.sample_size(20);
    group.throughput(Throughput::Elements(COMMITS));
    let commits: Vec<Rows> = (1..=COMMITS)
        .map(|seq| Rows { ranges: (0..MOVED).map(|n| range(n, seq)).collect(), ..Rows::default() })
        .collect();
    for (name, keep_ranges) in [("cursors", false), ("ranges", true)] {
        group.bench_function(name, |b| {
            b.iter_batched(
                || commits.clone(),
                |commits| {
                    let mut state = State::new(keep_ranges);
                    commits.into_iter().zip(1..).for_each(|(rows, seq)| state.add_rows(seq, rows));
                    assert!(state.inconsistencies.is_empty());
                    state
                },
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    tables(&mut criterion);
    folds(&mut criterion);
    criterion.final_summary();
}
