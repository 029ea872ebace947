//! The newer programs in the data folder, and what became of them.
//!
//! ```text
//! update/state.json                     which version is on trial, which is kept, and which failed
//! update/<version>/denyut-agent[.exe]   the program
//! update/<version>/manifest.json[.minisig]   the manifest that names it, as it was signed
//! ```

use super::manifest::{Manifest, Program};
use crate::machine;
use crate::system::{self, sync_folder};
use anyhow::{Context, ensure};
use denyut_proto::UnixMillis;
use minisign_verify::PublicKey;
use semver::Version;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tracing::{error, warn};

/// A version that fails is tried again after this time, and so many times in all.
const AGAIN_AFTER: Duration = Duration::from_secs(24 * 3_600);
const TIMES: u32 = 3;
/// So many starts has a version on trial to be heard of.
const STARTS: u32 = 3;

/// What became of the newer versions.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
struct State {
    trial: Option<Trial>,
    kept: Option<Version>,
    failed: Option<Failed>,
}

/// A version that the collector has not heard from yet.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Trial {
    version: Version,
    starts: u32,
}

/// A version that was rolled back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Failed {
    pub(super) version: Version,
    pub(super) why: String,
    times: u32,
    at: UnixMillis,
}

/// The folder of newer programs.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    folder: PathBuf,
}

impl Kept {
    pub(super) fn of(data_dir: &Path) -> Self {
        Self {
            folder: data_dir.join("update"),
        }
    }

    fn state(&self) -> State {
        let Ok(bytes) = fs::read(self.folder.join("state.json")) else {
            return State::default();
        };
        serde_json::from_slice(&bytes).unwrap_or_else(|error| {
            warn!(%error, "what became of newer versions cannot be read; the installed one runs");
            State::default()
        })
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

    /// The version that is to run instead of `own`, the installed one; a start of one on trial is counted. Nothing else is left in the folder.
    pub(super) fn newer(&self, own: &Version, key: &PublicKey) -> anyhow::Result<Option<PathBuf>> {
        if !self.folder.exists() {
            return Ok(None);
        }
        let mut state = self.state();
        state.trial = state.trial.filter(|trial| trial.version > *own);
        state.kept = state.kept.filter(|kept| kept > own);
        state.failed = state.failed.filter(|failed| failed.version > *own);
        let mut program = None;
        if let Some(mut trial) = state.trial.take() {
            trial.starts += 1;
            if trial.starts > STARTS {
                let why = format!("the collector did not hear of it in {STARTS} starts");
                fail(&mut state, &trial.version, &why);
            } else {
                match self.whole(&trial.version, key) {
                    Ok(path) => {
                        program = Some(path);
                        state.trial = Some(trial);
                    }
                    Err(error) => fail(&mut state, &trial.version, &format!("{error:#}")),
                }
            }
        }
        if program.is_none()
            && let Some(kept) = state.kept.take()
        {
            match self.whole(&kept, key) {
                Ok(path) => {
                    program = Some(path);
                    state.kept = Some(kept);
                }
                Err(error) => fail(&mut state, &kept, &format!("{error:#}")),
            }
        }
        self.write(&state)?;
        self.sweep(&state);
        Ok(program)
    }

    /// The program of this version, if it is what a signed manifest says it is.
    fn whole(&self, version: &Version, key: &PublicKey) -> anyhow::Result<PathBuf> {
        let folder = self.folder.join(version.to_string());
        let read = |name: &str| {
            fs::read(folder.join(name)).with_context(|| format!("{name} of {version} is gone"))
        };
        let signature = String::from_utf8(read("manifest.json.minisig")?)?;
        let manifest = Manifest::read(&read("manifest.json")?, &signature, key)?;
        let program = folder.join(PROGRAM);
        ensure!(
            manifest.version == *version && manifest.program()?.is_in(&program)?,
            "{} is not what was signed",
            program.display()
        );
        Ok(program)
    }

    /// Begins the trial of a version whose program `fetched` puts into the file that it is given. One that is not what was signed, or does not
    /// run here, has failed.
    pub(super) async fn begin(
        &self,
        manifest: &Manifest,
        (text, signature): (&[u8], &str),
        fetched: impl AsyncFnOnce(&Program, File) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let version = &manifest.version;
        let folder = self.folder.join(version.to_string());
        system::private_folder(&self.folder)?;
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        system::private_folder(&folder)?;
        let path = folder.join(PROGRAM);
        let file = system::program_file(&path)
            .with_context(|| format!("cannot make {}", path.display()))?;
        let program = manifest.program()?;
        fetched(program, file).await?;
        let does = async {
            ensure!(program.is_in(&path)?, "it is not what was signed");
            says(&path, version).await
        };
        if let Err(error) = does.await {
            self.fail(version, &format!("{error:#}"))?;
            return Err(error);
        }
        for (name, bytes) in [
            ("manifest.json", text),
            ("manifest.json.minisig", signature.as_bytes()),
        ] {
            let mut file = File::create(folder.join(name))?;
            file.write_all(bytes)?;
            file.sync_all()?;
        }
        sync_folder(&folder)?;
        sync_folder(&self.folder)?;
        let mut state = self.state();
        state.trial = Some(Trial {
            version: version.clone(),
            starts: 0,
        });
        self.write(&state)
    }

    /// Whether this version is on trial.
    pub(super) fn tries(&self, version: &Version) -> bool {
        self.state()
            .trial
            .is_some_and(|trial| trial.version == *version)
    }

    /// The collector has heard from this version: it is kept.
    pub(super) fn keep(&self, version: &Version) -> anyhow::Result<()> {
        let state = State {
            trial: None,
            kept: Some(version.clone()),
            failed: None,
        };
        self.write(&state)?;
        self.sweep(&state);
        Ok(())
    }

    /// This version does not do.
    pub(super) fn fail(&self, version: &Version, why: &str) -> anyhow::Result<()> {
        let mut state = self.state();
        fail(&mut state, version, why);
        if state
            .trial
            .as_ref()
            .is_some_and(|of| of.version == *version)
        {
            state.trial = None;
        }
        if state.kept.as_ref() == Some(version) {
            state.kept = None;
        }
        self.write(&state)
    }

    /// The version that failed last.
    pub(super) fn failed(&self) -> Option<Failed> {
        self.state().failed
    }

    /// Removes all that is of no version that may run.
    fn sweep(&self, state: &State) {
        let named: Vec<String> = [
            state.trial.as_ref().map(|of| &of.version),
            state.kept.as_ref(),
        ]
        .into_iter()
        .flatten()
        .map(Version::to_string)
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

fn fail(state: &mut State, version: &Version, why: &str) {
    error!(%version, why, "this version is rolled back");
    let before = state.failed.take().filter(|of| of.version == *version);
    state.failed = Some(Failed {
        version: version.clone(),
        why: why.to_owned(),
        times: before.map_or(0, |of| of.times).saturating_add(1),
        at: machine::wall(),
    });
}

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} on {}: {}", self.version, self.at, self.why)
    }
}

impl Failed {
    /// Whether it may be tried once more.
    pub(super) fn may_try(&self, now: UnixMillis) -> bool {
        self.times < TIMES && (now >= self.at + AGAIN_AFTER || now < self.at)
    }
}

/// Whether a program runs here at all, and says that it is this version.
async fn says(program: &Path, version: &Version) -> anyhow::Result<()> {
    const WITHIN: Duration = Duration::from_secs(10);
    const LOOK: Duration = Duration::from_millis(50);
    let mut child = std::process::Command::new(program)
        .arg("version")
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .context("the program does not run here")?;
    let mut waited = Duration::ZERO;
    let ended = loop {
        if let Some(ended) = child.try_wait()? {
            break ended;
        }
        if waited >= WITHIN {
            child.kill().ok();
            child.wait().ok();
            anyhow::bail!("the program does not say its version");
        }
        tokio::time::sleep(LOOK).await;
        waited += LOOK;
    };
    let mut said = String::new();
    if let Some(out) = child.stdout {
        std::io::Read::read_to_string(&mut std::io::Read::take(out, 1_024), &mut said).ok();
    }
    ensure!(
        ended.success() && said.trim_end() == format!("denyut-agent {version}"),
        "the program says {:?}, and not that it is {version}",
        said.trim_end()
    );
    Ok(())
}
