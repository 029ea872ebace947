//! Who may see and do what.
//!
//! A caller has scopes (what) and regions (where). A user has them by a role, a token has some of its user's. Whoever can open the control socket
//! is the administrator of the machine, and may do everything.

mod audit;
mod book;
mod oidc;
mod pace;
mod password;
mod regions;
mod slots;

pub(crate) use audit::{Audit, Entry};
pub(crate) use book::{
    Book, NewToken, NewUser, Refused, TokenView, UserChange, UserView, Welcomed,
};
pub(crate) use oidc::{Oidc, OidcSection};
pub(crate) use pace::Pace;
pub(crate) use regions::Regions;
pub(crate) use slots::{Slot, Slots};

use denyut_proto::UnixMillis;
use serde::{Deserialize, Serialize};
use std::fmt;
use utoipa::ToSchema;

/// Values of the state, as [`crate::tried`] tries them.
pub(crate) fn read(bytes: &[u8]) {
    book::read_values(bytes);
    serde_json::from_slice::<Entry>(bytes).ok();
}

/// What a caller may do.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
#[schema(as = AccessScope)]
pub(crate) enum Scope {
    /// See offices, links, incidents and what was measured.
    Read,
    /// Acknowledge, note, assign, silence, probe.
    Operate,
    /// Let people, programs and machines in, and shut them out; see what was done.
    Admin,
    /// The collector's own numbers, which name no office.
    Metrics,
}

impl Scope {
    /// The name that the API uses.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Operate => "operate",
            Self::Admin => "admin",
            Self::Metrics => "metrics",
        }
    }
}

/// What a user may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Role {
    /// See.
    Viewer,
    /// See, and care for incidents.
    Operator,
    /// Everything.
    Admin,
}

impl Role {
    pub(crate) const fn scopes(self) -> &'static [Scope] {
        match self {
            Self::Viewer => &[Scope::Read],
            Self::Operator => &[Scope::Read, Scope::Operate],
            Self::Admin => &[Scope::Read, Scope::Operate, Scope::Admin, Scope::Metrics],
        }
    }
}

/// How a caller showed who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Via {
    /// By opening the control socket.
    Socket,
    /// By a session: a browser after a login. Its key in the book.
    Session(String),
    /// By a token of this name.
    Token(String),
}

impl fmt::Display for Via {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket => f.write_str("socket"),
            Self::Session(_) => f.write_str("session"),
            Self::Token(name) => write!(f, "token {name}"),
        }
    }
}

/// Who asks for something.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    /// The user; none for the socket, and for a token that belongs to nobody.
    pub(crate) user: Option<String>,
    /// What is written under what it does.
    pub(crate) by: String,
    pub(crate) via: Via,
    /// When the user was let in, or the token was made: another of that name is another.
    pub(crate) made: UnixMillis,
    pub(crate) scopes: Vec<Scope>,
    pub(crate) regions: Regions,
}

impl Caller {
    /// The administrator of the machine.
    pub(crate) fn of_socket(by: String) -> Self {
        Self {
            user: None,
            by,
            via: Via::Socket,
            made: UnixMillis(0),
            scopes: Role::Admin.scopes().to_vec(),
            regions: Regions::everywhere(),
        }
    }

    pub(crate) fn may(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope)
    }

    /// What tells it from all others, of now and of before.
    pub(crate) fn identity(&self) -> String {
        match (&self.via, &self.user) {
            (Via::Token(name), _) => format!("token {name} {}", self.made.0),
            (_, Some(user)) => format!("user {user} {}", self.made.0),
            _ => "socket".to_owned(),
        }
    }

    /// Who is behind it: a user with all tokens is one.
    pub(crate) fn person(&self) -> String {
        match (&self.user, &self.via) {
            (Some(user), _) => format!("user {user}"),
            (None, Via::Token(name)) => format!("token {name}"),
            (None, _) => "socket".to_owned(),
        }
    }
}
