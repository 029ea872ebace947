//! The operator's care for the data folder: verify, repair, backup, restore; and a disk without room.

use denyut_proto::BootId;
use denyut_proto::wire::{self, collector_message::Kind};
use denyut_tests::peer::{Peer, entry, heartbeat};
use denyut_tests::{Collector, eventually, now_ms, program};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

const REGISTRY: &str =
    "[[office]]\ncode = \"36.73.02\"\nname = \"Cipocok Jaya\"\nagents = [\"a-1\"]\n";
const OFFICE: (&str, &str) = ("36.73.02", "a-1");

/// Runs a command of the collector's.
fn run(config: &Path, arguments: &[&str]) -> Output {
    Command::new(program("denyut-collector"))
        .args(arguments)
        .arg("--config")
        .arg(config)
        .output()
        .expect("runs")
}

fn said(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

fn succeeds(config: &Path, arguments: &[&str]) -> String {
    let output = run(config, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", said(&output));
    said(&output)
}

/// Delivers entries `from..from + 50` and waits until they are in the history.
async fn deliver(collector: &Collector, from: u64) {
    let mut peer = Peer::join(collector.ingest, "a-1", BootId([6; 16]))
        .await
        .expect("joins");
    for seq in from..from + 50 {
        let at = now_ms() - 3_600_000 + i64::try_from(seq).expect("small") * 1_000;
        assert!(peer.send(entry(seq, heartbeat("self", &[at]))).await);
    }
    while peer.next().await.expect("goes on")
        != Some(Kind::Ack(wire::Ack {
            seq: from + 49,
            closed_for_s: 0,
        }))
    {}
    let expected = usize::try_from(from + 49).expect("small");
    let there = || async {
        let samples = collector.samples(OFFICE.0, OFFICE.1, "self").await;
        (samples.len() == expected).then_some(())
    };
    eventually(
        "the samples are in the history",
        Duration::from_secs(10),
        there,
    )
    .await;
}

fn config_of(collector: &Collector) -> PathBuf {
    collector.dir.path().join("collector.toml")
}

#[tokio::test]
async fn a_backup_taken_while_it_runs_is_the_same_when_it_is_restored() {
    let mut collector = Collector::start(REGISTRY).await;
    deliver(&collector, 1).await;
    let config = config_of(&collector);
    let to = collector.dir.path().join("backup");
    let to = to.to_str().expect("text");
    assert!(succeeds(&config, &["verify"]).contains("Nothing is damaged."));
    assert!(succeeds(&config, &["backup", "--to", to]).contains("Backed up to"));
    let again = run(&config, &["backup", "--to", to]);
    assert!(
        !again.status.success() && said(&again).contains("is not empty"),
        "{}",
        said(&again)
    );
    let inside = collector.dir.path().join("data/raw/../backup");
    let inside = run(&config, &["backup", "--to", inside.to_str().expect("text")]);
    assert!(
        said(&inside).contains("lies in the data folder"),
        "{}",
        said(&inside)
    );
    // What comes later is not in it.
    deliver(&collector, 51).await;
    let before = collector.samples(OFFICE.0, OFFICE.1, "self").await;
    collector.terminate();

    let refused = run(&config, &["restore", "--from", to]);
    assert!(
        !refused.status.success()
            && said(&refused).contains("restore into a folder without a store"),
        "{}",
        said(&refused)
    );
    fs::rename(
        collector.dir.path().join("data"),
        collector.dir.path().join("lost"),
    )
    .expect("moves");
    assert!(succeeds(&config, &["restore", "--from", to]).contains("Restored"));
    assert!(succeeds(&config, &["verify"]).contains("Nothing is damaged."));
    collector.launch().await;
    let restored = collector.samples(OFFICE.0, OFFICE.1, "self").await;
    assert_eq!(restored, before[..50]);
    // The agent sends what is newer, and nothing is there twice.
    deliver(&collector, 51).await;
    let lost = collector.metric("denyut_lost_records_total").await;
    assert_eq!(lost, 0);

    // A backup that is damaged is refused by name, and what is whole of it can be had all the same.
    collector.terminate();
    fs::rename(
        collector.dir.path().join("data"),
        collector.dir.path().join("lost-again"),
    )
    .expect("moves");
    let segment = only_file(&Path::new(to).join("log"));
    flip(
        &segment,
        fs::metadata(&segment).expect("is there").len() / 2,
    );
    let found = run(&config, &["verify", "--backup", to]);
    assert_eq!(found.status.code(), Some(1));
    assert!(
        said(&found).contains("damaged  ") && said(&found).contains("log: it ends at record"),
        "{}",
        said(&found)
    );
    let refused = run(&config, &["restore", "--from", to]);
    assert!(said(&refused).contains("`--damaged`"), "{}", said(&refused));
    assert!(succeeds(&config, &["restore", "--damaged", "--from", to]).contains("Restored"));
    fs::rename(
        collector.dir.path().join("data"),
        collector.dir.path().join("lost-once-more"),
    )
    .expect("moves");

    // A backup whose list leads elsewhere, or that lost a file.
    let manifest = Path::new(to).join("backup.json");
    let text = fs::read_to_string(&manifest).expect("reads");
    for elsewhere in ["/etc/passwd", "log/../../x", "log/..", "other/x", "log/a/b"] {
        fs::write(&manifest, text.replace("state.dump", elsewhere)).expect("writes");
        let refused = run(&config, &["restore", "--damaged", "--from", to]);
        assert!(
            said(&refused).contains("is no file of a backup"),
            "{}",
            said(&refused)
        );
    }
    fs::write(&manifest, text).expect("writes");
    fs::remove_file(Path::new(to).join("state.dump")).expect("removes");
    let refused = run(&config, &["restore", "--from", to]);
    assert!(
        said(&refused).contains("the backup is not whole") && said(&refused).contains("state.dump"),
        "{}",
        said(&refused)
    );
}

#[tokio::test]
async fn damage_is_named_and_mended() {
    let mut collector = Collector::start(REGISTRY).await;
    deliver(&collector, 1).await;
    let config = config_of(&collector);
    let busy = run(&config, &["repair"]);
    assert!(
        !busy.status.success() && said(&busy).contains("another denyut-collector uses"),
        "{}",
        said(&busy)
    );
    deliver(&collector, 51).await;
    collector.terminate();
    assert!(succeeds(&config, &["repair"]).contains("Nothing is damaged."));
    // One bit in the middle of the log, and one in the sealed chunks.
    let data = collector.dir.path().join("data");
    let segment = only_file(&data.join("log"));
    flip(
        &segment,
        fs::metadata(&segment).expect("is there").len() / 2,
    );
    let found = run(&config, &["verify"]);
    assert_eq!(found.status.code(), Some(1));
    assert!(
        said(&found).contains(&format!("damaged  {} at byte", segment.display())),
        "{}",
        said(&found)
    );
    let mended = succeeds(&config, &["repair"]);
    assert!(mended.contains("are whole and were kept"), "{mended}");
    assert!(succeeds(&config, &["verify"]).contains("Nothing is damaged."));
    collector.launch().await;
    // The history had the samples by then; the log lost some records that nobody needs any more.
    deliver(&collector, 101).await;
    collector.terminate();

    // A log that lost its end is known by the state that was made of it.
    let segment = only_file(&data.join("log"));
    let whole = fs::read(&segment).expect("reads");
    fs::write(&segment, &whole[..whole.len() - 3]).expect("writes");
    let found = run(&config, &["verify"]);
    assert_eq!(found.status.code(), Some(1));
    assert!(said(&found).contains("its end is lost"), "{}", said(&found));
    let left = run(&config, &["repair"]);
    assert!(
        !left.status.success() && said(&left).contains("cannot be mended"),
        "{}",
        said(&left)
    );
    fs::write(&segment, whole).expect("writes");

    // A state that cannot be read is no success either.
    fs::write(data.join("state/db"), b"no database").expect("writes");
    let left = run(&config, &["repair"]);
    assert!(
        !left.status.success()
            && said(&left).contains("cannot be mended")
            && said(&left).contains("restore a backup"),
        "{}",
        said(&left)
    );
}

fn only_file(folder: &Path) -> PathBuf {
    let mut files = fs::read_dir(folder).expect("reads");
    files.next().expect("a file").expect("an entry").path()
}

fn flip(path: &Path, at: u64) {
    let mut bytes = fs::read(path).expect("reads");
    bytes[usize::try_from(at).expect("small")] ^= 1;
    fs::write(path, bytes).expect("writes");
}

/// A disk of its own that is unmounted when it is dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path, size: &str) -> Option<Self> {
        fs::create_dir_all(at).expect("makes the folder");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "denyut-test"])
            .arg(at)
            .status();
        mounted
            .is_ok_and(|status| status.success())
            .then(|| Self(at.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        Command::new("umount")
            .arg("--lazy")
            .arg(&self.0)
            .status()
            .ok();
    }
}

#[tokio::test]
async fn a_full_disk_refuses_with_a_reason_and_goes_on_when_there_is_room() {
    let reserve = format!("[disk]\nreserve = \"16MiB\"\n{REGISTRY}");
    let mut collector = Collector::start(&reserve).await;
    collector.terminate();
    let data = collector.dir.path().join("data");
    fs::remove_dir_all(&data).expect("removes");
    let Some(_disk) = SmallDisk::mount(&data, "48m") else {
        assert!(std::env::var_os("CI").is_none(), "CI must be able to mount");
        eprintln!("*** SKIPPED: this test needs to be root ***");
        return;
    };
    collector.launch().await;
    deliver(&collector, 1).await;
    let others = data.join("others");
    fs::write(&others, vec![1; 34 << 20]).expect("fills the disk");
    eventually(
        "it says that it is full",
        Duration::from_secs(10),
        || async { (collector.metric("denyut_disk_full").await == 1).then_some(()) },
    )
    .await;
    // Writes are refused with a reason, and reads go on.
    let peer = Peer::join(collector.ingest, "a-1", BootId([6; 16]))
        .await
        .expect("joins");
    assert!(peer.send(entry(51, heartbeat("self", &[now_ms()]))).await);
    let status = peer.end().await;
    assert_eq!(status.code(), tonic::Code::ResourceExhausted);
    assert!(
        status.message().contains("`disk.reserve`") && status.message().contains("free some space"),
        "{}",
        status.message()
    );
    assert_eq!(
        collector.samples(OFFICE.0, OFFICE.1, "self").await.len(),
        50
    );
    assert_eq!(
        collector.json("/api/v1/incidents").await,
        serde_json::json!([])
    );
    // Even when others fill it to the last byte, and at a start.
    let mut more = fs::File::create(data.join("more")).expect("creates");
    while more.write_all(&[1; 4096]).is_ok() {}
    drop(more);
    collector.kill();
    collector.launch().await;
    assert_eq!(
        collector.samples(OFFICE.0, OFFICE.1, "self").await.len(),
        50
    );
    eventually("it is full again", Duration::from_secs(10), || async {
        (collector.metric("denyut_disk_full").await == 1).then_some(())
    })
    .await;
    fs::remove_file(data.join("more")).expect("removes");
    fs::remove_file(&others).expect("removes");
    eventually("it goes on by itself", Duration::from_secs(10), || async {
        (collector.metric("denyut_disk_full").await == 0).then_some(())
    })
    .await;
    deliver(&collector, 51).await;
    collector.terminate();
}

/// A stream over many links: every line is right, and reading stops when the client goes away.
#[tokio::test]
async fn the_history_of_many_links_is_a_stream() {
    let agents = ["a-1", "a-2", "a-3", "a-4", "a-5", "a-6"];
    let registry = REGISTRY.replace("[\"a-1\"]", &format!("{agents:?}"));
    let collector = Collector::start(&registry).await;
    let start = (now_ms() / 3_600_000 - 30) * 3_600_000;
    // 300,000 samples: more than what waits between the reader and a client that takes nothing. Two agents see each target, as no agent
    // may say so much at once.
    for (n, agent) in (0..).zip(agents) {
        let target = ["one", "two", "three"][n / 2];
        let mut peer = Peer::join(collector.ingest, agent, BootId([6; 16]))
            .await
            .expect("joins");
        let mut seq = 0;
        let first = if n % 2 == 0 { 0 } else { 100 };
        for part in first..first + 100 {
            seq += 1;
            let times: Vec<i64> = (0..500).map(|i| start + (part * 500 + i) * 1_000).collect();
            assert!(peer.send(entry(seq, heartbeat(target, &times))).await);
        }
        while peer.next().await.expect("goes on")
            != Some(Kind::Ack(wire::Ack {
                seq,
                closed_for_s: 0,
            }))
        {}
    }
    eventually("all is in the history", Duration::from_secs(60), || async {
        (collector.metric("denyut_samples_total").await == 300_000).then_some(())
    })
    .await;
    let path = format!(
        "/api/v1/history?office=36.73&from_ms={start}&to_ms={}",
        start + 100_000_000
    );
    let lines = |body: String| -> Vec<serde_json::Value> {
        body.lines()
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect()
    };
    let hours = lines(
        collector
            .get(&format!("{path}&step_ms=3600000&target=two"))
            .await
            .expect("answers"),
    );
    assert_eq!(hours.len(), 14 + 15);
    assert!(hours.iter().all(|line| line["target"] == "two"
        && line["level"] == "hour"
        && line["office"] == "36.73.02"));
    assert_eq!(
        hours
            .iter()
            .map(|line| line["ok"].as_u64().expect("a count"))
            .sum::<u64>(),
        100_000
    );
    let all = lines(collector.get(&path).await.expect("answers"));
    assert_eq!(all.len(), 300_000);
    assert!(
        lines(
            collector
                .get(&format!("{path}&role=dns"))
                .await
                .expect("answers")
        )
        .is_empty()
    );
    assert!(
        lines(
            collector
                .get(&path.replace("36.73", "36.74"))
                .await
                .expect("answers")
        )
        .is_empty()
    );

    let request = collector.request(reqwest::Method::GET, &path);
    let mut answer = request.send().await.expect("answers");
    assert!(answer.chunk().await.expect("reads").is_some());
    let readers = || async { collector.metric("denyut_history_readers").await };
    assert_eq!(readers().await, 1, "it waits for the client");
    drop(answer);
    eventually("reading stops", Duration::from_secs(10), || async {
        (readers().await == 0).then_some(())
    })
    .await;
}
