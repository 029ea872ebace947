//! The numbers of links: each link has one for ever, given in the order in which they were first heard of.

use super::LinkId;
use anyhow::{Context, anyhow};
use denyut_proto::{AgentId, TargetName};
use foldhash::HashMap;

/// All links, in memory and in a tree: agent + `/` + target → number (u32, big-endian).
#[derive(Debug)]
pub(super) struct Links {
    tree: sled::Tree,
    /// By number.
    names: Vec<LinkId>,
    by_agent: HashMap<AgentId, Vec<(TargetName, u32)>>,
    /// Some were given since the tree was last synced.
    pub(super) unsynced: bool,
}

impl Links {
    pub(super) fn open(tree: sled::Tree) -> anyhow::Result<Self> {
        let mut all = Vec::new();
        for item in &tree {
            let (key, value) = item.context("cannot read the links")?;
            let (link, number) = parse(&key, &value).with_context(|| {
                format!("the history holds a link that makes no sense: {key:?}")
            })?;
            all.push((number, link));
        }
        all.sort_unstable_by_key(|(number, _)| *number);
        let mut links = Self {
            tree,
            names: Vec::with_capacity(all.len()),
            by_agent: HashMap::default(),
            unsynced: false,
        };
        for (expected, (number, link)) in (0..).zip(all) {
            if number != expected {
                return Err(anyhow!(
                    "the history's list of links is damaged: number {expected} is missing"
                ));
            }
            links.remember(link)?;
        }
        Ok(links)
    }

    fn remember(&mut self, link: LinkId) -> anyhow::Result<u32> {
        let number = u32::try_from(self.names.len()).context("too many links")?;
        let targets = self.by_agent.entry(link.agent.clone()).or_default();
        targets.push((link.target.clone(), number));
        self.names.push(link);
        Ok(number)
    }

    pub(super) fn number(&self, agent: &AgentId, target: &TargetName) -> Option<u32> {
        self.of_agent(agent)
            .iter()
            .find(|(name, _)| name == target)
            .map(|(_, number)| *number)
    }

    /// All targets of an agent with their numbers.
    pub(super) fn of_agent(&self, agent: &AgentId) -> &[(TargetName, u32)] {
        self.by_agent
            .get(agent)
            .map(Vec::as_slice)
            .unwrap_or_default()
    }

    pub(super) fn number_or_new(
        &mut self,
        agent: &AgentId,
        target: &TargetName,
    ) -> anyhow::Result<u32> {
        if let Some(number) = self.number(agent, target) {
            return Ok(number);
        }
        let link = LinkId {
            agent: agent.clone(),
            target: target.clone(),
        };
        let number = u32::try_from(self.names.len()).context("too many links")?;
        self.tree
            .insert(link.to_string(), &number.to_be_bytes())
            .context("cannot write the links")?;
        self.unsynced = true;
        self.remember(link)
    }

    pub(super) fn name(&self, number: u32) -> Option<&LinkId> {
        self.names.get(number as usize)
    }

    pub(super) fn len(&self) -> usize {
        self.names.len()
    }
}

fn parse(key: &[u8], value: &[u8]) -> Option<(LinkId, u32)> {
    let (agent, target) = std::str::from_utf8(key).ok()?.split_once('/')?;
    let link = LinkId {
        agent: agent.parse().ok()?,
        target: target.parse().ok()?,
    };
    Some((link, u32::from_be_bytes(value.try_into().ok()?)))
}
