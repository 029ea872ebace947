//! Windows.

use super::{Gateway, Request};
use anyhow::Context;
use denyut_proto::Goodbye;
use denyut_windows::{Asked, EventLog, Level};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::windows::named_pipe::{
    ClientOptions, NamedPipeClient, NamedPipeServer, ServerOptions,
};
use tokio::signal::windows::{CtrlBreak, CtrlC, ctrl_break, ctrl_c};
use tokio::sync::mpsc::UnboundedReceiver;
use tracing::{Metadata, info};
use tracing_subscriber::fmt::MakeWriter;

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
        match self {
            Self::Console(interrupt, broken) => {
                tokio::select! {
                    _ = interrupt.recv() => info!("interrupted: stopping"),
                    _ = broken.recv() => info!("interrupted: stopping"),
                }
                Request::Stop(Goodbye::Stopped)
            }
            Self::Service(asked) => loop {
                match asked.recv().await {
                    Some(Asked::Stop) | None => {
                        info!("the service manager: stopping");
                        return Request::Stop(Goodbye::Stopped);
                    }
                    Some(Asked::Shutdown) => {
                        info!("the machine shuts down: stopping");
                        return Request::Stop(Goodbye::Shutdown);
                    }
                    Some(Asked::Suspend) => {
                        info!("the machine goes to sleep");
                        return Request::Suspend;
                    }
                    Some(Asked::Resume) => info!("the machine is awake"),
                }
            },
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
