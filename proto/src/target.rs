//! What to probe and how.

use crate::{Invalid, TargetName};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;
use std::time::Duration;

/// One target, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Unique within an agent.
    pub name: TargetName,
    /// What it stands for.
    pub role: Role,
    /// How it is probed.
    pub probe: Probe,
    /// From probe to probe: [`Target::INTERVAL`].
    pub interval: Duration,
    /// How long an answer may take: 100 ms up to the interval, at most 60 s.
    pub timeout: Duration,
    /// What an HTTP answer must look like; ignored by every other probe.
    pub expect: HttpExpectation,
}

/// What an HTTP answer must look like.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HttpExpectation {
    /// The status that is right; `None`: any from 200 to 399.
    pub status: Option<u16>,
    /// Text that the first 64 KiB of the body must contain.
    pub body: Option<String>,
}

/// How a target is probed. As text: `gateway`, `icmp://host`, `tcp://host:port`, `http://…`,
/// `https://…`, `dns://server/name` (`dns://system/name` asks the machine's own resolver).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Probe {
    /// ICMP echo to the machine's default gateway, found anew each time.
    Gateway,
    /// ICMP echo.
    Icmp {
        /// Address or name.
        host: String,
    },
    /// Opening a TCP connection.
    Tcp {
        /// Address or name.
        host: String,
        /// Port.
        port: u16,
    },
    /// GET of a URL on a connection of its own.
    Http {
        /// `http://…` or `https://…`.
        url: String,
    },
    /// An A query over UDP.
    Dns {
        /// Whom to ask; `None`: the machine's own resolver.
        server: Option<(String, u16)>,
        /// The name to ask for.
        name: String,
    },
}

/// What a target stands for in the office's path to the outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The office's default gateway.
    Gateway,
    /// The office's enrollment server.
    Server,
    /// The way out: an ISP hop or a public host.
    Uplink,
    /// A name server.
    Dns,
    /// The central service.
    Central,
    /// denyut's own collector.
    Collector,
}

impl Role {
    /// Every role, in the order of the path to the outside.
    pub const ALL: &[Self] = &[
        Self::Gateway,
        Self::Server,
        Self::Uplink,
        Self::Dns,
        Self::Central,
        Self::Collector,
    ];

    /// The name that config, API and UI catalogues use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Server => "server",
            Self::Uplink => "uplink",
            Self::Dns => "dns",
            Self::Central => "central",
            Self::Collector => "collector",
        }
    }
}

/// One target as a person writes it, in the agent's file or in the collector's.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TargetSpec {
    /// See [`Target::name`].
    pub name: String,
    /// See [`Role`].
    pub role: Role,
    /// See [`Probe`].
    pub probe: String,
    /// `10s` when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<String>,
    /// 3 s, or the interval if that is shorter, when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
    /// See [`HttpExpectation::status`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expect_status: Option<u16>,
    /// See [`HttpExpectation::body`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expect_body: Option<String>,
}

impl Target {
    /// The shortest and the longest interval.
    pub const INTERVAL: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3600));
    /// The interval where none is written.
    pub const DEFAULT_INTERVAL: Duration = Duration::from_secs(10);
    /// The timeout where none is written.
    pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(3);
    /// The shortest and the longest timeout.
    pub const TIMEOUT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(60));
    /// Bytes of the text form of a probe, and of an expected body.
    pub const TEXT_MAX: usize = 512;
    /// Bytes of the probes and expected bodies of a whole list: with up to 56 bytes of everything else for each
    /// of 32 targets, its declaration fits into [`crate::MAX_HEARTBEAT_BYTES`].
    pub const LIST_TEXT_MAX: usize = 4096;

    /// Puts a target together and checks what its parts must hold between them.
    pub fn new(
        name: TargetName,
        role: Role,
        probe: Probe,
        interval: Duration,
        timeout: Duration,
        expect: HttpExpectation,
    ) -> Result<Self, Invalid> {
        let (shortest, longest) = Self::INTERVAL;
        if interval < shortest || interval > longest {
            return Err(Invalid::new(
                "interval",
                format!("{interval:?}"),
                "out of range",
                "write 1s to 1h",
            ));
        }
        let (least, most) = Self::TIMEOUT;
        if timeout < least || timeout > most {
            return Err(Invalid::new(
                "timeout",
                format!("{timeout:?}"),
                "out of range",
                "write 100ms to 60s",
            ));
        }
        if timeout > interval {
            return Err(Invalid::new(
                "timeout",
                format!("{timeout:?}"),
                format!("longer than the interval ({interval:?})"),
                "make the timeout shorter or the interval longer",
            ));
        }
        if !matches!(probe, Probe::Http { .. }) && expect != HttpExpectation::default() {
            return Err(Invalid::new(
                "expect_status / expect_body",
                &probe,
                "only an HTTP answer has a status and a body",
                "remove it, or use an http:// or https:// probe",
            ));
        }
        if let Some(status) = expect.status.filter(|status| !(100..=599).contains(status)) {
            return Err(Invalid::new(
                "expect_status",
                status,
                "not an HTTP status",
                "write 100 to 599",
            ));
        }
        if let Some(body) = expect
            .body
            .as_ref()
            .filter(|body| body.is_empty() || body.len() > Self::TEXT_MAX)
        {
            return Err(Invalid::new(
                "expect_body",
                body,
                "empty or too long",
                "write 1 to 512 bytes, or remove it",
            ));
        }
        Ok(Self {
            name,
            role,
            probe,
            interval,
            timeout,
            expect,
        })
    }

    /// Checks a whole list: at most [`crate::MAX_TARGETS`], no name twice.
    pub fn check_list(targets: &[Self]) -> Result<(), Invalid> {
        if targets.len() > crate::MAX_TARGETS {
            return Err(Invalid::new(
                "target",
                format!("{} targets", targets.len()),
                "too many for one agent",
                format!("keep at most {}", crate::MAX_TARGETS),
            ));
        }
        let text: usize = targets
            .iter()
            .map(|t| t.probe.to_string().len() + t.expect.body.as_ref().map_or(0, String::len))
            .sum();
        if text > Self::LIST_TEXT_MAX {
            return Err(Invalid::new(
                "target",
                format!("{text} bytes of `probe` and `expect_body`"),
                "too long for one heartbeat to declare",
                format!("keep them within {} bytes together", Self::LIST_TEXT_MAX),
            ));
        }
        for (i, target) in targets.iter().enumerate() {
            if let Some(first) = targets[..i].iter().position(|t| t.name == target.name) {
                return Err(Invalid::new(
                    format!("target[{i}].name"),
                    &target.name,
                    format!("target[{first}] has this name already"),
                    "give each target a name of its own",
                ));
            }
        }
        Ok(())
    }
}

impl TryFrom<TargetSpec> for Target {
    type Error = Invalid;
    fn try_from(spec: TargetSpec) -> Result<Self, Invalid> {
        let interval = match &spec.interval {
            Some(text) => parse_duration("interval", text)?,
            None => Target::DEFAULT_INTERVAL,
        };
        let timeout = match &spec.timeout {
            Some(text) => parse_duration("timeout", text)?,
            None => Target::DEFAULT_TIMEOUT.min(interval),
        };
        Target::new(
            spec.name.parse()?,
            spec.role,
            spec.probe.parse()?,
            interval,
            timeout,
            HttpExpectation {
                status: spec.expect_status,
                body: spec.expect_body,
            },
        )
    }
}

/// Reads a list of targets as written; errors name the place in the list.
pub fn read_targets(specs: Vec<TargetSpec>) -> Result<Vec<Target>, Invalid> {
    let targets = specs
        .into_iter()
        .enumerate()
        .map(|(i, spec)| {
            Target::try_from(spec).map_err(|error| error.within(&format!("target[{i}]")))
        })
        .collect::<Result<Vec<_>, _>>()?;
    Target::check_list(&targets)?;
    Ok(targets)
}

/// Reads a duration as people write it (`10s`, `1m 30s`).
pub fn parse_duration(field: &str, text: &str) -> Result<Duration, Invalid> {
    humantime::parse_duration(text).map_err(|error| {
        Invalid::new(
            field,
            text,
            format!("not a duration ({error})"),
            "write it like `10s` or `1m 30s`",
        )
    })
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gateway => f.write_str("gateway"),
            Self::Icmp { host } => write!(f, "icmp://{}", bracketed(host)),
            Self::Tcp { host, port } => write!(f, "tcp://{}:{port}", bracketed(host)),
            Self::Http { url } => f.write_str(url),
            Self::Dns { server, name } => match server {
                None => write!(f, "dns://system/{name}"),
                Some((host, 53)) => write!(f, "dns://{}/{name}", bracketed(host)),
                Some((host, port)) => write!(f, "dns://{}:{port}/{name}", bracketed(host)),
            },
        }
    }
}

impl FromStr for Probe {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let bad = |problem: &str, fix: &str| Invalid::new("probe", text, problem, fix);
        if text.len() > Target::TEXT_MAX {
            return Err(bad("too long", "keep it within 512 bytes"));
        }
        if text == "gateway" {
            return Ok(Self::Gateway);
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(bad(
                "not a probe",
                "write `gateway`, `icmp://host`, `tcp://host:port`, `http://…`, `https://…` or `dns://server/name`",
            ));
        };
        match scheme {
            "icmp" => match host(rest) {
                Some(host) => Ok(Self::Icmp { host }),
                None => Err(bad(
                    "no host to ping",
                    "write `icmp://10.0.0.1`, `icmp://[fe80::1]` or `icmp://name`",
                )),
            },
            "tcp" => match host_and_port(rest) {
                Some((host, Some(port))) => Ok(Self::Tcp { host, port }),
                _ => Err(bad(
                    "no host and port (1 to 65535) to connect to",
                    "write `tcp://10.0.0.1:443`, `tcp://[fe80::1]:443` or `tcp://name:443`",
                )),
            },
            "http" | "https" => {
                let port_ok = |port: Option<u16>| port != Some(0);
                let host_ok = rest.split(['/', '?', '#']).next().is_some_and(|authority| {
                    host_and_port(authority).is_some_and(|(_, port)| port_ok(port))
                });
                let plain = text.bytes().all(|b| b.is_ascii_graphic());
                if host_ok && plain {
                    Ok(Self::Http { url: text.into() })
                } else {
                    Err(bad(
                        "not a URL that can be fetched",
                        "write `https://host/path` without blanks and without a user name",
                    ))
                }
            }
            "dns" => {
                let parsed = rest.split_once('/').and_then(|(server, name)| {
                    let server = match server {
                        "system" => None,
                        other => {
                            let (host, port) = host_and_port(other)?;
                            Some((host, port.unwrap_or(53)))
                        }
                    };
                    Some((server, host_name(name)?))
                });
                match parsed {
                    Some((server, name)) => Ok(Self::Dns { server, name }),
                    None => Err(bad(
                        "no server and name to ask for",
                        "write `dns://10.0.0.1/example.go.id` or `dns://system/example.go.id`",
                    )),
                }
            }
            _ => Err(bad(
                "unknown kind of probe",
                "use one of icmp, tcp, http, https, dns, or plain `gateway`",
            )),
        }
    }
}

/// A host in a place where `:` separates the port.
fn bracketed(host: &str) -> String {
    if host.contains(':') {
        format!("[{host}]")
    } else {
        host.to_owned()
    }
}

fn host(text: &str) -> Option<String> {
    if let Some(inner) = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')) {
        return inner.parse::<Ipv6Addr>().ok().map(|ip| ip.to_string());
    }
    match text.parse::<IpAddr>() {
        Ok(ip) => Some(ip.to_string()),
        Err(_) => host_name(text),
    }
}

/// A DNS name by RFC 1123; one whose last label is digits only is a mistyped address.
fn host_name(text: &str) -> Option<String> {
    let name = text.strip_suffix('.').unwrap_or(text);
    let labels_ok = name.len() <= 253
        && name.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        });
    let last = name.rsplit('.').next()?;
    let numeric = last.bytes().all(|b| b.is_ascii_digit());
    (labels_ok && !numeric).then(|| name.to_owned())
}

fn host_and_port(text: &str) -> Option<(String, Option<u16>)> {
    let port_at = match text.rfind(']') {
        Some(end) => text[end..].find(':').map(|i| end + i),
        None => text.rfind(':'),
    };
    match port_at {
        Some(at) => {
            let port: u16 = text[at + 1..].parse().ok().filter(|port| *port != 0)?;
            Some((host(&text[..at])?, Some(port)))
        }
        None => Some((host(text)?, None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_read_back_as_written() {
        for text in [
            "gateway",
            "icmp://10.0.0.1",
            "icmp://[fe80::1]",
            "tcp://server.local:443",
            "tcp://[::1]:80",
            "http://10.0.0.1:8080/a?b=c",
            "https://dukcapil.example/",
            "dns://system/example.go.id",
            "dns://10.0.0.1/example.go.id",
            "dns://[::1]:5353/example.go.id",
        ] {
            let probe: Probe = text.parse().expect(text);
            assert_eq!(probe.to_string(), text);
        }
    }

    #[test]
    fn bad_probes_are_refused_with_a_fix() {
        for text in [
            "",
            "10.0.0.1",
            "icmp://",
            "icmp://300.1.1.1",
            "icmp://[::g]",
            "tcp://host",
            "tcp://host:0",
            "tcp://host:70000",
            "tcp://:80",
            "ftp://host",
            "http://",
            "http:///path",
            "http://user:pw@host/",
            "http://a b/",
            "dns://10.0.0.1",
            "dns://10.0.0.1/",
            "icmp://-a",
        ] {
            let error = text.parse::<Probe>().expect_err(text);
            assert_eq!(error.field, "probe");
            assert!(!error.fix.is_empty());
        }
    }

    fn spec(name: &str, interval: &str, timeout: &str) -> TargetSpec {
        TargetSpec {
            name: name.into(),
            role: Role::Server,
            probe: "icmp://10.0.0.1".into(),
            interval: Some(interval.into()),
            timeout: Some(timeout.into()),
            expect_status: None,
            expect_body: None,
        }
    }

    #[test]
    fn lists_name_the_place_of_the_fault() {
        let error = read_targets(vec![spec("a", "10s", "1s"), spec("a", "10s", "1s")])
            .expect_err("a fault");
        assert_eq!(error.field, "target[1].name");
        let error = read_targets(vec![spec("a", "1s", "2s")]).expect_err("a fault");
        assert_eq!(error.field, "target[0].timeout");
        let error = read_targets(vec![spec("a", "10 parsecs", "2s")]).expect_err("a fault");
        assert_eq!(error.field, "target[0].interval");
    }
}
