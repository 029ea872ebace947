//! What is wrong between this machine and its collector, step by step, in plain words, each with what to do.
//!
//! A step is asked only when what it rests on is well, so that one cause is one complaint. Nothing is changed, and the running agent is not
//! disturbed: whether the collector takes it, it tells itself.

use crate::config::{Config, Named};
use crate::connect::{self, CONNECT_TIMEOUT};
use crate::identity::Identity;
use crate::status::Status;
use crate::stream::REFUSES;
use crate::{machine, probe, status, system};
use anyhow::Context;
use denyut_proto::UnixMillis;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde::Serialize;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use tokio::net::{TcpStream, UdpSocket, lookup_host};
use tokio_rustls::TlsConnector;
use tonic::transport::Uri;

/// Which language is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Language {
    /// Bahasa Indonesia
    Id,
    /// English
    En,
}

const SILENT: &str = "no answer to the greeting";
/// A clock that is off by more than this is wrong.
const CLOCK_OFF_MS: u64 = 60_000;

/// What became of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Well,
    Wrong,
    /// What it rests on is not well.
    NotAsked,
}

/// One step, in words.
#[derive(Debug, Serialize)]
struct Finding {
    step: &'static str,
    verdict: Verdict,
    text: String,
    fix: Option<String>,
}

/// All texts of one language, by key.
struct Catalogue(BTreeMap<String, String>);

impl Catalogue {
    fn of(language: Language) -> anyhow::Result<Self> {
        let text = match language {
            Language::Id => include_str!("doctor/id.json"),
            Language::En => include_str!("doctor/en.json"),
        };
        Ok(Self(serde_json::from_str(text).context("the catalogue")?))
    }

    /// The text of a key, with what stands for its `{names}`.
    fn say(&self, key: &str, values: &[(&str, &str)]) -> String {
        let text = self.0.get(key).map_or(key, String::as_str);
        let put = |text: String, (name, value): &(&str, &str)| {
            text.replace(&format!("{{{name}}}"), value)
        };
        values.iter().fold(text.to_owned(), put)
    }
}

/// What was found so far.
struct Report {
    catalogue: Catalogue,
    findings: Vec<Finding>,
}

impl Report {
    fn well(&mut self, step: &'static str, key: &str, values: &[(&str, &str)]) {
        let text = self.catalogue.say(key, values);
        self.add(step, Verdict::Well, text, None);
    }

    /// `key` is what is wrong, `fix` what to do.
    fn wrong(&mut self, step: &'static str, key: &str, fix: &str, values: &[(&str, &str)]) {
        let (text, fix) = (
            self.catalogue.say(key, values),
            self.catalogue.say(fix, values),
        );
        self.add(step, Verdict::Wrong, text, Some(fix));
    }

    /// These steps rest on one that is not well.
    fn not_asked(&mut self, steps: &[&'static str], first: &str) {
        for step in steps {
            let first = self.catalogue.say(&format!("step.{first}"), &[]);
            let text = self.catalogue.say("not_asked", &[("step", &first)]);
            self.add(step, Verdict::NotAsked, text, None);
        }
    }

    fn add(&mut self, step: &'static str, verdict: Verdict, text: String, fix: Option<String>) {
        self.findings.push(Finding {
            step,
            verdict,
            text,
            fix,
        });
    }

    fn is_well(&self) -> bool {
        self.findings
            .iter()
            .all(|one| one.verdict != Verdict::Wrong)
    }

    fn for_people(&self) -> String {
        let name_of = |one: &Finding| self.catalogue.say(&format!("step.{}", one.step), &[]);
        let names: Vec<String> = self.findings.iter().map(name_of).collect();
        let lengths = names.iter().map(|name| name.chars().count());
        let width = lengths.max().unwrap_or(0);
        let mut lines = Vec::new();
        for (one, name) in self.findings.iter().zip(&names) {
            let mark = match one.verdict {
                Verdict::Well => '✓',
                Verdict::Wrong => '✗',
                Verdict::NotAsked => '·',
            };
            let text = one.text.trim_end().replace('\n', "\n    ");
            lines.push(format!("{mark} {name:width$}  {text}"));
            if let Some(fix) = &one.fix {
                lines.push(format!("  → {}: {fix}", self.catalogue.say("fix", &[])));
            }
        }
        let end = if self.is_well() {
            "all_well"
        } else {
            "problems"
        };
        lines.push(format!("\n{}", self.catalogue.say(end, &[])));
        lines.join("\n")
    }
}

/// Looks at everything; prints what it found, and returns whether nothing is wrong.
pub(crate) async fn examine(path: &Path, language: Language, json: bool) -> anyhow::Result<bool> {
    let mut report = Report {
        catalogue: Catalogue::of(language)?,
        findings: Vec::new(),
    };
    look(&mut report, path).await;
    if json {
        println!("{}", serde_json::to_string(&report.findings)?);
    } else {
        println!("{}", report.for_people());
    }
    Ok(report.is_well())
}

async fn look(report: &mut Report, path: &Path) {
    let config = match Config::load_to_run(path) {
        Ok(config) => config,
        Err(error) => {
            let error = format!("{error:#}");
            report.wrong("config", "config.wrong", "config.fix", &[("error", &error)]);
            let rest = [
                "service", "identity", "clock", "name", "route", "port", "tls", "accepted", "disk",
            ];
            report.not_asked(&rest, "config");
            return look_at_ping(report);
        }
    };
    let shown = path.display().to_string();
    report.well("config", "config", &[("path", &shown)]);
    let running = look_at_service(report, &config).await;
    let who = look_at_identity(report, &config);
    look_at_both(report, who.as_ref(), running.as_ref());
    look_at_clock(report, who.as_ref(), running.as_ref());
    match who
        .as_ref()
        .and_then(|who| Some((who, who.collector(running.as_ref())?)))
    {
        None => report.not_asked(&["name", "route", "port", "tls", "accepted"], "identity"),
        Some((who, uri)) => match look_at_way(report, who, &uri).await {
            Ok(()) => look_at_membership(report, running.as_ref()),
            Err(first) => report.not_asked(&["accepted"], first),
        },
    }
    match running.as_ref().and_then(|status| status.spool.as_ref()) {
        // Before it has joined it keeps nothing.
        None if running.is_some() => report.not_asked(&["disk"], "identity"),
        None => report.not_asked(&["disk"], "service"),
        Some(spool) => {
            let folder = config.data_dir.join("spool").display().to_string();
            let waiting = (spool.next - 1).saturating_sub(spool.acked).to_string();
            let dropped = spool.dropped.to_string();
            let values = [
                ("folder", folder.as_str()),
                ("waiting", &waiting),
                ("dropped", &dropped),
            ];
            if spool.dropped == 0 {
                report.well("disk", "disk", &values);
            } else {
                report.wrong("disk", "disk.lost", "disk.fix", &values);
            }
        }
    }
    look_at_ping(report);
}

async fn look_at_service(report: &mut Report, config: &Config) -> Option<Status> {
    let asked = status::ask(&config.data_dir).await;
    match asked.and_then(Status::read) {
        Ok(document) => {
            report.well("service", "service", &[("version", &document.version)]);
            Some(document)
        }
        Err(error) => {
            // The system's own words; ours are in the catalogue.
            let error = error.root_cause().to_string();
            report.wrong(
                "service",
                "service.not",
                "service.fix",
                &[("error", &error)],
            );
            None
        }
    }
}

/// Who the agent is.
enum Who {
    Named(Named),
    Joined(Identity),
}

impl Who {
    fn agent(&self) -> &str {
        match self {
            Self::Named(named) => named.agent.as_str(),
            Self::Joined(identity) => identity.agent.as_str(),
        }
    }

    /// The collector that it speaks with, else the first of them.
    fn collector(&self, running: Option<&Status>) -> Option<Uri> {
        let connection = running.map(|status| &status.connection);
        let connected = connection.filter(|connection| connection.connected);
        if let Some(uri) = connected.and_then(|it| it.collector.as_ref()?.parse().ok()) {
            return Some(uri);
        }
        match self {
            Self::Named(named) => named.collectors.first().cloned(),
            Self::Joined(identity) => identity.uri().ok(),
        }
    }

    fn tls(&self) -> anyhow::Result<Arc<ClientConfig>> {
        match self {
            Self::Named(named) => {
                let files = named.tls.as_ref().context("no files for TLS are named")?;
                let (trust, shown) = files.load()?;
                connect::tls(trust, Some(shown))
            }
            Self::Joined(identity) => connect::tls_as(identity, !identity.is_over()),
        }
    }
}

fn look_at_identity(report: &mut Report, config: &Config) -> Option<Who> {
    if let Some(named) = &config.named {
        report.well(
            "identity",
            "identity.named",
            &[("agent", named.agent.as_str())],
        );
        return Some(Who::Named(named.clone()));
    }
    match Identity::read(&config.data_dir) {
        Ok(Some(identity)) => {
            let until = identity.until.to_string();
            let values = [
                ("agent", identity.agent.as_str()),
                ("until", until.as_str()),
            ];
            let key = if identity.is_over() {
                "identity.over"
            } else {
                "identity"
            };
            report.well("identity", key, &values);
            Some(Who::Joined(identity))
        }
        Ok(None) => {
            report.wrong("identity", "identity.none", "identity.fix", &[]);
            None
        }
        Err(error) => {
            let error = format!("{error:#}");
            let values = [("error", error.as_str())];
            report.wrong(
                "identity",
                "identity.unreadable",
                "identity.unreadable.fix",
                &values,
            );
            None
        }
    }
}

/// Whether the service runs as who this machine is.
fn look_at_both(report: &mut Report, who: Option<&Who>, running: Option<&Status>) {
    if let (Some(who), Some(status)) = (who, running)
        && !status.agent.is_empty()
        && status.agent != who.agent()
    {
        let values = [("running", status.agent.as_str()), ("agent", who.agent())];
        report.findings.retain(|one| one.step != "service");
        report.wrong("service", "service.other", "service.other.fix", &values);
    }
}

fn look_at_clock(report: &mut Report, who: Option<&Who>, running: Option<&Status>) {
    let now = machine::wall();
    let now_text = now.to_string();
    let offset = running.and_then(|status| status.connection.clock_offset_ms);
    let certified = match who {
        Some(Who::Joined(identity)) => Some(identity.from),
        _ => None,
    };
    let before = |from: UnixMillis| now.0.saturating_add_unsigned(CLOCK_OFF_MS) < from.0;
    if let Some(offset) = offset {
        let is_off = offset.unsigned_abs() > CLOCK_OFF_MS;
        let offset = (offset.unsigned_abs().div_ceil(1_000)).to_string();
        let values = [("offset", offset.as_str()), ("now", now_text.as_str())];
        if is_off {
            report.wrong("clock", "clock.off", "clock.fix", &values);
        } else {
            report.well("clock", "clock", &values);
        }
    } else if let Some(from) = certified.filter(|from| before(*from)) {
        let from = from.to_string();
        let values = [("now", now_text.as_str()), ("from", from.as_str())];
        report.wrong("clock", "clock.past", "clock.fix", &values);
    } else {
        report.well("clock", "clock.unknown", &[("now", &now_text)]);
    }
}

/// Name, route, port and TLS; an error is the step by which the collector is not reached.
async fn look_at_way(report: &mut Report, who: &Who, uri: &Uri) -> Result<(), &'static str> {
    let (host, port) = (
        uri.host().unwrap_or_default(),
        uri.port_u16().unwrap_or_default(),
    );
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let Some(address) = look_at_name(report, bare, port).await else {
        report.not_asked(&["route", "port", "tls"], "name");
        return Err("name");
    };
    if !look_at_route(report, address).await {
        report.not_asked(&["port", "tls"], "route");
        return Err("route");
    }
    let shown = address.to_string();
    let port = port.to_string();
    let connected = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await;
    let stream = match connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
        Ok(stream) => stream,
        Err(error) => {
            let refused = error.kind() == io::ErrorKind::ConnectionRefused;
            let error = error.to_string();
            let values = [
                ("address", shown.as_str()),
                ("port", &port),
                ("error", &error),
            ];
            if refused {
                report.wrong("port", "port.refused", "port.refused.fix", &values);
            } else {
                report.wrong("port", "port.silent", "port.fix", &values);
            }
            report.not_asked(&["tls"], "port");
            return Err("port");
        }
    };
    report.well("port", "port", &[("address", &shown)]);
    if uri.scheme_str() != Some("https") {
        report.well("tls", "tls.plain", &[]);
        return Ok(());
    }
    let shake_hands = async {
        let name = ServerName::try_from(bare.to_owned())?;
        let connector = TlsConnector::from(who.tls()?);
        let hands = connector.connect(name, stream);
        let shaken = tokio::time::timeout(CONNECT_TIMEOUT, hands).await;
        shaken.context(SILENT)??;
        anyhow::Ok(())
    };
    if let Err(error) = shake_hands.await {
        let error = format!("{error:#}");
        let (key, fix) = if error.contains("not valid for name") {
            ("tls.name", "tls.name.fix")
        } else if error.contains("InvalidContentType") {
            ("tls.port", "tls.port.fix")
        } else if error.contains(SILENT) {
            ("tls.silent", "tls.silent.fix")
        } else {
            ("tls.not", "tls.fix")
        };
        report.wrong("tls", key, fix, &[("error", &error)]);
        return Err("tls");
    }
    report.well("tls", "tls", &[]);
    Ok(())
}

async fn look_at_name(report: &mut Report, host: &str, port: u16) -> Option<SocketAddr> {
    if let Ok(ip) = host.parse() {
        report.well("name", "name.literal", &[("address", host)]);
        return Some(SocketAddr::new(ip, port));
    }
    let found = tokio::time::timeout(CONNECT_TIMEOUT, lookup_host((host, port))).await;
    let found = found.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    let error = match found.map(|mut all| all.next()) {
        Ok(Some(address)) => {
            let ip = address.ip().to_string();
            report.well("name", "name", &[("host", host), ("address", &ip)]);
            return Some(address);
        }
        Ok(None) => "-".to_owned(),
        Err(error) => error.to_string(),
    };
    let values = [("host", host), ("error", error.as_str())];
    report.wrong("name", "name.unknown", "name.fix", &values);
    None
}

async fn look_at_route(report: &mut Report, to: SocketAddr) -> bool {
    let any: SocketAddr = if to.is_ipv4() {
        (std::net::Ipv4Addr::UNSPECIFIED, 0).into()
    } else {
        (std::net::Ipv6Addr::UNSPECIFIED, 0).into()
    };
    // Nothing is sent: the system only says by which way it would be.
    let local = async {
        let socket = UdpSocket::bind(any).await?;
        socket.connect(to).await?;
        socket.local_addr()
    };
    match local.await {
        Ok(local) => {
            let local = local.ip().to_string();
            let gateway = system::default_gateway().map(|found| found.address.to_string());
            let gateway = gateway.unwrap_or_else(|| "-".to_owned());
            report.well(
                "route",
                "route",
                &[("local", &local), ("gateway", &gateway)],
            );
            true
        }
        Err(error) => {
            let error = error.to_string();
            report.wrong("route", "route.none", "route.fix", &[("error", &error)]);
            false
        }
    }
}

fn look_at_membership(report: &mut Report, running: Option<&Status>) {
    let Some(status) = running else {
        let text = report.catalogue.say("accepted.unknown", &[]);
        return report.add("accepted", Verdict::NotAsked, text, None);
    };
    let connection = &status.connection;
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    if connection.connected {
        let office = format!(
            "{} {}",
            or_dash(&connection.office),
            or_dash(&connection.office_name)
        );
        let since = connection
            .since_ms
            .map(|since| since.to_string())
            .unwrap_or_default();
        let values = [
            ("agent", status.agent.as_str()),
            ("office", &office),
            ("since", &since),
        ];
        report.well("accepted", "accepted", &values);
    } else {
        let error = or_dash(&connection.last_error);
        let values = [("error", error.as_str())];
        if error.starts_with(REFUSES) {
            report.wrong("accepted", "accepted.not", "accepted.fix", &values);
        } else {
            // The way there is good by now.
            let text = report.catalogue.say("accepted.soon", &values);
            report.add("accepted", Verdict::NotAsked, text, None);
        }
    }
}

fn look_at_ping(report: &mut Report) {
    match probe::icmp_permission() {
        None => report.well("ping", "ping", &[]),
        Some(fix) => {
            let text = report.catalogue.say("ping.not", &[]);
            report.add("ping", Verdict::Wrong, text, Some(fix));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// The `{names}` of a text.
    fn names(text: &str) -> BTreeSet<&str> {
        let parts = text.split('{').skip(1);
        parts
            .filter_map(|part| part.split_once('}'))
            .map(|(name, _)| name)
            .collect()
    }

    #[test]
    fn both_languages_say_the_same() {
        let [id, en] = [Language::Id, Language::En].map(|l| Catalogue::of(l).expect("reads").0);
        assert!(id.keys().eq(en.keys()));
        for (key, text) in &id {
            assert_eq!(names(text), names(&en[key]), "{key}");
        }
    }

    #[test]
    fn a_key_that_is_asked_for_is_there() {
        let source = include_str!("doctor.rs");
        let known = Catalogue::of(Language::En).expect("reads").0;
        let steps = known.keys().filter_map(|key| key.strip_prefix("step."));
        let steps: BTreeSet<&str> = steps.collect();
        for word in source.split('"').skip(1).step_by(2) {
            let first = word.split('.').next().unwrap_or_default();
            if steps.contains(first) && !word.contains([' ', '{']) {
                let is_step = steps.contains(word);
                assert!(is_step || known.contains_key(word), "{word}");
            }
        }
    }
}
