//! An Alertmanager is told what is true, again and again, as Prometheus does it: it groups, silences and tells people itself. Whatever it missed it learns with the next round,
//! and what nobody repeats is over for it.

use super::channel::{Token, http};
use super::compose::{Entry, Writer, rfc3339};
use super::notice::Alert;
use super::silence::{self, Silence};
use super::truth::Truth;
use super::{Alerts, Receiver};
use crate::clock::Clock;
use crate::events::{Bus, Happening};
use crate::keys;
use crate::metrics::{Delivery, Metrics};
use crate::registry::Registry;
use anyhow::Context;
use denyut_proto::UnixMillis;
use denyut_store::state::{State, scan_json};
use reqwest::Url;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Alerts of one request, at most.
const TOGETHER: usize = 64;
/// An alert that was not repeated for so many rounds is over for an Alertmanager, and not before this.
const ROUNDS: u32 = 4;
const HOLDS: Duration = Duration::from_secs(180);
/// How long one may take to answer.
const WITHIN: Duration = Duration::from_secs(10);
/// How long an end is repeated (as Prometheus does it).
const ENDS: Duration = Duration::from_secs(15 * 60);
/// What happens within this is told in one round.
const GATHER: Duration = Duration::from_secs(1);

/// Where an Alertmanager is; of several that know each other each is told.
#[derive(Debug)]
pub(crate) struct Alertmanager {
    /// With `/api/v2/alerts`.
    pub(crate) urls: Vec<Url>,
    pub(crate) login: Option<(String, Token)>,
    pub(crate) token: Option<Token>,
    pub(crate) client: reqwest::Client,
    /// From one round to the next.
    pub(crate) every: Duration,
}

impl Alertmanager {
    /// Tells each an alert that is over already; why one did not take it.
    pub(super) async fn test(&self, now: UnixMillis) -> Result<(), String> {
        let mut alert = always();
        alert
            .labels
            .insert("alertname".to_owned(), "DenyutTest".to_owned());
        alert.ends_at = rfc3339(now);
        let all = [posted(&alert, "")];
        let told = self.urls.iter().map(|url| self.post(url, &all, now));
        let told = futures_util::future::join_all(told).await;
        told.into_iter().collect()
    }

    async fn post(&self, url: &Url, all: &[Value], now: UnixMillis) -> Result<(), String> {
        let mut request = self.client.post(url.clone()).timeout(WITHIN);
        if let Some((name, password)) = &self.login {
            request = request.basic_auth(name, Some(password.show()));
        }
        if let Some(token) = &self.token {
            request = request.bearer_auth(token.show());
        }
        let asked = http::ask(request.json(all), now).await;
        let judged = asked.and_then(|answer| answer.judge(&[]));
        judged.map(drop).map_err(|error| error.to_string())
    }
}

/// What tells one.
pub(crate) struct Push {
    pub(crate) receiver: Receiver,
    pub(crate) to: Arc<Alertmanager>,
    pub(crate) alerts: Arc<Alerts>,
    pub(crate) state: Arc<dyn State>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) clock: Arc<Clock>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) bus: Arc<Bus>,
    /// The worker's place in the log, which grows with every second's tick.
    pub(crate) processed: Arc<AtomicU64>,
}

/// What was told, and what of it is over: since when it is, and until when that is repeated.
#[derive(Default)]
struct Said {
    firing: BTreeMap<u64, Alert>,
    ended: Vec<(UnixMillis, Alert)>,
}

impl Said {
    /// What is true now; all that is to be told.
    fn turn(
        &mut self,
        now_firing: BTreeMap<u64, (Alert, Option<UnixMillis>)>,
        now: UnixMillis,
    ) -> Vec<Alert> {
        let mut firing = BTreeMap::new();
        let before = std::mem::take(&mut self.firing);
        for (number, mut alert) in before {
            let now_it_is = now_firing.get(&number);
            // Other labels are another alert.
            let goes_on =
                now_it_is.is_some_and(|(new, over)| over.is_none() && new.labels == alert.labels);
            if !goes_on {
                let over = now_it_is.and_then(|(_, over)| *over).unwrap_or(now);
                alert.ends_at = rfc3339(over);
                self.ended.push((now, alert));
            }
        }
        for (number, (alert, over)) in now_firing {
            if over.is_none() {
                firing.insert(number, alert);
            }
        }
        // A clock that went back does not make it longer.
        self.ended.retain(|(at, _)| *at <= now && now < *at + ENDS);
        // It began again before its end was told everywhere.
        self.ended
            .retain(|(_, ended)| !firing.values().any(|alert| alert.labels == ended.labels));
        self.firing = firing;
        let ended = self.ended.iter().map(|(_, alert)| alert.clone());
        self.firing.values().cloned().chain(ended).collect()
    }
}

impl Push {
    /// Runs until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let this = Arc::new(self);
        let mut said = Said::default();
        let mut happenings = this.bus.listen();
        let (mut failing, mut place) = (false, 0);
        while !stop.is_cancelled() {
            let now = this.clock.read().now;
            let (reader, known) = (Arc::clone(&this), said.firing.keys().copied().collect());
            let read = tokio::task::spawn_blocking(move || reader.read(known, now));
            let firing = read.await.context("reading the incidents panicked")??;
            let mut all = said.turn(firing, now);
            let here = this.processed.load(Ordering::Acquire);
            if here > place {
                // While the worker stands still nobody is told that all is well.
                all.push(always());
            }
            place = here;
            match this.tell(&all).await {
                Ok(()) if failing => {
                    failing = false;
                    info!(
                        receiver = this.receiver.name,
                        "the Alertmanager answers again"
                    );
                }
                Ok(()) => {}
                Err(_) if failing => {}
                Err(why) => {
                    failing = true;
                    warn!(
                        receiver = this.receiver.name,
                        error = why,
                        "the Alertmanager cannot be told"
                    );
                }
            }
            let sleep = tokio::time::sleep(this.to.every);
            tokio::pin!(sleep);
            loop {
                let happened = tokio::select! {
                    () = &mut sleep => break,
                    () = stop.cancelled() => break,
                    happened = happenings.recv() => happened,
                };
                let is_news = match happened {
                    Ok(published) => matches!(published.happening, Happening::Incident(_)),
                    Err(RecvError::Lagged(_)) => true,
                    Err(RecvError::Closed) => false,
                };
                if is_news {
                    tokio::time::sleep(GATHER).await;
                    break;
                }
            }
        }
        Ok(())
    }

    /// What is open and for this receiver, and what became of what was. Blocks.
    fn read(
        &self,
        mut known: BTreeSet<u64>,
        now: UnixMillis,
    ) -> anyhow::Result<BTreeMap<u64, (Alert, Option<UnixMillis>)>> {
        let mut silences: Vec<Silence> = silence::read(&*self.state)?;
        silences.retain(|one| one.holds(now));
        let writer = Writer::new(&self.alerts, &self.receiver, &self.registry, now)?;
        let mut firing = BTreeMap::new();
        let open = scan_json::<u64>(&*self.state, keys::OPEN)?;
        let told = known.clone();
        known.extend(open.into_iter().map(|(_, number)| number));
        for number in known {
            let truth = Truth::read(&*self.state, &self.alerts, &self.registry, number, now)?;
            let Some(truth) = truth.filter(|truth| truth.incident.paged_ms.is_some()) else {
                continue;
            };
            let mut routes = self.alerts.routes.iter();
            let is_for_it = routes.any(|route| {
                route.leads_to(&self.receiver, &truth.about) && route.takes(&truth.about).is_ok()
            });
            // What it was told goes on while it is silenced: an end would be a lie.
            let is_silent = silences.iter().any(|one| one.covers(&truth.about, now));
            if !is_for_it || (is_silent && !told.contains(&number)) {
                continue;
            }
            let facts = &truth.incident.facts;
            let over = facts
                .resolved_ms
                .or_else(|| truth.incident.retracted.then_some(now));
            let entry = Entry {
                incident: truth.incident,
                now: truth.told,
                is_new: true,
                by: truth.by,
                unattended: truth.unattended,
            };
            firing.insert(number, (writer.alert(&entry), over));
        }
        Ok(firing)
    }

    /// Tells each that there is, all at the same time: one that is away does not keep it from the others. An error if one of them did not take it.
    async fn tell(&self, all: &[Alert]) -> Result<(), String> {
        let told = self.to.urls.iter().map(|url| self.tell_one(url, all));
        let told = futures_util::future::join_all(told).await;
        told.into_iter().collect()
    }

    async fn tell_one(&self, url: &Url, all: &[Alert]) -> Result<(), String> {
        let mut told = Ok(());
        for part in all.chunks(TOGETHER) {
            let now = self.clock.read().now;
            let until = rfc3339(now + (self.to.every * ROUNDS).max(HOLDS));
            let part: Vec<Value> = part.iter().map(|alert| posted(alert, &until)).collect();
            told = self.to.post(url, &part, now).await;
            if told.is_err() {
                break;
            }
        }
        let result = if told.is_ok() { "delivered" } else { "failed" };
        let receiver = self.receiver.name.clone();
        let delivery = Delivery { receiver, result };
        self.metrics.messages.get_or_create(&delivery).inc();
        told
    }
}

/// As `/api/v2/alerts` takes it; what goes on does so until then, if nobody repeats it.
fn posted(alert: &Alert, until: &str) -> Value {
    let goes_on = alert.ends_at.starts_with("0001-");
    json!({
        "labels": alert.labels,
        "annotations": alert.annotations,
        "startsAt": alert.starts_at,
        "endsAt": if goes_on { until } else { &alert.ends_at },
        "generatorURL": alert.generator_url,
    })
}

/// It fires as long as denyut watches: who hears of its end should look.
fn always() -> Alert {
    let text = |pairs: &[(&str, &str)]| {
        let owned = pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        owned.collect()
    };
    Alert {
        labels: text(&[("alertname", "DenyutWatches"), ("severity", "none")]),
        annotations: text(&[(
            "summary",
            "denyut watches; if this alert ends, it does not, and nobody is told of outages",
        )]),
        ends_at: "0001-01-01T00:00:00Z".to_owned(),
        starts_at: "2000-01-01T00:00:00Z".to_owned(),
        ..Alert::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_repeated_for_a_while_and_a_change_of_labels_ends_the_old_one() {
        let alert = |cause: &str| Alert {
            labels: BTreeMap::from([("cause".to_owned(), cause.to_owned())]),
            ends_at: "0001-01-01T00:00:00Z".to_owned(),
            ..Alert::default()
        };
        let at = |seconds: i64| UnixMillis(1_790_000_000_000 + seconds * 1_000);
        let one =
            |cause: &str, over: Option<UnixMillis>| BTreeMap::from([(1, (alert(cause), over))]);
        let mut said = Said::default();
        assert_eq!(said.turn(one("lan", None), at(0)), [alert("lan")]);
        let ended = |seconds: i64| Alert {
            ends_at: rfc3339(at(seconds)),
            ..alert("lan")
        };
        assert_eq!(
            said.turn(one("uplink", None), at(60)),
            [alert("uplink"), ended(60)]
        );
        // It was the old cause after all.
        let all = said.turn(one("lan", None), at(120));
        assert_eq!(all[0], alert("lan"));
        assert_eq!(all.len(), 2);
        assert_eq!(said.turn(one("lan", Some(at(150))), at(180))[1], ended(150));
        assert_eq!(said.turn(BTreeMap::new(), at(240)).len(), 2);
        assert_eq!(said.turn(BTreeMap::new(), at(180 + 900)), []);
    }
}
