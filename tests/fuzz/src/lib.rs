//! What parses bytes from the network or the disk: whatever they are, it refuses them or reads them, within its limits; and what it reads, it
//! writes so that it reads the same again.
//!
//! `tests/fuzz/run` searches for bytes that prove this wrong; what it found worth keeping lies in `corpus/`, and is tried by this crate's test.

#![allow(clippy::missing_panics_doc, reason = "a panic is what is searched for")]

mod sums;

use denyut_proto::batch::{self, MAX_BATCH};
use denyut_proto::{
    AgentId, Heartbeat, Identity, Invitation, MAX_HEARTBEAT_BYTES, OfficeCode, Probe, Target,
    TargetName, UnixMillis, parse_duration, wire,
};
use denyut_store::history::codec::{self, COUNT_MAX};
use denyut_store::history::column::Effort;
use denyut_store::history::rollup::{self, Level};
use denyut_store::log::{Body, EmbeddedLog, Log};
use denyut_store::{verify, verify_backup};
use prost::Message;
use std::fmt::Display;
use std::fs;
use std::path::Path;
use std::str::FromStr;

/// Something that is tried, and its name.
pub type Tried = (&'static str, fn(&[u8]));

/// All of it.
pub const ALL: [Tried; 23] = [
    ("heartbeat", heartbeat),
    ("batch", batch),
    ("agent-message", agent_message),
    ("collector-message", collector_message),
    ("words", words),
    ("chunk", chunk),
    ("rows", rows),
    ("log", log),
    ("raw-block", raw_block),
    ("minute-block", minute_block),
    ("generation", generation),
    ("manifest", manifest),
    ("state", denyut_collector::tried::state),
    ("certificate-request", denyut_collector::tried::request),
    ("certificate", denyut_collector::tried::certificate),
    ("authority", authority),
    ("answers", denyut_collector::tried::answers),
    ("tables", tables),
    ("configurations", configurations),
    ("spool", spool),
    ("agent-files", agent_files),
    ("name-server", denyut_agent::tried::name_server),
    ("update", denyut_agent::tried::manifest),
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

/// Gives an empty folder.
fn in_folder(tried: impl FnOnce(&Path)) {
    thread_local! {
        static FOLDER: tempfile::TempDir = tempfile::tempdir().expect("a folder");
    }
    FOLDER.with(|folder| {
        let path = folder.path().join("of");
        if path.exists() {
            fs::remove_dir_all(&path).expect("removes");
        }
        fs::create_dir_all(&path).expect("makes");
        tried(&path);
    });
}

/// Puts bytes at a path below a folder.
fn put(folder: &Path, name: &str, bytes: &[u8]) {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().expect("in a folder")).expect("makes");
    fs::write(path, bytes).expect("writes");
}

/// A segment of the log, as a disk may give it back: it opens or says why not; and what it opens, it reads to its end.
pub fn log(bytes: &[u8]) {
    let mut bytes = bytes.to_vec();
    sums::log(&mut bytes);
    in_folder(|folder| {
        put(folder, SEGMENT, &bytes);
        let Ok(opened) = EmbeddedLog::open(folder) else {
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

/// A block of samples.
pub fn raw_block(bytes: &[u8]) {
    block("raw", bytes);
}

/// A block of rows.
pub fn minute_block(bytes: &[u8]) {
    block("minute", bytes);
}

fn block(level: &str, bytes: &[u8]) {
    let mut bytes = bytes.to_vec();
    sums::block(&mut bytes);
    in_folder(|folder| {
        put(folder, &format!("{level}/20780_20780.1.block"), &bytes);
        repaired(folder);
    });
}

/// A generation.
pub fn generation(bytes: &[u8]) {
    let mut bytes = bytes.to_vec();
    sums::generation(&mut bytes);
    in_folder(|folder| {
        put(folder, "recent/1-0000000000000001-20780.chunks", &bytes);
        repaired(folder);
    });
}

/// What is damaged is mended or set aside, and then nothing is.
fn repaired(folder: &Path) {
    let found = verify::verify(folder, false).expect("a folder that reads");
    let done = verify::repair(folder).expect("a folder that takes").done;
    assert_eq!(
        found.damage.is_empty(),
        done.is_empty(),
        "{found:?} {done:?}"
    );
    let after = verify::verify(folder, false).expect("a folder that reads");
    assert!(after.damage.is_empty(), "{found:?} {after:?}");
}

/// A backup's list of what is in it.
pub fn manifest(bytes: &[u8]) {
    in_folder(|folder| {
        put(folder, "backup.json", bytes);
        put(folder, "state.dump", &[0; 4]);
        if let Ok((manifest, _)) = verify_backup(folder) {
            manifest.bytes();
        }
    });
}

/// The collector's authority: its certificate up to the first NUL, its key after that.
pub fn authority(bytes: &[u8]) {
    let nul = bytes.iter().position(|byte| *byte == 0);
    let (certificate, key) = bytes.split_at(nul.unwrap_or(bytes.len()));
    in_folder(|folder| {
        put(folder, "ca.pem", certificate);
        put(folder, "ca.key", key.get(1..).unwrap_or_default());
        denyut_collector::tried::authority(&folder.join("ca.pem"), &folder.join("ca.key"));
    });
}

/// Tables that operators bring: offices, holidays, recorded checks.
pub fn tables(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        denyut_collector::tried::tables(text);
    }
}

/// The configurations of both programs.
pub fn configurations(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        denyut_agent::tried::config(text);
        in_folder(|folder| denyut_collector::tried::config(text, folder));
    }
}

/// The agent's spool: its mark up to the first NUL, and a segment.
pub fn spool(bytes: &[u8]) {
    let nul = bytes.iter().position(|byte| *byte == 0);
    let (mark, segment) = bytes.split_at(nul.unwrap_or(bytes.len()));
    let mut segment = segment.get(1..).unwrap_or_default().to_vec();
    sums::spool(&mut segment);
    in_folder(|folder| {
        put(folder, "mark", mark);
        put(folder, "00000000000000000001.seg", &segment);
        denyut_agent::tried::spool(folder);
    });
}

/// The agent's other files: identity, account of its budget, the collector's configuration.
pub fn agent_files(bytes: &[u8]) {
    in_folder(|folder| {
        put(folder, "identity.json", bytes);
        put(folder, "spent", bytes);
        let mut kept = crc32c::crc32c(bytes).to_le_bytes().to_vec();
        kept.extend_from_slice(bytes);
        put(folder, "configuration", &kept);
        denyut_agent::tried::identity(folder);
        denyut_agent::tried::kept(folder);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

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
