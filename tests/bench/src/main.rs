//! tests/bench/run: the store's figures, each beside its limit, and beside its peers on the same samples.

mod engine;
mod measure;
mod peers;
mod workload;

use anyhow::{Context, ensure};
use clap::{Parser, Subcommand};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};
use std::process::{Child, Command as Process, Stdio};
use std::time::Duration;

/// Measures the store: each phase in a process of its own, the peers in the same run. Prints a table, and writes the same as JSON.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// Agents of six links each
    #[arg(long, default_value_t = 8_000)]
    agents: usize,
    /// Hours of samples, one every 10 s
    #[arg(long, default_value_t = 24)]
    hours: i64,
    /// Agents whose samples go through the peers, and through the store again beside them
    #[arg(long, default_value_t = 800)]
    peer_agents: usize,
    /// Seconds of calm load
    #[arg(long, default_value_t = 120)]
    calm: u64,
    /// Simulated days under the default retention
    #[arg(long, default_value_t = 480)]
    days: i64,
    /// Where everything is written meanwhile: a folder on the disk that is to be measured
    #[arg(long, default_value = "target/bench")]
    folder: PathBuf,
    /// The results as JSON
    #[arg(long, default_value = "target/bench.json")]
    json: PathBuf,
    /// Only these phases; all when left out
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Phase>,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Phase {
    /// A day at full speed, and what it takes at rest
    Ingest,
    /// What a calm load writes
    Calm,
    /// A start after kill -9
    Restart,
    /// A year under the default retention
    Year,
    /// Memory of an idle link
    Idle,
    /// VictoriaMetrics and Prometheus
    Peers,
}

#[derive(Subcommand)]
#[command(hide = true)]
enum Command {
    Ingest {
        folder: PathBuf,
        agents: usize,
        hours: i64,
        samples_each: usize,
        #[arg(action = clap::ArgAction::Set)]
        decode: bool,
    },
    Calm {
        folder: PathBuf,
        agents: usize,
        seconds: u64,
    },
    Restart {
        folder: PathBuf,
    },
    Year {
        folder: PathBuf,
        agents: usize,
        days: i64,
    },
    Idle {
        folder: PathBuf,
        agents: usize,
    },
}

/// One line of the table.
#[derive(Debug, Serialize)]
struct Figure {
    name: String,
    measured: f64,
    unit: &'static str,
    /// At most this, or at least if `least`.
    limit: f64,
    least: bool,
    reached: bool,
}

#[derive(Default)]
struct Table(Vec<Figure>);

impl Table {
    fn most(&mut self, name: &str, measured: f64, unit: &'static str, limit: f64) {
        self.add(name, measured, unit, limit, false);
    }

    fn least(&mut self, name: &str, measured: f64, unit: &'static str, limit: f64) {
        self.add(name, measured, unit, limit, true);
    }

    fn add(&mut self, name: &str, measured: f64, unit: &'static str, limit: f64, least: bool) {
        let reached = if least {
            measured >= limit
        } else {
            measured <= limit
        };
        let sign = if least { '≥' } else { '≤' };
        println!(
            "{:<58} {measured:>9.3} {unit:<14} {sign} {limit:<8} {}",
            name,
            if reached { "yes" } else { "NO" }
        );
        self.0.push(Figure {
            name: name.to_owned(),
            measured,
            unit,
            limit,
            least,
            reached,
        });
    }
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let Some(command) = &arguments.command else {
        // The client wants one, though all it speaks to is on loopback. An error means that there is one.
        rustls::crypto::ring::default_provider()
            .install_default()
            .ok();
        return run(&arguments);
    };
    let result = match command {
        Command::Ingest {
            folder,
            agents,
            hours,
            samples_each,
            decode,
        } => serde_json::to_value(engine::ingest(
            folder,
            *agents,
            *hours,
            *samples_each,
            *decode,
        )?)?,
        Command::Calm {
            folder,
            agents,
            seconds,
        } => serde_json::to_value(engine::calm(folder, *agents, *seconds)?)?,
        Command::Restart { folder } => serde_json::to_value(engine::restart(folder)?)?,
        Command::Year {
            folder,
            agents,
            days,
        } => serde_json::to_value(engine::year(folder, *agents, *days)?)?,
        Command::Idle { folder, agents } => serde_json::to_value(engine::idle(folder, *agents)?)?,
    };
    println!("{result}");
    Ok(())
}

/// What the process is charged for. Not held against a limit: a system with large folios charges the whole folio for a write of a few bytes (1 MiB for the
/// 72 bytes of a checkpoint were seen), and the disk writes only the blocks that changed.
fn counted(bytes: u64, samples: f64) {
    println!(
        "  (the process is charged {:.3} B/sample)",
        bytes as f64 / samples
    );
}

fn spawn(arguments: &[&str]) -> anyhow::Result<Child> {
    let child = Process::new(std::env::current_exe()?)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    Ok(child)
}

/// Runs a phase in a process of its own.
fn phase<T: DeserializeOwned>(arguments: &[&str]) -> anyhow::Result<T> {
    let output = spawn(arguments)?.wait_with_output()?;
    ensure!(output.status.success(), "the phase {arguments:?} failed");
    serde_json::from_slice(&output.stdout).with_context(|| format!("the phase {arguments:?}"))
}

fn fresh(folder: &Path) -> anyhow::Result<()> {
    if folder.exists() {
        std::fs::remove_dir_all(folder)?;
    }
    std::fs::create_dir_all(folder)?;
    Ok(())
}

#[allow(
    clippy::too_many_lines,
    reason = "the phases and their limits, one after another"
)]
fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let mut table = Table::default();
    let mut phases = serde_json::Map::new();
    let text = |path: PathBuf| {
        path.to_str()
            .map(str::to_owned)
            .context("the folder's name is not text")
    };
    let (agents, hours) = (arguments.agents.to_string(), arguments.hours.to_string());
    let links = arguments.agents * workload::TARGETS.len();
    let mega = 1e6;
    println!(
        "{links} links, one sample each 10 s, {hours} h: {} million samples\n",
        links as u64 * arguments.hours.unsigned_abs() * 360 / 1_000_000
    );

    let wanted = |phase| arguments.only.is_empty() || arguments.only.contains(&phase);
    if wanted(Phase::Ingest) {
        // Backfill: heartbeats of five minutes, as agents deliver what they had stored.
        for (what, each) in [
            ("backfill (30 samples a target and heartbeat)", 30),
            ("live (1 sample a target and heartbeat)", 1),
        ] {
            fresh(&arguments.folder)?;
            let folder = text(arguments.folder.join("ingest"))?;
            let found: engine::Ingest = phase(&[
                "ingest",
                &folder,
                &agents,
                &hours,
                &each.to_string(),
                "false",
            ])?;
            let samples = found.samples as f64;
            println!(
                "Full speed, {what}: {:.1} s, commit p50 {:.1} ms, p99 {:.1} ms, log {:.2} B/sample",
                found.seconds, found.commit_p50_ms, found.commit_p99_ms, found.log_bytes_per_sample
            );
            table.least(
                "  durable ingest, day's blocks made",
                samples / found.cpu_seconds / mega,
                "M samples/s/core",
                3.0,
            );
            counted(found.written_by_process, samples);
            table.most(
                "  written to disk",
                found.written_to_disk as f64 / samples,
                "B/sample",
                12.0,
            );
            table.most(
                "  peak memory",
                found.peak_rss as f64 / 1_048_576.0,
                "MiB",
                600.0,
            );
            table.most(
                "  24 h of one link, p99, meanwhile",
                found.day_p99_ms,
                "ms",
                5.0,
            );
            table.most(
                "  now of all links, p99, meanwhile",
                found.now_p99_ms,
                "ms",
                50.0,
            );
            if each == 1 {
                println!(
                    "At rest (the entropy of these samples is {:.2} B)",
                    found.entropy_bytes_per_sample
                );
                table.most("  sealed", found.sealed_bytes_per_sample, "B/sample", 1.75);
                table.most(
                    "  on disk, all in but the log",
                    found.disk_bytes_per_sample,
                    "B/sample",
                    2.0,
                );
            }
            phases.insert(format!("ingest_{each}"), serde_json::to_value(&found)?);
        }
    }
    if wanted(Phase::Calm) {
        println!(
            "Calm: {} samples/s in real time, a commit every 100 ms",
            links / 10
        );
        fresh(&arguments.folder)?;
        let folder = text(arguments.folder.join("calm"))?;
        let found: engine::Calm = phase(&["calm", &folder, &agents, &arguments.calm.to_string()])?;
        let samples = found.samples as f64;
        counted(found.written_by_process, samples);
        table.most(
            "  written to disk",
            found.written_to_disk as f64 / samples,
            "B/sample",
            30.0,
        );
        phases.insert("calm".into(), serde_json::to_value(&found)?);
    }
    if wanted(Phase::Restart) {
        println!("After kill -9 in the middle of that");
        fresh(&arguments.folder)?;
        let folder = text(arguments.folder.join("killed"))?;
        let mut child = spawn(&["calm", &folder, &agents, "3600"])?;
        std::thread::sleep(Duration::from_secs(45));
        child.kill()?;
        child.wait()?;
        let found: engine::Restart = phase(&["restart", &folder])?;
        table.most("  ready", found.seconds, "s", 2.0);
        println!(
            "  ({:.1} million samples of log read again)",
            found.replayed_samples as f64 / mega
        );
        phases.insert("restart".into(), serde_json::to_value(&found)?);
    }
    if wanted(Phase::Year) {
        println!(
            "{} simulated days of 12 links under the default retention",
            arguments.days
        );
        fresh(&arguments.folder)?;
        let folder = text(arguments.folder.join("year"))?;
        let found: engine::Year = phase(&["year", &folder, "2", &arguments.days.to_string()])?;
        let sizes: Vec<String> = found
            .curve
            .iter()
            .map(|(day, fine, all)| format!("{day}: {} of {} KiB", fine >> 10, all >> 10))
            .collect();
        println!(
            "  samples and minutes, of all, by day: {}",
            sizes.join(", ")
        );
        let horizon: Vec<f64> = found
            .curve
            .iter()
            .filter(|(day, ..)| *day > 400)
            .map(|(_, fine, _)| *fine as f64)
            .collect();
        if let (Some(first), Some(last)) = (horizon.first(), horizon.last()) {
            table.most(
                "  growth after the horizon (day 400), samples and minutes",
                last / first,
                "times",
                1.02,
            );
        }
        table.most(
            "  a year of one link by days, p99",
            found.by_day_p99_ms,
            "ms",
            20.0,
        );
        table.most(
            "  a year of one link by hours, p99",
            found.by_hour_p99_ms,
            "ms",
            20.0,
        );
        phases.insert("year".into(), serde_json::to_value(&found)?);
    }
    if wanted(Phase::Idle) {
        fresh(&arguments.folder)?;
        let folder = text(arguments.folder.join("idle"))?;
        let idle: f64 = phase(&["idle", &folder, "8000"])?;
        table.most("Memory of an idle link", idle, "B", 1024.0);
    }
    if wanted(Phase::Peers) {
        let peer_agents = arguments.peer_agents;
        println!(
            "The same samples of {} links through its peers, {} of a link at once (ours decodes the heartbeats here, as theirs do)",
            peer_agents * workload::TARGETS.len(),
            peers::STEPS
        );
        fresh(&arguments.folder)?;
        let folder = text(arguments.folder.join("ours"))?;
        let ours: engine::Ingest = phase(&[
            "ingest",
            &folder,
            &peer_agents.to_string(),
            &hours,
            &peers::STEPS.to_string(),
            "true",
        ])?;
        let (our_speed, our_bytes) = (
            ours.samples as f64 / ours.cpu_seconds / mega,
            ours.disk_bytes_per_sample,
        );
        println!(
            "  denyut                {our_speed:>8.3} M samples/s/core  {our_bytes:>7.3} B/sample at rest"
        );
        for peer in [
            peers::victoria_metrics(peer_agents, arguments.hours)?,
            peers::prometheus(peer_agents, arguments.hours)?,
        ] {
            let speed = peer.samples as f64 / peer.cpu_seconds / mega;
            let bytes = peer.bytes_at_rest as f64 / peer.samples as f64;
            println!(
                "  {:<20}  {speed:>8.3} M samples/s/core  {bytes:>7.3} B/sample at rest  ({})",
                peer.name, peer.version
            );
            table.least(
                &format!("  speed beside {}", peer.name),
                our_speed / speed,
                "times",
                1.0,
            );
            table.most(
                &format!("  bytes beside {}", peer.name),
                our_bytes / bytes,
                "times",
                1.0,
            );
            phases.insert(peer.name.clone(), serde_json::to_value(&peer)?);
        }
        phases.insert("ours_beside_peers".into(), serde_json::to_value(&ours)?);
    }
    fresh(&arguments.folder)?;

    let missed = table.0.iter().filter(|figure| !figure.reached).count();
    let results = serde_json::json!({"figures": table.0, "phases": phases});
    std::fs::write(&arguments.json, serde_json::to_vec_pretty(&results)?)?;
    println!(
        "\n{} of {} limits kept; all of it as JSON: {}",
        table.0.len() - missed,
        table.0.len(),
        arguments.json.display()
    );
    Ok(())
}
