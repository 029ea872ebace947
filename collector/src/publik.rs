//! What citizens are shown: which office can record an identity card now. Codes, names, places, opening hours and states of offices, and nothing else: no address, no agent, no
//! cause, no person.
//!
//! An office *can* only while it is open, all that recording needs (server, way out, central service) answers, and an agent of it was heard within five minutes. What is not known
//! is said to be not known.
//!
//! # The chance of staying so until closing
//!
//! Of the open days among the last 35, those on which the office was seen for at least half of the time from this hour to closing count; good are those with less than five minutes
//! down in it. The chance is (good + 1) ÷ (days + 2), Laplace's rule of succession, and is told from ten days on.

use crate::access::Regions;
use crate::api::Shared;
use crate::availability::of_stretches;
use crate::query::{LinkView, OfficeView, ShownState};
use crate::registry::Office;
use crate::villages::Villages;
use denyut_detect::calendar::{Opening, in_region};
use denyut_proto::{OfficeCode, UnixMillis};
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 86_400_000;
/// An office that was not heard for longer is not known to be up.
const FRESH_MS: i64 = 300_000;
/// Days that the chance is made of, the fewest that it is told from, and how much of one may be down.
const DAYS: i64 = 35;
const DAYS_LEAST: u32 = 10;
const BLIP_MS: i64 = 300_000;
/// What needs to answer for a recording.
const NEEDED: [&str; 3] = ["server", "uplink", "central"];
/// How long a page is given out before it is made anew; how old it may be while that is done.
const MADE_EVERY: Duration = Duration::from_secs(10);
const OLD_MOST: Duration = Duration::from_secs(30);
/// How long a chance is given out.
const CHANCE_EVERY: Duration = Duration::from_secs(600);

/// Whether an office can record now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Can {
    Yes,
    /// It is not known.
    Unknown,
    No,
    /// Work on it is announced for now.
    Maintenance,
    /// Outside of its opening hours.
    Closed,
}

impl Can {
    pub(crate) const ALL: [Self; 5] = [
        Self::Yes,
        Self::Unknown,
        Self::No,
        Self::Maintenance,
        Self::Closed,
    ];

    /// The name that JSON and catalogues use.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Yes => "yes",
            Self::Unknown => "unknown",
            Self::No => "no",
            Self::Maintenance => "maintenance",
            Self::Closed => "closed",
        }
    }
}

/// The chance that an office stays as it is until it closes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Chance {
    pub(crate) percent: u32,
    /// Of how many days.
    pub(crate) days: u32,
}

/// One office as citizens see it.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct PublicOffice {
    pub(crate) code: OfficeCode,
    pub(crate) name: String,
    pub(crate) can: Can,
    /// Since when it cannot.
    pub(crate) since_ms: Option<UnixMillis>,
    /// When it was last heard.
    pub(crate) heard_ms: Option<UnixMillis>,
    /// Today's opening hours, as times of day by its clock (`08:00-16:00`).
    pub(crate) hours: Vec<String>,
    /// When it opens next, if it is closed.
    pub(crate) opens_ms: Option<UnixMillis>,
    /// That it stays so until closing, if it can.
    pub(crate) chance: Option<Chance>,
    /// Latitude and longitude in degrees.
    pub(crate) place: Option<[f64; 2]>,
}

/// The offices of a regency.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct PublicRegency {
    pub(crate) code: String,
    pub(crate) name: Option<String>,
    /// When this was true.
    pub(crate) at_ms: UnixMillis,
    pub(crate) offices: Vec<PublicOffice>,
}

/// The regencies that have offices, with their names and how many those are.
pub(crate) fn regencies(shared: &Shared) -> BTreeMap<String, (Option<String>, usize)> {
    let mut all: BTreeMap<String, (Option<String>, usize)> = BTreeMap::new();
    for (code, office) in &*shared.query.registry.offices() {
        let regency = code.as_str().get(..5).unwrap_or_default();
        let known = all.entry(regency.to_owned()).or_default();
        known.0 = known.0.take().or_else(|| office.regency.clone());
        known.1 += 1;
    }
    all
}

/// The offices of a regency now; `None` if it has none. Blocks.
pub(crate) fn regency(
    shared: &Shared,
    publik: &Publik,
    code: &str,
) -> anyhow::Result<Option<PublicRegency>> {
    let now = shared.gate.clock.read().now;
    // What it knows is old until it has read what it slept through.
    let catches_up = shared.processed.load(Ordering::Acquire) < shared.replay_to;
    let mut offices = Vec::new();
    let mut name = None;
    let all = shared.query.registry.offices();
    let all = all.iter();
    for (office, known) in all.filter(|(office, _)| in_region(office, code)) {
        let Some(view) = shared.query.office(office, &Regions::everywhere(), now)? else {
            continue;
        };
        name = name.or_else(|| known.regency.clone());
        let mut one = public_office(shared, office, known, &view, now);
        if catches_up && one.can != Can::Closed {
            one.can = Can::Unknown;
        }
        if one.can == Can::Yes {
            one.chance = publik.chance(shared, office, now)?;
        }
        offices.push(one);
    }
    Ok((!offices.is_empty()).then(|| PublicRegency {
        code: code.to_owned(),
        name,
        at_ms: now,
        offices,
    }))
}

fn public_office(
    shared: &Shared,
    code: &OfficeCode,
    office: &Office,
    view: &OfficeView,
    now: UnixMillis,
) -> PublicOffice {
    let own_hours = shared.gate.hours_of(code);
    let opening = shared.gate.opening(code, &own_hours);
    let zone = opening.zone;
    let midnight =
        UnixMillis((now.0 + zone.offset_ms()).div_euclid(DAY_MS) * DAY_MS - zone.offset_ms());
    let of_day = |at: UnixMillis| {
        let minutes = (at.0 - midnight.0) / 60_000;
        format!("{:02}:{:02}", minutes / 60, minutes % 60)
    };
    let today = opening.stretches(midnight, UnixMillis(midnight.0 + DAY_MS));
    let heard_ms = view.agents.iter().filter_map(|agent| agent.last_ms).max();
    let (can, since_ms) = if opening.is_open(now) {
        let (can, since) = can_of(view);
        let is_fresh = heard_ms.is_some_and(|heard| now.0 - heard.0 <= FRESH_MS);
        if can == Can::Yes && !is_fresh {
            (Can::Unknown, None)
        } else {
            (can, since)
        }
    } else {
        (Can::Closed, None)
    };
    PublicOffice {
        code: code.clone(),
        name: office.name.clone(),
        can,
        since_ms,
        heard_ms,
        hours: today
            .into_iter()
            .map(|(from, to)| format!("{}-{}", of_day(from), of_day(to)))
            .collect(),
        opens_ms: if can == Can::Closed {
            opening.next_open(now)
        } else {
            None
        },
        chance: None,
        place: view.place,
    }
}

/// What an office's links say; of each role the best that an agent sees, of the roles the worst.
fn can_of(view: &OfficeView) -> (Can, Option<UnixMillis>) {
    let judge = |link: &LinkView| match link.state {
        ShownState::Up => Can::Yes,
        ShownState::Down => Can::No,
        ShownState::Maintenance => Can::Maintenance,
        _ => Can::Unknown,
    };
    let best = |role: &str| {
        let links = view.links.iter().filter(|link| link.role == Some(role));
        links
            .map(|link| (judge(link), link.since_ms))
            .min_by_key(|(can, _)| *can)
    };
    let worst = NEEDED
        .iter()
        .filter_map(|role| best(role))
        .max_by_key(|(can, _)| *can);
    match worst {
        // Nothing that recording needs is probed: nobody knows.
        None => (Can::Unknown, None),
        Some((Can::No, since)) => (Can::No, since),
        Some((can, _)) => (can, None),
    }
}

/// What was made: as it is, and compressed.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) kind: &'static str,
    pub(crate) plain: bytes::Bytes,
    pub(crate) gzip: bytes::Bytes,
}

/// A chance, of which hour, and when it was found out.
type Told = (Instant, i64, Option<Chance>);

/// Keeps what was made for citizens for a while: thousands may ask at once.
#[derive(Debug, Default)]
pub(crate) struct Publik {
    made: Mutex<HashMap<String, (Instant, Arc<Made>)>>,
    chances: Mutex<HashMap<OfficeCode, Told>>,
    /// One page is made at a time; who does not wait for it gets what there is.
    making: tokio::sync::Mutex<()>,
    /// Where people may live.
    pub(crate) villages: Villages,
}

impl Publik {
    pub(crate) fn new(villages: Villages) -> Self {
        Self {
            villages,
            ..Self::default()
        }
    }

    fn known(&self, key: &str, younger: Duration) -> Option<Arc<Made>> {
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, page) = made.get(key)?;
        (at.elapsed() < younger).then(|| Arc::clone(page))
    }

    /// What was made under a key, or is made now by `make`. Only keys of what there is are given here, so that they are bounded.
    pub(crate) async fn get<F>(
        &self,
        key: &str,
        make: impl FnOnce() -> F,
    ) -> anyhow::Result<Arc<Made>>
    where
        F: Future<Output = anyhow::Result<Made>>,
    {
        if let Some(page) = self.known(key, MADE_EVERY) {
            return Ok(page);
        }
        let _making = if let Ok(making) = self.making.try_lock() {
            making
        } else {
            if let Some(page) = self.known(key, OLD_MOST) {
                return Ok(page);
            }
            let making = self.making.lock().await;
            if let Some(page) = self.known(key, MADE_EVERY) {
                return Ok(page);
            }
            making
        };
        let page = Arc::new(make().await?);
        let mut pages = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        pages.insert(key.to_owned(), (Instant::now(), Arc::clone(&page)));
        Ok(page)
    }

    fn chance(
        &self,
        shared: &Shared,
        code: &OfficeCode,
        now: UnixMillis,
    ) -> anyhow::Result<Option<Chance>> {
        let hour = now.0.div_euclid(HOUR_MS);
        {
            let chances = self.chances.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((at, of, chance)) = chances.get(code)
                && *of == hour
                && at.elapsed() < CHANCE_EVERY
            {
                return Ok(*chance);
            }
        }
        let hours = shared.gate.hours_of(code);
        let windows = windows(&shared.gate.opening(code, &hours), now);
        let chance = chance(&of_stretches(&shared.query, code, &windows)?);
        let mut chances = self.chances.lock().unwrap_or_else(PoisonError::into_inner);
        chances.insert(code.clone(), (Instant::now(), hour, chance));
        Ok(chance)
    }
}

/// From this hour to closing, on each of the last days on which the office was open then; ascending.
fn windows(opening: &Opening<'_>, now: UnixMillis) -> Vec<Range<i64>> {
    let from = now.0.div_euclid(HOUR_MS) * HOUR_MS;
    let zone = opening.zone.offset_ms();
    let mut all = Vec::new();
    for day in (1..=DAYS).rev() {
        let start = from - day * DAY_MS;
        let midnight = ((start + zone).div_euclid(DAY_MS) + 1) * DAY_MS - zone;
        let open = opening.stretches(UnixMillis(start), UnixMillis(midnight));
        if let (Some((first, _)), Some((_, last))) = (open.first(), open.last()) {
            all.push(first.0..last.0);
        }
    }
    all
}

/// The chance that follows from what became of those days.
fn chance(days: &[crate::availability::Times]) -> Option<Chance> {
    let seen = days
        .iter()
        .filter(|day| 2 * (day.up_ms + day.down_ms) >= day.counted_ms && day.counted_ms > 0);
    let (mut good, mut count) = (0, 0);
    for day in seen {
        count += 1;
        good += u32::from(day.down_ms < BLIP_MS);
    }
    (count >= DAYS_LEAST).then(|| Chance {
        percent: 100 * (good + 1) / (count + 2),
        days: count,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::availability::Times;
    use denyut_detect::calendar::{Holidays, Hours, Zone};

    #[test]
    fn the_chance_is_that_of_days_that_were_seen() {
        let day = |up_ms, down_ms| Times {
            counted_ms: 3_600_000,
            up_ms,
            down_ms,
            ..Times::default()
        };
        let good = day(3_600_000, 0);
        assert_eq!(chance(&[good; 9]), None, "too few days");
        assert_eq!(
            chance(&[good; 10]),
            Some(Chance {
                percent: 91,
                days: 10
            })
        );
        let mut days = vec![good; 20];
        days.extend([day(3_000_000, 600_000); 8]);
        // A blip is none, and a day that nobody saw is no day.
        days.extend([day(3_400_000, 200_000); 2]);
        days.extend([day(100_000, 600_000); 5]);
        assert_eq!(
            chance(&days),
            Some(Chance {
                percent: 100 * 23 / 32,
                days: 30
            })
        );
    }

    #[test]
    fn a_window_is_the_rest_of_an_open_day() {
        let hours = Hours::parse("hours", "Mon-Fri 08:00-12:00 13:00-16:00").expect("hours");
        let holidays = Holidays::default();
        let opening = Opening {
            zone: Zone::Wib,
            hours: &hours,
            holidays: &holidays,
        };
        // 2026-11-24, a Tuesday, 14:20 WIB.
        let now = UnixMillis(1_795_453_200_000 + 14 * HOUR_MS + 1_200_000);
        let windows = windows(&opening, now);
        assert_eq!(windows.len(), 25, "five weeks of five days");
        let yesterday = 1_795_453_200_000 - DAY_MS;
        assert_eq!(
            windows.last(),
            Some(&(yesterday + 14 * HOUR_MS..yesterday + 16 * HOUR_MS))
        );
    }
}
