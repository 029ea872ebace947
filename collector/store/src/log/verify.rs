//! Looking through the log's files for damage, and keeping what is whole of them.

use super::Position;
use super::embedded::{EmbeddedLog, list, sync_folder};
use super::segment::{Found, Kind, Segment, unpack_group, unpack_head};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

/// What a look through the log found.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct LogReport {
    /// Whole records.
    pub records: u64,
    /// Bytes of all segments.
    pub bytes: u64,
    /// The position of the last whole record.
    pub end: Position,
    /// What is wrong, each with its file and place.
    pub damage: Vec<String>,
}

impl EmbeddedLog {
    /// Reads every frame in `folder` and checks it. Changes nothing; the log need not be open.
    pub fn verify(folder: &Path) -> anyhow::Result<LogReport> {
        let mut report = LogReport::default();
        if !folder.exists() {
            return Ok(report);
        }
        let paths: Vec<PathBuf> = list(folder)?.into_values().collect();
        for (i, path) in paths.iter().enumerate() {
            let mut segment = Segment::open(path)?;
            report.bytes += fs::metadata(path)?.len();
            loop {
                let at = segment.offset;
                let wrong = match segment.next()? {
                    Found::End => break,
                    Found::Frame(header, payload) => {
                        let last = header.first + u64::from(header.records);
                        report.end = report.end.max(last.saturating_sub(1));
                        let sound = match header.kind {
                            Kind::Head => unpack_head(&header, &payload).map(drop),
                            Kind::Group => unpack_group(&header, &payload).map(drop),
                        };
                        match sound {
                            Ok(()) => {
                                if header.kind == Kind::Group {
                                    report.records += u64::from(header.records);
                                }
                                continue;
                            }
                            Err(error) => format!("{error:#}"),
                        }
                    }
                    // What a crash leaves is no damage: it was never acknowledged.
                    Found::Torn { bytes }
                        if i + 1 == paths.len() && !segment.more_than_one_frame(at, bytes)? =>
                    {
                        break;
                    }
                    Found::Damage { bytes } | Found::Torn { bytes } => {
                        format!("{bytes} bytes are damaged")
                    }
                };
                report
                    .damage
                    .push(format!("{} at byte {at}: {wrong}", path.display()));
            }
        }
        Ok(report)
    }

    /// Sets damaged segments aside and keeps what is whole of them; nobody may have the log open. Tells what was done.
    pub(crate) fn repair(folder: &Path) -> anyhow::Result<Vec<String>> {
        let damage = Self::verify(folder)?.damage;
        let mut done = Vec::new();
        if damage.is_empty() {
            return Ok(done);
        }
        let paths: Vec<PathBuf> = list(folder)?.into_values().collect();
        for path in paths {
            if !damage
                .iter()
                .any(|wrong| wrong.starts_with(&format!("{} ", path.display())))
            {
                continue;
            }
            let mut segment = Segment::open(&path)?;
            let bytes = fs::read(&path)?;
            let mut whole = Vec::new();
            loop {
                let at = usize::try_from(segment.offset)?;
                match segment.next()? {
                    Found::End => break,
                    Found::Frame(..) => {
                        whole.extend_from_slice(&bytes[at..usize::try_from(segment.offset)?]);
                    }
                    Found::Damage { .. } | Found::Torn { .. } => {}
                }
            }
            let aside = crate::quarantine(&path)?;
            let mut file = File::create(&path)?;
            file.write_all(&whole)?;
            file.sync_all()?;
            done.push(format!(
                "{}: {} of {} bytes are whole and were kept; the damaged segment is {}",
                path.display(),
                whole.len(),
                bytes.len(),
                aside.display()
            ));
        }
        sync_folder(folder)?;
        done.splice(0..0, damage);
        Ok(done)
    }
}
