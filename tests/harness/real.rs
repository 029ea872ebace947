//! Real peers that messages go to: Debian's Alertmanager, a Matrix homeserver, a mail server. Each is on loopback, with its data in a folder of its own, and ends with its owner.

use crate::process::Process;
use crate::{eventually, made};
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

const READY: Duration = Duration::from_secs(60);

/// Debian's Alertmanager.
#[derive(Debug)]
pub struct Alertmanager {
    _process: Process,
    _dir: TempDir,
    /// Where its API is.
    pub address: SocketAddr,
}

impl Alertmanager {
    /// Starts one that tells a webhook what it groups by these labels, after this wait.
    pub async fn start(hook: &str, group_by: &str, group_wait: &str) -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        let config = format!(
            "route:\n  receiver: hook\n  group_by: [{group_by}]\n  group_wait: {group_wait}\n  group_interval: 1s\n  repeat_interval: 1h\n\
             receivers:\n  - name: hook\n    webhook_configs:\n      - url: \"{hook}\"\n        send_resolved: true\n"
        );
        fs::write(dir.path().join("am.yml"), config).expect("writes");
        let mut command = Command::new("prometheus-alertmanager");
        let at = dir.path().display();
        command.args([
            &format!("--config.file={at}/am.yml"),
            &format!("--storage.path={at}/data"),
            "--web.listen-address=127.0.0.1:0",
            "--cluster.listen-address=",
            "--web.external-url=http://127.0.0.1:1/",
        ]);
        let log = dir.path().join("log");
        let process = Process::start(command, &log);
        let look = || async { listening(&log) };
        let address = eventually("the Alertmanager listens", READY, look).await;
        Self {
            _process: process,
            _dir: dir,
            address,
        }
    }

    /// Its alerts.
    pub async fn alerts(&self) -> Vec<Value> {
        let url = format!("http://{}/api/v2/alerts", self.address);
        let answer = reqwest::get(url).await.expect("answers");
        answer.json().await.expect("JSON")
    }
}

/// Debian's Prometheus; with blackbox_exporter it probes targets by TCP.
#[derive(Debug)]
pub struct Prometheus {
    _processes: Vec<Process>,
    dir: TempDir,
    /// Where its API is.
    pub address: SocketAddr,
}

impl Prometheus {
    /// Starts both: each target is probed every 10 s, and one that fails for so long is an alert to this Alertmanager.
    pub async fn start(targets: &[SocketAddr], fails_for: &str, to: &Alertmanager) -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        let at = dir.path().display();
        let write =
            |name: &str, text: String| fs::write(dir.path().join(name), text).expect("writes");
        write(
            "bb.yml",
            "modules:\n  tcp_connect:\n    prober: tcp\n    timeout: 5s\n".to_owned(),
        );
        let mut command = Command::new("prometheus-blackbox-exporter");
        command.args([
            &format!("--config.file={at}/bb.yml"),
            "--web.listen-address=127.0.0.1:0",
        ]);
        let log = dir.path().join("bb.log");
        let blackbox = Process::start(command, &log);
        let look = || async { listening(&log) };
        let exporter = eventually("blackbox_exporter listens", READY, look).await;
        let targets: Vec<String> = targets.iter().map(|target| format!("'{target}'")).collect();
        write(
            "prom.yml",
            format!(
                "global: {{ scrape_interval: 10s, evaluation_interval: 10s }}\n\
                 alerting: {{ alertmanagers: [ {{ static_configs: [ {{ targets: ['{}'] }} ] }} ] }}\n\
                 rule_files: [ rules.yml ]\n\
                 scrape_configs:\n  - job_name: blackbox\n    metrics_path: /probe\n    params: {{ module: [tcp_connect] }}\n    static_configs: [ {{ targets: [{}] }} ]\n    relabel_configs:\n      - {{ source_labels: [__address__], target_label: __param_target }}\n      - {{ source_labels: [__param_target], target_label: instance }}\n      - {{ target_label: __address__, replacement: '{exporter}' }}\n",
                to.address,
                targets.join(", ")
            ),
        );
        write(
            "rules.yml",
            format!(
                "groups: [ {{ name: probes, rules: [ {{ alert: Down, expr: probe_success == 0, for: {fails_for} }} ] }} ]\n"
            ),
        );
        Self::launch(dir, vec![blackbox]).await
    }

    /// Starts one that reads the metrics of a program every second.
    pub async fn scraping(program: SocketAddr, token: &str) -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        let config = format!(
            "global: {{ scrape_interval: 1s }}\nscrape_configs: [ {{ job_name: denyut, authorization: {{ credentials: '{token}' }}, static_configs: [ {{ targets: ['{program}'] }} ] }} ]\n"
        );
        fs::write(dir.path().join("prom.yml"), config).expect("writes");
        Self::launch(dir, Vec::new()).await
    }

    /// Starts one that takes what it is sent by remote write, also if it is a day old, and asks nobody. `at`: where, if it must be there.
    pub async fn receiving(at: Option<SocketAddr>) -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        let config = "storage: { tsdb: { out_of_order_time_window: 2d } }\n";
        fs::write(dir.path().join("prom.yml"), config).expect("writes");
        Self::launch_at(at, dir, Vec::new()).await
    }

    async fn launch(dir: TempDir, processes: Vec<Process>) -> Self {
        Self::launch_at(None, dir, processes).await
    }

    async fn launch_at(to: Option<SocketAddr>, dir: TempDir, mut processes: Vec<Process>) -> Self {
        let at = dir.path().display();
        let mut command = Command::new("prometheus");
        let to = to.map_or_else(|| "127.0.0.1:0".to_owned(), |to| to.to_string());
        command.args([
            &format!("--config.file={at}/prom.yml"),
            &format!("--storage.tsdb.path={at}/data"),
            &format!("--web.listen-address={to}"),
            "--web.enable-remote-write-receiver",
        ]);
        let log = dir.path().join("prom.log");
        processes.push(Process::start(command, &log));
        let look = || async { listening(&log) };
        let address = eventually("Prometheus listens", READY, look).await;
        Self {
            _processes: processes,
            dir,
            address,
        }
    }

    /// The series that a query finds now.
    pub async fn query(&self, query: &str) -> Vec<Value> {
        let url = format!("http://{}/api/v1/query", self.address);
        let asked = reqwest::Client::new().post(url);
        let asked = asked.header("content-type", "application/x-www-form-urlencoded");
        let answer = asked.body(format!("query={query}")).send().await;
        let answer: Value = answer.expect("answers").json().await.expect("JSON");
        let found = answer["data"]["result"].as_array();
        found
            .unwrap_or_else(|| panic!("{answer} ({})", self.dir.path().display()))
            .clone()
    }
}

/// The address in the log of a program of Prometheus's family.
fn listening(log: &Path) -> Option<SocketAddr> {
    let text = fs::read_to_string(log).ok()?;
    let line = text
        .lines()
        .find(|line| line.contains("msg=\"Listening on\""))?;
    let (_, behind) = line.split_once("address=")?;
    behind.split_whitespace().next()?.parse().ok()
}

/// A Matrix homeserver (Synapse), with one user in one room.
#[derive(Debug)]
pub struct Synapse {
    _process: Process,
    _dir: TempDir,
    /// Where it is.
    pub url: String,
    /// The user's key.
    pub token: String,
    /// The room's id.
    pub room: String,
}

impl Synapse {
    /// Starts one, if `tests/run` has installed it.
    pub async fn start() -> Option<Self> {
        crate::install_crypto();
        let python = made("python/bin/python")?;
        let dir = tempfile::tempdir().expect("tempdir");
        // It wants to know its port beforehand.
        let free = TcpListener::bind("127.0.0.1:0").expect("listens");
        let port = free.local_addr().expect("is bound").port();
        drop(free);
        let at = dir.path().display();
        let config = json!({
            "server_name": "localhost",
            "public_baseurl": format!("http://127.0.0.1:{port}/"),
            "pid_file": format!("{at}/pid"),
            "report_stats": false,
            "signing_key_path": format!("{at}/signing.key"),
            "media_store_path": format!("{at}/media"),
            "trusted_key_servers": [],
            "suppress_key_server_warning": true,
            "listeners": [{
                "port": port, "bind_addresses": ["127.0.0.1"], "type": "http", "tls": false,
                "resources": [{"names": ["client"], "compress": false}],
            }],
            "database": {"name": "sqlite3", "args": {"database": format!("{at}/db")}},
            "macaroon_secret_key": "only for this test",
            "form_secret": "only for this test",
            "enable_registration": true,
            "enable_registration_without_verification": true,
            "url_preview_enabled": false,
            "bcrypt_rounds": 4,
        });
        // JSON is YAML.
        fs::write(dir.path().join("homeserver.yaml"), config.to_string()).expect("writes");
        let key = Command::new(python.with_file_name("generate_signing_key"))
            .arg("-o")
            .arg(dir.path().join("signing.key"))
            .status();
        assert!(key.expect("runs").success());
        let mut command = Command::new(&python);
        command
            .args(["-m", "synapse.app.homeserver", "-c"])
            .arg(dir.path().join("homeserver.yaml"))
            .current_dir(dir.path());
        let process = Process::start(command, &dir.path().join("log"));
        let url = format!("http://127.0.0.1:{port}");
        let client = reqwest::Client::new();
        let health = || async {
            let answer = client.get(format!("{url}/health")).send().await.ok()?;
            answer.status().is_success().then_some(())
        };
        eventually("Synapse listens", READY, health).await;
        let call = |path: &'static str, token: Option<&str>, body: Value| {
            let mut request = client.post(format!("{url}/_matrix/client/v3/{path}"));
            if let Some(token) = token {
                request = request.bearer_auth(token);
            }
            async move {
                let answer = request.json(&body).send().await.expect("answers");
                let answer: Value = answer.json().await.expect("JSON");
                answer
            }
        };
        let user = json!({"username": "denyut", "password": "kata-sandi", "auth": {"type": "m.login.dummy"}});
        let user = call("register", None, user).await;
        let token = user["access_token"].as_str();
        let token = token.unwrap_or_else(|| panic!("no key: {user}")).to_owned();
        let room = json!({"preset": "private_chat", "name": "Gangguan"});
        let room = call("createRoom", Some(&token), room).await;
        let room = room["room_id"].as_str();
        let room = room.expect("a room").to_owned();
        Some(Self {
            _process: process,
            _dir: dir,
            url,
            token,
            room,
        })
    }

    /// The messages in the room, oldest first.
    pub async fn messages(&self) -> Vec<Value> {
        let path = format!(
            "{}/_matrix/client/v3/rooms/{}/messages?dir=f&limit=100",
            self.url, self.room
        );
        let request = reqwest::Client::new().get(path).bearer_auth(&self.token);
        let answer: Value = request
            .send()
            .await
            .expect("answers")
            .json()
            .await
            .expect("JSON");
        let events = answer["chunk"].as_array().expect("a list").iter();
        let messages = events.filter(|event| event["type"] == "m.room.message");
        messages.cloned().collect()
    }
}

/// A mail server (aiosmtpd).
#[derive(Debug)]
pub struct MailServer {
    _process: Process,
    dir: TempDir,
    /// Where it is.
    pub port: u16,
}

impl MailServer {
    /// Starts one, if `tests/run` has installed it; with a certificate, a key, a user and a password it wants STARTTLS and a login.
    pub fn start(secured: &[&str]) -> Option<Self> {
        let python = made("python/bin/python")?;
        let dir = tempfile::tempdir().expect("tempdir");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("harness/smtpd.py");
        let mut command = Command::new(python);
        command.arg(script).arg(dir.path()).args(secured);
        let mut process = Process::start(command, &dir.path().join("log"));
        let mut line = String::new();
        BufReader::new(process.output())
            .read_line(&mut line)
            .expect("reads");
        Some(Self {
            _process: process,
            port: line.trim().parse().expect("a port"),
            dir,
        })
    }

    /// The mails that it has, oldest first.
    #[must_use]
    pub fn mails(&self) -> Vec<Value> {
        let files = fs::read_dir(self.dir.path()).expect("reads");
        let mut files: Vec<_> = files.map(|file| file.expect("reads").path()).collect();
        files.retain(|path| path.extension().is_some_and(|ending| ending == "json"));
        files.sort();
        let read = |path| serde_json::from_slice(&fs::read(path).expect("reads")).expect("JSON");
        files.into_iter().map(read).collect()
    }
}
