//! Incidents: stretches of trouble at one office, each change of them a revision. Pure.
//!
//! An office has at most one open incident. The first link that goes down, or the first agent that falls silent,
//! opens it; what follows while it is open belongs to it; it is resolved when no trouble of it is left.

use crate::detect::{Finding, Phase, Presence};
use denyut_proto::{AgentId, OfficeCode, Role, TargetName, UnixMillis};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// A stretch of trouble at one office.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Incident {
    /// Never changes, never used again.
    pub(crate) number: u64,
    #[schema(value_type = String)]
    pub(crate) office: OfficeCode,
    /// Event time at which the first trouble began.
    #[schema(value_type = i64)]
    pub(crate) opened_ms: UnixMillis,
    /// Event time at which the last trouble ended; none while open.
    #[schema(value_type = Option<i64>)]
    pub(crate) resolved_ms: Option<UnixMillis>,
    pub(crate) cause: Cause,
    pub(crate) troubles: Vec<Trouble>,
    /// Oldest first; the first is `open`.
    pub(crate) revisions: Vec<Revision>,
    /// Revisions left out of the middle of the list to bound it.
    pub(crate) revisions_omitted: u64,
}

/// What seems to be broken, by which targets fail and which do not. Provisional: more evidence may change it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Cause {
    /// The gateway fails: the office's own network.
    Lan,
    /// The server fails, the way out does not.
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
    /// The agent is silent; nobody can tell yet.
    Unreachable,
    /// A target of no known role fails.
    Unknown,
}

/// One link that is down, or one agent that is silent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Trouble {
    #[schema(value_type = String)]
    pub(crate) agent: AgentId,
    /// The link's target; none: the agent itself is silent.
    #[schema(value_type = Option<String>)]
    pub(crate) target: Option<TargetName>,
    #[schema(value_type = Option<String>)]
    pub(crate) role: Option<Role>,
    /// Why the probe failed that told of it (`timeout`, `refused`, `http_status=502`, …).
    pub(crate) failure: Option<String>,
    #[schema(value_type = i64)]
    pub(crate) since_ms: UnixMillis,
    #[schema(value_type = Option<i64>)]
    pub(crate) until_ms: Option<UnixMillis>,
}

/// One change of an incident.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Revision {
    /// From 1.
    pub(crate) number: u64,
    pub(crate) kind: RevisionKind,
    pub(crate) reason: RevisionReason,
    #[schema(value_type = String)]
    pub(crate) agent: AgentId,
    #[schema(value_type = Option<String>)]
    pub(crate) target: Option<TargetName>,
    /// When it happened (event time).
    #[schema(value_type = i64)]
    pub(crate) at_ms: UnixMillis,
    /// When the collector learned it (arrival time).
    #[schema(value_type = i64)]
    pub(crate) recorded_ms: UnixMillis,
}

/// What a revision does to the incident.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RevisionKind {
    Open,
    Update,
    Resolve,
}

/// Why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RevisionReason {
    LinkDown,
    LinkUp,
    /// The target is probed no more.
    LinkRemoved,
    AgentSilent,
    AgentBack,
    /// The silent agent's own goodbye came late: it was stopped, not cut off.
    AgentClosed,
}

/// All open incidents, and the next number.
#[derive(Debug, Default)]
pub(crate) struct Incidents {
    open: BTreeMap<OfficeCode, Incident>,
    last_number: u64,
}

/// What a finding means for an incident.
struct Turn<'a> {
    office: &'a OfficeCode,
    agent: &'a AgentId,
    target: Option<&'a TargetName>,
    role: Option<Role>,
    failure: Option<String>,
    at: UnixMillis,
    reason: RevisionReason,
    begins: bool,
}

impl Incidents {
    /// From what was kept: the open incidents and the highest number ever given.
    pub(crate) fn restore(open: Vec<Incident>, last_number: u64) -> Self {
        Self {
            open: open
                .into_iter()
                .map(|incident| (incident.office.clone(), incident))
                .collect(),
            last_number,
        }
    }

    /// The highest number given so far.
    pub(crate) fn last_number(&self) -> u64 {
        self.last_number
    }

    /// How many are open.
    pub(crate) fn open_count(&self) -> usize {
        self.open.len()
    }

    /// Takes a finding in; returns the incident as it is after it, if it changed one.
    pub(crate) fn apply(&mut self, finding: &Finding, recorded: UnixMillis) -> Option<Incident> {
        let turn = Turn::of(finding)?;
        if turn.begins {
            Some(self.begin(&turn, recorded))
        } else {
            self.end(&turn, recorded)
        }
    }

    fn begin(&mut self, turn: &Turn<'_>, recorded: UnixMillis) -> Incident {
        let trouble = Trouble {
            agent: turn.agent.clone(),
            target: turn.target.cloned(),
            role: turn.role,
            failure: turn.failure.clone(),
            since_ms: turn.at,
            until_ms: None,
        };
        let kind = if self.open.contains_key(turn.office) {
            RevisionKind::Update
        } else {
            self.last_number += 1;
            RevisionKind::Open
        };
        let incident = self
            .open
            .entry(turn.office.clone())
            .or_insert_with(|| Incident {
                number: self.last_number,
                office: turn.office.clone(),
                opened_ms: turn.at,
                resolved_ms: None,
                cause: Cause::Unknown,
                troubles: Vec::new(),
                revisions: Vec::new(),
                revisions_omitted: 0,
            });
        incident.opened_ms = incident.opened_ms.min(turn.at);
        incident.add_trouble(trouble);
        incident.judge();
        incident.revise(kind, turn, recorded);
        incident.clone()
    }

    fn end(&mut self, turn: &Turn<'_>, recorded: UnixMillis) -> Option<Incident> {
        let incident = self.open.get_mut(turn.office)?;
        let trouble = incident.troubles.iter_mut().find(|trouble| {
            trouble.until_ms.is_none()
                && trouble.agent == *turn.agent
                && trouble.target.as_ref() == turn.target
        })?;
        trouble.until_ms = Some(turn.at.max(trouble.since_ms));
        if incident
            .troubles
            .iter()
            .any(|trouble| trouble.until_ms.is_none())
        {
            incident.revise(RevisionKind::Update, turn, recorded);
            return Some(incident.clone());
        }
        incident.resolved_ms = incident.troubles.iter().filter_map(|t| t.until_ms).max();
        incident.revise(RevisionKind::Resolve, turn, recorded);
        self.open.remove(turn.office)
    }
}

impl<'a> Turn<'a> {
    fn of(finding: &'a Finding) -> Option<Self> {
        match finding {
            Finding::Link {
                office,
                link,
                role,
                from,
                to,
                at,
                failure,
            } => {
                let begins = match (from, to) {
                    // Back from a recovery that did not hold: the trouble is still open.
                    (Phase::Recovering, Phase::Down) => return None,
                    (_, Phase::Down) => true,
                    (Phase::Recovering, Phase::Up) => false,
                    _ => return None,
                };
                Some(Self {
                    office,
                    agent: &link.agent,
                    target: Some(&link.target),
                    role: *role,
                    failure: failure
                        .filter(|_| begins)
                        .map(|failure| failure.to_string()),
                    at: *at,
                    reason: if begins {
                        RevisionReason::LinkDown
                    } else {
                        RevisionReason::LinkUp
                    },
                    begins,
                })
            }
            Finding::Agent {
                office,
                agent,
                from,
                to,
                at,
            } => {
                let (reason, begins) = match (from, to) {
                    (_, Presence::Silent) => (RevisionReason::AgentSilent, true),
                    (Presence::Silent, Presence::Present) => (RevisionReason::AgentBack, false),
                    (Presence::Silent, Presence::Closed) => (RevisionReason::AgentClosed, false),
                    _ => return None,
                };
                Some(Self {
                    office,
                    agent,
                    target: None,
                    role: None,
                    failure: None,
                    at: *at,
                    reason,
                    begins,
                })
            }
            Finding::Removed { office, link, at } => Some(Self {
                office,
                agent: &link.agent,
                target: Some(&link.target),
                role: None,
                failure: None,
                at: *at,
                reason: RevisionReason::LinkRemoved,
                begins: false,
            }),
        }
    }
}

impl Incident {
    /// Troubles and revisions kept: every link of an agent twice over, and together at most about 32 KiB as stored, so
    /// that a leaf of the state stays well within the engine's file (see `engine.rs`).
    const TROUBLES_MAX: usize = 64;
    const REVISIONS_MAX: usize = 96;

    fn add_trouble(&mut self, trouble: Trouble) {
        if self.troubles.len() >= Self::TROUBLES_MAX
            && let Some(oldest_ended) = self.troubles.iter().position(|t| t.until_ms.is_some())
        {
            self.troubles.remove(oldest_ended);
        }
        self.troubles.push(trouble);
    }

    fn revise(&mut self, kind: RevisionKind, turn: &Turn<'_>, recorded: UnixMillis) {
        let number = self.revisions.last().map_or(1, |last| last.number + 1);
        if self.revisions.len() >= Self::REVISIONS_MAX {
            // The opening stays.
            self.revisions.remove(1);
            self.revisions_omitted += 1;
        }
        self.revisions.push(Revision {
            number,
            kind,
            reason: turn.reason,
            agent: turn.agent.clone(),
            target: turn.target.cloned(),
            at_ms: turn.at,
            recorded_ms: recorded,
        });
    }

    /// The cause by the roles that fail now. Judged when a trouble begins, and not when one ends: what recovers
    /// first was no less broken.
    fn judge(&mut self) {
        let now = || {
            self.troubles
                .iter()
                .filter(|trouble| trouble.until_ms.is_none())
        };
        let fails = |role: Role| now().any(|trouble| trouble.role == Some(role));
        let (server, uplink) = (fails(Role::Server), fails(Role::Uplink));
        self.cause = if fails(Role::Gateway) {
            Cause::Lan
        } else if server && uplink {
            Cause::Several
        } else if server {
            Cause::Server
        } else if uplink {
            Cause::Uplink
        } else if fails(Role::Central) {
            Cause::Central
        } else if fails(Role::Dns) {
            Cause::Dns
        } else if fails(Role::Collector) {
            Cause::Collector
        } else if now().any(|trouble| trouble.target.is_none()) {
            Cause::Unreachable
        } else {
            Cause::Unknown
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use denyut_store::history::LinkId;

    fn link(target: &str, role: Role, from: Phase, to: Phase, at: i64) -> Finding {
        Finding::Link {
            office: "36.73.02".parse().expect("a code"),
            link: LinkId {
                agent: "a-1".parse().expect("an id"),
                target: target.parse().expect("a name"),
            },
            role: Some(role),
            from,
            to,
            at: UnixMillis(at),
            failure: None,
        }
    }

    fn agent(from: Presence, to: Presence, at: i64) -> Finding {
        Finding::Agent {
            office: "36.73.02".parse().expect("a code"),
            agent: "a-1".parse().expect("an id"),
            from,
            to,
            at: UnixMillis(at),
        }
    }

    fn down(target: &str, role: Role, at: i64) -> Finding {
        link(target, role, Phase::Suspect, Phase::Down, at)
    }

    fn up(target: &str, role: Role, at: i64) -> Finding {
        link(target, role, Phase::Recovering, Phase::Up, at)
    }

    fn apply(incidents: &mut Incidents, findings: &[Finding]) -> Vec<Incident> {
        findings
            .iter()
            .filter_map(|finding| incidents.apply(finding, UnixMillis(9_999)))
            .collect()
    }

    #[test]
    fn one_office_has_one_incident_at_a_time() {
        let mut incidents = Incidents::default();
        let seen = apply(
            &mut incidents,
            &[
                down("server", Role::Server, 100),
                down("gateway", Role::Gateway, 90),
                up("gateway", Role::Gateway, 200),
                up("server", Role::Server, 210),
                down("server", Role::Server, 300),
            ],
        );
        let summary: Vec<_> = seen
            .iter()
            .map(|i| (i.number, i.cause, i.resolved_ms.map(|at| at.0)))
            .collect();
        let expected = [
            (1, Cause::Server, None),
            (1, Cause::Lan, None),
            (1, Cause::Lan, None),
            (1, Cause::Lan, Some(210)),
            (2, Cause::Server, None),
        ];
        assert_eq!(summary, expected);
        assert_eq!(seen[3].opened_ms, UnixMillis(90));
        assert_eq!(
            seen[3]
                .revisions
                .iter()
                .map(|r| r.number)
                .collect::<Vec<_>>(),
            [1, 2, 3, 4]
        );
        assert_eq!(seen[3].revisions[0].recorded_ms, UnixMillis(9_999));
        assert_eq!(incidents.last_number(), 2);
    }

    #[test]
    fn silence_opens_and_a_word_resolves() {
        use Presence::{Closed, Present, Silent};
        let mut incidents = Incidents::default();
        let seen = apply(
            &mut incidents,
            &[agent(Present, Silent, 10), agent(Silent, Present, 50)],
        );
        assert_eq!(seen[0].cause, Cause::Unreachable);
        assert_eq!(seen[1].resolved_ms, Some(UnixMillis(50)));
        // Proper stops are nobody's incident.
        assert!(
            apply(
                &mut incidents,
                &[agent(Present, Closed, 60), agent(Closed, Present, 70)]
            )
            .is_empty()
        );
    }

    #[test]
    fn a_recovery_that_does_not_hold_changes_nothing() {
        let mut incidents = Incidents::default();
        apply(&mut incidents, &[down("server", Role::Server, 100)]);
        let wobble = [
            link("server", Role::Server, Phase::Down, Phase::Recovering, 110),
            link("server", Role::Server, Phase::Recovering, Phase::Down, 120),
        ];
        assert!(apply(&mut incidents, &wobble).is_empty());
        assert_eq!(incidents.open_count(), 1);
    }

    #[test]
    fn a_flapping_link_cannot_fill_the_memory() {
        let mut incidents = Incidents::default();
        apply(&mut incidents, &[down("server", Role::Server, 0)]);
        let mut last = None;
        for i in 1..2_000 {
            apply(&mut incidents, &[down("uplink", Role::Uplink, i * 2)]);
            last = incidents.apply(&up("uplink", Role::Uplink, i * 2 + 1), UnixMillis(0));
        }
        let last = last.expect("changed");
        assert!(last.troubles.len() <= Incident::TROUBLES_MAX);
        assert_eq!(last.revisions.len(), Incident::REVISIONS_MAX);
        let kept = u64::try_from(Incident::REVISIONS_MAX).expect("small");
        assert_eq!(last.revisions_omitted + kept, 1 + 2 * 1_999);
        assert!(serde_json::to_vec(&last).expect("JSON").len() <= 32 << 10);
        assert_eq!(last.revisions[0].kind, RevisionKind::Open);
        assert_eq!(
            last.troubles[0].target.as_ref().map(TargetName::as_str),
            Some("server")
        );
    }

    #[test]
    fn what_is_restored_goes_on() {
        let mut incidents = Incidents::default();
        let open = apply(&mut incidents, &[down("server", Role::Server, 0)]);
        let mut incidents = Incidents::restore(open, 7);
        let seen = apply(
            &mut incidents,
            &[
                up("server", Role::Server, 5),
                down("server", Role::Server, 9),
            ],
        );
        assert_eq!((seen[0].number, seen[1].number), (1, 8));
    }
}
