//! The marking program and extension headers (`BPF_PROG_TEST_RUN`): where the option goes, what moves, and what is left
//! as it came. Every byte of what comes out is compared, with a packet built by hand or with what a model says.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::UdpSocket;

use crate::common;
use crate::common::model::{self, Parsed};
use crate::common::packets::{
    ALERT, AUTH, C_TAG, DESTINATION, FRAGMENT, HOP_BY_HOP, IPV6, Part, ROUTING, S_TAG, auth, fragment, frame,
    frame_with, ipv6, network, options, outer, routing, tcp, udp,
};
use crate::common::random::{Frame, any_frame, shortest};
use crate::common::{Context, ETHERNET, MTU, Rig, hex, label, marked, strategies, tag};
use flowtag_kernel::mark::{Key, Mark, Settings, Verdict};
use flowtag_testbed::Testbed;
use flowtag_wire::{Endpoint, Protocol, Strategy, option};
use nix::sys::socket::{setsockopt, sockopt};
use proptest::prelude::prop_assert_eq;
use proptest::sample::select;
use proptest::test_runner::TestRunner;

const ACK: u8 = 0x10;
/// Timestamps (RFC 7323), as nearly every packet of TCP has them.
const STAMPS: [u8; 12] = [1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2];

// ---- By hand.

/// Our header, where there was none.
fn ours(kind: u8) -> Part {
    Part { kind, bytes: option::header(tag(), 0).to_vec() }
}

/// A header that was there with our option in it: three bytes of padding, ours, then what there was.
fn grown(part: &Part) -> Part {
    let header = option::header(tag(), 0);
    let mut bytes = part.bytes.clone();
    bytes[1] += 1;
    bytes.splice(2..2, [&[1, 1, 0], &header[2..7]].concat());
    Part { kind: part.kind, bytes }
}

fn with_label(mut part: Part, strategy: Strategy) -> Part {
    if strategy.contains(Strategy::LABEL) {
        let [_, high, middle, low] = label().value().to_be_bytes();
        part.bytes[1] = part.bytes[1] & 0xf0 | high;
        part.bytes[2] = middle;
        part.bytes[3] = low;
    }
    part
}

/// A packet of a flow: what comes before the IPv6 header that is written, the options headers behind that, and the rest.
struct Row {
    what: &'static str,
    around: Vec<Part>,
    hop: Option<Part>,
    dest: Option<Part>,
    rest: Vec<Part>,
}

impl Row {
    fn new(what: &'static str, hop: Option<Part>, dest: Option<Part>, rest: Vec<Part>) -> Self {
        Self { what, around: Vec::new(), hop, dest, rest }
    }

    fn parts(&self, ip: Part, hop: Option<Part>, dest: Option<Part>) -> Vec<Part> {
        let head = self.around.iter().cloned().chain([ip]).chain(hop).chain(dest);
        head.chain(self.rest.iter().cloned()).collect()
    }

    fn packet(&self) -> Vec<u8> {
        network(&self.parts(ipv6(), self.hop.clone(), self.dest.clone()))
    }

    fn marked(&self, strategy: Strategy) -> Vec<u8> {
        let put = |part: &Option<Part>, place, kind| {
            if strategy.contains(place) {
                Some(part.as_ref().map_or_else(|| ours(kind), grown))
            } else {
                part.clone()
            }
        };
        let hop = put(&self.hop, Strategy::HOP_BY_HOP, HOP_BY_HOP);
        let dest = put(&self.dest, Strategy::DESTINATION, DESTINATION);
        network(&self.parts(with_label(ipv6(), strategy), hop, dest))
    }
}

fn rows() -> Vec<Row> {
    let hop = || Some(options(HOP_BY_HOP, ALERT));
    let dest = || Some(options(DESTINATION, &[0x3e, 6, 1, 2, 3, 4, 5, 6, 0x3e, 0]));
    let padding = |kind| Some(options(kind, &[1, 4, 0, 0, 0, 0]));
    let data = || tcp(ACK, &STAMPS, 100);
    vec![
        Row::new("TCP", None, None, vec![data()]),
        Row::new("TCP without data", None, None, vec![tcp(ACK, &[], 0)]),
        Row::new("UDP", None, None, vec![udp(333)]),
        Row::new("UDP of seven bytes", None, None, vec![udp(7)]),
        Row::new("UDP of no bytes", None, None, vec![udp(0)]),
        Row::new("hop-by-hop options of somebody else", hop(), None, vec![data()]),
        Row::new("hop-by-hop options before nothing", hop(), None, vec![udp(0)]),
        Row::new("destination options of somebody else", None, dest(), vec![udp(20)]),
        Row::new("both kinds of options", hop(), dest(), vec![data()]),
        Row::new("nothing but padding", padding(HOP_BY_HOP), padding(DESTINATION), vec![udp(1)]),
        Row::new("a routing header", None, None, vec![routing(2), data()]),
        Row::new("hop-by-hop options and a routing header", hop(), None, vec![routing(4), data()]),
        Row::new(
            "destination options for the last stop only: those before the routing header are others",
            None,
            None,
            vec![routing(2), options(DESTINATION, ALERT), data()],
        ),
        Row::new("both kinds of options and a routing header", hop(), dest(), vec![routing(2), udp(9)]),
        Row::new("a fragment that is the whole packet", None, None, vec![fragment(0, false, 7), udp(50)]),
        Row::new("the first fragment", None, None, vec![fragment(0, true, 8), udp(64)]),
        Row::new("options before a fragment", hop(), dest(), vec![fragment(0, true, 9), udp(64)]),
    ]
}

#[test]
fn the_option_goes_where_rfc_8200_has_it() {
    Rig::on("places", &Settings::default(), |rig| {
        for strategy in strategies() {
            rig.announce(marked(strategy));
            for row in rows() {
                for tags in [&[][..], &[C_TAG], &[S_TAG, C_TAG]] {
                    println!("{strategy}, {}, {} VLAN tags", row.what, tags.len());
                    let (packet, expected) = (row.packet(), row.marked(strategy));
                    let (packet, expected) = (frame_with(tags, &packet), frame_with(tags, &expected));
                    rig.assert_leaves(&packet, Verdict::Marked, &expected);
                    // What an interface below does with it: nothing, it is there already.
                    rig.assert_leaves(&expected, Verdict::Marked, &expected);
                }
            }
        }
    });
}

#[test]
fn of_ipv6_in_ipv6_the_outer_header_is_written() {
    Rig::on("outer", &Settings::default(), |rig| {
        for strategy in strategies() {
            rig.announce(marked(strategy));
            for inner in rows() {
                println!("{strategy}, {}", inner.what);
                let rest = Part { kind: IPV6, bytes: inner.packet() };
                // The tunnel encapsulation limit (RFC 2473 §4.1.1), as Linux puts it there.
                let limit = options(DESTINATION, &[4, 1, 4, 1, 1, 0]);
                for dest in [None, Some(limit)] {
                    let mut row = Row::new("", None, dest, vec![rest.clone()]);
                    let packet = row.parts(outer(), None, row.dest.clone());
                    let expected = {
                        row.around = Vec::new();
                        let all = row.marked(strategy);
                        // The same with the outer addresses.
                        let mut all = all;
                        all[8..40].copy_from_slice(&outer().bytes[8..40]);
                        all
                    };
                    rig.assert_leaves(&frame(&packet), Verdict::Marked, &frame_with(&[], &expected));
                }
            }
        }
    });
}

#[test]
fn of_ipv6_in_ipv6_the_inner_header_is_written_if_that_is_wanted() {
    Rig::on("inner", &Settings { inner: true, ..Settings::default() }, |rig| {
        for strategy in strategies() {
            rig.announce(marked(strategy));
            for mut row in rows() {
                for around in [vec![], vec![options(DESTINATION, &[4, 1, 4, 1, 1, 0])], vec![routing(2)]] {
                    row.around = [vec![outer()], around].concat();
                    println!("{strategy}, {}, in {} headers", row.what, row.around.len());
                    let (packet, expected) = (row.packet(), row.marked(strategy));
                    rig.assert_leaves(
                        &frame_with(&[], &packet),
                        Verdict::Marked,
                        &frame_with(&[], &expected),
                    );
                    let tags = [S_TAG, C_TAG];
                    rig.assert_leaves(
                        &frame_with(&tags, &packet),
                        Verdict::Marked,
                        &frame_with(&tags, &expected),
                    );
                }
            }
            // A packet that is in no other is written as always.
            let row = &rows()[0];
            rig.assert_leaves(
                &frame_with(&[], &row.packet()),
                Verdict::Marked,
                &frame_with(&[], &row.marked(strategy)),
            );
        }
    });
}

/// What a tunnel's fragments carry cannot grow: the next begins where this one ends. And what is authenticated must not
/// change at all.
#[test]
fn an_inner_header_in_a_fragment_or_under_authentication_does_not_grow() {
    Rig::on("sealed", &Settings { inner: true, ..Settings::default() }, |rig| {
        for strategy in strategies() {
            rig.announce(marked(strategy));
            let whole = [ipv6(), udp(40)];
            let first = frame(&[&[outer(), fragment(0, true, 77)], &whole[..]].concat());
            let labelled = [with_label(ipv6(), strategy), udp(40)];
            let first_labelled = frame(&[&[outer(), fragment(0, true, 77)], &labelled[..]].concat());
            if strategy == Strategy::LABEL {
                rig.assert_leaves(&first, Verdict::Marked, &first_labelled);
            } else {
                rig.assert_untouched(&first, Verdict::NoRoom);
            }
            // In the rest of the tunnel's packet there is no header to write.
            let later = frame(&[outer(), fragment(11, false, 77), Part { kind: IPV6, bytes: vec![9; 48] }]);
            rig.assert_untouched(&later, Verdict::Fragment);
            rig.assert_untouched(&frame(&[&[outer(), auth()], &whole[..]].concat()), Verdict::Protected);
        }
    });
}

#[test]
fn later_fragments_get_what_the_first_got() {
    Rig::on("fragments", &Settings::default(), |rig| {
        for (number, strategy) in (0_u32..).zip(strategies()) {
            rig.announce(marked(strategy));
            let id = 1000 + number;
            let piece = |kind, offset, more, bytes: Part| {
                let row = Row::new("", None, None, vec![fragment(offset, more, id), Part { kind, ..bytes }]);
                (frame_with(&[], &row.packet()), frame_with(&[], &row.marked(strategy)))
            };
            let rest = Part { kind: common::UDP, bytes: vec![0xee; 100] };
            let later = piece(common::UDP, 9, true, rest.clone());
            rig.assert_untouched(&later.0, Verdict::Fragment);
            let first = piece(common::UDP, 0, true, udp(64));
            rig.assert_leaves(&first.0, Verdict::Marked, &first.1);
            rig.assert_leaves(&later.0, Verdict::Marked, &later.1);
            let last = piece(common::UDP, 20, false, rest);
            rig.assert_leaves(&last.0, Verdict::Marked, &last.1);
        }
    });
}

/// Also those of a tunnel, whose later fragments do not have the inner addresses.
#[test]
fn later_fragments_of_a_tunnel_get_what_the_first_got() {
    Rig::on("tunnel", &Settings::default(), |rig| {
        for (number, strategy) in (0_u32..).zip(strategies()) {
            rig.announce(marked(strategy));
            let piece = |offset, more, bytes: Vec<u8>| {
                let rest = vec![fragment(offset, more, 2000 + number), Part { kind: IPV6, bytes }];
                let row = Row::new("", None, None, rest);
                let outside = |mut packet: Vec<u8>| {
                    packet[8..40].copy_from_slice(&outer().bytes[8..40]);
                    frame_with(&[], &packet)
                };
                (outside(row.packet()), outside(row.marked(strategy)))
            };
            let (first, first_marked) = piece(0, true, network(&[ipv6(), udp(32)]));
            rig.assert_leaves(&first, Verdict::Marked, &first_marked);
            let (later, later_marked) = piece(10, false, vec![0xee; 100]);
            rig.assert_leaves(&later, Verdict::Marked, &later_marked);
        }
    });
}

#[test]
fn what_an_authentication_header_covers_stays_as_it_is() {
    Rig::on("auth", &Settings::default(), |rig| {
        for strategy in strategies() {
            rig.announce(marked(strategy));
            for before in [vec![], vec![options(HOP_BY_HOP, ALERT)], vec![options(DESTINATION, ALERT)]] {
                let parts = |ip| [vec![ip], before.clone(), vec![auth(), udp(30)]].concat();
                let packet = frame(&parts(ipv6()));
                if strategy == Strategy::LABEL {
                    // RFC 4302 §3.3.3.1.2.1: the label is not covered.
                    let expected = frame(&parts(with_label(ipv6(), strategy)));
                    rig.assert_leaves(&packet, Verdict::Marked, &expected);
                } else {
                    rig.assert_untouched(&packet, Verdict::Protected);
                }
            }
        }
    });
}

#[test]
fn what_has_no_room_stays_as_it_is() {
    Rig::on("room", &Settings::default(), |rig| {
        for strategy in strategies().filter(|s| s.header_len() > 0) {
            rig.announce(marked(strategy));
            let length = MTU - 40 - 8 - strategy.header_len();
            for tags in [&[][..], &[C_TAG], &[S_TAG, C_TAG]] {
                let fits = Row::new("", None, None, vec![udp(length)]);
                let expected = frame_with(tags, &fits.marked(strategy));
                assert_eq!(expected.len(), ETHERNET + 4 * tags.len() + MTU);
                rig.assert_leaves(&frame_with(tags, &fits.packet()), Verdict::Marked, &expected);
                for more in 1..=strategy.header_len() {
                    let row = Row::new("", None, None, vec![udp(length + more)]);
                    rig.assert_untouched(&frame_with(tags, &row.packet()), Verdict::NoRoom);
                }
            }
            // A jumbogram (RFC 2675) has its length in an option.
            let mut jumbo = frame(&[ipv6(), options(HOP_BY_HOP, &[0xc2, 4, 0, 1, 0, 0]), udp(30)]);
            jumbo[ETHERNET + 4..ETHERNET + 6].fill(0);
            rig.assert_untouched(&jumbo, Verdict::NoRoom);
            // Nothing in a header says that the packet is longer than 65,535 bytes with ours.
            let mut long = frame(&[ipv6(), udp(30)]);
            long[ETHERNET + 4..ETHERNET + 6].copy_from_slice(&0xfffc_u16.to_be_bytes());
            rig.assert_untouched(&long, Verdict::NoRoom);
        }
    });
}

/// A router's word on the path counts, also where the host did not ask for room (RFC 8201): else what it cuts to the path's MTU
/// would be too long again with our header, for ever.
#[test]
fn what_would_be_too_long_for_its_path_stays_as_it_is() {
    Rig::on("narrow", &Settings { ingress: true, ..Settings::default() }, |rig| {
        rig.announce(marked(Strategy::DESTINATION));
        let packet = |length: usize| Row::new("", None, None, vec![udp(length - 48)]);
        let fits = |rig: &Rig, mtu: usize| {
            let row = packet(mtu - 8);
            let expected = frame_with(&[], &row.marked(Strategy::DESTINATION));
            rig.assert_leaves(&frame_with(&[], &row.packet()), Verdict::Marked, &expected);
        };
        fits(rig, 1400);
        for mtu in [1400, 1280_usize] {
            let told = [&[2, 0, 0, 0][..], &(mtu as u32).to_be_bytes(), &packet(600).packet()].concat();
            let message = Part { kind: 58, bytes: told };
            rig.arrive(&frame(&[ipv6(), message]));
            fits(rig, mtu);
            rig.assert_untouched(&frame_with(&[], &packet(mtu - 7).packet()), Verdict::NoRoom);
        }
        // No router may say that a path is narrower than that (RFC 8200 §5).
        let lie = [&[2, 0, 0, 0, 0, 0, 0, 68][..], &packet(600).packet()].concat();
        rig.arrive(&frame(&[ipv6(), Part { kind: 58, bytes: lie }]));
        fits(rig, 1280);
    });
}

/// RFC 8200 §4.3: the length is a byte. Of a header that cannot grow only the strategies that need it suffer.
#[test]
fn a_header_that_is_full_does_not_grow() {
    Rig::on("full", &Settings { max_flows: 10, ..Settings::default() }, |rig| {
        rig.marker.refresh(&flowtag_kernel::link::Interface { mtu: 9000, ..rig.eth0.clone() }).expect("MTU");
        let filled = |kind| {
            // Eight options of at most 257 bytes: the program looks no further.
            let mut all: Vec<u8> = Vec::new();
            (0..7).for_each(|_| all.extend([&[0x3e, 253][..], &[7; 253]].concat()));
            all.extend([&[0x3e, 250][..], &[7; 250]].concat());
            all.resize(2046, 0);
            options(kind, &all)
        };
        for strategy in strategies().filter(|s| s.header_len() > 0) {
            rig.announce(marked(strategy));
            for (place, kind) in [(Strategy::HOP_BY_HOP, HOP_BY_HOP), (Strategy::DESTINATION, DESTINATION)] {
                let packet = frame(&[ipv6(), filled(kind), udp(30)]);
                assert_eq!(packet[ETHERNET + 41], 255);
                if strategy.contains(place) {
                    rig.assert_untouched(&packet, Verdict::NoRoom);
                }
            }
        }
    });
}

#[test]
fn an_option_of_ours_that_is_there_is_not_repeated() {
    Rig::on("there", &Settings::default(), |rig| {
        let other = flowtag_wire::Tag::new(9, 9).expect("in range");
        for strategy in strategies() {
            rig.announce(marked(strategy));
            for (place, kind) in [(Strategy::HOP_BY_HOP, HOP_BY_HOP), (Strategy::DESTINATION, DESTINATION)] {
                for content in [
                    option::header(other, 0)[2..].to_vec(),
                    [ALERT, &option::header(other, 0)[2..7]].concat(),
                    [&[0, 0, 1, 1, 0], &option::header(other, 0)[2..7], ALERT].concat(),
                    // Not a tag, but whoever wrote it would not expect a second one.
                    vec![option::OPTION_TYPE, option::OPTION_LEN, 0xff, 0xff, 0xff],
                ] {
                    let there = options(kind, &content);
                    let mut row = Row::new("", None, None, vec![tcp(ACK, &[], 9)]);
                    *(if kind == HOP_BY_HOP { &mut row.hop } else { &mut row.dest }) = Some(there);
                    let rest = Strategy::from_bits(strategy.bits() & !place.bits());
                    let expected = rest.map_or_else(|| row.packet(), |rest| row.marked(rest));
                    let packet = frame_with(&[], &row.packet());
                    rig.assert_leaves(&packet, Verdict::Marked, &frame_with(&[], &expected));
                }
            }
        }
    });
}

// ---- Segmentation offload: one packet here is many on the wire.

fn context(packet: &[u8], segments: usize, size: usize, headers: usize) -> Context {
    let wire_len = packet.len() + (segments - 1) * (ETHERNET + headers);
    Context { wire_len: wire_len as u32, gso_segs: segments as u32, gso_size: size as u32 }
}

/// Where the test run tells the program nothing of the kind of offload, the kernel inserts nothing. What it does insert,
/// and how that is counted, is tested on a real interface.
#[test]
fn segments_are_judged_as_they_will_be_on_the_wire() {
    Rig::on("gso", &Settings::default(), |rig| {
        for strategy in strategies() {
            rig.announce(marked(strategy));
            let need = strategy.header_len();
            for (headers, transport) in [(48, udp as fn(usize) -> Part), (72, |n| tcp(ACK, &STAMPS, n))] {
                // Two segments and a half, as long as they may be.
                let size = MTU - headers - need;
                let packet = frame(&[ipv6(), transport(size * 2 + 100)]);
                let expected = frame(&[with_label(ipv6(), strategy), transport(size * 2 + 100)]);
                let (verdict, out) = rig.leave_with(&packet, context(&packet, 3, size, headers));
                if need == 0 {
                    assert_eq!((verdict, hex(&out)), (Verdict::Marked, hex(&expected)));
                    continue;
                }
                assert_eq!((verdict, hex(&out)), (Verdict::WriteFailed, hex(&packet)), "there is room");
                let (verdict, out) = rig.leave_with(&packet, context(&packet, 3, size + 1, headers));
                assert_eq!((verdict, hex(&out)), (Verdict::NoRoom, hex(&packet)), "{strategy}");
            }
        }
    });
}

/// Twenty datagrams of 1000 bytes in one call (udp(7), UDP_SEGMENT).
#[test]
fn segments_are_counted_as_they_are_on_the_wire() {
    let bed = Testbed::new("segments").expect("a testbed");
    let (a, b) = (bed.host("a").expect("host a"), bed.host("b").expect("host b"));
    let link = bed.link(&a, "eth0", &b, "eth0").expect("a link");
    let (src, dst) = (link.a.ipv6, link.b.ipv6);
    let receiver = b.run(|| UdpSocket::bind((dst, 40000))).expect("host b").expect("bind");
    receiver.set_read_timeout(Some(flowtag_testbed::WAIT)).expect("a timeout");
    a.run(|| {
        let mut rig = Rig::new(&Settings::default());
        let sender = UdpSocket::bind((src, 1094)).expect("bind");
        sender.connect((dst, 40000)).expect("a route");
        sender.send(b"so that neighbours are known").expect("sent");
        receiver.recv(&mut [0; 100]).expect("received");
        setsockopt(&sender, sockopt::UdpGsoSegment, &1000).expect("UDP_SEGMENT");
        let key = Key {
            protocol: Protocol::Udp,
            local: Endpoint::new(src.into(), 1094),
            remote: Endpoint::new(dst.into(), 40000),
        };
        for strategy in strategies() {
            rig.marker.set(&key, marked(strategy), 0).expect("room");
            let before = (sent(&rig), counted(&rig, Verdict::Marked));
            sender.send(&[7; 20_000]).expect("sent");
            for _ in 0..20 {
                assert_eq!(receiver.recv(&mut [0; 2000]).expect("all of them"), 1000);
            }
            let bytes = (20 * (ETHERNET + 40 + strategy.header_len() + 8 + 1000)) as u64;
            for (after, before) in [(sent(&rig), before.0), (counted(&rig, Verdict::Marked), before.1)] {
                assert_eq!((after.0 - before.0, after.1 - before.1), (20, bytes), "{strategy}");
            }
        }
    })
    .expect("on host a");
}

/// Packets and bytes with the tag.
fn sent(rig: &Rig) -> (u64, u64) {
    let sent = rig.marker.coverage().expect("coverage").sent;
    sent.iter().find(|(t, _)| *t == Some(tag())).map_or((0, 0), |(_, c)| (c.packets, c.bytes))
}

fn counted(rig: &Rig, verdict: Verdict) -> (u64, u64) {
    let counters = rig.marker.counters().expect("counters");
    let count = counters[0].counts.iter().find(|(v, _)| *v == verdict).expect("all verdicts").1;
    (count.packets, count.bytes)
}

/// What is there already is in the packet's length.
#[test]
fn a_packet_is_counted_with_what_was_written_into_it() {
    Rig::on("bytes", &Settings::default(), |rig| {
        for strategy in strategies() {
            rig.announce(marked(strategy));
            for row in rows() {
                let marked = frame_with(&[], &row.marked(strategy));
                for packet in [frame_with(&[], &row.packet()), marked.clone()] {
                    let before = (sent(rig), counted(rig, Verdict::Marked));
                    rig.assert_leaves(&packet, Verdict::Marked, &marked);
                    for (after, before) in [(sent(rig), before.0), (counted(rig, Verdict::Marked), before.1)]
                    {
                        let grown = (after.0 - before.0, after.1 - before.1);
                        assert_eq!(grown, (1, marked.len() as u64), "{strategy}, {}", row.what);
                    }
                }
            }
        }
    });
}

// ---- At random.

/// What the model says of a packet when the flow in both protocols has this mark.
fn expected(frame: &[u8], inner: bool, mark: Mark) -> (Verdict, Vec<u8>) {
    let untouched = |verdict| (verdict, frame.to_vec());
    let packet = match Parsed::new(frame, inner) {
        Ok(packet) => packet,
        Err(verdict) => return untouched(verdict),
    };
    if packet.later_fragment {
        return untouched(Verdict::Fragment);
    }
    let ours = [common::flow(Protocol::Tcp), common::flow(Protocol::Udp)];
    match packet.key() {
        Some(key) if ours.contains(&key) => model::mark(frame, &packet, mark),
        Some(_) => untouched(Verdict::NoFlow),
        None => untouched(Verdict::OtherProtocol),
    }
}

fn as_the_model_says(inner: bool) {
    Rig::on(
        if inner { "random-in" } else { "random-out" },
        &Settings { inner, ..Settings::default() },
        |rig| {
            let config = common::cases(6000);
            let cases = (any_frame(), select(strategies().collect::<Vec<_>>()));
            let (rig, seen) = (RefCell::new(rig), RefCell::new(BTreeMap::<Verdict, u32>::new()));
            let judged = TestRunner::new(config).run(&cases, |(Frame(frame), strategy)| {
                let mut rig = rig.borrow_mut();
                rig.announce(marked(strategy));
                let (verdict, out) = rig.leave(&frame);
                let (wanted, bytes) = expected(&frame, inner, marked(strategy));
                *seen.borrow_mut().entry(wanted).or_default() += 1;
                prop_assert_eq!(
                    hex(&out),
                    hex(&bytes),
                    "{:?} or {:?} after {}",
                    verdict,
                    wanted,
                    hex(&frame)
                );
                prop_assert_eq!(verdict, wanted);
                Ok(())
            });
            if let Err(error) = judged {
                panic!("{error}");
            }
            let seen = seen.into_inner();
            println!("{seen:?}");
            for verdict in [
                Verdict::Marked,
                Verdict::NoFlow,
                Verdict::OtherProtocol,
                Verdict::Fragment,
                Verdict::Unreadable,
                Verdict::NoRoom,
                Verdict::Protected,
            ] {
                assert!(seen.contains_key(&verdict), "{verdict:?} never happened: {seen:?}");
            }
        },
    );
}

#[test]
fn any_packet_leaves_as_the_model_says() {
    as_the_model_says(false);
}

#[test]
fn any_packet_leaves_as_the_model_says_with_inner_headers() {
    as_the_model_says(true);
}

#[test]
fn a_packet_cut_anywhere_is_unchanged_or_right() {
    for inner in [false, true] {
        Rig::on("cut", &Settings { inner, ..Settings::default() }, |rig| {
            let tunnelled = [
                outer(),
                options(DESTINATION, &[4, 1, 4, 1, 1, 0]),
                ipv6(),
                options(HOP_BY_HOP, ALERT),
                options(DESTINATION, &[0x3e, 8, 1, 2, 3, 4, 5, 6, 7, 8]),
                routing(1),
                udp(20),
            ];
            let wholes = rows().into_iter().map(|row| row.packet()).chain([network(&tunnelled)]);
            for whole in wholes {
                for strategy in strategies() {
                    rig.announce(marked(strategy));
                    for tags in [&[][..], &[S_TAG, C_TAG]] {
                        let whole = frame_with(tags, &whole);
                        for length in (shortest(&whole)..=whole.len()).step_by(common::stride()) {
                            let cut = &whole[..length];
                            let (verdict, bytes) = expected(cut, inner, marked(strategy));
                            rig.assert_leaves(cut, verdict, &bytes);
                        }
                    }
                }
            }
        });
    }
}

#[test]
fn numbers_are_those_of_the_registry() {
    // IANA, Protocol Numbers and IPv6 Extension Header Types.
    assert_eq!([HOP_BY_HOP, IPV6, ROUTING, FRAGMENT, AUTH, DESTINATION], [0, 41, 43, 44, 51, 60]);
}
