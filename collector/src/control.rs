//! The door for who is on the collector's machine: a socket in the data folder that only its user can open. It speaks the same API as the port; whoever
//! comes through it may do everything.

use anyhow::{Context, bail};
use reqwest::Method;
use serde_json::Value;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::net::UnixListener;
use tracing::warn;

/// A collector that starts is waited for.
const STARTS_WITHIN: Duration = Duration::from_secs(10);

/// The socket of a data folder.
fn path_of(data_dir: &Path) -> PathBuf {
    data_dir.join("control")
}

/// Listens; none if that is not possible: all else works without it.
pub(crate) fn bind(data_dir: &Path) -> Option<UnixListener> {
    let path = path_of(data_dir);
    // Ours alone, as the folder is locked: what is there is from a process that was killed.
    std::fs::remove_file(&path).ok();
    let bound = UnixListener::bind(&path).and_then(|listener| {
        std::fs::set_permissions(&path, Permissions::from_mode(0o600))?;
        Ok(listener)
    });
    bound
        .inspect_err(|error| {
            // A path of over 107 bytes, most likely.
            warn!(path = %path.display(), %error, "cannot listen there: `backup` needs the collector stopped, and `denyutctl` a token");
        })
        .ok()
}

/// Takes the socket away.
pub(crate) fn unbind(data_dir: &Path) {
    std::fs::remove_file(path_of(data_dir)).ok();
}

/// Asks the collector that runs on `data_dir`.
pub(crate) fn ask(
    data_dir: &Path,
    method: &Method,
    path: &str,
    body: Option<&Value>,
) -> anyhow::Result<Value> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(asked(data_dir, method, path, body))
}

async fn asked(
    data_dir: &Path,
    method: &Method,
    path: &str,
    body: Option<&Value>,
) -> anyhow::Result<Value> {
    // The client wants one, though nothing is encrypted here.
    rustls::crypto::ring::default_provider()
        .install_default()
        .ok();
    let socket = path_of(data_dir);
    // It trusts nobody, for it talks to nobody else.
    let client = reqwest::Client::builder()
        .unix_socket(socket.as_path())
        .tls_certs_only([])
        .build()?;
    let began = Instant::now();
    let answer = loop {
        let mut request = client.request(method.clone(), format!("http://localhost{path}"));
        if let Some(body) = body {
            request = request.json(body);
        }
        match request.send().await {
            // It is just starting: it claims its data before it listens.
            Err(error) if error.is_connect() && began.elapsed() < STARTS_WITHIN => {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            other => break other,
        }
    };
    let answer = answer.with_context(|| {
        format!(
            "a collector runs on {}, but did not answer at {}; run this as its user, and see its log",
            data_dir.display(),
            socket.display()
        )
    })?;
    let failed = !answer.status().is_success();
    let said: Value = answer
        .json()
        .await
        .context("the collector went away before it answered; see its log")?;
    if failed {
        bail!(
            "{}",
            said["detail"].as_str().unwrap_or("the collector refused")
        );
    }
    Ok(said)
}
