//! A real Chromium, driven over WebDriver.

use base64::prelude::{BASE64_STANDARD, Engine};
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;
use thirtyfour::{Capabilities, WebDriver};

/// One browser window.
#[derive(Debug)]
pub struct Browser {
    driver: Child,
    session: WebDriver,
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
        let mut capabilities = Capabilities::new();
        for (name, value) in [
            ("browserName", json!("chrome")),
            ("goog:chromeOptions", options),
            ("goog:loggingPrefs", json!({"browser": "ALL"})),
        ] {
            capabilities.set(name, value).expect("JSON");
        }
        let session = WebDriver::new(format!("http://127.0.0.1:{port}"), capabilities)
            .await
            .expect("chromedriver opens a window");
        Self {
            driver,
            session,
            width: if matches!(screen, Screen::Phone) {
                390
            } else {
                1366
            },
            _profile: profile,
        }
    }

    /// Asks what WebDriver has no words for (Chrome DevTools Protocol).
    async fn devtools(&self, command: &str, parameters: Value) -> Value {
        let answer = self.session.cdp().send_raw(command, parameters).await;
        answer.unwrap_or_else(|error| panic!("{command}: {error}"))
    }

    /// Loads a page.
    pub async fn visit(&self, url: &str) {
        let loaded = self.session.goto(url).await;
        loaded.unwrap_or_else(|error| panic!("{url}: {error}"));
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
        let done = self.session.execute(script, Vec::new()).await;
        let done = done.unwrap_or_else(|error| panic!("{script}: {error}"));
        done.json().clone()
    }

    /// Lets pages run scripts from now on, or not.
    pub async fn scripts(&self, run: bool) {
        self.devtools(
            "Emulation.setScriptExecutionDisabled",
            json!({"value": !run}),
        )
        .await;
    }

    /// Where the device is, and that pages may know it.
    pub async fn place(&self, latitude: f64, longitude: f64) {
        let grant = json!({"permissions": ["geolocation"]});
        self.devtools("Browser.grantPermissions", grant).await;
        let place = json!({"latitude": latitude, "longitude": longitude, "accuracy": 10});
        self.devtools("Emulation.setGeolocationOverride", place)
            .await;
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
        let log = self.session.browser_log().await;
        log.expect("chromedriver keeps a log")
            .into_iter()
            .filter(|entry| entry.level != "INFO")
            .map(|entry| format!("{}: {}", entry.level, entry.message))
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
        let found = self.session.execute_async(script, Vec::new()).await;
        let found = found.expect("axe-core runs");
        let found = found.json().as_array().cloned().unwrap_or_default();
        Some(found.iter().map(ToString::to_string).collect())
    }

    /// Shows the page in dark colours, or in light ones.
    pub async fn dark(&self, dark: bool) {
        let value = if dark { "dark" } else { "light" };
        let feature = json!({"name": "prefers-color-scheme", "value": value});
        let features = json!({"features": [feature]});
        self.devtools("Emulation.setEmulatedMedia", features).await;
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
        let how = json!({"captureBeyondViewport": whole});
        let taken = self.devtools("Page.captureScreenshot", how).await;
        let text = taken["data"].as_str().expect("a picture");
        let picture = BASE64_STANDARD.decode(text).expect("base64");
        std::fs::write(path, picture).expect("writes");
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It ends with its driver.
        self.session.clone().leak().ok();
        kill_process_group(Pid::from_child(&self.driver), Signal::KILL).ok();
        self.driver.wait().ok();
    }
}
