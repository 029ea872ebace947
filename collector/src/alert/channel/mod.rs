//! The ways to a receiver: one module for each shape of API.

mod chat;
pub(super) mod config;
mod exec;
mod gateway;
pub(super) mod http;
mod mail;
mod webhook;

pub(crate) use chat::{Brand, Chat, below, read_answer, shortened, telegram_url, unmentioned};
pub(crate) use exec::Exec;
pub(crate) use gateway::Gateway;
pub(crate) use http::client;
pub(crate) use mail::Mail;
pub(crate) use webhook::{Secret, Webhook};

use super::alertmanager::Alertmanager;
use super::outbox::{Message, Thread};
use denyut_proto::UnixMillis;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// A text for people has this many bytes, at most, where the receiver takes no less: nobody reads more.
const TEXT_MAX: usize = 4_000;

/// How a receiver is reached.
#[derive(Debug, Clone)]
pub(crate) enum Channel {
    /// A program that takes Alertmanager's webhooks.
    Webhook(Webhook),
    /// A chat.
    Chat(Chat),
    /// Whatever takes an HTTP request: its address, headers and body are the operator's.
    Gateway(Gateway),
    Mail(Mail),
    /// A program on this machine.
    Exec(Exec),
    /// An Alertmanager: it is told what is true, and itself tells people.
    Alertmanager(Arc<Alertmanager>),
}

/// A message was taken.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Sent {
    /// What the receiver calls it: the next of its thread names that.
    pub(super) handle: Option<String>,
}

/// Why a message did not arrive.
#[derive(Debug)]
pub(super) enum Undelivered {
    /// It may the next time; and not before this long, if the receiver said so.
    Later(String, Option<Duration>),
    /// It will not.
    Never(String),
}

impl fmt::Display for Undelivered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Later(why, _) | Self::Never(why) => f.write_str(why),
        }
    }
}

impl Channel {
    /// Sends a message once. `thread`: the first message of what this one is of.
    pub(super) async fn send(
        &self,
        message: &Message,
        thread: Option<&Thread>,
        now: UnixMillis,
    ) -> Result<Sent, Undelivered> {
        match self {
            Self::Webhook(webhook) => webhook.send(message, now).await,
            Self::Chat(chat) => chat.send(message, thread, now).await,
            Self::Gateway(gateway) => gateway.send(message, now).await,
            Self::Mail(mail) => mail.send(message, thread, now).await,
            Self::Exec(exec) => exec.send(message).await,
            // It has no messages.
            Self::Alertmanager(_) => Ok(Sent::default()),
        }
    }

    /// Where it leads, as a number: what one place calls a message another does not know.
    pub(super) fn place(&self) -> u64 {
        let place = match self {
            Self::Chat(chat) => chat.place(),
            Self::Mail(mail) => mail.from.to_string(),
            _ => String::new(),
        };
        let digest = ring::digest::digest(&ring::digest::SHA256, place.as_bytes());
        let first = digest.as_ref().first_chunk().copied();
        u64::from_be_bytes(first.unwrap_or_default())
    }

    /// Bytes of a text, at most.
    pub(super) fn text_max(&self) -> usize {
        match self {
            Self::Chat(chat) => chat.text_max(),
            Self::Gateway(gateway) => gateway.text_max,
            Self::Mail(_) => 5 * TEXT_MAX,
            Self::Webhook(_) | Self::Exec(_) | Self::Alertmanager(_) => TEXT_MAX,
        }
    }

    /// Whether a program reads it, which wants every incident: people get a summary of very many.
    pub(super) fn is_read_by_programs(&self) -> bool {
        matches!(
            self,
            Self::Webhook(_) | Self::Exec(_) | Self::Alertmanager(_)
        )
    }

    /// From one message to the next, at least, if nothing else is said.
    pub(crate) fn pace(&self) -> Duration {
        match self {
            // Telegram takes 20 a minute in a group; the others more.
            Self::Chat(_) | Self::Gateway(_) => Duration::from_secs(3),
            Self::Mail(_) => Duration::from_secs(10),
            Self::Webhook(_) | Self::Exec(_) | Self::Alertmanager(_) => Duration::ZERO,
        }
    }

    /// What it is, for people.
    pub(crate) fn describe(&self) -> &'static str {
        match self {
            Self::Webhook(_) => "webhook",
            Self::Chat(chat) => chat.name(),
            Self::Gateway(_) => "http",
            Self::Mail(_) => "mail",
            Self::Exec(_) => "exec",
            Self::Alertmanager(_) => "alertmanager",
        }
    }
}

/// A key of a chat, or a password; never shown.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Token(String);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

impl Token {
    /// Reads the first line of a file.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        use anyhow::Context;
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        let line = text.trim();
        if line.is_empty() || line.chars().any(|c| c.is_control() || c == ' ') {
            anyhow::bail!(
                "{} must hold the secret in one line, and no more",
                path.display()
            );
        }
        Ok(Self(line.to_owned()))
    }

    pub(crate) fn show(&self) -> &str {
        &self.0
    }
}
