//! Joining, and staying certified.

use crate::connect::{self, Meter, Trust};
use crate::identity::{Candidate, Identity};
use crate::machine;
use crate::status::Status;
use crate::stream::{explain, full_jitter};
use anyhow::{Context, bail};
use denyut_proto::wire::membership_client::MembershipClient;
use denyut_proto::wire::{self, JoinRequest, RenewRequest, ReturnRequest};
use denyut_proto::{AgentId, Invitation, Secret, UnixMillis};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tracing::{info, warn};

/// The longest time until it is looked whether a certificate is to be renewed, and until a renewal that failed is tried again.
const LOOKS: Duration = Duration::from_secs(3_600);
/// How long an answer may take.
const ANSWERS_WITHIN: Duration = Duration::from_secs(30);

/// The identity of a running agent: others read it, one renews it.
#[derive(Debug, Clone)]
pub(crate) struct Held {
    identity: Arc<Mutex<Identity>>,
    data_dir: PathBuf,
    status: Arc<Mutex<Status>>,
    /// The collector says that the certificate is over.
    over: Arc<Notify>,
    /// Counts what its own connections carry.
    meter: Meter,
}

impl Held {
    pub(crate) fn new(
        identity: Identity,
        data_dir: &Path,
        status: &Arc<Mutex<Status>>,
        meter: &Meter,
    ) -> Self {
        let held = Self {
            identity: Arc::new(Mutex::new(identity.clone())),
            data_dir: data_dir.to_owned(),
            status: Arc::clone(status),
            over: Arc::default(),
            meter: meter.clone(),
        };
        held.note(identity);
        held
    }

    /// From now on it is this.
    fn note(&self, identity: Identity) {
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        status.agent = identity.agent.to_string();
        status.certified_until_ms = Some(identity.until);
        *self.lock() = identity;
    }

    /// As it is now.
    pub(crate) fn now(&self) -> Identity {
        self.lock().clone()
    }

    /// The collector took the certificate for one that is over, whatever this machine's clock says.
    pub(crate) fn tell_over(&self) {
        self.over.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Identity> {
        self.identity.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Renews the certificate at two thirds of its life, and gets one again when it is over; until `stop`. Whoever has a connection keeps it.
    pub(crate) async fn keep_certified(self, stop: CancellationToken) {
        let mut failures = 0;
        loop {
            let identity = self.now();
            let due = identity.renew_at().since(machine::wall());
            let wait = match failures {
                0 => due.min(LOOKS),
                _ => full_jitter(failures + 4, LOOKS),
            };
            let mut over = identity.is_over();
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.over.notified() => over = true,
                () = tokio::time::sleep(wait) => {}
            }
            if !over && machine::wall() < identity.renew_at() {
                failures = 0;
                continue;
            }
            match self.renew(&identity, over).await {
                Ok(until) => {
                    failures = 0;
                    info!(%until, "the agent has a new certificate");
                }
                Err(error) => {
                    failures += 1;
                    warn!(error = %format!("{error:#}"), until = %identity.until, "no new certificate");
                }
            }
        }
    }

    /// Joins as another agent at the same collector; returns which.
    pub(crate) async fn join_anew(&self, secret: Secret) -> anyhow::Result<AgentId> {
        let before = self.now();
        let tls = connect::tls_as(&before, false)?;
        let channel = connect::connect(&before.uri()?, Some(tls), &self.meter).await?;
        let (identity, _) = spend(channel, &secret, before.collector()).await?;
        let (to_write, data_dir) = (identity.clone(), self.data_dir.clone());
        tokio::task::spawn_blocking(move || to_write.write(&data_dir)).await??;
        let agent = identity.agent.clone();
        self.note(identity);
        Ok(agent)
    }

    async fn renew(&self, identity: &Identity, over: bool) -> anyhow::Result<UnixMillis> {
        let tls = connect::tls_as(identity, !over)?;
        let channel = connect::connect(&identity.uri()?, Some(tls), &self.meter).await?;
        let mut client = MembershipClient::new(channel);
        let certificate_request = identity.request()?;
        let answer = async {
            if over {
                let agent = identity.agent.to_string();
                let asked = ReturnRequest {
                    agent,
                    certificate_request,
                };
                client.r#return(asked).await
            } else {
                client
                    .renew(RenewRequest {
                        certificate_request,
                    })
                    .await
            }
        };
        let answer = tokio::time::timeout(ANSWERS_WITHIN, answer)
            .await
            .context("the collector does not answer")?
            .map_err(explain)?;
        let renewed = identity.renewed(answer.get_ref())?;
        let (to_write, data_dir) = (renewed.clone(), self.data_dir.clone());
        tokio::task::spawn_blocking(move || to_write.write(&data_dir)).await??;
        let until = renewed.until;
        self.note(renewed);
        Ok(until)
    }
}

/// Makes this machine an agent by an invitation; returns who it is and its office.
pub(crate) async fn join(
    data_dir: &Path,
    invitation: &Invitation,
    again: bool,
) -> anyhow::Result<(Identity, wire::Certificate)> {
    if let Some(known) = Identity::read(data_dir).or_else(|error| {
        // One that cannot be read is in nobody's way.
        if again { Ok(None) } else { Err(error) }
    })? && !again
    {
        bail!(
            "this machine has joined already, as {}; to join anew, add --again",
            known.agent
        );
    }
    let uri = invitation
        .address
        .parse()
        .context("the invitation's address cannot be read")?;
    let tls = connect::tls(Trust::Pinned(invitation.authority), None)?;
    let channel = connect::connect(&uri, Some(tls), &Meter::default())
        .await
        .with_context(|| {
            format!(
                "{}; this machine's clock says {}",
                invitation.address,
                machine::wall()
            )
        })?;
    let (identity, answer) = spend(channel, &invitation.secret, &invitation.address).await?;
    identity.write(data_dir)?;
    Ok((identity, answer))
}

/// Joins by a secret, with a new key.
async fn spend(
    channel: Channel,
    secret: &Secret,
    collector: &str,
) -> anyhow::Result<(Identity, wire::Certificate)> {
    let candidate = Candidate::new()?;
    let asked = JoinRequest {
        secret: secret.0.to_vec(),
        certificate_request: candidate.request()?,
        machine: Some(machine::facts()),
    };
    let mut client = MembershipClient::new(channel);
    let answer = tokio::time::timeout(ANSWERS_WITHIN, client.join(asked))
        .await
        .context("the collector does not answer")?
        .map_err(explain)?
        .into_inner();
    let identity = candidate.becomes(collector.to_owned(), &answer)?;
    Ok((identity, answer))
}
