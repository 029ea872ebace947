//! What the collector was told: who is told of what, and announced work.

use super::problem::Problem;
use super::{Path, Shared, State};
use crate::access::Caller;
use crate::alert::{Language, Receiver};
use axum::Json;
use denyut_detect::calendar::{Maintenance, When, Zone};
use denyut_proto::UnixMillis;
use serde::Serialize;
use utoipa::ToSchema;

/// Somebody who is told.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ReceiverView {
    #[schema(example = "dinas-serang")]
    name: String,
    /// How (`telegram`, `mail`, `webhook`, …).
    #[schema(example = "telegram")]
    kind: &'static str,
    /// `id` or `en`.
    language: &'static str,
    /// What it is to the offices of its regions.
    #[schema(example = "regency")]
    role: Option<String>,
    /// Region codes or their beginnings; the whole country when empty.
    regions: Vec<String>,
}

impl ReceiverView {
    fn of(receiver: &Receiver) -> Self {
        Self {
            name: receiver.name.clone(),
            kind: receiver.channel.describe(),
            language: match receiver.language {
                Language::Id => "id",
                Language::En => "en",
            },
            role: receiver.role.clone(),
            regions: receiver.regions.clone(),
        }
    }
}

/// Whether somebody may see a receiver: it is told of their regions only.
fn sees(caller: &Caller, receiver: &Receiver) -> bool {
    let regions = &receiver.regions;
    caller.regions.is_everywhere()
        || (!regions.is_empty()
            && regions
                .iter()
                .all(|region| caller.regions.has_region(region)))
}

/// Receivers of your regions, in the order of the configuration
#[utoipa::path(get, path = "/api/v1/receivers", responses((status = 200, body = Vec<ReceiverView>)))]
pub(super) async fn receivers(
    axum::extract::State(shared): State,
    caller: Caller,
) -> Json<Vec<ReceiverView>> {
    let all = shared.alerts.receivers.iter();
    Json(
        all.filter(|one| sees(&caller, one))
            .map(ReceiverView::of)
            .collect(),
    )
}

fn find<'a>(shared: &'a Shared, caller: &Caller, name: &str) -> Result<&'a Receiver, Problem> {
    let mut all = shared.alerts.receivers.iter();
    let found = all.find(|one| one.name == name && sees(caller, one));
    found.ok_or_else(|| {
        Problem::not_found(format!("there is no receiver `{}`", name.escape_debug()))
    })
}

/// What came of a test.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Tested {
    /// It took the message.
    taken: bool,
    /// Why it did not.
    #[schema(example = "400 Bad Request: chat not found")]
    error: Option<String>,
}

/// Send a receiver a message that says that it is a test, and say whether it took it
#[utoipa::path(
    post,
    path = "/api/v1/receivers/{name}/test",
    params(("name" = String, Path, example = "dinas-serang")),
    responses((status = 200, body = Tested), (status = 404, body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn test(
    axum::extract::State(shared): State,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Json<Tested>, Problem> {
    let receiver = find(&shared, &caller, &name)?;
    let now = shared.gate.clock.read().now;
    let error = receiver.test(now).await?.err();
    Ok(Json(Tested {
        taken: error.is_none(),
        error,
    }))
}

/// Announced work.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct WorkView {
    /// Whose: a region code or its beginning.
    #[schema(example = "36.73")]
    region: String,
    #[schema(example = "new switch at the city office")]
    reason: String,
    /// Every week, and not once.
    weekly: bool,
    /// Since or from when it was announced.
    #[schema(value_type = i64)]
    from_ms: UnixMillis,
    /// Up to when; none for ever.
    #[schema(value_type = Option<i64>)]
    until_ms: Option<UnixMillis>,
    /// The time of it that is now, or else the next, by the clock of the region; none when all is over.
    next: Option<Span>,
}

/// A stretch of time.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Span {
    #[schema(value_type = i64)]
    from_ms: UnixMillis,
    #[schema(value_type = i64)]
    until_ms: UnixMillis,
}

impl WorkView {
    fn of(work: &Maintenance, now: UnixMillis) -> Self {
        let (weekly, from_ms, until_ms) = match &work.when {
            When::Once { from, until } => (false, *from, Some(*until)),
            When::Weekly { from, until, .. } => (true, *from, *until),
        };
        let next = work.when.next(now, Zone::of_region(&work.region));
        Self {
            region: work.region.clone(),
            reason: work.reason.clone(),
            weekly,
            from_ms,
            until_ms,
            next: next.map(|(from_ms, until_ms)| Span { from_ms, until_ms }),
        }
    }
}

/// Announced work that touches your regions, in the order of the configuration
#[utoipa::path(get, path = "/api/v1/maintenance", responses((status = 200, body = Vec<WorkView>)))]
pub(super) async fn maintenance(
    axum::extract::State(shared): State,
    caller: Caller,
) -> Json<Vec<WorkView>> {
    let now = shared.gate.clock.read().now;
    let all = shared.query.maintenance.iter();
    Json(
        all.filter(|work| caller.regions.touch(&work.region))
            .map(|work| WorkView::of(work, now))
            .collect(),
    )
}
