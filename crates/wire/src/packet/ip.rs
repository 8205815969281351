//! IPv4, IPv6 and the extension headers between IPv6 and the transport.

use std::net::IpAddr;

use etherparse::{Ipv4HeaderSlice, Ipv6FragmentHeaderSlice, Ipv6HeaderSlice, err};

use super::link::header;
use super::{Fragment, Layer, MAX_OPTION_TAGS, OptionTag, Packet, PacketError, transport};
use crate::FlowLabel;
use crate::option::{self, Place};

pub(super) fn read(frame: &[u8], offset: usize) -> Result<Packet<'_>, PacketError> {
    match header(frame, Layer::Ip, offset, 1)? {
        [first, ..] if first >> 4 == 4 => read_v4(frame, offset),
        [first, ..] if first >> 4 == 6 => read_v6(frame, offset),
        _ => Err(PacketError::Malformed { layer: Layer::Ip, offset, what: "its version is neither 4 nor 6" }),
    }
}

/// A packet of which nothing but the IP header is known yet.
fn new<'a>(src: IpAddr, dst: IpAddr, hop_limit: u8, protocol: u8) -> Packet<'a> {
    Packet {
        vlans: [None; 2],
        src,
        dst,
        dscp: 0,
        ecn: 0,
        flow_label: None,
        hop_limit,
        protocol,
        fragment: None,
        option_tags: Vec::new(),
        ports: None,
        tcp: None,
        payload_offset: 0,
        payload_len: None,
        payload: &[],
        stopped: None,
        upper: &[],
        upper_len: None,
        is_source_routed: false,
    }
}

fn read_v4(frame: &[u8], offset: usize) -> Result<Packet<'_>, PacketError> {
    let rest = frame.get(offset..).unwrap_or_default();
    let ip = Ipv4HeaderSlice::from_slice(rest).map_err(|error| v4_error(&error, offset))?;
    let protocol = ip.protocol().0;
    let mut packet = new(ip.source_addr().into(), ip.destination_addr().into(), ip.ttl(), protocol);
    packet.dscp = ip.dcp().value();
    packet.ecn = ip.ecn().value();
    let fragment = Fragment {
        id: ip.identification().into(),
        offset: u32::from(ip.fragments_offset().value()) * 8,
        more: ip.more_fragments(),
    };
    packet.fragment = (!fragment.is_whole()).then_some(fragment);
    let header_len = ip.slice().len();
    // Segmentation offload leaves the length 0 in packets captured where they were sent.
    let total = Some(usize::from(ip.total_len())).filter(|len| *len != 0);
    if total.is_some_and(|len| len < header_len) {
        let what = "its total length is shorter than itself";
        return Err(PacketError::Malformed { layer: Layer::Ipv4, offset, what });
    }
    let frame = cut(frame, total.map(|len| offset + len));
    transport::read(&mut packet, frame, offset + header_len, total.map(|len| len - header_len));
    Ok(packet)
}

fn v4_error(error: &err::ipv4::HeaderSliceError, offset: usize) -> PacketError {
    let layer = Layer::Ipv4;
    match error {
        err::ipv4::HeaderSliceError::Len(len) => {
            PacketError::Truncated { layer, offset, need: len.required_len, have: len.len }
        }
        err::ipv4::HeaderSliceError::Content(_) => {
            PacketError::Malformed { layer, offset, what: "its header length is below 20 bytes" }
        }
    }
}

fn read_v6(frame: &[u8], offset: usize) -> Result<Packet<'_>, PacketError> {
    let fixed = header(frame, Layer::Ipv6, offset, 40)?;
    let what = "its version is not 6";
    let ip = Ipv6HeaderSlice::from_slice(fixed).map_err(|_| PacketError::Malformed {
        layer: Layer::Ipv6,
        offset,
        what,
    })?;
    let next = ip.next_header().0;
    let mut packet = new(ip.source_addr().into(), ip.destination_addr().into(), ip.hop_limit(), next);
    packet.dscp = ip.traffic_class() >> 2;
    packet.ecn = ip.traffic_class() & 3;
    packet.flow_label = FlowLabel::new(ip.flow_label().value().into()).ok();
    let first = offset + 40;
    // Jumbograms (RFC 2675) and segmentation offload above 64 KiB leave the length 0.
    let end = Some(usize::from(ip.payload_length())).filter(|len| *len != 0).map(|len| first + len);
    let frame = cut(frame, end);
    match walk(&mut packet, frame, first) {
        Ok(at) => transport::read(&mut packet, frame, at, end.map(|end| end.saturating_sub(at))),
        Err(error) => packet.stopped = Some(error),
    }
    Ok(packet)
}

/// Cuts off what the link layer put behind the packet.
fn cut(frame: &[u8], end: Option<usize>) -> &[u8] {
    end.and_then(|end| frame.get(..end)).unwrap_or(frame)
}

const HOP_BY_HOP: u8 = Place::HopByHop.number();
const DESTINATION: u8 = Place::Destination.number();
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const MOBILITY: u8 = 135;
const HIP: u8 = 139;
const SHIM6: u8 = 140;

/// Passes all extension headers and gives the offset of what follows. Every header has at least 8 bytes, so this ends.
fn walk(packet: &mut Packet<'_>, frame: &[u8], mut at: usize) -> Result<usize, PacketError> {
    loop {
        // The later pieces of a datagram begin in the middle of it, not with a header.
        if packet.fragment.is_some_and(|f| f.offset != 0) {
            return Ok(at);
        }
        let header = match packet.protocol {
            HOP_BY_HOP => options(packet, frame, at, Place::HopByHop)?,
            DESTINATION => options(packet, frame, at, Place::Destination)?,
            ROUTING => routing(packet, frame, at)?,
            FRAGMENT => fragment(packet, frame, at)?,
            AUTHENTICATION => extension(frame, at, |len| (usize::from(len) + 2) * 4)?,
            MOBILITY | HIP | SHIM6 => extension(frame, at, option::total_len)?,
            _ => return Ok(at),
        };
        packet.protocol = header.first().copied().unwrap_or_default();
        at += header.len();
    }
}

/// The whole extension header; `total` tells its length in bytes from its second byte.
fn extension(frame: &[u8], at: usize, total: impl Fn(u8) -> usize) -> Result<&[u8], PacketError> {
    let len = header(frame, Layer::Extension, at, 8)?.get(1).copied().unwrap_or_default();
    header(frame, Layer::Extension, at, total(len).max(8))
}

fn options<'f>(
    packet: &mut Packet<'_>,
    frame: &'f [u8],
    at: usize,
    place: Place,
) -> Result<&'f [u8], PacketError> {
    let header = extension(frame, at, option::total_len)?;
    let found = option::find(header).map_err(|source| PacketError::Options { offset: at, source })?;
    if packet.option_tags.len() < MAX_OPTION_TAGS {
        packet.option_tags.extend(found.map(|found| OptionTag { place, found }));
    }
    Ok(header)
}

/// With segments left, the checksum covers an address that is not in the IPv6 header (RFC 8200 §8.1).
fn routing<'f>(packet: &mut Packet<'_>, frame: &'f [u8], at: usize) -> Result<&'f [u8], PacketError> {
    let header = extension(frame, at, option::total_len)?;
    packet.is_source_routed |= header.get(3).is_some_and(|segments_left| *segments_left != 0);
    Ok(header)
}

fn fragment<'f>(packet: &mut Packet<'_>, frame: &'f [u8], at: usize) -> Result<&'f [u8], PacketError> {
    let bytes = header(frame, Layer::Extension, at, 8)?;
    let slice = Ipv6FragmentHeaderSlice::from_slice(bytes).map_err(|error| PacketError::Truncated {
        layer: Layer::Extension,
        offset: at,
        need: error.required_len,
        have: error.len,
    })?;
    packet.fragment = Some(Fragment {
        id: slice.identification(),
        offset: u32::from(slice.fragment_offset().value()) * 8,
        more: slice.more_fragments(),
    });
    Ok(bytes)
}
