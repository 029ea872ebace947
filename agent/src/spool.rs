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

const MAGIC: &[u8; 8] = b"DNYTSPL1";
const HEADER: usize = 4 + 4 + 8 + 16;
/// After a cut tail the sequence goes on this much higher: further than entries that could have been sent
/// from the lost tail (see `stream::WINDOW`), so that no sequence is used twice.
const SKIP_AFTER_CUT: u64 = 1024;

/// One spooled heartbeat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Spooled {
    pub(crate) seq: u64,
    pub(crate) boot: BootId,
    pub(crate) payload: Vec<u8>,
}

/// What the spool holds, for `Hello` and `status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
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
        let id = read_or_draw_id(folder).with_context(cannot)?;
        let (acked, dropped) = read_mark(folder);
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
        if roll {
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
        self.next = seq + 1;
        Ok(seq)
    }

    /// Up to `most` entries after sequence `after`, oldest first. Entries that turn out to be damaged are
    /// passed over.
    pub(crate) fn read_after(&mut self, after: u64, most: usize) -> io::Result<Vec<Spooled>> {
        let mut out = Vec::new();
        let from = self
            .segments
            .partition_point(|segment| segment.last <= after);
        for segment in self.segments.iter().skip(from) {
            if out.len() >= most {
                break;
            }
            let mut file = File::open(self.folder.join(file_name(segment.first)))?;
            let (cursor_segment, cursor_seq, cursor_offset) = self.cursor;
            let mut offset = MAGIC.len() as u64;
            if cursor_segment == segment.first && cursor_seq <= after {
                offset = cursor_offset;
            }
            file.seek(SeekFrom::Start(offset))?;
            let mut reader = io::BufReader::new(file.take(segment.bytes.saturating_sub(offset)));
            while out.len() < most {
                let Some(entry) = read_record(&mut reader)? else {
                    break;
                };
                offset += (HEADER + entry.payload.len()) as u64;
                if entry.seq > after {
                    self.cursor = (segment.first, entry.seq, offset);
                    out.push(entry);
                }
            }
        }
        Ok(out)
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
        let mut firsts: Vec<u64> = fs::read_dir(&self.folder)?
            .filter_map(|entry| {
                let name = entry.ok()?.file_name();
                name.to_str()?.strip_suffix(".seg")?.parse().ok()
            })
            .collect();
        firsts.sort_unstable();
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

fn file_name(first: u64) -> String {
    format!("{first:020}.seg")
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn read_or_draw_id(folder: &Path) -> anyhow::Result<[u8; 16]> {
    let path = folder.join("id");
    match fs::read_to_string(&path) {
        Ok(text) => {
            if let Ok(id) = uuid::Uuid::parse_str(text.trim()) {
                return Ok(id.into_bytes());
            }
            // A cut while it was first written. Entries that lie here keep the boot they were made with.
            warn!("the spool's id is damaged; a new one is drawn");
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).context(format!("cannot read {}", path.display())),
    }
    let id = uuid::Uuid::new_v4();
    let mut file = File::create(&path)?;
    writeln!(file, "{}", id.simple())?;
    file.sync_all()?;
    sync_folder(folder)?;
    Ok(id.into_bytes())
}

fn read_mark(folder: &Path) -> (u64, u64) {
    let text = fs::read_to_string(folder.join("mark")).unwrap_or_default();
    let words: Vec<&str> = text.split_whitespace().collect();
    match words[..] {
        ["acked", acked, "dropped", dropped] => {
            (acked.parse().unwrap_or(0), dropped.parse().unwrap_or(0))
        }
        _ => (0, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BOOT: BootId = BootId([7; 16]);

    fn open(folder: &Path, max: u64) -> Spool {
        Spool::open(folder, max).expect("opens")
    }

    fn seqs(spool: &mut Spool, after: u64) -> Vec<u64> {
        let read = spool.read_after(after, usize::MAX).expect("reads");
        read.iter().map(|entry| entry.seq).collect()
    }

    fn only_segment(folder: &Path) -> PathBuf {
        let mut found: Vec<PathBuf> = fs::read_dir(folder)
            .expect("lists")
            .map(|entry| entry.expect("entry").path())
            .filter(|path| path.extension().is_some_and(|e| e == "seg"))
            .collect();
        assert_eq!(found.len(), 1);
        found.remove(0)
    }

    #[test]
    fn entries_come_back_in_order_over_restarts() {
        let dir = tempfile::tempdir().expect("tempdir");
        let mut spool = open(dir.path(), 1 << 20);
        let id = spool.id();
        for i in 1..=5u8 {
            assert_eq!(spool.append(BOOT, &[i; 40]).expect("appends"), u64::from(i));
        }
        spool.ack(2, Instant::now());
        drop(spool);
        let mut spool = open(dir.path(), 1 << 20);
        assert_eq!(spool.id(), id);
        assert_eq!(spool.range().acked, 2);
        assert_eq!(spool.append(BOOT, b"six").expect("appends"), 6);
        let read = spool.read_after(2, 3).expect("reads");
        assert_eq!(read.iter().map(|e| e.seq).collect::<Vec<_>>(), [3, 4, 5]);
        assert_eq!(read[0].payload, [3; 40]);
        assert_eq!(read[0].boot, BOOT);
        // Backwards again, as after a reconnect.
        assert_eq!(seqs(&mut spool, 0), [1, 2, 3, 4, 5, 6]);
        assert_eq!(seqs(&mut spool, 5), [6]);
    }

    #[test]
    fn the_oldest_goes_first_and_is_counted() {
        let dir = tempfile::tempdir().expect("tempdir");
        let max = 64 << 10;
        let mut spool = open(dir.path(), max);
        for _ in 0..300 {
            spool.append(BOOT, &[1; 1000]).expect("appends");
        }
        let range = spool.range();
        assert!(range.bytes <= max, "{range:?}");
        let held = seqs(&mut spool, 0);
        assert_eq!(held.len() as u64 + range.dropped, 300);
        assert_eq!(held.last(), Some(&300));
        assert_eq!(held[0], range.first);
        drop(spool);
        assert_eq!(open(dir.path(), max).range(), range);
    }

    #[test]
    fn acknowledged_segments_are_kept_a_while_and_then_deleted() {
        let dir = tempfile::tempdir().expect("tempdir");
        let mut spool = open(dir.path(), 256 << 10);
        for _ in 0..60 {
            spool.append(BOOT, &[1; 1000]).expect("appends");
        }
        let start = Instant::now();
        spool.ack(59, start);
        let before = spool.range();
        spool.ack(59, start + KEEP_ACKED.mul_f64(0.99));
        assert_eq!(spool.range(), before);
        spool.ack(59, start + KEEP_ACKED);
        let after = spool.range();
        assert!(after.first > before.first, "{after:?}");
        assert_eq!(after.dropped, 0);
        assert_eq!(seqs(&mut spool, 59), [60]);
    }

    #[test]
    fn an_acknowledgement_of_what_was_never_written_is_ignored() {
        let dir = tempfile::tempdir().expect("tempdir");
        let mut spool = open(dir.path(), 1 << 20);
        spool.append(BOOT, b"one").expect("appends");
        spool.ack(999, Instant::now());
        assert_eq!(spool.range().acked, 0);
    }

    #[test]
    fn bad_sizes_are_refused_and_counted() {
        let dir = tempfile::tempdir().expect("tempdir");
        let mut spool = open(dir.path(), 1 << 20);
        assert!(spool.append(BOOT, &[]).is_err());
        assert!(
            spool
                .append(BOOT, &vec![0; MAX_HEARTBEAT_BYTES + 1])
                .is_err()
        );
        assert_eq!(spool.range().dropped, 2);
        assert_eq!(spool.append(BOOT, b"fine").expect("appends"), 1);
    }

    #[test]
    fn a_lost_mark_never_reuses_an_acknowledged_sequence() {
        let dir = tempfile::tempdir().expect("tempdir");
        let mut spool = open(dir.path(), 1 << 20);
        for _ in 0..3 {
            spool.append(BOOT, b"x").expect("appends");
        }
        spool.ack(3, Instant::now());
        drop(spool);
        fs::remove_file(only_segment(dir.path())).expect("removes");
        assert_eq!(
            open(dir.path(), 1 << 20)
                .append(BOOT, b"y")
                .expect("appends"),
            4
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// A cut at any byte: what was whole before it is there, nothing else, and appending goes on with a
        /// sequence that was never handed out.
        #[test]
        fn a_cut_at_any_byte_loses_only_the_tail(sizes in prop::collection::vec(1usize..300, 1..12), cut in 0.0f64..1.0) {
            let dir = tempfile::tempdir().expect("tempdir");
            let mut spool = open(dir.path(), 1 << 20);
            let mut ends = vec![MAGIC.len() as u64];
            for size in &sizes {
                spool.append(BOOT, &vec![9; *size]).expect("appends");
                ends.push(spool.range().bytes);
            }
            drop(spool);
            let path = only_segment(dir.path());
            let at = (fs::metadata(&path).expect("stat").len() as f64 * cut).round();
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a file size")]
            let at = at as u64;
            OpenOptions::new().write(true).open(&path).expect("opens").set_len(at).expect("cuts");
            let whole = ends.iter().filter(|end| **end <= at).count().saturating_sub(1) as u64;
            let mut spool = open(dir.path(), 1 << 20);
            prop_assert_eq!(seqs(&mut spool, 0), (1..=whole).collect::<Vec<_>>());
            let next = spool.append(BOOT, b"next").expect("appends");
            let torn = whole == 0 || !ends.contains(&at);
            prop_assert_eq!(next, whole + 1 + if torn { SKIP_AFTER_CUT } else { 0 });
            prop_assert_eq!(seqs(&mut spool, whole), vec![next]);
        }

        /// A flipped bit anywhere: the spool opens, hands out only what was written, and takes more.
        #[test]
        fn a_flipped_bit_is_found(byte in 0usize..2_000, bit in 0u8..8) {
            let dir = tempfile::tempdir().expect("tempdir");
            let mut spool = open(dir.path(), 1 << 20);
            for i in 0..10u8 {
                spool.append(BOOT, &[i; 200]).expect("appends");
            }
            drop(spool);
            let path = only_segment(dir.path());
            let mut bytes = fs::read(&path).expect("reads");
            bytes[byte] ^= 1 << bit;
            fs::write(&path, bytes).expect("writes");
            let mut spool = open(dir.path(), 1 << 20);
            for entry in spool.read_after(0, usize::MAX).expect("reads") {
                let expected = u8::try_from(entry.seq - 1).expect("small");
                prop_assert_eq!(entry.payload, vec![expected; 200]);
            }
            let next = spool.append(BOOT, b"next").expect("appends");
            prop_assert!(next > 10);
        }
    }
}
