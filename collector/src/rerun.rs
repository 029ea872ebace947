//! `replay` and `redetect`: the detector over what is past, a recorded history or the collector's own.

use crate::care::existing;
use crate::claim_data_dir;
use crate::clock::Clock;
use crate::config::Config;
use crate::events::Bus;
use crate::metrics::Metrics;
use crate::worker::Worker;
use anyhow::{Context, bail};
use denyut_detect::recorded::{self, Recorded, State};
use denyut_detect::{Incident, Setup};
use denyut_proto::{
    AgentId, BootId, Heartbeat, HttpExpectation, OfficeCode, Outcome, Reason, Role, Sample, Target,
    TargetSamples, UnixMillis, wire,
};
use denyut_store::Store;
use denyut_store::log::{Body, Entry, Log};
use denyut_store::state::scan_json;
use prost::Message;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// From probe to probe, in seconds: between the lines of the file the last state holds.
const EVERY: i64 = 60;
/// So long after a change each probe is told by itself, so that incidents and pages come when they would; else as many at once as fill this time.
const CLOSELY: i64 = 900;
/// The longest history that is replayed, in seconds.
const SPAN_MOST: i64 = 800 * 86_400;

fn worker(store: &Store, setup: Setup) -> anyhow::Result<Worker> {
    let (log, history, state) = (
        Arc::clone(&store.log),
        Arc::clone(&store.history),
        Arc::clone(&store.state),
    );
    Worker::restore(
        log,
        history,
        state,
        store.replay_from,
        setup,
        Arc::new(Bus::new()),
        Arc::new(Metrics::new()),
    )
}

/// One recorded site, as an office with one agent.
struct Recording<'a> {
    site: &'a str,
    office: OfficeCode,
    agent: AgentId,
    checks: &'a [recorded::Check],
    /// The next check, and up to when everything was told.
    next: usize,
    told: i64,
    seq: u64,
}

impl Recording<'_> {
    /// What it says at this time, if it has to say something.
    fn heartbeat(&mut self, now: i64, end: i64) -> anyhow::Result<Option<Body>> {
        let (Some(first), Some(last)) = (self.checks.first(), self.checks.last()) else {
            return Ok(None);
        };
        while self
            .checks
            .get(self.next)
            .is_some_and(|check| check.at_s <= now)
        {
            self.next += 1;
        }
        let changed = self.next.checked_sub(1).map(|at| self.checks[at].at_s);
        let Some(changed) = changed.filter(|_| now >= first.at_s && now <= last.at_s + CLOSELY)
        else {
            return Ok(None);
        };
        if now - changed > CLOSELY && now - self.told < CLOSELY && now < end {
            return Ok(None);
        }
        let mut samples = Vec::new();
        let mut at = self.told.max(first.at_s - 1) / EVERY * EVERY + EVERY;
        while at <= now {
            let place = self.checks.partition_point(|check| check.at_s <= at);
            if let Some(check) = place.checked_sub(1).map(|place| self.checks[place]) {
                let outcome = match check.state {
                    State::Up | State::Degraded => Outcome::Ok { rtt_us: 1_000 },
                    State::Down => Outcome::Failed(Reason::Timeout.into()),
                };
                samples.push(Sample {
                    at: UnixMillis(at * 1_000),
                    outcome,
                });
            }
            at += EVERY;
        }
        self.told = now;
        if samples.is_empty() {
            return Ok(None);
        }
        self.seq += 1;
        let interval = Duration::from_secs(EVERY.unsigned_abs());
        let probe = "tcp://127.0.0.1:1".parse()?;
        let target = Target::new(
            "server".parse()?,
            Role::Server,
            probe,
            interval,
            interval,
            HttpExpectation::default(),
        )?;
        let heartbeat = Heartbeat {
            at: UnixMillis(now * 1_000),
            uptime: Duration::from_secs(now.unsigned_abs()),
            started: Duration::ZERO,
            interval: Duration::from_secs(3_600),
            samples: vec![TargetSamples {
                target: target.name.clone(),
                samples,
            }],
            targets: (self.seq == 1).then(|| vec![target]),
            goodbye: None,
            gateway: None,
            shown: Vec::new(),
            path: None,
        };
        Ok(Some(Body::Heartbeat(Entry {
            office: self.office.clone(),
            agent: self.agent.clone(),
            boot: BootId([1; 16]),
            seq: self.seq,
            heartbeat: wire::Heartbeat::from(&heartbeat).encode_to_vec().into(),
            shift_ms: 0,
            decoded: OnceLock::new(),
        })))
    }
}

/// Feeds a recorded history through log, worker and detector, and prints the incidents. `config`: whose thresholds, calendar and offices count.
pub(crate) fn replay(csv: &Path, config: Option<&Path>, json: bool) -> anyhow::Result<()> {
    let file =
        std::fs::File::open(csv).with_context(|| format!("cannot read {}", csv.display()))?;
    let recorded = recorded::parse(file).with_context(|| csv.display().to_string())?;
    let mut setup = match config {
        Some(path) => Config::load(path)?.setup,
        None => Setup {
            hours: denyut_detect::calendar::Hours::parse("hours", "always")?.into(),
            ..Setup::default()
        },
    };
    let mut sites = recordings(&recorded, &mut setup)?;
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    let first = sites
        .iter()
        .filter_map(|site| site.checks.first())
        .map(|check| check.at_s)
        .min()
        .unwrap_or(0);
    let last = sites
        .iter()
        .filter_map(|site| site.checks.last())
        .map(|check| check.at_s)
        .max()
        .unwrap_or(0);
    if last - first > SPAN_MOST {
        bail!(
            "{}: it reaches over {} days; {} can be replayed at once",
            csv.display(),
            (last - first) / 86_400,
            SPAN_MOST / 86_400
        );
    }
    let store = Store::open(folder.path(), UnixMillis(first * 1_000))?;
    let mut worker = worker(&store, setup)?;
    let end = last + CLOSELY;
    let mut now = first / EVERY * EVERY;
    while now <= end {
        let mut bodies = Vec::new();
        for site in &mut sites {
            bodies.extend(site.heartbeat(now, last)?);
        }
        if !bodies.is_empty() {
            bodies.push(Body::Tick);
            store.log.append(UnixMillis(now * 1_000), bodies)?;
            worker.catch_up()?;
        }
        now += EVERY;
    }
    drop(worker);
    let names: BTreeMap<&OfficeCode, &str> =
        sites.iter().map(|site| (&site.office, site.site)).collect();
    let mut incidents: Vec<Incident> =
        scan_json::<Incident>(&*store.state, crate::keys::INCIDENTS)?
            .into_iter()
            .map(|(_, incident)| incident)
            .filter(|incident| !incident.retracted)
            .collect();
    incidents.sort_by_key(|incident| (incident.facts.opened_ms, incident.number));
    if json {
        println!("{}", serde_json::to_string(&incidents)?);
        return Ok(());
    }
    for incident in &incidents {
        let name = incident
            .office
            .as_ref()
            .and_then(|office| names.get(office))
            .map_or_else(|| incident.subject(), |name| (*name).to_owned());
        println!("{}", line(incident, &name));
    }
    let pages = incidents
        .iter()
        .filter(|incident| incident.paged_ms.is_some())
        .count();
    let relapses = incidents
        .iter()
        .filter(|incident| incident.facts.relapse.is_some())
        .count();
    println!(
        "{} incidents at {} sites, {relapses} of them relapses; somebody is called {pages} times",
        incidents.len(),
        sites.len()
    );
    Ok(())
}

/// The sites of a file: those that are named by the code of an office as that office, the others as offices of their own.
fn recordings<'a>(recorded: &'a Recorded, setup: &mut Setup) -> anyhow::Result<Vec<Recording<'a>>> {
    if recorded.len() > 9_999 {
        bail!(
            "the file holds {} sites; 9999 can be replayed at once",
            recorded.len()
        );
    }
    let mut all = Vec::new();
    for (i, (site, checks)) in recorded.iter().enumerate() {
        let own: Option<OfficeCode> = site
            .parse()
            .ok()
            .filter(|code| setup.sites.contains_key(code));
        let office = match own {
            Some(code) => code,
            None => format!("00.{:02}.{:02}", i / 100, i % 100).parse()?,
        };
        setup.sites.entry(office.clone()).or_default();
        setup.agents.clear();
        all.push(Recording {
            site,
            office,
            agent: format!("site-{i}").parse()?,
            checks,
            next: 0,
            told: 0,
            seq: 0,
        });
    }
    Ok(all)
}

/// An incident in a line.
fn line(incident: &Incident, name: &str) -> String {
    let facts = &incident.facts;
    let end = facts
        .resolved_ms
        .map_or_else(|| "open".to_owned(), |at| at.to_string());
    let lasted = facts.resolved_ms.map_or_else(String::new, |at| {
        format!(
            "  {}",
            humantime::format_duration(at.since(facts.opened_ms))
        )
    });
    let relapse = facts.relapse.map_or_else(String::new, |relapse| {
        let held = Duration::from_secs(relapse.held_ms / 1_000);
        format!(
            "  relapse {} (held {})",
            relapse.count,
            humantime::format_duration(held)
        )
    });
    let paged = incident
        .paged_ms
        .map_or_else(String::new, |at| format!("  called {at}"));
    format!(
        "#{:<5} {name}  {}  {} – {end}{lasted}{relapse}{paged}",
        incident.number,
        facts.cause.as_str(),
        facts.opened_ms
    )
}

/// Judges the collector's own past again, by this version and the thresholds of its configuration; prints what would change, and keeps it if `apply`.
pub(crate) fn redetect(mut config: Config, from: &str, apply: bool) -> anyhow::Result<()> {
    let date: Result<jiff::Timestamp, _> = from.parse();
    let day: Result<jiff::civil::Date, _> = from.parse();
    let from = match (date, day) {
        (Ok(at), _) => UnixMillis(at.as_millisecond()),
        (_, Ok(day)) => UnixMillis(
            day.to_zoned(jiff::tz::TimeZone::UTC)?
                .timestamp()
                .as_millisecond(),
        ),
        _ => bail!(
            "`--from` = `{from}`: not a moment; write it like `2026-11-01` or `2026-11-01T08:00:00+07:00`"
        ),
    };
    let data_dir = existing(&config.data_dir)?;
    let _lock = claim_data_dir(data_dir).context("this needs the collector stopped")?;
    let store = Store::open(data_dir, Clock::start().read().now)?;
    crate::register::enter_all(&config.registry, &*store.state, &config.common)?;
    config.setup.sites = config.registry.sites();
    if config.tls.is_some() {
        crate::join::enter_all(&config.registry, &*store.state)?;
        config.setup.agents = config.registry.agents();
    }
    let worker = worker(&store, config.setup)?;
    let processed = worker.processed();
    let changed = worker.redetect(from, apply)?;
    for (before, after) in &changed {
        let subject = after.subject();
        match before {
            None => println!("new      {}", line(after, &subject)),
            Some(_) if after.retracted => println!("none     {}", line(after, &subject)),
            Some(before) => {
                println!("was      {}", line(before, &subject));
                println!("becomes  {}", line(after, &subject));
            }
        }
    }
    let count = changed.len();
    if apply {
        store.checkpoint(processed.load(std::sync::atomic::Ordering::Acquire))?;
        println!("{count} incidents changed; each has a revision that says so.");
    } else {
        println!("{count} incidents would change; nothing was kept (--apply keeps it).");
    }
    Ok(())
}
