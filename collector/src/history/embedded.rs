//! The history over sled: one entry per sample.
//!
//! Keys: link number (u32) + event time (ms, u64), big-endian. Values: `1` + RTT in µs (u32), or `0` + reason
//! (u8) + detail (u32), big-endian. A link's number is in the tree `links`: agent + `/` + target → u32.

use super::{History, LinkId};
use crate::engine::{BATCH_MAX, Engine};
use anyhow::{Context, bail};
use denyut_proto::{Failure, Outcome, Reason, Sample, UnixMillis};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

/// Samples deleted by one call of `forget`, at most.
const FORGET_MAX: usize = 20 * BATCH_MAX;

pub(crate) struct EmbeddedHistory {
    samples: sled::Tree,
    links: sled::Tree,
    numbers: Mutex<HashMap<LinkId, u32>>,
}

impl EmbeddedHistory {
    pub(crate) fn open(engine: &Arc<Engine>) -> anyhow::Result<Self> {
        let samples = engine.tree("history").context("cannot open the history")?;
        let links = engine.tree("links").context("cannot open the history")?;
        let mut numbers = HashMap::new();
        for item in &links {
            let (key, value) = item.context("cannot read the history")?;
            let (link, number) = parse_link(&key, &value).with_context(|| {
                format!("the history holds a link that makes no sense: {key:?}")
            })?;
            numbers.insert(link, number);
        }
        Ok(Self {
            samples,
            links,
            numbers: Mutex::new(numbers),
        })
    }

    fn number(&self, link: &LinkId) -> Option<u32> {
        let numbers = self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        numbers.get(link).copied()
    }

    fn number_or_new(&self, link: &LinkId) -> anyhow::Result<u32> {
        let mut numbers = self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(number) = numbers.get(link) {
            return Ok(*number);
        }
        // Links are never deleted, so the count is the next free number.
        let number = u32::try_from(numbers.len()).context("too many links")?;
        self.links
            .insert(link.to_string(), &number.to_be_bytes())
            .context("cannot write the history")?;
        numbers.insert(link.clone(), number);
        Ok(number)
    }
}

impl History for EmbeddedHistory {
    fn append(&self, link: &LinkId, samples: &[Sample]) -> anyhow::Result<()> {
        let number = self.number_or_new(link)?;
        for part in samples.chunks(BATCH_MAX) {
            let mut batch = sled::Batch::default();
            for sample in part {
                batch.insert(key(number, sample.at).to_vec(), encode(sample.outcome));
            }
            self.samples
                .apply_batch(batch)
                .context("cannot write the history")?;
        }
        Ok(())
    }

    fn visit(
        &self,
        link: &LinkId,
        range: Range<UnixMillis>,
        visit: &mut dyn FnMut(Sample) -> bool,
    ) -> anyhow::Result<()> {
        let Some(number) = self.number(link) else {
            return Ok(());
        };
        if range.is_empty() {
            return Ok(());
        }
        for item in self
            .samples
            .range(key(number, range.start)..key(number, range.end))
        {
            let (key, value) = item.context("cannot read the history")?;
            let sample = decode(&key, &value)
                .with_context(|| format!("the history is damaged: link {link}, key {key:?}"))?;
            if !visit(sample) {
                break;
            }
        }
        Ok(())
    }

    fn forget(&self, before: UnixMillis) -> anyhow::Result<bool> {
        let count = {
            let numbers = self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
            u32::try_from(numbers.len()).unwrap_or(u32::MAX)
        };
        let mut left = FORGET_MAX;
        for number in 0..count {
            loop {
                let mut batch = sled::Batch::default();
                let mut found = 0;
                let old = key(number, UnixMillis(0))..key(number, before);
                for key in self.samples.range(old).keys().take(BATCH_MAX) {
                    batch.remove(key.context("cannot read the history")?);
                    found += 1;
                }
                if found == 0 {
                    break;
                }
                self.samples
                    .apply_batch(batch)
                    .context("cannot write the history")?;
                left = left.saturating_sub(found);
                if left == 0 {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }
}

fn key(number: u32, at: UnixMillis) -> [u8; 12] {
    let mut key = [0; 12];
    key[..4].copy_from_slice(&number.to_be_bytes());
    // Times before 1970 are refused at ingest; a query may ask from there.
    let at = u64::try_from(at.0).unwrap_or(0);
    key[4..].copy_from_slice(&at.to_be_bytes());
    key
}

fn encode(outcome: Outcome) -> Vec<u8> {
    match outcome {
        Outcome::Ok { rtt_us } => [&[1][..], &rtt_us.to_be_bytes()].concat(),
        Outcome::Failed(Failure { reason, detail }) => {
            [&[0, reason as u8][..], &detail.to_be_bytes()].concat()
        }
    }
}

fn decode(key: &[u8], value: &[u8]) -> anyhow::Result<Sample> {
    let at = u64::from_be_bytes(key.get(4..).context("a short key")?.try_into()?);
    let outcome = match value {
        [1, rtt @ ..] => Outcome::Ok {
            rtt_us: u32::from_be_bytes(rtt.try_into()?),
        },
        [0, reason, detail @ ..] => {
            let Ok(reason) = Reason::try_from(i32::from(*reason)) else {
                bail!("unknown reason {reason}");
            };
            Outcome::Failed(Failure {
                reason,
                detail: u32::from_be_bytes(detail.try_into()?),
            })
        }
        _ => bail!("unknown form {value:?}"),
    };
    Ok(Sample {
        at: UnixMillis(i64::try_from(at)?),
        outcome,
    })
}

fn parse_link(key: &[u8], value: &[u8]) -> Option<(LinkId, u32)> {
    let (agent, target) = std::str::from_utf8(key).ok()?.split_once('/')?;
    let link = LinkId {
        agent: agent.parse().ok()?,
        target: target.parse().ok()?,
    };
    Some((link, u32::from_be_bytes(value.try_into().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::open_again;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn link(target: &str) -> LinkId {
        LinkId {
            agent: "a-1".parse().expect("an id"),
            target: target.parse().expect("a name"),
        }
    }

    fn open(path: &std::path::Path) -> EmbeddedHistory {
        EmbeddedHistory::open(&open_again(path)).expect("opens")
    }

    fn range(history: &dyn History, link: &LinkId, range: Range<i64>) -> Vec<Sample> {
        let mut out = Vec::new();
        let range = UnixMillis(range.start)..UnixMillis(range.end);
        history
            .visit(link, range, &mut |sample| {
                out.push(sample);
                true
            })
            .expect("reads");
        out
    }

    fn sample() -> impl Strategy<Value = Sample> {
        let outcome = prop_oneof![
            (1u32..).prop_map(|rtt_us| Outcome::Ok { rtt_us }),
            (prop::sample::select(Reason::ALL), any::<u32>())
                .prop_map(|(reason, detail)| Outcome::Failed(Failure { reason, detail })),
        ];
        (0i64..2_000, outcome).prop_map(|(at, outcome)| Sample {
            at: UnixMillis(at),
            outcome,
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        /// Against a map by time: any order, any doubling, any range, after a restart.
        #[test]
        fn it_is_a_map_by_time(
            samples in prop::collection::vec((0u8..2, sample()), 0..300),
            from in 0i64..2_000,
            length in 0i64..2_000,
        ) {
            let dir = tempfile::tempdir().expect("tempdir");
            let history = open(dir.path());
            let mut model = [BTreeMap::new(), BTreeMap::new()];
            let links = [link("server"), link("gateway")];
            for (which, sample) in samples {
                let which = usize::from(which);
                history.append(&links[which], &[sample]).expect("appends");
                model[which].insert(sample.at.0, sample);
            }
            drop(history);
            let history = open(dir.path());
            for (link, model) in links.iter().zip(&model) {
                let expected: Vec<Sample> = model.range(from..from + length).map(|(_, s)| *s).collect();
                prop_assert_eq!(range(&history, link, from..from + length), expected);
            }
        }
    }

    #[test]
    fn the_old_is_forgotten_in_parts_and_the_rest_stays() {
        let dir = tempfile::tempdir().expect("tempdir");
        let history = open(dir.path());
        let samples: Vec<Sample> = (1..=30_000)
            .map(|at| Sample {
                at: UnixMillis(at),
                outcome: Outcome::Ok { rtt_us: 7 },
            })
            .collect();
        history.append(&link("a"), &samples).expect("appends");
        history.append(&link("b"), &samples[..10]).expect("appends");
        let mut calls = 1;
        while !history.forget(UnixMillis(29_999)).expect("forgets") {
            calls += 1;
        }
        assert!(calls > 1);
        assert_eq!(range(&history, &link("a"), 0..i64::MAX), samples[29_998..]);
        assert!(range(&history, &link("b"), 0..i64::MAX).is_empty());
    }
}
