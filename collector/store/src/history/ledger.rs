//! The history's ledger: what must be there. A file that is deleted cannot say so itself.
//!
//! A tree of the state's database, with the keys
//!
//! ```text
//! from                    u64   what came from records of the log from here on must be told again after a crash
//! kept_from               i64   samples before this (ms since 1970) are not kept any more, and not taken
//! generation/<number>     u64 u64   a generation that lives: its first position, and, when it is frozen, the mark it must have (else 0)
//! block/<level>/<name>    nothing   a block that is there
//! ```
//!
//! Integers are big-endian.

use super::rollup::Level;
use crate::engine::Engine;
use crate::log::Position;
use anyhow::{Context, anyhow};
use denyut_proto::UnixMillis;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const FROM: &str = "from";
const KEPT_FROM: &str = "kept_from";
const GENERATION: &str = "generation/";
const BLOCK: &str = "block/";

/// A generation that lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Living {
    pub(crate) from: Position,
    /// 0 while it is written.
    pub(crate) whole_to: Position,
}

/// The ledger.
#[derive(Debug)]
pub(crate) struct Ledger {
    tree: sled::Tree,
    engine: Arc<Engine>,
}

impl Ledger {
    pub(crate) fn open(engine: &Arc<Engine>) -> anyhow::Result<Self> {
        Ok(Self {
            tree: engine
                .tree("history")
                .context("cannot open the history's ledger")?,
            engine: Arc::clone(engine),
        })
    }

    pub(super) fn from(&self) -> anyhow::Result<Option<Position>> {
        self.number(FROM)
    }

    /// Durable with the next sync of the database.
    pub(super) fn set_from(&self, from: Position) -> anyhow::Result<()> {
        self.tree.insert(FROM, &from.to_be_bytes())?;
        Ok(())
    }

    pub(super) fn kept_from(&self) -> anyhow::Result<UnixMillis> {
        let kept_from = self.number(KEPT_FROM)?.unwrap_or(0);
        Ok(UnixMillis(kept_from.cast_signed()))
    }

    /// Durable when it returns.
    pub(super) fn set_kept_from(&self, at: UnixMillis) -> anyhow::Result<()> {
        let value = at.0.to_be_bytes();
        let before = self.tree.insert(KEPT_FROM, &value)?;
        if before.is_none_or(|before| before[..] != value) {
            self.engine.sync()?;
        }
        Ok(())
    }

    /// By number.
    pub(crate) fn generations(&self) -> anyhow::Result<BTreeMap<u64, Living>> {
        let mut generations = BTreeMap::new();
        for item in self.tree.scan_prefix(GENERATION) {
            let (key, value) = item.context("cannot read the history's ledger")?;
            let number = std::str::from_utf8(&key[GENERATION.len()..])
                .ok()
                .and_then(|number| number.parse().ok());
            let (Some(number), Some((from, whole_to))) = (number, value.split_first_chunk::<8>())
            else {
                return Err(damaged(&key));
            };
            let whole_to = whole_to.try_into().map_err(|_| damaged(&key))?;
            generations.insert(
                number,
                Living {
                    from: Position::from_be_bytes(*from),
                    whole_to: Position::from_be_bytes(whole_to),
                },
            );
        }
        Ok(generations)
    }

    /// Durable when it returns.
    pub(super) fn put_generation(&self, number: u64, living: Living) -> anyhow::Result<()> {
        let value = [living.from.to_be_bytes(), living.whole_to.to_be_bytes()].concat();
        self.tree.insert(generation(number), value)?;
        self.engine.sync()
    }

    /// Durable with the next sync of the database.
    pub(super) fn remove_generation(&self, number: u64) -> anyhow::Result<()> {
        self.tree.remove(generation(number))?;
        Ok(())
    }

    /// Level and file name of each.
    pub(crate) fn blocks(&self) -> anyhow::Result<BTreeSet<(Level, String)>> {
        let mut blocks = BTreeSet::new();
        for item in self.tree.scan_prefix(BLOCK) {
            let (key, _) = item.context("cannot read the history's ledger")?;
            let parsed = std::str::from_utf8(&key[BLOCK.len()..])
                .ok()
                .and_then(|rest| rest.split_once('/'))
                .and_then(|(level, name)| {
                    let level = Level::ALL.into_iter().find(|one| one.as_str() == level)?;
                    Some((level, name.to_owned()))
                });
            blocks.insert(parsed.ok_or_else(|| damaged(&key))?);
        }
        Ok(blocks)
    }

    /// Durable with the next sync of the database.
    pub(super) fn put_block(&self, level: Level, name: &str) -> anyhow::Result<()> {
        self.tree.insert(block(level, name), &[])?;
        Ok(())
    }

    /// Durable when it returns: then the files may go.
    pub(super) fn remove_blocks<'a>(
        &self,
        level: Level,
        names: impl Iterator<Item = &'a str>,
    ) -> anyhow::Result<()> {
        for name in names {
            self.tree.remove(block(level, name))?;
        }
        self.engine.sync()
    }

    pub(super) fn sync(&self) -> anyhow::Result<()> {
        self.engine.sync()
    }

    fn number(&self, key: &str) -> anyhow::Result<Option<u64>> {
        let value = self
            .tree
            .get(key)
            .context("cannot read the history's ledger")?;
        value
            .map(|value| {
                let bytes = value[..].try_into().map_err(|_| damaged(key.as_bytes()))?;
                Ok(u64::from_be_bytes(bytes))
            })
            .transpose()
    }

    /// The entry of a backup in the place of this one, as its generations are not in it: all of them must be told again. `None`: it is left out.
    pub(crate) fn for_backup<'a>(
        key: &[u8],
        value: &'a [u8],
        from: &'a [u8; 8],
    ) -> Option<&'a [u8]> {
        if key == FROM.as_bytes() {
            Some(from)
        } else if key.starts_with(GENERATION.as_bytes()) {
            None
        } else {
            Some(value)
        }
    }
}

fn generation(number: u64) -> String {
    format!("{GENERATION}{number:020}")
}

fn block(level: Level, name: &str) -> String {
    format!("{BLOCK}{}/{name}", level.as_str())
}

fn damaged(key: &[u8]) -> anyhow::Error {
    anyhow!(
        "the history's ledger is damaged: `{}` makes no sense; restore a backup",
        key.escape_ascii()
    )
}
