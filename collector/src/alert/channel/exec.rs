//! A program on this machine: a message comes as JSON on its standard input; it took it if it ends with 0.

use super::webhook::body;
use super::{Message, Sent, Undelivered};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

/// As much of what it writes to standard error is shown.
const SAID_MAX: u64 = 200;

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
            .spawn()
            .map_err(|error| later(format!("cannot run {}: {error}", self.program.display())))?;
        let (mut input, mut errors) = (child.stdin.take(), child.stderr.take());
        let body = body(message).to_string();
        let run = async {
            let write = async {
                if let Some(input) = &mut input {
                    // One that does not read it may still take the message.
                    input.write_all(body.as_bytes()).await.ok();
                }
                drop(input.take());
            };
            let read = async {
                let mut said = Vec::new();
                if let Some(errors) = errors.take() {
                    let mut some = errors.take(SAID_MAX);
                    some.read_to_end(&mut said).await.ok();
                    // What it says beyond that must not stop it.
                    tokio::io::copy(&mut some.into_inner(), &mut tokio::io::sink())
                        .await
                        .ok();
                }
                String::from_utf8_lossy(&said).trim().to_owned()
            };
            let ((), said, ended) = tokio::join!(write, read, child.wait());
            (said, ended)
        };
        let Ok((said, ended)) = tokio::time::timeout(self.timeout, run).await else {
            let most = humantime::format_duration(self.timeout);
            return Err(later(format!("it ran for more than {most} and was killed")));
        };
        let status = ended.map_err(|error| later(error.to_string()))?;
        if status.success() {
            return Ok(Sent::default());
        }
        let said: String = said.chars().filter(|c| !c.is_control()).collect();
        Err(later(format!("{status}: {said}")))
    }
}
