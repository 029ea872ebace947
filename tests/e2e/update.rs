//! An agent that keeps itself up to date, and goes back when a newer version does not do.

use crate::elsewhere;
use denyut_tests::release::{Publisher, agent as installed, kind, other_version, write_program};
use denyut_tests::wine::Wine;
use denyut_tests::{Agent, Collector, agent_elsewhere, eventually};
use serde_json::Value;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

const OWN: &str = env!("CARGO_PKG_VERSION");
const REGISTRY: &str =
    "[[office]]\ncode = \"36.73.02\"\nname = \"Cipocok Jaya\"\nagents = [\"a-1\"]\n";
const WITHIN: Duration = Duration::from_secs(60);

/// A collector, an agent of it that looks for updates, and who publishes them.
struct Scene {
    collector: Collector,
    publisher: Publisher,
    agent: Agent,
    _target: TcpListener,
}

impl Scene {
    async fn start(trial: &str) -> Self {
        let collector = Collector::start(REGISTRY).await;
        let publisher = Publisher::start();
        let target = TcpListener::bind("127.0.0.1:0").expect("listens");
        let config = format!(
            "agent = \"a-1\"\nheartbeat = \"1s\"\n[collector]\naddresses = [\"http://{}\"]\nreconnect_max = \"1s\"\n{}\
             [[target]]\nname = \"port\"\nrole = \"server\"\nprobe = \"tcp://{}\"\ninterval = \"1s\"\ntimeout = \"500ms\"\n",
            collector.ingest,
            publisher.section(trial),
            target.local_addr().expect("is bound")
        );
        let agent = Agent::start(None, &config);
        let scene = Self {
            collector,
            publisher,
            agent,
            _target: target,
        };
        scene.runs(OWN).await;
        scene
    }

    fn path(&self, name: &str) -> PathBuf {
        self.agent.dir.path().join(name)
    }

    /// Publishes an agent as a version.
    fn publish(&self, version: &str) {
        let program = self.path("next");
        other_version(&installed(), version, &program);
        self.publisher.publish(version, &kind(), &program);
    }

    /// Publishes a script as a version, which it says it is.
    fn publish_script(&self, version: &str, script: &str) {
        let program = self.path("script");
        let text = format!(
            "#!/bin/sh\ncase $1 in version) echo denyut-agent {version}; exit;; check-config) exit;; esac\n{script}\n"
        );
        write_program(&program, text.as_bytes());
        self.publisher.publish(version, &kind(), &program);
    }

    /// Waits until the agent runs as this version, and the collector knows it.
    async fn runs(&self, version: &str) {
        let look = || async {
            let status = self.agent.status()?;
            let office = self.collector.get("/api/v1/offices/36.73.02").await?;
            let office: Value = serde_json::from_str(&office).ok()?;
            let here = status["version"] == version && status["connection"]["connected"] == true;
            (here && office["agents"][0]["version"] == version).then_some(())
        };
        eventually(&format!("{version} runs"), WITHIN, look).await;
    }

    /// Waits until this version, or the lack of one, is explained so; another never ran.
    async fn explains(&self, field: &str, why: &str) {
        let look = || async {
            let status = self.agent.status()?;
            assert_eq!(status["version"], OWN, "{status}");
            let said = status["updating"][field].as_str()?.contains(why);
            said.then_some(())
        };
        eventually(why, WITHIN, look).await;
    }
}

#[tokio::test]
async fn a_newer_version_takes_over_and_is_kept() {
    let mut scene = Scene::start("20s").await;
    let pid = scene.agent.pid();
    scene.publish("9.9.8");
    scene.runs("9.9.8").await;
    assert_eq!(
        scene.agent.pid(),
        pid,
        "for the service manager it never ended"
    );
    let kept = || async {
        let log = scene.agent.log();
        log.contains("it is kept").then_some(())
    };
    eventually("it is kept", WITHIN, kept).await;
    // The next one takes the place of that one, and it is what runs from the next start on.
    scene.publish("9.9.9");
    scene.runs("9.9.9").await;
    let only = || async {
        let folders = fs::read_dir(scene.path("data/update")).ok()?.flatten();
        let folders = folders.filter(|entry| entry.path().is_dir());
        let names: Vec<_> = folders.map(|entry| entry.file_name()).collect();
        (names == ["9.9.9"]).then_some(())
    };
    eventually("the one before is removed", WITHIN, only).await;
    scene.agent.terminate();
    scene.agent.launch();
    scene.runs("9.9.9").await;
    // With another key it is not trusted, and not forgotten.
    let file = scene.path("agent.toml");
    let config = fs::read_to_string(&file).expect("reads");
    let (key, strange) = (&scene.publisher.key, &scene.publisher.strange_key);
    for (config, version) in [
        (config.replace(key.as_str(), strange), OWN),
        (config, "9.9.9"),
    ] {
        scene.agent.terminate();
        fs::write(&file, config).expect("writes");
        scene.agent.launch();
        scene.runs(version).await;
        let status = scene.agent.status().expect("answers");
        assert_eq!(status["updating"]["failed"], Value::Null, "{status}");
    }
    // Nothing was lost on the way, and nobody said that the agent was stopped but when it was.
    let status = scene.agent.status().expect("answers");
    assert_eq!(status["spool"]["dropped"], 0, "{status}");
    assert_eq!(status["updating"]["handed_over"], true, "{status}");
    let samples = scene.collector.samples("36.73.02", "a-1", "port").await;
    let times: Vec<i64> = samples
        .iter()
        .filter_map(|one| one["at_ms"].as_i64())
        .collect();
    assert!(
        times.len() > 5 && times.is_sorted_by(|a, b| a < b),
        "{times:?}"
    );
    // What is signed is older: it stays.
    scene.publish("0.0.1");
    // What is not what was signed is not run, even if it once was.
    scene.agent.terminate();
    let program = scene.path("data/update/9.9.9/denyut-agent");
    let mut bytes = fs::read(&program).expect("reads");
    bytes.push(0);
    fs::write(&program, bytes).expect("writes");
    scene.agent.launch();
    scene.runs(OWN).await;
    scene.explains("failed", "is not what was signed").await;
    let looked = || async {
        let status = scene.agent.status()?;
        status["updating"]["checked_ms"].as_i64().map(|_| ())
    };
    eventually("it has looked", WITHIN, looked).await;
    scene.explains("failed", "9.9.9").await;
}

#[tokio::test]
async fn what_nobody_trusted_signed_is_not_run() {
    let scene = Scene::start("20s").await;
    let program = scene.path("next");
    other_version(&installed(), "9.9.9", &program);
    scene.publisher.publish_strange("9.9.9", &kind(), &program);
    scene
        .explains("last_error", "it is not signed by `update.key`")
        .await;
    scene.publisher.publish("9.9.5", "x86_64-plan9", &program);
    scene.explains("last_error", "it has no program for").await;
    // A line that breaks is nobody's fault.
    scene.publisher.publish("9.9.6", &kind(), &program);
    scene.publisher.cut("9.9.6", &kind());
    scene.explains("last_error", "breaks off after").await;
    let status = scene.agent.status().expect("answers");
    assert_eq!(status["updating"]["failed"], Value::Null, "{status}");
    scene.publisher.publish("9.9.6", &kind(), &program);
    scene.publisher.spoil("9.9.6", &kind());
    scene.explains("failed", "it is not what was signed").await;
    // One that does not know what it is.
    scene.publisher.publish("9.9.7", &kind(), &program);
    scene.explains("failed", "not that it is 9.9.7").await;
    // One that was signed before, and is not the newest.
    scene.publisher.publish("9.9.6", &kind(), &program);
    scene
        .explains("last_error", "there was one of 9.9.7 before")
        .await;
    let left = fs::read_dir(scene.path("data/update")).expect("reads");
    let left: Vec<_> = left.flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(left, ["state.json"]);
    assert!(
        !scene.agent.log().contains("takes over"),
        "{}",
        scene.agent.log()
    );
}

#[tokio::test]
async fn a_version_that_ends_again_and_again_is_rolled_back() {
    let mut scene = Scene::start("10s").await;
    // At first it hangs: that is ended from outside. We are the service manager: it is started again when it fails.
    let starts = scene.path("starts");
    let script = format!(
        "echo x >>{0}; [ $(wc -l <{0}) = 1 ] && exec sleep 600; exit 1",
        starts.display()
    );
    scene.publish_script("9.9.9", &script);
    assert!(!scene.agent.ends());
    for _ in 0..2 {
        scene.agent.launch();
        assert!(!scene.agent.ends());
    }
    scene.agent.launch();
    scene.runs(OWN).await;
    scene
        .explains("failed", "did not hear of it in 3 starts")
        .await;
    let starts = fs::read_to_string(starts).expect("reads");
    assert_eq!(starts.lines().count(), 3);
}

#[tokio::test]
async fn a_version_that_was_kept_and_then_ends_again_and_again_is_rolled_back() {
    let mut scene = Scene::start("10s").await;
    let (program, broken) = (scene.path("other"), scene.path("broken"));
    other_version(&installed(), "9.9.9", &program);
    let script = format!(
        "[ ! -e {} ] && exec {} \"$@\"; exit 1",
        broken.display(),
        program.display()
    );
    scene.publish_script("9.9.9", &script);
    scene.runs("9.9.9").await;
    let kept = || async { scene.agent.log().contains("it is kept").then_some(()) };
    eventually("it is kept", WITHIN, kept).await;
    fs::write(&broken, "").expect("writes");
    scene.agent.kill();
    for _ in 0..10 {
        scene.agent.launch();
        assert!(!scene.agent.ends());
    }
    scene.agent.launch();
    scene.runs(OWN).await;
    scene
        .explains("failed", "did not hear of it in 10 starts")
        .await;
}

#[tokio::test]
async fn a_version_that_the_collector_does_not_hear_of_is_rolled_back() {
    let mut scene = Scene::start("10s").await;
    let (program, starts) = (scene.path("other"), scene.path("starts"));
    other_version(&installed(), "9.9.9", &program);
    let script = format!(
        "touch {0}; while [ -e {0} ]; do sleep 0.1; done; exec {1} \"$@\"",
        starts.display(),
        program.display()
    );
    scene.publish_script("9.9.9", &script);
    let there = |path: &Path| path.exists().then_some(());
    eventually("it starts", WITHIN, || async { there(&starts) }).await;
    scene.collector.kill();
    let pid = scene.agent.pid();
    fs::remove_file(&starts).expect("removes");
    let on_trial = || async { (scene.agent.status()?["version"] == "9.9.9").then_some(()) };
    eventually("it is on trial", WITHIN, on_trial).await;
    let back = || async { (scene.agent.status()?["version"] == OWN).then_some(()) };
    eventually("it goes back", WITHIN, back).await;
    assert_eq!(scene.agent.pid(), pid);
    scene.collector.launch().await;
    scene.runs(OWN).await;
    scene.explains("failed", "did not hear of it in 10s").await;
    let told = || async {
        let office = scene.collector.json("/api/v1/offices/36.73.02").await;
        let told = office["agents"][0]["failed_update"].as_str()?;
        told.starts_with("9.9.9 on ").then_some(())
    };
    eventually("the collector is told", WITHIN, told).await;
    let status = scene.agent.status().expect("answers");
    assert_eq!(status["spool"]["dropped"], 0, "{status}");
}

/// The installed service runs the newer program, and passes on to it what the system asks.
#[tokio::test]
async fn a_windows_service_is_brought_up_to_date() {
    let Some(program) = agent_elsewhere("x86_64-win7-windows-gnu", "denyut-agent.exe") else {
        return;
    };
    let collector = elsewhere::collector().await;
    let publisher = Publisher::start();
    let wine = Wine::start();
    let folder = wine.c("ProgramData/denyut");
    fs::create_dir_all(&folder).expect("makes");
    let config = elsewhere::config(&collector, "") + publisher.section("30s").as_str();
    fs::write(folder.join("agent.toml"), config).expect("writes");
    let invitation = collector.invite(&[]).to_string();
    let install = ["service", "install", "--join", &invitation];
    elsewhere::run(&wine, &program, &install);
    let runs = async |version: &str| {
        let look = || async {
            let office = collector.json("/api/v1/offices/36.73.02").await;
            let agent = &office["agents"][0];
            (agent["state"] == "up" && agent["version"] == version).then_some(())
        };
        eventually(&format!("{version} runs"), WITHIN, look).await;
    };
    runs(OWN).await;
    let next = folder.join("next.exe");
    other_version(&program, "9.9.9", &next);
    publisher.publish("9.9.9", "x86_64-windows", &next);
    runs("9.9.9").await;
    let kept = || async {
        let state = fs::read(folder.join("data/update/state.json")).ok()?;
        let state: Value = serde_json::from_slice(&state).ok()?;
        (state["kept"]["version"] == "9.9.9").then_some(())
    };
    eventually("it is kept", WITHIN, kept).await;
    // Its goodbye arrives: it was asked to stop, and had the time to.
    elsewhere::run(&wine, &program, &["service", "stop"]);
    elsewhere::agent(&collector, "closed").await;
    elsewhere::run(&wine, &program, &["service", "start"]);
    runs("9.9.9").await;
    elsewhere::run(&wine, &program, &["service", "stop"]);
    elsewhere::run(&wine, &program, &["service", "uninstall", "--purge"]);
    assert!(!folder.exists());
}
