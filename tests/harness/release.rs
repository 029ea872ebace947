//! Newer versions of the agent, published as their makers would: signed by Debian's minisign, served by Debian's Caddy.

use crate::program;
use serde_json::json;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

/// A server with a manifest, and a key that signs it.
#[derive(Debug)]
pub struct Publisher {
    folder: TempDir,
    server: Child,
    /// Where its files are.
    pub url: String,
    /// Its public key.
    pub key: String,
    /// One that nobody trusts.
    pub strange_key: String,
}

impl Publisher {
    /// Starts one with a new key, which has published nothing yet.
    #[must_use]
    pub fn start() -> Self {
        let folder = tempfile::tempdir().expect("tempdir");
        let files = folder.path().join("files");
        fs::create_dir(&files).expect("makes");
        let free = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr());
        let address = free.expect("a port").to_string();
        let server = Command::new("caddy")
            .args(["file-server", "--listen", &address, "--root"])
            .arg(&files)
            .env("HOME", folder.path())
            .env("XDG_DATA_HOME", folder.path())
            .env("XDG_CONFIG_HOME", folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("Caddy is installed");
        let key = make_key(folder.path(), "release");
        let strange_key = make_key(folder.path(), "strange");
        Self {
            folder,
            server,
            url: format!("http://{address}"),
            key,
            strange_key,
        }
    }

    /// The configuration of an agent that takes its updates from here.
    #[must_use]
    pub fn section(&self, trial: &str) -> String {
        format!(
            "[update]\nmanifest = \"{}/manifest.json\"\nkey = \"{}\"\nevery = \"10s\"\ntrial = \"{trial}\"\n",
            self.url, self.key
        )
    }

    fn files(&self) -> PathBuf {
        self.folder.path().join("files")
    }

    /// Publishes this program as a version for this kind of system.
    pub fn publish(&self, version: &str, kind: &str, program: &Path) {
        self.publish_as(version, kind, program, "release");
    }

    /// The same, signed by a key that nobody trusts.
    pub fn publish_strange(&self, version: &str, kind: &str, program: &Path) {
        self.publish_as(version, kind, program, "strange");
    }

    fn publish_as(&self, version: &str, kind: &str, program: &Path, key: &str) {
        let name = format!("agent-{version}-{kind}");
        let bytes = fs::read(program).expect("reads");
        fs::write(self.files().join(&name), &bytes).expect("writes");
        let sum = Command::new("sha256sum").arg(program).output();
        let sum = String::from_utf8(sum.expect("runs").stdout).expect("text");
        let manifest = json!({
            "version": version,
            "notes": "what later versions of manifests say is no reason to refuse them",
            "programs": { kind: {
                "url": name,
                "bytes": bytes.len(),
                "sha256": sum.split(' ').next().expect("a sum"),
            } },
        });
        let (new, path) = (
            self.folder.path().join("manifest.json"),
            self.files().join("manifest.json"),
        );
        fs::write(&new, manifest.to_string()).expect("writes");
        let signed = Command::new("minisign")
            .args(["-S", "-W", "-s"])
            .arg(self.folder.path().join(format!("{key}.key")))
            .arg("-m")
            .arg(&new)
            .stdin(Stdio::null())
            .output()
            .expect("minisign is installed");
        assert!(signed.status.success(), "{}", crate::said(&signed));
        // First what is only looked at when there is a new manifest; an agent that reads between the two reads them again.
        let signature = |of: &Path| PathBuf::from(format!("{}.minisig", of.display()));
        fs::rename(signature(&new), signature(&path)).expect("renames");
        fs::rename(new, path).expect("renames");
    }

    /// Leaves half of what was published.
    pub fn cut(&self, version: &str, kind: &str) {
        let path = self.files().join(format!("agent-{version}-{kind}"));
        let bytes = fs::read(&path).expect("reads");
        fs::write(path, &bytes[..bytes.len() / 2]).expect("writes");
    }

    /// Changes one byte of what was published.
    pub fn spoil(&self, version: &str, kind: &str) {
        let path = self.files().join(format!("agent-{version}-{kind}"));
        let mut bytes = fs::read(&path).expect("reads");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(path, bytes).expect("writes");
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.server.kill().ok();
        self.server.wait().ok();
    }
}

fn make_key(folder: &Path, name: &str) -> String {
    let path = |ending: &str| folder.join(format!("{name}.{ending}"));
    let made = Command::new("minisign")
        .args(["-G", "-W", "-p"])
        .arg(path("pub"))
        .arg("-s")
        .arg(path("key"))
        .stdin(Stdio::null())
        .output()
        .expect("minisign is installed");
    assert!(made.status.success(), "{}", crate::said(&made));
    let public = fs::read_to_string(path("pub")).expect("reads");
    public.lines().nth(1).expect("a key").to_owned()
}

/// What manifests call the kind of system that this is.
#[must_use]
pub fn kind() -> String {
    format!("{}-linux", std::env::consts::ARCH)
}

/// Copies an agent that takes itself for another version, of as many characters.
pub fn other_version(of: &Path, version: &str, to: &Path) {
    let own = env!("CARGO_PKG_VERSION");
    assert_eq!(own.len(), version.len());
    let mut bytes = fs::read(of).expect("reads");
    let mut at = 0;
    while let Some(found) = bytes[at..]
        .windows(own.len())
        .position(|part| part == own.as_bytes())
    {
        at += found;
        bytes[at..at + own.len()].copy_from_slice(version.as_bytes());
    }
    write_program(to, &bytes);
}

/// Writes a file that can be run.
pub fn write_program(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).expect("writes");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("sets");
}

/// The agent as it was built.
#[must_use]
pub fn agent() -> PathBuf {
    program("denyut-agent")
}
