//! What people do about an incident is kept, seen by everybody, and ends with what it was for.

use denyut_tests::{Agent, Collector, eventually, said};
use reqwest::StatusCode;
use serde_json::{Value, json};
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

const REGISTRY: &str = "[[office]]\ncode = \"36.73.02\"\nname = \"Cipocok Jaya\"\nagents = [\"a-1\"]\n\
                        [detection]\nrecovery_answers = 2\nrecovery_time = \"1s\"\n";
const WITHIN: Duration = Duration::from_secs(60);

fn agent(collector: &Collector, target: SocketAddr) -> Agent {
    let config = format!(
        "agent = \"a-1\"\nheartbeat = \"1s\"\n[collector]\naddresses = [\"http://{}\"]\nreconnect_max = \"1s\"\n\
         [[target]]\nname = \"port\"\nrole = \"server\"\nprobe = \"tcp://{target}\"\ninterval = \"1s\"\ntimeout = \"500ms\"\n",
        collector.ingest
    );
    Agent::start(None, &config)
}

/// Waits until the office's newest incident has this status; returns it.
async fn incident(collector: &Collector, status: &str) -> Value {
    let look = || async {
        let all = collector.get("/api/v1/incidents?office=36.73.02").await?;
        let all: Value = serde_json::from_str(&all).ok()?;
        let newest = all.get(0)?.clone();
        (newest["status"] == status).then_some(newest)
    };
    eventually(&format!("the incident is {status}"), WITHIN, look).await
}

/// Asks for something to be done; the status and what is answered.
async fn act(
    collector: &Collector,
    number: &str,
    deed: &str,
    mut body: Value,
) -> (StatusCode, Value) {
    let by = body.as_object_mut().and_then(|body| body.remove("by"));
    let by = by.expect("who").as_str().expect("text").to_owned();
    let path = format!("/api/v1/incidents/{number}/{deed}");
    collector.post_as(&by, &path, &body).await
}

/// A port that answers until it is dropped; the same one again by its address.
fn listen(at: SocketAddr) -> TcpListener {
    let give_up = std::time::Instant::now() + WITHIN;
    loop {
        match TcpListener::bind(at) {
            Ok(listener) => return listener,
            Err(error) => assert!(std::time::Instant::now() < give_up, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[tokio::test]
async fn an_incident_is_acknowledged_until_what_it_was_for_is_over() {
    let mut collector = Collector::start(REGISTRY).await;
    let listener = listen("127.0.0.1:0".parse().expect("an address"));
    let target = listener.local_addr().expect("is bound");
    let _agent = agent(&collector, target);
    let up = || async {
        let office = collector.json("/api/v1/offices/36.73.02").await;
        (office["links"][0]["state"] == "up").then_some(())
    };
    eventually("the link is up", WITHIN, up).await;
    drop(listener);
    let number = incident(&collector, "open").await["number"].to_string();

    let siti = json!({"by": " Siti ", "why": "teknisi di jalan", "for": "4h"});
    let (status, view) = act(&collector, &number, "acknowledge", siti).await;
    assert_eq!(status, StatusCode::OK, "{view}");
    assert_eq!(view["status"], "acknowledged");
    let known = &view["acknowledged"];
    assert_eq!(
        (&known["by"], &known["why"]),
        (&json!("Siti"), &json!("teknisi di jalan"))
    );
    let holds =
        known["until_ms"].as_i64().expect("a time") - known["at_ms"].as_i64().expect("a time");
    assert_eq!(holds, 4 * 3_600_000);
    // Once it is said, it is kept.
    collector.kill();
    collector.launch().await;
    assert_eq!(
        incident(&collector, "acknowledged").await["acknowledged"],
        *known
    );

    let budi = json!({"by": "Budi", "text": "Kabel di tiang depan putus."});
    let (status, _) = act(&collector, &number, "notes", budi).await;
    assert_eq!(status, StatusCode::OK);
    let (_, view) = act(
        &collector,
        &number,
        "assign",
        json!({"by": "Siti", "to": "Budi"}),
    )
    .await;
    assert_eq!(view["assignee"], "Budi");
    let (status, view) = act(&collector, &number, "withdraw", json!({"by": "Siti"})).await;
    assert_eq!((status, &view["status"]), (StatusCode::OK, &json!("open")));
    let (status, problem) = act(&collector, &number, "withdraw", json!({"by": "Siti"})).await;
    assert_eq!(status, StatusCode::CONFLICT, "{problem}");

    // It ends with the trouble that it was for, and is not taken for another's.
    act(&collector, &number, "acknowledge", json!({"by": "Siti"})).await;
    let listener = listen(target);
    let over = incident(&collector, "probation").await;
    assert_eq!(over["acknowledged"], Value::Null);
    let (status, problem) = act(&collector, &number, "acknowledge", json!({"by": "Siti"})).await;
    assert_eq!(status, StatusCode::CONFLICT);
    let detail = problem["detail"].as_str().expect("text");
    assert!(
        detail.contains("there is nothing to acknowledge"),
        "{problem}"
    );
    let (status, _) = act(
        &collector,
        &number,
        "notes",
        json!({"by": "Budi", "text": "Disambung."}),
    )
    .await;
    assert_eq!(status, StatusCode::OK);
    drop(listener);
    let again = incident(&collector, "open").await;
    assert_eq!(again["number"].to_string(), number);
    let done: Vec<&str> = again["steps"]
        .as_array()
        .expect("steps")
        .iter()
        .filter_map(|step| step["what"].as_str())
        .collect();
    assert_eq!(
        done,
        [
            "acknowledge",
            "note",
            "assign",
            "withdraw",
            "acknowledge",
            "note"
        ]
    );
}

/// Deeds that cannot be done, each with its status and a part of what is said.
fn wrong(number: &str) -> Vec<(&str, &str, Value, u16, &str)> {
    vec![
        (
            number,
            "notes",
            json!({"by": "a"}),
            400,
            "missing field `text`",
        ),
        (
            number,
            "acknowledge",
            json!({"by": " "}),
            400,
            "`by` = ``: empty; write who you are",
        ),
        (
            number,
            "acknowledge",
            json!({"by": "a", "for": "1m"}),
            400,
            "`for` = `1m`: out of range; write 5m to 30days",
        ),
        (
            number,
            "acknowledge",
            json!({"by": "a", "for": "soon"}),
            400,
            "`for` = `soon`",
        ),
        (
            number,
            "acknowledge",
            json!({"by": "a", "until": 5}),
            400,
            "unknown field `until`",
        ),
        (
            number,
            "acknowledge",
            json!({"by": "x".repeat(101)}),
            400,
            "too long; write at most 100 characters",
        ),
        (
            number,
            "notes",
            json!({"by": "a", "text": "\n"}),
            400,
            "`text` = ``: empty",
        ),
        (
            number,
            "notes",
            json!({"by": "a", "text": "b\u{7}"}),
            400,
            "it holds the character U+0007",
        ),
        (
            number,
            "notes",
            json!({"by": "a", "text": "y".repeat(2_001)}),
            400,
            "`text`",
        ),
        (
            number,
            "assign",
            json!({"by": "a", "to": 5}),
            400,
            "invalid type",
        ),
        (
            "x",
            "notes",
            json!({"by": "a", "text": "b"}),
            400,
            "`number` = `x`",
        ),
        (
            "999",
            "notes",
            json!({"by": "a", "text": "b"}),
            404,
            "there is no incident 999",
        ),
    ]
}

#[tokio::test]
async fn what_cannot_be_done_is_refused_by_field() {
    let collector = Collector::start(REGISTRY).await;
    let nowhere: SocketAddr = "127.0.0.1:9".parse().expect("an address");
    let _agent = agent(&collector, nowhere);
    let number = incident(&collector, "open").await["number"].to_string();
    for (number, deed, body, status, text) in wrong(&number) {
        let (got, problem) = act(&collector, number, deed, body.clone()).await;
        let detail = problem["detail"].as_str().unwrap_or_default();
        assert!(
            got.as_u16() == status && detail.contains(text),
            "{body}: {got} {problem}"
        );
    }
    let path = format!("/api/v1/incidents/{number}");
    assert_eq!(collector.json(&path).await["steps"], json!([]));
}

#[tokio::test]
async fn operators_do_it_on_the_command_line() {
    let collector = Collector::start(REGISTRY).await;
    let nowhere: SocketAddr = "127.0.0.1:9".parse().expect("an address");
    let _agent = agent(&collector, nowhere);
    let number = incident(&collector, "open").await["number"].to_string();
    let run = |arguments: &[&str]| {
        let ran = collector.ctl(&[&["incident"], arguments].concat());
        assert!(ran.status.success(), "{arguments:?}: {}", said(&ran));
        String::from_utf8(ran.stdout).expect("text")
    };
    let list = run(&["list"]);
    let words: Vec<&str> = list
        .lines()
        .nth(1)
        .expect("a line")
        .split_whitespace()
        .collect();
    assert_eq!(words[..4], [number.as_str(), "open", "36.73.02", "server"]);
    // By the office's clock.
    assert_eq!(words[6], "WIB");
    let line = run(&[
        "ack",
        &number,
        "--by",
        "Siti",
        "--for",
        "2h",
        "--why",
        "sudah dilaporkan",
    ]);
    assert!(
        line.contains("acknowledged") && line.contains("Siti"),
        "{line}"
    );
    run(&["note", &number, "--by", "Budi", "Tiket ISP 1234"]);
    let line = run(&["assign", &number, "--by", "Siti", "--to", "Budi"]);
    assert!(line.trim_end().ends_with("Budi"), "{line}");
    let shown = run(&["show", &number]);
    for text in [
        "a-1/port: down",
        "Siti knows of it until",
        ": sudah dilaporkan",
        "Budi notes: Tiket ISP 1234",
        "Siti gave it to Budi",
    ] {
        assert!(shown.contains(text), "{text}: {shown}");
    }
    let all: Value = serde_json::from_str(&run(&["list", "--all", "-o", "json"])).expect("JSON");
    assert_eq!(all[0]["assignee"], "Budi");
    let table = run(&["list", "-o", "csv"]);
    assert!(table.starts_with("number,status,where,cause,"), "{table}");
    for (arguments, text) in [
        (&["show", "77"][..], "there is no incident 77"),
        (&["withdraw", &number, "--by", " "][..], "`by` = ``: empty"),
        (
            &["acknowledge", &number, "--by", "a", "--for", "1s"][..],
            "`for` = `1s`",
        ),
    ] {
        let ran = collector.ctl(&[&["incident"], arguments].concat());
        assert!(
            !ran.status.success() && said(&ran).contains(text),
            "{}",
            said(&ran)
        );
    }
}
