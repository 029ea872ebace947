//! When the way to a target is looked at, and what of it is still to be told.
//!
//! A single lost packet is no reason: the second failure in a row is. One way is looked at at a time, and the way to the same target not again for a
//! while, so that a link that flaps costs little.

use denyut_proto::sample::Evidence;
use denyut_proto::{Hop, MAX_TARGETS, Path, TargetName, UnixMillis};
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

/// Wanted, looked at, and untold.
#[derive(Debug, Default)]
pub(crate) struct Paths {
    failures: HashMap<TargetName, u32>,
    /// Uptime at which the way to each was looked at last.
    looked: HashMap<TargetName, Duration>,
    wanted: VecDeque<TargetName>,
    untold: VecDeque<Traced>,
}

impl Paths {
    /// A target was probed at this uptime.
    pub(crate) fn probed(&mut self, target: &TargetName, evidence: Evidence, at: Duration) {
        match evidence {
            Evidence::Good => {
                self.failures.remove(target);
                // Who answers again has no way to be looked at.
                self.wanted.retain(|wanted| wanted != target);
            }
            Evidence::None => {}
            Evidence::Bad => {
                let failures = self.failures.entry(target.clone()).or_default();
                *failures = failures.saturating_add(1);
                let looked = self.looked.get(target);
                let is_due = looked.is_none_or(|looked| at.saturating_sub(*looked) >= AGAIN);
                if *failures == FAILURES && is_due {
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
        self.failures.retain(|name, _| is_target(name));
        self.looked.retain(|name, _| is_target(name));
        self.wanted.retain(&is_target);
        self.untold.retain(|traced| is_target(&traced.target));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    #[test]
    fn the_second_failure_in_a_row_is_looked_at() {
        let uplink: TargetName = "uplink".parse().expect("a name");
        let mut paths = Paths::default();
        let mut next = |evidence, s| {
            paths.probed(&uplink, evidence, at(s));
            paths.take_wanted(at(s)).is_some()
        };
        assert!(!next(Evidence::Bad, 10));
        assert!(!next(Evidence::Good, 20), "a packet got lost");
        assert!(!next(Evidence::Bad, 30));
        assert!(!next(Evidence::None, 40), "the agent could not look");
        assert!(next(Evidence::Bad, 50));
        assert!(!next(Evidence::Bad, 60), "once is enough");
        assert!(!next(Evidence::Good, 70));
        assert!(!next(Evidence::Bad, 80));
        assert!(!next(Evidence::Bad, 90), "it flaps");
        assert!(!next(Evidence::Good, 700));
        assert!(!next(Evidence::Bad, 710));
        assert!(next(Evidence::Bad, 720), "that was long ago");
    }

    #[test]
    fn who_answers_again_is_not_looked_at() {
        let uplink: TargetName = "uplink".parse().expect("a name");
        let mut paths = Paths::default();
        paths.probed(&uplink, Evidence::Bad, at(10));
        paths.probed(&uplink, Evidence::Bad, at(20));
        paths.probed(&uplink, Evidence::Good, at(30));
        assert_eq!(paths.take_wanted(at(30)), None);
    }
}
