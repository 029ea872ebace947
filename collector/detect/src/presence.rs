//! When an agent was there, by its heartbeats, and why it was not.
//!
//! A heartbeat promises the next within its interval, so it covers the time up to three of them. Heartbeats of one process whose covers
//! touch are a *run*. Runs are a union of intervals: the same heartbeats in any order make the same runs. Between runs are *gaps*; what the runs on both
//! sides say of themselves (boot, process, goodbye) tells why.

use crate::params::Params;
use denyut_proto::{BootId, Goodbye, Heartbeat, UnixMillis};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use utoipa::ToSchema;

/// Heartbeats of one process without a gap.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Of which machine and start of it.
    pub boot: BootId,
    /// Uptime at which the process started, in ms: tells processes of one boot apart.
    pub started_ms: u64,
    /// Event time of the first heartbeat.
    pub from: UnixMillis,
    /// Event time of the last.
    pub to: UnixMillis,
    /// Up to when the agent need not have spoken again.
    pub until: UnixMillis,
    /// What the last one said when it was the process's last.
    pub goodbye: Option<Goodbye>,
}

impl Run {
    /// One heartbeat.
    pub fn of(params: &Params, boot: BootId, heartbeat: &Heartbeat) -> Self {
        let grace = grace(params, heartbeat.interval);
        Self {
            boot,
            started_ms: u64::try_from(heartbeat.started.as_millis()).unwrap_or(u64::MAX),
            from: heartbeat.at,
            to: heartbeat.at,
            until: heartbeat.at + grace,
            goodbye: heartbeat.goodbye,
        }
    }

    /// Whether both are of one process.
    pub fn is_of_same_process(&self, other: &Self) -> bool {
        self.boot == other.boot && self.started_ms == other.started_ms
    }

    fn touches(&self, other: &Self) -> bool {
        self.from <= other.until && other.from <= self.until
    }

    fn absorb(&mut self, other: &Self) {
        match other.to.cmp(&self.to) {
            std::cmp::Ordering::Greater => self.goodbye = other.goodbye,
            std::cmp::Ordering::Equal => self.goodbye = self.goodbye.or(other.goodbye),
            std::cmp::Ordering::Less => {}
        }
        self.from = self.from.min(other.from);
        self.to = self.to.max(other.to);
        self.until = self.until.max(other.until);
    }
}

/// How long an agent may be without a word.
pub fn grace(params: &Params, interval: Duration) -> Duration {
    interval
        .saturating_mul(params.silent_intervals)
        .max(params.silent_least)
}

/// All runs of an agent, ascending by their beginning.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Runs(Vec<Run>);

impl Runs {
    /// Runs that are kept of one agent. What is delivered in any order is in many pieces until the last has come.
    pub const MOST: usize = 500;

    /// Takes a heartbeat in; `true` if it did more than carry the last run on.
    #[inline]
    pub fn insert(&mut self, new: &Run) -> bool {
        if let Some(last) = self.0.last_mut()
            && last.is_of_same_process(new)
            && new.from >= last.from
            && last.touches(new)
        {
            let said = last.goodbye;
            last.absorb(new);
            return said != last.goodbye;
        }
        let mut whole = new.clone();
        let (mut absorbed, mut began) = (0, UnixMillis(i64::MAX));
        // One that is absorbed may reach another.
        loop {
            let before = self.0.len();
            self.0.retain(|run| {
                let joins = run.is_of_same_process(&whole) && run.touches(&whole);
                if joins {
                    began = began.min(run.from);
                    whole.absorb(run);
                }
                !joins
            });
            if self.0.len() == before {
                break;
            }
            absorbed += before - self.0.len();
        }
        let at = self.0.partition_point(|run| {
            (run.from, run.boot, run.started_ms) < (whole.from, whole.boot, whole.started_ms)
        });
        let went_on = absorbed == 1 && began == whole.from && at == self.0.len();
        self.0.insert(at, whole);
        if self.0.len() > Self::MOST {
            self.drop_shortest();
        }
        !went_on
    }

    /// Drops the run that tells least: the shortest but for the first and the last.
    fn drop_shortest(&mut self) {
        let inner = 1..self.0.len().saturating_sub(1);
        let shortest = inner.min_by_key(|at| self.0[*at].to.since(self.0[*at].from));
        if let Some(at) = shortest {
            self.0.remove(at);
        }
    }

    /// All of them.
    pub fn as_slice(&self) -> &[Run] {
        &self.0
    }

    /// The run that reaches farthest.
    pub fn last(&self) -> Option<&Run> {
        self.0.iter().max_by_key(|run| run.to)
    }

    /// Whether the agent was there at this time.
    pub fn covers(&self, at: UnixMillis) -> bool {
        self.0.iter().any(|run| run.from <= at && at <= run.until)
    }

    /// Lets go what ended before `horizon`, but for the last, and for what a gap begins with that reaches into the time that is kept.
    pub fn forget(&mut self, horizon: UnixMillis) {
        let last = self.last().map(|run| run.to);
        let next: Vec<Option<UnixMillis>> = (1..=self.0.len())
            .map(|at| self.0.get(at).map(|run| run.from))
            .collect();
        let mut next = next.into_iter();
        self.0.retain(|run| {
            let next = next.next().flatten();
            run.until >= horizon || Some(run.to) == last || next.is_some_and(|from| from >= horizon)
        });
    }

    /// The times between runs, ascending.
    pub fn gaps(&self) -> Vec<Gap> {
        let mut gaps = Vec::new();
        let mut ended: Option<&Run> = None; // the run that reaches farthest so far
        let mut covered = UnixMillis(i64::MIN);
        for next in &self.0 {
            if let Some(ended) = ended
                && next.from > covered
            {
                gaps.push(Gap {
                    from: ended.to,
                    until: next.from,
                    why: Why::of(ended, next),
                });
            }
            covered = covered.max(next.until);
            if ended.is_none_or(|ended| next.to >= ended.to) {
                ended = Some(next);
            }
        }
        gaps
    }

    /// Two boots that spoke at the same time for at least `overlap`: one identity on two machines. The newest such pair.
    pub fn clone_of(&self, overlap: Duration) -> Option<Clone2> {
        let mut found: Option<Clone2> = None;
        for (i, one) in self.0.iter().enumerate() {
            for other in &self.0[i + 1..] {
                let (from, until) = (one.from.max(other.from), one.to.min(other.to));
                if one.boot != other.boot
                    && until > from
                    && until.since(from) >= overlap
                    && found.as_ref().is_none_or(|found| until > found.until)
                {
                    found = Some(Clone2 {
                        boots: [one.boot, other.boot],
                        from,
                        until,
                    });
                }
            }
        }
        found
    }
}

/// One identity on two machines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clone2 {
    /// The two boots; the one that was there first comes first.
    pub boots: [BootId; 2],
    /// The time for which both spoke.
    pub from: UnixMillis,
    /// Its end.
    pub until: UnixMillis,
}

/// A time for which an agent said nothing, and never will have said anything unless more of it arrives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// Event time of the last word before it.
    pub from: UnixMillis,
    /// Event time of the first after it.
    pub until: UnixMillis,
    /// Why.
    pub why: Why,
}

/// Why an agent was not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// The machine started anew, and nobody had stopped it.
    Power,
    /// It said that it would stop.
    Goodbye,
    /// The machine ran on, and the agent's process was started anew.
    Process,
    /// The same process ran on: its samples of that time are missing.
    Missing,
}

impl Why {
    fn of(before: &Run, after: &Run) -> Self {
        if before.goodbye.is_some() {
            Self::Goodbye
        } else if before.boot != after.boot {
            Self::Power
        } else if before.started_ms != after.started_ms {
            Self::Process
        } else {
            Self::Missing
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(boot: u8, started_ms: u64, at: i64, goodbye: bool) -> Run {
        Run {
            boot: BootId([boot; 16]),
            started_ms,
            from: UnixMillis(at * 1_000),
            to: UnixMillis(at * 1_000),
            until: UnixMillis((at + 30) * 1_000),
            goodbye: goodbye.then_some(Goodbye::Shutdown),
        }
    }

    fn runs(heartbeats: &[Run]) -> Runs {
        let mut runs = Runs::default();
        for heartbeat in heartbeats {
            runs.insert(heartbeat);
        }
        runs
    }

    #[test]
    fn what_touches_is_one_run_and_what_does_not_has_a_reason() {
        let all = runs(&[
            run(1, 5, 0, false),
            run(1, 5, 25, false),
            run(1, 5, 200, false), // the same process: missing
            run(1, 9, 300, false), // another process
            run(2, 5, 400, true),  // another boot
            run(3, 5, 500, false), // after a goodbye
            run(3, 7, 520, false), // a process that was started anew at once: no gap
        ]);
        let gaps: Vec<_> = all
            .gaps()
            .iter()
            .map(|gap| (gap.from.0 / 1_000, gap.until.0 / 1_000, gap.why))
            .collect();
        assert_eq!(
            gaps,
            [
                (25, 200, Why::Missing),
                (200, 300, Why::Process),
                (300, 400, Why::Power),
                (400, 500, Why::Goodbye)
            ]
        );
        assert!(all.covers(UnixMillis(40_000)) && !all.covers(UnixMillis(60_000)));
        assert_eq!(all.clone_of(Duration::from_secs(10)), None);
    }

    #[test]
    fn two_machines_with_one_identity_are_seen() {
        let all: Vec<Run> = (0..20)
            .map(|i| run(1 + u8::try_from(i % 2).expect("small"), 5, i * 10, false))
            .collect();
        let found = runs(&all)
            .clone_of(Duration::from_secs(60))
            .expect("is seen");
        assert_eq!(found.boots, [BootId([1; 16]), BootId([2; 16])]);
        assert_eq!(
            (found.from, found.until),
            (UnixMillis(10_000), UnixMillis(180_000))
        );
    }

    proptest! {
        #[test]
        fn any_order_makes_the_same_runs(
            (all, shuffled) in prop::collection::vec((0..3u8, 0..2u64, 0..1_000i64, any::<bool>()), 1..60)
                .prop_map(|all| all.into_iter().map(|(boot, started, at, goodbye)| run(boot, started, at, goodbye)).collect::<Vec<_>>())
                .prop_flat_map(|all| (Just(all.clone()), Just(all).prop_shuffle()))
        ) {
            prop_assert_eq!(runs(&all), runs(&shuffled));
        }
    }
}
