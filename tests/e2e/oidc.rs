//! Logins by OpenID Connect, at a real provider: who is in the book comes in, and nobody else.

use crate::alerts::WITHIN;
use denyut_tests::browser::{Browser, Screen};
use denyut_tests::{Collector, eventually, made, said};
use reqwest::{Client, Response, StatusCode};
use serde_json::{Value, json};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

/// A provider from PyPI; whoever asks is whom they say.
struct Provider {
    process: Child,
    address: String,
    /// Where the client's secret is.
    dir: tempfile::TempDir,
}

impl Provider {
    async fn start() -> Option<Self> {
        let program = made("python/bin/oidc-provider-mock")?;
        denyut_tests::install_crypto();
        let port = TcpListener::bind("127.0.0.1:0")
            .expect("binds")
            .local_addr()
            .expect("an address")
            .port();
        let process = Command::new(program)
            .args(["--port", &port.to_string(), "--require-nonce", "true"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("starts");
        let dir = tempfile::tempdir().expect("tempdir");
        std::fs::write(dir.path().join("secret"), "rahasia").expect("writes");
        let provider = Self {
            dir,
            process,
            address: format!("http://127.0.0.1:{port}"),
        };
        let url = format!("{}/.well-known/openid-configuration", provider.address);
        let answers = || async {
            reqwest::get(&url)
                .await
                .ok()
                .filter(|answer| answer.status().is_success())
        };
        eventually("the provider answers", WITHIN, answers).await;
        for (sub, name) in [("1", "Siti"), ("2", "budi"), ("3", "orang-lain")] {
            let claims = json!({"preferred_username": name, "email": format!("{name}@serang.example"), "email_verified": sub == "1"});
            let put = Client::new()
                .put(format!("{}/users/{sub}", provider.address))
                .json(&claims);
            assert!(put.send().await.expect("answers").status().is_success());
        }
        Some(provider)
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

fn config(provider: &Provider, more: &str) -> String {
    format!(
        "[oidc]\nname = \"SSO Pemda\"\nissuer = \"{}\"\nclient_id = \"denyut\"\nclient_secret_file = \"{}/secret\"\n{more}\n\
         [[office]]\ncode = \"36.73.02\"\nname = \"Cipocok Jaya\"\nagents = []\n",
        provider.address,
        provider.dir.path().display()
    )
}

fn client() -> Client {
    Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .expect("a client")
}

fn location(answer: &Response) -> String {
    let location = answer.headers().get("location");
    location
        .unwrap_or_else(|| panic!("{answer:?}"))
        .to_str()
        .expect("text")
        .to_owned()
}

/// The cookie of this name that an answer sets, as a browser sends it back.
fn cookie(answer: &Response, name: &str) -> Option<String> {
    let all = answer.headers().get_all("set-cookie").into_iter();
    let mut all = all.filter_map(|value| value.to_str().ok()?.split(';').next());
    all.find(|pair| pair.starts_with(&format!("{name}=")))
        .map(str::to_owned)
}

/// The names of both cookies: `api.address` is https.
const UNDER_WAY: &str = "__Host-denyut-oidc";
const SESSION: &str = "__Host-denyut";

struct Way<'a> {
    collector: &'a Collector,
}

impl Way<'_> {
    /// To the provider: its address, and the cookie.
    async fn begin(&self, to: &str) -> (String, String) {
        let url = format!("http://{}/masuk/oidc?to={to}", self.collector.api);
        let answer = client().get(url).send().await.expect("answers");
        assert_eq!(answer.status(), StatusCode::SEE_OTHER);
        let kept = cookie(&answer, UNDER_WAY).expect("a cookie");
        (location(&answer), kept)
    }

    /// There somebody says that they are `sub`; where they are sent back to.
    async fn authorize(&self, url: &str, sub: &str) -> String {
        let form = client()
            .post(url)
            .header("content-type", "application/x-www-form-urlencoded");
        let answer = form
            .body(format!("sub={sub}"))
            .send()
            .await
            .expect("answers");
        location(&answer)
    }

    async fn back(&self, to: &str, cookie: Option<&str>) -> Response {
        let path = to
            .strip_prefix("https://denyut.example")
            .unwrap_or_else(|| panic!("{to}"));
        let mut request = client().get(format!("http://{}{path}", self.collector.api));
        if let Some(cookie) = cookie {
            request = request.header("cookie", cookie);
        }
        request.send().await.expect("answers")
    }
}

#[tokio::test]
async fn who_is_in_the_book_comes_in_by_the_provider() {
    let Some(provider) = Provider::start().await else {
        return;
    };
    let collector = Collector::start(&config(&provider, "")).await;
    let added = collector.ctl(&[
        "user", "add", "siti", "--role", "operator", "--region", "36",
    ]);
    assert!(added.status.success(), "{}", said(&added));
    let way = Way {
        collector: &collector,
    };
    let (url, kept) = way.begin("/insiden").await;
    for part in [
        "response_type=code",
        "code_challenge_method=S256",
        "nonce=",
        "scope=openid",
    ] {
        assert!(url.contains(part), "{url}");
    }
    let to = way.authorize(&url, "1").await;
    let answer = way.back(&to, Some(&kept)).await;
    assert_eq!(
        (answer.status(), location(&answer)),
        (StatusCode::SEE_OTHER, "/insiden".to_owned())
    );
    let session = cookie(&answer, SESSION).expect("a session");
    let me = client()
        .get(format!("http://{}/api/v1/me", collector.api))
        .header("cookie", session);
    let me: Value = me
        .send()
        .await
        .expect("answers")
        .json()
        .await
        .expect("JSON");
    assert_eq!(
        (&me["user"], &me["scopes"]),
        (&json!("siti"), &json!(["read", "operate"]))
    );
    let audit = collector.get("/api/v1/audit").await.expect("an answer");
    assert!(audit.contains("\"login\""), "{audit}");

    // The same answer again, another's answer, and an answer to nobody's question let nobody in.
    let again = way.back(&to, Some(&kept)).await;
    assert_eq!(
        (again.status(), cookie(&again, SESSION)),
        (StatusCode::UNAUTHORIZED, None)
    );
    let (url, kept) = way.begin("/").await;
    let to = way.authorize(&url, "1").await;
    for wrong in [None, Some("__Host-denyut-oidc=x")] {
        let answer = way.back(&to, wrong).await;
        assert_eq!(
            (answer.status(), cookie(&answer, SESSION)),
            (StatusCode::FORBIDDEN, None)
        );
    }
    let state = kept.split_once('=').expect("a state").1;
    for query in [
        "",
        "state=x&code=y",
        &format!("state={state}"),
        &format!("state={state}&code=falsch"),
        "error=access_denied&state=x",
    ] {
        let answer = way
            .back(
                &format!("https://denyut.example/masuk/oidc/kembali?{query}"),
                Some(&kept),
            )
            .await;
        assert!(
            answer.status().is_client_error() && cookie(&answer, SESSION).is_none(),
            "{query}: {}",
            answer.status()
        );
    }
    // Who is not in the book, or is shut out, is told so.
    for (sub, shut_out) in [("3", false), ("1", true)] {
        if shut_out {
            assert!(collector.ctl(&["user", "disable", "siti"]).status.success());
        }
        let (url, kept) = way.begin("/").await;
        let to = way.authorize(&url, sub).await;
        let answer = way.back(&to, Some(&kept)).await;
        assert_eq!(
            (answer.status(), cookie(&answer, SESSION)),
            (StatusCode::FORBIDDEN, None)
        );
        let page = answer.text().await.expect("text");
        assert!(page.contains("belum terdaftar di denyut"), "{page}");
    }
    // Nobody is sent elsewhere afterwards.
    assert!(collector.ctl(&["user", "enable", "siti"]).status.success());
    let (url, kept) = way.begin("//evil.example").await;
    let to = way.authorize(&url, "1").await;
    assert_eq!(location(&way.back(&to, Some(&kept)).await), "/");
}

#[tokio::test]
async fn an_address_counts_only_if_the_provider_has_verified_it() {
    let Some(provider) = Provider::start().await else {
        return;
    };
    let collector = Collector::start(&config(&provider, "claim = \"email\"")).await;
    for name in ["siti@serang.example", "budi@serang.example"] {
        let added = collector.ctl(&["user", "add", name, "--role", "viewer", "--region", "36"]);
        assert!(added.status.success(), "{}", said(&added));
    }
    let way = Way {
        collector: &collector,
    };
    for (sub, expected) in [
        ("1", StatusCode::SEE_OTHER),
        ("2", StatusCode::UNAUTHORIZED),
    ] {
        let (url, kept) = way.begin("/").await;
        let to = way.authorize(&url, sub).await;
        let answer = way.back(&to, Some(&kept)).await;
        assert_eq!(answer.status(), expected, "{sub}");
    }
}

#[tokio::test]
async fn a_provider_that_is_gone_is_told_of_and_passwords_go_on() {
    let Some(provider) = Provider::start().await else {
        return;
    };
    let collector = Collector::start(&config(&provider, "")).await;
    drop(provider);
    let answer = client()
        .get(format!("http://{}/masuk/oidc", collector.api))
        .send()
        .await
        .expect("answers");
    assert_eq!(answer.status(), StatusCode::BAD_GATEWAY);
    assert!(
        answer
            .text()
            .await
            .expect("text")
            .contains("Login dengan SSO Pemda tidak berhasil")
    );
    let browser = Browser::open(Screen::Phone).await;
    browser
        .visit(&format!("http://{}/masuk", collector.api))
        .await;
    assert!(browser.text().await.contains("Masuk dengan SSO Pemda"));
    assert!(browser.fits().await);
    browser
        .screenshot(&crate::page::picture("login-oidc-phone.png"))
        .await;
    browser.enter(&collector, "siti").await;
}
