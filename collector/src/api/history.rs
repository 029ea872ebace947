//! What was measured on many links at once, as a stream.

use super::list::{Format, Lines};
use super::offices::{step, time_range};
use super::problem::Problem;
use super::{Parameters, Shared, State};
use crate::access::{Caller, Regions};
use crate::query::{BucketView, SampleView, Selector};
use axum::response::Response;
use denyut_proto::{AgentId, Invalid, OfficeCode, Role, TargetName, UnixMillis};
use denyut_store::history::{Level, LinkId, RowsError};
use serde::{Deserialize, Serialize};
use std::ops::Range;
use std::sync::Arc;
use utoipa::{IntoParams, ToSchema};

/// Which links, which time, in which steps.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct HistoryParameters {
    /// Only offices of this region: a region code or its first parts (`36`, `36.73`, `36.73.02`); a region without offices has no links.
    office: Option<String>,
    /// Only this agent.
    agent: Option<String>,
    /// Only targets of this name.
    target: Option<String>,
    /// Only targets of this role (`gateway`, `server`, `uplink`, `dns`, `central` or `collector`).
    role: Option<String>,
    /// From this time on (Unix ms); a day before `to_ms` when left out.
    from_ms: Option<i64>,
    /// Before this time (Unix ms); now when left out.
    to_ms: Option<i64>,
    /// Buckets of this length in ms (at least 1000), beginning at its multiples; samples when left out.
    step_ms: Option<i64>,
    /// `ndjson` (when left out) or `csv`.
    #[param(inline)]
    format: Option<Format>,
}

/// One line of the answer.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct HistoryLine<'a> {
    #[schema(value_type = String, example = "36.73.02")]
    office: &'a OfficeCode,
    #[schema(value_type = String, example = "cipocok-jaya-1")]
    agent: &'a AgentId,
    #[schema(value_type = String, example = "server")]
    target: &'a TargetName,
    #[serde(flatten)]
    what: Line,
}

/// A sample, a bucket and what it was made of, or why the link has no more lines.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
enum Line {
    Sample(SampleView),
    Bucket {
        level: &'static str,
        #[serde(flatten)]
        bucket: BucketView,
    },
    Error {
        error: String,
    },
}

/// What was measured on all links that are asked for, link by link, oldest first: one JSON object a line
///
/// However much it is, it is read as fast as it is taken; when the client goes away, reading stops. A line with `error` says why
/// its link has no more.
#[utoipa::path(
    get,
    path = "/api/v1/history",
    params(HistoryParameters),
    responses(
        (status = 200, content_type = "application/x-ndjson", body = HistoryLine),
        (status = 400, body = Problem, content_type = "application/problem+json"),
        (status = 503, body = Problem, content_type = "application/problem+json", description = "too many are read at once")
    )
)]
pub(super) async fn stream(
    axum::extract::State(shared): State,
    caller: Caller,
    Parameters(parameters): Parameters<HistoryParameters>,
) -> Result<Response, Problem> {
    let range = time_range(parameters.from_ms, parameters.to_ms)?;
    let step_ms = parameters.step_ms.map(step).transpose()?;
    let selector = selector(&parameters)?;
    let format = parameters.format.unwrap_or(Format::Ndjson);
    let columns = if step_ms.is_some() { BUCKETS } else { SAMPLES };
    let reading = Arc::clone(&shared);
    super::list::stream(&shared, &caller.person(), format, columns, move |lines| {
        write(&reading, &caller.regions, &selector, &range, step_ms, lines);
        Ok(())
    })
}

/// The columns of a table of samples, and of one of buckets.
const SAMPLES: &[&str] = &[
    "office", "agent", "target", "at_ms", "rtt_us", "failure", "error",
];
const BUCKETS: &[&str] = &[
    "office",
    "agent",
    "target",
    "level",
    "from_ms",
    "ok",
    "failed",
    "unobserved",
    "up_ms",
    "down_ms",
    "unobserved_ms",
    "rtt_us.min",
    "rtt_us.median",
    "rtt_us.p95",
    "rtt_us.max",
    "reasons",
    "error",
];

fn selector(parameters: &HistoryParameters) -> Result<Selector, Invalid> {
    if let Some(region) = &parameters.office {
        crate::config::region_of("office", region)?;
    }
    let named = |field: &'static str| {
        move |error: Invalid| Invalid {
            field: field.into(),
            ..error
        }
    };
    Ok(Selector {
        region: parameters.office.clone(),
        agent: parameters
            .agent
            .as_deref()
            .map(str::parse)
            .transpose()
            .map_err(named("agent"))?,
        target: parameters
            .target
            .as_deref()
            .map(str::parse)
            .transpose()
            .map_err(named("target"))?,
        role: parameters
            .role
            .as_deref()
            .map(|role| {
                let roles = Role::ALL.iter().copied();
                let known: Vec<&str> = Role::ALL.iter().map(|role| role.as_str()).collect();
                let unknown = || {
                    Invalid::new(
                        "role",
                        role,
                        "not a role",
                        format!("write one of {}", known.join(", ")),
                    )
                };
                roles
                    .into_iter()
                    .find(|one| one.as_str() == role)
                    .ok_or_else(unknown)
            })
            .transpose()?,
    })
}

/// Writes the lines of all links; stops when nobody takes them.
fn write(
    shared: &Arc<Shared>,
    sees: &Regions,
    selector: &Selector,
    range: &Range<UnixMillis>,
    step_ms: Option<i64>,
    out: &mut Lines,
) {
    let now = shared.gate.clock.read().now;
    let all = shared.query.registry.offices();
    let offices: Vec<OfficeCode> = all
        .keys()
        .filter(|office| sees.has(office) && selector.has_office(office))
        .cloned()
        .collect();
    for office in &offices {
        let links = match shared.query.select(selector, office) {
            Ok(links) => links,
            Err(error) => {
                tracing::error!(%office, error = %format!("{error:#}"), "the links of an office cannot be read");
                continue;
            }
        };
        for link in &links {
            let line = |what| HistoryLine {
                office,
                agent: &link.agent,
                target: &link.target,
                what,
            };
            let goes_on = match step_ms {
                None => samples(shared, link, range, &mut |sample| {
                    out.add(&line(Line::Sample(sample)))
                }),
                Some(step) => {
                    let level = Level::exact(step).as_str();
                    let mut goes_on = true;
                    let done =
                        shared
                            .query
                            .history
                            .visit_rows(link, range.clone(), step, &mut |row| {
                                let bucket = BucketView::of(row, step, now);
                                goes_on = out.add(&line(Line::Bucket { level, bucket }));
                                goes_on
                            });
                    match done {
                        Ok(()) => Ok(goes_on),
                        Err(error @ RowsError::TooFine { .. }) => Ok(out.add(&line(Line::Error {
                            error: format!("`step_ms`: {error}"),
                        }))),
                        Err(RowsError::Store(error)) => Err(error),
                    }
                }
            };
            let goes_on = goes_on.unwrap_or_else(|error| {
                tracing::error!(%link, error = %format!("{error:#}"), "the history of a link cannot be read");
                out.add(&line(Line::Error { error: "the collector cannot read it; its log says why".into() }))
            });
            if !goes_on {
                return;
            }
        }
    }
}

/// Gives each sample to `tell` until it returns `false`; returns what it returned last.
fn samples(
    shared: &Arc<Shared>,
    link: &LinkId,
    range: &Range<UnixMillis>,
    tell: &mut dyn FnMut(SampleView) -> bool,
) -> anyhow::Result<bool> {
    let mut goes_on = true;
    shared
        .query
        .history
        .visit(link, range.clone(), &mut |sample| {
            goes_on = tell(SampleView::of(sample));
            goes_on
        })?;
    Ok(goes_on)
}
