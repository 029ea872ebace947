//! Where agents speak: checks who they are and what they say, hands it to the log, and acknowledges what is
//! durable.

mod caller;
mod door;
mod pace;
mod twins;

pub(crate) use caller::{Caller, Proof};
pub(crate) use door::{Tls, serve};

use crate::clock::Clock;
use crate::commit::Request;
use crate::join::Members;
use crate::keys;
use crate::metrics::{Field, Metrics};
use crate::registry::{Introduction, Office, Registry};
use anyhow::{Context, anyhow};
use denyut_detect::calendar::{Holidays, Hours, Opening, Zone};
use denyut_proto::wire::{
    self, AgentMessage, CollectorMessage, agent_message, collector_message, ingest_server::Ingest,
};
use denyut_proto::{
    AgentId, BootId, Heartbeat, Invalid, MAX_HEARTBEAT_BYTES, OfficeCode, PROTOCOL, TargetName,
    UnixMillis, batch,
};
use denyut_store::history::History;
use denyut_store::log::{Appended, Body, Entry, Log};
use denyut_store::state::{Change, State};
use pace::Pace;
use prost::Message;
use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request as Call, Response, Status, Streaming};
use tracing::{info, warn};
use twins::Twins;

/// The first message must be there within this.
const HELLO_WITHIN: Duration = Duration::from_secs(10);
/// Entries of one stream waiting to be acknowledged, at most.
const UNACKED: usize = 128;
/// Messages waiting to be sent to one agent, at most.
const OUTBOUND: usize = 64;
/// What a heartbeat that is refused costs of what an agent may say, in samples: each is a line in the log.
const REFUSED_COSTS: usize = 60;
/// One message: a heartbeat and its envelope.
const MESSAGE_MAX: usize = MAX_HEARTBEAT_BYTES + 1024;
/// How long a stream's last word may take.
const FAREWELL: Duration = Duration::from_secs(5);
/// Streams on one connection: an agent needs one.
const STREAMS_PER_CONNECTION: u32 = 4;
/// How far an agent's clock may run ahead.
pub(crate) const AHEAD_MAX: Duration = Duration::from_secs(5 * 60);
/// Times of a heartbeat whose clock was off by more than this are corrected; less is left as it was told.
const CLOCK_OFF_MS: u64 = 60_000;
/// Whether an agent has a newer certificate is looked at so often.
const RECERTIFIED: Duration = Duration::from_secs(3_600);
/// A connection on which nothing comes for this long is asked whether it is still there: agents speak more often.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15 * 60);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// What the service is made of; one for all streams.
pub(crate) struct Gate {
    pub(crate) registry: Arc<Registry>,
    /// Who has joined; present exactly when agents connect by TLS.
    pub(crate) members: Option<Arc<Members>>,
    pub(crate) log: Arc<dyn Log>,
    pub(crate) history: Arc<dyn History>,
    pub(crate) state: Arc<dyn State>,
    pub(crate) commits: mpsc::Sender<Request>,
    pub(crate) clock: Arc<Clock>,
    pub(crate) metrics: Arc<Metrics>,
    /// Opening hours of offices without their own, and days on which all are closed.
    pub(crate) hours: Arc<Hours>,
    pub(crate) holidays: Holidays,
    /// Samples older than this are refused.
    pub(crate) oldest: Duration,
    /// Each agent's current stream.
    pub(crate) connected: Mutex<Connections>,
    pub(crate) stop: CancellationToken,
}

/// The agents' current streams.
#[derive(Default)]
pub(crate) struct Connections {
    streams: HashMap<AgentId, Connected>,
    twins: Twins,
    /// What each agent that was here may say.
    paces: HashMap<AgentId, Arc<Mutex<Pace>>>,
}

/// An agent's current stream.
struct Connected {
    id: u64,
    boot: BootId,
    send: mpsc::Sender<Result<CollectorMessage, Status>>,
    /// Ends it, and says why.
    cut: watch::Sender<Option<Cut>>,
}

/// Why a stream that was well is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    /// A newer one of the same agent is there.
    Superseded,
    /// An operator shut the agent out.
    Revoked,
    /// Its office is to have other targets probed: it is told when it comes back.
    Changed,
}

impl Cut {
    fn status(self) -> Status {
        match self {
            Self::Superseded => Status::aborted(
                "another stream of this agent is open; is its identity used on two machines?",
            ),
            Self::Changed => {
                Status::unavailable("the office's targets were changed; come back for the new ones")
            }
            Self::Revoked => Status::permission_denied(
                "this agent was revoked; if that was a mistake, join again with a new invitation (`denyut-agent join --again`), and restart the agent",
            ),
        }
    }
}

/// Why a command did not go out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandError {
    #[error("the agent is not connected")]
    NotConnected,
    #[error("the agent does not take what is sent to it")]
    Busy,
}

/// What becomes of an entry, in the order of arrival.
enum Verdict {
    Pending(u64, oneshot::Receiver<Result<Appended, String>>),
    Refused(wire::Refusal),
}

impl Gate {
    /// Asks an agent to probe a target at once.
    pub(crate) fn probe_now(
        &self,
        agent: &AgentId,
        target: &TargetName,
    ) -> Result<(), CommandError> {
        let command = wire::Command {
            kind: Some(wire::command::Kind::ProbeNow(wire::ProbeNow {
                target: target.to_string(),
            })),
        };
        let connected = self.connected();
        let stream = connected.streams.get(agent);
        let stream = stream.ok_or(CommandError::NotConnected)?;
        stream
            .send
            .try_send(Ok(message(collector_message::Kind::Command(command))))
            .map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => CommandError::Busy,
                mpsc::error::TrySendError::Closed(_) => CommandError::NotConnected,
            })
    }

    /// Two machines speak as this agent: this one is asked to join as another, if it joined at all.
    async fn tell_apart(
        &self,
        speaker: &Speaker,
        send: &mpsc::Sender<Result<CollectorMessage, Status>>,
    ) -> Result<(), Status> {
        let joined = self.members.as_ref();
        let joined = joined.filter(|all| all.get(&speaker.agent).is_some());
        let Some(members) = joined.cloned() else {
            return Ok(());
        };
        let (agent, now) = (speaker.agent.clone(), self.clock.read().now);
        let secret = tokio::task::spawn_blocking(move || members.invite_twin(&agent, now));
        let secret = match secret.await {
            Ok(Ok(secret)) => secret,
            Ok(Err(refused)) => {
                warn!(agent = %speaker.agent, %refused, "a twin cannot be asked to join anew");
                return Ok(());
            }
            Err(_) => return Err(Status::internal("it panicked")),
        };
        warn!(agent = %speaker.agent, boot = %speaker.boot, "two machines speak as this agent; the later one is asked to join anew");
        self.metrics.twins.inc();
        let command = wire::Command {
            kind: Some(wire::command::Kind::JoinAnew(wire::JoinAnew {
                secret: secret.0.to_vec(),
            })),
        };
        tell(send, collector_message::Kind::Command(command)).await
    }

    /// Lets the agents of these offices come back at once.
    pub(crate) fn call_back(&self, offices: &BTreeSet<OfficeCode>) {
        let connected = self
            .connected
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for (agent, stream) in &connected.streams {
            let office = self.registry.office_of(agent);
            if office.is_some_and(|(code, _)| offices.contains(&code)) {
                stream.cut.send_replace(Some(Cut::Changed));
            }
        }
    }

    /// Ends the stream of an agent that was revoked, and expects it no more. Blocks until that is on the disk.
    pub(crate) fn dismiss(&self, agent: &AgentId) -> anyhow::Result<()> {
        if let Some(stream) = self.connected().streams.get(agent) {
            stream.cut.send_replace(Some(Cut::Revoked));
        }
        // What it has said until then comes before.
        let began = Instant::now();
        while self.connected().streams.contains_key(agent) && began.elapsed() < FAREWELL {
            std::thread::sleep(Duration::from_millis(20));
        }
        let (done, durable) = oneshot::channel();
        let body = Body::Dismissed(agent.clone());
        self.commits
            .blocking_send(Request { body, done })
            .ok()
            .context("the collector stops")?;
        let taken = durable.blocking_recv().context("the collector stops")?;
        taken.map(|_| ()).map_err(|reason| anyhow!(reason))
    }

    /// Returns when the agent's certificate is over and it has no newer one.
    async fn uncertified(&self, speaker: &Speaker) {
        let Some(mut until) = speaker.certified_until else {
            return std::future::pending().await;
        };
        loop {
            let now = self.clock.read().now;
            let newest = self
                .members
                .as_ref()
                .and_then(|all| all.get(&speaker.agent));
            until = until.max(newest.map_or(until, |member| member.certified_until));
            if now >= until {
                return;
            }
            tokio::time::sleep(until.since(now).min(RECERTIFIED)).await;
        }
    }

    /// The opening hours of an office.
    pub(crate) fn hours_of(&self, code: &OfficeCode) -> Arc<Hours> {
        self.registry.hours_of(code, &self.hours)
    }

    /// When it is open by these hours.
    pub(crate) fn opening<'a>(&'a self, code: &OfficeCode, hours: &'a Hours) -> Opening<'a> {
        Opening {
            zone: Zone::of(code),
            hours,
            holidays: &self.holidays,
        }
    }

    /// How long the office stays closed, in seconds; 0 while it is open.
    fn closed_for(&self, speaker: &Speaker) -> u32 {
        let hours = self.hours_of(&speaker.code);
        let opening = self.opening(&speaker.code, &hours);
        let now = self.clock.read().now;
        // One that never opens is asked about again.
        let opens = opening.next_working(now).map(|opens| opens.since(now));
        opens.map_or(86_400, |until| {
            u32::try_from(until.as_secs()).unwrap_or(u32::MAX)
        })
    }

    fn pace_of(&self, agent: &AgentId) -> Arc<Mutex<Pace>> {
        let paces = &mut self.connected().paces;
        let pace = paces.entry(agent.clone());
        Arc::clone(pace.or_insert_with(|| Arc::new(Mutex::new(Pace::new(Instant::now())))))
    }

    fn connected(&self) -> MutexGuard<'_, Connections> {
        self.connected
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps what an agent said of itself. It is for people: a failure to keep it stops nobody.
    async fn remember(self: &Arc<Self>, agent: &AgentId, introduction: Introduction) {
        let (state, key) = (Arc::clone(&self.state), keys::introduction(agent));
        let kept = tokio::task::spawn_blocking(move || {
            let mut change = Change::default();
            change.put_json(key, &introduction)?;
            anyhow::Ok(state.apply(change)?)
        });
        match kept.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(%agent, %error, "cannot keep what an agent said of itself"),
            Err(error) => warn!(%agent, %error, "cannot keep what an agent said of itself"),
        }
    }

    /// What an agent says without samples and without keeping it; it is checked like any other.
    fn pulse(
        &self,
        speaker: &Speaker,
        pulse: wire::Pulse,
        now: UnixMillis,
    ) -> Result<Entry, Invalid> {
        let heartbeat = wire::Heartbeat {
            uptime_ms: pulse.uptime_ms,
            epoch_ms: speaker.epoch.0,
            started_ms: pulse.started_ms,
            interval_ms: pulse.interval_ms,
            ..wire::Heartbeat::default()
        };
        let entry = wire::Entry {
            heartbeat: heartbeat.encode_to_vec().into(),
            ..wire::Entry::default()
        };
        self.check(speaker, &entry, now)
    }

    /// Checks an entry against everything that an entry must hold but a sequence.
    fn check(
        &self,
        speaker: &Speaker,
        entry: &wire::Entry,
        now: UnixMillis,
    ) -> Result<Entry, Invalid> {
        let boot = if entry.boot.is_empty() {
            speaker.boot
        } else {
            entry.boot[..].try_into()?
        };
        let bytes = entry.heartbeat.len();
        if bytes > MAX_HEARTBEAT_BYTES {
            return Err(Invalid::new(
                "heartbeat",
                format!("{bytes} bytes"),
                "too long",
                format!("send at most {MAX_HEARTBEAT_BYTES} bytes"),
            ));
        }
        let decoded = wire::Heartbeat::decode(entry.heartbeat.clone()).map_err(|error| {
            Invalid::new(
                "heartbeat",
                format!("{bytes} bytes"),
                format!("not a Heartbeat ({error})"),
                "send what denyut.proto describes",
            )
        })?;
        let heartbeat = Heartbeat::try_from(decoded).map_err(|error| error.within("heartbeat"))?;
        // A heartbeat of the boot that speaks: its uptime says when it truly was, whatever the clock said then.
        let epoch = heartbeat.at - heartbeat.uptime;
        let mut shift_ms = 0;
        if boot == speaker.boot {
            let off = speaker.epoch.0.saturating_sub(epoch.0);
            if off.unsigned_abs() > CLOCK_OFF_MS {
                shift_ms = off;
            }
        }
        self.check_times(&heartbeat, shift_ms, now)?;
        Ok(Entry {
            office: speaker.code.clone(),
            agent: speaker.agent.clone(),
            boot,
            seq: entry.seq,
            // A copy: the message's own bytes would keep all that was read from the connection with it.
            heartbeat: bytes::Bytes::copy_from_slice(&entry.heartbeat),
            shift_ms,
            decoded: Arc::new(heartbeat).into(),
        })
    }

    fn check_times(
        &self,
        heartbeat: &Heartbeat,
        shift_ms: i64,
        now: UnixMillis,
    ) -> Result<(), Invalid> {
        // `kept_from` is never before 1970.
        let oldest = (now - self.oldest).max(self.history.kept_from());
        let latest = now + AHEAD_MAX;
        let samples = heartbeat.samples.iter().flat_map(|target| {
            let times = target.samples.iter().map(|sample| sample.at);
            times.map(move |at| (Some(&target.target), at))
        });
        for (target, at) in std::iter::once((None, heartbeat.at)).chain(samples) {
            let at = UnixMillis(at.0.saturating_add(shift_ms));
            // Written only when it is needed: this runs for every sample of the nation.
            let field = || match target {
                None => "heartbeat.at".to_owned(),
                Some(target) => format!("heartbeat.samples[{target}].at"),
            };
            if at > latest {
                return Err(Invalid::new(
                    field(),
                    at,
                    format!("ahead of the collector's clock ({now})"),
                    "set the office machine's clock (enable time synchronisation)",
                ));
            }
            if at < oldest {
                return Err(Invalid::new(
                    field(),
                    at,
                    format!("older than what is kept (from {oldest} on)"),
                    "set the office machine's clock, or raise `retention.raw` or `retention.size` in the collector's configuration",
                ));
            }
        }
        Ok(())
    }
}

/// Who is at the other end.
struct Speaker {
    agent: AgentId,
    boot: BootId,
    /// When that boot's uptime was zero, by the agent's clock now, or by ours if the agent's is wrong.
    epoch: UnixMillis,
    code: OfficeCode,
    office: Arc<Office>,
    /// When its certificate is over; none in plaintext.
    certified_until: Option<UnixMillis>,
}

/// The service as tonic calls it.
struct Service(Arc<Gate>);

#[tonic::async_trait]
impl Ingest for Service {
    type StreamStream = ReceiverStream<Result<CollectorMessage, Status>>;

    async fn stream(
        &self,
        call: Call<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        let caller = Caller::of(&call)?;
        let peer = Caller::address(&call);
        let (send, outbound) = mpsc::channel(OUTBOUND);
        let gate = Arc::clone(&self.0);
        // Ends with the connection, or with the gate's token.
        tokio::spawn(async move {
            let Err(status) = converse(&gate, &caller, peer, call.into_inner(), &send).await else {
                return;
            };
            gate.metrics.broken_streams.inc();
            let peer = named(peer);
            // What tonic makes of a connection that is gone; the rest are our own refusals.
            if matches!(status.code(), Code::Unknown | Code::Cancelled) {
                info!(%peer, reason = %status.message(), "a connection was lost");
            } else {
                warn!(%peer, code = ?status.code(), reason = %status.message(), "a stream is ended");
            }
            // If it cannot be told in time, it is gone or does not read.
            tokio::time::timeout(FAREWELL, send.send(Err(status)))
                .await
                .ok();
        });
        Ok(Response::new(ReceiverStream::new(outbound)))
    }
}

/// A peer, for people.
fn named(peer: Option<SocketAddr>) -> String {
    peer.map_or_else(|| "-".to_owned(), |address| address.to_string())
}

async fn converse(
    gate: &Arc<Gate>,
    caller: &Caller,
    peer: Option<SocketAddr>,
    mut inbound: Streaming<AgentMessage>,
    send: &mpsc::Sender<Result<CollectorMessage, Status>>,
) -> Result<(), Status> {
    let first = tokio::time::timeout(HELLO_WITHIN, inbound.message())
        .await
        .map_err(|_| Status::deadline_exceeded(format!("no Hello within {HELLO_WITHIN:?}")))??;
    let Some(AgentMessage {
        kind: Some(agent_message::Kind::Hello(hello)),
        spending,
    }) = first
    else {
        gate.metrics.refused_hellos.inc();
        return Err(Status::invalid_argument(
            "the first message must be a Hello",
        ));
    };
    let (speaker, introduction) = greet(gate, caller, &hello, spending).inspect_err(|_| {
        gate.metrics.refused_hellos.inc();
    })?;

    let configuration = speaker.office.configuration();
    let held = gate.log.held(&speaker.agent, speaker.boot);
    let welcome = wire::Welcome {
        protocol: PROTOCOL,
        office: speaker.code.to_string(),
        office_name: speaker.office.name.clone(),
        wall_ms: gate.clock.read().now.0,
        durable: held.of_boot,
        known: held.any,
        address: peer
            .map(|peer| denyut_proto::address_bytes(peer.ip().to_canonical()))
            .unwrap_or_default(),
        takes_batches: true,
    };
    tell(send, collector_message::Kind::Welcome(welcome)).await?;
    if configuration.revision != hello.configuration_revision {
        tell(send, collector_message::Kind::Configuration(configuration)).await?;
    }

    let registration = Registration::new(gate, &speaker.agent, speaker.boot, send.clone());
    if registration.is_later_twin {
        gate.tell_apart(&speaker, send).await?;
    }
    info!(agent = %speaker.agent, office = %speaker.code, peer = %named(peer), version = %introduction.version,
        boot = %speaker.boot, waiting = introduction.waiting, dropped = introduction.dropped, "an agent connected");
    gate.remember(&speaker.agent, introduction.clone()).await;
    let (verdicts, verdicts_rx) = mpsc::channel(UNACKED);
    let both = async {
        // What cannot be acknowledged ends the stream at once; what was read before an error is acknowledged first.
        let failed = CancellationToken::new();
        let read = failed.run_until_cancelled(read_entries(
            gate,
            &speaker,
            introduction,
            inbound,
            verdicts,
        ));
        let acknowledged = async {
            let done = acknowledge(gate, &speaker, send, verdicts_rx).await;
            if done.is_err() {
                failed.cancel();
            }
            done
        };
        let (read, acknowledged) = tokio::join!(read, acknowledged);
        read.unwrap_or(Ok(())).and(acknowledged)
    };
    // Whatever they wait for, a peer that does not read among it.
    let ended = tokio::select! {
        ended = both => ended,
        cut = registration.cut() => Err(cut.status()),
        () = gate.uncertified(&speaker) => Err(Status::unauthenticated("the agent's certificate is over, and it got no new one")),
        () = gate.stop.cancelled() => Err(Status::unavailable("the collector stops")),
    };
    info!(agent = %speaker.agent, "an agent left");
    ended
}

/// Checks the Hello: the version, the name, that it is registered, and that the certificate says the same.
fn greet(
    gate: &Gate,
    caller: &Caller,
    hello: &wire::Hello,
    spending: Option<wire::Spending>,
) -> Result<(Speaker, Introduction), Status> {
    let invalid = |error: Invalid| Status::invalid_argument(error.within("hello").to_string());
    if hello.protocol != PROTOCOL {
        return Err(Status::failed_precondition(format!(
            "`hello.protocol` = `{}`: this collector speaks {PROTOCOL}; update the older of the two",
            hello.protocol
        )));
    }
    let agent: AgentId = hello.agent.parse().map_err(invalid)?;
    let (code, office, certified_until) =
        caller.speaks_as(&agent, &gate.registry, gate.members.as_deref())?;
    let boot = hello.boot[..].try_into().map_err(invalid)?;
    let now = gate.clock.read().now;
    let introduction = Introduction::of(hello, spending, now).map_err(invalid)?;
    let wall = if introduction.clock_offset_ms.unsigned_abs() > CLOCK_OFF_MS {
        now
    } else {
        UnixMillis(hello.wall_ms)
    };
    let speaker = Speaker {
        agent,
        boot,
        epoch: wall - Duration::from_millis(hello.uptime_ms),
        code,
        office,
        certified_until,
    };
    Ok((speaker, introduction))
}

async fn read_entries(
    gate: &Arc<Gate>,
    speaker: &Speaker,
    mut introduction: Introduction,
    mut inbound: Streaming<AgentMessage>,
    verdicts: mpsc::Sender<Verdict>,
) -> Result<(), Status> {
    use agent_message::Kind;
    let pace = gate.pace_of(&speaker.agent);
    let take = |samples| {
        let mut pace = pace.lock().unwrap_or_else(PoisonError::into_inner);
        pace.take(samples, Instant::now())
    };
    loop {
        let Some(AgentMessage { kind, spending }) = inbound.message().await? else {
            return Ok(());
        };
        if spending.is_some() && introduction.spending != spending.map(Into::into) {
            introduction.spending = spending.map(Into::into);
            gate.remember(&speaker.agent, introduction.clone()).await;
        }
        let entries = match kind {
            Some(Kind::Entry(entry)) => vec![entry],
            Some(Kind::Batch(batch)) => entries(&batch)?,
            Some(Kind::Pulse(pulse)) => {
                let now = taking(gate)?;
                let cost = match gate.pulse(speaker, pulse, now) {
                    // Nobody waits for what becomes of it.
                    Ok(entry) => {
                        drop(hand_in(gate, entry).await?);
                        0
                    }
                    Err(error) => {
                        refuse(gate, speaker, 0, &error);
                        REFUSED_COSTS
                    }
                };
                pause(gate, take(cost)).await;
                continue;
            }
            Some(Kind::Hello(_)) => {
                return Err(Status::invalid_argument("a second Hello on one stream"));
            }
            // From a newer agent: nothing this version could do with it.
            None => continue,
        };
        for entry in entries {
            let seq = entry.seq;
            let now = taking(gate)?;
            let checked = if seq == 0 {
                Err(Invalid::new("seq", 0, "not a sequence", "count from 1"))
            } else {
                gate.check(speaker, &entry, now)
            };
            let mut samples = REFUSED_COSTS;
            let verdict = match checked {
                Ok(entry) => {
                    let decoded = entry.decoded.get().into_iter();
                    let targets = decoded.flat_map(|heartbeat| &heartbeat.samples);
                    samples = targets.map(|target| target.samples.len()).sum();
                    Verdict::Pending(seq, hand_in(gate, entry).await?)
                }
                Err(error) => {
                    refuse(gate, speaker, seq, &error);
                    Verdict::Refused(wire::Refusal {
                        seq,
                        field: error.field,
                        value: error.value,
                        fix: format!("{}; {}", error.problem, error.fix),
                    })
                }
            };
            if verdicts.send(verdict).await.is_err() {
                return Ok(()); // the other half says why
            }
            pause(gate, take(samples)).await;
        }
    }
}

/// What a batch stands for. One that makes no sense says nothing of what it was to hold, and so ends the stream.
fn entries(batch: &wire::Batch) -> Result<Vec<wire::Entry>, Status> {
    let unpacked =
        batch::unpack(batch).map_err(|error| Status::invalid_argument(error.to_string()))?;
    let entry = |(seq, heartbeat): (u64, Vec<u8>)| wire::Entry {
        boot: batch.boot.clone(),
        seq,
        heartbeat: heartbeat.into(),
    };
    Ok(unpacked.into_iter().map(entry).collect())
}

/// The time now, if anything is taken.
fn taking(gate: &Gate) -> Result<UnixMillis, Status> {
    let reading = gate.clock.read();
    if reading.doubted {
        return Err(Status::unavailable(
            "the collector's clock jumped; it takes nothing until that is right",
        ));
    }
    Ok(reading.now)
}

/// Gives it to the committer; what is returned says when it is durable.
async fn hand_in(
    gate: &Gate,
    entry: Entry,
) -> Result<oneshot::Receiver<Result<Appended, String>>, Status> {
    let (done, durable) = oneshot::channel();
    let body = Body::Heartbeat(entry);
    let handed = gate.commits.send(Request { body, done }).await;
    handed.map_err(|_| Status::unavailable("the collector stops"))?;
    Ok(durable)
}

fn refuse(gate: &Gate, speaker: &Speaker, seq: u64, error: &Invalid) {
    warn!(agent = %speaker.agent, seq, %error, "a heartbeat is refused");
    let field = error.field.split('[').next().unwrap_or_default().to_owned();
    gate.metrics.refused.get_or_create(&Field { field }).inc();
}

async fn pause(gate: &Gate, wait: Duration) {
    if !wait.is_zero() {
        gate.metrics.paced.inc();
        tokio::time::sleep(wait).await;
    }
}

/// Tells the agent, in order, what is durable; one acknowledgement for as many as are ready.
async fn acknowledge(
    gate: &Gate,
    speaker: &Speaker,
    send: &mpsc::Sender<Result<CollectorMessage, Status>>,
    mut verdicts: mpsc::Receiver<Verdict>,
) -> Result<(), Status> {
    while let Some(verdict) = verdicts.recv().await {
        let seq = match verdict {
            Verdict::Refused(refusal) => {
                let seq = refusal.seq;
                tell(send, collector_message::Kind::Refusal(refusal)).await?;
                seq
            }
            Verdict::Pending(seq, durable) => {
                match durable.await {
                    Ok(Ok(Appended::New | Appended::Duplicate)) => {}
                    Ok(Err(reason)) => return Err(Status::resource_exhausted(reason)),
                    Err(_) => {
                        return Err(Status::unavailable("the collector cannot write its log"));
                    }
                }
                seq
            }
        };
        // While more is waiting, its acknowledgement will cover this one.
        if verdicts.is_empty() || seq.is_multiple_of(128) {
            let closed_for_s = gate.closed_for(speaker);
            let ack = wire::Ack { seq, closed_for_s };
            tell(send, collector_message::Kind::Ack(ack)).await?;
        }
    }
    Ok(())
}

async fn tell(
    send: &mpsc::Sender<Result<CollectorMessage, Status>>,
    kind: collector_message::Kind,
) -> Result<(), Status> {
    send.send(Ok(message(kind)))
        .await
        .map_err(|_| Status::cancelled("the agent went away"))
}

fn message(kind: collector_message::Kind) -> CollectorMessage {
    CollectorMessage { kind: Some(kind) }
}

/// A stream's place among the connected; given up when dropped.
struct Registration<'a> {
    gate: &'a Gate,
    agent: AgentId,
    id: u64,
    cut: watch::Receiver<Option<Cut>>,
    /// Another machine speaks as this agent, and did before.
    is_later_twin: bool,
}

impl<'a> Registration<'a> {
    fn new(
        gate: &'a Gate,
        agent: &AgentId,
        boot: BootId,
        send: mpsc::Sender<Result<CollectorMessage, Status>>,
    ) -> Self {
        let now = gate.clock.read().now;
        let (sender, cut) = watch::channel(None);
        let mut connected = gate.connected();
        let Connections { streams, twins, .. } = &mut *connected;
        let (id, is_later_twin) = streams.get(agent).map_or((0, false), |old| {
            old.cut.send_replace(Some(Cut::Superseded));
            (old.id + 1, twins.took_over(agent, old.boot, boot, now))
        });
        let stream = Connected {
            id,
            boot,
            send,
            cut: sender,
        };
        streams.insert(agent.clone(), stream);
        gate.metrics
            .streams
            .set(i64::try_from(streams.len()).unwrap_or(i64::MAX));
        Self {
            gate,
            agent: agent.clone(),
            id,
            cut,
            is_later_twin,
        }
    }

    /// Returns when the stream is to be ended, and why.
    async fn cut(&self) -> Cut {
        let mut cut = self.cut.clone();
        loop {
            if let Some(cut) = *cut.borrow_and_update() {
                return cut;
            }
            if cut.changed().await.is_err() {
                // Nobody is left who could.
                std::future::pending::<()>().await;
            }
        }
    }
}

impl Drop for Registration<'_> {
    fn drop(&mut self) {
        let streams = &mut self.gate.connected().streams;
        if streams
            .get(&self.agent)
            .is_some_and(|stream| stream.id == self.id)
        {
            streams.remove(&self.agent);
        }
        self.gate
            .metrics
            .streams
            .set(i64::try_from(streams.len()).unwrap_or(i64::MAX));
    }
}
