//! The HTTP API, and the page that uses it.

mod events;
mod history;
mod incidents;
mod messages;
mod offices;
mod ops;
mod problem;
mod silences;

use crate::alert::{Outbox, Silences};
use crate::case::Cases;
use crate::events::Bus;
use crate::ingest::Gate;
use crate::metrics::Metrics;
use crate::query::Query;
use crate::web;
use anyhow::Context;
use axum::Router;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::routing::get;
use denyut_proto::{Invalid, OfficeCode};
use denyut_store::Store;
use denyut_store::log::{Log, Position};
use problem::Problem;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tower_http::compression::CompressionLayer;
use tower_http::set_header::SetResponseHeaderLayer;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// Streams of the history that may be read at once.
pub(crate) const HISTORY_READERS: usize = history::READERS;

/// What the handlers share.
pub(crate) struct Shared {
    pub(crate) query: Query,
    pub(crate) cases: Arc<Cases>,
    pub(crate) silences: Arc<Silences>,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) gate: Arc<Gate>,
    pub(crate) bus: Arc<Bus>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) log: Arc<dyn Log>,
    pub(crate) processed: Arc<AtomicU64>,
    /// Where the log ended when the collector started: past it, the replay is done.
    pub(crate) replay_to: Position,
    pub(crate) store: Arc<Store>,
    /// One permit for each stream of the history that may be read at once.
    pub(crate) history_readers: Arc<Semaphore>,
    pub(crate) stop: CancellationToken,
}

type State = axum::extract::State<Arc<Shared>>;

/// The document; the paths come from the handlers.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "denyut",
        description = "Network health of sub-district offices. All times are Unix milliseconds (UTC); event time unless \
                       said otherwise. Errors are RFC 9457 problem details.",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0")
    ),
    servers((url = "/"))
)]
struct Document;

/// All routes and their document.
fn routes() -> (Router<Arc<Shared>>, utoipa::openapi::OpenApi) {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(offices::list))
        .routes(routes!(offices::show))
        .routes(routes!(offices::links))
        .routes(routes!(offices::link))
        .routes(routes!(offices::samples))
        .routes(routes!(offices::buckets))
        .routes(routes!(offices::probe_now))
        .routes(routes!(incidents::list))
        .routes(routes!(incidents::show))
        .routes(routes!(incidents::acknowledge))
        .routes(routes!(incidents::withdraw))
        .routes(routes!(incidents::note))
        .routes(routes!(incidents::assign))
        .routes(routes!(silences::list, silences::add))
        .routes(routes!(silences::end))
        .routes(routes!(messages::list))
        .routes(routes!(messages::resend))
        .routes(routes!(events::stream))
        .routes(routes!(history::stream))
        .routes(routes!(ops::healthy))
        .routes(routes!(ops::ready))
        .routes(routes!(ops::prometheus))
        .split_for_parts()
}

/// Serves people and programs on `listener` until `shared.stop`.
pub(crate) async fn serve(shared: Arc<Shared>, listener: TcpListener) -> anyhow::Result<()> {
    let (router, document) = routes();
    let document = document
        .to_pretty_json()
        .context("cannot write the OpenAPI document")?;
    let stop = shared.stop.clone();
    let app = router
        .route(
            "/api/v1/openapi.json",
            get(move || async move { ([(header::CONTENT_TYPE, "application/json")], document) }),
        )
        .with_state(shared)
        .merge(web::routes())
        .fallback(|uri: axum::http::Uri| async move { Problem::not_found(format!("there is nothing at {}", uri.path())) })
        .method_not_allowed_fallback(|| async {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "this resource does not know that method")
        })
        .layer(CompressionLayer::new())
        .layer(set(header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .layer(set(header::REFERRER_POLICY, "no-referrer"))
        .layer(set(
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        ));
    axum::serve(listener, app)
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
        .context("the API's port failed")
}

fn set(name: header::HeaderName, value: &'static str) -> SetResponseHeaderLayer<HeaderValue> {
    SetResponseHeaderLayer::overriding(name, HeaderValue::from_static(value))
}

/// Runs a query where it may block.
async fn blocking<T: Send + 'static>(
    shared: Arc<Shared>,
    work: impl FnOnce(&Shared) -> anyhow::Result<T> + Send + 'static,
) -> Result<T, Problem> {
    tokio::task::spawn_blocking(move || work(&shared))
        .await
        .context("a query panicked")?
        .map_err(Problem::from)
}

/// A form of another site cannot send this header: what changes something asks for it.
fn needs_json(headers: &HeaderMap) -> Result<(), Problem> {
    let json = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.starts_with("application/json"));
    if json {
        return Ok(());
    }
    Err(Problem::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "send the header `Content-Type: application/json`",
    ))
}

/// The query parameter `office`.
fn office_parameter(office: Option<String>) -> Result<Option<OfficeCode>, Invalid> {
    let named = |error| Invalid {
        field: "office".into(),
        ..error
    };
    office
        .map(|office| office.parse().map_err(named))
        .transpose()
}

/// A body of JSON whose errors are problems.
#[derive(axum::extract::FromRequest)]
#[from_request(via(axum::Json), rejection(Problem))]
struct Body<T>(T);

/// Path parameters whose errors are problems.
#[derive(axum::extract::FromRequestParts)]
#[from_request(via(axum::extract::Path), rejection(Problem))]
struct Path<T>(T);

/// Query parameters whose errors are problems.
#[derive(axum::extract::FromRequestParts)]
#[from_request(via(axum::extract::Query), rejection(Problem))]
struct Parameters<T>(T);

impl From<PathRejection> for Problem {
    fn from(rejection: PathRejection) -> Self {
        Self::new(StatusCode::BAD_REQUEST, rejection.body_text())
    }
}

impl From<JsonRejection> for Problem {
    fn from(rejection: JsonRejection) -> Self {
        match rejection {
            JsonRejection::MissingJsonContentType(_) => Self::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "send JSON, with the header `Content-Type: application/json`",
            ),
            JsonRejection::BytesRejection(rejection) => {
                Self::new(rejection.status(), rejection.body_text())
            }
            JsonRejection::JsonDataError(error) => Self::malformed(&error.body_text()),
            other => Self::new(StatusCode::BAD_REQUEST, other.body_text()),
        }
    }
}

impl From<QueryRejection> for Problem {
    fn from(rejection: QueryRejection) -> Self {
        Self::malformed(&rejection.body_text())
    }
}

impl Problem {
    /// What axum says of parameters, or of a body, that are not what they should be.
    fn malformed(text: &str) -> Self {
        let text = [
            "Failed to deserialize query string: ",
            "Failed to deserialize the JSON body into the target type: ",
        ]
        .iter()
        .find_map(|prefix| text.strip_prefix(prefix))
        .unwrap_or(text);
        let mut problem = Self::new(StatusCode::BAD_REQUEST, text);
        // `from_ms: invalid digit …` names the parameter first.
        let named = text.split_once(": ").map(|(name, _)| name);
        problem.field = named
            .filter(|name| name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'))
            .map(str::to_owned);
        problem
    }
}

#[cfg(test)]
mod tests {
    /// Every route is in the document with a summary, and every answer of it is described.
    #[test]
    fn the_document_describes_every_route() {
        let (_, document) = super::routes();
        let document = serde_json::to_value(&document).expect("JSON");
        let paths = document["paths"].as_object().expect("paths");
        assert_eq!(paths.len(), 22);
        for (path, methods) in paths {
            for (method, operation) in methods.as_object().expect("methods") {
                assert!(
                    operation["summary"].as_str().is_some_and(|s| !s.is_empty()),
                    "{method} {path}"
                );
                let answers = operation["responses"].as_object().expect("responses");
                assert!(
                    answers.keys().any(|status| status.starts_with('2')),
                    "{method} {path}"
                );
            }
        }
    }
}
