//! The API does what its document says, whatever it is asked: schemathesis makes the requests, and judges the answers.

use crate::alerts::{OFFICES, WITHIN, agent, nowhere};
use denyut_tests::{Collector, eventually, made};
use std::path::Path;
use std::process::Command;

#[tokio::test]
async fn what_the_document_says_is_so_whatever_is_asked() {
    let Some(fuzzer) = made("python/bin/schemathesis") else {
        return;
    };
    let config = format!(
        "{OFFICES}[[maintenance]]\nregion = \"36\"\nweekly = \"Sun 01:00-04:00\"\nfrom = \"2026-11-01T00:00:00+07:00\"\nreason = \"kerja\"\n\
         [[receiver]]\nname = \"dinas\"\nwebhook.url = \"http://127.0.0.1:9/\"\n[[route]]\nreceiver = \"dinas\"\n"
    );
    let collector = Collector::start(&config).await;
    let _agent = agent(&collector, "a-1", nowhere());
    let open = || async { collector.json("/api/v1/incidents").await[0]["number"].as_u64() };
    eventually("an incident", WITHIN, open).await;
    let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("e2e/schemathesis.toml");
    let folder = tempfile::tempdir().expect("tempdir");
    let ran = Command::new(fuzzer)
        .arg("--config-file")
        .arg(rules)
        .args([
            "run",
            &format!("http://{}/api/v1/openapi.json", collector.api),
        ])
        .args([
            "--header",
            &format!("Authorization: Bearer {}", collector.token),
        ])
        // A stream has no end; and it would take its own token away.
        .args(["--exclude-path", "/api/v1/events"])
        .args(["--exclude-path-regex", "^/api/v1/tokens/.*$"])
        // Less than a caller may, so that what it asks is done.
        .args([
            "--rate-limit",
            "45/s",
            "--max-examples",
            "10",
            "--seed",
            "1",
        ])
        .args(["--phases", "examples,coverage,fuzzing", "--no-color"])
        .current_dir(folder.path())
        .output()
        .expect("runs");
    let said = denyut_tests::said(&ran);
    assert!(ran.status.success(), "{said}");
    // It asked, and did not only think about it.
    let count = said.lines().find_map(|line| {
        line.trim()
            .split_once(" generated, ")?
            .0
            .parse::<u32>()
            .ok()
    });
    assert!(count.is_some_and(|count| count > 1_000), "{said}");
    assert!(!collector.log().contains("panicked"), "{}", collector.log());
}
