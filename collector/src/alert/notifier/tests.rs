//! What is told to whom, by a notifier whose clock the test turns.

use super::*;
use crate::alert::channel::Sent;
use crate::alert::channel::{Webhook, client};
use crate::alert::{Language, Route, Template, Timing, To};
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
        let receiver = |name: &str| Receiver {
            name: name.to_owned(),
            language: Language::Id,
            role: None,
            regions: Vec::new(),
            template: Template::read(Template::own(Language::Id)).expect("reads"),
            pace: Duration::ZERO,
            channel: Channel::Webhook(Webhook {
                url: "https://hooks.example/x".parse().expect("an address"),
                secret: None,
                client: client(None).expect("a client"),
            }),
        };
        let route = |name: &str, causes: &[denyut_detect::Cause]| Route {
            to: To::Receiver(name.to_owned()),
            regions: vec!["36".to_owned()],
            causes: causes.to_vec(),
            severities: Vec::new(),
            patterns: Vec::new(),
            after: Duration::ZERO,
            hours: None,
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
            for alert in &message.notice.alerts {
                let number = &alert.labels["incident"];
                let told_as = format!("{number} {}", alert.status);
                told.push((message.receiver.clone(), told_as));
            }
            self.notifier
                .outbox
                .delivered(&message, &Sent::default())
                .expect("goes");
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
