//! One round over UDP.

use super::{Hops, ROUND, micros, missing};
use denyut_proto::{Hop, Said};
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::sockopt::{Ipv4RecvErr, Ipv4Ttl, Ipv6RecvErr, Ipv6Ttl};
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockaddr_in, sockaddr_in6,
};
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

/// Where traces have always been sent; one port for each distance.
const FIRST_PORT: u16 = 33_434;

/// From one packet to the next: a router from which there is no way on answers all that are under way, and routers answer only so many.
const STEP: Duration = Duration::from_millis(20);

/// A packet under way: its distance, when it was sent, and where the answer comes.
type Asked = Vec<(usize, Instant, UdpSocket)>;

/// Asks those of whom nothing is known yet, the nearest first, up to the end of the way once that is known.
pub(super) fn round(to: IpAddr, hops: &mut Hops) -> io::Result<()> {
    let mut asked = Asked::new();
    for i in missing(hops).collect::<Vec<_>>() {
        if !missing(hops).any(|other| other == i) {
            break;
        }
        let Some(socket) = socket(to, i)? else {
            return Ok(());
        };
        let sent = Instant::now();
        // What the machine itself says (no way, no room, an error of an earlier packet) is no answer from the way.
        socket.send(&[0; 16]).ok();
        asked.push((i, sent, socket));
        collect(to, &mut asked, hops, sent + STEP)?;
    }
    collect(to, &mut asked, hops, Instant::now() + ROUND)
}

/// Takes the answers that come up to then, or until none is missing.
fn collect(to: IpAddr, asked: &mut Asked, hops: &mut Hops, until: Instant) -> io::Result<()> {
    while !asked.is_empty() {
        let left = until.saturating_duration_since(Instant::now());
        let Ok(left) = PollTimeout::try_from(left) else {
            break;
        };
        let mut ready: Vec<PollFd<'_>> = asked
            .iter()
            // An error is always told.
            .map(|(_, _, socket)| PollFd::new(socket.as_fd(), PollFlags::empty()))
            .collect();
        match poll(&mut ready, left) {
            Ok(0) => break,
            Ok(_) => {}
            Err(nix::errno::Errno::EINTR) => continue,
            Err(error) => return Err(error.into()),
        }
        let ready: Vec<bool> = ready.iter().map(|one| one.any() == Some(true)).collect();
        let mut ready = ready.into_iter();
        asked.retain(|(i, sent, socket)| {
            if ready.next() != Some(true) {
                return true;
            }
            let took = sent.elapsed();
            hops[*i] = answer(to, socket).map(|(from, said)| Hop {
                from,
                rtt_us: micros(took),
                said,
            });
            false
        });
        if missing(hops).all(|i| asked.iter().all(|(other, ..)| *other != i)) {
            break;
        }
    }
    Ok(())
}

/// One whose packets pass `i` routers and end at the next; `None` if this machine knows no way there.
fn socket(to: IpAddr, i: usize) -> io::Result<Option<UdpSocket>> {
    use io::ErrorKind as Kind;
    let any: IpAddr = match to {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_nonblocking(true)?;
    let ttl = i32::try_from(i + 1).unwrap_or(i32::MAX);
    if to.is_ipv4() {
        setsockopt(&socket, Ipv4RecvErr, &true)?;
        setsockopt(&socket, Ipv4Ttl, &ttl)?;
    } else {
        setsockopt(&socket, Ipv6RecvErr, &true)?;
        setsockopt(&socket, Ipv6Ttl, &ttl)?;
    }
    let port = FIRST_PORT + u16::try_from(i).unwrap_or(0);
    match socket
        .connect(SocketAddr::new(to, port))
        .map_err(|error| (error.kind(), error))
    {
        Ok(()) => Ok(Some(socket)),
        Err((
            Kind::HostUnreachable
            | Kind::NetworkUnreachable
            | Kind::NetworkDown
            | Kind::AddrNotAvailable,
            _,
        )) => Ok(None),
        Err((_, error)) => Err(error),
    }
}

/// Who said what, by the socket's error queue; `None` for what the machine said itself.
fn answer(to: IpAddr, socket: &UdpSocket) -> Option<(IpAddr, Said)> {
    let mut room = [0; 64];
    let mut parts = [IoSliceMut::new(&mut room)];
    let mut control = nix::cmsg_space!(
        libc::sock_extended_err,
        libc::sockaddr_in6,
        libc::sockaddr_in6
    );
    let message = recvmsg::<SockaddrStorage>(
        socket.as_raw_fd(),
        &mut parts,
        Some(&mut control),
        MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT,
    );
    let (from, said) = message.ok()?.cmsgs().ok()?.find_map(|one| match one {
        ControlMessageOwned::Ipv4RecvErr(error, Some(from)) => {
            let from = v4(from);
            (error.ee_origin == libc::SO_EE_ORIGIN_ICMP)
                // Type 11: its time is over. Type 3: there is no way, code 3 to the port.
                .then(|| {
                    said(
                        error.ee_type == 11,
                        (error.ee_type, error.ee_code) == (3, 3),
                    )
                })
                .map(|said| (from, arrived(to, from, said)))
        }
        ControlMessageOwned::Ipv6RecvErr(error, Some(from)) => {
            let from = v6(from);
            (error.ee_origin == libc::SO_EE_ORIGIN_ICMP6)
                // Type 3: its time is over. Type 1: there is no way, code 4 to the port.
                .then(|| said(error.ee_type == 3, (error.ee_type, error.ee_code) == (1, 4)))
                .map(|said| (from, arrived(to, from, said)))
        }
        _ => None,
    })?;
    // That nobody answers at the next hop, the system says in its own name.
    let own = socket.local_addr().ok()?.ip();
    (from == to || from != own).then_some((from, said))
}

fn said(is_over: bool, is_port: bool) -> Said {
    match (is_over, is_port) {
        (true, _) => Said::Passed,
        (_, true) => Said::Arrived,
        _ => Said::NoWay,
    }
}

/// A port's word counts as the target's only if it comes from there: a firewall may say the same.
fn arrived(to: IpAddr, from: IpAddr, said: Said) -> Said {
    match said {
        Said::Arrived | Said::NoWay if from == to => Said::Arrived,
        Said::Arrived => Said::NoWay,
        other => other,
    }
}

fn v4(from: sockaddr_in) -> IpAddr {
    Ipv4Addr::from(u32::from_be(from.sin_addr.s_addr)).into()
}

fn v6(from: sockaddr_in6) -> IpAddr {
    Ipv6Addr::from(from.sin6_addr.s6_addr).into()
}
