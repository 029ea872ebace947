//! Columns of numbers, the parts that chunks and rollups are made of.
//!
//! ```text
//! 0 · value varint                                all values are this one
//! 1 · values varint*                              short columns
//! 2 · blocks                                      patched frame of reference, 128 values a block
//! 3 · length varint · pco standalone file         by the crate `pco`
//!
//! block = base varint · width u8 · exceptions u8 · packed 16·width bytes · (index u8 · high bits varint)*
//! ```
//!
//! A block holds `value − base` in `width` bits each, packed by the crate `bitpacking` (4 lanes of 32 bits); what does not fit
//! has its higher bits among the exceptions. The last block is filled up with its base.

use anyhow::{Context, bail, ensure};
use bitpacking::{BitPacker, BitPacker4x};

/// How much time an encoder may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// About 5 ns a number: for what is written once and rewritten later.
    Fast,
    /// About ten times that, and a fifth smaller: for what stays.
    Small,
}

const CONSTANT: u8 = 0;
const VARINTS: u8 = 1;
const BLOCKS: u8 = 2;
const PCO: u8 = 3;
/// Columns shorter than this are varints: a block is never smaller.
const SHORT: usize = 24;
/// Columns shorter than this do not pay for pco's header.
const PCO_FROM: usize = 200;
/// Of 0 to 12. 8 takes twice the time for 1 % less.
const PCO_LEVEL: usize = 5;
const BLOCK: usize = BitPacker4x::BLOCK_LEN;

/// Appends the column.
pub fn encode(values: &[u32], effort: Effort, out: &mut Vec<u8>) {
    let first = values.first().copied().unwrap_or(0);
    if values.iter().all(|value| *value == first) {
        out.push(CONSTANT);
        put_varint(out, first.into());
    } else if values.len() < SHORT {
        out.push(VARINTS);
        for value in values {
            put_varint(out, (*value).into());
        }
    } else if effort == Effort::Small && values.len() >= PCO_FROM {
        out.push(PCO);
        let config = pco::ChunkConfig::default()
            .with_compression_level(PCO_LEVEL)
            .with_mode_spec(pco::ModeSpec::Classic)
            .with_delta_spec(pco::DeltaSpec::NoOp);
        let packed = pco::standalone::simple_compress(values, &config)
            .expect("the configuration is right, and memory cannot refuse a write");
        put_varint(out, packed.len() as u64);
        out.extend_from_slice(&packed);
    } else {
        out.push(BLOCKS);
        for block in values.chunks(BLOCK) {
            put_block(block, out);
        }
    }
}

fn put_block(values: &[u32], out: &mut Vec<u8>) {
    let base = values.iter().copied().min().unwrap_or(0);
    let mut block = [0u32; BLOCK];
    let mut by_bits = [0usize; 33];
    for (slot, value) in block.iter_mut().zip(values) {
        *slot = value - base;
        by_bits[bits(*slot)] += 1;
    }
    let most = (0..=32).rev().find(|bits| by_bits[*bits] > 0).unwrap_or(0);
    // The width that makes the block smallest.
    let (mut width, mut least, mut above) = (most, 16 * most, 0);
    for candidate in (0..most).rev() {
        above += by_bits[candidate + 1];
        let cost = 16 * candidate + above * (1 + (most - candidate).div_ceil(7));
        if cost < least {
            (width, least) = (candidate, cost);
        }
    }
    let mut exceptions = Vec::new();
    let mut count = 0u8;
    for (i, slot) in (0u8..).zip(block.iter_mut()) {
        if bits(*slot) > width {
            exceptions.push(i);
            put_varint(&mut exceptions, u64::from(*slot >> width));
            *slot &= (1 << width) - 1;
            count += 1;
        }
    }
    put_varint(out, base.into());
    let width = u8::try_from(width).expect("32 at most");
    out.extend_from_slice(&[width, count]);
    let mut packed = [0u8; 4 * BLOCK];
    let length = BitPacker4x::new().compress(&block, &mut packed, width);
    out.extend_from_slice(&packed[..length]);
    out.extend_from_slice(&exceptions);
}

fn bits(value: u32) -> usize {
    (32 - value.leading_zeros()) as usize
}

/// Reads a column of `count` values.
pub fn decode(read: &mut Reader<'_>, count: usize) -> anyhow::Result<Vec<u32>> {
    match read.byte()? {
        CONSTANT => Ok(vec![read.u32()?; count]),
        VARINTS => {
            // One byte each, at least.
            ensure!(count <= read.left(), "a column that is cut off");
            (0..count).map(|_| read.u32()).collect()
        }
        BLOCKS => {
            let blocks = count.div_ceil(BLOCK);
            ensure!(blocks * 3 <= read.left(), "a column that is cut off");
            let mut values = Vec::with_capacity(blocks * BLOCK);
            for _ in 0..blocks {
                get_block(read, &mut values)?;
            }
            values.truncate(count);
            Ok(values)
        }
        PCO => {
            let length = read.count(usize::MAX)?;
            let mut values = vec![0u32; count];
            let progress = pco::standalone::simple_decompress_into(read.take(length)?, &mut values)
                .map_err(|error| anyhow::anyhow!("a column that pco cannot read: {error}"))?;
            ensure!(
                progress.n_processed == count && progress.finished,
                "a column of another length"
            );
            Ok(values)
        }
        tag => bail!("a column of the unknown form {tag}"),
    }
}

fn get_block(read: &mut Reader<'_>, values: &mut Vec<u32>) -> anyhow::Result<()> {
    let base = read.u32()?;
    let (width, exceptions) = (read.byte()?, read.byte()?);
    ensure!(width <= 32, "a block of {width} bits");
    let packed = read.take(16 * usize::from(width))?;
    let mut block = [0u32; BLOCK];
    BitPacker4x::new().decompress(packed, &mut block, width);
    for _ in 0..exceptions {
        let at = usize::from(read.byte()?);
        let high = read.varint()?;
        ensure!(
            at < BLOCK && width < 32 && high >> (32 - width) == 0,
            "an exception too large"
        );
        block[at] |= u32::try_from(high).context("an exception too large")? << width;
    }
    for value in block {
        values.push(base.checked_add(value).context("a value too large")?);
    }
    Ok(())
}

/// Appends LEB128.
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

/// A signed number as an unsigned one, small if it is near zero.
pub fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)).cast_unsigned()
}

/// The reverse of [`zigzag`].
pub fn unzigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -((value & 1).cast_signed())
}

/// Reads what was put, and never past its end.
#[derive(Debug, Clone)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// From the start of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Whether all is read.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Bytes not read.
    pub fn left(&self) -> usize {
        self.0.len()
    }

    /// One byte.
    pub fn byte(&mut self) -> anyhow::Result<u8> {
        let (byte, rest) = self.0.split_first().context("it is cut off")?;
        self.0 = rest;
        Ok(*byte)
    }

    /// `count` bytes.
    pub fn take(&mut self, count: usize) -> anyhow::Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count).context("it is cut off")?;
        self.0 = rest;
        Ok(taken)
    }

    /// LEB128.
    pub fn varint(&mut self) -> anyhow::Result<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let low = u64::from(byte & 0x7f);
            ensure!(low << shift >> shift == low, "a number too large");
            value |= low << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        bail!("a number too long")
    }

    /// LEB128 that fits a u32.
    pub fn u32(&mut self) -> anyhow::Result<u32> {
        u32::try_from(self.varint()?).context("a number too large")
    }

    /// LEB128, `most` at most: nothing is reserved for more than that.
    pub fn count(&mut self, most: usize) -> anyhow::Result<usize> {
        let count = usize::try_from(self.varint()?).context("a number too large")?;
        ensure!(count <= most, "{count} where at most {most} can be");
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn values() -> impl Strategy<Value = Vec<u32>> {
        let value = prop_oneof![8 => 1_000u32..3_000, 1 => any::<u32>(), 1 => Just(0u32)];
        prop_oneof![
            prop::collection::vec(value, 0..900),
            (any::<u32>(), 0usize..900).prop_map(|(value, count)| vec![value; count]),
        ]
    }

    proptest! {
        #[test]
        fn what_goes_in_comes_out(values in values(), small: bool) {
            let mut bytes = Vec::new();
            encode(&values, if small { Effort::Small } else { Effort::Fast }, &mut bytes);
            let mut read = Reader::new(&bytes);
            prop_assert_eq!(decode(&mut read, values.len()).expect("decodes"), values);
            prop_assert!(read.is_empty());
        }

        #[test]
        fn varints(value: u64) {
            let mut bytes = Vec::new();
            put_varint(&mut bytes, value);
            prop_assert_eq!(Reader::new(&bytes).varint().expect("reads"), value);
        }
    }

    #[test]
    fn outliers_do_not_widen_a_block() {
        let mut values = vec![1_000; 128];
        for (i, value) in (0..).zip(&mut values) {
            *value += i % 16;
        }
        values[7] = 1 << 31;
        let mut bytes = Vec::new();
        encode(&values, Effort::Fast, &mut bytes);
        assert!(bytes.len() < 64 + 16, "{} bytes", bytes.len());
    }
}
