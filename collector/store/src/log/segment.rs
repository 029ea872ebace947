//! The log's files: frames one after another.
//!
//! # Form, version 1
//!
//! ```text
//! segment = frame*                 <first position, 16 hex digits>.log
//! frame   = magic "dnF1" · crc32c u32 (of all that follows) · kind u8 · first position u64 · records u32
//!           · length u32 · unpacked length u32 · payload
//! ```
//!
//! Integers are little-endian; the payload is packed by zstd. The first frame of a segment is its *head*, the protobuf message [`StoredHead`]: which
//! sequences of which boots were appended before it, so that the segments below it may go. Every other is a *group*: what one commit
//! appended.
//!
//! ```text
//! group  = arrival zigzag · record*
//! record = session·2 + opens varint · [length varint · StoredSession] · seq varint · shift zigzag · length varint · heartbeat
//!          a tick is session 0 alone; an agent that is dismissed is session 0 that opens, with the agent in its StoredSession, and no more
//! ```
//!
//! A record names its (office, agent, boot) by a session's number, which is given once in
//! the life of the log: in the record that opens the session, and in every head after it.

use super::{Body, Entry, Position, Record};
use crate::history::column::{Reader, put_varint, unzigzag, zigzag};
use anyhow::{Context, ensure};
use bytes::Bytes;
use denyut_proto::{AgentId, BootId, OfficeCode, UnixMillis};
use prost::Message;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

pub(super) const MAGIC: [u8; 4] = *b"dnF1";
pub(super) const HEADER: usize = 29;
/// A payload, unpacked: a group of a thousand of the longest heartbeats, or a head of 100,000 agents, is below it.
pub(super) const UNPACKED_MAX: usize = 64 << 20;
/// No honest log comes this far.
const POSITION_MAX: Position = 1 << 60;
/// Of zstd: its fastest level that finds the likeness of heartbeats.
const PACK_LEVEL: i32 = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Head = 1,
    Group = 2,
}

/// A frame's header.
#[derive(Debug, Clone, Copy)]
pub(super) struct Header {
    crc: u32,
    pub(super) kind: Kind,
    /// Position of its first record; of a head, of the first record after it.
    pub(super) first: Position,
    pub(super) records: u32,
    pub(super) length: usize,
    unpacked: usize,
}

impl Header {
    fn parse(bytes: &[u8; HEADER]) -> Option<Self> {
        let word = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let header = Self {
            crc: word(4),
            kind: match bytes[8] {
                1 => Kind::Head,
                2 => Kind::Group,
                _ => return None,
            },
            first: u64::from(word(9)) | u64::from(word(13)) << 32,
            records: word(17),
            length: word(21) as usize,
            unpacked: word(25) as usize,
        };
        (bytes[..4] == MAGIC
            && header.first <= POSITION_MAX
            && header.length <= UNPACKED_MAX * 2
            && header.unpacked <= UNPACKED_MAX)
            .then_some(header)
    }
}

/// A record as stored; a tick, and an agent that is dismissed, have session 0.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct StoredRecord {
    pub(super) session: u32,
    pub(super) seq: u64,
    pub(super) shift_ms: i64,
    pub(super) heartbeat: Bytes,
    /// In the first record of a session.
    pub(super) opens: Option<StoredSession>,
}

/// A group being written.
#[derive(Debug)]
pub(super) struct GroupWriter {
    unpacked: Vec<u8>,
    pub(super) records: usize,
}

impl GroupWriter {
    /// `bytes`: about how long it will be.
    pub(super) fn new(arrival: UnixMillis, bytes: usize) -> Self {
        let mut unpacked = Vec::with_capacity(bytes);
        put_varint(&mut unpacked, zigzag(arrival.0));
        Self {
            unpacked,
            records: 0,
        }
    }

    pub(super) fn add(&mut self, record: &StoredRecord) {
        self.records += 1;
        let out = &mut self.unpacked;
        put_varint(
            out,
            u64::from(record.session) << 1 | u64::from(record.opens.is_some()),
        );
        if let Some(opens) = &record.opens {
            let opens = opens.encode_to_vec();
            put_varint(out, opens.len() as u64);
            out.extend_from_slice(&opens);
        }
        if record.session == 0 {
            return;
        }
        put_varint(out, record.seq);
        put_varint(out, zigzag(record.shift_ms));
        put_varint(out, record.heartbeat.len() as u64);
        out.extend_from_slice(&record.heartbeat);
    }

    /// The group's frame.
    pub(super) fn frame(&self, first: Position) -> anyhow::Result<Vec<u8>> {
        frame(Kind::Group, first, self.records, &self.unpacked)
    }
}

/// The records of a group.
pub(super) fn read_group(unpacked: &Bytes) -> anyhow::Result<(UnixMillis, Vec<StoredRecord>)> {
    let mut read = Reader::new(unpacked);
    let part = |part: &[u8]| unpacked.slice_ref(part);
    let arrival = UnixMillis(unzigzag(read.varint()?));
    let mut records = Vec::new();
    while !read.is_empty() {
        let session = read.varint()?;
        let opens = session & 1 == 1;
        let mut record = StoredRecord {
            session: u32::try_from(session >> 1)?,
            ..StoredRecord::default()
        };
        if opens {
            let length = read.count(unpacked.len())?;
            record.opens = Some(StoredSession::decode(read.take(length)?)?);
        }
        if record.session != 0 {
            record.seq = read.varint()?;
            record.shift_ms = unzigzag(read.varint()?);
            let length = read.count(unpacked.len())?;
            record.heartbeat = part(read.take(length)?);
        }
        records.push(record);
    }
    Ok((arrival, records))
}

/// What a session's number stands for.
#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct StoredSession {
    #[prost(uint32, tag = "1")]
    pub(super) number: u32,
    #[prost(string, tag = "2")]
    pub(super) office: String,
    #[prost(string, tag = "3")]
    pub(super) agent: String,
    #[prost(bytes = "vec", tag = "4")]
    pub(super) boot: Vec<u8>,
    /// Sequences appended: first, last, first, last …; empty in a record.
    #[prost(uint64, repeated, tag = "5")]
    pub(super) ranges: Vec<u64>,
    /// Position of the last record.
    #[prost(uint64, tag = "6")]
    pub(super) used: u64,
}

/// A head as stored.
#[derive(Clone, PartialEq, Message)]
pub(super) struct StoredHead {
    #[prost(message, repeated, tag = "1")]
    pub(super) sessions: Vec<StoredSession>,
    #[prost(uint32, tag = "2")]
    pub(super) next_session: u32,
}

/// (office, agent, boot), checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Session {
    pub(super) office: OfficeCode,
    pub(super) agent: AgentId,
    pub(super) boot: BootId,
}

impl TryFrom<&StoredSession> for Session {
    type Error = anyhow::Error;
    fn try_from(stored: &StoredSession) -> anyhow::Result<Self> {
        Ok(Self {
            office: stored.office.parse()?,
            agent: stored.agent.parse()?,
            boot: stored.boot[..].try_into()?,
        })
    }
}

/// The bytes of a frame.
pub(super) fn frame(
    kind: Kind,
    first: Position,
    records: usize,
    unpacked: &[u8],
) -> anyhow::Result<Vec<u8>> {
    ensure!(
        unpacked.len() <= UNPACKED_MAX,
        "{} bytes are too many for one group of the log",
        unpacked.len()
    );
    let payload =
        zstd::bulk::compress(unpacked, PACK_LEVEL).context("cannot pack a group of the log")?;
    let mut frame = Vec::with_capacity(HEADER + payload.len());
    let word = |n: usize| u32::try_from(n).expect("below 128 MiB").to_le_bytes();
    frame.extend_from_slice(&MAGIC);
    frame.extend_from_slice(&[0; 4]);
    frame.push(kind as u8);
    frame.extend_from_slice(&first.to_le_bytes());
    frame.extend_from_slice(&word(records));
    frame.extend_from_slice(&word(payload.len()));
    frame.extend_from_slice(&word(unpacked.len()));
    frame.extend_from_slice(&payload);
    let crc = crc32c::crc32c(&frame[8..]);
    frame[4..8].copy_from_slice(&crc.to_le_bytes());
    Ok(frame)
}

/// A segment being read.
#[derive(Debug)]
pub(super) struct Segment {
    file: File,
    pub(super) path: PathBuf,
    pub(super) offset: u64,
}

/// What lies at a place of a segment.
#[derive(Debug)]
pub(super) enum Found {
    /// A frame, and its payload still packed.
    Frame(Header, Vec<u8>),
    /// Bytes that are no frame, up to the next frame.
    Damage {
        bytes: u64,
    },
    /// Bytes that are no frame, up to the end: torn off in the middle of a write, or damage.
    Torn {
        bytes: u64,
    },
    End,
}

impl Segment {
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        let file =
            File::open(path).with_context(|| format!("cannot read the log {}", path.display()))?;
        Ok(Self {
            file,
            path: path.to_owned(),
            offset: 0,
        })
    }

    /// Reads the header at the present place and skips its frame, unread.
    pub(super) fn skip(&mut self, header: &Header) {
        self.offset += (HEADER + header.length) as u64;
    }

    /// The header at the present place, if there is one; its frame is not checked.
    pub(super) fn peek(&mut self) -> anyhow::Result<Option<Header>> {
        let mut bytes = [0; HEADER];
        let there = self.read_at(self.offset, &mut bytes)?;
        Ok(if there { Header::parse(&bytes) } else { None })
    }

    /// What lies at the present place; moves past it.
    pub(super) fn next(&mut self) -> anyhow::Result<Found> {
        if let Some((header, payload)) = self.frame_at(self.offset)? {
            self.skip(&header);
            return Ok(Found::Frame(header, payload));
        }
        let length = self.file.metadata()?.len();
        if self.offset >= length {
            return Ok(Found::End);
        }
        let start = self.offset;
        // The next magic that begins a whole frame.
        let mut rest = Vec::new();
        self.file.seek(SeekFrom::Start(start))?;
        (&mut self.file)
            .take(length - start)
            .read_to_end(&mut rest)?;
        for at in 1..rest.len().saturating_sub(HEADER) {
            if rest[at..at + 4] == MAGIC && self.frame_at(start + at as u64)?.is_some() {
                self.offset = start + at as u64;
                return Ok(Found::Damage { bytes: at as u64 });
            }
        }
        self.offset = length;
        Ok(Found::Torn {
            bytes: length - start,
        })
    }

    /// Whether `bytes` at `at`, the end of a segment, are more than one write that was not finished: each is synced before the next.
    pub(super) fn more_than_one_frame(&mut self, at: u64, bytes: u64) -> anyhow::Result<bool> {
        let mut header = [0; HEADER];
        let parsed = self
            .read_at(at, &mut header)?
            .then(|| Header::parse(&header));
        let frame = parsed
            .flatten()
            .map(|header| (HEADER + header.length) as u64);
        Ok(frame.is_some_and(|frame| bytes > frame))
    }

    fn frame_at(&mut self, offset: u64) -> anyhow::Result<Option<(Header, Vec<u8>)>> {
        let mut bytes = [0; HEADER];
        if !self.read_at(offset, &mut bytes)? {
            return Ok(None);
        }
        let Some(header) = Header::parse(&bytes) else {
            return Ok(None);
        };
        let left = self
            .file
            .metadata()?
            .len()
            .saturating_sub(offset + HEADER as u64);
        if header.length as u64 > left {
            return Ok(None);
        }
        let mut payload = vec![0; header.length];
        if !self.read_at(offset + HEADER as u64, &mut payload)? {
            return Ok(None);
        }
        let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[8..]), &payload);
        Ok((crc == header.crc).then_some((header, payload)))
    }

    /// Fills `into`; `false` if the file ends before.
    fn read_at(&mut self, offset: u64, into: &mut [u8]) -> anyhow::Result<bool> {
        use std::os::unix::fs::FileExt;
        match self.file.read_exact_at(into, offset) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(false),
            Err(error) => {
                Err(error).with_context(|| format!("cannot read the log {}", self.path.display()))
            }
        }
    }
}

/// What is in a frame's payload.
pub(super) fn unpack(header: &Header, payload: &[u8]) -> anyhow::Result<Bytes> {
    let unpacked = zstd::bulk::decompress(payload, header.unpacked)
        .context("a frame of the log cannot be unpacked")?;
    Ok(unpacked.into())
}

/// The head in a frame's payload.
pub(super) fn unpack_head(header: &Header, payload: &[u8]) -> anyhow::Result<StoredHead> {
    StoredHead::decode(unpack(header, payload)?).context("a head of the log makes no sense")
}

/// The group in a frame's payload.
pub(super) fn unpack_group(
    header: &Header,
    payload: &[u8],
) -> anyhow::Result<(UnixMillis, Vec<StoredRecord>)> {
    read_group(&unpack(header, payload)?).context("a group of the log makes no sense")
}

/// A stored record in the terms of the log; `session` finds what a number stands for.
pub(super) fn record(
    stored: StoredRecord,
    arrival: UnixMillis,
    session: Option<&Session>,
) -> anyhow::Result<Record> {
    let body = if let (0, Some(dismissed)) = (stored.session, &stored.opens) {
        Body::Dismissed(dismissed.agent.parse()?)
    } else if stored.session == 0 {
        Body::Tick
    } else {
        let session =
            session.with_context(|| format!("session {} is not known", stored.session))?;
        Body::Heartbeat(Entry {
            office: session.office.clone(),
            agent: session.agent.clone(),
            boot: session.boot,
            seq: stored.seq,
            heartbeat: stored.heartbeat,
            shift_ms: stored.shift_ms,
            decoded: std::sync::OnceLock::new(),
        })
    };
    Ok(Record { arrival, body })
}
