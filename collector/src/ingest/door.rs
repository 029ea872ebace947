//! The agents' port: connections, TLS, and who is at the other end.

use super::{
    Gate, KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT, MESSAGE_MAX, STREAMS_PER_CONNECTION, Service,
};
use crate::config::TlsFiles;
use anyhow::Context;
use denyut_proto::AgentId;
use denyut_proto::wire::ingest_server::IngestServer;
use futures_util::{Stream, stream};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::{Request as Call, Status};
use tracing::warn;

/// The agent that the client's certificate names, by its SAN `spiffe://denyut/agent/<id>`; `None` without TLS.
pub(super) fn peer_identity<T>(call: &Call<T>) -> Result<Option<AgentId>, Status> {
    let Some(certificates) = call.peer_certs() else {
        return Ok(None);
    };
    let refused = |what: &str| Status::unauthenticated(format!("the client certificate {what}"));
    let leaf = certificates.first().ok_or_else(|| refused("is missing"))?;
    let (_, parsed) =
        x509_parser::parse_x509_certificate(leaf).map_err(|_| refused("cannot be read"))?;
    let names = parsed
        .subject_alternative_name()
        .map_err(|_| refused("cannot be read"))?
        .map(|extension| extension.value.general_names.as_slice())
        .unwrap_or_default();
    names
        .iter()
        .find_map(|name| match name {
            x509_parser::extensions::GeneralName::URI(uri) => {
                uri.strip_prefix("spiffe://denyut/agent/")?.parse().ok()
            }
            _ => None,
        })
        .map(Some)
        .ok_or_else(|| {
            refused("names no agent: its SAN must hold the URI spiffe://denyut/agent/<id>")
        })
}

/// The connections of a listener. When one cannot be taken (too many open files), it waits instead of asking again at once.
fn incoming(listener: TcpListener) -> impl Stream<Item = std::io::Result<TcpStream>> {
    stream::unfold(listener, |listener| async move {
        loop {
            match listener.accept().await {
                Ok((connection, _)) => return Some((Ok(connection), listener)),
                Err(error) => {
                    warn!(%error, "cannot take a connection");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    })
}

/// Serves agents on `listener` until the gate's token is cancelled.
pub(crate) async fn serve(
    gate: Arc<Gate>,
    listener: TcpListener,
    tls: Option<&TlsFiles>,
    page: SocketAddr,
) -> anyhow::Result<()> {
    let mut server = Server::builder()
        // HTTP/1 only to tell who comes by it that this is the wrong door.
        .accept_http1(true)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .tcp_nodelay(true);
    if let Some(files) = tls {
        server = server
            .tls_config(files.load()?)
            .context("`ingest.certificate`, `key` and `client_ca` do not fit together")?;
    }
    let stop = gate.stop.clone();
    let service = IngestServer::new(Service(gate)).max_decoding_message_size(MESSAGE_MAX);
    let wrong_door = move || async move {
        (
            axum::http::StatusCode::NOT_FOUND,
            format!(
                "This port speaks gRPC with denyut agents. The page and the API are at http://{page}/\n"
            ),
        )
    };
    let routes = Routes::new(service).into_axum_router().fallback(wrong_door);
    server
        .add_routes(Routes::from(routes))
        .serve_with_incoming_shutdown(incoming(listener), stop.cancelled_owned())
        .await
        .context("the agents' port failed")
}
