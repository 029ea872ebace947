//! The rules that others judge a sequence of checks by, each as its product publishes it. What a start and a stop mean is the product's own:
//! flapping begins and ends (Icinga 2, Nagios), an alert fires and resolves (Gatus, Prometheus), a route is suppressed and used again.

use clap::Args;
use denyut_detect::recorded::{Check, State};
use serde::Serialize;
use std::collections::VecDeque;

/// A start or a stop.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Turn {
    /// Seconds since 1970 UTC.
    pub(crate) at_s: f64,
    pub(crate) begins: bool,
    /// What the rule computed: per cent of changes, a penalty, checks in a row, or seconds.
    pub(crate) value: f64,
}

/// A state as Icinga and Nagios number it.
fn severity(state: State) -> u8 {
    match state {
        State::Up => 0,
        State::Degraded => 1,
        State::Down => 2,
    }
}

fn number(text: &str, least: f64, most: f64, what: &str) -> Result<f64, String> {
    let number: f64 = text
        .parse()
        .map_err(|_| format!("not a number; write {what}"))?;
    if (least..=most).contains(&number) {
        Ok(number)
    } else {
        Err(format!("out of range; write {what}"))
    }
}

fn share(text: &str) -> Result<f64, String> {
    number(text, 0.0, 100.0, "0 to 100")
}

fn positive(text: &str) -> Result<f64, String> {
    number(text, 0.001, 1e9, "0.001 to 1e9")
}

fn penalty(text: &str) -> Result<f64, String> {
    number(text, 0.0, 1e9, "0 to 1e9")
}

/// Icinga 2, since 2.8: the last 20 results, a change weighing 0.80 (the oldest) to 1.18 (the newest).
#[derive(Debug, Clone, Args)]
#[group(skip)]
pub(crate) struct Icinga2 {
    /// Flapping ends when the weighted share of changes is not above this, in per cent
    #[arg(long, default_value_t = 25.0, value_parser = share)]
    pub(crate) low: f64,
    /// Flapping begins above this, in per cent
    #[arg(long, default_value_t = 30.0, value_parser = share)]
    pub(crate) high: f64,
    /// What the state was before the first check: ok, warning, critical or unknown (as Icinga has it, so that the first check is a change)
    #[arg(long, default_value = "unknown")]
    pub(crate) initial: Initial,
    /// States that are no change, and are not remembered (flapping_ignore_states); may be repeated
    #[arg(long, value_enum)]
    pub(crate) ignore: Vec<Named>,
}

/// A state by the name that Icinga and Nagios use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Named {
    Ok,
    Warning,
    Critical,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Initial {
    Ok,
    Warning,
    Critical,
    Unknown,
}

impl Named {
    fn is(self, state: State) -> bool {
        self as u8 == severity(state)
    }
}

impl Icinga2 {
    pub(crate) fn run(&self, checks: &[Check]) -> Vec<Turn> {
        const RESULTS: usize = 20;
        let mut changes: VecDeque<bool> = VecDeque::from([false; RESULTS]);
        let mut last = self.initial as u8;
        let mut turns = Turns::default();
        for check in checks {
            let now = severity(check.state);
            let counts = !self.ignore.iter().any(|named| named.is(check.state));
            changes.pop_front();
            changes.push_back(counts && now != last);
            if counts {
                last = now;
            }
            let weighted: f64 = (0u8..)
                .zip(&changes)
                .filter(|(_, changed)| **changed)
                .map(|(age, _)| 0.80 + 0.02 * f64::from(age))
                .sum();
            let value = 100.0 * weighted / RESULTS as f64;
            let threshold = if turns.on { self.low } else { self.high };
            turns.note(check.at_s as f64, value > threshold, value);
        }
        turns.all
    }
}

/// Nagios Core, for a service: the last 21 hard states and soft recoveries, a change weighing 0.75 (the oldest) to 1.25 (the newest).
#[derive(Debug, Clone, Args)]
#[group(skip)]
pub(crate) struct Nagios {
    /// Flapping ends at this weighted share of changes or below, in per cent
    #[arg(long, default_value_t = 20.0, value_parser = share)]
    pub(crate) low: f64,
    /// Flapping begins at this or above, in per cent
    #[arg(long, default_value_t = 30.0, value_parser = share)]
    pub(crate) high: f64,
    /// Checks until a problem is a hard state; a soft one is not recorded
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_check_attempts: u32,
    /// States that are not recorded (flap_detection_options without them); may be repeated
    #[arg(long, value_enum)]
    pub(crate) ignore: Vec<Named>,
}

impl Nagios {
    pub(crate) fn run(&self, checks: &[Check]) -> Vec<Turn> {
        const STATES: usize = 21;
        // A new service has been OK for ever.
        let mut states: VecDeque<u8> = VecDeque::from([0; STATES]);
        let mut attempt = 0;
        let mut turns = Turns::default();
        for check in checks {
            attempt = match check.state {
                State::Up => 0,
                _ => (attempt + 1).min(self.max_check_attempts),
            };
            let soft = check.state != State::Up && attempt < self.max_check_attempts;
            if soft {
                continue;
            }
            if !self.ignore.iter().any(|named| named.is(check.state)) {
                states.pop_front();
                states.push_back(severity(check.state));
            }
            let pairs = states.iter().zip(states.iter().skip(1));
            let weighted: f64 = (0u8..)
                .zip(pairs)
                .filter(|(_, (before, after))| before != after)
                .map(|(age, _)| 0.75 + 0.5 * f64::from(age) / (STATES - 2) as f64)
                .sum();
            let value = 100.0 * weighted / (STATES - 1) as f64;
            if value <= self.low {
                turns.note(check.at_s as f64, false, value);
            } else if value >= self.high {
                turns.note(check.at_s as f64, true, value);
            }
        }
        turns.all
    }
}

/// Gatus: so many failures in a row open an alert, so many successes resolve it.
#[derive(Debug, Clone, Args)]
#[group(skip)]
pub(crate) struct Gatus {
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) failure_threshold: u32,
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) success_threshold: u32,
}

impl Gatus {
    pub(crate) fn run(&self, checks: &[Check]) -> Vec<Turn> {
        let (mut bad, mut good) = (0, 0);
        let mut turns = Turns::default();
        for check in checks {
            if check.state == State::Down {
                (bad, good) = (bad + 1, 0);
            } else {
                (bad, good) = (0, good + 1);
            }
            if bad >= self.failure_threshold {
                turns.note(check.at_s as f64, true, bad.into());
            } else if good >= self.success_threshold {
                turns.note(check.at_s as f64, false, good.into());
            }
        }
        turns.all
    }
}

/// A Prometheus alerting rule `up == 0`: it fires when that held at every evaluation for `for`, and resolves at the first at which it does not, or
/// `keep_firing_for` after that.
#[derive(Debug, Clone, Args)]
#[group(skip)]
pub(crate) struct PrometheusFor {
    /// Seconds from evaluation to evaluation
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) interval: u32,
    /// Seconds for which it must have held
    #[arg(long = "for", default_value_t = 300)]
    pub(crate) hold: u32,
    /// Seconds for which it goes on firing
    #[arg(long, default_value_t = 0)]
    pub(crate) keep_firing_for: u32,
}

impl PrometheusFor {
    pub(crate) fn run(&self, checks: &[Check]) -> Vec<Turn> {
        let (Some(first), Some(last)) = (checks.first(), checks.last()) else {
            return Vec::new();
        };
        let mut checks = checks.iter().peekable();
        let mut state = first.state;
        let (mut since, mut clear): (Option<i64>, Option<i64>) = (None, None);
        let mut turns = Turns::default();
        let step = i64::from(self.interval);
        // One evaluation after the last check, so that it counts.
        for at in (0..)
            .map(|n| first.at_s + n * step)
            .take_while(|at| *at < last.at_s + step)
        {
            while let Some(check) = checks.next_if(|check| check.at_s <= at) {
                state = check.state;
            }
            if state == State::Down {
                clear = None;
                let held = at - *since.get_or_insert(at);
                if held >= i64::from(self.hold) {
                    turns.note(at as f64, true, held as f64);
                }
                continue;
            }
            let cleared = at - *clear.get_or_insert(at);
            if !turns.on || cleared >= i64::from(self.keep_firing_for) {
                since = None;
                turns.note(at as f64, false, cleared as f64);
            }
        }
        turns.all
    }
}

/// Route-flap damping (RFC 2439; thresholds as RFC 7196 lists them of common routers): a penalty for each withdrawal that halves every
/// `half_life`.
#[derive(Debug, Clone, Args)]
#[group(skip)]
pub(crate) struct Rfd {
    /// Minutes in which the penalty halves
    #[arg(long, default_value_t = 15.0, value_parser = positive)]
    pub(crate) half_life: f64,
    /// Penalty of going down
    #[arg(long, default_value_t = 1000.0, value_parser = penalty)]
    pub(crate) withdrawal: f64,
    /// Penalty of coming up again (0: Cisco; 1000: Juniper)
    #[arg(long, default_value_t = 0.0, value_parser = penalty)]
    pub(crate) readvertisement: f64,
    /// Suppressed above this
    #[arg(long, default_value_t = 2000.0, value_parser = positive)]
    pub(crate) suppress: f64,
    /// Used again below this
    #[arg(long, default_value_t = 750.0, value_parser = positive)]
    pub(crate) reuse: f64,
    /// Minutes of suppression at most: the penalty is cut to what decays to `reuse` in this time
    #[arg(long, default_value_t = 60.0, value_parser = positive)]
    pub(crate) max_suppress: f64,
}

impl Rfd {
    pub(crate) fn run(&self, checks: &[Check]) -> Vec<Turn> {
        let half_life = self.half_life * 60.0;
        let ceiling = self.reuse * (self.max_suppress / self.half_life).exp2();
        let (mut penalty, mut then, mut down) = (0.0_f64, 0.0_f64, false);
        let mut turns = Turns::default();
        let reused = |penalty: f64, then: f64| then + half_life * (penalty / self.reuse).log2();
        for check in checks {
            let goes_down = check.state == State::Down;
            if goes_down == down {
                continue;
            }
            down = goes_down;
            let at = check.at_s as f64;
            if turns.on && reused(penalty, then) <= at {
                turns.note(reused(penalty, then), false, self.reuse);
            }
            penalty *= ((then - at) / half_life).exp2();
            penalty += if down {
                self.withdrawal
            } else {
                self.readvertisement
            };
            penalty = penalty.min(ceiling);
            then = at;
            if penalty > self.suppress {
                turns.note(at, true, penalty);
            }
        }
        if turns.on {
            turns.note(reused(penalty, then), false, self.reuse);
        }
        turns.all
    }
}

/// Keeps what changes.
#[derive(Default)]
struct Turns {
    on: bool,
    all: Vec<Turn>,
}

impl Turns {
    fn note(&mut self, at_s: f64, on: bool, value: f64) {
        if on != self.on {
            self.on = on;
            self.all.push(Turn {
                at_s,
                begins: on,
                value,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A check a minute: `o` up, `w` degraded, `c` down.
    fn checks(text: &str) -> Vec<Check> {
        (0..)
            .zip(text.chars())
            .map(|(i, c)| Check {
                at_s: i * 60,
                state: match c {
                    'o' => State::Up,
                    'w' => State::Degraded,
                    _ => State::Down,
                },
            })
            .collect()
    }

    /// Minute and direction of each turn.
    fn minutes(turns: &[Turn]) -> Vec<(f64, bool)> {
        turns
            .iter()
            .map(|turn| (turn.at_s / 60.0, turn.begins))
            .collect()
    }

    const ICINGA2: Icinga2 = Icinga2 {
        low: 25.0,
        high: 30.0,
        initial: Initial::Unknown,
        ignore: Vec::new(),
    };
    const NAGIOS: Nagios = Nagios {
        low: 20.0,
        high: 30.0,
        max_check_attempts: 1,
        ignore: Vec::new(),
    };
    const RFD: Rfd = Rfd {
        half_life: 15.0,
        withdrawal: 1000.0,
        readvertisement: 0.0,
        suppress: 2000.0,
        reuse: 750.0,
        max_suppress: 60.0,
    };

    /// The example of Icinga's documentation, 39.1 %, and that of its test: a change with each check flaps from the sixth on.
    #[test]
    fn icinga2_by_its_own_examples() {
        let documented = "cccwcwoooowwwwooowwwc";
        // Two checks before the last it is below 38.8; the last makes it 39.1.
        let narrow = Icinga2 {
            low: 38.8,
            high: 39.09,
            ..ICINGA2
        };
        let turns = narrow.run(&checks(documented));
        assert_eq!(minutes(&turns), [(17.0, true), (18.0, false), (20.0, true)]);
        assert!((turns[2].value - 39.1).abs() < 1e-9, "{turns:?}");
        let seven_more = format!("{documented}ccccccc");
        let turns = ICINGA2.run(&checks(&seven_more));
        assert!(!turns.last().expect("a turn").begins, "{turns:?}");
        assert_eq!(minutes(&ICINGA2.run(&checks("owowowowo"))), [(5.0, true)]);
        assert!(ICINGA2.run(&checks(&"o".repeat(30))).is_empty());
    }

    #[test]
    fn icinga2_ignored_states_are_not_remembered() {
        let ignoring = Icinga2 {
            ignore: vec![Named::Warning],
            ..ICINGA2
        };
        assert!(ignoring.run(&checks(&"owowowowo".repeat(3))).is_empty());
        // The first check is a change from nothing, unless it is said what was before.
        let ok = Icinga2 {
            initial: Initial::Ok,
            ..ICINGA2
        };
        assert_eq!(minutes(&ok.run(&checks("owowowowo"))), [(6.0, true)]);
    }

    /// One change every ten checks peaks at 10.8 %: what was up yesterday and is dead today cannot be seen.
    #[test]
    fn icinga2_is_blind_to_what_is_slow() {
        let slow: String = ["oooooooooo", "cccccccccc"].concat().repeat(20);
        let ok = Icinga2 {
            high: 10.79,
            initial: Initial::Ok,
            ..ICINGA2
        };
        assert!(!ok.run(&checks(&slow)).is_empty());
        let ok = Icinga2 {
            high: 11.01,
            initial: Initial::Ok,
            ..ICINGA2
        };
        assert!(ok.run(&checks(&slow)).is_empty());
    }

    /// The figure of Nagios's documentation: changes at 3, 4, 5, 9, 12, 16 and 19 of the last 21 states, 7 of 20 unweighted.
    #[test]
    fn nagios_by_its_own_example() {
        let changes = [3, 4, 5, 9, 12, 16, 19];
        let mut bad = false;
        let text: String = (0..21)
            .map(|i| {
                bad ^= changes.contains(&i);
                if bad { 'c' } else { 'o' }
            })
            .collect();
        // 7 · 0.75 + 0.5/19 · (2+3+4+8+11+15+18) = 6.855 of 20; one check before, each is one newer.
        let narrow = Nagios {
            low: 34.28,
            high: 35.19,
            ..NAGIOS
        };
        let turns = narrow.run(&checks(&text));
        assert_eq!(minutes(&turns), [(19.0, true), (20.0, false)]);
        assert!((turns[1].value - 34.276).abs() < 0.001, "{turns:?}");
    }

    #[test]
    fn nagios_does_not_record_soft_problems() {
        let text = "ococococococ";
        assert!(!NAGIOS.run(&checks(text)).is_empty());
        let three = Nagios {
            max_check_attempts: 3,
            ..NAGIOS
        };
        assert!(three.run(&checks(text)).is_empty());
        assert!(!three.run(&checks(&"occc".repeat(9))).is_empty());
    }

    #[test]
    fn gatus_counts_in_a_row() {
        let gatus = Gatus {
            failure_threshold: 3,
            success_threshold: 2,
        };
        assert_eq!(
            minutes(&gatus.run(&checks("ccocccococoo"))),
            [(5.0, true), (11.0, false)]
        );
        assert!(gatus.run(&checks(&"cco".repeat(9))).is_empty());
    }

    #[test]
    fn prometheus_holds_before_it_fires() {
        let five = PrometheusFor {
            interval: 60,
            hold: 300,
            keep_firing_for: 0,
        };
        assert_eq!(
            minutes(&five.run(&checks("occccccoo"))),
            [(6.0, true), (7.0, false)]
        );
        assert!(five.run(&checks("occcccooo")).is_empty());
        let keeps = PrometheusFor {
            keep_firing_for: 120,
            ..five
        };
        assert_eq!(
            minutes(&keeps.run(&checks("occccccocooo"))),
            [(6.0, true), (11.0, false)]
        );
    }

    /// Three withdrawals within a half-life exceed 2000; the penalty falls to 750 after log2(p/750) half-lives.
    #[test]
    fn damping_halves_its_penalty() {
        let turns = RFD.run(&checks("ococococ"));
        // 1000·(1 + 2^(−2/15)) = 1911.7 at the second, 2742.9 at the third
        assert_eq!((turns[0].at_s / 60.0, turns[0].begins), (5.0, true));
        assert!((turns[0].value - 2742.9).abs() < 0.1, "{turns:?}");
        let fourth = 1000.0 + 2742.9 * (-2.0_f64 / 15.0).exp2();
        let reused = 7.0 + 15.0 * (fourth / 750.0).log2();
        assert!((turns[1].at_s / 60.0 - reused).abs() < 0.01, "{turns:?}");
        assert!(
            RFD.run(&checks(&["oc", &"o".repeat(30)].concat().repeat(9)))
                .is_empty()
        );
    }

    #[test]
    fn damping_is_cut_off() {
        let turns = Rfd {
            max_suppress: 30.0,
            ..RFD
        }
        .run(&checks(&"oc".repeat(200)));
        let last = turns.last().expect("a turn");
        assert!((last.at_s - (399.0 + 30.0) * 60.0).abs() < 1.0, "{turns:?}");
    }
}
