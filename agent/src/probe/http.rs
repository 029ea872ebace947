//! GET of a URL on a connection of its own: status, body, certificate.

use super::reason_of;
use super::resolver::Resolver;
use anyhow::{Context, bail};
use denyut_proto::{Failure, HttpExpectation, Identity, Reason};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use rustls::{CertificateError, RootCertStore};
use std::error::Error;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How much of a body is searched for the expected text.
const BODY_MAX: usize = 64 * 1024;

/// A client that keeps no connection (each probe must try all of the way), follows no redirect (its
/// answer is the target's own), and uses no proxy. `field` is where the configuration names `ca`.
pub(super) fn client(
    field: &str,
    ca: Option<&Path>,
    resolver: Resolver,
) -> anyhow::Result<reqwest::Client> {
    let mut roots = RootCertStore {
        roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
    };
    if let Some(path) = ca {
        let read = || {
            format!(
                "`{field}`: cannot read certificates from {}",
                path.display()
            )
        };
        let before = roots.len();
        for certificate in CertificateDer::pem_file_iter(path).with_context(read)? {
            roots
                .add(certificate.with_context(read)?)
                .with_context(read)?;
        }
        if roots.len() == before {
            bail!("`{field}`: {} holds no PEM certificate", path.display());
        }
    }
    let tls = rustls::ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .pool_max_idle_per_host(0)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .dns_resolver(Arc::new(resolver))
        .tls_info(true)
        .user_agent(concat!("denyut-agent/", env!("CARGO_PKG_VERSION")))
        .build()
        .context("cannot make the HTTP client")
}

/// A right answer.
pub(super) struct Right {
    /// The time until it was known to be right: its head, or the expected text in its body.
    pub(super) rtt: Duration,
    /// Who gave it.
    pub(super) from: Option<IpAddr>,
    /// The certificate it was given by.
    pub(super) certificate: Option<Identity>,
}

/// Asks once.
pub(super) async fn get(
    client: &reqwest::Client,
    url: &str,
    expect: &HttpExpectation,
) -> Result<Right, Failure> {
    let start = Instant::now();
    let mut response = client.get(url).send().await.map_err(|e| failure_of(&e))?;
    let (from, certificate) = (
        response.remote_addr().map(|from| from.ip()),
        certificate_of(&response),
    );
    let right = |rtt| Right {
        rtt,
        from,
        certificate,
    };
    let status = response.status().as_u16();
    let expected = match expect.status {
        Some(expected) => status == expected,
        None => (200..400).contains(&status),
    };
    if !expected {
        return Err(Failure {
            reason: Reason::HttpStatus,
            detail: status.into(),
        });
    }
    let Some(text) = &expect.body else {
        return Ok(right(start.elapsed()));
    };
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|e| failure_of(&e))? {
        // Only what the new part can complete is searched, or a body that drips in would cost its square.
        let from = body.len().saturating_sub(text.len() - 1);
        body.extend_from_slice(&chunk[..chunk.len().min(BODY_MAX - body.len())]);
        if body[from..]
            .windows(text.len())
            .any(|part| part == text.as_bytes())
        {
            return Ok(right(start.elapsed()));
        }
        if body.len() == BODY_MAX {
            break;
        }
    }
    Err(Reason::HttpBody.into())
}

fn certificate_of(response: &reqwest::Response) -> Option<Identity> {
    let tls = response.extensions().get::<reqwest::tls::TlsInfo>()?;
    let hash = ring::digest::digest(&ring::digest::SHA256, tls.peer_certificate()?);
    Some(Identity::Certificate(hash.as_ref().try_into().ok()?))
}

/// Looks through the chain of causes for the one that says most.
fn failure_of(error: &reqwest::Error) -> Failure {
    let mut io = None;
    let mut cause: Option<&(dyn Error + 'static)> = error.source();
    while let Some(this) = cause {
        if let Some(tls) = this.downcast_ref::<rustls::Error>() {
            return tls_reason(tls).into();
        }
        // hyper-util says only by its text that the name was the trouble.
        if this.to_string().contains("dns error") {
            return Reason::NameNotResolved.into();
        }
        let wrapped = this.downcast_ref::<std::io::Error>();
        io = wrapped.map(reason_of).or(io);
        // What an io::Error wraps is not its source: that is the source of what it wraps.
        cause = match wrapped.and_then(std::io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => this.source(),
        };
    }
    match io {
        Some(reason) => reason.into(),
        None if error.is_timeout() => Reason::Timeout.into(),
        None => Reason::Protocol.into(),
    }
}

fn tls_reason(error: &rustls::Error) -> Reason {
    match error {
        rustls::Error::InvalidCertificate(
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. },
        ) => Reason::TlsExpired,
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => Reason::TlsNameMismatch,
        rustls::Error::InvalidCertificate(_) => Reason::TlsUntrusted,
        _ => Reason::TlsFailed,
    }
}
