//! The collector's own numbers, for Prometheus.

use prometheus_client::encoding::{EncodeLabelSet, text::encode};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// All metrics, by name without the prefix `denyut_`.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    pub(crate) streams: Gauge,
    pub(crate) entries: Counter,
    pub(crate) duplicates: Counter,
    pub(crate) refused: Family<Field, Counter>,
    pub(crate) refused_hellos: Counter,
    pub(crate) refused_members: Counter,
    pub(crate) twins: Counter,
    pub(crate) paced: Counter,
    pub(crate) crowded: Counter,
    pub(crate) broken_streams: Counter,
    pub(crate) unheard_acks: Counter,
    pub(crate) commit_seconds: Histogram,
    pub(crate) samples: Counter,
    pub(crate) unreadable: Counter,
    pub(crate) lost_records: Counter,
    pub(crate) worker_position: Gauge,
    pub(crate) log_end: Gauge,
    pub(crate) open_incidents: Gauge,
    pub(crate) pages: Counter,
    /// Messages by receiver and what became of them.
    pub(crate) messages: Family<Delivery, Counter>,
    outbox: Gauge,
    dead_messages: Gauge,
    pub(crate) listeners: Gauge,
    pub(crate) missed_events: Counter,
    pub(crate) unaudited: Counter,
    pub(crate) history_readers: Gauge,
    pub(crate) store_bytes: Family<Part, Gauge>,
    pub(crate) damaged: Gauge,
    pub(crate) too_late_samples: Gauge,
    pub(crate) disk_full: Gauge,
    pub(crate) upkeep_failing: Gauge,
    pub(crate) offices: Family<State, Gauge>,
    pub(crate) export_samples: Family<Export, Counter>,
    pub(crate) export_refused: Family<Export, Counter>,
    pub(crate) export_failures: Family<Export, Counter>,
    pub(crate) export_lost: Family<Export, Counter>,
    pub(crate) export_behind: Family<Export, Gauge>,
}

/// Which store is sent what is measured.
#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct Export {
    pub(crate) export: String,
}

/// Which field of an entry was refused.
#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct Field {
    pub(crate) field: String,
}

/// What became of a message.
#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct Delivery {
    pub(crate) receiver: String,
    /// `delivered`, `failed` (it is sent again) or `dead`.
    pub(crate) result: &'static str,
}

/// Part of the store.
#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct Part {
    pub(crate) part: &'static str,
}

/// State of an office.
#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct State {
    pub(crate) state: &'static str,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("denyut"),
            streams: Gauge::default(),
            entries: Counter::default(),
            duplicates: Counter::default(),
            refused: Family::default(),
            refused_hellos: Counter::default(),
            refused_members: Counter::default(),
            twins: Counter::default(),
            paced: Counter::default(),
            crowded: Counter::default(),
            broken_streams: Counter::default(),
            unheard_acks: Counter::default(),
            // 0.2 ms to 3.3 s
            commit_seconds: Histogram::new(exponential_buckets(0.0002, 2.0, 15)),
            samples: Counter::default(),
            unreadable: Counter::default(),
            lost_records: Counter::default(),
            worker_position: Gauge::default(),
            log_end: Gauge::default(),
            open_incidents: Gauge::default(),
            pages: Counter::default(),
            messages: Family::default(),
            outbox: Gauge::default(),
            dead_messages: Gauge::default(),
            listeners: Gauge::default(),
            missed_events: Counter::default(),
            unaudited: Counter::default(),
            history_readers: Gauge::default(),
            store_bytes: Family::default(),
            damaged: Gauge::default(),
            too_late_samples: Gauge::default(),
            disk_full: Gauge::default(),
            upkeep_failing: Gauge::default(),
            offices: Family::default(),
            export_samples: Family::default(),
            export_refused: Family::default(),
            export_failures: Family::default(),
            export_lost: Family::default(),
            export_behind: Family::default(),
        };
        metrics.register();
        metrics
    }

    #[allow(clippy::too_many_lines, reason = "a list")]
    fn register(&mut self) {
        let registry = &mut self.registry;
        registry.register("streams", "Agents connected now", self.streams.clone());
        registry.register(
            "entries",
            "Heartbeats accepted into the log",
            self.entries.clone(),
        );
        registry.register(
            "duplicate_entries",
            "Heartbeats that were in the log already",
            self.duplicates.clone(),
        );
        registry.register(
            "refused_entries",
            "Heartbeats refused for good, by the field at fault",
            self.refused.clone(),
        );
        registry.register(
            "refused_hellos",
            "Streams refused at their first message",
            self.refused_hellos.clone(),
        );
        registry.register(
            "refused_members",
            "Joins, renewals and returns that were refused",
            self.refused_members.clone(),
        );
        registry.register(
            "twins",
            "Machines asked to join anew, as another speaks as the same agent",
            self.twins.clone(),
        );
        registry.register(
            "paced",
            "Heartbeats after which a stream had to wait, as its agent says too much",
            self.paced.clone(),
        );
        registry.register(
            "crowded",
            "Connections turned away, as too many handshakes are under way from their address",
            self.crowded.clone(),
        );
        registry.register(
            "broken_streams",
            "Streams that ended with an error",
            self.broken_streams.clone(),
        );
        registry.register(
            "unheard_acks",
            "Heartbeats made durable for a stream that was gone",
            self.unheard_acks.clone(),
        );
        registry.register_with_unit(
            "commit",
            "Time to append and sync one group",
            Unit::Seconds,
            self.commit_seconds.clone(),
        );
        registry.register(
            "samples",
            "Samples put into the history",
            self.samples.clone(),
        );
        registry.register(
            "unreadable_records",
            "Records of the log that were passed over",
            self.unreadable.clone(),
        );
        registry.register(
            "lost_records",
            "Records that the worker had seen and the log had lost at the start",
            self.lost_records.clone(),
        );
        registry.register(
            "worker_position",
            "Place of the worker in the log",
            self.worker_position.clone(),
        );
        registry.register(
            "log_end",
            "Last durable place in the log",
            self.log_end.clone(),
        );
        registry.register(
            "open_incidents",
            "Incidents open now",
            self.open_incidents.clone(),
        );
        registry.register(
            "pages",
            "Incidents that somebody was to be called for",
            self.pages.clone(),
        );
        registry.register(
            "event_listeners",
            "Listeners of the event stream now",
            self.listeners.clone(),
        );
        registry.register(
            "missed_events",
            "Events that listeners were too slow for",
            self.missed_events.clone(),
        );
        registry.register(
            "unaudited",
            "Refused requests that were too many to be written down in the audit",
            self.unaudited.clone(),
        );
        registry.register(
            "history_readers",
            "Long answers of the API being read now",
            self.history_readers.clone(),
        );
        registry.register("offices", "Offices by state", self.offices.clone());
        registry.register(
            "export_samples",
            "Samples that a store took",
            self.export_samples.clone(),
        );
        registry.register(
            "export_refused_samples",
            "Samples that a store refused for good",
            self.export_refused.clone(),
        );
        registry.register(
            "export_failures",
            "Requests that a store did not take; they are sent again",
            self.export_failures.clone(),
        );
        registry.register(
            "export_lost_records",
            "Records of the log that were gone before a store took them",
            self.export_lost.clone(),
        );
        registry.register(
            "export_behind_records",
            "Records of the log that a store was not sent yet",
            self.export_behind.clone(),
        );
        registry.register_with_unit(
            "store",
            "Store on disk, by part",
            Unit::Bytes,
            self.store_bytes.clone(),
        );
        registry.register(
            "messages",
            "Messages to receivers, by what became of them",
            self.messages.clone(),
        );
        registry.register(
            "outbox",
            "Messages that wait to be delivered",
            self.outbox.clone(),
        );
        registry.register(
            "dead_messages",
            "Messages that cannot be delivered",
            self.dead_messages.clone(),
        );
        registry.register(
            "damaged",
            "How often something damaged was met in the log or the history since the start",
            self.damaged.clone(),
        );
        registry.register(
            "too_late_samples",
            "Samples left out since the start because their day is not kept any more",
            self.too_late_samples.clone(),
        );
        registry.register(
            "disk_full",
            "1 while nothing is taken because the disk has no room",
            self.disk_full.clone(),
        );
        registry.register(
            "upkeep_failing",
            "1 while finished days cannot be put into blocks, or old ones not deleted",
            self.upkeep_failing.clone(),
        );
    }

    /// So many messages wait to be delivered, and so many cannot be.
    pub(crate) fn set_messages(&self, waiting: usize, dead: usize) {
        let count = |count| i64::try_from(count).unwrap_or(i64::MAX);
        self.outbox.set(count(waiting));
        self.dead_messages.set(count(dead));
    }

    /// The text that Prometheus reads: OpenMetrics 1.0, or its own older format (0.0.4), where a counter's help stands by its whole name.
    pub(crate) fn text(&self, open: bool) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(if open { text } else { plain(&text) })
    }
}

/// OpenMetrics in the older format.
fn plain(text: &str) -> String {
    let counters = text.lines().filter_map(|line| {
        let line = line.strip_prefix("# TYPE ")?;
        line.strip_suffix(" counter")
    });
    let counters: std::collections::BTreeSet<&str> = counters.collect();
    let mut plain = String::with_capacity(text.len() + 1_024);
    for line in text.lines() {
        if line.starts_with("# EOF") || line.starts_with("# UNIT ") {
            continue;
        }
        let mut words = line.splitn(4, ' ');
        let about = (words.next(), words.next(), words.next(), words.next());
        match about {
            (Some("#"), Some(kind), Some(name), Some(rest)) if counters.contains(name) => {
                plain += &["# ", kind, " ", name, "_total ", rest].concat();
            }
            _ => plain += line,
        }
        plain.push('\n');
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_older_format_names_a_counter_as_its_samples_do() {
        let open = "# HELP a_b How many.\n# TYPE a_b counter\na_b_total 1\n# HELP c Seconds.\n# TYPE c gauge\n# UNIT c seconds\nc 2\n# EOF\n";
        assert_eq!(
            plain(open),
            "# HELP a_b_total How many.\n# TYPE a_b_total counter\na_b_total 1\n# HELP c Seconds.\n# TYPE c gauge\nc 2\n"
        );
    }
}
