//! What is told together: a function of what is true, what was told, and the time.

use denyut_detect::{Cause, Incident};
use denyut_proto::UnixMillis;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// When a group is told. The words are Alertmanager's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Timing {
    /// How long the first message waits for what belongs to it.
    pub(crate) group_wait: Duration,
    /// From one message to the next, when something changed.
    pub(crate) group_interval: Duration,
    /// When something is told again that nobody acknowledged; twice as long each time.
    pub(crate) repeat_interval: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            group_wait: Duration::from_secs(30),
            group_interval: Duration::from_secs(300),
            repeat_interval: Duration::from_secs(4 * 3_600),
        }
    }
}

/// The longest time until something is told again.
const REPEAT_MOST: Duration = Duration::from_secs(30 * 86_400);

/// What of an incident is worth a message when it changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Told {
    pub(crate) state: Telling,
    pub(crate) cause: Cause,
    /// Which relapse it is.
    pub(crate) relapse: Option<u32>,
    /// Of a common cause: how many offices it hit, as a power of two: what grows a little is no news.
    pub(crate) failed: Option<u32>,
    /// When somebody was to be called.
    pub(crate) paged: Option<UnixMillis>,
}

/// Where an incident stands, for who is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Telling {
    /// It goes on, and nobody said that they know of it.
    Firing,
    /// It goes on, and somebody does, since then.
    Acknowledged(UnixMillis),
    /// It is over.
    Resolved,
    /// It was none, or is part of another.
    Retracted,
}

impl Told {
    /// What is true now; `known`: when somebody acknowledged it.
    pub(crate) fn of(incident: &Incident, known: Option<UnixMillis>) -> Self {
        let facts = &incident.facts;
        let state = match (incident.retracted, facts.resolved_ms, known) {
            (true, ..) => Telling::Retracted,
            (_, Some(_), _) => Telling::Resolved,
            (.., Some(at)) => Telling::Acknowledged(at),
            _ => Telling::Firing,
        };
        Self {
            state,
            cause: facts.cause,
            relapse: facts.relapse.map(|relapse| relapse.count),
            failed: facts
                .scope
                .as_ref()
                .map(|scope| scope.failed.max(1).ilog2()),
            paged: incident.paged_ms,
        }
    }

    /// Whether nothing more is to come.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.state, Telling::Resolved | Telling::Retracted)
    }
}

/// What one receiver is told together, and was.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Group {
    /// Its incidents: what is true of each, and what was told.
    pub(crate) members: BTreeMap<u64, Member>,
    /// Since when something waits to be told.
    pub(crate) waiting_since: Option<UnixMillis>,
    /// When it was told last, and how often since something changed.
    pub(crate) told_at: Option<UnixMillis>,
    pub(crate) repeats: u32,
}

/// One incident of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Member {
    pub(crate) now: Told,
    pub(crate) told: Option<Told>,
    /// Nobody need be called for it for now.
    pub(crate) silenced: bool,
}

impl Member {
    /// Whether it is to be told: it is otherwise than what was, and nobody said that it need not; its end is always told to who knew of its beginning.
    pub(super) fn waits(&self) -> bool {
        self.told.as_ref() != Some(&self.now) && (!self.silenced || self.now.is_over())
    }

    /// Whether it is to be told again.
    fn fires(&self) -> bool {
        self.now.state == Telling::Firing && !self.silenced
    }
}

impl Group {
    /// This is true of an incident now, and whether it is silenced. Returns whether anything of the group changed.
    pub(crate) fn take(&mut self, number: u64, now: Told, silenced: bool, at: UnixMillis) -> bool {
        let before = self.members.get(&number);
        if before.is_some_and(|member| member.now == now && member.silenced == silenced) {
            return false;
        }
        let told = before.and_then(|member| member.told.clone());
        if told.is_none() && (now.is_over() || silenced) {
            // It was over before anybody was told, or nobody is to be.
            let was_there = self.members.remove(&number).is_some();
            self.forget_waiting();
            return was_there;
        }
        // Nobody who was called need be called about it again because a colleague knows of it, but they are told.
        let member = Member {
            now,
            told,
            silenced,
        };
        self.members.insert(number, member);
        self.waiting_since.get_or_insert(at);
        self.forget_waiting();
        true
    }

    fn forget_waiting(&mut self) {
        if !self.members.values().any(Member::waits) {
            self.waiting_since = None;
        }
    }

    /// When it is to be told next; `None` if nothing is to be told.
    pub(crate) fn due(&self, timing: &Timing) -> Option<UnixMillis> {
        let waiting = self.waiting_since.map(|since| match self.told_at {
            None => since + timing.group_wait,
            Some(told) => since.max(told + timing.group_interval),
        });
        let again = self
            .told_at
            .filter(|_| self.members.values().any(Member::fires))
            .map(|told| {
                let times = 1_u32.checked_shl(self.repeats).unwrap_or(u32::MAX);
                told + timing
                    .repeat_interval
                    .saturating_mul(times)
                    .min(REPEAT_MOST)
            });
        [waiting, again].into_iter().flatten().min()
    }

    /// These of it are told now; what of them is over is forgotten, and what there was no room for is due at once. `again`: the message has no news.
    pub(crate) fn tell(&mut self, written: &BTreeSet<u64>, again: bool, at: UnixMillis) {
        let mut is_told = false;
        for (number, member) in &mut self.members {
            if written.contains(number) {
                member.told = Some(member.now.clone());
                is_told = true;
            }
        }
        self.members
            .retain(|_, member| !member.now.is_over() || member.told.as_ref() != Some(&member.now));
        if self.members.values().any(Member::waits) {
            return;
        }
        if self.waiting_since.take().is_some() {
            self.repeats = 0;
        } else if again && is_told {
            self.repeats = self.repeats.saturating_add(1);
        } else {
            // The news of others hid what was to be told again: it stays due.
            return;
        }
        self.told_at = Some(at);
    }

    /// A clock that was ahead does not silence anybody for as long.
    pub(crate) fn not_after(&mut self, now: UnixMillis) {
        for at in [&mut self.told_at, &mut self.waiting_since] {
            *at = at.map(|at| at.min(now));
        }
    }
}

/// So many groups of a receiver that begin together are a storm, and told in one message.
const STORM: usize = 4;

/// When a receiver is told next, and of which of its groups; not before a time, as messages keep apart.
pub(crate) fn next<'a, K: Clone + 'a>(
    groups: impl Iterator<Item = (&'a K, &'a Group)> + Clone,
    timing: &Timing,
    not_before: Option<UnixMillis>,
    now: UnixMillis,
) -> Option<(UnixMillis, Vec<K>)> {
    let begins = |group: &Group| group.waiting_since.filter(|_| group.told_at.is_none());
    let beginning = groups.clone().filter_map(|(_, group)| begins(group));
    let (mut count, mut oldest, mut youngest) = (0, UnixMillis(i64::MAX), UnixMillis(0));
    for since in beginning {
        count += 1;
        oldest = oldest.min(since);
        youngest = youngest.max(since);
    }
    // They wait for the last of them, but none for longer than twice its time.
    let storm = (youngest + timing.group_wait).min(oldest + timing.group_wait.saturating_mul(2));
    let due = |group: &Group| match begins(group) {
        Some(_) if count >= STORM => Some(storm),
        _ => group.due(timing),
    };
    let all = groups.filter_map(|(key, group)| Some((due(group)?, key)));
    let all: Vec<(UnixMillis, &K)> = all.collect();
    let first = all.iter().map(|(due, _)| *due).min()?;
    let at = not_before.map_or(first, |before| first.max(before));
    let until = at.max(now);
    let told = all.into_iter().filter(|(due, _)| *due <= until);
    Some((at, told.map(|(_, key)| key.clone()).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000;
    const HOUR: i64 = 3_600 * SECOND;

    fn told(state: Telling) -> Told {
        Told {
            state,
            cause: Cause::Uplink,
            relapse: None,
            failed: None,
            paged: None,
        }
    }

    fn at(ms: i64) -> UnixMillis {
        UnixMillis(1_790_000_000_000 + ms)
    }

    /// Tells the group whenever it is due, from one time to another; when that was.
    fn run(group: &mut Group, from: i64, until: i64) -> Vec<i64> {
        let mut times = Vec::new();
        while let Some(due) = group.due(&Timing::default())
            && due <= at(until)
        {
            let now = due.max(at(from));
            let all = group.members.keys().copied().collect();
            group.tell(&all, true, now);
            times.push((now.0 - at(0).0) / SECOND);
        }
        times
    }

    #[test]
    fn what_comes_together_is_told_together_and_what_changes_later() {
        let mut group = Group::default();
        assert_eq!(group.due(&Timing::default()), None);
        assert!(group.take(1, told(Telling::Firing), false, at(0)));
        assert!(!group.take(1, told(Telling::Firing), false, at(SECOND)));
        assert!(group.take(2, told(Telling::Firing), false, at(20 * SECOND)));
        assert_eq!(run(&mut group, 0, 60 * SECOND), [30]);
        assert_eq!(group.members.len(), 2);
        // Sooner than the interval: it waits for that.
        assert!(group.take(1, told(Telling::Resolved), false, at(90 * SECOND)));
        assert_eq!(run(&mut group, 90 * SECOND, 400 * SECOND), [330]);
        assert_eq!(group.members.keys().collect::<Vec<_>>(), [&2]);
        assert!(group.take(2, told(Telling::Resolved), false, at(HOUR)));
        assert_eq!(run(&mut group, HOUR, 2 * HOUR), [3_600]);
        assert!(group.members.is_empty());
        assert_eq!(run(&mut group, 2 * HOUR, 9_000 * HOUR), [0; 0]);
    }

    #[test]
    fn what_no_message_has_room_for_is_in_the_next() {
        let mut group = Group::default();
        for number in 1..=3 {
            group.take(number, told(Telling::Firing), false, at(0));
        }
        group.tell(&[1, 2].into(), false, at(30 * SECOND));
        // It is due at once.
        assert_eq!(group.due(&Timing::default()), Some(at(30 * SECOND)));
        for number in [1, 3] {
            group.take(number, told(Telling::Resolved), false, at(31 * SECOND));
        }
        // Nobody heard of the third, and nobody need.
        assert_eq!(group.members.keys().collect::<Vec<_>>(), [&1, &2]);
        group.tell(&[2].into(), false, at(32 * SECOND));
        group.tell(&[1].into(), false, at(33 * SECOND));
        assert_eq!(
            (group.members.len(), group.told_at),
            (1, Some(at(33 * SECOND)))
        );
    }

    #[test]
    fn a_blip_is_told_to_nobody() {
        let mut group = Group::default();
        group.take(1, told(Telling::Firing), false, at(0));
        assert!(group.take(1, told(Telling::Resolved), false, at(29 * SECOND)));
        assert_eq!(group, Group::default());
    }

    #[test]
    fn it_is_told_again_ever_more_seldom_until_somebody_knows_of_it() {
        let mut group = Group::default();
        group.take(1, told(Telling::Firing), false, at(-30 * SECOND));
        let hours: Vec<i64> = run(&mut group, 0, 3_000 * HOUR)
            .iter()
            .map(|s| s / 3_600)
            .collect();
        // Twice as long each time, up to 30 days.
        assert_eq!(
            hours,
            [0, 4, 12, 28, 60, 124, 252, 508, 1_020, 1_740, 2_460]
        );
        let known = told(Telling::Acknowledged(at(0)));
        group.take(1, known, false, at(3_000 * HOUR));
        assert_eq!(
            run(&mut group, 3_000 * HOUR, 90_000 * HOUR),
            [3_000 * 3_600]
        );
        // That runs out.
        group.take(1, told(Telling::Firing), false, at(90_000 * HOUR));
        assert_eq!(
            run(&mut group, 90_000 * HOUR, 90_005 * HOUR),
            [90_000 * 3_600, 90_004 * 3_600]
        );
    }

    #[test]
    fn a_storm_is_one_message_and_messages_keep_apart() {
        let timing = Timing::default();
        let group = |since: i64| {
            let mut group = Group::default();
            group.take(1, told(Telling::Firing), false, at(since * SECOND));
            group
        };
        let ask = |all: &BTreeMap<u32, Group>, before: Option<i64>, now: i64| {
            let before = before.map(|seconds| at(seconds * SECOND));
            let next = next(all.iter(), &timing, before, at(now * SECOND));
            next.map(|(due, keys)| ((due.0 - at(0).0) / SECOND, keys))
        };
        let mut all = BTreeMap::new();
        assert_eq!(ask(&all, None, 0), None);
        for (key, since) in [(1, 0), (2, 10), (3, 20)] {
            all.insert(key, group(since));
        }
        // Three are not many: each at its time, and what is due by then with it.
        assert_eq!(ask(&all, None, 20), Some((30, vec![1])));
        assert_eq!(ask(&all, None, 41), Some((30, vec![1, 2])));
        assert_eq!(ask(&all, Some(45), 41), Some((45, vec![1, 2])));
        // With a fourth they wait for the last, up to twice their time.
        all.insert(4, group(25));
        assert_eq!(ask(&all, None, 30), Some((55, vec![1, 2, 3, 4])));
        all.insert(5, group(58));
        assert_eq!(ask(&all, None, 58), Some((60, vec![1, 2, 3, 4, 5])));
        // What was told before is due as ever.
        all.get_mut(&1)
            .expect("is there")
            .tell(&[1].into(), false, at(-200 * SECOND));
        all.get_mut(&1)
            .expect("is there")
            .take(1, told(Telling::Resolved), false, at(0));
        assert_eq!(ask(&all, None, 58), Some((70, vec![2, 3, 4, 5])));
    }

    #[test]
    fn what_is_to_be_told_again_is_not_hidden_by_the_news_of_others() {
        let mut group = Group::default();
        group.take(1, told(Telling::Firing), false, at(-30 * SECOND));
        assert_eq!(run(&mut group, 0, HOUR), [0]);
        let again = Some(at(4 * HOUR));
        assert_eq!(group.due(&Timing::default()), again);
        // Of others there is news, and of it only that it goes on.
        group.tell(&[1].into(), false, at(4 * HOUR));
        assert_eq!(group.due(&Timing::default()), again);
        group.tell(&[1].into(), true, at(4 * HOUR + SECOND));
        assert_eq!(group.due(&Timing::default()), Some(at(12 * HOUR + SECOND)));
    }

    #[test]
    fn a_clock_that_was_ahead_delays_nothing() {
        let mut group = Group::default();
        group.take(1, told(Telling::Firing), false, at(900 * HOUR));
        group.not_after(at(0));
        assert_eq!(group.due(&Timing::default()), Some(at(30 * SECOND)));
    }

    #[test]
    fn what_is_silenced_is_not_told_but_its_end_is_to_who_knew_of_it() {
        let mut group = Group::default();
        // Nobody heard of it.
        assert!(!group.take(1, told(Telling::Firing), true, at(0)));
        assert_eq!(group, Group::default());
        group.take(1, told(Telling::Firing), false, at(0));
        assert_eq!(run(&mut group, 0, 60 * SECOND), [30]);
        // It is told no more …
        assert!(group.take(1, told(Telling::Firing), true, at(60 * SECOND)));
        assert_eq!(run(&mut group, 0, 9_000 * HOUR), [0; 0]);
        // … until the silence is over.
        group.take(1, told(Telling::Firing), false, at(9_000 * HOUR));
        assert_eq!(run(&mut group, 9_000 * HOUR, 9_001 * HOUR), [9_000 * 3_600]);
        group.take(1, told(Telling::Firing), true, at(9_001 * HOUR));
        group.take(1, told(Telling::Resolved), true, at(9_002 * HOUR));
        assert_eq!(run(&mut group, 0, 9_003 * HOUR), [9_002 * 3_600]);
        assert!(group.members.is_empty());
    }

    #[test]
    fn what_is_what_was_told_again_is_not_told() {
        let mut group = Group::default();
        group.take(1, told(Telling::Firing), false, at(0));
        assert_eq!(run(&mut group, 0, 60 * SECOND), [30]);
        group.take(1, told(Telling::Resolved), false, at(70 * SECOND));
        group.take(1, told(Telling::Firing), false, at(80 * SECOND));
        assert_eq!(group.waiting_since, None);
    }
}
