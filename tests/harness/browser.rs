//! A real Chromium, driven over WebDriver.

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

/// One browser window.
#[derive(Debug)]
pub struct Browser {
    driver: Child,
    session: String,
    /// Points across.
    width: u64,
    _profile: TempDir,
}

/// The size of a window.
#[derive(Debug, Clone, Copy)]
pub enum Screen {
    /// 1366 × 768.
    Laptop,
    /// 390 × 844 at three pixels a point, with touch.
    Phone,
}

/// Without these, Chromium calls its maker's hosts.
const ARGUMENTS: &[&str] = &[
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--window-size=1366,768",
];

impl Browser {
    /// Opens a window.
    pub async fn open(screen: Screen) -> Self {
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            // A group of its own, so that the browser's processes go with it.
            .process_group(0)
            .spawn()
            .expect("chromedriver is installed (Debian: chromium-driver)");
        let stdout = driver.stdout.take().expect("piped");
        let port = BufReader::new(stdout)
            .lines()
            .map_while(Result::ok)
            .find_map(|line| {
                let rest = line.split_once("started successfully on port ")?.1;
                Some(rest.trim_end_matches('.').to_owned())
            })
            .expect("chromedriver says its port");
        let profile = tempfile::tempdir().expect("tempdir");
        let mut arguments: Vec<String> = ARGUMENTS.iter().map(ToString::to_string).collect();
        arguments.push(format!("--user-data-dir={}", profile.path().display()));
        let mut options = json!({"args": arguments});
        if matches!(screen, Screen::Phone) {
            let metrics = json!({"width": 390, "height": 844, "pixelRatio": 3.0, "touch": true});
            options["mobileEmulation"] = json!({"deviceMetrics": metrics});
        }
        let capabilities = json!({"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}});
        let base = format!("http://127.0.0.1:{port}");
        let mut browser = Self {
            driver,
            session: base,
            width: if matches!(screen, Screen::Phone) {
                390
            } else {
                1366
            },
            _profile: profile,
        };
        let made = browser
            .call(
                "/session",
                json!({"capabilities": {"alwaysMatch": capabilities}}),
            )
            .await;
        let id = made["sessionId"].as_str().expect("a session");
        browser.session = format!("{}/session/{id}", browser.session);
        browser
    }

    async fn call(&self, path: &str, body: Value) -> Value {
        let request = reqwest::Client::new()
            .post(format!("{}{path}", self.session))
            .json(&body);
        let answer: Value = request
            .send()
            .await
            .expect("chromedriver answers")
            .json()
            .await
            .expect("JSON");
        let value = answer["value"].clone();
        assert!(value["error"].is_null(), "{path}: {value:#}");
        value
    }

    /// Loads a page.
    pub async fn visit(&self, url: &str) {
        self.call("/url", json!({"url": url})).await;
    }

    /// Lets a user in who may do everything, and chooses the password as one does who was sent the link.
    pub async fn enter(&self, collector: &crate::Collector, user: &str) {
        let add = [
            "user",
            "add",
            user,
            "--full-name",
            "Siti",
            "--role",
            "admin",
            "--region",
            "all",
        ];
        let made = collector.ctl(&add);
        let made = if made.status.success() {
            made
        } else {
            collector.ctl(&["user", "welcome", user])
        };
        let link = String::from_utf8_lossy(&made.stdout).trim().to_owned();
        let path = link.strip_prefix("https://denyut.example");
        let path = path.unwrap_or_else(|| panic!("{}", crate::said(&made)));
        self.visit(&format!("http://{}{path}", collector.api)).await;
        self.run(
            "for (const name of ['password', 'again']) document.querySelector(`[name=${name}]`).value = 'kuda terbang di serang'; \
             document.querySelector('form').submit()",
        )
        .await;
        let entered =
            || async { (self.run("return location.pathname").await == "/").then_some(()) };
        crate::eventually(
            "the password was chosen",
            std::time::Duration::from_secs(20),
            entered,
        )
        .await;
    }

    /// Runs a script in the page; its `return` value.
    pub async fn run(&self, script: &str) -> Value {
        self.call("/execute/sync", json!({"script": script, "args": []}))
            .await
    }

    /// Lets pages run scripts from now on, or not.
    pub async fn scripts(&self, run: bool) {
        let body =
            json!({"cmd": "Emulation.setScriptExecutionDisabled", "params": {"value": !run}});
        self.call("/goog/cdp/execute", body).await;
    }

    /// Where the device is, and that pages may know it.
    pub async fn place(&self, latitude: f64, longitude: f64) {
        let grant =
            json!({"cmd": "Browser.grantPermissions", "params": {"permissions": ["geolocation"]}});
        self.call("/goog/cdp/execute", grant).await;
        let params = json!({"latitude": latitude, "longitude": longitude, "accuracy": 10});
        let body = json!({"cmd": "Emulation.setGeolocationOverride", "params": params});
        self.call("/goog/cdp/execute", body).await;
    }

    /// The text of the page as a reader sees it.
    pub async fn text(&self) -> String {
        let text = self.run("return document.body.innerText").await;
        text.as_str().expect("text").to_owned()
    }

    /// Whether the page is no wider than the screen. (On a phone what is too wide makes the window wider, too.)
    pub async fn fits(&self) -> bool {
        let wide = "return Math.max(document.documentElement.scrollWidth, window.innerWidth)";
        self.run(wide)
            .await
            .as_u64()
            .is_some_and(|wide| wide <= self.width)
    }

    /// What the page wrote to the console as errors or warnings.
    pub async fn complaints(&self) -> Vec<String> {
        let log = self.call("/se/log", json!({"type": "browser"})).await;
        let entries = log.as_array().cloned().unwrap_or_default();
        entries
            .iter()
            .filter(|entry| entry["level"] != "INFO")
            .map(ToString::to_string)
            .collect()
    }

    /// Where the page falls short of WCAG 2.2 A and AA, as axe-core finds it; `None` where that is not installed.
    pub async fn flaws(&self) -> Option<Vec<String>> {
        let python = crate::made("python/lib")?;
        let mut versions = std::fs::read_dir(python).ok()?.filter_map(Result::ok);
        let axe = versions.find_map(|version| {
            let path = "site-packages/axe_playwright_python/axe.min.js";
            std::fs::read_to_string(version.path().join(path)).ok()
        });
        let axe = match axe {
            Some(axe) => axe,
            None if std::env::var_os("CI").is_some() => panic!("axe-core is not installed"),
            None => return None,
        };
        self.run(&axe).await;
        let script = "const done = arguments[arguments.length - 1]; \
            axe.run({ runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa'] }).then( \
              (found) => done(found.violations.flatMap((flaw) => flaw.nodes.map((node) => `${flaw.id}: ${node.html} ${node.failureSummary}`))), \
              (error) => done([String(error)]))";
        let found = self
            .call("/execute/async", json!({"script": script, "args": []}))
            .await;
        let found = found.as_array().cloned().unwrap_or_default();
        Some(found.iter().map(ToString::to_string).collect())
    }

    /// Shows the page in dark colours, or in light ones.
    pub async fn dark(&self, dark: bool) {
        let value = if dark { "dark" } else { "light" };
        let feature = json!({"name": "prefers-color-scheme", "value": value});
        let body = json!({"cmd": "Emulation.setEmulatedMedia", "params": {"features": [feature]}});
        self.call("/goog/cdp/execute", body).await;
    }

    /// Saves a picture of the whole page.
    pub async fn screenshot(&self, path: &Path) {
        self.capture(path, true).await;
    }

    /// Saves a picture of what is on the screen first.
    pub async fn first_screen(&self, path: &Path) {
        self.capture(path, false).await;
    }

    async fn capture(&self, path: &Path, whole: bool) {
        self.run("scrollTo(0, 0)").await;
        let body =
            json!({"cmd": "Page.captureScreenshot", "params": {"captureBeyondViewport": whole}});
        let taken = self.call("/goog/cdp/execute", body).await;
        let text = taken["data"].as_str().expect("a picture");
        std::fs::write(path, base64(text)).expect("writes");
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        kill_process_group(Pid::from_child(&self.driver), Signal::KILL).ok();
        self.driver.wait().ok();
    }
}

/// Decodes standard base64 as WebDriver sends it.
fn base64(text: &str) -> Vec<u8> {
    let digit = |c: u8| match c {
        b'A'..=b'Z' => c - b'A',
        b'a'..=b'z' => c - b'a' + 26,
        b'0'..=b'9' => c - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let digits: Vec<u8> = text.bytes().filter(|c| *c != b'=').map(digit).collect();
    let group = |chunk: &[u8]| {
        let bits = chunk
            .iter()
            .fold(0u32, |bits, digit| bits << 6 | u32::from(*digit))
            << (6 * (4 - chunk.len()));
        bits.to_be_bytes()[1..chunk.len()].to_vec()
    };
    digits.chunks(4).flat_map(group).collect()
}
