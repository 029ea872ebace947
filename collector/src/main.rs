//! denyut-collector: stores the samples of every office, detects outages, and answers operators.

mod api;
mod clock;
mod commit;
mod config;
mod detect;
mod engine;
mod events;
mod history;
mod incident;
mod ingest;
mod log;
mod mark;
mod metrics;
mod query;
mod registry;
mod state;
mod web;
mod worker;

use crate::log::Log;
use anyhow::{Context, bail};
use clap::{Parser, Subcommand};
use config::Config;
use std::fs::{DirBuilder, File};
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

/// How long a stop waits for streams and requests to end.
const GRACE: Duration = Duration::from_secs(3);
/// How often what is past its retention is deleted.
const FORGET_EVERY: Duration = Duration::from_secs(3600);

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

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Serve { file } => Config::load(&file.config).and_then(|config| {
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
        Command::Version => {
            println!("denyut-collector {}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
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
async fn serve(config: Config) -> anyhow::Result<()> {
    start_log();

    let _lock = claim_data_dir(&config.data_dir)?;
    // Before the database, which may take a while: that a port is taken is said at once.
    let (ingest_listener, ingest_address) = bind("ingest.listen", config.ingest).await?;
    let (api_listener, api_address) = bind("api.listen", config.api).await?;

    let database = config.data_dir.join("db");
    let mark = mark::Mark::open(&config.data_dir, &database)?;
    let engine = Arc::new(engine::Engine::open(&database)?);
    let log: Arc<dyn Log> = Arc::new(log::EmbeddedLog::open(Arc::clone(&engine))?);
    let history: Arc<dyn history::History> = Arc::new(history::EmbeddedHistory::open(&engine)?);
    let state: Arc<dyn state::State> = Arc::new(state::EmbeddedState::open(&engine)?);
    let metrics = Arc::new(metrics::Metrics::new());
    let bus = Arc::new(events::Bus::new());
    let registry = Arc::new(config.registry);
    let stop = CancellationToken::new();
    let clock = Arc::new(clock::Clock::start());
    let replay_to = log.end();
    metrics.lost_records.inc_by(mark.missing(replay_to));

    let worker = worker::Worker::restore(
        Arc::clone(&log),
        Arc::clone(&history),
        Arc::clone(&state),
        Arc::clone(&bus),
        Arc::clone(&metrics),
    )?;
    let processed = worker.processed();
    let (end, end_rx) = watch::channel(log.end());
    let mut worker_task = on_thread("worker", move |runtime| worker.run(runtime, end_rx));

    let (commits, requests) = mpsc::channel(commit::QUEUE);
    let committer = commit::Committer {
        log: Arc::clone(&log),
        requests,
        end,
        processed: Arc::clone(&processed),
        clock: Arc::clone(&clock),
        mark,
        metrics: Arc::clone(&metrics),
    };
    let mut commit_task = on_thread("commit", move |runtime| committer.run(runtime));

    let gate = Arc::new(ingest::Gate {
        registry: Arc::clone(&registry),
        log: Arc::clone(&log),
        state: Arc::clone(&state),
        commits,
        clock: Arc::clone(&clock),
        metrics: Arc::clone(&metrics),
        oldest: config.retention_raw,
        connected: Mutex::default(),
        stop: stop.clone(),
    });
    let sizes = Arc::clone(&engine);
    let shared = Arc::new(api::Shared {
        query: query::Query {
            registry,
            history: Arc::clone(&history),
            state,
        },
        gate: Arc::clone(&gate),
        bus,
        metrics,
        log,
        processed,
        replay_to,
        database_bytes: Box::new(move || sizes.bytes()),
        stop: stop.clone(),
    });
    let mut api_task = tokio::spawn(api::serve(shared, api_listener));
    let tls = config.tls.clone();
    let mut ingest_task = tokio::spawn(async move {
        ingest::serve(gate, ingest_listener, tls.as_ref(), api_address).await
    });
    let forget_task = tokio::spawn(forget_old(
        history,
        clock,
        config.retention_raw,
        stop.clone(),
    ));

    let scheme = if config.tls.is_some() {
        "https"
    } else {
        "http"
    };
    info!(page = %api_address, agents = %ingest_address, "listening");
    println!("page http://{api_address}/ agents {scheme}://{ingest_address}");

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
    };
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
    forget_task.abort();
    tokio::task::spawn_blocking(move || engine.sync()).await??;
    info!("denyut-collector stopped");
    Ok(())
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
async fn drain(tasks: [(&'static str, JoinHandle<anyhow::Result<()>>); 4]) {
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
fn on_thread(
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

async fn forget_old(
    history: Arc<dyn history::History>,
    clock: Arc<clock::Clock>,
    keep: Duration,
    stop: CancellationToken,
) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(FORGET_EVERY) => {}
        }
        let reading = clock.read();
        if reading.doubted {
            continue;
        }
        let history = Arc::clone(&history);
        let before = reading.now - keep;
        let done = tokio::task::spawn_blocking(move || worker::forget(&*history, before)).await;
        if let Ok(Err(error)) = done {
            error!(error = %format!("{error:#}"), "cannot delete what is past its retention");
        }
    }
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
            "`data_dir` = `{}`: another denyut-collector runs on it; stop that one or give this one a folder of its own",
            path.display()
        ),
        Err(std::fs::TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("`data_dir`: cannot lock {}", path.display()))
        }
    }
}

fn check_config(path: &Path) -> anyhow::Result<()> {
    let config = Config::load(path)?;
    let how = if config.tls.is_some() {
        "by mutual TLS"
    } else {
        "in plaintext"
    };
    println!("{} is valid.", path.display());
    println!("Agents connect {how} to {}.", config.ingest);
    println!("The page and the API are at http://{}/.", config.api);
    println!(
        "Data lies in {}; samples are kept for {} days.",
        config.data_dir.display(),
        config.retention_raw.as_secs() / 86_400
    );
    for (code, office) in &config.registry.offices {
        let of = |(_, agent): &(&_, &registry::Agent)| agent.office == *code;
        let agents: Vec<_> = config.registry.agents.iter().filter(of).collect();
        println!("{code} {}:", office.name);
        for (id, agent) in &agents {
            let targets: Vec<&str> = agent.targets.iter().map(|t| t.name.as_str()).collect();
            let given = if targets.is_empty() {
                "its own targets only".into()
            } else {
                format!("given {}", targets.join(", "))
            };
            println!("  {id}: {given}");
        }
        if agents.is_empty() {
            println!("  no agent");
        }
    }
    if config.registry.agents.is_empty() {
        println!("Warning: no agent is registered; every one will be refused.");
    }
    Ok(())
}
