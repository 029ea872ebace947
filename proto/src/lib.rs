//! What agent and collector share: the wire (`denyut.proto`), the domain types, and the only
//! conversions between the two.
//!
//! Read in this order: [`ids`] and [`time`], [`sample`], [`target`], [`identity`], [`path`], [`heartbeat`], and last [`wire`].
//! Nothing here does I/O or reads a clock.

pub mod ids;
pub mod time;

pub mod sample;
pub mod target;

pub mod identity;
pub mod invitation;
pub mod path;

pub mod heartbeat;

pub mod invalid;

pub mod batch;
mod convert;
pub mod wire;

pub use convert::{address_bytes, read_address};
pub use heartbeat::{Goodbye, Heartbeat, TargetSamples};
pub use identity::{Identity, MAX_SHOWN, Shown};
pub use ids::{AgentId, BootId, LinkId, OfficeCode, TargetName};
pub use invalid::Invalid;
pub use invitation::{Invitation, Secret};
pub use path::{Hop, MAX_HOPS, Path, Said};
pub use sample::{Failure, Outcome, Reason, Sample};
pub use target::{HttpExpectation, Probe, Role, Target, TargetSpec, parse_duration, read_targets};
pub use time::UnixMillis;

/// Version of the protocol spoken by this build.
pub const PROTOCOL: u32 = 1;

/// The longest encoded heartbeat, in bytes: what an [`wire::Entry`] may carry. The collector's log
/// keeps one as one value, and the engine under it is only safe with values up to 7 KiB.
pub const MAX_HEARTBEAT_BYTES: usize = 6 * 1024;

/// The most targets of one agent. A heartbeat with one sample of each, all declared, with names and
/// probes of ordinary length, fits into [`MAX_HEARTBEAT_BYTES`].
pub const MAX_TARGETS: usize = 32;
