//! What is true of all answers of the API: pages, streams, tables, what did not change, what was asked twice, and what was missed.

use crate::alerts::{OFFICES, WITHIN, agent, nowhere};
use denyut_tests::{Collector, eventually, program, said};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::time::Duration;

fn registry(count: usize) -> String {
    let office = |i| {
        format!("[[office]]\ncode = \"36.73.{i:02}\"\nname = \"Kantor {i}\"\nregency = \"=1+1\"\n")
    };
    (1..=count).map(office).collect()
}

#[tokio::test]
async fn a_list_comes_in_pages_or_whole() {
    let collector = Collector::start(&registry(25)).await;
    let mut path = "/api/v1/offices?region=36.73&limit=10".to_owned();
    let mut codes = Vec::new();
    let mut pages = 0;
    loop {
        let answer = collector
            .request(Method::GET, &path)
            .send()
            .await
            .expect("answers");
        let link = answer
            .headers()
            .get("link")
            .map(|link| link.to_str().expect("text").to_owned());
        let page: Vec<Value> = answer.json().await.expect("JSON");
        codes.extend(
            page.iter()
                .map(|one| one["code"].as_str().expect("a code").to_owned()),
        );
        pages += 1;
        let Some(link) = link else { break };
        let (next, rel) = link
            .trim_start_matches('<')
            .split_once('>')
            .expect("a link");
        assert_eq!(rel, "; rel=\"next\"");
        path = next.to_owned();
    }
    let all: Vec<String> = (1..=25).map(|i| format!("36.73.{i:02}")).collect();
    assert_eq!((pages, &codes), (3, &all));
    let lines = collector
        .get("/api/v1/offices?format=ndjson")
        .await
        .expect("answers");
    let listed: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(listed.len(), 25);
    assert_eq!(
        json!(listed[..10]),
        collector.json("/api/v1/offices?limit=10").await
    );
    let table = collector
        .get("/api/v1/offices?format=csv&limit=3")
        .await
        .expect("answers");
    let rows: Vec<&str> = table.split("\r\n").collect();
    assert_eq!(rows.len(), 5, "a head, three, and the end: {table}");
    assert!(
        rows[0].starts_with("code,name,regency,isp,state,"),
        "{table}"
    );
    // A table program must not take a name for a formula.
    assert!(
        rows[1].starts_with("36.73.01,Kantor 1,'=1+1,,unknown,"),
        "{table}"
    );
    for (query, count) in [
        ("q=kantor%202", 7),
        ("q=36.73.25", 1),
        ("state=down", 0),
        ("state=unknown&region=36.73.02", 1),
        ("region=31", 0),
    ] {
        let found = collector.json(&format!("/api/v1/offices?{query}")).await;
        assert_eq!(
            found.as_array().map(Vec::len),
            Some(count),
            "{query}: {found}"
        );
    }
    for (query, text) in [
        ("limit=0", "`limit` = `0`: nothing would come"),
        ("limit=-1", "limit: invalid digit"),
        ("state=dead", "unknown variant `dead`"),
        ("region=banten", "`region` = `banten`: not a region code"),
        ("format=xml", "unknown variant `xml`"),
        (
            "colour=red",
            "no such parameter; it has after, cause, format,",
        ),
    ] {
        let answer = collector
            .request(Method::GET, &format!("/api/v1/offices?{query}"))
            .send()
            .await
            .expect("answers");
        assert_eq!(answer.status(), 400, "{query}");
        let problem: Value = answer.json().await.expect("JSON");
        assert!(
            problem["detail"]
                .as_str()
                .is_some_and(|detail| detail.contains(text)),
            "{query}: {problem}"
        );
    }
}

#[tokio::test]
async fn what_did_not_change_is_not_sent_again() {
    let collector = Collector::start(&registry(3)).await;
    let first = collector
        .request(Method::GET, "/api/v1/offices")
        .send()
        .await
        .expect("answers");
    let tag = first.headers()["etag"].clone();
    assert_eq!(first.headers()["cache-control"], "private, no-cache");
    let again = |tag| async {
        collector
            .request(Method::GET, "/api/v1/offices")
            .header("if-none-match", tag)
            .send()
            .await
            .expect("answers")
    };
    let same = again(tag).await;
    assert_eq!(
        (same.status(), same.content_length().unwrap_or(0)),
        (StatusCode::NOT_MODIFIED, 0)
    );
    assert_eq!(
        again("W/\"other\"".parse().expect("a value"))
            .await
            .status(),
        200
    );
}

#[tokio::test]
async fn what_is_asked_twice_under_a_key_is_done_once() {
    let mut collector = Collector::start(&registry(3)).await;
    let ask = async |collector: &Collector, key: &str, path: &str, body: &Value| {
        let request = collector
            .request(Method::POST, path)
            .header("idempotency-key", key);
        let answer = request.json(body).send().await.expect("answers");
        let again = answer.headers().contains_key("idempotent-replayed");
        (
            answer.status().as_u16(),
            again,
            answer.json::<Value>().await.unwrap_or_default(),
        )
    };
    let wish = json!({"regions": ["36.73"], "why": "pindah", "for": "1h"});
    let (status, again, made) = ask(&collector, "k1", "/api/v1/silences", &wish).await;
    assert_eq!((status, again), (201, false));
    // Also after the collector was killed.
    collector.kill();
    collector.launch().await;
    assert_eq!(
        ask(&collector, "k1", "/api/v1/silences", &wish).await,
        (201, true, made)
    );
    let other = json!({"regions": ["36.73"], "why": "lain", "for": "1h"});
    assert_eq!(
        ask(&collector, "k1", "/api/v1/silences", &other).await.0,
        422
    );
    let all = collector.json("/api/v1/silences").await;
    assert_eq!(all.as_array().map(Vec::len), Some(1), "{all}");
    // At the same time, too.
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..10 {
        let request = collector
            .request(Method::POST, "/api/v1/silences")
            .header("idempotency-key", "k2")
            .json(&wish);
        asking.spawn(async move { request.send().await.expect("answers").status().as_u16() });
    }
    let statuses = asking.join_all().await;
    assert!(
        statuses.iter().all(|status| [201, 409].contains(status)) && statuses.contains(&201),
        "{statuses:?}"
    );
    let all = collector.json("/api/v1/silences").await;
    assert_eq!(all.as_array().map(Vec::len), Some(2), "{all}");
    // What was refused may be done the next time; a secret is not kept.
    let wrong = json!({"regions": ["x"], "why": "a", "for": "1h"});
    assert_eq!(
        ask(&collector, "k3", "/api/v1/silences", &wrong).await.0,
        400
    );
    let right = ask(&collector, "k3", "/api/v1/silences", &wish).await;
    assert_eq!((right.0, right.1), (201, false));
    let user = json!({"name": "siti", "role": "viewer", "regions": ["36"]});
    assert_eq!(ask(&collector, "k4", "/api/v1/users", &user).await.0, 201);
    let (status, _, problem) = ask(&collector, "k4", "/api/v1/users", &user).await;
    assert!(
        status == 409
            && problem["detail"]
                .as_str()
                .is_some_and(|text| text.starts_with("it was done")),
        "{problem}"
    );
    let long = "x".repeat(101);
    for key in ["", long.as_str()] {
        assert_eq!(ask(&collector, key, "/api/v1/silences", &wish).await.0, 400);
    }
}

/// Events of a stream until one of this name has come; their ids and names.
async fn events(collector: &Collector, last: Option<&str>, until: &str) -> Vec<(String, String)> {
    let mut request = collector.request(Method::GET, "/api/v1/events");
    if let Some(last) = last {
        request = request.header("last-event-id", last);
    }
    let mut answer = request.send().await.expect("answers");
    let mut text = String::new();
    let look = async {
        while let Some(part) = answer.chunk().await.expect("reads") {
            text += &String::from_utf8_lossy(&part);
            let whole = text.rsplit_once("\n\n").map_or("", |(whole, _)| whole);
            let field = |event: &str, name: &str| {
                event
                    .lines()
                    .find_map(|line| line.strip_prefix(name).map(|rest| rest.trim().to_owned()))
            };
            let all = whole.split("\n\n").filter_map(|event| {
                Some((
                    field(event, "id:").unwrap_or_default(),
                    field(event, "event:")?,
                ))
            });
            let all: Vec<(String, String)> = all.collect();
            if all.iter().any(|(_, name)| name == until) {
                return all;
            }
        }
        panic!("the stream ended: {text}")
    };
    tokio::time::timeout(WITHIN, look).await.expect("in time")
}

#[tokio::test]
async fn who_comes_back_hears_what_was_missed() {
    let mut collector = Collector::start(OFFICES).await;
    let heard = tokio::spawn({
        let request = collector.request(Method::GET, "/api/v1/events");
        async move {
            let mut answer = request.send().await.expect("answers");
            let mut text = String::new();
            while !text.contains("event: link") {
                let part = answer.chunk().await.expect("reads").expect("goes on");
                text += &String::from_utf8_lossy(&part);
            }
            text
        }
    });
    let _agent = agent(&collector, "a-1", nowhere());
    let text = tokio::time::timeout(WITHIN, heard)
        .await
        .expect("in time")
        .expect("ends");
    let first = text
        .lines()
        .find_map(|line| line.strip_prefix("id: "))
        .expect("an id")
        .to_owned();
    // The incident opens while nobody listens.
    let open = || async { collector.json("/api/v1/incidents").await[0]["number"].as_u64() };
    eventually("an incident", WITHIN, open).await;
    let missed = events(&collector, Some(&first), "incident").await;
    assert!(missed.iter().all(|(id, _)| *id != first), "{missed:?}");
    // To whom nothing is known of, that is said.
    for unknown in ["x", "0-1", "0123456789abcdef-5"] {
        let all = events(&collector, Some(unknown), "missed").await;
        assert_eq!(all[0].1, "missed", "{unknown}");
    }
    collector.kill();
    collector.launch().await;
    let all = events(&collector, Some(&first), "missed").await;
    assert_eq!(all[0].1, "missed", "another process knows nothing of it");
}

#[tokio::test]
async fn availability_is_told_of_offices_and_what_they_belong_to() {
    let other = "[[office]]\ncode = \"31.71.01\"\nname = \"Gambir\"\n";
    // What stands before the thresholds is a list of offices.
    let collector = Collector::start(&format!("{other}{OFFICES}")).await;
    let _agent = agent(&collector, "a-1", nowhere());
    let from = denyut_tests::now_ms() / 60_000 * 60_000 - 3_600_000;
    let path = |query: &str| format!("/api/v1/availability?from_ms={from}&{query}");
    let down = || async {
        let all = collector.json(&path("by=office&region=36.73.02")).await;
        (all[0]["down_ms"].as_i64()? > 0).then_some(all[0].clone())
    };
    // Whole minutes count.
    let office = eventually("a minute is down", Duration::from_secs(150), down).await;
    assert_eq!(
        (&office["name"], &office["percent"], &office["up_ms"]),
        (&json!("Cipocok Jaya"), &json!(0.0), &json!(0))
    );
    let sum = |one: &Value| {
        ["up_ms", "down_ms", "unobserved_ms"]
            .iter()
            .map(|name| one[name].as_i64().expect("ms"))
            .sum::<i64>()
    };
    assert_eq!(Some(sum(&office)), office["counted_ms"].as_i64());
    let regencies = collector.json(&path("by=regency")).await;
    let codes: Vec<&str> = regencies
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|one| one["code"].as_str())
        .collect();
    assert_eq!(codes, ["31.71", "36.73"]);
    assert_eq!(
        (&regencies[0]["percent"], &regencies[1]["offices"]),
        (&Value::Null, &json!(2))
    );
    let nation = collector.json(&path("by=nation")).await;
    assert_eq!(
        (nation.as_array().map(Vec::len), &nation[0]["offices"]),
        (Some(1), &json!(3))
    );
    let report = collector.ctl(&["report", "--per", "province"]);
    let text = String::from_utf8_lossy(&report.stdout);
    assert!(
        report.status.success() && text.lines().count() == 3,
        "{}",
        denyut_tests::said(&report)
    );
    let long = collector
        .request(Method::GET, "/api/v1/availability?from_ms=0")
        .send()
        .await;
    assert_eq!(long.expect("answers").status(), 400);
}

/// A monitoring program is never told of a finding when nobody could look.
#[tokio::test]
async fn who_cannot_look_says_so() {
    let collector = Collector::start(&registry(3)).await;
    // It takes connections, and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    let silent = format!("http://{}", silent.local_addr().expect("an address"));
    let here = format!("http://{}", collector.api);
    for (arguments, token, said_of_it) in [
        (
            vec!["check", "36.73.02", "--address", &here],
            None,
            "asks for a token",
        ),
        (
            vec!["check", "36.73.02", "--address", &here],
            Some("no"),
            "UNKNOWN",
        ),
        (
            vec!["check", "36.73.02", "--address", "bogus"],
            Some("x"),
            "not an address",
        ),
        (
            vec!["check", "36.73.02", "--address", "http://192.0.2.1"],
            Some("x"),
            "over https only",
        ),
        (
            vec!["check", "36.73.02", "--timeout", "1", "--address", &silent],
            Some("x"),
            "no answer within 1 s",
        ),
        (
            vec!["--address", &here, "check"],
            Some("x"),
            "command line is wrong",
        ),
        (
            vec!["check", "--warning", "5", "36.73.02"],
            Some("x"),
            "command line is wrong",
        ),
    ] {
        let mut command = std::process::Command::new(program("denyutctl"));
        command.args(&arguments).env_remove("DENYUT_TOKEN");
        if let Some(token) = token {
            command.env("DENYUT_TOKEN", token);
        }
        let output = command.output().expect("runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(3), "{arguments:?}: {text}");
        assert!(
            text.starts_with("DENYUT UNKNOWN - ") && text.contains(said_of_it),
            "{arguments:?}: {text}"
        );
    }
    // What somebody wrote is no formula in a table.
    let silence = [
        "silence",
        "add",
        "--region",
        "36.73",
        "--why",
        "=HYPERLINK(1)",
        "--for",
        "1h",
    ];
    let added = collector.ctl(&silence);
    assert!(added.status.success(), "{}", said(&added));
    let table = said(&collector.ctl(&["silence", "list", "-o", "csv"]));
    assert!(table.contains("'=HYPERLINK(1)"), "{table}");
    let late = collector.ctl(&["report", "--month", "9999-01"]);
    assert!(
        !late.status.success() && said(&late).contains("has not begun"),
        "{}",
        said(&late)
    );
}

/// Of a stranger only what a login takes is read.
#[tokio::test]
async fn a_long_body_is_read_of_who_may_send_it() {
    let collector = Collector::start(&registry(3)).await;
    let admin = collector.token_of(
        &["token", "create", "a", "--region", "all"],
        &["--scope", "admin"],
    );
    let reader = collector.token_of(
        &["token", "create", "r", "--region", "all"],
        &["--scope", "read"],
    );
    for (path, token, length, status) in [
        ("/masuk", None, 20_000, 413),
        ("/api/v1/silences", None, 20_000, 413),
        ("/api/v1/silences", Some(&reader), 2_000_000, 413),
        ("/api/v1/silences", Some(&reader), 20_000, 403),
        ("/api/v1/registrations", Some(&admin), 3_000_000, 400),
        ("/api/v1/registrations", Some(&admin), 40_000_000, 413),
    ] {
        let mut request = reqwest::Client::new()
            .post(format!("http://{}{path}", collector.api))
            .header(
                "content-type",
                if path == "/masuk" {
                    "application/x-www-form-urlencoded"
                } else {
                    "application/json"
                },
            )
            .body("x".repeat(length));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        // A server that reads no further may close before the rest is sent.
        match request.send().await {
            Ok(answer) => assert_eq!(answer.status(), status, "{path} {length}"),
            Err(error) => assert!(
                status == 413 && length > 1_000_000,
                "{path} {length}: {error}"
            ),
        }
    }
}
