//! What each command asks, and how it shows the answer.

use crate::arguments::{
    Agent, Command, Incident, Invitation, Link, Message, Office, Pattern, Per, Receiver, Route,
    Silence, Token, User,
};
use crate::client::{Client, part, path_of};
use crate::plot;
use crate::show::{Column, Kind, Show, length, line, now, plain, region, time};
use crate::{watch, words};
use anyhow::{Context, bail};
use jiff::Timestamp;
use reqwest::Method;
use serde_json::{Value, json};
use std::io::Read;
use std::path::Path;

const ALL: usize = usize::MAX;

const OFFICES: &[Column] = &[
    ("office", "code", Kind::Text),
    ("name", "name", Kind::Text),
    ("regency", "regency", Kind::Text),
    ("state", "state", Kind::State),
    ("since", "since_ms", Kind::Time),
    ("incident", "incident", Kind::Text),
];
const LINKS: &[Column] = &[
    ("agent", "agent", Kind::Text),
    ("target", "target", Kind::Text),
    ("role", "role", Kind::Text),
    ("probe", "probe", Kind::Text),
    ("state", "state", Kind::State),
    ("since", "since_ms", Kind::Time),
    ("failure", "last_failure", Kind::Text),
];
const BUCKETS: &[Column] = &[
    ("from", "from_ms", Kind::Text),
    ("ok", "ok", Kind::Text),
    ("failed", "failed", Kind::Text),
    ("unobserved", "unobserved", Kind::Text),
    ("up", "up_ms", Kind::Text),
    ("down", "down_ms", Kind::Text),
    ("not observed", "unobserved_ms", Kind::Text),
    ("median", "rtt_us.median", Kind::Text),
    ("p95", "rtt_us.p95", Kind::Text),
];
const INCIDENTS: &[Column] = &[
    ("no.", "number", Kind::Text),
    ("status", "status", Kind::State),
    ("office", "where", Kind::Text),
    ("cause", "cause", Kind::Text),
    ("since", "opened_ms", Kind::Time),
    ("until", "resolved_ms", Kind::Time),
    ("known to", "acknowledged.by", Kind::Text),
    ("for", "assignee", Kind::Text),
];
const PATTERNS: &[Column] = &[
    ("office", "office", Kind::Text),
    ("pattern", "kind", Kind::Text),
    ("scale", "scale", Kind::Text),
    ("target", "target", Kind::Text),
    ("since", "from_ms", Kind::Time),
    ("until", "until_ms", Kind::Time),
    ("times", "count", Kind::Text),
    ("with", "with", Kind::Text),
];
const SILENCES: &[Column] = &[
    ("no.", "number", Kind::Text),
    ("regions", "regions", Kind::Text),
    ("causes", "causes", Kind::Text),
    ("from", "from_ms", Kind::Time),
    ("until", "until_ms", Kind::Time),
    ("by", "by", Kind::Text),
    ("why", "why", Kind::Text),
];
const RECEIVERS: &[Column] = &[
    ("name", "name", Kind::Text),
    ("kind", "kind", Kind::Text),
    ("role", "role", Kind::Text),
    ("regions", "regions", Kind::Text),
    ("language", "language", Kind::Text),
];
const MESSAGES: &[Column] = &[
    ("no.", "number", Kind::Text),
    ("to", "receiver", Kind::Text),
    ("made", "made_ms", Kind::Time),
    ("in vain", "attempts", Kind::Text),
    ("again", "next_ms", Kind::Time),
    ("dead since", "dead_ms", Kind::Time),
    ("error", "error", Kind::Text),
    ("title", "notice.title", Kind::Text),
];
const AGENTS: &[Column] = &[
    ("agent", "agent", Kind::Text),
    ("office", "office", Kind::Text),
    ("joined", "joined_ms", Kind::Time),
    ("certified until", "certified_until_ms", Kind::Time),
    ("revoked", "revoked_ms", Kind::Time),
    ("was", "twin_of", Kind::Text),
];
const INVITATIONS: &[Column] = &[
    ("name", "name", Kind::Text),
    ("office", "office", Kind::Text),
    ("for", "uses", Kind::Text),
    ("until", "expires_ms", Kind::Time),
    ("was", "twin_of", Kind::Text),
];
const USERS: &[Column] = &[
    ("user", "name", Kind::Text),
    ("name", "full_name", Kind::Text),
    ("role", "role", Kind::Text),
    ("regions", "regions", Kind::Text),
    ("password", "has_password", Kind::Flag),
    ("link until", "welcome_until_ms", Kind::Time),
    ("disabled", "disabled", Kind::Flag),
];
const TOKENS: &[Column] = &[
    ("token", "name", Kind::Text),
    ("of", "user", Kind::Text),
    ("scopes", "scopes", Kind::Text),
    ("regions", "regions", Kind::Text),
    ("until", "expires_ms", Kind::Time),
];
const AVAILABILITY: &[Column] = &[
    ("code", "code", Kind::Text),
    ("name", "name", Kind::Text),
    ("offices", "offices", Kind::Text),
    ("available %", "percent", Kind::Text),
    ("of what was seen: %", "observed_percent", Kind::Text),
    ("down", "down_ms", Kind::Length),
    ("unobserved", "unobserved_ms", Kind::Length),
    ("announced work", "announced_ms", Kind::Length),
    ("counted", "counted_ms", Kind::Length),
];
const AUDIT: &[Column] = &[
    ("no.", "number", Kind::Text),
    ("at", "at_ms", Kind::Time),
    ("by", "by", Kind::Text),
    ("via", "via", Kind::Text),
    ("from", "from", Kind::Text),
    ("method", "method", Kind::Text),
    ("path", "path", Kind::Text),
    ("status", "status", Kind::Text),
];

/// Does what a command says.
pub(crate) async fn run(client: &Client, show: &Show, command: Command) -> anyhow::Result<()> {
    match command {
        Command::Status => status(client, show).await,
        Command::Office(command) => office(client, show, command).await,
        Command::Link(command) => link(client, show, command).await,
        Command::Incident(command) => incident(client, show, command).await,
        Command::Pattern(Pattern::List {
            region,
            kind,
            present,
        }) => {
            let present = present.then_some("true");
            let pairs = [
                ("region", region.as_deref()),
                ("kind", kind.as_deref()),
                ("present", present),
            ];
            let all = client.list("/api/v1/patterns", &pairs, ALL).await?;
            show.list(&all, PATTERNS, "There are no patterns.")
        }
        Command::Silence(command) => silence(client, show, command).await,
        Command::Receiver(command) => receiver(client, show, command).await,
        Command::Route(Route::Test {
            office,
            cause,
            relapse,
            pattern,
        }) => {
            let relapse = relapse.then_some("true");
            let pairs = [
                ("office", Some(office.as_str())),
                ("cause", Some(cause.as_str())),
                ("relapse", relapse),
                ("pattern", pattern.as_deref()),
            ];
            let said = client.get(&path_of("/api/v1/routes/test", &pairs)).await?;
            show.one(&said, |_| {
                rows(said.clone())
                    .iter()
                    .filter_map(Value::as_str)
                    .try_for_each(|text| line(&plain(text)))
            })
        }
        Command::Message(command) => message(client, show, command).await,
        Command::Agent(command) => agent(client, show, command).await,
        Command::Invitation(command) => invitation(client, show, command).await,
        Command::User(command) => user(client, show, command).await,
        Command::Token(command) => token(client, show, command).await,
        Command::Report {
            month,
            per,
            region,
            all_hours,
        } => {
            report(
                client,
                show,
                month.as_deref(),
                per,
                region.as_deref(),
                all_hours,
            )
            .await
        }
        Command::Audit { limit } => {
            let all = client.list("/api/v1/audit", &[], limit).await?;
            show.list(&all, AUDIT, "Nothing was done.")
        }
        Command::Watch { office, samples } => {
            watch::watch(client, show, office.as_deref(), samples).await
        }
        Command::Check(_)
        | Command::Completions { .. }
        | Command::Man { .. }
        | Command::Version => {
            unreachable!("done before a collector is asked")
        }
    }
}

async fn receiver(client: &Client, show: &Show, command: Receiver) -> anyhow::Result<()> {
    match command {
        Receiver::List => {
            let all = client.list("/api/v1/receivers", &[], ALL).await?;
            show.list(&all, RECEIVERS, "There are no receivers: nobody is told.")
        }
        Receiver::Test { name } => {
            let tested = post(
                client,
                &format!("/api/v1/receivers/{}/test", part(&name)),
                json!({}),
            )
            .await?;
            if tested["taken"] != true {
                bail!(
                    "{name} did not take it: {}",
                    plain(tested["error"].as_str().unwrap_or_default())
                );
            }
            line(&format!("{name} took it."))
        }
    }
}

async fn message(client: &Client, show: &Show, command: Message) -> anyhow::Result<()> {
    match command {
        Message::List => {
            let mut all = client.list("/api/v1/messages", &[], ALL).await?;
            for one in all
                .iter_mut()
                .filter(|one| !show.is_json() && !one["dead_ms"].is_null())
            {
                // It is not sent again by itself.
                one["next_ms"] = Value::Null;
            }
            show.list(&all, MESSAGES, "No message waits, and none is dead.")
        }
        Message::Resend { number } => {
            let sent = post(
                client,
                &format!("/api/v1/messages/{number}/resend"),
                json!({}),
            )
            .await?;
            show.list(&[sent], MESSAGES, "")
        }
    }
}

async fn report(
    client: &Client,
    show: &Show,
    month: Option<&str>,
    per: Per,
    region: Option<&str>,
    all_hours: bool,
) -> anyhow::Result<()> {
    let (from, to) = crate::show::month(month, region, Timestamp::now())?;
    let (from, to) = (from.to_string(), to.to_string());
    let pairs = [
        ("by", Some(per.as_str())),
        ("region", region),
        ("hours", Some(if all_hours { "all" } else { "opening" })),
        ("from_ms", Some(from.as_str())),
        ("to_ms", Some(to.as_str())),
    ];
    let all = client.list("/api/v1/availability", &pairs, ALL).await?;
    show.list(&all, AVAILABILITY, "There is no such office.")
}

fn rows(value: Value) -> Vec<Value> {
    match value {
        Value::Array(rows) => rows,
        _ => Vec::new(),
    }
}

async fn post(client: &Client, path: &str, body: Value) -> anyhow::Result<Value> {
    client.json(Method::POST, path, Some(&body)).await
}

async fn status(client: &Client, show: &Show) -> anyhow::Result<()> {
    let offices = client.list("/api/v1/offices", &[], ALL).await?;
    let open = client
        .list("/api/v1/incidents", &[("open", Some("true"))], ALL)
        .await?;
    let states = [
        "down",
        "unobserved",
        "suspect",
        "recovering",
        "maintenance",
        "unknown",
        "closed",
        "up",
    ];
    let count = |state: &str| {
        offices
            .iter()
            .filter(|office| office["state"] == state)
            .count()
    };
    let counts: Vec<(&str, usize)> = states
        .iter()
        .map(|state| (*state, count(state)))
        .filter(|(_, count)| *count > 0)
        .collect();
    if show.is_json() {
        let states: serde_json::Map<String, Value> = counts
            .iter()
            .map(|(state, count)| ((*state).to_owned(), json!(count)))
            .collect();
        return line(&serde_json::to_string_pretty(
            &json!({"offices": offices.len(), "states": states, "open": open}),
        )?);
    }
    let texts: Vec<String> = counts
        .iter()
        .map(|(state, count)| show.state(state, &format!("{count} {state}")))
        .collect();
    if !show.is_csv() {
        let noun = if offices.len() == 1 {
            "office"
        } else {
            "offices"
        };
        line(&format!("{} {noun}: {}", offices.len(), texts.join(", ")))?;
    }
    // The worst first: what hit many, then what lasts longest.
    let mut open = located(open);
    open.sort_by_key(|one| {
        (
            std::cmp::Reverse(one["scope"]["failed"].as_u64()),
            one["opened_ms"].as_i64(),
        )
    });
    show.list(&open, INCIDENTS, "No incident is open.")
}

/// Incidents that say where they are, whether at an office or as a common cause.
fn located(mut incidents: Vec<Value>) -> Vec<Value> {
    for one in &mut incidents {
        let place = match &one["scope"] {
            Value::Null => one["office"].clone(),
            scope => json!(
                format!(
                    "{} of {} in {} {}",
                    scope["failed"],
                    scope["watched"],
                    scope["kind"].as_str().unwrap_or_default(),
                    scope["code"].as_str().unwrap_or_default()
                )
                .trim_end()
            ),
        };
        one["where"] = place;
    }
    incidents
}

async fn office(client: &Client, show: &Show, command: Office) -> anyhow::Result<()> {
    match command {
        Office::List {
            region,
            state,
            isp,
            cause,
            text,
        } => {
            let pairs = [
                ("region", region.as_deref()),
                ("state", state.as_deref()),
                ("isp", isp.as_deref()),
                ("cause", cause.as_deref()),
                ("q", text.as_deref()),
            ];
            let all = client.list("/api/v1/offices", &pairs, ALL).await?;
            show.list(&all, OFFICES, "There is no such office.")
        }
        Office::Show { office } => {
            let view = client
                .get(&format!("/api/v1/offices/{}", part(&office)))
                .await?;
            show.one(&view, |show| office_in_words(show, &view))
        }
        Office::Import { file, dry_run } => {
            let wish = json!({"offices": offices_of(&file)?, "rehearsal": dry_run});
            let done = client
                .json(Method::POST, "/api/v1/registrations", Some(&wish))
                .await?;
            show.one(&done, |_| {
                let count = |name: &str| done[name].as_u64().unwrap_or(0);
                let would = if dry_run { " (nothing was done)" } else { "" };
                line(&format!(
                    "{} added, {} changed, {} as they were{would}",
                    count("added"),
                    count("changed"),
                    count("same")
                ))
            })
        }
        Office::Remove { office } => {
            let path = format!("/api/v1/registrations/{}", part(&office));
            client.json(Method::DELETE, &path, None).await?;
            line(&format!("{} is removed", plain(&office)))
        }
    }
}

/// The offices of a CSV file, as the API takes them.
fn offices_of(file: &Path) -> anyhow::Result<Vec<Value>> {
    const TEXTS: [&str; 7] = ["code", "name", "regency", "isp", "pop", "pool", "hours"];
    const NUMBERS: [&str; 2] = ["latitude", "longitude"];
    let input = if file == Path::new("-") {
        let mut input = Vec::new();
        std::io::stdin().read_to_end(&mut input).map(|_| input)
    } else {
        std::fs::read(file)
    };
    let input = input.with_context(|| format!("cannot read {}", file.display()))?;
    let mut reader = csv::ReaderBuilder::new()
        .trim(csv::Trim::All)
        .from_reader(input.as_slice());
    let names = reader
        .headers()
        .context("cannot read the first line")?
        .clone();
    let is_known = |name: &&str| TEXTS.contains(name) || NUMBERS.contains(name);
    if names.iter().any(|name| name == "agents") {
        bail!(
            "the column `agents` is for offices of the configuration; leave it out: machines of registered offices come by invitation"
        );
    }
    if let Some(name) = names.iter().find(|name| !is_known(name)) {
        bail!(
            "the column `{}` is not known; write code,name and any of regency,isp,pop,pool,latitude,longitude,hours",
            name.escape_debug()
        );
    }
    let mut offices = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|error| anyhow::anyhow!("{error}"))?;
        let number = record.position().map_or(0, |at| line_of(&input, at));
        let mut office = serde_json::Map::new();
        for (name, text) in names
            .iter()
            .zip(&record)
            .filter(|(_, text)| !text.is_empty())
        {
            let value = if NUMBERS.contains(&name) {
                let degrees: f64 = text.parse().map_err(|_| {
                    anyhow::anyhow!("line {number}: `{name}` = `{}`: not a number; write degrees like `-6.1201` with a point", text.escape_debug())
                })?;
                json!(degrees)
            } else {
                json!(text)
            };
            office.insert(name.to_owned(), value);
        }
        for name in ["code", "name"] {
            if !office.contains_key(name) {
                bail!("line {number}: `{name}` is missing");
            }
        }
        offices.push(Value::Object(office));
    }
    Ok(offices)
}

/// The line of a record that begins behind this place and the empty lines there.
fn line_of(text: &[u8], at: &csv::Position) -> u64 {
    let from = usize::try_from(at.byte()).unwrap_or(usize::MAX);
    let rest = text.get(from..).unwrap_or_default();
    let empty = rest.iter().take_while(|byte| matches!(byte, b'\r' | b'\n'));
    at.line() + empty.filter(|byte| **byte == b'\n').count() as u64
}

fn office_in_words(show: &Show, view: &Value) -> anyhow::Result<()> {
    if show.is_csv() {
        return show.list(&rows(view["links"].clone()), LINKS, "");
    }
    let text = |name: &str| plain(view[name].as_str().unwrap_or_default());
    let code = view["code"].as_str();
    let state = text("state");
    let since = view["since_ms"].as_i64();
    let since = since.map_or_else(String::new, |at| {
        format!(" since {} ({})", time(at, code), length(now() - at))
    });
    line(&format!(
        "{} {}: {}{since}",
        show.strong(&text("code")),
        text("name"),
        show.state(&state, &state)
    ))?;
    let facts: Vec<String> = ["regency", "isp"]
        .iter()
        .map(|name| text(name))
        .filter(|text| !text.is_empty())
        .collect();
    if !facts.is_empty() {
        line(&facts.join(", "))?;
    }
    if let Some(number) = view["incident"].as_u64() {
        line(&format!(
            "Incident #{number} is open: `denyutctl incident show {number}`"
        ))?;
    }
    if let Some(from) = view["maintenance"]["from_ms"].as_i64() {
        let until = view["maintenance"]["until_ms"].as_i64().unwrap_or(from);
        let why = plain(view["maintenance"]["reason"].as_str().unwrap_or_default());
        line(&format!(
            "Work is announced from {} until {}: {why}",
            time(from, code),
            time(until, code)
        ))?;
    }
    line("")?;
    show.list(
        &rows(view["links"].clone()),
        LINKS,
        "Nothing was heard of it yet.",
    )?;
    for agent in rows(view["agents"].clone()) {
        let state = agent["state"].as_str().unwrap_or_default();
        let last = agent["last_ms"]
            .as_i64()
            .map_or_else(|| "never".to_owned(), |at| time(at, code));
        let version = plain(agent["version"].as_str().unwrap_or("unknown"));
        line(&format!(
            "agent {}: {}, version {version}, last heard {last}",
            agent["agent"].as_str().unwrap_or_default(),
            show.state(state, state)
        ))?;
    }
    let patterns = rows(view["patterns"].clone());
    if !patterns.is_empty() {
        line("")?;
        let mut patterns = patterns;
        for one in &mut patterns {
            one["office"] = view["code"].clone();
        }
        show.list(&patterns, PATTERNS, "")?;
    }
    Ok(())
}

/// The path of a link that is written `agent/target`.
pub(crate) fn link_path(office: &str, link: &str) -> anyhow::Result<String> {
    let (agent, target) = link.split_once('/').with_context(|| {
        format!("`{link}` is no link; write it like `cipocok-jaya-1/server`, as `office show` does")
    })?;
    Ok(format!(
        "/api/v1/offices/{}/links/{}/{}",
        part(office),
        part(agent),
        part(target)
    ))
}

async fn link(client: &Client, show: &Show, command: Link) -> anyhow::Result<()> {
    match command {
        Link::Show { office, link, last } => {
            let path = link_path(&office, &link)?;
            let last = humantime::parse_duration(&last)
                .with_context(|| format!("`--last` = `{last}`: write it like `24h` or `7days`"))?;
            let last = i64::try_from(last.as_millis())
                .unwrap_or(i64::MAX)
                .clamp(60_000, 3_660 * 86_400_000);
            let view = client.get(&path).await?;
            let (width, until) = (plot::width(), now());
            let step = plot::step(last, width);
            let from = until - last;
            let buckets = client
                .get(&format!(
                    "{path}/buckets?from_ms={from}&to_ms={until}&step_ms={step}"
                ))
                .await?;
            if show.is_csv() {
                return show.list(&rows(buckets["buckets"].clone()), BUCKETS, "");
            }
            let paths = client.get(&format!("{path}/paths")).await?;
            show.one(&buckets, |show| {
                plot::draw(show, &view, &buckets, from, until, step)?;
                plot::paths(&view, &paths, from, until)
            })
        }
        Link::Probe { office, link } => {
            let path = link_path(&office, &link)?;
            post(client, &format!("{path}/probe"), json!({})).await?;
            line("The agent was asked; the sample comes as any other.")
        }
    }
}

async fn incident(client: &Client, show: &Show, command: Incident) -> anyhow::Result<()> {
    let (number, deed, body) = match command {
        Incident::List {
            all,
            office,
            region,
            cause,
            limit,
        } => {
            let open = (!all).then_some("true");
            let pairs = [
                ("open", open),
                ("office", office.as_deref()),
                ("region", region.as_deref()),
                ("cause", cause.as_deref()),
            ];
            let found = client.list("/api/v1/incidents", &pairs, limit).await?;
            let found = if show.is_json() {
                found
            } else {
                located(found)
            };
            return show.list(
                &found,
                INCIDENTS,
                if all {
                    "There are no incidents."
                } else {
                    "There are no open incidents."
                },
            );
        }
        Incident::Show { number } => {
            let view = client.get(&format!("/api/v1/incidents/{number}")).await?;
            return show.one(&view, |show| incident_in_words(show, &view));
        }
        Incident::Acknowledge { number, why, lasts } => {
            (number, "acknowledge", json!({"why": why, "for": lasts}))
        }
        Incident::Withdraw { number, why } => (number, "withdraw", json!({"why": why})),
        Incident::Note { number, text } => (number, "notes", json!({"text": text})),
        Incident::Assign { number, to } => (number, "assign", json!({"to": to})),
    };
    let view = post(client, &format!("/api/v1/incidents/{number}/{deed}"), body).await?;
    show.list(&located(vec![view]), INCIDENTS, "")
}

/// All of it that people look for.
fn incident_in_words(show: &Show, view: &Value) -> anyhow::Result<()> {
    let place = region(view);
    show.list(&located(vec![view.clone()]), INCIDENTS, "")?;
    if show.is_csv() {
        return Ok(());
    }
    line("")?;
    line(&show.strong(&words::cause(&view["cause"])))?;
    for one in rows(view["evidence"].clone()) {
        line(&format!("- {}", words::evidence(&one)))?;
    }
    if let Some(percent) = view["confidence"].as_u64().filter(|percent| *percent > 0) {
        line(&format!("Certainty: {percent} %"))?;
    }
    if let Some(at) = view["paged_ms"].as_i64() {
        line(&format!(
            "Somebody is to be called since {}.",
            time(at, place)
        ))?;
    }
    for (what, field) in [("came back after", "relapse_of"), ("is part of", "parent")] {
        if let Some(number) = view[field].as_u64() {
            line(&format!("It {what} #{number}."))?;
        }
    }
    line("")?;
    // What happened, what people did and who was told, in the order of time.
    let mut lines: Vec<(i64, String)> = Vec::new();
    for revision in rows(view["revisions"].clone()) {
        // What is thought of it changes when something is learned, whenever that happened.
        let at = if revision["kind"] == "reclassify" {
            "recorded_ms"
        } else {
            "at_ms"
        };
        lines.push((
            revision[at].as_i64().unwrap_or(0),
            words::revision(&revision),
        ));
    }
    for step in rows(view["steps"].clone()) {
        let by = plain(step["by"].as_str().unwrap_or_default());
        lines.push((
            step["at_ms"].as_i64().unwrap_or(0),
            format!("{by} {}", step_in_words(&step, place)),
        ));
    }
    for told in rows(view["told"].clone()) {
        lines.push((told["at_ms"].as_i64().unwrap_or(0), words::told(&told)));
    }
    lines.sort_by_key(|(at, _)| *at);
    for (at, text) in lines {
        line(format!("  {}  {text}", time(at, place)).trim_end())?;
    }
    Ok(())
}

/// What somebody did, in words.
fn step_in_words(step: &Value, place: Option<&str>) -> String {
    let text = |name: &str| step[name].as_str().map(plain);
    let why = text("why").map_or_else(String::new, |why| format!(": {why}"));
    match step["what"].as_str().unwrap_or_default() {
        "acknowledge" => format!(
            "knows of it until {}{why}",
            time(step["until_ms"].as_i64().unwrap_or(0), place)
        ),
        "withdraw" => format!("took the acknowledgement back{why}"),
        "note" => format!("notes: {}", text("text").unwrap_or_default()),
        "assign" => format!(
            "gave it to {}",
            text("to").unwrap_or_else(|| "nobody".to_owned())
        ),
        other => other.to_owned(),
    }
}

async fn silence(client: &Client, show: &Show, command: Silence) -> anyhow::Result<()> {
    let made = match command {
        Silence::List => {
            let all = client.list("/api/v1/silences", &[], ALL).await?;
            return show.list(&all, SILENCES, "There are no silences.");
        }
        Silence::Add {
            regions,
            causes,
            why,
            lasts,
        } => {
            let wish = json!({"regions": regions, "causes": causes, "why": why, "for": lasts});
            post(client, "/api/v1/silences", wish).await?
        }
        Silence::Expire { number } => {
            post(client, &format!("/api/v1/silences/{number}/end"), json!({})).await?
        }
    };
    show.list(&[made], SILENCES, "")
}

async fn agent(client: &Client, show: &Show, command: Agent) -> anyhow::Result<()> {
    match command {
        Agent::List { region } => {
            let all = client
                .list("/api/v1/agents", &[("region", region.as_deref())], ALL)
                .await?;
            show.list(&all, AGENTS, "No agent has joined.")
        }
        Agent::Revoke { agent } => {
            let revoked = post(
                client,
                &format!("/api/v1/agents/{}/revoke", part(&agent)),
                json!({}),
            )
            .await?;
            for one in rows(revoked) {
                let one = one.as_str().unwrap_or_default();
                let why = if one == agent {
                    ""
                } else {
                    ", which was the same machine's before"
                };
                line(&format!("{one} is shut out{why}."))?;
            }
            Ok(())
        }
    }
}

async fn invitation(client: &Client, show: &Show, command: Invitation) -> anyhow::Result<()> {
    match command {
        Invitation::List => {
            let all = client.list("/api/v1/invitations", &[], ALL).await?;
            show.list(&all, INVITATIONS, "There are no invitations.")
        }
        Invitation::Create {
            office,
            expires,
            uses,
            at,
        } => {
            let body = json!({"office": office, "expires": expires, "uses": uses, "address": at});
            let made = post(client, "/api/v1/invitations", body).await?;
            let until = time(made["expires_ms"].as_i64().unwrap_or(0), Some(&office));
            let machines = if uses == 1 {
                "one machine".to_owned()
            } else {
                format!("{uses} machines")
            };
            show.one(&made, |_| {
                eprintln!("For {machines} of office {office}, until {until}. On the machine, as administrator:");
                line(&format!("denyut-agent join '{}'", made["invitation"].as_str().unwrap_or_default()))
            })
        }
        Invitation::Revoke { name } => {
            client
                .json(
                    Method::DELETE,
                    &format!("/api/v1/invitations/{}", part(&name)),
                    None,
                )
                .await?;
            line(&format!("Nobody can join by {name} any more."))
        }
    }
}

async fn user(client: &Client, show: &Show, command: User) -> anyhow::Result<()> {
    let path = |name: &str| format!("/api/v1/users/{}", part(name));
    let (name, change) = match command {
        User::List => {
            let all = client.list("/api/v1/users", &[], ALL).await?;
            return show.list(&all, USERS, "There are no users.");
        }
        User::Add {
            name,
            full_name,
            role,
            regions,
        } => {
            let body = json!({"name": name, "full_name": full_name, "role": role.as_str(), "regions": regions});
            let made = post(client, "/api/v1/users", body).await?;
            return welcomed(show, &made);
        }
        User::Welcome { name } => {
            let made = post(client, &format!("{}/welcome", path(&name)), json!({})).await?;
            return welcomed(show, &made);
        }
        User::Remove { name } => {
            client.json(Method::DELETE, &path(&name), None).await?;
            return line(&format!("{name} is removed."));
        }
        User::Change {
            name,
            full_name,
            role,
            regions,
        } => {
            let regions = (!regions.is_empty()).then_some(regions);
            (
                name,
                json!({"full_name": full_name, "role": role.map(crate::arguments::Role::as_str), "regions": regions}),
            )
        }
        User::Disable { name } => (name, json!({"disabled": true})),
        User::Enable { name } => (name, json!({"disabled": false})),
    };
    let changed = client
        .json(Method::PATCH, &path(&name), Some(&change))
        .await?;
    show.list(&[changed], USERS, "")
}

/// The link to choose a password by.
fn welcomed(show: &Show, made: &Value) -> anyhow::Result<()> {
    show.one(made, |_| {
        let user = &made["user"];
        let until = time(user["welcome_until_ms"].as_i64().unwrap_or(0), region(user));
        eprintln!(
            "Whoever opens this until {until} chooses the password of {}, once:",
            user["name"].as_str().unwrap_or_default()
        );
        line(made["link"].as_str().unwrap_or_default())
    })
}

async fn token(client: &Client, show: &Show, command: Token) -> anyhow::Result<()> {
    match command {
        Token::List => {
            let all = client.list("/api/v1/tokens", &[], ALL).await?;
            show.list(&all, TOKENS, "There are no tokens.")
        }
        Token::Create {
            name,
            scopes,
            regions,
            expires,
        } => {
            let scopes: Vec<&str> = scopes
                .into_iter()
                .map(crate::arguments::Scope::as_str)
                .collect();
            let regions = (!regions.is_empty()).then_some(regions);
            let body =
                json!({"name": name, "scopes": scopes, "regions": regions, "expires": expires});
            let made = post(client, "/api/v1/tokens", body).await?;
            show.one(&made, |_| {
                eprintln!(
                    "Good until {}; nobody can see it again:",
                    time(made["expires_ms"].as_i64().unwrap_or(0), region(&made))
                );
                line(made["token"].as_str().unwrap_or_default())
            })
        }
        Token::Remove { name } => {
            client
                .json(
                    Method::DELETE,
                    &format!("/api/v1/tokens/{}", part(&name)),
                    None,
                )
                .await?;
            line(&format!("{name} is worth nothing any more."))
        }
    }
}
