//! Packets as they are on the wire, built byte by byte or with etherparse, and everything that can be cut off them.
#![allow(clippy::unwrap_used, reason = "helpers of tests are not tests to the lint")]

use etherparse::{PacketBuilder, PacketBuilderStep, VlanId};
use flowtag_wire::option::{self, Found, OptionError, Place};
use flowtag_wire::packet::{Fragment, Layer, MAX_OPTION_TAGS, OptionTag, Ports, TcpFlags};
use flowtag_wire::{Entropy, FlowLabel, LinkType, Packet, PacketError, Tag};
use proptest::prelude::*;

const SRC: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const DST: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
const TCP: u8 = 6;
const UDP: u8 = 17;

fn tag() -> Tag {
    Tag::new(3, 14).unwrap()
}

/// DSCP 46, ECN 1, the label of 3/14, hop limit 64.
fn ipv6(next: u8, payload: &[u8]) -> Vec<u8> {
    let label = FlowLabel::from_tag(tag(), Entropy::NONE).value();
    let first = 6 << 28 | (46 << 2 | 1) << 20 | label;
    let len = u16::try_from(payload.len()).unwrap().to_be_bytes();
    [&first.to_be_bytes()[..], &len, &[next, 64], &SRC, &DST, payload].concat()
}

/// SYN and ACK from 1094 to 40000, sequence number 7, with a right checksum and five bytes of data.
fn tcp() -> Vec<u8> {
    let header = etherparse::TcpHeader {
        syn: true,
        ack: true,
        acknowledgment_number: 9,
        ..etherparse::TcpHeader::new(1094, 40000, 7, 512)
    };
    let ip = etherparse::Ipv6Header { source: SRC, destination: DST, ..Default::default() };
    let checksum = header.calc_checksum_ipv6(&ip, b"hello").unwrap();
    let header = etherparse::TcpHeader { checksum, ..header };
    [&header.to_bytes()[..], b"hello"].concat()
}

fn ethernet(tags: &[(u16, u16)], payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    for (ethertype, vlan) in tags {
        frame.extend(ethertype.to_be_bytes());
        frame.extend((0xe000 | vlan).to_be_bytes());
    }
    frame.extend([0x86, 0xdd]);
    frame.extend(payload);
    frame
}

#[track_caller]
fn check(link: LinkType, frame: &[u8], payload_offset: usize) {
    let packet = Packet::parse(link, frame).unwrap();
    assert_eq!(packet.stopped, None);
    assert_eq!((packet.ip_version(), packet.dscp, packet.ecn, packet.hop_limit), (6, 46, 1, 64));
    assert_eq!(packet.flow_label.unwrap().tag(), Some(tag()));
    assert_eq!((packet.src, packet.dst, packet.protocol), (SRC.into(), DST.into(), TCP));
    assert_eq!(packet.ports, Some(Ports { src: 1094, dst: 40000 }));
    let tcp = packet.tcp.unwrap();
    assert_eq!((tcp.seq, tcp.ack, tcp.window, tcp.flags.to_string()), (7, 9, 512, "SYN|ACK".to_owned()));
    assert!(tcp.flags.contains(TcpFlags::SYN) && !tcp.flags.contains(TcpFlags::FIN));
    assert_eq!(
        (packet.payload_offset, packet.payload_len, packet.payload),
        (payload_offset, Some(5), &b"hello"[..])
    );
    assert_eq!(packet.checksum_ok(), Some(true));
    assert_eq!(packet.flow().unwrap().to_string(), "tcp [2001:db8::1]:1094 > [2001:db8::2]:40000");
}

#[test]
fn one_packet_looks_the_same_behind_every_link_layer() {
    let ip = ipv6(TCP, &tcp());
    check(LinkType::Ip, &ip, 60);
    check(LinkType::Ethernet, &ethernet(&[], &ip), 74);
    check(LinkType::Ethernet, &ethernet(&[(0x8100, 100)], &ip), 78);
    check(LinkType::Ethernet, &ethernet(&[(0x88a8, 100), (0x8100, 200)], &ip), 82);
    let sll = [&[0, 4, 0, 1, 0, 6, 2, 0, 0, 0, 0, 1, 0, 0, 0x86, 0xdd][..], &ip].concat();
    check(LinkType::LinuxSll, &sll, 76);
    let sll2 = [&[0x86, 0xdd, 0, 0, 0, 0, 0, 2, 0, 1, 4, 6, 2, 0, 0, 0, 0, 1, 0, 0][..], &ip].concat();
    check(LinkType::LinuxSll2, &sll2, 80);
    let padded = [&ethernet(&[], &ip)[..], &[0xff; 20]].concat();
    check(LinkType::Ethernet, &padded, 74);
}

#[test]
fn link_types_are_known_by_their_numbers() {
    for (number, link) in [
        (1, LinkType::Ethernet),
        (12, LinkType::Ip),
        (14, LinkType::Ip),
        (101, LinkType::Ip),
        (113, LinkType::LinuxSll),
        (276, LinkType::LinuxSll2),
    ] {
        assert_eq!(LinkType::from_number(number), Ok(link));
    }
    assert_eq!(LinkType::from_number(105), Err(PacketError::LinkType(105)));
}

#[test]
fn vlan_numbers_come_outer_first_and_without_priority() {
    let frame = ethernet(&[(0x88a8, 100), (0x8100, 200)], &ipv6(TCP, &tcp()));
    assert_eq!(Packet::parse(LinkType::Ethernet, &frame).unwrap().vlans, [Some(100), Some(200)]);
    let frame = ethernet(&[(0x8100, 4095)], &ipv6(TCP, &tcp()));
    assert_eq!(Packet::parse(LinkType::Ethernet, &frame).unwrap().vlans, [Some(4095), None]);
}

#[test]
fn a_third_vlan_tag_and_arp_are_not_ip() {
    let frame = ethernet(&[(0x88a8, 1), (0x8100, 2), (0x8100, 3)], &ipv6(TCP, &tcp()));
    let error = Packet::parse(LinkType::Ethernet, &frame).unwrap_err();
    assert_eq!(error, PacketError::NotIp { ethertype: 0x8100, offset: 20 });
    let arp = [&[0xff; 12][..], &[8, 6], &[0; 28]].concat();
    let error = Packet::parse(LinkType::Ethernet, &arp).unwrap_err();
    assert_eq!(error, PacketError::NotIp { ethertype: 0x0806, offset: 12 });
}

#[test]
fn both_option_headers_are_found_and_told_apart() {
    let ip = ipv6(0, &[&option::both(tag(), TCP)[..], &tcp()].concat());
    check(LinkType::Ip, &ip, 76);
    let found = Found::Tag(tag());
    let expected = [Place::HopByHop, Place::Destination].map(|place| OptionTag { place, found });
    assert_eq!(Packet::parse(LinkType::Ip, &ip).unwrap().option_tags, expected);
}

#[test]
fn an_option_without_a_tag_is_reported_as_what_it_is() {
    let mut header = option::header(tag(), TCP);
    header[4..7].copy_from_slice(&[2, 0, 64]);
    let ip = ipv6(60, &[&header[..], &tcp()].concat());
    let found = Found::OutOfRange { experiment: 512, activity: 64 };
    let packet = Packet::parse(LinkType::Ip, &ip).unwrap();
    assert_eq!(packet.option_tags, [OptionTag { place: Place::Destination, found }]);
}

#[test]
fn all_other_extension_headers_are_passed() {
    let routing = [51, 0, 4, 0, 0, 0, 0, 0];
    let authentication = [135, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2];
    let mobility = [44, 0, 5, 0, 0, 0, 0, 0];
    let atomic_fragment = [TCP, 0, 0, 0, 0, 0, 0, 9];
    let chain = [&routing[..], &authentication, &mobility, &atomic_fragment, &tcp()].concat();
    let ip = ipv6(43, &chain);
    check(LinkType::Ip, &ip, 96);
    let fragment = Packet::parse(LinkType::Ip, &ip).unwrap().fragment.unwrap();
    assert!(fragment.is_whole());
}

#[test]
fn a_source_routed_packet_has_a_checksum_that_cannot_be_told() {
    let routing = [TCP, 0, 4, 1, 0, 0, 0, 0];
    let ip = ipv6(43, &[&routing[..], &tcp()].concat());
    assert_eq!(Packet::parse(LinkType::Ip, &ip).unwrap().checksum_ok(), None);
}

#[test]
fn endless_option_headers_end_and_keep_a_bounded_number_of_tags() {
    let chain: Vec<u8> = (0..1000).flat_map(|_| option::header(tag(), 60)).collect();
    let ip = ipv6(60, &chain);
    let packet = Packet::parse(LinkType::Ip, &ip).unwrap();
    assert_eq!(packet.option_tags.len(), MAX_OPTION_TAGS);
    let missing = PacketError::Truncated { layer: Layer::Extension, offset: 8040, need: 8, have: 0 };
    assert_eq!(packet.stopped, Some(missing));
}

#[test]
fn an_option_that_overruns_its_header_stops_there_and_says_so() {
    let ip = ipv6(0, &[TCP, 0, 5, 9, 0, 0, 0, 0]);
    let packet = Packet::parse(LinkType::Ip, &ip).unwrap();
    let source = OptionError::Overrun { kind: 5, offset: 2 };
    assert_eq!(packet.stopped, Some(PacketError::Options { offset: 40, source }));
    assert_eq!((packet.ports, packet.protocol), (None, 0));
}

#[test]
fn the_first_fragment_has_ports_and_the_next_has_none() {
    let first = ipv6(44, &[&[TCP, 0, 0, 1, 0, 0, 0, 9][..], &tcp()].concat());
    let packet = Packet::parse(LinkType::Ip, &first).unwrap();
    assert_eq!(packet.fragment, Some(Fragment { id: 9, offset: 0, more: true }));
    assert_eq!((packet.ports.map(|p| p.src), packet.checksum_ok()), (Some(1094), None));

    let next = ipv6(44, &[&[TCP, 0, 0, 16, 0, 0, 0, 9][..], &tcp()].concat());
    let packet = Packet::parse(LinkType::Ip, &next).unwrap();
    assert_eq!(packet.fragment, Some(Fragment { id: 9, offset: 16, more: false }));
    assert_eq!((packet.ports, packet.tcp, packet.flow(), packet.checksum_ok()), (None, None, None, None));
    assert_eq!((packet.protocol, packet.payload_offset, packet.payload.len()), (TCP, 48, 25));
}

#[test]
fn an_ipv4_fragment_counts_in_eights() {
    let mut ip = built(PacketBuilder::ipv4([192, 0, 2, 1], [192, 0, 2, 2], 9).udp(1, 2), b"data");
    ip[4..8].copy_from_slice(&[0x12, 0x34, 0x20, 0x02]);
    let packet = Packet::parse(LinkType::Ip, &ip).unwrap();
    assert_eq!(packet.fragment, Some(Fragment { id: 0x1234, offset: 16, more: true }));
    assert_eq!((packet.ports, packet.checksum_ok(), packet.flow_label), (None, None, None));
}

fn built(builder: PacketBuilderStep<etherparse::UdpHeader>, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    builder.write(&mut frame, payload).unwrap();
    frame
}

#[test]
fn frames_that_etherparse_builds_are_read_as_it_meant_them() {
    let frame = built(
        PacketBuilder::ethernet2([2; 6], [3; 6])
            .double_vlan(VlanId::try_new(7).unwrap(), VlanId::try_new(8).unwrap())
            .ipv4([192, 0, 2, 1], [192, 0, 2, 2], 33)
            .udp(5001, 53),
        b"query",
    );
    let packet = Packet::parse(LinkType::Ethernet, &frame).unwrap();
    assert_eq!((packet.vlans, packet.ip_version(), packet.hop_limit), ([Some(7), Some(8)], 4, 33));
    assert_eq!(packet.flow().unwrap().to_string(), "udp 192.0.2.1:5001 > 192.0.2.2:53");
    assert_eq!((packet.payload, packet.checksum_ok()), (&b"query"[..], Some(true)));
}

#[test]
fn a_multicast_packet_is_read_although_it_is_no_flow() {
    let group = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xfb];
    let ip = built(PacketBuilder::ipv6(SRC, group, 255).udp(5353, 5353), b"mdns");
    let packet = Packet::parse(LinkType::Ip, &ip).unwrap();
    assert_eq!(packet.ports, Some(Ports { src: 5353, dst: 5353 }));
    assert_eq!((packet.flow(), packet.checksum_ok()), (None, Some(true)));
}

#[test]
fn icmpv6_has_a_checksum_and_no_ports() {
    let mut frame = Vec::new();
    PacketBuilder::ipv6(SRC, DST, 64).icmpv6_echo_request(1, 2).write(&mut frame, b"ping").unwrap();
    let packet = Packet::parse(LinkType::Ip, &frame).unwrap();
    assert_eq!((packet.protocol, packet.ports, packet.payload), (58, None, &b"ping"[..]));
    assert_eq!(packet.checksum_ok(), Some(true));
}

#[test]
fn one_wrong_bit_anywhere_in_the_segment_makes_the_checksum_wrong() {
    let ip = ipv6(TCP, &tcp());
    for bit in 40 * 8..ip.len() * 8 {
        let mut broken = ip.clone();
        broken[bit / 8] ^= 1 << (bit % 8);
        let packet = Packet::parse(LinkType::Ip, &broken).unwrap();
        // A wrong data offset can make the header unreadable; the checksum then cannot be told.
        assert_ne!(packet.checksum_ok(), Some(true), "bit {bit}");
    }
}

#[test]
fn udp_without_a_checksum_is_allowed_over_ipv4_only() {
    let mut v4 = built(PacketBuilder::ipv4([192, 0, 2, 1], [192, 0, 2, 2], 9).udp(1, 2), b"data");
    v4[26..28].fill(0);
    assert_eq!(Packet::parse(LinkType::Ip, &v4).unwrap().checksum_ok(), None);
    let mut v6 = built(PacketBuilder::ipv6(SRC, DST, 9).udp(1, 2), b"data");
    v6[46..48].fill(0);
    assert_eq!(Packet::parse(LinkType::Ip, &v6).unwrap().checksum_ok(), Some(false));
}

#[test]
fn udp_ends_where_it_says_and_not_where_the_packet_does() {
    let udp = [0, 1, 0, 2, 0, 10, 0, 1, b'o', b'k', b'?', b'?'];
    let ip = ipv6(UDP, &udp);
    let packet = Packet::parse(LinkType::Ip, &ip).unwrap();
    assert_eq!((packet.payload, packet.payload_len), (&b"ok"[..], Some(2)));
    for (len, what) in
        [(7, "its length is below 8 bytes"), (13, "its length is beyond the end of the packet")]
    {
        let mut udp = udp;
        udp[5] = len;
        let ip = ipv6(UDP, &udp);
        let stopped = Packet::parse(LinkType::Ip, &ip).unwrap().stopped;
        assert_eq!(stopped, Some(PacketError::Malformed { layer: Layer::Udp, offset: 40, what }));
    }
}

#[test]
fn a_length_of_zero_is_offload_and_the_rest_of_the_frame_counts() {
    let mut ip = ipv6(TCP, &tcp());
    ip[4..6].fill(0);
    let packet = Packet::parse(LinkType::Ip, &ip).unwrap();
    assert_eq!((packet.payload, packet.payload_len, packet.checksum_ok()), (&b"hello"[..], None, None));
}

#[test]
fn a_short_capture_keeps_what_it_has() {
    let ip = ipv6(TCP, &tcp());
    let packet = Packet::parse(LinkType::Ip, &ip[..62]).unwrap();
    assert_eq!((packet.payload, packet.payload_len, packet.checksum_ok()), (&b"he"[..], Some(5), None));
    let packet = Packet::parse(LinkType::Ip, &ip[..44]).unwrap();
    assert_eq!(packet.ports, Some(Ports { src: 1094, dst: 40000 }));
    let stopped = PacketError::Truncated { layer: Layer::Tcp, offset: 40, need: 20, have: 4 };
    assert_eq!((packet.stopped, packet.tcp, packet.payload), (Some(stopped), None, &[][..]));
}

/// Frames that between them have every header, for cutting and for fuzzing.
fn frames() -> Vec<(LinkType, Vec<u8>)> {
    let both = ipv6(0, &[&option::both(tag(), TCP)[..], &tcp()].concat());
    let fragment = ipv6(44, &[&[UDP, 0, 0, 1, 0, 0, 0, 9, 0, 1, 0, 2, 0, 99, 0, 0][..], &[7; 24]].concat());
    let v4 = built(PacketBuilder::ipv4([192, 0, 2, 1], [192, 0, 2, 2], 9).udp(1, 2), b"data");
    vec![
        (LinkType::Ethernet, ethernet(&[(0x88a8, 100), (0x8100, 200)], &both)),
        (LinkType::Ethernet, ethernet(&[], &fragment)),
        (LinkType::Ip, v4),
        (LinkType::Ip, both),
    ]
}

#[test]
fn a_frame_cut_at_any_length_is_an_error_or_says_where_it_stopped() {
    for (link, frame) in frames() {
        let whole = Packet::parse(link, &frame).unwrap();
        assert_eq!(whole.stopped, None);
        for len in 0..frame.len() {
            match Packet::parse(link, &frame[..len]) {
                Err(PacketError::Truncated { offset, need, have, .. }) => {
                    assert!(offset + have == len && need > have, "{len}: {offset} {need} {have}");
                }
                Err(other) => panic!("{len}: {other}"),
                Ok(packet) => {
                    assert_eq!((packet.src, packet.checksum_ok()), (whole.src, None));
                    assert_eq!(packet.stopped.is_none(), len >= whole.payload_offset, "{len}");
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn any_bytes_are_a_packet_or_an_error(
        link in 0..4_usize,
        bytes in prop::collection::vec(any::<u8>(), 0..120),
    ) {
        let link = [LinkType::Ethernet, LinkType::Ip, LinkType::LinuxSll, LinkType::LinuxSll2][link];
        if let Ok(packet) = Packet::parse(link, &bytes) {
            let _ = (packet.checksum_ok(), packet.flow());
        }
    }

    #[test]
    fn a_real_frame_with_one_byte_changed_is_still_within_its_bounds(which in 0..4_usize, at: prop::sample::Index, to: u8) {
        let (link, mut frame) = frames().swap_remove(which);
        let at = at.index(frame.len());
        frame[at] = to;
        if let Ok(packet) = Packet::parse(link, &frame) {
            prop_assert!(packet.payload_offset + packet.payload.len() <= frame.len());
            prop_assert!(packet.payload_len.is_none_or(|len| len >= packet.payload.len()));
        }
    }
}
