//! Availability: of offices, regencies, provinces or the nation.

use super::list::{Asked, Page, Row};
use super::machines::region_of;
use super::offices::time_range;
use super::problem::Problem;
use super::{Parameters, Shared, State};
use crate::access::Caller;
use crate::availability::{Calendar, Counted, Times, of_office};
use axum::response::Response;
use denyut_proto::{Invalid, OfficeCode, UnixMillis};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// The longest time that can be asked for, in ms: two years, as far as opening hours are looked at.
const LONGEST_MS: i64 = 731 * 86_400_000;

/// Of what.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum By {
    #[default]
    Office,
    Regency,
    Province,
    Nation,
}

impl By {
    /// The code of what an office belongs to.
    fn of(self, office: &OfficeCode) -> &str {
        let length = match self {
            Self::Office => office.as_str().len(),
            Self::Regency => 5,
            Self::Province => 2,
            Self::Nation => 0,
        };
        office.as_str().get(..length).unwrap_or_default()
    }
}

/// Of what, and which time.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ListParameters {
    /// Of each office, or of the offices of each `regency`, `province` or the `nation` together.
    #[serde(default)]
    #[param(inline)]
    by: By,
    /// Only offices of this region: a region code or its first parts.
    #[param(example = "36.73")]
    region: Option<String>,
    /// From this time on (Unix ms); a day before `to_ms` when left out.
    from_ms: Option<i64>,
    /// Before this time (Unix ms), up to now; now when left out.
    to_ms: Option<i64>,
    /// Which time counts: `opening` hours, or `all`.
    #[serde(default)]
    #[param(inline)]
    hours: Counted,
}

/// For how much of a time one or many offices could work.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AvailabilityView {
    by: By,
    /// The code of the office or region; empty for the nation.
    #[schema(example = "36.73")]
    code: String,
    /// Its name, where it is known.
    #[schema(example = "Kota Serang")]
    name: Option<String>,
    /// How many offices are counted together.
    offices: u32,
    hours: Counted,
    #[schema(value_type = i64)]
    from_ms: UnixMillis,
    #[schema(value_type = i64)]
    to_ms: UnixMillis,
    #[serde(flatten)]
    times: Times,
    /// up ÷ (up + down), in per cent to a thousandth; none if nothing was seen.
    #[schema(example = 99.312)]
    percent: Option<f64>,
    /// How much of the time that counts was seen, in per cent to a thousandth: what `percent` is worth.
    #[schema(example = 97.5)]
    observed_percent: Option<f64>,
}

impl Row for AvailabilityView {
    const COLUMNS: &'static [&'static str] = &[
        "by",
        "code",
        "name",
        "offices",
        "hours",
        "from_ms",
        "to_ms",
        "counted_ms",
        "up_ms",
        "down_ms",
        "unobserved_ms",
        "announced_ms",
        "percent",
        "observed_percent",
    ];

    fn cursor(&self) -> String {
        self.code.clone()
    }
}

/// For how much of a time offices could work, by code
///
/// Counted are opening hours (or all hours) in whole minutes, without announced work. An office needs its server and its way out; in each hour it is down for as long as the worse
/// of the two. What nobody saw is counted apart. The time may be up to two years long.
#[utoipa::path(
    get,
    path = "/api/v1/availability",
    params(ListParameters, Page),
    responses(
        (status = 200, body = Vec<AvailabilityView>),
        (status = 400, body = Problem, content_type = "application/problem+json"),
        (status = 503, body = Problem, content_type = "application/problem+json", description = "too many long answers are read at once")
    )
)]
pub(super) async fn list(
    axum::extract::State(shared): State,
    caller: Caller,
    asked: Asked,
    Parameters(parameters): Parameters<ListParameters>,
) -> Result<Response, Problem> {
    let ListParameters {
        by,
        region,
        from_ms,
        to_ms,
        hours,
    } = parameters;
    let range = time_range(from_ms, to_ms)?;
    if range.end.0 - range.start.0 > LONGEST_MS {
        let fix = "ask for two years at most";
        return Err(Invalid::new("from_ms", range.start.0, "too long before `to_ms`", fix).into());
    }
    let region = region_of(region, &caller.regions)?;
    // A page of it may take as long as a stream. It is free again when the work is done, and not when nobody waits for it any more.
    let slot = asked
        .is_page()
        .then(|| super::list::slot(&shared, &caller.person()))
        .transpose()?;
    let read = move |shared: &Shared, after: Option<&str>, most: usize| {
        let _reading = &slot;
        let now = shared.gate.clock.read().now;
        let counted = range.start.min(now)..range.end.min(now);
        let calendar = Calendar {
            hours: &shared.gate.hours,
            holidays: &shared.gate.holidays,
            counted: hours,
        };
        let mut found: Vec<AvailabilityView> = Vec::new();
        for (code, office) in &shared.query.registry.offices {
            let of = by.of(code);
            if !region.has(code) || after.is_some_and(|after| of <= after) {
                continue;
            }
            let goes_on = found.last().is_some_and(|last| last.code == of);
            if !goes_on && found.len() >= most {
                break;
            }
            let Some(times) = of_office(&shared.query, code, &caller.regions, &counted, &calendar)?
            else {
                continue;
            };
            if let Some(last) = found.last_mut().filter(|_| goes_on) {
                last.times += times;
                last.offices += 1;
                continue;
            }
            let name = match by {
                By::Office => Some(office.name.clone()),
                By::Regency => office.regency.clone(),
                By::Province | By::Nation => None,
            };
            found.push(AvailabilityView {
                by,
                code: of.to_owned(),
                name,
                offices: 1,
                hours,
                from_ms: range.start,
                to_ms: range.end,
                times,
                percent: None,
                observed_percent: None,
            });
        }
        for one in &mut found {
            one.percent = one.times.percent();
            one.observed_percent = one.times.observed_percent();
        }
        Ok(found)
    };
    asked.answer(shared, read).await
}
