//! Mail by SMTP.

use super::{Message, Sent, Thread, Token, Undelivered};
use denyut_proto::UnixMillis;
use lettre::address::Envelope;
use lettre::message::Mailbox;
use lettre::message::header::{ContentType, Header, HeaderName, HeaderValue};
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, CertificateStore, Tls, TlsParameters};
use lettre::{AsyncSmtpTransport, AsyncTransport, Tokio1Executor};
use std::collections::BTreeSet;
use std::error::Error as _;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tracing::warn;

/// How long the server may take.
const WITHIN: Duration = Duration::from_secs(30);
/// How long a message that some have waits for the others.
const WAITS: Duration = Duration::from_secs(1_800);

/// A server, and whom it carries mail to.
#[derive(Clone)]
pub(crate) struct Mail {
    pub(crate) from: Mailbox,
    pub(crate) to: Vec<Mailbox>,
    /// Who has the message that not all have yet.
    pub(crate) given: Arc<Mutex<(String, BTreeSet<usize>)>>,
    pub(crate) transport: AsyncSmtpTransport<Tokio1Executor>,
}

impl fmt::Debug for Mail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mail")
    }
}

/// Where and how to hand mail in.
pub(crate) struct Server<'a> {
    pub(crate) host: &'a str,
    pub(crate) port: u16,
    pub(crate) security: Security,
    /// Name and password.
    pub(crate) login: Option<(String, Token)>,
    /// Authorities to trust beside the public ones.
    pub(crate) ca: Option<&'a Path>,
}

/// How the way to the server is kept secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Security {
    /// Not at all: on loopback only.
    Plain,
    /// The server must offer STARTTLS.
    StartTls,
    /// TLS from the first byte.
    Tls,
}

impl Server<'_> {
    pub(crate) fn transport(self) -> anyhow::Result<AsyncSmtpTransport<Tokio1Executor>> {
        use anyhow::Context;
        let tls = || -> anyhow::Result<TlsParameters> {
            let mut tls = TlsParameters::builder(self.host.to_owned())
                .certificate_store(CertificateStore::WebpkiRoots);
            if let Some(path) = self.ca {
                let cannot = || format!("cannot read certificates from {}", path.display());
                let pem = std::fs::read(path).with_context(cannot)?;
                tls = tls.add_root_certificate(Certificate::from_pem(&pem).with_context(cannot)?);
            }
            tls.build_rustls().context("cannot set up TLS")
        };
        let security = match self.security {
            Security::Plain => Tls::None,
            Security::StartTls => Tls::Required(tls()?),
            Security::Tls => Tls::Wrapper(tls()?),
        };
        let mut builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(self.host)
            .port(self.port)
            .tls(security)
            .timeout(Some(WITHIN));
        if let Some((name, password)) = self.login {
            let credentials = Credentials::new(name, password.show().to_owned());
            builder = builder.credentials(credentials);
        }
        Ok(builder.build())
    }
}

/// Says that a program wrote it: nobody's holiday notice need answer (RFC 3834).
#[derive(Clone)]
struct AutoSubmitted;

impl Header for AutoSubmitted {
    fn name() -> HeaderName {
        HeaderName::new_from_ascii_str("Auto-Submitted")
    }

    fn parse(_: &str) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        Ok(Self)
    }

    fn display(&self) -> HeaderValue {
        HeaderValue::new(Self::name(), "auto-generated".to_owned())
    }
}

impl Mail {
    /// Sends a message once. Its `Message-ID` is the same each time; what follows the first one of an incident answers that.
    pub(super) async fn send(
        &self,
        message: &Message,
        thread: Option<&Thread>,
        now: UnixMillis,
    ) -> Result<Sent, Undelivered> {
        let never = |error: &dyn fmt::Display| Undelivered::Never(format!("{error:#}"));
        let notice = &message.notice;
        let id = format!("<{}@{}>", message.id, self.from.email.domain());
        let date = std::time::UNIX_EPOCH + Duration::from_millis(now.0.unsigned_abs());
        let mut mail = lettre::Message::builder()
            .from(self.from.clone())
            .subject(&notice.title)
            .date(date)
            .message_id(Some(id.clone()))
            .header(AutoSubmitted)
            .header(ContentType::TEXT_PLAIN);
        for to in &self.to {
            mail = mail.to(to.clone());
        }
        if let Some(first) = thread {
            mail = mail
                .in_reply_to(first.handle.clone())
                .references(first.handle.clone());
        }
        let mail = mail
            .body(notice.text.clone())
            .map_err(|error| never(&error))?;
        let bytes = mail.formatted();
        // One after the other: a mailbox that is no more does not keep it from the others.
        let mut refused: Option<Undelivered> = None;
        for (at, to) in self.to.iter().enumerate() {
            if self.has(&message.id, at) {
                continue;
            }
            let envelope = Envelope::new(Some(self.from.email.clone()), vec![to.email.clone()]);
            let envelope = envelope.map_err(|error| never(&error))?;
            match self.transport.send_raw(&envelope, &bytes).await {
                Ok(_) => self.note(&message.id, at),
                Err(error) => {
                    let why = refusal(&error);
                    warn!(receiver = message.receiver, to = %to.email, error = %why, "a mail was not taken");
                    let is_away = error.status().is_none();
                    // It waits for who may take it, and is in vain only if nobody does.
                    if refused.is_none() || matches!(why, Undelivered::Later(..)) {
                        refused = Some(why);
                    }
                    if is_away {
                        // The server itself: the others would wait for it as long.
                        break;
                    }
                }
            }
        }
        match refused {
            Some(Undelivered::Never(_)) if self.is_given(&message.id) => {}
            // One full mailbox keeps the next message from nobody.
            Some(_) if self.is_given(&message.id) && now.since(message.made_ms) >= WAITS => {}
            Some(why) => return Err(why),
            None => {}
        }
        Ok(Sent { handle: Some(id) })
    }

    fn has(&self, id: &str, at: usize) -> bool {
        let given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        given.0 == id && given.1.contains(&at)
    }

    fn note(&self, id: &str, at: usize) {
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        if given.0 != id {
            *given = (id.to_owned(), BTreeSet::new());
        }
        given.1.insert(at);
    }

    /// Whether anybody has it.
    fn is_given(&self, id: &str) -> bool {
        let given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        given.0 == id && !given.1.is_empty()
    }
}

/// Why a mail was not taken.
fn refusal(error: &lettre::transport::smtp::Error) -> Undelivered {
    let mut why = error.to_string();
    if let Some(source) = error.source() {
        why = format!("{why}: {source}");
    }
    let why: String = why.chars().filter(|c| !c.is_control()).take(300).collect();
    // A login that is refused is the configuration's fault, and mended some day.
    let is_login = error
        .status()
        .is_some_and(|code| matches!(u16::from(code), 530..=538));
    if error.is_permanent() && !is_login {
        Undelivered::Never(why)
    } else {
        Undelivered::Later(why, None)
    }
}
