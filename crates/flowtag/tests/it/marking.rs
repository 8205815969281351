//! Acceptance of marking, on real packets as the receiving host captures them.

use std::net::SocketAddr;
use std::time::Duration;

use crate::common;
use crate::common::cli;
use crate::common::hosts::{Hosts, between, hooks, one_label, seen, seen_on, tag, transfer};
use flowtag_kernel::af_packet::{ETH_P_NONE, PacketSocket};
use flowtag_testbed::require_root;
use flowtag_wire::{FlowLabel, LinkType};

const TCP: u8 = 6;
const UDP: u8 = 17;

fn marking(hook: &str) -> String {
    format!("[mark]\ninterfaces = [\"eth*\", \"flowtun*\"]\nhook = \"{hook}\"\n")
}

fn start(daemon: &common::daemon::Daemon, tag: &str, protocol: &str, src: SocketAddr, dst: SocketAddr) {
    cli::ok(daemon, &["flow", "start", "--tag", tag, protocol, &src.to_string(), &dst.to_string()]);
}

fn end(daemon: &common::daemon::Daemon, protocol: &str, src: SocketAddr, dst: SocketAddr) {
    cli::ok(daemon, &["flow", "end", protocol, &src.to_string(), &dst.to_string()]);
}

/// The label says the tag; entropy is whatever it is.
#[track_caller]
fn assert_tag(label: FlowLabel, experiment: u64, activity: u64) {
    assert_eq!(label.tag(), Some(tag(experiment, activity)), "label {label}");
}

#[test]
fn a_flow_is_marked_from_its_start_to_its_end_and_nothing_else_is() {
    require_root!();
    for hook in hooks() {
        println!("FEATURE label marking hook={hook}");
        let hosts = Hosts::new("mark");
        let daemon = hosts.daemon(&marking(hook));
        let capture = hosts.b.capture("eth0", "ip6 and (tcp or udp)").expect("capture");
        let mut flow = hosts.connect(40000, 5201);
        let mut other = hosts.connect(40001, 5202);
        let (src, dst) = (hosts.src(40000), hosts.dst(5201));

        transfer(&mut flow, &[1; 1000]);
        start(&daemon, "cms/Analysis Input", "tcp", src, dst);
        transfer(&mut flow, &[2; 200_000]);
        transfer(&mut other, &[3; 200_000]);
        end(&daemon, "tcp", src, dst);
        transfer(&mut flow, &[4; 1001]);
        start(&daemon, "3/14", "tcp", src, dst);
        transfer(&mut flow, &[5; 100_000]);
        start(&daemon, "3/15", "tcp", src, dst);
        transfer(&mut flow, &[6; 1002]);

        let all = seen(&capture.stop().expect("captured"));
        let ours = between(&all, src, dst);
        let at =
            |size| ours.iter().position(|p| p.payload == size).expect("the packet that separates the phases");
        let (before, stopped, retagged) = (at(1000), at(1001), at(1002));
        let untouched = one_label(&ours[..=before]);
        let marked = one_label(&ours[before + 1..stopped]);
        assert_tag(marked, 3, 14);
        assert_ne!(untouched.tag(), Some(tag(3, 14)), "the kernel's own label was another");
        assert_eq!(ours[stopped].label, Some(untouched), "no more marks after the END");
        assert_eq!(one_label(&ours[stopped + 1..retagged]), marked, "the same entropy after another START");
        let retagged = ours[retagged].label.expect("IPv6");
        assert_tag(retagged, 3, 15);
        assert_eq!(retagged.entropy(), marked.entropy(), "another tag, the same entropy");
        assert_ne!(one_label(&between(&all, hosts.src(40001), hosts.dst(5202))).tag(), Some(tag(3, 14)));
        assert_ne!(
            one_label(&between(&all, dst, src)).tag(),
            Some(tag(3, 14)),
            "packets towards us are not ours to mark"
        );
        daemon.stop();
    }
}

#[test]
fn the_syn_of_a_flow_announced_before_it_connects_is_marked() {
    require_root!();
    let hosts = Hosts::new("syn");
    let daemon = hosts.daemon(&marking("auto"));
    let capture = hosts.b.capture("eth0", "ip6 and tcp").expect("capture");
    start(&daemon, "atlas/default", "tcp", hosts.src(40000), hosts.dst(5201));
    let mut flow = hosts.connect(40000, 5201);
    transfer(&mut flow, &[1; 100]);
    drop(flow);
    let packets = between(&seen(&capture.stop().expect("captured")), hosts.src(40000), hosts.dst(5201));
    assert!(packets[0].syn);
    assert_tag(one_label(&packets), 2, 1);
}

#[test]
fn dscp_ecn_hop_limit_payload_and_checksums_are_untouched() {
    require_root!();
    let hosts = Hosts::new("dscp");
    for host in [&hosts.a, &hosts.b] {
        host.set_sysctl("net/ipv4/tcp_ecn", "1").expect("ECN");
        // Checksums on the wire and not left to the device, so that they can be checked.
        host.offloads("eth0", &["tx", "off", "tso", "off", "gso", "off"]).expect("ethtool");
    }
    let daemon = hosts.daemon(&marking("auto"));
    let capture = hosts.b.capture("eth0", "ip6 and tcp").expect("capture");
    let (mut flow, mut control) = (hosts.connect(40000, 5201), hosts.connect(40001, 5202));
    for connection in [&flow, &control] {
        // EF (46) in the upper six bits; the kernel keeps the two ECN bits.
        nix::sys::socket::setsockopt(&connection.0, nix::sys::socket::sockopt::Ipv6TClass, &0xb8)
            .expect("DSCP");
    }
    start(&daemon, "cms/Analysis Input", "tcp", hosts.src(40000), hosts.dst(5201));
    let data: Vec<u8> = (0..300_000_u32).map(|i| (i % 251) as u8).collect();
    transfer(&mut flow, &data);
    transfer(&mut control, &data);
    let all = seen(&capture.stop().expect("captured"));
    let look = |port, to| {
        let mut packets = between(&all, hosts.src(port), hosts.dst(to));
        // RFC 3168 §6.1.5: what is sent again is not ECN-capable.
        let mut sent = std::collections::BTreeSet::new();
        packets.retain(|p| p.payload > 0 && sent.insert(p.seq));
        assert!(packets.len() > 200, "full-size segments");
        assert!(packets.iter().all(|p| p.checksum_ok == Some(true)), "every checksum is right");
        packets.iter().map(|p| (p.dscp, p.ecn, p.hop_limit)).collect::<std::collections::BTreeSet<_>>()
    };
    let (marked, unmarked) = (look(40000, 5201), look(40001, 5202));
    assert_eq!(marked, unmarked, "marked and unmarked flows look the same but for the label");
    assert_eq!(marked, [(46, 2, 64)].into(), "EF, ECT(0)");
    let mut of_flow = between(&all, hosts.src(40000), hosts.dst(5201));
    of_flow.retain(|p| p.payload > 0);
    assert_tag(one_label(&of_flow), 3, 14);
}

#[test]
fn sends_of_64_kilobytes_are_marked_whole() {
    require_root!();
    let hosts = Hosts::new("gso");
    let daemon = hosts.daemon(&marking("auto"));
    let mut flow = hosts.connect(40000, 5201);
    start(&daemon, "cms/Analysis Input", "tcp", hosts.src(40000), hosts.dst(5201));
    let capture = hosts.b.capture("eth0", "ip6 and tcp").expect("capture");
    transfer(&mut flow, &vec![7; 1 << 20]);
    let packets = between(&seen(&capture.stop().expect("captured")), hosts.src(40000), hosts.dst(5201));
    assert!(packets.iter().any(|p| p.payload > 30_000), "the veth passes unsegmented GSO packets on");
    assert_tag(one_label(&packets), 3, 14);
}

/// Ethernet header between the hosts, then `tags`, then `network`.
fn frame(hosts: &Hosts, tags: &[[u8; 4]], ethertype: u16, network: &[u8]) -> Vec<u8> {
    let mut out = [hosts.link.b.mac, hosts.link.a.mac].concat();
    tags.iter().for_each(|t| out.extend(t));
    out.extend(ethertype.to_be_bytes());
    out.extend(network);
    out
}

/// An IPv6 packet with DSCP 46, ECN 1, a label of its own and hop limit 61, that says `story`.
fn ipv6(src: SocketAddr, dst: SocketAddr, next: u8, extension: &[u8], story: &str) -> Vec<u8> {
    let (SocketAddr::V6(src), SocketAddr::V6(dst)) = (src, dst) else { panic!("IPv6") };
    let transport = [
        &src.port().to_be_bytes()[..],
        &dst.port().to_be_bytes(),
        &u16::try_from(story.len() + 8).expect("short").to_be_bytes(),
        &[0x12, 0x34],
        story.as_bytes(),
    ]
    .concat();
    let length = u16::try_from(extension.len() + transport.len()).expect("short");
    let mut out = vec![0x6b, 0x9a, 0xbc, 0xde];
    out.extend(length.to_be_bytes());
    out.extend([next, 61]);
    out.extend(src.ip().octets());
    out.extend(dst.ip().octets());
    out.extend(extension);
    out.extend(transport);
    out
}

/// Name, frame, and where its IPv6 header begins if it is to be marked.
type Case = (&'static str, Vec<u8>, Option<usize>);

fn cases(hosts: &Hosts) -> Vec<Case> {
    let (src, dst) = (hosts.src(40000), hosts.dst(5201));
    let (c_tag, s_tag) = ([0x81, 0, 0, 7], [0x88, 0xa8, 0, 9]);
    let options = [UDP, 0, 1, 4, 0, 0, 0, 0];
    let stranger: SocketAddr = "[fd00:bad::1]:40000".parse().expect("literal");
    let udp = |story| ipv6(src, dst, UDP, &[], story);
    let mut ipv4 = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, UDP, 0, 0, 10, 241, 1, 1, 10, 241, 1, 2];
    ipv4.extend([0x9c, 0x40, 0x14, 0x51, 0, 8, 0, 0]);
    vec![
        ("UDP", frame(hosts, &[], 0x86dd, &udp("plain")), Some(14)),
        ("802.1Q tag in the frame", frame(hosts, &[c_tag], 0x86dd, &udp("vlan")), Some(18)),
        ("802.1ad over 802.1Q", frame(hosts, &[s_tag, c_tag], 0x86dd, &udp("qinq")), Some(22)),
        ("destination options", frame(hosts, &[], 0x86dd, &ipv6(src, dst, 60, &options, "dstopt")), Some(14)),
        ("hop-by-hop options", frame(hosts, &[], 0x86dd, &ipv6(src, dst, 0, &options, "hopopt")), Some(14)),
        ("the other way round", frame(hosts, &[], 0x86dd, &ipv6(dst, src, UDP, &[], "reverse")), None),
        (
            "another source address",
            frame(hosts, &[], 0x86dd, &ipv6(stranger, dst, UDP, &[], "stranger")),
            None,
        ),
        (
            "another protocol",
            frame(hosts, &[], 0x86dd, &ipv6(src, dst, TCP, &[], "tcp, not announced")),
            None,
        ),
        ("another port", frame(hosts, &[], 0x86dd, &ipv6(hosts.src(40001), dst, UDP, &[], "port")), None),
        ("IPv4", frame(hosts, &[], 0x0800, &ipv4), None),
        (
            "neither IPv4 nor IPv6",
            frame(hosts, &[], 0x88b5, b"local experimental EtherType, 60 bytes or more ........"),
            None,
        ),
    ]
}

#[test]
fn frames_differ_from_what_was_sent_in_the_label_and_nothing_else() {
    require_root!();
    for hook in hooks() {
        let hosts = Hosts::new("frames");
        let daemon = hosts.daemon(&marking(hook));
        start(&daemon, "cms/Analysis Input", "udp", hosts.src(40000), hosts.dst(5201));
        let list = cli::json(&daemon, &["flow", "list"]);
        let label =
            u32::from_str_radix(list["label"].as_str().expect("a label").trim_start_matches("0x"), 16);
        let [_, high, middle, low] = label.expect("hexadecimal").to_be_bytes();
        let cases = cases(&hosts);
        let capture = hosts.b.capture("eth0", "not icmp6 and not arp").expect("capture");
        hosts
            .a
            .run(|| {
                let socket = PacketSocket::open("eth0", ETH_P_NONE).expect("a packet socket");
                cases.iter().for_each(|(what, frame, _)| {
                    socket.send(frame).unwrap_or_else(|e| panic!("{what}: {e}"))
                });
            })
            .expect("host a");
        capture.wait_for(cases.len(), Duration::from_secs(20)).expect("all frames arrive");
        let frames = capture.stop().expect("captured").frames().expect("frames");
        for (what, sent, l3) in &cases {
            let mut expected = sent.clone();
            if let Some(l3) = l3 {
                expected[l3 + 1] = expected[l3 + 1] & 0xf0 | high;
                expected[l3 + 2] = middle;
                expected[l3 + 3] = low;
            }
            assert!(
                frames.iter().any(|f| f.data == expected),
                "{hook}: {what}: not received as expected: {frames:02x?}"
            );
        }
        daemon.stop();
    }
}

#[test]
fn a_device_without_link_header_is_marked_on() {
    require_root!();
    let hosts = Hosts::new("tun");
    let tun = hosts.bed.tun_link(&hosts.a, &hosts.b, "flowtun0").expect("a tun device");
    let daemon = hosts.daemon(&marking("auto"));
    let (src, dst): (SocketAddr, SocketAddr) = ((tun.ipv6[0], 40000).into(), (tun.ipv6[1], 5201).into());
    start(&daemon, "cms/Analysis Input", "udp", src, dst);
    let capture = hosts.b.capture("flowtun0", "udp").expect("capture");
    let receiver = hosts.b.run(|| std::net::UdpSocket::bind(dst)).expect("host b").expect("bind");
    receiver.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    let sender = hosts.a.run(|| std::net::UdpSocket::bind(src)).expect("host a").expect("bind");
    sender.send_to(b"without link header", dst).expect("sent");
    let mut buffer = [0; 100];
    let length = receiver.recv(&mut buffer).expect("received");
    assert_eq!(&buffer[..length], b"without link header");
    capture.wait_for(1, Duration::from_secs(20)).expect("captured");
    let packets = between(&seen_on(&capture.stop().expect("captured"), LinkType::Ip), src, dst);
    assert_tag(one_label(&packets), 3, 14);
    assert_eq!(packets[0].checksum_ok, Some(true));
}

#[test]
fn packets_are_counted_by_what_became_of_them() {
    require_root!();
    let hosts = Hosts::new("counts");
    let daemon = hosts.daemon(&marking("auto"));
    start(&daemon, "cms/Analysis Input", "udp", hosts.src(40000), hosts.dst(5201));
    let before = counts(&daemon);
    let (marked, other) = (hosts.udp(40000), hosts.udp(40001));
    for _ in 0..10 {
        marked.send_to(&[0; 1000], hosts.dst(5201)).expect("sent");
    }
    for _ in 0..7 {
        other.send_to(&[0; 500], hosts.dst(5201)).expect("sent");
    }
    let ipv4 = hosts.a.run(|| std::net::UdpSocket::bind("0.0.0.0:0")).expect("host a").expect("bind");
    for _ in 0..5 {
        ipv4.send_to(&[0; 100], (hosts.link.b.ipv4, 5201)).expect("sent");
    }
    let after = counts(&daemon);
    let grown = |verdict: &str| {
        let of = |c: &serde_json::Value, what| c[verdict][what].as_u64().expect("a number");
        (of(&after, "packets") - of(&before, "packets"), of(&after, "bytes") - of(&before, "bytes"))
    };
    // Ethernet 14, IPv6 40, IPv4 20, UDP 8.
    assert_eq!(grown("marked"), (10, 10 * (14 + 40 + 8 + 1000)));
    assert_eq!(grown("no_flow"), (7, 7 * (14 + 40 + 8 + 500)));
    assert_eq!(grown("ipv4"), (5, 5 * (14 + 20 + 8 + 100)));
    assert_eq!(grown("write_failed"), (0, 0));
}

fn counts(daemon: &common::daemon::Daemon) -> serde_json::Value {
    let status = cli::json(daemon, &["status"]);
    let interfaces = status["interfaces"].as_array().expect("interfaces");
    interfaces.iter().find(|i| i["name"] == "eth0").expect("eth0")["counts"].clone()
}

#[test]
fn a_flow_named_from_its_far_end_is_marked_in_the_packets_that_leave() {
    require_root!();
    let hosts = Hosts::new("dcache");
    let daemon = hosts.daemon(&marking("auto"));
    let capture = hosts.b.capture("eth0", "udp").expect("capture");
    // dCache names the remote end as the source.
    start(&daemon, "cms/Analysis Input", "udp", hosts.dst(5201), hosts.src(40000));
    hosts.udp(40000).send_to(b"out", hosts.dst(5201)).expect("sent");
    capture.wait_for(1, Duration::from_secs(20)).expect("captured");
    let packets = between(&seen(&capture.stop().expect("captured")), hosts.src(40000), hosts.dst(5201));
    assert_tag(one_label(&packets), 3, 14);
}
