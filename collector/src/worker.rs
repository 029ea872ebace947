//! From the log to history, findings and incidents. One thread, in log order; where it stopped, it goes on.
//!
//! All of a round's state changes and the checkpoint are one atomic change, so a crash leaves the work done or
//! not begun; doing it again puts the same samples into the history once.

use crate::events::{Bus, Happening};
use crate::keys;
use crate::metrics::Metrics;
use crate::paths;
use anyhow::Context;
use denyut_detect::detector::Sight;
use denyut_detect::link::{Fold, Past, day_of};
use denyut_detect::presence::Runs;
use denyut_detect::thing::Sightings;
use denyut_detect::{
    Agent, Archive, Detector, Event, Finding, Incident, Kept, Link, Listening, Setup, Step,
};
use denyut_proto::{AgentId, Heartbeat, LinkId, OfficeCode, Sample, UnixMillis};
use denyut_store::history::History;
use denyut_store::log::{Body, Entry, Log, Position, Record};
use denyut_store::state::{Change, State, get_json, scan_json};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use tokio::sync::{Notify, watch};
use tracing::{error, info, warn};

/// Records taken in one round, at most, and the keys after which it ends: the most that one more record may change besides fits into one batch of
/// the state with them.
const ROUND: (usize, usize) = (64, 200);
/// Keys that one change of the state takes.
const CHANGE_MAX: usize = 480;
/// Folds that are kept: of the last days, and beyond them of one day in each week, up to what a default retention of samples needs.
const FOLD_DAYS: (i64, i64, i64) = (8, 7, 42);

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
    position: Position,
    bus: Arc<Bus>,
    /// Somebody may have to be told.
    news: Arc<Notify>,
    processed: Arc<AtomicU64>,
    /// What people changed of the offices, and who may speak, since it was last looked at.
    changed: Arc<Mutex<Option<Setup>>>,
    metrics: Arc<Metrics>,
}

/// What a round will change.
#[derive(Default)]
struct Round {
    samples: usize,
    agents: BTreeSet<AgentId>,
    runs: BTreeSet<AgentId>,
    sightings: BTreeSet<AgentId>,
    links: BTreeSet<LinkId>,
    pasts: BTreeSet<LinkId>,
    folds: BTreeMap<(LinkId, i64), Fold>,
    /// All that are kept of a link.
    paths: BTreeMap<LinkId, Vec<denyut_proto::Path>>,
    incidents: BTreeMap<u64, Incident>,
    sights: BTreeSet<OfficeCode>,
    happenings: Vec<Happening>,
}

impl Round {
    fn take(&mut self, step: Step) {
        self.happenings
            .extend(step.findings.into_iter().map(happening));
        self.agents.extend(step.agents);
        self.runs.extend(step.runs);
        self.sightings.extend(step.sightings);
        self.links.extend(step.links);
        self.pasts.extend(step.pasts);
        self.folds.extend(step.folds);
        self.sights.extend(step.sights);
        for (number, incident) in step.incidents {
            self.happenings
                .push(Happening::Incident(Box::new(incident.clone())));
            self.incidents.insert(number, incident);
        }
    }

    /// Keys that it changes, at most.
    fn keys(&self) -> usize {
        self.agents.len()
            + self.runs.len()
            + self.sightings.len()
            + self.links.len()
            + self.pasts.len()
            + 3 * self.folds.len()
            + self.paths.len()
            + 4 * self.incidents.len()
            + 2 * self.sights.len()
            + 1
    }
}

/// What the detector no longer holds: folds in the state, samples in the history.
struct Stored<'a> {
    history: &'a dyn History,
    state: &'a dyn State,
}

impl Archive for Stored<'_> {
    fn fold(&self, link: &LinkId, day: i64) -> anyhow::Result<Option<(i64, Fold)>> {
        let prefix = keys::folds_of(link);
        // The first day of which nothing is let go yet.
        let least = day_of(UnixMillis(self.kept_from().0.saturating_add(86_399_999)));
        let mut found = None;
        self.state.visit_back(&prefix, None, &mut |key, bytes| {
            let of: i64 = key[prefix.len()..]
                .parse()
                .with_context(|| format!("the state holds a key that makes no sense: {key}"))?;
            if of < least {
                return Ok(false);
            }
            found = keys::unpack(key, bytes)?.map(|fold| (of, fold));
            Ok(of > day)
        })?;
        Ok(found)
    }

    fn incident(&self, number: u64) -> anyhow::Result<Incident> {
        let incident: Option<Incident> = get_json(self.state, &keys::incident(number))?;
        incident.with_context(|| format!("the state lacks the incident {number}"))
    }

    fn kept_from(&self) -> UnixMillis {
        self.history.kept_from()
    }

    fn samples(
        &self,
        link: &LinkId,
        from: UnixMillis,
        to: UnixMillis,
        visit: &mut dyn FnMut(Sample),
    ) -> anyhow::Result<()> {
        let from = from.max(self.history.kept_from());
        self.history.visit(
            link,
            from..UnixMillis(to.0.saturating_add(1)),
            &mut |sample| {
                visit(sample);
                true
            },
        )
    }
}

/// What was kept of the detector.
fn kept(
    state: &dyn State,
    history: &dyn History,
    checkpoint: &Checkpoint,
) -> anyhow::Result<(Kept, bool)> {
    let id =
        |prefix: &str, key: &str| -> anyhow::Result<AgentId> { Ok(key[prefix.len()..].parse()?) };
    let (agents, foreign_agents) = keys::scan_packed::<Agent>(state, keys::AGENTS)?;
    let (links, foreign_links) = keys::scan_packed::<Link>(state, keys::LINKS)?;
    let mut kept = Kept {
        listening: checkpoint.listening,
        last_number: checkpoint.incidents,
        ..Kept::default()
    };
    for (key, agent) in agents {
        kept.agents.push((id(keys::AGENTS, &key)?, agent));
    }
    for (key, runs) in keys::scan_packed::<Runs>(state, keys::RUNS)?.0 {
        kept.runs.push((id(keys::RUNS, &key)?, runs));
    }
    for (key, sightings) in keys::scan_packed::<Sightings>(state, keys::SIGHTINGS)?.0 {
        kept.sightings.push((id(keys::SIGHTINGS, &key)?, sightings));
    }
    for (key, link) in links {
        let id = keys::parse_link(keys::LINKS, &key)?;
        if let Some(latest) = link.fold.latest() {
            history.note_latest(&id, latest)?;
        }
        kept.links.push((id, link));
    }
    for (key, past) in scan_json::<Past>(state, keys::PASTS)? {
        kept.pasts
            .push((keys::parse_link(keys::PASTS, &key)?, past));
    }
    for (key, sight) in scan_json::<Sight>(state, keys::OFFICES)? {
        kept.sights
            .push((key[keys::OFFICES.len()..].parse()?, sight));
    }
    let mut past = Change::default();
    for (key, number) in scan_json::<u64>(state, keys::LIVE)? {
        let incident: Option<Incident> = get_json(state, &keys::incident(number))?;
        let incident =
            incident.with_context(|| format!("the state lacks the incident {number}"))?;
        if Detector::is_revisable(&incident, checkpoint.listening.last_tick) {
            kept.incidents.push(incident);
        } else if past.delete.len() < CHANGE_MAX {
            // The others at the next start.
            past.delete.push(key);
        }
    }
    state.apply(past)?;
    Ok((kept, foreign_agents || foreign_links))
}

impl Worker {
    /// Takes up where the last one stopped.
    pub(crate) fn restore(
        log: Arc<dyn Log>,
        history: Arc<dyn History>,
        state: Arc<dyn State>,
        replay_from: Position,
        setup: Setup,
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
        let (kept, foreign) = kept(&*state, &*history, &checkpoint)?;
        if foreign {
            warn!(
                "what another version knew of agents and links is left out; they are judged from what comes"
            );
        }
        let detector = Detector::restore(setup, kept);
        metrics
            .open_incidents
            .set(i64::try_from(detector.open_count()).unwrap_or(i64::MAX));
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
            position: checkpoint.position,
            bus,
            news: Arc::default(),
            processed: Arc::new(AtomicU64::new(checkpoint.position)),
            changed: Arc::default(),
            metrics,
        })
    }

    /// Notified when an incident has changed.
    pub(crate) fn news(&self) -> Arc<Notify> {
        Arc::clone(&self.news)
    }

    /// The place up to which everything is in history and state.
    pub(crate) fn processed(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.processed)
    }

    /// Where to put what changed of what people tell the detector: the worker takes it up within a second.
    pub(crate) fn changed(&self) -> Arc<Mutex<Option<Setup>>> {
        Arc::clone(&self.changed)
    }

    /// Takes the detector up anew with what people changed, as at a start: it stands where the state does, which holds all that was done.
    fn take_up(&mut self) -> anyhow::Result<()> {
        let changed = {
            let mut changed = self.changed.lock().unwrap_or_else(PoisonError::into_inner);
            changed.take()
        };
        let Some(setup) = changed else {
            return Ok(());
        };
        let checkpoint: Checkpoint = get_json(&*self.state, keys::CHECKPOINT)?.unwrap_or_default();
        let (kept, _) = kept(&*self.state, &*self.history, &checkpoint)?;
        self.detector = Detector::restore(setup, kept);
        info!(
            position = self.position,
            "the offices are others; the detector was taken up anew"
        );
        Ok(())
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

    /// Works through all that is in the log.
    pub(crate) fn catch_up(&mut self) -> anyhow::Result<()> {
        while self.round()? {}
        Ok(())
    }

    /// Judges everything again from a time on; returns what became of each incident that changes, as it was and as it is now. Nothing is kept of it unless
    /// `keep`.
    pub(crate) fn redetect(
        mut self,
        from: UnixMillis,
        keep: bool,
    ) -> anyhow::Result<Vec<(Option<Incident>, Incident)>> {
        self.catch_up()?;
        let (history, state) = (Arc::clone(&self.history), Arc::clone(&self.state));
        let archive = Stored {
            history: &*history,
            state: &*state,
        };
        let mut changed: BTreeMap<u64, (Option<Incident>, Incident)> = BTreeMap::new();
        let mut round = Round::default();
        let mut take = |worker: &Self, round: &mut Round, step: Step| -> anyhow::Result<()> {
            for (number, incident) in &step.incidents {
                let before = match changed.remove(number) {
                    Some((before, _)) => before,
                    None => get_json(&*worker.state, &keys::incident(*number))?,
                };
                changed.insert(*number, (before, incident.clone()));
            }
            round.take(step);
            if keep && round.keys() > ROUND.1 {
                worker.apply(worker.position, round)?;
                *round = Round::default();
            }
            Ok(())
        };
        let links: Vec<LinkId> = self.detector.link_ids().collect();
        for link in links {
            let step = self.detector.redetect(&link, from, &archive)?;
            take(&self, &mut round, step)?;
        }
        self.detector.begin_redetecting();
        let now = self.detector.listening().last_tick;
        loop {
            let step = self.detector.step(&Event::Tick { now }, &archive)?;
            let more = step.more;
            take(&self, &mut round, step)?;
            if !more {
                break;
            }
        }
        if keep {
            self.apply(self.position, &round)?;
        }
        Ok(changed.into_values().collect())
    }

    /// One round; `false` when there was nothing to do.
    fn round(&mut self) -> anyhow::Result<bool> {
        self.take_up()?;
        let records = self.log.read(self.position + 1, ROUND.0)?;
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
            if round.keys() > ROUND.1 {
                break;
            }
        }
        self.apply(last, &round)?;
        self.position = last;
        self.processed.store(last, Ordering::Release);
        self.metrics.samples.inc_by(round.samples as u64);
        self.metrics
            .open_incidents
            .set(i64::try_from(self.detector.open_count()).unwrap_or(i64::MAX));
        self.metrics
            .worker_position
            .set(i64::try_from(last).unwrap_or(i64::MAX));
        if !round.incidents.is_empty() {
            self.news.notify_one();
        }
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
        let archive = Stored {
            history: &*self.history,
            state: &*self.state,
        };
        let step = match &record.body {
            Body::Tick => self
                .detector
                .step(&Event::Tick { now: arrival }, &archive)?,
            Body::Dismissed(agent) => self.detector.step(&Event::Dismissed { agent }, &archive)?,
            Body::Heartbeat(entry) => match entry.heartbeat() {
                Ok(heartbeat) => {
                    self.history
                        .append(position, &entry.agent, &heartbeat.samples)?;
                    let event = Event::Heartbeat {
                        office: &entry.office,
                        agent: &entry.agent,
                        boot: entry.boot,
                        heartbeat: &heartbeat,
                        arrival,
                    };
                    let step = self.detector.step(&event, &archive)?;
                    gather(entry, &heartbeat, round);
                    if let Some(path) = &heartbeat.path {
                        self.take_path(&entry.agent, path, round)?;
                    }
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
        for incident in step.incidents.values() {
            let (subject, facts) = (incident.subject(), &incident.facts);
            info!(
                number = incident.number,
                subject,
                cause = facts.cause.as_str(),
                resolved = facts.resolved_ms.is_some(),
                retracted = incident.retracted,
                revisions = incident.revisions.len(),
                "incident"
            );
        }
        for number in &step.pages {
            info!(number, "somebody is to be called");
            self.metrics.pages.inc();
        }
        let more = step.more;
        round.take(step);
        Ok(more)
    }

    /// Keeps the way to a target. Only of links that there are: names that an agent makes up take no room.
    fn take_path(
        &self,
        agent: &AgentId,
        path: &denyut_proto::Path,
        round: &mut Round,
    ) -> anyhow::Result<()> {
        let link = LinkId {
            agent: agent.clone(),
            target: path.target.clone(),
        };
        if self.detector.link(&link).is_none_or(|link| link.removed) {
            return Ok(());
        }
        if !round.paths.contains_key(&link) {
            let kept = paths::read(&*self.state, &link)?;
            round.paths.insert(link.clone(), kept);
        }
        paths::put(round.paths.entry(link).or_default(), path.clone());
        Ok(())
    }

    fn apply(&self, position: Position, round: &Round) -> anyhow::Result<()> {
        let mut change = Change::default();
        for id in &round.agents {
            if let Some(agent) = self.detector.agent(id) {
                keys::put_packed(&mut change, keys::agent(id), agent)?;
            }
        }
        for id in &round.sightings {
            if let Some(agent) = self.detector.agent(id) {
                keys::put_packed(&mut change, keys::sightings(id), &agent.sightings)?;
            }
        }
        for id in &round.runs {
            if let Some(agent) = self.detector.agent(id) {
                keys::put_packed(&mut change, keys::runs(id), &agent.runs)?;
            }
        }
        for id in &round.links {
            if let Some(link) = self.detector.link(id) {
                keys::put_packed(&mut change, keys::link(id), link)?;
            }
        }
        for id in &round.pasts {
            if let Some(link) = self.detector.link(id) {
                change.put_json(keys::past(id), &link.past)?;
            }
        }
        for (id, paths) in &round.paths {
            keys::put_packed(&mut change, keys::path(id), paths)?;
        }
        for ((id, day), fold) in &round.folds {
            keys::put_packed(&mut change, keys::fold(id, *day), fold)?;
            let (days, week, most) = FOLD_DAYS;
            let (old, oldest) = (day - days, day - most);
            if old.rem_euclid(week) != 0 {
                change.delete.push(keys::fold(id, old));
            }
            change
                .delete
                .push(keys::fold(id, oldest - oldest.rem_euclid(week)));
        }
        let mut news: BTreeSet<u64> = BTreeSet::new();
        for (number, incident) in &round.incidents {
            change.put_json(keys::incident(*number), incident)?;
            news.insert(*number);
            if Detector::is_revisable(incident, self.detector.listening().last_tick) {
                change.put_json(keys::live(*number), number)?;
            } else {
                change.delete.push(keys::live(*number));
            }
            let open = keys::open(incident.office.as_ref(), *number);
            // Within a round an office's incident may end and the next begin: the open one has the last word.
            if incident.is_open() {
                change.delete.retain(|key| *key != open);
                change.put.retain(|(key, _)| *key != open);
                change.put_json(open, number)?;
            } else if !change.put.iter().any(|(key, _)| *key == open)
                && self.is_open_elsewhere(incident).is_none()
            {
                change.delete.push(open);
            }
        }
        for code in &round.sights {
            if let Some(sight) = self.detector.sight(code) {
                change.put_json(keys::office(code), sight)?;
            }
            // Its patterns may be what somebody is told of.
            news.extend(get_json::<u64>(&*self.state, &keys::open(Some(code), 0))?);
        }
        // After all that they are news of. Other than any before: who reads it deletes what it read.
        for number in news {
            change.put_json(keys::news(number), &position)?;
        }
        let checkpoint = Checkpoint {
            position,
            listening: self.detector.listening(),
            incidents: self.detector.last_number(),
        };
        change.put_json(keys::CHECKPOINT.to_owned(), &checkpoint)?;
        // A key that is deleted twice is deleted.
        change.delete.sort_unstable();
        change.delete.dedup();
        self.apply_in_parts(change)
    }

    /// Applies a change; one that is too large for the state in parts, the checkpoint with the last. After a crash in between the records are worked through again, and
    /// what was applied of them is found to be so.
    fn apply_in_parts(&self, mut change: Change) -> anyhow::Result<()> {
        while change.put.len() + change.delete.len() > CHANGE_MAX {
            let deletes = change.delete.len().min(CHANGE_MAX);
            let part = Change {
                delete: change.delete.drain(..deletes).collect(),
                put: change.put.drain(..CHANGE_MAX - deletes).collect(),
                ..Change::default()
            };
            self.state.apply(part)?;
        }
        self.state.apply(change)?;
        Ok(())
    }

    /// Another incident of the same office that is open.
    fn is_open_elsewhere(&self, incident: &Incident) -> Option<u64> {
        let office = incident.office.as_ref()?;
        self.detector.open_of(office).map(|other| other.number)
    }
}

/// What a finding is to those who listen.
fn happening(finding: Finding) -> Happening {
    match finding {
        Finding::Link { office, link } => Happening::Link { office, link },
        Finding::Agent {
            office,
            agent,
            to,
            at,
        } => Happening::Agent {
            office,
            agent,
            presence: to,
            at,
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
    use denyut_proto::{BootId, Outcome, Reason, TargetSamples, wire};
    use denyut_store::Store;
    use prost::Message;
    use std::path::Path;
    use std::sync::OnceLock;
    use std::time::Duration;

    /// A Monday, 09:00 WIB.
    const START: i64 = 1_763_949_600_000;

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
                shown: Vec::new(),
                path: None,
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
        let setup = Setup::default();
        let worker = Worker::restore(log, history, state, store.replay_from, setup, bus, metrics);
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
        let all = all.map(|(key, value)| (key, String::from_utf8_lossy(&value).into_owned()));
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
        assert_eq!(incidents, 2, "{:#?}", expected.0);

        let parts = tempfile::tempdir().expect("tempdir");
        for rounds in [1, 2, 5, 9, 14, usize::MAX] {
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
        for _ in 0..20 {
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
