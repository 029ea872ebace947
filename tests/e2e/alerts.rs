//! Who is to know of an incident is told, once, whatever happens on the way.

use denyut_tests::hook::{Answer, Hook, Request};
use denyut_tests::{Agent, Collector, eventually, said};
use serde_json::{Value, json};
use std::net::{SocketAddr, TcpListener};
use std::process::Command;
use std::time::Duration;

pub(crate) const WITHIN: Duration = Duration::from_secs(60);
pub(crate) const OFFICES: &str = "[[office]]\ncode = \"36.73.02\"\nname = \"Cipocok Jaya\"\nagents = [\"a-1\"]\n\
                       [[office]]\ncode = \"36.73.03\"\nname = \"Kasemen\"\nagents = [\"b-1\"]\n\
                       [detection]\nrecovery_answers = 2\nrecovery_time = \"1s\"\npage_after_least = \"0s\"\npage_after_most = \"0s\"\ncommon_wait = \"0s\"\n";

/// One receiver of everything, which is told soon.
fn told(hook: &Hook) -> String {
    format!(
        "{OFFICES}[alert]\ngroup_wait = \"4s\"\ngroup_interval = \"1s\"\n\
         [[receiver]]\nname = \"dinas\"\nwebhook.url = \"http://{}/hook?key=rahasia\"\n[[route]]\nreceiver = \"dinas\"\n",
        hook.address
    )
}

pub(crate) fn agent(collector: &Collector, id: &str, target: SocketAddr) -> Agent {
    let config = format!(
        "agent = \"{id}\"\nheartbeat = \"1s\"\n[collector]\naddresses = [\"http://{}\"]\nreconnect_max = \"1s\"\n\
         [[target]]\nname = \"port\"\nrole = \"server\"\nprobe = \"tcp://{target}\"\ninterval = \"1s\"\ntimeout = \"500ms\"\n",
        collector.ingest
    );
    Agent::start(None, &config)
}

/// Where nobody answers.
pub(crate) fn nowhere() -> SocketAddr {
    "127.0.0.1:9".parse().expect("an address")
}

/// Waits until so many messages came; returns the last.
pub(crate) async fn message(hook: &Hook, count: usize) -> Request {
    let look = || async { hook.taken().get(count - 1).cloned() };
    eventually(&format!("message {count}"), WITHIN, look).await
}

fn summaries(message: &Request) -> Vec<String> {
    let alerts = message.json()["alerts"].clone();
    let alerts = alerts.as_array().expect("a list").iter();
    alerts
        .map(|one| {
            one["annotations"]["summary"]
                .as_str()
                .expect("text")
                .to_owned()
        })
        .collect()
}

pub(crate) async fn act(collector: &Collector, deed: &str, mut body: Value) {
    let by = body.as_object_mut().and_then(|body| body.remove("by"));
    let by = by.expect("who").as_str().expect("text").to_owned();
    let path = format!("/api/v1/incidents/1/{deed}");
    let (status, answer) = collector.post_as(&by, &path, &body).await;
    assert!(status.is_success(), "{answer}");
}

#[tokio::test]
async fn what_fails_together_is_one_message_and_its_end_another() {
    let hook = Hook::start();
    let secret = tempfile::NamedTempFile::new().expect("makes");
    std::fs::write(secret.path(), "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n").expect("writes");
    let config = told(&hook).replace(
        "[[route]]",
        &format!(
            "webhook.secret_file = \"{}\"\n[[route]]",
            secret.path().display()
        ),
    );
    let collector = Collector::start(&config).await;
    let listener = TcpListener::bind("127.0.0.1:0").expect("listens");
    let target = listener.local_addr().expect("is bound");
    let _agents = [
        agent(&collector, "a-1", target),
        agent(&collector, "b-1", target),
    ];
    let up = || async {
        let links = [
            collector.json("/api/v1/offices/36.73.02/links").await,
            collector.json("/api/v1/offices/36.73.03/links").await,
        ];
        links
            .iter()
            .all(|links| links[0]["state"] == "up")
            .then_some(())
    };
    eventually("both are up", WITHIN, up).await;
    drop(listener);
    let first = message(&hook, 1).await;
    assert_eq!(first.line, "POST /hook?key=rahasia");
    let body = first.json();
    assert_eq!(
        (&body["version"], &body["status"], &body["receiver"]),
        (&json!("4"), &json!("firing"), &json!("dinas"))
    );
    let all = summaries(&first);
    assert_eq!(all.len(), 2, "{body}");
    // Which of the two is seen first is chance.
    let (one, other) = if all[0].starts_with("Kasemen") {
        (1, 0)
    } else {
        (0, 1)
    };
    assert!(
        all[one].starts_with("Cipocok Jaya: Server perekaman mati sejak ")
            && all[one].ends_with(" WIB."),
        "{all:?}"
    );
    assert_eq!(body["alerts"][other]["labels"]["office"], "36.73.03");
    assert_eq!(
        body["alerts"][0]["generatorURL"],
        "https://denyut.example/insiden/1"
    );
    // It is signed as the Standard Webhooks say; OpenSSL is the judge.
    let signed = format!(
        "{}.{}.{}",
        first.headers["webhook-id"], first.headers["webhook-timestamp"], first.body
    );
    let file = tempfile::NamedTempFile::new().expect("makes");
    std::fs::write(file.path(), signed).expect("writes");
    let script = format!(
        "key=$(printf %s MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw | base64 -d | od -An -tx1 | tr -d ' \\n'); openssl dgst -sha256 -mac HMAC -macopt hexkey:$key -binary {} | base64",
        file.path().display()
    );
    let judged = Command::new("sh")
        .args(["-c", &script])
        .output()
        .expect("runs");
    let judged = String::from_utf8(judged.stdout).expect("text");
    assert_eq!(
        first.headers["webhook-signature"],
        format!("v1,{}", judged.trim())
    );

    act(&collector, "acknowledge", json!({"by": "Siti {until}"})).await;
    let second = message(&hook, 2).await;
    // What is new comes first; what somebody wrote is not taken for a place in the text.
    assert!(
        summaries(&second)[0].ends_with("; ditangani Siti {until}."),
        "{}",
        second.body
    );
    let _listener = TcpListener::bind(target).expect("listens");
    let over = || async {
        let all = hook.taken();
        let last = all.last()?.json();
        (last["status"] == "resolved").then_some(all)
    };
    let all = eventually("the end is told", WITHIN, over).await;
    let ends: Vec<String> = all[2..]
        .iter()
        .flat_map(summaries)
        .filter(|text| text.contains(": pulih "))
        .collect();
    assert_eq!(ends.len(), 2, "{ends:?}");
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(hook.taken().len(), all.len(), "nothing more is told");
    let log = collector.log();
    assert!(
        !log.contains("rahasia") && !log.contains("MfKQ9r8"),
        "{log}"
    );
}

#[tokio::test]
async fn somebody_outside_is_told_that_the_collector_watches_until_it_does_not() {
    let hook = Hook::start();
    let keys = format!(
        "[alert]\nalive = \"http://{}/ping/rahasia\"\nalive_every = \"10s\"\n",
        hook.address
    );
    let mut collector = Collector::start(&format!("{OFFICES}{keys}")).await;
    hook.answer(&[Answer::of(503, "")]);
    assert_eq!(message(&hook, 2).await.line, "GET /ping/rahasia");
    let log = collector.log();
    assert!(
        log.contains("does not answer") && !log.contains("rahasia"),
        "{log}"
    );
    collector.kill();
    tokio::time::sleep(Duration::from_secs(12)).await;
    assert_eq!(hook.taken().len(), 2);
}

#[tokio::test]
async fn a_message_arrives_once_whoever_is_killed_on_the_way() {
    let hook = Hook::start();
    let mut collector = Collector::start(&told(&hook)).await;
    let _agent = agent(&collector, "a-1", nowhere());
    // Too busy, broken, cut off; and then the collector is killed while it waits to send again.
    hook.answer(&[
        Answer::Status(429, "retry-after: 1\r\n", "slow down".to_owned()),
        Answer::of(503, "later"),
        Answer::Cut,
    ]);
    let third = message(&hook, 3).await;
    collector.kill();
    collector.launch().await;
    // Until it has arrived there is no other, whatever happens.
    act(&collector, "acknowledge", json!({"by": "Siti"})).await;
    let waiting = collector.json("/api/v1/messages").await;
    assert!(waiting.as_array().expect("a list").len() <= 1, "{waiting}");
    let fourth = message(&hook, 4).await;
    let ids: Vec<String> = hook.taken()[..4]
        .iter()
        .map(|one| one.headers["webhook-id"].clone())
        .collect();
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    assert_eq!(
        (third.body, &fourth.headers["webhook-id"]),
        (fourth.body, &ids[0])
    );
    let fifth = message(&hook, 5).await;
    assert!(
        summaries(&fifth)[0].ends_with("; ditangani Siti."),
        "{}",
        fifth.body
    );
    // The incident says who was told, and as what.
    let told = || async {
        let told = collector.json("/api/v1/incidents/1").await["told"].clone();
        let told = told.as_array().expect("a list").clone();
        let told = told
            .iter()
            .map(|one| format!("{} {}", one["receiver"], one["state"]));
        let told: Vec<String> = told.collect();
        (told.len() >= 2).then_some(told)
    };
    let told = eventually("both tellings are kept", WITHIN, told).await;
    assert_eq!(told, [r#""dinas" "firing""#, r#""dinas" "acknowledged""#]);
    let shown = said(&collector.ctl(&["incident", "show", "1"]));
    assert!(shown.contains("dinas was told: it began"), "{shown}");
    // Killed again and again it tells nothing twice.
    for _ in 0..3 {
        collector.kill();
        collector.launch().await;
    }
    let empty = || async { (collector.json("/api/v1/messages").await == json!([])).then_some(()) };
    eventually("nothing waits", WITHIN, empty).await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(hook.taken().len(), 5);
}

#[tokio::test]
async fn what_a_receiver_refuses_is_kept_and_shown_and_sent_again_when_asked() {
    let hook = Hook::start();
    let config = told(&hook)
        + "regions = [\"36.73\"]\ncauses = [\"server\", \"uplink\"]\nseverities = [\"warning\"]\n";
    let collector = Collector::start(&config).await;
    let _agent = agent(&collector, "a-1", nowhere());
    hook.answer(&[Answer::of(400, "chat not found\u{1}")]);
    message(&hook, 1).await;
    let dead = || async {
        let all = collector.json("/api/v1/messages").await;
        all[0]["dead_ms"].as_i64().map(|_| all[0].clone())
    };
    let dead = eventually("it is dead", WITHIN, dead).await;
    let error = dead["error"].as_str().expect("text");
    assert!(
        error.contains("400") && error.ends_with("chat not found"),
        "{error}"
    );
    let line = said(&collector.ctl(&["message", "list"]));
    assert!(
        line.contains("dinas") && line.contains("DEAD SINCE") && line.contains("chat not found"),
        "{line}"
    );
    let metrics = collector.get("/metrics").await.expect("metrics");
    assert!(
        metrics.contains("denyut_messages_total{receiver=\"dinas\",result=\"dead\"} 1"),
        "{metrics}"
    );
    let number = dead["number"].to_string();
    let resent = collector.ctl(&["message", "resend", &number]);
    assert!(resent.status.success(), "{}", said(&resent));
    let second = message(&hook, 2).await;
    assert_eq!(dead["id"], second.headers["webhook-id"]);
    let empty = || async { (collector.json("/api/v1/messages").await == json!([])).then_some(()) };
    eventually("nothing waits", WITHIN, empty).await;
    let again = said(&collector.ctl(&["message", "resend", &number]));
    assert!(again.contains("there is no dead message"), "{again}");
    // A test goes past routes and outbox.
    let tested = said(&collector.operate(&["message", "test", "--receiver", "dinas"]));
    assert!(tested.contains("dinas (webhook) took it."), "{tested}");
    let third = message(&hook, 3).await;
    assert!(
        third.body.contains("Ini pesan uji dari denyut."),
        "{}",
        third.body
    );
    hook.answer(&[Answer::of(403, "no")]);
    let tested = said(&collector.operate(&["message", "test", "--receiver", "dinas"]));
    assert!(
        tested.contains("did not take it: 403 Forbidden: no"),
        "{tested}"
    );
    // Who would be told, and why not.
    for (arguments, text) in [
        (
            &["--cause", "uplink"][..],
            "dinas (webhook) is told: every warning incident in 36.73 by server or uplink.",
        ),
        (&["--cause", "lan"][..], "for its `causes`"),
        (
            &["--cause", "uplink", "--relapse"][..],
            "for its `severities`",
        ),
        (
            &["--cause", "rain"][..],
            "`--cause` = `rain`: no such cause",
        ),
    ] {
        let ran =
            collector.operate(&[&["route", "test", "--office", "36.73.02"], arguments].concat());
        assert!(said(&ran).contains(text), "{}", said(&ran));
        // The running collector says the same.
        if !arguments.contains(&"rain") {
            let asked =
                collector.ctl(&[&["route", "test", "--office", "36.73.02"], arguments].concat());
            assert_eq!(asked.stdout, ran.stdout, "{}", said(&asked));
        }
    }
}

#[tokio::test]
async fn what_is_silenced_is_told_to_nobody_until_the_silence_is_over() {
    let hook = Hook::start();
    let mut collector = Collector::start(&told(&hook)).await;
    let run = |collector: &Collector, arguments: &[&str]| {
        said(&collector.ctl(&[&["silence"], arguments].concat()))
    };
    let add = [
        "add",
        "--region",
        "36.73.02",
        "--cause",
        "server",
        "--by",
        "Siti",
        "--why",
        "server dipindah",
        "--for",
        "8h",
    ];
    let line = run(&collector, &add);
    assert!(
        ["36.73.02", "server", "Siti", "server dipindah"]
            .iter()
            .all(|text| line.contains(text)),
        "{line}"
    );
    let asked = collector.operate(&["route", "test", "--office", "36.73.02", "--cause", "server"]);
    let asked = said(&asked);
    assert!(
        asked.contains("Silence 1 holds until ") && asked.contains("(Siti: server dipindah)"),
        "{asked}"
    );
    // It is kept.
    collector.kill();
    collector.launch().await;
    let _agent = agent(&collector, "a-1", nowhere());
    let called = || async {
        let all = collector.json("/api/v1/incidents").await;
        all[0]["paged_ms"].as_i64().map(|_| ())
    };
    eventually("somebody is to be called", WITHIN, called).await;
    tokio::time::sleep(Duration::from_secs(8)).await;
    assert!(hook.taken().is_empty(), "{:?}", hook.taken());
    for (body, status, text) in [
        (
            json!({"regions": [], "why": "b", "for": "1h"}),
            400,
            "`regions` = `0`",
        ),
        (
            json!({"regions": ["x"], "why": "b", "for": "1h"}),
            400,
            "not a region code",
        ),
        (
            json!({"regions": ["36"], "why": " ", "for": "1h"}),
            400,
            "`why` = ``: empty",
        ),
        (
            json!({"regions": ["36"], "why": "b"}),
            400,
            "missing field `for`",
        ),
        (
            json!({"regions": ["36"], "why": "b", "for": "1y"}),
            400,
            "out of range",
        ),
        (
            json!({"regions": ["36"], "why": "b", "for": "1h", "causes": ["rain"]}),
            400,
            "unknown variant `rain`",
        ),
    ] {
        let (got, problem) = collector.post("/api/v1/silences", &body).await;
        let detail = problem["detail"].as_str().unwrap_or_default();
        assert!(
            got.as_u16() == status && detail.contains(text),
            "{body}: {got} {problem}"
        );
    }
    let (ended, _) = collector.post("/api/v1/silences/1/end", &json!({})).await;
    assert!(ended.is_success());
    let first = message(&hook, 1).await;
    assert!(
        summaries(&first)[0].starts_with("Cipocok Jaya: "),
        "{}",
        first.body
    );
    let (again, _) = collector.post("/api/v1/silences/1/end", &json!({})).await;
    assert_eq!(again, 404);
    let all = collector.json("/api/v1/silences").await;
    let until = all[0]["until_ms"].as_i64().expect("a time");
    assert!(until <= denyut_tests::now_ms(), "{all}");
}
