//! Large loads.

use anyhow::Result;

use crate::workbench::{Codec, Generate, ProduceOptions, Workbench};

/// What a large load looks like.
#[derive(Debug, Clone, Copy)]
pub struct BulkOptions {
    /// The partitions of the topic that it is spread over.
    pub partitions: i32,
    /// The size of a value.
    pub value_bytes: u32,
    /// The compression.
    pub codec: Codec,
    /// Whether values compress to about half.
    pub compressible: bool,
    /// The seed.
    pub seed: u64,
}

impl Default for BulkOptions {
    fn default() -> Self {
        Self { partitions: 1, value_bytes: 1024, codec: Codec::None, compressible: false, seed: 1 }
    }
}

const KEY_BYTES: u32 = 16;
const BATCH_BYTES: u32 = 256 << 10;
const LINGER_MS: u32 = 20;

/// Writes about `bytes` of keys and values to a topic that exists, in batches of 256 KiB. Returns the number of
/// records.
pub fn bulk(bench: &Workbench, topic: &str, bytes: u64, options: BulkOptions) -> Result<u64> {
    let count = bytes.div_ceil(u64::from(KEY_BYTES + options.value_bytes));
    let load = Generate {
        count,
        partitions: options.partitions,
        key_bytes: KEY_BYTES,
        value_bytes: options.value_bytes,
        seed: options.seed,
        compressible: options.compressible,
        ..Generate::default()
    };
    // Not idempotent: a broker forgets a producer whose records are dated long ago at its next check, and a check that comes between two batches
    // in flight leaves an idempotent producer out of order for ever.
    let defaults = ProduceOptions::codec(options.codec).plain();
    let produce = ProduceOptions { batch_bytes: BATCH_BYTES, linger_ms: LINGER_MS, ..defaults };
    bench.generate(topic, &load, &produce)?;
    Ok(count)
}
