//! Aborted transactions of one partition: gathered while it is read, consulted when it is read back.

use std::collections::BTreeMap;

use bodley_protocol::fetch::AbortedTransaction;

use super::rows::AbortedRow;
use super::state::PartKey;

/// A producer's id and the first offset of one of its transactions.
type Key = (i64, i64);

/// A producer's transactions follow each other, so the one to look for is among its last that begin before an offset.
const LAST: usize = 8;

#[derive(Debug, Clone, Copy)]
struct Entry {
    /// `i64::MAX`: not seen.
    marker: i64,
    /// Not yet in a commit's rows.
    dirty: bool,
}

/// The aborted transactions of one partition: the union of what responses listed, each closed by its marker in the data.
///
/// A list is complete for a fetch that starts inside a transaction, so it needs no memory of earlier runs.
#[derive(Debug, Default)]
pub struct Aborted {
    /// Their markers have not been seen.
    open: BTreeMap<Key, Entry>,
    closed: BTreeMap<Key, Entry>,
}

impl Aborted {
    /// What a vault knows of a partition.
    pub fn from_rows<'a>(rows: impl Iterator<Item = &'a AbortedRow>) -> Self {
        let entry =
            |row: &AbortedRow| ((row.producer_id, row.first), Entry { marker: row.marker, dirty: false });
        let (open, closed) = rows.map(entry).partition(|(_, entry)| entry.marker == i64::MAX);
        Self { open, closed }
    }

    /// Adds what the response to a fetch at `offset` lists: transactions whose marker is not below `offset`.
    pub fn learn(&mut self, listed: &[AbortedTransaction], offset: i64) {
        for AbortedTransaction { producer_id, first_offset } in listed {
            let key = (*producer_id, *first_offset);
            match self.closed.get(&key) {
                // Closed by a gap too early: its marker is still to come.
                Some(entry) if entry.marker < offset => _ = self.closed.remove(&key),
                Some(_) => continue,
                None => {}
            }
            self.open.entry(key).or_insert(Entry { marker: i64::MAX, dirty: true });
        }
    }

    /// Offsets up to `offset` are lost, and perhaps markers with them: what is open ends there. A transaction that goes on behind it is listed
    /// again by the next response.
    pub fn close_all(&mut self, offset: i64) {
        let open = std::mem::take(&mut self.open).into_keys();
        self.closed.extend(open.map(|key| (key, Entry { marker: offset, dirty: true })));
    }

    /// Whether a transactional data batch is aborted.
    pub fn covers(&self, producer_id: i64, base_offset: i64, last_offset: i64) -> bool {
        let begun = (producer_id, i64::MIN)..=(producer_id, last_offset);
        let hit = |(_, entry): (&Key, &Entry)| entry.marker > base_offset;
        self.open.range(begun.clone()).next().is_some() || self.closed.range(begun).rev().take(LAST).any(hit)
    }

    /// A transaction marker of `producer_id` stands at `offset`: it closes what that producer has open, which is aborted (a commit
    /// marker can't follow an aborted transaction's data before its abort marker).
    pub fn close(&mut self, producer_id: i64, offset: i64) {
        let begun = (producer_id, i64::MIN)..=(producer_id, offset);
        while let Some((key, _)) = self.open.range(begun.clone()).next() {
            let key = *key;
            self.open.remove(&key);
            self.closed.insert(key, Entry { marker: offset, dirty: true });
        }
    }

    /// Rows for what is new since the last call. Closed entries are forgotten: no later fetch can begin inside of them.
    pub fn take_rows(&mut self, key: PartKey, rewind: u32) -> Vec<AbortedRow> {
        let closed = std::mem::take(&mut self.closed);
        let open = self.open.iter_mut().map(|(key, entry)| {
            let told = *entry;
            entry.dirty = false;
            (*key, told)
        });
        let dirty = closed.into_iter().chain(open).filter(|(_, entry)| entry.dirty);
        let row = |((producer_id, first), Entry { marker, .. })| AbortedRow {
            topic: key.0,
            partition: key.1,
            rewind,
            producer_id,
            first,
            marker,
        };
        dirty.map(row).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_transactions_of_one_producer() {
        let mut aborted = Aborted::default();
        let listed = |first| AbortedTransaction { producer_id: 7, first_offset: first };
        aborted.learn(&[listed(10), listed(30), listed(10)], 10);
        assert!(aborted.covers(7, 10, 12));
        assert!(!aborted.covers(8, 10, 12));
        assert!(!aborted.covers(7, 5, 9));
        aborted.close(7, 15);
        // Between the first one's marker and the second one's begin the producer committed something.
        assert!(!aborted.covers(7, 16, 20));
        assert!(aborted.covers(7, 12, 14));
        assert!(aborted.covers(7, 30, 31));
        let rows = aborted.take_rows(([1; 16], 2), 0);
        assert_eq!(rows.iter().map(|r| (r.first, r.marker)).collect::<Vec<_>>(), [(10, 15), (30, i64::MAX)]);
        assert!(aborted.take_rows(([1; 16], 2), 0).is_empty());
        // A gap to 35 may hold the marker; a later response says that it does not.
        aborted.close_all(35);
        assert!(!aborted.covers(7, 36, 37));
        aborted.learn(&[listed(30)], 36);
        assert!(aborted.covers(7, 36, 37));
        aborted.close(7, 40);
        assert_eq!(aborted.take_rows(([1; 16], 2), 0)[0].marker, 40);
    }
}
