//! Which entries were appended: by agent, boot and sequence, in few bytes.

use super::ranges::Ranges;
use super::segment::{Session, StoredHead, StoredRecord, StoredSession};
use super::{Body, Entry, Position, Record};
use anyhow::Context;
use denyut_proto::AgentId;
use foldhash::HashMap;
use std::sync::Arc;

/// Boots remembered per agent, the last used. An agent that delivers from more boots than this at once may
/// have an older one logged twice; the history does not change by it.
pub(super) const BOOTS_KEPT: usize = 8;
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) agents: HashMap<AgentId, Vec<SeenBoot>>,
    pub(super) sessions: HashMap<u32, Arc<Session>>,
    pub(super) next_session: u32,
}

#[derive(Debug)]
pub(super) struct SeenBoot {
    /// Its number in the log; 0 while the record that would have opened it could not be written.
    pub(super) session: u32,
    pub(super) of: Arc<Session>,
    pub(super) ranges: Ranges,
    /// Position of the last record: the boots with the lowest are forgotten first.
    pub(super) used: Position,
}

impl Seen {
    /// Notes the entry, if it is more than a pulse, as appended at `position`; its session, and what opens that; `None` if it was there.
    pub(super) fn insert(
        &mut self,
        entry: &Entry,
        position: Position,
    ) -> Option<(u32, Option<StoredSession>)> {
        let boots = match self.agents.get_mut(&entry.agent) {
            Some(boots) => boots,
            None => self.agents.entry(entry.agent.clone()).or_default(),
        };
        let known = boots.iter_mut().find(|boot| boot.of.boot == entry.boot);
        if let Some(boot) = known {
            if entry.seq > 0 && !boot.ranges.insert(entry.seq) {
                return None;
            }
            boot.used = position;
            if boot.session != 0 && boot.of.office == entry.office {
                return Some((boot.session, None));
            }
            // The agent was given to another office meanwhile.
            boot.session = self.next_session;
            boot.of = Arc::new(Session {
                office: entry.office.clone(),
                agent: entry.agent.clone(),
                boot: entry.boot,
            });
        } else {
            let mut ranges = Ranges::default();
            if entry.seq > 0 {
                ranges.insert(entry.seq);
            }
            boots.push(SeenBoot {
                session: self.next_session,
                of: Arc::new(Session {
                    office: entry.office.clone(),
                    agent: entry.agent.clone(),
                    boot: entry.boot,
                }),
                ranges,
                used: position,
            });
            if let Some(forgotten) = forget_oldest(boots) {
                self.sessions.remove(&forgotten);
            }
        }
        let number = self.next_session;
        self.next_session += 1;
        let boot = boots.iter().find(|boot| boot.session == number)?;
        self.sessions.insert(number, Arc::clone(&boot.of));
        let opens = StoredSession {
            number,
            ..boot.stored()
        };
        Some((
            number,
            Some(StoredSession {
                ranges: Vec::new(),
                ..opens
            }),
        ))
    }

    /// Forgets entries that could not be written, and that sessions from number `opened` on were opened.
    pub(super) fn take_back(&mut self, new: &[(Position, Arc<Record>)], opened: u32) {
        self.each(new, |boot, seq| {
            boot.ranges.remove(seq);
            if boot.session >= opened {
                boot.session = 0;
            }
        });
    }

    pub(super) fn each(
        &mut self,
        new: &[(Position, Arc<Record>)],
        mut what: impl FnMut(&mut SeenBoot, u64),
    ) {
        for (_, record) in new {
            if let Body::Heartbeat(entry) = &record.body
                && entry.seq > 0
                && let Some(boots) = self.agents.get_mut(&entry.agent)
                && let Some(boot) = boots.iter_mut().find(|boot| boot.of.boot == entry.boot)
            {
                what(boot, entry.seq);
            }
        }
    }

    pub(super) fn head(&self) -> StoredHead {
        let boots = self.agents.values().flatten();
        StoredHead {
            sessions: boots.map(SeenBoot::stored).collect(),
            next_session: self.next_session,
        }
    }

    pub(super) fn restore(&mut self, head: &StoredHead) -> anyhow::Result<()> {
        for stored in &head.sessions {
            self.restore_one(stored)?;
        }
        self.next_session = self.next_session.max(head.next_session);
        Ok(())
    }

    pub(super) fn restore_one(&mut self, stored: &StoredSession) -> anyhow::Result<()> {
        let session = Arc::new(
            Session::try_from(stored).context("the log holds a session that makes no sense")?,
        );
        if stored.number != 0 {
            self.sessions.insert(stored.number, Arc::clone(&session));
        }
        self.next_session = self.next_session.max(stored.number + 1);
        let boots = self.agents.entry(session.agent.clone()).or_default();
        let known = boots.iter_mut().find(|boot| boot.of.boot == session.boot);
        if let Some(boot) = known {
            boot.session = stored.number;
            boot.of = session;
        } else {
            boots.push(SeenBoot {
                session: stored.number,
                of: session,
                ranges: Ranges::from_flat(&stored.ranges),
                used: stored.used,
            });
            if let Some(forgotten) = forget_oldest(boots) {
                self.sessions.remove(&forgotten);
            }
        }
        Ok(())
    }

    /// Notes what a group appended.
    pub(super) fn replay(&mut self, first: Position, group: &[StoredRecord]) -> anyhow::Result<()> {
        for (position, record) in (first..).zip(group) {
            if record.session == 0 {
                continue;
            }
            if let Some(opens) = &record.opens {
                self.restore_one(opens)?;
            }
            let Some(session) = self.sessions.get(&record.session).cloned() else {
                continue;
            };
            if let Some(boots) = self.agents.get_mut(&session.agent)
                && let Some(boot) = boots.iter_mut().find(|boot| boot.of.boot == session.boot)
            {
                boot.ranges.insert(record.seq);
                boot.used = position;
            }
        }
        Ok(())
    }
}

impl SeenBoot {
    pub(super) fn stored(&self) -> StoredSession {
        StoredSession {
            number: self.session,
            office: self.of.office.to_string(),
            agent: self.of.agent.to_string(),
            boot: self.of.boot.0.to_vec(),
            ranges: self.ranges.to_flat(),
            used: self.used,
        }
    }
}

/// Keeps to [`BOOTS_KEPT`]; the number of the session that was forgotten.
pub(super) fn forget_oldest(boots: &mut Vec<SeenBoot>) -> Option<u32> {
    if boots.len() <= BOOTS_KEPT {
        return None;
    }
    let oldest = (0..boots.len()).min_by_key(|i| boots[*i].used)?;
    Some(boots.swap_remove(oldest).session)
}
