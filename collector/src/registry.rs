//! Who may speak, and for which office.

use denyut_detect::Site;
use denyut_detect::calendar::Hours;
use denyut_proto::{AgentId, Invalid, OfficeCode, Target, UnixMillis, wire};
use prost::Message;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use utoipa::ToSchema;

/// Offices by code.
pub(crate) type Offices = BTreeMap<OfficeCode, Arc<Office>>;

/// All offices, and the agents that may speak for them.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    offices: RwLock<Arc<Offices>>,
    roster: RwLock<Roster>,
}

/// Agents and offices, both ways.
#[derive(Debug, Default)]
struct Roster {
    offices: BTreeMap<AgentId, OfficeCode>,
    agents: BTreeMap<OfficeCode, BTreeSet<AgentId>>,
}

/// One site that hosts agents.
#[derive(Debug, Clone, Default)]
pub(crate) struct Office {
    pub(crate) name: String,
    /// Name of its regency or city.
    pub(crate) regency: Option<String>,
    /// What the detector needs to know of it.
    pub(crate) site: Site,
    /// Latitude and longitude in degrees.
    pub(crate) place: Option<(f64, f64)>,
    /// What its agents are told to probe, beside the targets of their own files.
    pub(crate) targets: Vec<Target>,
}

impl Office {
    /// What its agents are told. The revision is a checksum of the targets, never 0: it changes exactly when they do.
    pub(crate) fn configuration(&self) -> wire::Configuration {
        let mut configuration = wire::Configuration {
            revision: 0,
            targets: self.targets.iter().map(Into::into).collect(),
        };
        let mut hash = std::hash::DefaultHasher::new();
        std::hash::Hasher::write(&mut hash, &configuration.encode_to_vec());
        configuration.revision = std::hash::Hasher::finish(&hash).max(1);
        configuration
    }
}

impl Registry {
    /// All offices as they are now.
    pub(crate) fn offices(&self) -> Arc<Offices> {
        let offices = self.offices.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&offices)
    }

    /// One office.
    pub(crate) fn office(&self, code: &OfficeCode) -> Option<Arc<Office>> {
        let offices = self.offices.read().unwrap_or_else(PoisonError::into_inner);
        offices.get(code).cloned()
    }

    /// Whether there is such an office.
    pub(crate) fn has(&self, code: &OfficeCode) -> bool {
        let offices = self.offices.read().unwrap_or_else(PoisonError::into_inner);
        offices.contains_key(code)
    }

    /// From now on these are the offices, beside those that are not named; none of a code takes it away.
    pub(crate) fn set(&self, changed: BTreeMap<OfficeCode, Option<Office>>) {
        let mut offices = self.offices.write().unwrap_or_else(PoisonError::into_inner);
        let offices = Arc::make_mut(&mut offices);
        for (code, office) in changed {
            match office {
                Some(office) => offices.insert(code, Arc::new(office)),
                None => offices.remove(&code),
            };
        }
    }

    /// What the detector needs to know of all of them.
    pub(crate) fn sites(&self) -> BTreeMap<OfficeCode, Site> {
        let offices = self.offices();
        let sites = offices.iter();
        sites
            .map(|(code, office)| (code.clone(), office.site.clone()))
            .collect()
    }

    /// From now on this agent speaks for this office; an error, and the office, if it does for one already.
    pub(crate) fn enter(&self, agent: &AgentId, office: &OfficeCode) -> Result<(), OfficeCode> {
        let mut roster = self.roster.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(other) = roster.offices.get(agent) {
            return Err(other.clone());
        }
        roster.offices.insert(agent.clone(), office.clone());
        let of_office = roster.agents.entry(office.clone()).or_default();
        of_office.insert(agent.clone());
        Ok(())
    }

    /// This agent speaks for nobody any more.
    pub(crate) fn leave(&self, agent: &AgentId) {
        let mut roster = self.roster.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(office) = roster.offices.remove(agent)
            && let Some(of_office) = roster.agents.get_mut(&office)
        {
            of_office.remove(agent);
        }
    }

    /// The office that an agent speaks for.
    pub(crate) fn office_of(&self, agent: &AgentId) -> Option<(OfficeCode, Arc<Office>)> {
        let code = self.read().offices.get(agent).cloned()?;
        let office = self.office(&code)?;
        Some((code, office))
    }

    /// The opening hours of an office: its own, or else these.
    pub(crate) fn hours_of(&self, code: &OfficeCode, usual: &Arc<Hours>) -> Arc<Hours> {
        let own = self.office(code).and_then(|own| own.site.hours.clone());
        own.unwrap_or_else(|| Arc::clone(usual))
    }

    /// The agents of an office, ascending.
    pub(crate) fn agents_of(&self, office: &OfficeCode) -> Vec<AgentId> {
        let roster = self.read();
        let agents = roster.agents.get(office).into_iter().flatten();
        agents.cloned().collect()
    }

    /// All agents.
    pub(crate) fn agents(&self) -> BTreeSet<AgentId> {
        self.read().offices.keys().cloned().collect()
    }

    fn read(&self) -> RwLockReadGuard<'_, Roster> {
        self.roster.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What an agent said of itself when it last connected. For people; nothing is decided by it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Introduction {
    /// When the collector heard it.
    pub(crate) at: UnixMillis,
    pub(crate) version: String,
    pub(crate) hostname: String,
    pub(crate) os: String,
    pub(crate) arch: String,
    /// Heartbeats that waited in its spool.
    pub(crate) waiting: u64,
    /// Heartbeats it had lost since its spool was made.
    pub(crate) dropped: u64,
    /// Its wall clock minus the collector's, in ms (off by the time the message travelled).
    pub(crate) clock_offset_ms: i64,
    /// The newer version of its program that was rolled back, and why.
    #[serde(default)]
    pub(crate) failed_update: Option<String>,
    /// What it has spent of its byte budget.
    #[serde(default)]
    pub(crate) spending: Option<Spending>,
}

/// Bytes of an agent's connections, as the network carried them, both ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Spending {
    /// In the 24 hours before it last said so.
    pub(crate) spent: u64,
    /// What it may spend in 24 hours; 0 for no limit.
    pub(crate) budget: u64,
}

impl From<wire::Spending> for Spending {
    fn from(wire: wire::Spending) -> Self {
        Self {
            spent: wire.spent,
            budget: wire.budget,
        }
    }
}

impl Introduction {
    /// Bytes of each text.
    const TEXT_MAX: usize = 255;

    pub(crate) fn of(
        hello: &wire::Hello,
        spending: Option<wire::Spending>,
        at: UnixMillis,
    ) -> Result<Self, Invalid> {
        let machine = hello.machine.clone().unwrap_or_default();
        let spool = hello.spool.unwrap_or_default();
        for (field, text) in [
            ("version", &hello.version),
            ("machine.hostname", &machine.hostname),
            ("machine.os", &machine.os),
            ("machine.arch", &machine.arch),
            ("failed_update", &hello.failed_update),
        ] {
            if text.len() > Self::TEXT_MAX {
                let fix = format!("send at most {} bytes", Self::TEXT_MAX);
                return Err(Invalid::new(field, text, "too long", fix));
            }
        }
        Ok(Self {
            at,
            version: hello.version.clone(),
            hostname: machine.hostname,
            os: machine.os,
            arch: machine.arch,
            waiting: spool
                .next
                .saturating_sub(spool.first.max(spool.acked.saturating_add(1))),
            dropped: spool.dropped,
            clock_offset_ms: hello.wall_ms.saturating_sub(at.0),
            failed_update: Some(hello.failed_update.clone()).filter(|text| !text.is_empty()),
            spending: spending.map(Into::into),
        })
    }
}
