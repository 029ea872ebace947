//! Who comes in, what they may, and that nobody sees what is not theirs: the routes are taken from the API's own document.

use denyut_tests::{Agent, Collector, eventually, said};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;

const WITHIN: Duration = Duration::from_secs(60);
const PASSWORD: &str = "kuda+terbang+di+serang";

/// Two provinces, with nothing in common; what one has, the other must not see.
struct Side {
    region: &'static str,
    office: &'static str,
    agent: &'static str,
    target: &'static str,
    /// Each stands for one side only, wherever it shows.
    marks: [&'static str; 9],
}

const BANTEN: Side = Side {
    region: "36",
    office: "36.73.02",
    agent: "agen-banten",
    target: "server-banten",
    marks: [
        "36.73.02",
        "Cipocok Jaya",
        "agen-banten",
        "server-banten",
        "penerima-banten",
        "orang-banten",
        "catatan-banten",
        "senyap-banten",
        "kerja-banten",
    ],
};
const JAKARTA: Side = Side {
    region: "31",
    office: "31.71.01",
    agent: "agen-jakarta",
    target: "server-jakarta",
    marks: [
        "31.71.01",
        "Gambir",
        "agen-jakarta",
        "server-jakarta",
        "penerima-jakarta",
        "orang-jakarta",
        "catatan-jakarta",
        "senyap-jakarta",
        "kerja-jakarta",
    ],
};

fn config() -> String {
    let of_side = |side: &Side| {
        let [code, name, agent, _, receiver, _, _, _, work] = side.marks;
        format!(
            "[[office]]\ncode = \"{code}\"\nname = \"{name}\"\nagents = [\"{agent}\"]\n\
             [[receiver]]\nname = \"{receiver}\"\nregions = [\"{0}\"]\nwebhook.url = \"http://127.0.0.1:9/x\"\n\
             [[route]]\nreceiver = \"{receiver}\"\nregions = [\"{0}\"]\n\
             [[maintenance]]\nregion = \"{0}\"\nfrom = \"2036-01-01T00:00:00+07:00\"\nuntil = \"2036-01-02T00:00:00+07:00\"\nreason = \"{work}\"\n",
            side.region
        )
    };
    let detection =
        "[detection]\nrecovery_answers = 2\nrecovery_time = \"1s\"\ncommon_wait = \"0s\"\n";
    of_side(&BANTEN) + of_side(&JAKARTA).as_str() + detection
}

fn agent(collector: &Collector, side: &Side) -> Agent {
    let config = format!(
        "agent = \"{}\"\nheartbeat = \"1s\"\n[collector]\naddresses = [\"http://{}\"]\n\
         [[target]]\nname = \"{}\"\nrole = \"server\"\nprobe = \"tcp://127.0.0.1:9\"\ninterval = \"1s\"\ntimeout = \"500ms\"\n",
        side.agent, collector.ingest, side.target
    );
    Agent::start(None, &config)
}

/// A request as somebody makes it who has this token, or none.
async fn ask(
    collector: &Collector,
    token: Option<&str>,
    method: &str,
    path: &str,
    body: Option<&Value>,
) -> (StatusCode, String) {
    let client = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .expect("a client");
    let method: Method = method.to_uppercase().parse().expect("a method");
    let mut request = client.request(method, format!("http://{}{path}", collector.api));
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    if let Some(body) = body {
        request = request.json(body);
    }
    let mut answer = request.send().await.expect("it answers");
    let status = answer.status();
    // Streams do not end: what came within a while counts.
    let mut text = String::new();
    let until = tokio::time::Instant::now() + Duration::from_secs(3);
    while let Ok(Ok(Some(part))) = tokio::time::timeout_at(until, answer.chunk()).await {
        text += &String::from_utf8_lossy(&part);
    }
    (status, text)
}

/// Every operation of the document: method, path with its parameters filled in for a side, the scope that it needs.
async fn operations(
    collector: &Collector,
    side: &Side,
    number: u64,
) -> Vec<(String, String, Option<String>)> {
    let document = collector.json("/api/v1/openapi.json").await;
    let paths = document["paths"].as_object().expect("paths").clone();
    let mut all = Vec::new();
    for (path, methods) in paths {
        let mut filled = path.clone();
        for (name, value) in [
            ("{office}", side.office),
            ("{label}", "office"),
            ("{agent}", side.agent),
            ("{target}", side.target),
            ("{number}", &number.to_string()),
        ] {
            filled = filled.replace(name, value);
        }
        let name = match path.split('/').nth(3) {
            Some("receivers") => side.marks[4],
            Some("users" | "tokens") => side.marks[5],
            _ => "nothing",
        };
        let filled = filled.replace("{name}", name);
        assert!(
            !filled.contains('{'),
            "{path} has a parameter that nobody fills"
        );
        for (method, operation) in methods.as_object().expect("methods") {
            let scope = operation["security"][0]["token"][0].as_str();
            all.push((method.clone(), filled.clone(), scope.map(str::to_owned)));
        }
    }
    assert!(all.len() >= 40, "{}", all.len());
    all
}

/// Every page, about these.
fn pages(side: &Side, number: u64) -> Vec<String> {
    let office = side.office;
    let mut all: Vec<String> = [
        "/",
        "/?q=a",
        "/insiden",
        "/insiden?which=all",
        "/pola",
        "/pola?which=all",
        "/laporan?by=office",
        "/laporan.csv?by=office",
        "/laporan.pdf?by=office",
        "/pengaturan",
    ]
    .map(str::to_owned)
    .into();
    all.extend([
        format!("/?region={}", side.region),
        format!("/?region={}", &office[..5]),
        format!("/insiden?which=all&region={}", side.region),
        format!("/laporan?by=office&region={}", side.region),
        format!("/kantor/{office}"),
        format!("/kantor/{office}/{}/{}", side.agent, side.target),
        format!("/insiden/{number}"),
    ]);
    all
}

/// The collector with both sides in trouble, each with an incident, a note, a silence, a user and a token; the numbers of the incidents, and what an administrator of
/// each side asks by.
async fn both_sides() -> (Collector, Vec<Agent>, [u64; 2], [String; 2]) {
    let collector = Collector::start(&config()).await;
    let mut agents = Vec::new();
    let mut numbers = Vec::new();
    let mut tokens = Vec::new();
    for side in [&BANTEN, &JAKARTA] {
        agents.push(agent(&collector, side));
        let path = format!("/api/v1/incidents?office={}", side.office);
        let look = || async { collector.json(&path).await[0]["number"].as_u64() };
        let number = eventually("there is an incident", WITHIN, look).await;
        let note = json!({"text": side.marks[6]});
        let (status, _) = collector
            .post(&format!("/api/v1/incidents/{number}/notes"), &note)
            .await;
        assert_eq!(status, 200);
        let silence = json!({"regions": [side.region], "why": side.marks[7], "for": "1h"});
        assert_eq!(collector.post("/api/v1/silences", &silence).await.0, 201);
        let user = json!({"name": side.marks[5], "role": "viewer", "regions": [side.office]});
        assert_eq!(collector.post("/api/v1/users", &user).await.0, 201);
        let create = ["token", "create", side.marks[5], "--region", side.region];
        let scopes = ["--scope", "read", "--scope", "operate", "--scope", "admin"];
        tokens.push(collector.token_of(&create, &scopes));
        numbers.push(number);
    }
    let numbers = numbers.try_into().expect("two");
    (collector, agents, numbers, tokens.try_into().expect("two"))
}

#[tokio::test]
async fn nobody_comes_in_without_being_let_in() {
    let (collector, _agents, numbers, _) = both_sides().await;
    let create = |name, scope| {
        collector.token_of(
            &["token", "create", name, "--region", "all"],
            &["--scope", scope],
        )
    };
    let (reader, counter) = (create("pembaca", "read"), create("penghitung", "metrics"));
    let mut open = BTreeSet::new();
    for (method, path, scope) in operations(&collector, &BANTEN, numbers[0]).await {
        let body = json!({});
        let body = (method != "get").then_some(&body);
        let (status, text) = ask(&collector, None, &method, &path, body).await;
        let Some(scope) = scope else {
            assert_eq!(status, 200, "{method} {path}");
            open.insert(path);
            continue;
        };
        assert_eq!(status, 401, "{method} {path}: {text}");
        let (status, _) = ask(&collector, Some("denyut_x"), &method, &path, body).await;
        assert_eq!(status, 401, "{method} {path}");
        // Each scope opens what needs it, and nothing else.
        let allowed = |status: StatusCode| {
            status != StatusCode::FORBIDDEN && status != StatusCode::UNAUTHORIZED
        };
        let (status, text) = ask(&collector, Some(&reader), &method, &path, body).await;
        let makes_token = method == "post" && path == "/api/v1/tokens";
        assert_eq!(
            allowed(status),
            scope == "read",
            "{method} {path}: {status} {text}"
        );
        assert!(
            !makes_token || status == 400,
            "an empty wish: {status} {text}"
        );
        let (status, _) = ask(&collector, Some(&counter), &method, &path, body).await;
        assert_eq!(
            allowed(status),
            scope == "metrics",
            "{method} {path}: {status}"
        );
    }
    let expected = ["/-/healthy", "/-/ready"].map(str::to_owned);
    assert_eq!(open, BTreeSet::from(expected));
    // The page asks for a login; what it is made of names nobody.
    let (status, _) = ask(&collector, None, "get", "/", None).await;
    assert_eq!(status, 303);
    for path in [
        "/masuk",
        "/style.css",
        "/live.js",
        "/plot.js",
        "/api/v1/openapi.json",
        "/masuk/x",
    ] {
        let (_, text) = ask(&collector, None, "get", path, None).await;
        for mark in BANTEN.marks.iter().filter(|mark| {
            !path.contains("openapi") || !["36.73.02", "Cipocok Jaya"].contains(mark)
        }) {
            assert!(!text.contains(mark), "{path}: {mark}");
        }
    }
    // A token cannot outlive itself.
    let wish = json!({"name": "lagi", "scopes": ["read"]});
    let (status, _) = ask(
        &collector,
        Some(&reader),
        "post",
        "/api/v1/tokens",
        Some(&wish),
    )
    .await;
    assert_eq!(status, 403);
    let more = json!({"name": "lagi", "scopes": ["metrics"], "regions": ["36"]});
    let admin = collector.token_of(
        &["token", "create", "admin-banten", "--region", "36"],
        &["--scope", "admin"],
    );
    let (status, text) = ask(
        &collector,
        Some(&admin),
        "post",
        "/api/v1/tokens",
        Some(&more),
    )
    .await;
    assert_eq!(status, 403, "{text}");
    let wider = json!({"name": "lagi", "scopes": ["admin"], "regions": ["36", "31"]});
    let (status, text) = ask(
        &collector,
        Some(&admin),
        "post",
        "/api/v1/tokens",
        Some(&wider),
    )
    .await;
    assert_eq!(status, 403, "{text}");
}

#[tokio::test]
#[allow(clippy::too_many_lines, reason = "every route and every page")]
async fn two_regions_see_and_change_nothing_of_each_other() {
    let (collector, _agents, numbers, tokens) = both_sides().await;
    let sides = [&BANTEN, &JAKARTA];
    for (own, other) in [(0, 1), (1, 0)] {
        let (token, foreign) = (tokens[own].as_str(), sides[other]);
        let mut seen = String::new();
        // What is asked of one's own shows nothing of the others', …
        for (method, path, _) in operations(&collector, sides[own], numbers[own]).await {
            if method != "get" || path == "/metrics" {
                continue;
            }
            for path in [
                path.clone(),
                format!("{path}?format=csv"),
                format!("{path}?format=ndjson&region={}", foreign.region),
                format!("{path}?samples=true"),
            ] {
                let (status, text) = ask(&collector, Some(token), &method, &path, None).await;
                assert!(
                    status != StatusCode::INTERNAL_SERVER_ERROR,
                    "{path}: {text}"
                );
                for mark in foreign.marks {
                    assert!(!text.contains(mark), "{path} tells of {mark}: {text}");
                }
                seen += &text;
            }
        }
        // … and is there: else nothing was looked at.
        for mark in sides[own].marks {
            assert!(seen.contains(mark), "{mark}");
        }
        // The same of every page.
        for path in pages(sides[own], numbers[own])
            .into_iter()
            .chain(pages(foreign, numbers[other]))
        {
            let (status, text) = ask(&collector, Some(token), "get", &path, None).await;
            assert!(!status.is_server_error(), "{path}: {text}");
            let names_it =
                path.contains(foreign.office) || path == format!("/insiden/{}", numbers[other]);
            assert_eq!(status == 404, names_it, "{path}: {status}");
            for mark in foreign.marks {
                // What was asked for is said again.
                let said = text.replace(&format!("there is no office {mark}"), "");
                assert!(
                    names_it || !said.contains(mark),
                    "{path} tells of {mark}: {text}"
                );
                assert!(!names_it || !said.contains("<main"), "{path}: {text}");
            }
        }
        for (path, deed) in [
            (format!("/insiden/{}", numbers[other]), "deed=note&text=x"),
            (
                format!("/insiden/{}", numbers[other]),
                "deed=silence&text=x",
            ),
            ("/insiden/senyap".to_owned(), "region={}&why=x"),
            ("/pengaturan/pengguna".to_owned(), "name=x&regions={}"),
            (
                format!("/pengaturan/pengguna/{}/ubah", foreign.marks[5]),
                "disabled=yes",
            ),
            (
                format!("/pengaturan/pengguna/{}/tautan", foreign.marks[5]),
                "",
            ),
            (
                format!("/pengaturan/pengguna/{}/hapus", foreign.marks[5]),
                "",
            ),
            (format!("/pengaturan/token/{}/hapus", foreign.marks[5]), ""),
            (format!("/pengaturan/penerima/{}/uji", foreign.marks[4]), ""),
            (
                format!(
                    "/kantor/{}/{}/{}/periksa",
                    foreign.office, foreign.agent, foreign.target
                ),
                "",
            ),
        ] {
            let request = reqwest::Client::new()
                .post(format!("http://{}{path}", collector.api))
                .bearer_auth(token)
                .header("content-type", "application/x-www-form-urlencoded")
                .body(deed.replace("{}", foreign.region));
            let answer = request.send().await.expect("answers");
            let status = answer.status();
            assert!(status.is_client_error(), "{path} {deed}: {status}");
        }
        // What is asked of the others' is as if it were not there, and changes nothing.
        let before = collector
            .json(&format!("/api/v1/incidents/{}", numbers[other]))
            .await;
        for (method, path, _) in operations(&collector, foreign, numbers[other]).await {
            let names_it = foreign.marks.iter().any(|mark| path.contains(mark))
                || path.contains(&format!("/incidents/{}", numbers[other]))
                || path.contains("/silences/");
            if !names_it {
                continue;
            }
            let body = match path.rsplit('/').next() {
                Some("notes") => json!({"text": "x"}),
                _ if path.contains("/registrations/") => {
                    json!({"code": foreign.office, "name": "x"})
                }
                _ => json!({}),
            };
            // The second silence is Jakarta's.
            let path = path.replace(
                &format!("/silences/{}", numbers[other]),
                &format!("/silences/{}", other + 1),
            );
            let body = (method != "get").then_some(&body);
            let (status, text) = ask(&collector, Some(token), &method, &path, body).await;
            let is_agent = path.contains("/agents/");
            assert!(
                status == 404
                    || (is_agent && status == 409)
                    // Whether there is such an office or not.
                    || (method == "put" && status == 403),
                "{method} {path}: {status} {text}"
            );
            for mark in foreign.marks.iter().filter(|mark| !path.contains(*mark)) {
                assert!(
                    !text.contains(mark),
                    "{method} {path} tells of {mark}: {text}"
                );
            }
        }
        let after = collector
            .json(&format!("/api/v1/incidents/{}", numbers[other]))
            .await;
        assert_eq!(before["steps"], after["steps"]);
        // Nor may anything be made there.
        for (path, body) in [
            (
                "/api/v1/silences",
                json!({"regions": [foreign.office], "why": "x", "for": "1h"}),
            ),
            (
                "/api/v1/users",
                json!({"name": "baru", "role": "viewer", "regions": [foreign.office]}),
            ),
            (
                "/api/v1/users",
                json!({"name": "baru", "role": "admin", "regions": ["all"]}),
            ),
            ("/api/v1/invitations", json!({"office": foreign.office})),
        ] {
            let (status, text) = ask(&collector, Some(token), "post", path, Some(&body)).await;
            assert!(status == 403 || status == 400, "{path}: {status} {text}");
        }
    }
    let all = collector.json("/api/v1/users").await;
    assert_eq!(all.as_array().map(Vec::len), Some(2), "{all}");
    let all = collector.json("/api/v1/silences").await;
    let now = denyut_tests::now_ms();
    assert!(
        all.as_array()
            .expect("a list")
            .iter()
            .all(|one| one["until_ms"].as_i64().expect("a time") > now),
        "{all}"
    );
}

/// A browser's requests: with the cookie that it was given, and from which page.
struct Visitor<'a> {
    collector: &'a Collector,
    client: reqwest::Client,
    cookie: Option<String>,
}

impl<'a> Visitor<'a> {
    fn new(collector: &'a Collector) -> Self {
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .build();
        Self {
            collector,
            client: client.expect("a client"),
            cookie: None,
        }
    }

    async fn send(
        &mut self,
        method: Method,
        path: &str,
        origin: &str,
        body: &str,
    ) -> (StatusCode, String) {
        let is_form = !path.starts_with("/api/");
        let kind = if is_form {
            "application/x-www-form-urlencoded"
        } else {
            "application/json"
        };
        let mut request = self.client.request(
            method.clone(),
            format!("http://{}{path}", self.collector.api),
        );
        request = request
            .header("content-type", kind)
            .header("host", "denyut.example");
        if method != Method::GET {
            request = request.header("origin", origin).body(body.to_owned());
        }
        if let Some(cookie) = &self.cookie {
            request = request.header("cookie", cookie);
        }
        let answer = request.send().await.expect("it answers");
        for given in answer.headers().get_all("set-cookie") {
            let given = given.to_str().expect("text").to_owned();
            if given.starts_with("__Host-denyut=") {
                assert!(
                    given.contains("; HttpOnly; SameSite=Lax; Secure"),
                    "{given}"
                );
                let pair = given.split(';').next().expect("a pair");
                self.cookie = (!pair.ends_with('=')).then(|| pair.to_owned());
            }
        }
        (answer.status(), answer.text().await.expect("text"))
    }

    async fn post(&mut self, path: &str, body: &str) -> (StatusCode, String) {
        self.send(Method::POST, path, "https://denyut.example", body)
            .await
    }

    async fn get(&mut self, path: &str) -> (StatusCode, String) {
        self.send(Method::GET, path, "", "").await
    }
}

/// The path of the link that a command printed.
fn link(collector: &Collector, arguments: &[&str]) -> String {
    let made = collector.ctl(arguments);
    let text = String::from_utf8_lossy(&made.stdout).trim().to_owned();
    let path = text
        .strip_prefix("https://denyut.example")
        .unwrap_or_else(|| panic!("{}", said(&made)));
    path.to_owned()
}

const ADD: [&str; 9] = [
    "user",
    "add",
    "siti",
    "--full-name",
    "Siti Rahmawati",
    "--role",
    "operator",
    "--region",
    "36",
];

#[tokio::test]
#[allow(clippy::too_many_lines, reason = "the whole story of a user")]
async fn a_user_chooses_a_password_logs_in_and_out_and_is_shut_out() {
    let mut collector = Collector::start(&config()).await;
    let mut nobody = Visitor::new(&collector);
    let (_, page) = nobody.get("/masuk").await;
    assert!(
        page.contains("denyutctl user add"),
        "the first is told how: {page}"
    );
    let welcome = link(&collector, &ADD);
    let (_, page) = nobody.get("/masuk").await;
    assert!(!page.contains("denyutctl user add"), "{page}");

    let mut siti = Visitor::new(&collector);
    let (status, page) = siti.get(&welcome).await;
    assert!(status == 200 && page.contains("Halo, siti"), "{page}");
    for (form, text) in [
        (
            "password=pendek&again=pendek".to_owned(),
            "terlalu mudah ditebak",
        ),
        (
            format!("password={PASSWORD}&again={PASSWORD}x"),
            "Keduanya tidak sama",
        ),
    ] {
        let (status, page) = siti.post(&welcome, &form).await;
        assert!(status == 400 && page.contains(text), "{status} {page}");
    }
    let chosen = format!("password={PASSWORD}&again={PASSWORD}");
    let (status, _) = siti.post(&welcome, &chosen).await;
    assert_eq!(status, 303);
    let (_, me) = siti.get("/api/v1/me").await;
    let me: Value = serde_json::from_str(&me).expect("JSON");
    assert_eq!(
        (&me["user"], &me["signature"], &me["regions"]),
        (&json!("siti"), &json!("Siti Rahmawati"), &json!(["36"]))
    );
    assert_eq!(me["scopes"], json!(["read", "operate"]));
    // Once.
    let (status, _) = nobody.post(&welcome, &chosen).await;
    assert_eq!((status, &nobody.cookie), (StatusCode::NOT_FOUND, &None));

    // What a page of another site makes her browser send does nothing.
    for origin in [
        "https://evil.example",
        "null",
        "http://denyut.example.evil.example",
    ] {
        let wish = r#"{"regions":["36.73"],"why":"x","for":"1h"}"#;
        let (status, text) = siti
            .send(Method::POST, "/api/v1/silences", origin, wish)
            .await;
        assert_eq!(status, 403, "{origin}: {text}");
        let (status, _) = siti.send(Method::POST, "/keluar", origin, "").await;
        assert_eq!(status, 403);
    }
    assert_eq!(collector.json("/api/v1/silences").await, json!([]));
    // Nor a name that was made to point here.
    let request = siti
        .client
        .get(format!("http://{}/api/v1/me", collector.api))
        .header("host", "evil.example");
    let request = request.header("cookie", siti.cookie.clone().expect("a cookie"));
    assert_eq!(request.send().await.expect("answers").status(), 421);

    // A session outlives the collector; the logins below are counted anew by it.
    let cookie = siti.cookie.clone();
    collector.kill();
    collector.launch().await;
    let mut siti = Visitor::new(&collector);
    siti.cookie = cookie;
    assert_eq!(siti.get("/api/v1/me").await.0, 200);
    let mut other = Visitor::new(&collector);
    let (status, page) = other.post("/masuk", "name=siti&password=salah&to=/").await;
    assert!(status == 401 && page.contains("salah."), "{page}");
    let (status, page) = other
        .post("/masuk", &format!("name=nobody&password={PASSWORD}"))
        .await;
    assert!(status == 401 && page.contains("salah."), "{page}");
    let (status, _) = other
        .post(
            "/masuk",
            &format!("name=Siti&password={PASSWORD}&to=//evil.example"),
        )
        .await;
    assert_eq!(status, 303);
    let old = other.cookie.clone();
    assert_eq!(other.post("/keluar", "").await.0, 303);
    assert_eq!(other.cookie, None);
    other.cookie = old;
    assert_eq!(
        other.get("/api/v1/me").await.0,
        401,
        "the session is over, and not only the cookie"
    );

    // Who is shut out is out at once, with every session and token.
    let wish = r#"{"name":"punya-siti","scopes":["read"]}"#;
    let (status, made) = siti.post("/api/v1/tokens", wish).await;
    assert_eq!(status, 201, "{made}");
    let token: Value = serde_json::from_str(&made).expect("JSON");
    let token = token["token"].as_str().expect("a token").to_owned();
    assert_eq!(
        ask(&collector, Some(&token), "get", "/api/v1/me", None)
            .await
            .0,
        200
    );
    assert!(collector.ctl(&["user", "disable", "siti"]).status.success());
    assert_eq!(siti.get("/api/v1/me").await.0, 401);
    assert_eq!(
        ask(&collector, Some(&token), "get", "/api/v1/me", None)
            .await
            .0,
        401
    );
    assert_eq!(
        other
            .post("/masuk", &format!("name=siti&password={PASSWORD}"))
            .await
            .0,
        401
    );
    assert!(collector.ctl(&["user", "enable", "siti"]).status.success());
    assert_eq!(siti.get("/api/v1/me").await.0, 401, "whoever was in is out");
    let login = format!("name=siti&password={PASSWORD}");
    assert_eq!(siti.post("/masuk", &login).await.0, 303);
    // A token does no more than its user may now.
    assert!(
        collector
            .ctl(&["user", "change", "siti", "--region", "31"])
            .status
            .success()
    );
    let (_, text) = ask(&collector, Some(&token), "get", "/api/v1/offices", None).await;
    assert_eq!(text, "[]", "it was given 36, which she sees no more");
    // A new password ends every session.
    let again = link(&collector, &["user", "welcome", "siti"]);
    assert_eq!(other.post(&again, &chosen).await.0, 303);
    assert_eq!(siti.get("/api/v1/me").await.0, 401);
    assert!(collector.ctl(&["user", "remove", "siti"]).status.success());
    assert_eq!(other.get("/api/v1/me").await.0, 401);
    assert_eq!(
        ask(&collector, Some(&token), "get", "/api/v1/me", None)
            .await
            .0,
        401
    );
    // Nothing secret is kept, logged or shown.
    let audit = collector
        .get("/api/v1/audit?limit=1000")
        .await
        .expect("an answer");
    for secret in [
        "kuda",
        &token,
        welcome.rsplit('/').next().expect("a secret"),
    ] {
        assert!(
            !audit.contains(secret) && !collector.log().contains(secret),
            "{secret}"
        );
    }
    assert!(
        audit.contains("\"siti\"") && audit.contains("/api/v1/users/siti"),
        "{audit}"
    );
}

#[tokio::test]
async fn passwords_cannot_be_tried_for_ever() {
    let collector = Collector::start(&config()).await;
    link(&collector, &ADD);
    let mut thief = Visitor::new(&collector);
    let mut refused = 0;
    for n in 0..14 {
        let (status, page) = thief
            .post("/masuk", &format!("name=siti&password=salah{n}"))
            .await;
        refused += usize::from(status == 429);
        assert!(
            status == 401 || (status == 429 && page.contains("coba lagi dalam")),
            "{status} {page}"
        );
    }
    assert!(
        (2..=4).contains(&refused),
        "ten at once, then one each 15 s: {refused}"
    );
}

#[tokio::test]
async fn a_caller_who_asks_too_often_waits() {
    let collector = Collector::start(&config()).await;
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let request = collector.request(Method::GET, "/api/v1/me");
        asking.spawn(async move {
            let mut refused = Vec::new();
            for _ in 0..60 {
                let answer = request
                    .try_clone()
                    .expect("a copy")
                    .send()
                    .await
                    .expect("answers");
                if answer.status() == 429 {
                    refused.push(answer.headers()["retry-after"].clone());
                }
            }
            refused
        });
    }
    let refused: Vec<_> = asking.join_all().await.into_iter().flatten().collect();
    assert!(
        !refused.is_empty(),
        "1,200 at once are more than a caller may"
    );
    assert!(refused.iter().all(|after| after == "1"), "{refused:?}");
    // Others do not wait for them.
    let other = collector.token_of(
        &["token", "create", "lain", "--region", "all"],
        &["--scope", "read"],
    );
    assert_eq!(
        ask(&collector, Some(&other), "get", "/api/v1/me", None)
            .await
            .0,
        200
    );
}

#[tokio::test]
async fn what_is_done_is_written_down_and_what_is_secret_is_not() {
    let collector = Collector::start(&config()).await;
    // Who goes away before the answer has done it all the same.
    for n in 0..30 {
        let body =
            json!({"name": format!("tamu-{n}"), "role": "viewer", "regions": ["36"]}).to_string();
        let head = format!(
            "POST /api/v1/users HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\nidempotency-key: k{n}\r\ncontent-length: {}\r\n\r\n",
            collector.token,
            body.len()
        );
        let mut stream = std::net::TcpStream::connect(collector.api).expect("connects");
        std::io::Write::write_all(&mut stream, [head, body].concat().as_bytes()).expect("writes");
        std::thread::sleep(Duration::from_micros(n * 150));
        drop(stream);
    }
    let entries = || async {
        let audit = collector.json("/api/v1/audit?limit=1000").await;
        let all = audit.as_array().expect("a list").iter();
        all.filter(|one| one["path"] == "/api/v1/users" && one["status"] == 201)
            .count()
    };
    let users = || async {
        collector
            .json("/api/v1/users")
            .await
            .as_array()
            .map_or(0, Vec::len)
    };
    let settled = || async {
        let (before, written) = (users().await, entries().await);
        tokio::time::sleep(Duration::from_millis(500)).await;
        (before == users().await && before == written && before > 0).then_some(before)
    };
    eventually("each user that was made is written down", WITHIN, settled).await;
    // And who asks again under the same key gets an end: it was done, or is done now.
    for n in 0..30 {
        let body = json!({"name": format!("tamu-{n}"), "role": "viewer", "regions": ["36"]});
        let request = collector
            .request(Method::POST, "/api/v1/users")
            .header("idempotency-key", format!("k{n}"));
        let answer = request.json(&body).send().await.expect("answers");
        let (status, text) = (answer.status(), answer.text().await.expect("text"));
        assert!(
            status == 201 || text.contains("it was done"),
            "{n}: {status} {text}"
        );
    }
    assert_eq!(users().await, 30);

    // The secret of a link is in no entry, whoever uses it; a path is cut; the proxy's own word of where counts.
    let secret = link(&collector, &ADD);
    let mut siti = Visitor::new(&collector);
    siti.post(&secret, &format!("password={PASSWORD}&again={PASSWORD}"))
        .await;
    let again = link(&collector, &["user", "welcome", "siti"]);
    siti.post(&again, "password=pendek&again=pendek").await;
    let long = format!("/api/v1/silences/{}1/end", "0".repeat(60_000));
    assert_eq!(
        ask(&collector, Some(&collector.token), "post", &long, None)
            .await
            .0,
        400
    );
    let request = collector
        .request(Method::POST, "/api/v1/silences/77/end")
        .header("x-forwarded-for", "6.6.6.6")
        .header("x-forwarded-for", "10.0.0.9");
    request.send().await.expect("answers");
    let audit = collector
        .get("/api/v1/audit?limit=1000")
        .await
        .expect("an answer");
    for secret in [&secret, &again] {
        assert!(
            !audit.contains(secret.rsplit('/').next().expect("a secret")),
            "{audit}"
        );
    }
    let entries: Vec<Value> = serde_json::from_str(&audit).expect("JSON");
    assert!(
        entries
            .iter()
            .all(|one| one["path"].as_str().is_some_and(|path| path.len() <= 310))
    );
    assert!(entries.iter().any(|one| {
        one["path"]
            .as_str()
            .is_some_and(|path| path.starts_with("/api/v1/silences/000"))
    }));
    let from = entries
        .iter()
        .find(|one| one["path"] == "/api/v1/silences/77/end")
        .expect("an entry");
    assert_eq!(from["from"], "10.0.0.9");
}

#[tokio::test]
async fn who_is_shut_out_hears_no_more() {
    let collector = Collector::start(&config()).await;
    let token = collector.token_of(
        &["token", "create", "pendengar", "--region", "36"],
        &["--scope", "read"],
    );
    let request = reqwest::Client::new()
        .get(format!("http://{}/api/v1/events", collector.api))
        .bearer_auth(&token);
    let mut stream = request.send().await.expect("answers");
    assert!(stream.chunk().await.expect("reads").is_some());
    assert!(
        collector
            .ctl(&["token", "remove", "pendengar"])
            .status
            .success()
    );
    let end = async { while let Ok(Some(_)) = stream.chunk().await {} };
    tokio::time::timeout(Duration::from_secs(20), end)
        .await
        .expect("the stream ends");
}

/// Somebody can always let others in.
#[tokio::test]
async fn the_last_administrator_stays() {
    let collector = Collector::start(&config()).await;
    link(
        &collector,
        &["user", "add", "siti", "--role", "admin", "--region", "all"],
    );
    link(
        &collector,
        &["user", "add", "budi", "--role", "admin", "--region", "36"],
    );
    let path = "/api/v1/users/siti";
    let try_it = |method: Method, body: Option<Value>| {
        let request = collector.request(method, path);
        let request = match body {
            Some(body) => request.json(&body),
            None => request,
        };
        async move { request.send().await.expect("answers").status().as_u16() }
    };
    for change in [
        json!({"disabled": true}),
        json!({"role": "viewer"}),
        json!({"regions": ["36"]}),
    ] {
        assert_eq!(
            try_it(Method::PATCH, Some(change.clone())).await,
            409,
            "{change}"
        );
    }
    assert_eq!(try_it(Method::DELETE, None).await, 409);
    assert_eq!(
        try_it(Method::PATCH, Some(json!({"full_name": "Siti"}))).await,
        200
    );
    // With another she may go; who is on the machine always may.
    link(
        &collector,
        &["user", "add", "ani", "--role", "admin", "--region", "all"],
    );
    assert_eq!(try_it(Method::DELETE, None).await, 204);
    assert!(collector.ctl(&["user", "remove", "ani"]).status.success());
}
