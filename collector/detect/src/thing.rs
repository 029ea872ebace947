//! Things that move between offices, by what they show of themselves: a server's network card, its certificate, the address of a line.
//!
//! An agent tells what a target showed when the target answers again, so each *sighting* says: it is here now. It is *held* to be here until the target
//! fails, shows another, or the agent's process ends. What two offices held at the same time is no thing that moves but one of many alike (a
//! certificate on every server, an address lent to many). What one held after another moved.

use denyut_proto::{Identity, OfficeCode, Shown, TargetName, UnixMillis};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Of several sightings within this, in s, the first is kept: agents tell no more often, but when they begin anew.
const SLOT_S: u32 = 60;
/// Identities that are kept of one agent, and sightings of each: the newest.
const MOST: (usize, usize) = (32, 256);
/// What more offices than this showed is no one thing.
pub const OFFICES_MOST: usize = 8;

/// What an agent's targets showed, and when (event time).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sightings(Vec<Seen>);

/// One identity at one target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Seen {
    target: Option<TargetName>,
    identity: Identity,
    /// In s since 1970, ascending, one in each slot.
    at_s: Vec<u32>,
}

/// A time for which a thing was at a place; open while it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold<P> {
    /// Where.
    pub place: P,
    /// Event time.
    pub from: UnixMillis,
    /// Event time; none while it lasts.
    pub until: Option<UnixMillis>,
}

/// A thing went from one office to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    /// From here.
    pub from: OfficeCode,
    /// To here.
    pub to: OfficeCode,
    /// When it was first seen there (event time).
    pub at: UnixMillis,
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped; u32 seconds last until 2106"
)]
fn seconds(at: UnixMillis) -> u32 {
    at.0.div_euclid(1_000).clamp(0, i64::from(u32::MAX)) as u32
}

fn millis(at_s: u32) -> UnixMillis {
    UnixMillis(i64::from(at_s) * 1_000)
}

impl Sightings {
    /// Takes one in; `true` if it tells something new, and [`Sightings::limit`] is to be asked.
    pub fn insert(&mut self, shown: &Shown, at: UnixMillis) -> bool {
        let at_s = seconds(at);
        let is_it = |seen: &Seen| seen.identity == shown.identity && seen.target == shown.target;
        let Some(place) = self.0.iter().position(is_it) else {
            self.0.push(Seen {
                target: shown.target.clone(),
                identity: shown.identity,
                at_s: vec![at_s],
            });
            self.0
                .sort_by(|a, b| (&a.target, a.identity).cmp(&(&b.target, b.identity)));
            return true;
        };
        let times = &mut self.0[place].at_s;
        match times.binary_search_by_key(&(at_s / SLOT_S), |time| time / SLOT_S) {
            Ok(i) if times[i] <= at_s => return false,
            Ok(i) => times[i] = at_s,
            Err(i) => times.insert(i, at_s),
        }
        if times.len() > MOST.1 {
            times.remove(0);
        }
        true
    }

    /// Lets go what was seen longest ago if there is more than is kept; returns the identity if nothing of it is left.
    pub fn limit(&mut self) -> Option<Identity> {
        if self.0.len() <= MOST.0 {
            return None;
        }
        let newest = self.newest();
        // What targets show last stays before what they once showed.
        let oldest = (0..self.0.len()).min_by_key(|i| {
            let seen = &self.0[*i];
            let stays = newest.contains(&(seen.target.clone(), seen.identity));
            (stays, seen.at_s.last())
        })?;
        let gone = self.0.remove(oldest).identity;
        (!self.0.iter().any(|seen| seen.identity == gone)).then_some(gone)
    }

    /// Lets go what was before `horizon`; returns the identities of which nothing is left.
    pub fn forget(&mut self, horizon: UnixMillis) -> BTreeSet<Identity> {
        let horizon = seconds(horizon);
        let mut gone = BTreeSet::new();
        let newest = self.newest();
        self.0.retain_mut(|seen| {
            let mut old = seen.at_s.partition_point(|at| *at < horizon);
            // What is still there is told no more.
            if newest.contains(&(seen.target.clone(), seen.identity)) {
                old = old.min(seen.at_s.len() - 1);
            }
            seen.at_s.drain(..old);
            if seen.at_s.is_empty() {
                gone.insert(seen.identity);
            }
            !seen.at_s.is_empty()
        });
        gone.retain(|identity| !self.0.iter().any(|seen| seen.identity == *identity));
        gone
    }

    /// What each target showed last, of each kind.
    fn newest(&self) -> BTreeSet<(Option<TargetName>, Identity)> {
        let is_newest = |seen: &&Seen| {
            let is_later = |other: &Seen| {
                other.target == seen.target
                    && std::mem::discriminant(&other.identity)
                        == std::mem::discriminant(&seen.identity)
                    && (other.at_s.last(), other.identity) > (seen.at_s.last(), seen.identity)
            };
            !self.0.iter().any(is_later)
        };
        let newest = self.0.iter().filter(is_newest);
        newest
            .map(|seen| (seen.target.clone(), seen.identity))
            .collect()
    }

    /// What was shown.
    pub fn identities(&self) -> impl Iterator<Item = Identity> {
        self.0.iter().map(|seen| seen.identity)
    }

    /// The target that showed it.
    pub fn target_of(&self, identity: Identity) -> Option<&TargetName> {
        self.0
            .iter()
            .find(|seen| seen.identity == identity)?
            .target
            .as_ref()
    }

    /// When a thing was held to be here, at the targets that count. `ended` says when the target failed, or the process ended, after a sighting.
    pub fn holds(
        &self,
        identity: Identity,
        counts: impl Fn(Option<&TargetName>) -> bool,
        ended: impl Fn(Option<&TargetName>, UnixMillis) -> Option<UnixMillis>,
    ) -> Vec<(UnixMillis, Option<UnixMillis>)> {
        let mut all = Vec::new();
        let is_it = |seen: &&Seen| seen.identity == identity && counts(seen.target.as_ref());
        for seen in self.0.iter().filter(is_it) {
            for at_s in &seen.at_s {
                let another = self
                    .0
                    .iter()
                    .filter(|other| {
                        other.target == seen.target
                            && other.identity != identity
                            && std::mem::discriminant(&other.identity)
                                == std::mem::discriminant(&identity)
                    })
                    .filter_map(|other| {
                        let later = other.at_s.partition_point(|at| at <= at_s);
                        other.at_s.get(later).copied().map(millis)
                    })
                    .min();
                let from = millis(*at_s);
                let ended = ended(seen.target.as_ref(), from);
                let until = another.into_iter().chain(ended).min();
                all.push((from, until));
            }
        }
        all
    }
}

/// The moves of one thing, ascending; none if two offices held it at the same time. Times of two offices are compared within `slack`, and within half of
/// the shorter time: what shows for seconds only, and at two offices at once, is two.
pub fn moves(mut holds: Vec<Hold<&OfficeCode>>, slack: Duration) -> Vec<Move> {
    holds.sort_by_key(|hold| (hold.from, hold.place));
    let end = |hold: &Hold<&OfficeCode>| hold.until.unwrap_or(UnixMillis(i64::MAX));
    let length = |hold: &Hold<&OfficeCode>| end(hold).since(hold.from);
    // Of each office the time that ends last.
    let mut latest: BTreeMap<&OfficeCode, &Hold<&OfficeCode>> = BTreeMap::new();
    let mut all: Vec<Move> = Vec::new();
    for (i, hold) in holds.iter().enumerate() {
        let together = |other: &&Hold<&OfficeCode>| {
            let slack = slack.min(length(other).min(length(hold)) / 2);
            other.place != hold.place && end(other) > hold.from + slack
        };
        if latest.values().copied().any(|other| together(&other)) {
            return Vec::new();
        }
        let last = latest.entry(hold.place).or_insert(hold);
        if end(hold) > end(last) {
            *last = hold;
        }
        if latest.len() > OFFICES_MOST {
            return Vec::new();
        }
        if i > 0 && holds[i - 1].place != hold.place {
            all.push(Move {
                from: holds[i - 1].place.clone(),
                to: hold.place.clone(),
                at: hold.from,
            });
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shown(target: &str, mac: u8) -> Shown {
        Shown {
            target: Some(target.parse().expect("a name")),
            identity: Identity::Mac([mac; 6]),
        }
    }

    fn at(hours: i64) -> UnixMillis {
        UnixMillis(hours * 3_600_000)
    }

    #[test]
    fn a_thing_is_here_until_its_target_fails_or_shows_another() {
        let mut seen = Sightings::default();
        assert!(seen.insert(&shown("server", 2), at(1)));
        assert!(
            !seen.insert(&shown("server", 2), at(1) + Duration::from_secs(59)),
            "within a slot"
        );
        assert!(seen.insert(&shown("server", 2), at(5)));
        assert!(seen.insert(&shown("server", 4), at(8)));
        assert!(seen.insert(&shown("gateway", 6), at(9)));
        let fails = |target: Option<&TargetName>, from: UnixMillis| {
            (target.is_some_and(|name| name.as_str() == "server") && from < at(3)).then(|| at(3))
        };
        let holds = seen.holds(Identity::Mac([2; 6]), |_| true, fails);
        assert_eq!(holds, [(at(1), Some(at(3))), (at(5), Some(at(8)))]);
        assert_eq!(
            seen.holds(Identity::Mac([4; 6]), |_| true, fails),
            [(at(8), None)]
        );
        assert_eq!(seen.forget(at(8)), BTreeSet::from([Identity::Mac([2; 6])]));
        assert_eq!(seen.forget(at(90)), BTreeSet::new(), "what is there stays");
        assert_eq!(seen.identities().count(), 2);
        for n in 0..200 {
            seen.insert(&shown("server", 8), at(20) + Duration::from_secs(60 * n));
        }
        let mut gone = Vec::new();
        for n in 10..60_u8 {
            assert!(seen.insert(&shown("server", n), at(40 + i64::from(n))));
            gone.extend(seen.limit());
        }
        assert_eq!((seen.identities().count(), gone.len()), (MOST.0, 21));
        assert_eq!(
            gone[0],
            Identity::Mac([4; 6]),
            "what was seen longest ago goes first"
        );
    }

    #[test]
    fn what_one_holds_after_another_moved_and_what_two_hold_did_not() {
        let (one, other): (OfficeCode, OfficeCode) = (
            "36.73.01".parse().expect("a code"),
            "36.73.02".parse().expect("a code"),
        );
        let hold = |place, from: i64, until: Option<i64>| Hold {
            place,
            from: at(from),
            until: until.map(at),
        };
        let slack = Duration::from_secs(60);
        let turns = || {
            vec![
                hold(&one, 1, Some(3)),
                hold(&other, 4, Some(6)),
                hold(&one, 6, None),
            ]
        };
        let found = moves(turns(), slack);
        assert_eq!(found.len(), 2);
        assert_eq!(
            (&found[0].from, &found[0].to, found[0].at),
            (&one, &other, at(4))
        );
        assert_eq!(
            (&found[1].from, &found[1].to, found[1].at),
            (&other, &one, at(6))
        );
        let mut alike = turns();
        alike.push(hold(&other, 7, Some(8)));
        assert_eq!(moves(alike, slack), [], "the other still has it");
        assert_eq!(moves(vec![hold(&one, 1, None)], slack), []);
        let second = |place, from: i64, until: i64| Hold {
            place,
            from: UnixMillis(from * 1_000),
            until: Some(UnixMillis(until * 1_000)),
        };
        let at_once = vec![second(&one, 0, 40), second(&other, 10, 50)];
        assert_eq!(moves(at_once, slack), [], "for seconds only, but at once");
        let clocks_are_off = vec![second(&one, 0, 40), second(&other, 30, 70)];
        assert_eq!(moves(clocks_are_off, slack).len(), 1);
    }

    proptest! {
        #[test]
        fn any_order_makes_the_same_sightings(
            (all, shuffled) in prop::collection::vec((0..3u8, 0..100_000i64), 1..60)
                .prop_flat_map(|all| (Just(all.clone()), Just(all).prop_shuffle()))
        ) {
            let of = |all: &[(u8, i64)]| {
                let mut seen = Sightings::default();
                for (mac, s) in all {
                    seen.insert(&shown("server", 2 * mac), UnixMillis(s * 1_000));
                }
                seen
            };
            prop_assert_eq!(of(&all), of(&shuffled));
        }
    }
}
