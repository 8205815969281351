//! The marking program and rules (`BPF_PROG_TEST_RUN`): which packets of no announced flow are marked, with what, and what
//! user space is told. Packets of a test run come from a socket of user 0 in the cgroup of the test, which no process
//! made; each has a socket of its own.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Instant;

use crate::common;
use crate::common::model::{self, Parsed};
use crate::common::packets::{
    FRAGMENT, IPV6, Part, fragment, frame, icmpv6, ipv6, ipv6_between, network, tcp, udp,
};
use crate::common::{ETHERNET, ICMPV6, Rig, TCP, UDP, flow, hex, label, local, marked, remote, tag};
use flowtag_kernel::mark::rules::{self, Action, Cgroup, Rule, Subject};
use flowtag_kernel::mark::{Event, Key, Mark, Settings, Verdict};
use flowtag_wire::{Endpoint, Entropy, FlowLabel, Protocol, Strategy, Tag};
use ipnet::IpNet;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::{
    Just, Strategy as Values, TestCaseError, any, prop_assert, prop_assert_eq, prop_oneof,
};
use proptest::sample::select;
use proptest::test_runner::TestRunner;

const ACK: u8 = 0x10;
const SYN: u8 = 2;
const ENTROPY_KEY: [u8; 16] = *b"0123456789abcdef";

fn settings() -> Settings {
    Settings { entropy_key: ENTROPY_KEY, ..Settings::default() }
}

fn mark_with(experiment: u64, activity: u64, strategy: Strategy) -> Action {
    Action::Mark { tags: vec![Tag::new(experiment, activity).expect("in range")], strategy }
}

fn rule(name: &str, action: Action) -> Rule {
    Rule::new(name, action)
}

/// SipHash-2-4 as the standard library has it: protocol, the lesser end, the greater end.
#[expect(deprecated, reason = "a second opinion, which the new one is not: it takes no key")]
fn hash(protocol: u8, ends: [(IpAddr, u16); 2]) -> u64 {
    use std::hash::{Hasher, SipHasher};
    let [a, b] = ends.map(|(addr, port)| {
        let address = match addr {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        };
        [&address[..], &port.to_be_bytes()].concat()
    });
    let word = |at: usize| u64::from_le_bytes(ENTROPY_KEY[at..at + 8].try_into().expect("8 bytes"));
    let mut hasher = SipHasher::new_with_keys(word(0), word(8));
    hasher.write(&[vec![protocol], a.clone().min(b.clone()), a.max(b)].concat());
    hasher.finish()
}

/// What a rule writes, from its description alone.
fn written(action: &Action, hash: u64) -> Option<Mark> {
    let choice = (hash >> 32) as u32;
    let (tag, strategy) = match action {
        Action::Mark { tags, strategy } => (tags[choice as usize % tags.len()], *strategy),
        Action::Random { strategy } => {
            let (low, high) = (choice & 0xffff, choice >> 16);
            (Tag::new(u64::from(1 + low % 511), u64::from(1 + high % 63)).expect("in range"), *strategy)
        }
        Action::Never => return None,
    };
    Some(Mark { label: FlowLabel::from_tag(tag, Entropy::from_random(hash as u32)), strategy })
}

// ---- The cgroup that packets of a test run come from.

/// A cgroup two levels below the root with this process in it, until it is dropped.
struct Below {
    before: PathBuf,
    dirs: [PathBuf; 2],
    ids: Vec<u64>,
}

impl Below {
    fn new() -> Self {
        let root = flowtag_kernel::cgroup::root().expect("cgroups");
        let text = fs::read_to_string("/proc/self/cgroup").expect("the process's cgroups");
        let path = text.lines().find_map(|l| l.strip_prefix("0::/")).expect("a cgroup of version 2");
        let outer = root.join(format!("flowtag-test-{}", std::process::id()));
        let inner = outer.join("inner");
        fs::create_dir_all(&inner).expect("a cgroup");
        let id = |path: &PathBuf| fs::metadata(path).expect("its id").ino();
        let below = Self {
            ids: vec![id(&root), id(&outer), id(&inner)],
            before: root.join(path),
            dirs: [inner, outer],
        };
        enter(&below.dirs[0]);
        below
    }
}

fn enter(cgroup: &std::path::Path) {
    fs::write(cgroup.join("cgroup.procs"), std::process::id().to_string()).expect("the process moves");
}

impl Drop for Below {
    fn drop(&mut self) {
        enter(&self.before);
        self.dirs.iter().for_each(|dir| fs::remove_dir(dir).expect("an empty cgroup"));
    }
}

// ---- Random rules and packets.

fn addresses_v6() -> [Ipv6Addr; 4] {
    [local(), remote(), "2001:db8:ffff::9".parse().expect("literal"), "fd00::1".parse().expect("literal")]
}

fn addresses_v4() -> [Ipv4Addr; 2] {
    [Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(198, 51, 100, 7)]
}

const PORTS: [u16; 5] = [0, 443, 1094, 40000, 65535];

fn nets() -> impl Values<Value = Vec<IpNet>> {
    let all = [
        "::/0",
        "2001:db8::/32",
        "2001:db8::/64",
        "2001:db8::1/128",
        "2001:db8:0:1::/64",
        "fd00::/8",
        "0.0.0.0/0",
        "192.0.2.0/24",
        "198.51.100.7/32",
        "::ffff:192.0.2.1/128",
    ];
    let all: Vec<IpNet> = all.iter().map(|n| n.parse().expect("literal")).collect();
    prop_oneof![2 => Just(Vec::new()), 3 => vec(select(all), 1..4)]
}

fn port_ranges() -> impl Values<Value = Vec<std::ops::RangeInclusive<u16>>> {
    let all = vec![
        0..=0,
        443..=443,
        1000..=2000,
        1094..=1094,
        1095..=65535,
        40000..=40000,
        0..=65535,
        65535..=65535,
    ];
    prop_oneof![2 => Just(Vec::new()), 3 => vec(select(all), 1..4)]
}

fn actions() -> impl Values<Value = Action> {
    let strategy = || (1..8_u8).prop_map(|bits| Strategy::from_bits(bits).expect("one of seven"));
    let tags = (1..512_u64, 1..64_u64).prop_map(|(e, a)| Tag::new(e, a).expect("in range"));
    prop_oneof![
        4 => (vec(tags, 1..17), strategy()).prop_map(|(tags, strategy)| Action::Mark { tags, strategy }),
        1 => strategy().prop_map(|strategy| Action::Random { strategy }),
        1 => Just(Action::Never),
    ]
}

fn some<T: std::fmt::Debug + Clone + 'static>(values: Vec<T>) -> impl Values<Value = Vec<T>> {
    prop_oneof![3 => Just(Vec::new()), 2 => vec(select(values), 1..3)]
}

fn any_rules(eth0: u32, cgroups: &[u64]) -> impl Values<Value = Vec<Rule>> {
    let levels = (0_u32..).zip(cgroups).map(|(level, id)| Cgroup { id: *id, level });
    let elsewhere = [Cgroup { id: u64::MAX - 1, level: 1 }, Cgroup { id: u64::MAX - 2, level: 15 }];
    let groups: Vec<_> = levels.chain(elsewhere).collect();
    let one = (
        (some(vec![TCP, UDP, ICMPV6, 132]), option::weighted(0.3, vec(select(vec![eth0, 9999]), 0..3))),
        (some(vec![0_u32, 7, 65534]), prop_oneof![9 => Just(vec![]), 1 => Just(vec!["xrootd".to_owned()])]),
        option::weighted(0.3, vec(select(groups), 0..3)),
        (port_ranges(), port_ranges(), nets(), nets()),
        actions(),
    );
    let named = |all: Vec<_>| {
        let rules = all.into_iter().enumerate();
        rules
            .map(|(n, ((protocols, interfaces), (users, processes), cgroups, ends, action))| {
                let (local_ports, remote_ports, local, remote) = ends;
                let empty = rule(&format!("r{n}"), action);
                Rule {
                    protocols,
                    interfaces,
                    users,
                    processes,
                    cgroups,
                    local_ports,
                    remote_ports,
                    local,
                    remote,
                    ..empty
                }
            })
            .collect()
    };
    prop_oneof![9 => vec(one, 0..12).prop_map(named), 1 => Just(Vec::new())]
}

/// Addresses, ports, protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ends {
    protocol: u8,
    src: (IpAddr, u16),
    dst: (IpAddr, u16),
    syn: bool,
}

fn any_ends() -> impl Values<Value = Ends> {
    let v6 = || select(addresses_v6().map(IpAddr::V6).to_vec());
    let v4 = || select(addresses_v4().map(IpAddr::V4).to_vec());
    let addresses = prop_oneof![4 => (v6(), v6()), 1 => (v4(), v4())];
    let ports = || select(PORTS.to_vec());
    let protocol = select(vec![TCP, TCP, UDP, UDP, ICMPV6, 132]);
    (addresses, ports(), ports(), protocol, any::<bool>()).prop_map(
        |((src, dst), from, to, protocol, syn)| {
            let ported = matches!(protocol, TCP | UDP);
            let port = |port| if ported { port } else { 0 };
            Ends { protocol, src: (src, port(from)), dst: (dst, port(to)), syn }
        },
    )
}

impl Ends {
    fn frame(&self) -> Vec<u8> {
        let mut transport = match self.protocol {
            TCP => tcp(if self.syn { SYN } else { ACK }, &[], 30),
            UDP => udp(30),
            ICMPV6 => icmpv6(128, &[0; 12]),
            kind => Part { kind, bytes: vec![0x11; 40] },
        };
        if matches!(self.protocol, TCP | UDP) {
            transport.bytes[..2].copy_from_slice(&self.src.1.to_be_bytes());
            transport.bytes[2..4].copy_from_slice(&self.dst.1.to_be_bytes());
        }
        match (self.src.0, self.dst.0) {
            (IpAddr::V6(src), IpAddr::V6(dst)) => frame(&[ipv6_between(src, dst), transport]),
            (IpAddr::V4(src), IpAddr::V4(dst)) => frame_v4(src, dst, &transport),
            _ => unreachable!("both of one family"),
        }
    }

    fn key(&self) -> Option<Key> {
        let protocol = [Protocol::Tcp, Protocol::Udp].into_iter().find(|p| p.number() == self.protocol)?;
        let end = |(addr, port)| Endpoint::new(addr, port);
        Some(Key { protocol, local: end(self.src), remote: end(self.dst) })
    }

    fn subject(&self, rig: &Rig, cgroups: &[u64]) -> Subject {
        let end = |(addr, port)| Endpoint::new(addr, port);
        Subject {
            interface: rig.eth0.index,
            user: Some(0),
            cgroups: cgroups.to_vec(),
            ..Subject::new(self.protocol, end(self.src), end(self.dst))
        }
    }
}

/// RFC 791, with options, so that the header is not the shortest.
fn frame_v4(src: Ipv4Addr, dst: Ipv4Addr, transport: &Part) -> Vec<u8> {
    let length = u16::try_from(24 + transport.bytes.len()).expect("short").to_be_bytes();
    let mut out = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
    out.extend([0x46, 0, length[0], length[1], 0, 1, 0x40, 0, 64, transport.kind, 0, 0]);
    out.extend(src.octets().into_iter().chain(dst.octets()).chain([1, 1, 1, 0]));
    out.extend(&transport.bytes);
    out
}

/// What has to become of it when these rules are in force, and which of them applies.
fn wanted(rules: &[Rule], ends: &Ends, subject: &Subject) -> (Verdict, Vec<u8>, Option<(usize, Mark)>) {
    let frame = ends.frame();
    let first = rules::first(rules, subject);
    let mark = first.and_then(|n| written(&rules[n].action, hash(ends.protocol, [ends.src, ends.dst])));
    let matched = first.zip(mark);
    let ported = matches!(ends.protocol, TCP | UDP);
    if ends.src.0.is_ipv4() {
        return (Verdict::Ipv4, frame, matched);
    }
    let (verdict, bytes) = match (first, mark) {
        (_, Some(mark)) => model::mark(&frame, &Parsed::new(&frame, false).expect("whole"), mark),
        (Some(_), None) => (Verdict::Never, frame),
        (None, _) if ported => (Verdict::NoFlow, frame),
        (None, _) => (Verdict::OtherProtocol, frame),
    };
    (verdict, bytes, matched)
}

#[test]
fn the_program_does_what_the_first_rule_says() {
    let below = Below::new();
    Rig::on("rules", &settings(), |rig| {
        let config = common::cases(250);
        let cases = (any_rules(rig.eth0.index, &below.ids), vec(any_ends(), 40));
        let (rig, seen) = (RefCell::new(rig), RefCell::new(BTreeMap::<Verdict, u32>::new()));
        let judged = TestRunner::new(config).run(&cases, |(rules, packets)| {
            let mut rig = rig.borrow_mut();
            let generation = rig.marker.set_rules(&rules).expect("they can be compiled");
            rig.told();
            for ends in packets {
                let subject = ends.subject(&rig, &below.ids);
                let (verdict, bytes, matched) = wanted(&rules, &ends, &subject);
                *seen.borrow_mut().entry(verdict).or_default() += 1;
                let (found, out) = rig.leave(&ends.frame());
                prop_assert_eq!(hex(&out), hex(&bytes), "{:?}", ends);
                prop_assert_eq!(found, verdict, "{:?}", ends);
                let (Some(key), Some((number, mark))) = (ends.key(), matched) else {
                    prop_assert!(rig.told().is_empty(), "{:?}", ends);
                    continue;
                };
                // As user space computes it for flows that it judges itself.
                prop_assert_eq!(rules[number].action.mark(&key, &ENTROPY_KEY), Some(mark));
                told_of_match(&rig.told(), &ends, key, mark, number, generation)?;
            }
            Ok(())
        });
        if let Err(error) = judged {
            panic!("{error}");
        }
        let seen = seen.into_inner();
        println!("{seen:?}");
        for verdict in
            [Verdict::Marked, Verdict::NoFlow, Verdict::OtherProtocol, Verdict::Ipv4, Verdict::Never]
        {
            assert!(seen.contains_key(&verdict), "{verdict:?} never happened: {seen:?}");
        }
    });
}

/// A SYN and a datagram (of a socket of its own) are told of each time, another TCP packet once.
fn told_of_match(
    told: &[Event],
    ends: &Ends,
    key: Key,
    mark: Mark,
    number: usize,
    generation: u32,
) -> Result<(), TestCaseError> {
    let again = ends.protocol == TCP && !ends.syn && told.is_empty();
    let rule = u16::try_from(number).expect("few");
    let tag = mark.label.tag().expect("a tag");
    let event = Event::Matched { key, tag, mark, rule, generation, user: Some(0), process: None };
    prop_assert!(again || told == [event.clone()], "{:?} and not {:?}", told, event);
    Ok(())
}

// ---- By hand.

fn flow_packet(protocol: u8, flags: u8) -> Vec<u8> {
    let transport = if protocol == TCP { tcp(flags, &[], 20) } else { udp(20) };
    frame(&[ipv6(), transport])
}

/// The packet with what this action writes into packets of the flow.
fn as_marked(packet: &[u8], action: &Action) -> Vec<u8> {
    let parsed = Parsed::new(packet, false).expect("whole");
    let ends = match parsed.key() {
        Some(key) => [(key.local.addr(), key.local.port()), (key.remote.addr(), key.remote.port())],
        None => [(parsed.src.into(), 0), (parsed.dst.into(), 0)],
    };
    let mark = written(action, hash(parsed.protocol, ends)).expect("it marks");
    let (verdict, bytes) = model::mark(packet, &parsed, mark);
    assert_eq!(verdict, Verdict::Marked);
    bytes
}

#[track_caller]
fn assert_marked_by(rig: &Rig, packet: &[u8], action: &Action) {
    rig.assert_leaves(packet, Verdict::Marked, &as_marked(packet, action));
}

#[test]
fn a_change_of_rules_is_in_force_with_the_next_packet() {
    Rig::on("change", &settings(), |rig| {
        let packets = [flow_packet(TCP, ACK), flow_packet(TCP, SYN), flow_packet(UDP, 0)];
        let actions = [
            mark_with(3, 14, Strategy::LABEL),
            mark_with(9, 1, Strategy::DESTINATION),
            mark_with(3, 15, Strategy::LABEL | Strategy::HOP_BY_HOP),
            Action::Random { strategy: Strategy::LABEL },
        ];
        let mut last = 0;
        for action in actions.iter().cycle().take(12) {
            let generation = rig.marker.set_rules(&[rule("one", action.clone())]).expect("set");
            assert_eq!(generation, last + 1, "each change has a number of its own");
            last = generation;
            for packet in &packets {
                for _ in 0..2 {
                    assert_marked_by(rig, packet, action);
                }
            }
        }
        rig.marker.set_rules(&[rule("not", Action::Never)]).expect("set");
        packets.iter().for_each(|packet| rig.assert_untouched(packet, Verdict::Never));
        rig.marker.set_rules(&[]).expect("set");
        packets.iter().for_each(|packet| rig.assert_untouched(packet, Verdict::NoFlow));
        assert!(
            rig.marker
                .set_rules(&[rule("bad", Action::Mark { tags: vec![], strategy: Strategy::LABEL })])
                .is_err()
        );
        packets.iter().for_each(|packet| rig.assert_untouched(packet, Verdict::NoFlow));
        rig.marker.set_rules(&[rule("again", actions[0].clone())]).expect("set");
        packets.iter().for_each(|packet| assert_marked_by(rig, packet, &actions[0]));
    });
}

#[test]
fn what_was_announced_goes_before_any_rule() {
    Rig::on("announced", &settings(), |rig| {
        let packet = flow_packet(TCP, ACK);
        for action in [Action::Never, mark_with(9, 1, Strategy::HOP_BY_HOP)] {
            rig.marker.set_rules(&[rule("one", action)]).expect("set");
            rig.leave(&packet);
            rig.announce(marked(Strategy::DESTINATION));
            let parsed = Parsed::new(&packet, false).expect("whole");
            let (_, expected) = model::mark(&packet, &parsed, marked(Strategy::DESTINATION));
            rig.told();
            rig.assert_leaves(&packet, Verdict::Marked, &expected);
            assert_eq!(rig.told(), [], "it is known");
            rig.marker.remove(&flow(Protocol::Tcp)).expect("removed");
        }
        assert_marked_by(rig, &packet, &mark_with(9, 1, Strategy::HOP_BY_HOP));
    });
}

/// A connection may be another owner's than the last one with the same ports: its SYN is judged and told of each time. Of
/// the packets in between the first is.
#[test]
fn the_first_packet_and_each_syn_are_told_of() {
    Rig::on("told", &settings(), |rig| {
        let action = mark_with(3, 14, Strategy::LABEL);
        let generation = rig.marker.set_rules(&[rule("one", action.clone())]).expect("set");
        let key = flow(Protocol::Tcp);
        let mark = action.mark(&key, &ENTROPY_KEY).expect("it marks");
        let event =
            Event::Matched { key, tag: tag(), mark, rule: 0, generation, user: Some(0), process: None };
        for (flags, events) in [(ACK, 1), (ACK, 0), (SYN, 1), (SYN, 1), (ACK, 0), (SYN | ACK, 1), (ACK, 0)] {
            assert_marked_by(rig, &flow_packet(TCP, flags), &action);
            assert_eq!(rig.told(), vec![event.clone(); events], "flags {flags:#x}");
        }
        // Rules that change judge it anew.
        let other = mark_with(4, 1, Strategy::LABEL);
        let both =
            [Rule { protocols: vec![UDP], ..rule("udp", Action::Never) }, rule("other", other.clone())];
        let generation = rig.marker.set_rules(&both).expect("set");
        assert_marked_by(rig, &flow_packet(TCP, ACK), &other);
        let mark = other.mark(&key, &ENTROPY_KEY).expect("it marks");
        let tag = Tag::new(4, 1).expect("in range");
        let event = Event::Matched { key, tag, mark, rule: 1, generation, user: Some(0), process: None };
        assert_eq!(rig.told(), [event]);
        assert_eq!(rig.marker.coverage().expect("coverage").lost_events, 0);
    });
}

#[test]
fn ipv4_is_told_of_and_not_marked() {
    Rig::on("ipv4", &settings(), |rig| {
        let action = mark_with(3, 14, Strategy::DESTINATION);
        let net = vec!["198.51.100.0/24".parse().expect("literal")];
        let rules = [Rule { remote: net, ..rule("v4", action.clone()) }];
        let generation = rig.marker.set_rules(&rules).expect("set");
        let [src, dst] = addresses_v4().map(IpAddr::V4);
        for (protocol, number) in [(Protocol::Tcp, TCP), (Protocol::Udp, UDP)] {
            let ends = Ends { protocol: number, src: (src, 1094), dst: (dst, 40000), syn: false };
            rig.assert_untouched(&ends.frame(), Verdict::Ipv4);
            let key = Key { protocol, local: Endpoint::new(src, 1094), remote: Endpoint::new(dst, 40000) };
            let mark = written(&action, hash(number, [ends.src, ends.dst])).expect("it marks");
            let event =
                Event::Matched { key, tag: tag(), mark, rule: 0, generation, user: Some(0), process: None };
            assert_eq!(rig.told(), [event]);
            let back = Ends { src: ends.dst, dst: ends.src, ..ends };
            rig.assert_untouched(&back.frame(), Verdict::Ipv4);
            assert_eq!(rig.told(), [], "no rule means it");
        }
    });
}

#[test]
fn icmpv6_is_marked_by_a_rule_that_means_it_and_neighbour_discovery_by_none() {
    Rig::on("icmpv6", &settings(), |rig| {
        let action = mark_with(3, 14, Strategy::LABEL | Strategy::DESTINATION);
        let echo = frame(&[ipv6(), icmpv6(128, &[0, 1, 0, 1, 9, 9, 9])]);
        rig.assert_untouched(&echo, Verdict::OtherProtocol);
        rig.marker
            .set_rules(&[Rule { protocols: vec![TCP, UDP], ..rule("ports", action.clone()) }])
            .expect("set");
        rig.assert_untouched(&echo, Verdict::OtherProtocol);
        rig.marker
            .set_rules(&[Rule { protocols: vec![ICMPV6], ..rule("icmp", action.clone()) }])
            .expect("set");
        for kind in [1, 2, 3, 4, 128, 129] {
            assert_marked_by(rig, &frame(&[ipv6(), icmpv6(kind, &[0, 0, 5, 0, 7])]), &action);
        }
        for kind in [130, 131, 132, 133, 134, 135, 136, 137, 143] {
            rig.assert_untouched(&frame(&[ipv6(), icmpv6(kind, &[0; 16])]), Verdict::OtherProtocol);
        }
        assert_eq!(rig.told(), [], "it is no flow");
        // A rule with ports does not mean what has none, unless it means port 0.
        let ports = Rule { local_ports: vec![1..=65535], ..rule("ports", action.clone()) };
        rig.marker.set_rules(&[ports]).expect("set");
        rig.assert_untouched(&echo, Verdict::OtherProtocol);
    });
}

#[test]
fn later_fragments_are_marked_as_the_rule_marked_the_first() {
    Rig::on("pieces", &settings(), |rig| {
        let action = mark_with(3, 14, Strategy::DESTINATION);
        let mut id = 0;
        for kind in [UDP, ICMPV6] {
            id += 1;
            rig.marker
                .set_rules(&[Rule { protocols: vec![kind], ..rule("one", action.clone()) }])
                .expect("set");
            let transport = if kind == UDP { udp(56) } else { icmpv6(128, &[1; 60]) };
            let first = frame(&[ipv6(), fragment(0, true, id), transport]);
            let expected = as_marked(&first, &action);
            rig.assert_leaves(&first, Verdict::Marked, &expected);
            let rest = Part { kind, bytes: vec![135; 30] };
            let later = frame(&[ipv6(), fragment(8, false, id), rest.clone()]);
            let (verdict, out) = rig.leave(&later);
            assert_eq!(verdict, Verdict::Marked);
            let option = &expected[ETHERNET + 40..ETHERNET + 48];
            let mut wanted =
                network(&[ipv6(), Part { kind: 60, bytes: option.to_vec() }, fragment(8, false, id), rest]);
            wanted[40] = FRAGMENT;
            assert_eq!(hex(&out[ETHERNET..]), hex(&wanted));
        }
        rig.marker.set_rules(&[rule("not", Action::Never)]).expect("set");
        rig.assert_untouched(&frame(&[ipv6(), fragment(0, true, 99), udp(56)]), Verdict::Never);
        let rest = Part { kind: UDP, bytes: vec![1; 30] };
        rig.assert_untouched(&frame(&[ipv6(), fragment(8, false, 99), rest]), Verdict::Never);
    });
}

#[test]
fn a_thousand_rules_are_judged_as_one() {
    Rig::on("thousand", &settings(), |rig| {
        // Of each experiment a prefix and a port; the last rule takes what is left of half of the prefixes.
        let net =
            |n: u16| IpNet::new(Ipv6Addr::new(0x2001, 0xdb8, n, 0, 0, 0, 0, 0).into(), 48).expect("a net");
        let mut all: Vec<Rule> = (0..1000_u16)
            .map(|n| Rule {
                remote: vec![net(n)],
                local_ports: vec![n..=n + 100],
                ..rule(
                    &format!("r{n}"),
                    mark_with(u64::from(n % 511) + 1, u64::from(n / 511) + 1, Strategy::LABEL),
                )
            })
            .collect();
        all.push(Rule { remote: (0..500).map(net).collect(), ..rule("rest", Action::Never) });
        let start = Instant::now();
        rig.marker.set_rules(&all).expect("set");
        println!("1001 rules are in force after {:?}", start.elapsed());
        for n in (0..1000_u16).step_by(37).chain([999]) {
            for port in [n, n + 100, n + 101] {
                let dst = Ipv6Addr::new(0x2001, 0xdb8, n, 0, 0, 0, 0, 0x99);
                let ends =
                    Ends { protocol: UDP, src: (local().into(), port), dst: (dst.into(), 443), syn: false };
                let (verdict, bytes, _) = wanted(&all, &ends, &ends.subject(rig, &[]));
                let expected = match port - n {
                    101 if n < 500 => Verdict::Never,
                    101 => Verdict::NoFlow,
                    _ => Verdict::Marked,
                };
                assert_eq!(verdict, expected);
                rig.assert_leaves(&ends.frame(), verdict, &bytes);
            }
        }
        // From many to one, and none of the many is left.
        let one = mark_with(7, 7, Strategy::LABEL);
        rig.marker.set_rules(&[Rule { protocols: vec![UDP], ..rule("one", one.clone()) }]).expect("set");
        assert_marked_by(rig, &flow_packet(UDP, 0), &one);
        rig.assert_untouched(&flow_packet(TCP, ACK), Verdict::NoFlow);
        let start = Instant::now();
        all.truncate(1024);
        let many = (0..1025).map(|n| rule(&format!("r{n}"), one.clone())).collect::<Vec<_>>();
        let error = rig.marker.set_rules(&many).expect_err("one too many");
        assert!(error.to_string().contains("rule"), "{error}");
        assert_marked_by(rig, &flow_packet(UDP, 0), &one);
        println!("refused after {:?}", start.elapsed());
    });
}

#[test]
fn a_full_ring_is_counted_and_marks_stay_right() {
    Rig::on("ring", &settings(), |rig| {
        let action = mark_with(3, 14, Strategy::LABEL);
        rig.marker.set_rules(&[rule("one", action.clone())]).expect("set");
        let ends = |n: u16| Ends {
            protocol: TCP,
            src: (local().into(), 10_000 + n),
            dst: (remote().into(), 443),
            syn: false,
        };
        let many = 7000;
        for n in 0..many {
            assert_marked_by(rig, &ends(n).frame(), &action);
        }
        let lost = rig.marker.coverage().expect("coverage").lost_events;
        let events = rig.told();
        // 512 KiB, and an event takes 80 bytes and a header of 8.
        assert_eq!(events.len(), 512 * 1024 / 88);
        assert_eq!(events.len() as u64 + lost, u64::from(many), "each is told or counted");
        // The next packet of a flow that was not told of tells of it.
        let last = ends(many - 1);
        assert_marked_by(rig, &last.frame(), &action);
        let [Event::Matched { key, .. }] = rig.told()[..] else { panic!("the flow is told of") };
        assert_eq!(Some(key), last.key());
        assert_marked_by(rig, &last.frame(), &action);
        assert_eq!(rig.told(), [], "once");
    });
}

#[test]
fn packets_without_room_are_told_of_at_times() {
    Rig::on("no-room", &settings(), |rig| {
        let action = mark_with(3, 14, Strategy::DESTINATION);
        rig.marker.set_rules(&[rule("one", action.clone())]).expect("set");
        let key = flow(Protocol::Udp);
        let mark = action.mark(&key, &ENTROPY_KEY).expect("it marks");
        let packet = frame(&[ipv6(), udp(1500 - 48)]);
        let mut no_room = 0;
        let start = Instant::now();
        for _ in 0..200 {
            rig.assert_untouched(&packet, Verdict::NoRoom);
            let events = rig.told().into_iter().filter(|e| matches!(e, Event::NoRoom { .. }));
            for event in events {
                assert_eq!(event, Event::NoRoom { key, mark, mtu: 1500 });
                no_room += 1;
            }
        }
        // On each CPU one in 16 jiffies, of at least a millisecond.
        let cpus = libbpf_rs::num_possible_cpus().expect("CPUs") as u128;
        let most = cpus * (start.elapsed().as_millis() / 16 + 2);
        assert!((1..=most).contains(&no_room), "{no_room} times, at most {most}");
    });
}

/// In a packet in a packet it is the inner flow that rules mean.
#[test]
fn a_flow_in_a_tunnel_is_judged_by_its_own_addresses() {
    for inner in [false, true] {
        Rig::on("tunnel", &Settings { inner, ..settings() }, |rig| {
            let action = mark_with(3, 14, Strategy::LABEL);
            let net = vec![IpNet::from(IpAddr::V6(remote()))];
            rig.marker.set_rules(&[Rule { remote: net, ..rule("one", action.clone()) }]).expect("set");
            let far = "2001:db8:b::1".parse().expect("literal");
            let whole = network(&[ipv6(), udp(5)]);
            let packet = frame(&[ipv6_between(local(), far), Part { kind: IPV6, bytes: whole }]);
            let (verdict, out) = rig.leave(&packet);
            assert_eq!(verdict, Verdict::Marked);
            let parsed = Parsed::new(&packet, inner).expect("whole");
            let ends = [(local().into(), 1094), (remote().into(), 40000)];
            let mark = written(&action, hash(UDP, ends)).expect("it marks");
            assert_eq!(hex(&out), hex(&model::mark(&packet, &parsed, mark).1));
            rig.assert_untouched(&frame(&[ipv6_between(local(), far), udp(5)]), Verdict::NoFlow);
        });
    }
}

#[test]
fn what_one_tag_sent_is_counted_under_it() {
    Rig::on("sent", &settings(), |rig| {
        let rules: Vec<_> = (0..3)
            .map(|n| Rule {
                local_ports: vec![n..=n],
                ..rule(&format!("r{n}"), mark_with(u64::from(n) + 1, 5, Strategy::LABEL))
            })
            .chain([Rule {
                local_ports: vec![9..=9],
                ..rule("any", Action::Random { strategy: Strategy::LABEL })
            }])
            .collect();
        rig.marker.set_rules(&rules).expect("set");
        for port in [0, 1, 1, 2, 2, 2, 9, 9, 9, 9] {
            let ends =
                Ends { protocol: UDP, src: (local().into(), port), dst: (remote().into(), 1), syn: false };
            let (verdict, _) = rig.leave(&ends.frame());
            assert_eq!(verdict, Verdict::Marked);
        }
        let sent = rig.marker.coverage().expect("coverage").sent;
        let packets: Vec<_> =
            sent.iter().map(|(tag, count)| (tag.map(|t| t.to_string()), count.packets)).collect();
        let named = |tag: &str, n| (Some(tag.to_owned()), n);
        assert_eq!(packets, [(None, 4), named("1/5", 1), named("2/5", 2), named("3/5", 3)]);
        assert_eq!(label().tag(), Some(tag()));
    });
}
