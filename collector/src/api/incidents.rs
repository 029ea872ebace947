//! Incidents.

use super::problem::Problem;
use super::{Body, Parameters, Path, Shared, State, blocking, office_parameter};
use crate::case::{Deed, Refused};
use crate::query::{IncidentView, Wanted};
use anyhow::Context;
use axum::Json;
use axum::http::StatusCode;
use denyut_proto::Invalid;
use serde::Deserialize;
use std::sync::Arc;
use utoipa::{IntoParams, ToSchema};

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
    let number = number_of(&number)?;
    let found = blocking(shared, move |shared| {
        shared.query.incident(number, shared.gate.clock.read().now)
    })
    .await?;
    found
        .map(Json)
        .ok_or_else(|| Problem::not_found(format!("there is no incident {number}")))
}

fn number_of(text: &str) -> Result<u64, Invalid> {
    text.parse()
        .map_err(|_| Invalid::new("number", text, "not a number", "write it like `12`"))
}

/// Who acknowledges, why, and for how long.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Acknowledge {
    /// Who you are.
    #[schema(example = "Siti, Disdukcapil Kota Serang")]
    by: String,
    /// Why nobody else need be called.
    why: Option<String>,
    /// For how long (`5m` to `30days`); a day when left out.
    #[serde(rename = "for")]
    #[schema(example = "4h")]
    lasts: Option<String>,
}

/// Who takes back an acknowledgement, and why.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Withdraw {
    /// Who you are.
    by: String,
    /// Why.
    why: Option<String>,
}

/// What somebody knows.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Note {
    /// Who you are.
    by: String,
    /// What you know.
    #[schema(example = "Teknisi ISP datang besok pukul 09.00")]
    text: String,
}

/// Who is to care for it.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Assign {
    /// Who you are.
    by: String,
    /// Who is to care for it; nobody when left out.
    to: Option<String>,
}

/// Say that you know of an incident: nobody else need be called until that is over
#[utoipa::path(
    post,
    path = "/api/v1/incidents/{number}/acknowledge",
    params(("number" = u64, Path, example = 1)),
    request_body = Acknowledge,
    responses((status = 200, body = IncidentView), (status = 400, body = Problem, content_type = "application/problem+json"), (status = 404, body = Problem, content_type = "application/problem+json"), (status = 409, body = Problem, content_type = "application/problem+json", description = "the incident is over"))
)]
pub(super) async fn acknowledge(
    axum::extract::State(shared): State,
    Path(number): Path<String>,
    Body(asked): Body<Acknowledge>,
) -> Result<Json<IncidentView>, Problem> {
    let Acknowledge { by, why, lasts } = asked;
    act(shared, &number, by, Deed::Acknowledge { why, lasts }).await
}

/// Take an acknowledgement back
#[utoipa::path(
    post,
    path = "/api/v1/incidents/{number}/withdraw",
    params(("number" = u64, Path, example = 1)),
    request_body = Withdraw,
    responses((status = 200, body = IncidentView), (status = 400, body = Problem, content_type = "application/problem+json"), (status = 404, body = Problem, content_type = "application/problem+json"), (status = 409, body = Problem, content_type = "application/problem+json", description = "nobody has acknowledged it"))
)]
pub(super) async fn withdraw(
    axum::extract::State(shared): State,
    Path(number): Path<String>,
    Body(asked): Body<Withdraw>,
) -> Result<Json<IncidentView>, Problem> {
    act(shared, &number, asked.by, Deed::Withdraw { why: asked.why }).await
}

/// Note what you know of an incident
#[utoipa::path(
    post,
    path = "/api/v1/incidents/{number}/notes",
    params(("number" = u64, Path, example = 1)),
    request_body = Note,
    responses((status = 200, body = IncidentView), (status = 400, body = Problem, content_type = "application/problem+json"), (status = 404, body = Problem, content_type = "application/problem+json"), (status = 409, body = Problem, content_type = "application/problem+json", description = "it has too many steps"))
)]
pub(super) async fn note(
    axum::extract::State(shared): State,
    Path(number): Path<String>,
    Body(asked): Body<Note>,
) -> Result<Json<IncidentView>, Problem> {
    act(shared, &number, asked.by, Deed::Note { text: asked.text }).await
}

/// Give an incident to somebody, or to nobody
#[utoipa::path(
    post,
    path = "/api/v1/incidents/{number}/assign",
    params(("number" = u64, Path, example = 1)),
    request_body = Assign,
    responses((status = 200, body = IncidentView), (status = 400, body = Problem, content_type = "application/problem+json"), (status = 404, body = Problem, content_type = "application/problem+json"), (status = 409, body = Problem, content_type = "application/problem+json", description = "it has too many steps"))
)]
pub(super) async fn assign(
    axum::extract::State(shared): State,
    Path(number): Path<String>,
    Body(asked): Body<Assign>,
) -> Result<Json<IncidentView>, Problem> {
    act(shared, &number, asked.by, Deed::Assign { to: asked.to }).await
}

async fn act(
    shared: Arc<Shared>,
    number: &str,
    by: String,
    deed: Deed,
) -> Result<Json<IncidentView>, Problem> {
    let number = number_of(number)?;
    let work = move || {
        let now = shared.gate.clock.read().now;
        let (incident, case) = shared.cases.act(number, &by, &deed, now)?;
        let state = &*shared.query.state;
        Ok(IncidentView::of(state, incident, case, now)?)
    };
    let acted = tokio::task::spawn_blocking(work).await;
    acted
        .context("a change panicked")?
        .map(Json)
        .map_err(|refused| match refused {
            Refused::NoIncident(_) => Problem::not_found(refused.to_string()),
            Refused::Wrong(text) => Problem::new(StatusCode::CONFLICT, text),
            Refused::Invalid(invalid) => invalid.into(),
            Refused::Failed(error) => error.into(),
        })
}
