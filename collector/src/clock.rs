//! The collector's time: the wall clock as it was when the process started, carried on by the monotonic clock.
//!
//! A wall clock that jumps while the process runs changes nothing at once: small steps (time synchronisation) are followed,
//! a large one is doubted. While it is doubted nothing is judged by it: no sample is refused, none is deleted.

use denyut_proto::UnixMillis;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use tracing::error;

/// A step up to this is followed.
const STEP_MAX: Duration = Duration::from_secs(5 * 60);

/// One for the process.
#[derive(Debug)]
pub(crate) struct Clock(Mutex<Anchor>);

#[derive(Debug)]
struct Anchor {
    instant: Instant,
    wall: UnixMillis,
    doubted: bool,
}

/// What a look at the clock gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reading {
    /// The time.
    pub(crate) now: UnixMillis,
    /// The wall clock says something else by more than a step that can be followed.
    pub(crate) doubted: bool,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self(Mutex::new(Anchor {
            instant: Instant::now(),
            wall: SystemTime::now().into(),
            doubted: false,
        }))
    }

    /// The time now.
    pub(crate) fn read(&self) -> Reading {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .read(Instant::now(), SystemTime::now().into())
    }
}

impl Anchor {
    fn read(&mut self, instant: Instant, wall: UnixMillis) -> Reading {
        let carried = self.wall + instant.saturating_duration_since(self.instant);
        let off = carried.since(wall).max(wall.since(carried));
        let doubted = off > STEP_MAX;
        if doubted && !self.doubted {
            error!(shown = %wall, expected = %carried, "the system's clock jumped: entries are not taken until it is right again; set it, or restart the collector if the new time is right");
        }
        self.doubted = doubted;
        if doubted {
            return Reading {
                now: carried,
                doubted,
            };
        }
        (self.instant, self.wall) = (instant, wall);
        Reading { now: wall, doubted }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_steps_are_followed_and_jumps_are_not() {
        let start = Instant::now();
        let mut anchor = Anchor {
            instant: start,
            wall: UnixMillis(1_000_000_000),
            doubted: false,
        };
        let mut at = |seconds: u64, wall: i64| {
            let reading = anchor.read(start + Duration::from_secs(seconds), UnixMillis(wall));
            (reading.now.0, reading.doubted)
        };
        assert_eq!(at(10, 1_000_010_000), (1_000_010_000, false));
        assert_eq!(at(20, 1_000_080_000), (1_000_080_000, false));
        assert_eq!(at(30, 1_000_030_000), (1_000_030_000, false));
        // Forty days ahead, then right again.
        assert_eq!(at(40, 4_456_000_000), (1_000_040_000, true));
        assert_eq!(at(50, 4_456_010_000), (1_000_050_000, true));
        assert_eq!(at(60, 1_000_060_000), (1_000_060_000, false));
        assert_eq!(at(70, 0), (1_000_070_000, true));
    }
}
