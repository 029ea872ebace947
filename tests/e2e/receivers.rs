//! What is told arrives at real peers: an Alertmanager, a Matrix room, a mailbox, a program; and Prometheus can read the metrics.

use crate::alerts::{OFFICES, WITHIN, act, agent, nowhere};
use denyut_tests::hook::{Answer, Hook};
use denyut_tests::real::{Alertmanager, MailServer, Prometheus, Synapse};
use denyut_tests::tls::Authority;
use denyut_tests::{Collector, eventually};
use serde_json::{Value, json};
use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::Duration;

const SOON: &str = "[alert]\ngroup_wait = \"1s\"\ngroup_interval = \"1s\"\n";

/// Where nobody answers, until somebody listens there.
fn target() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listens");
    listener.local_addr().expect("is bound")
}

#[tokio::test]
async fn alerts_arrive_in_an_alertmanager_group_and_resolve() {
    let hook = Hook::start();
    // Its twin takes connections and says nothing: it keeps nothing from this one.
    let silent = Hook::answering(|_| Answer::Hang);
    let peer = Alertmanager::start(
        &format!("http://{}/", hook.address),
        "region, alertname",
        "1s",
    )
    .await;
    let config = format!(
        "{OFFICES}{SOON}[[receiver]]\nname = \"am\"\nalertmanager = {{ urls = [\"http://{}\", \"http://{}\"], every = \"5s\" }}\n\
         [[route]]\nreceiver = \"am\"\n",
        silent.address, peer.address
    );
    let target = target();
    let mut collector = Collector::start(&config).await;
    let _agents = [
        agent(&collector, "a-1", target),
        agent(&collector, "b-1", target),
    ];
    let of = |name: &'static str| {
        let peer = &peer;
        move || async move {
            let all = peer.alerts().await;
            let found: Vec<Value> = all
                .into_iter()
                .filter(|one| one["labels"]["alertname"] == name)
                .collect();
            (!found.is_empty()).then_some(found)
        }
    };
    // It says that it watches before anything else.
    eventually("it watches", WITHIN, of("DenyutWatches")).await;
    let both = || async { of("denyut")().await.filter(|all| all.len() == 2) };
    let alerts = eventually("both alerts", WITHIN, both).await;
    let labels = &alerts[0]["labels"];
    assert_eq!(
        (&labels["cause"], &labels["region"], &labels["severity"]),
        (&json!("server"), &json!("36.73"), &json!("warning"))
    );
    let summary = alerts[0]["annotations"]["summary"].as_str();
    assert!(summary.is_some_and(|text| text.contains("Server perekaman mati sejak ")));
    // It groups them, and tells its own receiver.
    let told = |status: &'static str| {
        let hook = &hook;
        move || async move {
            let all = hook.taken().into_iter().map(|one| one.json());
            let all = all.filter(|one| one["groupLabels"]["alertname"] == "denyut");
            all.filter(|one| one["status"] == status)
                .find(|one| one["alerts"].as_array().map(Vec::len) == Some(2))
        }
    };
    eventually("one message of two alerts", WITHIN, told("firing")).await;
    // Nothing is lost on either side while the collector is away.
    collector.kill();
    collector.launch().await;
    act(&collector, "acknowledge", json!({"by": "Siti"})).await;
    let known = || async {
        let all = peer.alerts().await;
        let by = |one: &Value| one["annotations"]["acknowledged_by"] == "Siti";
        all.iter().any(by).then_some(())
    };
    eventually("it knows who cares", WITHIN, known).await;
    let _listener = TcpListener::bind(target).expect("listens");
    let over = eventually("both are over", WITHIN, told("resolved")).await;
    let ends = over["alerts"][0]["endsAt"].as_str().expect("text");
    assert!(ends.starts_with("20"), "{over}");
    let gone = || async { of("denyut")().await.is_none().then_some(()) };
    eventually("no alert is left", WITHIN, gone).await;
    let metrics = collector.get("/metrics").await.expect("metrics");
    for result in ["delivered", "failed"] {
        let line = format!("denyut_messages_total{{receiver=\"am\",result=\"{result}\"}}");
        assert!(metrics.contains(&line), "{metrics}");
    }
}

#[tokio::test]
async fn a_matrix_room_reads_the_beginning_once_and_the_end_in_its_thread() {
    let Some(synapse) = Synapse::start().await else {
        return;
    };
    let token = tempfile::NamedTempFile::new().expect("makes");
    fs::write(token.path(), &synapse.token).expect("writes");
    let config = format!(
        "{OFFICES}{SOON}[[receiver]]\nname = \"room\"\nlanguage = \"en\"\nmatrix = {{ server = \"{}\", room = \"{}\", token_file = \"{}\" }}\n\
         [[route]]\nreceiver = \"room\"\n",
        synapse.url,
        synapse.room,
        token.path().display()
    );
    let target = target();
    let mut collector = Collector::start(&config).await;
    let _agent = agent(&collector, "a-1", target);
    let some = |count: usize| {
        let synapse = &synapse;
        move || async move {
            let all = synapse.messages().await;
            (all.len() >= count).then_some(all)
        }
    };
    let first = eventually("the beginning", WITHIN, some(1)).await[0].clone();
    // Whenever it is killed, the room shows it once.
    for _ in 0..3 {
        collector.kill();
        collector.launch().await;
    }
    let body = first["content"]["body"].as_str().expect("text");
    assert!(
        body.starts_with("🔴 Cipocok Jaya: ") && body.ends_with("https://denyut.example/insiden/1"),
        "{body}"
    );
    let _listener = TcpListener::bind(target).expect("listens");
    let all = eventually("the end", WITHIN, some(2)).await;
    let end = &all[1]["content"];
    assert_eq!(end["m.relates_to"]["event_id"], first["event_id"]);
    assert!(
        end["body"]
            .as_str()
            .is_some_and(|body| body.starts_with("🟢 Cipocok Jaya: restored ")),
        "{end}"
    );
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(synapse.messages().await.len(), 2);
}

#[tokio::test]
#[allow(clippy::too_many_lines, reason = "one exchange of mail")]
async fn mail_arrives_by_starttls_and_login_and_answers_the_first_one() {
    let folder = tempfile::tempdir().expect("tempdir");
    Authority::new(folder.path()).server("mail", [127, 0, 0, 1].into());
    let at = |name: &str| folder.path().join(name).display().to_string();
    fs::write(at("password"), "kata-sandi\n").expect("writes");
    fs::write(at("wrong"), "salah-sekali\n").expect("writes");
    let secured = [&*at("mail.pem"), &at("mail.key"), "denyut", "kata-sandi"];
    let (Some(server), Some(plain)) = (MailServer::start(&secured), MailServer::start(&[])) else {
        return;
    };
    let receiver = |name: &str, port: u16, to: &str, more: &str| {
        format!(
            "[[receiver]]\nname = \"{name}\"\npace = \"0s\"\nmail = {{ server = \"smtp://127.0.0.1:{port}\", from = \"Denyut <denyut@serang.example>\", to = [{to}]{more} }}\n\
             [[route]]\nreceiver = \"{name}\"\n"
        )
    };
    let login = |password: &str| {
        format!(
            ", user = \"denyut\", password_file = \"{}\", ca = \"{}\"",
            at(password),
            at("ca.pem")
        )
    };
    let stranger = login("password").replace("ca.pem", "mail.pem");
    let config = format!(
        "{OFFICES}{SOON}{}{}{}{}{}",
        receiver(
            "siti",
            server.port,
            "\"551@serang.example\", \"Siti Ü <siti@serang.example>\"",
            &login("password")
        ),
        receiver(
            "wrong",
            server.port,
            "\"siti@serang.example\"",
            &login("wrong")
        ),
        receiver(
            "stranger",
            server.port,
            "\"siti@serang.example\"",
            &stranger
        ),
        receiver("later", plain.port, "\"once451@serang.example\"", ""),
        receiver("never", plain.port, "\"550@serang.example\"", ""),
    );
    let target = target();
    let collector = Collector::start(&config).await;
    let _agent = agent(&collector, "a-1", target);
    let first = || async { server.mails().first().cloned() };
    let first = eventually("the first mail", WITHIN, first).await;
    assert_eq!(
        (&first["from"], &first["to"], &first["tls"], &first["login"]),
        (
            &json!("denyut@serang.example"),
            &json!(["siti@serang.example"]),
            &json!(true),
            &json!("denyut")
        )
    );
    let mail = first["mail"].as_str().expect("text");
    let header = |mail: &str, name: &str| {
        let line = mail.lines().find(|line| line.starts_with(name));
        line.unwrap_or_default().to_owned()
    };
    assert_eq!(
        header(mail, "Subject: "),
        "Subject: Cipocok Jaya: Server perekaman mati"
    );
    assert_eq!(
        header(mail, "Auto-Submitted: "),
        "Auto-Submitted: auto-generated"
    );
    let id = header(mail, "Message-ID: ").replace("Message-ID: ", "");
    assert!(
        id.starts_with("<denyut-siti-1-") && id.ends_with("@serang.example>"),
        "{mail}"
    );
    // Of two the first is no more: that keeps it from nobody.
    assert!(collector.log().contains("to=551@serang.example"));
    // One that says "later" gets it later, the same; one that says "never" is shown.
    let later = || async { plain.mails().first().cloned() };
    let later = eventually("what came later", WITHIN, later).await;
    assert_eq!(later["to"], json!(["once451@serang.example"]));
    let failed = || async {
        let all = collector.json("/api/v1/messages").await;
        let all = all.as_array().expect("a list").clone();
        let error = |name: &str| {
            let one = all.iter().find(|one| one["receiver"] == name)?;
            let error = one["error"].as_str()?.to_owned();
            Some((error, one["dead_ms"].is_i64()))
        };
        Some((error("wrong")?, error("stranger")?, error("never")?))
    };
    let (wrong, stranger, never) = eventually("what failed", WITHIN, failed).await;
    assert!(wrong.0.contains("535") && !wrong.1, "{wrong:?}");
    assert!(
        stranger.0.contains("certificate") && !stranger.1,
        "{stranger:?}"
    );
    assert!(never.0.contains("550") && never.1, "{never:?}");
    let _listener = TcpListener::bind(target).expect("listens");
    let end = || async { server.mails().get(1).cloned() };
    let end = eventually("the end", WITHIN, end).await;
    let end = end["mail"].as_str().expect("text");
    assert_eq!(header(end, "In-Reply-To: "), format!("In-Reply-To: {id}"));
    assert_eq!(header(end, "Subject: "), "Subject: Cipocok Jaya: pulih");
    assert!(!collector.log().contains("kata-sandi"));
}

#[tokio::test]
async fn a_program_is_given_each_message_and_one_that_fails_or_hangs_is_asked_again() {
    let folder = tempfile::tempdir().expect("tempdir");
    let at = folder.path().display();
    // The first time it fails, the second time it hangs.
    let script = format!(
        "#!/bin/sh\necho x >>{at}/runs\ncase $(wc -l <{at}/runs) in 1) echo 'kunci hilang' >&2; exit 3;; 2) sh -c 'sleep 5; echo x >{at}/left'; exit 0;; esac\n\
         sleep 90 >/dev/null & cat >{at}/body.part; env >{at}/env; mv {at}/body.part {at}/$1-$(wc -l <{at}/runs).json\n"
    );
    let program = folder.path().join("tell");
    fs::write(&program, script).expect("writes");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("sets");
    let config = format!(
        "{OFFICES}{SOON}[[receiver]]\nname = \"program\"\nexec = {{ program = \"{}\", arguments = [\"body\"], timeout = \"1s\" }}\n\
         [[route]]\nreceiver = \"program\"\n",
        program.display()
    );
    let collector = Collector::start(&config).await;
    let _agent = agent(&collector, "a-1", nowhere());
    let third = folder.path().join("body-3.json");
    let took = || async { fs::read(&third).ok() };
    let body = eventually("it took it", WITHIN, took).await;
    let body: Value = serde_json::from_slice(&body).expect("JSON");
    assert_eq!(body["alerts"][0]["labels"]["office"], "36.73.02");
    let variables = fs::read_to_string(folder.path().join("env")).expect("reads");
    assert!(
        variables.contains("DENYUT_MESSAGE_ID=denyut-program-1-"),
        "{variables}"
    );
    assert!(!variables.contains("HOME="), "{variables}");
    // What the one that was killed had started was killed with it, and what the last one left behind did not keep its message.
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(!folder.path().join("left").exists());
    assert_eq!(
        fs::read_to_string(folder.path().join("runs")).expect("reads"),
        "x\n".repeat(3)
    );
    let log = collector.log();
    assert!(
        log.contains("exit status: 3: kunci hilang")
            && log.contains("it ran for more than 1s and was killed"),
        "{log}"
    );
}

#[tokio::test]
async fn prometheus_finds_nothing_wrong_with_the_metrics() {
    let hook = Hook::start();
    let config = format!(
        "{OFFICES}{SOON}[[receiver]]\nname = \"dinas\"\nwebhook.url = \"http://{}/\"\n[[route]]\nreceiver = \"dinas\"\n",
        hook.address
    );
    let collector = Collector::start(&config).await;
    let _agent = agent(&collector, "a-1", nowhere());
    let told = || async { (!hook.taken().is_empty()).then_some(()) };
    eventually("somebody is told", WITHIN, told).await;
    let metrics = collector.get("/metrics").await.expect("metrics");
    assert!(metrics.contains("denyut_messages_total{"), "{metrics}");
    // Who asks as Prometheus does gets OpenMetrics.
    let asked = collector.request(reqwest::Method::GET, "/metrics");
    let asked = asked.header(
        "accept",
        "application/openmetrics-text;version=1.0.0,text/plain;q=0.5",
    );
    let open = asked.send().await.expect("answers").text().await;
    assert!(open.expect("text").ends_with("# EOF\n"));
    // A real one reads them, and finds its own way through both formats.
    let prometheus = Prometheus::scraping(collector.api, &collector.token).await;
    let read = || async {
        let found = prometheus.query("denyut_messages_total").await;
        found.first().cloned()
    };
    let series = eventually("Prometheus has read it", WITHIN, read).await;
    assert_eq!(
        (&series["metric"]["receiver"], &series["metric"]["result"]),
        (&json!("dinas"), &json!("delivered"))
    );
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool runs: tests/run installs it");
    let mut input = promtool.stdin.take().expect("it is piped");
    input.write_all(metrics.as_bytes()).expect("writes");
    drop(input);
    let judged = promtool.wait_with_output().expect("ends");
    let said = String::from_utf8_lossy(&judged.stderr);
    assert!(judged.status.success() && said.is_empty(), "{said}");
}
