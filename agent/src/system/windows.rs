//! Windows.

use super::{Gateway, Over, Request};
use crate::config::Config;
use crate::update::{self, Newer};
use anyhow::Context;
use denyut_proto::Goodbye;
use denyut_windows::{Asked, EventLog, Level};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::{ExitCode, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::windows::named_pipe::{
    ClientOptions, NamedPipeClient, NamedPipeServer, ServerOptions,
};
use tokio::process::Command;
use tokio::signal::windows::{CtrlBreak, CtrlC, ctrl_break, ctrl_c};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tracing::{Metadata, info};
use tracing_subscriber::fmt::MakeWriter;

/// What lies in the data folder is the service's, by the folder's rights.
pub(crate) fn is_ours(_: &Path) -> bool {
    true
}

/// This program, a newer one, has stood its trial: the installed one, which runs it, looks for itself.
pub(crate) fn stood_trial() {}

pub(crate) use denyut_windows::{
    hostname, name_server, neighbour, private_folder, sync_folder, uptime,
};

/// The folder of all that is the agent's and may change.
pub(crate) fn folder() -> PathBuf {
    denyut_windows::program_data()
        .unwrap_or_else(|| r"C:\ProgramData".into())
        .join("denyut")
}

/// Where the configuration is unless the user says otherwise.
pub(crate) fn default_config() -> PathBuf {
    folder().join("agent.toml")
}

/// Where the agent keeps its data unless the configuration says otherwise.
pub(crate) fn default_data_dir() -> PathBuf {
    folder().join("data")
}

/// An id that is another after each start of the machine.
pub(crate) fn boot_id() -> anyhow::Result<[u8; 16]> {
    denyut_windows::boot_id().context("cannot keep this start's id in the registry")
}

/// The gateway of the card with the lowest metric.
pub(crate) fn default_gateway() -> Option<Gateway> {
    let found = denyut_windows::default_gateway()?;
    Some(Gateway {
        address: found.address,
        scope: found.scope,
    })
}

/// Makes a file that is not there yet. Who may read it, its folder says.
pub(crate) fn private_file(path: &Path) -> io::Result<File> {
    File::create_new(path)
}

/// Makes a file that is not there yet. Who may run it, its folder says.
pub(crate) fn program_file(path: &Path) -> io::Result<File> {
    File::create_new(path)
}

/// The exit code of a newer program that hands back; no panic's, and none of the system's own.
const BACK: u8 = 75;
/// How long a newer program may take to stop.
const STOPS_WITHIN: Duration = Duration::from_secs(15);

/// Runs the agent of a newer program, and passes on to it what the system asks of this one, until it ends.
pub(crate) async fn hand_over(
    this: &Path,
    newer: &Newer,
    config: &Config,
    requests: &mut Requests,
) -> anyhow::Result<Over> {
    /// The system's `DETACHED_PROCESS`: a console that closes does not end it.
    const DETACHED: u32 = 8;
    let hangs = update::hangs(config, newer);
    let is_service = matches!(requests, Requests::Service(_));
    let mut command = Command::new(&newer.program);
    match requests {
        Requests::Console(..) => command.arg("run"),
        Requests::Service(_) => command
            .args(["service", "stand-in"])
            .stdin(Stdio::piped())
            .creation_flags(DETACHED),
    };
    let mut child = command
        .arg("--config")
        .arg(&config.file)
        .env(update::INSTALLED, this)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("cannot run {}", newer.program.display()))?;
    let mut input = child.stdin.take();
    let mut hangs = pin!(hangs);
    loop {
        let asked = tokio::select! {
            // A service is not over because its work ended by itself.
            ended = child.wait() => return Ok(match over(ended?) {
                Over::Stopped if is_service => Over::Broke("it ended unasked".to_owned()),
                other => other,
            }),
            () = &mut hangs => {
                child.kill().await?;
                return Ok(Over::Broke("it does not turn any more".to_owned()));
            }
            asked = requests.asked() => asked,
        };
        // One that is gone hears nothing; its end is what is seen next.
        if let Some(input) = &mut input {
            let line = format!("{}\n", asked.as_str());
            input.write_all(line.as_bytes()).await.ok();
            input.flush().await.ok();
        }
        if matches!(asked, Asked::Stop | Asked::Shutdown) {
            if tokio::time::timeout(STOPS_WITHIN, child.wait())
                .await
                .is_err()
            {
                child.kill().await?;
            }
            return Ok(Over::Stopped);
        }
    }
}

fn over(ended: ExitStatus) -> Over {
    match ended.code() {
        Some(0) => Over::Stopped,
        Some(code) if code == i32::from(BACK) => Over::Back,
        _ => Over::Broke(format!("it ended with {ended}")),
    }
}

/// What the installed program, which runs this one, passes on of what the system asks.
pub(crate) fn passed_on() -> UnboundedReceiver<Asked> {
    let (asks, asked) = unbounded_channel();
    std::thread::spawn(move || {
        let words = io::stdin().lines().map_while(Result::ok);
        for asked in words.filter_map(|word| Asked::of(&word)) {
            // Nobody listens any more: it has stopped.
            asks.send(asked).ok();
        }
        // The installed program is gone, and with it who could ask this one to stop. It was killed, most likely; so this is no goodbye. And whatever
        // hangs must not keep the next start from the data folder.
        std::process::exit(1);
    });
    asked
}

/// Ends this program so that the installed one, which runs it, goes on.
#[expect(
    clippy::unnecessary_wraps,
    reason = "elsewhere it takes the place of this process"
)]
pub(crate) fn hand_back(_: &Path, _: &Path) -> anyhow::Result<ExitCode> {
    Ok(ExitCode::from(BACK))
}

/// Where a running agent is asked for its status: a pipe whose name, drawn anew each time, is told to who may read the data folder.
#[derive(Debug)]
pub(crate) struct StatusDoor {
    name: String,
    next: NamedPipeServer,
}

fn name_file(data_dir: &Path) -> PathBuf {
    data_dir.join("status.pipe")
}

impl StatusDoor {
    /// Opens it.
    pub(crate) fn open(data_dir: &Path) -> io::Result<Self> {
        let name = format!(r"\\.\pipe\denyut-agent-{}", uuid::Uuid::new_v4().simple());
        let next = ServerOptions::new()
            .first_pipe_instance(true)
            .access_inbound(false)
            .create(&name)?;
        std::fs::write(name_file(data_dir), &name)?;
        Ok(Self { name, next })
    }

    /// The next who asks.
    pub(crate) async fn accept(&mut self) -> io::Result<NamedPipeServer> {
        self.next.connect().await?;
        let next = ServerOptions::new()
            .access_inbound(false)
            .create(&self.name)?;
        Ok(std::mem::replace(&mut self.next, next))
    }
}

/// Asks the agent of this data folder.
pub(crate) async fn knock(data_dir: &Path) -> io::Result<NamedPipeClient> {
    /// The system's `ERROR_PIPE_BUSY`: the agent is about to make the next instance.
    const BUSY: i32 = 231;
    let name = std::fs::read_to_string(name_file(data_dir))?;
    loop {
        match ClientOptions::new().write(false).open(&name) {
            Err(error) if error.raw_os_error() == Some(BUSY) => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            opened => return opened,
        }
    }
}

/// What the system asks of this process.
#[derive(Debug)]
pub(crate) enum Requests {
    /// By a console.
    Console(CtrlC, CtrlBreak),
    /// By the service manager.
    Service(UnboundedReceiver<Asked>),
}

impl Requests {
    /// Listens from now on.
    pub(crate) fn listen() -> io::Result<Self> {
        Ok(Self::Console(ctrl_c()?, ctrl_break()?))
    }

    /// The next one.
    pub(crate) async fn next(&mut self) -> Request {
        loop {
            match self.asked().await {
                Asked::Stop => {
                    info!("asked to stop");
                    return Request::Stop(Goodbye::Stopped);
                }
                Asked::Shutdown => {
                    info!("the machine shuts down: stopping");
                    return Request::Stop(Goodbye::Shutdown);
                }
                Asked::Suspend => {
                    info!("the machine goes to sleep");
                    return Request::Suspend;
                }
                Asked::Resume => info!("the machine is awake"),
            }
        }
    }

    /// The same as the system puts it.
    async fn asked(&mut self) -> Asked {
        match self {
            Self::Console(interrupt, broken) => {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = broken.recv() => {}
                }
                Asked::Stop
            }
            // Nobody who asks is left.
            Self::Service(asked) => asked.recv().await.unwrap_or(Asked::Stop),
        }
    }
}

/// The service manager knows it by the service's state.
pub(crate) fn tell_ready() {}

/// The service manager does not ask.
pub(crate) fn tell_alive() {}

/// The service manager knows it by the service's state.
pub(crate) fn tell_stopping() {}

/// The service manager does not ask.
pub(crate) fn alive_within() -> Option<Duration> {
    None
}

/// A log that goes to the Event Log, line by line.
#[derive(Debug, Clone)]
pub(crate) struct ToEventLog(Arc<EventLog>);

impl ToEventLog {
    pub(crate) fn open() -> io::Result<Self> {
        Ok(Self(Arc::new(EventLog::open()?)))
    }
}

/// One event; reported when dropped.
#[derive(Debug)]
pub(crate) struct Line {
    log: Arc<EventLog>,
    level: Level,
    text: Vec<u8>,
}

impl io::Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.log
            .report(self.level, String::from_utf8_lossy(&self.text).trim_end());
    }
}

impl<'a> MakeWriter<'a> for ToEventLog {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        self.line(Level::Information)
    }

    fn make_writer_for(&'a self, about: &Metadata<'_>) -> Line {
        self.line(match *about.level() {
            tracing::Level::ERROR => Level::Error,
            tracing::Level::WARN => Level::Warning,
            _ => Level::Information,
        })
    }
}

impl ToEventLog {
    fn line(&self, level: Level) -> Line {
        Line {
            log: Arc::clone(&self.0),
            level,
            text: Vec::new(),
        }
    }
}
