//! Copies of a store: taken while it is written, and put back.
//!
//! # Form, version 1
//!
//! A backup is a folder: `raw/ minute/ hour/ day/` hold the blocks (hard links where that is possible: blocks never change), `log/` all
//! segments, `authority/` what the collector certifies its agents with, if it made that itself, `state.dump` the state, and `backup.json` is written last: without it the backup is not whole. What was in no block yet is made again from
//! the log when the restored store is opened.
//!
//! ```text
//! state.dump = (tree varint length · name · key varint length · key · value varint length · value)* · crc32c u32 of all before
//! ```

use crate::engine::Engine;
use crate::history::column::{Reader, put_varint};
use crate::history::ledger::Ledger;
use crate::log::{Log, Position, sync_folder};
use crate::store::{AUTHORITY, SERIAL, Store};
use crate::verify::{Report, verify_files};
use anyhow::{Context, anyhow, bail, ensure};
use denyut_proto::UnixMillis;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::ErrorKind;
use std::io::Write;
use std::path::Path;

const VERSION: u32 = 1;
const MANIFEST: &str = "backup.json";
const DUMP: &str = "state.dump";
/// Folders of a backup.
const FOLDERS: [&str; 6] = ["log", "raw", "minute", "hour", "day", AUTHORITY];
/// Operations of one batch when the state is put back.
const BATCH: usize = 256;

/// What a backup says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    version: u32,
    /// When it was begun (the collector's clock).
    pub taken: UnixMillis,
    /// The last record of the log in it.
    pub position: Position,
    /// Every file but this one, and its bytes.
    pub files: Vec<(String, u64)>,
}

impl Manifest {
    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|(_, bytes)| bytes).sum()
    }
}

impl Store {
    /// Copies everything into the new folder `to`. Readers and writers go on; upkeep waits.
    pub fn backup(
        &self,
        to: &Path,
        processed: Position,
        now: UnixMillis,
    ) -> anyhow::Result<Manifest> {
        let cannot = || format!("cannot back up to {}", to.display());
        if to.exists() && fs::read_dir(to).with_context(cannot)?.next().is_some() {
            bail!(
                "{} is not empty; name a folder that is, or that does not exist",
                to.display()
            );
        }
        fs::create_dir_all(to)
            .map_err(|error| match error.kind() {
                ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied => {
                    anyhow!("{error}; let the collector's service write there (`ReadWritePaths=` by `systemctl edit denyut-collector`, and the folder's owner)")
                }
                _ => error.into(),
            })
            .with_context(cannot)?;
        // Only one of two that come at once makes it.
        fs::create_dir(to.join(FOLDERS[0])).with_context(cannot)?;
        let quiet = self.history.pause_upkeep();
        let uncut = self.log.pause_cut();
        self.checkpoint(processed)?;
        let from = self.history.keep_log_from();
        let blocks = self.history.block_files();
        let mut files = Vec::new();
        // The state before the log: everything that it is ahead by is in the log.
        let dump = self.dump_state(from)?;
        write(&to.join(DUMP), &dump).with_context(cannot)?;
        files.push((DUMP.to_owned(), dump.len() as u64));
        let position = self.log.end();
        for folder in &FOLDERS[1..] {
            fs::create_dir(to.join(folder)).with_context(cannot)?;
        }
        for path in self.log.files() {
            let name = format!("log/{}", file_name(&path)?);
            fs::copy(&path, to.join(&name)).with_context(cannot)?;
            let file = File::open(to.join(&name))?;
            file.sync_all().with_context(cannot)?;
            files.push((name, file.metadata()?.len()));
        }
        drop(uncut);
        for (level, path) in blocks {
            let name = format!("{}/{}", level.as_str(), file_name(&path)?);
            let copy = to.join(&name);
            if fs::hard_link(&path, &copy).is_err() {
                fs::copy(&path, &copy).with_context(cannot)?;
                File::open(&copy)?.sync_all().with_context(cannot)?;
            }
            files.push((name, fs::metadata(&copy)?.len()));
        }
        drop(quiet);
        files.extend(self.copy_authority(to).with_context(cannot)?);
        for folder in FOLDERS {
            sync_folder(&to.join(folder)).with_context(cannot)?;
        }
        let manifest = Manifest {
            version: VERSION,
            taken: now,
            position,
            files,
        };
        write(&to.join(MANIFEST), &serde_json::to_vec_pretty(&manifest)?).with_context(cannot)?;
        sync_folder(to).with_context(cannot)?;
        Ok(manifest)
    }

    /// All keys of the state and the links, as one moment saw them; `from` is where a restored store replays the log from.
    /// The authority's files, which only their owner may read, as the copies.
    fn copy_authority(&self, to: &Path) -> anyhow::Result<Vec<(String, u64)>> {
        let mut files = Vec::new();
        let folder = self.folder().join(AUTHORITY);
        if !folder.exists() {
            return Ok(files);
        }
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            let name = format!("{AUTHORITY}/{}", file_name(&path)?);
            fs::copy(&path, to.join(&name))?;
            let file = File::open(to.join(&name))?;
            file.sync_all()?;
            files.push((name, file.metadata()?.len()));
        }
        Ok(files)
    }

    fn dump_state(&self, from: Position) -> anyhow::Result<Vec<u8>> {
        let mut out = Vec::new();
        let mut put = |tree: &str, key: &[u8], value: &[u8]| {
            for part in [tree.as_bytes(), key, value] {
                put_varint(&mut out, part.len() as u64);
                out.extend_from_slice(part);
            }
        };
        let held = self.state.hold();
        for item in &self.engine.tree("state")? {
            let (key, value) = item.context("cannot read the state")?;
            put("state", &key, &value);
        }
        drop(held);
        for item in &self.engine.tree("links")? {
            let (key, value) = item.context("cannot read the links")?;
            put("links", &key, &value);
        }
        let from = from.to_be_bytes();
        for item in &self.engine.tree("history")? {
            let (key, value) = item.context("cannot read the history's ledger")?;
            if let Some(value) = Ledger::for_backup(&key, &value, &from) {
                put("history", &key, value);
            }
        }
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        Ok(out)
    }
}

/// Checks a backup: every file is there, and nothing in it is damaged.
pub fn verify_backup(from: &Path) -> anyhow::Result<(Manifest, Report)> {
    let manifest = read_manifest(from)?;
    let mut report = verify_files(from)?;
    if let Err(error) = read_dump(&from.join(DUMP)) {
        report.damage.push(format!("{error:#}"));
    }
    if report.log.end < manifest.position {
        report.damage.push(format!(
            "{}: it ends at record {}, and was taken at {}",
            from.join("log").display(),
            report.log.end,
            manifest.position
        ));
    }
    Ok((manifest, report))
}

/// The manifest; an error if a file that it names is not there, or of another length.
fn read_manifest(from: &Path) -> anyhow::Result<Manifest> {
    let manifest = fs::read(from.join(MANIFEST)).with_context(|| {
        format!(
            "{} is no whole backup: it has no {MANIFEST}",
            from.display()
        )
    })?;
    let manifest: Manifest = serde_json::from_slice(&manifest)
        .with_context(|| format!("{} is damaged", from.join(MANIFEST).display()))?;
    ensure!(
        manifest.version == VERSION,
        "{} is of version {}, and this program reads {VERSION}",
        from.display(),
        manifest.version
    );
    for (name, bytes) in &manifest.files {
        // As `backup` names them: a file of one of the folders, and nothing that leads elsewhere.
        let known = name == DUMP
            || name.split_once('/').is_some_and(|(folder, file)| {
                FOLDERS.contains(&folder) && !file.contains(['/', '\\']) && file != ".."
            });
        ensure!(
            known,
            "the backup is damaged: {MANIFEST} names `{}`, which is no file of a backup",
            name.escape_debug()
        );
        let path = from.join(name);
        let found = fs::symlink_metadata(&path)
            .with_context(|| format!("the backup is not whole: {}", path.display()))?;
        ensure!(
            found.is_file() && found.len() == *bytes,
            "the backup is damaged: {} has {} bytes instead of {bytes}",
            path.display(),
            found.len()
        );
    }
    Ok(manifest)
}

/// Puts a backup into the data folder `to`, in which there must be no store. What was begun and not finished is begun anew.
pub fn restore(from: &Path, to: &Path) -> anyhow::Result<Manifest> {
    let manifest = read_manifest(from)?;
    let dump = read_dump(&from.join(DUMP))?;
    let cannot = || format!("cannot restore to {}", to.display());
    let new = to.join("restoring");
    if new.exists() {
        fs::remove_dir_all(&new).with_context(cannot)?;
        // One that was cut off while it put its parts into place; the state comes last.
        for part in FOLDERS.map(|folder| to.join(folder)) {
            if part.exists() && !to.join("state").exists() {
                fs::remove_dir_all(part).with_context(cannot)?;
            }
        }
    }
    for part in FOLDERS.into_iter().chain(["state", "recent"]) {
        ensure!(
            !to.join(part).exists(),
            "`data_dir`: {} is there; restore into a folder without a store",
            to.join(part).display()
        );
    }
    fs::create_dir_all(&new).with_context(cannot)?;
    for folder in FOLDERS {
        fs::create_dir(new.join(folder)).with_context(cannot)?;
    }
    for (name, _) in manifest.files.iter().filter(|(name, _)| name != DUMP) {
        let path = new.join(name);
        fs::copy(from.join(name), &path).with_context(cannot)?;
        File::open(&path)?.sync_all().with_context(cannot)?;
    }
    for folder in FOLDERS {
        sync_folder(&new.join(folder)).with_context(cannot)?;
    }
    restore_state(&dump, &new).with_context(cannot)?;
    // Of another store, if there was one.
    if to.join(SERIAL).exists() {
        fs::remove_file(to.join(SERIAL)).with_context(cannot)?;
    }
    // The state last: a folder without it is refused, so a restore that was cut off is no store.
    for part in FOLDERS.into_iter().chain(["state"]) {
        fs::rename(new.join(part), to.join(part)).with_context(cannot)?;
    }
    fs::remove_dir(&new).with_context(cannot)?;
    sync_folder(to).with_context(cannot)?;
    Ok(manifest)
}

/// A dump without its checksum, checked.
fn read_dump(dump: &Path) -> anyhow::Result<Vec<u8>> {
    let damaged = || format!("{} is damaged", dump.display());
    let mut bytes = fs::read(dump).with_context(|| format!("cannot read {}", dump.display()))?;
    let (body, crc) = bytes.split_last_chunk::<4>().with_context(damaged)?;
    ensure!(crc32c::crc32c(body) == u32::from_le_bytes(*crc), damaged());
    bytes.truncate(bytes.len() - 4);
    Ok(bytes)
}

fn restore_state(body: &[u8], to: &Path) -> anyhow::Result<()> {
    let engine = Engine::open(&to.join("state"))?;
    let mut read = Reader::new(body);
    let mut batches: std::collections::BTreeMap<String, (sled::Batch, usize)> =
        std::collections::BTreeMap::new();
    while !read.is_empty() {
        let mut part = || -> anyhow::Result<&[u8]> {
            let length = read.count(body.len())?;
            read.take(length)
        };
        let (tree, key, value) = (part()?, part()?, part()?);
        let tree = std::str::from_utf8(tree).context("a tree whose name is not text")?;
        let (batch, count) = batches.entry(tree.to_owned()).or_default();
        batch.insert(key, value);
        *count += 1;
        if *count == BATCH {
            engine.tree(tree)?.apply_batch(std::mem::take(batch))?;
            *count = 0;
        }
    }
    for (tree, (batch, _)) in batches {
        engine.tree(&tree)?.apply_batch(batch)?;
    }
    engine.sync()
}

fn file_name(path: &Path) -> anyhow::Result<&str> {
    path.file_name()
        .and_then(|name| name.to_str())
        .with_context(|| format!("{} has no name", path.display()))
}

fn write(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}
