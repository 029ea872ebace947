//! The harness: starts the real binaries on ports that the system chooses, talks to them over real sockets,
//! and ends them by process id.

pub mod browser;
pub mod hook;
pub mod machine;
pub mod member;
pub mod net;
pub mod peer;
pub mod process;
pub mod real;
pub mod release;
pub mod tls;
pub mod wine;

pub use process::{Agent, Collector};

use std::path::PathBuf;
use std::time::Duration;

/// Looks every 50 ms until `look` finds something; panics with `what` after `within`.
pub async fn eventually<T, F: Future<Output = Option<T>>>(
    what: &str,
    within: Duration,
    mut look: impl FnMut() -> F,
) -> T {
    let mut again = tokio::time::interval(Duration::from_millis(50));
    let give_up = tokio::time::Instant::now() + within;
    loop {
        again.tick().await;
        if let Some(found) = look().await {
            return found;
        }
        assert!(
            tokio::time::Instant::now() < give_up,
            "not within {within:?}: {what}"
        );
    }
}

/// What a program wrote, both ways.
pub fn said(output: &std::process::Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{}{}", text(&output.stdout), text(&output.stderr))
}

/// The agent as `deploy/build --profile dev` built it for another kind of machine; see [`made`].
pub fn agent_elsewhere(target: &str, name: &str) -> Option<PathBuf> {
    made(&format!("cross/{target}/debug/{name}"))
}

/// What `tests/run` makes before the tests, by its path below `target`; `None`, said loudly, where it is not there. With `CI` set that is a
/// failure.
pub fn made(path: &str) -> Option<PathBuf> {
    let native = program("denyut-agent");
    let folder = native.ancestors().nth(2).expect("target/<profile>/<name>");
    let path = folder.join(path);
    if path.exists() {
        return Some(path);
    }
    let text = format!(
        "*** SKIPPED: {} is not there: tests/run makes it ***",
        path.display()
    );
    eprintln!("{text}");
    assert!(std::env::var_os("CI").is_none(), "{text}");
    None
}

/// A program of this workspace, as built for these tests by `cargo build`.
pub fn program(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("it runs from a file");
    let mut folder = own.parent().expect("it lies in a folder");
    // target/<profile>/deps/<test>, or target/<profile>/<measure>.
    if folder.ends_with("deps") {
        folder = folder.parent().expect("it is target/<profile>");
    }
    let path = folder.join(name);
    assert!(
        path.exists(),
        "{} is not built: run `cargo build --workspace` first",
        path.display()
    );
    path
}

/// Makes *ring* the crypto provider of this process.
pub fn install_crypto() {
    // An error means that another test of this process did.
    rustls::crypto::ring::default_provider()
        .install_default()
        .ok();
}

/// The wall clock in Unix ms.
pub fn now_ms() -> i64 {
    denyut_proto::UnixMillis::from(std::time::SystemTime::now()).0
}

/// As many open files as the system lets this process have: each hand-played agent is a connection.
pub fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let most = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, most).expect("up to the maximum it may be raised");
}
