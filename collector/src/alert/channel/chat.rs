//! Chats that take JSON over HTTP. They differ in where it goes, what it is called, how an answer names the message, and how they refuse.

use super::http::{self, Answer};
use super::{Message, Sent, TEXT_MAX, Thread, Token, Undelivered};
use crate::alert::telegram::Answers;
use denyut_proto::UnixMillis;
use reqwest::header::{AUTHORIZATION, HeaderName, HeaderValue};
use reqwest::{Method, StatusCode, Url};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

/// Buttons under one message, at most.
const BUTTONS: usize = 3;

/// One conversation.
#[derive(Debug, Clone)]
pub(crate) struct Chat {
    pub(crate) brand: Brand,
    pub(crate) client: reqwest::Client,
}

/// Whose chat it is, and which of its conversations.
#[derive(Clone)]
pub(crate) enum Brand {
    Telegram {
        api: Url,
        token: Token,
        /// A number, or `@name` of a channel.
        chat: String,
        /// The number that the group has since it has grown; 0 if it has not.
        moved: Arc<AtomicI64>,
        /// A topic of a forum.
        topic: Option<i64>,
        /// Who may answer: there are buttons for that.
        answers: Option<Arc<Answers>>,
    },
    WhatsApp {
        /// With the version of the API.
        api: Url,
        token: Token,
        /// The number that it comes from, by its id.
        phone: String,
        /// The number that it goes to.
        to: String,
        /// Name and language of an approved template with one place; without one only who wrote within 24 h is reached.
        template: Option<(String, String)>,
    },
    Slack {
        api: Url,
        token: Token,
        channel: String,
    },
    Mattermost {
        server: Url,
        token: Token,
        channel: String,
    },
    RocketChat {
        server: Url,
        token: Token,
        user: String,
        room: String,
    },
    /// Slack's incoming webhooks, and those of Mattermost and Rocket.Chat, which are alike.
    Incoming {
        name: &'static str,
        url: Url,
    },
    Discord {
        url: Url,
    },
    Teams {
        url: Url,
    },
    GoogleChat {
        url: Url,
    },
    Matrix {
        server: Url,
        token: Token,
        room: String,
    },
    Ntfy {
        server: Url,
        token: Option<Token>,
        topic: String,
    },
}

impl std::fmt::Debug for Brand {
    /// Without what may be a secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// One request.
struct Request {
    method: Method,
    url: Url,
    headers: Vec<(HeaderName, String)>,
    body: Value,
}

impl Request {
    fn post(url: Url, body: Value) -> Self {
        Self {
            method: Method::POST,
            url,
            headers: Vec::new(),
            body,
        }
    }

    fn bearing(mut self, token: &Token) -> Self {
        let bearer = format!("Bearer {}", token.show());
        self.headers.push((AUTHORIZATION, bearer));
        self
    }
}

/// An address with more parts of a path.
pub(crate) fn below(base: &Url, parts: &[&str]) -> Url {
    let mut url = base.clone();
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().extend(parts);
    }
    url
}

/// The address of a method of Telegram's.
pub(crate) fn telegram_url(api: &Url, token: &Token, method: &str) -> Url {
    below(api, &[&format!("bot{}", token.show()), method])
}

impl Brand {
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Telegram { .. } => "telegram",
            Self::WhatsApp { .. } => "whatsapp",
            Self::Slack { .. } => "slack",
            Self::Mattermost { .. } => "mattermost",
            Self::RocketChat { .. } => "rocketchat",
            Self::Incoming { name, .. } => name,
            Self::Discord { .. } => "discord",
            Self::Teams { .. } => "teams",
            Self::GoogleChat { .. } => "google_chat",
            Self::Matrix { .. } => "matrix",
            Self::Ntfy { .. } => "ntfy",
        }
    }

    /// Where its server is.
    pub(super) const fn url(&self) -> &Url {
        match self {
            Self::Telegram { api: url, .. }
            | Self::WhatsApp { api: url, .. }
            | Self::Slack { api: url, .. }
            | Self::Mattermost { server: url, .. }
            | Self::RocketChat { server: url, .. }
            | Self::Matrix { server: url, .. }
            | Self::Ntfy { server: url, .. }
            | Self::Incoming { url, .. }
            | Self::Discord { url }
            | Self::Teams { url }
            | Self::GoogleChat { url } => url,
        }
    }

    /// Where it goes, and its key: no error shows them.
    fn secrets(&self) -> Vec<String> {
        match self {
            Self::Telegram { token, .. }
            | Self::WhatsApp { token, .. }
            | Self::Slack { token, .. }
            | Self::Mattermost { token, .. }
            | Self::RocketChat { token, .. }
            | Self::Matrix { token, .. } => vec![token.show().to_owned()],
            Self::Ntfy { token, .. } => token.iter().map(|token| token.show().to_owned()).collect(),
            Self::Incoming { url, .. }
            | Self::Discord { url }
            | Self::Teams { url }
            | Self::GoogleChat { url } => http::secrets_of(url),
        }
    }

    /// The request for a message, as each of their APIs wants it.
    #[allow(clippy::too_many_lines, reason = "one case for each API")]
    fn request(&self, message: &Message, thread: Option<&Thread>) -> Request {
        let notice = &message.notice;
        let text = notice.text.as_str();
        // What is written over must have been of this alone.
        let alone = thread.filter(|thread| thread.alone);
        let alone = alone.map(|thread| thread.handle.as_str());
        let thread = thread.map(|thread| thread.handle.as_str());
        match self {
            // core.telegram.org/bots/api#sendmessage; without `parse_mode` nothing is markup.
            Self::Telegram {
                api,
                token,
                chat,
                moved,
                topic,
                answers,
            } => {
                let chat = match (moved.load(Ordering::Relaxed), chat.parse::<i64>()) {
                    (0, Ok(id)) => json!(id),
                    (0, Err(_)) => json!(chat),
                    (moved, _) => json!(moved),
                };
                let mut body = json!({
                    "chat_id": chat,
                    "text": shortened(&unmentioned(text), 4_096),
                    "link_preview_options": { "is_disabled": true },
                });
                if let Some(topic) = topic {
                    body["message_thread_id"] = json!(topic);
                }
                if let Some(first) = thread.and_then(|id| id.parse::<i64>().ok()) {
                    body["reply_parameters"] =
                        json!({ "message_id": first, "allow_sending_without_reply": true });
                }
                let most = if answers.is_some() { BUTTONS } else { 0 };
                let offered = notice.unattended().take(most);
                let rows: Vec<Value> = offered
                    .map(|(number, name)| {
                        json!([{ "text": format!("✅ {name}"), "callback_data": format!("ack {number}") }])
                    })
                    .collect();
                if !rows.is_empty() {
                    body["reply_markup"] = json!({ "inline_keyboard": rows });
                }
                Request::post(telegram_url(api, token, "sendMessage"), body)
            }
            // developers.facebook.com/docs/whatsapp/cloud-api
            Self::WhatsApp {
                api,
                token,
                phone,
                to,
                template,
            } => {
                let mut body = json!({
                    "messaging_product": "whatsapp",
                    "recipient_type": "individual",
                    "to": to,
                });
                if let Some((name, language)) = template {
                    // A place holds one line.
                    let line: Vec<&str> = text.split_whitespace().collect();
                    body["type"] = json!("template");
                    body["template"] = json!({
                        "name": name,
                        "language": { "code": language },
                        "components": [{
                            "type": "body",
                            "parameters": [{ "type": "text", "text": line.join(" ") }],
                        }],
                    });
                } else {
                    body["type"] = json!("text");
                    body["text"] = json!({ "preview_url": false, "body": text });
                }
                if let Some(first) = thread {
                    body["context"] = json!({ "message_id": first });
                }
                Request::post(below(api, &[phone, "messages"]), body).bearing(token)
            }
            // docs.slack.dev/reference/methods/chat.postMessage
            Self::Slack {
                api,
                token,
                channel,
            } => {
                let mut body = json!({
                    "channel": channel,
                    "text": slack(text),
                    "mrkdwn": false,
                    "unfurl_links": false,
                    "unfurl_media": false,
                });
                if let Some(first) = thread {
                    body["thread_ts"] = json!(first);
                    body["reply_broadcast"] = json!(true);
                }
                Request::post(below(api, &["chat.postMessage"]), body).bearing(token)
            }
            Self::Incoming { name, url } => {
                let text = if *name == "slack" {
                    slack(text)
                } else {
                    unmentioned(text)
                };
                Request::post(url.clone(), json!({ "text": text }))
            }
            // api.mattermost.com: createPost; within 30 s the same `pending_post_id` is the same post.
            Self::Mattermost {
                server,
                token,
                channel,
            } => {
                let body = json!({
                    "channel_id": channel,
                    "message": unmentioned(text),
                    "root_id": thread.unwrap_or_default(),
                    "pending_post_id": message.id,
                });
                Request::post(below(server, &["api", "v4", "posts"]), body).bearing(token)
            }
            // developer.rocket.chat: chat.postMessage; since 7.4 it takes no key that it does not know.
            Self::RocketChat {
                server,
                token,
                user,
                room,
            } => {
                let mut body = json!({ "roomId": room, "text": unmentioned(text) });
                if let Some(first) = thread {
                    body["tmid"] = json!(first);
                }
                let url = below(server, &["api", "v1", "chat.postMessage"]);
                let mut request = Request::post(url, body);
                request.headers = vec![
                    (
                        HeaderName::from_static("x-auth-token"),
                        token.show().to_owned(),
                    ),
                    (HeaderName::from_static("x-user-id"), user.clone()),
                ];
                request
            }
            // discord.com/developers/docs/resources/webhook; an end is written over the beginning. 4: without previews.
            Self::Discord { url } => {
                let body = json!({
                    "content": text,
                    "allowed_mentions": { "parse": [] },
                    "flags": 4,
                });
                if let Some(first) = alone.filter(|_| !notice.firing) {
                    let over = below(url, &["messages", first]);
                    return Request {
                        method: Method::PATCH,
                        ..Request::post(over, body)
                    };
                }
                let mut url = url.clone();
                url.query_pairs_mut().append_pair("wait", "true");
                Request::post(url, body)
            }
            // An Adaptive Card, as the flow "Post to a channel when a webhook request is received" wants it.
            Self::Teams { url } => {
                let lines = text.lines().filter(|line| !line.trim().is_empty());
                let blocks: Vec<Value> = lines
                    .map(|line| json!({ "type": "RichTextBlock", "inlines": [{ "type": "TextRun", "text": line }] }))
                    .collect();
                let link = notice.link.iter();
                let actions: Vec<Value> = link
                    .map(|link| json!({ "type": "Action.OpenUrl", "title": "denyut", "url": link }))
                    .collect();
                let card = json!({
                    "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
                    "type": "AdaptiveCard",
                    "version": "1.4",
                    "fallbackText": notice.title,
                    "body": blocks,
                    "actions": actions,
                });
                let content = "application/vnd.microsoft.card.adaptive";
                let body = json!({
                    "type": "message",
                    "attachments": [{ "contentType": content, "contentUrl": null, "content": card }],
                });
                Request::post(url.clone(), body)
            }
            // developers.google.com/workspace/chat: spaces.messages.create; the same `requestId` is the same message.
            Self::GoogleChat { url } => {
                let mut url = url.clone();
                url.query_pairs_mut()
                    .append_pair("messageReplyOption", "REPLY_MESSAGE_FALLBACK_TO_NEW_THREAD")
                    .append_pair("requestId", &message.id);
                let key = thread.unwrap_or(&message.id);
                // Nothing in it is a mention or a link of ours.
                let text = text.replace('<', "<\u{200b}");
                Request::post(url, json!({ "text": text, "thread": { "threadKey": key } }))
            }
            // spec.matrix.org: the same transaction is the same event.
            Self::Matrix {
                server,
                token,
                room,
            } => {
                let mut body = json!({ "msgtype": "m.text", "body": text, "m.mentions": {} });
                if let Some(first) = thread {
                    body["m.relates_to"] = json!({
                        "rel_type": "m.thread",
                        "event_id": first,
                        "is_falling_back": true,
                        "m.in_reply_to": { "event_id": first },
                    });
                }
                let path = [
                    "_matrix",
                    "client",
                    "v3",
                    "rooms",
                    room,
                    "send",
                    "m.room.message",
                    &message.id,
                ];
                let request = Request::post(below(server, &path), body).bearing(token);
                Request {
                    method: Method::PUT,
                    ..request
                }
            }
            // docs.ntfy.sh/publish: from 2.16 on the same sequence is the same notification.
            Self::Ntfy {
                server,
                token,
                topic,
            } => {
                let priority = match (notice.firing, notice.critical) {
                    (true, true) => 5,
                    (true, false) => 4,
                    (false, _) => 3,
                };
                let mut body = json!({
                    "topic": topic,
                    "title": notice.title,
                    "message": text,
                    "priority": priority,
                });
                if let Some(link) = &notice.link {
                    body["click"] = json!(link);
                }
                if let Some(first) = alone {
                    body["sequence_id"] = json!(first);
                }
                let request = Request::post(server.clone(), body);
                match token {
                    Some(token) => request.bearing(token),
                    None => request,
                }
            }
        }
    }

    /// Whether an answer says that the message was taken, and what it is called there.
    fn judge(&self, mut answer: Answer) -> Result<Sent, Undelivered> {
        let secrets = self.secrets();
        let secrets: Vec<&str> = secrets.iter().map(String::as_str).collect();
        let said: Value = serde_json::from_str(&answer.body).unwrap_or_default();
        let seconds = |value: &Value| {
            let seconds = value
                .as_f64()
                .filter(|seconds| (0.0..1e6).contains(seconds));
            seconds.map(Duration::from_secs_f64)
        };
        let wait = match self {
            Self::Telegram { .. } => seconds(&said["parameters"]["retry_after"]),
            Self::Discord { .. } => seconds(&said["retry_after"]),
            Self::Matrix { .. } => said["retry_after_ms"].as_u64().map(Duration::from_millis),
            _ => None,
        };
        answer.wait = answer.wait.or(wait);
        // What some refuse with a 200, and what others mean by a 400.
        let (refused, passes) = match self {
            Self::Telegram { .. } => {
                // What is wrong with the chat is mended some day; what is wrong with the text is not.
                let description = said["description"].as_str().unwrap_or_default();
                let is_text = description.contains("message is too long")
                    || description.contains("text is empty");
                (said["ok"] != json!(true), !is_text)
            }
            Self::Slack { .. } => (
                said["ok"] != json!(true),
                !matches!(
                    said["error"].as_str(),
                    Some(
                        "msg_too_long"
                            | "no_text"
                            | "invalid_arguments"
                            | "message_not_found"
                            | "thread_not_found"
                            | "cannot_reply_to_message"
                            | "restricted_action_thread_locked"
                    )
                ),
            ),
            Self::RocketChat { .. } => (said["success"] != json!(true), !said.is_object()),
            Self::WhatsApp { .. } => {
                let code = said["error"]["code"].as_i64().unwrap_or_default();
                let passes = matches!(
                    code,
                    1 | 2 | 4 | 80_007 | 130_429 | 131_000 | 131_016 | 131_048 | 131_056 | 131_057
                        // The template is not there, not as it was, or paused.
                        | 132_000 | 132_001 | 132_015
                );
                (said.get("error").is_some(), passes)
            }
            _ => (false, false),
        };
        if refused && (answer.status.is_success() || passes) {
            let why = answer.why(&answer.body, &secrets);
            return Err(if passes {
                Undelivered::Later(why, answer.wait)
            } else {
                Undelivered::Never(why)
            });
        }
        answer.judge(&secrets)?;
        let text = |value: &Value| match value {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        };
        let handle = match self {
            Self::Telegram { .. } => text(&said["result"]["message_id"]),
            Self::WhatsApp { .. } => text(&said["messages"][0]["id"]),
            Self::Slack { .. } => text(&said["ts"]),
            Self::Mattermost { .. } | Self::Discord { .. } | Self::Ntfy { .. } => text(&said["id"]),
            Self::RocketChat { .. } => text(&said["message"]["_id"]),
            Self::Matrix { .. } => text(&said["event_id"]),
            Self::GoogleChat { .. } | Self::Incoming { .. } | Self::Teams { .. } => None,
        };
        Ok(Sent { handle })
    }
}

impl Chat {
    /// Sends a message once.
    pub(super) async fn send(
        &self,
        message: &Message,
        thread: Option<&Thread>,
        now: UnixMillis,
    ) -> Result<Sent, Undelivered> {
        match self.send_under(message, thread, now).await {
            // Somebody deleted what it was to be under.
            Err(Undelivered::Never(_)) if thread.is_some() => {
                self.send_under(message, None, now).await
            }
            sent => sent,
        }
    }

    async fn send_under(
        &self,
        message: &Message,
        thread: Option<&Thread>,
        now: UnixMillis,
    ) -> Result<Sent, Undelivered> {
        let mut request = self.brand.request(message, thread);
        let mut answer = self.ask(&request, now).await?;
        match &self.brand {
            // The group is another since it grew; it says which.
            Brand::Telegram {
                moved: to, answers, ..
            } if answer.status == StatusCode::BAD_REQUEST => {
                let said: Value = serde_json::from_str(&answer.body).unwrap_or_default();
                let moved = &said["parameters"]["migrate_to_chat_id"];
                if let Some(number) = moved.as_i64() {
                    to.store(number, Ordering::Relaxed);
                    if let Some(answers) = answers {
                        answers.chat.store(number, Ordering::Relaxed);
                    }
                    tracing::warn!(receiver = message.receiver, chat = %moved, "the Telegram group is another now: write its number as `chat`");
                    request.body["chat_id"] = moved.clone();
                    answer = self.ask(&request, now).await?;
                }
            }
            // Somebody deleted what was to be written over.
            Brand::Discord { .. }
                if answer.status == StatusCode::NOT_FOUND && request.method == Method::PATCH =>
            {
                request = self.brand.request(message, None);
                answer = self.ask(&request, now).await?;
            }
            _ => {}
        }
        let sent = self.brand.judge(answer)?;
        Ok(match &self.brand {
            // A thread there is called as we like.
            Brand::GoogleChat { .. } => Sent {
                handle: Some(thread.map_or(&message.id, |thread| &thread.handle).clone()),
            },
            _ => sent,
        })
    }

    async fn ask(&self, request: &Request, now: UnixMillis) -> Result<Answer, Undelivered> {
        let mut asked = self
            .client
            .request(request.method.clone(), request.url.clone());
        for (name, value) in &request.headers {
            let value = HeaderValue::from_str(value);
            let mut value = value.map_err(|error| Undelivered::Later(error.to_string(), None))?;
            value.set_sensitive(true);
            asked = asked.header(name, value);
        }
        http::ask(asked.json(&request.body), now).await
    }

    /// Where it leads.
    pub(super) fn place(&self) -> String {
        let (name, url) = (self.brand.name(), self.brand.url());
        let what = match &self.brand {
            Brand::Telegram {
                chat, topic, moved, ..
            } => format!("{chat} {topic:?} {}", moved.load(Ordering::Relaxed)),
            Brand::WhatsApp { phone, to, .. } => format!("{phone} {to}"),
            Brand::Slack { channel, .. } | Brand::Mattermost { channel, .. } => channel.clone(),
            Brand::RocketChat { room, .. } | Brand::Matrix { room, .. } => room.clone(),
            Brand::Ntfy { topic, .. } => topic.clone(),
            _ => String::new(),
        };
        format!("{name} {url} {what}")
    }

    pub(super) const fn name(&self) -> &'static str {
        self.brand.name()
    }

    /// Bytes of a text, at most: no API counts more for a text than its bytes.
    pub(super) const fn text_max(&self) -> usize {
        match &self.brand {
            Brand::Discord { .. } => 1_950,
            Brand::WhatsApp {
                template: Some(_), ..
            } => 950,
            _ => TEXT_MAX,
        }
    }
}

/// What each would make of an answer, for fuzzing: nothing of it is secret.
pub(crate) fn read_answer(status: u16, body: &str) {
    let Ok(status) = StatusCode::from_u16(status) else {
        return;
    };
    let Ok(url) = "https://chat.example/x".parse::<Url>() else {
        return;
    };
    let (api, server) = (url.clone(), url.clone());
    let token = Token::default();
    let text = || "x".to_owned();
    let brands = [
        Brand::Telegram {
            api: api.clone(),
            token: token.clone(),
            chat: text(),
            moved: Arc::default(),
            topic: None,
            answers: None,
        },
        Brand::WhatsApp {
            api: api.clone(),
            token: token.clone(),
            phone: text(),
            to: text(),
            template: None,
        },
        Brand::Slack {
            api,
            token: token.clone(),
            channel: text(),
        },
        Brand::RocketChat {
            server: server.clone(),
            token: token.clone(),
            user: text(),
            room: text(),
        },
        Brand::Discord { url },
        Brand::Matrix {
            server,
            token,
            room: text(),
        },
    ];
    for brand in brands {
        let answer = Answer {
            status,
            wait: None,
            body: body.to_owned(),
        };
        brand.judge(answer).ok();
    }
}

/// The beginning of a text of more than so many UTF-16 units, as Telegram counts.
pub(crate) fn shortened(text: &str, most: usize) -> String {
    let mut units = 0;
    let mut short: String = text
        .chars()
        .take_while(|c| {
            units += c.len_utf16();
            units < most
        })
        .collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

/// A text in which `@name` calls nobody.
pub(crate) fn unmentioned(text: &str) -> String {
    text.replace('@', "@\u{2060}")
}

/// A text in which Slack finds no markup.
fn slack(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
