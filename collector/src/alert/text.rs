//! What is said of an incident, in the receiver's language: plain and short.

use super::group::{Telling, Told};
use crate::region::province;
use crate::registry::Registry;
use anyhow::Context;
use denyut_detect::calendar::Zone;
use denyut_detect::incident::{RevisionReason, Scope, ScopeKind};
use denyut_detect::{Cause, Incident};
use denyut_proto::{OfficeCode, UnixMillis};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// A language of messages and pages: Bahasa Indonesia unless somebody asks for another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Language {
    #[default]
    Id,
    En,
}

impl Language {
    /// Its code, as configurations and addresses name it.
    pub(crate) const fn code(self) -> &'static str {
        match self {
            Self::Id => "id",
            Self::En => "en",
        }
    }

    /// The one of a code.
    pub(crate) fn of_code(code: &str) -> Option<Self> {
        [Self::Id, Self::En]
            .into_iter()
            .find(|one| one.code() == code)
    }
}

/// The texts of one language: the pages', and those of messages.
#[derive(Debug)]
pub(crate) struct Catalogue(BTreeMap<String, String>);

impl Catalogue {
    pub(crate) fn of(language: Language) -> anyhow::Result<Self> {
        let (page, messages) = match language {
            Language::Id => (include_str!("../web/id.json"), include_str!("id.json")),
            Language::En => (include_str!("../web/en.json"), include_str!("en.json")),
        };
        let mut texts: BTreeMap<String, String> =
            serde_json::from_str(page).context("the page's catalogue")?;
        let own: BTreeMap<String, String> =
            serde_json::from_str(messages).context("the messages' catalogue")?;
        texts.extend(own);
        Ok(Self(texts))
    }

    /// The text of a key; `{name}` in it stands for a value.
    pub(crate) fn say(&self, key: &str, values: &[(&str, &str)]) -> String {
        let mut rest = self.0.get(key).map_or(key, String::as_str);
        let mut text = String::new();
        // Once from left to right: nothing in a value is taken for a place.
        while let Some((before, after)) = rest.split_once('{') {
            text += before;
            let place = after.split_once('}');
            let value = place.and_then(|(name, _)| values.iter().find(|(of, _)| *of == name));
            if let (Some((_, behind)), Some((_, value))) = (place, value) {
                text += value;
                rest = behind;
            } else {
                text.push('{');
                rest = after;
            }
        }
        text + rest
    }

    /// A moment on an office's clock.
    pub(super) fn time(at: UnixMillis, office: Option<&OfficeCode>) -> String {
        let zone = office.map_or(Zone::Wib, Zone::of);
        let local = at.0.saturating_add(zone.offset_ms());
        match jiff::Timestamp::from_millisecond(local) {
            Ok(local) => format!("{} {}", local.strftime("%d-%m-%Y %H:%M"), zone.name()),
            Err(_) => at.to_string(),
        }
    }

    /// A length of time in its two largest units.
    pub(crate) fn length(&self, length: Duration) -> String {
        let seconds = length.as_secs();
        let units = [
            ("unit.day", 86_400),
            ("unit.hour", 3_600),
            ("unit.minute", 60),
            ("unit.second", 1),
        ];
        let mut left = seconds;
        let mut parts = Vec::new();
        for (key, size) in units {
            let count = left / size;
            left %= size;
            if count > 0 || (size == 1 && parts.is_empty()) {
                parts.push(self.say(key, &[("n", &count.to_string())]));
            }
            if parts.len() == 2 {
                break;
            }
        }
        parts.join(" ")
    }

    /// What a common cause hit, and how many.
    pub(crate) fn scope(&self, scope: &Scope, registry: &Registry) -> String {
        let regency = || {
            let office = registry.office(scope.offices.first()?)?;
            office
                .regency
                .clone()
                .filter(|_| scope.kind == ScopeKind::Regency)
        };
        let key = format!("scope.{}", scope.kind.as_str());
        let named = match scope.kind {
            ScopeKind::Province => province(&scope.code).unwrap_or(&scope.code),
            _ => &scope.code,
        };
        let name = regency().unwrap_or_else(|| self.say(&key, &[("name", named)]));
        let (failed, watched) = (scope.failed.to_string(), scope.watched.to_string());
        let values = [
            ("failed", &*failed),
            ("watched", &watched),
            ("scope", &name),
        ];
        self.say("incident.scope", &values)
    }

    /// One incident in a sentence or two. `subject`: the office's name, or the scope; `by`: who knows of it.
    pub(super) fn sentence(
        &self,
        incident: &Incident,
        now: &Told,
        (subject, by): (&str, &str),
    ) -> String {
        let facts = &incident.facts;
        let office = clock_of(incident);
        let cause = self.cause(now.cause);
        let since = Self::time(facts.opened_ms, office);
        let end = facts.resolved_ms.unwrap_or(facts.opened_ms);
        let (until, length) = (
            Self::time(end, office),
            self.length(end.since(facts.opened_ms)),
        );
        let key = match &now.state {
            Telling::Firing => "message.firing",
            Telling::Acknowledged(_) => "message.acknowledged",
            Telling::Resolved => "message.resolved",
            Telling::Retracted => "message.retracted",
        };
        let mut text = self.say(
            key,
            &[
                ("cause", &cause),
                ("since", &since),
                ("until", &until),
                ("length", &length),
                ("subject", subject),
                ("by", by),
            ],
        );
        let mut newest = incident.revisions.iter().rev();
        let failed = newest.find(|one| one.reason == RevisionReason::RepairFailed);
        if let (Some(last), Telling::Firing) = (failed, &now.state) {
            let time = Self::time(last.at_ms, office);
            text.push(' ');
            text += &self.say("message.again", &[("time", &time)]);
        }
        if let (Some(count), Telling::Firing) = (now.relapse, &now.state) {
            text.push(' ');
            text += &self.say("message.relapse", &[("count", &count.to_string())]);
        }
        text
    }

    pub(super) fn cause(&self, cause: Cause) -> String {
        self.say(&format!("cause.{}", cause.as_str()), &[])
    }
}

/// The office by whose clock an incident is told.
pub(super) fn clock_of(incident: &Incident) -> Option<&OfficeCode> {
    let scope = incident.facts.scope.as_ref();
    let office = incident.office.as_ref();
    office.or_else(|| scope.and_then(|scope| scope.offices.first()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_catalogues_have_the_same_texts() {
        let keys = |text: &str| {
            let all: BTreeMap<String, String> = serde_json::from_str(text).expect("JSON");
            all.into_keys().collect::<Vec<_>>()
        };
        assert_eq!(keys(include_str!("id.json")), keys(include_str!("en.json")));
    }

    #[test]
    fn every_cause_has_its_advice() {
        for language in [Language::Id, Language::En] {
            let catalogue = Catalogue::of(language).expect("reads");
            for cause in Cause::ALL {
                let key = format!("advice.{}", cause.as_str());
                assert_ne!(catalogue.say(&key, &[]), key);
                assert!(!catalogue.cause(cause).starts_with("cause."));
            }
        }
    }

    #[test]
    fn times_are_the_offices_and_lengths_are_short() {
        let catalogue = Catalogue::of(Language::Id).expect("reads");
        let jayapura = "91.71.01".parse().expect("a code");
        let at = UnixMillis(1_790_000_000_000);
        assert_eq!(Catalogue::time(at, None), "21-09-2026 21:13 WIB");
        assert_eq!(Catalogue::time(at, Some(&jayapura)), "21-09-2026 23:13 WIT");
        for (seconds, text) in [
            (0, "0 detik"),
            (59, "59 detik"),
            (3_660, "1 jam 1 menit"),
            (86_400 * 153 + 7_261, "153 hari 2 jam"),
        ] {
            assert_eq!(catalogue.length(Duration::from_secs(seconds)), text);
        }
    }
}
