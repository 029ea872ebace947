//! Kills and absences: every acknowledged sample is there, once; gaps are refilled from the spool.

use denyut_proto::wire::collector_message::Kind;
use denyut_proto::{BootId, wire};
use denyut_tests::peer::{Peer, entry, heartbeat};
use denyut_tests::{Agent, Collector, eventually, now_ms, program};
use rand::Rng;
use std::collections::BTreeSet;
use std::time::Duration;

const REGISTRY: &str =
    "[[office]]\ncode = \"36.73.02\"\nname = \"Cipocok Jaya\"\nagents = [\"a-1\"]\n";
const OFFICE: (&str, &str) = ("36.73.02", "a-1");
/// Times that a process is killed in each test.
const KILLS: usize = 8;

fn agent_config(collector: &Collector) -> String {
    format!(
        "agent = \"a-1\"\nheartbeat = \"1s\"\n[collector]\naddresses = [\"http://{}\"]\nreconnect_max = \"1s\"\n\
         [[target]]\nname = \"self\"\nrole = \"server\"\nprobe = \"tcp://{}\"\ninterval = \"1s\"\n",
        collector.ingest, collector.api
    )
}

fn times(samples: &[serde_json::Value]) -> Vec<i64> {
    samples
        .iter()
        .map(|sample| sample["at_ms"].as_i64().expect("a time"))
        .collect()
}

/// Streams entries as fast as they are taken while the collector is killed at random moments; in the end the
/// history holds every acknowledged sample, and nothing twice.
#[tokio::test]
async fn a_killed_collector_keeps_what_it_acknowledged() {
    let mut collector = Collector::start(REGISTRY).await;
    let boot = BootId([5; 16]);
    // Entry `seq` carries the two samples of these times.
    let start = now_ms() - 3_600_000;
    let times_of = |seq: u64| {
        let first = start + i64::try_from(seq).expect("small") * 20;
        [first, first + 10]
    };
    let mut acked = 0u64;
    let mut sent_most = 0u64;
    for round in 0..=KILLS {
        let mut peer = Peer::join(collector.ingest, "a-1", boot)
            .await
            .expect("joins");
        let last_round = round == KILLS;
        let kill_after = rand::rng().random_range(20..400);
        let mut in_flight = acked;
        let goal = acked + if last_round { 500 } else { u64::MAX / 2 };
        let mut acks = 0;
        while acked < goal {
            while in_flight < goal && in_flight < acked + 64 {
                in_flight += 1;
                if !peer
                    .send(entry(in_flight, heartbeat("self", &times_of(in_flight))))
                    .await
                {
                    break;
                }
            }
            sent_most = sent_most.max(in_flight);
            match peer.next().await {
                Ok(Some(Kind::Ack(ack))) => acked = acked.max(ack.seq),
                Ok(other) => panic!("{other:?}"),
                Err(_) => break, // the kill below
            }
            acks += 1;
            if !last_round && acks == kill_after {
                collector.kill();
            }
        }
        if !last_round {
            collector.launch().await;
        }
    }
    assert_eq!(acked, sent_most, "the last round was acknowledged whole");
    let expected: Vec<i64> = (1..=acked).flat_map(times_of).collect();
    let look = || async {
        let mut all = Vec::new();
        let mut from = Some(start);
        while let Some(next) = from {
            let path = format!("/api/v1/offices/36.73.02/links/a-1/self/samples?from_ms={next}");
            let answer = collector.json(&path).await;
            all.extend(times(answer["samples"].as_array().expect("a list")));
            from = answer["next_from_ms"].as_i64();
        }
        (all.len() >= expected.len()).then_some(all)
    };
    let stored = eventually(
        "all samples are in the history",
        Duration::from_secs(20),
        look,
    )
    .await;
    assert_eq!(stored, expected);
    // Sent again, all of it, before and after a kill: it is known.
    for kill in [false, true] {
        if kill {
            collector.kill();
            collector.launch().await;
        }
        let entries = collector.metric("denyut_entries_total").await;
        let duplicates = collector.metric("denyut_duplicate_entries_total").await;
        let mut peer = Peer::join(collector.ingest, "a-1", boot)
            .await
            .expect("joins");
        for seq in 1..=100 {
            assert!(
                peer.send(entry(seq, heartbeat("self", &times_of(seq))))
                    .await
            );
        }
        while peer.next().await.expect("goes on")
            != Some(Kind::Ack(wire::Ack {
                seq: 100,
                closed_for_s: 0,
            }))
        {}
        assert_eq!(collector.metric("denyut_entries_total").await, entries);
        assert_eq!(
            collector.metric("denyut_duplicate_entries_total").await,
            duplicates + 100
        );
    }
}

/// The real agent is killed again and again; what it had spooled is delivered, each entry once.
#[tokio::test]
async fn a_killed_agent_delivers_what_it_had_spooled() {
    let collector = Collector::start(REGISTRY).await;
    let mut agent = Agent::start(None, &agent_config(&collector));
    for _ in 0..KILLS {
        let before = collector.metric("denyut_entries_total").await;
        let moved =
            || async { (collector.metric("denyut_entries_total").await > before).then_some(()) };
        eventually("the agent delivers", Duration::from_secs(20), moved).await;
        let until =
            tokio::time::Instant::now() + Duration::from_millis(rand::rng().random_range(0..1500));
        tokio::time::timeout_at(until, std::future::pending::<()>())
            .await
            .ok();
        agent.kill();
        agent.launch();
    }
    let drained = || async {
        let status = agent.status()?;
        let (next, acked) = (
            status["spool"]["next"].as_u64()?,
            status["spool"]["acked"].as_u64()?,
        );
        (acked + 1 == next && status["connection"]["connected"] == true).then_some(status)
    };
    let status = eventually("the spool is drained", Duration::from_secs(20), drained).await;
    agent.terminate();
    assert_eq!(status["spool"]["dropped"], 0);
    // The goodbye came after the status was read.
    let acked = status["spool"]["acked"].as_u64().expect("a number");
    let entries = collector.metric("denyut_entries_total").await;
    assert!(
        (acked + 1..=acked + 3).contains(&entries),
        "{entries} entries in the log, {acked} acknowledged and a goodbye"
    );
    let stored = times(&collector.samples(OFFICE.0, OFFICE.1, "self").await);
    let unique: BTreeSet<i64> = stored.iter().copied().collect();
    assert_eq!(unique.len(), stored.len());
    let view = collector.json("/api/v1/offices/36.73.02").await;
    assert_eq!(view["agents"][0]["state"], "closed", "{view:#}");
    assert_eq!(view["incident"], serde_json::Value::Null);
}

/// The collector is away for a while; when it is back, the spool fills the gap, and nobody is blamed for the
/// collector's own absence.
#[tokio::test]
async fn the_spool_fills_the_gap_of_an_absent_collector() {
    let mut collector = Collector::start(REGISTRY).await;
    let config =
        agent_config(&collector).replace(&format!("tcp://{}", collector.api), "icmp://127.0.0.1");
    let mut agent = Agent::start(None, &config);
    let connected = |wanted: bool| {
        let agent = &agent;
        move || async move { (agent.status()?["connection"]["connected"] == wanted).then_some(()) }
    };
    eventually(
        "the agent is connected",
        Duration::from_secs(10),
        connected(true),
    )
    .await;
    collector.terminate();
    let away_from = now_ms();
    let waiting = || async {
        let status = agent.status()?;
        let (next, acked) = (
            status["spool"]["next"].as_u64()?,
            status["spool"]["acked"].as_u64()?,
        );
        (next > acked + 10).then_some(())
    };
    eventually(
        "heartbeats gather in the spool",
        Duration::from_secs(30),
        waiting,
    )
    .await;
    assert_eq!(
        agent.status().expect("answers")["connection"]["connected"],
        false
    );
    let away_to = now_ms();
    collector.launch().await;
    eventually(
        "the agent is back",
        Duration::from_secs(20),
        connected(true),
    )
    .await;
    let filled = || async {
        let stored = times(&collector.samples(OFFICE.0, OFFICE.1, "self").await);
        (stored.last()? > &away_to).then_some(stored)
    };
    let stored = eventually(
        "samples after the gap arrive",
        Duration::from_secs(20),
        filled,
    )
    .await;
    let gaps: Vec<i64> = stored.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let during = stored
        .iter()
        .filter(|at| (away_from..away_to).contains(at))
        .count();
    assert!(during >= 7, "{during} samples in the gap");
    assert!(
        gaps.iter().all(|gap| (900..1_900).contains(gap)),
        "{gaps:?}"
    );
    let incidents = collector.json("/api/v1/incidents").await;
    assert_eq!(incidents, serde_json::Value::Array(Vec::new()));
    agent.terminate();
}

/// The collector's data is lost; the new one gets what the agents still hold, and what their targets are.
#[tokio::test]
async fn a_wiped_collector_is_refilled() {
    let mut collector = Collector::start(REGISTRY).await;
    let config =
        agent_config(&collector).replace(&format!("tcp://{}", collector.api), "icmp://127.0.0.1");
    let agent = Agent::start(None, &config);
    let began = now_ms();
    let some = || async { (collector.metric("denyut_samples_total").await >= 3).then_some(()) };
    eventually("samples arrive", Duration::from_secs(15), some).await;
    collector.kill();
    std::fs::remove_dir_all(collector.dir.path().join("data")).expect("removes");
    let wiped_at = now_ms();
    collector.launch().await;
    let refilled = || async {
        let view = collector.json("/api/v1/offices/36.73.02").await;
        (view["links"][0]["role"] == "server" && view["links"][0]["state"] == "up").then_some(())
    };
    eventually(
        "the link is known again, with its role",
        Duration::from_secs(20),
        refilled,
    )
    .await;
    let stored = times(&collector.samples(OFFICE.0, OFFICE.1, "self").await);
    let before = stored
        .iter()
        .filter(|at| (began..wiped_at).contains(at))
        .count();
    assert!(before >= 3, "{before} samples from before");
    assert_eq!(agent.status().expect("answers")["spool"]["dropped"], 0);
}

/// A database that is older than it should be, or gone, does not pass for a whole one.
#[tokio::test]
async fn a_lost_database_is_told() {
    let mut collector = Collector::start(REGISTRY).await;
    let (log, older) = (
        collector.dir.path().join("data/log"),
        collector.dir.path().join("older"),
    );
    for (from, copy) in [(1u64, true), (101, false)] {
        let mut peer = Peer::join(collector.ingest, "a-1", BootId([6; 16]))
            .await
            .expect("joins");
        for seq in from..from + 100 {
            let at = now_ms() - 3_600_000 + i64::try_from(seq).expect("small") * 1_000;
            assert!(peer.send(entry(seq, heartbeat("self", &[at]))).await);
        }
        while peer.next().await.expect("goes on")
            != Some(Kind::Ack(wire::Ack {
                seq: from + 99,
                closed_for_s: 0,
            }))
        {}
        drop(peer);
        collector.terminate();
        if copy {
            let copied = std::process::Command::new("cp")
                .arg("-r")
                .args([&log, &older])
                .status();
            assert!(copied.expect("runs").success());
        }
        collector.launch().await;
        assert_eq!(collector.metric("denyut_lost_records_total").await, 0);
    }
    collector.terminate();
    std::fs::remove_dir_all(&log).expect("removes");
    std::fs::rename(&older, &log).expect("moves");
    collector.launch().await;
    assert!(collector.metric("denyut_lost_records_total").await >= 100);
    assert!(collector.log().contains("the log lost its end"));
    collector.terminate();

    std::fs::remove_file(collector.dir.path().join("data/state/db")).expect("removes");
    // Bounded: should it start after all, it would run for ever.
    let output = std::process::Command::new("timeout")
        .arg("20")
        .arg(program("denyut-collector"))
        .args(["serve", "--config"])
        .arg(collector.dir.path().join("collector.toml"))
        .output()
        .expect("runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("put it back, restore a backup"), "{said}");
}
