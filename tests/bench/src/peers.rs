//! The same samples through VictoriaMetrics and Prometheus (Debian's packages), by the protocol that both take: remote write.
//!
//! One series a link, its value the RTT in µs, or minus the reason's number for a failure.

use crate::measure::{cpu_of, disk_usage};
use crate::workload::{Nation, STEP_MS, TARGETS, agent_name};
use anyhow::{Context, bail, ensure};
use denyut_proto::Outcome;
use prost::Message;
use reqwest::{Client, RequestBuilder};
use serde::{Deserialize, Serialize};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

/// What a peer made of the samples.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Peer {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) samples: u64,
    pub(crate) seconds: f64,
    pub(crate) cpu_seconds: f64,
    pub(crate) bytes_at_rest: u64,
}

/// Steps of one request, and of one heartbeat beside it: five minutes.
pub(crate) const STEPS: i64 = 30;
/// Series of one request.
const SERIES: usize = 1_000;

#[derive(Clone, PartialEq, Message)]
struct WriteRequest {
    #[prost(message, repeated, tag = "1")]
    timeseries: Vec<TimeSeries>,
}

#[derive(Clone, PartialEq, Message)]
struct TimeSeries {
    #[prost(message, repeated, tag = "1")]
    labels: Vec<Label>,
    #[prost(message, repeated, tag = "2")]
    samples: Vec<Sample>,
}

#[derive(Clone, PartialEq, Message)]
struct Label {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    value: String,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Sample {
    #[prost(double, tag = "1")]
    value: f64,
    #[prost(int64, tag = "2")]
    timestamp: i64,
}

/// A server that does not outlive the benchmark.
struct Server {
    process: Child,
    address: String,
    client: Client,
    runtime: Runtime,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

impl Server {
    fn start(
        program: &str,
        arguments: &[String],
        folder: &Path,
        ready: &str,
    ) -> anyhow::Result<Self> {
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
        let arguments: Vec<String> = arguments
            .iter()
            .map(|argument| argument.replace("ADDRESS", &address))
            .collect();
        let log = std::fs::File::create(folder.join("log"))?;
        let process = Command::new(program)
            .args(&arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {program}; install Debian's package"))?;
        let client = Client::builder()
            .timeout(Duration::from_secs(600))
            .build()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let mut server = Self {
            process,
            address,
            client,
            runtime,
        };
        let give_up = Instant::now() + Duration::from_secs(60);
        while server.get(ready).is_err() {
            if Instant::now() > give_up || server.process.try_wait()?.is_some() {
                bail!(
                    "{program} does not get ready: {}",
                    std::fs::read_to_string(folder.join("log")).unwrap_or_default()
                );
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(server)
    }

    fn get(&self, path: &str) -> anyhow::Result<String> {
        let request = self.client.get(format!("http://{}{path}", self.address));
        self.send(request).context(path.to_owned())
    }

    fn post(&self, path: &str, body: Vec<u8>) -> anyhow::Result<String> {
        let request = self
            .client
            .post(format!("http://{}{path}", self.address))
            .header("Content-Encoding", "snappy")
            .header("Content-Type", "application/x-protobuf")
            .header("X-Prometheus-Remote-Write-Version", "0.1.0")
            .body(body);
        self.send(request).context(path.to_owned())
    }

    fn send(&self, request: RequestBuilder) -> anyhow::Result<String> {
        self.runtime.block_on(async {
            let answer = request.send().await?;
            let status = answer.status();
            let text = answer.text().await?;
            ensure!(status.is_success(), "{status}: {text}");
            Ok(text)
        })
    }

    /// Sends the nation's samples in the order of time; how many there were.
    fn feed(&self, path: &str, agents: usize, hours: i64) -> anyhow::Result<u64> {
        let mut nation = Nation::new(agents, 7);
        let label = |name: &str, value: String| Label {
            name: name.into(),
            value,
        };
        let names: Vec<Vec<Label>> = (0..agents)
            .flat_map(|agent| TARGETS.iter().map(move |(target, ..)| (agent, *target)))
            .map(|(agent, target)| {
                vec![
                    label("__name__", "denyut_rtt_us".into()),
                    label("agent", agent_name(agent)),
                    label("target", target.into()),
                ]
            })
            .collect();
        let mut count = 0;
        for _ in 0..hours * 3_600_000 / STEP_MS / STEPS {
            let mut series: Vec<Vec<Sample>> = vec![Vec::with_capacity(30); names.len()];
            for _ in 0..STEPS {
                nation.step(|agent, samples| {
                    for (i, sample) in samples.iter().enumerate() {
                        let value = match sample.outcome {
                            Outcome::Ok { rtt_us } => f64::from(rtt_us),
                            Outcome::Failed(failure) => -f64::from(failure.reason as u8),
                        };
                        series[agent * TARGETS.len() + i].push(Sample {
                            value,
                            timestamp: sample.at.0,
                        });
                        count += 1;
                    }
                });
            }
            let all: Vec<TimeSeries> = names
                .iter()
                .zip(series)
                .map(|(labels, samples)| TimeSeries {
                    labels: labels.clone(),
                    samples,
                })
                .collect();
            for part in all.chunks(SERIES) {
                let request = WriteRequest {
                    timeseries: part.to_vec(),
                };
                let body = snap::raw::Encoder::new().compress_vec(&request.encode_to_vec())?;
                self.post(path, body)?;
            }
        }
        Ok(count)
    }
}

fn version(program: &str) -> String {
    let output = Command::new(program).arg("--version").output();
    let text = output
        .map(|output| [output.stdout, output.stderr].concat())
        .unwrap_or_default();
    String::from_utf8_lossy(&text)
        .lines()
        .find(|line| !line.is_empty())
        .unwrap_or("?")
        .chars()
        .take(80)
        .collect()
}

/// Waits until a folder's size stays the same for a while.
fn settle(folder: &Path) -> u64 {
    let (mut size, mut since) = (disk_usage(folder), Instant::now());
    let give_up = Instant::now() + Duration::from_secs(120);
    while since.elapsed() < Duration::from_secs(5) && Instant::now() < give_up {
        std::thread::sleep(Duration::from_millis(500));
        let now = disk_usage(folder);
        if now != size {
            (size, since) = (now, Instant::now());
        }
    }
    size
}

pub(crate) fn victoria_metrics(agents: usize, hours: i64) -> anyhow::Result<Peer> {
    let folder = tempfile::tempdir()?;
    let data = folder.path().join("data");
    let arguments = [
        "-httpListenAddr=ADDRESS".to_owned(),
        format!("-storageDataPath={}", data.display()),
        "-retentionPeriod=100y".to_owned(),
        "-loggerLevel=WARN".to_owned(),
    ];
    let server = Server::start("victoria-metrics", &arguments, folder.path(), "/health")?;
    let before = cpu_of(server.process.id())?;
    let began = Instant::now();
    let samples = server.feed("/api/v1/write", agents, hours)?;
    server.get("/internal/force_flush")?;
    let seconds = began.elapsed().as_secs_f64();
    let cpu = cpu_of(server.process.id())?.saturating_sub(before);
    server.get("/internal/force_merge")?;
    let found = server.get("/api/v1/series/count")?;
    ensure!(
        found.contains(&(agents * TARGETS.len()).to_string()),
        "VictoriaMetrics has other series: {found}"
    );
    Ok(Peer {
        name: "VictoriaMetrics".into(),
        version: version("victoria-metrics"),
        samples,
        seconds,
        cpu_seconds: cpu.as_secs_f64(),
        bytes_at_rest: settle(&data),
    })
}

pub(crate) fn prometheus(agents: usize, hours: i64) -> anyhow::Result<Peer> {
    let folder = tempfile::tempdir()?;
    let data = folder.path().join("data");
    let config = folder.path().join("prometheus.yml");
    std::fs::write(&config, "global: {}\n")?;
    let arguments = [
        "--web.listen-address=ADDRESS".to_owned(),
        format!("--config.file={}", config.display()),
        format!("--storage.tsdb.path={}", data.display()),
        "--storage.tsdb.retention.time=100y".to_owned(),
        "--web.enable-remote-write-receiver".to_owned(),
        "--web.enable-admin-api".to_owned(),
        "--log.level=error".to_owned(),
    ];
    let server = Server::start("prometheus", &arguments, folder.path(), "/-/ready")?;
    let before = cpu_of(server.process.id())?;
    let began = Instant::now();
    let samples = server.feed("/api/v1/write", agents, hours)?;
    let seconds = began.elapsed().as_secs_f64();
    let cpu = cpu_of(server.process.id())?.saturating_sub(before);
    // All of it as blocks, the head too: what it takes at rest.
    server.post("/api/v1/admin/tsdb/snapshot", Vec::new())?;
    Ok(Peer {
        name: "Prometheus".into(),
        version: version("prometheus"),
        samples,
        seconds,
        cpu_seconds: cpu.as_secs_f64(),
        bytes_at_rest: settle(&data.join("snapshots")),
    })
}
