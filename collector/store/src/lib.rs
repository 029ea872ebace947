//! The collector's embedded engine: three narrow promises, [`log`], [`history`] and [`state`], kept in one data folder.
//!
//! ```text
//! log/       what arrived, in order: plain segments, synced per group (see `log::segment`)
//! recent/    sealed chunks of the present day: one file a generation (see `history::generation`)
//! raw/ minute/ hour/ day/    immutable blocks of finished days (see `history::block`)
//! state/     checkpoints, incidents, the links' numbers, and the ledger of what must be there: sled
//! checkpoint, ballast    how far the state must be; what is given back when others fill the disk (see `store`)
//! ```
//!
//! Nothing here knows the network, the detector or a user interface.

mod backup;
pub mod engine;
pub mod history;
pub mod log;
mod migrate;
mod replay;
pub mod state;
mod store;
pub mod verify;

pub use backup::{Manifest, restore, verify_backup};
pub use replay::{replay, threads};
pub use store::{AUTHORITY, Store};

/// Renames a file or folder so that nobody takes it for whole.
pub(crate) fn quarantine(path: &std::path::Path) -> anyhow::Result<std::path::PathBuf> {
    use anyhow::Context;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let aside = (0..1_000)
        .map(|n| path.with_file_name(format!("{name}.quarantine-{n}")))
        .find(|aside| !aside.exists())
        .context("no name is free")?;
    std::fs::rename(path, &aside)
        .with_context(|| format!("cannot set {} aside", path.display()))?;
    Ok(aside)
}
