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

/// What one stream knows of when to speak.
#[derive(Debug)]
pub(crate) struct Calm {
    pub(crate) takes_batches: bool,
    /// Whether anything waits at all.
    pub(crate) waits: bool,
    heartbeat: Duration,
    /// Since when the oldest unsent entry waits.
    unsent_since: Option<Instant>,
    is_urgent: bool,
    /// After an edge everything goes out at once, until then …
    awake_until: Instant,
    /// … or what followed it goes out then; the last of them first.
    follow_ups: Vec<Instant>,
    spoke: Instant,
}

impl Calm {
    /// Of a stream that begins now.
    pub(crate) fn new(
        takes_batches: bool,
        limited: bool,
        heartbeat: Duration,
        now: Instant,
    ) -> Self {
        Self {
            takes_batches,
            waits: takes_batches && limited,
            heartbeat,
            unsent_since: None,
            is_urgent: false,
            // What waited for the stream goes first, as far as the budget bears it.
            awake_until: now + Duration::from_secs(10),
            follow_ups: Vec::new(),
            spoke: now,
        }
    }

    /// Whether there are entries that were not sent, and an edge among them.
    pub(crate) fn see(&mut self, unsent: bool, urgent: bool, left: Left, now: Instant) {
        self.unsent_since = unsent.then(|| self.unsent_since.unwrap_or(now));
        self.is_urgent = urgent;
        if urgent {
            if left == Left::Enough {
                self.awake_until = now + self.heartbeat * AWAKE;
                self.follow_ups.clear();
            } else {
                let after = FOLLOW_UPS.iter().rev();
                self.follow_ups = after.map(|n| now + self.heartbeat * *n).collect();
            }
        }
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
        let edge = self.is_urgent || self.follows(now);
        if left == Left::Nothing {
            return edge && now.duration_since(self.spoke) >= OVER_WAIT;
        }
        let waited = |since: Instant| now.duration_since(since) >= pace.batch(closed);
        edge || now < self.awake_until || self.unsent_since.is_some_and(waited)
    }

    /// Whether a pulse is to go out: it was promised that something would be said within `promise`.
    pub(crate) fn is_pulse_due(&self, promise: Duration, now: Instant) -> bool {
        self.waits && now.duration_since(self.spoke) >= promise
    }

    /// Everything that was unsent is sent.
    pub(crate) fn sent_all(&mut self, now: Instant) {
        self.follow_ups.retain(|at| *at > now);
    }

    /// Something was sent.
    pub(crate) fn spoke(&mut self, now: Instant) {
        self.spoke = now;
    }

    /// How long until it is worth a look again.
    pub(crate) fn next(&self, pace: Pace, closed: bool, now: Instant) -> Duration {
        let pulse = (self.spoke + pace.pulse(closed)).saturating_duration_since(now);
        let batch = self
            .unsent_since
            .map(|since| (since + pace.batch(closed)).saturating_duration_since(now));
        let follow_up = self.follow_ups.last();
        let follow_up = follow_up.map(|at| at.saturating_duration_since(now));
        // With a budget that is short, or an office that opens, it is worth a look before that.
        let soon = [batch, follow_up, Some(OVER_WAIT)].into_iter().flatten();
        soon.fold(pulse, Duration::min)
            .max(Duration::from_millis(100))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// The seconds in which something goes out of an agent that makes an entry each second, with edges at these.
    fn words(left: Left, edges: &[u32], seconds: u32) -> Vec<u32> {
        let start = Instant::now();
        let pace = Pace::of(Some(3_200_000), 86_400.0, SECOND);
        let mut calm = Calm::new(true, true, SECOND, start);
        let (mut unsent, mut urgent, mut words) = (false, false, Vec::new());
        for second in 0..seconds {
            let now = start + SECOND * second;
            (unsent, urgent) = (true, urgent || edges.contains(&second));
            calm.see(unsent, urgent, left, now);
            if calm.is_due(pace, false, left, now) {
                calm.spoke(now);
                calm.sent_all(now);
                (unsent, urgent) = (false, false);
                calm.see(unsent, urgent, left, now);
                words.push(second);
            }
        }
        assert!(!urgent || left == Left::Nothing);
        assert!(unsent || !words.is_empty());
        words
    }

    #[test]
    fn an_edge_is_told_at_once_and_what_makes_it_certain_soon() {
        let at_first: Vec<u32> = (0..10).collect();
        let enough = words(Left::Enough, &[100], 300);
        let expected: Vec<u32> = (0..10).chain(100..112).collect();
        assert_eq!(enough, expected);
        let short = words(Left::Short, &[100], 300);
        assert_eq!(short, [&at_first[..], &[100, 106, 118]].concat());
        // The next edge begins that anew.
        let two = words(Left::Short, &[100, 104], 300);
        assert_eq!(two, [&at_first[..], &[100, 104, 110, 122]].concat());
        // A word a minute, whatever happens.
        let nothing = words(Left::Nothing, &[100, 101, 102], 400);
        assert_eq!(nothing, [100, 160, 220]);
    }
}
