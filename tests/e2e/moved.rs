//! One server for two offices: when it is unplugged at the first and plugged in at the second, it is named as what moved.

use crate::offices::{agent_config, build_office, serve_tcp, state_of, wait_for};
use crate::page::{picture, shows};
use denyut_tests::browser::{Browser, Screen};
use denyut_tests::net::Net;
use denyut_tests::tls::Authority;
use denyut_tests::{Agent, Collector, install_crypto, now_ms};
use serde_json::Value;

/// The server's network card.
const CARD: &str = "02:36:73:00:00:01";

#[test]
fn a_server_that_is_carried_to_another_office_is_named() {
    let Some(mut net) = Net::new() else { return };
    install_crypto();
    net.host("core");
    for n in [1, 2] {
        build_office(&mut net, n);
        let server = format!("srv{n}");
        serve_tcp(&net, &server);
        // Unplugged, at both; wherever it is, it is the same card.
        net.on(&server, "ip link set eth0 down");
        net.on(&server, &format!("ip link set eth0 address {CARD}"));
    }
    net.on("core", "ip addr add 10.100.9.9/32 dev lo");
    net.on("core", "ip addr add 10.100.0.1/32 dev lo");
    net.move_to("core");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(scenario(&net));
}

fn moved(view: &Value) -> Option<&Value> {
    let patterns = view["patterns"].as_array().expect("patterns");
    patterns.iter().find(|pattern| pattern["kind"] == "moved")
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
    net.on("srv1", "ip link set eth0 up");
    let agents = [1, 2].map(|n| {
        Agent::start(
            Some(&net.name(&format!("agent{n}"))),
            &agent_config(n, tls.path()),
        )
    });
    let server_is = |state: &'static str| move |view: &Value| state_of(view, "server") == state;
    wait_for(
        &collector,
        "36.73.01",
        20,
        "the server is up",
        server_is("up"),
    )
    .await;
    let there = wait_for(&collector, "36.73.02", 30, "no server", server_is("down")).await;
    assert_eq!(moved(&there), None);
    let status = agents[0].status().expect("answers");
    let targets = status["targets"].as_array().expect("targets");
    let shown = targets.iter().find(|target| target["name"] == "server");
    assert_eq!(
        shown.expect("the server")["shown"][0],
        format!("mac {CARD}")
    );

    net.on("srv1", "ip link set eth0 down");
    wait_for(&collector, "36.73.01", 30, "it is gone", server_is("down")).await;
    let carried_at = now_ms();
    net.on("srv2", "ip link set eth0 up");
    for (office, other) in [("36.73.01", "36.73.02"), ("36.73.02", "36.73.01")] {
        let view = wait_for(&collector, office, 60, "it is named", |view| {
            moved(view).is_some()
        })
        .await;
        let pattern = moved(&view).expect("was just seen");
        assert_eq!(pattern["identity"], format!("mac {CARD}"));
        assert_eq!(
            (&pattern["with"], &pattern["count"]),
            (&other.into(), &1.into())
        );
        let seen = pattern["from_ms"].as_i64().expect("a time");
        // Told in whole seconds.
        assert!((-1_000..15_000).contains(&(seen - carried_at)), "{pattern}");
    }
    let laptop = Browser::open(Screen::Laptop).await;
    laptop.enter(&collector, "siti").await;
    laptop
        .visit(&format!("http://{}/pola", collector.api))
        .await;
    shows(
        &laptop,
        &[
            "Alat yang sama berpindah antara sini dan Cipocok Jaya: 1 kali",
            CARD,
        ],
    )
    .await;
    laptop.screenshot(&picture("moved-laptop-id.png")).await;
}
