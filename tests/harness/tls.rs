//! A certificate authority for a test, and what it signs.

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType, date_time_ymd};
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// Signs for one test.
#[derive(Debug)]
pub struct Authority {
    folder: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes one; its certificate and key are `ca.pem` and `ca.key` in `folder`.
    pub fn new(folder: &Path) -> Self {
        let mut parameters = CertificateParams::new(Vec::new()).expect("parameters");
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let certificate = parameters.self_signed(&key).expect("signs");
        fs::write(folder.join("ca.pem"), certificate.pem()).expect("writes");
        fs::write(folder.join("ca.key"), key.serialize_pem()).expect("writes");
        Self {
            folder: folder.to_owned(),
            issuer: Issuer::new(parameters, key),
        }
    }

    /// The one whose `ca.pem` and `ca.key` are in `of`; what it signs goes to `folder`.
    pub fn open(of: &Path, folder: &Path) -> Self {
        let read = |name: &str| fs::read_to_string(of.join(name)).expect("reads");
        let key = KeyPair::from_pem(&read("ca.key")).expect("a key");
        Self {
            folder: folder.to_owned(),
            issuer: Issuer::from_ca_cert_pem(&read("ca.pem"), key).expect("a certificate"),
        }
    }

    /// Signs a server's certificate for an address: `<name>.pem` and `<name>.key`.
    pub fn server(&self, name: &str, address: IpAddr) {
        self.sign(name, SanType::IpAddress(address), 4096);
    }

    /// The same, over since 2001.
    pub fn expired_server(&self, name: &str, address: IpAddr) {
        self.sign(name, SanType::IpAddress(address), 2001);
    }

    /// Signs an agent's certificate.
    pub fn agent(&self, id: &str) {
        let uri = format!("spiffe://denyut/agent/{id}");
        self.sign(id, SanType::URI(uri.try_into().expect("ASCII")), 4096);
    }

    fn sign(&self, name: &str, san: SanType, until_year: i32) {
        let mut parameters = CertificateParams::new(Vec::new()).expect("parameters");
        parameters.subject_alt_names = vec![san];
        parameters.not_after = date_time_ymd(until_year, 1, 1);
        let key = KeyPair::generate().expect("a key");
        let certificate = parameters.signed_by(&key, &self.issuer).expect("signs");
        fs::write(self.folder.join(format!("{name}.pem")), certificate.pem()).expect("writes");
        fs::write(self.folder.join(format!("{name}.key")), key.serialize_pem()).expect("writes");
    }
}
