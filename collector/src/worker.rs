//! From the log to history, findings and incidents. One thread, in log order; where it stopped, it goes on.
//!
//! All of a round's state changes and the checkpoint are one atomic change, so a crash leaves the work done or
//! not begun; doing it again puts the same samples into the history once.

use crate::detect::{self, Detector, Event, Finding, Listening};
use crate::events::{Bus, Happening};
use crate::history::{History, LinkId};
use crate::incident::{Incident, Incidents};
use crate::log::{Body, Entry, Log, Position, Record};
use crate::metrics::Metrics;
use crate::state::{Change, State, get_json, keys, scan_json};
use anyhow::{Context, bail};
use denyut_proto::{Heartbeat, Sample, UnixMillis, wire};
use prost::Message;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::watch;
use tracing::{error, info};

/// Records taken in one round. A heartbeat changes at most 67 keys (its agent, 32 links gone and 32 new, an
/// incident and its place among the open ones), a tick's step 150: together within one batch of the state.
const ROUND: usize = 5;
/// Version of what lies in the state.
const SCHEMA: u32 = 1;

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
    samples: BTreeMap<LinkId, Vec<Sample>>,
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
        bus: Arc<Bus>,
        metrics: Arc<Metrics>,
    ) -> anyhow::Result<Self> {
        check_schema(&*state)?;
        let checkpoint: Checkpoint = get_json(&*state, keys::CHECKPOINT)?.unwrap_or_default();
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
            if self.take(position, record, &mut round) {
                break; // the next round takes this record again
            }
            last = position;
        }
        let samples: usize = round.samples.values().map(Vec::len).sum();
        for (link, samples) in &round.samples {
            self.history.append(link, samples)?;
        }
        self.apply(last, &round)?;
        self.position = last;
        self.processed.store(last, Ordering::Release);
        self.metrics.samples.inc_by(samples as u64);
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
    fn take(&mut self, position: Position, record: Record, round: &mut Round) -> bool {
        let arrival = record.arrival;
        let step = match record.body {
            Body::Tick => self.detector.step(&Event::Tick { now: arrival }),
            Body::Heartbeat(entry) => match decode(&entry) {
                Ok(heartbeat) => {
                    let step = self.detector.step(&Event::Heartbeat {
                        office: &entry.office,
                        agent: &entry.agent,
                        boot: entry.boot,
                        heartbeat: &heartbeat,
                        arrival,
                    });
                    gather(&entry, heartbeat, round);
                    step
                }
                Err(error) => {
                    // It was checked before it came in; only a bug or a flipped bit leads here. The rest goes on.
                    error!(position, agent = %entry.agent, seq = entry.seq, error = %format!("{error:#}"), "a record of the log cannot be read; it is passed over");
                    self.metrics.unreadable.inc();
                    return false;
                }
            },
        };
        for finding in &step.findings {
            round.happenings.push(happening(finding));
            if let Some(incident) = self.incidents.apply(finding, arrival) {
                let last = incident.revisions.last();
                info!(number = incident.number, office = %incident.office, cause = ?incident.cause, change = ?last.map(|r| (r.kind, r.reason)), "incident");
                round
                    .happenings
                    .push(Happening::Incident(Box::new(incident.clone())));
                round.incidents.insert(incident.number, incident);
            }
        }
        round.agents.extend(step.agents);
        round.links.extend(step.links);
        step.more
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

/// Puts a heartbeat's samples to the round's.
fn gather(entry: &Entry, heartbeat: Heartbeat, round: &mut Round) {
    for samples in heartbeat.samples {
        let link = LinkId {
            agent: entry.agent.clone(),
            target: samples.target,
        };
        round.happenings.push(Happening::Samples {
            office: entry.office.clone(),
            link: link.clone(),
            samples: samples.samples.clone(),
        });
        round
            .samples
            .entry(link)
            .or_default()
            .extend(samples.samples);
    }
}

fn decode(entry: &Entry) -> anyhow::Result<Heartbeat> {
    let wire = wire::Heartbeat::decode(entry.heartbeat.clone())?;
    Ok(wire.try_into()?)
}

fn check_schema(state: &dyn State) -> anyhow::Result<()> {
    match get_json::<u32>(state, keys::SCHEMA)? {
        Some(SCHEMA) => {}
        Some(other) => bail!(
            "the data folder has schema {other}, and this version reads {SCHEMA}; run the version that wrote it"
        ),
        None => {
            let mut change = Change::default();
            change.expect.push((keys::SCHEMA.to_owned(), None));
            change.put_json(keys::SCHEMA.to_owned(), &SCHEMA)?;
            state.apply(change)?;
        }
    }
    Ok(())
}

/// Deletes what is older than `before` from the history, a part at a time.
pub(crate) fn forget(history: &dyn History, before: UnixMillis) -> anyhow::Result<()> {
    while !history.forget(before)? {}
    Ok(())
}
