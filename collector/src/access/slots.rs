//! How many long answers there are at once: in all, and for each caller.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Notify;

/// Slots of a kind.
#[derive(Debug)]
pub(crate) struct Slots {
    all: usize,
    each: usize,
    taken: Mutex<HashMap<String, usize>>,
    /// One was given back.
    freed: Notify,
}

/// A slot that is taken until this is dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    slots: Arc<Slots>,
    caller: String,
}

impl Slots {
    /// So many in all, and so many for each caller.
    pub(crate) fn new(all: usize, each: usize) -> Arc<Self> {
        Arc::new(Self {
            all,
            each,
            taken: Mutex::default(),
            freed: Notify::new(),
        })
    }

    /// Takes one; `None` if there is none left for this caller.
    pub(crate) fn take(self: &Arc<Self>, caller: &str) -> Option<Slot> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = taken.values().sum();
        let own = taken.get(caller).copied().unwrap_or(0);
        if all >= self.all || own >= self.each {
            return None;
        }
        taken.insert(caller.to_owned(), own + 1);
        Some(Slot {
            slots: Arc::clone(self),
            caller: caller.to_owned(),
        })
    }

    /// Takes one as soon as there is one for this caller.
    pub(crate) async fn wait(self: &Arc<Self>, caller: &str) -> Slot {
        loop {
            let mut freed = pin!(self.freed.notified());
            // From here on none that is given back is missed.
            freed.as_mut().enable();
            if let Some(slot) = self.take(caller) {
                return slot;
            }
            freed.await;
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut taken = self
            .slots
            .taken
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = taken.get_mut(&self.caller) {
            *own -= 1;
            if *own == 0 {
                taken.remove(&self.caller);
            }
        }
        drop(taken);
        self.slots.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::Slots;
    use std::sync::Arc;

    #[test]
    fn one_caller_does_not_take_all() {
        let slots = Slots::new(3, 2);
        let (one, two) = (slots.take("a"), slots.take("a"));
        assert!(one.is_some() && two.is_some() && slots.take("a").is_none());
        let other = slots.take("b");
        assert!(other.is_some() && slots.take("c").is_none(), "three in all");
        drop(one);
        assert!(slots.take("c").is_some() && slots.take("a").is_some());
    }

    #[tokio::test]
    async fn who_waits_gets_the_next_that_is_free() {
        let slots = Slots::new(3, 2);
        let mine = [slots.take("a"), slots.take("a")];
        let waits = tokio::spawn({
            let slots = Arc::clone(&slots);
            async move { slots.wait("a").await }
        });
        tokio::task::yield_now().await;
        let other = slots.wait("b").await;
        assert!(!waits.is_finished(), "one of their own must be free");
        drop(other);
        drop(mine);
        let _mine = (waits.await.expect("waits"), slots.take("a"));
        assert!(slots.take("a").is_none(), "it holds one");
    }
}
