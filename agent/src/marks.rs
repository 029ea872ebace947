//! What targets show of themselves beside their answers, and what of it is still to be told.
//!
//! A thing that is carried to another office shows the same there. So it is told where it is: with its first answer in this
//! process, with the first after it gave none for a while, and when a target shows something else.

use crate::system;
use denyut_proto::{Identity, MAX_SHOWN, Shown, TargetName};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

/// Told and untold.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    /// What each target showed last, one of each kind, and when it answered last (uptime).
    known: BTreeMap<TargetName, (Duration, Vec<Identity>)>,
    /// Where the collector saw this agent come from last.
    address: Option<IpAddr>,
    untold: Vec<Shown>,
}

impl Marks {
    /// A target answered at this uptime and showed this. It is told again where there was no answer for `away`.
    pub(crate) fn answered(
        &mut self,
        target: &TargetName,
        at: Duration,
        away: Duration,
        shown: &[Identity],
    ) {
        let (last, _) = self.known.entry(target.clone()).or_default();
        let again = at.saturating_sub(*last) >= away;
        *last = at;
        for identity in shown {
            let (_, known) = self.known.entry(target.clone()).or_default();
            let same_kind = |other: &&mut Identity| {
                std::mem::discriminant(*other) == std::mem::discriminant(identity)
            };
            let is_new = if let Some(before) = known.iter_mut().find(same_kind) {
                std::mem::replace(before, *identity) != *identity
            } else {
                known.push(*identity);
                true
            };
            if again || is_new {
                self.tell(Some(target), *identity);
            }
        }
    }

    /// The collector sees this agent come from this address.
    pub(crate) fn comes_from(&mut self, address: IpAddr) {
        // On the collector's own machine it says nothing of a line.
        if !address.is_loopback() {
            self.address = Some(address);
            self.tell(None, Identity::Address(address));
        }
    }

    /// All of it is to be told anew: the collector knows nothing of this agent.
    pub(crate) fn forget_told(&mut self) {
        for (target, (_, identities)) in &self.known.clone() {
            for identity in identities {
                self.tell(Some(target), *identity);
            }
        }
        if let Some(address) = self.address {
            self.tell(None, Identity::Address(address));
        }
    }

    /// Only these targets are left.
    pub(crate) fn keep_only(&mut self, is_left: impl Fn(&TargetName) -> bool) {
        self.known.retain(|target, _| is_left(target));
        self.untold
            .retain(|shown| shown.target.as_ref().is_none_or(&is_left));
    }

    fn tell(&mut self, target: Option<&TargetName>, identity: Identity) {
        let shown = Shown {
            target: target.cloned(),
            identity,
        };
        if !self.untold.contains(&shown) {
            self.untold.push(shown);
        }
    }

    /// Whether something is to be told.
    pub(crate) fn is_untold(&self) -> bool {
        !self.untold.is_empty()
    }

    /// What one heartbeat can tell of it.
    pub(crate) fn to_tell(&self) -> Vec<Shown> {
        self.untold[..self.untold.len().min(MAX_SHOWN)].to_vec()
    }

    /// These are told.
    pub(crate) fn told(&mut self, shown: &[Shown]) {
        self.untold.retain(|one| !shown.contains(one));
    }
}

/// The network card's address of a host on one of the machine's own networks; IPv4 only.
pub(crate) fn card_of(ip: IpAddr) -> Option<Identity> {
    let IpAddr::V4(ip) = ip else { return None };
    system::neighbour(ip).map(Identity::Mac)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn it_is_told_when_it_appears_and_when_it_is_another() {
        let (server, mac) = ("server".parse().expect("a name"), Identity::Mac([2; 6]));
        let mut marks = Marks::default();
        let second = Duration::from_secs;
        let mut tell = |at, identity| {
            marks.answered(&server, second(at), second(60), &[identity]);
            let told = marks.to_tell();
            marks.told(&told);
            told.len()
        };
        assert_eq!(tell(5, mac), 1);
        assert_eq!(tell(64, mac), 0);
        assert_eq!(tell(124, mac), 1, "after it was away");
        assert_eq!(tell(125, Identity::Mac([4; 6])), 1, "another");
        assert_eq!(
            tell(126, Identity::Certificate([1; 32])),
            1,
            "one more kind"
        );
        assert_eq!(tell(127, Identity::Mac([4; 6])), 0);
        marks.comes_from(Ipv4Addr::LOCALHOST.into());
        assert!(!marks.is_untold());
        marks.comes_from(Ipv4Addr::new(203, 0, 113, 9).into());
        marks.forget_told();
        assert_eq!(marks.to_tell().len(), 3);
        marks.keep_only(|_| false);
        assert_eq!(marks.to_tell().len(), 1);
    }
}
