//! Looking for damage, and mending what can be mended.
//!
//! Everything but the state is files of our own with checksums, and can be checked while the collector runs. What is mended is never written over: the
//! damaged file is set aside as `*.quarantine-<n>`.

use crate::engine::Engine;
use crate::history;
use crate::log::{EmbeddedLog, LogReport};
use crate::store::{PLACE, Place, read_serial};
use anyhow::{Context, bail};
use std::path::Path;
use std::sync::Arc;

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
        match open_state(folder) {
            Ok(engine) => check_state(folder, &engine, &mut report)?,
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
    let state = open_state(folder);
    let mut repaired = Repaired {
        done: EmbeddedLog::repair(&folder.join("log"))?,
        left: Vec::new(),
    };
    let done = history::repair(folder, state.as_ref().ok())?;
    repaired.done.extend(done);
    match state {
        Ok(engine) => {
            let mut report = Report {
                log: EmbeddedLog::verify(&folder.join("log"))?,
                ..Report::default()
            };
            check_state(folder, &engine, &mut report)?;
            repaired.left = report.damage;
        }
        Err(error) => repaired.left.push(format!("{error:#}")),
    }
    Ok(repaired)
}

fn open_state(folder: &Path) -> anyhow::Result<Arc<Engine>> {
    let path = folder.join("state");
    if !path.join("db").exists() {
        bail!("{} is gone; restore a backup", path.display());
    }
    Ok(Arc::new(Engine::open(&path).context("restore a backup")?))
}

/// Reads the state, and holds what it says must be there against what is.
fn check_state(folder: &Path, engine: &Arc<Engine>, report: &mut Report) -> anyhow::Result<()> {
    let path = folder.join("state");
    for name in ["state", "links", "history"] {
        for item in &engine.tree(name)? {
            if let Err(error) = item {
                report.damage.push(format!(
                    "{}: `{name}` cannot be read; restore a backup: {error}",
                    path.display()
                ));
                return Ok(());
            }
            report.keys += 1;
        }
    }
    if let Some(value) = engine.tree("state")?.get(PLACE)? {
        let place: Place = serde_json::from_slice(&value)
            .with_context(|| format!("{}: `{PLACE}` makes no sense", path.display()))?;
        if place.processed > report.log.end {
            report.damage.push(format!(
                "{}: it ends at record {}, and the state was made of all up to {}: its end is lost; agents send again what they still hold, and for the rest \
                 restore a backup",
                folder.join("log").display(),
                report.log.end,
                place.processed
            ));
        }
        let behind = read_serial(folder)?.saturating_sub(place.serial);
        if behind > 0 {
            report.damage.push(format!(
                "{}: it is {behind} checkpoints older than it was; it is made again from the log at the next start, as far as that reaches back",
                path.display()
            ));
        }
    }
    history::check_ledger(folder, engine, &mut report.damage)
}
