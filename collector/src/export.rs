//! What is measured, for a store that speaks Prometheus' remote write (version 1): each sample once it is in the history, in the order of its arrival, with the labels that
//! [`crate::promql`] has.
//!
//! The place in the log up to which a store took everything is in the state; after a crash the last few are sent again, which changes nothing there. While a store does not answer, the
//! log is kept for it, as far as the disk is to be used for that; what is lost beyond is counted. What a store refuses for good is looked for by halves, counted and left out.

use crate::alert::{Place, Token};
use crate::keys;
use crate::metrics::{Export as Label, Metrics};
use crate::query::Query;
use denyut_proto::sample::Evidence;
use denyut_proto::{Invalid, LinkId, Outcome};
use denyut_store::Store;
use denyut_store::log::{Body, Log, Position};
use denyut_store::state::{Change, State, get_json};
use prost::Message;
use reqwest::{StatusCode, Url, header};
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

/// Records read at once, and samples of one request, about.
const RECORDS: usize = 2_000;
const SAMPLES: usize = 10_000;
/// How often it is looked whether there is more.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// After a failure: the first wait, and the longest.
const WAITS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// How long what is known of a link is taken for true.
const LABELS_FOR: Duration = Duration::from_secs(300);
/// The log that is kept for a store that does not answer, unless somebody says otherwise.
const HOLDS: u64 = 1 << 30;
/// Bytes of what a store answers to look at.
const ANSWER_MOST: usize = 300;

/// `[[export]]` as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExportSection {
    name: String,
    remote_write: RemoteWriteSection,
    holds: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RemoteWriteSection {
    url: Option<String>,
    url_file: Option<PathBuf>,
    user: Option<String>,
    password_file: Option<PathBuf>,
    token_file: Option<PathBuf>,
    ca: Option<PathBuf>,
}

/// Where to send what is measured.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    name: String,
    url: Url,
    login: Option<(String, Token)>,
    token: Option<Token>,
    client: reqwest::Client,
    /// Bytes of the log that are kept for it.
    holds: u64,
}

impl Target {
    /// Where what is measured goes, in words.
    pub(crate) fn describe(&self) -> String {
        let host = self.url.host_str().unwrap_or_default();
        format!("What is measured is also sent to {}, at {host}.", self.name)
    }
}

/// Reads the sections; files that they name lie in `folder`.
pub(crate) fn read(
    sections: Vec<ExportSection>,
    folder: &Path,
    size: impl Fn(&str, &str) -> Result<u64, Invalid>,
) -> anyhow::Result<Vec<Target>> {
    let mut targets: Vec<Target> = Vec::new();
    for (place, section) in sections.into_iter().enumerate() {
        let at = Place {
            at: format!("export[{place}]"),
            folder,
        };
        let name = section.name;
        let is_plain =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if name.is_empty() || name.len() > 40 || !name.bytes().all(is_plain) {
            let fix = "write small letters, digits and `-`, at most 40";
            return Err(at.invalid("name", name, "not a name", fix));
        }
        if targets.iter().any(|other| other.name == name) {
            return Err(at.invalid(
                "name",
                name,
                "another is called so, too",
                "give each a name of its own",
            ));
        }
        let to = section.remote_write;
        if to.user.is_some() && to.token_file.is_some() {
            let fix = "write `user` and `password_file`, or `token_file`";
            let hidden = "(not shown)".to_owned();
            return Err(at.invalid(
                "remote_write.token_file",
                hidden,
                "`user` is there, too",
                fix,
            ));
        }
        let url = at.url("remote_write", to.url.as_deref(), to.url_file.as_deref())?;
        targets.push(Target {
            login: at.login("remote_write", to.user, to.password_file.as_deref())?,
            token: at.maybe_token("remote_write.token_file", to.token_file.as_deref())?,
            client: at.client("remote_write", to.ca, &url)?,
            holds: match &section.holds {
                Some(text) => size(&at.field("holds"), text)?,
                None => HOLDS,
            },
            name,
            url,
        });
    }
    Ok(targets)
}

/// What a store is sent (`prometheus.WriteRequest`).
#[derive(Clone, PartialEq, Message)]
struct WriteRequest {
    #[prost(message, repeated, tag = "1")]
    timeseries: Vec<TimeSeries>,
}

#[derive(Clone, PartialEq, Message)]
struct TimeSeries {
    /// By name.
    #[prost(message, repeated, tag = "1")]
    labels: Vec<LabelPair>,
    #[prost(message, repeated, tag = "2")]
    samples: Vec<Point>,
}

#[derive(Clone, PartialEq, Message)]
struct LabelPair {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    value: String,
}

#[derive(Clone, PartialEq, Message)]
struct Point {
    #[prost(double, tag = "1")]
    value: f64,
    #[prost(int64, tag = "2")]
    timestamp: i64,
}

/// Why a store did not take something.
enum Untaken {
    /// It may the next time.
    Later(String),
    /// It never will.
    Never(String),
}

/// Sends to one store.
pub(crate) struct Exporter {
    target: Target,
    store: Arc<Store>,
    /// Answers what links are called; sees everything.
    query: Query,
    /// The worker's place: everything up to it is in the history.
    processed: Arc<AtomicU64>,
    metrics: Arc<Metrics>,
    /// The labels of links, and since when they are known.
    labels: HashMap<LinkId, Vec<LabelPair>>,
    known_since: Instant,
}

impl Exporter {
    pub(crate) fn new(
        target: Target,
        store: Arc<Store>,
        query: Query,
        processed: Arc<AtomicU64>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            target,
            store,
            query,
            processed,
            metrics,
            labels: HashMap::new(),
            known_since: Instant::now(),
        }
    }

    fn label(&self) -> Label {
        Label {
            export: self.target.name.clone(),
        }
    }

    /// Runs until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> anyhow::Result<()> {
        let key = keys::export(&self.target.name);
        let known: Option<Position> = get_json(&*self.store.state, &key)?;
        // A store that is new is sent what comes from now on.
        let mut next = known.unwrap_or_else(|| self.store.log.end() + 1);
        self.keep(&key, next)?;
        info!(
            export = self.target.name,
            host = self.target.url.host_str(),
            "what is measured is sent on"
        );
        // They are there from the start, at nothing.
        for counter in [
            &self.metrics.export_samples,
            &self.metrics.export_refused,
            &self.metrics.export_failures,
            &self.metrics.export_lost,
        ] {
            drop(counter.get_or_create(&self.label()));
        }
        loop {
            let begin = self.store.log.begin();
            if next < begin {
                self.metrics
                    .export_lost
                    .get_or_create(&self.label())
                    .inc_by(begin - next);
                warn!(
                    export = self.target.name,
                    records = begin - next,
                    "the log was not kept for that long: the store lacks what was in it"
                );
                next = begin;
            }
            self.wait_from(next);
            let (request, past) = tokio::task::block_in_place(|| self.gather(next))?;
            if past == next {
                tokio::select! {
                    () = sleep(LOOK_EVERY) => continue,
                    () = stop.cancelled() => return Ok(()),
                }
            }
            tokio::select! {
                () = self.deliver(next, request) => {}
                () = stop.cancelled() => return Ok(()),
            }
            next = past;
            self.keep(&key, next)?;
        }
    }

    /// Says how far behind the store is, and has the log kept for it from there on, as long as that is not too much.
    fn wait_from(&self, next: Position) {
        let held = self.store.log.bytes() <= self.target.holds;
        self.store.hold_log(&self.target.name, held.then_some(next));
        let processed = self.processed.load(Ordering::Acquire);
        let behind = i64::try_from(processed.saturating_sub(next - 1)).unwrap_or(i64::MAX);
        self.metrics
            .export_behind
            .get_or_create(&self.label())
            .set(behind);
    }

    /// Notes up to where the store took everything. Durable with the next checkpoint: what is sent again changes nothing.
    fn keep(&self, key: &str, next: Position) -> anyhow::Result<()> {
        let mut change = Change::default();
        change.put_json(key.to_owned(), &next)?;
        self.store.state.apply(change).map_err(anyhow::Error::from)
    }

    /// The samples from a place in the log on, and the place behind them. Blocks.
    fn gather(&mut self, from: Position) -> anyhow::Result<(WriteRequest, Position)> {
        if self.known_since.elapsed() > LABELS_FOR {
            self.labels.clear();
            self.known_since = Instant::now();
        }
        let processed = self.processed.load(Ordering::Acquire);
        let mut past = from;
        let mut points: BTreeMap<(LinkId, bool), Vec<Point>> = BTreeMap::new();
        let mut count = 0;
        for (position, record) in self.store.log.read(from, RECORDS)? {
            if position > processed || count >= SAMPLES {
                break;
            }
            past = position + 1;
            let Body::Heartbeat(entry) = &record.body else {
                continue;
            };
            // What cannot be read was counted by the worker.
            let Ok(heartbeat) = entry.heartbeat() else {
                continue;
            };
            for of_target in &heartbeat.samples {
                let link = LinkId {
                    agent: entry.agent.clone(),
                    target: of_target.target.clone(),
                };
                for sample in &of_target.samples {
                    let mut add = |is_rtt: bool, value: f64| {
                        let all = points.entry((link.clone(), is_rtt)).or_default();
                        all.push(Point {
                            value,
                            timestamp: sample.at.0,
                        });
                        count += 1;
                    };
                    match sample.outcome.evidence() {
                        Evidence::Good => add(false, 1.0),
                        Evidence::Bad => add(false, 0.0),
                        Evidence::None => {}
                    }
                    if let Outcome::Ok { rtt_us } = sample.outcome {
                        add(true, f64::from(rtt_us) / 1e6);
                    }
                }
            }
        }
        let mut timeseries = Vec::new();
        for ((link, is_rtt), mut samples) in points {
            let Some(mut labels) = self.labels_of(&link)? else {
                continue;
            };
            let name = if is_rtt {
                "denyut_rtt_seconds"
            } else {
                "denyut_up"
            };
            labels.insert(
                0,
                LabelPair {
                    name: "__name__".to_owned(),
                    value: name.to_owned(),
                },
            );
            samples.sort_by_key(|point| point.timestamp);
            samples.dedup_by_key(|point| point.timestamp);
            timeseries.push(TimeSeries { labels, samples });
        }
        Ok((WriteRequest { timeseries }, past))
    }

    /// The labels of a link by name, without the metric's; none of one that no office has any more.
    fn labels_of(&mut self, link: &LinkId) -> anyhow::Result<Option<Vec<LabelPair>>> {
        if let Some(known) = self.labels.get(link) {
            return Ok(Some(known.clone()));
        }
        let Some(labels) = crate::promql::labels_of(&self.query, link)? else {
            return Ok(None);
        };
        let pairs = labels.iter().map(|(name, value)| LabelPair {
            name: name.to_string(),
            value: value.to_string(),
        });
        let pairs: Vec<LabelPair> = pairs.collect();
        self.labels.insert(link.clone(), pairs.clone());
        Ok(Some(pairs))
    }

    /// Sends what begins at a place of the log until the store has taken of it what it ever will.
    async fn deliver(&self, next: Position, request: WriteRequest) {
        let (mut refused, mut refused_why) = (0, String::new());
        let mut parts = vec![request.timeseries];
        let mut wait = WAITS.0;
        let mut failing = false;
        while let Some(part) = parts.pop() {
            if part.is_empty() {
                continue;
            }
            match self.send(&part).await {
                Ok(()) => {
                    let count: usize = part.iter().map(|one| one.samples.len()).sum();
                    let sent = self.metrics.export_samples.get_or_create(&self.label());
                    sent.inc_by(count as u64);
                    if failing {
                        info!(
                            export = self.target.name,
                            "the store takes what is measured again"
                        );
                    }
                    (wait, failing) = (WAITS.0, false);
                }
                Err(Untaken::Later(why)) => {
                    if !failing {
                        warn!(
                            export = self.target.name,
                            error = why,
                            "a store does not take what is measured; it is tried again"
                        );
                    }
                    failing = true;
                    self.metrics
                        .export_failures
                        .get_or_create(&self.label())
                        .inc();
                    parts.push(part);
                    self.wait_from(next);
                    sleep(wait).await;
                    wait = (wait * 2).min(WAITS.1);
                }
                Err(Untaken::Never(why)) => {
                    // One of them is at fault: the others need not suffer for it.
                    if let [only] = &part[..] {
                        refused += only.samples.len() as u64;
                        refused_why = why;
                        continue;
                    }
                    let mut first = part;
                    let second = first.split_off(first.len() / 2);
                    parts.extend([second, first]);
                }
            }
        }
        if refused > 0 {
            self.metrics
                .export_refused
                .get_or_create(&self.label())
                .inc_by(refused);
            error!(
                export = self.target.name,
                error = refused_why,
                samples = refused,
                "a store refuses samples for good; they are left out"
            );
        }
    }

    async fn send(&self, timeseries: &[TimeSeries]) -> Result<(), Untaken> {
        let request = WriteRequest {
            timeseries: timeseries.to_vec(),
        };
        let body = snap::raw::Encoder::new()
            .compress_vec(&request.encode_to_vec())
            .map_err(|error| Untaken::Never(error.to_string()))?;
        let mut request = self
            .target
            .client
            .post(self.target.url.clone())
            .header(header::CONTENT_TYPE, "application/x-protobuf")
            .header(header::CONTENT_ENCODING, "snappy")
            .header("X-Prometheus-Remote-Write-Version", "0.1.0")
            .body(body);
        if let Some((user, password)) = &self.target.login {
            request = request.basic_auth(user, Some(password.show()));
        }
        if let Some(token) = &self.target.token {
            request = request.bearer_auth(token.show());
        }
        let answer = request.send().await;
        let answer = answer.map_err(|error| {
            Untaken::Later(format!("{:#}", anyhow::Error::new(error.without_url())))
        })?;
        let status = answer.status();
        if status.is_success() {
            return Ok(());
        }
        let text = answer.text().await.unwrap_or_default();
        let said: String = text.trim().chars().take(ANSWER_MOST).collect();
        let why = format!("{status}: {said}");
        // Who is not let in may be the next time; what is wrong stays wrong.
        let is_for_good =
            status == StatusCode::BAD_REQUEST || status == StatusCode::UNPROCESSABLE_ENTITY;
        Err(if is_for_good {
            Untaken::Never(why)
        } else {
            Untaken::Later(why)
        })
    }
}
