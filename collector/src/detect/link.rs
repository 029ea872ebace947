//! One link's state machine, with hysteresis.
//!
//! `Unknown → Up ⇄ Suspect → Down ⇄ Recovering → Up`. A failure raises the suspicion, a success lowers it: a
//! CUSUM of the log-likelihood ratio between "down", where a probe fails with probability [`P1`], and "as
//! usual", where it fails with the loss that was learned of this link. So a clean link is down after 4 failures
//! in a row, one that loses every tenth probe after 8.

use denyut_proto::sample::Evidence;
use denyut_proto::{Failure, Outcome, Reason, Role, Sample, UnixMillis};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Probability that a probe of a dead link fails (a few answers still slip through).
const P1: f64 = 0.98;
/// ln(5·10⁷): one false alarm in about 5·10⁷ probes, 16 years at 10 s.
const THRESHOLD: f64 = 17.727_533_563_339_9;
/// The learned loss is taken to be at least and at most this.
const LOSS: (f64, f64) = (0.005, 0.3);
/// What a new link is taken to lose.
const LOSS_AT_FIRST: f64 = 0.01;
/// Weight of one probe in the learned loss: about the last 1,000 probes count (3 h at 10 s).
const LOSS_WEIGHT: f64 = 0.001;
/// A link has recovered after this many successes …
const RECOVERY_COUNT: u32 = 3;
/// … that lie at least this far apart.
const RECOVERY_TIME: Duration = Duration::from_secs(15);

/// Where a link is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Phase {
    /// No sample yet.
    #[default]
    Unknown,
    Up,
    /// Failing, not yet for long enough.
    Suspect,
    Down,
    /// Answering again, not yet for long enough.
    Recovering,
}

/// What is known of one link.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Link {
    /// As the agent declared it; nothing before that.
    pub(crate) role: Option<Role>,
    pub(crate) probe: String,
    pub(crate) interval_ms: u64,
    pub(crate) phase: Phase,
    /// Since when it is up or down (event time); a passing suspicion or recovery does not change it.
    pub(crate) since: Option<UnixMillis>,
    /// Event time of the last sample.
    pub(crate) last_at: Option<UnixMillis>,
    /// RTT of the last sample, if it was answered.
    pub(crate) last_rtt_us: Option<u32>,
    /// Why the last sample failed, if it did: the reason's number and its detail.
    last_failure: Option<(i32, u32)>,
    /// The CUSUM: 0 (nothing is wrong) up to [`THRESHOLD`].
    suspicion: f64,
    /// Learned share of lost probes.
    loss: f64,
    /// When the stretch of suspicion or recovery began, and the successes and failures in it. What a suspicion
    /// teaches of the loss is learned when it has passed: an outage is no loss.
    run_since: Option<UnixMillis>,
    run_good: u32,
    run_bad: u32,
}

/// A change of phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) from: Phase,
    pub(crate) to: Phase,
    /// Event time of the sample that began it.
    pub(crate) at: UnixMillis,
}

impl Default for Link {
    fn default() -> Self {
        Self {
            role: None,
            probe: String::new(),
            interval_ms: 0,
            phase: Phase::Unknown,
            since: None,
            last_at: None,
            last_rtt_us: None,
            last_failure: None,
            suspicion: 0.0,
            loss: LOSS_AT_FIRST,
            run_since: None,
            run_good: 0,
            run_bad: 0,
        }
    }
}

impl Link {
    /// Takes one sample in. One that is not younger than the last changes nothing here (it is in the
    /// history all the same).
    pub(crate) fn sample(&mut self, sample: Sample) -> Option<Change> {
        if self.last_at.is_some_and(|last| sample.at <= last) {
            return None;
        }
        self.last_at = Some(sample.at);
        (self.last_rtt_us, self.last_failure) = match sample.outcome {
            Outcome::Ok { rtt_us } => (Some(rtt_us), None),
            Outcome::Failed(failure) => (None, Some((failure.reason as i32, failure.detail))),
        };
        match sample.outcome.evidence() {
            Evidence::None => None,
            Evidence::Good => self.good(sample.at),
            Evidence::Bad => self.bad(sample.at),
        }
    }

    /// The last sample.
    pub(crate) fn latest(&self) -> Option<Sample> {
        let outcome = match (self.last_rtt_us, self.failure()) {
            (Some(rtt_us), _) => Outcome::Ok { rtt_us },
            (None, Some(failure)) => Outcome::Failed(failure),
            (None, None) => return None,
        };
        Some(Sample {
            at: self.last_at?,
            outcome,
        })
    }

    /// Why the last sample failed, if it did.
    pub(crate) fn failure(&self) -> Option<Failure> {
        let (reason, detail) = self.last_failure?;
        let reason = Reason::try_from(reason).ok()?;
        Some(Failure { reason, detail })
    }

    fn bad(&mut self, at: UnixMillis) -> Option<Change> {
        match self.phase {
            Phase::Down => return None,
            // The same outage goes on.
            Phase::Recovering => {
                self.end_run();
                return Some(self.to(Phase::Down, at));
            }
            Phase::Unknown | Phase::Up | Phase::Suspect => {}
        }
        let began = self.run_since.unwrap_or(at);
        self.suspicion += (P1 / self.loss()).ln();
        if self.suspicion >= THRESHOLD {
            self.since = Some(began);
            self.end_run();
            return Some(self.to(Phase::Down, began));
        }
        self.run_since = Some(began);
        self.run_bad += 1;
        (self.phase != Phase::Suspect).then(|| self.to(Phase::Suspect, at))
    }

    fn good(&mut self, at: UnixMillis) -> Option<Change> {
        match self.phase {
            Phase::Unknown => {
                self.since = Some(at);
                Some(self.to(Phase::Up, at))
            }
            Phase::Up => {
                self.learn(0.0);
                None
            }
            Phase::Suspect => {
                self.suspicion += ((1.0 - P1) / (1.0 - self.loss())).ln();
                self.run_good += 1;
                if self.suspicion > 0.0 {
                    return None;
                }
                (0..self.run_bad).for_each(|_| self.learn(1.0));
                (0..self.run_good).for_each(|_| self.learn(0.0));
                self.suspicion = 0.0;
                self.end_run();
                // A link that was never up before is so from here.
                self.since.get_or_insert(at);
                Some(self.to(Phase::Up, at))
            }
            Phase::Down => {
                self.run_since = Some(at);
                self.run_good = 1;
                Some(self.to(Phase::Recovering, at))
            }
            Phase::Recovering => {
                self.run_good += 1;
                let began = self.run_since.unwrap_or(at);
                if self.run_good < RECOVERY_COUNT || at.since(began) < RECOVERY_TIME {
                    return None;
                }
                self.since = Some(began);
                self.suspicion = 0.0;
                self.end_run();
                Some(self.to(Phase::Up, began))
            }
        }
    }

    fn loss(&self) -> f64 {
        self.loss.clamp(LOSS.0, LOSS.1)
    }

    fn learn(&mut self, lost: f64) {
        self.loss += LOSS_WEIGHT * (lost - self.loss);
    }

    fn end_run(&mut self) {
        (self.run_since, self.run_good, self.run_bad) = (None, 0, 0);
    }

    fn to(&mut self, to: Phase, at: UnixMillis) -> Change {
        let from = std::mem::replace(&mut self.phase, to);
        Change { from, to, at }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One sample every 10 s from 0: `.` answered, `x` timed out, `?` could not look. Returns the changes with
    /// the number of the sample that told, and of the one that it is dated to.
    fn run(link: &mut Link, text: &str) -> Vec<(usize, Phase, i64)> {
        let mut changes = Vec::new();
        for (i, c) in text.chars().enumerate() {
            let outcome = match c {
                '.' => Outcome::Ok { rtt_us: 1_000 },
                'x' => Outcome::Failed(Reason::Timeout.into()),
                _ => Outcome::Failed(Reason::NotPermitted.into()),
            };
            let at = UnixMillis(i64::try_from(i).expect("small") * 10_000);
            if let Some(change) = link.sample(Sample { at, outcome }) {
                changes.push((i, change.to, change.at.0 / 10_000));
            }
        }
        changes
    }

    #[test]
    fn four_failures_of_a_clean_link_are_an_outage_from_the_first() {
        use Phase::{Down, Recovering, Suspect, Up};
        let changes = run(&mut Link::default(), "...xxxxxx....");
        let expected = [
            (0, Up, 0),
            (3, Suspect, 3),
            (6, Down, 3),
            (9, Recovering, 9),
            (11, Up, 9),
        ];
        assert_eq!(changes, expected);
    }

    #[test]
    fn a_blip_is_not_an_outage_and_does_not_restart_the_clock() {
        let mut link = Link::default();
        let changes = run(&mut link, "...xx......x...");
        assert!(
            changes
                .iter()
                .all(|(_, to, _)| matches!(to, Phase::Up | Phase::Suspect)),
            "{changes:?}"
        );
        assert_eq!(link.phase, Phase::Up);
        assert_eq!(link.since, Some(UnixMillis(0)));
    }

    #[test]
    fn a_failed_recovery_is_the_same_outage() {
        let mut link = Link::default();
        run(&mut link, "...xxxxx..x..x");
        assert_eq!(link.phase, Phase::Down);
        assert_eq!(link.since, Some(UnixMillis(30_000)));
    }

    #[test]
    fn a_lossy_link_needs_more_failures() {
        let failures_until_down = |loss: f64| {
            let mut link = Link {
                loss,
                ..Link::default()
            };
            run(&mut link, &format!(".{}", "x".repeat(30)))
                .iter()
                .find(|(_, to, _)| *to == Phase::Down)
                .map(|(i, ..)| *i)
        };
        assert_eq!(failures_until_down(0.01), Some(4));
        assert_eq!(failures_until_down(0.10), Some(8));
        assert_eq!(failures_until_down(0.25), Some(13));
    }

    #[test]
    fn what_could_not_be_looked_at_says_nothing() {
        let mut link = Link::default();
        assert_eq!(run(&mut link, "??????"), []);
        assert_eq!(link.phase, Phase::Unknown);
        assert_eq!(run(&mut Link::default(), "..??????.."), [(0, Phase::Up, 0)]);
    }

    #[test]
    fn a_link_that_was_never_up_can_be_down() {
        let mut link = Link::default();
        let changes = run(&mut link, "xxxx");
        assert_eq!(changes.last(), Some(&(3, Phase::Down, 0)));
        assert_eq!(link.since, Some(UnixMillis(0)));
    }

    #[test]
    fn late_and_doubled_samples_change_nothing() {
        let mut link = Link::default();
        run(&mut link, "...");
        let before = link.clone();
        for at in [20_000, 10_000, 0] {
            let outcome = Outcome::Failed(Reason::Timeout.into());
            assert_eq!(
                link.sample(Sample {
                    at: UnixMillis(at),
                    outcome
                }),
                None
            );
        }
        assert_eq!(link, before);
    }
}
