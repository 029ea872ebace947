//! Plays a scene to the detector, second by second, as the collector would.

use crate::office::{Arrived, at};
use crate::scenes::Scene;
use anyhow::Context;
use denyut_detect::calendar::Hours;
use denyut_detect::detector::Sight;
use denyut_detect::incident::{Cause, Evidence};
use denyut_detect::link::Fold;
use denyut_detect::office::PatternKind;
use denyut_detect::{Archive, Detector, Event, Incident, Setup, Site, Step};
use denyut_proto::{LinkId, OfficeCode, Sample, UnixMillis};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// What came of it.
pub(crate) struct Played {
    pub(crate) incidents: BTreeMap<u64, Incident>,
    /// Which incident was called for, and when.
    pub(crate) pages: Vec<(u64, i64)>,
    /// What an incident was last said to be probably.
    pub(crate) guesses: BTreeMap<u64, Cause>,
    pub(crate) sights: BTreeMap<OfficeCode, Sight>,
    pub(crate) roaming: Vec<BTreeSet<OfficeCode>>,
    /// When an office was first said to take turns.
    pub(crate) named: Option<i64>,
    /// When a thing was first said to have moved.
    pub(crate) thing_named: Option<i64>,
    pub(crate) samples: u64,
    /// Time in the detector.
    pub(crate) spent: Duration,
}

/// What the storage would hold.
#[derive(Default)]
pub(crate) struct Memory {
    samples: BTreeMap<LinkId, BTreeMap<i64, Sample>>,
    folds: BTreeMap<(LinkId, i64), Fold>,
    /// Whether samples and folds are kept: something comes late.
    keeps: bool,
    /// All, those that were taken back too.
    pub(crate) incidents: BTreeMap<u64, Incident>,
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
        incident.with_context(|| format!("there is no incident {number}"))
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
        let samples = self
            .samples
            .get(link)
            .into_iter()
            .flat_map(|samples| samples.range(from.0..=to.0));
        samples.for_each(|(_, sample)| visit(*sample));
        Ok(())
    }
}

impl Memory {
    fn keep(&mut self, office: &crate::office::Office, one: &Arrived) {
        for samples in &one.heartbeat.samples {
            let link = LinkId {
                agent: office.agent.clone(),
                target: samples.target.clone(),
            };
            let kept = self.samples.entry(link).or_default();
            kept.extend(samples.samples.iter().map(|sample| (sample.at.0, *sample)));
        }
    }
}

struct Player {
    detector: Detector,
    memory: Memory,
    played: Played,
}

impl Player {
    fn take(&mut self, second: i64, event: &Event<'_>) -> anyhow::Result<()> {
        loop {
            let began = Instant::now();
            let step = self.detector.step(event, &self.memory)?;
            self.played.spent += began.elapsed();
            let more = step.more;
            self.note(second, step);
            if !more {
                return Ok(());
            }
        }
    }

    fn note(&mut self, second: i64, step: Step) {
        self.played
            .pages
            .extend(step.pages.iter().map(|number| (*number, second)));
        for (number, incident) in &step.incidents {
            let guess = incident.facts.evidence.iter().find_map(|one| match one {
                Evidence::Likely { cause, .. } => Some(*cause),
                _ => None,
            });
            self.played
                .guesses
                .extend(guess.map(|guess| (*number, guess)));
        }
        self.memory.incidents.extend(step.incidents);
        if self.memory.keeps {
            self.memory.folds.extend(step.folds);
        }
        for code in step.sights {
            let sight = self.detector.sight(&code).cloned().unwrap_or_default();
            let says = |kind| sight.patterns.iter().any(|pattern| pattern.kind == kind);
            if says(PatternKind::Roaming) {
                self.played.named.get_or_insert(second);
            }
            if says(PatternKind::Moved) {
                self.played.thing_named.get_or_insert(second);
            }
            self.played.sights.insert(code, sight);
        }
    }
}

/// Plays it to its end.
pub(crate) fn play(scene: &mut Scene) -> anyhow::Result<Played> {
    let hours = if scene.office_hours {
        Hours::default()
    } else {
        Hours::parse("hours", "always")?
    };
    let sites = scene
        .offices
        .iter()
        .zip(&scene.pools)
        .map(|(office, pool)| {
            let site = Site {
                pool: pool.map(str::to_owned),
                ..Site::default()
            };
            (office.code.clone(), site)
        });
    let setup = Setup {
        hours: hours.into(),
        sites: sites.collect(),
        ..Setup::default()
    };
    let late = scene
        .offices
        .iter()
        .any(|office| office.life.jumbled || office.life.cloned.is_some());
    let mut player = Player {
        detector: Detector::new(setup),
        memory: Memory {
            keeps: late,
            ..Memory::default()
        },
        played: Played {
            incidents: BTreeMap::new(),
            pages: Vec::new(),
            guesses: BTreeMap::new(),
            sights: BTreeMap::new(),
            roaming: Vec::new(),
            named: None,
            thing_named: None,
            samples: 0,
            spent: Duration::ZERO,
        },
    };
    let mut arrived = Vec::new();
    for second in 0..scene.seconds {
        if scene.stalls.iter().any(|stall| stall.contains(&second)) {
            // Agents keep what they have; what they would have sent now comes later.
            for office in &mut scene.offices {
                office.hold(second);
            }
            continue;
        }
        for office in &mut scene.offices {
            office.second(second, &mut arrived);
            for one in arrived.drain(..) {
                if player.memory.keeps {
                    player.memory.keep(office, &one);
                }
                player.played.samples += one.heartbeat.samples.len() as u64;
                let event = Event::Heartbeat {
                    office: &office.code,
                    agent: &office.agent,
                    boot: one.boot,
                    heartbeat: &one.heartbeat,
                    arrival: at(second),
                };
                player.take(second, &event)?;
            }
        }
        player.take(second, &Event::Tick { now: at(second) })?;
    }
    player.played.roaming = player.detector.roaming();
    player.played.incidents = player.memory.incidents;
    Ok(player.played)
}
