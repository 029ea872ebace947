//! The history in a data folder: open buffers, generations and blocks, and what is read of all three.

use super::catalog::{Catalog, DayBlock};
use super::column::Reader;
use super::generation::{CLUSTER, Generation};
use super::ledger::Ledger;
use super::links::Links;
use super::open::Open;
use super::opening::enter;
use super::rollup::{self, DAY_MS, Level};
use super::{History, LinkId, Row, RowsError, codec};
use crate::engine::Engine;
use crate::log::Position;
use denyut_proto::{AgentId, Sample, TargetSamples, UnixMillis};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::time::Instant;
use tracing::error;

/// Clusters sealed in one round.
const SEAL_ROUND: usize = 128;

/// The history in a folder.
#[derive(Debug)]
pub struct EmbeddedHistory {
    pub(super) folder: PathBuf,
    /// Holds the links' numbers, and the ledger.
    pub(super) engine: Arc<Engine>,
    pub(super) ledger: Ledger,
    pub(super) links: RwLock<Links>,
    pub(super) open: Mutex<Open>,
    /// Held while blocks are made and deleted.
    pub(super) keeping_up: Mutex<()>,
    /// Held while chunks go into the active generation, and while that is replaced.
    pub(super) sealing: Mutex<()>,
    pub(super) catalog: RwLock<Arc<Catalog>>,
    /// Of the next block.
    pub(super) next_id: AtomicU64,
    /// The history is being closed: long work stops at the next link.
    pub(super) stopped: AtomicBool,
    /// How often an entry of a block could not be read, and damaged generations that are in blocks by now.
    pub(super) damaged: AtomicU64,
}

/// An opened history.
#[derive(Debug)]
pub struct Opened {
    /// The history.
    pub history: EmbeddedHistory,
    /// Records of the log from here on must be appended again, before anything else is.
    pub replay_from: Position,
}

impl EmbeddedHistory {
    /// The lowest position of the log that a rebuild may need: what lies below it is in blocks.
    pub fn keep_log_from(&self) -> Position {
        let catalog = self.catalog();
        let oldest = catalog
            .generations()
            .map(|generation| generation.from)
            .min();
        oldest.unwrap_or(0).min(lock(&self.open).first())
    }

    /// Bytes on disk, without the log and the links.
    pub fn bytes(&self) -> u64 {
        let catalog = self.catalog();
        let blocks: u64 = catalog
            .levels
            .values()
            .flatten()
            .map(|block| block.block.bytes)
            .sum();
        let generations: u64 = catalog
            .generations()
            .map(|generation| generation.bytes())
            .sum();
        blocks + generations
    }

    /// Bytes of the blocks of each level, and of the generations.
    pub fn bytes_by_level(&self) -> (BTreeMap<Level, u64>, u64) {
        let catalog = self.catalog();
        let of = |blocks: &Vec<Arc<DayBlock>>| blocks.iter().map(|block| block.block.bytes).sum();
        let levels = catalog
            .levels
            .iter()
            .map(|(level, blocks)| (*level, of(blocks)));
        (
            levels.collect(),
            catalog
                .generations()
                .map(|generation| generation.bytes())
                .sum(),
        )
    }

    /// Samples in the blocks of samples, counted when they were made.
    pub fn samples_in_blocks(&self) -> u64 {
        let catalog = self.catalog();
        catalog
            .blocks(Level::Raw)
            .iter()
            .map(|block| block.block.footer.items)
            .sum()
    }

    /// While this is held, no block is made or deleted, and the log is kept from [`Self::keep_log_from`] on.
    pub(crate) fn pause_upkeep(&self) -> MutexGuard<'_, ()> {
        lock(&self.keeping_up)
    }

    /// Every block.
    pub(crate) fn block_files(&self) -> Vec<(Level, PathBuf)> {
        let catalog = self.catalog();
        let levels = catalog.levels.iter();
        levels
            .flat_map(|(level, blocks)| {
                blocks
                    .iter()
                    .map(|block| (*level, block.block.path.clone()))
            })
            .collect()
    }

    /// How often something damaged was met since the start: an entry of a block at each read, a generation once.
    pub fn damaged(&self) -> u64 {
        let catalog = self.catalog();
        let generations = catalog.generations();
        let hurt = generations.filter(|generation| generation.was_hurt());
        self.damaged.load(Ordering::Relaxed) + hurt.count() as u64
    }

    /// From where on the log must be told again, because damage was found in what it was told into, and the numbers of those generations.
    pub(crate) fn hurt(&self) -> Option<(Position, Vec<u64>)> {
        let catalog = self.catalog();
        let hurt: Vec<_> = catalog.generations().filter(|one| one.is_hurt()).collect();
        let from = hurt.iter().map(|generation| generation.from).min()?;
        Some((
            from,
            hurt.iter().map(|generation| generation.number).collect(),
        ))
    }

    /// The log is about to be told again from `from` on: until [`Self::told_again`], nothing above that is whole, and a crash begins there.
    pub(crate) fn tell_again(&self, from: Position, now: UnixMillis) -> anyhow::Result<()> {
        let _keeping_up = lock(&self.keeping_up);
        lock(&self.open).telling_from = Some(from);
        // Into a generation that says from where on it may have come. (One that was begun for this is used again when the last try came to nothing.)
        if self.catalog().active.from > from {
            self.rotate(now)?;
        }
        Ok(())
    }

    /// It was: what these generations lost is in others, durably.
    pub(crate) fn told_again(&self, numbers: &[u64]) -> anyhow::Result<()> {
        self.seal_all()?;
        lock(&self.open).telling_from = None;
        self.checkpoint()?;
        self.engine.sync()?;
        let catalog = self.catalog();
        let mended = catalog
            .generations()
            .filter(|one| numbers.contains(&one.number));
        mended.for_each(|generation| generation.mended());
        Ok(())
    }

    /// How many samples came too late: their day is not kept any more.
    pub fn too_late(&self) -> u64 {
        lock(&self.open).too_late
    }

    /// Takes nothing of this day or an earlier one from now on; `false` while something of it waits to be put into blocks. Only then may
    /// its samples be deleted: what comes later would make the day's rows anew from itself alone.
    pub(super) fn let_go(&self, day: i64) -> anyhow::Result<bool> {
        let from = UnixMillis((day + 1).saturating_mul(DAY_MS));
        let kept_from = {
            let mut open = lock(&self.open);
            open.kept_from = open.kept_from.max(from);
            if open.holds_before(from) {
                return Ok(false);
            }
            open.kept_from
        };
        // In this order: what is open goes into a generation.
        let catalog = self.catalog();
        let waits = |generation: &Arc<Generation>| {
            let days = generation.days();
            days.first().is_some_and(|first| *first <= day)
        };
        if catalog.generations().any(waits) {
            return Ok(false);
        }
        self.ledger.set_kept_from(kept_from)?;
        Ok(true)
    }

    /// How many links there are.
    pub fn link_count(&self) -> usize {
        self.links().len()
    }

    pub(super) fn catalog(&self) -> Arc<Catalog> {
        Arc::clone(&self.catalog.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn change_catalog(&self, change: impl FnOnce(&mut Catalog)) {
        let mut catalog = self.catalog.write().unwrap_or_else(PoisonError::into_inner);
        let mut new = (**catalog).clone();
        change(&mut new);
        *catalog = Arc::new(new);
    }

    pub(super) fn links(&self) -> RwLockReadGuard<'_, Links> {
        self.links.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts what is open of these clusters of links into the active generation.
    fn seal(&self, mut clusters: Vec<u32>) -> anyhow::Result<()> {
        clusters.sort_unstable();
        clusters.dedup();
        for round in clusters.chunks(SEAL_ROUND) {
            let _sealing = lock(&self.sealing);
            let mut taken = Vec::with_capacity(round.len());
            {
                let mut open = lock(&self.open);
                for number in round
                    .iter()
                    .flat_map(|cluster| cluster * CLUSTER..(cluster + 1) * CLUSTER)
                {
                    taken.extend(open.begin(number).map(|samples| (number, samples)));
                }
            }
            let done = self.sync_links().and_then(|()| {
                let mut sorted: Vec<(u32, std::borrow::Cow<'_, [Sample]>)> =
                    Vec::with_capacity(taken.len());
                for (number, samples) in &taken {
                    sorted.push((*number, in_order(samples)));
                }
                let sorted: Vec<(u32, &[Sample])> =
                    sorted.iter().map(|(n, samples)| (*n, &**samples)).collect();
                self.catalog().active.add(&sorted)
            });
            let mut open = lock(&self.open);
            for (number, samples) in taken {
                // The last but the buffer's own, so that the buffer can be used again.
                drop(samples);
                match &done {
                    Ok(()) => open.done(number),
                    Err(_) => open.undo(number),
                }
            }
            done?;
        }
        Ok(())
    }

    /// Seals all that is open.
    pub fn seal_all(&self) -> anyhow::Result<()> {
        let count = u32::try_from(self.link_count())?;
        self.seal((0..count.div_ceil(CLUSTER)).collect())
    }

    /// A chunk names its link by number: the number must be on the disk before it.
    fn sync_links(&self) -> anyhow::Result<()> {
        if !self.links().unsynced {
            return Ok(());
        }
        let mut links = self.links.write().unwrap_or_else(PoisonError::into_inner);
        self.engine.sync()?;
        links.unsynced = false;
        Ok(())
    }

    /// Begins a new generation; the present one is frozen.
    pub(super) fn rotate(&self, now: UnixMillis) -> anyhow::Result<()> {
        let _sealing = lock(&self.sealing);
        let old = Arc::clone(&self.catalog().active);
        let first = lock(&self.open).first();
        old.sync(first)?;
        let new = Arc::new(Generation::create(
            &self.folder.join("recent"),
            old.number + 1,
            first,
            now.0.div_euclid(DAY_MS),
        )?);
        let mut frozen = self.catalog().frozen.clone();
        frozen.push(old);
        enter(&self.ledger, &frozen, &new)?;
        self.change_catalog(|catalog| {
            let old = std::mem::replace(&mut catalog.active, new);
            catalog.frozen.push(old);
        });
        Ok(())
    }

    fn number(&self, link: &LinkId) -> Option<u32> {
        self.links().number(&link.agent, &link.target)
    }

    /// One link's samples of a day, sorted, each once.
    fn day(
        &self,
        catalog: &Catalog,
        number: u32,
        day: i64,
        open: &[Sample],
    ) -> anyhow::Result<Vec<Sample>> {
        let of_day = |sample: &&Sample| sample.at.0.div_euclid(DAY_MS) == day;
        let mut samples: Vec<Sample> = open.iter().filter(of_day).copied().collect();
        for generation in catalog.generations() {
            generation.read(number, day, &mut samples)?;
        }
        for block in catalog.of_day(Level::Raw, day) {
            if let Some(value) = self.entry(block, number) {
                self.chunks(block, number, &value, &mut samples);
            }
        }
        if !samples.is_sorted() {
            samples.sort_unstable();
        }
        samples.dedup();
        Ok(samples)
    }

    /// A link's entry in a block; what is damaged is named, counted, and passed over.
    pub(super) fn entry(&self, block: &DayBlock, number: u32) -> Option<Vec<u8>> {
        block.block.get(number).unwrap_or_else(|error| {
            self.damaged.fetch_add(1, Ordering::Relaxed);
            error!(error = %format!("{error:#}"), "part of a block is damaged; it is left out");
            None
        })
    }

    /// Appends the samples of an entry's chunks to `out`.
    pub(super) fn chunks(
        &self,
        block: &DayBlock,
        number: u32,
        value: &[u8],
        out: &mut Vec<Sample>,
    ) {
        let mut rest = value;
        while !rest.is_empty() {
            match codec::decode(rest, out) {
                Ok(peek) => rest = &rest[peek.length..],
                Err(error) => {
                    self.damaged.fetch_add(1, Ordering::Relaxed);
                    error!(block = %block.block.path.display(), link = number, %error, "a chunk is damaged; the rest of its entry is left out");
                    return;
                }
            }
        }
    }

    /// The finished rows of a link and day; `None` if there are none.
    pub(super) fn finished(
        &self,
        catalog: &Catalog,
        level: Level,
        number: u32,
        day: i64,
    ) -> Option<Vec<Row>> {
        // The newest block that knows of that day has the last word.
        for block in catalog.of_day(level, day).rev() {
            let value = match block.block.get(number) {
                Ok(Some(value)) => value,
                Ok(None) => continue,
                // An older block knows less: then rather the samples, or nothing.
                Err(_) => return self.entry(block, number).and(None),
            };
            let rows = rows_of(&value, day, level).unwrap_or_else(|error| {
                self.damaged.fetch_add(1, Ordering::Relaxed);
                error!(block = %block.block.path.display(), link = number, error = %format!("{error:#}"), "rows are damaged; they are left out");
                None
            });
            if rows.is_some() {
                return rows;
            }
        }
        None
    }
}

impl EmbeddedHistory {
    /// Rows of a day whose samples are gone: the coarsest that fit, or finer ones where those are all there is; an error if all are too coarse.
    fn coarser(
        &self,
        catalog: &Catalog,
        level: Level,
        number: u32,
        day: i64,
    ) -> Result<Option<Vec<Row>>, RowsError> {
        let mut too_coarse = None;
        for candidate in [Level::Day, Level::Hour, Level::Minute] {
            if let Some(finished) = self.finished(catalog, candidate, number, day) {
                if candidate <= level {
                    return Ok(Some(finished));
                }
                too_coarse = Some(candidate);
            }
        }
        match too_coarse {
            Some(level) => Err(RowsError::TooFine { level }),
            None => Ok(None),
        }
    }
}

impl History for EmbeddedHistory {
    fn append(
        &self,
        position: Position,
        agent: &AgentId,
        samples: &[TargetSamples],
    ) -> anyhow::Result<()> {
        let now = Instant::now();
        let mut numbers = Vec::with_capacity(samples.len());
        {
            let links = self.links();
            let known = links.of_agent(agent);
            // An agent tells of its targets in the same order each time.
            for (i, target) in samples.iter().enumerate() {
                let here = known.get(i).filter(|(name, _)| *name == target.target);
                let found = here.or_else(|| known.iter().find(|(name, _)| *name == target.target));
                let Some((_, number)) = found else {
                    break;
                };
                numbers.push(*number);
            }
        }
        if numbers.len() < samples.len() {
            let mut links = self.links.write().unwrap_or_else(PoisonError::into_inner);
            numbers.clear();
            for target in samples {
                numbers.push(links.number_or_new(agent, &target.target)?);
            }
        }
        let mut full = Vec::new();
        {
            let mut open = lock(&self.open);
            for (number, target) in numbers.iter().zip(samples) {
                open.push(*number, position, &target.samples, now);
            }
            open.next = open.next.max(position + 1);
            if open.full.len() >= SEAL_ROUND {
                full = std::mem::take(&mut open.full);
            } else {
                full.extend(open.too_much());
            }
        }
        match self.seal(full) {
            // It stays open: it is in the log, and is sealed when there is room.
            Err(error) if is_full(&error) && !lock(&self.open).is_overfull() => Ok(()),
            done => done,
        }
    }

    fn checkpoint(&self) -> anyhow::Result<Position> {
        let old = {
            let mut open = lock(&self.open);
            let mut old = std::mem::take(&mut open.full);
            old.extend(open.old(Instant::now()));
            old
        };
        self.seal(old)?;
        // Whatever is not open now is in a generation, and durable below.
        let safe = lock(&self.open).first();
        self.sync_links()?;
        self.catalog().active.sync(safe)?;
        self.ledger.set_from(safe)?;
        Ok(safe)
    }

    fn visit(
        &self,
        link: &LinkId,
        range: Range<UnixMillis>,
        visit: &mut dyn FnMut(Sample) -> bool,
    ) -> anyhow::Result<()> {
        let Some(number) = self.number(link) else {
            return Ok(());
        };
        // In this order, see `super`.
        let mut open = Vec::new();
        lock(&self.open).read(number, &mut open);
        let catalog = self.catalog();
        let mut days: BTreeSet<i64> = open
            .iter()
            .map(|sample| sample.at.0.div_euclid(DAY_MS))
            .collect();
        for generation in catalog.generations() {
            days.extend(generation.days());
        }
        for block in catalog.blocks(Level::Raw) {
            days.extend(block.first..=block.last);
        }
        let (first, last) = (
            range.start.0.div_euclid(DAY_MS),
            range.end.0.saturating_sub(1).div_euclid(DAY_MS),
        );
        if first > last {
            return Ok(());
        }
        for day in days.range(first..=last) {
            for sample in self.day(&catalog, number, *day, &open)? {
                if range.contains(&sample.at) && !visit(sample) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn visit_rows(
        &self,
        link: &LinkId,
        range: Range<UnixMillis>,
        step_ms: i64,
        visit: &mut dyn FnMut(&Row) -> bool,
    ) -> Result<(), RowsError> {
        let step_ms = step_ms.max(1);
        let level = Level::exact(step_ms);
        let Some(number) = self.number(link) else {
            return Ok(());
        };
        let start = range.start.0.div_euclid(step_ms).saturating_mul(step_ms);
        let end = (-range.end.0.saturating_neg().div_euclid(step_ms)).saturating_mul(step_ms);
        let (first, last) = (
            start.div_euclid(DAY_MS),
            end.saturating_sub(1).div_euclid(DAY_MS),
        );
        if first > last {
            return Ok(());
        }
        let mut open = Vec::new();
        lock(&self.open).read(number, &mut open);
        let catalog = self.catalog();
        // Days whose rows are not final: their samples are asked.
        let mut fresh: BTreeSet<i64> = open
            .iter()
            .map(|sample| sample.at.0.div_euclid(DAY_MS))
            .collect();
        for generation in catalog.generations() {
            fresh.extend(generation.days());
        }
        let days_of = |blocks: &[Arc<DayBlock>]| -> BTreeSet<i64> {
            let days = blocks.iter().map(|block| block.first..=block.last);
            days.flatten().collect()
        };
        let raw = days_of(catalog.blocks(Level::Raw));
        let mut days = fresh.clone();
        days.extend(catalog.levels.values().flat_map(|blocks| days_of(blocks)));
        let mut rows = rollup::Rows::new(step_ms);
        let mut give = |rows: &mut rollup::Rows, until: i64| {
            rows.drain_until(until)
                .filter(|row| (start..end).contains(&row.start.0))
                .all(|row| visit(&row))
        };
        for day in days.range(first..=last).copied() {
            if !give(&mut rows, day * DAY_MS) {
                return Ok(());
            }
            let fresh = fresh.contains(&day);
            if !fresh
                && level >= Level::Hour
                && let Some(finished) = self.finished(&catalog, level, number, day)
            {
                rows.add_rows(&finished);
            } else if fresh || raw.contains(&day) {
                let samples = self.day(&catalog, number, day, &open)?;
                rows.add_day(&samples);
            } else if let Some(finished) = self.coarser(&catalog, level, number, day)? {
                rows.add_rows(&finished);
            }
        }
        give(&mut rows, i64::MAX);
        Ok(())
    }

    fn latest(&self, visit: &mut dyn FnMut(&LinkId, Sample) -> bool) {
        let latest = lock(&self.open).latest();
        let links = self.links();
        for (number, sample) in (0..).zip(latest) {
            if let (Some(sample), Some(link)) = (sample, links.name(number))
                && !visit(link, sample)
            {
                return;
            }
        }
    }

    fn kept_from(&self) -> UnixMillis {
        lock(&self.open).kept_from
    }

    fn note_latest(&self, link: &LinkId, sample: Sample) -> anyhow::Result<()> {
        let mut links = self.links.write().unwrap_or_else(PoisonError::into_inner);
        let number = links.number_or_new(&link.agent, &link.target)?;
        lock(&self.open).note(number, sample, Instant::now());
        Ok(())
    }
}

/// Whether the disk had no room for one of the history's or the log's own files.
pub fn is_full(error: &anyhow::Error) -> bool {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    error.chain().any(|cause| {
        let io = cause.downcast_ref::<std::io::Error>();
        io.is_some_and(|io| matches!(io.kind(), StorageFull | QuotaExceeded))
    })
}

/// Sorted, each once.
fn in_order(samples: &[Sample]) -> std::borrow::Cow<'_, [Sample]> {
    if samples.windows(2).all(|pair| pair[0] < pair[1]) {
        return samples.into();
    }
    let mut samples = samples.to_vec();
    samples.sort_unstable();
    samples.dedup();
    samples.into()
}

/// The rows of a day in a rollup entry, if the day is there. An entry is `(day varint · length varint · rows)*`.
pub(super) fn rows_of(value: &[u8], day: i64, level: Level) -> anyhow::Result<Option<Vec<Row>>> {
    let mut read = Reader::new(value);
    while !read.is_empty() {
        let of = read.varint()?.cast_signed();
        let length = read.count(value.len())?;
        let bytes = read.take(length)?;
        if of == day {
            return rollup::decode(bytes, day * DAY_MS, level).map(Some);
        }
    }
    Ok(None)
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
