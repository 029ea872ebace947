//! What targets show of themselves beside their answers, and what of it is still to be told.
//!
//! A thing that is carried to another office shows the same there. So it is told where it is: with its first answer in this
//! process, with the first after it gave none for a while, and when a target shows something else.

use denyut_proto::{Identity, MAX_SHOWN, Shown, TargetName};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
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

/// The network card's address of a host on one of the machine's own networks, as the kernel knows it; IPv4 only. Linux; the
/// Windows counterpart comes with the Windows service.
pub(crate) fn card_of(ip: IpAddr) -> Option<Identity> {
    let IpAddr::V4(ip) = ip else { return None };
    let table = std::fs::read_to_string("/proc/net/arp").ok()?;
    parse_arp(&table, ip).map(Identity::Mac)
}

/// `ATF_COM`: the entry is complete.
const COMPLETE: u32 = 0x2;

/// From `/proc/net/arp`: `address hardware-type flags hardware-address mask device`; of an Ethernet card that is one thing's own.
fn parse_arp(table: &str, ip: Ipv4Addr) -> Option<[u8; 6]> {
    table.lines().skip(1).find_map(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let hex = |i: usize| u32::from_str_radix(columns.get(i)?.strip_prefix("0x")?, 16).ok();
        let is_it = columns.first()?.parse() == Ok(ip) && hex(1)? == 1;
        if !is_it || hex(2)? & COMPLETE == 0 {
            return None;
        }
        let mut bytes = columns
            .get(3)?
            .split(':')
            .map(|byte| u8::from_str_radix(byte, 16).ok());
        let mac: [u8; 6] = std::array::from_fn(|_| bytes.next().flatten().unwrap_or(0));
        // Neither nobody's nor a group's.
        (mac != [0; 6] && mac[0] & 1 == 0).then_some(mac)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_neighbour_is_found_in_the_kernels_table() {
        let table = "IP address       HW type     Flags       HW address            Mask     Device\n\
            10.0.0.9         0x1         0x0         00:00:00:00:00:00     *        eth0\n\
            10.0.0.7         0x1         0x2         02:42:0a:00:00:07     *        eth0\n\
            10.0.0.8         0x1         0x2         01:00:5e:00:00:08     *        eth0\n";
        let of = |last| parse_arp(table, Ipv4Addr::new(10, 0, 0, last));
        assert_eq!(of(7), Some([0x02, 0x42, 0x0a, 0, 0, 7]));
        assert_eq!((of(9), of(8), of(1)), (None, None, None));
        assert_eq!(
            parse_arp("header\ngarbage in the table", Ipv4Addr::LOCALHOST),
            None
        );
    }

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
