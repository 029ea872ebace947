//! The agent's configuration: what the user wrote, and what the program needs.

use crate::connect::{Shown, Trust};
use crate::system;
use crate::update::{self, Source, Updates};
use anyhow::{Context, anyhow};
use denyut_proto::{AgentId, Invalid, Target, TargetSpec, parse_duration, read_targets};
use minisign_verify::PublicKey;
use reqwest::Url;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde::Deserialize;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tonic::transport::Uri;

/// The file as written. Unknown keys are refused: a misspelt one must not be lost in silence.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    agent: Option<String>,
    data_dir: Option<PathBuf>,
    heartbeat: Option<String>,
    probe_ca: Option<PathBuf>,
    #[serde(default)]
    collector: CollectorSection,
    #[serde(default)]
    spool: SpoolSection,
    #[serde(default)]
    budget: BudgetSection,
    #[serde(default)]
    update: UpdateSection,
    #[serde(default)]
    target: Vec<TargetSpec>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct CollectorSection {
    addresses: Option<Vec<String>>,
    ca: Option<PathBuf>,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
    #[serde(default)]
    allow_plaintext_beyond_loopback: bool,
    reconnect_max: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct SpoolSection {
    max_mib: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct BudgetSection {
    kb_per_day: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct UpdateSection {
    manifest: Option<String>,
    key: Option<String>,
    ca: Option<PathBuf>,
    every: Option<String>,
    trial: Option<String>,
}

/// What the program runs by: checked, with units in the types.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    /// Where it was read from.
    pub(crate) file: PathBuf,
    /// Who the agent is, where the file says so; else it is what it joined as.
    pub(crate) named: Option<Named>,
    /// Spool, identity, last configuration from the collector, status socket.
    pub(crate) data_dir: PathBuf,
    /// The longest time between two heartbeats (1 s to 1 h).
    pub(crate) heartbeat: Duration,
    /// A certificate authority that HTTPS targets may be signed by, beside the public ones; PEM.
    pub(crate) probe_ca: Option<PathBuf>,
    /// The longest wait before the next try to connect (1 s to 10 min).
    pub(crate) reconnect_max: Duration,
    /// Bound of the spool on disk, in bytes.
    pub(crate) spool_max: u64,
    /// Bytes that it may put on the network in a day, both ways; `None` for no limit.
    pub(crate) per_day: Option<u64>,
    /// From where it keeps itself up to date; `None` if it does not.
    pub(crate) updates: Option<Updates>,
    /// The targets of this file; the collector may add to them.
    pub(crate) targets: Vec<Target>,
}

/// An agent that did not join: who keeps the collector's authority made its certificate.
#[derive(Debug, Clone)]
pub(crate) struct Named {
    pub(crate) agent: AgentId,
    /// Tried in this order, round and round, until one answers.
    pub(crate) collectors: Vec<Uri>,
    /// Present exactly when a collector is reached by https.
    pub(crate) tls: Option<TlsFiles>,
}

/// PEM files for mutual TLS with the collector.
#[derive(Debug, Clone)]
pub(crate) struct TlsFiles {
    pub(crate) ca: PathBuf,
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

impl Config {
    const DEFAULT_HEARTBEAT: Duration = Duration::from_secs(10);
    const DEFAULT_RECONNECT_MAX: Duration = Duration::from_secs(60);
    /// 64 MiB hold months of 6 targets at 10 s.
    const DEFAULT_SPOOL_MIB: u64 = 64;
    const DEFAULT_KB_PER_DAY: u64 = 500;

    /// Reads and checks the file.
    pub(crate) fn load(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the configuration {}", path.display()))?;
        let mut config = Self::parse(&text)
            .with_context(|| format!("the configuration {} is not valid", path.display()))?;
        path.clone_into(&mut config.file);
        Ok(config)
    }

    /// Reads and checks its text.
    pub(crate) fn parse(text: &str) -> anyhow::Result<Self> {
        let file: File = toml::from_str(text).map_err(|error| {
            // Its own words point at the line; what may stand there is in the example.
            let text = error.to_string();
            anyhow!(
                "{}\ncompare it with deploy/example/agent.toml",
                text.trim_end()
            )
        })?;
        Ok(Self::try_from(file)?)
    }

    /// The same for who runs the agent, and so must be able to read its key; who only asks for its status need not.
    pub(crate) fn load_to_run(path: &Path) -> anyhow::Result<Self> {
        let config = Self::load(path)?;
        if let Some(tls) = config.named.as_ref().and_then(|named| named.tls.as_ref()) {
            tls.load()
                .with_context(|| format!("the configuration {} is not valid", path.display()))?;
        }
        Ok(config)
    }
}

impl TlsFiles {
    /// Reads the files. They are read at each connection, so that renewed ones are used without a restart.
    pub(crate) fn load(&self) -> anyhow::Result<(Trust, Shown)> {
        let read = |field: &str, path: &PathBuf| {
            std::fs::read(path)
                .with_context(|| format!("`collector.{field}`: cannot read {}", path.display()))
        };
        let ca = read("ca", &self.ca)?;
        let (certificate, key) = (
            read("certificate", &self.certificate)?,
            read("key", &self.key)?,
        );
        let certificates = |field: &str, path: &PathBuf, bytes: &[u8]| {
            let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
            found
                .ok()
                .filter(|found| !found.is_empty())
                .with_context(|| {
                    format!(
                        "`collector.{field}`: {} holds no PEM certificate",
                        path.display()
                    )
                })
        };
        let authorities = certificates("ca", &self.ca, &ca)?;
        let chain = certificates("certificate", &self.certificate, &certificate)?;
        let key = PrivateKeyDer::from_pem_slice(&key).ok().with_context(|| {
            format!(
                "`collector.key`: {} holds no PEM private key",
                self.key.display()
            )
        })?;
        Ok((Trust::Authorities(authorities), (chain, key)))
    }
}

impl TryFrom<File> for Config {
    type Error = Invalid;
    fn try_from(file: File) -> Result<Self, Invalid> {
        let heartbeat = match &file.heartbeat {
            Some(text) => parse_duration("heartbeat", text)?,
            None => Self::DEFAULT_HEARTBEAT,
        };
        if heartbeat < Duration::from_secs(1) || heartbeat > Duration::from_secs(3600) {
            return Err(Invalid::new(
                "heartbeat",
                format!("{heartbeat:?}"),
                "out of range",
                "write 1s to 1h",
            ));
        }
        // A socket's path may have 107 bytes on Linux.
        let data_dir = file.data_dir.unwrap_or_else(system::default_data_dir);
        let path = data_dir.as_os_str();
        if path.is_empty() || path.len() > 90 {
            return Err(Invalid::new(
                "data_dir",
                data_dir.display(),
                "empty, or too long for the status socket in it",
                "write an absolute path of at most 90 bytes",
            ));
        }
        let spool_mib = file.spool.max_mib.unwrap_or(Self::DEFAULT_SPOOL_MIB);
        if !(1..=65_536).contains(&spool_mib) {
            return Err(Invalid::new(
                "spool.max_mib",
                spool_mib,
                "out of range",
                "write 1 to 65536 (MiB)",
            ));
        }
        let reconnect_max = match &file.collector.reconnect_max {
            Some(text) => parse_duration("collector.reconnect_max", text)?,
            None => Self::DEFAULT_RECONNECT_MAX,
        };
        if reconnect_max < Duration::from_secs(1) || reconnect_max > Duration::from_secs(600) {
            return Err(Invalid::new(
                "collector.reconnect_max",
                format!("{reconnect_max:?}"),
                "out of range",
                "write 1s to 10m",
            ));
        }
        let kb_per_day = file.budget.kb_per_day.unwrap_or(Self::DEFAULT_KB_PER_DAY);
        if kb_per_day != 0 && !(100..=10_000_000).contains(&kb_per_day) {
            return Err(Invalid::new(
                "budget.kb_per_day",
                kb_per_day,
                "out of range",
                "write 100 to 10000000 (KB of 1000 bytes), or 0 for no limit",
            ));
        }
        let named = named(file.agent.as_deref(), &file.collector)?;
        Ok(Self {
            file: PathBuf::new(),
            named,
            data_dir,
            heartbeat,
            probe_ca: file.probe_ca,
            reconnect_max,
            spool_max: spool_mib << 20,
            per_day: (kb_per_day != 0).then_some(kb_per_day * 1_000),
            updates: updates(file.update)?,
            targets: read_targets(file.target)?,
        })
    }
}

fn updates(section: UpdateSection) -> Result<Option<Updates>, Invalid> {
    let missing = |field: &str| {
        let fix = "set both, or neither: then the agent stays what it is";
        Invalid::new(field, "(missing)", "updates need a manifest and a key", fix)
    };
    let (text, key) = match (section.manifest, section.key) {
        (Some(manifest), Some(key)) => (manifest, key),
        (Some(_), None) => return Err(missing("update.key")),
        (None, Some(_)) => return Err(missing("update.manifest")),
        (None, None) => return Ok(None),
    };
    let bad = |problem: &str, fix: &str| Invalid::new("update.manifest", &text, problem, fix);
    let manifest: Url = text.parse().map_err(|_| {
        bad(
            "not an address",
            "write it like `https://updates.example/denyut/manifest.json`",
        )
    })?;
    if !update::is_safe(&manifest) {
        return Err(bad(
            "plaintext is only for loopback",
            "use https (or http on loopback)",
        ));
    }
    if manifest.query().is_some() || manifest.fragment().is_some() {
        return Err(bad(
            "the signature is beside it, with `.minisig` behind its name",
            "end the address with a file's name",
        ));
    }
    let key = PublicKey::from_base64(&key).map_err(|_| {
        Invalid::new(
            "update.key",
            &key,
            "not a public key of minisign",
            "write the second line of the `minisign.pub` that `minisign -G` made",
        )
    })?;
    let length = |field: &str, text: Option<String>, default: Duration, most: Duration| {
        let field = format!("update.{field}");
        let length = text.map_or(Ok(default), |text| parse_duration(&field, &text))?;
        if length < Duration::from_secs(10) || length > most {
            return Err(Invalid::new(
                field,
                format!("{length:?}"),
                "out of range",
                format!("write 10s to {}", humantime::format_duration(most)),
            ));
        }
        Ok(length)
    };
    let hours = |hours: u64| Duration::from_secs(hours * 3_600);
    Ok(Some(Updates {
        source: Source {
            manifest,
            key,
            ca: section.ca,
        },
        every: length("every", section.every, hours(6), hours(7 * 24))?,
        trial: length("trial", section.trial, Duration::from_secs(600), hours(1))?,
    }))
}

/// Who the agent is by the file, if it says so.
fn named(agent: Option<&str>, section: &CollectorSection) -> Result<Option<Named>, Invalid> {
    let fix = "set both, or neither: then the machine joins by `denyut-agent join`";
    match (agent, &section.addresses) {
        (Some(agent), Some(addresses)) => {
            let agent = agent.parse()?;
            let collectors = collectors(section, addresses)?;
            let tls = tls_files(section, &collectors)?;
            Ok(Some(Named {
                agent,
                collectors,
                tls,
            }))
        }
        (None, None) => {
            let files = [&section.ca, &section.certificate, &section.key];
            if files.iter().any(|file| file.is_some()) {
                return Err(Invalid::new(
                    "collector.ca / certificate / key",
                    "(set)",
                    "they are for an agent that is named by `agent`",
                    "remove them: a machine that joins has its own",
                ));
            }
            Ok(None)
        }
        (Some(_), None) => Err(Invalid::new(
            "collector.addresses",
            "(missing)",
            "`agent` is set, and nothing says where its collector is",
            fix,
        )),
        (None, Some(_)) => Err(Invalid::new(
            "agent",
            "(missing)",
            "`collector.addresses` is set, and nothing says who the agent is",
            fix,
        )),
    }
}

fn collectors(section: &CollectorSection, addresses: &[String]) -> Result<Vec<Uri>, Invalid> {
    if addresses.is_empty() {
        return Err(Invalid::new(
            "collector.addresses",
            "[]",
            "no collector to report to",
            "write at least one, such as `https://collector.example:7443`",
        ));
    }
    let mut collectors = Vec::new();
    for (i, text) in addresses.iter().enumerate() {
        let bad = |problem: &str, fix: &str| {
            Invalid::new(format!("collector.addresses[{i}]"), text, problem, fix)
        };
        let uri: Uri = text.parse().map_err(|_| {
            bad(
                "not an address",
                "write it like `https://collector.example:7443`",
            )
        })?;
        let (Some(scheme), Some(host), Some(_)) = (uri.scheme_str(), uri.host(), uri.port_u16())
        else {
            return Err(bad(
                "scheme, host or port is missing",
                "write it like `https://collector.example:7443`",
            ));
        };
        match scheme {
            "https" => {}
            "http" if is_loopback(host) || section.allow_plaintext_beyond_loopback => {}
            "http" => {
                return Err(bad(
                    "plaintext is only for loopback",
                    "use https, or set `allow_plaintext_beyond_loopback = true` if you know that nobody can listen",
                ));
            }
            _ => return Err(bad("unknown scheme", "use https (or http on loopback)")),
        }
        if uri
            .authority()
            .is_some_and(|authority| authority.as_str().contains('@'))
        {
            let fix = "write only scheme, host and port; an agent is known by its certificate";
            return Err(Invalid::new(
                format!("collector.addresses[{i}]"),
                "(not shown)",
                "a user name or password",
                fix,
            ));
        }
        if uri.path() != "/" || uri.query().is_some() {
            return Err(bad(
                "a path has no meaning here",
                "end the address after the port",
            ));
        }
        collectors.push(uri);
    }
    Ok(collectors)
}

pub(crate) fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn tls_files(section: &CollectorSection, collectors: &[Uri]) -> Result<Option<TlsFiles>, Invalid> {
    if collectors
        .iter()
        .all(|uri| uri.scheme_str() == Some("http"))
    {
        return Ok(None);
    }
    let file = |field: &str, path: &Option<PathBuf>, what: &str| {
        path.clone().ok_or_else(|| {
            Invalid::new(
                format!("collector.{field}"),
                "(missing)",
                "https needs it",
                format!("name the PEM file with {what}"),
            )
        })
    };
    Ok(Some(TlsFiles {
        ca: file(
            "ca",
            &section.ca,
            "the authority that signed the collector's certificate",
        )?,
        certificate: file(
            "certificate",
            &section.certificate,
            "this agent's certificate",
        )?,
        key: file("key", &section.key, "this agent's private key")?,
    }))
}
