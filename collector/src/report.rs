//! Reports: the availability of a month, with what nobody saw and the number of its revision.
//!
//! A report of a month that is over has a number: 1 when it is first made, and one more each time that what it says has changed since, because an agent delivered late or the past was
//! judged anew. Who holds two papers of one month sees which is the newer. A month that is not over has none.

use crate::access::Regions;
use crate::api::Shared;
use crate::availability::{self, Asked, AvailabilityView, By, Calendar, Counted, Gap};
use crate::join::Fingerprint;
use crate::keys;
use anyhow::Context;
use denyut_detect::calendar::Zone;
use denyut_proto::{Invalid, UnixMillis};
use denyut_store::state::{Change, get_json, scan_json};
use jiff::civil::Date;
use jiff::tz::{Offset, TimeZone};
use jiff::{Timestamp, ToSpan};
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// Numbers that are kept, at most: above that those of the oldest months go.
const KEPT_MOST: usize = 20_000;

/// A month by the clock of the place that reports are made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Month {
    first: Date,
    zone: Zone,
}

impl Month {
    /// Reads `2026-11`.
    pub(crate) fn parse(text: &str, zone: Zone) -> Result<Self, Invalid> {
        let first = format!("{text}-01").parse::<Date>();
        let first = first
            .ok()
            .filter(|first| text.len() == 7 && (2000..2200).contains(&first.year()));
        first.map(|first| Self { first, zone }).ok_or_else(|| {
            let fix = "write it like `2026-11`";
            Invalid::new("month", text.escape_debug(), "not a month", fix)
        })
    }

    /// The one that a moment lies in.
    pub(crate) fn of(at: UnixMillis, zone: Zone) -> Self {
        let there = Timestamp::from_millisecond(at.0).unwrap_or_default();
        let there = there.to_zoned(clock(zone));
        Self {
            first: there.date().first_of_month(),
            zone,
        }
    }

    /// So many months later, or earlier.
    pub(crate) fn plus(self, months: i32) -> Self {
        let first = self.first.checked_add(months.months());
        Self {
            first: first.unwrap_or(self.first),
            ..self
        }
    }

    /// From its first moment to its last.
    pub(crate) fn range(self) -> Range<UnixMillis> {
        let begin = |date: Date| {
            let begin = date.to_zoned(clock(self.zone));
            UnixMillis(begin.map_or(0, |begin| begin.timestamp().as_millisecond()))
        };
        begin(self.first)..begin(self.plus(1).first)
    }

    pub(crate) fn number(self) -> i8 {
        self.first.month()
    }

    pub(crate) fn year(self) -> i16 {
        self.first.year()
    }
}

impl std::fmt::Display for Month {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:04}-{:02}", self.year(), self.number())
    }
}

fn clock(zone: Zone) -> TimeZone {
    let seconds = i32::try_from(zone.offset_ms() / 1_000).ok();
    let offset = seconds.and_then(|seconds| Offset::from_seconds(seconds).ok());
    TimeZone::fixed(offset.unwrap_or(Offset::UTC))
}

/// What a report is of.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) by: By,
    pub(crate) regions: Regions,
    pub(crate) month: Month,
    pub(crate) hours: Counted,
}

/// A report.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) lines: Vec<AvailabilityView>,
    /// All lines together; none without any.
    pub(crate) total: Option<AvailabilityView>,
    /// What nobody saw, the longest first.
    pub(crate) gaps: Vec<Gap>,
    pub(crate) made_ms: UnixMillis,
    /// Its number, once the month is over.
    pub(crate) revision: Option<Revision>,
}

/// Which of the reports of one month this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Revision {
    pub(crate) number: u32,
    /// When it was first made so.
    pub(crate) since_ms: UnixMillis,
}

/// What is kept of the newest.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    number: u32,
    since: UnixMillis,
    digest: String,
}

/// Values of the state, as [`crate::tried`] tries them.
pub(crate) fn read(bytes: &[u8]) {
    serde_json::from_slice::<Kept>(bytes).ok();
}

/// Makes a report. Blocks, for as long as reading a month takes.
pub(crate) fn make(shared: &Shared, wanted: &Wanted, now: UnixMillis) -> anyhow::Result<Report> {
    let range = wanted.month.range();
    let asked = Asked {
        by: wanted.by,
        region: &wanted.regions,
        range: range.clone(),
        calendar: Calendar {
            hours: &shared.gate.hours,
            holidays: &shared.gate.holidays,
            counted: wanted.hours,
        },
    };
    let (lines, mut gaps) = availability::read(&shared.query, &asked, None, usize::MAX, now)?;
    gaps.sort_by(|one, two| {
        let longest = two.counted_ms.cmp(&one.counted_ms);
        longest.then_with(|| (&one.office, one.from_ms).cmp(&(&two.office, two.from_ms)))
    });
    let total = total(&lines);
    let revision = if range.end <= now && !lines.is_empty() {
        let content = serde_json::to_vec(&(&lines, &gaps)).context("a report is plain JSON")?;
        Some(number(
            shared,
            wanted,
            &Fingerprint::of(&content).to_string(),
            now,
        )?)
    } else {
        None
    };
    Ok(Report {
        lines,
        total,
        gaps,
        made_ms: now,
        revision,
    })
}

fn total(lines: &[AvailabilityView]) -> Option<AvailabilityView> {
    let mut all = lines.first()?.clone();
    all.by = By::Nation;
    all.code = String::new();
    all.name = None;
    for line in &lines[1..] {
        all.times += line.times;
        all.offices += line.offices;
    }
    all.percent = all.times.percent();
    all.observed_percent = all.times.observed_percent();
    Some(all)
}

/// The number of what says this.
fn number(
    shared: &Shared,
    wanted: &Wanted,
    digest: &str,
    now: UnixMillis,
) -> anyhow::Result<Revision> {
    let Wanted {
        by,
        regions,
        month,
        hours,
    } = wanted;
    let what = serde_json::to_vec(&(by, regions, hours)).context("it is plain JSON")?;
    let what = Fingerprint::of(&what).to_string();
    // By month first, so that the oldest come first.
    let key = format!("{}{month}/{}", keys::REPORTS, &what[..32]);
    let state = &shared.query.state;
    let known: Option<Kept> = get_json(&**state, &key)?;
    if let Some(kept) = known.as_ref().filter(|kept| kept.digest == digest) {
        return Ok(Revision {
            number: kept.number,
            since_ms: kept.since,
        });
    }
    let kept = Kept {
        number: known.as_ref().map_or(1, |kept| kept.number + 1),
        since: now,
        digest: digest.to_owned(),
    };
    let mut change = Change::default();
    if known.is_none() && state.count(keys::REPORTS)? >= KEPT_MOST {
        let oldest = scan_json::<Kept>(&**state, keys::REPORTS)?;
        change.delete = oldest.into_iter().take(100).map(|(key, _)| key).collect();
    }
    change.put_json(key, &kept)?;
    state.apply(change).map_err(anyhow::Error::from)?;
    // Whoever prints it has it on paper: it must not get the same number again.
    state.sync()?;
    Ok(Revision {
        number: kept.number,
        since_ms: kept.since,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_month_begins_and_ends_by_its_own_clock() {
        let month = Month::parse("2026-11", Zone::Wib).expect("a month");
        let Range { start, end } = month.range();
        // 2026-11-01 and 2026-12-01 at 00:00 WIB.
        assert_eq!((start.0, end.0), (1_793_466_000_000, 1_796_058_000_000));
        assert_eq!(Month::of(start, Zone::Wib), month);
        assert_eq!(
            Month::of(UnixMillis(start.0 - 1), Zone::Wib).to_string(),
            "2026-10"
        );
        assert_eq!(month.plus(2).to_string(), "2027-01");
        let wit = Month::parse("2026-11", Zone::Wit).expect("a month");
        assert_eq!(start.0 - wit.range().start.0, 2 * 3_600_000);
        for wrong in [
            "",
            "2026",
            "2026-13",
            "2026-1",
            "26-11",
            "2026-11-01",
            "9999-01",
        ] {
            assert!(Month::parse(wrong, Zone::Wib).is_err(), "{wrong}");
        }
    }
}
