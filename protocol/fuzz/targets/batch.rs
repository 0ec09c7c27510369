//! Bytes as a batch: header, records of every codec, rewrite, merge, patch.

use bodley_protocol::batch::{self, Producer};
use bodley_protocol::merge::Merge;
use bodley_protocol::records::Payload;
use bodley_protocol::rewrite;
use bodley_protocol::sieve::Sieve;
use bodley_protocol::stamp::Stamp;

/// One input.
pub fn run(data: &[u8]) {
    // The checksum would keep the fuzzer out: set it right where there is a header.
    let Ok(Some(header)) = batch::view(data) else { return };
    let fixed = batch::encode(&header, &data[batch::HEADER_LEN..header.size]);
    let header = batch::view_checked(&fixed).unwrap().unwrap();
    if header.size < 1 << 16
        && let Ok(payload) = Payload::unpack(&header, &fixed)
    {
        for record in payload.records().flatten() {
            let _ = record.parse_body();
        }
    }
    let middle = header.base_offset + i64::from(header.last_offset_delta) / 2;
    let times = Some(header.base_timestamp..header.max_timestamp);
    let stamp = Some(Stamp::new("a", 1));
    let sieve = Sieve { times, stamp, ..Sieve::of_offsets(header.base_offset..middle) };
    sieve.fate(&header);
    if let Ok(Some((new, count))) = rewrite::rewrite(&header, &fixed, &sieve) {
        let new = batch::view_checked(&new).unwrap().unwrap();
        assert_eq!(new.record_count, count);
        assert!(!new.has_holes());
    }
    let mut merge = Merge::new(1 << 16);
    let all = Sieve::of_offsets(header.base_offset..i64::MAX);
    let taken = [merge.take(&header, &fixed, &all), merge.take(&header, &fixed, &all)];
    let taken: i32 = taken.into_iter().flatten().sum();
    if let Ok(Some(sealed)) = merge.seal() {
        let mut merged = vec![0; sealed.size()];
        assert!(sealed.put(&mut merged));
        assert_eq!(batch::view_checked(&merged).unwrap().unwrap().record_count, taken);
    }
    let mut patched = fixed.clone();
    assert!(batch::patch_for_produce(&mut patched, &header, Producer { id: 1, epoch: 2, sequence: 3 }));
    batch::view_checked(&patched).unwrap().unwrap();
}
