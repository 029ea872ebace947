//! What the agent asks of the system it runs on; one file for each kind of system, and the same functions in both.

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
pub(crate) use unix::*;
#[cfg(windows)]
pub(crate) use windows::*;

use denyut_proto::Goodbye;
use std::net::IpAddr;

/// The next hop of the default route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gateway {
    /// Its address.
    pub(crate) address: IpAddr,
    /// Interface index for a link-local IPv6 address, else 0.
    pub(crate) scope: u32,
}

/// How a newer program that was handed over to ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Over {
    /// It was asked to stop, and did.
    #[cfg_attr(
        unix,
        expect(dead_code, reason = "here it takes the place of this process")
    )]
    Stopped,
    /// It handed back: another version is to run.
    #[cfg_attr(
        unix,
        expect(dead_code, reason = "here it takes the place of this process")
    )]
    Back,
    /// It ended for no reason that it should; this is how.
    #[cfg_attr(
        unix,
        expect(dead_code, reason = "here it takes the place of this process")
    )]
    Broke(String),
}

/// What the system asks of a running agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Request {
    /// To stop.
    Stop(Goodbye),
    /// To know that the machine goes to sleep.
    #[cfg_attr(unix, expect(dead_code, reason = "only Windows says so"))]
    Suspend,
}
