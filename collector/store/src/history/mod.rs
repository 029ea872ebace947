//! The history: every sample of every link, by event time.
//!
//! A sample travels: *open* buffer in memory → sealed *chunk* in the present *generation* (a sled database) → entry of a day's
//! *block* (an immutable file). The log holds it until it is in a block. At each step it is put into the next place before it is taken out of the
//! last, and readers look in the same order and count equal samples once: none is missed, none is seen twice.

mod block;
mod catalog;
pub mod codec;
pub mod column;
mod compact;
mod embedded;
mod generation;
pub(crate) mod ledger;
mod links;
mod open;
mod opening;
pub mod rollup;
pub mod sketch;
mod verify;

pub use denyut_proto::LinkId;
pub use embedded::{EmbeddedHistory, Opened, is_full};
pub use rollup::{Level, Row, Rtt};
pub(crate) use verify::{check_ledger, repair, verify};

use crate::log::Position;
use denyut_proto::{AgentId, Sample, TargetSamples, UnixMillis};
use std::ops::Range;
use std::time::Duration;

/// How long what is kept; `None`: for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Samples.
    pub raw: Duration,
    /// Rows of a minute.
    pub minute: Duration,
    /// Rows of an hour.
    pub hour: Option<Duration>,
    /// Rows of a day.
    pub day: Option<Duration>,
    /// Bytes of all of it on disk, the log included: above that the oldest goes first, minutes before samples. `None`: no bound.
    pub bytes: Option<u64>,
}

/// Rows of one link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rows {
    /// The coarsest level that answers exactly.
    pub level: Level,
    /// The rows that hold anything, ascending.
    pub rows: Vec<Row>,
}

/// Why there are no rows.
#[derive(Debug, thiserror::Error)]
pub enum RowsError {
    /// Only coarser rows are left of that time: no multiple of them is `step_ms`.
    #[error("only rows of {} ms are left of that time", .level.step_ms())]
    TooFine {
        /// The finest level that is left.
        level: Level,
    },
    /// Reading failed.
    #[error(transparent)]
    Store(#[from] anyhow::Error),
}

/// The promise: the history of a link is a set of samples. They may come in any order and any number of times, and each is there
/// once; two of one time but of different outcome are two. What comes when its day's samples were let go is not taken, and counted. Methods block.
pub trait History: Send + Sync {
    /// Adds what the record at `position` of the log told of an agent. Positions ascend, but for replays.
    fn append(
        &self,
        position: Position,
        agent: &AgentId,
        samples: &[TargetSamples],
    ) -> anyhow::Result<()>;

    /// Makes durable what can be. What came from records at or above the position returned must be appended again after a
    /// crash.
    fn checkpoint(&self) -> anyhow::Result<Position>;

    /// The link's samples in `range`, oldest first, each given to `visit` until it returns `false`.
    fn visit(
        &self,
        link: &LinkId,
        range: Range<UnixMillis>,
        visit: &mut dyn FnMut(Sample) -> bool,
    ) -> anyhow::Result<()>;

    /// The link's rows of `step_ms` in `range`, which is widened to whole rows: those that hold anything, ascending, made of the level that
    /// [`Level::exact`] names, each given to `visit` until it returns `false`.
    fn visit_rows(
        &self,
        link: &LinkId,
        range: Range<UnixMillis>,
        step_ms: i64,
        visit: &mut dyn FnMut(&Row) -> bool,
    ) -> Result<(), RowsError>;

    /// The same as one answer.
    fn rows(
        &self,
        link: &LinkId,
        range: Range<UnixMillis>,
        step_ms: i64,
    ) -> Result<Rows, RowsError> {
        let mut rows = Vec::new();
        self.visit_rows(link, range, step_ms, &mut |row| {
            rows.push(row.clone());
            true
        })?;
        let level = Level::exact(step_ms);
        Ok(Rows { level, rows })
    }

    /// The newest sample of each link, as far as it is known since the start or was noted.
    fn latest(&self, visit: &mut dyn FnMut(&LinkId, Sample) -> bool);

    /// Samples before this are not kept any more, and not taken.
    fn kept_from(&self) -> UnixMillis;

    /// Notes the newest sample of a link, as somebody else remembers it.
    fn note_latest(&self, link: &LinkId, sample: Sample) -> anyhow::Result<()>;
}
