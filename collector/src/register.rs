//! Offices that people register while the collector runs: by the API, on the page of settings, or from a file. They lie in the state, beside those of the configuration, which nobody
//! changes here.
//!
//! A change holds at once: the worker takes its detector up anew with it, as it does at a start, and agents of an office whose targets changed are told by coming back.

use crate::access::Regions;
use crate::config::{OfficeSection, office_of};
use crate::keys;
use crate::registry::{Office, Registry};
use anyhow::Context;
use denyut_proto::{Invalid, OfficeCode, Target, TargetSpec};
use denyut_store::state::{Change, State, scan_json};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use utoipa::ToSchema;

/// Offices of one change, at most: all villages.
pub(crate) const MOST: usize = 100_000;
/// Values that one change of the state holds.
const AT_ONCE: usize = 400;

/// An office as somebody registers it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Registration {
    /// Official region code.
    #[schema(example = "36.73.02", pattern = r"^\d{2}\.\d{2}\.\d{2}(\.\d{4})?$")]
    pub(crate) code: String,
    #[schema(example = "Cipocok Jaya", min_length = 1, max_length = 100)]
    pub(crate) name: String,
    /// Name of its regency or city.
    #[schema(example = "Kota Serang", max_length = 100)]
    pub(crate) regency: Option<String>,
    #[schema(max_length = 100)]
    pub(crate) isp: Option<String>,
    /// Its ISP's point of presence.
    #[schema(max_length = 100)]
    pub(crate) pop: Option<String>,
    /// The pool of shared equipment that it belongs to.
    #[schema(max_length = 100)]
    pub(crate) pool: Option<String>,
    #[schema(minimum = -90, maximum = 90)]
    pub(crate) latitude: Option<f64>,
    #[schema(minimum = -180, maximum = 180)]
    pub(crate) longitude: Option<f64>,
    /// Opening hours; the usual ones when left out.
    #[schema(example = "Mon-Fri 08:00-16:00")]
    pub(crate) hours: Option<String>,
    /// What its agents probe, beside the common targets of the configuration; one of the same name wins over those.
    #[serde(default)]
    #[schema(value_type = Vec<Object>)]
    pub(crate) targets: Vec<TargetSpec>,
}

impl Registration {
    fn section(&self) -> OfficeSection {
        OfficeSection {
            code: self.code.clone(),
            name: self.name.clone(),
            agents: Vec::new(),
            regency: self.regency.clone(),
            isp: self.isp.clone(),
            pop: self.pop.clone(),
            pool: self.pool.clone(),
            latitude: self.latitude,
            longitude: self.longitude,
            hours: self.hours.clone().filter(|hours| !hours.trim().is_empty()),
            target: self.targets.clone(),
        }
    }
}

impl From<OfficeSection> for Registration {
    fn from(section: OfficeSection) -> Self {
        Self {
            code: section.code,
            name: section.name,
            regency: section.regency,
            isp: section.isp,
            pop: section.pop,
            pool: section.pool,
            latitude: section.latitude,
            longitude: section.longitude,
            hours: section.hours,
            targets: section.target,
        }
    }
}

/// What came of a change.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(crate) struct Registered {
    /// Offices that were not there before.
    pub(crate) added: usize,
    /// Offices that are not as they were.
    pub(crate) changed: usize,
    /// Offices that were so already.
    pub(crate) same: usize,
}

/// Why nothing was changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    #[error("no office {0} is registered here")]
    None(OfficeCode),
    /// It stands in the configuration.
    #[error("office {0} stands in the configuration; change it there, and restart the collector")]
    Fixed(OfficeCode),
    /// It has agents.
    #[error("office {0} has agents ({1}); revoke them first (`denyutctl agent revoke`)")]
    HasAgents(OfficeCode, String),
    /// It lies beyond the regions of whoever asks.
    #[error("office {0} goes beyond your regions")]
    Beyond(OfficeCode),
    #[error(transparent)]
    Invalid(#[from] Invalid),
    #[error(transparent)]
    Failed(#[from] anyhow::Error),
}

/// What is told when offices change: those whose agents must come back, as their targets are others.
type Told = Box<dyn Fn(&BTreeSet<OfficeCode>) + Send + Sync>;

/// Keeps what is registered.
pub(crate) struct Register {
    state: Arc<dyn State>,
    registry: Arc<Registry>,
    /// Those of the configuration.
    fixed: BTreeSet<OfficeCode>,
    /// What every agent probes.
    common: Vec<Target>,
    /// Nobody else changes one meanwhile.
    changing: Mutex<()>,
    told: Told,
}

/// Registers what the state has; what the configuration has, too, is that of the configuration.
pub(crate) fn enter_all(
    registry: &Registry,
    state: &dyn State,
    common: &[Target],
) -> anyhow::Result<()> {
    let mut changed = BTreeMap::new();
    for (key, kept) in scan_json::<Registration>(state, keys::REGISTRATIONS)? {
        let (code, office) = office_of(&kept.section(), &key, common)
            .with_context(|| format!("what is registered as {key}"))?;
        if !registry.has(&code) {
            changed.insert(code, Some(office));
        }
    }
    registry.set(changed);
    Ok(())
}

impl Register {
    pub(crate) fn new(
        state: Arc<dyn State>,
        registry: Arc<Registry>,
        fixed: BTreeSet<OfficeCode>,
        common: Vec<Target>,
        told: Told,
    ) -> Self {
        Self {
            state,
            registry,
            fixed,
            common,
            changing: Mutex::default(),
            told,
        }
    }

    pub(crate) fn is_fixed(&self, code: &OfficeCode) -> bool {
        self.fixed.contains(code)
    }

    /// What is registered in some regions, by code. Blocks, as all methods do.
    pub(crate) fn list(&self, sees: &Regions) -> anyhow::Result<Vec<Registration>> {
        let all = scan_json::<Registration>(&*self.state, keys::REGISTRATIONS)?;
        let all = all.into_iter().map(|(_, one)| one);
        let theirs = |one: &Registration| one.code.parse().is_ok_and(|code| sees.has(&code));
        Ok(all.filter(theirs).collect())
    }

    /// Registers offices, or changes them: all, or none if one is wrong; what stands before each is how whoever wrote them knows its place. Nothing is done in a
    /// `rehearsal`.
    pub(crate) fn put(
        &self,
        offices: &[(String, Registration)],
        sees: &Regions,
        rehearsal: bool,
    ) -> Result<Registered, Refused> {
        if offices.len() > MOST {
            let fix = format!("send at most {MOST}");
            return Err(Invalid::new("offices", offices.len(), "too many", fix).into());
        }
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let known = scan_json::<Registration>(&*self.state, keys::REGISTRATIONS)?;
        let known: BTreeMap<String, String> = known
            .into_iter()
            .map(|(key, one)| Ok((key, serde_json::to_string(&one)?)))
            .collect::<Result<_, serde_json::Error>>()
            .context("what is registered is plain JSON")?;
        let mut made = BTreeMap::new();
        let mut kept = Vec::new();
        let mut registered = Registered::default();
        for (at, one) in offices {
            let (code, office) = office_of(&one.section(), at, &self.common)?;
            if !sees.has(&code) {
                return Err(Refused::Beyond(code));
            }
            if self.fixed.contains(&code) {
                return Err(Refused::Fixed(code));
            }
            let key = keys::registration(&code);
            let text = serde_json::to_string(one).context("it is plain JSON")?;
            match known.get(&key) {
                Some(before) if *before == text => registered.same += 1,
                Some(_) => registered.changed += 1,
                None => registered.added += 1,
            }
            if known.get(&key) != Some(&text) {
                kept.push((key, one));
            }
            if made.insert(code.clone(), Some(office)).is_some() {
                let fix = "name each office once";
                let field = format!("{at}.code");
                return Err(Invalid::new(field, code, "it is there twice", fix).into());
            }
        }
        if rehearsal {
            return Ok(registered);
        }
        for part in kept.chunks(AT_ONCE) {
            let mut change = Change::default();
            for (key, one) in part {
                change.put_json(key.clone(), one)?;
            }
            self.state.apply(change).map_err(anyhow::Error::from)?;
        }
        self.state.sync()?;
        if !kept.is_empty() {
            self.change(made);
        }
        Ok(registered)
    }

    /// Takes an office away; what was measured there stays, and is seen again when it is registered again.
    pub(crate) fn remove(&self, code: &OfficeCode, sees: &Regions) -> Result<(), Refused> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let key = keys::registration(code);
        if !sees.has(code) || (!self.fixed.contains(code) && self.state.get(&key)?.is_none()) {
            return Err(Refused::None(code.clone()));
        }
        if self.fixed.contains(code) {
            return Err(Refused::Fixed(code.clone()));
        }
        let agents = self.registry.agents_of(code);
        if !agents.is_empty() {
            let agents: Vec<String> = agents.iter().map(ToString::to_string).collect();
            return Err(Refused::HasAgents(code.clone(), agents.join(", ")));
        }
        let mut change = Change::default();
        change.delete.push(key);
        self.state.apply(change).map_err(anyhow::Error::from)?;
        self.state.sync()?;
        self.change(BTreeMap::from([(code.clone(), None)]));
        Ok(())
    }

    fn change(&self, made: BTreeMap<OfficeCode, Option<Office>>) {
        let told = |(code, new): (&OfficeCode, &Option<Office>)| {
            let before = self.registry.office(code)?;
            let is_other = new
                .as_ref()
                .is_some_and(|new| new.configuration().revision != before.configuration().revision);
            is_other.then(|| code.clone())
        };
        let others: BTreeSet<OfficeCode> = made.iter().filter_map(told).collect();
        self.registry.set(made);
        (self.told)(&others);
    }
}
