//! Reads of a plan's chunks that send nothing: which are damaged, and what a complete restore ends with.

use bodley_io::kafka::TopicPartition;
use bodley_protocol::batch;
use bodley_protocol::records::Payload;
use std::sync::Arc;

use super::ahead::Source;
use super::map::MapRun;
use super::outgo::{Handed, Order, Preparer};
use super::stand::{Stand, Writer};
use super::work::{Chunk, Work};
use crate::error::EngineError;

fn preparer(source: &Source, tp: &TopicPartition, work: &Work) -> Preparer {
    let stand = Stand::fresh(0, Writer::NOBODY);
    let order = Order { tp: tp.clone(), work: Arc::new(work.clone()), stand };
    Preparer::new(source.clone(), order)
}

/// The damaged chunks of a partition: index and what is wrong.
pub async fn damaged(
    source: &Source,
    tp: &TopicPartition,
    work: &Work,
) -> Result<Vec<(usize, EngineError)>, EngineError> {
    let mut preparer = preparer(source, tp, work);
    let mut found = Vec::new();
    preparer.expect((0..work.chunks.len()).collect());
    for index in 0..work.chunks.len() {
        match preparer.chunk(index).await {
            Ok(_) => {}
            Err(error @ EngineError::Damaged { .. }) => found.push((index, error)),
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// Where the records of a partition lie that an earlier run has restored, which stands so: the end of them, and the runs of the offset map. Reads what has holes.
pub async fn map(
    source: &Source,
    tp: &TopicPartition,
    work: &Work,
    stand: &Stand,
) -> Result<(i64, Vec<MapRun>), EngineError> {
    let all = Stand { done: i64::MAX, ..stand.clone() };
    let order =
        Order { tp: tp.clone(), work: Arc::new(Work { needs_exact_map: true, ..work.clone() }), stand: all };
    let mut preparer = Preparer::new(source.clone(), order);
    for (index, chunk) in work.chunks.iter().enumerate() {
        if !preparer.counts(chunk) {
            preparer.chunk(index).await?;
        }
    }
    let (records, map) = preparer.into_map();
    Ok((stand.offset_of(records), map.finish(stand)))
}

/// A record without its offset: time, and key, value and headers as they lie in the batch.
pub type Bare = (i64, Vec<u8>);

/// What a complete restore leaves.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Records in all.
    pub records: i64,
    /// Those of the last stored batch: with them ends the last batch at the target, of which they may be a part. `None`: they can't be read.
    pub last: Option<Vec<Bare>>,
}

/// What a complete restore of a partition ends with. Reads as few chunks as it can.
pub async fn outcome(source: &Source, tp: &TopicPartition, work: &Work) -> Result<Outcome, EngineError> {
    let mut preparer = preparer(source, tp, work);
    let mut outcome = Outcome::default();
    // What is not counted is read anyway, and may turn out to hold nothing that is wanted.
    let last = work.chunks.iter().rposition(|chunk| chunk.count().is_some_and(|count| count > 0));
    let counted = |index: usize, chunk: &Chunk| chunk.count().filter(|_| Some(index) != last);
    let chunks = || work.chunks.iter().enumerate();
    let read = chunks().filter(|(index, chunk)| counted(*index, chunk).is_none());
    preparer.expect(read.map(|(index, _)| index).collect());
    for (index, chunk) in chunks() {
        if let Some(count) = counted(index, chunk) {
            outcome.records += count;
            continue;
        }
        if let Handed::Chunk(batches, _) = preparer.chunk(index).await? {
            outcome.records += batches.iter().map(|batch| i64::from(batch.records)).sum::<i64>();
            if let Some(batch) = batches.last() {
                outcome.last = bare(batch.bytes()).filter(|records| !records.is_empty());
            }
        }
    }
    Ok(outcome)
}

/// The records of a whole batch; `None`: it is no whole batch of readable records.
pub fn bare(bytes: &[u8]) -> Option<Vec<Bare>> {
    let header = batch::view_checked(bytes).ok()??;
    let payload = Payload::unpack(&header, bytes).ok()?;
    payload
        .records()
        .map(|record| record.ok().map(|record| (record.timestamp, record.body.to_vec())))
        .collect()
}
