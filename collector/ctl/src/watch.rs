//! `denyutctl watch`: what happens, as it happens. It comes back when the stream breaks, and hears what happened meanwhile.

use crate::client::Client;
use crate::show::{Show, line, now, plain, region, time};
use anyhow::Context;
use reqwest::{Method, header::HeaderName};
use serde_json::Value;
use std::time::Duration;

/// From one try to the next.
const AGAIN: Duration = Duration::from_secs(2);

/// One event of the stream.
#[derive(Debug, Default, PartialEq)]
struct Event {
    name: String,
    data: String,
}

/// Reads events out of a stream's bytes (the format of server-sent events in HTML's standard).
#[derive(Debug, Default)]
struct Reader {
    rest: Vec<u8>,
    event: Event,
    /// The id of the newest event.
    last: Option<String>,
}

impl Reader {
    /// The events that are whole with these bytes.
    fn read(&mut self, bytes: &[u8]) -> Vec<Event> {
        self.rest.extend_from_slice(bytes);
        let mut events = Vec::new();
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            let line = line.trim_end_matches(['\r', '\n']);
            if line.is_empty() {
                let event = std::mem::take(&mut self.event);
                events.extend(Some(event).filter(|event| !event.data.is_empty()));
                continue;
            }
            let (name, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match name {
                "event" => value.clone_into(&mut self.event.name),
                "data" => self.event.data += value,
                "id" => self.last = Some(value.to_owned()),
                _ => {}
            }
        }
        events
    }
}

/// Prints events until somebody ends it; an error only if the collector does not answer at first.
pub(crate) async fn watch(
    client: &Client,
    show: &Show,
    office: Option<&str>,
    samples: bool,
) -> anyhow::Result<()> {
    let office = office.map_or_else(String::new, |office| {
        format!("&office={}", crate::client::part(office))
    });
    let path = format!("/api/v1/events?samples={samples}{office}");
    let mut reader = Reader::default();
    let mut first = true;
    loop {
        let last = reader.last.clone();
        let headers: Vec<(HeaderName, &str)> = last
            .iter()
            .map(|last| (HeaderName::from_static("last-event-id"), last.as_str()))
            .collect();
        match client.ask(Method::GET, &path, None, &headers).await {
            Ok(mut answer) => {
                first = false;
                reader = Reader {
                    last,
                    ..Reader::default()
                };
                while let Ok(Some(bytes)) = answer.chunk().await {
                    for event in reader.read(&bytes) {
                        tell(client, show, &event).await?;
                    }
                }
                eprintln!("The stream broke; listening again.");
            }
            Err(error) if first => return Err(error),
            Err(_) => {}
        }
        tokio::time::sleep(AGAIN).await;
    }
}

async fn tell(client: &Client, show: &Show, event: &Event) -> anyhow::Result<()> {
    if show.is_json() {
        return line(&format!(
            "{{\"event\":{},\"data\":{}}}",
            Value::from(event.name.as_str()),
            event.data
        ));
    }
    if event.name == "missed" {
        return line("Some events are lost: ask anew how things are.");
    }
    let data: Value = serde_json::from_str(&event.data).context("an event is not JSON")?;
    let text = |name: &str| data[name].as_str().unwrap_or_default();
    let place = region(&data);
    let (at, words) = match event.name.as_str() {
        "incident" => {
            let status = if data["retracted"] == true {
                "none after all"
            } else if data["resolved_ms"].is_null() {
                "open"
            } else {
                "resolved"
            };
            let where_ = place.unwrap_or("several offices");
            (
                now(),
                format!(
                    "incident #{} at {where_}: {}, {}",
                    data["number"],
                    text("cause"),
                    show.state(status, status)
                ),
            )
        }
        "agent" => (
            data["at_ms"].as_i64().unwrap_or_else(now),
            format!(
                "agent {} of {} is {}",
                text("agent"),
                text("office"),
                text("presence")
            ),
        ),
        "link" => {
            let path = crate::commands::link_path(
                text("office"),
                &format!("{}/{}", text("agent"), text("target")),
            )?;
            let state = client.get(&path).await.ok();
            let state = state
                .as_ref()
                .and_then(|link| link["state"].as_str())
                .unwrap_or("gone")
                .to_owned();
            (
                now(),
                format!(
                    "link {}/{} of {} is {}",
                    text("agent"),
                    text("target"),
                    text("office"),
                    show.state(&state, &state)
                ),
            )
        }
        "samples" => {
            for sample in data["samples"].as_array().into_iter().flatten() {
                let result = sample["rtt_us"].as_u64().map_or_else(
                    || {
                        show.state(
                            "down",
                            &plain(sample["failure"].as_str().unwrap_or_default()),
                        )
                    },
                    |rtt| format!("{:.1} ms", rtt as f64 / 1_000.0),
                );
                let at = sample["at_ms"].as_i64().unwrap_or(0);
                line(&format!(
                    "{}  {}/{} of {}: {result}",
                    time(at, place),
                    text("agent"),
                    text("target"),
                    text("office")
                ))?;
            }
            return Ok(());
        }
        _ => return Ok(()),
    };
    line(&format!("{}  {words}", time(at, place)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_whole_however_their_bytes_come() {
        let stream = b": listening\n\nid: 1-7\nevent: link\ndata: {\"a\":1}\n\n:\n\nevent: missed\r\ndata: 0\r\n\r\nevent: lin";
        for size in 1..stream.len() {
            let mut reader = Reader::default();
            let events: Vec<Event> = stream
                .chunks(size)
                .flat_map(|part| reader.read(part))
                .collect();
            let event = |name: &str, data: &str| Event {
                name: name.to_owned(),
                data: data.to_owned(),
            };
            assert_eq!(
                events,
                [event("link", "{\"a\":1}"), event("missed", "0")],
                "{size}"
            );
            assert_eq!(reader.last.as_deref(), Some("1-7"));
        }
    }
}
