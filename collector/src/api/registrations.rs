//! Offices that people register while the collector runs.

use super::list::{Asked, Page, Row};
use super::machines::region_of;
use super::problem::Problem;
use super::{Body, Parameters, Path, Shared, State};
use crate::access::Caller;
use crate::register::{Refused, Registered, Registration};
use anyhow::Context;
use axum::Json;
use axum::http::StatusCode;
use axum::response::Response;
use denyut_proto::{Invalid, OfficeCode};
use serde::Deserialize;
use std::sync::Arc;
use utoipa::{IntoParams, ToSchema};

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        let text = refused.to_string();
        match refused {
            Refused::None(_) => Self::not_found(text),
            Refused::Fixed(_) | Refused::HasAgents(..) => Self::new(StatusCode::CONFLICT, text),
            Refused::Beyond(_) => Self::new(StatusCode::FORBIDDEN, text),
            Refused::Invalid(invalid) => invalid.into(),
            Refused::Failed(error) => error.into(),
        }
    }
}

impl Row for Registration {
    const COLUMNS: &'static [&'static str] = &[
        "code",
        "name",
        "regency",
        "isp",
        "pop",
        "pool",
        "latitude",
        "longitude",
        "hours",
    ];

    fn cursor(&self) -> String {
        self.code.clone()
    }
}

/// Changes something in the register, where it may block.
async fn act<T: Send + 'static>(
    shared: Arc<Shared>,
    work: impl FnOnce(&Shared) -> Result<T, Refused> + Send + 'static,
) -> Result<T, Problem> {
    let done = tokio::task::spawn_blocking(move || work(&shared)).await;
    Ok(done.context("a change panicked")??)
}

/// Which registrations.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListParameters {
    /// Only offices of this region: a region code or its first parts.
    #[param(example = "36.73")]
    region: Option<String>,
}

/// Offices that were registered here, by code; those of the configuration are not among them
#[utoipa::path(
    get,
    path = "/api/v1/registrations",
    params(ListParameters, Page),
    responses((status = 200, body = Vec<Registration>), (status = 400, body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn list(
    axum::extract::State(shared): State,
    caller: Caller,
    asked: Asked,
    Parameters(parameters): Parameters<ListParameters>,
) -> Result<Response, Problem> {
    let sees = region_of(parameters.region, &caller.regions)?;
    let read = move |shared: &Shared| shared.register.list(&sees);
    asked.answer_of(shared, read).await
}

/// Many offices at once.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Import {
    #[schema(min_items = 1, max_items = 100_000)]
    offices: Vec<Registration>,
    /// Say what would come of it, and do nothing.
    #[serde(default)]
    rehearsal: bool,
}

/// Register many offices, or change them: all, or none if one is wrong; those that are not named stay
#[utoipa::path(
    post,
    path = "/api/v1/registrations",
    request_body = Import,
    responses((status = 200, body = Registered), (status = 400, body = Problem, content_type = "application/problem+json"), (status = 409, body = Problem, content_type = "application/problem+json", description = "one stands in the configuration"))
)]
pub(super) async fn import(
    axum::extract::State(shared): State,
    caller: Caller,
    Body(import): Body<Import>,
) -> Result<Json<Registered>, Problem> {
    if import.offices.is_empty() {
        return Err(Invalid::new("offices", "[]", "none", "name at least one").into());
    }
    let Import { offices, rehearsal } = import;
    let named = |(place, one)| (format!("offices[{place}]"), one);
    let offices = offices.into_iter().enumerate().map(named).collect();
    put_all(shared, caller, offices, rehearsal).await
}

/// The same for the page.
pub(crate) async fn put_all(
    shared: Arc<Shared>,
    caller: Caller,
    offices: Vec<(String, Registration)>,
    rehearsal: bool,
) -> Result<Json<Registered>, Problem> {
    let done = act(shared, move |shared| {
        shared.register.put(&offices, &caller.regions, rehearsal)
    });
    Ok(Json(done.await?))
}

/// Register an office, or change it; the code in the body is that of the path
#[utoipa::path(
    put,
    path = "/api/v1/registrations/{office}",
    params(("office" = String, Path, example = "36.73.02")),
    request_body = Registration,
    responses((status = 200, body = Registered), (status = 400, body = Problem, content_type = "application/problem+json"), (status = 409, body = Problem, content_type = "application/problem+json", description = "it stands in the configuration"))
)]
pub(crate) async fn put(
    axum::extract::State(shared): State,
    caller: Caller,
    Path(office): Path<String>,
    Body(registration): Body<Registration>,
) -> Result<Json<Registered>, Problem> {
    if registration.code != office {
        let fix = format!("write `{}`, as in the address", office.escape_debug());
        let code = registration.code.escape_debug();
        return Err(Invalid::new("code", code, "another office", fix).into());
    }
    let offices = vec![("office".to_owned(), registration)];
    put_all(shared, caller, offices, false).await
}

/// Take an office away that was registered here and has no agents; what was measured there stays
#[utoipa::path(
    delete,
    path = "/api/v1/registrations/{office}",
    params(("office" = String, Path, example = "36.73.02")),
    responses((status = 204), (status = 400, body = Problem, content_type = "application/problem+json"), (status = 404, body = Problem, content_type = "application/problem+json"), (status = 409, body = Problem, content_type = "application/problem+json", description = "it has agents, or stands in the configuration"))
)]
pub(crate) async fn remove(
    axum::extract::State(shared): State,
    caller: Caller,
    Path(office): Path<String>,
) -> Result<StatusCode, Problem> {
    let code: OfficeCode = office.parse()?;
    act(shared, move |shared| {
        shared.register.remove(&code, &caller.regions)
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}
