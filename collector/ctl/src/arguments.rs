//! What may stand on the command line.

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Asks a denyut collector, and tells it what to do.
///
/// On the collector's machine it goes through the collector's socket, as root or as the collector's user, and may do everything. From elsewhere it
/// needs the collector's address and a token: `denyutctl token create` makes one.
#[derive(Parser)]
#[command(
    name = "denyutctl",
    version,
    arg_required_else_help = true,
    max_term_width = 120
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) collector: Collector,
    /// How to print lists
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        default_value_t,
        value_name = "FORMAT",
        help_heading = "Output"
    )]
    pub(crate) output: Output,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Where the collector is, and who asks.
#[derive(Args)]
#[command(next_help_heading = "The collector")]
pub(crate) struct Collector {
    /// The collector's address (https://denyut.example); its socket on this machine when left out
    #[arg(long, global = true, env = "DENYUT_ADDRESS", value_name = "URL")]
    pub(crate) address: Option<String>,
    /// A file with the token; or the token itself in DENYUT_TOKEN
    #[arg(long, global = true, env = "DENYUT_TOKEN_FILE", value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// Certificates (PEM) to trust for the address, beside those that browsers do
    #[arg(long, global = true, env = "DENYUT_CA", value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// The collector's socket on this machine: `control` in its data folder
    #[arg(
        long,
        global = true,
        env = "DENYUT_SOCKET",
        value_name = "FILE",
        default_value = "/var/lib/denyut-collector/control"
    )]
    pub(crate) socket: PathBuf,
    /// Who you are, through the socket; with a token the collector knows
    #[arg(long, global = true, env = "DENYUT_BY", value_name = "NAME")]
    pub(crate) by: Option<String>,
}

/// How lists are printed.
#[derive(Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people
    #[default]
    Table,
    /// What the API gave
    Json,
    /// A table for programs
    Csv,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Say how the country is: offices by state, and what is broken
    Status,
    /// Offices
    #[command(subcommand)]
    Office(Office),
    /// Links: what an agent probes
    #[command(subcommand)]
    Link(Link),
    /// Incidents: see them, acknowledge them, take them over, note what you know
    #[command(subcommand)]
    Incident(Incident),
    /// Patterns: flapping, relapse, roaming
    #[command(subcommand)]
    Pattern(Pattern),
    /// Silences: nobody is called for what fits one, until it is over
    #[command(subcommand)]
    Silence(Silence),
    /// Receivers: who is told
    #[command(subcommand)]
    Receiver(Receiver),
    /// Routes: who would be told of what
    #[command(subcommand)]
    Route(Route),
    /// Messages to receivers: what waits, and what could not be delivered
    #[command(subcommand)]
    Message(Message),
    /// Agents that have joined
    #[command(subcommand)]
    Agent(Agent),
    /// Invitations: what machines join by
    #[command(subcommand)]
    Invitation(Invitation),
    /// Users
    #[command(subcommand)]
    User(User),
    /// Tokens: what programs ask by
    #[command(subcommand)]
    Token(Token),
    /// Print for how much of a month offices could work
    Report {
        /// Which (2026-11), by the clock of the region, or else of Jakarta; this one when left out
        #[arg(long, value_name = "MONTH")]
        month: Option<String>,
        /// Of each office, or of the offices of each regency, province or the nation together
        #[arg(long, value_enum, default_value_t)]
        per: Per,
        /// Only offices of this region (36, 36.73)
        #[arg(long, value_name = "CODE")]
        region: Option<String>,
        /// Count all hours, and not opening hours only
        #[arg(long)]
        all_hours: bool,
    },
    /// Print what was done, the newest first
    Audit {
        /// At most so many
        #[arg(long, value_name = "N", default_value_t = 100)]
        limit: usize,
    },
    /// Print what happens, as it happens, until Ctrl-C
    Watch {
        /// Only at this office
        #[arg(long, value_name = "CODE")]
        office: Option<String>,
        /// Each sample, too
        #[arg(long)]
        samples: bool,
    },
    /// Say how an office is, for Nagios and its like: exit code 0 (up, or its machines were shut down properly), 1 (not sure, or work is announced), 2 (down, or an incident is open), 3 (nobody can tell)
    Check(Check),
    /// Print what a shell completes commands by
    Completions {
        /// For this one
        shell: clap_complete::Shell,
    },
    /// Write man pages
    Man {
        /// To this folder
        to: PathBuf,
    },
    /// Print the version
    Version,
}

/// What a line of a report is about.
#[derive(Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Per {
    #[default]
    Office,
    Regency,
    Province,
    Nation,
}

impl Per {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Office => "office",
            Self::Regency => "regency",
            Self::Province => "province",
            Self::Nation => "nation",
        }
    }
}

/// What is checked.
#[derive(Args)]
pub(crate) struct Check {
    /// The office's code (36.73.02)
    pub(crate) office: String,
    /// Only this target, as all agents of the office see it
    #[arg(long, value_name = "NAME")]
    pub(crate) target: Option<String>,
    /// How long to wait for the collector, in seconds
    #[arg(short, long, value_name = "S", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub(crate) timeout: u64,
}

#[derive(Subcommand)]
pub(crate) enum Office {
    /// List offices by code
    List {
        /// Only those of this region (36, 36.73)
        #[arg(long, value_name = "CODE")]
        region: Option<String>,
        /// Only those in this state (down, unobserved, suspect, up, …)
        #[arg(long, value_name = "STATE")]
        state: Option<String>,
        /// Only those of this ISP
        #[arg(long, value_name = "NAME")]
        isp: Option<String>,
        /// Only those whose open incident has this cause (uplink, server, …)
        #[arg(long, value_name = "CAUSE")]
        cause: Option<String>,
        /// Only those whose code, name, regency or ISP has this in it
        text: Option<String>,
    },
    /// Show one: its agents, links and patterns
    Show {
        /// Its code (36.73.02)
        office: String,
    },
    /// Register the offices of a CSV file, or change them: all, or none if one is wrong; those that it does not name stay
    ///
    /// Columns: code,name and any of regency,isp,pop,pool,latitude,longitude,hours; a first line names them. What stands in the collector's configuration is changed there.
    Import {
        /// The file; `-` for standard input
        file: PathBuf,
        /// Say what would come of it, and do nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Take an office away that was registered so and has no agents; what was measured there stays
    Remove {
        /// Its code (36.73.02)
        office: String,
    },
}

#[derive(Subcommand)]
pub(crate) enum Link {
    /// Draw a link's round-trip times and losses
    Show {
        /// The office's code (36.73.02)
        office: String,
        /// The agent and the target (cipocok-jaya-1/server)
        link: String,
        /// From so long ago on (1h, 7days)
        #[arg(long, value_name = "TIME", default_value = "24h")]
        last: String,
    },
    /// Ask the agent to probe a target at once
    Probe {
        /// The office's code (36.73.02)
        office: String,
        /// The agent and the target (cipocok-jaya-1/server)
        link: String,
    },
}

#[derive(Subcommand)]
pub(crate) enum Incident {
    /// List the open incidents, the newest first
    List {
        /// Also those that are over
        #[arg(long)]
        all: bool,
        /// Only this office's
        #[arg(long, value_name = "CODE")]
        office: Option<String>,
        /// Only offices of this region (36, 36.73)
        #[arg(long, value_name = "CODE")]
        region: Option<String>,
        /// Only those of this cause (uplink, server, …)
        #[arg(long, value_name = "CAUSE")]
        cause: Option<String>,
        /// At most so many
        #[arg(long, value_name = "N", default_value_t = 100)]
        limit: usize,
    },
    /// Show one: what happened, what people did about it, and who was told
    Show {
        /// Its number
        number: u64,
    },
    /// Say that you know of it: nobody else need be called until that is over
    #[command(visible_alias = "ack")]
    Acknowledge {
        /// Its number
        number: u64,
        /// Why nobody else need be called
        #[arg(long, value_name = "TEXT")]
        why: Option<String>,
        /// For how long (5m to 30days)
        #[arg(long = "for", value_name = "TIME", default_value = "24h")]
        lasts: String,
    },
    /// Take an acknowledgement back
    Withdraw {
        /// Its number
        number: u64,
        /// Why
        #[arg(long, value_name = "TEXT")]
        why: Option<String>,
    },
    /// Note what you know of it
    Note {
        /// Its number
        number: u64,
        /// What you know
        text: String,
    },
    /// Give it to somebody; to nobody without --to
    Assign {
        /// Its number
        number: u64,
        /// That one's name
        #[arg(long, value_name = "NAME")]
        to: Option<String>,
    },
}

#[derive(Subcommand)]
pub(crate) enum Pattern {
    /// List what goes beyond single incidents, by office
    List {
        /// Only offices of this region (36, 36.73)
        #[arg(long, value_name = "CODE")]
        region: Option<String>,
        /// Only this kind (flapping, chronic, relapse, roaming, …)
        #[arg(long, value_name = "KIND")]
        kind: Option<String>,
        /// Only those that last
        #[arg(long)]
        present: bool,
    },
}

#[derive(Subcommand)]
pub(crate) enum Silence {
    /// List those that hold, and those that are over since a while
    List,
    /// Call nobody for what fits, for a while
    Add {
        /// Where: a region's code or its beginning (36.73); may be given again
        #[arg(long = "region", value_name = "CODE", required = true)]
        regions: Vec<String>,
        /// Only for this cause (uplink, server, …); may be given again
        #[arg(long = "cause", value_name = "CAUSE")]
        causes: Vec<String>,
        /// Why nobody need be called
        #[arg(long, value_name = "TEXT")]
        why: String,
        /// For how long (5m to 90days)
        #[arg(long = "for", value_name = "TIME")]
        lasts: String,
    },
    /// End one before its time
    #[command(visible_alias = "end")]
    Expire {
        /// Its number
        number: u64,
    },
}

#[derive(Subcommand)]
pub(crate) enum Receiver {
    /// List those of your regions
    List,
    /// Send one a message that says that it is a test, and say whether it took it
    Test {
        /// Its name
        name: String,
    },
}

#[derive(Subcommand)]
pub(crate) enum Route {
    /// Say who would be told of an incident, when, and what keeps it from the others
    Test {
        /// Where it would be
        #[arg(long, value_name = "CODE")]
        office: String,
        /// What would be broken (uplink, server, lan, power, …)
        #[arg(long, value_name = "CAUSE")]
        cause: String,
        /// It came back after a repair
        #[arg(long)]
        relapse: bool,
        /// A pattern of the office (flapping, roaming, …)
        #[arg(long, value_name = "PATTERN")]
        pattern: Option<String>,
    },
}

#[derive(Subcommand)]
pub(crate) enum Message {
    /// List those that wait to be delivered, and those that cannot be
    List,
    /// Send one again that could not be delivered
    Resend {
        /// Its number
        number: u64,
    },
}

#[derive(Subcommand)]
pub(crate) enum Agent {
    /// List the agents that have joined
    List {
        /// Only offices of this region (36, 36.73)
        #[arg(long, value_name = "CODE")]
        region: Option<String>,
    },
    /// Shut an agent out: its stream ends at once, and its certificate is worth nothing any more
    Revoke {
        /// The agent
        agent: String,
    },
}

#[derive(Subcommand)]
pub(crate) enum Invitation {
    /// Print the line to paste on an office machine, by which it becomes an agent of an office
    Create {
        /// The office's code (36.73.02)
        #[arg(long, value_name = "CODE")]
        office: String,
        /// How long it may be used (1m to 90days)
        #[arg(long, value_name = "TIME", default_value = "24h")]
        expires: String,
        /// How many machines may join by it
        #[arg(long, value_name = "N", default_value_t = 1)]
        uses: u32,
        /// Where the machine finds the collector, if not by the first of `ingest.names` (https://host:port)
        #[arg(long = "at", value_name = "ADDRESS")]
        at: Option<String>,
    },
    /// List those that may still be used, by name; their secrets are not kept
    List,
    /// Take one back; who has joined by it stays
    Revoke {
        /// Its name, as `invitation list` shows it
        name: String,
    },
}

/// What a user may do.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Role {
    /// See
    Viewer,
    /// See, and care for incidents
    Operator,
    /// Everything
    Admin,
}

impl Role {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

/// What may be done with a token.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Scope {
    /// See offices, links, incidents and what was measured
    Read,
    /// Acknowledge, note, assign, silence, probe
    Operate,
    /// Let people, programs and machines in, and shut them out
    Admin,
    /// The collector's own numbers
    Metrics,
}

impl Scope {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Operate => "operate",
            Self::Admin => "admin",
            Self::Metrics => "metrics",
        }
    }
}

#[derive(Subcommand)]
pub(crate) enum User {
    /// List users
    List,
    /// Let somebody in: prints a link by which they choose a password, once, within 72 hours
    Add {
        /// What they log in by: small letters, digits, `.`, `_`, `-`, `@`
        name: String,
        /// What is written under what they do
        #[arg(long, value_name = "NAME")]
        full_name: Option<String>,
        /// What they may do
        #[arg(long, value_enum)]
        role: Role,
        /// Where: a region's code or its beginning (36.73), or `all`; may be given again
        #[arg(long = "region", value_name = "CODE", required = true)]
        regions: Vec<String>,
    },
    /// Change what a user may
    Change {
        /// The user
        name: String,
        /// What is written under what they do
        #[arg(long, value_name = "NAME")]
        full_name: Option<String>,
        /// What they may do
        #[arg(long, value_enum)]
        role: Option<Role>,
        /// Where, instead of where before; may be given again
        #[arg(long = "region", value_name = "CODE")]
        regions: Vec<String>,
    },
    /// Print a new link by which a user chooses a password; the old one holds until then
    Welcome {
        /// The user
        name: String,
    },
    /// Shut a user out for now, with all sessions and tokens
    Disable {
        /// The user
        name: String,
    },
    /// Let a user in again who was shut out
    Enable {
        /// The user
        name: String,
    },
    /// Remove a user with all sessions and tokens; what they did stays
    Remove {
        /// The user
        name: String,
    },
}

#[derive(Subcommand)]
pub(crate) enum Token {
    /// List your tokens; an administrator's list has those of others, too
    List,
    /// Print a new token for a program; nobody can see it again
    Create {
        /// What it is for
        name: String,
        /// What may be done with it; may be given again
        #[arg(long = "scope", value_enum, required = true)]
        scopes: Vec<Scope>,
        /// Where; may be given again. All of your regions when left out
        #[arg(long = "region", value_name = "CODE")]
        regions: Vec<String>,
        /// For how long it is good (1m to 5years)
        #[arg(long, value_name = "TIME", default_value = "90days")]
        expires: String,
    },
    /// Take one away
    Remove {
        /// Its name
        name: String,
    },
}

#[cfg(test)]
mod tests {
    use super::Arguments;
    use clap::{CommandFactory, Parser};

    /// The arguments of a command and its flags, whatever it is: none is named twice, and each is told of.
    #[test]
    fn every_command_is_sound_and_tells_of_itself() {
        fn look(command: &clap::Command) {
            assert!(command.get_about().is_some(), "{}", command.get_name());
            for argument in command.get_arguments() {
                assert!(
                    argument.get_help().is_some(),
                    "{} {}",
                    command.get_name(),
                    argument.get_id()
                );
            }
            let own = command
                .get_arguments()
                .map(|argument| argument.get_id().as_str());
            let mut all: Vec<&str> = own
                .chain(["address", "token_file", "ca", "socket", "by", "output"])
                .collect();
            all.sort_unstable();
            let count = all.len();
            all.dedup();
            assert!(
                all.len() == count || command.get_name() == "denyutctl",
                "{}: {all:?}",
                command.get_name()
            );
            command.get_subcommands().for_each(look);
        }
        let command = Arguments::command();
        command.clone().debug_assert();
        look(&command);
        assert!(
            Arguments::try_parse_from(["denyutctl", "report", "--per", "regency", "--by", "Siti"])
                .is_ok()
        );
    }
}
