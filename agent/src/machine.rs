//! Facts of the machine the agent runs on: clocks, boot id, names. Linux; the Windows counterpart comes
//! with the Windows service.

use anyhow::Context;
use denyut_proto::{UnixMillis, wire};
use std::time::{Duration, SystemTime};

/// Time since the machine started, suspend included; never set back.
pub(crate) fn uptime() -> Duration {
    let at = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(
        u64::try_from(at.tv_sec).unwrap_or(0),
        u32::try_from(at.tv_nsec).unwrap_or(0),
    )
}

/// The wall clock, right or wrong.
pub(crate) fn wall() -> UnixMillis {
    SystemTime::now().into()
}

/// The id that the kernel drew when the machine started.
pub(crate) fn boot_id() -> anyhow::Result<[u8; 16]> {
    const PATH: &str = "/proc/sys/kernel/random/boot_id";
    let text = std::fs::read_to_string(PATH).with_context(|| format!("cannot read {PATH}"))?;
    let id = uuid::Uuid::parse_str(text.trim())
        .with_context(|| format!("{PATH} holds no boot id: {:?}", text.trim()))?;
    Ok(id.into_bytes())
}

/// Names for people.
pub(crate) fn facts() -> wire::Machine {
    let uname = rustix::system::uname();
    wire::Machine {
        hostname: uname.nodename().to_string_lossy().into_owned(),
        os: std::env::consts::OS.to_owned(),
        arch: std::env::consts::ARCH.to_owned(),
    }
}
