//! Looking for damage, and mending what can be mended.
//!
//! Everything but the state is files of our own with checksums, and can be checked while the collector runs. What is mended is never written over: the
//! damaged file is set aside as `*.quarantine-<n>`.

use crate::engine::Engine;
use crate::history;
use crate::log::{EmbeddedLog, LogReport, Position};
use crate::store::{PLACE, Place};
use anyhow::{Context, bail, ensure};
use std::path::Path;

/// What a look through a data folder found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The log.
    pub log: LogReport,
    /// Blocks, and generations beside them.
    pub files: u64,
    /// Samples in them, and rows.
    pub items: u64,
    /// Keys of the state; 0 if it was not looked at.
    pub keys: u64,
    /// What is wrong, each with its file and place.
    pub damage: Vec<String>,
}

/// What was done to mend a data folder.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Repaired {
    /// What was damaged and is mended, or set aside.
    pub done: Vec<String>,
    /// What cannot be mended.
    pub left: Vec<String>,
}

/// Reads and checks everything in `folder`; the state only if `state` (nobody else may have it open). Changes nothing.
pub fn verify(folder: &Path, state: bool) -> anyhow::Result<Report> {
    let mut report = verify_files(folder)?;
    if state {
        match check_state(folder, report.log.end) {
            Ok(keys) => report.keys = keys,
            Err(error) => report.damage.push(format!("{error:#}")),
        }
    }
    Ok(report)
}

/// The same of log and history alone.
pub(crate) fn verify_files(folder: &Path) -> anyhow::Result<Report> {
    let mut report = Report {
        log: EmbeddedLog::verify(&folder.join("log"))?,
        ..Report::default()
    };
    report.damage.append(&mut report.log.damage);
    history::verify(folder, &mut report)?;
    Ok(report)
}

/// Mends what is damaged in `folder`, which nobody may have open.
pub fn repair(folder: &Path) -> anyhow::Result<Repaired> {
    let mut repaired = Repaired {
        done: EmbeddedLog::repair(&folder.join("log"))?,
        left: Vec::new(),
    };
    repaired.done.extend(history::repair(folder)?);
    let end = EmbeddedLog::verify(&folder.join("log"))?.end;
    if let Err(error) = check_state(folder, end) {
        repaired.left.push(format!("{error:#}"));
    }
    Ok(repaired)
}

/// Reads the state; what it was made of must be in the log, which ends at `log_end`.
fn check_state(folder: &Path, log_end: Position) -> anyhow::Result<u64> {
    let path = folder.join("state");
    if !path.join("db").exists() {
        bail!("{} is gone; restore a backup", path.display());
    }
    let engine = Engine::open(&path).context("restore a backup")?;
    let mut keys = 0;
    for name in ["state", "links", "history"] {
        for item in &engine.tree(name)? {
            item.with_context(|| {
                format!(
                    "{}: `{name}` cannot be read; restore a backup",
                    path.display()
                )
            })?;
            keys += 1;
        }
    }
    if let Some(value) = engine.tree("state")?.get(PLACE)? {
        let place: Place = serde_json::from_slice(&value)
            .with_context(|| format!("{}: `{PLACE}` makes no sense", path.display()))?;
        ensure!(
            place.processed <= log_end,
            "{}: it ends at record {log_end}, and the state was made of all up to {}: its end is lost; agents send again what they still hold, and for the rest \
             restore a backup",
            folder.join("log").display(),
            place.processed
        );
    }
    Ok(keys)
}
