//! Users, their sessions, and the tokens of programs.
//!
//! All of it lies in the state and is on the disk before anybody is told; what is asked with every request is kept in memory, too. Of a secret only
//! its digest is kept, of a password its hash.

use super::password;
use super::{Caller, Regions, Role, Scope, Via};
use crate::join::Fingerprint;
use crate::keys;
use anyhow::Context;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use denyut_proto::{Invalid, UnixMillis};
use denyut_store::state::{Change, State, scan_json};
use rand::TryRngCore;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;
use utoipa::ToSchema;

/// Users and tokens, at most.
const USERS_MOST: usize = 10_000;
const TOKENS_MOST: usize = 10_000;
/// Tokens of a user, at most.
const TOKENS_EACH: usize = 50;
/// What is over and goes with a change, at most: a change has a bound.
const OVER_AT_ONCE: usize = 200;
/// Sessions of a user, at most; the one that was not used for longest goes first.
const SESSIONS_MOST: usize = 20;
/// A session ends so long after its login, or when it was not used for so long.
const SESSION_LASTS: Duration = Duration::from_secs(30 * 86_400);
const SESSION_IDLE: Duration = Duration::from_secs(7 * 86_400);
/// That it is used is written so often.
const SEEN_EVERY: Duration = Duration::from_secs(3_600);
/// How long a link to choose a password by is good.
const WELCOME_LASTS: Duration = Duration::from_secs(72 * 3_600);
/// What a token begins with, so that people and programs that find one know what it is.
const TOKEN_PREFIX: &str = "denyut_";
/// How long a token may be good.
const TOKEN_LASTS: (Duration, Duration) = (
    Duration::from_secs(60),
    Duration::from_secs(5 * 366 * 86_400),
);
/// Characters of a name.
const NAME_MOST: usize = 40;

/// A user as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct User {
    full_name: Option<String>,
    role: Role,
    regions: Regions,
    created: UnixMillis,
    /// Argon2id, in the PHC format; none until one was chosen.
    password: Option<String>,
    /// Who holds this secret may choose the password, once.
    welcome: Option<Welcome>,
    disabled: bool,
}

impl User {
    /// Whether they may let anybody in.
    fn rules_everything(&self) -> bool {
        self.role == Role::Admin && !self.disabled && self.regions.is_everywhere()
    }
}

/// A link to choose a password by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Welcome {
    digest: String,
    until: UnixMillis,
}

/// A browser after a login.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Session {
    user: String,
    made: UnixMillis,
    /// When it was last used, within an hour.
    seen: UnixMillis,
}

impl Session {
    fn holds(&self, now: UnixMillis) -> bool {
        now < self.made + SESSION_LASTS && now < self.seen + SESSION_IDLE
    }
}

/// A token as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Token {
    digest: String,
    /// Whose; nobody's if it was made on the machine for a program.
    user: Option<String>,
    scopes: Vec<Scope>,
    regions: Regions,
    created: UnixMillis,
    expires: UnixMillis,
}

/// A user as others see them.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct UserView {
    #[schema(example = "siti")]
    pub(crate) name: String,
    #[schema(example = "Siti Rahmawati, Disdukcapil Kota Serang")]
    pub(crate) full_name: Option<String>,
    pub(crate) role: Role,
    pub(crate) regions: Regions,
    #[schema(value_type = i64)]
    pub(crate) created_ms: UnixMillis,
    /// A password was chosen.
    pub(crate) has_password: bool,
    /// Until when the link to choose one is good, if there is one.
    #[schema(value_type = Option<i64>)]
    pub(crate) welcome_until_ms: Option<UnixMillis>,
    /// Shut out for now.
    pub(crate) disabled: bool,
}

impl UserView {
    fn of(name: &str, user: &User, now: UnixMillis) -> Self {
        let welcome = user.welcome.as_ref().map(|welcome| welcome.until);
        Self {
            name: name.to_owned(),
            full_name: user.full_name.clone(),
            role: user.role,
            regions: user.regions.clone(),
            created_ms: user.created,
            has_password: user.password.is_some(),
            welcome_until_ms: welcome.filter(|until| now < *until),
            disabled: user.disabled,
        }
    }
}

/// A user who is to be.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewUser {
    /// What they log in by: small letters, digits, `.`, `_`, `-`, `@`; at most 40.
    #[schema(example = "siti", pattern = r"^[a-z0-9][a-z0-9._@-]{0,39}$")]
    pub(crate) name: String,
    /// What is written under what they do; the name when left out.
    #[schema(example = "Siti Rahmawati, Disdukcapil Kota Serang")]
    pub(crate) full_name: Option<String>,
    pub(crate) role: Role,
    pub(crate) regions: Regions,
}

/// What is to be different of a user; what is left out, or null, stays.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct UserChange {
    /// Empty for none.
    pub(crate) full_name: Option<String>,
    pub(crate) role: Option<Role>,
    pub(crate) regions: Option<Regions>,
    /// Shut out for now, with all sessions and tokens.
    pub(crate) disabled: Option<bool>,
}

/// A link to choose a password by.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct Welcomed {
    pub(crate) user: UserView,
    /// Where the user chooses a password, once. Whoever has it is the user.
    #[schema(example = "https://denyut.example/masuk/xK2…")]
    pub(crate) link: String,
}

/// A token as others see it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct TokenView {
    #[schema(example = "grafana")]
    pub(crate) name: String,
    /// Whose; nobody's if it was made on the collector's machine.
    pub(crate) user: Option<String>,
    /// What it was given; it may never do more than its user.
    pub(crate) scopes: Vec<Scope>,
    pub(crate) regions: Regions,
    #[schema(value_type = i64)]
    pub(crate) created_ms: UnixMillis,
    #[schema(value_type = i64)]
    pub(crate) expires_ms: UnixMillis,
    /// The token itself, only in the answer to its making: nobody can see it again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "denyut_xK2…")]
    pub(crate) token: Option<String>,
}

/// A token that is to be.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewToken {
    /// What it is for; small letters, digits, `.`, `_`, `-`, `@`; at most 40.
    #[schema(example = "grafana", pattern = r"^[a-z0-9][a-z0-9._@-]{0,39}$")]
    pub(crate) name: String,
    /// What may be done with it: of what you may do.
    #[schema(min_items = 1)]
    pub(crate) scopes: Vec<Scope>,
    /// Where; of where you may. All of yours when left out.
    pub(crate) regions: Option<Regions>,
    /// For how long it is good (`1m` to `5years`); 90 days when left out.
    #[schema(example = "90days")]
    pub(crate) expires: Option<String>,
}

/// Why nothing was done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    #[error("there is no {what} `{name}`")]
    None { what: &'static str, name: String },
    #[error("there is a {what} `{name}` already")]
    Taken { what: &'static str, name: String },
    #[error("there are {0} already; remove some")]
    TooMany(usize),
    /// What is asked for goes beyond what whoever asks may do.
    #[error("{0}")]
    Beyond(String),
    #[error(
        "this is the last who may administer everything; let another do so first, or use denyutctl on the collector's machine"
    )]
    Last,
    #[error(
        "the link is over: it was used, or is older than 72 hours; ask whoever gave it to you for a new one"
    )]
    NoWelcome,
    #[error("the name or the password is wrong")]
    NoLogin,
    #[error(transparent)]
    Invalid(#[from] Invalid),
    #[error(transparent)]
    Failed(#[from] anyhow::Error),
}

/// What is known of everybody.
#[derive(Debug, Default)]
struct Pages {
    users: BTreeMap<String, User>,
    /// By the digest of their secret.
    sessions: BTreeMap<String, Session>,
    tokens: BTreeMap<String, Token>,
    /// Names of tokens by the digest of their secret.
    by_digest: BTreeMap<String, String>,
}

/// Keeps users, sessions and tokens. Methods that change something block.
pub(crate) struct Book {
    state: Arc<dyn State>,
    pages: RwLock<Pages>,
    /// Nobody else changes one meanwhile.
    changing: Mutex<()>,
}

/// 256 random bits, as text for an address.
fn secret() -> anyhow::Result<String> {
    let mut bytes = [0; 32];
    let filled = rand::rngs::OsRng.try_fill_bytes(&mut bytes);
    filled.context("the system gives no random bytes")?;
    Ok(BASE64_URL_SAFE_NO_PAD.encode(bytes))
}

fn digest(secret: &str) -> String {
    Fingerprint::of(secret.as_bytes()).to_string()
}

fn check_name(field: &str, name: &str) -> Result<(), Invalid> {
    let first = name.bytes().next();
    let sound = name.len() <= NAME_MOST
        && first.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        && name
            .bytes()
            .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-' | b'@'));
    if sound {
        return Ok(());
    }
    Err(Invalid::new(
        field,
        name.escape_debug(),
        "not a name",
        format!(
            "write at most {NAME_MOST} small letters, digits, `.`, `_`, `-` and `@`, a letter or digit first"
        ),
    ))
}

impl Book {
    pub(crate) fn open(state: Arc<dyn State>) -> anyhow::Result<Self> {
        let tokens: BTreeMap<String, Token> = read(&*state, keys::API_TOKENS)?;
        let by_digest = tokens
            .iter()
            .map(|(name, token)| (token.digest.clone(), name.clone()))
            .collect();
        let pages = Pages {
            users: read(&*state, keys::USERS)?,
            sessions: read(&*state, keys::SESSIONS)?,
            tokens,
            by_digest,
        };
        Ok(Self {
            state,
            pages: RwLock::new(pages),
            changing: Mutex::default(),
        })
    }

    fn read(&self) -> RwLockReadGuard<'_, Pages> {
        self.pages.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a change durable, then known.
    fn keep(&self, change: Change, then: impl FnOnce(&mut Pages)) -> anyhow::Result<()> {
        self.state.apply(change)?;
        self.state.sync().context("cannot keep it")?;
        then(&mut self.pages.write().unwrap_or_else(PoisonError::into_inner));
        Ok(())
    }

    fn changing(&self) -> std::sync::MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // ── Who asks ───────────────────────────────────────────────────────────

    /// Who holds the secret of a session; nobody if it is over, or its user is.
    pub(crate) fn of_session(&self, secret: &str, now: UnixMillis) -> Option<Caller> {
        self.read().caller_of_session(digest(secret), now)
    }

    /// Who holds a token: what it was given, of what its user may now.
    pub(crate) fn of_token(&self, secret: &str, now: UnixMillis) -> Option<Caller> {
        let pages = self.read();
        let name = pages.by_digest.get(&digest(secret))?;
        pages.caller_of_token(name, now)
    }

    /// A caller of before as they are now; nobody if they are not let in any more.
    pub(crate) fn again(&self, caller: &Caller, now: UnixMillis) -> Option<Caller> {
        let pages = self.read();
        let found = match &caller.via {
            Via::Socket => Some(caller.clone()),
            Via::Session(key) => pages.caller_of_session(key.clone(), now),
            Via::Token(name) => pages.caller_of_token(name, now),
        };
        found.filter(|found| found.made == caller.made)
    }

    /// Whether anybody can log in.
    pub(crate) fn is_empty(&self) -> bool {
        self.read().users.is_empty()
    }

    // ── Users ──────────────────────────────────────────────────────────────

    /// Those whose regions lie in these, by name.
    pub(crate) fn users(&self, regions: &Regions, now: UnixMillis) -> Vec<UserView> {
        let pages = self.read();
        let seen = pages
            .users
            .iter()
            .filter(|(_, user)| regions.have(&user.regions));
        seen.map(|(name, user)| UserView::of(name, user, now))
            .collect()
    }

    pub(crate) fn user(&self, name: &str, now: UnixMillis) -> Option<UserView> {
        let pages = self.read();
        pages
            .users
            .get(name)
            .map(|user| UserView::of(name, user, now))
    }

    /// The user, if whoever asks may change it.
    fn mine(&self, name: &str, by: &Caller) -> Result<User, Refused> {
        let user = self.read().users.get(name).cloned();
        user.filter(|user| by.regions.have(&user.regions))
            .ok_or_else(|| Refused::None {
                what: "user",
                name: name.to_owned(),
            })
    }

    /// An error if nobody but this user may administer everything: then nobody could let anybody in any more. Who is on the machine always can.
    fn leaves_another(&self, name: &str, by: &Caller) -> Result<(), Refused> {
        let pages = self.read();
        let mut others = pages.users.iter().filter(|(other, _)| *other != name);
        if by.via == Via::Socket || others.any(|(_, user)| user.rules_everything()) {
            return Ok(());
        }
        Err(Refused::Last)
    }

    /// Lets somebody in; the secret of the link to choose a password by.
    pub(crate) fn add_user(
        &self,
        new: &NewUser,
        by: &Caller,
        now: UnixMillis,
    ) -> Result<(UserView, String), Refused> {
        check_name("name", &new.name)?;
        new.regions.check()?;
        let full_name = full_name(new.full_name.as_deref())?;
        let _changing = self.changing();
        within(&new.regions, by)?;
        let (taken, count) = {
            let pages = self.read();
            (pages.users.contains_key(&new.name), pages.users.len())
        };
        if taken {
            return Err(Refused::Taken {
                what: "user",
                name: new.name.clone(),
            });
        }
        if count >= USERS_MOST {
            return Err(Refused::TooMany(USERS_MOST));
        }
        let secret = secret()?;
        let user = User {
            full_name,
            role: new.role,
            regions: new.regions.clone(),
            created: now,
            password: None,
            welcome: Some(Welcome {
                digest: digest(&secret),
                until: now + WELCOME_LASTS,
            }),
            disabled: false,
        };
        let view = UserView::of(&new.name, &user, now);
        self.put_user(&new.name, user)?;
        Ok((view, secret))
    }

    fn put_user(&self, name: &str, user: User) -> anyhow::Result<()> {
        let mut change = Change::default();
        change.put_json(keys::user(name), &user)?;
        self.keep(change, |pages| {
            pages.users.insert(name.to_owned(), user);
        })
    }

    /// The same; whoever came in before must come in anew.
    fn put_user_out(&self, name: &str, user: User) -> anyhow::Result<()> {
        let sessions = self.read().sessions_of(name);
        let mut change = Change::default();
        change.put_json(keys::user(name), &user)?;
        change.delete = sessions.iter().map(|one| keys::session(one)).collect();
        self.keep(change, |pages| {
            pages.users.insert(name.to_owned(), user);
            pages.sessions.retain(|key, _| !sessions.contains(key));
        })
    }

    pub(crate) fn change_user(
        &self,
        name: &str,
        change: &UserChange,
        by: &Caller,
        now: UnixMillis,
    ) -> Result<UserView, Refused> {
        let _changing = self.changing();
        let mut user = self.mine(name, by)?;
        let could = user.rules_everything();
        if let Some(regions) = &change.regions {
            regions.check()?;
            within(regions, by)?;
            user.regions = regions.clone();
        }
        if let Some(name) = &change.full_name {
            user.full_name = full_name(Some(name))?;
        }
        user.role = change.role.unwrap_or(user.role);
        user.disabled = change.disabled.unwrap_or(user.disabled);
        if could && !user.rules_everything() {
            self.leaves_another(name, by)?;
        }
        let view = UserView::of(name, &user, now);
        if user.disabled {
            self.put_user_out(name, user)?;
        } else {
            self.put_user(name, user)?;
        }
        Ok(view)
    }

    /// A new link to choose a password by; the old password holds until it is used.
    pub(crate) fn welcome(
        &self,
        name: &str,
        by: &Caller,
        now: UnixMillis,
    ) -> Result<(UserView, String), Refused> {
        let _changing = self.changing();
        let mut user = self.mine(name, by)?;
        let secret = secret()?;
        user.welcome = Some(Welcome {
            digest: digest(&secret),
            until: now + WELCOME_LASTS,
        });
        let view = UserView::of(name, &user, now);
        self.put_user(name, user)?;
        Ok((view, secret))
    }

    /// Removes a user with all sessions and tokens. What they did stays.
    pub(crate) fn remove_user(&self, name: &str, by: &Caller) -> Result<(), Refused> {
        let _changing = self.changing();
        if self.mine(name, by)?.rules_everything() {
            self.leaves_another(name, by)?;
        }
        let (sessions, tokens) = {
            let pages = self.read();
            let of = |token: &Token| token.user.as_deref() == Some(name);
            let tokens = pages.tokens.iter().filter(|(_, token)| of(token));
            (
                pages.sessions_of(name),
                tokens.map(|(name, _)| name.clone()).collect::<Vec<_>>(),
            )
        };
        let mut change = Change::default();
        change.delete.push(keys::user(name));
        change
            .delete
            .extend(sessions.iter().map(|one| keys::session(one)));
        change
            .delete
            .extend(tokens.iter().map(|one| keys::api_token(one)));
        self.keep(change, |pages| {
            pages.users.remove(name);
            pages.sessions.retain(|key, _| !sessions.contains(key));
            for name in &tokens {
                pages.forget_token(name);
            }
        })?;
        Ok(())
    }

    // ── Logins ─────────────────────────────────────────────────────────────

    /// The user that a link is for.
    pub(crate) fn welcomed(&self, secret: &str, now: UnixMillis) -> Result<String, Refused> {
        let wanted = digest(secret);
        let pages = self.read();
        let is_it = |welcome: &Welcome| welcome.digest == wanted && now < welcome.until;
        let found = pages
            .users
            .iter()
            .find(|(_, user)| !user.disabled && user.welcome.as_ref().is_some_and(is_it));
        found
            .map(|(name, _)| name.clone())
            .ok_or(Refused::NoWelcome)
    }

    /// Chooses the password by a link, which is then over, as are all sessions; a new session.
    pub(crate) fn choose(
        &self,
        secret: &str,
        chosen: &str,
        now: UnixMillis,
    ) -> Result<(String, String), Refused> {
        let name = self.welcomed(secret, now)?;
        password::check(chosen, &name)?;
        let hash = password::hash(chosen)?;
        let _changing = self.changing();
        // Somebody else may have used it meanwhile.
        if self.welcomed(secret, now)? != name {
            return Err(Refused::NoWelcome);
        }
        let mut user = self
            .read()
            .users
            .get(&name)
            .cloned()
            .ok_or(Refused::NoWelcome)?;
        user.password = Some(hash);
        user.welcome = None;
        self.put_user_out(&name, user)?;
        let session = self.session(&name, now)?;
        Ok((name, session))
    }

    /// A session for who knows the password. It takes its time, on purpose.
    pub(crate) fn log_in(
        &self,
        name: &str,
        password: &str,
        now: UnixMillis,
    ) -> Result<String, Refused> {
        let user = self.read().users.get(name).cloned();
        let user = user.filter(|user| !user.disabled);
        let kept = user.as_ref().and_then(|user| user.password.as_deref());
        if !password::is(password, kept) {
            return Err(Refused::NoLogin);
        }
        let _changing = self.changing();
        // It may be another by now, or nobody's.
        let is_same = self.read().users.get(name) == user.as_ref();
        if !is_same {
            return Err(Refused::NoLogin);
        }
        Ok(self.session(name, now)?)
    }

    /// A session of a user whom somebody else vouches for.
    pub(crate) fn enter(&self, name: &str, now: UnixMillis) -> Result<String, Refused> {
        let _changing = self.changing();
        let is_in = {
            let pages = self.read();
            pages.users.get(name).is_some_and(|user| !user.disabled)
        };
        if !is_in {
            return Err(Refused::NoLogin);
        }
        Ok(self.session(name, now)?)
    }

    /// Whether there is such a user; to know whose logins to count.
    pub(crate) fn knows(&self, name: &str) -> bool {
        self.read().users.contains_key(name)
    }

    /// A new session; what is over goes.
    fn session(&self, user: &str, now: UnixMillis) -> anyhow::Result<String> {
        let secret = secret()?;
        let key = digest(&secret);
        let session = Session {
            user: user.to_owned(),
            made: now,
            seen: now,
        };
        let gone: Vec<String> = {
            let pages = self.read();
            let over = pages.sessions.iter().filter(|(_, one)| !one.holds(now));
            let mut gone: Vec<String> = over
                .map(|(key, _)| key.clone())
                .take(OVER_AT_ONCE)
                .collect();
            let mut own = pages.sessions_of(user);
            own.sort_by_key(|key| pages.sessions.get(key).map(|one| one.seen));
            let most = own.len().saturating_sub(SESSIONS_MOST - 1);
            gone.extend(own.into_iter().take(most));
            gone
        };
        let mut change = Change::default();
        change.put_json(keys::session(&key), &session)?;
        change.delete = gone.iter().map(|key| keys::session(key)).collect();
        self.keep(change, |pages| {
            pages.sessions.retain(|key, _| !gone.contains(key));
            pages.sessions.insert(key, session);
        })?;
        Ok(secret)
    }

    /// Writes that a session is used, if that was not written lately.
    pub(crate) fn see(&self, key: &str, now: UnixMillis) -> anyhow::Result<()> {
        let is_due = |session: &Session| now >= session.seen + SEEN_EVERY;
        if !self.read().sessions.get(key).is_some_and(is_due) {
            return Ok(());
        }
        let _changing = self.changing();
        let session = self.read().sessions.get(key).cloned();
        let Some(mut session) = session.filter(is_due) else {
            return Ok(());
        };
        session.seen = now;
        let mut change = Change::default();
        change.put_json(keys::session(key), &session)?;
        self.keep(change, |pages| {
            pages.sessions.insert(key.to_owned(), session);
        })
    }

    /// Whether a use of the session is to be written.
    pub(crate) fn is_stale(&self, key: &str, now: UnixMillis) -> bool {
        let pages = self.read();
        let session = pages.sessions.get(key);
        session.is_some_and(|session| now >= session.seen + SEEN_EVERY)
    }

    /// Ends a session.
    pub(crate) fn log_out(&self, key: &str) -> anyhow::Result<()> {
        let _changing = self.changing();
        let mut change = Change::default();
        change.delete.push(keys::session(key));
        self.keep(change, |pages| {
            pages.sessions.remove(key);
        })
    }

    // ── Tokens ─────────────────────────────────────────────────────────────

    /// Those that somebody may see: their own, and an administrator those of the regions.
    pub(crate) fn tokens(&self, by: &Caller) -> Vec<TokenView> {
        let pages = self.read();
        let seen = pages.tokens.iter().filter(|(_, token)| is_mine(token, by));
        seen.map(|(name, token)| view(name, token, None)).collect()
    }

    pub(crate) fn add_token(
        &self,
        new: &NewToken,
        by: &Caller,
        now: UnixMillis,
    ) -> Result<TokenView, Refused> {
        check_name("name", &new.name)?;
        let regions = new.regions.clone().unwrap_or_else(|| by.regions.clone());
        regions.check()?;
        let lasts = match &new.expires {
            Some(text) => denyut_proto::parse_duration("expires", text)?,
            None => Duration::from_secs(90 * 86_400),
        };
        if lasts < TOKEN_LASTS.0 || lasts > TOKEN_LASTS.1 {
            let text = humantime::format_duration(lasts);
            let fix = "write 1m to 5years, and make a new one when that is over";
            return Err(Invalid::new("expires", text, "out of range", fix).into());
        }
        let mut scopes = new.scopes.clone();
        scopes.sort_unstable();
        scopes.dedup();
        if scopes.is_empty() {
            let fix = "name at least one of read, operate, admin, metrics";
            return Err(Invalid::new("scopes", "[]", "it could do nothing", fix).into());
        }
        if let Some(beyond) = scopes.iter().find(|scope| !by.may(**scope)) {
            let text = format!("you may not `{}` yourself", beyond.as_str());
            return Err(Refused::Beyond(text));
        }
        let _changing = self.changing();
        within(&regions, by)?;
        let (taken, count, own) = {
            let pages = self.read();
            let own = pages.tokens.values().filter(|token| token.user == by.user);
            (
                pages.tokens.contains_key(&new.name),
                pages.tokens.len(),
                own.count(),
            )
        };
        if taken {
            return Err(Refused::Taken {
                what: "token",
                name: new.name.clone(),
            });
        }
        if count >= TOKENS_MOST {
            return Err(Refused::TooMany(TOKENS_MOST));
        }
        if by.user.is_some() && own >= TOKENS_EACH {
            return Err(Refused::TooMany(TOKENS_EACH));
        }
        let secret = format!("{TOKEN_PREFIX}{}", secret()?);
        let kept = Token {
            digest: digest(&secret),
            user: by.user.clone(),
            scopes,
            regions,
            created: now,
            expires: now + lasts,
        };
        let shown = view(&new.name, &kept, Some(secret));
        let mut change = Change::default();
        change.put_json(keys::api_token(&new.name), &kept)?;
        self.keep(change, |pages| {
            pages
                .by_digest
                .insert(kept.digest.clone(), new.name.clone());
            pages.tokens.insert(new.name.clone(), kept);
        })?;
        Ok(shown)
    }

    pub(crate) fn remove_token(&self, name: &str, by: &Caller) -> Result<(), Refused> {
        let _changing = self.changing();
        let found = self.read().tokens.get(name).cloned();
        if !found.is_some_and(|token| is_mine(&token, by)) {
            return Err(Refused::None {
                what: "token",
                name: name.to_owned(),
            });
        }
        let mut change = Change::default();
        change.delete.push(keys::api_token(name));
        self.keep(change, |pages| pages.forget_token(name))?;
        Ok(())
    }
}

impl Pages {
    fn caller_of_session(&self, key: String, now: UnixMillis) -> Option<Caller> {
        let session = self.sessions.get(&key).filter(|one| one.holds(now))?;
        let user = self
            .users
            .get(&session.user)
            .filter(|user| !user.disabled)?;
        Some(Caller {
            user: Some(session.user.clone()),
            by: signature(&session.user, user),
            via: Via::Session(key),
            made: user.created,
            scopes: user.role.scopes().to_vec(),
            regions: user.regions.clone(),
        })
    }

    fn caller_of_token(&self, name: &str, now: UnixMillis) -> Option<Caller> {
        let token = self.tokens.get(name).filter(|one| now < one.expires)?;
        let mut caller = Caller {
            user: token.user.clone(),
            by: name.to_owned(),
            via: Via::Token(name.to_owned()),
            made: token.created,
            scopes: token.scopes.clone(),
            regions: token.regions.clone(),
        };
        if let Some(of) = &token.user {
            let user = self.users.get(of).filter(|user| !user.disabled)?;
            caller.by = format!("{} ({name})", signature(of, user));
            caller
                .scopes
                .retain(|scope| user.role.scopes().contains(scope));
            caller.regions = caller.regions.and(&user.regions);
        }
        Some(caller)
    }

    fn sessions_of(&self, user: &str) -> Vec<String> {
        let own = self.sessions.iter().filter(|(_, one)| one.user == user);
        own.map(|(key, _)| key.clone()).collect()
    }

    fn forget_token(&mut self, name: &str) {
        if let Some(token) = self.tokens.remove(name) {
            self.by_digest.remove(&token.digest);
        }
    }
}

/// Whether somebody may see a token and take it away.
fn is_mine(token: &Token, by: &Caller) -> bool {
    let own = by.user.is_some() && token.user == by.user;
    own || (by.may(Scope::Admin) && by.regions.have(&token.regions))
}

fn view(name: &str, token: &Token, secret: Option<String>) -> TokenView {
    TokenView {
        name: name.to_owned(),
        user: token.user.clone(),
        scopes: token.scopes.clone(),
        regions: token.regions.clone(),
        created_ms: token.created,
        expires_ms: token.expires,
        token: secret,
    }
}

/// What is written under what a user does.
fn signature(name: &str, user: &User) -> String {
    user.full_name.clone().unwrap_or_else(|| name.to_owned())
}

fn full_name(text: Option<&str>) -> Result<Option<String>, Invalid> {
    crate::case::maybe_name("full_name", text)
}

/// An error if the regions go beyond those of whoever asks.
fn within(regions: &Regions, by: &Caller) -> Result<(), Refused> {
    if by.regions.have(regions) {
        return Ok(());
    }
    Err(Refused::Beyond(
        "these regions go beyond your own; name only some of those".to_owned(),
    ))
}

/// Values of the state, as [`crate::tried`] tries them.
pub(super) fn read_values(bytes: &[u8]) {
    serde_json::from_slice::<User>(bytes).ok();
    serde_json::from_slice::<Session>(bytes).ok();
    serde_json::from_slice::<Token>(bytes).ok();
}

/// All of a kind, by what stands behind the prefix.
fn read<T: serde::de::DeserializeOwned>(
    state: &dyn State,
    prefix: &str,
) -> anyhow::Result<BTreeMap<String, T>> {
    let all = scan_json::<T>(state, prefix)?;
    let named = |(key, one): (String, T)| (key[prefix.len()..].to_owned(), one);
    Ok(all.into_iter().map(named).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use denyut_store::Store;

    const DAY: Duration = Duration::from_secs(86_400);

    fn admin() -> Caller {
        Caller::of_socket("root".to_owned())
    }

    fn new_user(name: &str) -> NewUser {
        NewUser {
            name: name.to_owned(),
            full_name: None,
            role: Role::Viewer,
            regions: Regions::everywhere(),
        }
    }

    #[test]
    fn after_a_long_holiday_people_come_in_again() {
        let dir = tempfile::tempdir().expect("tempdir");
        let store = Store::open(dir.path(), UnixMillis(0)).expect("opens");
        let state = Arc::clone(&store.state) as Arc<dyn State>;
        // More sessions than one change may end.
        for part in 0..3 {
            let mut change = Change::default();
            for i in 0..400 {
                let session = Session {
                    user: format!("u-{part}-{i}"),
                    made: UnixMillis(0),
                    seen: UnixMillis(0),
                };
                let key = digest(&format!("{part} {i}"));
                change
                    .put_json(keys::session(&key), &session)
                    .expect("JSON");
            }
            state.apply(change).expect("applies");
        }
        let book = Book::open(Arc::clone(&state)).expect("opens");
        let now = UnixMillis(0) + 10 * DAY;
        let (_, link) = book
            .add_user(&new_user("siti"), &admin(), now)
            .expect("is new");
        let password = "kuda terbang di serang";
        book.choose(&link, password, now).expect("comes in");
        for _ in 0..10 {
            book.log_in("siti", password, now).expect("comes in");
        }
        assert!(book.choose(&link, password, now).is_err(), "once");
        let left = state.count(keys::SESSIONS).expect("counts");
        assert_eq!(left, 11, "what is over goes, a part at a time");
        assert!(book.log_in("siti", "kuda terbang di Serang", now).is_err());
        assert!(book.log_in("budi", password, now).is_err());
    }

    #[test]
    fn a_user_has_a_bounded_number_of_sessions_and_tokens_and_goes_with_them() {
        let dir = tempfile::tempdir().expect("tempdir");
        let store = Store::open(dir.path(), UnixMillis(0)).expect("opens");
        let state = Arc::clone(&store.state) as Arc<dyn State>;
        let book = Book::open(Arc::clone(&state)).expect("opens");
        let now = UnixMillis(1_000);
        let (_, link) = book
            .add_user(&new_user("siti"), &admin(), now)
            .expect("is new");
        let (_, first) = book
            .choose(&link, "kuda terbang di serang", now)
            .expect("comes in");
        for i in 0..SESSIONS_MOST {
            let seen = UnixMillis(2_000 + i64::try_from(i).expect("small"));
            book.session("siti", seen).expect("a session");
        }
        assert!(book.of_session(&first, now).is_none(), "the oldest went");
        assert_eq!(state.count(keys::SESSIONS).expect("counts"), SESSIONS_MOST);
        let secret = book.session("siti", now).expect("a session");
        let siti = book.of_session(&secret, now).expect("comes in");
        let wish = |name: String| NewToken {
            name,
            scopes: vec![Scope::Read],
            regions: None,
            expires: None,
        };
        let mut last = None;
        for i in 0..TOKENS_EACH {
            last = book
                .add_token(&wish(format!("t-{i}")), &siti, now)
                .expect("a token")
                .token;
        }
        let more = book.add_token(&wish("more".to_owned()), &siti, now);
        assert!(matches!(more, Err(Refused::TooMany(TOKENS_EACH))));
        let token = book
            .of_token(&last.expect("a token"), now)
            .expect("comes in");
        book.remove_user("siti", &admin()).expect("is there");
        assert_eq!(
            state.count(keys::SESSIONS).expect("counts")
                + state.count(keys::API_TOKENS).expect("counts"),
            0
        );
        assert!(book.again(&siti, now).is_none() && book.again(&token, now).is_none());
        // Another of that name is another.
        let (_, link) = book
            .add_user(&new_user("siti"), &admin(), UnixMillis(5_000))
            .expect("is new");
        book.choose(&link, "kuda terbang di serang", now)
            .expect("comes in");
        assert!(book.again(&siti, now).is_none());
    }
}
