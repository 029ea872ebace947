//! The page. Plain files, compiled in; what they show, they ask of the public API. Before it stands the login.

mod docs;
mod login;
mod publik;
mod text;

use crate::access::Caller;
use crate::api::Shared;
use axum::Router;
use axum::extract::Request;
use axum::http::header;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use std::sync::Arc;

const ID: &str = include_str!("static/id.json");
const EN: &str = include_str!("static/en.json");
const PAGE: (&str, &str) = (
    "text/html; charset=utf-8",
    include_str!("static/index.html"),
);

/// Path, media type, content.
const FILES: &[(&str, &str, &str)] = &[
    (
        "/app.js",
        "text/javascript; charset=utf-8",
        include_str!("static/app.js"),
    ),
    (
        "/plot.js",
        "text/javascript; charset=utf-8",
        include_str!("static/plot.js"),
    ),
    (
        "/text.js",
        "text/javascript; charset=utf-8",
        include_str!("static/text.js"),
    ),
    (
        "/style.css",
        "text/css; charset=utf-8",
        include_str!("static/style.css"),
    ),
    (
        "/publik.css",
        "text/css; charset=utf-8",
        include_str!("static/publik.css"),
    ),
    (
        "/publik.js",
        "text/javascript; charset=utf-8",
        include_str!("static/publik.js"),
    ),
    (
        "/icon.svg",
        "image/svg+xml",
        include_str!("static/icon.svg"),
    ),
    ("/text/id.json", "application/json", ID),
    ("/text/en.json", "application/json", EN),
];

/// The pages' routes; `document` is the API's.
pub(crate) fn routes(document: &serde_json::Value) -> Router<Arc<Shared>> {
    let docs = bytes::Bytes::from(docs::page(document));
    let html = || {
        [
            (header::CONTENT_TYPE, PAGE.0),
            (header::CACHE_CONTROL, "no-cache"),
        ]
    };
    let page = Router::new()
        .route("/", get(move || async move { (html(), PAGE.1) }))
        .route_layer(from_fn(known));
    let door = Router::new()
        .route("/masuk", get(login::show).post(login::enter))
        .route("/masuk/{secret}", get(login::welcome).post(login::choose))
        .route("/keluar", post(login::leave))
        .route("/publik", get(publik::index))
        .route("/publik/{what}", get(publik::show))
        .route("/docs", get(move || async move { (html(), docs) }));
    FILES
        .iter()
        .fold(page.merge(door), |router, (path, kind, content)| {
            let headers = [
                (header::CONTENT_TYPE, *kind),
                (header::CACHE_CONTROL, "no-cache"),
            ];
            router.route(path, get(move || async move { (headers, *content) }))
        })
}

/// Sends who is nobody to the login.
async fn known(request: Request, next: Next) -> Response {
    if request.extensions().get::<Caller>().is_none() {
        return login::to_login(&request).into_response();
    }
    next.run(request).await
}

#[cfg(test)]
mod tests {
    use super::{FILES, PAGE};
    use crate::query::ShownState;
    use denyut_detect::flap::Scale;
    use denyut_detect::incident::{Cause, RevisionReason, ScopeKind};
    use denyut_detect::office::PatternKind;
    use denyut_detect::presence::Why;
    use denyut_proto::{Identity, Reason, Role};
    use std::collections::BTreeSet;
    use std::net::Ipv4Addr;

    fn catalogue(language: &str) -> serde_json::Map<String, serde_json::Value> {
        let path = format!("/text/{language}.json");
        let (_, _, text) = FILES
            .iter()
            .find(|(p, ..)| *p == path)
            .expect("a catalogue");
        serde_json::from_str(text).expect("JSON")
    }

    fn keys(language: &str) -> BTreeSet<String> {
        catalogue(language).keys().cloned().collect()
    }

    #[test]
    fn both_languages_say_everything() {
        assert_eq!(keys("id"), keys("en"));
        for language in ["id", "en"] {
            for (key, text) in catalogue(language) {
                assert!(
                    text.as_str().is_some_and(|text| !text.trim().is_empty()),
                    "{language}: {key}"
                );
            }
        }
    }

    /// Every text that the scripts and the page ask for by name, and every value of the API that they translate, exists; and none
    /// is left over.
    #[test]
    fn every_text_exists_and_is_used() {
        use PatternKind as P;
        use RevisionReason as R;
        let reasons = [
            R::LinkDown,
            R::LinkUp,
            R::LinkRemoved,
            R::AgentSilent,
            R::AgentBack,
            R::AgentClosed,
            R::PowerLost,
            R::AgentFailed,
            R::IdentityCloned,
            R::RepairFailed,
            R::Evidence,
            R::CommonCause,
            R::Members,
            R::LateData,
            R::Merged,
            R::Redetected,
        ];
        let name = |value: serde_json::Result<serde_json::Value>| {
            value.expect("JSON").as_str().expect("a name").to_owned()
        };
        let mut wanted = BTreeSet::new();
        wanted.extend(Reason::ALL.iter().map(|v| format!("reason.{}", v.as_str())));
        wanted.extend(Role::ALL.iter().map(|v| format!("role.{}", v.as_str())));
        wanted.extend(Cause::ALL.map(|v| format!("cause.{}", v.as_str())));
        wanted.extend(Scale::ALL.map(|v| format!("scale.{}", v.as_str())));
        wanted.extend(ScopeKind::ALL.map(|v| format!("scope.{}", v.as_str())));
        let why = [Why::Power, Why::Goodbye, Why::Process, Why::Missing];
        wanted.extend(why.map(|v| format!("evidence.gap_{}", name(serde_json::to_value(v)))));
        let evidence = [
            "failed",
            "fine",
            "nothing_delivered",
            "other_agent",
            "clone",
            "together",
            "shared",
            "after_opening",
            "likely",
        ];
        wanted.extend(evidence.map(|v| format!("evidence.{v}")));
        // The fields of the form, what can be done, and what was done.
        let fields = ["text", "to"];
        let deeds = ["acknowledge", "withdraw", "notes", "assign"];
        wanted.extend(fields.into_iter().chain(deeds).map(|v| format!("case.{v}")));
        let steps = ["acknowledge", "withdraw", "note", "assign", "assign_nobody"];
        wanted.extend(steps.map(|v| format!("step.{v}")));
        wanted.extend(P::ALL.map(|v| format!("pattern.{}", v.as_str())));
        let identities = [
            Identity::Mac([0; 6]),
            Identity::Certificate([0; 32]),
            Identity::Address(Ipv4Addr::LOCALHOST.into()),
        ];
        let kind = |identity: Identity| identity.to_string().split(' ').next().map(str::to_owned);
        wanted.extend(
            identities
                .into_iter()
                .filter_map(kind)
                .map(|v| format!("identity.{v}")),
        );
        wanted.extend(reasons.map(|v| format!("revision.{}", name(serde_json::to_value(v)))));
        wanted.extend(crate::publik::Can::ALL.map(|v| format!("public.{}", v.as_str())));
        wanted.extend((1..=12).map(|month| format!("month.{month}")));
        wanted.extend(ShownState::ALL.map(|v| format!("state.{}", v.as_str())));
        let known = keys("id");
        let mut by_name = 0;
        let files = FILES.iter().filter(|(_, kind, _)| !kind.contains("json"));
        let files = files.map(|(_, _, content)| *content);
        for content in files.chain([PAGE.1, include_str!("login.rs"), include_str!("publik.rs")]) {
            let between_quotes = |part: &str| part.split('"').next().map(str::to_owned);
            for mark in ["say(\"", "data-text=\""] {
                for key in content.split(mark).skip(1).filter_map(between_quotes) {
                    wanted.insert(key);
                    by_name += 1;
                }
            }
            // A key may also stand in a table or behind a condition.
            wanted.extend(
                content
                    .split('"')
                    .filter(|text| known.contains(*text))
                    .map(str::to_owned),
            );
        }
        assert!(
            by_name > 20,
            "the marks do not match the scripts: {by_name}"
        );
        assert_eq!(known, wanted);
    }
}
