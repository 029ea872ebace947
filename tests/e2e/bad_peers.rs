//! What must not come in is refused with the field, the value and the fix, and disturbs nobody else.

use denyut_proto::wire::collector_message::Kind;
use denyut_proto::wire::ingest_client::IngestClient;
use denyut_proto::wire::{AgentMessage, Refusal, agent_message};
use denyut_proto::{BootId, wire};
use denyut_tests::peer::{Peer, entry, entry_of, heartbeat, hello, uptime_at};
use denyut_tests::tls::Authority;
use denyut_tests::{Agent, Collector, eventually, install_crypto, now_ms};
use prost::Message;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tonic::transport::Channel;

const REGISTRY: &str =
    "[[office]]\ncode = \"36.73.02\"\nname = \"Cipocok Jaya\"\nagents = [\"a-1\", \"a-2\"]\n";
const BOOT: BootId = BootId([3; 16]);
const DAY_MS: i64 = 86_400_000;

/// Sends one entry on a stream of its own; returns its refusal, or `None` if it was acknowledged.
async fn outcome(collector: &Collector, seq: u64, bytes: Vec<u8>) -> Option<Refusal> {
    outcome_of(collector, entry(seq, bytes), seq).await
}

async fn outcome_of(collector: &Collector, message: AgentMessage, seq: u64) -> Option<Refusal> {
    let mut peer = Peer::join(collector.ingest, "a-1", BOOT)
        .await
        .expect("joins");
    assert!(peer.send(message).await);
    let mut refusal = None;
    loop {
        match peer.next().await.expect("goes on") {
            Some(Kind::Refusal(refused)) => refusal = Some(refused),
            Some(Kind::Ack(ack)) if ack.seq == seq => return refusal,
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn bad_entries_are_refused_by_field_and_the_stream_goes_on() {
    let mut collector = Collector::start(REGISTRY).await;
    let now = now_ms();
    let mut bad_reason = wire::Heartbeat::decode(&heartbeat("server", &[now])[..]).expect("valid");
    bad_reason.samples[0].rtt_us[0] = 0;
    bad_reason.samples[0].failures.push(wire::FailureRun {
        reason: 999,
        count: 1,
        detail: 0,
    });
    let cases = [
        (
            "heartbeat.at",
            heartbeat("server", &[1_000]),
            "1970-01-01T00:00:01.000Z",
            "clock",
        ),
        (
            "heartbeat.at",
            heartbeat("server", &[now + 10 * 60_000]),
            "20",
            "ahead of the collector's clock",
        ),
        (
            "heartbeat.samples[server].at",
            heartbeat("server", &[now - 36 * DAY_MS, now - 20 * DAY_MS]),
            "20",
            "retention.raw",
        ),
        ("heartbeat", vec![0xff; 50], "50 bytes", "denyut.proto"),
        ("heartbeat", vec![0; 6_145], "6145 bytes", "at most 6144"),
        (
            "heartbeat.samples[0].failures.reason",
            bad_reason.encode_to_vec(),
            "999",
            "update the collector",
        ),
    ];
    let count = cases.len() as u64;
    for (i, (field, bytes, value, fix)) in cases.into_iter().enumerate() {
        // Of an earlier boot, whose clock nobody can correct any more.
        let seq = 10 + i as u64;
        let refusal = outcome_of(&collector, entry_of(&[8; 16], seq, bytes), seq).await;
        let refusal = refusal.unwrap_or_else(|| panic!("{field} was accepted"));
        assert_eq!(refusal.field, field);
        assert!(refusal.value.contains(value), "{refusal:?}");
        assert!(refusal.fix.contains(fix), "{refusal:?}");
    }
    assert_eq!(
        outcome(&collector, 1, heartbeat("server", &[now])).await,
        None
    );
    // Twenty days old is late, not wrong.
    assert_eq!(
        outcome(&collector, 2, heartbeat("server", &[now - 20 * DAY_MS])).await,
        None
    );
    // A field that only a newer version knows (number 99, a varint) is no fault.
    let newer = [heartbeat("server", &[now - 1]), vec![0x98, 0x06, 0x01]].concat();
    assert_eq!(outcome(&collector, 3, newer).await, None);
    let zero = outcome(&collector, 0, heartbeat("server", &[now]))
        .await
        .expect("refused");
    assert_eq!(zero.field, "seq");
    assert_eq!(collector.metric("denyut_entries_total").await, 3);
    let metrics = collector.get("/metrics").await.expect("metrics");
    let refused: u64 = metrics
        .lines()
        .filter(|line| line.starts_with("denyut_refused_entries_total"))
        .map(|line| {
            line.rsplit(' ')
                .next()
                .and_then(|n| n.parse::<u64>().ok())
                .expect("a number")
        })
        .sum();
    assert_eq!(refused, count + 1);
    assert!(collector.runs());
}

/// The machine's clock was 400 days behind, or ten minutes ahead, and is right now: its uptime says when the samples were
/// truly taken.
#[tokio::test]
async fn times_of_a_clock_that_was_wrong_are_corrected() {
    let collector = Collector::start(REGISTRY).await;
    let true_at = now_ms() - 3_600_000;
    for (seq, off_ms) in [(1, -400 * DAY_MS), (2, 10 * 60_000)] {
        let at = true_at + i64::try_from(seq).expect("small") * 1_000;
        let wrong =
            wire::Heartbeat::decode(&heartbeat("server", &[at + off_ms])[..]).expect("valid");
        let uptime_ms = u64::try_from(uptime_at(at).as_millis()).expect("fits");
        let made = wire::Heartbeat {
            uptime_ms,
            epoch_ms: at + off_ms - i64::try_from(uptime_ms).expect("fits"),
            ..wrong
        };
        assert_eq!(outcome(&collector, seq, made.encode_to_vec()).await, None);
    }
    // A small error is left as it was told.
    let told = true_at + 3_000;
    let slightly = wire::Heartbeat::decode(&heartbeat("server", &[told])[..]).expect("valid");
    let slightly = wire::Heartbeat {
        uptime_ms: slightly.uptime_ms + 20_000,
        epoch_ms: slightly.epoch_ms - 20_000,
        ..slightly
    };
    assert_eq!(outcome(&collector, 3, slightly.encode_to_vec()).await, None);
    let stored = || async {
        let path = "/api/v1/offices/36.73.02/links/a-1/server/samples";
        let answer: serde_json::Value = serde_json::from_str(&collector.get(path).await?).ok()?;
        let samples = answer["samples"].as_array()?.clone();
        (samples.len() == 3).then_some(samples)
    };
    let stored = eventually("the samples are stored", Duration::from_secs(10), stored).await;
    for (sample, expected) in stored.iter().zip([true_at + 1_000, true_at + 2_000, told]) {
        let off = sample["at_ms"].as_i64().expect("a time") - expected;
        assert!(off.abs() < 2_000, "off by {off} ms");
    }
    assert_eq!(stored[2]["at_ms"], told);
}

#[tokio::test]
async fn bad_streams_end_with_a_reason() {
    let mut collector = Collector::start(REGISTRY).await;
    let changed = |change: fn(&mut wire::Hello)| {
        let mut message = hello("a-1", BOOT);
        if let Some(agent_message::Kind::Hello(hello)) = &mut message.kind {
            change(hello);
        }
        message
    };
    let cases = [
        (
            hello("nobody", BOOT),
            Code::PermissionDenied,
            "unknown agent; let it join (`denyutctl invitation create`), or add it to `agents`",
        ),
        (
            hello("No Body", BOOT),
            Code::InvalidArgument,
            "`hello.agent` = `No Body`",
        ),
        (
            changed(|hello| hello.boot = vec![1, 2]),
            Code::InvalidArgument,
            "`hello.boot` = `2 bytes`",
        ),
        (
            changed(|hello| hello.protocol = 9),
            Code::FailedPrecondition,
            "`hello.protocol` = `9`",
        ),
        (
            entry(1, vec![]),
            Code::InvalidArgument,
            "the first message must be a Hello",
        ),
        (
            AgentMessage::default(),
            Code::InvalidArgument,
            "the first message must be a Hello",
        ),
        (
            changed(|hello| hello.version = "x".repeat(256)),
            Code::InvalidArgument,
            "`hello.version` = `xxx",
        ),
        (
            changed(|hello| hello.version = "x".repeat(8_000)),
            Code::OutOfRange,
            "too large",
        ),
    ];
    for (first, code, text) in cases {
        let status = match Peer::connect(collector.ingest, first).await {
            Err(status) => status,
            Ok(peer) => peer.end().await,
        };
        assert_eq!(status.code(), code, "{status:?}");
        assert!(status.message().contains(text), "{status:?}");
    }
    // A second hello, and a newer stream of the same agent, end the older one.
    let peer = Peer::join(collector.ingest, "a-1", BOOT)
        .await
        .expect("joins");
    assert!(peer.send(hello("a-1", BOOT)).await);
    assert!(peer.end().await.message().contains("a second Hello"));
    let older = Peer::join(collector.ingest, "a-1", BOOT)
        .await
        .expect("joins");
    let _newer = Peer::join(collector.ingest, "a-1", BOOT)
        .await
        .expect("joins");
    assert_eq!(older.end().await.code(), Code::Aborted);
    assert!(collector.runs());
    assert!(!collector.log().contains("panicked"));
}

#[tokio::test]
async fn who_does_not_speak_grpc_is_told_or_cut_off() {
    let mut collector = Collector::start(REGISTRY).await;
    let answer = reqwest::get(format!("http://{}/", collector.ingest))
        .await
        .expect("answers");
    assert_eq!(answer.status(), 404);
    let text = answer.text().await.expect("text");
    assert!(
        text.contains("gRPC") && text.contains(&collector.api.to_string()),
        "{text}"
    );
    let mut bytes = [0u8; 4096];
    rand::Rng::fill(&mut rand::rng(), &mut bytes);
    for junk in [
        &bytes[..],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff",
        b"\0",
    ] {
        let mut stream = TcpStream::connect(collector.ingest)
            .await
            .expect("connects");
        stream.write_all(junk).await.expect("sends");
        stream.shutdown().await.ok();
        let mut rest = Vec::new();
        let read = stream.read_to_end(&mut rest);
        tokio::time::timeout(Duration::from_secs(10), read)
            .await
            .expect("is cut off")
            .ok();
    }
    assert!(collector.runs());
    assert_eq!(
        outcome(&collector, 1, heartbeat("server", &[now_ms()])).await,
        None
    );
}

/// The real agent: told that it is unknown, it says so in `status`, keeps its samples, and delivers them when
/// it is registered.
#[tokio::test]
async fn an_unknown_agent_keeps_its_samples_and_says_why() {
    let collector = Collector::start(REGISTRY).await;
    let agent = Agent::start(
        None,
        &format!(
            "agent = \"stranger\"\nheartbeat = \"1s\"\n[collector]\naddresses = [\"http://{}\"]\nreconnect_max = \"1s\"\n",
            collector.ingest
        ),
    );
    let told = || async {
        let error = agent.status()?["connection"]["last_error"]
            .as_str()?
            .to_owned();
        error
            .contains(
                "unknown agent; let it join (`denyutctl invitation create`), or add it to `agents`",
            )
            .then_some(())
    };
    eventually("the agent is told", Duration::from_secs(10), told).await;
    let keeps = || async { (agent.status()?["spool"]["next"].as_u64()? > 3).then_some(()) };
    eventually("heartbeats wait", Duration::from_secs(10), keeps).await;
    assert_eq!(agent.status().expect("answers")["spool"]["dropped"], 0);
}

#[tokio::test]
async fn the_api_answers_with_problems() {
    let collector = Collector::start(REGISTRY).await;
    assert_eq!(
        outcome(&collector, 1, heartbeat("server", &[now_ms()])).await,
        None
    );
    let known = || async {
        collector
            .get("/api/v1/offices/36.73.02/links/a-1/server/samples")
            .await
    };
    eventually("the link is known", Duration::from_secs(5), known).await;
    let link = "/api/v1/offices/36.73.02/links/a-1/server";
    let cases = [
        (
            "/api/v1/offices/36.73.99".to_owned(),
            404,
            "there is no office 36.73.99",
        ),
        (
            "/api/v1/offices/Serang".to_owned(),
            400,
            "`code` = `Serang`",
        ),
        (
            "/api/v1/offices/36.73.02/links/a-1/nothing/samples".to_owned(),
            404,
            "there is no link a-1/nothing",
        ),
        (
            "/api/v1/offices/36.73.01/links/a-1/server/samples".to_owned(),
            404,
            "at office 36.73.01",
        ),
        (format!("{link}/samples?from_ms=abc"), 400, "invalid digit"),
        (
            format!("{link}/samples?from=1"),
            400,
            "`from` = `…`: no such parameter; it has from_ms, to_ms",
        ),
        (
            format!("{link}/samples?from_ms=9&to_ms=9"),
            400,
            "`from_ms` = `9`",
        ),
        (
            format!("{link}/samples?to_ms=9223372036854775807"),
            400,
            "not a time",
        ),
        (format!("{link}/buckets?step_ms=0"), 400, "`step_ms` = `0`"),
        (
            format!("{link}/buckets?from_ms=0&step_ms=1000"),
            400,
            "more than 2000 buckets",
        ),
        ("/api/v1/incidents?limit=0".to_owned(), 400, "`limit` = `0`"),
        (
            "/api/v1/incidents?office=x".to_owned(),
            400,
            "`office` = `x`",
        ),
        (
            "/api/v1/incidents/77".to_owned(),
            404,
            "there is no incident 77",
        ),
        ("/api/v1/incidents/x".to_owned(), 400, "x"),
        ("/nothing".to_owned(), 404, "/nothing"),
    ];
    for (path, status, text) in cases {
        let request = collector.request(reqwest::Method::GET, &path);
        let answer = request.send().await.expect("answers");
        assert_eq!(answer.status(), status, "{path}");
        assert_eq!(
            answer.headers()["content-type"],
            "application/problem+json",
            "{path}"
        );
        let problem: serde_json::Value = answer.json().await.expect("JSON");
        assert_eq!(problem["status"], status, "{path}");
        assert!(
            problem["detail"]
                .as_str()
                .is_some_and(|detail| detail.contains(text)),
            "{path}: {problem}"
        );
    }
    let (probed, _) = collector
        .post(&format!("{link}/probe"), &serde_json::json!({}))
        .await;
    assert_eq!(probed, 409, "the agent is not connected");
    let wrong = collector.request(reqwest::Method::POST, "/api/v1/offices");
    assert_eq!(wrong.send().await.expect("answers").status(), 405);
}

/// Mutual TLS: a certificate speaks for its own agent only.
#[tokio::test]
async fn an_agent_cannot_speak_with_another_agents_certificate() {
    install_crypto();
    let tls = tempfile::tempdir().expect("tempdir");
    let folder = tls.path().display();
    let authority = Authority::new(tls.path());
    authority.agent("a-2");
    let keys = format!("ca = \"{folder}/ca.pem\"\nca_key = \"{folder}/ca.key\"");
    let collector = Collector::start_at("127.0.0.1:0", &keys, REGISTRY).await;
    let config = |agent: &str| {
        format!(
            "agent = \"{agent}\"\n[collector]\naddresses = [\"https://{}\"]\nreconnect_max = \"1s\"\nca = \"{folder}/ca.pem\"\ncertificate = \"{folder}/a-2.pem\"\nkey = \"{folder}/a-2.key\"\n",
            collector.ingest
        )
    };
    let thief = Agent::start(None, &config("a-1"));
    let refused = || async {
        let error = thief.status()?["connection"]["last_error"]
            .as_str()?
            .to_owned();
        error.contains("the certificate is `a-2`'s").then_some(())
    };
    eventually("the thief is refused", Duration::from_secs(10), refused).await;
    let owner = Agent::start(None, &config("a-2"));
    let connected = || async { (owner.status()?["connection"]["connected"] == true).then_some(()) };
    eventually("the owner is connected", Duration::from_secs(10), connected).await;
    // Without a certificate nobody gets as far as a stream.
    assert!(Peer::join(collector.ingest, "a-2", BOOT).await.is_err());
    assert_eq!(collector.metric("denyut_streams").await, 1);
}

/// Who does not read what it is told is not listened to either, from when its connection is full; and holds up nobody else.
#[tokio::test]
async fn who_does_not_read_waits_alone() {
    let collector = Collector::start(REGISTRY).await;
    // A connection that is soon full.
    let channel = Channel::from_shared(format!("http://{}", collector.ingest))
        .expect("an address")
        .initial_stream_window_size(Some(65_535))
        .initial_connection_window_size(Some(65_535))
        .connect()
        .await
        .expect("connects");
    let (send, outbound) = mpsc::channel(1);
    send.send(hello("a-1", BOOT)).await.expect("there is room");
    let mut client = IngestClient::new(channel);
    let told = client.stream(ReceiverStream::new(outbound)).await;
    let mut told = told.expect("streams").into_inner();
    // Each of these is answered by itself, at length: with what is wrong with it.
    let wrong = wire::Heartbeat {
        samples: vec![wire::TargetSamples {
            target: "\u{1f642}".repeat(100),
            ..Default::default()
        }],
        ..Default::default()
    };
    let wrong = wrong.encode_to_vec();
    let mut said = 0u64;
    let stuck = Duration::from_secs(5);
    let next = |said: u64| send.send(entry(said + 1, wrong.clone()));
    while let Ok(sent) = tokio::time::timeout(stuck, next(said)).await {
        sent.expect("the stream is there");
        said += 1;
        assert!(said < 20_000, "it is listened to for ever");
    }
    let refused = || collector.metric("denyut_refused_entries_total");
    let listened = refused().await;
    assert!((100..said).contains(&listened), "{listened} of {said}");
    assert!(outcome_as("a-2", &collector).await.is_none());
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(refused().await, listened);
    // It reads: all of it is there, in order, and it is listened to again.
    let mut answers = 0;
    while answers < listened + 50 {
        let answer = tokio::time::timeout(Duration::from_secs(30), told.message()).await;
        let answer = answer.expect("in time").expect("goes on");
        if let Some(Kind::Refusal(refusal)) = answer.expect("an answer").kind {
            answers += 1;
            assert_eq!(refusal.seq, answers);
        }
    }
    assert!(refused().await >= listened + 50);
}

/// Sends one good entry as this agent; its refusal, or `None` if it was acknowledged.
async fn outcome_as(agent: &str, collector: &Collector) -> Option<Refusal> {
    let peer = Peer::join(collector.ingest, agent, BOOT).await;
    let mut peer = peer.expect("joins");
    assert!(peer.send(entry(1, heartbeat("server", &[now_ms()]))).await);
    loop {
        match peer.next().await.expect("goes on") {
            Some(Kind::Refusal(refused)) => return Some(refused),
            Some(Kind::Ack(_)) => return None,
            _ => {}
        }
    }
}
