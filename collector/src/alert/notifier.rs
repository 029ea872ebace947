//! From incidents that changed to messages: the one thread that decides what is told.

use super::group::{Group, Member, Telling, Told};
use super::outbox::Outbox;
use super::route::About;
use super::silence::{self, Silence};
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
use denyut_store::history::is_full;
use denyut_store::state::{Change, State, StateError, get_json, scan_json};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tracing::{info, warn};

/// What one round changes, and the messages that it makes, at most: they fit into one change of the state.
const CHANGED: usize = 250;
const TOLD: usize = 10;
/// How long until it is tried again while the disk is full.
const FULL: Duration = Duration::from_secs(5);
/// It is looked at least so often: an acknowledgement runs out by itself.
const LOOK: Duration = Duration::from_secs(10);
/// Incidents written out in one message, and its bytes, at most; the others are counted.
const ALERTS_MAX: usize = 50;
const BODY_MAX: usize = 56_000;
/// Incidents of one group, at most: a regency has some hundred offices, and each has one incident at a time.
const MEMBERS_MAX: usize = 1_000;

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

/// What the thread knows between two rounds.
struct Known {
    groups: BTreeMap<Key, Group>,
    /// Those that held.
    silences: BTreeSet<u64>,
}

/// What one round changes.
#[derive(Default)]
struct Round {
    changed: BTreeSet<Key>,
    change: Change,
    told: BTreeSet<Key>,
    /// The silences that hold.
    silences: Vec<Silence>,
}

impl Round {
    /// Whether nobody need be called for an incident.
    fn silences(&self, incident: &Incident, registry: &Registry, now: UnixMillis) -> bool {
        let about = About::of(incident, registry);
        self.silences.iter().any(|one| one.covers(&about, now))
    }

    /// What it changes must fit into one change of the state, with what is told.
    fn is_full(&self) -> bool {
        self.changed.len() + self.change.delete.len() >= CHANGED
    }
}

impl Notifier {
    /// The groups as the state has them, but for those of receivers that are no more.
    fn groups(&self) -> anyhow::Result<BTreeMap<Key, Group>> {
        let mut groups = BTreeMap::new();
        for (name, group) in keys::scan_packed::<Group>(&*self.state, keys::GROUPS)?.0 {
            let key = name[keys::GROUPS.len()..].split_once(' ');
            let (receiver, together) =
                key.with_context(|| format!("the state holds a key that makes no sense: {name}"))?;
            if self.receiver(receiver).is_some() {
                groups.insert((receiver.to_owned(), together.to_owned()), group);
            }
        }
        Ok(groups)
    }

    /// Runs until `stop`'s sender is gone.
    pub(crate) fn run(self, runtime: &Handle, mut stop: watch::Receiver<()>) -> anyhow::Result<()> {
        let mut known: Option<Known> = None;
        loop {
            let wait = match self.go_on(&mut known) {
                Ok(wait) => wait,
                // It passes: what is not told now is told when there is room.
                Err(error) if is_full(&error) => {
                    warn!(error = %format!("{error:#}"), "nobody can be told while the disk is full");
                    known = None;
                    FULL
                }
                Err(error) => return Err(error),
            };
            let stopped = runtime.block_on(async {
                tokio::select! {
                    changed = stop.changed() => changed.is_err(),
                    () = self.news.notified(), if wait != FULL => false,
                    () = tokio::time::sleep(wait) => false,
                }
            });
            if stopped {
                return Ok(());
            }
        }
    }

    /// One round, from what is kept if nothing is known; how long until the next.
    fn go_on(&self, known: &mut Option<Known>) -> anyhow::Result<Duration> {
        let known = match known {
            Some(known) => known,
            None => known.insert(self.begin()?),
        };
        let now = self.clock.read().now;
        if self.round(known, now)? {
            return Ok(Duration::ZERO);
        }
        let mut due: Option<UnixMillis> = None;
        for (key, group) in &known.groups {
            if let Some(at) = group.due(&self.alerts.timing)
                && due.is_none_or(|due| at < due)
                && !self.is_on_its_way(key, group)?
            {
                due = Some(at);
            }
        }
        Ok(due.map_or(LOOK, |due| due.since(now).min(LOOK)))
    }

    /// What is kept, but for what is of receivers that are no more; all of it is looked at anew.
    fn begin(&self) -> anyhow::Result<Known> {
        self.forget_receivers()?;
        let lost = self.outbox.forget(|name| self.receiver(name).is_some())?;
        if lost > 0 {
            warn!(lost, "messages for receivers that are no more are given up");
        }
        let groups = self.groups()?;
        self.ask_of_all(&groups)?;
        Ok(Known {
            groups,
            silences: BTreeSet::new(),
        })
    }

    /// What is open is news to a receiver that was not there before; and what was told may be otherwise by now.
    fn ask_of_all(&self, groups: &BTreeMap<Key, Group>) -> anyhow::Result<()> {
        let open = scan_json::<u64>(&*self.state, keys::OPEN)?;
        let mut all: BTreeSet<u64> = open.into_iter().map(|(_, number)| number).collect();
        all.extend(groups.values().flat_map(|group| group.members.keys()));
        let all: Vec<u64> = all.into_iter().collect();
        for part in all.chunks(CHANGED) {
            let mut change = Change::default();
            for number in part {
                change.put_json(keys::news(*number), &"start")?;
            }
            self.state.apply(change).map_err(anyhow::Error::from)?;
        }
        Ok(())
    }

    /// What was told to receivers that are no more is forgotten: one of the same name begins anew.
    fn forget_receivers(&self) -> anyhow::Result<()> {
        let all = self.state.scan(keys::GROUPS)?;
        let is_lost = |key: &String| {
            let receiver = key[keys::GROUPS.len()..].split(' ').next();
            receiver.is_none_or(|receiver| self.receiver(receiver).is_none())
        };
        let lost: Vec<String> = all
            .into_iter()
            .map(|(key, _)| key)
            .filter(is_lost)
            .collect();
        for part in lost.chunks(CHANGED) {
            let change = Change {
                delete: part.to_vec(),
                ..Change::default()
            };
            self.state.apply(change).map_err(anyhow::Error::from)?;
        }
        Ok(())
    }

    fn receiver(&self, name: &str) -> Option<&Receiver> {
        self.alerts.receivers.iter().find(|one| one.name == name)
    }

    /// Takes news in and tells what is due; whether there is more to do at once.
    fn round(&self, known: &mut Known, now: UnixMillis) -> anyhow::Result<bool> {
        let Known {
            groups,
            silences: held,
        } = known;
        let mut silences = silence::read(&*self.state)?;
        silences.retain(|one| one.holds(now));
        // When a silence is over, what it kept quiet is news.
        let holding: BTreeSet<u64> = silences.iter().map(|one| one.number).collect();
        if !held.is_subset(&holding) {
            self.ask_of_all(groups)?;
        }
        *held = holding;
        let mut round = Round {
            silences,
            ..Round::default()
        };
        let mut more = false;
        for (key, value) in self.state.scan(keys::NEWS)? {
            if round.is_full() {
                more = true;
                break;
            }
            let number: u64 = key[keys::NEWS.len()..]
                .parse()
                .with_context(|| format!("the state holds a key that makes no sense: {key}"))?;
            self.take(groups, number, now, &mut round)?;
            // What changes meanwhile is news of its own.
            round.change.expect.push((key.clone(), Some(value)));
            round.change.delete.push(key);
        }
        self.look_again(groups, now, &mut round)?;
        let mut due: Vec<Key> = Vec::new();
        for (key, group) in &*groups {
            let at = group.due(&self.alerts.timing);
            if at.is_some_and(|at| at <= now) && !self.is_on_its_way(key, group)? {
                due.push(key.clone());
            }
        }
        more |= due.len() > TOLD || round.is_full();
        let mut serial: u64 = get_json(&*self.state, keys::MESSAGES)?.unwrap_or_default();
        for key in due.into_iter().take(TOLD) {
            self.tell(groups, &key, now, &mut serial, &mut round)?;
        }
        if !round.told.is_empty() {
            round.change.put_json(keys::MESSAGES.to_owned(), &serial)?;
        }
        for key in &round.changed {
            let name = keys::group(&key.0, &key.1);
            let stays = match groups.get(key) {
                Some(group) => {
                    !group.members.is_empty()
                        || round.told.contains(key)
                        || self.is_on_its_way(key, group)?
                }
                None => false,
            };
            if stays && let Some(group) = groups.get(key) {
                keys::put_packed(&mut round.change, name, group)?;
            } else {
                groups.remove(key);
                round.change.delete.push(name);
            }
        }
        let is_empty = round.change.put.is_empty() && round.change.delete.is_empty();
        if !is_empty {
            match self.state.apply(round.change) {
                Ok(()) => {}
                Err(StateError::Conflict { .. }) => {
                    // Something changed while it was thought of: again, from what is kept.
                    *groups = self.groups()?;
                    return Ok(true);
                }
                Err(StateError::Store(error)) => return Err(error),
            }
        }
        if self.outbox.is_behind(serial) {
            // What is sent must not be made again by a state that went back.
            self.state.sync()?;
            self.outbox.fill(serial);
        }
        let (waiting, dead) = self.outbox.count()?;
        self.metrics.set_messages(waiting, dead);
        Ok(more)
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
        let silenced = round.silences(&incident, &self.registry, now);
        let mut of: BTreeSet<Key> = groups
            .iter()
            .filter(|(_, group)| group.members.contains_key(&number))
            .map(|(key, _)| key.clone())
            .collect();
        // Somebody is to be called, and the common cause that it is part of does not call them already.
        if incident.paged_ms.is_some() {
            let parent: Option<Incident> = match incident.parent {
                Some(parent) => get_json(&*self.state, &keys::incident(parent))?,
                None => None,
            };
            // One that is over speaks for nobody any more: this office was left behind.
            let parent = parent.filter(Incident::is_open);
            let above = parent.as_ref().map(|parent| self.receivers_of(parent));
            let above = above.unwrap_or_default();
            for name in self.receivers_of(&incident) {
                if !above.contains(name) && !of.iter().any(|(told, _)| told == name) {
                    of.insert((name.to_owned(), together(&incident)));
                }
            }
        }
        for key in of {
            let group = groups.entry(key.clone()).or_default();
            if group.members.len() >= MEMBERS_MAX && !group.members.contains_key(&number) {
                warn!(
                    incident = number,
                    receiver = key.0,
                    together = key.1,
                    "too many incidents belong together; this one is told to nobody"
                );
                continue;
            }
            if group.take(number, told.clone(), silenced, now) {
                round.changed.insert(key);
            }
        }
        Ok(())
    }

    /// Who is to be told of an incident, if anybody is to be called for it.
    fn receivers_of(&self, incident: &Incident) -> BTreeSet<&str> {
        let about = About::of(incident, &self.registry);
        let is_told = incident.paged_ms.is_some() && !incident.retracted;
        let routes = self
            .alerts
            .routes
            .iter()
            .filter(|route| is_told && route.takes(&about).is_ok());
        routes.map(|route| route.receiver.as_str()).collect()
    }

    /// Whether a group's last message has not arrived yet.
    fn is_on_its_way(&self, (receiver, _): &Key, group: &Group) -> anyhow::Result<bool> {
        match group.message {
            Some(number) => self.outbox.waits(receiver, number),
            None => Ok(false),
        }
    }

    /// What changes by time alone: an acknowledgement runs out, a silence begins or ends.
    fn look_again(
        &self,
        groups: &mut BTreeMap<Key, Group>,
        now: UnixMillis,
        round: &mut Round,
    ) -> anyhow::Result<()> {
        for (key, group) in groups {
            // A clock that was ahead does not silence anybody for as long.
            group.told_at = group.told_at.map(|at| at.min(now));
            if round.is_full() {
                break;
            }
            if group.members.is_empty() && !self.is_on_its_way(key, group)? {
                // It had its last word.
                round.changed.insert(key.clone());
                continue;
            }
            // With the number of silences that hold it may be another incident that is silenced.
            let may_change = |member: &Member| {
                matches!(member.now.state, Telling::Acknowledged(_))
                    || member.silenced
                    || !round.silences.is_empty()
            };
            let known = group
                .members
                .iter()
                .filter(|(_, member)| may_change(member));
            let known: Vec<u64> = known.map(|(number, _)| *number).collect();
            for number in known {
                if let Some((incident, told)) = self.truth(number, now)?
                    && let silenced = round.silences(&incident, &self.registry, now)
                    && group.take(number, told, silenced, now)
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
        // Who knew of it before it called again knows of less than there is now.
        let known = case.acknowledgement(&incident, now);
        let known = known.filter(|known| incident.paged_ms.is_none_or(|at| known.at_ms >= at));
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
        let mut alerts: Vec<(bool, u64, Value)> = Vec::new();
        let catalogue = Catalogue::of(receiver.language)?;
        let mut firing = 0;
        for (number, member) in &group.members {
            let is_new = member.told.as_ref() != Some(&member.now);
            let fires = matches!(member.now.state, Telling::Firing | Telling::Acknowledged(_));
            firing += usize::from(fires);
            if let Some((incident, _)) = self.truth(*number, now)? {
                alerts.push((
                    !is_new,
                    *number,
                    self.alert(&catalogue, &incident, &member.now),
                ));
            }
        }
        // What is new comes first.
        alerts.sort_by_key(|(is_old, number, _)| (*is_old, *number));
        let all = alerts.len();
        let (mut bytes, mut written) = (0, BTreeSet::new());
        let alerts: Vec<Value> = alerts
            .into_iter()
            .take(ALERTS_MAX)
            .take_while(|(_, number, alert)| {
                // As it is in the state: text in text.
                bytes += Value::String(alert.to_string()).to_string().len();
                bytes <= BODY_MAX && written.insert(*number)
            })
            .map(|(_, _, alert)| alert)
            .collect();
        let truncated = all - alerts.len();
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
            incidents = all,
            "a message is made"
        );
        let body = body.to_string();
        let number = Outbox::put(&mut round.change, serial, (&key.0, id, body), now)?;
        group.tell(number, &written, now);
        round.told.insert(key.clone());
        round.changed.insert(key.clone());
        Ok(())
    }

    /// One incident as webhooks have it.
    fn alert(&self, catalogue: &Catalogue, incident: &Incident, now: &Told) -> Value {
        let facts = &incident.facts;
        let is_over = matches!(now.state, Telling::Resolved | Telling::Retracted);
        let office = incident.office.as_ref();
        let named = office.and_then(|code| Some((code, self.registry.offices.get(code)?)));
        let subject = match (named, &facts.scope) {
            (Some((_, office)), _) => office.name.clone(),
            (None, Some(scope)) => catalogue.scope(scope, &self.registry),
            (None, None) => incident.subject(),
        };
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

/// What belongs together: the offices of a regency; a common cause is alone.
fn together(incident: &Incident) -> String {
    match &incident.office {
        Some(office) => format!("regency {}", office.as_str().get(..5).unwrap_or_default()),
        None => incident.subject(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alert::{Language, Route, Secret, Timing, Webhook, client};
    use denyut_store::engine::Engine;
    use denyut_store::state::EmbeddedState;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, Ordering};

    /// A state that somebody else changes just before it is changed.
    struct Racing {
        inner: EmbeddedState,
        first: Mutex<Option<Change>>,
        /// The disk has no room.
        full: AtomicBool,
    }

    impl State for Racing {
        fn get(&self, key: &str) -> anyhow::Result<Option<Vec<u8>>> {
            self.inner.get(key)
        }
        fn scan(&self, prefix: &str) -> anyhow::Result<Vec<(String, Vec<u8>)>> {
            self.inner.scan(prefix)
        }
        fn first(&self, prefix: &str) -> anyhow::Result<Option<(String, Vec<u8>)>> {
            self.inner.first(prefix)
        }
        fn count(&self, prefix: &str) -> anyhow::Result<usize> {
            self.inner.count(prefix)
        }
        fn visit_back(
            &self,
            prefix: &str,
            visit: &mut dyn FnMut(&str, &[u8]) -> anyhow::Result<bool>,
        ) -> anyhow::Result<()> {
            self.inner.visit_back(prefix, visit)
        }
        fn apply(&self, change: Change) -> Result<(), StateError> {
            if let Some(first) = self.first.lock().expect("is sound").take() {
                self.inner.apply(first)?;
            }
            self.inner.apply(change)
        }
        fn sync(&self) -> anyhow::Result<()> {
            if self.full.load(Ordering::Relaxed) {
                return Err(std::io::Error::from(std::io::ErrorKind::StorageFull).into());
            }
            self.inner.sync()
        }
    }

    struct Scene {
        _folder: tempfile::TempDir,
        state: Arc<Racing>,
        notifier: Notifier,
        known: Known,
    }

    fn at(seconds: i64) -> UnixMillis {
        UnixMillis(1_790_000_000_000 + seconds * 1_000)
    }

    /// An incident that changed, as the worker puts it.
    fn changed(
        number: u64,
        office: &str,
        parent: Option<u64>,
        resolved: bool,
        news: u64,
    ) -> Change {
        let incident = json!({
            "number": number, "office": office, "parent": parent, "paged_ms": at(0),
            "opened_ms": at(0), "resolved_ms": resolved.then(|| at(100)), "cause": "uplink",
            "troubles": [], "revisions": [], "revisions_omitted": 0,
        });
        let mut change = Change::default();
        change
            .put_json(keys::incident(number), &incident)
            .expect("JSON");
        change.put_json(keys::news(number), &news).expect("JSON");
        change
    }

    impl Scene {
        fn new() -> Self {
            let folder = tempfile::tempdir().expect("tempdir");
            let engine = Arc::new(Engine::open(folder.path()).expect("opens"));
            let state = Arc::new(Racing {
                inner: EmbeddedState::open(&engine).expect("opens"),
                first: Mutex::default(),
                full: AtomicBool::new(false),
            });
            let receiver = |name: &str| Receiver {
                name: name.to_owned(),
                language: Language::Id,
                webhook: Webhook {
                    url: "https://hooks.example/x".parse().expect("an address"),
                    secret: Some(Secret::read(&"x".repeat(16)).expect("a secret")),
                    client: client(None).expect("a client"),
                },
            };
            let route = |name: &str, causes: &[denyut_detect::Cause]| Route {
                receiver: name.to_owned(),
                regions: vec!["36".to_owned()],
                causes: causes.to_vec(),
                relapse: None,
            };
            let alerts = Alerts {
                receivers: vec![receiver("all"), receiver("uplinks")],
                routes: vec![
                    route("all", &[]),
                    route("uplinks", &[denyut_detect::Cause::Uplink]),
                ],
                timing: Timing::default(),
                page: None,
                alive: None,
            };
            let kept: Arc<dyn State> = Arc::clone(&state) as _;
            let notifier = Notifier {
                alerts: Arc::new(alerts),
                outbox: Arc::new(Outbox::new(Arc::clone(&kept), Arc::default())),
                state: kept,
                registry: Arc::default(),
                clock: Arc::new(Clock::start()),
                metrics: Arc::new(Metrics::new()),
                news: Arc::default(),
            };
            Self {
                _folder: folder,
                state,
                known: notifier.begin().expect("begins"),
                notifier,
            }
        }

        fn put(&self, change: Change) {
            self.state.inner.apply(change).expect("applies");
        }

        /// What each receiver is told until a time: its messages, as they are written.
        fn told(&mut self, seconds: i64) -> Vec<(String, String)> {
            let mut told = Vec::new();
            while self
                .notifier
                .round(&mut self.known, at(seconds))
                .expect("works")
            {}
            for message in self.notifier.outbox.list().expect("reads") {
                let body: Value = serde_json::from_str(&message.body).expect("JSON");
                for alert in body["alerts"].as_array().expect("a list") {
                    let number = alert["labels"]["incident"].as_str().expect("a number");
                    let status = alert["status"].as_str().expect("a status");
                    told.push((message.receiver.clone(), format!("{number} {status}")));
                }
                self.notifier.outbox.delivered(&message).expect("goes");
            }
            told
        }
    }

    fn said(told: &[(&str, &str)]) -> Vec<(String, String)> {
        let owned = told
            .iter()
            .map(|(who, what)| ((*who).to_owned(), (*what).to_owned()));
        owned.collect()
    }

    #[test]
    fn what_changes_while_it_is_thought_of_is_told() {
        let mut scene = Scene::new();
        scene.put(changed(1, "36.73.02", None, false, 1));
        assert_eq!(scene.told(0), []);
        assert_eq!(
            scene.told(40),
            said(&[("all", "1 firing"), ("uplinks", "1 firing")])
        );
        scene.put(changed(1, "36.73.02", None, false, 2));
        // Between reading that and saying so it ends.
        *scene.state.first.lock().expect("is sound") = Some(changed(1, "36.73.02", None, true, 3));
        assert_eq!(
            scene.told(400),
            said(&[("all", "1 resolved"), ("uplinks", "1 resolved")])
        );
        assert_eq!(scene.state.inner.count(keys::NEWS).expect("counts"), 0);
        assert_eq!(scene.told(500_000), []);
        assert_eq!(scene.state.inner.count(keys::GROUPS).expect("counts"), 0);
    }

    #[test]
    fn a_common_cause_speaks_for_its_offices_to_whom_it_is_told_and_while_it_lasts() {
        let mut scene = Scene::new();
        let parent = |resolved: bool, news: u64| {
            let mut change = changed(9, "36.73.01", None, resolved, news);
            let text = String::from_utf8(change.put[0].1.clone()).expect("text");
            change.put[0].1 = text.replace("uplink", "regional").into_bytes();
            change
        };
        scene.put(parent(false, 1));
        scene.put(changed(1, "36.73.02", Some(9), false, 1));
        assert_eq!(scene.told(0), []);
        // Who takes uplinks only does not hear of what is regional.
        assert_eq!(
            scene.told(40),
            said(&[("all", "9 firing"), ("uplinks", "1 firing")])
        );
        scene.put(parent(true, 2));
        // Left behind: the detector calls for it again.
        scene.put(changed(1, "36.73.02", Some(9), false, 2));
        assert_eq!(
            scene.told(400),
            said(&[("all", "1 firing"), ("all", "9 resolved")])
        );
    }

    #[test]
    fn a_receiver_that_was_away_hears_of_what_is_and_nothing_of_what_was() {
        let mut scene = Scene::new();
        scene.put(changed(1, "36.73.02", None, false, 1));
        scene.told(0);
        assert_eq!(scene.told(40).len(), 2);
        let all = Arc::clone(&scene.notifier.alerts);
        let mut fewer = (*all).clone();
        fewer.receivers.truncate(1);
        scene.notifier.alerts = Arc::new(fewer);
        scene.known = scene.notifier.begin().expect("begins");
        scene.put(changed(1, "36.73.02", None, true, 2));
        assert_eq!(scene.told(400), said(&[("all", "1 resolved")]));
        scene.notifier.alerts = all;
        scene.known = scene.notifier.begin().expect("begins");
        assert_eq!(scene.told(500_000), []);
    }

    #[test]
    fn a_full_disk_sends_nothing_that_is_not_on_it_and_everything_when_there_is_room() {
        let mut scene = Scene::new();
        scene.put(changed(1, "36.73.02", None, false, 1));
        assert_eq!(scene.told(0), []);
        scene.state.full.store(true, Ordering::Relaxed);
        let error = scene.notifier.round(&mut scene.known, at(40));
        assert!(is_full(&error.expect_err("is full")));
        // It is made, and may be gone after a crash.
        let outbox = Arc::clone(&scene.notifier.outbox);
        assert_eq!(outbox.list().expect("reads").len(), 2);
        assert_eq!(outbox.next("all").expect("reads"), None);
        scene.state.full.store(false, Ordering::Relaxed);
        scene.known = scene.notifier.begin().expect("begins");
        scene
            .notifier
            .round(&mut scene.known, at(41))
            .expect("works");
        assert!(outbox.next("all").expect("reads").is_some());
        assert_eq!(
            scene.told(42),
            said(&[("all", "1 firing"), ("uplinks", "1 firing")])
        );
    }
}
