//! Keeping the agent up to date, where its configuration names a manifest and the key that signs it. Off otherwise.
//!
//! The program that was installed never changes. A newer one is put into the data folder ([`kept`]), and the installed one hands over to it at each
//! start, after it has held it against its signed [`manifest`]. At first a newer version is on *trial*: if the collector acknowledges nothing
//! that it sees within a time, or if it ends before that again and again, it is *rolled back*: what ran before runs again. Otherwise it is *kept*.
//!
//! Nobody can make an agent run what was not signed, or anything older than what is installed. Who can hold back a manifest keeps an agent as it is.

mod kept;
mod manifest;

pub(crate) use manifest::{Source, is_safe};

use crate::config::Config;
use crate::probe;
use crate::spool::Spool;
use crate::status::Status;
use crate::{VERSION, machine};
use anyhow::{Context, bail, ensure};
use denyut_proto::AgentId;
use kept::Kept;
use manifest::{MANIFEST_MAX, Manifest, Program, SIGNATURE_MAX};
use reqwest::Url;
use semver::Version;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

/// What the configuration says of updates.
#[derive(Debug, Clone)]
pub(crate) struct Updates {
    pub(crate) source: Source,
    /// How often it is looked for a newer version.
    pub(crate) every: Duration,
    /// How long a newer version has until the collector must have heard from it.
    pub(crate) trial: Duration,
}

/// Set for a newer program: the path of the installed one, which it hands back to.
pub(crate) const INSTALLED: &str = "DENYUT_INSTALLED";
/// How long the server may be silent.
const SILENCE: Duration = Duration::from_secs(60);

/// The version of this program.
fn own() -> Version {
    // Cargo takes no other.
    Version::parse(VERSION).expect("a version")
}

/// The installed program, if this is a newer one that it handed over to.
pub(crate) fn installed() -> Option<PathBuf> {
    std::env::var_os(INSTALLED).map(PathBuf::from)
}

/// The program that is to run in place of this one, which is the installed one.
pub(crate) fn newer(config: &Config) -> Option<PathBuf> {
    let updates = config.updates.as_ref()?;
    let kept = Kept::of(&config.data_dir);
    kept.newer(&own(), &updates.source.key)
        .unwrap_or_else(|error| {
            warn!("{error:#}; the installed version runs");
            None
        })
}

/// A newer program could not be run.
pub(crate) fn gave_up(config: &Config, program: &Path, why: &anyhow::Error) -> anyhow::Result<()> {
    let version = kept::version_of(program).context("the program of no version")?;
    Kept::of(&config.data_dir).fail(&version, &format!("{why:#}"))
}

/// Returns when a newer program should have stood its trial or been rolled back, and did neither.
pub(crate) async fn hangs(config: &Config, program: &Path) {
    let kept = Kept::of(&config.data_dir);
    if let (Some(updates), Some(version)) = (&config.updates, kept::version_of(program)) {
        sleep(updates.trial * 2).await;
        if kept.tries(&version) {
            return;
        }
    }
    std::future::pending::<()>().await;
}

/// Looks after updates of a running agent.
#[derive(Debug)]
pub(crate) struct Updater {
    updates: Updates,
    agent: String,
    data_dir: PathBuf,
    /// The first entry that this run of the agent makes.
    first: u64,
    spool: Arc<Mutex<Spool>>,
    status: Arc<Mutex<Status>>,
}

impl Updater {
    /// The one of this configuration, if that wants updates. What is known by now, the status shows.
    pub(crate) fn of(
        config: &Config,
        agent: &AgentId,
        first: u64,
        spool: &Arc<Mutex<Spool>>,
        status: &Arc<Mutex<Status>>,
    ) -> Option<Self> {
        let updater = Self {
            updates: config.updates.clone()?,
            agent: agent.to_string(),
            data_dir: config.data_dir.clone(),
            first,
            spool: Arc::clone(spool),
            status: Arc::clone(status),
        };
        let failed = Kept::of(&updater.data_dir).failed();
        updater.show(|status| {
            status.handed_over = installed().is_some();
            status.failed = failed.map(|of| of.to_string());
        });
        Some(updater)
    }

    /// Returns when another program is to run: a newer one, or what ran before this one.
    pub(crate) async fn run(self) {
        let kept = Kept::of(&self.data_dir);
        if kept.tries(&own()) && !self.stands_trial(&kept).await {
            return;
        }
        // An office's machines start at the same time: they do not ask at the same time.
        let mut wait = self.updates.every.mul_f64(rand::random());
        loop {
            sleep(wait).await;
            wait = self
                .updates
                .every
                .mul_f64(0.9 + 0.2 * rand::random::<f64>());
            // Without a collector no newer version could show that it does.
            if !self.status().connection.connected {
                continue;
            }
            let looked = self.look(&kept).await;
            self.show(|status| {
                status.checked_ms = Some(machine::wall());
                status.last_error = looked.as_ref().err().map(|error| format!("{error:#}"));
                status.failed = kept.failed().map(|of| of.to_string());
            });
            match looked {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => warn!("no update: {error:#}"),
            }
        }
    }

    /// Whether the collector hears from this version in time.
    async fn stands_trial(&self, kept: &Kept) -> bool {
        const LOOK: Duration = Duration::from_millis(500);
        let heard = async {
            while self.spool().range().acked < self.first {
                sleep(LOOK).await;
            }
        };
        let noted = if timeout(self.updates.trial, heard).await.is_ok() {
            info!(
                version = VERSION,
                "the collector has heard from this version: it is kept"
            );
            kept.keep(&own())
        } else {
            let why = format!(
                "the collector did not hear of it in {:?}",
                self.updates.trial
            );
            kept.fail(&own(), &why)
        };
        if let Err(error) = noted {
            warn!("{error:#}");
        }
        kept.failed().is_none_or(|failed| failed.version != own())
    }

    /// Looks for a newer version; true if there is one, and it is ready.
    async fn look(&self, kept: &Kept) -> anyhow::Result<bool> {
        let source = &self.updates.source;
        let client = probe::client("update.ca", source.ca.as_deref())?;
        let signed_by = format!("{}.minisig", source.manifest);
        let text = read(&client, &source.manifest, MANIFEST_MAX).await?;
        let signature = read(&client, &signed_by.parse()?, SIGNATURE_MAX).await?;
        let signature = String::from_utf8(signature).context("its signature is not text")?;
        let manifest = Manifest::read(&text, &signature, &source.key)
            .with_context(|| format!("the manifest {}", source.manifest))?;
        let failed = kept.failed().filter(|of| of.version == manifest.version);
        if manifest.version <= own()
            || !manifest.is_for(&self.agent)
            || failed.is_some_and(|of| !of.may_try(machine::wall()))
        {
            return Ok(false);
        }
        info!(from = VERSION, to = %manifest.version, "a newer version is fetched");
        let fetched = async |program: &Program, file| {
            let url = source.manifest.join(&program.url)?;
            fetch(&client, &url, program, file).await
        };
        kept.begin(&manifest, (&text, &signature), fetched)
            .await
            .with_context(|| format!("version {}", manifest.version))?;
        Ok(true)
    }

    fn spool(&self) -> std::sync::MutexGuard<'_, Spool> {
        self.spool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn status(&self) -> std::sync::MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn show(&self, change: impl FnOnce(&mut crate::status::Updating)) {
        change(self.status().updating.get_or_insert_default());
    }
}

/// What a server may answer, past the signature.
pub(crate) fn try_manifest(text: &[u8]) {
    if let Ok(manifest) = Manifest::parse(text) {
        manifest.is_for("a-1");
        manifest.program().ok();
    }
    let signature = String::from_utf8_lossy(text);
    minisign_verify::Signature::decode(&signature).ok();
}

/// Asks for a file; an answer that it is there.
async fn ask(client: &reqwest::Client, url: &Url) -> anyhow::Result<reqwest::Response> {
    ensure!(
        is_safe(url),
        "{url}: plaintext is only for loopback; use https"
    );
    let answer = timeout(SILENCE, client.get(url.clone()).send()).await;
    let answer = answer
        .map_err(|_| anyhow::anyhow!("no answer in {SILENCE:?}"))
        .and_then(|answer| Ok(answer?))
        .with_context(|| format!("cannot read {url}"))?;
    ensure!(
        answer.status() == reqwest::StatusCode::OK,
        "cannot read {url}: {} (redirects are not followed)",
        answer.status()
    );
    Ok(answer)
}

/// The next part of an answer.
async fn part(answer: &mut reqwest::Response) -> anyhow::Result<Option<impl AsRef<[u8]> + use<>>> {
    match timeout(SILENCE, answer.chunk()).await {
        Ok(part) => part.context("it breaks off"),
        Err(_) => bail!("it is silent for {SILENCE:?}"),
    }
}

/// All of a small file.
async fn read(client: &reqwest::Client, url: &Url, most: u64) -> anyhow::Result<Vec<u8>> {
    let mut answer = ask(client, url).await?;
    let mut bytes = Vec::new();
    while let Some(part) = part(&mut answer).await.with_context(|| url.to_string())? {
        bytes.extend_from_slice(part.as_ref());
        ensure!(
            bytes.len() as u64 <= most,
            "{url}: longer than {most} bytes"
        );
    }
    Ok(bytes)
}

/// Reads a program into `file`, and onto the disk.
async fn fetch(
    client: &reqwest::Client,
    url: &Url,
    program: &Program,
    mut file: File,
) -> anyhow::Result<()> {
    let mut answer = ask(client, url).await?;
    let mut bytes = 0;
    while let Some(part) = part(&mut answer).await.with_context(|| url.to_string())? {
        bytes += part.as_ref().len() as u64;
        ensure!(
            bytes <= program.bytes,
            "{url} is longer than {} bytes",
            program.bytes
        );
        file.write_all(part.as_ref())?;
    }
    file.sync_all()?;
    Ok(())
}
