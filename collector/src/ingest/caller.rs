//! Who calls, and what they may do: the one place that says so.

use crate::join::{Fingerprint, Member, Members, Refused, SPIFFE};
use crate::registry::{Office, Registry};
use denyut_proto::{AgentId, OfficeCode, UnixMillis};
use rustls::pki_types::CertificateDer;
use std::net::SocketAddr;
use std::sync::Arc;
use tonic::{Request as Call, Status};

/// The other end of a connection.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    pub(super) address: Option<SocketAddr>,
    pub(super) proof: Proof,
}

/// What the other end showed of who it is.
#[derive(Debug, Clone)]
pub(crate) enum Proof {
    /// Plaintext: it is who it says.
    Plaintext,
    /// TLS, and no certificate.
    Nothing,
    /// A certificate that our authority signed for no agent; and why.
    Useless(&'static str),
    /// An agent's certificate.
    Certified(Certified),
}

/// What a certificate says.
#[derive(Debug, Clone)]
pub(crate) struct Certified {
    pub(super) agent: AgentId,
    /// Of its public key.
    pub(super) key: Fingerprint,
    /// It is good until then.
    pub(super) until: UnixMillis,
}

impl Proof {
    /// Reads the certificate that the client showed, which the handshake found to be signed by our authority and good for now.
    pub(crate) fn of(certificate: Option<&CertificateDer<'_>>) -> Self {
        let Some(certificate) = certificate else {
            return Self::Nothing;
        };
        let Ok((_, parsed)) = x509_parser::parse_x509_certificate(certificate) else {
            return Self::Useless("it cannot be read");
        };
        let names = parsed.subject_alternative_name().ok().flatten();
        let mut names = names.into_iter().flat_map(|san| &san.value.general_names);
        let agent = names.find_map(|name| match name {
            x509_parser::extensions::GeneralName::URI(uri) => {
                uri.strip_prefix(SPIFFE)?.parse().ok()
            }
            _ => None,
        });
        match agent {
            Some(agent) => Self::Certified(Certified {
                agent,
                key: Fingerprint::of(parsed.public_key().raw),
                until: UnixMillis(
                    parsed
                        .validity()
                        .not_after
                        .timestamp()
                        .saturating_mul(1_000),
                ),
            }),
            None => Self::Useless("its SAN holds no URI spiffe://denyut/agent/<id>"),
        }
    }
}

/// Who calls.
#[derive(Debug)]
pub(crate) struct Caller(Proof);

impl Caller {
    /// Who makes a call.
    pub(crate) fn of<T>(call: &Call<T>) -> Result<Self, Status> {
        match call.extensions().get::<Peer>() {
            Some(peer) => Ok(Self(peer.proof.clone())),
            None => Err(Status::internal("a call without a connection")),
        }
    }

    /// Where a call comes from.
    pub(crate) fn address<T>(call: &Call<T>) -> Option<SocketAddr> {
        call.extensions().get::<Peer>()?.address
    }

    /// The agent whose certificate the caller holds, and the certificate's key.
    pub(crate) fn certified(self) -> Result<(AgentId, Fingerprint), Status> {
        match self.0 {
            Proof::Certified(certified) => Ok((certified.agent, certified.key)),
            Proof::Plaintext | Proof::Nothing => Err(Status::unauthenticated(
                "this call needs the certificate of an agent; join first (`denyut-agent join`)",
            )),
            Proof::Useless(why) => Err(useless(why)),
        }
    }

    /// The office that the caller may speak for as this agent, and until when if that is bounded.
    pub(super) fn speaks_as(
        &self,
        agent: &AgentId,
        registry: &Registry,
        members: Option<&Members>,
    ) -> Result<(OfficeCode, Arc<Office>, Option<UnixMillis>), Status> {
        let mut until = None;
        match &self.0 {
            Proof::Plaintext => {}
            Proof::Nothing => {
                return Err(Status::unauthenticated(
                    "no certificate; join first (`denyut-agent join`)",
                ));
            }
            Proof::Useless(why) => return Err(useless(why)),
            Proof::Certified(certified) => {
                if certified.agent != *agent {
                    return Err(Status::permission_denied(format!(
                        "`hello.agent` = `{agent}`: the certificate is `{0}`'s; set `agent` to that, or use {agent}'s certificate",
                        certified.agent
                    )));
                }
                until = Some(certified.until);
                // One that is named in the configuration has its certificate from whoever keeps the authority.
                if let Some(members) = members
                    && members.get(agent).is_some()
                {
                    let member = members.admit(agent, &certified.key);
                    let member: Member = member.map_err(|refused: Refused| {
                        Status::permission_denied(refused.to_string())
                    })?;
                    until = until.max(Some(member.certified_until));
                }
            }
        }
        let (code, office) = registry.office_of(agent).ok_or_else(|| {
            Status::permission_denied(format!(
                "`hello.agent` = `{agent}`: unknown agent; let it join (`denyutctl invitation create`), or add it to `agents` of its [[office]] in the collector's configuration and restart the collector"
            ))
        })?;
        Ok((code, office, until))
    }
}

fn useless(why: &str) -> Status {
    Status::unauthenticated(format!("the client certificate names no agent: {why}"))
}
