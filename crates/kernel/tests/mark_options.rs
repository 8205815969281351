//! The marking program and extension headers (`BPF_PROG_TEST_RUN`): where the option goes, what moves, and what is left
//! as it came. Every byte of what comes out is compared, with a packet built by hand or with what a model says.

mod common;

use common::model::{self, Parsed};
use common::packets::{
    ALERT, AUTH, C_TAG, DESTINATION, FRAGMENT, HOP_BY_HOP, IPV6, Part, ROUTING, S_TAG, auth, fragment, frame,
    frame_with, icmpv6, ipv6, ipv6_between, network, options, routing, tcp, udp,
};
use common::{Context, ETHERNET, MTU, Rig, hex, label, local, marked, remote, strategies, tag};
use flowtag_kernel::mark::{Mark, Settings, Verdict};
use flowtag_wire::{Strategy, option};
use proptest::collection::vec;
use proptest::prelude::{
    Just, ProptestConfig, Strategy as Values, TestCaseError, any, prop_assert_eq, prop_oneof,
};
use proptest::sample::select;
use proptest::test_runner::TestRunner;

const ACK: u8 = 0x10;

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
    let data = || tcp(ACK, &[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2], 100);
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

fn outer() -> Part {
    ipv6_between("2001:db8:a::1".parse().expect("literal"), "2001:db8:b::1".parse().expect("literal"))
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
            let later = frame(&[outer(), fragment(11, false, 77), Part { kind: IPV6, bytes: vec![9; 40] }]);
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
                let fits = Row::new("", None, None, vec![udp(length - 4 * tags.len())]);
                let expected = frame_with(tags, &fits.marked(strategy));
                assert_eq!(expected.len(), ETHERNET + MTU);
                rig.assert_leaves(&frame_with(tags, &fits.packet()), Verdict::Marked, &expected);
                for more in 1..=strategy.header_len() {
                    let row = Row::new("", None, None, vec![udp(length - 4 * tags.len() + more)]);
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

#[test]
fn segments_are_judged_and_counted_as_they_will_be_on_the_wire() {
    Rig::on("gso", &Settings::default(), |rig| {
        for strategy in strategies() {
            rig.announce(marked(strategy));
            let need = strategy.header_len();
            let headers = 40 + 20 + 12;
            let stamps = [1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2];
            // Two segments and a half, as long as they may be.
            let size = MTU - headers - need;
            let row = Row::new("", None, None, vec![tcp(ACK, &stamps, size * 2 + 100)]);
            let packet = frame_with(&[], &row.packet());
            let segments = 3;
            let wire_len = packet.len() + (segments - 1) * (ETHERNET + headers);
            let context = |size| Context { wire_len: wire_len as u32, gso_segs: 3, gso_size: size as u32 };
            let before = sent(rig);
            let (packets, bytes) = counted(rig, &packet, context(size), Verdict::Marked);
            assert_eq!(packets, 3, "{strategy}: segments");
            assert_eq!(bytes, (wire_len + segments * need) as u64, "{strategy}: each with the header");
            let after = sent(rig);
            assert_eq!((after.0 - before.0, after.1 - before.1), (packets, bytes), "{strategy}: by tag, too");
            let (verdict, out) = rig.leave_with(&packet, context(size));
            assert_eq!((verdict, hex(&out)), (Verdict::Marked, hex(&frame_with(&[], &row.marked(strategy)))));
            if need > 0 {
                let (verdict, out) = rig.leave_with(&packet, context(size + 1));
                assert_eq!((verdict, hex(&out)), (Verdict::NoRoom, hex(&packet)), "{strategy}");
            }
        }
    });
}

#[test]
fn datagrams_of_one_send_are_judged_one_by_one() {
    Rig::on("uso", &Settings::default(), |rig| {
        for strategy in strategies().filter(|s| s.header_len() > 0) {
            rig.announce(marked(strategy));
            let size = MTU - 48 - strategy.header_len();
            let row = Row::new("", None, None, vec![udp(size * 2)]);
            let packet = frame_with(&[], &row.packet());
            let context = |size: usize| Context { wire_len: 0, gso_segs: 2, gso_size: size as u32 };
            let (verdict, out) = rig.leave_with(&packet, context(size));
            assert_eq!((verdict, hex(&out)), (Verdict::Marked, hex(&frame_with(&[], &row.marked(strategy)))));
            let (verdict, out) = rig.leave_with(&packet, context(size + 1));
            assert_eq!((verdict, hex(&out)), (Verdict::NoRoom, hex(&packet)), "{strategy}");
        }
    });
}

fn sent(rig: &Rig) -> (u64, u64) {
    let sent = rig.marker.coverage().expect("coverage").sent;
    sent.iter().find(|(t, _)| *t == Some(tag())).map_or((0, 0), |(_, c)| (c.packets, c.bytes))
}

/// Packets and bytes by which the verdict's counter grows.
fn counted(rig: &Rig, packet: &[u8], context: Context, verdict: Verdict) -> (u64, u64) {
    let read = || {
        let counters = rig.marker.counters().expect("counters");
        let count = counters[0].counts.iter().find(|(v, _)| *v == verdict).expect("all verdicts").1;
        (count.packets, count.bytes)
    };
    let before = read();
    rig.leave_with(packet, context);
    let after = read();
    (after.0 - before.0, after.1 - before.1)
}

// ---- At random.

fn any_options() -> impl Values<Value = Vec<u8>> {
    let foreign = (select(vec![0x3e_u8, 5, 0xc2, 0x1e]), vec(any::<u8>(), 0..12))
        .prop_filter("ours has its own case", |(kind, data)| (*kind, data.len()) != (0x1e, 3))
        .prop_map(|(kind, data)| [vec![kind, data.len() as u8], data].concat());
    let one = prop_oneof![
        3 => foreign,
        1 => Just(vec![0]),
        1 => (0..6_usize).prop_map(|n| [vec![1, n as u8], vec![0; n]].concat()),
        1 => any::<[u8; 3]>().prop_map(|tag| [vec![0x1e, 3], tag.to_vec()].concat()),
    ];
    vec(one, 0..4).prop_map(|all| all.concat())
}

fn extension() -> impl Values<Value = Part> {
    prop_oneof![
        3 => any_options().prop_map(|o| options(HOP_BY_HOP, &o)),
        3 => any_options().prop_map(|o| options(DESTINATION, &o)),
        1 => (0..4_u8).prop_map(routing),
        1 => (any::<bool>(), any::<u32>()).prop_map(|(more, id)| fragment(0, more, id)),
        1 => (1..100_u16, any::<bool>(), any::<u32>()).prop_map(|(at, more, id)| fragment(at, more, id)),
        1 => Just(auth()),
    ]
}

fn transport() -> impl Values<Value = Part> {
    let length = || prop_oneof![3 => 0..64_usize, 1 => 1300..1500_usize];
    prop_oneof![
        3 => length().prop_map(udp),
        3 => length().prop_map(|n| tcp(ACK, &[], n)),
        1 => length().prop_map(|n| icmpv6(128, &vec![3; n])),
        1 => length().prop_map(|n| Part { kind: 59, bytes: vec![4; n] }),
    ]
}

/// A hop-by-hop header goes first more often than not.
fn headers() -> impl Values<Value = Vec<Part>> {
    let mostly = |parts: Vec<Part>| {
        let (mut first, rest): (Vec<_>, Vec<_>) = parts.into_iter().partition(|p| p.kind == HOP_BY_HOP);
        first.truncate(1);
        first.into_iter().chain(rest).collect::<Vec<_>>()
    };
    prop_oneof![4 => vec(extension(), 0..5).prop_map(mostly), 1 => vec(extension(), 0..5)]
}

fn any_frame() -> impl Values<Value = Vec<u8>> {
    let tags = select(vec![vec![], vec![C_TAG], vec![S_TAG], vec![S_TAG, C_TAG], vec![C_TAG, C_TAG]]);
    let inside = prop_oneof![3 => Just(None), 1 => headers().prop_map(Some)];
    let ip = prop_oneof![4 => Just((local(), remote())), 1 => Just((remote(), local()))];
    let jumbo = prop_oneof![20 => Just(false), 1 => Just(true)];
    let whole = (tags, headers(), inside, ip, transport(), jumbo).prop_map(
        |(tags, around, inside, (src, dst), transport, jumbo)| {
            let mut parts = [vec![ipv6_between(src, dst)], around].concat();
            if let Some(inside) = inside {
                parts[0] = outer();
                parts.extend([vec![ipv6_between(src, dst)], inside].concat());
            }
            parts.push(transport);
            let mut network = network(&parts);
            if jumbo {
                network[4..6].fill(0);
            }
            frame_with(&tags, &network)
        },
    );
    let cut = prop_oneof![2 => Just(None), 1 => any::<proptest::sample::Index>().prop_map(Some)];
    (whole, cut).prop_map(|(mut whole, cut)| {
        if let Some(cut) = cut {
            whole.truncate(ETHERNET + cut.index(whole.len() - ETHERNET));
        }
        whole
    })
}

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
    let ours = [common::flow(flowtag_wire::Protocol::Tcp), common::flow(flowtag_wire::Protocol::Udp)];
    match packet.key() {
        Some(key) if ours.contains(&key) => model::mark(frame, &packet, mark),
        Some(_) => untouched(Verdict::NoFlow),
        None => untouched(Verdict::OtherProtocol),
    }
}

fn as_the_model_says(inner: bool) {
    Rig::on("random", &Settings { inner, ..Settings::default() }, |rig| {
        let config = ProptestConfig { cases: 6000, failure_persistence: None, ..ProptestConfig::default() };
        let cases = (any_frame(), select(strategies().collect::<Vec<_>>()));
        let rig = std::cell::RefCell::new(rig);
        let mut seen = std::collections::BTreeMap::<Verdict, u32>::new();
        let judged = |(frame, strategy): (Vec<u8>, Strategy)| -> Result<(), TestCaseError> {
            let mut rig = rig.borrow_mut();
            rig.announce(marked(strategy));
            let (verdict, out) = rig.leave(&frame);
            let (wanted, bytes) = expected(&frame, inner, marked(strategy));
            prop_assert_eq!(hex(&out), hex(&bytes), "{:?} or {:?} after {}", verdict, wanted, hex(&frame));
            prop_assert_eq!(verdict, wanted);
            Ok(())
        };
        let counted = std::cell::RefCell::new(&mut seen);
        let result = TestRunner::new(config).run(&cases, |(frame, strategy)| {
            let verdict = expected(&frame, inner, marked(strategy)).0;
            *counted.borrow_mut().entry(verdict).or_default() += 1;
            judged((frame, strategy))
        });
        if let Err(error) = result {
            panic!("{error}");
        }
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
    });
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
                        for length in ETHERNET..=whole.len() {
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
