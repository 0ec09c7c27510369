//! Tables that lie about their size, under an allocator that counts: what is claimed and not there is not allocated.

#![allow(clippy::unwrap_used, reason = "a failure ends the test")]

mod sample;

use bodley_engine::vault::VaultError;
use bodley_engine::vault::rows::{Kind, Rows};
use bodley_engine::vault::table::Table;
use bodley_protocol::checksum::crc64;
use peak_alloc::PeakAlloc;

#[global_allocator]
static PEAK: PeakAlloc = PeakAlloc;

/// A table of a directory and some bytes, with all checksums right.
fn table(directory: &str, body: &[u8]) -> Vec<u8> {
    let rest = [directory.as_bytes(), body].concat();
    let mut bytes = b"BDLYTBL1\x01\0\0\0".to_vec();
    bytes.extend((directory.len() as u32).to_le_bytes());
    bytes.extend(crc64(&rest).to_le_bytes());
    bytes.extend(rest);
    bytes
}

/// What reading it says, and how much memory that took beyond what there was.
fn decode(bytes: &[u8]) -> (Result<Rows, VaultError>, usize) {
    let before = PEAK.current_usage();
    PEAK.reset_peak_usage();
    let result = Table::open("x", bytes).and_then(|table| Rows::decode(&table));
    (result, PEAK.peak_usage().saturating_sub(before))
}

fn section(kind: &str, rows: usize, columns: &str) -> String {
    format!(r#"{{"sections":[{{"kind":"{kind}","rows":{rows},"columns":[{columns}]}}]}}"#)
}

fn column(name: &str, kind: &str, stored: usize, plain: usize) -> String {
    format!(r#"{{"name":"{name}","type":"{kind}","at":0,"stored":{stored},"plain":{plain}}}"#)
}

// One test in this binary: the counter is the process's.
#[test]
fn rows_that_are_not_there_take_no_memory() {
    let noise = vec![0xa5; 1 << 20];
    let frame = zstd::bulk::compress(&[0; 64], 3).unwrap();
    for kind in ["ranges", "topics", "configs", "groups", "aborted"] {
        for rows in [1_000_000_000, 1 << 28, 1 << 20] {
            // No column at all, with and without bytes to point at; key columns that are none or hold less.
            let lies = [
                table(&section(kind, rows, ""), b""),
                table(&section(kind, rows, ""), &noise),
                table(&section(kind, rows, &column("topic", "b16", frame.len(), rows * 16)), &frame),
                table(&section(kind, rows, &column("topic", "b16", noise.len(), rows * 16)), &noise),
                table(&section(kind, rows, &column("group", "var", noise.len(), rows * 4)), &noise),
                table(&section(kind, rows, &column("topic", "b16", frame.len(), 64)), &frame),
            ];
            for (n, bytes) in lies.iter().enumerate() {
                let (result, peak) = decode(bytes);
                assert!(matches!(result, Err(VaultError::Damaged { .. })), "{kind}, {rows}, lie {n}");
                assert!(peak < 1 << 20, "{kind}, {rows} rows, lie {n}: {peak} bytes");
            }
        }
    }
    // A frame that says in its own header that it is large, and is not.
    let mut frame = zstd::bulk::compress(&vec![0; 200 << 20], 3).unwrap();
    frame.truncate(frame.len() / 100);
    let rows = (200 << 20) / 16;
    let lie = table(&section("topics", rows, &column("topic", "b16", frame.len(), 200 << 20)), &frame);
    let (result, peak) = decode(&lie);
    assert!(result.is_err() && peak < 16 << 20, "{peak} bytes");
    the_most_regular_rows_are_read();
}

/// Rows that zstd packs best: every partition of many topics, none with data.
fn the_most_regular_rows_are_read() {
    for (topics, partitions) in [(1000u32, 300u32), (20, 15_000), (1, 100_000)] {
        let ranges = (0..topics).flat_map(|topic| {
            let mut id = [7; 16];
            id[12..].copy_from_slice(&topic.to_be_bytes());
            (0..partitions).map(move |partition| sample::row(id, partition, Kind::Empty, 0..0, -1))
        });
        let mut rows = Rows { ranges: ranges.collect(), ..Rows::default() };
        let bytes = rows.encode().unwrap().finish().unwrap();
        let read = Rows::decode(&Table::open("x", &bytes).unwrap()).unwrap();
        assert!(read == rows, "{topics} topics of {partitions}");
        let per_byte = rows.ranges.len() / bytes.len();
        assert!(per_byte < 300, "{topics} topics of {partitions}: {per_byte} rows for a byte");
    }
}
