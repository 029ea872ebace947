//! Incidents: stretches of trouble at one office or of one shared cause, each change of them a revision.
//!
//! What is true of an incident, its [`Facts`], is derived anew from what is known ([`crate::office`], [`crate::common`]); [`reconcile`] holds that
//! against what was said before. Numbers never change: what differs becomes a revision with its reason.

use crate::presence::Why;
use crate::settled::Settled;
use denyut_proto::{AgentId, BootId, OfficeCode, Role, TargetName, UnixMillis};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A stretch of trouble at one office, or at the many of one scope.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Incident {
    /// Never changes, never used again.
    pub number: u64,
    /// The office; none for a common cause.
    #[schema(value_type = Option<String>)]
    pub office: Option<OfficeCode>,
    /// What is true of it, as far as is known now.
    #[serde(flatten)]
    pub facts: Facts,
    /// Number of the incident that this one is a relapse of.
    #[serde(default)]
    pub relapse_of: Option<u64>,
    /// Number of the common cause that this incident is part of.
    #[serde(default)]
    pub parent: Option<u64>,
    /// It turned out to be no trouble, or part of another incident: the last revision says which.
    #[serde(default)]
    pub retracted: bool,
    /// When somebody was to be called (arrival time); none if nobody was.
    #[serde(default)]
    #[schema(value_type = Option<i64>)]
    pub paged_ms: Option<UnixMillis>,
    /// Oldest first; the first is `open`.
    pub revisions: Vec<Revision>,
    /// Revisions left out of the middle of the list to bound it.
    pub revisions_omitted: u64,
}

/// What is true of an incident: a function of what is known, however and whenever that came.
#[derive(Debug, Clone, PartialEq, Hash, Serialize, Deserialize, ToSchema)]
pub struct Facts {
    /// Event time at which the first trouble began.
    #[schema(value_type = i64)]
    pub opened_ms: UnixMillis,
    /// Event time at which the last trouble ended; none while open.
    #[schema(value_type = Option<i64>)]
    pub resolved_ms: Option<UnixMillis>,
    /// When it is closed for good, if no trouble comes back before; none while open.
    #[serde(default)]
    #[schema(value_type = Option<i64>)]
    pub probation_until_ms: Option<UnixMillis>,
    /// What is broken.
    pub cause: Cause,
    /// How sure that is, in per cent.
    #[serde(default)]
    pub confidence: u8,
    /// Nothing of the time in question was delivered yet: it may become something else.
    #[serde(default)]
    pub provisional: bool,
    /// Why this cause.
    #[serde(default)]
    pub evidence: Vec<Evidence>,
    /// The troubles, ascending by their beginning; the first and the newest if there are many.
    pub troubles: Vec<Trouble>,
    /// How many there are in all.
    #[serde(default)]
    pub troubles_total: u32,
    /// It came back after a repair.
    #[serde(default)]
    pub relapse: Option<Relapse>,
    /// The common cause's scope; none for an office's incident.
    #[serde(default)]
    pub scope: Option<Box<Scope>>,
}

impl Facts {
    /// The same but for what is only probable.
    fn without_guess(&self) -> Self {
        let mut facts = self.clone();
        let is_guess = |one: &Evidence| matches!(one, Evidence::Likely { .. });
        facts.evidence.retain(|one| !is_guess(one));
        facts
    }

    /// Whether two tell of the same incident: at one office those that overlap; of common causes those that began together.
    fn is_same(&self, other: &Self) -> bool {
        let end = |facts: &Self| facts.resolved_ms.unwrap_or(UnixMillis(i64::MAX));
        match (&self.scope, &other.scope) {
            (Some(one), Some(two)) => {
                let apart = (self.opened_ms.0 - other.opened_ms.0).abs();
                // Of very many only the first are listed.
                let is_cut = |scope: &Scope| {
                    usize::try_from(scope.failed).is_ok_and(|failed| failed > scope.offices.len())
                };
                apart <= 600_000
                    && (is_cut(one)
                        || is_cut(two)
                        || one
                            .offices
                            .iter()
                            .any(|office| two.offices.contains(office)))
            }
            _ => self.opened_ms <= end(other) && other.opened_ms <= end(self),
        }
    }
}

/// What is broken.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The gateway fails while the agent is alive: the office's own network.
    Lan,
    /// The enrollment server fails, gateway and way out do not.
    Server,
    /// The way out fails.
    Uplink,
    /// Only name resolution fails.
    Dns,
    /// Only the central service fails.
    Central,
    /// Only the way to the collector fails.
    Collector,
    /// Server and way out fail, the gateway does not.
    Several,
    /// The machine lost its power.
    Power,
    /// The agent's process or its machine failed, the office did not.
    Agent,
    /// One identity on two machines.
    Clone,
    /// Many offices of one scope fail together.
    Regional,
    /// The agent is silent; nobody can tell yet.
    Unreachable,
    /// A target of no known role fails.
    Unknown,
}

impl Cause {
    /// Every cause.
    pub const ALL: [Self; 13] = [
        Self::Lan,
        Self::Server,
        Self::Uplink,
        Self::Dns,
        Self::Central,
        Self::Collector,
        Self::Several,
        Self::Power,
        Self::Agent,
        Self::Clone,
        Self::Regional,
        Self::Unreachable,
        Self::Unknown,
    ];

    /// The name that API and UI catalogues use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Lan => "lan",
            Self::Server => "server",
            Self::Uplink => "uplink",
            Self::Dns => "dns",
            Self::Central => "central",
            Self::Collector => "collector",
            Self::Several => "several",
            Self::Power => "power",
            Self::Agent => "agent",
            Self::Clone => "clone",
            Self::Regional => "regional",
            Self::Unreachable => "unreachable",
            Self::Unknown => "unknown",
        }
    }

    /// Whether nothing at the office itself was repaired when it ended: no relapse, no roaming.
    pub const fn is_masked(self) -> bool {
        matches!(
            self,
            Self::Power
                | Self::Agent
                | Self::Clone
                | Self::Regional
                | Self::Central
                | Self::Unreachable
        )
    }

    /// Whether it tells why an agent was silent: what a guess can be made of.
    pub const fn explains(self) -> bool {
        matches!(self, Self::Lan | Self::Uplink | Self::Power | Self::Agent)
    }

    /// Whether somebody is called for it.
    pub const fn pages(self) -> bool {
        !matches!(self, Self::Agent | Self::Clone)
    }
}

/// One reason for a cause.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum Evidence {
    /// A target failed.
    Failed {
        /// Seen by this agent.
        #[schema(value_type = String)]
        agent: AgentId,
        /// Its target.
        #[schema(value_type = String)]
        target: TargetName,
        /// What it stands for.
        #[schema(value_type = Option<String>)]
        role: Option<Role>,
        /// How its first probe failed.
        failure: Option<String>,
    },
    /// A target of this role answered all the while.
    Fine {
        /// The role.
        #[schema(value_type = String)]
        role: Role,
    },
    /// The agent said nothing, and why.
    Gap {
        /// The agent.
        #[schema(value_type = String)]
        agent: AgentId,
        /// What the heartbeats before and after say.
        why: Why,
    },
    /// Nothing of the agent has arrived since.
    NothingDelivered {
        /// The agent.
        #[schema(value_type = String)]
        agent: AgentId,
    },
    /// Another agent of the office was there all the while.
    OtherAgent {
        /// That agent.
        #[schema(value_type = String)]
        agent: AgentId,
    },
    /// Two machines spoke as one agent at the same time.
    Clone {
        /// The agent.
        #[schema(value_type = String)]
        agent: AgentId,
        /// Their boots.
        #[schema(value_type = Vec<String>)]
        boots: Vec<BootId>,
    },
    /// So many offices of the scope failed together.
    Together {
        /// How many failed.
        failed: u32,
        /// How many are watched.
        watched: u32,
        /// Between the first and the last.
        within_ms: u64,
    },
    /// Other offices of the same scope failed together with this one: the common cause tells which.
    Shared,
    /// It began outside of opening hours and went on into them.
    AfterOpening,
    /// Nothing is delivered yet, but most of what is like it was this.
    Likely {
        /// What it probably is.
        cause: Cause,
        /// How probably, in per cent.
        percent: u8,
        /// So often the office was silent by it before, around this hour of the day.
        before: u32,
        /// So many offices of the regency have it now.
        neighbours: u32,
    },
}

/// What kind of trouble.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum TroubleKind {
    /// A link is down.
    #[default]
    Down,
    /// An agent is silent, and nobody knows why.
    Silent,
    /// An agent was silent because its machine had no power.
    Power,
    /// An agent was silent because its process or machine failed.
    Process,
    /// Two machines speak as one agent.
    Clone,
}

/// One link that is down, or one agent that is silent.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
pub struct Trouble {
    /// What it is.
    #[serde(default)]
    pub kind: TroubleKind,
    /// Seen by, or whose.
    #[schema(value_type = String)]
    pub agent: AgentId,
    /// The target that fails; none when it is the agent itself.
    #[schema(value_type = Option<String>)]
    pub target: Option<TargetName>,
    /// The role of the target.
    #[schema(value_type = Option<String>)]
    pub role: Option<Role>,
    /// Why the probe failed that told of it (`timeout`, `refused`, `http_status=502`, …).
    pub failure: Option<String>,
    /// Event time.
    #[schema(value_type = i64)]
    pub since_ms: UnixMillis,
    /// Event time; none while it lasts.
    #[schema(value_type = Option<i64>)]
    pub until_ms: Option<UnixMillis>,
}

impl Trouble {
    fn is_same(&self, other: &Self) -> bool {
        self.agent == other.agent && self.target == other.target && self.overlaps(other)
    }

    fn overlaps(&self, other: &Self) -> bool {
        let end = |of: &Self| of.until_ms.unwrap_or(UnixMillis(i64::MAX));
        self.since_ms <= end(other) && other.since_ms <= end(self)
    }
}

/// A repair that did not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
pub struct Relapse {
    /// The first relapse is 1.
    pub count: u32,
    /// When the first incident of the line began (event time).
    #[schema(value_type = i64)]
    pub since_ms: UnixMillis,
    /// When the incident before this one began.
    #[schema(value_type = i64)]
    pub of_ms: UnixMillis,
    /// How long the last repair held.
    pub held_ms: u64,
    /// It is the second or later of an episode: repairs that do not last.
    pub episode: bool,
}

/// The offices that a common cause hit.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
pub struct Scope {
    /// What its offices have in common.
    pub kind: ScopeKind,
    /// Which one: a region code, or a name from the registry; empty for the nation.
    pub code: String,
    /// Offices that are watched in it.
    pub watched: u32,
    /// Those that failed, ascending; the first 100.
    #[schema(value_type = Vec<String>)]
    pub offices: Vec<OfficeCode>,
    /// How many failed.
    pub failed: u32,
}

/// What offices may have in common, from narrow to wide.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum ScopeKind {
    /// A declared pool of shared equipment.
    Pool,
    /// A point of presence of their ISP.
    Pop,
    /// The regency or city.
    Regency,
    /// The ISP.
    Isp,
    /// The province.
    Province,
    /// The country: what is central.
    Nation,
}

impl ScopeKind {
    /// Every kind.
    pub const ALL: [Self; 6] = [
        Self::Pool,
        Self::Pop,
        Self::Regency,
        Self::Isp,
        Self::Province,
        Self::Nation,
    ];

    /// The name that API and UI catalogues use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pool => "pool",
            Self::Pop => "pop",
            Self::Regency => "regency",
            Self::Isp => "isp",
            Self::Province => "province",
            Self::Nation => "nation",
        }
    }
}

/// One change of an incident.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Revision {
    /// From 1.
    pub number: u64,
    /// What it does.
    pub kind: RevisionKind,
    /// Why.
    pub reason: RevisionReason,
    /// The agent that it is about.
    #[schema(value_type = Option<String>)]
    pub agent: Option<AgentId>,
    /// The target that it is about.
    #[schema(value_type = Option<String>)]
    pub target: Option<TargetName>,
    /// The cause from then on, where it was first said or changed.
    #[serde(default)]
    pub cause: Option<Cause>,
    /// When it happened (event time).
    #[schema(value_type = i64)]
    pub at_ms: UnixMillis,
    /// When the collector learned it (arrival time).
    #[schema(value_type = i64)]
    pub recorded_ms: UnixMillis,
}

/// What a revision does to the incident.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RevisionKind {
    /// It begins.
    Open,
    /// Something in it changed.
    Update,
    /// Its cause is another.
    Reclassify,
    /// It was none.
    Retract,
    /// It is over.
    Resolve,
}

/// Why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RevisionReason {
    /// A link went down.
    LinkDown,
    /// A link is up again.
    LinkUp,
    /// The target is probed no more.
    LinkRemoved,
    /// An agent fell silent.
    AgentSilent,
    /// An agent speaks again.
    AgentBack,
    /// The silent agent's own goodbye came late: it was stopped, not cut off.
    AgentClosed,
    /// The agent's machine had no power.
    PowerLost,
    /// The agent's process or machine had failed.
    AgentFailed,
    /// Two machines speak as one agent.
    IdentityCloned,
    /// The trouble came back so soon that the repair had failed.
    RepairFailed,
    /// More evidence names another cause.
    Evidence,
    /// It is part of a common cause, or no more.
    CommonCause,
    /// An office joined the common cause, or left it.
    Members,
    /// What came late tells another story.
    LateData,
    /// It is part of an earlier incident.
    Merged,
    /// Judged again by another version, or by other thresholds.
    Redetected,
}

impl RevisionReason {
    /// The name that API and UI catalogues use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::LinkDown => "link_down",
            Self::LinkUp => "link_up",
            Self::LinkRemoved => "link_removed",
            Self::AgentSilent => "agent_silent",
            Self::AgentBack => "agent_back",
            Self::AgentClosed => "agent_closed",
            Self::PowerLost => "power_lost",
            Self::AgentFailed => "agent_failed",
            Self::IdentityCloned => "identity_cloned",
            Self::RepairFailed => "repair_failed",
            Self::Evidence => "evidence",
            Self::CommonCause => "common_cause",
            Self::Members => "members",
            Self::LateData => "late_data",
            Self::Merged => "merged",
            Self::Redetected => "redetected",
        }
    }
}

impl Incident {
    /// Revisions kept.
    const REVISIONS_MAX: usize = 96;

    /// Whose it is: an office's code, or a scope as `regency 36.73`.
    pub fn subject(&self) -> String {
        match (&self.office, &self.facts.scope) {
            (Some(office), _) => office.to_string(),
            (None, Some(scope)) => format!("{} {}", scope.kind.as_str(), scope.code)
                .trim_end()
                .to_owned(),
            (None, None) => String::new(),
        }
    }

    /// Whether it is open, in event time, as far as is known.
    pub fn is_open(&self) -> bool {
        self.facts.resolved_ms.is_none() && !self.retracted
    }

    fn note(
        &mut self,
        kind: RevisionKind,
        reason: RevisionReason,
        at: UnixMillis,
        recorded: UnixMillis,
    ) -> &mut Revision {
        let number = self.revisions.last().map_or(1, |last| last.number + 1);
        if self.revisions.len() >= Self::REVISIONS_MAX {
            // The opening stays.
            self.revisions.remove(1);
            self.revisions_omitted += 1;
        }
        self.revisions.push(Revision {
            number,
            kind,
            reason,
            agent: None,
            target: None,
            cause: None,
            at_ms: at,
            recorded_ms: recorded,
        });
        self.revisions.last_mut().expect("one was pushed")
    }

    fn note_trouble(
        &mut self,
        kind: RevisionKind,
        reason: RevisionReason,
        trouble: &Trouble,
        at: UnixMillis,
        recorded: UnixMillis,
    ) {
        let revision = self.note(kind, reason, at, recorded);
        revision.agent = Some(trouble.agent.clone());
        revision.target.clone_from(&trouble.target);
    }

    /// Takes the facts as they are now; says what changed. `why` overrides the reason of what is neither a beginning nor an end.
    fn revise(&mut self, facts: Facts, recorded: UnixMillis, why: RevisionReason) -> bool {
        if self.facts == facts {
            return false;
        }
        let before = std::mem::replace(&mut self.facts, facts);
        if before.without_guess() == self.facts.without_guess() {
            // A guess that is a better one now is no news.
            return true;
        }
        let facts = self.facts.clone();
        let first = self.revisions.len() + usize::try_from(self.revisions_omitted).unwrap_or(0);
        let resolves = before.resolved_ms.is_none() && facts.resolved_ms.is_some();
        if before.resolved_ms.is_some() && facts.resolved_ms.is_none() {
            let at = facts
                .troubles
                .last()
                .map_or(facts.opened_ms, |trouble| trouble.since_ms);
            self.note(
                RevisionKind::Update,
                RevisionReason::RepairFailed,
                at,
                recorded,
            );
        }
        self.note_troubles(&before, &facts, recorded, why);
        if let (Some(scope), Some(was)) = (&facts.scope, &before.scope)
            && (scope.offices != was.offices
                || scope.failed != was.failed
                || scope.code != was.code)
        {
            self.note(
                RevisionKind::Update,
                RevisionReason::Members,
                facts.opened_ms,
                recorded,
            );
        }
        if before.cause != facts.cause {
            let reason = if why == RevisionReason::Redetected {
                why
            } else {
                RevisionReason::Evidence
            };
            let revision = self.note(RevisionKind::Reclassify, reason, facts.opened_ms, recorded);
            revision.cause = Some(facts.cause);
        }
        if resolves && let Some(until) = facts.resolved_ms {
            let ends = |revision: &Revision| {
                revision.recorded_ms == recorded
                    && revision.kind == RevisionKind::Update
                    && revision.at_ms == until
            };
            match self.revisions.iter().rposition(ends) {
                Some(place) => self.resolve_last(place),
                None => {
                    self.note(RevisionKind::Resolve, why, until, recorded);
                }
            }
        }
        if first == self.revisions.len() + usize::try_from(self.revisions_omitted).unwrap_or(0) {
            self.note(RevisionKind::Update, why, facts.opened_ms, recorded);
        }
        true
    }

    /// The revision at this place is what resolves it, and so the last of those that were noted together.
    fn resolve_last(&mut self, place: usize) {
        let noted = &mut self.revisions[place..];
        let first = noted[0].number;
        noted[0].kind = RevisionKind::Resolve;
        noted.rotate_left(1);
        for (number, revision) in (first..).zip(noted) {
            revision.number = number;
        }
    }

    /// Notes which troubles began, ended, or were never.
    fn note_troubles(
        &mut self,
        before: &Facts,
        facts: &Facts,
        recorded: UnixMillis,
        why: RevisionReason,
    ) {
        for trouble in &facts.troubles {
            let known = before.troubles.iter().find(|known| known.is_same(trouble));
            match known {
                None => {
                    self.note_trouble(
                        RevisionKind::Update,
                        trouble.kind.begins(),
                        trouble,
                        trouble.since_ms,
                        recorded,
                    );
                }
                Some(known) if known.kind != trouble.kind => {
                    self.note_trouble(
                        RevisionKind::Update,
                        trouble.kind.begins(),
                        trouble,
                        trouble.since_ms,
                        recorded,
                    );
                }
                Some(known) if known.since_ms != trouble.since_ms => {
                    self.note_trouble(
                        RevisionKind::Update,
                        why,
                        trouble,
                        trouble.since_ms,
                        recorded,
                    );
                }
                Some(_) => {}
            }
            if let Some(until) = trouble.until_ms
                && known.is_none_or(|known| known.until_ms.is_none())
            {
                self.note_trouble(
                    RevisionKind::Update,
                    trouble.kind.ends(),
                    trouble,
                    until,
                    recorded,
                );
            }
        }
        let gone = |known: &&Trouble| !facts.troubles.iter().any(|trouble| trouble.is_same(known));
        // Where only the newest are listed, the others are not gone.
        if usize::try_from(facts.troubles_total).is_ok_and(|total| total == facts.troubles.len())
            && let Some(gone) = before.troubles.iter().find(gone)
        {
            self.note_trouble(RevisionKind::Update, why, gone, gone.since_ms, recorded);
        }
    }

    /// Gives back the room that its lists took to grow.
    fn shrink(&mut self) {
        self.revisions.shrink_to_fit();
        self.facts.evidence.shrink_to_fit();
        self.facts.troubles.shrink_to_fit();
    }

    fn retract(&mut self, reason: RevisionReason, recorded: UnixMillis) {
        self.retracted = true;
        self.facts.resolved_ms.get_or_insert(self.facts.opened_ms);
        self.note(
            RevisionKind::Retract,
            reason,
            self.facts.opened_ms,
            recorded,
        );
    }
}

impl TroubleKind {
    fn begins(self) -> RevisionReason {
        match self {
            Self::Down => RevisionReason::LinkDown,
            Self::Silent => RevisionReason::AgentSilent,
            Self::Power => RevisionReason::PowerLost,
            Self::Process => RevisionReason::AgentFailed,
            Self::Clone => RevisionReason::IdentityCloned,
        }
    }

    fn ends(self) -> RevisionReason {
        match self {
            Self::Down => RevisionReason::LinkUp,
            Self::Silent | Self::Power | Self::Process | Self::Clone => RevisionReason::AgentBack,
        }
    }
}

/// What the incidents of one office, or the common causes, should be.
pub struct Reconciling<'a> {
    /// Whose; none for common causes.
    pub office: Option<&'a OfficeCode>,
    /// What is derived, ascending by its beginning.
    pub derived: Vec<Facts>,
    /// Incidents that began before this are not judged again: what they came from is let go.
    pub horizon: UnixMillis,
    /// When (arrival time).
    pub now: UnixMillis,
    /// Why something is neither a beginning nor an end.
    pub why: RevisionReason,
}

/// Makes `known` say what is derived; returns the places in `known` of what changed. New ones are numbered from `last_number` on. Of those that are
/// `settled` nothing is derived: they stay.
pub fn reconcile(
    known: &mut Vec<Incident>,
    settled: &[Settled],
    with: Reconciling<'_>,
    last_number: &mut u64,
) -> Vec<usize> {
    let mut changed = Vec::new();
    let mut matched = vec![false; known.len()];
    for mut facts in with.derived {
        let is_same = |incident: &Incident| !incident.retracted && incident.facts.is_same(&facts);
        let place = (0..matched.len())
            .filter(|i| !matched[*i] && is_same(&known[*i]))
            .min_by_key(|i| known[*i].number);
        if let Some(i) = place {
            matched[i] = true;
            if known[i].facts.opened_ms < with.horizon {
                // Its beginning is out of sight.
                facts.opened_ms = known[i].facts.opened_ms.min(facts.opened_ms);
                facts.troubles_total = facts.troubles_total.max(known[i].facts.troubles_total);
                facts.relapse = known[i].facts.relapse;
            }
            if known[i].revise(facts, with.now, with.why) {
                changed.push(i);
            }
            continue;
        }
        *last_number += 1;
        changed.push(known.len());
        known.push(open(*last_number, with.office, facts, with.now));
    }
    for i in 0..matched.len() {
        if matched[i] || known[i].retracted {
            continue;
        }
        if known[i].facts.opened_ms < with.horizon {
            if known[i].is_open() {
                // Its beginning is out of sight, and nothing of it goes on.
                let end = known[i].facts.opened_ms.max(with.horizon);
                known[i].facts.resolved_ms = Some(end);
                known[i].note(RevisionKind::Resolve, with.why, end, with.now);
                changed.push(i);
            }
            continue;
        }
        // What became one with another goes on there; who was called for it was called for both.
        let paged = known[i].paged_ms;
        let facts = known[i].facts.clone();
        let other = (0..known.len()).find(|other| {
            *other != i && !known[*other].retracted && known[*other].facts.is_same(&facts)
        });
        let mut why = with.why;
        if let Some(other) = other {
            why = RevisionReason::Merged;
            if known[other].paged_ms.is_none() && paged.is_some() {
                known[other].paged_ms = paged;
                changed.push(other);
            }
        }
        known[i].retract(why, with.now);
        changed.push(i);
    }
    changed.sort_unstable();
    changed.dedup();
    // Held for weeks, by the thousand.
    for i in &changed {
        known[*i].shrink();
    }
    // Lineage by number.
    for i in 0..known.len() {
        let of = known[i].facts.relapse.map(|relapse| relapse.of_ms);
        let parent = of.and_then(|of| {
            let is_it =
                |incident: &&Incident| !incident.retracted && incident.facts.opened_ms == of;
            let settled = settled.iter().find(|settled| settled.opened_ms == of);
            let known = known.iter().find(is_it).map(|incident| incident.number);
            known.or(settled.map(|settled| settled.number))
        });
        // One that is out of sight stays what it was.
        if of.is_some() == known[i].relapse_of.is_some()
            && (parent.is_none() || parent == known[i].relapse_of)
        {
            continue;
        }
        known[i].relapse_of = parent;
        if let Err(place) = changed.binary_search(&i) {
            changed.insert(place, i);
        }
    }
    changed
}

fn open(number: u64, office: Option<&OfficeCode>, facts: Facts, now: UnixMillis) -> Incident {
    let mut incident = Incident {
        number,
        office: office.cloned(),
        relapse_of: None,
        parent: None,
        retracted: false,
        paged_ms: None,
        revisions: Vec::new(),
        revisions_omitted: 0,
        facts,
    };
    let facts = incident.facts.clone();
    let mut kind = RevisionKind::Open;
    for trouble in &facts.troubles {
        incident.note_trouble(kind, trouble.kind.begins(), trouble, trouble.since_ms, now);
        kind = RevisionKind::Update;
    }
    if facts.troubles.is_empty() {
        incident.note(kind, RevisionReason::CommonCause, facts.opened_ms, now);
    }
    incident.revisions[0].cause = Some(facts.cause);
    if let Some(until) = facts.resolved_ms {
        let last = facts
            .troubles
            .iter()
            .rev()
            .find(|trouble| trouble.until_ms == Some(until));
        match last {
            Some(last) => {
                incident.note_trouble(RevisionKind::Resolve, last.kind.ends(), last, until, now);
            }
            None => {
                incident.note(
                    RevisionKind::Resolve,
                    RevisionReason::CommonCause,
                    until,
                    now,
                );
            }
        }
    }
    incident
}
