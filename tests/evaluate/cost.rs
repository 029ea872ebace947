//! What the detector costs, and what it makes of recorded histories.

use crate::office::ROLES;
use crate::score::{BASELINES, judge};
use anyhow::Context;
use clap::Args;
use denyut_detect::detector::Sight;
use denyut_detect::link::Fold;
use denyut_detect::office::PatternKind;
use denyut_detect::recorded::{Recorded, State};
use denyut_detect::{Archive, Detector, Event, Incident, Setup, Site};
use denyut_proto::{
    AgentId, BootId, Heartbeat, LinkId, OfficeCode, Outcome, Reason, Sample, TargetSamples,
    UnixMillis,
};
use nix::unistd::{SysconfVar, sysconf};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// An archive of incidents, for samples that never come late.
#[derive(Default)]
struct Incidents(BTreeMap<u64, Incident>);

impl Archive for Incidents {
    fn fold(&self, _: &LinkId, _: i64) -> anyhow::Result<Option<(i64, Fold)>> {
        Ok(None)
    }
    fn incident(&self, number: u64) -> anyhow::Result<Incident> {
        let incident = self.0.get(&number).cloned();
        incident.with_context(|| format!("there is no incident {number}"))
    }

    fn kept_from(&self) -> UnixMillis {
        UnixMillis(i64::MIN)
    }

    fn samples(
        &self,
        _: &LinkId,
        _: UnixMillis,
        _: UnixMillis,
        _: &mut dyn FnMut(Sample),
    ) -> anyhow::Result<()> {
        Ok(())
    }
}

/// Of ten seconds, for which a server is down, and of a month.
const ROUNDS_DOWN: i64 = 12;
const ROUNDS_OF_MONTH: i64 = 259_200;
/// In failures: a prime, so that those of one regency are spread over the month.
const NEIGHBOURS_APART: i64 = 1_597;

#[derive(Args)]
pub(crate) struct Cost {
    /// Links, six to an office
    #[arg(long, default_value_t = 50_000)]
    links: usize,
    /// Minutes of every ten seconds that are played, up to 34 days
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(i64).range(1..=48_960))]
    minutes: i64,
    /// Two minutes without the server, so often in a month at each office; recorded histories have it about once
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(i64).range(1..=1_000))]
    failures: i64,
    /// Every way out fails at once for the five minutes after the tenth
    #[arg(long)]
    burst: bool,
}

/// The resident memory of this process, in bytes.
fn resident() -> anyhow::Result<u64> {
    let text = std::fs::read_to_string("/proc/self/statm")?;
    let pages: u64 = text.split_whitespace().nth(1).unwrap_or_default().parse()?;
    let page = sysconf(SysconfVar::PAGE_SIZE)?.context("no page size")?;
    Ok(pages * u64::try_from(page)?)
}

impl Cost {
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        let offices = self.links / 6;
        let codes: Vec<(OfficeCode, AgentId)> = (0..offices)
            .map(|i| {
                Ok((
                    format!("{:02}.{:02}.{:02}", 11 + i / 2_500, i / 25 % 100, i % 25).parse()?,
                    format!("agent-{i}").parse()?,
                ))
            })
            .collect::<anyhow::Result<_>>()?;
        let sites = codes
            .iter()
            .map(|(code, _)| (code.clone(), Site::default()))
            .collect();
        let before = resident()?;
        let mut detector = Detector::new(Setup {
            sites,
            ..Setup::default()
        });
        let names = ["gateway", "server", "page", "uplink", "dns", "central"];
        let start = 1_772_416_800_000_i64;
        let mut heartbeat = Heartbeat {
            at: UnixMillis(start),
            uptime: Duration::from_secs(1_000),
            started: Duration::ZERO,
            interval: Duration::from_secs(10),
            samples: Vec::new(),
            targets: None,
            goodbye: None,
            gateway: None,
            shown: Vec::new(),
            path: None,
        };
        for name in names {
            heartbeat.samples.push(TargetSamples {
                target: name.parse()?,
                samples: vec![Sample {
                    at: UnixMillis(start),
                    outcome: Outcome::Ok { rtt_us: 1 },
                }],
            });
        }
        // Each office is down once in so many times.
        let apart = ROUNDS_OF_MONTH / ROUNDS_DOWN / self.failures;
        let (mut taken, mut ticked, mut samples) = (Duration::ZERO, Duration::ZERO, 0_u64);
        let mut longest = Duration::ZERO;
        let nothing = Incidents::default();
        for round in 0..self.minutes * 6 {
            for (i, (office, agent)) in codes.iter().enumerate() {
                let now = UnixMillis(
                    start + round * 10_000 + i64::try_from(i * 10_000 / offices.max(1))?,
                );
                heartbeat.at = now;
                let turn = i64::try_from(i)? * NEIGHBOURS_APART;
                let bad = (turn + round / ROUNDS_DOWN) % apart == 0;
                let burst = self.burst && (60..90).contains(&round);
                for (n, target) in heartbeat.samples.iter_mut().enumerate() {
                    let noise =
                        u32::try_from((i * 31 + usize::try_from(round)? * 17 + n * 7) % 4_000)?;
                    let outcome = if bad && n == 1 || burst && n == 3 {
                        Outcome::Failed(Reason::Timeout.into())
                    } else {
                        Outcome::Ok {
                            rtt_us: 10_000 + noise,
                        }
                    };
                    target.samples[0] = Sample { at: now, outcome };
                }
                let event = Event::Heartbeat {
                    office,
                    agent,
                    boot: BootId([1; 16]),
                    heartbeat: &heartbeat,
                    arrival: now,
                };
                let began = Instant::now();
                std::hint::black_box(detector.step(&event, &nothing)?);
                taken += began.elapsed();
                samples += names.len() as u64;
                if i % (offices / 10).max(1) == 0 {
                    let began = Instant::now();
                    while detector.step(&Event::Tick { now }, &nothing)?.more {}
                    ticked += began.elapsed();
                    longest = longest.max(began.elapsed());
                }
            }
        }
        let links = (offices * names.len()) as f64;
        let bytes = (resident()? - before) as f64 / links;
        println!(
            "{links:.0} links, {samples} samples, {} incidents",
            detector.held_count()
        );
        println!("{:.3} s in the longest tick", longest.as_secs_f64());
        report(taken, ticked, samples, bytes);
        Ok(())
    }
}

fn report(taken: Duration, ticked: Duration, samples: u64, bytes: f64) {
    let month = 7_290.0 * 6.0 * 259_200.0;
    let each = (taken + ticked).as_nanos() as f64 / samples as f64;
    println!(
        "{each:.0} ns per sample, of it {:.0} in ticks (limit 200)",
        ticked.as_nanos() as f64 / samples as f64
    );
    println!("{bytes:.0} bytes per link (limit 1536)");
    println!(
        "a national month of {month:.2e} samples: {:.1} min on one core (limit 30)",
        month * each / 60e9
    );
}

#[derive(Args)]
pub(crate) struct RecordedRun {
    /// A CSV file with the columns unix_s,site,state,http_status,latency_ms (state: up, degraded or down)
    csv: PathBuf,
    /// Seconds from probe to probe; between lines the last state holds
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(i64).range(1..=3_600))]
    interval: i64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl RecordedRun {
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        let recorded = crate::read(&self.csv)?;
        let first = recorded
            .values()
            .filter_map(|checks| checks.first())
            .map(|check| check.at_s)
            .min()
            .unwrap_or(0);
        let last = recorded
            .values()
            .filter_map(|checks| checks.last())
            .map(|check| check.at_s)
            .max()
            .unwrap_or(0);
        // All of one pool, so that every pair is watched.
        let site = Site {
            pool: Some("recorded".into()),
            ..Site::default()
        };
        let codes: Vec<(OfficeCode, AgentId)> = (0..recorded.len())
            .map(|i| {
                Ok((
                    format!("00.{:02}.{:02}", i / 100, i % 100).parse()?,
                    format!("site-{i}").parse()?,
                ))
            })
            .collect::<anyhow::Result<_>>()?;
        let hours = denyut_detect::calendar::Hours::parse("hours", "always")?;
        let sites = codes
            .iter()
            .map(|(code, _)| (code.clone(), site.clone()))
            .collect();
        let mut detector = Detector::new(Setup {
            sites,
            hours: hours.into(),
            ..Setup::default()
        });
        let mut places = vec![0_usize; recorded.len()];
        let mut found = Found::default();
        let mut at_s = first;
        while at_s <= last + 120 {
            let now = UnixMillis(at_s * 1_000);
            for (i, checks) in recorded.values().enumerate() {
                while checks
                    .get(places[i])
                    .is_some_and(|check| check.at_s <= at_s)
                {
                    places[i] += 1;
                }
                let Some(check) = places[i].checked_sub(1).map(|last| checks[last]) else {
                    continue;
                };
                let outcome = if check.state == State::Down {
                    Outcome::Failed(Reason::Timeout.into())
                } else {
                    Outcome::Ok { rtt_us: 1_000 }
                };
                let heartbeat = Heartbeat {
                    at: now,
                    uptime: Duration::from_secs(1_000),
                    started: Duration::ZERO,
                    interval: Duration::from_secs(self.interval.unsigned_abs()),
                    samples: vec![TargetSamples {
                        target: ROLES[1].0.parse()?,
                        samples: vec![Sample { at: now, outcome }],
                    }],
                    targets: None,
                    goodbye: None,
                    gateway: None,
                    shown: Vec::new(),
                    path: None,
                };
                let (office, agent) = &codes[i];
                let event = Event::Heartbeat {
                    office,
                    agent,
                    boot: BootId([1; 16]),
                    heartbeat: &heartbeat,
                    arrival: now,
                };
                detector.step(&event, &found.incidents)?;
            }
            found.tick(&mut detector, now)?;
            at_s += self.interval;
        }
        let days = (last - first) as f64 / 86_400.0;
        let numbers = found.numbers(&recorded, days, detector.roaming().len());
        if self.json {
            println!(
                "{}",
                serde_json::to_string(&numbers.into_iter().collect::<BTreeMap<_, _>>())?
            );
        } else {
            for (name, value) in &numbers {
                println!("{name:<32} {value:.0}");
            }
        }
        Ok(())
    }
}

/// What the detector made of a recorded history.
#[derive(Default)]
struct Found {
    incidents: Incidents,
    sights: BTreeMap<OfficeCode, Sight>,
    pages: usize,
}

impl Found {
    fn tick(&mut self, detector: &mut Detector, now: UnixMillis) -> anyhow::Result<()> {
        loop {
            let step = detector.step(&Event::Tick { now }, &self.incidents)?;
            self.pages += step.pages.len();
            self.incidents.0.extend(step.incidents);
            for code in step.sights {
                self.sights.extend(
                    detector
                        .sight(&code)
                        .map(|sight| (code.clone(), sight.clone())),
                );
            }
            if !step.more {
                return Ok(());
            }
        }
    }

    fn numbers(&self, recorded: &Recorded, days: f64, groups: usize) -> Vec<(String, f64)> {
        let real = || {
            let incidents = self.incidents.0.values();
            incidents.filter(|incident| !incident.retracted)
        };
        let of = |kind: PatternKind| {
            self.sights
                .values()
                .flat_map(|sight| &sight.patterns)
                .filter(|pattern| pattern.kind == kind)
                .count()
        };
        let mut numbers: Vec<(String, f64)> = vec![
            ("sites".into(), recorded.len() as f64),
            ("days".into(), days),
            (
                "incidents".into(),
                real().filter(|incident| incident.office.is_some()).count() as f64,
            ),
            (
                "relapses".into(),
                real()
                    .filter(|incident| incident.facts.relapse.is_some())
                    .count() as f64,
            ),
            (
                "common causes".into(),
                real().filter(|incident| incident.office.is_none()).count() as f64,
            ),
            ("roaming pairs".into(), groups as f64),
            (
                "flapping, last 36 days".into(),
                of(PatternKind::Flapping) as f64,
            ),
            (
                "relapse episodes, last 36 days".into(),
                of(PatternKind::Relapse) as f64,
            ),
            ("pages".into(), self.pages as f64),
        ];
        for name in BASELINES {
            let starts: usize = recorded
                .values()
                .map(|checks| {
                    judge(name, checks)
                        .iter()
                        .filter(|turn| turn.begins)
                        .count()
                })
                .sum();
            numbers.push((format!("{name}: starts"), starts as f64));
        }
        numbers
    }
}
