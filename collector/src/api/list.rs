//! Lists: cut into pages, or whole as a stream of lines or a table.

use super::problem::Problem;
use super::{Parameters, Shared, blocking};
use crate::access::{Caller, Slot};
use axum::body::Body;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use denyut_proto::Invalid;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use utoipa::{IntoParams, ToSchema};

/// Items of one page: at most, and when nothing is said.
const LIMIT: (usize, usize) = (1_000, 100);
/// Items read at once for a stream.
const STEP: usize = 200;
/// Bytes handed on at once.
const PART: usize = 32 * 1024;
/// Parts waiting for the client, at most: with the part being made, and what was read at once, all the memory that an answer takes, however long it is.
const PARTS: usize = 4;
/// Streams written at once, at most: each holds a thread for as long as its client takes.
pub(super) const READERS: usize = 16;
/// A client that takes nothing for this long is given up.
const TAKEN_WITHIN: Duration = Duration::from_secs(30);

/// How a list is answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Format {
    /// One page as an array; the header `Link` leads to the next.
    #[default]
    Json,
    /// All of it, an object a line.
    Ndjson,
    /// All of it, as a table (RFC 4180).
    Csv,
}

/// What lists consist of.
pub(super) trait Row: Serialize {
    /// The columns of a table: fields, `a.b` for one in another.
    const COLUMNS: &'static [&'static str];

    /// Where the list goes on behind this one.
    fn cursor(&self) -> String;

    /// Whether it comes behind a cursor.
    fn is_behind(&self, cursor: &str) -> bool {
        self.cursor().as_str() > cursor
    }
}

/// Which part of a list, and how it is answered.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Page {
    /// At most so many, in `json` up to 1,000 a page; 100 when left out.
    limit: Option<usize>,
    /// Where to go on: as the `Link` of the page before says.
    after: Option<String>,
    /// `json` (a page), or all of it as `ndjson` or `csv`.
    #[param(inline)]
    format: Option<Format>,
}

/// Which part of a list is asked for, by whom, and how.
pub(super) struct Asked {
    caller: String,
    uri: Uri,
    format: Format,
    limit: Option<usize>,
    after: Option<String>,
}

impl<S: Send + Sync> FromRequestParts<S> for Asked {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let caller = Caller::from_request_parts(parts, state).await?;
        let Parameters(Page {
            limit,
            after,
            format,
        }) = Parameters::from_request_parts(parts, state).await?;
        if limit == Some(0) {
            let fix = "write 1 or more; of more than 1000 the rest comes on the next pages";
            return Err(Invalid::new("limit", 0, "nothing would come", fix).into());
        }
        Ok(Self {
            caller: caller.person(),
            uri: parts.uri.clone(),
            format: format.unwrap_or_default(),
            limit,
            after,
        })
    }
}

impl Asked {
    /// Where to go on.
    pub(super) fn after(&self) -> Option<&str> {
        self.after.as_deref()
    }

    /// Where to go on in a list that goes by numbers.
    pub(super) fn after_number(&self) -> Result<Option<u64>, Invalid> {
        let after = self.after.as_deref();
        after.map(|text| number("after", text)).transpose()
    }

    /// Whether a page is asked for, and not all of it.
    pub(super) fn is_page(&self) -> bool {
        self.format == Format::Json
    }

    /// Answers with a list that is not long: what `read` gives, in the order of its cursors.
    pub(super) async fn answer_of<T: Row + Send + 'static>(
        self,
        shared: Arc<Shared>,
        read: impl Fn(&Shared) -> anyhow::Result<Vec<T>> + Send + 'static,
    ) -> Result<Response, Problem> {
        let read = move |shared: &Shared, after: Option<&str>, most| {
            let rest = read(shared)?.into_iter();
            let behind = rest.filter(|one| after.is_none_or(|after| one.is_behind(after)));
            Ok(behind.take(most).collect())
        };
        self.answer(shared, read).await
    }

    /// Answers with what `read` gives: those behind a cursor, at most so many.
    pub(super) async fn answer<T: Row + Send + 'static>(
        self,
        shared: Arc<Shared>,
        read: impl Fn(&Shared, Option<&str>, usize) -> anyhow::Result<Vec<T>> + Send + 'static,
    ) -> Result<Response, Problem> {
        if self.format != Format::Json {
            return self.stream(shared, read);
        }
        let limit = self.limit.unwrap_or(LIMIT.1).min(LIMIT.0);
        let after = self.after;
        let mut found = blocking(shared, move |shared| {
            read(shared, after.as_deref(), limit + 1)
        })
        .await?;
        let more = found.len() > limit;
        found.truncate(limit);
        let last = found.last().filter(|_| more).map(Row::cursor);
        let mut response = axum::Json(found).into_response();
        if let Some(last) = last {
            let link = format!("<{}>; rel=\"next\"", next(&self.uri, &last));
            if let Ok(value) = HeaderValue::from_str(&link) {
                response.headers_mut().insert(header::LINK, value);
            }
        }
        Ok(response)
    }

    fn stream<T: Row + Send + 'static>(
        self,
        shared: Arc<Shared>,
        read: impl Fn(&Shared, Option<&str>, usize) -> anyhow::Result<Vec<T>> + Send + 'static,
    ) -> Result<Response, Problem> {
        let Self {
            caller,
            format,
            limit,
            mut after,
            ..
        } = self;
        stream(
            &Arc::clone(&shared),
            &caller,
            format,
            T::COLUMNS,
            move |lines| {
                let mut left = limit.unwrap_or(usize::MAX);
                while left > 0 {
                    let most = left.min(STEP);
                    let found = read(&shared, after.as_deref(), most)?;
                    left -= found.len();
                    if !found.iter().all(|one| lines.add(one)) || found.len() < most {
                        break;
                    }
                    after = found.last().map(Row::cursor);
                }
                Ok(())
            },
        )
    }
}

/// A slot for a long answer.
pub(crate) fn slot(shared: &Arc<Shared>, caller: &str) -> Result<Slot, Problem> {
    shared.readers.take(caller).ok_or_else(|| {
        let text = format!("too many long answers are read at once ({READERS} in all, a few for each caller); ask again when one of them is done");
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, text)
    })
}

/// A number in a path, or as a cursor.
pub(crate) fn number(field: &str, text: &str) -> Result<u64, Invalid> {
    // Nobody writes one in another way.
    let is_plain = text.len() <= 20 && (text == "0" || !text.starts_with(['0', '+']));
    text.parse().ok().filter(|_| is_plain).ok_or_else(|| {
        let fix = "write it like `12`";
        Invalid::new(field, text.escape_debug(), "not a number", fix)
    })
}

/// The address of the next page.
fn next(uri: &Uri, after: &str) -> String {
    let mut kept = pairs(uri.query());
    kept.retain(|(name, _)| name != "after");
    let mut url = reqwest::Url::parse("http://x/").expect("an address");
    url.query_pairs_mut()
        .extend_pairs(kept)
        .append_pair("after", after);
    format!("{}?{}", uri.path(), url.query().unwrap_or_default())
}

/// The parameters of an address, or of a form, as they were meant.
pub(crate) fn pairs(query: Option<&str>) -> Vec<(String, String)> {
    let mut url = reqwest::Url::parse("http://x/").expect("an address");
    url.set_query(query);
    let pairs = url.query_pairs();
    pairs
        .map(|(name, value)| (name.into_owned(), value.into_owned()))
        .collect()
}

/// Answers with the lines that `write` gives, however many; stops when nobody takes them. What fails on the way breaks the answer off, so that nobody
/// takes a part for the whole.
pub(super) fn stream(
    shared: &Arc<Shared>,
    caller: &str,
    format: Format,
    columns: &'static [&'static str],
    write: impl FnOnce(&mut Lines) -> anyhow::Result<()> + Send + 'static,
) -> Result<Response, Problem> {
    let reading = slot(shared, caller)?;
    let (send, receive) = mpsc::channel::<io::Result<Bytes>>(PARTS);
    let runtime = Handle::current();
    let metrics = Arc::clone(&shared.metrics);
    // Ends when all is read, or when the client goes away or takes nothing.
    tokio::task::spawn_blocking(move || {
        metrics.history_readers.inc();
        let mut lines = Lines {
            columns: (format == Format::Csv).then_some(columns),
            part: Vec::with_capacity(PART),
            send,
            runtime,
        };
        if let Some(columns) = lines.columns {
            lines.part.extend_from_slice(columns.join(",").as_bytes());
            lines.part.extend_from_slice(b"\r\n");
        }
        match write(&mut lines) {
            Ok(()) => {
                lines.flush();
            }
            Err(error) => {
                tracing::error!(error = %format!("{error:#}"), "a long answer broke off");
                lines.give(Err(io::Error::other("it broke off")));
            }
        }
        metrics.history_readers.dec();
        drop(reading);
    });
    let kind = match format {
        Format::Csv => "text/csv; charset=utf-8; header=present",
        Format::Json | Format::Ndjson => "application/x-ndjson",
    };
    let body = Body::from_stream(ReceiverStream::new(receive));
    Ok(([(header::CONTENT_TYPE, kind)], body).into_response())
}

/// The lines of an answer on their way.
pub(super) struct Lines {
    /// Of a table.
    columns: Option<&'static [&'static str]>,
    part: Vec<u8>,
    send: mpsc::Sender<io::Result<Bytes>>,
    runtime: Handle,
}

impl Lines {
    /// Adds one; `false` when nobody takes it any more.
    pub(super) fn add(&mut self, one: &impl Serialize) -> bool {
        match self.columns {
            None => {
                serde_json::to_writer(&mut self.part, one)
                    .expect("it is plain JSON, and memory takes it");
                self.part.push(b'\n');
            }
            Some(columns) => {
                let value = serde_json::to_value(one).expect("it is plain JSON");
                let cells = columns.iter().map(|column| cell(&value, column));
                let mut writer = csv::WriterBuilder::new()
                    .terminator(csv::Terminator::CRLF)
                    .from_writer(&mut self.part);
                writer
                    .write_record(cells)
                    .and_then(|()| writer.flush().map_err(Into::into))
                    .expect("memory takes it");
            }
        }
        self.part.len() < PART || self.flush()
    }

    fn flush(&mut self) -> bool {
        let part = std::mem::replace(&mut self.part, Vec::with_capacity(PART));
        part.is_empty() || self.give(Ok(part.into()))
    }

    fn give(&self, part: io::Result<Bytes>) -> bool {
        let sent = self.send.send_timeout(part, TAKEN_WITHIN);
        self.runtime.block_on(sent).is_ok()
    }
}

/// A text that a table program does not take for a formula.
pub(crate) fn plain(text: &str) -> String {
    if text.starts_with(['=', '+', '-', '@', '\t', '\r']) {
        return format!("'{text}");
    }
    text.to_owned()
}

/// A field as a cell of a table.
fn cell(value: &Value, column: &str) -> String {
    let found = column
        .split('.')
        .try_fold(value, |value, name| value.get(name));
    match found.unwrap_or(&Value::Null) {
        Value::Null => String::new(),
        Value::String(text) => plain(text),
        Value::Array(all) if all.iter().all(Value::is_string) => {
            let all: Vec<&str> = all.iter().filter_map(Value::as_str).collect();
            all.join(" ")
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_keeps_what_was_asked() {
        let uri: Uri = "/api/v1/offices?region=36&after=36.01.01&limit=2"
            .parse()
            .expect("an address");
        assert_eq!(
            next(&uri, "36.73.02 &"),
            "/api/v1/offices?region=36&limit=2&after=36.73.02+%26"
        );
        let bare: Uri = "/api/v1/offices".parse().expect("an address");
        assert_eq!(next(&bare, "x"), "/api/v1/offices?after=x");
    }

    #[test]
    fn a_cell_is_plain_and_no_formula() {
        let value = serde_json::json!({"a": {"b": -3}, "c": "=1+1", "d": ["x", "y"], "e": null, "f": [{"g": 1}], "h": true});
        let cells: Vec<String> = ["a.b", "c", "d", "e", "f", "h", "i"]
            .iter()
            .map(|column| cell(&value, column))
            .collect();
        assert_eq!(cells, ["-3", "'=1+1", "x y", "", "[{\"g\":1}]", "true", ""]);
    }
}
