//! `denyut-collector token …`, `agent …` and `incident …`: what operators do with them.

use crate::alert::{
    self, About, Language, Outbox, Severity, SilenceAsk, Silences, Template, To, Wish, Writer,
    samples,
};
use crate::case::{self, Cases, Deed};
use crate::clock::Clock;
use crate::config::{Config, Tls};
use crate::join::command::{self, Answer, Ask};
use crate::join::{Members, Name, enter_all};
use crate::query::IncidentView;
use crate::{ConfigFile, claim_data_dir, control};
use anyhow::{Context, bail};
use clap::Subcommand;
use denyut_detect::calendar::{Holidays, Opening, Zone};
use denyut_detect::{Cause, PatternKind};
use denyut_proto::{AgentId, Invalid, OfficeCode, UnixMillis};
use denyut_store::Store;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

/// What there is to do with tokens.
#[derive(Subcommand)]
pub(crate) enum Token {
    /// Print the line to paste on an office machine, by which it becomes an agent of an office
    Create {
        #[command(flatten)]
        file: ConfigFile,
        /// The office's code (36.73.02)
        #[arg(long, value_name = "CODE")]
        office: OfficeCode,
        /// How long it may be used (1m to 90days)
        #[arg(long, value_name = "TIME", default_value = "24h")]
        expires: String,
        /// How many machines may join by it
        #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        uses: u32,
        /// Where the machine finds the collector, if not by the first of `ingest.names` (https://host:port)
        #[arg(long, value_name = "ADDRESS")]
        address: Option<String>,
    },
    /// List the tokens that may still be used, by name; their secrets are not kept
    List {
        #[command(flatten)]
        file: ConfigFile,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Take a token back; who has joined by it stays
    Revoke {
        #[command(flatten)]
        file: ConfigFile,
        /// Its name, as `token list` shows it
        name: String,
    },
}

/// What there is to do with agents.
#[derive(Subcommand)]
pub(crate) enum Agent {
    /// List the agents that have joined
    List {
        #[command(flatten)]
        file: ConfigFile,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Shut an agent out: its stream ends at once, and its certificate is worth nothing any more
    Revoke {
        #[command(flatten)]
        file: ConfigFile,
        /// The agent
        agent: AgentId,
    },
}

/// What there is to do with incidents.
#[derive(Subcommand)]
pub(crate) enum Incident {
    /// List the open incidents, the newest first
    List {
        #[command(flatten)]
        file: ConfigFile,
        /// Also those that are over
        #[arg(long)]
        all: bool,
        /// Only this office's
        #[arg(long, value_name = "CODE")]
        office: Option<OfficeCode>,
        /// At most so many
        #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1000))]
        limit: u16,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show one, and what people did about it
    Show {
        #[command(flatten)]
        file: ConfigFile,
        /// Its number
        number: u64,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Say that you know of it: nobody else need be called until that is over
    Acknowledge {
        #[command(flatten)]
        who: Who,
        /// Why nobody else need be called
        #[arg(long, value_name = "TEXT")]
        why: Option<String>,
        /// For how long (5m to 30days)
        #[arg(long = "for", value_name = "TIME", default_value = "24h")]
        lasts: String,
    },
    /// Take an acknowledgement back
    Withdraw {
        #[command(flatten)]
        who: Who,
        /// Why
        #[arg(long, value_name = "TEXT")]
        why: Option<String>,
    },
    /// Note what you know of it
    Note {
        #[command(flatten)]
        who: Who,
        /// What you know
        text: String,
    },
    /// Give it to somebody; to nobody without --to
    Assign {
        #[command(flatten)]
        who: Who,
        /// That one's name
        #[arg(long, value_name = "NAME")]
        to: Option<String>,
    },
}

/// Who does something about which incident.
#[derive(clap::Args)]
pub(crate) struct Who {
    #[command(flatten)]
    file: ConfigFile,
    /// The incident's number
    number: u64,
    /// Who you are
    #[arg(long, value_name = "NAME")]
    by: String,
}

/// What there is to do with messages.
#[derive(Subcommand)]
pub(crate) enum Message {
    /// List those that wait to be delivered, and those that cannot be
    List {
        #[command(flatten)]
        file: ConfigFile,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Send one again that could not be delivered
    Resend {
        #[command(flatten)]
        file: ConfigFile,
        /// Its number
        number: u64,
    },
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

/// What there is to do with silences.
#[derive(Subcommand)]
pub(crate) enum Silence {
    /// List those that hold, and those that are over since a while
    List {
        #[command(flatten)]
        file: ConfigFile,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Call nobody for what fits, for a while
    Add {
        #[command(flatten)]
        file: ConfigFile,
        /// Where: a region's code or its beginning (36.73); may be given again
        #[arg(long = "region", value_name = "CODE", required = true)]
        regions: Vec<String>,
        /// Only for this cause (uplink, server, …); may be given again
        #[arg(long = "cause", value_name = "CAUSE")]
        causes: Vec<String>,
        /// Who you are
        #[arg(long, value_name = "NAME")]
        by: String,
        /// Why nobody need be called
        #[arg(long, value_name = "TEXT")]
        why: String,
        /// For how long (5m to 90days)
        #[arg(long = "for", value_name = "TIME")]
        lasts: String,
    },
    /// End one before its time
    End {
        #[command(flatten)]
        file: ConfigFile,
        /// Its number
        number: u64,
    },
}

/// Where agents find the collector.
pub(crate) fn address(tls: Option<&Tls>, listening: SocketAddr) -> String {
    let name = tls.and_then(|tls| tls.names.first());
    let host = name.map_or_else(|| listening.ip().to_string(), Name::in_address);
    format!("https://{host}:{}", listening.port())
}

pub(crate) fn token(token: Token) -> anyhow::Result<()> {
    match token {
        Token::Create {
            file,
            office,
            expires,
            uses,
            address,
        } => {
            let lasts = command::lasts(&expires)?;
            if let Some(address) = &address
                && !address.starts_with("https://")
            {
                return Err(Invalid::new(
                    "--address",
                    address,
                    "not an https address",
                    "write it like `https://collector.example:7443`",
                )
                .into());
            }
            let address = address.map(|address| address.trim_end_matches('/').to_owned());
            let ask = Ask::Invite {
                office: office.clone(),
                uses,
                lasts,
                address,
            };
            let Answer::Invited(invitation, until) = put(&file, ask)? else {
                bail!("the collector is of another version");
            };
            let machines = match uses {
                1 => "one machine".to_owned(),
                _ => format!("{uses} machines"),
            };
            eprintln!(
                "For {machines} of office {office}, until {until}. On the machine, as administrator:"
            );
            println!("denyut-agent join '{invitation}'");
        }
        Token::List { file, json } => {
            let Answer::Tokens(tokens) = put(&file, Ask::Tokens)? else {
                bail!("the collector is of another version");
            };
            if json {
                println!("{}", serde_json::to_string(&tokens)?);
                return Ok(());
            }
            for (name, token) in &tokens {
                println!(
                    "{name}  office {}  for {} more  until {}",
                    token.office, token.uses, token.expires
                );
            }
            if tokens.is_empty() {
                println!("There are no tokens.");
            }
        }
        Token::Revoke { file, name } => {
            put(&file, Ask::ForgetToken(name.clone()))?;
            println!("Nobody can join by {name} any more.");
        }
    }
    Ok(())
}

pub(crate) fn agent(agent: Agent) -> anyhow::Result<()> {
    match agent {
        Agent::List { file, json } => {
            let Answer::Members(members) = put(&file, Ask::Members)? else {
                bail!("the collector is of another version");
            };
            if json {
                println!("{}", serde_json::to_string(&members)?);
                return Ok(());
            }
            for (id, member) in &members {
                let state = match member.revoked {
                    Some(at) => format!("revoked {at}"),
                    None => format!("certified until {}", member.certified_until),
                };
                let twin = member.twin_of.as_ref();
                let twin =
                    twin.map_or_else(String::new, |of| format!("  was {of} on a copied disk"));
                println!(
                    "{id}  office {}  joined {}  {state}{twin}",
                    member.office, member.joined
                );
            }
            if members.is_empty() {
                println!("No agent has joined.");
            }
        }
        Agent::Revoke { file, agent } => {
            let Answer::Revoked(all) = put(&file, Ask::Revoke(agent.clone()))? else {
                bail!("the collector is of another version");
            };
            for one in all {
                let why = if one == agent {
                    ""
                } else {
                    ", which was the same machine's before"
                };
                println!("{one} is shut out{why}.");
            }
        }
    }
    Ok(())
}

/// Asks the collector that runs on the data folder; does it here if none does.
fn put(file: &ConfigFile, ask: Ask) -> anyhow::Result<Answer> {
    let config = Config::load(&file.config)?;
    let Some(tls) = &config.tls else {
        bail!("{}", command::PLAINTEXT);
    };
    let Ok(_lock) = claim_data_dir(&config.data_dir) else {
        let said = said(&config.data_dir, &control::Ask::Join(ask))?;
        return serde_json::from_str(&said).context("the collector is of another version");
    };
    if config.ingest.port() == 0 && matches!(ask, Ask::Invite { address: None, .. }) {
        bail!("`ingest.listen` names no port, and the collector does not run: name `--address`");
    }
    let address = address(Some(tls), config.ingest);
    let now = Clock::start().read().now;
    let store = Store::open(&config.data_dir, now)?;
    let authority = config.authority(now)?.context(command::PLAINTEXT)?;
    let state = Arc::clone(&store.state) as Arc<dyn denyut_store::state::State>;
    enter_all(&config.registry, &*state)?;
    let members = Members::open(state, Arc::new(config.registry), authority)?;
    Ok(command::answer(ask, &members, None, &address, now)?)
}

pub(crate) fn incident(incident: Incident) -> anyhow::Result<()> {
    let (who, deed) = match incident {
        Incident::List {
            file,
            all,
            office,
            limit,
            json,
        } => {
            let ask = case::Ask::List {
                open: !all,
                office,
                most: limit.into(),
            };
            let found = put_incident(&file, ask)?;
            if json {
                println!("{}", serde_json::to_string(&found)?);
                return Ok(());
            }
            for one in &found {
                println!("{}", line_of(one));
            }
            if found.is_empty() {
                println!("There are no {}incidents.", if all { "" } else { "open " });
            }
            return Ok(());
        }
        Incident::Show { file, number, json } => {
            let found = put_incident(&file, case::Ask::Show(number))?;
            for one in &found {
                if json {
                    println!("{}", serde_json::to_string(one)?);
                } else {
                    show(one);
                }
            }
            return Ok(());
        }
        Incident::Acknowledge { who, why, lasts } => {
            let lasts = Some(lasts);
            (who, Deed::Acknowledge { why, lasts })
        }
        Incident::Withdraw { who, why } => (who, Deed::Withdraw { why }),
        Incident::Note { who, text } => (who, Deed::Note { text }),
        Incident::Assign { who, to } => (who, Deed::Assign { to }),
    };
    let ask = case::Ask::Act {
        number: who.number,
        by: who.by,
        deed,
    };
    for one in &put_incident(&who.file, ask)? {
        println!("{}", line_of(one));
    }
    Ok(())
}

/// An incident in a line.
fn line_of(one: &IncidentView) -> String {
    let incident = &one.incident;
    let until = incident.facts.resolved_ms;
    let until = until.map_or_else(String::new, |at| format!(" until {at}"));
    let known = one.acknowledged.as_ref().map_or_else(String::new, |known| {
        format!("  {} knows of it until {}", known.by, known.until_ms)
    });
    let whose = one.assignee.as_ref();
    let whose = whose.map_or_else(String::new, |name| format!("  for {name}"));
    format!(
        "#{}  {}  {}  {}  since {}{until}{known}{whose}",
        incident.number,
        one.status.as_str(),
        incident.subject(),
        incident.facts.cause.as_str(),
        incident.facts.opened_ms
    )
}

/// All of it that people look for.
fn show(one: &IncidentView) {
    println!("{}", line_of(one));
    if let Some(at) = one.incident.paged_ms {
        println!("  somebody is to be called since {at}");
    }
    for (what, number) in [
        ("came back after", one.incident.relapse_of),
        ("is part of", one.incident.parent),
    ] {
        if let Some(number) = number {
            println!("  {what} #{number}");
        }
    }
    // What happened, what people did and who was told, in the order of time.
    let mut lines: Vec<(UnixMillis, String)> = Vec::new();
    for revision in &one.incident.revisions {
        let subject = [
            revision.agent.as_ref().map(ToString::to_string),
            revision.target.as_ref().map(ToString::to_string),
        ];
        let subject: Vec<String> = subject.into_iter().flatten().collect();
        let text = format!("{}  {}", revision.reason.as_str(), subject.join("/"));
        lines.push((revision.at_ms, text));
    }
    let steps = one.steps.iter();
    lines.extend(steps.map(|step| (step.at_ms, format!("{}: {}", step.by, step.what))));
    let told = one.told.iter();
    lines.extend(told.map(|one| {
        (
            one.at_ms,
            format!("{} was told: {}", one.receiver, one.state),
        )
    }));
    lines.sort_by_key(|(at, _)| *at);
    for (at, text) in lines {
        println!("  {at}  {text}");
    }
}

/// Asks the collector that runs on the data folder; does it here if none does.
fn put_incident(file: &ConfigFile, ask: case::Ask) -> anyhow::Result<Vec<IncidentView>> {
    let config = Config::load(&file.config)?;
    let Ok(_lock) = claim_data_dir(&config.data_dir) else {
        let said = said(&config.data_dir, &control::Ask::Incident(ask))?;
        return serde_json::from_str(&said).context("the collector is of another version");
    };
    let now = Clock::start().read().now;
    let store = Store::open(&config.data_dir, now)?;
    let state = Arc::clone(&store.state) as Arc<dyn denyut_store::state::State>;
    Ok(Cases::new(state, None).answer(ask, now)?)
}

/// What the running collector says.
fn said(data_dir: &Path, ask: &control::Ask) -> anyhow::Result<String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(control::ask(data_dir, ask))
}

pub(crate) fn message(message: Message) -> anyhow::Result<()> {
    match message {
        Message::List { file, json } => {
            let all = put_message(&file, &alert::Ask::List)?;
            if json {
                println!("{}", serde_json::to_string(&all)?);
                return Ok(());
            }
            for one in &all {
                println!("{}", line_of_message(one));
            }
            if all.is_empty() {
                println!("No message waits, and none is dead.");
            }
        }
        Message::Resend { file, number } => {
            for one in &put_message(&file, &alert::Ask::Resend(number))? {
                println!("{}", line_of_message(one));
            }
        }
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
            let language = match language.as_str() {
                "id" => Language::Id,
                "en" => Language::En,
                _ => {
                    let fix = "write `id` or `en`";
                    let problem = "no such language";
                    return Err(Invalid::new("--language", language, problem, fix).into());
                }
            };
            println!("{}", Template::own(language).trim_end());
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

/// Says what keeps an incident from everybody, whatever the routes say.
fn hindrances(
    file: &ConfigFile,
    config: &Config,
    about: &About,
    now: UnixMillis,
) -> anyhow::Result<()> {
    for office in &about.offices {
        if !config.registry.offices.contains_key(office) {
            println!("There is no office {office}; it is asked for all the same.");
        }
        let opening = config.setup.opening(office);
        if !opening.is_working(now) {
            let next = opening.next_working(now);
            let next = next.map_or("never".to_owned(), |at| format!("not before {at}"));
            println!("The office is closed then: somebody is called for it {next}.");
        }
        let works = config.setup.maintenance.iter();
        for work in works.filter(|work| work.is_of(office)) {
            if let Some((_, until)) = work.when.holding(now, Zone::of(office)) {
                let why = &work.reason;
                println!("Work is announced until {until} ({why}): trouble in it is no incident.");
            }
        }
    }
    if config.data_dir.is_dir() {
        let (all, _) = put_silence(file, &SilenceAsk::List)?;
        for one in all.iter().filter(|one| one.covers(about, now)) {
            println!(
                "Silence {} holds until {}: nobody is told before ({}: {}).",
                one.number, one.until_ms, one.by, one.why
            );
        }
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
    if relapse {
        patterns.push(PatternKind::Relapse);
    }
    let about = About {
        offices: vec![office.clone()],
        cause: cause_of(&cause)?,
        severity: if relapse {
            Severity::Critical
        } else {
            Severity::Warning
        },
        patterns,
    };
    let (opening, every_day) = (config.setup.opening(&office), Holidays::none());
    hindrances(&file, &config, &about, now)?;
    for route in &config.alerts.routes {
        let what = route.describe();
        let whom = match &route.to {
            To::Receiver(name) => name.clone(),
            To::Role(role) => format!("every {role}"),
        };
        if let Err(why) = route.takes(&about) {
            println!("{whom} is not told by this route, for its `{why}`: {what}.");
            continue;
        }
        let after = match opening.after(now, route.after) {
            _ if route.after.is_zero() => String::new(),
            Some(at) => format!(" at {at}, if nobody cares for it until then"),
            None => " never: the office is never open".to_owned(),
        };
        let hours = route.hours.as_ref().map(|hours| Opening {
            hours,
            holidays: &every_day,
            ..opening
        });
        let hours = match hours.filter(|hours| !hours.is_open(now)) {
            None => String::new(),
            Some(hours) => hours.next_open(now).map_or_else(
                || " never: it has no hours".to_owned(),
                |at| format!(" at {at}, when its hours begin"),
            ),
        };
        let when = after + &hours;
        let led = config.alerts.receivers.iter();
        let led: Vec<_> = led.filter(|one| route.leads_to(one, &about)).collect();
        for one in &led {
            println!(
                "{} ({}) is told{when}: {what}.",
                one.name,
                one.channel.describe()
            );
        }
        if led.is_empty() {
            println!("{whom} would be told of {what}, but none of them has this region.");
        }
    }
    if config.alerts.routes.is_empty() {
        println!("Nobody is told: there is no route.");
    }
    Ok(())
}

/// A message in a line.
fn line_of_message(one: &alert::Message) -> String {
    let state = match one.dead_ms {
        Some(at) => format!("dead since {at}"),
        None if one.attempts == 0 => "waits".to_owned(),
        None => format!("is sent again {}", one.next_ms),
    };
    let error = one.error.as_ref();
    let error = error.map_or_else(String::new, |error| format!("  ({error})"));
    format!(
        "{}  to {}  made {}  {state}  {} in vain{error}  {}",
        one.number, one.receiver, one.made_ms, one.attempts, one.notice.title
    )
}

/// Asks the collector that runs on the data folder; does it here if none does.
fn put_message(file: &ConfigFile, ask: &alert::Ask) -> anyhow::Result<Vec<alert::Message>> {
    let config = Config::load(&file.config)?;
    let Ok(_lock) = claim_data_dir(&config.data_dir) else {
        let said = said(&config.data_dir, &control::Ask::Message(ask.clone()))?;
        return serde_json::from_str(&said).context("the collector is of another version");
    };
    let now = Clock::start().read().now;
    let store = Store::open(&config.data_dir, now)?;
    let state = Arc::clone(&store.state) as Arc<dyn denyut_store::state::State>;
    Outbox::new(state, Arc::default()).answer(ask, now)
}

fn cause_of(text: &str) -> Result<Cause, Invalid> {
    let known = Cause::ALL.into_iter().find(|one| one.as_str() == text);
    known.ok_or_else(|| {
        let all = Cause::ALL.map(Cause::as_str).join(", ");
        let fix = format!("write one of {all}");
        Invalid::new("--cause", text, "no such cause", fix)
    })
}

pub(crate) fn silence(silence: Silence) -> anyhow::Result<()> {
    let (file, ask, json) = match silence {
        Silence::List { file, json } => (file, SilenceAsk::List, json),
        Silence::Add {
            file,
            regions,
            causes,
            by,
            why,
            lasts,
        } => {
            let causes: Result<Vec<Cause>, Invalid> =
                causes.iter().map(|cause| cause_of(cause)).collect();
            let wish = Wish::new(regions, causes?, by, why, lasts);
            (file, SilenceAsk::Add(wish), false)
        }
        Silence::End { file, number } => (file, SilenceAsk::End(number), false),
    };
    let is_list = matches!(ask, SilenceAsk::List);
    let (all, now) = put_silence(&file, &ask)?;
    if json {
        println!("{}", serde_json::to_string(&all)?);
        return Ok(());
    }
    for one in &all {
        let causes: Vec<&str> = one.causes.iter().map(|cause| cause.as_str()).collect();
        let causes = if causes.is_empty() {
            "every cause".to_owned()
        } else {
            causes.join(" or ")
        };
        let state = if now < one.until_ms {
            "until"
        } else {
            "over since"
        };
        println!(
            "{}  {} in {}  {state} {}  {}: {}",
            one.number,
            causes,
            one.regions.join(" or "),
            one.until_ms,
            one.by,
            one.why
        );
    }
    if all.is_empty() && is_list {
        println!("There are no silences.");
    }
    Ok(())
}

/// Asks the collector that runs on the data folder; does it here if none does. The time by which it was answered, too.
fn put_silence(
    file: &ConfigFile,
    ask: &SilenceAsk,
) -> anyhow::Result<(Vec<alert::Silence>, UnixMillis)> {
    let config = Config::load(&file.config)?;
    let now = Clock::start().read().now;
    let Ok(_lock) = claim_data_dir(&config.data_dir) else {
        let said = said(&config.data_dir, &control::Ask::Silence(ask.clone()))?;
        let all = serde_json::from_str(&said);
        return Ok((all.context("the collector is of another version")?, now));
    };
    let store = Store::open(&config.data_dir, now)?;
    let state = Arc::clone(&store.state) as Arc<dyn denyut_store::state::State>;
    Ok((Silences::new(state, Arc::default()).answer(ask, now)?, now))
}
