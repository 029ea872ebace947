//! `denyut-agent doctor` finds what is wrong, and no more than that.

use crate::join::{collector, connected, join};
use denyut_tests::net::Net;
use denyut_tests::{Agent, program, said};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

const CALM: &str = "[collector]\nreconnect_max = \"1s\"";

fn doctor(config: &Path, more: &[&str]) -> Output {
    let mut command = Command::new(program("denyut-agent"));
    let command = command.args(["doctor", "--config"]).arg(config);
    command.args(more).output().expect("runs")
}

/// The steps that are wrong, with their texts and fixes; every other is well, or not asked.
fn wrong(output: &Output) -> Vec<(String, String)> {
    let findings: Vec<Value> = serde_json::from_slice(&output.stdout).expect("JSON");
    let wrong = findings.iter().filter(|one| one["verdict"] == "wrong");
    let text = |one: &Value, key: &str| one[key].as_str().expect("text").to_owned();
    let wrong: Vec<_> = wrong
        .map(|one| {
            (
                text(one, "step"),
                text(one, "text") + "; " + text(one, "fix").as_str(),
            )
        })
        .collect();
    assert_eq!(output.status.success(), wrong.is_empty());
    assert_eq!(findings.len(), 11, "{findings:?}");
    wrong
}

/// Whether exactly this step is wrong, and says this.
fn only(agent: &Agent, step: &str, text: &str) {
    let config = agent.dir.path().join("agent.toml");
    let found = wrong(&doctor(&config, &["--json", "--lang", "en"]));
    let [(which, words)] = &found[..] else {
        panic!("{found:?}");
    };
    assert!(which == step && words.contains(text), "{found:?}");
}

#[tokio::test]
async fn each_trouble_is_named_with_its_fix() {
    let mut collector = collector("").await;
    let mut agent = Agent::start(None, CALM);
    connected(&agent, false).await;
    only(&agent, "identity", "invitation create --office");
    let output = join(&agent, &collector.invite(&[]), &[]);
    assert!(output.status.success(), "{}", said(&output));
    connected(&agent, true).await;

    // All is well, in both languages.
    let config = agent.dir.path().join("agent.toml");
    assert!(wrong(&doctor(&config, &["--json"])).is_empty());
    let told = said(&doctor(&config, &[]));
    assert!(
        told.contains("✓ jam") && told.contains("Tidak ada masalah"),
        "{told}"
    );
    let told = said(&doctor(&config, &["--lang", "en"]));
    assert!(
        told.contains("✓ clock") && told.contains("Nothing is wrong"),
        "{told}"
    );

    // It joins as another, and the service does not know yet.
    let output = join(&agent, &collector.invite(&[]), &["--again"]);
    assert!(output.status.success(), "{}", said(&output));
    only(&agent, "service", "restart it");
    agent.terminate();
    agent.launch();
    connected(&agent, true).await;

    // Shut out by an operator.
    let id = agent.status().expect("answers")["agent"].clone();
    let revoked = collector.ctl(&["agent", "revoke", id.as_str().expect("text")]);
    assert!(revoked.status.success(), "{}", said(&revoked));
    connected(&agent, false).await;
    only(&agent, "accepted", "was revoked");

    // The collector is gone; then another one is at its place.
    collector.terminate();
    only(&agent, "port", "tell its operator");
    fs::remove_dir_all(collector.dir.path().join("data")).expect("removes");
    collector.launch().await;
    only(&agent, "tls", "not our collector");

    agent.terminate();
    let config = agent.dir.path().join("agent.toml");
    let found = wrong(&doctor(&config, &["--json", "--lang", "en"]));
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].0 == "service" && found[1].0 == "tls", "{found:?}");
    fs::write(&config, "heartbeat = \"never\"").expect("writes");
    let found = wrong(&doctor(&config, &["--json", "--lang", "en"]));
    assert!(
        found.len() == 1 && found[0].1.contains("`heartbeat` = `never`"),
        "{found:?}"
    );
}

#[tokio::test]
async fn a_machine_without_network_is_told_to_plug_in() {
    let Some(mut net) = Net::new() else { return };
    net.host("pc");
    let addresses = |address: &str| {
        format!(
            "agent = \"a-1\"\n[collector]\nreconnect_max = \"1s\"\nallow_plaintext_beyond_loopback = true\naddresses = [\"http://{address}:7443\"]"
        )
    };
    let name = net.name("pc");
    let agent = Agent::start(Some(&name), &addresses("10.1.1.1"));
    let unnamed = Agent::start(Some(&name), &addresses("collector.invalid"));
    connected(&agent, false).await;
    connected(&unnamed, false).await;
    net.move_to("pc");
    only(&agent, "route", "plug in the cable");
    only(&unnamed, "name", "collector.invalid");
}
