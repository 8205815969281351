//! What the marking program has to do with a packet, said plainly and for one packet at a time, without looking at how
//! the program does it.

use std::net::{IpAddr, Ipv6Addr};

use flowtag_kernel::mark::{Key, Mark, Verdict};
use flowtag_wire::{Endpoint, Protocol, Strategy, option};

use super::packets::{AUTH, DESTINATION, FRAGMENT, HOP_BY_HOP, IPV6, ROUTING};
use super::{ETHERNET, MTU};

const IPV6_LEN: usize = 40;
const MAX_HEADERS: usize = 8;
/// Bytes that the program may move.
const MOST_MOVED: usize = 256;

/// Where things are in a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parsed {
    /// Outermost IPv6 header, and the one that is written.
    pub outer: usize,
    pub l3: usize,
    pub l4: usize,
    pub src: Ipv6Addr,
    pub dst: Ipv6Addr,
    pub protocol: u8,
    pub ports: Option<(u16, u16)>,
    pub later_fragment: bool,
    /// An authentication header before what would change, or before the transport.
    pub covered: bool,
    /// An authentication header behind the outermost header, before another IPv6 header or the transport.
    pub outer_covered: bool,
    /// The header that is written is itself in an authenticated packet.
    pub sealed: bool,
    /// The header that is written is itself in a fragment.
    pub in_fragment: bool,
}

/// What was met in a chain of extension headers.
#[derive(Default)]
struct Met {
    auth: bool,
    fragment: bool,
    later: bool,
}

/// Bytes from `at`, if they are all there.
fn take(frame: &[u8], at: usize, length: usize) -> Result<&[u8], Verdict> {
    frame.get(at..at + length).ok_or(Verdict::Unreadable)
}

impl Parsed {
    /// # Errors
    /// The verdict on what cannot be parsed.
    pub fn new(frame: &[u8], inner: bool) -> Result<Self, Verdict> {
        let (kind, outer) = network(frame)?;
        match kind {
            0x86dd => {}
            0x0800 => return Err(Verdict::Ipv4),
            _ => return Err(Verdict::NotIp),
        }
        let header = take(frame, outer, IPV6_LEN)?;
        let (mut src, mut dst) = addresses(header);
        let mut l3 = outer;
        let (mut at, mut next, met) = chain(frame, outer + IPV6_LEN, header[6])?;
        let Met { mut auth, mut later, .. } = met;
        let outer_covered = auth;
        let (mut sealed, mut in_fragment) = (false, false);
        if next == IPV6 && !later {
            let header = take(frame, at, IPV6_LEN)?;
            (src, dst) = addresses(header);
            if inner {
                (l3, sealed, in_fragment) = (at, auth, met.fragment);
            }
            let around;
            (at, next, around) = chain(frame, at + IPV6_LEN, header[6])?;
            (auth, later) = (auth || around.auth, around.later);
        }
        let ports = match next {
            6 | 17 if !later => {
                let bytes = take(frame, at, 4)?;
                Some((u16::from_be_bytes([bytes[0], bytes[1]]), u16::from_be_bytes([bytes[2], bytes[3]])))
            }
            _ => None,
        };
        let (protocol, later_fragment, covered, l4) = (next, later, auth, at);
        Ok(Self {
            outer,
            l3,
            l4,
            src,
            dst,
            protocol,
            ports,
            later_fragment,
            covered,
            outer_covered,
            sealed,
            in_fragment,
        })
    }

    /// The flow, if it is TCP or UDP with ports.
    pub fn key(&self) -> Option<Key> {
        let protocol = [Protocol::Tcp, Protocol::Udp].into_iter().find(|p| p.number() == self.protocol)?;
        let (src, dst) = self.ports?;
        let end = |addr: Ipv6Addr, port| Endpoint::new(IpAddr::V6(addr), port);
        Some(Key { protocol, local: end(self.src, src), remote: end(self.dst, dst) })
    }
}

/// Type of the network packet and where it begins, behind at most two VLAN tags.
fn network(frame: &[u8]) -> Result<(u16, usize), Verdict> {
    let kind = |at| take(frame, at, 2).map(|b| u16::from_be_bytes([b[0], b[1]]));
    let mut at = ETHERNET - 2;
    for _ in 0..2 {
        if !matches!(kind(at)?, 0x8100 | 0x88a8) {
            break;
        }
        take(frame, at + 2, 4)?;
        at += 4;
    }
    Ok((kind(at)?, at + 2))
}

fn addresses(header: &[u8]) -> (Ipv6Addr, Ipv6Addr) {
    let address = |at: usize| Ipv6Addr::from(<[u8; 16]>::try_from(&header[at..at + 16]).expect("16 bytes"));
    (address(8), address(24))
}

fn chain(frame: &[u8], mut at: usize, mut next: u8) -> Result<(usize, u8, Met), Verdict> {
    let mut met = Met::default();
    for walked in 0.. {
        if !matches!(next, HOP_BY_HOP | ROUTING | FRAGMENT | AUTH | DESTINATION) {
            break;
        }
        if walked == MAX_HEADERS {
            return Err(Verdict::Unreadable);
        }
        let header = take(frame, at, 8)?;
        at += match next {
            FRAGMENT => 8,
            AUTH => (usize::from(header[1]) + 2) * 4,
            _ => option::total_len(header[1]),
        };
        met.auth |= next == AUTH;
        let (offset, more) = (u16::from_be_bytes([header[2], header[3]]) >> 3, header[3] & 1);
        let fragment = next == FRAGMENT && (offset > 0 || more == 1);
        met.fragment |= fragment;
        next = header[0];
        if fragment && offset > 0 {
            met.later = true;
            break;
        }
    }
    Ok((at, next, met))
}

/// An options header, or the place where it would be.
struct Place {
    at: usize,
    next: u8,
    /// Bytes of the header that is there.
    length: usize,
    /// Where in the packet our option is.
    tagged: Option<usize>,
}

impl Place {
    fn look(frame: &[u8], at: usize, found: u8, wanted: u8) -> Self {
        if found != wanted {
            return Self { at, next: found, length: 0, tagged: None };
        }
        let length = option::total_len(frame[at + 1]);
        let tagged = ours_in(frame, at, length);
        Self { at, next: frame[at], length, tagged }
    }

    /// The packet with our option in this header, which gets longer by eight bytes.
    fn write(&self, frame: &mut Vec<u8>, mark: Mark) {
        let tag = mark.label.tag().expect("the test marks with tags");
        let fresh = option::header(tag, self.next);
        if self.length == 0 {
            frame.splice(self.at..self.at, fresh);
            return;
        }
        // RFC 8200 §4.2: PadN of three bytes, then our option of five, then the options that were there.
        let padded = [1, 1, 0].into_iter().chain(fresh[2..7].iter().copied());
        frame.splice(self.at + 2..self.at + 2, padded);
        frame[self.at + 1] += 1;
    }
}

/// What has to become of a packet of a flow with this mark, on an Ethernet interface with [`MTU`].
pub fn mark(frame: &[u8], packet: &Parsed, mark: Mark) -> (Verdict, Vec<u8>) {
    let untouched = |verdict| (verdict, frame.to_vec());
    let strategy = mark.strategy;
    let needs = |part| strategy.contains(part);
    if packet.sealed {
        return untouched(Verdict::Protected);
    }
    if !needs(Strategy::DESTINATION) && !needs(Strategy::HOP_BY_HOP) {
        return (Verdict::Marked, labelled(frame, packet.l3, mark));
    }
    if packet.covered {
        return untouched(Verdict::Protected);
    }
    let begin = packet.l3 + IPV6_LEN;
    let hop = Place::look(frame, begin, frame[packet.l3 + 6], HOP_BY_HOP);
    let dest = Place::look(frame, begin + hop.length, hop.next, DESTINATION);
    let (in_hop, in_dest) = (
        needs(Strategy::HOP_BY_HOP) && hop.tagged.is_none(),
        needs(Strategy::DESTINATION) && dest.tagged.is_none(),
    );
    let grows = 8 * (usize::from(in_hop) + usize::from(in_dest));
    let payload = usize::from(u16::from_be_bytes([frame[packet.l3 + 4], frame[packet.l3 + 5]]));
    let full = hop.length == 2048 || dest.length == 2048;
    if grows > 0
        && (payload == 0
            || payload + grows > 0xffff
            || full
            || packet.in_fragment
            || frame.len() - packet.outer + grows > MTU)
    {
        return untouched(Verdict::NoRoom);
    }
    // With VLAN tags in the frame room is made at its front, else behind the outer header.
    let opened = if packet.outer == ETHERNET { packet.outer + IPV6_LEN } else { 0 };
    let last = if in_dest { dest.at } else { hop.at };
    if grows > 0 && last - opened > MOST_MOVED {
        return untouched(Verdict::WriteFailed);
    }
    let mut out = labelled(frame, packet.l3, mark);
    // The rear first, so that what is before stays where it is.
    if in_dest {
        dest.write(&mut out, mark);
        let announced = if hop.length > 0 { hop.at } else { packet.l3 + 6 };
        out[announced] = DESTINATION;
    }
    if in_hop {
        let next = if in_dest { DESTINATION } else { hop.next };
        Place { next, ..hop }.write(&mut out, mark);
        out[packet.l3 + 6] = HOP_BY_HOP;
    }
    let mut around = vec![packet.l3];
    if packet.outer != packet.l3 {
        around.push(packet.outer);
    }
    for header in around {
        let length = u16::from_be_bytes([out[header + 4], out[header + 5]]) + grows as u16;
        out[header + 4..header + 6].copy_from_slice(&length.to_be_bytes());
    }
    (Verdict::Marked, out)
}

/// With the label, if the strategy has it, and all other bits as they were.
fn labelled(frame: &[u8], l3: usize, mark: Mark) -> Vec<u8> {
    let mut out = frame.to_vec();
    if mark.strategy.contains(Strategy::LABEL) {
        let [_, high, middle, low] = mark.label.value().to_be_bytes();
        out[l3 + 1] = out[l3 + 1] & 0xf0 | high;
        out[l3 + 2] = middle;
        out[l3 + 3] = low;
    }
    out
}

/// What has to become of a packet whose tags are cleared, in the header that routers on the way see.
pub fn strip(frame: &[u8], packet: &Parsed) -> (Verdict, Vec<u8>) {
    let mut out = frame.to_vec();
    let header = packet.outer;
    out[header + 1] &= 0xf0;
    out[header + 2..header + 4].fill(0);
    if packet.outer_covered {
        return (Verdict::Stripped, out);
    }
    let hop = Place::look(frame, header + IPV6_LEN, frame[header + 6], HOP_BY_HOP);
    let dest = Place::look(frame, header + IPV6_LEN + hop.length, hop.next, DESTINATION);
    let mut verdict = Verdict::Stripped;
    for place in [hop, dest] {
        let Some(at) = place.tagged else { continue };
        // Alone it becomes padding (RFC 8200 §4.2), among others zeros, which are no tag.
        let kind = if place.length == 8 { 1 } else { option::OPTION_TYPE };
        match out.get_mut(at..at + 5) {
            Some(option) => option.copy_from_slice(&[kind, 3, 0, 0, 0]),
            None => verdict = Verdict::WriteFailed,
        }
    }
    (verdict, out)
}

/// Where the first option of our type and length is, among the first eight of a header.
fn ours_in(frame: &[u8], header: usize, length: usize) -> Option<usize> {
    let mut at = header + 2;
    for _ in 0..8 {
        let [kind, size] = *frame.get(at..at + 2)? else { return None };
        if at + 5 > header + length {
            return None;
        }
        if [kind, size] == [option::OPTION_TYPE, option::OPTION_LEN] {
            return Some(at);
        }
        at += if kind == 0 { 1 } else { 2 + usize::from(size) };
    }
    None
}
