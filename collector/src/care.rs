//! `verify`, `repair`, `backup` and `restore`: the operator's care for the data folder.

use crate::clock::Clock;
use crate::config::Config;
use crate::{claim_data_dir, control};
use anyhow::{Context, bail};
use denyut_store::{Store, verify};
use std::path::{Path, PathBuf};

/// Says what is damaged; fails if anything is.
pub(crate) fn verify(config: &Config) -> anyhow::Result<()> {
    let data_dir = existing(&config.data_dir)?;
    // While a collector runs, its state is its own.
    let lock = claim_data_dir(data_dir);
    let report = verify::verify(data_dir, lock.is_ok())?;
    println!(
        "log      {} records in {}",
        report.log.records,
        size(report.log.bytes)
    );
    println!(
        "history  {} samples and rows in {} files",
        report.items, report.files
    );
    if lock.is_ok() {
        println!("state    {} keys", report.keys);
    } else {
        println!("state    not looked at: a collector runs");
    }
    for wrong in &report.damage {
        println!("damaged  {wrong}");
    }
    if report.damage.is_empty() {
        println!("Nothing is damaged.");
        return Ok(());
    }
    bail!(
        "{} places are damaged; stop the collector and run `denyut-collector repair`, or restore a backup",
        report.damage.len()
    )
}

/// Mends what can be mended, and says what was done.
pub(crate) fn repair(config: &Config) -> anyhow::Result<()> {
    let data_dir = existing(&config.data_dir)?;
    let _lock = claim_data_dir(data_dir)?;
    let done = verify::repair(data_dir)?;
    for line in &done {
        println!("{line}");
    }
    if done.is_empty() {
        println!("Nothing is damaged.");
    } else {
        println!("What was damaged is kept as *.quarantine-*; delete it when nobody needs it.");
    }
    Ok(())
}

/// Copies the data folder, through the collector if one runs.
pub(crate) fn backup(config: &Config, to: &Path) -> anyhow::Result<()> {
    let data_dir = existing(&config.data_dir)?;
    let to = std::path::absolute(to).context("`--to` is no path")?;
    if to.starts_with(data_dir) {
        bail!(
            "`--to` = `{}`: it lies in the data folder; name another, on another disk best",
            to.display()
        );
    }
    let said = if let Ok(_lock) = claim_data_dir(data_dir) {
        let clock = Clock::start();
        let store = Store::open(data_dir, clock.read().now)?;
        control::backup(&store, &to, 0, &clock)?
    } else {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(control::ask(data_dir, &format!("backup {}", to.display())))?
    };
    println!("Backed up to {}: {said}.", to.display());
    Ok(())
}

/// Puts a backup into an empty data folder.
pub(crate) fn restore(config: &Config, from: &Path) -> anyhow::Result<()> {
    let _lock = claim_data_dir(&config.data_dir)?;
    let manifest = denyut_store::restore(from, &config.data_dir)?;
    println!(
        "Restored {} files, {}, as of {}. Start the collector: it goes on from there, and agents send what is newer and still in their spools.",
        manifest.files.len(),
        size(manifest.bytes()),
        manifest.taken
    );
    Ok(())
}

fn existing(data_dir: &PathBuf) -> anyhow::Result<&PathBuf> {
    if !data_dir.join("state").exists() {
        bail!(
            "`data_dir` = `{}`: there is no store; check the configuration",
            data_dir.display()
        );
    }
    Ok(data_dir)
}

fn size(bytes: u64) -> String {
    bytesize::ByteSize(bytes).display().iec().to_string()
}
