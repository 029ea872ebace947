//! denyut-agent: probes an office's links, spools the samples to disk and streams them to the collector.

/// Like the standard one, but a reader that is gone ends the program instead of panicking it.
macro_rules! println {
    ($($text:tt)*) => { $crate::say(format_args!($($text)*)) };
}

mod config;
mod connect;
mod identity;
mod machine;
mod marks;
mod membership;
mod observe;
mod probe;
mod schedule;
mod spool;
mod status;
mod stream;

use anyhow::{Context, bail};
use clap::{Parser, Subcommand};
use config::Config;
use denyut_proto::{BootId, HttpExpectation, Invalid, Outcome, Probe, Role, Target};
use std::fs::{DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

/// Prints a line; ends the program if nobody takes it.
fn say(line: std::fmt::Arguments<'_>) {
    use std::io::{ErrorKind, Write};
    if let Err(error) = writeln!(std::io::stdout(), "{line}") {
        if error.kind() != ErrorKind::BrokenPipe {
            eprintln!("error: cannot write to stdout: {error}");
        }
        std::process::exit(1);
    }
}

/// Probes this office's links, spools the samples to disk and streams them to the collector.
#[derive(Parser)]
#[command(name = "denyut-agent", version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the agent until it is stopped (SIGTERM or Ctrl-C)
    Run {
        #[command(flatten)]
        file: ConfigFile,
    },
    /// Make this machine an agent, by an invitation from `denyut-collector token create`
    Join {
        /// The invitation: one word that begins with https://; `-` reads it from the input, where no other user of the machine sees it
        #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new())]
        invitation: String,
        #[command(flatten)]
        file: ConfigFile,
        /// Even if it is an agent already; it will be another
        #[arg(long)]
        again: bool,
    },
    /// Read the configuration, say what it means, and stop
    CheckConfig {
        #[command(flatten)]
        file: ConfigFile,
    },
    /// Probe once and say what came of it; exits with 1 when the probe fails
    Probe {
        /// `gateway`, `icmp://host`, `tcp://host:port`, `http://…`, `https://…`, `dns://server/name`, or, with
        /// --config, the name of a target
        target: String,
        /// Where targets are looked up by name
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// How long an answer may take
        #[arg(long, default_value = "3s")]
        timeout: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Ask the running agent how it is
    Status {
        #[command(flatten)]
        file: ConfigFile,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print the version
    Version,
}

#[derive(clap::Args)]
struct ConfigFile {
    /// The configuration file
    #[arg(long, value_name = "FILE", default_value = "/etc/denyut/agent.toml")]
    config: PathBuf,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // One provider for HTTPS probes and for the stream.
    if rustls::crypto::ring::default_provider()
        .install_default()
        .is_err()
    {
        eprintln!("error: a TLS provider was installed before main");
        return ExitCode::FAILURE;
    }
    let done = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")
        .and_then(|runtime| {
            let done = runtime.block_on(dispatch(arguments.command));
            // A name look-up that nobody answers may still block a thread.
            runtime.shutdown_background();
            done
        });
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn dispatch(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Run { file } => run(Config::load_to_run(&file.config)?).await?,
        Command::Join {
            invitation,
            file,
            again,
        } => join(&invitation, &Config::load(&file.config)?, again).await?,
        Command::CheckConfig { file } => check_config(&file.config)?,
        Command::Probe {
            target,
            config,
            timeout,
            json,
        } => return probe_once(&target, config.as_deref(), &timeout, json).await,
        Command::Status { file, json } => {
            let document = status::ask(&Config::load(&file.config)?.data_dir).await?;
            if json {
                println!("{document}");
            } else {
                println!("{}", status::for_people(document)?.trim_end());
            }
        }
        Command::Version => println!("denyut-agent {}", env!("CARGO_PKG_VERSION")),
    }
    Ok(ExitCode::SUCCESS)
}

/// Log, data folder, spool, probes, stream; then wait for the signal and stop in the reverse order.
async fn run(config: Config) -> anyhow::Result<()> {
    start_log();

    let _lock = claim_data_dir(&config.data_dir)?;
    let (mut terminate, mut interrupt) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    let status = Arc::new(Mutex::new(status::Status {
        version: env!("CARGO_PKG_VERSION"),
        ..Default::default()
    }));
    let stop_streaming = CancellationToken::new();
    let listener = status::bind(&config.data_dir)?;
    let status_task = tokio::spawn(status::serve(
        listener,
        Arc::clone(&status),
        stop_streaming.clone(),
    ));
    let access = tokio::select! {
        access = access(&config, &status) => access?,
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };
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
    let spooled = watch::Sender::new(spool.range().next - 1);
    let spool = Arc::new(Mutex::new(spool));
    // Orders come from one collector, a few a minute at most; a full queue makes its stream wait.
    let (orders, orders_rx) = mpsc::channel(16);
    let stop_observing = CancellationToken::new();
    if let stream::Access::Joined(held) = &access {
        tokio::spawn(held.clone().keep_certified(stop_streaming.clone()));
    }
    let observer = observe::Observer {
        agent,
        boot,
        interval: config.heartbeat,
        own: config.targets.clone(),
        given,
        prober,
        spool: Arc::clone(&spool),
        spooled: spooled.clone(),
        status: Arc::clone(&status),
    };
    let mut observer_task = tokio::spawn(observer.run(orders_rx, stop_observing.clone()));
    let streamer = stream::Streamer {
        access,
        data_dir: config.data_dir,
        reconnect_max: config.reconnect_max,
        boot,
        first,
        spool,
        spooled,
        orders,
        status,
        revision,
    };
    let mut stream_task = tokio::spawn(streamer.run(stop_streaming.clone()));

    tokio::select! {
        _ = terminate.recv() => info!("SIGTERM: stopping"),
        _ = interrupt.recv() => info!("interrupted: stopping"),
        ended = &mut observer_task => bail!("the observer ended by itself: {ended:?}"),
        ended = &mut stream_task => bail!("the stream ended by itself: {ended:?}"),
    }
    // First the goodbye goes to the spool, then the spool to the collector as far as it can.
    stop_observing.cancel();
    if let Err(error) = observer_task.await {
        error!(%error, "the observer ended badly");
    }
    stop_streaming.cancel();
    if let Err(error) = stream_task.await {
        error!(%error, "the stream ended badly");
    }
    if let Err(error) = status_task.await {
        error!(%error, "the status socket ended badly");
    }
    info!("denyut-agent stopped");
    Ok(())
}

/// To stderr; `DENYUT_LOG` filters it.
fn start_log() {
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("DENYUT_LOG")
                .unwrap_or_else(|_| "info,surge_ping=error".into()),
        )
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_writer(std::io::stderr)
        .init();
    info!(version = env!("CARGO_PKG_VERSION"), "denyut-agent starts");
}

/// How often it is looked whether the machine has joined.
const JOINED_YET: Duration = Duration::from_secs(2);

/// As whom the agent speaks: as its file says, or as what it joined; waits for that.
async fn access(
    config: &Config,
    status: &Arc<Mutex<status::Status>>,
) -> anyhow::Result<stream::Access> {
    if let Some(named) = &config.named {
        return Ok(stream::Access::Named(named.clone()));
    }
    let mut said = false;
    loop {
        if let Some(identity) = identity::Identity::read(&config.data_dir)? {
            info!(agent = %identity.agent, until = %identity.until, "this machine is this agent");
            let held = membership::Held::new(identity, &config.data_dir, status);
            return Ok(stream::Access::Joined(held));
        }
        if !said {
            said = true;
            warn!("{NOT_JOINED}");
            let mut status = status.lock().unwrap_or_else(PoisonError::into_inner);
            status.connection.last_error = Some(NOT_JOINED.to_owned());
        }
        tokio::time::sleep(JOINED_YET).await;
    }
}

const NOT_JOINED: &str = "this machine has not joined a collector; paste the line that `denyut-collector token create` prints there";

async fn join(invitation: &str, config: &Config, again: bool) -> anyhow::Result<()> {
    if let Some(named) = &config.named {
        bail!(
            "the configuration names this agent {}; remove `agent` and `collector.addresses` to let it join",
            named.agent
        );
    }
    let invitation: denyut_proto::Invitation = if invitation == "-" {
        let mut line = String::new();
        // More than any invitation: what follows is none.
        let input = std::io::Read::take(std::io::stdin(), 1_024);
        std::io::BufRead::read_line(&mut std::io::BufReader::new(input), &mut line)
            .context("cannot read the invitation from the input")?;
        line.parse()?
    } else {
        invitation.parse()?
    };
    make_data_dir(&config.data_dir)?;
    let (identity, answer) = membership::join(&config.data_dir, &invitation, again).await?;
    println!(
        "This machine is {} of office {} {}.",
        identity.agent, answer.office, answer.office_name
    );
    if claim_data_dir(&config.data_dir).is_ok() {
        println!("Start the agent: it speaks from then on.");
    } else if again {
        println!("Restart the agent: until then it speaks as what it was.");
    }
    Ok(())
}

/// Makes the data folder and locks it: two agents on one spool would give one sequence two meanings.
fn claim_data_dir(path: &Path) -> anyhow::Result<File> {
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

fn make_data_dir(path: &Path) -> anyhow::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o750)
        .create(path)
        .with_context(|| format!("`data_dir`: cannot make the folder {}", path.display()))
}

fn check_config(path: &Path) -> anyhow::Result<()> {
    let config = Config::load_to_run(path)?;
    probe::Prober::new(config.probe_ca.as_deref())?;
    println!("{} is valid.", path.display());
    if let Some(named) = &config.named {
        println!(
            "agent {} reports at least every {:?} to:",
            named.agent, config.heartbeat
        );
        for uri in &named.collectors {
            println!("  {uri}");
        }
    } else {
        println!(
            "The machine reports at least every {:?}, as the agent that it joins as.",
            config.heartbeat
        );
    }
    println!(
        "It keeps up to {} MiB of heartbeats in {} while no collector can be reached.",
        config.spool_max >> 20,
        config.data_dir.join("spool").display()
    );
    if config.targets.is_empty() {
        println!("It has no targets of its own; the collector may give it some.");
    }
    for target in &config.targets {
        println!(
            "  {} ({}): {} every {:?}, an answer within {:?}",
            target.name,
            target.role.as_str(),
            target.probe,
            target.interval,
            target.timeout
        );
    }
    if let Some(fix) = probe::icmp_permission() {
        println!("Warning: {fix}");
    }
    Ok(())
}

async fn probe_once(
    text: &str,
    config: Option<&Path>,
    timeout: &str,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let config = config.map(Config::load).transpose()?;
    let named = config.as_ref().and_then(|config| {
        config
            .targets
            .iter()
            .find(|target| target.name.as_str() == text)
    });
    let target = if let Some(target) = named {
        target.clone()
    } else {
        let probe: Probe = text.parse().with_context(|| match &config {
                None => "to probe a target by its name, give --config".to_owned(),
                Some(config) => {
                    let own: Vec<&str> = config.targets.iter().map(|t| t.name.as_str()).collect();
                    format!(
                        "no target of the configuration file ({}); targets that the collector gives are not in it",
                        own.join(", ")
                    )
                }
            })?;
        one_off(probe, timeout)?
    };
    let prober = probe::Prober::new(config.as_ref().and_then(|c| c.probe_ca.as_deref()))?;
    let at = machine::wall();
    let probe::Told { outcome, shown } = prober.probe(&target).await;
    let permitted =
        !matches!(outcome, Outcome::Failed(f) if f.reason == denyut_proto::Reason::NotPermitted);
    let fix = if permitted {
        None
    } else {
        probe::icmp_permission()
    };
    let (rtt_us, failure) = match outcome {
        Outcome::Ok { rtt_us } => (Some(rtt_us), None),
        Outcome::Failed(failure) => (None, Some(failure)),
    };
    if json {
        let document = serde_json::json!({
            "probe": target.probe.to_string(),
            "at_ms": at,
            "rtt_us": rtt_us,
            "failure": failure.map(|f| f.reason.as_str()),
            "detail": failure.map(|f| f.detail).filter(|detail| *detail != 0),
            "shown": shown,
            "fix": fix,
        });
        println!("{document}");
    } else {
        match (rtt_us, failure) {
            (Some(rtt_us), _) => println!(
                "{}: answered in {:.3} ms",
                target.probe,
                f64::from(rtt_us) / 1000.0
            ),
            (None, Some(failure)) => println!("{}: failed: {failure}", target.probe),
            (None, None) => {}
        }
        for identity in shown {
            println!("  by {identity}");
        }
        if let Some(fix) = fix {
            println!("{fix}");
        }
    }
    Ok(if failure.is_none() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// A target for a probe given on the command line.
fn one_off(probe: Probe, timeout: &str) -> Result<Target, Invalid> {
    let timeout_text = timeout;
    let timeout = denyut_proto::parse_duration("--timeout", timeout_text)?;
    let (least, most) = Target::TIMEOUT;
    if timeout < least || timeout > most {
        return Err(Invalid::new(
            "--timeout",
            timeout_text,
            "out of range",
            "write 100ms to 60s",
        ));
    }
    Target::new(
        "one-off".parse()?,
        Role::Uplink,
        probe,
        timeout.max(Duration::from_secs(1)),
        timeout,
        HttpExpectation::default(),
    )
}
