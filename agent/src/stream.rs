//! From the spool to the collector: one stream, resumed after the last acknowledged entry. What goes out when is for `budget` and `calm`
//! to say, and in what order for `delivery`.

use crate::budget::{Budget, Left, Pace};
use crate::calm::Calm;
use crate::config::Named;
use crate::connect::{self, CONNECT_TIMEOUT, Meter};
use crate::delivery::{Delivery, Next};
use crate::machine;
use crate::membership::Held;
use crate::observe::Order;
use crate::spool::{Spool, Spooled};
use crate::status::Status;
use anyhow::{Context, anyhow, bail};
use denyut_proto::wire::{
    self, AgentMessage, CollectorMessage, agent_message, collector_message, command,
    ingest_client::IngestClient,
};
use denyut_proto::{AgentId, BootId, PROTOCOL, Secret, Target, batch};
use prost::Message;
use std::collections::VecDeque;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Uri};
use tracing::{info, warn};

/// Messages on their way to the connection, at most.
const OUTBOUND: usize = 8;
/// Entries that are sent though the budget is short: what tells of the present.
const RECENT: u64 = 90;
/// The longest wait before the next try to connect when nothing of the budget is left: each costs some KB.
const OVER_RECONNECT: Duration = Duration::from_secs(15 * 60);
/// What was spent is told this often.
const TELL_SPENDING: Duration = Duration::from_secs(600);
/// Without an acknowledgement for this long, what was sent is sent again on a new stream.
const ACK_TIMEOUT: Duration = Duration::from_secs(30);
const BACKOFF_BASE: Duration = Duration::from_secs(1);
/// How long a proper stop waits for the last entries to be acknowledged.
const DRAIN: Duration = Duration::from_secs(3);

/// What the stream is made of.
pub(crate) struct Streamer {
    pub(crate) access: Access,
    pub(crate) data_dir: PathBuf,
    /// The longest wait before the next try to connect.
    pub(crate) reconnect_max: Duration,
    pub(crate) boot: BootId,
    /// The first sequence that this process may have spooled.
    pub(crate) first: u64,
    pub(crate) spool: Arc<Mutex<Spool>>,
    pub(crate) spooled: watch::Sender<Tail>,
    pub(crate) delivery: Delivery,
    /// When an entry was sent.
    pub(crate) told: Option<Instant>,
    /// The last entry that the collector acknowledged, for the updater.
    pub(crate) heard: Arc<AtomicU64>,
    pub(crate) budget: Budget,
    pub(crate) meter: Meter,
    /// How often to speak, by the present targets.
    pub(crate) targets_pace: watch::Receiver<Pace>,
    /// The longest time between two heartbeats.
    pub(crate) heartbeat: Duration,
    /// From one word to the next, as it is at the moment.
    pub(crate) promise: watch::Sender<Duration>,
    /// Uptime at which the process started.
    pub(crate) started: Duration,
    /// The office is closed until then.
    pub(crate) closed_until: Option<Instant>,
    pub(crate) told_spending: Option<Instant>,
    pub(crate) orders: mpsc::Sender<Order>,
    pub(crate) status: Arc<Mutex<Status>>,
    /// Revision of the collector's configuration that the agent runs by; 0 for none.
    pub(crate) revision: u64,
}

/// As whom the agent speaks, and to whom.
pub(crate) enum Access {
    /// As the configuration names it.
    Named(Named),
    /// As what it joined.
    Joined(Held),
}

impl Access {
    pub(crate) fn agent(&self) -> AgentId {
        match self {
            Self::Named(named) => named.agent.clone(),
            Self::Joined(held) => held.now().agent,
        }
    }

    /// Where its collectors are; at least one.
    fn collectors(&self) -> anyhow::Result<Vec<Uri>> {
        match self {
            Self::Named(named) => Ok(named.collectors.clone()),
            Self::Joined(held) => Ok(vec![held.now().uri()?]),
        }
    }

    async fn connect(&self, uri: &Uri, meter: &Meter) -> anyhow::Result<Channel> {
        let tls = match self {
            // Read each time, so that renewed files are used without a restart.
            Self::Named(named) => match &named.tls {
                Some(files) => {
                    let (trust, shown) = files.load()?;
                    Some(connect::tls(trust, Some(shown))?)
                }
                None => None,
            },
            Self::Joined(held) => Some(connect::tls_as(&held.now(), true)?),
        };
        connect::connect(uri, tls, meter).await
    }
}

/// The youngest entries of the spool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tail {
    /// The last sequence.
    pub(crate) last: u64,
    /// The last of an entry that does not wait; 0 for none.
    pub(crate) urgent: u64,
}

/// How a session that began well came to its end.
enum End {
    Stopped,
    Lost(anyhow::Error),
}

impl Streamer {
    /// Keeps a stream open until `stop`; then delivers what is left, for a while.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut failures: u32 = 0;
        let mut which = 0;
        let mut last_said = String::new();
        let pace = *self.targets_pace.borrow();
        self.account(pace);
        loop {
            let began = Instant::now();
            let ended = tokio::select! {
                ended = self.session(which, &stop) => ended,
                // While connecting nothing is to be drained; a running session sees `stop` itself.
                () = async { stop.cancelled().await; tokio::time::sleep(DRAIN).await } => Ok(End::Stopped),
            };
            let welcomed = ended.is_ok();
            let error = match ended {
                Ok(End::Stopped) => {
                    self.account(pace);
                    return self.budget.keep();
                }
                // It was good a moment ago: the same one again.
                Ok(End::Lost(error)) => error,
                Err(error) => {
                    which += 1;
                    error
                }
            };
            failures = if began.elapsed() > ACK_TIMEOUT {
                1
            } else {
                failures.saturating_add(1)
            };
            let causes: Vec<String> = error.chain().map(ToString::to_string).collect();
            let mut text = without_repeats(&causes);
            if !welcomed {
                match &self.access {
                    Access::Named(Named { tls: Some(_), .. }) => text.push_str(
                        " (if the network is fine: are `ca` and `certificate` of the collector's authority?)",
                    ),
                    // Its clock may be wrong, or it was away for long.
                    Access::Joined(held) if text.contains("CertificateExpired") => {
                        held.tell_over();
                        text.push_str(" (this agent's certificate is over; it comes back by its key)");
                    }
                    _ => {}
                }
            }
            self.disconnected(&text);
            // The same trouble every few seconds for weeks is one line, not a full disk.
            if text != last_said {
                warn!(error = %text, "no stream to the collector; samples wait in the spool");
                last_said = text;
            }
            self.account(pace);
            let over = self.budget.left(machine::wall()) == Left::Nothing;
            let longest = if over {
                OVER_RECONNECT
            } else {
                self.reconnect_max
            };
            let wait = full_jitter(failures, longest.max(self.reconnect_max));
            tokio::select! {
                () = stop.cancelled() => return self.budget.keep(),
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// A session with the collector whose turn it is.
    async fn session(&mut self, which: usize, stop: &CancellationToken) -> anyhow::Result<End> {
        let collectors = self.access.collectors()?;
        let uri = &collectors[which % collectors.len()];
        lock(&self.status).connection.collector = Some(uri.to_string());
        let agent = self.access.agent();
        let channel = self.access.connect(uri, &self.meter).await?;
        let (outgoing, outbound) = mpsc::channel(OUTBOUND);
        let hello = AgentMessage {
            kind: Some(agent_message::Kind::Hello(self.hello())),
            spending: Some(self.spending()),
        };
        outgoing.send(hello).await.context("the stream is closed")?;
        let mut client = IngestClient::new(channel);
        let mut inbound = tokio::time::timeout(
            CONNECT_TIMEOUT,
            client.stream(ReceiverStream::new(outbound)),
        )
        .await
        .context("the collector does not answer")?
        .map_err(explain)?
        .into_inner();
        let welcome = tokio::time::timeout(CONNECT_TIMEOUT, inbound.message())
            .await
            .context("the collector does not answer")?
            .map_err(explain)?;
        let Some(CollectorMessage {
            kind: Some(collector_message::Kind::Welcome(welcome)),
        }) = welcome
        else {
            bail!("the collector did not begin with a welcome: is {uri} a denyut collector?");
        };
        self.connected(uri, &welcome).await;

        let range = lock(&self.spool).range();
        let held = range.acked.max(self.delivery.acked());
        self.delivery.begin(match (welcome.known, welcome.durable) {
            // New, or wiped: all that is still here, and what the targets are.
            (false, _) => {
                self.order(Order::Declare).await;
                range.first - 1
            }
            // It holds no more than this of our boot, though it may once have acknowledged more (restored from a backup).
            (true, Some(durable)) => held.min(durable),
            (true, None) => held.min(self.first - 1),
        });
        let limited = self.budget.per_day().is_some();
        let now = Instant::now();
        let batches = welcome.takes_batches;
        let mut calm = Calm::new(batches, limited, self.heartbeat, self.told, now);
        let mut spooled = self.spooled.subscribe();
        let mut waiting_since = Instant::now();
        loop {
            let stopping = stop.is_cancelled();
            let tail = *spooled.borrow_and_update();
            self.account(self.pace(&calm));
            let sent_any = self.send_due(&mut calm, tail, stopping, &outgoing).await?;
            if !self.delivery.is_waiting() {
                if stopping && !sent_any {
                    return Ok(End::Stopped);
                }
                waiting_since = Instant::now();
            }
            let (full, waiting) = (self.delivery.room() == 0, self.delivery.is_waiting());
            let ack_due = ACK_TIMEOUT.saturating_sub(waiting_since.elapsed());
            let wake = if sent_any && !full {
                Duration::ZERO
            } else {
                let promise = *self.promise.borrow();
                let left = self.budget.left(machine::wall());
                let now = Instant::now();
                calm.next(self.pace(&calm), promise, self.is_closed(), left, now)
            };
            tokio::select! {
                message = inbound.message() => match message {
                    Ok(Some(message)) => {
                        if self.take(message).await {
                            waiting_since = Instant::now();
                        }
                        if self.access.agent() != agent {
                            return Ok(End::Lost(anyhow!("this machine is another agent now")));
                        }
                    }
                    Ok(None) => return Ok(End::Lost(anyhow!("the collector closed the stream"))),
                    Err(status) => return Ok(End::Lost(explain(status))),
                },
                changed = spooled.changed(), if !full => changed.context("the spool is gone")?,
                () = stop.cancelled(), if !stopping => {}
                () = tokio::time::sleep(wake), if !full => {}
                () = tokio::time::sleep(ack_due), if waiting => return Ok(End::Lost(anyhow!("no acknowledgement for {ACK_TIMEOUT:?}"))),
            }
        }
    }

    /// Sends what is due; whether that was an entry.
    async fn send_due(
        &mut self,
        calm: &mut Calm,
        tail: Tail,
        stopping: bool,
        outgoing: &mpsc::Sender<AgentMessage>,
    ) -> anyhow::Result<bool> {
        let (now, closed) = (Instant::now(), self.is_closed());
        let left = self.budget.left(machine::wall());
        let (short, over) = (left != Left::Enough, left == Left::Nothing);
        let pace = self.pace(calm);
        let promise = if over && calm.waits {
            pace.slowest()
        } else {
            pace.pulse(closed)
        };
        // Who speaks less often from now on says so at once: what was said before promises more.
        if self.promise.send_replace(promise) < promise && calm.waits {
            self.pulse(calm, promise, outgoing).await;
        }
        let unsent = self.delivery.sent() < tail.last;
        let urgent = Some(tail.urgent).filter(|last| *last > self.delivery.sent());
        if !unsent {
            calm.sent_all(now);
        }
        calm.see(unsent, urgent, left, now);
        let due = calm.is_due(pace, closed, left, now) || stopping;
        if unsent && due {
            let backlog = tail.last - self.delivery.sent() > RECENT;
            if over {
                if let Some(edge) = calm.urgent_from() {
                    self.delivery.leave_before(edge.min(tail.last));
                }
            } else if short && backlog && !closed {
                self.delivery.leave_before(tail.last - RECENT);
            }
            let next = Next {
                after: self.delivery.sent(),
                to: tail.last,
            };
            if self.send_some(calm, next, outgoing).await? {
                return Ok(true);
            }
            if self.delivery.room() > 0 {
                self.delivery.is_empty_to(next);
            }
        } else if let Some(left) = self.delivery.left()
            && !over
            && (closed || !short)
            && self.delivery.room() > 0
        {
            if self.send_some(calm, left, outgoing).await? {
                return Ok(true);
            }
            self.delivery.is_empty_to(left);
        }
        if calm.is_pulse_due(promise, now) {
            self.pulse(calm, promise, outgoing).await;
        }
        Ok(false)
    }

    /// Says that the agent is there, and speaks again within this.
    async fn pulse(
        &self,
        calm: &mut Calm,
        promise: Duration,
        outgoing: &mpsc::Sender<AgentMessage>,
    ) {
        let pulse = wire::Pulse {
            uptime_ms: ms(machine::uptime()),
            started_ms: ms(self.started),
            interval_ms: u32::try_from(ms(promise)).unwrap_or(u32::MAX),
        };
        calm.pulsed(Instant::now());
        // Where the stream is gone the inbound side says why.
        let message = message(agent_message::Kind::Pulse(pulse));
        outgoing.send(message).await.ok();
    }

    /// Sends entries of one place, as many as may be on their way; `false` if there are none.
    async fn send_some(
        &mut self,
        calm: &mut Calm,
        next: Next,
        outgoing: &mpsc::Sender<AgentMessage>,
    ) -> anyhow::Result<bool> {
        let most = usize::try_from(next.to - next.after).unwrap_or(usize::MAX);
        let entries = self
            .read_after(next.after, most.min(self.delivery.room()))
            .await?;
        let mut entries: VecDeque<Spooled> = entries
            .into_iter()
            .filter(|entry| entry.seq <= next.to)
            .collect();
        let any = !entries.is_empty();
        while let Some(first) = entries.front() {
            let boot = first.boot;
            let alike = entries.iter().take_while(|entry| entry.boot == boot);
            let alike: Vec<_> = alike
                .map(|entry| (entry.seq, entry.payload.clone()))
                .collect();
            let named = if boot == self.boot {
                Vec::new()
            } else {
                boot.0.to_vec()
            };
            let packed = calm
                .takes_batches
                .then(|| batch::pack(&named, &alike))
                .flatten();
            let (kind, count) = if let Some((batch, count)) = packed {
                (agent_message::Kind::Batch(batch), count)
            } else {
                let (seq, heartbeat) = alike[0].clone();
                let heartbeat = heartbeat.into();
                let boot = named;
                let entry = wire::Entry {
                    boot,
                    seq,
                    heartbeat,
                };
                (agent_message::Kind::Entry(entry), 1)
            };
            for entry in entries.drain(..count) {
                self.delivery.sending(entry.seq);
            }
            let message = AgentMessage {
                kind: Some(kind),
                spending: self.spending_if_due(),
            };
            let now = Instant::now();
            calm.told(now);
            self.told = Some(now);
            if outgoing.send(message).await.is_err() {
                break; // the reason is on the inbound side
            }
        }
        Ok(any)
    }

    /// How often the agent speaks: by its targets as they are now, if it may wait at all.
    fn pace(&self, calm: &Calm) -> Pace {
        if calm.waits {
            *self.targets_pace.borrow()
        } else {
            Pace::of(None, 0.0, self.heartbeat)
        }
    }

    fn is_closed(&self) -> bool {
        self.closed_until
            .is_some_and(|until| Instant::now() < until)
    }

    /// Takes what the connections carried since to the account.
    fn account(&mut self, pace: Pace) {
        let now = machine::wall();
        self.budget.spend(self.meter.take(), now);
        let status = &mut lock(&self.status).budget;
        status.bytes = self.budget.spent(now);
        status.per_day = self.budget.per_day();
        status.pulse_s = pace.pulse(self.is_closed()).as_secs();
        status.batch_s = pace.batch(self.is_closed()).as_secs();
        status.closed = self.is_closed();
        status.left_for_later = self.delivery.left().is_some();
    }

    fn spending(&self) -> wire::Spending {
        wire::Spending {
            spent: self.budget.spent(machine::wall()),
            budget: self.budget.per_day().unwrap_or(0),
        }
    }

    /// What was spent, if that was not told for a while.
    fn spending_if_due(&mut self) -> Option<wire::Spending> {
        let due = self
            .told_spending
            .is_none_or(|at| at.elapsed() >= TELL_SPENDING);
        due.then(|| {
            self.told_spending = Some(Instant::now());
            self.spending()
        })
    }

    /// Applies a message from the collector; whether it acknowledged something.
    async fn take(&mut self, message: CollectorMessage) -> bool {
        use collector_message::Kind;
        match message.kind {
            Some(Kind::Ack(ack)) => {
                let closed_for = Duration::from_secs(ack.closed_for_s.into());
                self.closed_until = Instant::now().checked_add(closed_for);
                let whole_to = self.delivery.acknowledged(ack.seq);
                self.heard
                    .fetch_max(self.delivery.acked(), Ordering::Relaxed);
                self.with_spool(move |spool| spool.ack(whole_to, Instant::now()))
                    .await;
                return true;
            }
            Some(Kind::Refusal(refusal)) => {
                let text = format!(
                    "heartbeat {}: `{}` = `{}`; {}",
                    refusal.seq, refusal.field, refusal.value, refusal.fix
                );
                warn!("the collector refused {text}");
                lock(&self.status).connection.last_refusal = Some(text);
                self.with_spool(Spool::count_refused).await;
            }
            Some(Kind::Configuration(configuration)) => self.configure(configuration).await,
            Some(Kind::Command(command)) => match command.kind {
                Some(command::Kind::ProbeNow(probe)) => match probe.target.parse() {
                    Ok(name) => self.order(Order::ProbeNow(name)).await,
                    Err(error) => warn!(%error, "the collector sent a command that makes no sense"),
                },
                Some(command::Kind::JoinAnew(asked)) => self.join_anew(&asked.secret).await,
                None => warn!("the collector sent a command that this version does not know"),
            },
            // From a newer collector, or out of place: nothing that stops the stream.
            Some(Kind::Welcome(_)) | None => {}
        }
        false
    }

    /// Another machine speaks as this agent: from the next session on this one is another.
    async fn join_anew(&mut self, secret: &[u8]) {
        let (Access::Joined(held), Ok(secret)) = (&self.access, secret.try_into()) else {
            warn!("the collector asked to join anew, which makes no sense here");
            return;
        };
        warn!("another machine speaks as this agent; this one joins anew");
        match held.join_anew(Secret(secret)).await {
            Ok(agent) => {
                warn!(%agent, "this machine is this agent now");
                self.order(Order::Declare).await;
            }
            Err(error) => warn!(error = %format!("{error:#}"), "it could not join anew"),
        }
    }

    async fn configure(&mut self, configuration: wire::Configuration) {
        let targets = match targets_of(&configuration) {
            Ok(targets) => targets,
            Err(error) => {
                warn!(%error, "the collector's configuration is not valid; the last one stays");
                return;
            }
        };
        let path = given_path(&self.data_dir);
        let saved = tokio::task::spawn_blocking(move || {
            let new = path.with_extension("new");
            let bytes = configuration.encode_to_vec();
            let mut file = std::fs::File::create(&new)?;
            // A checksum first: a file that was cut could still be read as fewer targets.
            file.write_all(&crc32c::crc32c(&bytes).to_le_bytes())?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            std::fs::rename(&new, &path)?;
            std::io::Result::Ok(configuration.revision)
        });
        match saved.await {
            Ok(Ok(revision)) => self.revision = revision,
            Ok(Err(error)) => {
                warn!(%error, "cannot keep the collector's configuration for the next start");
            }
            Err(error) => {
                warn!(%error, "cannot keep the collector's configuration for the next start");
            }
        }
        self.order(Order::Targets(targets)).await;
    }

    async fn order(&self, order: Order) {
        if self.orders.send(order).await.is_err() {
            info!("stopping: an order from the collector is not carried out");
        }
    }

    async fn read_after(&self, after: u64, most: usize) -> anyhow::Result<Vec<Spooled>> {
        self.with_spool(move |spool| spool.read_after(after, most))
            .await
            .context("cannot read the spool")?
            .context("cannot read the spool")
    }

    /// Does something with the spool off the thread that times the probes; `None` if that panicked.
    async fn with_spool<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Spool) -> T + Send + 'static,
    ) -> Option<T> {
        let (spool, status) = (Arc::clone(&self.spool), Arc::clone(&self.status));
        tokio::task::spawn_blocking(move || {
            let mut spool = lock(&spool);
            let out = work(&mut spool);
            lock(&status).spool = Some(spool.range());
            out
        })
        .await
        .ok()
    }

    fn hello(&self) -> wire::Hello {
        let range = lock(&self.spool).range();
        wire::Hello {
            protocol: PROTOCOL,
            agent: self.access.agent().to_string(),
            boot: self.boot.0.to_vec(),
            version: crate::VERSION.to_owned(),
            machine: Some(machine::facts()),
            spool: Some(wire::SpoolRange {
                first: range.first,
                next: range.next,
                dropped: range.dropped,
                acked: range.acked,
            }),
            wall_ms: machine::wall().0,
            uptime_ms: ms(machine::uptime()),
            configuration_revision: self.revision,
            failed_update: lock(&self.status)
                .updating
                .as_ref()
                .and_then(|updating| updating.failed.as_deref())
                .map_or_else(String::new, beginning),
        }
    }

    async fn connected(&self, uri: &Uri, welcome: &wire::Welcome) {
        // An older collector does not say.
        if let Ok(address) = denyut_proto::read_address(&welcome.address) {
            self.order(Order::ComesFrom(address)).await;
        }
        info!(collector = %uri, office = %welcome.office, name = %welcome.office_name, "connected");
        let connection = &mut lock(&self.status).connection;
        connection.connected = true;
        connection.collector = Some(uri.to_string());
        connection.office = Some(welcome.office.clone());
        connection.office_name = Some(welcome.office_name.clone());
        connection.since_ms = Some(machine::wall());
        connection.last_error = None;
        connection.clock_offset_ms = Some(machine::wall().0.saturating_sub(welcome.wall_ms));
    }

    fn disconnected(&self, error: &str) {
        let connection = &mut lock(&self.status).connection;
        if connection.connected || connection.since_ms.is_none() {
            connection.since_ms = Some(machine::wall());
        }
        connection.connected = false;
        connection.last_error = Some(error.to_owned());
    }
}

/// As much of a text as `Hello` may carry.
fn beginning(text: &str) -> String {
    let mut end = text.len().min(255);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

/// The collector's last configuration, as kept from an earlier run: its revision and targets.
pub(crate) fn kept_configuration(data_dir: &Path) -> (u64, Vec<Target>) {
    let path = given_path(data_dir);
    let Ok(bytes) = std::fs::read(&path) else {
        return (0, Vec::new());
    };
    let read = || {
        let (crc, bytes) = bytes.split_at_checked(4).context("too short")?;
        if crc != crc32c::crc32c(bytes).to_le_bytes() {
            bail!("wrong checksum");
        }
        let kept = wire::Configuration::decode(bytes)?;
        anyhow::Ok((kept.revision, targets_of(&kept)?))
    };
    read().unwrap_or_else(|error| {
        warn!(path = %path.display(), %error, "the kept configuration is damaged; the collector will send it again");
        (0, Vec::new())
    })
}

fn given_path(data_dir: &Path) -> PathBuf {
    data_dir.join("configuration")
}

fn targets_of(configuration: &wire::Configuration) -> Result<Vec<Target>, denyut_proto::Invalid> {
    let targets = configuration
        .targets
        .iter()
        .cloned()
        .map(Target::try_from)
        .collect::<Result<Vec<_>, _>>()?;
    Target::check_list(&targets)?;
    Ok(targets)
}

/// With this begins what the collector itself said.
pub(crate) const REFUSES: &str = "the collector refuses this agent";

/// The collector's own words, where it gave some.
#[allow(
    clippy::needless_pass_by_value,
    reason = "the shape that map_err wants"
)]
pub(crate) fn explain(status: tonic::Status) -> anyhow::Error {
    match status.code() {
        // What tonic makes of a connection that broke: the causes say more than its own text.
        tonic::Code::Unknown | tonic::Code::Unavailable | tonic::Code::Internal
            if std::error::Error::source(&status).is_some() =>
        {
            let mut causes: Vec<String> = Vec::new();
            let mut cause = std::error::Error::source(&status);
            while let Some(this) = cause {
                causes.push(this.to_string());
                cause = this.source();
            }
            anyhow!("the connection broke: {}", without_repeats(&causes))
        }
        code => anyhow!("{REFUSES} ({code:?}): {}", status.message()),
    }
}

/// A random time up to `base · 2^(failures-1)`, at most `longest`: thousands of agents that lost one
/// collector together do not come back together.
pub(crate) fn full_jitter(failures: u32, longest: Duration) -> Duration {
    let ceiling = BACKOFF_BASE
        .saturating_mul(2u32.saturating_pow(failures.saturating_sub(1)))
        .min(longest);
    ceiling.mul_f64(rand::random::<f64>())
}

/// A chain of causes as one line; layers that only repeat the next one are left out.
fn without_repeats(causes: &[String]) -> String {
    let says_more = |(i, text): &(usize, &String)| {
        let rest = &causes[i + 1..];
        !rest.iter().any(|next| {
            next == *text || next.ends_with(text.as_str()) || text.ends_with(next.as_str())
        }) || rest.is_empty()
    };
    let kept: Vec<&str> = causes
        .iter()
        .enumerate()
        .filter(says_more)
        .map(|(_, text)| text.as_str())
        .collect();
    kept.join(": ")
}

fn message(kind: agent_message::Kind) -> AgentMessage {
    AgentMessage {
        kind: Some(kind),
        spending: None,
    }
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_of_causes_says_each_thing_once() {
        let chain = |texts: &[&str]| {
            without_repeats(&texts.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        assert_eq!(
            chain(&[
                "cannot connect",
                "tcp error: refused",
                "tcp error",
                "refused"
            ]),
            "cannot connect: tcp error: refused"
        );
        assert_eq!(
            chain(&["cannot connect", "transport error", "refused", "refused"]),
            "cannot connect: transport error: refused"
        );
        assert_eq!(chain(&["one"]), "one");
    }

    #[test]
    fn waits_grow_up_to_the_bound_and_are_spread() {
        let longest = Duration::from_secs(60);
        for failures in [1, 2, 7, 40, u32::MAX] {
            let ceiling = f64::from(failures.min(7) - 1).exp2().min(60.0);
            let waits: Vec<f64> = (0..200)
                .map(|_| full_jitter(failures, longest).as_secs_f64())
                .collect();
            assert!(waits.iter().all(|wait| *wait <= ceiling), "{failures}");
            assert!(
                waits.iter().any(|wait| *wait > ceiling * 0.75),
                "{failures}"
            );
            assert!(
                waits.iter().any(|wait| *wait < ceiling * 0.25),
                "{failures}"
            );
        }
    }
}
