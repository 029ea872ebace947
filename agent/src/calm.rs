//! When a stream speaks: at once without a byte budget; with one, an edge at once, what follows it soon, and everything else when a batch is due.

use crate::budget::{Left, Pace};
use std::time::{Duration, Instant};

/// After an edge everything goes out at once for so many heartbeats: what makes the collector certain of it is in them.
const AWAKE: u32 = 12;
/// With a budget that is short, what followed an edge goes out together, so many heartbeats after it: soon enough for a link that seldom loses
/// anything, and later for one that often does.
const FOLLOW_UPS: [u32; 2] = [6, 18];
/// With nothing left of the budget a word comes this long after the last one.
const OVER_WAIT: Duration = Duration::from_secs(60);
/// It is looked at least so often whether something is due.
const LOOK: Duration = Duration::from_secs(60);

/// What one stream knows of when to speak.
#[derive(Debug)]
pub(crate) struct Calm {
    pub(crate) takes_batches: bool,
    /// Whether anything waits at all.
    pub(crate) waits: bool,
    heartbeat: Duration,
    /// Since when the oldest unsent entry waits.
    unsent_since: Option<Instant>,
    /// The first edge that was not sent.
    urgent_from: Option<u64>,
    /// After an edge everything goes out at once, until then …
    awake_until: Instant,
    /// … or what followed it goes out then; the last of them first.
    follow_ups: Vec<Instant>,
    /// When anything was sent, a pulse among it.
    spoke: Instant,
    /// When an entry was sent, on this stream or the one before.
    told: Option<Instant>,
}

impl Calm {
    /// Of a stream that begins now; `told`: when an entry was sent on the one before.
    pub(crate) fn new(
        takes_batches: bool,
        limited: bool,
        heartbeat: Duration,
        told: Option<Instant>,
        now: Instant,
    ) -> Self {
        Self {
            takes_batches,
            waits: takes_batches && limited,
            heartbeat,
            unsent_since: None,
            urgent_from: None,
            // What waited for the stream goes first, as far as the budget bears it.
            awake_until: now + Duration::from_secs(10),
            follow_ups: Vec::new(),
            spoke: now,
            told,
        }
    }

    /// Whether there are entries that were not sent, and the last edge among them.
    pub(crate) fn see(&mut self, unsent: bool, urgent: Option<u64>, left: Left, now: Instant) {
        self.unsent_since = unsent.then(|| self.unsent_since.unwrap_or(now));
        self.urgent_from = urgent.map(|last| self.urgent_from.unwrap_or(last));
        if urgent.is_some() {
            if left == Left::Enough {
                self.awake_until = now + self.heartbeat * AWAKE;
                self.follow_ups.clear();
            } else {
                let after = FOLLOW_UPS.iter().rev();
                self.follow_ups = after.map(|n| now + self.heartbeat * *n).collect();
            }
        }
    }

    /// The first edge that was not sent; what is before it may wait for ever.
    pub(crate) fn urgent_from(&self) -> Option<u64> {
        self.urgent_from
    }

    /// Whether what followed an edge is to go out.
    fn follows(&self, now: Instant) -> bool {
        self.follow_ups.last().is_some_and(|at| *at <= now)
    }

    /// Whether what is unsent goes out now.
    pub(crate) fn is_due(&self, pace: Pace, closed: bool, left: Left, now: Instant) -> bool {
        if !self.waits {
            return true;
        }
        let edge = self.urgent_from.is_some() || self.follows(now);
        if left == Left::Nothing {
            return edge && self.may_tell_at().is_none_or(|at| at <= now);
        }
        let waited = |since: Instant| now.duration_since(since) >= pace.batch(closed);
        edge || now < self.awake_until || self.unsent_since.is_some_and(waited)
    }

    /// With nothing left: when the next entry may go out; `None` for at once.
    fn may_tell_at(&self) -> Option<Instant> {
        self.told.map(|at| at + OVER_WAIT)
    }

    /// Whether a pulse is to go out: it was promised that something would be said within `promise`.
    pub(crate) fn is_pulse_due(&self, promise: Duration, now: Instant) -> bool {
        self.waits && now.duration_since(self.spoke) >= promise
    }

    /// Everything that was unsent is sent.
    pub(crate) fn sent_all(&mut self, now: Instant) {
        self.follow_ups.retain(|at| *at > now);
    }

    /// A pulse was sent.
    pub(crate) fn pulsed(&mut self, now: Instant) {
        self.spoke = now;
    }

    /// An entry was sent.
    pub(crate) fn told(&mut self, now: Instant) {
        (self.spoke, self.told) = (now, Some(now));
    }

    /// How long until it is worth a look again; `promise`: from one word to the next.
    pub(crate) fn next(
        &self,
        pace: Pace,
        promise: Duration,
        closed: bool,
        left: Left,
        now: Instant,
    ) -> Duration {
        let over = left == Left::Nothing;
        let batch = self.unsent_since.map(|since| since + pace.batch(closed));
        let edge = self.urgent_from.map(|_| now);
        let edge = edge.or(self.follow_ups.last().copied());
        let may_tell_at = self.may_tell_at().filter(|_| over);
        let times = [
            Some(self.spoke + promise),
            batch.filter(|_| !over),
            edge.map(|at| at.max(may_tell_at.unwrap_or(at))),
            // A budget that is short may be so no more, and an office that is closed may open.
            Some(now + LOOK),
        ];
        let soon = times.into_iter().flatten().min().unwrap_or(now);
        soon.saturating_duration_since(now)
            .max(Duration::from_millis(100))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// The seconds in which entries go out of an agent that makes one each second, with edges at these and a pulse every ten; and how often it was looked whether
    /// something is due.
    fn words(left: Left, edges: &[u32], seconds: u32) -> (Vec<u32>, u32) {
        let start = Instant::now();
        let pace = Pace::of(Some(3_200_000), 86_400.0, SECOND);
        let mut calm = Calm::new(true, true, SECOND, None, start);
        let (mut sent, mut urgent, mut words, mut looks) = (0, 0, Vec::new(), 0);
        let mut now = start;
        while now < start + SECOND * seconds {
            let second = u32::try_from((now - start).as_secs()).expect("minutes");
            let last = u64::from(second) + 1;
            let edge = edges.iter().rev().find(|edge| **edge <= second);
            urgent = edge.map_or(urgent, |edge| u64::from(*edge) + 1);
            if sent == last {
                calm.sent_all(now);
            }
            calm.see(sent < last, Some(urgent).filter(|of| *of > sent), left, now);
            looks += 1;
            if sent < last && calm.is_due(pace, false, left, now) {
                calm.told(now);
                (sent, urgent) = (last, 0);
                words.push(second);
                continue;
            }
            if calm.is_pulse_due(10 * SECOND, now) {
                calm.pulsed(now);
            }
            // Each new entry is a reason to look, too.
            let entry = start + SECOND * (second + 1);
            now = entry.min(now + calm.next(pace, 10 * SECOND, false, left, now));
        }
        (words, looks)
    }

    #[test]
    fn an_edge_is_told_at_once_and_what_makes_it_certain_soon() {
        let at_first: Vec<u32> = (0..10).collect();
        let (enough, _) = words(Left::Enough, &[100], 300);
        let expected: Vec<u32> = (0..10).chain(100..112).collect();
        assert_eq!(enough, expected);
        let (short, looks) = words(Left::Short, &[100], 300);
        assert_eq!(short, [&at_first[..], &[100, 106, 118]].concat());
        assert!(looks < 700, "{looks}");
        // The next edge begins that anew.
        let (two, _) = words(Left::Short, &[100, 104], 300);
        assert_eq!(two, [&at_first[..], &[100, 104, 110, 122]].concat());
        // A word a minute, whatever happens; pulses do not put it off.
        let (nothing, looks) = words(Left::Nothing, &[100, 101, 102], 400);
        assert_eq!(nothing, [100, 160, 220]);
        assert!(looks < 900, "{looks}");
    }

    #[test]
    fn with_nothing_left_the_first_of_two_edges_is_not_left_behind() {
        let now = Instant::now();
        let mut calm = Calm::new(true, true, SECOND, Some(now), now);
        for last in [None, Some(7), Some(9)] {
            calm.see(true, last, Left::Nothing, now);
        }
        assert_eq!(calm.urgent_from(), Some(7));
    }
}
