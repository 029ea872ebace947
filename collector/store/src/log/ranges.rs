//! A set of sequences as few ranges.

/// Which sequences of one boot were appended: disjoint inclusive ranges, ascending, never touching.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Ranges(Vec<(u64, u64)>);

impl Ranges {
    /// Gaps come from heartbeats that an agent had to drop. Past this many, the oldest gap is closed: what is
    /// missing there was dropped long ago.
    const MAX: usize = 64;

    /// Adds `seq`; `false` if it was there.
    pub(super) fn insert(&mut self, seq: u64) -> bool {
        let after = self.0.partition_point(|(first, _)| *first <= seq);
        if after > 0 && self.0[after - 1].1 >= seq {
            return false;
        }
        let joins_left = after > 0 && self.0[after - 1].1 + 1 == seq;
        let joins_right = after < self.0.len() && seq + 1 == self.0[after].0;
        match (joins_left, joins_right) {
            (true, true) => {
                self.0[after - 1].1 = self.0[after].1;
                self.0.remove(after);
            }
            (true, false) => self.0[after - 1].1 = seq,
            (false, true) => self.0[after].0 = seq,
            (false, false) => self.0.insert(after, (seq, seq)),
        }
        if self.0.len() > Self::MAX {
            self.0[0].1 = self.0[1].1;
            self.0.remove(1);
        }
        true
    }

    /// Takes `seq` out again, if it is there.
    pub(super) fn remove(&mut self, seq: u64) {
        let Some(at) = self
            .0
            .iter()
            .position(|(first, last)| (*first..=*last).contains(&seq))
        else {
            return;
        };
        let (first, last) = self.0.remove(at);
        if seq < last {
            self.0.insert(at, (seq + 1, last));
        }
        if first < seq {
            self.0.insert(at, (first, seq - 1));
        }
    }

    /// The highest sequence.
    pub(super) fn highest(&self) -> Option<u64> {
        self.0.last().map(|(_, last)| *last)
    }

    /// Flat: first, last, first, last …
    pub(super) fn to_flat(&self) -> Vec<u64> {
        self.0
            .iter()
            .flat_map(|(first, last)| [*first, *last])
            .collect()
    }

    /// The reverse of [`Ranges::to_flat`].
    pub(super) fn from_flat(flat: &[u64]) -> Self {
        Self(
            flat.chunks_exact(2)
                .map(|pair| (pair[0], pair[1]))
                .collect(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn it_is_a_set(seqs in prop::collection::vec(1u64..60, 0..200)) {
            let (mut ranges, mut model) = (Ranges::default(), BTreeSet::new());
            for seq in seqs {
                if seq % 5 == 0 {
                    ranges.remove(seq / 2);
                    model.remove(&(seq / 2));
                }
                prop_assert_eq!(ranges.insert(seq), model.insert(seq));
                prop_assert_eq!(ranges.highest(), model.last().copied());
            }
            let flat = ranges.to_flat();
            prop_assert!(flat.windows(2).all(|w| w[0] <= w[1]));
            prop_assert_eq!(Ranges::from_flat(&flat), ranges);
        }
    }

    #[test]
    fn gaps_are_bounded() {
        let mut ranges = Ranges::default();
        for seq in (1..10_000).step_by(2) {
            assert!(ranges.insert(seq));
        }
        assert!(ranges.0.len() <= Ranges::MAX);
        assert!(!ranges.insert(9_999));
        assert!(ranges.insert(10_001));
    }
}
