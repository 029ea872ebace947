//! Offices that are simulated: what their agents see, say, and when it arrives.

use denyut_proto::{
    AgentId, BootId, Goodbye, Heartbeat, HttpExpectation, Identity, OfficeCode, Outcome, Reason,
    Role, Sample, Shown, Target, TargetSamples, UnixMillis,
};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::collections::VecDeque;
use std::time::Duration;

/// Monday 2026-03-02, 00:00 WIB, in seconds since 1970 UTC.
pub(crate) const START: i64 = 1_772_384_400;
/// From probe to probe, and from heartbeat to heartbeat, in seconds.
pub(crate) const EVERY: i64 = 10;
/// Stored heartbeats that arrive in one second.
const DRAIN: usize = 40;

/// A moment of the simulation.
pub(crate) fn at(second: i64) -> UnixMillis {
    UnixMillis((START + second) * 1_000)
}

/// A stretch of seconds.
pub(crate) type Span = std::ops::Range<i64>;

/// What fails at an office.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Fault {
    Lan,
    Server,
    Uplink,
    Central,
    /// No power: no agent.
    Power,
    /// Switched off, with a word.
    Off,
    /// Switched off, without one.
    Yanked,
    /// The agent's process dies.
    Crash,
    /// Round trips take twice as long.
    Slow,
    /// 12 % of probes are lost.
    Lossy,
    /// The way to the collector only: nothing arrives meanwhile.
    Deaf,
}

/// What an office goes through.
#[derive(Debug, Clone, Default)]
pub(crate) struct Life {
    pub(crate) faults: Vec<(Fault, Span)>,
    /// Probability of a lost probe: usually, in a bad spell; and of a spell's beginning and end per probe (Gilbert–Elliott).
    pub(crate) loss: [f64; 4],
    /// Seconds that its clock is ahead.
    pub(crate) ahead: i64,
    /// Late heartbeats come in another order, some of them twice.
    pub(crate) jumbled: bool,
    /// And some never.
    pub(crate) loses: bool,
    /// From then on a second machine speaks as the same agent.
    pub(crate) cloned: Option<i64>,
    /// Cards of the equipment that its uplink goes through, each from then on; before that, and if there is none, one of its own.
    pub(crate) cards: Vec<(i64, u8)>,
}

impl Life {
    /// A healthy office: a probe in 500 is lost, in rare spells a quarter.
    pub(crate) fn healthy() -> Self {
        Self {
            loss: [0.002, 0.25, 0.000_02, 0.1],
            ..Self::default()
        }
    }

    pub(crate) fn fault(&mut self, fault: Fault, span: Span) {
        self.faults.push((fault, span));
    }
}

/// A heartbeat that arrives now.
pub(crate) struct Arrived {
    pub(crate) boot: BootId,
    pub(crate) heartbeat: Heartbeat,
}

/// One office with one agent.
pub(crate) struct Office {
    pub(crate) code: OfficeCode,
    pub(crate) agent: AgentId,
    pub(crate) life: Life,
    phase: i64,
    rng: SmallRng,
    delivery: SmallRng,
    boot: u8,
    started: u64,
    booted: i64,
    there: bool,
    declared: bool,
    spells: [bool; 4],
    /// When each target answered last, in this process; after a while without an answer it tells again what it is.
    answered: [Option<i64>; 4],
    backlog: VecDeque<Arrived>,
    /// What each target's probes said, for those who judge by checks: when, and whether it was answered.
    pub(crate) checks: Vec<(i64, [bool; 4])>,
}

/// What is probed, in the order of the path to the outside.
pub(crate) const ROLES: [(&str, Role); 4] = [
    ("gateway", Role::Gateway),
    ("server", Role::Server),
    ("uplink", Role::Uplink),
    ("central", Role::Central),
];

impl Office {
    pub(crate) fn new(code: &str, seed: u64, life: Life) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let phase = rng.random_range(0..EVERY);
        Self {
            code: code.parse().expect("a code"),
            agent: format!("a-{}", code.replace('.', "-"))
                .parse()
                .expect("an id"),
            life,
            phase,
            delivery: SmallRng::seed_from_u64(seed ^ 1),
            rng,
            boot: 1,
            started: 0,
            booted: 0,
            there: true,
            declared: false,
            spells: [false; 4],
            answered: [None; 4],
            backlog: VecDeque::new(),
            checks: Vec::new(),
        }
    }

    fn is(&self, fault: Fault, second: i64) -> bool {
        self.life
            .faults
            .iter()
            .any(|(of, span)| *of == fault && span.contains(&second))
    }

    /// Looks, if it is time to; nobody takes what it has to say.
    pub(crate) fn hold(&mut self, second: i64) {
        if second % EVERY == self.phase {
            self.look(second);
            if self.life.cloned.is_some_and(|from| second >= from) {
                self.clone_speaks(second);
            }
        }
    }

    /// What arrives in this second.
    pub(crate) fn second(&mut self, second: i64, arrived: &mut Vec<Arrived>) {
        self.hold(second);
        let silent = [
            Fault::Lan,
            Fault::Uplink,
            Fault::Power,
            Fault::Off,
            Fault::Yanked,
            Fault::Crash,
            Fault::Deaf,
        ];
        if self.backlog.is_empty() || silent.iter().any(|fault| self.is(*fault, second)) {
            return;
        }
        if self.life.jumbled && self.backlog.len() > 3 {
            self.jumble(arrived);
            return;
        }
        let count = self.backlog.len().min(DRAIN);
        arrived.extend(self.backlog.drain(..count));
    }

    /// The newest comes first; of the rest some is lost, some comes twice, in any order.
    fn jumble(&mut self, arrived: &mut Vec<Arrived>) {
        arrived.extend(self.backlog.pop_back());
        for _ in 0..DRAIN {
            if self.backlog.is_empty() {
                return;
            }
            let place = self.delivery.random_range(0..self.backlog.len());
            let Some(one) = self.backlog.swap_remove_back(place) else {
                return;
            };
            let targets = one.heartbeat.targets.is_some() || one.heartbeat.goodbye.is_some();
            if !targets && self.life.loses && self.delivery.random_bool(0.002) {
                continue;
            }
            if self.delivery.random_bool(0.05) {
                arrived.push(Arrived {
                    boot: one.boot,
                    heartbeat: one.heartbeat.clone(),
                });
            }
            arrived.push(one);
        }
    }

    fn look(&mut self, second: i64) {
        let gone = [Fault::Power, Fault::Off, Fault::Yanked, Fault::Crash];
        if gone.iter().any(|fault| self.is(*fault, second)) {
            if self.there && !self.is(Fault::Crash, second) {
                self.boot = self.boot.wrapping_add(1);
            }
            self.there = false;
            self.checks.push((second, [false; 4]));
            return;
        }
        if !self.there {
            self.there = true;
            self.started += 1;
            self.declared = false;
            self.answered = [None; 4];
            self.booted = second;
        }
        let lan = self.is(Fault::Lan, second);
        let uplink = lan || self.is(Fault::Uplink, second);
        let dead = [
            lan,
            lan || self.is(Fault::Server, second),
            uplink,
            uplink || self.is(Fault::Central, second),
        ];
        let (slow, lossy) = (self.is(Fault::Slow, second), self.is(Fault::Lossy, second));
        let shown = second + self.life.ahead;
        let mut answered = [false; 4];
        let mut samples = Vec::with_capacity(4);
        for (i, (name, _)) in ROLES.iter().enumerate() {
            let [usual, spell, begin, end] = self.life.loss;
            let flips = if self.spells[i] { end } else { begin };
            self.spells[i] ^= self.rng.random_bool(flips);
            let loss = if self.spells[i] {
                spell
            } else if lossy {
                0.12
            } else {
                usual
            };
            answered[i] = !dead[i] && !self.rng.random_bool(loss);
            let outcome = if answered[i] {
                Outcome::Ok {
                    rtt_us: self.rtt(i, slow),
                }
            } else {
                Outcome::Failed(Reason::Timeout.into())
            };
            samples.push(TargetSamples {
                target: name.parse().expect("a name"),
                samples: vec![Sample {
                    at: at(shown),
                    outcome,
                }],
            });
        }
        self.checks.push((second, answered));
        let away = Heartbeat::away(Duration::from_secs(EVERY.unsigned_abs())).as_secs();
        let is_new =
            |last: Option<i64>| last.is_none_or(|last| (second - last).unsigned_abs() >= away);
        let identities = (0..4)
            .filter(|i| answered[*i] && is_new(self.answered[*i]))
            .filter_map(|i| self.shows(i, second))
            .collect();
        for i in (0..4).filter(|i| answered[*i]) {
            self.answered[i] = Some(second);
        }
        let heartbeat = Heartbeat {
            at: at(shown),
            uptime: Duration::from_secs((second - self.booted).unsigned_abs() + 60),
            started: Duration::from_secs(self.started),
            interval: Duration::from_secs(10),
            samples,
            targets: (!self.declared).then(targets),
            goodbye: self
                .is(Fault::Off, second + EVERY)
                .then_some(Goodbye::Shutdown),
            gateway: None,
            shown: identities,
            path: None,
        };
        self.declared = true;
        self.backlog.push_back(Arrived {
            boot: BootId([self.boot; 16]),
            heartbeat,
        });
    }

    /// The server is the office's own, the way out may be lent, and the central service has one certificate for all.
    fn shows(&self, target: usize, second: i64) -> Option<Shown> {
        let own = |kind: u8| {
            let mut mac = [2, kind, 0, 0, 0, 0];
            let digits = self.code.as_str().bytes().filter(u8::is_ascii_digit);
            mac.iter_mut()
                .skip(2)
                .rev()
                .zip(digits)
                .for_each(|(byte, digit)| *byte = digit);
            Identity::Mac(mac)
        };
        let lent = self
            .life
            .cards
            .iter()
            .rev()
            .find(|(from, _)| *from <= second);
        let identity = match target {
            1 => own(1),
            2 => lent.map_or_else(|| own(2), |(_, card)| Identity::Mac([2, 3, 0, 0, 0, *card])),
            3 => Identity::Certificate([7; 32]),
            _ => return None,
        };
        let target = Some(ROLES[target].0.parse().expect("a name"));
        Some(Shown { target, identity })
    }

    /// A machine with the same disk, which sees that all is well.
    fn clone_speaks(&mut self, second: i64) {
        let Some(last) = self.backlog.back() else {
            return;
        };
        let mut heartbeat = last.heartbeat.clone();
        heartbeat.at = at(second + 3);
        for samples in &mut heartbeat.samples {
            samples.samples[0] = Sample {
                at: at(second + 3),
                outcome: Outcome::Ok { rtt_us: 9_000 },
            };
        }
        self.backlog.push_back(Arrived {
            boot: BootId([201; 16]),
            heartbeat,
        });
    }

    /// Around 20 ms to the outside, log-normal.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "microseconds of a round trip"
    )]
    fn rtt(&mut self, target: usize, slow: bool) -> u32 {
        let usual = [600.0, 900.0, 20_000.0, 35_000.0][target];
        let noise: f64 = (0..4)
            .map(|_| self.rng.random_range(-1.0..1.0))
            .sum::<f64>()
            * 0.2;
        (usual * noise.exp() * if slow { 2.0 } else { 1.0 }) as u32 + 1
    }
}

fn targets() -> Vec<Target> {
    let target = |(name, role): &(&str, Role)| {
        let probe = "tcp://10.0.0.2:443".parse().expect("a probe");
        let (interval, timeout) = (Duration::from_secs(10), Duration::from_secs(3));
        Target::new(
            name.parse().expect("a name"),
            *role,
            probe,
            interval,
            timeout,
            HttpExpectation::default(),
        )
        .expect("a target")
    };
    ROLES.iter().map(target).collect()
}
