//! Marking on every kind of device, alone and together with the device that it stands on: a tag goes into a packet once.

use std::net::{Ipv6Addr, SocketAddr};

use crate::common::daemon::Daemon;
use crate::common::hosts::{
    Hosts, OnWire, Path, counter, hooks, of_flow, on, on_wire, tag, transfer, without_tail_probes,
};
use flowtag_kernel::af_packet::{ETH_P_NONE, PacketSocket};
use flowtag_testbed::{Capture, LinkOptions, Testbed, Tunnel, made_or_skip, require_root};
use flowtag_wire::{FlowLabel, LinkType, Packet, Strategy};

const MTU: usize = 1500;

fn everywhere() -> Strategy {
    Strategy::LABEL | Strategy::HOP_BY_HOP | Strategy::DESTINATION
}

/// Marks what goes to `remote` on these interfaces, in every place there is.
fn config(interfaces: &[&str], remote: &str, encapsulated: &str) -> String {
    format!(
        r#"
        [mark]
        interfaces = {interfaces:?}
        exclude_private = false
        pin = ""
        encapsulated = "{encapsulated}"
        [outputs.firefly]
        enabled = false
        [[rules]]
        remote = "{remote}"
        tag = "3/14"
        strategy = "{}"
        "#,
        everywhere()
    )
}

/// Two hosts whose link leaves nothing to the devices: a captured frame is a packet of the wire.
fn hosts(name: &str) -> Hosts {
    let bed = Testbed::new(name).expect("a testbed");
    let (a, b) = (bed.host("a").expect("host a"), bed.host("b").expect("host b"));
    let options = LinkOptions { offloads: false, ..LinkOptions::default() };
    let link = bed.link_with(&a, "eth0", &b, "eth0", &options).expect("a link");
    [&a, &b].into_iter().for_each(without_tail_probes);
    Hosts { a, b, link, bed }
}

/// A datagram and a transfer, which must arrive as they were sent, at once.
#[track_caller]
fn talk(path: &Path, port: u16) {
    let (sender, receiver) = path.udp(port, 5202);
    sender.send(b"a datagram").expect("sent");
    let mut buffer = [0; 100];
    let length = receiver.recv(&mut buffer).expect("received");
    assert_eq!(&buffer[..length], b"a datagram");
    // On a busy machine an answer may be so late that a segment is taken for lost; not so three times over.
    let mut transfers = (0..3).map(|n| sent_again(path, port + 1000 * n));
    assert!(transfers.any(|segments| segments == 0), "segments are sent again each time");
}

/// Transfers something from this port, which must arrive as it was sent, and gives how many segments it took too many.
fn sent_again(path: &Path, port: u16) -> u64 {
    let before = counter(&path.from, "TcpRetransSegs");
    let data: Vec<u8> = (0..150_000_u32).map(|i| (i % 251) as u8).collect();
    transfer(&mut path.connect(port, 5201), &data);
    counter(&path.from, "TcpRetransSegs") - before
}

/// Both flows of [`talk`] in a finished capture, each packet with what is wrong with it.
#[track_caller]
fn judge(what: &str, capture: Capture, link: LinkType, path: &Path, port: u16) {
    let frames = capture.stop().expect("captured").frames().expect("frames");
    let all = on_wire(&frames, link);
    for to in [5201, 5202] {
        let packets = of_flow(&all, path.src(port), path.dst(to));
        assert!(!packets.is_empty(), "{what}: nothing arrived at port {to}");
        packets.iter().for_each(|packet| assert_marked(what, packet));
        for packet in packets.iter().filter(|_| to == 5201) {
            let tags = packet.vlans.iter().flatten().count();
            let limit = MTU + 4 * tags + if link == LinkType::Ip { 0 } else { 14 };
            assert!(packet.frame.len() <= limit, "{what}: {}", packet.story());
        }
    }
}

#[track_caller]
fn assert_marked(what: &str, packet: &OnWire<'_>) {
    assert_eq!(packet.fault(tag(3, 14), everywhere()), None, "{what}: {}", packet.story());
    assert_ne!(packet.checksum_ok(), Some(false), "{what}: {}", packet.story());
}

/// A device and the one that it stands on, marked on one after the other and then on both.
fn each_and_both(hosts: &Hosts, path: &Path, upper: &str) {
    for (port, interfaces) in (40000..).zip([&[upper][..], &["eth0"], &[upper, "eth0"]]) {
        let daemon = hosts.daemon(&config(interfaces, "fd00:f2::/64", "outer"));
        let capture = hosts.b.capture("eth0", "").expect("capture");
        talk(path, port);
        judge(&format!("marking on {interfaces:?}"), capture, LinkType::Ethernet, path, port);
        daemon.stop();
    }
    let kind = if upper.contains('.') { "VLAN" } else { upper.trim_end_matches('0') };
    println!("FEATURE marking on {kind} hook={}", hooks()[0]);
}

/// Addresses that only the upper devices have.
const UPPER: [&str; 2] = ["fd00:f2::1/64", "fd00:f2::2/64"];

fn upper_path(hosts: &Hosts) -> Path {
    let [src, dst] = [1, 2].map(|n| Ipv6Addr::new(0xfd00, 0xf2, 0, 0, 0, 0, 0, n));
    Path::new(&hosts.a, src, &hosts.b, dst)
}

#[test]
fn a_bond_and_its_port() {
    require_root!();
    let hosts = hosts("dev-bond");
    made_or_skip!(hosts.a.add_bond("bond0", &["eth0"], &[UPPER[0]]));
    hosts.b.add_address("eth0", UPPER[1]).expect("an address");
    each_and_both(&hosts, &upper_path(&hosts), "bond0");
}

#[test]
fn a_bridge_and_its_port() {
    require_root!();
    let hosts = hosts("dev-bridge");
    made_or_skip!(hosts.a.add_bridge("bridge0", &["eth0"], &[UPPER[0]]));
    hosts.b.add_address("eth0", UPPER[1]).expect("an address");
    each_and_both(&hosts, &upper_path(&hosts), "bridge0");
}

#[test]
fn a_bridge_port_that_only_passes_on() {
    require_root!();
    let bed = Testbed::new("dev-switch").expect("a testbed");
    let [a, switch, b] = ["a", "switch", "b"].map(|name| bed.host(name).expect("a host"));
    let bare = LinkOptions { addresses: false, offloads: false, ..LinkOptions::default() };
    bed.link_with(&a, "eth0", &switch, "eth0", &bare).expect("a link");
    let link = bed.link_with(&switch, "eth1", &b, "eth0", &bare).expect("a link");
    [&a, &b].into_iter().for_each(without_tail_probes);
    made_or_skip!(switch.add_bridge("bridge0", &["eth0", "eth1"], &[]));
    a.add_address("eth0", UPPER[0]).expect("an address");
    b.add_address("eth0", UPPER[1]).expect("an address");
    let hosts = Hosts { a, b, link, bed };
    let path = upper_path(&hosts);
    let daemon = Daemon::start_with(&config(&["eth1"], "fd00:f2::/64", "outer"), on(&switch));
    let capture = hosts.b.capture("eth0", "").expect("capture");
    talk(&path, 40000);
    judge("a switch", capture, LinkType::Ethernet, &path, 40000);
    daemon.stop();
}

#[test]
fn a_vlan_and_the_device_below() {
    require_root!();
    let hosts = hosts("dev-vlan");
    let vlan = made_or_skip!(hosts.a.add_vlan("eth0", 100, &[UPPER[0]]));
    hosts.b.add_vlan("eth0", 100, &[UPPER[1]]).expect("a VLAN");
    each_and_both(&hosts, &upper_path(&hosts), &vlan);
}

#[test]
fn a_macvlan_and_the_device_below() {
    require_root!();
    let hosts = hosts("dev-macvlan");
    made_or_skip!(hosts.a.add_macvlan("eth0", "macvlan0", &[UPPER[0]]));
    hosts.b.add_address("eth0", UPPER[1]).expect("an address");
    each_and_both(&hosts, &upper_path(&hosts), "macvlan0");
}

#[test]
fn an_ipvlan_and_the_device_below() {
    require_root!();
    let hosts = hosts("dev-ipvlan");
    made_or_skip!(hosts.a.add_ipvlan("eth0", "ipvlan0", &[UPPER[0]]));
    hosts.b.add_address("eth0", UPPER[1]).expect("an address");
    each_and_both(&hosts, &upper_path(&hosts), "ipvlan0");
}

#[test]
fn a_tun_device() {
    require_root!();
    let hosts = hosts("dev-tun");
    let link = hosts.bed.tun_link(&hosts.a, &hosts.b, "flowtun0").expect("a tun device");
    let path = Path::over_tun(&hosts.a, &hosts.b, &link);
    let _daemon = hosts.daemon(&config(&["flowtun0"], "fd00:f1::/32", "outer"));
    let capture = hosts.b.capture("flowtun0", "").expect("capture");
    talk(&path, 40000);
    judge("tun", capture, LinkType::Ip, &path, 40000);
    println!("FEATURE marking on tun hook={}", hooks()[0]);
}

// ---- IPv6 in IPv6.

/// Which header of an encapsulated packet is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Written {
    Outer,
    Inner,
    Both,
}

/// What is wrong with a packet of the tunnel: it has its tag where it should be, and nowhere else.
fn fault_in_tunnel(outer: &OnWire<'_>, inner: &OnWire<'_>, written: Written) -> Option<String> {
    let is_bare = |packet: &OnWire<'_>| {
        let tagged = packet.flow_label.and_then(FlowLabel::tag) == Some(tag(3, 14));
        (tagged || !packet.option_tags.is_empty()).then(|| "a tag where none should be".to_owned())
    };
    let look = |packet: &OnWire<'_>, is_written| {
        if is_written { packet.fault(tag(3, 14), everywhere()) } else { is_bare(packet) }
    };
    look(outer, written != Written::Inner).or_else(|| look(inner, written != Written::Outer))
}

/// The tunnel leaves segments no room until the path MTU is known to be lower: until then data may pass unmarked. A
/// second connection finds it known, and all of its packets are marked.
#[track_caller]
fn judge_tunnel(what: &str, capture: Capture, path: &Path, [first, second]: [u16; 2], written: Written) {
    let frames = capture.stop().expect("captured").frames().expect("frames");
    let all = on_wire(&frames, LinkType::Ethernet);
    for (port, is_known) in [(first, false), (second, true)] {
        let (mut seen, mut faults) = (0, Vec::new());
        for outer in &all {
            // The rest is on its way back, or about neighbours.
            let Some(inner) = inner_of(outer, path, port) else { continue };
            seen += 1;
            assert!(outer.frame.len() <= MTU + 14, "{what}: {}", outer.story());
            assert_ne!(inner.checksum_ok(), Some(false), "{what}: {}", inner.story());
            // A packet that is to be cut into segments is judged as a whole, with its short last one.
            let is_bare = outer.option_tags.is_empty() && inner.option_tags.is_empty();
            if is_known || !is_bare || inner.sent() == 0 {
                let fault = fault_in_tunnel(outer, &inner, written);
                faults.extend(fault.map(|fault| format!("{fault}: {}", outer.story())));
            }
        }
        let first_fault = faults.first();
        assert_eq!(first_fault, None, "{what}: {} of {seen} packets, known {is_known}", faults.len());
        assert!(seen > 100, "{what}: {seen} packets came through the tunnel");
    }
}

fn inner_of<'a>(outer: &OnWire<'a>, path: &Path, port: u16) -> Option<OnWire<'a>> {
    let inner = (outer.protocol == 41).then(|| Packet::parse(LinkType::Ip, outer.payload).ok())??;
    let is_ours = inner.src == path.src && inner.ports.is_some_and(|p| p.src == port);
    is_ours.then_some(OnWire { frame: outer.payload, packet: inner })
}

/// What the tunnels carry.
const INSIDE: [&str; 2] = ["fd00:f5:a::1", "fd00:f5:b::1"];

fn inside(hosts: &Hosts) -> Path {
    let [src, dst] = INSIDE.map(|address| address.parse().expect("an address"));
    Path::new(&hosts.a, src, &hosts.b, dst)
}

#[track_caller]
fn through_the_tunnel(hosts: &Hosts, interfaces: &[&str], encapsulated: &str, port: u16, written: Written) {
    let daemon = hosts.daemon(&config(interfaces, "fd00:f5::/32", encapsulated));
    let capture = hosts.b.capture("eth0", "ip6").expect("capture");
    let ports = [port, port + 100];
    for port in ports {
        talk(&inside(hosts), port);
        // What the first learns of the path takes a moment to be known.
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    let what = format!("{encapsulated} on {interfaces:?}");
    judge_tunnel(&what, capture, &inside(hosts), ports, written);
    // What was learned of the path is not known to the next.
    hosts.a.ip(&["-6", "route", "flush", "cache"]).expect("the cache");
    daemon.stop();
}

#[test]
fn an_ipv6_tunnel_is_marked_outside_or_inside() {
    require_root!();
    let hosts = hosts("dev-ip6tnl");
    let (near, far) = (hosts.link.a.ipv6, hosts.link.b.ipv6);
    let there = Tunnel { local: near, remote: far };
    made_or_skip!(hosts.a.add_ip6tnl("tnl0", there, &[&format!("{}/32", INSIDE[0])]));
    let back = Tunnel { local: far, remote: near };
    hosts.b.add_ip6tnl("tnl0", back, &[&format!("{}/32", INSIDE[1])]).expect("a tunnel");
    for (port, (interfaces, encapsulated, written)) in (40000..).zip([
        (&["eth0"][..], "outer", Written::Outer),
        (&["eth0"], "inner", Written::Inner),
        (&["tnl0"], "outer", Written::Inner),
        (&["tnl0", "eth0"], "inner", Written::Inner),
        (&["tnl0", "eth0"], "outer", Written::Both),
    ]) {
        through_the_tunnel(&hosts, interfaces, encapsulated, port, written);
    }
    println!("FEATURE marking of ip6tnl hook={}", hooks()[0]);
}

#[test]
fn a_segment_routing_header_is_marked_outside_or_inside() {
    require_root!();
    let hosts = hosts("dev-srv6");
    hosts.a.add_address("lo", &format!("{}/128", INSIDE[0])).expect("an address");
    hosts.b.add_address("lo", &format!("{}/128", INSIDE[1])).expect("an address");
    let near = hosts.link.a.ipv6.to_string();
    hosts.b.add_route(&format!("{}/128", INSIDE[0]), &["via", &near]).expect("the way back");
    made_or_skip!(hosts.b.accept_srv6("eth0"));
    made_or_skip!(hosts.a.add_srv6_route(&format!("{}/128", INSIDE[1]), &[hosts.link.b.ipv6], "eth0"));
    for (port, (encapsulated, written)) in
        (40000..).zip([("outer", Written::Outer), ("inner", Written::Inner)])
    {
        through_the_tunnel(&hosts, &["eth0"], encapsulated, port, written);
    }
    println!("FEATURE marking of SRv6 hook={}", hooks()[0]);
}

/// IPv6 header from one address to another with this behind it.
fn ipv6(src: Ipv6Addr, dst: Ipv6Addr, next: u8, behind: &[u8]) -> Vec<u8> {
    let length = u16::try_from(behind.len()).expect("short").to_be_bytes();
    [&[0x60, 0, 0, 0][..], &length, &[next, 64], &src.octets(), &dst.octets(), behind].concat()
}

#[test]
fn an_encapsulated_packet_differs_in_the_header_that_is_written() {
    require_root!();
    let hosts = hosts("dev-encapsulated");
    let path = inside(&hosts);
    let story = [&[0x9c, 0x40, 0x14, 0x51, 0, 20, 0, 0][..], b"tunnel story"].concat();
    let inner = ipv6(path.src, path.dst, 17, &story);
    let outer = ipv6(hosts.link.a.ipv6, hosts.link.b.ipv6, 41, &inner);
    let frame = [&hosts.link.b.mac[..], &hosts.link.a.mac, &[0x86, 0xdd], &outer].concat();
    for (encapsulated, is_outer) in [("outer", true), ("inner", false)] {
        let daemon = hosts.daemon(&config(&["eth0"], "fd00:f5::/32", encapsulated));
        // What has a hop-by-hop header and ICMPv6 behind it is a report of multicast listeners.
        let filter = "ip6 proto 41 or (ip6[6] = 0 and ip6[40] != 58)";
        let capture = hosts.b.capture("eth0", filter).expect("capture");
        let socket = hosts.a.run(|| PacketSocket::open("eth0", ETH_P_NONE)).expect("host a");
        socket.expect("a packet socket").send(&frame).expect("sent");
        capture.wait_for(1, flowtag_testbed::WAIT).expect("captured");
        let frames = capture.stop().expect("captured").frames().expect("frames");
        let received = &frames[0].data;
        let around = Packet::parse(LinkType::Ethernet, received).expect("a packet");
        assert_eq!(received.len(), frame.len() + 16, "{encapsulated}: two options headers are in it");
        assert_eq!((around.protocol, around.stopped.as_ref()), (41, None), "{encapsulated}: {received:02x?}");
        let within = Packet::parse(LinkType::Ip, around.payload).expect("a packet in the packet");
        let src: SocketAddr = path.src(40000);
        assert_eq!((within.src, within.ports.map(|p| p.src)), (src.ip(), Some(src.port())));
        assert_eq!(within.payload, b"tunnel story");
        let (written, other) = if is_outer { (around, within) } else { (within, around) };
        let written = OnWire { frame: received, packet: written };
        assert_eq!(written.fault(tag(3, 14), everywhere()), None, "{encapsulated}: {received:02x?}");
        assert_eq!(
            (other.option_tags.len(), other.flow_label.map(FlowLabel::value)),
            (0, Some(0)),
            "{encapsulated}"
        );
        daemon.stop();
    }
}
