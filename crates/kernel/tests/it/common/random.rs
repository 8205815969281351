//! Random frames: chains of headers as nobody sends them, whole and cut.

use proptest::collection::vec;
use proptest::prelude::{Just, Strategy as Values, any, prop_oneof};
use proptest::sample::{Index, select};

use super::packets::{
    C_TAG, DESTINATION, HOP_BY_HOP, Part, S_TAG, auth, fragment, frame_with, icmpv6, ipv6_between, network,
    options, outer, routing, tcp, udp,
};
use super::{ETHERNET, hex, local, remote};

const ACK: u8 = 0x10;

pub fn any_options() -> impl Values<Value = Vec<u8>> {
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

/// A frame that a failing test shows in a line.
#[derive(Clone)]
pub struct Frame(pub Vec<u8>);

impl std::fmt::Debug for Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

/// Any chain of headers, cut anywhere.
pub fn any_frame() -> impl Values<Value = Frame> {
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
    let cut = prop_oneof![2 => Just(None), 1 => any::<Index>().prop_map(Some)];
    (whole, cut).prop_map(|(mut whole, cut)| {
        if let Some(cut) = cut {
            let shortest = shortest(&whole);
            whole.truncate(shortest + cut.index((whole.len() - shortest).max(1)));
        }
        Frame(whole)
    })
}

/// `BPF_PROG_TEST_RUN` wants an Ethernet header, and behind it, where it sees that this is IPv6, that header.
pub fn shortest(frame: &[u8]) -> usize {
    if frame[12..14] == [0x86, 0xdd] { ETHERNET + 40 } else { ETHERNET }
}
