//! What is told, before it takes the shape that a receiver wants: for people a text, for programs each incident.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use utoipa::ToSchema;

/// The content of one message.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Notice {
    /// What it is of: regencies, and common causes.
    #[schema(example = json!(["regency 36.73"]))]
    pub(crate) together: Vec<String>,
    /// In a line.
    pub(crate) title: String,
    /// For people, in the receiver's language and by its template.
    pub(crate) text: String,
    /// Something of it goes on.
    pub(crate) firing: bool,
    /// Something of it is critical.
    pub(crate) critical: bool,
    /// Where to read on.
    pub(crate) link: Option<String>,
    /// Its incidents, for programs; the first of them if there are very many.
    pub(crate) alerts: Vec<Alert>,
    /// How many there are beside those.
    pub(crate) omitted: usize,
    /// The numbers of those of its incidents that it was made for; the others go on.
    #[serde(default)]
    pub(crate) news: BTreeSet<u64>,
}

/// One incident, as Alertmanager has it in its webhooks (version 4) and in its API (v2).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Alert {
    /// `firing` or `resolved`.
    pub(crate) status: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) annotations: BTreeMap<String, String>,
    /// RFC 3339.
    pub(crate) starts_at: String,
    /// RFC 3339; the year 1 while it goes on.
    pub(crate) ends_at: String,
    #[serde(rename = "generatorURL")]
    pub(crate) generator_url: String,
    pub(crate) fingerprint: String,
}

impl Notice {
    /// The incidents of it that nobody cares for, with who they are of: what a button may acknowledge.
    pub(super) fn unattended(&self) -> impl Iterator<Item = (u64, &str)> {
        self.alerts.iter().filter_map(|alert| {
            let is_known = alert.annotations.contains_key("acknowledged_by");
            let number = alert.labels.get("incident")?.parse().ok()?;
            let name = alert.annotations.get("office_name")?;
            (alert.status == "firing" && !is_known).then_some((number, name.as_str()))
        })
    }
}
