//! What would become of an incident: who would be told, when, and what keeps it from the others.

use super::route::{About, To};
use super::{Alerts, Severity, Silence};
use crate::registry::Registry;
use denyut_detect::calendar::{Holidays, Maintenance, Opening, Zone};
use denyut_detect::{Cause, PatternKind};
use denyut_proto::{OfficeCode, UnixMillis};

/// What is looked at.
pub(crate) struct Rehearsal<'a> {
    pub(crate) alerts: &'a Alerts,
    pub(crate) registry: &'a Registry,
    pub(crate) opening: Opening<'a>,
    pub(crate) maintenance: &'a [Maintenance],
    pub(crate) silences: &'a [Silence],
    /// Also the routes that would tell nobody.
    pub(crate) all_routes: bool,
}

/// An incident that might be.
pub(crate) struct Supposed {
    pub(crate) office: OfficeCode,
    pub(crate) cause: Cause,
    /// It came back after a repair.
    pub(crate) relapse: bool,
    pub(crate) patterns: Vec<PatternKind>,
    /// When it would be told of.
    pub(crate) at: UnixMillis,
}

impl Rehearsal<'_> {
    /// What would become of it, a sentence each.
    pub(crate) fn play(&self, supposed: Supposed) -> Vec<String> {
        let Supposed {
            office,
            cause,
            relapse,
            mut patterns,
            at,
        } = supposed;
        if relapse {
            patterns.push(PatternKind::Relapse);
        }
        let about = About {
            offices: vec![office.clone()],
            cause,
            severity: if relapse {
                Severity::Critical
            } else {
                Severity::Warning
            },
            patterns,
        };
        let mut said = self.hindrances(&office, &about, at);
        self.routes(&about, at, &mut said);
        said
    }

    /// What keeps it from everybody, whatever the routes say.
    fn hindrances(&self, office: &OfficeCode, about: &About, at: UnixMillis) -> Vec<String> {
        let mut said = Vec::new();
        if !self.registry.has(office) {
            said.push(format!(
                "There is no office {office}; it is asked for all the same."
            ));
        }
        if !self.opening.is_working(at) {
            let next = self.opening.next_working(at);
            let next = next.map_or("never".to_owned(), |at| format!("not before {at}"));
            said.push(format!(
                "The office is closed then: somebody is called for it {next}."
            ));
        }
        for work in self.maintenance.iter().filter(|work| work.is_of(office)) {
            if let Some((_, until)) = work.when.holding(at, Zone::of(office)) {
                said.push(format!(
                    "Work is announced until {until} ({}): trouble in it is no incident.",
                    work.reason
                ));
            }
        }
        for one in self.silences.iter().filter(|one| one.covers(about, at)) {
            said.push(format!(
                "Silence {} holds until {}: nobody is told before ({}: {}).",
                one.number, one.until_ms, one.by, one.why
            ));
        }
        said
    }

    fn routes(&self, about: &About, now: UnixMillis, said: &mut Vec<String>) {
        let every_day = Holidays::none();
        for route in &self.alerts.routes {
            let what = route.describe();
            let whom = match &route.to {
                To::Receiver(name) => name.clone(),
                To::Role(role) => format!("every {role}"),
            };
            if let Err(why) = route.takes(about) {
                if self.all_routes {
                    said.push(format!(
                        "{whom} is not told by this route, for its `{why}`: {what}."
                    ));
                }
                continue;
            }
            let after = match self.opening.after(now, route.after) {
                _ if route.after.is_zero() => String::new(),
                Some(at) => format!(" at {at}, if nobody cares for it until then"),
                None => " never: the office is never open".to_owned(),
            };
            let hours = route.hours.as_ref().map(|hours| Opening {
                hours,
                holidays: &every_day,
                ..self.opening
            });
            let hours = match hours.filter(|hours| !hours.is_open(now)) {
                None => String::new(),
                Some(hours) => hours.next_open(now).map_or_else(
                    || " never: it has no hours".to_owned(),
                    |at| format!(" at {at}, when its hours begin"),
                ),
            };
            let when = after + &hours;
            let led = self
                .alerts
                .receivers
                .iter()
                .filter(|one| route.leads_to(one, about));
            let before = said.len();
            said.extend(led.map(|one| {
                format!(
                    "{} ({}) is told{when}: {what}.",
                    one.name,
                    one.channel.describe()
                )
            }));
            if said.len() == before && self.all_routes {
                said.push(format!(
                    "{whom} would be told of {what}, but none of them has this region."
                ));
            }
        }
        if self.alerts.routes.is_empty() {
            said.push("Nobody is told: there is no route.".to_owned());
        }
    }
}
