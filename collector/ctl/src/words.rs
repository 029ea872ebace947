//! What the collector found, in the words of its pages: their English catalogue.

use crate::show::{length, plain};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::LazyLock;

static TEXTS: LazyLock<BTreeMap<String, String>> = LazyLock::new(|| {
    serde_json::from_str(include_str!("../../src/web/en.json")).expect("our own file")
});

/// A text with its gaps filled by what stands in `of`; a key that is newer than this program stands for itself.
fn fill(key: &str, of: &Value, more: &[(&str, &str)]) -> String {
    let Some(text) = TEXTS.get(key) else {
        return plain(key.split('.').next_back().unwrap_or(key)).replace('_', " ");
    };
    let mut text = text.clone();
    for (name, value) in more {
        text = text.replace(&format!("{{{name}}}"), value);
    }
    for (name, value) in of.as_object().into_iter().flatten() {
        let value = match value {
            Value::String(value) => plain(value),
            value => value.to_string(),
        };
        text = text.replace(&format!("{{{name}}}"), &value);
    }
    text
}

/// What is the matter.
pub(crate) fn cause(of: &Value) -> String {
    let cause = of.as_str().unwrap_or("unknown");
    fill(&format!("cause.{cause}"), &Value::Null, &[])
}

/// A piece of evidence.
pub(crate) fn evidence(one: &Value) -> String {
    let what = one["what"].as_str().unwrap_or_default();
    let key = match one["why"].as_str() {
        Some(why) if what == "gap" => format!("evidence.gap_{why}"),
        _ => format!("evidence.{what}"),
    };
    let role = one["role"]
        .as_str()
        .map(|role| fill(&format!("role.{role}"), &Value::Null, &[]));
    let role = role.unwrap_or_default();
    let within = one["within_ms"].as_i64().map_or_else(String::new, length);
    let cause = cause(&one["cause"]);
    let target = plain(one["target"].as_str().unwrap_or_default());
    let target = if role.is_empty() {
        target
    } else {
        format!("{role} ({target})")
    };
    let gaps = [
        ("role", role.as_str()),
        ("target", &target),
        ("within", &within),
        ("cause", &cause),
    ];
    fill(&key, one, &gaps)
}

/// What changed, and of what.
pub(crate) fn revision(one: &Value) -> String {
    let reason = one["reason"].as_str().unwrap_or_default();
    let cause = cause(&one["cause"]);
    let text = fill(
        &format!("revision.{reason}"),
        &Value::Null,
        &[("cause", &cause)],
    );
    let text = if one["kind"] == "retract" {
        fill("revision.retract", &Value::Null, &[("reason", &text)])
    } else {
        text
    };
    let subject = ["agent", "target"]
        .iter()
        .filter_map(|name| one[name].as_str());
    let subject = subject.collect::<Vec<_>>().join("/");
    if subject.is_empty() {
        text
    } else {
        format!("{}: {text}", plain(&subject))
    }
}

/// Who was told, and as what.
pub(crate) fn told(one: &Value) -> String {
    let state = one["state"].as_str().unwrap_or_default();
    fill(&format!("told.{state}"), one, &[])
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_was_found_is_said_as_on_the_page() {
        assert_eq!(cause(&json!("server")), "The enrollment server is down");
        for (one, text) in [
            (
                json!({"what": "failed", "agent": "a", "target": "api", "role": "server", "failure": "refused"}),
                "Enrollment server (api) failed (refused)",
            ),
            (
                json!({"what": "fine", "role": "gateway"}),
                "Gateway kept answering",
            ),
            (
                json!({"what": "gap", "agent": "a", "why": "goodbye"}),
                "agent a said goodbye",
            ),
            (
                json!({"what": "together", "failed": 4, "watched": 6, "within_ms": 30_000}),
                "4 of 6 offices failed together within 30 s",
            ),
            (json!({"what": "moon_phase"}), "moon phase"),
        ] {
            assert_eq!(evidence(&one), text, "{one}");
        }
        for (one, text) in [
            (
                json!({"reason": "link_down", "kind": "open", "agent": "a", "target": "dns"}),
                "a/dns: down",
            ),
            (
                json!({"reason": "evidence", "kind": "reclassify", "cause": "uplink"}),
                "the cause is now: The uplink is down",
            ),
            (
                json!({"reason": "agent_closed", "kind": "retract"}),
                "retracted: the agent was stopped properly, as it turned out",
            ),
        ] {
            assert_eq!(revision(&one), text, "{one}");
        }
        assert_eq!(
            told(&json!({"receiver": "kota", "state": "firing"})),
            "kota was told: it began"
        );
    }
}
