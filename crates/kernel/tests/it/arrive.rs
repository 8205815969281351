//! The program for packets that arrive (`BPF_PROG_TEST_RUN`): what it counts, the room that it makes for headers, and the
//! tags that it clears. Every byte of what comes out is compared.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;

use crate::common;
use crate::common::model::{self, Parsed};
use crate::common::packets::{
    ALERT, C_TAG, DESTINATION, HOP_BY_HOP, Part, S_TAG, auth, checksum, fragment, frame, frame_summed,
    frame_with, icmpv6, ipv6, ipv6_between, network, options, outer, routing, tcp, udp,
};
use crate::common::random::{Frame, any_frame};
use crate::common::{
    ETHERNET, ICMPV6, MTU, Rig, TCP, UDP, flow, hex, label, local, marked, remote, strategies, tag,
};
use flowtag_kernel::link::Interface;
use flowtag_kernel::mark::{Arrival, Mark, Settings, Strip, Verdict};
use flowtag_wire::packet::{LinkType, Packet};
use flowtag_wire::{Entropy, FlowLabel, Protocol, Strategy, Tag, option};
use ipnet::{IpNet, Ipv6Net};
use proptest::collection::vec;
use proptest::prelude::{
    Just, ProptestConfig, Strategy as Values, any, prop_assert_eq, prop_oneof, proptest,
};
use proptest::test_runner::TestRunner;

const ACK: u8 = 0x10;
const SYN: u8 = 2;
const TOO_BIG: u8 = 2;

fn settings() -> Settings {
    Settings { ingress: true, ..Settings::default() }
}

fn numbered(experiment: u64, activity: u64) -> Tag {
    Tag::new(experiment, activity).expect("in range")
}

/// What arrives of the flow: from its remote end.
fn back() -> Part {
    ipv6_between(remote(), local())
}

fn from(peer: &str) -> Part {
    ipv6_between(peer.parse().expect("literal"), local())
}

fn swapped(mut transport: Part) -> Part {
    let (from, to) = (transport.bytes[..2].to_vec(), transport.bytes[2..4].to_vec());
    transport.bytes[..4].copy_from_slice(&[to, from].concat());
    transport
}

fn with_label(mut ip: Part, tag: Tag) -> Part {
    let [_, high, middle, low] =
        FlowLabel::from_tag(tag, Entropy::from_random(0x8_0001)).value().to_be_bytes();
    ip.bytes[1] = ip.bytes[1] & 0xf0 | high;
    ip.bytes[2] = middle;
    ip.bytes[3] = low;
    ip
}

fn tagged(kind: u8, tag: Tag) -> Part {
    Part { kind, bytes: option::header(tag, 0).to_vec() }
}

/// Packets and bytes by what they are, tag and peer.
type Seen = BTreeMap<(Arrival, Option<Tag>, Ipv6Net), (u64, u64)>;

fn seen(rig: &Rig) -> Seen {
    let arrived = rig.marker.coverage().expect("coverage").arrived;
    assert!(arrived.iter().all(|a| a.interface == rig.eth0.index));
    arrived.iter().map(|a| ((a.how, a.tag, a.peer), (a.count.packets, a.count.bytes))).collect()
}

fn peer(address: &str) -> Ipv6Net {
    Ipv6Net::new(address.parse().expect("literal"), 64).expect("a prefix").trunc()
}

/// Lets a packet arrive, which stays as it is, and compares what is counted.
#[track_caller]
fn assert_counted(rig: &Rig, packet: &[u8], expected: &[(Arrival, Option<Tag>)]) {
    let before = seen(rig);
    assert_eq!(hex(&rig.arrive(packet)), hex(packet));
    let after = seen(rig);
    let source = Parsed::new(packet, false).map_or(Ipv6Addr::UNSPECIFIED, |p| p.src);
    let from = Ipv6Net::new(source, 64).expect("a prefix").trunc();
    let mut wanted = before;
    for (how, tag) in expected {
        let (packets, bytes) = wanted.entry((*how, *tag, from)).or_default();
        *packets += 1;
        *bytes += packet.len() as u64;
    }
    assert_eq!(after, wanted, "{}", hex(packet));
}

// ---- Counting.

#[test]
fn what_arrives_is_counted_by_tag_place_and_peer() {
    Rig::on("counts", &settings(), |rig| {
        let (known, unknown) = (numbered(3, 14), numbered(3, 15));
        rig.marker.set_registered([known, numbered(9, 1)].into_iter()).expect("set");
        let transports = [udp(10), tcp(ACK, &[], 10), icmpv6(128, &[0; 8]), Part { kind: 59, bytes: vec![] }];
        for source in ["2001:db8:0:1::2", "2001:db8:0:1:ffff::", "2001:db8:0:2::2", "fd00::1"] {
            for rest in &transports {
                let with =
                    |ip: Part, headers: Vec<Part>| frame(&[vec![ip], headers, vec![rest.clone()]].concat());
                let plain = || with_label(from(source), unknown);
                let label = || with_label(from(source), known);
                for (packet, how, tag) in [
                    (with(label(), vec![]), Arrival::Label, Some(known)),
                    (with(plain(), vec![]), Arrival::Nothing, None),
                    (with(plain(), vec![tagged(DESTINATION, unknown)]), Arrival::Destination, Some(unknown)),
                    (with(plain(), vec![tagged(HOP_BY_HOP, unknown)]), Arrival::HopByHop, Some(unknown)),
                    (with(label(), vec![tagged(DESTINATION, unknown)]), Arrival::Destination, Some(unknown)),
                    (
                        with(label(), vec![tagged(HOP_BY_HOP, unknown), tagged(DESTINATION, known)]),
                        Arrival::HopByHop,
                        Some(unknown),
                    ),
                    (
                        with(label(), vec![options(HOP_BY_HOP, ALERT), tagged(DESTINATION, unknown)]),
                        Arrival::Destination,
                        Some(unknown),
                    ),
                    (
                        with(label(), vec![options(HOP_BY_HOP, ALERT), routing(2)]),
                        Arrival::Label,
                        Some(known),
                    ),
                    // Behind a routing header it is for the last stop only, and nobody puts it there.
                    (with(plain(), vec![routing(0), tagged(DESTINATION, known)]), Arrival::Nothing, None),
                ] {
                    assert_counted(rig, &packet, &[(how, tag)]);
                }
            }
        }
        let coverage = rig.marker.coverage().expect("coverage");
        assert_eq!(
            coverage.arrived.iter().map(|a| a.peer).collect::<std::collections::BTreeSet<_>>().len(),
            3
        );
        assert_eq!(coverage.lost_arrivals, 0);
        let all: u64 = coverage.arrived.iter().map(|a| a.count.packets).sum();
        assert_eq!(all, 4 * 4 * 9);
        assert_eq!(seen(rig)[&(Arrival::HopByHop, Some(unknown), peer("2001:db8:0:1::"))].0, 2 * 4 * 2);
    });
}

#[test]
fn vlan_tags_are_stepped_over_and_what_is_no_ipv6_is_not_counted() {
    Rig::on("frames", &settings(), |rig| {
        rig.marker.set_registered([tag()].into_iter()).expect("set");
        let packet = network(&[with_label(back(), tag()), udp(3)]);
        for tags in [&[C_TAG][..], &[S_TAG, C_TAG]] {
            assert_counted(rig, &frame_with(tags, &packet), &[(Arrival::Label, Some(tag()))]);
        }
        assert_counted(rig, &frame_with(&[C_TAG, C_TAG, C_TAG], &packet), &[]);
        let mut ipv4 = frame_with(&[], &[0x45; 60]);
        ipv4[12..14].copy_from_slice(&[8, 0]);
        assert_counted(rig, &ipv4, &[]);
        ipv4[12..14].copy_from_slice(&[8, 6]);
        assert_counted(rig, &ipv4, &[]);
    });
}

#[test]
fn only_labels_of_registered_tags_count() {
    Rig::on("registered", &settings(), |rig| {
        let all = [numbered(1, 1), numbered(511, 63), numbered(256, 32), numbered(3, 14)];
        let packet = |tag| frame(&[with_label(back(), tag), udp(3)]);
        for known in [&all[..0], &all[..1], &all[1..3], &all[..], &all[3..]] {
            rig.marker.set_registered(known.iter().copied()).expect("set");
            for tag in all {
                let how =
                    if known.contains(&tag) { (Arrival::Label, Some(tag)) } else { (Arrival::Nothing, None) };
                assert_counted(rig, &packet(tag), &[how]);
            }
            let mut zero = packet(all[0]);
            zero[ETHERNET + 1] &= 0xf0;
            zero[ETHERNET + 2..ETHERNET + 4].fill(0);
            assert_counted(rig, &zero, &[(Arrival::Nothing, None)]);
        }
    });
}

/// Another experiment's option of the same type, or what is left where a tag was cleared.
#[test]
fn an_option_with_numbers_that_are_no_tag_is_none() {
    Rig::on("no-tag", &settings(), |rig| {
        rig.marker.set_registered([tag()].into_iter()).expect("set");
        for data in [[0, 0, 0], [0, 0, 5], [1, 0, 0], [2, 0, 1], [0xff, 0xff, 0xff], [0, 3, 64]] {
            for kind in [HOP_BY_HOP, DESTINATION] {
                let header = options(kind, &[&[option::OPTION_TYPE, option::OPTION_LEN], &data[..]].concat());
                let packet = |ip| frame(&[ip, header.clone(), udp(9)]);
                assert_counted(rig, &packet(with_label(back(), tag())), &[(Arrival::Label, Some(tag()))]);
                let other = with_label(back(), numbered(77, 7));
                assert_counted(rig, &packet(other), &[(Arrival::Nothing, None)]);
            }
            let both = [
                with_label(back(), tag()),
                options(HOP_BY_HOP, &[&[option::OPTION_TYPE, option::OPTION_LEN], &data[..]].concat()),
                tagged(DESTINATION, numbered(5, 5)),
                udp(1),
            ];
            assert_counted(rig, &frame(&both), &[(Arrival::Destination, Some(numbered(5, 5)))]);
        }
    });
}

#[test]
fn packets_of_a_flow_in_the_table_must_carry_its_tag() {
    Rig::on("expected", &settings(), |rig| {
        let (other, unknown) = (numbered(9, 1), numbered(100, 7));
        rig.marker.set_registered([tag(), other].into_iter()).expect("set");
        rig.announce(marked(Strategy::LABEL));
        for transport in [swapped(udp(10)), swapped(tcp(ACK, &[], 10))] {
            let packet = |label, headers: &[Part]| {
                frame(&[&[with_label(back(), label)], headers, std::slice::from_ref(&transport)].concat())
            };
            let missing = (Arrival::Missing, Some(tag()));
            let mismatch = (Arrival::Mismatch, Some(tag()));
            assert_counted(rig, &packet(tag(), &[]), &[(Arrival::Label, Some(tag()))]);
            assert_counted(rig, &packet(other, &[]), &[(Arrival::Label, Some(other)), mismatch]);
            assert_counted(rig, &packet(unknown, &[]), &[(Arrival::Nothing, None), missing]);
            let by_option = [tagged(DESTINATION, tag())];
            assert_counted(rig, &packet(unknown, &by_option), &[(Arrival::Destination, Some(tag()))]);
            let by_option = [tagged(HOP_BY_HOP, other)];
            assert_counted(rig, &packet(tag(), &by_option), &[(Arrival::HopByHop, Some(other)), mismatch]);
            // Of a fragment that is not the first the flow is not known.
            let pieces = [fragment(0, true, 5)];
            assert_counted(rig, &packet(unknown, &pieces), &[(Arrival::Nothing, None), missing]);
            let pieces = [fragment(3, true, 5)];
            assert_counted(rig, &packet(unknown, &pieces), &[(Arrival::Nothing, None)]);
        }
        // The other way round it is our own packet, which does not arrive here.
        let own = frame(&[with_label(ipv6(), unknown), udp(10)]);
        assert_counted(rig, &own, &[(Arrival::Nothing, None)]);
        // A tag that nobody registered is meant where a flow has it.
        let mark = Mark { label: FlowLabel::from_tag(unknown, Entropy::NONE), strategy: Strategy::LABEL };
        rig.announce(mark);
        let packet = frame(&[with_label(back(), unknown), swapped(udp(10))]);
        assert_counted(rig, &packet, &[(Arrival::Label, Some(unknown))]);
        let packet = frame(&[with_label(back(), tag()), swapped(udp(10))]);
        assert_counted(rig, &packet, &[(Arrival::Label, Some(tag())), (Arrival::Mismatch, Some(unknown))]);
        rig.marker.remove(&flow(Protocol::Udp)).expect("removed");
        assert_counted(rig, &packet, &[(Arrival::Label, Some(tag()))]);
    });
}

#[test]
fn peers_without_room_of_their_own_are_counted_together() {
    Rig::on("peers", &settings(), |rig| {
        let packet = |n: u32, ip: fn(Ipv6Addr) -> Part| {
            let source = Ipv6Addr::from(0x2001_0db8_u128 << 96 | u128::from(n) << 64 | 1);
            frame(&[ip(source), udp(0)])
        };
        let plain = |source| ipv6_between(source, local());
        let (most, more) = (16_384, 100);
        // Twice: a kernel may have no memory for a new entry for a moment (6.1), and then that packet has none.
        let all = most + more;
        (0..all).chain(0..all).for_each(|n| drop(rig.arrive(&packet(n, plain))));
        let coverage = rig.marker.coverage().expect("coverage");
        assert_eq!(coverage.arrived.len(), most as usize);
        let packets = |of_rest: bool| {
            let chosen = coverage.arrived.iter().filter(|a| (a.peer == peer("::")) == of_rest);
            chosen.map(|a| a.count.packets).sum::<u64>()
        };
        // One entry is for all that have none.
        let lost = coverage.lost_arrivals;
        assert!(lost >= 2 * (u64::from(more) + 1), "{lost}");
        assert_eq!((packets(true), packets(false)), (lost, 2 * u64::from(all) - lost));
        // Those that have room go on, and of those without one there is no more to tell.
        rig.arrive(&packet(0, plain));
        assert_eq!(seen(rig)[&(Arrival::Nothing, None, peer("2001:db8::"))].0, 3);
        rig.arrive(&packet(all, plain));
        assert_eq!(seen(rig)[&(Arrival::Nothing, None, peer("::"))].0, lost + 1);
    });
}

// ---- Room for headers.

/// A SYN of the flow's remote end with the right checksum.
fn syn(flags: u8, options: &[u8], length: usize, before: &[Part]) -> Vec<u8> {
    let parts = [&[back()], before, &[swapped(tcp(flags, options, length))]].concat();
    frame_summed(&parts, 16)
}

/// The packet with its new MSS at this place of the options, if there is one, and the right checksum.
#[track_caller]
fn assert_mss(rig: &Rig, packet: &[u8], at: Option<usize>, expected: u16) {
    let out = rig.arrive(packet);
    let l4 = Parsed::new(packet, false).expect("whole").l4;
    let mut wanted = packet.to_vec();
    if let Some(at) = at {
        wanted[l4 + 20 + at..l4 + 22 + at].copy_from_slice(&expected.to_be_bytes());
        // Two ways to write zero (RFC 1624 §3): whichever, the sum is right.
        wanted[l4 + 16..l4 + 18].copy_from_slice(&out[l4 + 16..l4 + 18]);
    }
    assert_eq!(hex(&out), hex(&wanted));
    assert_eq!(
        Packet::parse(LinkType::Ethernet, &out).expect("whole").checksum_ok(),
        Some(true),
        "{}",
        hex(&out)
    );
}

const MSS: [u8; 2] = [2, 4];

/// Options with an MSS in them, filled up, and where its value is.
fn with_mss(before: &[u8], mss: u16) -> (Vec<u8>, usize) {
    let mut all = [before, &MSS, &mss.to_be_bytes()].concat();
    let at = before.len() + 2;
    all.resize(all.len().next_multiple_of(4), 1);
    (all, at)
}

#[test]
fn the_segment_size_of_a_syn_is_lowered_wherever_it_stands() {
    Rig::on("mss", &settings(), |rig| {
        let stamps = [8, 10, 0, 0, 0, 1, 0, 0, 0, 2];
        let befores = [
            vec![],
            vec![1],
            vec![1, 1],
            vec![1, 1, 1],
            vec![4, 2],
            vec![4, 2, 1],
            vec![3, 3, 7],
            vec![3, 3, 7, 1],
            stamps.to_vec(),
            [&[1][..], &stamps].concat(),
            [&[1][..], &[4, 2], &stamps, &[3, 3, 7]].concat(),
            vec![254, 9, 1, 2, 3, 4, 5, 6, 7],
        ];
        for overhead in [0, 8, 16] {
            rig.marker.set_overhead(overhead).expect("set");
            for before in &befores {
                let (options, at) = with_mss(before, 1440);
                for flags in [SYN, SYN | ACK, SYN | 0xc0] {
                    for length in [0, 1, 100, 101] {
                        for headers in
                            [vec![], vec![common::packets::options(DESTINATION, ALERT), routing(2)]]
                        {
                            let packet = syn(flags, &options, length, &headers);
                            assert_mss(rig, &packet, Some(at), 1440 - u16::from(overhead));
                        }
                    }
                }
                assert_mss(rig, &syn(ACK, &options, 0, &[]), None, 0);
                assert_mss(rig, &syn(ACK | 1, &options, 7, &[]), None, 0);
            }
        }
    });
}

/// Down to what a path of 1280 bytes allows (RFC 8200 §5), and from no more than our own link does.
#[test]
fn the_segment_size_stays_within_its_bounds() {
    Rig::on("bounds", &settings(), |rig| {
        let (link, least) = (MTU as u16 - 60, 1220);
        for overhead in [8_u16, 16] {
            rig.marker.set_overhead(overhead as u8).expect("set");
            for before in [&[][..], &[1]] {
                for (mss, expected) in [
                    (link, Some(link - overhead)),
                    (link - 1, Some(link - 1 - overhead)),
                    (link + 1, Some(link - overhead)),
                    (8940, Some(link - overhead)),
                    (65535, Some(link - overhead)),
                    (least + overhead, Some(least)),
                    (least + overhead - 1, None),
                    (least, None),
                    (536, None),
                    (0, None),
                ] {
                    let (options, at) = with_mss(before, mss);
                    let packet = syn(SYN, &options, 0, &[]);
                    assert_mss(rig, &packet, expected.map(|_| at), expected.unwrap_or_default());
                }
            }
        }
        let jumbo = Interface { mtu: 9000, ..rig.eth0.clone() };
        rig.marker.refresh(&jumbo).expect("another MTU");
        let (options, at) = with_mss(&[], 8940);
        assert_mss(rig, &syn(SYN, &options, 0, &[]), Some(at), 8940 - 16);
    });
}

#[test]
fn a_syn_without_a_segment_size_stays_as_it_is() {
    Rig::on("no-mss", &settings(), |rig| {
        rig.marker.set_overhead(8).expect("set");
        for options in [
            &[][..],
            &[1, 1, 1, 1],
            &[4, 2, 1, 1],
            // After the end of the options.
            &[0, 1, 1, 1, 2, 4, 5, 0xb4],
            // Not of the right length, cut off, and one without length.
            &[2, 3, 5, 1],
            &[2, 6, 5, 0xb4, 0, 0, 1, 1],
            &[1, 1, 1, 2],
            &[1, 1, 2, 4],
            &[254, 0, 2, 4, 5, 0xb4, 1, 1],
            &[254, 200, 2, 4, 5, 0xb4, 1, 1],
        ] {
            assert_mss(rig, &syn(SYN, options, 0, &[]), None, 0);
            assert_mss(rig, &syn(SYN, options, 50, &[]), None, 0);
        }
        let (options, _) = with_mss(&[], 1440);
        let whole = syn(SYN, &options, 0, &[]);
        for length in ETHERNET + 40..whole.len() {
            assert_eq!(hex(&rig.arrive(&whole[..length])), hex(&whole[..length]), "cut");
        }
    });
}

/// A router on the way told of packets as they were with our header.
#[test]
fn the_path_mtu_that_a_router_tells_is_lowered() {
    Rig::on("path", &settings(), |rig| {
        let cited = network(&[ipv6(), tcp(ACK, &[], 200)]);
        let told = |kind, mtu: u32, before: &[Part], body: &[u8]| {
            let message = icmpv6(kind, &[&mtu.to_be_bytes(), body].concat());
            frame_summed(&[&[from("2001:db8:7::1")], before, &[message]].concat(), 2)
        };
        for overhead in [0, 8, 16_u32] {
            rig.marker.set_overhead(overhead as u8).expect("set");
            for before in [vec![], vec![options(HOP_BY_HOP, ALERT)]] {
                for body in [&cited[..], &cited[..41], &[]] {
                    for (mtu, lower) in [
                        (1500, true),
                        (1400, true),
                        (9000, true),
                        (0xffff_ffff, true),
                        (1280 + overhead, true),
                        (1279 + overhead, false),
                        (1280, overhead == 0),
                        (1279, false),
                        (0, false),
                    ] {
                        let packet = told(TOO_BIG, mtu, &before, body);
                        let wanted =
                            if lower { told(TOO_BIG, mtu - overhead, &before, body) } else { packet.clone() };
                        let out = rig.arrive(&packet);
                        let l4 = packet.len() - body.len() - 8;
                        let mut wanted = wanted;
                        wanted[l4 + 2..l4 + 4].copy_from_slice(&out[l4 + 2..l4 + 4]);
                        assert_eq!(hex(&out), hex(&wanted), "{mtu}");
                        let sum = checksum_of(&out, l4, ICMPV6);
                        assert_eq!(sum, 0, "{}", hex(&out));
                    }
                }
            }
            for kind in [0, 1, 3, 4, 128, 129, 133, 134, 135, 136, 255] {
                let packet = told(kind, 1500, &[], &cited);
                assert_eq!(hex(&rig.arrive(&packet)), hex(&packet), "type {kind}");
            }
        }
    });
}

/// 0: it is right.
fn checksum_of(frame: &[u8], l4: usize, protocol: u8) -> u16 {
    checksum(&frame[ETHERNET + 8..ETHERNET + 40], protocol, &frame[l4..])
}

/// What stands in a later fragment where headers are in the first is data. And under authentication nothing may change.
#[test]
fn data_that_looks_like_a_header_stays_as_it_is() {
    Rig::on("data", &settings(), |rig| {
        rig.marker.set_overhead(16).expect("set");
        let (options, _) = with_mss(&[], 1440);
        let too_big = icmpv6(TOO_BIG, &[&1500_u32.to_be_bytes(), &[7; 40][..]].concat());
        for transport in [swapped(tcp(SYN, &options, 60)), too_big] {
            for before in [
                vec![fragment(4, true, 9)],
                vec![fragment(4, false, 9)],
                vec![common::packets::options(DESTINATION, ALERT), fragment(1, true, 9)],
                vec![auth()],
                vec![auth(), common::packets::options(DESTINATION, ALERT)],
            ] {
                let packet = frame(&[vec![back()], before, vec![transport.clone()]].concat());
                assert_eq!(hex(&rig.arrive(&packet)), hex(&packet));
            }
        }
        // In the first fragment they are headers; the sum of the whole changes by as much.
        let (options, at) = with_mss(&[1], 1440);
        let packet = syn(SYN, &options, 60, &[fragment(0, true, 9)]);
        let out = rig.arrive(&packet);
        let l4 = ETHERNET + 48;
        assert_eq!(out[l4 + 20 + at..l4 + 22 + at], 1424_u16.to_be_bytes());
        assert_eq!(checksum_of(&out, l4, TCP), 0);
    });
}

fn any_tcp_options() -> impl Values<Value = Vec<u8>> {
    let other = prop_oneof![
        2 => Just(vec![1]),
        1 => Just(vec![4, 2]),
        1 => any::<u8>().prop_map(|shift| vec![3, 3, shift]),
        1 => any::<[u8; 8]>().prop_map(|stamps| [vec![8, 10], stamps.to_vec()].concat()),
        1 => vec(any::<u8>(), 0..5).prop_map(|data| [vec![30, data.len() as u8 + 2], data].concat()),
    ];
    vec(other, 0..4).prop_map(|all| all.concat()).prop_filter("no room", |all| all.len() <= 36)
}

#[test]
fn any_segment_size_is_lowered_and_the_sum_stays_right() {
    Rig::on("any-mss", &settings(), |rig| {
        rig.marker.set_overhead(8).expect("set");
        let rig = &*rig;
        let config = common::cases(2000);
        let cases = (any_tcp_options(), any::<u16>(), 0..70_usize);
        let result = TestRunner::new(config).run(&cases, |(before, mss, length)| {
            let (options, at) = with_mss(&before, mss);
            let expected = mss.min(1440);
            let lowered = (expected >= 1228).then(|| expected - 8);
            let packet = syn(SYN, &options, length, &[]);
            assert_mss(rig, &packet, lowered.map(|_| at), lowered.unwrap_or_default());
            Ok(())
        });
        if let Err(error) = result {
            panic!("{error}");
        }
    });
}

// ---- Clearing tags.

fn strip(prefix: &str, egress: bool, ingress: bool) -> Strip {
    Strip { prefix: prefix.parse::<IpNet>().expect("literal"), egress, ingress }
}

/// A packet with tags everywhere, and what is left of it.
fn cleared(ip: &Part, rest: &[Part]) -> (Vec<u8>, Vec<u8>) {
    let among = |kind, ours: &[u8]| options(kind, &[ALERT, ours, &[0x3e, 1, 7]].concat());
    let alone = |kind, ours: &[u8]| options(kind, ours);
    let ours = &option::header(tag(), 0)[2..7];
    let with = |ip: Part, hop: Part, dest: Part| frame(&[&[ip, hop, dest], rest].concat());
    let mut bare = ip.clone();
    bare.bytes[1] &= 0xf0;
    bare.bytes[2..4].fill(0);
    let zeros = [option::OPTION_TYPE, 3, 0, 0, 0];
    (
        with(with_label(ip.clone(), tag()), among(HOP_BY_HOP, ours), alone(DESTINATION, ours)),
        with(bare, among(HOP_BY_HOP, &zeros), alone(DESTINATION, &[1, 3, 0, 0, 0])),
    )
}

#[test]
fn tags_are_cleared_by_direction_and_prefix() {
    Rig::on("strip", &settings(), |rig| {
        let rest = [udp(30)];
        let (out, out_cleared) = cleared(&ipv6(), &rest);
        let (back, back_cleared) = cleared(&back(), &[swapped(udp(30))]);
        let untouched = |rig: &Rig| {
            rig.assert_untouched(&out, Verdict::NoFlow);
            assert_eq!(hex(&rig.arrive(&back)), hex(&back));
        };
        untouched(rig);
        for prefix in ["2001:db8:0:1::/64", "2001:db8::/32", "::/0", "2001:db8:0:1::2/128"] {
            rig.marker.set_strip(&[strip(prefix, true, true)]).expect("set");
            rig.assert_leaves(&out, Verdict::Stripped, &out_cleared);
            assert_eq!(hex(&rig.arrive(&back)), hex(&back_cleared));
            rig.marker.set_strip(&[strip(prefix, true, false)]).expect("set");
            rig.assert_leaves(&out, Verdict::Stripped, &out_cleared);
            assert_eq!(hex(&rig.arrive(&back)), hex(&back));
            rig.marker.set_strip(&[strip(prefix, false, true)]).expect("set");
            rig.assert_untouched(&out, Verdict::NoFlow);
            assert_eq!(hex(&rig.arrive(&back)), hex(&back_cleared));
            rig.marker.set_strip(&[]).expect("set");
            untouched(rig);
        }
        // The longest prefix counts; one without a direction is an exception.
        let exception = [strip("2001:db8::/32", true, true), strip("2001:db8:0:1::/64", false, false)];
        rig.marker.set_strip(&exception).expect("set");
        untouched(rig);
        for elsewhere in ["2001:db8:0:2::/64", "198.51.100.0/24", "0.0.0.0/0", "2001:db8::1/128"] {
            rig.marker.set_strip(&[strip(elsewhere, true, true)]).expect("set");
            untouched(rig);
        }
    });
}

#[test]
fn what_goes_to_the_edge_is_cleared_also_of_flows() {
    Rig::on("edge", &settings(), |rig| {
        rig.marker.set_strip(&[strip("2001:db8:0:1::/64", true, true)]).expect("set");
        for strategy in strategies() {
            rig.announce(marked(strategy));
            let (packet, expected) = cleared(&ipv6(), &[udp(30)]);
            rig.assert_leaves(&packet, Verdict::Stripped, &expected);
            let plain = frame(&[ipv6(), udp(30)]);
            let mut bare = plain.clone();
            bare[ETHERNET + 1] &= 0xf0;
            bare[ETHERNET + 2..ETHERNET + 4].fill(0);
            rig.assert_leaves(&plain, Verdict::Stripped, &bare);
        }
        // What came with a tag is counted before it is cleared.
        rig.marker.set_registered([tag()].into_iter()).expect("set");
        let (packet, expected) = cleared(&back(), &[swapped(udp(30))]);
        assert_eq!(hex(&rig.arrive(&packet)), hex(&expected));
        assert_eq!(seen(rig)[&(Arrival::HopByHop, Some(tag()), peer("2001:db8:0:1::"))].0, 1);
        assert_eq!(label().tag(), Some(tag()));
    });
}

/// RFC 4302 §3.3.3.1.2.1: the label is not covered, the options are.
#[test]
fn options_under_authentication_are_not_cleared() {
    Rig::on("strip-auth", &settings(), |rig| {
        rig.marker.set_strip(&[strip("::/0", true, true)]).expect("set");
        let ours = tagged(DESTINATION, tag());
        for rest in [vec![auth(), udp(9)], vec![auth(), Part { kind: 59, bytes: vec![1; 9] }]] {
            let packet = |ip: Part| frame(&[vec![ip, ours.clone()], rest.clone()].concat());
            let mut bare = ipv6();
            bare.bytes[1] &= 0xf0;
            bare.bytes[2..4].fill(0);
            let (labelled, expected) = (packet(with_label(ipv6(), tag())), packet(bare));
            rig.assert_leaves(&labelled, Verdict::Stripped, &expected);
            assert_eq!(hex(&rig.arrive(&labelled)), hex(&expected));
        }
    });
}

/// Whatever is written otherwise: routers on the way see the outermost header, and that is between these hosts.
#[test]
fn of_a_packet_in_a_packet_the_outer_header_is_cleared() {
    for inner in [false, true] {
        Rig::on("strip-in", &Settings { inner, ..settings() }, |rig| {
            let mut bare = outer();
            bare.bytes[1] &= 0xf0;
            bare.bytes[2..4].fill(0);
            for around in [vec![], vec![auth()], vec![fragment(0, true, 3)]] {
                let inside = [with_label(ipv6(), tag()), tagged(DESTINATION, tag()), udp(9)];
                let packet = |ip: Part| frame(&[&[ip], &around[..], &inside].concat());
                let (labelled, expected) = (packet(with_label(outer(), tag())), packet(bare.clone()));
                rig.marker.set_strip(&[strip("2001:db8:b::/48", true, false)]).expect("set");
                rig.assert_leaves(&labelled, Verdict::Stripped, &expected);
                rig.marker.set_strip(&[strip("2001:db8:a::/48", false, true)]).expect("set");
                assert_eq!(hex(&rig.arrive(&labelled)), hex(&expected));
                // The inner ends are no neighbours.
                rig.marker.set_strip(&[strip("2001:db8:0:1::/64", true, true)]).expect("set");
                rig.assert_untouched(&labelled, Verdict::NoFlow);
                assert_eq!(hex(&rig.arrive(&labelled)), hex(&labelled));
            }
        });
    }
}

#[test]
fn any_packet_is_cleared_as_the_model_says_and_else_passes_as_it_came() {
    for inner in [false, true] {
        Rig::on("any-strip", &Settings { inner, ..settings() }, |rig| {
            let all = rig.marker.set_registered((1..512).map(|e| numbered(e, 14)));
            all.expect("set");
            for clears in [false, true] {
                let prefixes = [strip("::/0", true, true)];
                rig.marker.set_strip(if clears { &prefixes } else { &[] }).expect("set");
                rig.marker.set_overhead(if clears { 0 } else { 16 }).expect("set");
                let rig = &*rig;
                let config = common::cases(2000);
                let result = TestRunner::new(config).run(&any_frame(), |Frame(frame)| {
                    let parsed = Parsed::new(&frame, inner);
                    let wanted = match &parsed {
                        Ok(parsed) if clears => model::strip(&frame, parsed),
                        Ok(_) => (Verdict::Marked, frame.clone()),
                        Err(verdict) => (*verdict, frame.clone()),
                    };
                    // The generator makes neither SYNs nor messages of routers.
                    prop_assert_eq!(hex(&rig.arrive(&frame)), hex(&wanted.1));
                    if clears {
                        let (verdict, out) = rig.leave(&frame);
                        prop_assert_eq!((verdict, hex(&out)), (wanted.0, hex(&wanted.1)));
                    }
                    Ok(())
                });
                if let Err(error) = result {
                    panic!("{error}");
                }
            }
        });
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    /// The tests' own sums: what flowtag-wire reads is what the tests write.
    #[test]
    fn sums_are_right_by_another_opinion(length in 0..300_usize) {
        let packet = frame_summed(&[ipv6(), tcp(ACK, &[], length)], 16);
        let parsed = Packet::parse(LinkType::Ethernet, &packet).expect("whole");
        prop_assert_eq!(parsed.checksum_ok(), Some(true));
        prop_assert_eq!(parsed.protocol, TCP);
        prop_assert_eq!(udp(0).kind, UDP);
    }
}
