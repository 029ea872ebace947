//! The agent and the collector as child processes.

use crate::program;
use denyut_proto::Invitation;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use tempfile::TempDir;

/// A child process that does not outlive its owner. What it writes to stderr lies in a file, and is shown when
/// a test fails.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    pub(crate) fn start(mut command: Command, log: &Path) -> Self {
        let file = fs::File::options()
            .create(true)
            .append(true)
            .open(log)
            .expect("opens the log");
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(file)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        Self {
            child,
            log: log.to_owned(),
        }
    }

    /// What it writes to stdout.
    pub(crate) fn output(&mut self) -> std::process::ChildStdout {
        self.child.stdout.take().expect("it is piped")
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("the process is there");
    }

    fn end(&mut self, signal: Signal) -> ExitStatus {
        self.signal(signal);
        self.child.wait().expect("the process ends")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            self.child.kill().ok();
            self.child.wait().ok();
        }
        if std::thread::panicking() {
            let text = fs::read_to_string(&self.log).unwrap_or_default();
            eprintln!("--- {}\n{text}", self.log.display());
        }
    }
}

/// A command that runs in this network namespace, or here.
fn command(namespace: Option<&str>, name: &str) -> Command {
    match namespace {
        None => Command::new(program(name)),
        Some(namespace) => {
            let mut command = Command::new("ip");
            command
                .args(["netns", "exec", namespace])
                .arg(program(name));
            command
        }
    }
}

/// A running collector. Its ports stay the same over restarts.
#[derive(Debug)]
pub struct Collector {
    process: Option<Process>,
    /// Its configuration, data and log.
    pub dir: TempDir,
    config: String,
    /// What an administrator's program asks by; made at the first start.
    pub token: String,
    /// Where agents connect.
    pub ingest: SocketAddr,
    /// Where the API is.
    pub api: SocketAddr,
}

impl Collector {
    /// Starts one on loopback; `rest` is its configuration but for the data folder and the two addresses.
    pub async fn start(rest: &str) -> Self {
        Self::start_at("127.0.0.1:0", "", rest).await
    }

    /// Starts one that listens for agents at `ingest`, with more keys for that section.
    pub async fn start_at(ingest: &str, ingest_keys: &str, rest: &str) -> Self {
        crate::install_crypto();
        let dir = tempfile::tempdir().expect("tempdir");
        let config = format!(
            "data_dir = \"{}/data\"\n[calendar]\nhours = \"always\"\n[ingest]\nlisten = \"INGEST\"\n{ingest_keys}\n[api]\nlisten = \"API\"\naddress = \"https://denyut.example\"\n{rest}\n",
            dir.path().display()
        );
        let mut collector = Self {
            process: None,
            dir,
            config,
            token: String::new(),
            ingest: ingest.parse().expect("an address"),
            api: "127.0.0.1:0".parse().expect("an address"),
        };
        collector.launch().await;
        collector
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        let process = self.process.as_ref().expect("it runs");
        process.child.id()
    }

    /// Starts it again on the same data and ports.
    pub async fn launch(&mut self) {
        let config = self
            .config
            .replace("INGEST", &self.ingest.to_string())
            .replace("API", &self.api.to_string());
        let path = self.dir.path().join("collector.toml");
        fs::write(&path, config).expect("writes the configuration");
        let mut command = command(None, "denyut-collector");
        command.args(["serve", "--config"]).arg(&path);
        let mut process = Process::start(command, &self.dir.path().join("collector.log"));
        let stdout = process.child.stdout.take().expect("piped");
        // One line tells the addresses; a process that ends instead closes its end.
        let line = BufReader::new(stdout).lines().next();
        let Some(Ok(line)) = line else {
            panic!("the collector did not start: {:?}", process.child.wait());
        };
        let words: Vec<&str> = line.split_whitespace().collect();
        let address = |url: &str| {
            let bare = url
                .trim_start_matches("https://")
                .trim_start_matches("http://");
            bare.trim_end_matches('/').parse().expect("an address")
        };
        self.api = address(words[1]);
        self.ingest = address(words[3]);
        self.process = Some(process);
        let ready = || async {
            let answer = reqwest::get(format!("http://{}/-/ready", self.api)).await;
            answer.ok()?.error_for_status().ok().map(drop)
        };
        crate::eventually(
            "the collector is ready",
            std::time::Duration::from_secs(30),
            ready,
        )
        .await;
        // The first start, or one on other data.
        if self.token.is_empty() || self.get("/api/v1/me").await.is_none() {
            let scopes = ["read", "operate", "admin", "metrics"].map(|scope| ["--scope", scope]);
            self.token = self.token_of(&["token", "create", "harness"], &scopes.concat());
        }
    }

    /// A token, made by a command.
    pub fn token_of(&self, create: &[&str], more: &[&str]) -> String {
        let made = self.ctl(&[create, more].concat());
        let text = String::from_utf8_lossy(&made.stdout).trim().to_owned();
        assert!(text.starts_with("denyut_"), "{}", crate::said(&made));
        text
    }

    /// Changes its configuration from the next start on: this text to that.
    pub fn configure(&mut self, from: &str, to: &str) {
        assert!(self.config.contains(from), "{}", self.config);
        self.config = self.config.replace(from, to);
    }

    /// Ends it by SIGKILL.
    pub fn kill(&mut self) {
        self.process.take().expect("runs").end(Signal::KILL);
    }

    /// Ends it by SIGTERM; it must end well.
    pub fn terminate(&mut self) {
        let status = self.process.take().expect("runs").end(Signal::TERM);
        assert!(status.success(), "{status}");
    }

    /// Whether the process runs.
    pub fn runs(&mut self) -> bool {
        let process = self.process.as_mut().expect("was started");
        process.child.try_wait().expect("can be asked").is_none()
    }

    /// A request of an administrator's program.
    pub fn request(&self, method: reqwest::Method, path: &str) -> reqwest::RequestBuilder {
        let url = format!("http://{}{path}", self.api);
        let request = reqwest::Client::new().request(method, url);
        request.bearer_auth(&self.token)
    }

    /// What comes of a POST: the status, and the JSON.
    pub async fn post(&self, path: &str, body: &Value) -> (reqwest::StatusCode, Value) {
        let request = self.request(reqwest::Method::POST, path).json(body);
        let answer = request.send().await.expect("it answers");
        let status = answer.status();
        (status, answer.json().await.unwrap_or_default())
    }

    /// What comes of a POST by somebody at the collector's machine.
    pub async fn post_as(
        &self,
        by: &str,
        path: &str,
        body: &Value,
    ) -> (reqwest::StatusCode, Value) {
        let client = reqwest::Client::builder()
            .unix_socket(self.dir.path().join("data/control"))
            .build();
        let request = client
            .expect("a client")
            .post(format!("http://localhost{path}"));
        let answer = request
            .header("denyut-by", by.as_bytes())
            .json(body)
            .send()
            .await;
        let answer = answer.expect("it answers");
        let status = answer.status();
        (status, answer.json().await.unwrap_or_default())
    }

    /// The body of a successful GET; `None` when it fails.
    pub async fn get(&self, path: &str) -> Option<String> {
        let answer = self.request(reqwest::Method::GET, path).send().await.ok()?;
        let answer = answer.error_for_status().ok()?;
        answer.text().await.ok()
    }

    /// The JSON of a GET that must succeed.
    pub async fn json(&self, path: &str) -> Value {
        let body = self.get(path).await;
        let body = body.unwrap_or_else(|| panic!("GET {path} failed"));
        serde_json::from_str(&body).unwrap_or_else(|error| panic!("GET {path}: {error}: {body}"))
    }

    /// A counter or gauge of `/metrics`.
    pub async fn metric(&self, name: &str) -> u64 {
        let text = self.get("/metrics").await.expect("metrics");
        let line = text
            .lines()
            .find(|line| line.split([' ', '{']).next() == Some(name));
        let line = line.unwrap_or_else(|| panic!("no metric {name} in\n{text}"));
        line.rsplit(' ')
            .next()
            .and_then(|value| value.parse().ok())
            .expect("a whole number")
    }

    /// All raw samples of a link.
    pub async fn samples(&self, office: &str, agent: &str, target: &str) -> Vec<Value> {
        let path = format!("/api/v1/offices/{office}/links/{agent}/{target}/samples");
        let answer = self.json(&path).await;
        assert_eq!(
            answer["next_from_ms"],
            Value::Null,
            "more samples than one answer holds"
        );
        answer["samples"].as_array().expect("a list").clone()
    }

    /// Runs one of its commands on its configuration.
    pub fn operate(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(program("denyut-collector"));
        command.args(arguments).arg("--config");
        let output = command.arg(self.dir.path().join("collector.toml")).output();
        output.expect("runs")
    }

    /// Runs `denyutctl` through its socket.
    pub fn ctl(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(program("denyutctl"));
        command
            .arg("--socket")
            .arg(self.dir.path().join("data/control"));
        let output = command.args(arguments).env("DENYUT_BY", "harness").output();
        output.expect("runs")
    }

    /// The invitation that an operator gets for a machine of office 36.73.02.
    pub fn invite(&self, more: &[&str]) -> Invitation {
        let create = [&["invitation", "create", "--office", "36.73.02"], more].concat();
        let output = self.ctl(&create);
        let line = String::from_utf8_lossy(&output.stdout).into_owned();
        let word = line.split('\'').nth(1);
        let word = word.unwrap_or_else(|| panic!("{}", crate::said(&output)));
        word.parse().expect("an invitation")
    }

    /// Everything that it logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("collector.log")).unwrap_or_default()
    }
}

/// A running agent.
#[derive(Debug)]
pub struct Agent {
    process: Option<Process>,
    /// Its configuration, data and log.
    pub dir: TempDir,
    namespace: Option<String>,
}

impl Agent {
    /// Starts one with this configuration but for the data folder, in a namespace if one is named.
    pub fn start(namespace: Option<&str>, config: &str) -> Self {
        let mut agent = Self::prepare(namespace, config);
        agent.launch();
        agent
    }

    /// The same without its start.
    pub fn prepare(namespace: Option<&str>, config: &str) -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        // Top-level keys come before the first section. Unless a test says otherwise, everything is sent at once.
        let budget = if config.contains("[budget]") {
            ""
        } else {
            "[budget]\nkb_per_day = 0\n"
        };
        let data = dir.path().join("data");
        let config = format!("data_dir = \"{}\"\n{config}\n{budget}", data.display());
        fs::write(dir.path().join("agent.toml"), config).expect("writes the configuration");
        Self {
            process: None,
            dir,
            namespace: namespace.map(str::to_owned),
        }
    }

    /// Starts it again on the same data.
    pub fn launch(&mut self) {
        let mut command = command(self.namespace.as_deref(), "denyut-agent");
        command
            .args(["run", "--config"])
            .arg(self.dir.path().join("agent.toml"));
        self.process = Some(Process::start(command, &self.dir.path().join("agent.log")));
    }

    /// Ends it by SIGKILL.
    pub fn kill(&mut self) {
        self.process.take().expect("runs").end(Signal::KILL);
    }

    /// Ends it by SIGTERM; it must end well.
    pub fn terminate(&mut self) {
        let status = self.process.take().expect("runs").end(Signal::TERM);
        assert!(status.success(), "{status}");
    }

    /// Waits for its own end; whether that was a good one.
    pub fn ends(&mut self) -> bool {
        let mut process = self.process.take().expect("runs");
        process.child.wait().expect("it ends").success()
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("runs").child.id()
    }

    /// What `denyut-agent status --json` says; `None` when it does not answer.
    pub fn status(&self) -> Option<Value> {
        let output = Command::new(program("denyut-agent"))
            .args(["status", "--json", "--config"])
            .arg(self.dir.path().join("agent.toml"))
            .output()
            .expect("runs");
        output
            .status
            .success()
            .then(|| serde_json::from_slice(&output.stdout).expect("JSON"))
    }

    /// Everything that it logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("agent.log")).unwrap_or_default()
    }
}
