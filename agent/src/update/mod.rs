//! Keeping the agent up to date, where its configuration names a manifest and the key that signs it. Off otherwise.
//!
//! The program that was installed never changes. A newer one is put into the data folder ([`kept`]), and the installed one hands over to it at each
//! start, after it has held it against its signed [`manifest`]. At first a newer version is on *trial*: if the collector acknowledges nothing
//! that it sees within a time, if it cannot read the manifest itself, or if it ends before that again and again, it is *rolled back*: what ran before runs
//! again. Otherwise it is *kept*; one that is kept and then ends again and again is rolled back too. What goes wrong on the way (a line that breaks, a disk that is
//! full) is tried again, and held against no version.
//!
//! Nobody can make an agent run what was not signed, or anything older than what is installed. Who can hold back a manifest keeps an agent as it is.

mod kept;
mod manifest;

pub(crate) use manifest::{Source, is_safe};

use crate::config::Config;
use crate::probe;
use crate::status::Status;
use crate::{VERSION, machine, system};
use anyhow::{Context, bail, ensure};
use denyut_proto::AgentId;
use kept::Kept;
use manifest::{MANIFEST_MAX, Manifest, Program, SIGNATURE_MAX};
use reqwest::Url;
use semver::Version;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
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

/// A program that is to run in place of the installed one.
#[derive(Debug)]
pub(crate) struct Newer {
    pub(crate) program: PathBuf,
    /// How long it has until the collector must have heard from it; `None` if that was long ago.
    pub(crate) trial: Option<Duration>,
}

/// The program that is to run in place of this one, which is the installed one.
pub(crate) fn newer(config: &Config) -> Option<Newer> {
    let updates = config.updates.as_ref()?;
    let newer = Kept::of(&config.data_dir).newer(&own(), &updates.source.key);
    let newer = newer.unwrap_or_else(|error| {
        warn!("{error:#}; the installed version runs");
        None
    });
    newer.map(|(program, on_trial)| Newer {
        program,
        trial: on_trial.then_some(updates.trial),
    })
}

/// A newer program could not be run.
pub(crate) fn gave_up(config: &Config, newer: &Newer, why: &anyhow::Error) -> anyhow::Result<()> {
    let version = kept::version_of(&newer.program).context("the program of no version")?;
    Kept::of(&config.data_dir).fail(&version, &format!("{why:#}"), true)
}

/// Returns when a newer program should have stood its trial or been rolled back, and did neither.
#[cfg(windows)]
pub(crate) async fn hangs(config: &Config, newer: &Newer) {
    let kept = Kept::of(&config.data_dir);
    if let (Some(trial), Some(version)) = (newer.trial, kept::version_of(&newer.program)) {
        sleep(hangs_after(trial)).await;
        if kept.tries(&version) {
            return;
        }
    }
    std::future::pending::<()>().await;
}

/// How long after its start a version on trial that did not say how that ended does not turn any more.
pub(crate) fn hangs_after(trial: Duration) -> Duration {
    trial * 2
}

/// Looks after updates of a running agent.
#[derive(Debug)]
pub(crate) struct Updater {
    updates: Updates,
    /// The file of the configuration, which a newer version must be able to read.
    config: PathBuf,
    agent: String,
    data_dir: PathBuf,
    /// The first entry that this run of the agent makes, and the last that the collector acknowledged.
    first: u64,
    heard: Arc<AtomicU64>,
    started: Instant,
    status: Arc<Mutex<Status>>,
}

/// How it is looked again when that could not be done: after this part of the usual time, but within these bounds.
const SOONER: u32 = 10;
const SOON: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(600));
/// At first it is looked within this time; a machine may be on for a few hours a day.
const FIRST_LOOK: Duration = Duration::from_secs(3_600);
/// … and within this one if the last version failed.
const NEXT_LOOK: Duration = Duration::from_secs(900);
/// How long all of a program may take.
const FETCHED_WITHIN: Duration = Duration::from_secs(3_600);

impl Updater {
    /// The one of this configuration, if that wants updates. What is known by now, the status shows.
    pub(crate) fn of(
        config: &Config,
        agent: &AgentId,
        first: u64,
        heard: &Arc<AtomicU64>,
        status: &Arc<Mutex<Status>>,
    ) -> Option<Self> {
        let updater = Self {
            updates: config.updates.clone()?,
            config: config.file.clone(),
            agent: agent.to_string(),
            data_dir: config.data_dir.clone(),
            first,
            heard: Arc::clone(heard),
            started: Instant::now(),
            status: Arc::clone(status),
        };
        let failed = Kept::of(&updater.data_dir).failed();
        updater.show(|status| {
            status.handed_over = installed().is_some();
            status.failed = failed;
        });
        Some(updater)
    }

    /// Returns when another program is to run: a newer one, or what ran before this one.
    pub(crate) async fn run(self) {
        let kept = Kept::of(&self.data_dir);
        if kept.tries(&own()) {
            if !self.stands_trial(&kept).await {
                return;
            }
        } else if installed().is_some() {
            self.until_heard().await;
            if let Err(error) = kept.heard(&own()) {
                warn!("{error:#}");
            }
        }
        let mut wait = self.first_wait(&kept);
        loop {
            sleep(wait).await;
            wait = (self.updates.every / SOONER).clamp(SOON.0, SOON.1);
            if !self.may_look() {
                continue;
            }
            let looked = self.look(&kept).await;
            self.show(|status| {
                status.checked_ms = Some(machine::wall());
                status.last_error = looked.as_ref().err().map(|error| format!("{error:#}"));
                status.failed = kept.failed();
            });
            match looked {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => warn!("no update: {error:#}"),
            }
            wait = self
                .updates
                .every
                .mul_f64(0.9 + 0.2 * rand::random::<f64>());
        }
    }

    /// How long until it is looked at first. An office's machines start at the same time: they do not ask at the same time.
    fn first_wait(&self, kept: &Kept) -> Duration {
        let every = self.updates.every;
        let some = every.min(FIRST_LOOK).mul_f64(rand::random());
        let passed = kept.looked().map(|at| machine::wall().since(at));
        let wait = passed.map_or(some, |passed| every.saturating_sub(passed).max(some));
        if kept.failed().is_some() {
            return wait.min(every.min(NEXT_LOOK).mul_f64(rand::random()));
        }
        wait
    }

    /// Whether a newer version could show that it does: it needs a collector, and a budget to speak to it.
    fn may_look(&self) -> bool {
        let status = self.status();
        let budget = &status.budget;
        let short = |per_day| budget.bytes >= per_day / 4 * 3;
        status.connection.connected && !budget.per_day.is_some_and(short)
    }

    /// Returns when the collector has acknowledged something that this run of the agent saw.
    async fn until_heard(&self) {
        const LOOK: Duration = Duration::from_millis(500);
        while self.heard.load(Ordering::Relaxed) < self.first {
            sleep(LOOK).await;
        }
    }

    /// Whether the collector hears from this version in time, and it can be brought up to date in its turn.
    async fn stands_trial(&self, kept: &Kept) -> bool {
        let part = self.updates.trial / SOONER;
        let mut heard = false;
        let stands = async {
            self.until_heard().await;
            heard = true;
            while self.manifest().await.is_err() {
                sleep(part).await;
            }
            sleep(part.saturating_sub(self.started.elapsed())).await;
        };
        let stood = timeout(self.updates.trial, stands).await.is_ok();
        if stood {
            info!(
                version = VERSION,
                "the collector has heard from this version: it is kept"
            );
            while let Err(error) = kept.keep(&own()) {
                warn!("{error:#}");
                sleep(part).await;
            }
            system::stood_trial();
            return true;
        }
        let within = self.updates.trial;
        let why = if heard {
            format!("it could not read the manifest in {within:?}")
        } else {
            format!("the collector did not hear of it in {within:?}")
        };
        // An office that is cut off meanwhile is not the version's fault.
        let strike = !heard && self.status().connection.connected;
        if let Err(error) = kept.fail(&own(), &why, strike) {
            warn!("{error:#}");
        }
        false
    }

    /// The manifest as it is now, and what it is by.
    async fn manifest(&self) -> anyhow::Result<(Manifest, Vec<u8>, String)> {
        let source = &self.updates.source;
        let client = self.client()?;
        let signed_by = format!("{}.minisig", source.manifest);
        let text = read(&client, &source.manifest, MANIFEST_MAX).await?;
        let signature = read(&client, &signed_by.parse()?, SIGNATURE_MAX).await?;
        let signature = String::from_utf8(signature).context("its signature is not text")?;
        let manifest = Manifest::read(&text, &signature, &source.key)
            .with_context(|| format!("the manifest {}", source.manifest))?;
        Ok((manifest, text, signature))
    }

    fn client(&self) -> anyhow::Result<reqwest::Client> {
        probe::client("update.ca", self.updates.source.ca.as_deref())
    }

    /// Looks for a newer version; true if there is one, and it is ready.
    async fn look(&self, kept: &Kept) -> anyhow::Result<bool> {
        let (manifest, text, signature) = self.manifest().await?;
        let now = machine::wall();
        kept.see(&manifest.version, now)
            .with_context(|| format!("the manifest {}", self.updates.source.manifest))?;
        if manifest.version <= own()
            || !manifest.is_for(&self.agent)
            || !kept.may_try(&manifest.version, now)?
        {
            return Ok(false);
        }
        info!(from = VERSION, to = %manifest.version, "a newer version is fetched");
        let client = self.client()?;
        let fetched = async |program: &Program, file| {
            let url = self.updates.source.manifest.join(&program.url)?;
            let fetched = fetch(&client, &url, program, file);
            timeout(FETCHED_WITHIN, fetched)
                .await
                .with_context(|| format!("{url} takes longer than {FETCHED_WITHIN:?}"))?
        };
        kept.begin(&manifest, (&text, &signature), &self.config, fetched)
            .await
            .with_context(|| format!("version {}", manifest.version))?;
        Ok(true)
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
    ensure!(
        bytes == program.bytes,
        "{url} breaks off after {bytes} bytes"
    );
    tokio::task::spawn_blocking(move || file.sync_all()).await??;
    Ok(())
}
