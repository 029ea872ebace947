//! The samples of a made-up nation: the same for everybody who asks with the same seed.
//!
//! Each agent has six targets on a 10 s grid: gateway and server on the office's own network, resolver, uplink, central and collector beyond
//! it. A link's RTT is log-normal around a level of its own, its time has the jitter of a machine's scheduler, 1 % of all probes are lost one by one,
//! and now and then a link is down for minutes or hours.

use denyut_proto::{Failure, Heartbeat, Outcome, Reason, Sample, TargetSamples, UnixMillis, wire};
use prost::Message;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::time::Duration;

/// Targets of an agent: name, median RTT in µs, spread of one link (σ of its logarithm).
pub(crate) const TARGETS: [(&str, f64, f64); 6] = [
    ("gateway", 600.0, 0.15),
    ("server", 900.0, 0.15),
    ("dns", 12_000.0, 0.07),
    ("uplink", 15_000.0, 0.07),
    ("collector", 18_000.0, 0.07),
    ("central", 25_000.0, 0.07),
];
/// From probe to probe.
pub(crate) const STEP_MS: i64 = 10_000;
/// 2026-01-05, a Monday, at midnight UTC.
pub(crate) const START_MS: i64 = 1_767_571_200_000;

const TABLE: usize = 1 << 14;

/// All agents and what they will see.
pub(crate) struct Nation {
    agents: Vec<Agent>,
    /// A standard normal deviate for each of many equally likely places.
    normal: Vec<f32>,
    rng: SmallRng,
    step: i64,
}

struct Agent {
    phase_ms: i64,
    links: [Link; TARGETS.len()],
}

#[derive(Clone, Copy)]
struct Link {
    /// Logarithm of the median RTT.
    level: f32,
    spread: f32,
    /// Down until this step, by this reason.
    down_until: i64,
    reason: Reason,
}

impl Nation {
    pub(crate) fn new(agents: usize, seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut normal: Vec<f32> = Vec::with_capacity(TABLE);
        while normal.len() < TABLE {
            // Box and Muller.
            let (u, v): (f64, f64) = (rng.random_range(1e-12..1.0), rng.random());
            let radius = (-2.0 * u.ln()).sqrt();
            for part in [
                (v * std::f64::consts::TAU).cos(),
                (v * std::f64::consts::TAU).sin(),
            ] {
                #[allow(
                    clippy::cast_possible_truncation,
                    reason = "a deviate needs no more digits"
                )]
                normal.push((radius * part) as f32);
            }
        }
        let agents = (0..agents)
            .map(|_| Agent {
                phase_ms: rng.random_range(0..STEP_MS),
                links: std::array::from_fn(|i| {
                    let (_, median, spread) = TARGETS[i];
                    #[allow(
                        clippy::cast_possible_truncation,
                        reason = "a level needs no more digits"
                    )]
                    Link {
                        level: (median.ln() + 0.4 * f64::from(normal[rng.random_range(0..TABLE)]))
                            as f32,
                        spread: spread as f32,
                        down_until: 0,
                        reason: Reason::Timeout,
                    }
                }),
            })
            .collect();
        Self {
            agents,
            normal,
            rng,
            step: 0,
        }
    }

    pub(crate) fn agents(&self) -> usize {
        self.agents.len()
    }

    /// How many steps were taken.
    pub(crate) fn steps(&self) -> i64 {
        self.step
    }

    fn deviate(&mut self) -> f32 {
        self.normal[self.rng.random_range(0..TABLE)]
    }

    /// What all agents see in the next step of `STEP_MS`, one sample a target, agent by agent.
    pub(crate) fn step(&mut self, mut tell: impl FnMut(usize, [Sample; TARGETS.len()])) {
        let step = self.step;
        self.step += 1;
        for agent in 0..self.agents.len() {
            let base = START_MS + step * STEP_MS + self.agents[agent].phase_ms;
            let samples = std::array::from_fn(|i| self.sample(agent, i, base, step));
            tell(agent, samples);
        }
    }

    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "µs and ms of a made-up sample"
    )]
    fn sample(&mut self, agent: usize, i: usize, base: i64, step: i64) -> Sample {
        // The scheduler wakes a little late, and sometimes much.
        let late = (self.deviate().abs() * 1.5) as i64;
        let late = if self.rng.random_ratio(1, 500) {
            late * 40
        } else {
            late
        };
        let at = UnixMillis(base + i64::try_from(i).unwrap_or(0) * 150 + late);
        let link = self.agents[agent].links[i];
        let dice: u32 = self.rng.random_range(0..1_000_000);
        // About one outage a link and week, of one minute to six hours.
        if dice < 16 && step >= link.down_until {
            let length = 6 << self.rng.random_range(0..9);
            let link = &mut self.agents[agent].links[i];
            link.down_until = step + length;
            link.reason = if length % 4 == 0 {
                Reason::HostUnreachable
            } else {
                Reason::Timeout
            };
        }
        let outcome = if step < link.down_until {
            Outcome::Failed(Failure::from(link.reason))
        } else if dice >= 990_000 {
            Outcome::Failed(Failure::from(Reason::Timeout))
        } else {
            let rtt = (link.level + link.spread * self.deviate()).exp();
            Outcome::Ok {
                rtt_us: (rtt as u32).max(1),
            }
        };
        Sample { at, outcome }
    }
}

/// The name of an agent, as real ones are.
pub(crate) fn agent_name(agent: usize) -> String {
    format!("kecamatan-{agent:05}")
}

/// Adds one sample a target to a heartbeat of the same targets.
pub(crate) fn add(heartbeat: &mut Heartbeat, samples: &[Sample]) {
    let last = samples.iter().map(|sample| sample.at).max();
    let at = last.unwrap_or_default() + Duration::from_millis(40);
    heartbeat.at = at;
    heartbeat.uptime = Duration::from_millis((at.0 - START_MS + 400_000).unsigned_abs());
    for (target, sample) in heartbeat.samples.iter_mut().zip(samples) {
        target.samples.push(*sample);
    }
}

/// A heartbeat of one sample a target, as an agent sends it.
pub(crate) fn heartbeat(samples: &[Sample]) -> Heartbeat {
    let at = samples
        .iter()
        .map(|sample| sample.at)
        .max()
        .unwrap_or_default()
        + Duration::from_millis(40);
    Heartbeat {
        at,
        uptime: Duration::from_millis((at.0 - START_MS + 400_000).unsigned_abs()),
        started: Duration::from_secs(60),
        interval: Duration::from_secs(10),
        samples: TARGETS
            .iter()
            .zip(samples)
            .map(|((name, ..), sample)| TargetSamples {
                target: name.parse().expect("a name"),
                samples: vec![*sample],
            })
            .collect(),
        targets: None,
        goodbye: None,
        gateway: None,
        shown: Vec::new(),
        path: None,
    }
}

/// Appends the same as it travels.
pub(crate) fn encode(heartbeat: &Heartbeat, out: &mut bytes::BytesMut) {
    wire::Heartbeat::from(heartbeat)
        .encode(out)
        .expect("there is room");
}

/// What no lossless codec of independent samples can go below, in bytes a sample: the entropy of RTT and outcome as they are drawn, and of the
/// jitter. RTT: log-normal, rounded to µs: (ln(e^level·σ) + ½·ln(2πe)) / ln 2 bits.
pub(crate) fn entropy_bytes(nation: &Nation) -> f64 {
    let mut bits = 0.0;
    let mut links = 0.0;
    for link in nation.agents.iter().flat_map(|agent| &agent.links) {
        let (level, spread) = (f64::from(link.level), f64::from(link.spread));
        bits += (level + spread.ln() + 0.5 * (std::f64::consts::TAU * std::f64::consts::E).ln())
            / std::f64::consts::LN_2;
        links += 1.0;
    }
    // Jitter: |N(0, 1.5 ms)| in whole ms.
    let cell = |ms: f64| {
        let within = |x: f64| erf(x / 1.5 / std::f64::consts::SQRT_2);
        within(ms + 1.0) - within(ms)
    };
    let jitter: f64 = (0..9)
        .map(|ms| cell(f64::from(ms)))
        .filter(|p| *p > 0.0)
        .map(|p| -p * p.log2())
        .sum();
    (bits / links * 0.985 + jitter + 0.09) / 8.0
}

/// Abramowitz and Stegun 7.1.26, within 1.5·10⁻⁷.
fn erf(x: f64) -> f64 {
    let t = 1.0 / (1.0 + 0.327_591_1 * x);
    let poly = t
        * (0.254_829_592
            + t * (-0.284_496_736
                + t * (1.421_413_741 + t * (-1.453_152_027 + t * 1.061_405_429))));
    1.0 - poly * (-x * x).exp()
}
