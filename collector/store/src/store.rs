//! The store of one data folder: log, history and state, and what keeps them in step.

use crate::engine::Engine;
use crate::history::{EmbeddedHistory, History, Retention};
use crate::log::{EmbeddedLog, Log, Position};
use crate::state::{Change, EmbeddedState, State, get_json};
use anyhow::{Context, bail};
use denyut_proto::UnixMillis;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where the history stands: the first position whose record must be appended again after a crash.
pub(crate) const HISTORY: &str = "history";

/// One for a data folder.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    pub(crate) engine: Arc<Engine>,
    /// What arrived.
    pub log: Arc<EmbeddedLog>,
    /// Every sample.
    pub history: Arc<EmbeddedHistory>,
    /// Everything small.
    pub state: Arc<EmbeddedState>,
    /// Records from here on must be appended to the history again before anything else is.
    pub replay_from: Position,
}

impl Store {
    /// Opens the store in `folder`, making it if needed. `now` is for what is made new.
    pub fn open(folder: &Path, now: UnixMillis) -> anyhow::Result<Self> {
        crate::migrate::bring_up(folder, now).with_context(|| {
            format!(
                "`data_dir`: cannot bring {} up to this version",
                folder.display()
            )
        })?;
        refuse_half(folder)?;
        let engine = Arc::new(Engine::open(&folder.join("state"))?);
        let state = Arc::new(EmbeddedState::open(&engine)?);
        crate::migrate::check(&state)?;
        let log = Arc::new(EmbeddedLog::open(&folder.join("log"))?);
        let safe: Option<Position> = get_json(&*state, HISTORY)?;
        let from = safe.unwrap_or_else(|| log.begin());
        let opened = EmbeddedHistory::open(folder, Arc::clone(&engine), from, now)?;
        let replay_from = opened.again_from.map_or(from, |again| again.min(from));
        Ok(Self {
            folder: folder.to_owned(),
            engine,
            log,
            history: Arc::new(opened.history),
            state,
            replay_from,
        })
    }

    /// Makes durable what was done up to the record `processed`, and deletes what of the log is not needed any more.
    pub fn checkpoint(&self, processed: Position) -> anyhow::Result<()> {
        let safe = self.history.checkpoint()?;
        let mut change = Change::default();
        change.put_json(HISTORY.to_owned(), &safe)?;
        self.state.apply(change)?;
        self.engine.check_present()?;
        self.engine.sync()?;
        let keep = self.history.keep_log_from();
        self.log.cut(safe.min(processed + 1).min(keep))
    }

    /// Puts finished days into blocks and deletes what is past its retention. It may take minutes. Half of `reserve`, in bytes, is left free for
    /// those who must go on writing meanwhile.
    pub fn upkeep(
        &self,
        now: UnixMillis,
        retention: &Retention,
        reserve: u64,
    ) -> anyhow::Result<()> {
        let room = self.room()?.saturating_sub(reserve / 2);
        self.history
            .upkeep(now, retention, self.log.bytes() + self.engine.bytes(), room)
    }

    /// Bytes on disk.
    pub fn bytes(&self) -> u64 {
        self.log.bytes() + self.history.bytes() + self.engine.bytes()
    }

    /// Bytes of the state on disk.
    pub fn state_bytes(&self) -> u64 {
        self.engine.bytes()
    }

    /// Bytes that the folder's disk has left for us.
    pub fn room(&self) -> anyhow::Result<u64> {
        let disk =
            rustix::fs::statvfs(&self.folder).context("cannot ask the disk for its free space")?;
        Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
    }

    /// The folder's files are there, and `state` is where it was.
    pub fn check_present(&self) -> anyhow::Result<()> {
        fs::metadata(self.folder.join("log"))
            .with_context(|| format!("{} is gone", self.folder.display()))?;
        self.engine.check_present()
    }
}

/// Refuses a folder whose state is gone: the rest of it means nothing without the links' numbers.
fn refuse_half(folder: &Path) -> anyhow::Result<()> {
    let database = folder.join("state/db");
    if database.exists() {
        return Ok(());
    }
    for part in ["log", "recent", "raw", "minute", "hour", "day"] {
        let part = folder.join(part);
        if part.exists() && fs::read_dir(&part)?.next().is_some() {
            bail!(
                "`data_dir`: {} is gone, and {} is not; put it back, restore a backup, or move the folder away to begin anew",
                database.display(),
                part.display()
            );
        }
    }
    Ok(())
}
