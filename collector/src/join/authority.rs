//! The authority that vouches for the collector to its agents, and for each agent to the collector.
//!
//! It is made at the first start and lies in the data folder; or it comes from files, for who keeps one already. Agents know it by the SHA-256 of its
//! certificate, which is a part of what they join by: nobody else can pass for the collector, and no public authority is asked.

use anyhow::{Context, bail, ensure};
use denyut_proto::{AgentId, UnixMillis};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData,
    SanType, SerialNumber,
};
use ring::digest::{SHA256, digest};
use rustls::crypto::ring::sign::any_ecdsa_type;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{
    CertificateDer, CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer,
};
use rustls::sign::CertifiedKey;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

/// How long the collector's own is; it makes a new one at each start, and at two thirds of this.
pub(crate) const SERVER_FOR: Duration = Duration::from_secs(365 * 86_400);
const AUTHORITY_FOR: Duration = Duration::from_secs(20 * 365 * 86_400);
/// A certificate is good from this long before it was made: clocks differ.
const BEFORE: Duration = Duration::from_secs(3_600);
/// Bytes of a request for a certificate, at most.
pub(crate) const REQUEST_MAX: usize = 4_096;
/// What the SAN of an agent's certificate begins with; its id follows.
pub(crate) const SPIFFE: &str = "spiffe://denyut/agent/";

/// SHA-256 of what identifies a certificate or a key, in hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub(crate) struct Fingerprint(String);

impl Fingerprint {
    pub(crate) fn of(bytes: &[u8]) -> Self {
        use fmt::Write as _;
        let mut text = String::with_capacity(64);
        for byte in digest(&SHA256, bytes).as_ref() {
            // Writing to a string does not fail.
            write!(text, "{byte:02x}").ok();
        }
        Self(text)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The authority. Its key leaves the process only to its own file.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    /// How long an agent's certificate is good.
    agents_for: Duration,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Authority({})", self.fingerprint())
    }
}

/// A certificate for an agent.
#[derive(Debug)]
pub(crate) struct Issued {
    /// The agent's own, then the authority's.
    pub(crate) chain: Vec<CertificateDer<'static>>,
    /// It was made then, and is good until then.
    pub(crate) from: UnixMillis,
    pub(crate) until: UnixMillis,
}

/// What an agent asks a certificate with: its key, and the proof that it holds it.
#[derive(Debug)]
pub(crate) struct Request {
    key: rcgen::PublicKey,
    /// Of its public key.
    pub(crate) fingerprint: Fingerprint,
}

impl Request {
    /// Reads a PKCS #10 request and checks that it is signed by the key in it. Whatever else it asks for is not listened to.
    pub(crate) fn read(der: &[u8]) -> Result<Self, &'static str> {
        if der.len() > REQUEST_MAX {
            return Err("too long");
        }
        let request =
            CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(der))
                .map_err(|_| "not a request for a certificate that is signed by its own key")?;
        let key = request.public_key;
        if *PublicKeyData::algorithm(&key) != rcgen::PKCS_ECDSA_P256_SHA256 {
            return Err("its key is not of the curve P-256");
        }
        let fingerprint = Fingerprint::of(&key.subject_public_key_info());
        Ok(Self { key, fingerprint })
    }
}

fn moment(at: UnixMillis) -> anyhow::Result<time::OffsetDateTime> {
    time::OffsetDateTime::from_unix_timestamp(at.0.div_euclid(1_000))
        .context("a time beyond all calendars")
}

fn parameters(
    name: &str,
    from: UnixMillis,
    until: UnixMillis,
) -> anyhow::Result<CertificateParams> {
    let mut parameters = CertificateParams::new(Vec::new())?;
    parameters.distinguished_name = DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, name);
    parameters.not_before = moment(from)?;
    parameters.not_after = moment(until)?;
    let mut serial: [u8; 16] = rand::random();
    serial[0] &= 0x7f; // a positive number
    parameters.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(parameters)
}

impl Authority {
    /// The one in this folder; a new one if there is none.
    pub(crate) fn open(folder: &Path, now: UnixMillis) -> anyhow::Result<Self> {
        let (certificate, key) = (folder.join("ca.pem"), folder.join("ca.key"));
        if !certificate.exists() {
            Self::make(folder, now)
                .with_context(|| format!("cannot make an authority in {}", folder.display()))?;
        }
        Self::read(&certificate, &key)
    }

    /// The one in these PEM files.
    pub(crate) fn read(certificate: &Path, key: &Path) -> anyhow::Result<Self> {
        let read =
            |path: &Path| fs::read(path).with_context(|| format!("cannot read {}", path.display()));
        let bytes = read(certificate)?;
        let parsed = CertificateDer::from_pem_slice(&bytes)
            .with_context(|| format!("{} holds no PEM certificate", certificate.display()))?;
        let key_pem = String::from_utf8(read(key)?)
            .ok()
            .and_then(|text| KeyPair::from_pem(&text).ok())
            .with_context(|| {
                format!(
                    "{} holds no PEM private key (PKCS #8) that can be used",
                    key.display()
                )
            })?;
        let (_, of) = x509_parser::parse_x509_certificate(&parsed)
            .with_context(|| format!("{} cannot be read", certificate.display()))?;
        let can_sign = of
            .basic_constraints()
            .ok()
            .flatten()
            .is_some_and(|constraints| constraints.value.ca);
        ensure!(
            can_sign,
            "{} is not the certificate of an authority (CA)",
            certificate.display()
        );
        ensure!(
            of.public_key().raw == key_pem.subject_public_key_info(),
            "{} is not the key of {}",
            key.display(),
            certificate.display()
        );
        let parsed = parsed.into_owned();
        Ok(Self {
            issuer: Issuer::from_ca_cert_der(&parsed, key_pem)
                .with_context(|| format!("{} cannot be used", certificate.display()))?,
            certificate: parsed,
            agents_for: Duration::ZERO,
        })
    }

    /// The same, whose certificates for agents are good for so long.
    pub(crate) fn certifying_for(self, agents_for: Duration) -> Self {
        Self { agents_for, ..self }
    }

    /// Makes one. The key is there, and on the disk, before the certificate that says so.
    fn make(folder: &Path, now: UnixMillis) -> anyhow::Result<()> {
        fs::create_dir_all(folder)?;
        let key = KeyPair::generate()?;
        let number: [u8; 4] = rand::random();
        let name = format!("denyut {:08x}", u32::from_be_bytes(number));
        let mut parameters = parameters(&name, now - BEFORE, now + AUTHORITY_FOR)?;
        parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = parameters.self_signed(&key)?;
        write_secret(&folder.join("ca.key"), key.serialize_pem().as_bytes())?;
        write_secret(&folder.join("ca.pem"), certificate.pem().as_bytes())?;
        File::open(folder)?.sync_all()?;
        Ok(())
    }

    /// SHA-256 of its certificate: what agents know it by.
    pub(crate) fn digest(&self) -> [u8; 32] {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest(&SHA256, &self.certificate).as_ref());
        bytes
    }

    /// The same, to read.
    pub(crate) fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.certificate)
    }

    /// Its certificate.
    pub(crate) fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// A new certificate, and a key of its own, for the collector under these names. It is good since the authority is: an agent whose clock is behind
    /// judges it by the time of its own certificate.
    pub(crate) fn server(&self, names: &[Name], now: UnixMillis) -> anyhow::Result<CertifiedKey> {
        let (_, own) = x509_parser::parse_x509_certificate(&self.certificate)?;
        let from = UnixMillis(own.validity().not_before.timestamp().saturating_mul(1_000));
        let mut parameters = parameters("denyut collector", from, now + SERVER_FOR)?;
        for name in names {
            parameters.subject_alt_names.push(match name {
                Name::Dns(name) => SanType::DnsName(name.as_str().try_into()?),
                Name::Ip(address) => SanType::IpAddress(*address),
            });
        }
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate()?;
        let leaf = parameters.signed_by(&key, &self.issuer)?;
        let chain = vec![leaf.der().clone(), self.certificate.clone()];
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        Ok(CertifiedKey::new(chain, any_ecdsa_type(&key)?))
    }

    /// A certificate that says that who holds this key is this agent.
    pub(crate) fn agent(
        &self,
        id: &AgentId,
        request: &Request,
        now: UnixMillis,
    ) -> anyhow::Result<Issued> {
        let until = now + self.agents_for;
        let mut parameters = parameters(id.as_str(), now - BEFORE, until)?;
        let uri = format!("{SPIFFE}{id}");
        parameters.subject_alt_names = vec![SanType::URI(uri.try_into()?)];
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let leaf = parameters.signed_by(&request.key, &self.issuer)?;
        Ok(Issued {
            chain: vec![leaf.der().clone(), self.certificate.clone()],
            from: now,
            until,
        })
    }
}

/// A name that agents call the collector by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Name {
    Dns(String),
    Ip(IpAddr),
}

impl Name {
    /// As it stands in an address.
    pub(crate) fn in_address(&self) -> String {
        match self {
            Self::Dns(name) => name.clone(),
            Self::Ip(IpAddr::V4(address)) => address.to_string(),
            Self::Ip(IpAddr::V6(address)) => format!("[{address}]"),
        }
    }
}

/// Writes a file that only its owner may read, whole or not at all.
fn write_secret(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let new = path.with_extension("new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            bail!("cannot write {}: {error}", new.display())
        }
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    Ok(())
}
