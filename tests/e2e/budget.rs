//! With a byte budget the agent says little while nothing changes, and what changes at once.

use denyut_tests::{Agent, Collector, eventually};
use serde_json::Value;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

const REGISTRY: &str =
    "[[office]]\ncode = \"36.73.02\"\nname = \"Cipocok Jaya\"\nagents = [\"a-1\"]\n";
const WITHIN: Duration = Duration::from_secs(60);

fn agent(collector: &Collector, target: SocketAddr, kb_per_day: u64) -> Agent {
    let config = format!(
        "agent = \"a-1\"\nheartbeat = \"1s\"\n[collector]\naddresses = [\"http://{}\"]\nreconnect_max = \"1s\"\n\
         [budget]\nkb_per_day = {kb_per_day}\n\
         [[target]]\nname = \"port\"\nrole = \"server\"\nprobe = \"tcp://{target}\"\ninterval = \"1s\"\ntimeout = \"500ms\"\n",
        collector.ingest
    );
    Agent::start(None, &config)
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
    let listener = TcpListener::bind("127.0.0.1:0").expect("listens");
    let target = listener.local_addr().expect("is bound");
    let (end, ends) = std::sync::mpsc::channel::<()>();
    let server = std::thread::spawn(move || {
        use std::sync::mpsc::TryRecvError::Disconnected;
        // Takes each connection until it is to end; then the agent's next one is its last.
        while listener.accept().is_ok() && ends.try_recv() != Err(Disconnected) {}
    });
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
    server.join().expect("ended");
}
