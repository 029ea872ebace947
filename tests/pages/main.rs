//! pages: what operators and citizens wait for, at one collector that a nation of agents speaks to meanwhile. The limit beside each figure is how long the same client waits in the
//! same run for an answer that says nothing (`/-/healthy`).
//!
//! Each agent is a task that says a heartbeat of two samples every 10 s; one in fifty has an uplink that fails. They share the machine with the collector and the clients, so
//! what they cost is in the figures.

use anyhow::{Context, ensure};
use clap::Parser;
use denyut_proto::{
    BootId, Heartbeat, HttpExpectation, Outcome, Reason, Role, Sample, Target, TargetSamples,
    UnixMillis, wire,
};
use denyut_tests::browser::{Browser, Screen};
use denyut_tests::peer::{Peer, entry, uptime_at};
use denyut_tests::{Collector, now_ms};
use prost::Message;
use reqwest::Client;
use serde_json::json;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Measures the pages of a collector under a nation of agents
#[derive(Parser)]
struct Arguments {
    #[arg(long, default_value_t = 7_290)]
    offices: usize,
    /// Seconds for each page
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Those who listen to what happens
    #[arg(long, default_value_t = 2_000)]
    listeners: usize,
    /// The results as JSON
    #[arg(long, default_value = "target/pages.json")]
    json: PathBuf,
    /// Also takes pictures of the overview, for the README, into this folder
    #[arg(long)]
    pictures: Option<PathBuf>,
    /// Goes on until it is interrupted, so that one can look at the pages
    #[arg(long)]
    stay: bool,
}

const EVERY: Duration = Duration::from_secs(10);
/// Clients that ask one after another.
const CLIENTS: usize = 4;

/// Provinces with about where they lie: south, north, west, east, and how many of a hundred offices.
const PROVINCES: [(&str, f64, f64, f64, f64, usize); 14] = [
    ("11", 2.5, 5.5, 95.4, 98.0, 5),
    ("12", 0.8, 3.8, 98.0, 100.0, 7),
    ("16", -4.5, -1.8, 102.5, 105.5, 5),
    ("32", -7.6, -6.2, 106.5, 108.6, 12),
    ("33", -7.8, -6.7, 108.8, 111.5, 13),
    ("35", -8.3, -6.9, 111.2, 114.3, 13),
    ("36", -6.9, -5.9, 105.9, 106.7, 4),
    ("51", -8.7, -8.1, 114.6, 115.6, 2),
    ("53", -10.2, -8.4, 119.2, 124.8, 7),
    ("61", -2.2, 1.8, 109.0, 112.5, 6),
    ("64", -1.8, 1.5, 115.6, 118.0, 4),
    ("73", -5.5, -2.6, 119.4, 121.0, 8),
    ("81", -7.2, -3.0, 126.5, 131.5, 4),
    ("91", -4.5, -2.2, 136.0, 140.6, 10),
];

/// The code and the place of an office.
fn office(number: usize, of: usize) -> (String, f64, f64) {
    let mut left = number * 100 / of;
    let mut province = PROVINCES[0];
    for one in PROVINCES {
        province = one;
        if left < one.5 {
            break;
        }
        left -= one.5;
    }
    let (code, south, north, west, east, _) = province;
    // Even, and the same each time.
    let part = |by: f64| (number as f64 * by).fract();
    let code = format!("{code}.{:02}.{:02}", number / 40 % 99 + 1, number % 40 + 1);
    (
        code,
        south + (north - south) * part(0.754_877_666),
        west + (east - west) * part(0.569_840_29),
    )
}

fn registry(count: usize) -> String {
    let mut text = "[public]\npage = true\n".to_owned();
    for number in 0..count {
        let (code, latitude, longitude) = office(number, count);
        // Writing to a string does not fail.
        write!(
            text,
            "[[office]]\ncode = \"{code}\"\nname = \"Kecamatan {number}\"\nregency = \"Kabupaten {}\"\nisp = \"isp-{}\"\nlatitude = {latitude:.4}\nlongitude = {longitude:.4}\nagents = [\"k-{number}\"]\n",
            &code[..5],
            number % 5
        )
        .ok();
    }
    text
}

/// One agent, for ever.
async fn live(collector: std::net::SocketAddr, number: usize) -> anyhow::Result<()> {
    let target = |name: &str, role| {
        let probe = "tcp://10.36.73.2:443".parse()?;
        let (interval, timeout) = (EVERY, Duration::from_secs(3));
        Target::new(
            name.parse()?,
            role,
            probe,
            interval,
            timeout,
            HttpExpectation::default(),
        )
    };
    let targets = [
        target("server", Role::Server)?,
        target("uplink", Role::Uplink)?,
    ];
    let mut boot = [7; 16];
    boot[..8].copy_from_slice(&number.to_le_bytes());
    let mut peer = Peer::join(collector, &format!("k-{number}"), BootId(boot))
        .await
        .map_err(anyhow::Error::from)?;
    tokio::time::sleep(EVERY.mul_f64(rand::random())).await;
    let mut again = tokio::time::interval(EVERY);
    for seq in 1.. {
        again.tick().await;
        let at = now_ms();
        let outcome = |target: &Target| {
            let fails = number * 7_919 % 1_009 < 20;
            if fails && target.role == Role::Uplink {
                Outcome::Failed(Reason::Timeout.into())
            } else {
                Outcome::Ok {
                    rtt_us: 900 + u32::from(rand::random::<u8>()),
                }
            }
        };
        let samples = targets.iter().map(|target| TargetSamples {
            target: target.name.clone(),
            samples: vec![Sample {
                at: UnixMillis(at),
                outcome: outcome(target),
            }],
        });
        let heartbeat = Heartbeat {
            at: UnixMillis(at),
            uptime: uptime_at(at),
            started: Duration::ZERO,
            interval: EVERY,
            samples: samples.collect(),
            targets: (seq == 1).then(|| targets.to_vec()),
            goodbye: None,
            gateway: None,
            shown: Vec::new(),
            path: None,
        };
        ensure!(
            peer.send(entry(
                seq,
                wire::Heartbeat::from(&heartbeat).encode_to_vec()
            ))
            .await,
            "the stream ended"
        );
        while !matches!(peer.next().await.map_err(anyhow::Error::from)?, Some(wire::collector_message::Kind::Ack(ack)) if ack.seq >= seq)
        {
        }
    }
    Ok(())
}

/// How long somebody waits for a page: the median, the 99th percentile and the longest in ms; its size over the wire, and how often it was answered in a second.
async fn wait_for(
    collector: &Collector,
    path: &str,
    length: Duration,
) -> anyhow::Result<serde_json::Value> {
    let client = Client::builder().build()?;
    let mut asking = JoinSet::new();
    let until = Instant::now() + length;
    for _ in 0..CLIENTS {
        let request = client
            .get(format!("http://{}{path}", collector.api))
            .bearer_auth(&collector.token)
            .header("accept-encoding", "gzip")
            .header("accept", "text/html");
        asking.spawn(async move {
            let mut waits = Vec::new();
            let mut size = 0;
            while Instant::now() < until {
                let asked = Instant::now();
                let answer = request.try_clone().context("a copy")?.send().await?;
                ensure!(answer.status().is_success(), "{}", answer.status());
                size = answer.bytes().await?.len();
                waits.push(asked.elapsed());
                // Nobody asks more than ten times a second.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            anyhow::Ok((waits, size))
        });
    }
    let mut waits = Vec::new();
    let mut bytes = 0;
    for done in asking.join_all().await {
        let (more, size) = done?;
        waits.extend(more);
        bytes = bytes.max(size);
    }
    waits.sort_unstable();
    let ms = |share: f64| {
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a place in the list"
        )]
        let place = ((waits.len() - 1) as f64 * share).round() as usize;
        (waits[place].as_secs_f64() * 10_000.0).round() / 10.0
    };
    Ok(
        json!({"path": path, "p50_ms": ms(0.5), "p99_ms": ms(0.99), "max_ms": ms(1.0), "bytes": bytes, "asked": waits.len()}),
    )
}

/// What a process holds in memory, in MiB.
fn resident(pid: u32) -> anyhow::Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .context("no VmRSS")?;
    let kib: f64 = line
        .split_whitespace()
        .nth(1)
        .context("no number")?
        .parse()?;
    Ok((kib / 102.4).round() / 10.0)
}

/// Many who listen; how many events each heard in a while, at least and at most.
async fn listen(
    collector: &Collector,
    count: usize,
    length: Duration,
) -> anyhow::Result<(usize, usize)> {
    let client = Client::builder().build()?;
    let mut listening = JoinSet::new();
    let until = tokio::time::Instant::now() + length;
    for number in 0..count {
        // No more than a person may: a user for each hundred.
        let request = client.get(format!("http://{}/api/v1/events", collector.api));
        let request = request.bearer_auth(if number < 150 {
            collector.token.clone()
        } else {
            token(collector, number / 150)
        });
        listening.spawn(async move {
            let mut answer = request.send().await?.error_for_status()?;
            let mut heard = 0;
            while let Ok(Ok(Some(part))) = tokio::time::timeout_at(until, answer.chunk()).await {
                heard += part.windows(6).filter(|bytes| bytes == b"event:").count();
            }
            anyhow::Ok(heard)
        });
    }
    let mut heard = Vec::new();
    for one in listening.join_all().await {
        heard.push(one?);
    }
    Ok((
        heard.iter().copied().min().unwrap_or(0),
        heard.into_iter().max().unwrap_or(0),
    ))
}

/// A token of its own for each so many listeners; made once.
fn token(collector: &Collector, number: usize) -> String {
    static TOKENS: std::sync::Mutex<Vec<String>> = std::sync::Mutex::new(Vec::new());
    let mut tokens = TOKENS
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    while tokens.len() <= number {
        let name = format!("pendengar-{}", tokens.len());
        tokens.push(collector.token_of(
            &["token", "create", &name, "--region", "all"],
            &["--scope", "read"],
        ));
    }
    tokens[number].clone()
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    denyut_tests::raise_file_limit();
    let collector = Arc::new(Collector::start(&registry(arguments.offices)).await);
    println!(
        "http://{}/ with the token {}",
        collector.api, collector.token
    );
    let mut nation = JoinSet::new();
    for number in 0..arguments.offices {
        nation.spawn(live(collector.ingest, number));
        if number % 50 == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    tokio::time::sleep(Duration::from_secs(60)).await;
    ensure!(nation.try_join_next().is_none(), "an agent gave up");
    let before = collector.metric("denyut_samples_total").await;
    let began = Instant::now();
    let length = Duration::from_secs(arguments.seconds);
    let mut pages = Vec::new();
    let (shown, ..) = office(arguments.offices / 3, arguments.offices);
    let (of_office, of_regency) = (
        format!("/kantor/{shown}"),
        format!("/publik/{}", &shown[..5]),
    );
    for path in [
        "/-/healthy",
        "/",
        "/?region=36",
        "/insiden",
        "/pola",
        &of_office,
        &of_regency,
        "/api/v1/offices?limit=100",
        "/api/v1/query?query=avg%20by%20(province)%20(denyut_up)",
    ] {
        let page = wait_for(&collector, path, length)
            .await
            .with_context(|| path.to_owned())?;
        println!("{page}");
        pages.push(page);
    }
    let samples = collector.metric("denyut_samples_total").await - before;
    let per_second = samples as f64 / began.elapsed().as_secs_f64();
    let alone = resident(collector.pid())?;
    let listening = {
        let collector = Arc::clone(&collector);
        let count = arguments.listeners;
        tokio::spawn(async move { listen(&collector, count, Duration::from_secs(40)).await })
    };
    tokio::time::sleep(Duration::from_secs(30)).await;
    let heard_by = collector.metric("denyut_event_listeners").await;
    let with = resident(collector.pid())?;
    let heard = listening.await??;
    let result = json!({
        "offices": arguments.offices,
        "samples_per_second_meanwhile": per_second.round(),
        "pages": pages,
        "listeners": heard_by,
        "memory_mib": alone,
        "memory_with_listeners_mib": with,
        "events_heard_least_most": heard,
    });
    std::fs::write(&arguments.json, serde_json::to_string_pretty(&result)?)?;
    println!("{result:#}");
    if let Some(folder) = &arguments.pictures {
        std::fs::create_dir_all(folder)?;
        for (screen, name) in [(Screen::Laptop, "laptop"), (Screen::Phone, "phone")] {
            let browser = Browser::open(screen).await;
            browser.enter(&collector, "siti").await;
            browser.visit(&format!("http://{}/", collector.api)).await;
            tokio::time::sleep(Duration::from_secs(2)).await;
            browser
                .first_screen(&folder.join(format!("overview-{name}.png")))
                .await;
        }
    }
    if arguments.stay {
        tokio::signal::ctrl_c().await?;
    }
    Ok(())
}
