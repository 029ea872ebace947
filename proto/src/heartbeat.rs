//! One batch of samples and the agent's own state.

use crate::{Path, Sample, Shown, Target, TargetName, UnixMillis};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What an agent says at once: one spooled, sent and logged unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heartbeat {
    /// When it was made, by the machine's wall clock at that time.
    pub at: UnixMillis,
    /// When it was made, since the machine started, suspend included; never set back.
    pub uptime: Duration,
    /// Uptime at which the agent process started.
    pub started: Duration,
    /// The next heartbeat comes within this time unless something is wrong (1 s to 1 h).
    pub interval: Duration,
    /// Samples by target; no target twice, none empty.
    pub samples: Vec<TargetSamples>,
    /// All targets of the agent; `None`: as before.
    pub targets: Option<Vec<Target>>,
    /// Set in the last heartbeat of a process that stopped properly.
    pub goodbye: Option<Goodbye>,
    /// The default gateway; `None`: as before.
    pub gateway: Option<String>,
    /// What targets, and the way out, showed of themselves since the last one.
    pub shown: Vec<Shown>,
    /// The way to a target whose link has failed.
    pub path: Option<Path>,
}

impl Heartbeat {
    /// What a target showed is told again with its first answer after there was none for this: a minute, or three of its intervals.
    pub fn away(interval: Duration) -> Duration {
        interval.saturating_mul(3).max(Duration::from_secs(60))
    }

    /// The same, with all its times moved by `ms`.
    #[must_use]
    pub fn shifted(mut self, ms: i64) -> Self {
        let shift = |at: &mut UnixMillis| at.0 = at.0.saturating_add(ms);
        shift(&mut self.at);
        self.path.iter_mut().for_each(|path| shift(&mut path.at));
        for target in &mut self.samples {
            target
                .samples
                .iter_mut()
                .for_each(|sample| shift(&mut sample.at));
        }
        self
    }
}

/// Samples of one target, oldest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetSamples {
    /// The target.
    pub target: TargetName,
    /// At least one; ascending in time.
    pub samples: Vec<Sample>,
}

/// Why the agent stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Goodbye {
    /// The service was stopped.
    Stopped,
    /// The machine shuts down or restarts.
    Shutdown,
    /// The machine goes to sleep.
    Suspend,
}

impl Goodbye {
    /// The name that logs, API and UI catalogues use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Shutdown => "shutdown",
            Self::Suspend => "suspend",
        }
    }
}
