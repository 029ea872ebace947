//! Opening a history: what is there, what must be there by the ledger, and what has to be told again where the two differ.

use super::block::Block;
use super::catalog::{Catalog, DayBlock};
use super::embedded::{EmbeddedHistory, Opened};
use super::generation::{CLUSTER, Damaged, Generation};
use super::ledger::{Ledger, Living};
use super::links::Links;
use super::open::Open;
use super::rollup::{DAY_MS, Level};
use crate::engine::Engine;
use crate::log::{Position, sync_folder};
use crate::quarantine;
use anyhow::{Context, ensure};
use denyut_proto::UnixMillis;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, RwLock};
use tracing::{error, warn};

impl EmbeddedHistory {
    /// Opens the history in `folder`, making it if needed; a new one has nothing of the log, which begins at `begin`. `now` is for what is made new.
    pub fn open(
        folder: &Path,
        engine: Arc<Engine>,
        begin: Position,
        now: UnixMillis,
    ) -> anyhow::Result<Opened> {
        Self::open_inner(folder, engine, begin, now)
            .with_context(|| format!("cannot open the history in {}", folder.display()))
    }

    fn open_inner(
        folder: &Path,
        engine: Arc<Engine>,
        begin: Position,
        now: UnixMillis,
    ) -> anyhow::Result<Opened> {
        let recent = folder.join("recent");
        for name in ["recent", "raw", "minute", "hour", "day"] {
            fs::create_dir_all(folder.join(name))?;
        }
        // What is synced inside of a folder is lost with it.
        sync_folder(folder)?;
        sweep(folder)?;
        let ledger = Ledger::open(&engine)?;
        let from = ledger.from()?.unwrap_or(begin);
        // Nothing of the present day or later is ever let go: a clock that was wrong may have said so.
        let today = UnixMillis(now.0.div_euclid(DAY_MS) * DAY_MS);
        let kept_from = ledger.kept_from()?.min(today).max(UnixMillis(0));
        let files = generation_files(&recent)?;
        let mut blocks = load_blocks(folder, &files.keys().copied().collect(), &ledger, kept_from)?;
        let found = find_generations(&recent, &files, &blocks, &ledger, from)?;
        let links = Links::open(engine.tree("links")?)?;
        check_links(links.len(), &blocks, &found.sound)?;

        // What must be told again is known by the next start too, before anything is set aside.
        let replay_from = found.again_from.map_or(from, |again| again.min(from));
        if found.again_from.is_some() {
            ledger.set_from(replay_from)?;
        }
        if !found.lost.is_empty() {
            for number in &found.lost {
                ledger.remove_generation(*number)?;
            }
            ledger.sync()?;
            for path in &found.damaged {
                let aside = quarantine(path)?;
                error!(aside = %aside.display(), "the damaged generation is set aside");
            }
        }
        let mut frozen = found.sound;
        let highest = [
            files.keys().next_back().copied(),
            found.lost.iter().next_back().copied(),
            frozen.last().map(|generation| generation.number),
            blocks.made_of.iter().next_back().copied(),
        ];
        let highest = highest.into_iter().flatten().max().unwrap_or(0);
        let active = match frozen.last() {
            // Only the highest may be written on: those below it are on their way into blocks. And what is told goes into one that says from where on.
            Some(last) if last.number == highest && last.from <= replay_from => frozen.pop(),
            _ => None,
        };
        let active = if let Some(active) = active {
            active
        } else {
            let day = now.0.div_euclid(DAY_MS);
            Arc::new(Generation::create(&recent, highest + 1, replay_from, day)?)
        };
        enter(&ledger, &frozen, &active)?;
        let levels = std::mem::take(&mut blocks.levels);
        let history = Self {
            folder: folder.to_owned(),
            engine,
            ledger,
            links: RwLock::new(links),
            open: Mutex::new(Open::new(replay_from, kept_from)),
            keeping_up: Mutex::new(()),
            sealing: Mutex::new(()),
            catalog: RwLock::new(Arc::new(Catalog {
                active,
                frozen,
                levels,
            })),
            next_id: AtomicU64::new(blocks.next_id),
            stopped: AtomicBool::new(false),
            damaged: AtomicU64::new(blocks.damaged + found.again_count),
        };
        Ok(Opened {
            history,
            replay_from,
        })
    }
}

/// Enters the generations that live: those that are frozen are whole to their mark, and what they lacked of it is told again.
pub(super) fn enter(
    ledger: &Ledger,
    frozen: &[Arc<Generation>],
    active: &Generation,
) -> anyhow::Result<()> {
    let entered = ledger.generations()?;
    let frozen = frozen.iter().map(|one| (&**one, one.mark()));
    for (generation, whole_to) in frozen.chain([(active, 0)]) {
        let living = Living {
            from: generation.from,
            whole_to,
        };
        if entered.get(&generation.number) != Some(&living) {
            ledger.put_generation(generation.number, living)?;
        }
    }
    Ok(())
}

/// Files of generations by number, with first position and day.
pub(super) fn generation_files(recent: &Path) -> anyhow::Result<BTreeMap<u64, (Position, i64)>> {
    let mut files = BTreeMap::new();
    if !recent.exists() {
        return Ok(files);
    }
    for entry in fs::read_dir(recent)? {
        let entry = entry?;
        let name = entry.file_name();
        let parsed = name.to_str().and_then(Generation::parse);
        if let Some((number, from, day)) = parsed
            && entry.file_type()?.is_file()
        {
            files.insert(number, (from, day));
        }
    }
    Ok(files)
}

/// What was found of generations.
#[derive(Default)]
struct Found {
    sound: Vec<Arc<Generation>>,
    /// Paths of those that cannot be relied on.
    damaged: Vec<PathBuf>,
    /// Numbers of those that are gone, or damaged.
    lost: BTreeSet<u64>,
    again_from: Option<Position>,
    again_count: u64,
}

impl Found {
    fn again(&mut self, from: Position) {
        self.again_from = Some(self.again_from.map_or(from, |again| again.min(from)));
        self.again_count += 1;
    }
}

fn find_generations(
    recent: &Path,
    files: &BTreeMap<u64, (Position, i64)>,
    blocks: &Blocks,
    ledger: &Ledger,
    from: Position,
) -> anyhow::Result<Found> {
    let mut found = Found::default();
    let living = ledger.generations()?;
    for (number, living) in &living {
        if files.contains_key(number) {
            continue;
        }
        found.lost.insert(*number);
        // Else it was put into blocks, and the crash came before that was entered.
        if !blocks.made_of.contains(number) {
            error!(folder = %recent.display(), number, from = living.from, "a generation is gone; it is made again from the log");
            found.again(living.from);
        }
    }
    for (number, (first, day)) in files {
        let whole_to = match living.get(number) {
            Some(Living { whole_to: 0, .. }) => from,
            Some(living) => living.whole_to,
            // A crash came before it was entered, and nothing was in it; or after it was put into blocks, and all of it was.
            None => 0,
        };
        let needed = if whole_to == 0 {
            Position::MAX
        } else {
            whole_to
        };
        match Generation::open(recent, *number, *first, *day, needed) {
            Ok(generation) => {
                let mark = generation.mark();
                if mark < whole_to {
                    error!(path = %generation.path.display(), mark, whole_to, "a generation lost its newest chunks (damage, or an older copy); they are made again from the log");
                    found.again(*first);
                }
                found.sound.push(Arc::new(generation));
            }
            Err(error) if error.is::<Damaged>() => {
                let path = Generation::path_of(recent, *number, *first, *day);
                error!(path = %path.display(), error = %format!("{error:#}"), "a generation is damaged; it is made again from the log");
                found.damaged.push(path);
                found.lost.insert(*number);
                found.again(*first);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// A number that files use must have a name: else a new link would be given it, and with it another's samples.
fn check_links(
    count: usize,
    blocks: &Blocks,
    generations: &[Arc<Generation>],
) -> anyhow::Result<()> {
    let in_blocks = blocks.levels.values().flatten();
    let in_blocks = in_blocks.filter_map(|block| block.block.last_link());
    let in_generations = generations.iter().filter_map(|one| one.last_cluster());
    let in_generations = in_generations.map(|cluster| cluster * CLUSTER);
    if let Some(highest) = in_blocks.chain(in_generations).max() {
        ensure!(
            (highest as usize) < count,
            "the state knows {count} links, and the history's files have samples of link {highest}: the state is older than they are, or of another \
             collector; restore a backup"
        );
    }
    Ok(())
}

/// Removes what a crash left half done.
fn sweep(folder: &Path) -> anyhow::Result<()> {
    for name in ["recent", "raw", "minute", "hour", "day"] {
        for entry in fs::read_dir(folder.join(name))? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "new") {
                fs::remove_file(&path)?;
            }
        }
    }
    Ok(())
}

/// All blocks that count.
struct Blocks {
    levels: BTreeMap<Level, Vec<Arc<DayBlock>>>,
    next_id: u64,
    /// Generations that were put into them.
    made_of: BTreeSet<u64>,
    /// Blocks that are damaged or gone.
    damaged: u64,
}

/// All blocks but those that are not needed: made of a generation that is still there (it will be put into blocks again), or replaced by
/// another.
fn load_blocks(
    folder: &Path,
    generations: &BTreeSet<u64>,
    ledger: &Ledger,
    kept_from: UnixMillis,
) -> anyhow::Result<Blocks> {
    let mut all = Blocks {
        levels: BTreeMap::new(),
        next_id: 1,
        made_of: BTreeSet::new(),
        damaged: 0,
    };
    let mut expected = ledger.blocks()?;
    for level in Level::ALL {
        let mut blocks = Vec::new();
        for entry in fs::read_dir(folder.join(level.as_str()))? {
            let path = entry?.path();
            let is_block = path.extension().is_some_and(|of| of == "block");
            if !is_block || !path.is_file() {
                continue;
            }
            match DayBlock::open(&path) {
                Ok(block) => blocks.push(block),
                Err(error) => {
                    let aside = quarantine(&path)?;
                    all.damaged += 1;
                    error!(aside = %aside.display(), error = %format!("{error:#}"), "a block is damaged; it is set aside");
                    ledger.remove_blocks(level, file_name(&path).into_iter())?;
                    expected.retain(|(of, name)| *of != level || Some(&**name) != file_name(&path));
                }
            }
        }
        let replaced: BTreeSet<String> = blocks
            .iter()
            .flat_map(|block| block.block.footer.replaces.clone())
            .collect();
        let mut kept = Vec::new();
        for block in blocks {
            all.next_id = all.next_id.max(block.id.saturating_add(1));
            let made_of = block.block.footer.generation;
            let again = made_of.is_some_and(|number| generations.contains(&number));
            if !again {
                all.made_of.extend(made_of);
            }
            let name = block.block.name().to_owned();
            // Or what was let go: part of a day would pass for the whole.
            let entered = expected.contains(&(level, name.clone()));
            let kept_from = kept_from.0.div_euclid(DAY_MS);
            let let_go = level == Level::Raw && !entered && block.last < kept_from;
            if again || let_go || replaced.contains(&name) {
                warn!(block = %block.block.path.display(), "a block that a crash left over is removed");
                ledger.remove_blocks(level, std::iter::once(&*name))?;
                fs::remove_file(&block.block.path)?;
            } else {
                if !entered {
                    ledger.put_block(level, &name)?;
                }
                kept.push(Arc::new(block));
            }
            expected.remove(&(level, name));
        }
        kept.sort_by_key(|block| block.id);
        all.levels.insert(level, kept);
    }
    for (level, name) in expected {
        all.damaged += 1;
        error!(
            level = level.as_str(),
            name, "a block is gone; restore it from a backup if there is one"
        );
        ledger.remove_blocks(level, std::iter::once(&*name))?;
    }
    Ok(all)
}

fn file_name(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()
}

impl Block {
    /// The highest link in it; `None` if its last page cannot be read.
    fn last_link(&self) -> Option<u32> {
        let page = self.footer.firsts.len().checked_sub(1)?;
        self.page(page).ok()?.last().map(|slot| slot.link)
    }
}
