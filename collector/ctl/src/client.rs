//! Asking the collector.

use crate::arguments::Collector;
use anyhow::{Context, bail};
use reqwest::{Method, Response, StatusCode, header};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use serde_json::Value;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A collector that is just starting is waited for.
const STARTS_WITHIN: Duration = Duration::from_secs(10);
const TOLD_AFTER: Duration = Duration::from_secs(1);

/// A collector, and who asks it.
pub(crate) struct Client {
    http: reqwest::Client,
    base: String,
    token: Option<String>,
    by: Option<String>,
    /// It is asked through its socket.
    socket: Option<String>,
    /// It is waited for.
    waits: bool,
}

impl Client {
    /// The same, but nobody waits for a collector that starts.
    pub(crate) fn at_once(self) -> Self {
        Self {
            waits: false,
            ..self
        }
    }

    pub(crate) fn new(asked: &Collector) -> anyhow::Result<Self> {
        let builder = reqwest::Client::builder()
            .tls_backend_preconfigured(tls(asked.ca.as_deref())?)
            .connect_timeout(Duration::from_secs(10))
            .read_timeout(Duration::from_secs(60))
            .user_agent(concat!("denyutctl/", env!("CARGO_PKG_VERSION")));
        let Some(address) = &asked.address else {
            let by = asked.by.clone().or_else(|| {
                ["SUDO_USER", "USER"]
                    .iter()
                    .find_map(|name| std::env::var(name).ok())
            });
            return Ok(Self {
                http: builder.unix_socket(asked.socket.as_path()).build()?,
                base: "http://localhost".to_owned(),
                token: None,
                by,
                socket: Some(asked.socket.display().to_string()),
                waits: asked.socket.parent().is_some_and(Path::is_dir),
            });
        };
        let url: reqwest::Url = address.parse().with_context(|| {
            format!(
                "`--address` = `{address}`: not an address; write it like `https://denyut.example`"
            )
        })?;
        let is_here = url
            .host_str()
            .is_some_and(|host| matches!(host, "localhost" | "127.0.0.1" | "[::1]"));
        if url.scheme() != "https" && !(url.scheme() == "http" && is_here) {
            bail!(
                "`--address` = `{address}`: a token goes over https only; write it like `https://denyut.example`"
            );
        }
        let token = match &asked.token_file {
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .with_context(|| format!("cannot read the token from {}", path.display()))?;
                Some(text.trim().to_owned())
            }
            None => std::env::var("DENYUT_TOKEN").ok(),
        };
        if token.is_none() {
            bail!(
                "the collector at {address} asks for a token: set DENYUT_TOKEN, or name its file by `--token-file`"
            );
        }
        Ok(Self {
            http: builder.build()?,
            base: address.trim_end_matches('/').to_owned(),
            token,
            by: None,
            socket: None,
            waits: false,
        })
    }

    /// Asks; what is no success is an error in the collector's words.
    pub(crate) async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        headers: &[(header::HeaderName, &str)],
    ) -> anyhow::Result<Response> {
        let began = Instant::now();
        let mut told = false;
        let answer = loop {
            let mut request = self
                .http
                .request(method.clone(), format!("{}{path}", self.base));
            if let Some(token) = &self.token {
                request = request.bearer_auth(token);
            }
            if let Some(by) = &self.by {
                request = request.header("denyut-by", by.as_bytes());
            }
            for (name, value) in headers {
                request = request.header(name, *value);
            }
            if let Some(body) = body {
                request = request.json(body);
            }
            match request.send().await {
                // It claims its data before it listens.
                Err(error)
                    if self.waits && is_starting(&error) && began.elapsed() < STARTS_WITHIN =>
                {
                    if !told && began.elapsed() > TOLD_AFTER {
                        eprintln!("Waiting for the collector …");
                        told = true;
                    }
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                Err(error) if error.is_builder() => {
                    bail!(
                        "the token, or `--by`, holds what no header can: write plain text in one line"
                    )
                }
                other => break other,
            }
        };
        let answer = answer.with_context(|| match &self.socket {
            Some(socket) => format!("no collector answers at {socket}: does it run, and may you open that (as root, or as its user)? If its data folder is another, name `--socket`; for another machine's, `--address`"),
            None => format!("no collector answers at {}", self.base),
        })?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let text = answer.text().await.unwrap_or_default();
        let problem: Value = serde_json::from_str(&text).unwrap_or_default();
        match problem["detail"].as_str() {
            Some(detail) => bail!("{detail}"),
            None if status == StatusCode::UNAUTHORIZED => {
                bail!("the collector, or what stands before it, does not know the token")
            }
            None => bail!(
                "{} answers {status}: is that a denyut collector?",
                self.base
            ),
        }
    }

    /// The JSON of an answer.
    pub(crate) async fn json(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<Value> {
        let answer = self.ask(method, path, body, &[]).await?;
        let text = answer.text().await;
        let text = text.context("the collector broke its answer off")?;
        if text.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_str(&text).context("the collector answered no JSON")
    }

    pub(crate) async fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.json(Method::GET, path, None).await
    }

    /// All items of a list, page by page; at most so many.
    pub(crate) async fn list(
        &self,
        path: &str,
        pairs: &[(&str, Option<&str>)],
        most: usize,
    ) -> anyhow::Result<Vec<Value>> {
        let limit = most.min(1_000).to_string();
        let pairs = [pairs, &[("limit", Some(limit.as_str()))]].concat();
        let mut next = Some(path_of(path, &pairs));
        let mut all = Vec::new();
        while let Some(path) = next.take() {
            let answer = self.ask(Method::GET, &path, None, &[]).await?;
            let link = answer
                .headers()
                .get(header::LINK)
                .and_then(|value| value.to_str().ok());
            next =
                link.and_then(|link| Some(link.strip_prefix('<')?.split_once('>')?.0.to_owned()));
            let page: Vec<Value> = answer
                .json()
                .await
                .context("the collector broke its answer off")?;
            all.extend(page);
            if all.len() >= most {
                all.truncate(most);
                break;
            }
        }
        Ok(all)
    }
}

/// Whether nobody listens at the socket, though it may be that somebody will.
fn is_starting(error: &reqwest::Error) -> bool {
    let mut cause = std::error::Error::source(error);
    while let Some(one) = cause {
        if let Some(error) = one.downcast_ref::<std::io::Error>() {
            return matches!(
                error.kind(),
                ErrorKind::NotFound | ErrorKind::ConnectionRefused
            );
        }
        cause = one.source();
    }
    false
}

/// A path with the parameters that are there.
pub(crate) fn path_of(path: &str, pairs: &[(&str, Option<&str>)]) -> String {
    let mut url = reqwest::Url::parse("http://x/").expect("an address");
    for (name, value) in pairs {
        if let Some(value) = value {
            url.query_pairs_mut().append_pair(name, value);
        }
    }
    url.query()
        .map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"))
}

/// A part of a path.
pub(crate) fn part(text: &str) -> String {
    let mut url = reqwest::Url::parse("http://x/").expect("an address");
    if let Ok(mut parts) = url.path_segments_mut() {
        parts.clear().push(text);
    }
    url.path().trim_start_matches('/').to_owned()
}

fn tls(ca: Option<&Path>) -> anyhow::Result<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore {
        roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
    };
    if let Some(path) = ca {
        let cannot = || format!("cannot read certificates from {}", path.display());
        let before = roots.len();
        for certificate in CertificateDer::pem_file_iter(path).with_context(cannot)? {
            roots
                .add(certificate.with_context(cannot)?)
                .with_context(cannot)?;
        }
        if roots.len() == before {
            bail!("{} holds no PEM certificate", path.display());
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?;
    Ok(tls.with_root_certificates(roots).with_no_client_auth())
}
