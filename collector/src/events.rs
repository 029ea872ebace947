//! What just happened, for those who listen: the event stream of the API.

use denyut_detect::{Incident, Presence};
use denyut_proto::{AgentId, OfficeCode, Sample, UnixMillis};
use denyut_store::history::LinkId;
use std::sync::{Arc, OnceLock};
use tokio::sync::broadcast;

/// Happenings kept for a listener that is slow; one that is slower is told that it missed some.
const BACKLOG: usize = 4096;

/// One thing that happened.
#[derive(Debug)]
pub(crate) enum Happening {
    /// Samples of a link came in.
    Samples {
        office: OfficeCode,
        link: LinkId,
        samples: Vec<Sample>,
    },
    /// A link's state changed, or the link is gone.
    Link { office: OfficeCode, link: LinkId },
    /// An agent fell silent, stopped, or spoke again.
    Agent {
        office: OfficeCode,
        agent: AgentId,
        presence: Presence,
        at: UnixMillis,
    },
    /// An incident was opened, changed or resolved.
    Incident(Box<Incident>),
}

impl Happening {
    /// The office it happened at; none for a common cause.
    pub(crate) fn office(&self) -> Option<&OfficeCode> {
        match self {
            Self::Samples { office, .. }
            | Self::Link { office, .. }
            | Self::Agent { office, .. } => Some(office),
            Self::Incident(incident) => incident.office.as_ref(),
        }
    }
}

/// A happening, and its text once somebody has asked for it: written once, however many listen.
#[derive(Debug)]
pub(crate) struct Published {
    pub(crate) happening: Happening,
    pub(crate) text: OnceLock<String>,
}

/// From the worker to every listener.
#[derive(Debug)]
pub(crate) struct Bus(broadcast::Sender<Arc<Published>>);

impl Bus {
    pub(crate) fn new() -> Self {
        Self(broadcast::Sender::new(BACKLOG))
    }

    /// Tells all listeners; costs nothing without any.
    pub(crate) fn publish(&self, happening: Happening) {
        // The only error is that nobody listens.
        if self.0.receiver_count() > 0 {
            let text = OnceLock::new();
            self.0.send(Arc::new(Published { happening, text })).ok();
        }
    }

    pub(crate) fn listen(&self) -> broadcast::Receiver<Arc<Published>> {
        self.0.subscribe()
    }
}
