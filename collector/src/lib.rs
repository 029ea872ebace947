//! denyut-collector: stores the samples of every office, detects outages, and answers operators.

/// As the one of the standard library, but for a reader that went away: that is no panic.
macro_rules! println {
    ($($text:tt)*) => { $crate::say(format_args!($($text)*)) };
}

mod access;
mod alert;
mod api;
mod availability;
mod board;
mod calendar;
mod care;
mod case;
mod clock;
mod commit;
mod config;
mod control;
mod events;
mod export;
mod ingest;
mod join;
mod keeper;
mod keys;
mod manager;
mod metrics;
mod operate;
mod paths;
mod plain;
mod promql;
mod publik;
mod query;
mod region;
mod register;
mod registry;
mod report;
mod rerun;
mod sites;
mod table;
pub mod tried;
mod villages;
mod web;
mod worker;

use access::{Audit, Book, Pace, Slots};
use alert::{Channel, Courier, Notifier, Outbox, Push, Silences, To, With};
use anyhow::{Context, bail};
use board::Board;
use case::Cases;
use clap::{Parser, Subcommand};
use commit::Room;
use config::Config;
use denyut_detect::Setup;
use denyut_detect::calendar::When;
use denyut_detect::params::length;
use denyut_proto::OfficeCode;
use denyut_store::{Store, history, log, state};
use export::Exporter;
use join::Members;
use publik::Publik;
use register::Register;
use std::collections::BTreeSet;
use std::fs::{DirBuilder, File};
use std::io::Write as _;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

/// How often a caller may ask, and how often at once.
const PACE: (Duration, NonZeroU32) = (
    Duration::from_millis(20),
    NonZeroU32::new(500).expect("not 0"),
);
/// How often somebody may try to log in, and how often at once.
const LOGINS: (Duration, NonZeroU32) =
    (Duration::from_secs(15), NonZeroU32::new(10).expect("not 0"));
/// The same as one user, from wherever: more, so that nobody shuts another out easily.
const LOGINS_OF_USER: (Duration, NonZeroU32) =
    (Duration::from_secs(3), NonZeroU32::new(60).expect("not 0"));
/// How often what is refused of a caller is written down.
const REFUSALS: (Duration, NonZeroU32) =
    (Duration::from_secs(60), NonZeroU32::new(60).expect("not 0"));
/// Passwords that are tried at once: each takes 19 MiB.
const PASSWORDS: usize = 2;
/// How long a stop waits for streams and requests to end.
const GRACE: Duration = Duration::from_secs(3);

/// Prints a line; ends the program if nobody takes it.
fn say(line: std::fmt::Arguments<'_>) {
    use std::io::ErrorKind;
    if let Err(error) = writeln!(std::io::stdout(), "{line}") {
        if error.kind() != ErrorKind::BrokenPipe {
            eprintln!("error: cannot write to stdout: {error}");
        }
        std::process::exit(1);
    }
}

/// Stores the samples of every office, detects outages, and answers operators.
#[derive(Parser)]
#[command(name = "denyut-collector", version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the collector until it is stopped (SIGTERM or Ctrl-C)
    Serve {
        #[command(flatten)]
        file: ConfigFile,
    },
    /// Read the configuration, say what it means, and stop
    CheckConfig {
        #[command(flatten)]
        file: ConfigFile,
    },
    /// Check the data folder for damage; works while the collector runs, but for its state. Exits with 1 if anything is damaged
    Verify {
        #[command(flatten)]
        file: ConfigFile,
        /// Check this backup instead
        #[arg(long, value_name = "FOLDER")]
        backup: Option<PathBuf>,
    },
    /// Mend what is damaged in the data folder; the collector must be stopped. What is damaged is kept beside it as
    /// *.quarantine-*. Exits with 1 if something cannot be mended
    Repair {
        #[command(flatten)]
        file: ConfigFile,
    },
    /// Copy the data folder, while the collector runs or not
    Backup {
        #[command(flatten)]
        file: ConfigFile,
        /// A new or empty folder
        #[arg(long, value_name = "FOLDER")]
        to: PathBuf,
    },
    /// Put a backup into an empty data folder
    Restore {
        #[command(flatten)]
        file: ConfigFile,
        /// A folder that `backup` made
        #[arg(long, value_name = "FOLDER")]
        from: PathBuf,
        /// Also a damaged backup: what is whole of it
        #[arg(long)]
        damaged: bool,
    },
    /// Messages to receivers: what they look like, and whether they arrive
    #[command(subcommand)]
    Message(operate::Message),
    /// Routes: who would be told of what
    #[command(subcommand)]
    Route(operate::Route),
    /// Feed a recorded history through log, worker and detector, and print the incidents and who would be called: to try thresholds on
    /// a past
    Replay {
        /// A CSV file with the columns unix_s,site,state,http_status,latency_ms (state: up, degraded or down); between lines the last
        /// state holds. A site that is the code of an office of the configuration is that office
        csv: PathBuf,
        /// Whose thresholds, calendar and offices count; the defaults and no closing when left out
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Judge the past again, by this version and the thresholds of the configuration: say what would change. The collector must be
    /// stopped
    Redetect {
        #[command(flatten)]
        file: ConfigFile,
        /// From when on: a day (UTC) or a moment (2026-11-01, 2026-11-01T08:00:00+07:00)
        #[arg(long, value_name = "TIME")]
        from: String,
        /// Keep what changes; each changed incident gets a revision that says so
        #[arg(long)]
        apply: bool,
    },
    /// Print the version
    Version,
}

#[derive(clap::Args)]
struct ConfigFile {
    /// The configuration file
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/etc/denyut/collector.toml"
    )]
    config: PathBuf,
}

/// Does what the command line says.
pub fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Serve { file } => Config::load_to_serve(&file.config).and_then(|config| {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .enable_all()
                .build()
                .context("cannot start the runtime")?;
            let done = runtime.block_on(serve(config));
            // After a failure some thread may wait for ever; what was acknowledged is on the disk.
            runtime.shutdown_timeout(Duration::from_secs(1));
            done
        }),
        Command::CheckConfig { file } => check_config(&file.config),
        Command::Verify { file, backup } => {
            Config::load(&file.config).and_then(|config| care::verify(&config, backup.as_deref()))
        }
        Command::Repair { file } => {
            Config::load(&file.config).and_then(|config| care::repair(&config))
        }
        Command::Backup { file, to } => {
            Config::load(&file.config).and_then(|config| care::backup(&config, &to))
        }
        Command::Restore {
            file,
            from,
            damaged,
        } => Config::load(&file.config).and_then(|config| care::restore(&config, &from, damaged)),
        Command::Message(message) => operate::message(message),
        Command::Route(route) => operate::route(route),
        Command::Replay { csv, config, json } => rerun::replay(&csv, config.as_deref(), json),
        Command::Redetect { file, from, apply } => {
            Config::load(&file.config).and_then(|config| rerun::redetect(config, &from, apply))
        }
        Command::Version => {
            println!("denyut-collector {}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Where nobody takes that either, the exit code says it.
            writeln!(std::io::stderr(), "error: {error:#}").ok();
            ExitCode::FAILURE
        }
    }
}

/// Log, data folder, ports, database, worker, committer, API, ingest; then wait for the signal and stop in the
/// reverse order.
#[allow(
    clippy::too_many_lines,
    reason = "the whole story of the process, start to stop"
)]
async fn serve(mut config: Config) -> anyhow::Result<()> {
    start_log();
    raise_file_limit();

    let _lock = claim_data_dir(&config.data_dir)?;
    // Before the database, which may take a while: that a port is taken is said at once.
    let (ingest_listener, ingest_address) = bind("ingest.listen", config.ingest).await?;
    let (api_listener, api_address) = bind("api.listen", config.api).await?;

    let clock = Arc::new(clock::Clock::start());
    let store = Arc::new(Store::open(&config.data_dir, clock.read().now)?);
    let log: Arc<dyn log::Log> = Arc::clone(&store.log) as _;
    let history: Arc<dyn history::History> = Arc::clone(&store.history) as _;
    let state: Arc<dyn state::State> = Arc::clone(&store.state) as _;
    let metrics = Arc::new(metrics::Metrics::new());
    let bus = Arc::new(events::Bus::new());
    let authority = config.authority(clock.read().now)?;
    let registry = Arc::new(config.registry);
    let fixed: BTreeSet<OfficeCode> = registry.offices().keys().cloned().collect();
    register::enter_all(&registry, &*state, &config.common)?;
    config.setup.sites = registry.sites();
    let mut members = None;
    if let Some(authority) = authority {
        info!(fingerprint = %authority.fingerprint(), "the authority that agents know the collector by");
        join::enter_all(&registry, &*state)?;
        config.setup.agents = registry.agents();
        let all = Members::open(Arc::clone(&state), Arc::clone(&registry), authority)?;
        members = Some(Arc::new(all));
    }
    let stop = CancellationToken::new();
    let replay_to = log.end();

    let maintenance = config.setup.maintenance.clone();
    let (hours, holidays) = (
        Arc::clone(&config.setup.hours),
        config.setup.holidays.clone(),
    );
    let setup = config.setup.clone();
    let worker = worker::Worker::restore(
        Arc::clone(&log),
        Arc::clone(&history),
        Arc::clone(&state),
        store.replay_from,
        config.setup,
        Arc::clone(&bus),
        Arc::clone(&metrics),
    )?;
    let (processed, news) = (worker.processed(), worker.news());
    let changed = worker.changed();
    let (end, end_rx) = watch::channel(log.end());
    let mut worker_task = on_thread("worker", move |runtime| worker.run(runtime, end_rx));

    let told = (Arc::clone(&bus), Arc::clone(&news));
    let cases = Arc::new(Cases::new(Arc::clone(&state), Some(told)));
    let silences = Arc::new(Silences::new(Arc::clone(&state), Arc::clone(&news)));
    let outbox = Arc::new(Outbox::new(Arc::clone(&state), Arc::clone(&news)));
    let (commits, requests) = mpsc::channel(commit::QUEUE);
    let room = Room::new(Arc::clone(&store), config.reserve);
    let full = room.is_full();
    let committer = commit::Committer {
        log: Arc::clone(&log),
        requests,
        end,
        room,
        clock: Arc::clone(&clock),
        metrics: Arc::clone(&metrics),
    };
    let mut commit_task = on_thread("commit", move |runtime| committer.run(runtime));

    let gate = Arc::new(ingest::Gate {
        registry: Arc::clone(&registry),
        members: members.clone(),
        log: Arc::clone(&log),
        history: Arc::clone(&history),
        state: Arc::clone(&state),
        commits,
        clock: Arc::clone(&clock),
        metrics: Arc::clone(&metrics),
        hours: Arc::clone(&hours),
        holidays: holidays.clone(),
        oldest: config.retention.raw,
        connected: Mutex::default(),
        stop: stop.clone(),
    });
    let told = {
        let (gate, registry) = (Arc::clone(&gate), Arc::clone(&registry));
        Box::new(move |others: &BTreeSet<OfficeCode>| {
            let setup = Setup {
                sites: registry.sites(),
                agents: registry.agents(),
                ..setup.clone()
            };
            *changed.lock().unwrap_or_else(PoisonError::into_inner) = Some(setup);
            gate.call_back(others);
        })
    };
    let register = Register::new(
        Arc::clone(&state),
        Arc::clone(&registry),
        fixed,
        config.common,
        told,
    );
    let address = operate::address(config.tls.as_ref(), ingest_address);
    let alerts = Arc::new(config.alerts);
    let query = query::Query {
        members: members.clone(),
        registry: Arc::clone(&registry),
        history: Arc::clone(&history),
        state: Arc::clone(&state),
        maintenance,
    };
    let shared = Arc::new(api::Shared {
        query: query.clone(),
        board: Board::default(),
        register,
        cases: Arc::clone(&cases),
        silences: Arc::clone(&silences),
        outbox: Arc::clone(&outbox),
        alerts: Arc::clone(&alerts),
        book: Arc::new(Book::open(Arc::clone(&state))?),
        audit: Arc::new(Audit::open(Arc::clone(&state))?),
        pace: Pace::new(PACE.0, PACE.1),
        logins: Pace::new(LOGINS.0, LOGINS.1),
        logins_of_user: Pace::new(LOGINS_OF_USER.0, LOGINS_OF_USER.1),
        refusals: Pace::new(REFUSALS.0, REFUSALS.1),
        queries: Slots::new(api::QUERIES.0, api::QUERIES.1),
        passwords: Semaphore::new(PASSWORDS),
        address: config.address,
        letterhead: config.letterhead,
        oidc: config.oidc,
        public: config.public.map(Publik::new),
        listening: api_address,
        agents_find: address,
        gate: Arc::clone(&gate),
        bus: Arc::clone(&bus),
        metrics: Arc::clone(&metrics),
        log,
        processed: Arc::clone(&processed),
        replay_to,
        store: Arc::clone(&store),
        readers: Slots::new(api::READERS.0, api::READERS.1),
        listeners: Slots::new(api::LISTENERS.0, api::LISTENERS.1),
        stop: stop.clone(),
    });
    let socket = control::bind(&config.data_dir);
    let mut api_task = tokio::spawn(api::serve(shared, api_listener, socket));
    let names = config.tls.map(|tls| tls.names).unwrap_or_default();
    let is_tls = members.is_some();
    let tls = members.map(|members| ingest::Tls { members, names });
    // The gate goes with them: what is committed ends when nobody can hand in any more.
    let mut ingest_task = tokio::spawn(ingest::serve(gate, ingest_listener, tls, api_address));
    let mut couriers = JoinSet::new();
    for receiver in alerts.receivers.clone() {
        if let Channel::Alertmanager(to) = &receiver.channel {
            let push = Push {
                to: Arc::clone(to),
                receiver,
                alerts: Arc::clone(&alerts),
                state: Arc::clone(&state),
                registry: Arc::clone(&registry),
                clock: Arc::clone(&clock),
                metrics: Arc::clone(&metrics),
                bus: Arc::clone(&bus),
                processed: Arc::clone(&processed),
            };
            couriers.spawn(push.run(stop.clone()));
            continue;
        }
        let courier = Courier {
            receiver,
            outbox: Arc::clone(&outbox),
            clock: Arc::clone(&clock),
            metrics: Arc::clone(&metrics),
        };
        couriers.spawn(courier.run(stop.clone()));
    }
    for target in config.exports {
        let exporter = Exporter::new(
            target,
            Arc::clone(&store),
            query.clone(),
            Arc::clone(&processed),
            Arc::clone(&metrics),
        );
        couriers.spawn(exporter.run(stop.clone()));
    }
    if let Some(alive) = alerts.alive.clone() {
        couriers.spawn(alive.run(Arc::clone(&processed), stop.clone()));
    }
    let with = Arc::new(With {
        alerts: Arc::clone(&alerts),
        state: Arc::clone(&state),
        registry: Arc::clone(&registry),
        cases,
        silences,
        clock: Arc::clone(&clock),
    });
    for listener in alert::listeners(&with) {
        couriers.spawn(listener.run(stop.clone()));
    }
    let notifier = Notifier {
        alerts,
        state: Arc::clone(&state),
        registry,
        hours,
        holidays,
        outbox,
        clock: Arc::clone(&clock),
        metrics: Arc::clone(&metrics),
        news,
    };
    let (stop_notifier, notifier_stops) = watch::channel(());
    let mut notifier_task = on_thread("notifier", move |runtime| {
        notifier.run(runtime, notifier_stops)
    });
    let keeper = keeper::Keeper {
        store: Arc::clone(&store),
        processed,
        clock,
        retention: config.retention,
        reserve: config.reserve,
        full,
        metrics,
    };
    let (stop_keeper, stopped) = watch::channel(());
    let mut keeper_tasks = keeper.start(&stopped);

    let scheme = if is_tls { "https" } else { "http" };
    info!(page = %api_address, agents = %ingest_address, "listening");
    println!("page http://{api_address}/ agents {scheme}://{ingest_address}");
    manager::tell_ready();

    let (mut terminate, mut interrupt) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    let ended_badly = tokio::select! {
        _ = terminate.recv() => { info!("SIGTERM: stopping"); None }
        _ = interrupt.recv() => { info!("interrupted: stopping"); None }
        ended = &mut worker_task => Some(explain("worker", ended)),
        ended = &mut commit_task => Some(explain("committer", ended)),
        ended = &mut api_task => Some(explain("API", ended)),
        ended = &mut ingest_task => Some(explain("agents' port", ended)),
        ended = &mut notifier_task => Some(explain("notifier", ended)),
        Some(ended) = couriers.join_next() => Some(explain("courier", ended)),
        ended = &mut keeper_tasks.checkpoints => Some(explain("keeper", ended)),
        ended = &mut keeper_tasks.upkeep => Some(explain("keeper", ended)),
    };
    manager::tell_stopping();
    stop.cancel();
    if let Some(error) = ended_badly {
        // Nothing may be acknowledged any more; what was, is on the disk.
        return Err(error);
    }
    // Streams and requests end, and with them the last senders of the committer, and with it the worker.
    drain([
        ("API", api_task),
        ("agents' port", ingest_task),
        ("committer", commit_task),
        ("worker", worker_task),
    ])
    .await;
    drop(stop_notifier);
    drain([("notifier", notifier_task)]).await;
    store.history.stop_upkeep();
    drop(stop_keeper);
    drain([
        ("keeper", keeper_tasks.upkeep),
        ("keeper", keeper_tasks.checkpoints),
    ])
    .await;
    control::unbind(&config.data_dir);
    info!("denyut-collector stopped");
    Ok(())
}

/// Every agent is an open connection, every block an open file: as many as the system lets us have.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let most = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, most) {
        warn!(%error, now = ?limit.current, "the limit of open files cannot be raised");
    }
}

/// To stderr; `DENYUT_LOG` filters it.
fn start_log() {
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("DENYUT_LOG").unwrap_or_else(|_| {
                "info,sled=warn,tonic::transport::server::io_stream=debug".into()
            }),
        )
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_writer(std::io::stderr)
        .init();
    info!(
        version = env!("CARGO_PKG_VERSION"),
        "denyut-collector starts"
    );
}

/// Waits for tasks that were told to stop, in this order; says which did not.
async fn drain<const N: usize>(tasks: [(&'static str, JoinHandle<anyhow::Result<()>>); N]) {
    for (name, mut task) in tasks {
        match tokio::time::timeout(GRACE, &mut task).await {
            Ok(Ok(Ok(()))) => {}
            Ok(ended) => error!(error = %format!("{:#}", explain(name, ended)), "it stopped badly"),
            Err(_) => {
                // A peer that does not let go of its connection, most likely.
                warn!("the {name} does not stop within {GRACE:?}; it is cut off");
                task.abort();
            }
        }
    }
}

type Done = Result<anyhow::Result<()>, tokio::task::JoinError>;

fn explain(name: &str, ended: Done) -> anyhow::Error {
    match ended {
        Ok(Ok(())) => anyhow::anyhow!("the {name} ended by itself"),
        Ok(Err(error)) => error.context(format!("the {name} failed")),
        Err(error) => anyhow::Error::new(error).context(format!("the {name} panicked")),
    }
}

/// Runs blocking work for the life of the process.
pub(crate) fn on_thread(
    name: &'static str,
    work: impl FnOnce(&Handle) -> anyhow::Result<()> + Send + 'static,
) -> JoinHandle<anyhow::Result<()>> {
    let runtime = Handle::current();
    tokio::task::spawn_blocking(move || {
        let done = work(&runtime);
        info!("the {name} thread ended");
        done
    })
}

async fn bind(field: &str, address: SocketAddr) -> anyhow::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(address).await.with_context(|| {
        format!("`{field}` = `{address}`: cannot listen there; stop what does, or choose another port (0: any free one)")
    })?;
    let bound = listener
        .local_addr()
        .context("a listener without an address")?;
    Ok((listener, bound))
}

/// Makes the data folder and locks it.
fn claim_data_dir(path: &Path) -> anyhow::Result<File> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o750)
        .create(path)
        .with_context(|| format!("`data_dir`: cannot make the folder {}", path.display()))?;
    let lock = File::create(path.join("lock")).with_context(|| {
        format!(
            "`data_dir`: cannot write in {}; give this user the right to",
            path.display()
        )
    })?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(std::fs::TryLockError::WouldBlock) => bail!(
            "`data_dir` = `{}`: another denyut-collector uses it; stop that one, or name another folder",
            path.display()
        ),
        Err(std::fs::TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("`data_dir`: cannot lock {}", path.display()))
        }
    }
}

/// What the thresholds and the calendar mean, in failures and seconds.
fn describe_detection(setup: &denyut_detect::Setup) {
    let params = &setup.params;
    let every = Duration::from_secs(10);
    let failures = |loss: f64| {
        let count = params.failures_until_down(loss);
        format!(
            "{count} failures in a row ({})",
            length(every * (count - 1))
        )
    };
    println!(
        "Probed every 10s, a link is down after {} where it loses 1 %, {} where 10 %, {} where 25 %; up again after {} answers over {}.",
        failures(0.01),
        failures(0.10),
        failures(0.25),
        params.recovery_answers,
        length(params.recovery_time)
    );
    println!(
        "An agent that speaks every 10s is silent after {}; with a byte budget it speaks less often (its `status` says).",
        length((every * params.silent_intervals).max(params.silent_least))
    );
    println!(
        "Somebody is called {} to {} after the last answer, in opening hours, by how long this link's blips usually are.",
        length(
            params
                .page_after_least
                .max(every * (params.failures_until_down(0.01) - 1))
                + params.common_wait
        ),
        length(
            (params.page_after_most + params.common_wait).max(
                params
                    .page_after_least
                    .max(every * (params.failures_until_down(0.01) - 1))
                    + params.common_wait
            )
        )
    );
    println!(
        "Trouble that comes back within {} is the same incident, within {} a relapse; an incident is closed for good after {} of opening hours.",
        length(params.rejoin),
        length(params.relapse_within),
        length(params.probation)
    );
    println!(
        "Of 6 offices of a regency {} that go down together are a common cause, of 10 offices {}.",
        params.common_offices(6),
        params.common_offices(10)
    );
    match setup.holidays.last_year() {
        Some(year) => match setup.holidays.len() {
            1 => println!("One holiday is known, in {year}."),
            count => println!("{count} holidays are known, the last in {year}."),
        },
        None => println!("No holidays are known (`calendar.holidays`)."),
    }
    for work in &setup.maintenance {
        let when = match &work.when {
            When::Once { from, until } => format!("from {from} to {until}"),
            When::Weekly { from, .. } => format!("every week from {from} on"),
        };
        println!("Work at {} {when}: {}.", work.region, work.reason);
    }
    for (name, value, default, means) in params.all() {
        if value != default {
            println!("detection.{name} = {value} (default {default}): {means}.");
        }
    }
}

/// How many offices each receiver is told of, and which offices nobody is told of.
fn describe_receivers(config: &Config) {
    let alerts = &config.alerts;
    if alerts.routes.is_empty() {
        println!("Nobody is told of incidents; add a [[receiver]] and a [[route]] to it.");
        return;
    }
    let offices = config.registry.offices();
    let all: Vec<&str> = offices
        .keys()
        .map(denyut_proto::OfficeCode::as_str)
        .collect();
    for receiver in &alerts.receivers {
        let told = all
            .iter()
            .filter(|code| alerts.covers(receiver, code))
            .count();
        let kind = receiver.channel.describe();
        println!(
            "{} ({kind}) is told of {told} of {} offices, as far as their regions go.",
            receiver.name,
            all.len()
        );
    }
    let is_lost = |code: &&&str| !alerts.receivers.iter().any(|one| alerts.covers(one, code));
    let lost: Vec<&str> = all.iter().filter(is_lost).copied().collect();
    if !lost.is_empty() {
        let some = lost.iter().take(10).copied().collect::<Vec<_>>().join(", ");
        let more = match lost.len().saturating_sub(10) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        println!("No route leads from {some}{more}: nobody is told of their incidents.");
    }
}

/// Says what leaves this machine, and who else comes in.
fn describe_outside(config: &Config) {
    match &config.public {
        None => println!("The page for citizens, /publik, is off."),
        Some(villages) => {
            let count: usize = villages.values().map(Vec::len).sum();
            println!(
                "The page for citizens, /publik, is open to everybody; {count} villages to choose from."
            );
        }
    }
    for export in &config.exports {
        println!("{}", export.describe());
    }
    if let Some(oidc) = &config.oidc {
        println!(
            "Users may also come in by {}, {}.",
            oidc.name,
            oidc.issuer()
        );
    }
}

fn check_config(path: &Path) -> anyhow::Result<()> {
    let config = Config::load_to_serve(path)?;
    let how = match &config.tls {
        Some(tls) => {
            let names: Vec<String> = tls.names.iter().map(join::Name::in_address).collect();
            format!("by TLS, as {},", names.join(" or "))
        }
        None => "in plaintext".to_owned(),
    };
    println!("{} is valid.", path.display());
    println!("Agents connect {how} to {}.", config.ingest);
    println!("The page and the API are at http://{}/.", config.api);
    println!("Data lies in {}.", config.data_dir.display());
    println!("{}", config.describe_retention());
    describe_detection(&config.setup);
    for route in &config.alerts.routes {
        let whom = match &route.to {
            To::Receiver(name) => name.clone(),
            To::Role(role) => format!("Every {role}"),
        };
        println!("{whom} is told of {}.", route.describe());
    }
    describe_receivers(&config);
    describe_outside(&config);
    for (code, office) in &*config.registry.offices() {
        println!("{code} {}:", office.name);
        let targets: Vec<&str> = office.targets.iter().map(|t| t.name.as_str()).collect();
        let given = if targets.is_empty() {
            "its own targets only".into()
        } else {
            format!("given {}", targets.join(", "))
        };
        let agents = config.registry.agents_of(code);
        for id in &agents {
            println!("  {id}: {given}");
        }
        if agents.is_empty() {
            println!("  no agent");
        }
    }
    if config.registry.agents().is_empty() {
        match &config.tls {
            Some(_) => {
                println!("No agent is named; let machines join by `denyutctl invitation create`.");
            }
            None => println!(
                "No agent is named, and in plaintext none can join: name agents in `[[office]]`, or what agents call the collector in `ingest.names`."
            ),
        }
    }
    Ok(())
}
