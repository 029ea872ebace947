//! The keys of the state: what lies where, and in which form.
//!
//! What changes with every heartbeat is packed (postcard, behind the version of its form); everything else is JSON.

use crate::join::Fingerprint;
use anyhow::Context;
use denyut_proto::{AgentId, LinkId, OfficeCode, Secret};
use denyut_store::state::{Change, State};
use serde::{Serialize, de::DeserializeOwned};

/// The worker's place in the log.
pub(crate) const CHECKPOINT: &str = "checkpoint";
/// What the detector knows of an agent: [`denyut_detect::Agent`], packed.
pub(crate) const AGENTS: &str = "agent/";
/// When it was there: [`denyut_detect::presence::Runs`], packed.
pub(crate) const RUNS: &str = "runs/";
/// What its targets showed of themselves: [`denyut_detect::thing::Sightings`], packed.
pub(crate) const SIGHTINGS: &str = "sightings/";
/// What an agent last said of itself when it connected: [`crate::registry::Introduction`].
pub(crate) const INTRODUCTIONS: &str = "introduction/";
/// Permissions to join, by the digest of their secret: [`crate::join::Offer`].
pub(crate) const OFFERS: &str = "token/";
/// Machines that have joined, by agent: [`crate::join::Member`].
pub(crate) const MEMBERS: &str = "member/";
/// What the detector knows of a link: [`denyut_detect::Link`], packed.
pub(crate) const LINKS: &str = "link/";
/// When it was down: [`denyut_detect::link::Past`].
pub(crate) const PASTS: &str = "past/";
/// The ways to its target when it had failed, the last first: [`denyut_proto::Path`]s, packed.
pub(crate) const PATHS: &str = "path/";
/// What a link was before the first sample of a day: [`denyut_detect::link::Fold`], packed.
pub(crate) const FOLDS: &str = "fold/";
/// An office over time: [`denyut_detect::detector::Sight`].
pub(crate) const OFFICES: &str = "office/";
/// All incidents by number: [`denyut_detect::Incident`].
pub(crate) const INCIDENTS: &str = "incident/";
/// What people did about an incident, by its number and the step's: [`crate::case::Step`].
pub(crate) const CASES: &str = "case/";
/// Incidents that have changed since their receivers were thought of, by their number.
pub(crate) const NEWS: &str = "news/";
/// What a receiver is told together: [`crate::alert`]'s groups.
pub(crate) const GROUPS: &str = "group/";
/// Messages on their way, by receiver and number: [`crate::alert::Message`].
pub(crate) const OUTBOX: &str = "outbox/";
/// Messages that could not be delivered, by their number.
pub(crate) const DEAD: &str = "dead/";
/// What a receiver calls the first message of what belongs together.
pub(crate) const THREADS: &str = "thread/";
/// Who was told of an incident, by its number and the message's: [`crate::alert::Telling`].
pub(crate) const TOLD: &str = "told/";
/// How far a bot of Telegram was heard, by its number.
pub(crate) const TELEGRAM: &str = "telegram/";
/// Silences by their number: [`crate::alert::Silence`].
pub(crate) const SILENCES: &str = "silence/";
/// Users by their name: [`crate::access`]'s.
pub(crate) const USERS: &str = "user/";
/// Sessions of users, by the digest of their secret.
pub(crate) const SESSIONS: &str = "session/";
/// Tokens of programs, by their name.
pub(crate) const API_TOKENS: &str = "api_token/";
/// What was done, by its number: [`crate::access::Entry`].
pub(crate) const AUDIT: &str = "audit/";
/// Offices that people register while the collector runs, by code: [`crate::register::Registration`].
pub(crate) const REGISTRATIONS: &str = "registration/";
/// The place in the log up to which a store was sent everything, by its name.
pub(crate) const EXPORTS: &str = "export/";
/// Numbers of reports, by month and what they are of.
pub(crate) const REPORTS: &str = "report/";
/// Answers to requests that may come again, by the digest of who and which.
pub(crate) const ANSWERS: &str = "answer/";
/// The highest number of a message.
pub(crate) const MESSAGES: &str = "messages";
/// The numbers of those that may be judged again.
pub(crate) const LIVE: &str = "live/";
/// The numbers of open incidents by office; of common causes by their number.
pub(crate) const OPEN: &str = "open/";

/// The form of packed values; another one is read as nothing, and judged again from the samples.
const FORM: u8 = 1;

pub(crate) fn agent(agent: &AgentId) -> String {
    format!("{AGENTS}{agent}")
}

pub(crate) fn runs(agent: &AgentId) -> String {
    format!("{RUNS}{agent}")
}

pub(crate) fn sightings(agent: &AgentId) -> String {
    format!("{SIGHTINGS}{agent}")
}

pub(crate) fn introduction(agent: &AgentId) -> String {
    format!("{INTRODUCTIONS}{agent}")
}

pub(crate) fn offer(secret: &Secret) -> String {
    format!("{OFFERS}{}", Fingerprint::of(&secret.0))
}

pub(crate) fn member(agent: &AgentId) -> String {
    format!("{MEMBERS}{agent}")
}

pub(crate) fn links_of(agent: &AgentId) -> String {
    format!("{LINKS}{agent}/")
}

pub(crate) fn link(link: &LinkId) -> String {
    format!("{LINKS}{link}")
}

pub(crate) fn past(link: &LinkId) -> String {
    format!("{PASTS}{link}")
}

pub(crate) fn path(link: &LinkId) -> String {
    format!("{PATHS}{link}")
}

pub(crate) fn folds_of(link: &LinkId) -> String {
    format!("{FOLDS}{link}/")
}

/// Days since 1970 in five digits: up to the year 2243.
pub(crate) fn fold(link: &LinkId, day: i64) -> String {
    format!("{FOLDS}{link}/{day:05}")
}

pub(crate) fn office(office: &OfficeCode) -> String {
    format!("{OFFICES}{office}")
}

pub(crate) fn incident(number: u64) -> String {
    format!("{INCIDENTS}{number:012}")
}

pub(crate) fn case(number: u64) -> String {
    format!("{CASES}{number:012}/")
}

pub(crate) fn step(number: u64, step: usize) -> String {
    format!("{}{step:04}", case(number))
}

pub(crate) fn registration(office: &OfficeCode) -> String {
    format!("{REGISTRATIONS}{office}")
}

pub(crate) fn export(name: &str) -> String {
    format!("{EXPORTS}{name}")
}

pub(crate) fn news(number: u64) -> String {
    format!("{NEWS}{number:012}")
}

pub(crate) fn group(receiver: &str, together: &str) -> String {
    format!("{GROUPS}{receiver} {together}")
}

pub(crate) fn user(name: &str) -> String {
    format!("{USERS}{name}")
}

pub(crate) fn session(digest: &str) -> String {
    format!("{SESSIONS}{digest}")
}

pub(crate) fn api_token(name: &str) -> String {
    format!("{API_TOKENS}{name}")
}

pub(crate) fn audit(number: u64) -> String {
    format!("{AUDIT}{number:012}")
}

pub(crate) fn messages_to(receiver: &str) -> String {
    format!("{OUTBOX}{receiver}/")
}

pub(crate) fn message(receiver: &str, number: u64) -> String {
    format!("{OUTBOX}{receiver}/{number:012}")
}

pub(crate) fn thread(receiver: &str, together: &str) -> String {
    format!("{THREADS}{receiver} {together}")
}

/// Those of an incident.
pub(crate) fn told_of(incident: u64) -> String {
    format!("{TOLD}{incident:012}/")
}

pub(crate) fn told(incident: u64, message: u64) -> String {
    format!("{}{message:012}", told_of(incident))
}

pub(crate) fn telegram(bot: &str) -> String {
    format!("{TELEGRAM}{bot}")
}

pub(crate) fn silence(number: u64) -> String {
    format!("{SILENCES}{number:012}")
}

pub(crate) fn dead(number: u64) -> String {
    format!("{DEAD}{number:012}")
}

pub(crate) fn live(number: u64) -> String {
    format!("{LIVE}{number:012}")
}

pub(crate) fn open(office: Option<&OfficeCode>, number: u64) -> String {
    match office {
        Some(office) => format!("{OPEN}{office}"),
        None => format!("{OPEN}common-{number:012}"),
    }
}

/// The reverse of [`link`], [`past`] and [`fold`]: what comes after `prefix`.
pub(crate) fn parse_link(prefix: &str, key: &str) -> anyhow::Result<LinkId> {
    let parse = || {
        let mut parts = key.strip_prefix(prefix)?.split('/');
        Some(LinkId {
            agent: parts.next()?.parse().ok()?,
            target: parts.next()?.parse().ok()?,
        })
    };
    parse().with_context(|| format!("the state holds a key that makes no sense: {key}"))
}

/// Puts a value in its packed form.
pub(crate) fn put_packed(
    change: &mut Change,
    key: String,
    value: &impl Serialize,
) -> anyhow::Result<()> {
    let bytes = postcard::to_extend(value, vec![FORM])
        .with_context(|| format!("`{key}` cannot be packed"))?;
    change.put.push((key, bytes));
    Ok(())
}

/// What was packed; `None` if another version did.
pub(crate) fn unpack<T: DeserializeOwned>(key: &str, bytes: &[u8]) -> anyhow::Result<Option<T>> {
    match bytes.split_first() {
        Some((&FORM, bytes)) => {
            let value = postcard::from_bytes(bytes)
                .with_context(|| format!("the state is damaged: `{key}`"))?;
            Ok(Some(value))
        }
        _ => Ok(None),
    }
}

/// Reads a packed value.
pub(crate) fn get_packed<T: DeserializeOwned>(
    state: &dyn State,
    key: &str,
) -> anyhow::Result<Option<T>> {
    match state.get(key)? {
        Some(bytes) => unpack(key, &bytes),
        None => Ok(None),
    }
}

/// Reads all packed values whose keys begin with `prefix`, and whether some were of another version.
pub(crate) fn scan_packed<T: DeserializeOwned>(
    state: &dyn State,
    prefix: &str,
) -> anyhow::Result<(Vec<(String, T)>, bool)> {
    let mut foreign = false;
    let mut all = Vec::new();
    for (key, bytes) in state.scan(prefix)? {
        match unpack(&key, &bytes)? {
            Some(value) => all.push((key, value)),
            None => foreign = true,
        }
    }
    Ok((all, foreign))
}
