//! Each kind of probe against real servers that are well, ill, or something else: the right reason each time.

use denyut_tests::net::Net;
use denyut_tests::tls::Authority;
use denyut_tests::{Agent, eventually, install_crypto, program};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// `denyut-agent probe --json`, with more arguments; and its exit code, which must fit.
fn probe(target: &str, arguments: &[&str]) -> Value {
    let output = Command::new(program("denyut-agent"))
        .args(["probe", "--json", target])
        .args(arguments)
        .output()
        .expect("runs");
    let text = String::from_utf8_lossy(&output.stdout);
    let answer: Value = serde_json::from_str(&text).unwrap_or_else(|_| {
        panic!(
            "{target}: {text}{}",
            String::from_utf8_lossy(&output.stderr)
        )
    });
    assert_eq!(
        output.status.success(),
        answer["failure"].is_null(),
        "{answer}"
    );
    answer
}

/// The reason of a failed probe, or `ok`.
fn reason(target: &str, arguments: &[&str]) -> String {
    let answer = probe(target, arguments);
    if answer["failure"].is_null() {
        assert!(
            answer["rtt_us"]
                .as_u64()
                .is_some_and(|rtt| (1..5_000_000).contains(&rtt)),
            "{answer}"
        );
        return "ok".into();
    }
    assert!(answer["rtt_us"].is_null(), "{answer}");
    let detail = answer["detail"]
        .as_u64()
        .map_or(String::new(), |detail| format!("={detail}"));
    format!("{}{detail}", answer["failure"].as_str().expect("text"))
}

/// A server on loopback that reads a little and gives the same answer to everybody; `None`: it takes the connection and says
/// nothing.
fn serve(answer: Option<&'static [u8]>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        let mut open = Vec::new();
        for connection in listener.incoming() {
            let Ok(mut connection) = connection else {
                return;
            };
            if let Some(answer) = answer {
                let mut request = [0; 1024];
                if connection.read(&mut request).is_err() {
                    continue;
                }
                connection.write_all(answer).ok();
            } else {
                open.push(connection);
            }
        }
    });
    address
}

/// An HTTPS server on loopback with a certificate of the authority's making.
fn serve_tls(folder: &Path, name: &str) -> SocketAddr {
    let certificate =
        CertificateDer::from_pem_file(folder.join(format!("{name}.pem"))).expect("reads");
    let key = PrivateKeyDer::from_pem_file(folder.join(format!("{name}.key"))).expect("reads");
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key);
    let config = Arc::new(config.expect("fits"));
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let Ok(mut connection) = connection else {
                return;
            };
            let mut session =
                rustls::ServerConnection::new(Arc::clone(&config)).expect("a session");
            let mut stream = rustls::Stream::new(&mut session, &mut connection);
            let mut request = [0; 1024];
            if stream.read(&mut request).is_ok() {
                stream
                    .write_all(
                        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nOK",
                    )
                    .ok();
            }
        }
    });
    address
}

#[test]
fn tcp() {
    assert_eq!(reason(&format!("tcp://{}", serve(None)), &[]), "ok");
    assert_eq!(reason("tcp://127.0.0.1:1", &[]), "refused");
    assert_eq!(
        reason("tcp://no-such-host.invalid:80", &[]),
        "name_not_resolved"
    );
}

#[test]
fn http() {
    let url = |answer| format!("http://{}/", serve(Some(answer)));
    assert_eq!(
        reason(&url(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nOK"), &[]),
        "ok"
    );
    assert_eq!(
        reason(
            &url(b"HTTP/1.1 302 Found\r\nlocation: /x\r\ncontent-length: 0\r\n\r\n"),
            &[]
        ),
        "ok"
    );
    assert_eq!(
        reason(
            &url(b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n"),
            &[]
        ),
        "http_status=502"
    );
    assert_eq!(reason(&url(b"SSH-2.0-OpenSSH_9.2\r\n"), &[]), "protocol");
    assert_eq!(
        reason(&format!("http://{}/", serve(None)), &["--timeout", "300ms"]),
        "timeout"
    );
    assert_eq!(reason("http://127.0.0.1:1/", &[]), "refused");
    assert_eq!(
        reason("http://no-such-host.invalid/", &[]),
        "name_not_resolved"
    );
}

#[test]
fn https_and_expectations() {
    install_crypto();
    let dir = tempfile::tempdir().expect("tempdir");
    let authority = Authority::new(dir.path());
    authority.server("good", "127.0.0.1".parse().expect("an address"));
    authority.server("other", "127.0.0.9".parse().expect("an address"));
    authority.expired_server("old", "127.0.0.1".parse().expect("an address"));
    let url = |name| format!("https://{}/", serve_tls(dir.path(), name));
    let target = |name: &str, url: &str, rest: &str| {
        format!("[[target]]\nname = \"{name}\"\nrole = \"central\"\nprobe = \"{url}\"\n{rest}\n")
    };
    let (good, old, other) = (url("good"), url("old"), url("other"));
    let config = [
        format!("agent = \"a-1\"\ndata_dir = \"/nowhere\"\nprobe_ca = \"{}/ca.pem\"\n[collector]\naddresses = [\"http://127.0.0.1:1\"]\n", dir.path().display()),
        target("good", &good, ""),
        target("old", &old, ""),
        target("other", &other, ""),
        target("body", &good, "expect_status = 200\nexpect_body = \"OK\""),
        target("wrong-body", &good, "expect_body = \"SIAK\""),
        target("wrong-status", &good, "expect_status = 204"),
    ]
    .concat();
    let path = dir.path().join("agent.toml");
    std::fs::write(&path, config).expect("writes");
    let arguments = ["--config", path.to_str().expect("text")];
    for (name, expected) in [
        ("good", "ok"),
        ("old", "tls_expired"),
        ("other", "tls_name_mismatch"),
        ("body", "ok"),
        ("wrong-body", "http_body"),
        ("wrong-status", "http_status=200"),
    ] {
        assert_eq!(reason(name, &arguments), expected, "{name}");
    }
    // By what the server shows it is known again elsewhere.
    let shown = probe("good", &arguments)["shown"].clone();
    let pem = dir.path().join("good.pem");
    let openssl = Command::new("openssl")
        .args(["x509", "-noout", "-fingerprint", "-sha256", "-in"])
        .arg(pem)
        .output()
        .expect("openssl runs");
    let text = String::from_utf8(openssl.stdout).expect("text");
    let (_, hash) = text.trim().split_once('=').expect("a fingerprint");
    let hash = hash.replace(':', "").to_lowercase();
    assert_eq!(shown, serde_json::json!([format!("certificate {hash}")]));
    // Without the office's own authority it is nobody's certificate; and plain HTTP is no TLS.
    assert_eq!(reason(&good, &[]), "tls_untrusted");
    let plain = serve(Some(b"HTTP/1.1 200 OK\r\n\r\n"));
    assert_eq!(reason(&format!("https://{plain}/"), &[]), "tls_failed");
}

/// A dnsmasq that knows `ok.test`, and that nothing else of `test` exists; ended with the test.
struct Dnsmasq(Child);

impl Drop for Dnsmasq {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Starts one on a port that is free when it is looked at; none if somebody else took it meanwhile, over UDP or TCP.
async fn start_dnsmasq() -> Option<(Dnsmasq, u16)> {
    // Bound once, then left to dnsmasq, which cannot choose by itself.
    let port = UdpSocket::bind("127.0.0.1:0")
        .and_then(|s| s.local_addr())
        .expect("an address")
        .port();
    let dnsmasq = Command::new("dnsmasq")
        .args([
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--no-resolv",
            "--no-hosts",
            "--pid-file=",
        ])
        .args([
            "--listen-address=127.0.0.1",
            "--bind-interfaces",
            "--local=/test/",
            "--address=/ok.test/192.0.2.1",
        ])
        .arg(format!("--port={port}"))
        .stderr(Stdio::null())
        .spawn()
        .expect("dnsmasq is installed (Debian: dnsmasq-base)");
    let mut dnsmasq = Dnsmasq(dnsmasq);
    let name = format!("dns://127.0.0.1:{port}/ok.test");
    for _ in 0..50 {
        if reason(&name, &["--timeout", "500ms"]) == "ok" {
            return Some((dnsmasq, port));
        }
        if dnsmasq.0.try_wait().expect("can be asked").is_some() {
            return None;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    None
}

#[test]
fn dns() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let started = eventually("dnsmasq answers", Duration::from_secs(30), start_dnsmasq);
    let (_dnsmasq, port) = runtime.block_on(started);
    let server = format!("dns://127.0.0.1:{port}");
    assert_eq!(
        reason(&format!("{server}/nothing.test"), &[]),
        "dns_nxdomain"
    );
    // It knows no server to ask for other names.
    assert_eq!(reason(&format!("{server}/example.com"), &[]), "dns_error");
    assert_eq!(reason("dns://127.0.0.1:1/ok.test", &[]), "refused");
    let silent = UdpSocket::bind("127.0.0.1:0").expect("binds");
    let silent = silent
        .local_addr()
        .map(|address| (silent, address))
        .expect("an address");
    assert_eq!(
        reason(
            &format!("dns://{}/ok.test", silent.1),
            &["--timeout", "300ms"]
        ),
        "timeout"
    );
    let garbage = UdpSocket::bind("127.0.0.1:0").expect("binds");
    let address = garbage.local_addr().expect("an address");
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((_, from)) = garbage.recv_from(&mut buffer) {
            garbage.send_to(b"no dns", from).ok();
        }
    });
    assert_eq!(
        reason(&format!("dns://{address}/ok.test"), &[]),
        "dns_error"
    );
}

/// As an ordinary user in a fresh network namespace, where the system gives nobody the right to ping: the agent says what
/// to do, and doing exactly that helps.
#[test]
fn ping_without_root() {
    let Some(mut net) = Net::new() else { return };
    net.host("pc");
    net.move_to("pc");
    let as_nobody = |target: &str| {
        let output = Command::new("setpriv")
            .args([
                "--reuid=65534",
                "--regid=65534",
                "--clear-groups",
                "--inh-caps=-all",
                "--bounding-set=-all",
            ])
            .arg(program("denyut-agent"))
            .args(["probe", "--json", target])
            .output()
            .expect("runs");
        serde_json::from_slice::<Value>(&output.stdout).expect("JSON")
    };
    let refused = as_nobody("icmp://127.0.0.1");
    assert_eq!(refused["failure"], "not_permitted", "{refused}");
    let fix = refused["fix"].as_str().expect("a fix");
    for way in ["setcap cap_net_raw+ep ", "AmbientCapabilities=CAP_NET_RAW"] {
        assert!(fix.contains(way), "{fix}");
    }
    let command = fix
        .split('`')
        .find(|part| part.starts_with("sysctl "))
        .expect("a command");
    let done = Command::new("sh")
        .args(["-c", command])
        .stdout(Stdio::null())
        .status()
        .expect("runs");
    assert!(done.success(), "{command}");
    let answered = as_nobody("icmp://127.0.0.1");
    assert_eq!(answered["failure"], Value::Null, "{answered}");
}

/// The agent starts without any network, and follows the gateway: none, one, another, none.
#[test]
fn the_gateway_is_found_and_followed() {
    let Some(mut net) = Net::new() else { return };
    for host in ["pc", "one", "two"] {
        net.host(host);
    }
    net.on("pc", "ip link set lo down");
    let agent = Agent::start(
        Some(&net.name("pc")),
        "agent = \"a-1\"\nheartbeat = \"1s\"\n[collector]\naddresses = [\"http://127.0.0.1:7443\"]\n\
         [[target]]\nname = \"gateway\"\nrole = \"gateway\"\nprobe = \"gateway\"\ninterval = \"1s\"\ntimeout = \"500ms\"\n",
    );
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let sees = |gateway: &str, failure: Value| {
        let look = || async {
            let status = agent.status()?;
            (status["gateway"] == gateway
                && status["targets"][0]["failure"] == failure
                && !status["targets"][0]["last_ms"].is_null())
            .then_some(())
        };
        runtime.block_on(eventually(
            &format!("gateway {gateway}: {failure}"),
            Duration::from_secs(15),
            look,
        ));
    };
    sees("none", "no_gateway".into());
    for (n, router) in [(1, "one"), (2, "two")] {
        net.cable(("pc", &format!("eth{n}")), (router, "eth0"));
        net.on("pc", &format!("ip addr add 10.8.{n}.2/24 dev eth{n}"));
        net.on(router, &format!("ip addr add 10.8.{n}.1/24 dev eth0"));
    }
    net.on("pc", "ip route add default via 10.8.1.1");
    sees("10.8.1.1", Value::Null);
    net.on("pc", "ip route replace default via 10.8.2.1");
    sees("10.8.2.1", Value::Null);
    net.on("pc", "ip link set eth2 down");
    sees("none", "no_gateway".into());
    let status = agent.status().expect("answers");
    assert_eq!(status["spool"]["dropped"], 0, "{status}");
    assert!(
        status["spool"]["next"]
            .as_u64()
            .is_some_and(|next| next > 5),
        "{status}"
    );
}

/// Dead hosts and rejecting routers, through both kinds of ICMP socket: never an answer.
#[test]
fn ping_of_the_dead_is_never_answered() {
    let Some(mut net) = Net::new() else { return };
    for host in ["pc", "router"] {
        net.host(host);
    }
    net.cable(("pc", "eth0"), ("router", "eth0"));
    net.on("pc", "ip addr add 10.8.0.2/24 dev eth0");
    net.on("router", "ip addr add 10.8.0.1/24 dev eth0");
    net.on("pc", "ip route add default via 10.8.0.1");
    net.on("router", "sysctl -qw net.ipv4.ip_forward=1");
    net.on("router", "sysctl -qw net.ipv4.icmp_ratelimit=0");
    net.on("router", "ip route add unreachable 203.0.113.0/24");
    net.on("router", "ip route add prohibit 198.51.100.0/24");
    net.move_to("pc");
    for (kind, groups, rejected) in [
        ("datagram", "0 0", "timeout"),
        ("raw", "1 0", "host_unreachable"),
    ] {
        net.on("pc", "ip link set eth0 up");
        net.on("router", "ip link set eth0 up");
        // This thread's own namespace is behind the path.
        std::fs::write("/proc/sys/net/ipv4/ping_group_range", groups).expect("writes");
        let slow = ["--timeout", "5s"];
        assert_eq!(reason("icmp://10.8.0.1", &slow), "ok", "{kind}");
        assert_eq!(reason("icmp://127.0.0.1", &slow), "ok", "{kind}");
        // On a datagram socket the error is not seen; on a raw one it says more than a timeout.
        assert_eq!(
            reason("icmp://203.0.113.9", &["--timeout", "500ms"]),
            rejected,
            "{kind}"
        );
        assert_eq!(
            reason("icmp://198.51.100.9", &["--timeout", "500ms"]),
            rejected,
            "{kind}"
        );
        net.on("router", "ip link set eth0 down");
        let dead = reason("icmp://10.8.0.1", &slow);
        assert!(
            ["timeout", "host_unreachable", "network_unreachable"].contains(&dead.as_str()),
            "{kind}: {dead}"
        );
        net.on("pc", "ip link set eth0 down");
        assert_eq!(
            reason("icmp://10.8.0.1", &slow),
            "network_unreachable",
            "{kind}"
        );
        net.on("pc", "ip link set eth0 up");
        net.on("pc", "ip route add default via 10.8.0.1");
    }
}

/// A PC behind two routers, and a host behind these: pc – near – far – host.
fn chain(net: &mut Net) {
    for host in ["pc", "near", "far", "host"] {
        net.host(host);
    }
    net.cable(("pc", "eth0"), ("near", "lan"));
    net.cable(("near", "wan"), ("far", "lan"));
    net.cable(("far", "wan"), ("host", "eth0"));
    for (host, interface, address) in [
        ("pc", "eth0", "10.8.0.2/24"),
        ("near", "lan", "10.8.0.1/24"),
        ("near", "wan", "10.9.0.2/24"),
        ("far", "lan", "10.9.0.1/24"),
        ("far", "wan", "203.0.113.1/24"),
        ("host", "eth0", "203.0.113.9/24"),
    ] {
        net.on(host, &format!("ip addr add {address} dev {interface}"));
    }
    for (host, route) in [
        ("pc", "default via 10.8.0.1"),
        ("near", "default via 10.9.0.1"),
        ("far", "10.8.0.0/24 via 10.9.0.2"),
        ("host", "default via 203.0.113.1"),
    ] {
        net.on(host, &format!("ip route add {route}"));
    }
    for router in ["near", "far"] {
        net.on(router, "sysctl -qw net.ipv4.ip_forward=1");
    }
}

/// Who answers on the way to a target that fails, and how the way ends; by somebody who may not even ping.
#[test]
fn the_way_to_a_target_that_fails() {
    let Some(mut net) = Net::new() else { return };
    chain(&mut net);
    net.move_to("pc");
    // A firewall's rejection comes from the host, and nobody listens on the port: the network is well up to it.
    let way_after = |timeout: &str, target: &str| {
        let output = Command::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .args(["--inh-caps=-all", "--bounding-set=-all"])
            .arg(program("denyut-agent"))
            .args(["probe", "--json", "--timeout", timeout, target])
            .output()
            .expect("runs");
        let answer: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert!(!answer["failure"].is_null(), "{answer}");
        let hops = answer["path"]["hops"].as_array().cloned();
        let hops = hops.unwrap_or_else(|| {
            panic!(
                "no path: {answer} {}",
                String::from_utf8_lossy(&output.stderr)
            )
        });
        let text = |hop: &Value| {
            if hop.is_null() {
                return "-".to_owned();
            }
            assert!(hop["rtt_us"].as_u64() > Some(0), "{answer}");
            format!(
                "{} {}",
                hop["from"].as_str().expect("an address"),
                hop["said"].as_str().expect("a word")
            )
        };
        hops.iter().map(text).collect::<Vec<_>>()
    };
    let way = |target: &str| way_after("500ms", target);
    let far = "tcp://203.0.113.9:9";
    let routers = ["10.8.0.1 passed", "10.9.0.1 passed"];
    assert_eq!(way(far), [&routers[..], &["203.0.113.9 arrived"]].concat());
    // A router that says nothing of itself is a gap and not the end.
    net.nft(
        "near",
        "table ip t { chain out { type filter hook output priority 0; icmp type time-exceeded drop; }; }",
    );
    assert_eq!(way(far), ["-", routers[1], "203.0.113.9 arrived"]);
    net.nft("near", "delete table ip t");
    // It takes what is sent and passes nothing on.
    net.nft(
        "far",
        "table ip t { chain pass { type filter hook forward priority 0; drop; }; }",
    );
    assert_eq!(way(far), routers);
    net.nft("far", "delete table ip t");
    net.on("far", "ip link set wan down");
    assert_eq!(way(far), [routers[0], "10.9.0.1 no_way"]);
    net.on("near", "ip link set wan down");
    assert_eq!(way(far), ["10.8.0.1 no_way"]);
    net.on("near", "ip link set lan down");
    // While the system still looks for the router and after it gave up, which it says in this machine's name.
    for timeout in ["500ms", "1500ms", "2500ms"] {
        assert_eq!(way_after(timeout, far), Vec::<String>::new());
    }
    net.on("pc", "ip link set eth0 down");
    assert_eq!(way(far), Vec::<String>::new());
}
