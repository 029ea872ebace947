//! ICMP echo through surge-ping: an unprivileged datagram socket first, a raw one as fallback.

use super::{Answer, reason_of};
use denyut_proto::{Failure, Reason};
use std::net::IpAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU16, Ordering};
use surge_ping::{Client, Config, ICMP, IcmpPacket, PingIdentifier, PingSequence, SurgeError};
use tokio::time::Instant;

/// One socket per address family, opened when first needed and again after a failure to open (the
/// permission may have been given since).
#[derive(Default)]
pub(super) struct Pingers {
    v4: Mutex<Option<Client>>,
    v6: Mutex<Option<Client>>,
    /// On datagram sockets a reply is matched by host and sequence alone, so no two pings in flight may
    /// share one: a counter for all.
    sequence: AtomicU16,
}

impl Pingers {
    /// `scope`: interface index for a link-local IPv6 address, else 0.
    pub(super) async fn ping(&self, to: IpAddr, scope: u32, deadline: Instant) -> Answer {
        let client = self
            .client(to)
            .map_err(|error| Failure::from(reason_of(&error)))?;
        let mut pinger = client.pinger(to, PingIdentifier(rand::random())).await;
        pinger.timeout(deadline.saturating_duration_since(Instant::now()));
        pinger.scope_id(scope);
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed);
        // Not surge-ping's own time: its clock starts after the send, on a near host after the reply.
        let start = Instant::now();
        match pinger.ping(PingSequence(sequence), &[0; 16]).await {
            // On a raw socket an error that quotes our request is handed out as if it were the reply.
            Ok((reply, _)) => {
                judge(&reply).map_or(Ok(start.elapsed()), |reason| Err(reason.into()))
            }
            Err(SurgeError::Timeout { .. }) => Err(Reason::Timeout.into()),
            Err(SurgeError::IOError(error)) => Err(reason_of(&error).into()),
            Err(_) => Err(Reason::LocalError.into()),
        }
    }

    fn client(&self, to: IpAddr) -> std::io::Result<Client> {
        let (slot, kind) = match to {
            IpAddr::V4(_) => (&self.v4, ICMP::V4),
            IpAddr::V6(_) => (&self.v6, ICMP::V6),
        };
        let mut slot = slot
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(client) = &*slot {
            return Ok(client.clone());
        }
        let client = Client::new(&Config::builder().kind(kind).build())?;
        *slot = Some(client.clone());
        Ok(client)
    }
}

/// `None` for an echo reply; else what the error says. Numbers by RFC 792 and RFC 4443.
fn judge(packet: &IcmpPacket) -> Option<Reason> {
    let (kind, code, reply, unreachable, network_codes): (u8, u8, u8, u8, &[u8]) = match packet {
        IcmpPacket::V4(v4) => (
            v4.get_icmp_type().0,
            v4.get_icmp_code().0,
            0,
            3,
            &[0, 5, 6, 8, 9, 11],
        ),
        IcmpPacket::V6(v6) => (v6.get_icmpv6_type().0, v6.get_icmpv6_code().0, 129, 1, &[0]),
    };
    if kind == reply {
        None
    } else if kind == unreachable && network_codes.contains(&code) {
        Some(Reason::NetworkUnreachable)
    } else {
        Some(Reason::HostUnreachable)
    }
}

impl std::fmt::Debug for Pingers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pingers").finish_non_exhaustive()
    }
}

/// What to do when this process may not ping; `None` when it may.
pub(super) fn permission() -> Option<String> {
    // Opening the socket is the only true answer; it is closed again at once.
    match Client::new(&Config::default()) {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            let program = std::env::current_exe()
                .map_or_else(|_| "denyut-agent".into(), |path| path.display().to_string());
            let group = rustix::process::getegid().as_raw();
            Some(format!(
                "this process may not send ICMP, so icmp and gateway probes say `not_permitted`; do one of: \
                 `sysctl -w net.ipv4.ping_group_range=\"{group} {group}\"` (lets group {group} ping; keep it in /etc/sysctl.d), \
                 or `setcap cap_net_raw+ep {program}`, or `AmbientCapabilities=CAP_NET_RAW` in its systemd unit"
            ))
        }
        _ => None,
    }
}
