//! Each bad configuration is a file, with its exact message beside it; and what else keeps a program from
//! starting.

use denyut_tests::{Agent, Collector, program};
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn corpus(kind: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("bad-config")
        .join(kind);
    let mut files: Vec<PathBuf> = fs::read_dir(&folder)
        .expect("the corpus is there")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "toml")
        })
        .collect();
    files.sort();
    files
}

fn run(program_name: &str, command: &str, config: &Path) -> Output {
    // Bounded: should it start after all, it would run for ever.
    Command::new("timeout")
        .arg("20")
        .arg(program(program_name))
        .arg(command)
        .arg("--config")
        .arg(config)
        .output()
        .expect("runs")
}

fn check_corpus(program_name: &str, kind: &str, least: usize) {
    let files = corpus(kind);
    assert!(files.len() >= least, "only {} files", files.len());
    for path in files {
        let expected = fs::read_to_string(path.with_extension("txt")).unwrap_or_default();
        // `run` and `serve` must refuse in the same words.
        let start = if kind == "agent" { "run" } else { "serve" };
        for command in ["check-config", start] {
            let output = run(program_name, command, &path);
            let said = String::from_utf8(output.stderr).expect("text");
            let said = said.replace(&path.display().to_string(), "FILE");
            // What lies beside it is named by its name.
            let folder = path.parent().expect("a folder").display();
            let said = said.replace(&format!("{folder}/"), "");
            assert_eq!(said, expected, "{command} {}", path.display());
            assert_eq!(
                output.status.code(),
                Some(1),
                "{command} {}",
                path.display()
            );
        }
    }
}

#[test]
fn each_bad_agent_configuration_is_refused_in_its_words() {
    check_corpus("denyut-agent", "agent", 15);
}

#[test]
fn each_bad_collector_configuration_is_refused_in_its_words() {
    check_corpus("denyut-collector", "collector", 12);
}

/// Runs a program on a configuration text; returns what it said when it refused to start.
fn refusal(program_name: &str, command: &str, config: &str) -> String {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("config.toml");
    fs::write(&path, config).expect("writes");
    let output = run(program_name, command, &path);
    assert_eq!(output.status.code(), Some(1), "{config}");
    String::from_utf8(output.stderr).expect("text")
}

fn says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "no {part:?} in: {text}");
    }
}

const AGENT: &str = "agent = \"a-1\"\n[collector]\naddresses = [\"http://127.0.0.1:1\"]\n";
const COLLECTOR: &str = "[ingest]\nlisten = \"127.0.0.1:0\"\n[api]\nlisten = \"127.0.0.1:0\"\n";

#[test]
fn a_configuration_that_cannot_be_read_is_named() {
    for name in ["denyut-agent", "denyut-collector"] {
        let output = run(name, "check-config", Path::new("/nowhere/denyut.toml"));
        let said = String::from_utf8(output.stderr).expect("text");
        says(
            &said,
            &[
                "cannot read the configuration /nowhere/denyut.toml",
                "No such file",
            ],
        );
        let output = run(name, "check-config", Path::new("/tmp"));
        says(
            &String::from_utf8(output.stderr).expect("text"),
            &["/tmp", "Is a directory"],
        );
    }
}

#[test]
fn a_probe_that_makes_no_sense_is_explained() {
    let said = |arguments: &[&str]| {
        let output = Command::new(program("denyut-agent"))
            .arg("probe")
            .args(arguments)
            .output()
            .expect("runs");
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        String::from_utf8(output.stderr).expect("text")
    };
    says(&said(&["server"]), &["give --config", "`probe` = `server`"]);
    says(
        &said(&["icmp://127.0.0.1", "--timeout", "5m"]),
        &["error: `--timeout` = `5m`: out of range"],
    );
    // The example names files that are not there: nothing that a probe needs.
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/example/agent.toml");
    says(
        &said(&["servr", "--config", example]),
        &[
            "no target of the configuration file (gateway, server, ",
            "`probe` = `servr`",
        ],
    );
}

#[test]
fn a_data_folder_that_cannot_be_made_is_named() {
    let said = refusal(
        "denyut-agent",
        "run",
        &format!("data_dir = \"/dev/null/data\"\n{AGENT}"),
    );
    says(&said, &["`data_dir`", "/dev/null/data", "Not a directory"]);
    let said = refusal(
        "denyut-collector",
        "serve",
        &format!("data_dir = \"/dev/null/data\"\n{COLLECTOR}"),
    );
    says(&said, &["`data_dir`", "/dev/null/data", "Not a directory"]);
    // Even root cannot write there.
    let said = refusal(
        "denyut-agent",
        "run",
        &format!("data_dir = \"/proc\"\n{AGENT}"),
    );
    says(
        &said,
        &[
            "`data_dir`",
            "cannot write in /proc",
            "give this user the right",
        ],
    );
}

#[test]
fn a_missing_certificate_file_is_named() {
    let said = refusal(
        "denyut-agent",
        "check-config",
        &format!("data_dir = \"/x\"\nprobe_ca = \"/nowhere.pem\"\n{AGENT}"),
    );
    says(&said, &["`probe_ca`", "/nowhere.pem", "No such file"]);
    let dir = tempfile::tempdir().expect("tempdir");
    let keys = "ca = \"/nowhere.pem\"\nca_key = \"/nowhere.key\"\n";
    let config = format!(
        "data_dir = \"{}\"\n{}",
        dir.path().display(),
        COLLECTOR.replace("[api]", &format!("{keys}[api]"))
    );
    let said = refusal("denyut-collector", "serve", &config);
    says(&said, &["`ingest.ca`", "/nowhere.pem", "No such file"]);
}

#[test]
fn a_taken_port_is_named() {
    let dir = tempfile::tempdir().expect("tempdir");
    let taken = TcpListener::bind("127.0.0.1:0").expect("binds");
    let address = taken.local_addr().expect("an address").to_string();
    let config = format!("data_dir = \"{}\"\n{COLLECTOR}", dir.path().display());
    for (field, from) in [
        ("ingest.listen", "[ingest]\nlisten = \"127.0.0.1:0\""),
        ("api.listen", "[api]\nlisten = \"127.0.0.1:0\""),
    ] {
        let said = refusal(
            "denyut-collector",
            "serve",
            &config.replace(from, &from.replace("127.0.0.1:0", &address)),
        );
        says(
            &said,
            &[
                field,
                &address,
                "cannot listen there",
                "choose another port",
                "Address already in use",
            ],
        );
    }
}

#[tokio::test]
async fn two_on_one_data_folder_are_told_apart() {
    let collector = Collector::start("").await;
    let said = refusal(
        "denyut-collector",
        "serve",
        &format!(
            "data_dir = \"{}/data\"\n{COLLECTOR}",
            collector.dir.path().display()
        ),
    );
    says(&said, &["`data_dir`", "another denyut-collector uses it"]);
    let agent = Agent::start(None, AGENT);
    let running = || async { agent.status().map(|_| ()) };
    denyut_tests::eventually(
        "the agent runs",
        std::time::Duration::from_secs(10),
        running,
    )
    .await;
    let said = refusal(
        "denyut-agent",
        "run",
        &format!(
            "data_dir = \"{}/data\"\n{AGENT}",
            agent.dir.path().display()
        ),
    );
    says(&said, &["`data_dir`", "another denyut-agent runs on it"]);
}

#[test]
fn a_status_without_an_agent_is_explained() {
    let dir = tempfile::tempdir().expect("tempdir");
    let said = refusal(
        "denyut-agent",
        "status",
        &format!("data_dir = \"{}\"\n{AGENT}", dir.path().display()),
    );
    says(&said, &["is it running"]);
}
