//! Heartbeats that hold nothing but samples, many at once and in few bytes: [`wire::Batch`].
//!
//! A heartbeat a second apart from the next differs from it in few bits, but those stand between names and lengths that are the same; so
//! each field is gathered into a column before it is compressed. What is packed is unpacked at once and compared: a batch either says
//! exactly what its entries would, or is not made.

use crate::wire::{self, Columns, TargetColumns, TargetSamples};
use crate::{Invalid, MAX_HEARTBEAT_BYTES, MAX_TARGETS, TargetName};
use miniz_oxide::deflate::compress_to_vec;
use miniz_oxide::inflate;
use prost::Message;
use std::collections::BTreeMap;

/// Heartbeats in one batch, at most.
pub const MAX_BATCH: usize = 512;
/// Columns before they are compressed, in bytes, at most.
const MAX_COLUMNS: usize = 64 * 1024;

/// Of ten: the smallest but one that miniz knows.
const LEVEL: u8 = 9;

/// An encoded heartbeat and its sequence.
pub type Sequenced = (u64, Vec<u8>);

/// Packs as many of the first entries as go into one batch; returns it and how many they are. `None` if that is less than two.
pub fn pack(boot: &[u8], entries: &[Sequenced]) -> Option<(wire::Batch, usize)> {
    let mut plain: Vec<wire::Heartbeat> = Vec::new();
    for (i, (seq, bytes)) in entries.iter().take(MAX_BATCH).enumerate() {
        let follows = *seq == entries[0].0.checked_add(i as u64)?;
        let heartbeat = wire::Heartbeat::decode(&bytes[..]).ok();
        let fits = |heartbeat: &wire::Heartbeat| {
            is_plain(heartbeat)
                && plain.first().is_none_or(|first| {
                    (first.started_ms, first.interval_ms)
                        == (heartbeat.started_ms, heartbeat.interval_ms)
                })
        };
        match heartbeat.filter(fits) {
            Some(heartbeat) if follows => plain.push(heartbeat),
            _ => break,
        }
    }
    let mut count = plain.len();
    while count > 1 {
        let (columns, noise) = columns(entries[0].0, &plain[..count])?;
        let columns = columns.encode_to_vec();
        let batch = wire::Batch {
            boot: boot.to_vec(),
            columns: compress_to_vec(&columns, LEVEL),
            noise,
        };
        if columns.len() <= MAX_COLUMNS && size(&batch) <= MAX_HEARTBEAT_BYTES {
            return match unpack(&batch) {
                Ok(told) if told == entries[..count] => Some((batch, count)),
                _ => None,
            };
        }
        count /= 2;
    }
    None
}

/// The entries that a batch stands for.
pub fn unpack(batch: &wire::Batch) -> Result<Vec<Sequenced>, Invalid> {
    let invalid = |problem: &str| {
        Invalid::new(
            "batch.columns",
            format!("{} bytes", size(batch)),
            problem,
            "send what denyut.proto describes",
        )
    };
    if size(batch) > MAX_HEARTBEAT_BYTES {
        return Err(invalid("too long"));
    }
    let bytes = inflate::decompress_to_vec_with_limit(&batch.columns, MAX_COLUMNS)
        .map_err(|_| invalid("not DEFLATE, or too long before it"))?;
    let columns = Columns::decode(&bytes[..]).map_err(|_| invalid("not Columns"))?;
    heartbeats(columns, &batch.noise).ok_or_else(|| invalid("columns that do not fit together"))
}

fn size(batch: &wire::Batch) -> usize {
    batch.columns.len() + batch.noise.len()
}

/// Whether it holds what a batch can say.
fn is_plain(heartbeat: &wire::Heartbeat) -> bool {
    heartbeat.targets.is_empty()
        && heartbeat.goodbye.is_none()
        && heartbeat.gateway.is_empty()
        && heartbeat.shown.is_empty()
        && heartbeat.path.is_none()
}

/// `None` where a step has no room in its column.
fn columns(first_seq: u64, heartbeats: &[wire::Heartbeat]) -> Option<(Columns, Vec<u8>)> {
    let first = heartbeats.first()?;
    let mut columns = Columns {
        first_seq,
        uptime_ms: first.uptime_ms,
        epoch_ms: first.epoch_ms,
        started_ms: first.started_ms,
        interval_ms: first.interval_ms,
        ..Columns::default()
    };
    let mut before = 0;
    for pair in heartbeats.windows(2) {
        let step = i64::try_from(pair[1].uptime_ms.checked_sub(pair[0].uptime_ms)?).ok()?;
        let turn = step.checked_sub(before)?;
        columns.uptime_turn_ms.push(turn.try_into().ok()?);
        before = step;
        let step = pair[1].epoch_ms.checked_sub(pair[0].epoch_ms)?;
        columns.epoch_step_ms.push(step.try_into().ok()?);
    }
    let mut targets: BTreeMap<&str, (TargetColumns, u32, Vec<u8>)> = BTreeMap::new();
    for (i, heartbeat) in heartbeats.iter().enumerate() {
        for samples in &heartbeat.samples {
            let (column, age, noise) = targets.entry(&samples.target).or_default();
            column.counts.resize(i, 0);
            column.counts.push(samples.rtt_us.len().try_into().ok()?);
            let step = i64::from(samples.first_age_ms) - i64::from(*age);
            column.age_step_ms.push(step.try_into().ok()?);
            *age = samples.first_age_ms;
            column.step_ms.extend(&samples.step_ms);
            for rtt in &samples.rtt_us {
                column.rtt_high.push(rtt >> 8);
                noise.push(rtt.to_le_bytes()[0]);
            }
            for run in &samples.failures {
                push(&mut column.failures, *run);
            }
        }
    }
    let mut noise = Vec::new();
    for (target, (mut column, _, of_target)) in targets {
        target.clone_into(&mut column.target);
        column.counts.resize(heartbeats.len(), 0);
        columns.targets.push(column);
        noise.extend(of_target);
    }
    Some((columns, noise))
}

/// Adds a run, to the last one if that is of the same.
fn push(runs: &mut Vec<wire::FailureRun>, run: wire::FailureRun) {
    match runs.last_mut() {
        Some(last) if (last.reason, last.detail) == (run.reason, run.detail) => {
            last.count = last.count.saturating_add(run.count);
        }
        _ => runs.push(run),
    }
}

/// `None` where columns do not fit together.
fn heartbeats(columns: Columns, mut noise: &[u8]) -> Option<Vec<Sequenced>> {
    let count = columns.uptime_turn_ms.len() + 1;
    let alike = columns.epoch_step_ms.len() + 1 == count;
    if !alike || count > MAX_BATCH || columns.targets.len() > MAX_TARGETS {
        return None;
    }
    let mut targets = Vec::new();
    for column in columns.targets {
        // A name stands in every heartbeat of its target.
        if column.counts.len() != count || column.target.parse::<TargetName>().is_err() {
            return None;
        }
        let low = noise.split_off(..column.rtt_high.len())?;
        targets.push(Taken::of(column, low)?);
    }
    let (mut uptime_ms, mut epoch_ms) = (columns.uptime_ms, columns.epoch_ms);
    let mut step = 0_i64;
    let mut out = Vec::with_capacity(count);
    for i in 0..count {
        if i > 0 {
            step = step.checked_add(columns.uptime_turn_ms[i - 1].into())?;
            uptime_ms = uptime_ms.checked_add(step.try_into().ok()?)?;
            epoch_ms = epoch_ms.checked_add(columns.epoch_step_ms[i - 1].into())?;
        }
        let mut heartbeat = wire::Heartbeat {
            uptime_ms,
            epoch_ms,
            started_ms: columns.started_ms,
            interval_ms: columns.interval_ms,
            ..wire::Heartbeat::default()
        };
        for target in &mut targets {
            target.put(i, &mut heartbeat.samples)?;
        }
        let seq = columns.first_seq.checked_add(i as u64)?;
        out.push((seq, heartbeat.encode_to_vec()));
    }
    (noise.is_empty() && targets.iter().all(Taken::is_empty)).then_some(out)
}

/// A target's columns, and what of them is taken already.
struct Taken {
    target: String,
    counts: Vec<u32>,
    age_ms: i64,
    age_steps: std::vec::IntoIter<i32>,
    steps: std::vec::IntoIter<u32>,
    rtts: std::vec::IntoIter<u32>,
    failures: std::vec::IntoIter<wire::FailureRun>,
    /// The run of failures that is under way.
    run: wire::FailureRun,
}

impl Taken {
    fn of(column: TargetColumns, low: &[u8]) -> Option<Self> {
        let rtts = column.rtt_high.into_iter().zip(low);
        let rtts = rtts.map(|(high, low)| Some(high.checked_mul(256)? | u32::from(*low)));
        let rtts: Vec<u32> = rtts.collect::<Option<_>>()?;
        Some(Self {
            target: column.target,
            counts: column.counts,
            age_ms: 0,
            age_steps: column.age_step_ms.into_iter(),
            steps: column.step_ms.into_iter(),
            rtts: rtts.into_iter(),
            failures: column.failures.into_iter(),
            run: wire::FailureRun::default(),
        })
    }

    /// Puts its samples of one heartbeat, if there are any; `None` if the columns do not hold them.
    fn put(&mut self, heartbeat: usize, into: &mut Vec<TargetSamples>) -> Option<()> {
        let count = usize::try_from(self.counts[heartbeat]).ok()?;
        if count == 0 {
            return Some(());
        }
        if count > self.rtts.len() {
            return None;
        }
        self.age_ms = self.age_ms.checked_add(self.age_steps.next()?.into())?;
        let mut samples = TargetSamples {
            target: self.target.clone(),
            first_age_ms: self.age_ms.try_into().ok()?,
            step_ms: self.steps.by_ref().take(count - 1).collect(),
            rtt_us: self.rtts.by_ref().take(count).collect(),
            failures: Vec::new(),
        };
        if samples.step_ms.len() + 1 != count {
            return None;
        }
        for _ in samples.rtt_us.iter().filter(|rtt| **rtt == 0) {
            if self.run.count == 0 {
                self.run = self.failures.next()?;
            }
            self.run.count = self.run.count.checked_sub(1)?;
            let one = wire::FailureRun {
                count: 1,
                ..self.run
            };
            push(&mut samples.failures, one);
        }
        into.push(samples);
        Some(())
    }

    fn is_empty(&self) -> bool {
        self.run.count == 0
            && [self.age_steps.len(), self.steps.len(), self.rtts.len()] == [0; 3]
            && self.failures.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sequenced(heartbeats: &[wire::Heartbeat]) -> Vec<Sequenced> {
        let encoded = heartbeats.iter().map(Message::encode_to_vec);
        (7..).zip(encoded).collect()
    }

    /// An office's quarter of an hour: six targets, a sample of each every ten seconds.
    fn quiet_hour() -> Vec<wire::Heartbeat> {
        let mut noise = 12_345_u32;
        let mut draw = |most: u32| {
            noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (noise >> 8) % most
        };
        (0..90_u32)
            .map(|i| wire::Heartbeat {
                uptime_ms: 86_400_000 + u64::from(i * 10_000 + draw(5)),
                epoch_ms: 1_790_000_000_000 + i64::from(draw(3)),
                started_ms: 9_000,
                interval_ms: 60_000,
                samples: ["central", "dns", "gateway", "isp", "server", "uplink"]
                    .iter()
                    .zip(1..)
                    .map(|(name, n)| TargetSamples {
                        target: (*name).to_owned(),
                        first_age_ms: n * 1_500 + draw(4),
                        step_ms: Vec::new(),
                        rtt_us: vec![n * 2_000 + draw(n * 300)],
                        failures: Vec::new(),
                    })
                    .collect(),
                ..wire::Heartbeat::default()
            })
            .collect()
    }

    #[test]
    fn a_quiet_quarter_of_an_hour_takes_few_bytes() {
        let entries = sequenced(&quiet_hour());
        let plain: usize = entries.iter().map(|(_, bytes)| bytes.len()).sum();
        let (batch, count) = pack(&[], &entries).expect("is packed");
        assert_eq!(count, entries.len());
        let packed = size(&batch);
        // 540 samples: about two bytes each, of which the noise of the round trips is most.
        assert!(
            packed < 540 * 5 / 2 && packed < plain / 6,
            "{packed} of {plain}"
        );
        assert_eq!(unpack(&batch).expect("is one"), entries);
    }

    #[test]
    fn what_is_more_than_samples_ends_a_batch() {
        let mut heartbeats = quiet_hour();
        heartbeats[10].gateway = "none".to_owned();
        heartbeats[30].interval_ms = 10_000;
        let entries = sequenced(&heartbeats);
        let took = |from: usize| pack(&[], &entries[from..]).map(|(_, count)| count);
        assert_eq!((took(0), took(9), took(10)), (Some(10), None, None));
        assert_eq!((took(11), took(29), took(30)), (Some(19), None, None));
        // Sequences that do not follow.
        let mut torn = entries[40..50].to_vec();
        torn[5].0 += 1;
        assert_eq!(pack(&[], &torn).expect("is packed").1, 5);
    }

    fn samples() -> impl Strategy<Value = TargetSamples> {
        let rtt = prop_oneof![Just(0), 1..50_000_u32, any::<u32>()];
        let rtts = prop::collection::vec(rtt, 1..5);
        ("[a-c]", any::<u32>(), rtts, any::<u32>(), 0..3_i32).prop_map(
            |(target, first_age_ms, rtt_us, step, reason)| {
                let mut failures = Vec::new();
                for (i, _) in rtt_us.iter().enumerate().filter(|(_, rtt)| **rtt == 0) {
                    let run = wire::FailureRun {
                        reason: reason + i32::from(i % 2 == 0),
                        count: 1,
                        detail: 0,
                    };
                    push(&mut failures, run);
                }
                TargetSamples {
                    target,
                    first_age_ms,
                    step_ms: vec![step; rtt_us.len() - 1],
                    rtt_us,
                    failures,
                }
            },
        )
    }

    fn heartbeat() -> impl Strategy<Value = wire::Heartbeat> {
        let steps = (0..1_u64 << 40, -1_000..1_000_i64);
        (steps, prop::collection::vec(samples(), 0..4)).prop_map(
            |((uptime_ms, epoch_ms), samples)| wire::Heartbeat {
                uptime_ms,
                epoch_ms,
                interval_ms: 10_000,
                samples,
                ..wire::Heartbeat::default()
            },
        )
    }

    proptest! {
        #[test]
        fn a_batch_says_what_its_entries_would(heartbeats in prop::collection::vec(heartbeat(), 0..20)) {
            let mut heartbeats = heartbeats;
            heartbeats.sort_by_key(|heartbeat| heartbeat.uptime_ms);
            let entries = sequenced(&heartbeats);
            if let Some((batch, count)) = pack(&[1], &entries) {
                prop_assert_eq!(unpack(&batch).expect("is one"), &entries[..count]);
            }
        }

        #[test]
        fn nonsense_is_refused_and_bounded(bytes in prop::collection::vec(any::<u8>(), 0..200), columns in any::<bool>()) {
            let columns = if columns { compress_to_vec(&bytes, LEVEL) } else { bytes };
            if let Ok(entries) = unpack(&wire::Batch { columns, ..wire::Batch::default() }) {
                prop_assert!(entries.len() <= MAX_BATCH);
            }
        }
    }

    #[test]
    fn a_bomb_is_not_unpacked() {
        let columns = compress_to_vec(&vec![0; 5_000_000], LEVEL);
        assert!(columns.len() < MAX_HEARTBEAT_BYTES);
        let refused = unpack(&wire::Batch {
            columns,
            ..wire::Batch::default()
        });
        let refused = refused.expect_err("too long before");
        assert_eq!(refused.field, "batch.columns");
    }
}
