//! From older forms of a data folder to this one, at the first start of a newer version.
//!
//! A form's version is the key `schema` of the state. Each step makes the next form beside the old one, and puts it into its place when it is whole; cut
//! off anywhere, it begins anew at the next start.
//!
//! | version | form |
//! | --- | --- |
//! | 1 | one sled database `db/` with the trees `log`, `links`, `history` (one entry a sample) and `state`, and the file `end` beside it |
//! | 2 | as [`crate`] describes it |

use crate::engine::Engine;
use crate::history::{EmbeddedHistory, History, LinkId};
use crate::log::{Body, EmbeddedLog, Entry, Log, Position};
use crate::state::{EmbeddedState, State, get_json};
use anyhow::{Context, bail};
use bytes::Bytes;
use denyut_proto::{
    AgentId, BootId, Failure, OfficeCode, Outcome, Reason, Sample, TargetSamples, UnixMillis,
};
use prost::Message;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use tracing::info;

/// The form that this version reads and writes.
const VERSION: u32 = 2;
const SCHEMA: &str = "schema";
const PARTS: [&str; 7] = ["log", "recent", "raw", "minute", "hour", "day", "state"];
/// Samples put into the new history at once.
const PART: usize = 10_000;

/// Brings the folder up to this version, if it is of an older one.
pub(crate) fn bring_up(folder: &Path, now: UnixMillis) -> anyhow::Result<()> {
    let old = folder.join("db");
    if !old.join("db").exists() {
        return Ok(());
    }
    if !folder.join("state/db").exists() {
        info!(
            from = 1,
            to = VERSION,
            "the data folder is of an older version and is brought up to this one"
        );
        let new = folder.join("migrating");
        if !new.exists() {
            crate::store::refuse_half(folder)?;
        }
        for path in PARTS
            .iter()
            .map(|part| folder.join(part))
            .chain([new.clone()])
        {
            if path.exists() {
                fs::remove_dir_all(&path)?;
            }
        }
        fs::create_dir(&new)?;
        from_1(&old, &new, now)?;
        // The state last: with it the new form is whole.
        for part in PARTS {
            fs::rename(new.join(part), folder.join(part))?;
        }
        crate::log::sync_folder(folder)?;
        fs::remove_dir_all(&new)?;
    }
    fs::remove_dir_all(&old)?;
    fs::remove_file(folder.join("end")).ok();
    Ok(())
}

/// Refuses a state of another version, and notes this one in a new state.
pub(crate) fn check(state: &EmbeddedState) -> anyhow::Result<()> {
    match get_json::<u32>(state, SCHEMA)? {
        Some(VERSION) => Ok(()),
        Some(other) => bail!(
            "the data folder has schema {other}, and this version reads {VERSION}; run the version that wrote it"
        ),
        None => {
            let mut change = crate::state::Change::default();
            change.expect.push((SCHEMA.to_owned(), None));
            change.put_json(SCHEMA.to_owned(), &VERSION)?;
            Ok(state.apply(change)?)
        }
    }
}

fn from_1(old: &Path, new: &Path, now: UnixMillis) -> anyhow::Result<()> {
    let old = Engine::open(old)?;
    let engine = Arc::new(Engine::open(&new.join("state"))?);
    let (state, links) = (engine.tree("state")?, engine.tree("links")?);
    for item in &old.tree("state")? {
        let (key, value) = item?;
        state.insert(key, value)?;
    }
    state.insert(SCHEMA, serde_json::to_vec(&VERSION)?)?;
    for item in &old.tree("links")? {
        let (key, value) = item?;
        links.insert(key, value)?;
    }
    engine.sync()?;
    let state = EmbeddedState::open(&engine)?;
    // The log goes on where the old history ends.
    let begin = log_from_1(&old.tree("log")?, &state, &new.join("log"))?;
    drop(state);
    let history = EmbeddedHistory::open(new, Arc::clone(&engine), begin, now)?.history;
    history_from_1(&old, &history, begin - 1)?;
    history.compact_all(now)?;
    // What is left of the log is told to the new history again: it has most of it, and counts nothing twice.
    engine.sync()
}

/// A record of version 1.
#[derive(Clone, PartialEq, Message)]
struct OldRecord {
    #[prost(sint64, tag = "1")]
    arrival_ms: i64,
    #[prost(message, optional, tag = "2")]
    entry: Option<OldEntry>,
}

#[derive(Clone, PartialEq, Message)]
struct OldEntry {
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

/// The sequences of one boot of version 1.
#[derive(Clone, PartialEq, Message)]
struct OldSeen {
    #[prost(uint64, repeated, tag = "1")]
    ranges: Vec<u64>,
    #[prost(uint64, tag = "2")]
    used: u64,
}

/// Keys: `r` + position → record; `s` + agent + NUL + boot → sequences. Returns the first position that is there, or will be.
fn log_from_1(old: &sled::Tree, state: &EmbeddedState, to: &Path) -> anyhow::Result<Position> {
    let log = EmbeddedLog::open(to)?;
    for item in old.scan_prefix(b"r") {
        let (key, value) = item?;
        let position: [u8; 8] = key
            .get(1..)
            .and_then(|key| key.try_into().ok())
            .context("a position that makes no sense")?;
        let position = Position::from_be_bytes(position);
        let record = OldRecord::decode(&value[..])?;
        let body = match record.entry {
            None => Body::Tick,
            Some(entry) => Body::Heartbeat(Entry {
                office: entry.office.parse()?,
                agent: entry.agent.parse()?,
                boot: entry.boot[..].try_into()?,
                seq: entry.seq,
                heartbeat: entry.heartbeat,
                shift_ms: entry.shift_ms,
                decoded: OnceLock::new(),
            }),
        };
        log.skip_past(position - 1)?;
        log.append(UnixMillis(record.arrival_ms), vec![body])?;
    }
    for item in old.scan_prefix(b"s") {
        let (key, value) = item?;
        let parts = key
            .len()
            .checked_sub(17)
            .and_then(|at| key[1..].split_at_checked(at.checked_sub(1)?));
        let (agent, boot) = parts.context("a boot that makes no sense")?;
        let agent: AgentId = std::str::from_utf8(agent)?.parse()?;
        let boot: BootId = boot
            .get(1..)
            .context("a boot that makes no sense")?
            .try_into()?;
        // An agent's office stands in its state; one that has none was never worked on.
        let known: Option<BTreeMap<String, serde_json::Value>> =
            get_json(state, &format!("agent/{agent}"))?;
        let office =
            known.and_then(|known| known.get("office")?.as_str()?.parse::<OfficeCode>().ok());
        if let Some(office) = office {
            let seen = OldSeen::decode(&value[..])?;
            log.adopt(office, agent, boot, &seen.ranges, seen.used);
        }
    }
    let begin = log.begin();
    log.keep_adopted()?;
    Ok(begin)
}

/// Keys: link number (u32) + time (u64). Values: `1` + RTT, or `0` + reason + detail.
fn history_from_1(
    old: &Engine,
    history: &EmbeddedHistory,
    position: Position,
) -> anyhow::Result<()> {
    let mut names: BTreeMap<u32, LinkId> = BTreeMap::new();
    for item in &old.tree("links")? {
        let (key, value) = item?;
        let (agent, target) = std::str::from_utf8(&key)?
            .split_once('/')
            .context("a link that makes no sense")?;
        let link = LinkId {
            agent: agent.parse()?,
            target: target.parse()?,
        };
        names.insert(u32::from_be_bytes(value[..].try_into()?), link);
    }
    let samples = old.tree("history")?;
    for (number, link) in names {
        let mut part = Vec::new();
        let put = |part: &mut Vec<Sample>| {
            let told = TargetSamples {
                target: link.target.clone(),
                samples: std::mem::take(part),
            };
            history.append(position, &link.agent, &[told])
        };
        for item in samples.scan_prefix(number.to_be_bytes()) {
            let (key, value) = item?;
            part.push(
                sample_from_1(&key, &value)
                    .with_context(|| format!("a sample of {link} that makes no sense"))?,
            );
            if part.len() == PART {
                put(&mut part)?;
            }
        }
        if !part.is_empty() {
            put(&mut part)?;
        }
        history.seal_all()?;
    }
    Ok(())
}

fn sample_from_1(key: &[u8], value: &[u8]) -> Option<Sample> {
    let at = u64::from_be_bytes(key.get(4..)?.try_into().ok()?);
    let outcome = match value {
        [1, rtt @ ..] => Outcome::Ok {
            rtt_us: u32::from_be_bytes(rtt.try_into().ok()?),
        },
        [0, reason, detail @ ..] => Outcome::Failed(Failure {
            reason: Reason::try_from(i32::from(*reason)).ok()?,
            detail: u32::from_be_bytes(detail.try_into().ok()?),
        }),
        _ => return None,
    };
    Some(Sample {
        at: UnixMillis(i64::try_from(at).ok()?),
        outcome,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Store;
    use crate::log::Appended;

    fn entry(seq: u64) -> OldEntry {
        OldEntry {
            office: "36.73.02".into(),
            agent: "a-1".into(),
            boot: vec![3; 16],
            seq,
            heartbeat: Bytes::from(format!("heartbeat {seq}")),
            shift_ms: -5,
        }
    }

    /// A folder as version 1 left it.
    fn version_1(folder: &Path) {
        let engine = Engine::open(&folder.join("db")).expect("opens");
        let put = |tree: &str, key: &[u8], value: Vec<u8>| {
            engine
                .tree(tree)
                .expect("opens")
                .insert(key, value)
                .expect("inserts");
        };
        for (position, seq) in [(90u64, 8u64), (91, 9)] {
            let record = OldRecord {
                arrival_ms: 77,
                entry: Some(entry(seq)),
            };
            put(
                "log",
                &[b"r", &position.to_be_bytes()[..]].concat(),
                record.encode_to_vec(),
            );
        }
        put(
            "log",
            &[b"r", &92u64.to_be_bytes()[..]].concat(),
            OldRecord {
                arrival_ms: 78,
                entry: None,
            }
            .encode_to_vec(),
        );
        let seen = OldSeen {
            ranges: vec![1, 9],
            used: 91,
        };
        put(
            "log",
            &[b"s", &b"a-1"[..], &[0], &[3; 16]].concat(),
            seen.encode_to_vec(),
        );
        put("links", b"a-1/server", 0u32.to_be_bytes().to_vec());
        for n in 0..30_000u64 {
            let key = [
                &0u32.to_be_bytes()[..],
                &(1_763_000_000_000 + n * 10_000).to_be_bytes(),
            ]
            .concat();
            let value = if n % 10 == 3 {
                [&[0, 15][..], &502u32.to_be_bytes()].concat()
            } else {
                [&[1][..], &900u32.to_be_bytes()].concat()
            };
            put("history", &key, value);
        }
        for (key, value) in [
            ("schema", "1"),
            ("checkpoint", r#"{"position":89}"#),
            ("agent/a-1", r#"{"office":"36.73.02"}"#),
            ("incident/000000000001", "{}"),
        ] {
            put("state", key.as_bytes(), value.as_bytes().to_vec());
        }
        engine.sync().expect("syncs");
        fs::write(folder.join("end"), "92\n").expect("writes");
    }

    #[test]
    fn version_1_is_brought_up_and_loses_nothing() {
        let folder = tempfile::tempdir().expect("tempdir");
        version_1(folder.path());
        // A start that was cut off.
        fs::create_dir_all(folder.path().join("migrating/raw")).expect("makes");
        fs::create_dir_all(folder.path().join("log")).expect("makes");
        let give_up = std::time::Instant::now() + std::time::Duration::from_secs(20);
        let store = loop {
            match Store::open(folder.path(), UnixMillis(1_763_400_000_000)) {
                Ok(store) => break store,
                // sled gives its lock up a little after it is closed.
                Err(error) => assert!(
                    format!("{error:#}").contains("lock") && std::time::Instant::now() < give_up,
                    "{error:#}"
                ),
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        };
        assert!(!folder.path().join("db").exists() && !folder.path().join("end").exists());
        let records = store.log.read(1, 10).expect("reads");
        assert_eq!(
            records
                .iter()
                .map(|(position, _)| *position)
                .collect::<Vec<_>>(),
            [90, 91, 92]
        );
        assert_eq!(
            (store.log.end(), records[2].1.arrival),
            (92, UnixMillis(78))
        );
        let Body::Heartbeat(last) = &records[1].1.body else {
            panic!("{records:?}")
        };
        assert_eq!(
            (last.seq, last.shift_ms, &last.heartbeat[..]),
            (9, -5, &b"heartbeat 9"[..])
        );
        // What was appended stays known, also what was cut from the log long ago.
        let again = |seq| {
            let old = entry(seq);
            Body::Heartbeat(Entry {
                office: old.office.parse().expect("a code"),
                agent: old.agent.parse().expect("an id"),
                boot: BootId([3; 16]),
                seq,
                heartbeat: old.heartbeat,
                shift_ms: 0,
                decoded: OnceLock::new(),
            })
        };
        let appended = store
            .log
            .append(UnixMillis(80), vec![again(2), again(9), again(10)])
            .expect("appends");
        assert_eq!(
            appended,
            [Appended::Duplicate, Appended::Duplicate, Appended::New]
        );
        let link = LinkId {
            agent: "a-1".parse().expect("an id"),
            target: "server".parse().expect("a name"),
        };
        let mut samples = Vec::new();
        store
            .history
            .visit(&link, UnixMillis(0)..UnixMillis(i64::MAX), &mut |sample| {
                samples.push(sample);
                true
            })
            .expect("reads");
        assert_eq!(samples.len(), 30_000);
        assert_eq!(
            samples[3].outcome,
            Outcome::Failed(Failure {
                reason: Reason::HttpStatus,
                detail: 502
            })
        );
        assert_eq!(samples[4].outcome, Outcome::Ok { rtt_us: 900 });
        assert_eq!(
            store.state.get("incident/000000000001").expect("reads"),
            Some(b"{}".to_vec())
        );
        assert_eq!(store.replay_from, 90);
    }

    #[test]
    fn a_newer_version_is_refused() {
        let folder = tempfile::tempdir().expect("tempdir");
        let store = Store::open(folder.path(), UnixMillis(0)).expect("opens");
        let mut change = crate::state::Change::default();
        change
            .put_json(SCHEMA.to_owned(), &(VERSION + 1))
            .expect("is JSON");
        store.state.apply(change).expect("applies");
        let error = check(&store.state).expect_err("is refused");
        assert!(error.to_string().contains("schema 3"), "{error}");
    }
}
