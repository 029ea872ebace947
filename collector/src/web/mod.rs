//! What people look at. Every page is written on the server and needs no script; small modules keep it live, and read plots.

mod docs;
mod errors;
mod incidents;
mod login;
mod machines;
mod map;
mod office;
mod oidc;
mod overview;
mod patterns;
mod pdf;
mod publik;
mod reader;
mod register;
mod reports;
mod settings;
mod smoke;
mod text;
mod way;
mod words;

use crate::api::Shared;
use axum::Router;
use axum::http::header;
use axum::middleware::from_fn;
use axum::routing::{get, post};
use std::sync::Arc;

/// Path, media type, content.
const FILES: &[(&str, &str, &str)] = &[
    (
        "/live.js",
        "text/javascript; charset=utf-8",
        include_str!("static/live.js"),
    ),
    (
        "/plot.js",
        "text/javascript; charset=utf-8",
        include_str!("static/plot.js"),
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
];

/// The pages' routes; `document` is the API's.
pub(crate) fn routes(document: &serde_json::Value) -> Router<Arc<Shared>> {
    let docs = bytes::Bytes::from(docs::page(document));
    let docs_head = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    // Who is nobody is sent to the login by `Reader`, an argument of each of these.
    let pages = Router::new()
        .route("/", get(overview::show))
        .route("/kantor/{office}", get(office::show))
        .route("/kantor/{office}/{agent}/{target}", get(office::link))
        .route(
            "/kantor/{office}/{agent}/{target}/periksa",
            post(office::probe),
        )
        .route("/insiden", get(incidents::list))
        .route(
            "/insiden/{number}",
            get(incidents::show).post(incidents::act),
        )
        .route("/insiden/senyap", post(incidents::add_silence))
        .route(
            "/insiden/senyap/{number}/akhiri",
            post(incidents::end_silence),
        )
        .route("/pola", get(patterns::show))
        .route("/laporan", get(reports::show))
        .route("/laporan.csv", get(reports::csv))
        .route("/laporan.pdf", get(reports::pdf))
        .route("/pengaturan", get(settings::show))
        .route("/pengaturan/kantor", get(register::show))
        .route("/pengaturan/kantor/impor", post(settings::import_offices))
        .route("/pengaturan/kantor/{office}", post(register::put))
        .route(
            "/pengaturan/kantor/{office}/hapus",
            post(settings::remove_office),
        )
        .route("/pengaturan/penerima/{name}/uji", post(settings::test))
        .route("/pengaturan/pengguna", post(settings::add_user))
        .route(
            "/pengaturan/pengguna/{name}/ubah",
            post(settings::change_user),
        )
        .route(
            "/pengaturan/pengguna/{name}/tautan",
            post(settings::welcome_user),
        )
        .route(
            "/pengaturan/pengguna/{name}/hapus",
            post(settings::remove_user),
        )
        .route("/pengaturan/undangan", post(machines::invite))
        .route(
            "/pengaturan/undangan/{name}/hapus",
            post(machines::withdraw),
        )
        .route("/pengaturan/mesin/{agent}/cabut", post(machines::revoke))
        .route("/pengaturan/token", post(settings::add_token))
        .route(
            "/pengaturan/token/{name}/hapus",
            post(settings::remove_token),
        )
        .route_layer(from_fn(reader::problems));
    let door = Router::new()
        .route("/masuk", get(login::show).post(login::enter))
        .route("/masuk/oidc", get(oidc::begin))
        .route("/masuk/oidc/kembali", get(oidc::finish))
        .route("/masuk/{secret}", get(login::welcome).post(login::choose))
        .route("/keluar", post(login::leave))
        .route("/publik", get(publik::index))
        .route("/publik/{what}", get(publik::show))
        .route("/docs", get(move || async move { (docs_head, docs) }));
    FILES
        .iter()
        .fold(pages.merge(door), |router, (path, kind, content)| {
            let headers = [
                (header::CONTENT_TYPE, *kind),
                (header::CACHE_CONTROL, "no-cache"),
            ];
            router.route(path, get(move || async move { (headers, *content) }))
        })
}

#[cfg(test)]
mod tests {
    use crate::availability::By;
    use crate::query::ShownState;
    use denyut_detect::flap::Scale;
    use denyut_detect::incident::{Cause, RevisionReason, ScopeKind};
    use denyut_detect::office::PatternKind;
    use denyut_detect::presence::Why;
    use denyut_proto::{Identity, Reason, Role};
    use std::collections::BTreeSet;
    use std::net::Ipv4Addr;

    fn catalogue(language: &str) -> serde_json::Map<String, serde_json::Value> {
        let text = match language {
            "id" => include_str!("id.json"),
            _ => include_str!("en.json"),
        };
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

    /// The pages.
    const SOURCES: &[&str] = &[
        include_str!("incidents.rs"),
        include_str!("login.rs"),
        include_str!("office.rs"),
        include_str!("oidc.rs"),
        include_str!("overview.rs"),
        include_str!("patterns.rs"),
        include_str!("publik.rs"),
        include_str!("reader.rs"),
        include_str!("register.rs"),
        include_str!("reports.rs"),
        include_str!("machines.rs"),
        include_str!("settings.rs"),
        include_str!("smoke.rs"),
        include_str!("way.rs"),
        include_str!("words.rs"),
    ];

    /// Every text that the pages ask for by name, and every value of the API that they translate, exists; and none is left over.
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
        let steps = ["acknowledge", "withdraw", "note", "assign", "assign_nobody"];
        wanted.extend(steps.map(|v| format!("step.{v}")));
        let told = ["firing", "acknowledged", "resolved"];
        wanted.extend(told.map(|v| format!("told.{v}")));
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
        wanted.extend((1..=12).map(|month| format!("month_name.{month}")));
        wanted.extend((1..=7).map(|day| format!("weekday.{day}")));
        wanted.extend(P::ALL.map(|v| format!("kind.{}", v.as_str())));
        wanted.extend(By::ALL.map(|v| format!("by.{}", v.as_str())));
        wanted.extend(super::smoke::Kind::ALL.map(|v| format!("legend.{}", v.as_str())));
        wanted.extend(super::smoke::GLANCE.map(|(v, _)| format!("glance.{v}")));
        wanted.extend(["day", "hour", "minute", "second"].map(|v| format!("unit.{v}")));
        // Messages say it.
        wanted.insert("incident.scope".to_owned());
        let status = ["open", "acknowledged", "probation", "closed", "retracted"];
        wanted.extend(status.map(|v| format!("status.{v}")));
        wanted.extend(["viewer", "operator", "admin"].map(|v| format!("user_role.{v}")));
        wanted.extend(["read", "operate", "admin", "metrics"].map(|v| format!("scope_name.{v}")));
        wanted.extend(ShownState::ALL.map(|v| format!("state.{}", v.as_str())));
        let known = keys("id");
        let mut by_name = 0;
        for content in SOURCES {
            let between_quotes = |part: &str| part.split('"').next().map(str::to_owned);
            for mark in ["say(\"", "fill(\"", "language, \""] {
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
        assert!(by_name > 20, "the marks do not match the pages: {by_name}");
        let missing: Vec<_> = wanted.difference(&known).collect();
        let left_over: Vec<_> = known.difference(&wanted).collect();
        assert!(
            missing.is_empty() && left_over.is_empty(),
            "missing: {missing:?}, left over: {left_over:?}"
        );
    }
}
