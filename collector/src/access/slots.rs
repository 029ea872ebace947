//! How many long answers there are at once: in all, and for each caller.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Slots of a kind.
#[derive(Debug)]
pub(crate) struct Slots {
    all: usize,
    each: usize,
    taken: Mutex<HashMap<String, usize>>,
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
    }
}

#[cfg(test)]
mod tests {
    use super::Slots;

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
}
