//! Whether the agent still turns, told to the service manager, which starts it anew if not.

use crate::machine;
use crate::system;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The uptime, in ms, at which the observer turned last.
#[derive(Debug, Clone, Default)]
pub(crate) struct Watchdog(Arc<AtomicU64>);

/// Beyond its longest wait, what an observer may take for a turn: a disk may be slow.
const PATIENCE: Duration = Duration::from_secs(120);

impl Watchdog {
    /// The observer turns.
    pub(crate) fn beat(&self) {
        self.0.store(now(), Ordering::Relaxed);
    }

    /// Tells the service manager, twice as often as it wants, as long as the observer turned at least every `interval`.
    pub(crate) async fn tell(self, interval: Duration) {
        let Some(within) = system::alive_within() else {
            return;
        };
        self.beat();
        loop {
            let since = now().saturating_sub(self.0.load(Ordering::Relaxed));
            if Duration::from_millis(since) <= interval + PATIENCE {
                system::tell_alive();
            }
            tokio::time::sleep(within / 2).await;
        }
    }
}

fn now() -> u64 {
    u64::try_from(machine::uptime().as_millis()).unwrap_or(u64::MAX)
}
