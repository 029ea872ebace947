//! The detector: all agents, links and offices, and the one step that takes an event in.
//!
//! Heartbeats only carry folds and runs on, and note which offices they touched. A tick looks at what was noted: who is silent, what came late, and what is true of
//! each touched office now. So a verdict is a function of what is known, not of the order in which it came.

mod agent;
mod judge;
mod turns;

pub use agent::{Agent, Presence};

use crate::calendar::{Holidays, Hours, Maintenance, Opening, When, Zone};
use crate::common::{Common, ScopeId, Scopes};
use crate::incident::{Incident, RevisionReason, ScopeKind};
use crate::link::{Fold, Link, Past, day_of};
use crate::office::{Hit, Onset, Outage, Pattern};
use crate::params::Params;
use crate::presence::{Run, Runs, grace};
use crate::roam::Turns;
use crate::settled::Settled;
use crate::thing::{self, Move, Sightings};
use agent::{Behind, Watcher};
use denyut_proto::{AgentId, BootId, Heartbeat, Identity, LinkId, OfficeCode, Sample, UnixMillis};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use utoipa::ToSchema;

/// A longer gap between two ticks means that the collector itself was not listening. Ticks come every second.
const DEAF_AFTER: Duration = Duration::from_secs(5);
/// Agents found silent in one step, and incidents changed, at most: what one step changes must fit into one atomic change of the state.
const SILENT_PER_STEP: usize = 100;
const CHANGED_PER_STEP: usize = 60;
/// Links judged again in one tick, at most, and the keys after which no other is begun.
const REWINDS_PER_TICK: usize = 16;
const REWIND_KEYS: usize = 100;
/// Folds of a link that is judged again that are kept: of its last days, and beyond them of one day in each week.
const FOLDS_KEPT: (i64, i64) = (8, 7);
/// Late samples are judged when no more came for the first, or after the second at the latest.
const LATE_WAIT: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(600));
/// An agent whose heartbeats are older than this when they come is behind: it delivers what it stored.
const BEHIND: Duration = Duration::from_secs(60);
/// What ended before this is let go; longer than samples are kept by default, and than a relapse may take.
pub(crate) const KEPT: Duration = Duration::from_secs(36 * 86_400);
/// An incident that is over is held in short when none of its office's changed for this: by then the archive has it.
const SETTLES: Duration = Duration::from_secs(3_600);
/// An office that is left behind by the recovery of a common cause is called for after this.
const LEFT_BEHIND: Duration = Duration::from_secs(1_800);
/// What more agents than this saw is no one thing.
const WITNESSES_MOST: usize = 4 * thing::OFFICES_MOST;
/// Patterns that are kept of one office beside those that last.
const PATTERNS_MAX: usize = 120;

/// Everything the detector hears.
#[derive(Debug)]
pub enum Event<'a> {
    /// An agent spoke.
    Heartbeat {
        /// The office that it belonged to.
        office: &'a OfficeCode,
        /// Who.
        agent: &'a AgentId,
        /// In which boot.
        boot: BootId,
        /// What.
        heartbeat: &'a Heartbeat,
        /// When the collector took it.
        arrival: UnixMillis,
    },
    /// An agent was shut out: nobody expects it any more, and what it saw ended with its last word.
    Dismissed {
        /// Who.
        agent: &'a AgentId,
    },
    /// The collector was listening at this time.
    Tick {
        /// Its time.
        now: UnixMillis,
    },
}

/// What happened to links and agents, for those who watch.
#[derive(Debug, Clone, PartialEq)]
pub enum Finding {
    /// A link changed its phase, or is gone.
    Link {
        /// At which office.
        office: OfficeCode,
        /// Which.
        link: LinkId,
    },
    /// An agent fell silent, stopped, or spoke again.
    Agent {
        /// At which office.
        office: OfficeCode,
        /// Which.
        agent: AgentId,
        /// What it is now.
        to: Presence,
        /// Since when (event time).
        at: UnixMillis,
    },
}

/// An office as the registry knows it.
#[derive(Debug, Clone, Default)]
pub struct Site {
    /// Opening hours; the usual ones when none.
    pub hours: Option<Arc<Hours>>,
    /// Its ISP.
    pub isp: Option<String>,
    /// The ISP's point of presence.
    pub pop: Option<String>,
    /// The pool of shared equipment it belongs to.
    pub pool: Option<String>,
}

/// What the detector is told by people.
#[derive(Debug, Clone, Default)]
pub struct Setup {
    /// Thresholds.
    pub params: Params,
    /// Opening hours of offices without their own.
    pub hours: Arc<Hours>,
    /// National holidays.
    pub holidays: Holidays,
    /// Announced work.
    pub maintenance: Vec<Maintenance>,
    /// Offices.
    pub sites: BTreeMap<OfficeCode, Site>,
    /// Agents that may speak; none: whoever does. What others saw ended with their last word.
    pub agents: BTreeSet<AgentId>,
}

impl Setup {
    /// When an office is open.
    pub fn opening(&self, code: &OfficeCode) -> Opening<'_> {
        let site = self.sites.get(code);
        Opening {
            zone: Zone::of(code),
            hours: site
                .and_then(|site| site.hours.as_deref())
                .unwrap_or(&self.hours),
            holidays: &self.holidays,
        }
    }
}

/// Where the detector finds what it no longer holds. Errors are the storage's.
pub trait Archive {
    /// The fold of a link as it was before the first sample of a UTC day of which all samples are kept: of the last such day up to `day`, else of the first
    /// after it.
    fn fold(&self, link: &LinkId, day: i64) -> anyhow::Result<Option<(i64, Fold)>>;

    /// The incident of this number.
    fn incident(&self, number: u64) -> anyhow::Result<Incident>;

    /// Samples before this are not kept.
    fn kept_from(&self) -> UnixMillis;

    /// The link's samples from `from` up to and with `to`, oldest first.
    fn samples(
        &self,
        link: &LinkId,
        from: UnixMillis,
        to: UnixMillis,
        visit: &mut dyn FnMut(Sample),
    ) -> anyhow::Result<()>;
}

/// When the collector was there to hear.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listening {
    /// Without a gap up to the last tick.
    pub since: UnixMillis,
    /// The last tick.
    pub last_tick: UnixMillis,
}

/// What one step changed: all that must be kept to go on from here. Lists may name a thing twice.
#[derive(Debug, Default)]
pub struct Step {
    /// In the order in which they were found.
    pub findings: Vec<Finding>,
    /// Agents that are not as they were.
    pub agents: Vec<AgentId>,
    /// Agents whose runs are not as they were.
    pub runs: Vec<AgentId>,
    /// Agents that told of something their targets showed.
    pub sightings: Vec<AgentId>,
    /// Links that are not as they were, or are gone.
    pub links: Vec<LinkId>,
    /// Links whose past is not as it was.
    pub pasts: Vec<LinkId>,
    /// Folds to keep, by link and day.
    pub folds: BTreeMap<(LinkId, i64), Fold>,
    /// Incidents that are not as they were.
    pub incidents: BTreeMap<u64, Incident>,
    /// Incidents that somebody is to be called for now.
    pub pages: Vec<u64>,
    /// Offices whose [`Sight`] is not as it was.
    pub sights: Vec<OfficeCode>,
    /// There is more to find in this event: it must be given again.
    pub more: bool,
}

impl Step {
    /// How many keys it changes.
    pub fn len(&self) -> usize {
        self.agents.len()
            + self.runs.len()
            + self.sightings.len()
            + self.links.len()
            + self.pasts.len()
            + 3 * self.folds.len()
            + 2 * self.incidents.len()
            + self.sights.len()
    }

    /// Whether nothing is to be kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What was kept of a detector.
#[derive(Debug, Default)]
pub struct Kept {
    /// See [`Listening`].
    pub listening: Listening,
    /// The highest incident number given.
    pub last_number: u64,
    /// By id.
    pub agents: Vec<(AgentId, Agent)>,
    /// Their runs.
    pub runs: Vec<(AgentId, Runs)>,
    /// What their targets showed.
    pub sightings: Vec<(AgentId, Sightings)>,
    /// By id.
    pub links: Vec<(LinkId, Link)>,
    /// Their pasts.
    pub pasts: Vec<(LinkId, Past)>,
    /// Those that are open, and those that may be judged again (see [`Detector::is_revisable`]).
    pub incidents: Vec<Incident>,
    /// By office.
    pub sights: Vec<(OfficeCode, Sight)>,
}

/// An office over time, as it was last judged.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sight {
    /// What goes beyond single incidents.
    pub patterns: Vec<Pattern>,
    /// Times without service.
    pub outages: Vec<Outage>,
    /// When failures began that are news.
    #[serde(default)]
    pub onsets: Vec<Onset>,
    /// When time alone may change what is true of it.
    pub review: Option<UnixMillis>,
    /// What was before this was seen by an agent that is elsewhere now: it stays as it was said.
    #[serde(default)]
    pub known_from: Option<UnixMillis>,
}

/// What is held of an office.
#[derive(Debug, Default)]
struct Office {
    /// Places in `watchers`, in the order of their ids.
    watchers: Vec<usize>,
    /// Those that go on, or are over and changed lately; and when one of them last did (arrival time).
    incidents: Vec<Incident>,
    changed: UnixMillis,
    settled: Vec<Settled>,
    sight: Sight,
    hits: Vec<Hit>,
    maintenance: Vec<When>,
}

/// The detector.
pub struct Detector {
    setup: Setup,
    listening: Listening,
    watchers: Vec<Watcher>,
    index: HashMap<AgentId, usize, foldhash::fast::FixedState>,
    offices: BTreeMap<OfficeCode, Office>,
    scopes: Scopes,
    commons: Vec<Common>,
    common_incidents: Vec<Incident>,
    commons_changed: bool,
    /// When one of them may be called for.
    commons_review: Option<UnixMillis>,
    /// Times in which an onset more or less may change the common causes.
    bursts: Vec<Range<UnixMillis>>,
    pairs: BTreeMap<(OfficeCode, OfficeCode), Turns>,
    /// Members of a pool that take turns with any of the others.
    rovers: BTreeMap<OfficeCode, Turns>,
    /// Places in `watchers` of those that saw a thing.
    things: HashMap<Identity, BTreeSet<usize>, foldhash::fast::FixedState>,
    /// Of the things that moved.
    moves: BTreeMap<Identity, Vec<Move>>,
    last_number: u64,
    /// Offices to judge.
    touched: BTreeSet<OfficeCode>,
    /// Those of them whose outages are noted, in this tick, and those whose times are not as they were.
    noted: BTreeSet<OfficeCode>,
    swung: BTreeSet<OfficeCode>,
    /// Offices to judge when the agents that are behind have caught up.
    waiting: BTreeSet<OfficeCode>,
    reviews: BTreeSet<(UnixMillis, OfficeCode)>,
    late: BTreeSet<LinkId>,
    /// Many fell silent at once: the collector suspects itself, and calls for no silence.
    suspicious: bool,
    /// Offices are watched since earlier than was known.
    rewatched: bool,
    /// Nobody is silent before this.
    silent_from: UnixMillis,
    why: RevisionReason,
}

/// Something of an incident that the API shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It goes on.
    Open,
    /// It is over, and may come back.
    Probation,
    /// It is over for good.
    Closed,
    /// It was none.
    Retracted,
}

impl Status {
    /// The status of an incident at a time.
    pub fn of(incident: &Incident, now: UnixMillis) -> Self {
        if incident.retracted {
            return Self::Retracted;
        }
        match (
            incident.facts.resolved_ms,
            incident.facts.probation_until_ms,
        ) {
            (None, _) => Self::Open,
            (Some(_), Some(until)) if now < until => Self::Probation,
            _ => Self::Closed,
        }
    }
}

impl Detector {
    /// Goes on from what was kept.
    pub fn restore(setup: Setup, kept: Kept) -> Self {
        let mut detector = Self {
            setup,
            listening: kept.listening,
            watchers: Vec::new(),
            index: HashMap::default(),
            offices: BTreeMap::new(),
            scopes: Scopes::default(),
            commons: Vec::new(),
            common_incidents: Vec::new(),
            commons_changed: true,
            commons_review: None,
            bursts: Vec::new(),
            pairs: BTreeMap::new(),
            rovers: BTreeMap::new(),
            things: HashMap::default(),
            moves: BTreeMap::new(),
            last_number: kept.last_number,
            touched: BTreeSet::new(),
            noted: BTreeSet::new(),
            swung: BTreeSet::new(),
            waiting: BTreeSet::new(),
            reviews: BTreeSet::new(),
            late: BTreeSet::new(),
            suspicious: false,
            rewatched: false,
            silent_from: UnixMillis(i64::MIN),
            why: RevisionReason::LateData,
        };
        let codes: Vec<OfficeCode> = detector.setup.sites.keys().cloned().collect();
        for code in codes {
            detector.office(&code);
        }
        for (id, agent) in kept.agents {
            detector.add(&id, agent);
        }
        for (id, runs) in kept.runs {
            if let Some(at) = detector.index.get(&id) {
                let watcher = &mut detector.watchers[*at].agent;
                let last = std::mem::replace(&mut watcher.runs, runs);
                last.as_slice().iter().for_each(|run| {
                    watcher.runs.insert(run);
                });
            }
        }
        for (id, sightings) in kept.sightings {
            if let Some(at) = detector.index.get(&id).copied() {
                for identity in sightings.identities() {
                    detector.things.entry(identity).or_default().insert(at);
                }
                detector.watchers[at].agent.sightings = sightings;
            }
        }
        for (id, mut link) in kept.links {
            if link.late.is_some() {
                detector.late.insert(id.clone());
            }
            if let Some(at) = detector.index.get(&id.agent) {
                link.past = Past::default();
                detector.watchers[*at].links.push((id.target, link));
            }
        }
        for (id, past) in kept.pasts {
            if let Some(link) = detector.link_mut(&id) {
                link.past = past;
            }
        }
        for incident in kept.incidents {
            match &incident.office {
                Some(code) => {
                    let code = code.clone();
                    let office = detector.office(&code);
                    match Settled::of(&incident) {
                        Some(settled) => office.settled.push(settled),
                        None if incident.retracted => {}
                        None => office.incidents.push(incident),
                    }
                }
                None => detector.common_incidents.push(incident),
            }
        }
        for (code, sight) in kept.sights {
            detector
                .reviews
                .extend(sight.review.map(|at| (at, code.clone())));
            detector.office(&code).sight = sight;
        }
        detector.dismiss_unknown();
        detector.take_up();
        detector
    }

    /// After a restart: everything that was kept is there, and every office is to be judged unless it waits.
    fn take_up(&mut self) {
        for office in self.offices.values_mut() {
            office.incidents.sort_by_key(|incident| incident.number);
            office.settled.sort_by_key(|settled| settled.number);
        }
        self.common_incidents
            .sort_by_key(|incident| incident.number);
        for (code, office) in &self.offices {
            let waits = |at: &usize| {
                self.watchers[*at]
                    .agent
                    .behind
                    .is_some_and(|behind| behind.told)
            };
            if office.watchers.iter().any(waits) {
                self.waiting.insert(code.clone());
            } else {
                self.touched.insert(code.clone());
            }
        }
        for at in 0..self.watchers.len() {
            self.watched_since(at);
        }
        self.recall();
        self.rewatched = false;
    }

    /// Agents that are registered no more are expected no more.
    fn dismiss_unknown(&mut self) {
        let registered = &self.setup.agents;
        if registered.is_empty() {
            return;
        }
        let gone = self.watchers.iter_mut();
        for watcher in gone.filter(|watcher| !registered.contains(&watcher.id)) {
            watcher.dismiss(&self.setup.params);
        }
    }

    fn dismiss(&mut self, agent: &AgentId, step: &mut Step) {
        let Some(at) = self.index.get(agent).copied() else {
            return;
        };
        let watcher = &mut self.watchers[at];
        watcher.dismiss(&self.setup.params);
        for (target, _) in &watcher.links {
            let id = LinkId {
                agent: agent.clone(),
                target: target.clone(),
            };
            step.links.push(id.clone());
            step.pasts.push(id);
        }
        step.agents.push(agent.clone());
        let (code, last) = (watcher.agent.office.clone(), watcher.agent.last_at);
        step.findings.push(Finding::Agent {
            office: code.clone(),
            agent: agent.clone(),
            to: Presence::Closed,
            at: last,
        });
        self.touch(code);
    }

    /// A detector that knows nothing yet.
    pub fn new(setup: Setup) -> Self {
        Self::restore(setup, Kept::default())
    }

    /// From now to the end of the next tick what changes is said to be judged again, and every office is.
    pub fn begin_redetecting(&mut self) {
        self.why = RevisionReason::Redetected;
        self.touched.extend(self.offices.keys().cloned());
    }

    /// Judges a link again from a time on, as this version and these thresholds do.
    pub fn redetect(
        &mut self,
        link: &LinkId,
        from: UnixMillis,
        archive: &dyn Archive,
    ) -> anyhow::Result<Step> {
        let mut step = Step::default();
        self.rewind(link, from, archive, &mut step)?;
        Ok(step)
    }

    /// When it last listened.
    pub fn listening(&self) -> Listening {
        self.listening
    }

    /// The highest incident number given so far.
    pub fn last_number(&self) -> u64 {
        self.last_number
    }

    /// One agent.
    pub fn agent(&self, id: &AgentId) -> Option<&Agent> {
        Some(&self.watchers[*self.index.get(id)?].agent)
    }

    /// One link.
    pub fn link(&self, id: &LinkId) -> Option<&Link> {
        let watcher = &self.watchers[*self.index.get(&id.agent)?];
        watcher
            .links
            .iter()
            .find(|(name, _)| *name == id.target)
            .map(|(_, link)| link)
    }

    /// All links.
    pub fn link_ids(&self) -> impl Iterator<Item = LinkId> {
        self.watchers.iter().flat_map(|watcher| {
            watcher.links.iter().map(|(target, _)| LinkId {
                agent: watcher.id.clone(),
                target: target.clone(),
            })
        })
    }

    /// An office over time.
    pub fn sight(&self, code: &OfficeCode) -> Option<&Sight> {
        Some(&self.offices.get(code)?.sight)
    }

    /// The open incident of an office.
    pub fn open_of(&self, office: &OfficeCode) -> Option<&Incident> {
        let mut incidents = self.offices.get(office)?.incidents.iter();
        incidents.find(|incident| incident.is_open())
    }

    /// How many incidents are held: the open ones, and those that may yet be judged again.
    pub fn held_count(&self) -> usize {
        let of = |office: &Office| office.incidents.len() + office.settled.len();
        self.offices.values().map(of).sum::<usize>() + self.common_incidents.len()
    }

    /// How many incidents are open.
    pub fn open_count(&self) -> usize {
        self.offices
            .values()
            .flat_map(|office| &office.incidents)
            .chain(&self.common_incidents)
            .filter(|incident| incident.is_open())
            .count()
    }

    /// Whether an incident may be judged again, by what is known at `now`.
    pub fn is_revisable(incident: &Incident, now: UnixMillis) -> bool {
        incident.is_open()
            || incident
                .facts
                .resolved_ms
                .is_none_or(|at| at >= horizon(now))
    }

    fn link_mut(&mut self, id: &LinkId) -> Option<&mut Link> {
        let watcher = &mut self.watchers[*self.index.get(&id.agent)?];
        watcher
            .links
            .iter_mut()
            .find(|(name, _)| *name == id.target)
            .map(|(_, link)| link)
    }

    fn office(&mut self, code: &OfficeCode) -> &mut Office {
        if !self.offices.contains_key(code) {
            let site = self.setup.sites.get(code);
            let mut scopes: Vec<ScopeId> = Vec::new();
            let named = |name: &Option<String>| name.clone().filter(|name| !name.is_empty());
            scopes.extend(
                site.and_then(|site| named(&site.pool))
                    .map(|name| (ScopeKind::Pool, name)),
            );
            scopes.extend(
                site.and_then(|site| named(&site.pop))
                    .map(|name| (ScopeKind::Pop, name)),
            );
            scopes.extend(
                site.and_then(|site| named(&site.isp))
                    .map(|name| (ScopeKind::Isp, name)),
            );
            scopes.push((ScopeKind::Regency, code.as_str()[..5].to_owned()));
            scopes.push((ScopeKind::Province, code.as_str()[..2].to_owned()));
            scopes.push((ScopeKind::Nation, String::new()));
            self.scopes.add(code, scopes);
            let windows = self
                .setup
                .maintenance
                .iter()
                .filter(|work| work.is_of(code));
            let maintenance = windows.map(|work| work.when.clone()).collect();
            self.offices.insert(
                code.clone(),
                Office {
                    maintenance,
                    ..Office::default()
                },
            );
        }
        self.offices.get_mut(code).expect("it was made")
    }

    fn add(&mut self, id: &AgentId, mut agent: Agent) -> usize {
        let at = self.watchers.len();
        agent.runs.insert(&agent.run.clone());
        let code = agent.office.clone();
        self.watchers.push(Watcher {
            id: id.clone(),
            agent,
            links: Vec::new(),
        });
        self.index.insert(id.clone(), at);
        self.enlist(at, &code);
        at
    }

    /// The agent at this place belongs to this office.
    fn enlist(&mut self, at: usize, code: &OfficeCode) {
        let mut places = self.office(code).watchers.clone();
        places.push(at);
        places.sort_by(|a, b| self.watchers[*a].id.cmp(&self.watchers[*b].id));
        self.office(code).watchers = places;
    }

    /// Notes since when the agent's office is watched.
    fn watched_since(&mut self, at: usize) {
        let agent = &self.watchers[at].agent;
        if let Some(first) = agent.runs.as_slice().first() {
            self.rewatched |= self.scopes.watch(&agent.office, first.from);
        }
    }

    /// The agent belongs to another office now. What it saw stays where it saw it.
    fn relocate(
        &mut self,
        at: usize,
        code: &OfficeCode,
        run: &Run,
        now: UnixMillis,
        step: &mut Step,
    ) {
        let before = self.watchers[at].agent.office.clone();
        let left = self.office(&before);
        left.watchers.retain(|place| *place != at);
        left.sight.known_from = Some(now);
        step.sights.push(before.clone());
        self.touched.insert(before);
        let watcher = &mut self.watchers[at];
        watcher.agent.office = code.clone();
        watcher.agent.behind = None;
        watcher.agent.runs = Runs::default();
        watcher.agent.runs.insert(run);
        let seen = std::mem::take(&mut watcher.agent.sightings);
        for (name, link) in &mut watcher.links {
            link.past = Past::default();
            link.fold = Fold::new(&self.setup.params);
            link.late = None;
            let id = LinkId {
                agent: watcher.id.clone(),
                target: name.clone(),
            };
            self.late.remove(&id);
            step.links.push(id.clone());
            step.pasts.push(id);
        }
        step.runs.push(watcher.id.clone());
        step.sightings.push(watcher.id.clone());
        for identity in seen.identities() {
            self.unsee(identity, at);
        }
        self.enlist(at, code);
        self.watched_since(at);
    }

    /// Takes one event in. An error is the archive's; the detector must not be used after it.
    pub fn step(&mut self, event: &Event<'_>, archive: &dyn Archive) -> anyhow::Result<Step> {
        let mut step = Step::default();
        match event {
            Event::Tick { now } => self.tick(*now, archive, &mut step)?,
            Event::Dismissed { agent } => self.dismiss(agent, &mut step),
            Event::Heartbeat {
                office,
                agent,
                boot,
                heartbeat,
                arrival,
            } => {
                self.heartbeat(office, agent, *boot, heartbeat, *arrival, &mut step);
            }
        }
        Ok(step)
    }

    fn heartbeat(
        &mut self,
        code: &OfficeCode,
        id: &AgentId,
        boot: BootId,
        heartbeat: &Heartbeat,
        arrival: UnixMillis,
        step: &mut Step,
    ) {
        let run = Run::of(&self.setup.params, boot, heartbeat);
        let at = if let Some(at) = self.index.get(id) {
            *at
        } else {
            let at = self.add(id, Agent::new(code, heartbeat, run.clone(), arrival));
            self.watched_since(at);
            at
        };
        if self.watchers[at].agent.office != *code {
            self.relocate(at, code, &run, arrival, step);
        }
        step.agents.push(id.clone());
        let watcher = &mut self.watchers[at];
        let agent = &mut watcher.agent;
        let was_off = agent.is_off(&self.setup.params);
        let mut touched = agent.heard(heartbeat, &run, arrival);
        if agent.is_off(&self.setup.params) != was_off {
            // What its office's times tell beside others' is not as it was.
            self.swung.insert(code.clone());
            touched = true;
        }
        if let Some(finding) = agent.speaks(id, heartbeat, arrival) {
            step.findings.push(finding);
            touched = true;
        }
        if touched {
            step.runs.push(id.clone());
            self.watched_since(at);
        }
        let params = &self.setup.params;
        let watcher = &mut self.watchers[at];
        let agent = &mut watcher.agent;
        let judged = agent.primary.is_none_or(|primary| primary == boot);
        if let Some(targets) = &heartbeat.targets
            && judged
        {
            touched |= watcher.declare(params, targets, heartbeat.at, step);
        }
        if judged {
            touched |= watcher.sample(params, heartbeat, arrival, &mut self.late, step);
            touched |= self.see(at, heartbeat, step);
        }
        let params = &self.setup.params;
        let agent = &mut self.watchers[at].agent;
        if heartbeat.goodbye.is_some()
            && agent.runs.last().is_some_and(|last| last.goodbye.is_some())
        {
            step.findings
                .push(agent.becomes(id, Presence::Closed, heartbeat.at));
            touched = true;
        }
        if agent.presence == Presence::Present {
            let deadline = agent.deadline(params);
            self.silent_from = self.silent_from.min(arrival + deadline);
        }
        if arrival.since(heartbeat.at) > BEHIND.max(grace(params, heartbeat.interval)) {
            let behind = agent.behind.get_or_insert(Behind {
                first: arrival,
                last: arrival,
                told: false,
            });
            behind.last = arrival;
            if touched {
                behind.told = true;
                self.waiting.insert(code.clone());
            }
            return;
        }
        let over = |behind: Behind| !behind.told && arrival.since(behind.last) >= LATE_WAIT.0;
        if agent.behind.is_some_and(over) {
            agent.behind = None;
        }
        if touched {
            self.touched.insert(code.clone());
        }
    }

    fn tick(
        &mut self,
        now: UnixMillis,
        archive: &dyn Archive,
        step: &mut Step,
    ) -> anyhow::Result<()> {
        let listening = &mut self.listening;
        // The collector's clock was set back, or agents may have spoken to a collector that was not there: everybody's time starts anew.
        if now < listening.last_tick || now.since(listening.last_tick) > DEAF_AFTER {
            listening.since = now;
            self.silent_from = UnixMillis(i64::MIN);
        }
        listening.last_tick = now;
        if now >= self.silent_from && self.silence(now, step) {
            step.more = true;
            return Ok(());
        }
        self.rewind_late(now, archive, step)?;
        while let Some((at, _)) = self.reviews.first()
            && *at <= now
        {
            let (_, code) = self.reviews.pop_first().expect("there is one");
            self.touch(code);
        }
        self.end_waiting(now, step);
        if std::mem::take(&mut self.rewatched) {
            self.find_commons_again();
        }
        self.note_touched(now);
        while let Some(code) = self.touched.pop_first() {
            self.judge(&code, now, archive, step)?;
            if step.incidents.len() >= CHANGED_PER_STEP || step.len() >= 3 * CHANGED_PER_STEP {
                step.more = true;
                return Ok(());
            }
        }
        if self.commons_review.is_some_and(|at| now >= at) {
            self.commons_review = None;
            self.commons_changed = true;
        }
        self.judge_commons(now, step);
        // What became a part of a common cause by this.
        step.more = !self.touched.is_empty();
        if !step.more {
            self.noted.clear();
            self.why = RevisionReason::LateData;
        }
        Ok(())
    }

    /// Something of this office's own is not as it was: its outages are to be noted again too.
    fn touch(&mut self, code: OfficeCode) {
        self.noted.remove(&code);
        self.touched.insert(code);
    }

    /// Offices whose agents have delivered what they stored, or take too long, are to be judged.
    fn end_waiting(&mut self, now: UnixMillis, step: &mut Step) {
        let ready = |at: &usize| {
            self.watchers[*at].agent.behind.is_none_or(|behind| {
                now.since(behind.last) >= LATE_WAIT.0
                    || now.since(behind.first) > LATE_WAIT.1
                    || now < behind.first
            })
        };
        let watchers = |code: &OfficeCode| {
            self.offices
                .get(code)
                .map_or(&[][..], |office| &office.watchers[..])
        };
        let ready: Vec<OfficeCode> = self
            .waiting
            .iter()
            .filter(|code| watchers(code).iter().all(ready))
            .cloned()
            .collect();
        for code in ready {
            let watchers = self
                .offices
                .get(&code)
                .map_or(Vec::new(), |office| office.watchers.clone());
            for at in watchers {
                let watcher = &mut self.watchers[at];
                if watcher.agent.behind.take().is_some() {
                    step.agents.push(watcher.id.clone());
                }
            }
            self.waiting.remove(&code);
            self.touch(code);
        }
    }

    /// Finds who is silent; `true` if there are more than one step may change.
    fn silence(&mut self, now: UnixMillis, step: &mut Step) -> bool {
        let params = &self.setup.params;
        let since = self.listening.since;
        let heard = |agent: &Agent| {
            // What arrived "later" than now came before the clock was set back.
            let last = if agent.last_arrival > now {
                since
            } else {
                agent.last_arrival.max(since)
            };
            (last, last + agent.deadline(params))
        };
        let present = || {
            self.watchers
                .iter()
                .filter(|watcher| watcher.agent.presence == Presence::Present)
        };
        let mut overdue: Vec<(UnixMillis, &AgentId)> = present()
            .map(|watcher| (heard(&watcher.agent), &watcher.id))
            .filter(|((_, deadline), _)| now > *deadline)
            .map(|((last, _), id)| (last, id))
            .collect();
        let next = present()
            .map(|watcher| heard(&watcher.agent).1)
            .filter(|deadline| *deadline >= now)
            .min();
        self.suspicious = false;
        self.silent_from = next.map_or(UnixMillis(i64::MAX), |deadline| UnixMillis(deadline.0 + 1));
        if let Some((first, _)) = overdue.iter().min() {
            // Many at once: it may well be the collector that does not hear.
            let together = present()
                .filter(|watcher| {
                    let (last, _) = heard(&watcher.agent);
                    last >= *first && last.since(*first) <= params.deaf_within
                })
                .count();
            #[allow(clippy::cast_precision_loss, reason = "counts")]
            let many =
                together > 3 && together as f64 > params.deaf_share * present().count() as f64;
            if many {
                let held = overdue.len();
                overdue.retain(|(last, id)| {
                    let deadline = self
                        .agent(id)
                        .map_or(Duration::ZERO, |agent| agent.deadline(params));
                    now > *last + deadline + params.deaf_hold
                });
                self.suspicious = overdue.len() < held;
                if overdue.len() < held {
                    self.silent_from = UnixMillis(now.0 + 1);
                }
            }
        }
        let mut overdue: Vec<AgentId> = overdue.into_iter().map(|(_, id)| id.clone()).collect();
        overdue.sort_unstable();
        let more = overdue.len() > SILENT_PER_STEP;
        for id in overdue.into_iter().take(SILENT_PER_STEP) {
            let agent = &mut self.watchers[self.index[&id]].agent;
            // It is silent since it last spoke, not since we noticed.
            let at = agent.last_at;
            agent.behind = None;
            let code = agent.office.clone();
            step.findings.push(agent.becomes(&id, Presence::Silent, at));
            step.agents.push(id);
            self.waiting.remove(&code);
            self.touched.insert(code);
        }
        if more {
            self.silent_from = now;
        }
        more
    }

    fn rewind_late(
        &mut self,
        now: UnixMillis,
        archive: &dyn Archive,
        step: &mut Step,
    ) -> anyhow::Result<()> {
        let mut ready = Vec::new();
        for id in &self.late {
            let Some(late) = self.link(id).and_then(|link| link.late) else {
                continue;
            };
            if now.since(late.last) >= LATE_WAIT.0
                || now.since(late.first) >= LATE_WAIT.1
                || now < late.first
            {
                ready.push((id.clone(), late.from));
                if ready.len() == REWINDS_PER_TICK {
                    break;
                }
            }
        }
        for (id, from) in ready {
            if step.len() > REWIND_KEYS {
                break; // the next tick goes on
            }
            self.late.remove(&id);
            self.rewind(&id, from, archive, step)?;
            if let Some(at) = self.index.get(&id.agent) {
                self.touch(self.watchers[*at].agent.office.clone());
            }
        }
        Ok(())
    }

    /// Judges a link again from `from` on, by what the archive has.
    fn rewind(
        &mut self,
        id: &LinkId,
        from: UnixMillis,
        archive: &dyn Archive,
        step: &mut Step,
    ) -> anyhow::Result<()> {
        let params = self.setup.params.clone();
        let Some(place) = self.index.get(&id.agent).copied() else {
            return Ok(());
        };
        let cloned = self.watchers[place].agent.primary.is_some();
        let Some(link) = self.link_mut(id) else {
            return Ok(());
        };
        link.late = None;
        step.links.push(id.clone());
        let Some(last) = link.fold.last_at else {
            return Ok(());
        };
        if cloned || link.removed {
            // Its history is of two machines; or of nobody's interest any more.
            return Ok(());
        }
        let (start, fold) = match archive.fold(id, day_of(from))? {
            Some((day, fold)) => (UnixMillis(day * 86_400_000), fold),
            // What came before the samples that are kept cannot be judged again.
            None if link
                .past
                .downs
                .iter()
                .any(|down| down.from < archive.kept_from()) =>
            {
                return Ok(());
            }
            None => (UnixMillis(i64::MIN), Fold::new(&params)),
        };
        link.rewind(fold, start);
        archive.samples(id, start, last, &mut |sample| {
            let keep = &mut |day: i64, fold: &Fold| {
                if day > day_of(last) - FOLDS_KEPT.0 || day.rem_euclid(FOLDS_KEPT.1) == 0 {
                    step.folds.insert((id.clone(), day), fold.clone());
                }
            };
            link.take(&params, sample, keep, &mut |_, _| {});
        })?;
        step.pasts.push(id.clone());
        Ok(())
    }

    /// Offices that take turns, in groups.
    pub fn roaming(&self) -> Vec<BTreeSet<OfficeCode>> {
        let mut groups: Vec<BTreeSet<OfficeCode>> = Vec::new();
        let pool = |code: &OfficeCode| {
            self.setup
                .sites
                .get(code)
                .and_then(|site| site.pool.clone())
        };
        let of_one_pool = self
            .rovers
            .keys()
            .zip(self.rovers.keys().skip(1))
            .filter(|(one, other)| pool(one) == pool(other));
        for (one, other) in self
            .pairs
            .keys()
            .map(|(one, other)| (one, other))
            .chain(of_one_pool)
        {
            let (mut joined, apart): (Vec<_>, Vec<_>) = groups
                .into_iter()
                .partition(|group| group.contains(one) || group.contains(other));
            let mut group = BTreeSet::from([one.clone(), other.clone()]);
            joined.drain(..).for_each(|other| group.extend(other));
            groups = apart;
            groups.push(group);
        }
        groups
    }
}

/// From when on things are held: whole days, so that it moves once a day.
fn horizon(now: UnixMillis) -> UnixMillis {
    UnixMillis((day_of(now - KEPT)) * 86_400_000)
}

#[cfg(test)]
mod tests;
