//! Villages (*kelurahan*, *desa*) and where they lie, from a CSV file with the columns `code,name,latitude,longitude`: citizens choose theirs, and their device says which office is near.

use crate::plain::{self, NAME_MOST};
use crate::table;
use anyhow::{Context, bail};
use denyut_proto::OfficeCode;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;

/// A village.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Village {
    pub(crate) name: String,
    /// Latitude and longitude in degrees.
    pub(crate) place: (f64, f64),
}

/// The villages of each regency (`36.73`), by name.
pub(crate) type Villages = BTreeMap<String, Vec<Village>>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    code: String,
    name: String,
    latitude: String,
    longitude: String,
}

/// Reads a file.
pub(crate) fn read(path: &Path) -> anyhow::Result<Villages> {
    let file = table::open("public.villages", path)?;
    parse(file).with_context(|| format!("`public.villages`: {}", path.display()))
}

pub(crate) fn parse(text: impl std::io::Read) -> anyhow::Result<Villages> {
    let mut villages = Villages::new();
    let mut codes = BTreeMap::new();
    for (line, told) in table::rows::<Line>(text, "code,name,latitude,longitude")? {
        let code: OfficeCode = told
            .code
            .parse()
            .map_err(anyhow::Error::from)
            .with_context(|| format!("line {line}"))?;
        if code.as_str().len() != 13 {
            bail!("line {line}: `code` = `{code}`: not a village; write it like `36.73.02.1001`");
        }
        let name = plain::name("name", &told.name, NAME_MOST);
        let name = name.with_context(|| format!("line {line}"))?;
        if let Some(other) = codes.insert(code.clone(), line) {
            bail!(
                "line {line}: `code` = `{code}`: line {other} has it already; give each village its own"
            );
        }
        let degrees = |column: &str, text: &str, most: f64| {
            let value = text.parse::<f64>().ok();
            let value = value.filter(|value| (-most..=most).contains(value));
            value.with_context(|| {
                format!(
                    "line {line}: `{column}` = `{}`: write -{most} to {most} degrees with a point",
                    text.escape_debug()
                )
            })
        };
        let place = (
            degrees("latitude", &told.latitude, 90.0)?,
            degrees("longitude", &told.longitude, 180.0)?,
        );
        let regency = code.as_str()[..5].to_owned();
        villages
            .entry(regency)
            .or_default()
            .push(Village { name, place });
    }
    if villages.is_empty() {
        bail!("it holds no village");
    }
    for of_regency in villages.values_mut() {
        of_regency.sort_by(|one, two| one.name.cmp(&two.name));
    }
    Ok(villages)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn villages_lie_in_their_regency_by_name() {
        let text = "code,name,latitude,longitude\n36.73.02.1002,Karundang,-6.13,106.15\n36.73.02.1001,Banjar Agung,-6.12,106.16\n31.71.01.1001,Gambir,-6.17,106.82\n";
        let villages = parse(text.as_bytes()).expect("reads");
        let names: Vec<&str> = villages["36.73"]
            .iter()
            .map(|one| one.name.as_str())
            .collect();
        assert_eq!(
            (villages.len(), names),
            (2, vec!["Banjar Agung", "Karundang"])
        );
        for (line, wrong) in [
            ("36.73.02,Cipocok,-6,106", "not a village"),
            ("36.73.02.1001,,-6,106", "`name`"),
            ("36.73.02.1001,X,-96,106", "`latitude` = `-96`"),
            ("36.73.02.1001,X,-6,east", "`longitude` = `east`"),
            ("x,X,-6,106", "line 2"),
            ("36.73.02.1001,\u{202e}X,-6,106", "`name` = `\\u{202e}X`"),
            (
                "36.73.02.1001,X,-6,106\n36.73.02.1001,Y,-6,106",
                "line 2 has it",
            ),
            ("", "no village"),
        ] {
            let text = format!("code,name,latitude,longitude\n{line}\n");
            let error = format!("{:#}", parse(text.as_bytes()).expect_err("is refused"));
            assert!(error.contains(wrong), "{line}: {error}");
        }
    }
}
