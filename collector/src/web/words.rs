//! What is shown, in the reader's words: times by the office's clock, lengths, numbers, and what the API says in codes.

use super::text::{Language, texts};
use crate::access::Regions;
use crate::query::ShownState;
use crate::region::province;
use crate::registry::Registry;
use denyut_detect::calendar::{Zone, in_region};
use denyut_detect::incident::{Evidence, Revision, RevisionKind, RevisionReason};
use denyut_detect::office::Pattern;
use denyut_detect::{Cause, Incident};
use denyut_proto::{OfficeCode, Role, UnixMillis};
use jiff::tz::{Offset, TimeZone};
use jiff::{Timestamp, Zoned};
use serde_json::Value;
use std::time::Duration;

/// The words of one language.
#[derive(Debug, Clone, Copy)]
pub(super) struct Words {
    pub(super) language: Language,
}

/// How exactly a moment is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exact {
    Minute,
    Second,
}

/// A moment on the clock of a zone.
pub(super) fn local(at: UnixMillis, zone: Zone) -> Zoned {
    let seconds = i32::try_from(zone.offset_ms() / 1_000);
    let offset = seconds
        .ok()
        .and_then(|seconds| Offset::from_seconds(seconds).ok());
    Timestamp::from_millisecond(at.0)
        .unwrap_or_default()
        .to_zoned(TimeZone::fixed(offset.unwrap_or(Offset::UTC)))
}

impl Words {
    /// A text of the catalogue.
    pub(super) fn say(self, key: &str) -> String {
        self.fill(key, &[])
    }

    /// What the API says is wrong.
    pub(super) fn problem(self, detail: &str) -> String {
        super::errors::told(self.language, detail)
    }

    /// A text of the catalogue, with its gaps filled.
    pub(super) fn fill(self, key: &str, gaps: &[(&str, &str)]) -> String {
        texts(self.language).say(key, gaps)
    }

    /// The text of one of a kind: `state.up`, `cause.lan`, ….
    pub(super) fn of(self, kind: &str, code: &str) -> String {
        self.say(&format!("{kind}.{code}"))
    }

    /// A moment on the clock of a zone, with the zone's name; with the day if that is not the present one, and the year if that is not.
    pub(super) fn time(self, at: UnixMillis, now: UnixMillis, zone: Zone, exact: Exact) -> String {
        let (there, here) = (local(at, zone), local(now, zone));
        let time = there.strftime(match (self.language, exact) {
            (Language::Id, Exact::Minute) => "%H.%M",
            (Language::Id, Exact::Second) => "%H.%M.%S",
            (Language::En, Exact::Minute) => "%H:%M",
            (Language::En, Exact::Second) => "%H:%M:%S",
        });
        let name = zone.name();
        if there.date() == here.date() {
            return format!("{time} {name}");
        }
        let month = self.of("month", &there.month().to_string());
        let year = if there.year() == here.year() {
            String::new()
        } else {
            format!(" {}", there.year())
        };
        format!("{} {month}{year} {time} {name}", there.day())
    }

    /// A time of day by the minutes since midnight; the end of a day is 24.00.
    pub(super) fn of_day(self, minutes: i64) -> String {
        let mark = match self.language {
            Language::Id => '.',
            Language::En => ':',
        };
        format!("{:02}{mark}{:02}", minutes / 60, minutes % 60)
    }

    /// A day, such as `26 Nov 2026`.
    pub(super) fn day(self, at: UnixMillis, zone: Zone) -> String {
        let there = local(at, zone);
        let month = self.of("month", &there.month().to_string());
        format!("{} {month} {}", there.day(), there.year())
    }

    /// A length of time in its two largest units.
    pub(super) fn length(self, length: Duration) -> String {
        texts(self.language).length(length)
    }

    /// A length of time in ms.
    pub(super) fn ms(self, ms: i64) -> String {
        self.length(Duration::from_millis(u64::try_from(ms).unwrap_or(0)))
    }

    /// A length of time in hours and minutes, however many hours: of counted time, whose days are shorter.
    pub(super) fn hours(self, ms: i64) -> String {
        let minutes = ms / 60_000;
        let part = |key, count: i64| self.fill(key, &[("n", &count.to_string())]);
        match (minutes / 60, minutes % 60) {
            (0, minutes) => part("unit.minute", minutes),
            (hours, 0) => part("unit.hour", hours),
            (hours, minutes) => format!(
                "{} {}",
                part("unit.hour", hours),
                part("unit.minute", minutes)
            ),
        }
    }

    /// A number with so many digits behind the comma.
    pub(super) fn number(self, value: f64, digits: usize) -> String {
        let text = format!("{value:.digits$}");
        if self.language == Language::Id {
            text.replace('.', ",")
        } else {
            text
        }
    }

    /// A share in per cent, to a hundredth, but never 100 for less; a dash for none.
    pub(super) fn percent(self, share: Option<f64>) -> String {
        share.map_or_else(
            || "–".to_owned(),
            |share| {
                let shown = if share < 100.0 {
                    (share * 100.0).floor() / 100.0
                } else {
                    share
                };
                format!(
                    "{}%",
                    self.number(shown, if shown >= 100.0 { 0 } else { 2 })
                )
            },
        )
    }

    /// A round-trip time.
    pub(super) fn rtt(self, us: u32) -> String {
        let ms = f64::from(us) / 1_000.0;
        let digits = if ms < 10.0 {
            2
        } else {
            usize::from(ms < 100.0)
        };
        format!("{} ms", self.number(ms, digits))
    }

    /// A state of an office: one dead link is trouble at the office, not a dead office.
    pub(super) fn office_state(self, state: ShownState) -> String {
        if state == ShownState::Down {
            return self.say("office.down");
        }
        self.of("state", state.as_str())
    }

    /// How long something has been so.
    pub(super) fn since(self, at: UnixMillis, now: UnixMillis, zone: Zone) -> String {
        let time = self.time(at, now, zone, Exact::Minute);
        let length = self.ms(now.0 - at.0);
        self.fill("since", &[("time", &time), ("length", &length)])
    }

    /// A failure as the API writes it: `reason`, or `reason=detail`.
    pub(super) fn failure(self, failure: &str) -> String {
        match failure.split_once('=') {
            Some((reason, detail)) => format!("{} {detail}", self.of("reason", reason)),
            None => self.of("reason", failure),
        }
    }

    pub(super) fn cause(self, cause: Cause) -> String {
        self.of("cause", cause.as_str())
    }

    pub(super) fn role(self, role: Option<&str>, target: &str) -> String {
        role.map_or_else(|| target.to_owned(), |role| self.of("role", role))
    }

    /// An incident's subject: its office, or how many its common cause hit, and where.
    pub(super) fn subject(self, incident: &Incident, registry: &Registry) -> String {
        if let Some(scope) = &incident.facts.scope {
            return texts(self.language).scope(scope, registry);
        }
        incident
            .office
            .as_ref()
            .map_or_else(String::new, |office| office_name(office, registry))
    }

    /// One reason for a cause.
    /// The evidence of an incident, each piece once: of two targets of one role by their names; what has ended while the rest goes on last, and as that.
    pub(super) fn evidence_of(self, incident: &Incident) -> Vec<String> {
        let all = &incident.facts.evidence;
        let mut lines: Vec<(bool, String)> = Vec::new();
        for one in all {
            let mut text = self.evidence(one);
            let mut is_over = false;
            if let Evidence::Failed {
                agent,
                target,
                role,
                ..
            } = one
            {
                let is_other = |other: &Evidence| matches!(other, Evidence::Failed { target: name, role: of, .. } if of == role && name != target);
                if role.is_some() && all.iter().any(is_other) {
                    text = format!("{text} ({target})");
                }
                let troubles = incident.facts.troubles.iter().filter(|trouble| {
                    trouble.agent == *agent && trouble.target.as_ref() == Some(target)
                });
                let last = troubles.max_by_key(|trouble| trouble.since_ms);
                is_over = incident.is_open() && last.is_some_and(|last| last.until_ms.is_some());
                if is_over {
                    text = self.fill("evidence.over", &[("text", &text)]);
                }
            }
            if !lines.iter().any(|(_, known)| *known == text) {
                lines.push((is_over, text));
            }
        }
        lines.sort_by_key(|(is_over, _)| *is_over);
        lines.into_iter().map(|(_, text)| text).collect()
    }

    fn evidence(self, one: &Evidence) -> String {
        match one {
            Evidence::Failed {
                target,
                role,
                failure,
                ..
            } => {
                let failure = failure
                    .as_ref()
                    .map_or_else(|| "?".to_owned(), |text| self.failure(text));
                let target = self.role(role.map(Role::as_str), target.as_str());
                let gaps = [("target", &*target), ("failure", &failure)];
                self.fill("evidence.failed", &gaps)
            }
            Evidence::Fine { role } => {
                let role = self.of("role", role.as_str());
                self.fill("evidence.fine", &[("role", &role)])
            }
            Evidence::Gap { agent, why } => {
                let key = format!("evidence.gap_{}", code(why));
                self.fill(&key, &[("agent", agent.as_str())])
            }
            Evidence::NothingDelivered { agent } => {
                self.fill("evidence.nothing_delivered", &[("agent", agent.as_str())])
            }
            Evidence::OtherAgent { agent } => {
                self.fill("evidence.other_agent", &[("agent", agent.as_str())])
            }
            Evidence::Clone { agent, .. } => {
                self.fill("evidence.clone", &[("agent", agent.as_str())])
            }
            Evidence::Together {
                failed,
                watched,
                within_ms,
            } => {
                let (failed, watched) = (failed.to_string(), watched.to_string());
                let within = self.length(Duration::from_millis(*within_ms));
                let gaps = [
                    ("failed", &*failed),
                    ("watched", &watched),
                    ("within", &within),
                ];
                self.fill("evidence.together", &gaps)
            }
            Evidence::Shared => self.say("evidence.shared"),
            Evidence::AfterOpening => self.say("evidence.after_opening"),
            Evidence::Likely {
                cause,
                percent,
                before,
                neighbours,
            } => {
                let cause = self.cause(*cause).to_lowercase();
                let (percent, before) = (percent.to_string(), before.to_string());
                let neighbours = neighbours.to_string();
                let gaps = [
                    ("cause", &*cause),
                    ("percent", &percent),
                    ("before", &before),
                    ("neighbours", &neighbours),
                ];
                self.fill("evidence.likely", &gaps)
            }
        }
    }

    /// One change of an incident.
    pub(super) fn revision(self, incident: &Incident, revision: &Revision) -> String {
        let mut troubles = incident.facts.troubles.iter();
        let trouble = troubles.find(|one| {
            one.failure.is_some()
                && one.target == revision.target
                && Some(&one.agent) == revision.agent.as_ref()
                && one.since_ms == revision.at_ms
        });
        let failure = trouble
            .filter(|_| revision.reason == RevisionReason::LinkDown)
            .and_then(|one| one.failure.as_deref())
            .map_or_else(String::new, |failure| {
                format!(" ({})", self.failure(failure))
            });
        let cause = revision
            .cause
            .map_or_else(String::new, |cause| self.cause(cause));
        let key = format!("revision.{}", code(&revision.reason));
        let reason = self.fill(&key, &[("cause", &cause)]);
        let text = if revision.kind == RevisionKind::Retract {
            self.fill("revision.retract", &[("reason", &reason)])
        } else {
            reason
        };
        let subject = match (&revision.agent, &revision.target) {
            (Some(agent), Some(target)) => format!("{agent}/{target}: "),
            (Some(agent), None) => format!("{agent}: "),
            _ => String::new(),
        };
        format!("{subject}{text}{failure}")
    }

    /// What goes beyond single incidents at an office.
    pub(super) fn pattern(
        self,
        pattern: &Pattern,
        office: &OfficeCode,
        registry: &Registry,
        now: UnixMillis,
    ) -> String {
        let subject = match (&pattern.agent, &pattern.target) {
            (Some(agent), Some(target)) => format!("{agent}/{target}: "),
            _ => String::new(),
        };
        let other = pattern
            .with
            .as_ref()
            .map(|with| office_name(with, registry));
        let other = other.or_else(|| pattern.pool.clone()).unwrap_or_default();
        let scale = pattern
            .scale
            .map_or_else(String::new, |scale| self.of("scale", scale.as_str()));
        let time = self.time(pattern.from_ms, now, Zone::of(office), Exact::Minute);
        let count = pattern.count.to_string();
        let gaps = [
            ("count", &*count),
            ("scale", &scale),
            ("office", &other),
            ("time", &time),
        ];
        let text = self.fill(&format!("pattern.{}", pattern.kind.as_str()), &gaps);
        let identity = pattern.identity.as_ref().map_or_else(String::new, |shown| {
            let shown = shown.to_string();
            let (kind, value) = shown.split_once(' ').unwrap_or((&shown, ""));
            // Of a certificate's hash the beginning tells enough.
            let value = if value.len() > 40 {
                format!("{}…", value.get(..16).unwrap_or_default())
            } else {
                value.to_owned()
            };
            let text = self.fill(&format!("identity.{kind}"), &[("value", &value)]);
            format!(" ({text})")
        });
        format!("{subject}{text}{identity}")
    }
}

/// The name that JSON has for one of a kind.
fn code(of: &impl serde::Serialize) -> String {
    match serde_json::to_value(of) {
        Ok(Value::String(name)) => name,
        _ => String::new(),
    }
}

/// The name of an office; its code if it is not known.
pub(super) fn office_name(code: &OfficeCode, registry: &Registry) -> String {
    let office = registry.office(code);
    office.map_or_else(|| code.to_string(), |office| office.name.clone())
}

/// The office by whose clock an incident is told: its own, or the first that was hit.
pub(super) fn zone_of(incident: &Incident) -> Zone {
    let scope = incident.facts.scope.as_ref();
    let office = incident.office.as_ref();
    office
        .or_else(|| scope.and_then(|scope| scope.offices.first()))
        .map_or(Zone::Wib, Zone::of)
}

/// The name of a region: of a province, of an office, or of a regency where somebody who looks sees an office; or else its code.
pub(super) fn region_text(code: &str, registry: &Registry, sees: &Regions) -> String {
    if let Some(name) = province(code) {
        return name.to_owned();
    }
    let offices = registry.offices();
    let mut inside = offices
        .iter()
        .filter(|(office, _)| in_region(office, code) && sees.has(office));
    let found = inside.find_map(|(office, known)| {
        if office.as_str() == code {
            return Some(known.name.clone());
        }
        known.regency.clone().filter(|_| code.len() == 5)
    });
    found.unwrap_or_else(|| code.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use denyut_detect::incident::{Trouble, TroubleKind};
    use denyut_proto::{AgentId, TargetName};

    const ID: Words = Words {
        language: Language::Id,
    };
    const EN: Words = Words {
        language: Language::En,
    };

    #[test]
    fn times_are_told_by_the_offices_clock() {
        let now = UnixMillis(1_795_700_000_000);
        let before = |ms: i64| UnixMillis(now.0 - ms);
        assert_eq!(ID.time(now, now, Zone::Wib, Exact::Minute), "20.33 WIB");
        assert_eq!(EN.time(now, now, Zone::Wit, Exact::Second), "22:33:20 WIT");
        let yesterday = before(86_400_000);
        assert_eq!(
            ID.time(yesterday, now, Zone::Wita, Exact::Minute),
            "25 Nov 21.33 WITA"
        );
        let last_year = before(365 * 86_400_000);
        assert_eq!(
            EN.time(last_year, now, Zone::Wib, Exact::Minute),
            "26 Nov 2025 20:33 WIB"
        );
        assert_eq!(ID.day(now, Zone::Wib), "26 Nov 2026");
    }

    #[test]
    fn evidence_is_told_once_and_what_is_over_last() {
        let samples = crate::alert::samples(UnixMillis(1_795_700_000_000));
        let mut incident = samples[0][0].incident.clone();
        incident.facts.resolved_ms = None;
        let failed = |target: &str, role: Role, until_ms: Option<UnixMillis>| {
            let (agent, target): (AgentId, TargetName) =
                ("a".parse().expect("an id"), target.parse().expect("a name"));
            let trouble = Trouble {
                kind: TroubleKind::default(),
                agent: agent.clone(),
                target: Some(target.clone()),
                role: Some(role),
                failure: None,
                since_ms: incident.facts.opened_ms,
                until_ms,
            };
            let evidence = Evidence::Failed {
                agent,
                target,
                role: Some(role),
                failure: Some("refused".to_owned()),
            };
            (evidence, trouble)
        };
        let all = [
            failed("dns", Role::Dns, Some(UnixMillis(1_795_700_000_000))),
            failed("server", Role::Server, None),
            failed("api", Role::Server, None),
            failed("api", Role::Server, None),
        ];
        (incident.facts.evidence, incident.facts.troubles) = all.into_iter().unzip();
        assert_eq!(
            ID.evidence_of(&incident),
            [
                "Server perekaman gagal (ditolak) (server)",
                "Server perekaman gagal (ditolak) (api)",
                "DNS gagal (ditolak) — sudah pulih"
            ]
        );
    }

    #[test]
    fn numbers_are_written_as_readers_do() {
        assert_eq!(ID.rtt(1_234), "1,23 ms");
        assert_eq!(EN.rtt(45_678), "45.7 ms");
        assert_eq!(EN.rtt(456_780), "457 ms");
        assert_eq!(ID.percent(Some(99.999)), "99,99%");
        assert_eq!(ID.percent(Some(100.0)), "100%");
        assert_eq!(ID.percent(None), "–");
        assert_eq!(ID.hours(248 * 3_600_000), "248 jam");
        assert_eq!(EN.hours(5_460_000), "1 h 31 min");
    }
}
