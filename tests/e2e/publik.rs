//! The page for citizens: what it says, that it never says yes of what is old, and that it says nothing else.

use crate::alerts::{WITHIN, nowhere};
use crate::page::{is_sound, picture, shows};
use denyut_tests::browser::{Browser, Screen};
use denyut_tests::{Agent, Collector, eventually};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::net::{SocketAddr, TcpListener};

const REGISTRY: &str = "[public]\npage = true\n\
    [[office]]\ncode = \"36.73.01\"\nname = \"Serang\"\nregency = \"Kota Serang\"\nisp = \"rahasia-isp\"\nlatitude = -6.1149\nlongitude = 106.1503\nagents = [\"rahasia-agen-1\"]\n\
    [[office]]\ncode = \"36.73.02\"\nname = \"Cipocok Jaya\"\nregency = \"Kota Serang\"\nlatitude = -6.1322\nlongitude = 106.1655\nagents = [\"rahasia-agen-2\"]\n\
    [[office]]\ncode = \"36.73.03\"\nname = \"Kasemen <b>\"\nregency = \"Kota Serang\"\nlatitude = -6.0589\nlongitude = 106.1550\n\
    [[office]]\ncode = \"36.73.04\"\nname = \"Curug\"\nregency = \"Kota Serang\"\nhours = \"Mon 03:00-03:01\"\nlatitude = -6.1747\nlongitude = 106.1897\n\
    [[office]]\ncode = \"31.71.01\"\nname = \"Gambir\"\nregency = \"Jakarta Pusat\"\n\
    [detection]\nrecovery_answers = 2\nrecovery_time = \"1s\"\n";

fn agent(collector: &Collector, n: u8, target: SocketAddr) -> Agent {
    let config = format!(
        "agent = \"rahasia-agen-{n}\"\nheartbeat = \"1s\"\n[collector]\naddresses = [\"http://{}\"]\n\
         [[target]]\nname = \"rahasia-server\"\nrole = \"server\"\nprobe = \"tcp://{target}\"\ninterval = \"1s\"\ntimeout = \"500ms\"\n",
        collector.ingest
    );
    Agent::start(None, &config)
}

/// A request of somebody whom nobody knows.
async fn ask(collector: &Collector, path: &str) -> (StatusCode, String) {
    let answer = reqwest::get(format!("http://{}{path}", collector.api))
        .await
        .expect("answers");
    (answer.status(), answer.text().await.expect("text"))
}

async fn offices(collector: &Collector) -> Value {
    let (status, text) = ask(collector, "/publik/36.73.json").await;
    assert_eq!(status, 200, "{text}");
    serde_json::from_str(&text).expect("JSON")
}

/// Waits until an office is said to be so.
async fn says(collector: &Collector, place: usize, can: &str) {
    let look =
        || async { (offices(collector).await["offices"][place]["can"] == can).then_some(()) };
    eventually(&format!("office {place} says {can}"), 2 * WITHIN, look).await;
}

#[tokio::test]
async fn citizens_see_which_office_can_record_and_nothing_else() {
    let dir = tempfile::tempdir().expect("tempdir");
    let villages = dir.path().join("villages.csv");
    let table = "code,name,latitude,longitude\n36.73.03.1004,Sawah Luhur,-6.05,106.18\n36.73.04.1001,Curug,-6.1747,106.1897\n";
    std::fs::write(&villages, table).expect("writes");
    let with = format!("page = true\nvillages = \"{}\"\n", villages.display());
    let collector = Collector::start(&REGISTRY.replace("page = true\n", &with)).await;
    let server = TcpListener::bind("127.0.0.1:0").expect("listens");
    let mut one = agent(&collector, 1, server.local_addr().expect("is bound"));
    let _two = agent(&collector, 2, nowhere());
    says(&collector, 0, "yes").await;
    says(&collector, 1, "no").await;
    let all = offices(&collector).await;
    let said: Vec<&Value> = all["offices"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|one| &one["can"])
        .collect();
    assert_eq!(said, ["yes", "no", "unknown", "closed"]);
    assert_eq!(
        (&all["name"], &all["offices"][0]["hours"]),
        (&json!("Kota Serang"), &json!(["00:00-24:00"]))
    );

    // Nothing else, in no form.
    let mut size = 0;
    for path in [
        "/publik",
        "/publik/36.73",
        "/publik/36.73.02",
        "/publik/36.73?lang=en",
        "/publik/36.73.json",
        "/publik/36.73.atom",
        "/publik/36.73.01.svg",
    ] {
        let (status, text) = ask(&collector, path).await;
        assert_eq!(status, 200, "{path}");
        assert!(
            !text.contains("rahasia")
                && !text.contains("127.0.0.1")
                && !text.contains("Kasemen <b>")
                || path.ends_with("json"),
            "{path}: {text}"
        );
        assert!(!text.contains("rahasia"), "{path}: {text}");
        size = size.max(text.len());
    }
    assert!(size < 20_000, "{size} bytes before they are compressed");
    for path in [
        "/publik/36.72",
        "/publik/36.73.99",
        "/publik/36",
        "/publik/36.73.exe",
        "/publik/..%2f",
        "/publik/36.73.json.svg",
    ] {
        assert_eq!(ask(&collector, path).await.0, 404, "{path}");
    }
    // Under any name, for anybody to keep a while, and by a script of any site.
    let request = reqwest::Client::new()
        .get(format!("http://{}/publik/36.73", collector.api))
        .header("host", "disdukcapil.example")
        .header("accept-encoding", "gzip");
    let answer = request.send().await.expect("answers");
    let field = |name: &str| answer.headers()[name].to_str().expect("text").to_owned();
    assert_eq!(
        (
            answer.status(),
            field("cache-control"),
            field("content-encoding"),
            field("access-control-allow-origin")
        ),
        (
            StatusCode::OK,
            "public, max-age=30".into(),
            "gzip".into(),
            "*".into()
        )
    );
    assert!(answer.headers().get("set-cookie").is_none());

    see(&collector).await;

    // Who is not heard is not known to be up, whatever was so before.
    one.kill();
    says(&collector, 0, "unknown").await;
    // Each form is made anew every ten seconds.
    let badge = || async {
        let (_, badge) = ask(&collector, "/publik/36.73.01.svg").await;
        (badge.contains("e-KTP Serang: Tidak diketahui") && !badge.contains("#14704a"))
            .then_some(())
    };
    eventually("the badge is not green", WITHIN, badge).await;
    // Who has not said that citizens may ask is not asked.
    let closed = Collector::start(&REGISTRY.replace("page = true", "page = false")).await;
    for path in ["/publik", "/publik/36.73", "/publik/36.73.json"] {
        assert_eq!(ask(&closed, path).await.0, 404, "{path}");
    }
}

/// Looks at the page: with and without a script, on both screens, in both languages, near and old.
async fn see(collector: &Collector) {
    for (screen, language, scripts, texts) in [
        (
            Screen::Phone,
            "id",
            false,
            [
                "Kantor mana yang bisa rekam e-KTP sekarang?",
                "Kasemen <b>",
                "Tidak diketahui",
                "Hari ini tutup.",
            ],
        ),
        (
            Screen::Laptop,
            "en",
            true,
            [
                "Which office can record an identity card now?",
                "Kasemen <b>",
                "Not known",
                "Closed today.",
            ],
        ),
    ] {
        let name = format!("{screen:?}").to_lowercase();
        let browser = Browser::open(screen).await;
        browser.scripts(scripts).await;
        browser
            .visit(&format!(
                "http://{}/publik/36.73?lang={language}",
                collector.api
            ))
            .await;
        if scripts {
            shows(&browser, &texts).await;
        }
        browser
            .screenshot(&picture(&format!("publik-{name}-{language}.png")))
            .await;
        browser.scripts(true).await;
        shows(&browser, &texts).await;
        assert_eq!(
            browser
                .run("return document.getElementById('near').hidden")
                .await,
            !scripts
        );
        is_sound(&browser, &name).await;
    }
    see_the_way(collector).await;
}

/// Looks for the nearest, and at what is old.
async fn see_the_way(collector: &Collector) {
    let browser = Browser::open(Screen::Phone).await;
    browser
        .visit(&format!("http://{}/publik/36.73.03", collector.api))
        .await;
    let order = "return [...document.querySelectorAll('.offices a')].map((a) => a.textContent)";
    // From an office: itself, then the nearest.
    assert_eq!(
        browser.run(order).await,
        json!(["Kasemen <b>", "Serang", "Cipocok Jaya", "Curug"])
    );
    // From where the device is; those that can first.
    browser.place(-6.1747, 106.1897).await;
    browser.run("document.getElementById('near').click()").await;
    let sorted = || async {
        (browser.run(order).await == json!(["Serang", "Curug", "Cipocok Jaya", "Kasemen <b>"]))
            .then_some(())
    };
    eventually("they are sorted from here", WITHIN, sorted).await;
    let far = browser
        .run("return document.querySelector('#\\\\33 6\\\\.73\\\\.01 .far').textContent")
        .await;
    assert_eq!(far, " 7,9 km");
    let filled = || async {
        let count = browser
            .run("return document.getElementById('home').options.length")
            .await;
        (count == 3).then_some(())
    };
    eventually("the villages are there", WITHIN, filled).await;
    // From where somebody lives; the choice stays with them.
    browser
        .run("const home = document.getElementById('home'); home.value = [...home.options].find((one) => one.textContent === 'Sawah Luhur').value; home.dispatchEvent(new Event('change'))")
        .await;
    let sorted = || async {
        (browser.run(order).await == json!(["Serang", "Kasemen <b>", "Cipocok Jaya", "Curug"]))
            .then_some(())
    };
    eventually("they are sorted from home", WITHIN, sorted).await;
    assert_eq!(browser.run("return location.search").await, "");
    // Three minutes later nothing is green, and it says so.
    let look = "const yes = document.querySelector('.yes'); const colour = (e, name) => getComputedStyle(e)[name]; \
                return [colour(yes.querySelector('.can'), 'color'), colour(yes, 'borderLeftColor'), colour(document.querySelector('.old'), 'visibility')]";
    let fresh = browser.run(look).await;
    browser
        .run("document.getAnimations().forEach((one) => { one.currentTime = 182000 })")
        .await;
    let old = browser.run(look).await;
    assert_ne!((&fresh[0], &fresh[1]), (&old[0], &old[1]));
    assert_eq!((&old[0], &old[1]), (&old[1], &old[0]), "both are grey");
    assert_eq!((&fresh[2], &old[2]), (&json!("hidden"), &json!("visible")));
    browser.screenshot(&picture("publik-phone-old.png")).await;
    // The feed and the badge are what they say.
    for (path, root) in [
        ("/publik/36.73.atom", "feed"),
        ("/publik/36.73.01.svg", "svg"),
    ] {
        let (_, text) = ask(collector, path).await;
        let script = format!(
            "const parsed = new DOMParser().parseFromString({}, 'application/xml'); return [parsed.documentElement.localName, parsed.querySelectorAll('parsererror').length]",
            json!(text)
        );
        assert_eq!(
            browser.run(&script).await,
            json!([root, 0]),
            "{path}: {text}"
        );
    }
    let answer = collector
        .request(Method::GET, "/publik/36.73.atom")
        .send()
        .await
        .expect("answers");
    assert_eq!(
        answer.headers()["content-type"],
        "application/atom+xml; charset=utf-8"
    );
}
