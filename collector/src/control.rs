//! The door for the operator's own commands while the collector runs: a socket in the data folder that only its user can open. One line of
//! JSON asks ([`Ask`]), one line answers: `ok …` or `error …`.

use crate::alert::{self, Outbox, Silences};
use crate::case::{self, Cases};
use crate::ingest::Gate;
use crate::join;
use anyhow::{Context, bail};
use denyut_store::Store;
use serde::{Deserialize, Serialize};
use std::fs::Permissions;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// A request is one short line, and must be there within this.
const LINE_MAX: u64 = 32 * 1024;
const ASKED_WITHIN: Duration = Duration::from_secs(5);

/// A request.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Ask {
    /// Make a backup in this folder.
    Backup(PathBuf),
    /// Something with tokens and agents.
    Join(join::command::Ask),
    /// Something with incidents.
    Incident(case::Ask),
    /// Something with messages.
    Message(alert::Ask),
    /// Something with silences.
    Silence(alert::SilenceAsk),
}

/// What the commands work on.
pub(crate) struct Control {
    pub(crate) store: Arc<Store>,
    pub(crate) processed: Arc<AtomicU64>,
    pub(crate) clock: Arc<crate::clock::Clock>,
    pub(crate) cases: Arc<Cases>,
    pub(crate) silences: Arc<Silences>,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) gate: Arc<Gate>,
    /// Where agents find the collector: `https://host:port`.
    pub(crate) address: String,
    pub(crate) stop: CancellationToken,
}

/// The socket of a data folder.
fn path_of(data_dir: &Path) -> PathBuf {
    data_dir.join("control")
}

/// Serves until the token is cancelled.
pub(crate) async fn serve(control: Arc<Control>, data_dir: PathBuf) -> anyhow::Result<()> {
    let path = path_of(&data_dir);
    // Ours alone, as the folder is locked: what is there is from a process that was killed.
    std::fs::remove_file(&path).ok();
    let listener = match UnixListener::bind(&path) {
        Ok(listener) => listener,
        Err(error) => {
            // A path of over 107 bytes, most likely: all else works without it.
            warn!(path = %path.display(), %error, "cannot listen there: `backup` needs the collector stopped");
            control.stop.cancelled().await;
            return Ok(());
        }
    };
    std::fs::set_permissions(&path, Permissions::from_mode(0o600))?;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = control.stop.cancelled() => break,
        };
        let Ok((stream, _)) = accepted else {
            // Out of file handles: it may pass.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let control = Arc::clone(&control);
        // Ends with its command, or with the process.
        tokio::spawn(async move {
            if let Err(error) = answer(&control, stream).await {
                info!(%error, "a command went unanswered");
            }
        });
    }
    std::fs::remove_file(&path).ok();
    Ok(())
}

async fn answer(control: &Arc<Control>, stream: UnixStream) -> anyhow::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    let mut read = BufReader::new(tokio::io::AsyncReadExt::take(read, LINE_MAX));
    tokio::time::timeout(ASKED_WITHIN, read.read_line(&mut line)).await??;
    // A line without its end is from somebody who went away while asking.
    let asked = if line.ends_with('\n') {
        serde_json::from_str(&line).context("not a command")
    } else {
        Err(anyhow::anyhow!("not a whole line"))
    };
    let said = match asked {
        Ok(Ask::Backup(to)) => {
            let control = Arc::clone(control);
            tokio::task::spawn_blocking(move || {
                backup(
                    &control.store,
                    &to,
                    control.processed.load(Ordering::Acquire),
                    &control.clock,
                )
            })
            .await?
        }
        Ok(Ask::Join(ask)) => {
            let control = Arc::clone(control);
            tokio::task::spawn_blocking(move || {
                let members = control.gate.members.as_ref();
                let members = members.context(join::command::PLAINTEXT)?;
                let now = control.clock.read().now;
                let answer = join::command::answer(
                    ask,
                    members,
                    Some(&control.gate),
                    &control.address,
                    now,
                )?;
                Ok(serde_json::to_string(&answer)?)
            })
            .await?
        }
        Ok(Ask::Incident(ask)) => {
            let control = Arc::clone(control);
            tokio::task::spawn_blocking(move || {
                let now = control.clock.read().now;
                Ok(serde_json::to_string(&control.cases.answer(ask, now)?)?)
            })
            .await?
        }
        Ok(Ask::Message(ask)) => {
            let control = Arc::clone(control);
            tokio::task::spawn_blocking(move || {
                let now = control.clock.read().now;
                Ok(serde_json::to_string(&control.outbox.answer(&ask, now)?)?)
            })
            .await?
        }
        Ok(Ask::Silence(ask)) => {
            let control = Arc::clone(control);
            tokio::task::spawn_blocking(move || {
                let now = control.clock.read().now;
                Ok(serde_json::to_string(&control.silences.answer(&ask, now)?)?)
            })
            .await?
        }
        Err(error) => Err(error),
    };
    let said = match said {
        Ok(said) => format!("ok {said}\n"),
        Err(error) => format!("error {error:#}\n"),
    };
    write.write_all(said.as_bytes()).await?;
    Ok(())
}

/// Makes a backup; what to say of it.
pub(crate) fn backup(
    store: &Store,
    to: &Path,
    processed: u64,
    clock: &crate::clock::Clock,
) -> anyhow::Result<String> {
    check_target(store.folder(), to)?;
    let manifest = store.backup(to, processed, clock.read().now)?;
    let said = format!(
        "{} files, {} (taken {}, up to record {})",
        manifest.files.len(),
        bytesize::ByteSize(manifest.bytes()).display().iec(),
        manifest.taken,
        manifest.position
    );
    info!(to = %to.display(), %said, "a backup was made");
    Ok(said)
}

/// A backup goes to a folder of its own, whatever way its path takes.
fn check_target(data_dir: &Path, to: &Path) -> anyhow::Result<()> {
    let parent = to
        .parent()
        .filter(|_| to.is_absolute() && to.file_name().is_some());
    let parent = parent.with_context(|| {
        format!(
            "`--to` = `{}`: not the absolute path of a folder",
            to.display()
        )
    })?;
    let parent = parent.canonicalize().with_context(|| {
        format!(
            "`--to` = `{}`: {} must be there",
            to.display(),
            parent.display()
        )
    })?;
    let data_dir = data_dir.canonicalize().context("the data folder")?;
    if parent
        .join(to.file_name().unwrap_or_default())
        .starts_with(&data_dir)
    {
        bail!(
            "`--to` = `{}`: it lies in the data folder; name another, on another disk best",
            to.display()
        );
    }
    Ok(())
}

/// A collector that starts is waited for.
const STARTS_WITHIN: Duration = Duration::from_secs(10);

/// Asks the collector that runs on `data_dir`.
pub(crate) async fn ask(data_dir: &Path, ask: &Ask) -> anyhow::Result<String> {
    let line = serde_json::to_string(ask).context("a path must be text (UTF-8)")?;
    let path = path_of(data_dir);
    let began = Instant::now();
    let connected = loop {
        match UnixStream::connect(&path).await {
            // It is just starting: it claims its data before it listens.
            Err(error)
                if [ErrorKind::NotFound, ErrorKind::ConnectionRefused].contains(&error.kind())
                    && began.elapsed() < STARTS_WITHIN =>
            {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            other => break other,
        }
    };
    let stream = connected.with_context(|| {
        format!(
            "a collector runs on {}, but {} cannot be opened; run this as its user",
            data_dir.display(),
            path.display()
        )
    })?;
    let (read, mut write) = stream.into_split();
    write.write_all(format!("{line}\n").as_bytes()).await?;
    let mut answer = String::new();
    BufReader::new(read).read_line(&mut answer).await?;
    match answer.trim_end().split_once(' ') {
        Some(("ok", said)) => Ok(said.to_owned()),
        Some(("error", said)) => bail!("{said}"),
        _ => bail!("the collector went away before it answered; see its log"),
    }
}
