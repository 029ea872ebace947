//! Keeps the store: makes it durable every few seconds, and puts finished days into blocks.

use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::on_thread;
use denyut_store::Store;
use denyut_store::history::{Retention, is_full};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::{error, warn};

/// How often the store is made durable: what came since is read again after a crash.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(10);
/// How often it is looked whether there is something to put into blocks or to delete.
const UPKEEP_EVERY: Duration = Duration::from_secs(60);

/// What the two threads are made of.
#[derive(Clone)]
pub(crate) struct Keeper {
    pub(crate) store: Arc<Store>,
    /// The worker's place: everything up to it is in history and state (though not yet synced).
    pub(crate) processed: Arc<AtomicU64>,
    pub(crate) clock: Arc<Clock>,
    pub(crate) retention: Retention,
    /// Bytes of the disk that are left to others.
    pub(crate) reserve: u64,
    /// The disk has no room.
    pub(crate) full: Arc<AtomicBool>,
    pub(crate) metrics: Arc<Metrics>,
}

/// The two threads.
pub(crate) struct Tasks {
    pub(crate) checkpoints: JoinHandle<anyhow::Result<()>>,
    pub(crate) upkeep: JoinHandle<anyhow::Result<()>>,
}

impl Keeper {
    /// Both run until `stop`'s sender is gone.
    pub(crate) fn start(self, stop: &watch::Receiver<()>) -> Tasks {
        let (checkpoints, upkeep) = (self.clone(), self);
        let (stop_one, stop_two) = (stop.clone(), stop.clone());
        Tasks {
            checkpoints: on_thread("checkpoint", move |runtime| {
                checkpoints.checkpoint(runtime, stop_one)
            }),
            upkeep: on_thread("upkeep", move |runtime| {
                upkeep.upkeep(runtime, stop_two);
                Ok(())
            }),
        }
    }

    /// An error means that what was acknowledged may not be kept: the collector must not go on.
    fn checkpoint(&self, runtime: &Handle, mut stop: watch::Receiver<()>) -> anyhow::Result<()> {
        loop {
            let stopped = wait(runtime, &mut stop, CHECKPOINT_EVERY);
            // Nothing new comes in, and what did is in the log.
            if self.full.load(Ordering::Relaxed) {
                if stopped {
                    return Ok(());
                }
                continue;
            }
            // Read before the sync: what the worker wrote by then is durable after it.
            let processed = self.processed.load(Ordering::Acquire);
            match self.store.checkpoint(processed) {
                // What came in is in the log, and this is tried again.
                Err(error) if is_full(&error) => {
                    warn!(error = %format!("{error:#}"), "there is no room for a checkpoint");
                }
                done => done?,
            }
            if stopped {
                return Ok(());
            }
        }
    }

    /// What fails here (a full disk, most likely) is tried again.
    fn upkeep(&self, runtime: &Handle, mut stop: watch::Receiver<()>) {
        while !wait(runtime, &mut stop, UPKEEP_EVERY) {
            let reading = self.clock.read();
            // By a clock that jumped nothing is deleted.
            if reading.doubted {
                continue;
            }
            let upkeep = self
                .store
                .upkeep(reading.now, &self.retention, self.reserve)
                .and_then(|()| crate::api::forget(&*self.store.state, reading.now));
            match upkeep {
                Ok(()) => {
                    self.metrics.upkeep_failing.set(0);
                }
                Err(error) => {
                    self.metrics.upkeep_failing.set(1);
                    error!(error = %format!("{error:#}"), "the upkeep of the store failed; it is tried again");
                }
            }
        }
    }
}

/// Waits; `true` when it is time to stop.
fn wait(runtime: &Handle, stop: &mut watch::Receiver<()>, time: Duration) -> bool {
    runtime
        .block_on(async { tokio::time::timeout(time, stop.changed()).await })
        .is_ok()
}
