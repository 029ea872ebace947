//! Common causes: many offices of one scope going down together.
//!
//! A scan (as in Kulldorff 1997, in time): so many onsets within 30 s, 2 min or 10 min, tested against the scope's own rate of the last seven days by the
//! Poisson tail, corrected for the scopes and windows that are looked at. Of the scopes that are significant at the same time the smallest is named that most of
//! its offices went down in and that holds most of all that went down.

use crate::incident::{Scope, ScopeKind};
use crate::office::Onset;
use crate::params::Params;
use denyut_proto::{OfficeCode, UnixMillis};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::time::Duration;

/// Windows of the scan, in ms.
const WINDOWS: [i64; 3] = [30_000, 120_000, 600_000];
/// The widest of them.
pub(crate) const WIDEST: Duration = Duration::from_secs(600);
/// What went down so long before a scope's first may be of the same cause.
const BEFORE_MS: i64 = 60_000;
const WEEK_MS: i64 = 7 * 86_400_000;
const MONTH_MS: f64 = 30.0 * 86_400e3;
/// What is looked at around a change, and what of it is decided, in ms to each side.
const LOOK: (i64, i64) = (7_200_000, 3_600_000);
/// Offices that are listed of one common cause.
const LISTED: usize = 100;

/// A scope by kind and code.
pub type ScopeId = (ScopeKind, String);

/// What a look at the onsets around a time gives.
#[derive(Debug)]
pub struct Seen {
    /// The common causes, ascending.
    pub found: Vec<Common>,
    /// Times in which an onset more or less may change them.
    pub bursts: Vec<Range<UnixMillis>>,
    /// The time in which this is all that began.
    pub decided: Range<UnixMillis>,
}

/// Which office belongs to which scopes, and when offices went down.
#[derive(Debug, Default)]
pub struct Scopes {
    by_office: BTreeMap<OfficeCode, Vec<ScopeId>>,
    /// Offices that are watched, and onsets, by scope.
    members: BTreeMap<ScopeId, Members>,
    /// Every scope that there is.
    known: BTreeSet<ScopeId>,
    onsets: BTreeSet<(UnixMillis, OfficeCode)>,
}

#[derive(Debug, Default)]
struct Members {
    /// Since when each is watched, and the same ascending.
    watched: BTreeMap<OfficeCode, UnixMillis>,
    since: Vec<UnixMillis>,
    onsets: BTreeSet<(UnixMillis, OfficeCode)>,
}

impl Members {
    fn watched_at(&self, at: UnixMillis) -> usize {
        self.since.partition_point(|since| *since <= at)
    }
}

/// Offices that went down together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Common {
    /// The scope.
    pub scope: ScopeId,
    /// Watched offices of it.
    pub watched: u32,
    /// The first onset.
    pub from: UnixMillis,
    /// From the first to the last onset.
    pub within_ms: u64,
    /// Offices and their onsets.
    pub offices: BTreeMap<OfficeCode, UnixMillis>,
}

impl Common {
    /// As an incident tells it.
    pub fn scope(&self) -> Scope {
        Scope {
            kind: self.scope.0,
            code: self.scope.1.clone(),
            watched: self.watched,
            offices: self.offices.keys().take(LISTED).cloned().collect(),
            failed: u32::try_from(self.offices.len()).unwrap_or(u32::MAX),
        }
    }
}

impl Scopes {
    /// An office and what it belongs to.
    pub fn add(&mut self, office: &OfficeCode, scopes: Vec<ScopeId>) {
        self.known.extend(scopes.iter().cloned());
        self.by_office.insert(office.clone(), scopes);
    }

    /// The offices of a scope that are watched.
    pub fn members(&self, scope: &ScopeId) -> impl Iterator<Item = &OfficeCode> {
        self.members
            .get(scope)
            .into_iter()
            .flat_map(|members| members.watched.keys())
    }

    /// The scopes of an office.
    pub fn of(&self, office: &OfficeCode) -> &[ScopeId] {
        self.by_office.get(office).map_or(&[], Vec::as_slice)
    }

    /// Somebody watches this office since then; `true` if that was not known.
    pub fn watch(&mut self, office: &OfficeCode, since: UnixMillis) -> bool {
        let mut changed = false;
        for scope in self.by_office.get(office).into_iter().flatten() {
            let members = self.members.entry(scope.clone()).or_default();
            if members
                .watched
                .get(office)
                .is_none_or(|known| since < *known)
            {
                members.watched.insert(office.clone(), since);
                members.since = members.watched.values().copied().collect();
                members.since.sort_unstable();
                changed = true;
            }
        }
        changed
    }

    /// The office's onsets are these; returns the times that are new or gone.
    pub fn set_onsets(
        &mut self,
        office: &OfficeCode,
        before: &[Onset],
        after: &[Onset],
    ) -> Vec<UnixMillis> {
        let times =
            |of: &[Onset]| -> BTreeSet<UnixMillis> { of.iter().map(|one| one.at).collect() };
        let (before, after) = (times(before), times(after));
        let mut changed = Vec::new();
        for at in before.difference(&after) {
            self.onsets.remove(&(*at, office.clone()));
            for scope in self.by_office.get(office).into_iter().flatten() {
                if let Some(members) = self.members.get_mut(scope) {
                    members.onsets.remove(&(*at, office.clone()));
                }
            }
            changed.push(*at);
        }
        for at in after.difference(&before) {
            self.onsets.insert((*at, office.clone()));
            for scope in self.by_office.get(office).into_iter().flatten() {
                let members = self.members.entry(scope.clone()).or_default();
                members.onsets.insert((*at, office.clone()));
            }
            changed.push(*at);
        }
        changed
    }

    /// How many offices must go down together in a scope.
    fn need(params: &Params, watched: usize) -> usize {
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a count of offices"
        )]
        let share = (params.common_share * watched as f64).ceil() as usize;
        share.max(params.common_least as usize)
    }

    /// Whether there may be a common cause around an onset of this office: cheap, and mostly no.
    pub fn may_be(&self, params: &Params, office: &OfficeCode, at: UnixMillis) -> bool {
        let widest = WINDOWS[2];
        self.of(office)
            .iter()
            .filter_map(|scope| self.members.get(scope))
            .any(|members| {
                let need = Self::need(params, members.watched_at(UnixMillis(at.0 - widest)));
                around(&members.onsets, at.0 - widest..at.0 + widest + 1)
                    .take(need)
                    .count()
                    == need
            })
    }

    /// The common causes that began within an hour of `at`.
    pub fn find(&self, params: &Params, at: UnixMillis) -> Seen {
        let look = at.0.saturating_sub(LOOK.0)..at.0.saturating_add(LOOK.0);
        let decided =
            UnixMillis(at.0.saturating_sub(LOOK.1))..UnixMillis(at.0.saturating_add(LOOK.1));
        let offices: BTreeSet<&OfficeCode> = around(&self.onsets, look.clone())
            .map(|(_, office)| office)
            .collect();
        let mut scopes: BTreeMap<&ScopeId, usize> = BTreeMap::new();
        for office in offices {
            for scope in self.of(office) {
                *scopes.entry(scope).or_default() += 1;
            }
        }
        let mut candidates: Vec<(i64, Common)> = Vec::new();
        for (id, count) in scopes {
            let Some(members) = self.members.get(id) else {
                continue;
            };
            if count >= Self::need(params, members.watched_at(UnixMillis(look.start))) {
                self.scan(params, id, members, look.clone(), &mut candidates);
            }
        }
        let bursts = candidates
            .iter()
            .filter(|(_, common)| decided.contains(&common.from))
            .map(|(end, common)| {
                common.from - WIDEST..UnixMillis(*end) + WIDEST + params.common_join
            })
            .collect();
        // The smallest that covers and holds enough comes first; what happens at the same time is the same cause.
        if !candidates.is_empty() {
            let onsets = Onsets::around(&self.onsets, look.start - BEFORE_MS..look.end);
            candidates.retain(|(end, common)| onsets.explain(params, common, *end));
        }
        candidates.sort_by(|(_, a), (_, b)| {
            (a.watched, a.scope.0, &a.scope.1, a.from)
                .cmp(&(b.watched, b.scope.0, &b.scope.1, b.from))
        });
        let mut chosen: Vec<(i64, Common)> = Vec::new();
        for (end, common) in candidates {
            let same = |(other_end, other): &(i64, Common)| {
                common.from.0 <= *other_end
                    && other.from.0 <= end
                    && common
                        .offices
                        .keys()
                        .any(|office| other.offices.contains_key(office))
            };
            if !chosen.iter().any(same) {
                chosen.push((end, common));
            }
        }
        let mut found: Vec<Common> = chosen.into_iter().map(|(_, common)| common).collect();
        found.retain(|common| decided.contains(&common.from));
        found.sort_by(|a, b| (a.from, &a.scope).cmp(&(b.from, &b.scope)));
        Seen {
            found,
            bursts,
            decided,
        }
    }

    /// Significant bursts of one scope, each with the time of the last onset that made it so.
    fn scan(
        &self,
        params: &Params,
        id: &ScopeId,
        members: &Members,
        look: Range<i64>,
        found: &mut Vec<(i64, Common)>,
    ) {
        let onsets = Onsets::around(&members.onsets, look);
        let all = &onsets.all;
        let mut first = 0; // of the burst that may begin
        while first < all.len() {
            let mut windows = WINDOWS.map(|width| Window::new(width, first, onsets.offices.len()));
            let mut burst: Option<(usize, usize)> = None; // its first onset and the last significant one
            for last in first..all.len() {
                if burst.is_some_and(|(_, end)| all[last].0.0 - all[end].0.0 > WINDOWS[2]) {
                    break;
                }
                for window in &mut windows {
                    window.take(&onsets, last);
                }
                let is_one = |window: &&Window| {
                    let from = all[window.start].0;
                    let need = Self::need(params, members.watched_at(from));
                    window.offices >= need && self.is_significant(params, &onsets, window)
                };
                if let Some(window) = windows.iter().find(is_one) {
                    let start = window.start;
                    burst = Some((burst.map_or(start, |(begin, _)| begin.min(start)), last));
                }
            }
            let Some((begin, end)) = burst else { return };
            let join = all[end].0 + params.common_join;
            let mut offices = BTreeMap::new();
            let mut next = begin;
            while next < all.len() && all[next].0 <= join {
                let (at, office) = all[next];
                offices.entry(office.clone()).or_insert(*at);
                next += 1;
            }
            let from = all[begin].0;
            let last = offices.values().max().copied().unwrap_or(from);
            let common = Common {
                scope: id.clone(),
                watched: u32::try_from(members.watched_at(from)).unwrap_or(u32::MAX),
                from,
                within_ms: u64::try_from(last.since(from).as_millis()).unwrap_or(u64::MAX),
                offices,
            };
            found.push((all[end].0.0, common));
            first = next;
        }
    }

    #[allow(clippy::cast_precision_loss, reason = "counts")]
    fn is_significant(&self, params: &Params, onsets: &Onsets<'_>, window: &Window) -> bool {
        let from = onsets.all[window.start].0.0;
        let usual = onsets.count(from - WEEK_MS..from);
        // What was never seen may yet come once a week.
        let rate = (usual as f64).max(1.0) * window.width as f64 / WEEK_MS as f64;
        let looks = MONTH_MS / window.width as f64 * self.known.len() as f64 * WINDOWS.len() as f64;
        let factorial = onsets.ln_factorials[window.offices];
        ln_poisson_tail(window.offices, rate, factorial) < (params.common_chance / looks).ln()
    }
}

/// Onsets of a time, ascending, and what is asked of them again and again: a burst of a whole nation is some thousand.
struct Onsets<'a> {
    all: Vec<&'a (UnixMillis, OfficeCode)>,
    /// The number of each one's office, and all of these.
    numbers: Vec<usize>,
    offices: HashMap<&'a OfficeCode, usize, foldhash::fast::FixedState>,
    /// Times of onsets from a week before to the end.
    times: Vec<i64>,
    /// ln n! of 0 and of each count up to all.
    ln_factorials: Vec<f64>,
}

impl<'a> Onsets<'a> {
    fn around(onsets: &'a BTreeSet<(UnixMillis, OfficeCode)>, look: Range<i64>) -> Self {
        let all: Vec<_> = around(onsets, look.clone()).collect();
        let mut offices = HashMap::default();
        let mut numbers = Vec::with_capacity(all.len());
        for (_, office) in &all {
            let next = offices.len();
            numbers.push(*offices.entry(office).or_insert(next));
        }
        let before = look.start - BEFORE_MS - WEEK_MS..look.end;
        let times = around(onsets, before).map(|(at, _)| at.0).collect();
        let mut ln_factorials = vec![0.0];
        #[allow(clippy::cast_precision_loss, reason = "counts")]
        for n in 1..=all.len() {
            ln_factorials.push(ln_factorials[n - 1] + (n as f64).ln());
        }
        Self {
            all,
            numbers,
            offices,
            times,
            ln_factorials,
        }
    }

    /// Onsets in a time that ends within the look and is no longer than a week.
    fn count(&self, time: Range<i64>) -> usize {
        let place = |at: i64| self.times.partition_point(|time| *time < at);
        place(time.end) - place(time.start)
    }

    /// Whether most of the scope went down, and most of what went down is in it: of all that did from a minute before, but for what always does.
    #[allow(clippy::cast_precision_loss, reason = "counts")]
    fn explain(&self, params: &Params, common: &Common, end: i64) -> bool {
        let failed = common.offices.len() as f64;
        if failed < params.common_covers * f64::from(common.watched) {
            return false;
        }
        let window = common.from.0 - BEFORE_MS..end + 1;
        let length = (window.end - window.start) as f64;
        let place = |at: i64| self.all.partition_point(|onset| onset.0.0 < at);
        let mut is_hit = vec![false; self.offices.len()];
        for number in &self.numbers[place(window.start)..place(window.end)] {
            is_hit[*number] = true;
        }
        let all = is_hit.iter().filter(|is_hit| **is_hit).count();
        let held = common
            .offices
            .keys()
            .filter(|office| {
                self.offices
                    .get(office)
                    .is_some_and(|number| is_hit[*number])
            })
            .count();
        let week = self.count(common.from.0 - WEEK_MS..common.from.0 - BEFORE_MS) as f64;
        let excess = all as f64 - week * length / WEEK_MS as f64;
        held as f64 >= params.common_holds * excess
    }
}

/// The onsets of the last so many ms, as the scan goes on.
struct Window {
    width: i64,
    /// Place of the first.
    start: usize,
    /// How many different offices they are of.
    offices: usize,
    /// How many of each office.
    counts: Vec<u32>,
}

impl Window {
    fn new(width: i64, first: usize, offices: usize) -> Self {
        Self {
            width,
            start: first,
            offices: 0,
            counts: vec![0; offices],
        }
    }

    /// The next onset; what is too old leaves.
    fn take(&mut self, onsets: &Onsets<'_>, next: usize) {
        let count = &mut self.counts[onsets.numbers[next]];
        self.offices += usize::from(*count == 0);
        *count += 1;
        while onsets.all[self.start].0.0 < onsets.all[next].0.0 - self.width {
            let count = &mut self.counts[onsets.numbers[self.start]];
            *count -= 1;
            self.offices -= usize::from(*count == 0);
            self.start += 1;
        }
    }
}

fn around(
    onsets: &BTreeSet<(UnixMillis, OfficeCode)>,
    range: Range<i64>,
) -> impl Iterator<Item = &(UnixMillis, OfficeCode)> {
    // No office code is smaller than this one.
    let least = |at: i64| {
        (
            UnixMillis(at),
            "00.00.00".parse::<OfficeCode>().expect("a code"),
        )
    };
    onsets.range(least(range.start)..least(range.end.max(range.start)))
}

/// ln P(N ≥ count) of a Poisson variable of this mean, for a count above the mean; with ln count!.
#[allow(clippy::cast_precision_loss, reason = "counts")]
fn ln_poisson_tail(count: usize, mean: f64, ln_factorial: f64) -> f64 {
    if count as f64 <= mean {
        return 0.0;
    }
    let first = count as f64 * mean.ln() - mean - ln_factorial;
    // The terms after it fall faster than a geometric series of this ratio.
    let ratio = mean / (count as f64 + 1.0);
    first - (1.0 - ratio).ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(regency: u32, n: u32) -> OfficeCode {
        format!("36.{regency:02}.{n:02}").parse().expect("a code")
    }

    /// Twenty regencies of ten offices, two ISPs.
    fn scopes() -> Scopes {
        let mut scopes = Scopes::default();
        for regency in 1..=20 {
            for n in 1..=10 {
                let office = code(regency, n);
                scopes.add(
                    &office,
                    vec![
                        (ScopeKind::Regency, format!("36.{regency:02}")),
                        (ScopeKind::Isp, format!("isp-{}", n % 2)),
                        (ScopeKind::Province, "36".into()),
                        (ScopeKind::Nation, String::new()),
                    ],
                );
                scopes.watch(&office, UnixMillis(0));
            }
        }
        scopes
    }

    fn onset(second: i64) -> Onset {
        Onset {
            at: UnixMillis(second * 1_000),
            until: None,
            central: false,
        }
    }

    fn down(scopes: &mut Scopes, offices: impl Iterator<Item = (OfficeCode, i64)>) {
        for (office, second) in offices {
            scopes.set_onsets(&office, &[], &[onset(second)]);
        }
    }

    fn found(scopes: &Scopes, second: i64) -> Vec<(ScopeId, usize)> {
        let seen = scopes.find(&Params::default(), UnixMillis(second * 1_000));
        seen.found
            .into_iter()
            .map(|common| (common.scope, common.offices.len()))
            .collect()
    }

    #[test]
    fn the_smallest_scope_that_explains_it_is_named() {
        let mut regency = scopes();
        down(
            &mut regency,
            (1..=9).map(|n| (code(5, n), 100_000 + i64::from(n) * 7)),
        );
        assert_eq!(
            found(&regency, 100_000),
            [((ScopeKind::Regency, "36.05".into()), 9)]
        );
        assert!(regency.may_be(&Params::default(), &code(5, 1), UnixMillis(100_000_000)));

        let mut isp = scopes();
        down(
            &mut isp,
            (1..=20).flat_map(|regency| {
                (1..=5).map(move |n| (code(regency, 2 * n), 100_000 + i64::from(regency)))
            }),
        );
        assert_eq!(
            found(&isp, 100_000),
            [((ScopeKind::Isp, "isp-0".into()), 100)]
        );

        let mut all = scopes();
        down(
            &mut all,
            (1..=20).flat_map(|regency| {
                (1..=10).map(move |n| (code(regency, n), 100_000 + i64::from(n)))
            }),
        );
        assert_eq!(
            found(&all, 100_000),
            [((ScopeKind::Province, "36".into()), 200)]
        );
    }

    #[test]
    fn chance_and_partial_trouble_is_no_common_cause() {
        let mut few = scopes();
        down(&mut few, (1..=2).map(|n| (code(5, n), 100_000)));
        assert_eq!(found(&few, 100_000), []);
        // Many, but everywhere.
        let mut spread = scopes();
        down(
            &mut spread,
            (1..=20).map(|regency| (code(regency, 1), 100_000 + i64::from(regency))),
        );
        assert_eq!(found(&spread, 100_000), []);
        // A regency where it is usual.
        let mut usual = scopes();
        for n in 1..=10 {
            let often: Vec<Onset> = (0..600)
                .map(|i| onset(i * 1_000 + i64::from(n) * 97))
                .collect();
            usual.set_onsets(&code(5, n), &[], &often);
        }
        assert_eq!(found(&usual, 590_000), []);
    }

    #[test]
    fn late_joiners_belong_to_it_and_two_bursts_are_two() {
        let mut scopes = scopes();
        let first = (1..=8).map(|n| (code(5, n), 100_000));
        down(&mut scopes, first.chain([(code(5, 9), 100_200)]));
        for n in 1..=9 {
            let was = onset(if n == 9 { 100_200 } else { 100_000 });
            scopes.set_onsets(&code(5, n), &[was], &[was, onset(102_000)]);
        }
        assert_eq!(
            found(&scopes, 101_000)
                .iter()
                .map(|(_, count)| *count)
                .collect::<Vec<_>>(),
            [9, 9]
        );
    }

    #[test]
    fn the_tail_is_the_tail() {
        // P(N ≥ 3 | 0.5) = 0.014388, P(N ≥ 5 | 2) = 0.052653
        assert!((ln_poisson_tail(3, 0.5, 6_f64.ln()).exp() - 0.014_388).abs() < 2e-4);
        assert!((ln_poisson_tail(5, 2.0, 120_f64.ln()).exp() - 0.052_653).abs() < 3e-3);
    }
}
