//! What happens, as it happens: server-sent events.

use super::problem::Problem;
use super::{Parameters, Shared, State, office_parameter};
use crate::events::{Happening, Published};
use crate::query::SampleView;
use axum::response::Sse;
use axum::response::sse::{Event, KeepAlive};
use futures_util::{Stream, StreamExt, stream};
use serde::Deserialize;
use serde_json::json;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;
use utoipa::IntoParams;

/// What to listen to.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
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
/// again), `incident` (as in `/incidents`), `samples` (only when asked for), and `missed` (this listener was too slow, so many
/// events are lost: read everything anew).
#[utoipa::path(
    get,
    path = "/api/v1/events",
    params(StreamParameters),
    responses((status = 200, content_type = "text/event-stream", body = String), (status = 400, body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn stream(
    axum::extract::State(shared): State,
    Parameters(parameters): Parameters<StreamParameters>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Problem> {
    let office = office_parameter(parameters.office)?;
    let stop = shared.stop.clone();
    let listener = Listener::new(shared);
    let events = stream::unfold((listener, stop), |(mut listener, stop)| async move {
        let received = tokio::select! {
            received = listener.receiver.recv() => received,
            () = stop.cancelled() => return None,
        };
        match received {
            Ok(happening) => Some((Ok(happening), (listener, stop))),
            Err(RecvError::Lagged(missed)) => {
                listener.shared.metrics.missed_events.inc_by(missed);
                Some((Err(missed), (listener, stop)))
            }
            Err(RecvError::Closed) => None,
        }
    });
    let samples = parameters.samples;
    let events = events.filter_map(move |received| {
        let event = match received {
            Err(missed) => Some(Event::default().event("missed").data(missed.to_string())),
            Ok(published) => {
                let happening = &published.happening;
                let wanted = office
                    .as_ref()
                    .is_none_or(|office| happening.office() == Some(office))
                    && (samples || !matches!(happening, Happening::Samples { .. }));
                wanted.then(|| event_of(&published))
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

/// Counts itself among the listeners while it lives.
struct Listener {
    shared: Arc<Shared>,
    receiver: tokio::sync::broadcast::Receiver<Arc<Published>>,
}

impl Listener {
    fn new(shared: Arc<Shared>) -> Self {
        shared.metrics.listeners.inc();
        let receiver = shared.bus.listen();
        Self { shared, receiver }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.shared.metrics.listeners.dec();
    }
}

fn event_of(published: &Published) -> Event {
    let name = match &published.happening {
        Happening::Samples { .. } => "samples",
        Happening::Link { .. } => "link",
        Happening::Agent { .. } => "agent",
        Happening::Incident(_) => "incident",
    };
    let text = published
        .text
        .get_or_init(|| data_of(&published.happening).to_string());
    Event::default().event(name).data(text)
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
