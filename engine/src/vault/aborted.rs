//! Aborted transactions of one partition: gathered while it is read, consulted when it is read back.

use bodley_protocol::fetch::AbortedTransaction;

use super::rows::AbortedRow;
use super::state::PartKey;

#[derive(Debug, Clone, Copy)]
struct Entry {
    producer_id: i64,
    first: i64,
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
    entries: Vec<Entry>,
}

impl Aborted {
    /// What a vault knows of a partition.
    pub fn from_rows<'a>(rows: impl Iterator<Item = &'a AbortedRow>) -> Self {
        let entry = |row: &AbortedRow| Entry {
            producer_id: row.producer_id,
            first: row.first,
            marker: row.marker,
            dirty: false,
        };
        Self { entries: rows.map(entry).collect() }
    }

    /// Adds what the response to a fetch at `offset` lists: transactions whose marker is not below `offset`.
    pub fn learn(&mut self, listed: &[AbortedTransaction], offset: i64) {
        for AbortedTransaction { producer_id, first_offset } in listed {
            let known = |e: &&mut Entry| (e.producer_id, e.first) == (*producer_id, *first_offset);
            match self.entries.iter_mut().find(known) {
                // Closed by a gap too early: its marker is still to come.
                Some(entry) if entry.marker < offset => (entry.marker, entry.dirty) = (i64::MAX, true),
                Some(_) => {}
                None => {
                    let (producer_id, first) = (*producer_id, *first_offset);
                    self.entries.push(Entry { producer_id, first, marker: i64::MAX, dirty: true });
                }
            }
        }
    }

    /// Offsets up to `offset` are lost, and perhaps markers with them: what is open ends there. A transaction that goes on behind it is listed
    /// again by the next response.
    pub fn close_all(&mut self, offset: i64) {
        for entry in self.entries.iter_mut().filter(|entry| entry.marker == i64::MAX) {
            (entry.marker, entry.dirty) = (offset, true);
        }
    }

    /// Whether a transactional data batch is aborted.
    pub fn covers(&self, producer_id: i64, base_offset: i64, last_offset: i64) -> bool {
        let hit =
            |e: &Entry| e.producer_id == producer_id && e.first <= last_offset && e.marker > base_offset;
        self.entries.iter().any(hit)
    }

    /// A transaction marker of `producer_id` stands at `offset`: it closes what that producer has open, which is aborted (a commit
    /// marker can't follow an aborted transaction's data before its abort marker).
    pub fn close(&mut self, producer_id: i64, offset: i64) {
        let open = |e: &&mut Entry| e.producer_id == producer_id && e.first <= offset && e.marker == i64::MAX;
        for entry in self.entries.iter_mut().filter(open) {
            (entry.marker, entry.dirty) = (offset, true);
        }
    }

    /// Rows for what is new since the last call. Closed entries are forgotten: no later fetch can begin inside of them.
    pub fn take_rows(&mut self, key: PartKey, rewind: u32) -> Vec<AbortedRow> {
        let dirty = self.entries.iter_mut().filter(|entry| entry.dirty);
        let rows = dirty.map(|entry| {
            entry.dirty = false;
            let Entry { producer_id, first, marker, .. } = *entry;
            AbortedRow { topic: key.0, partition: key.1, rewind, producer_id, first, marker }
        });
        let rows = rows.collect();
        self.entries.retain(|entry| entry.marker == i64::MAX);
        rows
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
