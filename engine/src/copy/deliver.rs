//! Objects of several commits are under way at a time; commits are put one by one, in the order of the log.

use futures_util::stream::{self, StreamExt};
use tokio::sync::mpsc;

use super::courier::{Courier, Delivery, Trouble};
use super::plan::Work;
use crate::error::EngineError;
use crate::report::Report;
use crate::vault::Receipt;

/// Commits whose objects are under way at a time, and as many again that wait to be put.
const AHEAD: usize = 16;

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
    let (send, receive) = mpsc::channel(AHEAD);
    let (fed, troubles) = tokio::join!(feed(courier, work, send), commit(courier, receive, report));
    let troubles = troubles?;
    fed?;
    Ok(troubles)
}

/// Ends when nobody wants more.
async fn feed(courier: &Courier, work: Vec<Work>, send: mpsc::Sender<Delivery>) -> Result<(), EngineError> {
    let mut deliveries = std::pin::pin!(stream::iter(work).map(|work| courier.bring(work)).buffered(AHEAD));
    loop {
        let delivery = tokio::select! {
            delivery = deliveries.next() => delivery,
            () = send.closed() => return Ok(()),
        };
        let Some(delivery) = delivery.transpose()? else { return Ok(()) };
        if send.send(delivery).await.is_err() {
            return Ok(());
        }
    }
}

async fn commit(
    courier: &Courier,
    mut receive: mpsc::Receiver<Delivery>,
    report: &mut Report,
) -> Result<Vec<Trouble>, EngineError> {
    let mut troubles = Vec::new();
    while let Some(delivery) = receive.recv().await {
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
