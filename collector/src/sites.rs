//! Offices from a CSV file: one line each, with the columns `code,name` and any of
//! `regency,isp,pop,pool,latitude,longitude,hours,agents` (agents separated by spaces).

use crate::config::OfficeSection;
use crate::table;
use anyhow::{Context, bail};
use serde::Deserialize;
use std::path::Path;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    code: String,
    name: String,
    regency: Option<String>,
    isp: Option<String>,
    pop: Option<String>,
    pool: Option<String>,
    latitude: Option<String>,
    longitude: Option<String>,
    hours: Option<String>,
    agents: Option<String>,
}

/// Reads a file: each office with the number of its line. What its texts say is checked with the other offices.
pub(crate) fn read(path: &Path) -> anyhow::Result<Vec<(u64, OfficeSection)>> {
    let file = table::open("offices", path)?;
    parse(file).with_context(|| format!("`offices`: {}", path.display()))
}

pub(crate) fn parse(text: impl std::io::Read) -> anyhow::Result<Vec<(u64, OfficeSection)>> {
    let columns = "code,name and any of regency,isp,pop,pool,latitude,longitude,hours,agents";
    let mut offices = Vec::new();
    for (line, told) in table::rows::<Line>(text, columns)? {
        let degrees = |column: &str, text: &Option<String>| match text
            .as_deref()
            .filter(|text| !text.is_empty())
        {
            None => Ok(None),
            Some(text) => match text.parse::<f64>() {
                Ok(degrees) => Ok(Some(degrees)),
                Err(_) => bail!(
                    "line {line}: `{column}` = `{text}`: not a number; write degrees like `-6.1201` with a point"
                ),
            },
        };
        let office = OfficeSection {
            latitude: degrees("latitude", &told.latitude)?,
            longitude: degrees("longitude", &told.longitude)?,
            code: told.code,
            name: told.name,
            agents: told
                .agents
                .unwrap_or_default()
                .split_whitespace()
                .map(str::to_owned)
                .collect(),
            regency: told.regency,
            isp: told.isp,
            pop: told.pop,
            pool: told.pool,
            hours: told.hours.filter(|text| !text.is_empty()),
            target: Vec::new(),
        };
        offices.push((line, office));
    }
    if offices.is_empty() {
        bail!("it holds no office");
    }
    Ok(offices)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_an_office_and_empty_columns_are_none() {
        let text = "code,name,isp,latitude,longitude,agents\n36.73.01, Serang ,telkom,-6.11,106.15,serang-1 serang-2\n36.73.02,Cipocok Jaya,,,,\n";
        let offices = parse(text.as_bytes()).expect("reads");
        assert_eq!(
            (
                offices[0].0,
                offices[0].1.name.as_str(),
                offices[0].1.agents.len()
            ),
            (2, "Serang", 2)
        );
        assert_eq!(
            (
                offices[1].0,
                offices[1].1.latitude,
                offices[1].1.agents.len()
            ),
            (3, None, 0)
        );
    }

    #[test]
    fn a_wrong_line_is_named() {
        for (text, wrong) in [
            ("code,name\n36.73.01\n", "line 2: 1 columns"),
            (
                "code,name,longitud\n36.73.01,Serang,1\n",
                "line 2: expected the columns",
            ),
            (
                "code,name,latitude\n36.73.01,Serang,\"6,1\"\n",
                "line 2: `latitude` = `6,1`",
            ),
        ] {
            let error = format!("{:#}", parse(text.as_bytes()).expect_err("is refused"));
            assert!(error.contains(wrong), "{error}");
        }
    }
}
