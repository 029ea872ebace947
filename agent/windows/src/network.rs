//! The machine's default gateway, name servers and neighbours, read each time they are asked for.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ptr::{null, null_mut};
use windows_sys::Win32::Foundation::{ERROR_BUFFER_OVERFLOW, ERROR_SUCCESS};
use windows_sys::Win32::NetworkManagement::IpHelper::{
    FreeMibTable, GAA_FLAG_INCLUDE_GATEWAYS, GAA_FLAG_SKIP_ANYCAST, GAA_FLAG_SKIP_MULTICAST,
    GetAdaptersAddresses, GetIpNetTable2, IP_ADAPTER_ADDRESSES_LH, MIB_IPNET_TABLE2,
};
use windows_sys::Win32::NetworkManagement::Ndis::IfOperStatusUp;
use windows_sys::Win32::Networking::WinSock::{
    AF_INET, AF_INET6, AF_UNSPEC, SOCKADDR_IN, SOCKADDR_IN6, SOCKET_ADDRESS,
};

/// The next hop of the default route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gateway {
    /// Its address.
    pub address: IpAddr,
    /// Interface index for a link-local IPv6 address, else 0.
    pub scope: u32,
}

/// A network card that is up.
struct Adapter {
    metrics: (u32, u32),
    gateways: Vec<Gateway>,
    name_servers: Vec<IpAddr>,
}

/// The gateway of the card with the lowest metric: of its IPv4 route, else of an IPv6 one; `None` without either.
pub fn default_gateway() -> Option<Gateway> {
    let adapters = adapters();
    let of = |v4: bool| {
        let metric = |adapter: &&Adapter| {
            if v4 {
                adapter.metrics.0
            } else {
                adapter.metrics.1
            }
        };
        let has = |adapter: &Adapter| {
            let mut gateways = adapter.gateways.iter();
            gateways
                .find(|gateway| gateway.address.is_ipv4() == v4)
                .copied()
        };
        let with = adapters.iter().filter(|adapter| has(adapter).is_some());
        with.min_by_key(metric).and_then(has)
    };
    of(true).or_else(|| of(false))
}

/// The name server that the machine asks first.
pub fn name_server() -> Option<IpAddr> {
    let mut adapters = adapters();
    // That of the card that goes out, before any other.
    adapters.sort_by_key(|adapter| (adapter.gateways.is_empty(), adapter.metrics.0));
    let mut servers = adapters.iter().flat_map(|adapter| &adapter.name_servers);
    // Site-local ones are the system's guess where nobody named one.
    servers
        .find(|server| !server.to_string().starts_with("fec0:"))
        .copied()
}

fn adapters() -> Vec<Adapter> {
    // As the system advises: enough for most at the first try.
    let mut bytes = 16 << 10;
    for _ in 0..4 {
        let mut room = vec![0u64; bytes / 8 + 1];
        let first = room.as_mut_ptr().cast::<IP_ADAPTER_ADDRESSES_LH>();
        let mut size = (room.len() * 8) as u32;
        // SAFETY: the buffer is as long as told, and aligned for what is written there.
        let told = unsafe {
            GetAdaptersAddresses(
                AF_UNSPEC.into(),
                GAA_FLAG_INCLUDE_GATEWAYS | GAA_FLAG_SKIP_ANYCAST | GAA_FLAG_SKIP_MULTICAST,
                null(),
                first,
                &mut size,
            )
        };
        match told {
            // SAFETY: the call filled the buffer, which lives until the end of this arm, with a list that begins there.
            ERROR_SUCCESS => return unsafe { read_adapters(first) },
            // It has grown since.
            ERROR_BUFFER_OVERFLOW => bytes = size as usize + 4_096,
            _ => break,
        }
    }
    Vec::new()
}

/// # Safety
/// `first` is null or begins a list as `GetAdaptersAddresses` makes it, whose memory lives.
unsafe fn read_adapters(first: *const IP_ADAPTER_ADDRESSES_LH) -> Vec<Adapter> {
    let mut out = Vec::new();
    let mut next = first;
    // SAFETY: by the caller's word; each link is null or the next entry of the same memory.
    while let Some(adapter) = unsafe { next.as_ref() } {
        next = adapter.Next;
        if adapter.OperStatus != IfOperStatusUp {
            continue;
        }
        let (mut gateways, mut name_servers) = (Vec::new(), Vec::new());
        let mut link = adapter.FirstGatewayAddress;
        // SAFETY: as above.
        while let Some(gateway) = unsafe { link.as_ref() } {
            link = gateway.Next;
            // SAFETY: as above.
            gateways.extend(unsafe { address_of(&gateway.Address) });
        }
        let mut link = adapter.FirstDnsServerAddress;
        // SAFETY: as above.
        while let Some(server) = unsafe { link.as_ref() } {
            link = server.Next;
            // SAFETY: as above.
            let address = unsafe { address_of(&server.Address) };
            name_servers.extend(address.map(|found| found.address));
        }
        out.push(Adapter {
            metrics: (adapter.Ipv4Metric, adapter.Ipv6Metric),
            gateways,
            name_servers,
        });
    }
    out
}

/// # Safety
/// `at` is as the system wrote it, and the memory that it points to lives.
unsafe fn address_of(at: &SOCKET_ADDRESS) -> Option<Gateway> {
    let length = usize::try_from(at.iSockaddrLength).ok()?;
    // SAFETY: by the caller's word; the family tells what lies there, and the length that it is all there.
    let address = unsafe {
        let family = at.lpSockaddr.as_ref()?.sa_family;
        if family == AF_INET && length >= size_of::<SOCKADDR_IN>() {
            let v4 = &*at.lpSockaddr.cast::<SOCKADDR_IN>();
            let octets = v4.sin_addr.S_un.S_addr.to_ne_bytes();
            (IpAddr::V4(Ipv4Addr::from(octets)), 0)
        } else if family == AF_INET6 && length >= size_of::<SOCKADDR_IN6>() {
            let v6 = &*at.lpSockaddr.cast::<SOCKADDR_IN6>();
            let address = Ipv6Addr::from(v6.sin6_addr.u.Byte);
            let scope = if address.is_unicast_link_local() {
                v6.Anonymous.sin6_scope_id
            } else {
                0
            };
            (IpAddr::V6(address), scope)
        } else {
            return None;
        }
    };
    let (address, scope) = address;
    Some(Gateway { address, scope })
}

/// The network card's address of a host on one of the machine's own networks, as the system knows it; IPv4 only.
pub fn neighbour(ip: Ipv4Addr) -> Option<[u8; 6]> {
    let mut table: *mut MIB_IPNET_TABLE2 = null_mut();
    // SAFETY: writes one pointer.
    if unsafe { GetIpNetTable2(AF_INET, &mut table) } != ERROR_SUCCESS || table.is_null() {
        return None;
    }
    // SAFETY: the system made a table of so many rows there; it is read before it is freed, once.
    let found = unsafe {
        let rows =
            std::slice::from_raw_parts((*table).Table.as_ptr(), (*table).NumEntries as usize);
        let found = rows.iter().find_map(|row| {
            let of = Ipv4Addr::from(row.Address.Ipv4.sin_addr.S_un.S_addr.to_ne_bytes());
            let card: [u8; 6] = row.PhysicalAddress[..6].try_into().ok()?;
            let is_one = row.PhysicalAddressLength == 6 && card != [0; 6] && card[0] & 1 == 0;
            (of == ip && is_one).then_some(card)
        });
        FreeMibTable(table.cast());
        found
    };
    found
}
