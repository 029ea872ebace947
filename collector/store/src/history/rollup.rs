//! Rollups: what the samples of a minute, an hour or a day come to.
//!
//! # Seconds up, down and unobserved
//!
//! A sample speaks for the time until the next one. Where that is more than 2½ times the link's usual gap (the median of its day), it
//! speaks for one usual gap and the rest is unobserved. The first of a day also speaks for the time before it, by the same
//! rule. Every millisecond of a day so has one state, days are judged apart, and rows of any length add up.
//!
//! # Form, version 1
//!
//! The rows of one link and day, as columns (see [`super::column`]): `version u8 · rows varint`, then for all rows slot in the day (as
//! gaps), answers, ms up, ms down; then failures as `count varint · (row varint · reason varint · failures varint)*`; then
//! for the rows with answers least RTT, greatest minus least, sum minus answers × least (low 32 bits, high 32 bits); then the
//! sketches: bins of each row, and for all bins one after another index (as gaps) and count less one. A row
//! whose least and greatest RTT are equal has no bins written: all its answers are in one.

use super::column::{self, Effort, Reader, put_varint};
use super::sketch::{self, Sketch};
use anyhow::{Context, bail, ensure};
use denyut_proto::sample::Evidence;
use denyut_proto::{Outcome, Reason, Sample, UnixMillis};
use std::collections::BTreeMap;

/// Milliseconds of a day.
pub const DAY_MS: i64 = 86_400_000;

/// What is kept of the samples, coarser and coarser.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// The samples themselves.
    Raw,
    /// A row a minute.
    Minute,
    /// A row an hour.
    Hour,
    /// A row a (UTC) day.
    Day,
}

impl Level {
    /// All, finest first.
    pub const ALL: [Self; 4] = [Self::Raw, Self::Minute, Self::Hour, Self::Day];

    /// The coarsest whose rows add up to rows of `step_ms`: all steps divide the next one's.
    pub fn exact(step_ms: i64) -> Self {
        let divides = |level: &&Self| step_ms % level.step_ms() == 0;
        *Self::ALL.iter().rev().find(divides).unwrap_or(&Self::Raw)
    }

    /// The name that files, API and metrics use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::Day => "day",
        }
    }

    /// Length of its rows in ms; for the samples themselves 1.
    pub const fn step_ms(self) -> i64 {
        match self {
            Self::Raw => 1,
            Self::Minute => 60_000,
            Self::Hour => 3_600_000,
            Self::Day => DAY_MS,
        }
    }
}

/// The samples of a stretch of time, in numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Row {
    /// Its beginning (event time), a multiple of its length since 1970 UTC.
    pub start: UnixMillis,
    /// Answers.
    pub ok: u32,
    /// Failures by reason, those of the agent's own machine among them.
    pub failed: BTreeMap<Reason, u32>,
    /// Time for which the link was up, in ms.
    pub up_ms: u64,
    /// Time for which it was down, in ms. The rest is unobserved.
    pub down_ms: u64,
    /// Round-trip times of the answers; `None` without any.
    pub rtt: Option<Rtt>,
}

/// Round-trip times in µs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rtt {
    /// The least.
    pub min: u32,
    /// The greatest.
    pub max: u32,
    /// All together.
    pub sum: u64,
    /// How they are spread.
    pub sketch: Sketch,
}

impl Rtt {
    /// The value at quantile `q`: within 1.6 %, and never outside of least and greatest.
    pub fn quantile(&self, q: f64) -> u32 {
        let value = self.sketch.quantile(q).unwrap_or(self.min);
        value.clamp(self.min, self.max)
    }
}

impl Row {
    /// Adds everything of another row.
    pub fn merge(&mut self, other: &Self) {
        self.ok = self.ok.saturating_add(other.ok);
        for (reason, count) in &other.failed {
            let failed = self.failed.entry(*reason).or_default();
            *failed = failed.saturating_add(*count);
        }
        self.up_ms += other.up_ms;
        self.down_ms += other.down_ms;
        match (&mut self.rtt, &other.rtt) {
            (Some(rtt), Some(other)) => {
                rtt.min = rtt.min.min(other.min);
                rtt.max = rtt.max.max(other.max);
                rtt.sum += other.sum;
                rtt.sketch.merge(&other.sketch);
            }
            (None, Some(other)) => self.rtt = Some(other.clone()),
            (_, None) => {}
        }
    }

    fn add(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Failed(failure) => *self.failed.entry(failure.reason).or_default() += 1,
            Outcome::Ok { rtt_us } => {
                self.ok += 1;
                let rtt = self.rtt.get_or_insert_with(|| Rtt {
                    min: rtt_us,
                    max: rtt_us,
                    sum: 0,
                    sketch: Sketch::default(),
                });
                rtt.min = rtt.min.min(rtt_us);
                rtt.max = rtt.max.max(rtt_us);
                rtt.sum += u64::from(rtt_us);
                rtt.sketch.add(rtt_us);
            }
        }
    }
}

/// Rows of one length, made of samples or of shorter rows in ascending order.
#[derive(Debug)]
pub struct Rows {
    step_ms: i64,
    rows: Vec<Row>,
}

impl Rows {
    /// Rows of `step_ms` (at least 1), beginning at its multiples since 1970 UTC.
    pub fn new(step_ms: i64) -> Self {
        Self {
            step_ms: step_ms.max(1),
            rows: Vec::new(),
        }
    }

    /// Takes out the rows that end at `until` or before: nothing is added to them any more.
    pub(crate) fn drain_until(&mut self, until: i64) -> std::vec::Drain<'_, Row> {
        let step_ms = self.step_ms;
        let done = self
            .rows
            .partition_point(|row| row.start.0.saturating_add(step_ms) <= until);
        self.rows.drain(..done)
    }

    /// The rows that hold anything, ascending.
    pub fn into_vec(self) -> Vec<Row> {
        self.rows
    }

    /// Adds a row of a length that divides this one's.
    pub fn add_row(&mut self, row: &Row) {
        self.at(row.start.0).merge(row);
    }

    /// Adds rows of a length that divides this one's.
    pub fn add_rows(&mut self, rows: &[Row]) {
        for row in rows {
            self.add_row(row);
        }
    }

    /// Adds one link's samples of one UTC day, sorted.
    pub fn add_day(&mut self, samples: &[Sample]) {
        let (Some(first), Some(last)) = (samples.first(), samples.last()) else {
            return;
        };
        let day = first.at.0.div_euclid(DAY_MS) * DAY_MS;
        let usual = usual_gap(samples);
        let speaks = |gap: i64| {
            if gap * 2 <= usual * 5 {
                gap
            } else {
                usual.min(gap)
            }
        };
        let lead = first.at.0 - day;
        if lead * 2 <= usual * 5 {
            self.credit(day, first.at.0, first.outcome);
        }
        for (i, sample) in samples.iter().enumerate() {
            self.at(sample.at.0).add(sample.outcome);
            let next = samples.get(i + 1).map_or(day + DAY_MS, |next| next.at.0);
            let until = sample.at.0 + speaks(next - sample.at.0);
            self.credit(sample.at.0, until, sample.outcome);
        }
        debug_assert!(last.at.0 < day + DAY_MS, "samples of one day");
    }

    fn credit(&mut self, from: i64, to: i64, outcome: Outcome) {
        let evidence = outcome.evidence();
        if evidence == Evidence::None {
            return;
        }
        let mut from = from;
        while from < to {
            let step = self.step_ms;
            let end = (from.div_euclid(step) * step).saturating_add(step).min(to);
            let row = self.at(from);
            let ms = (end - from).unsigned_abs();
            if evidence == Evidence::Good {
                row.up_ms += ms;
            } else {
                row.down_ms += ms;
            }
            from = end;
        }
    }

    /// The row of a time: one of the last, nearly always the last.
    fn at(&mut self, at: i64) -> &mut Row {
        let start = UnixMillis(at.div_euclid(self.step_ms) * self.step_ms);
        let place = match self.rows.last() {
            Some(last) if last.start == start => self.rows.len() - 1,
            Some(last) if last.start > start => {
                let place = self.rows.partition_point(|row| row.start < start);
                if self.rows[place].start != start {
                    self.rows.insert(
                        place,
                        Row {
                            start,
                            ..Row::default()
                        },
                    );
                }
                place
            }
            _ => {
                self.rows.push(Row {
                    start,
                    ..Row::default()
                });
                self.rows.len() - 1
            }
        };
        &mut self.rows[place]
    }
}

/// The median gap between samples, at least 1 ms; 10 s for a single one.
fn usual_gap(samples: &[Sample]) -> i64 {
    let mut gaps: Vec<i64> = samples.windows(2).map(|w| w[1].at.0 - w[0].at.0).collect();
    if gaps.is_empty() {
        return 10_000;
    }
    let middle = (gaps.len() - 1) / 2;
    (*gaps.select_nth_unstable(middle).1).max(1)
}

const VERSION: u8 = 1;

/// Appends the rows of one link, day and level.
pub fn encode(rows: &[Row], level: Level, out: &mut Vec<u8>) {
    let effort = Effort::Small;
    out.push(VERSION);
    put_varint(out, rows.len() as u64);
    let slot = |row: &Row| {
        u32::try_from(row.start.0.rem_euclid(DAY_MS) / level.step_ms()).expect("a day's rows")
    };
    let gaps = |i: usize| match i {
        0 => slot(&rows[0]),
        _ => slot(&rows[i]) - slot(&rows[i - 1]),
    };
    let mut column = |values: Vec<u32>| column::encode(&values, effort, out);
    let ms = |ms: u64| u32::try_from(ms).unwrap_or(u32::MAX);
    column((0..rows.len()).map(gaps).collect());
    column(rows.iter().map(|row| row.ok).collect());
    column(rows.iter().map(|row| ms(row.up_ms)).collect());
    column(rows.iter().map(|row| ms(row.down_ms)).collect());
    put_varint(out, rows.iter().map(|row| row.failed.len() as u64).sum());
    for (i, row) in rows.iter().enumerate() {
        for (reason, count) in &row.failed {
            put_varint(out, i as u64);
            put_varint(out, *reason as u64);
            put_varint(out, (*count).into());
        }
    }
    let answered: Vec<(&Row, &Rtt)> = rows
        .iter()
        .filter_map(|row| Some((row, row.rtt.as_ref()?)))
        .collect();
    let spare = |(row, rtt): &(&Row, &Rtt)| rtt.sum - u64::from(row.ok) * u64::from(rtt.min);
    let mut column = |values: Vec<u32>| column::encode(&values, effort, out);
    column(answered.iter().map(|(_, rtt)| rtt.min).collect());
    column(answered.iter().map(|(_, rtt)| rtt.max - rtt.min).collect());
    #[allow(clippy::cast_possible_truncation, reason = "the two halves of it")]
    column(answered.iter().map(|pair| spare(pair) as u32).collect());
    column(answered.iter().map(|pair| ms(spare(pair) >> 32)).collect());
    let bins = |rtt: &Rtt| {
        if rtt.min == rtt.max {
            Vec::new()
        } else {
            rtt.sketch.bins().to_vec()
        }
    };
    let sketches: Vec<Vec<(u32, u32)>> = answered.iter().map(|(_, rtt)| bins(rtt)).collect();
    column(
        sketches
            .iter()
            .map(|bins| u32::try_from(bins.len()).expect("few bins"))
            .collect(),
    );
    let mut indices = Vec::new();
    let mut counts = Vec::new();
    for bins in &sketches {
        let mut last = 0;
        for (bin, count) in bins {
            indices.push(bin - last);
            counts.push(count - 1);
            last = *bin;
        }
    }
    column(indices);
    column(counts);
}

/// The rows of one link, `day` (its first ms) and level.
pub fn decode(bytes: &[u8], day: i64, level: Level) -> anyhow::Result<Vec<Row>> {
    let mut read = Reader::new(bytes);
    let version = read.byte()?;
    if version != VERSION {
        bail!("rollups of the unknown version {version}");
    }
    let most = usize::try_from(DAY_MS / level.step_ms().max(1_000))?;
    let count = read.count(most)?;
    let gaps = column::decode(&mut read, count)?;
    let ok = column::decode(&mut read, count)?;
    let up = column::decode(&mut read, count)?;
    let down = column::decode(&mut read, count)?;
    let mut slot = 0u64;
    let mut rows = Vec::with_capacity(count);
    for i in 0..count {
        slot += u64::from(gaps[i]);
        ensure!(slot < most as u64, "a row outside of its day");
        rows.push(Row {
            start: UnixMillis(day + slot.cast_signed() * level.step_ms()),
            ok: ok[i],
            failed: BTreeMap::new(),
            up_ms: up[i].into(),
            down_ms: down[i].into(),
            rtt: None,
        });
    }
    for _ in 0..read.count(count * Reason::ALL.len())? {
        let row = rows
            .get_mut(read.count(count)?)
            .context("a failure of no row")?;
        let what = i32::try_from(read.varint()?).context("an unknown reason")?;
        let Ok(reason) = Reason::try_from(what) else {
            bail!("rollups with the unknown reason {what}");
        };
        row.failed.insert(reason, read.u32()?);
    }
    let answered: Vec<usize> = (0..count).filter(|i| rows[*i].ok > 0).collect();
    let least = column::decode(&mut read, answered.len())?;
    let spread = column::decode(&mut read, answered.len())?;
    let low = column::decode(&mut read, answered.len())?;
    let high = column::decode(&mut read, answered.len())?;
    let bins = column::decode(&mut read, answered.len())?;
    let total: usize = bins.iter().map(|n| *n as usize).sum();
    // Each bin holds at least one answer.
    let answers: u64 = ok.iter().map(|n| u64::from(*n)).sum();
    ensure!(
        total as u64 <= answers.min(count as u64 * u64::from(sketch::BIN_MAX)),
        "more bins than answers"
    );
    let indices = column::decode(&mut read, total)?;
    let counts = column::decode(&mut read, total)?;
    ensure!(read.is_empty(), "rollups with something after their end");
    let mut all = indices.into_iter().zip(counts);
    for (i, row) in answered.into_iter().enumerate() {
        let row = &mut rows[row];
        let (min, n) = (least[i], bins[i] as usize);
        let max = min.checked_add(spread[i]).context("a time too large")?;
        let mut sketch = Sketch::default();
        if n == 0 {
            sketch.add_bin(sketch::bin(min), row.ok);
        }
        let mut bin = 0u32;
        for (gap, count) in all.by_ref().take(n) {
            bin = bin
                .checked_add(gap)
                .filter(|bin| *bin <= sketch::BIN_MAX)
                .context("a bin that is not")?;
            sketch.add_bin(bin, count.checked_add(1).context("a count too large")?);
        }
        let spare = u64::from(low[i]) | u64::from(high[i]) << 32;
        let sum = (u64::from(row.ok) * u64::from(min))
            .checked_add(spare)
            .context("a sum too large")?;
        row.rtt = Some(Rtt {
            min,
            max,
            sum,
            sketch,
        });
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use denyut_proto::Failure;
    use proptest::prelude::*;

    const DAY: i64 = 20_000 * DAY_MS;

    fn ok(at: i64, rtt_us: u32) -> Sample {
        Sample {
            at: UnixMillis(DAY + at),
            outcome: Outcome::Ok { rtt_us },
        }
    }

    fn failed(at: i64, reason: Reason) -> Sample {
        Sample {
            at: UnixMillis(DAY + at),
            outcome: Outcome::Failed(Failure::from(reason)),
        }
    }

    fn rows(samples: &[Sample], step_ms: i64) -> Vec<Row> {
        let mut rows = Rows::new(step_ms);
        rows.add_day(samples);
        rows.into_vec()
    }

    #[test]
    fn every_millisecond_has_one_state() {
        // Every 10 s: up from the day's first second to 00:01:00, down to 00:02:00, nothing for 10 minutes, then up.
        let mut samples: Vec<Sample> = (0..6).map(|i| ok(1_000 + i * 10_000, 500)).collect();
        samples.extend((6..12).map(|i| failed(1_000 + i * 10_000, Reason::Timeout)));
        samples.extend((72..80).map(|i| ok(1_000 + i * 10_000, 700)));
        let minutes = rows(&samples, 60_000);
        let times: Vec<(i64, u64, u64)> = minutes
            .iter()
            .map(|row| ((row.start.0 - DAY) / 60_000, row.up_ms, row.down_ms))
            .collect();
        assert_eq!(
            times,
            [
                (0, 60_000, 0),
                (1, 1_000, 59_000),
                (2, 0, 1_000),
                (12, 59_000, 0),
                (13, 21_000, 0)
            ]
        );
        let day = &rows(&samples, DAY_MS)[0];
        assert_eq!((day.ok, day.failed[&Reason::Timeout]), (14, 6));
        assert_eq!((day.up_ms, day.down_ms), (141_000, 60_000));
        let rtt = day.rtt.as_ref().expect("answers");
        assert_eq!((rtt.min, rtt.max, rtt.sum), (500, 700, 6 * 500 + 8 * 700));
    }

    #[test]
    fn what_the_agent_could_not_see_is_unobserved() {
        let samples = [
            ok(0, 1),
            failed(10_000, Reason::NotPermitted),
            ok(20_000, 1),
        ];
        let row = &rows(&samples, DAY_MS)[0];
        assert_eq!((row.up_ms, row.down_ms), (20_000, 0));
    }

    fn day() -> impl Strategy<Value = Vec<Sample>> {
        let outcome = prop_oneof![
            6 => (1u32..90_000).prop_map(|rtt_us| Outcome::Ok { rtt_us }),
            1 => Just(Outcome::Ok { rtt_us: u32::MAX }),
            2 => prop::sample::select(Reason::ALL).prop_map(|reason| Outcome::Failed(reason.into())),
        ];
        prop::collection::vec((0..DAY_MS, outcome), 0..500).prop_map(|all| {
            let mut samples: Vec<Sample> = all
                .into_iter()
                .map(|(at, outcome)| Sample {
                    at: UnixMillis(DAY + at),
                    outcome,
                })
                .collect();
            samples.sort_unstable();
            samples
        })
    }

    proptest! {
        #[test]
        fn shorter_rows_add_up_to_longer_ones(samples in day()) {
            let minutes = rows(&samples, 60_000);
            for step in [Level::Hour.step_ms(), DAY_MS] {
                let mut added = Rows::new(step);
                added.add_rows(&minutes);
                prop_assert_eq!(added.into_vec(), rows(&samples, step));
            }
        }

        #[test]
        fn what_goes_in_comes_out(samples in day()) {
            for level in [Level::Minute, Level::Hour, Level::Day] {
                let rows = rows(&samples, level.step_ms());
                let mut bytes = Vec::new();
                encode(&rows, level, &mut bytes);
                prop_assert_eq!(decode(&bytes, DAY, level).expect("decodes"), rows);
            }
        }

        #[test]
        fn wrong_bytes_never_panic(samples in day(), wrong in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
            let mut bytes = Vec::new();
            encode(&rows(&samples, 60_000), Level::Minute, &mut bytes);
            for (at, byte) in wrong {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            decode(&bytes, DAY, Level::Minute).ok();
        }
    }
}
