//! Incidents that are over, as they are held: they are most of all, and mostly nothing is said of them any more. The archive has them whole.

use crate::incident::{Cause, Facts, Incident, Relapse};
use denyut_proto::UnixMillis;
use foldhash::fast::FixedState;
use std::hash::BuildHasher;

/// An incident that is over. Its revisions, and what is true of it, are in the archive.
#[derive(Debug)]
pub struct Settled {
    /// See [`Incident::number`].
    pub number: u64,
    /// See [`Facts::opened_ms`].
    pub opened_ms: UnixMillis,
    /// See [`Facts::resolved_ms`].
    pub resolved_ms: UnixMillis,
    /// See [`Facts::cause`].
    pub cause: Cause,
    /// Somebody was called for it.
    pub paged: bool,
    /// See [`Incident::parent`].
    pub parent: Option<u64>,
    /// See [`Facts::relapse`].
    pub relapse: Option<Box<Relapse>>,
    /// Of all its facts.
    digest: u64,
}

fn digest(facts: &Facts) -> u64 {
    FixedState::default().hash_one(facts)
}

impl Settled {
    /// The incident as it is held when it is over; none if it is not.
    pub fn of(incident: &Incident) -> Option<Self> {
        let facts = &incident.facts;
        Some(Self {
            number: incident.number,
            opened_ms: facts.opened_ms,
            resolved_ms: facts.resolved_ms.filter(|_| !incident.retracted)?,
            cause: facts.cause,
            paged: incident.paged_ms.is_some(),
            parent: incident.parent,
            relapse: facts.relapse.map(Box::new),
            digest: digest(facts),
        })
    }

    /// Whether this is all that is true of it. (Of 2⁶⁴ others one is taken for the same.)
    pub fn says(&self, facts: &Facts) -> bool {
        self.opened_ms == facts.opened_ms && self.digest == digest(facts)
    }

    /// Whether these may be of the same incident.
    pub fn overlaps(&self, facts: &Facts) -> bool {
        facts.opened_ms <= self.resolved_ms
            && facts.resolved_ms.is_none_or(|end| self.opened_ms <= end)
    }
}
