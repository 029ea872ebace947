//! One probe of one target: a round-trip time by the monotonic clock, or a typed reason.

pub(crate) mod dns;
mod http;
#[cfg(unix)]
mod icmp;
#[cfg(windows)]
#[path = "icmp_windows.rs"]
mod icmp;
mod path;
mod resolver;
mod tcp;

use crate::marks;
use crate::system;
use denyut_proto::{Failure, Hop, Identity, Outcome, Probe, Reason, Target};
use resolver::Resolver;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;
use tokio::time::Instant;
use tracing::warn;

/// The sockets and trust that probes share.
#[derive(Debug)]
pub(crate) struct Prober {
    icmp: icmp::Pingers,
    http: reqwest::Client,
    resolver: Resolver,
}

/// What is left of a probe's time when looking its name up is given up; less than the shortest timeout.
const RESOLVE_MARGIN: Duration = Duration::from_millis(20);

/// What a probe told.
#[derive(Debug)]
pub(crate) struct Told {
    /// Of the link.
    pub(crate) outcome: Outcome,
    /// Of the thing that answered.
    pub(crate) shown: Vec<Identity>,
}

/// The time it took to answer, or why there was no answer.
type Answer = Result<Duration, Failure>;

/// A client for HTTP that trusts, beside the public authorities, those in the PEM file that `field` of the configuration names.
pub(crate) fn client(field: &str, ca: Option<&Path>) -> anyhow::Result<reqwest::Client> {
    http::client(field, ca, Resolver::new())
}

impl Prober {
    /// `ca`: a PEM file of authorities to trust beside the public ones.
    pub(crate) fn new(ca: Option<&Path>) -> anyhow::Result<Self> {
        let resolver = Resolver::new();
        Ok(Self {
            icmp: icmp::Pingers::default(),
            http: http::client("probe_ca", ca, resolver.clone())?,
            resolver,
        })
    }

    /// Probes once; returns within the target's timeout.
    pub(crate) async fn probe(&self, target: &Target) -> Told {
        let deadline = Instant::now() + target.timeout;
        let work = self.ask(target, deadline);
        let failure = match tokio::time::timeout_at(deadline, work).await {
            Ok(Ok((rtt, from, certificate))) => {
                let card = from.and_then(marks::card_of);
                return Told {
                    outcome: Outcome::ok(rtt),
                    shown: card.into_iter().chain(certificate).collect(),
                };
            }
            Ok(Err(failure)) => failure,
            Err(_) => Reason::Timeout.into(),
        };
        Told {
            outcome: Outcome::Failed(failure),
            shown: Vec::new(),
        }
    }

    /// Where a target is, and who answers on the way there; `None` if there is no way to look at: the gateway stands at its beginning, and a target whose
    /// name is not found at no place. Three seconds, and the look-up.
    pub(crate) async fn path(&self, target: &Target) -> Option<(IpAddr, Vec<Option<Hop>>)> {
        let deadline = Instant::now() + target.timeout;
        let found = match &target.probe {
            Probe::Gateway => return None,
            Probe::Icmp { host } => self.resolve(host, 0, deadline).await,
            Probe::Tcp { host, port } => self.resolve(host, *port, deadline).await,
            Probe::Http { url } => {
                let url: reqwest::Url = url.parse().ok()?;
                // An IPv6 address stands in brackets there.
                let host = url.host_str()?.trim_matches(['[', ']']);
                self.resolve(host, 0, deadline).await
            }
            Probe::Dns { server, .. } => match server {
                Some((host, port)) => self.resolve(host, *port, deadline).await,
                None => Ok(SocketAddr::new(system::name_server()?, 53)),
            },
        };
        let to = found.ok()?.ip();
        // On the machine's own network there is nobody between.
        if matches!(to, IpAddr::V6(to) if to.is_unicast_link_local()) {
            return None;
        }
        let traced = tokio::task::spawn_blocking(move || path::trace(to)).await;
        match traced {
            Ok(Ok(hops)) => Some((to, hops)),
            Ok(Err(error)) => {
                warn!(target = %target.name, %error, "cannot look at the way to a target");
                None
            }
            Err(error) => {
                warn!(target = %target.name, %error, "looking at the way to a target ended badly");
                None
            }
        }
    }

    /// How long the answer took, who gave it, and by which certificate.
    async fn ask(
        &self,
        target: &Target,
        deadline: Instant,
    ) -> Result<(Duration, Option<IpAddr>, Option<Identity>), Failure> {
        let (from, rtt) = match &target.probe {
            Probe::Gateway => {
                let gateway = system::default_gateway().ok_or(Reason::NoGateway)?;
                let ping = self.icmp.ping(gateway.address, gateway.scope, deadline);
                (gateway.address, ping.await?)
            }
            Probe::Icmp { host } => {
                let ip = self.resolve(host, 0, deadline).await?.ip();
                (ip, self.icmp.ping(ip, 0, deadline).await?)
            }
            Probe::Tcp { host, port } => {
                let to = self.resolve(host, *port, deadline).await?;
                (to.ip(), tcp::connect(to).await?)
            }
            Probe::Http { url } => {
                let right = http::get(&self.http, url, &target.expect).await?;
                return Ok((right.rtt, right.from, right.certificate));
            }
            Probe::Dns { server, name } => {
                let server = match server {
                    Some((host, port)) => self.resolve(host, *port, deadline).await?,
                    // Without one no name can be found, whoever is at fault.
                    None => SocketAddr::new(system::name_server().ok_or(Reason::DnsError)?, 53),
                };
                (server.ip(), dns::query(server, name).await?)
            }
        };
        Ok((rtt, Some(from), None))
    }
}

/// What to do when probes by ICMP are not permitted; `None` when they are.
pub(crate) fn icmp_permission() -> Option<String> {
    icmp::permission()
}

impl Prober {
    /// The first address of a host; at once for a literal one. A name costs a look-up, outside the round-trip time.
    async fn resolve(
        &self,
        host: &str,
        port: u16,
        deadline: Instant,
    ) -> Result<SocketAddr, Failure> {
        if let Ok(ip) = host.parse::<IpAddr>() {
            return Ok(SocketAddr::new(ip, port));
        }
        // A resolver that does not answer is not the target that does not: a little before the probe's own deadline.
        let look_up = self.resolver.look_up(host.to_owned(), port);
        tokio::time::timeout_at(deadline - RESOLVE_MARGIN, look_up)
            .await
            .ok()
            .and_then(Result::ok)
            .and_then(|found| found.first().copied())
            .ok_or_else(|| Reason::NameNotResolved.into())
    }
}

/// What the system's error says of the link.
fn reason_of(error: &io::Error) -> Reason {
    use io::ErrorKind as Kind;
    #[cfg(unix)]
    if let Some(errno) = rustix::io::Errno::from_io_error(error) {
        use rustix::io::Errno;
        match errno {
            // Linux says "no buffer space" of an interface whose cable was pulled.
            Errno::NOBUFS | Errno::NODEV | Errno::NXIO => return Reason::NetworkUnreachable,
            Errno::HOSTDOWN => return Reason::HostUnreachable,
            _ => {}
        }
    }
    match error.kind() {
        Kind::ConnectionRefused => Reason::Refused,
        Kind::TimedOut => Reason::Timeout,
        Kind::HostUnreachable => Reason::HostUnreachable,
        // No address of ours fits the way there: there is no way.
        Kind::NetworkUnreachable | Kind::NetworkDown | Kind::AddrNotAvailable => {
            Reason::NetworkUnreachable
        }
        Kind::ConnectionReset
        | Kind::ConnectionAborted
        | Kind::BrokenPipe
        | Kind::UnexpectedEof => Reason::ConnectionLost,
        Kind::PermissionDenied => Reason::NotPermitted,
        Kind::InvalidData => Reason::Protocol,
        _ => Reason::LocalError,
    }
}
