//! Chunks: the samples of one link over a stretch of time, as bytes.
//!
//! # Form, version 1
//!
//! Integers are little-endian; `varint` is LEB128 of a u64.
//!
//! ```text
//! chunk   = magic "dnC1" · crc32c u32 · length u32 · link u32 · first u64 · body
//!           crc and length are of everything after themselves; `first` is the first sample's time (ms)
//! body    = count varint · step varint · slots · base zigzag · residues column · runs · rtt column
//! slots   = exceptions varint · (samples since the last exception varint · slots jumped varint)*
//! runs    = runs varint · (what varint · [detail varint] · samples varint)*
//! column  = tag u8 · bytes, see [`column`]
//! ```
//!
//! **Time** is a grid with exceptions: sample *i* lies in slot *kᵢ*, its time is `first + kᵢ·step + base + rᵢ`.
//! `step` is the median gap. Slots follow one another but for the exceptions (a probe missed, a burst, two samples
//! in one slot); what the schedule's jitter leaves is the column `rᵢ`. **Outcomes** are runs: 0 is an answer, any
//! other number a [`Reason`] followed by its detail. **RTT** is one column of the answers, in µs. All of it is lossless.
//!
//! # Limits
//!
//! 1 to [`COUNT_MAX`] samples, ascending by time and then outcome, over less than [`SPAN_MAX_MS`]; times from
//! 1970 on; RTT from 1 µs. A decoder that meets anything else says so and never panics.

use super::column::{self, Effort, Reader, put_varint, unzigzag, zigzag};
use anyhow::{Context, bail, ensure};
use denyut_proto::{Failure, Outcome, Reason, Sample, UnixMillis};

/// Samples of one chunk, at most.
pub const COUNT_MAX: usize = 16_384;
/// From the first sample of a chunk to its last: less than this.
pub const SPAN_MAX_MS: i64 = 1 << 30;

const MAGIC: &[u8; 4] = b"dnC1";
/// Magic, CRC and length.
const ENVELOPE: usize = 12;
/// Envelope, link and first time.
pub(crate) const HEADER: usize = ENVELOPE + 12;

/// Appends the chunk of `samples` to `out`.
///
/// # Panics
/// If the samples break the limits above: they are ours, sorted and cut before they come here.
pub fn encode(link: u32, samples: &[Sample], effort: Effort, out: &mut Vec<u8>) {
    let (first, last) = match samples {
        [first, .., last] => (first.at.0, last.at.0),
        [only] => (only.at.0, only.at.0),
        [] => panic!("a chunk of nothing"),
    };
    assert!(
        samples.len() <= COUNT_MAX && first >= 0 && last - first < SPAN_MAX_MS,
        "a chunk beyond its limits"
    );
    let start = out.len();
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&[0; 8]);
    out.extend_from_slice(&link.to_le_bytes());
    out.extend_from_slice(&first.to_le_bytes());
    put_varint(out, samples.len() as u64);
    put_times(out, first, samples, effort);
    put_outcomes(out, samples, effort);
    let length =
        u32::try_from(out.len() - start - ENVELOPE).expect("16,384 samples fit into 4 GiB");
    out[start + 8..start + 12].copy_from_slice(&length.to_le_bytes());
    let crc = crc32c::crc32c(&out[start + 8..]);
    out[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
}

fn put_times(out: &mut Vec<u8>, first: i64, samples: &[Sample], effort: Effort) {
    let mut gaps: Vec<i64> = samples.windows(2).map(|w| w[1].at.0 - w[0].at.0).collect();
    let middle = gaps.len() / 2;
    let step = if gaps.is_empty() {
        1
    } else {
        (*gaps.select_nth_unstable(middle).1).max(1)
    };
    put_varint(out, step.unsigned_abs());
    let mut exceptions = Vec::new();
    let (mut count, mut since, mut slot) = (0u64, 0u64, 0i64);
    let mut residues = Vec::with_capacity(samples.len());
    for (i, sample) in samples.iter().enumerate() {
        let age = sample.at.0 - first;
        // The next slot unless the time is nearer to another.
        let expected = if i == 0 { 0 } else { slot + 1 };
        let off = age - expected * step;
        slot = if off.abs() * 2 <= step {
            expected
        } else {
            (age + step / 2) / step
        };
        if slot == expected {
            since += 1;
        } else {
            put_varint(&mut exceptions, since);
            put_varint(&mut exceptions, (slot - (expected - 1)).unsigned_abs());
            (count, since) = (count + 1, 0);
        }
        residues.push(age - slot * step);
    }
    put_varint(out, count);
    out.extend_from_slice(&exceptions);
    let base = residues.iter().copied().min().unwrap_or(0);
    put_varint(out, zigzag(base));
    let residues: Vec<u32> = residues
        .iter()
        .map(|r| u32::try_from(r - base).expect("a residue is within the chunk's span"))
        .collect();
    column::encode(&residues, effort, out);
}

fn put_outcomes(out: &mut Vec<u8>, samples: &[Sample], effort: Effort) {
    let mut runs = Vec::new();
    let (mut count, mut i) = (0u64, 0);
    let mut rtts = Vec::with_capacity(samples.len());
    while i < samples.len() {
        let failure = match samples[i].outcome {
            Outcome::Ok { .. } => None,
            Outcome::Failed(failure) => Some(failure),
        };
        let begin = i;
        while let Some(sample) = samples.get(i) {
            match (failure, sample.outcome) {
                (None, Outcome::Ok { rtt_us }) => rtts.push(rtt_us),
                (Some(failure), Outcome::Failed(other)) if failure == other => {}
                _ => break,
            }
            i += 1;
        }
        put_varint(
            &mut runs,
            failure.map_or(0, |failure| failure.reason as u64),
        );
        if let Some(failure) = failure {
            put_varint(&mut runs, failure.detail.into());
        }
        put_varint(&mut runs, (i - begin) as u64);
        count += 1;
    }
    put_varint(out, count);
    out.extend_from_slice(&runs);
    column::encode(&rtts, effort, out);
}

/// What a chunk says before it is decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peek {
    /// Number of the link.
    pub link: u32,
    /// Time of the first sample.
    pub first: UnixMillis,
    /// Bytes of the whole chunk.
    pub length: usize,
}

/// What the header of the chunk at the start of `bytes` says; nothing is checked but that it can be a header.
pub fn glance(bytes: &[u8]) -> anyhow::Result<Peek> {
    ensure!(bytes.len() >= HEADER, "a chunk that ends in its header");
    ensure!(bytes[..4] == *MAGIC, "not a chunk of version 1");
    let length = ENVELOPE + word(bytes, 8) as usize;
    ensure!(
        (HEADER..=bytes.len()).contains(&length),
        "a chunk that is cut off"
    );
    let first = u64::from(word(bytes, 16)) | u64::from(word(bytes, 20)) << 32;
    Ok(Peek {
        link: word(bytes, 12),
        first: UnixMillis(i64::try_from(first).context("a chunk of an impossible time")?),
        length,
    })
}

/// Checks the chunk at the start of `bytes` by its checksum.
pub fn peek(bytes: &[u8]) -> anyhow::Result<Peek> {
    let glance = glance(bytes)?;
    ensure!(
        crc32c::crc32c(&bytes[8..glance.length]) == word(bytes, 4),
        "a chunk whose checksum does not fit"
    );
    Ok(glance)
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Appends the samples of the chunk at the start of `bytes` to `out`; returns what was read.
pub fn decode(bytes: &[u8], out: &mut Vec<Sample>) -> anyhow::Result<Peek> {
    let peek = peek(bytes)?;
    decode_body(peek.first, &bytes[HEADER..peek.length], out)?;
    Ok(peek)
}

/// The body alone: what remains to be trusted when the checksum is right. For the fuzzer too.
#[doc(hidden)]
pub fn decode_body(first: UnixMillis, body: &[u8], out: &mut Vec<Sample>) -> anyhow::Result<()> {
    let mut read = Reader::new(body);
    let count = read.count(COUNT_MAX)?;
    ensure!(count > 0, "a chunk of nothing");
    let ages = ages(&mut read, count)?;
    ensure!(
        first.0 >= 0 && first.0 <= i64::MAX - SPAN_MAX_MS,
        "a chunk of an impossible time"
    );
    let runs = read.count(count)?;
    let mut outcomes = Vec::with_capacity(runs);
    let (mut all, mut answers) = (0usize, 0usize);
    for _ in 0..runs {
        let what = read.varint()?;
        let failure = if what == 0 {
            None
        } else {
            let reason = i32::try_from(what)
                .ok()
                .and_then(|what| Reason::try_from(what).ok());
            let Some(reason) = reason else {
                bail!("a chunk with the unknown reason {what}");
            };
            let detail = u32::try_from(read.varint()?).context("a detail too large")?;
            Some(Failure { reason, detail })
        };
        let samples = read.count(count - all)?;
        ensure!(samples > 0, "a run of nothing");
        all += samples;
        if failure.is_none() {
            answers += samples;
        }
        outcomes.push((failure, samples));
    }
    ensure!(all == count, "{all} outcomes for {count} samples");
    let rtts = column::decode(&mut read, answers)?;
    ensure!(read.is_empty(), "a chunk with something after its end");
    let (mut rtts, mut ages) = (rtts.into_iter(), ages.into_iter());
    let start = out.len();
    out.reserve(count);
    for (failure, samples) in outcomes {
        for age in ages.by_ref().take(samples) {
            let outcome = match failure {
                Some(failure) => Outcome::Failed(failure),
                None => Outcome::Ok {
                    rtt_us: rtts.next().unwrap_or(0),
                },
            };
            out.push(Sample {
                at: UnixMillis(first.0 + age),
                outcome,
            });
        }
    }
    if !out[start..].is_sorted() {
        out.truncate(start);
        bail!("a chunk whose samples are out of order");
    }
    Ok(())
}

fn ages(read: &mut Reader<'_>, count: usize) -> anyhow::Result<Vec<i64>> {
    let small = |value: u64| {
        i64::try_from(value)
            .ok()
            .filter(|value| *value < SPAN_MAX_MS)
            .context("a chunk that spans too much time")
    };
    let step = small(read.varint()?)?;
    ensure!(step > 0, "a grid without a step");
    let exceptions = read.count(count)?;
    let mut jumps = Vec::with_capacity(exceptions);
    for _ in 0..exceptions {
        jumps.push((read.count(count)?, small(read.varint()?)?));
    }
    let base = unzigzag(read.varint()?);
    ensure!(
        base.unsigned_abs() < SPAN_MAX_MS.unsigned_abs(),
        "a chunk that spans too much time"
    );
    let residues = column::decode(read, count)?;
    let mut jumps = jumps.into_iter();
    let mut jump = jumps.next();
    let (mut slot, mut since) = (-1i64, 0);
    let mut ages = Vec::with_capacity(count);
    for residue in residues {
        match jump {
            Some((after, by)) if after == since => {
                slot += by;
                since = 0;
                jump = jumps.next();
            }
            _ => {
                slot += 1;
                since += 1;
            }
        }
        let age = slot
            .checked_mul(step)
            .and_then(|age| age.checked_add(base + i64::from(residue)))
            .filter(|age| (0..SPAN_MAX_MS).contains(age))
            .context("a chunk that spans too much time")?;
        ages.push(age);
    }
    ensure!(jump.is_none(), "more exceptions than samples");
    Ok(ages)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn outcome() -> impl Strategy<Value = Outcome> {
        prop_oneof![
            4 => (1u32..50_000).prop_map(|rtt_us| Outcome::Ok { rtt_us }),
            1 => (1u32..).prop_map(|rtt_us| Outcome::Ok { rtt_us }),
            1 => (prop::sample::select(Reason::ALL), any::<u32>())
                .prop_map(|(reason, detail)| Outcome::Failed(Failure { reason, detail })),
        ]
    }

    /// Gaps as a schedule makes them, and as it does not.
    fn gap() -> impl Strategy<Value = i64> {
        prop_oneof![
            8 => 9_990i64..10_010,
            2 => Just(0i64),
            1 => 0i64..5,
            1 => 0i64..70_000,
        ]
    }

    fn samples() -> impl Strategy<Value = Vec<Sample>> {
        (
            0i64..4_000_000_000_000,
            prop::collection::vec((gap(), outcome()), 1..700),
        )
            .prop_map(|(first, rest)| {
                let mut at = first;
                let mut samples: Vec<Sample> = rest
                    .into_iter()
                    .map(|(gap, outcome)| {
                        let sample = Sample {
                            at: UnixMillis(at),
                            outcome,
                        };
                        at += gap;
                        sample
                    })
                    .collect();
                samples.sort_unstable();
                samples
            })
    }

    proptest! {
        #[test]
        fn what_goes_in_comes_out(samples in samples(), link: u32, small: bool) {
            let effort = if small { Effort::Small } else { Effort::Fast };
            let mut bytes = vec![7];
            encode(link, &samples, effort, &mut bytes);
            let length = bytes.len() - 1;
            bytes.extend_from_slice(&[9; 30]);
            let mut out = Vec::new();
            let peek = decode(&bytes[1..], &mut out).expect("decodes");
            prop_assert_eq!(peek, Peek { link, first: samples[0].at, length });
            prop_assert_eq!(out, samples);
        }

        #[test]
        fn any_flipped_bit_is_found(samples in samples(), at: prop::sample::Index, bit in 0u8..8) {
            let mut bytes = Vec::new();
            encode(3, &samples, Effort::Fast, &mut bytes);
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert!(decode(&bytes, &mut Vec::new()).is_err());
        }

        #[test]
        fn nonsense_is_refused_and_nothing_is_left_behind(first in 0i64..i64::MAX, body: Vec<u8>) {
            let mut out = Vec::new();
            if decode_body(UnixMillis(first), &body, &mut out).is_err() {
                prop_assert!(out.is_empty());
            }
        }

        /// A right body with a few wrong bytes: past the checksum, the decoder still holds its limits.
        #[test]
        fn a_body_with_wrong_bytes_never_panics(
            samples in samples(),
            small: bool,
            wrong in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        ) {
            let effort = if small { Effort::Small } else { Effort::Fast };
            let mut bytes = Vec::new();
            encode(3, &samples, effort, &mut bytes);
            let mut body = bytes.split_off(HEADER);
            for (at, byte) in wrong {
                let at = at.index(body.len());
                body[at] = byte;
            }
            let mut out = Vec::new();
            if decode_body(samples[0].at, &body, &mut out).is_ok() {
                prop_assert!(out.len() <= COUNT_MAX && out.is_sorted());
            }
        }
    }

    /// What the fuzzer found: a base of −2⁶³ has no magnitude.
    #[test]
    fn the_least_base_is_refused() {
        let mut body = vec![8, 0x3b, 1, 8, 0x26];
        put_varint(&mut body, zigzag(i64::MIN));
        body.extend_from_slice(&[0; 8]);
        assert!(decode_body(UnixMillis(0), &body, &mut Vec::new()).is_err());
    }

    /// The form is what is on people's disks: these bytes must decode for ever.
    #[test]
    fn version_1_stays_readable() {
        let sample = |at, outcome| Sample {
            at: UnixMillis(at),
            outcome,
        };
        let samples = [
            sample(1_763_983_305_000, Outcome::Ok { rtt_us: 812 }),
            sample(
                1_763_983_315_003,
                Outcome::Failed(Failure {
                    reason: Reason::HttpStatus,
                    detail: 502,
                }),
            ),
            sample(1_763_983_335_001, Outcome::Ok { rtt_us: 1_204 }),
        ];
        let mut bytes = Vec::new();
        encode(7, &samples, Effort::Fast, &mut bytes);
        let hex = bytes
            .iter()
            .fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
        assert_eq!(hex, VERSION_1);
        let mut out = Vec::new();
        decode(&bytes, &mut out).expect("decodes");
        assert_eq!(out, samples);
    }

    const VERSION_1: &str = concat!(
        "646e4331bc8e61332700000007000000282999b59a010000039e9c0100959c0101",
        "8b4e00000300010ff60301000101ac06b409"
    );
}
