//! Offices that take turns, and the things that move between them.

use super::agent::Watcher;
use super::{Detector, Office, Step, WITNESSES_MOST};
use crate::incident::ScopeKind;
use crate::office::{Pattern, PatternKind};
use crate::roam::{self, Turns};
use crate::thing::{self, Hold, Move};
use denyut_proto::{Heartbeat, Identity, OfficeCode, UnixMillis};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Offices of a pool that are looked at together, at most.
const POOL_MOST: usize = 64;
/// What took no turn for this does so no more.
const ROAMING_FRESH: Duration = Duration::from_secs(14 * 86_400);

impl Detector {
    /// Looks for offices that take turns with this one.
    pub(super) fn pair(&mut self, code: &OfficeCode) {
        let Some(office) = self.offices.get(code) else {
            return;
        };
        if office.sight.outages.len() < 2 {
            return;
        }
        let mut others: BTreeMap<OfficeCode, usize> = BTreeMap::new();
        for scope in self.scopes.of(code) {
            if matches!(scope.0, ScopeKind::Pool | ScopeKind::Regency) {
                let members: Vec<&OfficeCode> = self.scopes.members(scope).collect();
                let pairs = members.len() * members.len().saturating_sub(1) / 2;
                for other in members {
                    let least = others.entry(other.clone()).or_insert(pairs);
                    *least = pairs.min(*least);
                }
            }
        }
        let ours = self.transitions(code, office);
        let mut found = Vec::new();
        for (other, pairs) in others {
            let Some(theirs) = self
                .offices
                .get(&other)
                .filter(|office| other != *code && office.sight.outages.len() >= 2)
            else {
                continue;
            };
            let turns = if self.is_uncertain(office) || self.is_uncertain(theirs) {
                None
            } else {
                roam::turns(
                    &self.setup.params,
                    &ours,
                    &self.transitions(&other, theirs),
                    pairs,
                )
            };
            found.push((other, turns));
        }
        for (other, turns) in found {
            let pair = if *code < other {
                (code.clone(), other.clone())
            } else {
                (other.clone(), code.clone())
            };
            let before = match turns {
                Some(turns) => self.pairs.insert(pair, turns),
                None => self.pairs.remove(&pair),
            };
            if before != turns {
                self.touch_related([other]);
            }
        }
    }

    /// Looks for members of this office's pool that take turns with any of the others. Of many that share a thing no two may have met often enough.
    pub(super) fn rove(&mut self, code: &OfficeCode) {
        let pool = self
            .scopes
            .of(code)
            .iter()
            .find(|scope| scope.0 == ScopeKind::Pool);
        let Some(pool) = pool.cloned() else { return };
        let members: Vec<(OfficeCode, Vec<(i64, bool)>)> = self
            .scopes
            .members(&pool)
            .filter_map(|code| {
                let office = self
                    .offices
                    .get(code)
                    .filter(|office| !self.is_uncertain(office))?;
                Some((code.clone(), self.transitions(code, office)))
            })
            .collect();
        if !(3..=POOL_MOST).contains(&members.len()) {
            return;
        }
        for (member, ours) in &members {
            let mut others: Vec<(i64, bool)> = members
                .iter()
                .filter(|(other, _)| other != member)
                .flat_map(|(_, theirs)| theirs.iter().copied())
                .collect();
            others.sort_unstable();
            let turns = roam::turns(&self.setup.params, ours, &others, members.len());
            let before = match turns {
                Some(turns) => self.rovers.insert(member.clone(), turns),
                None => self.rovers.remove(member),
            };
            if before != turns && member != code {
                self.touch_related([member.clone()]);
            }
        }
    }

    fn transitions(&self, code: &OfficeCode, office: &Office) -> Vec<(i64, bool)> {
        let is_common = |at| {
            self.commons
                .iter()
                .any(|common| common.offices.get(code) == Some(&at))
        };
        roam::transitions(&office.sight.outages, is_common)
    }

    /// Whether the clocks of an office's agents may be off by more than what counts as simultaneous.
    fn is_uncertain(&self, office: &Office) -> bool {
        let is_off = |at: &usize| self.watchers[*at].agent.is_off(&self.setup.params);
        office.watchers.iter().any(is_off)
    }

    /// Takes in what an agent's targets showed; `true` if it may tell of a move.
    pub(super) fn see(&mut self, at: usize, heartbeat: &Heartbeat, step: &mut Step) -> bool {
        let mut touched = false;
        for shown in &heartbeat.shown {
            let watcher = &mut self.watchers[at];
            if !watcher.agent.sightings.insert(shown, heartbeat.at) {
                continue;
            }
            let seen_by = self.things.entry(shown.identity).or_default();
            seen_by.insert(at);
            // What nobody else saw, or everybody, did not move.
            touched |= (2..=WITNESSES_MOST + 1).contains(&seen_by.len());
            step.sightings.push(watcher.id.clone());
            if let Some(gone) = watcher.agent.sightings.limit() {
                self.unsee(gone, at);
            }
        }
        touched
    }

    /// The agent at this place knows nothing of a thing any more; others that saw it are judged again.
    pub(super) fn unsee(&mut self, identity: Identity, at: usize) {
        let Some(seen_by) = self.things.get_mut(&identity) else {
            return;
        };
        seen_by.remove(&at);
        let left = seen_by.len();
        let others: Vec<OfficeCode> = seen_by
            .iter()
            .take(WITNESSES_MOST)
            .map(|at| self.watchers[*at].agent.office.clone())
            .collect();
        if left <= WITNESSES_MOST {
            // What is left without this one may tell of a move, or no more.
            self.touch_related(others);
        }
        if left == 0 {
            self.things.remove(&identity);
            self.moves.remove(&identity);
        }
    }

    /// Looks where the things are now that this office's agents told of, and where they were; offices that saw one of them move are judged again.
    pub(super) fn follow(&mut self, code: &OfficeCode) {
        let shown: BTreeSet<Identity> = self
            .offices
            .get(code)
            .into_iter()
            .flat_map(|office| &office.watchers)
            .flat_map(|at| self.watchers[*at].agent.sightings.identities())
            .collect();
        for identity in shown {
            let moves = thing::moves(self.holds(identity), self.setup.params.roam_window);
            let before = if moves.is_empty() {
                self.moves.remove(&identity)
            } else {
                self.moves.insert(identity, moves.clone())
            };
            let before = before.unwrap_or_default();
            if before != moves {
                let told = before.into_iter().chain(moves);
                let offices = told.flat_map(|one| [one.from, one.to]);
                self.touch_related(offices.filter(|other| other != code));
            }
        }
    }

    /// When and where a thing was held to be; nothing of what too many showed, or of clocks that are off.
    fn holds(&self, identity: Identity) -> Vec<Hold<&OfficeCode>> {
        let seen_by = self.things.get(&identity);
        let Some(seen_by) = seen_by.filter(|by| (2..=WITNESSES_MOST).contains(&by.len())) else {
            return Vec::new();
        };
        let watchers: Vec<&Watcher> = seen_by.iter().map(|at| &self.watchers[*at]).collect();
        let offices: BTreeSet<&OfficeCode> = watchers
            .iter()
            .map(|watcher| &watcher.agent.office)
            .collect();
        if !(2..=thing::OFFICES_MOST).contains(&offices.len()) {
            return Vec::new();
        }
        let mut all = Vec::new();
        for watcher in watchers {
            let place = &watcher.agent.office;
            let office = self.offices.get(place);
            if office.is_none_or(|office| self.is_uncertain(office)) {
                // Without it what speaks against a move would be missing.
                return Vec::new();
            }
            let holds = watcher.agent.sightings.holds(
                identity,
                |target| watcher.is_own(target, identity),
                |target, from| watcher.ended(target, from),
            );
            all.extend(
                holds
                    .into_iter()
                    .map(|(from, until)| Hold { place, from, until }),
            );
        }
        all
    }

    /// The offices that take turns with this one and the things that moved between them, as patterns; and when one of them will have been for long enough that it does so no more.
    pub(super) fn turns_of(
        &self,
        code: &OfficeCode,
        now: UnixMillis,
    ) -> (Vec<Pattern>, Option<UnixMillis>) {
        let mut review: Option<UnixMillis> = None;
        let mut pattern = |kind, turns: &Turns, with: Option<&OfficeCode>| {
            let over = turns.last + ROAMING_FRESH + Duration::from_millis(1);
            if over > now {
                review = Some(review.map_or(over, |at| at.min(over)));
            }
            Pattern {
                kind,
                scale: None,
                agent: None,
                target: None,
                from_ms: turns.from,
                until_ms: (over <= now).then_some(turns.last),
                count: turns.count,
                with: with.cloned(),
                pool: None,
                identity: None,
            }
        };
        let mut all = Vec::new();
        for ((one, other), turns) in &self.pairs {
            let with = match (one == code, other == code) {
                (true, _) => other,
                (_, true) => one,
                _ => continue,
            };
            let mut roaming = pattern(PatternKind::Roaming, turns, Some(with));
            roaming.identity = self.thing_between(code, with);
            all.push(roaming);
        }
        if let Some(turns) = self.rovers.get(code) {
            let mut roaming = pattern(PatternKind::Roaming, turns, None);
            roaming.pool = self
                .setup
                .sites
                .get(code)
                .and_then(|site| site.pool.clone());
            all.push(roaming);
        }
        for ((identity, with), turns) in self.moves_of(code) {
            let mut moved = pattern(PatternKind::Moved, &turns, Some(with));
            moved.identity = Some(identity);
            let seen = self
                .offices
                .get(code)
                .into_iter()
                .flat_map(|office| &office.watchers);
            let seen = seen.map(|at| &self.watchers[*at]).find_map(|watcher| {
                let target = watcher.agent.sightings.target_of(identity)?;
                Some((watcher.id.clone(), target.clone()))
            });
            (moved.agent, moved.target) = seen.unzip();
            all.push(moved);
        }
        (all, review)
    }

    /// The moves of things that came to this office or went from it, by thing and other office. An address that is lent to one line after
    /// another is no thing: it only tells which line it was where two offices take turns.
    fn moves_of(&self, code: &OfficeCode) -> BTreeMap<(Identity, &OfficeCode), Turns> {
        let mut all: BTreeMap<(Identity, &OfficeCode), Turns> = BTreeMap::new();
        let shown = self
            .offices
            .get(code)
            .into_iter()
            .flat_map(|office| &office.watchers);
        let shown: BTreeSet<Identity> = shown
            .flat_map(|at| self.watchers[*at].agent.sightings.identities())
            .filter(|identity| !matches!(identity, Identity::Address(_)))
            .collect();
        for identity in shown {
            for one in self.moves.get(&identity).into_iter().flatten() {
                let with = match (one.from == *code, one.to == *code) {
                    (true, _) => &one.to,
                    (_, true) => &one.from,
                    _ => continue,
                };
                let turns = all.entry((identity, with)).or_insert(Turns {
                    from: one.at,
                    last: one.at,
                    count: 0,
                });
                turns.last = one.at;
                turns.count += 1;
            }
        }
        all
    }

    /// What moved between two offices, if anything is known to.
    fn thing_between(&self, one: &OfficeCode, other: &OfficeCode) -> Option<Identity> {
        let is_between = |moves: &[Move]| {
            let pair = |a: &OfficeCode, b: &OfficeCode| {
                moves.iter().any(|of| of.from == *a && of.to == *b)
            };
            pair(one, other) || pair(other, one)
        };
        let found = self.moves.iter().find(|(_, moves)| is_between(moves));
        found.map(|(identity, _)| *identity)
    }
}
