//! Blocks: immutable files of one entry per link, for finished stretches of time.
//!
//! # Form, version 1
//!
//! ```text
//! block   = entry* · page* · footer · crc32c of footer u32 · length of footer u32 · magic "dnB1"
//! entry   = crc32c u32 (of all that follows) · link u32 · value
//! page    = crc32c u32 (of all that follows) · count u32 · (link u32 · length u32 · offset u64)* · zeros, 4,096 bytes in all
//! footer  = protobuf message [`StoredFooter`], the first link of every page among it
//! ```
//!
//! Integers are little-endian; entries and pages ascend by link. A look-up reads one page and one entry: the firsts of
//! the pages (4 bytes for 255 links) are all that is kept in memory. A flipped bit loses one entry, or one page of them, and names it.
//! A block is written beside its name, synced, and renamed: it is there whole or not at all.

use crate::log::sync_folder;
use anyhow::{Context, bail, ensure};
use prost::Message;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 4] = b"dnB1";
const PAGE: usize = 4_096;
const SLOT: usize = 16;
const SLOTS: usize = (PAGE - 8) / SLOT;
/// One entry, its checksum and link among it.
pub(super) const ENTRY_MAX: usize = 1 << 30;

/// What a block says of itself.
#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct StoredFooter {
    /// The first link of every page.
    #[prost(uint32, repeated, tag = "1")]
    pub(super) firsts: Vec<u32>,
    #[prost(uint64, tag = "2")]
    pub(super) entries: u64,
    /// The generation it was made of, if it was.
    #[prost(uint64, optional, tag = "3")]
    pub(super) generation: Option<u64>,
    /// Names of the blocks that it takes the place of.
    #[prost(string, repeated, tag = "4")]
    pub(super) replaces: Vec<String>,
    /// Samples in it, or rows.
    #[prost(uint64, tag = "5")]
    pub(super) items: u64,
}

/// A block being written.
#[derive(Debug)]
pub(super) struct Writer {
    file: BufWriter<File>,
    path: PathBuf,
    offset: u64,
    slots: Vec<(u32, u32, u64)>,
    pub(super) footer: StoredFooter,
    finished: bool,
}

/// What was not finished gives its space back: most likely the disk is full.
impl Drop for Writer {
    fn drop(&mut self) {
        if !self.finished {
            fs::remove_file(self.path.with_extension("new")).ok();
        }
    }
}

impl Writer {
    pub(super) fn create(path: &Path) -> anyhow::Result<Self> {
        let file = File::create(path.with_extension("new"))
            .with_context(|| format!("cannot make the block {}", path.display()))?;
        Ok(Self {
            file: BufWriter::with_capacity(1 << 20, file),
            path: path.to_owned(),
            offset: 0,
            slots: Vec::new(),
            footer: StoredFooter::default(),
            finished: false,
        })
    }

    /// Adds an entry of `items` samples or rows; links ascend.
    pub(super) fn add(&mut self, link: u32, value: &[u8], items: u64) -> anyhow::Result<()> {
        ensure!(
            self.slots.last().is_none_or(|(last, ..)| *last < link),
            "links of a block must ascend"
        );
        ensure!(
            value.len() + 8 <= ENTRY_MAX,
            "an entry of {} bytes is too long",
            value.len()
        );
        let link_bytes = link.to_le_bytes();
        let crc = crc32c::crc32c_append(crc32c::crc32c(&link_bytes), value);
        self.file.write_all(&crc.to_le_bytes())?;
        self.file.write_all(&link_bytes)?;
        self.file.write_all(value)?;
        let length = u32::try_from(value.len() + 8)?;
        self.slots.push((link, length, self.offset));
        self.offset += u64::from(length);
        self.footer.items += items;
        Ok(())
    }

    /// Writes the rest; the block is there, durably, when this returns its path.
    pub(super) fn finish(mut self) -> anyhow::Result<PathBuf> {
        for slots in self.slots.chunks(SLOTS) {
            let mut page = Vec::with_capacity(PAGE);
            page.extend_from_slice(&[0; 4]);
            page.extend_from_slice(&u32::try_from(slots.len())?.to_le_bytes());
            for (link, length, offset) in slots {
                page.extend_from_slice(&link.to_le_bytes());
                page.extend_from_slice(&length.to_le_bytes());
                page.extend_from_slice(&offset.to_le_bytes());
            }
            page.resize(PAGE, 0);
            let crc = crc32c::crc32c(&page[4..]);
            page[..4].copy_from_slice(&crc.to_le_bytes());
            self.file.write_all(&page)?;
            self.footer.firsts.push(slots[0].0);
        }
        self.footer.entries = self.slots.len() as u64;
        let footer = self.footer.encode_to_vec();
        self.file.write_all(&footer)?;
        self.file
            .write_all(&crc32c::crc32c(&footer).to_le_bytes())?;
        self.file
            .write_all(&u32::try_from(footer.len())?.to_le_bytes())?;
        self.file.write_all(MAGIC)?;
        let new = self.path.with_extension("new");
        self.file.flush()?;
        self.file.get_ref().sync_all()?;
        fs::rename(&new, &self.path)?;
        self.finished = true;
        sync_folder(self.path.parent().unwrap_or(Path::new(".")))?;
        Ok(std::mem::take(&mut self.path))
    }
}

/// A block being read.
#[derive(Debug)]
pub(super) struct Block {
    file: File,
    pub(super) path: PathBuf,
    pages_at: u64,
    pub(super) footer: StoredFooter,
    pub(super) bytes: u64,
}

/// An entry's place.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slot {
    pub(super) link: u32,
    length: u32,
    offset: u64,
}

impl Block {
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        Self::open_inner(path).with_context(|| format!("the block {}", path.display()))
    }

    fn open_inner(path: &Path) -> anyhow::Result<Self> {
        let file = File::open(path)?;
        let bytes = file.metadata()?.len();
        ensure!(bytes >= 12, "it is cut off");
        let mut tail = [0; 12];
        file.read_exact_at(&mut tail, bytes - 12)?;
        let word =
            |at: usize| u32::from_le_bytes([tail[at], tail[at + 1], tail[at + 2], tail[at + 3]]);
        ensure!(
            tail[8..] == *MAGIC,
            "its end is damaged, or it is no block of version 1"
        );
        let length = u64::from(word(4));
        ensure!(length <= bytes - 12, "its end is damaged");
        let footer_at = bytes - 12 - length;
        let mut footer = vec![0; usize::try_from(length)?];
        file.read_exact_at(&mut footer, footer_at)?;
        ensure!(crc32c::crc32c(&footer) == word(0), "its footer is damaged");
        let footer = StoredFooter::decode(&footer[..])?;
        let pages = (footer.firsts.len() * PAGE) as u64;
        let pages_at = footer_at
            .checked_sub(pages)
            .context("its footer makes no sense")?;
        Ok(Self {
            file,
            path: path.to_owned(),
            pages_at,
            footer,
            bytes,
        })
    }

    /// The file's name without its folder.
    pub(super) fn name(&self) -> &str {
        self.path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default()
    }

    /// The slots of a page.
    pub(super) fn page(&self, number: usize) -> anyhow::Result<Vec<Slot>> {
        let mut page = vec![0; PAGE];
        self.file
            .read_exact_at(&mut page, self.pages_at + (number * PAGE) as u64)?;
        let crc = u32::from_le_bytes([page[0], page[1], page[2], page[3]]);
        let damaged = || {
            format!(
                "{}: page {number} of its index is damaged",
                self.path.display()
            )
        };
        if crc32c::crc32c(&page[4..]) != crc {
            bail!(damaged());
        }
        let count = u32::from_le_bytes([page[4], page[5], page[6], page[7]]) as usize;
        ensure!(count <= SLOTS, damaged());
        let slots = page[8..].chunks_exact(SLOT).take(count).map(|slot| {
            let word = |at: usize| {
                u32::from_le_bytes([slot[at], slot[at + 1], slot[at + 2], slot[at + 3]])
            };
            Slot {
                link: word(0),
                length: word(4),
                offset: u64::from(word(8)) | u64::from(word(12)) << 32,
            }
        });
        Ok(slots.collect())
    }

    /// The value of a slot.
    pub(super) fn value(&self, slot: Slot) -> anyhow::Result<Vec<u8>> {
        let damaged = || {
            format!(
                "{}: the entry of link {} is damaged",
                self.path.display(),
                slot.link
            )
        };
        let end = slot.offset.saturating_add(slot.length.into());
        ensure!(slot.length >= 8 && end <= self.pages_at, damaged());
        let mut entry = vec![0; slot.length as usize];
        self.file.read_exact_at(&mut entry, slot.offset)?;
        let word = |at: usize| {
            u32::from_le_bytes([entry[at], entry[at + 1], entry[at + 2], entry[at + 3]])
        };
        ensure!(
            crc32c::crc32c(&entry[4..]) == word(0) && word(4) == slot.link,
            damaged()
        );
        entry.drain(..8);
        Ok(entry)
    }

    /// The value of a link, if it is there.
    pub(super) fn get(&self, link: u32) -> anyhow::Result<Option<Vec<u8>>> {
        let page = self.footer.firsts.partition_point(|first| *first <= link);
        if page == 0 {
            return Ok(None);
        }
        let slots = self.page(page - 1)?;
        match slots.binary_search_by_key(&link, |slot| slot.link) {
            Ok(at) => self.value(slots[at]).map(Some),
            Err(_) => Ok(None),
        }
    }

    /// All slots, page by page; a damaged page is an error in their place.
    pub(super) fn slots(&self) -> impl Iterator<Item = anyhow::Result<Slot>> + '_ {
        (0..self.footer.firsts.len()).flat_map(|number| match self.page(number) {
            Ok(slots) => slots.into_iter().map(Ok).collect::<Vec<_>>(),
            Err(error) => vec![Err(error)],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, links: impl Iterator<Item = u32>) {
        let mut writer = Writer::create(path).expect("creates");
        for link in links {
            writer
                .add(link, format!("value {link}").as_bytes(), 2)
                .expect("adds");
        }
        writer.finish().expect("finishes");
    }

    #[test]
    fn every_link_is_found_and_no_other() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("a.block");
        write(&path, (3..2_000).step_by(3));
        let block = Block::open(&path).expect("opens");
        assert_eq!((block.footer.entries, block.footer.items), (666, 1_332));
        for link in 0..2_010 {
            let expected = (link > 0 && link < 2_000 && link % 3 == 0)
                .then(|| format!("value {link}").into_bytes());
            assert_eq!(block.get(link).expect("reads"), expected, "{link}");
        }
        assert_eq!(block.slots().count(), 666);
        assert!(!path.with_extension("new").exists());
    }

    /// Each bit is guarded: whatever is flipped, nothing wrong is read, and most of it still is.
    #[test]
    fn any_flipped_bit_is_found() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("a.block");
        write(&path, 0..300);
        let bytes = fs::read(&path).expect("reads");
        for at in (0..bytes.len()).step_by(7) {
            let mut wrong = bytes.clone();
            wrong[at] ^= 1 << (at % 8);
            fs::write(&path, wrong).expect("writes");
            let Ok(block) = Block::open(&path) else {
                continue;
            };
            let mut errors = 0;
            for link in 0..300 {
                match block.get(link) {
                    Ok(Some(value)) => {
                        assert_eq!(value, format!("value {link}").as_bytes(), "byte {at}");
                    }
                    Ok(None) => panic!("byte {at}: link {link} is gone in silence"),
                    Err(_) => errors += 1,
                }
            }
            assert!(errors > 0, "byte {at}: nobody noticed");
        }
    }

    #[test]
    fn links_must_ascend() {
        let dir = tempfile::tempdir().expect("tempdir");
        let mut writer = Writer::create(&dir.path().join("a.block")).expect("creates");
        writer.add(7, b"", 0).expect("adds");
        assert!(writer.add(7, b"", 0).is_err());
    }
}
