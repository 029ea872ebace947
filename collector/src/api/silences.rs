//! Silences.

use super::list::{Asked, Page, Row};
use super::problem::Problem;
use super::{Body, Path, Shared, State, blocking};
use crate::access::Caller;
use crate::alert::{NoSilence, Silence, Wish};
use anyhow::Context;
use axum::Json;
use axum::http::StatusCode;
use axum::response::Response;
use denyut_proto::UnixMillis;
use std::sync::Arc;

impl Row for Silence {
    const COLUMNS: &'static [&'static str] = &[
        "number", "regions", "causes", "from_ms", "until_ms", "by", "why",
    ];

    fn cursor(&self) -> String {
        self.number.to_string()
    }

    fn is_behind(&self, cursor: &str) -> bool {
        cursor.parse().is_ok_and(|cursor: u64| self.number > cursor)
    }
}

/// Silences that hold and touch your regions, and those that are over since a while; oldest first
#[utoipa::path(
    get,
    path = "/api/v1/silences",
    params(Page),
    responses((status = 200, body = Vec<Silence>), (status = 400, body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn list(
    axum::extract::State(shared): State,
    caller: Caller,
    asked: Asked,
) -> Result<Response, Problem> {
    asked.after_number()?;
    let read = move |shared: &Shared| {
        let mut all = shared.silences.list()?;
        all.retain(|one| {
            one.regions
                .iter()
                .any(|region| caller.regions.touch(region))
        });
        Ok(all)
    };
    asked.answer_of(shared, read).await
}

/// Call nobody for what fits, for a while
#[utoipa::path(
    post,
    path = "/api/v1/silences",
    request_body = Wish,
    responses((status = 201, body = Silence), (status = 400, body = Problem, content_type = "application/problem+json"), (status = 409, body = Problem, content_type = "application/problem+json", description = "there are too many"))
)]
pub(crate) async fn add(
    axum::extract::State(shared): State,
    caller: Caller,
    Body(wish): Body<Wish>,
) -> Result<(StatusCode, Json<Silence>), Problem> {
    if let Some(beyond) = wish
        .regions()
        .iter()
        .find(|region| !caller.regions.has_region(region))
    {
        let text = format!("`{}` goes beyond your regions", beyond.escape_debug());
        return Err(Problem::new(StatusCode::FORBIDDEN, text));
    }
    let silence = act(shared, move |shared, now| {
        shared.silences.add(&wish, &caller.by, now)
    })
    .await?;
    Ok((StatusCode::CREATED, silence))
}

/// End a silence before its time
#[utoipa::path(
    post,
    path = "/api/v1/silences/{number}/end",
    params(("number" = u64, Path, example = 1)),
    responses((status = 200, body = Silence), (status = 400, body = Problem, content_type = "application/problem+json"), (status = 403, body = Problem, content_type = "application/problem+json", description = "it goes beyond your regions"), (status = 404, body = Problem, content_type = "application/problem+json"))
)]
pub(crate) async fn end(
    axum::extract::State(shared): State,
    caller: Caller,
    Path(number): Path<String>,
) -> Result<Json<Silence>, Problem> {
    let number = super::list::number("number", &number)?;
    let all = blocking(Arc::clone(&shared), |shared| shared.silences.list()).await?;
    let found = all.iter().find(|one| one.number == number);
    if let Some(one) = found.filter(|one| {
        !one.regions
            .iter()
            .all(|region| caller.regions.has_region(region))
    }) {
        return Err(
            if one
                .regions
                .iter()
                .any(|region| caller.regions.touch(region))
            {
                Problem::new(
                    StatusCode::FORBIDDEN,
                    "it goes beyond your regions; ask who made it",
                )
            } else {
                NoSilence::None(number).into()
            },
        );
    }
    act(shared, move |shared, now| shared.silences.end(number, now)).await
}

impl From<NoSilence> for Problem {
    fn from(refused: NoSilence) -> Self {
        let text = refused.to_string();
        match refused {
            NoSilence::None(_) => Self::not_found(text),
            NoSilence::TooMany => Self::new(StatusCode::CONFLICT, text),
            NoSilence::Invalid(invalid) => invalid.into(),
            NoSilence::Failed(error) => error.into(),
        }
    }
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
    Ok(Json(acted.context("a change panicked")??))
}
