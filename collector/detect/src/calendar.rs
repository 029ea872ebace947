//! When an office is open: its zone, its hours, holidays, and maintenance. Indonesia has no daylight saving, so a zone is an offset.

use denyut_proto::{Invalid, OfficeCode, UnixMillis};
use jiff::civil::{Date, Weekday};
use std::collections::BTreeMap;
use std::time::Duration;

const MINUTE_MS: i64 = 60_000;
const DAY_MS: i64 = 86_400_000;

/// One of Indonesia's three zones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Zone {
    /// Western, UTC+7.
    Wib,
    /// Central, UTC+8.
    Wita,
    /// Eastern, UTC+9.
    Wit,
}

impl Zone {
    /// By the province of an official region code.
    pub fn of(office: &OfficeCode) -> Self {
        Self::of_region(office.as_str())
    }

    /// The same for a region's code or its beginning.
    pub fn of_region(region: &str) -> Self {
        match region.get(..2).unwrap_or_default() {
            "51" | "52" | "53" | "63" | "64" | "65" | "71" | "72" | "73" | "74" | "75" | "76" => {
                Self::Wita
            }
            province if province >= "81" => Self::Wit,
            _ => Self::Wib,
        }
    }

    /// What people call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Wib => "WIB",
            Self::Wita => "WITA",
            Self::Wit => "WIT",
        }
    }

    /// From UTC to local, in ms.
    pub fn offset_ms(self) -> i64 {
        let hours = match self {
            Self::Wib => 7,
            Self::Wita => 8,
            Self::Wit => 9,
        };
        hours * 60 * MINUTE_MS
    }
}

/// Opening hours of a week: spans of minutes of each day, Monday first, ascending, not touching.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hours([Vec<(u16, u16)>; 7]);

impl Default for Hours {
    /// Monday to Thursday 08:00–16:00, Friday 08:00–16:30.
    fn default() -> Self {
        let day = vec![(480, 960)];
        let (friday, closed) = (vec![(480, 990)], Vec::new());
        Self([
            day.clone(),
            day.clone(),
            day.clone(),
            day,
            friday,
            closed.clone(),
            closed,
        ])
    }
}

const DAYS: [[&str; 2]; 7] = [
    ["mon", "sen"],
    ["tue", "sel"],
    ["wed", "rab"],
    ["thu", "kam"],
    ["fri", "jum"],
    ["sat", "sab"],
    ["sun", "min"],
];

impl Hours {
    /// Reads `Mon-Thu 08:00-16:00, Fri 08:00-11:30 13:00-16:30`, or `always`; days also by their Indonesian names (`Sen-Kam`).
    pub fn parse(field: &str, text: &str) -> Result<Self, Invalid> {
        let wrong = |part: &str, problem: &str| {
            let fix =
                "write it like `Mon-Thu 08:00-16:00, Fri 08:00-11:30 13:00-16:30`, or `always`";
            Invalid::new(field, part, problem, fix)
        };
        if text.trim() == "always" {
            return Ok(Self(std::array::from_fn(|_| vec![(0, 1440)])));
        }
        let mut hours: [Vec<(u16, u16)>; 7] = Default::default();
        for part in text.split(',').map(str::trim) {
            let mut words = part.split_whitespace();
            let days = words.next().ok_or_else(|| wrong(text, "a part is empty"))?;
            let day = |name: &str| {
                let is_it = |day: &[&str; 2]| day.iter().any(|one| name.eq_ignore_ascii_case(one));
                let position = DAYS.iter().position(is_it);
                position.ok_or_else(|| wrong(name, "not a day (Mon, Tue, Wed, Thu, Fri, Sat, Sun)"))
            };
            let (first, last) = match days.split_once('-') {
                Some((first, last)) => (day(first)?, day(last)?),
                None => (day(days)?, day(days)?),
            };
            if first > last {
                return Err(wrong(days, "the days are not in the order of the week"));
            }
            let mut spans = Vec::new();
            for span in words {
                let (from, to) = span
                    .split_once('-')
                    .ok_or_else(|| wrong(span, "not a span of time"))?;
                let minute =
                    |text: &str| minute_of(text).ok_or_else(|| wrong(text, "not a time of day"));
                let (from, to) = (minute(from)?, minute(to)?);
                if from >= to || spans.last().is_some_and(|(_, end)| from <= *end) {
                    return Err(wrong(span, "not after what comes before it"));
                }
                spans.push((from, to));
            }
            if spans.is_empty() {
                return Err(wrong(part, "without a time"));
            }
            for ([name, _], day) in DAYS[first..=last].iter().zip(&mut hours[first..=last]) {
                if !day.is_empty() {
                    return Err(wrong(name, "said twice"));
                }
                day.clone_from(&spans);
            }
        }
        Ok(Self(hours))
    }
}

fn minute_of(text: &str) -> Option<u16> {
    let (hour, minute) = text.split_once(':')?;
    let two = |part: &str| {
        (part.len() == 2)
            .then(|| part.parse::<u16>().ok())
            .flatten()
    };
    let (hour, minute) = (two(hour)?, two(minute)?);
    (minute < 60 && hour * 60 + minute <= 1440).then_some(hour * 60 + minute)
}

/// National holidays by date.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holidays(BTreeMap<i64, String>);

impl Holidays {
    /// None at all.
    pub const fn none() -> Self {
        Self(BTreeMap::new())
    }

    /// Adds one.
    pub fn add(&mut self, date: Date, name: &str) {
        self.0.insert(day_number(date), name.to_owned());
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The last year with a holiday.
    pub fn last_year(&self) -> Option<i16> {
        let (day, _) = self.0.last_key_value()?;
        Some(date_of(*day).year())
    }

    /// The name of the holiday at a local day.
    fn on(&self, day: i64) -> Option<&str> {
        self.0.get(&day).map(String::as_str)
    }
}

/// Days since 1970-01-01.
fn day_number(date: Date) -> i64 {
    let epoch = jiff::civil::date(1970, 1, 1);
    epoch.duration_until(date).as_hours() / 24
}

fn date_of(day: i64) -> Date {
    let epoch = jiff::civil::date(1970, 1, 1);
    epoch.saturating_add(jiff::SignedDuration::from_hours(day.saturating_mul(24)))
}

/// Announced work: trouble in it is nobody's incident.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Maintenance {
    /// A region code or its beginning in whole parts: whose.
    pub region: String,
    /// When.
    pub when: When,
    /// For people.
    pub reason: String,
}

/// When announced work is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum When {
    /// Once.
    Once {
        /// From.
        from: UnixMillis,
        /// Up to, and not with.
        until: UnixMillis,
    },
    /// At these times of every week, by each office's clock; holidays are no exception.
    Weekly {
        /// The times.
        hours: Hours,
        /// Since when it was announced: what was before is not judged by it.
        from: UnixMillis,
        /// Up to, and not with; for ever if it is none.
        until: Option<UnixMillis>,
    },
}

impl When {
    /// The window that a moment lies in, or else the next one.
    pub fn next(&self, at: UnixMillis, zone: Zone) -> Option<(UnixMillis, UnixMillis)> {
        static NONE: Holidays = Holidays::none();
        match self {
            Self::Once { from, until } => (at < *until).then_some((*from, *until)),
            Self::Weekly { hours, from, until } => {
                let week = Opening {
                    zone,
                    hours,
                    holidays: &NONE,
                };
                let (begins, ends) = week.from(at.max(*from)).next()?;
                let begins = UnixMillis(begins).max(*from);
                let ends = until.map_or(UnixMillis(ends), |until| until.min(UnixMillis(ends)));
                (begins < ends && at < ends).then_some((begins, ends))
            }
        }
    }

    /// The window that a moment lies in.
    pub fn holding(&self, at: UnixMillis, zone: Zone) -> Option<(UnixMillis, UnixMillis)> {
        self.next(at, zone).filter(|(from, _)| *from <= at)
    }
}

impl Maintenance {
    /// Whether it is this office's.
    pub fn is_of(&self, office: &OfficeCode) -> bool {
        in_region(office, &self.region)
    }
}

/// Whether an office lies in a region.
pub fn in_region(office: &OfficeCode, region: &str) -> bool {
    let rest = office.as_str().strip_prefix(region);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// One office's opening hours on the line of time.
#[derive(Debug, Clone, Copy)]
pub struct Opening<'a> {
    /// Its zone.
    pub zone: Zone,
    /// Its week.
    pub hours: &'a Hours,
    /// Days on which it is closed.
    pub holidays: &'a Holidays,
}

impl Opening<'_> {
    /// Local days that are looked at, at most: two years without an hour of opening are for ever.
    const FAR: i64 = 732;

    fn local_day(&self, at: UnixMillis) -> i64 {
        (at.0.saturating_add(self.zone.offset_ms())).div_euclid(DAY_MS)
    }

    /// The spans of one local day.
    fn spans(&self, day: i64) -> impl Iterator<Item = (i64, i64)> {
        let start = day.saturating_mul(DAY_MS) - self.zone.offset_ms();
        let weekday = match date_of(day).weekday() {
            Weekday::Monday => 0,
            Weekday::Tuesday => 1,
            Weekday::Wednesday => 2,
            Weekday::Thursday => 3,
            Weekday::Friday => 4,
            Weekday::Saturday => 5,
            Weekday::Sunday => 6,
        };
        let closed = self.holidays.on(day).is_some();
        self.hours.0[weekday]
            .iter()
            .filter(move |_| !closed)
            .map(move |(from, to)| {
                (
                    start + i64::from(*from) * MINUTE_MS,
                    start + i64::from(*to) * MINUTE_MS,
                )
            })
    }

    /// Spans from `at` on, the one it lies in first.
    fn from(&self, at: UnixMillis) -> impl Iterator<Item = (i64, i64)> {
        let first = self.local_day(at);
        (first..first + Self::FAR)
            .flat_map(|day| self.spans(day).collect::<Vec<_>>())
            .filter(move |(_, to)| *to > at.0)
    }

    /// Whether it is open.
    pub fn is_open(&self, at: UnixMillis) -> bool {
        self.spans(self.local_day(at))
            .any(|(from, to)| (from..to).contains(&at.0))
    }

    /// The working time of a local day, from the first opening to the last closing.
    fn working(&self, day: i64) -> Option<(i64, i64)> {
        let (from, _) = self.spans(day).next()?;
        let (_, to) = self.spans(day).last()?;
        Some((from, to))
    }

    /// Whether it lies between the first opening and the last closing of a day: breaks count.
    pub fn is_working(&self, at: UnixMillis) -> bool {
        let working = self.working(self.local_day(at));
        working.is_some_and(|(from, to)| (from..to).contains(&at.0))
    }

    /// The first moment from `at` on of a working time; `None`: never.
    pub fn next_working(&self, at: UnixMillis) -> Option<UnixMillis> {
        let first = self.local_day(at);
        let spans = (first..first + Self::FAR).filter_map(|day| self.working(day));
        let (from, _) = spans.into_iter().find(|(_, to)| *to > at.0)?;
        Some(UnixMillis(from.max(at.0)))
    }

    /// The first moment from `at` on at which it is open; `None`: never.
    pub fn next_open(&self, at: UnixMillis) -> Option<UnixMillis> {
        let (from, _) = self.from(at).next()?;
        Some(UnixMillis(from.max(at.0)))
    }

    /// The stretches of opening time between two moments, at most two years apart, ascending.
    pub fn stretches(&self, from: UnixMillis, to: UnixMillis) -> Vec<(UnixMillis, UnixMillis)> {
        let spans = self.from(from).take_while(|(start, _)| *start < to.0);
        let within =
            |(start, end): (i64, i64)| (UnixMillis(start.max(from.0)), UnixMillis(end.min(to.0)));
        spans.map(within).collect()
    }

    /// Opening time between two moments.
    pub fn between(&self, from: UnixMillis, to: UnixMillis) -> Duration {
        let stretches = self.stretches(from, to);
        let ms: i64 = stretches.iter().map(|(start, end)| end.0 - start.0).sum();
        Duration::from_millis(ms.unsigned_abs())
    }

    /// The moment at which it was open for `time` since `from`; `None`: never.
    pub fn after(&self, from: UnixMillis, time: Duration) -> Option<UnixMillis> {
        let mut left = i64::try_from(time.as_millis()).ok()?;
        for (start, end) in self.from(from) {
            let start = start.max(from.0);
            if end - start >= left {
                return Some(UnixMillis(start + left));
            }
            left -= end - start;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> UnixMillis {
        let at: jiff::Timestamp = text.parse().expect("a time");
        UnixMillis(at.as_millisecond())
    }

    fn hours(text: &str) -> Hours {
        Hours::parse("hours", text).expect("hours")
    }

    #[test]
    fn a_province_has_a_zone() {
        for (code, zone) in [
            ("36.73.02", Zone::Wib),
            ("51.71.01", Zone::Wita),
            ("64.01.01", Zone::Wita),
            ("61.01.01", Zone::Wib),
            ("73.71.01", Zone::Wita),
            ("81.01.01", Zone::Wit),
            ("96.01.01", Zone::Wit),
            ("11.01.01", Zone::Wib),
        ] {
            assert_eq!(Zone::of(&code.parse().expect("a code")), zone, "{code}");
        }
    }

    #[test]
    fn a_week_with_a_break_and_a_holiday() {
        let week = hours("Mon-Thu 08:00-16:00, Fri 08:00-11:30 13:00-16:30");
        assert_eq!(
            hours("Sen-Kam 08:00-16:00, jum 08:00-11:30 13:00-16:30"),
            week
        );
        let mut holidays = Holidays::default();
        holidays.add(jiff::civil::date(2026, 11, 26), "hari libur");
        assert_eq!(holidays.last_year(), Some(2026));
        let opening = Opening {
            zone: Zone::Wib,
            hours: &week,
            holidays: &holidays,
        };
        // 2026-11-24 is a Tuesday.
        assert!(opening.is_open(at("2026-11-24T08:00:00+07:00")));
        assert!(!opening.is_open(at("2026-11-24T16:00:00+07:00")));
        assert!(
            !opening.is_open(at("2026-11-26T10:00:00+07:00")),
            "a holiday"
        );
        assert!(!opening.is_open(at("2026-11-27T12:00:00+07:00")), "prayer");
        assert!(
            !opening.is_open(at("2026-11-28T10:00:00+07:00")),
            "Saturday"
        );
        // East of it, it is an hour later already.
        let east = Opening {
            zone: Zone::Wita,
            ..opening
        };
        assert!(east.is_open(at("2026-11-24T07:30:00+07:00")));
        assert_eq!(
            opening.next_open(at("2026-11-25T17:00:00+07:00")),
            Some(at("2026-11-27T08:00:00+07:00"))
        );
        let open = opening.between(
            at("2026-11-24T15:00:00+07:00"),
            at("2026-11-27T14:00:00+07:00"),
        );
        assert_eq!(open, Duration::from_secs(60 * (60 + 8 * 60 + 210 + 60)));
        let day = Duration::from_secs(86_400);
        assert_eq!(
            opening.after(at("2026-11-24T15:00:00+07:00"), day),
            Some(at("2026-11-30T16:00:00+07:00"))
        );
        let never = Hours(Default::default());
        let never = Opening {
            hours: &never,
            ..opening
        };
        assert_eq!(
            (
                never.next_open(at("2026-11-24T15:00:00+07:00")),
                never.after(UnixMillis(0), day)
            ),
            (None, None)
        );
    }

    #[test]
    fn work_comes_back_every_week_by_the_offices_clock() {
        let weekly = When::Weekly {
            hours: hours("Sat 22:00-24:00, Sun 00:00-02:00"),
            from: at("2026-11-01T00:00:00+07:00"),
            until: Some(at("2026-12-05T23:00:00+07:00")),
        };
        let window = |from: &str, until: &str| Some((at(from), at(until)));
        // Saturday, 2026-11-28: over midnight in two windows that touch.
        assert_eq!(
            weekly.next(at("2026-11-26T10:00:00+07:00"), Zone::Wib),
            window("2026-11-28T22:00:00+07:00", "2026-11-29T00:00:00+07:00")
        );
        let night = at("2026-11-29T00:00:00+07:00");
        assert_eq!(
            weekly.holding(night, Zone::Wib),
            window("2026-11-29T00:00:00+07:00", "2026-11-29T02:00:00+07:00")
        );
        // What was before it was announced is not judged by it, and nothing after its end.
        assert_eq!(
            weekly.next(at("2026-10-10T22:30:00+07:00"), Zone::Wib),
            window("2026-11-01T00:00:00+07:00", "2026-11-01T02:00:00+07:00")
        );
        assert_eq!(
            weekly.holding(at("2026-12-05T22:30:00+07:00"), Zone::Wib),
            window("2026-12-05T22:00:00+07:00", "2026-12-05T23:00:00+07:00")
        );
        assert_eq!(
            weekly.next(at("2026-12-05T23:00:00+07:00"), Zone::Wib),
            None
        );
        // It is two hours later in the east.
        assert_eq!(weekly.holding(night, Zone::Wit), None);
        let (from, until) = (UnixMillis(1_000), UnixMillis(2_000));
        let once = When::Once { from, until };
        let next = |ms: i64| once.next(UnixMillis(ms), Zone::Wib);
        assert_eq!(
            (next(0), next(1_999), next(2_000)),
            (Some((from, until)), Some((from, until)), None)
        );
        assert_eq!(once.holding(UnixMillis(999), Zone::Wib), None);
    }

    #[test]
    fn wrong_hours_are_named() {
        for (text, wrong) in [
            ("", "empty"),
            ("Mon", "without a time"),
            ("Mon 8:00-16:00", "`8:00`"),
            ("Mon 16:00-08:00", "not after"),
            ("Mon 08:00-12:00 11:00-16:00", "not after"),
            ("Senin 08:00-16:00", "`Senin`"),
            ("Fri-Mon 08:00-16:00", "order of the week"),
            ("Mon 08:00-16:00, Mon-Tue 08:00-16:00", "said twice"),
            ("Mon 08:00-25:00", "`25:00`"),
        ] {
            let error = Hours::parse("hours", text).expect_err(text).to_string();
            assert!(error.contains(wrong), "{error}");
        }
        let always = hours("always");
        let opening = Opening {
            zone: Zone::Wit,
            hours: &always,
            holidays: &Holidays::default(),
        };
        assert!(opening.is_open(UnixMillis(0)));
        assert_eq!(
            opening.between(UnixMillis(0), UnixMillis(10 * DAY_MS)),
            Duration::from_secs(864_000)
        );
    }
}
