//! Offices that are played: what their agents would have said, delivered on time or not.
#![allow(
    clippy::single_range_in_vec_init,
    reason = "one outage among possibly several"
)]

use super::*;
use crate::incident::{Cause, Evidence, Facts, RevisionKind, Trouble};
use crate::office::PatternKind;
use denyut_proto::{
    Goodbye, HttpExpectation, Outcome, Reason, Role, Shown, Target, TargetName, TargetSamples,
};
use proptest::prelude::*;

/// A Tuesday, 10:00 WIB.
const START: i64 = 1_795_489_200;
const EVERY: i64 = 10;

fn at(second: i64) -> UnixMillis {
    UnixMillis((START + second) * 1_000)
}

/// One heartbeat on its way.
#[derive(Clone)]
struct Sent {
    office: OfficeCode,
    agent: AgentId,
    boot: BootId,
    heartbeat: Heartbeat,
    arrival: UnixMillis,
}

impl std::fmt::Debug for Sent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let second = |at: UnixMillis| at.0 / 1_000 - START;
        let bad: String = self
            .heartbeat
            .samples
            .iter()
            .map(|samples| {
                if matches!(samples.samples[0].outcome, Outcome::Ok { .. }) {
                    '.'
                } else {
                    'x'
                }
            })
            .collect();
        write!(
            f,
            "{}@{}{}",
            second(self.heartbeat.at),
            second(self.arrival) - second(self.heartbeat.at),
            bad
        )
    }
}

/// What an office goes through, in seconds from the start.
#[derive(Debug, Clone, Default)]
struct Life {
    server: Vec<Range<i64>>,
    uplink: Vec<Range<i64>>,
    dns: Vec<Range<i64>>,
    gateway: Vec<Range<i64>>,
    power: Vec<Range<i64>>,
    off: Vec<Range<i64>>,
    crash: Vec<Range<i64>>,
    /// The card that the server shows.
    card: Option<u8>,
}
const ROLES: [(&str, Role); 4] = [
    ("gateway", Role::Gateway),
    ("server", Role::Server),
    ("uplink", Role::Uplink),
    ("dns", Role::Dns),
];
/// The heartbeats of an agent, each arriving when it was made; without a gateway or a way out what it sees arrives when that is back.
fn live(office: &str, agent: &str, seconds: i64, life: &Life) -> Vec<Sent> {
    let within =
        |spans: &[Range<i64>], t: i64| spans.iter().find(|span| span.contains(&t)).cloned();
    let mut sent = Vec::new();
    let (mut boot, mut started, mut was_there) = (1_u8, 0_u64, true);
    let mut shows = true;
    for t in (0..seconds).step_by(10) {
        let gone = within(&life.power, t)
            .or(within(&life.off, t))
            .or(within(&life.crash, t));
        if gone.is_some() {
            was_there = false;
            continue;
        }
        if !was_there {
            if within(&life.crash, t - EVERY).is_none() {
                boot += 1;
            }
            started += 1;
            was_there = true;
            shows = true;
        }
        let gateway = within(&life.gateway, t).is_some();
        let uplink = gateway || within(&life.uplink, t).is_some();
        let server = gateway || within(&life.server, t).is_some();
        let dns = within(&life.dns, t).is_some();
        let sample = |bad: bool| Sample {
            at: at(t),
            outcome: if bad {
                Outcome::Failed(Reason::Timeout.into())
            } else {
                Outcome::Ok { rtt_us: 900 }
            },
        };
        let bad = [gateway, server, uplink, dns];
        let says_goodbye = within(&life.off, t + EVERY).is_some();
        let first = t == 0;
        let card = life.card.filter(|_| !server && std::mem::take(&mut shows));
        shows |= server;
        let heartbeat = Heartbeat {
            at: at(t),
            uptime: Duration::from_secs(100),
            started: Duration::from_secs(started),
            interval: Duration::from_secs(10),
            samples: ROLES
                .iter()
                .zip(bad)
                .map(|((name, _), bad)| TargetSamples {
                    target: name.parse().expect("a name"),
                    samples: vec![sample(bad)],
                })
                .collect(),
            targets: first.then(targets),
            goodbye: says_goodbye.then_some(Goodbye::Shutdown),
            gateway: None,
            shown: card
                .map(|card| Shown {
                    target: Some("server".parse().expect("a name")),
                    identity: Identity::Mac([card; 6]),
                })
                .into_iter()
                .collect(),
            path: None,
        };
        let mut arrival = t;
        while within(&life.gateway, arrival)
            .or(within(&life.uplink, arrival))
            .is_some()
        {
            arrival += 1;
        }
        sent.push(Sent {
            office: office.parse().expect("a code"),
            agent: agent.parse().expect("an id"),
            boot: BootId([boot; 16]),
            heartbeat,
            arrival: at(arrival),
        });
    }
    sent
}

fn targets() -> Vec<Target> {
    let target = |(name, role): (&str, Role)| {
        Target::new(
            name.parse().expect("a name"),
            role,
            "tcp://10.0.0.2:443".parse().expect("a probe"),
            Duration::from_secs(10),
            Duration::from_secs(3),
            HttpExpectation::default(),
        )
        .expect("a target")
    };
    ROLES.map(target).to_vec()
}

/// What the storage would hold.
#[derive(Default)]
struct Memory {
    samples: BTreeMap<LinkId, BTreeSet<Sample>>,
    folds: BTreeMap<(LinkId, i64), Fold>,
    incidents: BTreeMap<u64, Incident>,
}

impl Archive for Memory {
    fn fold(&self, link: &LinkId, day: i64) -> anyhow::Result<Option<(i64, Fold)>> {
        let range = (link.clone(), i64::MIN)..=(link.clone(), day);
        Ok(self
            .folds
            .range(range)
            .next_back()
            .map(|((_, day), fold)| (*day, fold.clone())))
    }

    fn incident(&self, number: u64) -> anyhow::Result<Incident> {
        let incident = self.incidents.get(&number).cloned();
        Ok(incident.expect("it was kept"))
    }

    fn kept_from(&self) -> UnixMillis {
        UnixMillis(i64::MIN)
    }

    fn samples(
        &self,
        link: &LinkId,
        from: UnixMillis,
        to: UnixMillis,
        visit: &mut dyn FnMut(Sample),
    ) -> anyhow::Result<()> {
        let samples = self.samples.get(link).into_iter().flatten();
        samples
            .filter(|sample| (from..=to).contains(&sample.at))
            .for_each(|sample| visit(*sample));
        Ok(())
    }
}

struct World {
    detector: Detector,
    memory: Memory,
    pages: Vec<(u64, i64)>,
    second: i64,
    /// Restarts the detector from what was kept, each time so many seconds have passed.
    restart_every: Option<i64>,
    kept: Keeper,
}

/// Keeps what a worker would.
#[derive(Default)]
struct Keeper {
    agents: BTreeMap<AgentId, String>,
    runs: BTreeMap<AgentId, String>,
    sightings: BTreeMap<AgentId, String>,
    links: BTreeMap<LinkId, String>,
    pasts: BTreeMap<LinkId, String>,
    incidents: BTreeMap<u64, Incident>,
    sights: BTreeMap<OfficeCode, Sight>,
}

impl World {
    fn new(setup: Setup) -> Self {
        Self {
            detector: Detector::new(setup),
            memory: Memory::default(),
            pages: Vec::new(),
            second: 0,
            restart_every: None,
            kept: Keeper::default(),
        }
    }

    fn take(&mut self, event: &Event<'_>) {
        loop {
            let step = self
                .detector
                .step(event, &self.memory)
                .expect("the memory has no errors");
            self.keep(&step);
            if !step.more {
                return;
            }
        }
    }

    fn keep(&mut self, step: &Step) {
        let second = self.second;
        self.pages
            .extend(step.pages.iter().map(|number| (*number, second)));
        self.memory.folds.extend(step.folds.clone());
        let json = |value: serde_json::Result<String>| value.expect("JSON");
        for id in &step.agents {
            self.kept.agents.insert(
                id.clone(),
                json(serde_json::to_string(
                    self.detector.agent(id).expect("is known"),
                )),
            );
        }
        for id in &step.runs {
            self.kept.runs.insert(
                id.clone(),
                json(serde_json::to_string(
                    &self.detector.agent(id).expect("is known").runs,
                )),
            );
        }
        for id in &step.sightings {
            self.kept.sightings.insert(
                id.clone(),
                json(serde_json::to_string(
                    &self.detector.agent(id).expect("is known").sightings,
                )),
            );
        }
        for id in &step.links {
            self.kept.links.insert(
                id.clone(),
                json(serde_json::to_string(
                    self.detector.link(id).expect("is known"),
                )),
            );
        }
        for id in &step.pasts {
            self.kept.pasts.insert(
                id.clone(),
                json(serde_json::to_string(
                    &self.detector.link(id).expect("is known").past,
                )),
            );
        }
        self.kept.incidents.extend(step.incidents.clone());
        self.memory.incidents.extend(step.incidents.clone());
        for code in &step.sights {
            let sight = self.detector.sight(code).expect("is known");
            self.kept.sights.insert(code.clone(), sight.clone());
        }
    }

    fn restart(&mut self) {
        fn parsed<K: Clone, V: serde::de::DeserializeOwned>(
            kept: &BTreeMap<K, String>,
        ) -> Vec<(K, V)> {
            kept.iter()
                .map(|(key, text)| {
                    (
                        key.clone(),
                        serde_json::from_str(text).expect("what was written"),
                    )
                })
                .collect()
        }
        let now = at(self.second);
        let kept = Kept {
            listening: self.detector.listening(),
            last_number: self.detector.last_number(),
            agents: parsed(&self.kept.agents),
            runs: parsed(&self.kept.runs),
            sightings: parsed(&self.kept.sightings),
            links: parsed(&self.kept.links),
            pasts: parsed(&self.kept.pasts),
            incidents: self
                .kept
                .incidents
                .values()
                .filter(|incident| Detector::is_revisable(incident, now))
                .cloned()
                .collect(),
            sights: self.kept.sights.clone().into_iter().collect(),
        };
        self.detector = Detector::restore(self.detector.setup.clone(), kept);
    }

    /// Plays everything in the order of arrival, with a tick a second, and a quarter of an hour more.
    fn play(&mut self, mut sent: Vec<Sent>) {
        sent.sort_by_key(|one| one.arrival);
        let mut sent = sent.into_iter().peekable();
        let mut end = None;
        while end.is_none_or(|end| self.second < end) {
            let now = at(self.second);
            while let Some(one) = sent.next_if(|one| one.arrival <= now) {
                for samples in &one.heartbeat.samples {
                    let link = LinkId {
                        agent: one.agent.clone(),
                        target: samples.target.clone(),
                    };
                    self.memory
                        .samples
                        .entry(link)
                        .or_default()
                        .extend(samples.samples.iter().copied());
                }
                let Sent {
                    office,
                    agent,
                    boot,
                    heartbeat,
                    arrival,
                } = &one;
                self.take(&Event::Heartbeat {
                    office,
                    agent,
                    boot: *boot,
                    heartbeat,
                    arrival: *arrival,
                });
            }
            self.take(&Event::Tick { now });
            if end.is_none() && sent.peek().is_none() {
                end = Some(self.second + 20);
            }
            self.second += 1;
            if self
                .restart_every
                .is_some_and(|every| self.second % every == 0)
            {
                self.restart();
            }
        }
    }

    /// What is true in the end, without numbers and without what was only said meanwhile.
    fn truth(&self) -> Vec<(Option<OfficeCode>, Facts)> {
        let real = self
            .kept
            .incidents
            .values()
            .filter(|incident| !incident.retracted);
        let mut all: Vec<_> = real
            .map(|incident| (incident.office.clone(), incident.facts.clone()))
            .collect();
        all.sort_by_key(|(office, facts)| (office.clone(), facts.opened_ms));
        all
    }

    /// Which things moved, in the end.
    fn moved(&self) -> Vec<(OfficeCode, Pattern)> {
        let of = |(code, sight): (&OfficeCode, &Sight)| {
            let moved = sight
                .patterns
                .iter()
                .filter(|pattern| pattern.kind == PatternKind::Moved);
            moved
                .map(|pattern| (code.clone(), pattern.clone()))
                .collect::<Vec<_>>()
        };
        self.kept.sights.iter().flat_map(of).collect()
    }

    fn summary(&self) -> Vec<(Cause, i64, Option<i64>)> {
        let second = |at: UnixMillis| at.0 / 1_000 - START;
        self.truth()
            .iter()
            .map(|(_, facts)| {
                (
                    facts.cause,
                    second(facts.opened_ms),
                    facts.resolved_ms.map(second),
                )
            })
            .collect()
    }
}

fn setup() -> Setup {
    let codes = (1..=9).map(|n| format!("36.73.0{n}").parse().expect("a code"));
    Setup {
        sites: codes.map(|code| (code, Site::default())).collect(),
        ..Setup::default()
    }
}

fn played(lives: &[(&str, &str, Life)], seconds: i64) -> World {
    let mut world = World::new(setup());
    world.play(
        lives
            .iter()
            .flat_map(|(office, agent, life)| live(office, agent, seconds, life))
            .collect(),
    );
    world
}

fn one(life: Life, seconds: i64) -> World {
    played(&[("36.73.02", "a-1", life)], seconds)
}

#[test]
fn each_cause_is_told_from_the_others() {
    let server = one(
        Life {
            server: vec![600..900],
            ..Life::default()
        },
        1_200,
    );
    assert_eq!(server.summary(), [(Cause::Server, 600, Some(900))]);
    assert_eq!(server.truth()[0].1.confidence, 95);
    let lan = one(
        Life {
            gateway: vec![600..900],
            ..Life::default()
        },
        1_800,
    );
    assert_eq!(lan.summary(), [(Cause::Lan, 600, Some(900))]);
    let power = one(
        Life {
            power: vec![600..900],
            ..Life::default()
        },
        1_200,
    );
    assert_eq!(power.summary(), [(Cause::Power, 590, Some(900))]);
    let crash = one(
        Life {
            crash: vec![600..900],
            ..Life::default()
        },
        1_200,
    );
    assert_eq!(crash.summary(), [(Cause::Agent, 590, Some(900))]);
    let off = one(
        Life {
            off: vec![600..900],
            ..Life::default()
        },
        1_200,
    );
    assert_eq!(off.summary(), []);
}

#[test]
fn what_resolves_an_incident_is_its_last_revision() {
    let life = Life {
        server: vec![600..1_000],
        gateway: vec![600..900],
        ..Life::default()
    };
    let world = one(life, 2_000);
    for incident in world.kept.incidents.values() {
        let numbers: Vec<u64> = incident
            .revisions
            .iter()
            .map(|revision| revision.number)
            .collect();
        assert!(
            numbers.windows(2).all(|pair| pair[1] == pair[0] + 1),
            "{numbers:?}"
        );
        let at = incident
            .revisions
            .iter()
            .position(|revision| revision.kind == RevisionKind::Resolve)
            .expect("is resolved");
        let then = incident.revisions[at].recorded_ms;
        assert!(
            incident.revisions[at + 1..]
                .iter()
                .all(|revision| revision.recorded_ms > then),
            "{:#?}",
            incident.revisions
        );
    }
}

/// An agent that saves bytes speaks less often at night, and tells then what it stored: by the promise of its youngest word it is there.
#[test]
fn what_was_stored_promises_nothing_for_now() {
    let mut world = World::new(setup());
    let (office, agent) = ("36.73.01".parse(), "a-1".parse());
    let (office, agent) = (office.expect("a code"), agent.expect("an id"));
    let says = |world: &mut World, made: i64, arrives: i64, interval: u64| {
        let heartbeat = Heartbeat {
            at: at(made),
            uptime: Duration::from_secs(made.unsigned_abs()),
            started: Duration::ZERO,
            interval: Duration::from_secs(interval),
            samples: Vec::new(),
            targets: None,
            goodbye: None,
            gateway: None,
            shown: Vec::new(),
            path: None,
        };
        world.take(&Event::Heartbeat {
            office: &office,
            agent: &agent,
            boot: BootId([1; 16]),
            heartbeat: &heartbeat,
            arrival: at(arrives),
        });
    };
    for second in 0..=1_100 {
        match second {
            100..=200 if second % 10 == 0 => says(&mut world, second, second, 10),
            205 => says(&mut world, 205, 205, 300),
            207 => says(&mut world, 50, 207, 10),
            _ => {}
        }
        world.take(&Event::Tick { now: at(second) });
        let presence = world.detector.agent(&"a-1".parse().expect("an id"));
        let presence = presence.map(|agent| agent.presence);
        if second >= 210 {
            // Up to three of the promised intervals after it was last heard.
            assert_eq!(presence, Some(Presence::Present), "{second}");
        }
    }
    for second in 1_100..1_120 {
        world.take(&Event::Tick { now: at(second) });
    }
    let silent = world.detector.agent(&"a-1".parse().expect("an id"));
    assert_eq!(silent.expect("is known").presence, Presence::Silent);
}

#[test]
fn a_silent_office_is_unreachable_until_its_agent_tells_what_it_saw() {
    let world = one(
        Life {
            uplink: vec![600..1_200],
            ..Life::default()
        },
        2_000,
    );
    assert_eq!(world.summary(), [(Cause::Uplink, 600, Some(1_200))]);
    let incident = &world.kept.incidents[&1];
    let kinds: Vec<_> = incident
        .revisions
        .iter()
        .map(|revision| (revision.kind, revision.reason))
        .collect();
    assert_eq!(kinds[0], (RevisionKind::Open, RevisionReason::AgentSilent));
    assert!(
        kinds
            .iter()
            .any(|(kind, _)| *kind == RevisionKind::Reclassify),
        "{kinds:?}"
    );
    assert_eq!(
        kinds
            .iter()
            .filter(|(kind, _)| *kind == RevisionKind::Resolve)
            .count(),
        1,
        "{kinds:?}"
    );
    assert_eq!(world.pages, [(1, 680)], "once, while it was silent");
}

#[test]
fn a_page_waits_and_a_blip_calls_nobody() {
    let world = one(
        Life {
            server: vec![600..650, 5_000..5_300],
            ..Life::default()
        },
        6_000,
    );
    assert_eq!(
        world.summary(),
        [
            (Cause::Server, 600, Some(650)),
            (Cause::Server, 5_000, Some(5_300))
        ]
    );
    assert_eq!(world.pages, [(2, 5_090)]);
}

#[test]
fn what_comes_back_soon_is_the_same_and_later_a_relapse() {
    let hour = 3_600;
    let world = one(
        Life {
            server: vec![
                600..1_000,
                2_000..2_500,
                3 * hour..3 * hour + 300,
                5 * hour + 10..5 * hour + 500,
            ],
            ..Life::default()
        },
        6 * hour,
    );
    let truth = world.truth();
    let relapses: Vec<_> = truth
        .iter()
        .map(|(_, facts)| {
            facts
                .relapse
                .map(|relapse| (relapse.count, relapse.held_ms / 1_000, relapse.episode))
        })
        .collect();
    assert_eq!(
        relapses,
        [None, Some((1, 8_300, false)), Some((2, 6_910, true))]
    );
    let first = &world.kept.incidents[&1];
    assert!(
        first
            .revisions
            .iter()
            .any(|revision| revision.reason == RevisionReason::RepairFailed)
    );
    assert_eq!(world.kept.incidents[&3].relapse_of, Some(2));
    let pattern = world
        .detector
        .sight(&"36.73.02".parse().expect("a code"))
        .expect("is known")
        .patterns
        .iter()
        .find(|pattern| pattern.kind == PatternKind::Relapse)
        .cloned();
    assert_eq!(
        pattern.map(|pattern| (pattern.count, pattern.until_ms)),
        Some((2, None))
    );
}

#[test]
fn a_machine_that_is_switched_off_without_a_word_after_hours_is_no_outage() {
    // 15:40 to 08:20 on the next day, and from there to 12:00, which is too long.
    let (evening, morning) = (20_400, 80_400);
    let world = one(
        Life {
            power: vec![evening..morning],
            ..Life::default()
        },
        morning + 600,
    );
    assert_eq!(world.summary(), []);
    let world = one(
        Life {
            power: vec![evening..morning + 13_200],
            ..Life::default()
        },
        morning + 14_000,
    );
    // From 08:00 on.
    assert_eq!(
        world.summary(),
        [(Cause::Power, 79_200, Some(morning + 13_200))]
    );
}

#[test]
fn one_of_two_agents_that_fails_is_not_the_office() {
    let world = played(
        &[
            (
                "36.73.02",
                "a-1",
                Life {
                    power: vec![600..900],
                    ..Life::default()
                },
            ),
            ("36.73.02", "a-2", Life::default()),
        ],
        1_500,
    );
    assert_eq!(world.summary(), [(Cause::Agent, 590, Some(900))]);
    assert_eq!(world.pages, []);
}

#[test]
fn what_is_settled_is_revised_by_what_comes_late() {
    let hour = 3_600;
    let server = |down: Range<i64>| Life {
        server: vec![down],
        ..Life::default()
    };
    let mut sent = live("36.73.02", "a-1", 4 * hour, &server(600..700));
    // It saw the same, and for longer, and tells when that is long over.
    let life = Life {
        off: vec![1_100..1_200],
        ..server(650..900)
    };
    for mut one in live("36.73.02", "a-2", 1_200, &life) {
        one.arrival = at(3 * hour);
        sent.push(one);
    }
    let mut world = World::new(setup());
    world.play(sent);
    let real = world.kept.incidents.values().filter(|one| !one.retracted);
    let real: Vec<_> = real.collect();
    let troubles: Vec<_> = real.iter().map(|one| one.facts.troubles.len()).collect();
    assert_eq!(troubles, [2]);
    assert_eq!(
        (real[0].number, real[0].facts.resolved_ms),
        (1, Some(at(900)))
    );
    let said: Vec<_> = real[0].revisions.iter().map(|one| one.kind).collect();
    let [RevisionKind::Open, RevisionKind::Resolve, after @ ..] = &said[..] else {
        panic!("what was said before is kept: {said:?}");
    };
    assert!(!after.is_empty());
}

#[test]
fn what_stands_for_long_does_not_hide_what_breaks_later() {
    let life = Life {
        server: vec![600..20_000],
        gateway: vec![9_000..9_600],
        ..Life::default()
    };
    let world = one(life, 12_000);
    assert_eq!(world.pages, [(1, 690), (1, 9_080)]);
    assert_eq!(world.summary(), [(Cause::Server, 600, None)]);
}

#[test]
fn an_agent_that_is_shut_out_is_missed_no_more() {
    let life = Life {
        server: vec![600..9_000],
        ..Life::default()
    };
    let mut world = one(life, 1_200);
    let agent = "a-1".parse().expect("an id");
    world.take(&Event::Dismissed { agent: &agent });
    for _ in 0..3_600 {
        world.second += 1;
        let now = at(world.second);
        world.take(&Event::Tick { now });
    }
    assert_eq!(world.summary(), [(Cause::Server, 600, Some(1_190))]);
    assert_eq!(world.pages, [(1, 690)]);
    world.restart();
    let now = at(world.second + 60);
    world.take(&Event::Tick { now });
    assert_eq!(world.summary(), [(Cause::Server, 600, Some(1_190))]);
}

#[test]
fn an_agent_that_is_registered_no_more_is_missed_no_more() {
    let mut world = World::new(setup());
    let gone = live(
        "36.73.02",
        "a-1",
        900,
        &Life {
            server: vec![600..2_000],
            ..Life::default()
        },
    );
    world.play(
        gone.into_iter()
            .chain(live("36.73.03", "a-2", 1_500, &Life::default()))
            .collect(),
    );
    assert_eq!(world.detector.open_count(), 1);
    world
        .detector
        .setup
        .agents
        .insert("a-2".parse().expect("an id"));
    world.restart();
    let now = at(world.second);
    world.take(&Event::Tick { now });
    assert_eq!(world.detector.open_count(), 0);
    assert_eq!(world.summary(), [(Cause::Server, 600, Some(890))]);
}

fn regency(hit: usize, life: &Life, seconds: i64) -> World {
    let names: Vec<(String, String)> = (1..=8)
        .map(|n| (format!("36.73.0{n}"), format!("a-{n}")))
        .collect();
    let lives: Vec<(&str, &str, Life)> = names
        .iter()
        .enumerate()
        .map(|(i, (office, agent))| {
            (
                office.as_str(),
                agent.as_str(),
                if i < hit {
                    life.clone()
                } else {
                    Life::default()
                },
            )
        })
        .collect();
    played(&lives, seconds)
}

#[test]
fn many_that_fail_together_are_one_common_cause() {
    let world = regency(
        7,
        &Life {
            uplink: vec![600..1_500],
            ..Life::default()
        },
        2_000,
    );
    let commons: Vec<_> = world
        .truth()
        .into_iter()
        .filter(|(office, _)| office.is_none())
        .collect();
    assert_eq!(commons.len(), 1);
    let scope = commons[0].1.scope.clone().expect("a scope");
    assert_eq!(
        (scope.kind, scope.code.as_str(), scope.failed, scope.watched),
        (ScopeKind::Regency, "36.73", 7, 8)
    );
    assert_eq!(commons[0].1.resolved_ms, Some(at(1_500)));
    let parent = world
        .kept
        .incidents
        .values()
        .find(|incident| incident.office.is_none())
        .expect("is there");
    let children: Vec<_> = world
        .kept
        .incidents
        .values()
        .filter(|incident| incident.parent == Some(parent.number))
        .collect();
    assert_eq!(children.len(), 7);
    assert!(
        children
            .iter()
            .all(|child| child.facts.cause == Cause::Regional && child.paged_ms.is_none()),
        "{children:#?}"
    );
    assert_eq!(
        world
            .pages
            .iter()
            .map(|(number, _)| *number)
            .collect::<Vec<_>>(),
        [parent.number]
    );
    // Two are two.
    let two = regency(
        2,
        &Life {
            server: vec![600..1_500],
            ..Life::default()
        },
        2_000,
    );
    assert_eq!(two.pages.len(), 2);
}

#[test]
fn what_is_dead_for_long_hides_no_common_cause() {
    let hour = 3_600;
    let life = |i: usize, left: i64| Life {
        // At most of them the server is dead since long, and then the names too, or time and again; then the way out of all fails.
        server: if i < 5 {
            vec![600 + 900 * i64::try_from(i).expect("small")..8 * hour]
        } else {
            vec![]
        },
        dns: match i {
            0..2 => vec![3 * hour / 2..8 * hour],
            2..4 => (60..100).map(|n| n * 150..n * 150 + 60).collect(),
            _ => vec![],
        },
        uplink: vec![3 * hour..4 * hour + left],
        ..Life::default()
    };
    let offices: Vec<_> = (0..7)
        .map(|i| (format!("36.73.0{}", i + 1), format!("a-{i}")))
        .collect();
    // One is left behind by the others' recovery.
    let lives = (0..7).zip(&offices).map(|(i, (code, agent))| {
        (
            code.as_str(),
            agent.as_str(),
            life(i, if i == 0 { 3 * hour } else { 0 }),
        )
    });
    let world = played(&lives.collect::<Vec<_>>(), 8 * hour);
    let incidents = world.kept.incidents.values().filter(|one| !one.retracted);
    let (commons, own): (Vec<_>, Vec<_>) = incidents.partition(|one| one.office.is_none());
    let uplinks: Vec<_> = commons
        .iter()
        .filter(|one| one.facts.opened_ms >= at(3 * hour))
        .collect();
    assert_eq!(uplinks.len(), 1, "{commons:#?}");
    assert_eq!(
        uplinks[0].facts.scope.as_ref().map(|scope| scope.failed),
        Some(7)
    );
    let second = |page: &(u64, i64)| page.1;
    let of_uplink: Vec<_> = world
        .pages
        .iter()
        .filter(|page| second(page) >= 3 * hour)
        .collect();
    // The common cause, and half an hour after its end the one that is left.
    assert_eq!(of_uplink.len(), 2, "{:?}", world.pages);
    assert_eq!(of_uplink[0].0, uplinks[0].number);
    let left = own
        .iter()
        .find(|one| one.number == of_uplink[1].0)
        .expect("an office's");
    assert_eq!(
        left.office.as_ref().map(OfficeCode::as_str),
        Some("36.73.01")
    );
    assert!(
        (4 * hour + 1_800..4 * hour + 1_900).contains(&of_uplink[1].1),
        "{:?}",
        world.pages
    );
}

#[test]
fn offices_that_take_turns_are_named() {
    let hour = 3_600;
    let swap = |odd: i64| Life {
        server: (0..8)
            .map(|i| (2 * i + odd) * hour + 600..(2 * i + 1 + odd) * hour + 600)
            .collect(),
        ..Life::default()
    };
    let world = played(
        &[
            ("36.73.02", "a-1", swap(0)),
            ("36.73.03", "a-2", swap(1)),
            ("36.73.04", "a-3", Life::default()),
        ],
        18 * hour,
    );
    let groups = world.detector.roaming();
    let codes: Vec<Vec<&str>> = groups
        .iter()
        .map(|group| group.iter().map(OfficeCode::as_str).collect())
        .collect();
    assert_eq!(codes, [["36.73.02", "36.73.03"]]);
}

#[test]
fn a_clock_that_turns_out_right_tells_of_turns_at_once() {
    let hour = 3_600;
    let swap = |odd: i64| Life {
        server: (0..8)
            .map(|i| (2 * i + odd) * hour + 600..(2 * i + 1 + odd) * hour + 600)
            .collect(),
        ..Life::default()
    };
    let named = |delayed_until: i64| {
        let mut world = World::new(setup());
        let mut sent = live("36.73.02", "a-1", 20 * hour, &swap(0));
        for mut one in live("36.73.03", "a-2", 20 * hour, &swap(1)) {
            if one.heartbeat.at < at(delayed_until) {
                one.arrival = one.arrival + Duration::from_secs(70);
            }
            sent.push(one);
        }
        world.play(sent);
        let sight = &world.kept.sights[&"36.73.02".parse().expect("a code")];
        let with = sight.patterns.iter().filter_map(|one| one.with.clone());
        with.map(|code| code.to_string()).collect::<Vec<_>>()
    };
    let nobody: [&str; 0] = [];
    assert_eq!(named(20 * hour), nobody, "it may be off by as much");
    assert_eq!(named(19 * hour), ["36.73.03"]);
}

#[test]
fn what_breaks_after_the_end_of_a_common_cause_is_its_own() {
    let hour = 3_600;
    let offices: Vec<_> = (0..7)
        .map(|i| (format!("36.73.0{}", i + 1), format!("a-{i}")))
        .collect();
    let lives = offices.iter().enumerate().map(|(i, (code, agent))| {
        let mut life = Life {
            uplink: vec![3 * hour..3 * hour + 120],
            ..Life::default()
        };
        if i == 0 {
            life.server = vec![600..8 * hour];
            life.dns = vec![3 * hour + 200..8 * hour];
        }
        (code.as_str(), agent.as_str(), life)
    });
    let world = played(&lives.collect::<Vec<_>>(), 4 * hour);
    let of_names = world.pages.iter().filter(|page| page.1 > 3 * hour);
    let of_names: Vec<i64> = of_names.map(|page| page.1).collect();
    assert!(
        matches!(of_names[..], [second] if second < 3 * hour + 400),
        "{:?}",
        world.pages
    );
}

#[test]
fn what_a_neighbour_has_is_a_guess_of_a_silence() {
    let dark = |length: i64| Life {
        power: vec![3_600..3_600 + length],
        ..Life::default()
    };
    let guess_beside = |neighbour: &str| {
        let lives = [
            (neighbour, "a-1", dark(1_200)),
            ("36.73.03", "a-2", dark(9_000)),
        ];
        let open = |(_, facts): &&(_, Facts)| facts.cause == Cause::Unreachable;
        let world = played(&lives, 7_200);
        let truth = world.truth();
        let (_, facts) = truth.iter().find(open).expect("is silent");
        let incident = world.kept.incidents.values().find(|one| one.is_open());
        let said = incident.map(|one| one.revisions.len());
        assert_eq!(said, Some(1), "a better guess is no news");
        facts.evidence.iter().find_map(|one| match one {
            Evidence::Likely {
                cause, neighbours, ..
            } => Some((*cause, *neighbours)),
            _ => None,
        })
    };
    assert_eq!(guess_beside("36.73.02"), Some((Cause::Power, 1)));
    assert_eq!(guess_beside("36.74.02"), None, "of another regency");
}

#[test]
fn a_thing_that_moves_is_named() {
    let hour = 3_600;
    let server = |down: &[Range<i64>], card| Life {
        server: down.to_vec(),
        card: Some(card),
        ..Life::default()
    };
    // The one server is carried over, and back. Two others are alike, and stay.
    let world = played(
        &[
            ("36.73.02", "a-1", server(&[hour..3 * hour], 2)),
            (
                "36.73.03",
                "a-2",
                server(&[0..hour + 600, 3 * hour - 300..4 * hour], 2),
            ),
            ("36.73.04", "a-3", server(&[2 * hour..3 * hour], 4)),
            ("36.73.05", "a-4", server(&[3 * hour..3 * hour + 60], 4)),
        ],
        4 * hour,
    );
    let found: Vec<_> = world
        .moved()
        .into_iter()
        .map(|(code, pattern)| {
            let since = pattern.from_ms.0 / 1_000 - START;
            let with = pattern.with.map(|code| code.to_string());
            (code.to_string(), with, since, pattern.count)
        })
        .collect();
    let of = |one: &str, other: &str| (one.to_owned(), Some(other.to_owned()), hour + 600, 2);
    assert_eq!(
        found,
        [of("36.73.02", "36.73.03"), of("36.73.03", "36.73.02")]
    );
    let pattern = &world.moved()[0].1;
    assert_eq!(pattern.identity, Some(Identity::Mac([2; 6])));
    assert_eq!(
        pattern.target.as_ref().map(TargetName::as_str),
        Some("server")
    );
    assert!(pattern.until_ms.is_none());
}

#[test]
fn two_machines_with_one_identity_are_one_incident_and_no_outage() {
    let one = live("36.73.02", "a-1", 1_200, &Life::default());
    let two = live(
        "36.73.02",
        "a-1",
        1_200,
        &Life {
            server: vec![0..1_200],
            ..Life::default()
        },
    );
    let two = two
        .into_iter()
        .filter(|sent| sent.arrival >= at(400))
        .map(|mut sent| {
            sent.boot = BootId([9; 16]);
            sent
        });
    let mut world = World::new(setup());
    world.play(one.into_iter().chain(two).collect());
    let causes: Vec<_> = world.summary();
    assert_eq!(causes.len(), 1, "{causes:?}");
    assert_eq!((causes[0].0, causes[0].1), (Cause::Clone, 400));
    assert_eq!(world.pages, []);
}

#[test]
fn a_collector_that_hears_nobody_suspects_itself_first() {
    let mut world = World::new(setup());
    let all: Vec<Sent> = (1..=9)
        .flat_map(|n| {
            live(
                &format!("36.73.0{n}"),
                &format!("a-{n}"),
                1_200,
                &Life::default(),
            )
        })
        .collect();
    // Nothing arrives for 100 s; nothing was wrong.
    let late = all.into_iter().map(|mut sent| {
        if (at(600)..at(700)).contains(&sent.arrival) {
            sent.arrival = at(700);
        }
        sent
    });
    world.play(late.collect());
    assert_eq!(world.kept.incidents.len(), 0, "{:#?}", world.kept.incidents);
}

#[test]
fn work_that_comes_back_every_week_is_nobodys_incident() {
    let mut setup = setup();
    let always = Hours::parse("weekly", "always").expect("hours");
    setup.maintenance.push(Maintenance {
        region: "36.73.02".into(),
        when: When::Weekly {
            hours: always,
            from: at(0),
            until: None,
        },
        reason: "a building site".into(),
    });
    let mut world = World::new(setup);
    let life = Life {
        server: vec![600..900],
        ..Life::default()
    };
    let mut both = live("36.73.02", "a-1", 2_000, &life);
    both.extend(live("36.73.03", "b-1", 2_000, &life));
    world.play(both);
    assert_eq!(world.summary(), [(Cause::Server, 600, Some(900))]);
}

#[test]
fn announced_work_is_nobodys_incident() {
    let mut setup = setup();
    setup.maintenance.push(Maintenance {
        region: "36.73".into(),
        when: When::Once {
            from: at(500),
            until: at(1_000),
        },
        reason: "new switch".into(),
    });
    let mut world = World::new(setup);
    world.play(live(
        "36.73.02",
        "a-1",
        2_000,
        &Life {
            server: vec![600..900],
            uplink: vec![700..1_200],
            ..Life::default()
        },
    ));
    assert_eq!(world.summary(), [(Cause::Uplink, 1_000, Some(1_200))]);
    assert_eq!(
        world.pages,
        [(1, 1_090)],
        "nobody is called while the work goes on"
    );
    assert_eq!(world.kept.incidents.len(), 1);
}

#[test]
fn a_target_that_is_probed_no_more_is_down_no_more() {
    let mut sent = live(
        "36.73.02",
        "a-1",
        1_200,
        &Life {
            server: vec![600..1_200],
            ..Life::default()
        },
    );
    sent[100].heartbeat.targets = Some(
        targets()
            .into_iter()
            .filter(|target| target.name.as_str() != "server")
            .collect(),
    );
    for one in &mut sent[100..] {
        one.heartbeat
            .samples
            .retain(|samples| samples.target.as_str() != "server");
    }
    let mut world = World::new(setup());
    world.play(sent);
    assert_eq!(world.summary(), [(Cause::Server, 600, Some(1_000))]);
}

/// The lines in which two incidents differ.
fn differs(one: &Incident, other: Option<&Incident>) -> String {
    let lines = |incident: &Incident| serde_json::to_value(incident).expect("JSON");
    let (one, other) = (lines(one), other.map(lines).unwrap_or_default());
    let fields = one.as_object().expect("an object").keys();
    let mut differing = fields.filter(|field| one[field.as_str()] != other[field.as_str()]);
    differing.next().map_or_else(String::new, |field| {
        format!(
            "{field}: {}\n   not {}",
            one[field.as_str()],
            other[field.as_str()]
        )
    })
}

fn spans() -> impl Strategy<Value = Vec<Range<i64>>> {
    prop::collection::vec((0..700i64, 1..80i64), 0..3).prop_map(|spans| {
        let mut all: Vec<Range<i64>> = spans
            .into_iter()
            .map(|(from, length)| from * EVERY..(from + length) * EVERY)
            .collect();
        all.sort_by_key(|span| span.start);
        let mut end = 0;
        all.retain(|span| {
            let keep = span.start > end + 60;
            if keep {
                end = span.end;
            }
            keep
        });
        all
    })
}

fn life() -> impl Strategy<Value = Life> {
    let card = prop::option::of((1..4u8).prop_map(|n| 2 * n));
    (spans(), spans(), spans(), 0..3usize, card).prop_map(|(server, uplink, gone, how, card)| {
        let mut life = Life {
            server,
            uplink,
            card,
            ..Life::default()
        };
        match how {
            0 => life.power = gone,
            1 => life.off = gone,
            _ => life.crash = gone,
        }
        life
    })
}

fn lives() -> impl Strategy<Value = Vec<Sent>> {
    prop::collection::vec(life(), 1..5).prop_map(|lives| {
        lives
            .iter()
            .enumerate()
            .flat_map(|(i, life)| {
                live(&format!("36.73.0{}", i + 1), &format!("a-{i}"), 8_000, life)
            })
            .collect()
    })
}

/// The same in another order: pieces of it come late, some of them twice; the last minutes on time.
fn delayed() -> impl Strategy<Value = (Vec<Sent>, Vec<Sent>)> {
    (
        lives(),
        prop::collection::vec((0..40usize, 1..7_000i64, any::<bool>()), 1..12),
    )
        .prop_map(|(sent, moves)| {
            let mut other = sent.clone();
            for (piece, by, twice) in moves {
                let size = sent.len() / 40 + 1;
                for i in piece * size..((piece + 1) * size).min(sent.len()) {
                    if twice {
                        other.push(sent[i].clone());
                    }
                    other[i].arrival = other[i]
                        .arrival
                        .max(UnixMillis(sent[i].arrival.0 + by * 1_000).min(at(7_930)));
                }
            }
            (sent, other)
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 10, max_shrink_iters: 60, failure_persistence: None, ..ProptestConfig::default() })]
    /// The same events in any order end in the same incidents.
    #[test]
    fn any_order_of_delivery_ends_in_the_same_incidents((on_time, late) in delayed()) {
        let (mut one, mut other) = (World::new(setup()), World::new(setup()));
        one.play(on_time);
        other.play(late);
        prop_assert_eq!(one.truth(), other.truth());
        prop_assert_eq!(one.moved(), other.moved());
    }

    /// A restart at any time ends in the same incidents and patterns as none. (A start judges every office, as thresholds may be others: what came late and waits
    /// for more may be judged a little earlier by it.)
    #[test]
    fn a_restart_changes_nothing((_, late) in delayed(), every in 37..900i64) {
        let (mut one, mut other) = (World::new(setup()), World::new(setup()));
        other.restart_every = Some(every);
        one.play(late.clone());
        other.play(late);
        prop_assert_eq!(one.truth(), other.truth());
        prop_assert_eq!(one.kept.sights, other.kept.sights);
    }

    /// On time, a restart changes no revision, no number and no page either.
    #[test]
    fn a_restart_while_all_is_on_time_leaves_no_trace(sent in lives(), every in 37..900i64) {
        let (mut one, mut other) = (World::new(setup()), World::new(setup()));
        other.restart_every = Some(every);
        let sent: Vec<Sent> = sent.into_iter().map(|one| Sent { arrival: one.heartbeat.at, ..one }).collect();
        one.play(sent.clone());
        other.play(sent);
        for (number, incident) in &one.kept.incidents {
            let same = other.kept.incidents.get(number) == Some(incident);
            prop_assert!(same, "{}", differs(incident, other.kept.incidents.get(number)));
        }
        prop_assert_eq!(one.kept.incidents.len(), other.kept.incidents.len());
        prop_assert_eq!(one.pages, other.pages);
    }

    /// Whatever agents say, and whenever: nothing panics, nothing goes on for ever, no step grows beyond what the state takes.
    #[test]
    fn anything_may_be_said(said in prop::collection::vec((0..4u8, 0..3u8, 0..5_000_000i64, -100_000..100_000i64, any::<u16>(), 1..3_600u64), 1..120)) {
        let mut world = World::new(setup());
        for (who, boot, second, late, bits, interval) in said {
            let flag = |bit: u16| bits >> bit & 1 == 1;
            let sample = |step: i64| Sample {
                at: at(second - step * 40_000),
                outcome: if flag(0) { Outcome::Ok { rtt_us: u32::from(bits) + 1 } } else { Outcome::Failed(Reason::Refused.into()) },
            };
            let samples = (0..3).rev().map(sample).collect();
            let heartbeat = Heartbeat {
                at: at(second),
                uptime: Duration::from_secs(100),
                started: Duration::from_secs(u64::from(flag(1))),
                interval: Duration::from_secs(interval),
                samples: vec![TargetSamples { target: ROLES[usize::from(bits >> 8) % 3].0.parse().expect("a name"), samples }],
                targets: flag(2).then(|| targets().into_iter().take(usize::from(bits >> 4) % 4).collect()),
                goodbye: flag(3).then_some(Goodbye::Suspend),
                gateway: None,
                shown: flag(5).then(|| Shown { target: flag(6).then(|| "server".parse().expect("a name")), identity: Identity::Mac([2 * boot; 6]) }).into_iter().collect(),
                path: None,
            };
            for samples in &heartbeat.samples {
                let link = LinkId { agent: format!("a-{who}").parse().expect("an id"), target: samples.target.clone() };
                world.memory.samples.entry(link).or_default().extend(samples.samples.iter().copied());
            }
            let office = format!("36.73.0{}", 1 + (who + u8::from(flag(4))) % 4).parse().expect("a code");
            let agent = format!("a-{who}").parse().expect("an id");
            let event = Event::Heartbeat { office: &office, agent: &agent, boot: BootId([boot; 16]), heartbeat: &heartbeat, arrival: at(second + late) };
            for event in [event, Event::Tick { now: at(second + late) }, Event::Tick { now: at(second + late + 40) }] {
                let mut rounds = 0;
                loop {
                    let step = world.detector.step(&event, &world.memory).expect("the memory has no errors");
                    prop_assert!(step.len() < 480, "{}", step.len());
                    rounds += 1;
                    prop_assert!(rounds < 1_000);
                    let more = step.more;
                    world.keep(&step);
                    if !more {
                        break;
                    }
                }
            }
        }
        world.restart();
    }

    /// A trouble lies within its incident, and no two incidents of an office overlap.
    #[test]
    fn incidents_are_disjoint_and_hold_their_troubles((_, late) in delayed()) {
        let mut world = World::new(setup());
        world.play(late);
        for pair in world.truth().windows(2) {
            if pair[0].0.is_some() && pair[0].0 == pair[1].0 {
                prop_assert!(pair[0].1.resolved_ms.is_some_and(|end| end < pair[1].1.opened_ms), "{:?}", pair);
            }
        }
        for (_, facts) in world.truth() {
            let inside = |trouble: &Trouble| trouble.since_ms >= facts.opened_ms && facts.resolved_ms.is_none_or(|end| trouble.until_ms.is_some_and(|until| until <= end));
            prop_assert!(facts.troubles.iter().all(inside));
        }
    }
}
