//! The machine's default gateway, name servers and neighbours, read from the kernel's tables each time they are asked for, and so
//! followed when they change.

use crate::system::Gateway;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The gateway of the IPv4 default route with the lowest metric, else of the IPv6 one; `None` without
/// either.
pub(crate) fn default_gateway() -> Option<Gateway> {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    parse_v4(&read("/proc/net/route"))
        .map(|address| Gateway {
            address: IpAddr::V4(address),
            scope: 0,
        })
        .or_else(|| {
            let table = read("/proc/net/ipv6_route");
            let (address, device) = parse_v6(&table)?;
            let scope = if address.is_unicast_link_local() {
                let index = std::fs::read_to_string(format!("/sys/class/net/{device}/ifindex"));
                index.ok()?.trim().parse().ok()?
            } else {
                0
            };
            Some(Gateway {
                address: IpAddr::V6(address),
                scope,
            })
        })
}

/// `RTF_UP | RTF_GATEWAY`
const UP_GATEWAY: u32 = 0x3;

/// From `/proc/net/route`: `iface destination gateway flags refcnt use metric mask …`, addresses as
/// little-endian hex.
fn parse_v4(table: &str) -> Option<Ipv4Addr> {
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let columns: Vec<&str> = line.split_whitespace().collect();
            let hex = |i: usize| u32::from_str_radix(columns.get(i)?, 16).ok();
            let (destination, gateway, flags, mask) = (hex(1)?, hex(2)?, hex(3)?, hex(7)?);
            let metric: u32 = columns.get(6)?.parse().ok()?;
            (destination == 0 && mask == 0 && flags & UP_GATEWAY == UP_GATEWAY)
                .then(|| (metric, Ipv4Addr::from(gateway.to_le_bytes())))
        })
        .min_by_key(|(metric, _)| *metric)
        .map(|(_, gateway)| gateway)
}

/// From `/proc/net/ipv6_route`: `destination length source length next-hop metric refcnt use flags device`,
/// all hex.
fn parse_v6(table: &str) -> Option<(Ipv6Addr, &str)> {
    table
        .lines()
        .filter_map(|line| {
            let columns: Vec<&str> = line.split_whitespace().collect();
            let is_default =
                columns.first()?.bytes().all(|b| b == b'0') && *columns.get(1)? == "00";
            let gateway = Ipv6Addr::from(u128::from_str_radix(columns.get(4)?, 16).ok()?);
            let metric = u32::from_str_radix(columns.get(5)?, 16).ok()?;
            let flags = u32::from_str_radix(columns.get(8)?, 16).ok()?;
            (is_default && flags & UP_GATEWAY == UP_GATEWAY).then_some((
                metric,
                gateway,
                *columns.get(9)?,
            ))
        })
        .min_by_key(|(metric, ..)| *metric)
        .map(|(_, gateway, device)| (gateway, device))
}

/// The network card's address of a host on one of the machine's own networks, as the kernel knows it.
pub(crate) fn neighbour(ip: Ipv4Addr) -> Option<[u8; 6]> {
    let table = std::fs::read_to_string("/proc/net/arp").ok()?;
    parse_arp(&table, ip)
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

/// The machine's own name server: the first `nameserver` of `/etc/resolv.conf`.
pub(crate) fn name_server() -> Option<IpAddr> {
    let text = std::fs::read_to_string("/etc/resolv.conf").ok()?;
    text.lines()
        .filter_map(|line| line.trim_start().strip_prefix("nameserver"))
        .find_map(|rest| rest.trim().split('%').next()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_route_with_the_lowest_metric_wins() {
        let table = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
            wlan0\t00000000\t0101A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0\n\
            eth0\t00000000\tFE01000A\t0003\t0\t0\t100\t00000000\t0\t0\t0\n\
            eth0\t0001000A\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0\n";
        assert_eq!(parse_v4(table), Some(Ipv4Addr::new(10, 0, 1, 254)));
        assert_eq!(parse_v4("Iface\tDestination\n"), None);
        assert_eq!(parse_v4("header\ngarbage in the table"), None);
    }

    #[test]
    fn an_ipv6_default_route_is_found() {
        let table = "fe800000000000000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00000001 eth0\n\
            00000000000000000000000000000000 00 00000000000000000000000000000000 00 fe800000000000000000000000000001 00000400 00000001 00000000 00000003 eth0\n";
        let expected: Ipv6Addr = "fe80::1".parse().expect("an address");
        assert_eq!(parse_v6(table), Some((expected, "eth0")));
        assert_eq!(parse_v6(""), None);
    }

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
}
