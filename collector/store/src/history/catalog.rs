//! What there is to read: generations and blocks, as one value that is replaced whole.

use super::block::Block;
use super::generation::Generation;
use super::rollup::{DAY_MS, Level};
use anyhow::Context;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A view of the store. Readers hold one while they read; what it names stays readable.
#[derive(Debug, Clone)]
pub(super) struct Catalog {
    /// The generation that is written.
    pub(super) active: Arc<Generation>,
    /// Those that wait to be put into blocks, oldest first.
    pub(super) frozen: Vec<Arc<Generation>>,
    pub(super) levels: BTreeMap<Level, Vec<Arc<DayBlock>>>,
}

/// A block and the days that it is of.
#[derive(Debug)]
pub(super) struct DayBlock {
    /// Days since 1970, both inclusive.
    pub(super) first: i64,
    pub(super) last: i64,
    /// Ascends with every block that is made.
    pub(super) id: u64,
    pub(super) block: Block,
}

impl Catalog {
    /// The blocks of a level that hold something of a day, oldest first.
    pub(super) fn of_day(
        &self,
        level: Level,
        day: i64,
    ) -> impl DoubleEndedIterator<Item = &Arc<DayBlock>> {
        let blocks = self
            .levels
            .get(&level)
            .map(Vec::as_slice)
            .unwrap_or_default();
        blocks
            .iter()
            .filter(move |block| (block.first..=block.last).contains(&day))
    }

    pub(super) fn blocks(&self, level: Level) -> &[Arc<DayBlock>] {
        self.levels
            .get(&level)
            .map(Vec::as_slice)
            .unwrap_or_default()
    }

    pub(super) fn generations(&self) -> impl Iterator<Item = &Arc<Generation>> {
        self.frozen.iter().chain([&self.active])
    }

    pub(super) fn add(&mut self, level: Level, block: DayBlock) {
        let blocks = self.levels.entry(level).or_default();
        blocks.push(Arc::new(block));
        blocks.sort_by_key(|block| block.id);
    }

    /// Takes blocks out; they are the caller's to delete.
    pub(super) fn remove(&mut self, level: Level, ids: &[u64]) {
        self.levels
            .entry(level)
            .or_default()
            .retain(|block| !ids.contains(&block.id));
    }
}

impl DayBlock {
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        let (first, last, id) =
            parse_name(path).with_context(|| format!("{} is no block's name", path.display()))?;
        Ok(Self {
            first,
            last,
            id,
            block: Block::open(path)?,
        })
    }
}

/// The path of a block: `<level>/<first day>_<last day>.<id>.block`.
pub(super) fn path_of(folder: &Path, level: Level, first: i64, last: i64, id: u64) -> PathBuf {
    folder
        .join(level.as_str())
        .join(format!("{}_{}.{id:08}.block", date(first), date(last)))
}

pub(super) fn parse_name(path: &Path) -> Option<(i64, i64, u64)> {
    let name = path.file_name()?.to_str()?.strip_suffix(".block")?;
    let (days, id) = name.split_once('.')?;
    let (first, last) = days.split_once('_')?;
    Some((day(first)?, day(last)?, id.parse().ok()?))
}

/// `2026-11-23` of days since 1970.
pub(super) fn date(day: i64) -> String {
    match jiff::Timestamp::from_millisecond(day.saturating_mul(DAY_MS)) {
        Ok(at) => at.strftime("%Y-%m-%d").to_string(),
        Err(_) => day.to_string(),
    }
}

/// Days since 1970 of `2026-11-23`.
fn day(date: &str) -> Option<i64> {
    if let Ok(day) = date.parse() {
        return Some(day);
    }
    let date: jiff::civil::Date = date.parse().ok()?;
    let at = date.to_zoned(jiff::tz::TimeZone::UTC).ok()?;
    Some(at.timestamp().as_millisecond().div_euclid(DAY_MS))
}

/// Year and month of a day since 1970, as one number.
pub(super) fn month(day: i64) -> i64 {
    match jiff::Timestamp::from_millisecond(day.saturating_mul(DAY_MS)) {
        Ok(at) => {
            let date = at.to_zoned(jiff::tz::TimeZone::UTC).date();
            i64::from(date.year()) * 12 + i64::from(date.month()) - 1
        }
        Err(_) => day.div_euclid(30),
    }
}
