//! Telling people: which incident is told to whom, when, and how it gets there.
//!
//! ```text
//! worker, cases ─ (in the same change of the state) → news/<incident>
//!     → notifier: routes, groups      → group/<receiver> <what belongs together> + outbox/<number>   (one change)
//!     → courier, one for each receiver → the receiver, again until it takes the message              (channel)
//! ```
//!
//! What is told is held against what was told before: a crash between two steps tells nothing twice and forgets nothing. A message that was sent when the power went is sent
//! again, with the same id. A receiver has one message on its way: what happens until it has arrived is told in the next, however much that is.
//!
//! An [`Alertmanager`] has no messages: it is told again and again what is true.

mod alertmanager;
mod alive;
mod channel;
mod compose;
pub(crate) mod config;
mod courier;
mod group;
mod notice;
mod notifier;
mod outbox;
mod rehearsal;
mod route;
mod silence;
mod telegram;
mod template;
mod text;
mod truth;

pub(crate) use alertmanager::{Alertmanager, Push};
pub(crate) use alive::Alive;
pub(crate) use channel::config::{Place, hook};
pub(crate) use channel::{Channel, Token, read_answer};
pub(crate) use compose::{Writer, samples};
pub(crate) use courier::Courier;
pub(crate) use group::{Group, Timing};
pub(crate) use notifier::Notifier;
pub(crate) use outbox::{Message, Outbox, Telling};
pub(crate) use rehearsal::{Rehearsal, Supposed};
pub(crate) use route::{About, Route, Severity, To};
pub(crate) use silence::{NoSilence, Silence, Silences, Wish};
pub(crate) use telegram::{With, listeners, read_update};
pub(crate) use template::Template;
pub(crate) use text::{Catalogue, Language};

use denyut_proto::UnixMillis;
use std::time::Duration;

/// Whom and how to tell.
#[derive(Debug, Clone, Default)]
pub(crate) struct Alerts {
    pub(crate) receivers: Vec<Receiver>,
    pub(crate) routes: Vec<Route>,
    pub(crate) timing: Timing,
    /// Where people find the page, for links; without a slash at the end.
    pub(crate) page: Option<String>,
    /// Who is told that the collector watches.
    pub(crate) alive: Option<Alive>,
}

impl Alerts {
    /// Whether a receiver is told of what this is about, sooner or later.
    fn is_for(&self, receiver: &Receiver, about: &About) -> bool {
        let mut routes = self.routes.iter();
        routes.any(|route| route.leads_to(receiver, about) && route.takes(about).is_ok())
    }

    /// Whether a region lies in what a receiver is told of.
    pub(crate) fn covers(&self, receiver: &Receiver, region: &str) -> bool {
        let lies_in = |regions: &[String]| {
            let mut regions = regions.iter();
            let lies = |one: &String| {
                let rest = region.strip_prefix(one.as_str());
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            };
            regions.len() == 0 || regions.any(lies)
        };
        self.routes.iter().any(|route| {
            let leads = match &route.to {
                To::Receiver(name) => *name == receiver.name,
                To::Role(role) => {
                    receiver.role.as_ref() == Some(role) && lies_in(&receiver.regions)
                }
            };
            leads && lies_in(&route.regions)
        })
    }
}

/// Somebody who is told.
#[derive(Debug, Clone)]
pub(crate) struct Receiver {
    /// As routes name it.
    pub(crate) name: String,
    pub(crate) language: Language,
    /// What it is to the offices of its regions (`regency`, `province`, …): a route may lead to all of a role.
    pub(crate) role: Option<String>,
    /// Region codes or their beginnings; all when empty. They count for routes to its role.
    pub(crate) regions: Vec<String>,
    /// The form of what it reads.
    pub(crate) template: Template,
    /// From one message to the next, at least.
    pub(crate) pace: Duration,
    pub(crate) channel: Channel,
}

impl Receiver {
    /// Sends a message that says that it is a test, once, past routes and outbox; why it did not arrive.
    pub(crate) async fn test(&self, now: UnixMillis) -> anyhow::Result<Result<(), String>> {
        if let Channel::Alertmanager(to) = &self.channel {
            return Ok(to.test(now).await);
        }
        let catalogue = text::Catalogue::of(self.language)?;
        let notice = notice::Notice {
            title: catalogue.say("test.title", &[]),
            text: catalogue.say("test.text", &[]),
            ..notice::Notice::default()
        };
        let mut message = Message::sample(notice);
        message.id = format!("denyut-{}-test-{}", self.name, now.0);
        message.receiver.clone_from(&self.name);
        let sent = self.channel.send(&message, None, now).await;
        Ok(sent.map(drop).map_err(|error| error.to_string()))
    }
}
