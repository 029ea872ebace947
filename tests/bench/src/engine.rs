//! Our own store under load. Each phase is a process of its own, so that its memory, CPU and writes are its own.

use crate::measure::{
    cpu_of, cpu_of_thread, disk_usage, memory, quantile, written_by_process, written_to_disk,
};
use crate::workload::{self, Nation, START_MS, STEP_MS, TARGETS};
use anyhow::Context;
use bytes::BytesMut;
use denyut_proto::{AgentId, BootId, Heartbeat, OfficeCode, UnixMillis, wire};
use denyut_store::Store;
use denyut_store::history::{History, LinkId, Retention};
use denyut_store::log::{Appended, Body, Entry, Log, Position};
use prost::Message;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// What is kept, by default.
pub(crate) const KEEP: Retention = Retention {
    raw: Duration::from_secs(35 * 86_400),
    minute: Duration::from_secs(400 * 86_400),
    hour: None,
    day: None,
    bytes: None,
};
/// Heartbeats handed from the generator to the store at once.
const BATCH: usize = 512;
/// As the collector does it.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(10);
const COMMIT_EVERY: Duration = Duration::from_millis(100);

/// What an ingest phase came to.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Ingest {
    pub(crate) samples: u64,
    pub(crate) seconds: f64,
    /// CPU of everything but the generator.
    pub(crate) cpu_seconds: f64,
    pub(crate) log_bytes_per_sample: f64,
    pub(crate) written_by_process: u64,
    pub(crate) written_to_disk: u64,
    pub(crate) peak_rss: u64,
    pub(crate) commit_p50_ms: f64,
    pub(crate) commit_p99_ms: f64,
    /// 24 h of one link, a year of one link in days, the latest of all links: while ingest ran.
    pub(crate) day_p50_ms: f64,
    pub(crate) day_p99_ms: f64,
    pub(crate) now_p99_ms: f64,
    /// Bytes of the blocks of samples, over the samples in them.
    pub(crate) sealed_bytes_per_sample: f64,
    /// Everything in the folder but the log, over the samples in blocks.
    pub(crate) disk_bytes_per_sample: f64,
    pub(crate) rollup_bytes_per_sample: f64,
    pub(crate) entropy_bytes_per_sample: f64,
}

/// Entries for the log, and the same decoded. In the collector ingest has decoded them by then; making and freeing both is the generator's work.
#[derive(Default)]
struct Batch {
    entries: Vec<Entry>,
    decoded: Vec<(AgentId, Heartbeat)>,
}

/// A generator thread.
struct Generator {
    batches: Receiver<Batch>,
    used: SyncSender<Vec<(AgentId, Heartbeat)>>,
    thread: std::thread::JoinHandle<(Nation, Duration)>,
}

/// `samples_each`: samples of a target in one heartbeat.
fn generate(mut nation: Nation, steps: i64, samples_each: usize) -> Generator {
    let (send, batches) = sync_channel(8);
    let (used, back) = sync_channel::<Vec<(AgentId, Heartbeat)>>(64);
    let work = move || {
        let names: Vec<AgentId> = (0..nation.agents())
            .map(|agent| workload::agent_name(agent).parse().expect("an id"))
            .collect();
        let boot = |agent: usize| {
            BootId(
                (agent as u128)
                    .wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)
                    .to_be_bytes(),
            )
        };
        let offices: Vec<OfficeCode> = (0..nation.agents())
            .map(|agent| {
                format!("36.{:02}.{:02}", agent / 100 % 100, agent % 100)
                    .parse()
                    .expect("a code")
            })
            .collect();
        let mut batch = Batch::default();
        let mut spare: Vec<(AgentId, Heartbeat)> = Vec::new();
        // What an agent will say next.
        let mut open: Vec<Option<Heartbeat>> = (0..nation.agents()).map(|_| None).collect();
        // Heartbeats come as parts of what was read from a connection at once.
        let mut wire = BytesMut::new();
        for _ in 0..steps {
            let step = nation.steps();
            let seq = step.unsigned_abs() / samples_each as u64 + 1;
            nation.step(|agent, samples| {
                let heartbeat = open[agent].get_or_insert_with(|| {
                    if spare.is_empty() {
                        spare = back.try_recv().unwrap_or_default();
                    }
                    let mut heartbeat = spare
                        .pop()
                        .map_or_else(|| workload::heartbeat(&samples), |(_, spare)| spare);
                    heartbeat
                        .samples
                        .iter_mut()
                        .for_each(|target| target.samples.clear());
                    heartbeat
                });
                workload::add(heartbeat, &samples);
                if heartbeat.samples[0].samples.len() < samples_each {
                    return;
                }
                let Some(heartbeat) = open[agent].take() else {
                    return;
                };
                workload::encode(&heartbeat, &mut wire);
                batch.entries.push(Entry {
                    office: offices[agent].clone(),
                    agent: names[agent].clone(),
                    boot: boot(agent),
                    seq,
                    heartbeat: wire.split().freeze(),
                    shift_ms: 0,
                    decoded: OnceLock::new(),
                });
                if wire.capacity() < 8 * 1024 {
                    wire = BytesMut::with_capacity(64 * 1024);
                }
                batch.decoded.push((names[agent].clone(), heartbeat));
                if batch.entries.len() == BATCH {
                    // Should the store have gone away, it has an error to tell.
                    send.send(std::mem::take(&mut batch)).ok();
                }
            });
        }
        send.send(batch).ok();
        (nation, cpu_of_thread())
    };
    let thread = std::thread::Builder::new()
        .name("generator".into())
        .spawn(work)
        .expect("a thread");
    Generator {
        batches,
        used,
        thread,
    }
}

/// Appends a group to log and history.
fn take(
    store: &Store,
    used: &SyncSender<Vec<(AgentId, Heartbeat)>>,
    group: Batch,
    decode: bool,
) -> anyhow::Result<(u64, Duration)> {
    if decode {
        for entry in &group.entries {
            std::hint::black_box(Heartbeat::try_from(wire::Heartbeat::decode(
                entry.heartbeat.clone(),
            )?)?);
        }
    }
    let first = store.log.end() + 1;
    let began = Instant::now();
    let appended = store.log.append(
        UnixMillis(START_MS),
        group.entries.into_iter().map(Body::Heartbeat).collect(),
    )?;
    let commit = began.elapsed();
    anyhow::ensure!(
        appended.iter().all(|appended| *appended == Appended::New),
        "every heartbeat is new"
    );
    let mut samples = 0;
    for (position, (agent, heartbeat)) in (first..).zip(&group.decoded) {
        store.history.append(position, agent, &heartbeat.samples)?;
        samples += heartbeat
            .samples
            .iter()
            .map(|target| target.samples.len() as u64)
            .sum::<u64>();
    }
    used.try_send(group.decoded).ok();
    Ok((samples, commit))
}

/// Ingests `hours` of `agents` as fast as it goes, with commits every 100 ms, checkpoints, and the day's blocks at its end.
pub(crate) fn ingest(
    folder: &Path,
    agents: usize,
    hours: i64,
    samples_each: usize,
    decode: bool,
) -> anyhow::Result<Ingest> {
    let nation = Nation::new(agents, 7);
    let entropy = workload::entropy_bytes(&nation);
    let store = Arc::new(Store::open(folder, UnixMillis(START_MS))?);
    let (process_before, disk_before) = (written_by_process(), written_to_disk(folder)?);
    let began = Instant::now();
    let cpu_before = cpu_of(std::process::id())?;
    let stop = Arc::new(AtomicBool::new(false));
    let readers = {
        let (store, stop) = (Arc::clone(&store), Arc::clone(&stop));
        let work = move || read_meanwhile(&store, agents, &stop);
        std::thread::Builder::new()
            .name("readers".into())
            .spawn(work)?
    };
    let checkpoints = {
        let (store, stop) = (Arc::clone(&store), Arc::clone(&stop));
        std::thread::spawn(move || -> anyhow::Result<()> {
            let mut next = Instant::now() + CHECKPOINT_EVERY;
            while !stop.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(100));
                if Instant::now() > next {
                    store.checkpoint(store.log.end())?;
                    next += CHECKPOINT_EVERY;
                }
            }
            Ok(())
        })
    };
    let generator = generate(nation, hours * 3_600_000 / STEP_MS, samples_each);
    let mut samples = 0;
    let mut log_bytes = 0.0;
    let mut commits = Vec::new();
    let mut group = Batch::default();
    let mut last = Instant::now();
    let log_before = store.log.bytes();
    loop {
        let batch = generator.batches.recv();
        let over = batch.is_err();
        let batch = batch.unwrap_or_default();
        group.entries.extend(batch.entries);
        group.decoded.extend(batch.decoded);
        if over || last.elapsed() >= COMMIT_EVERY || group.entries.len() >= 100_000 {
            last = Instant::now();
            let (taken, commit) =
                take(&store, &generator.used, std::mem::take(&mut group), decode)?;
            samples += taken;
            commits.push(commit.as_secs_f64() * 1e3);
        }
        if over {
            break;
        }
        if samples > 0 && log_bytes == 0.0 && samples > 10_000_000 {
            log_bytes = (store.log.bytes() - log_before) as f64 / samples as f64;
        }
    }
    if log_bytes == 0.0 {
        log_bytes = (store.log.bytes() - log_before) as f64 / samples as f64;
    }
    // The day is over: it becomes blocks. Part of the price.
    store
        .history
        .compact_all(UnixMillis(START_MS + hours * 3_600_000))?;
    store.checkpoint(store.log.end())?;
    let seconds = began.elapsed().as_secs_f64();
    stop.store(true, Ordering::Relaxed);
    checkpoints.join().expect("checkpoints do not panic")?;
    let (mut days, mut nows, reader_cpu) = readers.join().expect("readers do not panic")?;
    let (_, generator_cpu) = generator
        .thread
        .join()
        .expect("the generator does not panic");
    let cpu = cpu_of(std::process::id())?.saturating_sub(cpu_before + generator_cpu + reader_cpu);
    let (levels, recent) = store.history.bytes_by_level();
    let in_blocks = store.history.samples_in_blocks() as f64;
    let raw = levels[&denyut_store::history::Level::Raw] as f64;
    let rollups: u64 = levels
        .iter()
        .filter(|(level, _)| **level != denyut_store::history::Level::Raw)
        .map(|(_, bytes)| bytes)
        .sum();
    let _ = recent;
    let everything = disk_usage(folder) - disk_usage(&folder.join("log"));
    Ok(Ingest {
        samples,
        seconds,
        cpu_seconds: cpu.as_secs_f64(),
        log_bytes_per_sample: log_bytes,
        written_by_process: written_by_process() - process_before,
        written_to_disk: written_to_disk(folder)? - disk_before,
        peak_rss: memory("VmHWM"),
        commit_p50_ms: quantile(&mut commits, 0.5),
        commit_p99_ms: quantile(&mut commits, 0.99),
        day_p50_ms: quantile(&mut days, 0.5),
        day_p99_ms: quantile(&mut days, 0.99),
        now_p99_ms: quantile(&mut nows, 0.99),
        sealed_bytes_per_sample: raw / in_blocks,
        disk_bytes_per_sample: everything as f64 / in_blocks,
        rollup_bytes_per_sample: rollups as f64 / in_blocks,
        entropy_bytes_per_sample: entropy,
    })
}

fn link(agent: usize, target: usize) -> LinkId {
    LinkId {
        agent: workload::agent_name(agent).parse().expect("an id"),
        target: TARGETS[target].0.parse().expect("a name"),
    }
}

/// Reads the last 24 h of random links, and now and then the latest of all, until told to stop; ms each, and the CPU it took.
fn read_meanwhile(
    store: &Store,
    agents: usize,
    stop: &AtomicBool,
) -> anyhow::Result<(Vec<f64>, Vec<f64>, Duration)> {
    let mut rng = SmallRng::seed_from_u64(3);
    let (mut days, mut nows) = (Vec::new(), Vec::new());
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(20));
        let link = link(
            rng.random_range(0..agents),
            rng.random_range(0..TARGETS.len()),
        );
        let began = Instant::now();
        let mut count = 0u64;
        store.history.visit(
            &link,
            UnixMillis(START_MS)..UnixMillis(START_MS + 86_400_000),
            &mut |_| {
                count += 1;
                true
            },
        )?;
        days.push(began.elapsed().as_secs_f64() * 1e3);
        if days.len() % 20 == 0 {
            let began = Instant::now();
            let mut count = 0u64;
            store.history.latest(&mut |_, _| {
                count += 1;
                true
            });
            nows.push(began.elapsed().as_secs_f64() * 1e3);
        }
    }
    // The first reads find nothing yet.
    let half = days.split_off(days.len() / 2);
    Ok((half, nows, cpu_of_thread()))
}

/// What a start after kill -9 came to.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Restart {
    pub(crate) seconds: f64,
    pub(crate) replayed_samples: u64,
    pub(crate) log_bytes: u64,
}

/// Opens a store and replays what must be, as the collector does.
pub(crate) fn restart(folder: &Path) -> anyhow::Result<Restart> {
    let began = Instant::now();
    let store = Store::open(folder, UnixMillis(START_MS + 90_000_000))?;
    let end = store.log.end();
    let heartbeats = denyut_store::replay(
        &*store.log,
        &*store.history,
        store.replay_from..=end,
        denyut_store::threads(),
    )?;
    let samples = heartbeats * TARGETS.len() as u64;
    Ok(Restart {
        seconds: began.elapsed().as_secs_f64(),
        replayed_samples: samples,
        log_bytes: store.log.bytes(),
    })
}

/// What calm hours cost the disk.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Calm {
    pub(crate) samples: u64,
    pub(crate) seconds: f64,
    pub(crate) cpu_seconds: f64,
    pub(crate) written_by_process: u64,
    pub(crate) written_to_disk: u64,
}

/// Ingests in real time, a tenth of a second's heartbeats a commit, after half an hour at full speed has filled the buffers as they are on any
/// day. Runs until it is killed, or for `seconds`.
pub(crate) fn calm(folder: &Path, agents: usize, seconds: u64) -> anyhow::Result<Calm> {
    let store = Store::open(folder, UnixMillis(START_MS))?;
    let generator = generate(Nation::new(agents, 8), 180, 1);
    for batch in generator.batches {
        take(&store, &generator.used, batch, false)?;
    }
    let (nation, _) = generator
        .thread
        .join()
        .expect("the generator does not panic");
    store.checkpoint(store.log.end())?;
    // What the file system still holds back is not ours.
    rustix::fs::sync();
    let steps = i64::try_from(seconds).context("too long")? * 1_000 / STEP_MS + 1;
    let generator = generate(nation, steps, 1);
    let mut waiting = generator
        .batches
        .into_iter()
        .flat_map(|batch| batch.entries.into_iter().zip(batch.decoded));
    let (process_before, disk_before) = (written_by_process(), written_to_disk(folder)?);
    let cpu_before = cpu_of(std::process::id())?;
    let began = Instant::now();
    let mut next_checkpoint = began + CHECKPOINT_EVERY;
    let per_commit = agents as f64 * COMMIT_EVERY.as_secs_f64() * 1e3 / STEP_MS as f64;
    let (mut samples, mut due, mut ticks) = (0, 0.0, 0u32);
    while began.elapsed() < Duration::from_secs(seconds) {
        ticks += 1;
        let at = began + COMMIT_EVERY * ticks;
        std::thread::sleep(at.saturating_duration_since(Instant::now()));
        due += per_commit;
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a count"
        )]
        let (entries, decoded): (Vec<_>, Vec<_>) = waiting.by_ref().take(due as usize).unzip();
        due -= entries.len() as f64;
        samples += take(&store, &generator.used, Batch { entries, decoded }, false)?.0;
        if Instant::now() > next_checkpoint {
            store.checkpoint(store.log.end())?;
            next_checkpoint += CHECKPOINT_EVERY;
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    drop(waiting);
    let (_, generator_cpu) = generator
        .thread
        .join()
        .expect("the generator does not panic");
    rustix::fs::sync();
    Ok(Calm {
        samples,
        seconds,
        cpu_seconds: cpu_of(std::process::id())?
            .saturating_sub(cpu_before + generator_cpu)
            .as_secs_f64(),
        written_by_process: written_by_process() - process_before,
        written_to_disk: written_to_disk(folder)? - disk_before,
    })
}

/// The space curve of simulated months, and what reading a year costs.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Year {
    pub(crate) days: i64,
    /// Bytes at the end of every 20th day: samples and minutes, and all.
    pub(crate) curve: Vec<(i64, u64, u64)>,
    pub(crate) by_day_p99_ms: f64,
    pub(crate) by_hour_p99_ms: f64,
    pub(crate) rows: usize,
}

/// Simulates `days` of a few agents under the default retention.
pub(crate) fn year(folder: &Path, agents: usize, days: i64) -> anyhow::Result<Year> {
    let store = Store::open(folder, UnixMillis(START_MS))?;
    let mut nation = Nation::new(agents, 9);
    let names: Vec<AgentId> = (0..agents)
        .map(|agent| workload::agent_name(agent).parse().expect("an id"))
        .collect();
    let mut position: Position = 0;
    let mut curve = Vec::new();
    for day in 1..=days {
        let mut told = Ok(());
        for _ in 0..86_400_000 / STEP_MS {
            nation.step(|agent, samples| {
                position += 1;
                let heartbeat = workload::heartbeat(&samples);
                if told.is_ok() {
                    told = store
                        .history
                        .append(position, &names[agent], &heartbeat.samples);
                }
            });
        }
        told?;
        store.history.checkpoint()?;
        store.upkeep(
            UnixMillis(START_MS + day * 86_400_000 + 7_200_000),
            &KEEP,
            0,
        )?;
        if day % 20 == 0 {
            let fine = ["recent", "raw", "minute"]
                .map(|part| disk_usage(&folder.join(part)))
                .iter()
                .sum();
            curve.push((day, fine, disk_usage(folder)));
        }
    }
    let now = START_MS + days * 86_400_000;
    let mut rng = SmallRng::seed_from_u64(4);
    let mut rows = 0;
    let mut time = |step: i64| -> anyhow::Result<f64> {
        let mut times = Vec::new();
        for _ in 0..200 {
            let link = link(
                rng.random_range(0..agents),
                rng.random_range(0..TARGETS.len()),
            );
            let began = Instant::now();
            let found = store.history.rows(
                &link,
                UnixMillis(now - 365 * 86_400_000)..UnixMillis(now),
                step,
            )?;
            times.push(began.elapsed().as_secs_f64() * 1e3);
            rows = found.rows.len();
        }
        Ok(quantile(&mut times, 0.99))
    };
    Ok(Year {
        days,
        curve,
        by_day_p99_ms: time(86_400_000)?,
        by_hour_p99_ms: time(3_600_000)?,
        rows,
    })
}

/// Memory of links that say nothing any more: bytes each.
pub(crate) fn idle(folder: &Path, agents: usize) -> anyhow::Result<f64> {
    let store = Store::open(folder, UnixMillis(START_MS))?;
    let grow = |from: usize, to: usize| -> anyhow::Result<()> {
        let mut nation = Nation::new(to, 10);
        let mut told = Ok(());
        nation.step(|agent, samples| {
            if agent >= from && told.is_ok() {
                let name: AgentId = workload::agent_name(agent).parse().expect("an id");
                told = store
                    .history
                    .append(1, &name, &workload::heartbeat(&samples).samples);
            }
        });
        told?;
        store.history.seal_all()?;
        store.history.checkpoint().map(drop)
    };
    // What every store takes is there before the first look.
    grow(0, agents)?;
    let before = memory("VmRSS");
    grow(agents, 5 * agents)?;
    let after = memory("VmRSS");
    Ok(after.saturating_sub(before) as f64 / (4 * agents * TARGETS.len()) as f64)
}
