//! The keys of the state: what lies where.

use denyut_proto::{AgentId, OfficeCode};
use denyut_store::history::LinkId;

/// The worker's place in the log.
pub(crate) const CHECKPOINT: &str = "checkpoint";
/// What the detector knows of an agent: [`crate::detect::Agent`].
pub(crate) const AGENTS: &str = "agent/";
/// What an agent last said of itself when it connected: [`crate::registry::Introduction`].
pub(crate) const INTRODUCTIONS: &str = "introduction/";
/// What the detector knows of a link: [`crate::detect::Link`].
pub(crate) const LINKS: &str = "link/";
/// All incidents by number: [`crate::incident::Incident`].
pub(crate) const INCIDENTS: &str = "incident/";
/// The numbers of open incidents by office.
pub(crate) const OPEN: &str = "open/";

pub(crate) fn agent(agent: &AgentId) -> String {
    format!("{AGENTS}{agent}")
}

pub(crate) fn introduction(agent: &AgentId) -> String {
    format!("{INTRODUCTIONS}{agent}")
}

pub(crate) fn links_of(agent: &AgentId) -> String {
    format!("{LINKS}{agent}/")
}

pub(crate) fn link(link: &LinkId) -> String {
    format!("{LINKS}{link}")
}

pub(crate) fn incident(number: u64) -> String {
    format!("{INCIDENTS}{number:012}")
}

pub(crate) fn open(office: &OfficeCode) -> String {
    format!("{OPEN}{office}")
}

/// The reverse of [`link`].
pub(crate) fn parse_link(key: &str) -> Option<LinkId> {
    let (agent, target) = key.strip_prefix(LINKS)?.split_once('/')?;
    Some(LinkId {
        agent: agent.parse().ok()?,
        target: target.parse().ok()?,
    })
}
