//! Carries messages to one receiver, one after the other, until it takes them.

use super::Receiver;
use super::channel::Undelivered;
use super::outbox::{Message, Outbox, WAIT_MOST};
use crate::clock::Clock;
use crate::metrics::{Delivery, Metrics};
use anyhow::Context;
use denyut_store::history::is_full;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// It is looked at least so often.
const LOOK: Duration = Duration::from_secs(10);

/// What carries to one receiver.
pub(crate) struct Courier {
    pub(crate) receiver: Receiver,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) clock: Arc<Clock>,
    pub(crate) metrics: Arc<Metrics>,
}

impl Courier {
    /// Runs until `stop`; what is on its way then arrives, or is sent again by the next one.
    pub(crate) async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        while !stop.is_cancelled() {
            let filled = self.outbox.filled.notified();
            let (outbox, name) = (Arc::clone(&self.outbox), self.receiver.name.clone());
            let next = blocking(move || outbox.next(&name)).await?;
            let now = self.clock.read().now;
            let wait = match &next {
                // Further ahead than anybody would put it: the clock was.
                Some(message)
                    if message.next_ms <= now || message.next_ms > now + 2 * WAIT_MOST =>
                {
                    match self.send(message.clone()).await {
                        Ok(()) => continue,
                        // It passes; the message is sent again when there is room.
                        Err(error) if is_full(&error) => LOOK,
                        Err(error) => return Err(error),
                    }
                }
                Some(message) => message.next_ms.since(now).min(LOOK),
                None => LOOK,
            };
            tokio::select! {
                () = filled => {}
                () = stop.cancelled() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
        Ok(())
    }

    async fn send(&self, message: Message) -> anyhow::Result<()> {
        let now = self.clock.read().now;
        let channel = &self.receiver.channel;
        let place = channel.place();
        let (outbox, asked) = (Arc::clone(&self.outbox), message.clone());
        let thread = blocking(move || outbox.thread(&asked, place)).await?;
        let sent = channel.send(&message, thread.as_ref(), now).await;
        let outbox = Arc::clone(&self.outbox);
        let count = |result: &'static str| {
            let receiver = self.receiver.name.clone();
            self.metrics
                .messages
                .get_or_create(&Delivery { receiver, result })
                .inc();
        };
        let (why, never, wait) = match sent {
            Ok(sent) => {
                count("delivered");
                info!(
                    receiver = self.receiver.name,
                    number = message.number,
                    "a message arrived"
                );
                return blocking(move || outbox.delivered(&message, &sent, place, now)).await;
            }
            Err(Undelivered::Later(why, wait)) => (why, false, wait),
            Err(Undelivered::Never(why)) => (why, true, None),
        };
        let (number, text) = (message.number, why.clone());
        let now = self.clock.read().now;
        let kept = blocking(move || outbox.failed(message, why, never, wait, now)).await?;
        if kept.dead_ms.is_some() {
            count("dead");
            warn!(
                receiver = self.receiver.name,
                number,
                error = text,
                "a message cannot be delivered; `denyutctl message list` shows it"
            );
        } else {
            count("failed");
            warn!(receiver = self.receiver.name, number, error = text, again = %kept.next_ms, "a message did not arrive");
        }
        Ok(())
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .context("the outbox panicked")?
}
