//! What is true of all answers: those that did not change since are not sent again, and what was asked twice is done once.

use super::guard::is_question;
use super::problem::Problem;
use super::{Shared, blocking};
use crate::access::Caller;
use crate::join::Fingerprint;
use crate::keys;
use anyhow::Context;
use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::http::response::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use denyut_proto::{Invalid, UnixMillis};
use denyut_store::state::{Change, State, StateError, get_json, parse};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

/// What a caller names a request by, so that it is done once.
const KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Characters of it, at most.
const KEY_MOST: usize = 100;
/// How long an answer is kept.
const KEPT: Duration = Duration::from_secs(24 * 3_600);
/// Answers kept of a caller, at most; with more nothing can be asked under a key until some are over.
const ANSWERS_MOST: usize = 400;
/// Bytes of an answer that is kept, so that it fits in a value of the state.
const ANSWER_MOST: usize = 32 * 1024;

/// What is known by a tag: JSON, and the files of pages.
const TAGGED: [&str; 4] = [
    "application/json",
    "image/svg+xml",
    "text/css; charset=utf-8",
    "text/javascript; charset=utf-8",
];

/// Says of JSON and files what they are known by, and does not send what is known.
pub(super) async fn tag(request: Request, next: Next) -> Response {
    let is_get = matches!(*request.method(), Method::GET | Method::HEAD);
    let known = request.headers().get(header::IF_NONE_MATCH).cloned();
    let response = next.run(request).await;
    let is_tagged = |headers: &HeaderMap| {
        headers
            .get(header::CONTENT_TYPE)
            .is_some_and(|kind| TAGGED.iter().any(|one| kind == one))
    };
    // A stream has no length beforehand.
    let is_whole = response.body().size_hint().exact().is_some();
    if !is_get || response.status() != StatusCode::OK || !is_tagged(response.headers()) || !is_whole
    {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let Ok(bytes) = axum::body::to_bytes(body, usize::MAX).await else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let digest = Fingerprint::of(&bytes).to_string();
    // Weak: the same content may be compressed.
    let tag = format!("W/\"{}\"", &digest[..32]);
    let is_known = known
        .as_ref()
        .and_then(|known| known.to_str().ok())
        .is_some_and(|known| {
            known
                .split(',')
                .any(|one| one.trim() == "*" || one.trim().trim_start_matches("W/") == &tag[2..])
        });
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        parts.headers.insert(header::ETAG, tag);
    }
    // Whoever keeps it asks whether it is still so, and shows it to nobody else.
    parts
        .headers
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("private, no-cache"));
    if is_known {
        parts.status = StatusCode::NOT_MODIFIED;
        parts.headers.remove(header::CONTENT_LENGTH);
        return Response::from_parts(parts, Body::empty());
    }
    Response::from_parts(parts, Body::from(bytes))
}

/// A request that was made under a key.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Asked {
    at: UnixMillis,
    /// Of its body: the same key must mean the same request.
    digest: String,
    /// None while it is done; for ever if the collector ended meanwhile.
    answer: Option<Kept>,
}

/// An answer as it was given.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Kept {
    status: u16,
    kind: Option<String>,
    body: String,
}

impl Kept {
    /// In place of an answer with a secret, which is kept nowhere, or of one that is too long.
    fn done() -> Self {
        let text = "it was done; its answer holds a secret, or is too long, and was not kept: look at what was made, and if need be take it back and make another under a new `Idempotency-Key`";
        let problem = serde_json::to_vec(&Problem::new(StatusCode::CONFLICT, text));
        Self {
            status: StatusCode::CONFLICT.as_u16(),
            kind: Some("application/problem+json".to_owned()),
            body: BASE64_STANDARD.encode(problem.unwrap_or_default()),
        }
    }

    /// What is kept of an answer; nothing of one that may be another the next time.
    fn of(parts: &Parts, body: &[u8]) -> Option<Self> {
        if !parts.status.is_success() {
            return None;
        }
        let header = |name| {
            parts
                .headers
                .get(name)
                .and_then(|value: &HeaderValue| value.to_str().ok())
        };
        if header(header::CACHE_CONTROL) == Some("no-store") || body.len() > ANSWER_MOST {
            return Some(Self::done());
        }
        Some(Self {
            status: parts.status.as_u16(),
            kind: header(header::CONTENT_TYPE).map(str::to_owned),
            body: BASE64_STANDARD.encode(body),
        })
    }

    fn response(&self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = BASE64_STANDARD.decode(&self.body).unwrap_or_default();
        let mut response = (status, body).into_response();
        let kind = self
            .kind
            .as_deref()
            .and_then(|kind| HeaderValue::from_str(kind).ok());
        response.headers_mut().remove(header::CONTENT_TYPE);
        if let Some(kind) = kind {
            response.headers_mut().insert(header::CONTENT_TYPE, kind);
        }
        response.headers_mut().insert(
            HeaderName::from_static("idempotent-replayed"),
            HeaderValue::from_static("true"),
        );
        response
    }
}

/// Does a request under a key once, however often it comes. Whoever asks may do it.
pub(super) async fn once(request: Request, next: Next) -> Response {
    let changes = matches!(
        *request.method(),
        Method::POST | Method::PATCH | Method::DELETE
    ) && !is_question(request.uri().path());
    let key = request.headers().get(KEY).filter(|_| changes).cloned();
    let shared = request.extensions().get::<Arc<Shared>>().cloned();
    let caller = request.extensions().get::<Caller>().cloned();
    match (key, shared, caller) {
        (Some(key), Some(shared), Some(caller)) => {
            let kept = kept(shared, &caller, &key, request, next).await;
            kept.unwrap_or_else(IntoResponse::into_response)
        }
        _ => next.run(request).await,
    }
}

async fn kept(
    shared: Arc<Shared>,
    caller: &Caller,
    key: &HeaderValue,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let key = key.to_str().ok();
    let is_plain = |key: &&str| {
        (1..=KEY_MOST).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_graphic())
    };
    let key = key.filter(is_plain);
    let key = key.ok_or_else(|| {
        let fix = format!("send 1 to {KEY_MOST} letters, digits and signs, without spaces");
        Invalid::new("Idempotency-Key", "…", "not a key", fix)
    })?;
    let (parts, body) = request.into_parts();
    // It has been read: see `guard`.
    let body = axum::body::to_bytes(body, usize::MAX)
        .await
        .context("a body broke off")?;
    // A key is one of a caller's for one route.
    let of_caller = Fingerprint::of(caller.identity().as_bytes()).to_string();
    let route = Fingerprint::of(format!("{} {}\n{key}", parts.method, parts.uri.path()).as_bytes());
    let folder = format!("{}{}/", keys::ANSWERS, &of_caller[..32]);
    let name = format!("{folder}{route}");
    let asked = Asked {
        at: shared.gate.clock.read().now,
        digest: Fingerprint::of(&body).to_string(),
        answer: None,
    };
    let begins = (name.clone(), asked.clone());
    let known = blocking(Arc::clone(&shared), move |shared| {
        begin(shared, &folder, &begins.0, &begins.1)
    })
    .await?;
    if let Some(answer) = answered(known, &asked.digest)? {
        return Ok(answer);
    }
    let (parts, body) = next
        .run(Request::from_parts(parts, Body::from(body)))
        .await
        .into_parts();
    let body = axum::body::to_bytes(body, usize::MAX)
        .await
        .context("an answer broke off")?;
    let answer = Kept::of(&parts, &body);
    // It was done, and says so, also where that cannot be kept (the log tells); who asks again is told that nobody knows.
    blocking(shared, move |shared| keep(shared, name, asked, answer))
        .await
        .ok();
    Ok(Response::from_parts(parts, Body::from(body)))
}

/// What is to be answered of what came before; none if the request is to be done now.
fn answered(known: Begun, digest: &str) -> Result<Option<Response>, Problem> {
    let (status, text) = match known {
        Begun::Now => return Ok(None),
        Begun::Before(before) if before.digest != digest => (
            StatusCode::UNPROCESSABLE_ENTITY,
            "this `Idempotency-Key` was used with another body; send a new one".to_owned(),
        ),
        Begun::Before(Asked {
            answer: Some(answer),
            ..
        }) => return Ok(Some(answer.response())),
        Begun::Before(_) => (
            StatusCode::CONFLICT,
            "a request under this `Idempotency-Key` is being done, or the collector ended meanwhile: look whether it was done".to_owned(),
        ),
        Begun::TooMany => (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("{ANSWERS_MOST} answers are kept for you already; ask without `Idempotency-Key`, or later"),
        ),
    };
    Err(Problem::new(status, text))
}

/// Keeps an answer; without one the request may come again.
fn keep(shared: &Shared, name: String, asked: Asked, answer: Option<Kept>) -> anyhow::Result<()> {
    let mut change = Change::default();
    if answer.is_some() {
        change.put_json(name, &Asked { answer, ..asked })?;
    } else {
        change.delete.push(name);
    }
    shared.query.state.apply(change)?;
    shared.query.state.sync()
}

/// Forgets the answers that are over, of whoever they were. Blocks.
pub(crate) fn forget(state: &dyn State, now: UnixMillis) -> anyhow::Result<()> {
    let mut over = Vec::new();
    for (key, value) in state.scan(keys::ANSWERS)? {
        let asked: Asked = parse(&key, &value)?;
        if asked.at + KEPT <= now {
            over.push(key);
        }
    }
    for part in over.chunks(ANSWERS_MOST) {
        state.apply(Change {
            delete: part.to_vec(),
            ..Change::default()
        })?;
    }
    Ok(())
}

/// What is known of a key.
enum Begun {
    /// It is new, and is written down.
    Now,
    Before(Asked),
    TooMany,
}

/// Writes down that a request under this key is done from now on.
fn begin(shared: &Shared, folder: &str, name: &str, asked: &Asked) -> anyhow::Result<Begun> {
    let state = &shared.query.state;
    let is_over = |before: &Asked| before.at + KEPT <= asked.at;
    let before = state.get(name)?;
    if let Some(value) = &before {
        let before: Asked = parse(name, value)?;
        if !is_over(&before) {
            return Ok(Begun::Before(before));
        }
    }
    // What is over goes every minute: see `forget`.
    if before.is_none() && state.count(folder)? >= ANSWERS_MOST {
        return Ok(Begun::TooMany);
    }
    let mut change = Change::default();
    change.expect.push((name.to_owned(), before));
    change.put_json(name.to_owned(), asked)?;
    match state.apply(change) {
        Ok(()) => {
            state.sync()?;
            Ok(Begun::Now)
        }
        // Another was quicker with the same key.
        Err(StateError::Conflict { .. }) => {
            let asked = get_json::<Asked>(&**state, name)?;
            Ok(asked.map_or(Begun::TooMany, Begun::Before))
        }
        Err(StateError::Store(error)) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use denyut_store::Store;

    #[test]
    fn answers_are_forgotten_when_they_are_over_however_many() {
        let dir = tempfile::tempdir().expect("tempdir");
        let store = Store::open(dir.path(), UnixMillis(0)).expect("opens");
        let asked = |at| Asked {
            at: UnixMillis(at),
            digest: String::new(),
            answer: Some(Kept::done()),
        };
        for part in 0..3 {
            let mut change = Change::default();
            for i in 0..300 {
                let key = format!("{}{part}/{i}", keys::ANSWERS);
                change.put_json(key, &asked(i % 2 * 1_000)).expect("JSON");
            }
            store.state.apply(change).expect("applies");
        }
        forget(&*store.state, UnixMillis(500) + KEPT).expect("forgets");
        assert_eq!(store.state.count(keys::ANSWERS).expect("counts"), 450);
        forget(&*store.state, UnixMillis(1_000) + KEPT).expect("forgets");
        assert_eq!(store.state.count(keys::ANSWERS).expect("counts"), 0);
    }
}
