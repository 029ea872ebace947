//! Incidents: which there are, what became of one, who was told, and who cares for it.

use super::overview::line;
use super::reader::{Live, Reader, Said, Tab, choices};
use super::words::{Exact, Words, office_name, zone_of};
use crate::access::Scope;
use crate::alert::{About, Silence, Wish};
use crate::api::{self, Problem, Shared};
use crate::case::{Deed, What};
use crate::query::{IncidentView, ShownStatus, Wanted};
use anyhow::Context;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use denyut_detect::Cause;
use denyut_detect::calendar::Zone;
use denyut_detect::incident::RevisionKind;
use denyut_proto::{Invalid, OfficeCode, UnixMillis};
use maud::{Markup, html};
use std::sync::Arc;

/// Incidents of a page.
const PAGE: usize = 50;
/// How long an acknowledgement or a silence may hold by a form; more by the API.
const HOLDS: [(&str, &str, i64); 5] = [
    ("1h", "unit.hour", 1),
    ("4h", "unit.hour", 4),
    ("24h", "unit.hour", 24),
    ("3days", "unit.day", 3),
    ("7days", "unit.day", 7),
];
/// What is learned so much later than it happened is told with when it was, in ms.
const LATE_MS: i64 = 120_000;

/// A choice of a form by its code.
fn choice<T: Copy>(
    asked: Option<&String>,
    field: &str,
    all: impl Iterator<Item = T>,
    code: impl Fn(T) -> &'static str,
) -> Result<Option<T>, Problem> {
    let Some(text) = asked else { return Ok(None) };
    let mut all = all;
    let found = all.find(|one| code(*one) == text);
    found.map(Some).ok_or_else(|| {
        Invalid::new(
            field,
            text.escape_debug(),
            "not one of the choices",
            "choose one of the form",
        )
        .into()
    })
}

pub(super) async fn list(
    State(shared): State<Arc<Shared>>,
    reader: Reader,
) -> Result<Response, Problem> {
    let asked = reader.asked();
    let all = asked.get("which").is_some_and(|which| which == "all");
    let cause = choice(
        asked.get("cause"),
        "cause",
        Cause::ALL.into_iter(),
        Cause::as_str,
    )?;
    let office = asked
        .get("office")
        .map(|text| text.parse::<OfficeCode>())
        .transpose()?;
    let after = asked
        .get("after")
        .map(|text| api::number("after", text))
        .transpose()?;
    let wanted = Wanted {
        sees: reader.regions(asked.get("region"))?,
        open: !all,
        cause,
        office,
        ..Wanted::default()
    };
    let work = move || {
        let mut found = shared
            .query
            .incidents(&wanted, after, PAGE + 1, reader.now)?;
        let next = (found.len() > PAGE).then(|| found[PAGE - 1].incident.number);
        found.truncate(PAGE);
        let silences = silences(&shared, &reader)?;
        let body = list_body(&reader, &shared, &wanted, &found, next, &silences);
        let title = reader.words.say("tab.incidents");
        anyhow::Ok(reader.page(Tab::Incidents, &title, Live::All, &body))
    };
    Ok(tokio::task::spawn_blocking(work)
        .await
        .context("a page panicked")??)
}

/// The silences that hold and touch the reader's regions. Blocks.
fn silences(shared: &Shared, reader: &Reader) -> anyhow::Result<Vec<Silence>> {
    let sees = &reader.caller.regions;
    let mut all = shared.silences.list()?;
    all.retain(|one| one.holds(reader.now) && one.regions.iter().any(|region| sees.touch(region)));
    Ok(all)
}

fn list_body(
    reader: &Reader,
    shared: &Shared,
    wanted: &Wanted,
    found: &[IncidentView],
    next: Option<u64>,
    silences: &[Silence],
) -> Markup {
    let words = reader.words;
    let asked = reader.asked();
    let which = [
        ("", "incidents.open", wanted.open),
        ("all", "incidents.all", !wanted.open),
    ];
    let which = which.map(|(value, key, is_chosen)| {
        (
            words.say(key),
            reader.with(&[("which", value), ("after", "")]),
            is_chosen,
        )
    });
    html! {
        h1 { (words.say("tab.incidents")) }
        div class="above" {
            (choices(which.into_iter(), &words.say("incidents.which")))
            form method="get" class="filter" {
                @if !wanted.open { input type="hidden" name="which" value="all"; }
                label { span { (words.say("cause")) } select name="cause" {
                    option value="" { (words.say("any")) }
                    @for cause in Cause::ALL { option value=(cause.as_str()) selected[wanted.cause == Some(cause)] { (words.cause(cause)) } }
                } }
                label { span { (words.say("region_code")) } input name="region" value=(asked.get("region").map_or("", |text| text)) placeholder="11.01" size="8" inputmode="decimal"; }
                @if let Some(office) = &wanted.office { label { span { (words.say("office")) } input name="office" value=(office) size="10"; } }
                button { (words.say("find")) }
            }
        }
        section id="list" data-live aria-label=(words.say("tab.incidents")) {
            @if found.is_empty() { p class="calm" { (words.say(if wanted.open { "incidents.none" } else { "incidents.never" })) } }
            ul class="incidents" { @for view in found { li { (line(reader, shared, view)) } } }
        }
        @if let Some(next) = next { p { a rel="next" href=(reader.with(&[("after", &next.to_string())])) { (words.say("incidents.older")) } } }
        (silence_section(reader, silences))
    }
}

/// A silence, and how to end it.
fn silence_line(reader: &Reader, one: &Silence) -> Markup {
    let words = reader.words;
    let first = one.regions.first().map_or("", |region| region);
    let until = words.time(
        one.until_ms,
        reader.now,
        Zone::of_region(first),
        Exact::Minute,
    );
    let causes = one.causes.iter().map(|cause| words.cause(*cause));
    let causes = causes.collect::<Vec<_>>().join(", ");
    html! {
        div class="silence" {
            p { strong { (one.regions.join(", ")) } @if !causes.is_empty() { " · " (causes) } " · " (words.fill("silence.until", &[("time", &until), ("by", &one.by)])) ": " (one.why) }
            @if reader.caller.may(Scope::Operate) {
                form method="post" action={ "/insiden/senyap/" (one.number) "/akhiri" } { button class="small" { (words.say("silence.end")) } }
            }
        }
    }
}

fn silence_section(reader: &Reader, silences: &[Silence]) -> Markup {
    let words = reader.words;
    html! {
        section aria-labelledby="silences-title" {
            h2 id="silences-title" { (words.say("silences")) }
            @if silences.is_empty() { p class="soft" { (words.say("silences.none")) } }
            @for one in silences { (silence_line(reader, one)) }
            @if reader.caller.may(Scope::Operate) {
                details {
                    summary { (words.say("silence.add")) }
                    form method="post" action="/insiden/senyap" class="fields" {
                        label { span { (words.say("region_code")) } input name="region" required placeholder="11.01.01" inputmode="decimal"; }
                        label { span { (words.say("cause")) } select name="cause" {
                            option value="" { (words.say("any")) }
                            @for cause in Cause::ALL { option value=(cause.as_str()) { (words.cause(cause)) } }
                        } }
                        label { span { (words.say("case.lasts")) } (holds(words)) }
                        label { span { (words.say("why")) } input name="why" required maxlength="2000" autocomplete="off"; }
                        button { (words.say("silence.do")) }
                    }
                }
            }
        }
    }
}

fn holds(words: Words) -> Markup {
    html! {
        select name="for" {
            @for (value, key, count) in HOLDS { option value=(value) selected[value == "4h"] { (words.fill(key, &[("n", &count.to_string())])) } }
        }
    }
}

pub(super) async fn show(
    State(shared): State<Arc<Shared>>,
    Path(number): Path<String>,
    reader: Reader,
) -> Result<Response, Problem> {
    let number = api::number("number", &number)?;
    let work = move || {
        let Some(view) = shared
            .query
            .incident(number, &reader.caller.regions, reader.now)?
        else {
            let text = format!("there is no incident {number}");
            return anyhow::Ok(Err(Problem::not_found(text)));
        };
        let body = one(&reader, &shared, &view, None)?;
        let title = title(&reader, &shared, &view);
        Ok(Ok(reader.page(Tab::Incidents, &title, Live::All, &body)))
    };
    tokio::task::spawn_blocking(work)
        .await
        .context("a page panicked")??
}

fn title(reader: &Reader, shared: &Shared, view: &IncidentView) -> String {
    let subject = reader.words.subject(&view.incident, &shared.query.registry);
    format!("#{} {subject}", view.incident.number)
}

/// One incident, with what was wrong of the form that was sent. Blocks.
fn one(
    reader: &Reader,
    shared: &Shared,
    view: &IncidentView,
    problem: Option<&str>,
) -> anyhow::Result<Markup> {
    let words = reader.words;
    let incident = &view.incident;
    let facts = &incident.facts;
    let zone = zone_of(incident);
    let time = |at| words.time(at, reader.now, zone, Exact::Minute);
    let registry = &shared.query.registry;
    let members = members(reader, shared, view)?;
    let about = About::of(incident, registry, Vec::new());
    let mut silences = silences(shared, reader)?;
    silences.retain(|one| incident.is_open() && one.covers(&about, reader.now));
    let status = match view.status {
        ShownStatus::Open => "open",
        ShownStatus::Acknowledged => "acknowledged",
        ShownStatus::Probation => "probation",
        ShownStatus::Closed => "closed",
        ShownStatus::Retracted => "retracted",
    };
    Ok(html! {
        p class="trail" {
            a href="/insiden" { (words.say("tab.incidents")) }
            @if let Some(office) = &incident.office { " › " a href={ "/kantor/" (office) } { (office_name(office, registry)) } }
        }
        h1 { (title(reader, shared, view)) }
        div class="columns" {
            div {
                section id="facts" data-live class="verdict" aria-label=(words.say("verdict")) {
                    p class="cause" {
                        strong { (words.cause(facts.cause)) } " "
                        span class={ "badge " (status) } { (words.of("status", status)) }
                        @if let Some(relapse) = &facts.relapse { " " span class="badge relapse" { (words.fill("incident.relapse", &[("count", &relapse.count.to_string())])) } }
                    }
                    @match facts.resolved_ms {
                        None => { p { (words.since(facts.opened_ms, reader.now, zone)) } }
                        Some(end) => {
                            p {
                                (words.fill("incident.over", &[("from", &time(facts.opened_ms)), ("to", &time(end)), ("length", &words.ms(end.0 - facts.opened_ms.0))]))
                                @if view.status == ShownStatus::Probation { @if let Some(until) = facts.probation_until_ms { ", " (words.fill("incident.probation", &[("time", &time(until))])) } }
                            }
                        }
                    }
                    @if !facts.evidence.is_empty() {
                        ul class="evidence" { @for one in words.evidence_of(incident) { li { (one) } } }
                    }
                    @if facts.provisional { p { (words.say("incident.provisional")) } }
                    @else if facts.confidence > 0 { p class="soft" { (words.fill("incident.confidence", &[("percent", &facts.confidence.to_string())])) } }
                    @if let Some(relapse) = &facts.relapse {
                        p { (words.fill("incident.lineage", &[("count", &relapse.count.to_string()), ("since", &time(relapse.since_ms)), ("held", &words.ms(i64::try_from(relapse.held_ms).unwrap_or(i64::MAX)))])) }
                        @if relapse.episode { p { (words.say("incident.episode")) } }
                    }
                    @if let Some(before) = incident.relapse_of { p { a href={ "/insiden/" (before) } { (words.fill("incident.before", &[("number", &before.to_string())])) } } }
                    @if let Some(parent) = incident.parent { p { a href={ "/insiden/" (parent) } { (words.fill("incident.part", &[("number", &parent.to_string())])) } } }
                    @if let Some(paged) = incident.paged_ms { p { (words.fill("incident.paged", &[("time", &time(paged))])) } }
                    @if let Some(who) = &view.assignee { p { (words.fill("case.assignee", &[("name", who)])) } }
                    @if let Some(known) = &view.acknowledged { p { (words.fill("verdict.acknowledged", &[("by", &known.by), ("time", &time(known.until_ms))])) } }
                    @if let Some(scope) = &facts.scope {
                        @let names = scope.offices.iter().map(|office| office_name(office, registry)).collect::<Vec<_>>().join(", ");
                        p { (words.fill("incident.offices", &[("names", &names)])) }
                    }
                }
                @if !silences.is_empty() {
                    section aria-labelledby="silenced-title" { h2 id="silenced-title" { (words.say("silence.here")) } @for one in &silences { (silence_line(reader, one)) } }
                }
                (care(reader, view, problem))
            }
            section aria-labelledby="story-title" id="story" data-live {
                h2 id="story-title" { (words.say("incident.story")) }
                ol class="story" { @for line in story(reader, view) { (line) } }
            }
        }
        (members)
    })
}

/// What happened, was told and was done, in the order of time.
fn story(reader: &Reader, view: &IncidentView) -> Vec<Markup> {
    let words = reader.words;
    let incident = &view.incident;
    let zone = zone_of(incident);
    let time = |at| words.time(at, reader.now, zone, Exact::Second);
    let mut all: Vec<(UnixMillis, &str, String)> = Vec::new();
    for revision in &incident.revisions {
        let mut text = words.revision(incident, revision);
        // What is thought of it changes when something is learned, whenever that happened.
        if revision.kind == RevisionKind::Reclassify {
            all.push((revision.recorded_ms, "seen", text));
            continue;
        }
        if revision.recorded_ms.0 - revision.at_ms.0 > LATE_MS {
            let late = words.fill("revision.late", &[("time", &time(revision.recorded_ms))]);
            text = format!("{text} — {late}");
        }
        all.push((revision.at_ms, "seen", text));
    }
    for step in &view.steps {
        let (key, to, until, why) = match &step.what {
            What::Acknowledge { why, until_ms } => {
                ("acknowledge", "", Some(*until_ms), why.as_deref())
            }
            What::Withdraw { why } => ("withdraw", "", None, why.as_deref()),
            What::Note { text } => ("note", text.as_str(), None, None),
            What::Assign { to: Some(to) } => ("assign", to.as_str(), None, None),
            What::Assign { to: None } => ("assign_nobody", "", None, None),
        };
        let until = until.map_or_else(String::new, |at| {
            words.time(at, reader.now, zone, Exact::Minute)
        });
        let gaps = [
            ("by", step.by.as_str()),
            ("to", to),
            ("text", to),
            ("time", &until),
        ];
        let mut text = words.fill(&format!("step.{key}"), &gaps);
        if let Some(why) = why {
            text = format!("{text}: {why}");
        }
        all.push((step.at_ms, "done", text));
    }
    for told in &view.told {
        let text = words.fill(
            &format!("told.{}", told.state),
            &[("receiver", &told.receiver)],
        );
        all.push((told.at_ms, "told", text));
    }
    all.sort_by_key(|(at, _, _)| *at);
    all.into_iter()
        .map(|(at, class, text)| html! { li class=(class) { time { (time(at)) } " " (text) } })
        .collect()
}

/// The incidents that are part of a common cause. Blocks.
fn members(reader: &Reader, shared: &Shared, view: &IncidentView) -> anyhow::Result<Markup> {
    if view.incident.facts.scope.is_none() {
        return Ok(html! {});
    }
    let wanted = Wanted {
        sees: reader.caller.regions.clone(),
        parent: Some(view.incident.number),
        ..Wanted::default()
    };
    let found = shared.query.incidents(&wanted, None, PAGE, reader.now)?;
    Ok(html! {
        section aria-labelledby="members-title" id="members" data-live {
            h2 id="members-title" { (reader.words.say("incident.members")) }
            ul class="incidents" { @for view in &found { li { (line(reader, shared, view)) } } }
        }
    })
}

/// What the reader may do about it.
fn care(reader: &Reader, view: &IncidentView, problem: Option<&str>) -> Markup {
    let words = reader.words;
    if !reader.caller.may(Scope::Operate) || !view.lies_in(&reader.caller.regions) {
        return html! {};
    }
    let number = view.incident.number;
    let is_open = view.incident.is_open();
    let silenced = view.incident.office.as_ref().filter(|_| is_open);
    html! {
        section class="care" aria-labelledby="care-title" {
            h2 id="care-title" { (words.say("care")) }
            @if let Some(problem) = problem { p class="problem" role="alert" { (problem) } }
            form method="post" action={ "/insiden/" (number) } class="fields" {
                label class="wide" { span { (words.say("case.text")) } textarea name="text" rows="2" maxlength="2000" {} }
                div class="deeds" {
                    @if is_open {
                        label { span { (words.say("case.lasts")) } (holds(words)) }
                        button name="deed" value="acknowledge" { (words.say("case.acknowledge")) }
                    }
                    @if view.acknowledged.is_some() { button name="deed" value="withdraw" { (words.say("case.withdraw")) } }
                    button name="deed" value="note" { (words.say("case.notes")) }
                    @if silenced.is_some() { button name="deed" value="silence" { (words.say("case.silence")) } }
                }
            }
            form method="post" action={ "/insiden/" (number) } class="fields" {
                label { span { (words.say("case.to")) } input name="to" maxlength="100" autocomplete="off" value=(view.assignee.as_deref().unwrap_or_default()); }
                div class="deeds" { button name="deed" value="assign" { (words.say("case.assign")) } }
            }
        }
    }
}

/// Does what a form asks for.
pub(super) async fn act(
    State(shared): State<Arc<Shared>>,
    Path(number): Path<String>,
    reader: Reader,
    said: Said,
) -> Result<Response, Problem> {
    reader.must(Scope::Operate)?;
    let text = said.get("text").map(str::to_owned);
    let lasts = said.get("for").map(str::to_owned);
    let caller = reader.caller.clone();
    let done = match said.get("deed") {
        Some("silence") => silence(&shared, &reader, &number, text, lasts).await,
        deed => {
            let deed = match deed {
                Some("acknowledge") => Deed::Acknowledge { why: text, lasts },
                Some("withdraw") => Deed::Withdraw { why: text },
                Some("note") => Deed::Note {
                    text: text.unwrap_or_default(),
                },
                Some("assign") => Deed::Assign {
                    to: said.get("to").map(str::to_owned),
                },
                _ => {
                    return Err(Invalid::new(
                        "deed",
                        deed.unwrap_or_default().escape_debug(),
                        "nothing that can be done",
                        "press a button of the form",
                    )
                    .into());
                }
            };
            let shared = Arc::clone(&shared);
            api::incidents::act(shared, caller, &number, deed)
                .await
                .map(|_| ())
        }
    };
    let Err(problem) = done else {
        return Ok(Redirect::to(&format!("/insiden/{number}")).into_response());
    };
    // What is wrong is said beside the form, where there is one.
    let number = api::number("number", &number)?;
    let text = reader.words.problem(problem.detail());
    let status = problem.status();
    if status == StatusCode::NOT_FOUND {
        return Err(problem);
    }
    let work = move || {
        let Some(view) = shared
            .query
            .incident(number, &reader.caller.regions, reader.now)?
        else {
            return anyhow::Ok(Err(problem));
        };
        let body = one(&reader, &shared, &view, Some(&text))?;
        let title = title(&reader, &shared, &view);
        Ok(Ok(reader.refused(status, Tab::Incidents, &title, &body)))
    };
    tokio::task::spawn_blocking(work)
        .await
        .context("a page panicked")??
}

/// Silences the office of an incident, whatever its cause becomes.
async fn silence(
    shared: &Arc<Shared>,
    reader: &Reader,
    number: &str,
    why: Option<String>,
    lasts: Option<String>,
) -> Result<(), Problem> {
    let number = api::number("number", number)?;
    let (of, sees, now) = (
        Arc::clone(shared),
        reader.caller.regions.clone(),
        reader.now,
    );
    let found = tokio::task::spawn_blocking(move || of.query.incident(number, &sees, now));
    let found = found.await.context("a query panicked")??;
    let office = found.and_then(|view| view.incident.office);
    let Some(office) = office else {
        return Err(Problem::not_found(format!(
            "there is no office's incident {number}"
        )));
    };
    let wish = Wish::of(
        office.as_str(),
        Vec::new(),
        why.as_deref().unwrap_or_default(),
        lasts.as_deref().unwrap_or("4h"),
    );
    let caller = reader.caller.clone();
    api::silences::add(State(Arc::clone(shared)), caller, api::Body(wish))
        .await
        .map(drop)?;
    Ok(())
}

/// Makes a silence.
pub(super) async fn add_silence(
    State(shared): State<Arc<Shared>>,
    reader: Reader,
    said: Said,
) -> Result<Response, Problem> {
    reader.must(Scope::Operate)?;
    let cause = said.get("cause").map(str::to_owned);
    let cause = choice(
        cause.as_ref(),
        "cause",
        Cause::ALL.into_iter(),
        Cause::as_str,
    )?;
    let (region, why) = (said.need("region")?, said.need("why")?);
    let lasts = said.get("for").unwrap_or("4h");
    let wish = Wish::of(&region, cause.into_iter().collect(), &why, lasts);
    api::silences::add(State(shared), reader.caller, api::Body(wish))
        .await
        .map(drop)?;
    Ok(Redirect::to("/insiden").into_response())
}

/// Ends a silence.
pub(super) async fn end_silence(
    State(shared): State<Arc<Shared>>,
    Path(number): Path<String>,
    reader: Reader,
) -> Result<Response, Problem> {
    reader.must(Scope::Operate)?;
    api::silences::end(State(shared), reader.caller, api::Path(number))
        .await
        .map(drop)?;
    Ok(Redirect::to("/insiden").into_response())
}
