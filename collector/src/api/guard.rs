//! What stands before every request: who asks, whether they may, whether a foreign page made their browser ask, how often they ask, how much they
//! send, and what was done.

use super::Shared;
use super::cookie::Cookie;
use super::document::problem;
use super::problem::Problem;
use crate::access::{Caller, Entry, Scope, Via};
use axum::body::{Body, HttpBody, to_bytes};
use axum::extract::{ConnectInfo, FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tracing::error;
use utoipa::openapi::security::SecurityRequirement;
use utoipa_axum::router::OpenApiRouter;

/// The request came through the control socket.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Socket;

/// The name by which whoever comes through the socket signs.
const BY: &str = "denyut-by";

/// What a route asks of its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Need {
    scope: Scope,
    /// It is about the collector, not about some region.
    everywhere: bool,
}

impl Need {
    pub(super) const READ: Self = Self::of(Scope::Read);
    pub(super) const OPERATE: Self = Self::of(Scope::Operate);
    pub(super) const ADMIN: Self = Self::of(Scope::Admin);
    pub(super) const METRICS: Self = Self::of(Scope::Metrics);
    /// Of the collector as a whole.
    pub(super) const COLLECTOR: Self = Self {
        scope: Scope::Admin,
        everywhere: true,
    };

    const fn of(scope: Scope) -> Self {
        Self {
            scope,
            everywhere: false,
        }
    }

    fn check(self, caller: Option<&Caller>) -> Result<(), Problem> {
        let caller = caller.ok_or_else(Problem::unknown)?;
        if !caller.may(self.scope) {
            let text = format!(
                "this needs the scope `{}`, which you do not have",
                self.scope.as_str()
            );
            return Err(Problem::new(StatusCode::FORBIDDEN, text));
        }
        if self.everywhere && !caller.regions.is_everywhere() {
            let text = "this is about the whole collector, and needs the regions `all`";
            return Err(Problem::new(StatusCode::FORBIDDEN, text));
        }
        Ok(())
    }
}

/// Lets only those in who may, and says so in the document.
pub(super) fn guarded(
    mut router: OpenApiRouter<Arc<Shared>>,
    need: Need,
) -> OpenApiRouter<Arc<Shared>> {
    for item in router.get_openapi_mut().paths.paths.values_mut() {
        let all = [
            &mut item.get,
            &mut item.post,
            &mut item.put,
            &mut item.patch,
            &mut item.delete,
        ];
        for operation in all.into_iter().flatten() {
            let scope = need.scope.as_str();
            operation.security = Some(vec![
                SecurityRequirement::new("token", [scope]),
                SecurityRequirement::new("session", [scope]),
            ]);
            let region = if need.everywhere {
                ", in the regions `all`"
            } else {
                ""
            };
            let text = operation.description.take().unwrap_or_default();
            operation.description = Some(
                format!("{text}\n\nNeeds the scope `{scope}`{region}.")
                    .trim()
                    .to_owned(),
            );
            let answers = &mut operation.responses.responses;
            for (status, text) in [
                ("401", "nobody, or nobody known, asks"),
                ("403", "whoever asks may not"),
                ("429", "too often; `Retry-After` says when again"),
            ] {
                answers
                    .entry(status.to_owned())
                    .or_insert_with(|| problem(text).into());
            }
        }
    }
    router.route_layer(axum::middleware::from_fn(
        move |request: Request, next: Next| async move {
            let caller = request.extensions().get::<Caller>();
            if caller.is_none() && token(request.headers()).is_some() {
                let text = "the token is unknown, expired or was removed; make a new one";
                return Problem::new(StatusCode::UNAUTHORIZED, text).into_response();
            }
            match need.check(caller) {
                Ok(()) => super::answers::once(request, next).await,
                Err(problem) => problem.into_response(),
            }
        },
    ))
}

impl Problem {
    fn unknown() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "say who you are: log in, or send a token (`Authorization: Bearer denyut_…`)",
        )
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let caller = parts.extensions.get::<Self>().cloned();
        caller.ok_or_else(Problem::unknown)
    }
}

/// The address that a request came from; none through the socket.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Source(pub(crate) Option<IpAddr>);

impl Source {
    /// The peer; or, if that is a proxy on this machine, whom it names last.
    fn of(request: &Request) -> Self {
        let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
        let peer = peer.map(|ConnectInfo(peer)| peer.ip());
        // A proxy adds what it saw behind what it was told.
        let forwarded = request
            .headers()
            .get_all("x-forwarded-for")
            .into_iter()
            .next_back();
        let forwarded = forwarded.and_then(|value| value.to_str().ok());
        let last = forwarded.and_then(|text| text.rsplit(',').next()?.trim().parse().ok());
        Self(match peer {
            Some(peer) if peer.is_loopback() => last.or(Some(peer)),
            peer => peer,
        })
    }
}

impl Source {
    /// What logins are counted by: the address, or the network that one house has of the new kind.
    pub(crate) fn network(self) -> String {
        match self.0 {
            Some(IpAddr::V6(address)) => {
                let [a, b, c, d, ..] = address.segments();
                format!("{a:x}:{b:x}:{c:x}:{d:x}::")
            }
            Some(address) => address.to_string(),
            None => String::new(),
        }
    }
}

/// The token that a request shows.
fn token(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (kind, secret) = value.split_once(' ')?;
    kind.eq_ignore_ascii_case("bearer").then(|| secret.trim())
}

/// A name in `Host` that is not ours is a foreign page's, which had it point here (DNS rebinding).
fn check_host(headers: &HeaderMap, own: Option<&str>) -> Result<(), Problem> {
    let host = headers
        .get(header::HOST)
        .and_then(|value| value.to_str().ok());
    // What asks without a host is no browser.
    let Some(host) = host else { return Ok(()) };
    let bare = match host.rsplit_once(':') {
        Some((bare, port)) if port.bytes().all(|b| b.is_ascii_digit()) => bare,
        _ => host,
    };
    let is_address = bare
        .trim_start_matches('[')
        .trim_end_matches(']')
        .parse::<IpAddr>()
        .is_ok();
    let is_ours = own.is_some_and(|own| own.eq_ignore_ascii_case(bare));
    if is_address || is_ours || bare.eq_ignore_ascii_case("localhost") {
        return Ok(());
    }
    Err(Problem::new(
        StatusCode::MISDIRECTED_REQUEST,
        format!(
            "this collector is not called `{}`; set `api.address` to the address that people open",
            host.escape_debug()
        ),
    ))
}

/// What a browser sends for a page of another site changes nothing here.
fn check_site(method: &Method, headers: &HeaderMap, by_session: bool) -> Result<(), Problem> {
    if is_safe(method) {
        return Ok(());
    }
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let is_own = match (text("sec-fetch-site"), text("origin")) {
        (Some(site), _) => matches!(site, "same-origin" | "none"),
        (None, Some(origin)) => {
            let host = text("host");
            origin
                .split_once("://")
                .is_some_and(|(_, of)| Some(of) == host)
        }
        // Not a browser; then it has no session.
        (None, None) => !by_session,
    };
    if is_own {
        return Ok(());
    }
    Err(Problem::new(
        StatusCode::FORBIDDEN,
        "another site's page may not do this",
    ))
}

fn is_safe(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

/// A POST that changes nothing: a query of Prometheus' API, whose parameters may be too long for an address.
pub(super) fn is_question(path: &str) -> bool {
    const QUESTIONS: [&str; 4] = ["query", "query_range", "series", "labels"];
    path.strip_prefix("/api/v1/")
        .is_some_and(|name| QUESTIONS.contains(&name))
}

/// Bytes of a body, at most, and how long it may take to arrive: of who may register offices (a nation of villages at once), of others who are known, and of
/// anybody else (a login).
const BODIES: [(usize, Duration); 3] = [
    (32 * 1024 * 1024, Duration::from_secs(300)),
    (1024 * 1024, Duration::from_secs(60)),
    (16 * 1024, Duration::from_secs(20)),
];

/// Reads the body before anybody looks at it: nobody holds more of the memory, or for longer, than who they are lets them.
async fn read_body(request: Request, caller: Option<&Caller>) -> Result<Request, Problem> {
    // Most requests have none.
    if request.body().is_end_stream() {
        return Ok(request);
    }
    let (most, within) = match caller {
        Some(caller) if caller.may(Scope::Admin) => BODIES[0],
        Some(_) => BODIES[1],
        None => BODIES[2],
    };
    let too_long = || {
        let text = format!("send at most {most} bytes");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, text)
    };
    let (parts, body) = request.into_parts();
    if body.size_hint().lower() > most as u64 {
        return Err(too_long());
    }
    let read = tokio::time::timeout(within, to_bytes(body, most)).await;
    let read = read.map_err(|_| {
        let text = format!("the body did not arrive within {} s", within.as_secs());
        Problem::new(StatusCode::REQUEST_TIMEOUT, text)
    })?;
    let is_limit = |error: &axum::Error| {
        let source = std::error::Error::source(error);
        source.is_some_and(<dyn std::error::Error>::is::<http_body_util::LengthLimitError>)
    };
    let body = read.map_err(|error| match &error {
        error if is_limit(error) => too_long(),
        _ => Problem::new(StatusCode::BAD_REQUEST, "the body broke off"),
    })?;
    Ok(Request::from_parts(parts, Body::from(body)))
}

/// Finds out who asks, refuses what no page of ours sends and who asks too often, and writes down what was done.
pub(super) async fn identify(
    State(shared): State<Arc<Shared>>,
    mut request: Request,
    next: Next,
) -> Response {
    let now = shared.gate.clock.read().now;
    let by_socket = request.extensions().get::<Socket>().is_some();
    let from = Source::of(&request);
    let caller = match who(&shared, &request, by_socket, now) {
        Ok(caller) => caller,
        Err(problem) => return problem.into_response(),
    };
    if let Some(caller) = &caller {
        if !by_socket && let Err(wait) = shared.pace.ask(&caller.person()) {
            return Problem::too_often(wait).into_response();
        }
        if let Via::Session(key) = &caller.via
            && shared.book.is_stale(key, now)
        {
            let (book, key) = (Arc::clone(&shared.book), key.clone());
            // If that cannot be written, the session ends earlier: nothing else is lost.
            tokio::task::spawn_blocking(move || book.see(&key, now));
        }
        request.extensions_mut().insert(caller.clone());
    }
    let mut request = match read_body(request, caller.as_ref()).await {
        Ok(request) => request,
        Err(problem) => return problem.into_response(),
    };
    request.extensions_mut().insert(from);
    request.extensions_mut().insert(Arc::clone(&shared));
    let changes = !is_safe(request.method()) && !is_question(request.uri().path());
    let caller = caller.filter(|_| changes);
    let Some(caller) = caller else {
        return next.run(request).await;
    };
    // Whoever asks may go away meanwhile: what was done is written down all the same.
    let done = tokio::spawn(async move {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let response = next.run(request).await;
        let entry = Entry {
            number: 0,
            at_ms: now,
            by: caller.user.clone().unwrap_or_else(|| caller.by.clone()),
            via: caller.via.to_string(),
            from: from.0.map(|from| from.to_string()),
            method: method.to_string(),
            // What stands behind it is a secret.
            path: if path.starts_with("/masuk/") {
                "/masuk/…".to_owned()
            } else {
                path
            },
            status: response.status().as_u16(),
        };
        let is_refused = response.status().is_client_error();
        // Who is refused again and again does not push out what was done.
        if is_refused && shared.refusals.ask(&caller.person()).is_err() {
            shared.metrics.unaudited.inc();
        } else {
            write_down(&shared, entry).await;
        }
        response
    });
    done.await
        .unwrap_or_else(|error| Problem::from(anyhow::Error::from(error)).into_response())
}

/// Keeps an entry of the audit; what cannot be kept is in the log.
pub(crate) async fn write_down(shared: &Arc<Shared>, entry: Entry) {
    let audit = Arc::clone(&shared.audit);
    let kept = tokio::task::spawn_blocking(move || audit.add(entry)).await;
    if let Err(error) = kept.map_err(anyhow::Error::from).flatten() {
        error!(error = %format!("{error:#}"), "what was done cannot be written down");
    }
}

fn who(
    shared: &Shared,
    request: &Request,
    by_socket: bool,
    now: denyut_proto::UnixMillis,
) -> Result<Option<Caller>, Problem> {
    let headers = request.headers();
    if by_socket {
        let by = headers
            .get(BY)
            .and_then(|value| std::str::from_utf8(value.as_bytes()).ok());
        return Ok(Some(Caller::of_socket(by.unwrap_or("admin").to_owned())));
    }
    // What is for everybody may be shown under any name.
    if !request.uri().path().starts_with("/publik") {
        check_host(headers, shared.address.host())?;
    }
    if let Some(secret) = token(headers) {
        check_site(request.method(), headers, false)?;
        return Ok(shared.book.of_token(secret, now));
    }
    let secret = Cookie::SESSION.of(headers, shared.address.is_https());
    let caller = secret.and_then(|secret| shared.book.of_session(secret, now));
    check_site(request.method(), headers, caller.is_some())?;
    Ok(caller)
}

impl Problem {
    pub(crate) fn too_often(wait: std::time::Duration) -> Self {
        let seconds = wait.as_secs() + 1;
        let mut problem = Self::new(
            StatusCode::TOO_MANY_REQUESTS,
            format!("too often; ask again in {seconds} s"),
        );
        problem.retry_after = Some(seconds);
        problem
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn headers(all: &[(&'static str, &str)]) -> HeaderMap {
        let pairs = all.iter().map(|(name, value)| {
            (
                header::HeaderName::from_static(name),
                HeaderValue::from_str(value).expect("a value"),
            )
        });
        pairs.collect()
    }

    #[test]
    fn a_name_that_is_not_ours_is_refused() {
        let check = |host| check_host(&headers(&[("host", host)]), Some("denyut.example")).is_ok();
        for ours in [
            "127.0.0.1",
            "127.0.0.1:7080",
            "[::1]:7080",
            "localhost:7080",
            "denyut.example",
            "DENYUT.example:443",
            "10.0.0.7",
        ] {
            assert!(check(ours), "{ours}");
        }
        for other in [
            "evil.example",
            "denyut.example.evil.example:80",
            "127.0.0.1.evil.example",
            "",
        ] {
            assert!(!check(other), "{other}");
        }
        assert!(check_host(&HeaderMap::new(), None).is_ok());
    }

    #[test]
    fn a_foreign_page_changes_nothing() {
        let check = |all: &[(&'static str, &str)], by_session| {
            check_site(&Method::POST, &headers(all), by_session).is_ok()
        };
        assert!(check(&[("sec-fetch-site", "same-origin")], true));
        assert!(check(
            &[
                ("origin", "https://denyut.example"),
                ("host", "denyut.example")
            ],
            true
        ));
        assert!(check(&[], false), "a program");
        assert!(!check(&[], true), "a cookie without a browser's word");
        for foreign in ["cross-site", "same-site", ""] {
            assert!(!check(&[("sec-fetch-site", foreign)], true));
            assert!(
                !check(&[("sec-fetch-site", foreign)], false),
                "a login by another's page"
            );
        }
        for foreign in [
            "https://evil.example",
            "null",
            "https://denyut.example:8443",
        ] {
            assert!(
                !check(&[("origin", foreign), ("host", "denyut.example")], true),
                "{foreign}"
            );
        }
        assert!(
            check_site(
                &Method::GET,
                &headers(&[("sec-fetch-site", "cross-site")]),
                true
            )
            .is_ok(),
            "a link"
        );
    }

    #[test]
    fn the_token_is_found_behind_its_kind() {
        assert_eq!(
            token(&headers(&[("authorization", "bearer  abc ")])),
            Some("abc")
        );
        assert_eq!(token(&headers(&[("authorization", "Basic abc")])), None);
    }
}
