//! One round by the system's own echo, each distance on a thread of its own.

use super::{Hops, ROUND, micros, missing};
use denyut_proto::{Hop, Said};
use denyut_windows::Unanswered;
use std::io;
use std::net::IpAddr;

/// Asks those of whom nothing is known yet.
pub(super) fn round(to: IpAddr, hops: &mut Hops) -> io::Result<()> {
    let asked: Vec<usize> = missing(hops).collect();
    let answers: Vec<_> = std::thread::scope(|scope| {
        let ask = |i: usize| {
            let passes = u8::try_from(i + 1).unwrap_or(u8::MAX);
            scope.spawn(move || denyut_windows::echo(to, 0, passes, ROUND))
        };
        let threads: Vec<_> = asked.iter().map(|i| ask(*i)).collect();
        threads.into_iter().map(|thread| thread.join()).collect()
    });
    for (i, answer) in asked.into_iter().zip(answers) {
        let Ok(answer) = answer else {
            return Err(io::Error::other("an echo panicked"));
        };
        let echo = answer?;
        let said = match echo.came_back {
            Ok(()) => Said::Arrived,
            Err(Unanswered::OnTheWay) => Said::Passed,
            Err(Unanswered::HostUnreachable | Unanswered::NetworkUnreachable) => Said::NoWay,
            Err(Unanswered::Timeout | Unanswered::Failed(_)) => continue,
        };
        hops[i] = echo.from.map(|from| Hop {
            from,
            rtt_us: micros(echo.took),
            said,
        });
    }
    Ok(())
}
