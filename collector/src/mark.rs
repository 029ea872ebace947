//! How far the log had come, kept beside the database: so that a database that lost its tail, or is gone, does not pass for
//! a whole one. sled takes damage in the middle of its file for a torn tail, and says nothing.

use crate::log::Position;
use anyhow::{Context, bail};
use std::fs;
use std::path::{Path, PathBuf};
use tracing::error;

/// The file.
#[derive(Debug)]
pub(crate) struct Mark(PathBuf);

impl Mark {
    /// The mark of a data folder. Refuses a folder whose database is gone.
    pub(crate) fn open(data_dir: &Path, database: &Path) -> anyhow::Result<Self> {
        let mark = Self(data_dir.join("end"));
        if mark.0.exists() && !database.join("db").exists() {
            bail!(
                "`data_dir`: the database {} is gone; put it back, or delete {} to begin anew",
                database.display(),
                mark.0.display()
            );
        }
        Ok(mark)
    }

    /// Compares the log's end with the mark; returns how many records are missing, and says so.
    pub(crate) fn missing(&self, end: Position) -> u64 {
        let noted = fs::read_to_string(&self.0).ok();
        let noted: Position = noted.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        let missing = noted.saturating_sub(end);
        if missing > 0 {
            error!(
                missing,
                end,
                "the database lost the end of the log (damage, or an older copy); agents send again what they still hold; restore a backup for the rest"
            );
        }
        missing
    }

    /// Notes the log's end.
    pub(crate) fn note(&self, end: Position) -> anyhow::Result<()> {
        let new = self.0.with_extension("new");
        fs::write(&new, format!("{end}\n"))
            .and_then(|()| fs::rename(&new, &self.0))
            .with_context(|| format!("cannot write {}", self.0.display()))
    }
}
