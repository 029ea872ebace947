//! The newer programs in the data folder, and what became of them.
//!
//! ```text
//! update/state.json                     which version is on trial, which is kept, and which failed
//! update/<version>/denyut-agent[.exe]   the program
//! update/<version>/manifest.json[.minisig]   the manifest that names it, as it was signed
//! ```
//!
//! An installed program of any age reads what a newer one wrote here, and calls it: these names, the keys of the state, the commands `version`, `check-config`, `run`
//! and `service stand-in`, and what they answer by, are a promise to every later version.

use super::manifest::{Manifest, Program};
use crate::machine;
use crate::system::{self, sync_folder};
use anyhow::{Context, anyhow, bail, ensure};
use denyut_proto::UnixMillis;
use minisign_verify::PublicKey;
use semver::Version;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use tracing::{error, warn};

/// A version that failed is tried again after this time, and so many times in all.
const AGAIN_AFTER: Duration = Duration::from_secs(24 * 3_600);
const TIMES: u32 = 3;
/// So many starts in a row, none of them this long after the one before, has a version on trial to be heard of; and one that is kept.
const STARTS: u32 = 3;
const STARTS_KEPT: u32 = 10;
const IN_A_ROW: Duration = Duration::from_secs(15 * 60);
/// Versions that failed are remembered, so many of them.
const FAILED_MAX: usize = 16;
/// How long a program may take to say its version.
const SAYS_WITHIN: Duration = Duration::from_secs(60);

/// What became of the newer versions.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct State {
    trial: Option<Run>,
    kept: Option<Run>,
    failed: BTreeMap<Version, Failed>,
    /// The highest that was ever signed, as far as is known here.
    seen: Option<Version>,
    /// When a manifest was last looked for.
    looked: Option<UnixMillis>,
}

/// A version that runs in place of the installed one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Run {
    version: Version,
    /// In a row since the collector last heard of it.
    starts: u32,
    started: UnixMillis,
}

impl Run {
    fn new(version: &Version) -> Self {
        Self {
            version: version.clone(),
            starts: 0,
            started: UnixMillis(0),
        }
    }

    fn count(&mut self, now: UnixMillis) {
        let in_a_row = (self.started..self.started + IN_A_ROW).contains(&now);
        self.starts = if in_a_row { self.starts + 1 } else { 1 };
        self.started = now;
    }
}

/// A version that was rolled back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Failed {
    why: String,
    times: u32,
    at: UnixMillis,
}

/// The folder of newer programs.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    folder: PathBuf,
}

/// Why the program of a version is not run.
enum Unfit {
    /// It is not what was signed, or is gone.
    Wrong(anyhow::Error),
    /// That cannot be told now, or the key is another one by now.
    Unknown(anyhow::Error),
}

impl Kept {
    pub(super) fn of(data_dir: &Path) -> Self {
        Self {
            folder: data_dir.join("update"),
        }
    }

    fn state(&self) -> anyhow::Result<State> {
        let path = self.folder.join("state.json");
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(State::default()),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", path.display()));
            }
        };
        Ok(serde_json::from_slice(&bytes).unwrap_or_else(|error| {
            warn!(%error, "what became of newer versions makes no sense; the installed one runs");
            State::default()
        }))
    }

    fn write(&self, state: &State) -> anyhow::Result<()> {
        let path = self.folder.join("state.json");
        let write = || {
            system::private_folder(&self.folder)?;
            let new = self.folder.join("state.new");
            let mut file = File::create(&new)?;
            file.write_all(&serde_json::to_vec(state)?)?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            sync_folder(&self.folder)
        };
        write().with_context(|| format!("cannot write {}", path.display()))
    }

    /// Changes what is known, on the disk.
    fn change(&self, change: impl FnOnce(&mut State)) -> anyhow::Result<()> {
        let mut state = self.state()?;
        let before = state.clone();
        change(&mut state);
        if state == before {
            return Ok(());
        }
        self.write(&state)
    }

    /// The program that is to run instead of `own`, the installed one, and whether it is on trial. Its start is counted. What is of no version that may run is
    /// removed.
    pub(super) fn newer(
        &self,
        own: &Version,
        key: &PublicKey,
    ) -> anyhow::Result<Option<(PathBuf, bool)>> {
        if !self.folder.exists() {
            return Ok(None);
        }
        ensure!(
            system::is_ours(&self.folder),
            "{} is another user's: what lies there is not run as this one",
            self.folder.display()
        );
        let mut state = self.state()?;
        let before = state.clone();
        state.trial = state.trial.filter(|trial| trial.version > *own);
        state.kept = state.kept.filter(|kept| kept.version > *own);
        state.failed.retain(|version, _| version > own);
        let mut chosen = self.choose(&mut state, true, key);
        if chosen.is_none() {
            chosen = self.choose(&mut state, false, key);
        }
        if state != before
            && let Err(error) = self.write(&state)
        {
            // A full disk is no reason to leave what is kept; but who is on trial must be counted.
            warn!("{error:#}");
            chosen = chosen.filter(|(_, on_trial)| !on_trial);
        }
        self.sweep(&state);
        Ok(chosen)
    }

    /// The program on trial, or the one that is kept, if it may run.
    fn choose(
        &self,
        state: &mut State,
        on_trial: bool,
        key: &PublicKey,
    ) -> Option<(PathBuf, bool)> {
        let (run, starts) = if on_trial {
            (&mut state.trial, STARTS)
        } else {
            (&mut state.kept, STARTS_KEPT)
        };
        let mut of = run.take()?;
        of.count(machine::wall());
        let version = of.version.clone();
        if of.starts > starts {
            let why = format!("the collector did not hear of it in {starts} starts");
            fail(state, &version, &why, true);
            return None;
        }
        match self.whole(&version, key) {
            Ok(path) => {
                *run = Some(of);
                Some((path, on_trial))
            }
            Err(Unfit::Wrong(error)) => {
                fail(state, &version, &format!("{error:#}"), true);
                None
            }
            Err(Unfit::Unknown(error)) => {
                warn!(%version, error = %format!("{error:#}"), "this version is not run now");
                *run = Some(of);
                None
            }
        }
    }

    /// The program of this version, if it is what a signed manifest says it is.
    fn whole(&self, version: &Version, key: &PublicKey) -> Result<PathBuf, Unfit> {
        let folder = self.folder.join(version.to_string());
        let read = |name: &str| {
            let path = folder.join(name);
            fs::read(&path).map_err(|error| {
                let gone = error.kind() == ErrorKind::NotFound;
                let error = anyhow!(error).context(format!("cannot read {}", path.display()));
                if gone {
                    Unfit::Wrong(error)
                } else {
                    Unfit::Unknown(error)
                }
            })
        };
        let signature = read("manifest.json.minisig")?;
        let signature = String::from_utf8_lossy(&signature);
        let manifest = Manifest::read(&read("manifest.json")?, &signature, key);
        let manifest = manifest.map_err(Unfit::Unknown)?;
        let path = folder.join(PROGRAM);
        let is_it = || {
            let program = manifest.program()?;
            Ok(manifest.version == *version && program.is_in(&path)?)
        };
        match is_it() {
            Ok(true) => Ok(path),
            Ok(false) => Err(Unfit::Wrong(anyhow!(
                "{} is not what was signed",
                path.display()
            ))),
            Err(error) => Err(Unfit::Unknown(error)),
        }
    }

    /// Begins the trial of a version whose program `fetched` puts into the file that it is given. One that is not what was signed, or does not
    /// run here, has failed; and leaves nothing.
    pub(super) async fn begin(
        &self,
        manifest: &Manifest,
        signed: (&[u8], &str),
        config: &Path,
        fetched: impl AsyncFnOnce(&Program, File) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let version = &manifest.version;
        let folder = self.folder.join(version.to_string());
        let begun = self.put(&folder, manifest, signed, fetched).await;
        let begun = match begun {
            Ok(()) => runs_here(&folder.join(PROGRAM), version, config)
                .await
                .map_err(|error| (error, true)),
            Err(failed) => Err(failed),
        };
        if let Err((error, strike)) = begun {
            if folder.exists()
                && let Err(error) = fs::remove_dir_all(&folder)
            {
                warn!(%version, %error, "cannot remove what was fetched");
            }
            if strike {
                self.fail(version, &format!("{error:#}"), true)?;
            }
            return Err(error);
        }
        self.change(|state| state.trial = Some(Run::new(version)))
    }

    /// Puts a version into its folder; an error, and whether the version is to blame for it.
    async fn put(
        &self,
        folder: &Path,
        manifest: &Manifest,
        (text, signature): (&[u8], &str),
        fetched: impl AsyncFnOnce(&Program, File) -> anyhow::Result<()>,
    ) -> Result<(), (anyhow::Error, bool)> {
        let not_its_fault = |error| (error, false);
        let program = manifest.program().map_err(not_its_fault)?;
        let path = folder.join(PROGRAM);
        let make = || {
            system::private_folder(&self.folder)?;
            if folder.exists() {
                fs::remove_dir_all(folder)?;
            }
            system::private_folder(folder)?;
            for (name, bytes) in [
                ("manifest.json", text),
                ("manifest.json.minisig", signature.as_bytes()),
            ] {
                let mut file = File::create(folder.join(name))?;
                file.write_all(bytes)?;
                file.sync_all()?;
            }
            system::program_file(&path)
        };
        let file = make()
            .with_context(|| format!("cannot make {}", folder.display()))
            .map_err(not_its_fault)?;
        fetched(program, file).await.map_err(not_its_fault)?;
        let (of, at) = (program.clone(), path.clone());
        let is_it = tokio::task::spawn_blocking(move || of.is_in(&at)).await;
        let is_it = is_it.map_err(anyhow::Error::from).flatten();
        if !is_it.map_err(not_its_fault)? {
            return Err((anyhow!("it is not what was signed"), true));
        }
        let synced = sync_folder(folder).and_then(|()| sync_folder(&self.folder));
        synced
            .with_context(|| format!("cannot keep {}", folder.display()))
            .map_err(not_its_fault)
    }

    /// Whether this version is on trial.
    pub(super) fn tries(&self, version: &Version) -> bool {
        let trial = self.state().ok().and_then(|state| state.trial);
        trial.is_some_and(|trial| trial.version == *version)
    }

    /// The collector has heard from this version: it is kept.
    pub(super) fn keep(&self, version: &Version) -> anyhow::Result<()> {
        self.change(|state| {
            state.trial = None;
            state.kept = Some(Run::new(version));
            state.failed.remove(version);
        })?;
        self.sweep(&self.state()?);
        Ok(())
    }

    /// The collector hears from this version, if it is the one that is kept.
    pub(super) fn heard(&self, version: &Version) -> anyhow::Result<()> {
        self.change(|state| {
            if let Some(kept) = state.kept.as_mut().filter(|kept| kept.version == *version) {
                kept.starts = 0;
            }
        })
    }

    /// This version does not do; `strike`: by its own fault.
    pub(super) fn fail(&self, version: &Version, why: &str, strike: bool) -> anyhow::Result<()> {
        self.change(|state| {
            fail(state, version, why, strike);
            for run in [&mut state.trial, &mut state.kept] {
                if run.as_ref().is_some_and(|run| run.version == *version) {
                    *run = None;
                }
            }
        })
    }

    /// The highest version that failed, and why, for people.
    pub(super) fn failed(&self) -> Option<String> {
        let state = self.state().ok()?;
        let (version, of) = state.failed.last_key_value()?;
        Some(format!("{version} on {}: {}", of.at, of.why))
    }

    /// A manifest of this version was seen. An error if there was one of a higher version: this one is old.
    pub(super) fn see(&self, version: &Version, now: UnixMillis) -> anyhow::Result<()> {
        let seen = self.state()?.seen.filter(|seen| seen > version);
        self.change(|state| {
            state.looked = Some(now);
            state.seen = state.seen.take().max(Some(version.clone()));
        })?;
        if let Some(seen) = seen {
            bail!("it is of {version}, and there was one of {seen} before");
        }
        Ok(())
    }

    /// When a manifest was last seen.
    pub(super) fn looked(&self) -> Option<UnixMillis> {
        self.state().ok()?.looked
    }

    /// Whether a version may be tried: it never failed, or some time ago and not too often.
    pub(super) fn may_try(&self, version: &Version, now: UnixMillis) -> anyhow::Result<bool> {
        let state = self.state()?;
        Ok(state
            .failed
            .get(version)
            .is_none_or(|of| of.times < TIMES && (now >= of.at + AGAIN_AFTER || now < of.at)))
    }

    /// Removes all that is of no version that may run.
    fn sweep(&self, state: &State) {
        let named: Vec<String> = [&state.trial, &state.kept]
            .into_iter()
            .flatten()
            .map(|run| run.version.to_string())
            .collect();
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let is_named = named.iter().any(|name| *entry.file_name() == **name);
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if is_folder
                && !is_named
                && let Err(error) = fs::remove_dir_all(entry.path())
            {
                warn!(path = %entry.path().display(), %error, "cannot remove a version that is not used");
            }
        }
    }
}

/// The program's file name.
const PROGRAM: &str = if cfg!(windows) {
    "denyut-agent.exe"
} else {
    "denyut-agent"
};

/// The version whose program lies there.
pub(super) fn version_of(program: &Path) -> Option<Version> {
    program.parent()?.file_name()?.to_str()?.parse().ok()
}

fn fail(state: &mut State, version: &Version, why: &str, strike: bool) {
    error!(%version, why, "this version is rolled back");
    let times = state.failed.get(version).map_or(0, |of| of.times);
    let failed = Failed {
        why: why.to_owned(),
        times: times.saturating_add(u32::from(strike)),
        at: machine::wall(),
    };
    state.failed.insert(version.clone(), failed);
    while state.failed.len() > FAILED_MAX {
        state.failed.pop_first();
    }
}

/// Whether a program runs here at all, says that it is this version, and can read the configuration.
async fn runs_here(program: &Path, version: &Version, config: &Path) -> anyhow::Result<()> {
    let said = said(Command::new(program).arg("version")).await?;
    ensure!(
        said == format!("denyut-agent {version}"),
        "the program says {said:?}, and not that it is {version}"
    );
    let mut check = Command::new(program);
    self::said(check.arg("check-config").arg("--config").arg(config))
        .await
        .context("it does not run by this machine's configuration")?;
    Ok(())
}

/// The first line of what a program says that ends well.
async fn said(command: &mut Command) -> anyhow::Result<String> {
    const LOOK: Duration = Duration::from_millis(50);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("the program does not run here")?;
    let mut waited = Duration::ZERO;
    let ended = loop {
        if let Some(ended) = child.try_wait()? {
            break ended;
        }
        if waited >= SAYS_WITHIN {
            child.kill().ok();
            child.wait().ok();
            bail!("the program does not end in {SAYS_WITHIN:?}");
        }
        tokio::time::sleep(LOOK).await;
        waited += LOOK;
    };
    let mut said = String::new();
    if let Some(out) = child.stdout {
        std::io::Read::read_to_string(&mut std::io::Read::take(out, 4_096), &mut said).ok();
    }
    ensure!(ended.success(), "the program ended with {ended}");
    Ok(said.lines().next().unwrap_or_default().to_owned())
}
