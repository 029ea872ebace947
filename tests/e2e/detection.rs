//! What is told late, what is judged again, and what is replayed: the detector through the real programs.

use crate::page::{picture, shows};
use denyut_proto::wire::{agent_message, collector_message::Kind};
use denyut_proto::{
    BootId, Heartbeat, HttpExpectation, Outcome, Reason, Role, Sample, Target, TargetSamples,
    UnixMillis, wire,
};
use denyut_tests::browser::{Browser, Screen};
use denyut_tests::peer::{Peer, entry, hello, uptime_at};
use denyut_tests::{Collector, eventually, now_ms, program};
use prost::Message;
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const MINUTE_MS: i64 = 60_000;
/// The six offices of Kota Serang.
const NAMES: [&str; 6] = [
    "Serang",
    "Cipocok Jaya",
    "Kasemen",
    "Curug",
    "Taktakan",
    "Walantaka",
];

fn registry() -> String {
    let office = |(i, name): (usize, &&str)| {
        let n = i + 1;
        format!(
            "[[office]]\ncode = \"36.73.0{n}\"\nname = \"{name}\"\nregency = \"Kota Serang\"\nisp = \"telkom\"\nagents = [\"a-{n}\"]\n"
        )
    };
    NAMES.iter().enumerate().map(office).collect()
}

/// The last ten hours of an office, told at once: a probe of the server and of the uplink a minute; in `server` and `uplink` (minutes ago) they do not answer.
async fn tell(collector: &Collector, n: usize, server: &[(i64, i64)], uplink: &[(i64, i64)]) {
    tell_by(collector, n, (0, 0), server, uplink).await;
}

/// The same by a clock that was so many ms ahead, and is so many ms ahead now.
async fn tell_by(
    collector: &Collector,
    n: usize,
    (was_ahead, is_ahead): (i64, i64),
    server: &[(i64, i64)],
    uplink: &[(i64, i64)],
) {
    let agent = format!("a-{n}");
    let boot = BootId([u8::try_from(n).expect("small"); 16]);
    let mut hello = hello(&agent, boot);
    if let Some(agent_message::Kind::Hello(hello)) = &mut hello.kind {
        hello.wall_ms += is_ahead;
    }
    let mut peer = Peer::greet(collector.ingest, hello).await.expect("joins");
    let now = now_ms();
    let minute = Duration::from_secs(60);
    let target = |name: &str, role| {
        let probe = "tcp://10.36.73.2:443".parse().expect("a probe");
        Target::new(
            name.parse().expect("a name"),
            role,
            probe,
            minute,
            Duration::from_secs(3),
            HttpExpectation::default(),
        )
        .expect("a target")
    };
    let targets = [
        target("server", Role::Server),
        target("uplink", Role::Uplink),
        target("gateway", Role::Gateway),
    ];
    let down =
        |spans: &[(i64, i64)], ago: i64| spans.iter().any(|(from, to)| (*to..*from).contains(&ago));
    for (seq, first) in (1u64..).zip((0..600).rev().step_by(30)) {
        let samples = targets.iter().map(|target| {
            let sample = |ago: i64| {
                let bad = match target.role {
                    Role::Server => down(server, ago),
                    Role::Uplink => down(uplink, ago),
                    _ => false,
                };
                let outcome = if bad {
                    Outcome::Failed(Reason::Timeout.into())
                } else {
                    Outcome::Ok { rtt_us: 9_000 }
                };
                Sample {
                    at: UnixMillis(now - ago * MINUTE_MS + was_ahead),
                    outcome,
                }
            };
            TargetSamples {
                target: target.name.clone(),
                samples: (first - 29..=first).rev().map(sample).collect(),
            }
        });
        let at = now - (first - 29) * MINUTE_MS;
        let heartbeat = Heartbeat {
            at: UnixMillis(at + was_ahead),
            uptime: uptime_at(at),
            started: Duration::ZERO,
            interval: Duration::from_secs(3_600),
            samples: samples.collect(),
            targets: (seq == 1).then(|| targets.to_vec()),
            goodbye: None,
            gateway: Some("10.36.73.1".into()),
            shown: Vec::new(),
            path: None,
        };
        assert!(
            peer.send(entry(
                seq,
                wire::Heartbeat::from(&heartbeat).encode_to_vec()
            ))
            .await
        );
    }
    while peer.next().await.expect("goes on")
        != Some(Kind::Ack(wire::Ack {
            seq: 20,
            closed_for_s: 0,
        }))
    {}
}

/// Incidents as (office, cause, opened minutes ago, relapse).
async fn incidents(collector: &Collector) -> Vec<Value> {
    collector
        .json("/api/v1/incidents")
        .await
        .as_array()
        .expect("a list")
        .clone()
}

#[tokio::test]
async fn a_past_that_comes_late_is_told_in_incidents_with_lineage_and_can_be_judged_again() {
    let mut collector = Collector::start(&registry()).await;
    let relapsing = [(560, 530), (400, 350), (200, 170)];
    tell(&collector, 2, &relapsing, &[]).await;
    for n in [1, 3, 4, 5, 6] {
        tell(&collector, n, &[], &[(90, 40)]).await;
    }
    let all = || async {
        let all = incidents(&collector).await;
        let judged = all.iter().filter(|one| one["resolved_ms"].is_i64()).count();
        // A common cause is said first, and by whom it is part of right after.
        let parts = all.iter().filter(|one| one["parent"].is_u64()).count();
        (judged == 9 && parts == 5).then_some(all)
    };
    let all = eventually(
        "three incidents at one office, and a shared one of five",
        Duration::from_secs(60),
        all,
    )
    .await;
    let of = |office: &str| -> Vec<&Value> {
        all.iter().filter(|one| one["office"] == office).collect()
    };
    let line = of("36.73.02");
    assert_eq!(line.len(), 3, "{all:#?}");
    let newest = line[0];
    assert_eq!(
        (&newest["cause"], &newest["confidence"], &newest["status"]),
        (&"server".into(), &95.into(), &"probation".into())
    );
    assert_eq!(
        (&newest["relapse"]["count"], &newest["relapse"]["episode"]),
        (&2.into(), &true.into())
    );
    assert_eq!(newest["relapse_of"], line[1]["number"]);
    let held = newest["relapse"]["held_ms"].as_i64().expect("a number");
    assert!((held - 150 * MINUTE_MS).abs() < 2 * MINUTE_MS, "{held}");
    assert_eq!(
        newest["paged_ms"],
        Value::Null,
        "what is over when it is learned calls nobody"
    );
    let shared = all
        .iter()
        .find(|one| one["office"].is_null())
        .expect("a common cause");
    assert_eq!(
        (
            &shared["scope"]["kind"],
            &shared["scope"]["code"],
            &shared["scope"]["failed"]
        ),
        (&"regency".into(), &"36.73".into(), &5.into())
    );
    assert_eq!(of("36.73.03")[0]["parent"], shared["number"]);
    assert_eq!(of("36.73.03")[0]["cause"], "regional");
    let parts = collector
        .json(&format!("/api/v1/incidents?parent={}", shared["number"]))
        .await;
    assert_eq!(parts.as_array().expect("a list").len(), 5);
    let office = collector.json("/api/v1/offices/36.73.02").await;
    let relapse = office["patterns"]
        .as_array()
        .expect("a list")
        .iter()
        .find(|one| one["kind"] == "relapse");
    assert_eq!(relapse.expect("a pattern")["count"], 2);

    look(&collector, newest).await;

    // With another threshold the three are one.
    collector.terminate();
    let config = collector.dir.path().join("collector.toml");
    let text = std::fs::read_to_string(&config).expect("its configuration");
    std::fs::write(&config, format!("{text}\n[detection]\nrejoin = \"4h\"\n")).expect("writes");
    let from = "2020-01-01";
    let dry = redetect(&config, &["--from", from]);
    assert!(
        dry.contains("becomes  ") && dry.contains("none     ") && dry.contains("nothing was kept"),
        "{dry}"
    );
    let again = redetect(&config, &["--from", from]);
    assert_eq!(dry, again, "a dry run keeps nothing");
    let kept = redetect(&config, &["--from", from, "--apply"]);
    assert!(kept.contains("each has a revision that says so"), "{kept}");
    let nothing = redetect(&config, &["--from", from]);
    assert!(nothing.contains("0 incidents would change"), "{nothing}");
    std::fs::write(&config, text).expect("writes");
    let wrong = run(&[
        "redetect",
        "--config",
        config.to_str().expect("text"),
        "--from",
        "yesterday",
    ]);
    assert!(
        wrong.contains("`--from` = `yesterday`: not a moment"),
        "{wrong}"
    );
}

/// Clocks that were, or still are, ten minutes off or back in 1970: at the collector all is when it truly was.
#[tokio::test]
async fn clocks_that_are_off_change_no_verdict() {
    let collector = Collector::start(&registry()).await;
    let began = now_ms() - 89 * MINUTE_MS;
    let (ten, back) = (10 * MINUTE_MS, -now_ms());
    let clocks = [
        (0, 0),
        (ten, 0),
        (-ten, -ten),
        (back, 0),
        (back, back),
        (ten, ten),
    ];
    for (n, clock) in (1..).zip(clocks) {
        tell_by(&collector, n, clock, &[], &[(90, 40)]).await;
    }
    let all = || async {
        let all = incidents(&collector).await;
        let judged = all.iter().filter(|one| one["resolved_ms"].is_i64()).count();
        (judged == 7).then_some(all)
    };
    let what = "six incidents, and a shared one of all";
    let all = eventually(what, Duration::from_secs(60), all).await;
    assert_eq!(all.len(), 7, "{all:#?}");
    for incident in &all {
        assert_eq!(incident["cause"], "regional");
        for (field, expected) in [
            ("opened_ms", began),
            ("resolved_ms", began + 50 * MINUTE_MS),
        ] {
            let off = incident[field].as_i64().expect("a time") - expected;
            assert!(off.abs() < 10_000, "{field} off by {off} ms: {incident:#}");
        }
    }
}

/// What fails while work is announced is nobody's incident, and is shown as what it is.
#[tokio::test]
async fn announced_work_is_shown_as_work() {
    let now = now_ms();
    let hour = 60 * MINUTE_MS;
    let work = |region: &str, from: i64, until: i64| {
        let (from, until) = (UnixMillis(from), UnixMillis(until));
        format!(
            "[[maintenance]]\nregion = \"{region}\"\nfrom = \"{from}\"\nuntil = \"{until}\"\nreason = \"kabel baru\"\n"
        )
    };
    let config = [
        registry(),
        work("36.73.02", now - hour, now + hour),
        work("36.73.03", now + hour, now + 2 * hour),
    ]
    .concat();
    let collector = Collector::start(&config).await;
    for n in [2, 3] {
        tell(&collector, n, &[(30, -1)], &[]).await;
    }
    let seen = || async {
        let all = incidents(&collector).await;
        (!all.is_empty()).then_some(all)
    };
    let all = eventually("the incident without work", Duration::from_secs(60), seen).await;
    assert_eq!(all.len(), 1, "{all:#?}");
    assert_eq!(all[0]["office"], "36.73.03");
    let one = collector.json("/api/v1/offices/36.73.02").await;
    assert_eq!(
        (&one["state"], &one["incident"]),
        (&"maintenance".into(), &Value::Null)
    );
    assert_eq!(one["maintenance"]["until_ms"], now + hour);
    let of = |view: &Value, target: &str| {
        let links = view["links"].as_array().expect("links").iter();
        let mut link = links.filter(|link| link["target"] == target);
        link.next().expect("the link")["state"].clone()
    };
    assert_eq!(
        (of(&one, "server"), of(&one, "uplink")),
        ("maintenance".into(), "up".into())
    );
    let other = collector.json("/api/v1/offices/36.73.03").await;
    assert_eq!(
        (of(&other, "server"), &other["state"]),
        ("down".into(), &"down".into())
    );
    assert_eq!(other["maintenance"]["from_ms"], now + hour);
    let phone = Browser::open(Screen::Phone).await;
    phone.enter(&collector, "siti").await;
    phone
        .visit(&format!("http://{}/kantor/36.73.02", collector.api))
        .await;
    shows(
        &phone,
        &["Pemeliharaan", "Pekerjaan diumumkan sampai", "kabel baru"],
    )
    .await;
    phone.screenshot(&picture("work-phone-id.png")).await;
    assert_eq!(phone.complaints().await, Vec::<String>::new());
}

fn redetect(config: &Path, arguments: &[&str]) -> String {
    let config = config.to_str().expect("text");
    run(&[&["redetect", "--config", config], arguments].concat())
}

/// What the collector's program says, on both outputs.
fn run(arguments: &[&str]) -> String {
    let output = Command::new("timeout")
        .arg("60")
        .arg(program("denyut-collector"))
        .args(arguments)
        .env("DENYUT_LOG", "off")
        .output()
        .expect("runs");
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// The pages tell the same, in both languages and on both screens.
async fn look(collector: &Collector, newest: &Value) {
    let base = format!("http://{}", collector.api);
    for (screen, name) in [(Screen::Laptop, "laptop"), (Screen::Phone, "phone")] {
        let browser = Browser::open(screen).await;
        browser.enter(collector, "siti").await;
        for (language, texts, pattern) in [
            (
                "id",
                [
                    "kambuh ke-2",
                    "Server perekaman gagal",
                    "Kota Serang",
                    "Perbaikan berulang kali tidak bertahan",
                ],
                "Kambuh berulang: 2 kali",
            ),
            (
                "en",
                [
                    "relapse no. 2",
                    "Enrollment server failed",
                    "Kota Serang",
                    "Repairs do not last",
                ],
                "Relapsing: 2 times",
            ),
        ] {
            let incident = format!("{base}/insiden/{}?lang={language}", newest["number"]);
            browser.visit(&incident).await;
            shows(&browser, &[&texts[..2], &texts[3..]].concat()).await;
            assert!(browser.fits().await, "the page is too wide on a {name}");
            browser
                .screenshot(&picture(&format!("incident-{name}-{language}.png")))
                .await;
            let office = newest["office"].as_str().expect("an office");
            browser.visit(&format!("{base}/kantor/{office}")).await;
            shows(&browser, &[texts[0], texts[2], pattern]).await;
            // Weeks, months and a year are drawn too: of rows where rows answer exactly.
            let empty = "return [2, 3, 4, 5].filter((place) => !document.querySelector(`.glance:nth-child(${place}) :is(.fill-down, .fill-mixed)`))";
            assert_eq!(
                browser.run(empty).await,
                json!([]),
                "strips without their failures on a {name}"
            );
            browser.visit(&format!("{base}/pola")).await;
            shows(&browser, &[pattern]).await;
            assert_eq!(browser.complaints().await, Vec::<String>::new());
        }
    }
}

#[test]
fn a_recorded_history_is_replayed() {
    let folder = tempfile::tempdir().expect("tempdir");
    let csv = folder.path().join("history.csv");
    let hour = |n: i64| 1_772_416_800 + n * 3_600;
    let mut text = "unix_s,site,state,http_status,latency_ms\n".to_owned();
    for (at, state) in [
        (0, "up"),
        (2, "down"),
        (3, "up"),
        (6, "down"),
        (7, "up"),
        (12, "up"),
    ] {
        let lines = format!(
            "{},portal,{state},200,90\n{},other,up,200,90\n",
            hour(at),
            hour(at) + 5
        );
        text.push_str(&lines);
    }
    std::fs::write(&csv, &text).expect("writes");
    let csv = csv.to_str().expect("text");
    let said = run(&["replay", csv]);
    assert!(said.contains("#1     portal  server  2026-03-02T04:00:00.000Z – 2026-03-02T05:00:00.000Z  1h  called 2026-03-02T04:0"), "{said}");
    assert!(said.contains("relapse 1 (held 3h)"), "{said}");
    assert!(
        said.ends_with("2 incidents at 2 sites, 1 of them relapses; somebody is called 2 times\n"),
        "{said}"
    );
    let json: Value = serde_json::from_str(&run(&["replay", csv, "--json"])).expect("JSON");
    assert_eq!(json[1]["relapse"]["count"], 1);
    // By another's thresholds it is one.
    let config = folder.path().join("collector.toml");
    let other = "data_dir = \"/nowhere\"\n[ingest]\nlisten = \"127.0.0.1:0\"\n[api]\nlisten = \"127.0.0.1:0\"\n[calendar]\nhours = \"always\"\n[detection]\nrejoin = \"5h\"\n";
    std::fs::write(&config, other).expect("writes");
    let said = run(&["replay", csv, "--config", config.to_str().expect("text")]);
    assert!(said.contains("1 incidents at 2 sites, 0 of them"), "{said}");
    std::fs::write(csv, format!("{text}x,portal,up,200,1\n")).expect("writes");
    let said = run(&["replay", csv]);
    assert!(said.contains("line 14, `unix_s`: "), "{said}");
}

/// The examples are right, and what they say of the defaults is true.
#[test]
fn the_examples_say_what_is_so() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/example");
    let folder = tempfile::tempdir().expect("tempdir");
    for file in ["offices.csv", "holidays.csv"] {
        std::fs::copy(example.join(file), folder.path().join(file)).expect("copies");
    }
    let text = std::fs::read_to_string(example.join("collector.toml")).expect("the example");
    let tls = ["names ="];
    let mut in_detection = false;
    let lines = text
        .lines()
        .filter(|line| !tls.iter().any(|key| line.starts_with(key)))
        .map(|line| {
            if line.starts_with('[') {
                in_detection = line == "[detection]";
            }
            // A threshold that is commented out shows its default.
            let threshold = in_detection
                .then(|| line.strip_prefix("# "))
                .flatten()
                .filter(|line| {
                    line.split_once(" = ").is_some_and(|(name, _)| {
                        name.chars().all(|c| c.is_ascii_lowercase() || c == '_')
                    })
                });
            threshold
                .unwrap_or(line)
                .replace("0.0.0.0:7443", "127.0.0.1:7443")
        });
    let text = lines.collect::<Vec<_>>().join("\n");
    assert!(
        text.contains("\nchronic_sigmas = 5"),
        "the thresholds are uncommented"
    );
    let config = folder.path().join("collector.toml");
    let check = |text: &str| {
        std::fs::write(&config, text).expect("writes");
        run(&["check-config", "--config", config.to_str().expect("text")])
    };
    let said = check(&text);
    assert!(
        said.contains("10 holidays are known, the last in 2027."),
        "{said}"
    );
    assert!(said.contains("4 failures in a row (30s) where it loses 1 %, 8 failures in a row (1min 10s) where 10 %, 13 failures in a row (2min) where 25 %"), "{said}");
    assert!(!said.contains("(default"), "{said}");
    let six = "offices = \"offices.csv\"\ndata_dir = \"/nowhere\"\n[ingest]\nlisten = \"127.0.0.1:0\"\n[api]\nlisten = \"127.0.0.1:0\"\n[detection]\nrejoin = \"2h\"\n";
    let said = check(six);
    for name in NAMES {
        assert!(said.contains(name), "{said}");
    }
    assert!(
        said.contains("detection.rejoin = 2h (default 1h)"),
        "{said}"
    );
}
