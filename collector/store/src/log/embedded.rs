//! The log as plain files of its own: appended, synced once per group, deleted whole.
//!
//! A power cut may tear the last frame of the last segment: what follows the last whole frame there is cut off, as it was never
//! acknowledged. Damage anywhere else loses the groups it hit and no others; it is named, counted and left in place.

use super::ranges::Ranges;
use super::seen::{Seen, SeenBoot, forget_oldest};
use super::segment::{
    self, Found, GroupWriter, Kind, Segment, Session, StoredRecord, StoredSession, frame,
    unpack_group, unpack_head,
};
use super::{AppendError, Appended, Body, Held, Log, Position, Record};
use anyhow::{Context, anyhow, bail};
use denyut_proto::{AgentId, BootId, OfficeCode, UnixMillis};
use prost::Message;
use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tracing::{error, warn};

/// A segment that has grown past this is the last no longer.
const SEGMENT_BYTES: u64 = 64 << 20;
/// The newest records are kept in memory, decoded, for the worker that follows close behind: this many, and this many bytes of heartbeats.
const RECENT_RECORDS: usize = 8_192;
const RECENT_BYTES: usize = 8 << 20;

/// The log in a folder.
#[derive(Debug)]
pub struct EmbeddedLog {
    folder: PathBuf,
    end: AtomicU64,
    writer: Mutex<Writer>,
    seen: Mutex<Seen>,
    recent: Mutex<Recent>,
    reader: Mutex<Option<Cursor>>,
    /// First position → file.
    segments: Mutex<BTreeMap<Position, PathBuf>>,
    segment_bytes: u64,
    /// Damaged places that were met.
    damaged: AtomicU64,
    /// Held while segments are deleted, and while nobody may.
    cutting: Mutex<()>,
}

#[derive(Debug)]
struct Writer {
    /// The last segment; none before the first append.
    file: Option<File>,
    /// Its whole frames.
    length: u64,
}

#[derive(Debug, Default)]
struct Recent {
    records: VecDeque<(Position, Arc<Record>)>,
    bytes: usize,
}

/// Where the last read ended.
#[derive(Debug)]
struct Cursor {
    next: Position,
    segment: Segment,
    /// Records of the group that was being read.
    pending: VecDeque<(Position, Arc<Record>)>,
}

impl EmbeddedLog {
    /// Opens the log in `folder`, making it if needed.
    pub fn open(folder: &Path) -> anyhow::Result<Self> {
        Self::open_sized(folder, SEGMENT_BYTES)
    }

    fn open_sized(folder: &Path, segment_bytes: u64) -> anyhow::Result<Self> {
        let cannot = || format!("cannot open the log {}", folder.display());
        if !folder.exists() {
            fs::create_dir(folder).with_context(cannot)?;
            sync_folder(folder.parent().unwrap_or(Path::new("."))).with_context(cannot)?;
        }
        let log = Self {
            folder: folder.to_owned(),
            end: AtomicU64::new(0),
            writer: Mutex::new(Writer {
                file: None,
                length: 0,
            }),
            seen: Mutex::default(),
            recent: Mutex::default(),
            reader: Mutex::default(),
            segments: Mutex::new(list(folder).with_context(cannot)?),
            segment_bytes,
            damaged: AtomicU64::new(0),
            cutting: Mutex::default(),
        };
        log.recover().with_context(cannot)?;
        Ok(log)
    }

    /// Notes sequences as appended that are in no record here. [`Self::keep_adopted`] makes that durable.
    pub(crate) fn adopt(
        &self,
        office: OfficeCode,
        agent: AgentId,
        boot: BootId,
        ranges: &[u64],
        used: Position,
    ) {
        let mut seen = lock(&self.seen);
        let boots = seen.agents.entry(agent.clone()).or_default();
        let ranges = Ranges::from_flat(ranges);
        if let Some(known) = boots.iter_mut().find(|known| known.of.boot == boot) {
            known.ranges = ranges;
        } else {
            // Session 0: it is opened by its first record here.
            boots.push(SeenBoot {
                session: 0,
                of: Arc::new(Session {
                    office,
                    agent,
                    boot,
                }),
                ranges,
                used,
            });
            forget_oldest(boots);
        }
    }

    /// Begins a segment, whose head says what was adopted.
    pub(crate) fn keep_adopted(&self) -> anyhow::Result<()> {
        let mut writer = lock(&self.writer);
        Ok(self.begin_segment(&mut writer, self.end() + 1, &lock(&self.seen))?)
    }

    /// Bytes on disk.
    pub fn bytes(&self) -> u64 {
        let segments = lock(&self.segments);
        segments
            .values()
            .filter_map(|path| Some(fs::metadata(path).ok()?.len()))
            .sum()
    }

    /// While this is held, nothing is deleted.
    pub(crate) fn pause_cut(&self) -> MutexGuard<'_, ()> {
        lock(&self.cutting)
    }

    /// How many damaged places were met since the start.
    pub fn damaged(&self) -> u64 {
        self.damaged.load(Ordering::Relaxed)
    }

    fn met_damage(&self, path: &Path, at: u64, bytes: u64) {
        self.damaged.fetch_add(1, Ordering::Relaxed);
        error!(segment = %path.display(), at, bytes, "the log is damaged; what stood there is lost");
    }

    /// The files, oldest first, as they are now.
    pub fn files(&self) -> Vec<PathBuf> {
        lock(&self.segments).values().cloned().collect()
    }

    /// Finds the end, cuts a torn tail off, and learns what was appended.
    fn recover(&self) -> anyhow::Result<()> {
        let mut paths: Vec<(Position, PathBuf)> = lock(&self.segments)
            .iter()
            .map(|(first, path)| (*first, path.clone()))
            .collect();
        // A segment without a head was being made: nothing in it was acknowledged.
        if let Some((first, path)) = paths.last() {
            let mut segment = Segment::open(path)?;
            if segment.peek()?.is_none()
                && matches!(segment.next()?, Found::Torn { .. } | Found::End)
            {
                if fs::metadata(path)?.len() == 0 {
                    fs::remove_file(path)?;
                } else {
                    let aside = crate::quarantine(path)?;
                    warn!(aside = %aside.display(), "the log's last segment has no head, so nothing in it was acknowledged; it is set aside");
                }
                lock(&self.segments).remove(first);
                paths.pop();
            }
        }
        for (first, path) in &paths {
            let mut segment = Segment::open(path)?;
            let other =
                |header: &segment::Header| header.kind == Kind::Head && header.first != *first;
            if segment.peek()?.is_some_and(|header| other(&header))
                && let Found::Frame(header, _) = segment.next()?
            {
                bail!(
                    "{} begins with record {}: it was renamed; call it {}",
                    path.display(),
                    header.first,
                    segment_path(&self.folder, header.first).display()
                );
            }
        }
        // The newest segment whose head is whole, and everything after it.
        let mut from = paths.len();
        while from > 0 {
            from -= 1;
            let mut segment = Segment::open(&paths[from].1)?;
            if let Found::Frame(header, _) = segment.next()?
                && header.kind == Kind::Head
            {
                break;
            }
            error!(segment = %segment.path.display(), "the head of a segment of the log is damaged; the one before it is read");
        }
        let mut seen = lock(&self.seen);
        seen.next_session = 1;
        let mut end = 0;
        for (i, (first, path)) in paths.iter().enumerate().skip(from) {
            end = end.max(first - 1);
            let mut segment = Segment::open(path)?;
            loop {
                let at = segment.offset;
                match segment.next()? {
                    Found::End => break,
                    Found::Frame(header, payload) => match header.kind {
                        Kind::Head => seen.restore(&unpack_head(&header, &payload)?)?,
                        Kind::Group => {
                            seen.replay(header.first, &unpack_group(&header, &payload)?.1)?;
                            end = (header.first + u64::from(header.records)).max(end + 1) - 1;
                        }
                    },
                    Found::Torn { bytes } if i + 1 == paths.len() => {
                        if segment.more_than_one_frame(at, bytes)? {
                            self.met_damage(path, at, bytes);
                            let aside = path.with_extension(format!("log.cut-{at}"));
                            fs::copy(path, &aside)?;
                            error!(aside = %aside.display(), "more than the last write is cut off; a copy is kept");
                        } else {
                            warn!(segment = %path.display(), bytes, "the log's last write was not finished; it is cut off");
                        }
                        let file = File::options().write(true).open(path)?;
                        file.set_len(at)?;
                        file.sync_all()?;
                        break;
                    }
                    Found::Damage { bytes } | Found::Torn { bytes } => {
                        self.met_damage(path, at, bytes);
                    }
                }
            }
            if i + 1 == paths.len() {
                let file = File::options().append(true).open(path)?;
                *lock(&self.writer) = Writer {
                    length: file.metadata()?.len(),
                    file: Some(file),
                };
            }
        }
        self.end.store(end, Ordering::Release);
        Ok(())
    }

    /// Makes the segment whose first record will be `first`, durably.
    fn begin_segment(
        &self,
        writer: &mut Writer,
        first: Position,
        seen: &Seen,
    ) -> Result<(), AppendError> {
        let head = frame(Kind::Head, first, 0, &seen.head().encode_to_vec())?;
        let path = segment_path(&self.folder, first);
        let made = (|| {
            let mut file = File::options().append(true).create(true).open(&path)?;
            file.set_len(0)?;
            file.write_all(&head)?;
            file.sync_all()?;
            sync_folder(&self.folder)?;
            Ok(file)
        })();
        match made {
            Ok(file) => {
                *writer = Writer {
                    file: Some(file),
                    length: head.len() as u64,
                };
                lock(&self.segments).insert(first, path);
                Ok(())
            }
            Err(error) => {
                fs::remove_file(&path).ok();
                Err(full_or_broken(error, &path))
            }
        }
    }

    /// Appends a frame and syncs it; afterwards it is there, or nothing of it is.
    fn write(&self, writer: &mut Writer, frame: &[u8]) -> Result<(), AppendError> {
        let Writer {
            file: Some(file),
            length,
        } = writer
        else {
            return Err(AppendError::Broken(anyhow!("the log has no segment")));
        };
        let path = &self.folder;
        if let Err(error) = file.write_all(frame) {
            // Part of it may be there.
            file.set_len(*length)
                .context("the log cannot take back what it could not write")?;
            return Err(full_or_broken(error, path));
        }
        // After a failed sync the system may have dropped what it could not write: nobody can tell what is there.
        file.sync_data()
            .with_context(|| format!("cannot sync the log {}", path.display()))?;
        *length += frame.len() as u64;
        Ok(())
    }

    fn resolve(&self, path: &Path, number: u32) -> Option<Arc<Session>> {
        if let Some(session) = lock(&self.seen).sessions.get(&number) {
            return Some(Arc::clone(session));
        }
        // Forgotten since: the segment's own head knows it, or the record in it that opened it.
        let mut segment = Segment::open(path).ok()?;
        let stored = loop {
            let (header, payload) = match segment.next().ok()? {
                Found::Frame(header, payload) => (header, payload),
                Found::Damage { .. } => continue,
                Found::Torn { .. } | Found::End => return None,
            };
            let mut sessions: Vec<StoredSession> = match header.kind {
                Kind::Head => unpack_head(&header, &payload).ok()?.sessions,
                Kind::Group => {
                    let records = unpack_group(&header, &payload)
                        .map_or_else(|_| Vec::new(), |(_, records)| records);
                    records
                        .into_iter()
                        .filter_map(|record| record.opens)
                        .collect()
                }
            };
            if let Some(at) = sessions.iter().position(|session| session.number == number) {
                break sessions.swap_remove(at);
            }
        };
        let session = Arc::new(Session::try_from(&stored).ok()?);
        lock(&self.seen)
            .sessions
            .insert(number, Arc::clone(&session));
        Some(session)
    }

    /// A cursor whose next record is the first at or after `from`; `None` when there is none.
    fn seek(&self, from: Position) -> anyhow::Result<Option<Cursor>> {
        let path = {
            let segments = lock(&self.segments);
            let at_or_below = segments.range(..=from).next_back();
            at_or_below
                .or_else(|| segments.iter().next())
                .map(|(_, path)| path.clone())
        };
        let Some(path) = path else {
            return Ok(None);
        };
        let mut segment = Segment::open(&path)?;
        // Groups below `from` are stepped over unread.
        loop {
            let Some(header) = segment.peek()? else {
                // The end, or a header that led astray: every frame is looked at.
                segment.offset = 0;
                break;
            };
            if header.kind == Kind::Group
                && header.first.saturating_add(header.records.into()) > from
            {
                break;
            }
            segment.skip(&header);
        }
        Ok(Some(Cursor {
            next: from,
            segment,
            pending: VecDeque::new(),
        }))
    }

    /// Reads the next group into the cursor; `false` at the end.
    fn advance(&self, cursor: &mut Cursor) -> anyhow::Result<bool> {
        loop {
            if cursor.next > self.end() {
                return Ok(false);
            }
            let at = cursor.segment.offset;
            match cursor.segment.next()? {
                Found::Frame(header, payload) => {
                    if header.kind == Kind::Head {
                        continue;
                    }
                    if header.first > self.end() {
                        // Being written: not yet for anybody to see.
                        cursor.segment.offset = at;
                        return Ok(false);
                    }
                    let (arrival, records) = unpack_group(&header, &payload).unwrap_or_else(|error| {
                        error!(segment = %cursor.segment.path.display(), at, %error, "a group of the log cannot be read; it is passed over");
                        (UnixMillis(0), Vec::new())
                    });
                    for (position, stored) in (header.first..).zip(records) {
                        let session = match &stored.opens {
                            Some(opens) => Session::try_from(opens).ok().map(Arc::new),
                            None if stored.session == 0 => None,
                            None => self.resolve(&cursor.segment.path, stored.session),
                        };
                        match segment::record(stored, arrival, session.as_deref()) {
                            Ok(record) if position >= cursor.next => {
                                cursor.pending.push_back((position, Arc::new(record)));
                            }
                            Ok(_) => {}
                            Err(error) => {
                                error!(position, error = %format!("{error:#}"), "a record of the log cannot be read; it is passed over");
                            }
                        }
                    }
                    if !cursor.pending.is_empty() {
                        return Ok(true);
                    }
                }
                Found::Damage { bytes } => {
                    self.met_damage(&cursor.segment.path, at, bytes);
                }
                found @ (Found::Torn { .. } | Found::End) => {
                    let next = {
                        let segments = lock(&self.segments);
                        let mut after = segments
                            .iter()
                            .skip_while(|(_, path)| **path != cursor.segment.path);
                        match after.next() {
                            Some(_) => after.next().map(|(_, path)| path.clone()),
                            // Cut away meanwhile.
                            None => segments
                                .range(cursor.next..)
                                .next()
                                .map(|(_, path)| path.clone()),
                        }
                    };
                    let Some(path) = next else {
                        // More may be written here.
                        cursor.segment.offset = at;
                        return Ok(false);
                    };
                    if let Found::Torn { bytes } = found {
                        self.met_damage(&cursor.segment.path, at, bytes);
                    }
                    cursor.segment = Segment::open(&path)?;
                }
            }
        }
    }
}

impl Log for EmbeddedLog {
    fn append(&self, arrival: UnixMillis, bodies: Vec<Body>) -> Result<Vec<Appended>, AppendError> {
        let mut writer = lock(&self.writer);
        let mut seen = lock(&self.seen);
        let (first, opened) = (self.end() + 1, seen.next_session);
        let mut position = first;
        let mut out = Vec::with_capacity(bodies.len());
        let bytes = |body: &Body| match body {
            Body::Tick => 1,
            Body::Dismissed(agent) => agent.as_str().len() + 8,
            Body::Heartbeat(entry) => entry.heartbeat.len() + 24,
        };
        let mut group = GroupWriter::new(arrival, bodies.iter().map(bytes).sum::<usize>() + 16);
        let mut new = Vec::with_capacity(bodies.len());
        for body in bodies {
            let record = match &body {
                Body::Tick => StoredRecord::default(),
                Body::Dismissed(agent) => StoredRecord {
                    opens: Some(StoredSession {
                        agent: agent.to_string(),
                        ..StoredSession::default()
                    }),
                    ..StoredRecord::default()
                },
                Body::Heartbeat(entry) => {
                    let Some((session, opens)) = seen.insert(entry, position) else {
                        out.push(Appended::Duplicate);
                        continue;
                    };
                    StoredRecord {
                        session,
                        seq: entry.seq,
                        shift_ms: entry.shift_ms,
                        heartbeat: entry.heartbeat.clone(),
                        opens,
                    }
                }
            };
            group.add(&record);
            new.push((position, Arc::new(Record { arrival, body })));
            out.push(Appended::New);
            position += 1;
        }
        if new.is_empty() {
            return Ok(out);
        }
        let written = group
            .frame(first)
            .map_err(AppendError::Broken)
            .and_then(|frame| {
                if writer.file.is_none() || writer.length > self.segment_bytes {
                    // Its head says what was appended before it: this group among it would be said too early.
                    seen.each(&new, |boot, seq| boot.ranges.remove(seq));
                    let begun = self.begin_segment(&mut writer, first, &seen);
                    seen.each(&new, |boot, seq| {
                        boot.ranges.insert(seq);
                    });
                    begun?;
                }
                // Readers may see the frame before it is synced, but not before `end` says so.
                self.write(&mut writer, &frame)
            });
        if let Err(error) = written {
            seen.take_back(&new, opened);
            return Err(error);
        }
        drop(seen);
        lock(&self.recent).push(new);
        self.end.store(position - 1, Ordering::Release);
        Ok(out)
    }

    fn read(&self, from: Position, most: usize) -> anyhow::Result<Vec<(Position, Arc<Record>)>> {
        let end = self.end();
        if let Some(records) = lock(&self.recent).from(from, most, end) {
            return Ok(records);
        }
        let mut reader = lock(&self.reader);
        let mut cursor = match reader.take() {
            Some(cursor) if cursor.next == from => cursor,
            _ => match self.seek(from)? {
                Some(cursor) => cursor,
                None => return Ok(Vec::new()),
            },
        };
        let mut records = Vec::new();
        while records.len() < most {
            if let Some((position, record)) = cursor.pending.pop_front() {
                cursor.next = position + 1;
                records.push((position, record));
            } else if !self.advance(&mut cursor)? {
                break;
            }
        }
        *reader = Some(cursor);
        Ok(records)
    }

    fn begin(&self) -> Position {
        lock(&self.segments)
            .keys()
            .next()
            .copied()
            .unwrap_or(self.end() + 1)
    }

    fn end(&self) -> Position {
        self.end.load(Ordering::Acquire)
    }

    fn held(&self, agent: &AgentId, boot: BootId) -> Held {
        let seen = lock(&self.seen);
        let boots = seen.agents.get(agent);
        let of_boot = boots.and_then(|boots| boots.iter().find(|b| b.of.boot == boot));
        Held {
            any: boots.is_some(),
            of_boot: of_boot.and_then(|boot| boot.ranges.highest()),
        }
    }

    fn cut(&self, below: Position) -> anyhow::Result<()> {
        // Whoever holds it is done before the next checkpoint asks again, or the one after.
        let Ok(_cutting) = self.cutting.try_lock() else {
            return Ok(());
        };
        let mut segments = lock(&self.segments);
        loop {
            let mut firsts = segments.iter();
            let (Some((first, path)), Some((next, _))) = (firsts.next(), firsts.next()) else {
                return Ok(());
            };
            if *next > below {
                return Ok(());
            }
            fs::remove_file(path)
                .with_context(|| format!("cannot cut the log: {}", path.display()))?;
            let first = *first;
            segments.remove(&first);
        }
    }

    fn skip_past(&self, position: Position) -> anyhow::Result<()> {
        if position > self.end() {
            let mut writer = lock(&self.writer);
            self.begin_segment(&mut writer, position + 1, &lock(&self.seen))?;
            self.end.store(position, Ordering::Release);
        }
        Ok(())
    }
}

impl Recent {
    fn push(&mut self, new: Vec<(Position, Arc<Record>)>) {
        let bytes = |record: &Record| match &record.body {
            Body::Heartbeat(entry) => entry.heartbeat.len(),
            Body::Tick | Body::Dismissed(_) => 0,
        };
        for (position, record) in new {
            self.bytes += bytes(&record);
            self.records.push_back((position, record));
        }
        while self.records.len() > RECENT_RECORDS || self.bytes > RECENT_BYTES {
            let Some((_, record)) = self.records.pop_front() else {
                return;
            };
            self.bytes -= bytes(&record);
        }
    }

    /// `None` if what is asked for is not all here.
    fn from(
        &self,
        from: Position,
        most: usize,
        end: Position,
    ) -> Option<Vec<(Position, Arc<Record>)>> {
        if from > end {
            return Some(Vec::new());
        }
        let (first, _) = self.records.front()?;
        let skip = usize::try_from(from.checked_sub(*first)?).ok()?;
        let until = |(position, _): &&(Position, Arc<Record>)| *position <= end;
        let records: Vec<_> = self
            .records
            .iter()
            .skip(skip)
            .take(most)
            .take_while(until)
            .cloned()
            .collect();
        (records.first()?.0 == from).then_some(records)
    }
}

fn full_or_broken(error: std::io::Error, path: &Path) -> AppendError {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    if matches!(error.kind(), StorageFull | QuotaExceeded) {
        AppendError::Full(format!("{}: {error}", path.display()))
    } else {
        AppendError::Broken(
            anyhow!(error).context(format!("cannot write the log {}", path.display())),
        )
    }
}

fn segment_path(folder: &Path, first: Position) -> PathBuf {
    folder.join(format!("{first:016x}.log"))
}

/// The segments in a folder by their first position.
pub(super) fn list(folder: &Path) -> anyhow::Result<BTreeMap<Position, PathBuf>> {
    let mut segments = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let named = path.file_stem().and_then(|stem| {
            let first = u64::from_str_radix(stem.to_str()?, 16).ok()?;
            // Only as it is written.
            (path == segment_path(folder, first)).then_some(first)
        });
        if let Some(first) = named.filter(|first| *first > 0)
            && path.is_file()
        {
            segments.insert(first, path);
        }
    }
    Ok(segments)
}

pub(crate) fn sync_folder(folder: &Path) -> std::io::Result<()> {
    File::open(folder)?.sync_all()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
