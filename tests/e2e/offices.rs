//! Two offices, each with its own gateway and server host, and a collector somewhere else: cables are pulled,
//! packets are dropped, and state, incident and its end arrive through the API with the right times.

use denyut_tests::net::Net;
use denyut_tests::tls::Authority;
use denyut_tests::{Agent, Collector, eventually, install_crypto, now_ms};
use serde_json::{Value, json};
use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

/// Probes are 1 s apart and time out after 500 ms; event times may be off by this much.
const TOLERANCE_MS: i64 = 2_500;

/// Office `n`: agent 10.n.0.10, server 10.n.0.2, gateway 10.n.0.1, uplink 10.100.n.2 – 10.100.n.1 at the core.
pub(crate) fn build_office(net: &mut Net, n: u8) {
    let (agent, gateway, server) = (format!("agent{n}"), format!("gw{n}"), format!("srv{n}"));
    for host in [&agent, &gateway, &server] {
        net.host(host);
    }
    net.cable((&agent, "eth0"), (&gateway, "lan0"));
    net.cable((&server, "eth0"), (&gateway, "lan1"));
    net.cable((&gateway, "wan0"), ("core", &format!("office{n}")));
    net.on(&gateway, "ip link add br0 type bridge");
    for port in ["lan0", "lan1"] {
        net.on(&gateway, &format!("ip link set {port} master br0"));
    }
    net.on(&gateway, "ip link set br0 up");
    net.on(&gateway, &format!("ip addr add 10.{n}.0.1/24 dev br0"));
    net.on(&gateway, &format!("ip addr add 10.100.{n}.2/24 dev wan0"));
    net.on(&gateway, &format!("ip route add default via 10.100.{n}.1"));
    net.on(&gateway, "sysctl -qw net.ipv4.ip_forward=1");
    net.on(
        "core",
        &format!("ip addr add 10.100.{n}.1/24 dev office{n}"),
    );
    net.on(
        "core",
        &format!("ip route add 10.{n}.0.0/24 via 10.100.{n}.2"),
    );
    for (host, last) in [(&agent, 10), (&server, 2)] {
        net.on(host, &format!("ip addr add 10.{n}.0.{last}/24 dev eth0"));
        net.on(host, &format!("ip route add default via 10.{n}.0.1"));
    }
}

/// A listener on the office's server host, for as long as the test lives.
pub(crate) fn serve_tcp(net: &Net, host: &str) {
    let listener = net.within(host, || TcpListener::bind("0.0.0.0:443").expect("binds"));
    std::thread::spawn(move || listener.incoming().for_each(drop));
}

pub(crate) fn agent_config(n: u8, tls: &Path) -> String {
    let tls = tls.display();
    let target = |name: &str, role: &str, probe: &str| {
        format!(
            "[[target]]\nname = \"{name}\"\nrole = \"{role}\"\nprobe = \"{probe}\"\ninterval = \"1s\"\ntimeout = \"500ms\"\n"
        )
    };
    [
        format!(
            "agent = \"office-{n}\"\nheartbeat = \"1s\"\n[collector]\naddresses = [\"https://10.100.0.1:7443\"]\nreconnect_max = \"2s\"\n\
             ca = \"{tls}/ca.pem\"\ncertificate = \"{tls}/office-{n}.pem\"\nkey = \"{tls}/office-{n}.key\"\n"
        ),
        target("gateway", "gateway", "gateway"),
        target("server", "server", &format!("icmp://10.{n}.0.2")),
        target("server-tcp", "server", &format!("tcp://10.{n}.0.2:443")),
        target("uplink", "uplink", "icmp://10.100.9.9"),
    ]
    .concat()
}

pub(crate) fn state_of(office: &Value, target: &str) -> String {
    let links = office["links"].as_array().expect("links");
    let link = links.iter().find(|link| link["target"] == target);
    link.map_or("", |link| link["state"].as_str().expect("a state"))
        .to_owned()
}

pub(crate) async fn wait_for(
    collector: &Collector,
    office: &str,
    within: u64,
    what: &str,
    ok: impl Fn(&Value) -> bool,
) -> Value {
    let path = format!("/api/v1/offices/{office}");
    let look = || async {
        let view = collector.json(&path).await;
        ok(&view).then_some(view)
    };
    eventually(what, Duration::from_secs(within), look).await
}

fn all_up(view: &Value) -> bool {
    let targets = ["gateway", "server", "server-tcp", "uplink"];
    targets.iter().all(|target| state_of(view, target) == "up")
}

fn near(value: &Value, expected_ms: i64, what: &str) {
    let value = value
        .as_i64()
        .unwrap_or_else(|| panic!("{what} is {value}"));
    let off = value - expected_ms;
    assert!(off.abs() <= TOLERANCE_MS, "{what} is off by {off} ms");
}

#[test]
fn outages_are_seen_explained_and_ended_at_the_right_times() {
    let Some(mut net) = Net::new() else { return };
    install_crypto();
    net.host("core");
    for n in [1, 2] {
        build_office(&mut net, n);
        serve_tcp(&net, &format!("srv{n}"));
    }
    // What stands for the internet, and the collector's own address.
    net.on("core", "ip addr add 10.100.9.9/32 dev lo");
    net.on("core", "ip addr add 10.100.0.1/32 dev lo");
    net.move_to("core");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(scenario(&net));
}

async fn scenario(net: &Net) {
    let tls = tempfile::tempdir().expect("tempdir");
    let authority = Authority::new(tls.path());
    authority.agent("office-1");
    authority.agent("office-2");
    let folder = tls.path().display();
    let collector = Collector::start_at(
        "10.100.0.1:7443",
        &format!(
            "names = [\"10.100.0.1\"]\nca = \"{folder}/ca.pem\"\nca_key = \"{folder}/ca.key\""
        ),
        "[[office]]\ncode = \"36.73.01\"\nname = \"Serang\"\nagents = [\"office-1\"]\n\
         [[office]]\ncode = \"36.73.02\"\nname = \"Cipocok Jaya\"\nagents = [\"office-2\"]\n",
    )
    .await;
    let _agents: Vec<Agent> = [1, 2]
        .map(|n| {
            Agent::start(
                Some(&net.name(&format!("agent{n}"))),
                &agent_config(n, tls.path()),
            )
        })
        .into();
    for office in ["36.73.01", "36.73.02"] {
        let view = wait_for(&collector, office, 20, "all links are up", all_up).await;
        assert_eq!(view["state"], "up");
        let n = &office[7..];
        let gateway = format!("10.{}.0.1", n.trim_start_matches('0'));
        assert_eq!(
            view["agents"][0]["gateway"], gateway,
            "the gateway is found by itself"
        );
    }

    // At the first office the server's cable is pulled; at the second the way out drops everything.
    let cut_at = now_ms();
    net.on("srv1", "ip link set eth0 down");
    net.nft(
        "gw2",
        "table ip cut {\nchain forward {\ntype filter hook forward priority 0\niifname wan0 drop\noifname wan0 drop\n}\n}\n",
    );

    let one = wait_for(&collector, "36.73.01", 20, "the server is down", |view| {
        state_of(view, "server") == "down"
            && state_of(view, "server-tcp") == "down"
            && view["incident"].is_u64()
    })
    .await;
    assert_eq!(
        (state_of(&one, "gateway"), state_of(&one, "uplink")),
        ("up".into(), "up".into())
    );
    let incident = collector
        .json(&format!("/api/v1/incidents/{}", one["incident"]))
        .await;
    assert_eq!(incident["cause"], "server");
    near(&incident["opened_ms"], cut_at, "the opening at office 1");
    assert_eq!(incident["revisions"][0]["kind"], "open");

    check_way_to_server(&collector, cut_at).await;

    let two = wait_for(&collector, "36.73.02", 20, "the agent is silent", |view| {
        view["state"] == "unobserved" && view["incident"].is_u64()
    })
    .await;
    let silent = collector
        .json(&format!("/api/v1/incidents/{}", two["incident"]))
        .await;
    assert_eq!(silent["cause"], "unreachable");
    near(&silent["opened_ms"], cut_at, "the opening at office 2");

    let mended_at = now_ms();
    net.on("srv1", "ip link set eth0 up");
    net.on("gw2", "nft delete table ip cut");

    wait_for(&collector, "36.73.01", 60, "office 1 is up again", mended).await;
    wait_for(&collector, "36.73.02", 90, "office 2 is up again", mended).await;
    let over = collector
        .json(&format!("/api/v1/incidents/{}", incident["number"]))
        .await;
    near(&over["resolved_ms"], mended_at, "the end at office 1");
    let kinds: Vec<&str> = over["revisions"]
        .as_array()
        .expect("revisions")
        .iter()
        .map(|r| r["kind"].as_str().expect("a kind"))
        .collect();
    assert_eq!(kinds.first(), Some(&"open"));
    assert_eq!(kinds.last(), Some(&"resolve"));

    check_backfill(&collector, cut_at, mended_at).await;
    check_way_out(&collector, cut_at, mended_at).await;
}

/// Where the server's cable was pulled.
async fn check_way_to_server(collector: &Collector, cut_at: i64) {
    // The agent looked at the way there: on its own network there is no router that could answer.
    let ways = ways_to(collector, "36.73.01", "office-1", "server").await;
    let at = ways[0]["at_ms"].as_i64().expect("a time");
    assert!((cut_at..now_ms()).contains(&at), "looked at {at}");
    assert_eq!(
        (&ways[0]["to"], &ways[0]["hops"]),
        (&json!("10.1.0.2"), &json!([]))
    );
    assert_eq!(ways.len(), 1, "{ways:?}");
    let page = collector.get("/kantor/36.73.01").await.expect("a page");
    assert!(
        page.contains("perangkat pertama pun diam"),
        "the way stands with the link that fails"
    );
}

/// Where the way out was cut, as told after it was mended.
async fn check_way_out(collector: &Collector, cut_at: i64, mended_at: i64) {
    // What office 2 saw of the way out came late, too: its gateway answered, and nobody behind it.
    let ways = ways_to(collector, "36.73.02", "office-2", "uplink").await;
    let at = ways[0]["at_ms"].as_i64().expect("a time");
    assert!((cut_at..mended_at).contains(&at), "looked at {at}");
    let hops = ways[0]["hops"].as_array().expect("hops");
    let [hop] = &hops[..] else {
        panic!("{hops:?}");
    };
    assert_eq!(
        (&hop["from"], &hop["said"]),
        (&json!("10.2.0.1"), &json!("passed"))
    );
    let page = collector.get("/kantor/36.73.02/office-2/uplink").await;
    assert!(
        page.expect("a page").contains("terakhir menjawab 10.2.0.1"),
        "the way stands on the link's page"
    );
    let shown = collector.ctl(&["link", "show", "36.73.02", "office-2/uplink"]);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    let wanted = "then nobody up to 10.100.9.9";
    assert!(
        shown.contains("10.2.0.1 (") && shown.contains(wanted),
        "{shown}"
    );
    let page = collector.get("/kantor/36.73.02").await.expect("a page");
    assert!(!page.contains("Jalur pada"), "nothing fails there now");
}

/// The ways that are kept of a link; waits for the first.
async fn ways_to(collector: &Collector, office: &str, agent: &str, target: &str) -> Vec<Value> {
    let path = format!("/api/v1/offices/{office}/links/{agent}/{target}/paths");
    let look = || async {
        let ways = collector.json(&path).await;
        let ways = ways.as_array().expect("a list").clone();
        (!ways.is_empty()).then_some(ways)
    };
    eventually("the way was looked at", Duration::from_secs(10), look).await
}

/// All links are up and no incident is open.
fn mended(view: &Value) -> bool {
    all_up(view) && view["incident"].is_null()
}

/// What office 2 saw while nobody could hear it came with the spool: the uplink was down, the office was not.
async fn check_backfill(collector: &Collector, cut_at: i64, mended_at: i64) {
    let open = collector.json("/api/v1/incidents?open=true").await;
    assert_eq!(open, Value::Array(Vec::new()), "nothing is open any more");
    let all = collector.json("/api/v1/incidents?office=36.73.02").await;
    let uplink = all
        .as_array()
        .expect("a list")
        .iter()
        .find(|one| one["cause"] == "uplink");
    let uplink = uplink.unwrap_or_else(|| panic!("no uplink incident in {all:#}"));
    near(&uplink["opened_ms"], cut_at, "the late opening at office 2");
    near(
        &uplink["resolved_ms"],
        mended_at,
        "the late end at office 2",
    );
    let samples = collector.samples("36.73.02", "office-2", "server").await;
    let during = |sample: &&Value| {
        let at = sample["at_ms"].as_i64().expect("a time");
        (cut_at + 1_000..mended_at).contains(&at) && sample["rtt_us"].is_u64()
    };
    let seconds = (mended_at - cut_at) / 1_000 - 2;
    let seen = i64::try_from(samples.iter().filter(during).count()).expect("few");
    assert!(
        seen >= seconds,
        "{seen} samples of the server in {seconds} s of silence"
    );
}
