//! Ten thousand incidents in a minute.

use anyhow::{Context, ensure};
use denyut_proto::wire::ingest_client::IngestClient;
use denyut_proto::wire::{self, AgentMessage};
use denyut_proto::{BootId, Failure, Outcome, Reason};
use denyut_tests::Collector;
use denyut_tests::hook::Hook;
use denyut_tests::peer::{entry, heartbeat_of, hello};
use prost::Message;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;

const EVERY: Duration = Duration::from_secs(10);
/// Of so many offices of a regency one goes on: a whole regency would be one common cause.
const REGENCY: usize = 20;
/// How long all offices are well before, and how long the last message may take.
const CALM: Duration = Duration::from_secs(60);
const WITHIN: Duration = Duration::from_secs(900);

/// When it all begins and ends (Unix ms); 0: not yet.
#[derive(Default)]
struct Weather {
    bad_from: AtomicI64,
    good_from: AtomicI64,
    connected: AtomicUsize,
}

/// One office's agent: from when on it fails, and is well again, after the weather turned.
struct Office {
    number: usize,
    fails: bool,
    /// ms after the others.
    later: i64,
}

impl Office {
    fn is_bad(&self, weather: &Weather, now: i64) -> bool {
        let since = |at: &AtomicI64| {
            let at = at.load(Ordering::Relaxed);
            at > 0 && now >= at + self.later
        };
        self.fails && since(&weather.bad_from) && !since(&weather.good_from)
    }

    fn heartbeat(&self, seq: u64, weather: &Weather, since_hello: Duration) -> AgentMessage {
        let now = denyut_tests::now_ms();
        let is_bad = self.is_bad(weather, now);
        let bytes = heartbeat_of("server", &[now], |_| {
            if is_bad {
                Outcome::Failed(Failure {
                    reason: Reason::Refused,
                    detail: 0,
                })
            } else {
                Outcome::Ok { rtt_us: 900 }
            }
        });
        let mut beat = wire::Heartbeat::decode(&bytes[..]).unwrap_or_default();
        beat.interval_ms = 10_000;
        // The machine's uptime goes on from what it said in its hello.
        beat.uptime_ms += u64::try_from(since_hello.as_millis()).unwrap_or_default();
        entry(seq, beat.encode_to_vec())
    }

    async fn live(self, to: SocketAddr, weather: Arc<Weather>) -> anyhow::Result<()> {
        // Its own loopback address: an office is not at the address of another.
        let [.., a, b, c] = u32::try_from(self.number + 0x01_0000)?.to_be_bytes();
        let own: IpAddr = Ipv4Addr::new(127, a, b, c.max(1)).into();
        let channel = Endpoint::from_shared(format!("http://{to}"))?
            .local_address(Some(own))
            .connect()
            .await?;
        let mut boot = [7; 16];
        boot[..8].copy_from_slice(&self.number.to_le_bytes());
        let (outgoing, outbound) = mpsc::channel(64);
        outgoing
            .send(hello(&format!("a-{}", self.number), BootId(boot)))
            .await?;
        let mut inbound = IngestClient::new(channel)
            .stream(ReceiverStream::new(outbound))
            .await?
            .into_inner();
        weather.connected.fetch_add(1, Ordering::Relaxed);
        let mut seq = 0;
        let connected = Instant::now();
        let first = EVERY.mul_f64(rand::random::<f64>());
        let mut due = Instant::now() + first;
        loop {
            tokio::select! {
                message = inbound.message() => { message?.context("the end")?; }
                () = tokio::time::sleep_until(due.into()) => {
                    seq += 1;
                    outgoing.send(self.heartbeat(seq, &weather, connected.elapsed())).await?;
                    due += EVERY;
                }
            }
        }
    }
}

/// What the receiver was told of each incident: in how many messages it fired and was resolved.
#[derive(Default)]
struct Told {
    messages: usize,
    ids: BTreeSet<String>,
    fired: BTreeSet<String>,
    resolved: BTreeMap<String, usize>,
    again: usize,
}

fn read(hook: &Hook) -> Told {
    let mut told = Told::default();
    for request in hook.taken() {
        told.messages += 1;
        if !told.ids.insert(request.headers["webhook-id"].clone()) {
            told.again += 1;
            continue;
        }
        let body = request.json();
        for alert in body["alerts"].as_array().into_iter().flatten() {
            let number = alert["labels"]["incident"].as_str().unwrap_or_default();
            if alert["status"] == "firing" {
                told.fired.insert(number.to_owned());
            } else {
                *told.resolved.entry(number.to_owned()).or_default() += 1;
            }
        }
    }
    told
}

/// Resident memory of the collector, in MiB: now, and at most so far.
fn memory(pid: u32) -> anyhow::Result<(f64, f64)> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let field = |name: &str| -> anyhow::Result<f64> {
        let line = status.lines().find(|line| line.starts_with(name));
        let line = line.with_context(|| format!("no {name}"))?;
        let kib: f64 = line
            .split_whitespace()
            .nth(1)
            .context("no value")?
            .parse()?;
        Ok(kib / 1_024.0)
    };
    Ok((field("VmRSS:")?, field("VmHWM:")?))
}

/// Measures it.
#[allow(clippy::too_many_lines, reason = "the whole measurement, start to end")]
pub(crate) async fn measure(incidents: usize) -> anyhow::Result<Value> {
    let count = incidents.div_ceil(REGENCY - 1) * REGENCY;
    let hook = Hook::start();
    let mut config = String::new();
    for number in 0..count {
        let regency = number / REGENCY;
        let code = format!(
            "{}.{:02}.{:02}",
            11 + regency / 90,
            1 + regency % 90,
            1 + number % REGENCY
        );
        writeln!(
            config,
            "[[office]]\ncode = \"{code}\"\nname = \"Office {number}\"\nagents = [\"a-{number}\"]"
        )?;
    }
    write!(
        config,
        "[[receiver]]\nname = \"hook\"\nwebhook.url = \"http://{}/\"\n[[route]]\nreceiver = \"hook\"\n\
         [alert]\ngroup_interval = \"10s\"\n\
         [detection]\ncommon_share = 1.0\ncommon_covers = 1.0\npage_after_least = \"0s\"\npage_after_most = \"0s\"\nrecovery_time = \"10s\"\nrecovery_answers = 2\n",
        hook.address
    )?;
    let collector = Collector::start(&config).await;
    let pid = collector.pid();
    let weather = Arc::new(Weather::default());
    let mut failing = 0;
    for number in 0..count {
        let fails = number % REGENCY > 0 && failing < incidents;
        failing += usize::from(fails);
        let later = i64::from(rand::random::<u32>() % 60_000);
        let office = Office {
            number,
            fails,
            later,
        };
        tokio::spawn(office.live(collector.ingest, Arc::clone(&weather)));
        if number % 200 == 199 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    let began = Instant::now();
    while weather.connected.load(Ordering::Relaxed) < count {
        ensure!(
            began.elapsed() < Duration::from_secs(120),
            "not all connect"
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    println!("{count} agents are connected; {failing} of them fail within a minute");
    tokio::time::sleep(CALM).await;
    let calm = memory(pid)?;

    let wait = |what: &'static str, is: Box<dyn Fn(&Told) -> usize + Send>| {
        let hook = hook.clone();
        async move {
            let began = Instant::now();
            loop {
                tokio::time::sleep(Duration::from_secs(2)).await;
                let told = read(&hook);
                let now = is(&told);
                if now >= failing || began.elapsed() > WITHIN {
                    println!(
                        "{what}: {now} of {failing} after {:.0} s, in {} messages",
                        began.elapsed().as_secs_f64(),
                        told.messages
                    );
                    return began.elapsed();
                }
            }
        }
    };
    weather
        .bad_from
        .store(denyut_tests::now_ms(), Ordering::Relaxed);
    let fired_s = wait("told that it fails", Box::new(|told| told.fired.len())).await;
    let storm = memory(pid)?;
    weather
        .good_from
        .store(denyut_tests::now_ms(), Ordering::Relaxed);
    let resolved_s = wait(
        "told that it is well again",
        Box::new(|told| told.resolved.len()),
    )
    .await;
    // What comes twice comes late.
    tokio::time::sleep(Duration::from_secs(30)).await;
    let told = read(&hook);
    let after = memory(pid)?;
    let lost = failing - told.fired.len().min(failing) + failing - told.resolved.len().min(failing);
    let doubled = told.resolved.values().filter(|count| **count > 1).count();
    println!(
        "lost {lost}, told to be over twice {doubled}, the same message again {}",
        told.again
    );
    println!(
        "resident memory: {:.0} MiB in the calm, {:.0} in the storm, {:.0} after it, {:.0} at most",
        calm.0, storm.0, after.0, after.1
    );
    let waiting = collector.json("/api/v1/messages").await;
    ensure!(waiting == json!([]), "messages are left: {waiting}");
    ensure!(
        lost == 0 && doubled == 0,
        "something was lost or told twice"
    );
    Ok(json!({
        "incidents": failing, "messages": told.messages, "lost": lost, "doubled": doubled, "again": told.again,
        "fired_s": fired_s.as_secs_f64(), "resolved_s": resolved_s.as_secs_f64(),
        "rss_calm_mib": calm.0, "rss_storm_mib": storm.0, "rss_after_mib": after.0, "rss_most_mib": after.1,
    }))
}
