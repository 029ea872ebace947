//! How much one agent may say, on however many streams: what is more waits in its connection, and so in its spool. Nothing is lost, and nobody else waits for it.

use std::time::{Duration, Instant};

/// Samples of one agent in a second, in the long run: a thousand times what an agent with six targets takes, so that what it stored is
/// delivered soon.
const RATE: f64 = 600.0;
/// And at once: a day of the same.
const BURST: f64 = 60_000.0;
/// What a heartbeat costs beside its samples, in samples.
const HEARTBEAT: usize = 6;

/// A bucket of samples that may be taken.
#[derive(Debug)]
pub(super) struct Pace {
    left: f64,
    at: Instant,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            left: BURST,
            at: now,
        }
    }

    /// A heartbeat with so many samples was taken; how long to wait until the next.
    pub(super) fn take(&mut self, samples: usize, now: Instant) -> Duration {
        #[allow(clippy::cast_precision_loss, reason = "a few thousand at most")]
        let cost = (samples + HEARTBEAT) as f64;
        let since = now.saturating_duration_since(self.at).as_secs_f64();
        self.left = (self.left + since * RATE).min(BURST) - cost;
        self.at = now;
        Duration::from_secs_f64((-self.left / RATE).max(0.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_taken_at_once_and_then_so_many_a_second() {
        let mut now = Instant::now();
        let mut pace = Pace::new(now);
        let began = now;
        for n in 0..7_000 {
            let wait = pace.take(6, now);
            assert_eq!(wait > Duration::ZERO, n >= 5_000, "{n}");
            now += wait;
        }
        let spent = (now - began).as_secs_f64();
        assert!((spent - 2_000.0 * 12.0 / RATE).abs() < 0.1, "{spent}");
        // After a while of silence it is as at first, and no more.
        now += Duration::from_secs(3_600);
        let at_once = (0..9_000).take_while(|_| pace.take(6, now).is_zero());
        assert_eq!(at_once.count(), 5_000);
        // What is sent in few heartbeats is not less.
        now += Duration::from_secs(3_600);
        let at_once = (0..9_000).take_while(|_| pace.take(294, now).is_zero());
        assert_eq!(at_once.count(), 200);
    }
}
