//! Names to addresses through the system, a bounded number at a time.
//!
//! The system's look-up blocks a thread for as long as its name servers stay silent, and cannot be called off. Without a bound
//! a dead name server would take a thread more with every probe.

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Look-ups under way, at most. The rest wait, and time out waiting.
const LOOKUPS: usize = 8;

/// One for all probes.
#[derive(Debug, Clone)]
pub(super) struct Resolver(Arc<Semaphore>);

impl Resolver {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(LOOKUPS)))
    }

    /// All addresses of a name. Dropping the future leaves the look-up running, and its place taken.
    pub(super) async fn look_up(&self, host: String, port: u16) -> io::Result<Vec<SocketAddr>> {
        let place = Arc::clone(&self.0)
            .acquire_owned()
            .await
            .map_err(io::Error::other)?;
        tokio::spawn(async move {
            let _place = place;
            let found = tokio::net::lookup_host((host.as_str(), port)).await?;
            Ok(found.collect())
        })
        .await
        .map_err(io::Error::other)?
    }
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (resolver, host) = (self.clone(), name.as_str().to_owned());
        Box::pin(async move {
            let found = resolver.look_up(host, 0).await?;
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}
