//! Upkeep: generations become blocks, blocks are merged, and what is past its retention goes.
//!
//! Every step writes what is new, durably, before it takes the old away, and finds out by itself at the next start how far it had
//! come: a block names the generation it was made of, or the blocks that it takes the place of.

use super::block::Writer;
use super::catalog::{self, Catalog, DayBlock};
use super::column::{Effort, put_varint};
use super::embedded::{EmbeddedHistory, is_full, lock};
use super::generation::Generation;
use super::rollup::{self, DAY_MS, Level, Row};
use super::{Retention, codec};
use crate::quarantine;
use anyhow::{Context, bail, ensure};
use denyut_proto::{Sample, UnixMillis};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tracing::{error, info};

/// A generation is frozen when its day is over for this long: most of what is late has come by then.
const AFTER_MIDNIGHT: Duration = Duration::from_secs(3600);
/// Or when it has grown past this.
const GENERATION_BYTES: u64 = 2 << 30;
/// More blocks of samples of one day than this are merged.
const RAW_PARTS: usize = 4;
/// More blocks of rows of one finished month than this are merged.
const MONTH_PARTS: usize = 8;

/// Blocks of one day being made of a generation.
struct DayWriters {
    raw: Writer,
    hour: Writer,
    day: Writer,
}

impl EmbeddedHistory {
    /// Does what is due. It may take minutes; readers and writers go on meanwhile. `log_bytes`: what the log takes beside it; `room`: bytes
    /// that may be written before something else has to stop.
    pub fn upkeep(
        &self,
        now: UnixMillis,
        retention: &Retention,
        log_bytes: u64,
        room: u64,
    ) -> anyhow::Result<()> {
        let _keeping_up = lock(&self.keeping_up);
        // First what frees space.
        self.retain(now, retention, log_bytes)?;
        let active = Arc::clone(&self.catalog().active);
        let over = (now - AFTER_MIDNIGHT).0.div_euclid(DAY_MS) > active.day;
        if over || active.bytes() > GENERATION_BYTES {
            if over {
                // So that a day's samples are in one generation.
                self.seal_all()?;
            }
            self.rotate(now)?;
        }
        while let Some(oldest) = self.catalog().frozen.first().cloned() {
            // Blocks are smaller than what they are made of.
            ensure!(
                oldest.bytes() < room,
                "there is no room to put a generation of {} MiB into blocks; free some space, or lower `retention.size`",
                oldest.bytes() >> 20
            );
            if !self.compact(&oldest)? {
                break;
            }
        }
        self.merge_days()?;
        self.merge_months(now)
    }

    /// Puts everything into blocks at once.
    pub fn compact_all(&self, now: UnixMillis) -> anyhow::Result<()> {
        let _keeping_up = lock(&self.keeping_up);
        self.seal_all()?;
        self.rotate(now)?;
        while let Some(oldest) = self.catalog().frozen.first().cloned() {
            if !self.compact(&oldest)? {
                break;
            }
        }
        Ok(())
    }

    /// Lets long work stop: the present call of [`Self::upkeep`] ends with an error, and nothing is lost by it.
    pub fn stop_upkeep(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    fn check_stopped(&self) -> anyhow::Result<()> {
        if self.stopped.load(Ordering::Relaxed) {
            bail!("the history is being closed");
        }
        Ok(())
    }

    fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// `false` if it is damaged: what it lost must be told again first.
    fn compact(&self, generation: &Generation) -> anyhow::Result<bool> {
        generation.check_sums()?;
        if generation.is_hurt() {
            return Ok(false);
        }
        let began = std::time::Instant::now();
        let mut made = Vec::new();
        let mut samples = 0;
        let done = generation.days().into_iter().try_for_each(|day| {
            samples += self.compact_day(generation, day, &mut made)?;
            Ok(())
        });
        if let Err(error) = done {
            // All of them, or none: the next try makes them anew.
            for (_, block) in &made {
                fs::remove_file(&block.block.path).ok();
            }
            return Err(error);
        }
        for (level, block) in &made {
            self.ledger.put_block(*level, block.block.name())?;
        }
        // In one step, so that a reader sees the one or the other.
        self.change_catalog(|catalog| {
            catalog
                .frozen
                .retain(|frozen| frozen.number != generation.number);
            for (level, block) in made {
                catalog.add(level, block);
            }
        });
        info!(
            generation = generation.number,
            samples,
            seconds = began.elapsed().as_secs_f64(),
            "a generation was put into blocks"
        );
        if generation.was_hurt() {
            self.damaged.fetch_add(1, Ordering::Relaxed);
        }
        // The file last: one that nobody expects any more is put into blocks again, and nothing is lost or doubled by that.
        self.ledger.remove_generation(generation.number)?;
        self.ledger.sync()?;
        generation.remove()?;
        Ok(true)
    }

    /// Makes the blocks of one day of a generation; returns its samples.
    fn compact_day(
        &self,
        generation: &Generation,
        day: i64,
        made: &mut Vec<(Level, DayBlock)>,
    ) -> anyhow::Result<u64> {
        self.check_stopped()?;
        let id = self.next_id();
        let path = |level| catalog::path_of(&self.folder, level, day, day, id);
        let mut writers = DayWriters {
            raw: Writer::create(&path(Level::Raw))?,
            hour: Writer::create(&path(Level::Hour))?,
            day: Writer::create(&path(Level::Day))?,
        };
        let catalog = self.catalog();
        generation.each_link(day, &mut |link, of_link| {
            self.check_stopped()?;
            self.compact_link(&catalog, &mut writers, day, link, of_link)
        })?;
        let samples = writers.raw.footer.items;
        for (level, mut writer) in [
            (Level::Raw, writers.raw),
            (Level::Hour, writers.hour),
            (Level::Day, writers.day),
        ] {
            writer.footer.generation = Some(generation.number);
            made.push((level, DayBlock::open(&writer.finish()?)?));
        }
        Ok(samples)
    }

    /// Finishes a block and enters it into the ledger.
    fn finish(&self, level: Level, writer: Writer) -> anyhow::Result<DayBlock> {
        let block = DayBlock::open(&writer.finish()?)?;
        self.ledger.put_block(level, block.block.name())?;
        Ok(block)
    }

    fn compact_link(
        &self,
        catalog: &Catalog,
        writers: &mut DayWriters,
        day: i64,
        link: u32,
        samples: &mut Vec<Sample>,
    ) -> anyhow::Result<()> {
        if !samples.windows(2).all(|pair| pair[0] < pair[1]) {
            samples.sort_unstable();
            samples.dedup();
        }
        let mut value = Vec::new();
        for chunk in samples.chunks(codec::COUNT_MAX) {
            codec::encode(link, chunk, Effort::Small, &mut value);
        }
        writers.raw.add(link, &value, samples.len() as u64)?;
        // The rows are of all that is known of the day, blocks made before among it.
        let before = samples.len();
        for block in catalog.of_day(Level::Raw, day) {
            if let Some(value) = self.entry(block, link) {
                self.chunks(block, link, &value, samples);
            }
        }
        if samples.len() > before {
            samples.sort_unstable();
            samples.dedup();
        }
        let mut hours = rollup::Rows::new(Level::Hour.step_ms());
        hours.add_day(samples);
        let hours = hours.into_vec();
        let mut whole = rollup::Rows::new(DAY_MS);
        whole.add_rows(&hours);
        writers
            .hour
            .add(link, &item(day, &hours, Level::Hour), hours.len() as u64)?;
        writers
            .day
            .add(link, &item(day, &whole.into_vec(), Level::Day), 1)
    }

    /// Late data makes a day many blocks: above a few they become one.
    fn merge_days(&self) -> anyhow::Result<()> {
        let catalog = self.catalog();
        let mut by_day: BTreeMap<i64, Vec<Arc<DayBlock>>> = BTreeMap::new();
        for block in catalog.blocks(Level::Raw) {
            by_day
                .entry(block.first)
                .or_default()
                .push(Arc::clone(block));
        }
        for (day, blocks) in by_day {
            if blocks.len() <= RAW_PARTS {
                continue;
            }
            let mut samples = Vec::new();
            self.merge(Level::Raw, (day, day), &blocks, &mut |link, values| {
                samples.clear();
                for (block, value) in values {
                    self.chunks(block, link, value, &mut samples);
                }
                samples.sort_unstable();
                samples.dedup();
                let mut out = Vec::new();
                for chunk in samples.chunks(codec::COUNT_MAX) {
                    codec::encode(link, chunk, Effort::Small, &mut out);
                }
                Ok((out, samples.len() as u64))
            })?;
        }
        Ok(())
    }

    /// The rows of a finished month become one block, so that a year is a dozen of them.
    fn merge_months(&self, now: UnixMillis) -> anyhow::Result<()> {
        let catalog = self.catalog();
        let present = catalog::month((now - AFTER_MIDNIGHT).0.div_euclid(DAY_MS));
        for level in [Level::Hour, Level::Day] {
            let mut by_month: BTreeMap<i64, Vec<Arc<DayBlock>>> = BTreeMap::new();
            for block in catalog.blocks(level) {
                by_month
                    .entry(catalog::month(block.first))
                    .or_default()
                    .push(Arc::clone(block));
            }
            for (month, blocks) in by_month {
                if month >= present || blocks.len() <= MONTH_PARTS {
                    continue;
                }
                let first = blocks.iter().map(|block| block.first).min().unwrap_or(0);
                let last = blocks.iter().map(|block| block.last).max().unwrap_or(0);
                self.merge(level, (first, last), &blocks, &mut |_, values| {
                    // Of each day the newest: it was made of everything that was known.
                    let mut days: BTreeMap<i64, &[u8]> = BTreeMap::new();
                    for (_, value) in values {
                        days.extend(items(value)?);
                    }
                    let mut out = Vec::new();
                    for (day, rows) in &days {
                        put_item(&mut out, *day, rows);
                    }
                    Ok((out, days.len() as u64))
                })?;
            }
        }
        Ok(())
    }

    /// Makes one block of several; `merge` is given each link's entries, oldest block first.
    #[allow(clippy::type_complexity, reason = "named nowhere else")]
    fn merge(
        &self,
        level: Level,
        days: (i64, i64),
        blocks: &[Arc<DayBlock>],
        merge: &mut dyn FnMut(u32, &[(&DayBlock, Vec<u8>)]) -> anyhow::Result<(Vec<u8>, u64)>,
    ) -> anyhow::Result<()> {
        let path = catalog::path_of(&self.folder, level, days.0, days.1, self.next_id());
        let mut writer = Writer::create(&path)?;
        let hurt = self.each_link(blocks, &mut |link, values| {
            self.check_stopped()?;
            let (value, items) = merge(link, values)?;
            writer.add(link, &value, items)
        })?;
        writer.footer.replaces = blocks
            .iter()
            .map(|block| block.block.name().to_owned())
            .collect();
        let merged = self.finish(level, writer)?;
        info!(block = %path.display(), of = blocks.len(), "blocks were merged");
        self.replace_blocks(level, blocks, &hurt, Some(merged))
    }

    /// Deletes what is past its retention; samples become rows of a minute first.
    fn retain(&self, now: UnixMillis, retention: &Retention, log_bytes: u64) -> anyhow::Result<()> {
        let limit = |keep: Duration| (now - keep).0.div_euclid(DAY_MS);
        let expired = |level: Level, before: i64| -> Vec<Arc<DayBlock>> {
            let catalog = self.catalog();
            catalog
                .blocks(level)
                .iter()
                .filter(|block| block.last < before)
                .cloned()
                .collect()
        };
        self.drop_blocks(
            Level::Minute,
            &expired(Level::Minute, limit(retention.minute)),
        )?;
        for (level, keep) in [(Level::Hour, retention.hour), (Level::Day, retention.day)] {
            if let Some(keep) = keep {
                self.drop_blocks(level, &expired(level, limit(keep)))?;
            }
        }
        let mut days: BTreeMap<i64, Vec<Arc<DayBlock>>> = BTreeMap::new();
        for block in expired(Level::Raw, limit(retention.raw)) {
            days.entry(block.first).or_default().push(block);
        }
        for (day, blocks) in days {
            if !self.let_go(day)? {
                continue;
            }
            let mut hurt = BTreeSet::new();
            if retention.minute > retention.raw {
                hurt = match self.make_minutes(day, &blocks) {
                    // What frees space without writing comes first.
                    Err(error) if is_full(&error) => continue,
                    made => made?,
                };
            }
            self.replace_blocks(Level::Raw, &blocks, &hurt, None)?;
        }
        let Some(most) = retention.bytes else {
            return Ok(());
        };
        // The last days may still get samples, and their rows are made of them.
        let last = self.catalog().active.day.min(now.0.div_euclid(DAY_MS)) - 2;
        while self.bytes().saturating_add(log_bytes) > most {
            let catalog = self.catalog();
            let oldest = |level: Level| {
                let days = catalog.blocks(level).iter().map(|block| block.first);
                days.min().filter(|day| *day <= last)
            };
            let (level, day) = match (oldest(Level::Minute), oldest(Level::Raw)) {
                (Some(day), _) => (Level::Minute, day),
                // It goes when what is late of that day is in its rows.
                (None, Some(day)) if !self.let_go(day)? => return Ok(()),
                (None, Some(day)) => (Level::Raw, day),
                (None, None) => {
                    tracing::warn!(
                        most,
                        bytes = self.bytes(),
                        log_bytes,
                        "more is kept than `retention.size` allows, and nothing is left that may go"
                    );
                    return Ok(());
                }
            };
            // All of the day: part of it would pass for the whole.
            let blocks: Vec<_> = catalog.of_day(level, day).cloned().collect();
            info!(
                level = level.as_str(),
                day = catalog::date(day),
                "deleted, as `retention.size` is reached"
            );
            self.drop_blocks(level, &blocks)?;
        }
        Ok(())
    }

    /// Makes the rows of a minute of a day's samples.
    fn make_minutes(&self, day: i64, blocks: &[Arc<DayBlock>]) -> anyhow::Result<BTreeSet<u64>> {
        if self.catalog().of_day(Level::Minute, day).next().is_some() {
            return Ok(BTreeSet::new());
        }
        let path = catalog::path_of(&self.folder, Level::Minute, day, day, self.next_id());
        let mut writer = Writer::create(&path)?;
        let mut samples = Vec::new();
        let hurt = self.each_link(blocks, &mut |link, values| {
            self.check_stopped()?;
            samples.clear();
            for (block, value) in values {
                self.chunks(block, link, value, &mut samples);
            }
            samples.sort_unstable();
            samples.dedup();
            let mut rows = rollup::Rows::new(Level::Minute.step_ms());
            rows.add_day(&samples);
            let rows = rows.into_vec();
            writer.add(link, &item(day, &rows, Level::Minute), rows.len() as u64)
        })?;
        let block = self.finish(Level::Minute, writer)?;
        self.change_catalog(|catalog| catalog.add(Level::Minute, block));
        Ok(hurt)
    }

    fn drop_blocks(&self, level: Level, blocks: &[Arc<DayBlock>]) -> anyhow::Result<()> {
        if blocks.is_empty() {
            return Ok(());
        }
        self.replace_blocks(level, blocks, &BTreeSet::new(), None)
    }

    /// Takes blocks away, or `new` in their place. Those in `hurt` are set aside instead: `repair` may find in them what could not be read.
    fn replace_blocks(
        &self,
        level: Level,
        blocks: &[Arc<DayBlock>],
        hurt: &BTreeSet<u64>,
        new: Option<DayBlock>,
    ) -> anyhow::Result<()> {
        let ids: Vec<u64> = blocks.iter().map(|block| block.id).collect();
        self.change_catalog(|catalog| {
            catalog.remove(level, &ids);
            if let Some(new) = new {
                catalog.add(level, new);
            }
        });
        let names = blocks.iter().map(|block| block.block.name());
        self.ledger.remove_blocks(level, names)?;
        for block in blocks {
            let path = &block.block.path;
            if hurt.contains(&block.id) {
                let aside = quarantine(path)?;
                error!(aside = %aside.display(), "a damaged block was replaced; it is set aside");
            } else {
                fs::remove_file(path)
                    .with_context(|| format!("cannot delete {}", path.display()))?;
            }
        }
        Ok(())
    }

    /// Gives each link's entries in these blocks, oldest block first; what is damaged is named and passed over. Returns the blocks that it is in.
    #[allow(clippy::type_complexity, reason = "named nowhere else")]
    fn each_link(
        &self,
        blocks: &[Arc<DayBlock>],
        visit: &mut dyn FnMut(u32, &[(&DayBlock, Vec<u8>)]) -> anyhow::Result<()>,
    ) -> anyhow::Result<BTreeSet<u64>> {
        let mut hurt = BTreeSet::new();
        let mut sound = |block: &DayBlock, error: anyhow::Error| {
            hurt.insert(block.id);
            self.damaged.fetch_add(1, Ordering::Relaxed);
            error!(error = %format!("{error:#}"), "part of a block is damaged; it is left out");
        };
        let mut slots = Vec::new();
        for block in blocks {
            let mut of_block = Vec::new();
            for slot in block.block.slots() {
                match slot {
                    Ok(slot) => of_block.push(slot),
                    Err(error) => sound(block, error),
                }
            }
            slots.push(of_block.into_iter().peekable());
        }
        while let Some(link) = slots
            .iter_mut()
            .filter_map(|slots| Some(slots.peek()?.link))
            .min()
        {
            let mut values = Vec::new();
            for (block, slots) in blocks.iter().zip(&mut slots) {
                if let Some(slot) = slots.next_if(|slot| slot.link == link) {
                    match block.block.value(slot) {
                        Ok(value) => values.push((&**block, value)),
                        Err(error) => sound(block, error),
                    }
                }
            }
            if !values.is_empty() {
                visit(link, &values)?;
            }
        }
        Ok(hurt)
    }
}

fn item(day: i64, rows: &[Row], level: Level) -> Vec<u8> {
    let mut encoded = Vec::new();
    rollup::encode(rows, level, &mut encoded);
    let mut out = Vec::with_capacity(encoded.len() + 8);
    put_item(&mut out, day, &encoded);
    out
}

fn put_item(out: &mut Vec<u8>, day: i64, rows: &[u8]) {
    put_varint(out, day.cast_unsigned());
    put_varint(out, rows.len() as u64);
    out.extend_from_slice(rows);
}

/// The days in a rollup entry and their rows, undecoded.
fn items(value: &[u8]) -> anyhow::Result<Vec<(i64, &[u8])>> {
    let mut read = super::column::Reader::new(value);
    let mut items = Vec::new();
    while !read.is_empty() {
        let day = read.varint()?.cast_signed();
        let length = read.count(value.len())?;
        items.push((day, read.take(length)?));
    }
    Ok(items)
}
