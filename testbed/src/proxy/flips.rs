//! Bits that flip on the way.

/// Where the next bit flips, and what comes behind it.
#[derive(Debug, Default)]
pub(super) struct Flips {
    /// Bytes that still pass untouched.
    next: Option<u64>,
    /// Once more, each time after a random number of bytes below this.
    again: Option<(fastrand::Rng, u64)>,
}

impl Flips {
    /// One bit after so many bytes.
    pub(super) fn once(bytes: u64) -> Self {
        Self { next: Some(bytes), again: None }
    }

    /// Random bits, again and again.
    pub(super) fn at_random(seed: u64, below: u64) -> Self {
        let (mut rng, below) = (fastrand::Rng::with_seed(seed), below.max(1));
        Self { next: Some(rng.u64(0..below)), again: Some((rng, below)) }
    }

    /// Flips what is to be flipped in a chunk, one bit at most; true: one was.
    pub(super) fn pass(&mut self, chunk: &mut [u8]) -> bool {
        let Some(left) = self.next else { return false };
        let Some(byte) = usize::try_from(left).ok().and_then(|at| chunk.get_mut(at)) else {
            self.next = Some(left - chunk.len() as u64);
            return false;
        };
        let bit = self.again.as_mut().map_or(0, |(rng, _)| rng.u8(0..8));
        *byte ^= 1 << bit;
        self.next = self.again.as_mut().map(|(rng, below)| rng.u64(0..*below));
        true
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing, reason = "a failure ends the test")]

    use super::*;

    #[test]
    fn one_bit_where_it_was_asked_for() {
        let mut flips = Flips::once(5);
        let mut chunks = [[0u8; 4]; 3];
        let flipped: Vec<bool> = chunks.iter_mut().map(|chunk| flips.pass(chunk)).collect();
        assert_eq!(flipped, [false, true, false]);
        assert_eq!(chunks, [[0; 4], [0, 1, 0, 0], [0; 4]]);
    }

    #[test]
    fn bits_again_and_again_as_the_seed_has_it() {
        let flipped = |seed| {
            let mut flips = Flips::at_random(seed, 100);
            let mut chunks = vec![[0u8; 50]; 40];
            let count: u64 = chunks.iter_mut().map(|chunk| u64::from(flips.pass(chunk))).sum();
            let bits: u32 = chunks.iter().flatten().map(|byte| byte.count_ones()).sum();
            assert_eq!(count, u64::from(bits));
            assert!(count > 10, "{count}");
            chunks
        };
        assert_eq!(flipped(3), flipped(3));
        assert_ne!(flipped(3), flipped(4));
    }
}
