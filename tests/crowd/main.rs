//! crowd: a nation of agents at one collector, over TLS. What one that says a thousand times too much does to the others, and how long all of
//! them take to come back after a restart.
//!
//! Each agent is a task with a certificate and a loopback address of its own; it says one heartbeat of one sample every 10 s, and comes back as
//! denyut-agent does: after a random wait of up to 1 s, doubled with each failure up to a minute. They share the machine with the collector, so
//! what they cost is in the figures.

use anyhow::{Context, ensure};
use clap::Parser;
use denyut_proto::wire::ingest_client::IngestClient;
use denyut_proto::wire::{self, AgentMessage, collector_message::Kind};
use denyut_proto::{AgentId, BootId};
use denyut_tests::peer::{entry, heartbeat, hello};
use denyut_tests::tls::Authority;
use prost::Message;
use serde_json::json;
use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

/// Measures a collector under a nation of agents
#[derive(Parser)]
struct Arguments {
    /// The collector to measure
    #[arg(long)]
    collector: PathBuf,
    #[arg(long, default_value_t = 8_000)]
    agents: usize,
    /// Seconds of each phase: calm, and with one agent that says a thousand times too much
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// The results as JSON
    #[arg(long, default_value = "target/crowd.json")]
    json: PathBuf,
}

const EVERY: Duration = Duration::from_secs(10);
/// Once nobody is missing, this long until it is asked whether anybody was paged for.
const AFTERMATH: Duration = Duration::from_secs(120);

/// What all agents share.
struct Crowd {
    port: u16,
    ca: Certificate,
    /// How often the collector was started.
    epoch: AtomicUsize,
    /// Agents with an acknowledgement of this epoch.
    back: AtomicUsize,
    /// From a heartbeat to its acknowledgement, of agents other than the first.
    waits: Mutex<Vec<Duration>>,
    /// The first agent says a thousand times too much.
    flood: AtomicBool,
}

impl Crowd {
    fn take_waits(&self) -> Vec<Duration> {
        let mut waits = self.waits.lock().unwrap_or_else(PoisonError::into_inner);
        let mut taken = std::mem::take(&mut *waits);
        taken.sort_unstable();
        taken
    }
}

struct Agent {
    number: usize,
    id: AgentId,
    identity: Identity,
    seq: u64,
    /// The epoch of its last acknowledgement.
    heard: usize,
}

impl Agent {
    fn boot(&self) -> BootId {
        let mut boot = [7; 16];
        boot[..8].copy_from_slice(&self.number.to_le_bytes());
        BootId(boot)
    }

    /// Its own loopback address: an office is not at the address of another.
    fn address(&self) -> IpAddr {
        let [.., a, b, c] = u32::try_from(self.number + 0x01_0000)
            .unwrap_or(0)
            .to_be_bytes();
        Ipv4Addr::new(127, a, b, c.max(1)).into()
    }

    async fn live(mut self, crowd: Arc<Crowd>) {
        let mut failures = 0_i32;
        loop {
            let began = Instant::now();
            self.session(&crowd).await.ok();
            failures = if began.elapsed() > Duration::from_secs(30) {
                1
            } else {
                failures + 1
            };
            let most = f64::from((failures - 1).min(6)).exp2().min(60.0);
            tokio::time::sleep(Duration::from_secs_f64(most * rand::random::<f64>())).await;
        }
    }

    async fn session(&mut self, crowd: &Crowd) -> anyhow::Result<()> {
        let tls = ClientTlsConfig::new()
            .ca_certificate(crowd.ca.clone())
            .identity(self.identity.clone())
            .domain_name("127.0.0.1");
        let channel = Endpoint::from_shared(format!("https://127.0.0.1:{}", crowd.port))?
            .local_address(Some(self.address()))
            .connect_timeout(Duration::from_secs(10))
            .tls_config(tls)?
            .connect()
            .await?;
        let (outgoing, outbound) = mpsc::channel(64);
        outgoing.send(hello(self.id.as_str(), self.boot())).await?;
        let mut inbound = IngestClient::new(channel)
            .stream(ReceiverStream::new(outbound))
            .await?
            .into_inner();
        let mut sent: Vec<(u64, Instant)> = Vec::new();
        let mut due = Instant::now();
        loop {
            let flooding = self.number == 0 && crowd.flood.load(Ordering::Relaxed);
            tokio::select! {
                message = inbound.message() => {
                    if let Some(Kind::Ack(ack)) = message?.context("the end")?.kind {
                        self.acknowledged(ack.seq, &mut sent, crowd);
                    }
                }
                () = tokio::time::sleep_until(due.into()) => {
                    self.seq += 1;
                    outgoing.send(self.heartbeat()).await?;
                    sent.push((self.seq, Instant::now()));
                    due += if flooding { EVERY / 1_000 } else { EVERY };
                }
            }
        }
    }

    fn heartbeat(&self) -> AgentMessage {
        let now = denyut_tests::now_ms();
        let bytes = heartbeat("server", &[now]);
        let mut beat = wire::Heartbeat::decode(&bytes[..]).unwrap_or_default();
        beat.interval_ms = 10_000;
        entry(self.seq, beat.encode_to_vec())
    }

    fn acknowledged(&mut self, seq: u64, sent: &mut Vec<(u64, Instant)>, crowd: &Crowd) {
        let now = Instant::now();
        let mut waits = Vec::new();
        sent.retain(|(of, at)| {
            if *of <= seq {
                waits.push(now - *at);
            }
            *of > seq
        });
        if self.number > 0 {
            crowd
                .waits
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .extend(waits);
        }
        let epoch = crowd.epoch.load(Ordering::Relaxed);
        if self.heard < epoch {
            self.heard = epoch;
            crowd.back.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The collector; ends with its owner.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn start(arguments: &Arguments, dir: &Path) -> anyhow::Result<Running> {
    let log = fs::File::options()
        .create(true)
        .append(true)
        .open(dir.join("log"))?;
    let child = Command::new(&arguments.collector)
        .args(["serve", "--config"])
        .arg(dir.join("collector.toml"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()?;
    Ok(Running(child))
}

fn free_port() -> anyhow::Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?
        .local_addr()?
        .port())
}

/// Configuration, certificates and the agents.
fn prepare(arguments: &Arguments, dir: &Path, ports: (u16, u16)) -> anyhow::Result<Vec<Agent>> {
    let tls = dir.join("tls");
    fs::create_dir(&tls)?;
    let authority = Authority::new(&tls);
    let mut config = format!(
        "data_dir = \"{0}/data\"\n[calendar]\nhours = \"always\"\n[ingest]\nlisten = \"127.0.0.1:{1}\"\nnames = [\"127.0.0.1\"]\n\
         ca = \"{0}/tls/ca.pem\"\nca_key = \"{0}/tls/ca.key\"\n[api]\nlisten = \"127.0.0.1:{2}\"\n",
        dir.display(),
        ports.0,
        ports.1
    );
    let mut agents = Vec::new();
    for number in 0..arguments.agents {
        let id = format!("a-{number}");
        let (regency, district) = (10 + number / 90, 10 + number % 90);
        let code = format!("36.{:02}.{district}", regency % 100);
        let province = 11 + regency / 100;
        let code = code.replacen("36", &province.to_string(), 1);
        writeln!(
            config,
            "[[office]]\ncode = \"{code}\"\nname = \"Office {number}\"\nagents = [\"{id}\"]"
        )?;
        authority.agent(&id);
        let read = |end: &str| fs::read(tls.join(format!("{id}.{end}")));
        agents.push(Agent {
            number,
            identity: Identity::from_pem(read("pem")?, read("key")?),
            id: id.parse()?,
            seq: 0,
            heard: 0,
        });
    }
    fs::write(dir.join("collector.toml"), config)?;
    Ok(agents)
}

/// Waits until all agents have an acknowledgement of this start; how long that took.
async fn all_back(crowd: &Crowd, agents: usize) -> anyhow::Result<Duration> {
    let began = Instant::now();
    while crowd.back.load(Ordering::Relaxed) < agents {
        ensure!(
            began.elapsed() < Duration::from_secs(300),
            "only {} came",
            crowd.back.load(Ordering::Relaxed)
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(began.elapsed())
}

/// The ninety-ninth of a hundred, in ms.
fn p99(waits: &[Duration]) -> anyhow::Result<f64> {
    let at = waits.len() * 99 / 100;
    Ok(waits.get(at).context("nobody said anything")?.as_secs_f64() * 1_000.0)
}

async fn measure(arguments: &Arguments) -> anyhow::Result<bool> {
    let dir = tempfile::tempdir()?;
    let dir = dir.path();
    let ports = (free_port()?, free_port()?);
    let agents = prepare(arguments, dir, ports)?;
    let count = agents.len();
    let crowd = Arc::new(Crowd {
        port: ports.0,
        ca: Certificate::from_pem(fs::read(dir.join("tls/ca.pem"))?),
        epoch: AtomicUsize::new(1),
        back: AtomicUsize::new(0),
        waits: Mutex::default(),
        flood: AtomicBool::new(false),
    });
    let mut collector = start(arguments, dir)?;
    for agent in agents {
        tokio::spawn(agent.live(Arc::clone(&crowd)));
    }
    let first = all_back(&crowd, count).await?;
    println!("{count} agents came in {:.1} s", first.as_secs_f64());

    let phase = Duration::from_secs(arguments.seconds);
    tokio::time::sleep(EVERY * 2).await;
    crowd.take_waits();
    tokio::time::sleep(phase).await;
    let calm = p99(&crowd.take_waits())?;
    crowd.flood.store(true, Ordering::Relaxed);
    tokio::time::sleep(EVERY).await;
    crowd.take_waits();
    tokio::time::sleep(phase).await;
    let flooded = p99(&crowd.take_waits())?;
    crowd.flood.store(false, Ordering::Relaxed);

    drop(collector);
    crowd.back.store(0, Ordering::Relaxed);
    crowd.epoch.store(2, Ordering::Relaxed);
    collector = start(arguments, dir)?;
    let back = all_back(&crowd, count).await?;
    tokio::time::sleep(AFTERMATH).await;
    let client = reqwest::Client::builder()
        .unix_socket(dir.join("data/control"))
        .build()?;
    let metrics = client.get("http://localhost/metrics").send().await?;
    let metrics = metrics.text().await?;
    let metric = |name: &str| -> anyhow::Result<f64> {
        let line = metrics
            .lines()
            .find(|line| line.split([' ', '{']).next() == Some(name));
        Ok(line
            .with_context(|| format!("no {name}"))?
            .rsplit(' ')
            .next()
            .context("no value")?
            .parse()?)
    };
    let paged = metric("denyut_pages_total")? + metric("denyut_open_incidents")?;
    drop(collector);

    let mut rows = Vec::new();
    let mut met = true;
    println!(
        "p99 from heartbeat to acknowledgement: {calm:.1} ms calm, {flooded:.1} ms beside one that says 1,000 times as much"
    );
    for (name, measured, limit) in [
        (
            "others' p99 beside one that floods, to calm",
            flooded / calm,
            2.0,
        ),
        (
            "seconds until all are back after a kill and a start",
            back.as_secs_f64(),
            60.0,
        ),
        ("pages and open incidents by it", paged, 0.0),
    ] {
        let verdict = if measured <= limit {
            "reached"
        } else {
            "MISSED"
        };
        met &= measured <= limit;
        println!("{name:55} {measured:8.2} of {limit:6.1}  {verdict}");
        rows.push(json!({"name": name, "measured": measured, "limit": limit}));
    }
    fs::write(&arguments.json, serde_json::to_vec_pretty(&rows)?)?;
    Ok(met)
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    denyut_tests::install_crypto();
    denyut_tests::raise_file_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    ensure!(runtime.block_on(measure(&arguments))?, "a limit is missed");
    Ok(())
}
