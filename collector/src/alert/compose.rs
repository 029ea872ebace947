//! From incidents to what is said of them to one receiver.

use super::group::{Telling, Told};
use super::notice::{Alert, Notice};
use super::route::Severity;
use super::template::Template;
use super::text::{Catalogue, clock_of};
use super::{Alerts, Receiver};
use crate::registry::Registry;
use denyut_detect::Incident;
use denyut_proto::UnixMillis;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tracing::warn;

/// Incidents told one by one in one text, at most: of more, people are told how many there are where.
const LISTED: usize = 12;
/// Incidents written out for programs in one message, and its bytes, at most.
const ALERTS_MAX: usize = 50;
const BYTES_MAX: usize = 28_000;
/// Bytes of a text as JSON, at most: with the incidents it fits into one value of the state.
const TEXT_BYTES_MAX: usize = 24_000;
/// Nobody is blamed for what nobody could have cared for yet.
const UNATTENDED: Duration = Duration::from_secs(15 * 60);

/// One incident, as it is told.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) incident: Incident,
    pub(crate) now: Told,
    /// It is otherwise than what the receiver was told last.
    pub(crate) is_new: bool,
    /// Who knows of it.
    pub(crate) by: Option<String>,
    /// Since when nobody has cared for it.
    pub(crate) unattended: Option<UnixMillis>,
}

/// Writes to one receiver.
pub(crate) struct Writer<'a> {
    receiver: &'a Receiver,
    page: Option<&'a str>,
    registry: &'a Registry,
    catalogue: Catalogue,
    now: UnixMillis,
}

/// What a template may name.
#[derive(Serialize)]
struct View<'a> {
    /// Whom it is for.
    receiver: &'a str,
    /// All of it in a line.
    title: &'a str,
    /// Where to read on; empty if the collector was not told where its page is.
    link: &'a str,
    /// How many incidents of it go on, and how many are over.
    firing: usize,
    resolved: usize,
    /// How many others of the same regencies go on.
    going_on: usize,
    /// It is told again, as nobody has cared for it.
    again: bool,
    /// There are so many that `regions` are told, and of the incidents only common causes.
    storm: bool,
    incidents: &'a [Line],
    regions: &'a [Region],
    /// How many incidents, or regions, there was no room for.
    omitted: usize,
}

/// One incident in a template.
#[derive(Clone, Serialize)]
struct Line {
    number: u64,
    /// `firing`, `acknowledged`, `resolved` or `retracted`.
    state: &'static str,
    mark: &'static str,
    sentence: String,
    /// The office's name, or what of a common cause there is to say.
    subject: String,
    /// Its code; empty for a common cause.
    office: String,
    regency: String,
    /// As the API has it, and in words.
    cause: &'static str,
    cause_text: String,
    severity: &'static str,
    since: String,
    /// Empty while it goes on.
    until: String,
    /// How long it lasted, or lasts.
    length: String,
    /// 0 if it is none.
    relapse: u32,
    /// Who cares for it; empty if nobody does.
    by: String,
    /// What to do next; empty when it is over or cared for.
    advice: String,
    /// That nobody has cared for it, and how long; empty if that is not so, or not long.
    unattended: String,
    link: String,
}

/// What of a storm hit one regency.
#[derive(Clone, Serialize)]
struct Region {
    name: String,
    firing: usize,
    resolved: usize,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(
        alerts: &'a Alerts,
        receiver: &'a Receiver,
        registry: &'a Registry,
        now: UnixMillis,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            receiver,
            page: alerts.page.as_deref(),
            registry,
            catalogue: Catalogue::of(receiver.language)?,
            now,
        })
    }

    /// What is said of all these, and which of them it tells.
    pub(super) fn write(
        &self,
        together: Vec<String>,
        mut entries: Vec<Entry>,
    ) -> (Notice, BTreeSet<u64>) {
        // What is new comes first.
        entries.sort_by_key(|entry| (!entry.is_new, entry.incident.number));
        let (mut bytes, mut written) = (0, BTreeSet::new());
        let alerts: Vec<Alert> = entries
            .iter()
            .take(ALERTS_MAX)
            .map(|entry| (entry.incident.number, self.alert(entry)))
            .take_while(|(number, alert)| {
                bytes += serde_json::to_string(alert).map_or(BYTES_MAX, |text| text.len());
                bytes <= BYTES_MAX && written.insert(*number)
            })
            .map(|(_, alert)| alert)
            .collect();
        if !self.receiver.channel.is_read_by_programs() {
            written = entries.iter().map(|entry| entry.incident.number).collect();
        }
        let told = entries
            .iter()
            .filter(|entry| written.contains(&entry.incident.number));
        let told: Vec<&Entry> = told.collect();
        let single = match told[..] {
            [one] => Some(one.incident.number),
            _ => None,
        };
        let link = match single {
            Some(number) => self.link(number),
            None => self.page.map(str::to_owned),
        };
        let again = !told.iter().any(|entry| entry.is_new);
        let listed = told.iter().take(alerts.len());
        let news = listed.filter(|entry| entry.is_new || again);
        let news = news.map(|entry| entry.incident.number).collect();
        let title = self.title(&told);
        let text = self.text(&title, link.as_deref().unwrap_or_default(), &told);
        let notice = Notice {
            together,
            text,
            title,
            firing: told.iter().any(|entry| !is_over(&entry.now)),
            critical: told
                .iter()
                .any(|entry| Severity::of(&entry.incident) == Severity::Critical),
            link,
            omitted: entries.len() - alerts.len(),
            alerts,
            news,
        };
        (notice, written)
    }

    /// What a template of the operator's makes of some incidents that might be.
    pub(crate) fn preview(&self, entries: &[Entry]) -> anyhow::Result<String> {
        let told: Vec<&Entry> = entries.iter().collect();
        let title = self.title(&told);
        let link = self.page.unwrap_or_default();
        self.fill(&self.receiver.template, &title, link, &told)
    }

    /// By the receiver's template; by our own, and said so in the log, if that fails.
    fn text(&self, title: &str, link: &str, told: &[&Entry]) -> String {
        match self.fill(&self.receiver.template, title, link, told) {
            Ok(text) if !text.is_empty() => text,
            Ok(_) => title.to_owned(),
            Err(error) => {
                warn!(receiver = self.receiver.name, error = %format!("{error:#}"), "its template fails; the built-in one is used");
                let own = Template::read(Template::own(self.receiver.language));
                let own = own.and_then(|own| self.fill(&own, title, link, told));
                own.unwrap_or_else(|_| title.to_owned())
            }
        }
    }

    /// Fills a template with as many incidents as the receiver takes.
    fn fill(
        &self,
        template: &Template,
        title: &str,
        link: &str,
        told: &[&Entry],
    ) -> anyhow::Result<String> {
        let is_new = told.iter().any(|entry| entry.is_new);
        let of = |new: bool| told.iter().filter(move |entry| entry.is_new == new);
        let shown: Vec<&&Entry> = of(is_new).collect();
        let going_on = of(!is_new).filter(|entry| !is_over(&entry.now)).count();
        let storm = shown.len() > LISTED;
        let regions = self.regions(&shown);
        let all = if storm { regions.len() } else { shown.len() };
        let lines = shown
            .iter()
            .filter(|entry| !storm || entry.incident.facts.scope.is_some());
        let lines: Vec<Line> = lines.take(LISTED).map(|entry| self.line(entry)).collect();
        let resolved = shown.iter().filter(|entry| is_over(&entry.now)).count();
        let most = self.receiver.channel.text_max();
        let mut room = if storm { regions.len() } else { lines.len() };
        loop {
            let (lines, regions) = if storm {
                (&lines[..], &regions[..room])
            } else {
                (&lines[..room], &[][..])
            };
            let text = template.render(&View {
                receiver: &self.receiver.name,
                title,
                link,
                firing: shown.len() - resolved,
                resolved,
                going_on,
                again: !is_new,
                storm,
                incidents: lines,
                regions,
                omitted: all - room,
            })?;
            let text = text.trim();
            // Quotes and control characters take more.
            let bytes = serde_json::to_string(text)?.len();
            if text.len() <= most && bytes <= TEXT_BYTES_MAX {
                return Ok(text.to_owned());
            }
            if room <= 1 {
                return Ok(cut(text, most.min(TEXT_BYTES_MAX / 6)));
            }
            // In few steps, however many there are.
            room = (room * most / text.len()).clamp(1, room - 1);
        }
    }

    /// How many of each regency; what hit most comes first.
    fn regions(&self, shown: &[&&Entry]) -> Vec<Region> {
        let mut all: BTreeMap<&str, Region> = BTreeMap::new();
        for entry in shown {
            let Some(office) = &entry.incident.office else {
                continue;
            };
            let code = office.as_str().get(..5).unwrap_or_default();
            let named = self.registry.office(office);
            let region = all.entry(code).or_insert_with(|| Region {
                name: named
                    .and_then(|office| office.regency.clone())
                    .unwrap_or_else(|| code.to_owned()),
                firing: 0,
                resolved: 0,
            });
            if is_over(&entry.now) {
                region.resolved += 1;
            } else {
                region.firing += 1;
            }
        }
        let mut all: Vec<Region> = all.into_values().collect();
        all.sort_by_key(|region| std::cmp::Reverse(region.firing + region.resolved));
        all
    }

    fn title(&self, told: &[&Entry]) -> String {
        let new = told.iter().filter(|entry| entry.is_new);
        let mut shown: Vec<&&Entry> = new.collect();
        if shown.is_empty() {
            shown = told.iter().collect();
        }
        if let [entry] = shown[..] {
            let key = match entry.now.state {
                Telling::Firing | Telling::Acknowledged(_) => "title.firing",
                Telling::Resolved => "title.resolved",
                Telling::Retracted => "title.retracted",
            };
            let cause = self.catalogue.cause(entry.now.cause);
            let subject = self.subject(&entry.incident);
            let values = [("subject", &*subject), ("cause", &cause)];
            return self.catalogue.say(key, &values);
        }
        let resolved = shown.iter().filter(|entry| is_over(&entry.now)).count();
        let counts = [
            ("title.firing_many", shown.len() - resolved),
            ("title.resolved_many", resolved),
        ];
        let counts = counts.into_iter().filter(|(_, count)| *count > 0);
        let counts: Vec<String> = counts
            .map(|(key, count)| self.catalogue.say(key, &[("n", &count.to_string())]))
            .collect();
        let regions = self.regions(&shown);
        let common = shown.iter().filter(|entry| entry.incident.office.is_none());
        let place = match (&regions[..], common.count()) {
            ([one], 0) => one.name.clone(),
            (regions, common) => {
                let n = (regions.len() + common).to_string();
                self.catalogue.say("title.regions", &[("n", &n)])
            }
        };
        format!("{}: {place}", counts.join(", "))
    }

    /// One incident in a sentence or two.
    pub(super) fn sentence(&self, entry: &Entry) -> String {
        let subject = self.subject(&entry.incident);
        let by = entry.by.as_deref().unwrap_or_default();
        self.catalogue
            .sentence(&entry.incident, &entry.now, (&subject, by))
    }

    fn subject(&self, incident: &Incident) -> String {
        let office = incident.office.as_ref();
        let named = office.and_then(|code| self.registry.office(code));
        match (named, &incident.facts.scope) {
            (Some(office), _) => office.name.clone(),
            (None, Some(scope)) => self.catalogue.scope(scope, self.registry),
            (None, None) => incident.subject(),
        }
    }

    fn link(&self, number: u64) -> Option<String> {
        self.page.map(|page| format!("{page}/insiden/{number}"))
    }

    fn line(&self, entry: &Entry) -> Line {
        let (incident, now) = (&entry.incident, &entry.now);
        let facts = &incident.facts;
        let subject = self.subject(incident);
        let clock = clock_of(incident);
        let time = |at: UnixMillis| Catalogue::time(at, clock);
        let end = facts.resolved_ms.unwrap_or(self.now);
        let (state, mark) = match &now.state {
            Telling::Firing => ("firing", "🔴"),
            Telling::Acknowledged(_) => ("acknowledged", "🟡"),
            Telling::Resolved => ("resolved", "🟢"),
            Telling::Retracted => ("retracted", "⚪"),
        };
        let is_firing = now.state == Telling::Firing;
        let waited = entry.unattended.map(|since| self.now.since(since));
        let waited = waited.filter(|waited| is_firing && *waited >= UNATTENDED);
        let office = incident.office.as_ref();
        let known = office.and_then(|code| self.registry.office(code));
        let advice = format!("advice.{}", now.cause.as_str());
        Line {
            number: incident.number,
            state,
            mark,
            sentence: self.sentence(entry),
            subject,
            office: office.map(ToString::to_string).unwrap_or_default(),
            regency: known
                .and_then(|office| office.regency.clone())
                .unwrap_or_default(),
            cause: now.cause.as_str(),
            cause_text: self.catalogue.cause(now.cause),
            severity: Severity::of(incident).as_str(),
            since: time(facts.opened_ms),
            until: facts.resolved_ms.map(time).unwrap_or_default(),
            length: self.catalogue.length(end.since(facts.opened_ms)),
            relapse: now.relapse.unwrap_or_default(),
            by: entry.by.clone().unwrap_or_default(),
            advice: if is_firing {
                self.catalogue.say(&advice, &[])
            } else {
                String::new()
            },
            unattended: waited
                .map(|waited| {
                    let length = self.catalogue.length(waited);
                    self.catalogue
                        .say("message.unattended", &[("length", &length)])
                })
                .unwrap_or_default(),
            link: self.link(incident.number).unwrap_or_default(),
        }
    }

    /// One incident as programs have it.
    pub(super) fn alert(&self, entry: &Entry) -> Alert {
        let (incident, now) = (&entry.incident, &entry.now);
        let facts = &incident.facts;
        let subject = self.subject(incident);
        let mut labels: BTreeMap<&str, String> = BTreeMap::from([
            ("alertname", "denyut".to_owned()),
            ("incident", incident.number.to_string()),
            ("cause", now.cause.as_str().to_owned()),
            ("severity", Severity::of(incident).as_str().to_owned()),
        ]);
        if let Some(office) = &incident.office {
            let region = office.as_str().get(..5).unwrap_or_default();
            labels.insert("office", office.to_string());
            labels.insert("region", region.to_owned());
        }
        if let Some(scope) = &facts.scope {
            let scope = format!("{} {}", scope.kind.as_str(), scope.code);
            labels.insert("scope", scope.trim_end().to_owned());
        }
        let mut annotations: BTreeMap<&str, String> =
            BTreeMap::from([("summary", self.sentence(entry)), ("office_name", subject)]);
        if let Some(by) = &entry.by {
            annotations.insert("acknowledged_by", by.clone());
        }
        if let Some(count) = now.relapse {
            annotations.insert("relapse", count.to_string());
        }
        let owned = |map: BTreeMap<&str, String>| {
            let owned = map.into_iter().map(|(key, text)| (key.to_owned(), text));
            owned.collect()
        };
        let over = facts.resolved_ms.filter(|_| is_over(now));
        let status = if is_over(now) { "resolved" } else { "firing" };
        Alert {
            status: status.to_owned(),
            labels: owned(labels),
            annotations: owned(annotations),
            starts_at: rfc3339(facts.opened_ms),
            ends_at: over.map_or_else(|| "0001-01-01T00:00:00Z".to_owned(), rfc3339),
            generator_url: self.link(incident.number).unwrap_or_default(),
            fingerprint: format!("{:016x}", incident.number),
        }
    }
}

fn is_over(now: &Told) -> bool {
    matches!(now.state, Telling::Resolved | Telling::Retracted)
}

pub(super) fn rfc3339(at: UnixMillis) -> String {
    jiff::Timestamp::from_millisecond(at.0).map_or_else(|_| String::new(), |at| at.to_string())
}

/// The beginning of a text, and that it is one.
fn cut(text: &str, most: usize) -> String {
    let end = (0..=most.saturating_sub('…'.len_utf8()))
        .rev()
        .find(|end| text.is_char_boundary(*end));
    format!("{}…", &text[..end.unwrap_or(0)])
}

/// What templates are tried on: something that came back after a repair and nobody cared for, something cared for, an end, a common cause; and very many.
pub(crate) fn samples(now: UnixMillis) -> Vec<Vec<Entry>> {
    use denyut_detect::Cause;
    use denyut_detect::incident::{Facts, Relapse, Scope, ScopeKind};
    let hour = |hours: i64| UnixMillis(now.0 - hours * 3_600_000);
    let entry = |number: u64, office: &str, cause: Cause, state: Telling| {
        let over = state == Telling::Resolved;
        let facts = Facts {
            opened_ms: hour(30),
            resolved_ms: over.then(|| hour(1)),
            probation_until_ms: None,
            cause,
            confidence: 90,
            provisional: false,
            evidence: Vec::new(),
            troubles: Vec::new(),
            troubles_total: 0,
            relapse: None,
            scope: None,
        };
        let incident = Incident {
            number,
            office: office.parse().ok(),
            facts,
            relapse_of: None,
            parent: None,
            retracted: false,
            paged_ms: Some(hour(29)),
            revisions: Vec::new(),
            revisions_omitted: 0,
        };
        let mut now = Told::of(&incident, None);
        now.state = state;
        Entry {
            incident,
            now,
            is_new: true,
            by: None,
            unattended: Some(hour(29)),
        }
    };
    let mut again = entry(1, "36.73.02", Cause::Server, Telling::Firing);
    again.incident.facts.relapse = Some(Relapse {
        count: 2,
        since_ms: hour(900),
        of_ms: hour(200),
        held_ms: 600_000_000,
        episode: true,
    });
    again.now = Told::of(&again.incident, None);
    let state = Telling::Acknowledged(hour(2));
    let mut known = entry(2, "36.73.03", Cause::Uplink, state);
    known.by = Some("Siti".to_owned());
    let over = entry(3, "36.73.04", Cause::Lan, Telling::Resolved);
    let mut common = entry(4, "", Cause::Regional, Telling::Firing);
    common.incident.facts.scope = Some(Box::new(Scope {
        kind: ScopeKind::Regency,
        code: "36.72".to_owned(),
        watched: 8,
        offices: Vec::new(),
        failed: 6,
    }));
    let many = (1..=40_u64).map(|number| {
        let office = format!("36.{:02}.01", 1 + number % 20);
        entry(100 + number, &office, Cause::Uplink, Telling::Firing)
    });
    let mut many: Vec<Entry> = many.collect();
    many.push(common.clone());
    vec![
        vec![again.clone()],
        vec![over.clone()],
        vec![again, known, over, common],
        many,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alert::Language;
    use crate::alert::channel::{Brand, Channel, Chat, client};

    fn receiver(language: Language, template: &str, brand: Brand) -> Receiver {
        Receiver {
            name: "dinas".to_owned(),
            language,
            role: None,
            regions: Vec::new(),
            template: Template::read(template).expect("reads"),
            pace: Duration::ZERO,
            channel: Channel::Chat(Chat {
                brand,
                client: client(None, true).expect("a client"),
            }),
        }
    }

    fn discord() -> Brand {
        let url = "https://discord.example/x".parse().expect("an address");
        Brand::Discord { url }
    }

    fn write(receiver: &Receiver, entries: Vec<Entry>) -> (Notice, BTreeSet<u64>) {
        let alerts = Alerts {
            page: Some("https://denyut.example".to_owned()),
            ..Alerts::default()
        };
        let registry = Registry::default();
        let now = UnixMillis(1_790_000_000_000);
        let writer = Writer::new(&alerts, receiver, &registry, now).expect("reads");
        writer.write(vec!["regency 36.73".to_owned()], entries)
    }

    #[test]
    fn a_storm_is_told_by_regencies_and_every_text_fits() {
        let own = receiver(Language::Id, Template::own(Language::Id), discord());
        let all = samples(UnixMillis(1_790_000_000_000));
        let (notice, written) = write(&own, all[3].clone());
        assert_eq!(notice.title, "41 gangguan: 21 wilayah");
        assert!(
            notice
                .text
                .starts_with("41 gangguan: 21 wilayah\n🔴 6 dari 8 kantor: ")
                && notice.text.contains("\n• 36.20: 2 terganggu\nhttps://"),
            "{}",
            notice.text
        );
        // People are told of all of them, even if not by name.
        assert_eq!(written.len(), 41);
        // Hundreds of regencies do not fit.
        let many = (0..3_000_u64).map(|number| {
            let mut entry = all[0][0].clone();
            entry.incident.number = number;
            let code = format!("{:02}.{:02}.01", 11 + number % 80, 1 + number % 37);
            entry.incident.office = code.parse().ok();
            entry
        });
        let (notice, written) = write(&own, many.collect());
        assert_eq!(written.len(), 3_000);
        assert!(notice.text.len() <= 1_950, "{}", notice.text.len());
        assert!(
            notice
                .text
                .contains(" wilayah lain.\nhttps://denyut.example"),
            "{}",
            notice.text
        );
        assert_eq!(notice.alerts.len() + notice.omitted, 3_000);
    }

    #[test]
    fn what_is_new_is_told_and_what_goes_on_is_counted() {
        let own = receiver(Language::En, Template::own(Language::En), discord());
        let mut all = samples(UnixMillis(1_790_000_000_000)).swap_remove(2);
        for entry in &mut all[1..] {
            entry.is_new = false;
        }
        let (notice, _) = write(&own, all.clone());
        assert_eq!(notice.title, "36.73.02: The enrollment server is down");
        assert!(
            notice.text.contains("Relapse 2: the repair before did not hold. Nobody has cared for it in 1 d 5 h.\n→ Check the recording server")
                && notice.text.ends_with("\n\n2 more go on."),
            "{}",
            notice.text
        );
        assert_eq!(notice.unattended().count(), 2);
        // Nothing is new: it is told again.
        all[0].is_new = false;
        let (notice, _) = write(&own, all);
        assert_eq!(notice.title, "3 in trouble, 1 restored: 2 regions");
    }

    #[test]
    fn what_came_back_and_failed_again_is_told_as_that() {
        use denyut_detect::incident::{Revision, RevisionKind, RevisionReason};
        let own = receiver(Language::Id, Template::own(Language::Id), discord());
        let now = UnixMillis(1_790_000_000_000);
        let mut all = samples(now).swap_remove(0);
        all[0].incident.revisions.push(Revision {
            number: 3,
            kind: RevisionKind::Update,
            reason: RevisionReason::RepairFailed,
            agent: None,
            target: None,
            cause: None,
            at_ms: UnixMillis(now.0 - 60_000),
            recorded_ms: now,
        });
        let (notice, _) = write(&own, all);
        assert!(
            notice
                .text
                .contains(" Sempat pulih, lalu mati lagi 21-09-2026 21:12 WIB."),
            "{}",
            notice.text
        );
    }

    #[test]
    fn a_template_of_the_operators_that_fails_is_told_by_our_own() {
        let all = samples(UnixMillis(1_790_000_000_000));
        let fails = "{% if storm %}{{ nothing }}{% endif %}{% for one in incidents %}{{ one.number }} {{ one.subject }}\n{% endfor %}";
        let theirs = receiver(Language::Id, fails, discord());
        let (notice, _) = write(&theirs, all[0].clone());
        assert_eq!(notice.text, "1 36.73.02");
        let (notice, _) = write(&theirs, all[3].clone());
        assert!(
            notice.text.contains("• 36.20: 2 terganggu"),
            "{}",
            notice.text
        );
        // One that says too much, whatever it is told.
        let long = receiver(Language::Id, &"é".repeat(3_000), discord());
        let (notice, _) = write(&long, all[0].clone());
        assert!(notice.text.ends_with("é…") && notice.text.len() <= 1_950);
        let silent = receiver(Language::Id, " ", discord());
        assert_eq!(write(&silent, all[1].clone()).0.text, "36.73.04: pulih");
    }
}
