//! Packets, part by part: each names the next, and IPv6 headers get their length, as the last step.

use super::{ETHERNET, ICMPV6, TCP, UDP, local, remote};
use std::net::Ipv6Addr;

pub const HOP_BY_HOP: u8 = 0;
pub const IPV6: u8 = 41;
pub const ROUTING: u8 = 43;
pub const FRAGMENT: u8 = 44;
pub const AUTH: u8 = 51;
pub const DESTINATION: u8 = 60;

/// An 802.1Q tag, an 802.1ad tag.
pub const C_TAG: [u8; 4] = [0x81, 0, 0, 7];
pub const S_TAG: [u8; 4] = [0x88, 0xa8, 0, 9];

/// One header, or all that follows the last, with the number that announces it.
#[derive(Debug, Clone)]
pub struct Part {
    pub kind: u8,
    pub bytes: Vec<u8>,
}

/// DSCP 46, ECN 1, and a label of its own.
pub fn ipv6_between(src: Ipv6Addr, dst: Ipv6Addr) -> Part {
    let mut bytes = vec![0x6b, 0x9a, 0xbc, 0xde, 0, 0, 0, 61];
    bytes.extend(src.octets());
    bytes.extend(dst.octets());
    Part { kind: IPV6, bytes }
}

pub fn ipv6() -> Part {
    ipv6_between(local(), remote())
}

/// Of a tunnel around them.
pub fn outer() -> Part {
    ipv6_between("2001:db8:a::1".parse().expect("literal"), "2001:db8:b::1".parse().expect("literal"))
}

/// An options header of these bytes after the first two, a multiple of eight with them.
pub fn options(kind: u8, options: &[u8]) -> Part {
    let whole = (options.len() + 2).next_multiple_of(8);
    let mut bytes = vec![0, u8::try_from(whole / 8 - 1).expect("short")];
    bytes.extend(options);
    // RFC 8200 §4.2: Pad1 for one byte, PadN for more.
    match whole - bytes.len() {
        0 => {}
        1 => bytes.push(0),
        n => bytes.extend([1, (n - 2) as u8].into_iter().chain(std::iter::repeat_n(0, n - 2))),
    }
    Part { kind, bytes }
}

/// A router alert (RFC 2711): an option that somebody else put there.
pub const ALERT: &[u8] = &[5, 2, 0, 0];

pub fn routing(units: u8) -> Part {
    let mut bytes = vec![0, units, 4, 0];
    bytes.resize(usize::from(units) * 8 + 8, 0xaa);
    Part { kind: ROUTING, bytes }
}

/// `offset` in units of eight bytes.
pub fn fragment(offset: u16, more: bool, id: u32) -> Part {
    let mut bytes = vec![0, 0];
    bytes.extend((offset << 3 | u16::from(more)).to_be_bytes());
    bytes.extend(id.to_be_bytes());
    Part { kind: FRAGMENT, bytes }
}

/// RFC 4302 §2.2, with an integrity value of 16 bytes.
pub fn auth() -> Part {
    let mut bytes = vec![0, 5];
    bytes.extend([0x55; 26]);
    Part { kind: AUTH, bytes }
}

/// UDP of the flow with so many bytes in it.
pub fn udp(length: usize) -> Part {
    let mut bytes = vec![0x04, 0x46, 0x9c, 0x40];
    bytes.extend(u16::try_from(length + 8).expect("short").to_be_bytes());
    bytes.extend([0xab, 0xcd]);
    bytes.extend(payload(length));
    Part { kind: UDP, bytes }
}

/// TCP of the flow with these flags and options, and so many bytes in it.
pub fn tcp(flags: u8, options: &[u8], length: usize) -> Part {
    assert_eq!(options.len() % 4, 0, "TCP's header is in words");
    let offset = u8::try_from((20 + options.len()) / 4).expect("short") << 4;
    let mut bytes =
        vec![0x04, 0x46, 0x9c, 0x40, 1, 2, 3, 4, 5, 6, 7, 8, offset, flags, 0xff, 0xff, 0, 0, 0, 0];
    bytes.extend(options);
    bytes.extend(payload(length));
    Part { kind: TCP, bytes }
}

pub fn icmpv6(kind: u8, body: &[u8]) -> Part {
    Part { kind: ICMPV6, bytes: [&[kind, 0, 0, 0], body].concat() }
}

fn payload(length: usize) -> impl Iterator<Item = u8> {
    (0..length).map(|i| (i % 251) as u8)
}

/// Network packet of these parts, the first of which is an IPv6 header.
pub fn network(parts: &[Part]) -> Vec<u8> {
    let mut out = Vec::new();
    for (number, part) in parts.iter().enumerate() {
        let at = out.len();
        out.extend(&part.bytes);
        let rest: usize = parts[number + 1..].iter().map(|p| p.bytes.len()).sum();
        let next = parts.get(number + 1).map_or(59, |p| p.kind);
        match part.kind {
            // More than a header is a whole packet, which is as it shall be.
            IPV6 if part.bytes.len() == 40 => {
                out[at + 4..at + 6].copy_from_slice(&u16::try_from(rest).expect("short").to_be_bytes());
                out[at + 6] = next;
            }
            HOP_BY_HOP | ROUTING | FRAGMENT | AUTH | DESTINATION => out[at] = next,
            _ => {}
        }
    }
    out
}

/// An Ethernet frame with these VLAN tags.
pub fn frame_with(tags: &[[u8; 4]], network: &[u8]) -> Vec<u8> {
    // To a unicast address that is not the interface's: nobody else looks at it.
    let mut out = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    tags.iter().for_each(|t| out.extend(t));
    out.extend([0x86, 0xdd]);
    out.extend(network);
    out
}

pub fn frame(parts: &[Part]) -> Vec<u8> {
    frame_with(&[], &network(parts))
}

/// The same with the right checksum at this offset of the transport part, which is the last.
pub fn frame_summed(parts: &[Part], checksum_at: usize) -> Vec<u8> {
    let mut out = frame(parts);
    let l4 = out.len() - parts.last().expect("parts").bytes.len();
    let transport = parts.last().expect("parts");
    let sum = checksum(&out[ETHERNET + 8..ETHERNET + 40], transport.kind, &out[l4..]);
    out[l4 + checksum_at..l4 + checksum_at + 2].copy_from_slice(&sum.to_be_bytes());
    out
}

/// RFC 8200 §8.1; the checksum's own bytes have to be zero.
pub fn checksum(addresses: &[u8], protocol: u8, transport: &[u8]) -> u16 {
    let length = u32::try_from(transport.len()).expect("short").to_be_bytes();
    let mut bytes = [addresses, &length, &[0, 0, 0, protocol], transport].concat();
    bytes.resize(bytes.len().next_multiple_of(2), 0);
    let words = bytes.chunks_exact(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
