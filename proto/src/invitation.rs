//! What a machine joins by: one word that says where the collector is, who it is, and that the machine may.

use crate::Invalid;
use crate::ids::from_hex;
use std::fmt;
use std::str::FromStr;

/// A secret that lets one who holds it join: 128 bits. It is shown where it is written into an invitation, and nowhere else.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Secret(pub [u8; 16]);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// An invitation to join: `https://host:port/#<authority>.<secret>`, the authority and the secret in hexadecimal.
///
/// What follows `#` is sent by no browser to anybody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invitation {
    /// Where the collector is: `https://host:port`.
    pub address: String,
    /// SHA-256 of the certificate of the collector's authority.
    pub authority: [u8; 32],
    /// The permission.
    pub secret: Secret,
}

/// The hexadecimal digits of some bytes.
struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Display for Invitation {
    /// With the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (authority, secret) = (Hex(&self.authority), Hex(&self.secret.0));
        write!(f, "{}/#{authority}.{secret}", self.address)
    }
}

impl FromStr for Invitation {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        // What stands there is not repeated: it may hold the secret.
        let wrong = |problem: &str| {
            Invalid::new(
                "invitation",
                "(not shown)",
                problem,
                "copy the whole line that `denyutctl invitation create` printed, without spaces",
            )
        };
        let (address, rest) = text
            .trim()
            .split_once('#')
            .ok_or_else(|| wrong("there is no `#` in it"))?;
        let address = address.trim_end_matches('/');
        if !address.starts_with("https://") || address.len() > 300 {
            return Err(wrong("it does not begin with `https://host:port`"));
        }
        let (authority, secret) = rest
            .split_once('.')
            .ok_or_else(|| wrong("the part after `#` has no `.`"))?;
        Ok(Self {
            address: address.to_owned(),
            authority: from_hex(authority)
                .ok_or_else(|| wrong("the part before `.` is not 64 hexadecimal digits"))?,
            secret: from_hex(secret)
                .map(Secret)
                .ok_or_else(|| wrong("the part after `.` is not 32 hexadecimal digits"))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invitation_is_read_as_it_was_written_and_its_secret_is_not_shown() {
        let invitation = Invitation {
            address: "https://collector.example:7443".into(),
            authority: [0xab; 32],
            secret: Secret([0xcd; 16]),
        };
        let text = invitation.to_string();
        assert_eq!(text.len(), 30 + 2 + 64 + 1 + 32);
        assert_eq!(format!(" {text}\n").parse(), Ok(invitation.clone()));
        assert!(!format!("{invitation:?}").contains("cdcd"));
        let cut = &text[..text.len() - 1];
        for bad in [
            cut,
            "https://a:1/#ab.cd",
            "http://a:1/#",
            "abc",
            "",
            cut.replace('.', "-").as_str(),
        ] {
            let error = bad.parse::<Invitation>().expect_err("is wrong").to_string();
            assert!(
                error.contains("copy the whole line") && !error.contains("cdcd"),
                "{error}"
            );
        }
    }
}
