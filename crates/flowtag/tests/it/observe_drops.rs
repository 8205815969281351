//! `flowtag drops` on packets that the kernel drops for a cause that the test made, and that the kernel counts, too.

use std::fs;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};

use crate::common;
use crate::common::hosts::{Hosts, counter};
use crate::common::observe::{Observing, golden, keys};
use etherparse::PacketBuilder;
use flowtag_kernel::af_packet::{ETH_P_IPV6, ETH_P_NONE, PacketSocket};
use flowtag_kernel::btf::Vmlinux;
use flowtag_testbed::{Host, LinkOptions, Side, Testbed, WAIT, checked, require_root};
use serde_json::Value;

/// Packets of a cause.
const PACKETS: u64 = 100;

/// Where IPv6 hands datagrams to sockets: what the compiler left of several functions.
const UDP: [&str; 3] = ["__udp6_lib_rcv", "udp6_unicast_rcv_skb", "udpv6_rcv"];
/// What empties the list of packets that a queue refused.
const QUEUE: [&str; 4] =
    ["__dev_xmit_skb", "__dev_queue_xmit", "kfree_skb_list_reason", "__tcf_kfree_skb_list"];

/// A cause's reason where this kernel has it, else that it says nothing; and the functions where it may be.
struct Expected {
    reason: Option<String>,
    functions: &'static [&'static str],
}

/// The first of these reasons that this kernel has.
fn expected(reasons: &[&str], functions: &'static [&'static str]) -> Expected {
    let kernel = Vmlinux::get().expect("BTF");
    let known = kernel.names("skb_drop_reason", "SKB_DROP_REASON_");
    let find = |name: &&&str| known.values().any(|known| known == **name);
    let has_reasons = kernel.argument_of_enum("kfree_skb", "skb_drop_reason").is_some();
    let reason = reasons.iter().find(find).map_or("NOT_SPECIFIED", |name| name);
    Expected { reason: has_reasons.then(|| reason.to_owned()), functions }
}

impl Expected {
    /// Packets of all rows that are as expected.
    #[track_caller]
    fn packets(&self, rows: &[Value]) -> u64 {
        let is_named = |row: &&Value| row["reason"].as_str() == self.reason.as_deref();
        let is_there = |row: &&Value| {
            let function = row["function"].as_str().unwrap_or_default();
            self.functions
                .iter()
                .any(|f| function == *f || function.strip_prefix(f).is_some_and(|r| r.starts_with('.')))
        };
        rows.iter().filter(is_named).filter(is_there).map(packets).sum()
    }

    /// Exactly so many packets, all in rows as expected.
    #[track_caller]
    fn assert(&self, rows: &[Value], count: u64) {
        assert!(count > 0, "the cause was none: {rows:#?}");
        assert_eq!(
            self.packets(rows),
            count,
            "{:?} in one of {:?}, but {rows:#?}",
            self.reason,
            self.functions
        );
    }
}

fn packets(row: &Value) -> u64 {
    row["packets"].as_u64().expect("packets")
}

/// What a host dropped while something was done to it.
#[track_caller]
fn drops_of<T>(host: &Host, args: &[&str], cause: impl FnOnce() -> T) -> (Vec<Value>, Value, T) {
    let watching = Observing::start(host, &[&["--json", "drops", "-i", "600"], args].concat());
    let done = cause();
    let (rows, summary) = watching.stop_json();
    (rows, summary, done)
}

/// As the table of `netstat -s` calls it: `TcpExtListenOverflows`.
fn netstat(host: &Host, name: &str) -> u64 {
    let text = host
        .run(|| fs::read_to_string("/proc/thread-self/net/netstat"))
        .expect("the host")
        .expect("counters");
    let lines: Vec<_> = text.lines().collect();
    let find = |pair: &[&str]| {
        let (group, names) = pair[0].split_once(": ")?;
        let at = names.split(' ').position(|n| format!("{group}{n}") == name)?;
        pair[1].split(' ').nth(at + 1)?.parse().ok()
    };
    lines.chunks(2).find_map(find).unwrap_or_else(|| panic!("no counter {name}"))
}

fn send(host: &Host, to: SocketAddr, count: u64, payload: &[u8]) {
    let any: SocketAddr = if to.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" }.parse().expect("an address");
    let socket = host.run(|| UdpSocket::bind(any)).expect("the host").expect("bind");
    for _ in 0..count {
        // What the queue of an interface refuses is told here; an error that came back is told with the next packet.
        let _ = socket.send_to(payload, to);
    }
}

/// Sends frames from one end of a link as no socket would.
fn send_frames(from: &Side, frames: impl IntoIterator<Item = Vec<u8>>) {
    let socket =
        from.host.run(|| PacketSocket::open(&from.device, ETH_P_NONE)).expect("the host").expect("a socket");
    for frame in frames {
        socket.send(&frame).expect("sent");
    }
}

fn udp_frame(from: &Side, to: &Side, src: Ipv6Addr, ports: (u16, u16)) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(from.mac, to.mac)
        .ipv6(src.octets(), to.ipv6.octets(), 64)
        .udp(ports.0, ports.1);
    let mut frame = Vec::new();
    builder.write(&mut frame, &[7; 40]).expect("a frame");
    frame
}

fn nft(host: &Host, rules: &str) {
    checked(host.command("nft").arg(rules)).expect("nft");
}

#[test]
fn a_closed_port_drops_for_want_of_a_socket() {
    require_root!();
    let hosts = Hosts::new("nosocket");
    let table = Observing::start(&hosts.b, &["drops", "-i", "600", "--port", "7000"]);
    let (rows, summary, ()) = drops_of(&hosts.b, &[], || send(&hosts.a, hosts.dst(7000), PACKETS, &[0; 100]));
    expected(&["NO_SOCKET"], &UDP).assert(&rows, PACKETS);
    let row = rows.iter().find(|row| packets(row) == PACKETS).expect("the row");
    assert_eq!((&row["interface"], &row["protocol"]), (&"eth0".into(), &"udp".into()));
    assert!(row["bytes"].as_u64().is_some_and(|bytes| bytes >= PACKETS * 100), "{row}");
    assert_eq!((&summary["lost"], &summary["evicted"]), (&0.into(), &0.into()), "{summary}");
    golden("drops.keys", &keys(row), &[]);
    let text = table.stop();
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    golden(
        "drops.txt",
        &text,
        &[(r"\S+\+0x[0-9a-f]+ +", "FUNCTION+0x0  "), (r"LOCATION +", "LOCATION      ")],
    );
}

#[test]
fn what_the_firewall_drops_is_counted_as_the_firewall_does() {
    require_root!();
    let hosts = Hosts::new("nft");
    nft(&hosts.b, "add table inet t; add chain inet t in { type filter hook input priority 0; }");
    nft(&hosts.b, "add rule inet t in udp dport 7001 counter drop");
    let (rows, ..) = drops_of(&hosts.b, &[], || send(&hosts.a, hosts.dst(7001), PACKETS, &[0; 100]));
    expected(&["NETFILTER_DROP"], &["nf_hook_slow", "nft_do_chain"]).assert(&rows, PACKETS);
}

#[test]
fn a_full_receive_buffer_drops_as_many_as_the_kernel_counts() {
    require_root!();
    let hosts = Hosts::new("rcvbuf");
    let receiver = hosts.b.run(|| UdpSocket::bind(hosts.dst(7002))).expect("host b").expect("bind");
    nix::sys::socket::setsockopt(&receiver, nix::sys::socket::sockopt::RcvBuf, &4096)
        .expect("a small buffer");
    let before = counter(&hosts.b, "Udp6RcvbufErrors");
    let (rows, ..) = drops_of(&hosts.b, &[], || send(&hosts.a, hosts.dst(7002), PACKETS, &[0; 1000]));
    let errors = counter(&hosts.b, "Udp6RcvbufErrors") - before;
    expected(&["SOCKET_RCVBUFF"], &["udpv6_queue_rcv_one_skb", "__udp_enqueue_schedule_skb"])
        .assert(&rows, errors);
}

#[test]
fn a_wrong_checksum_is_counted_as_the_kernel_does() {
    require_root!();
    let hosts = Hosts::new("csum");
    let (a, b) = (&hosts.link.a, &hosts.link.b);
    let wrong = || {
        let mut frame = udp_frame(a, b, a.ipv6, (40000, 7003));
        *frame.last_mut().expect("bytes") ^= 1;
        frame
    };
    let before = counter(&hosts.b, "Udp6InCsumErrors");
    let (rows, ..) = drops_of(&hosts.b, &[], || send_frames(a, (0..PACKETS).map(|_| wrong())));
    assert_eq!(counter(&hosts.b, "Udp6InCsumErrors") - before, PACKETS);
    expected(&["UDP_CSUM"], &UDP).assert(&rows, PACKETS);
}

#[test]
fn a_wrong_header_checksum_is_no_udp_checksum() {
    require_root!();
    let hosts = Hosts::new("ipcsum");
    let (a, b) = (&hosts.link.a, &hosts.link.b);
    let wrong = || {
        let builder = PacketBuilder::ethernet2(a.mac, b.mac)
            .ipv4(a.ipv4.octets(), b.ipv4.octets(), 64)
            .udp(40000, 7004);
        let mut frame = Vec::new();
        builder.write(&mut frame, &[7; 40]).expect("a frame");
        frame[14 + 10] ^= 1;
        frame
    };
    let (rows, ..) = drops_of(&hosts.b, &[], || send_frames(a, (0..PACKETS).map(|_| wrong())));
    expected(&["IP_CSUM"], &["ip_rcv_core", "ip_rcv"]).assert(&rows, PACKETS);
}

#[test]
fn a_full_queue_drops_as_many_as_tc_counts() {
    require_root!();
    let hosts = Hosts::new("qdisc");
    let tc = |args: &[&str]| checked(hosts.a.command("tc").args(args)).expect("tc");
    tc(&["qdisc", "add", "dev", "eth0", "root", "tbf", "rate", "8kbit", "burst", "2000", "limit", "4000"]);
    let dropped = || {
        let text = tc(&["-s", "-json", "qdisc", "show", "dev", "eth0", "root"]);
        let all: Value = serde_json::from_str(&text).expect("JSON");
        all[0]["drops"].as_u64().expect("drops")
    };
    let before = dropped();
    let (rows, _, after) = drops_of(&hosts.a, &[], || {
        send(&hosts.a, hosts.dst(7005), PACKETS, &[0; 1000]);
        dropped()
    });
    let reasons = ["QDISC_DROP", "QDISC_OVERLIMIT"];
    expected(&reasons, &QUEUE).assert(&rows, after - before);
}

#[test]
fn what_would_not_be_answered_the_same_way_is_dropped_by_the_reverse_path_filter() {
    require_root!();
    let hosts = Hosts::new("rpfilter");
    for interface in ["all", "eth0"] {
        hosts.b.set_sysctl(&format!("net/ipv4/conf/{interface}/rp_filter"), "1").expect("strict");
    }
    let (a, b) = (&hosts.link.a, &hosts.link.b);
    let frame = || {
        let builder = PacketBuilder::ethernet2(a.mac, b.mac)
            .ipv4([198, 51, 100, 1], b.ipv4.octets(), 64)
            .udp(40000, 7006);
        let mut frame = Vec::new();
        builder.write(&mut frame, &[7; 40]).expect("a frame");
        frame
    };
    let before = netstat(&hosts.b, "TcpExtIPReversePathFilter");
    let (rows, ..) = drops_of(&hosts.b, &[], || send_frames(a, (0..PACKETS).map(|_| frame())));
    assert_eq!(netstat(&hosts.b, "TcpExtIPReversePathFilter") - before, PACKETS);
    expected(&["IP_RPFILTER"], &["ip_rcv_finish_core"]).assert(&rows, PACKETS);
}

#[test]
fn a_packet_that_went_too_far_is_dropped_by_the_router() {
    require_root!();
    let bed = Testbed::new("ttl").expect("a testbed");
    let [a, router, b] = ["a", "r", "b"].map(|name| bed.host(name).expect("a host"));
    let chain = bed.chain((&a, "eth0"), &router, (&b, "eth0"), &LinkOptions::default()).expect("links");
    for (far, functions) in [
        (IpAddr::from(chain.far.b.ipv4), &["ip_forward"][..]),
        (chain.far.b.ipv6.into(), &["ip6_forward"][..]),
    ] {
        let any: SocketAddr = if far.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" }.parse().expect("an address");
        let socket = a.run(|| UdpSocket::bind(any)).expect("host a").expect("bind");
        if far.is_ipv6() {
            nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::Ipv6Ttl, &1).expect("hop limit");
        } else {
            socket.set_ttl(1).expect("TTL");
        }
        let (rows, ..) = drops_of(&router, &[], || {
            for _ in 0..PACKETS {
                let _ = socket.send_to(&[0; 100], (far, 7007));
            }
        });
        expected(&["IP_INHDR"], functions).assert(&rows, PACKETS);
    }
}

/// Handshakes of which the last step is left to the test, from addresses that host a does not have.
struct Handshakes<'a> {
    from: &'a Side,
    to: &'a Side,
    client: Ipv6Addr,
    port: u16,
}

impl Handshakes<'_> {
    fn frame(&self, src: u16, sequence: u32, ack: Option<u32>) -> Vec<u8> {
        let builder = PacketBuilder::ethernet2(self.from.mac, self.to.mac)
            .ipv6(self.client.octets(), self.to.ipv6.octets(), 64)
            .tcp(src, self.port, sequence, 65535);
        let builder = match ack {
            None => builder.syn(),
            Some(number) => builder.ack(number),
        };
        let mut frame = Vec::new();
        builder.write(&mut frame, &[]).expect("a frame");
        frame
    }

    /// Sends SYNs, and gives the ACKs to the SYN-ACKs that came back.
    fn begin(&self, ports: std::ops::Range<u16>) -> Vec<Vec<u8>> {
        let socket = self
            .from
            .host
            .run(|| PacketSocket::open(&self.from.device, ETH_P_IPV6))
            .expect("host a")
            .expect("open");
        ports.clone().for_each(|port| socket.send(&self.frame(port, 1000, None)).expect("sent"));
        let mut acks = std::collections::BTreeMap::new();
        let mut buffer = [0; 2048];
        while acks.len() < ports.len() {
            let got = socket.recv(&mut buffer, Some(WAIT)).expect("receive").expect("a SYN-ACK");
            let Ok(packet) = etherparse::SlicedPacket::from_ethernet(&buffer[..got.len]) else { continue };
            let Some(etherparse::TransportSlice::Tcp(tcp)) = packet.transport else { continue };
            if tcp.syn() && tcp.ack() && ports.contains(&tcp.destination_port()) {
                let number = tcp.sequence_number().wrapping_add(1);
                acks.insert(tcp.destination_port(), self.frame(tcp.destination_port(), 1001, Some(number)));
            }
        }
        acks.into_values().collect()
    }
}

fn listener(at: SocketAddr, backlog: i32) -> TcpListener {
    let listener = common::hosts::listen(at);
    // Again, with another backlog than the standard library's.
    let backlog = nix::sys::socket::Backlog::new(backlog).expect("a backlog");
    nix::sys::socket::listen(&listener, backlog).expect("listen");
    listener
}

#[test]
fn a_full_accept_queue_drops_the_last_step_of_handshakes() {
    require_root!();
    let hosts = Hosts::new("listen");
    let (a, b) = (&hosts.link.a, &hosts.link.b);
    let (backlog, late) = (16, 10);
    let _listener = hosts.b.run(|| listener(hosts.dst(7008), backlog)).expect("host b");
    let mut segments = b.ipv6.segments();
    segments[7] = 0x99;
    let client = Ipv6Addr::from(segments);
    let mac = a.mac.map(|byte| format!("{byte:02x}")).join(":");
    hosts.b.ip(&["neigh", "add", &client.to_string(), "lladdr", &mac, "dev", "eth0"]).expect("a neighbour");
    let handshakes = Handshakes { from: a, to: b, client, port: 7008 };
    let acks = handshakes.begin(50000..50000 + late);
    let full: Vec<_> = (0..=backlog)
        .map(|_| hosts.a.run(|| TcpStream::connect(hosts.dst(7008))).expect("host a").expect("connect"))
        .collect();
    let before = netstat(&hosts.b, "TcpExtListenOverflows");
    let (rows, ..) = drops_of(&hosts.b, &[], || send_frames(a, acks));
    let overflows = netstat(&hosts.b, "TcpExtListenOverflows") - before;
    expected(&["TCP_LISTEN_OVERFLOW"], &["tcp_v6_rcv", "tcp_v6_do_rcv"]).assert(&rows, overflows);
    drop(full);
}

#[test]
fn a_stack_begins_where_the_packet_was_dropped() {
    require_root!();
    let hosts = Hosts::new("stack");
    let args = ["--stack", "--port", "7009"];
    let table = Observing::start(&hosts.b, &[&["drops", "-i", "600"], &args[..]].concat());
    let (rows, ..) = drops_of(&hosts.b, &args, || send(&hosts.a, hosts.dst(7009), PACKETS, &[0; 100]));
    expected(&["NO_SOCKET"], &UDP).assert(&rows, PACKETS);
    for row in &rows {
        let calls: Vec<_> =
            row["stack"].as_array().expect("calls").iter().filter_map(Value::as_str).collect();
        assert_eq!(calls.first().copied(), row["location"].as_str(), "{row:#}");
        assert!(calls.iter().any(|call| call.starts_with("__netif_receive_skb")), "{row:#}");
    }
    let text = table.stop();
    let lines: Vec<_> = text.lines().skip_while(|line| !line.starts_with("NO_SOCKET")).collect();
    let place = lines[0].split_whitespace().nth(1).expect("a place");
    assert_eq!(lines[1], format!("    {place}"), "{text}");
}

#[test]
fn what_is_no_loss_is_hidden_but_counted() {
    require_root!();
    let hosts = Hosts::new("benign");
    let (a, b) = (&hosts.link.a, &hosts.link.b);
    let lldp = || {
        let mut frame = [&b.mac[..], &a.mac, &[0x88, 0xcc]].concat();
        frame.resize(60, 0);
        frame
    };
    let reason = expected(&["UNHANDLED_PROTO"], &["__netif_receive_skb_core"]);
    let all = Observing::start(&hosts.b, &["--json", "drops", "-i", "600", "--all"]);
    let (rows, summary, ()) = drops_of(&hosts.b, &[], || send_frames(a, (0..PACKETS).map(|_| lldp())));
    if reason.reason.as_deref() == Some("UNHANDLED_PROTO") {
        assert_eq!(reason.packets(&rows), 0, "{rows:#?}");
        assert_eq!(summary["hidden_packets"]["UNHANDLED_PROTO"], PACKETS, "{summary}");
    }
    let (rows, summary) = all.stop_json();
    reason.assert(&rows, PACKETS);
    assert!(rows.iter().any(|row| row["protocol"] == "lldp"), "{rows:#?}");
    assert_eq!(summary["hidden_packets"], serde_json::json!({}), "{summary}");
}

#[test]
fn what_finds_no_room_is_summed_up_so_that_totals_are_right() {
    require_root!();
    /// Flows that the program remembers (DROPS_MAX_FLOWS), and some.
    const FLOWS: u64 = 16_384 + 500;
    let hosts = Hosts::new("room");
    let (a, b) = (&hosts.link.a, &hosts.link.b);
    let frames = (0..FLOWS).map(|n| {
        let mut segments = a.ipv6.segments();
        segments[6] = (n / 1000) as u16 + 1;
        udp_frame(a, b, segments.into(), (1000 + (n % 1000) as u16, 7010))
    });
    let (rows, summary, ()) =
        drops_of(&hosts.b, &["--port", "7010", "--flows", "--by", "reason,function"], || {
            send_frames(a, frames)
        });
    let received = expected(&["NO_SOCKET"], &UDP).packets(&rows);
    let other: u64 = rows.iter().filter(|row| row["reason"] == "(other)").map(packets).sum();
    assert_eq!(received + other, FLOWS, "no packet is lost to the count");
    assert_eq!(summary["evicted"], other, "{summary}");
    assert!(other > 0, "{summary}");
}

#[test]
fn a_drop_is_of_the_flow_of_its_packet_in_either_direction() {
    require_root!();
    let hosts = Hosts::new("droptag");
    let daemon = hosts.daemon(
        "[mark]\ninterfaces = [\"eth*\"]\nexclude_private = false\n[outputs.firefly]\nenabled = false\n",
    );
    let (near, far) = (hosts.src(40001), hosts.dst(7011));
    common::cli::ok(&daemon, &["flow", "start", "--tag", "2/3", "udp", &near.to_string(), &far.to_string()]);
    nft(&hosts.a, "add table inet t; add chain inet t out { type filter hook output priority 0; }");
    nft(&hosts.a, "add rule inet t out udp dport 7011 drop");
    let sender = hosts.udp(40001);
    let back = hosts.b.run(|| UdpSocket::bind(far)).expect("host b").expect("bind");
    let watching = Observing::start_with(
        &hosts.a,
        &["--json", "drops", "-i", "600", "--tag", "2/3"],
        Some(daemon.socket()),
    );
    for _ in 0..PACKETS {
        let _ = sender.send_to(&[0; 100], far);
    }
    drop(sender);
    for _ in 0..PACKETS {
        let _ = back.send_to(&[0; 100], near);
    }
    let (rows, _) = watching.stop_json();
    expected(&["NETFILTER_DROP"], &["nf_hook_slow", "nft_do_chain"]).assert(&rows, PACKETS);
    expected(&["NO_SOCKET"], &UDP).assert(&rows, PACKETS);
    assert!(rows.iter().all(|row| row["tag"].is_string()), "{rows:#?}");
}

#[test]
fn only_what_was_asked_for_is_counted() {
    require_root!();
    let hosts = Hosts::new("filter");
    let elsewhere = Observing::start(&hosts.a, &["--json", "drops", "--port", "7012"]);
    let expression = Observing::start(
        &hosts.b,
        &["--json", "drops", "-i", "600", "udp and port 7012", "--by", "reason,peer,flow"],
    );
    let peer = hosts.link.a.ipv6.to_string();
    let (rows, ..) = drops_of(&hosts.b, &["--port", "7012", "--peer", &peer], || {
        send(&hosts.a, hosts.dst(7012), PACKETS, &[0; 100]);
        send(&hosts.a, hosts.dst(7013), PACKETS, &[0; 100]);
    });
    expected(&["NO_SOCKET"], &UDP).assert(&rows, PACKETS);
    assert_eq!(rows.iter().map(packets).sum::<u64>(), PACKETS, "{rows:#?}");
    let (rows, _) = expression.stop_json();
    assert_eq!(rows.len(), 1, "{rows:#?}");
    assert_eq!((&rows[0]["peer"], packets(&rows[0])), (&peer.as_str().into(), PACKETS));
    let flow = rows[0]["flow"].as_str().expect("a flow");
    assert!(flow.starts_with(&format!("udp [{}]:7012 → [{peer}]:", hosts.link.b.ipv6)), "{flow}");
    let (rows, _) = elsewhere.stop_json();
    assert!(rows.is_empty(), "host a dropped nothing: {rows:#?}");
}
