//! Names of things, checked once where they enter and then carried as types. Copies share one text.

use crate::Invalid;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Which agent: 1 to 63 of `a-z`, `0-9` and `-`, not at the ends (a DNS label, so that it can stand in
/// a certificate).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AgentId(Arc<str>);

/// Name of a target: 1 to 32 of `a-z`, `0-9` and `-`, not at the ends.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TargetName(Arc<str>);

/// Official region code (Kemendagri) of the office: province, regency, district and, for a village,
/// village; `36.73.02` or `36.73.02.1001`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct OfficeCode(Arc<str>);

/// Which run of which machine a batch was made in.
///
/// The machine's own boot id, exclusive-or the random id of the spool. So it changes when the machine
/// restarts; it differs between two machines that were cloned from one disk; and it differs when
/// the spool was wiped, after which sequences start anew. The same (boot, seq) is the same batch, always.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BootId(pub [u8; 16]);

impl BootId {
    /// Combines the machine's boot id with the spool's id.
    #[must_use]
    pub fn of(machine_boot: [u8; 16], spool: [u8; 16]) -> Self {
        Self(std::array::from_fn(|i| machine_boot[i] ^ spool[i]))
    }
}

impl fmt::Display for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl From<BootId> for String {
    fn from(boot: BootId) -> Self {
        boot.to_string()
    }
}

impl TryFrom<String> for BootId {
    type Error = Invalid;
    fn try_from(text: String) -> Result<Self, Invalid> {
        let wrong = || {
            Invalid::new(
                "boot",
                &text,
                "not a boot id",
                "write 32 hexadecimal digits",
            )
        };
        from_hex(&text).map(Self).ok_or_else(wrong)
    }
}

/// `N` bytes from 2·`N` hexadecimal digits.
pub(crate) fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits: Vec<u8> = text
        .chars()
        .map(|c| u8::try_from(c.to_digit(16)?).ok())
        .collect::<Option<_>>()?;
    (digits.len() == 2 * N).then(|| std::array::from_fn(|i| digits[2 * i] << 4 | digits[2 * i + 1]))
}

impl fmt::Debug for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BootId({self})")
    }
}

impl TryFrom<&[u8]> for BootId {
    type Error = Invalid;
    fn try_from(bytes: &[u8]) -> Result<Self, Invalid> {
        bytes.try_into().map(Self).map_err(|_| {
            Invalid::new(
                "boot",
                format!("{} bytes", bytes.len()),
                "not a boot id",
                "send 16 bytes",
            )
        })
    }
}

/// One target as one agent sees it. The domain's link is (office, target); where an office has several
/// agents, each has its own view of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId {
    /// Who looks.
    pub agent: AgentId,
    /// At what.
    pub target: TargetName,
}

impl fmt::Display for LinkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.agent, self.target)
    }
}

/// Lower-case letters, digits and inner hyphens, 1 to `max` of them.
fn is_label(text: &str, max: usize) -> bool {
    (1..=max).contains(&text.len())
        && !text.starts_with('-')
        && !text.ends_with('-')
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// `dd.dd.dd` or `dd.dd.dd.dddd`.
fn is_region_code(text: &str) -> bool {
    let widths: Vec<usize> = text.split('.').map(str::len).collect();
    matches!(widths[..], [2, 2, 2] | [2, 2, 2, 4])
        && text.bytes().all(|b| b.is_ascii_digit() || b == b'.')
}

macro_rules! text_id {
    ($type:ident, $field:literal, $ok:expr, $problem:literal, $fix:literal) => {
        impl $type {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = Invalid;
            fn from_str(text: &str) -> Result<Self, Invalid> {
                let ok: fn(&str) -> bool = $ok;
                if ok(text) {
                    Ok(Self(text.into()))
                } else {
                    Err(Invalid::new($field, text, $problem, $fix))
                }
            }
        }

        impl TryFrom<String> for $type {
            type Error = Invalid;
            fn try_from(text: String) -> Result<Self, Invalid> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(id: $type) -> String {
                id.0.as_ref().to_owned()
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text_id!(
    AgentId,
    "agent",
    |t| is_label(t, 63),
    "not an agent id",
    "use 1 to 63 of a-z, 0-9 and inner `-`, such as `cipocok-jaya-1`"
);
text_id!(
    TargetName,
    "name",
    |t| is_label(t, 32),
    "not a target name",
    "use 1 to 32 of a-z, 0-9 and inner `-`, such as `server-tcp`"
);
text_id!(
    OfficeCode,
    "code",
    is_region_code,
    "not an official region code",
    "write it like `36.73.02` (province.regency.district)"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_labels() {
        for good in ["a", "cipocok-jaya-1", "0"] {
            assert_eq!(good.parse::<AgentId>().map(String::from), Ok(good.into()));
        }
        for bad in ["", "-a", "a-", "A", "a_b", "a b", "é", &"a".repeat(64)] {
            assert!(bad.parse::<AgentId>().is_err(), "{bad}");
        }
        assert!("a".repeat(33).parse::<TargetName>().is_err());
    }

    #[test]
    fn office_codes_follow_kemendagri() {
        for good in ["36.73.02", "36.73.02.1001"] {
            assert!(good.parse::<OfficeCode>().is_ok(), "{good}");
        }
        for bad in ["36.73", "36.73.2", "36-73-02", "36.73.02.1", "aa.bb.cc", ""] {
            assert!(bad.parse::<OfficeCode>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_boot_is_of_machine_and_spool() {
        let (one, other) = ([1; 16], [2; 16]);
        assert_ne!(BootId::of(one, one), BootId::of(one, other));
        assert_ne!(BootId::of(one, other), BootId::of(other, other));
        let text = BootId::of([0x0a; 16], [0; 16]).to_string();
        assert_eq!(text, "0a".repeat(16));
        assert_eq!(BootId::try_from(text), Ok(BootId([0x0a; 16])));
        assert!(BootId::try_from("0a".to_owned()).is_err());
    }
}
