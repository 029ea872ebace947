//! Which entries of the spool were sent, and which are on the collector's disk.
//!
//! Entries go out in ascending sequence, but for what is left for later: a *hole*. What is in a hole counts as not acknowledged, and so is
//! everything after it as far as the spool is concerned; what is sent twice for that (after a restart) changes nothing at the collector.

use std::collections::VecDeque;

/// Entries sent and not yet acknowledged, at most.
pub(crate) const WINDOW: usize = 512;
/// Holes at the same time, at most; the two youngest become one beyond it.
const HOLES: usize = 64;

/// Entries that wait while younger ones are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Hole {
    /// The first that is not acknowledged, and the last.
    from: u64,
    to: u64,
    /// The last that was sent on this stream; `from - 1` for none.
    sent: u64,
}

/// What became of the spool's entries.
#[derive(Debug, Default)]
pub(crate) struct Delivery {
    /// Ascending; each before `sent`.
    holes: VecDeque<Hole>,
    /// The last that was sent on this stream, but for holes.
    sent: u64,
    /// The last that was acknowledged, but for holes.
    acked: u64,
    in_flight: VecDeque<u64>,
}

/// A place from which on entries are to be sent: those after `after`, at most up to `to`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Next {
    pub(crate) after: u64,
    pub(crate) to: u64,
}

impl Delivery {
    /// A stream begins; the collector holds everything up to `held` but for what is in holes.
    pub(crate) fn begin(&mut self, held: u64) {
        self.in_flight.clear();
        self.holes.retain_mut(|hole| {
            hole.sent = hole.from - 1;
            hole.from <= held
        });
        if let Some(last) = self.holes.back_mut() {
            last.to = last.to.min(held);
        }
        (self.sent, self.acked) = (held, held);
    }

    /// What the collector holds of entries that are not in holes.
    pub(crate) fn acked(&self) -> u64 {
        self.acked
    }

    /// How many more may be sent.
    pub(crate) fn room(&self) -> usize {
        WINDOW.saturating_sub(self.in_flight.len())
    }

    pub(crate) fn is_waiting(&self) -> bool {
        !self.in_flight.is_empty()
    }

    /// The last that was sent, but for holes.
    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }

    /// Leaves for later what was not sent before `live`.
    pub(crate) fn leave_before(&mut self, live: u64) {
        let (from, to) = (self.sent + 1, live.saturating_sub(1));
        if from > to {
            return;
        }
        self.sent = to;
        self.holes.push_back(Hole {
            from,
            to,
            sent: from - 1,
        });
        if self.holes.len() > HOLES
            && let (Some(young), Some(old)) = (self.holes.pop_back(), self.holes.back_mut())
        {
            // What lies between them is sent once more.
            old.to = young.to;
        }
    }

    /// Entries that were left for later, oldest first; `None` if all of them were sent.
    pub(crate) fn left(&self) -> Option<Next> {
        let hole = self.holes.iter().find(|hole| hole.sent < hole.to)?;
        Some(Next {
            after: hole.sent,
            to: hole.to,
        })
    }

    /// This one is sent; all before it in its hole, or else before it at all, that were not, are not there any more.
    pub(crate) fn sending(&mut self, seq: u64) {
        self.in_flight.push_back(seq);
        if seq > self.sent {
            self.sent = seq;
        } else if let Some(hole) = self.holes.iter_mut().find(|hole| seq <= hole.to) {
            hole.sent = seq.max(hole.sent);
        }
    }

    /// A place was read to its end and held nothing more.
    pub(crate) fn is_empty_to(&mut self, next: Next) {
        if next.to > self.sent {
            self.sent = next.to;
            return;
        }
        self.holes
            .retain(|hole| hole.to != next.to || hole.from <= hole.sent);
        if let Some(hole) = self.holes.iter_mut().find(|hole| hole.to == next.to) {
            hole.to = hole.sent;
        }
    }

    /// All that was sent up to this one is on the collector's disk; returns up to where everything is.
    pub(crate) fn acknowledged(&mut self, seq: u64) -> u64 {
        // In the order in which they were sent: an acknowledgement covers what was sent before.
        let count = self.in_flight.iter().position(|sent| *sent == seq);
        for _ in 0..count.map_or(0, |at| at + 1) {
            let Some(seq) = self.in_flight.pop_front() else {
                break;
            };
            let hole = self.holes.iter_mut().find(|hole| seq <= hole.to);
            match hole {
                // Of holes that became one, what lies between them was not sent as of a hole.
                Some(hole) if (hole.from..=hole.sent).contains(&seq) => hole.from = seq + 1,
                Some(_) => {}
                None => self.acked = self.acked.max(seq),
            }
        }
        self.holes.retain(|hole| hole.from <= hole.to);
        self.whole_to()
    }

    /// Up to where everything is on the collector's disk.
    fn whole_to(&self) -> u64 {
        self.holes.front().map_or(self.acked, |hole| hole.from - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_order_it_is_as_if_there_were_no_holes() {
        let mut delivery = Delivery::default();
        delivery.begin(10);
        for seq in 11..=20 {
            delivery.sending(seq);
        }
        assert_eq!((delivery.sent(), delivery.room()), (20, WINDOW - 10));
        assert_eq!(delivery.acknowledged(15), 15);
        assert_eq!(
            (delivery.acknowledged(9), delivery.acknowledged(20)),
            (15, 20)
        );
        assert!(!delivery.is_waiting() && delivery.left().is_none());
    }

    #[test]
    fn what_is_left_for_later_is_not_acknowledged_by_what_is_younger() {
        let mut delivery = Delivery::default();
        delivery.begin(0);
        delivery.leave_before(100);
        delivery.sending(100);
        delivery.sending(101);
        assert_eq!(delivery.acknowledged(101), 0);
        assert_eq!(delivery.left(), Some(Next { after: 0, to: 99 }));
        for seq in 1..=60 {
            delivery.sending(seq);
        }
        assert_eq!(delivery.acknowledged(50), 50);
        // The stream breaks: what was not acknowledged of the hole is sent again, what was after it is not.
        delivery.begin(delivery.acked());
        assert_eq!(delivery.left(), Some(Next { after: 50, to: 99 }));
        assert_eq!(delivery.sent(), 101);
        for seq in 51..=99 {
            delivery.sending(seq);
        }
        delivery.sending(102);
        assert_eq!(delivery.acknowledged(99), 101);
        assert_eq!(delivery.acknowledged(102), 102);
        assert_eq!(delivery.left(), None);
    }

    #[test]
    fn a_hole_whose_entries_are_gone_ends() {
        let mut delivery = Delivery::default();
        delivery.begin(0);
        delivery.leave_before(10);
        delivery.sending(10);
        let left = delivery.left().expect("a hole");
        delivery.sending(3);
        assert_eq!(delivery.left(), Some(Next { after: 3, ..left }));
        // 4 to 9 were dropped from the spool.
        delivery.is_empty_to(left);
        assert_eq!(delivery.left(), None);
        assert_eq!(
            (delivery.acknowledged(10), delivery.acknowledged(3)),
            (0, 10)
        );
        // One of which nothing was there.
        delivery.leave_before(20);
        delivery.is_empty_to(delivery.left().expect("a hole"));
        assert_eq!(delivery.left(), None);
        delivery.sending(20);
        assert_eq!(delivery.acknowledged(20), 20);
    }

    #[test]
    fn a_collector_that_lost_something_gets_it_again() {
        let mut delivery = Delivery::default();
        delivery.begin(0);
        delivery.leave_before(50);
        delivery.sending(50);
        delivery.acknowledged(50);
        delivery.begin(30);
        assert_eq!(delivery.left(), Some(Next { after: 0, to: 30 }));
        assert_eq!(delivery.sent(), 30);
    }

    #[test]
    fn what_was_never_sent_is_not_acknowledged_when_holes_become_one() {
        let mut delivery = Delivery::default();
        delivery.begin(0);
        let mut live = 0;
        // One more than are kept apart, and all that was sent beside them still on its way.
        for _ in 0..=HOLES {
            live += 5;
            delivery.leave_before(live);
            delivery.sending(live);
        }
        assert_eq!(delivery.acknowledged(live), 0);
        delivery.begin(live);
        let mut told = Vec::new();
        while let Some(next) = delivery.left() {
            delivery.sending(next.after + 1);
            told.push(next.after + 1);
            delivery.acknowledged(next.after + 1);
        }
        let missing = (1..=live).filter(|seq| seq % 5 != 0 && !told.contains(seq));
        assert_eq!(missing.count(), 0);
        assert_eq!(delivery.whole_to(), live);
    }

    #[test]
    fn holes_are_bounded() {
        let mut delivery = Delivery::default();
        delivery.begin(0);
        for i in 1..=1_000 {
            delivery.leave_before(i * 10);
            delivery.sending(i * 10);
            delivery.acknowledged(i * 10);
        }
        assert!(delivery.holes.len() <= HOLES);
        let mut sent = 0;
        while let Some(next) = delivery.left() {
            delivery.sending(next.after + 1);
            sent += 1;
            delivery.acknowledged(next.after + 1);
        }
        assert!(sent >= 9_000, "{sent}");
        assert_eq!(delivery.whole_to(), 10_000);
    }
}
