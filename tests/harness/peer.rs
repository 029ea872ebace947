//! An agent that a test plays itself, message by message.

use denyut_proto::wire::{
    AgentMessage, CollectorMessage, Entry, Hello, agent_message, collector_message,
    ingest_client::IngestClient,
};
use denyut_proto::{BootId, Heartbeat, Outcome, Sample, TargetSamples, UnixMillis, wire};
use prost::Message;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

/// One stream to a collector.
#[derive(Debug)]
pub struct Peer {
    send: mpsc::Sender<AgentMessage>,
    receive: Streaming<CollectorMessage>,
}

impl Peer {
    /// Connects and sends a first message.
    pub async fn connect(to: SocketAddr, first: AgentMessage) -> Result<Self, Status> {
        let mut client = IngestClient::connect(format!("http://{to}"))
            .await
            .map_err(|error| Status::unavailable(error.to_string()))?;
        let (send, outbound) = mpsc::channel(1024);
        send.send(first).await.expect("there is room");
        let receive = client
            .stream(ReceiverStream::new(outbound))
            .await?
            .into_inner();
        Ok(Self { send, receive })
    }

    /// Connects, says hello, and waits for the welcome and the configuration that follows it.
    pub async fn join(to: SocketAddr, agent: &str, boot: BootId) -> Result<Self, Status> {
        Self::greet(to, hello(agent, boot)).await
    }

    /// The same, with a hello of one's own.
    pub async fn greet(to: SocketAddr, hello: AgentMessage) -> Result<Self, Status> {
        let mut peer = Self::connect(to, hello).await?;
        match (peer.next().await?, peer.next().await?) {
            (
                Some(collector_message::Kind::Welcome(_)),
                Some(collector_message::Kind::Configuration(_)),
            ) => Ok(peer),
            other => panic!("no welcome but {other:?}"),
        }
    }

    /// Why the stream ended; whatever comes before that is passed over.
    pub async fn end(mut self) -> Status {
        loop {
            match self.next().await {
                Err(status) => return status,
                Ok(Some(_)) => {}
                Ok(None) => panic!("the stream ended without a reason"),
            }
        }
    }

    /// Sends a message; `false` when the stream is gone.
    pub async fn send(&self, message: AgentMessage) -> bool {
        self.send.send(message).await.is_ok()
    }

    /// The next message; `None` at the end of the stream.
    pub async fn next(&mut self) -> Result<Option<collector_message::Kind>, Status> {
        let received = tokio::time::timeout(Duration::from_secs(10), self.receive.message()).await;
        let message =
            received.map_err(|_| Status::deadline_exceeded("nothing came within 10 s"))??;
        Ok(message.and_then(|message| message.kind))
    }
}

/// The uptime of every hand-played machine now: 1,000,000 s.
const UPTIME_MS: u64 = 1_000_000_000;

/// The uptime of a hand-played machine at a time of the last days.
pub fn uptime_at(at_ms: i64) -> Duration {
    let ago = u64::try_from(crate::now_ms() - at_ms).unwrap_or(0);
    Duration::from_millis(UPTIME_MS.saturating_sub(ago))
}

/// A hello of this agent.
pub fn hello(agent: &str, boot: BootId) -> AgentMessage {
    AgentMessage {
        spending: None,
        kind: Some(agent_message::Kind::Hello(Hello {
            protocol: denyut_proto::PROTOCOL,
            agent: agent.into(),
            boot: boot.0.to_vec(),
            version: "test".into(),
            wall_ms: crate::now_ms(),
            uptime_ms: UPTIME_MS,
            ..Default::default()
        })),
    }
}

/// An entry with these bytes as heartbeat.
pub fn entry(seq: u64, heartbeat: Vec<u8>) -> AgentMessage {
    entry_of(&[], seq, heartbeat)
}

/// The same, of another boot than the hello's.
pub fn entry_of(boot: &[u8], seq: u64, heartbeat: Vec<u8>) -> AgentMessage {
    AgentMessage {
        spending: None,
        kind: Some(agent_message::Kind::Entry(Entry {
            boot: boot.to_vec(),
            seq,
            heartbeat: heartbeat.into(),
        })),
    }
}

/// A heartbeat with one answered sample of `target` per given time, encoded.
pub fn heartbeat(target: &str, at_ms: &[i64]) -> Vec<u8> {
    let outcome = |at: i64| Outcome::Ok {
        rtt_us: 1 + u32::try_from(at.rem_euclid(1000)).expect("small"),
    };
    heartbeat_of(target, at_ms, outcome)
}

/// The same with these outcomes.
pub fn heartbeat_of(target: &str, at_ms: &[i64], outcome: impl Fn(i64) -> Outcome) -> Vec<u8> {
    let last = UnixMillis(*at_ms.last().expect("a time"));
    let sample = |at: &i64| Sample {
        at: UnixMillis(*at),
        outcome: outcome(*at),
    };
    let heartbeat = Heartbeat {
        at: last,
        uptime: uptime_at(last.0),
        started: Duration::ZERO,
        interval: Duration::from_secs(60),
        samples: vec![TargetSamples {
            target: target.parse().expect("a name"),
            samples: at_ms.iter().map(sample).collect(),
        }],
        targets: None,
        goodbye: None,
        gateway: None,
        shown: Vec::new(),
        path: None,
    };
    wire::Heartbeat::from(&heartbeat).encode_to_vec()
}
