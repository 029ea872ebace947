//! What the running agent tells about itself, to who may read its data folder: one JSON document, on a line,
//! per connection.

use crate::spool::Range;
use crate::system::{self, StatusDoor};
use anyhow::{Context, bail};
use denyut_proto::{Identity, Outcome, Path as Way, Target, TargetName, UnixMillis};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// The document.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Status {
    pub(crate) agent: String,
    pub(crate) version: String,
    pub(crate) boot: String,
    /// When the certificate of an agent that joined is over.
    pub(crate) certified_until_ms: Option<UnixMillis>,
    pub(crate) connection: Connection,
    pub(crate) spool: Option<Range>,
    pub(crate) budget: Spent,
    /// None if the agent does not keep itself up to date.
    pub(crate) updating: Option<Updating>,
    pub(crate) gateway: Option<String>,
    /// What to do so that ICMP is permitted.
    pub(crate) icmp_fix: Option<String>,
    pub(crate) targets: Vec<TargetStatus>,
}

/// What of the byte budget is spent, and how often the agent speaks for it.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Spent {
    /// Bytes in the last 24 hours.
    #[serde(rename = "spent")]
    pub(crate) bytes: u64,
    /// Bytes that may be spent in 24 hours; none: no limit.
    pub(crate) per_day: Option<u64>,
    /// While nothing changes: from one word to the next, and how long samples wait at most; in seconds.
    pub(crate) pulse_s: u64,
    pub(crate) batch_s: u64,
    /// The office is closed at the moment.
    pub(crate) closed: bool,
    /// Entries of the past wait for a closed office or a larger budget.
    pub(crate) left_for_later: bool,
}

/// How it keeps itself up to date.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Updating {
    /// The installed program handed over to this one, which is newer.
    pub(crate) handed_over: bool,
    /// When it last looked for a newer version, and why that came to nothing.
    pub(crate) checked_ms: Option<UnixMillis>,
    pub(crate) last_error: Option<String>,
    /// The version that was rolled back, and why.
    pub(crate) failed: Option<String>,
}

/// The stream to the collector.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Connection {
    pub(crate) connected: bool,
    pub(crate) collector: Option<String>,
    pub(crate) office: Option<String>,
    pub(crate) office_name: Option<String>,
    /// Since when it is as it is.
    pub(crate) since_ms: Option<UnixMillis>,
    /// Why the last stream ended, or could not begin.
    pub(crate) last_error: Option<String>,
    /// The last entry that the collector refused, and why.
    pub(crate) last_refusal: Option<String>,
    /// The machine's wall clock minus the collector's when it last connected, in ms.
    pub(crate) clock_offset_ms: Option<i64>,
}

/// One target and its last sample.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct TargetStatus {
    name: TargetName,
    role: String,
    probe: String,
    last_ms: Option<UnixMillis>,
    rtt_us: Option<u32>,
    failure: Option<String>,
    /// What it showed of itself with its last answer.
    shown: Vec<Identity>,
    /// The way to it when it had just failed, while it fails.
    path: Option<Way>,
}

impl Status {
    pub(crate) fn set_targets(&mut self, targets: &[Target]) {
        self.targets = targets
            .iter()
            .map(|target| TargetStatus {
                name: target.name.clone(),
                role: target.role.as_str().to_owned(),
                probe: target.probe.to_string(),
                last_ms: None,
                rtt_us: None,
                failure: None,
                shown: Vec::new(),
                path: None,
            })
            .collect();
    }

    pub(crate) fn sampled(
        &mut self,
        name: &TargetName,
        at: UnixMillis,
        outcome: Outcome,
        shown: &[Identity],
    ) {
        if let Some(target) = self.targets.iter_mut().find(|target| target.name == *name) {
            target.last_ms = Some(at);
            (target.rtt_us, target.failure) = match outcome {
                Outcome::Ok { rtt_us } => (Some(rtt_us), None),
                Outcome::Failed(failure) => (None, Some(failure.to_string())),
            };
            if target.rtt_us.is_some() {
                target.shown = shown.to_vec();
                target.path = None;
            }
        }
    }

    /// The way to a target that fails was looked at.
    pub(crate) fn traced(&mut self, path: Way) {
        let mut targets = self.targets.iter_mut();
        if let Some(target) = targets.find(|target| target.name == path.target) {
            target.path = target.failure.is_some().then_some(path);
        }
    }
}

/// Answers each connection with the document, until `stop`.
pub(crate) async fn serve(
    mut door: StatusDoor,
    status: Arc<Mutex<Status>>,
    stop: CancellationToken,
) {
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = door.accept() => accepted,
        };
        let answered = match accepted {
            Ok(connection) => answer(connection, &status).await,
            Err(error) => {
                // Too many open files, most likely: asking again at once would fill the disk with this line.
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                Err(error)
            }
        };
        if let Err(error) = answered {
            warn!(%error, "a status request failed");
        }
    }
}

async fn answer(
    mut connection: impl AsyncWrite + Unpin,
    status: &Mutex<Status>,
) -> std::io::Result<()> {
    let mut text = serde_json::to_vec(&*status.lock().unwrap_or_else(PoisonError::into_inner))?;
    text.push(b'\n');
    // A reader that does not read must not keep the next one waiting.
    let send = async {
        connection.write_all(&text).await?;
        connection.shutdown().await
    };
    tokio::time::timeout(std::time::Duration::from_secs(1), send).await?
}

/// Asks the running agent.
pub(crate) async fn ask(data_dir: &Path) -> anyhow::Result<serde_json::Value> {
    let read = async {
        let mut text = String::new();
        let connection = system::knock(data_dir).await?;
        // More than any agent says.
        let connection = AsyncReadExt::take(connection, 1 << 20);
        BufReader::new(connection).read_line(&mut text).await?;
        std::io::Result::Ok(text)
    };
    let Ok(result) = tokio::time::timeout(std::time::Duration::from_secs(5), read).await else {
        bail!("the agent of {} does not answer", data_dir.display());
    };
    let text = result.with_context(|| {
        format!(
            "cannot ask the agent of {}: is it running, and may you read that folder?",
            data_dir.display()
        )
    })?;
    serde_json::from_str(&text).context("the agent's answer is not JSON")
}

impl Spent {
    fn for_people(&self) -> String {
        let kb = |bytes: u64| bytes.div_ceil(1_000);
        let spent = kb(self.bytes);
        let Some(per_day) = self.per_day.map(kb) else {
            return format!("budget     {spent} KB in 24 h; no limit\n");
        };
        let left = per_day.saturating_sub(spent);
        let (pulse, batch) = (self.pulse_s, self.batch_s / 60);
        let office = if self.closed { "closed" } else { "open" };
        let mut out = format!(
            "budget     {spent} KB of {per_day} in 24 h, {left} left\n           \
             while nothing changes it speaks every {pulse} s, so silence is noticed after {} s; samples wait for up to {batch} min (the office is {office})\n",
            3 * pulse
        );
        if self.left_for_later {
            out += "           what was stored while it was cut off waits until the office is closed\n";
        }
        out
    }
}

impl Status {
    /// What a running agent told.
    pub(crate) fn read(document: serde_json::Value) -> anyhow::Result<Self> {
        serde_json::from_value(document)
            .context("the running agent is of another version; restart it")
    }
}

/// The document as lines that a person can read.
pub(crate) fn for_people(document: serde_json::Value) -> anyhow::Result<String> {
    use std::fmt::Write as _;
    let status = Status::read(document)?;
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".into());
    let since = |at: Option<UnixMillis>| at.map_or_else(|| "-".into(), |at| at.to_string());
    let connection = &status.connection;
    let mut out = String::new();
    let agent = match status.agent.as_str() {
        "" => "none yet",
        agent => agent,
    };
    writeln!(out, "agent      {agent} (version {})", status.version)?;
    if let Some(until) = status.certified_until_ms {
        writeln!(out, "certified  until {until}; renewed by itself")?;
    }
    if connection.connected {
        let office = format!(
            "{} {}",
            or_dash(connection.office.clone()),
            or_dash(connection.office_name.clone())
        );
        writeln!(out, "office     {office}")?;
    }
    writeln!(
        out,
        "collector  {} {} since {}",
        or_dash(connection.collector.clone()),
        if connection.connected {
            "connected"
        } else {
            "NOT connected"
        },
        since(connection.since_ms)
    )?;
    if let (false, Some(error)) = (connection.connected, &connection.last_error) {
        writeln!(out, "           {error}")?;
    }
    if let Some(refusal) = &connection.last_refusal {
        writeln!(out, "refused    {refusal}")?;
    }
    if let Some(spool) = &status.spool {
        writeln!(
            out,
            "spool      {} heartbeats wait, {} dropped, {} KiB on disk",
            (spool.next - 1).saturating_sub(spool.acked),
            spool.dropped,
            spool.bytes.div_ceil(1024)
        )?;
    }
    out += &status.budget.for_people();
    if let Some(updating) = &status.updating {
        let is = if updating.handed_over {
            "this version came as an update"
        } else {
            "this version is the installed one"
        };
        let checked = updating.checked_ms;
        let checked = checked.map_or_else(|| "not yet".into(), |at| at.to_string());
        writeln!(out, "updates    {is}; last looked: {checked}")?;
        for (what, text) in [
            ("no update", &updating.last_error),
            ("rolled back", &updating.failed),
        ] {
            if let Some(text) = text {
                writeln!(out, "           {what}: {text}")?;
            }
        }
    }
    writeln!(out, "gateway    {}", or_dash(status.gateway))?;
    if let Some(fix) = &status.icmp_fix {
        writeln!(out, "ping       {fix}")?;
    }
    writeln!(out)?;
    let width = |of: fn(&TargetStatus) -> usize| status.targets.iter().map(of).max().unwrap_or(0);
    let (name_width, probe_width) = (width(|t| t.name.as_str().len()), width(|t| t.probe.len()));
    for target in &status.targets {
        let result = match (target.rtt_us, &target.failure) {
            (Some(rtt_us), _) => format!("{:.2} ms", f64::from(rtt_us) / 1000.0),
            (None, Some(failure)) => failure.clone(),
            (None, None) => "no sample yet".into(),
        };
        writeln!(
            out,
            "{:name_width$}  {:9}  {:probe_width$}  {:>18}  {}",
            target.name.as_str(),
            target.role,
            target.probe,
            result,
            since(target.last_ms)
        )?;
        if let Some(path) = &target.path {
            writeln!(out, "{:name_width$}  way at {}: {path}", "", path.at)?;
        }
    }
    Ok(out)
}
