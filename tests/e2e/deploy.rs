//! What lies in `deploy/` works as it stands.

use denyut_tests::net::Net;
use denyut_tests::tls::Authority;
use denyut_tests::{eventually, program};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

#[test]
fn the_example_configurations_are_valid() {
    // The files that they name, as the administrator would have made them.
    let tls = tempfile::tempdir().expect("tempdir");
    let authority = Authority::new(tls.path());
    authority.agent("agent");
    let with_files = |text: &str| {
        text.replace("/etc/denyut/office-ca.pem", "/etc/denyut/ca.pem")
            .replace("/etc/denyut", &tls.path().display().to_string())
    };
    for name in ["agent", "collector"] {
        let file = deploy().join(format!("example/{name}.toml"));
        let text = fs::read_to_string(&file).expect("reads");
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("config.toml");
        for beside in ["offices.csv", "holidays.csv"] {
            let example = deploy().join(format!("example/{beside}"));
            fs::copy(example, dir.path().join(beside)).expect("copies");
        }
        fs::write(&path, with_files(&text)).expect("writes");
        let output = Command::new(program(&format!("denyut-{name}")))
            .args(["check-config", "--config"])
            .arg(&path)
            .output()
            .expect("runs");
        let (said, refused) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        assert!(output.status.success(), "{refused}");
        let office = match name {
            "agent" => "as the agent that it joins as",
            _ => "36.73.02 Cipocok Jaya",
        };
        assert!(said.contains("is valid") && said.contains(office), "{said}");
        // What is shown as a default is one: with every such line made real, the file is still valid.
        let is_key = |line: &str| {
            line.strip_prefix("# ").is_some_and(|rest| {
                rest.split(" = ")
                    .next()
                    .is_some_and(|key| !key.contains([' ', ',']))
                    && rest.contains(" = ")
            })
        };
        let real: Vec<&str> = text
            .lines()
            .map(|line| if is_key(line) { &line[2..] } else { line })
            .collect();
        fs::write(&path, with_files(&real.join("\n"))).expect("writes");
        let output = Command::new(program(&format!("denyut-{name}")))
            .args(["check-config", "--config"])
            .arg(&path)
            .output()
            .expect("runs");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let changed = real
            .iter()
            .zip(text.lines())
            .filter(|(a, b)| *a != b)
            .count();
        assert!(changed >= 3, "only {changed} defaults are shown");
    }
}

/// The README's first command, on a machine with a gateway and a way out: it shows the page's address and live samples, and
/// on Ctrl-C stops both properly.
#[test]
fn the_quickstart_starts_shows_and_stops() {
    let Some(mut net) = Net::new() else { return };
    net.host("pc");
    net.host("router");
    net.cable(("pc", "eth0"), ("router", "lan0"));
    net.on("pc", "ip addr add 10.9.0.2/24 dev eth0");
    net.on("pc", "ip route add default via 10.9.0.1");
    net.on("router", "ip addr add 10.9.0.1/24 dev lan0");
    net.on("router", "ip addr add 1.1.1.1/32 dev lo");
    net.move_to("pc");
    let dir = tempfile::tempdir().expect("tempdir");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let first = Quickstart::start(dir.path(), &runtime);
    let shown = first.said();
    for text in [
        "connected",
        "gateway    10.9.0.1",
        "icmp://1.1.1.1",
        " ms",
        "http://127.0.0.1:7080/masuk/",
    ] {
        assert!(shown.contains(text), "no {text:?} in\n{shown}");
    }
    denyut_tests::install_crypto();
    let client = reqwest::Client::builder()
        .unix_socket(dir.path().join("data/collector/control"))
        .build()
        .expect("a client");
    let all_up = || async {
        let answer = client.get("http://localhost/api/v1/offices").send().await;
        let offices: serde_json::Value = answer.ok()?.json().await.ok()?;
        let links = offices[0]["links"].as_array()?.clone();
        let is_up = |target: &&str| {
            let mut links = links.iter();
            links.any(|link| link["target"] == *target && link["state"] == "up")
        };
        let targets = ["gateway", "uplink", "collector"];
        targets.iter().all(is_up).then_some(())
    };
    let what = "gateway, uplink and collector are up";
    runtime.block_on(eventually(what, Duration::from_secs(20), all_up));
    first.stop();
    // What somebody wrote into the configurations stays.
    let configurations =
        ["collector.toml", "agent.toml"].map(|name| dir.path().join("data").join(name));
    let mine = configurations.each_ref().map(|path| {
        let text = fs::read_to_string(path).expect("reads") + "# mine\n";
        fs::write(path, &text).expect("writes");
        text
    });
    let again = Quickstart::start(dir.path(), &runtime);
    assert!(again.said().contains("Keeping"), "{}", again.said());
    again.stop();
    let kept = configurations.map(|path| fs::read_to_string(path).expect("reads"));
    assert_eq!(kept, mine);
}

/// The quickstart while it runs; it is stopped, and so are its programs, however the test ends.
struct Quickstart {
    script: std::process::Child,
    transcript: PathBuf,
}

impl Quickstart {
    fn start(folder: &Path, runtime: &tokio::runtime::Runtime) -> Self {
        let transcript = folder.join("transcript");
        let script = Command::new(deploy().join("quickstart"))
            .args(["--profile", "dev", "--data"])
            .arg(folder.join("data"))
            .env("CARGO_NET_OFFLINE", "true")
            .stdin(Stdio::null())
            .stdout(fs::File::create(&transcript).expect("creates"))
            .stderr(Stdio::inherit())
            .spawn()
            .expect("starts");
        let started = Self { script, transcript };
        let running = || async { started.said().contains("Ctrl-C stops both.").then_some(()) };
        runtime.block_on(eventually(
            "the quickstart runs",
            Duration::from_secs(180),
            running,
        ));
        started
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.transcript).unwrap_or_default()
    }

    fn stop(mut self) {
        kill_process(Pid::from_child(&self.script), Signal::INT).expect("is there");
        let status = self.script.wait().expect("ends");
        let said = self.said();
        assert!(status.success(), "{status}\n{said}");
        for text in [
            "Stopping",
            "denyut-agent stopped",
            "denyut-collector stopped",
        ] {
            assert!(said.contains(text), "no {text:?} in\n{said}");
        }
    }
}

impl Drop for Quickstart {
    fn drop(&mut self) {
        // It has ended already where all went well.
        if let Ok(None) = self.script.try_wait() {
            kill_process(Pid::from_child(&self.script), Signal::INT).ok();
            self.script.wait().ok();
        }
    }
}

/// A server before the page; ends with its owner.
struct Proxy(std::process::Child);

impl Drop for Proxy {
    fn drop(&mut self) {
        // Its own children end with it only if it is asked.
        kill_process(Pid::from_child(&self.0), Signal::TERM).ok();
        self.0.wait().ok();
    }
}

/// Whether login, data and what happens come through, and the proxy tells from where.
async fn comes_through(collector: &denyut_tests::Collector, port: u16, authority: &Path) {
    let ca = fs::read(authority).expect("reads");
    let client = reqwest::Client::builder()
        .tls_certs_only([reqwest::Certificate::from_pem(&ca).expect("a certificate")])
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .expect("a client");
    let url = |path: &str| format!("https://127.0.0.1:{port}{path}");
    let page = || async { client.get(url("/")).send().await.ok() };
    let sent_on = eventually("it answers", Duration::from_secs(20), page).await;
    assert_eq!(sent_on.headers()["location"], "/masuk");
    let refused = client.get(url("/api/v1/offices")).send().await;
    assert_eq!(refused.expect("answers").status(), 401);
    // A browser sends what the proxy must let through for a login.
    let add = [
        "user", "add", "siti", "--role", "viewer", "--region", "36.73",
    ];
    let link = String::from_utf8(collector.ctl(&add).stdout).expect("text");
    let path = link
        .trim()
        .strip_prefix("https://denyut.example")
        .expect("a link");
    let chosen = client
        .post(url(path))
        .header("origin", url(""))
        .header("content-type", "application/x-www-form-urlencoded")
        .body("password=kuda+terbang+di+serang&again=kuda+terbang+di+serang")
        .send()
        .await
        .expect("answers");
    assert_eq!(chosen.status(), 303, "{:?}", chosen.text().await);
    let cookie = chosen.headers()["set-cookie"].to_str().expect("text");
    assert!(
        cookie.starts_with("__Host-denyut=")
            && cookie.ends_with("; HttpOnly; SameSite=Lax; Secure"),
        "{cookie}"
    );
    let cookie = cookie.split(';').next().expect("a cookie");
    let known = |path: &str| client.get(url(path)).header("cookie", cookie);
    let offices = known("/api/v1/offices").send().await.expect("answers");
    let offices: serde_json::Value = offices.json().await.expect("JSON");
    assert_eq!(offices[0]["code"], "36.73.02");
    // The first line of the events comes at once, though the answer does not end.
    let events = known("/api/v1/events").send();
    let mut events = events.await.expect("answers");
    let first = tokio::time::timeout(Duration::from_secs(20), events.chunk()).await;
    assert!(first.expect("in time").expect("reads").is_some());
    let audit = collector.json("/api/v1/audit").await;
    let chosen = audit
        .as_array()
        .expect("a list")
        .iter()
        .find(|one| one["path"] == "/masuk");
    assert_eq!(chosen.expect("an entry")["from"], "127.0.0.1", "{audit}");
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("listens");
    listener.local_addr().expect("is bound").port()
}

/// Each way to reach a receiver that the example shows, with the files that it names.
#[test]
fn each_way_to_a_receiver_in_the_example_is_valid() {
    let text = fs::read_to_string(deploy().join("example/collector.toml")).expect("reads");
    let ways = text.lines().filter_map(|line| line.strip_prefix("#   "));
    let ways: Vec<&str> = ways.filter(|line| line.contains(" = {")).collect();
    assert!(ways.len() >= 13, "{ways:?}");
    let dir = tempfile::tempdir().expect("tempdir");
    for way in ways {
        for (key, secret) in [
            ("url_file", "https://hooks.example/x"),
            ("token_file", "12:key"),
            ("password_file", "sandi"),
        ] {
            if let Some((_, behind)) = way.split_once(&format!("{key} = \"")) {
                let name = behind.split('"').next().expect("a name");
                fs::write(dir.path().join(name), secret).expect("writes");
            }
        }
        let config = format!(
            "data_dir = \"/var/lib/denyut-collector\"\n[ingest]\nlisten = \"127.0.0.1:0\"\n[api]\nlisten = \"127.0.0.1:0\"\n\
             [[receiver]]\nname = \"one\"\n{way}\n[[route]]\nreceiver = \"one\"\n"
        );
        let path = dir.path().join("config.toml");
        fs::write(&path, config).expect("writes");
        let output = Command::new(program("denyut-collector"))
            .args(["check-config", "--config"])
            .arg(&path)
            .output()
            .expect("runs");
        let said = denyut_tests::said(&output);
        assert!(output.status.success(), "{way}: {said}");
    }
}

/// The example, with what it names replaced by what is here.
fn example(name: &str, replaced: &[(&str, String)]) -> String {
    let text = fs::read_to_string(deploy().join("example").join(name)).expect("reads");
    replaced.iter().fold(text, |text, (from, to)| {
        assert!(text.contains(from), "{name} does not say {from:?}");
        text.replace(from, to)
    })
}

async fn proxied() -> (denyut_tests::Collector, tempfile::TempDir, u16) {
    let office = "[[office]]\ncode = \"36.73.02\"\nname = \"Cipocok Jaya\"\n";
    let collector = denyut_tests::Collector::start(office).await;
    let dir = tempfile::tempdir().expect("tempdir");
    Authority::new(dir.path()).server("proxy", "127.0.0.1".parse().expect("an address"));
    (collector, dir, free_port())
}

#[tokio::test]
async fn the_page_is_behind_nginx() {
    let (collector, dir, port) = proxied().await;
    let path = |name: &str| dir.path().join(name).display().to_string();
    let site = example(
        "nginx.conf",
        &[
            ("listen 443 ssl", format!("listen 127.0.0.1:{port} ssl")),
            ("/etc/ssl/certs/denyut.pem", path("proxy.pem")),
            ("/etc/ssl/private/denyut.key", path("proxy.key")),
            ("127.0.0.1:7080", collector.api.to_string()),
        ],
    );
    let folders = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let folders = folders
        .map(|name| format!("{name}_temp_path {};", path(name)))
        .concat();
    let main = format!(
        "user root; daemon off; pid {}; error_log {}; events {{}} http {{ access_log off; {folders} {site} }}",
        path("pid"),
        path("log")
    );
    fs::write(path("main.conf"), main).expect("writes");
    let nginx = Command::new("nginx")
        .args(["-c", &path("main.conf")])
        .spawn();
    let _nginx = Proxy(nginx.expect("starts"));
    comes_through(&collector, port, &dir.path().join("ca.pem")).await;
}

#[tokio::test]
async fn the_page_is_behind_caddy() {
    let (collector, dir, port) = proxied().await;
    let path = |name: &str| dir.path().join(name).display().to_string();
    let tls = format!("tls {} {}", path("proxy.pem"), path("proxy.key"));
    let site = example(
        "Caddyfile",
        &[
            (
                "denyut.example {",
                format!("https://127.0.0.1:{port} {{\n\t{tls}"),
            ),
            ("127.0.0.1:7080", collector.api.to_string()),
        ],
    );
    let options = "{\n\tadmin off\n\tauto_https disable_redirects\n\tskip_install_trust\n\tgrace_period 1s\n}\n";
    fs::write(path("Caddyfile"), [options, site.as_str()].concat()).expect("writes");
    let caddy = Command::new("caddy")
        .args([
            "run",
            "--adapter",
            "caddyfile",
            "--config",
            &path("Caddyfile"),
        ])
        .env("HOME", dir.path())
        .env("XDG_DATA_HOME", dir.path())
        .env("XDG_CONFIG_HOME", dir.path())
        .stdout(Stdio::null())
        .stderr(fs::File::create(path("caddy.log")).expect("creates"))
        .spawn();
    let _caddy = Proxy(caddy.expect("starts"));
    comes_through(&collector, port, &dir.path().join("ca.pem")).await;
}
