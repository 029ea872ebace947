//! Heartbeats on disk until the collector has them. Only this file knows how they lie there.
//!
//! # Format
//! A folder with
//! - `id`: 16 random bytes as hex, drawn when the spool is made; part of the boot id of its entries.
//! - `mark`: `acked <seq> dropped <count>`, replaced as a whole. May be old: then entries are sent again,
//!   which changes nothing.
//! - `<seq of the first entry, 20 digits>.seg`: segments. Each starts with `DNYTSPL1`; then records
//!   `length u32 · crc32c u32 · seq u64 · boot 16 bytes · payload`, little-endian, the CRC over all that follows it.
//!   Sequences ascend by one within a segment.
//!
//! # Limits
//! Payload 1 to 6,144 bytes; all segments together at most the configured size: before that is passed, the
//! oldest segment goes, and what was unacknowledged in it is counted as dropped.
//!
//! # Promises
//! - [`Spool::append`] returns when the entry is on the disk (`fdatasync`), and an entry is only handed
//!   out for sending after that: what the collector has acknowledged is never given a second meaning.
//! - A power cut at any byte loses at most the entry being written. A torn tail is cut at the next start.
//! - A segment is deleted when all of it was acknowledged at least [`KEEP_ACKED`] ago.
//! - Damage elsewhere costs the rest of its segment, is counted as dropped and logged, and never blocks a start.

use crate::system::sync_folder;
use anyhow::Context;
use denyut_proto::{BootId, MAX_HEARTBEAT_BYTES};
use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tracing::{info, warn};

/// How long an acknowledged segment is kept, in case the collector loses what it had.
const KEEP_ACKED: Duration = Duration::from_secs(15 * 60);

/// No honest spool comes this far; a segment above it is damage.
const SEQ_MAX: u64 = 1 << 60;
/// Nor an honest mark: beyond a damaged one there is room for all that an agent will ever append.
const MARK_MAX: u64 = SEQ_MAX / 2;
const MAGIC: &[u8; 8] = b"DNYTSPL1";
const HEADER: usize = 4 + 4 + 8 + 16;
/// After a cut tail the sequence goes on this much higher: further than entries that could have been sent
/// from the lost tail (see `delivery::WINDOW`), so that no sequence is used twice.
const SKIP_AFTER_CUT: u64 = 1024;

/// One spooled heartbeat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Spooled {
    pub(crate) seq: u64,
    pub(crate) boot: BootId,
    pub(crate) payload: Vec<u8>,
}

/// What the spool holds, for `Hello` and `status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Range {
    /// The first sequence held (or `next` when empty).
    pub(crate) first: u64,
    /// One past the last.
    pub(crate) next: u64,
    /// Everything up to here is on the collector's disk.
    pub(crate) acked: u64,
    /// Heartbeats lost on this side since the spool was made.
    pub(crate) dropped: u64,
    /// Bytes of all segments.
    pub(crate) bytes: u64,
}

#[derive(Debug)]
pub(crate) struct Spool {
    folder: PathBuf,
    id: [u8; 16],
    max: u64,
    segments: VecDeque<Segment>,
    /// The last segment's file, open for appending; `None` until the first append and after a failed one.
    tail: Option<File>,
    next: u64,
    acked: u64,
    dropped: u64,
    /// Where the last read ended: the segment's first sequence, the sequence read, the offset after it.
    cursor: (u64, u64, u64),
}

#[derive(Debug)]
struct Segment {
    first: u64,
    /// The last sequence in it; `first - 1` when empty.
    last: u64,
    bytes: u64,
    /// Since when all of it is known to be acknowledged.
    acked_at: Option<Instant>,
}

impl Spool {
    /// Opens the spool in `folder`, making it if needed, and mends what a crash left.
    pub(crate) fn open(folder: &Path, max: u64) -> anyhow::Result<Self> {
        let cannot = || format!("cannot open the spool {}", folder.display());
        fs::create_dir_all(folder).with_context(cannot)?;
        let mark = read_mark(folder);
        // Without a mark and without segments sequences start anew, and so must the boots they belong to.
        let fresh = mark.is_none() && segment_files(folder).with_context(cannot)?.is_empty();
        let id = read_or_draw_id(folder, fresh).with_context(cannot)?;
        let (acked, dropped) = mark.unwrap_or_default();
        let mut spool = Self {
            folder: folder.to_owned(),
            id,
            max,
            segments: VecDeque::new(),
            tail: None,
            next: acked + 1,
            acked,
            dropped,
            cursor: (0, 0, 0),
        };
        spool.load().with_context(cannot)?;
        Ok(spool)
    }

    /// The spool's random id.
    pub(crate) fn id(&self) -> [u8; 16] {
        self.id
    }

    /// Puts an entry on the disk and returns its sequence. An error means that it is not there (and is
    /// counted as dropped); the spool stays usable.
    pub(crate) fn append(&mut self, boot: BootId, payload: &[u8]) -> io::Result<u64> {
        let written = self.try_append(boot, payload);
        if written.is_err() {
            // Whatever the failed write left is cut off, now or at the next start.
            if let (Some(tail), Some(segment)) = (self.tail.take(), self.segments.back())
                && let Err(error) = tail.set_len(segment.bytes)
            {
                warn!(%error, "cannot cut a half-written entry from the spool; the next start will");
            }
            self.dropped += 1;
            self.write_mark();
        }
        written
    }

    fn try_append(&mut self, boot: BootId, payload: &[u8]) -> io::Result<u64> {
        if payload.is_empty() || payload.len() > MAX_HEARTBEAT_BYTES {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "a heartbeat of {} bytes (1 to {MAX_HEARTBEAT_BYTES})",
                    payload.len()
                ),
            ));
        }
        let seq = self.next;
        let record = encode(seq, boot, payload);
        self.make_room(record.len() as u64);
        let roll = self
            .segments
            .back()
            .is_none_or(|segment| segment.bytes + record.len() as u64 > self.segment_size())
            || self.tail.is_none();
        // Deleted under our feet: what is written to it would be gone with the process.
        let gone = |segment: &Segment| !self.folder.join(file_name(segment.first)).exists();
        if !roll && self.segments.back().is_some_and(gone) {
            fs::create_dir_all(&self.folder)?;
            self.lose_whole(self.segments.len() - 1, 0);
        }
        if roll || self.tail.is_none() {
            self.new_segment(seq)?;
        }
        // `new_segment` has set both.
        let (Some(tail), Some(segment)) = (&mut self.tail, self.segments.back_mut()) else {
            return Err(io::Error::other("no open segment"));
        };
        tail.write_all(&record)?;
        tail.sync_data()?;
        segment.bytes += record.len() as u64;
        segment.last = seq;
        // Whatever was acknowledged of it before: this entry is not.
        segment.acked_at = None;
        self.next = seq + 1;
        Ok(seq)
    }

    /// Up to `most` entries after sequence `after`, oldest first. What turns out to be damaged or gone is counted as dropped
    /// and passed over.
    pub(crate) fn read_after(&mut self, after: u64, most: usize) -> io::Result<Vec<Spooled>> {
        let mut out = Vec::new();
        let mut i = self
            .segments
            .partition_point(|segment| segment.last <= after);
        while i < self.segments.len() && out.len() < most {
            let (first, bytes) = (self.segments[i].first, self.segments[i].bytes);
            let mut file = match File::open(self.folder.join(file_name(first))) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    self.lose_whole(i, after);
                    continue; // the next segment is at this place now
                }
                Err(error) => return Err(error),
            };
            let mut offset = MAGIC.len() as u64;
            let mut read_to = first - 1;
            let (cursor_segment, cursor_seq, cursor_offset) = self.cursor;
            if cursor_segment == first && cursor_seq <= after {
                (offset, read_to) = (cursor_offset, cursor_seq);
            }
            file.seek(SeekFrom::Start(offset))?;
            let mut reader = io::BufReader::new(file.take(bytes.saturating_sub(offset)));
            while out.len() < most && read_to < self.segments[i].last {
                match read_record(&mut reader)? {
                    Some(entry) if entry.seq == read_to + 1 => {
                        offset += (HEADER + entry.payload.len()) as u64;
                        read_to = entry.seq;
                        if entry.seq > after {
                            self.cursor = (first, entry.seq, offset);
                            out.push(entry);
                        }
                    }
                    _ => self.lose_rest(i, read_to, after),
                }
            }
            i += 1;
        }
        Ok(out)
    }

    /// Segment `i` cannot be read behind `read_to`: it ends there.
    fn lose_rest(&mut self, i: usize, read_to: u64, after: u64) {
        let segment = &mut self.segments[i];
        let lost = segment.last - read_to.max(after).max(self.acked).min(segment.last);
        warn!(
            segment = segment.first,
            lost, "damage in the spool: the rest of this segment is lost"
        );
        segment.last = read_to;
        self.dropped += lost;
        if i + 1 == self.segments.len() {
            self.tail = None; // what comes next goes into a new segment
        }
        self.write_mark();
    }

    /// Segment `i` is gone.
    fn lose_whole(&mut self, i: usize, after: u64) {
        self.lose_rest(i, self.segments[i].first - 1, after);
        self.segments.remove(i);
    }

    /// The collector has everything up to `seq`: remembers it and deletes what need not be kept.
    pub(crate) fn ack(&mut self, seq: u64, now: Instant) {
        if seq > self.acked && seq < self.next {
            self.acked = seq;
            self.write_mark();
        }
        let acked = self.acked;
        for segment in &mut self.segments {
            if segment.acked_at.is_none() && segment.last <= acked {
                segment.acked_at = Some(now);
            }
        }
        let due = |segment: &Segment| {
            segment
                .acked_at
                .is_some_and(|at| now.saturating_duration_since(at) >= KEEP_ACKED)
        };
        // The last segment stays: it is the one being written.
        while self.segments.len() > 1 && self.segments.front().is_some_and(due) {
            self.remove_oldest();
        }
    }

    /// Counts entries that the collector refused for good.
    pub(crate) fn count_refused(&mut self) {
        self.dropped += 1;
        self.write_mark();
    }

    pub(crate) fn range(&self) -> Range {
        Range {
            first: self.segments.front().map_or(self.next, |s| s.first),
            next: self.next,
            acked: self.acked,
            dropped: self.dropped,
            bytes: self.segments.iter().map(|s| s.bytes).sum(),
        }
    }

    /// A sixteenth of the bound, so that dropping one loses little; 16 KiB to 1 MiB.
    fn segment_size(&self) -> u64 {
        (self.max / 16).clamp(16 << 10, 1 << 20)
    }

    fn make_room(&mut self, bytes: u64) {
        while !self.segments.is_empty() && self.range().bytes + bytes > self.max {
            if let Some(oldest) = self.segments.front() {
                let lost = (oldest.last + 1).saturating_sub(oldest.first.max(self.acked + 1));
                if lost > 0 {
                    self.dropped += lost;
                    warn!(lost, "the spool is full: the oldest heartbeats are dropped");
                }
            }
            self.remove_oldest();
            self.write_mark();
        }
    }

    fn remove_oldest(&mut self) {
        if let Some(segment) = self.segments.pop_front() {
            if self.segments.is_empty() {
                self.tail = None;
            }
            let path = self.folder.join(file_name(segment.first));
            if let Err(error) = fs::remove_file(&path) {
                warn!(path = %path.display(), %error, "cannot delete a segment of the spool");
            }
        }
    }

    fn new_segment(&mut self, first: u64) -> io::Result<()> {
        let path = self.folder.join(file_name(first));
        // A file of this name can only be an empty one that a failed attempt left.
        let mut file = File::create(&path)?;
        file.write_all(MAGIC)?;
        file.sync_data()?;
        sync_folder(&self.folder)?;
        self.segments.retain(|segment| segment.first != first);
        self.segments.push_back(Segment {
            first,
            last: first - 1,
            bytes: MAGIC.len() as u64,
            acked_at: None,
        });
        self.tail = Some(file);
        Ok(())
    }

    fn load(&mut self) -> io::Result<()> {
        let firsts = segment_files(&self.folder)?;
        let mut skip = 0;
        for (i, first) in firsts.iter().copied().enumerate() {
            let path = self.folder.join(file_name(first));
            let scan = scan(&path, first)?;
            let newest = i + 1 == firsts.len();
            if newest && (scan.clean_bytes < scan.file_bytes || scan.last < first) {
                info!(
                    bytes = scan.file_bytes - scan.clean_bytes,
                    "cut a torn tail from the spool"
                );
                let file = OpenOptions::new().write(true).open(&path)?;
                file.set_len(scan.clean_bytes)?;
                file.sync_data()?;
                skip = SKIP_AFTER_CUT;
            } else if scan.clean_bytes < scan.file_bytes {
                let lost = firsts[i + 1].saturating_sub((scan.last + 1).max(self.acked + 1));
                self.dropped += lost;
                warn!(path = %path.display(), at = scan.clean_bytes, lost, "damage in the spool: the rest of this segment is lost");
            }
            self.next = self.next.max(scan.last + 1);
            if scan.last < first {
                fs::remove_file(&path)?;
            } else {
                self.segments.push_back(Segment {
                    first,
                    last: scan.last,
                    bytes: scan.clean_bytes,
                    acked_at: None,
                });
            }
        }
        self.next += skip;
        Ok(())
    }

    /// The mark is a hint, so that a failure to write it is worth a line and no more.
    fn write_mark(&self) {
        let text = format!("acked {} dropped {}\n", self.acked, self.dropped);
        let (new, old) = (self.folder.join("mark.new"), self.folder.join("mark"));
        if let Err(error) = fs::write(&new, text).and_then(|()| fs::rename(&new, &old)) {
            warn!(%error, "cannot write the spool's mark");
        }
    }
}

struct Scan {
    last: u64,
    clean_bytes: u64,
    file_bytes: u64,
}

/// Reads a segment up to the first record that is not whole, or not in sequence.
fn scan(path: &Path, first: u64) -> io::Result<Scan> {
    let file = File::open(path)?;
    let mut scan = Scan {
        last: first - 1,
        clean_bytes: 0,
        file_bytes: file.metadata()?.len(),
    };
    let mut reader = io::BufReader::new(file);
    let mut magic = [0; MAGIC.len()];
    if reader.read_exact(&mut magic).is_err() || &magic != MAGIC {
        return Ok(scan);
    }
    scan.clean_bytes = MAGIC.len() as u64;
    while let Some(entry) = read_record(&mut reader)? {
        if entry.seq != scan.last + 1 {
            break;
        }
        scan.last = entry.seq;
        scan.clean_bytes += (HEADER + entry.payload.len()) as u64;
    }
    Ok(scan)
}

fn encode(seq: u64, boot: BootId, payload: &[u8]) -> Vec<u8> {
    let mut record = Vec::with_capacity(HEADER + payload.len());
    // At most MAX_HEARTBEAT_BYTES, checked by the caller.
    record.extend_from_slice(
        &u32::try_from(payload.len())
            .unwrap_or(u32::MAX)
            .to_le_bytes(),
    );
    record.extend_from_slice(&[0; 4]);
    record.extend_from_slice(&seq.to_le_bytes());
    record.extend_from_slice(&boot.0);
    record.extend_from_slice(payload);
    let crc = crc32c::crc32c(&record[8..]);
    record[4..8].copy_from_slice(&crc.to_le_bytes());
    record
}

/// The next record; `None` at the end, or where what follows is not a whole record.
fn read_record(reader: &mut impl Read) -> io::Result<Option<Spooled>> {
    let mut header = [0; HEADER];
    if !read_whole(reader, &mut header)? {
        return Ok(None);
    }
    let number = |range: std::ops::Range<usize>| {
        header[range]
            .iter()
            .rev()
            .fold(0u64, |n, byte| n << 8 | u64::from(*byte))
    };
    let length = usize::try_from(number(0..4)).unwrap_or(usize::MAX);
    if length == 0 || length > MAX_HEARTBEAT_BYTES {
        return Ok(None);
    }
    let mut payload = vec![0; length];
    if !read_whole(reader, &mut payload)? {
        return Ok(None);
    }
    let crc = crc32c::crc32c_append(crc32c::crc32c(&header[8..]), &payload);
    if u64::from(crc) != number(4..8) {
        return Ok(None);
    }
    Ok(Some(Spooled {
        seq: number(8..16),
        boot: BootId(std::array::from_fn(|i| header[16 + i])),
        payload,
    }))
}

fn read_whole(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match reader.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

/// The first sequences of all segments, ascending. What else lies in the folder is not ours.
fn segment_files(folder: &Path) -> io::Result<Vec<u64>> {
    let mut firsts = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let first = name
            .to_str()
            .and_then(|name| name.strip_suffix(".seg")?.parse().ok());
        if let Some(first) = first
            && (1..=SEQ_MAX).contains(&first)
            && name == *file_name(first)
            && entry.file_type()?.is_file()
        {
            firsts.push(first);
        }
    }
    firsts.sort_unstable();
    Ok(firsts)
}

fn file_name(first: u64) -> String {
    format!("{first:020}.seg")
}

fn read_or_draw_id(folder: &Path, fresh: bool) -> anyhow::Result<[u8; 16]> {
    let path = folder.join("id");
    match fs::read(&path) {
        Ok(bytes) => {
            let text = std::str::from_utf8(&bytes).ok();
            let id = text.and_then(|text| uuid::Uuid::parse_str(text.trim()).ok());
            match id {
                Some(id) if !fresh => return Ok(id.into_bytes()),
                Some(_) => {}
                // A cut while it was first written. Entries that lie here keep the boot they were made with.
                None => warn!("the spool's id is damaged; a new one is drawn"),
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).context(format!("cannot read {}", path.display())),
    }
    let id = uuid::Uuid::new_v4();
    let mut file =
        File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    writeln!(file, "{}", id.simple())?;
    file.sync_all()?;
    sync_folder(folder)?;
    Ok(id.into_bytes())
}

/// The acknowledged sequence and the count of dropped entries; `None` without a mark that makes sense.
fn read_mark(folder: &Path) -> Option<(u64, u64)> {
    let bytes = fs::read(folder.join("mark")).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let words: Vec<&str> = text.split_whitespace().collect();
    match words[..] {
        ["acked", acked, "dropped", dropped] => {
            let acked = acked.parse().ok().filter(|acked| *acked <= MARK_MAX)?;
            Some((acked, dropped.parse().ok()?))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
