//! Who is told of what, as the configuration says it: `[alert]`, `[[receiver]]` and `[[route]]`.

use super::channel::config::{
    AlertmanagerSection, ExecSection, HookSection, HttpSection, MailSection, MatrixSection,
    MattermostSection, NtfySection, Place, RocketChatSection, SlackSection, TelegramSection,
    WebhookSection, WhatsAppSection, hook,
};
use super::channel::{Brand, Webhook, client};
use super::compose::{Writer, samples};
use super::route::{Route, Severity, To};
use super::telegram::Answers;
use super::template::Template;
use super::{Alerts, Alive, Channel, Language, Receiver, Timing};
use crate::config::region_of;
use crate::registry::Registry;
use anyhow::Context;
use denyut_detect::calendar::Hours;
use denyut_detect::{Cause, PatternKind};
use denyut_proto::{Invalid, UnixMillis, parse_duration};
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::time::Duration;

const DAY: Duration = Duration::from_secs(86_400);

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AlertSection {
    group_wait: Option<String>,
    group_interval: Option<String>,
    repeat_interval: Option<String>,
    alive: Option<String>,
    alive_every: Option<String>,
}

/// A receiver: what all have, and one of the ways to reach it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReceiverSection {
    name: String,
    #[serde(default)]
    language: Language,
    role: Option<String>,
    #[serde(default)]
    regions: Vec<String>,
    template: Option<PathBuf>,
    pace: Option<String>,
    telegram: Option<TelegramSection>,
    whatsapp: Option<WhatsAppSection>,
    slack: Option<SlackSection>,
    mattermost: Option<MattermostSection>,
    rocketchat: Option<RocketChatSection>,
    discord: Option<HookSection>,
    teams: Option<HookSection>,
    google_chat: Option<HookSection>,
    matrix: Option<MatrixSection>,
    ntfy: Option<NtfySection>,
    mail: Option<MailSection>,
    webhook: Option<WebhookSection>,
    http: Option<HttpSection>,
    alertmanager: Option<AlertmanagerSection>,
    exec: Option<ExecSection>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RouteSection {
    receiver: Option<String>,
    role: Option<String>,
    #[serde(default)]
    regions: Vec<String>,
    #[serde(default)]
    causes: Vec<Cause>,
    #[serde(default)]
    severities: Vec<Severity>,
    #[serde(default)]
    patterns: Vec<PatternKind>,
    after: Option<String>,
    hours: Option<String>,
}

/// Checks and reads all of it; files that it names are in `folder`, and people find the page at `page`.
pub(crate) fn read(
    section: &AlertSection,
    receivers: Vec<ReceiverSection>,
    routes: Vec<RouteSection>,
    folder: &Path,
    page: Option<&str>,
) -> anyhow::Result<Alerts> {
    let mut all: Vec<Receiver> = Vec::new();
    for (i, section) in receivers.into_iter().enumerate() {
        let at = Place {
            at: format!("receiver[{i}]"),
            folder,
        };
        let receiver = receiver(&at, section)?;
        if all.iter().any(|one| one.name == receiver.name) {
            let fix = "give each receiver a name of its own";
            return Err(at.invalid("name", receiver.name, "it is there twice", fix));
        }
        all.push(receiver);
    }
    let mut known = Vec::new();
    for (i, section) in routes.into_iter().enumerate() {
        known.push(route(&format!("route[{i}]"), section, &all)?);
    }
    for one in &all {
        let leads = |route: &Route| match &route.to {
            To::Receiver(name) => *name == one.name,
            To::Role(role) => one.role.as_ref() == Some(role),
        };
        if !known.iter().any(leads) {
            return Err(Invalid::new(
                "receiver.name",
                &one.name,
                "no route leads to it: it would never be told anything",
                "add a [[route]] to it; one with no more than its name takes everything",
            )
            .into());
        }
    }
    for (i, route) in known.iter().enumerate() {
        let waits = !route.after.is_zero() || route.hours.is_some();
        let led = all.iter().find(|one| {
            matches!(one.channel, Channel::Alertmanager(_))
                && match &route.to {
                    To::Receiver(name) => *name == one.name,
                    To::Role(role) => one.role.as_ref() == Some(role),
                }
        });
        if let Some(one) = led.filter(|_| waits) {
            let problem = "an Alertmanager has times and waits of its own";
            let fix = "leave out `after` and `hours` of the routes to it";
            let field = format!("route[{i}]");
            return Err(Invalid::new(field, &one.name, problem, fix).into());
        }
    }
    one_place(&all)?;
    let alerts = Alerts {
        receivers: all,
        routes: known,
        timing: timing(section)?,
        page: page.map(str::to_owned),
        alive: alive(section)?,
    };
    Ok(alerts)
}

/// Who answers in a chat answers one receiver.
fn one_place(all: &[Receiver]) -> anyhow::Result<()> {
    let mut known: Vec<(&str, &Answers)> = Vec::new();
    for receiver in all {
        let Channel::Chat(chat) = &receiver.channel else {
            continue;
        };
        if let Brand::Telegram {
            answers: Some(answers),
            ..
        } = &chat.brand
        {
            if let Some((other, _)) = known.iter().find(|(_, one)| one.is_same_place(answers)) {
                let problem = format!("`{other}` has users in the same chat, too");
                let fix = "list them at one of the two, or give each a `topic` of its own";
                return Err(Invalid::new("receiver.name", &receiver.name, problem, fix).into());
            }
            known.push((&receiver.name, answers));
        }
    }
    Ok(())
}

fn route(at: &str, section: RouteSection, all: &[Receiver]) -> anyhow::Result<Route> {
    let field = |name: &str| format!("{at}.{name}");
    let to = match (section.receiver, section.role) {
        (Some(name), None) => {
            if !all.iter().any(|one| one.name == name) {
                let fix = "add a [[receiver]] of it";
                let problem = "no receiver of this name";
                return Err(Invalid::new(field("receiver"), name, problem, fix).into());
            }
            To::Receiver(name)
        }
        (None, Some(role)) => {
            if !all.iter().any(|one| one.role.as_ref() == Some(&role)) {
                let fix = "give a [[receiver]] this role";
                let problem = "no receiver has this role";
                return Err(Invalid::new(field("role"), role, problem, fix).into());
            }
            To::Role(role)
        }
        (Some(name), Some(role)) => {
            let problem = format!("the route leads to the role `{role}`, too");
            let fix = "write one of `receiver` and `role`";
            return Err(Invalid::new(field("receiver"), name, problem, fix).into());
        }
        (None, None) => {
            let fix = "write one of `receiver` and `role`";
            return Err(Invalid::new(field("receiver"), "", "it leads to nobody", fix).into());
        }
    };
    for region in &section.regions {
        region_of(&field("regions"), region)?;
    }
    let after = match &section.after {
        None => Duration::ZERO,
        Some(text) => within(&field("after"), text, (Duration::from_secs(60), DAY * 90))?,
    };
    let hours = section.hours.as_deref();
    let hours = hours.map(|text| Hours::parse(&field("hours"), text));
    Ok(Route {
        to,
        regions: section.regions,
        causes: section.causes,
        severities: section.severities,
        patterns: section.patterns,
        after,
        hours: hours.transpose()?,
    })
}

/// Who is told that the collector watches.
fn alive(section: &AlertSection) -> anyhow::Result<Option<Alive>> {
    let every = match &section.alive_every {
        Some(text) => within("alert.alive_every", text, (Duration::from_secs(10), DAY))?,
        None => Duration::from_secs(60),
    };
    let Some(text) = &section.alive else {
        return Ok(None);
    };
    let webhook = Webhook {
        url: hook("alert.alive", text)?,
        secret: None,
        client: client(None, false)?,
    };
    Ok(Some(Alive { webhook, every }))
}

/// A length of time within bounds.
pub(super) fn within(
    field: &str,
    text: &str,
    (least, most): (Duration, Duration),
) -> Result<Duration, Invalid> {
    let length = parse_duration(field, text)?;
    if length < least || length > most {
        let write = |length: Duration| match length.as_secs() {
            seconds if seconds > 86_400 && seconds % 86_400 == 0 => {
                format!("{}days", seconds / 86_400)
            }
            _ => humantime::format_duration(length).to_string(),
        };
        let fix = format!("write {} to {}", write(least), write(most));
        return Err(Invalid::new(field, text, "out of range", fix));
    }
    Ok(length)
}

fn timing(section: &AlertSection) -> Result<Timing, Invalid> {
    let length = |name: &str, text: &Option<String>, default: Duration, bounds| match text {
        None => Ok(default),
        Some(text) => within(&format!("alert.{name}"), text, bounds),
    };
    let second = Duration::from_secs(1);
    let default = Timing::default();
    Ok(Timing {
        group_wait: length(
            "group_wait",
            &section.group_wait,
            default.group_wait,
            (second, second * 3_600),
        )?,
        group_interval: length(
            "group_interval",
            &section.group_interval,
            default.group_interval,
            (second, DAY),
        )?,
        repeat_interval: length(
            "repeat_interval",
            &section.repeat_interval,
            default.repeat_interval,
            (second * 60, 7 * DAY),
        )?,
    })
}

fn receiver(at: &Place<'_>, section: ReceiverSection) -> anyhow::Result<Receiver> {
    let is_name = |name: &str| {
        let is_letter = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        (1..=63).contains(&name.len()) && name.chars().all(is_letter)
    };
    for (field, name) in [
        ("name", Some(&section.name)),
        ("role", section.role.as_ref()),
    ] {
        if let Some(name) = name.filter(|name| !is_name(name)) {
            let fix = "write 1 to 63 of a-z, 0-9 and `-`";
            return Err(at.invalid(field, name.clone(), "not a name", fix));
        }
    }
    for region in &section.regions {
        region_of(&at.field("regions"), region)?;
    }
    let template = match &section.template {
        None => Template::read(Template::own(section.language))?,
        Some(file) => {
            let file = at.folder.join(file);
            let read = || Template::read(&std::fs::read_to_string(&file)?);
            let wrong = || format!("`{}`: {}", at.field("template"), file.display());
            read().with_context(wrong)?
        }
    };
    let section_file = section.template.clone();
    let (name, language, role) = (section.name.clone(), section.language, section.role.clone());
    let (regions, pace) = (section.regions.clone(), section.pace.clone());
    let channel = channel(at, section)?;
    let pace = match pace {
        None => channel.pace(),
        Some(text) => within(&at.field("pace"), &text, (Duration::ZERO, DAY))?,
    };
    let receiver = Receiver {
        name,
        language,
        role,
        regions,
        template,
        pace,
        channel,
    };
    if section_file.is_some() {
        let alerts = Alerts::default();
        let registry = Registry::default();
        let now = UnixMillis(1_790_000_000_000);
        let writer = Writer::new(&alerts, &receiver, &registry, now)?;
        for sample in samples(now) {
            let file = section_file.as_deref().unwrap_or(Path::new("")).display();
            let field = at.field("template");
            writer.preview(&sample).with_context(|| {
                format!("`{field}` = `{file}`: `message template` shows what there is")
            })?;
        }
    }
    Ok(receiver)
}

/// What of a receiver says how it is reached: exactly one of many.
fn channel(at: &Place<'_>, section: ReceiverSection) -> anyhow::Result<Channel> {
    let mut found: Vec<(&str, anyhow::Result<Channel>)> = Vec::new();
    let mut add = |name: &'static str, channel: Option<anyhow::Result<Channel>>| {
        found.extend(channel.map(|channel| (name, channel)));
    };
    add("telegram", section.telegram.map(|one| one.read(at)));
    add("whatsapp", section.whatsapp.map(|one| one.read(at)));
    add("slack", section.slack.map(|one| one.read(at)));
    add("mattermost", section.mattermost.map(|one| one.read(at)));
    add("rocketchat", section.rocketchat.map(|one| one.read(at)));
    let discord = |url| Brand::Discord { url };
    add(
        "discord",
        section.discord.map(|one| one.read(at, "discord", discord)),
    );
    let teams = |url| Brand::Teams { url };
    add(
        "teams",
        section.teams.map(|one| one.read(at, "teams", teams)),
    );
    let google = |url| Brand::GoogleChat { url };
    add(
        "google_chat",
        section
            .google_chat
            .map(|one| one.read(at, "google_chat", google)),
    );
    add("matrix", section.matrix.map(|one| one.read(at)));
    add("ntfy", section.ntfy.map(|one| one.read(at)));
    add("mail", section.mail.map(|one| one.read(at)));
    add("webhook", section.webhook.map(|one| one.read(at)));
    add("http", section.http.map(|one| one.read(at)));
    add("alertmanager", section.alertmanager.map(|one| one.read(at)));
    add("exec", section.exec.map(|one| one.read(at)));
    if found.len() != 1 {
        let named: Vec<&str> = found.iter().map(|(name, _)| *name).collect();
        let fix = "write one of telegram, whatsapp, slack, mattermost, rocketchat, discord, teams, google_chat, matrix, ntfy, mail, webhook, http, alertmanager, exec";
        return Err(Invalid::new(&at.at, named.join(", "), "not one way to reach it", fix).into());
    }
    found.remove(0).1
}
