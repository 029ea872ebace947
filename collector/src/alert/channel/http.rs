//! What all receivers have in common that are reached by HTTP.

use super::{Sent, Undelivered};
use anyhow::{Context, bail};
use denyut_proto::UnixMillis;
use reqwest::{StatusCode, Url, header};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// How long an answer may take.
const WITHIN: Duration = Duration::from_secs(20);
/// As much of an answer is read.
const ANSWER_MAX: usize = 128 << 10;
/// As much of it is shown, to tell why it is no good one.
const SHOWN_MAX: usize = 200;

/// A client that trusts the public authorities, and those in a PEM file. `here`: for what is on this machine, which no proxy need carry.
pub(crate) fn client(ca: Option<&Path>, here: bool) -> anyhow::Result<reqwest::Client> {
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    let mut roots = rustls::RootCertStore {
        roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
    };
    if let Some(path) = ca {
        let cannot = || format!("cannot read certificates from {}", path.display());
        let before = roots.len();
        for certificate in CertificateDer::pem_file_iter(path).with_context(cannot)? {
            let certificate = certificate.with_context(cannot)?;
            roots.add(certificate).with_context(cannot)?;
        }
        if roots.len() == before {
            bail!("{} holds no PEM certificate", path.display());
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let client = reqwest::Client::builder();
    let client = if here { client.no_proxy() } else { client };
    client
        .tls_backend_preconfigured(tls)
        .redirect(reqwest::redirect::Policy::none())
        .timeout(WITHIN)
        .user_agent(concat!("denyut-collector/", env!("CARGO_PKG_VERSION")))
        .build()
        .context("cannot make the HTTP client")
}

/// What a receiver answered.
pub(crate) struct Answer {
    pub(super) status: StatusCode,
    /// How long it wants to be left alone.
    pub(super) wait: Option<Duration>,
    pub(super) body: String,
}

/// Sends a request once. Where it goes may hold a key, as chats put it there: no error tells it.
pub(crate) async fn ask(
    request: reqwest::RequestBuilder,
    now: UnixMillis,
) -> Result<Answer, Undelivered> {
    let mut answer = request.send().await.map_err(|error| {
        let why = format!("{:#}", anyhow::Error::new(error.without_url()));
        Undelivered::Later(why, None)
    })?;
    let status = answer.status();
    let wait = answer.headers().get(header::RETRY_AFTER);
    let wait = wait.and_then(|value| retry_after(value.to_str().ok()?, now));
    let mut body = Vec::new();
    while body.len() < ANSWER_MAX {
        match answer.chunk().await {
            Ok(Some(part)) => body.extend_from_slice(&part),
            Ok(None) => break,
            // It said whether it took the message; the rest does not matter.
            Err(_) if !status.is_success() => break,
            Err(error) => {
                let why = format!("{:#}", anyhow::Error::new(error.without_url()));
                return Err(Undelivered::Later(why, None));
            }
        }
    }
    body.truncate(ANSWER_MAX);
    let body = String::from_utf8_lossy(&body).into_owned();
    Ok(Answer { status, wait, body })
}

/// Seconds, or a date (RFC 9110, 10.2.3).
fn retry_after(text: &str, now: UnixMillis) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = jiff::fmt::rfc2822::parse(text.trim()).ok()?;
    Some(UnixMillis(at.timestamp().as_millisecond()).since(now))
}

impl Answer {
    /// Whether the message was taken, by the status alone; `secrets` are not shown in what is said of it.
    pub(crate) fn judge(self, secrets: &[&str]) -> Result<Answer, Undelivered> {
        if self.status.is_success() {
            return Ok(self);
        }
        let why = self.why(&self.body, secrets);
        // What is wrong with this message stays so; what is wrong on the way to the receiver is mended some day.
        let is_refused = matches!(
            self.status,
            StatusCode::BAD_REQUEST
                | StatusCode::METHOD_NOT_ALLOWED
                | StatusCode::NOT_ACCEPTABLE
                | StatusCode::LENGTH_REQUIRED
                | StatusCode::PAYLOAD_TOO_LARGE
                | StatusCode::UNSUPPORTED_MEDIA_TYPE
                | StatusCode::UNPROCESSABLE_ENTITY
        );
        Err(if is_refused {
            Undelivered::Never(why)
        } else {
            Undelivered::Later(why, self.wait)
        })
    }

    /// Why it is no good one, for people: the status, and what was said.
    pub(super) fn why(&self, said: &str, secrets: &[&str]) -> String {
        let secrets = secrets.iter().filter(|secret| secret.len() >= 4);
        let said = secrets.fold(said.to_owned(), |said, secret| {
            // As it is, and as some write it in JSON.
            let said = said.replace(secret, "…");
            said.replace(&secret.replace('/', "\\/"), "…")
        });
        let said: String = said
            .chars()
            .filter(|c| !c.is_control())
            .take(SHOWN_MAX)
            .collect();
        format!("{}: {said}", self.status)
    }
}

/// The parts of an address that may be a secret.
pub(super) fn secrets_of(url: &Url) -> Vec<String> {
    let segments = url.path_segments().into_iter().flatten();
    let query = url.query_pairs().map(|(_, value)| value.into_owned());
    segments.map(str::to_owned).chain(query).collect()
}

/// Nothing is known of what was made there.
pub(super) fn taken(_: Answer) -> Sent {
    Sent::default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receiver_may_say_how_long_in_seconds_or_by_a_date() {
        let now = UnixMillis(1_445_412_420_000);
        for (text, seconds) in [
            ("120", Some(120)),
            (" 0 ", Some(0)),
            ("Wed, 21 Oct 2015 07:28:00 GMT", Some(60)),
            // It is over.
            ("Wed, 21 Oct 2015 07:20:00 GMT", Some(0)),
            ("soon", None),
            ("-1", None),
        ] {
            let wait = retry_after(text, now);
            assert_eq!(wait, seconds.map(Duration::from_secs), "{text}");
        }
    }

    #[test]
    fn no_secret_is_shown() {
        let answer = Answer {
            status: StatusCode::BAD_REQUEST,
            wait: None,
            body: "no webhook T0/abcdef\u{1}".to_owned(),
        };
        let url: Url = "https://hooks.example/T0/abcdef?key=xyz"
            .parse()
            .expect("a URL");
        let secrets = secrets_of(&url);
        assert_eq!(secrets, ["T0", "abcdef", "xyz"]);
        let secrets: Vec<&str> = secrets.iter().map(String::as_str).collect();
        let Err(Undelivered::Never(why)) = answer.judge(&secrets) else {
            panic!("it is refused")
        };
        assert_eq!(why, "400 Bad Request: no webhook T0/…");
    }
}
