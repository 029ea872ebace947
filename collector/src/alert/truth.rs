//! What is true of an incident now, as far as anybody is told.

use super::Alerts;
use super::group::Told;
use super::route::About;
use crate::case::Case;
use crate::keys;
use crate::registry::Registry;
use denyut_detect::detector::Sight;
use denyut_detect::{Incident, PatternKind};
use denyut_proto::UnixMillis;
use denyut_store::state::{State, get_json};

/// Characters of why somebody cares for it, at most.
const WHY_MAX: usize = 120;

/// An incident, and who cares for it.
pub(super) struct Truth {
    pub(super) incident: Incident,
    pub(super) about: About,
    pub(super) told: Told,
    /// Who knows of it, and why nobody else need be called.
    pub(super) by: Option<String>,
    /// When somebody who knows of it does so no more.
    pub(super) until: Option<UnixMillis>,
    /// Since when nobody has cared for it, or from when on nobody will.
    pub(super) unattended: Option<UnixMillis>,
}

impl Truth {
    /// That of the incident of this number. Blocks.
    pub(super) fn read(
        state: &dyn State,
        alerts: &Alerts,
        registry: &Registry,
        number: u64,
        now: UnixMillis,
    ) -> anyhow::Result<Option<Self>> {
        let incident: Option<Incident> = get_json(state, &keys::incident(number))?;
        let Some(incident) = incident else {
            return Ok(None);
        };
        let case = Case::read(state, number)?;
        // Who knew of it before it called again knows of less than there is now.
        let known = case.acknowledgement(&incident, now);
        let known = known.filter(|known| incident.paged_ms.is_none_or(|at| known.at_ms >= at));
        let told = Told::of(&incident, known.as_ref().map(|known| known.at_ms));
        let patterns = patterns(state, alerts, &incident)?;
        Ok(Some(Self {
            about: About::of(&incident, registry, patterns),
            unattended: case.unattended(&incident),
            told,
            until: known.as_ref().map(|known| known.until_ms),
            by: known.map(|known| match known.why {
                Some(why) => format!("{} ({})", known.by, short(&why)),
                None => known.by,
            }),
            incident,
        }))
    }
}

/// The beginning of what somebody wrote, in a line.
fn short(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(WHY_MAX) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

/// The patterns of an incident's office, as far as a route asks.
fn patterns(
    state: &dyn State,
    alerts: &Alerts,
    incident: &Incident,
) -> anyhow::Result<Vec<PatternKind>> {
    let is_asked = alerts.routes.iter().any(|route| !route.patterns.is_empty());
    let (Some(office), true) = (&incident.office, is_asked) else {
        return Ok(Vec::new());
    };
    let sight: Option<Sight> = get_json(state, &keys::office(office))?;
    let patterns = sight.map(|sight| sight.patterns).unwrap_or_default();
    let standing = patterns.iter().filter(|one| one.until_ms.is_none());
    Ok(standing.map(|one| one.kind).collect())
}
