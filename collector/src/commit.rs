//! The one thread that writes the log: gathers what the streams accepted, appends it, syncs, and only then
//! lets it be acknowledged. What arrives while the disk is busy goes into the next group.

use crate::clock::Clock;
use crate::log::{Appended, Body, Entry, Log, Position};
use crate::mark::Mark;
use crate::metrics::Metrics;
use anyhow::Context;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot, watch};

/// Entries waiting for the disk, at most; a full queue makes the streams wait.
pub(crate) const QUEUE: usize = 1024;
/// Entries in one group, at most.
const GROUP: usize = 512;
/// From tick to tick.
const TICK: Duration = Duration::from_secs(1);
/// How often the log is cut below what the worker is done with.
const CUT_EVERY: Duration = Duration::from_secs(10);

/// An entry on its way to the disk.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) entry: Entry,
    /// Told when the entry is durable.
    pub(crate) done: oneshot::Sender<Appended>,
}

/// What the thread is made of.
pub(crate) struct Committer {
    pub(crate) log: Arc<dyn Log>,
    pub(crate) requests: mpsc::Receiver<Request>,
    /// Raised to the last durable position.
    pub(crate) end: watch::Sender<Position>,
    /// The worker's place: everything up to it is in history and state (though not yet synced).
    pub(crate) processed: Arc<AtomicU64>,
    pub(crate) clock: Arc<Clock>,
    pub(crate) mark: Mark,
    pub(crate) metrics: Arc<Metrics>,
}

impl Committer {
    /// Runs until all senders are gone. An error means that nothing more may be acknowledged.
    pub(crate) fn run(mut self, runtime: &tokio::runtime::Handle) -> anyhow::Result<()> {
        let mut next_tick = Instant::now();
        let mut next_cut = Instant::now() + CUT_EVERY;
        loop {
            let wait = next_tick.saturating_duration_since(Instant::now());
            let mut group = Vec::new();
            let received = runtime.block_on(async {
                tokio::time::timeout(wait, self.requests.recv_many(&mut group, GROUP)).await
            });
            if received == Ok(0) {
                return self.mark.note(self.log.end());
            }
            let ticking = Instant::now() >= next_tick;
            if ticking {
                next_tick = Instant::now() + TICK;
            }
            // Read before the sync: what the worker wrote by then is durable after it.
            let processed = self.processed.load(Ordering::Acquire);
            self.commit(group, ticking)?;
            if Instant::now() >= next_cut {
                self.log.cut(processed).context("cannot cut the log")?;
                self.mark.note(self.log.end())?;
                next_cut = Instant::now() + CUT_EVERY;
            }
        }
    }

    fn commit(&self, group: Vec<Request>, ticking: bool) -> anyhow::Result<()> {
        let (entries, waiting): (Vec<_>, Vec<_>) = group
            .into_iter()
            .map(|request| (request.entry, request.done))
            .unzip();
        let mut bodies: Vec<Body> = entries.into_iter().map(Body::Heartbeat).collect();
        if ticking {
            bodies.push(Body::Tick);
        }
        let began = Instant::now();
        let appended = self.log.append(self.clock.read().now, bodies)?;
        self.metrics
            .commit_seconds
            .observe(began.elapsed().as_secs_f64());
        self.end.send_replace(self.log.end());
        for (done, appended) in waiting.into_iter().zip(appended) {
            if done.send(appended).is_err() {
                // The stream went away; the agent will send the entry again and hear that it is there.
                self.metrics.unheard_acks.inc();
            }
        }
        Ok(())
    }
}
