//! Where a partition of a restore stands: which record of the plan lies at which offset of the target.
//!
//! Records lie one behind the other, but for the fences that runs of the restore put between them. So the place of every record follows from
//! one pair of numbers per run.

use bodley_io::kafka::produce::ProducerIdentity;

/// A producer of the restore. Each is used until a fence is put behind its requests; what is written behind the fence is another one's, or the
/// fence would be forgotten as soon as old records follow it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Writer {
    /// Producer id and epoch.
    pub identity: ProducerIdentity,
    /// Counts the restore's producers from 0.
    pub generation: u32,
}

impl Writer {
    /// None yet.
    pub const NOBODY: Self = Self { identity: ProducerIdentity { id: -1, epoch: -1 }, generation: 0 };
}

/// Sequences wrap behind the greatest INT32.
pub const SEQUENCES: i64 = 1 << 31;

/// From here on records follow each other without a fence between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Records of the plan before it.
    pub records: i64,
    /// Offset at the target of the first one in it.
    pub offset: i64,
}

/// One partition's standing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stand {
    /// Earlier pieces, by records.
    pub earlier: Vec<Piece>,
    /// The one that is written now; sequences count from its begin.
    pub piece: Piece,
    /// Who writes it.
    pub writer: Writer,
    /// Records of the plan that are at the target.
    pub done: i64,
}

impl Stand {
    /// Nothing is written yet; the first record goes to `offset`.
    pub fn fresh(offset: i64, writer: Writer) -> Self {
        Self { earlier: Vec::new(), piece: Piece { records: 0, offset }, writer, done: 0 }
    }

    /// Offset at the target of record `number` of the plan (counted from 0), or where it will lie.
    pub fn offset_of(&self, number: i64) -> i64 {
        let earlier = self.earlier.iter().rev();
        let piece = std::iter::once(&self.piece).chain(earlier).find(|piece| piece.records <= number);
        let piece = piece.unwrap_or(&self.piece);
        piece.offset + number - piece.records
    }

    /// How many records from `number` on lie one behind the other.
    pub fn records_in_a_row(&self, number: i64) -> i64 {
        let pieces = self.earlier.iter().chain([&self.piece]);
        let behind = pieces.map(|piece| piece.records).filter(|records| *records > number).min();
        behind.map_or(i64::MAX, |records| records - number)
    }

    /// Producer sequence of record `number`.
    pub fn sequence_of(&self, number: i64) -> i32 {
        (number - self.piece.records).rem_euclid(SEQUENCES) as i32
    }

    /// The standing behind a fence: `done` records are there, the next one goes to `offset`.
    pub fn behind_fence(mut self, done: i64, offset: i64, writer: Writer) -> Self {
        if done > self.piece.records {
            self.earlier.push(self.piece);
        }
        Self { earlier: self.earlier, piece: Piece { records: done, offset }, writer, done }
    }

    /// Forgets one piece, so that records in it are taken to lie a little earlier than they do. `false`: there is none to forget.
    pub fn forget_a_piece(&mut self) -> bool {
        let many = self.earlier.len() > 1;
        if many {
            self.earlier.remove(1);
        }
        many
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_have_their_places() {
        let who = |generation| Writer { identity: ProducerIdentity { id: 7, epoch: 0 }, generation };
        let first = Stand::fresh(100, who(0));
        assert_eq!((first.offset_of(0), first.offset_of(9), first.sequence_of(9)), (100, 109, 9));
        // 30 records, a fence at 130, nothing, another fence at 131, 10 records.
        let idle = first.clone().behind_fence(30, 131, who(1));
        let second = idle.behind_fence(30, 132, who(2));
        assert_eq!(second.earlier, [Piece { records: 0, offset: 100 }]);
        let places = [0, 29, 30, 39].map(|n| second.offset_of(n));
        assert_eq!(places, [100, 129, 132, 141]);
        assert_eq!(second.sequence_of(30), 0);
        let mut third = second.behind_fence(40, 143, who(3));
        assert!(third.forget_a_piece() && !third.forget_a_piece());
        // A little too early, never too late.
        assert_eq!([29, 35, 40].map(|n| third.offset_of(n)), [129, 135, 143]);
    }

    #[test]
    fn sequences_wrap() {
        let identity = ProducerIdentity { id: 1, epoch: 0 };
        let stand = Stand::fresh(0, Writer { identity, generation: 0 });
        assert_eq!(stand.sequence_of(i64::from(i32::MAX)), i32::MAX);
        assert_eq!(stand.sequence_of(i64::from(i32::MAX) + 1), 0);
    }
}
