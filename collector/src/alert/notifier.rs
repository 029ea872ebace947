//! From incidents that changed to messages: the one thread that decides what is told.

use super::channel::Channel;
use super::compose::{Entry, Writer};
use super::group::{self, Group};
use super::outbox::Outbox;
use super::silence::{self, Silence};
use super::text::clock_of;
use super::truth::Truth;
use super::{Alerts, Receiver};
use crate::clock::Clock;
use crate::keys;
use crate::metrics::Metrics;
use crate::registry::Registry;
use anyhow::Context;
use denyut_detect::Incident;
use denyut_detect::calendar::{Holidays, Hours, Opening, Zone};
use denyut_proto::{OfficeCode, UnixMillis};
use denyut_store::history::is_full;
use denyut_store::state::{Change, State, StateError, get_json, scan_json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tracing::{info, warn};

/// News that one round takes in, at most.
const NEWS: usize = 140;
/// Keys that one change of the state has, at most.
const KEYS: usize = 400;
/// Messages that one round makes, at most.
const TOLD: usize = 10;
/// Groups that one message tells of, at most, and the bytes of their names.
const GROUPS_TOLD: (usize, usize) = (200, 6_000);
/// Incidents that a message for programs is sought for.
const SOUGHT: usize = 60;
/// How long until it is tried again while the disk is full.
const FULL: Duration = Duration::from_secs(5);
/// It is looked at least so often.
const LOOK: Duration = Duration::from_secs(10);
/// An incident whose routes have hours is looked at so often.
const HOURS: Duration = Duration::from_secs(60);
/// Incidents of one group, at most: it is one value of the state. Of more there are more groups.
const MEMBERS_MAX: usize = 700;

/// What the thread is made of.
pub(crate) struct Notifier {
    pub(crate) alerts: Arc<Alerts>,
    pub(crate) state: Arc<dyn State>,
    pub(crate) registry: Arc<Registry>,
    /// Opening hours of offices without their own, and days on which all are closed.
    pub(crate) hours: Arc<Hours>,
    pub(crate) holidays: Holidays,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) clock: Arc<Clock>,
    pub(crate) metrics: Arc<Metrics>,
    /// An incident, or its case, has changed.
    pub(crate) news: Arc<Notify>,
}

/// A receiver and what belongs together there: the key of a group.
type Key = (String, String);

/// What the thread knows between two rounds.
#[derive(Default)]
struct Known {
    groups: BTreeMap<Key, Group>,
    /// The silences that held.
    silences: BTreeSet<u64>,
    /// When an incident is to be looked at again, as something of it changes by time alone.
    again: BTreeMap<u64, UnixMillis>,
    /// When each receiver was told last.
    last: BTreeMap<String, UnixMillis>,
    /// The receiver that is served first in the next round.
    turn: usize,
}

/// What one round changes.
#[derive(Default)]
struct Round {
    changed: BTreeSet<Key>,
    /// News that is taken in: each with its value, as what changes meanwhile is news of its own.
    news: Vec<(String, Vec<u8>)>,
    /// Each message, with the groups that it tells of.
    messages: Vec<(Change, Vec<Key>)>,
    /// The silences that hold, and those that are over.
    silences: Vec<Silence>,
    over: Vec<Silence>,
    /// For whom common causes speak, as far as that was asked.
    above: BTreeMap<u64, BTreeSet<String>>,
}

/// Whom an incident is for.
#[derive(Default)]
struct Whom<'a> {
    /// All that its routes lead to, sooner or later, and whether it is not one of their hours.
    all: BTreeMap<&'a str, bool>,
    /// Those of them that are told now, if it is one of their hours.
    now: BTreeSet<&'a str>,
    /// When that may be otherwise.
    again: Option<UnixMillis>,
}

impl Whom<'_> {
    fn look(&mut self, at: UnixMillis) {
        self.again = Some(self.again.map_or(at, |again| again.min(at)));
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
        let mut due = known.again.values().min().copied();
        for receiver in &self.alerts.receivers {
            if let Some((at, _)) = self.due(known, receiver, now)?
                && due.is_none_or(|due| at < due)
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
            ..Known::default()
        })
    }

    /// What is open is news to a receiver that was not there before; and what was told may be otherwise by now.
    fn ask_of_all(&self, groups: &BTreeMap<Key, Group>) -> anyhow::Result<()> {
        let open = scan_json::<u64>(&*self.state, keys::OPEN)?;
        let mut all: BTreeSet<u64> = open.into_iter().map(|(_, number)| number).collect();
        all.extend(groups.values().flat_map(|group| group.members.keys()));
        let all: Vec<u64> = all.into_iter().collect();
        for part in all.chunks(KEYS) {
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
        let mut lost: Vec<String> = Vec::new();
        for prefix in [keys::GROUPS, keys::THREADS] {
            let is_lost = |key: &String| {
                let receiver = key[prefix.len()..].split(' ').next();
                receiver.is_none_or(|receiver| self.receiver(receiver).is_none())
            };
            let all = self.state.scan(prefix)?.into_iter().map(|(key, _)| key);
            lost.extend(all.filter(is_lost));
        }
        for part in lost.chunks(KEYS) {
            let change = Change {
                delete: part.to_vec(),
                ..Change::default()
            };
            self.state.apply(change).map_err(anyhow::Error::from)?;
        }
        Ok(())
    }

    /// Who is told by messages: an Alertmanager is told what is true, and groups it itself.
    fn receivers(&self) -> impl Iterator<Item = &Receiver> {
        let all = self.alerts.receivers.iter();
        all.filter(|one| !matches!(one.channel, Channel::Alertmanager(_)))
    }

    fn receiver(&self, name: &str) -> Option<&Receiver> {
        self.receivers().find(|one| one.name == name)
    }

    /// Takes news in and tells what is due; whether there is more to do at once.
    fn round(&self, known: &mut Known, now: UnixMillis) -> anyhow::Result<bool> {
        let (silences, over): (Vec<Silence>, Vec<Silence>) = silence::read(&*self.state)?
            .into_iter()
            .partition(|one| one.holds(now));
        // When a silence begins or is over, what it keeps quiet is news.
        let holding: BTreeSet<u64> = silences.iter().map(|one| one.number).collect();
        if known.silences != holding {
            self.ask_of_all(&known.groups)?;
        }
        known.silences = holding;
        let mut round = Round {
            silences,
            over,
            ..Round::default()
        };
        let mut more = false;
        for (key, value) in self.state.scan(keys::NEWS)? {
            if round.news.len() >= NEWS {
                more = true;
                break;
            }
            let number: u64 = key[keys::NEWS.len()..]
                .parse()
                .with_context(|| format!("the state holds a key that makes no sense: {key}"))?;
            self.take(known, number, now, &mut round)?;
            round.news.push((key, value));
        }
        self.look_again(known, now, &mut round)?;
        let mut serial: u64 = get_json(&*self.state, keys::MESSAGES)?.unwrap_or_default();
        let receivers: Vec<&Receiver> = self.receivers().collect();
        let first = known.turn;
        for i in 0..receivers.len() {
            let at = (first + i) % receivers.len();
            let receiver = receivers[at];
            let Some((due, keys)) = self.due(known, receiver, now)? else {
                continue;
            };
            if due > now {
                continue;
            }
            if round.messages.len() == TOLD {
                known.turn = at;
                more = true;
                break;
            }
            self.tell(known, (receiver, keys), now, &mut serial, &mut round)?;
        }
        more |= self.keep(known, round, serial)?;
        let (waiting, dead) = self.outbox.count()?;
        self.metrics.set_messages(waiting, dead);
        Ok(more)
    }

    /// Makes what a round changed last: groups first, each message with its own, and the news last of all. What dies in between takes the same news in again, which changes
    /// nothing. Whether some of it changed meanwhile.
    fn keep(&self, known: &mut Known, round: Round, serial: u64) -> anyhow::Result<bool> {
        let told: BTreeSet<&Key> = round.messages.iter().flat_map(|(_, keys)| keys).collect();
        let mut change = Change::default();
        for key in round.changed.iter().filter(|key| !told.contains(key)) {
            let name = keys::group(&key.0, &key.1);
            match known.groups.get(key) {
                // It had its last word when that has arrived.
                Some(group) if !group.members.is_empty() || self.outbox.waits(&key.0)? => {
                    keys::put_packed(&mut change, name, group)?;
                }
                _ => {
                    known.groups.remove(key);
                    change.delete.push(name);
                    change.delete.push(keys::thread(&key.0, &key.1));
                }
            }
            if change.put.len() + change.delete.len() >= KEYS {
                self.apply(std::mem::take(&mut change))?;
            }
        }
        self.apply(change)?;
        for (mut change, keys) in round.messages {
            for key in &keys {
                if let Some(group) = known.groups.get(key) {
                    keys::put_packed(&mut change, keys::group(&key.0, &key.1), group)?;
                }
            }
            self.apply(change)?;
        }
        if self.outbox.is_behind(serial) {
            // What is sent must not be made again by a state that went back.
            self.state.sync()?;
            self.outbox.fill(serial);
        }
        if round.news.is_empty() {
            return Ok(false);
        }
        if self.forget(&round.news)? {
            return Ok(false);
        }
        // Something changed while it was thought of: that is taken in again, and the rest is not.
        for one in &round.news {
            self.forget(std::slice::from_ref(one))?;
        }
        Ok(true)
    }

    /// Forgets news that was taken in; whether none of it has changed meanwhile.
    fn forget(&self, news: &[(String, Vec<u8>)]) -> anyhow::Result<bool> {
        let change = Change {
            delete: news.iter().map(|(key, _)| key.clone()).collect(),
            expect: news
                .iter()
                .map(|(key, value)| (key.clone(), Some(value.clone())))
                .collect(),
            ..Change::default()
        };
        match self.state.apply(change) {
            Ok(()) => Ok(true),
            Err(StateError::Conflict { .. }) => Ok(false),
            Err(StateError::Store(error)) => Err(error),
        }
    }

    fn apply(&self, change: Change) -> anyhow::Result<()> {
        if change.put.is_empty() && change.delete.is_empty() {
            return Ok(());
        }
        self.state.apply(change).map_err(anyhow::Error::from)
    }

    /// When a receiver is told next, and of which groups; `None` if there is nothing to tell, or it has not taken its last message yet: what happens
    /// meanwhile is told in one.
    fn due(
        &self,
        known: &Known,
        receiver: &Receiver,
        now: UnixMillis,
    ) -> anyhow::Result<Option<(UnixMillis, Vec<Key>)>> {
        let first = (receiver.name.clone(), String::new());
        let groups = known.groups.range(first..);
        let groups = groups.take_while(|((name, _), _)| *name == receiver.name);
        let last = known.last.get(&receiver.name);
        let before = last.map(|last| *last + receiver.pace);
        let Some(next) = group::next(groups, &self.alerts.timing, before, now) else {
            return Ok(None);
        };
        Ok((!self.outbox.waits(&receiver.name)?).then_some(next))
    }

    /// An incident, or its case, has changed.
    fn take(
        &self,
        known: &mut Known,
        number: u64,
        now: UnixMillis,
        round: &mut Round,
    ) -> anyhow::Result<()> {
        known.again.remove(&number);
        let Some(truth) = self.truth(number, now)? else {
            return Ok(());
        };
        let truth = spared(truth, &round.over, now);
        let mut all = round.silences.iter();
        let silenced = all.any(|one| one.covers(&truth.about, now));
        let whom = self.whom(&truth, now);
        let again = [whom.again, truth.until].into_iter().flatten().min();
        if let Some(at) = again.filter(|_| truth.incident.is_open()) {
            known.again.insert(number, at);
        }
        let mut of: BTreeSet<Key> = known
            .groups
            .iter()
            .filter(|(_, group)| group.members.contains_key(&number))
            .map(|(key, _)| key.clone())
            .collect();
        // Somebody is to be called, and the common cause that it is part of does not call them already.
        let above = match truth.incident.parent {
            Some(parent) if !whom.now.is_empty() => self.above(parent, now, round)?,
            _ => BTreeSet::new(),
        };
        for name in &whom.now {
            let quiet = silenced || whom.all.get(name).copied().unwrap_or(false);
            let is_told = of.iter().any(|(told, _)| told == name);
            if !above.contains(*name) && !is_told && !quiet && !truth.told.is_over() {
                of.insert(room(&known.groups, name, &truth.incident));
            }
        }
        for key in of {
            let quiet = whom.all.get(&*key.0).copied().unwrap_or(false);
            let group = known.groups.entry(key.clone()).or_default();
            if group.take(number, truth.told.clone(), silenced || quiet, now) {
                round.changed.insert(key);
            }
        }
        Ok(())
    }

    /// For whom a common cause speaks: those that it is told to, now or later. One that is over speaks for nobody any more, and one that is silenced or told in other
    /// hours does not now: the office would be left behind.
    fn above(
        &self,
        parent: u64,
        now: UnixMillis,
        round: &mut Round,
    ) -> anyhow::Result<BTreeSet<String>> {
        if let Some(above) = round.above.get(&parent) {
            return Ok(above.clone());
        }
        let truth = self.truth(parent, now)?;
        let truth = truth.filter(|truth| {
            let mut silences = round.silences.iter();
            truth.incident.is_open() && !silences.any(|one| one.covers(&truth.about, now))
        });
        let mut above = BTreeSet::new();
        if let Some(truth) = truth {
            let all = self.whom(&truth, now).all.into_iter();
            let speaks = all.filter(|(_, quiet)| !quiet);
            above.extend(speaks.map(|(name, _)| name.to_owned()));
        }
        round.above.insert(parent, above.clone());
        Ok(above)
    }

    /// Who is to be told of an incident, if anybody is to be called for it.
    fn whom(&self, truth: &Truth, now: UnixMillis) -> Whom<'_> {
        static NONE: Holidays = Holidays::none();
        let mut whom = Whom::default();
        if truth.incident.paged_ms.is_none() || truth.incident.retracted {
            return whom;
        }
        let clock = clock_of(&truth.incident);
        let fitting = self.alerts.routes.iter();
        for route in fitting.filter(|route| route.takes(&truth.about).is_ok()) {
            let quiet = route.hours.as_ref().is_some_and(|hours| {
                whom.look(now + HOURS);
                !opening(clock, hours, &NONE).is_open(now)
            });
            let is_now = route.after.is_zero() || {
                let hours = clock.map_or_else(
                    || Arc::clone(&self.hours),
                    |code| self.registry.hours_of(code, &self.hours),
                );
                let own = opening(clock, &hours, &self.holidays);
                let reached = truth
                    .unattended
                    .and_then(|since| own.after(since, route.after));
                if let Some(at) = reached.filter(|at| *at > now) {
                    whom.look(at);
                }
                reached.is_some_and(|at| at <= now)
            };
            let led = self.receivers();
            for receiver in led.filter(|one| route.leads_to(one, &truth.about)) {
                // One route that takes it in these hours is enough.
                let all = whom.all.entry(&receiver.name).or_insert(true);
                *all &= quiet;
                if is_now {
                    whom.now.insert(&receiver.name);
                }
            }
        }
        whom
    }

    /// What changes by time alone: an acknowledgement runs out, nobody cared for something for too long, it is the time of a route.
    fn look_again(
        &self,
        known: &mut Known,
        now: UnixMillis,
        round: &mut Round,
    ) -> anyhow::Result<()> {
        for (key, group) in &mut known.groups {
            group.not_after(now);
            if group.members.is_empty() && !self.outbox.waits(&key.0)? {
                // It had its last word.
                round.changed.insert(key.clone());
            }
        }
        for at in known.last.values_mut() {
            *at = (*at).min(now);
        }
        let due = known.again.iter().filter(|(_, at)| **at <= now);
        let due: Vec<u64> = due.map(|(number, _)| *number).collect();
        for number in due {
            self.take(known, number, now, round)?;
        }
        Ok(())
    }

    fn truth(&self, number: u64, now: UnixMillis) -> anyhow::Result<Option<Truth>> {
        Truth::read(&*self.state, &self.alerts, &self.registry, number, now)
    }

    /// What is to be told again is told by itself, after the news; but not so much later that it would never be.
    fn without_reminders(
        &self,
        known: &Known,
        receiver: &Receiver,
        due: Vec<Key>,
        now: UnixMillis,
    ) -> Vec<Key> {
        let timing = &self.alerts.timing;
        let late = timing.group_interval.max(receiver.pace * 2);
        let group = |key: &Key| known.groups.get(key);
        let (news, again): (Vec<Key>, Vec<Key>) = due
            .into_iter()
            .partition(|key| group(key).is_some_and(|group| group.waiting_since.is_some()));
        let times = again.iter().filter_map(|key| group(key)?.due(timing));
        let is_late = times.min().is_some_and(|at| at + late <= now);
        if news.is_empty() || is_late {
            again
        } else {
            news
        }
    }

    /// Makes a message of what groups of a receiver have to tell. What it has no room for is told when it has arrived.
    fn tell(
        &self,
        known: &mut Known,
        (receiver, due): (&Receiver, Vec<Key>),
        now: UnixMillis,
        serial: &mut u64,
        round: &mut Round,
    ) -> anyhow::Result<()> {
        let due = self.without_reminders(known, receiver, due, now);
        let mut entries: Vec<Entry> = Vec::new();
        let mut told: Vec<Key> = Vec::new();
        let (most, mut bytes) = GROUPS_TOLD;
        for key in due {
            let room = bytes.checked_sub(key.1.len());
            let news = entries.iter().filter(|entry| entry.is_new).count();
            let is_full = receiver.channel.is_read_by_programs() && news >= SOUGHT;
            let Some(left) = room.filter(|_| told.len() < most && !is_full) else {
                break;
            };
            bytes = left;
            let members = known.groups.get(&key).into_iter();
            for (number, member) in members.flat_map(|group| &group.members) {
                let is_new = member.waits();
                // What is silenced is told neither as news nor as what goes on.
                if !is_new && (member.silenced || member.told.as_ref() != Some(&member.now)) {
                    continue;
                }
                if let Some(truth) = self.truth(*number, now)? {
                    let truth = spared(truth, &round.over, now);
                    entries.push(Entry {
                        incident: truth.incident,
                        now: member.now.clone(),
                        is_new,
                        by: truth.by,
                        unattended: truth.unattended.filter(|since| *since <= now),
                    });
                }
            }
            told.push(key);
        }
        let again = !entries.iter().any(|entry| entry.is_new);
        let writer = Writer::new(&self.alerts, receiver, &self.registry, now)?;
        let incidents = entries.len();
        let together = told.iter().map(|(_, together)| together.clone());
        let (notice, written) = writer.write(together.collect(), entries);
        let first = written.first().copied().unwrap_or(*serial);
        let id = format!("denyut-{}-{first}-{}", receiver.name, now.0);
        info!(
            receiver = receiver.name,
            groups = told.len(),
            incidents,
            "a message is made"
        );
        let mut change = Change::default();
        Outbox::put(&mut change, serial, (&receiver.name, id, notice), now)?;
        change.put_json(keys::MESSAGES.to_owned(), serial)?;
        known.last.insert(receiver.name.clone(), now);
        for key in &told {
            if let Some(group) = known.groups.get_mut(key) {
                group.tell(&written, again, now);
            }
        }
        round.messages.push((change, told));
        Ok(())
    }
}

/// While something was silenced nobody had to care for it.
fn spared(mut truth: Truth, over: &[Silence], now: UnixMillis) -> Truth {
    let ends = over.iter().filter_map(|one| one.spared(&truth.about, now));
    if let (Some(since), Some(end)) = (&mut truth.unattended, ends.max()) {
        *since = (*since).max(end);
    }
    truth
}

/// The group of a receiver that an incident belongs to: the offices of a regency, as many as fit; a common cause is alone.
fn room(groups: &BTreeMap<Key, Group>, receiver: &str, incident: &Incident) -> Key {
    let together = match &incident.office {
        Some(office) => format!("regency {}", office.as_str().get(..5).unwrap_or_default()),
        None => incident.subject(),
    };
    let mut key = (receiver.to_owned(), together.clone());
    let mut next = 2;
    while let Some(group) = groups.get(&key)
        && group.members.len() >= MEMBERS_MAX
    {
        key.1 = format!("{together} #{next}");
        next += 1;
    }
    key
}

/// When an office is open by its own hours, with its holidays; by those of a route on every day.
fn opening<'a>(
    office: Option<&OfficeCode>,
    hours: &'a Hours,
    holidays: &'a Holidays,
) -> Opening<'a> {
    Opening {
        zone: office.map_or(Zone::Wib, Zone::of),
        hours,
        holidays,
    }
}

#[cfg(test)]
mod tests;
