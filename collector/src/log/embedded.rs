//! The log over sled: one tree, so that a record and the fact that it was appended are one atomic change.
//!
//! Keys: `r` + position (big-endian) → a stored record; `s` + agent + NUL + boot → the sequences appended.

use super::ranges::Ranges;
use super::{Appended, Body, Entry, Held, Log, Position, Record};
use crate::engine::{BATCH_MAX, Engine, VALUE_MAX};
use anyhow::{Context, bail};
use bytes::Bytes;
use denyut_proto::{AgentId, BootId, UnixMillis};
use prost::Message;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Boots remembered per agent, the last used. An agent that delivers from more boots than this at once may
/// have an older one logged twice; history, keyed by time, does not change by it.
const BOOTS_KEPT: usize = 32;

pub(crate) struct EmbeddedLog {
    engine: Arc<Engine>,
    tree: sled::Tree,
    end: AtomicU64,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    agents: HashMap<AgentId, Vec<SeenBoot>>,
}

struct SeenBoot {
    boot: BootId,
    ranges: Ranges,
    /// Position of the last record: the boots with the lowest are forgotten first.
    used: Position,
}

/// A record as stored.
#[derive(Clone, PartialEq, Message)]
struct StoredRecord {
    #[prost(sint64, tag = "1")]
    arrival_ms: i64,
    #[prost(message, optional, tag = "2")]
    entry: Option<StoredEntry>,
}

#[derive(Clone, PartialEq, Message)]
struct StoredEntry {
    #[prost(string, tag = "1")]
    office: String,
    #[prost(string, tag = "2")]
    agent: String,
    #[prost(bytes = "vec", tag = "3")]
    boot: Vec<u8>,
    #[prost(uint64, tag = "4")]
    seq: u64,
    #[prost(bytes = "bytes", tag = "5")]
    heartbeat: Bytes,
    #[prost(sint64, tag = "6")]
    shift_ms: i64,
}

/// The sequences of one boot as stored.
#[derive(Clone, PartialEq, Message)]
struct StoredSeen {
    #[prost(uint64, repeated, tag = "1")]
    ranges: Vec<u64>,
    #[prost(uint64, tag = "2")]
    used: u64,
}

impl EmbeddedLog {
    pub(crate) fn open(engine: Arc<Engine>) -> anyhow::Result<Self> {
        let tree = engine.tree("log").context("cannot open the log")?;
        let mut seen = Seen::default();
        for item in tree.scan_prefix(b"s") {
            let (key, value) = item.context("cannot read the log")?;
            let (agent, boot) = parse_seen_key(&key)
                .with_context(|| format!("the log holds a key that makes no sense: {key:?}"))?;
            let stored = StoredSeen::decode(&value[..]).context("the log is damaged")?;
            seen.agents.entry(agent).or_default().push(SeenBoot {
                boot,
                ranges: Ranges::from_flat(&stored.ranges),
                used: stored.used,
            });
        }
        let mut end = 0;
        if let Some(last) = tree.scan_prefix(b"r").next_back() {
            let (key, _) = last.context("cannot read the log")?;
            end = position_of(&key)?;
        }
        Ok(Self {
            engine,
            tree,
            end: AtomicU64::new(end),
            seen: Mutex::new(seen),
        })
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Log for EmbeddedLog {
    fn append(&self, arrival: UnixMillis, bodies: Vec<Body>) -> anyhow::Result<Vec<Appended>> {
        let mut seen = self.seen();
        let mut position = self.end();
        let mut out = Vec::with_capacity(bodies.len());
        // Two operations a record, and a few for boots that are forgotten.
        for part in chunks(bodies, BATCH_MAX / 4) {
            let mut batch = sled::Batch::default();
            for body in part {
                if let Body::Heartbeat(entry) = &body
                    && !seen.insert(entry, position + 1, &mut batch)
                {
                    out.push(Appended::Duplicate);
                    continue;
                }
                position += 1;
                let value = encode(arrival, body);
                if value.len() > VALUE_MAX {
                    bail!("a record of {} bytes is too long for the log", value.len());
                }
                batch.insert(record_key(position).to_vec(), value);
                out.push(Appended::New);
            }
            self.tree
                .apply_batch(batch)
                .context("cannot write the log")?;
        }
        self.engine.sync()?;
        self.end.store(position, Ordering::Release);
        Ok(out)
    }

    fn read(&self, from: Position, most: usize) -> anyhow::Result<Vec<(Position, Record)>> {
        let end = self.end();
        self.tree
            .range(record_key(from)..=record_key(end))
            .take(most)
            .map(|item| {
                let (key, value) = item.context("cannot read the log")?;
                Ok((position_of(&key)?, decode(&value)?))
            })
            .collect()
    }

    fn end(&self) -> Position {
        self.end.load(Ordering::Acquire)
    }

    fn held(&self, agent: &AgentId, boot: BootId) -> Held {
        let seen = self.seen();
        let boots = seen.agents.get(agent);
        let of_boot = boots.and_then(|boots| boots.iter().find(|b| b.boot == boot));
        Held {
            any: boots.is_some(),
            of_boot: of_boot.and_then(|boot| boot.ranges.highest()),
        }
    }

    fn cut(&self, below: Position) -> anyhow::Result<()> {
        self.engine.check_present()?;
        // The last record stays: it says how far the positions have come.
        let below = below.min(self.end());
        loop {
            let mut batch = sled::Batch::default();
            let mut count = 0;
            for key in self
                .tree
                .range(record_key(0)..record_key(below))
                .keys()
                .take(BATCH_MAX)
            {
                batch.remove(key.context("cannot read the log")?);
                count += 1;
            }
            if count == 0 {
                return Ok(());
            }
            self.tree.apply_batch(batch).context("cannot cut the log")?;
        }
    }
}

impl Seen {
    /// Notes the entry as appended at `position`; `false` if it was.
    fn insert(&mut self, entry: &Entry, position: Position, batch: &mut sled::Batch) -> bool {
        let boots = self.agents.entry(entry.agent.clone()).or_default();
        let i = boots
            .iter()
            .position(|boot| boot.boot == entry.boot)
            .unwrap_or_else(|| {
                boots.push(SeenBoot {
                    boot: entry.boot,
                    ranges: Ranges::default(),
                    used: 0,
                });
                boots.len() - 1
            });
        if !boots[i].ranges.insert(entry.seq) {
            return false;
        }
        boots[i].used = position;
        let stored = StoredSeen {
            ranges: boots[i].ranges.to_flat(),
            used: position,
        };
        batch.insert(seen_key(&entry.agent, entry.boot), stored.encode_to_vec());
        while boots.len() > BOOTS_KEPT {
            let oldest = (0..boots.len()).min_by_key(|i| boots[*i].used).unwrap_or(0);
            let forgotten = boots.swap_remove(oldest);
            batch.remove(seen_key(&entry.agent, forgotten.boot));
        }
        true
    }
}

fn chunks<T>(items: Vec<T>, size: usize) -> impl Iterator<Item = Vec<T>> {
    let mut items = items.into_iter();
    std::iter::from_fn(move || {
        let part: Vec<T> = items.by_ref().take(size).collect();
        (!part.is_empty()).then_some(part)
    })
}

fn record_key(position: Position) -> [u8; 9] {
    let mut key = [b'r'; 9];
    key[1..].copy_from_slice(&position.to_be_bytes());
    key
}

fn position_of(key: &[u8]) -> anyhow::Result<Position> {
    let bytes = key.get(1..).and_then(|bytes| bytes.try_into().ok());
    Ok(u64::from_be_bytes(bytes.with_context(|| {
        format!("the log holds a key that makes no sense: {key:?}")
    })?))
}

fn seen_key(agent: &AgentId, boot: BootId) -> Vec<u8> {
    [b"s", agent.as_str().as_bytes(), &[0], &boot.0].concat()
}

fn parse_seen_key(key: &[u8]) -> Option<(AgentId, BootId)> {
    let (agent, boot) = key
        .strip_prefix(b"s")?
        .split_at_checked(key.len().checked_sub(18)?)?;
    let agent = std::str::from_utf8(agent).ok()?.parse().ok()?;
    Some((agent, boot.get(1..)?.try_into().ok()?))
}

fn encode(arrival: UnixMillis, body: Body) -> Vec<u8> {
    let entry = match body {
        Body::Tick => None,
        Body::Heartbeat(entry) => Some(StoredEntry {
            office: entry.office.into(),
            agent: entry.agent.into(),
            boot: entry.boot.0.to_vec(),
            seq: entry.seq,
            heartbeat: entry.heartbeat,
            shift_ms: entry.shift_ms,
        }),
    };
    StoredRecord {
        arrival_ms: arrival.0,
        entry,
    }
    .encode_to_vec()
}

fn decode(value: &[u8]) -> anyhow::Result<Record> {
    let stored = StoredRecord::decode(value).context("the log is damaged")?;
    let body = match stored.entry {
        None => Body::Tick,
        Some(entry) => Body::Heartbeat(Entry {
            office: entry.office.parse().context("the log is damaged")?,
            agent: entry.agent.parse().context("the log is damaged")?,
            boot: entry.boot[..].try_into().context("the log is damaged")?,
            seq: entry.seq,
            heartbeat: entry.heartbeat,
            shift_ms: entry.shift_ms,
        }),
    };
    Ok(Record {
        arrival: UnixMillis(stored.arrival_ms),
        body,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::open_again;

    fn open(path: &std::path::Path) -> EmbeddedLog {
        EmbeddedLog::open(open_again(path)).expect("opens")
    }

    fn entry(boot: u8, seq: u64) -> Body {
        Body::Heartbeat(Entry {
            office: "36.73.02".parse().expect("a code"),
            agent: "a-1".parse().expect("an id"),
            boot: BootId([boot; 16]),
            seq,
            heartbeat: Bytes::from(format!("heartbeat {boot}/{seq}")),
            shift_ms: -7,
        })
    }

    fn at(ms: i64) -> UnixMillis {
        UnixMillis(ms)
    }

    #[test]
    fn each_entry_is_in_the_log_once_over_restarts() {
        use Appended::{Duplicate, New};
        let dir = tempfile::tempdir().expect("tempdir");
        let log = open(dir.path());
        let first = log.append(
            at(5),
            vec![entry(1, 1), entry(1, 2), Body::Tick, entry(1, 1)],
        );
        assert_eq!(first.expect("appends"), [New, New, New, Duplicate]);
        drop(log);
        let log = open(dir.path());
        assert_eq!(log.end(), 3);
        let again = log.append(at(6), vec![entry(1, 2), entry(2, 2), entry(1, 4)]);
        assert_eq!(again.expect("appends"), [Duplicate, New, New]);
        let all = log.read(1, 100).expect("reads");
        assert_eq!(
            all.iter().map(|(p, _)| *p).collect::<Vec<_>>(),
            [1, 2, 3, 4, 5]
        );
        assert_eq!(all[1].1.body, entry(1, 2));
        assert_eq!(
            all[2].1,
            Record {
                arrival: at(5),
                body: Body::Tick
            }
        );
        assert_eq!(log.read(4, 1).expect("reads")[0].1.body, entry(2, 2));
        let held = |agent: &str, boot| log.held(&agent.parse().expect("an id"), BootId([boot; 16]));
        assert_eq!(
            held("a-1", 1),
            Held {
                any: true,
                of_boot: Some(4)
            }
        );
        assert_eq!(
            held("a-1", 9),
            Held {
                any: true,
                of_boot: None
            }
        );
        assert_eq!(
            held("a-2", 1),
            Held {
                any: false,
                of_boot: None
            }
        );
    }

    #[test]
    fn a_cut_log_keeps_its_positions_and_its_memory() {
        let dir = tempfile::tempdir().expect("tempdir");
        let log = open(dir.path());
        let many = (1..=1500).map(|seq| entry(1, seq)).collect();
        assert!(
            log.append(at(1), many)
                .expect("appends")
                .iter()
                .all(|a| *a == Appended::New)
        );
        log.cut(u64::MAX).expect("cuts");
        drop(log);
        let log = open(dir.path());
        assert_eq!(log.end(), 1500);
        assert_eq!(log.read(0, 10).expect("reads").len(), 1);
        assert_eq!(
            log.append(at(2), vec![entry(1, 700)]).expect("appends"),
            [Appended::Duplicate]
        );
        assert_eq!(
            log.append(at(2), vec![Body::Tick]).expect("appends"),
            [Appended::New]
        );
        assert_eq!(log.end(), 1501);
    }

    #[test]
    fn boots_are_remembered_up_to_a_bound() {
        let dir = tempfile::tempdir().expect("tempdir");
        let log = open(dir.path());
        for boot in 0..40 {
            log.append(at(1), vec![entry(boot, 1)]).expect("appends");
        }
        drop(log);
        let log = open(dir.path());
        assert_eq!(log.tree.scan_prefix(b"s").count(), BOOTS_KEPT);
        assert_eq!(
            log.append(at(1), vec![entry(39, 1)]).expect("appends"),
            [Appended::Duplicate]
        );
    }
}
