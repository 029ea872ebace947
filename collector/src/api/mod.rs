//! The HTTP API, and the page that uses it.

mod answers;
mod availability;
mod cookie;
mod document;
mod events;
mod guard;
mod history;
pub(crate) mod incidents;
mod list;
pub(crate) mod machines;
mod messages;
pub(crate) mod offices;
mod ops;
mod patterns;
mod problem;
mod prometheus;
pub(crate) mod registrations;
pub(crate) mod setup;
pub(crate) mod silences;
pub(crate) mod users;

pub(crate) use answers::forget;
pub(crate) use cookie::Cookie;
pub(crate) use guard::{Socket, Source, write_down};
pub(crate) use list::{number, pairs, plain, slot};
pub(crate) use machines::Copied;
pub(crate) use offices::FAR;
pub(crate) use problem::Problem;
pub(crate) use prometheus::QUERIES;

use crate::access::{Audit, Book, Oidc, Pace, Slots};
use crate::alert::{Alerts, Outbox, Silences};
use crate::board::{self, Board};
use crate::case::Cases;
use crate::config::Address;
use crate::events::Bus;
use crate::ingest::Gate;
use crate::metrics::Metrics;
use crate::publik::Publik;
use crate::query::Query;
use crate::register::Register;
use crate::web;
use anyhow::Context;
use axum::extract::DefaultBodyLimit;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::get;
use axum::{Extension, Json, Router};
use denyut_proto::{Invalid, OfficeCode};
use denyut_store::Store;
use denyut_store::log::{Log, Position};
use guard::{Need, guarded};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tower_http::compression::CompressionLayer;
use tower_http::set_header::SetResponseHeaderLayer;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// Long answers that may be read at once, in all and for each caller.
pub(crate) const READERS: (usize, usize) = (list::READERS, 4);
/// Those who may listen at once, in all and of one person.
pub(crate) const LISTENERS: (usize, usize) = (10_000, 200);

/// What the handlers share.
pub(crate) struct Shared {
    pub(crate) query: Query,
    pub(crate) board: Board,
    /// What people register while the collector runs.
    pub(crate) register: Register,
    pub(crate) cases: Arc<Cases>,
    pub(crate) silences: Arc<Silences>,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) alerts: Arc<Alerts>,
    pub(crate) book: Arc<Book>,
    pub(crate) audit: Arc<Audit>,
    /// How often each caller may ask.
    pub(crate) pace: Pace,
    /// How often somebody may try to log in: from an address as a user, and as a user from anywhere.
    pub(crate) logins: Pace,
    pub(crate) logins_of_user: Pace,
    /// How often what is refused of a caller is written down.
    pub(crate) refusals: Pace,
    /// One permit for each PromQL query that is answered at once.
    pub(crate) queries: Arc<Slots>,
    /// One permit for each password that is tried at once: each takes 19 MiB and a tenth of a second.
    pub(crate) passwords: Semaphore,
    /// What people open.
    pub(crate) address: Address,
    /// Who else may say who somebody is.
    pub(crate) oidc: Option<Oidc>,
    /// What stands above a report on paper, line by line.
    pub(crate) letterhead: Vec<String>,
    /// What citizens are shown, if they are.
    pub(crate) public: Option<Publik>,
    /// Where this is.
    pub(crate) listening: SocketAddr,
    /// Where agents find the collector: `https://host:port`.
    pub(crate) agents_find: String,
    pub(crate) gate: Arc<Gate>,
    pub(crate) bus: Arc<Bus>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) log: Arc<dyn Log>,
    pub(crate) processed: Arc<AtomicU64>,
    /// Where the log ended when the collector started: past it, the replay is done.
    pub(crate) replay_to: Position,
    pub(crate) store: Arc<Store>,
    /// Long answers that may be read at once, and those who listen to what happens.
    pub(crate) readers: Arc<Slots>,
    pub(crate) listeners: Arc<Slots>,
    pub(crate) stop: CancellationToken,
}

pub(crate) type State = axum::extract::State<Arc<Shared>>;

/// The document; the paths come from the handlers.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "denyut",
        description = "Network health of sub-district offices.\n\nAll times are Unix milliseconds (UTC); event time unless said otherwise. Errors are RFC 9457 \
                       problem details. Callers see and change what lies in their regions; what does not is as if it were not there.\n\nLists come in pages: the header \
                       `Link` leads to the next. With `format=ndjson` or `format=csv` they come whole, as a stream. JSON answers have an `ETag`. A request that changes \
                       something may carry an `Idempotency-Key` (1 to 100 characters): when it comes again within 24 hours, it gets the same answer, and is not done twice.",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0")
    ),
    servers((url = "/")),
    components(schemas(Problem)),
    modifiers(&Schemes)
)]
struct Document;

/// How callers say who they are.
struct Schemes;

impl Modify for Schemes {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let components = document.components.get_or_insert_default();
        let token = HttpBuilder::new().scheme(HttpAuthScheme::Bearer);
        let token = token.description(Some(
            "A token that `POST /api/v1/tokens` or `denyutctl token create` made.",
        ));
        components.add_security_scheme("token", SecurityScheme::Http(token.build()));
        let about = "What a browser has after a login at `/masuk`; over https its name begins with `__Host-`.";
        let session = ApiKey::Cookie(ApiKeyValue::with_description("denyut", about));
        components.add_security_scheme("session", SecurityScheme::ApiKey(session));
    }
}

/// All routes and their document.
fn routes() -> (Router<Arc<Shared>>, utoipa::openapi::OpenApi) {
    let read = OpenApiRouter::new()
        .routes(routes!(users::me))
        .routes(routes!(users::tokens, users::add_token))
        .routes(routes!(users::remove_token))
        .routes(routes!(offices::list))
        .routes(routes!(offices::show))
        .routes(routes!(offices::links))
        .routes(routes!(offices::link))
        .routes(routes!(offices::samples))
        .routes(routes!(offices::buckets))
        .routes(routes!(offices::paths))
        .routes(routes!(incidents::list))
        .routes(routes!(incidents::show))
        .routes(routes!(patterns::list))
        .routes(routes!(availability::list))
        .routes(routes!(silences::list))
        .routes(routes!(setup::maintenance))
        .routes(routes!(setup::receivers))
        .routes(routes!(setup::route))
        .routes(routes!(events::stream))
        .routes(routes!(history::stream))
        .routes(routes!(prometheus::query, prometheus::query_form))
        .routes(routes!(
            prometheus::query_range,
            prometheus::query_range_form
        ))
        .routes(routes!(prometheus::series, prometheus::series_form))
        .routes(routes!(prometheus::labels, prometheus::labels_form))
        .routes(routes!(prometheus::values))
        .routes(routes!(prometheus::metadata))
        .routes(routes!(prometheus::build_info));
    let operate = OpenApiRouter::new()
        .routes(routes!(offices::probe_now))
        .routes(routes!(incidents::acknowledge))
        .routes(routes!(incidents::withdraw))
        .routes(routes!(incidents::note))
        .routes(routes!(incidents::assign))
        .routes(routes!(silences::add))
        .routes(routes!(silences::end))
        .routes(routes!(setup::test));
    let admin = OpenApiRouter::new()
        .routes(routes!(users::list, users::add))
        .routes(routes!(users::show, users::change, users::remove))
        .routes(routes!(users::welcome))
        .routes(routes!(machines::invitations, machines::invite))
        .routes(routes!(machines::withdraw))
        .routes(routes!(machines::agents))
        .routes(routes!(machines::revoke))
        .routes(routes!(registrations::list, registrations::import))
        .routes(routes!(registrations::put, registrations::remove));
    let collector = OpenApiRouter::new()
        .routes(routes!(users::audit))
        .routes(routes!(messages::list))
        .routes(routes!(messages::resend))
        .routes(routes!(machines::back_up));
    let metrics = OpenApiRouter::new().routes(routes!(ops::prometheus));
    let (router, mut document) = OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(ops::healthy))
        .routes(routes!(ops::ready))
        .merge(guarded(read, Need::READ))
        .merge(guarded(operate, Need::OPERATE))
        .merge(guarded(admin, Need::ADMIN))
        .merge(guarded(collector, Need::COLLECTOR))
        .merge(guarded(metrics, Need::METRICS))
        .split_for_parts();
    document::complete(&mut document);
    (router, document)
}

/// All that is served, to whoever comes by a port.
fn app(shared: &Arc<Shared>) -> anyhow::Result<Router> {
    let (router, document) = routes();
    let names = Arc::new(document::names(&document));
    let document = serde_json::to_value(document).context("cannot write the OpenAPI document")?;
    let pages = web::routes(&document);
    let document = bytes::Bytes::from(serde_json::to_vec(&document)?);
    let router = router
        .route(
            "/api/v1/openapi.json",
            get(move || async move { ([(header::CONTENT_TYPE, "application/json")], document) }),
        )
        .merge(pages)
        .fallback(|uri: axum::http::Uri| async move {
            Problem::not_found(format!("there is nothing at {}", uri.path()))
        })
        .method_not_allowed_fallback(|| async {
            Problem::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "this resource does not know that method",
            )
        })
        .layer(from_fn(move |request, next| {
            document::check(Arc::clone(&names), request, next)
        }))
        .layer(from_fn(answers::tag))
        // How long a body may be depends on whose it is.
        .layer(DefaultBodyLimit::disable())
        .layer(from_fn_with_state(Arc::clone(shared), guard::identify))
        .with_state(Arc::clone(shared));
    Ok(router
        .layer(CompressionLayer::new())
        .layer(set(header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .layer(set(header::REFERRER_POLICY, "no-referrer"))
        .layer(set(
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
        )))
}

/// Serves people and programs on `listener`, and who is on the machine on `socket`, until `shared.stop`.
pub(crate) async fn serve(
    shared: Arc<Shared>,
    listener: TcpListener,
    socket: Option<UnixListener>,
) -> anyhow::Result<()> {
    let stop = shared.stop.clone();
    let app = app(&shared)?;
    // Whoever comes first finds it written.
    blocking(Arc::clone(&shared), |shared| {
        let now = shared.gate.clock.read().now;
        shared.board.fill(&shared.query, now)
    })
    .await
    .map_err(|problem| anyhow::anyhow!("cannot read what stands: {problem:?}"))?;
    let board = tokio::spawn(board::keep(Arc::clone(&shared)));
    let by_port = axum::serve(
        listener,
        app.clone()
            .into_make_service_with_connect_info::<SocketAddr>(),
    )
    .with_graceful_shutdown(stop.clone().cancelled_owned());
    let by_socket = async {
        match socket {
            Some(socket) => axum::serve(socket, app.layer(Extension(Socket)))
                .with_graceful_shutdown(stop.cancelled_owned())
                .await
                .context("the control socket failed"),
            None => Ok(()),
        }
    };
    let (one, two, three) = tokio::join!(by_port, by_socket, board);
    one.context("the API's port failed")?;
    three.context("the board panicked")?;
    two
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

/// An answer with a secret, which nobody on the way keeps.
pub(crate) type Made<T> = (StatusCode, [(header::HeaderName, &'static str); 1], Json<T>);

fn made<T>(what: T) -> Made<T> {
    let once = [(header::CACHE_CONTROL, "no-store")];
    (StatusCode::CREATED, once, Json(what))
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
pub(crate) struct Body<T>(pub(crate) T);

/// Path parameters whose errors are problems.
#[derive(axum::extract::FromRequestParts)]
#[from_request(via(axum::extract::Path), rejection(Problem))]
pub(crate) struct Path<T>(pub(crate) T);

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
        let mut open = Vec::new();
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
                if operation["security"].is_null() {
                    open.push(path.as_str());
                }
            }
        }
        // Everything else asks who comes.
        assert_eq!(open, ["/-/healthy", "/-/ready"]);
    }
}
