//! The history: every sample of every link, by event time.

mod embedded;

pub(crate) use embedded::EmbeddedHistory;

use denyut_proto::{AgentId, Sample, TargetName, UnixMillis};
use std::fmt;
use std::ops::Range;

/// One target as one agent sees it. The domain's link is (office, target); where an office has several
/// agents, each has its own view of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct LinkId {
    pub(crate) agent: AgentId,
    pub(crate) target: TargetName,
}

impl fmt::Display for LinkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.agent, self.target)
    }
}

/// The promise: samples may come in any order and any number of times, and are there once. Methods block.
pub(crate) trait History: Send + Sync {
    /// Adds samples of one link.
    fn append(&self, link: &LinkId, samples: &[Sample]) -> anyhow::Result<()>;

    /// The link's samples in `range`, oldest first, each given to `visit` until it returns `false`.
    fn visit(
        &self,
        link: &LinkId,
        range: Range<UnixMillis>,
        visit: &mut dyn FnMut(Sample) -> bool,
    ) -> anyhow::Result<()>;

    /// Deletes what is older than `before`, a bounded part of it at a time; `true` when nothing is left to
    /// delete.
    fn forget(&self, before: UnixMillis) -> anyhow::Result<bool>;
}
