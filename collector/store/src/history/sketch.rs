//! A mergeable sketch of round-trip times: how many lie in each bin of a fixed log-linear scale.
//!
//! Bins are those of HdrHistogram with 32 to the octave: up to 64 µs one bin a value, above that each octave in 32 equal parts.
//! So a quantile is within 1/64 (1.6 %) of the true one, and merging any number of sketches in any order
//! gives the same as one sketch of everything.

/// Bits of a value that choose its bin within an octave.
const BITS: u32 = 5;
/// Bins of an octave.
const OCTAVE: u32 = 1 << BITS;

/// Bins that hold something, ascending, with how many values lie in each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sketch(Vec<(u32, u32)>);

impl Sketch {
    /// Adds a value.
    pub fn add(&mut self, value: u32) {
        self.add_bin(bin(value), 1);
    }

    /// Adds everything of another sketch.
    pub fn merge(&mut self, other: &Self) {
        if self.0.is_empty() {
            self.0.clone_from(&other.0);
            return;
        }
        let mut merged = Vec::with_capacity(self.0.len() + other.0.len());
        let (mut left, mut right) = (self.0.iter().peekable(), other.0.iter().peekable());
        loop {
            match (left.peek(), right.peek()) {
                (Some((a, n)), Some((b, m))) if a == b => {
                    merged.push((*a, n.saturating_add(*m)));
                    left.next();
                    right.next();
                }
                (Some((a, _)), Some((b, _))) if a < b => merged.extend(left.next()),
                (Some(_), None) => merged.extend(left.next()),
                (_, Some(_)) => merged.extend(right.next()),
                (None, None) => break,
            }
        }
        self.0 = merged;
    }

    /// The value at the nearest rank of quantile `q` (0 to 1): the middle of its bin; `None` of nothing.
    pub fn quantile(&self, q: f64) -> Option<u32> {
        let count: u64 = self.0.iter().map(|(_, n)| u64::from(*n)).sum();
        // A count below 2^53 and a share of it: exact, and never negative.
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "see above"
        )]
        let rank = ((count as f64 * q).ceil() as u64).clamp(1, count.max(1));
        let mut seen = 0;
        self.0.iter().find_map(|(bin, n)| {
            seen += u64::from(*n);
            (seen >= rank).then(|| middle(*bin))
        })
    }

    /// Bins and counts, ascending.
    pub(crate) fn bins(&self) -> &[(u32, u32)] {
        &self.0
    }

    /// Adds `count` values of a bin.
    pub(crate) fn add_bin(&mut self, bin: u32, count: u32) {
        match self.0.binary_search_by_key(&bin, |(bin, _)| *bin) {
            Ok(at) => self.0[at].1 = self.0[at].1.saturating_add(count),
            Err(at) => self.0.insert(at, (bin, count)),
        }
    }
}

/// The highest bin there is.
pub(crate) const BIN_MAX: u32 = (31 - BITS + 2) * OCTAVE - 1;

/// The bin of a value.
pub(crate) fn bin(value: u32) -> u32 {
    if value < OCTAVE {
        return value;
    }
    let octave = value.ilog2();
    (octave - BITS + 1) * OCTAVE + ((value >> (octave - BITS)) & (OCTAVE - 1))
}

fn middle(bin: u32) -> u32 {
    if bin < 2 * OCTAVE {
        return bin;
    }
    let shift = bin / OCTAVE - 1;
    ((OCTAVE + bin % OCTAVE) << shift) + (1 << (shift - 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    impl Sketch {
        fn extend(&mut self, values: &[u32]) {
            for value in values {
                self.add(*value);
            }
        }
    }

    proptest! {
        #[test]
        fn quantiles_are_within_their_bound(mut values in prop::collection::vec(1u32.., 1..300), q in 0.0f64..=1.0) {
            let mut sketch = Sketch::default();
            sketch.extend(&values);
            values.sort_unstable();
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rank")]
            let rank = ((values.len() as f64 * q).ceil() as usize).max(1);
            let (exact, got) = (f64::from(values[rank - 1]), f64::from(sketch.quantile(q).expect("not empty")));
            prop_assert!((got - exact).abs() <= exact / 64.0, "{got} for {exact}");
        }

        #[test]
        fn merging_is_adding(left in prop::collection::vec(1u32..9_000, 0..100), right in prop::collection::vec(1u32..9_000, 0..100)) {
            let (mut a, mut b, mut all) = (Sketch::default(), Sketch::default(), Sketch::default());
            a.extend(&left);
            b.extend(&right);
            all.extend(&left);
            all.extend(&right);
            a.merge(&b);
            prop_assert_eq!(a, all);
        }

        #[test]
        fn bins_ascend(value in 0u32..u32::MAX) {
            prop_assert!(bin(value) <= bin(value + 1) && bin(value + 1) <= bin(value) + 1);
            prop_assert!(bin(value) <= BIN_MAX);
        }
    }

    #[test]
    fn of_nothing_there_is_no_quantile() {
        assert_eq!(Sketch::default().quantile(0.5), None);
        assert_eq!(bin(u32::MAX), BIN_MAX);
    }
}
