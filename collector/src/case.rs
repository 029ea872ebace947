//! What people do about an incident: acknowledge it, take it over, note what they know. Each step is kept, and none is ever changed.
//!
//! The detector says what is true of an incident; its case says who cares for it. Neither changes the other: an acknowledgement ends when it runs out,
//! is withdrawn, or the trouble it was made for ends; if that comes back, it must be acknowledged anew.

use crate::events::{Bus, Happening};
use crate::keys;
use crate::plain::{self, NAME_MOST};
use anyhow::Context;
use denyut_detect::Incident;
use denyut_detect::incident::RevisionReason;
use denyut_proto::{Invalid, UnixMillis, parse_duration};
use denyut_store::state::{Change, State, StateError, get_json, scan_json};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use utoipa::ToSchema;

/// How a text is read: on one line, or on more.
type Read = fn(&str, &str, usize) -> Result<String, Invalid>;

/// Characters of what somebody says, at most.
const TEXT_MAX: usize = 2_000;
/// Steps of one incident, at most.
const STEPS_MAX: usize = 500;
/// How long an acknowledgement holds: when nothing is said, at least, and at most.
const HOLDS: Duration = Duration::from_secs(24 * 3_600);
const HOLDS_LEAST: Duration = Duration::from_secs(5 * 60);
const HOLDS_MOST: Duration = Duration::from_secs(30 * 86_400);

/// The steps that people took, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Case {
    pub(crate) steps: Vec<Step>,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Step {
    /// When (the collector's clock).
    #[schema(value_type = i64)]
    pub(crate) at_ms: UnixMillis,
    /// Who, as they say.
    #[schema(example = "Siti, Disdukcapil Kota Serang")]
    pub(crate) by: String,
    #[serde(flatten)]
    pub(crate) what: What,
}

/// What somebody did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "what", rename_all = "snake_case")]
pub(crate) enum What {
    /// Knows of it, until then: nobody else need be called.
    Acknowledge {
        /// Why nobody else need be.
        why: Option<String>,
        #[schema(value_type = i64)]
        until_ms: UnixMillis,
    },
    /// Does not care for it any more.
    Withdraw {
        /// Why.
        why: Option<String>,
    },
    /// Tells what they know.
    Note {
        /// That.
        text: String,
    },
    /// Gives it to somebody; none to nobody.
    Assign {
        /// That one's name.
        to: Option<String>,
    },
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = |why: &Option<String>| {
            let why = why.as_ref();
            why.map_or_else(String::new, |why| format!(": {why}"))
        };
        match self {
            Self::Acknowledge {
                why: because,
                until_ms,
            } => write!(f, "knows of it until {until_ms}{}", why(because)),
            Self::Withdraw { why: because } => {
                write!(f, "took the acknowledgement back{}", why(because))
            }
            Self::Note { text } => f.write_str(text),
            Self::Assign { to: Some(name) } => write!(f, "gave it to {name}"),
            Self::Assign { to: None } => f.write_str("gave it to nobody"),
        }
    }
}

/// What somebody asks to be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Deed {
    /// Acknowledge it, for so long.
    Acknowledge {
        why: Option<String>,
        lasts: Option<String>,
    },
    Withdraw {
        why: Option<String>,
    },
    Note {
        text: String,
    },
    Assign {
        to: Option<String>,
    },
}

/// Somebody knows of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Acknowledgement {
    /// Who.
    pub(crate) by: String,
    pub(crate) why: Option<String>,
    /// Since when.
    #[schema(value_type = i64)]
    pub(crate) at_ms: UnixMillis,
    /// Until then; unless renewed.
    #[schema(value_type = i64)]
    pub(crate) until_ms: UnixMillis,
}

/// Why nothing was done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    #[error("there is no incident {0}")]
    NoIncident(u64),
    /// The incident is not as it would have to be.
    #[error("{0}")]
    Wrong(String),
    #[error(transparent)]
    Invalid(#[from] Invalid),
    #[error(transparent)]
    Failed(#[from] anyhow::Error),
}

impl Case {
    /// The one of an incident.
    pub(crate) fn read(state: &dyn State, number: u64) -> anyhow::Result<Self> {
        let steps = scan_json::<Step>(state, &keys::case(number))?;
        Ok(Self {
            steps: steps.into_iter().map(|(_, step)| step).collect(),
        })
    }

    /// Who knows of the incident now.
    pub(crate) fn acknowledgement(
        &self,
        incident: &Incident,
        now: UnixMillis,
    ) -> Option<Acknowledgement> {
        let last =
            self.steps.iter().rev().find(|step| {
                matches!(step.what, What::Acknowledge { .. } | What::Withdraw { .. })
            })?;
        let What::Acknowledge { why, until_ms } = &last.what else {
            return None;
        };
        let holds = incident.is_open() && now < *until_ms && last.at_ms >= began(incident);
        holds.then(|| Acknowledgement {
            by: last.by.clone(),
            why: why.clone(),
            at_ms: last.at_ms,
            until_ms: *until_ms,
        })
    }

    /// Since when nobody has cared for the present trouble of an incident that somebody was to be called for; while somebody does, from when on nobody will.
    pub(crate) fn unattended(&self, incident: &Incident) -> Option<UnixMillis> {
        let called = incident.paged_ms.filter(|_| incident.is_open())?;
        let called = called.max(began(incident));
        let steps = self.steps.iter().rev();
        let ends = steps
            .take_while(|step| step.at_ms >= called)
            .find_map(|step| match step.what {
                What::Acknowledge { until_ms, .. } => Some(until_ms),
                What::Withdraw { .. } => Some(step.at_ms),
                _ => None,
            });
        Some(ends.map_or(called, |end| end.max(called)))
    }

    /// Whose it is.
    pub(crate) fn assignee(&self) -> Option<&str> {
        let mut steps = self.steps.iter().rev();
        steps.find_map(|step| match &step.what {
            What::Assign { to } => Some(to.as_deref()),
            _ => None,
        })?
    }
}

/// When the present trouble of an incident was learned of: an older acknowledgement was made for another.
fn began(incident: &Incident) -> UnixMillis {
    let mut revisions = incident.revisions.iter().rev();
    let again = revisions.find(|revision| revision.reason == RevisionReason::RepairFailed);
    again.map_or(UnixMillis(0), |revision| revision.recorded_ms)
}

/// What may be left out, and is when it is empty.
fn maybe(
    field: &str,
    said: Option<&str>,
    most: usize,
    read: Read,
) -> Result<Option<String>, Invalid> {
    let said = said.map(|said| read(field, said, most)).transpose()?;
    Ok(said.filter(|said| !said.is_empty()))
}

/// A name that may be left out, checked as that of a step.
pub(crate) fn maybe_name(field: &str, said: Option<&str>) -> Result<Option<String>, Invalid> {
    maybe(field, said, NAME_MOST, plain::line)
}

/// What may not be empty.
fn needed(field: &str, said: &str, most: usize, read: Read, fix: &str) -> Result<String, Invalid> {
    let said = read(field, said, most)?;
    if said.is_empty() {
        return Err(Invalid::new(field, "", "empty", fix));
    }
    Ok(said)
}

/// Who somebody is, and what they say, checked as those of a step.
pub(crate) fn signed(by: &str, why: &str) -> Result<(String, String), Invalid> {
    Ok((
        needed("by", by, NAME_MOST, plain::line, "write who you are")?,
        needed("why", why, TEXT_MAX, plain::lines, "write why")?,
    ))
}

impl Deed {
    /// What it is, done now.
    fn step(&self, by: &str, now: UnixMillis) -> Result<Step, Invalid> {
        let by = needed("by", by, NAME_MOST, plain::line, "write who you are")?;
        let what = match self {
            Self::Acknowledge { why, lasts } => {
                let lasts = match lasts {
                    Some(text) => parse_duration("for", text)?,
                    None => HOLDS,
                };
                if lasts < HOLDS_LEAST || lasts > HOLDS_MOST {
                    return Err(Invalid::new(
                        "for",
                        humantime::format_duration(lasts),
                        "out of range",
                        "write 5m to 30days, and renew it when that is over",
                    ));
                }
                What::Acknowledge {
                    why: maybe("why", why.as_deref(), TEXT_MAX, plain::lines)?,
                    until_ms: now + lasts,
                }
            }
            Self::Withdraw { why } => What::Withdraw {
                why: maybe("why", why.as_deref(), TEXT_MAX, plain::lines)?,
            },
            Self::Note { text } => What::Note {
                text: needed("text", text, TEXT_MAX, plain::lines, "write what you know")?,
            },
            Self::Assign { to } => What::Assign {
                to: maybe("to", to.as_deref(), NAME_MOST, plain::line)?,
            },
        };
        Ok(Step {
            at_ms: now,
            by,
            what,
        })
    }
}

/// Keeps the cases.
pub(crate) struct Cases {
    state: Arc<dyn State>,
    told: Option<(Arc<Bus>, Arc<Notify>)>,
    /// Nobody else changes a case meanwhile.
    changing: Mutex<()>,
}

impl Cases {
    /// `told`: who listens, and who tells people, if a collector runs.
    pub(crate) fn new(state: Arc<dyn State>, told: Option<(Arc<Bus>, Arc<Notify>)>) -> Self {
        Self {
            state,
            told,
            changing: Mutex::default(),
        }
    }

    /// Does it; what is returned is on the disk. Blocks.
    pub(crate) fn act(
        &self,
        number: u64,
        by: &str,
        deed: &Deed,
        now: UnixMillis,
    ) -> Result<(Incident, Case), Refused> {
        let step = deed.step(by, now)?;
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let incident: Option<Incident> = get_json(&*self.state, &keys::incident(number))?;
        let incident = incident.ok_or(Refused::NoIncident(number))?;
        let mut case = Case::read(&*self.state, number)?;
        match deed {
            Deed::Acknowledge { .. } if !incident.is_open() => {
                let text = match (incident.retracted, incident.facts.resolved_ms) {
                    (false, Some(at)) => format!("incident {number} is over since {at}"),
                    _ => format!("incident {number} turned out to be none"),
                };
                return Err(Refused::Wrong(format!(
                    "{text}: there is nothing to acknowledge; a note may still be added"
                )));
            }
            Deed::Withdraw { .. } if case.acknowledgement(&incident, now).is_none() => {
                return Err(Refused::Wrong(format!(
                    "incident {number} is acknowledged by nobody"
                )));
            }
            _ => {}
        }
        if case.steps.len() >= STEPS_MAX {
            return Err(Refused::Wrong(format!(
                "incident {number} has {STEPS_MAX} steps already, and takes no more"
            )));
        }
        let mut change = Change::default();
        change.put_json(keys::step(number, case.steps.len()), &step)?;
        case.steps.push(step);
        change.put_json(keys::news(number), &format!("{now} {}", case.steps.len()))?;
        self.state.apply(change).map_err(|error| match error {
            StateError::Conflict { key } => anyhow::anyhow!("`{key}` was changed by another"),
            StateError::Store(error) => error,
        })?;
        self.state.sync().context("cannot keep it")?;
        // The detector may have gone on meanwhile.
        let now_known: Option<Incident> = get_json(&*self.state, &keys::incident(number))?;
        let incident = now_known.unwrap_or(incident);
        if let Some((bus, news)) = &self.told {
            news.notify_one();
            bus.publish(Happening::Incident(Box::new(incident.clone())));
        }
        Ok((incident, case))
    }
}
