//! The agents' port: connections, and TLS on them.

use super::caller::{Peer, Proof};
use super::{
    Gate, KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT, MESSAGE_MAX, STREAMS_PER_CONNECTION, Service,
};
use crate::join::{self, Authority, Members, Name, SERVER_FOR};
use crate::metrics::Metrics;
use anyhow::Context;
use denyut_proto::UnixMillis;
use denyut_proto::wire::ingest_server::IngestServer;
use denyut_proto::wire::membership_server::MembershipServer;
use rustls::server::{
    ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::task::{self, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Sleep;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::Connected;
use tracing::{debug, info, warn};

/// Handshakes at the same time, and how long one may take.
const HANDSHAKES: usize = 1_024;
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);
/// Of these from one address: many offices may share one, but do not all come at once.
const HANDSHAKES_OF_ONE: usize = 128;
/// Who shows no certificate may join or come back, which is a matter of seconds.
const UNCERTIFIED_FOR: Duration = Duration::from_secs(60);
/// A request for a certificate and what comes with it.
const MEMBERSHIP_MAX: usize = 16 * 1024;

/// What TLS needs.
pub(crate) struct Tls {
    pub(crate) members: Arc<Members>,
    /// What agents call the collector by.
    pub(crate) names: Vec<Name>,
}

/// The collector's present certificate.
#[derive(Debug)]
struct Current(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(
            &self.0.read().unwrap_or_else(PoisonError::into_inner),
        ))
    }
}

impl Current {
    fn new(authority: &Authority, names: &[Name], now: UnixMillis) -> anyhow::Result<Self> {
        Ok(Self(RwLock::new(Arc::new(authority.server(names, now)?))))
    }

    fn renew(&self, authority: &Authority, names: &[Name], now: UnixMillis) -> anyhow::Result<()> {
        let new = Arc::new(authority.server(names, now)?);
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = new;
        Ok(())
    }
}

/// TLS 1.3 only, as agents are of our making; every connection by a whole handshake, so that what was once good is asked about again.
fn server_config(authority: &Authority, current: Arc<Current>) -> anyhow::Result<ServerConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots
        .add(authority.certificate().clone())
        .context("the authority's certificate")?;
    let clients = WebPkiClientVerifier::builder_with_provider(roots.into(), Arc::clone(&provider))
        .allow_unauthenticated()
        .build()?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(clients)
        .with_cert_resolver(current);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// A connection.
struct Connection {
    bytes: Bytes,
    peer: Peer,
    /// Nothing is read after it.
    until: Option<Pin<Box<Sleep>>>,
}

enum Bytes {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut task::Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(until) = &mut self.until
            && until.as_mut().poll(context).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        match &mut self.bytes {
            Bytes::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Bytes::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut task::Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.bytes {
            Bytes::Plain(stream) => Pin::new(stream).poll_write(context, buffer),
            Bytes::Tls(stream) => Pin::new(stream).poll_write(context, buffer),
        }
    }

    fn poll_flush(
        mut self: Pin<&mut Self>,
        context: &mut task::Context<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.bytes {
            Bytes::Plain(stream) => Pin::new(stream).poll_flush(context),
            Bytes::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        context: &mut task::Context<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.bytes {
            Bytes::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Bytes::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

impl Connection {
    fn plain(stream: TcpStream) -> Self {
        let peer = Peer {
            address: stream.peer_addr().ok(),
            proof: Proof::Plaintext,
        };
        Self {
            bytes: Bytes::Plain(stream),
            peer,
            until: None,
        }
    }

    async fn tls(stream: TcpStream, acceptor: &TlsAcceptor) -> io::Result<Self> {
        let address = stream.peer_addr().ok();
        let stream = acceptor.accept(stream).await?;
        let certificates = stream.get_ref().1.peer_certificates();
        let proof = Proof::of(certificates.and_then(<[_]>::first));
        let is_certified = matches!(proof, Proof::Certified(_));
        let until = (!is_certified).then(|| Box::pin(tokio::time::sleep(UNCERTIFIED_FOR)));
        Ok(Self {
            bytes: Bytes::Tls(Box::new(stream)),
            peer: Peer { address, proof },
            until,
        })
    }
}

/// How many handshakes are under way from each address.
#[derive(Debug, Clone, Default)]
struct Waiting(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// One of them; over when dropped.
struct Shaking(Waiting, IpAddr);

impl Waiting {
    /// One more, unless there are too many.
    fn begin(&self, from: IpAddr) -> Option<Shaking> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = all.entry(from).or_default();
        if *count >= HANDSHAKES_OF_ONE {
            return None;
        }
        *count += 1;
        Some(Shaking(self.clone(), from))
    }
}

impl Drop for Shaking {
    fn drop(&mut self) {
        let mut all = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = all.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.1);
            }
        }
    }
}

/// Takes connections, and hands each on when it has shaken hands. When one cannot be taken (too many open files), it waits instead of asking again at once.
async fn accept(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    taken: mpsc::Sender<io::Result<Connection>>,
    metrics: Arc<Metrics>,
) {
    let waiting = Waiting::default();
    let turns = Arc::new(Semaphore::new(HANDSHAKES));
    loop {
        let Ok(turn) = Arc::clone(&turns).acquire_owned().await else {
            return;
        };
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "cannot take a connection");
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        if let Err(error) = stream.set_nodelay(true) {
            debug!(%error, "cannot send at once what is short");
        }
        let Some(tls) = tls.clone() else {
            if taken.send(Ok(Connection::plain(stream))).await.is_err() {
                return;
            }
            continue;
        };
        let Some(shaking) = waiting.begin(from.ip()) else {
            metrics.crowded.inc();
            continue;
        };
        let taken = taken.clone();
        // Ends with its time.
        tokio::spawn(async move {
            let _ends = (turn, shaking);
            let peer = Some(from);
            match tokio::time::timeout(HANDSHAKE_WITHIN, Connection::tls(stream, &tls)).await {
                Ok(Ok(connection)) => {
                    taken.send(Ok(connection)).await.ok();
                }
                Ok(Err(error)) => info!(?peer, %error, "a handshake failed"),
                Err(_) => info!(?peer, "a handshake took too long"),
            }
        });
    }
}

/// Makes the collector's certificate anew before it is over.
async fn keep_current(gate: &Gate, tls: &Tls, current: &Current) {
    loop {
        tokio::time::sleep(SERVER_FOR * 2 / 3).await;
        let now = gate.clock.read().now;
        match current.renew(tls.members.authority(), &tls.names, now) {
            Ok(()) => info!("the collector has a new certificate"),
            Err(error) => {
                warn!(error = %format!("{error:#}"), "the collector gets no new certificate");
            }
        }
    }
}

/// Serves agents on `listener` until the gate's token is cancelled.
pub(crate) async fn serve(
    gate: Arc<Gate>,
    listener: TcpListener,
    tls: Option<Tls>,
    page: SocketAddr,
) -> anyhow::Result<()> {
    let mut server = Server::builder()
        // HTTP/1 only to tell who comes by it that this is the wrong door.
        .accept_http1(true)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .max_concurrent_streams(STREAMS_PER_CONNECTION);
    let (stop, metrics) = (gate.stop.clone(), Arc::clone(&gate.metrics));
    let service =
        IngestServer::new(Service(Arc::clone(&gate))).max_decoding_message_size(MESSAGE_MAX);
    let mut routes = Routes::new(service);
    let mut acceptor = None;
    let helpers = CancellationToken::new();
    let _end_helpers = helpers.clone().drop_guard();
    if let Some(tls) = tls {
        let (authority, now) = (tls.members.authority(), gate.clock.read().now);
        let current = Arc::new(Current::new(authority, &tls.names, now)?);
        let config = server_config(authority, Arc::clone(&current))
            .context("TLS cannot be set up with this authority")?;
        acceptor = Some(TlsAcceptor::from(Arc::new(config)));
        let membership = join::Service::new(
            Arc::clone(&tls.members),
            Arc::clone(&gate.clock),
            Arc::clone(&gate.metrics),
        );
        let membership =
            MembershipServer::new(membership).max_decoding_message_size(MEMBERSHIP_MAX);
        routes = routes.add_service(membership);
        let gate = Arc::clone(&gate);
        tokio::spawn(helpers.clone().run_until_cancelled_owned(async move {
            keep_current(&gate, &tls, &current).await;
        }));
    }
    let (taken, connections) = mpsc::channel(16);
    tokio::spawn(helpers.run_until_cancelled_owned(accept(listener, acceptor, taken, metrics)));
    let wrong_door = move || async move {
        (
            axum::http::StatusCode::NOT_FOUND,
            format!(
                "This port speaks gRPC with denyut agents. The page and the API are at http://{page}/\n"
            ),
        )
    };
    let routes = routes.into_axum_router().fallback(wrong_door);
    server
        .add_routes(Routes::from(routes))
        .serve_with_incoming_shutdown(ReceiverStream::new(connections), stop.cancelled_owned())
        .await
        .context("the agents' port failed")
}
