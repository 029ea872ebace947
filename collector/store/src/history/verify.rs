//! The history's part of [`crate::verify`].

use super::block::{Block, Writer};
use super::catalog::DayBlock;
use super::column::Reader;
use super::generation::{Damaged, Generation};
use super::ledger::Ledger;
use super::opening::generation_files;
use super::rollup::{self, DAY_MS, Level};
use super::{catalog, codec};
use crate::engine::Engine;
use crate::quarantine;
use crate::verify::Report;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Checks every block and generation.
pub(crate) fn verify(folder: &Path, report: &mut Report) -> anyhow::Result<()> {
    for level in Level::ALL {
        for path in files(&folder.join(level.as_str()), "block")? {
            let (items, mut wrong) = check_block(&path, level);
            // It may have been replaced or expired since it was listed.
            if path.exists() {
                report.files += 1;
                report.items += items;
                report.damage.append(&mut wrong);
            }
        }
    }
    for path in files(&folder.join("recent"), "chunks")? {
        let (items, mut wrong) = check_generation(folder, &path);
        if path.exists() {
            report.files += 1;
            report.items += items;
            report.damage.append(&mut wrong);
        }
    }
    Ok(())
}

/// What the ledger says must be there, and is not.
pub(crate) fn check_ledger(
    folder: &Path,
    engine: &Arc<Engine>,
    damage: &mut Vec<String>,
) -> anyhow::Result<()> {
    let ledger = Ledger::open(engine)?;
    for (level, name) in ledger.blocks()? {
        let path = folder.join(level.as_str()).join(&name);
        if !path.exists() {
            damage.push(format!("{}: it is gone; restore a backup", path.display()));
        }
    }
    let files = generation_files(&folder.join("recent"))?;
    for (number, living) in ledger.generations()? {
        if !files.contains_key(&number) {
            damage.push(format!(
                "{}: generation {number} is gone; the next start makes it again from the log, from record {} on",
                folder.join("recent").display(),
                living.from
            ));
        }
    }
    Ok(())
}

/// Mends what is damaged; tells what was done about each. Blocks that are set aside are taken out of the ledger, if it can be opened.
pub(crate) fn repair(folder: &Path, engine: Option<&Arc<Engine>>) -> anyhow::Result<Vec<String>> {
    let ledger = engine.map(Ledger::open).transpose()?;
    let forget = |level: Level, path: &Path| -> anyhow::Result<()> {
        if let (Some(ledger), Some(name)) = (&ledger, path.file_name().and_then(|n| n.to_str())) {
            ledger.remove_blocks(level, std::iter::once(name))?;
        }
        Ok(())
    };
    let mut done = Vec::new();
    for level in Level::ALL {
        for path in files(&folder.join(level.as_str()), "block")? {
            let (_, wrong) = check_block(&path, level);
            if wrong.is_empty() {
                continue;
            }
            if catalog::parse_name(&path).is_none() {
                done.push(format!(
                    "{}: set aside as {}: no block has such a name",
                    path.display(),
                    quarantine(&path)?.display()
                ));
                continue;
            }
            let kept = if level == Level::Raw {
                salvage(&path)?
            } else {
                readable(&path, level)
            };
            let aside = quarantine(&path)?;
            let (links, items) = (
                kept.len(),
                kept.values().map(|(_, items)| items).sum::<u64>(),
            );
            if kept.is_empty() {
                forget(level, &path)?;
            } else {
                // By its own name: what is newer knows more, and keeps the last word.
                let mut writer = Writer::create(&path)?;
                for (link, (value, items)) in &kept {
                    writer.add(*link, value, *items)?;
                }
                writer.finish()?;
            }
            done.extend(wrong);
            done.push(format!(
                "{}: {links} links with {items} {} are whole and were put into a new block; the damaged one is {}",
                path.display(),
                if level == Level::Raw { "samples" } else { "rows" },
                aside.display()
            ));
        }
    }
    for path in files(&folder.join("recent"), "chunks")? {
        let (_, wrong) = check_generation(folder, &path);
        if wrong.is_empty() {
            continue;
        }
        let aside = quarantine(&path)?;
        // Without its mark it is known to have lost something, and is made again.
        fs::File::create(&path)?.sync_all()?;
        done.extend(wrong);
        done.push(format!(
            "{}: set aside as {}; the next start makes it again from the log",
            path.display(),
            aside.display()
        ));
    }
    Ok(done)
}

fn files(folder: &Path, extension: &str) -> anyhow::Result<Vec<PathBuf>> {
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|of| of == extension) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Samples or rows of a block, and what is wrong with it.
fn check_block(path: &Path, level: Level) -> (u64, Vec<String>) {
    let block = match DayBlock::open(path) {
        Ok(block) => block,
        Err(error) => return (0, vec![format!("{error:#}")]),
    };
    let (mut items, mut wrong) = (0, Vec::new());
    for slot in block.block.slots() {
        let checked = slot.and_then(|slot| {
            let value = block.block.value(slot)?;
            check_value(&value, slot.link, level)
        });
        match checked {
            Ok(count) => items += count,
            Err(error) => {
                let text = format!("{error:#}");
                let named = text.contains(block.block.name());
                wrong.push(if named {
                    text
                } else {
                    format!("{}: {text}", path.display())
                });
            }
        }
    }
    (items, wrong)
}

fn check_value(value: &[u8], link: u32, level: Level) -> anyhow::Result<u64> {
    let mut count = 0;
    if level == Level::Raw {
        let (mut rest, mut samples) = (value, Vec::new());
        while !rest.is_empty() {
            let peek = codec::decode(rest, &mut samples)?;
            anyhow::ensure!(
                peek.link == link,
                "a chunk of link {} in the entry of link {link}",
                peek.link
            );
            rest = &rest[peek.length..];
        }
        return Ok(samples.len() as u64);
    }
    let mut read = Reader::new(value);
    while !read.is_empty() {
        let day = read.varint()?.cast_signed();
        let length = read.count(value.len())?;
        count +=
            rollup::decode(read.take(length)?, day.saturating_mul(DAY_MS), level)?.len() as u64;
    }
    Ok(count)
}

fn check_generation(folder: &Path, path: &Path) -> (u64, Vec<String>) {
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    let Some((number, from, day)) = Generation::parse(name) else {
        return (
            0,
            vec![format!("{}: no generation has such a name", path.display())],
        );
    };
    match Generation::look(&folder.join("recent"), number, from, day)
        .and_then(|generation| generation.check())
    {
        Ok(found) => found,
        Err(error) if error.is::<Damaged>() => (0, vec![format!("{}: {error:#}", path.display())]),
        Err(error) => (0, vec![format!("{error:#}")]),
    }
}

/// The whole chunks of a block of samples, found by their own marks: whatever happened to the block around them.
fn salvage(path: &Path) -> anyhow::Result<BTreeMap<u32, (Vec<u8>, u64)>> {
    let bytes = fs::read(path)?;
    let mut kept: BTreeMap<u32, (Vec<u8>, u64)> = BTreeMap::new();
    let (mut at, mut samples) = (0, Vec::new());
    while at + codec::HEADER <= bytes.len() {
        samples.clear();
        match codec::decode(&bytes[at..], &mut samples) {
            Ok(peek) => {
                let (value, items) = kept.entry(peek.link).or_default();
                value.extend_from_slice(&bytes[at..at + peek.length]);
                *items += samples.len() as u64;
                at += peek.length;
            }
            Err(_) => at += 1,
        }
    }
    Ok(kept)
}

/// The entries of a block of rows that are whole, and make sense.
fn readable(path: &Path, level: Level) -> BTreeMap<u32, (Vec<u8>, u64)> {
    let Ok(block) = Block::open(path) else {
        return BTreeMap::new();
    };
    let slots = block.slots().filter_map(Result::ok);
    let whole = slots.filter_map(|slot| {
        let value = block.value(slot).ok()?;
        let rows = check_value(&value, slot.link, level).ok()?;
        Some((slot.link, (value, rows)))
    });
    whole.collect()
}
