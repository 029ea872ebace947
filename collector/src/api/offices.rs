//! Offices, their links, and what was measured on them.

use super::list::{Asked, Page, Row};
use super::machines::region_of;
use super::problem::Problem;
use super::{Parameters, Path, Shared, State, blocking};
use crate::access::Caller;
use crate::ingest::CommandError;
use crate::paths::PathView;
use crate::query::{BucketsView, LinkView, OfficeView, SampleView, ShownState};
use crate::registry::Office;
use axum::Json;
use axum::http::StatusCode;
use axum::response::Response;
use denyut_detect::Cause;
use denyut_proto::{AgentId, Invalid, OfficeCode, TargetName, UnixMillis};
use denyut_store::history::{LinkId, RowsError};
use serde::{Deserialize, Serialize};
use std::ops::Range;
use std::sync::Arc;
use std::time::SystemTime;
use utoipa::{IntoParams, ToSchema};

/// Samples in one answer, at most.
const SAMPLES_MAX: usize = 10_000;
/// Buckets in one answer, at most.
const BUCKETS_MAX: i64 = 2_000;
const DAY_MS: i64 = 86_400_000;

/// Which offices.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ListParameters {
    /// Only those of this region: a region code or its first parts.
    #[param(example = "36.73")]
    region: Option<String>,
    /// Only those in this state.
    #[param(inline)]
    state: Option<ShownState>,
    /// Only those of this ISP.
    isp: Option<String>,
    /// Only those whose open incident has this cause.
    #[param(inline)]
    cause: Option<Cause>,
    /// Only those whose code, name, regency or ISP has this in it, whatever its case.
    q: Option<String>,
}

impl ListParameters {
    fn takes(&self, code: &OfficeCode, office: &Office) -> bool {
        let texts = [
            Some(code.as_str()),
            Some(&office.name),
            office.regency.as_deref(),
            office.site.isp.as_deref(),
        ];
        let has = |wanted: &str| {
            let mut texts = texts.iter().flatten();
            texts.any(|text| text.to_lowercase().contains(&wanted.to_lowercase()))
        };
        self.isp
            .as_ref()
            .is_none_or(|isp| office.site.isp.as_ref() == Some(isp))
            && self.q.as_deref().is_none_or(has)
    }
}

impl Row for OfficeView {
    const COLUMNS: &'static [&'static str] = &[
        "code",
        "name",
        "regency",
        "isp",
        "state",
        "since_ms",
        "incident",
        "maintenance.from_ms",
        "maintenance.until_ms",
        "place",
    ];

    fn cursor(&self) -> String {
        self.code.to_string()
    }
}

/// Offices with their links and states, by code
#[utoipa::path(
    get,
    path = "/api/v1/offices",
    params(ListParameters, Page),
    responses((status = 200, body = Vec<OfficeView>), (status = 400, body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn list(
    axum::extract::State(shared): State,
    caller: Caller,
    asked: Asked,
    Parameters(mut parameters): Parameters<ListParameters>,
) -> Result<Response, Problem> {
    let region = region_of(parameters.region.take(), &caller.regions)?;
    let read = move |shared: &Shared, after: Option<&str>, most| {
        let now = shared.gate.clock.read().now;
        let mut found = Vec::new();
        for (code, office) in &*shared.query.registry.offices() {
            if found.len() >= most {
                break;
            }
            let is_behind = after.is_none_or(|after| code.as_str() > after);
            if !is_behind || !region.has(code) || !parameters.takes(code, office) {
                continue;
            }
            let view = shared.query.office(code, &caller.regions, now)?;
            let of_state =
                |view: &OfficeView| parameters.state.is_none_or(|state| view.state == state);
            let Some(view) = view.filter(of_state) else {
                continue;
            };
            if let Some(cause) = parameters.cause {
                let incident = view
                    .incident
                    .map(|number| shared.query.incident(number, &caller.regions, now));
                let incident = incident.transpose()?.flatten();
                if incident.is_none_or(|one| one.incident.facts.cause != cause) {
                    continue;
                }
            }
            found.push(view);
        }
        Ok(found)
    };
    asked.answer(shared, read).await
}

/// One office
#[utoipa::path(
    get,
    path = "/api/v1/offices/{office}",
    params(("office" = String, Path, example = "36.73.02")),
    responses((status = 200, body = OfficeView), (status = 400, body = Problem, content_type = "application/problem+json"), (status = 404, body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn show(
    axum::extract::State(shared): State,
    caller: Caller,
    Path(office): Path<String>,
) -> Result<Json<OfficeView>, Problem> {
    Ok(Json(find(shared, caller, &office).await?))
}

/// The links of an office
#[utoipa::path(
    get,
    path = "/api/v1/offices/{office}/links",
    params(("office" = String, Path, example = "36.73.02")),
    responses((status = 200, body = Vec<LinkView>), (status = 400, body = Problem, content_type = "application/problem+json"), (status = 404, body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn links(
    axum::extract::State(shared): State,
    caller: Caller,
    Path(office): Path<String>,
) -> Result<Json<Vec<LinkView>>, Problem> {
    Ok(Json(find(shared, caller, &office).await?.links))
}

async fn find(shared: Arc<Shared>, caller: Caller, office: &str) -> Result<OfficeView, Problem> {
    let code: OfficeCode = office.parse()?;
    let wanted = code.clone();
    let find = move |shared: &Shared| {
        let now = shared.gate.clock.read().now;
        shared.query.office(&wanted, &caller.regions, now)
    };
    let found = blocking(shared, find).await?;
    found.ok_or_else(|| Problem::not_found(format!("there is no office {code}")))
}

/// One link
#[utoipa::path(
    get,
    path = "/api/v1/offices/{office}/links/{agent}/{target}",
    params(
        ("office" = String, Path, example = "36.73.02"),
        ("agent" = String, Path, example = "cipocok-jaya-1"),
        ("target" = String, Path, example = "server")
    ),
    responses((status = 200, body = LinkView), (status = 400, body = Problem, content_type = "application/problem+json"), (status = 404, body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn link(
    axum::extract::State(shared): State,
    caller: Caller,
    Path(path): Path<(String, String, String)>,
) -> Result<Json<LinkView>, Problem> {
    Ok(Json(known_link(shared, caller, path).await?.1))
}

/// Which time.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct SamplesParameters {
    /// From this time on (Unix ms); a day before `to_ms` when left out.
    from_ms: Option<i64>,
    /// Before this time (Unix ms); now when left out.
    to_ms: Option<i64>,
}

/// Which time, in which steps.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(clippy::struct_field_names, reason = "the unit belongs to the name")]
pub(super) struct BucketsParameters {
    /// From this time on (Unix ms); a day before `to_ms` when left out.
    from_ms: Option<i64>,
    /// Before this time (Unix ms); now when left out.
    to_ms: Option<i64>,
    /// Length of a bucket in ms; 5 minutes when left out. Buckets begin at multiples of it.
    step_ms: Option<i64>,
}

/// Samples of a link.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SamplesAnswer {
    samples: Vec<SampleView>,
    /// There are more: ask again from this time on.
    #[schema(value_type = Option<i64>)]
    next_from_ms: Option<UnixMillis>,
}

/// The samples of a link, oldest first, at most 10,000 at a time
#[utoipa::path(
    get,
    path = "/api/v1/offices/{office}/links/{agent}/{target}/samples",
    params(
        ("office" = String, Path, example = "36.73.02"),
        ("agent" = String, Path, example = "cipocok-jaya-1"),
        ("target" = String, Path, example = "server"),
        SamplesParameters
    ),
    responses((status = 200, body = SamplesAnswer), (status = 400, body = Problem, content_type = "application/problem+json"), (status = 404, body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn samples(
    axum::extract::State(shared): State,
    caller: Caller,
    Path(path): Path<(String, String, String)>,
    Parameters(parameters): Parameters<SamplesParameters>,
) -> Result<Json<SamplesAnswer>, Problem> {
    let range = time_range(parameters.from_ms, parameters.to_ms)?;
    let (link, _) = known_link(Arc::clone(&shared), caller, path).await?;
    let answer = blocking(shared, move |shared| {
        let (mut samples, more) = shared.query.samples(&link, range, SAMPLES_MAX)?;
        let mut next_from_ms = None;
        if more && let Some(last) = samples.last().map(|last| last.at_ms) {
            // Those of one time stay together: the next answer begins with them. (10,000 of one ms do not happen.)
            samples.retain(|sample| sample.at_ms < last);
            next_from_ms = Some(last);
        }
        Ok(SamplesAnswer {
            samples,
            next_from_ms,
        })
    })
    .await?;
    Ok(Json(answer))
}

/// Who answered on the way to a link's target when it had failed, the last first
///
/// The agent looks at the second failure in a row, and not again for ten minutes. The last eight are kept.
#[utoipa::path(
    get,
    path = "/api/v1/offices/{office}/links/{agent}/{target}/paths",
    params(
        ("office" = String, Path, example = "36.73.02"),
        ("agent" = String, Path, example = "cipocok-jaya-1"),
        ("target" = String, Path, example = "server")
    ),
    responses((status = 200, body = Vec<PathView>), (status = 400, body = Problem, content_type = "application/problem+json"), (status = 404, body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn paths(
    axum::extract::State(shared): State,
    caller: Caller,
    Path(path): Path<(String, String, String)>,
) -> Result<Json<Vec<PathView>>, Problem> {
    let (link, _) = known_link(Arc::clone(&shared), caller, path).await?;
    let paths = blocking(shared, move |shared| shared.query.paths(&link)).await?;
    Ok(Json(paths.into_iter().map(PathView::from).collect()))
}

/// The samples of a link in numbers, step by step, at most 2,000 steps; steps without a sample are left out
///
/// Steps begin at their multiples since 1970 UTC, and the time that is asked for is widened to whole ones.
#[utoipa::path(
    get,
    path = "/api/v1/offices/{office}/links/{agent}/{target}/buckets",
    params(
        ("office" = String, Path, example = "36.73.02"),
        ("agent" = String, Path, example = "cipocok-jaya-1"),
        ("target" = String, Path, example = "server"),
        BucketsParameters
    ),
    responses((status = 200, body = BucketsView), (status = 400, body = Problem, content_type = "application/problem+json"), (status = 404, body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn buckets(
    axum::extract::State(shared): State,
    caller: Caller,
    Path(path): Path<(String, String, String)>,
    Parameters(parameters): Parameters<BucketsParameters>,
) -> Result<Json<BucketsView>, Problem> {
    let range = time_range(parameters.from_ms, parameters.to_ms)?;
    let step = step(parameters.step_ms.unwrap_or(300_000))?;
    if (range.end.0 - range.start.0) / step > BUCKETS_MAX {
        let least = (range.end.0 - range.start.0) / BUCKETS_MAX + 1;
        let fix = format!("write at least {least} for this time, or a shorter time");
        return Err(Invalid::new(
            "step_ms",
            step,
            format!("more than {BUCKETS_MAX} buckets"),
            fix,
        )
        .into());
    }
    let (link, _) = known_link(Arc::clone(&shared), caller, path).await?;
    let now = shared.gate.clock.read().now;
    let found = blocking(shared, move |shared| {
        Ok(shared.query.buckets(&link, range, step, now))
    })
    .await?;
    match found {
        Ok(buckets) => Ok(Json(buckets)),
        Err(RowsError::TooFine { level }) => {
            let fix = format!(
                "write a multiple of {} (a row of a {}), or a later time",
                level.step_ms(),
                level.as_str()
            );
            Err(Invalid::new("step_ms", step, "finer than what is left of that time", fix).into())
        }
        Err(RowsError::Store(error)) => Err(error.into()),
    }
}

/// Ask the agent to probe a target at once; the sample comes as any other
#[utoipa::path(
    post,
    path = "/api/v1/offices/{office}/links/{agent}/{target}/probe",
    params(
        ("office" = String, Path, example = "36.73.02"),
        ("agent" = String, Path, example = "cipocok-jaya-1"),
        ("target" = String, Path, example = "server")
    ),
    responses(
        (status = 202, description = "the agent was asked"),
        (status = 400, body = Problem, content_type = "application/problem+json"),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 409, body = Problem, content_type = "application/problem+json", description = "the agent is not connected"),
        (status = 503, body = Problem, content_type = "application/problem+json", description = "the agent does not take what is sent to it")
    )
)]
pub(crate) async fn probe_now(
    axum::extract::State(shared): State,
    caller: Caller,
    Path(path): Path<(String, String, String)>,
) -> Result<StatusCode, Problem> {
    let (link, _) = known_link(Arc::clone(&shared), caller, path).await?;
    match shared.gate.probe_now(&link.agent, &link.target) {
        Ok(()) => Ok(StatusCode::ACCEPTED),
        Err(error @ CommandError::NotConnected) => {
            Err(Problem::new(StatusCode::CONFLICT, error.to_string()))
        }
        Err(error @ CommandError::Busy) => Err(Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            error.to_string(),
        )),
    }
}

/// The link of a path, if it exists at that office.
async fn known_link(
    shared: Arc<Shared>,
    caller: Caller,
    (office, agent, target): (String, String, String),
) -> Result<(LinkId, LinkView), Problem> {
    let office: OfficeCode = office.parse()?;
    let link = LinkId {
        agent: agent.parse::<AgentId>()?,
        target: target.parse::<TargetName>()?,
    };
    let wanted = link.clone();
    let find = move |shared: &Shared| {
        let now = shared.gate.clock.read().now;
        shared.query.link(&wanted, &caller.regions, now)
    };
    let found = blocking(shared, find).await?;
    match found {
        Some(found) if found.office == office => Ok((link, found)),
        _ => Err(Problem::not_found(format!(
            "there is no link {link} at office {office}"
        ))),
    }
}

/// ±10,000 years in ms: every sum of times and lengths fits.
pub(crate) const FAR: i64 = 315_576_000_000_000;

/// A time that is asked for.
pub(super) fn time(field: &str, ms: i64) -> Result<UnixMillis, Invalid> {
    if (-FAR..=FAR).contains(&ms) {
        return Ok(UnixMillis(ms));
    }
    Err(Invalid::new(
        field,
        ms,
        "not a time",
        "write Unix milliseconds",
    ))
}

/// The length of a step that is asked for.
pub(super) fn step(ms: i64) -> Result<i64, Invalid> {
    if (1_000..=FAR).contains(&ms) {
        return Ok(ms);
    }
    Err(Invalid::new(
        "step_ms",
        ms,
        "out of range",
        "write at least 1000",
    ))
}

pub(super) fn time_range(
    from_ms: Option<i64>,
    to_ms: Option<i64>,
) -> Result<Range<UnixMillis>, Invalid> {
    let to = to_ms.unwrap_or_else(|| UnixMillis::from(SystemTime::now()).0.saturating_add(1));
    let from = from_ms.unwrap_or_else(|| to.saturating_sub(DAY_MS));
    let (from, to) = (time("from_ms", from)?, time("to_ms", to)?);
    if from >= to {
        return Err(Invalid::new(
            "from_ms",
            from.0,
            format!("not before `to_ms` ({})", to.0),
            "write an earlier time",
        ));
    }
    Ok(from..to)
}
