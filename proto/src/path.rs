//! The way to a target, as the routers on it answered.

use crate::{TargetName, UnixMillis};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::IpAddr;

/// The most routers that one path tells of.
pub const MAX_HOPS: usize = 24;

/// The way to a target when its link had just failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Path {
    /// The target.
    pub target: TargetName,
    /// When the first packet was sent.
    pub at: UnixMillis,
    /// The target's address.
    pub to: IpAddr,
    /// By distance, the nearest first; `None` for one that was silent. Ends with the last that answered: empty if nobody did. At most [`MAX_HOPS`].
    pub hops: Vec<Option<Hop>>,
}

/// What answered at one distance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hop {
    /// Its address.
    pub from: IpAddr,
    /// From the packet to the answer, in µs; at least 1.
    pub rtt_us: u32,
    /// What it said.
    pub said: Said,
}

/// What an answer on the way means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Said {
    /// A router: it would have passed the packet on.
    Passed,
    /// The target's own machine.
    Arrived,
    /// A router: there is no way on from here, or none that is allowed.
    NoWay,
}

impl Said {
    /// The name that logs, API and UI catalogues use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Arrived => "arrived",
            Self::NoWay => "no_way",
        }
    }
}

impl Path {
    /// The target's own machine answered: the network is well up to it.
    pub fn arrives(&self) -> bool {
        self.last().is_some_and(|hop| hop.said == Said::Arrived)
    }

    /// The last that answered.
    pub fn last(&self) -> Option<&Hop> {
        self.hops.last()?.as_ref()
    }
}

/// For people: who answered at which distance, and how it ends.
impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut silent = 0;
        for (place, hop) in self.hops.iter().enumerate() {
            let Some(hop) = hop else {
                silent += 1;
                continue;
            };
            if silent > 0 {
                write!(f, "{silent} silent, ")?;
                silent = 0;
            }
            let ms = f64::from(hop.rtt_us) / 1_000.0;
            write!(f, "{} {} {ms:.1} ms", place + 1, hop.from)?;
            f.write_str(match hop.said {
                Said::Passed => ", ",
                Said::Arrived => ": arrived",
                Said::NoWay => ": no way on",
            })?;
        }
        match self.last().map(|hop| hop.said) {
            None => write!(f, "nobody answers on the way to {}", self.to),
            Some(Said::Passed) => write!(f, "then nobody up to {}", self.to),
            Some(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_way_reads_well() {
        let hop = |last: u8, said| Hop {
            from: [192, 0, 2, last].into(),
            rtt_us: 1_250 * u32::from(last),
            said,
        };
        let way = |hops| Path {
            target: "uplink".parse().expect("a name"),
            at: UnixMillis(0),
            to: [203, 0, 113, 9].into(),
            hops,
        };
        let mut hops = vec![Some(hop(1, Said::Passed)), None, Some(hop(4, Said::Passed))];
        let text = way(hops.clone()).to_string();
        assert_eq!(
            text,
            "1 192.0.2.1 1.2 ms, 1 silent, 3 192.0.2.4 5.0 ms, then nobody up to 203.0.113.9"
        );
        hops[2] = Some(hop(4, Said::NoWay));
        assert!(
            way(hops.clone())
                .to_string()
                .ends_with("192.0.2.4 5.0 ms: no way on")
        );
        hops[2] = Some(hop(4, Said::Arrived));
        assert!(way(hops).arrives());
        assert_eq!(
            way(vec![]).to_string(),
            "nobody answers on the way to 203.0.113.9"
        );
    }
}
