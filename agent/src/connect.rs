//! Connections to the collector, and who it must be.
//!
//! The collector is known by the authority that signed its certificate, never by a public one. The time by which its certificate is judged is the
//! machine's own only as far as the agent's own certificate bears it out: a machine whose clock was set back to 1970 reaches its collector all the same.

use crate::budget::carried;
use crate::identity::Identity;
use anyhow::{Context as _, anyhow, bail};
use denyut_proto::UnixMillis;
use hyper_util::rt::TokioIo;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};

pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A path that does not take what is sent is given up after this; Windows does so by itself.
#[cfg(unix)]
const UNTAKEN: Duration = Duration::from_secs(30);

/// Whom the agent takes for the collector.
#[derive(Debug, Clone)]
pub(crate) enum Trust {
    /// Who is certified by one of these authorities, by the machine's clock.
    Authorities(Vec<CertificateDer<'static>>),
    /// The same of one, by the machine's clock within these two times.
    Known(CertificateDer<'static>, UnixMillis, UnixMillis),
    /// Who shows an authority of this SHA-256, by the machine's clock.
    Pinned([u8; 32]),
}

/// A certificate and its key.
pub(crate) type Shown = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

#[derive(Debug)]
struct Verifier {
    trust: Trust,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    fn inner(
        &self,
        roots: &[CertificateDer<'static>],
    ) -> Result<Arc<WebPkiServerVerifier>, rustls::Error> {
        let mut store = RootCertStore::empty();
        for root in roots {
            store.add(root.clone())?;
        }
        WebPkiServerVerifier::builder_with_provider(store.into(), Arc::clone(&self.provider))
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let (roots, now) = match &self.trust {
            Trust::Authorities(roots) => (roots.clone(), now),
            Trust::Known(root, from, until) => {
                let second = |at: &UnixMillis| u64::try_from(at.0 / 1_000).unwrap_or_default();
                let judged = now
                    .as_secs()
                    .clamp(second(from), second(until).max(second(from)));
                (
                    vec![root.clone()],
                    UnixTime::since_unix_epoch(Duration::from_secs(judged)),
                )
            }
            Trust::Pinned(pin) => {
                let is_it = |one: &&CertificateDer<'_>| {
                    ring::digest::digest(&ring::digest::SHA256, one).as_ref() == pin
                };
                let root = others.iter().find(is_it).ok_or_else(|| {
                    rustls::Error::General(
                        "this is not the collector that the invitation is from".to_owned(),
                    )
                })?;
                (vec![root.clone().into_owned()], now)
            }
        };
        self.inner(&roots)?
            .verify_server_cert(certificate, others, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// TLS with who is trusted, showing a certificate or none.
pub(crate) fn tls(trust: Trust, shown: Option<Shown>) -> anyhow::Result<Arc<ClientConfig>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Verifier {
        trust,
        provider: Arc::clone(&provider),
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match shown {
        Some((chain, key)) => builder
            .with_client_auth_cert(chain, key)
            .context("the certificate and the key do not fit together")?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

/// TLS as the agent that this identity makes of it; without its certificate if that is over.
pub(crate) fn tls_as(identity: &Identity, shows: bool) -> anyhow::Result<Arc<ClientConfig>> {
    let trust = Trust::Known(identity.authority(), identity.from, identity.until);
    tls(trust, shows.then(|| identity.shown()))
}

/// What connections carried since it was asked last.
#[derive(Debug, Clone, Default)]
pub(crate) struct Meter(Arc<AtomicU64>);

impl Meter {
    fn add(&self, bytes: usize) {
        let carried = carried(u64::try_from(bytes).unwrap_or(u64::MAX));
        self.0.fetch_add(carried, Ordering::Relaxed);
    }

    /// Bytes as the network carried them, both ways, since the last time.
    pub(crate) fn take(&self) -> u64 {
        self.0.swap(0, Ordering::Relaxed)
    }
}

/// A connection whose bytes are counted.
struct Metered<S> {
    inner: S,
    meter: Meter,
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(context, buffer);
        self.meter.add(buffer.filled().len() - before);
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(context, bytes);
        if let Poll::Ready(Ok(bytes)) = &written {
            self.meter.add(*bytes);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

/// What is sent and not taken for a while breaks the connection: most of what an agent says is not answered.
#[cfg(unix)]
fn give_up_untaken(stream: &TcpStream) -> io::Result<()> {
    let ms = u32::try_from(UNTAKEN.as_millis()).unwrap_or(u32::MAX);
    rustix::net::sockopt::set_tcp_user_timeout(stream, ms)?;
    Ok(())
}

/// A connection. It is not made again when it breaks.
pub(crate) async fn connect(
    uri: &Uri,
    tls: Option<Arc<ClientConfig>>,
    meter: &Meter,
) -> anyhow::Result<Channel> {
    let (Some(host), Some(port)) = (uri.host(), uri.port_u16()) else {
        bail!("`{uri}` has no host or port");
    };
    let bare = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .to_owned();
    let within = |what: &'static str| move |_| anyhow!("cannot connect: {what} takes too long");
    let stream = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect((bare.as_str(), port)))
        .await
        .map_err(within("the way there"))?
        .context("cannot connect")?;
    stream.set_nodelay(true).context("cannot connect")?;
    #[cfg(unix)]
    give_up_untaken(&stream).context("cannot connect")?;
    let stream = Metered {
        inner: stream,
        meter: meter.clone(),
    };
    // One connection is one session: the scheme tells the library no more than that TLS is not its matter.
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let endpoint =
        Endpoint::from_shared(format!("http://{authority}")).context("cannot connect")?;
    if uri.scheme_str() == Some("https") {
        let config = tls.context("https, and nothing says who the collector is")?;
        let name = ServerName::try_from(bare).context("cannot connect")?;
        let handshake = TlsConnector::from(config).connect(name, stream);
        let stream = tokio::time::timeout(CONNECT_TIMEOUT, handshake)
            .await
            .map_err(within("the handshake"))?
            .context("cannot connect")?;
        hand_over(&endpoint, stream).await
    } else {
        hand_over(&endpoint, stream).await
    }
}

async fn hand_over<S>(endpoint: &Endpoint, stream: S) -> anyhow::Result<Channel>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
{
    let mut stream = Some(TokioIo::new(stream));
    let once = tower::service_fn(move |_: Uri| {
        let stream = stream.take();
        async move { stream.ok_or_else(|| std::io::Error::other("the connection is gone")) }
    });
    endpoint
        .connect_with_connector(once)
        .await
        .context("cannot connect")
}
