//! Silences.

use super::problem::Problem;
use super::{Body, Path, Shared, State, blocking};
use crate::alert::{NoSilence, Silence, Wish};
use anyhow::Context;
use axum::Json;
use axum::http::{HeaderMap, StatusCode};
use denyut_proto::{Invalid, UnixMillis};
use std::sync::Arc;

/// Silences that hold, and those that are over since a while; oldest first
#[utoipa::path(
    get,
    path = "/api/v1/silences",
    responses((status = 200, body = Vec<Silence>))
)]
pub(super) async fn list(
    axum::extract::State(shared): State,
) -> Result<Json<Vec<Silence>>, Problem> {
    Ok(Json(
        blocking(shared, |shared| shared.silences.list()).await?,
    ))
}

/// Call nobody for what fits, for a while
#[utoipa::path(
    post,
    path = "/api/v1/silences",
    request_body = Wish,
    responses((status = 201, body = Silence), (status = 400, body = Problem, content_type = "application/problem+json"), (status = 409, body = Problem, content_type = "application/problem+json", description = "there are too many"), (status = 415, body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn add(
    axum::extract::State(shared): State,
    Body(wish): Body<Wish>,
) -> Result<(StatusCode, Json<Silence>), Problem> {
    let silence = act(shared, move |shared, now| shared.silences.add(&wish, now)).await?;
    Ok((StatusCode::CREATED, silence))
}

/// End a silence
#[utoipa::path(
    post,
    path = "/api/v1/silences/{number}/end",
    params(("number" = u64, Path, example = 1)),
    responses((status = 200, body = Silence), (status = 400, body = Problem, content_type = "application/problem+json"), (status = 404, body = Problem, content_type = "application/problem+json"), (status = 415, body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn end(
    axum::extract::State(shared): State,
    Path(number): Path<String>,
    headers: HeaderMap,
) -> Result<Json<Silence>, Problem> {
    super::needs_json(&headers)?;
    let number: u64 = number
        .parse()
        .map_err(|_| Invalid::new("number", &number, "not a number", "write it like `12`"))?;
    act(shared, move |shared, now| shared.silences.end(number, now)).await
}

async fn act(
    shared: Arc<Shared>,
    work: impl FnOnce(&Shared, UnixMillis) -> Result<Silence, NoSilence> + Send + 'static,
) -> Result<Json<Silence>, Problem> {
    let work = move || {
        let now = shared.gate.clock.read().now;
        work(&shared, now)
    };
    let acted = tokio::task::spawn_blocking(work).await;
    let acted = acted.context("a change panicked")?;
    acted.map(Json).map_err(|refused| match refused {
        NoSilence::None(_) => Problem::not_found(refused.to_string()),
        NoSilence::TooMany => Problem::new(StatusCode::CONFLICT, refused.to_string()),
        NoSilence::Invalid(invalid) => invalid.into(),
        NoSilence::Failed(error) => error.into(),
    })
}
