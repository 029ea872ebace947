//! Availability: of offices, regencies, provinces or the nation.

use super::list::{Asked, Page, Row};
use super::machines::region_of;
use super::offices::time_range;
use super::problem::Problem;
use super::{Parameters, Shared, State};
use crate::access::Caller;
use crate::availability::{self, AvailabilityView, By, Calendar, Counted, check};
use axum::response::Response;
use serde::Deserialize;
use utoipa::IntoParams;

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
    check(&range)?;
    let region = region_of(region, &caller.regions)?;
    // A page of it may take as long as a stream. It is free again when the work is done, and not when nobody waits for it any more.
    let slot = asked
        .is_page()
        .then(|| super::list::slot(&shared, &caller.person()))
        .transpose()?;
    let read = move |shared: &Shared, after: Option<&str>, most: usize| {
        let _reading = &slot;
        let now = shared.gate.clock.read().now;
        let asked = availability::Asked {
            by,
            region: &region,
            range: range.clone(),
            calendar: Calendar {
                hours: &shared.gate.hours,
                holidays: &shared.gate.holidays,
                counted: hours,
            },
        };
        let (found, _) = availability::read(&shared.query, &asked, after, most, now)?;
        Ok(found)
    };
    asked.answer(shared, read).await
}
