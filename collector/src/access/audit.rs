//! What was done, by whom: kept for those who look after the collector.

use crate::keys;
use denyut_proto::UnixMillis;
use denyut_store::state::{Change, State, parse};
use serde::{Deserialize, Serialize};
use std::sync::{Arc, Mutex, PoisonError};
use utoipa::ToSchema;

/// Entries kept; the oldest go first.
const KEPT: u64 = 100_000;

/// Bytes of a path and of a name; what is longer is cut.
const PATH_MOST: usize = 300;

fn cut(text: &mut String, most: usize) {
    if text.len() > most {
        let end = (0..=most).rev().find(|end| text.is_char_boundary(*end));
        text.truncate(end.unwrap_or(0));
        text.push('…');
    }
}

/// One thing that somebody did or tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Entry {
    /// Ascending, without gaps.
    pub(crate) number: u64,
    #[schema(value_type = i64)]
    pub(crate) at_ms: UnixMillis,
    /// Who, as the collector knows them.
    #[schema(example = "siti")]
    pub(crate) by: String,
    /// `session`, `token NAME`, `socket`, or `login`.
    #[schema(example = "session")]
    pub(crate) via: String,
    /// From where; none for the socket.
    #[schema(example = "10.36.73.9")]
    pub(crate) from: Option<String>,
    #[schema(example = "POST")]
    pub(crate) method: String,
    #[schema(example = "/api/v1/incidents/12/acknowledge")]
    pub(crate) path: String,
    /// What came of it, as a status of HTTP.
    #[schema(example = 200)]
    pub(crate) status: u16,
}

/// Keeps the entries.
pub(crate) struct Audit {
    state: Arc<dyn State>,
    next: Mutex<u64>,
}

impl Audit {
    pub(crate) fn open(state: Arc<dyn State>) -> anyhow::Result<Self> {
        let mut last = 0;
        state.visit_back(keys::AUDIT, None, &mut |key, value| {
            last = parse::<Entry>(key, value)?.number;
            Ok(false)
        })?;
        Ok(Self {
            state,
            next: Mutex::new(last + 1),
        })
    }

    /// Keeps an entry under the next number; it is on the disk then. Blocks.
    pub(crate) fn add(&self, mut entry: Entry) -> anyhow::Result<()> {
        // An entry that is too long would be none.
        cut(&mut entry.path, PATH_MOST);
        cut(&mut entry.by, PATH_MOST);
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        entry.number = *next;
        let mut change = Change::default();
        change.put_json(keys::audit(*next), &entry)?;
        if let Some(old) = next.checked_sub(KEPT) {
            change.delete.push(keys::audit(old));
        }
        self.state.apply(change)?;
        *next += 1;
        drop(next);
        self.state.sync()
    }

    /// The newest below `before`, newest first, at most so many.
    pub(crate) fn list(&self, before: Option<u64>, most: usize) -> anyhow::Result<Vec<Entry>> {
        let mut found = Vec::new();
        let below = before.map(keys::audit);
        let mut take = |key: &str, value: &[u8]| {
            found.push(parse(key, value)?);
            Ok(found.len() < most)
        };
        self.state
            .visit_back(keys::AUDIT, below.as_deref(), &mut take)?;
        Ok(found)
    }
}
