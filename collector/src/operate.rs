//! `denyut-collector message …` and `route …`: what its configuration makes of messages, and to whom they go.

use crate::alert::{self, Language, Rehearsal, Silences, Supposed, Template, Writer, samples};
use crate::clock::Clock;
use crate::config::{Config, Tls};
use crate::join::Name;
use crate::{ConfigFile, claim_data_dir, control};
use anyhow::{Context, bail};
use clap::Subcommand;
use denyut_detect::{Cause, PatternKind};
use denyut_proto::{Invalid, OfficeCode, UnixMillis};
use denyut_store::Store;
use reqwest::Method;
use std::net::SocketAddr;
use std::sync::Arc;

/// What there is to do with messages.
#[derive(Subcommand)]
pub(crate) enum Message {
    /// Print what a receiver would read of some incidents that might be, by its template
    Preview {
        #[command(flatten)]
        file: ConfigFile,
        /// Whose
        #[arg(long, value_name = "NAME")]
        receiver: String,
    },
    /// Send a receiver a message that says that it is a test, and say whether it took it
    Test {
        #[command(flatten)]
        file: ConfigFile,
        /// Whose
        #[arg(long, value_name = "NAME")]
        receiver: String,
    },
    /// Print the built-in template, to be changed and named as `template` of a receiver
    Template {
        /// `id` or `en`
        #[arg(long, value_name = "LANGUAGE", default_value = "id")]
        language: String,
    },
}

/// What there is to do with routes.
#[derive(Subcommand)]
pub(crate) enum Route {
    /// Say who would be told of an incident, when, and what keeps it from the others
    Test {
        #[command(flatten)]
        file: ConfigFile,
        /// Where it would be
        #[arg(long, value_name = "CODE")]
        office: OfficeCode,
        /// What would be broken (uplink, server, lan, power, …)
        #[arg(long, value_name = "CAUSE")]
        cause: String,
        /// It came back after a repair
        #[arg(long)]
        relapse: bool,
        /// A pattern of the office (flapping, roaming, …); may be given again
        #[arg(long, value_name = "PATTERN")]
        pattern: Vec<String>,
        /// When it would be told of; now when left out (2026-11-26T20:00:00+07:00)
        #[arg(long, value_name = "TIME")]
        at: Option<String>,
    },
}

/// Where agents find the collector.
pub(crate) fn address(tls: Option<&Tls>, listening: SocketAddr) -> String {
    let name = tls.and_then(|tls| tls.names.first());
    let host = name.map_or_else(|| listening.ip().to_string(), Name::in_address);
    format!("https://{host}:{}", listening.port())
}

pub(crate) fn message(message: Message) -> anyhow::Result<()> {
    match message {
        Message::Preview { file, receiver } => preview(&file, &receiver)?,
        Message::Test { file, receiver } => {
            let config = Config::load(&file.config)?;
            let receiver = receiver_of(&config, &receiver)?;
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .context("cannot start the runtime")?;
            let sent = runtime.block_on(receiver.test(Clock::start().read().now))?;
            let (name, kind) = (&receiver.name, receiver.channel.describe());
            if let Err(why) = sent {
                bail!("{name} ({kind}) did not take it: {why}");
            }
            println!("{name} ({kind}) took it.");
        }
        Message::Template { language } => {
            let known = Language::of_code(&language).ok_or_else(|| {
                let fix = "write `id` or `en`";
                Invalid::new("--language", language, "no such language", fix)
            })?;
            println!("{}", Template::own(known).trim_end());
        }
    }
    Ok(())
}

/// The receiver of a name.
fn receiver_of<'a>(config: &'a Config, name: &str) -> Result<&'a alert::Receiver, Invalid> {
    let found = config.alerts.receivers.iter().find(|one| one.name == name);
    found.ok_or_else(|| {
        let all = config.alerts.receivers.iter();
        let all: Vec<&str> = all.map(|one| one.name.as_str()).collect();
        let fix = match all[..] {
            [] => "add a [[receiver]]".to_owned(),
            _ => format!("write one of {}", all.join(", ")),
        };
        Invalid::new("--receiver", name, "no receiver of this name", fix)
    })
}

/// Prints what a receiver would read.
fn preview(file: &ConfigFile, name: &str) -> anyhow::Result<()> {
    let config = Config::load(&file.config)?;
    let receiver = receiver_of(&config, name)?;
    let now = Clock::start().read().now;
    let writer = Writer::new(&config.alerts, receiver, &config.registry, now)?;
    for (i, sample) in samples(now).into_iter().enumerate() {
        if i > 0 {
            println!("\n———\n");
        }
        println!("{}", writer.preview(&sample)?);
    }
    Ok(())
}

/// Does what the command line says about routes.
pub(crate) fn route(route: Route) -> anyhow::Result<()> {
    let Route::Test {
        file,
        office,
        cause,
        relapse,
        pattern,
        at,
    } = route;
    let config = Config::load(&file.config)?;
    let now = match at {
        None => Clock::start().read().now,
        Some(text) => {
            let parsed: Result<jiff::Timestamp, _> = text.parse();
            let fix = "write it like `2026-11-26T20:00:00+07:00`";
            let at = parsed.map_err(|_| Invalid::new("--at", text, "not a moment", fix))?;
            UnixMillis(at.as_millisecond())
        }
    };
    let mut patterns = Vec::new();
    for text in pattern {
        let known = PatternKind::ALL
            .into_iter()
            .find(|one| one.as_str() == text);
        patterns.push(known.ok_or_else(|| {
            let all = PatternKind::ALL.map(PatternKind::as_str).join(", ");
            Invalid::new(
                "--pattern",
                text,
                "no such pattern",
                format!("write one of {all}"),
            )
        })?);
    }
    let supposed = Supposed {
        cause: cause_of(&cause)?,
        relapse,
        patterns,
        at: now,
        office,
    };
    let silences = if config.data_dir.is_dir() {
        silences(&config)?
    } else {
        Vec::new()
    };
    let office = supposed.office.clone();
    let rehearsal = Rehearsal {
        alerts: &config.alerts,
        registry: &config.registry,
        opening: config.setup.opening(&office),
        maintenance: &config.setup.maintenance,
        silences: &silences,
        all_routes: true,
    };
    for line in rehearsal.play(supposed) {
        println!("{line}");
    }
    Ok(())
}

fn cause_of(text: &str) -> Result<Cause, Invalid> {
    let known = Cause::ALL.into_iter().find(|one| one.as_str() == text);
    known.ok_or_else(|| {
        let all = Cause::ALL.map(Cause::as_str).join(", ");
        let fix = format!("write one of {all}");
        Invalid::new("--cause", text, "no such cause", fix)
    })
}

/// The silences of a collector, whether it runs or not.
fn silences(config: &Config) -> anyhow::Result<Vec<alert::Silence>> {
    let Ok(_lock) = claim_data_dir(&config.data_dir) else {
        let said = control::ask(
            &config.data_dir,
            &Method::GET,
            "/api/v1/silences?limit=1000",
            None,
        )?;
        return serde_json::from_value(said).context("the collector is of another version");
    };
    let store = Store::open(&config.data_dir, Clock::start().read().now)?;
    let state = Arc::clone(&store.state) as Arc<dyn denyut_store::state::State>;
    Silences::new(state, Arc::default()).list()
}
