//! What parses bytes from the network or the disk: whatever they are, it refuses them or reads them, within its limits; and what it reads, it
//! writes so that it reads the same again.
//!
//! `tests/fuzz/run` searches for bytes that prove this wrong; what it found worth keeping lies in `corpus/`, and is tried by this crate's test.

#![allow(clippy::missing_panics_doc, reason = "a panic is what is searched for")]

use denyut_proto::batch::{self, MAX_BATCH};
use denyut_proto::{
    AgentId, Heartbeat, Identity, Invitation, MAX_HEARTBEAT_BYTES, OfficeCode, Probe, Target,
    TargetName, UnixMillis, parse_duration, wire,
};
use denyut_store::history::codec::{self, COUNT_MAX};
use denyut_store::history::column::Effort;
use denyut_store::history::rollup::{self, Level};
use denyut_store::log::{Body, EmbeddedLog, Log};
use prost::Message;
use std::fmt::Display;
use std::fs;
use std::str::FromStr;

/// Something that is tried, and its name.
pub type Tried = (&'static str, fn(&[u8]));

/// All of it.
pub const ALL: [Tried; 8] = [
    ("heartbeat", heartbeat),
    ("batch", batch),
    ("agent-message", agent_message),
    ("collector-message", collector_message),
    ("words", words),
    ("chunk", chunk),
    ("rows", rows),
    ("log", log),
];

/// A heartbeat of an agent, from the wire, the spool or the log.
pub fn heartbeat(bytes: &[u8]) {
    let Ok(wire) = wire::Heartbeat::decode(bytes) else {
        return;
    };
    if let Ok(heartbeat) = Heartbeat::try_from(wire) {
        let again = wire::Heartbeat::from(&heartbeat).encode_to_vec();
        let again = wire::Heartbeat::decode(&again[..]).expect("was encoded");
        assert_eq!(Heartbeat::try_from(again), Ok(heartbeat));
    }
}

/// A batch of them.
pub fn batch(bytes: &[u8]) {
    let Ok(wire) = wire::Batch::decode(bytes) else {
        return;
    };
    if let Ok(entries) = batch::unpack(&wire) {
        assert!((1..=MAX_BATCH).contains(&entries.len()));
        if let Some((packed, count)) = batch::pack(&wire.boot, &entries) {
            assert!(packed.columns.len() + packed.noise.len() <= MAX_HEARTBEAT_BYTES);
            assert_eq!(batch::unpack(&packed).as_deref(), Ok(&entries[..count]));
        }
    }
}

/// Anything that an agent says.
pub fn agent_message(bytes: &[u8]) {
    wire::AgentMessage::decode(bytes).ok();
}

/// Anything that the collector says: its targets are read.
pub fn collector_message(bytes: &[u8]) {
    use wire::collector_message::Kind;
    let decoded = wire::CollectorMessage::decode(bytes).ok();
    if let Some(Kind::Configuration(configuration)) = decoded.and_then(|message| message.kind) {
        let targets = configuration.targets.into_iter().map(Target::try_from);
        for target in targets.flatten() {
            let again = wire::Target::from(&target);
            assert_eq!(Target::try_from(again), Ok(target));
        }
    }
}

/// What people and files write: names, addresses, invitations.
pub fn words(bytes: &[u8]) {
    fn same<T: FromStr + Display + PartialEq>(text: &str) {
        if let Ok(read) = text.parse::<T>() {
            assert!(read.to_string().parse::<T>().ok() == Some(read), "{text}");
        }
    }
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    same::<AgentId>(text);
    same::<OfficeCode>(text);
    same::<TargetName>(text);
    same::<Probe>(text);
    same::<Identity>(text);
    same::<Invitation>(text);
    parse_duration("text", text).ok();
}

/// A sealed chunk of samples, past its checksum.
pub fn chunk(bytes: &[u8]) {
    let Some((first, body)) = bytes.split_first_chunk() else {
        return;
    };
    let first = UnixMillis(i64::from(u32::from_le_bytes(*first)) * 1_000);
    let mut samples = Vec::new();
    if codec::decode_body(first, body, &mut samples).is_err() {
        assert!(samples.is_empty());
        return;
    }
    assert!(!samples.is_empty() && samples.len() <= COUNT_MAX && samples.is_sorted());
    for effort in [Effort::Fast, Effort::Small] {
        let (mut bytes, mut again) = (Vec::new(), Vec::new());
        codec::encode(7, &samples, effort, &mut bytes);
        codec::decode(&bytes, &mut again).expect("what was encoded can be decoded");
        assert_eq!(samples, again);
    }
}

/// Rows of rollups.
pub fn rows(bytes: &[u8]) {
    for level in [Level::Minute, Level::Hour, Level::Day] {
        rollup::decode(bytes, 0, level).ok();
    }
}

/// A segment of the log, as a disk may give it back: it opens or says why not; and what it opens, it reads to its end.
pub fn log(bytes: &[u8]) {
    thread_local! {
        static FOLDER: tempfile::TempDir = tempfile::tempdir().expect("a folder");
    }
    FOLDER.with(|folder| {
        let path = folder.path().join("log");
        fs::create_dir_all(&path).expect("makes");
        for old in fs::read_dir(&path).expect("reads").flatten() {
            fs::remove_file(old.path()).expect("removes");
        }
        fs::write(path.join(SEGMENT), bytes).expect("writes");
        let Ok(opened) = EmbeddedLog::open(&path) else {
            return;
        };
        let mut next = opened.begin();
        while let Ok(records) = opened.read(next, 64) {
            let Some((last, _)) = records.last() else {
                break;
            };
            for (_, record) in &records {
                if let Body::Heartbeat(entry) = &record.body {
                    entry.heartbeat().ok();
                }
            }
            assert!(*last >= next, "reading goes on");
            next = last + 1;
        }
    });
}

/// The name of a log's first segment.
const SEGMENT: &str = "0000000000000001.log";

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn the_corpus_holds() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
        for (name, tried) in ALL {
            let files = fs::read_dir(corpus.join(name)).expect("a folder of each");
            let mut count = 0;
            for file in files.flatten() {
                tried(&fs::read(file.path()).expect("reads"));
                count += 1;
            }
            assert!(count >= 5, "{name}: {count}");
        }
    }
}
