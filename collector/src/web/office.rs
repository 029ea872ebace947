//! An office: what is wrong there and why, how each of its links was in an hour, a day, a week, a month and a year, its incidents, and when it is open. And one link of it
//! over any time.

use super::overview::line;
use super::reader::{Live, Reader, Tab, address, badge, choices};
use super::smoke::{GLANCE, Kind, Steps, Stretch};
use super::way;
use super::words::{Exact, Words, local};
use crate::access::Scope;
use crate::api::{self, Problem, Shared};
use crate::query::{AgentView, IncidentView, LinkView, OfficeView, ShownState, Wanted};
use crate::region;
use crate::registry::Spending;
use anyhow::Context;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Redirect, Response};
use denyut_detect::calendar::Zone;
use denyut_proto::{Invalid, OfficeCode, UnixMillis};
use denyut_store::history::LinkId;
use maud::{Markup, html};
use std::sync::Arc;

/// Incidents that are listed.
const INCIDENTS_MOST: usize = 20;
/// Links whose round-trip times are drawn on the office's own page.
const SMOKE_MOST: usize = 12;
const DAY_MS: i64 = 86_400_000;
/// An agent's clock that is off by more is told, in ms.
const CLOCK_OFF_MS: i64 = 10_000;
/// The longest time that a plot shows: ten years.
const LONGEST_MS: i64 = 3_660 * DAY_MS;

fn nothing(what: &str) -> Problem {
    Problem::not_found(format!("there is no {what}"))
}

pub(super) async fn show(
    State(shared): State<Arc<Shared>>,
    Path(code): Path<String>,
    reader: Reader,
) -> Result<Response, Problem> {
    let code: OfficeCode = code.parse()?;
    let work = move || {
        let found = shared
            .query
            .office(&code, &reader.caller.regions, reader.now)?;
        let Some(office) = found else {
            return anyhow::Ok(Err(nothing(&format!("office {code}"))));
        };
        let incident = match office.incident {
            Some(number) => shared
                .query
                .incident(number, &reader.caller.regions, reader.now)?,
            None => None,
        };
        let wanted = Wanted {
            sees: reader.caller.regions.clone(),
            office: Some(code.clone()),
            ..Wanted::default()
        };
        let past = shared
            .query
            .incidents(&wanted, None, INCIDENTS_MOST, reader.now)?;
        let links = links(&reader, &shared, &office)?;
        let body = html! {
            (headline(&reader, &office))
            div class="columns" {
                div {
                    (verdict(&reader, &shared, &office, incident.as_ref()))
                }
                (opening(&reader, &shared, &code))
            }
            (links)
            section aria-labelledby="incidents-title" id="incidents" data-live {
                h2 id="incidents-title" { (reader.words.say("tab.incidents")) }
                @if past.is_empty() { p class="calm" { (reader.words.say("office.no_incidents")) } }
                ul class="incidents" { @for view in &past { li { (line(&reader, &shared, view)) } } }
                @if past.len() == INCIDENTS_MOST { p { a href={ "/insiden?which=all&office=" (code) } { (reader.words.say("office.all_incidents")) } } }
            }
            section aria-labelledby="agents-title" id="agents" data-live {
                h2 id="agents-title" { (reader.words.say("agents")) }
                @if office.agents.is_empty() { p { (reader.words.say("office.no_agent")) } }
                @for agent in &office.agents { p class="agent" { (agent_text(&reader, agent, Zone::of(&code))) } }
            }
        };
        let title = office.name.clone();
        Ok(Ok(reader.page(
            Tab::Overview,
            &title,
            Live::Office(code.as_str()),
            &body,
        )))
    };
    tokio::task::spawn_blocking(work)
        .await
        .context("a page panicked")??
}

fn headline(reader: &Reader, office: &OfficeView) -> Markup {
    let words = reader.words;
    let code = office.code.as_str();
    let (province, regency) = (&code[..2], &code[..5]);
    html! {
        p class="trail" {
            a href="/" { (words.say("overview.nation")) }
            " › " a href=(address("/", [("region", province)].into_iter())) { (region::province(province).unwrap_or(province)) }
            " › " a href=(address("/", [("region", regency)].into_iter())) { (office.regency.as_deref().unwrap_or(regency)) }
        }
        div class="head" {
            h1 { (office.name) " " small { (code) } }
            p id="state" data-live {
                (badge(office.state, &words.office_state(office.state)))
                @if let Some(since) = office.since_ms { " " span class="soft" { (words.since(since, reader.now, Zone::of(&office.code))) } }
            }
        }
        @if let Some(isp) = &office.isp { p class="soft" { (words.say("isp")) ": " (isp) } }
    }
}

/// What is wrong, and what tells so.
fn verdict(
    reader: &Reader,
    shared: &Shared,
    office: &OfficeView,
    incident: Option<&IncidentView>,
) -> Markup {
    let words = reader.words;
    let zone = Zone::of(&office.code);
    let present = office.patterns.iter().filter(|one| one.until_ms.is_none());
    let calm = match office.state {
        ShownState::Up => "verdict.up",
        ShownState::Closed => "verdict.closed",
        ShownState::Unknown => "verdict.unknown",
        _ => "verdict.not_yet",
    };
    html! {
        section class="verdict" aria-labelledby="verdict-title" id="verdict" data-live {
            h2 id="verdict-title" { (words.say("verdict")) }
            @if let Some(view) = incident {
                @let facts = &view.incident.facts;
                p class="cause" {
                    strong { (words.cause(facts.cause)) } " " (words.since(facts.opened_ms, reader.now, zone))
                    " " a href={ "/insiden/" (view.incident.number) } { "#" (view.incident.number) }
                }
                @if !facts.evidence.is_empty() {
                    ul class="evidence" { @for one in words.evidence_of(&view.incident) { li { (one) } } }
                }
                @if facts.provisional { p { (words.say("incident.provisional")) } }
                @else if facts.confidence > 0 { p class="soft" { (words.fill("incident.confidence", &[("percent", &facts.confidence.to_string())])) } }
                @if let Some(parent) = view.incident.parent { p { a href={ "/insiden/" (parent) } { (words.fill("incident.part", &[("number", &parent.to_string())])) } } }
                @match (&view.acknowledged, &view.assignee) {
                    (Some(known), _) => { p { (words.fill("verdict.acknowledged", &[("by", &known.by), ("time", &words.time(known.until_ms, reader.now, zone, Exact::Minute))])) } }
                    (None, Some(who)) => { p { (words.fill("case.assignee", &[("name", who)])) } }
                    (None, None) => { p class="warning" { (words.say("verdict.nobody")) } }
                }
            } @else {
                p { (words.say(calm)) }
            }
            @if let Some(work) = &office.maintenance {
                @let key = if reader.now < work.from_ms { "maintenance.next" } else { "maintenance.now" };
                @let time = |at| words.time(at, reader.now, zone, Exact::Minute);
                p class="work" { (words.fill(key, &[("from", &time(work.from_ms)), ("until", &time(work.until_ms)), ("reason", &work.reason)])) }
            }
            @for pattern in present {
                p class="pattern" { (words.pattern(pattern, &office.code, &shared.query.registry, reader.now)) }
            }
        }
    }
}

/// When the office is open, this day and the six after it.
fn opening(reader: &Reader, shared: &Shared, code: &OfficeCode) -> Markup {
    let words = reader.words;
    let hours = shared.gate.hours_of(code);
    let opening = shared.gate.opening(code, &hours);
    let zone = opening.zone;
    let midnight = UnixMillis(
        (reader.now.0 + zone.offset_ms()).div_euclid(DAY_MS) * DAY_MS - zone.offset_ms(),
    );
    let days = (0..7).map(|day| {
        let from = UnixMillis(midnight.0 + day * DAY_MS);
        let spans = opening.stretches(from, UnixMillis(from.0 + DAY_MS));
        let clock = |at: UnixMillis| words.of_day((at.0 - from.0) / 60_000);
        let spans: Vec<String> = spans
            .into_iter()
            .map(|(from, to)| format!("{}–{}", clock(from), clock(to)))
            .collect();
        let weekday = local(from, zone).weekday().to_monday_one_offset();
        (
            words.of("weekday", &weekday.to_string()),
            words.day(from, zone),
            spans.join(", "),
        )
    });
    html! {
        section class="opening" aria-labelledby="opening-title" id="opening" data-live {
            h2 id="opening-title" { (words.say("opening")) " (" (zone.name()) ")" }
            p { (words.say(if opening.is_open(reader.now) { "opening.open" } else { "opening.closed" })) }
            table { tbody {
                @for (weekday, day, spans) in days {
                    tr { th scope="row" title=(day) { (weekday) } td { @if spans.is_empty() { (words.say("opening.none")) } @else { (spans) } } }
                }
            } }
        }
    }
}

fn link_path(link: &LinkView) -> String {
    format!("/kantor/{}/{}/{}", link.office, link.agent, link.target)
}

fn id_of(link: &LinkView) -> anyhow::Result<LinkId> {
    Ok(LinkId {
        agent: link.agent.clone(),
        target: link.target.parse().context("the name of a target")?,
    })
}

/// Every link with its pictures. Blocks.
fn links(reader: &Reader, shared: &Shared, office: &OfficeView) -> anyhow::Result<Markup> {
    let words = reader.words;
    let history = &*shared.query.history;
    let mut shown = Vec::new();
    for (place, link) in office.links.iter().enumerate() {
        let id = id_of(link)?;
        let mut strips = Vec::new();
        for (name, length) in GLANCE {
            let stretch = glance(reader.now, length);
            let steps = Steps::read(history, &id, stretch)?;
            let share = words.percent(steps.sums().share());
            let span = words.of("glance", name);
            let label = words.fill("strip.label", &[("span", &span), ("share", &share)]);
            let to = format!("{}?hours={}", link_path(link), length / 3_600_000);
            strips.push(html! {
                a class="glance" href=(to) { span { (span) } (steps.strip(&label)) span class="share" { (share) } }
            });
        }
        let smoke = if place < SMOKE_MOST {
            let steps = Steps::read(
                history,
                &id,
                Stretch::of(&(reader.now.0 - DAY_MS..reader.now.0)),
            )?;
            figure(words, reader.now, link, &steps, true)
        } else {
            html! {}
        };
        // Where it broke, while it is broken: not where it did another time.
        let way = match link.since_ms.filter(|_| is_down(link)) {
            Some(since) => shared
                .query
                .paths(&id)?
                .into_iter()
                .find(|way| way.at >= since),
            None => None,
        };
        shown.push(html! {
            article class="link" id={ "link-" (link.agent) "-" (link.target) } data-live {
                header {
                    h3 { a href=(link_path(link)) { (words.role(link.role, &link.target)) } }
                    (badge(link.state, &words.of("state", link.state.as_str())))
                    (last(reader, office, link))
                }
                p class="probe" {
                    @if office.agents.len() > 1 { (link.agent) " · " }
                    @if link.role != Some(link.target.as_str()) { (link.target) " · " }
                    (link.probe)
                }
                @if let Some(path) = &way { (way::show(reader, path, Zone::of(&link.office))) }
                div class="glances" { @for strip in &strips { (strip) } }
                (smoke)
            }
        });
    }
    Ok(html! {
        section aria-labelledby="links-title" {
            h2 id="links-title" { (words.say("links")) }
            (key(words))
            @for link in shown { (link) }
        }
    })
}

/// It is down now, whether or not somebody works on it.
fn is_down(link: &LinkView) -> bool {
    matches!(link.state, ShownState::Down | ShownState::Maintenance) && link.last_failure.is_some()
}

/// A stretch of one glance that ends now.
fn glance(now: UnixMillis, length: i64) -> Stretch {
    // Rollups answer exactly: minutes, quarters of an hour, hours, and days.
    let step = match length / 3_600_000 {
        1 => 60_000,
        24 => 900_000,
        168 => 3_600_000,
        720 => 4 * 3_600_000,
        _ => DAY_MS,
    };
    let end = (now.0.div_euclid(step) + 1) * step;
    Stretch {
        from: end - length.div_euclid(step) * step,
        step,
        count: length / step,
    }
}

/// What the colours of strips mean.
fn key(words: Words) -> Markup {
    html! {
        p class="legend" {
            @for kind in Kind::ALL { span class="key" { span class={ "swatch back-" (kind.as_str()) } {} " " (words.of("legend", kind.as_str())) } " " }
        }
    }
}

/// The last sample, and a button for another.
fn last(reader: &Reader, office: &OfficeView, link: &LinkView) -> Markup {
    let words = reader.words;
    let zone = Zone::of(&link.office);
    let is_silent = office
        .agents
        .iter()
        .any(|agent| agent.agent == link.agent && agent.state != ShownState::Up);
    let is_watched = !is_silent
        && !matches!(
            link.state,
            ShownState::Unobserved | ShownState::Closed | ShownState::Unknown
        );
    let text = match (&link.last_failure, link.last_rtt_us) {
        (Some(failure), _) => words.failure(failure),
        (None, Some(us)) => words.rtt(us),
        (None, None) => "–".to_owned(),
    };
    let class = match (is_watched, &link.last_failure) {
        (false, _) => "last old",
        (true, Some(_)) => "last bad",
        (true, None) => "last",
    };
    let time = link
        .last_ms
        .map(|at| words.time(at, reader.now, zone, Exact::Second));
    html! {
        span class=(class) title=[time] data-last={ (link.agent) "/" (link.target) } { (text) }
        @if is_watched && reader.caller.may(Scope::Operate) {
            form method="post" action={ (link_path(link)) "/periksa" } data-quiet=(words.say("probe_now.asked")) {
                button class="small" { (words.say("probe_now")) }
            }
        }
    }
}

/// The smoke of a link, with its scale.
fn figure(words: Words, now: UnixMillis, link: &LinkView, steps: &Steps, is_small: bool) -> Markup {
    let zone = Zone::of(&link.office);
    let stretch = steps.stretch;
    let top = steps.top();
    let label = words.fill(
        "plot.label",
        &[
            (
                "from",
                &words.time(UnixMillis(stretch.from), now, zone, Exact::Minute),
            ),
            (
                "to",
                &words.time(UnixMillis(stretch.end()), now, zone, Exact::Minute),
            ),
            (
                "median",
                &steps
                    .median()
                    .map_or_else(|| "–".to_owned(), |us| words.rtt(us)),
            ),
        ],
    );
    let tick = |part: i64| {
        let at = UnixMillis(stretch.from + (stretch.end() - stretch.from) * part / 4);
        if stretch.end() - stretch.from > 3 * DAY_MS {
            let day = local(at, zone);
            format!(
                "{} {}",
                day.day(),
                words.of("month", &day.month().to_string())
            )
        } else {
            let there = local(at, zone);
            words.of_day(i64::from(there.hour()) * 60 + i64::from(there.minute()))
        }
    };
    let office = &link.office;
    html! {
        figure class={ "plot " (if is_small { "small" } else { "large" }) }
            data-plot={ "/api/v1/offices/" (office) "/links/" (link.agent) "/" (link.target) "/buckets" }
            data-page=(link_path(link)) data-from=(stretch.from) data-step=(stretch.step) data-count=(stretch.count)
            data-zone=(zone.name()) data-offset=(zone.offset_ms()) data-text=(words.say("plot.at")) {
            div class="scale" aria-hidden="true" {
                span { @if let Some(top) = top { (words.rtt(top)) } }
                span { @if let Some(top) = top { (words.rtt(top / 2)) } }
                span { "0" }
            }
            @if !is_small {
                (steps.strip(&words.fill("strip.label", &[("span", &words.ms(stretch.end() - stretch.from)), ("share", &words.percent(steps.sums().share()))])))
            }
            (steps.smoke(&label))
            div class="ticks" aria-hidden="true" { @for part in 0..=4 { span { (tick(part)) } } }
            figcaption { output {} }
        }
    }
}

/// The path of a link: office, agent, target.
type LinkPath = (String, String, String);

/// The time that is asked for: `from` and `to`, or so many `hours` up to now.
fn range(reader: &Reader) -> Result<(std::ops::Range<i64>, Option<i64>), Problem> {
    let asked = reader.asked();
    let number = |name: &str| -> Result<Option<i64>, Problem> {
        let Some(text) = asked.get(name) else {
            return Ok(None);
        };
        let number = text.parse::<i64>().map_err(|_| {
            Problem::from(Invalid::new(
                name,
                text,
                "not a number",
                "write a whole number",
            ))
        })?;
        Ok(Some(number))
    };
    let (from, to) = (number("from")?, number("to")?);
    let hours = number("hours")?.unwrap_or(24);
    let now = reader.now.0;
    let (range, hours) = match (from, to) {
        (Some(from), Some(to)) => (from..to, None),
        _ => (
            now.saturating_sub(hours.saturating_mul(3_600_000))..now,
            Some(hours),
        ),
    };
    let length = range.end.checked_sub(range.start);
    let is_right = length.is_some_and(|length| (1..=LONGEST_MS).contains(&length))
        && range.start >= 0
        && range.end <= api::FAR;
    if !is_right {
        let fix = "write `from` before `to` in Unix ms, or `hours`; ten years at most";
        let text = format!("{}..{}", range.start, range.end);
        return Err(Invalid::new("from", text, "not a stretch of time", fix).into());
    }
    Ok((range, hours))
}

pub(super) async fn link(
    State(shared): State<Arc<Shared>>,
    Path((office, agent, target)): Path<LinkPath>,
    reader: Reader,
) -> Result<Response, Problem> {
    let code: OfficeCode = office.parse()?;
    let id = LinkId {
        agent: agent.parse()?,
        target: target.parse()?,
    };
    let (range, hours) = range(&reader)?;
    let work = move || {
        let found = shared.query.link(&id, &reader.caller.regions, reader.now)?;
        let office = shared
            .query
            .office(&code, &reader.caller.regions, reader.now)?;
        let (Some(link), Some(office)) = (found.filter(|link| link.office == code), office) else {
            return anyhow::Ok(Err(nothing(&format!("link {id} at office {code}"))));
        };
        let steps = Steps::read(&*shared.query.history, &id, Stretch::of(&range))?;
        let ways = shared.query.paths(&id)?;
        let body = link_body(&reader, &office, &link, &steps, hours, &ways);
        let title = format!("{} – {}", link.target, office.name);
        let live = if range.end >= reader.now.0 {
            Live::Office(code.as_str())
        } else {
            Live::Still
        };
        Ok(Ok(reader.page(Tab::Overview, &title, live, &body)))
    };
    tokio::task::spawn_blocking(work)
        .await
        .context("a page panicked")??
}

fn link_body(
    reader: &Reader,
    office: &OfficeView,
    link: &LinkView,
    steps: &Steps,
    hours: Option<i64>,
    ways: &[denyut_proto::Path],
) -> Markup {
    let words = reader.words;
    let zone = Zone::of(&link.office);
    let stretch = steps.stretch;
    let (from, to) = (stretch.from, stretch.end());
    let length = to - from;
    let sums = steps.sums();
    let moved = |from: i64, to: i64| {
        let (from, to) = (from.to_string(), to.to_string());
        reader.with(&[("from", &from), ("to", &to), ("hours", "")])
    };
    let median = steps
        .median()
        .map_or_else(|| "–".to_owned(), |us| words.rtt(us));
    let ranges = GLANCE.iter().map(|(name, length)| {
        let wanted = length / 3_600_000;
        let to = reader.with(&[("hours", &wanted.to_string()), ("from", ""), ("to", "")]);
        (words.of("glance", name), to, hours == Some(wanted))
    });
    html! {
        p class="trail" { a href={ "/kantor/" (link.office) } { (office.name) } " › " (link.agent) }
        div class="head" {
            h1 { (words.role(link.role, &link.target)) " " small { (link.probe) } }
            p id="state" data-live { (badge(link.state, &words.of("state", link.state.as_str()))) " " (last(reader, office, link)) }
        }
        div class="above" {
            (choices(ranges, &words.say("plot.range")))
            p class="choices" {
                a href=(moved(from - length / 2, to - length / 2)) { "‹ " (words.say("plot.earlier")) } " "
                a href=(moved(from + length / 2, to + length / 2)) { (words.say("plot.later")) " ›" } " "
                a href=(moved(from - length / 2, to + length / 2)) { (words.say("plot.wider")) }
            }
        }
        section id="plot" data-live aria-label=(words.say("plot")) {
            p {
                (words.time(UnixMillis(from), UnixMillis(0), zone, Exact::Minute)) " – " (words.time(UnixMillis(to), UnixMillis(0), zone, Exact::Minute))
                " · " (words.fill("plot.step", &[("length", &words.ms(stretch.step))]))
            }
            @if steps.too_fine { p class="warning" { (words.say("plot.too_fine")) } }
            (figure(words, reader.now, link, steps, false))
            p { (words.fill("plot.sums", &[("ok", &sums.ok.to_string()), ("failed", &sums.failed.to_string()), ("share", &words.percent(sums.share())), ("median", &median)])) }
            p class="soft" { (words.say("plot.method")) }
        }
        (key(words))
        section aria-labelledby="paths-title" id="paths" data-live {
            h2 id="paths-title" { (words.say("path")) }
            @if ways.is_empty() { p class="calm" { (words.say("path.none")) } }
            @for path in ways { (way::show(reader, path, zone)) }
            p class="soft" { (words.say("path.method")) }
        }
        p {
            a href={ "/api/v1/offices/" (link.office) "/links/" (link.agent) "/" (link.target) "/samples?from_ms=" (from) "&to_ms=" (to) } { (words.say("plot.samples")) }
        }
    }
}

/// Has a link probed at once.
pub(super) async fn probe(
    State(shared): State<Arc<Shared>>,
    Path(path): Path<LinkPath>,
    reader: Reader,
) -> Result<Response, Problem> {
    reader.must(Scope::Operate)?;
    let to = format!("/kantor/{}", path.0);
    let caller = reader.caller;
    api::offices::probe_now(State(shared), caller, api::Path(path)).await?;
    Ok(Redirect::to(&to).into_response())
}

fn agent_text(reader: &Reader, agent: &AgentView, zone: Zone) -> String {
    let words = reader.words;
    let time = |at| words.time(at, reader.now, zone, Exact::Minute);
    let mut facts = vec![
        agent.agent.to_string(),
        words.of("state", agent.state.as_str()).to_lowercase(),
    ];
    if let Some(address) = &agent.gateway {
        facts.push(words.fill("agent.gateway", &[("address", address)]));
    }
    if let Some(at) = agent.last_ms {
        facts.push(words.fill(
            "agent.last",
            &[("time", &words.time(at, reader.now, zone, Exact::Second))],
        ));
    }
    if let Some(version) = &agent.version {
        let machine = agent.machine.as_deref().unwrap_or_default();
        facts.push(format!("{version} {machine}").trim().to_owned());
    }
    if let Some(count) = agent.dropped.filter(|count| *count > 0) {
        facts.push(words.fill("agent.dropped", &[("count", &count.to_string())]));
    }
    if let Some(off) = agent.clock_offset_ms.filter(|off| off.abs() > CLOCK_OFF_MS) {
        let key = if off > 0 {
            "agent.clock_ahead"
        } else {
            "agent.clock_behind"
        };
        facts.push(words.fill(key, &[("length", &words.ms(off.abs()))]));
    }
    if let Some(until) = agent.certified_until_ms {
        facts.push(words.fill("agent.certified", &[("time", &time(until))]));
    }
    if let Some(text) = &agent.failed_update {
        facts.push(words.fill("agent.failed_update", &[("text", text)]));
    }
    if let Some(Spending { spent, budget }) = agent.budget {
        let kb = |bytes: u64| bytes.div_ceil(1_000).to_string();
        let key = if budget > 0 {
            "agent.budget"
        } else {
            "agent.spent"
        };
        facts.push(words.fill(key, &[("spent", &kb(spent)), ("budget", &kb(budget))]));
    }
    facts.join(" · ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_glance_ends_with_the_step_that_is_now() {
        let now = UnixMillis(1_795_700_123_456);
        for (_, length) in GLANCE {
            let stretch = glance(now, length);
            assert!(stretch.end() > now.0 && stretch.end() - now.0 <= stretch.step);
            assert_eq!(stretch.end() - stretch.from, length);
        }
    }
}
