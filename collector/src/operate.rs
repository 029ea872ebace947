//! `denyut-collector token …` and `agent …`: what operators do with tokens and agents.

use crate::clock::Clock;
use crate::config::{Config, Tls};
use crate::join::command::{self, Answer, Ask};
use crate::join::{Members, Name, enter_all};
use crate::{ConfigFile, claim_data_dir, control};
use anyhow::{Context, bail};
use clap::Subcommand;
use denyut_proto::{AgentId, Invalid, OfficeCode};
use denyut_store::Store;
use std::net::SocketAddr;
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
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let said = runtime.block_on(control::ask(&config.data_dir, &control::Ask::Join(ask)))?;
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
