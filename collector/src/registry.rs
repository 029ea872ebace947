//! Who may speak, and for which office.

use denyut_detect::Site;
use denyut_proto::{AgentId, Invalid, OfficeCode, Target, UnixMillis, wire};
use prost::Message;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// All offices and agents that are known.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    pub(crate) offices: BTreeMap<OfficeCode, Office>,
    pub(crate) agents: BTreeMap<AgentId, Agent>,
}

/// One site that hosts agents.
#[derive(Debug, Clone, Default)]
pub(crate) struct Office {
    pub(crate) name: String,
    /// Name of its regency or city.
    pub(crate) regency: Option<String>,
    /// What the detector needs to know of it.
    pub(crate) site: Site,
    /// Latitude and longitude in degrees.
    pub(crate) place: Option<(f64, f64)>,
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

/// What an agent said of itself when it last connected. For people; nothing is decided by it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Introduction {
    /// When the collector heard it.
    pub(crate) at: UnixMillis,
    pub(crate) version: String,
    pub(crate) hostname: String,
    pub(crate) os: String,
    pub(crate) arch: String,
    /// Heartbeats that waited in its spool.
    pub(crate) waiting: u64,
    /// Heartbeats it had lost since its spool was made.
    pub(crate) dropped: u64,
    /// Its wall clock minus the collector's, in ms (off by the time the message travelled).
    pub(crate) clock_offset_ms: i64,
}

impl Introduction {
    /// Bytes of each text.
    const TEXT_MAX: usize = 255;

    pub(crate) fn of(hello: &wire::Hello, at: UnixMillis) -> Result<Self, Invalid> {
        let machine = hello.machine.clone().unwrap_or_default();
        let spool = hello.spool.unwrap_or_default();
        for (field, text) in [
            ("version", &hello.version),
            ("machine.hostname", &machine.hostname),
            ("machine.os", &machine.os),
            ("machine.arch", &machine.arch),
        ] {
            if text.len() > Self::TEXT_MAX {
                let fix = format!("send at most {} bytes", Self::TEXT_MAX);
                return Err(Invalid::new(field, text, "too long", fix));
            }
        }
        Ok(Self {
            at,
            version: hello.version.clone(),
            hostname: machine.hostname,
            os: machine.os,
            arch: machine.arch,
            waiting: spool
                .next
                .saturating_sub(spool.first.max(spool.acked.saturating_add(1))),
            dropped: spool.dropped,
            clock_offset_ms: hello.wall_ms.saturating_sub(at.0),
        })
    }
}
