//! With a byte budget the agent says little while nothing changes, and what changes at once.

use denyut_tests::{Agent, Collector, eventually};
use serde_json::Value;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc::{Sender, TryRecvError, channel};
use std::time::Duration;

const REGISTRY: &str =
    "[[office]]\ncode = \"36.73.02\"\nname = \"Cipocok Jaya\"\nagents = [\"a-1\"]\n";
const WITHIN: Duration = Duration::from_secs(60);

fn agent(collector: &Collector, target: SocketAddr, kb_per_day: u64) -> Agent {
    Agent::start(None, &config(collector, target, kb_per_day))
}

fn config(collector: &Collector, target: SocketAddr, kb_per_day: u64) -> String {
    format!(
        "agent = \"a-1\"\nheartbeat = \"1s\"\n[collector]\naddresses = [\"http://{}\"]\nreconnect_max = \"1s\"\n\
         [budget]\nkb_per_day = {kb_per_day}\n\
         [[target]]\nname = \"port\"\nrole = \"server\"\nprobe = \"tcp://{target}\"\ninterval = \"1s\"\ntimeout = \"500ms\"\n",
        collector.ingest
    )
}

/// A port that takes each connection; until the sender is dropped, and one more.
fn answering() -> (SocketAddr, Sender<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listens");
    let target = listener.local_addr().expect("is bound");
    let (end, ends) = channel();
    std::thread::spawn(move || {
        while listener.accept().is_ok() && ends.try_recv() != Err(TryRecvError::Disconnected) {}
    });
    (target, end)
}

async fn link(collector: &Collector) -> Option<Value> {
    let office = collector.json("/api/v1/offices/36.73.02").await;
    office["links"].get(0).cloned()
}

async fn link_is(collector: &Collector, state: &str) {
    let look = || async { (link(collector).await?["state"] == state).then_some(()) };
    eventually(&format!("the link is {state}"), WITHIN, look).await;
}

async fn samples(collector: &Collector) -> usize {
    collector.samples("36.73.02", "a-1", "port").await.len()
}

#[tokio::test]
async fn a_calm_agent_says_little_and_an_edge_at_once() {
    let collector = Collector::start(REGISTRY).await;
    let (target, end) = answering();
    // 86,400 samples a day, a pulse every few seconds.
    let agent = agent(&collector, target, 12_000);
    link_is(&collector, "up").await;
    // The first answer was an edge: for two minutes everything goes out at once.
    eventually("samples", WITHIN, || async {
        (samples(&collector).await > 5).then_some(())
    })
    .await;
    let status = || agent.status().expect("answers");
    let calm = Duration::from_secs(150);
    let quiet = || async {
        let before = samples(&collector).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        (samples(&collector).await == before).then_some(before)
    };
    let had = eventually("it is calm", calm, quiet).await;
    let waiting = || {
        let spool = &status()["spool"];
        let number = |of: &str| spool[of].as_u64().expect("a number");
        number("next") - 1 - number("acked")
    };
    let waits = waiting();
    // It goes on being there, and being seen, by its pulses.
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert!(waiting() >= waits + 15, "{} {waits}", waiting());
    assert_eq!(samples(&collector).await, had);
    let office = collector.json("/api/v1/offices/36.73.02").await;
    let agents = office["agents"].as_array().expect("a list");
    assert_eq!(agents[0]["state"], "up", "{office}");
    let heard = agents[0]["last_ms"].as_i64().expect("a time");
    assert!(denyut_tests::now_ms() - heard < 10_000, "{office}");
    assert_eq!(agents[0]["budget"]["budget"], 12_000_000, "{office}");
    assert!(
        agents[0]["budget"]["spent"].as_u64() > Some(1_000),
        "{office}"
    );
    assert_eq!(collector.metric("denyut_open_incidents").await, 0);

    // An edge, and all that waited with it.
    drop(end);
    link_is(&collector, "down").await;
    let told = samples(&collector).await;
    assert!(told >= had + 20, "{told} {had}");
    assert!(waiting() <= 2);
    let budget = &status()["budget"];
    let spent = budget["spent"].as_u64().expect("a number");
    assert!(spent > 5_000 && spent < 200_000, "{budget}");
}

/// Hours of every day that end at the next full minute, but not before `least` from now; and that minute, in Unix ms.
async fn hours_that_end(least: Duration) -> (String, i64) {
    const MINUTE: i64 = 60_000;
    const WIB: i64 = 7 * 60 * MINUTE;
    loop {
        let least = i64::try_from(least.as_millis()).expect("a minute or so");
        let end = (denyut_tests::now_ms() + least + MINUTE - 1).div_euclid(MINUTE) * MINUTE;
        let minutes = (end + WIB).div_euclid(MINUTE).rem_euclid(1_440);
        // Around midnight there are none that begin at 00:00 and end soon.
        if (5..1_435).contains(&minutes) {
            let hours = format!("Mon-Sun 00:00-{:02}:{:02}", minutes / 60, minutes % 60);
            return (hours, end);
        }
        tokio::time::sleep(Duration::from_secs(10)).await;
    }
}

/// Little is left of the budget: what was stored while the agent was cut off waits until the office is closed, and then all of it comes. That it
/// speaks less often from then on, it says at once.
#[tokio::test]
async fn what_was_stored_waits_until_the_office_is_closed() {
    let mut collector = Collector::start(REGISTRY).await;
    collector.kill();
    let (target, end_of_target) = answering();
    // A pulse every three seconds while it is open, and every five minutes after that.
    let mut agent = Agent::prepare(None, &config(&collector, target, 3_200));
    let data = agent.dir.path().join("data");
    fs::create_dir(&data).expect("makes");
    let hour = denyut_tests::now_ms() / 3_600_000;
    fs::write(data.join("spent"), format!("[[{hour},2500000]]")).expect("writes");
    let begun = denyut_tests::now_ms();
    agent.launch();
    let number = |of: &str| agent.status()?["spool"][of].as_i64();
    let stored = || async { (number("next")? > STORED).then_some(()) };
    eventually("something is stored", 3 * WITHIN, stored).await;

    let (hours, end) = hours_that_end(Duration::from_secs(15)).await;
    let office = REGISTRY.replace("name = ", &format!("hours = \"{hours}\"\nname = "));
    collector.configure(REGISTRY, &office);
    collector.launch().await;
    let left = |is: bool| {
        let status = agent.status();
        async move { (status?["budget"]["left_for_later"] == is).then_some(()) }
    };
    eventually("it is left for later", WITHIN, || left(true)).await;
    let times = async || {
        let body = collector.get("/api/v1/offices/36.73.02/links/a-1/port/samples");
        let answer: Value = serde_json::from_str(&body.await?).ok()?;
        let samples = answer["samples"].as_array()?.iter();
        let times = samples.filter_map(|one| one["at_ms"].as_i64());
        Some(times.collect::<Vec<_>>())
    };
    let some = || async { times().await?.first().copied() };
    let first = eventually("what is new comes at once", WITHIN, some).await;
    assert!(first > begun + 5_000, "{first} {begun}");
    // The collector tells with its acknowledgements for how long an office is closed.
    while denyut_tests::now_ms() < end {
        assert!(times().await.expect("some")[0] > begun + 5_000);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    drop(end_of_target);
    link_is(&collector, "down").await;
    eventually("nothing is left", WITHIN, || left(false)).await;
    let all = || async { times().await.filter(|times| times[0] < begun + 3_000) };
    let times = eventually("what was stored", WITHIN, all).await;
    assert!(
        times
            .windows(2)
            .all(|two| (1..5_000).contains(&(two[1] - two[0]))),
        "{times:?}"
    );
    let status = agent.status().expect("answers");
    assert_eq!(status["budget"]["closed"], true, "{status}");
    assert!(status["budget"]["pulse_s"].as_u64() > Some(60), "{status}");
    // By its pace of before it would be taken for silent after nine seconds.
    for _ in 0..20 {
        let office = collector.json("/api/v1/offices/36.73.02").await;
        assert_eq!(office["agents"][0]["state"], "up", "{office}");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// More entries than an agent whose budget is short sends at once of what it stored.
const STORED: i64 = 105;
