//! Where a caller may look.

use crate::config::region_of;
use denyut_detect::calendar::in_region;
use denyut_proto::{Invalid, OfficeCode};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The one word that stands for the whole country.
const ALL: &str = "all";
/// Regions of one caller, at most.
const MOST: usize = 100;

/// Regions: `all`, or codes of regions or their beginnings (`36`, `36.73`, `36.73.02`). Nothing in none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
#[schema(value_type = Vec<String>, example = json!(["36.73"]))]
pub(crate) struct Regions(Vec<String>);

/// Whether a region lies in another, or is it.
fn within(region: &str, of: &str) -> bool {
    let rest = region.strip_prefix(of);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

impl Regions {
    pub(crate) fn everywhere() -> Self {
        Self(vec![ALL.to_owned()])
    }

    /// One region, whose code was checked.
    pub(crate) fn one(region: String) -> Self {
        Self(vec![region])
    }

    /// As somebody wrote them, checked: at least one.
    pub(crate) fn check(&self) -> Result<(), Invalid> {
        if self.is_everywhere() {
            return Ok(());
        }
        if self.0.is_empty() || self.0.len() > MOST {
            return Err(Invalid::new(
                "regions",
                self.0.len(),
                "not a number of regions",
                format!("name 1 to {MOST}, such as `36.73`, or only `all`"),
            ));
        }
        self.0
            .iter()
            .try_for_each(|region| region_of("regions", region))
    }

    pub(crate) fn is_everywhere(&self) -> bool {
        matches!(&self.0[..], [one] if one == ALL)
    }

    /// The codes; none for the whole country.
    pub(crate) fn each(&self) -> impl Iterator<Item = &str> {
        let codes = self.0.iter().map(String::as_str);
        codes.filter(|code| *code != ALL)
    }

    /// Whether an office lies in them.
    pub(crate) fn has(&self, office: &OfficeCode) -> bool {
        self.is_everywhere() || self.0.iter().any(|region| in_region(office, region))
    }

    /// Whether all of a region lies in them.
    pub(crate) fn has_region(&self, region: &str) -> bool {
        self.is_everywhere() || self.0.iter().any(|one| within(region, one))
    }

    /// Whether some of a region lies in them.
    pub(crate) fn touch(&self, region: &str) -> bool {
        self.has_region(region) || self.0.iter().any(|one| within(one, region))
    }

    /// Whether all of the others lie in them.
    pub(crate) fn have(&self, others: &Self) -> bool {
        self.is_everywhere()
            || (!others.is_everywhere() && others.0.iter().all(|region| self.has_region(region)))
    }

    /// What lies in both.
    pub(crate) fn and(&self, other: &Self) -> Self {
        if self.is_everywhere() {
            return other.clone();
        }
        if other.is_everywhere() {
            return self.clone();
        }
        let of = |one: &Self, two: &Self| -> Vec<String> {
            let inside = one.0.iter().filter(|region| two.has_region(region));
            inside.cloned().collect()
        };
        let mut both = of(self, other);
        both.extend(of(other, self));
        both.sort_unstable();
        both.dedup();
        Self(both)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn regions(all: &[&str]) -> Regions {
        Regions(all.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_region_is_whole_parts_of_a_code() {
        let some = regions(&["36.7", "36.73", "32"]);
        let has = |code: &str| some.has(&code.parse().expect("a code"));
        assert!(has("36.73.02") && has("32.01.01"));
        assert!(!has("36.72.02") && !has("33.01.01"));
        assert!(!Regions::default().has(&"36.73.02".parse().expect("a code")));
        assert!(Regions::everywhere().has(&"36.73.02".parse().expect("a code")));
        assert!(some.touch("36") && some.touch("36.73.02") && !some.touch("36.71"));
        assert!(some.has_region("32.01") && !some.has_region("36"));
    }

    #[test]
    fn both_is_what_lies_in_both() {
        let (province, city) = (regions(&["36", "32.01"]), regions(&["36.73", "32", "31"]));
        assert_eq!(province.and(&city), regions(&["32.01", "36.73"]));
        assert_eq!(city.and(&province), regions(&["32.01", "36.73"]));
        assert_eq!(city.and(&Regions::everywhere()), city);
        assert_eq!(regions(&["36"]).and(&regions(&["31"])), Regions::default());
        assert!(regions(&["36"]).have(&regions(&["36.73", "36"])));
        assert!(!regions(&["36.73"]).have(&regions(&["36"])));
        assert!(!regions(&["36"]).have(&Regions::everywhere()));
        // Nobody is made to see nothing by a misspelt word.
        for wrong in [&[][..], &["all", "36"], &["banten"], &["36."], &["ALL"]] {
            assert!(regions(wrong).check().is_err(), "{wrong:?}");
        }
    }
}
