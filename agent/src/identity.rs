//! Who this agent is, since its machine joined: its key, its certificate, and whom it takes for the collector.
//!
//! All of it is one file in the data folder that only its owner may read, written whole or not at all.

use crate::machine;
use crate::system;
use anyhow::{Context, anyhow, ensure};
use denyut_proto::{AgentId, UnixMillis, wire};
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use tonic::transport::Uri;

/// What the agent is known by.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) agent: AgentId,
    /// Where its collector is: `https://host:port`.
    collector: String,
    /// The certificate of the collector's authority, in DER.
    #[serde(with = "hex")]
    authority: Vec<u8>,
    /// Its own, in DER.
    #[serde(with = "hex")]
    certificate: Vec<u8>,
    /// Its key, in PKCS #8.
    #[serde(with = "hex")]
    key: Vec<u8>,
    /// Its certificate was made then, and is good until then, by the collector's clock.
    pub(crate) from: UnixMillis,
    pub(crate) until: UnixMillis,
}

impl fmt::Debug for Identity {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({} until {})", self.agent, self.until)
    }
}

/// Bytes as hexadecimal text.
mod hex {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        use std::fmt::Write;
        let mut text = String::with_capacity(2 * bytes.len());
        for byte in bytes {
            // Writing to a string does not fail.
            write!(text, "{byte:02x}").ok();
        }
        to.serialize_str(&text)
    }

    pub(super) fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(from)?;
        let digits: Option<Vec<u8>> = text
            .chars()
            .map(|c| u8::try_from(c.to_digit(16)?).ok())
            .collect();
        digits
            .filter(|digits| digits.len().is_multiple_of(2))
            .map(|digits| {
                digits
                    .chunks(2)
                    .map(|pair| pair[0] << 4 | pair[1])
                    .collect()
            })
            .ok_or_else(|| D::Error::custom("not hexadecimal digits"))
    }
}

/// A new key, and the request for a certificate for it.
pub(crate) struct Candidate {
    key: KeyPair,
}

impl Candidate {
    pub(crate) fn new() -> anyhow::Result<Self> {
        Ok(Self {
            key: KeyPair::generate().context("cannot make a key")?,
        })
    }

    /// PKCS #10, DER.
    pub(crate) fn request(&self) -> anyhow::Result<Vec<u8>> {
        request(&self.key)
    }

    /// The identity that the collector's answer makes of it.
    pub(crate) fn becomes(
        &self,
        collector: String,
        answer: &wire::Certificate,
    ) -> anyhow::Result<Identity> {
        let [certificate, authority] = &answer.chain[..] else {
            return Err(anyhow!(
                "the collector sent {} certificates instead of two",
                answer.chain.len()
            ));
        };
        let identity = Identity {
            agent: answer
                .agent
                .parse()
                .context("the collector gave a name that is none")?,
            collector,
            authority: authority.clone(),
            certificate: certificate.clone(),
            key: self.key.serialize_der(),
            from: UnixMillis(answer.from_ms),
            until: UnixMillis(answer.until_ms),
        };
        identity.check()?;
        Ok(identity)
    }
}

fn request(key: &KeyPair) -> anyhow::Result<Vec<u8>> {
    let parameters = CertificateParams::new(Vec::new())?;
    let request = parameters.serialize_request(key)?;
    Ok(request.der().to_vec())
}

impl Identity {
    fn path(data_dir: &Path) -> PathBuf {
        data_dir.join("identity.json")
    }

    /// The one in the data folder; none if the machine has not joined.
    pub(crate) fn read(data_dir: &Path) -> anyhow::Result<Option<Self>> {
        let path = Self::path(data_dir);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", path.display()));
            }
        };
        let read = || {
            let identity: Self = serde_json::from_slice(&text)?;
            identity.check()?;
            anyhow::Ok(identity)
        };
        read().map(Some).with_context(|| {
            format!(
                "{} is damaged; delete it, and let the machine join again",
                path.display()
            )
        })
    }

    /// Writes it; the data folder's owner may read it, and nobody else.
    pub(crate) fn write(&self, data_dir: &Path) -> anyhow::Result<()> {
        let path = Self::path(data_dir);
        let write = || {
            let new = path.with_extension("new");
            match fs::remove_file(&new) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut file = system::private_file(&new)?;
            file.write_all(&serde_json::to_vec(self)?)?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            system::sync_folder(data_dir)
        };
        write().with_context(|| format!("cannot write {}", path.display()))
    }

    /// Whether its parts can be what they say.
    fn check(&self) -> anyhow::Result<()> {
        self.key_pair()?;
        self.uri()?;
        ensure!(
            self.from < self.until,
            "its certificate is good for no time"
        );
        Ok(())
    }

    fn key_pair(&self) -> anyhow::Result<KeyPair> {
        KeyPair::try_from(&self.key[..]).context("its key cannot be read")
    }

    /// A request for a new certificate for the key that it has.
    pub(crate) fn request(&self) -> anyhow::Result<Vec<u8>> {
        request(&self.key_pair()?)
    }

    /// The same with the certificate that the collector answered with.
    pub(crate) fn renewed(&self, answer: &wire::Certificate) -> anyhow::Result<Self> {
        let [certificate, _] = &answer.chain[..] else {
            return Err(anyhow!(
                "the collector sent {} certificates instead of two",
                answer.chain.len()
            ));
        };
        let renewed = Self {
            certificate: certificate.clone(),
            from: UnixMillis(answer.from_ms),
            until: UnixMillis(answer.until_ms),
            ..self.clone()
        };
        renewed.check()?;
        Ok(renewed)
    }

    /// Where its collector is, as text.
    pub(crate) fn collector(&self) -> &str {
        &self.collector
    }

    /// Where its collector is.
    pub(crate) fn uri(&self) -> anyhow::Result<Uri> {
        self.collector
            .parse()
            .context("its collector's address cannot be read")
    }

    /// The authority whose word it takes for the collector's.
    pub(crate) fn authority(&self) -> CertificateDer<'static> {
        CertificateDer::from(self.authority.clone())
    }

    /// What it shows to the collector.
    pub(crate) fn shown(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let key = PrivatePkcs8KeyDer::from(self.key.clone());
        let certificate = CertificateDer::from(self.certificate.clone());
        (vec![certificate], PrivateKeyDer::from(key))
    }

    /// When it is to be renewed: at two thirds of its certificate's life.
    pub(crate) fn renew_at(&self) -> UnixMillis {
        self.from + self.until.since(self.from) * 2 / 3
    }

    /// Whether its certificate is over, by this machine's clock.
    pub(crate) fn is_over(&self) -> bool {
        machine::wall() >= self.until
    }
}
