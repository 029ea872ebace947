//! National holidays from a file: CSV with the columns `date,name`, or a calendar (`.ics`, RFC 5545) as offices and the
//! government publish them.

use crate::table;
use anyhow::{Context, bail};
use denyut_detect::calendar::Holidays;
use icalendar::{Calendar, CalendarComponent, Component, DatePerhapsTime};
use jiff::civil::Date;
use serde::Deserialize;
use std::path::Path;

/// Days of one event, at most: what is longer is no holiday.
const DAYS_MAX: i32 = 31;

/// Reads a file; an error names the line or the event.
pub(crate) fn read(path: &Path) -> anyhow::Result<Holidays> {
    let text = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let is_calendar = path
        .extension()
        .is_some_and(|ending| ending.eq_ignore_ascii_case("ics"));
    let read = if is_calendar {
        str::from_utf8(&text)
            .context("not UTF-8; save it as UTF-8")
            .and_then(ics)
    } else {
        csv(&text)
    };
    read.with_context(|| path.display().to_string())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    date: String,
    name: String,
}

pub(crate) fn csv(text: &[u8]) -> anyhow::Result<Holidays> {
    let mut holidays = Holidays::default();
    for (number, line) in table::rows::<Line>(text, "date,name")? {
        let date: Date = line.date.parse().ok().with_context(|| {
            format!(
                "line {number}: `date` = `{}`: not a date; write it like `2026-08-17`",
                line.date
            )
        })?;
        holidays.add(date, &line.name);
    }
    if holidays.is_empty() {
        bail!("it holds no holiday");
    }
    Ok(holidays)
}

pub(crate) fn ics(text: &str) -> anyhow::Result<Holidays> {
    let calendar: Calendar = text
        .parse()
        .map_err(|error: String| anyhow::anyhow!("not a calendar: {error}"))?;
    let mut holidays = Holidays::default();
    for component in &calendar.components {
        let CalendarComponent::Event(event) = component else {
            continue;
        };
        if event.property_value("STATUS") == Some("CANCELLED") {
            continue;
        }
        let name = event.get_summary().unwrap_or_default();
        let start = event
            .get_start()
            .with_context(|| format!("the event `{name}` has no start"))?;
        let first = date(&start).with_context(|| format!("the event `{name}` does not start with a day; write it like `DTSTART;VALUE=DATE:20260817`"))?;
        for repeats in ["RRULE", "RDATE", "EXDATE", "DURATION"] {
            if event.property_value(repeats).is_some() {
                bail!(
                    "the event `{name}` has a {repeats}; write each of its days as an event of its own"
                );
            }
        }
        // The end of whole days is the day after the last.
        let end = event.get_end().as_ref().and_then(date);
        if let Some(end) = end.filter(|end| *end < first) {
            bail!("the event `{name}` from {first} ends before that ({end}); mend it");
        }
        let days = end.map_or(1, |end| {
            first.until(end).map_or(1, |span| span.get_days()).max(1)
        });
        if days > DAYS_MAX {
            bail!(
                "the event `{name}` from {first} lasts {days} days: more than {DAYS_MAX} are no holiday; take it out of the file"
            );
        }
        for day in 0..days {
            let date = first
                .checked_add(jiff::Span::new().days(day))
                .with_context(|| format!("the event `{name}` ends after all time"))?;
            holidays.add(date, name);
        }
    }
    if holidays.is_empty() {
        bail!("it holds no event");
    }
    Ok(holidays)
}

/// The local day.
fn date(at: &DatePerhapsTime) -> Option<Date> {
    let text = match at {
        DatePerhapsTime::Date(date) => date.to_string(),
        DatePerhapsTime::DateTime(_) => return None,
    };
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_say_the_same() {
        let lines = csv(b"date,name\n2026-03-20,Idul Fitri\n2026-03-21,Idul Fitri\n2026-08-17,Hari Kemerdekaan\n").expect("reads");
        let event = |start: &str, end: &str, name: &str| {
            format!(
                "BEGIN:VEVENT\r\nUID:{start}\r\nDTSTAMP:20250101T000000Z\r\nDTSTART;VALUE=DATE:{start}\r\n{end}SUMMARY:{name}\r\nEND:VEVENT\r\n"
            )
        };
        let text = format!(
            "BEGIN:VCALENDAR\r\nVERSION:2.0\r\nPRODID:x\r\n{}{}END:VCALENDAR\r\n",
            event("20260320", "DTEND;VALUE=DATE:20260322\r\n", "Idul Fitri"),
            event("20260817", "", "Hari Kemerdekaan")
        );
        assert_eq!(ics(&text).expect("reads"), lines);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let error = csv(b"date,name\n2026-01-01,a\n2026-01-01,c\n17-08-2026,b\n")
            .expect_err("is refused")
            .to_string();
        assert!(error.contains("line 4: `date` = `17-08-2026`"), "{error}");
        assert!(csv(b"date,name\n").is_err(), "no holiday");
        let yearly = "BEGIN:VCALENDAR\r\nVERSION:2.0\r\nBEGIN:VEVENT\r\nUID:1\r\nDTSTAMP:20250101T000000Z\r\nDTSTART;VALUE=DATE:20260817\r\nRRULE:FREQ=YEARLY\r\nSUMMARY:x\r\nEND:VEVENT\r\nEND:VCALENDAR\r\n";
        let error = ics(yearly).expect_err("is refused").to_string();
        assert!(error.contains("`x` has a RRULE"), "{error}");
        let backwards = yearly.replace("RRULE:FREQ=YEARLY", "DTEND;VALUE=DATE:20260815");
        let error = ics(&backwards).expect_err("is refused").to_string();
        assert!(error.contains("ends before that"), "{error}");
        for text in ["", "BEGIN:VCALENDAR\r\nEND:VCALENDAR\r\n", "hello"] {
            assert!(ics(text).is_err(), "{text:?}");
        }
    }
}
