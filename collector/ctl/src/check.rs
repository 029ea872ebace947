//! `denyutctl check`: an office or a target of it, for Nagios and its like.

use crate::arguments::Check;
use crate::client::{Client, part};
use crate::show::{length, now, plain};
use anyhow::Context;
use serde_json::Value;
use std::process::ExitCode;
use std::time::Duration;

/// What a monitoring program makes of it (Monitoring Plugins Development Guidelines): its exit code and its word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Verdict {
    Ok = 0,
    Unknown = 3,
    Warning = 1,
    Critical = 2,
}

impl Verdict {
    fn of(state: &str) -> Self {
        match state {
            "up" | "closed" => Self::Ok,
            "down" => Self::Critical,
            "suspect" | "recovering" | "maintenance" => Self::Warning,
            _ => Self::Unknown,
        }
    }

    const fn word(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Warning => "WARNING",
            Self::Critical => "CRITICAL",
            Self::Unknown => "UNKNOWN",
        }
    }
}

/// Prints one line, and returns the code.
pub(crate) async fn check(client: anyhow::Result<Client>, check: Check) -> ExitCode {
    let within = Duration::from_secs(check.timeout);
    let asked = async {
        let client = client?.at_once();
        let path = format!("/api/v1/offices/{}", part(&check.office));
        let answer = tokio::time::timeout(within, client.get(&path)).await;
        answer.with_context(|| format!("no answer within {} s", check.timeout))?
    };
    match asked.await {
        Ok(view) => {
            let (verdict, text) = judge(&view, check.target.as_deref());
            say(verdict, &text)
        }
        Err(error) => unknown(&format!("{error:#}")),
    }
}

/// What is said when nobody can tell.
pub(crate) fn unknown(why: &str) -> ExitCode {
    say(Verdict::Unknown, &plain(why).replace('|', "¦"))
}

fn say(verdict: Verdict, text: &str) -> ExitCode {
    // Where nobody takes it, the code says it.
    crate::show::line(&format!("DENYUT {} - {text}", verdict.word())).ok();
    ExitCode::from(verdict as u8)
}

fn judge(view: &Value, target: Option<&str>) -> (Verdict, String) {
    let empty = Vec::new();
    let links = view["links"].as_array().unwrap_or(&empty);
    let named = |link: &&Value| target.is_none_or(|target| link["target"] == target);
    let links: Vec<&Value> = links.iter().filter(named).collect();
    // What stands behind a `|` is taken for figures.
    let name = plain(view["name"].as_str().unwrap_or_default()).replace('|', "¦");
    if let (Some(target), true) = (target, links.is_empty()) {
        return (
            Verdict::Unknown,
            format!("{name} has no target `{}`", plain(target)),
        );
    }
    // Of a target the worst that an agent sees.
    let worst = links
        .iter()
        .max_by_key(|link| Verdict::of(link["state"].as_str().unwrap_or_default()));
    let subject = if target.is_some() {
        worst.copied().unwrap_or(view)
    } else {
        view
    };
    let state = subject["state"].as_str().unwrap_or("unknown");
    // Nobody looks there, but something was wrong when somebody did.
    let is_open = target.is_none() && view["incident"].is_u64();
    let verdict = match Verdict::of(state) {
        Verdict::Ok | Verdict::Unknown if is_open => Verdict::Critical,
        verdict => verdict,
    };
    let since = subject["since_ms"].as_i64();
    let since = since.map_or_else(String::new, |at| format!(" for {}", length(now() - at)));
    let incident = view["incident"].as_u64().filter(|_| target.is_none());
    let incident = incident.map_or_else(String::new, |number| format!(", incident #{number}"));
    let of = target.map_or_else(String::new, |target| format!(" {}", plain(target)));
    let figures: Vec<String> = links
        .iter()
        .filter_map(|link| {
            let rtt = link["last_rtt_us"].as_u64()?;
            Some(format!(
                "'{}/{}'={rtt}us",
                link["agent"].as_str()?,
                link["target"].as_str()?
            ))
        })
        .collect();
    let figures = if figures.is_empty() {
        String::new()
    } else {
        format!(" | {}", figures.join(" "))
    };
    (
        verdict,
        format!("{name}{of} is {state}{since}{incident}{figures}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_verdict_is_the_states_and_of_a_target_the_worst() {
        let view = json!({
            "name": "Cipocok Jaya", "state": "down", "since_ms": null, "incident": 12,
            "links": [
                {"agent": "a", "target": "server", "state": "up", "since_ms": null, "last_rtt_us": 310},
                {"agent": "b", "target": "server", "state": "suspect", "since_ms": null, "last_rtt_us": null},
                {"agent": "a", "target": "uplink", "state": "down", "since_ms": null, "last_rtt_us": null},
            ]
        });
        assert_eq!(
            judge(&view, None),
            (
                Verdict::Critical,
                "Cipocok Jaya is down, incident #12 | 'a/server'=310us".to_owned()
            )
        );
        assert_eq!(
            judge(&view, Some("server")),
            (
                Verdict::Warning,
                "Cipocok Jaya server is suspect | 'a/server'=310us".to_owned()
            )
        );
        assert_eq!(judge(&view, Some("uplink")).0, Verdict::Critical);
        assert_eq!(judge(&view, Some("nothing")).0, Verdict::Unknown);
        let piped = json!({"name": "A|rta=1", "state": "up", "since_ms": null, "links": []});
        assert_eq!(judge(&piped, None).1, "A¦rta=1 is up");
        let closed = json!({"name": "Serang", "state": "closed", "since_ms": null, "incident": 3, "links": []});
        assert_eq!(
            judge(&closed, None).0,
            Verdict::Critical,
            "it was down when somebody looked last"
        );
        for (state, code) in [
            ("up", 0),
            ("closed", 0),
            ("maintenance", 1),
            ("down", 2),
            ("unobserved", 3),
            ("unknown", 3),
            ("new", 3),
        ] {
            assert_eq!(Verdict::of(state) as u8, code, "{state}");
        }
    }
}
