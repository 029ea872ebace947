//! Which incidents a receiver is told of, from when on, and at what time of day.

use super::Receiver;
use crate::registry::{Office, Registry};
use denyut_detect::calendar::{Hours, in_region};
use denyut_detect::incident::{Scope, ScopeKind};
use denyut_detect::{Cause, Incident, PatternKind};
use denyut_proto::OfficeCode;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

/// Every incident that fits all of it is told; what is empty fits all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) to: To,
    /// Region codes or their beginnings, in whole parts.
    pub(crate) regions: Vec<String>,
    pub(crate) causes: Vec<Cause>,
    pub(crate) severities: Vec<Severity>,
    /// Of the office.
    pub(crate) patterns: Vec<PatternKind>,
    /// Only what nobody has cared for during so much of the office's opening time.
    pub(crate) after: Duration,
    /// Only at these times of the office's week: what begins outside of them waits, and is not told again in them.
    pub(crate) hours: Option<Hours>,
}

/// Whom a route leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum To {
    /// The receiver of this name.
    Receiver(String),
    /// All receivers of this role whose regions it is in.
    Role(String),
}

/// How bad an incident is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Severity {
    /// One office's, for the first time.
    Warning,
    /// It came back after a repair, or hit many offices.
    Critical,
}

impl Severity {
    pub(crate) fn of(incident: &Incident) -> Self {
        if incident.facts.scope.is_some() || incident.facts.relapse.is_some() {
            Self::Critical
        } else {
            Self::Warning
        }
    }

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// What routes look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct About {
    /// The office; of a common cause those that it hit.
    pub(crate) offices: Vec<OfficeCode>,
    pub(crate) cause: Cause,
    pub(crate) severity: Severity,
    pub(crate) patterns: Vec<PatternKind>,
}

impl About {
    /// `patterns`: the office's.
    pub(crate) fn of(
        incident: &Incident,
        registry: &Registry,
        mut patterns: Vec<PatternKind>,
    ) -> Self {
        if incident.facts.relapse.is_some() {
            patterns.push(PatternKind::Relapse);
        }
        let scope = incident.facts.scope.as_ref();
        let hit = scope.map(|scope| hit(scope, registry));
        Self {
            offices: incident
                .office
                .clone()
                .map_or(hit.unwrap_or_default(), |office| vec![office]),
            cause: incident.facts.cause,
            severity: Severity::of(incident),
            patterns,
        }
    }

    fn is_in(&self, regions: &[String]) -> bool {
        let in_one = |office: &OfficeCode| regions.iter().any(|region| in_region(office, region));
        regions.is_empty() || self.offices.iter().any(in_one)
    }
}

/// The offices that a common cause hit; of very many only the first are listed, and then all that are in its scope.
fn hit(scope: &Scope, registry: &Registry) -> Vec<OfficeCode> {
    if usize::try_from(scope.failed).is_ok_and(|failed| failed <= scope.offices.len()) {
        return scope.offices.clone();
    }
    let is_in = |(code, office): &(&OfficeCode, &Arc<Office>)| {
        let named = |name: &Option<String>| name.as_deref() == Some(&*scope.code);
        match scope.kind {
            ScopeKind::Pool => named(&office.site.pool),
            ScopeKind::Pop => named(&office.site.pop),
            ScopeKind::Isp => named(&office.site.isp),
            ScopeKind::Regency | ScopeKind::Province => in_region(code, &scope.code),
            ScopeKind::Nation => true,
        }
    };
    let offices = registry.offices();
    let all = offices.iter().filter(is_in);
    all.map(|(code, _)| code.clone()).collect()
}

impl Route {
    /// What it takes, for people.
    pub(crate) fn describe(&self) -> String {
        let of = |what: &str, list: &[&str]| {
            if list.is_empty() {
                String::new()
            } else {
                format!(" {what} {}", list.join(" or "))
            }
        };
        let regions: Vec<&str> = self.regions.iter().map(String::as_str).collect();
        let causes: Vec<&str> = self.causes.iter().map(|cause| cause.as_str()).collect();
        let severities: Vec<&str> = self.severities.iter().map(|one| one.as_str()).collect();
        let patterns: Vec<&str> = self.patterns.iter().map(|one| one.as_str()).collect();
        let after = if self.after.is_zero() {
            String::new()
        } else {
            let after = humantime::format_duration(self.after);
            format!(" that nobody cared for in {after} of opening time")
        };
        let hours = if self.hours.is_some() {
            ", in its hours"
        } else {
            ""
        };
        format!(
            "every{} incident{}{}{}{after}{hours}",
            of("", &severities).trim_end(),
            of("in", &regions),
            of("by", &causes),
            of("at an office that is", &patterns),
        )
        .replace("every  ", "every ")
    }

    /// Whether it takes this, or else what of it does not fit.
    pub(crate) fn takes(&self, about: &About) -> Result<(), &'static str> {
        if !about.is_in(&self.regions) {
            return Err("regions");
        }
        if !self.causes.is_empty() && !self.causes.contains(&about.cause) {
            return Err("causes");
        }
        if !self.severities.is_empty() && !self.severities.contains(&about.severity) {
            return Err("severities");
        }
        let mut patterns = self.patterns.iter();
        if !self.patterns.is_empty() && !patterns.any(|one| about.patterns.contains(one)) {
            return Err("patterns");
        }
        Ok(())
    }

    /// Whether it leads to a receiver, for what it takes.
    pub(crate) fn leads_to(&self, receiver: &Receiver, about: &About) -> bool {
        match &self.to {
            To::Receiver(name) => *name == receiver.name,
            To::Role(role) => {
                receiver.role.as_ref() == Some(role) && about.is_in(&receiver.regions)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_takes_what_fits_all_of_it() {
        let about = |office: &str, cause, severity, patterns: &[PatternKind]| About {
            offices: vec![office.parse().expect("a code")],
            cause,
            severity,
            patterns: patterns.to_vec(),
        };
        let (warning, critical) = (Severity::Warning, Severity::Critical);
        let flaps = &[PatternKind::Lossy, PatternKind::Flapping];
        let route = Route {
            to: To::Receiver("dinas".to_owned()),
            regions: vec!["36.73".to_owned(), "36.04.1".to_owned()],
            causes: vec![Cause::Uplink, Cause::Server],
            severities: vec![critical],
            patterns: vec![PatternKind::Flapping, PatternKind::Roaming],
            after: Duration::ZERO,
            hours: None,
        };
        let fits = about("36.73.02", Cause::Uplink, critical, flaps);
        assert_eq!(route.takes(&fits), Ok(()));
        for (about, why) in [
            (about("36.72.02", Cause::Uplink, critical, flaps), "regions"),
            // Only whole parts of a code.
            (about("36.04.10", Cause::Uplink, critical, flaps), "regions"),
            (about("36.73.02", Cause::Lan, critical, flaps), "causes"),
            (
                about("36.73.02", Cause::Server, warning, flaps),
                "severities",
            ),
            (about("36.73.02", Cause::Server, critical, &[]), "patterns"),
        ] {
            assert_eq!(route.takes(&about), Err(why), "{about:?}");
        }
        assert_eq!(
            route.describe(),
            "every critical incident in 36.73 or 36.04.1 by uplink or server at an office that is flapping or roaming"
        );
        let all = Route {
            regions: Vec::new(),
            causes: Vec::new(),
            severities: Vec::new(),
            patterns: Vec::new(),
            after: Duration::from_secs(4 * 3_600),
            ..route
        };
        let any = about("94.01.01", Cause::Power, warning, &[]);
        assert_eq!(all.takes(&any), Ok(()));
        assert_eq!(
            all.describe(),
            "every incident that nobody cared for in 4h of opening time"
        );
    }
}
