//! The running agent: what it is made of, and in which order it starts and stops.

use crate::budget::{Budget, Pace};
use crate::config::Config;
use crate::connect::Meter;
use crate::delivery::Delivery;
use crate::observe::{self, Order};
use crate::stream::Tail;
use crate::system::{self, Over, Request, Requests};
use crate::update::{self, Updater};
use crate::watchdog::Watchdog;
use crate::{identity, machine, membership, probe, spool, status, stream};
use anyhow::{Context, bail};
use denyut_proto::{BootId, Goodbye};
use std::fs::File;
use std::path::Path;
use std::pin::pin;
use std::process::ExitCode;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use tracing_subscriber::EnvFilter;

/// Runs the agent of a configuration, or a newer version in its place, until it is to stop.
pub(crate) async fn run(path: &Path, mut requests: Requests) -> anyhow::Result<ExitCode> {
    let (this, installed) = (std::env::current_exe(), update::installed());
    let this = this.context("cannot tell where this program is")?;
    let mut config = Config::load_to_run(path)?;
    loop {
        let newer = {
            let _lock = claim_data_dir(&config.data_dir)?;
            // A newer program looks for none: the installed one does.
            installed
                .is_none()
                .then(|| update::newer(&config))
                .flatten()
        };
        if let Some(newer) = newer {
            if is_to_stop(&mut requests).await {
                return Ok(ExitCode::SUCCESS);
            }
            info!(program = %newer.program.display(), "a newer version takes over");
            match system::hand_over(&this, &newer, &config, &mut requests).await {
                Ok(Over::Stopped) => return Ok(ExitCode::SUCCESS),
                Ok(Over::Back) => {}
                // The service manager starts this program again, which counts the starts of a version on trial.
                Ok(Over::Broke(how)) => bail!("{}: {how}", newer.program.display()),
                Err(error) => update::gave_up(&config, &newer, &error)?,
            }
        } else {
            match agent(config.clone(), &mut requests).await? {
                Ended::Stopped => return Ok(ExitCode::SUCCESS),
                Ended::ForAnother if is_to_stop(&mut requests).await => {
                    return Ok(ExitCode::SUCCESS);
                }
                Ended::ForAnother => {}
            }
            if let Some(installed) = &installed {
                return system::hand_back(installed, path);
            }
        }
        // One that somebody is just writing must not end an agent that ran by the one before.
        match Config::load_to_run(path) {
            Ok(now) => config = now,
            Err(error) => warn!("{error:#}; the one before stays"),
        }
    }
}

/// Whether the system asked this process to stop while it was between two programs, which would not know of it.
async fn is_to_stop(requests: &mut Requests) -> bool {
    let asked = tokio::time::timeout(Duration::ZERO, requests.next()).await;
    matches!(asked, Ok(Request::Stop(_)))
}

/// Why an agent ended.
enum Ended {
    /// It was to stop.
    Stopped,
    /// Another version is to run.
    ForAnother,
}

/// Data folder, spool, probes, stream; then wait for what the system asks, and stop in the reverse order.
async fn agent(config: Config, requests: &mut Requests) -> anyhow::Result<Ended> {
    info!(version = crate::VERSION, "denyut-agent starts");
    let _lock = claim_data_dir(&config.data_dir)?;
    let status = Arc::new(Mutex::new(status::Status {
        version: crate::VERSION.to_owned(),
        ..Default::default()
    }));
    let stop_streaming = CancellationToken::new();
    let door = system::StatusDoor::open(&config.data_dir).with_context(|| {
        format!(
            "`data_dir`: cannot be asked for the status in {}",
            config.data_dir.display()
        )
    })?;
    let status_task = tokio::spawn(status::serve(
        door,
        Arc::clone(&status),
        stop_streaming.clone(),
    ));
    // The service does what it can: it waits to be told who it is.
    system::tell_ready();
    let watchdog = Watchdog::default();
    tokio::spawn(watchdog.clone().tell(config.heartbeat));
    let meter = Meter::default();
    let access = {
        let mut access = pin!(access(&config, &status, &watchdog, &meter));
        loop {
            tokio::select! {
                access = &mut access => break access?,
                request = requests.next() => if let Request::Stop(_) = request {
                    return Ok(Ended::Stopped);
                },
            }
        }
    };
    let connection = (access, meter);
    let ended = work(
        config,
        connection,
        requests,
        status,
        watchdog,
        &stop_streaming,
    )
    .await?;
    if let Err(error) = status_task.await {
        error!(%error, "the status socket ended badly");
    }
    info!("denyut-agent stopped");
    Ok(ended)
}

/// Observes and streams as who it is, until it is to stop; `stop_streaming` is cancelled then.
async fn work(
    config: Config,
    (access, meter): (stream::Access, Meter),
    requests: &mut Requests,
    status: Arc<Mutex<status::Status>>,
    watchdog: Watchdog,
    stop_streaming: &CancellationToken,
) -> anyhow::Result<Ended> {
    let agent = access.agent();
    let spool = spool::Spool::open(&config.data_dir.join("spool"), config.spool_max)?;
    let boot = BootId::of(machine::boot_id()?, spool.id());
    let prober = Arc::new(probe::Prober::new(config.probe_ca.as_deref())?);
    let (revision, given) = stream::kept_configuration(&config.data_dir);
    let icmp_fix = probe::icmp_permission();
    if let Some(fix) = &icmp_fix {
        warn!("{fix}");
    }

    let known = |status: &mut status::Status| {
        status.agent = agent.to_string();
        status.boot = boot.to_string();
        status.spool = Some(spool.range());
        status.icmp_fix = icmp_fix;
        status.connection.last_error = None;
    };
    known(&mut status.lock().unwrap_or_else(PoisonError::into_inner));
    let first = spool.range().next;
    let spooled = watch::Sender::new(Tail {
        last: spool.range().next - 1,
        urgent: 0,
    });
    let pace = Pace::of(config.per_day, 0.0, config.heartbeat);
    let promise = watch::Sender::new(pace.pulse(false));
    let (pace, targets_pace) = watch::channel(pace);
    let started = machine::uptime();
    let spool = Arc::new(Mutex::new(spool));
    // Orders come from one collector, a few a minute at most; a full queue makes its stream wait.
    let (orders, orders_rx) = mpsc::channel(16);
    let (stop_observing, stopped) = oneshot::channel();
    if let stream::Access::Joined(held) = &access {
        tokio::spawn(held.clone().keep_certified(stop_streaming.clone()));
    }
    let heard = Arc::new(AtomicU64::new(0));
    let updater = Updater::of(&config, &agent, first, &heard, &status);
    let observer = observe::Observer {
        agent,
        boot,
        interval: config.heartbeat,
        own: config.targets.clone(),
        given,
        prober,
        spool: Arc::clone(&spool),
        spooled: spooled.clone(),
        pace,
        per_day: config.per_day,
        promise: promise.subscribe(),
        started,
        status: Arc::clone(&status),
        watchdog,
    };
    let mut observer_task = tokio::spawn(observer.run(orders_rx, stopped));
    let streamer = stream::Streamer {
        access,
        budget: Budget::open(config.per_day, &config.data_dir),
        data_dir: config.data_dir,
        reconnect_max: config.reconnect_max,
        boot,
        first,
        spool,
        spooled,
        delivery: Delivery::default(),
        told: None,
        heard,
        meter,
        targets_pace,
        heartbeat: config.heartbeat,
        promise,
        started,
        closed_until: None,
        told_spending: None,
        orders: orders.clone(),
        status,
        revision,
    };
    let mut stream_task = tokio::spawn(streamer.run(stop_streaming.clone()));
    let mut updating = pin!(keep_up_to_date(updater));

    let goodbye = loop {
        tokio::select! {
            request = requests.next() => match request {
                Request::Stop(goodbye) => break Some(goodbye),
                // The observer has ended, or has a queue of orders: then there is more to say than that.
                Request::Suspend => drop(orders.try_send(Order::Suspend)),
            },
            // The next version is there in a second, and says nothing of this either.
            () = &mut updating => break None,
            ended = &mut observer_task => bail!("the observer ended by itself: {ended:?}"),
            ended = &mut stream_task => bail!("the stream ended by itself: {ended:?}"),
        }
    };
    part(goodbye, stop_observing, observer_task).await;
    stop_streaming.cancel();
    if let Err(error) = stream_task.await {
        error!(%error, "the stream ended badly");
    }
    Ok(goodbye.map_or(Ended::ForAnother, |_| Ended::Stopped))
}

/// First the goodbye goes to the spool; then the spool goes to the collector as far as it can.
async fn part(
    goodbye: Option<Goodbye>,
    stop_observing: oneshot::Sender<Option<Goodbye>>,
    observer_task: JoinHandle<()>,
) {
    if goodbye.is_some() {
        system::tell_stopping();
    }
    if stop_observing.send(goodbye).is_err() {
        error!("the observer is gone");
    }
    if let Err(error) = observer_task.await {
        error!(%error, "the observer ended badly");
    }
}

/// Returns when another version is to run.
async fn keep_up_to_date(updater: Option<Updater>) {
    match updater {
        Some(updater) => updater.run().await,
        None => std::future::pending().await,
    }
}

/// `DENYUT_LOG`, or what is worth a line.
fn filter() -> EnvFilter {
    EnvFilter::try_from_env("DENYUT_LOG").unwrap_or_else(|_| "info,surge_ping=error".into())
}

/// The log goes to stderr.
pub(crate) fn log_to_stderr() {
    tracing_subscriber::fmt()
        .with_env_filter(filter())
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_writer(std::io::stderr)
        .init();
}

/// The log goes to the Event Log, which knows the time and the level of a line itself.
#[cfg(windows)]
pub(crate) fn log_to_event_log() -> anyhow::Result<()> {
    let log = system::ToEventLog::open().context("cannot open the Event Log")?;
    tracing_subscriber::fmt()
        .with_env_filter(filter())
        .with_ansi(false)
        .without_time()
        .with_level(false)
        .with_writer(log)
        .init();
    Ok(())
}

/// How often it is looked whether the machine has joined.
const JOINED_YET: Duration = Duration::from_secs(2);

/// As whom the agent speaks: as its file says, or as what it joined; waits for that.
async fn access(
    config: &Config,
    status: &Arc<Mutex<status::Status>>,
    watchdog: &Watchdog,
    meter: &Meter,
) -> anyhow::Result<stream::Access> {
    if let Some(named) = &config.named {
        return Ok(stream::Access::Named(named.clone()));
    }
    let mut said = false;
    loop {
        if let Some(identity) = identity::Identity::read(&config.data_dir)? {
            info!(agent = %identity.agent, until = %identity.until, "this machine is this agent");
            let held = membership::Held::new(identity, &config.data_dir, status, meter);
            return Ok(stream::Access::Joined(held));
        }
        if !said {
            said = true;
            warn!("{NOT_JOINED}");
            let mut status = status.lock().unwrap_or_else(PoisonError::into_inner);
            status.connection.last_error = Some(NOT_JOINED.to_owned());
        }
        watchdog.beat();
        tokio::time::sleep(JOINED_YET).await;
    }
}

const NOT_JOINED: &str = "this machine has not joined a collector; paste the line that `denyutctl invitation create` prints there";

/// Makes the data folder and locks it: two agents on one spool would give one sequence two meanings.
pub(crate) fn claim_data_dir(path: &Path) -> anyhow::Result<File> {
    make_data_dir(path)?;
    let lock = File::create(path.join("lock")).with_context(|| {
        format!(
            "`data_dir`: cannot write in {}; give this user the right to",
            path.display()
        )
    })?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(std::fs::TryLockError::WouldBlock) => bail!(
            "`data_dir` = `{}`: another denyut-agent runs on it; stop that one or give this one a folder of its own",
            path.display()
        ),
        Err(std::fs::TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("`data_dir`: cannot lock {}", path.display()))
        }
    }
}

pub(crate) fn make_data_dir(path: &Path) -> anyhow::Result<()> {
    system::private_folder(path)
        .with_context(|| format!("`data_dir`: cannot make the folder {}", path.display()))
}
