//! Bytes as the records of a Fetch: what the walk accepts is whole, in order and accounted for.

use bodley_engine::vault::aborted::Aborted;
use bodley_engine::vault::walk::walk;

/// One input.
pub fn run(data: &[u8]) {
    let walk = walk(data, 0, i64::MAX, &mut Aborted::default());
    assert!(walk.all.len <= data.len() && walk.all.kept <= walk.all.records && walk.all.next >= 0);
    assert_eq!(walk.all.crc64, bodley_protocol::checksum::crc64(&data[..walk.all.len]));
}
