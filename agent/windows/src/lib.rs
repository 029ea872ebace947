//! What the agent asks of Windows, behind safe functions. Empty on other systems.
//!
//! All of the product's unsafe code is here: calls that no kept library has a safe face for.
#![cfg(windows)]

mod event_log;
mod folder;
mod machine;
mod network;
mod ping;
mod service;

pub use event_log::{EventLog, Level};
pub use folder::{private_folder, sync_folder, take_folder};
pub use machine::{boot_id, hostname, program_data, uptime};
pub use network::{Gateway, default_gateway, name_server, neighbour};
pub use ping::{Echo, Unanswered, echo, ping};
pub use service::{Asked, NAME, ServiceError, dispatch, install, start, state, stop, uninstall};

/// A text as the system takes it: UTF-16 with a zero at its end.
fn wide(text: &str) -> Vec<u16> {
    text.encode_utf16().chain([0]).collect()
}
