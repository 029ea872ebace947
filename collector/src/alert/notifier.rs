//! From incidents that changed to messages: the one thread that decides what is told.

use super::group::{Group, Telling, Told};
use super::outbox::Outbox;
use super::route::About;
use super::text::Catalogue;
use super::{Alerts, Receiver};
use crate::case::Case;
use crate::clock::Clock;
use crate::keys;
use crate::metrics::Metrics;
use crate::registry::Registry;
use anyhow::Context;
use denyut_detect::Incident;
use denyut_proto::UnixMillis;
use denyut_store::state::{Change, State, get_json, scan_json};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tracing::{info, warn};

/// News and groups of one round, at most: what they change fits into one change of the state.
const NEWS: usize = 100;
const TOLD: usize = 50;
/// It is looked at least so often: an acknowledgement runs out by itself.
const LOOK: Duration = Duration::from_secs(10);
/// Incidents written out in one message; the others are counted.
const ALERTS_MAX: usize = 50;

/// What the thread is made of.
pub(crate) struct Notifier {
    pub(crate) alerts: Arc<Alerts>,
    pub(crate) state: Arc<dyn State>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) clock: Arc<Clock>,
    pub(crate) metrics: Arc<Metrics>,
    /// An incident, or its case, has changed.
    pub(crate) news: Arc<Notify>,
}

/// A receiver and what belongs together there: the key of a group.
type Key = (String, String);

/// The groups as the state has them.
fn groups(state: &dyn State) -> anyhow::Result<BTreeMap<Key, Group>> {
    let all = scan_json::<Group>(state, keys::GROUPS)?;
    let key = |key: &str| {
        let (receiver, together) = key[keys::GROUPS.len()..].split_once(' ')?;
        Some((receiver.to_owned(), together.to_owned()))
    };
    all.into_iter()
        .map(|(name, group)| {
            let key = key(&name)
                .with_context(|| format!("the state holds a key that makes no sense: {name}"))?;
            Ok((key, group))
        })
        .collect()
}

/// What one round changes.
#[derive(Default)]
struct Round {
    changed: BTreeSet<Key>,
    change: Change,
    messages: usize,
}

impl Notifier {
    /// Runs until `stop`'s sender is gone.
    pub(crate) fn run(self, runtime: &Handle, mut stop: watch::Receiver<()>) -> anyhow::Result<()> {
        let mut groups = groups(&*self.state)?;
        // Of receivers that are no more.
        groups.retain(|(receiver, _), _| self.receiver(receiver).is_some());
        let known = |name: &str| self.receiver(name).is_some();
        let lost = self.outbox.trim(known)?;
        if lost > 0 {
            warn!(lost, "messages for receivers that are no more are given up");
        }
        self.ask_of_all()?;
        loop {
            let now = self.clock.read().now;
            let more = self.round(&mut groups, now)?;
            let due = groups
                .values()
                .filter_map(|group| group.due(&self.alerts.timing))
                .min();
            let wait = due.map_or(LOOK, |due| due.since(now).min(LOOK));
            let wait = if more { Duration::ZERO } else { wait };
            let stopped = runtime.block_on(async {
                tokio::select! {
                    changed = stop.changed() => changed.is_err(),
                    () = self.news.notified() => false,
                    () = tokio::time::sleep(wait) => false,
                }
            });
            if stopped {
                return Ok(());
            }
        }
    }

    /// What is open is news to a receiver that was not there before.
    fn ask_of_all(&self) -> anyhow::Result<()> {
        let open = scan_json::<u64>(&*self.state, keys::OPEN)?;
        for part in open.chunks(NEWS) {
            let mut change = Change::default();
            for (_, number) in part {
                change.put_json(keys::news(*number), &true)?;
            }
            self.state.apply(change).map_err(anyhow::Error::from)?;
        }
        Ok(())
    }

    fn receiver(&self, name: &str) -> Option<&Receiver> {
        self.alerts.receivers.iter().find(|one| one.name == name)
    }

    /// Takes news in and tells what is due; whether there is more to do at once.
    fn round(&self, groups: &mut BTreeMap<Key, Group>, now: UnixMillis) -> anyhow::Result<bool> {
        let mut round = Round::default();
        let news = self.state.scan(keys::NEWS)?;
        let more_news = news.len() > NEWS;
        for (key, _) in news.into_iter().take(NEWS) {
            let number: u64 = key[keys::NEWS.len()..]
                .parse()
                .with_context(|| format!("the state holds a key that makes no sense: {key}"))?;
            self.take(groups, number, now, &mut round)?;
            round.change.delete.push(key);
        }
        self.look_again(groups, now, &mut round)?;
        let is_due = |group: &Group| group.due(&self.alerts.timing).is_some_and(|due| due <= now);
        let due: Vec<Key> = groups
            .iter()
            .filter(|(_, group)| is_due(group))
            .map(|(key, _)| key.clone())
            .collect();
        let more_due = due.len() > TOLD;
        let mut serial: u64 = get_json(&*self.state, keys::MESSAGES)?.unwrap_or_default();
        for key in due.into_iter().take(TOLD) {
            self.tell(groups, &key, now, &mut serial, &mut round)?;
        }
        if round.messages > 0 {
            round.change.put_json(keys::MESSAGES.to_owned(), &serial)?;
        }
        for key in &round.changed {
            let name = keys::group(&key.0, &key.1);
            match groups.get(key) {
                Some(group) if !group.members.is_empty() => round.change.put_json(name, group)?,
                _ => {
                    groups.remove(key);
                    round.change.delete.push(name);
                }
            }
        }
        let is_empty = round.change.put.is_empty() && round.change.delete.is_empty();
        if !is_empty {
            self.state
                .apply(round.change)
                .map_err(anyhow::Error::from)?;
        }
        if round.messages > 0 {
            // What is sent must not be made again by a state that went back.
            self.state.sync()?;
            self.outbox.filled.notify_waiters();
        }
        let (waiting, dead) = self.outbox.count()?;
        self.metrics.set_messages(waiting, dead);
        Ok(more_news || more_due)
    }

    /// An incident, or its case, has changed.
    fn take(
        &self,
        groups: &mut BTreeMap<Key, Group>,
        number: u64,
        now: UnixMillis,
        round: &mut Round,
    ) -> anyhow::Result<()> {
        let Some((incident, told)) = self.truth(number, now)? else {
            return Ok(());
        };
        let mut of: BTreeSet<Key> = groups
            .iter()
            .filter(|(_, group)| group.members.contains_key(&number))
            .map(|(key, _)| key.clone())
            .collect();
        // Somebody is to be called, and the common cause that it is part of does not call them already.
        if incident.paged_ms.is_some() && incident.parent.is_none() {
            let about = About::of(&incident);
            for route in &self.alerts.routes {
                if route.takes(&about).is_ok()
                    && !of.iter().any(|(name, _)| *name == route.receiver)
                {
                    of.insert((route.receiver.clone(), together(&incident)));
                }
            }
        }
        for key in of {
            let group = groups.entry(key.clone()).or_default();
            if group.take(number, told.clone(), now) {
                round.changed.insert(key);
            }
        }
        Ok(())
    }

    /// What changes by time alone: an acknowledgement runs out.
    fn look_again(
        &self,
        groups: &mut BTreeMap<Key, Group>,
        now: UnixMillis,
        round: &mut Round,
    ) -> anyhow::Result<()> {
        for (key, group) in groups {
            let known = group
                .members
                .iter()
                .filter(|(_, member)| matches!(member.now.state, Telling::Acknowledged(_)));
            let known: Vec<u64> = known.map(|(number, _)| *number).collect();
            for number in known {
                if let Some((_, told)) = self.truth(number, now)?
                    && group.take(number, told, now)
                {
                    round.changed.insert(key.clone());
                }
            }
        }
        Ok(())
    }

    /// An incident as it is now.
    fn truth(&self, number: u64, now: UnixMillis) -> anyhow::Result<Option<(Incident, Told)>> {
        let incident: Option<Incident> = get_json(&*self.state, &keys::incident(number))?;
        let Some(incident) = incident else {
            return Ok(None);
        };
        let case = Case::read(&*self.state, number)?;
        let known = case.acknowledgement(&incident, now);
        let told = Told::of(&incident, known.as_ref().map(|known| known.by.as_str()));
        Ok(Some((incident, told)))
    }

    /// Makes a message of what a group has to tell.
    fn tell(
        &self,
        groups: &mut BTreeMap<Key, Group>,
        key: &Key,
        now: UnixMillis,
        serial: &mut u64,
        round: &mut Round,
    ) -> anyhow::Result<()> {
        let (Some(group), Some(receiver)) = (groups.get_mut(key), self.receiver(&key.0)) else {
            return Ok(());
        };
        let mut alerts = Vec::new();
        let catalogue = Catalogue::of(receiver.language)?;
        let mut firing = 0;
        for (number, member) in &group.members {
            let is_new = member.told.as_ref() != Some(&member.now);
            let fires = matches!(member.now.state, Telling::Firing | Telling::Acknowledged(_));
            firing += usize::from(fires);
            if let Some((incident, _)) = self.truth(*number, now)? {
                alerts.push((!is_new, self.alert(&catalogue, &incident, &member.now)));
            }
        }
        // What is new comes first.
        alerts.sort_by_key(|(is_old, _)| *is_old);
        let truncated = alerts.len().saturating_sub(ALERTS_MAX);
        let alerts: Vec<Value> = alerts
            .into_iter()
            .map(|(_, alert)| alert)
            .take(ALERTS_MAX)
            .collect();
        group.tell(now);
        let body = json!({
            "version": "4",
            "groupKey": format!("{} {}", key.0, key.1),
            "truncatedAlerts": truncated,
            "status": if firing > 0 { "firing" } else { "resolved" },
            "receiver": key.0,
            "groupLabels": { "together": key.1 },
            "commonLabels": { "alertname": "denyut" },
            "commonAnnotations": {},
            "externalURL": self.alerts.page.clone().unwrap_or_default(),
            "alerts": alerts,
        });
        let first = group.members.keys().next().copied().unwrap_or(*serial);
        let id = format!(
            "denyut-{}-{}-{first}-{}",
            key.0,
            key.1.replace([' ', '.'], "-"),
            now.0
        );
        info!(
            receiver = key.0,
            together = key.1,
            incidents = alerts_of(&body),
            "a message is made"
        );
        Outbox::put(
            &mut round.change,
            serial,
            (&key.0, id, body.to_string()),
            now,
        )?;
        round.messages += 1;
        round.changed.insert(key.clone());
        Ok(())
    }

    /// One incident as webhooks have it.
    fn alert(&self, catalogue: &Catalogue, incident: &Incident, now: &Told) -> Value {
        let facts = &incident.facts;
        let is_over = matches!(now.state, Telling::Resolved | Telling::Retracted);
        let office = incident.office.as_ref();
        let named = office.and_then(|code| Some((code, self.registry.offices.get(code)?)));
        let subject = named.map_or_else(|| incident.subject(), |(_, office)| office.name.clone());
        let mut labels = json!({
            "alertname": "denyut",
            "incident": incident.number.to_string(),
            "cause": now.cause.as_str(),
            "severity": if facts.scope.is_some() || now.relapse.is_some() { "critical" } else { "warning" },
        });
        if let Some(code) = office {
            labels["office"] = json!(code);
            labels["region"] = json!(code.as_str().get(..5).unwrap_or_default());
        }
        if let Some(scope) = &facts.scope {
            labels["scope"] = json!(format!("{} {}", scope.kind.as_str(), scope.code).trim_end());
        }
        let time = |at: UnixMillis| {
            jiff::Timestamp::from_millisecond(at.0)
                .map_or_else(|_| String::new(), |at| at.to_string())
        };
        let page = self
            .alerts
            .page
            .as_deref()
            .map(|page| page.trim_end_matches('/'));
        json!({
            "status": if is_over { "resolved" } else { "firing" },
            "labels": labels,
            "annotations": {
                "summary": catalogue.sentence(incident, now, &subject),
                "office_name": subject,
            },
            "startsAt": time(facts.opened_ms),
            "endsAt": facts.resolved_ms.filter(|_| is_over).map_or_else(|| "0001-01-01T00:00:00Z".to_owned(), time),
            "generatorURL": page.map(|page| format!("{page}/#incident-{}", incident.number)).unwrap_or_default(),
            "fingerprint": format!("{:016x}", incident.number),
        })
    }
}

fn alerts_of(body: &Value) -> usize {
    body["alerts"].as_array().map_or(0, Vec::len)
}

/// What belongs together: the offices of a regency; a common cause is alone.
fn together(incident: &Incident) -> String {
    match &incident.office {
        Some(office) => format!("regency {}", office.as_str().get(..5).unwrap_or_default()),
        None => incident.subject(),
    }
}
