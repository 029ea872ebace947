//! The agent on other machines than this one: Windows as far as Wine is one, and ARM as far as QEMU is.

use denyut_tests::wine::Wine;
use denyut_tests::{Collector, agent_elsewhere, eventually, said};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

const REGISTRY: &str = "[[office]]\ncode = \"36.73.02\"\nname = \"Cipocok Jaya\"\n";
const WITHIN: Duration = Duration::from_secs(60);

pub(crate) async fn collector() -> Collector {
    Collector::start_at("127.0.0.1:0", "names = [\"localhost\"]\n", REGISTRY).await
}

/// Two targets that are there: the collector's own port, and loopback.
pub(crate) fn config(collector: &Collector, more: &str) -> String {
    format!(
        "{more}heartbeat = \"1s\"\n[collector]\nreconnect_max = \"1s\"\n[budget]\nkb_per_day = 0\n\
         [[target]]\nname = \"port\"\nrole = \"server\"\nprobe = \"tcp://{}\"\ninterval = \"1s\"\ntimeout = \"500ms\"\n\
         [[target]]\nname = \"ping\"\nrole = \"uplink\"\nprobe = \"icmp://127.0.0.1\"\ninterval = \"1s\"\ntimeout = \"500ms\"\n",
        collector.api
    )
}

/// Waits until the office's one agent is in this state; returns it.
pub(crate) async fn agent(collector: &Collector, state: &str) -> Value {
    let what = format!("the agent is {state}");
    let look = || async {
        let office = collector.json("/api/v1/offices/36.73.02").await;
        let agents = office["agents"].as_array()?;
        assert!(agents.len() <= 1, "{office}");
        let agent = agents.first()?;
        (agent["state"] == state).then(|| agent.clone())
    };
    eventually(&what, WITHIN, look).await
}

/// Waits until both links are up.
pub(crate) async fn links_up(collector: &Collector) {
    let look = || async {
        let links = collector.json("/api/v1/offices/36.73.02").await;
        let links = links["links"].as_array()?;
        (links.len() == 2 && links.iter().all(|link| link["state"] == "up")).then_some(())
    };
    eventually("both links are up", WITHIN, look).await;
}

/// How many samples of the port there are.
pub(crate) async fn samples(collector: &Collector, agent: &str) -> usize {
    collector.samples("36.73.02", agent, "port").await.len()
}

/// Runs a program of the machine, which must end well; returns what it says.
pub(crate) fn run(wine: &Wine, program: &Path, arguments: &[&str]) -> String {
    let output = wine.run(program, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", said(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn status(wine: &Wine, program: &Path) -> Value {
    serde_json::from_str(&run(wine, program, &["status", "--json"])).expect("JSON")
}

#[tokio::test]
async fn a_windows_service_joins_streams_survives_a_kill_and_is_removed() {
    let Some(program) = agent_elsewhere("x86_64-win7-windows-gnu", "denyut-agent.exe") else {
        return;
    };
    let collector = collector().await;
    let mut wine = Wine::start();
    let folder = wine.c("ProgramData/denyut");
    fs::create_dir_all(&folder).expect("makes");
    fs::write(folder.join("agent.toml"), config(&collector, "")).expect("writes");

    let invitation = collector.invite(&[]).to_string();
    let told = run(
        &wine,
        &program,
        &["service", "install", "--join", &invitation],
    );
    assert!(told.contains("of office 36.73.02 Cipocok Jaya"), "{told}");
    assert_eq!(
        run(&wine, &program, &["service", "status"]).trim(),
        "running"
    );
    let known = agent(&collector, "up").await;
    let id = known["agent"].as_str().expect("text").to_owned();
    links_up(&collector).await;
    let before = status(&wine, &program);
    assert_eq!(before["agent"], id);
    assert!(
        before["connection"]["connected"]
            .as_bool()
            .expect("is told")
    );

    // Stopped and started, it is the same on the same start of the machine.
    run(&wine, &program, &["service", "stop"]);
    agent(&collector, "closed").await;
    run(&wine, &program, &["service", "start"]);
    agent(&collector, "up").await;
    assert_eq!(status(&wine, &program)["boot"], before["boot"]);

    // Killed, and the machine's power cut, it keeps what it spooled and who it is; and it starts by itself. (That the service manager
    // starts a killed service anew Wine cannot show: it does not see it end.)
    let had = samples(&collector, &id).await;
    assert!(wine.kill("denyut-agent.exe") > 0);
    wine.restart();
    let again = || async {
        let output = wine.run(&program, &["status", "--json"]);
        let status: Value = serde_json::from_slice(&output.stdout).ok()?;
        status["connection"]["connected"]
            .as_bool()?
            .then_some(status)
    };
    let after = eventually("it is back", WITHIN, again).await;
    assert_eq!(after["agent"], id);
    assert_ne!(after["boot"], before["boot"]);
    let more = || async { (samples(&collector, &id).await > had + 2).then_some(()) };
    eventually("more samples", WITHIN, more).await;

    run(&wine, &program, &["service", "stop"]);
    agent(&collector, "closed").await;
    run(&wine, &program, &["service", "uninstall", "--purge"]);
    assert_eq!(
        run(&wine, &program, &["service", "status"]).trim(),
        "not installed"
    );
    assert!(!folder.exists());
}

/// Joins and streams for a while.
async fn streams(program: &Path, emulator: &str) {
    let collector = collector().await;
    let dir = tempfile::tempdir().expect("tempdir");
    let file = dir.path().join("agent.toml");
    let data = format!("data_dir = \"{}/data\"\n", dir.path().display());
    fs::write(&file, config(&collector, &data)).expect("writes");
    let command = |name: &str, more: &[&str]| {
        let mut command = Command::new(emulator);
        command
            .arg(program)
            .arg(name)
            .args(more)
            .arg("--config")
            .arg(&file);
        command.stdin(Stdio::null());
        command
    };
    let invitation = collector.invite(&[]).to_string();
    let joined = command("join", &[&invitation]).output().expect("runs");
    assert!(joined.status.success(), "{}", said(&joined));
    let mut running = command("run", &[])
        .stderr(Stdio::null())
        .spawn()
        .expect("runs");
    let known = async {
        let known = agent(&collector, "up").await;
        links_up(&collector).await;
        known
    };
    let known = tokio::time::timeout(WITHIN, known).await;
    rustix::process::kill_process(
        rustix::process::Pid::from_child(&running),
        rustix::process::Signal::TERM,
    )
    .expect("it runs");
    let ended = running.wait().expect("ends");
    known.expect("in time");
    assert!(ended.success(), "{ended}");
    agent(&collector, "closed").await;
}

#[tokio::test]
async fn a_box_with_64_bit_arm_streams() {
    if let Some(program) = agent_elsewhere("aarch64-unknown-linux-musl", "denyut-agent") {
        streams(&program, "qemu-aarch64-static").await;
    }
}

#[tokio::test]
async fn a_box_with_32_bit_arm_streams() {
    if let Some(program) = agent_elsewhere("armv7-unknown-linux-musleabihf", "denyut-agent") {
        streams(&program, "qemu-arm-static").await;
    }
}
