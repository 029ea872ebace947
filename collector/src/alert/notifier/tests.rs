//! What is told to whom, by a notifier whose clock the test turns.

use super::*;
use crate::alert::channel::{Brand, Chat, Sent, Webhook, client};
use crate::alert::{Language, Route, Template, Timing, To};
use denyut_detect::Cause;
use denyut_store::engine::Engine;
use denyut_store::state::EmbeddedState;
use serde_json::json;
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
        below: Option<&str>,
        visit: &mut dyn FnMut(&str, &[u8]) -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        self.inner.visit_back(prefix, below, visit)
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
    /// Whom each message was for.
    messages: Vec<String>,
}

fn receiver(name: &str) -> Receiver {
    Receiver {
        name: name.to_owned(),
        language: Language::Id,
        role: None,
        regions: Vec::new(),
        template: Template::read(Template::own(Language::Id)).expect("reads"),
        pace: Duration::ZERO,
        channel: Channel::Webhook(Webhook {
            url: "https://hooks.example/x".parse().expect("an address"),
            secret: None,
            client: client(None, true).expect("a client"),
        }),
    }
}

/// One that people read.
fn chat(name: &str) -> Receiver {
    let url = "https://discord.example/x".parse().expect("an address");
    Receiver {
        channel: Channel::Chat(Chat {
            brand: Brand::Discord { url },
            client: client(None, true).expect("a client"),
        }),
        ..receiver(name)
    }
}

fn route(to: To) -> Route {
    Route {
        to,
        regions: vec!["36".to_owned()],
        causes: Vec::new(),
        severities: Vec::new(),
        patterns: Vec::new(),
        after: Duration::ZERO,
        hours: None,
    }
}

/// Seconds since a Monday, 21:13:20 in the west of Indonesia.
fn at(seconds: i64) -> UnixMillis {
    UnixMillis(1_790_000_000_000 + seconds * 1_000)
}

/// An incident that changed, as the worker puts it.
fn changed(number: u64, office: &str, parent: Option<u64>, resolved: bool, news: u64) -> Change {
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
        let route = |name: &str, causes: &[Cause]| Route {
            causes: causes.to_vec(),
            ..route(To::Receiver(name.to_owned()))
        };
        let alerts = Alerts {
            receivers: vec![receiver("all"), receiver("uplinks")],
            routes: vec![route("all", &[]), route("uplinks", &[Cause::Uplink])],
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
            hours: Arc::default(),
            holidays: Holidays::none(),
            clock: Arc::new(Clock::start()),
            metrics: Arc::new(Metrics::new()),
            news: Arc::default(),
        };
        Self {
            _folder: folder,
            state,
            known: notifier.begin().expect("begins"),
            messages: Vec::new(),
            notifier,
        }
    }

    /// With these receivers and routes instead.
    fn with(receivers: Vec<Receiver>, routes: Vec<Route>) -> Self {
        let mut scene = Self::new();
        scene.notifier.alerts = Arc::new(Alerts {
            receivers,
            routes,
            timing: Timing {
                repeat_interval: Duration::from_secs(7 * 86_400),
                ..Timing::default()
            },
            ..Alerts::default()
        });
        scene
    }

    /// Somebody acknowledges an incident, until then.
    fn acknowledge(&self, number: u64, from: i64, until: i64) {
        let step = json!({"at_ms": at(from), "by": "Siti", "what": "acknowledge", "why": null, "until_ms": at(until)});
        let mut change = Change::default();
        let steps = keys::step(number, usize::try_from(from).expect("small"));
        change.put_json(steps, &step).expect("JSON");
        change.put_json(keys::news(number), &from).expect("JSON");
        self.put(change);
    }

    /// Who is told of what from one time to another, looked at every 50 s.
    fn run(&mut self, from: i64, until: i64) -> Vec<(i64, String, String)> {
        let mut all = Vec::new();
        let mut seconds = from;
        while seconds <= until {
            let told = self.told(seconds).into_iter();
            all.extend(told.map(|(who, what)| (seconds, who, what)));
            seconds += 50;
        }
        all
    }

    fn put(&self, change: Change) {
        self.state.inner.apply(change).expect("applies");
    }

    /// What each receiver is told until a time: its messages, as they are written.
    fn told(&mut self, seconds: i64) -> Vec<(String, String)> {
        let mut told = Vec::new();
        loop {
            while self
                .notifier
                .round(&mut self.known, at(seconds))
                .expect("works")
            {}
            let messages = self.notifier.outbox.list().expect("reads");
            if messages.is_empty() {
                return told;
            }
            let whom = messages.iter().map(|one| one.receiver.clone());
            self.messages.extend(whom);
            for message in messages {
                for alert in &message.notice.alerts {
                    let number = &alert.labels["incident"];
                    let told_as = format!("{number} {}", alert.status);
                    told.push((message.receiver.clone(), told_as));
                }
                let sent = Sent::default();
                let outbox = &self.notifier.outbox;
                outbox.delivered(&message, &sent, 1, at(0)).expect("goes");
            }
        }
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

/// A receiver of a role in these regions.
fn of(name: &str, role: &str, regions: &[&str]) -> Receiver {
    Receiver {
        role: Some(role.to_owned()),
        regions: regions.iter().map(|region| (*region).to_owned()).collect(),
        ..receiver(name)
    }
}

fn after(role: &str, hours: u64) -> Route {
    Route {
        after: Duration::from_secs(hours * 3_600),
        ..route(To::Role(role.to_owned()))
    }
}

#[test]
fn what_nobody_cares_for_is_told_higher_up_by_its_age_in_opening_time() {
    let receivers = vec![
        of("serang", "regency", &["36.73"]),
        of("tangerang", "regency", &["36.71"]),
        of("banten", "province", &["36"]),
        of("pusat", "ministry", &[]),
    ];
    let routes = vec![
        after("regency", 0),
        after("province", 4),
        after("ministry", 8),
    ];
    let mut scene = Scene::with(receivers, routes);
    scene.put(changed(1, "36.73.02", None, false, 1));
    let who = |all: &[(i64, String, String)]| -> Vec<(i64, String)> {
        let all = all.iter().map(|(at, who, _)| (*at, who.clone()));
        all.collect()
    };
    let until_noon = scene.run(0, 53_950);
    // The regency at once; four hours of opening time are over on Tuesday at noon (53,200 s).
    let expected = [(50, "serang".to_owned()), (53_250, "banten".to_owned())];
    assert_eq!(who(&until_noon), expected);
    // Siti cares for it until after closing: the ministry's eight hours (67,600 s) do not come.
    scene.acknowledge(1, 54_000, 70_000);
    let cared = scene.run(54_000, 69_950);
    assert_eq!(
        who(&cared),
        [(54_000, "serang".to_owned()), (54_000, "banten".to_owned())]
    );
    // Then they begin anew: Wednesday, 16:00 (154,000 s).
    let again = scene.run(70_000, 160_000);
    let expected = [
        (70_000, "serang".to_owned()),
        (70_000, "banten".to_owned()),
        (154_050, "pusat".to_owned()),
    ];
    assert_eq!(who(&again), expected);
    // Its end is told to all who knew of it.
    scene.put(changed(1, "36.73.02", None, true, 2));
    assert_eq!(scene.run(160_050, 161_000).len(), 3);
    assert!(scene.known.again.is_empty() && scene.known.groups.is_empty());
}

#[test]
fn a_route_with_hours_tells_in_them_and_ends_at_any_time() {
    let night = Route {
        hours: Some(Hours::parse("hours", "Mon-Fri 07:00-17:00").expect("hours")),
        ..route(To::Receiver("day".to_owned()))
    };
    let bad = Route {
        causes: vec![Cause::Server],
        ..route(To::Receiver("day".to_owned()))
    };
    let mut scene = Scene::with(vec![receiver("day")], vec![night, bad]);
    scene.put(changed(1, "36.73.02", None, false, 1));
    scene.put(changed(2, "36.73.03", None, false, 1));
    // In the night only what another route takes.
    let mut server = changed(3, "36.73.04", None, false, 1);
    let text = String::from_utf8(server.put[0].1.clone()).expect("text");
    server.put[0].1 = text.replace("uplink", "server").into_bytes();
    scene.put(server);
    let all = scene.run(0, 30_000);
    assert_eq!(all.len(), 1, "{all:?}");
    assert_eq!(all[0].2, "3 firing");
    // One is over before anybody is told.
    scene.put(changed(2, "36.73.03", None, true, 2));
    // Tuesday, 07:00 in the west.
    let all = scene.run(30_050, 40_000);
    let news: Vec<&String> = all.iter().map(|(_, _, what)| what).collect();
    assert_eq!(news, ["1 firing", "3 firing"]);
    assert!((35_200..35_400).contains(&all[0].0), "{all:?}");
    // In the next night it is told no more, but for its end.
    scene.put(changed(1, "36.73.02", None, true, 2));
    let all = scene.run(90_000, 90_400);
    assert_eq!(all[0].2, "1 resolved");
}

#[test]
fn a_storm_is_one_message_for_people_and_whole_for_programs() {
    let routes = vec![
        route(To::Receiver("people".to_owned())),
        route(To::Receiver("program".to_owned())),
    ];
    let mut scene = Scene::with(vec![chat("people"), receiver("program")], routes);
    // 500 offices of 40 regencies, within half a minute.
    let mut told = BTreeSet::new();
    for second in 0..200_i64 {
        for number in 0..500_u64 {
            if i64::try_from(number % 30).expect("small") == second {
                let office = format!("36.{:02}.{:02}", 1 + number % 40, 1 + number / 40);
                scene.put(changed(number + 1, &office, None, false, 1));
            }
        }
        let all = scene.told(second).into_iter();
        told.extend(
            all.filter(|(who, _)| who == "program")
                .map(|(_, what)| what),
        );
    }
    // A program's message has fifty, and nothing is left out.
    assert_eq!(told.len(), 500);
    let messages = |who: &str| scene.messages.iter().filter(|one| *one == who).count();
    assert_eq!(messages("people"), 1);
    assert!(
        (10..=13).contains(&messages("program")),
        "{:?}",
        scene.messages
    );
}

#[test]
fn what_happens_while_a_receiver_is_slow_is_told_in_one_message() {
    let mut scene = Scene::with(
        vec![chat("people")],
        vec![route(To::Receiver("people".to_owned()))],
    );
    scene.put(changed(1, "36.73.02", None, false, 1));
    let round = |scene: &mut Scene, seconds: i64| {
        while scene
            .notifier
            .round(&mut scene.known, at(seconds))
            .expect("works")
        {}
        scene.notifier.outbox.list().expect("reads")
    };
    round(&mut scene, 0);
    let first = round(&mut scene, 40);
    assert_eq!(first.len(), 1);
    // It does not take it for an hour; meanwhile much happens.
    for number in 2..=9 {
        let office = format!("36.{number:02}.01");
        scene.put(changed(number, &office, None, false, 1));
    }
    scene.put(changed(1, "36.73.02", None, true, 2));
    assert_eq!(round(&mut scene, 100), first);
    let handle = Sent {
        handle: Some("7".to_owned()),
    };
    scene
        .notifier
        .outbox
        .delivered(&first[0], &handle, 1, at(0))
        .expect("goes");
    let second = round(&mut scene, 3_601);
    assert_eq!(second.len(), 1);
    assert_eq!(second[0].notice.together.len(), 9);
    // It is of more than the first was: no thread.
    assert_eq!(
        scene
            .notifier
            .outbox
            .thread(&first[0], 1)
            .expect("reads")
            .map(|thread| (thread.handle, thread.alone)),
        Some(("7".to_owned(), true))
    );
    assert_eq!(
        scene.notifier.outbox.thread(&second[0], 1).expect("reads"),
        None
    );
    scene
        .notifier
        .outbox
        .delivered(&second[0], &handle, 1, at(0))
        .expect("goes");
    // What is over is forgotten, and its thread.
    round(&mut scene, 3_700);
    assert_eq!(
        scene.notifier.outbox.thread(&first[0], 1).expect("reads"),
        None
    );
    assert_eq!(scene.known.groups.len(), 8);
}

#[test]
fn what_hits_the_whole_country_is_told_to_every_regency() {
    let receivers = (0..600).map(|n| of(&format!("r-{n}"), "regency", &[]));
    let mut scene = Scene::with(receivers.collect(), vec![after("regency", 0)]);
    // One that is over before anybody is told, and one that is not.
    scene.put(changed(1, "36.73.02", None, false, 1));
    scene.put(changed(2, "36.73.03", None, false, 1));
    assert_eq!(scene.told(0), []);
    assert_eq!(scene.known.groups.len(), 600);
    scene.put(changed(1, "36.73.02", None, true, 2));
    assert_eq!(scene.told(10), []);
    assert_eq!(scene.told(40).len(), 600);
    scene.put(changed(2, "36.73.03", None, true, 2));
    assert_eq!(scene.told(400).len(), 600);
    scene.told(500);
    assert_eq!(scene.state.inner.count(keys::GROUPS).expect("counts"), 0);
    assert_eq!(scene.state.inner.count(keys::NEWS).expect("counts"), 0);
}

#[test]
fn what_was_looked_at_by_its_time_is_told_even_if_other_news_changes_meanwhile() {
    let receivers = vec![
        of("serang", "regency", &["36.73"]),
        of("banten", "province", &["36"]),
    ];
    let routes = vec![after("regency", 0), after("province", 4)];
    let mut scene = Scene::with(receivers, routes);
    scene.put(changed(1, "36.73.02", None, false, 1));
    scene.run(0, 53_150);
    // The four hours are over, and something else changes while that is written.
    scene.put(changed(5, "36.73.05", None, false, 1));
    *scene.state.first.lock().expect("is sound") = Some(changed(5, "36.73.05", None, true, 2));
    let all = scene.run(53_250, 53_600);
    let banten = all.iter().filter(|(_, who, _)| who == "banten");
    let banten: Vec<&str> = banten.map(|(_, _, what)| &**what).collect();
    assert_eq!(banten, ["1 firing"]);
    assert_eq!(scene.state.inner.count(keys::NEWS).expect("counts"), 0);
}

#[test]
fn a_common_cause_that_is_told_in_other_hours_or_silenced_speaks_for_nobody() {
    let day = Route {
        causes: vec![Cause::Regional],
        hours: Some(Hours::parse("hours", "Mon-Fri 07:00-17:00").expect("hours")),
        ..route(To::Receiver("day".to_owned()))
    };
    let uplinks = Route {
        causes: vec![Cause::Uplink],
        ..route(To::Receiver("day".to_owned()))
    };
    let mut scene = Scene::with(vec![receiver("day")], vec![day, uplinks]);
    let mut parent = changed(9, "36.73.01", None, false, 1);
    let text = String::from_utf8(parent.put[0].1.clone()).expect("text");
    parent.put[0].1 = text.replace("uplink", "regional").into_bytes();
    scene.put(parent);
    scene.put(changed(1, "36.73.02", Some(9), false, 1));
    let all = scene.run(0, 100);
    assert_eq!(all.len(), 1, "{all:?}");
    assert_eq!(all[0].2, "1 firing");
}

#[test]
fn of_an_incident_that_is_told_for_ever_the_newest_tellings_are_kept() {
    let mut scene = Scene::new();
    for times in 0..80_i64 {
        let is_over = times % 2 == 1;
        scene.put(changed(
            1,
            "36.73.02",
            None,
            is_over,
            u64::try_from(times).expect("small"),
        ));
        scene.run(times * 1_000, times * 1_000 + 900);
    }
    let tellings = crate::alert::Telling::read(&scene.state.inner, 1).expect("reads");
    assert_eq!(tellings.len(), 50);
    assert_eq!(tellings[49].state, "resolved");
}
