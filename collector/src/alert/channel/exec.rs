//! A program on this machine: a message comes as JSON on its standard input; it took it if it ends with 0.

use super::webhook::body;
use super::{Message, Sent, Undelivered};
use rustix::process::{Pid, Signal, kill_process_group};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use tokio::task::AbortHandle;

/// As much of what it writes to standard error is shown.
const SAID_MAX: usize = 200;
const LAST_WORDS: Duration = Duration::from_millis(200);

/// The program.
#[derive(Debug, Clone)]
pub(crate) struct Exec {
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<String>,
    /// It is killed after this.
    pub(crate) timeout: Duration,
}

impl Exec {
    /// Runs it once; it knows a message by `DENYUT_MESSAGE_ID`, which is the same each time.
    pub(super) async fn send(&self, message: &Message) -> Result<Sent, Undelivered> {
        let later = |why: String| Undelivered::Later(why, None);
        let mut child = Command::new(&self.program)
            .args(&self.arguments)
            // Nothing of ours: what it needs it is told by its arguments and its input.
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("LANG", "C.UTF-8")
            .env("DENYUT_MESSAGE_ID", &message.id)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            // It and what it starts end together.
            .process_group(0)
            .spawn()
            .map_err(|error| later(format!("cannot run {}: {error}", self.program.display())))?;
        let group = child
            .id()
            .and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        let body = body(message).to_string();
        if let Some(mut input) = child.stdin.take() {
            // One that does not read it may still take the message.
            tokio::spawn(async move { input.write_all(body.as_bytes()).await.ok() });
        }
        let said = Arc::new(Mutex::new(Vec::new()));
        let mut reader = None;
        if let Some(mut errors) = child.stderr.take() {
            let said = Arc::clone(&said);
            let read = tokio::spawn(async move {
                let mut part = [0; 1_024];
                // What it says beyond that must not stop it.
                while let Ok(read @ 1..) = errors.read(&mut part).await {
                    let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
                    let room = SAID_MAX.saturating_sub(said.len());
                    said.extend_from_slice(&part[..read.min(room)]);
                }
            });
            reader = Some(read.abort_handle());
        }
        let ended = tokio::time::timeout(self.timeout, child.wait()).await;
        if ended.is_err()
            && let Some(group) = group
        {
            kill_process_group(group, Signal::KILL).ok();
        }
        let Ok(ended) = ended else {
            child.wait().await.ok();
            let most = humantime::format_duration(self.timeout);
            return Err(later(format!("it ran for more than {most} and was killed")));
        };
        let status = ended.map_err(|error| later(error.to_string()))?;
        if status.success() {
            // What it left behind may hold on to it.
            reader.inspect(AbortHandle::abort);
            return Ok(Sent::default());
        }
        // What it said last is on its way yet.
        tokio::time::sleep(LAST_WORDS).await;
        reader.inspect(AbortHandle::abort);
        let said = said.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let said = String::from_utf8_lossy(&said);
        let said: String = said.chars().filter(|c| !c.is_control()).collect();
        Err(later(format!("{status}: {said}")))
    }
}
