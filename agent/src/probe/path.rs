//! The way to a target: who answers at which distance.
//!
//! A packet that may pass only so many routers is sent for each distance; the router at which it ends says so (RFC 792, RFC 4443). Twice, as
//! one packet may get lost, and routers answer only so many. On Linux over UDP, to ports where nobody listens, with the answers read from the
//! sockets' error queues: that needs no permission, other than ICMP. On Windows by the system's own echo.

#[cfg(unix)]
#[path = "path_linux.rs"]
mod by;
#[cfg(windows)]
#[path = "path_windows.rs"]
mod by;

use denyut_proto::{Hop, MAX_HOPS, Said};
use std::net::IpAddr;
use std::time::Duration;

/// How long the answers of one round may take.
const ROUND: Duration = Duration::from_secs(1);
/// Rounds; in each those are asked that did not answer yet.
const ROUNDS: usize = 2;

/// What was found so far, by distance.
type Hops = [Option<Hop>; MAX_HOPS];

/// Who answers on the way to an address: see [`denyut_proto::Path::hops`]. Blocks for three seconds at most.
pub(super) fn trace(to: IpAddr) -> std::io::Result<Vec<Option<Hop>>> {
    let mut hops: Hops = [None; MAX_HOPS];
    for _ in 0..ROUNDS {
        by::round(to, &mut hops)?;
        if missing(&hops).next().is_none() {
            break;
        }
    }
    Ok(told(&hops))
}

/// Distances from which an answer may still come: not behind the end of the way.
fn missing(hops: &Hops) -> impl Iterator<Item = usize> {
    let end = end(hops);
    (0..end).filter(|i| hops[*i].is_none())
}

/// How many distances there are up to where the way ends; all, if that is not known.
fn end(hops: &Hops) -> usize {
    let ends = |hop: &Option<Hop>| hop.is_some_and(|hop| hop.said != Said::Passed);
    hops.iter()
        .position(ends)
        .map_or(MAX_HOPS, |place| place + 1)
}

/// Up to the last that answered.
fn told(hops: &Hops) -> Vec<Option<Hop>> {
    let hops = &hops[..end(hops)];
    let last = hops.iter().rposition(Option::is_some);
    hops[..last.map_or(0, |last| last + 1)].to_vec()
}

/// What took so long.
fn micros(took: Duration) -> u32 {
    u32::try_from(took.as_micros()).unwrap_or(u32::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hop(said: Said) -> Hop {
        Hop {
            from: [192, 0, 2, 1].into(),
            rtt_us: 900,
            said,
        }
    }

    #[test]
    fn a_way_ends_with_the_last_that_answered() {
        let mut hops: Hops = [None; MAX_HOPS];
        assert_eq!(told(&hops), []);
        assert_eq!(missing(&hops).count(), MAX_HOPS);
        hops[1] = Some(hop(Said::Passed));
        hops[4] = Some(hop(Said::Passed));
        assert_eq!(told(&hops).len(), 5);
        assert_eq!(missing(&hops).count(), MAX_HOPS - 2);
    }

    #[test]
    fn nobody_is_asked_behind_the_end() {
        // Every packet that gets so far reaches the target.
        let mut hops: Hops = [Some(hop(Said::Arrived)); MAX_HOPS];
        hops[0] = None;
        hops[1] = Some(hop(Said::Passed));
        hops[2] = None;
        assert_eq!(told(&hops).len(), 4);
        assert_eq!(missing(&hops).collect::<Vec<_>>(), [0, 2]);
    }

    /// The machine's own address is a way of one hop.
    #[test]
    fn loopback_arrives() {
        // Wine, which these tests meet as Windows, has no echo of IPv6.
        let v6 = (!cfg!(windows)).then_some("::1");
        for to in ["127.0.0.1"].into_iter().chain(v6) {
            let hops = trace(to.parse().expect("an address")).expect("may trace");
            let [Some(only)] = hops[..] else {
                panic!("{to}: {hops:?}");
            };
            assert_eq!(only.said, Said::Arrived, "{to}");
            assert_eq!(only.from.to_string(), to);
        }
    }
}
