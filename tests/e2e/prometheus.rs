//! What is measured, for those who have Prometheus: sent to a real one, and asked for in its own language, answer by answer.

use crate::alerts::WITHIN;
use denyut_proto::{
    BootId, Heartbeat, HttpExpectation, Outcome, Reason, Role, Sample, Target, TargetSamples,
    UnixMillis, wire,
};
use denyut_tests::peer::{Peer, entry, uptime_at};
use denyut_tests::real::Prometheus;
use denyut_tests::{Collector, eventually, now_ms};
use prost::Message;
use reqwest::Method;
use serde_json::{Value, json};
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

const REGISTRY: &str = "[[office]]\ncode = \"36.73.02\"\nname = \"Cipocok Jaya\"\nregency = \"Kota Serang\"\nisp = \"telkom\"\nagents = [\"a-1\", \"a-2\"]\n\
     [[office]]\ncode = \"31.71.01\"\nname = \"Gambir\"\nisp = \"telkom\"\nagents = [\"b-1\"]\n";
const MINUTE_MS: i64 = 60_000;

fn export(to: SocketAddr) -> String {
    format!(
        "[[export]]\nname = \"pusat\"\nremote_write = {{ url = \"http://{to}/api/v1/write\" }}\n{REGISTRY}"
    )
}

fn target(name: &str, role: Role) -> Target {
    let (interval, timeout) = (Duration::from_secs(15), Duration::from_secs(3));
    let probe = "tcp://10.36.73.2:443".parse().expect("a probe");
    Target::new(
        name.parse().expect("a name"),
        role,
        probe,
        interval,
        timeout,
        HttpExpectation::default(),
    )
    .expect("valid")
}

/// Tells three hours of two links, a sample every 15 s: what they are is a function of the agent and the time, with failures, a gap, and samples that the agent could not take.
async fn tell(collector: &Collector, agent: &str, seed: i64, until: i64) -> usize {
    let mut peer = Peer::join(
        collector.ingest,
        agent,
        BootId([u8::try_from(seed).expect("small"); 16]),
    )
    .await
    .expect("joins");
    let targets = [
        target("server", Role::Server),
        target("uplink", Role::Uplink),
    ];
    let mut told = 0;
    for (part, from) in (until - 180 * MINUTE_MS..until)
        .step_by(20 * 60_000)
        .enumerate()
    {
        let samples: Vec<TargetSamples> = targets
            .iter()
            .zip(0i64..)
            .map(|(target, place)| {
                let samples: Vec<Sample> = (0..80)
                    .map(|step| from + step * 15_000)
                    .filter(|at| {
                        !(90 * MINUTE_MS..110 * MINUTE_MS).contains(&(until - at)) || seed != 2
                    })
                    .map(|at| {
                        let noise = (at / 15_000 * 7_919 + seed * 104_729 + place * 31) % 97;
                        let outcome = match noise {
                            0..3 => Outcome::Failed(Reason::Timeout.into()),
                            3 => Outcome::Failed(Reason::LocalError.into()),
                            _ => Outcome::Ok {
                                rtt_us: u32::try_from(
                                    500 + noise * noise * (1 + place * 9) + seed * 7 + place,
                                )
                                .expect("small"),
                            },
                        };
                        Sample {
                            at: UnixMillis(at),
                            outcome,
                        }
                    })
                    .collect();
                told += samples.len();
                TargetSamples {
                    target: target.name.clone(),
                    samples,
                }
            })
            .filter(|one| !one.samples.is_empty())
            .collect();
        let last = from + 79 * 15_000;
        let heartbeat = Heartbeat {
            at: UnixMillis(last),
            uptime: uptime_at(last),
            started: Duration::ZERO,
            interval: Duration::from_secs(3_600),
            samples,
            targets: (part == 0).then(|| targets.to_vec()),
            goodbye: None,
            gateway: None,
            shown: Vec::new(),
            path: None,
        };
        let seq = u64::try_from(part).expect("small") + 1;
        let message = entry(seq, wire::Heartbeat::from(&heartbeat).encode_to_vec());
        assert!(peer.send(message).await);
        loop {
            match peer.next().await.expect("goes on") {
                Some(wire::collector_message::Kind::Ack(ack)) if ack.seq >= seq => break,
                Some(_) => {}
                None => panic!("the stream ended"),
            }
        }
    }
    told
}

/// What both are asked, at one moment and over time.
const QUERIES: &[&str] = &[
    "denyut_up",
    "denyut_rtt_seconds{target=\"server\"}",
    "{__name__=~\"denyut_.*\",agent=\"a-1\"}",
    "denyut_up{office=~\"36.*\",target!=\"server\"}",
    "denyut_up{agent!~\"a-.\"}",
    "denyut_up{regency=\"\"}",
    "denyut_up offset 30m",
    "denyut_up offset -5m",
    "denyut_up @ end()",
    "denyut_up{agent=\"nobody\"}",
    "avg_over_time(denyut_up[30m])",
    "sum_over_time(denyut_rtt_seconds[10m])",
    "min_over_time(denyut_rtt_seconds[10m])",
    "max_over_time(denyut_rtt_seconds[10m] offset 20m)",
    "count_over_time(denyut_up[1h])",
    "quantile_over_time(0.95, denyut_rtt_seconds[1h])",
    "stddev_over_time(denyut_rtt_seconds[1h])",
    "stdvar_over_time(denyut_rtt_seconds[1h])",
    "last_over_time(denyut_up[15m])",
    "present_over_time(denyut_up[15m])",
    "absent_over_time(denyut_up{agent=\"nobody\",office=\"x\"}[15m])",
    "changes(denyut_up[1h])",
    "resets(denyut_up[1h])",
    "rate(denyut_rtt_seconds[5m])",
    "increase(denyut_rtt_seconds[7m])",
    "irate(denyut_rtt_seconds[5m])",
    "delta(denyut_rtt_seconds[5m])",
    "idelta(denyut_rtt_seconds[5m])",
    "deriv(denyut_rtt_seconds[20m])",
    "predict_linear(denyut_rtt_seconds[20m], 3600)",
    "sum(denyut_up)",
    "avg by (office) (denyut_up)",
    "count by (province, isp) (denyut_up)",
    "max without (agent, target, role) (denyut_rtt_seconds)",
    "min by (target) (denyut_rtt_seconds)",
    "stddev by (office) (denyut_rtt_seconds)",
    "stdvar(denyut_rtt_seconds)",
    "group by (isp) (denyut_up)",
    "quantile by (office) (0.5, denyut_rtt_seconds)",
    "topk(2, denyut_rtt_seconds)",
    "bottomk by (office) (1, denyut_rtt_seconds)",
    "count_values(\"wert\", denyut_up)",
    "100 * avg by (office) (avg_over_time(denyut_up{role=\"uplink\"}[1h]))",
    "1 - avg_over_time(denyut_up[1h])",
    "denyut_rtt_seconds * 1000 > 2",
    "denyut_rtt_seconds > bool 0.002",
    "0.001 < denyut_rtt_seconds",
    "denyut_up == 1",
    "denyut_rtt_seconds / on (agent, target) denyut_up",
    "denyut_rtt_seconds - ignoring (target, role) group_left denyut_up{target=\"server\"}",
    "denyut_up * on (office) group_left (regency) count by (office, regency) (denyut_up)",
    "sum by (office) (denyut_up) / count by (office) (denyut_up)",
    "denyut_up and on (agent) denyut_rtt_seconds{target=\"uplink\"} > 0.01",
    "denyut_up{target=\"server\"} or denyut_up{target=\"uplink\"}",
    "denyut_up unless on (agent) denyut_up{office=\"36.73.02\"}",
    "-denyut_rtt_seconds",
    "2 ^ 3 ^ 2 - 10 % 4 + -2",
    "1 > bool 2",
    "3 atan2 2",
    "round(denyut_rtt_seconds * 1000, 0.5)",
    "ceil(denyut_rtt_seconds * 1000) + floor(denyut_rtt_seconds * 1000)",
    "clamp(denyut_rtt_seconds, 0.001, 0.01)",
    "clamp_min(denyut_rtt_seconds, 0.002)",
    "clamp_max(denyut_rtt_seconds, 0.002)",
    "sqrt(denyut_rtt_seconds) + ln(denyut_rtt_seconds) + log2(denyut_rtt_seconds) + log10(denyut_rtt_seconds) + exp(denyut_rtt_seconds)",
    "sgn(denyut_rtt_seconds - 0.002)",
    "abs(denyut_rtt_seconds - 0.002)",
    "sin(denyut_rtt_seconds) + deg(denyut_rtt_seconds) + pi()",
    "scalar(denyut_up{agent=\"b-1\",target=\"server\"})",
    "scalar(denyut_up)",
    "vector(7)",
    "time()",
    "timestamp(denyut_up)",
    "hour() + minute(vector(1700000000)) + day_of_week() + days_in_month() + month() + year() + day_of_year() + day_of_month()",
    "absent(denyut_up{agent=\"nobody\"})",
    "absent(denyut_up)",
    "label_replace(denyut_up, \"prov\", \"$1\", \"office\", \"(..)\\\\..*\")",
    "label_replace(denyut_up, \"name\", \"\", \"office\", \".*\")",
    "label_join(denyut_up, \"wo\", \"/\", \"office\", \"agent\", \"target\")",
    "sort_desc(denyut_rtt_seconds)",
    "sum(rate(denyut_rtt_seconds[5m])) by (office) > 0",
    "count(denyut_up == 0) or vector(0)",
];

/// Both refuse it.
const WRONG: &[&str] = &[
    "",
    "denyut_up[",
    "sum(",
    "denyut_up + on (office) denyut_up",
    "denyut_rtt_seconds * on (office) group_left denyut_up",
    "rate(denyut_up)",
    "label_replace(denyut_up, \"agent\", \"x\", \"office\", \".*\") + 0",
    "{}",
    "foo bar",
    "count_over_time({__name__=~\"denyut_.*\"}[4h])",
    "-{agent=\"a-1\"}",
    "{agent=\"a-1\"} * 2",
];

/// An answer's series, in an order that does not matter, with their values as numbers.
fn series(answer: &Value) -> Vec<(Value, Vec<(f64, f64)>)> {
    let number = |value: &Value| match value.as_str().expect("a text") {
        "+Inf" => f64::INFINITY,
        "-Inf" => f64::NEG_INFINITY,
        text => text.parse().expect("a number"),
    };
    let point = |pair: &Value| (pair[0].as_f64().expect("a time"), number(&pair[1]));
    let result = &answer["data"]["result"];
    let mut all: Vec<(Value, Vec<(f64, f64)>)> = match answer["data"]["resultType"].as_str() {
        Some("scalar") => vec![(json!({}), vec![point(result)])],
        _ => result
            .as_array()
            .unwrap_or_else(|| panic!("{answer}"))
            .iter()
            .map(|one| {
                let points = match one["values"].as_array() {
                    Some(values) => values.iter().map(point).collect(),
                    None => vec![point(&one["value"])],
                };
                (one["metric"].clone(), points)
            })
            .collect(),
    };
    all.sort_by_key(|(metric, _)| metric.to_string());
    all
}

/// Where two answers differ, if they do.
fn difference(ours: &Value, theirs: &Value) -> Option<String> {
    if ours["status"] != "success" || theirs["status"] != "success" {
        return Some(format!("{ours} / {theirs}"));
    }
    if ours["data"]["resultType"] != theirs["data"]["resultType"] {
        return Some(format!(
            "{} / {}",
            ours["data"]["resultType"], theirs["data"]["resultType"]
        ));
    }
    let (ours, theirs) = (series(ours), series(theirs));
    let names = |all: &[(Value, Vec<(f64, f64)>)]| {
        all.iter()
            .map(|(metric, points)| format!("{metric} {}", points.len()))
            .collect::<Vec<_>>()
    };
    if names(&ours) != names(&theirs) {
        return Some(format!("{:?} / {:?}", names(&ours), names(&theirs)));
    }
    for ((metric, ours), (_, theirs)) in ours.iter().zip(&theirs) {
        for (one, two) in ours.iter().zip(theirs) {
            let is_same = (one.1 - two.1).abs() <= 1e-9 * one.1.abs().max(two.1.abs()).max(1e-6)
                || (one.1.is_nan() && two.1.is_nan())
                || one.1.to_bits() == two.1.to_bits();
            if (one.0 - two.0).abs() > 1e-6 || !is_same {
                return Some(format!("{metric}: {one:?} / {two:?}"));
            }
        }
    }
    None
}

/// What one of both answers.
async fn ask(request: reqwest::RequestBuilder) -> Value {
    let answer = request.send().await.expect("answers");
    let text = answer.text().await.expect("text");
    serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}"))
}

fn address(path: &str, pairs: &[(&str, &str)]) -> String {
    let url =
        reqwest::Url::parse_with_params(&format!("http://x{path}"), pairs).expect("an address");
    format!("{}?{}", url.path(), url.query().unwrap_or_default())
}

struct Both<'a> {
    collector: &'a Collector,
    prometheus: &'a Prometheus,
}

impl Both<'_> {
    async fn ask(&self, path: &str, pairs: &[(&str, &str)]) -> [Value; 2] {
        let path = address(path, pairs);
        let theirs =
            reqwest::Client::new().get(format!("http://{}{path}", self.prometheus.address));
        [
            ask(self.collector.request(Method::GET, &path)).await,
            ask(theirs).await,
        ]
    }
}

#[tokio::test]
#[allow(clippy::too_many_lines, reason = "one question after another")]
async fn a_real_prometheus_gives_the_same_answers() {
    let prometheus = Prometheus::receiving(None).await;
    let collector = Collector::start(&export(prometheus.address)).await;
    // Whole steps, so that both meet samples at the very edges of ranges.
    let until = now_ms() / 60_000 * 60_000 - 30_000;
    let mut told = 0;
    for (agent, seed) in [("a-1", 1), ("a-2", 2), ("b-1", 3)] {
        told += tell(&collector, agent, seed, until).await;
    }
    let both = Both {
        collector: &collector,
        prometheus: &prometheus,
    };
    let end = (until / 1_000).to_string();
    let count =
        "sum(count_over_time(denyut_up[4h])) + sum(count_over_time(denyut_rtt_seconds[4h]))";
    let arrived = || async {
        let [ours, theirs] = both
            .ask("/api/v1/query", &[("query", count), ("time", &end)])
            .await;
        difference(&ours, &theirs).is_none().then(|| {
            ours["data"]["result"][0]["value"][1]
                .as_str()
                .map(str::to_owned)
        })?
    };
    let arrived = eventually("everything has arrived", WITHIN, arrived).await;
    // Two of each answer, one of each failure that is the network's.
    let samples: f64 = arrived.parse().expect("a number");
    assert!(
        samples > 1.8 * told as f64 && samples < 2.0 * told as f64,
        "{samples} of {told}"
    );

    let start = (until / 1_000 - 2 * 3_600).to_string();
    let moments = [
        end.clone(),
        (until / 1_000 - 100 * 60).to_string(),
        format!("{}.007", until / 1_000 - 3_333),
    ];
    let mut wrong = Vec::new();
    for query in QUERIES {
        for at in &moments {
            let [ours, theirs] = both
                .ask("/api/v1/query", &[("query", query), ("time", at)])
                .await;
            wrong.extend(difference(&ours, &theirs).map(|what| format!("{query} at {at}: {what}")));
        }
        for step in ["60", "7m"] {
            let pairs = [
                ("query", *query),
                ("start", &start),
                ("end", &end),
                ("step", step),
            ];
            let [ours, theirs] = both.ask("/api/v1/query_range", &pairs).await;
            wrong.extend(
                difference(&ours, &theirs).map(|what| format!("{query} by {step}: {what}")),
            );
        }
    }
    assert!(
        wrong.is_empty(),
        "{} differ:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    // A range as it is, and the order where one is asked for.
    let pairs = [("query", "denyut_up{agent=\"a-1\"}[10m]"), ("time", &end)];
    let [ours, theirs] = both.ask("/api/v1/query", &pairs).await;
    assert_eq!(difference(&ours, &theirs), None);
    let pairs = [("query", "sort_desc(denyut_rtt_seconds)"), ("time", &end)];
    let [ours, theirs] = both.ask("/api/v1/query", &pairs).await;
    let order = |answer: &Value| -> Vec<Value> {
        let all = answer["data"]["result"].as_array().expect("a list").iter();
        all.map(|one| one["metric"].clone()).collect()
    };
    assert_eq!(order(&ours), order(&theirs));

    for query in WRONG {
        let [ours, theirs] = both
            .ask("/api/v1/query", &[("query", query), ("time", &end)])
            .await;
        assert_eq!(
            [&ours["status"], &theirs["status"]],
            ["error", "error"],
            "{query}: {ours} {theirs}"
        );
        assert_eq!(
            ours["errorType"], theirs["errorType"],
            "{query}: {ours} {theirs}"
        );
    }
    for pairs in [
        vec![
            ("query", "1"),
            ("start", "0"),
            ("end", "100000"),
            ("step", "1"),
        ],
        vec![("query", "1"), ("start", "9"), ("end", "1"), ("step", "1")],
        vec![("query", "1"), ("start", "x"), ("end", "1"), ("step", "1")],
        vec![("query", "1"), ("start", "0"), ("end", "1"), ("step", "0")],
        vec![
            ("query", "denyut_up[5m]"),
            ("start", "0"),
            ("end", "1"),
            ("step", "1"),
        ],
    ] {
        let [ours, theirs] = both.ask("/api/v1/query_range", &pairs).await;
        assert_eq!(
            [&ours["errorType"], &theirs["errorType"]],
            ["bad_data", "bad_data"],
            "{pairs:?}: {ours}"
        );
    }
    // What is not supported is refused by its name.
    for (query, name) in [
        (
            "max_over_time(rate(denyut_rtt_seconds[5m])[1h:1m])",
            "subqueries",
        ),
        ("histogram_quantile(0.9, denyut_up)", "histogram_quantile()"),
    ] {
        let ours =
            ask(collector.request(Method::GET, &address("/api/v1/query", &[("query", query)])))
                .await;
        assert!(
            ours["error"]
                .as_str()
                .is_some_and(|text| text.contains(name) && text.contains("not supported")),
            "{ours}"
        );
    }
    // What grows without bounds ends, and so does what would take too long.
    let twice = |inner: String| {
        format!(
            "label_replace({inner}, \"x\", \"{}\", \"x\", \"(.*)\")",
            "${1}".repeat(9)
        )
    };
    let seed = "label_replace(vector(1), \"x\", \"aaaaaaaaaa\", \"\", \"\")".to_owned();
    let bomb = (0..8).fold(seed, |inner, _| twice(inner));
    let long = vec!["sum(quantile_over_time(0.5, denyut_up[1h]))"; 90].join(" + ");
    let pairs = [
        ("query", long.as_str()),
        ("start", &start),
        ("end", &end),
        ("step", "1"),
        ("timeout", "200ms"),
    ];
    for (path, pairs, why) in [
        (
            "/api/v1/query",
            &[("query", bomb.as_str())][..],
            "a label longer than 4096 bytes",
        ),
        ("/api/v1/query_range", &pairs[..], "took longer than 200ms"),
        (
            "/api/v1/query",
            &[("query", "count_values(\"0x\", denyut_up)"), ("time", &end)],
            "invalid label name",
        ),
    ] {
        let ours = ask(collector.request(Method::GET, &address(path, pairs))).await;
        assert!(
            ours["error"]
                .as_str()
                .is_some_and(|text| text.contains(why)),
            "{ours}"
        );
    }
    // What there is to choose from, and what Grafana asks for first.
    let window = [("start", start.as_str()), ("end", end.as_str())];
    for (path, more) in [
        ("/api/v1/labels", vec![]),
        (
            "/api/v1/labels",
            vec![("match[]", "denyut_up{office=\"31.71.01\"}")],
        ),
        ("/api/v1/label/office/values", vec![]),
        ("/api/v1/label/__name__/values", vec![]),
        (
            "/api/v1/label/regency/values",
            vec![("match[]", "{role=\"server\"}")],
        ),
        ("/api/v1/label/nothing/values", vec![]),
    ] {
        let [ours, theirs] = both.ask(path, &[&window[..], &more].concat()).await;
        assert_eq!(ours["data"], theirs["data"], "{path} {more:?}");
    }
    let pairs = [
        &window[..],
        &[
            ("match[]", "denyut_up{agent=\"a-1\"}"),
            ("match[]", "denyut_up{target=\"uplink\"}"),
        ],
    ]
    .concat();
    let mut answers = both.ask("/api/v1/series", &pairs).await;
    for answer in &mut answers {
        let all = answer["data"].as_array_mut().expect("a list");
        all.sort_by_key(ToString::to_string);
    }
    assert_eq!(answers[0], answers[1]);
    // The same by a form, which is not written down as something that was done.
    let form = collector
        .request(Method::POST, "/api/v1/query")
        .header("content-type", "application/x-www-form-urlencoded")
        .body(format!("query=sum(denyut_up)&time={end}"));
    assert_eq!(ask(form).await["status"], "success");
    let audit = collector
        .get("/api/v1/audit?limit=1000")
        .await
        .expect("an answer");
    assert!(!audit.contains("/api/v1/query"), "{audit}");
    // Others see theirs only.
    let jakarta = collector.token_of(
        &["token", "create", "jakarta", "--region", "31"],
        &["--scope", "read"],
    );
    let url = format!(
        "http://{}{}",
        collector.api,
        address(
            "/api/v1/query",
            &[("query", "count by (office) (denyut_up)"), ("time", &end)]
        )
    );
    let theirs = ask(reqwest::Client::new().get(url).bearer_auth(jakarta)).await;
    let offices: Vec<&Value> = theirs["data"]["result"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|one| &one["metric"]["office"])
        .collect();
    assert_eq!(offices, ["31.71.01"]);
}

/// A store that is away for a while, and a collector that dies meanwhile, lose nothing.
#[tokio::test]
async fn a_store_that_was_away_is_sent_what_it_missed() {
    let place = TcpListener::bind("127.0.0.1:0")
        .expect("binds")
        .local_addr()
        .expect("an address");
    let mut collector = Collector::start(&export(place)).await;
    let until = now_ms() / 60_000 * 60_000;
    tell(&collector, "a-1", 1, until).await;
    let failing =
        || async { (collector.metric("denyut_export_failures_total").await > 0).then_some(()) };
    eventually("the store is missed", WITHIN, failing).await;
    // What waits for it grows while it is away.
    let behind = collector.metric("denyut_export_behind_records").await;
    tell(&collector, "a-2", 2, until).await;
    let grows = || async {
        (collector.metric("denyut_export_behind_records").await > behind).then_some(())
    };
    eventually("more waits", WITHIN, grows).await;
    collector.kill();
    collector.launch().await;
    tell(&collector, "b-1", 3, until).await;
    let prometheus = Prometheus::receiving(Some(place)).await;
    let both = Both {
        collector: &collector,
        prometheus: &prometheus,
    };
    let end = (until / 1_000).to_string();
    let count = "count_over_time(denyut_up[4h])";
    let arrived = || async {
        let [ours, theirs] = both
            .ask("/api/v1/query", &[("query", count), ("time", &end)])
            .await;
        let all = ours["data"]["result"]
            .as_array()
            .is_some_and(|all| all.len() == 6);
        (all && difference(&ours, &theirs).is_none()).then_some(())
    };
    eventually("everything has arrived", Duration::from_secs(90), arrived).await;
    assert_eq!(
        collector.metric("denyut_export_lost_records_total").await,
        0
    );
    assert_eq!(
        collector
            .metric("denyut_export_refused_samples_total")
            .await,
        0
    );
}

/// Every query of the dashboards is one that the collector answers, and finds something.
#[tokio::test]
async fn the_dashboards_ask_for_what_there_is() {
    let collector = Collector::start(REGISTRY).await;
    let until = now_ms() / 60_000 * 60_000;
    tell(&collector, "a-1", 1, until).await;
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/grafana");
    let mut asked = 0;
    for file in std::fs::read_dir(folder).expect("is there") {
        let path = file.expect("a file").path();
        if path.extension().is_none_or(|kind| kind != "json") {
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("reads");
        let board: Value = serde_json::from_str(&text).expect("JSON");
        for panel in board["panels"].as_array().expect("panels") {
            for target in panel["targets"].as_array().expect("targets") {
                let query = target["expr"].as_str().expect("a query");
                let filled = query
                    .replace("$province", ".*")
                    .replace("$office", "36.73.02")
                    .replace("$__rate_interval", "5m")
                    .replace("$__range", "1h");
                assert!(!filled.contains('$'), "{filled}");
                let at = (until / 1_000 - 60).to_string();
                let path = address("/api/v1/query", &[("query", &filled), ("time", &at)]);
                let answer = ask(collector.request(Method::GET, &path)).await;
                let found = answer["data"]["result"].as_array();
                assert!(
                    found.is_some_and(|all| !all.is_empty()),
                    "{filled}: {answer}"
                );
                asked += 1;
            }
        }
        for variable in board["templating"]["list"].as_array().expect("variables") {
            let Some(query) = variable["definition"].as_str() else {
                continue;
            };
            let inner = query
                .strip_prefix("label_values(")
                .and_then(|rest| rest.strip_suffix(')'));
            let (selector, label) = inner
                .and_then(|rest| rest.rsplit_once(", "))
                .expect("a selector and a label");
            let selector = selector.replace("$province", ".*");
            let path = address(
                &format!("/api/v1/label/{label}/values"),
                &[("match[]", &selector)],
            );
            let answer = ask(collector.request(Method::GET, &path)).await;
            assert!(
                answer["data"].as_array().is_some_and(|all| !all.is_empty()),
                "{query}: {answer}"
            );
            asked += 1;
        }
    }
    assert!(asked >= 15, "{asked}");
}
