//! What the collector tells the service manager that started it. Without one nobody listens.

use sd_notify::NotifyState;
use tracing::debug;

/// It listens.
pub(crate) fn tell_ready() {
    tell(NotifyState::Ready);
}

/// What is accepted reaches the disk: without that for a while, the service manager starts the collector anew.
pub(crate) fn tell_alive() {
    tell(NotifyState::Watchdog);
}

/// It stops.
pub(crate) fn tell_stopping() {
    tell(NotifyState::Stopping);
}

fn tell(state: NotifyState<'_>) {
    // Nothing depends on it but the manager's view of us.
    if let Err(error) = sd_notify::notify(false, &[state]) {
        debug!(%error, "the service manager was not told");
    }
}
