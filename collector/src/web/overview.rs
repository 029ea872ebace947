//! The overview: what is broken now, the worst and longest first; by region; on a map; and what nobody cares for.

use super::map::{Dot, map};
use super::reader::{Live, Reader, Tab, address, badge};
use super::words::{Words, office_name, region_text, zone_of};
use crate::access::Regions;
use crate::api::{Problem, Shared};
use crate::board::Standing;
use crate::query::{IncidentView, ShownState};
use axum::extract::State;
use axum::response::Response;
use denyut_detect::calendar::Zone;
use denyut_proto::{OfficeCode, UnixMillis};
use maud::{Markup, html};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Incidents that are listed; the rest is behind a link.
const BROKEN_MOST: usize = 20;
const NEGLECTED_MOST: usize = 10;
/// Offices that are listed of a region or a search.
const OFFICES_MOST: usize = 300;
/// An open incident that nobody touched for longer is neglected, in ms.
const NEGLECTED_MS: i64 = 86_400_000;

/// The states, the worst first, as people read them.
pub(super) const WORST_FIRST: [ShownState; 8] = [
    ShownState::Down,
    ShownState::Unobserved,
    ShownState::Recovering,
    ShownState::Suspect,
    ShownState::Maintenance,
    ShownState::Unknown,
    ShownState::Closed,
    ShownState::Up,
];

/// The offices of a region in numbers.
#[derive(Debug, Default)]
struct Counts {
    offices: usize,
    of_state: BTreeMap<ShownState, usize>,
    /// Since when its longest trouble goes on.
    down_since: Option<UnixMillis>,
}

impl Counts {
    fn add(&mut self, standing: Standing) {
        self.offices += 1;
        *self.of_state.entry(standing.state).or_default() += 1;
        if standing.state == ShownState::Down {
            let earliest = self.down_since.into_iter().chain(standing.since_ms).min();
            self.down_since = earliest;
        }
    }

    fn of(&self, state: ShownState) -> usize {
        self.of_state.get(&state).copied().unwrap_or_default()
    }
}

/// When somebody last did something about an incident, or else it began.
fn touched(view: &IncidentView) -> UnixMillis {
    let last = view.steps.last().map(|step| step.at_ms);
    last.unwrap_or(view.incident.facts.opened_ms)
}

/// The worst first: common causes by how many they hit, then what somebody is to be called for; of equals what goes on for longest.
fn worst_first(all: &mut [Arc<IncidentView>]) {
    all.sort_by_key(|view| {
        let facts = &view.incident.facts;
        let failed = facts.scope.as_ref().map_or(0, |scope| scope.failed);
        (
            Reverse(failed),
            view.incident.paged_ms.is_none(),
            facts.opened_ms,
        )
    });
}

/// Without what is part of a common cause that is there itself: that tells of it. The worst first.
fn without_parts(mut all: Vec<Arc<IncidentView>>) -> Vec<Arc<IncidentView>> {
    let there: BTreeSet<u64> = all.iter().map(|view| view.incident.number).collect();
    let is_told =
        |view: &Arc<IncidentView>| view.incident.parent.is_some_and(|of| there.contains(&of));
    all.retain(|view| !is_told(view));
    worst_first(&mut all);
    all
}

/// The parts of the code of a region: nation, province, regency.
fn depth(region: Option<&str>) -> usize {
    region.map_or(0, |code| code.split('.').count())
}

pub(super) async fn show(
    State(shared): State<Arc<Shared>>,
    reader: Reader,
) -> Result<Response, Problem> {
    let asked = reader.asked();
    let region = asked.get("region");
    let wanted = asked.get("q").map(|text| text.to_lowercase());
    let sees = reader.regions(region)?;
    let words = reader.words;
    let known = shared.query.registry.offices();
    let mut all = Counts::default();
    let mut regions: BTreeMap<String, Counts> = BTreeMap::new();
    let mut dots = Vec::new();
    let width = match depth(region.map(String::as_str)) {
        0 => 2,
        1 => 5,
        _ => usize::MAX,
    };
    let mut offices = Vec::new();
    let lists = wanted.is_some() || width == usize::MAX;
    shared.board.offices(&sees, |code, standing| {
        let office = known.get(code)?;
        let is_wanted = wanted.as_ref().is_none_or(|wanted| {
            let texts = [
                Some(code.as_str()),
                Some(&office.name),
                office.regency.as_deref(),
            ];
            let mut texts = texts.into_iter().flatten();
            texts.any(|text| text.to_lowercase().contains(wanted))
        });
        if !is_wanted {
            return None;
        }
        all.add(standing);
        if lists {
            offices.push((code.clone(), standing));
        } else {
            let of = code.as_str().get(..width).unwrap_or(code.as_str());
            regions.entry(of.to_owned()).or_default().add(standing);
        }
        dots.extend(office.place.map(|place| Dot {
            place,
            // Nobody looks there now, but something was wrong when somebody did.
            state: match standing.incident {
                Some(_) if standing.state <= ShownState::Closed => ShownState::Unobserved,
                _ => standing.state,
            },
            to: format!("/kantor/{code}"),
            name: format!("{}: {}", office.name, words.office_state(standing.state)),
        }));
        Some(())
    });
    let mut broken = shared.board.open(&sees);
    if wanted.is_some() {
        let is_listed = |view: &Arc<IncidentView>| {
            let office = view.incident.office.as_ref();
            office.is_some_and(|of| offices.iter().any(|(code, _)| code == of))
        };
        broken.retain(is_listed);
    }
    let broken = without_parts(broken);
    let body = html! {
        (headline(&reader, &shared, region, asked.get("q"), &all))
        div class="columns" {
            section aria-labelledby="broken" id="now" data-live {
                h2 id="broken" { (words.say("overview.broken")) }
                (incidents(&reader, &shared, &broken, region))
            }
            div {
                @if !dots.is_empty() {
                    section aria-label=(words.say("overview.map")) id="map" data-live { (map(&dots, &[], &words.say("overview.map"))) (legend(words)) }
                }
                (neglected(&reader, &shared, &broken))
                @if !lists { (region_table(&reader, &shared, &regions, &sees)) }
            }
        }
        @if lists { (office_table(&reader, &shared, offices)) }
    };
    Ok(reader.page(Tab::Overview, &words.say("tab.overview"), Live::All, &body))
}

/// Where this is, how many offices are in which state, and a field to find one.
fn headline(
    reader: &Reader,
    shared: &Shared,
    region: Option<&String>,
    wanted: Option<&String>,
    all: &Counts,
) -> Markup {
    let words = reader.words;
    let registry = &shared.query.registry;
    let name = |code: &str| region_text(code, registry, &reader.caller.regions);
    let above: Vec<&str> = match region {
        Some(code) if depth(Some(code)) > 1 => vec![code.get(..2).unwrap_or(code)],
        _ => Vec::new(),
    };
    html! {
        div class="head" {
            div {
                @if region.is_some() {
                    p class="trail" {
                        a href="/" { (words.say("overview.nation")) }
                        @for code in above { " › " a href=(address("/", [("region", code)].into_iter())) { (name(code)) } }
                    }
                }
                h1 { (region.map_or_else(|| words.say("overview.nation"), |code| name(code))) }
            }
            form class="search" role="search" method="get" action="/" {
                @if let Some(region) = region { input type="hidden" name="region" value=(region); }
                input type="search" name="q" value=(wanted.map_or("", |text| text)) placeholder=(words.say("overview.find")) aria-label=(words.say("overview.find")) autocomplete="off";
                button { (words.say("find")) }
            }
        }
        ul class="counts" id="counts" data-live {
            li { strong { (all.offices) } " " (words.say("offices").to_lowercase()) }
            @for state in WORST_FIRST {
                @let count = all.of(state);
                @if count > 0 { li class=(state.as_str()) { strong { (count) } " " (words.office_state(state).to_lowercase()) } }
            }
        }
    }
}

fn incidents(
    reader: &Reader,
    shared: &Shared,
    broken: &[Arc<IncidentView>],
    region: Option<&String>,
) -> Markup {
    let words = reader.words;
    let left = broken.len().saturating_sub(BROKEN_MOST);
    html! {
        @if broken.is_empty() { p class="calm" { (words.say("incidents.none")) } }
        ul class="incidents" {
            @for view in broken.iter().take(BROKEN_MOST) { li { (line(reader, shared, view)) } }
        }
        @if left > 0 {
            p { a href=(address("/insiden", region.map(|code| ("region", code.as_str())).into_iter())) { (words.fill("overview.more", &[("count", &left.to_string())])) } }
        }
    }
}

/// An incident in two lines.
pub(super) fn line(reader: &Reader, shared: &Shared, view: &IncidentView) -> Markup {
    let words = reader.words;
    let incident = &view.incident;
    let facts = &incident.facts;
    let zone = zone_of(incident);
    let office = incident.office.as_ref();
    let office = office.and_then(|code| shared.query.registry.office(code));
    let regency = office.and_then(|office| office.regency.clone());
    let when = match facts.resolved_ms {
        None => words.since(facts.opened_ms, reader.now, zone),
        Some(end) => words.fill(
            "incident.over",
            &[
                (
                    "from",
                    &words.time(
                        facts.opened_ms,
                        reader.now,
                        zone,
                        super::words::Exact::Minute,
                    ),
                ),
                (
                    "to",
                    &words.time(end, reader.now, zone, super::words::Exact::Minute),
                ),
                ("length", &words.ms(end.0 - facts.opened_ms.0)),
            ],
        ),
    };
    html! {
        a class={ "incident " (if incident.is_open() { "open" } else { "over" }) } href={ "/insiden/" (incident.number) } {
            strong { (words.subject(incident, &shared.query.registry)) }
            @if let Some(regency) = &regency { " " span class="soft" { (regency) } }
            " " span { (words.cause(facts.cause)) }
            @if let Some(relapse) = &facts.relapse { " " span class="badge relapse" { (words.fill("incident.relapse", &[("count", &relapse.count.to_string())])) } }
            @if view.acknowledged.is_some() { " " span class="badge acknowledged" { (words.say("status.acknowledged")) } }
            @if incident.retracted { " " span class="badge" { (words.of("status", "retracted")) } }
            span class="when" { "#" (incident.number) " · " (when) @if let Some(who) = &view.assignee { " · " (who) } }
        }
    }
}

/// Open incidents that nobody touched for a day, the longest first.
fn neglected(reader: &Reader, shared: &Shared, broken: &[Arc<IncidentView>]) -> Markup {
    let words = reader.words;
    let is_old = |view: &&Arc<IncidentView>| reader.now.0 - touched(view).0 >= NEGLECTED_MS;
    let mut old: Vec<_> = broken.iter().filter(is_old).collect();
    old.sort_by_key(|view| touched(view));
    html! {
        div id="neglected" data-live {
            @if !old.is_empty() {
                section aria-labelledby="neglected-title" {
                    h2 id="neglected-title" { (words.say("overview.neglected")) }
                    ul class="neglected" {
                        @for view in old.iter().take(NEGLECTED_MOST) {
                            @let days = (reader.now.0 - touched(view).0) / 86_400_000;
                            li {
                                strong { (words.fill("unit.day", &[("n", &days.to_string())])) } " "
                                a href={ "/insiden/" (view.incident.number) } { (words.subject(&view.incident, &shared.query.registry)) }
                                " " span class="soft" { (words.cause(view.incident.facts.cause)) }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn legend(words: Words) -> Markup {
    html! {
        p class="legend" {
            @for state in [ShownState::Down, ShownState::Unobserved, ShownState::Suspect] {
                span class="key" { span class={ "dot " (state.as_str()) } {} " " (words.office_state(state)) } " "
            }
            span class="key" { span class="dot unknown" {} " " (words.office_state(ShownState::Unknown)) } " "
            span class="key" { span class="dot calm" {} " " (words.say("overview.calm")) }
        }
    }
}

fn region_table(
    reader: &Reader,
    shared: &Shared,
    regions: &BTreeMap<String, Counts>,
    sees: &Regions,
) -> Markup {
    let words = reader.words;
    let shown = [ShownState::Down, ShownState::Unobserved];
    let mut rows: Vec<_> = regions.iter().collect();
    // The worst first: by the share in trouble; of equals by name.
    rows.sort_by(|(one_code, one), (two_code, two)| {
        let share = |counts: &Counts| counts.of(ShownState::Down) as f64 / counts.offices as f64;
        share(two)
            .total_cmp(&share(one))
            .then_with(|| one_code.cmp(two_code))
    });
    html! {
        section aria-labelledby="regions-title" id="regions" data-live {
            h2 id="regions-title" { (words.say("overview.regions")) }
            @if rows.is_empty() { p { (words.say(if sees.is_everywhere() { "offices.none" } else { "offices.none_here" })) } }
            @else {
                div class="scroll" tabindex="0" { table {
                    thead { tr {
                        th scope="col" { (words.say("region")) }
                        th scope="col" class="number" { (words.say("offices")) }
                        @for state in shown { th scope="col" class="number" { (words.office_state(state)) } }
                        th scope="col" { (words.say("overview.longest")) }
                    } }
                    tbody {
                        @for (code, counts) in rows {
                            tr {
                                th scope="row" { a href=(address("/", [("region", code.as_str())].into_iter())) { (region_text(code, &shared.query.registry, sees)) } }
                                td class="number" { (counts.offices) }
                                @for state in shown {
                                    @let count = counts.of(state);
                                    td class={ "number " (if count > 0 { state.as_str() } else { "" }) } { (count) }
                                }
                                td { @if let Some(since) = counts.down_since { (words.ms(reader.now.0 - since.0)) } }
                            }
                        }
                    }
                } }
            }
        }
    }
}

fn office_table(
    reader: &Reader,
    shared: &Shared,
    mut offices: Vec<(OfficeCode, Standing)>,
) -> Markup {
    let words = reader.words;
    let registry = &shared.query.registry;
    let rank = |state| WORST_FIRST.iter().position(|one| *one == state);
    offices.sort_by_cached_key(|(code, standing)| {
        (
            rank(standing.state),
            standing.since_ms,
            office_name(code, registry),
        )
    });
    let left = offices.len().saturating_sub(OFFICES_MOST);
    html! {
        section aria-labelledby="offices-title" id="offices" data-live {
            h2 id="offices-title" { (words.say("offices")) }
            @if offices.is_empty() { p { (words.say("overview.nothing_found")) } }
            @else {
                div class="scroll" tabindex="0" { table {
                    thead { tr {
                        th scope="col" { (words.say("office")) }
                        th scope="col" { (words.say("state")) }
                        th scope="col" { (words.say("since_when")) }
                        th scope="col" { (words.say("isp")) }
                    } }
                    tbody {
                        @for (code, standing) in offices.iter().take(OFFICES_MOST) {
                            @let office = registry.office(code);
                            tr {
                                th scope="row" { a href={ "/kantor/" (code) } { (office_name(code, registry)) } " " small { (code) } }
                                td { (badge(standing.state, &words.office_state(standing.state))) }
                                td { @if let Some(since) = standing.since_ms { (words.since(since, reader.now, Zone::of(code))) } }
                                td { (office.and_then(|office| office.site.isp.clone()).unwrap_or_else(|| "–".to_owned())) }
                            }
                        }
                    }
                } }
                @if left > 0 { p { (words.fill("overview.cut", &[("count", &left.to_string())])) } }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn incident(number: u64, parent: Option<u64>, opened: i64) -> Arc<IncidentView> {
        let incident = serde_json::json!({
            "number": number, "office": "36.73.02", "opened_ms": opened, "resolved_ms": null, "cause": "uplink", "troubles": [], "parent": parent,
            "revisions": [], "revisions_omitted": 0, "status": "open", "acknowledged": null, "assignee": null, "steps": [],
        });
        Arc::new(serde_json::from_value(incident).expect("an incident"))
    }

    #[test]
    fn what_a_common_cause_tells_is_not_told_twice() {
        let all = vec![
            incident(1, Some(9), 10),
            incident(2, None, 30),
            incident(3, Some(7), 20),
            incident(9, None, 40),
        ];
        let told: Vec<u64> = without_parts(all)
            .iter()
            .map(|view| view.incident.number)
            .collect();
        // That of number 7 is not there: its part is told by itself.
        assert_eq!(told, [3, 2, 9]);
    }

    #[test]
    fn the_worst_of_a_region_is_what_goes_on_for_longest() {
        let standing = |state, since| Standing {
            state,
            since_ms: Some(UnixMillis(since)),
            incident: None,
        };
        let mut counts = Counts::default();
        for one in [
            standing(ShownState::Down, 50),
            standing(ShownState::Up, 10),
            standing(ShownState::Down, 30),
        ] {
            counts.add(one);
        }
        assert_eq!(
            (
                counts.offices,
                counts.of(ShownState::Down),
                counts.down_since
            ),
            (3, 2, Some(UnixMillis(30)))
        );
        assert_eq!(
            (depth(None), depth(Some("36")), depth(Some("36.73"))),
            (0, 1, 2)
        );
    }
}
