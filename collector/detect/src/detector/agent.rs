//! What is known of one agent, and of the links it watches.

use super::{BEHIND, Finding, Step};
use crate::link::{Fold, Late, Link, Phase, Taken, Turn};
use crate::office;
use crate::params::Params;
use crate::presence::{Clone2, Run, Runs, grace};
use crate::thing::Sightings;
use denyut_proto::{
    AgentId, BootId, Heartbeat, Identity, LinkId, OfficeCode, Role, Target, TargetName, UnixMillis,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::time::Duration;

/// Whether an agent is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Presence {
    /// It speaks.
    Present,
    /// It should have spoken, and nobody knows why it does not.
    Silent,
    /// It said goodbye: the service stopped, or the machine.
    Closed,
}

/// What came late, and waits until no more does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Behind {
    /// When the first of it came.
    pub(super) first: UnixMillis,
    /// And the last.
    pub(super) last: UnixMillis,
    /// There is something in it to judge.
    pub(super) told: bool,
}

/// What is known of an agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Agent {
    /// Where it belongs.
    pub office: OfficeCode,
    /// Whether it is there.
    pub presence: Presence,
    /// Since when it is present, silent or closed.
    pub since: UnixMillis,
    /// It promised to speak again within this, in ms.
    pub interval_ms: u64,
    /// Event time of its last heartbeat.
    pub last_at: UnixMillis,
    /// When the last arrived.
    pub last_arrival: UnixMillis,
    /// The default gateway it told of; `none` when it has none.
    pub gateway: Option<String>,
    /// Mean of the time between arrivals, and of its deviation, in ms.
    pub(super) pace: (f64, f64),
    /// It delivers what it stored.
    pub(super) behind: Option<Behind>,
    /// The run that was carried on last, as it is now.
    pub(super) run: Run,
    /// Two machines speak as this agent: what this boot says is judged, what the other says is kept only.
    pub(super) primary: Option<BootId>,
    /// Arrival minus event time of its quickest heartbeat in this boot, in ms: what its clock may be off by.
    pub(super) lag_ms: i64,
    /// All its runs; kept beside it.
    #[serde(skip)]
    pub runs: Runs,
    /// What its targets showed of themselves; kept beside it.
    #[serde(skip)]
    pub sightings: Sightings,
}

/// An agent with its links.
#[derive(Debug)]
pub(super) struct Watcher {
    pub(super) id: AgentId,
    pub(super) agent: Agent,
    pub(super) links: Vec<(TargetName, Link)>,
}

impl Agent {
    pub(super) fn new(
        office: &OfficeCode,
        heartbeat: &Heartbeat,
        run: Run,
        arrival: UnixMillis,
    ) -> Self {
        Self {
            office: office.clone(),
            presence: Presence::Present,
            since: heartbeat.at,
            interval_ms: 0,
            last_at: heartbeat.at,
            last_arrival: arrival,
            gateway: None,
            pace: (0.0, 0.0),
            behind: None,
            run,
            primary: None,
            lag_ms: i64::MAX,
            runs: Runs::default(),
            sightings: Sightings::default(),
        }
    }

    /// Whether its clock may be off by more than what counts as simultaneous.
    pub(super) fn is_off(&self, params: &Params) -> bool {
        Duration::from_millis(self.lag_ms.unsigned_abs()) > params.roam_window
    }

    /// Takes in when it spoke; `true` if its runs did more than go on.
    pub(super) fn heard(&mut self, heartbeat: &Heartbeat, run: &Run, arrival: UnixMillis) -> bool {
        let lag = arrival.0.saturating_sub(heartbeat.at.0);
        let same_boot = self.run.boot == run.boot;
        self.lag_ms = if same_boot { self.lag_ms.min(lag) } else { lag };
        #[allow(
            clippy::cast_precision_loss,
            reason = "milliseconds between two heartbeats"
        )]
        let gap = (arrival.0 - self.last_arrival.0).max(0) as f64;
        if self.presence == Presence::Present && self.behind.is_none() {
            self.pace.0 += 0.05 * (gap - self.pace.0);
            self.pace.1 += 0.05 * ((gap - self.pace.0).abs() - self.pace.1);
        }
        // What the youngest word promises counts; what was stored promised it for then. A clock may have been set a little meanwhile.
        if heartbeat.at + BEHIND >= self.last_at {
            self.interval_ms = u64::try_from(heartbeat.interval.as_millis()).unwrap_or(u64::MAX);
        }
        // A clock that was set back does not make the past the present.
        self.last_at = self.last_at.max(heartbeat.at);
        self.last_arrival = arrival;
        if heartbeat.gateway.is_some() {
            self.gateway.clone_from(&heartbeat.gateway);
        }
        let changed = self.runs.insert(run);
        if changed || !same_boot || self.primary.is_some() {
            let recent = |found: &Clone2| heartbeat.at.since(found.until) <= office::CLONE_FRESH;
            self.primary = self
                .runs
                .clone_of(office::CLONE_OVERLAP)
                .filter(recent)
                .map(|found| found.boots[0]);
        }
        self.run = self
            .runs
            .as_slice()
            .iter()
            .rev()
            .find(|known| {
                known.boot == run.boot
                    && known.started_ms == run.started_ms
                    && known.from <= run.from
                    && run.from <= known.to
            })
            .cloned()
            .unwrap_or_else(|| run.clone());
        changed
    }

    /// It speaks: what that changes, if it was silent or closed.
    pub(super) fn speaks(
        &mut self,
        id: &AgentId,
        heartbeat: &Heartbeat,
        arrival: UnixMillis,
    ) -> Option<Finding> {
        match self.presence {
            Presence::Present => None,
            // It speaks now, whenever what it says may have happened.
            Presence::Silent => Some(self.becomes(id, Presence::Present, arrival)),
            Presence::Closed => Some(self.becomes(id, Presence::Present, heartbeat.at)),
        }
    }

    /// How long it may be without a word (arrival time): three intervals, or what is far beyond its own pace, up to twice that.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped to a few intervals"
    )]
    pub(super) fn deadline(&self, params: &Params) -> Duration {
        let promised = grace(params, Duration::from_millis(self.interval_ms));
        // The mean deviation is 0.8 σ of a normal one: 6 σ are 7.5 of it.
        let paced = Duration::from_millis((self.pace.0 + 7.5 * self.pace.1) as u64);
        promised.max(paced.min(promised * 2))
    }

    pub(super) fn becomes(&mut self, id: &AgentId, to: Presence, at: UnixMillis) -> Finding {
        self.presence = to;
        self.since = at;
        Finding::Agent {
            office: self.office.clone(),
            agent: id.clone(),
            to,
            at,
        }
    }
}

impl Watcher {
    /// Whether what a target shows is of a thing of the office: a certificate of a service far away, one of many that take turns to answer, is not.
    pub(super) fn is_own(&self, target: Option<&TargetName>, identity: Identity) -> bool {
        let is_near = |link: &Link| matches!(link.role, Some(Role::Server | Role::Gateway));
        let mut links = self.links.iter();
        !matches!(identity, Identity::Certificate(_))
            || links.any(|(name, link)| Some(name) == target && is_near(link))
    }

    /// When what a target showed at `from` may no longer be there: the target failed, or the process that would have said so ended. Of the way out, none: an uplink.
    pub(super) fn ended(
        &self,
        target: Option<&TargetName>,
        from: UnixMillis,
    ) -> Option<UnixMillis> {
        let is_it = |(name, link): &&(TargetName, Link)| match target {
            Some(target) => name == target,
            None => link.role == Some(Role::Uplink),
        };
        let mut links = self.links.iter();
        if links.any(|(name, link)| Some(name) == target && link.removed) {
            // Nobody looks any more.
            return Some(from);
        }
        let downs = self.links.iter().filter(is_it).flat_map(|(_, link)| {
            // After a shorter one nothing would be told.
            let away = Heartbeat::away(Duration::from_millis(link.interval_ms));
            let is_away = move |until: UnixMillis, from| until.since(from) >= away;
            let downs = link.past.downs.iter();
            downs.filter(move |down| down.until.is_none_or(|until| is_away(until, down.from)))
        });
        let failed = downs.map(|down| down.from).filter(|at| *at > from);
        let runs = self.agent.runs.as_slice();
        let of = runs
            .iter()
            .find(|run| run.from <= from && from <= run.until);
        // Of one process all runs: in a gap between them it only was not heard.
        let last = runs
            .iter()
            .filter(|run| of.is_some_and(|of| of.is_of_same_process(run)))
            .max_by_key(|run| run.to);
        let goes_on = self.agent.presence == Presence::Present
            && last == self.agent.runs.last()
            && last.is_some_and(|last| last.goodbye.is_none());
        let process = last.map_or(from, |last| last.to);
        failed.chain((!goes_on).then_some(process)).min()
    }

    /// Nobody expects it any more, and what it saw ended with its last word.
    pub(super) fn dismiss(&mut self, params: &Params) {
        self.agent.presence = Presence::Closed;
        self.agent.behind = None;
        let last = self.agent.last_at;
        for (_, link) in &mut self.links {
            link.end(params, last);
        }
    }

    fn id(&self, target: &TargetName) -> LinkId {
        LinkId {
            agent: self.id.clone(),
            target: target.clone(),
        }
    }

    /// The agent's targets are these, and no others; `true` if they were not.
    pub(super) fn declare(
        &mut self,
        params: &Params,
        targets: &[Target],
        at: UnixMillis,
        step: &mut Step,
    ) -> bool {
        let mut changed = false;
        let mut gone = Vec::new();
        for (name, link) in &mut self.links {
            if link.removed || targets.iter().any(|target| target.name == *name) {
                continue;
            }
            link.end(params, at);
            gone.push(name.clone());
        }
        for name in gone {
            let id = self.id(&name);
            step.findings.push(Finding::Link {
                office: self.agent.office.clone(),
                link: id.clone(),
            });
            step.links.push(id.clone());
            step.pasts.push(id);
            changed = true;
        }
        for target in targets {
            let link = self.link(params, &target.name);
            let (role, probe) = (Some(target.role), target.probe.to_string());
            let interval_ms = u64::try_from(target.interval.as_millis()).unwrap_or(u64::MAX);
            changed |= link.role != role || link.removed;
            (link.role, link.probe, link.interval_ms, link.removed) =
                (role, probe, interval_ms, false);
            step.links.push(self.id(&target.name));
        }
        changed
    }

    fn link(&mut self, params: &Params, name: &TargetName) -> &mut Link {
        let at = self
            .links
            .iter()
            .position(|(known, _)| known == name)
            .unwrap_or_else(|| {
                self.links.push((name.clone(), Link::new(params)));
                self.links.len() - 1
            });
        &mut self.links[at].1
    }

    /// Takes the samples in; `true` if one of them is to be judged.
    pub(super) fn sample(
        &mut self,
        params: &Params,
        heartbeat: &Heartbeat,
        arrival: UnixMillis,
        late: &mut BTreeSet<LinkId>,
        step: &mut Step,
    ) -> bool {
        let mut touched = false;
        for samples in &heartbeat.samples {
            let id = self.id(&samples.target);
            let office = self.agent.office.clone();
            let link = self.link(params, &samples.target);
            for sample in &samples.samples {
                let keep = &mut |day, fold: &Fold| {
                    step.folds.insert((id.clone(), day), fold.clone());
                };
                let taken = link.take(params, *sample, keep, &mut |turn, noted| {
                    if let Turn::Phase { from, to, .. } = turn {
                        step.findings.push(Finding::Link {
                            office: office.clone(),
                            link: id.clone(),
                        });
                        touched |= from == Phase::Recovering || to == Phase::Recovering;
                    }
                    if noted {
                        step.pasts.push(id.clone());
                        touched = true;
                    }
                });
                if taken == Taken::Late {
                    let waits = link.late.get_or_insert(Late {
                        from: sample.at,
                        first: arrival,
                        last: arrival,
                    });
                    waits.from = waits.from.min(sample.at);
                    waits.last = arrival;
                    late.insert(id.clone());
                }
            }
            step.links.push(id);
        }
        touched
    }
}
