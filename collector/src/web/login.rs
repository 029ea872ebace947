//! How somebody comes in: the login, and the first choice of a password. Plain forms; no script is needed.

use super::reader::address;
use super::text::{Language, head, language_of, languages, say};
use crate::access::{Caller, Entry, Refused, Via};
use crate::api::{Cookie, Problem, Shared, Source, pairs, write_down};
use anyhow::Context;
use axum::Extension;
use axum::Form;
use axum::extract::rejection::FormRejection;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Redirect, Response};
use denyut_proto::UnixMillis;
use maud::{DOCTYPE, Markup, html};
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;

/// How long somebody waits for their password to be tried, while many are.
const TURN_WITHIN: Duration = Duration::from_secs(5);

/// A page of its own, with one form in it.
fn page(language: Language, title: &str, body: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang=(language.code()) {
            head {
                (head(&format!("{title} – denyut"), "/style.css"))
            }
            body class="door" {
                main {
                    h1 { img src="/icon.svg" alt="" width="28" height="28"; " denyut" }
                    h2 { (title) }
                    (body)
                    p class="languages" { (languages()) }
                }
            }
        }
    }
}

fn answer(status: StatusCode, language: Language, page: Markup) -> Response {
    let mut response = (status, page.into_string()).into_response();
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/html; charset=utf-8"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let kept = format!(
        "lang={}; Path=/; Max-Age=31536000; SameSite=Lax",
        language.code()
    );
    if let Ok(kept) = HeaderValue::from_str(&kept) {
        headers.append(header::SET_COOKIE, kept);
    }
    response
}

/// A page of this site to go on at; the first one if it is none.
pub(super) fn next_of(to: Option<&str>) -> &str {
    let is_ours = |to: &&str| {
        to.starts_with('/')
            && !to.starts_with("//")
            && !to.contains(['\\', '\r', '\n'])
            && to.bytes().all(|b| b.is_ascii_graphic())
    };
    to.filter(is_ours).unwrap_or("/")
}

/// Where somebody wanted to go (`to=…`).
pub(super) fn wanted(query: Option<&str>) -> Option<String> {
    let mut all = pairs(query).into_iter();
    all.find(|(name, _)| name == "to").map(|(_, to)| to)
}

/// To the login, and from there to where somebody wanted to go.
pub(super) fn to_login(uri: &Uri) -> Redirect {
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let mut url = reqwest::Url::parse("http://x/masuk").expect("an address");
    if path != "/" {
        url.query_pairs_mut().append_pair("to", path);
    }
    let query = url
        .query()
        .map_or_else(String::new, |query| format!("?{query}"));
    Redirect::to(&format!("/masuk{query}"))
}

/// The login again, with why somebody did not come in.
pub(super) fn refused(
    shared: &Shared,
    status: StatusCode,
    to: &str,
    language: Language,
    problem: &str,
) -> Response {
    let form = login_form(shared, language, to, "", Some(problem), false);
    answer(status, language, form)
}

fn login_form(
    shared: &Shared,
    language: Language,
    to: &str,
    name: &str,
    problem: Option<&str>,
    nobody: bool,
) -> Markup {
    let text = |key| say(language, key, &[]);
    let body = html! {
        @if nobody {
            p class="hint" { (text("login.nobody")) }
            pre { "sudo denyutctl user add NAMA --role admin --region all" }
        }
        @if let Some(problem) = problem {
            p class="problem" role="alert" { (problem) }
        }
        form method="post" action="/masuk" {
            input type="hidden" name="to" value=(to);
            label { span { (text("login.name")) } input name="name" value=(name) autocomplete="username" autocapitalize="none" spellcheck="false" required autofocus; }
            label { span { (text("login.password")) } input name="password" type="password" autocomplete="current-password" required; }
            button { (text("login.enter")) }
        }
        @if let Some(oidc) = &shared.oidc {
            p class="other" { a href={ "/masuk/oidc" (address("", [("to", to)].into_iter())) } { (say(language, "oidc.enter", &[("name", &oidc.name)])) } }
        }
        p class="hint" { (text("login.forgotten")) }
    };
    page(language, &text("login.title"), &body)
}

/// The login.
pub(super) async fn show(
    State(shared): State<Arc<Shared>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    caller: Option<Extension<Caller>>,
) -> Response {
    let language = language_of(query.as_deref(), &headers);
    let to = wanted(query.as_deref());
    let to = next_of(to.as_deref());
    if caller.is_some() {
        return Redirect::to(to).into_response();
    }
    let form = login_form(&shared, language, to, "", None, shared.book.is_empty());
    answer(StatusCode::OK, language, form)
}

/// What somebody wrote into the form.
#[derive(Deserialize)]
pub(super) struct Login {
    name: String,
    password: String,
    to: Option<String>,
}

/// Why somebody did not come in.
enum Out {
    Wrong,
    TooOften(Duration),
}

/// Logs somebody in.
pub(super) async fn enter(
    State(shared): State<Arc<Shared>>,
    Extension(from): Extension<Source>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    form: Result<Form<Login>, FormRejection>,
) -> Response {
    let language = language_of(query.as_deref(), &headers);
    let Form(Login { name, password, to }) = match form {
        Ok(form) => form,
        Err(rejection) => {
            return Problem::new(rejection.status(), rejection.body_text()).into_response();
        }
    };
    let name = name.trim().to_lowercase();
    let tried = log_in(&shared, &name, password, from).await;
    let to = next_of(to.as_deref());
    let (status, text) = match tried {
        Ok(Ok(secret)) => return let_in(&shared, &secret, to),
        Ok(Err(Out::Wrong)) => (StatusCode::UNAUTHORIZED, say(language, "login.wrong", &[])),
        Ok(Err(Out::TooOften(wait))) => {
            let seconds = (wait.as_secs() + 1).to_string();
            (
                StatusCode::TOO_MANY_REQUESTS,
                say(language, "login.too_often", &[("seconds", &seconds)]),
            )
        }
        Err(problem) => return problem.into_response(),
    };
    answer(
        status,
        language,
        login_form(&shared, language, to, &name, Some(&text), false),
    )
}

async fn log_in(
    shared: &Arc<Shared>,
    name: &str,
    password: String,
    from: Source,
) -> Result<Result<String, Out>, Problem> {
    // Names that are nobody's are counted, too: nobody learns which are somebody's.
    // No longer than a name can be: what is remembered of them is bounded.
    let user: String = name.chars().take(40).collect();
    let (user, network) = (format!("user {user}"), format!("from {}", from.network()));
    let pace = shared.logins.ask(&format!("{user} {network}"));
    let pace = pace.and_then(|()| shared.logins_of_user.ask(&user));
    let pace = pace.and_then(|()| shared.logins_of_user.ask(&network));
    if let Err(wait) = pace {
        return Ok(Err(Out::TooOften(wait)));
    }
    let turn = tokio::time::timeout(TURN_WITHIN, shared.passwords.acquire()).await;
    let Ok(turn) = turn else {
        return Ok(Err(Out::TooOften(TURN_WITHIN)));
    };
    let _turn = turn.context("the collector stops")?;
    let (working, user) = (Arc::clone(shared), name.to_owned());
    let work = move || {
        let now = working.gate.clock.read().now;
        (working.book.log_in(&user, &password, now), now)
    };
    let (tried, now) = tokio::task::spawn_blocking(work)
        .await
        .context("a login panicked")?;
    let status = if tried.is_ok() { 200 } else { 401 };
    // Names that are nobody's are not kept: somebody may have written a password there.
    if shared.book.knows(name) {
        note(shared, name, from, status, now).await;
    }
    match tried {
        Ok(secret) => Ok(Ok(secret)),
        Err(Refused::Failed(error)) => Err(error.into()),
        Err(_) => Ok(Err(Out::Wrong)),
    }
}

pub(super) async fn note(
    shared: &Arc<Shared>,
    name: &str,
    from: Source,
    status: u16,
    now: UnixMillis,
) {
    let entry = Entry {
        number: 0,
        at_ms: now,
        by: name.to_owned(),
        via: "login".to_owned(),
        from: from.0.map(|from| from.to_string()),
        method: "POST".to_owned(),
        path: "/masuk".to_owned(),
        status,
    };
    write_down(shared, entry).await;
}

/// Gives the browser its session, and sends it on.
pub(super) fn let_in(shared: &Shared, secret: &str, to: &str) -> Response {
    let mut response = Redirect::to(to).into_response();
    let is_https = shared.address.is_https();
    Cookie::SESSION.put(&mut response, is_https, secret, 30 * 86_400);
    response
}

/// Logs out.
pub(super) async fn leave(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    caller: Option<Extension<Caller>>,
) -> Result<Response, Problem> {
    if let Some(Extension(Caller {
        via: Via::Session(key),
        ..
    })) = caller
    {
        let book = Arc::clone(&shared.book);
        let done = tokio::task::spawn_blocking(move || book.log_out(&key)).await;
        done.context("a logout panicked")??;
    }
    let mut response = Redirect::to("/masuk").into_response();
    let is_https = shared.address.is_https();
    if Cookie::SESSION.of(&headers, is_https).is_some() {
        Cookie::SESSION.put(&mut response, is_https, "", 0);
    }
    Ok(response)
}

fn choose_form(language: Language, secret: &str, name: &str, problem: Option<&str>) -> Markup {
    let text = |key| say(language, key, &[]);
    let body = html! {
        p { (say(language, "welcome.hello", &[("name", name)])) }
        @if let Some(problem) = problem {
            p class="problem" role="alert" { (problem) }
        }
        form method="post" action={ "/masuk/" (secret) } {
            label { span { (text("login.name")) } input name="name" value=(name) autocomplete="username" readonly; }
            label { span { (text("welcome.password")) } input name="password" type="password" autocomplete="new-password" minlength="12" maxlength="200" required autofocus; }
            label { span { (text("welcome.again")) } input name="again" type="password" autocomplete="new-password" required; }
            button { (text("welcome.choose")) }
        }
        p class="hint" { (text("welcome.hint")) }
    };
    page(language, &text("welcome.title"), &body)
}

fn over(language: Language) -> Response {
    let body = html! { p class="problem" role="alert" { (say(language, "welcome.over", &[])) } p { a href="/masuk" { (say(language, "login.title", &[])) } } };
    answer(
        StatusCode::NOT_FOUND,
        language,
        page(language, &say(language, "welcome.title", &[]), &body),
    )
}

/// Where somebody who was let in chooses a password.
pub(super) async fn welcome(
    State(shared): State<Arc<Shared>>,
    Path(secret): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let language = language_of(query.as_deref(), &headers);
    match shared.book.welcomed(&secret, shared.gate.clock.read().now) {
        Ok(name) => answer(
            StatusCode::OK,
            language,
            choose_form(language, &secret, &name, None),
        ),
        Err(_) => over(language),
    }
}

/// A password that somebody chose, twice.
#[derive(Deserialize)]
pub(super) struct Choice {
    password: String,
    again: String,
}

/// Takes the chosen password, and lets its user in.
pub(super) async fn choose(
    State(shared): State<Arc<Shared>>,
    Extension(from): Extension<Source>,
    Path(secret): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    form: Result<Form<Choice>, FormRejection>,
) -> Result<Response, Problem> {
    let language = language_of(query.as_deref(), &headers);
    let Form(Choice { password, again }) =
        form.map_err(|rejection| Problem::new(rejection.status(), rejection.body_text()))?;
    let now = shared.gate.clock.read().now;
    let Ok(name) = shared.book.welcomed(&secret, now) else {
        return Ok(over(language));
    };
    let again_form = |problem: &str| {
        let form = choose_form(language, &secret, &name, Some(problem));
        Ok(answer(StatusCode::BAD_REQUEST, language, form))
    };
    if password != again {
        return again_form(&say(language, "welcome.differ", &[]));
    }
    let _turn = shared
        .passwords
        .acquire()
        .await
        .context("the collector stops")?;
    let (book, link) = (Arc::clone(&shared.book), secret.clone());
    let chosen = tokio::task::spawn_blocking(move || book.choose(&link, &password, now)).await;
    match chosen.context("a choice panicked")? {
        Ok((name, session)) => {
            note(&shared, &name, from, 201, now).await;
            Ok(let_in(&shared, &session, "/"))
        }
        Err(Refused::Invalid(_)) => again_form(&say(language, "welcome.weak", &[])),
        Err(Refused::Failed(error)) => Err(error.into()),
        Err(_) => Ok(over(language)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_the_login_nobody_is_sent_elsewhere() {
        for to in [
            "//evil.example",
            "https://evil.example",
            "/\\evil.example",
            "",
            "x",
            "/a\r\nSet-Cookie: x",
        ] {
            assert_eq!(next_of(Some(to)), "/", "{to}");
        }
        assert_eq!(next_of(Some("/insiden/3?lang=en")), "/insiden/3?lang=en");
        assert_eq!(
            wanted(Some("a=b&to=%2Foffices%3Fq%3D1")).as_deref(),
            Some("/offices?q=1")
        );
        assert_eq!(wanted(None), None);
    }
}
