//! Incidents.

use super::list::{Asked, Page, Row};
use super::machines::region_of;
use super::offices::time;
use super::problem::Problem;
use super::{Body, Parameters, Path, Shared, State, blocking, office_parameter};
use crate::access::Caller;
use crate::case::{Deed, Refused};
use crate::query::{IncidentView, ShownStatus, Wanted};
use anyhow::Context;
use axum::Json;
use axum::http::StatusCode;
use axum::response::Response;
use denyut_detect::Cause;
use denyut_proto::Invalid;
use serde::Deserialize;
use std::sync::Arc;
use utoipa::{IntoParams, ToSchema};

/// Which incidents.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ListParameters {
    /// Only the open ones.
    #[serde(default)]
    open: bool,
    /// Only those that stand here.
    #[param(inline)]
    status: Option<ShownStatus>,
    /// Only those of this cause.
    #[param(inline)]
    cause: Option<Cause>,
    /// Only this office's.
    #[param(example = "36.73.02")]
    office: Option<String>,
    /// Only offices of this region, and common causes that hit some: a region code or its first parts.
    #[param(example = "36.73")]
    region: Option<String>,
    /// Only those that are part of this common cause.
    parent: Option<u64>,
    /// Only those that went on at this time (Unix ms) or later.
    from_ms: Option<i64>,
    /// Only those that had begun before this time (Unix ms).
    to_ms: Option<i64>,
    /// Also those that turned out to be none.
    #[serde(default)]
    retracted: bool,
}

impl Row for IncidentView {
    const COLUMNS: &'static [&'static str] = &[
        "number",
        "office",
        "status",
        "cause",
        "confidence",
        "opened_ms",
        "resolved_ms",
        "paged_ms",
        "relapse_of",
        "relapse.count",
        "parent",
        "scope.kind",
        "scope.code",
        "scope.failed",
        "scope.watched",
        "acknowledged.by",
        "acknowledged.until_ms",
        "assignee",
        "retracted",
    ];

    fn cursor(&self) -> String {
        self.incident.number.to_string()
    }
}

/// Incidents, the newest first
#[utoipa::path(
    get,
    path = "/api/v1/incidents",
    params(ListParameters, Page),
    responses((status = 200, body = Vec<IncidentView>), (status = 400, body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn list(
    axum::extract::State(shared): State,
    caller: Caller,
    asked: Asked,
    Parameters(parameters): Parameters<ListParameters>,
) -> Result<Response, Problem> {
    asked.after_number()?;
    if let Some(parent) = parameters
        .parent
        .filter(|parent| i64::try_from(*parent).is_err())
    {
        let fix = "write the number of an incident";
        return Err(Invalid::new("parent", parent, "too large", fix).into());
    }
    let wanted = Wanted {
        sees: region_of(parameters.region, &caller.regions)?,
        open: parameters.open,
        status: parameters.status,
        cause: parameters.cause,
        retracted: parameters.retracted,
        office: office_parameter(parameters.office)?,
        parent: parameters.parent,
        from: parameters
            .from_ms
            .map(|ms| time("from_ms", ms))
            .transpose()?,
        to: parameters.to_ms.map(|ms| time("to_ms", ms)).transpose()?,
    };
    let read = move |shared: &Shared, after: Option<&str>, most| {
        let below = after.and_then(|text| text.parse().ok());
        let now = shared.gate.clock.read().now;
        shared.query.incidents(&wanted, below, most, now)
    };
    asked.answer(shared, read).await
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
    caller: Caller,
    Path(number): Path<String>,
) -> Result<Json<IncidentView>, Problem> {
    let number = super::list::number("number", &number)?;
    let found = blocking(shared, move |shared| {
        let now = shared.gate.clock.read().now;
        shared.query.incident(number, &caller.regions, now)
    })
    .await?;
    found
        .map(Json)
        .ok_or_else(|| Problem::not_found(format!("there is no incident {number}")))
}

/// Who acknowledges, why, and for how long.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Acknowledge {
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
    /// Why.
    why: Option<String>,
}

/// What somebody knows.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Note {
    /// What you know.
    #[schema(
        example = "Teknisi ISP datang besok pukul 09.00",
        min_length = 1,
        max_length = 2_000
    )]
    text: String,
}

/// Who is to care for it.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Assign {
    /// Who is to care for it; nobody when left out.
    #[schema(max_length = 100)]
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
    caller: Caller,
    Path(number): Path<String>,
    Body(asked): Body<Acknowledge>,
) -> Result<Json<IncidentView>, Problem> {
    let Acknowledge { why, lasts } = asked;
    act(shared, caller, &number, Deed::Acknowledge { why, lasts }).await
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
    caller: Caller,
    Path(number): Path<String>,
    Body(asked): Body<Withdraw>,
) -> Result<Json<IncidentView>, Problem> {
    act(shared, caller, &number, Deed::Withdraw { why: asked.why }).await
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
    caller: Caller,
    Path(number): Path<String>,
    Body(asked): Body<Note>,
) -> Result<Json<IncidentView>, Problem> {
    act(shared, caller, &number, Deed::Note { text: asked.text }).await
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
    caller: Caller,
    Path(number): Path<String>,
    Body(asked): Body<Assign>,
) -> Result<Json<IncidentView>, Problem> {
    act(shared, caller, &number, Deed::Assign { to: asked.to }).await
}

pub(crate) async fn act(
    shared: Arc<Shared>,
    caller: Caller,
    number: &str,
    deed: Deed,
) -> Result<Json<IncidentView>, Problem> {
    let number = super::list::number("number", number)?;
    let work = move || {
        let now = shared.gate.clock.read().now;
        let state = &*shared.query.state;
        let view = shared.query.incident(number, &caller.regions, now)?;
        view.ok_or(Refused::NoIncident(number))?;
        // What it is, is told by the whole of it.
        let whole = IncidentView::read(state, number, now)?.ok_or(Refused::NoIncident(number))?;
        if !whole.lies_in(&caller.regions) {
            return Ok(None);
        }
        let (incident, case) = shared.cases.act(number, &caller.by, &deed, now)?;
        Ok(Some(IncidentView::of(state, incident, case, now)?))
    };
    let acted = tokio::task::spawn_blocking(work).await;
    let acted: Result<_, Refused> = acted.context("a change panicked")?;
    let acted = acted.map_err(|refused| match refused {
        Refused::NoIncident(_) => Problem::not_found(refused.to_string()),
        Refused::Wrong(text) => Problem::new(StatusCode::CONFLICT, text),
        Refused::Invalid(invalid) => invalid.into(),
        Refused::Failed(error) => error.into(),
    })?;
    acted.map(Json).ok_or_else(|| {
        let text = "this common cause goes beyond your regions: what you do about it would count for others, too; do it for the incidents of your offices";
        Problem::new(StatusCode::FORBIDDEN, text)
    })
}
