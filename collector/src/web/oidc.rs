//! The way to an identity provider, and back.

use super::login::{let_in, next_of, note, refused, wanted};
use super::text::{Language, language_of, say};
use crate::access::{Oidc, Refused};
use crate::api::{Cookie, Problem, Shared, Source, pairs};
use anyhow::Context;
use axum::Extension;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Redirect, Response};
use std::collections::HashMap;
use std::sync::Arc;
use tracing::warn;

/// The provider, where there is one.
fn provider(shared: &Shared) -> Result<&Oidc, Problem> {
    let provider = shared.oidc.as_ref();
    provider.ok_or_else(|| Problem::not_found("there is no identity provider"))
}

/// Where the provider sends people back to; it must know this address.
fn back(shared: &Shared) -> String {
    let address = shared
        .address
        .text()
        .map_or_else(|| format!("http://{}", shared.listening), str::to_owned);
    format!("{address}/masuk/oidc/kembali")
}

/// Sends somebody to the provider.
pub(super) async fn begin(
    State(shared): State<Arc<Shared>>,
    Extension(from): Extension<Source>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let oidc = provider(&shared)?;
    let language = language_of(query.as_deref(), &headers);
    if let Err(wait) = shared.logins.ask(&format!("oidc {}", from.network())) {
        let seconds = (wait.as_secs() + 1).to_string();
        let text = say(language, "login.too_often", &[("seconds", &seconds)]);
        return Ok(refused(
            &shared,
            StatusCode::TOO_MANY_REQUESTS,
            "/",
            language,
            &text,
        ));
    }
    let to = wanted(query.as_deref());
    let to = next_of(to.as_deref()).to_owned();
    match oidc.begin(&back(&shared), &to).await {
        Ok((url, state)) => {
            let mut response = Redirect::to(&url).into_response();
            Cookie::PROVIDER.put(&mut response, shared.address.is_https(), &state, 600);
            Ok(response)
        }
        Err(error) => {
            warn!(error = %format!("{error:#}"), "a login by OpenID Connect cannot begin");
            let text = say(language, "oidc.failed", &[("name", &oidc.name)]);
            Ok(refused(
                &shared,
                StatusCode::BAD_GATEWAY,
                &to,
                language,
                &text,
            ))
        }
    }
}

/// The login again, with why nobody came in; what was under way is over.
fn failed(
    shared: &Shared,
    language: Language,
    status: StatusCode,
    key: &str,
    name: &str,
) -> Response {
    let text = say(language, key, &[("name", name)]);
    let mut response = refused(shared, status, "/", language, &text);
    Cookie::PROVIDER.put(&mut response, shared.address.is_https(), "", 0);
    response
}

/// Lets somebody in who comes back from the provider.
pub(super) async fn finish(
    State(shared): State<Arc<Shared>>,
    Extension(from): Extension<Source>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let oidc = provider(&shared)?;
    let language = language_of(None, &headers);
    let fail = |status, key, name: &str| Ok(failed(&shared, language, status, key, name));
    let mut asked: HashMap<String, String> = pairs(query.as_deref()).into_iter().collect();
    let name = oidc.name.as_str();
    let (Some(state), Some(code)) = (asked.remove("state"), asked.remove("code")) else {
        return fail(StatusCode::UNAUTHORIZED, "oidc.failed", name);
    };
    // Another's login must not become that of whoever was led here.
    if Cookie::PROVIDER.of(&headers, shared.address.is_https()) != Some(state.as_str()) {
        return fail(StatusCode::FORBIDDEN, "oidc.failed", name);
    }
    let (name, to) = match oidc.finish(&back(&shared), &state, &code).await {
        Ok(found) => found,
        Err(error) => {
            warn!(error = %format!("{error:#}"), "a login by OpenID Connect failed");
            return fail(StatusCode::UNAUTHORIZED, "oidc.failed", name);
        }
    };
    let now = shared.gate.clock.read().now;
    let (book, user) = (Arc::clone(&shared.book), name.clone());
    let entered = tokio::task::spawn_blocking(move || book.enter(&user, now));
    match entered.await.context("a login panicked")? {
        Ok(session) => {
            note(&shared, &name, from, 200, now).await;
            let mut response = let_in(&shared, &session, &to);
            Cookie::PROVIDER.put(&mut response, shared.address.is_https(), "", 0);
            Ok(response)
        }
        Err(Refused::Failed(error)) => Err(error.into()),
        Err(_) => fail(StatusCode::FORBIDDEN, "oidc.unknown", &name),
    }
}
