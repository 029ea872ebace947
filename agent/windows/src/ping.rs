//! ICMP echo by the system's own calls, which need no right.

use std::io;
use std::net::IpAddr;
use std::ptr::{null, null_mut};
use std::time::{Duration, Instant};
use windows_sys::Win32::Foundation::{HANDLE, INVALID_HANDLE_VALUE};
use windows_sys::Win32::NetworkManagement::IpHelper::{
    ICMP_ECHO_REPLY, ICMPV6_ECHO_REPLY_LH, IP_DEST_HOST_UNREACHABLE, IP_DEST_NET_UNREACHABLE,
    IP_DEST_PORT_UNREACHABLE, IP_DEST_PROT_UNREACHABLE, IP_DEST_UNREACHABLE, IP_GENERAL_FAILURE,
    IP_OPTION_INFORMATION, IP_REQ_TIMED_OUT, IP_SUCCESS, IP_TTL_EXPIRED_TRANSIT, Icmp6CreateFile,
    Icmp6SendEcho2, IcmpCloseHandle, IcmpCreateFile, IcmpSendEcho2,
};
use windows_sys::Win32::Networking::WinSock::{AF_INET6, SOCKADDR_IN6};

/// Why no echo came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unanswered {
    /// Nothing came in time.
    Timeout,
    /// A router said that the host cannot be reached.
    HostUnreachable,
    /// There is no way, or a router said so.
    NetworkUnreachable,
    /// A router said that it passed as many as it may.
    OnTheWay,
    /// The system's own trouble, by its number.
    Failed(u32),
}

/// What is sent along.
const DATA: [u8; 16] = [0; 16];
/// Room for one reply, its data, eight bytes of an error message, and what the system keeps there while it waits.
const ROOM: usize = size_of::<ICMP_ECHO_REPLY>() + DATA.len() + 8 + 64;

/// A handle to send echoes by, closed when dropped.
struct Handle(HANDLE);

impl Handle {
    fn open(handle: HANDLE) -> io::Result<Self> {
        if handle == INVALID_HANDLE_VALUE {
            return Err(io::Error::last_os_error());
        }
        Ok(Self(handle))
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: the handle is open, and nobody uses it after this.
        unsafe { IcmpCloseHandle(self.0) };
    }
}

/// What became of an echo.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Echo {
    /// Whether it came back.
    pub came_back: Result<(), Unanswered>,
    /// Who answered; `None`: nobody but this machine.
    pub from: Option<IpAddr>,
    /// How long it took, by the monotonic clock: the system's own has a resolution of 1 ms.
    pub took: Duration,
}

/// Routers that an ordinary packet may pass.
const PASSES: u8 = 128;

/// Sends one echo and blocks until it is answered or `timeout` is over. `scope`: interface index for a link-local IPv6 address, else 0.
pub fn ping(to: IpAddr, scope: u32, timeout: Duration) -> io::Result<Result<Duration, Unanswered>> {
    let echo = echo(to, scope, PASSES, timeout)?;
    Ok(echo.came_back.map(|()| echo.took))
}

/// The same; it may pass fewer routers than `passes`.
pub fn echo(to: IpAddr, scope: u32, passes: u8, timeout: Duration) -> io::Result<Echo> {
    let options = IP_OPTION_INFORMATION {
        Ttl: passes,
        ..IP_OPTION_INFORMATION::default()
    };
    let timeout = u32::try_from(timeout.as_millis())
        .unwrap_or(u32::MAX)
        .max(1);
    // In words of eight bytes: aligned for what is read from it.
    let mut room = [0u64; ROOM.div_ceil(8)];
    let (start, replies, status, from) = match to {
        IpAddr::V4(to) => {
            // SAFETY: takes nothing.
            let handle = Handle::open(unsafe { IcmpCreateFile() })?;
            let start = Instant::now();
            // SAFETY: without an event the call is over when it returns; both buffers and the options live that long, and their lengths are told.
            let replies = unsafe {
                IcmpSendEcho2(
                    handle.0,
                    null_mut(),
                    None,
                    null(),
                    u32::from_ne_bytes(to.octets()),
                    DATA.as_ptr().cast(),
                    DATA.len() as u16,
                    &options,
                    room.as_mut_ptr().cast(),
                    size_of_val(&room) as u32,
                    timeout,
                )
            };
            // SAFETY: the buffer is longer than one reply, aligned for it, and any bytes make one.
            let reply = unsafe { &*room.as_ptr().cast::<ICMP_ECHO_REPLY>() };
            let from = IpAddr::from(reply.Address.to_ne_bytes());
            (start, replies, reply.Status, from)
        }
        IpAddr::V6(to) => {
            // SAFETY: takes nothing.
            let handle = Handle::open(unsafe { Icmp6CreateFile() })?;
            let address = |octets, scope| {
                let mut address = SOCKADDR_IN6 {
                    sin6_family: AF_INET6,
                    ..SOCKADDR_IN6::default()
                };
                address.sin6_addr.u.Byte = octets;
                address.Anonymous.sin6_scope_id = scope;
                address
            };
            let (from, to) = (address([0; 16], 0), address(to.octets(), scope));
            let start = Instant::now();
            // SAFETY: as above; both addresses live until it returns.
            let replies = unsafe {
                Icmp6SendEcho2(
                    handle.0,
                    null_mut(),
                    None,
                    null(),
                    &from,
                    &to,
                    DATA.as_ptr().cast(),
                    DATA.len() as u16,
                    &options,
                    room.as_mut_ptr().cast(),
                    size_of_val(&room) as u32,
                    timeout,
                )
            };
            // SAFETY: as above.
            let reply = unsafe { &*room.as_ptr().cast::<ICMPV6_ECHO_REPLY_LH>() };
            // Packed: copied, not referred to.
            let parts = reply.Address.sin6_addr;
            let from = IpAddr::from(parts.map(u16::from_be));
            (start, replies, reply.Status, from)
        }
    };
    let took = start.elapsed();
    let (status, from) = match replies {
        0 => {
            let error = io::Error::last_os_error();
            match error
                .raw_os_error()
                .and_then(|code| u32::try_from(code).ok())
            {
                Some(code) => (code, None),
                None => return Err(error),
            }
        }
        _ => (status, Some(from)),
    };
    let came_back = match status {
        IP_SUCCESS => Ok(()),
        IP_REQ_TIMED_OUT => Err(Unanswered::Timeout),
        IP_DEST_NET_UNREACHABLE | IP_GENERAL_FAILURE => Err(Unanswered::NetworkUnreachable),
        IP_DEST_HOST_UNREACHABLE
        | IP_DEST_PORT_UNREACHABLE
        | IP_DEST_PROT_UNREACHABLE
        | IP_DEST_UNREACHABLE => Err(Unanswered::HostUnreachable),
        IP_TTL_EXPIRED_TRANSIT => Err(Unanswered::OnTheWay),
        other => Err(Unanswered::Failed(other)),
    };
    Ok(Echo {
        came_back,
        from,
        took,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_answers() {
        let answer = ping([127, 0, 0, 1].into(), 0, Duration::from_secs(2)).expect("a ping");
        assert!(answer.is_ok_and(|took| took < Duration::from_secs(2)));
    }

    #[test]
    fn who_answered_is_told() {
        let to = [127, 0, 0, 1].into();
        let echo = echo(to, 0, 1, Duration::from_secs(2)).expect("an echo");
        assert_eq!((echo.came_back, echo.from), (Ok(()), Some(to)));
    }
}
