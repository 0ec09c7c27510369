//! Bytes as a whole segment: trailer, footer, rows of its chunks, as a rebuild reads them.

use std::sync::Arc;

use bodley_engine::vault::segment::{TRAILER_LEN, footer_len, read_footer};
use bodley_io::BufferPool;
use bodley_io::store::SharedStore;
use bodley_io::store::memory::MemoryStore;
use bodley_protocol::checksum::crc64;

const PATH: &str = "data/01ARZ3NDEKTSV4RRFFQ69G5FAV.seg";

/// One input.
pub fn run(data: &[u8]) {
    let mut bytes = data.to_vec();
    // The checksum would keep the fuzzer out: set it right where the footer would be.
    if let Some((rest, trailer)) = data.split_last_chunk::<TRAILER_LEN>()
        && let Some(at) = footer_len(trailer).and_then(|len| rest.len().checked_sub(len as usize))
        && rest.len() >= at + 24
    {
        let crc = crc64(&rest[at + 24..]);
        bytes[at + 16..at + 24].copy_from_slice(&crc.to_le_bytes());
    }
    let size = bytes.len() as u64;
    let memory = MemoryStore::new();
    memory.objects().insert(PATH.to_owned(), bytes.into());
    let store: SharedStore = Arc::new(memory);
    let pool = BufferPool::new(1 << 16, 1 << 17);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    if let Ok(rows) = runtime.block_on(read_footer(&store, PATH, size, &pool)) {
        // What is read fits what was there.
        assert!(rows.ranges.len() <= data.len() << 10);
    }
}
