//! Incidents.

use super::problem::Problem;
use super::{Parameters, Path, State, blocking, office_parameter};
use crate::query::{IncidentView, Wanted};
use axum::Json;
use denyut_proto::Invalid;
use serde::Deserialize;
use utoipa::IntoParams;

/// Incidents in one answer, at most and when nothing is said.
const LIMIT: (usize, usize) = (1_000, 100);

/// Which incidents.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListParameters {
    /// Only the open ones.
    #[serde(default)]
    open: bool,
    /// Only this office's.
    office: Option<String>,
    /// Only those that are part of this common cause.
    parent: Option<u64>,
    /// Also those that turned out to be none.
    #[serde(default)]
    retracted: bool,
    /// At most so many (1 to 1,000); 100 when left out.
    limit: Option<usize>,
}

/// Incidents, the newest first
#[utoipa::path(
    get,
    path = "/api/v1/incidents",
    params(ListParameters),
    responses((status = 200, body = Vec<IncidentView>), (status = 400, body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn list(
    axum::extract::State(shared): State,
    Parameters(parameters): Parameters<ListParameters>,
) -> Result<Json<Vec<IncidentView>>, Problem> {
    let office = office_parameter(parameters.office)?;
    let limit = parameters.limit.unwrap_or(LIMIT.1);
    if !(1..=LIMIT.0).contains(&limit) {
        return Err(Invalid::new("limit", limit, "out of range", "write 1 to 1000").into());
    }
    let wanted = Wanted {
        open: parameters.open,
        retracted: parameters.retracted,
        office,
        parent: parameters.parent,
        most: limit,
    };
    let found = blocking(shared, move |shared| {
        shared
            .query
            .incidents(&wanted, shared.gate.clock.read().now)
    });
    Ok(Json(found.await?))
}

/// One incident with all its revisions
#[utoipa::path(
    get,
    path = "/api/v1/incidents/{number}",
    params(("number" = u64, Path, example = 1)),
    responses((status = 200, body = IncidentView), (status = 400, body = Problem, content_type = "application/problem+json"), (status = 404, body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn show(
    axum::extract::State(shared): State,
    Path(number): Path<String>,
) -> Result<Json<IncidentView>, Problem> {
    let number: u64 = number
        .parse()
        .map_err(|_| Invalid::new("number", &number, "not a number", "write it like `12`"))?;
    let found = blocking(shared, move |shared| {
        shared.query.incident(number, shared.gate.clock.read().now)
    })
    .await?;
    found
        .map(Json)
        .ok_or_else(|| Problem::not_found(format!("there is no incident {number}")))
}
