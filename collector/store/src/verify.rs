//! Looking for damage, and mending what can be mended.
//!
//! Everything but the state is files of our own with checksums, and can be checked while the collector runs. What is mended is never written over: the
//! damaged file is set aside as `*.quarantine-<n>`.

use crate::engine::Engine;
use crate::history;
use crate::log::{EmbeddedLog, LogReport};
use anyhow::Context;
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

/// Reads and checks everything in `folder`; the state only if `state` (nobody else may have it open). Changes nothing.
pub fn verify(folder: &Path, state: bool) -> anyhow::Result<Report> {
    let mut report = Report {
        log: EmbeddedLog::verify(&folder.join("log"))?,
        ..Report::default()
    };
    report.damage.append(&mut report.log.damage);
    history::verify(folder, &mut report)?;
    if state {
        match check_state(folder) {
            Ok(keys) => report.keys = keys,
            Err(error) => report
                .damage
                .push(format!("{}: {error:#}", folder.join("state").display())),
        }
    }
    Ok(report)
}

/// Mends what is damaged in `folder`, which nobody may have open; tells what was done about each.
pub fn repair(folder: &Path) -> anyhow::Result<Vec<String>> {
    let mut done = EmbeddedLog::repair(&folder.join("log"))?;
    done.extend(history::repair(folder)?);
    if let Err(error) = check_state(folder) {
        done.push(format!(
            "{}: {error:#}; it cannot be mended: restore a backup",
            folder.join("state").display()
        ));
    }
    Ok(done)
}

fn check_state(folder: &Path) -> anyhow::Result<u64> {
    let path = folder.join("state");
    if !path.join("db").exists() {
        anyhow::bail!("it is gone; restore a backup");
    }
    let engine = Engine::open(&path)?;
    let mut keys = 0;
    for name in ["state", "links", "history"] {
        for item in &engine.tree(name)? {
            item.with_context(|| format!("`{name}` cannot be read; restore a backup"))?;
            keys += 1;
        }
    }
    Ok(keys)
}
