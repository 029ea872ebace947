//! Scenes: offices with a labelled life, one kind of trouble each, drawn from a seed.

use crate::office::{Fault, Life, Office, Span};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeSet;

const MINUTE: i64 = 60;
const HOUR: i64 = 3_600;
const DAY: i64 = 86_400;

/// What is true of a scene, and should be found.
#[derive(Debug, Clone, Default)]
pub(crate) struct Truth {
    /// Times without service: office, fault, when, and whether it must be found (else it may be).
    pub(crate) outages: Vec<(usize, Fault, Span, bool)>,
    pub(crate) flapping: Vec<(usize, Span)>,
    pub(crate) relapses: Vec<(usize, Span)>,
    pub(crate) degraded: Vec<(usize, Span)>,
    pub(crate) clones: Vec<(usize, Span)>,
    /// Shared outages: the offices hit, and when.
    pub(crate) common: Vec<(Vec<usize>, Span)>,
    /// Groups of offices that take turns.
    pub(crate) roaming: Vec<Vec<usize>>,
    /// Pairs of offices between which a thing went.
    pub(crate) moved: BTreeSet<(usize, usize)>,
}

/// A scene that is ready to be played.
pub(crate) struct Scene {
    pub(crate) offices: Vec<Office>,
    pub(crate) seconds: i64,
    pub(crate) truth: Truth,
    /// Opening hours as usual; else always open.
    pub(crate) office_hours: bool,
    /// The collector does not run: no ticks, nothing taken.
    pub(crate) stalls: Vec<Span>,
    /// What offices share beside their regency, by place.
    pub(crate) pools: Vec<Option<&'static str>>,
}

type Draw = fn(&mut SmallRng, &mut [Life], &mut Truth, i64);

/// The kinds.
pub(crate) const KINDS: [&str; 15] = [
    "loss",
    "outage",
    "power",
    "blackouts",
    "flapping",
    "relapse",
    "see-saw",
    "regional",
    "central",
    "closed",
    "clone",
    "skew",
    "backfill",
    "stall",
    "degraded",
];

/// Draws a scene.
pub(crate) fn draw(kind: &str, seed: u64) -> Scene {
    let mut rng = SmallRng::seed_from_u64(
        seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)
            ^ kind
                .bytes()
                .fold(7, |hash: u64, byte| hash.wrapping_mul(31) + u64::from(byte)),
    );
    let (days, make): (i64, Draw) = match kind {
        "loss" => (7, loss),
        "outage" | "skew" | "backfill" => (7, outage),
        "power" => (7, power),
        "blackouts" => (10, blackouts),
        "flapping" => (4, flapping),
        "relapse" => (21, relapse),
        "see-saw" => (7, see_saw),
        "regional" => (4, regional),
        "central" => (4, central),
        "closed" => (14, closed),
        "clone" => (2, cloned),
        "stall" => (2, stall),
        _ => (5, degraded),
    };
    // Two regencies of one ISP each; in the wide scenes more.
    let count = match kind {
        "regional" | "central" | "stall" => 24,
        "relapse" => 6,
        _ => 12,
    };
    let mut lives: Vec<Life> = (0..count).map(|_| Life::healthy()).collect();
    let mut truth = Truth::default();
    let seconds = days * DAY;
    make(&mut rng, &mut lives, &mut truth, seconds);
    let mut stalls = Vec::new();
    match kind {
        "skew" => {
            for life in &mut lives {
                // Some minutes off, or set to 1970 by an empty battery.
                let off = if rng.random_bool(0.2) {
                    -crate::office::START
                } else {
                    rng.random_range(-600..=600)
                };
                // As the collector's door has it: what is off by more than a minute is put right by when it arrived.
                life.ahead = if off.abs() > 60 {
                    rng.random_range(0..=2)
                } else {
                    off
                };
            }
        }
        "backfill" => lives
            .iter_mut()
            .for_each(|life| (life.jumbled, life.loses) = (true, true)),
        "stall" => {
            stalls = (0..6)
                .map(|i| i * 7 * HOUR + HOUR)
                .map(|from| from..from + rng.random_range(30..600))
                .collect();
        }
        _ => {}
    }
    let pools = (0..count)
        .map(|i| (kind == "see-saw" && i < 8).then_some("shared"))
        .collect();
    let offices = lives.into_iter().enumerate().map(|(i, life)| {
        let code = format!("36.{:02}.{:02}", 71 + i / 6, i % 6 + 1);
        Office::new(&code, rng.random(), life)
    });
    Scene {
        offices: offices.collect(),
        seconds,
        truth,
        office_hours: matches!(kind, "power" | "closed" | "blackouts"),
        stalls,
        pools,
    }
}

/// exp(N(ln median, sigma)).
fn log_normal(rng: &mut SmallRng, median: f64, sigma: f64) -> i64 {
    // Irwin–Hall of twelve.
    let normal = (0..12).map(|_| rng.random_range(0.0..1.0)).sum::<f64>() - 6.0;
    #[allow(clippy::cast_possible_truncation, reason = "seconds")]
    let seconds = (median * (normal * sigma).exp()) as i64;
    seconds
}

/// Weibull of this scale and shape.
fn weibull(rng: &mut SmallRng, scale: f64, shape: f64) -> i64 {
    let uniform: f64 = rng.random_range(1e-9..1.0);
    #[allow(clippy::cast_possible_truncation, reason = "seconds")]
    let seconds = (scale * (-uniform.ln()).powf(1.0 / shape)) as i64;
    seconds
}

fn loss(rng: &mut SmallRng, lives: &mut [Life], _: &mut Truth, _: i64) {
    for life in lives {
        let usual = [0.0, 0.01, 0.03, 0.08][rng.random_range(0..4)];
        life.loss = [usual, rng.random_range(0.2..0.5), 0.000_2, 0.08];
    }
}

fn outage(rng: &mut SmallRng, lives: &mut [Life], truth: &mut Truth, seconds: i64) {
    for (i, life) in lives.iter_mut().enumerate() {
        let mut t = rng.random_range(2 * HOUR..40 * HOUR);
        while t < seconds - 8 * HOUR {
            let fault = [Fault::Server, Fault::Uplink, Fault::Lan][rng.random_range(0..3)];
            let length = log_normal(rng, 1_800.0, 1.0).clamp(90, 6 * HOUR);
            life.fault(fault, t..t + length);
            truth.outages.push((i, fault, t..t + length, true));
            // What lies closer together is one incident, or a relapse of it.
            t += length + rng.random_range(20 * HOUR..60 * HOUR);
        }
    }
}

/// Whether most of a time lies in the opening hours of its day, away from their edges.
fn in_hours(span: &Span) -> bool {
    let (day, second) = (span.start.div_euclid(DAY) % 7, span.start.rem_euclid(DAY));
    day < 5 && (8 * HOUR + 600..15 * HOUR).contains(&second)
}

fn power(rng: &mut SmallRng, lives: &mut [Life], truth: &mut Truth, seconds: i64) {
    for (i, life) in lives.iter_mut().enumerate() {
        let mut t = rng.random_range(HOUR..30 * HOUR);
        while t < seconds - 21 * HOUR {
            let length = if rng.random_bool(0.15) {
                rng.random_range(17 * HOUR..19 * HOUR)
            } else {
                log_normal(rng, 2_400.0, 0.8).clamp(180, 5 * HOUR)
            };
            life.fault(Fault::Power, t..t + length);
            let span = t..t + length;
            truth
                .outages
                .push((i, Fault::Power, span.clone(), in_hours(&span)));
            t += length + rng.random_range(14 * HOUR..50 * HOUR);
        }
    }
}

/// One group of offices after the other has no power, hand over at the hour.
fn blackouts(rng: &mut SmallRng, lives: &mut [Life], truth: &mut Truth, seconds: i64) {
    for day in 0..seconds / DAY {
        for turn in 0..4 {
            let start = day * DAY + (8 + 2 * turn) * HOUR + rng.random_range(0..600);
            for (i, life) in lives.iter_mut().enumerate() {
                if i64::try_from(i % 4).is_ok_and(|group| group == turn) {
                    let span =
                        start + rng.random_range(0..20)..start + 2 * HOUR - rng.random_range(0..30);
                    life.fault(Fault::Power, span.clone());
                    truth
                        .outages
                        .push((i, Fault::Power, span.clone(), in_hours(&span)));
                }
            }
        }
    }
}

fn flapping(rng: &mut SmallRng, lives: &mut [Life], truth: &mut Truth, seconds: i64) {
    for (i, life) in lives.iter_mut().enumerate() {
        let mut t = rng.random_range(2 * HOUR..20 * HOUR);
        while t < seconds - 10 * HOUR {
            let fault = [Fault::Server, Fault::Uplink][rng.random_range(0..2)];
            // Fast, middle or slow: how long it is up in between.
            let up = [2 * MINUTE, 10 * MINUTE, 40 * MINUTE][rng.random_range(0..3)];
            let from = t;
            for _ in 0..rng.random_range(8..16) {
                let length = rng.random_range(70..240);
                life.fault(fault, t..t + length);
                truth.outages.push((i, fault, t..t + length, true));
                t += length + rng.random_range(up / 2..up * 3 / 2).max(60);
            }
            truth.flapping.push((i, from..t));
            t += rng.random_range(40 * HOUR..60 * HOUR);
        }
    }
}

fn relapse(rng: &mut SmallRng, lives: &mut [Life], truth: &mut Truth, seconds: i64) {
    for (i, life) in lives.iter_mut().enumerate() {
        let fault = [Fault::Server, Fault::Uplink, Fault::Lan][rng.random_range(0..3)];
        let mut t = rng.random_range(DAY..5 * DAY);
        if i % 3 == 2 {
            // A repair that holds: no relapse.
            let length = log_normal(rng, 7_200.0, 0.8).clamp(600, DAY);
            life.fault(fault, t..t + length);
            truth.outages.push((i, fault, t..t + length, true));
            continue;
        }
        let from = t;
        let mut end = t;
        for _ in 0..rng.random_range(4..8) {
            let length = log_normal(rng, 7_200.0, 0.8).clamp(600, DAY);
            if t + length > seconds - DAY {
                break;
            }
            life.fault(fault, t..t + length);
            truth.outages.push((i, fault, t..t + length, true));
            end = t + length;
            // Decreasing hazard: most fail soon, some hold for days.
            t = end + weibull(rng, 86_400.0, 0.7).clamp(70 * MINUTE, 5 * DAY);
        }
        truth.relapses.push((i, from..end));
    }
}

/// Something that n offices share serves K of them at a time, and moves.
fn see_saw(rng: &mut SmallRng, lives: &mut [Life], truth: &mut Truth, seconds: i64) {
    let n = [2, 4, 8][rng.random_range(0..3)];
    let served = n / 2;
    let mut up: Vec<usize> = (0..served).collect();
    for (card, i) in (0..).zip(&up) {
        lives[*i].cards.push((0, card));
    }
    let mut since = vec![0; n];
    let mut t = 6 * HOUR;
    let mut swaps = vec![0; n];
    // Those it does not serve are down from the start.
    while t < seconds - 6 * HOUR {
        let leaves = rng.random_range(0..up.len());
        let waits: Vec<usize> = (0..n).filter(|i| !up.contains(i)).collect();
        let joins = waits[rng.random_range(0..waits.len())];
        let jitter = rng.random_range(5..55);
        let left = std::mem::replace(&mut up[leaves], joins);
        let (down_at, up_at) = (t, t + jitter);
        lives[joins]
            .cards
            .push((down_at, u8::try_from(leaves).unwrap_or(u8::MAX)));
        truth.moved.insert((left.min(joins), left.max(joins)));
        if since[joins] > 0 || swaps[joins] == 0 {
            let span = since[joins].max(HOUR)..up_at;
            lives[joins].fault(Fault::Uplink, span.clone());
            truth.outages.push((joins, Fault::Uplink, span, true));
        }
        since[left] = down_at;
        swaps[left] += 1;
        swaps[joins] += 1;
        t += rng.random_range(2 * HOUR..9 * HOUR);
    }
    for i in (0..n).filter(|i| !up.contains(i)) {
        let span = since[i].max(HOUR)..seconds;
        lives[i].fault(Fault::Uplink, span.clone());
        truth.outages.push((i, Fault::Uplink, span, true));
    }
    truth.roaming.push((0..n).collect());
}

fn shared(
    rng: &mut SmallRng,
    lives: &mut [Life],
    truth: &mut Truth,
    fault: Fault,
    offices: &[usize],
    t: i64,
    length: i64,
) {
    let mut end = t + length;
    for i in offices {
        // The far ones notice a little later; they recover one after the other.
        let span = t + rng.random_range(0..20)..t + length + rng.random_range(0..20 * MINUTE);
        end = end.max(span.end);
        lives[*i].fault(fault, span.clone());
        truth.outages.push((*i, fault, span, true));
    }
    truth.common.push((offices.to_vec(), t..end));
}

fn regional(rng: &mut SmallRng, lives: &mut [Life], truth: &mut Truth, seconds: i64) {
    let mut t = rng.random_range(4 * HOUR..20 * HOUR);
    while t < seconds - 8 * HOUR {
        let regency = rng.random_range(0..lives.len() / 6);
        let offices: Vec<usize> = (regency * 6..regency * 6 + 6).collect();
        let length = log_normal(rng, 3_600.0, 0.7).clamp(300, 5 * HOUR);
        let fault = [Fault::Uplink, Fault::Power][usize::from(rng.random_bool(0.2))];
        shared(rng, lives, truth, fault, &offices, t, length);
        t += length + rng.random_range(10 * HOUR..30 * HOUR);
    }
}

fn central(rng: &mut SmallRng, lives: &mut [Life], truth: &mut Truth, seconds: i64) {
    let mut t = rng.random_range(4 * HOUR..20 * HOUR);
    while t < seconds - 8 * HOUR {
        let offices: Vec<usize> = (0..lives.len()).collect();
        let length = log_normal(rng, 2_400.0, 0.7).clamp(300, 4 * HOUR);
        shared(rng, lives, truth, Fault::Central, &offices, t, length);
        t += length + rng.random_range(10 * HOUR..40 * HOUR);
    }
}

/// Machines are on from before opening to after closing; a fifth is switched off without a word.
fn closed(rng: &mut SmallRng, lives: &mut [Life], _: &mut Truth, seconds: i64) {
    for life in lives {
        for day in 0..seconds / DAY {
            let midnight = day * DAY;
            if day % 7 >= 5 {
                continue;
            }
            let until = if day % 7 == 4 { 3 * DAY } else { DAY };
            let fault = if rng.random_bool(0.2) {
                Fault::Yanked
            } else {
                Fault::Off
            };
            let closing = if day % 7 == 4 {
                16 * HOUR + 30 * MINUTE
            } else {
                16 * HOUR
            };
            let (leave, come) = (
                closing + rng.random_range(-20 * MINUTE..60 * MINUTE),
                8 * HOUR + rng.random_range(-30 * MINUTE..30 * MINUTE),
            );
            life.fault(fault, midnight + leave..midnight + until + come);
        }
    }
}

fn cloned(rng: &mut SmallRng, lives: &mut [Life], truth: &mut Truth, seconds: i64) {
    for (i, life) in lives.iter_mut().enumerate().step_by(3) {
        let from = rng.random_range(HOUR..20 * HOUR);
        life.cloned = Some(from);
        truth.clones.push((i, from..seconds));
    }
}

/// The way to the collector is cut for all at once, again and again; nothing is wrong at the offices.
fn stall(rng: &mut SmallRng, lives: &mut [Life], _: &mut Truth, seconds: i64) {
    for from in (3 * HOUR..seconds - 4 * HOUR).step_by(5 * 3_600) {
        let span = from..from + rng.random_range(20..110);
        for life in &mut *lives {
            life.fault(Fault::Deaf, span.clone());
        }
    }
}

fn degraded(rng: &mut SmallRng, lives: &mut [Life], truth: &mut Truth, seconds: i64) {
    for (i, life) in lives.iter_mut().enumerate() {
        let from = rng.random_range(2 * DAY..seconds - DAY);
        let span = from..from + rng.random_range(3 * HOUR..10 * HOUR);
        let fault = [Fault::Slow, Fault::Lossy][rng.random_range(0..2)];
        life.fault(fault, span.clone());
        truth.degraded.push((i, span));
    }
}
