//! One A query over UDP.

use super::{Answer, reason_of};
use denyut_proto::{Failure, Reason};
use hickory_proto::op::{Message, MessageType, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};
use tokio::net::UdpSocket;

/// A lost datagram is asked for again, as any resolver would: one lost packet is not a dead name server.
const RESEND_AFTER: Duration = Duration::from_secs(1);

/// Asks `server` for `name`; the time is that of the query that was answered.
pub(super) async fn query(server: SocketAddr, name: &str) -> Answer {
    let mut name = Name::from_ascii(name).map_err(|_| Failure::from(Reason::LocalError))?;
    // As answers repeat it.
    name.set_fqdn(true);
    ask(server, name)
        .await
        .map_err(|error| Failure::from(reason_of(&error)))?
}

async fn ask(server: SocketAddr, name: Name) -> std::io::Result<Answer> {
    let local: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(local).await?;
    socket.connect(server).await?;
    let question = Query::query(name, RecordType::A);
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(question.clone());
    let mut buffer = [0; 1232];
    loop {
        // An id of its own for each try, so that the answer's time is that of the try it answers.
        message.metadata.id = rand::random();
        let bytes = message.to_vec().map_err(std::io::Error::other)?;
        let start = Instant::now();
        socket.send(&bytes).await?;
        let until = tokio::time::Instant::now() + RESEND_AFTER;
        while let Ok(received) = tokio::time::timeout_at(until, socket.recv(&mut buffer)).await {
            let rtt = start.elapsed();
            match read(&buffer[..received?], message.metadata.id, &question) {
                Some(Ok(code)) => return Ok(judge(code, rtt)),
                Some(Err(failure)) => return Ok(Err(failure)),
                None => {}
            }
        }
    }
}

/// What a datagram answers; `None` if it is late or forged: not the answer to this question.
pub(crate) fn read(
    bytes: &[u8],
    id: u16,
    question: &Query,
) -> Option<Result<ResponseCode, Failure>> {
    let Ok(answer) = Message::from_vec(bytes) else {
        return Some(Err(Reason::DnsError.into()));
    };
    let is_answer = answer.metadata.id == id
        && answer.metadata.message_type == MessageType::Response
        && answer.queries.first().is_none_or(|of| of == question);
    is_answer.then_some(Ok(answer.metadata.response_code))
}

/// A name without an A record answers `NOERROR` and is as good a sign of life as one with.
fn judge(code: ResponseCode, rtt: Duration) -> Answer {
    match code {
        ResponseCode::NoError => Ok(rtt),
        ResponseCode::NXDomain => Err(Reason::DnsNxdomain.into()),
        ResponseCode::ServFail => Err(Reason::DnsServfail.into()),
        _ => Err(Reason::DnsError.into()),
    }
}
