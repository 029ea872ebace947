//! For those who run the collector.

use super::State;
use super::problem::Problem;
use crate::metrics;
use crate::query::ShownState;
use anyhow::Context;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use std::sync::atomic::Ordering;

/// Whether the process runs
#[utoipa::path(get, path = "/-/healthy", responses((status = 200, body = String)))]
pub(super) async fn healthy() -> &'static str {
    "healthy\n"
}

/// Whether all that was in the log at the start has been worked through
#[utoipa::path(get, path = "/-/ready", responses((status = 200, body = String), (status = 503, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn ready(axum::extract::State(shared): State) -> Result<&'static str, Problem> {
    let processed = shared.processed.load(Ordering::Acquire);
    if processed >= shared.replay_to {
        return Ok("ready\n");
    }
    Err(Problem::new(
        StatusCode::SERVICE_UNAVAILABLE,
        format!(
            "the log is replayed up to {processed} of {}",
            shared.replay_to
        ),
    ))
}

/// The collector's own numbers, for Prometheus
#[utoipa::path(
    get,
    path = "/metrics",
    responses((status = 200, description = "OpenMetrics for who accepts it, or else Prometheus's older format", content(("text/plain"), ("application/openmetrics-text"))))
)]
pub(super) async fn prometheus(
    axum::extract::State(shared): State,
    headers: HeaderMap,
) -> Result<impl IntoResponse, Problem> {
    let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    shared.metrics.log_end.set(gauge(shared.log.end()));
    let part = |part: &'static str, bytes: u64| {
        let parts = &shared.metrics.store_bytes;
        parts
            .get_or_create(&metrics::Part { part })
            .set(gauge(bytes));
    };
    let (levels, recent) = shared.store.history.bytes_by_level();
    part("log", shared.store.log.bytes());
    part("state", shared.store.state_bytes());
    part("recent", recent);
    for (level, bytes) in levels {
        part(level.as_str(), bytes);
    }
    let history = &shared.store.history;
    let metrics = &shared.metrics;
    metrics.damaged.set(gauge(shared.store.damaged()));
    metrics.too_late_samples.set(gauge(history.too_late()));
    let states = shared.board.states();
    for state in ShownState::ALL {
        let count = states.get(&state).copied().unwrap_or_default();
        let label = metrics::State {
            state: state.as_str(),
        };
        shared
            .metrics
            .offices
            .get_or_create(&label)
            .set(gauge(count));
    }
    let accepted = headers.get(header::ACCEPT);
    let accepted = accepted.and_then(|value| value.to_str().ok());
    let open = accepted.is_some_and(|text| text.contains("application/openmetrics-text"));
    let text = shared.metrics.text(open);
    let text = text.context("cannot write the metrics")?;
    let kind = if open {
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    } else {
        "text/plain; version=0.0.4; charset=utf-8"
    };
    Ok(([(header::CONTENT_TYPE, kind)], text))
}
