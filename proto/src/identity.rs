//! What a thing shows of itself wherever it stands. A server, a router or a modem that is carried to another office shows the same there, and
//! so is named as what moved.

use crate::{Invalid, TargetName};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// The most that one heartbeat tells of; with the longest names they fit into [`crate::MAX_HEARTBEAT_BYTES`] alone.
pub const MAX_SHOWN: usize = 32;

/// One mark of a thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Identity {
    /// Address of its network card, as the neighbours on its network see it.
    Mac([u8; 6]),
    /// SHA-256 of its TLS certificate.
    Certificate([u8; 32]),
    /// Address that the agent comes from, as the collector sees it: of the line, and often lent to many.
    Address(IpAddr),
}

/// What the collector was told of a thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// The target that showed it; none for the agent's own way out.
    pub target: Option<TargetName>,
    /// What.
    pub identity: Identity,
}

/// `mac 02:00:5e:10:00:01`, `certificate` and 64 hexadecimal digits, `address 203.0.113.9`.
impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mac(mac) => {
                f.write_str("mac ")?;
                mac.iter().enumerate().try_for_each(|(i, byte)| {
                    let between = if i == 0 { "" } else { ":" };
                    write!(f, "{between}{byte:02x}")
                })
            }
            Self::Certificate(hash) => {
                f.write_str("certificate ")?;
                hash.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
            Self::Address(ip) => write!(f, "address {ip}"),
        }
    }
}

impl FromStr for Identity {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let parse = || match text.split_once(' ')? {
            ("mac", mac) => Some(Self::Mac(crate::ids::from_hex(&mac.replace(':', ""))?)),
            ("certificate", hash) => Some(Self::Certificate(crate::ids::from_hex(hash)?)),
            ("address", ip) => Some(Self::Address(ip.parse().ok()?)),
            _ => None,
        };
        parse().ok_or_else(|| {
            Invalid::new(
                "identity",
                text,
                "not an identity",
                "write it like `mac 02:00:5e:10:00:01`",
            )
        })
    }
}

impl TryFrom<String> for Identity {
    type Error = Invalid;
    fn try_from(text: String) -> Result<Self, Invalid> {
        text.parse()
    }
}

impl From<Identity> for String {
    fn from(identity: Identity) -> Self {
        identity.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_read_as_it_is_written() {
        for text in [
            "mac 02:00:5e:10:00:0f",
            "address 203.0.113.9",
            "address 2001:db8::1",
            &format!("certificate {}", "a0".repeat(32)),
        ] {
            let read: Identity = text.parse().expect("is one");
            assert_eq!(read.to_string(), text);
        }
        for bad in [
            "",
            "mac",
            "mac 02:00",
            "mac é2:00:5e:10:00:0f",
            "certificate 00",
            "address 1.2.3",
            "name a",
        ] {
            assert!(bad.parse::<Identity>().is_err(), "{bad}");
        }
    }
}
