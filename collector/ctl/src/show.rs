//! Printing: tables for people, JSON and CSV for programs.

use crate::arguments::Output;
use anyhow::{Context, bail};
use denyut_detect::calendar::Zone;
use jiff::Timestamp;
use jiff::tz::{Offset, TimeZone};
use serde_json::Value;
use std::io::{IsTerminal, Write};

/// What a cell of a table shows.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Text,
    /// A state or status, in its colour.
    State,
    /// Unix ms, by the clock of the office in `office`, `code` or the first of `regions`.
    Time,
    /// A length of time in ms.
    Length,
    /// Whether something is so.
    Flag,
}

/// A column: its title, where its value is (`a.b`), and what it shows.
pub(crate) type Column = (&'static str, &'static str, Kind);

/// How to print.
pub(crate) struct Show {
    output: Output,
    coloured: bool,
}

impl Show {
    pub(crate) fn new(output: Output) -> Self {
        let coloured = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self { output, coloured }
    }

    pub(crate) fn is_json(&self) -> bool {
        self.output == Output::Json
    }

    /// A table for programs: nothing but it is printed.
    pub(crate) fn is_csv(&self) -> bool {
        self.output == Output::Csv
    }

    /// A text in the colour of a state.
    pub(crate) fn state(&self, state: &str, text: &str) -> String {
        let colour = match state {
            "up" | "closed_incident" | "resolved" => "32",
            "down" | "open" | "critical" => "31;1",
            "suspect" | "recovering" | "acknowledged" | "probation" => "33",
            "unobserved" => "35",
            "maintenance" | "closed" => "34",
            _ => return text.to_owned(),
        };
        if self.coloured {
            format!("\u{1b}[{colour}m{text}\u{1b}[0m")
        } else {
            text.to_owned()
        }
    }

    pub(crate) fn strong(&self, text: &str) -> String {
        if self.coloured {
            format!("\u{1b}[1m{text}\u{1b}[0m")
        } else {
            text.to_owned()
        }
    }

    /// Prints a list; what to say of an empty one.
    pub(crate) fn list(
        &self,
        rows: &[Value],
        columns: &[Column],
        none: &str,
    ) -> anyhow::Result<()> {
        match self.output {
            Output::Json => line(&serde_json::to_string_pretty(rows)?),
            Output::Csv => {
                let mut writer = csv::Writer::from_writer(Vec::new());
                writer.write_record(columns.iter().map(|(_, path, _)| path))?;
                for row in rows {
                    writer.write_record(
                        columns
                            .iter()
                            .map(|(_, path, _)| formula_free(raw(find(row, path)))),
                    )?;
                }
                let text = writer
                    .into_inner()
                    .map_err(|error| anyhow::anyhow!("{error}"))?;
                Ok(std::io::stdout().write_all(&text)?)
            }
            Output::Table if rows.is_empty() => line(none),
            Output::Table => self.table(rows, columns),
        }
    }

    fn table(&self, rows: &[Value], columns: &[Column]) -> anyhow::Result<()> {
        let cells: Vec<Vec<String>> = rows
            .iter()
            .map(|row| {
                columns
                    .iter()
                    .map(|(_, path, kind)| cell(row, find(row, path), *kind))
                    .collect()
            })
            .collect();
        let width = |i: usize| {
            let longest = cells
                .iter()
                .map(|row| row[i].chars().count())
                .max()
                .unwrap_or(0);
            longest.max(columns[i].0.chars().count())
        };
        let widths: Vec<usize> = (0..columns.len()).map(width).collect();
        let pad = |text: &str, i: usize| {
            let gap = if i + 1 == columns.len() {
                0
            } else {
                widths[i] - text.chars().count() + 2
            };
            " ".repeat(gap)
        };
        let mut head = String::new();
        for (i, (title, ..)) in columns.iter().enumerate() {
            head += &(title.to_uppercase() + &pad(title, i));
        }
        line(&self.strong(head.trim_end()))?;
        for row in &cells {
            let mut text = String::new();
            for (i, cell) in row.iter().enumerate() {
                let shown = if matches!(columns[i].2, Kind::State) {
                    self.state(cell, cell)
                } else {
                    cell.clone()
                };
                text += &(shown + &pad(cell, i));
            }
            line(text.trim_end())?;
        }
        Ok(())
    }

    /// Prints one thing: as JSON if that is wanted, or else in words.
    pub(crate) fn one(
        &self,
        value: &Value,
        words: impl FnOnce(&Self) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        if self.is_json() {
            line(&serde_json::to_string_pretty(value)?)
        } else {
            words(self)
        }
    }
}

/// Prints a line.
pub(crate) fn line(text: &str) -> anyhow::Result<()> {
    Ok(writeln!(std::io::stdout(), "{text}")?)
}

/// A field, `a.b` for one in another.
pub(crate) fn find<'a>(value: &'a Value, path: &str) -> &'a Value {
    path.split('.').fold(value, |value, name| &value[name])
}

/// A text that a table program does not take for a formula; a number is what it was.
fn formula_free(text: String) -> String {
    let is_formula =
        text.starts_with(['=', '+', '-', '@', '\t', '\r']) && text.parse::<f64>().is_err();
    if is_formula {
        return format!("'{text}");
    }
    text
}

/// A value as text for programs.
fn raw(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(all) if all.iter().all(Value::is_string) => {
            let all: Vec<&str> = all.iter().filter_map(Value::as_str).collect();
            all.join(" ")
        }
        other => other.to_string(),
    }
}

fn cell(row: &Value, value: &Value, kind: Kind) -> String {
    match (kind, value) {
        (_, Value::Null) => "–".to_owned(),
        (Kind::Time, value) => value
            .as_i64()
            .map_or_else(|| raw(value), |ms| time(ms, region(row))),
        (Kind::Length, value) => value.as_i64().map_or_else(|| raw(value), length),
        (Kind::Flag, Value::Bool(is_so)) => if *is_so { "yes" } else { "no" }.to_owned(),
        // Nothing that somebody wrote may steer the terminal.
        (_, value) => plain(&raw(value)),
    }
}

/// A text without what would steer a terminal.
pub(crate) fn plain(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

/// Where something is, to know by which clock to tell of it.
pub(crate) fn region(row: &Value) -> Option<&str> {
    let first = row["regions"]
        .get(0)
        .and_then(Value::as_str)
        .filter(|region| *region != "all");
    row["office"]
        .as_str()
        .or_else(|| row["code"].as_str())
        .or_else(|| row["region"].as_str())
        .or_else(|| row["scope"]["offices"].get(0)?.as_str())
        .or(first)
}

/// The zone of a region, and its name; without a region UTC.
fn zone(region: Option<&str>) -> (Offset, &'static str) {
    region
        .map(Zone::of_region)
        .map_or((Offset::UTC, "UTC"), |zone| {
            let seconds = i32::try_from(zone.offset_ms() / 1_000).ok();
            let offset = seconds.and_then(|seconds| Offset::from_seconds(seconds).ok());
            (offset.unwrap_or(Offset::UTC), zone.name())
        })
}

/// A month (2026-11) by the clock of a region, or else of Jakarta, as Unix ms; this one if none is named.
pub(crate) fn month(
    text: Option<&str>,
    region: Option<&str>,
    now: Timestamp,
) -> anyhow::Result<(i64, i64)> {
    let zone = TimeZone::fixed(zone(Some(region.unwrap_or("31"))).0);
    let wrong = || {
        format!(
            "`--month` = `{}`: not a month; write it like `2026-11`",
            text.unwrap_or_default()
        )
    };
    let first = match text {
        Some(text) => format!("{text}-01")
            .parse::<jiff::civil::Date>()
            .with_context(wrong)?,
        None => now.to_zoned(zone.clone()).date().first_of_month(),
    };
    if first > now.to_zoned(zone.clone()).date() {
        bail!(
            "`--month` = `{}`: it has not begun; name this month, or one before it",
            text.unwrap_or_default()
        );
    }
    let next = first
        .checked_add(jiff::Span::new().months(1))
        .with_context(wrong)?;
    let ms = |date: jiff::civil::Date| {
        anyhow::Ok(
            date.to_zoned(zone.clone())
                .with_context(wrong)?
                .timestamp()
                .as_millisecond(),
        )
    };
    Ok((ms(first)?, ms(next)?))
}

/// A moment by the clock of a region, with the name of its zone; without a region in UTC.
pub(crate) fn time(ms: i64, region: Option<&str>) -> String {
    let (zone, name) = zone(region);
    let Ok(at) = Timestamp::from_millisecond(ms) else {
        return ms.to_string();
    };
    let at = at.to_zoned(TimeZone::fixed(zone));
    format!("{} {name}", at.strftime("%Y-%m-%d %H:%M:%S"))
}

/// A length of time in its two largest units.
pub(crate) fn length(ms: i64) -> String {
    let seconds = ms.max(0) / 1_000;
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    let units = [
        (days, "d"),
        (hours, "h"),
        (minutes, "min"),
        (seconds % 60, "s"),
    ];
    let first = units.iter().position(|(count, _)| *count > 0).unwrap_or(3);
    let shown = units
        .iter()
        .skip(first)
        .take(2)
        .filter(|(count, _)| *count > 0 || first == 3);
    let shown: Vec<String> = shown
        .map(|(count, unit)| format!("{count} {unit}"))
        .collect();
    shown.join(" ")
}

/// The time now in Unix ms.
pub(crate) fn now() -> i64 {
    Timestamp::now().as_millisecond()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn times_are_told_by_the_clock_of_the_place() {
        let at = 1_795_700_000_000;
        assert_eq!(time(at, Some("36.73.02")), "2026-11-26 20:33:20 WIB");
        assert_eq!(time(at, Some("51")), "2026-11-26 21:33:20 WITA");
        assert_eq!(time(at, Some("91.71.01")), "2026-11-26 22:33:20 WIT");
        assert_eq!(time(at, None), "2026-11-26 13:33:20 UTC");
        assert_eq!(time(i64::MAX, None), i64::MAX.to_string());
        assert_eq!(region(&json!({"regions": ["all"]})), None);
        assert_eq!(
            region(&json!({"scope": {"offices": ["36.73.02"]}})),
            Some("36.73.02")
        );
    }

    #[test]
    fn a_month_is_one_of_the_place() {
        let today: Timestamp = "2026-12-05T00:00:00Z".parse().expect("a moment");
        let month = |text, region| month(text, region, today);
        assert_eq!(
            month(Some("2026-12"), Some("91")).expect("a month"),
            (1_796_050_800_000, 1_798_729_200_000)
        );
        assert_eq!(
            month(Some("2026-12"), None).expect("a month").0
                - month(Some("2026-12"), Some("91")).expect("a month").0,
            2 * 3_600_000
        );
        let (from, to) = month(None, Some("36")).expect("a month");
        assert!((from..to).contains(&today.as_millisecond()));
        let early = month(Some("2027-01"), None).expect_err("is to come");
        assert!(early.to_string().contains("has not begun"), "{early}");
        for wrong in ["2026", "2026-13", "2026-11-26", "", "November"] {
            let error = month(Some(wrong), None).expect_err(wrong).to_string();
            assert!(error.contains("write it like `2026-11`"), "{error}");
        }
    }

    #[test]
    fn lengths_have_two_units() {
        assert_eq!(length(5_400), "5 s");
        assert_eq!(length(65_000), "1 min 5 s");
        assert_eq!(length(3_600_000 * 5), "5 h");
        assert_eq!(length(0), "0 s");
        assert_eq!(length(86_400_000 * 153 + 3_600_000), "153 d 1 h");
    }

    #[test]
    fn what_somebody_wrote_does_not_steer_the_terminal() {
        let row = json!({"by": "a\u{1b}[2Jb\nc"});
        assert_eq!(cell(&row, &row["by"], Kind::Text), "a [2Jb c");
    }
}
