//! One request for each message: the JSON of Alertmanager's webhooks, version 4, signed as the Standard Webhooks are.

use super::http;
use super::{Message, Sent, Undelivered};
use anyhow::{Context, bail};
use base64::prelude::{BASE64_STANDARD, Engine};
use denyut_proto::UnixMillis;
use reqwest::{Url, header};
use ring::hmac;
use serde_json::{Value, json};
use std::fmt;

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

impl Webhook {
    /// Asks for its address, and nothing else; an error is for people.
    pub(crate) async fn knock(&self) -> Result<(), String> {
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
        message: &Message,
        now: UnixMillis,
    ) -> Result<Sent, Undelivered> {
        let seconds = now.0.div_euclid(1_000);
        let body = body(message).to_string();
        let mut request = self
            .client
            .post(self.url.clone())
            .header(header::CONTENT_TYPE, "application/json")
            .header("webhook-id", &message.id)
            .header("webhook-timestamp", seconds);
        if let Some(secret) = &self.secret {
            let signature = secret.sign(&message.id, seconds, &body);
            request = request.header("webhook-signature", signature);
        }
        let answer = http::ask(request.body(body), now).await?;
        let secrets = http::secrets_of(&self.url);
        let secrets: Vec<&str> = secrets.iter().map(String::as_str).collect();
        answer.judge(&secrets).map(http::taken)
    }
}

/// What Alertmanager would send.
pub(super) fn body(message: &Message) -> Value {
    let notice = &message.notice;
    let together = notice.together.join(", ");
    json!({
        "version": "4",
        "groupKey": format!("{} {together}", message.receiver),
        "truncatedAlerts": notice.omitted,
        "status": if notice.firing { "firing" } else { "resolved" },
        "receiver": message.receiver,
        "groupLabels": { "together": together },
        "commonLabels": { "alertname": "denyut" },
        "commonAnnotations": { "summary": notice.title, "text": notice.text },
        "externalURL": notice.link.clone().unwrap_or_default(),
        "alerts": notice.alerts,
    })
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
