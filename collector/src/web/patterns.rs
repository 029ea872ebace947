//! Patterns: what flaps, relapses, takes turns or gets worse. What lasts, and what ended lately.

use super::map::{Dot, Tie, map};
use super::reader::{Live, Reader, Tab, choices};
use super::words::{Exact, office_name};
use crate::api::{Problem, Shared};
use crate::query::ShownState;
use anyhow::Context;
use axum::extract::State;
use axum::response::Response;
use denyut_detect::PatternKind;
use denyut_detect::calendar::Zone;
use denyut_detect::office::Pattern;
use denyut_proto::OfficeCode;
use maud::{Markup, html};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Patterns of a kind that are listed.
const MOST: usize = 200;

pub(super) async fn show(
    State(shared): State<Arc<Shared>>,
    reader: Reader,
) -> Result<Response, Problem> {
    let asked = reader.asked();
    let all = asked.get("which").is_some_and(|which| which == "all");
    let sees = reader.regions(asked.get("region"))?;
    let work = move || {
        let mut kinds: BTreeMap<PatternKind, Vec<(OfficeCode, Pattern)>> = BTreeMap::new();
        let offices = shared.query.registry.offices();
        for code in offices.keys().filter(|code| sees.has(code)) {
            for pattern in shared.query.patterns(code, &reader.caller.regions)? {
                if all || pattern.until_ms.is_none() {
                    let of_kind = kinds.entry(pattern.kind).or_default();
                    of_kind.push((code.clone(), pattern));
                }
            }
        }
        for of_kind in kinds.values_mut() {
            of_kind.sort_by_key(|(_, pattern)| std::cmp::Reverse(pattern.count));
        }
        let body = body(&reader, &shared, all, &kinds);
        let title = reader.words.say("tab.patterns");
        anyhow::Ok(reader.page(Tab::Patterns, &title, Live::All, &body))
    };
    Ok(tokio::task::spawn_blocking(work)
        .await
        .context("a page panicked")??)
}

fn body(
    reader: &Reader,
    shared: &Shared,
    all: bool,
    kinds: &BTreeMap<PatternKind, Vec<(OfficeCode, Pattern)>>,
) -> Markup {
    let words = reader.words;
    let which = [("", "patterns.present", !all), ("all", "patterns.all", all)];
    let which = which.map(|(value, key, is_chosen)| {
        (words.say(key), reader.with(&[("which", value)]), is_chosen)
    });
    html! {
        h1 { (words.say("tab.patterns")) }
        p class="soft" { (words.say("patterns.about")) }
        (choices(which.into_iter(), &words.say("patterns.which")))
        div id="patterns" data-live {
            @if kinds.is_empty() { p class="calm" { (words.say("patterns.none")) } }
            @for (kind, found) in kinds {
                section aria-labelledby={ "kind-" (kind.as_str()) } {
                    h2 id={ "kind-" (kind.as_str()) } { (words.of("kind", kind.as_str())) " (" (found.len()) ")" }
                    @if matches!(kind, PatternKind::Roaming | PatternKind::Moved) { (ties(reader, shared, found)) }
                    ul class="patterns" {
                        @for (code, pattern) in found.iter().take(MOST) {
                            li {
                                a href={ "/kantor/" (code) } { (office_name(code, &shared.query.registry)) } " – "
                                (words.pattern(pattern, code, &shared.query.registry, reader.now))
                                @if let Some(until) = pattern.until_ms { " " span class="soft" { (words.fill("pattern.until", &[("time", &words.time(until, reader.now, Zone::of(code), Exact::Minute))])) } }
                            }
                        }
                    }
                    @if found.len() > MOST { p { (words.fill("overview.cut", &[("count", &(found.len() - MOST).to_string())])) } }
                }
            }
        }
    }
}

/// The pairs on a map.
fn ties(reader: &Reader, shared: &Shared, found: &[(OfficeCode, Pattern)]) -> Markup {
    let registry = &shared.query.registry;
    let place = |code: &OfficeCode| registry.office(code)?.place;
    let pairs = found.iter().filter_map(|(code, pattern)| {
        let with = pattern.with.as_ref()?;
        Some((code, with, place(code)?, place(with)?))
    });
    let mut dots = Vec::new();
    let mut ties = Vec::new();
    for (code, with, from, to) in pairs {
        for (code, place) in [(code, from), (with, to)] {
            dots.push(Dot {
                place,
                // Each has a dot of its own.
                state: ShownState::Suspect,
                to: format!("/kantor/{code}"),
                name: office_name(code, registry),
            });
        }
        ties.push(Tie { from, to });
    }
    dots.sort_by(|one, two| one.to.cmp(&two.to));
    dots.dedup_by(|one, two| one.to == two.to);
    html! { div class="small-map" { (map(&dots, &ties, &reader.words.say("patterns.map"))) } }
}
