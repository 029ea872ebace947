//! The machines of the offices, the invitations that they join by, and copies of what the collector knows.

use super::list::{Asked, Page, Row};
use super::problem::Problem;
use super::{Body, Made, Parameters, Path, Shared, State, made};
use crate::access::{Caller, Regions};
use crate::join::{Member, Members, Offer, Refused};
use anyhow::Context;
use axum::Json;
use axum::http::StatusCode;
use axum::response::Response;
use denyut_proto::{AgentId, Invalid, Invitation, OfficeCode, UnixMillis, parse_duration};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use utoipa::{IntoParams, ToSchema};

/// How long an invitation is good: when nothing is said, at least, and at most.
const GOOD: Duration = Duration::from_secs(24 * 3_600);
const GOOD_LEAST: Duration = Duration::from_secs(60);
const GOOD_MOST: Duration = Duration::from_secs(90 * 86_400);
/// Machines that may join by one, at most.
const USES_MOST: u32 = 100_000;

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        let text = refused.to_string();
        match refused {
            Refused::NoSuchInvitation(_) => Self::not_found(text),
            Refused::UnknownAgent(agent) => Self::not_found(format!(
                "no agent {agent} has joined here; `denyutctl agent list` shows those that have"
            )),
            Refused::Broken(error) => error.into(),
            _ => Self::new(StatusCode::CONFLICT, text),
        }
    }
}

impl Shared {
    fn members(&self) -> Result<&Members, Problem> {
        self.query.members.as_deref().ok_or_else(|| {
            Problem::new(
                StatusCode::CONFLICT,
                "agents connect to this collector in plaintext, where nobody joins; set `ingest.names` in its configuration",
            )
        })
    }
}

/// Does what may block with those who have joined.
async fn act<T: Send + 'static>(
    shared: &Arc<Shared>,
    work: impl FnOnce(&Shared, &Members, UnixMillis) -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    let shared = Arc::clone(shared);
    let work = move || work(&shared, shared.members()?, shared.gate.clock.read().now);
    tokio::task::spawn_blocking(work)
        .await
        .context("a change panicked")?
}

/// Of which offices.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ListParameters {
    /// Only offices of this region: a region code or its first parts.
    #[param(example = "36.73")]
    region: Option<String>,
}

/// An invitation that machines may still join by.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct InvitationView {
    /// The beginning of the digest of its secret: it names it, and opens nothing.
    #[schema(example = "3f2a9c51b07e")]
    name: String,
    #[schema(value_type = String, example = "36.73.02")]
    office: OfficeCode,
    #[schema(value_type = i64)]
    created_ms: UnixMillis,
    #[schema(value_type = i64)]
    expires_ms: UnixMillis,
    /// How many machines may still join by it.
    uses: u32,
    /// Whoever joins by it was this agent before, on a copied disk.
    #[schema(value_type = Option<String>)]
    twin_of: Option<AgentId>,
}

impl InvitationView {
    fn of(name: String, offer: Offer) -> Self {
        Self {
            name,
            office: offer.office,
            created_ms: offer.created,
            expires_ms: offer.expires,
            uses: offer.uses,
            twin_of: offer.twin_of,
        }
    }
}

impl Row for InvitationView {
    const COLUMNS: &'static [&'static str] = &[
        "name",
        "office",
        "created_ms",
        "expires_ms",
        "uses",
        "twin_of",
    ];

    fn cursor(&self) -> String {
        self.name.clone()
    }
}

/// Who is to be invited.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Invite {
    /// The office that the machine speaks for.
    #[schema(example = "36.73.02", pattern = r"^\d{2}\.\d{2}\.\d{2}(\.\d{4})?$")]
    office: String,
    /// How many machines may join by it (1 to 100,000); one when left out.
    #[schema(minimum = 1, maximum = 100_000)]
    uses: Option<u32>,
    /// For how long it is good (`1m` to `90days`); a day when left out.
    #[schema(example = "24h")]
    expires: Option<String>,
    /// Where the machine finds the collector, if not by the first of `ingest.names`.
    #[schema(example = "https://collector.example:7443")]
    address: Option<String>,
}

impl Invite {
    /// For one machine of an office, for a day.
    pub(crate) fn of(office: String) -> Self {
        Self {
            office,
            uses: None,
            expires: None,
            address: None,
        }
    }
}

/// An invitation that was made.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Invited {
    /// What is pasted on the machine, behind `denyut-agent join`; shown in this answer only.
    invitation: String,
    #[schema(value_type = i64)]
    expires_ms: UnixMillis,
}

impl Invited {
    pub(crate) fn invitation(&self) -> &str {
        &self.invitation
    }
}

/// Invitations that machines may still join by
#[utoipa::path(
    get,
    path = "/api/v1/invitations",
    params(ListParameters, Page),
    responses((status = 200, body = Vec<InvitationView>), (status = 400, body = Problem, content_type = "application/problem+json"), (status = 409, body = Problem, content_type = "application/problem+json", description = "nobody joins here: agents connect in plaintext"))
)]
pub(super) async fn invitations(
    axum::extract::State(shared): State,
    caller: Caller,
    asked: Asked,
    Parameters(ListParameters { region }): Parameters<ListParameters>,
) -> Result<Response, Problem> {
    let sees = region_of(region, &caller.regions)?;
    shared.members()?;
    let read = move |shared: &Shared| {
        let Some(members) = &shared.query.members else {
            return Ok(Vec::new());
        };
        let all = members.offers()?.into_iter();
        let wanted = all.filter(|(_, offer)| sees.has(&offer.office));
        Ok(wanted
            .map(|(name, offer)| InvitationView::of(name, offer))
            .collect())
    };
    asked.answer_of(shared, read).await
}

/// Invite machines to an office
#[utoipa::path(
    post,
    path = "/api/v1/invitations",
    request_body = Invite,
    responses((status = 201, body = Invited), (status = 400, body = Problem, content_type = "application/problem+json"), (status = 409, body = Problem, content_type = "application/problem+json", description = "nobody joins here: agents connect in plaintext"))
)]
pub(crate) async fn invite(
    axum::extract::State(shared): State,
    caller: Caller,
    Body(asked): Body<Invite>,
) -> Result<Made<Invited>, Problem> {
    let office: OfficeCode = asked
        .office
        .parse::<OfficeCode>()
        .map_err(|error| Invalid {
            field: "office".into(),
            ..error
        })?;
    let lasts = asked
        .expires
        .as_deref()
        .map_or(Ok(GOOD), |text| parse_duration("expires", text))?;
    if lasts < GOOD_LEAST || lasts > GOOD_MOST {
        let text = humantime::format_duration(lasts);
        return Err(Invalid::new("expires", text, "out of range", "write 1m to 90days").into());
    }
    let uses = asked.uses.unwrap_or(1);
    if !(1..=USES_MOST).contains(&uses) {
        return Err(Invalid::new("uses", uses, "out of range", "write 1 to 100000").into());
    }
    if let Some(address) = &asked.address
        && !(address.starts_with("https://") && address.len() <= 200)
    {
        let fix = "write it like `https://collector.example:7443`";
        return Err(Invalid::new(
            "address",
            address.escape_debug(),
            "not an https address",
            fix,
        )
        .into());
    }
    let known = caller.regions.has(&office) && shared.query.registry.has(&office);
    if !known {
        let fix = "name an office that you see; register a new one first, in the settings or by `denyutctl office import`";
        return Err(Invalid::new("office", office, "there is no such office", fix).into());
    }
    let address = asked
        .address
        .map(|address| address.trim_end_matches('/').to_owned());
    let invited = act(&shared, move |shared, members, now| {
        let expires_ms = now + lasts;
        let invitation = Invitation {
            address: address.unwrap_or_else(|| shared.agents_find.clone()),
            authority: members.authority().digest(),
            secret: members.invite(&office, uses, expires_ms, now)?,
        };
        Ok(Invited {
            invitation: invitation.to_string(),
            expires_ms,
        })
    });
    Ok(made(invited.await?))
}

/// Take an invitation back; who has joined by it stays
#[utoipa::path(
    delete,
    path = "/api/v1/invitations/{name}",
    params(("name" = String, Path, example = "3f2a9c51b07e")),
    responses((status = 204), (status = 404, body = Problem, content_type = "application/problem+json"), (status = 409, body = Problem, content_type = "application/problem+json", description = "nobody joins here: agents connect in plaintext"))
)]
pub(crate) async fn withdraw(
    axum::extract::State(shared): State,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<StatusCode, Problem> {
    act(&shared, move |_, members, _| {
        let all = members.offers()?;
        if !all
            .iter()
            .any(|(known, offer)| *known == name && caller.regions.has(&offer.office))
        {
            return Err(Refused::NoSuchInvitation(name).into());
        }
        Ok(members.forget_offer(&name)?)
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// A machine that has joined.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct MachineView {
    #[schema(value_type = String, example = "36-73-02-k7wq3")]
    agent: AgentId,
    #[schema(value_type = String, example = "36.73.02")]
    office: OfficeCode,
    #[schema(value_type = i64)]
    joined_ms: UnixMillis,
    /// When its newest certificate is over.
    #[schema(value_type = i64)]
    certified_until_ms: UnixMillis,
    /// When it was shut out.
    #[schema(value_type = Option<i64>)]
    revoked_ms: Option<UnixMillis>,
    /// It was this agent before, on a copied disk.
    #[schema(value_type = Option<String>)]
    twin_of: Option<AgentId>,
}

impl MachineView {
    fn of(agent: AgentId, member: Member) -> Self {
        Self {
            agent,
            office: member.office,
            joined_ms: member.joined,
            certified_until_ms: member.certified_until,
            revoked_ms: member.revoked,
            twin_of: member.twin_of,
        }
    }
}

impl Row for MachineView {
    const COLUMNS: &'static [&'static str] = &[
        "agent",
        "office",
        "joined_ms",
        "certified_until_ms",
        "revoked_ms",
        "twin_of",
    ];

    fn cursor(&self) -> String {
        self.agent.to_string()
    }
}

/// Agents that have joined, by name
#[utoipa::path(
    get,
    path = "/api/v1/agents",
    params(ListParameters, Page),
    responses((status = 200, body = Vec<MachineView>), (status = 400, body = Problem, content_type = "application/problem+json"), (status = 409, body = Problem, content_type = "application/problem+json", description = "nobody joins here: agents connect in plaintext"))
)]
pub(super) async fn agents(
    axum::extract::State(shared): State,
    caller: Caller,
    asked: Asked,
    Parameters(ListParameters { region }): Parameters<ListParameters>,
) -> Result<Response, Problem> {
    let sees = region_of(region, &caller.regions)?;
    shared.members()?;
    let read = move |shared: &Shared| {
        let all = shared
            .query
            .members
            .iter()
            .flat_map(|members| members.list());
        let wanted = all.filter(|(_, member)| sees.has(&member.office));
        Ok(wanted
            .map(|(agent, member)| MachineView::of(agent, member))
            .collect())
    };
    asked.answer_of(shared, read).await
}

/// Shut an agent out for good, and those that were it before: its stream ends at once, and its certificate is worth nothing any more
#[utoipa::path(
    post,
    path = "/api/v1/agents/{agent}/revoke",
    params(("agent" = String, Path, example = "36-73-02-k7wq3")),
    responses((status = 200, body = Vec<String>, description = "who is shut out"), (status = 400, body = Problem, content_type = "application/problem+json"), (status = 404, body = Problem, content_type = "application/problem+json"), (status = 409, body = Problem, content_type = "application/problem+json", description = "nobody joins here: agents connect in plaintext"))
)]
pub(crate) async fn revoke(
    axum::extract::State(shared): State,
    caller: Caller,
    Path(agent): Path<String>,
) -> Result<Json<Vec<AgentId>>, Problem> {
    let agent: AgentId = agent.parse()?;
    let revoked = act(&shared, move |shared, members, now| {
        if !members
            .get(&agent)
            .is_some_and(|member| caller.regions.has(&member.office))
        {
            return Err(Refused::UnknownAgent(agent).into());
        }
        let revoked = members.revoke(&agent, now)?;
        for one in &revoked {
            shared.gate.dismiss(one)?;
        }
        Ok(revoked)
    });
    Ok(Json(revoked.await?))
}

/// Where to put a copy.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Copy {
    /// A new or empty folder on the collector's machine, outside its data folder: an absolute path.
    #[schema(value_type = String, example = "/backup/denyut-2026-11-26")]
    to: PathBuf,
}

/// A copy that was made.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Copied {
    /// What it is, in words.
    #[schema(example = "12 files, 3.1 MiB (taken 2026-11-26T08:00:00Z, up to record 4711)")]
    pub(crate) said: String,
}

/// Copy all that the collector knows to a folder of its machine; only through the control socket
#[utoipa::path(
    post,
    path = "/api/v1/backups",
    request_body = Copy,
    responses((status = 201, body = Copied), (status = 400, body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn back_up(
    axum::extract::State(shared): State,
    caller: Caller,
    Body(Copy { to }): Body<Copy>,
) -> Result<(StatusCode, Json<Copied>), Problem> {
    // It writes where it is told to on the machine: that is for who is on it.
    if caller.via != crate::access::Via::Socket {
        return Err(Problem::new(
            StatusCode::FORBIDDEN,
            "only through the control socket: run `denyut-collector backup` on the collector's machine",
        ));
    }
    let work = move || {
        let processed = shared.processed.load(Ordering::Acquire);
        crate::care::back_up(&shared.store, &to, processed, &shared.gate.clock)
    };
    let said = tokio::task::spawn_blocking(work)
        .await
        .context("a backup panicked")?;
    let said = said.map_err(|error| Problem::new(StatusCode::BAD_REQUEST, format!("{error:#}")))?;
    Ok((StatusCode::CREATED, Json(Copied { said })))
}

/// A region that is asked for, within those that the caller sees.
pub(super) fn region_of(region: Option<String>, sees: &Regions) -> Result<Regions, Invalid> {
    let Some(region) = region else {
        return Ok(sees.clone());
    };
    crate::config::region_of("region", &region)?;
    Ok(sees.and(&Regions::one(region)))
}
