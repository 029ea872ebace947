//! A machine that a test joins by hand, and the calls it makes.

use denyut_proto::Invitation;
use denyut_proto::wire::membership_client::MembershipClient;
use denyut_proto::wire::{Certificate, JoinRequest};
use rcgen::{CertificateParams, KeyPair};
use std::net::SocketAddr;
use std::path::Path;
use tonic::Status;
use tonic::transport::{Certificate as Pem, Channel, ClientTlsConfig, Endpoint, Identity};

/// Who makes a call.
#[derive(Debug, Clone)]
pub struct Credential {
    /// Its certificate and its key, in PEM.
    pub certificate: String,
    /// The key, in PEM.
    pub key: String,
}

/// A new key and the request for a certificate for it.
#[must_use]
pub fn candidate() -> (KeyPair, Vec<u8>) {
    let key = KeyPair::generate().expect("a key");
    let request = request(&key);
    (key, request)
}

/// A request for a certificate for this key.
#[must_use]
pub fn request(key: &KeyPair) -> Vec<u8> {
    let parameters = CertificateParams::new(Vec::new()).expect("parameters");
    let request = parameters.serialize_request(key).expect("signs");
    request.der().to_vec()
}

impl Credential {
    /// What a certified key shows.
    #[must_use]
    pub fn of(certificate: &Certificate, key: &KeyPair) -> Self {
        let der = certificate.chain[0].clone();
        Self {
            certificate: pem::encode(&pem::Pem::new("CERTIFICATE", der)),
            key: key.serialize_pem(),
        }
    }

    /// The one in `<name>.pem` and `<name>.key`.
    #[must_use]
    pub fn read(folder: &Path, name: &str) -> Self {
        let read = |end: &str| {
            std::fs::read_to_string(folder.join(format!("{name}.{end}"))).expect("reads")
        };
        Self {
            certificate: read("pem"),
            key: read("key"),
        }
    }
}

/// A connection to a collector whose authority's certificate is this file.
pub async fn channel(
    to: SocketAddr,
    authority: &Path,
    shown: Option<&Credential>,
) -> Result<Channel, Status> {
    let ca = std::fs::read(authority).expect("the authority");
    let mut tls = ClientTlsConfig::new()
        .ca_certificate(Pem::from_pem(ca))
        .domain_name("localhost");
    if let Some(Credential { certificate, key }) = shown {
        tls = tls.identity(Identity::from_pem(certificate, key));
    }
    let endpoint = Endpoint::from_shared(format!("https://localhost:{}", to.port()));
    let endpoint = endpoint.expect("an address").tls_config(tls);
    let connected = endpoint.expect("fits").connect().await;
    connected.map_err(|error| Status::unavailable(format!("{error:?}")))
}

/// Joins by an invitation, with a new key.
pub async fn join(
    to: SocketAddr,
    authority: &Path,
    invitation: &Invitation,
) -> Result<(Certificate, KeyPair), Status> {
    let (key, certificate_request) = candidate();
    let asked = JoinRequest {
        secret: invitation.secret.0.to_vec(),
        certificate_request,
        machine: None,
    };
    let channel = channel(to, authority, None).await?;
    let answer = MembershipClient::new(channel).join(asked).await?;
    Ok((answer.into_inner(), key))
}
