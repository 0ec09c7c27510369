//! Aborted transactions from the data itself: the abort markers are stored with it. For partitions whose tables are lost.

use std::collections::BTreeMap;

use bodley_protocol::batch::Header;
use bodley_protocol::records::Payload;

use crate::error::EngineError;

use super::chain::Part;
use super::copy::{Chunk, Reader};

#[derive(Debug, Clone, Copy)]
enum Event {
    /// Data of a transaction.
    Data,
    /// Its end.
    Marker { aborts: bool },
}

/// Adds to `part.aborted` what markers tell, if there are rows that no table comes with.
pub(super) async fn complete(part: &mut Part, reader: &Reader) -> Result<(), EngineError> {
    // Where all records are kept there is neither a marker nor anything aborted.
    let hidden = part.candidates.iter().filter(|c| c.is_data() && c.row.kept < c.row.records);
    let hidden: Vec<_> = hidden.cloned().collect();
    if !hidden.iter().any(|candidate| candidate.footer_only) {
        return Ok(());
    }
    // By producer and offset; a chunk that is there twice says the same twice.
    let mut events: BTreeMap<(i64, i64), Event> = BTreeMap::new();
    for candidate in &hidden {
        if let Ok(chunk) = reader.chunk(candidate).await? {
            gather(&chunk, &mut events);
        }
    }
    let mut open: Option<(i64, i64)> = None;
    for ((producer, offset), event) in events {
        let first = open.filter(|(of, _)| *of == producer).map(|(_, first)| first);
        open = match (event, first) {
            (Event::Data, first) => Some((producer, first.unwrap_or(offset))),
            (Event::Marker { aborts: true }, Some(first)) => {
                // What a table says stands, unless it had not seen the end.
                let marker = part.aborted.entry((producer, first)).or_insert(i64::MAX);
                *marker = (*marker).min(offset);
                None
            }
            (Event::Marker { .. }, _) => None,
        };
    }
    Ok(())
}

fn gather(chunk: &Chunk, events: &mut BTreeMap<(i64, i64), Event>) {
    for (bytes, header) in chunk.batches() {
        if !header.is_transactional() {
            continue;
        }
        let event = match header.is_control() {
            true => Event::Marker { aborts: aborts(header, bytes) },
            false => Event::Data,
        };
        events.insert((header.producer_id, header.base_offset), event);
    }
}

/// The key of a control record: version i16, type i16 (0 abort, 1 commit), big-endian. Source: the protocol guide, "Control Batches".
fn aborts(header: &Header, batch: &[u8]) -> bool {
    let Ok(payload) = Payload::unpack(header, batch) else { return false };
    let Some(Ok(record)) = payload.records().next() else { return false };
    let key = record.parse_body().ok().and_then(|body| body.key);
    key.and_then(|key| key.get(2..4)) == Some([0, 0].as_slice())
}
