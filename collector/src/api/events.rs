//! What happens, as it happens: server-sent events.

use super::problem::Problem;
use super::{Parameters, Shared, State, office_parameter};
use crate::access::{Caller, Regions, Scope, Slot};
use crate::events::{Happening, Published};
use crate::query::{SampleView, seen_in};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Sse;
use axum::response::sse::{Event, KeepAlive};
use futures_util::{Stream, StreamExt, stream};
use serde::Deserialize;
use serde_json::json;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::broadcast::error::RecvError;
use utoipa::IntoParams;

/// What to listen to.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct StreamParameters {
    /// Only this office.
    office: Option<String>,
    /// Samples too; without it only changes.
    #[serde(default)]
    samples: bool,
}

/// What happens, as it happens (server-sent events)
///
/// Events: `link` (its state changed, or it is gone: read the office anew), `agent` (it fell silent, stopped, or spoke
/// again), `incident` (as in `/incidents`), `samples` (only when asked for), and `missed` (so many events are lost to this listener, 0 if nobody
/// knows how many: read everything anew). A listener that comes back with `Last-Event-ID` hears what happened meanwhile, but for samples.
#[utoipa::path(
    get,
    path = "/api/v1/events",
    params(StreamParameters, ("Last-Event-ID" = Option<String>, Header, description = "The id of the event heard last")),
    responses((status = 200, content_type = "text/event-stream", body = String), (status = 503, body = Problem, content_type = "application/problem+json", description = "too many listen at once"), (status = 400, body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn stream(
    axum::extract::State(shared): State,
    caller: Caller,
    headers: HeaderMap,
    Parameters(parameters): Parameters<StreamParameters>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Problem> {
    let office = office_parameter(parameters.office)?;
    let stop = shared.stop.clone();
    let run = shared.bus.run;
    let last = headers
        .get("last-event-id")
        .and_then(|value| value.to_str().ok());
    // Of another process: nobody knows what happened since.
    let last = last.map(|text| number_of(run, text).unwrap_or(u64::MAX));
    let slot = shared.listeners.take(&caller.person()).ok_or_else(|| {
        let text = "too many listen at once; ask again when one of them is gone";
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, text)
    })?;
    let (before, listener) = Listener::new(shared, caller.clone(), slot, last);
    let before: Vec<_> =
        before.map_or_else(|| vec![Err(0)], |all| all.into_iter().map(Ok).collect());
    let sees = caller.regions;
    let before = before.into_iter().map(move |one| (one, sees.clone()));
    let live = stream::unfold((listener, stop), |(mut listener, stop)| async move {
        tokio::select! {
            heard = listener.hear() => heard.map(|heard| (heard, (listener, stop))),
            () = stop.cancelled() => None,
        }
    });
    let samples = parameters.samples;
    let events = stream::iter(before)
        .chain(live)
        .filter_map(move |(received, sees)| {
            let event = match received {
                Err(missed) => Some(Event::default().event("missed").data(missed.to_string())),
                Ok(published) => {
                    let happening = &published.happening;
                    let wanted = office
                        .as_ref()
                        .is_none_or(|office| happening.office() == Some(office))
                        && (samples || !matches!(happening, Happening::Samples { .. }));
                    wanted.then(|| event_of(run, &published, &sees)).flatten()
                }
            };
            std::future::ready(event.map(Ok))
        });
    // At once, so that a listener knows that it listens.
    let greeting = stream::once(std::future::ready(
        Ok(Event::default().comment("listening")),
    ));
    Ok(Sse::new(greeting.chain(events))
        .keep_alive(KeepAlive::new().interval(Duration::from_secs(15))))
}

/// An id: of which process, and which in it.
fn id_of(run: u64, number: u64) -> String {
    format!("{run:016x}-{number}")
}

fn number_of(run: u64, id: &str) -> Option<u64> {
    let (of, number) = id.split_once('-')?;
    let is_ours = u64::from_str_radix(of, 16).is_ok_and(|of| of == run);
    number.parse().ok().filter(|_| is_ours)
}

/// How often it is asked whether a listener may still hear.
const ASKED_EVERY: Duration = Duration::from_secs(5);

/// Something that happened, or how much was missed.
type Heard = Result<Arc<Published>, u64>;

/// Counts itself among the listeners while it lives.
struct Listener {
    shared: Arc<Shared>,
    caller: Caller,
    /// When it was last asked whether they may.
    asked: Instant,
    receiver: tokio::sync::broadcast::Receiver<Arc<Published>>,
    _slot: Slot,
}

impl Listener {
    /// Listens, and hears what happened since `last`.
    fn new(
        shared: Arc<Shared>,
        caller: Caller,
        slot: Slot,
        last: Option<u64>,
    ) -> (Option<Vec<Arc<Published>>>, Self) {
        shared.metrics.listeners.inc();
        let (before, receiver) = shared.bus.listen_since(last);
        let listener = Self {
            shared,
            caller,
            asked: Instant::now(),
            receiver,
            _slot: slot,
        };
        (before, listener)
    }

    /// The next thing, and where the listener may look; `None` at the end: also of their being let in.
    async fn hear(&mut self) -> Option<(Heard, Regions)> {
        loop {
            let left = ASKED_EVERY.saturating_sub(self.asked.elapsed());
            if left.is_zero() {
                let now = self.shared.gate.clock.read().now;
                self.caller = self
                    .shared
                    .book
                    .again(&self.caller, now)
                    .filter(|caller| caller.may(Scope::Read))?;
                self.asked = Instant::now();
                continue;
            }
            let heard = match tokio::time::timeout(left, self.receiver.recv()).await {
                Err(_) => continue,
                Ok(Ok(happening)) => Ok(happening),
                Ok(Err(RecvError::Lagged(missed))) => {
                    self.shared.metrics.missed_events.inc_by(missed);
                    Err(missed)
                }
                Ok(Err(RecvError::Closed)) => return None,
            };
            return Some((heard, self.caller.regions.clone()));
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.shared.metrics.listeners.dec();
    }
}

/// An event as who looks there sees it; `None` if it is not theirs.
fn event_of(run: u64, published: &Published, sees: &Regions) -> Option<Event> {
    let name = match &published.happening {
        Happening::Samples { .. } => "samples",
        Happening::Link { .. } => "link",
        Happening::Agent { .. } => "agent",
        Happening::Incident(_) => "incident",
    };
    let event = Event::default()
        .event(name)
        .id(id_of(run, published.number));
    let whole = || {
        let text = published
            .text
            .get_or_init(|| data_of(&published.happening).to_string());
        event.clone().data(text)
    };
    match (&published.happening, published.happening.office()) {
        _ if sees.is_everywhere() => Some(whole()),
        (_, Some(office)) => sees.has(office).then(whole),
        (Happening::Incident(incident), None) => {
            let theirs = seen_in(incident.as_ref().clone(), sees)?;
            Some(event.clone().data(json!(theirs).to_string()))
        }
        (_, None) => None,
    }
}

fn data_of(happening: &Happening) -> serde_json::Value {
    match happening {
        Happening::Samples {
            office,
            link,
            samples,
        } => {
            let samples: Vec<SampleView> = samples.iter().copied().map(SampleView::of).collect();
            json!({"office": office, "agent": link.agent, "target": link.target, "samples": samples})
        }
        Happening::Link { office, link } => {
            json!({"office": office, "agent": link.agent, "target": link.target})
        }
        Happening::Agent {
            office,
            agent,
            presence,
            at,
        } => {
            json!({"office": office, "agent": agent, "presence": presence, "at_ms": at})
        }
        Happening::Incident(incident) => json!(incident),
    }
}
