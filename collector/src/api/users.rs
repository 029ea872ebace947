//! Users, tokens, and what was done.

use super::list::{Asked, Page, Row};
use super::problem::Problem;
use super::{Body, Made, Path, Shared, State, made};
use crate::access::{
    Caller, Entry, NewToken, NewUser, Refused, Regions, Scope, TokenView, UserChange, UserView,
    Via, Welcomed,
};
use anyhow::Context;
use axum::Json;
use axum::http::StatusCode;
use axum::response::Response;
use denyut_detect::calendar::in_region;
use denyut_proto::{Invalid, UnixMillis};
use serde::Serialize;
use std::sync::Arc;
use utoipa::ToSchema;

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        let text = refused.to_string();
        match refused {
            Refused::None { .. } => Self::not_found(text),
            Refused::Taken { .. } | Refused::TooMany(_) | Refused::Last => {
                Self::new(StatusCode::CONFLICT, text)
            }
            Refused::Beyond(_) | Refused::NoWelcome => Self::new(StatusCode::FORBIDDEN, text),
            Refused::NoLogin => Self::new(StatusCode::UNAUTHORIZED, text),
            Refused::Invalid(invalid) => invalid.into(),
            Refused::Failed(error) => error.into(),
        }
    }
}

/// Changes something in the book, where it may block.
async fn act<T: Send + 'static>(
    shared: &Arc<Shared>,
    work: impl FnOnce(&Shared, UnixMillis) -> Result<T, Refused> + Send + 'static,
) -> Result<T, Problem> {
    let shared = Arc::clone(shared);
    let done =
        tokio::task::spawn_blocking(move || work(&shared, shared.gate.clock.read().now)).await;
    Ok(done.context("a change panicked")??)
}

/// Who asks.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Me {
    /// The user; none for a token that belongs to nobody, and on the collector's own machine.
    #[schema(example = "siti")]
    user: Option<String>,
    /// What is written under what you do.
    #[schema(example = "Siti Rahmawati, Disdukcapil Kota Serang")]
    signature: String,
    /// `session`, `token NAME` or `socket`.
    via: String,
    scopes: Vec<Scope>,
    regions: Regions,
}

/// Who you are, and what you may
#[utoipa::path(get, path = "/api/v1/me", responses((status = 200, body = Me)))]
pub(super) async fn me(caller: Caller) -> Json<Me> {
    Json(Me {
        via: caller.via.to_string(),
        user: caller.user,
        signature: caller.by,
        scopes: caller.scopes,
        regions: caller.regions,
    })
}

impl Row for UserView {
    const COLUMNS: &'static [&'static str] = &[
        "name",
        "full_name",
        "role",
        "regions",
        "created_ms",
        "has_password",
        "welcome_until_ms",
        "disabled",
    ];

    fn cursor(&self) -> String {
        self.name.clone()
    }
}

impl Row for TokenView {
    const COLUMNS: &'static [&'static str] = &[
        "name",
        "user",
        "scopes",
        "regions",
        "created_ms",
        "expires_ms",
    ];

    fn cursor(&self) -> String {
        self.name.clone()
    }
}

impl Row for Entry {
    const COLUMNS: &'static [&'static str] = &[
        "number", "at_ms", "by", "via", "from", "method", "path", "status",
    ];

    fn cursor(&self) -> String {
        self.number.to_string()
    }
}

/// Users whose regions lie in yours, by name
#[utoipa::path(
    get,
    path = "/api/v1/users",
    params(Page),
    responses((status = 200, body = Vec<UserView>), (status = 400, body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn list(
    axum::extract::State(shared): State,
    caller: Caller,
    asked: Asked,
) -> Result<Response, Problem> {
    let read = move |shared: &Shared| {
        Ok(shared
            .book
            .users(&caller.regions, shared.gate.clock.read().now))
    };
    asked.answer_of(shared, read).await
}

/// One user
#[utoipa::path(
    get,
    path = "/api/v1/users/{name}",
    params(("name" = String, Path, example = "siti")),
    responses((status = 200, body = UserView), (status = 404, body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn show(
    axum::extract::State(shared): State,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Json<UserView>, Problem> {
    let user = shared.book.user(&name, shared.gate.clock.read().now);
    let user = user.filter(|user| caller.regions.have(&user.regions));
    user.map(Json)
        .ok_or_else(|| Problem::not_found(format!("there is no user `{name}`")))
}

/// An error if a region has no office: whoever were given it would see nothing.
fn has_offices(shared: &Shared, regions: &Regions) -> Result<(), Invalid> {
    regions.check()?;
    let empty = regions.each().find(|region| {
        let offices = shared.query.registry.offices();
        let mut offices = offices.keys();
        !offices.any(|office| in_region(office, region))
    });
    empty.map_or(Ok(()), |region| {
        let fix = "name a region that has some, such as `36.73`, or `all`";
        Err(Invalid::new(
            "regions",
            region,
            "there is no office in it",
            fix,
        ))
    })
}

/// The link that a secret makes.
fn link(shared: &Shared, user: UserView, secret: &str) -> Welcomed {
    let address = shared
        .address
        .text()
        .map_or_else(|| format!("http://{}", shared.listening), str::to_owned);
    Welcomed {
        user,
        link: format!("{address}/masuk/{secret}"),
    }
}

/// Let somebody in: they choose a password by the link in the answer, within 72 hours
#[utoipa::path(
    post,
    path = "/api/v1/users",
    request_body = NewUser,
    responses((status = 201, body = Welcomed), (status = 400, body = Problem, content_type = "application/problem+json"), (status = 409, body = Problem, content_type = "application/problem+json", description = "there is one of this name, or there are too many"))
)]
pub(crate) async fn add(
    axum::extract::State(shared): State,
    caller: Caller,
    Body(new): Body<NewUser>,
) -> Result<Made<Welcomed>, Problem> {
    has_offices(&shared, &new.regions)?;
    let (user, secret) = act(&shared, move |shared, now| {
        shared.book.add_user(&new, &caller, now)
    })
    .await?;
    Ok(made(link(&shared, user, &secret)))
}

/// Change what a user may, or shut them out for now
#[utoipa::path(
    patch,
    path = "/api/v1/users/{name}",
    params(("name" = String, Path, example = "siti")),
    request_body = UserChange,
    responses((status = 200, body = UserView), (status = 400, body = Problem, content_type = "application/problem+json"), (status = 404, body = Problem, content_type = "application/problem+json"))
)]
pub(crate) async fn change(
    axum::extract::State(shared): State,
    caller: Caller,
    Path(name): Path<String>,
    Body(change): Body<UserChange>,
) -> Result<Json<UserView>, Problem> {
    if let Some(regions) = &change.regions {
        has_offices(&shared, regions)?;
    }
    let changed = act(&shared, move |shared, now| {
        shared.book.change_user(&name, &change, &caller, now)
    });
    Ok(Json(changed.await?))
}

/// Remove a user with all sessions and tokens; what they did stays
#[utoipa::path(
    delete,
    path = "/api/v1/users/{name}",
    params(("name" = String, Path, example = "siti")),
    responses((status = 204), (status = 404, body = Problem, content_type = "application/problem+json"))
)]
pub(crate) async fn remove(
    axum::extract::State(shared): State,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<StatusCode, Problem> {
    act(&shared, move |shared, _| {
        shared.book.remove_user(&name, &caller)
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Make a new link by which a user chooses a password; the old one holds until then
#[utoipa::path(
    post,
    path = "/api/v1/users/{name}/welcome",
    params(("name" = String, Path, example = "siti")),
    responses((status = 201, body = Welcomed), (status = 404, body = Problem, content_type = "application/problem+json"))
)]
pub(crate) async fn welcome(
    axum::extract::State(shared): State,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Made<Welcomed>, Problem> {
    let (user, secret) = act(&shared, move |shared, now| {
        shared.book.welcome(&name, &caller, now)
    })
    .await?;
    Ok(made(link(&shared, user, &secret)))
}

/// Tokens: your own; with the scope `admin` all whose regions lie in yours
#[utoipa::path(
    get,
    path = "/api/v1/tokens",
    params(Page),
    responses((status = 200, body = Vec<TokenView>), (status = 400, body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn tokens(
    axum::extract::State(shared): State,
    caller: Caller,
    asked: Asked,
) -> Result<Response, Problem> {
    asked
        .answer_of(shared, move |shared| Ok(shared.book.tokens(&caller)))
        .await
}

/// Make a token for a program; it is shown in this answer only
///
/// It can do what it is given of what you may, and never more than you. A token cannot make another, unless it has the scope `admin`.
#[utoipa::path(
    post,
    path = "/api/v1/tokens",
    request_body = NewToken,
    responses((status = 201, body = TokenView), (status = 400, body = Problem, content_type = "application/problem+json"), (status = 409, body = Problem, content_type = "application/problem+json", description = "there is one of this name, or there are too many"))
)]
pub(crate) async fn add_token(
    axum::extract::State(shared): State,
    caller: Caller,
    Body(new): Body<NewToken>,
) -> Result<Made<TokenView>, Problem> {
    // It would last for ever by making its own successors.
    if matches!(caller.via, Via::Token(_)) && !caller.may(Scope::Admin) {
        return Err(Problem::new(
            StatusCode::FORBIDDEN,
            "a token without the scope `admin` cannot make another",
        ));
    }
    let token = act(&shared, move |shared, now| {
        shared.book.add_token(&new, &caller, now)
    })
    .await?;
    Ok(made(token))
}

/// Take a token away
#[utoipa::path(
    delete,
    path = "/api/v1/tokens/{name}",
    params(("name" = String, Path, example = "grafana")),
    responses((status = 204), (status = 404, body = Problem, content_type = "application/problem+json"))
)]
pub(crate) async fn remove_token(
    axum::extract::State(shared): State,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<StatusCode, Problem> {
    act(&shared, move |shared, _| {
        shared.book.remove_token(&name, &caller)
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What was done, the newest first; the last 100,000 are kept
#[utoipa::path(
    get,
    path = "/api/v1/audit",
    params(Page),
    responses((status = 200, body = Vec<Entry>), (status = 400, body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn audit(
    axum::extract::State(shared): State,
    asked: Asked,
) -> Result<Response, Problem> {
    asked.after_number()?;
    let read = |shared: &Shared, after: Option<&str>, most| {
        let before = after.and_then(|text| text.parse().ok());
        shared.audit.list(before, most)
    };
    asked.answer(shared, read).await
}
