//! The two pictures of a link over a stretch of time: a strip of how it answered, and the *smoke* of its round-trip times (after SmokePing): the median as a line, and
//! around it how the answers are spread.

use denyut_proto::UnixMillis;
use denyut_store::history::{History, LinkId, Row, RowsError};
use maud::{Markup, PreEscaped, html};
use std::fmt::Write as _;
use std::ops::Range;

const MINUTE_MS: i64 = 60_000;
const HOUR_MS: i64 = 60 * MINUTE_MS;
const DAY_MS: i64 = 24 * HOUR_MS;
/// Height of a smoke plot, in its own units.
const HEIGHT: f64 = 100.0;
/// Steps of a plot, at most.
const STEPS: i64 = 288;
/// A step that was down for less than both of these lost a packet; one that was down for all but this share of it was down.
const BLIP: f64 = 0.01;
const BLIP_MS: u64 = 300_000;

/// The stretches that are shown in one glance.
pub(super) const GLANCE: [(&str, i64); 5] = [
    ("hour", HOUR_MS),
    ("day", DAY_MS),
    ("week", 7 * DAY_MS),
    ("month", 30 * DAY_MS),
    ("year", 365 * DAY_MS),
];

/// A stretch of time in steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stretch {
    /// A multiple of the step.
    pub(super) from: i64,
    pub(super) step: i64,
    pub(super) count: i64,
}

impl Stretch {
    /// The stretch that covers this time, in as many steps as are well seen.
    pub(super) fn of(range: &Range<i64>) -> Self {
        // Each divides a day, and is a multiple of what is kept: of old times coarser steps are left.
        const MINUTES: [i64; 14] = [
            1,
            2,
            5,
            10,
            15,
            30,
            60,
            120,
            180,
            240,
            360,
            720,
            1_440,
            7 * 1_440,
        ];
        let length = (range.end - range.start).max(MINUTE_MS);
        let fits = |minutes: &&i64| length <= **minutes * MINUTE_MS * STEPS;
        let minutes = MINUTES.iter().find(fits).copied().unwrap_or(30 * 1_440);
        let step = minutes * MINUTE_MS;
        let from = range.start.div_euclid(step) * step;
        let end = -(-range.end).div_euclid(step) * step;
        Self {
            from,
            step,
            count: (end - from) / step,
        }
    }

    pub(super) fn end(self) -> i64 {
        self.from + self.step * self.count
    }
}

/// What a link showed in each step of a stretch.
#[derive(Debug)]
pub(super) struct Steps {
    pub(super) stretch: Stretch,
    rows: Vec<Option<Row>>,
    /// Nothing so fine is left of that time.
    pub(super) too_fine: bool,
}

/// How a link was in a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Up,
    Mixed,
    Down,
    Gap,
}

impl Kind {
    pub(super) const ALL: [Self; 4] = [Self::Up, Self::Mixed, Self::Down, Self::Gap];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Mixed => "mixed",
            Self::Down => "down",
            Self::Gap => "gap",
        }
    }

    fn of(row: Option<&Row>) -> Self {
        let Some(row) = row else { return Self::Gap };
        let seen = row.up_ms + row.down_ms;
        if seen == 0 {
            return Self::Gap;
        }
        let down = row.down_ms as f64 / seen as f64;
        if down < BLIP && row.down_ms < BLIP_MS {
            Self::Up
        } else if down > 1.0 - BLIP {
            Self::Down
        } else {
            Self::Mixed
        }
    }
}

/// What became of a stretch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Sums {
    pub(super) ok: u64,
    pub(super) failed: u64,
    up_ms: u64,
    down_ms: u64,
}

impl Sums {
    /// The share of what was seen for which it was up, in per cent.
    pub(super) fn share(&self) -> Option<f64> {
        let seen = self.up_ms + self.down_ms;
        (seen > 0).then(|| 100.0 * self.up_ms as f64 / seen as f64)
    }
}

impl Steps {
    /// Reads them. Blocks.
    pub(super) fn read(
        history: &dyn History,
        link: &LinkId,
        stretch: Stretch,
    ) -> anyhow::Result<Self> {
        let mut rows: Vec<Option<Row>> = Vec::new();
        rows.resize_with(usize::try_from(stretch.count).unwrap_or(0), || None);
        let range = UnixMillis(stretch.from)..UnixMillis(stretch.end());
        let read = history.visit_rows(link, range, stretch.step, &mut |row| {
            let place = usize::try_from((row.start.0 - stretch.from).div_euclid(stretch.step));
            if let Some(place) = place.ok().and_then(|place| rows.get_mut(place)) {
                *place = Some(row.clone());
            }
            true
        });
        let too_fine = match read {
            Ok(()) => false,
            Err(RowsError::TooFine { .. }) => true,
            Err(RowsError::Store(error)) => return Err(error),
        };
        Ok(Self {
            stretch,
            rows,
            too_fine,
        })
    }

    pub(super) fn sums(&self) -> Sums {
        let mut sums = Sums::default();
        for row in self.rows.iter().flatten() {
            sums.ok += u64::from(row.ok);
            sums.failed += row
                .failed
                .values()
                .map(|count| u64::from(*count))
                .sum::<u64>();
            sums.up_ms += row.up_ms;
            sums.down_ms += row.down_ms;
        }
        sums
    }

    /// The median of all answers, in µs.
    pub(super) fn median(&self) -> Option<u32> {
        let mut all: Option<Row> = None;
        for row in self.rows.iter().flatten() {
            match &mut all {
                Some(all) => all.merge(row),
                None => all = Some(row.clone()),
            }
        }
        all.and_then(|row| row.rtt).map(|rtt| rtt.quantile(0.5))
    }

    /// A strip: neighbours of one kind as one rectangle. `label` says what it shows.
    pub(super) fn strip(&self, label: &str) -> Markup {
        let kinds: Vec<Kind> = self.rows.iter().map(|row| Kind::of(row.as_ref())).collect();
        let mut rectangles = String::new();
        for (from, run) in runs(&kinds) {
            // Writing to a string does not fail.
            write!(
                rectangles,
                "<rect x=\"{from}\" width=\"{}\" height=\"1\" class=\"fill-{}\"/>",
                run,
                kinds[from].as_str()
            )
            .ok();
        }
        html! {
            svg class="strip" role="img" aria-label=(label) viewBox={ "0 0 " (kinds.len()) " 1" } preserveAspectRatio="none" {
                (PreEscaped(rectangles))
            }
        }
    }

    /// The round time in µs at the upper edge of the plot; none without an answer.
    pub(super) fn top(&self) -> Option<u32> {
        let highest = self
            .rows
            .iter()
            .flatten()
            .filter_map(|row| row.rtt.as_ref());
        highest
            .map(|rtt| rtt.quantile(0.95))
            .max()
            .map(|highest| round_up(f64::from(highest) * 1.05))
    }

    /// The smoke: bands from the 5th to the 95th and from the 25th to the 75th percentile, the median on them, and what failed at the top.
    pub(super) fn smoke(&self, label: &str) -> Markup {
        let top = self.top().map_or(1.0, f64::from);
        let y = |us: u32| HEIGHT - (f64::from(us).min(top) / top) * (HEIGHT - 8.0);
        let quantile = |place: usize, q: f64| {
            let row = self.rows.get(place)?.as_ref()?;
            row.rtt.as_ref().map(|rtt| y(rtt.quantile(q)))
        };
        let has: Vec<bool> = (0..self.rows.len())
            .map(|place| quantile(place, 0.5).is_some())
            .collect();
        let band = |low: f64, high: f64| {
            let mut path = String::new();
            for (from, run) in runs(&has).filter(|(from, _)| has[*from]) {
                let upper =
                    (from..from + run).filter_map(|place| Some((place, quantile(place, high)?)));
                let lower =
                    (from..from + run).filter_map(|place| Some((place, quantile(place, low)?)));
                let mut first = true;
                for (place, y) in upper {
                    let mark = if first { 'M' } else { 'V' };
                    first = false;
                    if mark == 'M' {
                        write!(path, "M{place} {y:.0}H{}", place + 1).ok();
                    } else {
                        write!(path, "V{y:.0}H{}", place + 1).ok();
                    }
                }
                for (place, y) in lower.collect::<Vec<_>>().into_iter().rev() {
                    // A line's width at least.
                    write!(path, "V{:.0}H{place}", y + 0.6).ok();
                }
                path.push('z');
            }
            path
        };
        let mut median = String::new();
        for (from, run) in runs(&has).filter(|(from, _)| has[*from]) {
            for place in from..from + run {
                if let Some(y) = quantile(place, 0.5) {
                    let mark = if place == from { 'M' } else { 'L' };
                    if run == 1 {
                        write!(median, "M{place} {y:.1}h1").ok();
                    } else {
                        write!(median, "{mark}{place}.5 {y:.1}").ok();
                    }
                }
            }
        }
        let mut failed = String::new();
        for (place, row) in self.rows.iter().enumerate() {
            let Some(row) = row else { continue };
            let lost: u32 = row.failed.values().sum();
            if lost > 0 {
                let kind = if row.ok == 0 { "down" } else { "mixed" };
                write!(
                    failed,
                    "<rect x=\"{place}\" width=\"1\" height=\"6\" class=\"fill-{kind}\"/>"
                )
                .ok();
            }
        }
        let width = self.rows.len();
        html! {
            svg class="smoke" role="img" aria-label=(label) viewBox={ "0 0 " (width) " 100" } preserveAspectRatio="none" {
                path class="grid" d={ "M0 54H" (width) "M0 8H" (width) } {}
                path class="wide" d=(band(0.05, 0.95)) {}
                path class="narrow" d=(band(0.25, 0.75)) {}
                path class="median" d=(median) {}
                (PreEscaped(failed))
            }
        }
    }
}

/// Where runs of equal neighbours begin, and how long they are.
fn runs<T: PartialEq>(all: &[T]) -> impl Iterator<Item = (usize, usize)> {
    let mut from = 0;
    std::iter::from_fn(move || {
        let first = all.get(from)?;
        let run = all[from..].iter().take_while(|one| *one == first).count();
        from += run;
        Some((from - run, run))
    })
}

/// A round number at or above a value.
fn round_up(value: f64) -> u32 {
    let power = 10f64.powf(value.max(1.0).log10().floor());
    let round = [1.0, 1.5, 2.0, 3.0, 5.0, 7.5, 10.0].map(|factor| factor * power);
    let found = round.iter().find(|one| **one >= value).unwrap_or(&value);
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a round-trip time fits by far, and `as` saturates"
    )]
    let found = found.ceil() as u32;
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use denyut_proto::Reason;

    #[test]
    fn a_stretch_has_steps_that_are_kept_and_seen() {
        let now = 1_795_700_123_456;
        for (_, length) in GLANCE {
            let stretch = Stretch::of(&(now - length..now));
            assert!(stretch.from <= now - length && stretch.end() >= now);
            assert_eq!(stretch.from.rem_euclid(stretch.step), 0);
            assert!((53..=STEPS + 1).contains(&stretch.count), "{stretch:?}");
        }
        assert_eq!(Stretch::of(&(0..1)).count, 1);
        assert_eq!(Stretch::of(&(0..365 * DAY_MS)).step, 7 * DAY_MS);
    }

    #[test]
    fn a_lost_packet_is_no_outage() {
        let row = |up_ms, down_ms| Row {
            up_ms,
            down_ms,
            ..Row::default()
        };
        assert_eq!(Kind::of(None), Kind::Gap);
        assert_eq!(Kind::of(Some(&row(0, 0))), Kind::Gap);
        assert_eq!(Kind::of(Some(&row(86_390_000, 10_000))), Kind::Up);
        assert_eq!(Kind::of(Some(&row(85_800_000, 600_000))), Kind::Mixed);
        assert_eq!(Kind::of(Some(&row(50_000, 10_000))), Kind::Mixed);
        assert_eq!(Kind::of(Some(&row(0, 60_000))), Kind::Down);
    }

    #[test]
    fn a_plot_shows_what_was_and_where_nothing_was() {
        let rtt = |us: u32| denyut_store::history::Rtt {
            min: us,
            max: us,
            sum: us.into(),
            sketch: {
                let mut sketch = denyut_store::history::sketch::Sketch::default();
                sketch.add(us);
                sketch
            },
        };
        let answered = |us| {
            Some(Row {
                ok: 1,
                up_ms: 60_000,
                rtt: Some(rtt(us)),
                ..Row::default()
            })
        };
        let lost = Some(Row {
            failed: [(Reason::Timeout, 2)].into(),
            down_ms: 60_000,
            ..Row::default()
        });
        let steps = Steps {
            stretch: Stretch {
                from: 0,
                step: MINUTE_MS,
                count: 6,
            },
            rows: vec![
                answered(1_000),
                answered(2_000),
                lost,
                None,
                None,
                answered(900),
            ],
            too_fine: false,
        };
        assert_eq!(steps.top(), Some(3_000));
        let PreEscaped(strip) = steps.strip("x");
        assert_eq!(strip.matches("<rect").count(), 4, "{strip}");
        let PreEscaped(smoke) = steps.smoke("x");
        assert!(smoke.contains("class=\"fill-down\""), "{smoke}");
        // The line goes through neighbours, and stands alone where nothing was beside.
        assert!(smoke.contains("M0.5 69.3L1.5 38.7M5 72.4h1"), "{smoke}");
        assert_eq!(steps.sums().share(), Some(75.0));
        assert_eq!(runs(&[1, 1, 2]).collect::<Vec<_>>(), [(0, 2), (2, 1)]);
    }
}
