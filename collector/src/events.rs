//! What just happened, for those who listen: the event stream of the API.

use denyut_detect::{Incident, Presence};
use denyut_proto::{AgentId, OfficeCode, Sample, UnixMillis};
use denyut_store::history::LinkId;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
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

/// A happening, its number, and its text once somebody has asked for it: written once, however many listen.
#[derive(Debug)]
pub(crate) struct Published {
    /// Ascending; of samples the number of what happened before them.
    pub(crate) number: u64,
    pub(crate) happening: Happening,
    pub(crate) text: OnceLock<String>,
}

/// From the worker to every listener.
#[derive(Debug)]
pub(crate) struct Bus {
    /// Which process: numbers of another mean nothing here.
    pub(crate) run: u64,
    sender: broadcast::Sender<Arc<Published>>,
    lately: Mutex<Lately>,
}

/// What happened lately, but for samples, for those who come back.
#[derive(Debug, Default)]
struct Lately {
    number: u64,
    kept: VecDeque<Arc<Published>>,
}

impl Bus {
    pub(crate) fn new() -> Self {
        Self {
            run: rand::random(),
            sender: broadcast::Sender::new(BACKLOG),
            lately: Mutex::default(),
        }
    }

    /// Tells all listeners.
    pub(crate) fn publish(&self, happening: Happening) {
        let is_samples = matches!(happening, Happening::Samples { .. });
        // Nobody asks for them later.
        if is_samples && self.sender.receiver_count() == 0 {
            return;
        }
        let mut lately = self.lately.lock().unwrap_or_else(PoisonError::into_inner);
        if !is_samples {
            lately.number += 1;
        }
        let published = Arc::new(Published {
            number: lately.number,
            happening,
            text: OnceLock::new(),
        });
        if !is_samples {
            if lately.kept.len() >= BACKLOG {
                lately.kept.pop_front();
            }
            lately.kept.push_back(Arc::clone(&published));
        }
        // The only error is that nobody listens. Under the lock, so that none is told out of turn.
        self.sender.send(published).ok();
    }

    /// From now on.
    pub(crate) fn listen(&self) -> broadcast::Receiver<Arc<Published>> {
        self.sender.subscribe()
    }

    /// From now on; with what happened since `last`, if that is known: none if it is not.
    pub(crate) fn listen_since(
        &self,
        last: Option<u64>,
    ) -> (
        Option<Vec<Arc<Published>>>,
        broadcast::Receiver<Arc<Published>>,
    ) {
        let lately = self.lately.lock().unwrap_or_else(PoisonError::into_inner);
        let receiver = self.sender.subscribe();
        let Some(last) = last else {
            return (Some(Vec::new()), receiver);
        };
        let oldest = lately.number + 1 - lately.kept.len() as u64;
        let is_known = (oldest..=lately.number + 1).contains(&last.saturating_add(1));
        let since = is_known.then(|| {
            lately
                .kept
                .iter()
                .filter(|one| one.number > last)
                .cloned()
                .collect()
        });
        (since, receiver)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link() -> Happening {
        Happening::Link {
            office: "36.73.02".parse().expect("a code"),
            link: LinkId {
                agent: "a".parse().expect("an id"),
                target: "t".parse().expect("a name"),
            },
        }
    }

    #[test]
    fn who_comes_back_hears_what_happened_meanwhile_or_that_it_is_not_known() {
        let bus = Bus::new();
        assert!(
            bus.listen_since(None)
                .0
                .is_some_and(|since| since.is_empty())
        );
        assert!(
            bus.listen_since(Some(0))
                .0
                .is_some_and(|since| since.is_empty())
        );
        assert!(bus.listen_since(Some(1)).0.is_none(), "it has not happened");
        for _ in 0..BACKLOG + 3 {
            bus.publish(link());
        }
        let since = |last| {
            bus.listen_since(Some(last))
                .0
                .map(|since| since.iter().map(|one| one.number).collect::<Vec<_>>())
        };
        let end = BACKLOG as u64 + 3;
        assert_eq!(since(end), Some(vec![]));
        assert_eq!(since(end - 2), Some(vec![end - 1, end]));
        assert_eq!(since(3).map(|all| all.len()), Some(BACKLOG));
        assert_eq!(since(2), None, "the third is forgotten");
        assert_eq!(since(end + 1), None);
        assert_eq!(since(u64::MAX), None);
    }
}
