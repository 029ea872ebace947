//! Generations: files of sealed chunks, one being written at a time.
//!
//! When its day is over, all of a generation is put into blocks and its file is removed. The log keeps what it was made of for as long as it
//! lives: a damaged one is set aside and made anew.
//!
//! (sled held the chunks at first. It wrote each of them four to five times, which was most of what the store wrote, and took its
//! file's damage for a torn tail in silence.)
//!
//! # Form, version 1
//!
//! ```text
//! generation = frame*              recent/<number>-<first log position, hex>-<day it was begun, since 1970>.chunks
//! frame      = magic "dnG1" · crc32c u32 (of all that follows, but the values) · kind u8 · mark u64 · entries u32
//!              · (hour u32 · cluster u32 · length u32)* · values
//! ```
//!
//! Integers are little-endian. An entry's value is chunks of one cluster's links, each with a checksum of its own, whose first sample lies in that hour
//! since 1970; none spans midnight UTC. A *cluster* is [`CLUSTER`] links of neighbouring numbers, most often one agent's, sealed
//! together. A frame of kind 1 is one round of sealing; one of kind 2 is a *mark*, written before each sync: everything that the log told below its
//! position is in this generation or an older one.
//!
//! What follows the mark that the ledger asks for may be torn and is cut off: the log tells it again. The directory of all entries is kept in memory, about 50
//! bytes for a thousand samples.

use super::codec;
use super::column::Effort;
use super::rollup::DAY_MS;
use crate::log::{Position, sync_folder};
use anyhow::{Context, ensure};
use denyut_proto::Sample;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tracing::error;

/// Links that are sealed together.
pub(super) const CLUSTER: u32 = 8;

const MAGIC: [u8; 4] = *b"dnG1";
const HEADER: usize = 21;
const ENTRY: usize = 12;
const CHUNKS: u8 = 1;
const MARK: u8 = 2;
const HOUR_MS: i64 = 3_600_000;
/// Samples of one chunk here, at most.
const PIECE: usize = 256;

/// What it holds cannot be relied on.
#[derive(Debug, thiserror::Error)]
#[error("the generation is damaged")]
pub(super) struct Damaged;

/// One file.
#[derive(Debug)]
pub(super) struct Generation {
    pub(super) number: u64,
    /// Nothing in it came from records below this.
    pub(super) from: Position,
    /// The day (since 1970) on which it was begun.
    pub(super) day: i64,
    pub(super) path: PathBuf,
    file: File,
    inner: Mutex<Inner>,
    health: AtomicU8,
}

/// No damage was found in it.
const SOUND: u8 = 0;
/// Some was, and what is lost must be told again.
const HURT: u8 = 1;
/// It was.
const MENDED: u8 = 2;

#[derive(Debug)]
struct Inner {
    /// Bytes of whole frames.
    length: u64,
    /// (hour, cluster) → where its values are.
    directory: BTreeMap<(u32, u32), Vec<(u64, u32)>>,
    mark: Position,
}

impl Generation {
    pub(super) fn path_of(folder: &Path, number: u64, from: Position, day: i64) -> PathBuf {
        folder.join(format!("{number}-{from:016x}-{day}.chunks"))
    }

    /// Number, first position and day in a file's name.
    pub(super) fn parse(name: &str) -> Option<(u64, Position, i64)> {
        let mut parts = name.strip_suffix(".chunks")?.splitn(3, '-');
        let (number, from, day) = (parts.next()?, parts.next()?, parts.next()?);
        let number: u64 = number.parse().ok()?;
        let from = u64::from_str_radix(from, 16).ok()?;
        let day = day.parse().ok()?;
        // Only as it is written, and so that there is a next one.
        let written = Self::path_of(Path::new(""), number, from, day);
        (written.to_str() == Some(name) && number < u64::MAX).then_some((number, from, day))
    }

    /// Makes a new one, durably.
    pub(super) fn create(
        folder: &Path,
        number: u64,
        from: Position,
        day: i64,
    ) -> anyhow::Result<Self> {
        let path = Self::path_of(folder, number, from, day);
        let cannot = || format!("cannot make {}", path.display());
        let file = File::options()
            .read(true)
            .append(true)
            .create_new(true)
            .open(&path)
            .with_context(cannot)?;
        let synced = file.sync_all().and_then(|()| sync_folder(folder));
        if let Err(error) = synced {
            // So that the next try finds its name free.
            fs::remove_file(&path).ok();
            return Err(error).with_context(cannot);
        }
        let inner = Inner {
            length: 0,
            directory: BTreeMap::new(),
            mark: from,
        };
        Ok(Self::of((number, from, day), path, file, inner))
    }

    /// Opens one that is there, as it is up to its first mark at `needed` or above: what follows is told again. Fails with [`Damaged`] if it is.
    pub(super) fn open(
        folder: &Path,
        number: u64,
        from: Position,
        day: i64,
        needed: Position,
    ) -> anyhow::Result<Self> {
        let path = Self::path_of(folder, number, from, day);
        let file = File::options()
            .read(true)
            .append(true)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        let (inner, rest) =
            scan(&file, from, needed).with_context(|| format!("{}", path.display()))?;
        if rest > 0 {
            file.set_len(inner.length)?;
            file.sync_all()?;
        }
        Ok(Self::of((number, from, day), path, file, inner))
    }

    /// Opens one for reading only, as it is up to its last mark: somebody else may be writing it.
    pub(super) fn look(
        folder: &Path,
        number: u64,
        from: Position,
        day: i64,
    ) -> anyhow::Result<Self> {
        let path = Self::path_of(folder, number, from, day);
        let file = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
        let (inner, _) = scan(&file, from, Position::MAX)?;
        Ok(Self::of((number, from, day), path, file, inner))
    }

    fn of(
        (number, from, day): (u64, Position, i64),
        path: PathBuf,
        file: File,
        inner: Inner,
    ) -> Self {
        Self {
            number,
            from,
            day,
            path,
            file,
            inner: Mutex::new(inner),
            health: AtomicU8::new(SOUND),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds what was sealed in one round, ascending by link: one write.
    pub(super) fn add(&self, sealed: &[(u32, &[Sample])]) -> anyhow::Result<()> {
        let mut entries: Vec<(u32, u32, Vec<u8>)> = Vec::new();
        for cluster in sealed.chunk_by(|a, b| a.0 / CLUSTER == b.0 / CLUSTER) {
            let mut values: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
            for (link, samples) in cluster {
                for day in
                    samples.chunk_by(|a, b| a.at.0.div_euclid(DAY_MS) == b.at.0.div_euclid(DAY_MS))
                {
                    for piece in day.chunks(PIECE) {
                        let hour = u32::try_from(piece[0].at.0 / HOUR_MS)
                            .context("a time too far ahead")?;
                        let value = values
                            .entry(hour)
                            .or_insert_with(|| Vec::with_capacity(4 * piece.len() * cluster.len()));
                        codec::encode(*link, piece, Effort::Fast, value);
                    }
                }
            }
            entries.extend(
                values
                    .into_iter()
                    .map(|(hour, value)| (hour, cluster[0].0 / CLUSTER, value)),
            );
        }
        if entries.is_empty() {
            return Ok(());
        }
        let mut inner = self.inner();
        let start = inner.length;
        let mut frame = header(CHUNKS, inner.mark, entries.len());
        for (hour, cluster, value) in &entries {
            frame.extend_from_slice(&hour.to_le_bytes());
            frame.extend_from_slice(&cluster.to_le_bytes());
            frame.extend_from_slice(&u32::try_from(value.len())?.to_le_bytes());
        }
        checksum(&mut frame);
        for (_, _, value) in &entries {
            frame.extend_from_slice(value);
        }
        self.write(&mut inner, &frame)?;
        let mut offset = start + (HEADER + ENTRY * entries.len()) as u64;
        for (hour, cluster, value) in &entries {
            let length = u32::try_from(value.len())?;
            inner
                .directory
                .entry((*hour, *cluster))
                .or_default()
                .push((offset, length));
            offset += u64::from(length);
        }
        Ok(())
    }

    /// Appends a frame; afterwards it is there, or nothing of it is.
    fn write(&self, inner: &mut Inner, frame: &[u8]) -> anyhow::Result<()> {
        if let Err(error) = (&self.file).write_all(frame) {
            self.file.set_len(inner.length).with_context(|| {
                format!(
                    "cannot take back what was half written to {}",
                    self.path.display()
                )
            })?;
            return Err(error).with_context(|| format!("cannot write {}", self.path.display()));
        }
        inner.length += frame.len() as u64;
        Ok(())
    }

    /// Returns when everything added before the call would survive a power cut. Everything from records below `mark` is in
    /// this generation or an older one.
    pub(super) fn sync(&self, mark: Position) -> anyhow::Result<()> {
        let mut inner = self.inner();
        // Another thread may have come further.
        let mark = mark.max(inner.mark);
        inner.mark = mark;
        let mut frame = header(MARK, mark, 0);
        checksum(&mut frame);
        self.write(&mut inner, &frame)?;
        drop(inner);
        self.file
            .sync_data()
            .with_context(|| format!("cannot sync {}", self.path.display()))
    }

    /// The last mark.
    pub(super) fn mark(&self) -> Position {
        self.inner().mark
    }

    /// Days (since 1970) of which there is anything, ascending.
    pub(super) fn days(&self) -> Vec<i64> {
        let inner = self.inner();
        let mut days = Vec::new();
        let mut from = 0;
        while let Some(((hour, _), _)) = inner.directory.range((from, 0)..).next() {
            days.push(i64::from(hour / 24));
            let Some(next) = (hour / 24 + 1).checked_mul(24) else {
                break;
            };
            from = next;
        }
        days
    }

    /// Appends one link's samples of a day to `out`, in no order; what is damaged is named and left out.
    pub(super) fn read(&self, link: u32, day: i64, out: &mut Vec<Sample>) -> anyhow::Result<()> {
        let Some(first) = first_hour(day) else {
            return Ok(());
        };
        let mut places = Vec::new();
        {
            let inner = self.inner();
            for hour in first..first + 24 {
                places.extend(
                    inner
                        .directory
                        .get(&(hour, link / CLUSTER))
                        .into_iter()
                        .flatten()
                        .copied(),
                );
            }
        }
        for (offset, length) in places {
            self.decode((offset, length), link, std::slice::from_mut(out))?;
        }
        Ok(())
    }

    fn value(&self, offset: u64, length: u32) -> anyhow::Result<Vec<u8>> {
        let mut value = vec![0; length as usize];
        self.file
            .read_exact_at(&mut value, offset)
            .with_context(|| format!("cannot read {}", self.path.display()))?;
        Ok(value)
    }

    /// Every link's samples of a day, by link; each link's are in no order.
    pub(super) fn each_link(
        &self,
        day: i64,
        visit: &mut dyn FnMut(u32, &mut Vec<Sample>) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let Some(first) = first_hour(day) else {
            return Ok(());
        };
        let mut clusters: BTreeMap<u32, Vec<(u64, u32)>> = BTreeMap::new();
        for ((_, cluster), places) in self.inner().directory.range((first, 0)..(first + 24, 0)) {
            clusters.entry(*cluster).or_default().extend(places);
        }
        let mut links: Vec<Vec<Sample>> = vec![Vec::new(); CLUSTER as usize];
        for (cluster, places) in clusters {
            links.iter_mut().for_each(Vec::clear);
            for (offset, length) in places {
                self.decode((offset, length), cluster * CLUSTER, &mut links)?;
            }
            for (link, samples) in (cluster * CLUSTER..).zip(&mut links) {
                if !samples.is_empty() {
                    visit(link, samples)?;
                }
            }
        }
        Ok(())
    }

    /// Appends the samples of the chunks in a value to `links`, the first of which is link `first`; others are passed over. What is damaged is
    /// left out.
    fn decode(
        &self,
        (offset, length): (u64, u32),
        first: u32,
        links: &mut [Vec<Sample>],
    ) -> anyhow::Result<()> {
        let value = self.value(offset, length)?;
        let mut rest = &value[..];
        while !rest.is_empty() {
            let glance = match codec::glance(rest) {
                Ok(glance) => glance,
                Err(error) => {
                    self.hurt(offset, &error);
                    return Ok(());
                }
            };
            let at = glance.link.checked_sub(first);
            if let Some(out) = at.and_then(|at| links.get_mut(at as usize))
                && let Err(error) = codec::decode(rest, out)
            {
                self.hurt(offset, &error);
            }
            rest = &rest[glance.length..];
        }
        Ok(())
    }

    /// Named once: `verify` finds the rest.
    fn hurt(&self, offset: u64, error: &anyhow::Error) {
        let health = &self.health;
        if health
            .compare_exchange(SOUND, HURT, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
        {
            error!(path = %self.path.display(), offset, %error, "a generation is damaged; what it lost will be told again from the log");
        }
    }

    /// Whether damage was found in it.
    pub(super) fn was_hurt(&self) -> bool {
        self.health.load(Ordering::Relaxed) != SOUND
    }

    /// Whether damage was found in it and the log did not tell again what it held.
    pub(super) fn is_hurt(&self) -> bool {
        self.health.load(Ordering::Relaxed) == HURT
    }

    /// The log told again everything that it held.
    pub(super) fn mended(&self) {
        self.health.store(MENDED, Ordering::Relaxed);
    }

    /// Checks every chunk by its checksum, and remembers whether it is hurt.
    pub(super) fn check_sums(&self) -> anyhow::Result<()> {
        let places: Vec<(u64, u32)> = {
            let inner = self.inner();
            inner.directory.values().flatten().copied().collect()
        };
        for (offset, length) in places {
            let value = self.value(offset, length)?;
            let mut rest = &value[..];
            while !rest.is_empty() {
                match codec::peek(rest) {
                    Ok(peek) => rest = &rest[peek.length..],
                    Err(error) => {
                        self.hurt(offset, &error);
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    /// Reads and checks every chunk of the file; returns how many samples there are, and what is wrong.
    pub(super) fn check(&self) -> anyhow::Result<(u64, Vec<String>)> {
        let (mut count, mut wrong) = (0, Vec::new());
        let directory = self.inner().directory.clone();
        let mut samples = Vec::new();
        for ((_, cluster), places) in directory {
            for (offset, length) in places {
                let value = self.value(offset, length)?;
                let mut rest = &value[..];
                while !rest.is_empty() {
                    samples.clear();
                    match codec::decode(rest, &mut samples) {
                        Ok(peek) if peek.link / CLUSTER == cluster => rest = &rest[peek.length..],
                        Ok(peek) => {
                            wrong.push(format!(
                                "{} at byte {offset}: a chunk of link {} where it does not belong",
                                self.path.display(),
                                peek.link
                            ));
                            break;
                        }
                        Err(error) => {
                            wrong.push(format!(
                                "{} at byte {offset}: {error:#}",
                                self.path.display()
                            ));
                            break;
                        }
                    }
                    count += samples.len() as u64;
                }
            }
        }
        Ok((count, wrong))
    }

    /// The highest cluster of which there is anything.
    pub(super) fn last_cluster(&self) -> Option<u32> {
        let inner = self.inner();
        inner.directory.keys().map(|(_, cluster)| *cluster).max()
    }

    /// Bytes on disk.
    pub(super) fn bytes(&self) -> u64 {
        self.inner().length
    }

    /// Removes the file; who reads it goes on reading.
    pub(super) fn remove(&self) -> anyhow::Result<()> {
        fs::remove_file(&self.path)
            .with_context(|| format!("cannot remove {}", self.path.display()))
    }
}

fn first_hour(day: i64) -> Option<u32> {
    u32::try_from(day.checked_mul(24)?)
        .ok()
        .filter(|hour| *hour < u32::MAX - 24)
}

/// A frame's header, its checksum not yet written.
fn header(kind: u8, mark: Position, entries: usize) -> Vec<u8> {
    let mut frame = Vec::with_capacity(HEADER + ENTRY * entries);
    frame.extend_from_slice(&MAGIC);
    frame.extend_from_slice(&[0; 4]);
    frame.push(kind);
    frame.extend_from_slice(&mark.to_le_bytes());
    frame.extend_from_slice(&u32::try_from(entries).unwrap_or(u32::MAX).to_le_bytes());
    frame
}

fn checksum(frame: &mut [u8]) {
    let crc = crc32c::crc32c(&frame[8..]);
    frame[4..8].copy_from_slice(&crc.to_le_bytes());
}

/// Reads the directories of a file up to its first mark at `needed` or above, or its last; also returns the bytes that follow it.
fn scan(file: &File, from: Position, needed: Position) -> anyhow::Result<(Inner, u64)> {
    let bytes = file.metadata()?.len();
    let mut marked = Inner {
        length: 0,
        directory: BTreeMap::new(),
        mark: from,
    };
    let mut new: Vec<((u32, u32), (u64, u32))> = Vec::new();
    let mut at = 0;
    while let Some((kind, mark, entries, next)) = frame_at(file, at, bytes)? {
        if kind == MARK {
            for (key, place) in new.drain(..) {
                marked.directory.entry(key).or_default().push(place);
            }
            marked.mark = mark;
            marked.length = next;
            if mark >= needed {
                // A disk that lost power in the middle of a later sync may have kept any part of it.
                return Ok((marked, bytes - next));
            }
        } else {
            new.extend(entries);
        }
        at = next;
    }
    // What a crash leaves after the last mark holds no other mark: a mark beyond what could be read means damage before it.
    let mut rest = vec![0; usize::try_from(bytes - at)?];
    file.read_exact_at(&mut rest, at)?;
    for i in 1..rest.len().saturating_sub(HEADER - 1) {
        if rest[i..i + 4] == MAGIC
            && rest[i + 8] == MARK
            && matches!(frame_at(file, at + i as u64, bytes), Ok(Some(_)))
        {
            return Err(anyhow::anyhow!("a frame at byte {at} cannot be read").context(Damaged));
        }
    }
    let unmarked = bytes - marked.length;
    Ok((marked, unmarked))
}

type Frame = (u8, Position, Vec<((u32, u32), (u64, u32))>, u64);

/// The frame at a place, if there is a whole one: kind, mark, entries and where the next begins.
fn frame_at(file: &File, at: u64, bytes: u64) -> anyhow::Result<Option<Frame>> {
    let mut frame = vec![0; HEADER];
    if at + HEADER as u64 > bytes {
        return Ok(None);
    }
    file.read_exact_at(&mut frame, at)?;
    let word = |frame: &[u8], at: usize| {
        u32::from_le_bytes([frame[at], frame[at + 1], frame[at + 2], frame[at + 3]])
    };
    let count = word(&frame, 17) as usize;
    let directory = (HEADER + ENTRY * count) as u64;
    if frame[..4] != MAGIC || at + directory > bytes {
        return Ok(None);
    }
    frame.resize(HEADER + ENTRY * count, 0);
    file.read_exact_at(&mut frame[HEADER..], at + HEADER as u64)?;
    if crc32c::crc32c(&frame[8..]) != word(&frame, 4) {
        return Ok(None);
    }
    let mut offset = at + directory;
    let mut entries = Vec::with_capacity(count);
    for entry in frame[HEADER..].chunks_exact(ENTRY) {
        let length = word(entry, 8);
        entries.push(((word(entry, 0), word(entry, 4)), (offset, length)));
        offset += u64::from(length);
    }
    if offset > bytes {
        return Ok(None);
    }
    ensure!(
        matches!(frame[8], CHUNKS | MARK),
        "a frame of the unknown kind {}",
        frame[8]
    );
    let mark = u64::from(word(&frame, 9)) | u64::from(word(&frame, 13)) << 32;
    Ok(Some((frame[8], mark, entries, offset)))
}
