//! Series: the links that somebody sees, by their labels, and their points.

use super::{Budget, Refused};
use crate::access::Regions;
use crate::keys;
use crate::query::Query;
use crate::registry::Office;
use denyut_detect::Link;
use denyut_proto::sample::Evidence;
use denyut_proto::{OfficeCode, Outcome, Role, UnixMillis};
use denyut_store::history::{LinkId, Row, RowsError};
use promql_parser::label::{MatchOp, Matcher, Matchers};
use promql_parser::parser::VectorSelector;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The label that the name of a metric is.
pub(crate) const NAME: &str = "__name__";
const AGENT: &str = "agent";
const TARGET: &str = "target";
const ROLE: &str = "role";
/// The metrics, and what they are.
pub(crate) const METRICS: [(&str, &str); 2] = [
    (UP, "Whether the probe was answered: 1, or 0."),
    (
        RTT,
        "The round-trip time of a probe that was answered, in seconds.",
    ),
];
const UP: &str = "denyut_up";
const RTT: &str = "denyut_rtt_seconds";
/// How long a sample stands for what is there now, in ms.
const LOOKBACK_MS: i64 = 300_000;
/// Rows that stand for samples that are no longer kept, the finest first.
const ROWS_MS: [i64; 3] = [60_000, 3_600_000, 86_400_000];

/// Labels of a series, by name.
pub(crate) type Labels = BTreeMap<Arc<str>, Arc<str>>;

/// What a series is read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Metric {
    Up,
    Rtt,
}

/// A series before it is read.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) labels: Labels,
    link: LinkId,
    metric: Metric,
}

/// Points of one series, ascending, with how long each stands for what is there.
#[derive(Debug, Clone, Default)]
pub(super) struct Points {
    pub(super) all: Vec<(i64, f64)>,
    /// Points before this are of rows, …
    rows_until: i64,
    /// … of so many ms.
    row_ms: i64,
}

impl Points {
    /// The newest point at `at` that still stands.
    pub(super) fn newest(&self, at: i64) -> Option<(i64, f64)> {
        let count = self.all.partition_point(|(time, _)| *time <= at);
        let (time, value) = *self.all.get(count.checked_sub(1)?)?;
        let stands = if time <= self.rows_until {
            self.row_ms.max(LOOKBACK_MS)
        } else {
            LOOKBACK_MS
        };
        (time >= at - stands).then_some((time, value))
    }

    /// Those from `from` to `to`, both included.
    pub(super) fn within(&self, from: i64, to: i64) -> &[(i64, f64)] {
        let first = self.all.partition_point(|(time, _)| *time < from);
        let last = self.all.partition_point(|(time, _)| *time <= to);
        self.all.get(first..last).unwrap_or_default()
    }

    #[cfg(test)]
    pub(super) fn of(all: Vec<(i64, f64)>) -> Self {
        Self {
            all,
            rows_until: i64::MIN,
            row_ms: 0,
        }
    }
}

/// The matchers of a selector, its name among them.
pub(super) fn matchers(selector: &VectorSelector) -> Matchers {
    let mut matchers = selector.matchers.clone();
    if let Some(name) = &selector.name {
        let name = Matcher::new(MatchOp::Equal, NAME, name);
        matchers.matchers.push(name);
    }
    matchers
}

/// Whether labels fit; one that is not there is empty.
fn fit(matchers: &Matchers, value_of: impl Fn(&str) -> Option<Arc<str>>) -> bool {
    let fits = |one: &Matcher| one.is_match(value_of(&one.name).as_deref().unwrap_or_default());
    if !matchers.or_matchers.is_empty() {
        let mut either = matchers.or_matchers.iter();
        return either.any(|all| all.iter().all(fits)) && matchers.matchers.iter().all(fits);
    }
    matchers.matchers.iter().all(fits)
}

/// The names of labels, each of them once in memory.
struct Names {
    office: Arc<str>,
    name: Arc<str>,
    regency: Arc<str>,
    province: Arc<str>,
    isp: Arc<str>,
    agent: Arc<str>,
    target: Arc<str>,
    role: Arc<str>,
    metric: Arc<str>,
}

impl Names {
    fn new() -> Self {
        Self {
            office: "office".into(),
            name: "name".into(),
            regency: "regency".into(),
            province: "province".into(),
            isp: "isp".into(),
            agent: AGENT.into(),
            target: TARGET.into(),
            role: ROLE.into(),
            metric: NAME.into(),
        }
    }

    /// What all series of an office have.
    fn of_office(&self, code: &OfficeCode, office: &Office) -> Labels {
        let mut labels = Labels::new();
        let name = Some(&office.name);
        let known = [
            (&self.office, Some(code.as_str())),
            (&self.province, code.as_str().get(..2)),
            (&self.name, name.map(String::as_str)),
            (&self.regency, office.regency.as_deref()),
            (&self.isp, office.site.isp.as_deref()),
        ];
        for (label, value) in known {
            if let Some(value) = value.filter(|value| !value.is_empty()) {
                labels.insert(Arc::clone(label), value.into());
            }
        }
        labels
    }

    /// And those of a link.
    fn add_link(&self, labels: &mut Labels, link: &LinkId, role: Option<Role>) {
        labels.insert(Arc::clone(&self.agent), link.agent.as_str().into());
        labels.insert(Arc::clone(&self.target), link.target.as_str().into());
        match role {
            Some(role) => labels.insert(Arc::clone(&self.role), role.as_str().into()),
            None => labels.remove(&self.role),
        };
    }
}

/// The labels of a link, without the metric's name; none of one that no office has. Blocks.
pub(crate) fn labels_of(query: &Query, link: &LinkId) -> anyhow::Result<Option<Labels>> {
    let Some((code, office)) = query.registry.office_of(&link.agent) else {
        return Ok(None);
    };
    let names = Names::new();
    let mut labels = names.of_office(&code, &office);
    let known: Option<Link> = keys::get_packed(&*query.state, &keys::link(link))?;
    names.add_link(&mut labels, link, known.and_then(|known| known.role));
    Ok(Some(labels))
}

/// The series that fit, of the links that somebody sees. Blocks.
pub(crate) fn select(
    query: &Query,
    sees: &Regions,
    matchers: &Matchers,
    budget: &mut Budget,
) -> Result<Vec<Found>, Refused> {
    let mut found = Vec::new();
    let names = Names::new();
    let offices = query.registry.offices();
    for (code, office) in offices.iter().filter(|(code, _)| sees.has(code)) {
        let of_office = names.of_office(code, office);
        // Before its links are read: most selectors are of few offices.
        let of_links = [AGENT, TARGET, ROLE, NAME];
        let may_fit = |one: &Matcher| {
            of_links.contains(&one.name.as_str())
                || one.is_match(of_office.get(one.name.as_str()).map_or("", |value| value))
        };
        if matchers.or_matchers.is_empty() && !matchers.matchers.iter().all(may_fit) {
            continue;
        }
        budget.in_time()?;
        for (link, role) in query.links(code)? {
            let mut labels = of_office.clone();
            names.add_link(&mut labels, &link, role);
            for (metric, name) in [(Metric::Up, UP), (Metric::Rtt, RTT)] {
                labels.insert(Arc::clone(&names.metric), name.into());
                if fit(matchers, |name| labels.get(name).cloned()) {
                    budget.take(1)?;
                    found.push(Found {
                        labels: labels.clone(),
                        link: link.clone(),
                        metric,
                    });
                }
            }
        }
    }
    Ok(found)
}

impl Found {
    /// The points that are needed to answer from `from` to `to`, both included. Blocks.
    pub(super) fn read(
        &self,
        query: &Query,
        from: i64,
        to: i64,
        budget: &mut Budget,
    ) -> Result<Points, Refused> {
        let mut points = Points {
            all: Vec::new(),
            rows_until: i64::MIN,
            row_ms: 0,
        };
        let kept_from = query.history.kept_from().0;
        if from < kept_from {
            self.read_rows(query, from, to.min(kept_from - 1), &mut points)?;
        }
        let range = UnixMillis((from - LOOKBACK_MS).max(kept_from))..UnixMillis(to + 1);
        if range.start < range.end {
            let mut taken = Ok(());
            query.history.visit(&self.link, range, &mut |sample| {
                let value = match (self.metric, sample.outcome) {
                    (Metric::Rtt, Outcome::Ok { rtt_us }) => Some(f64::from(rtt_us) / 1e6),
                    (Metric::Rtt, _) => None,
                    (Metric::Up, outcome) => match outcome.evidence() {
                        Evidence::Good => Some(1.0),
                        Evidence::Bad => Some(0.0),
                        Evidence::None => None,
                    },
                };
                if let Some(value) = value {
                    push(&mut points.all, sample.at.0, value);
                }
                // Every so often: a series of years must not be read before it is known to be too much.
                if points.all.len().is_multiple_of(10_000) {
                    taken = budget.in_time();
                }
                taken.is_ok()
            })?;
            taken?;
        }
        budget.take(points.all.len())?;
        Ok(points)
    }

    /// Rows in place of samples: the finest that are left.
    fn read_rows(
        &self,
        query: &Query,
        from: i64,
        to: i64,
        points: &mut Points,
    ) -> anyhow::Result<()> {
        for row_ms in ROWS_MS {
            let range = UnixMillis(from - row_ms.max(LOOKBACK_MS))..UnixMillis(to + 1);
            let mut rows = Vec::new();
            let mut add = |row: &Row| {
                let at = row.start.0 + row_ms;
                if at <= to
                    && let Some(value) = self.value_of(row)
                {
                    push(&mut rows, at, value);
                }
                true
            };
            match query
                .history
                .visit_rows(&self.link, range, row_ms, &mut add)
            {
                Ok(()) => {
                    points.all = rows;
                    points.rows_until = to;
                    points.row_ms = row_ms;
                    return Ok(());
                }
                Err(RowsError::TooFine { .. }) => {}
                Err(RowsError::Store(error)) => return Err(error),
            }
        }
        Ok(())
    }

    /// A row in one number: the share that was answered, or the mean.
    fn value_of(&self, row: &Row) -> Option<f64> {
        match self.metric {
            Metric::Up => {
                let failed = row.failed.iter().filter(|(reason, _)| !reason.is_local());
                let failed: u32 = failed.map(|(_, count)| *count).sum();
                let all = f64::from(row.ok) + f64::from(failed);
                (all > 0.0).then(|| f64::from(row.ok) / all)
            }
            Metric::Rtt => {
                let rtt = row.rtt.as_ref()?;
                Some(rtt.sum as f64 / f64::from(row.ok) / 1e6)
            }
        }
    }
}

/// Adds a point; of two of one time the later one counts.
fn push(points: &mut Vec<(i64, f64)>, at: i64, value: f64) {
    match points.last_mut() {
        Some(last) if last.0 == at => last.1 = value,
        _ => points.push((at, value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_stands_for_five_minutes_and_a_row_for_its_length() {
        let mut points = Points::of(vec![(1_000_000, 1.0), (1_010_000, 2.0), (9_000_000, 3.0)]);
        assert_eq!(points.newest(1_009_999), Some((1_000_000, 1.0)));
        assert_eq!(points.newest(1_010_000), Some((1_010_000, 2.0)));
        assert_eq!(points.newest(1_310_000), Some((1_010_000, 2.0)));
        assert_eq!(points.newest(1_310_001), None);
        assert_eq!(points.newest(999_999), None);
        points.rows_until = 2_000_000;
        points.row_ms = 3_600_000;
        assert_eq!(points.newest(4_000_000), Some((1_010_000, 2.0)));
        assert_eq!(points.newest(9_300_001), None);
        assert_eq!(points.within(1_000_000, 1_010_000).len(), 2);
        assert_eq!(points.within(1_000_001, 8_999_999), [(1_010_000, 2.0)]);
    }
}
