//! Who has joined, and who may.
//!
//! Both lie in the state, and are on the disk before anybody is told: a machine that was made an agent stays one, and what was spent on it is spent.

use super::authority::{Authority, Fingerprint, Issued, Request};
use crate::keys;
use crate::registry::Registry;
use denyut_proto::{AgentId, Invalid, OfficeCode, Secret, UnixMillis};
use denyut_store::state::{Change, State, StateError, get_json, scan_json};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

/// How long an agent whose certificate is over may come back by its key alone.
pub(crate) const RETURNS_WITHIN: Duration = Duration::from_secs(90 * 86_400);
/// How long the later of two twins has to join anew.
const TWIN_WITHIN: Duration = Duration::from_secs(600);
/// Letters of an id after the office's code: of 32, so that 2²⁵ machines may join at one office.
const ID_LETTERS: usize = 5;

/// A permission to join, kept under the digest of its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Offer {
    pub(crate) office: OfficeCode,
    pub(crate) created: UnixMillis,
    pub(crate) expires: UnixMillis,
    /// How many machines may still join by it.
    pub(crate) uses: u32,
    /// Whoever joins by it was this agent before: a copy of its disk.
    #[serde(default)]
    pub(crate) twin_of: Option<AgentId>,
}

/// A machine that has joined.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Member {
    pub(crate) office: OfficeCode,
    pub(crate) joined: UnixMillis,
    /// Of its public key: it keeps the one that it joined with.
    pub(crate) key: Fingerprint,
    /// When its newest certificate is over.
    pub(crate) certified_until: UnixMillis,
    /// When an operator shut it out.
    #[serde(default)]
    pub(crate) revoked: Option<UnixMillis>,
    /// It was this agent before, on a copy of its disk: what is known against the one is known against the other.
    #[serde(default)]
    pub(crate) twin_of: Option<AgentId>,
}

/// Why somebody is no member. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    #[error(
        "the invitation is unknown: it was used up, taken back, or never made here; make a new one (`denyutctl invitation create`)"
    )]
    UnknownInvitation,
    #[error("`{0}` is no invitation; `denyutctl invitation list` shows them")]
    NoSuchInvitation(String),
    #[error("the invitation expired at {0}; make a new one (`denyutctl invitation create`)")]
    ExpiredInvitation(UnixMillis),
    #[error(
        "the invitation is for office {0}, which is no longer in the collector's configuration; add it there, or make one for another"
    )]
    UnknownOffice(OfficeCode),
    #[error(
        "agent {0} is unknown here; join again with a new invitation (`denyut-agent join --again`)"
    )]
    UnknownAgent(AgentId),
    #[error(
        "agent {0} was revoked at {1}; if that was a mistake, join again with a new invitation (`denyut-agent join --again`)"
    )]
    Revoked(AgentId, UnixMillis),
    #[error(
        "agent {0} has joined with another key; join again with a new invitation (`denyut-agent join --again`)"
    )]
    OtherKey(AgentId),
    #[error(
        "the certificate of agent {0} was over at {1}, too long ago to come back by itself; join again with a new invitation (`denyut-agent join --again`)"
    )]
    GoneTooLong(AgentId, UnixMillis),
    #[error("`certificate_request`: {0}; send a PKCS #10 request for a P-256 key, in DER")]
    Request(&'static str),
    #[error(transparent)]
    Broken(#[from] anyhow::Error),
}

/// The beginning of the digest of its secret: it names an offer, and opens nothing.
fn name_of_offer(key: &str) -> &str {
    let digest = &key[keys::OFFERS.len()..];
    digest.get(..12).unwrap_or(digest)
}

/// Lets those that have joined speak. What is in the configuration too is as that says.
fn enter(registry: &Registry, members: &BTreeMap<AgentId, Member>) {
    let here = members
        .iter()
        .filter(|(_, member)| member.revoked.is_none());
    for (agent, member) in here {
        if let Err(office) = registry.enter(agent, &member.office) {
            tracing::warn!(%agent, joined = %member.office, configured = %office, "an agent that has joined is in the configuration too");
        }
    }
}

/// Lets those that have joined, as the state has it, speak.
pub(crate) fn enter_all(registry: &Registry, state: &dyn State) -> anyhow::Result<()> {
    enter(registry, &read(state)?);
    Ok(())
}

fn read(state: &dyn State) -> anyhow::Result<BTreeMap<AgentId, Member>> {
    scan_json::<Member>(state, keys::MEMBERS)?
        .into_iter()
        .map(|(key, member)| Ok((key[keys::MEMBERS.len()..].parse()?, member)))
        .collect()
}

/// Keeps offers and members.
pub(crate) struct Members {
    state: Arc<dyn State>,
    registry: Arc<Registry>,
    authority: Authority,
    all: RwLock<BTreeMap<AgentId, Member>>,
    /// Nobody else changes offers or members meanwhile.
    changing: Mutex<()>,
}

impl Members {
    /// Reads who has joined; see [`enter_all`] for who may speak.
    pub(crate) fn open(
        state: Arc<dyn State>,
        registry: Arc<Registry>,
        authority: Authority,
    ) -> anyhow::Result<Self> {
        let all = read(&*state)?;
        Ok(Self {
            state,
            registry,
            authority,
            all: RwLock::new(all),
            changing: Mutex::default(),
        })
    }

    pub(crate) fn authority(&self) -> &Authority {
        &self.authority
    }

    /// The name of an office.
    pub(crate) fn name_of(&self, office: &OfficeCode) -> String {
        let office = self.registry.office(office);
        office.map_or_else(String::new, |office| office.name.clone())
    }

    /// One member.
    pub(crate) fn get(&self, agent: &AgentId) -> Option<Member> {
        let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
        all.get(agent).cloned()
    }

    /// All of them.
    pub(crate) fn list(&self) -> BTreeMap<AgentId, Member> {
        let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
        all.clone()
    }

    /// Makes an offer; its secret is known to nobody but the caller.
    pub(crate) fn invite(
        &self,
        office: &OfficeCode,
        uses: u32,
        expires: UnixMillis,
        now: UnixMillis,
    ) -> Result<Secret, Refused> {
        if !self.registry.has(office) {
            return Err(anyhow::Error::from(Invalid::new(
                "office",
                office,
                "not in the collector's configuration",
                "add the [[office]] there and restart the collector",
            ))
            .into());
        }
        let secret = Secret(rand::random());
        let offer = Offer {
            office: office.clone(),
            created: now,
            expires,
            uses,
            twin_of: None,
        };
        self.keep_offer(&secret, &offer, now)?;
        Ok(secret)
    }

    /// Makes an offer for the later of two machines that speak as one agent.
    pub(crate) fn invite_twin(&self, agent: &AgentId, now: UnixMillis) -> Result<Secret, Refused> {
        let member = self
            .get(agent)
            .ok_or_else(|| Refused::UnknownAgent(agent.clone()))?;
        let secret = Secret(rand::random());
        let offer = Offer {
            office: member.office,
            created: now,
            expires: now + TWIN_WITHIN,
            uses: 1,
            twin_of: Some(agent.clone()),
        };
        self.keep_offer(&secret, &offer, now)?;
        Ok(secret)
    }

    fn keep_offer(&self, secret: &Secret, offer: &Offer, now: UnixMillis) -> Result<(), Refused> {
        let mut change = Change::default();
        change.put_json(keys::offer(secret), offer)?;
        // What nobody can use any more goes, a part at a time.
        let all = scan_json::<Offer>(&*self.state, keys::OFFERS)?;
        let over = all.into_iter().filter(|(_, offer)| offer.expires <= now);
        change.delete = over.map(|(key, _)| key).take(100).collect();
        self.keep(change)
    }

    /// All offers, by the names that operators know them by.
    pub(crate) fn offers(&self) -> anyhow::Result<Vec<(String, Offer)>> {
        let all = scan_json::<Offer>(&*self.state, keys::OFFERS)?;
        Ok(all
            .into_iter()
            .map(|(key, offer)| (name_of_offer(&key).to_owned(), offer))
            .collect())
    }

    /// Takes an offer back.
    pub(crate) fn forget_offer(&self, name: &str) -> Result<(), Refused> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let all = scan_json::<Offer>(&*self.state, keys::OFFERS)?;
        let mut change = Change::default();
        let same = all
            .into_iter()
            .filter(|(key, _)| name_of_offer(key) == name);
        change.delete = same.map(|(key, _)| key).collect();
        if change.delete.is_empty() {
            return Err(Refused::NoSuchInvitation(name.to_owned()));
        }
        self.keep(change)
    }

    /// Makes an agent of who holds an offer's secret and a key.
    pub(crate) fn join(
        &self,
        secret: &Secret,
        request: &Request,
        now: UnixMillis,
    ) -> Result<(AgentId, Member, Issued), Refused> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let key = keys::offer(secret);
        let mut offer: Offer = get_json(&*self.state, &key)?.ok_or(Refused::UnknownInvitation)?;
        if now >= offer.expires {
            return Err(Refused::ExpiredInvitation(offer.expires));
        }
        let office = offer.office.clone();
        if !self.registry.has(&office) {
            return Err(Refused::UnknownOffice(office));
        }
        let agent = self.new_id(&office)?;
        let issued = self.authority.agent(&agent, request, now)?;
        let member = Member {
            office,
            joined: now,
            key: request.fingerprint.clone(),
            certified_until: issued.until,
            revoked: None,
            twin_of: offer.twin_of.clone(),
        };
        let mut change = Change::default();
        offer.uses = offer.uses.saturating_sub(1);
        if offer.uses == 0 {
            change.delete.push(key);
        } else {
            change.put_json(key, &offer)?;
        }
        change.put_json(keys::member(&agent), &member)?;
        self.keep(change)?;
        self.note(&agent, &member);
        Ok((agent, member, issued))
    }

    /// A new certificate for a member, who holds the key of the request and, by `coming_back`, has no certificate that is good.
    pub(crate) fn certify(
        &self,
        agent: &AgentId,
        request: &Request,
        coming_back: bool,
        now: UnixMillis,
    ) -> Result<(Member, Issued), Refused> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut member = self.admit(agent, &request.fingerprint)?;
        if coming_back && now > member.certified_until + RETURNS_WITHIN {
            return Err(Refused::GoneTooLong(agent.clone(), member.certified_until));
        }
        let issued = self.authority.agent(agent, request, now)?;
        member.certified_until = issued.until;
        let mut change = Change::default();
        change.put_json(keys::member(agent), &member)?;
        self.keep(change)?;
        self.note(agent, &member);
        Ok((member, issued))
    }

    /// The member that this is, if it is one still.
    pub(crate) fn admit(&self, agent: &AgentId, key: &Fingerprint) -> Result<Member, Refused> {
        let member = self
            .get(agent)
            .ok_or_else(|| Refused::UnknownAgent(agent.clone()))?;
        if let Some(at) = member.revoked {
            return Err(Refused::Revoked(agent.clone(), at));
        }
        if member.key != *key {
            return Err(Refused::OtherKey(agent.clone()));
        }
        Ok(member)
    }

    /// Shuts a member out for good, and those that were it before: its key may be in the same hands. Returns all of them.
    pub(crate) fn revoke(&self, agent: &AgentId, now: UnixMillis) -> Result<Vec<AgentId>, Refused> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let all = self.list();
        if !all.contains_key(agent) {
            return Err(Refused::UnknownAgent(agent.clone()));
        }
        let mut out = vec![agent.clone()];
        let mut next = 0;
        while let Some(one) = out.get(next).cloned() {
            let twins = all
                .iter()
                .filter(|(_, other)| other.twin_of.as_ref() == Some(&one));
            out.extend(twins.map(|(id, _)| id.clone()));
            next += 1;
        }
        for one in &out {
            let mut member = all[one].clone();
            member.revoked.get_or_insert(now);
            let mut change = Change::default();
            change.put_json(keys::member(one), &member)?;
            self.keep(change)?;
            self.note(one, &member);
        }
        Ok(out)
    }

    fn new_id(&self, office: &OfficeCode) -> Result<AgentId, Refused> {
        const LETTERS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
        let place = office.as_str().replace('.', "-");
        loop {
            let letters: [u8; ID_LETTERS] = rand::random();
            let letters: String = letters
                .iter()
                .map(|byte| char::from(LETTERS[usize::from(byte % 32)]))
                .collect();
            let id: AgentId = format!("{place}-{letters}")
                .parse()
                .map_err(anyhow::Error::from)?;
            if self.get(&id).is_none() && self.registry.office_of(&id).is_none() {
                return Ok(id);
            }
        }
    }

    /// Returns when the change is on the disk.
    fn keep(&self, change: Change) -> Result<(), Refused> {
        self.state.apply(change).map_err(|error| match error {
            StateError::Conflict { key } => anyhow::anyhow!("`{key}` was changed by another"),
            StateError::Store(error) => error,
        })?;
        Ok(self.state.sync()?)
    }

    fn note(&self, agent: &AgentId, member: &Member) {
        match member.revoked {
            // It may be there already.
            None => drop(self.registry.enter(agent, &member.office)),
            Some(_) => self.registry.leave(agent),
        }
        let mut all = self.all.write().unwrap_or_else(PoisonError::into_inner);
        all.insert(agent.clone(), member.clone());
    }
}
