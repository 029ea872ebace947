//! Holds what was found against what is true.

use crate::baseline::{Gatus, Icinga2, Nagios, PrometheusFor, Rfd, Turn};
use crate::office::{Fault, Office, START, Span};
use crate::play::Played;
use crate::scenes::{Scene, Truth};
use denyut_detect::detector::Sight;
use denyut_detect::office::{Pattern, PatternKind};
use denyut_detect::recorded::{Check, State};
use denyut_detect::{Cause, Incident};
use denyut_proto::{OfficeCode, UnixMillis};
use std::collections::{BTreeMap, BTreeSet};

/// An onset within so many seconds is the same.
const NEAR: i64 = 60;
const MONTH: f64 = 30.0 * 86_400.0;

/// Numbers of one scene: counts that add up, and lists of delays.
#[derive(Debug, Clone, Default)]
pub(crate) struct Score {
    pub(crate) counts: BTreeMap<&'static str, f64>,
    pub(crate) delays: Vec<f64>,
}

impl Score {
    fn add(&mut self, name: &'static str, count: impl Into<f64>) {
        *self.counts.entry(name).or_default() += count.into();
    }

    fn count(&mut self, name: &'static str, is: bool) {
        self.add(name, f64::from(u8::from(is)));
    }

    pub(crate) fn of(&self, name: &str) -> f64 {
        self.counts.get(name).copied().unwrap_or(0.0)
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        for (name, count) in &other.counts {
            *self.counts.entry(name).or_default() += count;
        }
        self.delays.extend(&other.delays);
    }
}

fn second(at: UnixMillis) -> i64 {
    at.0.div_euclid(1_000) - START
}

fn span_of(from: UnixMillis, until: Option<UnixMillis>) -> Span {
    second(from)..until.map_or(i64::MAX, second)
}

/// Whether two are of one episode: any overlap, or onsets close together.
fn matches(one: &Span, other: &Span) -> bool {
    (one.start <= other.end && other.start <= one.end) || (one.start - other.start).abs() <= NEAR
}

/// Counts found and true episodes that have a partner, per office.
fn pairing(
    score: &mut Score,
    names: [&'static str; 4],
    found: &[(usize, Span)],
    truth: &[(usize, Span)],
    may: &[(usize, Span)],
) {
    let has = |one: &(usize, Span), others: &[(usize, Span)]| {
        others
            .iter()
            .any(|other| one.0 == other.0 && matches(&one.1, &other.1))
    };
    for one in found {
        if has(one, truth) {
            score.add(names[0], 1);
        } else if !has(one, may) {
            score.add(names[1], 1);
        }
    }
    for one in truth {
        score.count(names[2], has(one, found));
        score.add(names[3], 1);
    }
}

/// Our detector.
pub(crate) fn ours(kind: &str, scene: &Scene, played: &Played) -> Score {
    let mut score = Score::default();
    let truth = &scene.truth;
    let place: BTreeMap<&OfficeCode, usize> = scene
        .offices
        .iter()
        .enumerate()
        .map(|(i, office)| (&office.code, i))
        .collect();
    let office_of = |incident: &Incident| {
        incident
            .office
            .as_ref()
            .and_then(|code| place.get(code).copied())
    };
    let real: Vec<&Incident> = played
        .incidents
        .values()
        .filter(|incident| !incident.retracted)
        .collect();
    let outages = |cared: bool| -> Vec<(usize, Span)> {
        truth
            .outages
            .iter()
            .filter(|(.., care)| *care == cared)
            .map(|(i, _, span, _)| (*i, span.clone()))
            .collect()
    };
    let (must, may) = (outages(true), outages(false));
    let found: Vec<(usize, Span)> = real
        .iter()
        .filter(|incident| !matches!(incident.facts.cause, Cause::Clone))
        .filter_map(|incident| {
            Some((
                office_of(incident)?,
                span_of(incident.facts.opened_ms, incident.facts.resolved_ms),
            ))
        })
        .collect();
    pairing(
        &mut score,
        ["outage tp", "outage fp", "outage hit", "outage truth"],
        &found,
        &must,
        &may,
    );
    let clones: Vec<(usize, Span)> = real
        .iter()
        .filter(|incident| incident.facts.cause == Cause::Clone)
        .filter_map(|incident| {
            Some((
                office_of(incident)?,
                span_of(incident.facts.opened_ms, incident.facts.resolved_ms),
            ))
        })
        .collect();
    pairing(
        &mut score,
        ["clone tp", "clone fp", "clone hit", "clone truth"],
        &clones,
        &truth.clones,
        &[],
    );

    delays(&mut score, &must, played, &office_of);
    causes(kind, &mut score, truth, &played.guesses, &real, &office_of);
    pages(&mut score, scene, played, &office_of);
    score.add(
        "incidents",
        u32::try_from(played.incidents.len()).unwrap_or(u32::MAX),
    );
    score.add(
        "retracted",
        u32::try_from(played.incidents.len() - real.len()).unwrap_or(u32::MAX),
    );
    patterns(&mut score, scene, played);
    commons(&mut score, truth, &real);
    roaming(&mut score, scene, played, &place);
    score.add("samples", played.samples as f64);
    score.add("ns", played.spent.as_nanos() as f64);
    score
}

/// From the onset to when the incident was first told of, where that was in time.
fn delays(
    score: &mut Score,
    must: &[(usize, Span)],
    played: &Played,
    office_of: &dyn Fn(&Incident) -> Option<usize>,
) {
    for (i, span) in must {
        let told = |incident: &&Incident| {
            office_of(incident) == Some(*i)
                && matches(
                    &span_of(incident.facts.opened_ms, incident.facts.resolved_ms),
                    span,
                )
        };
        let first = played
            .incidents
            .values()
            .filter(told)
            .filter_map(|incident| {
                let revisions = incident
                    .revisions
                    .iter()
                    .map(|revision| second(revision.recorded_ms));
                revisions.filter(|recorded| *recorded >= span.start).min()
            });
        if let Some(first) = first.min().filter(|first| *first <= span.end + NEAR) {
            score.delays.push((first - span.start) as f64);
        }
    }
}

/// Causes that are right for a fault.
fn right(kind: &str, fault: Fault, cause: Cause) -> bool {
    match fault {
        Fault::Lan => cause == Cause::Lan,
        Fault::Server => cause == Cause::Server,
        Fault::Central => cause == Cause::Central,
        Fault::Power => cause == Cause::Power,
        Fault::Uplink if kind == "regional" => cause == Cause::Regional,
        Fault::Uplink => cause == Cause::Uplink,
        _ => false,
    }
}

fn causes(
    kind: &str,
    score: &mut Score,
    truth: &Truth,
    guesses: &BTreeMap<u64, Cause>,
    real: &[&Incident],
    office_of: &dyn Fn(&Incident) -> Option<usize>,
) {
    for incident in real {
        let Some(i) = office_of(incident).filter(|_| incident.facts.resolved_ms.is_some()) else {
            continue;
        };
        let span = span_of(incident.facts.opened_ms, incident.facts.resolved_ms);
        let faults: Vec<Fault> = truth
            .outages
            .iter()
            .filter(|(of, _, one, _)| *of == i && matches(&span, one))
            .map(|(_, fault, ..)| *fault)
            .collect();
        // Where two faults met, either may be said.
        if faults.is_empty() {
            continue;
        }
        let is_right = |cause: Cause| faults.iter().any(|fault| right(kind, *fault, cause));
        let first = incident
            .revisions
            .first()
            .and_then(|revision| revision.cause);
        score.count("cause right at first", first.is_some_and(is_right));
        // What it probably was, while nothing was delivered yet.
        if let Some(guess) = guesses.get(&incident.number) {
            score.add("guesses", 1);
            score.count("guesses right", is_right(*guess));
        }
        score.count("cause right", is_right(incident.facts.cause));
        score.add("cause all", 1);
    }
}

fn pages(
    score: &mut Score,
    scene: &Scene,
    played: &Played,
    office_of: &dyn Fn(&Incident) -> Option<usize>,
) {
    let truth = &scene.truth;
    for (number, _) in &played.pages {
        let Some(incident) = played.incidents.get(number) else {
            continue;
        };
        let span = span_of(incident.facts.opened_ms, incident.facts.resolved_ms);
        let of_office = |cared: bool| {
            let is = |(of, _, one, care): &(usize, Fault, Span, bool)| {
                Some(*of) == office_of(incident) && matches(&span, one) && *care == cared
            };
            truth.outages.iter().any(is)
        };
        if of_office(false) && !of_office(true) {
            continue; // it may be told, and need not
        }
        let is_true = match office_of(incident) {
            Some(_) => of_office(true),
            None => truth.common.iter().any(|(_, one)| matches(&span, one)),
        };
        score.count("pages true", is_true);
        score.count("pages false", !is_true);
    }
    // What calls for one page: each outage; a bout of flapping; a shared outage.
    let within = |i: usize, span: &Span, spans: &[(usize, Span)]| {
        spans
            .iter()
            .any(|(of, bout)| *of == i && matches(span, bout))
    };
    let in_common = |i: usize, span: &Span| {
        truth
            .common
            .iter()
            .any(|(offices, one)| offices.contains(&i) && matches(span, one))
    };
    let alone = truth
        .outages
        .iter()
        .filter(|(i, _, span, care)| {
            *care && !within(*i, span, &truth.flapping) && !in_common(*i, span)
        })
        .count();
    let episodes = alone + truth.flapping.len() + truth.common.len();
    score.add("episodes", u32::try_from(episodes).unwrap_or(u32::MAX));
    score.add(
        "office months",
        scene.offices.len() as f64 * scene.seconds as f64 / MONTH,
    );
}

/// Stretches of a pattern at each office, those that touch as one.
fn stretches(scene: &Scene, played: &Played, is: impl Fn(&Pattern) -> bool) -> Vec<(usize, Span)> {
    let mut all = Vec::new();
    for (i, office) in scene.offices.iter().enumerate() {
        let Some(sight) = played.sights.get(&office.code) else {
            continue;
        };
        let mut spans: Vec<Span> = sight
            .patterns
            .iter()
            .filter(|pattern| is(pattern))
            .map(|pattern| span_of(pattern.from_ms, pattern.until_ms))
            .collect();
        spans.sort_by_key(|span| span.start);
        let mut merged: Vec<Span> = Vec::new();
        for span in spans {
            match merged.last_mut() {
                Some(last) if span.start <= last.end => last.end = last.end.max(span.end),
                _ => merged.push(span),
            }
        }
        all.extend(merged.into_iter().map(|span| (i, span)));
    }
    all
}

fn patterns(score: &mut Score, scene: &Scene, played: &Played) {
    let truth = &scene.truth;
    let flapping = stretches(scene, played, |pattern| {
        pattern.kind == PatternKind::Flapping
    });
    pairing(
        score,
        [
            "flapping tp",
            "flapping fp",
            "flapping hit",
            "flapping truth",
        ],
        &flapping,
        &truth.flapping,
        &[],
    );
    let relapses = stretches(scene, played, |pattern| {
        pattern.kind == PatternKind::Relapse
    });
    pairing(
        score,
        ["relapse tp", "relapse fp", "relapse hit", "relapse truth"],
        &relapses,
        &truth.relapses,
        &[],
    );
    let degraded = stretches(scene, played, |pattern| {
        matches!(pattern.kind, PatternKind::Lossy | PatternKind::Slow)
    });
    pairing(
        score,
        [
            "degraded tp",
            "degraded fp",
            "degraded hit",
            "degraded truth",
        ],
        &degraded,
        &truth.degraded,
        &[],
    );
}

fn commons(score: &mut Score, truth: &Truth, real: &[&Incident]) {
    let found: Vec<Span> = real
        .iter()
        .filter(|incident| incident.office.is_none())
        .map(|incident| span_of(incident.facts.opened_ms, incident.facts.resolved_ms))
        .collect();
    for (_, span) in &truth.common {
        score.add("common truth", 1);
        let count = found.iter().filter(|one| matches(one, span)).count();
        score.count("common hit", count > 0);
        score.add("common incidents", u32::try_from(count).unwrap_or(u32::MAX));
    }
    let is_false = |one: &&Span| !truth.common.iter().any(|(_, span)| matches(one, span));
    score.add(
        "common fp",
        u32::try_from(found.iter().filter(is_false).count()).unwrap_or(u32::MAX),
    );
}

fn roaming(
    score: &mut Score,
    scene: &Scene,
    played: &Played,
    place: &BTreeMap<&OfficeCode, usize>,
) {
    for group in &scene.truth.roaming {
        let named = played.roaming.iter().any(|found| {
            found
                .iter()
                .filter(|code| place.get(code).is_some_and(|i| group.contains(i)))
                .count()
                >= 2
        });
        score.add("roaming truth", 1);
        score.count("roaming hit", named);
        for (named, swaps, groups) in [
            (played.named, "swaps until named", "groups named"),
            (
                played.thing_named,
                "swaps until thing named",
                "things named",
            ),
        ] {
            let Some(named) = named else { continue };
            // A swap is an office that came up.
            let ups = scene
                .truth
                .outages
                .iter()
                .filter(|(i, _, span, _)| group.contains(i) && span.end <= named)
                .count();
            score.add(swaps, u32::try_from(ups).unwrap_or(u32::MAX));
            score.add(groups, 1);
        }
    }
    for found in &played.roaming {
        let is_true = scene.truth.roaming.iter().any(|group| {
            found
                .iter()
                .all(|code| place.get(code).is_some_and(|i| group.contains(i)))
        });
        score.count("roaming fp", !is_true);
    }
    let moved = |(code, sight): (&OfficeCode, &Sight)| -> Vec<(usize, usize)> {
        let of_kind = sight
            .patterns
            .iter()
            .filter(|pattern| pattern.kind == PatternKind::Moved);
        let pair = |pattern: &Pattern| {
            let (one, other) = (place.get(code)?, place.get(pattern.with.as_ref()?)?);
            Some((*one.min(other), *one.max(other)))
        };
        of_kind.filter_map(pair).collect()
    };
    let said: BTreeSet<(usize, usize)> = played.sights.iter().flat_map(moved).collect();
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let true_ones = said.intersection(&scene.truth.moved).count();
    score.add("moved truth", count(scene.truth.moved.len()));
    score.add("moved hit", count(true_ones));
    score.add("moved fp", count(said.len() - true_ones));
}

/// The products' rules.
pub(crate) const BASELINES: [&str; 5] = ["icinga2", "nagios", "gatus", "prometheus-for", "rfd"];

pub(crate) fn judge(name: &str, checks: &[Check]) -> Vec<Turn> {
    use crate::baseline::Initial;
    match name {
        "icinga2" => Icinga2 {
            low: 25.0,
            high: 30.0,
            initial: Initial::Ok,
            ignore: Vec::new(),
        }
        .run(checks),
        "nagios" => Nagios {
            low: 20.0,
            high: 30.0,
            max_check_attempts: 1,
            ignore: Vec::new(),
        }
        .run(checks),
        "gatus" => Gatus {
            failure_threshold: 3,
            success_threshold: 2,
        }
        .run(checks),
        "prometheus-for" => PrometheusFor {
            interval: 10,
            hold: 300,
            keep_firing_for: 0,
        }
        .run(checks),
        _ => Rfd {
            half_life: 15.0,
            withdrawal: 1000.0,
            readvertisement: 0.0,
            suppress: 2000.0,
            reuse: 750.0,
            max_suppress: 60.0,
        }
        .run(checks),
    }
}

/// One product's rule, on the same probes: each target of each office by itself, as those products do. They are given every probe at its time, also those that a
/// collector could only have learned later; an agent that is gone fails its checks.
pub(crate) fn baseline(name: &str, scene: &Scene) -> Score {
    let mut score = Score::default();
    let truth = &scene.truth;
    let is_flap_rule = matches!(name, "icinga2" | "nagios" | "rfd");
    let must: Vec<(usize, Span)> = truth
        .outages
        .iter()
        .filter(|(.., care)| *care)
        .map(|(i, _, span, _)| (*i, span.clone()))
        .collect();
    let may: Vec<(usize, Span)> = truth
        .outages
        .iter()
        .filter(|(.., care)| !*care)
        .map(|(i, _, span, _)| (*i, span.clone()))
        .collect();
    let mut alarms: Vec<(usize, Span)> = Vec::new();
    for (i, office) in scene.offices.iter().enumerate() {
        alarms.extend(alarms_of(name, office).into_iter().map(|span| (i, span)));
    }
    score.add("alarms", u32::try_from(alarms.len()).unwrap_or(u32::MAX));
    if !is_flap_rule {
        pairing(
            &mut score,
            ["outage tp", "outage fp", "outage hit", "outage truth"],
            &alarms,
            &must,
            &may,
        );
        for (i, span) in &must {
            let first = alarms
                .iter()
                .filter(|(of, one)| {
                    of == i && one.start >= span.start && one.start <= span.end + NEAR
                })
                .map(|(_, one)| one.start)
                .min();
            score
                .delays
                .extend(first.map(|first| (first - span.start) as f64));
        }
    }
    // Flapping is seen by a flap rule that is on in it, and by an alarm that holds over three of its outages; a relapse by any alarm that holds from one outage to the
    // next, and so knows of both.
    let holds = |(i, episode): &(usize, Span), alarm: &Span| {
        let in_episode = |(of, span): &&(usize, Span)| {
            of == i
                && matches(span, episode)
                && span.start >= alarm.start - NEAR
                && span.start <= alarm.end
        };
        must.iter().filter(in_episode).count()
    };
    let sees = |episode: &(usize, Span), least: usize| {
        alarms.iter().any(|(of, alarm)| {
            *of == episode.0 && matches(alarm, &episode.1) && holds(episode, alarm) >= least
        })
    };
    for episode in &truth.flapping {
        score.count(
            "flapping hit",
            sees(episode, if is_flap_rule { 0 } else { 3 }),
        );
        score.add("flapping truth", 1);
    }
    for episode in &truth.relapses {
        score.count("relapse hit", sees(episode, 2));
        score.add("relapse truth", 1);
    }
    if is_flap_rule {
        let patterns: Vec<(usize, Span)> = truth
            .flapping
            .iter()
            .chain(&truth.relapses)
            .cloned()
            .collect();
        pairing(
            &mut score,
            ["flapping tp", "flapping fp", "unused hit", "unused truth"],
            &alarms,
            &patterns,
            &[],
        );
    }
    let is_false = |(i, alarm): &&(usize, Span)| {
        !must
            .iter()
            .chain(&may)
            .any(|(of, span)| of == i && matches(alarm, span))
    };
    score.add(
        "pages false",
        u32::try_from(alarms.iter().filter(is_false).count()).unwrap_or(u32::MAX),
    );
    score.add(
        "pages true",
        u32::try_from(alarms.len() - alarms.iter().filter(is_false).count()).unwrap_or(u32::MAX),
    );
    score.add(
        "office months",
        scene.offices.len() as f64 * scene.seconds as f64 / MONTH,
    );
    score
}

/// When any target of an office is in alarm.
#[allow(clippy::cast_possible_truncation, reason = "seconds of our time")]
fn alarms_of(name: &str, office: &Office) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    for target in 0..4 {
        let checks: Vec<Check> = office
            .checks
            .iter()
            .map(|(second, answered)| Check {
                at_s: *second,
                state: if answered[target] {
                    State::Up
                } else {
                    State::Down
                },
            })
            .collect();
        let mut began = None;
        for turn in judge(name, &checks) {
            if turn.begins {
                began = Some(turn.at_s as i64);
            } else if let Some(from) = began.take() {
                spans.push(from..turn.at_s as i64);
            }
        }
        spans.extend(began.map(|from| from..i64::MAX));
    }
    spans.sort_by_key(|span| span.start);
    let mut merged: Vec<Span> = Vec::new();
    for span in spans {
        match merged.last_mut() {
            // One office, one cause: what follows at once from the same is not a second alarm.
            Some(last) if span.start <= last.end.saturating_add(NEAR) => {
                last.end = last.end.max(span.end);
            }
            _ => merged.push(span),
        }
    }
    merged
}
