//! One probe of one target: a round-trip time by the monotonic clock, or a typed reason.

mod dns;
mod gateway;
mod http;
mod icmp;
mod tcp;

pub(crate) use gateway::default_gateway;

use denyut_proto::{Failure, Outcome, Probe, Reason, Target};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;
use tokio::time::Instant;

/// The sockets and trust that probes share.
#[derive(Debug)]
pub(crate) struct Prober {
    icmp: icmp::Pingers,
    http: reqwest::Client,
}

/// A probe's result: the time it took to answer, or why it did not.
type Answer = Result<Duration, Failure>;

impl Prober {
    /// `ca`: a PEM file of authorities to trust beside the public ones.
    pub(crate) fn new(ca: Option<&Path>) -> anyhow::Result<Self> {
        Ok(Self {
            icmp: icmp::Pingers::default(),
            http: http::client(ca)?,
        })
    }

    /// Probes once; returns within the target's timeout.
    pub(crate) async fn probe(&self, target: &Target) -> Outcome {
        let deadline = Instant::now() + target.timeout;
        let work = async {
            match &target.probe {
                Probe::Gateway => match default_gateway() {
                    Some(gateway) => {
                        self.icmp
                            .ping(gateway.address, gateway.scope, deadline)
                            .await
                    }
                    None => Err(Reason::NoGateway.into()),
                },
                Probe::Icmp { host } => {
                    let ip = resolve(host, 0).await?.ip();
                    self.icmp.ping(ip, 0, deadline).await
                }
                Probe::Tcp { host, port } => tcp::connect(resolve(host, *port).await?).await,
                Probe::Http { url } => http::get(&self.http, url, &target.expect).await,
                Probe::Dns { server, name } => dns::query(server.as_ref(), name).await,
            }
        };
        match tokio::time::timeout_at(deadline, work).await {
            Ok(Ok(rtt)) => Outcome::ok(rtt),
            Ok(Err(failure)) => Outcome::Failed(failure),
            Err(_) => Outcome::Failed(Reason::Timeout.into()),
        }
    }
}

/// What to do when probes by ICMP are not permitted; `None` when they are.
pub(crate) fn icmp_permission() -> Option<String> {
    icmp::permission()
}

/// The first address of a host; at once for a literal one. A name costs a look-up, outside the
/// round-trip time.
async fn resolve(host: &str, port: u16) -> Result<SocketAddr, Failure> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(SocketAddr::new(ip, port));
    }
    tokio::net::lookup_host((host, port))
        .await
        .ok()
        .and_then(|mut found| found.next())
        .ok_or_else(|| Reason::NameNotResolved.into())
}

/// What the system's error says of the link.
fn reason_of(error: &io::Error) -> Reason {
    use io::ErrorKind as Kind;
    match error.kind() {
        Kind::ConnectionRefused => Reason::Refused,
        Kind::TimedOut => Reason::Timeout,
        Kind::HostUnreachable => Reason::HostUnreachable,
        Kind::NetworkUnreachable | Kind::NetworkDown => Reason::NetworkUnreachable,
        Kind::ConnectionReset
        | Kind::ConnectionAborted
        | Kind::BrokenPipe
        | Kind::UnexpectedEof => Reason::ConnectionLost,
        Kind::PermissionDenied => Reason::NotPermitted,
        Kind::InvalidData => Reason::Protocol,
        _ => Reason::LocalError,
    }
}
