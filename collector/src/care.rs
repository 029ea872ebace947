//! `verify`, `repair`, `backup` and `restore`: the operator's care for the data folder.

use crate::api::Copied;
use crate::clock::Clock;
use crate::config::Config;
use crate::{claim_data_dir, control};
use anyhow::{Context, bail};
use denyut_store::Store;
use denyut_store::verify::{self, Report};
use reqwest::Method;
use std::path::{Path, PathBuf};
use tracing::info;

/// Says what is damaged in the data folder, or in the backup; fails if anything is.
pub(crate) fn verify(config: &Config, backup: Option<&Path>) -> anyhow::Result<()> {
    if let Some(backup) = backup {
        let (manifest, report) = denyut_store::verify_backup(backup)?;
        println!("backup   taken {}", manifest.taken);
        return judge(
            &report,
            "make another backup, or restore what is whole of this one by `restore --damaged`",
        );
    }
    let data_dir = existing(&config.data_dir)?;
    // While a collector runs, its state is its own.
    let lock = claim_data_dir(data_dir);
    let report = verify::verify(data_dir, lock.is_ok())?;
    if lock.is_ok() {
        println!("state    {} keys", report.keys);
    } else {
        println!(
            "state    not looked at: a collector runs (and has in memory what is not yet in the history's files)"
        );
    }
    judge(
        &report,
        "stop the collector and run `denyut-collector repair`, or restore a backup",
    )
}

fn judge(report: &Report, fix: &str) -> anyhow::Result<()> {
    println!(
        "log      {} records in {}",
        report.log.records,
        size(report.log.bytes)
    );
    println!(
        "history  {} samples and rows in {}",
        report.items,
        count(report.files, "file")
    );
    for wrong in &report.damage {
        println!("damaged  {wrong}");
    }
    if report.damage.is_empty() {
        println!("Nothing is damaged.");
        return Ok(());
    }
    let places = count(report.damage.len() as u64, "damaged place");
    bail!("{places}; {fix}")
}

/// Mends what can be mended, and says what was done; fails if something is left.
pub(crate) fn repair(config: &Config) -> anyhow::Result<()> {
    let data_dir = existing(&config.data_dir)?;
    let _lock = claim_stopped(data_dir)?;
    let repaired = verify::repair(data_dir)?;
    for line in &repaired.done {
        println!("{line}");
    }
    if !repaired.done.is_empty() {
        println!("What was damaged is kept as *.quarantine-*; delete it when nobody needs it.");
    }
    if !repaired.left.is_empty() {
        bail!("this cannot be mended: {}", repaired.left.join("; "));
    }
    if repaired.done.is_empty() {
        println!("Nothing is damaged.");
    }
    Ok(())
}

/// Copies the data folder, through the collector if one runs.
pub(crate) fn backup(config: &Config, to: &Path) -> anyhow::Result<()> {
    let data_dir = existing(&config.data_dir)?;
    let to = std::path::absolute(to).context("`--to` is no path")?;
    let said = if let Ok(_lock) = claim_data_dir(data_dir) {
        let clock = Clock::start();
        let store = Store::open(data_dir, clock.read().now)?;
        back_up(&store, &to, 0, &clock)?
    } else {
        let text = to.to_str().context("`--to` must be text (UTF-8)")?;
        let body = serde_json::json!({"to": text});
        let said = control::ask(data_dir, &Method::POST, "/api/v1/backups", Some(&body))?;
        let copied: Copied =
            serde_json::from_value(said).context("the collector is of another version")?;
        copied.said
    };
    println!("Backed up to {}: {said}.", to.display());
    let (_, report) = denyut_store::verify_backup(&to)?;
    judge(
        &report,
        "it holds what is whole; run `denyut-collector verify`, and keep older backups",
    )
}

/// Makes a backup; what to say of it.
pub(crate) fn back_up(
    store: &Store,
    to: &Path,
    processed: u64,
    clock: &Clock,
) -> anyhow::Result<String> {
    check_target(store.folder(), to)?;
    let manifest = store.backup(to, processed, clock.read().now)?;
    let said = format!(
        "{} files, {} (taken {}, up to record {})",
        manifest.files.len(),
        bytesize::ByteSize(manifest.bytes()).display().iec(),
        manifest.taken,
        manifest.position
    );
    info!(to = %to.display(), %said, "a backup was made");
    Ok(said)
}

/// A backup goes to a folder of its own, whatever way its path takes.
fn check_target(data_dir: &Path, to: &Path) -> anyhow::Result<()> {
    let parent = to
        .parent()
        .filter(|_| to.is_absolute() && to.file_name().is_some());
    let parent = parent.with_context(|| {
        format!(
            "`--to` = `{}`: not the absolute path of a folder",
            to.display()
        )
    })?;
    let parent = parent.canonicalize().with_context(|| {
        format!(
            "`--to` = `{}`: {} must be there",
            to.display(),
            parent.display()
        )
    })?;
    let data_dir = data_dir.canonicalize().context("the data folder")?;
    if parent
        .join(to.file_name().unwrap_or_default())
        .starts_with(&data_dir)
    {
        bail!(
            "`--to` = `{}`: it lies in the data folder; name another, on another disk best",
            to.display()
        );
    }
    Ok(())
}

/// Puts a backup into an empty data folder; a damaged one only if that is wanted.
pub(crate) fn restore(config: &Config, from: &Path, damaged: bool) -> anyhow::Result<()> {
    let (_, report) = denyut_store::verify_backup(from)?;
    if !damaged {
        judge(
            &report,
            "restore another backup, or what is whole of this one by `--damaged`",
        )?;
    }
    let _lock = claim_stopped(&config.data_dir)?;
    let manifest = denyut_store::restore(from, &config.data_dir)?;
    println!(
        "Restored {}, {}, as of {}. Start the collector: it goes on from there, and agents send what is newer and still in their spools.",
        count(manifest.files.len() as u64, "file"),
        size(manifest.bytes()),
        manifest.taken
    );
    Ok(())
}

pub(crate) fn existing(data_dir: &PathBuf) -> anyhow::Result<&PathBuf> {
    if !data_dir.join("state").exists() {
        bail!(
            "`data_dir` = `{}`: there is no store; check the configuration",
            data_dir.display()
        );
    }
    Ok(data_dir)
}

/// The data folder's lock, for what needs the collector stopped.
fn claim_stopped(data_dir: &Path) -> anyhow::Result<std::fs::File> {
    claim_data_dir(data_dir).context("this needs the collector stopped")
}

fn count(n: u64, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

fn size(bytes: u64) -> String {
    bytesize::ByteSize(bytes).display().iec().to_string()
}
