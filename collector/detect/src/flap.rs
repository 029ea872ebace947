//! Flapping, on many scales: each going down counts 1, and halves every half-life.
//!
//! The score at time t is Σ 2^(-(t - tᵢ)/h) over the downs tᵢ: a sum, so it does not matter in which order they are learned. It changes fast only at
//! a down, so it is looked at there; when it falls below the stop is computed. (Penalty and reuse as in RFC 2439, on six scales instead of one.)

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A half-life with the scores at which flapping begins and ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scale {
    /// 2 min.
    Minutes,
    /// 15 min.
    Quarter,
    /// 2 h.
    Hours,
    /// 1 d.
    Day,
    /// 7 d.
    Week,
}

impl Scale {
    /// All of them, fast to slow.
    pub const ALL: [Self; 5] = [
        Self::Minutes,
        Self::Quarter,
        Self::Hours,
        Self::Day,
        Self::Week,
    ];

    /// The name that API and UI catalogues use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Minutes => "minutes",
            Self::Quarter => "quarter",
            Self::Hours => "hours",
            Self::Day => "day",
            Self::Week => "week",
        }
    }

    /// Half-life in ms, start, stop.
    pub const fn numbers(self) -> (f64, f64, f64) {
        match self {
            Self::Minutes => (120e3, 2.9, 1.0),
            Self::Quarter => (900e3, 3.6, 1.3),
            Self::Hours => (7_200e3, 4.5, 1.8),
            Self::Day => (86_400e3, 5.0, 2.0),
            Self::Week => (604_800e3, 6.0, 3.0),
        }
    }
}

/// Half-life of the baseline, in ms: 30 d.
const BASELINE: f64 = 30.0 * 86_400e3;
/// A score is at most this many times its start: what was wild is calm again within two half-lives more.
const CEILING: f64 = 4.0;

/// A time for which a link flapped on one scale.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Flapping {
    /// The scale.
    pub scale: Scale,
    /// Event time of the down that made it so, in ms.
    pub from: i64,
    /// When the score fell below the stop, or will if nothing more happens.
    pub until: i64,
    /// Downs in it.
    pub downs: u32,
    /// Whether it stands out of what this link does anyway.
    pub stands_out: bool,
}

/// The flapping of a link whose downs began at `downs` (ms, ascending), on every scale.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "milliseconds of our time"
)]
pub fn flapping(downs: &[i64], chronic: f64, sigmas: f64) -> Vec<Flapping> {
    let mut found = Vec::new();
    for scale in Scale::ALL {
        let (half_life, start, stop) = scale.numbers();
        let (mut score, mut baseline, mut then) = (0.0_f64, 0.0_f64, 0_i64);
        let mut on: Option<Flapping> = None;
        for at in downs {
            let past = (at - then) as f64;
            if let Some(flapping) = on
                && flapping.until <= *at
            {
                found.push(flapping);
                on = None;
            }
            score = (score * (-past / half_life).exp2() + 1.0).min(CEILING * start);
            // What this link does anyway is what it did before this bout.
            let usual = (baseline - score).max(0.0);
            baseline = baseline * (-past / BASELINE).exp2() + 1.0;
            then = *at;
            let until = at + (half_life * (score / stop).log2()) as i64;
            match &mut on {
                Some(flapping) => {
                    flapping.until = until;
                    flapping.downs += 1;
                    flapping.stands_out |= stands_out(score, usual, half_life, chronic, sigmas);
                }
                None if score >= start => {
                    on = Some(Flapping {
                        scale,
                        from: *at,
                        until,
                        downs: 1,
                        stands_out: stands_out(score, usual, half_life, chronic, sigmas),
                    });
                }
                None => {}
            }
        }
        found.extend(on);
    }
    found
}

/// Whether a score is far above what the rate of the last 30 days makes of it. Downs of a rate λ have a score of mean λh/ln 2 and variance λh/(2 ln 2)
/// (Campbell's theorem for shot noise).
fn stands_out(score: f64, usual: f64, half_life: f64, chronic: f64, sigmas: f64) -> bool {
    if usual < chronic {
        return true;
    }
    let mean = usual * half_life / BASELINE;
    score >= mean + sigmas * (mean / 2.0).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000;

    /// The 30-day score at `now`.
    #[allow(clippy::cast_precision_loss, reason = "milliseconds of our time")]
    fn baseline(downs: &[i64], now: i64) -> f64 {
        downs
            .iter()
            .map(|at| (-((now - at).max(0) as f64) / BASELINE).exp2())
            .sum()
    }

    fn scales(downs: &[i64]) -> Vec<Scale> {
        flapping(downs, 30.0, 5.0)
            .iter()
            .map(|flapping| flapping.scale)
            .collect()
    }

    #[test]
    fn each_scale_sees_its_own() {
        let every = |step: i64, count: i64| -> Vec<i64> { (0..count).map(|i| i * step).collect() };
        assert_eq!(
            scales(&every(30_000, 6)),
            [Scale::Minutes, Scale::Quarter, Scale::Hours, Scale::Day]
        );
        assert_eq!(
            scales(&every(HOUR / 2, 12)),
            [Scale::Hours, Scale::Day, Scale::Week]
        );
        assert_eq!(scales(&every(26 * HOUR, 14)), [Scale::Week]);
        assert_eq!(scales(&every(24 * HOUR * 4, 9)), []);
        assert_eq!(scales(&every(40_000, 2)), []);
    }

    #[test]
    fn it_ends_when_the_score_has_decayed_and_may_begin_anew() {
        let burst = |from: i64| (0..4).map(move |i| from + i * 20_000);
        let downs: Vec<i64> = burst(0).chain(burst(5 * HOUR)).collect();
        let fast: Vec<_> = flapping(&downs, 30.0, 5.0)
            .into_iter()
            .filter(|one| one.scale == Scale::Minutes)
            .collect();
        assert_eq!(fast.len(), 2);
        assert_eq!((fast[0].from, fast[1].from), (60_000, 5 * HOUR + 60_000));
        // 3.4 halves to 1.0 in 1.8 half-lives.
        assert!((240_000..300_000).contains(&fast[0].until), "{fast:?}");
    }

    #[test]
    fn what_a_link_always_does_does_not_stand_out() {
        // Six times a day for 25 days; then as always, and then a bout.
        let mut downs: Vec<i64> = (0..150).map(|i| i * 4 * HOUR).collect();
        let last = downs[149];
        assert!(baseline(&downs, last) > 30.0);
        downs.extend((1..=8).map(|i| last + i * 4 * HOUR));
        let day = |downs: &[i64]| {
            flapping(downs, 30.0, 5.0)
                .into_iter()
                .rfind(|one| one.scale == Scale::Day)
        };
        assert!(
            day(&downs).is_some_and(|one| one.stands_out),
            "at first it does: it was not known"
        );
        let late: Vec<Flapping> = flapping(&downs, 30.0, 5.0)
            .into_iter()
            .filter(|one| one.scale <= Scale::Quarter)
            .collect();
        assert_eq!(late, []);
        let bout: Vec<i64> = (1..=6).map(|i| last + 33 * HOUR + i * 60_000).collect();
        downs.extend(bout);
        let fast = flapping(&downs, 30.0, 5.0)
            .into_iter()
            .rfind(|one| one.scale == Scale::Quarter);
        assert!(fast.is_some_and(|one| one.stands_out));
    }
}
