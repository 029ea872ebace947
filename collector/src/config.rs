//! The collector's configuration: what the user wrote, and what the program needs.

use crate::access::{Oidc, OidcSection};
use crate::alert::config::{AlertSection, ReceiverSection, RouteSection};
use crate::alert::{self, Alerts, Place};
use crate::calendar;
use crate::export::{self, ExportSection};
use crate::join::{Authority, Name};
use crate::plain::{self, NAME_MOST};
use crate::registry::{Office, Registry};
use crate::sites;
use crate::villages::{self, Villages};
use anyhow::{Context, anyhow};
use denyut_detect::calendar::{Holidays, Hours, Maintenance, When};
use denyut_detect::params::{Params, Value};
use denyut_detect::{Setup, Site};
use denyut_proto::{
    Invalid, OfficeCode, Target, TargetSpec, UnixMillis, parse_duration, read_targets,
};
use denyut_store::history::Retention;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The file as written. Unknown keys are refused: a misspelt one must not be lost in silence.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    data_dir: PathBuf,
    ingest: IngestSection,
    api: ApiSection,
    #[serde(default)]
    public: PublicSection,
    oidc: Option<OidcSection>,
    #[serde(default)]
    report: ReportSection,
    #[serde(default)]
    retention: RetentionSection,
    #[serde(default)]
    disk: DiskSection,
    #[serde(default)]
    calendar: CalendarSection,
    #[serde(default)]
    maintenance: Vec<MaintenanceSection>,
    #[serde(default)]
    alert: AlertSection,
    #[serde(default)]
    receiver: Vec<ReceiverSection>,
    #[serde(default)]
    route: Vec<RouteSection>,
    #[serde(default)]
    export: Vec<ExportSection>,
    #[serde(default)]
    detection: toml::Table,
    /// A CSV file of offices, beside those below.
    offices: Option<PathBuf>,
    #[serde(default)]
    office: Vec<OfficeSection>,
    #[serde(default)]
    target: Vec<TargetSpec>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct CalendarSection {
    hours: Option<String>,
    holidays: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct MaintenanceSection {
    region: String,
    from: Option<String>,
    until: Option<String>,
    weekly: Option<String>,
    reason: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct IngestSection {
    listen: String,
    names: Option<Vec<String>>,
    ca: Option<PathBuf>,
    ca_key: Option<PathBuf>,
    certificates: Option<String>,
    #[serde(default)]
    allow_plaintext_beyond_loopback: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ApiSection {
    listen: String,
    address: Option<String>,
    #[serde(default)]
    allow_plaintext_beyond_loopback: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct PublicSection {
    #[serde(default)]
    page: bool,
    villages: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReportSection {
    #[serde(default)]
    letterhead: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RetentionSection {
    raw: Option<String>,
    minute: Option<String>,
    hour: Option<String>,
    day: Option<String>,
    size: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct DiskSection {
    reserve: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct OfficeSection {
    pub(crate) code: String,
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) agents: Vec<String>,
    pub(crate) regency: Option<String>,
    pub(crate) isp: Option<String>,
    pub(crate) pop: Option<String>,
    pub(crate) pool: Option<String>,
    pub(crate) latitude: Option<f64>,
    pub(crate) longitude: Option<f64>,
    pub(crate) hours: Option<String>,
    #[serde(default)]
    pub(crate) target: Vec<TargetSpec>,
}

/// What the program runs by: checked, with units in the types.
#[derive(Debug)]
pub(crate) struct Config {
    /// Log, history and state.
    pub(crate) data_dir: PathBuf,
    /// Where agents connect.
    pub(crate) ingest: SocketAddr,
    /// Present exactly when agents connect by TLS.
    pub(crate) tls: Option<Tls>,
    /// Where people and programs ask.
    pub(crate) api: SocketAddr,
    /// What people open for that.
    pub(crate) address: Address,
    /// Citizens may ask which office can record, and choose their village among these.
    pub(crate) public: Option<Villages>,
    /// Who else may say who somebody is.
    pub(crate) oidc: Option<Oidc>,
    /// What stands above a report on paper, line by line.
    pub(crate) letterhead: Vec<String>,
    /// How long what is kept. Samples older than `raw` are deleted, and refused when they arrive.
    pub(crate) retention: Retention,
    /// Below this many free bytes nothing is taken.
    pub(crate) reserve: u64,
    /// Who may speak, for which office.
    pub(crate) registry: Registry,
    /// What every agent probes.
    pub(crate) common: Vec<Target>,
    /// What the detector is told: thresholds, calendar, offices.
    pub(crate) setup: Setup,
    /// Who is told of what.
    pub(crate) alerts: Alerts,
    /// Who is sent what is measured.
    pub(crate) exports: Vec<export::Target>,
}

/// What people open: the address of the proxy before the API, most likely.
#[derive(Debug, Clone, Default)]
pub(crate) struct Address(Option<(String, reqwest::Url)>);

impl Address {
    fn read(text: Option<&str>) -> Result<Self, Invalid> {
        let Some(text) = text else {
            return Ok(Self(None));
        };
        let text = text.trim();
        let url = text.parse::<reqwest::Url>().ok().filter(|url| {
            let rest = (url.path(), url.query(), url.fragment());
            matches!(url.scheme(), "http" | "https")
                && url.has_host()
                && url.username().is_empty()
                && rest == ("/", None, None)
                && text.len() <= 200
        });
        let url = url.ok_or_else(|| {
            Invalid::new(
                "api.address",
                text,
                "not the address of a site",
                "write it like `https://denyut.example`, without a path",
            )
        })?;
        Ok(Self(Some((text.trim_end_matches('/').to_owned(), url))))
    }

    /// As it was written, without a slash at the end.
    pub(crate) fn text(&self) -> Option<&str> {
        self.0.as_ref().map(|(text, _)| text.as_str())
    }

    pub(crate) fn host(&self) -> Option<&str> {
        self.0.as_ref().and_then(|(_, url)| url.host_str())
    }

    pub(crate) fn is_https(&self) -> bool {
        self.0
            .as_ref()
            .is_some_and(|(_, url)| url.scheme() == "https")
    }
}

/// How agents connect by TLS.
#[derive(Debug, Clone)]
pub(crate) struct Tls {
    /// What agents call the collector by; at least one.
    pub(crate) names: Vec<Name>,
    /// The authority's certificate and key (PEM), if it is not of our own making.
    pub(crate) authority: Option<(PathBuf, PathBuf)>,
    /// How long an agent's certificate is good.
    pub(crate) certificates: Duration,
}

const DAY: Duration = Duration::from_secs(86_400);
const WEEK: Duration = Duration::from_secs(7 * 86_400);

impl Config {
    const DEFAULT_RAW: Duration = Duration::from_secs(35 * 86_400);
    const DEFAULT_MINUTE: Duration = Duration::from_secs(400 * 86_400);
    const DEFAULT_RESERVE: u64 = 512 << 20;

    /// What is kept for how long, in a sentence.
    pub(crate) fn describe_retention(&self) -> String {
        let days = |keep: Duration| format!("{} days", keep.as_secs() / 86_400);
        let or_ever = |keep: Option<Duration>| keep.map_or("for ever".to_owned(), days);
        let kept = &self.retention;
        let size = kept.bytes.map_or_else(String::new, |bytes| {
            format!(
                " Above {} in all the oldest goes first.",
                bytesize::ByteSize(bytes).display().iec()
            )
        });
        format!(
            "Kept: samples {}, minutes {}, hours {}, days {}.{size} Nothing is taken with less than {} free.",
            days(kept.raw),
            days(kept.minute),
            or_ever(kept.hour),
            or_ever(kept.day),
            bytesize::ByteSize(self.reserve).display().iec()
        )
    }

    /// Reads and checks the file.
    pub(crate) fn load(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the configuration {}", path.display()))?;
        // Files that it names lie beside it, unless it says otherwise.
        let folder = path.parent().unwrap_or(Path::new("."));
        Self::parse(&text, folder)
            .with_context(|| format!("the configuration {} is not valid", path.display()))
    }

    /// Reads and checks its text; the files that it names are in `folder`.
    pub(crate) fn parse(text: &str, folder: &Path) -> anyhow::Result<Self> {
        let file: File = toml::from_str(text).map_err(|error| {
            // Its own words point at the line; what may stand there is in the example.
            let text = without_addresses(&error.to_string());
            anyhow!(
                "{}\ncompare it with deploy/example/collector.toml",
                text.trim_end()
            )
        })?;
        Self::of(file, folder)
    }

    /// The same for a collector that is to listen: what it names for that must be there too.
    pub(crate) fn load_to_serve(path: &Path) -> anyhow::Result<Self> {
        let config = Self::load(path)?;
        if let Some(Tls {
            authority: Some((certificate, key)),
            ..
        }) = &config.tls
        {
            let invalid = || format!("the configuration {} is not valid", path.display());
            Authority::read(certificate, key)
                .context("`ingest.ca` and `ingest.ca_key`")
                .with_context(invalid)?;
        }
        Ok(config)
    }

    /// The authority that certifies agents, made if there is none; none where agents connect in plaintext.
    pub(crate) fn authority(&self, now: UnixMillis) -> anyhow::Result<Option<Authority>> {
        let Some(tls) = &self.tls else {
            return Ok(None);
        };
        let folder = self.data_dir.join(denyut_store::AUTHORITY);
        let authority = match &tls.authority {
            Some((certificate, key)) => {
                Authority::read(certificate, key).context("`ingest.ca` and `ingest.ca_key`")
            }
            None => Authority::open(&folder, now),
        };
        authority.map(|authority| Some(authority.certifying_for(tls.certificates)))
    }
}

impl Config {
    fn of(file: File, folder: &Path) -> anyhow::Result<Self> {
        if file.data_dir.as_os_str().is_empty() {
            return Err(Invalid::new("data_dir", "", "empty", "write an absolute path").into());
        }
        let ingest = address("ingest.listen", &file.ingest.listen)?;
        let tls = tls(&file.ingest, ingest, folder)?;
        let api = address("api.listen", &file.api.listen)?;
        if !api.ip().is_loopback() && !file.api.allow_plaintext_beyond_loopback {
            return Err(Invalid::new(
                "api.listen",
                api,
                "the API and the page speak plaintext, which is only for loopback",
                "listen on 127.0.0.1 behind a TLS proxy, or set `allow_plaintext_beyond_loopback = true` if you know that nobody can listen",
            )
            .into());
        }
        let address = Address::read(file.api.address.as_deref())?;
        if ingest == api && api.port() != 0 {
            return Err(Invalid::new(
                "api.listen",
                api,
                "`ingest.listen` is the same",
                "give each a port of its own",
            )
            .into());
        }
        let retention = retention(&file.retention)?;
        let reserve = match &file.disk.reserve {
            Some(text) => size("disk.reserve", text)?,
            None => Self::DEFAULT_RESERVE,
        };
        if reserve < 16 << 20 {
            return Err(Invalid::new(
                "disk.reserve",
                file.disk.reserve.unwrap_or_default(),
                "too small: what frees space needs some to do it",
                "write at least 16MiB",
            )
            .into());
        }
        let mut offices = file.office;
        let mut places: Vec<String> = (0..offices.len()).map(|i| format!("office[{i}]")).collect();
        if let Some(csv) = &file.offices {
            for (line, office) in sites::read(&folder.join(csv))? {
                places.push(format!("{}: line {line}", csv.display()));
                offices.push(office);
            }
        }
        let common = read_targets(file.target)?;
        let registry = registry(&offices, &places, &common)?;
        let setup = Setup {
            params: params(&file.detection)?,
            hours: match &file.calendar.hours {
                Some(text) => Hours::parse("calendar.hours", text)?.into(),
                None => Hours::default().into(),
            },
            holidays: match &file.calendar.holidays {
                Some(path) => calendar::read(&folder.join(path)).context("`calendar.holidays`")?,
                None => Holidays::default(),
            },
            maintenance: maintenance(file.maintenance)?,
            agents: registry.agents(),
            sites: registry.sites(),
        };
        Ok(Self {
            data_dir: file.data_dir,
            ingest,
            tls,
            api,
            retention,
            reserve,
            registry,
            common,
            setup,
            alerts: alert::config::read(
                &file.alert,
                file.receiver,
                file.route,
                folder,
                address.text(),
            )?,
            address,
            public: villages(&file.public, folder)?,
            oidc: file
                .oidc
                .map(|section| {
                    section.read(&Place {
                        at: "oidc".to_owned(),
                        folder,
                    })
                })
                .transpose()?,
            exports: export::read(file.export, folder, size)?,
            letterhead: letterhead(file.report.letterhead)?,
        })
    }
}

/// A text that quotes a line of the file, without what behind a host may be a key.
fn without_addresses(text: &str) -> String {
    let mut shown = String::new();
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once("://") {
        let end = behind.find(['"', '\'', ' ', '\n']).unwrap_or(behind.len());
        let host = behind[..end]
            .split(['/', '?', '#'])
            .next()
            .unwrap_or_default();
        let host = host.rsplit('@').next().unwrap_or_default();
        shown += before;
        shown += "://";
        shown += host;
        if host.len() < end {
            shown += "/…";
        }
        rest = &behind[end..];
    }
    shown + rest
}

/// Whether a text is the code of a region, or its beginning in whole parts.
pub(crate) fn region_of(field: &str, region: &str) -> Result<(), Invalid> {
    let widths: Vec<usize> = region.split('.').map(str::len).collect();
    let digits = region.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    if !digits || !matches!(widths[..], [2] | [2, 2] | [2, 2, 2] | [2, 2, 2, 4]) {
        return Err(Invalid::new(
            field,
            region,
            "not a region code",
            "write it like `36`, `36.73` or `36.73.02`",
        ));
    }
    Ok(())
}

/// The villages of the page for citizens, if that is on.
fn villages(section: &PublicSection, folder: &Path) -> anyhow::Result<Option<Villages>> {
    let villages = match &section.villages {
        Some(file) => villages::read(&folder.join(file))?,
        None => Villages::new(),
    };
    Ok(section.page.then_some(villages))
}

/// Characters of a reason, at most.
const REASON_MOST: usize = 200;

/// Lines of a letterhead, and characters of each, at most.
const LETTERHEAD_MOST: (usize, usize) = (6, 120);

fn letterhead(lines: Vec<String>) -> Result<Vec<String>, Invalid> {
    let (most, length) = LETTERHEAD_MOST;
    if lines.len() > most {
        let fix = format!("write at most {most}");
        return Err(Invalid::new(
            "report.letterhead",
            lines.len(),
            "too many lines",
            fix,
        ));
    }
    for line in &lines {
        plain::line("report.letterhead", line, length)?;
    }
    Ok(lines)
}

fn retention(section: &RetentionSection) -> Result<Retention, Invalid> {
    let within = |field: &str, text: &Option<String>| match text.as_deref() {
        None => Ok(None),
        Some("forever") if field != "retention.raw" => Ok(Some(None)),
        Some(text) => {
            let fix = match field {
                "retention.raw" => {
                    "write 1day to 100years; only what is coarser can be kept forever"
                }
                _ => "write 1day to 100years, or `forever`",
            };
            let keep = parse_duration(field, text)
                .map_err(|error| Invalid::new(field, text, error.problem, fix))?;
            if keep < DAY || keep > DAY * 36_600 {
                return Err(Invalid::new(field, text, "out of range", fix));
            }
            Ok(Some(Some(keep)))
        }
    };
    let raw = within("retention.raw", &section.raw)?
        .flatten()
        .unwrap_or(Config::DEFAULT_RAW);
    let ever = DAY * 36_600;
    // Left out, no level is kept for less time than the finer one.
    let minute = within("retention.minute", &section.minute)?;
    let minute = minute.map_or(Config::DEFAULT_MINUTE.max(raw), |keep| keep.unwrap_or(ever));
    let hour = within("retention.hour", &section.hour)?.flatten();
    let day = within("retention.day", &section.day)?.flatten();
    let order = [
        (
            "retention.minute",
            &section.minute,
            minute,
            "retention.raw",
            raw,
        ),
        (
            "retention.hour",
            &section.hour,
            hour.unwrap_or(ever),
            "retention.minute",
            minute,
        ),
        (
            "retention.day",
            &section.day,
            day.unwrap_or(ever),
            "retention.hour",
            hour.unwrap_or(ever),
        ),
    ];
    for (field, text, keep, finer, least) in order {
        if keep < least {
            return Err(Invalid::new(
                field,
                text.clone().unwrap_or_default(),
                format!("shorter than `{finer}`"),
                "keep what is coarser for at least as long as what is finer",
            ));
        }
    }
    let bytes = match &section.size {
        None => None,
        Some(text) => Some(size("retention.size", text)?),
    };
    if bytes.is_some_and(|bytes| bytes < 1 << 30) {
        return Err(Invalid::new(
            "retention.size",
            section.size.clone().unwrap_or_default(),
            "too small for a few days of samples",
            "write at least 1GiB",
        ));
    }
    Ok(Retention {
        raw,
        minute,
        hour,
        day,
        bytes,
    })
}

fn size(field: &str, text: &str) -> Result<u64, Invalid> {
    let parsed: Result<bytesize::ByteSize, _> = text.parse();
    let size = parsed.ok().map(|size| size.as_u64());
    // No disk is larger; what does not fit is cut to u64::MAX.
    size.filter(|size| *size <= 1 << 60).ok_or_else(|| {
        Invalid::new(
            field,
            text,
            "not a size",
            "write it like `512MiB` or `100GiB`, 1EiB at most",
        )
    })
}

fn address(field: &str, text: &str) -> Result<SocketAddr, Invalid> {
    text.parse().map_err(|_| {
        Invalid::new(
            field,
            text,
            "not an address and port",
            "write it like `127.0.0.1:7443` or `[::1]:7443`",
        )
    })
}

/// TLS unless it is only for this machine, or it was said that nobody can listen.
fn tls(section: &IngestSection, listen: SocketAddr, folder: &Path) -> Result<Option<Tls>, Invalid> {
    let authority = match (&section.ca, &section.ca_key) {
        (Some(certificate), Some(key)) => Some((folder.join(certificate), folder.join(key))),
        (None, None) => None,
        _ => {
            return Err(Invalid::new(
                "ingest.ca / ca_key",
                "(incomplete)",
                "only one of the two is set",
                "set both, or none: then the collector makes an authority itself",
            ));
        }
    };
    let mut names = Vec::new();
    for (i, text) in section.names.iter().flatten().enumerate() {
        names.push(name(&format!("ingest.names[{i}]"), text)?);
    }
    let plaintext = listen.ip().is_loopback() || section.allow_plaintext_beyond_loopback;
    if names.is_empty() && authority.is_none() && plaintext {
        return Ok(None);
    }
    if names.is_empty() {
        if listen.ip().is_unspecified() {
            return Err(Invalid::new(
                "ingest.names",
                "(missing)",
                "agents connect by TLS, and nothing says what they call this collector",
                "name what they reach it by: `names = [\"collector.example\", \"10.1.2.3\"]`",
            ));
        }
        names.push(Name::Ip(listen.ip()));
    }
    let certificates = match &section.certificates {
        Some(text) => parse_duration("ingest.certificates", text)?,
        None => WEEK,
    };
    if certificates < Duration::from_secs(10) || certificates > WEEK * 52 {
        return Err(Invalid::new(
            "ingest.certificates",
            section.certificates.clone().unwrap_or_default(),
            "out of range",
            "write 10s to 364days",
        ));
    }
    Ok(Some(Tls {
        names,
        authority,
        certificates,
    }))
}

fn name(field: &str, text: &str) -> Result<Name, Invalid> {
    use rustls::pki_types::ServerName;
    match ServerName::try_from(text) {
        Ok(ServerName::DnsName(name)) => Ok(Name::Dns(name.as_ref().to_lowercase())),
        Ok(ServerName::IpAddress(address)) => Ok(Name::Ip(address.into())),
        _ => Err(Invalid::new(
            field,
            text,
            "neither a host name nor an address",
            "write it like `collector.example` or `10.1.2.3`, without scheme and port",
        )),
    }
}

/// The thresholds: the defaults, and what the file says instead.
fn params(section: &toml::Table) -> Result<Params, Invalid> {
    let mut params = Params::default();
    for (name, value) in section {
        let field = format!("detection.{name}");
        #[allow(clippy::cast_precision_loss, reason = "thresholds are small")]
        let value = match value {
            toml::Value::Integer(number) => Value::Number(*number as f64),
            toml::Value::Float(number) => Value::Number(*number),
            toml::Value::String(text) => Value::Text(text),
            other => {
                return Err(Invalid::new(
                    field,
                    match other {
                        toml::Value::Boolean(is) => is.to_string(),
                        toml::Value::Datetime(at) => at.to_string(),
                        _ => "a list or a table".to_owned(),
                    },
                    "neither a number nor a text",
                    "write a number, or a length of time such as `30s`",
                ));
            }
        };
        params.set(&field, name, value)?;
    }
    params.check("detection")?;
    Ok(params)
}

fn maintenance(sections: Vec<MaintenanceSection>) -> Result<Vec<Maintenance>, Invalid> {
    let moment = |field: String, text: &str| {
        let parsed: Result<jiff::Timestamp, _> = text.parse();
        let fix = "write it like `2026-12-01T20:00:00+07:00`";
        let at = parsed.map_err(|_| Invalid::new(field, text, "not a moment", fix))?;
        Ok(denyut_proto::UnixMillis(at.as_millisecond()))
    };
    let read = |(i, section): (usize, MaintenanceSection)| {
        let at = |name: &str| format!("maintenance[{i}].{name}");
        region_of(&at("region"), &section.region)?;
        let when = match (section.from, section.until, section.weekly) {
            (Some(from), Some(until), None) => {
                let begins = moment(at("from"), &from)?;
                let ends = moment(at("until"), &until)?;
                if begins >= ends {
                    let fix = "write a later moment";
                    return Err(Invalid::new(at("until"), until, "not after `from`", fix));
                }
                When::Once {
                    from: begins,
                    until: ends,
                }
            }
            (Some(from), until, Some(text)) => {
                let begins = moment(at("from"), &from)?;
                let until = until.map(|text| moment(at("until"), &text));
                When::Weekly {
                    hours: Hours::parse(&at("weekly"), &text)?,
                    from: begins,
                    until: until.transpose()?,
                }
            }
            _ => {
                let fix = "write `from` and `until`; or `weekly`, and since when in `from`";
                return Err(Invalid::new(at("from"), "", "it does not say when", fix));
            }
        };
        Ok(Maintenance {
            region: section.region,
            when,
            reason: plain::name(&at("reason"), &section.reason, REASON_MOST)?,
        })
    };
    sections.into_iter().enumerate().map(read).collect()
}

/// What the detector and the page are told of an office, checked.
fn office(section: &OfficeSection, name: String, at: &str) -> Result<Office, Invalid> {
    let named = |field: &str, text: &Option<String>| {
        let read = |text: &String| plain::line(&format!("{at}.{field}"), text, NAME_MOST);
        let text = text.as_ref().map(read).transpose()?;
        Ok::<_, Invalid>(text.filter(|text| !text.is_empty()))
    };
    let degrees = |field: &str, value: Option<f64>, most: f64| match value {
        Some(value) if !(-most..=most).contains(&value) => Err(Invalid::new(
            format!("{at}.{field}"),
            value,
            "out of range",
            format!("write -{most} to {most} degrees"),
        )),
        value => Ok(value),
    };
    let place = match (
        degrees("latitude", section.latitude, 90.0)?,
        degrees("longitude", section.longitude, 180.0)?,
    ) {
        (Some(latitude), Some(longitude)) => Some((latitude, longitude)),
        (None, None) => None,
        _ => {
            return Err(Invalid::new(
                format!("{at}.latitude / longitude"),
                "(incomplete)",
                "only one of the two is set",
                "set both, or none",
            ));
        }
    };
    let hours = match &section.hours {
        Some(text) => Some(Hours::parse(&format!("{at}.hours"), text)?.into()),
        None => None,
    };
    Ok(Office {
        name,
        regency: named("regency", &section.regency)?,
        site: Site {
            hours,
            isp: named("isp", &section.isp)?,
            pop: named("pop", &section.pop)?,
            pool: named("pool", &section.pool)?,
        },
        place,
        targets: Vec::new(),
    })
}

/// One office, checked: its code, and what is known of it. `common`: what every agent probes.
pub(crate) fn office_of(
    section: &OfficeSection,
    at: &str,
    common: &[Target],
) -> Result<(OfficeCode, Office), Invalid> {
    let code: OfficeCode = section.code.parse().map_err(|e: Invalid| e.within(at))?;
    let name = plain::name(&format!("{at}.name"), &section.name, NAME_MOST)?;
    let mut office = office(section, name, at)?;
    // An office's own targets win over the common ones by name.
    let mut targets = read_targets(section.target.clone()).map_err(|error| error.within(at))?;
    for target in common {
        if !targets.iter().any(|own| own.name == target.name) {
            targets.push(target.clone());
        }
    }
    Target::check_list(&targets).map_err(|error| error.within(at))?;
    office.targets = targets;
    Ok((code, office))
}

fn registry(
    offices: &[OfficeSection],
    places: &[String],
    common: &[Target],
) -> Result<Registry, Invalid> {
    let registry = Registry::default();
    let mut all = BTreeMap::new();
    for (section, at) in offices.iter().zip(places) {
        let (code, office) = office_of(section, at, common)?;
        let agents = section
            .agents
            .iter()
            .map(|id| id.parse::<denyut_proto::AgentId>())
            .collect::<Result<Vec<_>, Invalid>>()
            .map_err(|error| Invalid {
                field: format!("{at}.agents"),
                ..error
            })?;
        for id in agents {
            registry.enter(&id, &code).map_err(|other| {
                Invalid::new(
                    format!("{at}.agents"),
                    id,
                    format!("this agent belongs to {other} already"),
                    "name each agent once",
                )
            })?;
        }
        if all.insert(code.clone(), Some(office)).is_some() {
            return Err(Invalid::new(
                format!("{at}.code"),
                code,
                "another office has this code",
                "give each office its own",
            ));
        }
    }
    registry.set(all);
    Ok(registry)
}
