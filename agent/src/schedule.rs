//! When each target is due. Pure: time is an argument.

use denyut_proto::{AgentId, Target};
use std::time::Duration;

/// The due times of a list of targets, by uptime.
///
/// A target is due at `phase + k · interval`. The phase comes from the names of agent and target: it
/// spreads thousands of agents that start together (after a power cut) evenly over the interval, and stays
/// the same over restarts.
#[derive(Debug)]
pub(crate) struct Schedule {
    slots: Vec<Slot>,
}

#[derive(Debug)]
struct Slot {
    interval: Duration,
    phase: Duration,
    due: Duration,
}

impl Schedule {
    /// The schedule from `now` on: each target's first tick after it.
    pub(crate) fn new(agent: &AgentId, targets: &[Target], now: Duration) -> Self {
        let slots = targets
            .iter()
            .map(|target| {
                let hash = crc32c::crc32c(format!("{agent}/{}", target.name).as_bytes());
                let interval = target.interval;
                let mut slot = Slot {
                    interval,
                    // hash / 2^32 of the interval
                    phase: interval.mul_f64(f64::from(hash) / 4_294_967_296.0),
                    due: Duration::ZERO,
                };
                slot.due = slot.first_after(now);
                slot
            })
            .collect();
        Self { slots }
    }

    /// When the next target is due; `None` without targets.
    pub(crate) fn next_due(&self) -> Option<Duration> {
        self.slots.iter().map(|slot| slot.due).min()
    }

    /// The targets (by place in the list) that are due at `now`, each once, however many of its ticks were
    /// missed; their next tick is the first after `now`.
    pub(crate) fn take_due(&mut self, now: Duration) -> Vec<usize> {
        let mut due = Vec::new();
        for (i, slot) in self.slots.iter_mut().enumerate() {
            if slot.due <= now {
                due.push(i);
                slot.due = slot.first_after(now);
            }
        }
        due
    }
}

impl Slot {
    fn first_after(&self, now: Duration) -> Duration {
        let Some(since) = now.checked_sub(self.phase) else {
            return self.phase;
        };
        // Whole intervals in u128 ns: exact for any uptime.
        let ticks = since.as_nanos() / self.interval.as_nanos() + 1;
        let nanos = self.phase.as_nanos() + ticks * self.interval.as_nanos();
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use denyut_proto::{HttpExpectation, Role};
    use proptest::prelude::*;

    fn target(name: &str, interval: Duration) -> Target {
        Target::new(
            name.parse().expect("a name"),
            Role::Server,
            "gateway".parse().expect("a probe"),
            interval,
            Duration::from_millis(100),
            HttpExpectation::default(),
        )
        .expect("valid")
    }

    proptest! {
        /// Ticks are exactly one interval apart, and a late taker gets each target once.
        #[test]
        fn ticks_are_regular_and_never_bunch(
            interval_ms in 1_000u64..3_600_000,
            start_ms in 0u64..1_000_000_000,
            late_ms in 0u64..10_000_000,
        ) {
            let interval = Duration::from_millis(interval_ms);
            let agent = "a".parse().expect("an id");
            let start = Duration::from_millis(start_ms);
            let mut schedule = Schedule::new(&agent, &[target("t", interval)], start);
            let first = schedule.next_due().expect("one target");
            prop_assert!(first > start && first <= start + interval);
            let late = first + Duration::from_millis(late_ms);
            prop_assert_eq!(schedule.take_due(late), vec![0]);
            let next = schedule.next_due().expect("one target");
            prop_assert!(next > late && next <= late + interval);
            prop_assert_eq!((next.as_nanos() - first.as_nanos()) % interval.as_nanos(), 0);
            prop_assert_eq!(schedule.take_due(late), Vec::<usize>::new());
        }
    }

    /// 7,290 agents that start together: no tenth of the interval gets more than 12 % of them.
    #[test]
    fn agents_spread_over_the_interval() {
        let interval = Duration::from_secs(10);
        let targets = [target("server", interval)];
        let mut tenths = [0u32; 10];
        for i in 0..7_290 {
            let agent = format!("office-{i}").parse().expect("an id");
            let due = Schedule::new(&agent, &targets, Duration::ZERO).next_due();
            tenths[usize::try_from(due.expect("one target").as_secs() % 10).expect("small")] += 1;
        }
        assert!(tenths.iter().all(|n| (583..=875).contains(n)), "{tenths:?}");
    }
}
