//! The log: everything that arrived, in the order in which it was accepted. All that the collector knows
//! is a function of it.

mod embedded;
mod ranges;

pub(crate) use embedded::EmbeddedLog;

use bytes::Bytes;
use denyut_proto::{AgentId, BootId, OfficeCode, UnixMillis};

/// A place in the log; the first record has 1. Positions ascend, and none is used twice.
pub(crate) type Position = u64;

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    /// When the collector took it (arrival time). Ascends, but for a clock that was set back over a restart.
    pub(crate) arrival: UnixMillis,
    pub(crate) body: Body,
}

/// What a record holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Body {
    /// An agent's heartbeat, as it sent it.
    Heartbeat(Entry),
    /// Time passed and the collector was listening. What follows from silence follows from these, and so is
    /// the same whenever the log is replayed.
    Tick,
}

/// A heartbeat and its identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The office that the agent belonged to when it spoke.
    pub(crate) office: OfficeCode,
    pub(crate) agent: AgentId,
    pub(crate) boot: BootId,
    pub(crate) seq: u64,
    /// A `wire::Heartbeat`, encoded; checked before it came here.
    pub(crate) heartbeat: Bytes,
    /// What must be added to its times, in ms: the agent's clock was wrong when it was made.
    pub(crate) shift_ms: i64,
}

/// What is held, now or once, of an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Held {
    /// Whether anything is, of whatever boot.
    pub(crate) any: bool,
    /// The highest sequence of the boot in question.
    pub(crate) of_boot: Option<u64>,
}

/// What became of an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Appended {
    New,
    /// (agent, boot, seq) is in the log, or was: nothing changed.
    Duplicate,
}

/// The promise: a record is in the log once per (agent, boot, seq), and is durable when `append` returns.
/// Methods block; call them from threads that may. One thread appends.
pub(crate) trait Log: Send + Sync {
    /// Appends in order; returns when all of it would survive a power cut. After an error, nothing more may
    /// be acknowledged.
    fn append(&self, arrival: UnixMillis, bodies: Vec<Body>) -> anyhow::Result<Vec<Appended>>;

    /// Up to `most` durable records from `from` on, oldest first.
    fn read(&self, from: Position, most: usize) -> anyhow::Result<Vec<(Position, Record)>>;

    /// The position of the last durable record; 0 for none.
    fn end(&self) -> Position;

    /// What was appended of this agent.
    fn held(&self, agent: &AgentId, boot: BootId) -> Held;

    /// Deletes records below `below`; what was appended stays known.
    fn cut(&self, below: Position) -> anyhow::Result<()>;
}
