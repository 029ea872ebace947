//! The log: everything that arrived, in the order in which it was accepted. All that the collector knows
//! is a function of it.

mod embedded;
mod ranges;
mod seen;
mod segment;
mod verify;

pub use embedded::EmbeddedLog;
pub(crate) use embedded::sync_folder;
pub use verify::LogReport;

use bytes::Bytes;
use denyut_proto::{AgentId, BootId, Heartbeat, OfficeCode, UnixMillis, wire};
use prost::Message;
use std::sync::{Arc, OnceLock};

/// A place in the log; the first record has 1. Positions ascend, and none is used twice.
pub type Position = u64;

/// One record.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// When the collector took it (arrival time). Ascends, but for a clock that was set back over a restart.
    pub arrival: UnixMillis,
    /// What it holds.
    pub body: Body,
}

/// What a record holds.
#[derive(Debug, Clone, PartialEq)]
pub enum Body {
    /// An agent's heartbeat, as it sent it.
    Heartbeat(Entry),
    /// Time passed and the collector was listening. What follows from silence follows from these, and so is
    /// the same whenever the log is replayed.
    Tick,
    /// An agent was shut out: nobody expects it any more.
    Dismissed(AgentId),
}

/// A heartbeat and its identity.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The office that the agent belonged to when it spoke.
    pub office: OfficeCode,
    /// Who spoke.
    pub agent: AgentId,
    /// In which run of which machine.
    pub boot: BootId,
    /// Counts from 1 in each boot; 0 for a pulse, which holds no samples, and of which there may be many.
    pub seq: u64,
    /// A `wire::Heartbeat`, encoded; checked before it came here.
    pub heartbeat: Bytes,
    /// What must be added to its times, in ms: the agent's clock was wrong when it was made.
    pub shift_ms: i64,
    /// The same heartbeat as whoever checked it decoded it, without the shift: so that it is decoded once. Not stored.
    pub decoded: OnceLock<Arc<Heartbeat>>,
}

impl Entry {
    /// The heartbeat, its clock corrected; decoded unless somebody did it before.
    pub fn heartbeat(&self) -> anyhow::Result<Arc<Heartbeat>> {
        let heartbeat = match self.decoded.get() {
            Some(heartbeat) => Arc::clone(heartbeat),
            None => Arc::new(Heartbeat::try_from(wire::Heartbeat::decode(
                self.heartbeat.clone(),
            )?)?),
        };
        if self.shift_ms == 0 {
            return Ok(heartbeat);
        }
        Ok(Arc::new(
            Arc::unwrap_or_clone(heartbeat).shifted(self.shift_ms),
        ))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        let parts = |entry: &Self| (entry.boot, entry.seq, entry.shift_ms);
        parts(self) == parts(other)
            && (&self.office, &self.agent, &self.heartbeat)
                == (&other.office, &other.agent, &other.heartbeat)
    }
}

/// What is held, now or once, of an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Whether anything is, of whatever boot.
    pub any: bool,
    /// The highest sequence of the boot in question.
    pub of_boot: Option<u64>,
}

/// What became of an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Appended {
    /// It is in the log now.
    New,
    /// (agent, boot, seq) is in the log, or was: nothing changed.
    Duplicate,
}

/// Why nothing was appended.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The disk has no room. Nothing changed; it may be tried again.
    #[error("the disk is full: {0}")]
    Full(String),
    /// Nobody can tell what the disk holds. Nothing more may be acknowledged.
    #[error(transparent)]
    Broken(#[from] anyhow::Error),
}

/// The promise: a record is in the log once per (agent, boot, seq) but for pulses, and is durable when `append` returns.
/// Methods block; call them from threads that may. One thread appends.
pub trait Log: Send + Sync {
    /// Appends in order; returns when all of it would survive a power cut.
    fn append(&self, arrival: UnixMillis, bodies: Vec<Body>) -> Result<Vec<Appended>, AppendError>;

    /// Up to `most` durable records from `from` on, oldest first. Positions may be missing where the log was cut or damaged.
    fn read(&self, from: Position, most: usize) -> anyhow::Result<Vec<(Position, Arc<Record>)>>;

    /// The first position that is still there, or the next to be given.
    fn begin(&self) -> Position;

    /// The position of the last durable record; 0 for none.
    fn end(&self) -> Position;

    /// What was appended of this agent.
    fn held(&self, agent: &AgentId, boot: BootId) -> Held;

    /// Deletes records below `below`, where that frees something; what was appended stays known.
    fn cut(&self, below: Position) -> anyhow::Result<()>;

    /// Lets the next record have a position above `position`: what lies below was used once, by records that are lost.
    fn skip_past(&self, position: Position) -> anyhow::Result<()>;
}
