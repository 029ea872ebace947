//! What functions make of numbers: of one, of the points of a range, and of a moment.

use jiff::Zoned;
use jiff::tz::TimeZone;

/// A function of one number.
pub(super) type OfNumber = fn(f64) -> f64;
/// A function of the points of a range; none without an answer.
pub(super) type OfRange = fn(&Window<'_>) -> Option<f64>;

/// The points of a range, at least one.
pub(super) struct Window<'a> {
    /// Time in ms and value, ascending.
    pub(super) points: &'a [(i64, f64)],
    /// Of the range, in ms.
    pub(super) from: i64,
    pub(super) to: i64,
    /// The moment that is asked for, in ms.
    pub(super) at: i64,
    /// The number that the function takes beside the range.
    pub(super) parameter: f64,
}

/// Functions of one number by name.
pub(super) fn of_number(name: &str) -> Option<OfNumber> {
    Some(match name {
        "abs" => f64::abs,
        "acos" => f64::acos,
        "acosh" => f64::acosh,
        "asin" => f64::asin,
        "asinh" => f64::asinh,
        "atan" => f64::atan,
        "atanh" => f64::atanh,
        "ceil" => f64::ceil,
        "cos" => f64::cos,
        "cosh" => f64::cosh,
        "deg" => f64::to_degrees,
        "exp" => f64::exp,
        "floor" => f64::floor,
        "ln" => f64::ln,
        "log10" => f64::log10,
        "log2" => f64::log2,
        "rad" => f64::to_radians,
        "sgn" => |value| {
            if value == 0.0 || value.is_nan() {
                value
            } else {
                value.signum()
            }
        },
        "sin" => f64::sin,
        "sinh" => f64::sinh,
        "sqrt" => f64::sqrt,
        "tan" => f64::tan,
        "tanh" => f64::tanh,
        _ => return None,
    })
}

/// Functions of a moment (Unix seconds, UTC) by name.
pub(super) fn of_moment(name: &str) -> Option<fn(&Zoned) -> i32> {
    Some(match name {
        "day_of_month" => |at| i32::from(at.day()),
        "day_of_week" => |at| i32::from(at.weekday().to_sunday_zero_offset()),
        "day_of_year" => |at| i32::from(at.day_of_year()),
        "days_in_month" => |at| i32::from(at.days_in_month()),
        "hour" => |at| i32::from(at.hour()),
        "minute" => |at| i32::from(at.minute()),
        "month" => |at| i32::from(at.month()),
        "year" => |at| i32::from(at.year()),
        _ => return None,
    })
}

/// Unix seconds as a moment; none beyond what a calendar has.
pub(super) fn moment(seconds: f64) -> Option<Zoned> {
    #[allow(
        clippy::cast_possible_truncation,
        reason = "saturates, and is refused then"
    )]
    let at = jiff::Timestamp::from_second(seconds.floor() as i64).ok()?;
    Some(at.to_zoned(TimeZone::UTC))
}

/// Functions of a range by name.
pub(super) fn of_range(name: &str) -> Option<OfRange> {
    Some(match name {
        "avg_over_time" => |window| Some(mean(window.values())),
        "changes" => |window| {
            Some(count(window, |before, value| {
                before.partial_cmp(&value) != Some(std::cmp::Ordering::Equal)
                    && !(before.is_nan() && value.is_nan())
            }))
        },
        "count_over_time" => |window| Some(window.points.len() as f64),
        "delta" => |window| window.extrapolated(false, false),
        "deriv" => |window| window.line(window.points[0].0).map(|(slope, _)| slope),
        "idelta" => |window| window.instant(false),
        "increase" => |window| window.extrapolated(true, false),
        "irate" => |window| window.instant(true),
        "last_over_time" => |window| window.points.last().map(|(_, value)| *value),
        "max_over_time" => |window| {
            window
                .values()
                .reduce(|one, two| if two > one || one.is_nan() { two } else { one })
        },
        "min_over_time" => |window| {
            window
                .values()
                .reduce(|one, two| if two < one || one.is_nan() { two } else { one })
        },
        "predict_linear" => |window| {
            let (slope, at) = window.line(window.at)?;
            Some(slope * window.parameter + at)
        },
        "present_over_time" => |_| Some(1.0),
        "quantile_over_time" => {
            |window| Some(quantile(window.parameter, window.values().collect()))
        }
        "rate" => |window| window.extrapolated(true, true),
        "resets" => |window| Some(count(window, |before, value| value < before)),
        "stddev_over_time" => |window| Some(variance(window.values()).sqrt()),
        "stdvar_over_time" => |window| Some(variance(window.values())),
        "sum_over_time" => |window| Some(sum(window.values())),
        _ => return None,
    })
}

/// How many neighbours are so.
fn count(window: &Window<'_>, is_so: impl Fn(f64, f64) -> bool) -> f64 {
    let pairs = window.points.windows(2);
    pairs.filter(|two| is_so(two[0].1, two[1].1)).count() as f64
}

impl Window<'_> {
    fn values(&self) -> impl Iterator<Item = f64> + '_ {
        self.points.iter().map(|(_, value)| *value)
    }

    /// By how much it grew in the whole range, or in each second of it: what lies between the first and the last point, carried on to the ends of the range if they are about as
    /// near as points are to each other, and by half of that if not (`extrapolatedRate` of Prometheus 2).
    fn extrapolated(&self, is_counter: bool, by_second: bool) -> Option<f64> {
        let [(first_at, first), .., (last_at, last)] = *self.points else {
            return None;
        };
        let seconds = |ms: i64| ms as f64 / 1_000.0;
        let mut grew = last - first;
        if is_counter {
            for two in self.points.windows(2) {
                if two[1].1 < two[0].1 {
                    grew += two[0].1;
                }
            }
        }
        let mut to_start = seconds(first_at - self.from);
        let to_end = seconds(self.to - last_at);
        let sampled = seconds(last_at - first_at);
        let apart = sampled / (self.points.len() - 1) as f64;
        if is_counter && grew > 0.0 && first >= 0.0 {
            // A counter was never less than nothing.
            to_start = to_start.min(sampled * (first / grew));
        }
        let near = apart * 1.1;
        let reach = |edge: f64| if edge < near { edge } else { apart / 2.0 };
        let mut factor = (sampled + reach(to_start) + reach(to_end)) / sampled;
        if by_second {
            factor /= seconds(self.to - self.from);
        }
        Some(grew * factor)
    }

    /// Between the last two points.
    fn instant(&self, is_rate: bool) -> Option<f64> {
        let [.., (before_at, before), (at, value)] = *self.points else {
            return None;
        };
        if !is_rate {
            return Some(value - before);
        }
        let grew = if value < before {
            value
        } else {
            value - before
        };
        Some(grew / ((at - before_at) as f64 / 1_000.0))
    }

    /// The line of least squares: by how much it rises in a second, and where it is at a moment.
    fn line(&self, at: i64) -> Option<(f64, f64)> {
        let [(_, first), _, ..] = *self.points else {
            return None;
        };
        if self
            .values()
            .all(|value| value.to_bits() == first.to_bits())
        {
            return Some((if first.is_infinite() { f64::NAN } else { 0.0 }, first));
        }
        let n = self.points.len() as f64;
        let x = |time: i64| (time - at) as f64 / 1_000.0;
        let sum_x = sum(self.points.iter().map(|(time, _)| x(*time)));
        let sum_y = sum(self.values());
        let of_both = sum(self.points.iter().map(|(time, value)| x(*time) * value));
        let squares = sum(self.points.iter().map(|(time, _)| x(*time) * x(*time)));
        let slope = (of_both - sum_x * sum_y / n) / (squares - sum_x * sum_x / n);
        Some((slope, sum_y / n - slope * sum_x / n))
    }
}

/// A sum that forgets nothing small beside what is large (Neumaier's).
pub(super) fn sum(values: impl Iterator<Item = f64>) -> f64 {
    let (mut sum, mut lost) = (0.0_f64, 0.0_f64);
    for value in values {
        let next = sum + value;
        if next.is_infinite() {
            lost = 0.0;
        } else if sum.abs() >= value.abs() {
            lost += (sum - next) + value;
        } else {
            lost += (value - next) + sum;
        }
        sum = next;
    }
    sum + lost
}

pub(super) fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let all: Vec<f64> = values.collect();
    sum(all.iter().copied()) / all.len() as f64
}

/// The mean of the squares of what lies between each and the mean.
pub(super) fn variance(values: impl Iterator<Item = f64>) -> f64 {
    let all: Vec<f64> = values.collect();
    let mean = mean(all.iter().copied());
    sum(all.iter().map(|value| (value - mean) * (value - mean))) / all.len() as f64
}

/// The value at a quantile, between the two that are nearest to it.
pub(super) fn quantile(q: f64, mut values: Vec<f64>) -> f64 {
    if values.is_empty() || q.is_nan() {
        return f64::NAN;
    }
    if q < 0.0 {
        return f64::NEG_INFINITY;
    }
    if q > 1.0 {
        return f64::INFINITY;
    }
    // What is no number is less than all that are.
    values.sort_by(|one, two| match (one.is_nan(), two.is_nan()) {
        (true, true) => std::cmp::Ordering::Equal,
        (true, false) => std::cmp::Ordering::Less,
        (false, true) => std::cmp::Ordering::Greater,
        (false, false) => one.total_cmp(two),
    });
    let rank = q * (values.len() - 1) as f64;
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between nothing and how many there are"
    )]
    let lower = rank.floor() as usize;
    let upper = (lower + 1).min(values.len() - 1);
    let weight = rank - rank.floor();
    values[lower] * (1.0 - weight) + values[upper] * weight
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(points: &[(i64, f64)], from: i64, to: i64) -> Window<'_> {
        Window {
            points,
            from,
            to,
            at: to,
            parameter: 0.5,
        }
    }

    fn close(one: Option<f64>, two: f64) -> bool {
        one.is_some_and(|one| (one - two).abs() < 1e-9)
    }

    #[test]
    fn a_rate_goes_on_to_the_ends_of_its_range() {
        let points = [(10_000, 100.0), (20_000, 110.0), (30_000, 120.0)];
        let whole = window(&points, 5_000, 35_000);
        let of = |name: &str| of_range(name).expect("is there")(&whole);
        assert!(close(of("increase"), 30.0) && close(of("rate"), 1.0) && close(of("delta"), 30.0));
        // Far ends: half of what points are apart.
        let far = window(&points, -100_000, 200_000);
        assert!(close(far.extrapolated(true, false), 30.0));
        // A counter that began at nothing, and one that was set back.
        let young = [(10_000, 2.0), (20_000, 12.0)];
        assert!(close(
            window(&young, 0, 20_000).extrapolated(true, false),
            12.0
        ));
        let back = [(0, 10.0), (10_000, 3.0)];
        assert!(close(
            window(&back, 0, 10_000).extrapolated(true, false),
            3.0
        ));
        assert_eq!(window(&points[..1], 0, 1).extrapolated(true, true), None);
        assert!(close(of("irate"), 1.0) && close(of("idelta"), 10.0) && close(of("deriv"), 1.0));
    }

    #[test]
    fn numbers_are_summed_up_as_they_should_be() {
        assert!((sum([1e100, 1.0, -1e100].into_iter()) - 1.0).abs() < 1e-12);
        assert!((quantile(0.5, vec![3.0, 1.0, 2.0, 10.0]) - 2.5).abs() < 1e-12);
        assert!(quantile(-1.0, vec![1.0]).is_infinite() && quantile(0.5, vec![]).is_nan());
        assert!((variance([1.0, 3.0].into_iter()) - 1.0).abs() < 1e-12);
        let points = [(0, 1.0), (1, 1.0), (2, 0.0), (3, 1.0)];
        let all = window(&points, 0, 3);
        let of = |name: &str| of_range(name).expect("is there")(&all).expect("a value");
        assert_eq!(
            (of("changes"), of("resets"), of("count_over_time")),
            (2.0, 1.0, 4.0)
        );
        assert!((of("avg_over_time") - 0.75).abs() < 1e-12);
        assert_eq!(
            (
                of("min_over_time"),
                of("max_over_time"),
                of("last_over_time")
            ),
            (0.0, 1.0, 1.0)
        );
    }

    #[test]
    fn a_moment_is_told_in_utc() {
        // 2026-11-26 15:33:20 UTC, a Thursday.
        let at = moment(1_795_707_200.7).expect("a moment");
        let of = |name: &str| of_moment(name).expect("is there")(&at);
        assert_eq!(
            [
                "year",
                "month",
                "day_of_month",
                "day_of_week",
                "hour",
                "minute",
                "days_in_month"
            ]
            .map(of),
            [2026, 11, 26, 4, 15, 33, 30]
        );
        assert!(moment(f64::MAX).is_none());
    }
}
