//! Open buffers: what came in and is not yet sealed, by link.

use super::generation::CLUSTER;
use crate::log::Position;
use denyut_proto::{Sample, UnixMillis};
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A buffer is sealed, and its cluster with it, when it holds this many samples: one block of a column.
pub(super) const SEAL_COUNT: usize = 128;
/// Or when it is this old, so that a restart has little to read again.
pub(super) const SEAL_AGE: Duration = Duration::from_secs(20 * 60);
/// All buffers together hold at most about this many samples (16 bytes each); above it the fullest are sealed early.
const SAMPLES_MAX: usize = 8 << 20;
/// Emptied buffers that are kept.
const SPARE_MAX: usize = 4_096;

/// All buffers.
#[derive(Debug)]
pub(super) struct Open {
    buffers: Vec<Buffer>,
    /// Samples in them.
    samples: usize,
    /// Clusters in which one is full.
    pub(super) full: Vec<u32>,
    /// Emptied buffers, to be used again.
    spare: Vec<Vec<Sample>>,
    /// Above everything that was appended.
    pub(super) next: Position,
    /// What came from records from here on is being told again: nothing above is whole before that is done.
    pub(super) telling_from: Option<Position>,
    /// Samples before this are not kept any more: they come too late, and are left out.
    pub(super) kept_from: UnixMillis,
    /// How many came too late.
    pub(super) too_late: u64,
}

/// What one link has open.
#[derive(Debug)]
struct Buffer {
    samples: Vec<Sample>,
    /// Position of the first of them.
    first: Position,
    opened: Instant,
    /// What is being sealed, and its first position: readers find it here until it is in the generation.
    sealing: Option<(Arc<Vec<Sample>>, Position)>,
    latest: Option<Sample>,
    /// Full at this many samples: the first time fewer, by the link's number, so that not all are full at once.
    full_at: u16,
}

impl Open {
    /// Nothing is open, and all below `next` is elsewhere.
    pub(super) fn new(next: Position, kept_from: UnixMillis) -> Self {
        Self {
            buffers: Vec::new(),
            samples: 0,
            full: Vec::new(),
            spare: Vec::new(),
            next,
            telling_from: None,
            kept_from,
            too_late: 0,
        }
    }

    fn buffer(&mut self, number: u32, now: Instant) -> &mut Buffer {
        while self.buffers.len() <= number as usize {
            let phase = (self.buffers.len() / CLUSTER as usize).wrapping_mul(37) % (SEAL_COUNT / 2);
            self.buffers.push(Buffer {
                samples: Vec::new(),
                first: 0,
                opened: now,
                sealing: None,
                latest: None,
                full_at: u16::try_from(SEAL_COUNT / 2 + phase).unwrap_or(u16::MAX),
            });
        }
        &mut self.buffers[number as usize]
    }

    pub(super) fn push(
        &mut self,
        number: u32,
        position: Position,
        samples: &[Sample],
        now: Instant,
    ) {
        let kept: Vec<Sample>;
        let samples = if samples.iter().any(|sample| sample.at < self.kept_from) {
            let in_time = samples.iter().filter(|sample| sample.at >= self.kept_from);
            kept = in_time.copied().collect();
            self.too_late += (samples.len() - kept.len()) as u64;
            &kept
        } else {
            samples
        };
        if samples.is_empty() {
            return;
        }
        let spare = match self.buffers.get(number as usize) {
            Some(buffer) if buffer.samples.capacity() > 0 => None,
            _ => self.spare.pop(),
        };
        let buffer = self.buffer(number, now);
        let before = buffer.samples.len();
        if before == 0 {
            buffer.opened = now;
            buffer.first = position;
            if buffer.samples.capacity() == 0 {
                buffer.samples = spare.unwrap_or_default();
            }
        }
        buffer.first = buffer.first.min(position);
        buffer.samples.extend_from_slice(samples);
        let full_at = usize::from(buffer.full_at);
        if before < full_at && buffer.samples.len() >= full_at {
            self.full.push(number / CLUSTER);
        }
        self.samples += samples.len();
        if let Some(last) = samples.iter().max() {
            self.note(number, *last, now);
        }
    }

    /// Notes the newest sample.
    pub(super) fn note(&mut self, number: u32, sample: Sample, now: Instant) {
        let latest = &mut self.buffer(number, now).latest;
        if latest.is_none_or(|latest| latest < sample) {
            *latest = Some(sample);
        }
    }

    /// Begins to seal a buffer; `None` if it is empty, or being sealed.
    pub(super) fn begin(&mut self, number: u32) -> Option<Arc<Vec<Sample>>> {
        let buffer = self.buffers.get_mut(number as usize)?;
        if buffer.samples.is_empty() || buffer.sealing.is_some() {
            return None;
        }
        buffer.full_at = u16::try_from(SEAL_COUNT).unwrap_or(u16::MAX);
        let samples = Arc::new(mem::take(&mut buffer.samples));
        self.samples -= samples.len();
        buffer.sealing = Some((Arc::clone(&samples), buffer.first));
        Some(samples)
    }

    /// What was being sealed is in the generation.
    pub(super) fn done(&mut self, number: u32) {
        let sealed = self
            .buffers
            .get_mut(number as usize)
            .and_then(|buffer| buffer.sealing.take());
        if let Some((samples, _)) = sealed
            && self.spare.len() < SPARE_MAX
            && let Ok(mut samples) = Arc::try_unwrap(samples)
            && samples.capacity() <= 2 * SEAL_COUNT
        {
            samples.clear();
            self.spare.push(samples);
        }
    }

    /// What was being sealed could not be: it is open again.
    pub(super) fn undo(&mut self, number: u32) {
        if let Some(buffer) = self.buffers.get_mut(number as usize)
            && let Some((samples, first)) = buffer.sealing.take()
        {
            self.samples += samples.len();
            let newer = mem::replace(&mut buffer.samples, samples.to_vec());
            buffer.samples.extend(newer);
            buffer.first = buffer.first.min(first);
        }
    }

    /// Clusters that have been open for too long, each at an age of its own from half of [`SEAL_AGE`] on.
    pub(super) fn old(&self, now: Instant) -> Vec<u32> {
        let phase = |number: u32| {
            SEAL_AGE / 2 + SEAL_AGE / 256 * ((number / CLUSTER).wrapping_mul(37) % 128)
        };
        let all = (0..).zip(&self.buffers);
        all.filter(|(number, buffer)| {
            !buffer.samples.is_empty()
                && now.saturating_duration_since(buffer.opened) > phase(*number)
        })
        .map(|(number, _)| number / CLUSTER)
        .collect()
    }

    /// More than can be: nothing could be sealed for long.
    pub(super) fn is_overfull(&self) -> bool {
        self.samples > 2 * SAMPLES_MAX
    }

    /// The fuller half, when all together hold too much.
    pub(super) fn too_much(&self) -> Vec<u32> {
        if self.samples <= SAMPLES_MAX {
            return Vec::new();
        }
        let mean = self.samples / self.buffers.len().max(1);
        let all = (0..).zip(&self.buffers);
        all.filter(|(_, buffer)| buffer.samples.len() >= mean.max(1))
            .map(|(number, _)| number / CLUSTER)
            .collect()
    }

    /// The lowest position of anything that is not yet in the generation.
    pub(super) fn first(&self) -> Position {
        let of = |buffer: &Buffer| {
            let open = (!buffer.samples.is_empty()).then_some(buffer.first);
            let sealing = buffer.sealing.as_ref().map(|(_, first)| *first);
            open.into_iter().chain(sealing).min()
        };
        let open = self.buffers.iter().filter_map(of).min();
        open.unwrap_or(self.next)
            .min(self.telling_from.unwrap_or(Position::MAX))
    }

    /// Whether anything is open from before this time.
    pub(super) fn holds_before(&self, at: UnixMillis) -> bool {
        let before = |samples: &[Sample]| samples.iter().any(|sample| sample.at < at);
        self.buffers.iter().any(|buffer| {
            let sealing = buffer.sealing.as_ref();
            before(&buffer.samples) || sealing.is_some_and(|(samples, _)| before(samples))
        })
    }

    /// Appends what is open of a link to `out`, in no order.
    pub(super) fn read(&self, number: u32, out: &mut Vec<Sample>) {
        if let Some(buffer) = self.buffers.get(number as usize) {
            out.extend_from_slice(&buffer.samples);
            if let Some((sealing, _)) = &buffer.sealing {
                out.extend_from_slice(sealing);
            }
        }
    }

    /// The newest sample of each link, by number.
    pub(super) fn latest(&self) -> Vec<Option<Sample>> {
        self.buffers.iter().map(|buffer| buffer.latest).collect()
    }
}
