//! Makes the checksums of damaged files right, so that what stands behind them is reached: as of a file that a faulty program wrote.

use prost::Message;
use std::ops::Range;

fn number(bytes: &[u8], at: usize) -> Option<usize> {
    let four = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_le_bytes(*four) as usize)
}

/// Puts the checksum of `of` at `at`; nothing if that is not there.
fn put(bytes: &mut [u8], at: usize, of: Range<usize>) -> Option<()> {
    let sum = crc32c::crc32c(bytes.get(of)?);
    bytes
        .get_mut(at..at + 4)?
        .copy_from_slice(&sum.to_le_bytes());
    Some(())
}

/// Of the frames of a segment of the log.
pub(crate) fn log(bytes: &mut [u8]) -> Option<()> {
    const HEADER: usize = 29;
    let mut at = 0;
    loop {
        let end = at + HEADER + number(bytes, at + 21)?;
        put(bytes, at + 4, at + 8..end)?;
        at = end;
    }
}

/// Of the records of a segment of the spool.
pub(crate) fn spool(bytes: &mut [u8]) -> Option<()> {
    const HEADER: usize = 32;
    let mut at = 8;
    loop {
        let end = at + HEADER + number(bytes, at)?;
        put(bytes, at + 4, at + 8..end)?;
        at = end;
    }
}

/// Of all chunks of samples, wherever they are.
fn chunks(bytes: &mut [u8]) {
    for at in 0..bytes.len() {
        if bytes[at..].starts_with(b"dnC1")
            && let Some(length) = number(bytes, at + 8)
        {
            put(bytes, at + 4, at + 8..at + 12 + length);
        }
    }
}

/// Of the frames of a generation, and the chunks in it.
pub(crate) fn generation(bytes: &mut [u8]) -> Option<()> {
    const HEADER: usize = 21;
    const ENTRY: usize = 12;
    chunks(bytes);
    let mut at = 0;
    loop {
        let entries = number(bytes, at + 17)?;
        let values = at + HEADER + ENTRY * entries;
        put(bytes, at + 4, at + 8..values)?;
        let mut end = values;
        for i in 0..entries {
            end += number(bytes, at + HEADER + ENTRY * i + 8)?;
        }
        at = end;
    }
}

/// As much of a block's footer as tells where its pages are.
#[derive(Message)]
struct Footer {
    #[prost(uint32, repeated, tag = "1")]
    firsts: Vec<u32>,
}

/// Of a block's footer, its pages, its entries, and the chunks in them.
pub(crate) fn block(bytes: &mut [u8]) -> Option<()> {
    const PAGE: usize = 4_096;
    const SLOT: usize = 16;
    chunks(bytes);
    let tail = bytes.len().checked_sub(12)?;
    let footer = tail.checked_sub(number(bytes, tail + 4)?)?;
    put(bytes, tail, footer..tail)?;
    let pages = Footer::decode(&bytes[footer..tail]).ok()?.firsts.len();
    let first = footer.checked_sub(pages * PAGE)?;
    for page in (first..footer).step_by(PAGE) {
        for i in 0..number(bytes, page + 4)?.min((PAGE - 8) / SLOT) {
            let slot = page + 8 + i * SLOT;
            let (length, at) = (number(bytes, slot + 4)?, number(bytes, slot + 8)?);
            put(bytes, at, at + 4..at + length);
        }
        put(bytes, page, page + 4..page + PAGE)?;
    }
    Some(())
}
