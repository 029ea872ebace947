//! Messages to receivers.

use super::list::{Asked, Page, Row};
use super::problem::Problem;
use super::{Path, Shared, State, blocking};
use crate::alert::Message;
use axum::Json;
use axum::http::StatusCode;
use axum::response::Response;

impl Row for Message {
    const COLUMNS: &'static [&'static str] = &[
        "number",
        "receiver",
        "made_ms",
        "attempts",
        "next_ms",
        "dead_ms",
        "error",
        "notice.title",
    ];

    fn cursor(&self) -> String {
        self.number.to_string()
    }

    fn is_behind(&self, cursor: &str) -> bool {
        cursor.parse().is_ok_and(|cursor: u64| self.number > cursor)
    }
}

/// Messages that wait to be delivered, and those that cannot be; oldest first
#[utoipa::path(
    get,
    path = "/api/v1/messages",
    params(Page),
    responses((status = 200, body = Vec<Message>), (status = 400, body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn list(
    axum::extract::State(shared): State,
    asked: Asked,
) -> Result<Response, Problem> {
    asked.after_number()?;
    let read = |shared: &Shared| {
        let mut all = shared.outbox.list()?;
        all.sort_by_key(|one| one.number);
        Ok(all)
    };
    asked.answer_of(shared, read).await
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
    let number = super::list::number("number", &number)?;
    let sent = blocking(shared, move |shared| {
        shared.outbox.resend(number, shared.gate.clock.read().now)
    });
    let sent = sent.await?;
    let sent =
        sent.ok_or_else(|| Problem::not_found(format!("there is no dead message {number}")))?;
    Ok((StatusCode::ACCEPTED, Json(sent)))
}
