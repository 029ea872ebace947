//! What people and programs ask: read-only views over registry, state and history.

use crate::access::Regions;
use crate::alert::Telling;
use crate::case::{Acknowledgement, Case, Step};
use crate::join::Members;
use crate::keys;
use crate::registry::{Introduction, Registry, Spending};
use denyut_detect::calendar::{Maintenance, Zone};
use denyut_detect::detector::Sight;
use denyut_detect::incident::{Evidence, Scope, ScopeKind};
use denyut_detect::office::Pattern;
use denyut_detect::{Agent, Cause, Incident, Link, Phase, Presence, Status};
use denyut_proto::{AgentId, OfficeCode, Outcome, Role, Sample, TargetName, UnixMillis};
use denyut_store::history::{History, LinkId, Row, Rows, RowsError};
use denyut_store::state::{State, get_json, parse, scan_json};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use utoipa::ToSchema;

/// Answers queries. Methods block.
#[derive(Clone)]
pub(crate) struct Query {
    /// Who has joined; present exactly when agents connect by TLS.
    pub(crate) members: Option<Arc<Members>>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) history: Arc<dyn History>,
    pub(crate) state: Arc<dyn State>,
    /// Announced work.
    pub(crate) maintenance: Vec<Maintenance>,
}

/// What is shown of a link, an agent or an office.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ShownState {
    /// Nothing was ever heard.
    Unknown,
    /// The agent said goodbye; nobody looks, and nothing is wrong by that.
    Closed,
    Up,
    /// Something is wrong, and work on it is announced for now.
    Maintenance,
    /// Failing, not yet for long enough to be down.
    Suspect,
    /// Answering again, not yet for long enough to be up.
    Recovering,
    /// The agent is silent: nobody can tell.
    Unobserved,
    Down,
}

impl ShownState {
    /// Every state.
    pub(crate) const ALL: [Self; 8] = [
        Self::Unknown,
        Self::Closed,
        Self::Up,
        Self::Maintenance,
        Self::Suspect,
        Self::Recovering,
        Self::Unobserved,
        Self::Down,
    ];

    /// The name that API, metrics and UI catalogues use.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Closed => "closed",
            Self::Up => "up",
            Self::Maintenance => "maintenance",
            Self::Suspect => "suspect",
            Self::Recovering => "recovering",
            Self::Unobserved => "unobserved",
            Self::Down => "down",
        }
    }
}

/// One office.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct OfficeView {
    /// Official region code.
    #[schema(value_type = String, example = "36.73.02")]
    pub(crate) code: OfficeCode,
    #[schema(example = "Cipocok Jaya")]
    pub(crate) name: String,
    /// The worst of its links and agents.
    pub(crate) state: ShownState,
    /// Since when (event time): the first of those of its links and agents that are in this state.
    #[schema(value_type = Option<i64>)]
    pub(crate) since_ms: Option<UnixMillis>,
    /// Number of the open incident.
    pub(crate) incident: Option<u64>,
    /// The work that is announced for now, or else the next.
    pub(crate) maintenance: Option<MaintenanceView>,
    /// Name of its regency or city.
    pub(crate) regency: Option<String>,
    /// Its ISP.
    pub(crate) isp: Option<String>,
    /// Latitude and longitude in degrees.
    pub(crate) place: Option<[f64; 2]>,
    /// What goes beyond single incidents: flapping, relapse, roaming, degradation. The present ones and those of the last 35 days.
    pub(crate) patterns: Vec<Pattern>,
    pub(crate) agents: Vec<AgentView>,
    pub(crate) links: Vec<LinkView>,
}

/// Announced work: what fails meanwhile is nobody's incident.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct MaintenanceView {
    #[schema(value_type = i64)]
    pub(crate) from_ms: UnixMillis,
    #[schema(value_type = i64)]
    pub(crate) until_ms: UnixMillis,
    pub(crate) reason: String,
}

/// One agent.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AgentView {
    #[schema(value_type = String, example = "cipocok-jaya-1")]
    pub(crate) agent: AgentId,
    /// `up`, `unobserved` (silent), `maintenance` (silent while work is announced), `closed` or `unknown`.
    pub(crate) state: ShownState,
    #[schema(value_type = Option<i64>)]
    pub(crate) since_ms: Option<UnixMillis>,
    /// Event time of its last heartbeat.
    #[schema(value_type = Option<i64>)]
    pub(crate) last_ms: Option<UnixMillis>,
    /// The default gateway of its machine; `none` when it has none.
    pub(crate) gateway: Option<String>,
    /// Version of the program.
    pub(crate) version: Option<String>,
    /// The newer version that was rolled back, and why, as it said when it last connected.
    pub(crate) failed_update: Option<String>,
    pub(crate) hostname: Option<String>,
    /// Operating system and architecture (`linux x86_64`).
    pub(crate) machine: Option<String>,
    /// When it last connected (the collector's clock).
    #[schema(value_type = Option<i64>)]
    pub(crate) connected_ms: Option<UnixMillis>,
    /// Heartbeats it had lost by then, since its spool was made.
    pub(crate) dropped: Option<u64>,
    /// Its wall clock minus the collector's by then, in ms.
    pub(crate) clock_offset_ms: Option<i64>,
    /// When its certificate is over; none in plaintext, or if an authority elsewhere certifies it.
    #[schema(value_type = Option<i64>)]
    pub(crate) certified_until_ms: Option<UnixMillis>,
    /// What it has spent of its byte budget, as it last said.
    pub(crate) budget: Option<Spending>,
}

/// One link: one target as one agent sees it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct LinkView {
    #[schema(value_type = String)]
    pub(crate) office: OfficeCode,
    #[schema(value_type = String)]
    pub(crate) agent: AgentId,
    #[schema(value_type = String, example = "server")]
    pub(crate) target: String,
    /// `gateway`, `server`, `uplink`, `dns`, `central` or `collector`.
    pub(crate) role: Option<&'static str>,
    #[schema(example = "tcp://10.36.73.2:443")]
    pub(crate) probe: String,
    pub(crate) interval_ms: u64,
    pub(crate) state: ShownState,
    /// Since when it is up or down, unobserved or closed (event time). `maintenance` stands for what is wrong while work is announced.
    #[schema(value_type = Option<i64>)]
    pub(crate) since_ms: Option<UnixMillis>,
    #[schema(value_type = Option<i64>)]
    pub(crate) last_ms: Option<UnixMillis>,
    /// Round-trip time of the last sample, if it was answered.
    pub(crate) last_rtt_us: Option<u32>,
    /// Why the last sample failed, if it did (`timeout`, `http_status=502`, …).
    pub(crate) last_failure: Option<String>,
}

/// One sample.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SampleView {
    /// Event time.
    #[schema(value_type = i64)]
    pub(crate) at_ms: UnixMillis,
    /// Round-trip time, if it was answered.
    pub(crate) rtt_us: Option<u32>,
    /// Why it failed, if it did.
    pub(crate) failure: Option<String>,
}

/// Samples of a link, step by step.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BucketsView {
    /// What they were made of: `day`, `hour` or `minute` rollups, the coarsest that answers exactly, or the samples (`raw`).
    #[schema(example = "hour")]
    pub(crate) level: &'static str,
    pub(crate) buckets: Vec<BucketView>,
}

/// All samples of a stretch of time, in numbers.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BucketView {
    /// Its beginning (event time).
    #[schema(value_type = i64)]
    pub(crate) from_ms: UnixMillis,
    /// Samples that were answered.
    pub(crate) ok: u32,
    /// Samples that failed.
    pub(crate) failed: u32,
    /// Samples that the agent could not take; they say nothing of the link.
    pub(crate) unobserved: u32,
    /// Those that were not answered, by reason.
    #[schema(value_type = std::collections::BTreeMap<String, u32>)]
    pub(crate) reasons: BTreeMap<&'static str, u32>,
    /// Time for which the link was up, in ms. A sample speaks for the time until the next one, or for one usual interval if that is more
    /// than two and a half away.
    pub(crate) up_ms: u64,
    /// Time for which it was down, in ms.
    pub(crate) down_ms: u64,
    /// Time, up to now, for which nobody can tell, in ms.
    pub(crate) unobserved_ms: u64,
    /// RTT of the answered ones.
    pub(crate) rtt_us: Option<RttView>,
}

/// RTTs in µs.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RttView {
    pub(crate) min: u32,
    /// Within 1.6 %.
    pub(crate) median: u32,
    /// 95th percentile, nearest rank, within 1.6 %.
    pub(crate) p95: u32,
    pub(crate) max: u32,
    pub(crate) sum: u64,
}

impl Query {
    /// One office, as who looks there sees it; `None` if it is not registered, or not theirs.
    pub(crate) fn office(
        &self,
        code: &OfficeCode,
        sees: &Regions,
        now: UnixMillis,
    ) -> anyhow::Result<Option<OfficeView>> {
        let Some(office) = self.registry.office(code).filter(|_| sees.has(code)) else {
            return Ok(None);
        };
        let maintenance = self.maintenance(code, now);
        let incident: Option<u64> = get_json(&*self.state, &keys::open(Some(code), 0))?;
        let is_now = maintenance.as_ref().is_some_and(|work| work.from_ms <= now);
        // What had begun before stays what it is.
        let is_worked_on = is_now && incident.is_none();
        let mut agents = Vec::new();
        let mut links = Vec::new();
        for id in self.registry.agents_of(code) {
            let agent: Option<Agent> = keys::get_packed(&*self.state, &keys::agent(&id))?;
            links.extend(self.links_of(code, &id, agent.as_ref(), is_worked_on)?);
            let said: Option<Introduction> = get_json(&*self.state, &keys::introduction(&id))?;
            let member = self.members.as_ref().and_then(|all| all.get(&id));
            agents.push(AgentView::of(
                id,
                agent.as_ref(),
                said.as_ref(),
                member.map(|member| member.certified_until),
                is_worked_on,
            ));
        }
        links.sort_by_key(|link| (link.role_order(), link.target.clone(), link.agent.clone()));
        let agent_states = agents.iter().map(|agent| match agent.state {
            // Present, but what it sees is what counts.
            ShownState::Up => ShownState::Unknown,
            other => other,
        });
        let state = links
            .iter()
            .map(|link| link.state)
            .chain(agent_states)
            .max()
            .unwrap_or(ShownState::Unknown);
        // What is wrong is so since the first of those that put it there; all is well since the last that became so.
        let links_since = links.iter().map(|link| (link.state, link.since_ms));
        let agents_since = agents.iter().map(|agent| (agent.state, agent.since_ms));
        let all = links_since.chain(agents_since);
        let all = all.filter(|(of, _)| *of == state);
        let all = all.filter_map(|(_, since_ms)| since_ms);
        let since_ms = if state <= ShownState::Up {
            all.max()
        } else {
            all.min()
        };
        Ok(Some(OfficeView {
            code: code.clone(),
            name: office.name.clone(),
            state,
            since_ms,
            incident,
            maintenance,
            regency: office.regency.clone(),
            isp: office.site.isp.clone(),
            place: office
                .place
                .map(|(latitude, longitude)| [latitude, longitude]),
            patterns: self.patterns(code, sees)?,
            agents,
            links,
        }))
    }

    /// What goes beyond single incidents at an office. Which other office takes part is for who sees that one.
    pub(crate) fn patterns(
        &self,
        code: &OfficeCode,
        sees: &Regions,
    ) -> anyhow::Result<Vec<Pattern>> {
        let sight = get_json::<Sight>(&*self.state, &keys::office(code))?;
        let mut patterns = sight.map(|sight| sight.patterns).unwrap_or_default();
        for pattern in &mut patterns {
            pattern.with = pattern.with.take().filter(|other| sees.has(other));
        }
        Ok(patterns)
    }

    /// The work that is announced for an office for now, or else the next.
    fn maintenance(&self, code: &OfficeCode, now: UnixMillis) -> Option<MaintenanceView> {
        let zone = Zone::of(code);
        let all = self.maintenance.iter().filter(|work| work.is_of(code));
        let to_come = all.filter_map(|work| Some((work.when.next(now, zone)?, work)));
        // Of several now the one that lasts longest.
        let next =
            to_come.min_by_key(|((from, until), _)| ((*from).max(now), std::cmp::Reverse(*until)));
        let ((from_ms, until_ms), work) = next?;
        Some(MaintenanceView {
            from_ms,
            until_ms,
            reason: work.reason.clone(),
        })
    }

    /// One link, as who looks there sees it; `None` if it is not known.
    pub(crate) fn link(
        &self,
        id: &LinkId,
        sees: &Regions,
        now: UnixMillis,
    ) -> anyhow::Result<Option<LinkView>> {
        let agent: Option<Agent> = keys::get_packed(&*self.state, &keys::agent(&id.agent))?;
        let link: Option<Link> = keys::get_packed(&*self.state, &keys::link(id))?;
        let agent = agent.filter(|agent| sees.has(&agent.office));
        let (Some(agent), Some(link)) = (agent, link.filter(|link| !link.removed)) else {
            return Ok(None);
        };
        let work = self.maintenance(&agent.office, now);
        let incident: Option<u64> = get_json(&*self.state, &keys::open(Some(&agent.office), 0))?;
        let is_worked_on = incident.is_none() && work.is_some_and(|work| work.from_ms <= now);
        Ok(Some(LinkView::of(
            &agent.office,
            id,
            &link,
            &agent,
            is_worked_on,
        )))
    }

    fn links_of(
        &self,
        office: &OfficeCode,
        id: &AgentId,
        agent: Option<&Agent>,
        is_worked_on: bool,
    ) -> anyhow::Result<Vec<LinkView>> {
        let Some(agent) = agent else {
            return Ok(Vec::new());
        };
        let (links, _) = keys::scan_packed::<Link>(&*self.state, &keys::links_of(id))?;
        links
            .into_iter()
            .filter(|(_, link)| !link.removed)
            .map(|(key, link)| {
                let id = keys::parse_link(keys::LINKS, &key)?;
                Ok(LinkView::of(office, &id, &link, agent, is_worked_on))
            })
            .collect()
    }

    /// The newest `most` incidents that are wanted and below a number, newest first.
    pub(crate) fn incidents(
        &self,
        wanted: &Wanted,
        below: Option<u64>,
        most: usize,
        now: UnixMillis,
    ) -> anyhow::Result<Vec<IncidentView>> {
        IncidentView::list(&*self.state, wanted, below, most, now)
    }

    /// One incident, as who looks there sees it.
    pub(crate) fn incident(
        &self,
        number: u64,
        sees: &Regions,
        now: UnixMillis,
    ) -> anyhow::Result<Option<IncidentView>> {
        let found = IncidentView::read(&*self.state, number, now)?;
        Ok(found.and_then(|found| found.seen_in(sees)))
    }

    /// The link's samples, oldest first; at most `most`, and whether there are more.
    pub(crate) fn samples(
        &self,
        link: &LinkId,
        range: Range<UnixMillis>,
        most: usize,
    ) -> anyhow::Result<(Vec<SampleView>, bool)> {
        let mut samples = Vec::new();
        let mut more = false;
        self.history.visit(link, range, &mut |sample| {
            more = samples.len() == most;
            if !more {
                samples.push(SampleView::of(sample));
            }
            !more
        })?;
        Ok((samples, more))
    }

    /// The link's samples in steps of `step_ms`, aligned to multiples of it; `range` is widened to whole steps, and empty steps are
    /// left out.
    pub(crate) fn buckets(
        &self,
        link: &LinkId,
        range: Range<UnixMillis>,
        step_ms: i64,
        now: UnixMillis,
    ) -> Result<BucketsView, RowsError> {
        let Rows { level, rows } = self.history.rows(link, range, step_ms)?;
        let buckets = rows
            .iter()
            .map(|row| BucketView::of(row, step_ms, now))
            .collect();
        Ok(BucketsView {
            level: level.as_str(),
            buckets,
        })
    }
}

/// Which incidents.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    pub(crate) sees: Regions,
    pub(crate) open: bool,
    pub(crate) status: Option<ShownStatus>,
    pub(crate) cause: Option<Cause>,
    /// Also those that turned out to be none.
    pub(crate) retracted: bool,
    pub(crate) office: Option<OfficeCode>,
    pub(crate) parent: Option<u64>,
    /// Those that went on then or later.
    pub(crate) from: Option<UnixMillis>,
    /// Those that had begun before.
    pub(crate) to: Option<UnixMillis>,
}

impl Wanted {
    fn takes(&self, incident: &Incident) -> bool {
        let facts = &incident.facts;
        let ended = facts.resolved_ms.unwrap_or(UnixMillis(i64::MAX));
        (self.office.is_none() || incident.office == self.office)
            && (self.parent.is_none() || incident.parent == self.parent)
            && self.cause.is_none_or(|cause| facts.cause == cause)
            // Resolved in between: no longer open.
            && (!self.open || incident.is_open())
            && self.from.is_none_or(|from| ended >= from)
            && self.to.is_none_or(|to| facts.opened_ms < to)
            && (self.retracted || self.status == Some(ShownStatus::Retracted) || !incident.retracted)
    }
}

/// An incident, where it stands now, and who cares for it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct IncidentView {
    #[serde(flatten)]
    pub(crate) incident: Incident,
    pub(crate) status: ShownStatus,
    /// Who knows of it; none if nobody said so, or that is over.
    pub(crate) acknowledged: Option<Acknowledgement>,
    /// Whose it is.
    pub(crate) assignee: Option<String>,
    /// What people did, oldest first.
    pub(crate) steps: Vec<Step>,
    /// Who was told, oldest first: the newest fifty; of very many that were told together only the first fifty.
    #[serde(default)]
    pub(crate) told: Vec<Telling>,
}

/// Where an incident stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ShownStatus {
    /// It goes on, and nobody said that they know of it.
    Open,
    /// It goes on, and somebody knows of it.
    Acknowledged,
    /// It is over, and may come back.
    Probation,
    /// It is over for good.
    Closed,
    /// It was none.
    Retracted,
}

impl IncidentView {
    pub(crate) fn of(
        state: &dyn State,
        incident: Incident,
        case: Case,
        now: UnixMillis,
    ) -> anyhow::Result<Self> {
        let acknowledged = case.acknowledgement(&incident, now);
        let status = match Status::of(&incident, now) {
            Status::Open if acknowledged.is_some() => ShownStatus::Acknowledged,
            Status::Open => ShownStatus::Open,
            Status::Probation => ShownStatus::Probation,
            Status::Closed => ShownStatus::Closed,
            Status::Retracted => ShownStatus::Retracted,
        };
        Ok(Self {
            status,
            acknowledged,
            assignee: case.assignee().map(str::to_owned),
            steps: case.steps,
            told: Telling::read(state, incident.number)?,
            incident,
        })
    }

    /// The one of this number; none if there is none.
    pub(crate) fn read(
        state: &dyn State,
        number: u64,
        now: UnixMillis,
    ) -> anyhow::Result<Option<Self>> {
        let incident: Option<Incident> = get_json(state, &keys::incident(number))?;
        let of = |incident| Self::of(state, incident, Case::read(state, number)?, now);
        incident.map(of).transpose()
    }

    /// Those that are wanted and below a number, the newest first, at most so many.
    fn list(
        state: &dyn State,
        wanted: &Wanted,
        below: Option<u64>,
        most: usize,
        now: UnixMillis,
    ) -> anyhow::Result<Vec<Self>> {
        let mut incidents = Vec::new();
        let mut take = |incident: Incident| {
            if wanted.takes(&incident) && is_seen(&incident, &wanted.sees) {
                let case = Case::read(state, incident.number)?;
                let view = Self::of(state, incident, case, now)?.seen_in(&wanted.sees);
                let of_status = |view: &Self| wanted.status.is_none_or(|one| view.status == one);
                incidents.extend(view.filter(of_status));
            }
            anyhow::Ok(incidents.len() < most)
        };
        if wanted.open {
            let open = scan_json::<u64>(state, keys::OPEN)?;
            let mut numbers: Vec<u64> = open.into_iter().map(|(_, number)| number).collect();
            numbers.retain(|number| below.is_none_or(|below| *number < below));
            numbers.sort_unstable_by_key(|number| std::cmp::Reverse(*number));
            for number in numbers {
                let incident: Option<Incident> = get_json(state, &keys::incident(number))?;
                if let Some(incident) = incident
                    && !take(incident)?
                {
                    break;
                }
            }
        } else {
            let below = below.map(keys::incident);
            let mut visit = |key: &str, value: &[u8]| take(parse(key, value)?);
            state.visit_back(keys::INCIDENTS, below.as_deref(), &mut visit)?;
        }
        Ok(incidents)
    }

    /// Whether all that it hit lies there.
    pub(crate) fn lies_in(&self, sees: &Regions) -> bool {
        lies_in(&self.incident, sees)
    }

    /// As who looks there sees it; `None` if nothing of it lies there.
    pub(crate) fn seen_in(mut self, sees: &Regions) -> Option<Self> {
        if !self.lies_in(sees) {
            // Who was told elsewhere, and what they wrote, is theirs; that somebody knows of it is not.
            self.told.clear();
            self.steps.clear();
        }
        self.incident = seen_in(self.incident, sees)?;
        Some(self)
    }
}

/// Whether all that an incident hit lies there.
fn lies_in(incident: &Incident, sees: &Regions) -> bool {
    match (&incident.office, &incident.facts.scope) {
        _ if sees.is_everywhere() => true,
        (Some(office), _) => sees.has(office),
        (None, Some(scope)) => {
            !is_cut(scope) && scope.offices.iter().all(|office| sees.has(office))
        }
        (None, None) => false,
    }
}

/// Whether more offices were hit than are listed.
fn is_cut(scope: &Scope) -> bool {
    usize::try_from(scope.failed).is_ok_and(|failed| failed > scope.offices.len())
}

/// Whether something of an incident lies there.
fn is_seen(incident: &Incident, sees: &Regions) -> bool {
    if lies_in(incident, sees) {
        return true;
    }
    let Some(scope) = &incident.facts.scope else {
        return false;
    };
    let is_hit = scope.offices.iter().any(|office| sees.has(office));
    // Which are beyond the list is not known; a region's code tells of it.
    let may_be_hit = is_cut(scope)
        && match scope.kind {
            ScopeKind::Regency | ScopeKind::Province => sees.touch(&scope.code),
            ScopeKind::Nation => true,
            ScopeKind::Pool | ScopeKind::Pop | ScopeKind::Isp => false,
        };
    is_hit || may_be_hit
}

/// An incident as who looks there sees it; `None` if nothing of it lies there. Of a common cause they see that it is, how many it hit, and which of their own.
pub(crate) fn seen_in(mut incident: Incident, sees: &Regions) -> Option<Incident> {
    if lies_in(&incident, sees) {
        return Some(incident);
    }
    if !is_seen(&incident, sees) {
        return None;
    }
    let scope = incident.facts.scope.as_mut()?;
    scope.offices.retain(|office| sees.has(office));
    incident.facts.troubles.clear();
    for revision in &mut incident.revisions {
        revision.agent = None;
        revision.target = None;
    }
    let tells_no_name =
        |one: &Evidence| matches!(one, Evidence::Together { .. } | Evidence::Fine { .. });
    incident.facts.evidence.retain(tells_no_name);
    Some(incident)
}

/// Which links.
#[derive(Debug, Default)]
pub(crate) struct Selector {
    /// A region code or its beginning, in whole parts.
    pub(crate) region: Option<String>,
    pub(crate) agent: Option<AgentId>,
    pub(crate) target: Option<TargetName>,
    pub(crate) role: Option<Role>,
}

impl Selector {
    pub(crate) fn has_office(&self, office: &OfficeCode) -> bool {
        self.region
            .as_deref()
            .is_none_or(|region| denyut_detect::calendar::in_region(office, region))
    }
}

impl Query {
    /// Every link that an office has or had, with what it stands for.
    pub(crate) fn links(&self, office: &OfficeCode) -> anyhow::Result<Vec<(LinkId, Option<Role>)>> {
        let mut links = Vec::new();
        for id in self.registry.agents_of(office) {
            let (known, _) = keys::scan_packed::<Link>(&*self.state, &keys::links_of(&id))?;
            for (key, link) in known {
                links.push((keys::parse_link(keys::LINKS, &key)?, link.role));
            }
        }
        Ok(links)
    }

    /// The links of an office that are asked for.
    pub(crate) fn select(
        &self,
        selector: &Selector,
        office: &OfficeCode,
    ) -> anyhow::Result<Vec<LinkId>> {
        let mut links = self.links(office)?;
        links.retain(|(id, role)| {
            let fits = |wanted: Option<bool>| wanted.unwrap_or(true);
            fits(selector.agent.as_ref().map(|agent| *agent == id.agent))
                && fits(selector.target.as_ref().map(|target| *target == id.target))
                && fits(selector.role.map(|wanted| *role == Some(wanted)))
        });
        Ok(links.into_iter().map(|(id, _)| id).collect())
    }
}

impl AgentView {
    fn of(
        id: AgentId,
        agent: Option<&Agent>,
        said: Option<&Introduction>,
        certified_until_ms: Option<UnixMillis>,
        is_worked_on: bool,
    ) -> Self {
        let state = agent.map_or(ShownState::Unknown, |agent| match agent.presence {
            Presence::Present => ShownState::Up,
            Presence::Silent if is_worked_on => ShownState::Maintenance,
            Presence::Silent => ShownState::Unobserved,
            Presence::Closed => ShownState::Closed,
        });
        Self {
            agent: id,
            state,
            since_ms: agent.map(|agent| agent.since),
            last_ms: agent.map(|agent| agent.last_at),
            gateway: agent.and_then(|agent| agent.gateway.clone()),
            version: said.map(|said| said.version.clone()),
            failed_update: said.and_then(|said| said.failed_update.clone()),
            hostname: said.map(|said| said.hostname.clone()),
            machine: said.map(|said| format!("{} {}", said.os, said.arch)),
            connected_ms: said.map(|said| said.at),
            dropped: said.map(|said| said.dropped),
            clock_offset_ms: said.map(|said| said.clock_offset_ms),
            certified_until_ms,
            budget: said.and_then(|said| said.spending),
        }
    }
}

impl LinkView {
    fn of(
        office: &OfficeCode,
        id: &LinkId,
        link: &Link,
        agent: &Agent,
        is_worked_on: bool,
    ) -> Self {
        let since = link.fold.phase_since();
        let (state, since_ms) = match (agent.presence, link.fold.phase) {
            (Presence::Silent, _) => (ShownState::Unobserved, Some(agent.since)),
            (Presence::Closed, _) => (ShownState::Closed, Some(agent.since)),
            (Presence::Present, Phase::Unknown) => (ShownState::Unknown, None),
            (Presence::Present, Phase::Up) => (ShownState::Up, since),
            (Presence::Present, Phase::Suspect) => (ShownState::Suspect, since),
            (Presence::Present, Phase::Recovering) => (ShownState::Recovering, since),
            (Presence::Present, Phase::Down) => (ShownState::Down, since),
        };
        let state = if is_worked_on && state > ShownState::Maintenance {
            ShownState::Maintenance
        } else {
            state
        };
        Self {
            office: office.clone(),
            agent: id.agent.clone(),
            target: id.target.to_string(),
            role: link.role.map(denyut_proto::Role::as_str),
            probe: link.probe.clone(),
            interval_ms: link.interval_ms,
            state,
            since_ms,
            last_ms: link.fold.last_at,
            last_rtt_us: link.fold.last_rtt_us,
            last_failure: link.fold.failure().map(|failure| failure.to_string()),
        }
    }

    /// The order of the path to the outside.
    fn role_order(&self) -> usize {
        let roles = denyut_proto::Role::ALL;
        roles
            .iter()
            .position(|role| Some(role.as_str()) == self.role)
            .unwrap_or(roles.len())
    }
}

impl SampleView {
    pub(crate) fn of(sample: Sample) -> Self {
        let (rtt_us, failure) = match sample.outcome {
            Outcome::Ok { rtt_us } => (Some(rtt_us), None),
            Outcome::Failed(failure) => (None, Some(failure.to_string())),
        };
        Self {
            at_ms: sample.at,
            rtt_us,
            failure,
        }
    }
}

impl BucketView {
    pub(crate) fn of(row: &Row, step_ms: i64, now: UnixMillis) -> Self {
        let unobserved = row
            .failed
            .iter()
            .filter(|(reason, _)| reason.is_local())
            .map(|(_, count)| count)
            .sum();
        let past = (now.0 - row.start.0).clamp(0, step_ms).unsigned_abs();
        Self {
            from_ms: row.start,
            ok: row.ok,
            failed: row.failed.values().sum::<u32>() - unobserved,
            unobserved,
            reasons: row
                .failed
                .iter()
                .map(|(reason, count)| (reason.as_str(), *count))
                .collect(),
            up_ms: row.up_ms,
            down_ms: row.down_ms,
            unobserved_ms: past.saturating_sub(row.up_ms + row.down_ms),
            rtt_us: row.rtt.as_ref().map(|rtt| RttView {
                min: rtt.min,
                median: rtt.quantile(0.5),
                p95: rtt.quantile(0.95),
                max: rtt.max,
                sum: rtt.sum,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use denyut_proto::{Reason, TargetSamples};
    use denyut_store::Store;

    #[test]
    fn buckets_are_aligned_and_exact() {
        let dir = tempfile::tempdir().expect("tempdir");
        let store = Store::open(dir.path(), UnixMillis(0)).expect("opens");
        let history = store.history;
        let link = LinkId {
            agent: "a".parse().expect("an id"),
            target: "t".parse().expect("a name"),
        };
        // RTT 1..=20 µs in the first bucket (one per 50 ms), one timeout and one local failure in the third.
        let mut samples: Vec<Sample> = (1..=20u32)
            .map(|i| Sample {
                at: UnixMillis(1_000 + i64::from(i) * 49),
                outcome: Outcome::Ok { rtt_us: 21 - i },
            })
            .collect();
        for (at, reason) in [(3_000, Reason::Timeout), (3_999, Reason::NotPermitted)] {
            samples.push(Sample {
                at: UnixMillis(at),
                outcome: Outcome::Failed(reason.into()),
            });
        }
        let heartbeat = [TargetSamples {
            target: link.target.clone(),
            samples,
        }];
        history.append(1, &link.agent, &heartbeat).expect("appends");
        let query = Query {
            members: None,
            registry: Arc::default(),
            history,
            state: store.state,
            maintenance: Vec::new(),
        };
        let buckets = query
            .buckets(
                &link,
                UnixMillis(0)..UnixMillis(9_000),
                1_000,
                UnixMillis(3_999),
            )
            .expect("reads");
        assert_eq!(
            serde_json::to_value(&buckets).expect("JSON"),
            serde_json::json!({"level": "raw", "buckets": [
                {"from_ms": 1000, "ok": 20, "failed": 0, "unobserved": 0, "reasons": {}, "up_ms": 951, "down_ms": 0, "unobserved_ms": 49,
                    "rtt_us": {"min": 1, "median": 10, "p95": 19, "max": 20, "sum": 210}},
                // The last answer speaks for one usual interval.
                {"from_ms": 2000, "ok": 0, "failed": 0, "unobserved": 0, "reasons": {}, "up_ms": 29, "down_ms": 0, "unobserved_ms": 971, "rtt_us": null},
                {"from_ms": 3000, "ok": 0, "failed": 1, "unobserved": 1, "reasons": {"timeout": 1, "not_permitted": 1}, "up_ms": 0, "down_ms": 49,
                    "unobserved_ms": 950, "rtt_us": null},
            ]})
        );
        let (some, more) = query
            .samples(&link, UnixMillis(0)..UnixMillis(9_000), 21)
            .expect("reads");
        assert_eq!((some.len(), more), (21, true));
        let (all, more) = query
            .samples(&link, UnixMillis(0)..UnixMillis(9_000), 22)
            .expect("reads");
        assert_eq!((all.len(), more), (22, false));
    }

    /// A common cause that hit two provinces, with all that names an office, an agent or a person in it.
    fn common(listed: &[&str], failed: u32, kind: &str, code: &str) -> Incident {
        serde_json::from_value(serde_json::json!({
            "number": 7, "office": null, "opened_ms": 0, "resolved_ms": null, "cause": "regional", "confidence": 90,
            "evidence": [{"what": "together", "failed": failed, "watched": 40, "within_ms": 5000}, {"what": "gap", "agent": "agen-jakarta", "why": "power"}],
            "troubles": [{"kind": "down", "agent": "agen-jakarta", "target": "server-jakarta", "role": null, "failure": "timeout", "since_ms": 0, "until_ms": null}],
            "scope": {"kind": kind, "code": code, "watched": 40, "offices": listed, "failed": failed},
            "revisions": [{"number": 1, "kind": "open", "reason": "members", "agent": "agen-jakarta", "target": "server-jakarta", "at_ms": 0, "recorded_ms": 0}],
            "revisions_omitted": 0
        }))
        .expect("an incident")
    }

    #[test]
    fn of_a_common_cause_each_region_sees_its_own_offices() {
        let sees = |region: &str| Regions::one(region.to_owned());
        let both = || common(&["31.71.01", "36.73.02"], 2, "isp", "telkom");
        let banten = seen_in(both(), &sees("36")).expect("it hit an office there");
        let text = serde_json::to_string(&banten).expect("JSON");
        assert!(
            !text.contains("jakarta") && !text.contains("31.71"),
            "{text}"
        );
        let scope = banten.facts.scope.as_ref().expect("its scope");
        assert_eq!(
            (
                scope.failed,
                scope.offices.len(),
                banten.facts.evidence.len()
            ),
            (2, 1, 1)
        );
        assert!(
            !lies_in(&banten, &sees("36")),
            "who may not act on all of it still may not"
        );
        assert!(seen_in(both(), &sees("32")).is_none());
        assert_eq!(seen_in(both(), &Regions::everywhere()), Some(both()));
        // Of more than are listed the code tells whether some were hit.
        let cut = |kind, code| common(&["31.71.01"], 300, kind, code);
        for (kind, code, region, is_seen) in [
            ("province", "36", "36.73", true),
            ("regency", "36.73", "36.72", false),
            ("regency", "36.73", "36", true),
            ("nation", "", "91", true),
            ("isp", "telkom", "36", false),
        ] {
            assert_eq!(
                seen_in(cut(kind, code), &sees(region)).is_some(),
                is_seen,
                "{kind} {code} {region}"
            );
        }
        assert!(
            !lies_in(&cut("province", "31"), &sees("31")),
            "nobody knows which the others are"
        );
    }
}
