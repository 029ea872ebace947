//! Machines join, stay certified, come back and are shut out; and nobody speaks as another.

use denyut_proto::wire::ingest_client::IngestClient;
use denyut_proto::wire::membership_client::MembershipClient;
use denyut_proto::wire::{JoinRequest, RenewRequest, ReturnRequest};
use denyut_proto::{BootId, Invitation};
use denyut_tests::member::{self, Credential, candidate, channel, request};
use denyut_tests::peer::{Peer, hello};
use denyut_tests::tls::Authority;
use denyut_tests::{Agent, Collector, eventually, program, said};
use rcgen::KeyPair;
use serde_json::Value;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;
use tonic::transport::Channel;
use tonic::{Code, Status};

const REGISTRY: &str = "[[office]]\ncode = \"36.73.02\"\nname = \"Cipocok Jaya\"\n";
const NAMES: &str = "names = [\"localhost\"]\n";
const WITHIN: Duration = Duration::from_secs(20);

pub(crate) async fn collector(keys: &str) -> Collector {
    Collector::start_at("127.0.0.1:0", &format!("{NAMES}{keys}"), REGISTRY).await
}

fn authority(collector: &Collector) -> PathBuf {
    collector.dir.path().join("data/authority/ca.pem")
}

pub(crate) fn join(agent: &Agent, invitation: &Invitation, more: &[&str]) -> Output {
    let mut command = Command::new(program("denyut-agent"));
    command.args(["join", "-"]).args(more).arg("--config");
    command.arg(agent.dir.path().join("agent.toml"));
    let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = pipes.stderr(Stdio::piped()).spawn().expect("runs");
    let mut input = child.stdin.take().expect("piped");
    writeln!(input, "{invitation}").expect("is read");
    drop(input);
    child.wait_with_output().expect("ends")
}

/// Waits until the agent is connected, or not; returns what it says then.
pub(crate) async fn connected(agent: &Agent, is: bool) -> Value {
    let what = if is { "connected" } else { "not connected" };
    let asked = || async {
        let status = agent.status()?;
        let connection = &status["connection"];
        let settled = is || connection["last_error"].is_string();
        (connection["connected"] == is && settled).then_some(status)
    };
    eventually(what, WITHIN, asked).await
}

#[tokio::test]
async fn a_machine_joins_by_one_line_and_stays_who_it_is() {
    let mut collector = collector("").await;
    let mut agent = Agent::start(None, "[collector]\nreconnect_max = \"1s\"");
    let status = connected(&agent, false).await;
    let waits = status["connection"]["last_error"].as_str().expect("text");
    assert!(waits.contains("has not joined"), "{waits}");

    let invitation = collector.invite(&[]);
    let output = join(&agent, &invitation, &[]);
    assert!(output.status.success(), "{}", said(&output));
    let status = connected(&agent, true).await;
    let id = status["agent"].as_str().expect("text").to_owned();
    assert!(id.starts_with("36-73-02-"), "{id}");
    assert!(said(&output).contains(&format!("{id} of office 36.73.02 Cipocok Jaya")));
    let identity = agent.dir.path().join("data/identity.json");
    let mode = std::fs::metadata(&identity)
        .expect("is there")
        .permissions();
    assert_eq!(mode.mode() & 0o777, 0o600);

    // Neither end forgets, and no secret is logged.
    collector.kill();
    collector.launch().await;
    agent.terminate();
    agent.launch();
    assert_eq!(connected(&agent, true).await["agent"], id);
    let office = collector.json("/api/v1/offices/36.73.02").await;
    assert_eq!(office["agents"][0]["agent"], id);
    let secret = invitation.to_string();
    let secret = secret.rsplit('.').next().expect("the last part");
    let logs = [collector.log(), agent.log()].concat();
    assert!(logs.contains(&id) && !logs.contains(secret));
    let state = std::fs::read(collector.dir.path().join("data/state/db")).expect("reads");
    let raw = &invitation.secret.0[..];
    assert!(
        !state.windows(16).any(|part| part == raw),
        "only its digest is kept"
    );

    // A line from a file that the environment names.
    let by_file = Agent::start(None, "[collector]\nreconnect_max = \"1s\"");
    let file = by_file.dir.path().join("invitation");
    let from_file = |file: &std::path::Path| {
        let mut command = Command::new(program("denyut-agent"));
        command.env("DENYUT_INVITATION_FILE", file).arg("join");
        let config = by_file.dir.path().join("agent.toml");
        command.arg("--config").arg(config).output().expect("runs")
    };
    let output = from_file(&file);
    assert!(
        said(&output).contains("DENYUT_INVITATION_FILE: cannot read"),
        "{}",
        said(&output)
    );
    std::fs::write(&file, format!("{}\n", collector.invite(&[]))).expect("writes");
    let output = from_file(&file);
    assert!(output.status.success(), "{}", said(&output));
    connected(&by_file, true).await;
    drop(by_file);

    // The line is used up; and who has joined does not do so by mistake.
    let other = Agent::start(None, "");
    let output = join(&other, &invitation, &[]);
    assert!(said(&output).contains("the invitation is unknown") && !output.status.success());
    let another = collector.invite(&[]);
    let output = join(&agent, &another, &[]);
    assert!(said(&output).contains("has joined already") && !output.status.success());
    // Somebody else at the same address is not taken for the collector, and learns no secret.
    let mut wrong = another.clone();
    wrong.authority[0] ^= 1;
    let output = join(&other, &wrong, &[]);
    assert!(
        said(&output).contains("not the collector that the invitation is from"),
        "{}",
        said(&output)
    );
    let output = join(&other, &another, &[]);
    assert!(output.status.success(), "{}", said(&output));
    // What is no invitation is not repeated: it may hold a secret.
    let mut command = Command::new(program("denyut-agent"));
    command.args([
        "join",
        "https://127.0.0.1:7/#abc.def",
        "--again",
        "--config",
    ]);
    let output = command.arg(other.dir.path().join("agent.toml"));
    let output = output.output().expect("runs");
    assert!(
        said(&output).contains("64 hexadecimal digits") && !said(&output).contains("def"),
        "{}",
        said(&output)
    );
}

#[tokio::test]
async fn a_token_makes_one_agent_however_many_ask_at_once() {
    let collector = collector("").await;
    let invitation = collector.invite(&[]);
    let authority = authority(&collector);
    // Over eight connections, as one that opens a thousand is slower than the race.
    let mut channels = Vec::new();
    for _ in 0..8 {
        channels.push(
            channel(collector.ingest, &authority, None)
                .await
                .expect("connects"),
        );
    }
    let (_, certificate_request) = candidate();
    let asked = JoinRequest {
        secret: invitation.secret.0.to_vec(),
        certificate_request,
        machine: None,
    };
    let mut joins = tokio::task::JoinSet::new();
    for i in 0..1_000 {
        let mut client = MembershipClient::new(channels[i % channels.len()].clone());
        let asked = asked.clone();
        joins.spawn(async move { client.join(asked).await });
    }
    let answers = joins.join_all().await;
    let (made, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    assert_eq!((made.len(), refused.len()), (1, 999));
    for refused in refused {
        let status = refused.expect_err("was refused");
        assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
    }
    let list = said(&collector.ctl(&["agent", "list"]));
    assert_eq!(list.lines().count(), 2, "{list}");
    // One for three makes three.
    let for_three = collector.invite(&["--uses", "3"]);
    for n in 0..4 {
        let joined = member::join(collector.ingest, &authority, &for_three).await;
        assert_eq!(joined.is_ok(), n < 3);
    }
    let expired = collector.invite(&["--expires", "1m"]);
    let list = said(&collector.ctl(&["invitation", "list"]));
    let line = list.lines().nth(1).expect("a line");
    let name = line.split_whitespace().next().expect("its name");
    let revoked = collector.ctl(&["invitation", "revoke", name]);
    assert!(revoked.status.success(), "{}", said(&revoked));
    assert!(
        member::join(collector.ingest, &authority, &expired)
            .await
            .is_err()
    );
}

#[tokio::test]
async fn certificates_are_renewed_and_one_that_is_over_is_no_end() {
    let collector = collector("certificates = \"12s\"\n").await;
    let mut agent = Agent::start(None, "[collector]\nreconnect_max = \"1s\"");
    join(&agent, &collector.invite(&[]), &[]);
    let first = connected(&agent, true).await;
    let since = first["connection"]["since_ms"].clone();
    let renewed = || async {
        collector
            .log()
            .contains("an agent renewed its certificate")
            .then_some(())
    };
    eventually("it renews", WITHIN, renewed).await;
    // Past the end of the first, on the same stream.
    tokio::time::sleep(Duration::from_secs(6)).await;
    let status = connected(&agent, true).await;
    assert_eq!(status["connection"]["since_ms"], since);
    let until = |status: &Value| status["certified_until_ms"].as_i64().expect("a time");
    assert!(until(&status) > until(&first));
    // Away for longer than its certificate is good.
    agent.kill();
    tokio::time::sleep(Duration::from_secs(13)).await;
    agent.launch();
    connected(&agent, true).await;
    assert!(collector.log().contains("an agent came back"));
}

#[tokio::test]
async fn a_restored_collector_is_the_same_to_its_agents() {
    let mut collector = collector("").await;
    let agent = Agent::start(None, "[collector]\nreconnect_max = \"1s\"");
    join(&agent, &collector.invite(&[]), &[]);
    connected(&agent, true).await;
    let backup = collector.dir.path().join("backup");
    let backup = backup.to_str().expect("text");
    let output = collector.operate(&["backup", "--to", backup]);
    assert!(output.status.success(), "{}", said(&output));
    let key = std::fs::metadata(format!("{backup}/authority/ca.key")).expect("is there");
    assert_eq!(key.permissions().mode() & 0o777, 0o600);
    collector.kill();
    std::fs::remove_dir_all(collector.dir.path().join("data")).expect("removes");
    let output = collector.operate(&["restore", "--from", backup]);
    assert!(output.status.success(), "{}", said(&output));
    collector.launch().await;
    let again = || async { (collector.metric("denyut_streams").await == 1).then_some(()) };
    eventually("the agent is back", WITHIN, again).await;
}

#[tokio::test]
async fn who_is_shut_out_is_out_at_once() {
    let collector = collector("").await;
    let agent = Agent::start(None, "[collector]\nreconnect_max = \"1s\"");
    join(&agent, &collector.invite(&[]), &[]);
    let status = connected(&agent, true).await;
    let id = status["agent"].as_str().expect("text");
    let output = collector.ctl(&["agent", "revoke", id]);
    assert!(output.status.success(), "{}", said(&output));
    let gone = || async { (collector.metric("denyut_streams").await == 0).then_some(()) };
    eventually("the stream ends", Duration::from_secs(10), gone).await;
    let status = connected(&agent, false).await;
    let error = status["connection"]["last_error"].as_str().expect("text");
    assert!(
        error.contains("was revoked") && error.contains("join again"),
        "{error}"
    );
    let output = join(&agent, &collector.invite(&[]), &["--again"]);
    assert!(
        said(&output).contains("Restart the agent"),
        "{}",
        said(&output)
    );
    let unknown = collector.ctl(&["agent", "revoke", "nobody"]);
    assert!(
        said(&unknown).contains("no agent nobody has joined here"),
        "{}",
        said(&unknown)
    );
}

/// A disk that is copied after it has joined: both machines work on, as two agents.
#[tokio::test]
async fn a_cloned_disk_becomes_another_agent_by_itself() {
    let collector = collector("").await;
    let quick = "[collector]\nreconnect_max = \"1s\"";
    let first = Agent::start(None, quick);
    join(&first, &collector.invite(&[]), &[]);
    let id = connected(&first, true).await["agent"].clone();
    let twin = Agent::start(None, quick);
    connected(&twin, false).await;
    // Its spool's id stands for another machine's boot: here both have the same.
    let identity = "data/identity.json";
    std::fs::copy(
        first.dir.path().join(identity),
        twin.dir.path().join(identity),
    )
    .expect("copies");
    let apart = || async {
        let (one, other) = (first.status()?, twin.status()?);
        let both = [&one, &other]
            .iter()
            .all(|status| status["connection"]["connected"] == true);
        (both && one["agent"] != other["agent"]).then_some((one, other))
    };
    let (one, other) = eventually("they are told apart", WITHIN, apart).await;
    assert_eq!(one["agent"], id, "the first stays who it is");
    let list = collector.json("/api/v1/agents").await;
    let twins = list.as_array().expect("a list").iter();
    let twins: Vec<_> = twins.filter(|one| one["twin_of"] == id).collect();
    assert_eq!(twins.len(), 1, "{list}");
    assert_eq!(collector.metric("denyut_twins_total").await, 1);
    // What is known against the one is known against the other.
    let revoked = collector.ctl(&["agent", "revoke", id.as_str().expect("text")]);
    assert!(said(&revoked).contains(other["agent"].as_str().expect("text")));
    let gone = || async { (collector.metric("denyut_streams").await == 0).then_some(()) };
    eventually("both are out", WITHIN, gone).await;
}

/// Somebody who is not who they should be: as whom, with what, and a key that they have.
struct Impostor {
    name: &'static str,
    shown: Option<Credential>,
    agent: String,
    key: KeyPair,
}

async fn call(channel: Channel, method: &str, by: &Impostor) -> Result<(), Status> {
    match method {
        "Ingest/Stream" => {
            let (send, outbound) = tokio::sync::mpsc::channel(4);
            let first = hello(&by.agent, BootId([7; 16]));
            send.send(first).await.expect("there is room");
            let outbound = tokio_stream::wrappers::ReceiverStream::new(outbound);
            let answer = IngestClient::new(channel).stream(outbound).await?;
            answer.into_inner().message().await.map(|_| ())
        }
        "Membership/Join" => {
            let asked = JoinRequest {
                secret: vec![7; 16],
                certificate_request: request(&by.key),
                machine: None,
            };
            MembershipClient::new(channel).join(asked).await.map(|_| ())
        }
        "Membership/Renew" => {
            let certificate_request = request(&by.key);
            let asked = RenewRequest {
                certificate_request,
            };
            MembershipClient::new(channel)
                .renew(asked)
                .await
                .map(|_| ())
        }
        "Membership/Return" => {
            let asked = ReturnRequest {
                agent: by.agent.clone(),
                certificate_request: request(&by.key),
            };
            MembershipClient::new(channel)
                .r#return(asked)
                .await
                .map(|_| ())
        }
        other => panic!("{other} is new: say here how it is called, and by whom it may not be"),
    }
}

/// Each call of the protocol by each that is somebody else.
#[tokio::test]
async fn no_call_is_answered_to_who_is_somebody_else() {
    let collector = collector("").await;
    let ca = authority(&collector);
    let joined = async || {
        let invitation = collector.invite(&[]);
        member::join(collector.ingest, &ca, &invitation)
            .await
            .expect("joins")
    };
    let (good, good_key) = joined().await;
    let (other, other_key) = joined().await;
    let (revoked, revoked_key) = joined().await;
    collector.ctl(&["agent", "revoke", &revoked.agent]);
    // Signed by the collector's own authority, for another key; and for nobody.
    let folder = tempfile::tempdir().expect("tempdir");
    let ours = Authority::open(ca.parent().expect("its folder"), folder.path());
    ours.agent(&good.agent);
    ours.server("nobody", "127.0.0.1".parse().expect("an address"));
    let strangers = tempfile::tempdir().expect("tempdir");
    Authority::new(strangers.path()).agent(&good.agent);

    let fresh = || KeyPair::generate().expect("a key");
    let impostor = |name, shown, agent: &str, key| Impostor {
        name,
        shown,
        agent: agent.to_owned(),
        key,
    };
    let impostors = [
        impostor("no certificate", None, &good.agent, fresh()),
        impostor(
            "another agent",
            Some(Credential::of(&other, &other_key)),
            &good.agent,
            fresh(),
        ),
        impostor(
            "a revoked agent",
            Some(Credential::of(&revoked, &revoked_key)),
            &revoked.agent,
            revoked_key,
        ),
        impostor(
            "the same name for another key",
            Some(Credential::read(folder.path(), &good.agent)),
            &good.agent,
            fresh(),
        ),
        impostor(
            "a certificate that names nobody",
            Some(Credential::read(folder.path(), "nobody")),
            &good.agent,
            fresh(),
        ),
        impostor(
            "a stranger's certificate",
            Some(Credential::read(strangers.path(), &good.agent)),
            &good.agent,
            fresh(),
        ),
    ];
    let proto = concat!(env!("CARGO_MANIFEST_DIR"), "/../proto");
    let descriptors = protox::compile(["denyut.proto"], [proto]).expect("compiles");
    let services = descriptors.file.iter().flat_map(|file| &file.service);
    let methods: Vec<String> = services
        .flat_map(|service| {
            let of = |method: &str| format!("{}/{method}", service.name());
            service.method.iter().map(move |method| of(method.name()))
        })
        .collect();
    assert!(methods.len() >= 4, "{methods:?}");
    for method in &methods {
        for by in &impostors {
            let answer = match channel(collector.ingest, &ca, by.shown.as_ref()).await {
                Ok(channel) => call(channel, method, by).await,
                Err(refused) => Err(refused),
            };
            let refused = answer.expect_err(&format!("{method} by {}", by.name));
            let ours = [Code::Unauthenticated, Code::PermissionDenied];
            let is_stranger = by.name == "a stranger's certificate";
            assert!(
                ours.contains(&refused.code()) || is_stranger,
                "{method} by {}: {refused:?}",
                by.name
            );
        }
    }
    // In plaintext nobody gets as far.
    assert!(
        Peer::join(collector.ingest, &good.agent, BootId([7; 16]))
            .await
            .is_err()
    );
    // And who is who they say is answered.
    let right = impostor(
        "itself",
        Some(Credential::of(&good, &good_key)),
        &good.agent,
        good_key,
    );
    for method in methods.iter().filter(|method| *method != "Membership/Join") {
        let channel = channel(collector.ingest, &ca, right.shown.as_ref()).await;
        let answer = call(channel.expect("connects"), method, &right).await;
        answer.unwrap_or_else(|status| panic!("{method}: {status:?}"));
    }
}

/// One address cannot take all places at the door, and who shows no certificate does not stay.
#[tokio::test]
async fn who_only_stands_at_the_door_is_shown_out() {
    let collector = collector("").await;
    let to = collector.ingest;
    let authority = authority(&collector);
    // It shakes hands without a certificate, and asks for nothing.
    let mut silent = Command::new("openssl")
        .args(["s_client", "-quiet", "-alpn", "h2", "-connect"])
        .arg(to.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("starts");
    // From another address than the agents'.
    let from: std::net::SocketAddr = ([127, 0, 0, 9], 0).into();
    let mut crowd = Vec::new();
    for _ in 0..200 {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.bind(from).expect("binds");
        crowd.push(socket.connect(to).await.expect("connects"));
    }
    eventually("most wait, some are turned away", WITHIN, || async {
        (collector.metric("denyut_crowded_total").await == 200 - 128).then_some(())
    })
    .await;
    let (_, _) = member::join(to, &authority, &collector.invite(&[]))
        .await
        .expect("others are let in");
    drop(crowd);

    let mut ended = || {
        let ended = silent.try_wait().expect("can be asked").is_some();
        async move { ended.then_some(()) }
    };
    assert!(ended().await.is_none(), "it may take a while");
    let within = Duration::from_secs(90);
    eventually("it is shown out", within, ended).await;
}
