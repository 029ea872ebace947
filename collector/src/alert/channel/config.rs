//! How receivers are reached, as the configuration says it.

use super::mail::{Security, Server};
use super::{Brand, Channel, Chat, Exec, Gateway, Mail, Secret, Token, Webhook, below, client};
use crate::alert::Alertmanager;
use crate::alert::config::within;
use crate::alert::notice::Notice;
use crate::alert::outbox::Message;
use crate::alert::telegram::{Answers, User};
use crate::alert::template::Template;
use anyhow::{Context, bail};
use denyut_proto::Invalid;
use reqwest::Url;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct HookSection {
    url: Option<String>,
    url_file: Option<PathBuf>,
    ca: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WebhookSection {
    url: Option<String>,
    url_file: Option<PathBuf>,
    secret_file: Option<PathBuf>,
    ca: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TelegramSection {
    chat: String,
    token_file: PathBuf,
    topic: Option<i64>,
    #[serde(default)]
    users: Vec<UserSection>,
    api: Option<String>,
    ca: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct UserSection {
    id: i64,
    name: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WhatsAppSection {
    phone: String,
    to: String,
    token_file: PathBuf,
    template: Option<String>,
    template_language: Option<String>,
    api: Option<String>,
    ca: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SlackSection {
    channel: Option<String>,
    token_file: Option<PathBuf>,
    url: Option<String>,
    url_file: Option<PathBuf>,
    api: Option<String>,
    ca: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MattermostSection {
    server: Option<String>,
    channel: Option<String>,
    token_file: Option<PathBuf>,
    url: Option<String>,
    url_file: Option<PathBuf>,
    ca: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RocketChatSection {
    server: Option<String>,
    room: Option<String>,
    user: Option<String>,
    token_file: Option<PathBuf>,
    url: Option<String>,
    url_file: Option<PathBuf>,
    ca: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MatrixSection {
    server: String,
    room: String,
    token_file: PathBuf,
    ca: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NtfySection {
    topic: String,
    server: Option<String>,
    token_file: Option<PathBuf>,
    ca: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MailSection {
    server: String,
    from: String,
    to: Vec<String>,
    user: Option<String>,
    password_file: Option<PathBuf>,
    ca: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct HttpSection {
    url: Option<String>,
    url_file: Option<PathBuf>,
    method: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    body: String,
    token_file: Option<PathBuf>,
    success: Option<String>,
    text_max: Option<usize>,
    ca: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AlertmanagerSection {
    urls: Vec<String>,
    user: Option<String>,
    password_file: Option<PathBuf>,
    token_file: Option<PathBuf>,
    every: Option<String>,
    ca: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExecSection {
    program: PathBuf,
    #[serde(default)]
    arguments: Vec<String>,
    timeout: Option<String>,
}

/// The address of a receiver: https, or http on loopback.
pub(crate) fn hook(field: &str, text: &str) -> Result<Url, Invalid> {
    let url: Url = text.trim().parse().map_err(|_| {
        Invalid::new(
            field,
            "(not shown)",
            "not an address",
            "write it like `https://hooks.example/denyut`",
        )
    })?;
    // All but the host may be a secret, as chats give it.
    let hidden = || {
        let host = url.host_str().unwrap_or_default();
        format!("{}://{host}/…", url.scheme())
    };
    if url.scheme() != "https" && !(url.scheme() == "http" && is_loopback(url.host_str())) {
        return Err(Invalid::new(
            field,
            hidden(),
            "plaintext is only for loopback",
            "use https (or http on loopback)",
        ));
    }
    Ok(url)
}

fn is_loopback(host: Option<&str>) -> bool {
    match host {
        Some("localhost") => true,
        Some(host) => host
            .trim_matches(['[', ']'])
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback()),
        None => false,
    }
}

/// Where a section stands: errors name it, and its files lie in a folder.
pub(crate) struct Place<'a> {
    pub(crate) at: String,
    pub(crate) folder: &'a Path,
}

impl Place<'_> {
    pub(crate) fn field(&self, name: &str) -> String {
        format!("{}.{name}", self.at)
    }

    pub(crate) fn invalid(
        &self,
        name: &str,
        value: String,
        problem: &str,
        fix: &str,
    ) -> anyhow::Error {
        Invalid::new(self.field(name), value, problem, fix).into()
    }

    fn client(&self, name: &str, ca: Option<PathBuf>) -> anyhow::Result<reqwest::Client> {
        let ca = ca.map(|file| self.folder.join(file));
        client(ca.as_deref()).with_context(|| format!("`{}`", self.field(&format!("{name}.ca"))))
    }

    /// The secret in a file.
    fn token(&self, name: &str, file: &Path) -> anyhow::Result<Token> {
        Token::read(&self.folder.join(file)).with_context(|| format!("`{}`", self.field(name)))
    }

    fn maybe_token(&self, name: &str, file: Option<&Path>) -> anyhow::Result<Option<Token>> {
        file.map(|file| self.token(name, file)).transpose()
    }

    /// The address that is written down, or stands in a file: it may be a secret.
    fn url(&self, name: &str, text: Option<&str>, file: Option<&Path>) -> anyhow::Result<Url> {
        let field = |part: &str| self.field(&format!("{name}.{part}"));
        match (text, file) {
            (Some(text), None) => Ok(hook(&field("url"), text)?),
            (None, Some(file)) => {
                let text = self.token(&format!("{name}.url_file"), file)?;
                Ok(hook(&field("url_file"), text.show())?)
            }
            _ => {
                let fix = "write one of `url` and `url_file`";
                Err(Invalid::new(field("url"), "", "not one address", fix).into())
            }
        }
    }

    /// The address of an API, if it is not the usual one.
    fn api(&self, name: &str, text: Option<&str>, usual: &str) -> anyhow::Result<Url> {
        Ok(hook(&self.field(name), text.unwrap_or(usual))?)
    }
}

impl HookSection {
    pub(crate) fn read(
        self,
        at: &Place<'_>,
        name: &str,
        brand: impl Fn(Url) -> Brand,
    ) -> anyhow::Result<Channel> {
        let url = at.url(name, self.url.as_deref(), self.url_file.as_deref())?;
        Ok(Channel::Chat(Chat {
            brand: brand(url),
            client: at.client(name, self.ca)?,
        }))
    }
}

impl WebhookSection {
    pub(crate) fn read(self, at: &Place<'_>) -> anyhow::Result<Channel> {
        let secret = match &self.secret_file {
            None => None,
            Some(file) => {
                let file = at.folder.join(file);
                let field = at.field("webhook.secret_file");
                let text = std::fs::read_to_string(&file)
                    .with_context(|| format!("`{field}`: cannot read {}", file.display()))?;
                let secret = Secret::read(&text);
                Some(secret.with_context(|| format!("`{field}`: {}", file.display()))?)
            }
        };
        Ok(Channel::Webhook(Webhook {
            url: at.url("webhook", self.url.as_deref(), self.url_file.as_deref())?,
            secret,
            client: at.client("webhook", self.ca)?,
        }))
    }
}

impl TelegramSection {
    pub(crate) fn read(self, at: &Place<'_>) -> anyhow::Result<Channel> {
        let is_chat = self.chat.parse::<i64>().is_ok()
            || self
                .chat
                .strip_prefix('@')
                .is_some_and(|name| !name.is_empty());
        if !is_chat {
            let fix = "write the number of the chat as text, like `\"-1001234567890\"`, or `\"@channel\"`";
            return Err(at.invalid("telegram.chat", self.chat, "not a chat", fix));
        }
        let api = at.api(
            "telegram.api",
            self.api.as_deref(),
            "https://api.telegram.org",
        )?;
        let token = at.token("telegram.token_file", &self.token_file)?;
        let client = at.client("telegram", self.ca)?;
        let mut users = Vec::new();
        for user in self.users {
            let name = user.name.trim().to_owned();
            if name.is_empty() || name.chars().count() > 100 || name.contains(char::is_control) {
                let fix = "write 1 to 100 characters";
                return Err(at.invalid("telegram.users.name", name, "not a name", fix));
            }
            users.push(User { id: user.id, name });
        }
        if !users.is_empty() && self.chat.parse::<i64>().is_err() {
            let fix = "write the chat's number: who answers is known by it";
            return Err(at.invalid("telegram.chat", self.chat, "not a number", fix));
        }
        let answers = Answers {
            api: api.clone(),
            token: token.clone(),
            chat: self.chat.parse().unwrap_or_default(),
            users,
            client: client.clone(),
        };
        let brand = Brand::Telegram {
            api,
            token,
            chat: self.chat,
            topic: self.topic,
            answers: (!answers.users.is_empty()).then(|| Arc::new(answers)),
        };
        Ok(Channel::Chat(Chat { brand, client }))
    }
}

impl WhatsAppSection {
    pub(crate) fn read(self, at: &Place<'_>) -> anyhow::Result<Channel> {
        for (field, number) in [("whatsapp.phone", &self.phone), ("whatsapp.to", &self.to)] {
            if number.is_empty() || !number.bytes().all(|b| b.is_ascii_digit()) {
                let fix =
                    "write digits only; a telephone number begins with the country, like `62812…`";
                return Err(at.invalid(field, number.clone(), "not a number", fix));
            }
        }
        let usual = "https://graph.facebook.com/v24.0";
        let language = self.template_language.unwrap_or_else(|| "id".to_owned());
        let brand = Brand::WhatsApp {
            api: at.api("whatsapp.api", self.api.as_deref(), usual)?,
            token: at.token("whatsapp.token_file", &self.token_file)?,
            phone: self.phone,
            to: self.to,
            template: self.template.map(|name| (name, language)),
        };
        let client = at.client("whatsapp", self.ca)?;
        Ok(Channel::Chat(Chat { brand, client }))
    }
}

impl SlackSection {
    pub(crate) fn read(self, at: &Place<'_>) -> anyhow::Result<Channel> {
        let brand = match (self.channel, &self.token_file) {
            (Some(channel), Some(file)) => Brand::Slack {
                api: at.api("slack.api", self.api.as_deref(), "https://slack.com/api")?,
                token: at.token("slack.token_file", file)?,
                channel,
            },
            (None, None) => Brand::Incoming {
                name: "slack",
                url: at.url("slack", self.url.as_deref(), self.url_file.as_deref())?,
            },
            _ => return Err(halves(at, "slack", "`channel` and `token_file`")),
        };
        let client = at.client("slack", self.ca)?;
        Ok(Channel::Chat(Chat { brand, client }))
    }
}

impl MattermostSection {
    pub(crate) fn read(self, at: &Place<'_>) -> anyhow::Result<Channel> {
        let brand = match (&self.server, self.channel, &self.token_file) {
            (Some(server), Some(channel), Some(file)) => Brand::Mattermost {
                server: hook(&at.field("mattermost.server"), server)?,
                token: at.token("mattermost.token_file", file)?,
                channel,
            },
            (None, None, None) => Brand::Incoming {
                name: "mattermost",
                url: at.url("mattermost", self.url.as_deref(), self.url_file.as_deref())?,
            },
            _ => {
                return Err(halves(
                    at,
                    "mattermost",
                    "`server`, `channel` and `token_file`",
                ));
            }
        };
        let client = at.client("mattermost", self.ca)?;
        Ok(Channel::Chat(Chat { brand, client }))
    }
}

impl RocketChatSection {
    pub(crate) fn read(self, at: &Place<'_>) -> anyhow::Result<Channel> {
        let brand = match (&self.server, self.room, self.user, &self.token_file) {
            (Some(server), Some(room), Some(user), Some(file)) => Brand::RocketChat {
                server: hook(&at.field("rocketchat.server"), server)?,
                token: at.token("rocketchat.token_file", file)?,
                user,
                room,
            },
            (None, None, None, None) => Brand::Incoming {
                name: "rocketchat",
                url: at.url("rocketchat", self.url.as_deref(), self.url_file.as_deref())?,
            },
            _ => {
                return Err(halves(
                    at,
                    "rocketchat",
                    "`server`, `room`, `user` and `token_file`",
                ));
            }
        };
        let client = at.client("rocketchat", self.ca)?;
        Ok(Channel::Chat(Chat { brand, client }))
    }
}

/// Some of what belongs together is missing.
fn halves(at: &Place<'_>, name: &str, whole: &str) -> anyhow::Error {
    let fix = format!("write {whole}, or the `url` of an incoming webhook");
    Invalid::new(at.field(name), "(incomplete)", "something is missing", fix).into()
}

impl MatrixSection {
    pub(crate) fn read(self, at: &Place<'_>) -> anyhow::Result<Channel> {
        if !self.room.starts_with('!') {
            let fix = "write the room's internal id, which begins with `!`";
            return Err(at.invalid("matrix.room", self.room, "not a room", fix));
        }
        let brand = Brand::Matrix {
            server: hook(&at.field("matrix.server"), &self.server)?,
            token: at.token("matrix.token_file", &self.token_file)?,
            room: self.room,
        };
        let client = at.client("matrix", self.ca)?;
        Ok(Channel::Chat(Chat { brand, client }))
    }
}

impl NtfySection {
    pub(crate) fn read(self, at: &Place<'_>) -> anyhow::Result<Channel> {
        let is_topic = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if !(1..=64).contains(&self.topic.len()) || !self.topic.chars().all(is_topic) {
            let fix = "write 1 to 64 of A-Z, a-z, 0-9, `-` and `_`";
            return Err(at.invalid("ntfy.topic", self.topic, "not a topic", fix));
        }
        let brand = Brand::Ntfy {
            server: at.api("ntfy.server", self.server.as_deref(), "https://ntfy.sh")?,
            token: at.maybe_token("ntfy.token_file", self.token_file.as_deref())?,
            topic: self.topic,
        };
        let client = at.client("ntfy", self.ca)?;
        Ok(Channel::Chat(Chat { brand, client }))
    }
}

impl MailSection {
    pub(crate) fn read(self, at: &Place<'_>) -> anyhow::Result<Channel> {
        let fix = "write `smtps://host` (TLS, port 465), or `smtp://host` (STARTTLS, port 587; plaintext on loopback)";
        let url: Option<Url> = self.server.parse().ok();
        let wrong = |problem: &str| at.invalid("mail.server", self.server.clone(), problem, fix);
        let (Some(url), Some(host)) = (&url, url.as_ref().and_then(Url::host_str)) else {
            return Err(wrong("not an address"));
        };
        let host = host.trim_matches(['[', ']']);
        let (security, port) = match url.scheme() {
            "smtps" => (Security::Tls, 465),
            "smtp" if is_loopback(Some(host)) && self.ca.is_none() => (Security::Plain, 25),
            "smtp" => (Security::StartTls, 587),
            _ => return Err(wrong("neither `smtp` nor `smtps`")),
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err(wrong(
                "with a name or a password, which belong in `user` and `password_file`",
            ));
        }
        let mailbox = |field: &str, text: &str| {
            let parsed: Result<lettre::message::Mailbox, _> = text.parse();
            let fix = "write it like `denyut@example.go.id` or `Denyut <denyut@example.go.id>`";
            parsed.map_err(|_| at.invalid(field, text.to_owned(), "not a mail address", fix))
        };
        let to = self.to.iter().map(|one| mailbox("mail.to", one));
        let to = to.collect::<anyhow::Result<Vec<_>>>()?;
        if to.is_empty() || to.len() > 100 {
            let fix = "name 1 to 100 addresses";
            return Err(at.invalid(
                "mail.to",
                to.len().to_string(),
                "not a number of addresses",
                fix,
            ));
        }
        let login = match (self.user, &self.password_file) {
            (Some(user), Some(file)) => Some((user, at.token("mail.password_file", file)?)),
            (None, None) => None,
            _ => {
                let fix = "write both, or none";
                let problem = "only one of `user` and `password_file` is set";
                return Err(at.invalid("mail.user", "(incomplete)".to_owned(), problem, fix));
            }
        };
        let ca = self.ca.map(|file| at.folder.join(file));
        let server = Server {
            host,
            port: url.port().unwrap_or(port),
            security,
            login,
            ca: ca.as_deref(),
        };
        Ok(Channel::Mail(Mail {
            from: mailbox("mail.from", &self.from)?,
            to,
            transport: server
                .transport()
                .with_context(|| format!("`{}`", at.field("mail.ca")))?,
        }))
    }
}

impl HttpSection {
    pub(crate) fn read(self, at: &Place<'_>) -> anyhow::Result<Channel> {
        let text_max = self.text_max.unwrap_or(4_000);
        if !(100..=20_000).contains(&text_max) {
            let fix = "write 100 to 20000 bytes";
            return Err(at.invalid("http.text_max", text_max.to_string(), "out of range", fix));
        }
        let method = self.method.as_deref().unwrap_or("POST");
        let method = match method {
            "POST" => reqwest::Method::POST,
            "PUT" => reqwest::Method::PUT,
            _ => {
                let fix = "write POST or PUT";
                return Err(at.invalid("http.method", method.to_owned(), "not a method", fix));
            }
        };
        let mut headers = Vec::new();
        for (name, value) in &self.headers {
            let field = || format!("`{}`", at.field(&format!("http.headers.{name}")));
            let template = Template::read(value).with_context(field)?;
            let name = name.to_lowercase().parse();
            let name: reqwest::header::HeaderName = name.with_context(field)?;
            headers.push((name, template));
        }
        let body = Template::read(&self.body);
        let gateway = Gateway {
            method,
            url: at.url("http", self.url.as_deref(), self.url_file.as_deref())?,
            headers,
            body: body.with_context(|| format!("`{}`", at.field("http.body")))?,
            token: at.maybe_token("http.token_file", self.token_file.as_deref())?,
            success: self.success,
            text_max,
            client: at.client("http", self.ca)?,
        };
        // Tried once, so that a misspelt place is not found in the night.
        let sample = Message::sample(Notice {
            title: "Cipocok Jaya: \"mati\"".to_owned(),
            text: "baris satu\nbaris \"dua\"".to_owned(),
            ..Notice::default()
        });
        let tried = gateway.request(&sample);
        let tried = tried.with_context(|| format!("`{}`", at.field("http")))?;
        let is_json = gateway.headers.iter().any(|(name, value)| {
            let value = value.render(&()).unwrap_or_default();
            name == "content-type" && value.contains("json")
        });
        let tried = tried.build().context("not a request")?;
        let body = tried
            .body()
            .and_then(reqwest::Body::as_bytes)
            .unwrap_or_default();
        if is_json && serde_json::from_slice::<serde_json::Value>(body).is_err() {
            let fix = "write what is put in as `{{ text|tojson }}`, without quotes around it";
            let said = String::from_utf8_lossy(body).into_owned();
            return Err(at.invalid("http.body", said, "not JSON when it is filled in", fix));
        }
        Ok(Channel::Gateway(gateway))
    }
}

impl AlertmanagerSection {
    pub(crate) fn read(self, at: &Place<'_>) -> anyhow::Result<Channel> {
        let field = at.field("alertmanager.urls");
        if self.urls.is_empty() || self.urls.len() > 10 {
            let fix = "name 1 to 10, like `http://127.0.0.1:9093`";
            let count = self.urls.len().to_string();
            return Err(at.invalid("alertmanager.urls", count, "not a number of addresses", fix));
        }
        let mut urls = Vec::new();
        for text in &self.urls {
            urls.push(below(&hook(&field, text)?, &["api", "v2", "alerts"]));
        }
        let login = match (self.user, &self.password_file) {
            (Some(user), Some(file)) => Some((user, at.token("alertmanager.password_file", file)?)),
            (None, None) => None,
            _ => {
                let fix = "write both, or none";
                let problem = "only one of `user` and `password_file` is set";
                return Err(at.invalid(
                    "alertmanager.user",
                    "(incomplete)".to_owned(),
                    problem,
                    fix,
                ));
            }
        };
        let every = match &self.every {
            None => Duration::from_secs(60),
            Some(text) => {
                let bounds = (Duration::from_secs(5), Duration::from_secs(300));
                within(&at.field("alertmanager.every"), text, bounds)?
            }
        };
        Ok(Channel::Alertmanager(Arc::new(Alertmanager {
            urls,
            login,
            token: at.maybe_token("alertmanager.token_file", self.token_file.as_deref())?,
            client: at.client("alertmanager", self.ca)?,
            every,
        })))
    }
}

impl ExecSection {
    pub(crate) fn read(self, at: &Place<'_>) -> anyhow::Result<Channel> {
        if !self.program.is_absolute() {
            let fix = "write its whole path, like `/usr/local/bin/tell`";
            let value = self.program.display().to_string();
            return Err(at.invalid("exec.program", value, "not a whole path", fix));
        }
        if !self.program.is_file() {
            bail!(
                "`{}`: there is no program {}",
                at.field("exec.program"),
                self.program.display()
            );
        }
        let timeout = match &self.timeout {
            None => Duration::from_secs(30),
            Some(text) => {
                let bounds = (Duration::from_secs(1), Duration::from_secs(600));
                within(&at.field("exec.timeout"), text, bounds)?
            }
        };
        Ok(Channel::Exec(Exec {
            program: self.program,
            arguments: self.arguments,
            timeout,
        }))
    }
}
