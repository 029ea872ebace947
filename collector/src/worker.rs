//! From the log to history, findings and incidents. One thread, in log order; where it stopped, it goes on.
//!
//! All of a round's state changes and the checkpoint are one atomic change, so a crash leaves the work done or
//! not begun; doing it again puts the same samples into the history once.

use crate::detect::{self, Detector, Event, Finding, Listening};
use crate::events::{Bus, Happening};
use crate::incident::{Incident, Incidents};
use crate::keys;
use crate::metrics::Metrics;
use anyhow::Context;
use denyut_proto::Heartbeat;
use denyut_store::history::{History, LinkId};
use denyut_store::log::{Body, Entry, Log, Position, Record};
use denyut_store::state::{Change, State, get_json, scan_json};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use tokio::sync::watch;
use tracing::{error, info};

/// Records taken in one round. A heartbeat changes at most 67 keys (its agent, 32 links gone and 32 new, an
/// incident and its place among the open ones), a tick's step 150: together within one batch of the state.
const ROUND: usize = 5;

/// Where the worker is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Checkpoint {
    position: Position,
    listening: Listening,
    /// The highest incident number given.
    incidents: u64,
}

/// What the thread is made of.
pub(crate) struct Worker {
    log: Arc<dyn Log>,
    history: Arc<dyn History>,
    state: Arc<dyn State>,
    detector: Detector,
    incidents: Incidents,
    position: Position,
    bus: Arc<Bus>,
    processed: Arc<AtomicU64>,
    metrics: Arc<Metrics>,
}

/// What a round will change.
#[derive(Default)]
struct Round {
    samples: usize,
    agents: BTreeSet<denyut_proto::AgentId>,
    links: BTreeSet<LinkId>,
    incidents: BTreeMap<u64, Incident>,
    happenings: Vec<Happening>,
}

impl Worker {
    /// Takes up where the last one stopped.
    pub(crate) fn restore(
        log: Arc<dyn Log>,
        history: Arc<dyn History>,
        state: Arc<dyn State>,
        replay_from: Position,
        bus: Arc<Bus>,
        metrics: Arc<Metrics>,
    ) -> anyhow::Result<Self> {
        let checkpoint: Checkpoint = get_json(&*state, keys::CHECKPOINT)?.unwrap_or_default();
        let missing = checkpoint.position.saturating_sub(log.end());
        if missing > 0 {
            error!(
                missing,
                end = log.end(),
                "the log lost its end (damage, or an older copy); agents send again what they still hold; restore a backup for the rest"
            );
            metrics.lost_records.inc_by(missing);
            log.skip_past(checkpoint.position)?;
        }
        if log.begin() > checkpoint.position + 1 {
            let missing = log.begin() - checkpoint.position - 1;
            error!(
                missing,
                position = checkpoint.position,
                begin = log.begin(),
                "the log does not reach back to where the detector stands (an older state); what lies between is in the history, but was not judged"
            );
            metrics.lost_records.inc_by(missing);
        }
        let began = Instant::now();
        let told = denyut_store::replay(
            &*log,
            &*history,
            replay_from..=checkpoint.position,
            denyut_store::threads(),
        )?;
        info!(
            heartbeats = told,
            seconds = began.elapsed().as_secs_f64(),
            "the history is complete again"
        );
        let mut detector = Detector {
            listening: checkpoint.listening,
            ..Default::default()
        };
        for (key, agent) in scan_json::<detect::Agent>(&*state, keys::AGENTS)? {
            let id = key[keys::AGENTS.len()..].parse()?;
            detector.agents.insert(id, agent);
        }
        for (key, link) in scan_json::<detect::Link>(&*state, keys::LINKS)? {
            let id = keys::parse_link(&key)
                .with_context(|| format!("the state holds a key that makes no sense: {key}"))?;
            if let Some(latest) = link.latest() {
                history.note_latest(&id, latest)?;
            }
            detector.links.insert(id, link);
        }
        let mut open = Vec::new();
        for (_, number) in scan_json::<u64>(&*state, keys::OPEN)? {
            let incident: Option<Incident> = get_json(&*state, &keys::incident(number))?;
            open.push(
                incident.with_context(|| format!("the state lacks the open incident {number}"))?,
            );
        }
        let incidents = Incidents::restore(open, checkpoint.incidents);
        metrics
            .open_incidents
            .set(i64::try_from(incidents.open_count()).unwrap_or(i64::MAX));
        info!(
            position = checkpoint.position,
            end = log.end(),
            "the worker goes on from its checkpoint"
        );
        Ok(Self {
            log,
            history,
            state,
            detector,
            incidents,
            position: checkpoint.position,
            bus,
            processed: Arc::new(AtomicU64::new(checkpoint.position)),
            metrics,
        })
    }

    /// The place up to which everything is in history and state.
    pub(crate) fn processed(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.processed)
    }

    /// Runs until `end`'s sender is gone; then the log is at its end and all of it is worked through.
    pub(crate) fn run(
        mut self,
        runtime: &tokio::runtime::Handle,
        mut end: watch::Receiver<Position>,
    ) -> anyhow::Result<()> {
        loop {
            while self.round()? {}
            if runtime.block_on(end.changed()).is_err() {
                while self.round()? {}
                return Ok(());
            }
        }
    }

    /// One round; `false` when there was nothing to do.
    fn round(&mut self) -> anyhow::Result<bool> {
        let records = self.log.read(self.position + 1, ROUND)?;
        if records.is_empty() {
            return Ok(false);
        }
        let mut round = Round::default();
        let mut last = self.position;
        for (position, record) in records {
            if self.take(position, &record, &mut round)? {
                break; // the next round takes this record again
            }
            last = position;
        }
        self.apply(last, &round)?;
        self.position = last;
        self.processed.store(last, Ordering::Release);
        self.metrics.samples.inc_by(round.samples as u64);
        self.metrics
            .open_incidents
            .set(i64::try_from(self.incidents.open_count()).unwrap_or(i64::MAX));
        self.metrics
            .worker_position
            .set(i64::try_from(last).unwrap_or(i64::MAX));
        for happening in round.happenings {
            self.bus.publish(happening);
        }
        Ok(true)
    }

    /// Takes one record in; `true` when there is more in it than one round may change.
    fn take(
        &mut self,
        position: Position,
        record: &Record,
        round: &mut Round,
    ) -> anyhow::Result<bool> {
        let arrival = record.arrival;
        let step = match &record.body {
            Body::Tick => self.detector.step(&Event::Tick { now: arrival }),
            Body::Heartbeat(entry) => match entry.heartbeat() {
                Ok(heartbeat) => {
                    self.history
                        .append(position, &entry.agent, &heartbeat.samples)?;
                    let step = self.detector.step(&Event::Heartbeat {
                        office: &entry.office,
                        agent: &entry.agent,
                        boot: entry.boot,
                        heartbeat: &heartbeat,
                        arrival,
                    });
                    gather(entry, &heartbeat, round);
                    step
                }
                Err(error) => {
                    // It was checked before it came in; only a bug or a flipped bit leads here. The rest goes on.
                    error!(position, agent = %entry.agent, seq = entry.seq, error = %format!("{error:#}"), "a record of the log cannot be read; it is passed over");
                    self.metrics.unreadable.inc();
                    return Ok(false);
                }
            },
        };
        for finding in &step.findings {
            round.happenings.push(happening(finding));
            if let Some(incident) = self.incidents.apply(finding, arrival) {
                info!(number = incident.number, office = %incident.office, cause = ?incident.cause, resolved = incident.resolved_ms.is_some(), revisions = incident.revisions.len(), "incident");
                round
                    .happenings
                    .push(Happening::Incident(Box::new(incident.clone())));
                round.incidents.insert(incident.number, incident);
            }
        }
        round.agents.extend(step.agents);
        round.links.extend(step.links);
        Ok(step.more)
    }

    fn apply(&self, position: Position, round: &Round) -> anyhow::Result<()> {
        let mut change = Change::default();
        for id in &round.agents {
            if let Some(agent) = self.detector.agents.get(id) {
                change.put_json(keys::agent(id), agent)?;
            }
        }
        for id in &round.links {
            match self.detector.links.get(id) {
                Some(link) => change.put_json(keys::link(id), link)?,
                None => change.delete.push(keys::link(id)),
            }
        }
        for (number, incident) in &round.incidents {
            change.put_json(keys::incident(*number), incident)?;
            let open = keys::open(&incident.office);
            // Within a round an office's incident may end and the next begin: the later number has the last word.
            change.delete.retain(|key| *key != open);
            change.put.retain(|(key, _)| *key != open);
            if incident.resolved_ms.is_none() {
                change.put_json(open, number)?;
            } else {
                change.delete.push(open);
            }
        }
        let checkpoint = Checkpoint {
            position,
            listening: self.detector.listening,
            incidents: self.incidents.last_number(),
        };
        change.put_json(keys::CHECKPOINT.to_owned(), &checkpoint)?;
        self.state.apply(change)?;
        Ok(())
    }
}

/// What a finding is to those who listen.
fn happening(finding: &Finding) -> Happening {
    match finding {
        Finding::Link { office, link, .. } | Finding::Removed { office, link, .. } => {
            Happening::Link {
                office: office.clone(),
                link: link.clone(),
            }
        }
        Finding::Agent {
            office,
            agent,
            to,
            at,
            ..
        } => Happening::Agent {
            office: office.clone(),
            agent: agent.clone(),
            presence: *to,
            at: *at,
        },
    }
}

/// Tells of a heartbeat's samples.
fn gather(entry: &Entry, heartbeat: &Heartbeat, round: &mut Round) {
    for samples in &heartbeat.samples {
        round.samples += samples.samples.len();
        round.happenings.push(Happening::Samples {
            office: entry.office.clone(),
            link: LinkId {
                agent: entry.agent.clone(),
                target: samples.target.clone(),
            },
            samples: samples.samples.clone(),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use denyut_proto::{BootId, Outcome, Reason, Sample, TargetSamples, UnixMillis, wire};
    use denyut_store::Store;
    use prost::Message;
    use std::path::Path;
    use std::sync::OnceLock;
    use std::time::Duration;

    const START: i64 = 1_763_983_305_000;

    /// Ten minutes of two agents that probe every second: one has two outages, the other falls silent and comes back with what it
    /// had stored.
    fn fill(log: &dyn Log) {
        let second = |n: i64| UnixMillis(START + n * 1000);
        let entry = |agent: &str, seq: i64, good: bool| {
            let outcome = if good {
                Outcome::Ok { rtt_us: 900 }
            } else {
                Outcome::Failed(Reason::Timeout.into())
            };
            let heartbeat = Heartbeat {
                at: second(seq),
                uptime: Duration::from_secs(1_000_000),
                started: Duration::ZERO,
                interval: Duration::from_secs(1),
                samples: vec![TargetSamples {
                    target: "server".parse().expect("a name"),
                    samples: vec![Sample {
                        at: second(seq),
                        outcome,
                    }],
                }],
                targets: None,
                goodbye: None,
                gateway: None,
            };
            Body::Heartbeat(Entry {
                office: format!("36.73.0{}", agent.len()).parse().expect("a code"),
                agent: agent.parse().expect("an id"),
                boot: BootId([1; 16]),
                seq: seq.unsigned_abs(),
                heartbeat: wire::Heartbeat::from(&heartbeat).encode_to_vec().into(),
                shift_ms: 0,
                decoded: OnceLock::new(),
            })
        };
        let mut late = Vec::new();
        for n in 1..600 {
            let mut bodies = vec![
                Body::Tick,
                entry(
                    "a",
                    n,
                    !(100..140).contains(&n) && !(300..302).contains(&n) && n < 500,
                ),
            ];
            let theirs = entry("bb", n, true);
            if (200..260).contains(&n) {
                late.push(theirs);
            } else {
                bodies.append(&mut late);
                bodies.push(theirs);
            }
            log.append(second(n), bodies).expect("appends");
        }
    }

    fn worker(folder: &Path) -> (Worker, Arc<Store>) {
        let store = Arc::new(open_again(folder));
        if store.log.end() == 0 {
            fill(&*store.log);
        }
        let (bus, metrics) = (Arc::new(Bus::new()), Arc::new(Metrics::new()));
        let (log, history, state) = (
            Arc::clone(&store.log),
            Arc::clone(&store.history),
            Arc::clone(&store.state),
        );
        let worker = Worker::restore(log, history, state, store.replay_from, bus, metrics);
        (worker.expect("restores"), store)
    }

    /// Opens a store that may have been closed in this process a moment ago.
    fn open_again(folder: &Path) -> Store {
        let give_up = Instant::now() + Duration::from_secs(20);
        loop {
            match Store::open(folder, UnixMillis(START)) {
                Ok(store) => return store,
                Err(error) => assert!(
                    Instant::now() < give_up && format!("{error:#}").contains("lock"),
                    "{error:#}"
                ),
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Every key and value; every sample.
    fn dump(store: &Store) -> (Vec<(String, String)>, Vec<Sample>) {
        let all = store
            .state
            .scan("")
            .expect("scans")
            .into_iter()
            .filter(|(key, _)| key != "history");
        let all = all.map(|(key, value)| (key, String::from_utf8(value).expect("JSON")));
        let mut samples = Vec::new();
        for agent in ["a", "bb"] {
            let link = LinkId {
                agent: agent.parse().expect("an id"),
                target: "server".parse().expect("a name"),
            };
            let mut visit = |sample| {
                samples.push(sample);
                true
            };
            store
                .history
                .visit(&link, UnixMillis(0)..UnixMillis(i64::MAX), &mut visit)
                .expect("reads");
        }
        (all.collect(), samples)
    }

    #[test]
    fn stopping_anywhere_and_going_on_ends_in_the_same() {
        let whole = tempfile::tempdir().expect("tempdir");
        let (mut uninterrupted, store) = worker(whole.path());
        while uninterrupted.round().expect("works") {}
        let expected = dump(&store);
        assert_eq!(expected.1.len(), 2 * 599);
        let incidents = expected
            .0
            .iter()
            .filter(|(key, _)| key.starts_with(keys::INCIDENTS))
            .count();
        assert_eq!(incidents, 3, "{:#?}", expected.0);

        let parts = tempfile::tempdir().expect("tempdir");
        for rounds in [1, 7, 60, 90, 150, usize::MAX] {
            let (mut interrupted, store) = worker(parts.path());
            let mut left = rounds;
            while left > 0 && interrupted.round().expect("works") {
                left -= 1;
            }
            if rounds == usize::MAX {
                assert_eq!(dump(&store), expected);
            }
        }
    }

    /// A crash may undo the newest changes of the state: what is done again changes nothing.
    #[test]
    fn doing_it_again_changes_nothing() {
        let folder = tempfile::tempdir().expect("tempdir");
        let (mut first, store) = worker(folder.path());
        for _ in 0..80 {
            assert!(first.round().expect("works"));
        }
        let before: Vec<_> = store.state.scan("").expect("scans");
        while first.round().expect("works") {}
        let expected = dump(&store);
        // Back to where the state was, with the history ahead of it.
        let mut undo = Change {
            put: before.clone(),
            ..Change::default()
        };
        undo.delete = expected
            .0
            .iter()
            .map(|(key, _)| key.clone())
            .filter(|key| !before.iter().any(|(k, _)| k == key))
            .collect();
        store.state.apply(undo).expect("applies");
        drop((first, store));
        let (mut again, store) = worker(folder.path());
        while again.round().expect("works") {}
        assert_eq!(dump(&store), expected);
    }
}
