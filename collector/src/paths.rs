//! The ways to targets, as agents saw them when a link had failed: the last few of each link, as evidence of where it broke.

use crate::keys;
use crate::query::Query;
use denyut_proto::{LinkId, Path, UnixMillis};
use denyut_store::state::State;
use serde::Serialize;
use std::net::IpAddr;
use utoipa::ToSchema;

/// So many are kept of a link: with the longest ways and addresses 5 KB, and a value of the state may have 7.
const KEPT: usize = 8;

/// Those that are kept of a link, the last first.
pub(crate) fn read(state: &dyn State, link: &LinkId) -> anyhow::Result<Vec<Path>> {
    Ok(keys::get_packed(state, &keys::path(link))?.unwrap_or_default())
}

/// Puts one where it belongs by its time; the same one twice changes nothing.
pub(crate) fn put(kept: &mut Vec<Path>, path: Path) {
    if kept.iter().any(|other| other.at == path.at) {
        return;
    }
    kept.push(path);
    kept.sort_by_key(|path| std::cmp::Reverse(path.at));
    kept.truncate(KEPT);
}

/// The way to a target when its link had just failed.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PathView {
    /// When it was looked at (event time).
    #[schema(value_type = i64)]
    pub(crate) at_ms: UnixMillis,
    /// Where the target is.
    #[schema(value_type = String, example = "203.0.113.9")]
    pub(crate) to: IpAddr,
    /// Who answered, by distance, the nearest first; `null`: nobody. Ends with the last that answered.
    pub(crate) hops: Vec<Option<HopView>>,
}

/// Who answered at one distance.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct HopView {
    #[schema(value_type = String, example = "10.36.0.1")]
    pub(crate) from: IpAddr,
    pub(crate) rtt_us: u32,
    /// `passed`: a router, which would have passed the packet on; `arrived`: the target's own machine; `no_way`: a router, from which there is no way on.
    #[schema(example = "passed")]
    pub(crate) said: &'static str,
}

impl From<Path> for PathView {
    fn from(path: Path) -> Self {
        let hop = |hop: denyut_proto::Hop| HopView {
            from: hop.from,
            rtt_us: hop.rtt_us,
            said: hop.said.as_str(),
        };
        Self {
            at_ms: path.at,
            to: path.to,
            hops: path.hops.into_iter().map(|one| one.map(hop)).collect(),
        }
    }
}

impl Query {
    /// The last ways to the target of a link, the last first.
    pub(crate) fn paths(&self, link: &LinkId) -> anyhow::Result<Vec<Path>> {
        read(&*self.state, link)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use denyut_proto::{Hop, MAX_HOPS, Said};

    fn path(ms: i64) -> Path {
        let hop = Hop {
            from: [0xfd; 16].into(),
            rtt_us: u32::MAX,
            said: Said::Passed,
        };
        Path {
            target: "a-name-of-32-characters-00000-00".parse().expect("a name"),
            at: UnixMillis(1_795_700_000_000 + ms),
            to: [0xfd; 16].into(),
            hops: vec![Some(hop); MAX_HOPS],
        }
    }

    #[test]
    fn the_last_are_kept_once_and_fit() {
        let mut kept = Vec::new();
        // Out of order, and some twice: as a spool that is sent again.
        for n in [3, 1, 2, 9, 4, 9, 8, 5, 7, 6, 3] {
            put(&mut kept, path(n));
        }
        let times: Vec<i64> = kept.iter().map(|path| path.at.0 % 1_000).collect();
        assert_eq!(times, [9, 8, 7, 6, 5, 4, 3, 2]);
        let bytes = postcard::to_stdvec(&kept).expect("packs");
        assert!(bytes.len() < 7 * 1024, "{} bytes", bytes.len());
        let back: Vec<Path> = postcard::from_bytes(&bytes).expect("unpacks");
        assert_eq!(back, kept);
    }
}
