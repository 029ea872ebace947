//! One round by the system's own echo, each distance on a thread of its own.

use super::{Hops, ROUND, micros, missing};
use denyut_proto::{Hop, Said};
use denyut_windows::{Echo, Unanswered};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::thread::ScopedJoinHandle;

/// Bytes of a thread's stack; it holds one echo.
const STACK: usize = 128 * 1024;

/// Asks those of whom nothing is known yet.
pub(super) fn round(to: IpAddr, hops: &mut Hops) -> io::Result<()> {
    let asked: Vec<usize> = missing(hops).collect();
    let own = own(to);
    let answers = std::thread::scope(|scope| {
        let ask = |i: usize| {
            let passes = u8::try_from(i + 1).unwrap_or(u8::MAX);
            std::thread::Builder::new()
                .stack_size(STACK)
                .spawn_scoped(scope, move || denyut_windows::echo(to, 0, passes, ROUND))
        };
        // All of them, before the first is waited for.
        let threads: Vec<_> = asked.iter().map(|i| ask(*i)).collect();
        let answer = |thread: io::Result<ScopedJoinHandle<'_, io::Result<Echo>>>| {
            let panicked = |_| Err(io::Error::other("an echo panicked"));
            thread?.join().unwrap_or_else(panicked)
        };
        threads.into_iter().map(answer).collect::<Vec<_>>()
    });
    for (i, answer) in asked.into_iter().zip(answers) {
        let echo = answer?;
        let said = match echo.came_back {
            Ok(()) => Said::Arrived,
            Err(Unanswered::OnTheWay) => Said::Passed,
            Err(Unanswered::HostUnreachable | Unanswered::NetworkUnreachable) => Said::NoWay,
            Err(Unanswered::Timeout | Unanswered::Failed(_)) => continue,
        };
        // That nobody answers at the next hop, the system says in its own name.
        let from = echo.from.filter(|from| *from == to || Some(*from) != own);
        hops[i] = from.map(|from| Hop {
            from,
            rtt_us: micros(echo.took),
            said,
        });
    }
    Ok(())
}

/// The address that this machine has on the way there. Sends nothing.
fn own(to: IpAddr) -> Option<IpAddr> {
    let any: IpAddr = match to {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect((to, 9)).ok()?;
    Some(socket.local_addr().ok()?.ip())
}
