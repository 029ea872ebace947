//! One probe result.

use crate::UnixMillis;
use serde::Serialize;
use std::fmt;

/// One probe of one target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sample {
    /// When the probe was sent (event time).
    pub at: UnixMillis,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// Answered, after this many µs (1 to `u32::MAX`, so at most 71 minutes).
    Ok {
        /// Round-trip time in µs by a monotonic clock.
        rtt_us: u32,
    },
    /// Not answered as it should be.
    Failed(Failure),
}

/// Why a probe failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Failure {
    /// The reason.
    pub reason: Reason,
    /// The HTTP status with [`Reason::HttpStatus`]; 0 otherwise.
    pub detail: u32,
}

impl From<Reason> for Failure {
    fn from(reason: Reason) -> Self {
        Self { reason, detail: 0 }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.detail {
            0 => f.write_str(self.reason.as_str()),
            detail => write!(f, "{}={detail}", self.reason.as_str()),
        }
    }
}

/// What a sample says of the link's health.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evidence {
    /// The far end answered.
    Good,
    /// It did not.
    Bad,
    /// The agent could not look; never counted as up or down.
    None,
}

impl Outcome {
    /// A success; an unmeasurably short time counts as 1 µs.
    #[must_use]
    pub fn ok(rtt: std::time::Duration) -> Self {
        Self::Ok {
            rtt_us: u32::try_from(rtt.as_micros()).unwrap_or(u32::MAX).max(1),
        }
    }

    /// What this says of the link.
    pub fn evidence(self) -> Evidence {
        match self {
            Self::Ok { .. } => Evidence::Good,
            Self::Failed(failure) if failure.reason.is_local() => Evidence::None,
            Self::Failed(_) => Evidence::Bad,
        }
    }
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $number:literal $text:literal,)*) => {
        /// Why a probe failed; the numbers are those of the wire.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(rename_all = "snake_case")]
        #[repr(u8)]
        pub enum Reason { $($(#[$doc])* $name = $number,)* }

        impl Reason {
            /// Every reason there is.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The name that logs, API and UI catalogues use.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

reasons! {
    /// No answer in time.
    Timeout = 1 "timeout",
    /// The host answered that nobody listens there.
    Refused = 2 "refused",
    /// A router said that the host cannot be reached.
    HostUnreachable = 3 "host_unreachable",
    /// No route to the network.
    NetworkUnreachable = 4 "network_unreachable",
    /// The machine has no default gateway.
    NoGateway = 5 "no_gateway",
    /// The connection was cut in the middle.
    ConnectionLost = 6 "connection_lost",
    /// The target's name could not be resolved.
    NameNotResolved = 7 "name_not_resolved",
    /// The DNS server says that the name does not exist.
    DnsNxdomain = 8 "dns_nxdomain",
    /// The DNS server could not find out.
    DnsServfail = 9 "dns_servfail",
    /// Any other DNS error answer, or one that makes no sense.
    DnsError = 10 "dns_error",
    /// The certificate's time is over, or has not begun.
    TlsExpired = 11 "tls_expired",
    /// The certificate is signed by nobody we trust.
    TlsUntrusted = 12 "tls_untrusted",
    /// The certificate is for another name.
    TlsNameMismatch = 13 "tls_name_mismatch",
    /// Any other failure to agree on TLS.
    TlsFailed = 14 "tls_failed",
    /// The wrong HTTP status; the detail is the status.
    HttpStatus = 15 "http_status",
    /// The right status, but not the text that was expected.
    HttpBody = 16 "http_body",
    /// What came back is not the protocol.
    Protocol = 17 "protocol",
    /// The agent may not send this probe.
    NotPermitted = 18 "not_permitted",
    /// The agent's machine is out of something (file handles, memory, ports).
    LocalError = 19 "local_error",
}

impl Reason {
    /// Whether it says something of the agent's machine only, and nothing of the link.
    pub fn is_local(self) -> bool {
        matches!(self, Self::NotPermitted | Self::LocalError)
    }
}

impl TryFrom<i32> for Reason {
    type Error = i32;
    /// From the wire's number.
    fn try_from(number: i32) -> Result<Self, i32> {
        Self::ALL
            .iter()
            .copied()
            .find(|reason| *reason as i32 == number)
            .ok_or(number)
    }
}
