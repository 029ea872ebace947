//! Reports of a month: as a page, as a table, and on paper.

use super::pdf::{Column, Paper};
use super::reader::{Live, Reader, Tab};
use super::text::Language;
use super::words::{Exact, Words, office_name, region_text};
use crate::api::{self, Problem, Shared};
use crate::availability::{AvailabilityView, By, Counted};
use crate::region::province;
use crate::report::{Month, Report, Wanted, make};
use anyhow::Context;
use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use denyut_detect::calendar::Zone;
use denyut_proto::{Invalid, UnixMillis};
use jiff::Timestamp;
use maud::{Markup, html};
use std::sync::Arc;

/// Gaps that are listed.
const GAPS_MOST: usize = 100;
/// Lines that a page shows; all are in the table and on paper.
const LINES_MOST: usize = 500;
/// Months that can be chosen by the form.
const MONTHS: i32 = 14;

/// Reads what is asked for. The month is one of the clock of the region, or else of the capital.
fn wanted(reader: &Reader) -> Result<Wanted, Problem> {
    let asked = reader.asked();
    let region = asked.get("region");
    let zone = region.map_or(Zone::Wib, |region| Zone::of_region(region));
    let by = match asked.get("by") {
        None => match region.map(|code| code.split('.').count()) {
            None => By::Province,
            Some(1) => By::Regency,
            Some(_) => By::Office,
        },
        Some(text) => *By::ALL
            .iter()
            .find(|by| by.as_str() == text)
            .ok_or_else(|| {
                Invalid::new(
                    "by",
                    text.escape_debug(),
                    "not one of the choices",
                    "write `office`, `regency`, `province` or `nation`",
                )
            })?,
    };
    let hours = match asked.get("hours").map(String::as_str) {
        None | Some("opening") => Counted::Opening,
        Some("all") => Counted::All,
        Some(text) => {
            let fix = "write `opening` or `all`";
            return Err(
                Invalid::new("hours", text.escape_debug(), "not one of the choices", fix).into(),
            );
        }
    };
    let month = match asked.get("month") {
        Some(text) => Month::parse(text, zone)?,
        None => Month::of(reader.now, zone),
    };
    if month.range().start > reader.now {
        let fix = "choose this month, or one before it";
        return Err(Invalid::new("month", month, "it has not begun", fix).into());
    }
    Ok(Wanted {
        by,
        regions: reader.regions(region)?,
        month,
        hours,
    })
}

/// Reads the report of what is asked for: as long as that takes, it is one of the long answers.
async fn report(shared: &Arc<Shared>, reader: &Reader, wanted: &Wanted) -> Result<Report, Problem> {
    let slot = api::slot(shared, &reader.caller.person())?;
    let (shared, wanted, now) = (Arc::clone(shared), wanted.clone(), reader.now);
    let made = tokio::task::spawn_blocking(move || {
        let made = make(&shared, &wanted, now);
        drop(slot);
        made
    });
    Ok(made.await.context("a report panicked")??)
}

/// What a report is of, in words.
struct Title {
    what: String,
    month: String,
    /// Which of its kind it is.
    revision: String,
    hours: String,
}

impl Title {
    fn of(reader: &Reader, shared: &Shared, wanted: &Wanted, report: &Report) -> Self {
        let words = reader.words;
        let regions: Vec<String> = wanted
            .regions
            .each()
            .map(|code| region_text(code, &shared.query.registry, &reader.caller.regions))
            .collect();
        let what = if regions.is_empty() {
            words.say("overview.nation")
        } else {
            regions.join(", ")
        };
        let month = format!(
            "{} {}",
            words.of("month_name", &wanted.month.number().to_string()),
            wanted.month.year()
        );
        let zone = zone_of(wanted);
        let made = words.day(report.made_ms, zone);
        let revision = match report.revision {
            Some(revision) => words.fill(
                "report.revision",
                &[
                    ("number", &revision.number.to_string()),
                    ("day", &words.day(revision.since_ms, zone)),
                ],
            ),
            None => words.fill(
                "report.provisional",
                &[
                    ("day", &made),
                    (
                        "time",
                        &words.time(report.made_ms, report.made_ms, zone, Exact::Minute),
                    ),
                ],
            ),
        };
        let hours = words.say(match wanted.hours {
            Counted::Opening => "report.opening",
            Counted::All => "report.all",
        });
        Self {
            what,
            month,
            revision,
            hours,
        }
    }
}

fn zone_of(wanted: &Wanted) -> Zone {
    wanted
        .regions
        .each()
        .next()
        .map_or(Zone::Wib, Zone::of_region)
}

/// The name of a line: of an office or region, or its code.
fn name_of(words: Words, line: &AvailabilityView) -> String {
    match line.by {
        By::Nation => words.say("report.total"),
        By::Province => province(&line.code).unwrap_or(&line.code).to_owned(),
        By::Regency | By::Office => line.name.clone().unwrap_or_else(|| line.code.clone()),
    }
}

pub(super) async fn show(
    State(shared): State<Arc<Shared>>,
    reader: Reader,
) -> Result<Response, Problem> {
    let wanted = wanted(&reader)?;
    let report = report(&shared, &reader, &wanted).await?;
    let words = reader.words;
    let title = Title::of(&reader, &shared, &wanted, &report);
    let body = html! {
        @if !shared.letterhead.is_empty() {
            div class="letterhead" { @for line in shared.letterhead.iter() { p { (line) } } }
        }
        h1 { (words.fill("report.title", &[("what", &title.what), ("month", &title.month)])) }
        p { (title.revision) " · " (title.hours) }
        (form(&reader, &wanted))
        p class="choices noprint" {
            a href={ "/laporan.pdf" (query_of(&reader, &wanted)) } { "PDF (A4)" } " "
            a href={ "/laporan.csv" (query_of(&reader, &wanted)) } { "CSV" }
        }
        (table(&reader, &wanted, &report))
        (gaps(&reader, &shared, &report))
        section aria-labelledby="method" {
            h2 id="method" { (words.say("report.method_title")) }
            p { (words.say("report.method")) }
            p { (words.say("report.method_revision")) }
        }
    };
    Ok(reader.page(Tab::Reports, &words.say("tab.reports"), Live::Still, &body))
}

/// The same question for another form of the report.
fn query_of(reader: &Reader, wanted: &Wanted) -> String {
    let asked = reader.asked();
    let month = wanted.month.to_string();
    let hours = match wanted.hours {
        Counted::Opening => "",
        Counted::All => "all",
    };
    let values = [
        ("by", wanted.by.as_str()),
        ("region", asked.get("region").map_or("", |text| text)),
        ("month", &month),
        ("hours", hours),
        ("lang", reader.words.language.code()),
    ];
    super::reader::address("", values.into_iter())
}

fn form(reader: &Reader, wanted: &Wanted) -> Markup {
    let words = reader.words;
    let asked = reader.asked();
    let present = Month::of(reader.now, zone_of(wanted));
    let months = (0..MONTHS).map(|back| present.plus(-back));
    html! {
        form method="get" class="filter noprint" {
            label { span { (words.say("report.month")) } select name="month" {
                @for month in months {
                    option value=(month) selected[month == wanted.month] { (words.of("month_name", &month.number().to_string())) " " (month.year()) }
                }
            } }
            label { span { (words.say("report.by")) } select name="by" {
                @for by in By::ALL { option value=(by.as_str()) selected[by == wanted.by] { (words.of("by", by.as_str())) } }
            } }
            label { span { (words.say("region_code")) } input name="region" value=(asked.get("region").map_or("", |text| text)) placeholder="11.01" size="8" inputmode="decimal"; }
            label { span { (words.say("report.hours")) } select name="hours" {
                option value="opening" selected[wanted.hours == Counted::Opening] { (words.say("report.opening")) }
                option value="all" selected[wanted.hours == Counted::All] { (words.say("report.all")) }
            } }
            button { (words.say("find")) }
        }
    }
}

fn table(reader: &Reader, wanted: &Wanted, report: &Report) -> Markup {
    let words = reader.words;
    let row = |line: &AvailabilityView, is_total: bool| {
        let times = &line.times;
        html! {
            tr class=[is_total.then_some("total")] {
                th scope="row" {
                    @if line.by == By::Office { a href={ "/kantor/" (line.code) } { (name_of(words, line)) } }
                    @else { (name_of(words, line)) }
                    @if !line.code.is_empty() { " " small { (line.code) } }
                }
                @if wanted.by != By::Office { td class="number" { (line.offices) } }
                td class="number" { strong { (words.percent(line.percent)) } }
                td class="number" { (words.percent(line.observed_percent)) }
                td class="number" { (words.hours(times.down_ms)) }
                td class="number" { (words.hours(times.unobserved_ms)) }
                td class="number" { (words.hours(times.announced_ms)) }
            }
        }
    };
    html! {
        section aria-label=(words.say("tab.reports")) {
            div class="scroll" tabindex="0" { table {
                thead { tr {
                    th scope="col" { (words.of("by", wanted.by.as_str())) }
                    @if wanted.by != By::Office { th scope="col" class="number" { (words.say("offices")) } }
                    th scope="col" class="number" { (words.say("report.available")) }
                    th scope="col" class="number" { (words.say("report.observed")) }
                    th scope="col" class="number" { (words.say("report.down")) }
                    th scope="col" class="number" { (words.say("report.unobserved")) }
                    th scope="col" class="number" { (words.say("report.announced")) }
                } }
                tbody {
                    @for line in report.lines.iter().take(LINES_MOST) { (row(line, false)) }
                    @if let Some(total) = report.total.as_ref().filter(|_| report.lines.len() > 1) { (row(total, true)) }
                }
            } }
            @if report.lines.is_empty() { p { (words.say("offices.none_here")) } }
            @if report.lines.len() > LINES_MOST { p { (words.fill("report.cut", &[("count", &(report.lines.len() - LINES_MOST).to_string())])) } }
        }
    }
}

fn gaps(reader: &Reader, shared: &Shared, report: &Report) -> Markup {
    let words = reader.words;
    let registry = &shared.query.registry;
    let left = report.gaps.len().saturating_sub(GAPS_MOST);
    html! {
        section aria-labelledby="gaps" {
            h2 id="gaps" { (words.say("report.gaps")) }
            p class="soft" { (words.say("report.gaps_about")) }
            @if report.gaps.is_empty() { p { (words.say("report.no_gaps")) } }
            @else {
                div class="scroll" tabindex="0" { table {
                    thead { tr { th scope="col" { (words.say("office")) } th scope="col" { (words.say("report.from")) } th scope="col" { (words.say("report.to")) } th scope="col" class="number" { (words.say("report.counted")) } } }
                    tbody { @for gap in report.gaps.iter().take(GAPS_MOST) {
                        @let zone = Zone::of(&gap.office);
                        tr {
                            th scope="row" { a href={ "/kantor/" (gap.office) } { (office_name(&gap.office, registry)) } }
                            td { (words.time(gap.from_ms, UnixMillis(0), zone, Exact::Minute)) }
                            td { (words.time(gap.to_ms, UnixMillis(0), zone, Exact::Minute)) }
                            td class="number" { (words.hours(gap.counted_ms)) }
                        }
                    } }
                } }
                @if left > 0 { p { (words.fill("report.more_gaps", &[("count", &left.to_string())])) } }
            }
        }
    }
}

/// A name for the file.
fn file_name(wanted: &Wanted, kind: &str) -> String {
    let regions: Vec<&str> = wanted.regions.each().collect();
    let where_ = if regions.is_empty() {
        "nasional".to_owned()
    } else {
        regions.join("_")
    };
    format!(
        "attachment; filename=\"denyut-{where_}-{}.{kind}\"",
        wanted.month
    )
}

fn file(kind: &'static str, name: &str, bytes: Vec<u8>) -> Response {
    let mut response = bytes.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(
        header::CACHE_CONTROL,
        HeaderValue::from_static("private, no-cache"),
    );
    if let Ok(name) = HeaderValue::from_str(name) {
        headers.insert(header::CONTENT_DISPOSITION, name);
    }
    response
}

/// The report as a table, with what it is of in each line.
pub(super) async fn csv(
    State(shared): State<Arc<Shared>>,
    reader: Reader,
) -> Result<Response, Problem> {
    let wanted = wanted(&reader)?;
    let report = report(&shared, &reader, &wanted).await?;
    let mut writer = csv::WriterBuilder::new()
        .terminator(csv::Terminator::CRLF)
        .from_writer(Vec::new());
    let revision = report
        .revision
        .map_or_else(String::new, |one| one.number.to_string());
    let share = |share: Option<f64>| share.map_or_else(String::new, |share| share.to_string());
    let head = [
        "month",
        "revision",
        "by",
        "code",
        "name",
        "offices",
        "hours",
        "counted_ms",
        "up_ms",
        "down_ms",
        "unobserved_ms",
        "announced_ms",
        "percent",
        "observed_percent",
    ];
    let write = || -> anyhow::Result<Vec<u8>> {
        writer.write_record(head)?;
        for line in &report.lines {
            let hours = match line.hours {
                Counted::Opening => "opening",
                Counted::All => "all",
            };
            let times = &line.times;
            writer.write_record([
                &wanted.month.to_string(),
                &revision,
                line.by.as_str(),
                &line.code,
                &api::plain(&name_of(reader.words, line)),
                &line.offices.to_string(),
                hours,
                &times.counted_ms.to_string(),
                &times.up_ms.to_string(),
                &times.down_ms.to_string(),
                &times.unobserved_ms.to_string(),
                &times.announced_ms.to_string(),
                &share(line.percent),
                &share(line.observed_percent),
            ])?;
        }
        Ok(writer
            .into_inner()
            .map_err(csv::IntoInnerError::into_error)?)
    };
    let bytes = write()?;
    Ok(file(
        "text/csv; charset=utf-8; header=present",
        &file_name(&wanted, "csv"),
        bytes,
    ))
}

/// The report on paper.
pub(super) async fn pdf(
    State(shared): State<Arc<Shared>>,
    reader: Reader,
) -> Result<Response, Problem> {
    let wanted = wanted(&reader)?;
    let report = report(&shared, &reader, &wanted).await?;
    let title = Title::of(&reader, &shared, &wanted, &report);
    let name = file_name(&wanted, "pdf");
    let draw = move || paper(&reader, &shared, &wanted, &report, &title);
    let bytes = tokio::task::spawn_blocking(draw)
        .await
        .context("a paper panicked")?;
    Ok(file("application/pdf", &name, bytes))
}

fn paper(
    reader: &Reader,
    shared: &Shared,
    wanted: &Wanted,
    report: &Report,
    title: &Title,
) -> Vec<u8> {
    let words = reader.words;
    let language = match words.language {
        Language::Id => "id",
        Language::En => "en",
    };
    let heading = words.fill(
        "report.title",
        &[("what", &title.what), ("month", &title.month)],
    );
    let mut paper = Paper::new(heading.clone(), language);
    paper.letterhead(&shared.letterhead);
    paper.heading(&heading, 13.0);
    paper.paragraph(&format!("{} · {}", title.revision, title.hours));
    let column = |key: &str, width: f32| Column {
        title: words.say(key),
        width,
        is_number: true,
    };
    let by_office = wanted.by == By::Office;
    let name = Column {
        title: words.of("by", wanted.by.as_str()),
        width: if by_office { 177.0 } else { 134.0 },
        is_number: false,
    };
    let mut columns = vec![name];
    if !by_office {
        columns.push(column("offices", 43.0));
    }
    columns.extend([
        column("report.available", 56.0),
        column("report.observed", 58.0),
        column("report.down", 68.0),
        column("report.unobserved", 72.0),
        column("report.announced", 60.0),
    ]);
    let total = report.total.as_ref().filter(|_| report.lines.len() > 1);
    let rows: Vec<Vec<String>> = report
        .lines
        .iter()
        .chain(total)
        .map(|line| {
            let mut cells = vec![format!("{} {}", name_of(words, line), line.code)];
            if !by_office {
                cells.push(line.offices.to_string());
            }
            let times = &line.times;
            cells.extend([
                words.percent(line.percent),
                words.percent(line.observed_percent),
                words.hours(times.down_ms),
                words.hours(times.unobserved_ms),
                words.hours(times.announced_ms),
            ]);
            cells
        })
        .collect();
    paper.table(&columns, &rows, usize::from(total.is_some()));
    paper.heading(&words.say("report.gaps"), 11.0);
    paper.paragraph(&words.say("report.gaps_about"));
    if report.gaps.is_empty() {
        paper.paragraph(&words.say("report.no_gaps"));
    } else {
        gap_table(reader, shared, report, &mut paper);
    }
    paper.heading(&words.say("report.method_title"), 11.0);
    paper.paragraph(&words.say("report.method"));
    paper.paragraph(&words.say("report.method_revision"));
    let made = made(report.made_ms);
    let foot = format!(
        "denyut · {} · {}",
        title.revision,
        words.fill(
            "report.made",
            &[(
                "time",
                &words.time(
                    report.made_ms,
                    UnixMillis(0),
                    zone_of(wanted),
                    Exact::Minute
                )
            )]
        )
    );
    paper.finish(&foot, made)
}

fn gap_table(reader: &Reader, shared: &Shared, report: &Report, paper: &mut Paper) {
    let words = reader.words;
    let column = |key: &str, width: f32, is_number| Column {
        title: words.say(key),
        width,
        is_number,
    };
    let columns = [
        column("office", 190.0, false),
        column("report.from", 110.0, false),
        column("report.to", 110.0, false),
        column("report.counted", 81.0, true),
    ];
    let rows: Vec<Vec<String>> = report
        .gaps
        .iter()
        .take(GAPS_MOST)
        .map(|gap| {
            let zone = Zone::of(&gap.office);
            // On paper no day goes without saying.
            let time = |at| words.time(at, UnixMillis(0), zone, Exact::Minute);
            vec![
                format!(
                    "{} {}",
                    office_name(&gap.office, &shared.query.registry),
                    gap.office
                ),
                time(gap.from_ms),
                time(gap.to_ms),
                words.hours(gap.counted_ms),
            ]
        })
        .collect();
    paper.table(&columns, &rows, 0);
    let left = report.gaps.len().saturating_sub(GAPS_MOST);
    if left > 0 {
        paper.paragraph(&words.fill("report.more_gaps", &[("count", &left.to_string())]));
    }
}

/// Year, month, day, hour and minute (UTC).
fn made(at: UnixMillis) -> (u16, u8, u8, u8, u8) {
    let at = Timestamp::from_millisecond(at.0).unwrap_or_default();
    let at = at.to_zoned(jiff::tz::TimeZone::UTC);
    let small = |value: i8| u8::try_from(value).unwrap_or(0);
    (
        u16::try_from(at.year()).unwrap_or(0),
        small(at.month()),
        small(at.day()),
        small(at.hour()),
        small(at.minute()),
    )
}
