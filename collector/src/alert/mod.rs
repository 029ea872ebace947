//! Telling people: which incident is told to whom, when, and how it gets there.
//!
//! ```text
//! worker, cases ─ (in the same change of the state) → news/<incident>
//!     → notifier: routes, groups      → group/<receiver> <what belongs together> + outbox/<number>   (one change)
//!     → courier, one for each receiver → the receiver, again until it takes the message
//! ```
//!
//! What is told is held against what was told before: a crash between two steps tells nothing twice and forgets nothing. A message that was sent when the power went is sent
//! again, with the same id.

mod alive;
mod courier;
mod group;
mod notifier;
mod outbox;
mod route;
mod silence;
mod text;
mod webhook;

pub(crate) use alive::Alive;
pub(crate) use courier::Courier;
pub(crate) use group::{Group, Timing};
pub(crate) use notifier::Notifier;
pub(crate) use outbox::{Ask, Message, Outbox};
pub(crate) use route::{About, Route};
pub(crate) use silence::{NoSilence, Silence, SilenceAsk, Silences, Wish};
pub(crate) use text::Language;
pub(crate) use webhook::{Secret, Webhook, client};

/// Whom and how to tell.
#[derive(Debug, Clone, Default)]
pub(crate) struct Alerts {
    pub(crate) receivers: Vec<Receiver>,
    pub(crate) routes: Vec<Route>,
    pub(crate) timing: Timing,
    /// Where people find the page, for links.
    pub(crate) page: Option<String>,
    /// Who is told that the collector watches.
    pub(crate) alive: Option<Alive>,
}

/// Somebody who is told.
#[derive(Debug, Clone)]
pub(crate) struct Receiver {
    /// As routes name it.
    pub(crate) name: String,
    pub(crate) language: Language,
    pub(crate) webhook: Webhook,
}
