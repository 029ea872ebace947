//! What the collector was told: who is told of what, and announced work.

use super::list::{Asked, Page, Row};
use super::offices::time;
use super::problem::Problem;
use super::{Parameters, Path, Shared, State, blocking};
use crate::access::Caller;
use crate::alert::{Receiver, Rehearsal, Supposed};
use axum::Json;
use axum::response::Response;
use denyut_detect::calendar::{Maintenance, When, Zone};
use denyut_detect::{Cause, PatternKind};
use denyut_proto::{OfficeCode, UnixMillis};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// Somebody who is told.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ReceiverView {
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
            language: receiver.language.code(),
            role: receiver.role.clone(),
            regions: receiver.regions.clone(),
        }
    }
}

/// Whether somebody may see a receiver: it is told of their regions only.
pub(crate) fn sees(caller: &Caller, receiver: &Receiver) -> bool {
    let regions = &receiver.regions;
    caller.regions.is_everywhere()
        || (!regions.is_empty()
            && regions
                .iter()
                .all(|region| caller.regions.has_region(region)))
}

impl Row for ReceiverView {
    const COLUMNS: &'static [&'static str] = &["name", "kind", "language", "role", "regions"];

    fn cursor(&self) -> String {
        self.name.clone()
    }
}

/// Receivers of your regions, by name
#[utoipa::path(
    get,
    path = "/api/v1/receivers",
    params(Page),
    responses((status = 200, body = Vec<ReceiverView>), (status = 400, body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn receivers(
    axum::extract::State(shared): State,
    caller: Caller,
    asked: Asked,
) -> Result<Response, Problem> {
    let read = move |shared: &Shared| {
        let seen = shared
            .alerts
            .receivers
            .iter()
            .filter(|one| sees(&caller, one));
        let mut all: Vec<ReceiverView> = seen.map(ReceiverView::of).collect();
        all.sort_by(|one, two| one.name.cmp(&two.name));
        Ok(all)
    };
    asked.answer_of(shared, read).await
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
pub(crate) struct Tested {
    /// It took the message.
    taken: bool,
    /// Why it did not.
    #[schema(example = "400 Bad Request: chat not found")]
    pub(crate) error: Option<String>,
}

/// Send a receiver a message that says that it is a test, and say whether it took it
#[utoipa::path(
    post,
    path = "/api/v1/receivers/{name}/test",
    params(("name" = String, Path, example = "dinas-serang")),
    responses((status = 200, body = Tested), (status = 404, body = Problem, content_type = "application/problem+json"))
)]
pub(crate) async fn test(
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

/// An incident that might be.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct RouteParameters {
    /// Where it would be.
    #[param(example = "36.73.02")]
    office: String,
    /// What would be broken.
    #[param(inline)]
    cause: Cause,
    /// It came back after a repair.
    #[serde(default)]
    relapse: bool,
    /// A pattern of the office.
    #[param(inline)]
    pattern: Option<PatternKind>,
    /// When it would be told of (Unix ms); now when left out.
    at_ms: Option<i64>,
}

/// What would become of an incident at an office of yours, a sentence each: who would be told, when, and what keeps it from others
#[utoipa::path(
    get,
    path = "/api/v1/routes/test",
    params(RouteParameters),
    responses((status = 200, body = Vec<String>), (status = 400, body = Problem, content_type = "application/problem+json"), (status = 404, body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn route(
    axum::extract::State(shared): State,
    caller: Caller,
    Parameters(parameters): Parameters<RouteParameters>,
) -> Result<Json<Vec<String>>, Problem> {
    let office: OfficeCode = parameters.office.parse()?;
    let at = match parameters.at_ms {
        Some(ms) => time("at_ms", ms)?,
        None => shared.gate.clock.read().now,
    };
    if !caller.regions.has(&office) || !shared.query.registry.has(&office) {
        return Err(Problem::not_found(format!("there is no office {office}")));
    }
    let said = blocking(shared, move |shared| {
        let hours = shared.gate.hours_of(&office);
        let rehearsal = Rehearsal {
            alerts: &shared.alerts,
            registry: &shared.query.registry,
            opening: shared.gate.opening(&office, &hours),
            maintenance: &shared.query.maintenance,
            silences: &shared.silences.list()?,
            // Whom they tell of other regions is not for everybody.
            all_routes: caller.regions.is_everywhere(),
        };
        Ok(rehearsal.play(Supposed {
            office: office.clone(),
            cause: parameters.cause,
            relapse: parameters.relapse,
            patterns: parameters.pattern.into_iter().collect(),
            at,
        }))
    });
    Ok(Json(said.await?))
}

/// Announced work.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct WorkView {
    /// Its place in the configuration, from 1.
    number: usize,
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
    fn of(number: usize, work: &Maintenance, now: UnixMillis) -> Self {
        let (weekly, from_ms, until_ms) = match &work.when {
            When::Once { from, until } => (false, *from, Some(*until)),
            When::Weekly { from, until, .. } => (true, *from, *until),
        };
        let next = work.when.next(now, Zone::of_region(&work.region));
        Self {
            number,
            region: work.region.clone(),
            reason: work.reason.clone(),
            weekly,
            from_ms,
            until_ms,
            next: next.map(|(from_ms, until_ms)| Span { from_ms, until_ms }),
        }
    }
}

impl Row for WorkView {
    const COLUMNS: &'static [&'static str] = &[
        "number",
        "region",
        "weekly",
        "from_ms",
        "until_ms",
        "next.from_ms",
        "next.until_ms",
        "reason",
    ];

    fn cursor(&self) -> String {
        self.number.to_string()
    }

    fn is_behind(&self, cursor: &str) -> bool {
        cursor
            .parse()
            .is_ok_and(|cursor: usize| self.number > cursor)
    }
}

/// Announced work that touches your regions, in the order of the configuration
#[utoipa::path(
    get,
    path = "/api/v1/maintenance",
    params(Page),
    responses((status = 200, body = Vec<WorkView>), (status = 400, body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn maintenance(
    axum::extract::State(shared): State,
    caller: Caller,
    asked: Asked,
) -> Result<Response, Problem> {
    asked.after_number()?;
    let read = move |shared: &Shared| {
        let now = shared.gate.clock.read().now;
        let all = (1..).zip(&shared.query.maintenance);
        let seen = all.filter(|(_, work)| caller.regions.touch(&work.region));
        Ok(seen
            .map(|(number, work)| WorkView::of(number, work, now))
            .collect())
    };
    asked.answer_of(shared, read).await
}
