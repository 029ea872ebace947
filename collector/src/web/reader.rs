//! Who reads a page, in which language, and what stands around every page.

use super::login::to_login;
use super::text::{Language, head, language_of};
use super::words::{Exact, Words};
use crate::access::{Caller, Regions, Scope};
use crate::api::{Problem, Shared, pairs};
use crate::query::ShownState;
use axum::body::to_bytes;
use axum::extract::{FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use denyut_detect::calendar::Zone;
use denyut_proto::{Invalid, UnixMillis};
use maud::{DOCTYPE, Markup, html};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The parts of the site, as the head of each page leads to them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tab {
    Overview,
    Incidents,
    Patterns,
    Reports,
    Settings,
}

impl Tab {
    const ALL: [Self; 5] = [
        Self::Overview,
        Self::Incidents,
        Self::Patterns,
        Self::Reports,
        Self::Settings,
    ];

    const fn path(self) -> &'static str {
        match self {
            Self::Overview => "/",
            Self::Incidents => "/insiden",
            Self::Patterns => "/pola",
            Self::Reports => "/laporan",
            Self::Settings => "/pengaturan",
        }
    }

    const fn key(self) -> &'static str {
        match self {
            Self::Overview => "tab.overview",
            Self::Incidents => "tab.incidents",
            Self::Patterns => "tab.patterns",
            Self::Reports => "tab.reports",
            Self::Settings => "tab.settings",
        }
    }
}

/// How a page stays true.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Live<'a> {
    /// It does not change by itself.
    Still,
    /// It is asked for anew when something happens.
    All,
    /// The same for one office, whose samples are shown as they come.
    Office(&'a str),
}

/// Who reads a page, and how.
pub(super) struct Reader {
    pub(super) caller: Caller,
    pub(super) words: Words,
    pub(super) now: UnixMillis,
    uri: Uri,
    /// The language was chosen just now.
    chose: bool,
    /// The collector has not yet read what it slept through.
    catches_up: bool,
}

impl FromRequestParts<Arc<Shared>> for Reader {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, shared: &Arc<Shared>) -> Result<Self, Response> {
        let Some(caller) = parts.extensions.get::<Caller>().cloned() else {
            return Err(to_login(&parts.uri).into_response());
        };
        if !caller.may(Scope::Read) {
            let text = "this needs the scope `read`, which you do not have";
            return Err(Problem::new(StatusCode::FORBIDDEN, text).into_response());
        }
        let query = parts.uri.query();
        Ok(Self {
            caller,
            words: Words {
                language: language_of(query, &parts.headers),
            },
            now: shared.gate.clock.read().now,
            chose: query.is_some_and(|query| query.split('&').any(|one| one.starts_with("lang="))),
            uri: parts.uri.clone(),
            catches_up: shared.processed.load(Ordering::Acquire) < shared.replay_to,
        })
    }
}

impl Reader {
    /// What the address asks for, by name; the last of a name counts, and what is empty does not.
    pub(super) fn asked(&self) -> BTreeMap<String, String> {
        let pairs = pairs(self.uri.query()).into_iter();
        pairs
            .map(|(name, value)| (name, value.trim().to_owned()))
            .filter(|(_, value)| !value.is_empty())
            .collect()
    }

    /// The regions that are shown: those of the reader, or of them those that the address names.
    pub(super) fn regions(&self, region: Option<&String>) -> Result<Regions, Problem> {
        let sees = &self.caller.regions;
        let Some(region) = region else {
            return Ok(sees.clone());
        };
        crate::config::region_of("region", region)?;
        Ok(sees.and(&Regions::one(region.clone())))
    }

    /// An error if the reader may not do that.
    pub(super) fn must(&self, scope: Scope) -> Result<(), Problem> {
        if self.caller.may(scope) {
            return Ok(());
        }
        let text = format!(
            "this needs the scope `{}`, which you do not have",
            scope.as_str()
        );
        Err(Problem::new(StatusCode::FORBIDDEN, text))
    }

    /// This page with other values of these names, and all else as it is; an empty value takes the name away.
    pub(super) fn with(&self, values: &[(&str, &str)]) -> String {
        let mut asked = self.asked();
        asked.remove("lang");
        for (name, value) in values {
            asked.insert((*name).to_owned(), (*value).to_owned());
        }
        address(
            self.uri.path(),
            asked
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_str())),
        )
    }

    /// The page, with all that stands around it.
    pub(super) fn page(&self, tab: Tab, title: &str, live: Live<'_>, body: &Markup) -> Response {
        self.answer(StatusCode::OK, &self.frame(Some(tab), title, live, body))
    }

    /// The same after a form that was not right.
    pub(super) fn refused(
        &self,
        status: StatusCode,
        tab: Tab,
        title: &str,
        body: &Markup,
    ) -> Response {
        self.answer(status, &self.frame(Some(tab), title, Live::Still, body))
    }

    fn answer(&self, status: StatusCode, page: &Markup) -> Response {
        let mut response = (status, page.0.clone()).into_response();
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("text/html; charset=utf-8"),
        );
        headers.insert(
            header::CACHE_CONTROL,
            HeaderValue::from_static("private, no-cache"),
        );
        if self.chose {
            let kept = format!(
                "lang={}; Path=/; Max-Age=31536000; SameSite=Lax",
                self.words.language.code()
            );
            if let Ok(kept) = HeaderValue::from_str(&kept) {
                headers.append(header::SET_COOKIE, kept);
            }
        }
        response
    }

    fn frame(&self, tab: Option<Tab>, title: &str, live: Live<'_>, body: &Markup) -> Markup {
        let words = self.words;
        let listen = match live {
            Live::Still => None,
            Live::All => Some("/api/v1/events".to_owned()),
            Live::Office(code) => Some(format!("/api/v1/events?office={code}&samples=true")),
        };
        let is_live = listen.is_some();
        let other = match words.language {
            Language::Id => Language::En,
            Language::En => Language::Id,
        };
        html! {
            (DOCTYPE)
            html lang=(words.language.code()) {
                head {
                    (head(&format!("{title} – denyut"), "/style.css"))
                    script type="module" src="/live.js" {}
                    script type="module" src="/plot.js" {}
                }
                body data-listen=[listen] {
                    a class="skip" href="#main" { (words.say("skip")) }
                    header {
                        a class="brand" href="/" { img src="/icon.svg" alt="" width="28" height="28"; " denyut" }
                        nav aria-label=(words.say("tabs")) {
                            @for one in Tab::ALL {
                                a href=(one.path()) aria-current=[(tab == Some(one)).then_some("page")] { (words.say(one.key())) }
                            }
                        }
                        p id="live" class="live" role="status" hidden data-on=(words.say("live.on")) data-off=(words.say("live.off")) {}
                        div class="who" {
                            a href=(self.with(&[("lang", other.code())])) lang=(other.code()) hreflang=(other.code()) { (words.say("language.other")) }
                            form method="post" action="/keluar" {
                                span { (self.caller.user.as_deref().unwrap_or(&self.caller.by)) } " "
                                button { (words.say("logout")) }
                            }
                        }
                    }
                    main id="main" tabindex="-1" {
                        // No reload by itself: it would take what somebody is just writing.
                        @if is_live { noscript { p class="soft" { (words.say("live.none")) } } }
                        @if self.catches_up { p class="warning" role="status" { (words.say("catches_up")) } }
                        (body)
                        p class="printed" { (words.fill("printed", &[("time", &words.time(self.now, UnixMillis(0), Zone::Wib, Exact::Minute))])) }
                    }
                }
            }
        }
    }
}

/// A path with a query; empty values are left out.
pub(super) fn address<'a>(path: &str, values: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let mut url = reqwest::Url::parse("http://x/").expect("an address");
    url.query_pairs_mut()
        .extend_pairs(values.filter(|(_, value)| !value.is_empty()));
    match url.query() {
        Some(query) if !query.is_empty() => format!("{path}?{query}"),
        _ => path.to_owned(),
    }
}

/// A badge of a state.
pub(super) fn badge(state: ShownState, text: &str) -> Markup {
    html! { span class={ "badge " (state.as_str()) } { (text) } }
}

/// One choice of several that are links.
pub(super) fn choices<'a>(
    all: impl Iterator<Item = (String, String, bool)> + 'a,
    label: &str,
) -> Markup {
    html! {
        p class="choices" role="group" aria-label=(label) {
            @for (text, to, is_chosen) in all {
                a href=(to) aria-current=[is_chosen.then_some("true")] { (text) } " "
            }
        }
    }
}

/// What a form said, by name.
#[derive(Debug)]
pub(super) struct Said(BTreeMap<String, String>);

impl Said {
    /// What a field says, without spaces around it; none if it is empty.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0
            .get(name)
            .map(|text| text.trim())
            .filter(|text| !text.is_empty())
    }

    /// The same, or an error that names the field.
    pub(super) fn need(&self, name: &str) -> Result<String, Problem> {
        let found = self.get(name).map(str::to_owned);
        found.ok_or_else(|| Invalid::new(name, "", "empty", "fill it in").into())
    }
}

impl<S: Send + Sync> axum::extract::FromRequest<S> for Said {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let form = axum::Form::<Vec<(String, String)>>::from_request(request, state).await;
        let axum::Form(pairs) =
            form.map_err(|rejection| Problem::new(rejection.status(), rejection.body_text()))?;
        Ok(Self(pairs.into_iter().collect()))
    }
}

/// Shows problems as a page to who reads pages.
pub(super) async fn problems(request: Request, next: Next) -> Response {
    let language = language_of(request.uri().query(), request.headers());
    let is_page = request
        .headers()
        .get(header::ACCEPT)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|text| text.contains("text/html"));
    let response = next.run(request).await;
    let is_problem = response
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind == "application/problem+json");
    if !is_page || !is_problem {
        return response;
    }
    let status = response.status();
    let (parts, body) = response.into_parts();
    let Ok(bytes) = to_bytes(body, 64 * 1024).await else {
        return status.into_response();
    };
    let problem: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let words = Words { language };
    let key = match status {
        StatusCode::NOT_FOUND => "problem.none",
        StatusCode::FORBIDDEN => "problem.forbidden",
        _ if status.is_client_error() => "problem.wrong",
        _ => "problem.failed",
    };
    let title = words.say(key);
    let page = html! {
        (DOCTYPE)
        html lang=(language.code()) {
            head { (head(&format!("{title} – denyut"), "/style.css")) }
            body class="door" {
                main {
                    h1 { img src="/icon.svg" alt="" width="28" height="28"; " denyut" }
                    h2 { (title) }
                    p class="problem" { (words.problem(problem["detail"].as_str().unwrap_or_default())) }
                    p { a href="/" { (words.say("tab.overview")) } }
                }
            }
        }
    };
    let mut response = (status, page.into_string()).into_response();
    *response.headers_mut() = parts.headers;
    response.headers_mut().remove(header::CONTENT_LENGTH);
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/html; charset=utf-8"),
    );
    response
}
