//! Roaming: an office comes up when another goes down, again and again, because something they share moves between them.
//!
//! Of two offices' transitions, those of opposite direction within a window W speak for it (*anti*), those of the same direction within W against it
//! (*co*), and those of opposite direction within the twenty windows beside it tell how many are so by chance (*side*). Both must be improbable: so many
//! *anti* among *anti + side* at 1 in 21, for all pairs that are watched, and among *anti + co* at 1 in 2.

use crate::office::Outage;
use crate::params::Params;
use denyut_proto::UnixMillis;

/// Windows that are looked at: one for what is simultaneous, twenty to compare.
const WINDOWS: i64 = 21;

/// A pair of offices that take turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turns {
    /// Event time of the first turn.
    pub from: UnixMillis,
    /// And of the last.
    pub last: UnixMillis,
    /// Transitions of opposite direction at the same time.
    pub count: u32,
}

/// A transition: when, and whether it went down.
type Transition = (i64, bool);

/// The transitions that count: neither a power cut nor a common cause.
pub fn transitions(outages: &[Outage], is_common: impl Fn(UnixMillis) -> bool) -> Vec<Transition> {
    let mut all = Vec::new();
    for outage in outages {
        if outage.masked || outage.central || is_common(outage.from) {
            continue;
        }
        all.push((outage.from.0, true));
        if let Some(until) = outage.until {
            all.push((until.0, false));
        }
    }
    all.sort_unstable();
    all
}

/// Whether two offices take turns, of `pairs` that are watched.
pub fn turns(
    params: &Params,
    one: &[Transition],
    other: &[Transition],
    pairs: usize,
) -> Option<Turns> {
    let window = i64::try_from(params.roam_window.as_millis()).unwrap_or(i64::MAX / WINDOWS);
    let (mut anti, mut co, mut side) = (0_u32, 0_u32, 0_u32);
    let mut seen: Option<(i64, i64)> = None;
    let mut start = 0;
    for (at, down) in one {
        while start < other.len() && other[start].0 < at - window * WINDOWS {
            start += 1;
        }
        for (then, was_down) in other[start..]
            .iter()
            .take_while(|(then, _)| *then <= at + window * WINDOWS)
        {
            let near = (at - then).abs() <= window;
            match (down == was_down, near) {
                (false, true) => {
                    anti += 1;
                    let (first, last) = seen.unwrap_or((i64::MAX, i64::MIN));
                    seen = Some((first.min(*at).min(*then), last.max(*at).max(*then)));
                }
                (true, true) => co += 1,
                (false, false) => side += 1,
                (true, false) => {}
            }
        }
    }
    #[allow(clippy::cast_precision_loss, reason = "a count of pairs")]
    let by_chance = binomial_tail(anti, anti + side, 1.0 / f64::from(21)) * pairs.max(1) as f64;
    let both_ways = binomial_tail(anti, anti + co, 0.5);
    if by_chance >= params.roam_chance || both_ways >= params.roam_chance {
        return None;
    }
    let (from, last) = seen?;
    Some(Turns {
        from: UnixMillis(from),
        last: UnixMillis(last),
        count: anti,
    })
}

/// P(X ≥ k) of n trials of probability p.
fn binomial_tail(k: u32, n: u32, p: f64) -> f64 {
    let ln = |n: u32| -> f64 { (1..=n).map(|i| f64::from(i).ln()).sum() };
    let whole = ln(n);
    (k..=n)
        .map(|i| {
            (whole - ln(i) - ln(n - i) + f64::from(i) * p.ln() + f64::from(n - i) * (1.0 - p).ln())
                .exp()
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_is_the_tail() {
        assert!((binomial_tail(0, 5, 0.3) - 1.0).abs() < 1e-12);
        assert!((binomial_tail(3, 5, 0.5) - 0.5).abs() < 1e-12);
        assert!((binomial_tail(5, 5, 0.5) - 0.031_25).abs() < 1e-12);
    }

    /// One is up for five hours, then the other, each change within `lag` ms.
    fn see_saw(swaps: i64, lag: i64) -> (Vec<Transition>, Vec<Transition>) {
        let swap = |i: i64| i * 18_000_000;
        let one = (1..=swaps).map(|i| (swap(i), i % 2 == 0)).collect();
        let other = (1..=swaps).map(|i| (swap(i) + lag, i % 2 == 1)).collect();
        (one, other)
    }

    #[test]
    fn taking_turns_is_seen_after_a_few_and_chance_is_not() {
        let params = Params::default();
        let named_after = (1..20).find(|swaps| {
            let (one, other) = see_saw(*swaps, 30_000);
            turns(&params, &one, &other, 15).is_some()
        });
        assert_eq!(named_after, Some(5));
        let (one, other) = see_saw(12, 30_000);
        let found = turns(&params, &one, &other, 15).expect("is seen");
        assert_eq!((found.count, found.from), (12, UnixMillis(18_000_000)));
        // Not at the same time; and both down at the same time.
        let (one, other) = see_saw(12, 300_000);
        assert_eq!(turns(&params, &one, &other, 15), None);
        let both: Vec<Transition> = (1..20).map(|i| (i * 18_000_000, i % 2 == 0)).collect();
        assert_eq!(turns(&params, &both, &both, 15), None);
    }
}
