//! From a cut to its message.

use anyhow::{Context, ensure};
use denyut_tests::hook::Hook;
use denyut_tests::real::{Alertmanager, Prometheus};
use denyut_tests::{Agent, Collector};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

/// How long both watch before the first cut.
const CALM: Duration = Duration::from_secs(60);
/// From one cut to the next, at least; and up to a probe's interval more, so that cuts fall anywhere between two probes.
const APART: Duration = Duration::from_secs(5);
/// How long the last message may take.
const WITHIN: Duration = Duration::from_secs(900);

/// A target that answers until it is dropped.
struct Target {
    address: SocketAddr,
    listener: Option<TcpListener>,
}

impl Target {
    fn listen() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        Ok(Self {
            address: listener.local_addr()?,
            listener: Some(listener),
        })
    }
}

/// Measures both chains on the same cuts.
#[allow(clippy::too_many_lines, reason = "the whole measurement, start to end")]
pub(crate) async fn measure(cuts: usize, eager: bool) -> anyhow::Result<Value> {
    ensure!((1..=30).contains(&cuts), "write 1 to 30 cuts");
    let hook = Hook::start();
    let mut targets = (0..2 * cuts)
        .map(|_| Target::listen())
        .collect::<anyhow::Result<Vec<_>>>()?;
    let addresses: Vec<SocketAddr> = targets.iter().map(|target| target.address).collect();
    // An office a regency, and no more than two a province: each is told by itself, as Alertmanager does it here, and no common cause is found.
    let code = |number: usize| format!("{}.{:02}.01", 11 + number % 30, 1 + number / 30);
    let mut config = String::new();
    for number in 0..2 * cuts {
        writeln!(
            config,
            "[[office]]\ncode = \"{}\"\nname = \"Office {number}\"\nagents = [\"a-{number}\"]",
            code(number)
        )?;
    }
    write!(
        config,
        "[[receiver]]\nname = \"hook\"\nwebhook.url = \"http://{}/denyut\"\n[[route]]\nreceiver = \"hook\"\n",
        hook.address
    )?;
    if eager {
        // Nobody waits for more than it takes to be sure.
        config += "[detection]\npage_after_least = \"0s\"\npage_after_most = \"0s\"\ncommon_wait = \"0s\"\n";
    }
    let collector = Collector::start(&config).await;
    let agents: Vec<Agent> = addresses
        .iter()
        .enumerate()
        .map(|(number, target)| {
            Agent::start(
                None,
                &format!(
                    "agent = \"a-{number}\"\n[collector]\naddresses = [\"http://{}\"]\n[[target]]\nname = \"port\"\nrole = \"server\"\nprobe = \"tcp://{target}\"\ninterval = \"10s\"\n",
                    collector.ingest
                ),
            )
        })
        .collect();
    let url = format!("http://{}/prometheus", hook.address);
    let alertmanager = Alertmanager::start(&url, "instance", "30s").await;
    let fails_for = if eager { "0s" } else { "1m" };
    let prometheus = Prometheus::start(&addresses, fails_for, &alertmanager).await;
    tokio::time::sleep(CALM).await;

    let mut at = Vec::new();
    for target in &mut targets[..cuts] {
        tokio::time::sleep(APART + Duration::from_secs(10).mul_f64(rand::random::<f64>())).await;
        target.listener = None;
        at.push((Instant::now(), denyut_tests::now_ms()));
    }
    let last = Instant::now();
    let told = |path: &str, label: &str, value: &str| {
        let all = hook.taken().into_iter();
        let mut all = all.filter(|request| request.line.ends_with(path));
        let found = all.find(|request| {
            let alerts = request.json()["alerts"].clone();
            let mut alerts = alerts.as_array().into_iter().flatten();
            alerts.any(|alert| alert["labels"][label] == value && alert["status"] == "firing")
        });
        found.map(|request| request.at)
    };
    let mut ours = Vec::new();
    let mut theirs = Vec::new();
    while ours.len() < cuts || theirs.len() < cuts {
        ensure!(
            last.elapsed() < WITHIN,
            "of {cuts} cuts denyut told {}, the others {}",
            ours.len(),
            theirs.len()
        );
        tokio::time::sleep(Duration::from_secs(1)).await;
        (ours, theirs) = (Vec::new(), Vec::new());
        for (number, (cut, _)) in at.iter().enumerate() {
            let instance = addresses[number].to_string();
            ours.extend(told("/denyut", "office", &code(number)).map(|told| told - *cut));
            theirs.extend(told("/prometheus", "instance", &instance).map(|told| told - *cut));
        }
    }
    // When the collector knew: the first revision of each incident.
    let mut seen = Vec::new();
    let incidents = collector.json("/api/v1/incidents").await;
    for (number, (_, cut)) in at.iter().enumerate() {
        let mut all = incidents.as_array().into_iter().flatten();
        let one = all.find(|one| one["office"] == code(number));
        let recorded = one.context("no incident")?["revisions"][0]["recorded_ms"].as_i64();
        let after = recorded.context("no time")? - cut;
        seen.push(Duration::from_millis(u64::try_from(after)?));
    }
    drop((agents, prometheus));

    let mut rows = Vec::new();
    println!(
        "{cuts} cuts of a TCP target that is probed every 10 s; group_wait 30 s for both; {}",
        if eager {
            "page_after 0 s, for: 0s"
        } else {
            "denyut as it ships, for: 1m"
        }
    );
    for (name, times) in [
        ("denyut: cut to incident", &mut seen),
        ("denyut: cut to message", &mut ours),
        (
            "Prometheus + blackbox + Alertmanager: cut to message",
            &mut theirs,
        ),
    ] {
        times.sort_unstable();
        let at =
            |share: usize| times[(times.len() * share / 100).min(times.len() - 1)].as_secs_f64();
        let (p50, p99) = (at(50), at(99));
        println!("{name:55} p50 {p50:6.1} s  p99 {p99:6.1} s");
        rows.push(json!({"name": name, "p50_s": p50, "p99_s": p99}));
    }
    let ratio = |key: &str| {
        rows[1][key].as_f64().unwrap_or(f64::NAN) / rows[2][key].as_f64().unwrap_or(f64::NAN)
    };
    println!(
        "cut to message, denyut to the others: p50 {:.2}, p99 {:.2}",
        ratio("p50_s"),
        ratio("p99_s")
    );
    Ok(json!(rows))
}
