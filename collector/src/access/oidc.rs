//! Logins by OpenID Connect: an identity provider (Keycloak, Entra, Google, …) says who somebody is, and the book what they may. Authorization code flow with PKCE, state and nonce
//! (OpenID Connect Core 1.0, 3.1); the library verifies the ID token.
//!
//! Nobody comes in who is not in the book: the name of a user there is what the provider says by one claim. What the provider's groups mean is so decided in one place, here.

use crate::alert::{Place, Token};
use anyhow::{Context, bail};
use denyut_proto::Invalid;
use openidconnect::core::{CoreAuthenticationFlow, CoreClient, CoreProviderMetadata};
use openidconnect::{
    AccessTokenHash, AuthorizationCode, ClientId, ClientSecret, CsrfToken, HttpRequest,
    HttpResponse, IssuerUrl, Nonce, OAuth2TokenResponse, PkceCodeChallenge, PkceCodeVerifier,
    RedirectUrl, Scope, TokenResponse,
};
use serde::Deserialize;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long somebody may take at the provider.
const WITHIN: Duration = Duration::from_secs(600);
/// Logins that may be under way.
const BEGUN_MOST: usize = 2_000;
/// How long what the provider said of itself, its keys among it, is taken for true.
const KNOWN_FOR: Duration = Duration::from_secs(3_600);
/// Bytes of an answer of the provider.
const ANSWER_MOST: usize = 1 << 20;

/// `[oidc]` as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct OidcSection {
    name: String,
    issuer: String,
    client_id: String,
    client_secret_file: Option<PathBuf>,
    claim: Option<Claim>,
    ca: Option<PathBuf>,
}

/// What a user's name is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Claim {
    PreferredUsername,
    /// One that the provider has verified.
    Email,
    Sub,
}

/// A provider.
#[derive(Debug)]
pub(crate) struct Oidc {
    /// What people call it.
    pub(crate) name: String,
    issuer: IssuerUrl,
    id: ClientId,
    secret: Option<ClientSecret>,
    claim: Claim,
    client: reqwest::Client,
    /// What it says of itself, and since when that is known.
    known: tokio::sync::Mutex<Option<(CoreProviderMetadata, Instant)>>,
    begun: Mutex<HashMap<String, Begun>>,
}

/// A login that is under way.
#[derive(Debug)]
struct Begun {
    nonce: Nonce,
    verifier: PkceCodeVerifier,
    /// Where somebody wanted to go.
    to: String,
    until: Instant,
}

/// A request that the provider did not answer.
#[derive(Debug, thiserror::Error)]
#[error("{0:#}")]
struct Unanswered(anyhow::Error);

impl OidcSection {
    pub(crate) fn read(self, at: &Place<'_>) -> anyhow::Result<Oidc> {
        let name = crate::plain::name(&at.field("name"), &self.name, 40)?;
        // It is no secret, as other addresses may be.
        let issuer = crate::alert::hook(&at.field("issuer"), &self.issuer);
        let issuer = issuer.map_err(|error| Invalid {
            value: self.issuer.clone(),
            ..error
        })?;
        if issuer.query().is_some() || issuer.fragment().is_some() {
            let fix = "write it as the provider does, without a query";
            return Err(at.invalid("issuer", self.issuer, "not an issuer", fix));
        }
        if self.client_id.trim().is_empty() {
            let fix = "write what the provider calls this collector";
            return Err(Invalid::new(at.field("client_id"), "", "empty", fix).into());
        }
        let secret = at.maybe_token("client_secret_file", self.client_secret_file.as_deref())?;
        Ok(Oidc {
            name,
            client: at.plain_client("ca", self.ca, &issuer)?,
            // As it is written: the provider's own word must be the same to the letter.
            issuer: IssuerUrl::new(self.issuer.trim().to_owned())?,
            id: ClientId::new(self.client_id.trim().to_owned()),
            secret: secret.map(|secret: Token| ClientSecret::new(secret.show().to_owned())),
            claim: self.claim.unwrap_or(Claim::PreferredUsername),
            known: tokio::sync::Mutex::default(),
            begun: Mutex::default(),
        })
    }
}

/// Asks the provider.
async fn ask(client: reqwest::Client, request: HttpRequest) -> Result<HttpResponse, Unanswered> {
    fetch(client, request).await.map_err(Unanswered)
}

async fn fetch(client: reqwest::Client, request: HttpRequest) -> anyhow::Result<HttpResponse> {
    let (parts, body) = request.into_parts();
    let sent = client
        .request(parts.method, parts.uri.to_string())
        .headers(parts.headers)
        .body(body)
        .send();
    let mut answer = sent.await.map_err(reqwest::Error::without_url)?;
    let (status, headers) = (answer.status(), answer.headers().clone());
    let mut body = Vec::new();
    while let Some(part) = answer.chunk().await.map_err(reqwest::Error::without_url)? {
        body.extend_from_slice(&part);
        if body.len() > ANSWER_MOST {
            bail!("an answer of more than {ANSWER_MOST} bytes");
        }
    }
    let mut response = HttpResponse::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    Ok(response)
}

impl Oidc {
    pub(crate) fn issuer(&self) -> &str {
        self.issuer.as_str()
    }

    /// What the provider says of itself, asked for anew after an hour.
    async fn metadata(&self) -> anyhow::Result<CoreProviderMetadata> {
        let mut known = self.known.lock().await;
        if let Some((metadata, since)) = known.as_ref()
            && since.elapsed() < KNOWN_FOR
        {
            return Ok(metadata.clone());
        }
        let client_of = self.client.clone();
        let send = move |request| ask(client_of.clone(), request);
        let found = CoreProviderMetadata::discover_async(self.issuer.clone(), &send).await;
        let found = found.context("the provider does not say what it is")?;
        *known = Some((found.clone(), Instant::now()));
        Ok(found)
    }

    /// Where somebody says to the provider who they are, and what this login is known by; `back` is where they come back to.
    pub(crate) async fn begin(&self, back: &str, to: &str) -> anyhow::Result<(String, String)> {
        let client = CoreClient::from_provider_metadata(
            self.metadata().await?,
            self.id.clone(),
            self.secret.clone(),
        )
        .set_redirect_uri(RedirectUrl::new(back.to_owned())?);
        let (challenge, verifier) = PkceCodeChallenge::new_random_sha256();
        let scope = match self.claim {
            Claim::Email => "email",
            Claim::PreferredUsername | Claim::Sub => "profile",
        };
        let (url, state, nonce) = client
            .authorize_url(
                CoreAuthenticationFlow::AuthorizationCode,
                CsrfToken::new_random,
                Nonce::new_random,
            )
            .add_scope(Scope::new(scope.to_owned()))
            .set_pkce_challenge(challenge)
            .url();
        let state = state.secret().clone();
        let now = Instant::now();
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        begun.retain(|_, one| one.until > now);
        if begun.len() >= BEGUN_MOST {
            bail!("{BEGUN_MOST} logins are under way");
        }
        begun.insert(
            state.clone(),
            Begun {
                nonce,
                verifier,
                to: to.to_owned(),
                until: now + WITHIN,
            },
        );
        Ok((url.to_string(), state))
    }

    /// Who came back, and where they wanted to go. Each login can come back once.
    pub(crate) async fn finish(
        &self,
        back: &str,
        state: &str,
        code: &str,
    ) -> anyhow::Result<(String, String)> {
        let begun = {
            let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
            begun.remove(state)
        };
        let begun = begun.filter(|one| one.until > Instant::now());
        let begun = begun.context("no such login is under way")?;
        let client = CoreClient::from_provider_metadata(
            self.metadata().await?,
            self.id.clone(),
            self.secret.clone(),
        )
        .set_redirect_uri(RedirectUrl::new(back.to_owned())?);
        let client_of = self.client.clone();
        let send = move |request| ask(client_of.clone(), request);
        let answer = client
            .exchange_code(AuthorizationCode::new(code.to_owned()))?
            .set_pkce_verifier(begun.verifier)
            .request_async(&send)
            .await
            .context("the provider does not take the code")?;
        let token = answer.id_token().context("the provider gave no ID token")?;
        let verifier = client.id_token_verifier();
        let claims = token.claims(&verifier, &begun.nonce);
        if claims.is_err() {
            // It may have new keys by now: the next login asks for them.
            *self.known.lock().await = None;
        }
        let claims = claims.context("the ID token is not right")?;
        if let Some(expected) = claims.access_token_hash() {
            let found = AccessTokenHash::from_token(
                answer.access_token(),
                token.signing_alg()?,
                token.signing_key(&verifier)?,
            )?;
            if found != *expected {
                bail!("the access token is another's");
            }
        }
        let name = match self.claim {
            Claim::Sub => Some(claims.subject().as_str()),
            Claim::PreferredUsername => claims.preferred_username().map(|name| name.as_str()),
            Claim::Email => {
                let is_verified = claims.email_verified() == Some(true);
                claims
                    .email()
                    .filter(|_| is_verified)
                    .map(|email| email.as_str())
            }
        };
        let name = name.context("the ID token does not hold the claim that is the user's name (or an e-mail address that is not verified)")?;
        Ok((name.trim().to_lowercase(), begun.to))
    }
}
