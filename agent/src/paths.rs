//! When the way to a target is looked at, and what of it is still to be told.
//!
//! A single lost packet is no reason: the second failure in a row is, unless the target itself said what is wrong. One way is looked at at a time, once
//! for failures in a row, and the way to the same target not again for a while, so that a link that flaps costs little.

use denyut_proto::sample::Evidence;
use denyut_proto::{Hop, MAX_TARGETS, Outcome, Path, Reason, TargetName, UnixMillis};
use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

/// The way to the same target is not looked at again for this.
const AGAIN: Duration = Duration::from_secs(600);
/// Failures in a row after which it is looked at.
const FAILURES: u32 = 2;

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Traced {
    pub(crate) target: TargetName,
    /// Uptime at which the first packet was sent.
    pub(crate) sent: Duration,
    pub(crate) to: IpAddr,
    pub(crate) hops: Vec<Option<Hop>>,
}

impl Traced {
    /// The same by the wall clock, which stands at `wall` when the uptime is `uptime`.
    pub(crate) fn at(self, wall: UnixMillis, uptime: Duration) -> Path {
        Path {
            target: self.target,
            at: wall - uptime.saturating_sub(self.sent),
            to: self.to,
            hops: self.hops,
        }
    }
}

/// Failures in a row.
#[derive(Debug, Default)]
struct Failing {
    count: u32,
    /// The way was looked at, or will be.
    is_looked: bool,
}

/// Whether the network may be to blame: a target that answered, if wrongly, is at the end of a way that is well.
pub(crate) fn may_be_the_way(outcome: Outcome) -> bool {
    matches!(outcome, Outcome::Failed(failure) if matches!(
        failure.reason,
        Reason::Timeout
            | Reason::Refused
            | Reason::HostUnreachable
            | Reason::NetworkUnreachable
            | Reason::ConnectionLost
    ))
}

/// Wanted, looked at, and untold.
#[derive(Debug, Default)]
pub(crate) struct Paths {
    failing: HashMap<TargetName, Failing>,
    /// Uptime at which the way to each was looked at last.
    looked: HashMap<TargetName, Duration>,
    wanted: VecDeque<TargetName>,
    untold: VecDeque<Traced>,
}

impl Paths {
    /// A target was probed at this uptime.
    pub(crate) fn probed(&mut self, target: &TargetName, outcome: Outcome, at: Duration) {
        match outcome.evidence() {
            Evidence::Good => {
                self.failing.remove(target);
                // Who answers again has no way to be looked at.
                self.wanted.retain(|wanted| wanted != target);
            }
            Evidence::None => {}
            Evidence::Bad => {
                let failing = self.failing.entry(target.clone()).or_default();
                failing.count = failing.count.saturating_add(1);
                let looked = self.looked.get(target);
                let is_due = looked.is_none_or(|looked| at.saturating_sub(*looked) >= AGAIN);
                let is_new = failing.count >= FAILURES && !failing.is_looked;
                if is_new && is_due && may_be_the_way(outcome) {
                    failing.is_looked = true;
                    self.wanted.push_back(target.clone());
                }
            }
        }
    }

    /// The next to whom the way is to be looked at, now, at this uptime.
    pub(crate) fn take_wanted(&mut self, at: Duration) -> Option<TargetName> {
        let target = self.wanted.pop_front()?;
        self.looked.insert(target.clone(), at);
        Some(target)
    }

    /// This is to be told; of too many the oldest is not.
    pub(crate) fn found(&mut self, traced: Traced) {
        if self.untold.len() == MAX_TARGETS {
            self.untold.pop_front();
        }
        self.untold.push_back(traced);
    }

    /// What is to be told next.
    pub(crate) fn to_tell(&self) -> Option<&Traced> {
        self.untold.front()
    }

    /// It was told.
    pub(crate) fn told(&mut self) {
        self.untold.pop_front();
    }

    /// Forgets all targets but these.
    pub(crate) fn keep_only(&mut self, is_target: impl Fn(&TargetName) -> bool) {
        self.failing.retain(|name, _| is_target(name));
        self.looked.retain(|name, _| is_target(name));
        self.wanted.retain(&is_target);
        self.untold.retain(|traced| is_target(&traced.target));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: Outcome = Outcome::Ok { rtt_us: 900 };

    fn at(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    fn bad(reason: Reason) -> Outcome {
        Outcome::Failed(reason.into())
    }

    /// Whether the way is looked at after each of these, told with their second.
    fn looks(probes: &[(u64, Outcome)]) -> Vec<u64> {
        let uplink: TargetName = "uplink".parse().expect("a name");
        let mut paths = Paths::default();
        let looked = probes.iter().filter(|(s, outcome)| {
            paths.probed(&uplink, *outcome, at(*s));
            paths.take_wanted(at(*s)).is_some()
        });
        looked.map(|(s, _)| *s).collect()
    }

    #[test]
    fn the_second_failure_in_a_row_is_looked_at() {
        let timeout = bad(Reason::Timeout);
        // A packet got lost; then two, though the agent could not look in between; and it goes on.
        let lost = [(10, timeout), (20, GOOD), (30, timeout)];
        let went_on = [
            (40, bad(Reason::NotPermitted)),
            (50, timeout),
            (60, timeout),
        ];
        assert_eq!(looks(&[&lost[..], &went_on].concat()), [50]);
    }

    #[test]
    fn a_link_that_flaps_is_looked_at_every_ten_minutes() {
        let timeout = bad(Reason::Timeout);
        let flaps = |s| [(s, GOOD), (s + 10, timeout), (s + 20, timeout)];
        let probes: Vec<_> = (0..50).flat_map(|n| flaps(n * 30)).collect();
        assert_eq!(looks(&probes), [20, 620, 1_220]);
    }

    #[test]
    fn an_outage_right_after_another_is_looked_at_when_its_time_has_come() {
        let timeout = bad(Reason::Timeout);
        let first = [(10, timeout), (20, timeout), (30, GOOD)];
        let second: Vec<_> = (4..400).map(|n| (n * 10, timeout)).collect();
        assert_eq!(looks(&[&first[..], &second].concat()), [20, 620]);
    }

    #[test]
    fn who_says_what_is_wrong_is_reached() {
        let unwell = bad(Reason::HttpStatus);
        assert_eq!(looks(&[(10, unwell), (20, unwell), (30, unwell)]), [0; 0]);
        let timeout = bad(Reason::Timeout);
        assert_eq!(looks(&[(10, unwell), (20, timeout)]), [20]);
    }

    #[test]
    fn who_answers_again_is_not_looked_at() {
        let uplink: TargetName = "uplink".parse().expect("a name");
        let mut paths = Paths::default();
        paths.probed(&uplink, bad(Reason::Timeout), at(10));
        paths.probed(&uplink, bad(Reason::Timeout), at(20));
        paths.probed(&uplink, GOOD, at(30));
        assert_eq!(paths.take_wanted(at(30)), None);
    }
}
