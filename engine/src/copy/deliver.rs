//! Objects of several commits are under way at a time; commits are put one by one, in the order of the log.
//!
//! A store lets in so many requests at a time, and a commit waits for its turn behind those for objects. So whatever may hold a turn is always gone on with: what is
//! bounded is how many commits are begun, never what becomes of those that are.

use std::sync::Arc;

use futures_util::stream::{self, StreamExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::courier::{Courier, Delivery, Trouble};
use super::plan::Work;
use crate::error::EngineError;
use crate::report::Report;
use crate::vault::Receipt;

/// Commits whose objects are under way at a time.
const AHEAD: usize = 16;
/// Commits that are begun and not put yet.
const BEGUN: usize = 2 * AHEAD;

/// What is to be put, and its place among those that are begun.
type Begun = (Delivery, Option<OwnedSemaphorePermit>);

/// Does all work, in order, up to the first commit that can't be put. Returns what is wrong with the objects.
pub(super) async fn deliver(
    courier: &Courier,
    mut work: Vec<Work>,
    report: &mut Report,
) -> Result<Vec<Trouble>, EngineError> {
    // Segments without any commit mean that the log was lost: the first one, which names none, is there before them.
    let begins = work.first().is_some_and(|work| work.seq == 1);
    let rest = work.split_off(usize::from(begins));
    let mut troubles = deliver_all(courier, work, report).await?;
    if troubles.is_empty() {
        troubles = deliver_all(courier, rest, report).await?;
    }
    Ok(troubles)
}

async fn deliver_all(
    courier: &Courier,
    work: Vec<Work>,
    report: &mut Report,
) -> Result<Vec<Trouble>, EngineError> {
    // Never full: its room is that of the places.
    let (send, receive) = mpsc::unbounded_channel();
    let (fed, troubles) = tokio::join!(feed(courier, work, send), commit(courier, receive, report));
    let troubles = troubles?;
    fed?;
    Ok(troubles)
}

/// Ends when nobody wants more.
async fn feed(
    courier: &Courier,
    work: Vec<Work>,
    send: mpsc::UnboundedSender<Begun>,
) -> Result<(), EngineError> {
    let places = Arc::new(Semaphore::new(BEGUN));
    let begun = stream::iter(work).map(async |work| {
        // Places are taken in the order of the log, so that the next one to be put has one. Who waits for one has asked no store for anything.
        let place = Arc::clone(&places).acquire_owned().await.ok();
        Ok::<Begun, EngineError>((courier.bring(work).await?, place))
    });
    let mut deliveries = std::pin::pin!(begun.buffered(AHEAD));
    loop {
        let delivery = tokio::select! {
            delivery = deliveries.next() => delivery,
            () = send.closed() => return Ok(()),
        };
        let Some(delivery) = delivery.transpose()? else { return Ok(()) };
        if send.send(delivery).is_err() {
            return Ok(());
        }
    }
}

async fn commit(
    courier: &Courier,
    mut receive: mpsc::UnboundedReceiver<Begun>,
    report: &mut Report,
) -> Result<Vec<Trouble>, EngineError> {
    let mut troubles = Vec::new();
    while let Some((delivery, _place)) = receive.recv().await {
        let Delivery { seq, commit, digest, tally, troubles: bad } = delivery;
        let is_new = newest(report) < seq;
        let is_stuck = is_new && !bad.is_empty();
        troubles.extend(bad);
        let copied = report.copied.get_or_insert_default();
        tally.add_to(copied);
        if is_stuck {
            break;
        }
        if let Some(bytes) = commit {
            match courier.put_commit(seq, bytes).await? {
                true => copied.commits += 1,
                false => copied.skipped_commits += 1,
            }
            if is_new {
                report.receipt = Some(Receipt { seq, digest }.to_string());
            }
        }
        courier.progress().partition_done();
    }
    Ok(troubles)
}

/// The newest commit of the target.
fn newest(report: &Report) -> u64 {
    let receipt = report.receipt.as_deref().and_then(|text| text.parse::<Receipt>().ok());
    receipt.map_or(0, |receipt| receipt.seq)
}
