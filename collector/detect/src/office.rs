//! What is true of one office: its troubles, the incidents they make, their causes and lineage. A function of what is known of its agents and
//! links, and of the time only where that says so ([`Judgement::review`]).

use crate::calendar::{Opening, When};
use crate::detector::KEPT;
use crate::flap::{Flapping, Scale, flapping};
use crate::incident::{Cause, Evidence, Facts, Relapse, Trouble, TroubleKind};
use crate::link::{Degraded, Link, Phase};
use crate::params::Params;
use crate::presence::{Runs, Why};
use denyut_proto::{AgentId, Identity, OfficeCode, Role, TargetName, UnixMillis};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::time::Duration;
use utoipa::ToSchema;

/// A machine that is switched off this long before closing went home early.
const EARLY_LEAVE: Duration = Duration::from_secs(30 * 60);
/// Two machines with one identity spoke together for at least this.
pub(crate) const CLONE_OVERLAP: Duration = Duration::from_secs(120);
/// And still do, if they did within this.
pub(crate) const CLONE_FRESH: Duration = Duration::from_secs(15 * 60);
/// A page for silence waits this long after the last word, at least.
const SILENT_HOLD_MS: u32 = 60_000;
/// Outages and onsets that are looked at of one office: the newest, and those that last.
const OUTAGES_MAX: usize = 300;
/// Troubles that are listed of one incident: the first, and the newest.
const TROUBLES_MAX: usize = 64;

/// One agent, as the office sees it.
pub struct Observer<'a> {
    /// Who.
    pub agent: &'a AgentId,
    /// When it was there.
    pub runs: &'a Runs,
    /// It is silent now: nobody knows why.
    pub silent: bool,
    /// What it looks at.
    pub links: &'a [(TargetName, Link)],
}

/// What is asked.
pub struct Question<'a> {
    /// Thresholds.
    pub params: &'a Params,
    /// Opening hours.
    pub opening: Opening<'a>,
    /// Announced work at this office.
    pub maintenance: &'a [When],
    /// Its agents.
    pub observers: Vec<Observer<'a>>,
    /// Common causes that hit it, ascending.
    pub commons: &'a [Hit],
    /// Relapses whose earlier incidents are out of sight, by when they began.
    pub lineage: &'a [(UnixMillis, Relapse)],
    /// Why other offices of the regency fell silent around a time, as far as is known: one cause each.
    pub neighbours: &'a dyn Fn(UnixMillis) -> Vec<Cause>,
    /// Event time, as far as it is known.
    pub now: UnixMillis,
}

/// A common cause that hit the office.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hit {
    /// What it makes of the office's incident.
    pub cause: Cause,
    /// When the office went down by it.
    pub onset: UnixMillis,
}

/// A time for which the office could not work as it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outage {
    /// Event time.
    pub from: UnixMillis,
    /// Event time; none while it lasts.
    pub until: Option<UnixMillis>,
    /// Whether a power cut, or something of the agent's machine only, explains it.
    pub masked: bool,
    /// Whether only the central service failed.
    pub central: bool,
}

/// The beginning of a failure at an office that had not been failing so: what common causes are seen by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Onset {
    /// Event time.
    pub at: UnixMillis,
    /// When it and what came with it was over (event time); none while it lasts.
    pub until: Option<UnixMillis>,
    /// Whether only the central service failed.
    pub central: bool,
}

/// What is true.
#[derive(Debug, Default)]
pub struct Judgement {
    /// Its incidents, ascending.
    pub incidents: Vec<Found>,
    /// Times without service, ascending and disjoint: what roaming is seen by.
    pub outages: Vec<Outage>,
    /// What common causes are seen by, ascending.
    pub onsets: Vec<Onset>,
    /// What goes beyond single incidents.
    pub patterns: Vec<Pattern>,
    /// When time alone may change the answer.
    pub review: Option<UnixMillis>,
}

/// One incident, and when somebody is to be called for it.
#[derive(Debug)]
pub struct Found {
    /// What is true of it.
    pub facts: Facts,
    /// Not before this, if it is still open then; none: never.
    pub page_from: Option<UnixMillis>,
    /// The same for what began in it long after its first trouble, and in another role: when that began, and from when on to call.
    pub later: Vec<(UnixMillis, UnixMillis)>,
    /// A pattern of short times, called for already, covers it: since when.
    pub flapping_since: Option<UnixMillis>,
}

/// What goes beyond single incidents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Pattern {
    /// Which.
    pub kind: PatternKind,
    /// On which time scale, of flapping.
    pub scale: Option<Scale>,
    /// The agent that sees it; none where it is the office's.
    #[schema(value_type = Option<String>)]
    pub agent: Option<AgentId>,
    /// The target.
    #[schema(value_type = Option<String>)]
    pub target: Option<TargetName>,
    /// Event time.
    #[schema(value_type = i64)]
    pub from_ms: UnixMillis,
    /// Event time; none while it lasts.
    #[schema(value_type = Option<i64>)]
    pub until_ms: Option<UnixMillis>,
    /// How often it went down in it, or relapsed, or swapped.
    pub count: u32,
    /// The other office of a roaming pair.
    #[schema(value_type = Option<String>)]
    pub with: Option<OfficeCode>,
    /// The pool whose members it takes turns with.
    #[serde(default)]
    pub pool: Option<String>,
    /// The thing that moves between the two, by what it shows of itself.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub identity: Option<Identity>,
}

/// Patterns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PatternKind {
    /// It goes down and comes up again and again.
    Flapping,
    /// It goes down as often as it always does, and that is often.
    Chronic,
    /// Repairs do not last.
    Relapse,
    /// It is up here when it is down there.
    Roaming,
    /// A thing that was here was seen there, or the other way round.
    Moved,
    /// It loses more than usual.
    Lossy,
    /// Its round trips take longer than usual.
    Slow,
}

impl PatternKind {
    /// Every pattern.
    pub const ALL: [Self; 7] = [
        Self::Flapping,
        Self::Chronic,
        Self::Relapse,
        Self::Roaming,
        Self::Moved,
        Self::Lossy,
        Self::Slow,
    ];

    /// The name that API and UI catalogues use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Flapping => "flapping",
            Self::Chronic => "chronic",
            Self::Relapse => "relapse",
            Self::Roaming => "roaming",
            Self::Moved => "moved",
            Self::Lossy => "lossy",
            Self::Slow => "slow",
        }
    }
}

/// A trouble with what it needs to be judged.
struct Span {
    trouble: Trouble,
    hold_ms: u32,
    /// Since when nothing is right in it: a page waits from there.
    bad_since: UnixMillis,
    /// It answers again, not yet for long enough: nobody is called.
    recovering: bool,
    why: Option<Why>,
    after_opening: bool,
    other: Option<AgentId>,
    boots: Option<[denyut_proto::BootId; 2]>,
}

/// Judges an office.
pub fn judge(question: &Question<'_>) -> Judgement {
    let mut judgement = Judgement::default();
    let mut spans = Vec::new();
    for observer in &question.observers {
        links(observer, &mut spans);
        presence(question, observer, &mut spans, &mut judgement);
    }
    spans.retain_mut(|span| is_unannounced(question, span, &mut judgement.review));
    spans.sort_by(|a, b| {
        let key = |span: &Span| {
            (
                span.trouble.since_ms,
                span.trouble.kind,
                span.trouble.agent.clone(),
                span.trouble.target.clone(),
            )
        };
        key(a).cmp(&key(b))
    });
    let counts =
        |span: &&Span| !matches!(span.trouble.kind, TroubleKind::Clone | TroubleKind::Process);
    let failures: Vec<&Span> = spans.iter().filter(counts).collect();
    judgement.outages = union(failures.iter().copied());
    keep_newest(&mut judgement.outages, |outage| outage.until.is_none());
    judgement.onsets = onsets(question.params, &failures);
    keep_newest(&mut judgement.onsets, |onset| onset.until.is_none());
    judgement.patterns = patterns(question, &mut judgement.review);
    let mut clusters: Vec<Vec<Span>> = Vec::new();
    let mut end = Some(UnixMillis(i64::MIN));
    for span in spans {
        let joins = end.is_none_or(|end| span.trouble.since_ms < end + question.params.rejoin);
        end = match (end, span.trouble.until_ms) {
            (Some(end), Some(until)) => Some(end.max(until)),
            _ => None,
        };
        match clusters.last_mut() {
            Some(cluster) if joins => cluster.push(span),
            _ => {
                end = span.trouble.until_ms;
                clusters.push(vec![span]);
            }
        }
    }
    let mut lineage: Vec<Line> = Vec::new();
    let mut before: Vec<(UnixMillis, Cause)> = Vec::new();
    for cluster in clusters {
        let found = incident(
            question,
            &cluster,
            &before,
            &mut lineage,
            &judgement.patterns,
            &mut judgement.review,
        );
        if found.facts.cause.explains() {
            before.push((found.facts.opened_ms, found.facts.cause));
        }
        if found.facts.resolved_ms.is_none() {
            for from in found
                .page_from
                .iter()
                .chain(found.later.iter().map(|(_, from)| from))
            {
                review(&mut judgement.review, *from, question.now);
            }
        }
        judgement.incidents.push(found);
    }
    judgement.patterns.extend(relapses(
        question,
        &judgement.incidents,
        &mut judgement.review,
    ));
    judgement
}

/// Notes a time at which to look again, if it is to come.
fn review(at: &mut Option<UnixMillis>, when: UnixMillis, now: UnixMillis) {
    if when > now {
        *at = Some(at.map_or(when, |at| at.min(when)));
    }
}

/// Links that were or are down.
fn links(observer: &Observer<'_>, spans: &mut Vec<Span>) {
    for (target, link) in observer.links {
        for down in &link.past.downs {
            // What nobody can pass through is no blip.
            let hard = down.failure.as_deref().is_some_and(|failure| {
                matches!(
                    failure,
                    "refused" | "network_unreachable" | "host_unreachable" | "no_gateway"
                )
            });
            spans.push(Span {
                trouble: Trouble {
                    kind: TroubleKind::Down,
                    agent: observer.agent.clone(),
                    target: Some(target.clone()),
                    role: link.role,
                    failure: down.failure.clone(),
                    since_ms: down.from,
                    until_ms: down.until,
                },
                bad_since: link.fold.failing_since.unwrap_or(down.from).max(down.from),
                hold_ms: if hard { 0 } else { down.hold_ms },
                recovering: down.until.is_none() && link.fold.phase == Phase::Recovering,
                why: None,
                after_opening: false,
                other: None,
                boots: None,
            });
        }
    }
}

/// Times for which an agent was not there, or was there twice.
fn presence(
    question: &Question<'_>,
    observer: &Observer<'_>,
    spans: &mut Vec<Span>,
    judgement: &mut Judgement,
) {
    let mut gaps: Vec<(UnixMillis, Option<UnixMillis>, Option<Why>)> = observer
        .runs
        .gaps()
        .into_iter()
        .filter(|gap| !matches!(gap.why, Why::Goodbye | Why::Missing))
        .map(|gap| (gap.from, Some(gap.until), Some(gap.why)))
        .collect();
    if let Some(last) = observer.runs.last()
        && observer.silent
        && last.goodbye.is_none()
    {
        gaps.push((last.to, None, None));
    }
    for (from, until, why) in gaps {
        let Some((since_ms, after_opening)) = began(question, from, until, &mut judgement.review)
        else {
            continue;
        };
        let is_there = |other: &&Observer<'_>| match until {
            Some(until) => was_there(other.runs, from, until),
            None => !other.silent && other.runs.last().is_some_and(|last| last.goodbye.is_none()),
        };
        let mut others = question
            .observers
            .iter()
            .filter(|other| other.agent != observer.agent);
        let other = others.find(is_there);
        // What only one of several does not survive is its own trouble, not the office's.
        let kind = match (why, other) {
            (None, None) => TroubleKind::Silent,
            (Some(Why::Power), None) => TroubleKind::Power,
            _ => TroubleKind::Process,
        };
        spans.push(Span {
            trouble: Trouble {
                kind,
                agent: observer.agent.clone(),
                target: None,
                role: None,
                failure: None,
                since_ms,
                until_ms: until,
            },
            hold_ms: SILENT_HOLD_MS,
            bad_since: since_ms,
            recovering: false,
            why,
            after_opening,
            other: other.map(|other| other.agent.clone()),
            boots: None,
        });
    }
    if let Some(found) = observer.runs.clone_of(CLONE_OVERLAP) {
        let last = observer.runs.last().map_or(found.until, |last| last.to);
        spans.push(Span {
            trouble: Trouble {
                kind: TroubleKind::Clone,
                agent: observer.agent.clone(),
                target: None,
                role: None,
                failure: None,
                since_ms: found.from,
                until_ms: (last.since(found.until) > CLONE_FRESH).then_some(found.until),
            },
            hold_ms: 0,
            bad_since: found.from,
            recovering: false,
            why: None,
            after_opening: false,
            other: None,
            boots: Some(found.boots),
        });
    }
}

/// Whether an agent was there for at least half of a time.
fn was_there(runs: &Runs, from: UnixMillis, until: UnixMillis) -> bool {
    let whole = until.0.saturating_sub(from.0);
    let there: i64 = runs
        .as_slice()
        .iter()
        .map(|run| (run.until.0.min(until.0) - run.from.0.max(from.0)).max(0))
        .sum();
    there * 2 >= whole
}

/// From when on a silence is a trouble, and whether that is the opening; none if it is a machine that was switched off. A break of a working day counts as
/// open, and the last half hour as closed.
fn began(
    question: &Question<'_>,
    from: UnixMillis,
    until: Option<UnixMillis>,
    at: &mut Option<UnixMillis>,
) -> Option<(UnixMillis, bool)> {
    let opening = &question.opening;
    if opening.is_working(from) && opening.is_working(from + EARLY_LEAVE) {
        return Some((from, false));
    }
    let open = opening.next_working(from + EARLY_LEAVE)?;
    let late = open + question.params.late_start;
    if until.unwrap_or(question.now) <= late {
        if until.is_none() {
            review(at, UnixMillis(late.0 + 1), question.now);
        }
        return None;
    }
    Some((open, true))
}

/// Takes announced work off a trouble; `false` if nothing is left.
fn is_unannounced(question: &Question<'_>, span: &mut Span, at: &mut Option<UnixMillis>) -> bool {
    let trouble = &mut span.trouble;
    let ends = |at: UnixMillis| {
        let all = question.maintenance.iter();
        let windows = all.filter_map(|when| when.holding(at, question.opening.zone));
        windows.map(|(_, until)| until).max()
    };
    while let Some(until) = ends(trouble.since_ms) {
        if trouble.until_ms.is_some_and(|end| end <= until) {
            return false;
        }
        if trouble.until_ms.is_none() && question.now < until {
            // While the work goes on nobody can tell.
            review(at, until, question.now);
            return false;
        }
        trouble.since_ms = until;
        span.bad_since = span.bad_since.max(until);
    }
    true
}

/// When a failure began that is news, ascending: of a kind that had been well for a while, and long after another began. What stands for months, or flaps
/// anyway, hides no storm.
fn onsets(params: &Params, spans: &[&Span]) -> Vec<Onset> {
    let kind = |span: &Span| {
        if is_reach(span) {
            None
        } else {
            Some(span.trouble.role)
        }
    };
    let kinds: BTreeSet<Option<Option<Role>>> = spans.iter().map(|span| kind(span)).collect();
    let mut failures: Vec<(Outage, bool)> = Vec::new(); // and whether the kind had been well
    for of in kinds {
        let same = spans.iter().copied().filter(|span| kind(span) == of);
        let mut ended: Option<UnixMillis> = None;
        for failure in union(same) {
            let well = ended.is_none_or(|ended| failure.from >= ended + params.rejoin);
            ended = failure.until;
            failures.push((failure, well));
        }
    }
    failures.sort_by_key(|(failure, _)| failure.from);
    let mut all: Vec<Onset> = Vec::new();
    for (i, (failure, well)) in failures.iter().enumerate() {
        let at = failure.from;
        let is_apart = all
            .last()
            .is_none_or(|last| at >= last.at + params.common_join);
        if *well && is_apart {
            let since = failures[i..].iter().map(|(failure, _)| failure);
            let began = since
                .clone()
                .take_while(|one| one.from < at + params.common_join);
            all.push(Onset {
                at,
                central: began.clone().all(|one| one.central),
                until: end(since),
            });
        }
    }
    all
}

/// When the first of these ended, and what began while it went on; none while it lasts.
fn end<'a>(mut failures: impl Iterator<Item = &'a Outage>) -> Option<UnixMillis> {
    let mut until = failures.next()?.until?;
    for failure in failures {
        if failure.from > until {
            break;
        }
        until = until.max(failure.until?);
    }
    Some(until)
}

/// Leaves the newest, and those that last.
fn keep_newest<T>(all: &mut Vec<T>, lasts: impl Fn(&T) -> bool) {
    let mut surplus = all.len().saturating_sub(OUTAGES_MAX);
    all.retain(|one| {
        let goes = surplus > 0 && !lasts(one);
        surplus -= usize::from(goes);
        !goes
    });
}

/// Spans, ascending by their beginning, as disjoint times.
fn union<'a>(spans: impl Iterator<Item = &'a Span>) -> Vec<Outage> {
    let mut all: Vec<Outage> = Vec::new();
    for span in spans {
        let trouble = &span.trouble;
        let central = trouble.role == Some(Role::Central);
        let masked = trouble.kind != TroubleKind::Down;
        match all.last_mut() {
            Some(last) if last.until.is_none_or(|until| trouble.since_ms <= until) => {
                last.until = match (last.until, trouble.until_ms) {
                    (Some(one), Some(other)) => Some(one.max(other)),
                    _ => None,
                };
                last.masked &= masked;
                last.central &= central;
            }
            _ => all.push(Outage {
                from: trouble.since_ms,
                until: trouble.until_ms,
                masked,
                central,
            }),
        }
    }
    all
}

fn patterns(question: &Question<'_>, at: &mut Option<UnixMillis>) -> Vec<Pattern> {
    let mut all = Vec::new();
    let (params, now) = (question.params, question.now);
    for observer in &question.observers {
        for (target, link) in observer.links {
            let of = |kind, scale, from_ms, until_ms, count| Pattern {
                kind,
                scale,
                agent: Some(observer.agent.clone()),
                target: Some(target.clone()),
                from_ms,
                until_ms,
                count,
                with: None,
                pool: None,
                identity: None,
            };
            let downs: Vec<i64> = link.past.downs.iter().map(|down| down.from.0).collect();
            for Flapping {
                scale,
                from,
                until,
                downs,
                stands_out,
            } in flapping(&downs, params.chronic, params.chronic_sigmas)
            {
                let over = until <= now.0;
                review(at, UnixMillis(until), now);
                let kind = if stands_out {
                    PatternKind::Flapping
                } else {
                    PatternKind::Chronic
                };
                all.push(of(
                    kind,
                    Some(scale),
                    UnixMillis(from),
                    over.then_some(UnixMillis(until)),
                    downs,
                ));
            }
            for worse in &link.past.worse {
                let kind = match worse.what {
                    Degraded::Lossy => PatternKind::Lossy,
                    Degraded::Slow => PatternKind::Slow,
                };
                all.push(of(kind, None, worse.from, worse.until, 1));
            }
        }
    }
    all
}

/// An incident of a line of relapses.
struct Line {
    from: UnixMillis,
    until: Option<UnixMillis>,
    /// The roles that failed; none of a target that nobody gave one.
    roles: Vec<Option<Role>>,
    masked: bool,
    relapse: Option<Relapse>,
}

/// One cluster of troubles as an incident.
fn incident(
    question: &Question<'_>,
    cluster: &[Span],
    before: &[(UnixMillis, Cause)],
    lineage: &mut Vec<Line>,
    patterns: &[Pattern],
    at: &mut Option<UnixMillis>,
) -> Found {
    let troubles = || cluster.iter().map(|span| &span.trouble);
    let opened_ms = troubles()
        .map(|trouble| trouble.since_ms)
        .min()
        .unwrap_or_default();
    let open = troubles().any(|trouble| trouble.until_ms.is_none());
    let resolved_ms = troubles()
        .filter_map(|trouble| trouble.until_ms)
        .max()
        .filter(|_| !open);
    let (mut cause, mut confidence, mut evidence) = verdict(question, cluster);
    let end = resolved_ms.unwrap_or(UnixMillis(i64::MAX));
    // What began it; a later one came beside what stood already, and is told by the common cause itself.
    let began = opened_ms..opened_ms + question.params.rejoin;
    let hit = question
        .commons
        .iter()
        .find(|hit| began.contains(&hit.onset) && hit.onset <= end);
    if let Some(hit) = hit {
        evidence.insert(0, Evidence::Shared);
        // A power cut of many offices is a power cut; what is known better than "silent" stays known.
        if cause != Cause::Power {
            (cause, confidence) = (hit.cause, 90);
        }
    }
    let guesses_end = opened_ms + LIKELY_FOR;
    if cause == Cause::Unreachable && open && question.now < guesses_end {
        evidence.extend(likely(question, before, opened_ms));
        review(at, guesses_end, question.now);
    }
    let of_target = troubles().filter(|trouble| trouble.target.is_some());
    let mut roles: Vec<Option<Role>> = of_target.map(|trouble| trouble.role).collect();
    roles.sort_unstable();
    roles.dedup();
    let mut line = Line {
        from: opened_ms,
        until: resolved_ms,
        roles,
        masked: cause.is_masked(),
        relapse: None,
    };
    let known = question
        .lineage
        .iter()
        .find(|(opened, _)| *opened == opened_ms);
    line.relapse =
        relapse_of(question.params, &line, lineage).or(known.map(|(_, relapse)| *relapse));
    let relapse = line.relapse;
    lineage.push(line);

    let probation_until_ms =
        resolved_ms.and_then(|at| question.opening.after(at, question.params.probation));
    let mut listed: Vec<Trouble> = troubles().cloned().collect();
    let troubles_total = u32::try_from(listed.len()).unwrap_or(u32::MAX);
    if listed.len() > TROUBLES_MAX {
        listed.drain(1..=listed.len() - TROUBLES_MAX);
    }
    let provisional = open
        && troubles()
            .any(|trouble| trouble.kind == TroubleKind::Silent && trouble.until_ms.is_none());
    let pages = cause.pages() && hit.is_none();
    let (page_from, later) = if pages {
        dues(question, cluster, opened_ms)
    } else {
        (None, Vec::new())
    };
    let is_short = |pattern: &&Pattern| {
        (pattern.kind == PatternKind::Chronic
            || pattern.scale.is_some_and(|scale| scale <= Scale::Hours))
            && matches!(pattern.kind, PatternKind::Flapping | PatternKind::Chronic)
            && pattern.from_ms <= opened_ms
            && pattern.until_ms.is_none_or(|until| until >= opened_ms)
            && troubles().any(|trouble| {
                Some(&trouble.agent) == pattern.agent.as_ref() && trouble.target == pattern.target
            })
    };
    let flapping_since = patterns
        .iter()
        .filter(is_short)
        .map(|pattern| pattern.from_ms)
        .min();
    Found {
        facts: Facts {
            opened_ms,
            resolved_ms,
            probation_until_ms,
            cause,
            confidence,
            provisional,
            evidence,
            troubles: listed,
            troubles_total,
            relapse,
            scope: None,
        },
        page_from,
        later,
        flapping_since,
    }
}

/// When to call for a trouble that goes on.
fn due(question: &Question<'_>, span: &Span) -> Option<UnixMillis> {
    let hold = Duration::from_millis(span.hold_ms.into());
    let due = span.bad_since + hold + question.params.common_wait;
    question.opening.next_open(due)
}

/// Whether an office is out of reach by it: what is silent now is often known as an uplink that failed later.
fn is_reach(span: &Span) -> bool {
    matches!(span.trouble.kind, TroubleKind::Silent | TroubleKind::Power)
        || matches!(span.trouble.role, Some(Role::Uplink | Role::Gateway))
}

/// When to call first, and again: see [`Found`]. What ended, or answers again, is no reason to.
fn dues(
    question: &Question<'_>,
    cluster: &[Span],
    opened_ms: UnixMillis,
) -> (Option<UnixMillis>, Vec<(UnixMillis, UnixMillis)>) {
    let open = || {
        cluster
            .iter()
            .filter(|span| span.trouble.until_ms.is_none() && !span.recovering)
    };
    let first = open().filter_map(|span| due(question, span)).min();
    let is_new = |span: &&Span| {
        let since = span.trouble.since_ms;
        let before = |other: &Span| {
            let same = (other.trouble.role, other.trouble.kind)
                == (span.trouble.role, span.trouble.kind)
                || (is_reach(other) && is_reach(span));
            same && other.trouble.since_ms < since
        };
        since >= opened_ms + question.params.rejoin && !cluster.iter().any(before)
    };
    let later = open()
        .filter(is_new)
        .filter_map(|span| Some((span.trouble.since_ms, due(question, span)?)))
        .collect();
    (first, later)
}

/// The cause by the roles that failed, and by what the agents say of their own absence.
fn verdict(question: &Question<'_>, cluster: &[Span]) -> (Cause, u8, Vec<Evidence>) {
    // Time is measured up to the last thing that is known to have happened: waiting changes no verdict.
    let latest = cluster
        .iter()
        .flat_map(|span| [Some(span.trouble.since_ms), span.trouble.until_ms])
        .flatten()
        .max()
        .unwrap_or_default();
    let weight = |is: &dyn Fn(&Span) -> bool| -> (bool, i64) {
        let of: Vec<&Span> = cluster.iter().filter(|span| is(span)).collect();
        let open = of.iter().any(|span| span.trouble.until_ms.is_none());
        let length =
            |span: &&Span| span.trouble.until_ms.unwrap_or(latest).0 - span.trouble.since_ms.0;
        (
            open,
            of.iter()
                .map(length)
                .sum::<i64>()
                .max(i64::from(!of.is_empty())),
        )
    };
    let of_role = |role| weight(&|span: &Span| span.trouble.role == Some(role));
    let of_kind = |kind| weight(&|span: &Span| span.trouble.kind == kind);
    let weights: Vec<(Role, (bool, i64))> = Role::ALL
        .iter()
        .map(|role| (*role, of_role(*role)))
        .collect();
    let silent = of_kind(TroubleKind::Silent);
    let most = weights
        .iter()
        .map(|(_, weight)| weight.1)
        .chain([
            of_kind(TroubleKind::Power).1,
            of_kind(TroubleKind::Process).1,
            silent.1,
        ])
        .max()
        .unwrap_or(0);
    let any_open = cluster.iter().any(|span| span.trouble.until_ms.is_none());
    // What fails still, or failed for most of the time.
    let counts = |(open, time): (bool, i64)| open || (time > 0 && time * 2 >= most);
    let fails = |role: Role| {
        weights
            .iter()
            .any(|(of, weight)| *of == role && counts(*weight))
    };
    let any_role = Role::ALL.iter().any(|role| fails(*role));
    let unknown_role =
        weight(&|span: &Span| span.trouble.target.is_some() && span.trouble.role.is_none());

    let mut evidence = Vec::new();
    for span in cluster {
        gather(span, &mut evidence);
    }
    let fine = fine_roles(question, cluster);
    let sure = |all: &[Role]| all.iter().all(|role| fine.contains(role));
    let silent_now = silent.0 || (counts(silent) && !any_open);
    let others = Others {
        silent: silent_now,
        power: counts(of_kind(TroubleKind::Power)) && !(any_role && any_open),
        process: counts(of_kind(TroubleKind::Process)),
        clone: of_kind(TroubleKind::Clone).1 > 0 && !counts(unknown_role),
    };
    let (cause, confidence, tells) = cause_of(&others, any_role, &fails, &sure);
    evidence.extend(
        tells
            .iter()
            .filter(|role| fine.contains(role))
            .map(|role| Evidence::Fine { role: *role }),
    );
    (cause, confidence, evidence)
}

/// What speaks for causes that are no target's.
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
struct Others {
    silent: bool,
    power: bool,
    process: bool,
    clone: bool,
}

/// The cause, how sure it is, and the roles whose being fine speaks for it.
fn cause_of(
    others: &Others,
    any_role: bool,
    fails: &dyn Fn(Role) -> bool,
    sure: &dyn Fn(&[Role]) -> bool,
) -> (Cause, u8, &'static [Role]) {
    if others.silent && !any_role {
        (Cause::Unreachable, 30, &[])
    } else if others.power {
        (Cause::Power, 90, &[])
    } else if others.process && !any_role {
        (Cause::Agent, 90, &[])
    } else if fails(Role::Gateway) {
        (Cause::Lan, 90, &[])
    } else if fails(Role::Server) && fails(Role::Uplink) {
        (
            Cause::Several,
            if sure(&[Role::Gateway]) { 80 } else { 50 },
            &[Role::Gateway],
        )
    } else if fails(Role::Server) {
        let sure = sure(&[Role::Gateway]) || sure(&[Role::Uplink]);
        (
            Cause::Server,
            if sure { 95 } else { 70 },
            &[Role::Gateway, Role::Uplink],
        )
    } else if fails(Role::Uplink) {
        let sure = sure(&[Role::Gateway]) || sure(&[Role::Server]);
        (
            Cause::Uplink,
            if sure { 95 } else { 70 },
            &[Role::Gateway, Role::Server],
        )
    } else if fails(Role::Central) {
        (
            Cause::Central,
            if sure(&[Role::Uplink]) { 90 } else { 60 },
            &[Role::Uplink, Role::Dns],
        )
    } else if fails(Role::Dns) {
        (
            Cause::Dns,
            if sure(&[Role::Uplink]) { 90 } else { 60 },
            &[Role::Uplink],
        )
    } else if fails(Role::Collector) {
        (
            Cause::Collector,
            if sure(&[Role::Uplink]) { 90 } else { 60 },
            &[Role::Uplink],
        )
    } else if others.clone {
        (Cause::Clone, 95, &[])
    } else {
        (Cause::Unknown, 50, &[])
    }
}

/// The same time of the day, and the same time next door, are so near.
const LIKELY_HOURS: Duration = Duration::from_secs(2 * 3_600);
pub(crate) const LIKELY_NEIGHBOURS: Duration = Duration::from_secs(600);
/// A guess is made from what was within this before a silence, for so long. Together they are less than what is held, so that no guess changes for what is let
/// go meanwhile.
const LIKELY_FROM: Duration = Duration::from_secs(28 * 86_400);
const LIKELY_FOR: Duration = Duration::from_secs(7 * 86_400);
const _: () = assert!(LIKELY_FROM.as_secs() + LIKELY_FOR.as_secs() < KEPT.as_secs());
/// What a neighbour has at the same time tells as much as this many times before.
const NEIGHBOUR_VOTES: u32 = 3;
/// Votes below which nothing is said.
const LIKELY_VOTES: u32 = 3;

/// What a silence probably is, by what silences at this hour were before and by what its neighbours have now: the cause with the most
/// votes, if more than half say so. Its probability is by Laplace's rule of succession, for as many causes as explain a silence.
fn likely(
    question: &Question<'_>,
    before: &[(UnixMillis, Cause)],
    since: UnixMillis,
) -> Option<Evidence> {
    const DAY_MS: i64 = 86_400_000;
    const CAUSES: [Cause; 4] = [Cause::Power, Cause::Uplink, Cause::Lan, Cause::Agent];
    let is_near = |at: &UnixMillis| {
        let apart = (since.0 - at.0).rem_euclid(DAY_MS);
        u128::from(apart.min(DAY_MS - apart).unsigned_abs()) <= LIKELY_HOURS.as_millis()
            && since.since(*at) <= LIKELY_FROM
    };
    let neighbours = (question.neighbours)(since);
    let count = |all: &mut dyn Iterator<Item = Cause>, of: Cause| {
        u32::try_from(all.filter(|cause| *cause == of).count()).unwrap_or(u32::MAX)
    };
    let votes = CAUSES.map(|cause| {
        let near = before.iter().filter(|(at, _)| is_near(at));
        let before = count(&mut near.map(|(_, cause)| *cause), cause);
        let neighbours = count(&mut neighbours.iter().copied(), cause);
        (
            before + NEIGHBOUR_VOTES * neighbours,
            cause,
            before,
            neighbours,
        )
    });
    let all: u32 = votes.iter().map(|(votes, ..)| votes).sum();
    let (most, cause, before, neighbours) = votes.into_iter().max_by_key(|(votes, ..)| *votes)?;
    let percent = (most + 1) * 100 / (all + 4);
    (all >= LIKELY_VOTES && percent > 50).then_some(Evidence::Likely {
        cause,
        percent: u8::try_from(percent).unwrap_or(100),
        before,
        neighbours,
    })
}

/// Evidence that is listed of one incident.
const EVIDENCE_MAX: usize = 12;

fn gather(span: &Span, evidence: &mut Vec<Evidence>) {
    let trouble = &span.trouble;
    let agent = trouble.agent.clone();
    let one = match (trouble.kind, &trouble.target, span.why, span.boots) {
        (TroubleKind::Down, Some(target), ..) => Evidence::Failed {
            agent,
            target: target.clone(),
            role: trouble.role,
            failure: trouble.failure.clone(),
        },
        (TroubleKind::Clone, _, _, Some(boots)) => Evidence::Clone {
            agent,
            boots: boots.to_vec(),
        },
        (_, _, Some(why), _) => Evidence::Gap { agent, why },
        _ => Evidence::NothingDelivered { agent },
    };
    let known = evidence.iter().any(|known| match (known, &one) {
        (
            Evidence::Failed { agent, target, .. },
            Evidence::Failed {
                agent: a,
                target: t,
                ..
            },
        ) => (agent, target) == (a, t),
        (known, one) => known == one,
    });
    let mut push = |one| {
        if evidence.len() < EVIDENCE_MAX {
            evidence.push(one);
        }
    };
    if !known {
        push(one);
        if let Some(agent) = &span.other {
            push(Evidence::OtherAgent {
                agent: agent.clone(),
            });
        }
        if span.after_opening {
            push(Evidence::AfterOpening);
        }
    }
}

/// Roles that were watched and had no trouble.
fn fine_roles(question: &Question<'_>, cluster: &[Span]) -> Vec<Role> {
    let from = cluster
        .first()
        .map_or(UnixMillis(0), |span| span.trouble.since_ms);
    let watched = question
        .observers
        .iter()
        .filter(|observer| observer.runs.covers(from))
        .flat_map(|observer| observer.links)
        .filter(|(_, link)| !link.removed)
        .filter_map(|(_, link)| link.role);
    let mut fine: Vec<Role> = watched
        .filter(|role| !cluster.iter().any(|span| span.trouble.role == Some(*role)))
        .collect();
    fine.sort_unstable();
    fine.dedup();
    fine
}

/// What an incident is a relapse of: the last before it that nothing else explains and that failed in the same role.
fn relapse_of(params: &Params, this: &Line, lineage: &[Line]) -> Option<Relapse> {
    if this.masked {
        return None;
    }
    let shares =
        |line: &&Line| !line.masked && line.roles.iter().any(|role| this.roles.contains(role));
    let before = lineage.iter().rev().find(shares)?;
    let held = this.from.since(before.until?);
    if held > params.relapse_within {
        return None;
    }
    let (count, since_ms) = before.relapse.map_or((0, before.from), |relapse| {
        (relapse.count, relapse.since_ms)
    });
    let short = |held: Duration| held <= params.relapse_held_most;
    let episode = short(held)
        && before.relapse.is_some_and(|relapse| {
            short(Duration::from_millis(relapse.held_ms))
                && this.from.since(before.from) <= params.relapse_episode
        });
    Some(Relapse {
        count: count + 1,
        since_ms,
        of_ms: before.from,
        held_ms: u64::try_from(held.as_millis()).unwrap_or(u64::MAX),
        episode,
    })
}

/// Incidents that are episodes of relapse, as patterns: from the first incident of each to the end of its last.
fn relapses(
    question: &Question<'_>,
    incidents: &[Found],
    at: &mut Option<UnixMillis>,
) -> Vec<Pattern> {
    let lasts = question.params.relapse_held_most;
    let mut all: Vec<Pattern> = Vec::new();
    for found in incidents {
        let facts = &found.facts;
        let Some(relapse) = facts.relapse.filter(|relapse| relapse.episode) else {
            continue;
        };
        // It lasts until it can no longer go on.
        let over = facts
            .resolved_ms
            .filter(|end| question.now.since(*end) > lasts);
        if let Some(end) = facts.resolved_ms {
            review(at, end + lasts + Duration::from_millis(1), question.now);
        }
        match all.last_mut() {
            Some(last) if last.until_ms.is_none_or(|until| until >= relapse.of_ms) => {
                last.until_ms = over;
                last.count += 1;
            }
            _ => {
                // Two before this one made it.
                let first = incidents
                    .iter()
                    .find(|one| one.facts.opened_ms == relapse.of_ms);
                let first = first
                    .and_then(|one| one.facts.relapse)
                    .map_or(relapse.since_ms, |relapse| relapse.of_ms);
                all.push(Pattern {
                    kind: PatternKind::Relapse,
                    scale: None,
                    agent: None,
                    target: None,
                    from_ms: first,
                    until_ms: over,
                    count: 2,
                    with: None,
                    pool: None,
                    identity: None,
                });
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calendar::{Holidays, Hours, Zone};

    #[test]
    fn a_silence_is_probably_what_it_was_at_this_hour_or_what_neighbours_have() {
        let (params, hours, holidays) = (Params::default(), Hours::default(), Holidays::default());
        let hour = |n: i64| UnixMillis(n * 3_600_000);
        let guess = |before: &[(i64, Cause)], next_door: &[Cause]| {
            let question = Question {
                params: &params,
                opening: Opening {
                    zone: Zone::Wib,
                    hours: &hours,
                    holidays: &holidays,
                },
                maintenance: &[],
                observers: Vec::new(),
                commons: &[],
                lineage: &[],
                neighbours: &|_| next_door.to_vec(),
                now: hour(240),
            };
            let before: Vec<_> = before.iter().map(|(at, of)| (hour(*at), *of)).collect();
            match likely(&question, &before, hour(240))? {
                Evidence::Likely { cause, percent, .. } => Some((cause, percent)),
                _ => None,
            }
        };
        let (power, uplink) = (Cause::Power, Cause::Uplink);
        // Four times around this hour; what was at other hours says nothing.
        let cuts = [
            (24, power),
            (49, power),
            (71, power),
            (120, power),
            (132, uplink),
            (156, uplink),
        ];
        assert_eq!(guess(&cuts, &[]), Some((power, 62)));
        assert_eq!(guess(&cuts[..2], &[]), None, "twice is too few");
        let earlier = |(at, of): &(i64, Cause)| (at - 26 * 24, *of);
        let old: Vec<_> = cuts.iter().map(earlier).collect();
        assert_eq!(guess(&old, &[]), None, "most of it is too long ago");
        assert_eq!(guess(&cuts, &[uplink, uplink]), None, "nobody can tell");
        assert_eq!(guess(&[], &[power]), Some((power, 57)));
        assert_eq!(guess(&cuts[..1], &[uplink, uplink]), Some((uplink, 63)));
    }
}
