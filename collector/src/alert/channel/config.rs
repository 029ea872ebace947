//! How receivers are reached, as the configuration says it.

use super::mail::{Security, Server};
use super::{Brand, Channel, Chat, Exec, Gateway, Mail, Secret, Token, Webhook, below, client};
use crate::alert::Alertmanager;
use crate::alert::config::within;
use crate::alert::notice::Notice;
use crate::alert::outbox::Message;
use crate::alert::telegram::{Answers, User};
use crate::alert::template::Template;
use crate::plain::{self, NAME_MOST};
use anyhow::{Context, bail};
use denyut_proto::Invalid;
use reqwest::Url;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Duration;

/// In whose name Telegram has anonymous administrators, channels and itself speak.
const NOBODY: [i64; 3] = [1_087_968_824, 136_817_688, 777_000];

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
    if !matches!(url.scheme(), "https" | "http") {
        let fix = "write it like `https://hooks.example/denyut`";
        return Err(Invalid::new(
            field,
            "(not shown)",
            "not an https address",
            fix,
        ));
    }
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

    pub(crate) fn client(
        &self,
        name: &str,
        ca: Option<PathBuf>,
        url: &Url,
    ) -> anyhow::Result<reqwest::Client> {
        self.plain_client(&format!("{name}.ca"), ca, url)
    }

    /// The same, where `ca` is the field of this name.
    pub(crate) fn plain_client(
        &self,
        name: &str,
        ca: Option<PathBuf>,
        url: &Url,
    ) -> anyhow::Result<reqwest::Client> {
        let ca = ca.map(|file| self.folder.join(file));
        client(ca.as_deref(), is_loopback(url.host_str()))
            .with_context(|| format!("`{}`", self.field(name)))
    }

    fn chat(&self, name: &str, ca: Option<PathBuf>, brand: Brand) -> anyhow::Result<Channel> {
        let client = self.client(name, ca, brand.url())?;
        Ok(Channel::Chat(Chat { brand, client }))
    }

    /// The secret in a file.
    pub(crate) fn token(&self, name: &str, file: &Path) -> anyhow::Result<Token> {
        Token::read(&self.folder.join(file)).with_context(|| format!("`{}`", self.field(name)))
    }

    pub(crate) fn maybe_token(
        &self,
        name: &str,
        file: Option<&Path>,
    ) -> anyhow::Result<Option<Token>> {
        file.map(|file| self.token(name, file)).transpose()
    }

    /// A name and its password, or none of both.
    pub(crate) fn login(
        &self,
        name: &str,
        user: Option<String>,
        file: Option<&Path>,
    ) -> anyhow::Result<Option<(String, Token)>> {
        match (user, file) {
            (Some(user), Some(file)) => {
                let password = self.token(&format!("{name}.password_file"), file)?;
                Ok(Some((user, password)))
            }
            (None, None) => Ok(None),
            _ => {
                let fix = "write both, or none";
                let problem = "only one of `user` and `password_file` is set";
                let half = "(incomplete)".to_owned();
                Err(self.invalid(&format!("{name}.user"), half, problem, fix))
            }
        }
    }

    /// The address that is written down, or stands in a file: it may be a secret.
    pub(crate) fn url(
        &self,
        name: &str,
        text: Option<&str>,
        file: Option<&Path>,
    ) -> anyhow::Result<Url> {
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
        at.chat(name, self.ca, brand(url))
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
        let url = at.url("webhook", self.url.as_deref(), self.url_file.as_deref())?;
        Ok(Channel::Webhook(Webhook {
            client: at.client("webhook", self.ca, &url)?,
            url,
            secret,
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
            // Somebody may have written the key there.
            let hidden = "(not shown)".to_owned();
            return Err(at.invalid("telegram.chat", hidden, "not a chat", fix));
        }
        let api = at.api(
            "telegram.api",
            self.api.as_deref(),
            "https://api.telegram.org",
        )?;
        let token = at.token("telegram.token_file", &self.token_file)?;
        let client = at.client("telegram", self.ca, &api)?;
        let mut users: Vec<User> = Vec::new();
        for user in self.users {
            if user.id <= 0
                || NOBODY.contains(&user.id)
                || users.iter().any(|one| one.id == user.id)
            {
                let fix =
                    "write the number of one person, once; the bot says it to who is not listed";
                let id = user.id.to_string();
                return Err(at.invalid("telegram.users.id", id, "not one person's number", fix));
            }
            let name = plain::name(&at.field("telegram.users.name"), &user.name, NAME_MOST)?;
            users.push(User { id: user.id, name });
        }
        if !users.is_empty() && self.chat.parse::<i64>().is_err() {
            let fix = "write the chat's number: who answers is known by it";
            return Err(at.invalid("telegram.chat", self.chat, "not a number", fix));
        }
        let answers = Answers {
            api: api.clone(),
            token: token.clone(),
            chat: Arc::new(AtomicI64::new(self.chat.parse().unwrap_or_default())),
            topic: self.topic,
            users,
            client: client.clone(),
        };
        let brand = Brand::Telegram {
            api,
            token,
            chat: self.chat,
            moved: Arc::default(),
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
        at.chat("whatsapp", self.ca, brand)
    }
}

impl SlackSection {
    pub(crate) fn read(self, at: &Place<'_>) -> anyhow::Result<Channel> {
        let is_hook = self.url.is_some() || self.url_file.is_some();
        let brand = match (self.channel, &self.token_file) {
            (Some(channel), Some(file)) if !is_hook => Brand::Slack {
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
        at.chat("slack", self.ca, brand)
    }
}

impl MattermostSection {
    pub(crate) fn read(self, at: &Place<'_>) -> anyhow::Result<Channel> {
        let is_hook = self.url.is_some() || self.url_file.is_some();
        let brand = match (&self.server, self.channel, &self.token_file) {
            (Some(server), Some(channel), Some(file)) if !is_hook => Brand::Mattermost {
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
        at.chat("mattermost", self.ca, brand)
    }
}

impl RocketChatSection {
    pub(crate) fn read(self, at: &Place<'_>) -> anyhow::Result<Channel> {
        let is_hook = self.url.is_some() || self.url_file.is_some();
        let brand = match (&self.server, self.room, self.user, &self.token_file) {
            (Some(server), Some(room), Some(user), Some(file)) if !is_hook => Brand::RocketChat {
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
        at.chat("rocketchat", self.ca, brand)
    }
}

/// Some of what belongs together is missing.
fn halves(at: &Place<'_>, name: &str, whole: &str) -> anyhow::Error {
    let fix = format!("write {whole}, or else the `url` of an incoming webhook");
    let problem = "something is missing, or too much";
    Invalid::new(at.field(name), "(incomplete)", problem, fix).into()
}

impl MatrixSection {
    pub(crate) fn read(self, at: &Place<'_>) -> anyhow::Result<Channel> {
        if !self.room.starts_with('!') || self.room.len() < 2 {
            let fix = "write the room's internal id, which begins with `!`";
            return Err(at.invalid("matrix.room", self.room, "not a room", fix));
        }
        let brand = Brand::Matrix {
            server: hook(&at.field("matrix.server"), &self.server)?,
            token: at.token("matrix.token_file", &self.token_file)?,
            room: self.room,
        };
        at.chat("matrix", self.ca, brand)
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
        at.chat("ntfy", self.ca, brand)
    }
}

impl MailSection {
    pub(crate) fn read(self, at: &Place<'_>) -> anyhow::Result<Channel> {
        let fix = "write `smtps://host` (TLS, port 465), or `smtp://host` (STARTTLS, port 587; plaintext on loopback)";
        let url: Option<Url> = self.server.parse().ok();
        let is_secret = self.server.contains('@');
        let shown = if is_secret {
            "(not shown)"
        } else {
            &self.server
        };
        let wrong = |problem: &str| at.invalid("mail.server", shown.to_owned(), problem, fix);
        if is_secret {
            return Err(wrong(
                "with a name or a password, which belong in `user` and `password_file`",
            ));
        }
        let (Some(url), Some(host)) = (&url, url.as_ref().and_then(Url::host_str)) else {
            return Err(wrong("not an address"));
        };
        if !matches!(url.path(), "" | "/") || url.query().is_some() {
            return Err(wrong("with more than host and port"));
        }
        let host = host.trim_matches(['[', ']']);
        let (security, port) = match url.scheme() {
            "smtps" => (Security::Tls, 465),
            "smtp" if is_loopback(Some(host)) && self.ca.is_none() => (Security::Plain, 25),
            "smtp" => (Security::StartTls, 587),
            _ => return Err(wrong("neither `smtp` nor `smtps`")),
        };
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
        let login = at.login("mail", self.user, self.password_file.as_deref())?;
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
            given: Arc::default(),
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
            let known = name.to_lowercase();
            if ["host", "content-length", "transfer-encoding", "connection"].contains(&&*known) {
                let fix = "leave it out: it is written by itself";
                let problem = "not a header of yours";
                return Err(at.invalid("http.headers", known, problem, fix));
            }
            let name: reqwest::header::HeaderName = known.parse().with_context(field)?;
            headers.push((name, template));
        }
        if let Some(field) = self.success.as_ref().filter(|field| field.is_empty()) {
            let fix = "write the name of a field of the answer, like `status`";
            return Err(at.invalid("http.success", field.clone(), "empty", fix));
        }
        let body = Template::read(&self.body);
        let url = at.url("http", self.url.as_deref(), self.url_file.as_deref())?;
        let gateway = Gateway {
            method,
            client: at.client("http", self.ca, &url)?,
            url,
            headers,
            body: body.with_context(|| format!("`{}`", at.field("http.body")))?,
            token: at.maybe_token("http.token_file", self.token_file.as_deref())?,
            success: self.success,
            text_max,
        };
        try_out(at, &gateway)?;
        Ok(Channel::Gateway(gateway))
    }
}

/// Fills in a request in each way that it may have to be, so that a misspelt place is not found in the night.
fn try_out(at: &Place<'_>, gateway: &Gateway) -> anyhow::Result<()> {
    let field = |name: &str| format!("`{}`", at.field(name));
    // Nothing secret is in what is said of it.
    let gateway = Gateway {
        token: gateway.token.as_ref().map(|_| Token::default()),
        ..gateway.clone()
    };
    for which in 0..8_u8 {
        let [firing, critical, linked] = [1, 2, 4].map(|bit| which & bit > 0);
        let sample = Message::sample(Notice {
            title: "Cipocok Jaya: \"mati\"".to_owned(),
            text: "baris satu\nbaris \"dua\"".to_owned(),
            firing,
            critical,
            link: linked.then(|| "https://denyut.example/insiden/1".to_owned()),
            ..Notice::default()
        });
        let tried = gateway.request(&sample).with_context(|| field("http"))?;
        let tried = tried.build().with_context(|| field("http"))?;
        let kind = tried.headers().get(reqwest::header::CONTENT_TYPE);
        let kind = kind.and_then(|kind| kind.to_str().ok());
        let body = tried.body().and_then(reqwest::Body::as_bytes);
        let body: Result<serde_json::Value, _> = serde_json::from_slice(body.unwrap_or_default());
        if let (true, Err(error)) = (kind.is_some_and(|kind| kind.contains("json")), body) {
            let fix = "write what is put in as `{{ text|tojson }}`, without quotes around it";
            let problem = format!("not JSON when it is filled in: {error}");
            return Err(at.invalid("http.body", "(not shown)".to_owned(), &problem, fix));
        }
    }
    Ok(())
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
        let login = at.login("alertmanager", self.user, self.password_file.as_deref())?;
        if login.is_some() && self.token_file.is_some() {
            let problem = "a token and a login are set";
            let fix = "write one of `token_file` and `user`";
            let hidden = "(not shown)".to_owned();
            return Err(at.invalid("alertmanager.token_file", hidden, problem, fix));
        }
        let every = match &self.every {
            None => Duration::from_secs(60),
            Some(text) => {
                let bounds = (Duration::from_secs(5), Duration::from_secs(300));
                within(&at.field("alertmanager.every"), text, bounds)?
            }
        };
        Ok(Channel::Alertmanager(Arc::new(Alertmanager {
            client: at.client("alertmanager", self.ca, &urls[0])?,
            urls,
            login,
            token: at.maybe_token("alertmanager.token_file", self.token_file.as_deref())?,
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
        let mode = std::fs::metadata(&self.program).map(|meta| meta.permissions().mode());
        if !self.program.is_file() || mode.is_ok_and(|mode| mode & 0o111 == 0) {
            bail!(
                "`{}`: there is no program {} that may be run",
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
