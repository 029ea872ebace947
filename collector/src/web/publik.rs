//! `/publik`: the page for citizens, its JSON, its feed and its badges. No script is needed; one sorts by distance from where the device is, on the device.

use super::text::{Language, head, language_of, languages, say};
use super::words::{Exact, Words};
use crate::api::{Problem, Shared};
use crate::publik::{Can, Made, PublicOffice, PublicRegency, regencies, regency};
use crate::villages::Village;
use anyhow::Context;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use denyut_detect::calendar::{Zone, in_region};
use denyut_proto::UnixMillis;
use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::Timestamp;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::Arc;

/// How long a browser, or what stands between, keeps it. Three minutes after it was loaded a page shows itself as old.
const KEPT: &str = "public, max-age=30";
const HTML: &str = "text/html; charset=utf-8";

/// A thing to show: of which regency, from where, and as what.
struct Asked<'a> {
    regency: &'a str,
    /// The office whose page it is; the whole regency's without one.
    office: Option<&'a str>,
    kind: &'a str,
}

impl<'a> Asked<'a> {
    /// Reads `36.73`, `36.73.02`, and one of them with `.json`, `.atom`, `.desa` or `.svg`.
    fn read(text: &'a str) -> Option<Self> {
        let (code, kind) = match text.rsplit_once('.') {
            Some((code, kind @ ("json" | "atom" | "svg" | "desa"))) => (code, kind),
            _ => (text, "html"),
        };
        let widths: Vec<usize> = code.split('.').map(str::len).collect();
        let is_code = code.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        let is_office = matches!(widths[..], [2, 2, 2] | [2, 2, 2, 4]);
        // A feed and a list are of a regency, a badge is of an office.
        let fits = match kind {
            "svg" => is_office,
            "json" | "atom" | "desa" => widths == [2, 2],
            _ => is_office || widths == [2, 2],
        };
        (is_code && fits).then(|| Self {
            regency: &code[..5],
            office: is_office.then_some(code),
            kind,
        })
    }
}

fn nothing() -> Problem {
    Problem::not_found("there is no such page; `/publik` leads to those that there are")
}

/// The same for who reads it.
fn no_page(text: &str, language: Language) -> Response {
    if [".json", ".atom", ".svg", ".desa"]
        .iter()
        .any(|end| text.ends_with(end))
    {
        return nothing().into_response();
    }
    let body = html! {
        h1 { (say(language, "public.no_page", &[])) }
        p { a href={ "/publik" (query_of(language)) } { (say(language, "public.all", &[])) } }
    };
    let page = frame(language, &say(language, "public.no_page", &[]), &body).into_string();
    let kind = [(header::CONTENT_TYPE, HTML)];
    (StatusCode::NOT_FOUND, kind, page).into_response()
}

/// Shows what there is of a regency or an office.
pub(super) async fn show(
    State(shared): State<Arc<Shared>>,
    Path(text): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let publik = shared.public.as_ref().ok_or_else(nothing)?;
    let language = language(query.as_deref());
    let Some(asked) = Asked::read(&text) else {
        return Ok(no_page(&text, language));
    };
    let known = shared.query.registry.offices();
    let is_known = match asked.office {
        Some(office) => office.parse().is_ok_and(|code| known.contains_key(&code)),
        None => known.keys().any(|code| in_region(code, asked.regency)),
    };
    if !is_known {
        return Ok(no_page(&text, language));
    }
    let key = format!("{text} {}", language.code());
    let make = || {
        let (shared, text) = (Arc::clone(&shared), text.clone());
        async move {
            let work = move || {
                let publik = shared.public.as_ref().context("it was on a moment ago")?;
                let asked = Asked::read(&text).context("it was read a moment ago")?;
                let found = regency(&shared, publik, asked.regency)?;
                let address = shared.address.text().unwrap_or_default();
                let found = found.context("it was there a moment ago")?;
                let villages = publik.villages.get(asked.regency);
                let villages = villages.map(Vec::as_slice).unwrap_or_default();
                write(&asked, &found, villages, language, address)
            };
            tokio::task::spawn_blocking(work)
                .await
                .context("a page panicked")?
        }
    };
    let found = publik.get(&key, make).await?;
    Ok(answer(&found, &headers))
}

/// Leads to the regencies that there are.
pub(super) async fn index(
    State(shared): State<Arc<Shared>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let publik = shared.public.as_ref().ok_or_else(nothing)?;
    let language = language(query.as_deref());
    let make = || async { made(HTML, regencies_page(&shared, language).into_string()) };
    let found = publik
        .get(&format!("index {}", language.code()), make)
        .await?;
    Ok(answer(&found, &headers))
}

/// Only the address says it: whoever keeps a page for others does not keep it by cookies.
fn language(query: Option<&str>) -> Language {
    language_of(query, &HeaderMap::new())
}

fn made(kind: &'static str, text: String) -> anyhow::Result<Made> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
    gzip.write_all(text.as_bytes())?;
    Ok(Made {
        kind,
        gzip: gzip.finish()?.into(),
        plain: text.into(),
    })
}

fn answer(made: &Made, headers: &HeaderMap) -> Response {
    let accepted = headers
        .get(header::ACCEPT_ENCODING)
        .and_then(|value| value.to_str().ok());
    let zipped = accepted.is_some_and(|text| {
        text.split(',')
            .any(|one| one.trim().split(';').next() == Some("gzip"))
    });
    let body = if zipped {
        made.gzip.clone()
    } else {
        made.plain.clone()
    };
    let mut response = (StatusCode::OK, body).into_response();
    let fields = response.headers_mut();
    fields.insert(header::CONTENT_TYPE, HeaderValue::from_static(made.kind));
    fields.insert(header::CACHE_CONTROL, HeaderValue::from_static(KEPT));
    fields.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    // Citizens' own sites may show it.
    fields.insert(
        header::ACCESS_CONTROL_ALLOW_ORIGIN,
        HeaderValue::from_static("*"),
    );
    if zipped {
        fields.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}

fn write(
    asked: &Asked<'_>,
    found: &PublicRegency,
    villages: &[Village],
    language: Language,
    address: &str,
) -> anyhow::Result<Made> {
    let office = |code| found.offices.iter().find(|one| one.code.as_str() == code);
    match (asked.kind, asked.office) {
        ("json", _) => made("application/json", serde_json::to_string(found)?),
        ("desa", _) => {
            let all: Vec<_> = villages
                .iter()
                .map(|one| (&one.name, one.place.0, one.place.1))
                .collect();
            made("application/json", serde_json::to_string(&all)?)
        }
        ("atom", _) => made(
            "application/atom+xml; charset=utf-8",
            feed(found, language, address),
        ),
        ("svg", Some(code)) => {
            let office = office(code).context("it was there a moment ago")?;
            made("image/svg+xml; charset=utf-8", badge(office, language))
        }
        (_, from) => {
            let from = from.and_then(office);
            made(HTML, page(found, from, villages, language).into_string())
        }
    }
}

/// A time of day by the clock of a place.
fn clock(at: UnixMillis, now: UnixMillis, region: &str, language: Language) -> String {
    Words { language }.time(at, now, Zone::of_region(region), Exact::Minute)
}

/// Kilometres between two places on a sphere (the haversine formula).
fn distance([lat_1, lon_1]: [f64; 2], [lat_2, lon_2]: [f64; 2]) -> f64 {
    let (lat_1, lat_2) = (lat_1.to_radians(), lat_2.to_radians());
    let (lat, lon) = (lat_2 - lat_1, (lon_2 - lon_1).to_radians());
    let half = (lat / 2.0).sin().powi(2) + lat_1.cos() * lat_2.cos() * (lon / 2.0).sin().powi(2);
    2.0 * 6_371.0 * half.sqrt().min(1.0).asin()
}

/// The frame of each page.
fn frame(language: Language, title: &str, body: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang=(language.code()) {
            head {
                (head(title, "/publik.css"))
                script type="module" src="/publik.js" {}
            }
            body {
                main { (body) }
                footer {
                    p { (languages()) }
                }
            }
        }
    }
}

fn regencies_page(shared: &Shared, language: Language) -> Markup {
    let text = |key| say(language, key, &[]);
    let query = query_of(language);
    let body = html! {
        h1 { (text("public.title")) }
        p { (text("public.choose")) }
        ul class="regencies" {
            @for (code, (name, count)) in regencies(shared) {
                li { a href={ "/publik/" (code) (query) } { (name.as_deref().unwrap_or(&code)) } " " small { (say(language, "public.offices", &[("count", &count.to_string())])) } }
            }
        }
    };
    frame(language, &text("public.title"), &body)
}

/// What keeps the language in links.
fn query_of(language: Language) -> &'static str {
    match language {
        Language::Id => "",
        Language::En => "?lang=en",
    }
}

fn page(
    found: &PublicRegency,
    from: Option<&PublicOffice>,
    villages: &[Village],
    language: Language,
) -> Markup {
    let text = |key| say(language, key, &[]);
    let query = query_of(language);
    let place = from.and_then(|from| from.place);
    let away = |one: &PublicOffice| Some(distance(place?, one.place?));
    let mut offices: Vec<&PublicOffice> = found.offices.iter().collect();
    // From an office: itself, then by distance. Else those that can, by name.
    offices.sort_by(|one, two| {
        let is_it = |office: &PublicOffice| from.is_some_and(|from| from.code == office.code);
        let far = |office| away(office).unwrap_or(f64::MAX);
        is_it(two)
            .cmp(&is_it(one))
            .then(far(one).total_cmp(&far(two)))
            .then(one.can.cmp(&two.can))
            .then_with(|| one.name.cmp(&two.name))
    });
    let name = found.name.as_deref().unwrap_or(&found.code);
    let at = clock(found.at_ms, found.at_ms, &found.code, language);
    let counts = Can::ALL
        .iter()
        .map(|can| (can, offices.iter().filter(|one| one.can == *can).count()));
    let counts: Vec<String> = counts
        .filter(|(_, count)| *count > 0)
        .map(|(can, count)| {
            format!(
                "{count} {}",
                say(language, &format!("public.{}", can.as_str()), &[]).to_lowercase()
            )
        })
        .collect();
    let body = html! {
        p { a href={ "/publik" (query) } { (text("public.all")) } }
        h1 { (text("public.title")) }
        h2 { (name) @if let Some(from) = from { ": " (from.name) } }
        p class="at" { (say(language, "public.at", &[("time", &at)])) " " (counts.join(", ")) "." }
        p class="old" role="status" { (text("public.old")) }
        @if from.is_some() { p { a href={ "/publik/" (found.code) (query) } { (say(language, "public.whole", &[("name", name)])) } } }
        @if !villages.is_empty() {
            // They are asked for by the script, which sorts by them; where somebody lives stays on their device.
            p id="homes" hidden data-from={ "/publik/" (found.code) ".desa" } { label { (text("public.home")) " " select id="home" { option value="" { "–" } } } }
        }
        p { button id="near" type="button" hidden data-km=(text("public.km")) data-none=(text("public.no_place")) { (text("public.near")) } " " span id="told" role="status" {} }
        ul class="offices" {
            @for one in offices { (item(found, one, away(one), language)) }
        }
        p class="more" { (text("public.method")) }
        p class="more" { a href={ "/publik/" (found.code) ".json" } { "JSON" } " · " a href={ "/publik/" (found.code) ".atom" (query) } { "Atom" } }
    };
    frame(
        language,
        &format!("{} – {name}", text("public.title")),
        &body,
    )
}

fn item(
    found: &PublicRegency,
    one: &PublicOffice,
    away: Option<f64>,
    language: Language,
) -> Markup {
    let can = one.can.as_str();
    let now = found.at_ms;
    let time = |at| clock(at, now, one.code.as_str(), language);
    let dot = |text: &str| {
        if language == Language::Id {
            text.replace(':', ".")
        } else {
            text.to_owned()
        }
    };
    let hours = one
        .hours
        .iter()
        .map(|span| dot(span).replace('-', "–"))
        .collect::<Vec<_>>()
        .join(", ");
    let place = one
        .place
        .map(|[latitude, longitude]| format!("{latitude},{longitude}"));
    html! {
        li class=(can) id=(one.code) data-at=[place] {
            a href={ "/publik/" (one.code) (query_of(language)) } { (one.name) } " "
            strong class="can" { (say(language, &format!("public.{can}"), &[])) }
            span class="far" { @if let Some(away) = away.filter(|away| *away > 0.05) { " " (Words { language }.number(away, 1)) " " (say(language, "public.km", &[])) } }
            p {
                @if let Some(since) = one.since_ms { (say(language, "public.since", &[("time", &time(since))])) " " }
                @if one.hours.is_empty() { (say(language, "public.no_hours", &[])) } @else { (say(language, "public.hours", &[("hours", &hours)])) }
                @if let Some(opens) = one.opens_ms { " " (say(language, "public.opens", &[("time", &time(opens))])) }
                @if one.can != Can::Closed {
                    @if let Some(heard) = one.heard_ms { " " (say(language, "public.heard", &[("time", &time(heard))])) }
                    @if let Some(chance) = one.chance { " " (say(language, "public.chance", &[("percent", &chance.percent.to_string()), ("days", &chance.days.to_string())])) }
                }
            }
        }
    }
}

/// The feed: an entry for each office and what is so of it since when (RFC 4287).
fn feed(found: &PublicRegency, language: Language, address: &str) -> String {
    let when = |at: UnixMillis| {
        Timestamp::from_millisecond(at.0)
            .unwrap_or_default()
            .strftime("%Y-%m-%dT%H:%M:%SZ")
            .to_string()
    };
    let name = found.name.as_deref().unwrap_or(&found.code);
    let host = address
        .split_once("://")
        .map_or("denyut.invalid", |(_, host)| host);
    let id = |rest: &str| format!("tag:{host},2026:publik/{rest}");
    let query = query_of(language);
    let entry = |one: &PublicOffice| {
        // It is new when the state is another, or began anew; a state without a beginning is of today.
        let day = found.at_ms.0.div_euclid(86_400_000) * 86_400_000;
        let since = one.since_ms.unwrap_or(UnixMillis(day));
        let can = one.can.as_str();
        let title = format!(
            "{}: {}",
            one.name,
            say(language, &format!("public.{can}"), &[])
        );
        html! {
            entry {
                id { (id(&format!("{}/{can}/{}", one.code, since.0))) }
                title { (title) }
                updated { (when(since)) }
                link href={ (address) "/publik/" (one.code) (query) } {}
                content { (title) }
            }
        }
    };
    let feed = html! {
        feed xmlns="http://www.w3.org/2005/Atom" xml:lang=(language.code()) {
            id { (id(&found.code)) }
            title { (say(language, "public.title", &[])) " – " (name) }
            updated { (when(found.at_ms)) }
            author { name { "denyut" } }
            link rel="self" href={ (address) "/publik/" (found.code) ".atom" (query) } {}
            @for one in &found.offices { (entry(one)) }
        }
    };
    format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n{}",
        feed.into_string()
    )
}

/// A badge for other sites.
fn badge(one: &PublicOffice, language: Language) -> String {
    let text = say(language, &format!("public.{}", one.can.as_str()), &[]);
    let left = format!("e-KTP {}", one.name);
    let colour = match one.can {
        Can::Yes => "#14704a",
        Can::No => "#c62828",
        Can::Maintenance => "#8f5600",
        Can::Unknown | Can::Closed => "#55635e",
    };
    // About as wide as eleven pixels of a sans-serif are.
    let width = |text: &str| 7 * text.chars().count() + 12;
    let (left_width, right_width) = (width(&left), width(&text));
    let all = left_width + right_width;
    let mut svg = String::new();
    // Writing to a string does not fail.
    write!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{all}\" height=\"20\" role=\"img\" aria-label=\"{label}\"><title>{label}</title><rect width=\"{left_width}\" height=\"20\" fill=\"#333\"/>\
         <rect x=\"{left_width}\" width=\"{right_width}\" height=\"20\" fill=\"{colour}\"/><g fill=\"#fff\" font-family=\"Verdana,DejaVu Sans,sans-serif\" font-size=\"11\" text-anchor=\"middle\">\
         <text x=\"{}\" y=\"14\">{}</text><text x=\"{}\" y=\"14\">{}</text></g></svg>",
        left_width / 2,
        escaped(&left),
        left_width + right_width / 2,
        escaped(&text),
        label = escaped(&format!("{left}: {text}")),
    )
    .ok();
    svg
}

fn escaped(text: &str) -> String {
    let PreEscaped(text) = html! { (text) };
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_there_is_can_be_asked_for() {
        let read = |text: &'static str| {
            Asked::read(text).map(|asked| (asked.regency, asked.office, asked.kind))
        };
        assert_eq!(read("36.73"), Some(("36.73", None, "html")));
        assert_eq!(read("36.73.02"), Some(("36.73", Some("36.73.02"), "html")));
        assert_eq!(read("36.73.json"), Some(("36.73", None, "json")));
        assert_eq!(
            read("36.73.02.svg"),
            Some(("36.73", Some("36.73.02"), "svg"))
        );
        assert_eq!(read("36.73.desa"), Some(("36.73", None, "desa")));
        for wrong in [
            "",
            "36",
            "36.73.svg",
            "36.73.02.json",
            "36.73.2",
            "36.73.",
            "a.73",
            "36.73.02.exe",
            "36.73.02.desa",
            "..",
            "36.73.02.atom",
            "３６.73",
        ] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn distances_are_those_of_the_crow() {
        // Serang to Jakarta.
        let far = distance([-6.1149, 106.1503], [-6.1754, 106.8272]);
        assert!((75.0..76.0).contains(&far), "{far}");
    }
}
