//! denyut-agent: probes an office's links, spools the samples to disk and streams them to the collector.

/// Like the standard one, but a reader that is gone ends the program instead of panicking it.
macro_rules! println {
    ($($text:tt)*) => { $crate::say(format_args!($($text)*)) };
}

mod budget;
mod calm;
mod config;
mod connect;
mod delivery;
mod doctor;
mod identity;
mod machine;
mod marks;
mod membership;
mod observe;
mod paths;
mod probe;
mod run;
mod schedule;
#[cfg(windows)]
mod service;
mod spool;
mod status;
mod stream;
mod system;
pub mod tried;
mod update;
mod watchdog;

use anyhow::{Context, bail};
use clap::{Parser, Subcommand};
use config::Config;
use denyut_proto::{HttpExpectation, Invalid, Outcome, Probe, Role, Target};
use run::{claim_data_dir, make_data_dir};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// This program's.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

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
    /// Make this machine an agent, by an invitation from `denyutctl invitation create`
    Join {
        /// The invitation: one word that begins with https://; `-` reads it from the input, where no other user of the machine sees it. Left out,
        /// it is in the file that DENYUT_INVITATION_FILE names
        #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new())]
        invitation: Option<String>,
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
    /// Probe once and say what came of it, and who answers on the way if it fails; exits with 1 when the probe fails
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
    /// Say what is wrong between here and the collector, step by step, and what to do; exits with 1 when something is
    Doctor {
        #[command(flatten)]
        file: ConfigFile,
        /// The language
        #[arg(long, value_enum, default_value_t = doctor::Language::Id)]
        lang: doctor::Language,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// The agent as a service of Windows
    #[cfg(windows)]
    Service {
        #[command(subcommand)]
        action: service::Action,
    },
    /// Print the version
    Version,
}

#[derive(clap::Args)]
struct ConfigFile {
    /// The configuration file
    #[arg(long, value_name = "FILE", default_value_os_t = system::default_config())]
    config: PathBuf,
}

/// Does what the command line says.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // One provider for HTTPS probes and for the stream.
    if rustls::crypto::ring::default_provider()
        .install_default()
        .is_err()
    {
        eprintln!("error: a TLS provider was installed before main");
        return ExitCode::FAILURE;
    }
    // The service manager starts its work on a thread of its own.
    #[cfg(windows)]
    if let Command::Service {
        action: service::Action::Run { file },
    } = arguments.command
    {
        return service::run(file.config);
    }
    match block_on(dispatch(arguments.command)) {
        Ok(code) => code,
        Err(error) => {
            // Where nobody takes that either, the exit code says it.
            writeln!(std::io::stderr(), "error: {error:#}").ok();
            ExitCode::FAILURE
        }
    }
}

/// On a runtime of its own.
fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let done = runtime.block_on(work);
    // A name look-up that nobody answers may still block a thread.
    runtime.shutdown_background();
    done
}

async fn dispatch(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Run { file } => {
            // Before it logs: what is wrong with the configuration is told as of any command.
            Config::load_to_run(&file.config)?;
            run::log_to_stderr();
            return run::run(&file.config, system::Requests::listen()?).await;
        }
        Command::Join {
            invitation,
            file,
            again,
        } => join(invitation.as_deref(), &Config::load(&file.config)?, again).await?,
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
        Command::Doctor { file, lang, json } => {
            if !doctor::examine(&file.config, lang, json).await? {
                return Ok(ExitCode::FAILURE);
            }
        }
        #[cfg(windows)]
        Command::Service { action } => return service::act(action).await,
        Command::Version => println!("denyut-agent {}", VERSION),
    }
    Ok(ExitCode::SUCCESS)
}

/// What is to be the invitation: a word, the first line of the input, or of the file that the environment names.
fn invitation_of(word: Option<&str>) -> anyhow::Result<denyut_proto::Invitation> {
    // More than any invitation: what follows is none.
    let first_line = |input: &mut dyn std::io::Read| {
        let mut line = String::new();
        let input = std::io::Read::take(input, 1_024);
        std::io::BufRead::read_line(&mut std::io::BufReader::new(input), &mut line).map(|_| line)
    };
    let line = match word {
        Some("-") => first_line(&mut std::io::stdin())
            .context("cannot read the invitation from the input")?,
        Some(word) => word.to_owned(),
        None => {
            let path = std::env::var_os(INVITATION_FILE).with_context(|| {
                format!("no invitation: give it as a word, as `-` on the input, or name its file in {INVITATION_FILE}")
            })?;
            let read = std::fs::File::open(&path).and_then(|mut file| first_line(&mut file));
            read.with_context(|| {
                format!(
                    "{INVITATION_FILE}: cannot read {}",
                    Path::new(&path).display()
                )
            })?
        }
    };
    Ok(line.parse()?)
}

const INVITATION_FILE: &str = "DENYUT_INVITATION_FILE";

async fn join(invitation: Option<&str>, config: &Config, again: bool) -> anyhow::Result<()> {
    if let Some(named) = &config.named {
        bail!(
            "the configuration names this agent {}; remove `agent` and `collector.addresses` to let it join",
            named.agent
        );
    }
    let invitation = invitation_of(invitation)?;
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
    match config.per_day {
        Some(per_day) => println!(
            "It puts at most {} KB a day on the network; while nothing changes it speaks less often for that (`status` says).",
            per_day / 1_000
        ),
        None => println!("It sends everything at once, however much that is."),
    }
    if let Some(updates) = &config.updates {
        println!(
            "It looks for a newer version at {} every {}.",
            updates.source.manifest,
            humantime::format_duration(updates.every)
        );
    }
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
    // As the agent does when a link fails.
    let path = if paths::may_be_the_way(outcome) {
        prober.path(&target).await
    } else {
        None
    };
    let path = path.map(|(to, hops)| denyut_proto::Path {
        target: target.name.clone(),
        at,
        to,
        hops,
    });
    if json {
        let document = serde_json::json!({
            "probe": target.probe.to_string(),
            "at_ms": at,
            "rtt_us": rtt_us,
            "failure": failure.map(|f| f.reason.as_str()),
            "detail": failure.map(|f| f.detail).filter(|detail| *detail != 0),
            "shown": shown,
            "path": path.as_ref().map(|path| serde_json::json!({ "to": path.to, "hops": path.hops })),
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
        if let Some(path) = path {
            println!("  way: {path}");
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
