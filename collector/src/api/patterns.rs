//! What goes beyond single incidents.

use super::list::{Asked, Page, Row};
use super::machines::region_of;
use super::problem::Problem;
use super::{Parameters, State};
use crate::access::Caller;
use axum::response::Response;
use denyut_detect::PatternKind;
use denyut_detect::office::Pattern;
use denyut_proto::{Invalid, OfficeCode};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// Which patterns.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ListParameters {
    /// Only offices of this region: a region code or its first parts.
    #[param(example = "36.73")]
    region: Option<String>,
    /// Only this kind.
    #[param(inline)]
    kind: Option<PatternKind>,
    /// Only those that last.
    #[serde(default)]
    present: bool,
}

/// A pattern of an office.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PatternView {
    #[schema(value_type = String, example = "36.73.02")]
    office: OfficeCode,
    #[serde(flatten)]
    pattern: Pattern,
    /// Its place among those of the office.
    #[serde(skip)]
    place: usize,
}

impl Row for PatternView {
    const COLUMNS: &'static [&'static str] = &[
        "office", "kind", "scale", "agent", "target", "from_ms", "until_ms", "count", "with",
        "pool", "identity",
    ];

    fn cursor(&self) -> String {
        format!("{}/{}", self.office, self.place)
    }
}

/// Flapping, relapse, roaming and degradation: what lasts, and what ended within 35 days; by office
#[utoipa::path(
    get,
    path = "/api/v1/patterns",
    params(ListParameters, Page),
    responses((status = 200, body = Vec<PatternView>), (status = 400, body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn list(
    axum::extract::State(shared): State,
    caller: Caller,
    asked: Asked,
    Parameters(parameters): Parameters<ListParameters>,
) -> Result<Response, Problem> {
    let ListParameters {
        region,
        kind,
        present,
    } = parameters;
    let region = region_of(region, &caller.regions)?;
    if let Some(after) = asked.after() {
        place_of(after)?;
    }
    asked
        .answer(shared, move |shared, after, most| {
            let after = after.and_then(|after| place_of(after).ok());
            let mut found = Vec::new();
            let offices = shared.query.registry.offices();
            for office in offices.keys().filter(|office| region.has(office)) {
                if found.len() >= most {
                    break;
                }
                let first = match &after {
                    Some((last, _)) if office < last => continue,
                    Some((last, place)) if office == last => place + 1,
                    _ => 0,
                };
                let all = shared.query.patterns(office, &caller.regions)?;
                let wanted = all
                    .into_iter()
                    .enumerate()
                    .skip(first)
                    .filter(|(_, pattern)| {
                        kind.is_none_or(|kind| kind == pattern.kind)
                            && (!present || pattern.until_ms.is_none())
                    });
                found.extend(wanted.map(|(place, pattern)| PatternView {
                    office: office.clone(),
                    pattern,
                    place,
                }));
            }
            found.truncate(most);
            Ok(found)
        })
        .await
}

fn place_of(after: &str) -> Result<(OfficeCode, usize), Invalid> {
    let parts = after.split_once('/');
    let parts = parts.and_then(|(office, place)| Some((office.parse().ok()?, place.parse().ok()?)));
    parts.ok_or_else(|| {
        Invalid::new(
            "after",
            after.escape_debug(),
            "not where a page ended",
            "take it from the header `Link`",
        )
    })
}
