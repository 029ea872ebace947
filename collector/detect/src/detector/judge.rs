//! What is true of the offices that were touched, and of what they have in common.

use super::{Archive, Detector, LEFT_BEHIND, Office, PATTERNS_MAX, SETTLES, Step, horizon};
use crate::common::{Common, Seen, WIDEST};
use crate::detector::agent::Presence;
use crate::incident::{
    Cause, Evidence, Facts, Incident, Reconciling, Relapse, RevisionReason, ScopeKind, reconcile,
};
use crate::link::Past;
use crate::office::{self, Found, Hit, Judgement, Observer, Onset, Pattern, Question};
use crate::params::Params;
use crate::settled::Settled;
use denyut_proto::{OfficeCode, UnixMillis};
use std::collections::BTreeSet;
use std::ops::Range;
use std::time::Duration;

/// A common cause that hit an office.
struct Parent {
    /// When the office went down by it, and was well again.
    onset: UnixMillis,
    until: Option<UnixMillis>,
    /// Its incident.
    number: u64,
    /// When most of its offices had recovered.
    over: Option<UnixMillis>,
}

/// Onsets within this are seen by one look for common causes.
const LOOK_APART: Duration = Duration::from_secs(60);

/// Whether somebody is to be called.
enum Call {
    Now,
    Later(UnixMillis),
    No,
}

/// Whether somebody is to be called for the incident at place `i`.
fn call(
    params: &Params,
    found: &Found,
    i: usize,
    incidents: &[Incident],
    settled: &[Settled],
    parents: &[Parent],
    now: UnixMillis,
) -> Call {
    let incident = &incidents[i];
    if !incident.is_open() {
        return Call::No;
    }
    if let Some(paged) = incident.paged_ms {
        // Something that stands for long must not hide what breaks beside it later; if that is a common cause's, it is what is left behind.
        let due = |(since, from): &(UnixMillis, UnixMillis)| {
            let is_its = |parent: &&Parent| {
                (parent.onset..parent.onset + params.common_join).contains(since)
                    && parent.until.is_none_or(|until| *since <= until)
            };
            // What is learned late waits for a common cause too.
            let told = incident.revisions.iter().find(|one| one.at_ms == *since);
            let from = told.map_or(*from, |told| {
                (told.recorded_ms + params.common_wait).max(*from)
            });
            match parents.iter().find(is_its) {
                Some(parent) => parent.over.map(|over| (over + LEFT_BEHIND).max(from)),
                None => Some(from),
            }
        };
        let is_new = |(since, _): &&(UnixMillis, UnixMillis)| *since >= paged + params.rejoin;
        let first = found.later.iter().filter(is_new).filter_map(due).min();
        return match first {
            Some(from) if from <= now => Call::Now,
            Some(from) => Call::Later(from),
            None => Call::No,
        };
    }
    let from = match incident.parent {
        // Its common cause is called for; what is left behind by the others' recovery is called for then.
        Some(number) => {
            let over = parents
                .iter()
                .find(|parent| parent.number == number)
                .and_then(|parent| parent.over);
            over.map(|over| over + LEFT_BEHIND)
                .filter(|_| found.facts.cause.pages())
        }
        None => found.page_from,
    };
    let Some(from) = from else { return Call::No };
    // What is learned late waits for a common cause too.
    let learned = incident
        .revisions
        .first()
        .map_or(now, |first| first.recorded_ms);
    let from = from.max(learned + params.common_wait);
    if now < from {
        return Call::Later(from);
    }
    // Flapping is called for once.
    let called = |since: UnixMillis| {
        let lasts = |end: Option<UnixMillis>| end.is_none_or(|at| at + params.rejoin >= since);
        let mut open = incidents.iter();
        let mut over = settled.iter();
        open.any(|other| other.paged_ms.is_some() && lasts(other.facts.resolved_ms))
            || over.any(|other| other.paged && lasts(Some(other.resolved_ms)))
    };
    if found.flapping_since.is_some_and(called) {
        Call::No
    } else {
        Call::Now
    }
}

/// Calls for those that are due; returns their places.
fn page(
    params: &Params,
    suspicious: bool,
    judgement: &mut Judgement,
    office: &mut Office,
    parents: &[Parent],
    now: UnixMillis,
) -> Vec<usize> {
    let (incidents, settled) = (&mut office.incidents, &office.settled);
    let mut called = Vec::new();
    for found in &judgement.incidents {
        let is_it = |incident: &Incident| {
            !incident.retracted && incident.facts.opened_ms == found.facts.opened_ms
        };
        let Some(i) = incidents.iter().position(is_it) else {
            continue;
        };
        if suspicious && found.facts.provisional {
            let later = now + Duration::from_secs(1);
            judgement.review = Some(judgement.review.map_or(later, |before| before.min(later)));
            continue;
        }
        match call(params, found, i, incidents, settled, parents, now) {
            Call::Now => {
                incidents[i].paged_ms = Some(now);
                called.push(i);
            }
            Call::Later(at) => {
                judgement.review = Some(judgement.review.map_or(at, |before| before.min(at)));
            }
            Call::No => {}
        }
    }
    called
}

/// Leaves those that last, and the newest of the others.
fn limit(patterns: &mut Vec<Pattern>) {
    let mut surplus = patterns.len().saturating_sub(PATTERNS_MAX);
    patterns.retain(|pattern| {
        let goes = surplus > 0 && pattern.until_ms.is_some();
        surplus -= usize::from(goes);
        !goes
    });
    patterns.truncate(2 * PATTERNS_MAX);
}

/// The common cause that an incident of this time began with.
fn parent_of(
    opened: UnixMillis,
    end: UnixMillis,
    parents: &[Parent],
    rejoin: Duration,
) -> Option<u64> {
    let began = opened..opened + rejoin;
    let is_its = |parent: &&Parent| began.contains(&parent.onset) && parent.onset <= end;
    parents.iter().find(is_its).map(|parent| parent.number)
}

/// Incidents that began with a common cause are its.
fn adopt(
    incidents: &mut [Incident],
    parents: &[Parent],
    rejoin: Duration,
    horizon: UnixMillis,
    changed: &mut BTreeSet<usize>,
) {
    for (i, incident) in incidents.iter_mut().enumerate() {
        let end = incident.facts.resolved_ms.unwrap_or(UnixMillis(i64::MAX));
        let number = parent_of(incident.facts.opened_ms, end, parents, rejoin);
        if incident.parent != number && !incident.retracted && incident.facts.opened_ms >= horizon {
            incident.parent = number;
            changed.insert(i);
        }
    }
}

impl Office {
    /// Takes up again what is settled and no longer all that is true; returns what is true beside what is settled.
    fn wake(
        &mut self,
        judgement: &Judgement,
        parents: &[Parent],
        rejoin: Duration,
        horizon: UnixMillis,
        archive: &dyn Archive,
    ) -> anyhow::Result<Vec<Facts>> {
        let mut derived: Vec<&Facts> = judgement.incidents.iter().map(|one| &one.facts).collect();
        let mut woken = Vec::new();
        self.settled.retain(|settled| {
            let parent = parent_of(settled.opened_ms, settled.resolved_ms, parents, rejoin);
            let place = derived.iter().position(|facts| settled.says(facts));
            let stays = match place {
                Some(_) => settled.opened_ms < horizon || settled.parent == parent,
                // What it came from is let go.
                None => {
                    settled.opened_ms < horizon
                        && !derived.iter().any(|facts| settled.overlaps(facts))
                }
            };
            if !stays {
                woken.push(settled.number);
            } else if let Some(place) = place {
                derived.remove(place);
            }
            stays
        });
        for number in woken {
            self.incidents.push(archive.incident(number)?);
        }
        self.incidents.sort_by_key(|incident| incident.number);
        Ok(derived.into_iter().cloned().collect())
    }

    /// Holds in short what is over, if nothing changed for long.
    fn settle(&mut self, now: UnixMillis) {
        if now < self.changed + SETTLES {
            return;
        }
        self.settled
            .extend(self.incidents.iter().filter_map(Settled::of));
        self.settled.sort_by_key(|settled| settled.number);
        self.incidents.retain(Incident::is_open);
        self.incidents.shrink_to_fit();
        self.settled.shrink_to_fit();
    }
}

impl Detector {
    /// After a restart: the outages of all offices, and with them the common causes, as they were.
    pub(super) fn recall(&mut self) {
        let mut times = BTreeSet::new();
        for (code, office) in &self.offices {
            self.scopes.set_onsets(code, &[], &office.sight.onsets);
            let onsets = office.sight.onsets.iter();
            times.extend(onsets.map(|onset| (onset.at, code.clone())));
        }
        times.retain(|(at, code)| self.scopes.may_be(&self.setup.params, code, *at));
        self.look(times.into_iter().map(|(at, _)| at).collect());
        let codes: Vec<OfficeCode> = self.offices.keys().cloned().collect();
        for code in &codes {
            self.pair(code);
            self.rove(code);
        }
    }

    /// Looks again at the common causes, and at what may be one.
    pub(super) fn find_commons_again(&mut self) {
        let found = self.commons.iter().map(|common| common.from);
        let times: BTreeSet<UnixMillis> = found
            .chain(self.bursts.iter().map(|burst| burst.start + WIDEST))
            .collect();
        self.look(times);
    }

    /// Finds the common causes around these times. One look sees what is around it: after a burst of thousands it is one.
    fn look(&mut self, times: BTreeSet<UnixMillis>) {
        let mut looked: Option<UnixMillis> = None;
        for at in times {
            if looked.is_none_or(|looked| at.since(looked) > LOOK_APART) {
                self.find_commons(at);
                looked = Some(at);
            }
        }
    }

    fn with_question<T>(
        &self,
        code: &OfficeCode,
        now: UnixMillis,
        ask: impl FnOnce(&Question<'_>) -> T,
    ) -> T {
        let nothing = Office::default();
        let office = self.offices.get(code).unwrap_or(&nothing);
        let observers = office.watchers.iter().map(|at| {
            let watcher = &self.watchers[*at];
            Observer {
                agent: &watcher.id,
                runs: &watcher.agent.runs,
                silent: watcher.agent.presence == Presence::Silent,
                links: &watcher.links,
            }
        });
        // Of the oldest relapses the earlier incidents are no longer held.
        let out_of_sight = horizon(now) + self.setup.params.relapse_within;
        let real = office.incidents.iter().filter(|one| !one.retracted);
        let relapses = real.map(|incident| (incident.facts.opened_ms, incident.facts.relapse));
        let settled = office.settled.iter();
        let lineage: Vec<(UnixMillis, Relapse)> = settled
            .map(|settled| (settled.opened_ms, settled.relapse.as_deref().copied()))
            .chain(relapses)
            .filter(|(opened, _)| *opened < out_of_sight)
            .filter_map(|(opened, relapse)| Some((opened, relapse?)))
            .filter(|(_, relapse)| relapse.of_ms < horizon(now))
            .collect();
        let neighbours = |at: UnixMillis| self.neighbours(code, at);
        ask(&Question {
            params: &self.setup.params,
            opening: self.setup.opening(code),
            maintenance: &office.maintenance,
            observers: observers.collect(),
            commons: &office.hits,
            lineage: &lineage,
            neighbours: &neighbours,
            now,
        })
    }

    /// When an office was silent, or cut off, and why.
    fn explained(&self, code: &OfficeCode) -> Vec<(UnixMillis, Cause)> {
        let Some(office) = self.offices.get(code) else {
            return Vec::new();
        };
        let real = office.incidents.iter().filter(|one| !one.retracted);
        let settled = office.settled.iter();
        let mut all: Vec<(UnixMillis, Cause)> = settled
            .map(|settled| (settled.opened_ms, settled.cause))
            .chain(real.map(|incident| (incident.facts.opened_ms, incident.facts.cause)))
            .filter(|(_, cause)| cause.explains())
            .collect();
        all.sort_unstable();
        all
    }

    fn regency<'a>(&'a self, code: &'a OfficeCode) -> impl Iterator<Item = &'a OfficeCode> {
        let regency = self
            .scopes
            .of(code)
            .iter()
            .find(|scope| scope.0 == ScopeKind::Regency);
        let members = regency
            .into_iter()
            .flat_map(|scope| self.scopes.members(scope));
        members.filter(move |other| *other != code)
    }

    /// Why other offices of the regency fell silent around a time: one cause each.
    fn neighbours(&self, code: &OfficeCode, at: UnixMillis) -> Vec<Cause> {
        let is_near = |(opened, _): &(UnixMillis, Cause)| {
            let apart = u128::from((opened.0 - at.0).unsigned_abs());
            apart <= office::LIKELY_NEIGHBOURS.as_millis()
        };
        let of = |other: &OfficeCode| {
            let explained = self.explained(other).into_iter();
            Some(explained.rev().find(is_near)?.1)
        };
        self.regency(code).filter_map(of).collect()
    }

    /// Offices of the regency that are silent now: what is known of one is a guess of the others.
    fn silent_neighbours(&self, code: &OfficeCode) -> Vec<OfficeCode> {
        let is_silent = |other: &&OfficeCode| {
            self.offices.get(*other).is_some_and(|office| {
                office
                    .incidents
                    .iter()
                    .any(|one| one.is_open() && one.facts.provisional)
            })
        };
        self.regency(code).filter(is_silent).cloned().collect()
    }

    /// Notes the onsets of an office; returns those that are new or gone and may be of a common cause.
    fn set_onsets(&mut self, code: &OfficeCode, onsets: Vec<Onset>) -> Vec<UnixMillis> {
        let office = self.offices.entry(code.clone()).or_default();
        let before = std::mem::take(&mut office.sight.onsets);
        let changed = self.scopes.set_onsets(code, &before, &onsets);
        self.commons_changed |= before != onsets
            && self
                .commons
                .iter()
                .any(|common| common.offices.contains_key(code));
        office.sight.onsets = onsets;
        let params = &self.setup.params;
        let was = |at: UnixMillis| {
            self.commons
                .iter()
                .any(|common| common.offices.get(code) == Some(&at))
        };
        changed
            .into_iter()
            .filter(|at| {
                was(*at)
                    || self.bursts.iter().any(|burst| burst.contains(at))
                    || self.scopes.may_be(params, code, *at)
            })
            .collect()
    }

    /// Notes the outages of the offices that are to be judged, and finds the common causes that they make: all together, so that a burst of thousands
    /// is looked at once.
    pub(super) fn note_touched(&mut self, now: UnixMillis) {
        let fresh: Vec<OfficeCode> = self.touched.difference(&self.noted).cloned().collect();
        let mut times = BTreeSet::new();
        for code in fresh {
            self.forget(&code, now);
            let judgement = self.with_question(&code, now, office::judge);
            let office = self.offices.entry(code.clone()).or_default();
            let sight = &mut office.sight;
            if sight.outages != judgement.outages || sight.onsets != judgement.onsets {
                sight.outages = judgement.outages;
                self.swung.insert(code.clone());
                times.extend(self.set_onsets(&code, judgement.onsets));
            }
            self.noted.insert(code);
        }
        self.look(times);
    }

    /// These offices may be seen otherwise by what is known of another. One that waits for what its agents deliver is judged with it.
    pub(super) fn touch_related(&mut self, codes: impl IntoIterator<Item = OfficeCode>) {
        let (waiting, noted) = (&self.waiting, &self.noted);
        let codes = codes.into_iter();
        // One that is judged in this tick all the same is judged to its end.
        let ready = codes.filter(|code| !waiting.contains(code) || noted.contains(code));
        self.touched.extend(ready);
    }

    /// Finds the common causes around a time; offices that are hit, or are no more, are judged again.
    pub(super) fn find_commons(&mut self, at: UnixMillis) {
        let Seen {
            found,
            bursts,
            decided,
        } = self.scopes.find(&self.setup.params, at);
        let began = |burst: &Range<UnixMillis>| burst.start + WIDEST;
        self.bursts.retain(|burst| !decided.contains(&began(burst)));
        self.bursts.extend(bursts);
        let before: Vec<Common> = self
            .commons
            .iter()
            .filter(|common| decided.contains(&common.from))
            .cloned()
            .collect();
        if before == found {
            return;
        }
        self.commons_changed = true;
        self.commons
            .retain(|common| !decided.contains(&common.from));
        let hit: BTreeSet<OfficeCode> = before
            .iter()
            .chain(&found)
            .flat_map(|common| common.offices.keys().cloned())
            .collect();
        self.commons.extend(found);
        self.commons
            .sort_by(|a, b| (a.from, &a.scope).cmp(&(b.from, &b.scope)));
        let causes = self.common_causes();
        for code in hit {
            let hits = self.hits(&code, &causes);
            if let Some(office) = self.offices.get_mut(&code)
                && office.hits != hits
            {
                office.hits = hits;
                // What a common cause explains is no turn.
                self.pair(&code);
                self.rove(&code);
                self.touch_related([code]);
            }
        }
    }

    /// What hit each of the common causes' offices.
    fn common_causes(&self) -> Vec<Cause> {
        let causes = self.commons.iter().map(|common| self.common_cause(common));
        causes.collect()
    }

    fn hits(&self, code: &OfficeCode, causes: &[Cause]) -> Vec<Hit> {
        let of = |(common, cause): (&Common, &Cause)| {
            let onset = *common.offices.get(code)?;
            Some(Hit {
                cause: *cause,
                onset,
            })
        };
        self.commons.iter().zip(causes).filter_map(of).collect()
    }

    /// What hit them: the central service if that is all that failed at most of them.
    fn common_cause(&self, common: &Common) -> Cause {
        let onsets = common.offices.iter();
        let central = onsets
            .filter_map(|(code, at)| self.onset(code, *at))
            .filter(|onset| onset.central)
            .count();
        if central * 2 > common.offices.len() {
            Cause::Central
        } else {
            Cause::Regional
        }
    }

    fn onset(&self, code: &OfficeCode, at: UnixMillis) -> Option<&Onset> {
        let mut onsets = self.offices.get(code)?.sight.onsets.iter();
        onsets.find(|onset| onset.at == at)
    }

    /// Judges one office.
    pub(super) fn judge(
        &mut self,
        code: &OfficeCode,
        now: UnixMillis,
        archive: &dyn Archive,
        step: &mut Step,
    ) -> anyhow::Result<()> {
        let horizon = self.forget(code, now);
        let swung = self.swung.remove(code);
        let mut judgement = self.with_question(code, now, office::judge);
        if swung {
            self.pair(code);
            self.rove(code);
        }
        self.follow(code);
        let (turns, over) = self.turns_of(code, now);
        judgement.patterns.extend(turns);
        judgement.review = judgement.review.into_iter().chain(over).min();
        judgement
            .patterns
            .sort_by_key(|pattern| (pattern.from_ms, pattern.kind, pattern.scale));
        limit(&mut judgement.patterns);
        let why = if self.why == RevisionReason::Redetected {
            self.why
        } else {
            self.why_gone(code)
        };
        let parents: Vec<Parent> = self.parents(code);
        let explained = self.explained(code);
        let Some(office) = self.offices.get_mut(code) else {
            return Ok(());
        };
        let rejoin = self.setup.params.rejoin;
        office.settle(now);
        let derived = office.wake(&judgement, &parents, rejoin, horizon, archive)?;
        let with = Reconciling {
            office: Some(code),
            derived,
            horizon,
            now,
            why,
        };
        let mut changed: BTreeSet<usize> = reconcile(
            &mut office.incidents,
            &office.settled,
            with,
            &mut self.last_number,
        )
        .into_iter()
        .collect();
        adopt(
            &mut office.incidents,
            &parents,
            rejoin,
            horizon,
            &mut changed,
        );
        for i in page(
            &self.setup.params,
            self.suspicious,
            &mut judgement,
            office,
            &parents,
            now,
        ) {
            step.pages.push(office.incidents[i].number);
            changed.insert(i);
        }
        for i in &changed {
            let incident = &office.incidents[*i];
            step.incidents.insert(incident.number, incident.clone());
        }
        if !changed.is_empty() {
            office.changed = now;
            // Not a part of its sight: after a restart all is settled.
            self.reviews.insert((now + SETTLES, code.clone()));
        }
        if self.explained(code) != explained {
            self.touch_related(self.silent_neighbours(code));
        }
        let Some(office) = self.offices.get_mut(code) else {
            return Ok(());
        };
        let sight = &mut office.sight;
        if let Some(before) = sight.review {
            self.reviews.remove(&(before, code.clone()));
        }
        self.reviews
            .extend(judgement.review.map(|at| (at, code.clone())));
        if swung || sight.patterns != judgement.patterns || sight.review != judgement.review {
            sight.patterns = judgement.patterns;
            sight.review = judgement.review;
            step.sights.push(code.clone());
        }
        Ok(())
    }

    /// Why an incident that nothing speaks for any more was none.
    fn why_gone(&self, code: &OfficeCode) -> RevisionReason {
        let office = self.offices.get(code);
        let closed = |at: &usize| self.watchers[*at].agent.presence == Presence::Closed;
        if office
            .is_some_and(|office| !office.watchers.is_empty() && office.watchers.iter().all(closed))
        {
            return RevisionReason::AgentClosed;
        }
        RevisionReason::LateData
    }

    /// Lets go what is older than the horizon, and returns from when on everything is known.
    fn forget(&mut self, code: &OfficeCode, now: UnixMillis) -> UnixMillis {
        let horizon = horizon(now);
        let Some(office) = self.offices.get_mut(code) else {
            return horizon;
        };
        let mut known_from = horizon.max(office.sight.known_from.unwrap_or(horizon));
        let mut unseen = Vec::new();
        for at in &office.watchers {
            let watcher = &mut self.watchers[*at];
            watcher.agent.runs.forget(horizon);
            let gone = watcher.agent.sightings.forget(horizon);
            unseen.extend(gone.into_iter().map(|identity| (identity, *at)));
            for (_, link) in &mut watcher.links {
                link.past.forget(horizon);
                if link.past.downs.len() >= Past::MOST {
                    known_from = known_from.max(UnixMillis(link.past.downs[0].from.0 + 1));
                }
            }
        }
        office
            .incidents
            .retain(|incident| Self::is_revisable(incident, now));
        office.settled.retain(|one| one.resolved_ms >= horizon);
        for (identity, at) in unseen {
            self.unsee(identity, at);
        }
        known_from
    }

    /// The common causes that hit an office, of which there are incidents.
    fn parents(&self, code: &OfficeCode) -> Vec<Parent> {
        let of = |common: &Common| {
            let onset = *common.offices.get(code)?;
            let incident = self
                .common_incidents
                .iter()
                .find(|incident| !incident.retracted && incident.facts.opened_ms == common.from)?;
            Some(Parent {
                onset,
                until: self.onset(code, onset)?.until,
                number: incident.number,
                over: incident.facts.resolved_ms,
            })
        };
        self.commons.iter().filter_map(of).collect()
    }

    /// Judges the common causes.
    pub(super) fn judge_commons(&mut self, now: UnixMillis, step: &mut Step) {
        if !std::mem::take(&mut self.commons_changed) {
            return;
        }
        let horizon = horizon(now);
        self.commons.retain(|common| common.from >= horizon);
        self.bursts.retain(|burst| burst.end >= horizon);
        let derived: Vec<Facts> = self
            .commons
            .iter()
            .map(|common| self.common_facts(common))
            .collect();
        let with = Reconciling {
            office: None,
            derived,
            horizon,
            now,
            why: self.why,
        };
        let known = &mut self.common_incidents;
        known.retain(|incident| Self::is_revisable(incident, now));
        let mut changed: BTreeSet<usize> = reconcile(known, &[], with, &mut self.last_number)
            .into_iter()
            .collect();
        for (i, incident) in known.iter_mut().enumerate() {
            if incident.is_open() && incident.paged_ms.is_none() {
                // Its scope may yet turn out to be a wider one; and nobody is called while all are closed.
                let learned = incident
                    .revisions
                    .first()
                    .map_or(now, |first| first.recorded_ms);
                let hit = self
                    .commons
                    .iter()
                    .find(|common| common.from == incident.facts.opened_ms);
                let opens = hit.into_iter().flat_map(|common| common.offices.keys());
                let wait = learned + self.setup.params.common_wait;
                let from = opens
                    .filter_map(|code| self.setup.opening(code).next_open(wait))
                    .min();
                let Some(from) = from else { continue };
                if now < from {
                    self.commons_review = Some(self.commons_review.map_or(from, |at| at.min(from)));
                    continue;
                }
                incident.paged_ms = Some(now);
                step.pages.push(incident.number);
                changed.insert(i);
            }
        }
        let mut told = BTreeSet::new();
        for i in changed {
            let incident = &known[i];
            step.incidents.insert(incident.number, incident.clone());
            // Their incidents name it, and say what it was.
            let common = self
                .commons
                .iter()
                .find(|common| common.from == incident.facts.opened_ms);
            told.extend(
                common
                    .into_iter()
                    .flat_map(|common| common.offices.keys().cloned()),
            );
        }
        let causes = self.common_causes();
        for code in told {
            let hits = self.hits(&code, &causes);
            if let Some(office) = self.offices.get_mut(&code) {
                office.hits = hits;
            }
            self.touch_related([code]);
        }
    }

    fn common_facts(&self, common: &Common) -> Facts {
        let mut ends: Vec<UnixMillis> = Vec::new();
        for (code, onset) in &common.offices {
            ends.extend(self.onset(code, *onset).and_then(|onset| onset.until));
        }
        ends.sort_unstable();
        // Over when four of five have recovered.
        let most = (common.offices.len() * 4).div_ceil(5);
        let scope = common.scope();
        Facts {
            opened_ms: common.from,
            resolved_ms: ends.get(most - 1).copied(),
            probation_until_ms: None,
            cause: self.common_cause(common),
            confidence: 90,
            provisional: false,
            evidence: vec![Evidence::Together {
                failed: scope.failed,
                watched: scope.watched,
                within_ms: common.within_ms,
            }],
            troubles: Vec::new(),
            troubles_total: 0,
            relapse: None,
            scope: Some(Box::new(scope)),
        }
    }
}
