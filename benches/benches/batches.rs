//! What is done to every batch: `cargo bench -p bodley-benches --bench batches`.

#![allow(clippy::unwrap_used, reason = "a failure ends the bench")]

use std::hint::black_box;

use bodley_engine::vault::aborted::Aborted;
use bodley_engine::vault::walk::{WHOLE, walk};
use bodley_protocol::batch::{self, Header, Producer};
use bodley_protocol::checksum::{crc32c, crc32c_combine, crc64, crc64_combine};
use criterion::{BenchmarkId, Criterion, Throughput};

/// A part, as a Fetch fills it.
const PART: usize = 8 << 20;
/// Sizes of batches: tiny, as Kafka's producers send by default, large.
const SIZES: [usize; 3] = [170, 16 << 10, 256 << 10];

/// Batches of one record each, of `size` bytes, that fill a part; offsets follow one another.
fn part(size: usize) -> Vec<u8> {
    let mut part = Vec::with_capacity(PART);
    let records = vec![7; size - batch::HEADER_LEN];
    for offset in 0..(PART / size) as i64 {
        part.extend_from_slice(&batch::encode(&header(offset), &records));
    }
    part
}

fn header(base_offset: i64) -> Header {
    Header {
        magic: 2,
        base_offset,
        size: 0,
        leader_epoch: 0,
        crc: 0,
        attributes: 0,
        last_offset_delta: 0,
        base_timestamp: 1,
        max_timestamp: 1,
        producer_id: -1,
        producer_epoch: -1,
        base_sequence: -1,
        record_count: 1,
    }
}

fn walks(c: &mut Criterion) {
    let mut group = c.benchmark_group("walk");
    for size in SIZES {
        let part = part(size);
        group.throughput(Throughput::Bytes(part.len() as u64));
        group.bench_with_input(BenchmarkId::new("headers", size), &part, |b, part| {
            b.iter(|| {
                let (mut at, mut next) = (0, 0);
                while let Some(header) = batch::view(part.get(at..).unwrap()).unwrap() {
                    next = header.last_offset() + 1;
                    at += header.size;
                }
                black_box((at, next))
            });
        });
        // What a backup does with a part: headers, CRC-32C of each batch, CRC-64 of all.
        group.bench_with_input(BenchmarkId::new("whole", size), &part, |b, part| {
            let mut aborted = Aborted::from_rows(std::iter::empty());
            b.iter(|| black_box(walk(part, 0, WHOLE, &mut aborted)));
        });
    }
    group.finish();
}

fn checksums(c: &mut Criterion) {
    let mut group = c.benchmark_group("checksum");
    let part = vec![7; PART];
    for size in SIZES {
        let bytes = part.get(..size).unwrap();
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(BenchmarkId::new("crc32c", size), |b| b.iter(|| crc32c(black_box(bytes))));
        group.bench_function(BenchmarkId::new("crc64", size), |b| b.iter(|| crc64(black_box(bytes))));
    }
    group.throughput(Throughput::Elements(1));
    let len = black_box(200_003);
    group.bench_function("crc32c_combine", |b| b.iter(|| crc32c_combine(black_box(1), black_box(2), len)));
    group.bench_function("crc64_combine", |b| b.iter(|| crc64_combine(black_box(1), black_box(2), len)));
    group.finish();
}

fn patches(c: &mut Criterion) {
    let mut group = c.benchmark_group("patch_for_produce");
    group.throughput(Throughput::Elements(1));
    for size in SIZES {
        let mut bytes = batch::encode(&header(5), &vec![7; size - batch::HEADER_LEN]);
        let stored = batch::view_checked(&bytes).unwrap().unwrap();
        let mut sequence = 0;
        group.bench_function(BenchmarkId::from_parameter(size), |b| {
            b.iter(|| {
                sequence = (sequence + 1) & 0xffff;
                batch::patch_for_produce(&mut bytes, &stored, Producer { id: 9, epoch: 1, sequence })
            });
        });
    }
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    walks(&mut criterion);
    checksums(&mut criterion);
    patches(&mut criterion);
    criterion.final_summary();
}
