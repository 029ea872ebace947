//! Recorded histories: CSV with the columns `unix_s,site,state,http_status,latency_ms`, one line a check or a change; between lines the last
//! state holds.

use anyhow::{Context, anyhow, bail};
use serde::Deserialize;
use std::collections::BTreeMap;

/// What a check said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It answered.
    Up,
    /// It answered badly.
    Degraded,
    /// It did not answer.
    Down,
}

/// One check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Check {
    /// Seconds since 1970 UTC.
    pub at_s: i64,
    /// What it said.
    pub state: State,
}

/// Checks by site, each ascending in time.
pub type Recorded = BTreeMap<String, Vec<Check>>;

/// Times that are taken: 1970 to 2070.
const TIMES: std::ops::Range<i64> = 0..3_155_760_000;

/// A line as written.
#[derive(Debug, Deserialize)]
struct Line {
    unix_s: i64,
    site: String,
    state: State,
    #[serde(rename = "http_status")]
    _http_status: u16,
    #[serde(rename = "latency_ms")]
    _latency_ms: u32,
}

/// What is wrong with a line, and in which column: the reader itself counts them from 0.
fn explain(error: &csv::Error, headers: &csv::StringRecord) -> anyhow::Error {
    let csv::ErrorKind::Deserialize { pos, err } = error.kind() else {
        return anyhow!("{error}");
    };
    let line = pos.as_ref().map_or(0, csv::Position::line);
    let column = err
        .field()
        .and_then(|field| headers.get(usize::try_from(field).ok()?));
    match column {
        Some(column) => anyhow!("line {line}, `{column}`: {}", err.kind()),
        None => anyhow!("line {line}: {}", err.kind()),
    }
}

/// Reads the text of a file; an error names the line.
pub fn parse(text: impl std::io::Read) -> anyhow::Result<Recorded> {
    let mut reader = csv::Reader::from_reader(text);
    let headers = reader
        .headers()
        .context("cannot read its first line")?
        .clone();
    let mut recorded = Recorded::new();
    for line in reader.deserialize() {
        let line: Line = line.map_err(|error| explain(&error, &headers)).context(
            "expected the columns unix_s,site,state,http_status,latency_ms with state up, degraded or down",
        )?;
        if !TIMES.contains(&line.unix_s) {
            bail!(
                "`unix_s` = `{}` of `{}`: not between 1970 and 2070; write seconds since 1970 UTC, not milliseconds",
                line.unix_s,
                line.site.escape_debug()
            );
        }
        let checks = recorded.entry(line.site).or_default();
        checks.push(Check {
            at_s: line.unix_s,
            state: line.state,
        });
    }
    for checks in recorded.values_mut() {
        checks.sort_by_key(|check| check.at_s);
    }
    if recorded.is_empty() {
        bail!("it holds no checks");
    }
    Ok(recorded)
}

/// The checks of one site; `site` may be left out where there is one only.
pub fn site(mut recorded: Recorded, site: Option<&str>) -> anyhow::Result<Vec<Check>> {
    match site {
        Some(site) => recorded
            .remove(site)
            .with_context(|| format!("`--site` = `{site}`: it is not in the file")),
        None if recorded.len() == 1 => Ok(recorded.into_values().next().unwrap_or_default()),
        None => bail!(
            "the file holds {} sites; name one by --site (the first is {})",
            recorded.len(),
            recorded.keys().next().map_or("", String::as_str)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "unix_s,site,state,http_status,latency_ms\n";

    #[test]
    fn lines_are_checks_by_site_in_the_order_of_time() {
        let text = format!("{HEAD}20,b,down,0,9\n10,a,up,200,5\n5,b,degraded,200,5\n");
        let recorded = parse(text.as_bytes()).expect("reads");
        let times: Vec<i64> = recorded["b"].iter().map(|check| check.at_s).collect();
        assert_eq!((recorded.len(), times), (2, vec![5, 20]));
        assert!(site(recorded.clone(), None).is_err());
        assert_eq!(
            site(recorded, Some("a")).expect("is there")[0].state,
            State::Up
        );
    }

    #[test]
    fn a_bad_line_is_named() {
        for (line, wrong) in [
            ("10,a,sideways,200,5", "line 2: unknown variant `sideways`"),
            ("ten,a,up,200,5", "line 2, `unix_s`: invalid digit"),
            ("10,a,up,200", "line: 2"),
            (
                "1763983305000,a,up,200,1",
                "`unix_s` = `1763983305000` of `a`: not between 1970 and 2070",
            ),
        ] {
            let error = parse(format!("{HEAD}{line}\n").as_bytes()).expect_err("is refused");
            assert!(format!("{error:#}").contains(wrong), "{error:#}");
        }
        assert!(parse(HEAD.as_bytes()).is_err());
    }
}
