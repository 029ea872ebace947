//! The history for Grafana and whoever else speaks PromQL: the query API of Prometheus, in its words and its errors.

use super::problem::Problem;
use super::{Shared, State, pairs};
use crate::access::{Caller, Regions};
use crate::promql::{
    self, Budget, Labels, METRICS, POINTS_MOST, Refused, Series, TAKES_MOST, Times, Value, select,
};
use anyhow::Context;
use axum::body::Bytes;
use axum::extract::{Path, RawQuery};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use denyut_proto::UnixMillis;
use promql_parser::util::parse_duration;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;
use utoipa::{IntoParams, ToSchema};

/// Queries that are answered at once, and of one caller; others wait.
pub(crate) const QUERIES: (usize, usize) = (4, 2);
/// How long one waits for its turn.
const TURN_WITHIN: Duration = Duration::from_secs(30);
/// Bytes of a form.
const FORM_MOST: usize = 64 * 1024;

/// Parameters by name, as often as each is there.
type Parameters = BTreeMap<String, Vec<String>>;

/// What went wrong, as Prometheus says it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PrometheusError {
    /// `error`
    status: &'static str,
    /// `bad_data`, `execution`, `timeout`, `unavailable` or `internal`.
    #[serde(rename = "errorType")]
    #[schema(example = "bad_data")]
    error_type: &'static str,
    #[schema(example = "invalid parameter \"query\": no expression found in input")]
    error: String,
}

/// An answer, as Prometheus gives it.
#[derive(Debug, Serialize, ToSchema)]
#[allow(
    dead_code,
    reason = "only its schema is used: answers are written as they are made"
)]
pub(super) struct PrometheusAnswer {
    /// `success`
    #[schema(example = "success")]
    status: String,
    /// What was asked for; of a query `resultType` and `result`.
    data: serde_json::Value,
}

/// A question at one moment.
#[derive(Debug, Deserialize, IntoParams, ToSchema)]
#[into_params(parameter_in = Query)]
#[allow(
    dead_code,
    reason = "only the document reads it: parameters may also stand in a form"
)]
pub(super) struct QueryParameters {
    /// PromQL.
    #[param(example = "avg by (office) (avg_over_time(denyut_up{role=\"uplink\"}[1h]))")]
    query: Option<String>,
    /// When: Unix seconds, or RFC 3339; now when left out.
    time: Option<String>,
    /// How long it may take (`30s`); a minute at most.
    timeout: Option<String>,
    /// Not looked at.
    stats: Option<String>,
}

/// A question over time.
#[derive(Debug, Deserialize, IntoParams, ToSchema)]
#[into_params(parameter_in = Query)]
#[allow(
    dead_code,
    reason = "only the document reads it: parameters may also stand in a form"
)]
pub(super) struct RangeParameters {
    /// PromQL.
    #[param(example = "avg by (province) (denyut_up)")]
    query: Option<String>,
    /// From when on: Unix seconds, or RFC 3339.
    start: Option<String>,
    /// Up to when.
    end: Option<String>,
    /// How far apart: seconds, or a length such as `5m`; at most 11,000 steps.
    step: Option<String>,
    /// How long it may take (`30s`); a minute at most.
    timeout: Option<String>,
    /// Not looked at.
    stats: Option<String>,
}

/// Which series.
#[derive(Debug, Deserialize, IntoParams, ToSchema)]
#[into_params(parameter_in = Query)]
#[allow(
    dead_code,
    reason = "only the document reads it: parameters may also stand in a form"
)]
pub(super) struct SeriesParameters {
    /// Selectors; a series that fits one of them is told.
    #[serde(rename = "match[]")]
    // In a form one value looks like a list of one.
    #[schema(value_type = Option<serde_json::Value>)]
    #[param(rename = "match[]", example = json!(["denyut_up{office=\"36.73.02\"}"]))]
    selectors: Option<Vec<String>>,
    /// Not looked at: all links are told that an office has or had.
    start: Option<String>,
    /// Not looked at.
    end: Option<String>,
    /// At most so many.
    limit: Option<String>,
}

impl Refused {
    fn answer(&self) -> Response {
        let (status, error_type) = match self {
            Self::BadData(_) => (StatusCode::BAD_REQUEST, "bad_data"),
            Self::Execution(_) => (StatusCode::UNPROCESSABLE_ENTITY, "execution"),
            Self::Timeout(_) => (StatusCode::SERVICE_UNAVAILABLE, "timeout"),
            Self::Failed(error) => {
                tracing::error!(error = %format!("{error:#}"), "a query failed");
                (StatusCode::INTERNAL_SERVER_ERROR, "internal")
            }
        };
        let error = match self {
            Self::Failed(_) => "the collector could not answer; its log says why".to_owned(),
            other => other.to_string(),
        };
        refused(status, error_type, error)
    }
}

fn refused(status: StatusCode, error_type: &'static str, error: String) -> Response {
    let error = PrometheusError {
        status: "error",
        error_type,
        error,
    };
    (status, axum::Json(error)).into_response()
}

/// What stands in the address, and in a form if there is to be one.
fn parameters(
    query: Option<&str>,
    form: Option<(&HeaderMap, &Bytes)>,
) -> Result<Parameters, Refused> {
    let mut all = Parameters::new();
    for (name, value) in pairs(query) {
        all.entry(name).or_default().push(value);
    }
    let Some((headers, body)) = form else {
        return Ok(all);
    };
    let kind = headers
        .get(header::CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok());
    let is_form = kind.is_some_and(|kind| {
        let kind = kind.split(';').next().unwrap_or_default().trim();
        kind.eq_ignore_ascii_case("application/x-www-form-urlencoded")
    });
    if !is_form {
        let text = "send the parameters as application/x-www-form-urlencoded";
        return Err(Refused::BadData(text.to_owned()));
    }
    if body.len() > FORM_MOST {
        return Err(Refused::BadData(format!(
            "the form is longer than {FORM_MOST} bytes"
        )));
    }
    let form = std::str::from_utf8(body)
        .map_err(|_| Refused::BadData("the form is not UTF-8".to_owned()))?;
    for (name, value) in pairs(Some(form)) {
        all.entry(name).or_default().push(value);
    }
    Ok(all)
}

fn wrong(name: &str, why: impl std::fmt::Display) -> Refused {
    Refused::BadData(format!("invalid parameter \"{name}\": {why}"))
}

fn first<'a>(all: &'a Parameters, name: &str) -> Option<&'a str> {
    let value = all.get(name)?.first()?;
    Some(value.as_str()).filter(|value| !value.is_empty())
}

/// A moment in ms: Unix seconds, or RFC 3339.
fn time(all: &Parameters, name: &str) -> Result<Option<i64>, Refused> {
    let Some(text) = first(all, name) else {
        return Ok(None);
    };
    let why = || {
        wrong(
            name,
            format!(
                "cannot parse \"{}\" to a valid timestamp",
                text.escape_debug()
            ),
        )
    };
    let ms = if let Ok(seconds) = text.parse::<f64>() {
        seconds * 1_000.0
    } else {
        let at: jiff::Timestamp = text.parse().map_err(|_| why())?;
        at.as_millisecond() as f64
    };
    if !ms.is_finite() || ms.abs() > super::FAR as f64 {
        return Err(why());
    }
    #[allow(
        clippy::cast_possible_truncation,
        reason = "it lies within what a time may be"
    )]
    let ms = ms.round() as i64;
    Ok(Some(ms))
}

/// A length in ms: seconds, or as PromQL writes them.
fn length(all: &Parameters, name: &str) -> Result<Option<i64>, Refused> {
    let Some(text) = first(all, name) else {
        return Ok(None);
    };
    let why = || {
        wrong(
            name,
            format!(
                "cannot parse \"{}\" to a valid duration",
                text.escape_debug()
            ),
        )
    };
    let seconds = match text.parse::<f64>() {
        Ok(seconds) => seconds,
        Err(_) => parse_duration(text).map_err(|_| why())?.as_secs_f64(),
    };
    let ms = (seconds * 1_000.0).round();
    if !(ms >= 1.0 && ms <= super::FAR as f64) {
        return Err(wrong(
            name,
            "zero or negative durations are not accepted; try a positive number of seconds",
        ));
    }
    #[allow(
        clippy::cast_possible_truncation,
        reason = "it lies within what a length may be"
    )]
    let ms = ms as i64;
    Ok(Some(ms))
}

fn budget(all: &Parameters) -> Result<Budget, Refused> {
    let takes = length(all, "timeout")?.and_then(|ms| u64::try_from(ms).ok());
    Ok(Budget::of(takes.map_or(TAKES_MOST, Duration::from_millis)))
}

/// Answers what takes long, when it is its turn.
async fn in_turn(
    shared: Arc<Shared>,
    caller: Caller,
    work: impl FnOnce(&Shared, &Regions) -> Result<String, Refused> + Send + 'static,
) -> Response {
    let person = caller.person();
    let turn = shared.queries.wait(&person);
    let Ok(turn) = tokio::time::timeout(TURN_WITHIN, turn).await else {
        let text = "too many queries are answered at once; ask again later".to_owned();
        return refused(StatusCode::SERVICE_UNAVAILABLE, "unavailable", text);
    };
    let done = tokio::task::spawn_blocking(move || {
        let done = work(&shared, &caller.regions);
        drop(turn);
        done
    });
    match done.await.context("a query panicked") {
        Ok(Ok(data)) => {
            let kind = [(header::CONTENT_TYPE, "application/json")];
            (kind, format!("{{\"status\":\"success\",\"data\":{data}}}")).into_response()
        }
        Ok(Err(refused)) => refused.answer(),
        Err(error) => Refused::Failed(error).answer(),
    }
}

/// A number as Prometheus writes it.
fn number(value: f64) -> String {
    if value.is_infinite() {
        return if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    value.to_string()
}

/// A moment in seconds, to the millisecond.
fn seconds(ms: i64) -> String {
    let (whole, rest) = (ms.div_euclid(1_000), ms.rem_euclid(1_000));
    if rest == 0 {
        return whole.to_string();
    }
    (ms as f64 / 1_000.0).to_string()
}

/// What an expression is, as JSON. Written by hand: of millions of points nothing else is made on the way.
fn written(value: &Value, at: i64) -> anyhow::Result<String> {
    let labels = |labels: &Labels| -> anyhow::Result<String> {
        let all: BTreeMap<&str, &str> = labels
            .iter()
            .map(|(name, value)| (&**name, &**value))
            .collect();
        Ok(serde_json::to_string(&all)?)
    };
    let mut text = String::new();
    match value {
        Value::Scalar(value) => {
            write!(
                text,
                "{{\"resultType\":\"scalar\",\"result\":[{},\"{}\"]}}",
                seconds(at),
                number(*value)
            )?;
        }
        Value::Text(said) => {
            let said = serde_json::to_string(said)?;
            write!(
                text,
                "{{\"resultType\":\"string\",\"result\":[{},{said}]}}",
                seconds(at)
            )?;
        }
        Value::Vector(samples) => {
            text += "{\"resultType\":\"vector\",\"result\":[";
            for (place, sample) in samples.iter().enumerate() {
                let comma = if place > 0 { "," } else { "" };
                write!(
                    text,
                    "{comma}{{\"metric\":{},\"value\":[{},\"{}\"]}}",
                    labels(&sample.labels)?,
                    seconds(at),
                    number(sample.value)
                )?;
            }
            text += "]}";
        }
        Value::Matrix(all) => {
            text += "{\"resultType\":\"matrix\",\"result\":[";
            for (place, Series { labels: of, points }) in all.iter().enumerate() {
                let comma = if place > 0 { "," } else { "" };
                write!(text, "{comma}{{\"metric\":{},\"values\":[", labels(of)?)?;
                for (place, (at, value)) in points.iter().enumerate() {
                    let comma = if place > 0 { "," } else { "" };
                    write!(text, "{comma}[{},\"{}\"]", seconds(*at), number(*value))?;
                }
                text += "]}";
            }
            text += "]}";
        }
    }
    Ok(text)
}

async fn instant(
    shared: Arc<Shared>,
    caller: Caller,
    all: Result<Parameters, Refused>,
) -> Response {
    let now = UnixMillis::from(std::time::SystemTime::now()).0;
    in_turn(shared, caller, move |shared, sees| {
        let all = all?;
        let at = time(&all, "time")?.unwrap_or(now);
        let mut budget = budget(&all)?;
        let text =
            first(&all, "query").ok_or_else(|| wrong("query", "no expression found in input"))?;
        let expression = promql::parse(text)?;
        let times = Times {
            start: at,
            end: at,
            step: 0,
        };
        let value = promql::answer(&shared.query, sees, &expression, times, &mut budget)?;
        Ok(written(&value, at)?)
    })
    .await
}

async fn over_time(
    shared: Arc<Shared>,
    caller: Caller,
    all: Result<Parameters, Refused>,
) -> Response {
    in_turn(shared, caller, move |shared, sees| {
        let all = all?;
        let need = |name: &str, found: Option<i64>| found.ok_or_else(|| wrong(name, "it is missing"));
        let start = need("start", time(&all, "start")?)?;
        let end = need("end", time(&all, "end")?)?;
        if end < start {
            return Err(wrong("end", "end timestamp must not be before start time"));
        }
        let step = need("step", length(&all, "step")?)?;
        if (end - start) / step > POINTS_MOST {
            let text = "exceeded maximum resolution of 11,000 points per timeseries. Try decreasing the query resolution (?step=XX)";
            return Err(Refused::BadData(text.to_owned()));
        }
        let mut budget = budget(&all)?;
        let text = first(&all, "query").ok_or_else(|| wrong("query", "no expression found in input"))?;
        let expression = promql::parse(text)?;
        let times = Times { start, end, step };
        let value = promql::answer(&shared.query, sees, &expression, times, &mut budget)?;
        Ok(written(&value, end)?)
    })
    .await
}

/// The labels of the series that fit one of the selectors of `match[]`; of all without one.
fn labels_of(
    shared: &Shared,
    sees: &Regions,
    all: &Parameters,
    need: bool,
) -> Result<BTreeSet<Labels>, Refused> {
    let mut budget = budget(all)?;
    let selectors = all.get("match[]").map(Vec::as_slice).unwrap_or_default();
    if need && selectors.is_empty() {
        return Err(Refused::BadData("no match[] parameter provided".to_owned()));
    }
    let everything = [r#"{__name__=~"denyut_.+"}"#.to_owned()];
    let selectors = if selectors.is_empty() {
        &everything
    } else {
        selectors
    };
    let mut found = BTreeSet::new();
    for text in selectors {
        let matchers = promql::parse_selector(text)?;
        let series = select(&shared.query, sees, &matchers, &mut budget)?;
        found.extend(series.into_iter().map(|one| one.labels));
    }
    Ok(found)
}

/// The first so many of a list.
fn cut<T: Serialize>(list: impl Iterator<Item = T>, all: &Parameters) -> Result<String, Refused> {
    let limit = match first(all, "limit") {
        None => usize::MAX,
        Some(text) => text
            .parse()
            .map_err(|_| wrong("limit", "it is not a number"))?,
    };
    // Nothing is no limit.
    let limit = if limit == 0 { usize::MAX } else { limit };
    let list: Vec<T> = list.take(limit).collect();
    Ok(serde_json::to_string(&list).context("a list of texts")?)
}

fn told(labels: &Labels) -> BTreeMap<&str, &str> {
    labels
        .iter()
        .map(|(name, value)| (&**name, &**value))
        .collect()
}

async fn series_of(
    shared: Arc<Shared>,
    caller: Caller,
    all: Result<Parameters, Refused>,
) -> Response {
    in_turn(shared, caller, move |shared, sees| {
        let all = all?;
        let found = labels_of(shared, sees, &all, true)?;
        cut(found.iter().map(told), &all)
    })
    .await
}

async fn names_of(
    shared: Arc<Shared>,
    caller: Caller,
    all: Result<Parameters, Refused>,
) -> Response {
    in_turn(shared, caller, move |shared, sees| {
        let all = all?;
        let found = labels_of(shared, sees, &all, false)?;
        let names: BTreeSet<&str> = found
            .iter()
            .flat_map(|labels| labels.keys().map(|name| &**name))
            .collect();
        cut(names.into_iter(), &all)
    })
    .await
}

macro_rules! questions {
    ($($(#[$doc:meta])* $get:ident $post:ident $path:literal $parameters:ident $answer:ident,)*) => {$(
        $(#[$doc])*
        #[utoipa::path(
            get,
            path = $path,
            params($parameters),
            responses(
                (status = 200, body = PrometheusAnswer),
                (status = 400, content((PrometheusError = "application/json"), (Problem = "application/problem+json"))),
                (status = 422, body = PrometheusError),
                (status = 503, body = PrometheusError)
            )
        )]
        pub(super) async fn $get(
            axum::extract::State(shared): State,
            caller: Caller,
            RawQuery(query): RawQuery,
        ) -> Response {
            let all = parameters(query.as_deref(), None);
            $answer(shared, caller, all).await
        }

        $(#[$doc])*
        ///
        /// The same with the parameters in a form; it changes nothing.
        #[utoipa::path(
            post,
            path = $path,
            params($parameters),
            request_body(content = $parameters, content_type = "application/x-www-form-urlencoded"),
            responses(
                (status = 200, body = PrometheusAnswer),
                (status = 400, content((PrometheusError = "application/json"), (Problem = "application/problem+json"))),
                (status = 422, body = PrometheusError),
                (status = 503, body = PrometheusError)
            )
        )]
        pub(super) async fn $post(
            axum::extract::State(shared): State,
            caller: Caller,
            RawQuery(query): RawQuery,
            headers: HeaderMap,
            body: Bytes,
        ) -> Response {
            let all = parameters(query.as_deref(), Some((&headers, &body)));
            $answer(shared, caller, all).await
        }
    )*};
}

questions! {
    /// Evaluate PromQL at one moment, as Prometheus does
    ///
    /// The metrics are `denyut_up` and `denyut_rtt_seconds`, with the labels `office`, `name`, `regency`, `province`, `isp`, `agent`, `target` and `role`. What is not supported is
    /// refused by its name.
    query query_form "/api/v1/query" QueryParameters instant,
    /// Evaluate PromQL over time, as Prometheus does
    query_range query_range_form "/api/v1/query_range" RangeParameters over_time,
    /// Series that fit selectors, as Prometheus tells them
    series series_form "/api/v1/series" SeriesParameters series_of,
    /// Names of labels, as Prometheus tells them
    labels labels_form "/api/v1/labels" SeriesParameters names_of,
}

/// Values of a label, as Prometheus tells them
#[utoipa::path(
    get,
    path = "/api/v1/label/{label}/values",
    params(("label" = String, Path, example = "office"), SeriesParameters),
    responses(
        (status = 200, body = PrometheusAnswer),
        (status = 400, content((PrometheusError = "application/json"), (Problem = "application/problem+json"))),
        (status = 422, body = PrometheusError),
        (status = 503, body = PrometheusError)
    )
)]
pub(super) async fn values(
    axum::extract::State(shared): State,
    caller: Caller,
    Path(label): Path<String>,
    RawQuery(query): RawQuery,
) -> Response {
    let all = parameters(query.as_deref(), None);
    in_turn(shared, caller, move |shared, sees| {
        let all = all?;
        let found = labels_of(shared, sees, &all, false)?;
        let values: BTreeSet<&str> = found
            .iter()
            .filter_map(|labels| labels.get(label.as_str()))
            .map(|value| &**value)
            .collect();
        cut(values.into_iter(), &all)
    })
    .await
}

/// What the metrics are, as Prometheus tells it
#[utoipa::path(get, path = "/api/v1/metadata", responses((status = 200, body = PrometheusAnswer)))]
pub(super) async fn metadata() -> Response {
    let about = |help: &str| json!([{"type": "gauge", "help": help, "unit": ""}]);
    let all: BTreeMap<&str, serde_json::Value> = METRICS
        .iter()
        .map(|(name, help)| (*name, about(help)))
        .collect();
    axum::Json(json!({"status": "success", "data": all})).into_response()
}

/// Which program answers, as Prometheus tells it
#[utoipa::path(get, path = "/api/v1/status/buildinfo", responses((status = 200, body = PrometheusAnswer)))]
pub(super) async fn build_info() -> Response {
    let data =
        json!({"version": env!("CARGO_PKG_VERSION"), "application": "denyut", "features": {}});
    axum::Json(json!({"status": "success", "data": data})).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(pairs: &[(&str, &str)]) -> Parameters {
        let mut all = Parameters::new();
        for (name, value) in pairs {
            all.entry((*name).to_owned())
                .or_default()
                .push((*value).to_owned());
        }
        all
    }

    #[test]
    fn times_and_lengths_are_read_as_prometheus_does() {
        let at = |text| time(&with(&[("time", text)]), "time").ok().flatten();
        assert_eq!(at("1795700000.5"), Some(1_795_700_000_500));
        assert_eq!(at("2026-11-26T13:33:20Z"), Some(1_795_700_000_000));
        assert_eq!(at("2026-11-26T20:33:20+07:00"), Some(1_795_700_000_000));
        for wrong in ["x", "NaN", "1e300", "inf"] {
            assert!(time(&with(&[("time", wrong)]), "time").is_err(), "{wrong}");
        }
        let step = |text| length(&with(&[("step", text)]), "step").ok().flatten();
        assert_eq!(
            (step("15"), step("1h30m"), step("0.5")),
            (Some(15_000), Some(5_400_000), Some(500))
        );
        for wrong in ["0", "-5", "x", "NaN", "1e300", ""] {
            assert_eq!(step(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn numbers_are_written_as_prometheus_does() {
        assert_eq!(
            [1.0, 0.5, f64::INFINITY, f64::NEG_INFINITY].map(number),
            ["1", "0.5", "+Inf", "-Inf"]
        );
        assert_eq!(number(f64::NAN), "NaN");
        assert_eq!(
            (seconds(1_500), seconds(2_000)),
            ("1.5".to_owned(), "2".to_owned())
        );
        let scalar = written(&Value::Scalar(2.5), 1_000).expect("writes");
        assert_eq!(scalar, r#"{"resultType":"scalar","result":[1,"2.5"]}"#);
    }
}
