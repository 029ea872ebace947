//! Availability: for how much of the time an office could work.
//!
//! # Method
//!
//! Counted are an office's opening hours, or all hours, in whole minutes up to now, but for those of announced work. An office needs its server and its way out (what its agents
//! probe by the roles `server` and `uplink`; all targets where neither is probed). For each hour of the counted time, or part of one, a role is down for as long as the link that
//! was up for longest in it was down, and the office for as long as its worst role: failures of server and way out in the same hour count as if together, others one after
//! another. What nobody saw (no sample speaks for it, see [`denyut_store::history::rollup`]) is counted apart, and the share is that of what was seen: up ÷ (up + down).
//!
//! Where minutes are not kept any more, part of an hour is taken as that part of the hour's own times.

use crate::access::Regions;
use crate::query::{Query, Selector};
use denyut_detect::calendar::{Holidays, Hours, Opening, Zone};
use denyut_proto::{Invalid, OfficeCode, Role, UnixMillis};
use denyut_store::history::{LinkId, RowsError};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ops::{AddAssign, Range};
use std::sync::Arc;
use utoipa::ToSchema;

const MINUTE_MS: i64 = 60_000;
const HOUR_MS: i64 = 3_600_000;
/// The longest time that can be asked for, in ms: two years, as far as opening hours are looked at.
const LONGEST_MS: i64 = 731 * 24 * HOUR_MS;
/// What an office needs.
const NEEDED: [Role; 2] = [Role::Server, Role::Uplink];

/// Which time counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Counted {
    /// Opening hours.
    #[default]
    Opening,
    /// All hours.
    All,
}

/// What became of the time that counts, in ms.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ToSchema)]
#[allow(clippy::struct_field_names, reason = "the unit belongs to the name")]
pub(crate) struct Times {
    /// Up, down and unobserved together.
    pub(crate) counted_ms: i64,
    /// The office had what it needs.
    pub(crate) up_ms: i64,
    /// It had not.
    pub(crate) down_ms: i64,
    /// Nobody saw.
    pub(crate) unobserved_ms: i64,
    /// Left out for announced work.
    pub(crate) announced_ms: i64,
}

impl Times {
    /// The share of what was seen for which it was up, in per cent, to a thousandth; none if nothing was seen.
    pub(crate) fn percent(&self) -> Option<f64> {
        let seen = self.up_ms + self.down_ms;
        (seen > 0).then(|| (100_000.0 * self.up_ms as f64 / seen as f64).round() / 1_000.0)
    }
}

impl Times {
    /// How much of the time that counts was seen, in per cent, to a thousandth; none if none counts.
    pub(crate) fn observed_percent(&self) -> Option<f64> {
        let seen = self.up_ms + self.down_ms;
        (self.counted_ms > 0)
            .then(|| (100_000.0 * seen as f64 / self.counted_ms as f64).round() / 1_000.0)
    }
}

impl AddAssign for Times {
    fn add_assign(&mut self, other: Self) {
        self.counted_ms += other.counted_ms;
        self.up_ms += other.up_ms;
        self.down_ms += other.down_ms;
        self.unobserved_ms += other.unobserved_ms;
        self.announced_ms += other.announced_ms;
    }
}

/// Of what.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub(crate) enum By {
    #[default]
    Office,
    Regency,
    Province,
    Nation,
}

impl By {
    pub(crate) const ALL: [Self; 4] = [Self::Office, Self::Regency, Self::Province, Self::Nation];

    /// The name that API and catalogues use.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Office => "office",
            Self::Regency => "regency",
            Self::Province => "province",
            Self::Nation => "nation",
        }
    }

    /// The code of what an office belongs to.
    fn of(self, office: &OfficeCode) -> &str {
        let length = match self {
            Self::Office => office.as_str().len(),
            Self::Regency => 5,
            Self::Province => 2,
            Self::Nation => 0,
        };
        office.as_str().get(..length).unwrap_or_default()
    }
}

/// For how much of a time one or many offices could work.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct AvailabilityView {
    pub(crate) by: By,
    /// The code of the office or region; empty for the nation.
    #[schema(example = "36.73")]
    pub(crate) code: String,
    /// Its name, where it is known.
    #[schema(example = "Kota Serang")]
    pub(crate) name: Option<String>,
    /// How many offices are counted together.
    pub(crate) offices: u32,
    pub(crate) hours: Counted,
    #[schema(value_type = i64)]
    pub(crate) from_ms: UnixMillis,
    #[schema(value_type = i64)]
    pub(crate) to_ms: UnixMillis,
    #[serde(flatten)]
    pub(crate) times: Times,
    /// up ÷ (up + down), in per cent to a thousandth; none if nothing was seen.
    #[schema(example = 99.312)]
    pub(crate) percent: Option<f64>,
    /// How much of the time that counts was seen, in per cent to a thousandth: what `percent` is worth.
    #[schema(example = 97.5)]
    pub(crate) observed_percent: Option<f64>,
}

/// Counted time of an office of which nothing was seen, an hour of it or more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Gap {
    pub(crate) office: OfficeCode,
    pub(crate) from_ms: UnixMillis,
    pub(crate) to_ms: UnixMillis,
    /// How much of it counts.
    pub(crate) counted_ms: i64,
}

/// What is asked for.
pub(crate) struct Asked<'a> {
    pub(crate) by: By,
    /// Which offices.
    pub(crate) region: &'a Regions,
    pub(crate) range: Range<UnixMillis>,
    pub(crate) calendar: Calendar<'a>,
}

/// An error if the time is too long.
pub(crate) fn check(range: &Range<UnixMillis>) -> Result<(), Invalid> {
    if range.end.0 - range.start.0 > LONGEST_MS {
        let fix = "ask for two years at most";
        return Err(Invalid::new(
            "from_ms",
            range.start.0,
            "too long before `to_ms`",
            fix,
        ));
    }
    Ok(())
}

/// The availability up to `now` of those behind `after`, at most so many, by code; and what nobody saw. Blocks.
pub(crate) fn read(
    query: &Query,
    asked: &Asked<'_>,
    after: Option<&str>,
    most: usize,
    now: UnixMillis,
) -> anyhow::Result<(Vec<AvailabilityView>, Vec<Gap>)> {
    let range = &asked.range;
    let counted = range.start.min(now)..range.end.min(now);
    let mut found: Vec<AvailabilityView> = Vec::new();
    let mut gaps = Vec::new();
    let offices = query.registry.offices();
    for (code, office) in offices.iter().filter(|(code, _)| asked.region.has(code)) {
        let of = asked.by.of(code);
        if after.is_some_and(|after| of <= after) {
            continue;
        }
        let goes_on = found.last().is_some_and(|last| last.code == of);
        if !goes_on && found.len() >= most {
            break;
        }
        let (times, missing) = of_office(query, code, &counted, &asked.calendar)?;
        gaps.extend(missing);
        if let Some(last) = found.last_mut().filter(|_| goes_on) {
            last.times += times;
            last.offices += 1;
            continue;
        }
        let name = match asked.by {
            By::Office => Some(office.name.clone()),
            By::Regency => office.regency.clone(),
            By::Province | By::Nation => None,
        };
        found.push(AvailabilityView {
            by: asked.by,
            code: of.to_owned(),
            name,
            offices: 1,
            hours: asked.calendar.counted,
            from_ms: range.start,
            to_ms: range.end,
            times,
            percent: None,
            observed_percent: None,
        });
    }
    for one in &mut found {
        one.percent = one.times.percent();
        one.observed_percent = one.times.observed_percent();
    }
    Ok((found, gaps))
}

/// By what it is counted.
pub(crate) struct Calendar<'a> {
    pub(crate) hours: &'a Arc<Hours>,
    pub(crate) holidays: &'a Holidays,
    pub(crate) counted: Counted,
}

/// Up and down in a piece of time, in ms.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Seen {
    up: i64,
    down: i64,
}

/// The stretches of whole minutes that count, ascending, and how much was left out.
fn stretches(
    query: &Query,
    office: &OfficeCode,
    range: &Range<UnixMillis>,
    calendar: &Calendar<'_>,
) -> (Vec<Range<i64>>, i64) {
    let hours = query.registry.hours_of(office, calendar.hours);
    let opening = Opening {
        zone: Zone::of(office),
        hours: &hours,
        holidays: calendar.holidays,
    };
    let all = match calendar.counted {
        Counted::Opening => opening.stretches(range.start, range.end),
        Counted::All => vec![(range.start, range.end)],
    };
    let whole = |(from, to): &(UnixMillis, UnixMillis)| {
        let from = -(-from.0).div_euclid(MINUTE_MS) * MINUTE_MS;
        from..(to.0.div_euclid(MINUTE_MS) * MINUTE_MS).max(from)
    };
    let mut left: Vec<Range<i64>> = all.iter().map(whole).collect();
    let before: i64 = left.iter().map(|one| one.end - one.start).sum();
    for work in query.maintenance.iter().filter(|work| work.is_of(office)) {
        let mut at = range.start;
        while let Some((from, until)) = work.when.next(at, opening.zone)
            && from < range.end
        {
            left = left
                .into_iter()
                .flat_map(|one| without(one, from.0, until.0))
                .collect();
            at = until;
        }
    }
    left.retain(|one| !one.is_empty());
    let after: i64 = left.iter().map(|one| one.end - one.start).sum();
    (left, before - after)
}

/// What is left of a stretch, in whole minutes, without a time.
fn without(one: Range<i64>, from: i64, until: i64) -> [Range<i64>; 2] {
    let from = from.div_euclid(MINUTE_MS) * MINUTE_MS;
    let until = -(-until).div_euclid(MINUTE_MS) * MINUTE_MS;
    [
        one.start..one.end.min(from).max(one.start),
        one.start.max(until).min(one.end)..one.end,
    ]
}

/// Stretches as pieces that lie in one hour each.
fn pieces(stretches: &[Range<i64>]) -> Vec<Range<i64>> {
    let mut all = Vec::new();
    for one in stretches {
        let mut from = one.start;
        while from < one.end {
            let to = ((from.div_euclid(HOUR_MS) + 1) * HOUR_MS).min(one.end);
            all.push(from..to);
            from = to;
        }
    }
    all
}

/// What a link showed in each piece.
fn seen(query: &Query, link: &LinkId, pieces: &[Range<i64>]) -> anyhow::Result<Vec<Seen>> {
    let (Some(first), Some(last)) = (pieces.first(), pieces.last()) else {
        return Ok(Vec::new());
    };
    let ms = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let mut hours = BTreeMap::new();
    let rows = query
        .history
        .rows(link, UnixMillis(first.start)..UnixMillis(last.end), HOUR_MS);
    let rows = match rows {
        Ok(rows) => rows.rows,
        // Only days are left: nothing can be said of hours.
        Err(RowsError::TooFine { .. }) => return Ok(vec![Seen::default(); pieces.len()]),
        Err(RowsError::Store(error)) => return Err(error),
    };
    for row in rows {
        let seen = Seen {
            up: ms(row.up_ms),
            down: ms(row.down_ms),
        };
        hours.insert(row.start.0, seen);
    }
    let of_piece = |piece: &Range<i64>| {
        let hour = piece.start.div_euclid(HOUR_MS) * HOUR_MS;
        let whole = hours.get(&hour).copied().unwrap_or_default();
        let length = piece.end - piece.start;
        if length == HOUR_MS || whole == Seen::default() {
            return Ok(whole);
        }
        let range = UnixMillis(piece.start)..UnixMillis(piece.end);
        match query.history.rows(link, range, MINUTE_MS) {
            Ok(minutes) => Ok(Seen {
                up: minutes.rows.iter().map(|row| ms(row.up_ms)).sum(),
                down: minutes.rows.iter().map(|row| ms(row.down_ms)).sum(),
            }),
            Err(RowsError::TooFine { .. }) => Ok(Seen {
                up: whole.up * length / HOUR_MS,
                down: whole.down * length / HOUR_MS,
            }),
            Err(RowsError::Store(error)) => Err(error),
        }
    };
    pieces.iter().map(of_piece).collect()
}

/// What became of an office's time, and what nobody saw of it.
fn of_office(
    query: &Query,
    office: &OfficeCode,
    range: &Range<UnixMillis>,
    calendar: &Calendar<'_>,
) -> anyhow::Result<(Times, Vec<Gap>)> {
    let (stretches, announced_ms) = stretches(query, office, range, calendar);
    let pieces = pieces(&stretches);
    let mut times = Times {
        announced_ms,
        ..Times::default()
    };
    let mut gaps: Vec<Gap> = Vec::new();
    let mut goes_on = false;
    for (piece, one) in pieces.iter().zip(of_pieces(query, office, &pieces)?) {
        let is_gap = one.unobserved_ms == one.counted_ms;
        match gaps.last_mut().filter(|_| goes_on && is_gap) {
            Some(gap) => {
                gap.to_ms = UnixMillis(piece.end);
                gap.counted_ms += one.counted_ms;
            }
            None if is_gap => gaps.push(Gap {
                office: office.clone(),
                from_ms: UnixMillis(piece.start),
                to_ms: UnixMillis(piece.end),
                counted_ms: one.counted_ms,
            }),
            None => {}
        }
        goes_on = is_gap;
        times += one;
    }
    gaps.retain(|gap| gap.counted_ms >= HOUR_MS);
    Ok((times, gaps))
}

/// What became of an office in each of these stretches of whole minutes, which are ascending and do not touch.
pub(crate) fn of_stretches(
    query: &Query,
    office: &OfficeCode,
    stretches: &[Range<i64>],
) -> anyhow::Result<Vec<Times>> {
    let pieces = pieces(stretches);
    let all = of_pieces(query, office, &pieces)?;
    let mut of_stretch = vec![Times::default(); stretches.len()];
    for (piece, times) in pieces.iter().zip(all) {
        let place = stretches.partition_point(|one| one.end <= piece.start);
        of_stretch[place] += times;
    }
    Ok(of_stretch)
}

/// What became of an office in each piece.
fn of_pieces(
    query: &Query,
    office: &OfficeCode,
    pieces: &[Range<i64>],
) -> anyhow::Result<Vec<Times>> {
    let mut roles: Vec<Vec<LinkId>> = Vec::new();
    for role in NEEDED {
        let selector = Selector {
            role: Some(role),
            ..Selector::default()
        };
        roles.push(query.select(&selector, office)?);
    }
    roles.retain(|links| !links.is_empty());
    if roles.is_empty() {
        // Each by itself: none of them makes up for another.
        let all = query.select(&Selector::default(), office)?;
        roles = all.into_iter().map(|link| vec![link]).collect();
    }
    // Of each role the link that was up for longest, of those the worst.
    let mut worst: Option<Vec<Seen>> = None;
    for links in &roles {
        let mut best = vec![Seen::default(); pieces.len()];
        for link in links {
            for (best, one) in best.iter_mut().zip(seen(query, link, pieces)?) {
                if (one.up, -one.down) > (best.up, -best.down) || *best == Seen::default() {
                    *best = one;
                }
            }
        }
        worst = Some(match worst {
            None => best,
            Some(worst) => worst
                .into_iter()
                .zip(best)
                .map(|(one, two)| both(one, two))
                .collect(),
        });
    }
    let worst = worst.unwrap_or_else(|| vec![Seen::default(); pieces.len()]);
    let of_piece = |(piece, seen): (&Range<i64>, Seen)| {
        let length = piece.end - piece.start;
        let down_ms = seen.down.min(length);
        let up_ms = seen.up.min(length - down_ms);
        Times {
            counted_ms: length,
            up_ms,
            down_ms,
            unobserved_ms: length - up_ms - down_ms,
            announced_ms: 0,
        }
    };
    Ok(pieces.iter().zip(worst).map(of_piece).collect())
}

/// An office that needs two things has what the worse of them gives.
fn both(one: Seen, two: Seen) -> Seen {
    Seen {
        up: one.up.min(two.up),
        down: one.down.max(two.down),
    }
}

#[cfg(test)]
#[allow(
    clippy::single_range_in_vec_init,
    reason = "one stretch of several that may be"
)]
mod tests {
    use super::*;
    use crate::keys;
    use crate::registry::{Office, Registry};
    use denyut_detect::Link;
    use denyut_detect::calendar::{Maintenance, When};
    use denyut_proto::{AgentId, Outcome, Reason, Sample, TargetSamples};
    use denyut_store::Store;
    use denyut_store::history::History as _;
    use denyut_store::state::{Change, State as _};
    use std::sync::Arc;

    /// 2026-11-24, a Tuesday, at 00:00 WIB.
    const DAY: i64 = 1_795_453_200_000;

    fn at(hour: i64, minute: i64) -> i64 {
        DAY + hour * HOUR_MS + minute * MINUTE_MS
    }

    /// A link's samples, one a minute from 00:00 to 24:00, but for those that are missing; those in `down` fail.
    fn samples(down: &[Range<i64>], missing: &[Range<i64>]) -> Vec<Sample> {
        let lies = |all: &[Range<i64>], at: i64| all.iter().any(|one| one.contains(&at));
        let minutes = (0..24 * 60).map(|minute| at(0, minute));
        let there = minutes.filter(|at| !lies(missing, *at));
        there
            .map(|at| Sample {
                at: UnixMillis(at),
                outcome: if lies(down, at) {
                    Outcome::Failed(Reason::Timeout.into())
                } else {
                    Outcome::Ok { rtt_us: 500 }
                },
            })
            .collect()
    }

    struct World {
        _dir: tempfile::TempDir,
        query: Query,
        office: OfficeCode,
    }

    impl World {
        /// An office with one agent and these targets.
        fn new(targets: &[(&str, Role, Vec<Sample>)], maintenance: Vec<Maintenance>) -> Self {
            let dir = tempfile::tempdir().expect("tempdir");
            let store = Store::open(dir.path(), UnixMillis(DAY + 2 * 24 * HOUR_MS)).expect("opens");
            let office: OfficeCode = "36.73.02".parse().expect("a code");
            let registry = Registry::default();
            registry.set(BTreeMap::from([(office.clone(), Some(Office::default()))]));
            let mut position = 1;
            for (i, (name, role, samples)) in targets.iter().enumerate() {
                let agent: AgentId = format!("a-{i}").parse().expect("an id");
                registry.enter(&agent, &office).expect("is new");
                let target: denyut_proto::TargetName = name.parse().expect("a name");
                let link = LinkId {
                    agent: agent.clone(),
                    target: target.clone(),
                };
                let known = Link {
                    role: Some(*role),
                    ..Link::new(&denyut_detect::params::Params::default())
                };
                let mut change = Change::default();
                keys::put_packed(&mut change, keys::link(&link), &known).expect("packs");
                store.state.apply(change).expect("applies");
                for samples in samples.chunks(120) {
                    let heartbeat = [TargetSamples {
                        target: target.clone(),
                        samples: samples.to_vec(),
                    }];
                    store
                        .history
                        .append(position, &agent, &heartbeat)
                        .expect("appends");
                    position += 1;
                }
            }
            let query = Query {
                members: None,
                registry: Arc::new(registry),
                history: store.history,
                state: store.state,
                maintenance,
            };
            Self {
                _dir: dir,
                query,
                office,
            }
        }

        /// Minutes counted, up, down, unobserved and left out on that day.
        fn minutes(&self, counted: Counted) -> [i64; 5] {
            let hours = Arc::new(Hours::parse("hours", "Mon-Fri 08:00-16:30").expect("hours"));
            let calendar = Calendar {
                hours: &hours,
                holidays: &Holidays::default(),
                counted,
            };
            let range = UnixMillis(DAY)..UnixMillis(DAY + 24 * HOUR_MS);
            let found = of_office(&self.query, &self.office, &range, &calendar);
            let (times, gaps) = found.expect("reads");
            let unseen: i64 = gaps.iter().map(|gap| gap.counted_ms).sum();
            assert!(unseen <= times.unobserved_ms, "{gaps:?}");
            [
                times.counted_ms,
                times.up_ms,
                times.down_ms,
                times.unobserved_ms,
                times.announced_ms,
            ]
            .map(|ms| ms / MINUTE_MS)
        }
    }

    #[test]
    fn the_time_of_a_day_is_up_down_or_unobserved() {
        let server = samples(
            &[at(9, 10)..at(10, 40), at(16, 20)..at(17, 0)],
            &[at(12, 0)..at(13, 0)],
        );
        let world = World::new(&[("server", Role::Server, server)], Vec::new());
        // Down 90 minutes and the last ten of the day; the answer at 11:59 speaks for a minute.
        assert_eq!(
            world.minutes(Counted::Opening),
            [510, 510 - 100 - 60, 100, 60, 0]
        );
        assert_eq!(
            world.minutes(Counted::All),
            [1_440, 1_440 - 130 - 60, 130, 60, 0]
        );
    }

    #[test]
    fn what_nobody_saw_is_told_apart() {
        // A quarter of an hour is no gap.
        let server = samples(&[], &[at(9, 0)..at(9, 15), at(12, 0)..at(14, 0)]);
        let world = World::new(&[("server", Role::Server, server)], Vec::new());
        let hours = Arc::new(Hours::parse("hours", "Mon-Fri 08:00-16:30").expect("hours"));
        let region = Regions::one("36".to_owned());
        let asked = Asked {
            by: By::Regency,
            region: &region,
            range: UnixMillis(DAY)..UnixMillis(DAY + 48 * HOUR_MS),
            calendar: Calendar {
                hours: &hours,
                holidays: &Holidays::default(),
                counted: Counted::Opening,
            },
        };
        let now = UnixMillis(at(48, 0));
        let (lines, gaps) = read(&world.query, &asked, None, 10, now).expect("reads");
        assert_eq!(
            (lines.len(), &*lines[0].code, lines[0].offices),
            (1, "36.73", 1)
        );
        let told: Vec<_> = gaps
            .iter()
            .map(|gap| (gap.from_ms.0, gap.to_ms.0, gap.counted_ms / MINUTE_MS))
            .collect();
        // The answer at 11:59 speaks for a minute; the day after that was never seen.
        assert_eq!(
            told,
            [(at(12, 0), at(14, 0), 120), (at(32, 0), at(40, 30), 510)]
        );
        let (none, _) = read(&world.query, &asked, Some("36.73"), 10, now).expect("reads");
        assert!(none.is_empty());
    }

    #[test]
    fn an_office_needs_its_server_and_its_way_out() {
        let server = samples(&[at(9, 0)..at(9, 30)], &[]);
        let uplink = samples(&[at(9, 15)..at(9, 45), at(14, 0)..at(15, 0)], &[]);
        let gateway = samples(&[at(8, 0)..at(16, 30)], &[]);
        let world = World::new(
            &[
                ("server", Role::Server, server.clone()),
                ("uplink", Role::Uplink, uplink),
                ("gateway", Role::Gateway, gateway),
            ],
            Vec::new(),
        );
        // In one hour as if together, else one after another; what it does not need does not count.
        assert_eq!(world.minutes(Counted::Opening), [510, 420, 90, 0, 0]);
        // Another agent that reaches the server makes up for the first.
        let world = World::new(
            &[
                ("server", Role::Server, server),
                (
                    "server",
                    Role::Server,
                    samples(&[], &[at(12, 0)..at(24, 0)]),
                ),
            ],
            Vec::new(),
        );
        assert_eq!(world.minutes(Counted::Opening), [510, 510, 0, 0, 0]);
    }

    #[test]
    fn announced_work_is_left_out_and_where_nothing_is_probed_nothing_is_seen() {
        let work = Maintenance {
            region: "36".to_owned(),
            when: When::Once {
                from: UnixMillis(at(9, 0)),
                until: UnixMillis(at(10, 0) + 1),
            },
            reason: "x".to_owned(),
        };
        let server = samples(&[at(9, 0)..at(11, 0)], &[]);
        let world = World::new(&[("server", Role::Server, server)], vec![work]);
        assert_eq!(world.minutes(Counted::Opening), [449, 390, 59, 0, 61]);
        let world = World::new(&[], Vec::new());
        assert_eq!(world.minutes(Counted::Opening), [510, 0, 0, 510, 0]);
        assert_eq!(Times::default().percent(), None);
        let times = Times {
            up_ms: 2,
            down_ms: 1,
            ..Times::default()
        };
        assert_eq!(times.percent(), Some(66.667));
    }
}
