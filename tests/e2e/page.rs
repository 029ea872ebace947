//! The page in a real browser: what it shows, in both languages, on both screens, and that it is live.

use denyut_proto::{
    BootId, Failure, Goodbye, Heartbeat, Hop, HttpExpectation, Outcome, Path as Way, Reason, Role,
    Said, Sample, Target, TargetSamples, UnixMillis, wire,
};
use denyut_tests::browser::{Browser, Screen};
use denyut_tests::peer::{Peer, entry, uptime_at};
use denyut_tests::{Agent, Collector, eventually, now_ms};
use prost::Message;
use std::path::PathBuf;
use std::time::{Duration, Instant};

const REGISTRY: &str = "[[office]]\ncode = \"36.73.02\"\nname = \"Cipocok Jaya\"\nagents = [\"a-1\"]\n\
     [[office]]\ncode = \"36.73.03\"\nname = \"Kasemen\"\nagents = [\"b-1\"]\n\
     [[office]]\ncode = \"36.73.01\"\nname = \"Serang\"\nagents = []\n";
const MINUTE_MS: i64 = 60_000;

/// A day of an office as its agent would have told it: an outage of the uplink 6 to 5 hours ago, nothing from 14 to 12
/// hours ago, then a goodbye.
async fn tell_a_day(collector: &Collector) {
    let mut peer = Peer::join(collector.ingest, "b-1", BootId([9; 16]))
        .await
        .expect("joins");
    let now = now_ms();
    let target = |name: &str, role, probe: &str| {
        let (interval, timeout) = (Duration::from_secs(60), Duration::from_secs(3));
        Target::new(
            name.parse()?,
            role,
            probe.parse()?,
            interval,
            timeout,
            HttpExpectation::default(),
        )
    };
    let targets = [
        target("gateway", Role::Gateway, "gateway"),
        target("server", Role::Server, "tcp://10.36.73.2:443"),
        target("uplink", Role::Uplink, "icmp://10.100.9.9"),
    ];
    let targets: Vec<Target> = targets
        .into_iter()
        .collect::<Result<_, _>>()
        .expect("valid");
    for hour in (0..24).rev() {
        if (12..14).contains(&hour) {
            continue;
        }
        let at = now - hour * 60 * MINUTE_MS;
        let samples = targets
            .iter()
            .zip([400u32, 900, 24_000])
            .map(|(target, base)| {
                let samples = (0..60).rev().map(|minute| {
                    let wobble =
                        u32::try_from((minute * 7_919 + hour * 104_729) % 97).expect("small");
                    let failed = target.role == Role::Uplink && hour == 5 || wobble == 3;
                    let outcome = if failed {
                        Outcome::Failed(Failure::from(Reason::Timeout))
                    } else {
                        Outcome::Ok {
                            rtt_us: base + base * wobble / 60,
                        }
                    };
                    Sample {
                        at: UnixMillis(at - minute * MINUTE_MS),
                        outcome,
                    }
                });
                TargetSamples {
                    target: target.name.clone(),
                    samples: samples.collect(),
                }
            });
        let heartbeat = Heartbeat {
            at: UnixMillis(at),
            uptime: uptime_at(at),
            started: Duration::ZERO,
            interval: Duration::from_secs(3600),
            samples: samples.collect(),
            targets: (hour == 23).then(|| targets.clone()),
            goodbye: (hour == 0).then_some(Goodbye::Stopped),
            gateway: Some("10.36.73.1".into()),
            shown: Vec::new(),
            path: (hour == 5).then(|| way_out(at)),
        };
        let seq = 24 - u64::try_from(hour).expect("small");
        assert!(
            peer.send(entry(
                seq,
                wire::Heartbeat::from(&heartbeat).encode_to_vec()
            ))
            .await
        );
    }
    let last = wire::collector_message::Kind::Ack(wire::Ack {
        seq: 24,
        closed_for_s: 0,
    });
    while peer.next().await.expect("goes on") != Some(last.clone()) {}
}

/// Where the way out broke: behind a provider's second router.
fn way_out(at: i64) -> Way {
    let hop = |last: [u8; 4], rtt_us| {
        Some(Hop {
            from: last.into(),
            rtt_us,
            said: Said::Passed,
        })
    };
    Way {
        target: "uplink".parse().expect("a name"),
        at: UnixMillis(at - 58 * MINUTE_MS),
        to: [203, 0, 113, 9].into(),
        hops: vec![
            hop([10, 36, 73, 1], 640),
            None,
            hop([192, 0, 2, 17], 18_400),
        ],
    }
}

fn agent_config(collector: &Collector) -> String {
    let target = |name: &str, probe: &str| {
        format!(
            "[[target]]\nname = \"{name}\"\nrole = \"{name}\"\nprobe = \"{probe}\"\ninterval = \"1s\"\n"
        )
    };
    [
        format!(
            "agent = \"a-1\"\nheartbeat = \"1s\"\n[collector]\naddresses = [\"http://{}\"]\n",
            collector.ingest
        ),
        target("uplink", "icmp://127.0.0.1"),
        // Nobody listens there.
        target("server", "tcp://127.0.0.1:1"),
        target("collector", &format!("http://{}/-/healthy", collector.api)),
    ]
    .concat()
}

pub(crate) async fn shows(browser: &Browser, texts: &[&str]) {
    let give_up = Instant::now() + Duration::from_secs(40);
    loop {
        let text = browser.text().await;
        let lacks: Vec<_> = texts.iter().filter(|one| !text.contains(**one)).collect();
        if lacks.is_empty() {
            return;
        }
        assert!(Instant::now() < give_up, "no {lacks:?} in\n{text}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

pub(crate) fn picture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name)
}

/// A page has no flaw that axe-core finds, in light and dark, and is no wider than the screen.
pub(crate) async fn is_sound(browser: &Browser, what: &str) {
    for dark in [true, false] {
        browser.dark(dark).await;
        let flaws = browser.flaws().await.unwrap_or_default();
        assert_eq!(flaws, Vec::<String>::new(), "{what}, dark: {dark}");
    }
    assert!(browser.fits().await, "{what} is wider than the screen");
    let small = "return [...document.querySelectorAll('main button, main input:not([type=hidden]), main select')].filter((one) => one.checkVisibility() && one.getBoundingClientRect().height < 32).map((one) => one.outerHTML)";
    assert_eq!(
        browser.run(small).await,
        serde_json::json!([]),
        "{what}: too small for a finger"
    );
    assert_eq!(browser.complaints().await, Vec::<String>::new(), "{what}");
}

/// A page that is still there after what happens meanwhile has its mark.
async fn mark(browser: &Browser) {
    browser.run("window.mark = 1").await;
}

async fn is_marked(browser: &Browser) -> bool {
    browser.run("return window.mark ?? 0").await == 1
}

#[tokio::test]
#[allow(clippy::too_many_lines, reason = "each page, one after another")]
async fn pages_show_what_is_so_and_stay_live() {
    let collector = Collector::start(REGISTRY).await;
    tell_a_day(&collector).await;
    let mut agent = Agent::start(None, &agent_config(&collector));
    let base = format!("http://{}", collector.api);
    let laptop = Browser::open(Screen::Laptop).await;
    laptop.enter(&collector, "siti").await;
    laptop.visit(&format!("{base}/")).await;
    shows(
        &laptop,
        &[
            "Langsung",
            "3 kantor",
            "1 terganggu",
            "Rusak sekarang",
            "Cipocok Jaya Server perekaman mati",
            "Banten",
            "Terganggu paling lama",
        ],
    )
    .await;
    is_sound(&laptop, "the overview").await;
    laptop.screenshot(&picture("overview-laptop-id.png")).await;
    // Down to the offices of a regency, and what a search finds.
    laptop.visit(&format!("{base}/?region=36.73")).await;
    shows(
        &laptop,
        &["Kasemen", "Dimatikan", "36.73.01", "Belum diketahui"],
    )
    .await;
    is_sound(&laptop, "a regency").await;
    laptop.visit(&format!("{base}/?q=kasem")).await;
    shows(&laptop, &["Kasemen", "1 kantor"]).await;
    assert!(!laptop.text().await.contains("Cipocok"));

    laptop.visit(&format!("{base}/kantor/36.73.02")).await;
    shows(
        &laptop,
        &[
            "Cipocok Jaya 36.73.02",
            "Server perekaman mati",
            "Server perekaman gagal (ditolak)",
            "sampai di 127.0.0.1: jaringannya baik",
            "Belum ada yang menangani",
            "Jam buka (WIB)",
            "Senin",
            "tcp://127.0.0.1:1",
            "a-1 · aktif",
        ],
    )
    .await;
    is_sound(&laptop, "an office").await;
    laptop.screenshot(&picture("office-laptop-id.png")).await;
    // A sample shows without a reload, and the agent's end does.
    mark(&laptop).await;
    let last = "return document.querySelector('[data-last=\"a-1/uplink\"]').textContent";
    let before = laptop.run(last).await;
    let fresher = || async { (laptop.run(last).await != before).then_some(()) };
    eventually("a new sample shows", Duration::from_secs(10), fresher).await;
    laptop
        .run("document.querySelector('form[action$=\"/uplink/periksa\"] button').click()")
        .await;
    shows(&laptop, &["Diminta"]).await;
    agent.terminate();
    let closed = "return document.querySelector('#link-a-1-uplink .badge').textContent";
    let switched = || async { (laptop.run(closed).await == "Dimatikan").then_some(()) };
    eventually("the stopped agent shows", Duration::from_secs(15), switched).await;
    assert!(is_marked(&laptop).await, "the page was reloaded");

    // A day of history: strips, smoke, and what is under the pointer.
    laptop
        .visit(&format!("{base}/kantor/36.73.03?lang=en"))
        .await;
    shows(
        &laptop,
        &["Kasemen", "Its agent was switched off properly", "Uplink"],
    )
    .await;
    let drawn = "return ['up', 'down', 'gap'].filter((kind) => !document.querySelector(`.glance .fill-${kind}`)).concat( \
        [...document.querySelectorAll('.smoke .median')].filter((line) => line.getAttribute('d').length < 300).map((line) => line.outerHTML))";
    assert_eq!(laptop.run(drawn).await, serde_json::json!([]));
    laptop.screenshot(&picture("office-laptop-en.png")).await;
    laptop
        .visit(&format!("{base}/kantor/36.73.03/b-1/uplink"))
        .await;
    shows(
        &laptop,
        &[
            "Uplink",
            "icmp://10.100.9.9",
            "answered",
            "median",
            "steps of",
            "Path at failure",
            "192.0.2.17 answered last; behind it nobody did, up to 203.0.113.9.",
            "silent",
        ],
    )
    .await;
    is_sound(&laptop, "a link").await;
    let hover = "const svg = document.querySelector('.smoke'), box = svg.getBoundingClientRect(); \
        svg.dispatchEvent(new PointerEvent('pointermove', { bubbles: true, clientX: box.left + box.width * 0.99, clientY: box.top + 20 }))";
    let told = || async {
        laptop.run(hover).await;
        let text = laptop.text().await;
        (text.contains("WIB: median ") && text.contains("of 5 failed")).then_some(())
    };
    eventually(
        "what is under the pointer is told",
        Duration::from_secs(10),
        told,
    )
    .await;
    laptop.screenshot(&picture("link-laptop-en.png")).await;
    laptop.first_screen(&picture("link-screen-en.png")).await;
    // What is drawn over is enlarged.
    let drag = "const svg = document.querySelector('.smoke'), box = svg.getBoundingClientRect(); \
        for (const [type, share] of [['pointerdown', 0.7], ['pointermove', 0.75], ['pointerup', 0.8]]) \
          svg.dispatchEvent(new PointerEvent(type, { bubbles: true, button: 0, pointerType: 'mouse', clientX: box.left + box.width * share, clientY: box.top + 20 }))";
    laptop.run(drag).await;
    let enlarged = || async {
        let query = laptop.run("return location.search").await;
        query
            .as_str()
            .is_some_and(|query| query.contains("from="))
            .then_some(())
    };
    eventually("it is enlarged", Duration::from_secs(10), enlarged).await;
    shows(&laptop, &["steps of 1 min"]).await;
    let down = "return document.querySelectorAll('.smoke .fill-down').length > 50";
    assert_eq!(laptop.run(down).await, true, "the outage is in it");
    for (path, texts) in [
        ("/insiden?which=all", ["Incidents", "Cipocok Jaya"]),
        ("/insiden/1", ["What happened", "What you can do"]),
        ("/pola", ["Patterns", "There is no pattern now"]),
        (
            "/laporan",
            ["Availability of the e-KTP network", "Provisional"],
        ),
        (
            "/laporan?region=36.73&hours=all",
            ["Kasemen", "What nobody saw"],
        ),
        ("/pengaturan", ["Receivers", "Users"]),
    ] {
        laptop.visit(&format!("{base}{path}")).await;
        shows(&laptop, &texts).await;
        is_sound(&laptop, path).await;
        let name = path
            .trim_start_matches('/')
            .replace(['/', '?', '=', '&'], "-");
        laptop
            .screenshot(&picture(&format!("{name}-laptop-en.png")))
            .await;
    }
}

/// Every page on a phone, in both languages, without a script: all is there, and nothing is wider than the screen.
#[tokio::test]
async fn pages_need_no_script_and_fit_a_phone() {
    let collector = Collector::start(REGISTRY).await;
    tell_a_day(&collector).await;
    let _agent = Agent::start(None, &agent_config(&collector));
    let base = format!("http://{}", collector.api);
    let open =
        || async { collector.json("/api/v1/incidents?open=true").await[0]["number"].as_u64() };
    let number = eventually("there is an incident", Duration::from_secs(20), open).await;
    let phone = Browser::open(Screen::Phone).await;
    phone.enter(&collector, "siti").await;
    let incident = format!("/insiden/{number}");
    for (language, pages) in [
        (
            "id",
            [
                ("/", "Rusak sekarang"),
                ("/?region=36.73", "Kasemen"),
                ("/kantor/36.73.02", "Server perekaman mati"),
                ("/kantor/36.73.03/b-1/uplink?hours=168", "langkah 1 jam"),
                ("/insiden", "Cipocok Jaya"),
                (incident.as_str(), "Urutan kejadian"),
                ("/pola", "Tidak ada pola"),
                ("/laporan?by=office", "Sementara"),
                ("/pengaturan", "Tambah pengguna"),
            ],
        ),
        (
            "en",
            [
                ("/", "Broken now"),
                ("/?region=36.73", "Kasemen"),
                ("/kantor/36.73.02", "The enrollment server is down"),
                ("/kantor/36.73.03/b-1/uplink?hours=168", "steps of 1 h"),
                ("/insiden", "Cipocok Jaya"),
                (incident.as_str(), "What happened"),
                ("/pola", "There is no pattern"),
                ("/laporan?by=office", "Provisional"),
                ("/pengaturan", "Add a user"),
            ],
        ),
    ] {
        phone.scripts(true).await;
        phone.visit(&format!("{base}/pola?lang={language}")).await;
        for (path, text) in pages {
            phone.scripts(false).await;
            phone.visit(&format!("{base}{path}")).await;
            phone.scripts(true).await;
            assert!(phone.text().await.contains(text), "{path}: {text}");
            assert!(phone.fits().await, "{path} is wider than the phone");
            let flaws = phone.flaws().await.unwrap_or_default();
            assert_eq!(flaws, Vec::<String>::new(), "{path} in {language}");
            let name = path
                .trim_start_matches('/')
                .replace(['/', '?', '=', '&', '.'], "-");
            phone
                .screenshot(&picture(&format!("phone-{language}-{name}.png")))
                .await;
        }
    }
    for path in [
        "/",
        "/kantor/36.73.02",
        "/insiden",
        "/laporan",
        "/pengaturan",
        "/kantor/36.73.03/b-1/uplink",
    ] {
        let request = collector
            .request(reqwest::Method::GET, path)
            .header("accept-encoding", "gzip");
        let size = request
            .send()
            .await
            .expect("answers")
            .bytes()
            .await
            .expect("reads")
            .len();
        assert!(
            (500..60_000).contains(&size),
            "{path}: {size} bytes over the wire"
        );
    }
}

/// Fills a field of a page in.
async fn fill(browser: &Browser, field: &str, text: &str) {
    let script = format!(
        "const field = document.querySelector('{field}'); field.focus(); field.value = '{text}'"
    );
    browser.run(&script).await;
}

async fn press(browser: &Browser, button: &str) {
    browser
        .run(&format!("document.querySelector('{button}').click()"))
        .await;
}

#[tokio::test]
async fn an_incident_is_cared_for_on_its_page() {
    let collector = Collector::start(REGISTRY).await;
    let _agent = Agent::start(None, &agent_config(&collector));
    let base = format!("http://{}", collector.api);
    for (screen, scripts) in [(Screen::Laptop, true), (Screen::Phone, false)] {
        let name = format!("{screen:?}").to_lowercase();
        let browser = Browser::open(screen).await;
        browser.enter(&collector, "siti").await;
        shows(&browser, &["Server perekaman mati"]).await;
        press(&browser, "a.incident").await;
        shows(&browser, &["Tindakan", "Server perekaman gagal (ditolak)"]).await;
        browser.scripts(scripts).await;
        browser.visit(&format!("{base}/insiden/1")).await;
        if scripts {
            // What happens meanwhile does not take away what somebody is writing.
            shows(&browser, &["Langsung"]).await;
            fill(&browser, "textarea", "teknisi di jalan").await;
            let note = serde_json::json!({"text": format!("dilihat di {name}")});
            let (noted, _) = collector
                .post_as("Budi", "/api/v1/incidents/1/notes", &note)
                .await;
            assert!(noted.is_success());
            shows(&browser, &[&format!("Budi: dilihat di {name}")]).await;
            let written = browser
                .run("return [document.activeElement.name, document.activeElement.value]")
                .await;
            assert_eq!(written, serde_json::json!(["text", "teknisi di jalan"]));
        } else {
            fill(&browser, "textarea", "teknisi di jalan").await;
        }
        press(&browser, "[value=acknowledge]").await;
        shows(
            &browser,
            &["Diakui", "Siti menanganinya, sampai", ": teknisi di jalan"],
        )
        .await;
        fill(&browser, "[name=to]", "Budi").await;
        press(&browser, "[value=assign]").await;
        shows(
            &browser,
            &["Ditugaskan kepada Budi", "Siti menugaskan Budi"],
        )
        .await;
        // What is wrong is said where it was written.
        press(&browser, "[value=note]").await;
        shows(
            &browser,
            &[
                "Keterangan: kosong; tulis apa yang Anda ketahui",
                "Siti menugaskan Budi",
            ],
        )
        .await;
        browser.visit(&format!("{base}/insiden/1")).await;
        assert!(browser.fits().await, "the page is wider than the screen");
        browser
            .screenshot(&picture(&format!("incident-{name}.png")))
            .await;
        press(&browser, "[value=withdraw]").await;
        shows(&browser, &["Siti membatalkan pengakuannya"]).await;
        fill(&browser, "textarea", "server dipindah").await;
        press(&browser, "[value=silence]").await;
        shows(&browser, &["Disenyapkan", "oleh Siti: server dipindah"]).await;
        browser.visit(&format!("{base}/insiden")).await;
        shows(
            &browser,
            &["36.73.02 · sampai", "oleh Siti: server dipindah"],
        )
        .await;
        press(&browser, ".silence button").await;
        shows(&browser, &["Tidak ada wilayah yang disenyapkan"]).await;
        // The browser tells of the form that was refused.
        assert_eq!(browser.complaints().await.len(), 1);
    }
    let silences = collector.json("/api/v1/silences").await;
    assert_eq!(silences.as_array().map(Vec::len), Some(2), "{silences}");
    // The office is silent, whatever the cause becomes.
    assert_eq!(silences[0]["causes"], serde_json::json!([]));
}

/// People, tokens and tests of receivers by the settings; what is secret is shown once.
#[tokio::test]
async fn settings_let_people_and_programs_in() {
    let collector = Collector::start(REGISTRY).await;
    let base = format!("http://{}", collector.api);
    let browser = Browser::open(Screen::Laptop).await;
    browser.enter(&collector, "siti").await;
    browser.visit(&format!("{base}/pengaturan")).await;
    browser
        .run("document.querySelectorAll('details').forEach((one) => one.open = true)")
        .await;
    let users = "[action=\"/pengaturan/pengguna\"]";
    fill(&browser, &format!("{users} [name=name]"), "budi").await;
    fill(&browser, &format!("{users} [name=regions]"), "36.73, 31").await;
    press(&browser, &format!("{users} button")).await;
    // 31 has no office.
    shows(
        &browser,
        &["tidak ada kantor di situ; sebut wilayah yang punya kantor"],
    )
    .await;
    browser
        .run("document.querySelectorAll('details').forEach((one) => one.open = true)")
        .await;
    fill(&browser, &format!("{users} [name=name]"), "budi").await;
    fill(&browser, &format!("{users} [name=regions]"), "36.73").await;
    press(&browser, &format!("{users} button")).await;
    shows(
        &browser,
        &[
            "Berikan tautan ini kepada budi",
            "https://denyut.example/masuk/",
            "belum memilih kata sandi",
        ],
    )
    .await;
    // The browser tells of the form that was refused.
    assert_eq!(browser.complaints().await.len(), 1);
    is_sound(&browser, "the settings").await;
    let secret = browser
        .run("return document.querySelector('pre').textContent")
        .await;
    browser.visit(&format!("{base}/pengaturan")).await;
    let secret = secret.as_str().expect("a link").to_owned();
    assert!(
        !browser
            .run("return document.documentElement.outerHTML")
            .await
            .to_string()
            .contains(&secret)
    );
    browser
        .run("document.querySelectorAll('details').forEach((one) => one.open = true)")
        .await;
    let change = "[action=\"/pengaturan/pengguna/budi/ubah\"]";
    browser.run(&format!("document.querySelector('{change} [name=role]').value = 'operator'; document.querySelector('{change} button').click()")).await;
    let role = || async {
        (collector.json("/api/v1/users/budi").await["role"] == "operator").then_some(())
    };
    eventually("the role is changed", Duration::from_secs(10), role).await;
    browser.visit(&format!("{base}/pengaturan")).await;
    browser
        .run("document.querySelectorAll('details').forEach((one) => one.open = true)")
        .await;
    press(
        &browser,
        "[action=\"/pengaturan/pengguna/budi/hapus\"] button",
    )
    .await;
    let gone = || async {
        collector
            .get("/api/v1/users/budi")
            .await
            .is_none_or(|text| text.contains("no user"))
            .then_some(())
    };
    eventually("the user is removed", Duration::from_secs(10), gone).await;
    browser
        .run("document.querySelectorAll('details').forEach((one) => one.open = true)")
        .await;
    let tokens = "[action=\"/pengaturan/token\"]";
    fill(&browser, &format!("{tokens} [name=name]"), "grafana").await;
    press(&browser, &format!("{tokens} button")).await;
    shows(&browser, &["Token grafana:", "denyut_"]).await;
    let token = browser
        .run("return document.querySelector('pre').textContent")
        .await;
    let request = reqwest::Client::new().get(format!("{base}/api/v1/me"));
    let me = request
        .bearer_auth(token.as_str().expect("a token"))
        .send()
        .await
        .expect("answers");
    let me: serde_json::Value = me.json().await.expect("JSON");
    assert_eq!(
        (&me["user"], &me["scopes"]),
        (&"siti".into(), &serde_json::json!(["read"]))
    );
    browser.screenshot(&picture("settings-laptop-id.png")).await;
    assert_eq!(browser.complaints().await, Vec::<String>::new());
}

/// When the collector goes away, the page says so instead of showing old data as if it were new.
#[tokio::test]
async fn the_page_says_when_it_is_cut_off() {
    let mut collector = Collector::start(REGISTRY).await;
    let browser = Browser::open(Screen::Laptop).await;
    browser.enter(&collector, "siti").await;
    browser
        .visit(&format!("http://{}/?lang=en", collector.api))
        .await;
    shows(&browser, &["Live", "3 offices"]).await;
    collector.kill();
    shows(&browser, &["Cut off from the collector"]).await;
    collector.launch().await;
    shows(&browser, &["Live"]).await;
}

/// The door: a login that works without a script, in both languages, on both screens.
#[tokio::test]
async fn the_login_is_a_plain_page() {
    let collector = Collector::start(REGISTRY).await;
    for (screen, language, texts) in [
        (
            Screen::Laptop,
            "id",
            ["Masuk", "Kata sandi", "Belum ada pengguna"],
        ),
        (
            Screen::Phone,
            "en",
            ["Log in", "Password", "There are no users yet"],
        ),
    ] {
        let name = format!("{screen:?}").to_lowercase();
        let browser = Browser::open(screen).await;
        browser
            .visit(&format!("http://{}/?region=36", collector.api))
            .await;
        let path = browser
            .run("return location.pathname + location.search")
            .await;
        assert_eq!(path, "/masuk?to=%2F%3Fregion%3D36");
        browser
            .visit(&format!("http://{}/masuk?lang={language}", collector.api))
            .await;
        shows(&browser, &texts).await;
        assert_eq!(browser.run("return document.scripts.length").await, 0);
        is_sound(&browser, "the login").await;
        browser
            .screenshot(&picture(&format!("login-{name}-{language}.png")))
            .await;
        // The language is remembered.
        browser
            .visit(&format!("http://{}/masuk/x", collector.api))
            .await;
        shows(
            &browser,
            &[if language == "id" {
                "Tautan ini tidak berlaku lagi"
            } else {
                "This link is over"
            }],
        )
        .await;
    }
    // A login ends where somebody wanted to go.
    let browser = Browser::open(Screen::Laptop).await;
    browser.enter(&collector, "siti").await;
    browser
        .run("document.querySelector('form[action=\"/keluar\"]').submit()")
        .await;
    shows(&browser, &["Kata sandi"]).await;
    browser
        .visit(&format!("http://{}/?region=36", collector.api))
        .await;
    browser
        .run("document.querySelector('[name=name]').value = 'siti'; document.querySelector('[name=password]').value = 'salah'; document.querySelector('form').submit()")
        .await;
    shows(&browser, &["salah."]).await;
    browser
        .run("document.querySelector('[name=password]').value = 'kuda terbang di serang'; document.querySelector('form').submit()")
        .await;
    shows(&browser, &["Banten", "siti"]).await;
    assert_eq!(browser.run("return location.search").await, "?region=36");
}

/// The API's document for people: every operation, without a script, on both screens.
#[tokio::test]
async fn the_api_is_shown_to_people() {
    let collector = Collector::start(REGISTRY).await;
    for screen in [Screen::Laptop, Screen::Phone] {
        let name = format!("{screen:?}").to_lowercase();
        let browser = Browser::open(screen).await;
        browser
            .visit(&format!("http://{}/docs", collector.api))
            .await;
        shows(
            &browser,
            &[
                "denyut: the API",
                "/api/v1/offices/{office}",
                "Acknowledge",
                "Needs the scope operate",
            ],
        )
        .await;
        is_sound(&browser, "the API").await;
        let sections = browser
            .run("return document.querySelectorAll('main > section').length")
            .await;
        let schemas = collector.json("/api/v1/openapi.json").await["components"]["schemas"]
            .as_object()
            .map_or(0, serde_json::Map::len);
        assert!(
            sections.as_u64().expect("a count") >= (schemas + 40) as u64,
            "{sections}"
        );
        // Every link leads somewhere.
        let lost = "return [...document.querySelectorAll('a[href^=\"#\"]')].filter((a) => !document.getElementById(a.hash.slice(1))).map((a) => a.hash)";
        assert_eq!(browser.run(lost).await, serde_json::json!([]));
        assert!(browser.fits().await, "{name}");
        browser
            .screenshot(&picture(&format!("docs-{name}.png")))
            .await;
        assert_eq!(browser.complaints().await, Vec::<String>::new());
    }
    let answer = collector
        .request(reqwest::Method::GET, "/docs")
        .header("accept-encoding", "gzip")
        .send()
        .await
        .expect("answers");
    let size = answer.bytes().await.expect("reads").len();
    assert!(size < 60_000, "{size} bytes over the wire");
}
