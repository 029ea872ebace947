//! The dead man's switch: somebody outside is told every now and then that the collector watches, and calls when that stops.

use super::channel::Webhook;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Whom to tell, and how often.
#[derive(Debug, Clone)]
pub(crate) struct Alive {
    pub(crate) webhook: Webhook,
    pub(crate) every: Duration,
}

impl Alive {
    /// Runs until `stop`. `processed`: the worker's place in the log, which grows with every second's tick; while it stands still, nobody is told that all is well.
    pub(crate) async fn run(
        self,
        processed: Arc<AtomicU64>,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        let mut before = processed.load(Ordering::Acquire);
        let mut failing = false;
        loop {
            tokio::select! {
                () = tokio::time::sleep(self.every) => {}
                () = stop.cancelled() => return Ok(()),
            }
            let now = processed.load(Ordering::Acquire);
            let turns = now > before;
            before = now;
            if !turns {
                warn!("the worker stands still: nobody is told that the collector is well");
                continue;
            }
            match self.webhook.knock().await {
                Ok(()) if failing => {
                    failing = false;
                    info!("`alert.alive` answers again");
                }
                Ok(()) => {}
                // One line, however long it lasts.
                Err(_) if failing => {}
                Err(why) => {
                    failing = true;
                    warn!(
                        error = why,
                        "`alert.alive` does not answer: whoever waits there will call"
                    );
                }
            }
        }
    }
}
