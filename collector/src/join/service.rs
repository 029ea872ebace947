//! The calls of `denyut.v1.Membership`.

use super::authority::{Issued, Request};
use super::members::{Member, Members, Refused};
use crate::clock::Clock;
use crate::ingest::Caller;
use crate::metrics::Metrics;
use denyut_proto::wire::membership_server::Membership;
use denyut_proto::{AgentId, Secret, wire};
use std::sync::Arc;
use tokio::sync::Semaphore;
use tonic::{Request as Call, Response, Status};
use tracing::{info, warn};

/// Calls that are worked on at the same time: each signs, and waits for the disk.
const AT_ONCE: usize = 16;

/// The service as tonic calls it.
pub(crate) struct Service {
    members: Arc<Members>,
    clock: Arc<Clock>,
    metrics: Arc<Metrics>,
    turns: Arc<Semaphore>,
}

impl Service {
    pub(crate) fn new(members: Arc<Members>, clock: Arc<Clock>, metrics: Arc<Metrics>) -> Self {
        Self {
            members,
            clock,
            metrics,
            turns: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }

    /// Does the work where it may block, in its turn.
    async fn work<T: Send + 'static>(
        &self,
        what: &'static str,
        work: impl FnOnce(&Members) -> Result<T, Refused> + Send + 'static,
    ) -> Result<T, Status> {
        let turn = Arc::clone(&self.turns).acquire_owned().await;
        let members = Arc::clone(&self.members);
        let done = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            work(&members)
        });
        match done.await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(Refused::Broken(error))) => {
                warn!(what, error = %format!("{error:#}"), "cannot certify");
                Err(Status::unavailable(
                    "the collector cannot keep what it would promise",
                ))
            }
            Ok(Err(refused)) => {
                self.metrics.refused_members.inc();
                warn!(what, %refused, "refused");
                Err(Status::permission_denied(refused.to_string()))
            }
            Err(_) => Err(Status::internal("it panicked")),
        }
    }

    fn certificate(&self, agent: &AgentId, member: &Member, issued: &Issued) -> wire::Certificate {
        wire::Certificate {
            agent: agent.to_string(),
            office: member.office.to_string(),
            office_name: self.members.name_of(&member.office),
            chain: issued.chain.iter().map(|one| one.to_vec()).collect(),
            from_ms: issued.from.0,
            until_ms: issued.until.0,
        }
    }
}

fn request(der: &[u8]) -> Result<Request, Refused> {
    Request::read(der).map_err(Refused::Request)
}

#[tonic::async_trait]
impl Membership for Service {
    async fn join(
        &self,
        call: Call<wire::JoinRequest>,
    ) -> Result<Response<wire::Certificate>, Status> {
        let peer = Caller::address(&call);
        let asked = call.into_inner();
        let secret: [u8; 16] = asked.secret[..].try_into().map_err(|_| {
            Status::invalid_argument(format!(
                "`secret`: {} bytes; send the 16 of the invitation",
                asked.secret.len()
            ))
        })?;
        let now = self.clock.read().now;
        let (agent, member, issued) = self
            .work("a join", move |members| {
                members.join(&Secret(secret), &request(&asked.certificate_request)?, now)
            })
            .await?;
        info!(%agent, office = %member.office, ?peer, hostname = asked.machine.unwrap_or_default().hostname, "a machine joined");
        Ok(Response::new(self.certificate(&agent, &member, &issued)))
    }

    async fn renew(
        &self,
        call: Call<wire::RenewRequest>,
    ) -> Result<Response<wire::Certificate>, Status> {
        let (agent, key) = Caller::of(&call)?.certified()?;
        let asked = call.into_inner();
        let now = self.clock.read().now;
        let of = agent.clone();
        let (member, issued) = self
            .work("a renewal", move |members| {
                let request = request(&asked.certificate_request)?;
                if request.fingerprint != key {
                    return Err(Refused::OtherKey(of));
                }
                members.certify(&of, &request, false, now)
            })
            .await?;
        info!(%agent, until = %issued.until, "an agent renewed its certificate");
        Ok(Response::new(self.certificate(&agent, &member, &issued)))
    }

    async fn r#return(
        &self,
        call: Call<wire::ReturnRequest>,
    ) -> Result<Response<wire::Certificate>, Status> {
        let asked = call.into_inner();
        let agent: AgentId = asked
            .agent
            .parse()
            .map_err(|error: denyut_proto::Invalid| Status::invalid_argument(error.to_string()))?;
        let now = self.clock.read().now;
        let of = agent.clone();
        let (member, issued) = self
            .work("a return", move |members| {
                members.certify(&of, &request(&asked.certificate_request)?, true, now)
            })
            .await?;
        info!(%agent, until = %issued.until, "an agent came back and has a certificate again");
        Ok(Response::new(self.certificate(&agent, &member, &issued)))
    }
}
