//! Who may speak, and for which office.

use denyut_proto::{AgentId, OfficeCode, Target, wire};
use prost::Message;
use std::collections::BTreeMap;

/// All offices and agents that are known.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    pub(crate) offices: BTreeMap<OfficeCode, Office>,
    pub(crate) agents: BTreeMap<AgentId, Agent>,
}

/// One site that hosts agents.
#[derive(Debug)]
pub(crate) struct Office {
    pub(crate) name: String,
}

/// One registered agent.
#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) office: OfficeCode,
    /// What it is told to probe, beside the targets of its own file.
    pub(crate) targets: Vec<Target>,
}

impl Agent {
    /// What it is told. The revision is a checksum of the targets, never 0: it changes exactly when they do.
    pub(crate) fn configuration(&self) -> wire::Configuration {
        let mut configuration = wire::Configuration {
            revision: 0,
            targets: self.targets.iter().map(Into::into).collect(),
        };
        let mut hash = std::hash::DefaultHasher::new();
        std::hash::Hasher::write(&mut hash, &configuration.encode_to_vec());
        configuration.revision = std::hash::Hasher::finish(&hash).max(1);
        configuration
    }
}
