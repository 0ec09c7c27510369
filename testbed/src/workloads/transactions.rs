//! Oddities that transactional producers make.

use anyhow::Result;

use super::Filling;
use crate::workbench::{Codec, ProduceOptions, Record};

impl Filling<'_> {
    /// Records whose values tell their transaction.
    pub(super) fn marked(&self, partition: i32, what: &str, count: u32) -> Vec<Record> {
        let record =
            |n| Record::new(partition).key(format!("{what}-{n}")).value(format!("{what} {}", self.round));
        (0..count).map(record).collect()
    }
}

/// Committed and aborted transactions in turn, over both partitions or in one, and plain records between them.
pub(super) fn sequence(to: &Filling<'_>) -> Result<()> {
    let producer = format!("{}-sequence", to.topic);
    for (n, commit) in [true, false, true, false, false, true].into_iter().enumerate() {
        let what = if commit { "committed" } else { "aborted" };
        to.bench.begin(&producer, &ProduceOptions::default())?;
        to.bench.send(&producer, to.topic, &to.marked(0, what, 4))?;
        if n % 2 == 0 {
            to.bench.send(&producer, to.topic, &to.marked(1, what, 3))?;
        }
        end(to, &producer, commit)?;
        to.write(&to.marked(1, "plain", 2), &ProduceOptions::default())?;
    }
    Ok(())
}

pub(super) fn interleaved(to: &Filling<'_>) -> Result<()> {
    let (left, right) = (format!("{}-left", to.topic), format!("{}-right", to.topic));
    for commit_left in [true, false] {
        let (what_left, what_right) =
            if commit_left { ("committed", "aborted") } else { ("aborted", "committed") };
        to.bench.begin(&left, &ProduceOptions::codec(Codec::Lz4))?;
        to.bench.begin(&right, &ProduceOptions::default())?;
        for _turn in 0..3 {
            to.bench.send(&left, to.topic, &to.marked(0, what_left, 2))?;
            to.bench.send(&right, to.topic, &to.marked(0, what_right, 3))?;
            to.write(&to.marked(0, "plain", 1), &ProduceOptions::default())?;
        }
        end(to, &left, commit_left)?;
        to.bench.send(&right, to.topic, &to.marked(0, what_right, 1))?;
        end(to, &right, !commit_left)?;
    }
    Ok(())
}

/// Even rounds leave a transaction open, odd ones end it: by a commit first, by an abort the next time.
pub(super) fn open(to: &Filling<'_>) -> Result<()> {
    let (holder, other) = (format!("{}-holder", to.topic), format!("{}-other", to.topic));
    if to.round.is_multiple_of(2) {
        to.write(&to.marked(0, "before", 3), &ProduceOptions::default())?;
        to.bench.begin(&holder, &ProduceOptions::default())?;
        to.bench.send(&holder, to.topic, &to.marked(0, "held", 5))?;
    } else {
        to.bench.send(&holder, to.topic, &to.marked(0, "held", 2))?;
        end(to, &holder, to.round % 4 == 1)?;
    }
    for commit in [true, false] {
        let what = if commit { "committed" } else { "aborted" };
        to.bench.begin(&other, &ProduceOptions::default())?;
        to.bench.send(&other, to.topic, &[to.marked(0, what, 2), to.marked(1, what, 2)].concat())?;
        end(to, &other, commit)?;
    }
    to.write(&[to.marked(0, "after", 4), to.marked(1, "after", 1)].concat(), &ProduceOptions::default())
}

pub(super) fn end(to: &Filling<'_>, producer: &str, commit: bool) -> Result<()> {
    if commit { to.bench.commit(producer) } else { to.bench.abort(producer) }
}
