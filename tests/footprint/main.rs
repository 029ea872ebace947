//! footprint: what the agent takes of a machine and of its line, beside other products' agents that do the same work in the same run.
//!
//! Six TCP targets, one probe each every 10 s. Each agent stands in an office of its own: a network namespace with one interface to the
//! center, whose counters are the figure, and another to the targets. Our agent is measured twice, in an office that is open and in one that is
//! closed, from one batch to another; a day is eight hours of the first and sixteen of the second. The others are asked by plaintext, as their
//! servers would: what TLS would add to theirs is not in the figures.

use anyhow::{Context, bail, ensure};
use clap::Parser;
use denyut_tests::net::Net;
use nix::unistd::{SysconfVar, sysconf};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Measures the agent's memory, time and traffic beside Zabbix agent 2 and blackbox_exporter
#[derive(Parser)]
struct Arguments {
    /// The agent to measure
    #[arg(long)]
    agent: PathBuf,
    /// The collector it reports to
    #[arg(long)]
    collector: PathBuf,
    /// At least so long, and then to the next batch
    #[arg(long, default_value_t = 60)]
    minutes: u64,
    /// The results as JSON
    #[arg(long, default_value = "target/footprint.json")]
    json: PathBuf,
}

const TARGETS: u16 = 6;
const EVERY: Duration = Duration::from_secs(10);
/// Whose office has which number.
const OPEN: u8 = 0;
const CLOSED: u8 = 1;
const ZABBIX: u8 = 2;
const BLACKBOX: u8 = 3;

/// A child that ends with its owner.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// What a process took, and its office's interface carried, so far.
#[derive(Clone, Copy)]
struct Taken {
    at: Instant,
    cpu_s: f64,
    bytes: u64,
}

/// One line of the table.
struct Figure {
    name: &'static str,
    rss_mb: f64,
    core_percent: f64,
    kb_per_day: f64,
}

fn office(n: u8) -> String {
    format!("office{n}")
}

fn target(n: u8, which: u16) -> SocketAddr {
    (Ipv4Addr::new(10, 97, n, 1), 1_000 + which).into()
}

fn build_net() -> anyhow::Result<Net> {
    let mut net = Net::new().context("this machine cannot make network namespaces (not root?)")?;
    net.host("center");
    net.host("targets");
    for n in 0..4 {
        let host = office(n);
        net.host(&host);
        for (cable, other, prefix) in [("wan", "center", 98), ("lan", "targets", 97)] {
            net.cable((&host, cable), (other, &format!("{cable}{n}")));
            net.on(
                &host,
                &format!("ip addr add 10.{prefix}.{n}.2/24 dev {cable}"),
            );
            net.on(
                other,
                &format!("ip addr add 10.{prefix}.{n}.1/24 dev {cable}{n}"),
            );
            // Only what the agents say: no router is looked for, and neighbours need not ask for each other.
            let ends = [
                (host.as_str(), cable.to_owned(), 2),
                (other, format!("{cable}{n}"), 1),
            ];
            for [here, there] in [[&ends[0], &ends[1]], [&ends[1], &ends[0]]] {
                let address = format!("/sys/class/net/{}/address", there.1);
                let card = run(&net, there.0, &["cat", &address])?;
                let neighbour = format!("10.{prefix}.{n}.{} lladdr {}", there.2, card.trim());
                let line = format!("ip neigh replace {neighbour} dev {} nud permanent", here.1);
                net.on(here.0, &line);
            }
            net.on(
                &host,
                &format!("sysctl -qw net.ipv6.conf.{cable}.disable_ipv6=1"),
            );
            net.on(
                other,
                &format!("sysctl -qw net.ipv6.conf.{cable}{n}.disable_ipv6=1"),
            );
        }
    }
    Ok(net)
}

/// Each target takes every connection, for ever.
fn serve_targets(net: &Net) -> anyhow::Result<()> {
    for n in 0..4 {
        for which in 0..TARGETS {
            let listener = net.within("targets", || TcpListener::bind(target(n, which)))?;
            std::thread::spawn(move || while listener.accept().is_ok() {});
        }
    }
    Ok(())
}

fn start(net: &Net, host: &str, line: &[&str], log: &Path) -> anyhow::Result<Running> {
    let log = fs::File::create(log)?;
    let mut command = Command::new("ip");
    command.args(["netns", "exec", &net.name(host)]).args(line);
    let child = command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("cannot start {line:?}"))?;
    Ok(Running(child))
}

/// Runs to its end; what it wrote to its standard output.
fn run(net: &Net, host: &str, line: &[&str]) -> anyhow::Result<String> {
    let mut command = Command::new("ip");
    let output = command
        .args(["netns", "exec", &net.name(host)])
        .args(line)
        .output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        output.status.success(),
        "{line:?}: {said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(said)
}

fn taken(net: &Net, n: u8, process: &Running) -> anyhow::Result<Taken> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", process.0.id()))?;
    let rest = stat.rsplit(") ").next().context("no stat")?;
    let field = |at: usize| -> anyhow::Result<f64> {
        Ok(rest.split(' ').nth(at).context("no field")?.parse()?)
    };
    #[allow(clippy::cast_precision_loss, reason = "a hundred")]
    let ticks = sysconf(SysconfVar::CLK_TCK)?.context("no clock ticks")? as f64;
    let count = |what: &str| -> anyhow::Result<u64> {
        let path = format!("/sys/class/net/wan/statistics/{what}_bytes");
        Ok(run(net, &office(n), &["cat", &path])?.trim().parse()?)
    };
    Ok(Taken {
        at: Instant::now(),
        cpu_s: (field(11)? + field(12)?) / ticks,
        bytes: count("rx")? + count("tx")?,
    })
}

fn rss_mb(process: &Running) -> anyhow::Result<f64> {
    let status = fs::read_to_string(format!("/proc/{}/status", process.0.id()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kb: f64 = line
        .context("no VmRSS")?
        .trim()
        .trim_end_matches(" kB")
        .parse()?;
    Ok(kb / 1024.0)
}

#[allow(clippy::cast_precision_loss, reason = "bytes of an hour")]
fn figure(name: &'static str, process: &Running, from: Taken, to: Taken) -> anyhow::Result<Figure> {
    let seconds = (to.at - from.at).as_secs_f64();
    Ok(Figure {
        name,
        rss_mb: rss_mb(process)?,
        core_percent: (to.cpu_s - from.cpu_s) / seconds * 100.0,
        kb_per_day: (to.bytes - from.bytes) as f64 / seconds * 86_400.0 / 1_000.0,
    })
}

/// The collector, and our agents in the two offices, joined.
fn start_ours(net: &Net, arguments: &Arguments, dir: &Path) -> anyhow::Result<[Running; 3]> {
    let path = |name: &str| dir.join(name);
    let text = |path: &Path| path.display().to_string();
    // Open on one day in the week, which is none of these three.
    let today = run(net, "center", &["date", "-u", "+%a"])?;
    let far = if ["Thu", "Fri", "Sat"].contains(&today.trim()) {
        "Mon"
    } else {
        "Fri"
    };
    let config = format!(
        "data_dir = \"{}\"\n[ingest]\nlisten = \"0.0.0.0:7443\"\nnames = [\"10.98.0.1\", \"10.98.1.1\"]\n[api]\nlisten = \"127.0.0.1:7080\"\n\
         [[office]]\ncode = \"36.73.01\"\nname = \"Open\"\nhours = \"always\"\n\
         [[office]]\ncode = \"36.73.02\"\nname = \"Closed\"\nhours = \"{far} 08:00-08:01\"\n",
        text(&path("collector"))
    );
    fs::write(path("collector.toml"), config)?;
    let (program, config) = (text(&arguments.collector), text(&path("collector.toml")));
    let serve = [program.as_str(), "serve", "--config", &config];
    let mut all = vec![start(net, "center", &serve, &path("collector.log"))?];
    let began = Instant::now();
    let agent = text(&arguments.agent);
    let ready = [&agent, "probe", "http://127.0.0.1:7080/-/ready"];
    while let Err(error) = run(net, "center", &ready) {
        ensure!(began.elapsed() < Duration::from_secs(20), error);
        std::thread::sleep(Duration::from_millis(100));
    }
    for n in [OPEN, CLOSED] {
        let own = path(&format!("agent{n}.toml"));
        let mut config = format!("data_dir = \"{}\"\n", text(&path(&format!("agent{n}"))));
        for which in 0..TARGETS {
            let probe = target(n, which);
            let name = format!("name = \"target-{which}\"\nrole = \"server\"");
            writeln!(config, "[[target]]\n{name}\nprobe = \"tcp://{probe}\"")?;
        }
        fs::write(&own, config)?;
        let office_code = format!("36.73.0{}", n + 1);
        let create = [
            program.as_str(),
            "token",
            "create",
            "--config",
            serve[3],
            "--office",
            &office_code,
        ];
        let line = run(net, "center", &create)?;
        let invitation = line.split('\'').nth(1).context("no invitation")?;
        let invitation = invitation.replace("10.98.0.1", &format!("10.98.{n}.1"));
        let (program, own) = (text(&arguments.agent), text(&own));
        run(
            net,
            &office(n),
            &[&program, "join", &invitation, "--config", &own],
        )?;
        let line = [program.as_str(), "run", "--config", &own];
        all.push(start(
            net,
            &office(n),
            &line,
            &path(&format!("agent{n}.log")),
        )?);
    }
    let all: Result<[Running; 3], _> = all.try_into();
    all.ok().context("three")
}

/// Heartbeats that wait on the agent's disk.
fn waiting(arguments: &Arguments, dir: &Path, n: u8) -> anyhow::Result<u64> {
    let mut command = Command::new(&arguments.agent);
    let command = command.args(["status", "--json", "--config"]);
    let output = command.arg(dir.join(format!("agent{n}.toml"))).output()?;
    let status: Value = serde_json::from_slice(&output.stdout)?;
    let number = |of: &str| status["spool"][of].as_u64().context("no spool");
    Ok(number("next")? - 1 - number("acked")?)
}

/// Waits until a batch has just gone out; what was taken by then.
fn at_batch(
    net: &Net,
    arguments: &Arguments,
    dir: &Path,
    n: u8,
    process: &Running,
) -> anyhow::Result<Taken> {
    let began = Instant::now();
    let mut most = 0;
    while began.elapsed() < Duration::from_secs(3_600) {
        let waits = waiting(arguments, dir, n)?;
        most = most.max(waits);
        if most > 30 && waits < 5 {
            return taken(net, n, process);
        }
        std::thread::sleep(Duration::from_secs(1));
    }
    bail!(
        "no batch in an hour: is the agent connected? Its log is in {}",
        dir.display()
    );
}

/// Asks Zabbix agent 2 for one check, as its server does.
fn ask_zabbix(key: &str) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::new(10, 98, ZABBIX, 2), 10_050))?;
    let mut asked = b"ZBXD\x01".to_vec();
    asked.extend(u64::try_from(key.len())?.to_le_bytes());
    asked.extend(key.as_bytes());
    stream.write_all(&asked)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let text = answer.get(13..).context("no answer")?;
    Ok(String::from_utf8_lossy(text).into_owned())
}

/// Asks blackbox_exporter for one probe, as Prometheus does.
fn ask_blackbox(stream: &mut TcpStream, probe: SocketAddr) -> anyhow::Result<String> {
    write!(
        stream,
        "GET /probe?module=tcp_connect&target={probe} HTTP/1.1\r\nHost: office\r\nAccept-Encoding: gzip\r\n\r\n"
    )?;
    let mut answer = Vec::new();
    let mut part = [0; 8_192];
    loop {
        let read = stream.read(&mut part)?;
        ensure!(read > 0, "it hung up");
        answer.extend(&part[..read]);
        let text = String::from_utf8_lossy(&answer);
        let Some((head, _)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("Content-Length: "));
        let length: usize = length.context("no length")?.trim().parse()?;
        if answer.len() >= head.len() + 4 + length {
            return Ok(head.to_owned());
        }
    }
}

/// Asks both every 10 s, until the sender is gone.
fn ask_others(end: &std::sync::mpsc::Receiver<()>) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect((Ipv4Addr::new(10, 98, BLACKBOX, 2), 9_115))?;
    let mut due = Instant::now();
    loop {
        for which in 0..TARGETS {
            let at = target(ZABBIX, which);
            let answer = ask_zabbix(&format!("net.tcp.port[{},{}]", at.ip(), at.port()))?;
            ensure!(answer == "1", "Zabbix agent 2 says {answer}");
            let head = ask_blackbox(&mut stream, target(BLACKBOX, which))?;
            ensure!(
                head.starts_with("HTTP/1.1 200"),
                "blackbox_exporter says {head}"
            );
        }
        due += EVERY;
        let wait = due.saturating_duration_since(Instant::now());
        if end.recv_timeout(wait) == Err(std::sync::mpsc::RecvTimeoutError::Disconnected) {
            return Ok(());
        }
    }
}

fn start_others(net: &Net, dir: &Path) -> anyhow::Result<[Running; 2]> {
    let config = dir.join("zabbix.conf");
    let log = dir.join("zabbix.log");
    fs::write(
        &config,
        format!(
            "Server=10.98.{ZABBIX}.1\nLogFile={}\nPidFile={}\nControlSocket=\n",
            log.display(),
            dir.join("zabbix.pid").display()
        ),
    )?;
    let zabbix = start(
        net,
        &office(ZABBIX),
        &["zabbix_agent2", "-c", &config.display().to_string()],
        &dir.join("zabbix.out"),
    )?;
    let config = dir.join("blackbox.yml");
    fs::write(
        &config,
        "modules:\n  tcp_connect:\n    prober: tcp\n    timeout: 3s\n",
    )?;
    let line = format!("--config.file={}", config.display());
    let blackbox = start(
        net,
        &office(BLACKBOX),
        &["prometheus-blackbox-exporter", &line],
        &dir.join("blackbox.log"),
    )?;
    std::thread::sleep(Duration::from_secs(3));
    Ok([zabbix, blackbox])
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let dir = tempfile::tempdir()?;
    let dir = dir.path();
    let net = build_net()?;
    serve_targets(&net)?;
    let [_collector, open, closed] = start_ours(&net, &arguments, dir)?;
    let [zabbix, blackbox] = start_others(&net, dir)?;
    let (go_on, end) = std::sync::mpsc::channel();
    let figures = std::thread::scope(|scope| {
        let net = &net;
        let asking = scope.spawn(move || {
            net.move_to("center");
            ask_others(&end)
        });
        let (arguments, least) = (&arguments, Duration::from_secs(arguments.minutes * 60));
        let ours = [
            ("denyut-agent, open office", OPEN, &open),
            ("denyut-agent, closed office", CLOSED, &closed),
        ];
        let ours = ours.map(|(name, n, process)| {
            scope.spawn(move || {
                let from = at_batch(net, arguments, dir, n, process)?;
                std::thread::sleep(least);
                let to = at_batch(net, arguments, dir, n, process)?;
                figure(name, process, from, to)
            })
        });
        let others = [
            ("Zabbix agent 2", ZABBIX, &zabbix),
            ("blackbox_exporter", BLACKBOX, &blackbox),
        ];
        let from: Vec<Taken> = others
            .iter()
            .map(|(_, n, process)| taken(net, *n, process))
            .collect::<Result<_, _>>()?;
        let mut figures = Vec::new();
        for one in ours {
            figures.push(one.join().ok().context("it panicked")??);
        }
        for ((name, n, process), from) in others.into_iter().zip(from) {
            figures.push(figure(name, process, from, taken(net, n, process)?)?);
        }
        drop(go_on);
        asking.join().ok().context("it panicked")??;
        anyhow::Ok(figures)
    })?;
    report(&arguments, &figures)
}

#[allow(clippy::cast_precision_loss, reason = "megabytes")]
fn report(arguments: &Arguments, figures: &[Figure]) -> anyhow::Result<()> {
    println!(
        "{:28} {:>9} {:>12} {:>10}",
        "six TCP targets every 10 s", "RSS, MB", "of a core, %", "KB a day"
    );
    for figure in figures {
        println!(
            "{:28} {:9.1} {:12.3} {:10.0}",
            figure.name, figure.rss_mb, figure.core_percent, figure.kb_per_day
        );
    }
    let [open, closed, ..] = figures else {
        bail!("too few figures")
    };
    let day = open.kb_per_day / 3.0 + closed.kb_per_day / 1.5;
    let rss = open.rss_mb.max(closed.rss_mb);
    let core = open.core_percent.max(closed.core_percent);
    let size = fs::metadata(&arguments.agent)?.len() as f64 / 1e6;
    let mut met = true;
    let mut rows = Vec::new();
    for (name, measured, limit) in [
        (
            "KB on the wire in a day of 8 open and 16 closed hours",
            day,
            300.0,
        ),
        ("MB of memory", rss, 8.0),
        ("% of a core", core, 0.1),
        ("MB of the program", size, 8.0),
    ] {
        let verdict = if measured <= limit {
            "reached"
        } else {
            "MISSED"
        };
        met &= measured <= limit;
        println!("{name:55} {measured:8.3} of {limit:6.1}  {verdict}");
        rows.push(json!({"name": name, "measured": measured, "limit": limit}));
    }
    if let Some(folder) = arguments.json.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(&arguments.json, serde_json::to_vec_pretty(&rows)?)?;
    ensure!(met, "a limit is missed");
    Ok(())
}
