//! ICMP echo through the system's own calls.

use super::{Answer, reason_of};
use denyut_proto::{Failure, Reason};
use denyut_windows::Unanswered;
use std::net::IpAddr;
use tokio::time::Instant;

/// Nothing is shared: each ping has a handle of its own.
#[derive(Debug, Default)]
pub(super) struct Pingers;

impl Pingers {
    /// `scope`: interface index for a link-local IPv6 address, else 0.
    pub(super) async fn ping(&self, to: IpAddr, scope: u32, deadline: Instant) -> Answer {
        let timeout = deadline.saturating_duration_since(Instant::now());
        let ping = tokio::task::spawn_blocking(move || denyut_windows::ping(to, scope, timeout));
        match ping.await {
            Ok(Ok(Ok(took))) => Ok(took),
            Ok(Ok(Err(why))) => Err(Failure::from(match why {
                Unanswered::Timeout => Reason::Timeout,
                // A loop: it passed as many routers as there can be.
                Unanswered::HostUnreachable | Unanswered::OnTheWay => Reason::HostUnreachable,
                Unanswered::NetworkUnreachable => Reason::NetworkUnreachable,
                Unanswered::Failed(_) => Reason::LocalError,
            })),
            Ok(Err(error)) => Err(reason_of(&error).into()),
            Err(_) => Err(Reason::LocalError.into()),
        }
    }
}

/// Everybody may ping.
pub(super) fn permission() -> Option<String> {
    None
}
