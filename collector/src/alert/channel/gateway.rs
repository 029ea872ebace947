//! Whatever takes an HTTP request: WhatsApp's gateways, SMS, a ticket system. Address, headers and body are the operator's.

use super::http::{self, Answer};
use super::{Message, Sent, Token, Undelivered};
use crate::alert::Template;
use anyhow::Context;
use denyut_proto::UnixMillis;
use reqwest::header::{HeaderName, HeaderValue};
use reqwest::{Method, Url};
use serde::Serialize;
use serde_json::Value;
use std::fmt;

/// What a request is made of.
#[derive(Clone)]
pub(crate) struct Gateway {
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) headers: Vec<(HeaderName, Template)>,
    pub(crate) body: Template,
    /// What `{{ token }}` stands for.
    pub(crate) token: Option<Token>,
    /// A field of the answer that must be true: many gateways say 200 to everything.
    pub(crate) success: Option<String>,
    /// Bytes of the text, at most.
    pub(crate) text_max: usize,
    pub(crate) client: reqwest::Client,
}

impl fmt::Debug for Gateway {
    /// Without what may be a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gateway({})", self.url.host_str().unwrap_or_default())
    }
}

/// What the templates may name.
#[derive(Serialize)]
struct View<'a> {
    text: &'a str,
    title: &'a str,
    id: &'a str,
    receiver: &'a str,
    link: &'a str,
    firing: bool,
    critical: bool,
    token: &'a str,
}

impl Gateway {
    /// Sends a message once.
    pub(super) async fn send(
        &self,
        message: &Message,
        now: UnixMillis,
    ) -> Result<Sent, Undelivered> {
        let request = self.request(message);
        // A template that fails will fail again; the operator mends it and sends the message again.
        let request = request.map_err(|error| Undelivered::Never(format!("{error:#}")))?;
        self.judge(http::ask(request, now).await?)
    }

    /// The request for a message; also how a configuration is tried.
    pub(crate) fn request(&self, message: &Message) -> anyhow::Result<reqwest::RequestBuilder> {
        let notice = &message.notice;
        let view = View {
            text: &notice.text,
            title: &notice.title,
            id: &message.id,
            receiver: &message.receiver,
            link: notice.link.as_deref().unwrap_or_default(),
            firing: notice.firing,
            critical: notice.critical,
            token: self.token.as_ref().map(Token::show).unwrap_or_default(),
        };
        let mut request = self.client.request(self.method.clone(), self.url.clone());
        for (name, template) in &self.headers {
            let filled = template.render(&view);
            let filled = filled.with_context(|| format!("header `{name}`"))?;
            let value = HeaderValue::from_str(&filled);
            let mut value = value.with_context(|| format!("header `{name}`"))?;
            value.set_sensitive(true);
            request = request.header(name, value);
        }
        Ok(request.body(self.body.render(&view).context("body")?))
    }

    fn judge(&self, answer: Answer) -> Result<Sent, Undelivered> {
        let secrets = http::secrets_of(&self.url);
        let token = self.token.as_ref().map(Token::show);
        let secrets: Vec<&str> = secrets.iter().map(String::as_str).chain(token).collect();
        let answer = answer.judge(&secrets)?;
        if let Some(field) = &self.success {
            let said: Value = serde_json::from_str(&answer.body).unwrap_or_default();
            let is = field.split('.').try_fold(&said, |value, name| {
                let at = name.parse::<usize>().ok().and_then(|at| value.get(at));
                value.get(name).or(at)
            });
            let is_true = match is {
                Some(Value::Bool(is)) => *is,
                Some(Value::Number(number)) => number.as_i64() == Some(1),
                Some(Value::String(text)) => {
                    matches!(
                        text.to_lowercase().as_str(),
                        "true" | "success" | "ok" | "1"
                    )
                }
                _ => false,
            };
            if !is_true {
                let why = answer.why(&answer.body, &secrets);
                let why = format!("`{field}` of the answer is not true: {why}");
                return Err(Undelivered::Later(why, answer.wait));
            }
        }
        Ok(http::taken(answer))
    }
}
