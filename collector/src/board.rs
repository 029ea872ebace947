//! What stands now: the state of every office and every open incident, in memory, so that an overview of the nation costs no reading. What happens is looked at
//! within a tenth of a second; what changes by time alone, such as announced work that begins, within a minute.

use crate::access::Regions;
use crate::api::Shared;
use crate::events::Happening;
use crate::query::{IncidentView, OfficeView, Query, ShownState, Wanted};
use denyut_proto::{OfficeCode, UnixMillis};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, sleep_until};
use tracing::error;

/// How long what happens is gathered before it is looked at.
const GATHER: Duration = Duration::from_millis(100);
/// How often all is looked at anew.
const ALL_EVERY: Duration = Duration::from_secs(60);

/// Where an office stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) state: ShownState,
    pub(crate) since_ms: Option<UnixMillis>,
    /// Number of the open incident.
    pub(crate) incident: Option<u64>,
}

impl Standing {
    fn of(view: &OfficeView) -> Self {
        Self {
            state: view.state,
            since_ms: view.since_ms,
            incident: view.incident,
        }
    }
}

/// All that stands.
#[derive(Debug, Default)]
pub(crate) struct Board {
    standings: RwLock<BTreeMap<OfficeCode, Standing>>,
    /// Open incidents by number.
    open: RwLock<BTreeMap<u64, Arc<IncidentView>>>,
}

/// What is to be looked at.
#[derive(Debug, Default)]
struct Due {
    all: bool,
    offices: BTreeSet<OfficeCode>,
    incidents: BTreeSet<u64>,
}

impl Due {
    fn mark(&mut self, happening: &Happening) {
        if matches!(happening, Happening::Samples { .. }) {
            return;
        }
        if let Happening::Incident(incident) = happening {
            self.incidents.insert(incident.number);
        }
        self.offices.extend(happening.office().cloned());
    }

    fn is_empty(&self) -> bool {
        !self.all && self.offices.is_empty() && self.incidents.is_empty()
    }
}

impl Board {
    /// What `look` makes of the offices of some regions, in the order of their codes.
    pub(crate) fn offices<T>(
        &self,
        sees: &Regions,
        mut look: impl FnMut(&OfficeCode, Standing) -> Option<T>,
    ) -> Vec<T> {
        let all = self
            .standings
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let theirs = all.iter().filter(|(code, _)| sees.has(code));
        theirs
            .filter_map(|(code, standing)| look(code, *standing))
            .collect()
    }

    /// How many offices are in each state.
    pub(crate) fn states(&self) -> BTreeMap<ShownState, u64> {
        let mut counts = BTreeMap::new();
        for standing in self
            .standings
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
        {
            *counts.entry(standing.state).or_default() += 1;
        }
        counts
    }

    /// The open incidents, as who looks there sees them, by number.
    pub(crate) fn open(&self, sees: &Regions) -> Vec<Arc<IncidentView>> {
        let all = self.open.read().unwrap_or_else(PoisonError::into_inner);
        let theirs = |one: &Arc<IncidentView>| {
            if sees.is_everywhere() || one.lies_in(sees) {
                return Some(Arc::clone(one));
            }
            let whole = IncidentView::clone(one);
            whole.seen_in(sees).map(Arc::new)
        };
        all.values().filter_map(theirs).collect()
    }

    /// Reads all. Blocks.
    pub(crate) fn fill(&self, query: &Query, now: UnixMillis) -> anyhow::Result<()> {
        let everywhere = Regions::everywhere();
        let mut standings = BTreeMap::new();
        for code in query.registry.offices().keys() {
            if let Some(view) = query.office(code, &everywhere, now)? {
                standings.insert(code.clone(), Standing::of(&view));
            }
        }
        let wanted = Wanted {
            sees: everywhere,
            open: true,
            ..Wanted::default()
        };
        let open = query.incidents(&wanted, None, usize::MAX, now)?;
        let open = open.into_iter();
        let open = open.map(|one| (one.incident.number, Arc::new(short(one))));
        *self
            .standings
            .write()
            .unwrap_or_else(PoisonError::into_inner) = standings;
        *self.open.write().unwrap_or_else(PoisonError::into_inner) = open.collect();
        Ok(())
    }

    fn look(&self, query: &Query, due: &Due, now: UnixMillis) -> anyhow::Result<()> {
        if due.all {
            return self.fill(query, now);
        }
        let everywhere = Regions::everywhere();
        for code in &due.offices {
            let view = query.office(code, &everywhere, now)?;
            let mut standings = self
                .standings
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            match view {
                Some(view) => standings.insert(code.clone(), Standing::of(&view)),
                None => standings.remove(code),
            };
        }
        for number in &due.incidents {
            let view = query.incident(*number, &everywhere, now)?;
            let view = view.filter(|view| view.incident.is_open());
            let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
            match view {
                Some(view) => open.insert(*number, Arc::new(short(view))),
                None => open.remove(number),
            };
        }
        Ok(())
    }
}

/// Without what only the incident's own page shows: of very many open ones little is held.
fn short(mut view: IncidentView) -> IncidentView {
    view.told = Vec::new();
    view.incident.revisions = Vec::new();
    view.incident.facts.troubles = Vec::new();
    view
}

/// Keeps the board of `shared` until it stops.
pub(crate) async fn keep(shared: Arc<Shared>) {
    let mut happenings = shared.bus.listen();
    let mut due = Due {
        all: true,
        ..Due::default()
    };
    let mut all_again = Instant::now() + ALL_EVERY;
    let mut look_at = Instant::now();
    loop {
        let wake = if due.is_empty() { all_again } else { look_at };
        tokio::select! {
            () = shared.stop.cancelled() => return,
            heard = happenings.recv() => {
                if due.is_empty() {
                    look_at = Instant::now() + GATHER;
                }
                match heard {
                    Ok(published) => due.mark(&published.happening),
                    Err(RecvError::Lagged(_)) => due.all = true,
                    Err(RecvError::Closed) => return,
                }
                continue;
            }
            () = sleep_until(wake) => {}
        }
        if due.is_empty() {
            due.all = true;
        }
        if due.all {
            all_again = Instant::now() + ALL_EVERY;
        }
        let what = std::mem::take(&mut due);
        let looking = Arc::clone(&shared);
        let looked = tokio::task::spawn_blocking(move || {
            let now = looking.gate.clock.read().now;
            looking.board.look(&looking.query, &what, now)
        });
        // What is not read now is read with all, within a minute.
        if let Err(error) = looked.await.map_err(anyhow::Error::from).flatten() {
            error!(error = %format!("{error:#}"), "what stands cannot be read");
        }
    }
}
