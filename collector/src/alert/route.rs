//! Which incidents a receiver is told of.

use crate::registry::{Office, Registry};
use denyut_detect::calendar::in_region;
use denyut_detect::incident::{Scope, ScopeKind};
use denyut_detect::{Cause, Incident};
use denyut_proto::OfficeCode;

/// Every incident that fits all of it is told to the receiver; what is empty fits all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Route {
    /// Its name.
    pub(crate) receiver: String,
    /// Region codes or their beginnings, in whole parts.
    pub(crate) regions: Vec<String>,
    pub(crate) causes: Vec<Cause>,
    /// Only those that came back after a repair, or only those that did not.
    pub(crate) relapse: Option<bool>,
}

/// What routes look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct About {
    /// The office; of a common cause those that it hit.
    pub(crate) offices: Vec<OfficeCode>,
    pub(crate) cause: Cause,
    pub(crate) relapse: bool,
}

impl About {
    pub(crate) fn of(incident: &Incident, registry: &Registry) -> Self {
        let scope = incident.facts.scope.as_ref();
        let hit = scope.map(|scope| hit(scope, registry));
        Self {
            offices: incident
                .office
                .clone()
                .map_or(hit.unwrap_or_default(), |office| vec![office]),
            cause: incident.facts.cause,
            relapse: incident.facts.relapse.is_some(),
        }
    }
}

/// The offices that a common cause hit; of very many only the first are listed, and then all that are in its scope.
fn hit(scope: &Scope, registry: &Registry) -> Vec<OfficeCode> {
    if usize::try_from(scope.failed).is_ok_and(|failed| failed <= scope.offices.len()) {
        return scope.offices.clone();
    }
    let is_in = |(code, office): &(&OfficeCode, &Office)| {
        let named = |name: &Option<String>| name.as_deref() == Some(&*scope.code);
        match scope.kind {
            ScopeKind::Pool => named(&office.site.pool),
            ScopeKind::Pop => named(&office.site.pop),
            ScopeKind::Isp => named(&office.site.isp),
            ScopeKind::Regency | ScopeKind::Province => in_region(code, &scope.code),
            ScopeKind::Nation => true,
        }
    };
    let all = registry.offices.iter().filter(is_in);
    all.map(|(code, _)| code.clone()).collect()
}

impl Route {
    /// What it takes, for people.
    pub(crate) fn describe(&self) -> String {
        let which = match self.relapse {
            None => "every incident",
            Some(true) => "every relapse",
            Some(false) => "every incident that is no relapse",
        };
        let causes: Vec<&str> = self.causes.iter().map(|cause| cause.as_str()).collect();
        let of = |what: &str, list: &[&str]| {
            if list.is_empty() {
                String::new()
            } else {
                format!(" {what} {}", list.join(" or "))
            }
        };
        let regions: Vec<&str> = self.regions.iter().map(String::as_str).collect();
        format!("{which}{}{}", of("in", &regions), of("by", &causes))
    }

    /// Whether it takes this, or else what of it does not fit.
    pub(crate) fn takes(&self, about: &About) -> Result<(), &'static str> {
        let in_one =
            |office: &OfficeCode| self.regions.iter().any(|region| in_region(office, region));
        if !self.regions.is_empty() && !about.offices.iter().any(in_one) {
            return Err("regions");
        }
        if !self.causes.is_empty() && !self.causes.contains(&about.cause) {
            return Err("causes");
        }
        if self.relapse.is_some_and(|relapse| relapse != about.relapse) {
            return Err("relapse");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_takes_what_fits_all_of_it() {
        let about = |office: &str, cause, relapse| About {
            offices: vec![office.parse().expect("a code")],
            cause,
            relapse,
        };
        let route = Route {
            receiver: "dinas".to_owned(),
            regions: vec!["36.73".to_owned(), "36.04.1".to_owned()],
            causes: vec![Cause::Uplink, Cause::Server],
            relapse: Some(true),
        };
        assert_eq!(route.takes(&about("36.73.02", Cause::Uplink, true)), Ok(()));
        for (about, why) in [
            (about("36.72.02", Cause::Uplink, true), "regions"),
            // Only whole parts of a code.
            (about("36.04.10", Cause::Uplink, true), "regions"),
            (about("36.73.02", Cause::Lan, true), "causes"),
            (about("36.73.02", Cause::Server, false), "relapse"),
        ] {
            assert_eq!(route.takes(&about), Err(why), "{about:?}");
        }
        let all = Route {
            regions: Vec::new(),
            causes: Vec::new(),
            relapse: None,
            ..route
        };
        assert_eq!(all.takes(&about("94.01.01", Cause::Power, false)), Ok(()));
    }
}
