//! The page in a real browser: what it shows, in both languages, on both screens, and that it is live.

use denyut_proto::{
    BootId, Failure, Goodbye, Heartbeat, HttpExpectation, Outcome, Reason, Role, Sample, Target,
    TargetSamples, UnixMillis, wire,
};
use denyut_tests::browser::{Browser, Screen};
use denyut_tests::peer::{Peer, entry, uptime_at};
use denyut_tests::{Agent, Collector, eventually, now_ms};
use prost::Message;
use std::path::PathBuf;
use std::time::Duration;

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
    let look = || async {
        let text = browser.text().await;
        texts
            .iter()
            .all(|wanted| text.contains(wanted))
            .then_some(())
    };
    eventually(
        &format!("the page shows {texts:?}"),
        Duration::from_secs(20),
        look,
    )
    .await;
}

/// Scrolls to the office with a day of history, and waits until its pictures are drawn.
async fn see_the_day(browser: &Browser) {
    browser
        .run("document.querySelector('[data-office=\"36.73.03\"]').scrollIntoView()")
        .await;
    let drawn = || async {
        let script = "const card = document.querySelector('[data-office=\"36.73.03\"]'); \
            const kinds = [...card.querySelectorAll('.strip rect')].map((rect) => rect.getAttribute('class')); \
            return ['fill-up', 'fill-down', 'fill-mixed', 'fill-gap'].every((kind) => kinds.includes(kind)) && \
              card.querySelectorAll('.rtt .median').length === 3 && card.querySelectorAll('.rtt .band').length > 300";
        (browser.run(script).await == true).then_some(())
    };
    eventually("strips and plots are drawn", Duration::from_secs(20), drawn).await;
}

pub(crate) fn picture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name)
}

#[tokio::test]
async fn the_page_shows_offices_and_stays_live() {
    let collector = Collector::start(REGISTRY).await;
    tell_a_day(&collector).await;
    let mut agent = Agent::start(None, &agent_config(&collector));
    let laptop = Browser::open(Screen::Laptop).await;
    laptop.enter(&collector, "siti").await;
    laptop.visit(&format!("http://{}/", collector.api)).await;
    shows(
        &laptop,
        &[
            "Cipocok Jaya",
            "Kasemen",
            "Serang",
            "Kantor",
            "Langsung",
            "Server perekaman mati",
        ],
    )
    .await;
    shows(
        &laptop,
        &[
            "Mati",
            "Terganggu",
            "Aktif",
            "Dimatikan",
            "Belum ada agen terdaftar",
            "gateway 10.36.73.1",
            "WIB",
            "ditolak",
        ],
    )
    .await;
    see_the_day(&laptop).await;
    laptop.screenshot(&picture("page-laptop-id.png")).await;

    // A mark on the window is gone after a reload.
    laptop.run("window.mark = 1").await;
    let last = "return document.querySelector('[data-link$=\"/uplink\"] .last').title";
    let before = laptop.run(last).await;
    let fresher = || async { (laptop.run(last).await != before).then_some(()) };
    eventually("a new sample shows", Duration::from_secs(10), fresher).await;
    laptop
        .run("document.querySelector('[data-link$=\"/uplink\"] .probe-now').click()")
        .await;
    shows(&laptop, &["Diminta"]).await;
    laptop
        .run("document.querySelector('#ranges button').click()")
        .await;
    shows(&laptop, &["30 menit lalu"]).await;

    laptop
        .run("document.getElementById('language').click()")
        .await;
    shows(
        &laptop,
        &[
            "Offices",
            "Live",
            "The enrollment server is down",
            "refused",
            "No agent is registered",
        ],
    )
    .await;
    laptop
        .run("document.querySelector('[data-office=\"36.73.03\"]').scrollIntoView()")
        .await;
    let lines =
        "return document.querySelectorAll('[data-office=\"36.73.03\"] .rtt .median').length";
    let drawn = || async { (laptop.run(lines).await == 3).then_some(()) };
    eventually("the hour is drawn", Duration::from_secs(10), drawn).await;
    laptop.screenshot(&picture("page-laptop-en.png")).await;
    agent.terminate();
    let closed = || async {
        let script =
            "return document.querySelector('[data-office=\"36.73.02\"] .link .badge').textContent";
        (laptop.run(script).await == "Switched off").then_some(())
    };
    eventually(
        "the stopped agent's links show as closed",
        Duration::from_secs(10),
        closed,
    )
    .await;
    assert_eq!(
        laptop.run("return window.mark").await,
        1,
        "the page was reloaded"
    );
    assert_eq!(laptop.complaints().await, Vec::<String>::new());
}

#[tokio::test]
async fn the_page_fits_a_phone() {
    let collector = Collector::start(REGISTRY).await;
    tell_a_day(&collector).await;
    let phone = Browser::open(Screen::Phone).await;
    phone.enter(&collector, "siti").await;
    phone.visit(&format!("http://{}/", collector.api)).await;
    shows(&phone, &["Cipocok Jaya", "Kantor", "Langsung"]).await;
    see_the_day(&phone).await;
    assert!(phone.fits().await, "the page is wider than the phone");
    let small = "return [...document.querySelectorAll('button')].filter((b) => b.getBoundingClientRect().height < 32).length";
    assert_eq!(phone.run(small).await, 0, "buttons too small for a finger");
    phone.screenshot(&picture("page-phone-id.png")).await;
    assert_eq!(phone.complaints().await, Vec::<String>::new());
}

/// Types into a field of the first incident's card.
async fn type_into(browser: &Browser, field: &str, text: &str) {
    let script = format!(
        "const field = document.querySelector('.incident [name=\"{field}\"]'); field.focus(); field.value = '{text}'; \
         field.dispatchEvent(new Event('input', {{ bubbles: true }}))"
    );
    browser.run(&script).await;
}

/// Presses a button of the first incident's card by its text.
async fn press(browser: &Browser, text: &str) {
    let script = format!(
        "[...document.querySelectorAll('.incident .case button')].find((button) => button.textContent === '{text}').click()"
    );
    browser.run(&script).await;
}

#[tokio::test]
async fn an_incident_is_cared_for_on_the_page() {
    let collector = Collector::start(REGISTRY).await;
    let _agent = Agent::start(None, &agent_config(&collector));
    for screen in [Screen::Laptop, Screen::Phone] {
        let name = format!("{screen:?}").to_lowercase();
        let browser = Browser::open(screen).await;
        browser.enter(&collector, "siti").await;
        browser.visit(&format!("http://{}/", collector.api)).await;
        shows(
            &browser,
            &["Cipocok Jaya", "Langsung", "Server perekaman mati"],
        )
        .await;
        browser
            .run("document.querySelector('#incidents .incident').open = true")
            .await;
        // What happens meanwhile does not take away what somebody is writing.
        type_into(&browser, "text", "teknisi di jalan").await;
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
        press(&browser, "Akui").await;
        shows(
            &browser,
            &[
                "Diakui",
                "Siti mengakui gangguan ini sampai",
                ": teknisi di jalan",
            ],
        )
        .await;
        type_into(&browser, "to", "Budi").await;
        press(&browser, "Tugaskan").await;
        shows(
            &browser,
            &["Ditugaskan kepada Budi", "Siti menugaskan Budi"],
        )
        .await;
        assert!(browser.fits().await, "the page is wider than the screen");
        browser
            .screenshot(&picture(&format!("page-case-{name}.png")))
            .await;
        press(&browser, "Batalkan pengakuan").await;
        shows(&browser, &["Siti membatalkan pengakuannya"]).await;
        assert_eq!(browser.complaints().await, Vec::<String>::new());
    }
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
    shows(&browser, &["Live", "Offices: 3"]).await;
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
            .visit(&format!("http://{}/?hours=1", collector.api))
            .await;
        let path = browser
            .run("return location.pathname + location.search")
            .await;
        assert_eq!(path, "/masuk?to=%2F%3Fhours%3D1");
        browser
            .visit(&format!("http://{}/masuk?lang={language}", collector.api))
            .await;
        shows(&browser, &texts).await;
        assert_eq!(browser.run("return document.scripts.length").await, 0);
        let small = "return [...document.querySelectorAll('button, input:not([type=hidden])')].filter((b) => b.getBoundingClientRect().height < 32).length";
        assert_eq!(browser.run(small).await, 0, "too small for a finger");
        assert!(browser.fits().await);
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
        .visit(&format!("http://{}/?hours=1", collector.api))
        .await;
    browser
        .run("document.querySelector('[name=name]').value = 'siti'; document.querySelector('[name=password]').value = 'salah'; document.querySelector('form').submit()")
        .await;
    shows(&browser, &["salah."]).await;
    browser
        .run("document.querySelector('[name=password]').value = 'kuda terbang di serang'; document.querySelector('form').submit()")
        .await;
    shows(&browser, &["Cipocok Jaya", "siti"]).await;
    assert_eq!(browser.run("return location.search").await, "?hours=1");
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
