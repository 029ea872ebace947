//! From schedule to spool: probes what is due, gathers the samples, and spools a heartbeat when it is time.
//!
//! One task owns all of this state. It waits for one of the closed set of [`Event`]s and applies it without
//! waiting in between.

use crate::budget::Pace;
use crate::machine;
use crate::marks::Marks;
use crate::paths::{Paths, Traced};
use crate::probe::{Prober, Told};
use crate::schedule::Schedule;
use crate::spool::Spool;
use crate::status::Status;
use crate::stream::Tail;
use crate::system::default_gateway;
use crate::watchdog::Watchdog;
use denyut_proto::sample::Evidence;
use denyut_proto::{
    AgentId, BootId, Goodbye, Heartbeat, Outcome, Sample, Target, TargetName, TargetSamples, wire,
};
use prost::Message;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tracing::{error, info, warn};

/// Probes that run at the same time, at most: as many as an agent may have targets.
const MAX_RUNNING: usize = denyut_proto::MAX_TARGETS;
/// A heartbeat is spooled early when it holds this many samples; with the longest names they fit its limit.
const MAX_PENDING: usize = 256;

/// What the collector asks for while the agent runs.
#[derive(Debug)]
pub(crate) enum Order {
    /// From now on probe these targets beside those of the agent's own file.
    Targets(Vec<Target>),
    /// Probe this one now.
    ProbeNow(TargetName),
    /// Say again what the targets are and what they showed: the collector knows nothing of this agent.
    Declare,
    /// The collector sees this agent come from here.
    ComesFrom(IpAddr),
    /// The machine goes to sleep: say goodbye, and go on.
    Suspend,
}

/// Everything that can happen to the observer.
enum Event {
    Tick,
    Probed(Probed),
    Traced(Option<Traced>),
    Ordered(Order),
    Stop(Option<Goodbye>),
}

struct Probed {
    target: TargetName,
    sent: Duration,
    told: Told,
}

/// What a heartbeat carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum With {
    Samples,
    Targets,
    Shown,
    Path,
}

/// What the observer is made of.
pub(crate) struct Observer {
    pub(crate) agent: AgentId,
    pub(crate) boot: BootId,
    /// The longest time between two heartbeats.
    pub(crate) interval: Duration,
    /// The targets of the agent's own file; they win over the collector's by name.
    pub(crate) own: Vec<Target>,
    /// The targets that the collector gave last.
    pub(crate) given: Vec<Target>,
    pub(crate) prober: Arc<Prober>,
    pub(crate) spool: Arc<Mutex<Spool>>,
    /// Raised to the last spooled sequence.
    pub(crate) spooled: watch::Sender<Tail>,
    /// How often the agent speaks, by its targets.
    pub(crate) pace: watch::Sender<Pace>,
    /// Bytes that it may spend in a day; `None` for no limit.
    pub(crate) per_day: Option<u64>,
    /// From one word to the next, as the stream has it at the moment.
    pub(crate) promise: watch::Receiver<Duration>,
    /// Uptime at which the process started.
    pub(crate) started: Duration,
    pub(crate) status: Arc<Mutex<Status>>,
    pub(crate) watchdog: Watchdog,
}

struct State {
    targets: Vec<Target>,
    schedule: Schedule,
    running: JoinSet<Probed>,
    in_flight: Vec<TargetName>,
    pending: BTreeMap<TargetName, Vec<(Duration, Outcome)>>,
    pending_count: usize,
    /// The last evidence of each target, to see an edge.
    last: HashMap<TargetName, Evidence>,
    /// The gateway last reported.
    gateway: Option<String>,
    marks: Marks,
    paths: Paths,
    /// At most one way is looked at at a time.
    tracing: JoinSet<Option<Traced>>,
    declare: bool,
    urgent: bool,
    heartbeat_due: Duration,
}

impl Observer {
    /// Runs until `stop`, then spools a last heartbeat that says goodbye, if there is one to say.
    pub(crate) async fn run(
        mut self,
        mut orders: mpsc::Receiver<Order>,
        mut stop: oneshot::Receiver<Option<Goodbye>>,
    ) {
        let now = machine::uptime();
        let targets = self.merged();
        let mut state = State {
            schedule: Schedule::new(&self.agent, &targets, now),
            targets,
            running: JoinSet::new(),
            in_flight: Vec::new(),
            pending: BTreeMap::new(),
            pending_count: 0,
            last: HashMap::new(),
            gateway: None,
            marks: Marks::default(),
            paths: Paths::default(),
            tracing: JoinSet::new(),
            declare: true,
            urgent: true,
            heartbeat_due: now,
        };
        self.keep_pace(&state);
        self.show_targets(&state);
        let goodbye = loop {
            self.watchdog.beat();
            self.spool_if_due(&mut state).await;
            let now = machine::uptime();
            let wake = state
                .schedule
                .next_due()
                .map_or(state.heartbeat_due, |due| due.min(state.heartbeat_due));
            let event = tokio::select! {
                biased;
                goodbye = &mut stop => Event::Stop(goodbye.unwrap_or(Some(Goodbye::Stopped))),
                Some(order) = orders.recv() => Event::Ordered(order),
                Some(probed) = state.running.join_next() => match probed {
                    Ok(probed) => Event::Probed(probed),
                    Err(error) => {
                        error!(%error, "a probe ended badly; its sample is missing");
                        state.in_flight.clear();
                        continue;
                    }
                },
                Some(traced) = state.tracing.join_next() => match traced {
                    Ok(traced) => Event::Traced(traced),
                    Err(error) => {
                        error!(%error, "looking at the way to a target ended badly");
                        continue;
                    }
                },
                () = tokio::time::sleep(wake.saturating_sub(now)) => Event::Tick,
            };
            match event {
                Event::Tick => self.start_due(&mut state),
                Event::Probed(probed) => self.take(&mut state, probed),
                Event::Traced(traced) => self.found(&mut state, traced),
                Event::Ordered(Order::Targets(given)) => self.retarget(&mut state, given),
                Event::Ordered(Order::Declare) => {
                    state.declare = true;
                    state.marks.forget_told();
                    state.urgent = true;
                }
                Event::Ordered(Order::ComesFrom(address)) => state.marks.comes_from(address),
                Event::Ordered(Order::ProbeNow(name)) => {
                    match state.targets.iter().find(|target| target.name == name) {
                        Some(target) => {
                            state.urgent = true;
                            self.start(&mut state.running, &mut state.in_flight, target);
                        }
                        None => {
                            warn!(target = %name, "the collector asked for a probe of an unknown target");
                        }
                    }
                }
                Event::Ordered(Order::Suspend) => {
                    self.spool_heartbeat(&mut state, Some(Goodbye::Suspend), With::Samples)
                        .await;
                }
                Event::Stop(goodbye) => break goodbye,
            }
        };
        state.running.shutdown().await;
        state.tracing.shutdown().await;
        self.spool_paths(&mut state).await;
        self.spool_heartbeat(&mut state, goodbye, With::Samples)
            .await;
    }

    fn merged(&self) -> Vec<Target> {
        let mut targets = self.own.clone();
        for given in &self.given {
            if !self.own.iter().any(|own| own.name == given.name) {
                targets.push(given.clone());
            }
        }
        if let Err(error) = Target::check_list(&targets) {
            warn!(%error, "the collector's targets do not fit beside this machine's own; only its own are probed");
            targets.truncate(self.own.len());
        }
        targets
    }

    fn retarget(&mut self, state: &mut State, given: Vec<Target>) {
        if given == self.given {
            return;
        }
        self.given = given;
        state.targets = self.merged();
        state.schedule = Schedule::new(&self.agent, &state.targets, machine::uptime());
        state
            .last
            .retain(|name, _| state.targets.iter().any(|target| target.name == *name));
        let targets = &state.targets;
        state
            .marks
            .keep_only(|name| targets.iter().any(|target| target.name == *name));
        state
            .paths
            .keep_only(|name| targets.iter().any(|target| target.name == *name));
        state.declare = true;
        state.urgent = true;
        info!(
            targets = state.targets.len(),
            "new targets from the collector"
        );
        self.keep_pace(state);
        self.show_targets(state);
    }

    fn start_due(&self, state: &mut State) {
        for i in state.schedule.take_due(machine::uptime()) {
            self.start(&mut state.running, &mut state.in_flight, &state.targets[i]);
        }
    }

    /// Starts a probe, unless one of the same target is still under way.
    fn start(
        &self,
        running: &mut JoinSet<Probed>,
        in_flight: &mut Vec<TargetName>,
        target: &Target,
    ) {
        if in_flight.contains(&target.name) || running.len() >= MAX_RUNNING {
            return;
        }
        in_flight.push(target.name.clone());
        let (prober, target) = (Arc::clone(&self.prober), target.clone());
        running.spawn(async move {
            let sent = machine::uptime();
            let told = prober.probe(&target).await;
            Probed {
                target: target.name,
                sent,
                told,
            }
        });
    }

    fn take(&self, state: &mut State, probed: Probed) {
        state.in_flight.retain(|name| *name != probed.target);
        let mut targets = state.targets.iter();
        let Some(target) = targets.find(|target| target.name == probed.target) else {
            return; // removed while the probe ran
        };
        let away = Heartbeat::away(target.interval);
        let Told { outcome, shown } = probed.told;
        let evidence = outcome.evidence();
        // An edge travels at once; what is as it was may wait for the next heartbeat.
        let before = state.last.insert(probed.target.clone(), evidence);
        state.urgent |= before != Some(evidence);
        if evidence == Evidence::Good {
            let marks = &mut state.marks;
            marks.answered(&probed.target, machine::uptime(), away, &shown);
        }
        state
            .paths
            .probed(&probed.target, outcome, machine::uptime());
        self.status
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .sampled(&probed.target, machine::wall(), outcome, &shown);
        state
            .pending
            .entry(probed.target)
            .or_default()
            .push((probed.sent, outcome));
        state.pending_count += 1;
        self.start_tracing(state);
    }

    /// Looks at the next way, unless another is being looked at.
    fn start_tracing(&self, state: &mut State) {
        while state.tracing.is_empty()
            && let Some(name) = state.paths.take_wanted(machine::uptime())
        {
            let mut targets = state.targets.iter();
            let Some(target) = targets.find(|target| target.name == name).cloned() else {
                continue;
            };
            let prober = Arc::clone(&self.prober);
            state.tracing.spawn(async move {
                let sent = machine::uptime();
                let (to, hops) = prober.path(&target).await?;
                Some(Traced {
                    target: target.name,
                    sent,
                    to,
                    hops,
                })
            });
        }
    }

    fn found(&self, state: &mut State, traced: Option<Traced>) {
        let is_target = |traced: &Traced| {
            let mut targets = state.targets.iter();
            targets.any(|target| target.name == traced.target)
        };
        if let Some(traced) = traced.filter(is_target) {
            let path = traced.clone().at(machine::wall(), machine::uptime());
            info!(target = %path.target, %path, "a link failed; this is the way there");
            self.status
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .traced(path);
            state.paths.found(traced);
            state.urgent = true;
        }
        self.start_tracing(state);
    }

    async fn spool_if_due(&self, state: &mut State) {
        // An edge waits for the probes that are just under way with it: they usually tell the same story,
        // and one heartbeat is cheaper than six.
        let urgent = state.urgent && (state.running.is_empty() || state.declare);
        let due = machine::uptime() >= state.heartbeat_due;
        if urgent || due || state.pending_count >= MAX_PENDING {
            let (declare, shown) = (state.declare, state.marks.is_untold());
            let path = state.paths.to_tell().is_some();
            // What goes beyond samples travels alone: with them it might be too long.
            if state.pending_count > 0 || !(declare || shown || path) {
                self.spool_heartbeat(state, None, With::Samples).await;
            }
            if declare {
                self.spool_heartbeat(state, None, With::Targets).await;
            }
            if shown {
                self.spool_heartbeat(state, None, With::Shown).await;
            }
            if path {
                self.spool_paths(state).await;
            }
        }
    }

    /// All that are to be told, each in a heartbeat of its own, up to one that the disk does not take.
    async fn spool_paths(&self, state: &mut State) {
        while let Some(before) = state.paths.to_tell().cloned() {
            self.spool_heartbeat(state, None, With::Path).await;
            if state.paths.to_tell() == Some(&before) {
                break;
            }
        }
    }

    async fn spool_heartbeat(&self, state: &mut State, goodbye: Option<Goodbye>, with: With) {
        let declare = with == With::Targets;
        let shown = match with {
            With::Shown => state.marks.to_tell(),
            With::Samples | With::Targets | With::Path => Vec::new(),
        };
        let path = state
            .paths
            .to_tell()
            .filter(|_| with == With::Path)
            .cloned();
        let tells_path = path.is_some();
        let (at, uptime) = (machine::wall(), machine::uptime());
        let gateway = default_gateway().map_or_else(|| "none".into(), |g| g.address.to_string());
        let heartbeat = Heartbeat {
            at,
            uptime,
            started: self.started,
            interval: self.interval.max(*self.promise.borrow()),
            samples: std::mem::take(&mut state.pending)
                .into_iter()
                .map(|(target, samples)| TargetSamples {
                    target,
                    samples: in_order(samples)
                        .map(|(sent, outcome)| Sample {
                            at: at - uptime.saturating_sub(sent),
                            outcome,
                        })
                        .collect(),
                })
                .collect(),
            targets: declare.then(|| state.targets.clone()),
            goodbye,
            gateway: (declare || state.gateway.as_ref() != Some(&gateway)).then(|| gateway.clone()),
            shown: shown.clone(),
            path: path.map(|traced| traced.at(at, uptime)),
        };
        let mut urgent = state.urgent || goodbye.is_some() || with != With::Samples;
        if state.gateway.as_ref() != Some(&gateway) {
            info!(%gateway, "default gateway");
            urgent = true;
        }
        state.gateway = Some(gateway);
        state.pending_count = 0;
        state.urgent = false;
        state.heartbeat_due = uptime + self.interval;

        let bytes = wire::Heartbeat::from(&heartbeat).encode_to_vec();
        let (spool, boot) = (Arc::clone(&self.spool), self.boot);
        // The write waits for the disk: not on the thread that times the probes.
        let written = tokio::task::spawn_blocking(move || {
            let mut spool = spool.lock().unwrap_or_else(PoisonError::into_inner);
            (spool.append(boot, &bytes), spool.range())
        })
        .await;
        match written {
            Ok((result, range)) => {
                let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
                status.spool = Some(range);
                status.gateway.clone_from(&state.gateway);
                drop(status);
                match result {
                    Ok(seq) => {
                        state.declare &= !declare;
                        state.marks.told(&shown);
                        if tells_path {
                            state.paths.told();
                        }
                        self.spooled.send_modify(|tail| {
                            tail.last = seq;
                            if urgent {
                                tail.urgent = seq;
                            }
                        });
                    }
                    Err(error) => {
                        error!(%error, dropped = range.dropped, "cannot spool a heartbeat: it is lost; look after the disk of the data folder");
                    }
                }
            }
            Err(error) => error!(%error, "cannot spool a heartbeat: it is lost"),
        }
    }

    /// How often the agent speaks depends on how much its targets take of the budget.
    fn keep_pace(&self, state: &State) {
        let samples = |target: &Target| 86_400.0 / target.interval.as_secs_f64();
        let samples = state.targets.iter().map(samples).sum();
        let pace = Pace::of(self.per_day, samples, self.interval);
        self.pace.send_replace(pace);
    }

    fn show_targets(&self, state: &State) {
        self.status
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .set_targets(&state.targets);
    }
}

/// Oldest first: a probe on order may have been sent before the one that ended earlier.
fn in_order(mut samples: Vec<(Duration, Outcome)>) -> impl Iterator<Item = (Duration, Outcome)> {
    samples.sort_by_key(|(sent, _)| *sent);
    samples.into_iter()
}
