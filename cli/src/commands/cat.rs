//! `bodley cat`

use std::io::{ErrorKind, Write};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bodley_engine::error::Severity;
use bodley_engine::look::{self, Reader, Seen, Source, Window};
use bodley_engine::{EngineError, Gap, Issue, Moment, Report, inventory};
use bodley_io::BufferPool;
use bodley_io::latency::Latencies;
use bodley_io::store::SharedStore;
use tokio::sync::{mpsc, oneshot};

use super::{Named, Outcome, open_measured, usage};
use crate::args::{Cat, Common, OutputFormat};
use crate::ended::Ended;
use crate::output;
use crate::records::{Format, Place, put_json};
use crate::signals::Signals;

/// From here on what was read waits for what is to be written.
const MUCH: usize = 256 << 10;
/// Pieces of output on their way.
const PIECES: usize = 2;
/// Part buffers that may be out: one is read at a time.
const BUFFERS: usize = 2;
/// So long a run that was ended by a signal waits for its output to be taken.
const LAST_WRITE: Duration = Duration::from_secs(1);
/// More gaps and damaged chunks than these are only counted on stderr.
const MANY: usize = 20;

pub async fn run(flags: Cat, common: &Common) -> Outcome {
    let window = window(&flags);
    window.check()?;
    let latencies = Arc::new(Latencies::default());
    let store = open_measured(Named::vault(&flags.vault.vault, common), flags.limit_read, None, &latencies)?;
    let signals = Signals::listen().map_err(|e| usage(format!("cannot listen for signals: {e}")))?;
    let mut stop = signals.stop();
    let Output { pieces, mut written } = Output::start()?;
    let mut cat = Printer {
        format: flags.format.clone(),
        pieces,
        text: Vec::new(),
        left: flags.limit.unwrap_or(u64::MAX),
        report: Report::default(),
    };
    let ended = tokio::select! {
        _ = stop.wait_for(|stop| *stop) => None,
        result = cat.all(store, &flags, window) => Some(result),
    };
    let Printer { mut report, pieces, .. } = cat;
    report.interrupted = ended.is_none();
    drop(pieces);
    let result = match ended {
        Some(result) => {
            writing((&mut written).await)?;
            result
        }
        None => match tokio::time::timeout(LAST_WRITE, &mut written).await {
            Ok(result) => Ok(writing(result)?),
            // Whoever holds up the output would hold up a document as well.
            Err(_) => return Ok(signals.exit_code()),
        },
    };
    if common.verbose > 0 {
        output::print_latency(&latencies.summaries());
    }
    tell_rest(&report);
    result?;
    let code = if report.interrupted { signals.exit_code() } else { report.exit_code() };
    if code != 0 && common.output == OutputFormat::Json {
        output::print_json("cat", code, &report);
    }
    Ok(code)
}

fn window(flags: &Cat) -> Window {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let now = i64::try_from(since.as_millis()).unwrap_or(i64::MAX);
    let resolve = |moment: Option<Moment>| moment.map(|moment| moment.resolve(now));
    Window {
        from: resolve(flags.from),
        to: resolve(flags.to),
        from_offset: flags.from_offset,
        to_offset: flags.to_offset,
    }
}

/// What became of the output.
type Written = std::io::Result<()>;

/// Standard output, in the hands of a thread of its own: it may wait for long, which must hold up nothing else.
struct Output {
    pieces: mpsc::Sender<Vec<u8>>,
    /// Told at the end.
    written: oneshot::Receiver<Written>,
}

impl Output {
    fn start() -> Result<Self, Box<Ended>> {
        let (pieces, mut inbox) = mpsc::channel::<Vec<u8>>(PIECES);
        let (tell, written) = oneshot::channel();
        let write = move || {
            let mut stdout = std::io::stdout().lock();
            let mut result = Ok(());
            while let Some(piece) = inbox.blocking_recv() {
                result = stdout.write_all(&piece).and_then(|()| stdout.flush());
                if result.is_err() {
                    break;
                }
            }
            drop(stdout);
            let _ = tell.send(result);
        };
        let spawned = std::thread::Builder::new().name("stdout".to_owned()).spawn(write);
        spawned.map_err(|error| system(format!("cannot start: {error}")))?;
        Ok(Self { pieces, written })
    }
}

fn system(message: String) -> Box<Ended> {
    Box::new(Ended::from(Issue::new("system", Severity::Failed, message)))
}

/// A reader that went away has seen what it wanted.
fn writing(result: Result<Written, oneshot::error::RecvError>) -> Result<(), Box<Ended>> {
    match result {
        Ok(Err(error)) if error.kind() != ErrorKind::BrokenPipe => {
            Err(system(format!("cannot write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// Puts records into the output.
struct Printer {
    format: Option<Format>,
    pieces: mpsc::Sender<Vec<u8>>,
    text: Vec<u8>,
    /// So many records may still be printed.
    left: u64,
    report: Report,
}

/// There is nothing more to do: all that may be printed is, or nobody reads it.
struct Enough;

impl Printer {
    async fn all(&mut self, store: SharedStore, flags: &Cat, window: Window) -> Result<(), Box<Ended>> {
        let mut vault = inventory::open_at(Arc::clone(&store), flags.at).await?;
        let state = vault.fold(true).await.map_err(EngineError::from)?;
        let topic = look::find_topic(&state, &flags.topic, flags.incarnation)?;
        let pool = BufferPool::new(store.part_len(), BUFFERS * store.part_len());
        let source = Source { store, pool };
        for partition in look::partitions_of(&state, topic, &flags.partitions)? {
            let Some(stored) = state.partitions.get(&(topic.topic, partition)) else { continue };
            let mut reader = Reader::new(&source, &topic.name, stored, window);
            if let Some(last) = flags.last {
                reader.only_last(last).await?;
            }
            let place = Place { topic: &topic.name, partition };
            if self.partition(&mut reader, place).await?.is_err() {
                break;
            }
        }
        let _ = self.send().await;
        Ok(())
    }

    async fn partition(
        &mut self,
        reader: &mut Reader<'_>,
        place: Place<'_>,
    ) -> Result<Result<(), Enough>, Box<Ended>> {
        while let Some(seen) = reader.next().await? {
            match seen {
                Seen::Batch(batch) => {
                    for record in batch.records() {
                        self.record(place, &record)?;
                        if self.left == 0 {
                            return Ok(Err(Enough));
                        }
                        if self.text.len() >= MUCH && self.send().await.is_err() {
                            return Ok(Err(Enough));
                        }
                    }
                    // What is written at once need not wait for more.
                    if self.pieces.capacity() == PIECES && self.send().await.is_err() {
                        return Ok(Err(Enough));
                    }
                }
                Seen::Gap(gap) => self.gap(gap),
                Seen::Damage(error) => self.damage(&error),
            }
        }
        Ok(Ok(()))
    }

    fn record(&mut self, place: Place<'_>, record: &look::Record<'_>) -> Result<(), Box<Ended>> {
        let put = match &self.format {
            Some(format) => format.put(&mut self.text, place, record),
            None => put_json(&mut self.text, place, record).map_err(Into::into),
        };
        self.left -= 1;
        put.map_err(|error| system(format!("a record can't be printed: {error}")))
    }

    async fn send(&mut self) -> Result<(), Enough> {
        if self.text.is_empty() {
            return Ok(());
        }
        self.pieces.send(std::mem::take(&mut self.text)).await.map_err(|_| Enough)
    }

    fn gap(&mut self, gap: Gap) {
        if self.report.gaps.len() < MANY {
            output::print_note(&format!(
                "{}-{} offsets {}..{} are not in the vault ({})",
                gap.topic, gap.partition, gap.first, gap.next, gap.reason
            ));
        }
        self.report.gaps.push(gap);
    }

    fn damage(&mut self, error: &EngineError) {
        let issue = Issue::from(error);
        if self.report.errors.len() < MANY {
            output::print_issue(&issue);
        }
        self.report.errors.push(issue);
    }
}

/// Counts what was too much to be told one by one.
fn tell_rest(report: &Report) {
    let more = report.gaps.len().saturating_sub(MANY);
    if more > 0 {
        output::print_note(&format!("… and {} more", output::plural(more, "gap")));
    }
    let more = report.errors.len().saturating_sub(MANY);
    if more > 0 {
        output::print_note(&format!("… and {} more", output::plural(more, "damaged chunk")));
    }
}
