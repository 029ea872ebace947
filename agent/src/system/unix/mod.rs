//! Linux.

mod network;

pub(crate) use network::{default_gateway, name_server, neighbour};

use super::{Over, Request};
use crate::config::Config;
use crate::update::{self, Newer};
use anyhow::Context;
use denyut_proto::Goodbye;
use nix::unistd::alarm;
use sd_notify::NotifyState;
use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::info;

/// Where the configuration is unless the user says otherwise.
pub(crate) fn default_config() -> PathBuf {
    "/etc/denyut/agent.toml".into()
}

/// Where the agent keeps its data unless the configuration says otherwise.
pub(crate) fn default_data_dir() -> PathBuf {
    "/var/lib/denyut-agent".into()
}

/// Time since the machine started, suspend included; never set back.
pub(crate) fn uptime() -> Duration {
    let at = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(
        u64::try_from(at.tv_sec).unwrap_or(0),
        u32::try_from(at.tv_nsec).unwrap_or(0),
    )
}

/// The id that the kernel drew when the machine started.
pub(crate) fn boot_id() -> anyhow::Result<[u8; 16]> {
    const PATH: &str = "/proc/sys/kernel/random/boot_id";
    let text = std::fs::read_to_string(PATH).with_context(|| format!("cannot read {PATH}"))?;
    let id = uuid::Uuid::parse_str(text.trim())
        .with_context(|| format!("{PATH} holds no boot id: {:?}", text.trim()))?;
    Ok(id.into_bytes())
}

/// The machine's name.
pub(crate) fn hostname() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

/// Makes a folder, and those above it, that only its owner may write and its group may read.
pub(crate) fn private_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o750).create(path)
}

/// Makes a file that is not there yet, that only the owner of its folder may read: an administrator may write for the service's own user.
pub(crate) fn private_file(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    let owner = std::fs::metadata(path.parent().unwrap_or(Path::new(".")))?;
    if file.metadata()?.uid() != owner.uid() {
        fchown(&file, Some(owner.uid()), Some(owner.gid()))?;
    }
    Ok(file)
}

/// Makes a file that is not there yet, that only its owner may read and run.
pub(crate) fn program_file(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o700)
        .open(path)
}

/// Whether a file or folder is this user's own.
pub(crate) fn is_ours(path: &Path) -> bool {
    let owner = std::fs::metadata(path).map(|of| of.uid());
    owner.is_ok_and(|owner| owner == rustix::process::geteuid().as_raw())
}

/// Runs the agent of a newer program in place of this one, in the same process. One on trial that does not say in time how that ended is ended by the
/// kernel; who started it starts this one again, which counts that.
#[expect(
    clippy::unused_async,
    reason = "on Windows it waits for the program's end"
)]
pub(crate) async fn hand_over(
    this: &Path,
    newer: &Newer,
    config: &Config,
    _: &mut Requests,
) -> anyhow::Result<Over> {
    if let Some(trial) = newer.trial {
        let after = update::hangs_after(trial).as_secs();
        alarm::set(u32::try_from(after).unwrap_or(u32::MAX));
    }
    let mut command = agent_of(&newer.program, &config.file);
    // It returns only what went wrong.
    let error = command.env(update::INSTALLED, this).exec();
    alarm::cancel();
    Err(error).with_context(|| format!("cannot run {}", newer.program.display()))
}

/// This program, a newer one, has stood its trial.
pub(crate) fn stood_trial() {
    alarm::cancel();
}

/// Runs the agent of the installed program in place of this one.
pub(crate) fn hand_back(installed: &Path, config: &Path) -> anyhow::Result<ExitCode> {
    alarm::cancel();
    let error = agent_of(installed, config)
        .env_remove(update::INSTALLED)
        .exec();
    Err(error).with_context(|| format!("cannot run {}", installed.display()))
}

fn agent_of(program: &Path, config: &Path) -> Command {
    let mut command = Command::new(program);
    command.args(["run", "--config"]).arg(config);
    command
}

/// What was made or renamed in this folder is on the disk.
pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Where a running agent is asked for its status: a socket in its data folder.
#[derive(Debug)]
pub(crate) struct StatusDoor(UnixListener);

fn socket(data_dir: &Path) -> PathBuf {
    data_dir.join("status.sock")
}

impl StatusDoor {
    /// Opens it. The caller holds the data folder's lock, so one that is there is a dead agent's.
    pub(crate) fn open(data_dir: &Path) -> io::Result<Self> {
        let path = socket(data_dir);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        // The owner and the service's group.
        std::fs::set_permissions(&path, Permissions::from_mode(0o660))?;
        Ok(Self(listener))
    }

    /// The next who asks.
    pub(crate) async fn accept(&mut self) -> io::Result<UnixStream> {
        let (connection, _) = self.0.accept().await?;
        Ok(connection)
    }
}

/// Asks the agent of this data folder.
pub(crate) async fn knock(data_dir: &Path) -> io::Result<UnixStream> {
    UnixStream::connect(socket(data_dir)).await
}

/// What the system asks of this process.
#[derive(Debug)]
pub(crate) struct Requests {
    terminate: Signal,
    interrupt: Signal,
}

impl Requests {
    /// Listens from now on.
    pub(crate) fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// The next one.
    pub(crate) async fn next(&mut self) -> Request {
        tokio::select! {
            _ = self.terminate.recv() => info!("SIGTERM: stopping"),
            _ = self.interrupt.recv() => info!("interrupted: stopping"),
        }
        Request::Stop(Goodbye::Stopped)
    }
}

/// Tells the service manager that the agent runs. Without one nobody listens.
pub(crate) fn tell_ready() {
    tell(&[NotifyState::Ready]);
}

/// Tells the service manager that the agent is well: without that, in the time that [`alive_within`] says, it starts it anew.
pub(crate) fn tell_alive() {
    tell(&[NotifyState::Watchdog]);
}

/// Tells the service manager that the agent stops.
pub(crate) fn tell_stopping() {
    tell(&[NotifyState::Stopping]);
}

fn tell(state: &[NotifyState<'_>]) {
    // Nothing depends on it but the manager's view of us.
    if let Err(error) = sd_notify::notify(false, state) {
        tracing::debug!(%error, "the service manager was not told");
    }
}

/// The longest time that the service manager waits for [`tell_alive`]; `None` if it does not.
pub(crate) fn alive_within() -> Option<Duration> {
    let mut micros = 0;
    sd_notify::watchdog_enabled(false, &mut micros).then(|| Duration::from_micros(micros))
}
