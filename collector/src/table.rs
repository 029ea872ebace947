//! CSV files that people write.

use anyhow::{Context, bail};
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
    mut text: impl Read,
    columns: &str,
) -> anyhow::Result<Vec<(u64, T)>> {
    let mut all = Vec::new();
    text.read_to_end(&mut all).context("cannot read it")?;
    let mut reader = csv::ReaderBuilder::new()
        .trim(csv::Trim::All)
        .from_reader(all.as_slice());
    let headers = reader.headers().map_err(told)?.clone();
    if headers.len() == 1 && headers[0].contains([';', '\t']) {
        bail!(
            "line 1: `{}`: the columns are not separated by commas; save it with commas",
            headers[0].escape_debug()
        );
    }
    let mut rows = Vec::new();
    for record in reader.records() {
        let record = record.map_err(told)?;
        let line = record.position().map_or(0, |at| line_of(&all, at));
        let row = record
            .deserialize(Some(&headers))
            .with_context(|| format!("line {line}: expected the columns {columns}"))?;
        rows.push((line, row));
    }
    Ok(rows)
}

/// The line of a record that begins behind this place and the empty lines there.
fn line_of(text: &[u8], at: &csv::Position) -> u64 {
    let from = usize::try_from(at.byte()).unwrap_or(usize::MAX);
    let rest = text.get(from..).unwrap_or_default();
    let empty = rest.iter().take_while(|byte| matches!(byte, b'\r' | b'\n'));
    at.line() + empty.filter(|byte| **byte == b'\n').count() as u64
}

/// What cannot be read as CSV, with what to do.
fn told(error: csv::Error) -> anyhow::Error {
    let line = error.position().map_or(0, csv::Position::line);
    match error.kind() {
        csv::ErrorKind::Utf8 { .. } => {
            anyhow::anyhow!("line {line}: not UTF-8; save it as UTF-8")
        }
        csv::ErrorKind::UnequalLengths {
            expected_len, len, ..
        } => {
            anyhow::anyhow!(
                "line {line}: {len} columns, and line 1 has {expected_len}; write as many commas on each line, and close what a quote opens"
            )
        }
        _ => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_says_what_to_do() {
        for (text, wrong) in [
            (&b"a;b\n1;2\n"[..], "commas"),
            (b"a,b\n1\n", "line 2: 1 columns, and line 1 has 2"),
            (b"a,b\nx,\"1\ny,2\n", "line 2"),
            (b"a,b\nx,Caf\xe9\n", "line 2: not UTF-8"),
            (b"\xff\xfea\0,\0b\0\n\0", "not UTF-8"),
            (b"c,d\n1,2\n", "line 2: expected the columns a,b"),
            (b"a,b\n1,2\n\r\n\n1,x\n", "line 5: expected"),
        ] {
            #[derive(Debug, serde::Deserialize)]
            struct Row {
                #[allow(dead_code, reason = "only read")]
                a: String,
                #[allow(dead_code, reason = "only read")]
                b: u8,
            }
            let error = rows::<Row>(text, "a,b").expect_err("is refused");
            let error = format!("{error:#}");
            assert!(error.contains(wrong), "{error}");
        }
    }
}
