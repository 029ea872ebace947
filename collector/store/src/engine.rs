//! The one place that opens sled 0.34.7 and makes it durable.
//!
//! What this version does not do by itself, and is done here:
//! - `flush()` asks the system to write, but not the disk to keep: [`Engine::sync`] adds an `fdatasync` of
//!   the database file.
//! - A new database's files and folders are never synced: they are, right after it is made.
//! - At each open it writes a snapshot, whose name it does not sync, and then overwrites segments that nothing in the snapshot points to. Without
//!   that snapshot the rest is found empty: the folder is synced after each open.
//! - A snapshot that a kill left half-written (`snap.*.generating`) would be taken for damage: it is deleted first.
//! - Garbage is collected only in the background flush: it stays on.
//! - A batch of thousands of operations takes gigabytes, values near 128 KiB leave the database file: see
//!   [`BATCH_MAX`] and [`VALUE_MAX`].
//! - Opening a damaged database may panic: that becomes an error.

use anyhow::{Context, anyhow};
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Operations of one `apply_batch`, at most.
pub(crate) const BATCH_MAX: usize = 512;
/// Bytes of one value, at most: far below where sled writes it to a file of its own that it never syncs.
pub(crate) const VALUE_MAX: usize = 64 * 1024;

const CACHE_BYTES: u64 = 64 << 20;
const FLUSH_EVERY_MS: u64 = 500;

/// The database cannot be opened because what it holds is damaged.
#[derive(Debug, thiserror::Error)]
#[error("the database is damaged")]
pub struct Damaged;

/// An open database.
#[derive(Debug)]
pub struct Engine {
    db: sled::Db,
    /// The file that sled writes, and a handle of our own on it.
    path: PathBuf,
    file: File,
    /// sled's `flush` is for one thread at a time.
    syncing: Mutex<()>,
}

impl Engine {
    /// Opens the database in `path`, making it if needed.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let cannot = || format!("cannot open the database {}", path.display());
        let new = !path.join("db").exists();
        if !new {
            remove_half_snapshots(path).with_context(cannot)?;
        }
        let db = open_db(path).map_err(|error| error.context(cannot()))?;
        if new {
            sync_all(path).with_context(cannot)?;
        } else {
            File::open(path)
                .and_then(|folder| folder.sync_all())
                .with_context(cannot)?;
        }
        let file = File::options()
            .write(true)
            .open(path.join("db"))
            .with_context(cannot)?;
        let path = path.join("db");
        Ok(Self {
            db,
            path,
            file,
            syncing: Mutex::default(),
        })
    }

    /// An error if the database file was deleted or replaced while it is open: what is written to it is lost.
    pub fn check_present(&self) -> anyhow::Result<()> {
        let gone = || format!("the database file {} is gone", self.path.display());
        let (there, ours) = (
            fs::metadata(&self.path).with_context(gone)?,
            self.file.metadata()?,
        );
        if (there.dev(), there.ino()) != (ours.dev(), ours.ino()) {
            return Err(anyhow!("{} and another file stands in its place", gone()));
        }
        Ok(())
    }

    /// The tree of this name, made if needed.
    pub(crate) fn tree(&self, name: &str) -> sled::Result<sled::Tree> {
        self.db.open_tree(name)
    }

    /// Returns when everything written before the call would survive a power cut.
    pub fn sync(&self) -> anyhow::Result<()> {
        let _syncing = self.syncing.lock().unwrap_or_else(PoisonError::into_inner);
        self.db.flush().context("the database cannot write")?;
        self.file.sync_data().context("the database cannot sync")
    }

    /// Bytes of the database on disk.
    pub fn bytes(&self) -> u64 {
        self.db.size_on_disk().unwrap_or(0)
    }
}

fn open_db(path: &Path) -> anyhow::Result<sled::Db> {
    let config = sled::Config::default()
        .path(path)
        .cache_capacity(CACHE_BYTES)
        .flush_every_ms(Some(FLUSH_EVERY_MS))
        .use_compression(false);
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| config.open())) {
        Ok(Err(error @ sled::Error::Corruption { .. })) => Err(anyhow!(error).context(Damaged)),
        Ok(opened) => Ok(opened?),
        Err(_) => Err(anyhow!("sled panicked").context(Damaged)),
    }
}

fn remove_half_snapshots(path: &Path) -> anyhow::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn sync_all(path: &Path) -> anyhow::Result<()> {
    let parent: PathBuf = path.parent().map_or_else(|| ".".into(), Path::to_owned);
    for part in [path.join("conf"), path.join("db"), path.join("blobs")] {
        if part.exists() {
            File::open(&part)?.sync_all()?;
        }
    }
    for folder in [path, &parent] {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

/// Opens a database that may have been closed in this process a moment ago: sled gives its lock up a little
/// after the last handle is dropped.
#[doc(hidden)]
pub fn open_again(path: &Path) -> std::sync::Arc<Engine> {
    let give_up = std::time::Instant::now() + std::time::Duration::from_secs(20);
    loop {
        match Engine::open(path) {
            Ok(engine) => return std::sync::Arc::new(engine),
            Err(error) if std::time::Instant::now() > give_up => panic!("{error:#}"),
            Err(error) => assert!(format!("{error:#}").contains("lock"), "{error:#}"),
        }
        std::thread::yield_now();
    }
}
