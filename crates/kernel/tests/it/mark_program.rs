//! The marking program on single packets, run by the kernel (`BPF_PROG_TEST_RUN`): every byte of what comes out is
//! compared with what went in.

use std::time::{Duration, Instant};

use crate::common;
use crate::common::Rig;
use flowtag_kernel::mark::rules::{Action, Rule};
use flowtag_kernel::mark::{Key, Marker, Settings, Verdict};
use flowtag_wire::{Endpoint, Entropy, FiveTuple, FlowLabel, Protocol, Strategy, Tag};
use libbpf_rs::ProgramInput;
use libbpf_rs::query::{ProgInfoIter, ProgInfoQueryOptions};

const LOCAL: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const REMOTE: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

fn marker() -> Marker {
    let marker = Marker::load(&Settings::default()).expect("needs root: run the tests with `make test`");
    marker.configure_test_run().expect("interface 1 can be configured");
    marker
}

fn flow(protocol: Protocol) -> Key {
    let (src, dst) = ("[2001:db8::1]:1094", "[2001:db8::2]:40000");
    FiveTuple::new(protocol, src.parse().expect("literal"), dst.parse().expect("literal"))
        .expect("literal")
        .into()
}

fn label() -> FlowLabel {
    FlowLabel::from_tag(Tag::new(3, 14).expect("in range"), Entropy::from_random(0x4_0102))
}

/// An Ethernet header, then `tags`, then `network`.
fn frame(tags: &[[u8; 4]], ethertype: u16, network: &[u8]) -> Vec<u8> {
    let mut out = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    tags.iter().for_each(|t| out.extend(t));
    out.extend(ethertype.to_be_bytes());
    out.extend(network);
    out
}

/// IPv6 with DSCP 46, ECN 1 and a label of its own, then extension headers, then ports and some payload.
fn ipv6(next: u8, extension: &[u8], transport: u8) -> Vec<u8> {
    let mut ports = vec![0x04, 0x46, 0x9c, 0x40];
    ports.extend((0..60).map(|i| i ^ transport));
    let length = u16::try_from(extension.len() + ports.len()).expect("short");
    let mut out = vec![0x6b, 0x9a, 0xbc, 0xde];
    out.extend(length.to_be_bytes());
    out.extend([next, 61]);
    out.extend(LOCAL.iter().chain(&REMOTE).chain(extension).chain(&ports));
    out
}

fn run(marker: &Marker, packet: &[u8]) -> (i32, Vec<u8>) {
    let mut out = vec![0; packet.len() + 64];
    let input = ProgramInput { data_in: Some(packet), data_out: Some(&mut out), ..Default::default() };
    let result = marker.mark_program().test_run(input).expect("the kernel runs the program");
    let verdict = result.return_value.cast_signed();
    let length = result.data.expect("data came back").len();
    out.truncate(length);
    (verdict, out)
}

/// `packet` with the label at `l3` replaced: the only difference that marking may make.
fn labelled(packet: &[u8], l3: usize) -> Vec<u8> {
    let mut out = packet.to_vec();
    let [_, high, middle, low] = label().value().to_be_bytes();
    out[l3 + 1] = out[l3 + 1] & 0xf0 | high;
    out[l3 + 2] = middle;
    out[l3 + 3] = low;
    out
}

#[track_caller]
fn assert_marked(marker: &Marker, packet: &[u8], l3: usize) {
    let (verdict, out) = run(marker, packet);
    assert_eq!(verdict, -1, "TC_ACT_UNSPEC: the next program decides");
    assert_eq!(out, labelled(packet, l3), "only the 20 bits of the label differ");
    assert_ne!(out, packet, "the label was another before");
}

#[track_caller]
fn assert_untouched(marker: &Marker, packet: &[u8]) {
    assert_eq!(run(marker, packet), (-1, packet.to_vec()));
}

#[test]
fn only_the_label_of_an_announced_flow_changes() {
    let mut marker = marker();
    let packet = frame(&[], 0x86dd, &ipv6(TCP, &[], TCP));
    assert_untouched(&marker, &packet);
    marker.set(&flow(Protocol::Tcp), label().into(), 0).expect("room");
    assert_marked(&marker, &packet, 14);
    marker.remove(&flow(Protocol::Tcp)).expect("it is there");
    assert_untouched(&marker, &packet);
}

#[test]
fn every_part_of_the_five_tuple_counts() {
    let mut marker = marker();
    marker.set(&flow(Protocol::Tcp), label().into(), 0).expect("room");
    let packet = frame(&[], 0x86dd, &ipv6(TCP, &[], TCP));
    for (what, at) in [
        ("protocol", 20),
        ("source address", 14 + 8),
        ("source address, last byte", 14 + 23),
        ("destination address", 14 + 24),
        ("destination address, last byte", 14 + 39),
        ("source port", 54),
        ("destination port", 57),
    ] {
        let mut other = packet.clone();
        other[at] ^= if at == 20 { TCP ^ UDP } else { 1 };
        let (verdict, out) = run(&marker, &other);
        assert_eq!((verdict, &out), (-1, &other), "another {what} is another flow");
    }
}

#[test]
fn udp_and_tcp_with_the_same_ports_are_two_flows() {
    let mut marker = marker();
    marker.set(&flow(Protocol::Udp), label().into(), 0).expect("room");
    assert_marked(&marker, &frame(&[], 0x86dd, &ipv6(UDP, &[], UDP)), 14);
    assert_untouched(&marker, &frame(&[], 0x86dd, &ipv6(TCP, &[], TCP)));
}

#[test]
fn vlan_tags_in_the_frame_are_stepped_over() {
    let mut marker = marker();
    marker.set(&flow(Protocol::Tcp), label().into(), 0).expect("room");
    let (c_tag, s_tag) = ([0x81, 0, 0, 7], [0x88, 0xa8, 0, 9]);
    let network = ipv6(TCP, &[], TCP);
    assert_marked(&marker, &frame(&[c_tag], 0x86dd, &network), 18);
    assert_marked(&marker, &frame(&[s_tag, c_tag], 0x86dd, &network), 22);
    assert_marked(&marker, &frame(&[c_tag, c_tag], 0x86dd, &network), 22);
    assert_untouched(&marker, &frame(&[s_tag, c_tag, c_tag], 0x86dd, &network));
}

#[test]
fn extension_headers_are_stepped_over() {
    let mut marker = marker();
    marker.set(&flow(Protocol::Tcp), label().into(), 0).expect("room");
    let options = |next| vec![next, 0, 1, 4, 0, 0, 0, 0];
    let first_fragment = |next| vec![next, 0, 0, 1, 0, 0, 0, 9];
    let auth = |next| [vec![next, 4], vec![0; 22]].concat();
    assert_marked(&marker, &frame(&[], 0x86dd, &ipv6(60, &options(TCP), TCP)), 14);
    assert_marked(&marker, &frame(&[], 0x86dd, &ipv6(0, &[options(60), options(TCP)].concat(), TCP)), 14);
    assert_marked(&marker, &frame(&[], 0x86dd, &ipv6(44, &first_fragment(TCP), TCP)), 14);
    assert_marked(&marker, &frame(&[], 0x86dd, &ipv6(51, &auth(TCP), TCP)), 14);
    let long = [vec![TCP, 3], vec![0; 30]].concat();
    assert_marked(&marker, &frame(&[], 0x86dd, &ipv6(43, &long, TCP)), 14);
    let eight: Vec<u8> = (0..7).flat_map(|_| options(60)).chain(options(TCP)).collect();
    assert_marked(&marker, &frame(&[], 0x86dd, &ipv6(60, &eight, TCP)), 14);
}

#[test]
fn what_cannot_be_told_apart_passes_as_it_came() {
    let mut marker = marker();
    marker.set(&flow(Protocol::Tcp), label().into(), 0).expect("room");
    let later_fragment = [TCP, 0, 0x05, 0xa8, 0, 0, 0, 9];
    assert_untouched(&marker, &frame(&[], 0x86dd, &ipv6(44, &later_fragment, TCP)));
    assert_untouched(&marker, &frame(&[], 0x86dd, &ipv6(ICMPV6, &[], ICMPV6)));
    assert_untouched(&marker, &frame(&[], 0x0800, &[0x45; 60]));
    assert_untouched(&marker, &frame(&[], 0x0806, &[0; 28]));
    let options = |next| vec![next, 0, 1, 4, 0, 0, 0, 0];
    let nine: Vec<u8> = (0..8).flat_map(|_| options(60)).chain(options(TCP)).collect();
    assert_untouched(&marker, &frame(&[], 0x86dd, &ipv6(60, &nine, TCP)));
}

#[test]
fn a_packet_cut_anywhere_passes_as_it_came() {
    let mut marker = marker();
    marker.set(&flow(Protocol::Tcp), label().into(), 0).expect("room");
    let options = [TCP, 0, 1, 4, 0, 0, 0, 0];
    let whole = frame(&[[0x81, 0, 0, 7]], 0x86dd, &ipv6(60, &options, TCP));
    let ports_end = 18 + 40 + 8 + 4;
    // The kernel does not run a program on less than an Ethernet header.
    for length in 14..ports_end {
        assert_untouched(&marker, &whole[..length]);
    }
    assert_marked(&marker, &whole[..ports_end], 18);
}

#[test]
fn a_full_map_is_an_error_and_leaves_the_others_alone() {
    let settings = Settings { max_flows: 2, ..Settings::default() };
    let mut marker = Marker::load(&settings).expect("needs root");
    let flow = |port: u16| {
        let local = Endpoint::new("2001:db8::1".parse().expect("literal"), port);
        Key { protocol: Protocol::Tcp, local, remote: "[2001:db8::2]:9".parse().expect("literal") }
    };
    marker.set(&flow(1), label().into(), 0).expect("room");
    marker.set(&flow(2), label().into(), 0).expect("room");
    let error = marker.set(&flow(3), label().into(), 0).expect_err("it is full");
    assert!(matches!(error, flowtag_kernel::Error::Full { max: 2 }), "{error}");
    assert_eq!(marker.mark(&flow(2)).expect("read"), Some(label().into()));
    assert_eq!(marker.mark(&flow(3)).expect("read"), None);
}

/// A program that writes to packets directly gets a prologue from the verifier that returns TC_ACT_SHOT where memory is
/// short: looked for in what the kernel really runs.
#[test]
fn no_path_through_the_program_drops_a_packet() {
    let marker = marker();
    let options = ProgInfoQueryOptions::default().include_xlated_prog_insns(true);
    let programs = ProgInfoIter::with_query_opts(options)
        .filter(|p| p.name == "flowtag_mark" || p.name == "flowtag_arrive");
    // linux/bpf.h: BPF_ALU64 or BPF_ALU with BPF_MOV | BPF_K to r0, then BPF_EXIT.
    let returns_shot = |w: &[u8]| {
        matches!(w[0], 0xb7 | 0xb4) && w[1] & 0x0f == 0 && w[4..8] == 2_u32.to_ne_bytes() && w[8] == 0x95
    };
    let mut seen = 0;
    for program in programs {
        seen += 1;
        let instructions = program.xlated_prog_insns;
        assert!(instructions.len() > 500, "the instructions were given");
        assert!(!instructions.as_chunks::<8>().0.windows(2).any(|w| returns_shot(w.as_flattened())));
    }
    assert!(seen > 1, "both programs");
    drop(marker);
}

/// What outlives its daemon ends some time.
#[test]
fn nothing_is_marked_when_nobody_renews_the_lease() {
    let settings = Settings { lease: Duration::from_secs(1), ingress: true, ..Settings::default() };
    Rig::on("lease", &settings, |rig| {
        let other = Rule::new("other", Action::Mark { tags: vec![common::tag()], strategy: Strategy::LABEL });
        let announced = common::packets::frame(&[common::packets::ipv6(), common::packets::udp(9)]);
        let mut by_rule = announced.clone();
        by_rule[14 + 40] ^= 1; // another port
        rig.announce(common::marked(Strategy::DESTINATION));
        rig.marker.set_rules(&[other]).expect("set");
        rig.marker.set_overhead(8).expect("set");
        for _ in 0..2 {
            let start = Instant::now();
            rig.marker.renew_lease().expect("renewed");
            while rig.leave(&announced).0 == Verdict::Marked {
                assert_ne!(rig.leave(&by_rule).0, Verdict::NoFlow);
                assert!(start.elapsed() < Duration::from_secs(3), "the lease does not end");
                std::thread::sleep(Duration::from_millis(5));
            }
            assert!(start.elapsed() >= Duration::from_millis(990), "it ended after {:?}", start.elapsed());
            rig.assert_untouched(&announced, Verdict::Expired);
            rig.assert_untouched(&by_rule, Verdict::Expired);
            let arrived = |rig: &Rig| rig.marker.coverage().expect("coverage").arrived.len();
            let before = arrived(rig);
            assert_eq!(rig.arrive(&announced), announced);
            assert_eq!(arrived(rig), before, "nothing is counted either");
        }
        rig.marker.renew_lease().expect("renewed");
        assert_eq!(rig.leave(&announced).0, Verdict::Marked);
        assert_eq!(rig.leave(&by_rule).0, Verdict::Marked);
    });
}

/// Another interface than those that are attached to: of a bond, the ports also run the program.
#[test]
fn what_leaves_by_an_interface_that_is_not_known_passes_as_it_came() {
    let mut marker = Marker::load(&Settings::default()).expect("needs root");
    marker.set(&flow(Protocol::Tcp), label().into(), 0).expect("room");
    assert_untouched(&marker, &frame(&[], 0x86dd, &ipv6(TCP, &[], TCP)));
}

// ---- What is kept for the next daemon.

/// A marker whose maps and links are kept in a directory of the test's own, which is removed in the end.
fn with_pins(name: &str, story: impl FnOnce(&std::path::Path, &Settings) + Send) {
    let bed = flowtag_testbed::Testbed::new(name).expect("a testbed: run the tests as root");
    let (a, b) = (bed.host("a").expect("host a"), bed.host("b").expect("host b"));
    let bare = flowtag_testbed::LinkOptions { addresses: false, ..Default::default() };
    bed.link_with(&a, "eth0", &b, "eth0", &bare).expect("a link");
    a.ip(&["link", "set", "eth0", "down"]).expect("a quiet link");
    let pin = std::path::PathBuf::from(format!("/sys/fs/bpf/flowtag-test-{}-{name}", std::process::id()));
    let settings = Settings { pin: Some(pin.clone()), ingress: true, ..Settings::default() };
    a.run(|| story(&pin, &settings)).expect("on host a");
    flowtag_kernel::mark::remove_pinned(Some(&pin), None).expect("removed");
}

/// Killed between the table and what stands before it, a daemon leaves a flow that is in one of them only.
#[test]
fn a_flow_that_was_half_removed_is_not_marked_after_the_next_start() {
    use libbpf_rs::{MapCore, MapHandle};
    with_pins("half", |pin, settings| {
        for others in [false, true] {
            let packet = common::packets::frame(&[common::packets::ipv6(), common::packets::udp(9)]);
            let mut rig = Rig::new(settings);
            rig.announce(common::marked(Strategy::LABEL));
            if !others {
                rig.marker.remove(&common::flow(Protocol::Tcp)).expect("removed");
            }
            assert_eq!(rig.leave(&packet).0, Verdict::Marked);
            rig.marker.leave();
            let flows = MapHandle::from_pinned_path(pin.join("flowtag_flows")).expect("the table is kept");
            let is_udp = |key: &Vec<u8>| key[36] == common::UDP;
            let key = flows.keys().find(is_udp).expect("the flow is in the table");
            flows.delete(&key).expect("deleted");
            let rig = Rig::new(settings);
            assert_eq!(rig.marker.adopted().len(), usize::from(others));
            rig.assert_untouched(&packet, Verdict::NoFlow);
        }
    });
}

#[test]
fn a_smaller_table_takes_what_it_holds_and_a_larger_one_all() {
    with_pins("sizes", |_, settings| {
        let key = |port: u16| Key {
            local: Endpoint::new(common::local().into(), port),
            ..common::flow(Protocol::Udp)
        };
        let mut rig = Rig::new(&Settings { max_flows: 100, ..settings.clone() });
        (1..=100)
            .for_each(|n| rig.marker.set(&key(n), common::marked(Strategy::LABEL), n.into()).expect("room"));
        rig.marker.leave();
        let rig = Rig::new(&Settings { max_flows: 5000, ..settings.clone() });
        let adopted = rig.marker.adopted().to_vec();
        assert_eq!(adopted.len(), 100);
        for flow in &adopted {
            assert_eq!(flow.start, u64::from(flow.key.local.port()), "since when is kept, too");
            assert_eq!(flow.mark, common::marked(Strategy::LABEL));
            assert_eq!(rig.marker.mark(&flow.key).expect("read"), Some(flow.mark));
        }
        rig.marker.leave();
        let rig = Rig::new(&Settings { max_flows: 30, ..settings.clone() });
        assert_eq!(rig.marker.adopted().len(), 30);
        for flow in rig.marker.adopted() {
            assert_eq!(rig.marker.mark(&flow.key).expect("read"), Some(flow.mark));
        }
    });
}

/// `mark.ingress` was on and is not any more.
#[test]
fn a_hook_that_is_not_wanted_any_more_is_let_go_of() {
    with_pins("hooks", |pin, settings| {
        let links = || {
            let entries = std::fs::read_dir(pin).expect("kept").flatten();
            let names = entries.map(|e| e.file_name().to_string_lossy().into_owned());
            names.filter(|name| name.starts_with("tcx-")).count()
        };
        let rig = Rig::new(settings);
        if links() == 0 {
            flowtag_testbed::skip!("no tcx in this kernel");
        }
        assert_eq!(links(), 2);
        rig.marker.leave();
        let rig = Rig::new(&Settings { ingress: false, ..settings.clone() });
        rig.marker.remove_leftovers().expect("removed");
        assert_eq!(links(), 1);
        rig.marker.leave();
    });
}
