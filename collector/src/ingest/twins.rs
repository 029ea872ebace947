//! Two machines with one identity: a disk that was cloned after it had joined.
//!
//! A machine that restarted takes its old stream over once. Two that live take each other's over again and again: when one comes back that was taken over by
//! another, there are two, and the one that came later is asked to join anew.

use denyut_proto::{AgentId, BootId, UnixMillis};
use std::collections::HashMap;
use std::time::Duration;

/// Takeovers are remembered for so long, and so many of one agent.
const REMEMBERED: (Duration, usize) = (Duration::from_secs(15 * 60), 16);

/// Who took whose stream over lately.
#[derive(Debug, Default)]
pub(super) struct Twins {
    takeovers: HashMap<AgentId, Vec<Takeover>>,
}

#[derive(Debug)]
struct Takeover {
    from: BootId,
    by: BootId,
    at: UnixMillis,
}

impl Twins {
    /// A stream of the boot `by` took over a live one of the boot `from`. Whether `by` is the later of two machines.
    pub(super) fn took_over(
        &mut self,
        agent: &AgentId,
        from: BootId,
        by: BootId,
        now: UnixMillis,
    ) -> bool {
        let lately = |takeover: &Takeover| now.since(takeover.at) <= REMEMBERED.0;
        self.takeovers.retain(|_, all| {
            all.retain(lately);
            !all.is_empty()
        });
        if from == by {
            return false;
        }
        let all = self.takeovers.entry(agent.clone()).or_default();
        // Of the two the one that took over first came later; it was taken over itself since, and so both live.
        let mut between = all
            .iter()
            .filter(|one| (one.from, one.by) == (from, by) || (one.from, one.by) == (by, from));
        let came_later = between.next().is_some_and(|first| first.by == by);
        let is_later = came_later && between.any(|one| one.by == from);
        all.push(Takeover { from, by, at: now });
        if all.len() > REMEMBERED.1 {
            all.remove(0);
        }
        is_later
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_later_of_two_that_live_is_told_from_one_that_restarted() {
        let mut twins = Twins::default();
        let agent: AgentId = "a-1".parse().expect("an id");
        let mut minute = 0;
        let mut takes = |from: u8, by: u8| {
            minute += 1;
            let now = UnixMillis(minute * 60_000);
            twins.took_over(&agent, BootId([from; 16]), BootId([by; 16]), now)
        };
        // One that restarts, twice, and one whose stream broke.
        assert!(!takes(1, 2) && !takes(2, 3) && !takes(3, 3));
        // Another comes, and it goes to and fro.
        assert!(!takes(3, 4), "it may have restarted");
        assert!(!takes(4, 3), "the first came back");
        assert!(takes(3, 4), "the later");
        assert!(!takes(4, 3), "the first again");
        assert!(takes(3, 4));
        minute += 60;
        let now = UnixMillis(minute * 60_000);
        assert!(!twins.took_over(&agent, BootId([3; 16]), BootId([4; 16]), now));
        assert_eq!(twins.takeovers.len(), 1);
    }
}
