//! How often somebody may ask.

use governor::clock::{Clock, DefaultClock};
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};
use std::num::NonZeroU32;
use std::time::Duration;

/// Callers remembered before those that have been quiet are forgotten.
const REMEMBERED: usize = 10_000;

/// A pace for each caller of a kind (GCRA, by the governor crate).
pub(crate) struct Pace {
    limiter: RateLimiter<String, HashMapStateStore<String>, DefaultClock>,
    clock: DefaultClock,
}

impl Pace {
    /// So often, and so many at once.
    pub(crate) fn new(every: Duration, burst: NonZeroU32) -> Self {
        let quota = Quota::with_period(every).map_or_else(
            || Quota::per_second(burst),
            |quota| quota.allow_burst(burst),
        );
        let clock = DefaultClock::default();
        Self {
            limiter: RateLimiter::new(quota, HashMapStateStore::default(), clock.clone()),
            clock,
        }
    }

    /// Whether this caller may ask now; if not, when again.
    pub(crate) fn ask(&self, caller: &str) -> Result<(), Duration> {
        if self.limiter.len() > REMEMBERED {
            self.limiter.retain_recent();
        }
        self.limiter
            .check_key(&caller.to_owned())
            .map_err(|not_until| not_until.wait_time_from(self.clock.now()))
    }
}
