//! One request for each message: the JSON of Alertmanager's webhooks, version 4, signed as the Standard Webhooks are.

use anyhow::{Context, bail};
use base64::prelude::{BASE64_STANDARD, Engine};
use denyut_proto::UnixMillis;
use reqwest::{StatusCode, Url, header};
use ring::hmac;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// How long an answer may take.
const WITHIN: Duration = Duration::from_secs(20);
/// As much of an answer is read, to tell why it is no good one.
const ANSWER_MAX: usize = 1_024;

/// Where messages go, and what they are signed with.
#[derive(Clone)]
pub(crate) struct Webhook {
    pub(crate) url: Url,
    pub(crate) secret: Option<Secret>,
    pub(crate) client: reqwest::Client,
}

impl fmt::Debug for Webhook {
    /// Without what may be a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Webhook({})", self.url.host_str().unwrap_or_default())
    }
}

/// What messages are signed with.
#[derive(Clone)]
pub(crate) struct Secret(hmac::Key);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl Secret {
    /// Bytes of a secret, at least and at most.
    const BYTES: std::ops::RangeInclusive<usize> = 16..=64;

    /// Reads what is in a file: `whsec_` and base64, or text.
    pub(crate) fn read(text: &str) -> anyhow::Result<Self> {
        let text = text.trim();
        let bytes = match text.strip_prefix("whsec_") {
            Some(rest) => BASE64_STANDARD
                .decode(rest)
                .context("not base64 behind `whsec_`")?,
            None => text.as_bytes().to_vec(),
        };
        if !Self::BYTES.contains(&bytes.len()) {
            bail!("a secret has 16 to 64 bytes; make one with `openssl rand -hex 24`");
        }
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, &bytes)))
    }

    fn sign(&self, id: &str, seconds: i64, body: &str) -> String {
        let signed = format!("{id}.{seconds}.{body}");
        let tag = hmac::sign(&self.0, signed.as_bytes());
        format!("v1,{}", BASE64_STANDARD.encode(tag.as_ref()))
    }
}

/// Why a message did not arrive.
#[derive(Debug)]
pub(super) enum Undelivered {
    /// It may the next time; and not before this long, if the receiver said so.
    Later(String, Option<Duration>),
    /// It will not.
    Never(String),
}

/// A client that trusts the public authorities, and those in a PEM file.
pub(crate) fn client(ca: Option<&Path>) -> anyhow::Result<reqwest::Client> {
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
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .redirect(reqwest::redirect::Policy::none())
        .timeout(WITHIN)
        .user_agent(concat!("denyut-collector/", env!("CARGO_PKG_VERSION")))
        .build()
        .context("cannot make the HTTP client")
}

impl Webhook {
    /// A receiver's words, without what they repeat of its address: chats put their keys there.
    fn without_address(&self, said: &str) -> String {
        let segments = self.url.path_segments().into_iter().flatten();
        let query = self.url.query_pairs();
        let query: Vec<String> = query.map(|(_, value)| value.into_owned()).collect();
        let parts = segments.chain(query.iter().map(String::as_str));
        let secret = parts.filter(|part| part.len() >= 4);
        secret.fold(said.to_owned(), |said, part| said.replace(part, "…"))
    }

    /// Asks for its address, and nothing else; an error is for people.
    pub(super) async fn knock(&self) -> Result<(), String> {
        let answer = self.client.get(self.url.clone()).send().await;
        let answer =
            answer.map_err(|error| format!("{:#}", anyhow::Error::new(error.without_url())))?;
        if answer.status().is_success() {
            Ok(())
        } else {
            Err(answer.status().to_string())
        }
    }

    /// Sends a message once. Its id is the same each time it is sent.
    pub(super) async fn send(
        &self,
        id: &str,
        body: &str,
        now: UnixMillis,
    ) -> Result<(), Undelivered> {
        let seconds = now.0.div_euclid(1_000);
        let mut request = self
            .client
            .post(self.url.clone())
            .header(header::CONTENT_TYPE, "application/json")
            .header("webhook-id", id)
            .header("webhook-timestamp", seconds);
        if let Some(secret) = &self.secret {
            request = request.header("webhook-signature", secret.sign(id, seconds, body));
        }
        let sent = request.body(body.to_owned()).send().await;
        // Where it goes is in the log of who keeps the receiver, and may hold a key: not in ours.
        let mut answer = sent.map_err(|error| {
            Undelivered::Later(
                format!("{:#}", anyhow::Error::new(error.without_url())),
                None,
            )
        })?;
        let status = answer.status();
        if status.is_success() {
            return Ok(());
        }
        let wait = answer
            .headers()
            .get(header::RETRY_AFTER)
            .and_then(|value| value.to_str().ok()?.parse().ok())
            .map(Duration::from_secs);
        let mut said = Vec::new();
        while said.len() < ANSWER_MAX
            && let Ok(Some(part)) = answer.chunk().await
        {
            said.extend_from_slice(&part);
        }
        said.truncate(ANSWER_MAX);
        let said = String::from_utf8_lossy(&said);
        let said = self.without_address(&said);
        let said: String = said.chars().filter(|c| !c.is_control()).take(200).collect();
        let why = format!("{status}: {said}");
        // What is wrong with this message stays so; what is wrong on the way to the receiver is mended some day.
        let is_refused = matches!(
            status,
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
            Undelivered::Later(why, wait)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the Standard Webhooks' reference libraries.
    #[test]
    fn it_is_signed_as_the_standard_says() {
        let secret = Secret::read("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n").expect("a secret");
        let signed = secret.sign(
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            r#"{"test": 2432232314}"#,
        );
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        assert_eq!(format!("{secret:?}"), "Secret");
        for wrong in ["", "short", "whsec_!!", &"x".repeat(65)] {
            assert!(Secret::read(wrong).is_err(), "{wrong}");
        }
    }
}
