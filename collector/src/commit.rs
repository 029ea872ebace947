//! The one thread that writes the log: gathers what the streams accepted, appends it, syncs, and only then
//! lets it be acknowledged. What arrives while the disk is busy goes into the next group.
//!
//! Where the disk has no room, nothing is taken: the agents are told why and keep their spools, and reading goes on. It is asked again at least every
//! second, so that all goes on by itself when there is room.

use crate::clock::Clock;
use crate::manager;
use crate::metrics::Metrics;
use denyut_store::Store;
use denyut_store::log::{AppendError, Appended, Body, Log, Position};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{error, info};

/// Entries waiting for the disk, at most; a full queue makes the streams wait.
pub(crate) const QUEUE: usize = 1024;
/// Entries in one group, at most.
const GROUP: usize = 1024;
/// From the end of one group to the next, at least, so that few entries do not cost a write each. A full group does not wait.
const PACE: Duration = Duration::from_millis(100);
/// From tick to tick.
const TICK: Duration = Duration::from_secs(1);

/// Something on its way to the log.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) body: Body,
    /// Told when it is durable, or why it was not taken.
    pub(crate) done: oneshot::Sender<Result<Appended, String>>,
}

/// Whether there is room to write.
pub(crate) struct Room {
    store: Arc<Store>,
    /// Bytes that are left to others, and to what must be written in order to free space.
    reserve: u64,
    /// Why nothing is taken.
    full: Option<String>,
    /// The same for those who can wait with what they write.
    shared: Arc<AtomicBool>,
}

impl Room {
    pub(crate) fn new(store: Arc<Store>, reserve: u64) -> Self {
        Self {
            store,
            reserve,
            full: None,
            shared: Arc::default(),
        }
    }

    /// Whether nothing is taken.
    pub(crate) fn is_full(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.shared)
    }

    /// Asks the disk.
    fn ask(&mut self) -> anyhow::Result<()> {
        self.store.check_present()?;
        let free = self.store.room(self.reserve)?;
        let full = (free < self.reserve).then(|| {
            let mib = |bytes: u64| bytes >> 20;
            format!(
                "the collector's disk has {} MiB left, and {} MiB are `disk.reserve`; free some space there, or lower `disk.reserve` or `retention.size`",
                mib(free),
                mib(self.reserve)
            )
        });
        self.note(full);
        Ok(())
    }

    fn note(&mut self, full: Option<String>) {
        match (&self.full, &full) {
            (None, Some(reason)) => {
                error!(%reason, "nothing is taken until there is room; agents keep what they have");
            }
            (Some(_), None) => {
                info!("there is room again");
            }
            _ => {}
        }
        self.shared.store(full.is_some(), Ordering::Relaxed);
        self.full = full;
    }
}

/// What the thread is made of.
pub(crate) struct Committer {
    pub(crate) log: Arc<dyn Log>,
    pub(crate) requests: mpsc::Receiver<Request>,
    /// Raised to the last durable position.
    pub(crate) end: watch::Sender<Position>,
    pub(crate) room: Room,
    pub(crate) clock: Arc<Clock>,
    pub(crate) metrics: Arc<Metrics>,
}

impl Committer {
    /// Runs until all senders are gone. An error means that nothing more may be acknowledged.
    pub(crate) fn run(mut self, runtime: &tokio::runtime::Handle) -> anyhow::Result<()> {
        let mut next_tick = Instant::now();
        let mut group = Vec::new();
        loop {
            let open = runtime.block_on(gather(&mut self.requests, &mut group, next_tick));
            if !open && group.is_empty() {
                return Ok(());
            }
            let ticking = Instant::now() >= next_tick;
            if ticking {
                next_tick = Instant::now() + TICK;
            }
            // Before each group: who fills the disk may be quick.
            self.room.ask()?;
            self.metrics.disk_full.set(self.room.full.is_some().into());
            self.commit(std::mem::take(&mut group), ticking)?;
            if ticking {
                manager::tell_alive();
            }
        }
    }

    fn commit(&mut self, group: Vec<Request>, ticking: bool) -> anyhow::Result<()> {
        if let Some(reason) = &self.room.full {
            // No ticks either: nobody can be heard, so nobody is to be called silent.
            refuse(group.into_iter().map(|request| request.done), reason);
            return Ok(());
        }
        let (mut bodies, waiting): (Vec<_>, Vec<_>) = group
            .into_iter()
            .map(|request| (request.body, request.done))
            .unzip();
        if ticking {
            bodies.push(Body::Tick);
        }
        let began = Instant::now();
        let appended = match self.log.append(self.clock.read().now, bodies) {
            Ok(appended) => appended,
            Err(AppendError::Full(reason)) => {
                let reason =
                    format!("the collector's disk is full ({reason}); free some space there");
                refuse(waiting.into_iter(), &reason);
                self.room.note(Some(reason));
                return Ok(());
            }
            Err(AppendError::Broken(error)) => return Err(error),
        };
        self.metrics
            .commit_seconds
            .observe(began.elapsed().as_secs_f64());
        self.end.send_replace(self.log.end());
        for (done, appended) in waiting.into_iter().zip(appended) {
            match appended {
                Appended::New => self.metrics.entries.inc(),
                Appended::Duplicate => self.metrics.duplicates.inc(),
            };
            if done.send(Ok(appended)).is_err() {
                // The stream went away; the agent will send the entry again and hear that it is there.
                self.metrics.unheard_acks.inc();
            }
        }
        Ok(())
    }
}

fn refuse(waiting: impl Iterator<Item = oneshot::Sender<Result<Appended, String>>>, reason: &str) {
    for done in waiting {
        // A stream that went away needs no answer.
        done.send(Err(reason.to_owned())).ok();
    }
}

/// Gathers a group: until it is full, or [`PACE`] after its first entry, or until it is time to tick. `false` when all senders are gone.
async fn gather(
    requests: &mut mpsc::Receiver<Request>,
    group: &mut Vec<Request>,
    tick: Instant,
) -> bool {
    let (mut until, mut first) = (tick, None);
    while group.len() < GROUP {
        let wait = until.saturating_duration_since(Instant::now());
        let room = GROUP - group.len();
        match tokio::time::timeout(wait, requests.recv_many(group, room)).await {
            Ok(0) => return false,
            Ok(_) => {
                first.get_or_insert_with(Instant::now);
                until = first.map_or(tick, |first| tick.min(first + PACE));
            }
            Err(_) => return true,
        }
    }
    true
}
