//! How many bytes a day the agent may put on the network, and what it does with them.
//!
//! An office's line may be metered, and carries the office's own work. With a budget the agent is calm while nothing changes: samples wait on
//! disk and go out many at once, and between them a pulse says that it is there. A change of any target's outcome (an *edge*) goes out at once
//! all the same, and what follows it for a while. What waits while the agent was cut off is sent when that leaves enough for what is new.

use denyut_proto::UnixMillis;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tracing::warn;

const DAY: Duration = Duration::from_secs(86_400);
/// A packet's headers and its acknowledgement's: IPv4 and TCP with time stamps, twice.
const PACKET: u64 = 2 * 52;
/// What goes into one packet.
const SEGMENT: u64 = 1_400;

/// What reading or writing so many bytes at once costs on the network.
pub(crate) fn carried(bytes: u64) -> u64 {
    bytes + PACKET * bytes.div_ceil(SEGMENT)
}

/// What was spent in each hour of the last day, and what may be. Kept in a file, as offices are switched off every evening.
#[derive(Debug)]
pub(crate) struct Budget {
    /// Bytes in 24 hours; `None` for no limit.
    per_day: Option<u64>,
    /// Hour since 1970, and bytes; ascending.
    hours: VecDeque<(i64, u64)>,
    file: PathBuf,
}

impl Budget {
    /// With what was kept in `data_dir`, if that can be read.
    pub(crate) fn open(per_day: Option<u64>, data_dir: &Path) -> Self {
        let file = data_dir.join("spent");
        let kept = std::fs::read(&file).ok();
        let hours = kept.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        Self {
            per_day,
            hours: hours.unwrap_or_default(),
            file,
        }
    }

    pub(crate) fn per_day(&self) -> Option<u64> {
        self.per_day
    }

    /// So many bytes went over the network.
    pub(crate) fn spend(&mut self, bytes: u64, now: UnixMillis) {
        let hour = hour_of(now);
        let new = match self.hours.back_mut() {
            Some((last, spent)) if *last == hour => {
                *spent = spent.saturating_add(bytes);
                false
            }
            _ => {
                // Of a clock that was set back, what is ahead is of no hour.
                self.hours.retain(|(of, _)| is_recent(*of, hour));
                self.hours.push_back((hour, bytes));
                true
            }
        };
        if new {
            self.keep();
        }
    }

    /// Keeps it for the next start. It is an account, no promise: a power cut loses at most an hour of it.
    pub(crate) fn keep(&self) {
        let written = serde_json::to_vec(&self.hours).map_err(std::io::Error::other);
        if let Err(error) = written.and_then(|bytes| std::fs::write(&self.file, bytes)) {
            warn!(%error, "cannot keep what was spent of the budget");
        }
    }

    /// In the last 24 hours.
    pub(crate) fn spent(&self, now: UnixMillis) -> u64 {
        let hour = hour_of(now);
        let recent = self.hours.iter().filter(|(of, _)| is_recent(*of, hour));
        let bytes = recent.map(|(_, bytes)| bytes);
        bytes.fold(0, |sum, bytes| sum.saturating_add(*bytes))
    }

    /// How much is left.
    pub(crate) fn left(&self, now: UnixMillis) -> Left {
        let spent = self.spent(now);
        match self.per_day {
            Some(per_day) if spent >= per_day => Left::Nothing,
            Some(per_day) if spent >= per_day / 4 * 3 => Left::Short,
            _ => Left::Enough,
        }
    }
}

/// How much is left of the budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Left {
    /// At least a quarter, or there is no limit.
    Enough,
    /// Less: what is old waits for what is new, and an edge is told in few words.
    Short,
    /// Only edges, what makes them certain, and pulses go out.
    Nothing,
}

fn hour_of(at: UnixMillis) -> i64 {
    at.0.div_euclid(3_600_000)
}

fn is_recent(of: i64, hour: i64) -> bool {
    (hour.saturating_sub(23)..=hour).contains(&of)
}

/// How often the agent speaks while nothing changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pace {
    /// From one word to the next, while the office is open and while it is closed.
    pulse: (Duration, Duration),
    /// Samples wait for at most this long, likewise.
    batch: (Duration, Duration),
}

/// Bytes of a pulse, of a batch without its samples, and of a sample in a batch, with everything around them. In packets of `tests/footprint`
/// they were 156, 250 to 400, and 1.8 (with quiet round trips; 2.5 in the test of `proto/batch.rs`).
const PULSE: f64 = 170.0;
const BATCH: f64 = 320.0;
const SAMPLE: f64 = 2.6;
/// The share of the budget that is spent while nothing changes.
const CALM: f64 = 0.6;
const BATCHES: (Duration, Duration) = (Duration::from_secs(900), Duration::from_secs(1_800));
/// The longest time between two words.
const LONGEST: Duration = Duration::from_secs(300);

impl Pace {
    /// What the budget allows for so many samples a day; without one, every heartbeat at once.
    pub(crate) fn of(per_day: Option<u64>, samples: f64, heartbeat: Duration) -> Self {
        let Some(per_day) = per_day else {
            return Self {
                pulse: (heartbeat, heartbeat),
                batch: (Duration::ZERO, Duration::ZERO),
            };
        };
        // The usual day: open for 8 hours, closed for 16.
        let (open, closed) = (DAY.as_secs_f64() / 3.0, DAY.as_secs_f64() / 1.5);
        let batches = open / BATCHES.0.as_secs_f64() + closed / BATCHES.1.as_secs_f64();
        #[allow(clippy::cast_precision_loss, reason = "bytes of a day")]
        let pulses = per_day as f64 * CALM - samples * SAMPLE - batches * BATCH;
        // How far apart pulses are that take so many bytes of so much time.
        let apart = |time: f64, bytes: f64, least: Duration| {
            let apart = Duration::try_from_secs_f64(time * PULSE / bytes);
            apart.map_or(LONGEST, |apart| apart.clamp(least.min(LONGEST), LONGEST))
        };
        let cost = |time: f64, apart: Duration| time / apart.as_secs_f64() * PULSE;
        // First while it is open; while it is closed of what that leaves.
        let while_open = apart(open, pulses - cost(closed, LONGEST), heartbeat);
        let while_closed = apart(closed, pulses - cost(open, while_open), while_open);
        Self {
            pulse: (while_open.max(heartbeat), while_closed.max(heartbeat)),
            batch: BATCHES,
        }
    }

    /// From one word to the next.
    pub(crate) fn pulse(&self, closed: bool) -> Duration {
        if closed { self.pulse.1 } else { self.pulse.0 }
    }

    /// The same with nothing left of the budget.
    pub(crate) fn slowest(&self) -> Duration {
        self.pulse.1.max(LONGEST)
    }

    /// Samples wait for at most this long.
    pub(crate) fn batch(&self, closed: bool) -> Duration {
        if closed { self.batch.1 } else { self.batch.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEARTBEAT: Duration = Duration::from_secs(10);

    #[test]
    fn what_was_spent_a_day_ago_is_forgotten_and_nothing_else() {
        let dir = tempfile::tempdir().expect("tempdir");
        let at = |hour: i64| UnixMillis(1_790_000_000_000 + hour * 3_600_000);
        let mut budget = Budget::open(Some(1_000), dir.path());
        budget.spend(400, at(0));
        budget.spend(349, at(0));
        assert_eq!(budget.left(at(1)), Left::Enough);
        budget.spend(1, at(5));
        assert_eq!((budget.spent(at(23)), budget.spent(at(24))), (750, 1));
        assert_eq!(budget.left(at(23)), Left::Short);
        assert_eq!(budget.left(at(24)), Left::Enough);
        budget.spend(1_000, at(24));
        assert_eq!(budget.left(at(47)), Left::Nothing);
        assert_ne!(budget.left(at(48)), Left::Nothing);
        budget.keep();
        let mut budget = Budget::open(Some(1_000), dir.path());
        assert_eq!(budget.spent(at(25)), 1_001);
        // A clock that is set back.
        budget.spend(7, at(0));
        assert_eq!(budget.spent(at(1)), 7);
        for hour in 0..100 {
            budget.spend(1, at(hour));
        }
        assert!(budget.hours.len() <= 25);
        std::fs::write(dir.path().join("spent"), "nonsense").expect("writes");
        let mut free = Budget::open(None, dir.path());
        free.spend(u64::MAX, at(0));
        assert_eq!(free.left(at(0)), Left::Enough);
    }

    #[test]
    fn a_larger_budget_is_spent_on_more_pulses() {
        let six = 6.0 * 8_640.0;
        let pulse = |kb: u64| Pace::of(Some(kb * 1_000), six, HEARTBEAT).pulse(false);
        assert!(pulse(500) > Duration::from_secs(30) && pulse(500) < Duration::from_secs(90));
        assert!(pulse(1_000) < pulse(500) / 3);
        assert_eq!((pulse(100), pulse(100_000)), (LONGEST, HEARTBEAT));
        // More samples leave less.
        assert!(Pace::of(Some(500_000), six * 1.3, HEARTBEAT).pulse(false) > pulse(500));
        let free = Pace::of(None, six, HEARTBEAT);
        assert_eq!(
            (free.pulse(true), free.batch(true)),
            (HEARTBEAT, Duration::ZERO)
        );
    }

    #[test]
    fn a_calm_day_takes_its_share() {
        for (kb, samples) in [(500_u32, 51_840.0), (2_000, 51_840.0), (900, 100_000.0)] {
            let pace = Pace::of(Some(u64::from(kb) * 1_000), samples, HEARTBEAT);
            let spent = 28_800.0 / pace.pulse(false).as_secs_f64() * PULSE
                + 57_600.0 / pace.pulse(true).as_secs_f64() * PULSE
                + 64.0 * BATCH
                + samples * SAMPLE;
            let share = spent / f64::from(kb * 1_000);
            assert!(
                (CALM - 0.02..=CALM + 0.001).contains(&share),
                "{kb}: {share}"
            );
        }
    }
}
