//! Messages to receivers.

use super::problem::Problem;
use super::{Path, State, blocking};
use crate::alert::Message;
use axum::Json;
use axum::http::StatusCode;

/// Messages that wait to be delivered, and those that cannot be; oldest first
#[utoipa::path(
    get,
    path = "/api/v1/messages",
    responses((status = 200, body = Vec<Message>))
)]
pub(super) async fn list(
    axum::extract::State(shared): State,
) -> Result<Json<Vec<Message>>, Problem> {
    Ok(Json(blocking(shared, |shared| shared.outbox.list()).await?))
}

/// Send a message again that could not be delivered
#[utoipa::path(
    post,
    path = "/api/v1/messages/{number}/resend",
    params(("number" = u64, Path, example = 1)),
    responses((status = 202, body = Message, description = "it is sent"), (status = 400, body = Problem, content_type = "application/problem+json"), (status = 404, body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn resend(
    axum::extract::State(shared): State,
    Path(number): Path<String>,
) -> Result<(StatusCode, Json<Message>), Problem> {
    let number = super::list::number("number", Some(&number))?.unwrap_or_default();
    let sent = blocking(shared, move |shared| {
        shared.outbox.resend(number, shared.gate.clock.read().now)
    });
    let sent = sent.await?;
    let sent =
        sent.ok_or_else(|| Problem::not_found(format!("there is no dead message {number}")))?;
    Ok((StatusCode::ACCEPTED, Json(sent)))
}
