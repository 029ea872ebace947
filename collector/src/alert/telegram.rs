//! Telegram's way back: who is allowed to may acknowledge, note and silence from the chat that they are told in. Nobody else is listened to, and nothing but what that chat
//! is told of can be acted on.

use super::channel::{Brand, Channel, Token, shortened, telegram_url, unmentioned};
use super::compose::Entry;
use super::silence::{NoSilence, Silences, Wish};
use super::text::Catalogue;
use super::truth::Truth;
use super::{Alerts, Receiver, Writer};
use crate::case::{Cases, Deed, Refused};
use crate::clock::Clock;
use crate::keys;
use crate::registry::Registry;
use anyhow::Context;
use denyut_proto::UnixMillis;
use denyut_store::state::{Change, State, get_json, scan_json};
use reqwest::{StatusCode, Url};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// How long Telegram waits for something to happen; and we for it.
const WAITS: Duration = Duration::from_secs(25);
const WITHIN: Duration = Duration::from_secs(40);
/// How long until it is asked again after a failure: at first, and at most.
const AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// How long a stranger is told nothing more, and how many of them are remembered.
const STRANGERS: (Duration, usize) = (Duration::from_secs(600), 1_000);
/// Incidents that one answer lists, at most.
const LISTED: usize = 15;

/// Who may answer in a chat.
#[derive(Clone)]
pub(crate) struct Answers {
    pub(crate) api: Url,
    pub(crate) token: Token,
    /// Another than the configuration's once the group has grown.
    pub(crate) chat: Arc<AtomicI64>,
    pub(crate) topic: Option<i64>,
    pub(crate) users: Vec<User>,
    pub(crate) client: reqwest::Client,
}

impl Answers {
    /// Whether the two are of the same conversation.
    pub(crate) fn is_same_place(&self, other: &Self) -> bool {
        let chat = |one: &Self| one.chat.load(Ordering::Relaxed);
        let is_same_topic = match (self.topic, other.topic) {
            (Some(one), Some(two)) => one == two,
            _ => true,
        };
        self.token == other.token && chat(self) == chat(other) && is_same_topic
    }
}

/// Somebody who may.
#[derive(Debug, Clone)]
pub(crate) struct User {
    /// As Telegram counts them.
    pub(crate) id: i64,
    /// As cases name them.
    pub(crate) name: String,
}

/// Listens for one bot: one listener only may.
pub(crate) struct Listener {
    api: Url,
    token: Token,
    client: reqwest::Client,
    /// The receivers that it speaks to.
    receivers: Vec<(Receiver, Arc<Answers>)>,
    /// Strangers that were told so, and when: they are not told each time.
    strangers: Mutex<BTreeMap<i64, Instant>>,
    with: Arc<With>,
}

/// What it works on.
pub(crate) struct With {
    pub(crate) alerts: Arc<Alerts>,
    pub(crate) state: Arc<dyn State>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) cases: Arc<Cases>,
    pub(crate) silences: Arc<Silences>,
    pub(crate) clock: Arc<Clock>,
}

/// What happened; of all that Telegram says, what is used.
#[derive(Debug, Deserialize)]
struct Update {
    #[serde(rename = "update_id")]
    id: i64,
    message: Option<Said>,
    callback_query: Option<Pressed>,
}

#[derive(Debug, Deserialize)]
struct Said {
    message_id: i64,
    message_thread_id: Option<i64>,
    from: Option<From>,
    /// In whose name it was said, if not in one's own: an anonymous administrator's, a channel's.
    sender_chat: Option<IgnoredAny>,
    /// Whose words they are, if not one's own.
    forward_origin: Option<IgnoredAny>,
    chat: ChatId,
    text: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Pressed {
    id: String,
    from: From,
    message: Option<Under>,
    data: Option<String>,
}

/// The message under which a button was pressed.
#[derive(Debug, Deserialize)]
struct Under {
    message_id: i64,
    message_thread_id: Option<i64>,
    chat: ChatId,
    #[serde(default)]
    reply_markup: Value,
}

#[derive(Debug, Deserialize)]
struct From {
    id: i64,
}

#[derive(Debug, Deserialize)]
struct ChatId {
    id: i64,
}

/// What Telegram says that somebody did, for fuzzing.
pub(crate) fn read_update(text: &str) {
    serde_json::from_str::<Update>(text).ok();
}

/// One for each bot that anybody may answer.
pub(crate) fn listeners(with: &Arc<With>) -> Vec<Listener> {
    let mut all: Vec<Listener> = Vec::new();
    for receiver in &with.alerts.receivers {
        let Channel::Chat(chat) = &receiver.channel else {
            continue;
        };
        let Brand::Telegram {
            answers: Some(answers),
            ..
        } = &chat.brand
        else {
            continue;
        };
        let one = (receiver.clone(), Arc::clone(answers));
        let is_same = |all: &&mut Listener| all.api == answers.api && all.token == answers.token;
        match all.iter_mut().find(is_same) {
            Some(listener) => listener.receivers.push(one),
            None => all.push(Listener {
                api: answers.api.clone(),
                token: answers.token.clone(),
                client: answers.client.clone(),
                receivers: vec![one],
                strangers: Mutex::default(),
                with: Arc::clone(with),
            }),
        }
    }
    all
}

impl Listener {
    /// Runs until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let this = Arc::new(self);
        // The bot's number is no secret; what stands behind it is.
        let bot = this.token.show().split(':').next().unwrap_or_default();
        let key = keys::telegram(bot);
        let mut next: i64 = get_json(&*this.with.state, &key)?.unwrap_or_default();
        let mut again = AGAIN.0;
        while !stop.is_cancelled() {
            let question = json!({
                "offset": next,
                "timeout": WAITS.as_secs(),
                "allowed_updates": ["message", "callback_query"],
            });
            let asked = tokio::select! {
                asked = this.call("getUpdates", &question) => asked,
                () = stop.cancelled() => break,
            };
            let updates = match asked {
                Ok(updates) => {
                    again = AGAIN.0;
                    updates
                }
                Err(why) => {
                    if again == AGAIN.0 {
                        warn!(error = why, "Telegram cannot be asked what people answer");
                    }
                    tokio::select! {
                        () = tokio::time::sleep(again) => {}
                        () = stop.cancelled() => break,
                    }
                    again = (again * 2).min(AGAIN.1);
                    continue;
                }
            };
            let before = next;
            for update in updates.as_array().into_iter().flatten() {
                let Some(id) = update["update_id"].as_i64() else {
                    continue;
                };
                // After a quiet week Telegram may count from anywhere: what it says last is where it is.
                next = id + 1;
                match serde_json::from_value::<Update>(update.clone()) {
                    Ok(update) => {
                        if let Err(error) = this.take(update, &key).await {
                            warn!(error = %format!("{error:#}"), "what somebody asked in Telegram was not done");
                        }
                    }
                    Err(error) => info!(%error, "Telegram said something that is not understood"),
                }
            }
            if next == before && updates != json!([]) {
                // The same again: not as fast as it can be said.
                tokio::time::sleep(AGAIN.0).await;
            }
        }
        Ok(())
    }

    /// Keeps how far Telegram was heard.
    async fn heard(self: &Arc<Self>, (key, next): (&str, i64)) -> anyhow::Result<()> {
        let (this, key) = (Arc::clone(self), key.to_owned());
        let kept = tokio::task::spawn_blocking(move || {
            let mut change = Change::default();
            change.put_json(key, &next)?;
            this.with.state.apply(change).map_err(anyhow::Error::from)?;
            this.with.state.sync()
        });
        if let Err(error) = kept.await.context("keeping a place panicked")? {
            // On a full disk; after a restart the same would be heard again.
            warn!(error = %format!("{error:#}"), "how far Telegram was heard cannot be kept");
        }
        Ok(())
    }

    /// Calls a method; its result.
    async fn call(&self, method: &str, body: &Value) -> Result<Value, String> {
        let url = telegram_url(&self.api, &self.token, method);
        let asked = self.client.post(url).json(body).timeout(WITHIN).send();
        let told = |error: reqwest::Error| format!("{:#}", anyhow::Error::new(error.without_url()));
        let answer = asked.await.map_err(told)?;
        let status = answer.status();
        let said: Value = answer.json().await.map_err(told)?;
        if said["ok"] == json!(true) {
            return Ok(said["result"].clone());
        }
        let description = said["description"].as_str().unwrap_or_default();
        let why = description.replace(self.token.show(), "…");
        Err(match status {
            StatusCode::CONFLICT => format!("{why}: another program listens for this bot"),
            _ => format!("{status}: {why}"),
        })
    }

    async fn take(self: &Arc<Self>, update: Update, key: &str) -> anyhow::Result<()> {
        let next = update.id + 1;
        if let Some(said) = update.message {
            self.hear(said, (key, next)).await?;
        }
        if let Some(pressed) = update.callback_query {
            self.press(pressed, (key, next)).await?;
        }
        Ok(())
    }

    /// The receiver whose chat it is, and who of it somebody is; the one that lists them, if several are told in the same chat.
    fn receiver(
        &self,
        chat: i64,
        topic: Option<i64>,
        user: i64,
    ) -> Option<(&Receiver, Option<&User>)> {
        let here = self.receivers.iter().filter(|(_, one)| {
            one.chat.load(Ordering::Relaxed) == chat && (one.topic.is_none() || one.topic == topic)
        });
        let listed = |answers: &Arc<Answers>| answers.users.iter().position(|one| one.id == user);
        let mut here: Vec<&(Receiver, Arc<Answers>)> = here.collect();
        here.sort_by_key(|(_, answers)| listed(answers).is_none());
        let (receiver, answers) = here.first()?;
        Some((receiver, answers.users.iter().find(|one| one.id == user)))
    }

    /// Whether a stranger is to be told that they are one.
    fn is_new(&self, stranger: i64) -> bool {
        let mut all = self
            .strangers
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, at| at.elapsed() < STRANGERS.0);
        let is_new = all.len() < STRANGERS.1 && !all.contains_key(&stranger);
        if is_new {
            all.insert(stranger, Instant::now());
        }
        is_new
    }

    /// Somebody wrote a command.
    async fn hear(self: &Arc<Self>, said: Said, place: (&str, i64)) -> anyhow::Result<()> {
        let text = said.text.unwrap_or_default();
        let own_words = said.sender_chat.is_none() && said.forward_origin.is_none();
        let (Some(from), true) = (said.from, own_words && text.starts_with('/')) else {
            return Ok(());
        };
        let Some((receiver, user)) = self.receiver(said.chat.id, said.message_thread_id, from.id)
        else {
            if self.is_new(said.chat.id) {
                info!(
                    chat = said.chat.id,
                    "a Telegram chat that no receiver is of sent a command"
                );
            }
            return Ok(());
        };
        let answer = match user {
            None if !self.is_new(from.id) => return Ok(()),
            None => {
                let catalogue = Catalogue::of(receiver.language)?;
                catalogue.say("chat.stranger", &[("id", &from.id.to_string())])
            }
            Some(user) => {
                // Before it is done: what dies in between is not done, and not answered, and nothing is done twice.
                self.heard(place).await?;
                let (this, receiver, by) = (Arc::clone(self), receiver.clone(), user.name.clone());
                let done =
                    tokio::task::spawn_blocking(move || this.with.command(&receiver, &by, &text));
                done.await.context("a command panicked")??
            }
        };
        let reply = json!({
            "chat_id": said.chat.id,
            "text": shortened(&unmentioned(&answer), 4_096),
            "reply_parameters": { "message_id": said.message_id, "allow_sending_without_reply": true },
            "link_preview_options": { "is_disabled": true },
        });
        if let Err(why) = self.call("sendMessage", &reply).await {
            warn!(error = why, "a command in Telegram went unanswered");
        }
        Ok(())
    }

    /// Somebody pressed the button that acknowledges.
    async fn press(self: &Arc<Self>, pressed: Pressed, place: (&str, i64)) -> anyhow::Result<()> {
        let Some(under) = pressed.message else {
            return Ok(());
        };
        let found = self.receiver(under.chat.id, under.message_thread_id, pressed.from.id);
        let Some((receiver, user)) = found else {
            return Ok(());
        };
        let catalogue = Catalogue::of(receiver.language)?;
        let data = pressed.data.unwrap_or_default();
        let number = data
            .strip_prefix("ack ")
            .and_then(|text| text.parse::<u64>().ok());
        let (text, done) = match (user, number) {
            (None, _) => {
                let id = pressed.from.id.to_string();
                (catalogue.say("chat.stranger", &[("id", &id)]), false)
            }
            (_, None) => (catalogue.say("chat.unknown", &[]), false),
            (Some(user), Some(number)) => {
                self.heard(place).await?;
                let (this, receiver, by) = (Arc::clone(self), receiver.clone(), user.name.clone());
                let acted = tokio::task::spawn_blocking(move || {
                    let deed = Deed::Acknowledge {
                        why: None,
                        lasts: None,
                    };
                    this.with.act(&receiver, &by, number, &deed)
                });
                match acted.await.context("an answer panicked")?? {
                    Ok(text) => (text, true),
                    Err(text) => (text, false),
                }
            }
        };
        let text: String = text.chars().take(200).collect();
        let answer = json!({ "callback_query_id": pressed.id, "text": text });
        if let Err(why) = self.call("answerCallbackQuery", &answer).await {
            warn!(error = why, "a button in Telegram went unanswered");
        }
        if done {
            // The button has done its work; the others stay.
            let rows = under.reply_markup["inline_keyboard"].as_array();
            let rows = rows.into_iter().flatten();
            let others = rows.filter(|row| row[0]["callback_data"].as_str() != Some(&*data));
            let others: Vec<&Value> = others.collect();
            let edit = json!({
                "chat_id": under.chat.id,
                "message_id": under.message_id,
                "reply_markup": { "inline_keyboard": others },
            });
            if let Err(why) = self.call("editMessageReplyMarkup", &edit).await {
                info!(error = why, "a button in Telegram stays");
            }
        }
        Ok(())
    }
}

impl With {
    /// Does what a command says; what is answered. Blocks.
    fn command(&self, receiver: &Receiver, by: &str, text: &str) -> anyhow::Result<String> {
        let catalogue = Catalogue::of(receiver.language)?;
        let (command, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        // In a group commands may name the bot.
        let command = command.split('@').next().unwrap_or_default();
        let rest = rest.trim();
        let (first, behind) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        let behind = behind.trim();
        let number = first.trim_start_matches('#').parse::<u64>();
        let usage = |key: &str| Ok(catalogue.say(key, &[]));
        match command {
            "/status" => self.status(receiver, &catalogue),
            "/insiden" | "/incidents" => self.incidents(receiver, &catalogue),
            "/ack" | "/akui" => match number {
                Ok(number) => {
                    let why = (!behind.is_empty()).then(|| behind.to_owned());
                    let deed = Deed::Acknowledge { why, lasts: None };
                    Ok(self
                        .act(receiver, by, number, &deed)?
                        .unwrap_or_else(|text| text))
                }
                Err(_) => usage("chat.usage_ack"),
            },
            "/catat" | "/note" => match number {
                Ok(number) if !behind.is_empty() => {
                    let text = behind.to_owned();
                    let deed = Deed::Note { text };
                    Ok(self
                        .act(receiver, by, number, &deed)?
                        .unwrap_or_else(|text| text))
                }
                _ => usage("chat.usage_note"),
            },
            "/senyap" | "/silence" => {
                let (lasts, why) = behind
                    .split_once(char::is_whitespace)
                    .unwrap_or((behind, ""));
                if first.is_empty() || lasts.is_empty() || why.trim().is_empty() {
                    return usage("chat.usage_silence");
                }
                self.silence(receiver, by, (first, lasts, why.trim()), &catalogue)
            }
            _ => usage("chat.help"),
        }
    }

    /// The incidents that are open, and the receiver's.
    fn open(&self, receiver: &Receiver, now: UnixMillis) -> anyhow::Result<Vec<Truth>> {
        let mut all = Vec::new();
        for (_, number) in scan_json::<u64>(&*self.state, keys::OPEN)? {
            let truth = Truth::read(&*self.state, &self.alerts, &self.registry, number, now)?;
            all.extend(truth.filter(|truth| {
                truth.incident.is_open() && self.alerts.is_for(receiver, &truth.about)
            }));
        }
        all.sort_by_key(|truth| truth.incident.number);
        Ok(all)
    }

    fn status(&self, receiver: &Receiver, catalogue: &Catalogue) -> anyhow::Result<String> {
        let now = self.clock.read().now;
        let open = self.open(receiver, now)?;
        let unattended = open.iter().filter(|truth| truth.by.is_none()).count();
        let offices = self.registry.offices();
        let watched = offices
            .keys()
            .filter(|code| self.alerts.covers(receiver, code.as_str()));
        let (watched, count) = (watched.count().to_string(), open.len().to_string());
        let unattended = unattended.to_string();
        let values = [
            ("watched", &*watched),
            ("open", &count),
            ("unattended", &unattended),
        ];
        Ok(catalogue.say("chat.status", &values))
    }

    fn incidents(&self, receiver: &Receiver, catalogue: &Catalogue) -> anyhow::Result<String> {
        let now = self.clock.read().now;
        let open = self.open(receiver, now)?;
        if open.is_empty() {
            return Ok(catalogue.say("incidents.none", &[]));
        }
        let writer = Writer::new(&self.alerts, receiver, &self.registry, now)?;
        let lines = open.iter().take(LISTED).map(|truth| {
            let entry = Entry {
                incident: truth.incident.clone(),
                now: truth.told.clone(),
                is_new: true,
                by: truth.by.clone(),
                unattended: truth.unattended,
            };
            format!("#{} {}", truth.incident.number, writer.sentence(&entry))
        });
        let mut lines: Vec<String> = lines.collect();
        if let Some(more) = open.len().checked_sub(LISTED).filter(|more| *more > 0) {
            lines.push(catalogue.say("chat.more", &[("n", &more.to_string())]));
        }
        Ok(lines.join("\n"))
    }

    /// Does something about an incident; what is answered, and whether it was done.
    fn act(
        &self,
        receiver: &Receiver,
        by: &str,
        number: u64,
        deed: &Deed,
    ) -> anyhow::Result<Result<String, String>> {
        let catalogue = Catalogue::of(receiver.language)?;
        let now = self.clock.read().now;
        let of = number.to_string();
        let truth = Truth::read(&*self.state, &self.alerts, &self.registry, number, now)?;
        // What this chat is not told of does not exist for it.
        if !truth.is_some_and(|truth| self.alerts.is_for(receiver, &truth.about)) {
            return Ok(Err(catalogue.say("chat.no_incident", &[("number", &of)])));
        }
        let done = match deed {
            Deed::Note { .. } => "chat.noted",
            _ => "chat.acknowledged",
        };
        Ok(match self.cases.act(number, by, deed, now) {
            Ok(_) => Ok(catalogue.say(done, &[("number", &of), ("by", by)])),
            Err(Refused::Failed(error)) => return Err(error),
            Err(refused) => {
                let text = refused.to_string();
                Err(catalogue.say("chat.refused", &[("text", &text)]))
            }
        })
    }

    fn silence(
        &self,
        receiver: &Receiver,
        by: &str,
        (region, lasts, why): (&str, &str, &str),
        catalogue: &Catalogue,
    ) -> anyhow::Result<String> {
        if !self.alerts.covers(receiver, region) {
            return Ok(catalogue.say("chat.no_region", &[("region", region)]));
        }
        let wish = Wish::of(region, Vec::new(), why, lasts);
        let now = self.clock.read().now;
        Ok(match self.silences.add(&wish, by, now) {
            Ok(made) => {
                let until = Catalogue::time(made.until_ms, None);
                catalogue.say("chat.silenced", &[("region", region), ("until", &until)])
            }
            Err(NoSilence::Failed(error)) => return Err(error),
            Err(refused) => {
                let text = refused.to_string();
                catalogue.say("chat.refused", &[("text", &text)])
            }
        })
    }
}
