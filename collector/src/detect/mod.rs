//! What the samples mean. Pure: no clock, no I/O, no storage; time comes with the events, and a tick is an
//! event too, so that silence can be a finding.
//!
//! A link has a [`Phase`] of its own; beside it its agent has a [`Presence`]. What is shown of a link is both:
//! while nobody looks, it is neither up nor down.

mod link;

pub(crate) use link::{Link, Phase};

use denyut_proto::{AgentId, BootId, Failure, Heartbeat, OfficeCode, Role, UnixMillis};
use denyut_store::history::LinkId;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// An agent is silent after this many heartbeat intervals without a word.
const SILENT_AFTER_INTERVALS: u32 = 3;
/// And not before this: what a slow link or a retransmission may take.
const SILENT_AFTER_LEAST: Duration = Duration::from_secs(5);
/// Agents found silent in one step, at most: what one step changes must fit into one atomic change of the state.
const SILENT_PER_STEP: usize = 50;
/// A longer gap between two ticks means that the collector itself was not listening. Ticks come every
/// second.
const DEAF_AFTER: Duration = Duration::from_secs(5);

/// Everything the detector hears.
#[derive(Debug)]
pub(crate) enum Event<'a> {
    /// An agent spoke.
    Heartbeat {
        office: &'a OfficeCode,
        agent: &'a AgentId,
        boot: BootId,
        heartbeat: &'a Heartbeat,
        /// When the collector took it.
        arrival: UnixMillis,
    },
    /// The collector was listening at this time.
    Tick { now: UnixMillis },
}

/// What the detector has to say.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Finding {
    /// A link changed its phase.
    Link {
        office: OfficeCode,
        link: LinkId,
        role: Option<Role>,
        from: Phase,
        to: Phase,
        /// Event time of the change: of the first sample that told of it.
        at: UnixMillis,
        /// Why the last probe failed, where it did.
        failure: Option<Failure>,
    },
    /// An agent fell silent, stopped, or spoke again.
    Agent {
        office: OfficeCode,
        agent: AgentId,
        from: Presence,
        to: Presence,
        at: UnixMillis,
    },
    /// A target is probed no more.
    Removed {
        office: OfficeCode,
        link: LinkId,
        at: UnixMillis,
    },
}

/// Whether an agent is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Presence {
    /// It speaks.
    Present,
    /// It should have spoken, and nobody knows why it does not.
    Silent,
    /// It said goodbye: the service stopped, or the machine.
    Closed,
}

/// What is known of an agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Agent {
    pub(crate) office: OfficeCode,
    pub(crate) presence: Presence,
    /// Since when it is present, silent or closed.
    pub(crate) since: UnixMillis,
    /// The boot it last spoke from, as hex.
    pub(crate) boot: String,
    /// It promised to speak again within this, in ms.
    pub(crate) interval_ms: u64,
    /// Event time of its last heartbeat.
    pub(crate) last_at: UnixMillis,
    /// When that arrived.
    pub(crate) last_arrival: UnixMillis,
    /// The default gateway it told of; `none` when it has none.
    pub(crate) gateway: Option<String>,
}

/// The detector: what is known of all agents and links.
#[derive(Debug, Default)]
pub(crate) struct Detector {
    pub(crate) agents: BTreeMap<AgentId, Agent>,
    pub(crate) links: BTreeMap<LinkId, Link>,
    pub(crate) listening: Listening,
}

/// When the collector was there to hear.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Listening {
    /// Without a gap up to the last tick.
    pub(crate) since: UnixMillis,
    pub(crate) last_tick: UnixMillis,
}

/// What one step changed.
#[derive(Debug, Default)]
pub(crate) struct Step {
    /// In the order in which they were found.
    pub(crate) findings: Vec<Finding>,
    /// Agents and links that are not as they were.
    pub(crate) agents: BTreeSet<AgentId>,
    pub(crate) links: BTreeSet<LinkId>,
    /// There is more to find in this event: it must be given again.
    pub(crate) more: bool,
}

impl Detector {
    /// Takes one event in.
    pub(crate) fn step(&mut self, event: &Event<'_>) -> Step {
        let mut step = Step::default();
        match event {
            Event::Tick { now } => self.tick(*now, &mut step),
            Event::Heartbeat {
                office,
                agent,
                boot,
                heartbeat,
                arrival,
            } => self.heartbeat(office, agent, *boot, heartbeat, *arrival, &mut step),
        }
        step
    }

    fn tick(&mut self, now: UnixMillis, step: &mut Step) {
        if now < self.listening.last_tick {
            // The collector's clock was set back: everybody's time starts anew.
            self.listening.since = now;
        }
        if now.since(self.listening.last_tick) > DEAF_AFTER {
            // Agents may have spoken to a collector that was not there: everybody's time starts anew.
            self.listening.since = now;
        }
        self.listening.last_tick = now;
        for (id, agent) in &mut self.agents {
            // What arrived "later" than now came before the clock was set back.
            let heard = if agent.last_arrival > now {
                self.listening.since
            } else {
                agent.last_arrival.max(self.listening.since)
            };
            let deadline = Duration::from_millis(agent.interval_ms)
                .saturating_mul(SILENT_AFTER_INTERVALS)
                .max(SILENT_AFTER_LEAST);
            if agent.presence == Presence::Present && now.since(heard) > deadline {
                if step.agents.len() == SILENT_PER_STEP {
                    step.more = true;
                    return;
                }
                // It is silent since it last spoke, not since we noticed.
                let at = agent.last_at;
                step.findings.push(agent.becomes(id, Presence::Silent, at));
                step.agents.insert(id.clone());
            }
        }
    }

    fn heartbeat(
        &mut self,
        office: &OfficeCode,
        id: &AgentId,
        boot: BootId,
        heartbeat: &Heartbeat,
        arrival: UnixMillis,
        step: &mut Step,
    ) {
        let agent = self.agents.entry(id.clone()).or_insert_with(|| Agent {
            office: office.clone(),
            presence: Presence::Present,
            since: heartbeat.at,
            boot: String::new(),
            interval_ms: 0,
            last_at: heartbeat.at,
            last_arrival: arrival,
            gateway: None,
        });
        agent.office = office.clone();
        agent.boot = boot.to_string();
        agent.interval_ms = u64::try_from(heartbeat.interval.as_millis()).unwrap_or(u64::MAX);
        // A clock that was set back does not make the past the present.
        agent.last_at = agent.last_at.max(heartbeat.at);
        agent.last_arrival = arrival;
        if heartbeat.gateway.is_some() {
            agent.gateway.clone_from(&heartbeat.gateway);
        }
        step.agents.insert(id.clone());
        match agent.presence {
            Presence::Present => {}
            // It speaks now, whenever what it says may have happened.
            Presence::Silent => step
                .findings
                .push(agent.becomes(id, Presence::Present, arrival)),
            Presence::Closed => {
                step.findings
                    .push(agent.becomes(id, Presence::Present, heartbeat.at));
            }
        }

        if let Some(targets) = &heartbeat.targets {
            self.declare(office, id, targets, heartbeat.at, step);
        }
        for samples in &heartbeat.samples {
            let link_id = LinkId {
                agent: id.clone(),
                target: samples.target.clone(),
            };
            let link = self.links.entry(link_id.clone()).or_default();
            for sample in &samples.samples {
                if let Some(change) = link.sample(*sample) {
                    step.findings.push(Finding::Link {
                        office: office.clone(),
                        link: link_id.clone(),
                        role: link.role,
                        from: change.from,
                        to: change.to,
                        at: change.at,
                        failure: link.failure(),
                    });
                }
            }
            step.links.insert(link_id);
        }

        if heartbeat.goodbye.is_some()
            && let Some(agent) = self.agents.get_mut(id)
        {
            let at = heartbeat.at;
            step.findings.push(agent.becomes(id, Presence::Closed, at));
        }
    }

    /// The agent's targets are these, and no others.
    fn declare(
        &mut self,
        office: &OfficeCode,
        agent: &AgentId,
        targets: &[denyut_proto::Target],
        at: UnixMillis,
        step: &mut Step,
    ) {
        let gone: Vec<LinkId> = self
            .links
            .keys()
            .filter(|link| link.agent == *agent && !targets.iter().any(|t| t.name == link.target))
            .cloned()
            .collect();
        for link in gone {
            self.links.remove(&link);
            step.links.insert(link.clone());
            step.findings.push(Finding::Removed {
                office: office.clone(),
                link,
                at,
            });
        }
        for target in targets {
            let id = LinkId {
                agent: agent.clone(),
                target: target.name.clone(),
            };
            let link = self.links.entry(id.clone()).or_default();
            link.role = Some(target.role);
            link.probe = target.probe.to_string();
            link.interval_ms = u64::try_from(target.interval.as_millis()).unwrap_or(u64::MAX);
            step.links.insert(id);
        }
    }
}

impl Agent {
    fn becomes(&mut self, id: &AgentId, to: Presence, at: UnixMillis) -> Finding {
        let from = std::mem::replace(&mut self.presence, to);
        self.since = at;
        Finding::Agent {
            office: self.office.clone(),
            agent: id.clone(),
            from,
            to,
            at,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use denyut_proto::{Goodbye, HttpExpectation, Outcome, Reason, Sample, Target, TargetSamples};

    const START: i64 = 1_763_983_305_000;

    fn at(seconds: i64) -> UnixMillis {
        UnixMillis(START + seconds * 1000)
    }

    fn heartbeat(seconds: i64, good: bool) -> Heartbeat {
        let outcome = if good {
            Outcome::Ok { rtt_us: 900 }
        } else {
            Outcome::Failed(Reason::Timeout.into())
        };
        Heartbeat {
            at: at(seconds),
            uptime: Duration::from_secs(100),
            started: Duration::ZERO,
            interval: Duration::from_secs(10),
            samples: vec![TargetSamples {
                target: "server".parse().expect("a name"),
                samples: vec![Sample {
                    at: at(seconds),
                    outcome,
                }],
            }],
            targets: None,
            goodbye: None,
            gateway: None,
        }
    }

    struct Office {
        detector: Detector,
        findings: Vec<Finding>,
    }

    impl Office {
        fn new() -> Self {
            Self {
                detector: Detector::default(),
                findings: Vec::new(),
            }
        }

        fn hear(&mut self, heartbeat: &Heartbeat, arrival: UnixMillis) {
            let step = self.detector.step(&Event::Heartbeat {
                office: &"36.73.02".parse().expect("a code"),
                agent: &"a-1".parse().expect("an id"),
                boot: BootId([1; 16]),
                heartbeat,
                arrival,
            });
            self.findings.extend(step.findings);
        }

        fn tick(&mut self, from: i64, to: i64) {
            for second in from..=to {
                self.findings.extend(
                    self.detector
                        .step(&Event::Tick { now: at(second) })
                        .findings,
                );
            }
        }

        fn presences(&self) -> Vec<(Presence, i64)> {
            let seconds = |at: UnixMillis| (at.0 - START) / 1000;
            self.findings
                .iter()
                .filter_map(|finding| match finding {
                    Finding::Agent { to, at, .. } => Some((*to, seconds(*at))),
                    _ => None,
                })
                .collect()
        }
    }

    #[test]
    fn silence_is_found_after_three_intervals_and_dated_to_the_last_word() {
        let mut office = Office::new();
        office.tick(0, 10);
        office.hear(&heartbeat(10, true), at(10));
        office.tick(11, 40);
        assert_eq!(office.presences(), []);
        office.tick(41, 60);
        assert_eq!(office.presences(), [(Presence::Silent, 10)]);
        office.hear(&heartbeat(55, true), at(61));
        assert_eq!(office.presences()[1..], [(Presence::Present, 61)]);
    }

    #[test]
    fn a_collector_that_was_away_blames_nobody() {
        let mut office = Office::new();
        office.tick(0, 10);
        office.hear(&heartbeat(10, true), at(10));
        office.tick(600, 630);
        assert_eq!(office.presences(), []);
        office.tick(631, 640);
        assert_eq!(office.presences(), [(Presence::Silent, 10)]);
    }

    #[test]
    fn a_collector_clock_that_was_set_back_hides_no_silence() {
        let mut office = Office::new();
        office.tick(4_000_000, 4_000_010);
        office.hear(&heartbeat(10, true), at(4_000_010));
        office.tick(20, 50);
        assert_eq!(office.presences(), []);
        office.tick(51, 60);
        assert_eq!(office.presences(), [(Presence::Silent, 10)]);
    }

    #[test]
    fn a_goodbye_is_not_silence() {
        let mut office = Office::new();
        office.tick(0, 10);
        let mut last = heartbeat(10, true);
        last.goodbye = Some(Goodbye::Shutdown);
        office.hear(&last, at(10));
        office.tick(11, 300);
        assert_eq!(office.presences(), [(Presence::Closed, 10)]);
        office.hear(&heartbeat(300, true), at(301));
        assert_eq!(office.presences()[1..], [(Presence::Present, 300)]);
    }

    #[test]
    fn a_whole_nation_falls_silent_in_bounded_steps() {
        let mut office = Office::new();
        office.tick(0, 10);
        for i in 0..120 {
            office.detector.step(&Event::Heartbeat {
                office: &"36.73.02".parse().expect("a code"),
                agent: &format!("a-{i}").parse().expect("an id"),
                boot: BootId([1; 16]),
                heartbeat: &heartbeat(10, true),
                arrival: at(10),
            });
        }
        office.tick(11, 40);
        let mut silent = Vec::new();
        loop {
            let step = office.detector.step(&Event::Tick { now: at(41) });
            silent.push(step.findings.len());
            if !step.more {
                break;
            }
        }
        assert_eq!(silent, [50, 50, 20]);
    }

    #[test]
    fn a_target_that_is_declared_no_more_is_removed() {
        let mut office = Office::new();
        office.hear(&heartbeat(0, true), at(0));
        let mut next = heartbeat(10, true);
        next.samples.clear();
        next.targets = Some(vec![
            Target::new(
                "gateway".parse().expect("a name"),
                Role::Gateway,
                denyut_proto::Probe::Gateway,
                Duration::from_secs(10),
                Duration::from_secs(3),
                HttpExpectation::default(),
            )
            .expect("valid"),
        ]);
        office.hear(&next, at(10));
        assert!(
            matches!(&office.findings[..], [.., Finding::Removed { link, .. }] if link.target.as_str() == "server")
        );
        assert_eq!(office.detector.links.len(), 1);
    }
}
