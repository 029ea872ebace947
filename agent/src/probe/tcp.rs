//! Opening (and at once closing) a TCP connection.

use super::{Answer, reason_of};
use std::net::SocketAddr;
use std::time::Instant;

/// Time from SYN to the open connection.
pub(super) async fn connect(to: SocketAddr) -> Answer {
    let start = Instant::now();
    match tokio::net::TcpStream::connect(to).await {
        Ok(_connection) => Ok(start.elapsed()),
        Err(error) => Err(reason_of(&error).into()),
    }
}
