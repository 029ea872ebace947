//! What operators do with tokens and agents: through the collector while it runs, else by its data folder.

use super::members::{Member, Members, Refused, Token};
use crate::ingest::Gate;
use denyut_proto::{AgentId, Invalid, Invitation, OfficeCode, UnixMillis};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Why there is nothing to ask.
pub(crate) const PLAINTEXT: &str = "agents connect to this collector in plaintext, where nobody joins; set `ingest.names` in its configuration";

/// What is asked.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Ask {
    /// Make a token.
    Invite {
        office: OfficeCode,
        uses: u32,
        lasts: Duration,
        /// Where its holder finds the collector; by the first of its names if none.
        address: Option<String>,
    },
    /// All tokens.
    Tokens,
    /// Take a token back, by its name.
    ForgetToken(String),
    /// All that have joined.
    Members,
    /// Shut an agent out.
    Revoke(AgentId),
}

/// What came of it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    /// The invitation, with its secret; and until when it is good.
    Invited(String, UnixMillis),
    Tokens(Vec<(String, Token)>),
    Members(Vec<(AgentId, Member)>),
    /// These are shut out.
    Revoked(Vec<AgentId>),
    /// It is so now.
    Done,
}

/// Does what is asked. `gate`: where the agents are connected, if a collector runs; `address`: where they find it.
pub(crate) fn answer(
    ask: Ask,
    members: &Members,
    gate: Option<&Gate>,
    address: &str,
    now: UnixMillis,
) -> Result<Answer, Refused> {
    match ask {
        Ask::Invite {
            office,
            uses,
            lasts,
            address: other,
        } => {
            let expires = now + lasts;
            let invitation = Invitation {
                address: other.unwrap_or_else(|| address.to_owned()),
                authority: members.authority().digest(),
                secret: members.invite(&office, uses, expires, now)?,
            };
            Ok(Answer::Invited(invitation.to_string(), expires))
        }
        Ask::Tokens => Ok(Answer::Tokens(members.tokens()?)),
        Ask::ForgetToken(name) => {
            members.forget_token(&name)?;
            Ok(Answer::Done)
        }
        Ask::Members => Ok(Answer::Members(members.list().into_iter().collect())),
        Ask::Revoke(agent) => {
            let revoked = members.revoke(&agent, now)?;
            if let Some(gate) = gate {
                for one in &revoked {
                    gate.dismiss(one)?;
                }
            }
            Ok(Answer::Revoked(revoked))
        }
    }
}

/// A time for which a token is good, checked.
pub(crate) fn lasts(text: &str) -> Result<Duration, Invalid> {
    let lasts = denyut_proto::parse_duration("--expires", text)?;
    if lasts < Duration::from_secs(60) || lasts > Duration::from_secs(90 * 86_400) {
        return Err(Invalid::new(
            "--expires",
            text,
            "out of range",
            "write 1m to 90days",
        ));
    }
    Ok(lasts)
}
