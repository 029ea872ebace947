//! Every threshold, with its default, its bounds and its meaning. The defaults are those of the published rules they come from, or
//! were found by `evaluate`.

use denyut_proto::{Invalid, parse_duration};
use std::ops::RangeInclusive;
use std::time::Duration;

/// A threshold as it is written.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value<'a> {
    /// A number.
    Number(f64),
    /// A length of time, such as `30s`.
    Text(&'a str),
}

/// One kind of threshold.
trait Threshold: Copy + PartialOrd {
    fn read(field: &str, value: Value<'_>) -> Result<Self, Invalid>;
    fn show(self) -> String;
}

impl Threshold for f64 {
    fn read(field: &str, value: Value<'_>) -> Result<Self, Invalid> {
        match value {
            Value::Number(number) if number.is_finite() => Ok(number),
            other => Err(not(
                field,
                other,
                "not a number",
                "write a number, such as `0.5`",
            )),
        }
    }
    fn show(self) -> String {
        self.to_string()
    }
}

impl Threshold for u32 {
    fn read(field: &str, value: Value<'_>) -> Result<Self, Invalid> {
        match value {
            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "checked"
            )]
            Value::Number(number) if number.fract() == 0.0 && (0.0..1e9).contains(&number) => {
                Ok(number as u32)
            }
            other => Err(not(
                field,
                other,
                "not a count",
                "write a whole number, such as `3`",
            )),
        }
    }
    fn show(self) -> String {
        self.to_string()
    }
}

impl Threshold for Duration {
    fn read(field: &str, value: Value<'_>) -> Result<Self, Invalid> {
        match value {
            Value::Text(text) => parse_duration(field, text),
            other @ Value::Number(_) => Err(not(
                field,
                other,
                "without a unit",
                "write a length of time, such as `30s`",
            )),
        }
    }
    fn show(self) -> String {
        length(self)
    }
}

fn not(field: &str, value: Value<'_>, problem: &str, fix: &str) -> Invalid {
    let value = match value {
        Value::Number(number) => number.to_string(),
        Value::Text(text) => text.to_owned(),
    };
    Invalid::new(field, value, problem, fix)
}

/// A length of time as it is written: `1h`, `3min 30s`.
pub fn length(time: Duration) -> String {
    let units = [
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("min", 60_000),
        ("s", 1_000),
        ("ms", 1),
    ];
    let mut left = time.as_millis();
    let mut parts = Vec::new();
    for (unit, size) in units {
        if left >= size {
            parts.push(format!("{}{unit}", left / size));
            left %= size;
        }
    }
    if parts.is_empty() {
        "0s".to_owned()
    } else {
        parts.join(" ")
    }
}

const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}
const MINUTE: u64 = 60;
const HOUR: u64 = 3_600;
const DAY: u64 = 86_400;

macro_rules! params {
    ($($(#[$doc:meta])* $name:ident: $type:ty = $default:expr, $range:expr, $means:literal;)*) => {
        /// Every threshold.
        #[derive(Debug, Clone, PartialEq)]
        pub struct Params { $($(#[$doc])* pub $name: $type,)* }

        impl Default for Params {
            fn default() -> Self {
                Self { $($name: $default,)* }
            }
        }

        impl Params {
            /// Sets one threshold by its name; `field` is how an error calls it.
            pub fn set(&mut self, field: &str, name: &str, value: Value<'_>) -> Result<(), Invalid> {
                match name {
                    $(stringify!($name) => {
                        let read = <$type as Threshold>::read(field, value)?;
                        let range: RangeInclusive<$type> = $range;
                        if !range.contains(&read) {
                            let fix = format!("write {} to {}", range.start().show(), range.end().show());
                            return Err(Invalid::new(field, read.show(), "out of range", fix));
                        }
                        self.$name = read;
                    })*
                    _ => {
                        let known = [$(stringify!($name)),*].join(", ");
                        return Err(Invalid::new(field, name, "no such threshold", format!("there are {known}")));
                    }
                }
                Ok(())
            }

            /// Name, value, default and meaning of each.
            pub fn all(&self) -> Vec<(&'static str, String, String, &'static str)> {
                let default = Self::default();
                vec![$((stringify!($name), self.$name.show(), default.$name.show(), $means)),*]
            }
        }
    };
}

params! {
    /// Share of probes that fail while a link is down (a few answers slip through).
    down_fails: f64 = 0.98, 0.5..=0.999, "share of probes that fail while a link is down";
    /// A link without trouble is called down once in so many probes.
    false_alarm_probes: f64 = 5e7, 1e2..=1e15, "probes until a sound link is called down by chance";
    /// The learned loss is taken to be at least this.
    loss_least: f64 = 0.005, 0.0001..=0.1, "share of probes that a link is taken to lose at least";
    /// And at most this.
    loss_most: f64 = 0.3, 0.05..=0.45, "share of probes that a link is taken to lose at most";
    /// What a new link is taken to lose.
    loss_first: f64 = 0.01, 0.0001..=0.3, "share of probes that a new link is taken to lose";
    /// So many answers …
    recovery_answers: u32 = 3, 1..=100, "answers in a row until a link is up again …";
    /// … over at least this time are a recovery.
    recovery_time: Duration = seconds(15), Duration::ZERO..=seconds(HOUR), "… over at least this time";
    /// A page waits at least this long after the trouble began.
    page_after_least: Duration = seconds(30), Duration::ZERO..=seconds(HOUR), "a page waits for the link's own usual blip, at least this long …";
    /// And at most this long.
    page_after_most: Duration = seconds(180), Duration::ZERO..=seconds(6 * HOUR), "… and at most this long";
    /// An agent is silent after so many of its intervals.
    silent_intervals: u32 = 3, 2..=100, "intervals without a word until an agent is silent";
    /// And not before this.
    silent_least: Duration = seconds(5), seconds(2)..=seconds(HOUR), "and not before this time";
    /// When more than this share of all agents fall silent …
    deaf_share: f64 = 0.05, 0.001..=1.0, "when more than this share of all agents fall silent …";
    /// … within this time, the collector suspects itself …
    deaf_within: Duration = seconds(10), seconds(1)..=seconds(10 * MINUTE), "… within this time, the collector suspects itself …";
    /// … and calls nobody silent for this long.
    deaf_hold: Duration = seconds(2 * MINUTE), Duration::ZERO..=seconds(HOUR), "… and calls nobody silent for so long";
    /// A gap that began outside opening hours is a machine switched off until this long after opening.
    late_start: Duration = seconds(2 * HOUR), Duration::ZERO..=seconds(12 * HOUR), "a machine that went silent outside opening hours is called switched off until so long after opening";
    /// Trouble that comes back sooner than this is the same incident.
    rejoin: Duration = seconds(HOUR), seconds(MINUTE)..=seconds(DAY), "trouble that comes back sooner than this is the same incident (the repair failed)";
    /// Trouble that comes back within this is a relapse.
    relapse_within: Duration = seconds(30 * DAY), seconds(HOUR)..=seconds(34 * DAY), "trouble that comes back sooner than this is a relapse";
    /// A repair that held for longer than this does not make a relapse episode.
    relapse_held_most: Duration = seconds(7 * DAY), seconds(HOUR)..=seconds(30 * DAY), "two relapses after repairs that held at most this long …";
    /// Two such relapses within this make an episode.
    relapse_episode: Duration = seconds(14 * DAY), seconds(HOUR)..=seconds(34 * DAY), "… within this time are a relapse episode";
    /// Opening hours after a recovery until an incident is closed for good.
    probation: Duration = seconds(24 * HOUR), Duration::ZERO..=seconds(30 * DAY), "opening hours after a recovery until an incident is closed for good";
    /// Two transitions within this are at the same time for roaming.
    roam_window: Duration = seconds(60), seconds(1)..=seconds(HOUR), "transitions of two offices within this time are simultaneous (roaming)";
    /// Significance of a roaming pair.
    roam_chance: f64 = 0.05, 1e-9..=0.5, "chance at which a pair of offices is called roaming though it is not";
    /// A common cause needs so many offices …
    common_least: u32 = 3, 2..=1_000, "a common cause needs at least so many offices …";
    /// … and this share of a scope.
    common_share: f64 = 0.2, 0.01..=1.0, "… and this share of a scope, failing together";
    /// The scope that is named has this share of its offices down …
    common_covers: f64 = 0.6, 0.01..=1.0, "the scope that is named has this share of its offices down …";
    /// … and holds this share of all that went down.
    common_holds: f64 = 0.8, 0.01..=1.0, "… and holds this share of all that went down then";
    /// Common causes that are seen by chance in a month.
    common_chance: f64 = 0.01, 1e-9..=1.0, "common causes per month that are seen by chance";
    /// Single pages wait this long for a common cause.
    common_wait: Duration = seconds(30), Duration::ZERO..=seconds(10 * MINUTE), "a page of one office waits so long for a common cause";
    /// Late joiners of a common cause.
    common_join: Duration = seconds(5 * MINUTE), Duration::ZERO..=seconds(HOUR), "an office that goes down so long after the last joins its common cause";
    /// A link is lossy when it loses this share, and three times its usual.
    lossy_least: f64 = 0.05, 0.005..=0.4, "a link is degraded when it loses three times its usual share, and at least this";
    /// A link is slow when its RTT is this many times the usual of that hour.
    slow_factor: f64 = 1.5, 1.05..=100.0, "a link is degraded when its round trips take so many times the usual of that hour of the day";
    /// Down edges in the 30-day score of a link above which it is chronic.
    chronic: f64 = 30.0, 3.0..=1e6, "30-day score of going down above which a link is chronic, said once";
    /// A chronic link pages only this many standard deviations above its own rate.
    chronic_sigmas: f64 = 5.0, 1.0..=100.0, "a chronic link pages only so many standard deviations above its own rate";
}

impl Params {
    /// The log-likelihood at which a link is down.
    pub fn threshold(&self) -> f64 {
        self.false_alarm_probes.ln()
    }

    /// Failures in a row until a link of this loss is down.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a small count"
    )]
    pub fn failures_until_down(&self, loss: f64) -> u32 {
        let loss = loss.clamp(self.loss_least, self.loss_most);
        (self.threshold() / (self.down_fails / loss).ln()).ceil() as u32
    }

    /// Of so many watched offices this many must fail together, and so many for their scope to be named.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "counts of offices"
    )]
    pub fn common_offices(&self, watched: usize) -> usize {
        let share = |share: f64| (share * watched as f64).ceil() as usize;
        share(self.common_share)
            .max(share(self.common_covers))
            .max(self.common_least as usize)
    }

    /// Checks what no single bound can.
    pub fn check(&self, within: &str) -> Result<(), Invalid> {
        let order = |ok: bool, name: &str, value: String, other: &str, least: String| {
            if ok {
                return Ok(());
            }
            let fix = format!("write more than {least}, or a smaller `{other}`");
            Err(Invalid::new(
                format!("{within}.{name}"),
                value,
                format!("not above `{other}` ({least})"),
                fix,
            ))
        };
        let Self {
            loss_least,
            loss_first,
            loss_most,
            down_fails,
            ..
        } = *self;
        order(
            loss_most > loss_least,
            "loss_most",
            loss_most.show(),
            "loss_least",
            loss_least.show(),
        )?;
        order(
            loss_first >= loss_least,
            "loss_first",
            loss_first.show(),
            "loss_least",
            loss_least.show(),
        )?;
        order(
            loss_most >= loss_first,
            "loss_most",
            loss_most.show(),
            "loss_first",
            loss_first.show(),
        )?;
        order(
            down_fails > loss_most,
            "down_fails",
            down_fails.show(),
            "loss_most",
            loss_most.show(),
        )?;
        let (least, most) = (self.page_after_least, self.page_after_most);
        order(
            most >= least,
            "page_after_most",
            most.show(),
            "page_after_least",
            least.show(),
        )?;
        let (rejoin, relapse) = (self.rejoin, self.relapse_within);
        order(
            relapse > rejoin,
            "relapse_within",
            relapse.show(),
            "rejoin",
            rejoin.show(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_within_their_own_bounds_and_mean_what_is_published() {
        let mut params = Params::default();
        params.check("detection").expect("in order");
        for (name, value, ..) in Params::default().all() {
            let given = value
                .parse::<f64>()
                .map_or(Value::Text(&value), Value::Number);
            params.set(name, name, given).expect(name);
        }
        assert_eq!(params, Params::default());
        let failures = [0.01, 0.10, 0.25].map(|loss| params.failures_until_down(loss));
        assert_eq!(failures, [4, 8, 13]);
    }

    #[test]
    fn lengths_read_as_they_are_written() {
        for (ms, text) in [
            (0, "0s"),
            (15_000, "15s"),
            (210_000, "3min 30s"),
            (86_400_000, "1d"),
            (90_061_001, "1d 1h 1min 1s 1ms"),
        ] {
            let time = Duration::from_millis(ms);
            assert_eq!(length(time), text);
            assert_eq!(parse_duration("x", text), Ok(time));
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_its_bounds() {
        let mut params = Params::default();
        let mut said = |name: &str, value| {
            let error = params.set(&format!("detection.{name}"), name, value);
            error.expect_err("is refused").to_string()
        };
        for (name, value, wrong) in [
            (
                "recovery_answers",
                Value::Number(0.0),
                "`detection.recovery_answers` = `0`: out of range; write 1 to 100",
            ),
            ("recovery_answers", Value::Number(1.5), "not a count"),
            ("rejoin", Value::Number(3.0), "without a unit"),
            ("rejoin", Value::Text("soon"), "`detection.rejoin` = `soon`"),
            ("down_fails", Value::Text("1h"), "not a number"),
            (
                "sensitivity",
                Value::Number(1.0),
                "no such threshold; there are down_fails",
            ),
        ] {
            let text = said(name, value);
            assert!(text.contains(wrong), "{text}");
        }
        params
            .set("loss_most", "loss_most", Value::Number(0.05))
            .expect("in its bounds");
        params
            .set("loss_least", "loss_least", Value::Number(0.1))
            .expect("in its bounds");
        assert!(params.check("detection").is_err());
    }
}
