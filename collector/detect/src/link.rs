//! One link's state machine, with hysteresis: a fold over its samples in the order of time.
//!
//! `Unknown → Up ⇄ Suspect → Down ⇄ Recovering → Up`. A failure raises the suspicion, a success lowers it: a
//! CUSUM of the log-likelihood ratio between "down", where a probe fails with probability `down_fails`, and "as
//! usual", where it fails with the loss that was learned of this link. So a clean link is down after 4 failures
//! in a row, one that loses every tenth probe after 8.
//!
//! Beside it, over the samples of a link that is not down: a second CUSUM for a loss above the usual, and a Page–Hinkley test of
//! ln(RTT) against a baseline of each hour of the day. Where nothing changes a sample costs a few additions; no logarithm, no exponential.

use crate::params::Params;
use denyut_proto::sample::Evidence;
use denyut_proto::{Failure, Outcome, Reason, Sample, UnixMillis};
use serde::{Deserialize, Serialize};

/// Weight of one probe in the learned loss: about the last 1,000 probes count (3 h at 10 s).
const LOSS_WEIGHT: f64 = 0.001;
/// Log-likelihood at which a higher loss is told. A spell of bursts must not reach it: ten losses above the usual do.
const LOSSY_AT: f64 = 25.0;
/// A longer blip moves the usual one half of the way to it, a shorter one takes this share off it: the longest of the last few hundred count.
const BLIP: (f32, f32) = (0.5, 0.998);
/// What was down for longer was no blip.
const BLIP_MOST_MS: i64 = 600_000;
/// A new link's usual blip, in ms: until it is known better, somebody is called a little later rather than in vain.
const BLIP_FIRST: f32 = 60_000.0;

/// Where a link is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// No sample yet.
    #[default]
    Unknown,
    /// It answers.
    Up,
    /// Failing, not yet for long enough.
    Suspect,
    /// It does not answer.
    Down,
    /// Answering again, not yet for long enough.
    Recovering,
}

/// How a link that answers is worse than it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Degraded {
    /// It loses more than usual.
    Lossy,
    /// Its round trips take longer than usual.
    Slow,
}

/// What a sample told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// The phase changed; dated to the first sample that told of it.
    Phase {
        /// Before.
        from: Phase,
        /// After.
        to: Phase,
        /// Event time.
        at: UnixMillis,
    },
    /// The link became worse, or is as usual again.
    Degraded {
        /// In what.
        what: Degraded,
        /// It began; else it ended.
        begins: bool,
        /// Event time.
        at: UnixMillis,
    },
}

/// The fold: all that is needed to judge the next sample.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fold {
    /// Where the link is.
    pub phase: Phase,
    /// Since when it is up or down (event time); a passing suspicion or recovery does not change it.
    pub since: Option<UnixMillis>,
    /// Event time of the last sample.
    pub last_at: Option<UnixMillis>,
    /// RTT of the last sample, if it was answered.
    pub last_rtt_us: Option<u32>,
    /// Why the last sample failed, if it did: the reason's number and its detail.
    last_failure: Option<(i32, u32)>,
    /// Why the first sample of the present stretch of failures failed.
    run_failure: Option<(i32, u32)>,
    /// The CUSUM: 0 (nothing is wrong) up to the threshold.
    suspicion: f64,
    /// Learned share of lost probes.
    loss: f64,
    /// When the stretch of suspicion or recovery began, and the successes and failures in it. What a suspicion
    /// teaches of the loss is learned when it has passed: an outage is no loss.
    run_since: Option<UnixMillis>,
    run_good: u32,
    run_bad: u32,
    /// Since when not one probe was answered.
    pub failing_since: Option<UnixMillis>,
    /// How long a suspicion or a short down usually takes to pass at most, in ms.
    blip_ms: f32,
    /// CUSUM of a loss above the usual, and since when it is told.
    lossy: f64,
    /// Since when the link is lossy.
    pub lossy_since: Option<UnixMillis>,
    /// The RTT's test.
    slow: Slow,
}

/// Page–Hinkley (Page 1954) of ln(RTT) in units of its own deviation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Slow {
    /// Mean of ln(RTT in µs) of each hour of the day (UTC); 0: none yet.
    usual: [f32; 24],
    /// The last of them that was used: what an hour without one begins with.
    last: f32,
    /// Variance around it.
    variance: f32,
    /// Samples learned from, up to when the test begins.
    learned: u16,
    /// Mean of what is above the baseline now.
    above: f32,
    /// The test's sum.
    sum: f32,
    since: Option<UnixMillis>,
}

impl Slow {
    /// Samples before the test begins.
    const LEARN: u16 = 300;
    /// Weight of a sample in its hour's mean (about the last 200) and in what is above it now (the last 20).
    const WEIGHT: (f32, f32) = (0.005, 0.05);
    /// Drift in deviations per sample that is let pass.
    const DRIFT: f32 = 0.25;
    /// The sum at which it is told: exp(2 · 0.25 · 36) ≈ 7·10⁷ samples to a false alarm of independent ones.
    const AT: f32 = 36.0;
    /// Deviations of one sample count for at most this.
    const CLIP: f32 = 4.0;
    /// After so long what is new is the usual.
    const ADOPT_MS: i64 = 86_400_000;

    fn new() -> Self {
        Self {
            usual: [0.0; 24],
            last: 0.0,
            variance: 0.05,
            learned: 0,
            above: 0.0,
            sum: 0.0,
            since: None,
        }
    }

    fn take(&mut self, params: &Params, at: UnixMillis, rtt_us: u32) -> Option<(bool, UnixMillis)> {
        let hour = usize::try_from(at.0.div_euclid(3_600_000).rem_euclid(24)).unwrap_or(0);
        let value = quick_ln(rtt_us);
        if self.last == 0.0 {
            self.last = value;
        }
        let usual = if self.usual[hour] == 0.0 {
            self.last
        } else {
            self.usual[hour]
        };
        self.last = usual;
        let above = value - usual;
        if self.learned < Self::LEARN {
            self.learned += 1;
            let weight = 1.0 / f32::from(self.learned.min(200));
            self.usual[hour] = usual + weight.max(Self::WEIGHT.0) * above;
            self.variance += 0.02 * (above * above - self.variance);
            return None;
        }
        self.above += Self::WEIGHT.1 * (above - self.above);
        let deviations = above * (1.0 / self.variance.max(0.0025).sqrt());
        self.sum = (self.sum + deviations.clamp(-Self::CLIP, Self::CLIP) - Self::DRIFT)
            .clamp(0.0, 2.0 * Self::AT);
        let Some(since) = self.since else {
            self.usual[hour] = usual + Self::WEIGHT.0 * above;
            self.variance += Self::WEIGHT.0 * (above * above - self.variance);
            if self.sum < Self::AT || self.above < quick_ratio(params.slow_factor) {
                return None;
            }
            self.since = Some(at);
            return Some((true, at));
        };
        if at.0 - since.0 > Self::ADOPT_MS {
            // It is so for a day: from now on it is the usual.
            let shift = self.above;
            self.usual
                .iter_mut()
                .filter(|mean| **mean != 0.0)
                .for_each(|mean| *mean += shift);
            (self.above, self.sum) = (0.0, 0.0);
        }
        if self.sum > 0.0 && self.above > quick_ratio(params.slow_factor) / 2.0 {
            return None;
        }
        (self.since, self.sum) = (None, 0.0);
        Some((false, at))
    }
}

/// ln of a count, within 0.04: the exponent of a float, and its mantissa taken as straight. Monotone, and the same everywhere.
#[allow(clippy::cast_precision_loss, reason = "an approximation")]
fn quick_ln(n: u32) -> f32 {
    let bits = (n.max(1) as f32).to_bits();
    (bits as f32 / 8_388_608.0 - 126.94) * std::f32::consts::LN_2
}

/// ln of a ratio between 1 and 100 by the same scale.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "within u32 by its bounds"
)]
fn quick_ratio(ratio: f64) -> f32 {
    quick_ln((ratio * 65_536.0) as u32) - quick_ln(65_536)
}

impl Fold {
    /// A link that was never seen.
    pub fn new(params: &Params) -> Self {
        Self {
            phase: Phase::Unknown,
            since: None,
            last_at: None,
            last_rtt_us: None,
            last_failure: None,
            run_failure: None,
            suspicion: 0.0,
            loss: params.loss_first,
            run_since: None,
            run_good: 0,
            run_bad: 0,
            failing_since: None,
            blip_ms: BLIP_FIRST,
            lossy: 0.0,
            lossy_since: None,
            slow: Slow::new(),
        }
    }

    /// Takes the next sample in; what it told goes to `tell`.
    fn take(&mut self, params: &Params, sample: Sample, tell: &mut impl FnMut(Turn)) {
        self.last_at = Some(sample.at);
        (self.last_rtt_us, self.last_failure) = match sample.outcome {
            Outcome::Ok { rtt_us } => (Some(rtt_us), None),
            Outcome::Failed(failure) => (None, Some((failure.reason as i32, failure.detail))),
        };
        match sample.outcome.evidence() {
            Evidence::None => {}
            Evidence::Good => self.good(params, sample.at, tell),
            Evidence::Bad => self.bad(params, sample.at, tell),
        }
    }

    /// The last sample.
    pub fn latest(&self) -> Option<Sample> {
        let outcome = match (self.last_rtt_us, self.failure()) {
            (Some(rtt_us), _) => Outcome::Ok { rtt_us },
            (None, Some(failure)) => Outcome::Failed(failure),
            (None, None) => return None,
        };
        Some(Sample {
            at: self.last_at?,
            outcome,
        })
    }

    /// Why the last sample failed, if it did.
    pub fn failure(&self) -> Option<Failure> {
        failure_of(self.last_failure)
    }

    /// Since when it is in its phase: of one that is not certain yet since the first answer or failure that speaks for it.
    pub fn phase_since(&self) -> Option<UnixMillis> {
        match self.phase {
            Phase::Suspect | Phase::Recovering => self.run_since.or(self.since),
            Phase::Unknown | Phase::Up | Phase::Down => self.since,
        }
    }

    /// Since when its round trips take longer than usual.
    pub fn slow_since(&self) -> Option<UnixMillis> {
        self.slow.since
    }

    /// Learned share of lost probes, within its bounds.
    pub fn loss(&self, params: &Params) -> f64 {
        self.loss.clamp(params.loss_least, params.loss_most)
    }

    fn bad(&mut self, params: &Params, at: UnixMillis, tell: &mut impl FnMut(Turn)) {
        self.failing_since.get_or_insert(at);
        match self.phase {
            Phase::Down => return,
            // The same outage goes on.
            Phase::Recovering => {
                self.end_run();
                return self.turn(Phase::Down, at, tell);
            }
            Phase::Unknown | Phase::Up | Phase::Suspect => {}
        }
        let began = self.run_since.unwrap_or(at);
        if self.run_since.is_none() {
            self.run_failure = self.last_failure;
        }
        self.suspicion += (params.down_fails / self.loss(params)).ln();
        if self.suspicion >= params.threshold() {
            self.since = Some(began);
            self.end_run();
            return self.turn(Phase::Down, began, tell);
        }
        self.run_since = Some(began);
        self.run_bad += 1;
        if self.phase != Phase::Suspect {
            self.turn(Phase::Suspect, at, tell);
        }
    }

    fn good(&mut self, params: &Params, at: UnixMillis, tell: &mut impl FnMut(Turn)) {
        self.failing_since = None;
        match self.phase {
            Phase::Unknown => {
                self.since = Some(at);
                self.turn(Phase::Up, at, tell);
            }
            Phase::Up => {
                self.learn(params, 0.0, at, tell);
                self.watch_rtt(params, at, tell);
            }
            Phase::Suspect => {
                self.suspicion += ((1.0 - params.down_fails) / (1.0 - self.loss(params))).ln();
                self.run_good += 1;
                if self.suspicion > 0.0 {
                    return;
                }
                let began = self.run_since.unwrap_or(at);
                self.learn_blip(at.0 - began.0);
                (0..self.run_bad).for_each(|_| self.learn(params, 1.0, at, tell));
                (0..self.run_good).for_each(|_| self.learn(params, 0.0, at, tell));
                self.suspicion = 0.0;
                self.end_run();
                // A link that was never up before is so from here.
                self.since.get_or_insert(at);
                self.turn(Phase::Up, at, tell);
            }
            Phase::Down => {
                self.run_since = Some(at);
                self.run_good = 1;
                self.turn(Phase::Recovering, at, tell);
            }
            Phase::Recovering => {
                self.run_good += 1;
                let began = self.run_since.unwrap_or(at);
                if self.run_good < params.recovery_answers || at.since(began) < params.recovery_time
                {
                    return;
                }
                if let Some(since) = self.since.filter(|since| began.0 - since.0 <= BLIP_MOST_MS) {
                    self.learn_blip(began.0 - since.0);
                }
                self.since = Some(began);
                self.suspicion = 0.0;
                self.end_run();
                self.turn(Phase::Up, began, tell);
            }
        }
    }

    /// Learns what a probe of a link that is not down says of its loss.
    fn learn(&mut self, params: &Params, lost: f64, at: UnixMillis, tell: &mut impl FnMut(Turn)) {
        // While the loss is told to be above the usual, the usual stays what it was.
        if self.lossy_since.is_none() {
            self.loss += LOSS_WEIGHT * (lost - self.loss);
        }
        if lost == 0.0 && self.lossy == 0.0 && self.lossy_since.is_none() {
            return;
        }
        let usual = self.loss(params);
        let worse = (3.0 * usual).max(params.lossy_least);
        // For an answer ln((1-worse)/(1-usual)), to first order.
        let step = if lost == 0.0 {
            usual - worse
        } else {
            (worse / usual).ln()
        };
        self.lossy = (self.lossy + step).clamp(0.0, 2.0 * LOSSY_AT);
        let what = Degraded::Lossy;
        if self.lossy_since.is_none() && self.lossy >= LOSSY_AT {
            self.lossy_since = Some(at);
            tell(Turn::Degraded {
                what,
                begins: true,
                at,
            });
        } else if self.lossy_since.is_some() && self.lossy == 0.0 {
            self.lossy_since = None;
            tell(Turn::Degraded {
                what,
                begins: false,
                at,
            });
        }
    }

    fn watch_rtt(&mut self, params: &Params, at: UnixMillis, tell: &mut impl FnMut(Turn)) {
        if let Some(rtt_us) = self.last_rtt_us
            && let Some((begins, at)) = self.slow.take(params, at, rtt_us)
        {
            let what = Degraded::Slow;
            tell(Turn::Degraded { what, begins, at });
        }
    }

    #[allow(clippy::cast_precision_loss, reason = "milliseconds of a blip")]
    fn learn_blip(&mut self, ms: i64) {
        self.blip_ms = if ms as f32 > self.blip_ms {
            self.blip_ms + BLIP.0 * (ms as f32 - self.blip_ms)
        } else {
            (self.blip_ms * BLIP.1).max(1_000.0)
        };
    }

    fn end_run(&mut self) {
        (self.run_since, self.run_good, self.run_bad) = (None, 0, 0);
    }

    fn turn(&mut self, to: Phase, at: UnixMillis, tell: &mut impl FnMut(Turn)) {
        let from = std::mem::replace(&mut self.phase, to);
        tell(Turn::Phase { from, to, at });
    }

    /// What was told before this time will not be told again by going on from here.
    fn told_before(&self, start: UnixMillis) -> UnixMillis {
        match (self.phase, self.run_since) {
            (Phase::Unknown | Phase::Suspect, Some(began)) => began.min(start),
            _ => start,
        }
    }
}

fn failure_of(kept: Option<(i32, u32)>) -> Option<Failure> {
    let (reason, detail) = kept?;
    let reason = Reason::try_from(reason).ok()?;
    Some(Failure { reason, detail })
}

/// A stretch of time for which a link was down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Down {
    /// Event time of the first failure.
    pub from: UnixMillis,
    /// Event time of the first answer; none while it is down.
    pub until: Option<UnixMillis>,
    /// A page waits for so long, in ms: the link's usual blip.
    pub hold_ms: u32,
    /// Why the first probe failed, as the API writes it.
    pub failure: Option<String>,
}

/// A stretch of time for which a link was worse than usual.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Worse {
    /// In what.
    pub what: Degraded,
    /// Event time at which it was told.
    pub from: UnixMillis,
    /// Event time; none while it is so.
    pub until: Option<UnixMillis>,
}

/// What became of a link over time, by its samples.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Past {
    /// The newest [`Past::MOST`] downs, ascending.
    pub downs: Vec<Down>,
    /// The newest stretches of degradation, ascending.
    pub worse: Vec<Worse>,
}

impl Past {
    /// Downs that are kept of one link.
    pub const MOST: usize = 160;

    fn note(&mut self, params: &Params, fold: &Fold, turn: Turn) -> bool {
        match turn {
            Turn::Phase {
                from: Phase::Unknown | Phase::Up | Phase::Suspect,
                to: Phase::Down,
                at,
            } => {
                let (least, most) = (params.page_after_least, params.page_after_most);
                #[allow(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "clamped"
                )]
                let hold_ms =
                    (fold.blip_ms as u32).clamp(least.as_millis() as u32, most.as_millis() as u32);
                let failure = failure_of(fold.run_failure).map(|failure| failure.to_string());
                self.downs.push(Down {
                    from: at,
                    until: None,
                    hold_ms,
                    failure,
                });
                if self.downs.len() > Self::MOST {
                    self.downs.remove(0);
                }
            }
            Turn::Phase {
                from: Phase::Recovering,
                to: Phase::Up,
                at,
            } => {
                if let Some(last) = self.downs.last_mut() {
                    last.until = Some(at);
                }
            }
            Turn::Phase { .. } => return false,
            Turn::Degraded {
                what,
                begins: true,
                at,
            } => {
                self.worse.push(Worse {
                    what,
                    from: at,
                    until: None,
                });
                if self.worse.len() > Self::MOST {
                    self.worse.remove(0);
                }
            }
            Turn::Degraded {
                what,
                begins: false,
                at,
            } => {
                let open = |worse: &&mut Worse| worse.what == what && worse.until.is_none();
                if let Some(last) = self.worse.iter_mut().rev().find(open) {
                    last.until = Some(at);
                }
            }
        }
        true
    }

    /// As it was known to a fold that had seen everything before `start`, and nothing else.
    fn cut(&mut self, fold: &Fold, start: UnixMillis) {
        let told = fold.told_before(start);
        self.downs.retain(|down| down.from < told);
        if let Some(last) = self.downs.last_mut()
            && matches!(fold.phase, Phase::Down | Phase::Recovering)
        {
            last.until = None;
        }
        self.worse.retain(|worse| worse.from < start);
        for (what, since) in [
            (Degraded::Lossy, fold.lossy_since),
            (Degraded::Slow, fold.slow.since),
        ] {
            let last = self.worse.iter_mut().rev().find(|worse| worse.what == what);
            if let (Some(last), Some(_)) = (last, since) {
                last.until = None;
            }
        }
    }

    /// Lets go what ended before `horizon`.
    pub fn forget(&mut self, horizon: UnixMillis) {
        self.downs
            .retain(|down| down.until.is_none_or(|until| until >= horizon));
        self.worse
            .retain(|worse| worse.until.is_none_or(|until| until >= horizon));
    }
}

/// Late samples that wait to be judged: the earliest, and when (arrival time) the first and the last came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Late {
    /// Event time of the earliest.
    pub from: UnixMillis,
    /// Arrival of the first.
    pub first: UnixMillis,
    /// Arrival of the last.
    pub last: UnixMillis,
}

/// One link.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Link {
    /// As the agent declared it; nothing before that.
    pub role: Option<denyut_proto::Role>,
    /// How it is probed.
    pub probe: String,
    /// From probe to probe.
    pub interval_ms: u64,
    /// Its target was taken from the agent's list: nobody probes it any more.
    pub removed: bool,
    /// Where it is.
    pub fold: Fold,
    /// Late samples that wait.
    pub late: Option<Late>,
    /// What became of it; kept beside it.
    #[serde(skip)]
    pub past: Past,
}

/// Milliseconds of a UTC day.
const DAY_MS: i64 = 86_400_000;

/// The UTC day of a moment.
pub fn day_of(at: UnixMillis) -> i64 {
    at.0.div_euclid(DAY_MS)
}

/// What taking a sample in did beside what it told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// It was the next.
    Next,
    /// It is known already.
    Known,
    /// It is older than what was judged: it must be judged again from there.
    Late,
}

impl Link {
    /// A link that was never seen.
    pub fn new(params: &Params) -> Self {
        Self {
            role: None,
            probe: String::new(),
            interval_ms: 0,
            removed: false,
            fold: Fold::new(params),
            late: None,
            past: Past::default(),
        }
    }

    /// Takes a sample in. `kept` gets the fold as it was before the first sample of a day; `tell` what the sample told, and whether that
    /// changed [`Link::past`].
    #[inline]
    pub fn take(
        &mut self,
        params: &Params,
        sample: Sample,
        kept: &mut impl FnMut(i64, &Fold),
        tell: &mut impl FnMut(Turn, bool),
    ) -> Taken {
        if let Some(last) = self.fold.last_at {
            if sample.at <= last {
                let known = sample.at == last && self.fold.latest() == Some(sample);
                return if known { Taken::Known } else { Taken::Late };
            }
            let day = day_of(sample.at);
            if day != day_of(last) {
                kept(day, &self.fold);
            }
        }
        let mut turns = [None; 4];
        let mut count = 0;
        self.fold.take(params, sample, &mut |turn| {
            if count < turns.len() {
                turns[count] = Some(turn);
                count += 1;
            }
        });
        for turn in turns.into_iter().take(count).flatten() {
            let noted = self.past.note(params, &self.fold, turn);
            tell(turn, noted);
        }
        Taken::Next
    }

    /// Nobody probes it any more, from then on.
    pub fn end(&mut self, params: &Params, at: UnixMillis) {
        self.removed = true;
        if let Some(last) = self.past.downs.last_mut() {
            last.until.get_or_insert(at.max(last.from));
        }
        for worse in &mut self.past.worse {
            worse.until.get_or_insert(at.max(worse.from));
        }
        self.fold = Fold::new(params);
    }

    /// Judges again from `start` on: `fold` is the link as it was known before it. Every sample from there on must be taken in after this.
    pub fn rewind(&mut self, fold: Fold, start: UnixMillis) {
        self.past.cut(&fold, start);
        self.fold = fold;
        self.late = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One sample every 10 s from 0: `.` answered, `x` timed out, `?` could not look. Returns the changes of phase with
    /// the number of the sample that told, and of the one that it is dated to.
    fn run(link: &mut Link, text: &str) -> Vec<(usize, Phase, i64)> {
        let mut changes = Vec::new();
        for (i, c) in text.chars().enumerate() {
            let outcome = match c {
                '.' => Outcome::Ok { rtt_us: 1_000 },
                'x' => Outcome::Failed(Reason::Timeout.into()),
                _ => Outcome::Failed(Reason::NotPermitted.into()),
            };
            let at = UnixMillis(i64::try_from(i).expect("small") * 10_000);
            link.take(
                &Params::default(),
                Sample { at, outcome },
                &mut |_, _| {},
                &mut |turn, _| {
                    if let Turn::Phase { to, at, .. } = turn {
                        changes.push((i, to, at.0 / 10_000));
                    }
                },
            );
        }
        changes
    }

    fn link() -> Link {
        Link::new(&Params::default())
    }

    #[test]
    fn four_failures_of_a_clean_link_are_an_outage_from_the_first() {
        use Phase::{Down, Recovering, Suspect, Up};
        let mut link = link();
        let changes = run(&mut link, "...xxxxxx....");
        let expected = [
            (0, Up, 0),
            (3, Suspect, 3),
            (6, Down, 3),
            (9, Recovering, 9),
            (11, Up, 9),
        ];
        assert_eq!(changes, expected);
        let down = super::Down {
            from: UnixMillis(30_000),
            until: Some(UnixMillis(90_000)),
            hold_ms: 60_000,
            failure: Some("timeout".into()),
        };
        assert_eq!(link.past.downs, [down]);
    }

    #[test]
    fn a_blip_is_not_an_outage_and_does_not_restart_the_clock() {
        let mut link = link();
        let changes = run(&mut link, "...xx......x...");
        let calm = |(_, to, _): &(usize, Phase, i64)| matches!(to, Phase::Up | Phase::Suspect);
        assert!(changes.iter().all(calm), "{changes:?}");
        assert_eq!(link.fold.phase, Phase::Up);
        assert_eq!(link.fold.since, Some(UnixMillis(0)));
    }

    #[test]
    fn a_failed_recovery_is_the_same_outage() {
        let mut link = link();
        run(&mut link, "...xxxxx..x..x");
        assert_eq!(link.fold.phase, Phase::Down);
        assert_eq!(link.fold.since, Some(UnixMillis(30_000)));
        assert_eq!(link.past.downs.len(), 1);
    }

    #[test]
    fn a_lossy_link_needs_more_failures() {
        let failures_until_down = |loss: f64| {
            let mut link = link();
            link.fold.loss = loss;
            run(&mut link, &format!(".{}", "x".repeat(30)))
                .iter()
                .find(|(_, to, _)| *to == Phase::Down)
                .map(|(i, ..)| *i)
        };
        assert_eq!(failures_until_down(0.01), Some(4));
        assert_eq!(failures_until_down(0.10), Some(8));
        assert_eq!(failures_until_down(0.25), Some(13));
    }

    #[test]
    fn what_could_not_be_looked_at_says_nothing() {
        let mut blind = link();
        assert_eq!(run(&mut blind, "??????"), []);
        assert_eq!(blind.fold.phase, Phase::Unknown);
        assert_eq!(run(&mut link(), "..??????.."), [(0, Phase::Up, 0)]);
    }

    #[test]
    fn a_link_that_was_never_up_can_be_down() {
        let mut link = link();
        let changes = run(&mut link, "xxxx");
        assert_eq!(changes.last(), Some(&(3, Phase::Down, 0)));
        assert_eq!(link.fold.since, Some(UnixMillis(0)));
    }

    #[test]
    fn late_and_known_samples_are_told_apart_and_change_nothing() {
        let mut link = link();
        run(&mut link, "...");
        let before = link.clone();
        let mut take = |at, outcome| {
            let sample = Sample {
                at: UnixMillis(at),
                outcome,
            };
            link.take(&Params::default(), sample, &mut |_, _| {}, &mut |_, _| {})
        };
        assert_eq!(take(20_000, Outcome::Ok { rtt_us: 1_000 }), Taken::Known);
        assert_eq!(take(20_000, Outcome::Ok { rtt_us: 1_001 }), Taken::Late);
        assert_eq!(take(10_000, Outcome::Ok { rtt_us: 1_000 }), Taken::Late);
        assert_eq!(link, before);
    }

    /// Samples with RTTs around `rtt_us`, `loss` of every hundred lost.
    fn feed(
        link: &mut Link,
        from: i64,
        count: i64,
        rtt_us: i64,
        lost: i64,
    ) -> Vec<(Degraded, bool, i64)> {
        let mut turns = Vec::new();
        for i in from..from + count {
            // Noise that no random generator needs to make: within ±20 %.
            let noise = (i * 7_919) % 41 - 20;
            let rtt_us = u32::try_from(rtt_us + rtt_us * noise / 100).expect("small");
            let bad = (i * 37) % 100 < lost;
            let outcome = if bad {
                Outcome::Failed(Reason::Timeout.into())
            } else {
                Outcome::Ok { rtt_us }
            };
            let sample = Sample {
                at: UnixMillis(i * 10_000),
                outcome,
            };
            link.take(
                &Params::default(),
                sample,
                &mut |_, _| {},
                &mut |turn, _| {
                    if let Turn::Degraded { what, begins, .. } = turn {
                        turns.push((what, begins, i));
                    }
                },
            );
        }
        turns
    }

    #[test]
    fn slower_answers_are_told_and_so_is_their_end() {
        let mut link = link();
        assert_eq!(feed(&mut link, 0, 20_000, 30_000, 0), []);
        let slow = feed(&mut link, 20_000, 600, 60_000, 0);
        assert_eq!(
            (slow[0].0, slow[0].1, slow.len()),
            (Degraded::Slow, true, 1)
        );
        assert!(
            slow[0].2 < 20_120,
            "told after {} samples",
            slow[0].2 - 20_000
        );
        let over = feed(&mut link, 20_600, 600, 30_000, 0);
        assert_eq!(
            (over[0].0, over[0].1, over.len()),
            (Degraded::Slow, false, 1)
        );
    }

    #[test]
    fn a_higher_loss_is_told_and_is_not_learned() {
        let mut link = link();
        assert_eq!(feed(&mut link, 0, 20_000, 30_000, 1), []);
        let worse = feed(&mut link, 20_000, 2_000, 30_000, 9);
        assert_eq!(
            (worse[0].0, worse[0].1, worse.len()),
            (Degraded::Lossy, true, 1)
        );
        assert!(
            link.fold.loss(&Params::default()) < 0.06,
            "{}",
            link.fold.loss
        );
        let over = feed(&mut link, 22_000, 5_000, 30_000, 1);
        assert_eq!(
            (over[0].0, over[0].1, over.len()),
            (Degraded::Lossy, false, 1)
        );
    }

    proptest::proptest! {
        /// Judged again from any day on, everything is as it was.
        #[test]
        fn rewinding_changes_nothing(runs in proptest::collection::vec((0..30u32, proptest::bool::ANY, 1..4_000i64), 1..40), pick in 0..1_000usize) {
            let params = Params::default();
            let (mut link, mut samples, mut days) = (link(), Vec::new(), Vec::new());
            let mut at = 0;
            for (length, good, step) in runs {
                for i in 0..length {
                    at += step * 1_000;
                    let outcome = if good { Outcome::Ok { rtt_us: 1_000 + i } } else { Outcome::Failed(Reason::Refused.into()) };
                    samples.push(Sample { at: UnixMillis(at), outcome });
                }
            }
            for sample in &samples {
                link.take(&params, *sample, &mut |day, fold| days.push((day, fold.clone())), &mut |_, _| {});
            }
            let expected = link.clone();
            if let Some((day, fold)) = days.get(pick % days.len().max(1)) {
                let start = UnixMillis(day * DAY_MS);
                link.rewind(fold.clone(), start);
                for sample in samples.iter().filter(|sample| sample.at >= start) {
                    link.take(&params, *sample, &mut |_, _| {}, &mut |_, _| {});
                }
                proptest::prop_assert_eq!(link, expected);
            }
        }
    }
}
