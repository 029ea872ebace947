//! Facts of the machine the agent runs on.

use crate::system;
use denyut_proto::{UnixMillis, wire};
use std::time::SystemTime;

pub(crate) use system::{boot_id, uptime};

/// The wall clock, right or wrong.
pub(crate) fn wall() -> UnixMillis {
    SystemTime::now().into()
}

/// Names for people.
pub(crate) fn facts() -> wire::Machine {
    wire::Machine {
        hostname: system::hostname(),
        os: std::env::consts::OS.to_owned(),
        arch: std::env::consts::ARCH.to_owned(),
    }
}
