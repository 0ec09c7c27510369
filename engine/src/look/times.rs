//! Offsets as times.

use std::ops::Range;
use std::sync::Arc;

use bodley_io::BufferPool;
use bodley_io::store::SharedStore;
use bodley_protocol::batch::Header;
use bodley_protocol::records::Payload;

use super::chunk::{Chunk, damaged};
use crate::error::EngineError;
use crate::vault::hex;
use crate::vault::rows::Kind;
use crate::vault::state::PartitionState;

/// For each of `offsets` (sorted) the time, ms, of the next record at or behind it that a consumer sees; `None`: the vault has no such record. Reads only
/// chunks in which an answer may lie, each once. Errors name the topic by its id.
pub async fn times_at(
    store: &SharedStore,
    pool: &Arc<BufferPool>,
    partition: &PartitionState,
    offsets: &[i64],
) -> Result<Vec<Option<i64>>, EngineError> {
    let mut found = Vec::with_capacity(offsets.len());
    let mut next = 0;
    while let Some(offset) = offsets.get(found.len()) {
        let rest = partition.ranges.get(next..).unwrap_or_default();
        next += rest.partition_point(|row| row.next <= *offset);
        let Some(row) = partition.ranges.get(next) else { break };
        next += 1;
        if row.kind != Kind::Data || row.kept == 0 {
            continue;
        }
        let topic = hex(&row.topic);
        let mut chunk = Chunk::read((store, pool), &topic, row, &partition.aborted).await?;
        let counts = chunk.offsets();
        while let Some(offset) = offsets.get(found.len()) {
            let next = chunk.next().map_err(|what| damaged(&topic, row, counts.clone(), what))?;
            let Some((header, bytes)) = next else { break };
            if header.last_offset() < *offset {
                continue;
            }
            answer((&header, bytes), &counts, offsets, &mut found)
                .map_err(|what| damaged(&topic, row, header.base_offset..counts.end, what))?;
            tokio::task::yield_now().await;
        }
    }
    found.resize(offsets.len(), None);
    Ok(found)
}

/// Adds the times of those of `offsets` that come next and that a batch answers. Only records at offsets that count do. An error says in words what is wrong
/// with the batch.
fn answer(
    (header, bytes): (&Header, &[u8]),
    counts: &Range<i64>,
    offsets: &[i64],
    found: &mut Vec<Option<i64>>,
) -> Result<(), String> {
    let payload = Payload::unpack(header, bytes).map_err(|e| e.to_string())?;
    for record in payload.records() {
        let record = record.map_err(|e| e.to_string())?;
        if !counts.contains(&record.offset) {
            continue;
        }
        let rest = offsets.get(found.len()..).unwrap_or_default();
        let answered = rest.partition_point(|offset| *offset <= record.offset);
        found.resize(found.len() + answered, Some(record.timestamp));
    }
    Ok(())
}
