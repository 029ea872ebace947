//! Messages on their way: on the disk until the receiver has them, and what could not be delivered until somebody looks.

use super::channel::Sent;
use super::notice::Notice;
use crate::keys;
use anyhow::Context;
use denyut_proto::UnixMillis;
use denyut_store::state::{Change, State, get_json, parse, scan_json};
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tracing::warn;
use utoipa::ToSchema;

/// Dead messages that are kept, at most. Of those that wait there is one for each group.
const DEAD_MAX: usize = 1_000;
/// Tellings that are kept of one incident, at most.
const TELLINGS_MAX: usize = 50;
/// How long it is tried to deliver one.
const TRIED_FOR: Duration = Duration::from_secs(3 * 86_400);
/// How long a receiver may want to be left alone.
pub(super) const WAIT_MOST: Duration = Duration::from_secs(3_600);
/// How long until it is tried again: at first, and at most.
const AGAIN: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(900));

/// One message to one receiver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Message {
    pub(crate) number: u64,
    /// Whose it is.
    pub(crate) receiver: String,
    /// The same each time it is sent: a receiver that knows it need not show it again.
    pub(crate) id: String,
    /// What is sent.
    pub(crate) notice: Notice,
    #[schema(value_type = i64)]
    pub(crate) made_ms: UnixMillis,
    /// How often it was sent in vain.
    pub(crate) attempts: u32,
    /// When it is sent next.
    #[schema(value_type = i64)]
    pub(crate) next_ms: UnixMillis,
    /// Why it did not arrive.
    pub(crate) error: Option<String>,
    /// Since when it is not sent any more; `resend` does.
    #[schema(value_type = Option<i64>)]
    pub(crate) dead_ms: Option<UnixMillis>,
}

/// Somebody was told of an incident.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Telling {
    /// When the message was taken.
    #[schema(value_type = i64)]
    pub(crate) at_ms: UnixMillis,
    pub(crate) receiver: String,
    /// As what: `firing`, `acknowledged` or `resolved`.
    #[schema(example = "firing")]
    pub(crate) state: String,
}

impl Telling {
    /// All of an incident, oldest first.
    pub(crate) fn read(state: &dyn State, incident: u64) -> anyhow::Result<Vec<Self>> {
        let all = scan_json::<Self>(state, &keys::told_of(incident))?;
        Ok(all.into_iter().map(|(_, one)| one).collect())
    }
}

/// The first message of what belongs together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Thread {
    /// What the receiver calls it.
    pub(super) handle: String,
    /// It was of this alone: it may be written over.
    pub(super) alone: bool,
    /// Where it was sent.
    pub(super) place: u64,
}

impl Message {
    /// One that configurations are tried on.
    pub(super) fn sample(notice: Notice) -> Self {
        Self {
            number: 1,
            receiver: "sample".to_owned(),
            id: "denyut-sample-1".to_owned(),
            notice,
            made_ms: UnixMillis(0),
            attempts: 0,
            next_ms: UnixMillis(0),
            error: None,
            dead_ms: None,
        }
    }
}

/// All messages of all receivers.
pub(crate) struct Outbox {
    state: Arc<dyn State>,
    /// Nobody else changes a message meanwhile.
    changing: Mutex<()>,
    /// There is something new to send, up to this number: what is above is not on the disk yet.
    pub(super) filled: Notify,
    synced: AtomicU64,
    /// Something was sent, or will never be: its group may speak again.
    pub(super) emptied: Arc<Notify>,
}

impl Outbox {
    /// `emptied` is notified when a message has left.
    pub(crate) fn new(state: Arc<dyn State>, emptied: Arc<Notify>) -> Self {
        Self {
            state,
            changing: Mutex::default(),
            filled: Notify::new(),
            synced: AtomicU64::new(0),
            emptied,
        }
    }

    /// Adds a message to a change that also says that it was made; returns its number.
    pub(super) fn put(
        change: &mut Change,
        serial: &mut u64,
        (receiver, id, notice): (&str, String, Notice),
        now: UnixMillis,
    ) -> anyhow::Result<u64> {
        *serial += 1;
        let message = Message {
            number: *serial,
            receiver: receiver.to_owned(),
            id,
            notice,
            made_ms: now,
            attempts: 0,
            next_ms: now,
            error: None,
            dead_ms: None,
        };
        change.put_json(keys::message(receiver, *serial), &message)?;
        Ok(*serial)
    }

    /// Whether the message of this number may not be on the disk yet.
    pub(super) fn is_behind(&self, number: u64) -> bool {
        self.synced.load(Ordering::Acquire) < number
    }

    /// Messages up to this number are on the disk.
    pub(super) fn fill(&self, number: u64) {
        self.synced.fetch_max(number, Ordering::AcqRel);
        self.filled.notify_waiters();
    }

    /// All of them: first those that wait, then the dead; each oldest first. Blocks, as all methods do.
    pub(crate) fn list(&self) -> anyhow::Result<Vec<Message>> {
        let mut all = scan_json::<Message>(&*self.state, keys::OUTBOX)?;
        all.sort_unstable_by_key(|(_, message)| message.number);
        all.extend(scan_json::<Message>(&*self.state, keys::DEAD)?);
        Ok(all.into_iter().map(|(_, message)| message).collect())
    }

    /// How many wait, and how many are dead.
    pub(super) fn count(&self) -> anyhow::Result<(usize, usize)> {
        let count = |prefix| self.state.count(prefix);
        Ok((count(keys::OUTBOX)?, count(keys::DEAD)?))
    }

    /// Whether a message to a receiver still waits to be delivered.
    pub(super) fn waits(&self, receiver: &str) -> anyhow::Result<bool> {
        Ok(self.state.first(&keys::messages_to(receiver))?.is_some())
    }

    /// What the receiver called the first message of what this one is of, if it was sent to the same place.
    pub(super) fn thread(&self, message: &Message, place: u64) -> anyhow::Result<Option<Thread>> {
        match &message.notice.together[..] {
            [one] => {
                let key = keys::thread(&message.receiver, one);
                let thread: Option<Thread> = get_json(&*self.state, &key)?;
                Ok(thread.filter(|thread| thread.place == place))
            }
            _ => Ok(None),
        }
    }

    /// The oldest message of a receiver; one after the other, so that an end never overtakes its beginning.
    pub(super) fn next(&self, receiver: &str) -> anyhow::Result<Option<Message>> {
        let first = self.state.first(&keys::messages_to(receiver))?;
        let first = first.map(|(key, value)| parse::<Message>(&key, &value));
        let synced = self.synced.load(Ordering::Acquire);
        Ok(first.transpose()?.filter(|one| one.number <= synced))
    }

    /// It arrived: what the receiver calls it begins the thread of all that it is of and that has none.
    pub(super) fn delivered(
        &self,
        message: &Message,
        sent: &Sent,
        place: u64,
        now: UnixMillis,
    ) -> anyhow::Result<()> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut change = Change {
            delete: vec![keys::message(&message.receiver, message.number)],
            ..Change::default()
        };
        for alert in &message.notice.alerts {
            let number = alert
                .labels
                .get("incident")
                .and_then(|text| text.parse().ok());
            let Some(number) = number.filter(|number| message.notice.news.contains(number)) else {
                continue;
            };
            let is_known = alert.annotations.contains_key("acknowledged_by");
            let state = if is_known {
                "acknowledged"
            } else {
                &alert.status
            };
            let telling = Telling {
                at_ms: now,
                receiver: message.receiver.clone(),
                state: state.to_owned(),
            };
            change.put_json(keys::told(number, message.number), &telling)?;
            // The newest are kept: an end is among them however often it was told before.
            let all = keys::told_of(number);
            if self.state.count(&all)? >= TELLINGS_MAX
                && let Some((oldest, _)) = self.state.first(&all)?
            {
                change.delete.push(oldest);
            }
        }
        if let Some(handle) = &sent.handle {
            let thread = Thread {
                handle: handle.clone(),
                alone: message.notice.together.len() == 1,
                place,
            };
            for one in &message.notice.together {
                let key = keys::thread(&message.receiver, one);
                let known: Option<Thread> = get_json(&*self.state, &key)?;
                // One that was sent again after all was over begins nothing.
                let group = keys::group(&message.receiver, one);
                if known.is_none_or(|known| known.place != place)
                    && self.state.get(&group)?.is_some()
                {
                    change.put_json(key, &thread)?;
                }
            }
        }
        self.apply(change)?;
        self.emptied.notify_one();
        Ok(())
    }

    /// It did not. `never`: it will not; `wait`: how long the receiver wants to be left alone.
    pub(super) fn failed(
        &self,
        mut message: Message,
        why: String,
        never: bool,
        wait: Option<Duration>,
        now: UnixMillis,
    ) -> anyhow::Result<Message> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        message.attempts = message.attempts.saturating_add(1);
        message.error = Some(why);
        let doubled = 1_u32.checked_shl(message.attempts - 1).unwrap_or(u32::MAX);
        let backoff = AGAIN.0.saturating_mul(doubled).min(AGAIN.1);
        let wait = wait.unwrap_or_default().min(WAIT_MOST);
        message.next_ms = now + backoff.max(wait);
        let key = keys::message(&message.receiver, message.number);
        let mut change = Change::default();
        if never || now.since(message.made_ms) >= TRIED_FOR {
            message.dead_ms = Some(now);
            change.put_json(keys::dead(message.number), &message)?;
            change.delete.push(key);
            let beyond = (self.state.count(keys::DEAD)? + 1).saturating_sub(DEAD_MAX);
            if beyond > 0
                && let Some((oldest, _)) = self.state.first(keys::DEAD)?
            {
                warn!(
                    oldest,
                    "the oldest message that could not be delivered is given up"
                );
                change.delete.push(oldest);
            }
        } else {
            change.put_json(key, &message)?;
        }
        self.apply(change)?;
        if message.dead_ms.is_some() {
            self.emptied.notify_one();
        }
        Ok(message)
    }

    /// Sends a dead one again.
    pub(crate) fn resend(&self, number: u64, now: UnixMillis) -> anyhow::Result<Option<Message>> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let message: Option<Message> = get_json(&*self.state, &keys::dead(number))?;
        let Some(mut message) = message else {
            return Ok(None);
        };
        message.dead_ms = None;
        (message.made_ms, message.next_ms, message.attempts) = (now, now, 0);
        let mut change = Change::default();
        change.put_json(keys::message(&message.receiver, number), &message)?;
        change.delete.push(keys::dead(number));
        self.apply(change)?;
        self.filled.notify_waiters();
        Ok(Some(message))
    }

    /// Gives up what waits for receivers that are no more; returns how many there were.
    pub(super) fn forget(&self, is_known: impl Fn(&str) -> bool) -> anyhow::Result<usize> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let all = self.list()?;
        let waiting = all.iter().filter(|one| one.dead_ms.is_none());
        let lost = waiting.filter(|one| !is_known(&one.receiver));
        let lost: Vec<String> = lost
            .map(|one| keys::message(&one.receiver, one.number))
            .collect();
        for part in lost.chunks(100) {
            self.apply(Change {
                delete: part.to_vec(),
                ..Change::default()
            })?;
        }
        Ok(lost.len())
    }

    fn apply(&self, change: Change) -> anyhow::Result<()> {
        self.state.apply(change).map_err(anyhow::Error::from)?;
        self.state.sync().context("cannot keep it")
    }
}
