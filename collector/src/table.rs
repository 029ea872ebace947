//! CSV files that people write.

use anyhow::Context;
use serde::de::DeserializeOwned;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Opens a file that a key of the configuration names.
pub(crate) fn open(key: &str, path: &Path) -> anyhow::Result<File> {
    File::open(path).with_context(|| format!("`{key}`: cannot read {}", path.display()))
}

/// Each row with the number of its line. The first line names the columns; `columns` says in words which may stand there.
pub(crate) fn rows<T: DeserializeOwned>(
    text: impl Read,
    columns: &str,
) -> anyhow::Result<Vec<(u64, T)>> {
    let mut reader = csv::ReaderBuilder::new()
        .trim(csv::Trim::All)
        .from_reader(text);
    let headers = reader
        .headers()
        .context("cannot read its first line")?
        .clone();
    let mut rows = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|error| anyhow::anyhow!("{error}"))?;
        let line = record.position().map_or(0, csv::Position::line);
        let row = record
            .deserialize(Some(&headers))
            .with_context(|| format!("line {line}: expected the columns {columns}"))?;
        rows.push((line, row));
    }
    Ok(rows)
}
