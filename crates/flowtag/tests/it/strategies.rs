//! Every kind of packet under every strategy: one row per case, judged at the host that receives.
//!
//! Each strategy has a bed of its own with daemons on the hosts that send; the rows send one after the other, each from
//! a port of its own, while the captures run, and all of them are judged at the end.
//!
//! ```text
//!   a ── plain (no offloads), gso (offloads), lossy (relay), tun ── b
//!   c ──────────────────── router ──────────────────────────────── b
//! ```

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv6Addr, SocketAddr};
use std::thread;
use std::time::Duration;

use crate::common::daemon::Daemon;
use crate::common::hosts::{
    Hosts, OnWire, Path, counter, hooks, labels, of_flow, on, on_wire, tag, transfer, without_tail_probes,
};
use anyhow::{Context, Result, bail, ensure};
use flowtag_kernel::af_packet::{ETH_P_NONE, PacketSocket};
use flowtag_testbed::{
    Capture, Chain, Frame, Host, ImpairedLink, Impairment, LinkOptions, Loss, Testbed, TunLink, checked,
    require_root,
};
use flowtag_wire::option::{OPTION_LEN, OPTION_TYPE};
use flowtag_wire::packet::TcpFlags;
use flowtag_wire::{FlowLabel, LinkType, Strategy, Tag};
use nix::sched::{CpuSet, sched_getcpu, sched_setaffinity};
use nix::sys::socket::{setsockopt, sockopt};
use nix::unistd::Pid;

const MTU: usize = 1500;
/// IPv6, TCP with timestamps.
const TCP_HEADERS: usize = 40 + 32;
/// Datagrams of a row in which the path MTU may have to be learned first.
const TRIES: usize = 20;
/// Of a ping that a row looks for: nothing else has this size.
const PING: usize = 777;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

fn our_tag() -> Tag {
    tag(3, 14)
}

fn config(strategy: Strategy, hook: &str) -> String {
    format!(
        r#"
        [mark]
        interfaces = ["eth*", "flowtun*"]
        hook = "{hook}"
        exclude_private = false
        pin = ""
        [outputs.firefly]
        enabled = false
        [[rules]]
        name = "peers"
        remote = ["fd00:f1::/32"]
        protocol = ["tcp", "udp", "icmpv6"]
        tag = "cms/Analysis Input"
        strategy = "{strategy}"
        "#
    )
}

// ---- The bed.

/// Which way a row goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Via {
    /// From a to b; every frame is one packet of the wire with its checksum in it.
    Plain,
    /// From a to b; segmentation and checksums are left to the device.
    Offloads,
    /// From a to b, through a relay that can lose packets.
    Lossy,
    /// From a to b, by devices without a link-layer header.
    Tun,
    /// From c, where no daemon is, through a router that marks, to b.
    Router,
}

/// One way with its captures at both ends.
struct Way {
    via: Via,
    path: Path,
    near: Capture,
    far: Capture,
}

struct Scene {
    ways: Vec<Way>,
    hosts: Vec<Host>,
    lossy: ImpairedLink,
    link: flowtag_testbed::Link,
    daemons: Vec<Daemon>,
    _tun: TunLink,
    _bed: Testbed,
}

impl Scene {
    fn new(strategy: Strategy) -> Self {
        let bed = Testbed::new(&format!("strategy-{}", strategy.bits())).expect("a testbed");
        let [a, b, c, router] = ["a", "b", "c", "router"].map(|name| bed.host(name).expect("a host"));
        let no_offloads = LinkOptions { offloads: false, ..LinkOptions::default() };
        let plain = bed.link_with(&a, "eth0", &b, "eth0", &no_offloads).expect("a link");
        let offloads = bed.link(&a, "eth1", &b, "eth1").expect("a link");
        let lossy = bed.impaired_link_between((&a, "eth2"), (&b, "eth2"), Impairment::default());
        let lossy = lossy.expect("a lossy link");
        let chain = bed.chain((&c, "eth0"), &router, (&b, "eth3"), &no_offloads).expect("a router");
        let tun = bed.tun_link(&a, &b, "flowtun0").expect("a tun device");
        [&a, &b, &c].into_iter().for_each(without_tail_probes);
        // Otherwise a packet has no more than leaves within a millisecond, which is little on an emulated machine.
        a.set_sysctl("net/ipv4/tcp_min_tso_segs", "32").expect("long packets");
        let way = |via, path: Path, near: &str, far: &str| {
            let capture = |host: &Host, device| host.capture(device, "").expect("a capture");
            Way { via, near: capture(&path.from, near), far: capture(&path.to, far), path }
        };
        let ways = vec![
            way(Via::Plain, Path::over(&plain), "eth0", "eth0"),
            way(Via::Offloads, Path::over(&offloads), "eth1", "eth1"),
            way(Via::Lossy, Path::over(&lossy), "eth2", "eth2"),
            way(Via::Tun, Path::over_tun(&a, &b, &tun), "flowtun0", "flowtun0"),
            way(Via::Router, Path::new(&c, chain.near.a.ipv6, &b, chain.far.b.ipv6), "eth0", "eth3"),
        ];
        ways.iter().for_each(|way| wait_long(way, &chain));
        let toml = config(strategy, hooks()[0]);
        let daemons = [&a, &b, &router].map(|host| Daemon::start_with(&toml, on(host))).into();
        let hosts = vec![a, b, c, router];
        Self { ways, hosts, lossy, link: plain, daemons, _tun: tun, _bed: bed }
    }

    fn way(&self, via: Via) -> &Way {
        self.ways.iter().find(|w| w.via == via).expect("every way is there")
    }

    /// Sum over all hosts of what must not grow.
    fn sum(&self, names: &[&str]) -> u64 {
        self.hosts.iter().flat_map(|host| names.iter().map(|name| counter(host, name))).sum()
    }
}

/// But where packets are lost on purpose, which shall be sent again soon.
fn wait_long(way: &Way, chain: &Chain) {
    let both = |device: &str| way.path.wait_long(&["dev", device], &["dev", device]);
    let (near, far) = (chain.near.b.ipv6.to_string(), chain.far.a.ipv6.to_string());
    match way.via {
        Via::Plain => both("eth0"),
        Via::Offloads => both("eth1"),
        Via::Tun => both("flowtun0"),
        Via::Router => way.path.wait_long(&["via", &near], &["via", &far]),
        Via::Lossy => {}
    }
}

const DROPS: [&str; 5] =
    ["Ip6OutDiscards", "Ip6InDiscards", "Ip6InHdrErrors", "Ip6InTruncatedPkts", "Ip6FragFails"];

// ---- Rows.

/// What a row sends with.
struct Talk<'a> {
    scene: &'a Scene,
    path: &'a Path,
    port: u16,
    to: u16,
}

/// What came of it. `there` is as the receiver captured it, `left` the same as the sender did, `back` what the sender
/// got in return.
struct Evidence<'a> {
    via: Via,
    strategy: Strategy,
    there: Vec<OnWire<'a>>,
    left: Vec<OnWire<'a>>,
    back: Vec<OnWire<'a>>,
    /// All that the receiver captured, for packets without ports.
    all: &'a [OnWire<'a>],
    all_back: &'a [OnWire<'a>],
}

#[derive(Clone, Copy)]
struct Row {
    what: &'static str,
    via: Via,
    send: fn(&Talk<'_>) -> Result<()>,
    look: fn(&Evidence<'_>) -> Result<()>,
}

fn row(
    what: &'static str,
    via: Via,
    send: fn(&Talk<'_>) -> Result<()>,
    look: fn(&Evidence<'_>) -> Result<()>,
) -> Row {
    Row { what, via, send, look }
}

/// Rows that make TCP send something again: after all others, which must not.
fn lossy_rows() -> Vec<Row> {
    vec![row("TCP: sent again after a loss", Via::Lossy, lose_and_send_again, |e| {
        e.all_marked()?;
        let again = |p: &&OnWire<'_>| {
            let same = |q: &&OnWire<'_>| q.tcp.map(|t| t.seq) == p.tcp.map(|t| t.seq) && q.sent() > 0;
            p.sent() > 0 && e.left.iter().filter(same).count() > 1
        };
        let again: Vec<_> = e.left.iter().filter(again).cloned().collect();
        // Two segments and their repetitions, or one that was lost twice.
        ensure!(again.len() >= 3, "only {} packets of the sender were one and the same", again.len());
        e.marked(&again)
    })]
}

fn tcp_rows() -> Vec<Row> {
    use Via::{Offloads, Plain, Router, Tun};
    vec![
        row("TCP: SYN", Plain, |t| t.say(b"hello"), |e| e.first(&e.there, "SYN", |p| p.has(TcpFlags::SYN))),
        row("TCP: SYN-ACK", Plain, |t| t.say(b"hello"), |e| e.first(&e.back, "SYN-ACK", is_syn_ack)),
        row("TCP: first data", Plain, |t| t.say(FIRST), |e| e.one("the data", |p| p.payload == FIRST)),
        row("TCP: one whole segment", Plain, one_segment, |e| e.one("a full frame", is_full_frame)),
        row("TCP: 64 KB at a time, in segments", Plain, |t| t.stream(1 << 18), |e| e.no_runts()),
        row(
            "TCP: 64 KB at a time, unsegmented",
            Offloads,
            |t| t.stream(1 << 20),
            |e| e.some(&e.there, "a packet that the device is to cut", |p| p.sent() > 30_000),
        ),
        row("TCP: FIN", Plain, |t| t.say(b"bye"), |e| e.some(&e.there, "FIN", |p| p.has(TcpFlags::FIN))),
        row(
            "TCP: FIN in return",
            Plain,
            |t| t.say(b""),
            |e| e.some(&e.back, "FIN", |p| p.has(TcpFlags::FIN)),
        ),
        row("TCP: RST", Plain, reset, |e| e.some(&e.there, "RST", |p| p.has(TcpFlags::RST))),
        row("TCP on a tun device", Tun, |t| t.stream(100_000), |e| e.all_marked()),
        row("TCP through a router", Router, |t| t.stream(200_000), |e| e.no_runts()),
    ]
}

const FIRST: &[u8] = b"the first data";

fn is_syn_ack(packet: &OnWire<'_>) -> bool {
    packet.has(TcpFlags::SYN) && packet.has(TcpFlags::ACK)
}

fn is_full_frame(packet: &OnWire<'_>) -> bool {
    packet.frame.len() == 14 + MTU
}

fn udp_rows() -> Vec<Row> {
    use Via::{Offloads, Plain, Router, Tun};
    vec![
        row("UDP: small", Plain, |t| t.datagrams(100, 3), |e| e.all_marked_of(3)),
        row("UDP: as long as the MTU", Plain, |t| t.datagrams(MTU - 48, TRIES), |e| e.marked_once_learned()),
        row("UDP: in fragments", Plain, |t| t.datagrams(4000, TRIES), |e| e.marked_once_learned()),
        row("UDP: segmented by the host (GSO)", Plain, segmented, |e| e.marked_or_without_headroom(20)),
        row("UDP: segmented by the device (GSO)", Offloads, segmented, |e| e.all_marked()),
        row("UDP on a tun device", Tun, |t| t.datagrams(100, 3), |e| e.all_marked_of(3)),
        row("UDP through a router", Router, |t| t.datagrams(100, 3), |e| e.all_marked_of(3)),
        row("ICMPv6: echo and its answer", Plain, |t| t.ping(), |e| e.pings()),
        row("ICMPv6: echo through a router", Router, |t| t.ping(), |e| e.pings()),
    ]
}

// ---- How rows send.

impl Talk<'_> {
    /// A TCP connection that says this and is closed by both ends.
    fn say(&self, words: &[u8]) -> Result<()> {
        let mut connection = self.path.connect(self.port, self.to);
        transfer(&mut connection, words);
        let (client, mut server) = connection;
        drop(client);
        ensure!(server.read(&mut [0; 1]).context("waiting for the FIN")? == 0, "more than was sent");
        Ok(())
    }

    /// The same with so many bytes, which must arrive as they were sent.
    fn stream(&self, length: usize) -> Result<()> {
        self.say(&(0..length).map(|i| (i % 251) as u8).collect::<Vec<_>>())
    }

    /// `count` datagrams with `length` bytes, which must arrive as they were sent.
    fn datagrams(&self, length: usize, count: usize) -> Result<()> {
        let (sender, receiver) = self.path.udp(self.port, self.to);
        let mut buffer = vec![0; length + 1];
        for number in 0..count {
            let sent: Vec<u8> = (0..length).map(|i| (i + number) as u8).collect();
            sender.send(&sent).context("sending a datagram")?;
            let got = receiver.recv(&mut buffer).with_context(|| format!("waiting for datagram {number}"))?;
            ensure!(buffer[..got] == sent, "datagram {number} arrived with other bytes");
            if count == TRIES {
                // The path MTU is lowered in user space: it takes a moment, which no counter tells.
                thread::sleep(Duration::from_millis(10));
            }
        }
        Ok(())
    }

    fn ping(&self) -> Result<()> {
        let mut ping = self.path.from.command("ping");
        let size = PING.to_string();
        let (from, to) = (self.path.src.to_string(), self.path.dst.to_string());
        ping.args(["-n", "-q", "-c", "3", "-i", "0.05", "-W", "5", "-s", &size, "-I", &from, &to]);
        let said = checked(&mut ping)?;
        ensure!(said.contains(" 0% packet loss"), "{said}");
        Ok(())
    }
}

/// One send of what fits one segment exactly, so that no offload has a part in it.
fn one_segment(t: &Talk<'_>) -> Result<()> {
    let mut connection = t.path.connect(t.port, t.to);
    let mss = nix::sys::socket::getsockopt(&connection.0, sockopt::TcpMaxSeg).context("the segment size")?;
    transfer(&mut connection, &vec![7; mss as usize]);
    Ok(())
}

/// Closes so that all is thrown away (socket(7), SO_LINGER).
fn reset(t: &Talk<'_>) -> Result<()> {
    let mut connection = t.path.connect(t.port, t.to);
    transfer(&mut connection, b"soon over");
    let (client, mut server) = connection;
    setsockopt(&client, sockopt::Linger, &nix::libc::linger { l_onoff: 1, l_linger: 0 })?;
    drop(client);
    match server.read(&mut [0; 1]) {
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(()),
        other => bail!("the far end was told {other:?}"),
    }
}

/// Twenty datagrams of 1000 bytes in one call (udp(7), UDP_SEGMENT).
fn segmented(t: &Talk<'_>) -> Result<()> {
    let (sender, receiver) = t.path.udp(t.port, t.to);
    setsockopt(&sender, sockopt::UdpGsoSegment, &1000)?;
    let all: Vec<u8> = (0..20_000).map(|i| (i % 241) as u8).collect();
    match sender.send(&all) {
        // Before 6.11, where the device leaves checksums to the host.
        Err(error) if error.raw_os_error() == Some(nix::libc::EIO) => {
            let _ = writeln!(std::io::stderr(), "no UDP_SEGMENT in this kernel: one by one instead");
            setsockopt(&sender, sockopt::UdpGsoSegment, &0)?;
            all.chunks(1000).try_for_each(|part| sender.send(part).map(drop)).context("sending")?;
        }
        sent => drop(sent.context("sending segments")?),
    }
    let mut received: Vec<u8> = Vec::new();
    let mut buffer = [0; 2000];
    while received.len() < all.len() {
        let got = receiver.recv(&mut buffer).with_context(|| format!("after {} bytes", received.len()))?;
        ensure!(got == 1000, "a datagram of {got} bytes");
        received.extend(&buffer[..got]);
    }
    ensure!(received == all, "the datagrams arrived with other bytes");
    Ok(())
}

fn lose_and_send_again(t: &Talk<'_>) -> Result<()> {
    let mut connection = t.path.connect(t.port, t.to);
    transfer(&mut connection, &[1; 10_000]);
    let before = counter(&t.path.from, "TcpRetransSegs");
    t.scene.lossy.set(&Impairment { loss: Loss::these(&[3, 20]), ..Impairment::default() });
    transfer(&mut connection, &(0..200_000_u32).map(|i| (i % 251) as u8).collect::<Vec<_>>());
    ensure!(t.scene.lossy.a_to_b().dropped == 2, "{:?}", t.scene.lossy.a_to_b());
    ensure!(counter(&t.path.from, "TcpRetransSegs") > before, "nothing was sent again");
    Ok(())
}

// ---- How rows are judged.

impl Evidence<'_> {
    /// Every packet of the flow, both ways, is marked and as it should be.
    fn all_marked(&self) -> Result<()> {
        ensure!(!self.there.is_empty(), "no packet was captured");
        self.marked(&self.there).context("on the way there")?;
        self.marked(&self.back).context("on the way back")
    }

    fn all_marked_of(&self, count: usize) -> Result<()> {
        ensure!(self.there.len() == count, "{} packets arrived, not {count}", self.there.len());
        self.all_marked()
    }

    /// Without room in the buffer for two headers the kernel would drop the datagrams (since 6.11, where the device sums
    /// nothing): all pass as they came then, and none is lost.
    fn marked_or_without_headroom(&self, count: usize) -> Result<()> {
        let marked = self.all_marked_of(count);
        let untouched = |p: &OnWire<'_>| p.option_tags.is_empty();
        if self.strategy.header_len() <= 8 || marked.is_ok() {
            return marked;
        }
        ensure!(
            self.there.len() == count && self.there.iter().all(untouched),
            "neither marked nor as they came"
        );
        self.there.iter().try_for_each(|packet| self.whole(packet))
    }

    fn marked(&self, packets: &[OnWire<'_>]) -> Result<()> {
        for (number, packet) in packets.iter().enumerate() {
            let told = || format!("packet {} of {}: {}", number + 1, packets.len(), packet.story());
            if let Some(fault) = packet.fault(our_tag(), self.strategy) {
                bail!("{fault}: {}", told());
            }
            self.whole(packet).with_context(told)?;
        }
        if self.strategy.contains(Strategy::LABEL) && !packets.is_empty() {
            let labels = labels(packets);
            ensure!(labels.len() == 1, "one label per flow, not {labels:?}");
        }
        Ok(())
    }

    /// No longer than the link allows, with the right checksum; neither can be told of what a device is to finish.
    fn whole(&self, packet: &OnWire<'_>) -> Result<()> {
        if self.via == Via::Offloads {
            return Ok(());
        }
        let tags = packet.vlans.iter().flatten().count();
        let limit = MTU + 4 * tags + if self.via == Via::Tun { 0 } else { 14 };
        ensure!(packet.frame.len() <= limit, "it is longer than {limit} bytes");
        ensure!(packet.checksum_ok() != Some(false), "its checksum is wrong");
        Ok(())
    }

    /// What was sent again had arrived already: it was late, or overtaken on another processor, but not lost.
    fn nothing_is_lost(&self, again: u64) -> Result<()> {
        let mut twice = 0;
        for packets in [&self.there, &self.back] {
            let mut seen = BTreeSet::new();
            let takes = |p: &&OnWire<'_>| p.sent() > 0 || p.has(TcpFlags::SYN) || p.has(TcpFlags::FIN);
            for packet in packets.iter().filter(takes) {
                // One that a device is to cut counts for its segments.
                let segments = packet.sent().div_ceil(MTU - TCP_HEADERS).max(1) as u64;
                twice += if seen.insert(packet.tcp.map(|t| t.seq)) { 0 } else { segments };
            }
        }
        ensure!(again <= twice, "{again} segments were sent again, of which only {twice} had arrived");
        Ok(())
    }

    /// All is marked, and this is what one direction begins with.
    fn first(&self, packets: &[OnWire<'_>], what: &str, is: impl Fn(&OnWire<'_>) -> bool) -> Result<()> {
        ensure!(packets.first().is_some_and(is), "{what} is not the first packet");
        self.all_marked()
    }

    /// All is marked, and this is among it.
    fn some(&self, packets: &[OnWire<'_>], what: &str, is: impl Fn(&OnWire<'_>) -> bool) -> Result<()> {
        ensure!(packets.iter().any(is), "{what} is not among {} packets", packets.len());
        self.all_marked()
    }

    /// All is marked, and one packet on the way there is this.
    fn one(&self, what: &str, is: impl Fn(&OnWire<'_>) -> bool) -> Result<()> {
        let found = self.there.iter().filter(|p| is(p)).count();
        let lengths: Vec<usize> = self.there.iter().map(|p| p.frame.len()).collect();
        ensure!(found == 1, "{what}: {found} times among frames of {lengths:?} bytes");
        self.all_marked()
    }

    /// All is marked, and segments are full with their headers: room is made once for the connection and not in each send.
    fn no_runts(&self) -> Result<()> {
        let full = MTU - TCP_HEADERS - self.strategy.header_len();
        // What is sent again because its acknowledgement was late may be cut in any way.
        let mut end: Option<u32> = None;
        let mut is_new = |p: &&OnWire<'_>| {
            let Some(seq) = p.tcp.map(|t| t.seq).filter(|_| p.sent() > 0) else { return false };
            let is_new = end.is_none_or(|end| seq.wrapping_sub(end) < 1 << 31);
            if is_new {
                end = Some(seq.wrapping_add(p.sent() as u32));
            }
            is_new
        };
        let data: Vec<usize> = self.there.iter().filter(|p| is_new(p)).map(OnWire::sent).collect();
        let short: Vec<&usize> = data.iter().filter(|n| **n < full).collect();
        ensure!(data.iter().all(|n| *n <= full), "segments of more than {full} bytes: {data:?}");
        ensure!(
            short.len() <= 3,
            "{} of {} segments are short of {full}: {short:?}",
            short.len(),
            data.len()
        );
        Ok(())
    }

    /// Datagrams that leave no room pass unmarked until the path MTU is known to be lower; from then on all are marked,
    /// with all of their fragments. A label always has room.
    fn marked_once_learned(&self) -> Result<()> {
        let mut datagrams: Vec<Vec<OnWire<'_>>> = Vec::new();
        for packet in &self.there {
            let id = packet.fragment.map(|f| f.id);
            match datagrams.last_mut() {
                Some(last) if id.is_some() && last[0].fragment.map(|f| f.id) == id => {
                    last.push(packet.clone())
                }
                _ => datagrams.push(vec![packet.clone()]),
            }
        }
        ensure!(datagrams.len() == TRIES, "{} datagrams arrived", datagrams.len());
        let marked = |d: &Vec<OnWire<'_>>| d.iter().all(|p| p.fault(our_tag(), self.strategy).is_none());
        let first = datagrams.iter().position(marked).context("no datagram was marked as a whole")?;
        ensure!(first == 0 || self.strategy.header_len() > 0, "{first} datagrams without their label");
        ensure!(first < TRIES / 2, "marked only from datagram {} on", first + 1);
        for packet in datagrams[..first].iter().flatten() {
            self.whole(packet).with_context(|| packet.story())?;
        }
        self.marked(&datagrams[first..].concat()).with_context(|| format!("after datagram {}", first + 1))
    }

    fn pings(&self) -> Result<()> {
        let echo = |all: &[OnWire<'_>], kind: u8| -> Result<()> {
            let is = |p: &&OnWire<'_>| p.protocol == ICMPV6 && p.sent() == PING && icmp_type(p) == kind;
            let found: Vec<_> = all.iter().filter(is).cloned().collect();
            ensure!(found.len() == 3, "{} echo packets of type {kind}", found.len());
            self.marked(&found)
        };
        echo(self.all, 128).context("on the way there")?;
        echo(self.all_back, 129).context("on the way back")
    }
}

/// Of a packet with a whole ICMP header.
fn icmp_type(packet: &OnWire<'_>) -> u8 {
    packet.frame[packet.payload_offset - 8]
}

// ---- Packets that no socket sends.

/// Packets that are put on the wire as they are, with everything in them that marking must not touch.
struct RawRow {
    what: &'static str,
    vlans: &'static [[u8; 4]],
    packets: fn(SocketAddr, SocketAddr) -> Vec<Vec<u8>>,
    /// Whether the far end's kernel takes them; else they are only captured.
    is_delivered: bool,
    /// Whether an authentication header forbids more than another label.
    is_protected: bool,
    /// Whether both options are in it already.
    is_tagged: bool,
}

/// What a raw row says to the far end's socket.
const STORY: &[u8] = b"what no socket sends and every socket can receive";

fn raw_rows() -> Vec<RawRow> {
    let row = |what, packets| RawRow {
        what,
        vlans: &[],
        packets,
        is_delivered: true,
        is_protected: false,
        is_tagged: false,
    };
    vec![
        row("no extension header", |s, d| vec![datagram(s, d, &[])]),
        row("hop-by-hop options without room", |s, d| vec![datagram(s, d, &[(0, &FULL_OPTIONS)])]),
        row("hop-by-hop options with padding", |s, d| vec![datagram(s, d, &[(0, &PADDED_OPTIONS)])]),
        row("destination options without room", |s, d| vec![datagram(s, d, &[(60, &FULL_OPTIONS)])]),
        row("destination options with padding", |s, d| vec![datagram(s, d, &[(60, &PADDED_OPTIONS)])]),
        row("hop-by-hop options of padding alone", |s, d| vec![datagram(s, d, &[(0, &PADDING)])]),
        row("destination options of padding alone", |s, d| vec![datagram(s, d, &[(60, &PADDING)])]),
        RawRow {
            is_tagged: true,
            ..row("options with the tag already", |s, d| {
                vec![datagram(s, d, &[(0, &OUR_OPTION), (60, &OUR_OPTION)])]
            })
        },
        row("routing header", |s, d| vec![datagram(s, d, &[(43, &ROUTING)])]),
        row("fragments", |s, d| fragments(s, d, &[])),
        row("fragments behind hop-by-hop options", |s, d| fragments(s, d, &[(0, &FULL_OPTIONS)])),
        row("every header in the order of RFC 8200 §4.1", |s, d| {
            let before: [(u8, &[u8]); 3] = [(0, &FULL_OPTIONS), (60, &FULL_OPTIONS), (43, &ROUTING)];
            vec![datagram(s, d, &[&before[..], &[(60, &PADDED_OPTIONS)]].concat())]
        }),
        RawRow {
            is_delivered: false,
            is_protected: true,
            ..row("authentication header", |s, d| vec![datagram(s, d, &[(51, &AUTHENTICATION)])])
        },
        RawRow {
            vlans: &[[0x81, 0, 0, 7]],
            is_delivered: false,
            ..row("802.1Q tag in the frame", |s, d| vec![datagram(s, d, &[])])
        },
        RawRow {
            vlans: &[[0x88, 0xa8, 0, 9], [0x81, 0, 0, 7]],
            is_delivered: false,
            ..row("802.1ad over 802.1Q (QinQ)", |s, d| vec![datagram(s, d, &[])])
        },
    ]
}

/// An option that nobody knows and everybody skips (RFC 8200 §4.2), in a header without a byte to spare.
const FULL_OPTIONS: [u8; 8] = [0, 0, 0x1f, 4, 1, 2, 3, 4];
/// The same with seven bytes of padding behind it: a receiver may refuse more (RFC 4942 §2.1.9.5, and Linux does).
const PADDED_OPTIONS: [u8; 16] = [0, 1, 0x1f, 5, 1, 2, 3, 4, 5, 1, 5, 0, 0, 0, 0, 0];
/// Nothing but padding, as is left where somebody cleared a tag.
const PADDING: [u8; 8] = [0, 0, 1, 4, 0, 0, 0, 0];
/// The tag of all these tests.
const OUR_OPTION: [u8; 8] = [0, 0, OPTION_TYPE, OPTION_LEN, 0, 3, 14, 0];
/// Of a type for experiments (RFC 4727 §5.2), all segments visited.
const ROUTING: [u8; 8] = [0, 0, 253, 0, 0, 0, 0, 0];
/// RFC 4302 §2: twelve bytes of integrity check value.
const AUTHENTICATION: [u8; 24] =
    [0, 4, 0, 0, 0, 0, 0x12, 0x34, 0, 0, 0, 1, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 1, 2];

type Extension<'a> = (u8, &'a [u8]);

/// DSCP 46, ECN 1, a label of its own, hop limit 61, these extension headers, and `upper` of type `kind`.
fn ipv6(src: SocketAddr, dst: SocketAddr, extensions: &[Extension<'_>], kind: u8, upper: &[u8]) -> Vec<u8> {
    let [src, dst] = [src, dst].map(octets);
    let next = |n: usize| extensions.get(n).map_or(kind, |(kind, _)| *kind);
    let mut behind = Vec::new();
    for (number, (_, bytes)) in extensions.iter().enumerate() {
        behind.push(next(number + 1));
        behind.extend(&bytes[1..]);
    }
    behind.extend(upper);
    let length = u16::try_from(behind.len()).expect("short");
    let mut out = vec![0x6b, 0x9a, 0xbc, 0xde];
    out.extend(length.to_be_bytes());
    out.extend([next(0), 61]);
    out.extend(src.octets());
    out.extend(dst.octets());
    out.extend(behind);
    out
}

fn octets(address: SocketAddr) -> Ipv6Addr {
    let SocketAddr::V6(address) = address else { panic!("IPv6") };
    *address.ip()
}

fn udp(src: SocketAddr, dst: SocketAddr) -> Vec<u8> {
    let length = u16::try_from(STORY.len() + 8).expect("short");
    let mut out = [src.port().to_be_bytes(), dst.port().to_be_bytes(), length.to_be_bytes(), [0; 2]].concat();
    out.extend(STORY);
    // RFC 8200 §8.1.
    let pseudo =
        [&octets(src).octets()[..], &octets(dst).octets(), &[0, 0], &length.to_be_bytes(), &[0, 0, 0, UDP]];
    let mut all = [pseudo.concat(), out.clone()].concat();
    all.resize(all.len().next_multiple_of(2), 0);
    let sum: u32 = all.chunks(2).map(|b| u32::from(u16::from_be_bytes([b[0], b[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let checksum = !((folded & 0xffff) + (folded >> 16)) as u16;
    out[6..8].copy_from_slice(&checksum.to_be_bytes());
    out
}

fn datagram(src: SocketAddr, dst: SocketAddr, extensions: &[Extension<'_>]) -> Vec<u8> {
    ipv6(src, dst, extensions, UDP, &udp(src, dst))
}

/// The datagram in two pieces, of which the second has no ports.
fn fragments(src: SocketAddr, dst: SocketAddr, before: &[Extension<'_>]) -> Vec<Vec<u8>> {
    let whole = udp(src, dst);
    let (first, last) = whole.split_at(32);
    let [high, low] = src.port().to_be_bytes();
    // RFC 8200 §4.5: the offset in units of 8 bytes, two bits that are nothing, and one if more follows.
    let piece = |offset: u8, part: &[u8]| {
        let header = [0, 0, 0, offset, 0, 0, high, low];
        ipv6(src, dst, &[before, &[(44, &header)]].concat(), UDP, part)
    };
    vec![piece(1, first), piece(4 << 3, last)]
}

impl RawRow {
    fn send(&self, t: &Talk<'_>) -> Result<()> {
        let (src, dst) = (t.path.src(t.port), t.path.dst(t.to));
        let (_, receiver) = t.path.udp(t.port, t.to);
        // There is nothing to wait for but the far end's kernel.
        receiver.set_read_timeout(Some(Duration::from_secs(5)))?;
        let frame = |packet: Vec<u8>| {
            let link = &t.scene.link;
            [&link.b.mac[..], &link.a.mac, &self.vlans.concat(), &[0x86, 0xdd], &packet].concat()
        };
        t.path.from.run(|| -> Result<()> {
            // The host's own stack sends all fragments of a datagram on one processor.
            let mut here = CpuSet::new();
            here.set(sched_getcpu()?)?;
            sched_setaffinity(Pid::from_raw(0), &here)?;
            let socket = PacketSocket::open("eth0", ETH_P_NONE)?;
            (self.packets)(src, dst).into_iter().try_for_each(|packet| Ok(socket.send(&frame(packet))?))
        })??;
        if self.is_delivered {
            let mut buffer = [0; 200];
            let got = receiver.recv(&mut buffer).context("waiting for the datagram")?;
            ensure!(&buffer[..got] == STORY, "the datagram arrived with other bytes");
        }
        Ok(())
    }

    fn look(&self, e: &Evidence<'_>, src: SocketAddr, dst: SocketAddr) -> Result<()> {
        let sent = (self.packets)(src, dst);
        let stories: Vec<String> = e.there.iter().map(OnWire::story).collect();
        ensure!(
            stories.len() == sent.len(),
            "{} packets of {} arrived: {stories:#?}",
            stories.len(),
            sent.len()
        );
        // Nothing may be inserted where a signature covers it; the label is not covered (RFC 4302 §3.3.3.1.2.1).
        let parts = Some(e.strategy).filter(|s| !self.is_protected || *s == Strategy::LABEL);
        let before = self.is_tagged.then_some(Strategy::HOP_BY_HOP | Strategy::DESTINATION);
        let parts = parts.map(|parts| before.map_or(parts, |before| parts | before));
        for (packet, sent) in e.there.iter().zip(&sent) {
            let got = &packet.frame[14 + 4 * self.vlans.len()..];
            let fault = match parts {
                Some(parts) => packet.fault(our_tag(), parts),
                None => (got != sent).then(|| "it is not as it was sent".to_owned()),
            };
            ensure!(fault.is_none(), "{}: {}", fault.unwrap_or_default(), packet.story());
            ensure!(packet.vlans.iter().flatten().count() == self.vlans.len(), "VLANs {:?}", packet.vlans);
            e.whole(packet)?;
            same_but_for_the_mark(sent, got, e.strategy).with_context(|| packet.story())?;
        }
        Ok(())
    }
}

/// An extension header as it is understood: for options headers, the options that say something, each with its place
/// modulo 8, on which its alignment rests; for the others, all bytes but the next header.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Header {
    Options(u8, Vec<(usize, Vec<u8>)>),
    Other(u8, Vec<u8>),
}

impl Header {
    fn kind(&self) -> u8 {
        match self {
            Self::Options(kind, _) | Self::Other(kind, _) => *kind,
        }
    }

    /// Without our option; none if it says nothing else.
    fn without_ours(&self) -> Option<Self> {
        let Self::Options(kind, options) = self else { return Some(self.clone()) };
        let is_ours = |option: &[u8]| option == &OUR_OPTION[2..7];
        let others: Vec<_> = options.iter().filter(|(_, option)| !is_ours(option)).cloned().collect();
        (!others.is_empty()).then_some(Self::Options(*kind, others))
    }
}

/// All extension headers, and what is behind them.
fn unfold(packet: &[u8]) -> Result<(Vec<Header>, u8, &[u8])> {
    let (mut kind, mut rest) = (packet[6], &packet[40..]);
    let mut headers = Vec::new();
    loop {
        let length = match kind {
            0 | 43 | 60 => (usize::from(rest[1]) + 1) * 8,
            44 => 8,
            51 => (usize::from(rest[1]) + 2) * 4,
            _ => return Ok((headers, kind, rest)),
        };
        ensure!(rest.len() >= length, "the header of type {kind} has {} of {length} bytes", rest.len());
        let (header, behind) = rest.split_at(length);
        headers.push(match kind {
            0 | 60 => Header::Options(kind, options(header)?),
            _ => Header::Other(kind, header[1..].to_vec()),
        });
        let is_later = kind == 44 && u16::from_be_bytes([header[2], header[3]]) >> 3 != 0;
        (kind, rest) = (header[0], behind);
        if is_later {
            return Ok((headers, kind, rest));
        }
    }
}

fn options(header: &[u8]) -> Result<Vec<(usize, Vec<u8>)>> {
    let mut at = 2;
    let mut found = Vec::new();
    while at < header.len() {
        let length = if header[at] == 0 { 1 } else { 2 + usize::from(*header.get(at + 1).context("cut")?) };
        let option = header.get(at..at + length).context("an option reaches beyond its header")?;
        if option[0] > 1 {
            found.push((at % 8, option.to_vec()));
        }
        at += length;
    }
    Ok(found)
}

/// Whether a packet arrived as it was sent but for its label, our options, and what follows from these.
fn same_but_for_the_mark(sent: &[u8], got: &[u8], strategy: Strategy) -> Result<()> {
    let fixed = |packet: &[u8]| {
        let mut fixed = packet[..40].to_vec();
        if strategy.contains(Strategy::LABEL) {
            (fixed[1], fixed[2], fixed[3]) = (fixed[1] & 0xf0, 0, 0);
        }
        // Payload length and next header are looked at below.
        fixed[4..7].fill(0);
        fixed
    };
    ensure!(fixed(sent) == fixed(got), "the IPv6 header changed beside its label");
    let stated = usize::from(u16::from_be_bytes([got[4], got[5]]));
    ensure!(stated == got.len() - 40, "its payload length says {stated} and is {}", got.len() - 40);
    let ((sent, kind, upper), (got, got_kind, got_upper)) = (unfold(sent)?, unfold(got)?);
    ensure!((kind, upper) == (got_kind, got_upper), "what is behind the extension headers changed");
    let others = |headers: &[Header]| headers.iter().filter_map(Header::without_ours).collect::<Vec<_>>();
    ensure!(others(&sent) == others(&got), "other headers changed: {got:02x?} from {sent:02x?}");
    for kind in [0, 60] {
        let count = |headers: &[Header]| headers.iter().filter(|h| h.kind() == kind).count();
        ensure!(count(&got) <= count(&sent).max(1), "{} headers of type {kind}: {got:02x?}", count(&got));
    }
    ensure!(!got.iter().skip(1).any(|h| h.kind() == 0), "hop-by-hop options come first: {got:02x?}");
    Ok(())
}

// ---- The tests.

/// What was captured on one way.
struct Heard {
    via: Via,
    path: Path,
    near: Vec<Frame>,
    far: Vec<Frame>,
}

impl Heard {
    fn of(way: Way) -> Self {
        let frames = |capture: Capture| {
            let captured = capture.stop().expect("captured");
            assert_eq!(captured.dropped, 0, "tcpdump kept up");
            captured.frames().expect("frames")
        };
        Self { via: way.via, near: frames(way.near), far: frames(way.far), path: way.path }
    }

    fn link(&self) -> LinkType {
        if self.via == Via::Tun { LinkType::Ip } else { LinkType::Ethernet }
    }

    /// What a host says to its neighbours (RFC 4861 §4) is nobody's traffic, though the rule is for ICMPv6, too.
    fn neighbours_are_left_alone(&self) -> Result<()> {
        for frames in [&self.near, &self.far] {
            let all = on_wire(frames, self.link());
            let about = |p: &&OnWire<'_>| p.protocol == ICMPV6 && (133..=137).contains(&icmp_type(p));
            let fault = all.iter().filter(about).find(|p| {
                !p.option_tags.is_empty() || p.flow_label.and_then(FlowLabel::tag) == Some(our_tag())
            });
            ensure!(
                fault.is_none(),
                "{:?}: marked: {}",
                self.via,
                fault.map(OnWire::story).unwrap_or_default()
            );
        }
        Ok(())
    }

    fn judge<T>(&self, port: u16, to: u16, strategy: Strategy, look: impl FnOnce(&Evidence<'_>) -> T) -> T {
        let (near, far) = (on_wire(&self.near, self.link()), on_wire(&self.far, self.link()));
        let (src, dst) = (self.path.src(port), self.path.dst(to));
        look(&Evidence {
            via: self.via,
            strategy,
            there: of_flow(&far, src, dst),
            left: of_flow(&near, src, dst),
            back: of_flow(&near, dst, src),
            all: &far,
            all_back: &near,
        })
    }
}

/// Faults of rows by their names.
#[derive(Default)]
struct Faults(Vec<String>);

impl Faults {
    /// A panic of a helper is a fault of its row alone.
    fn catch(&mut self, what: &str, run: impl FnOnce() -> Result<()>) {
        match std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => self.0.push(format!("{what}: {error:#}")),
            Err(_) => self.0.push(format!("{what}: panicked, see above")),
        }
    }

    fn unless(&mut self, is: bool, what: impl FnOnce() -> String) {
        if !is {
            self.0.push(what());
        }
    }
}

fn ports(number: usize) -> (u16, u16) {
    let number = u16::try_from(number).expect("few rows");
    (40000 + number, 5200 + number)
}

/// Sends all rows, judges all rows, and fails with every fault that was found.
fn every_packet_is_marked(strategy: Strategy) {
    let scene = Scene::new(strategy);
    let (socket_rows, raw_rows) = ([tcp_rows(), udp_rows()].concat(), raw_rows());
    let lossy_rows = lossy_rows();
    let mut faults = Faults::default();
    let talk = |number: usize, via| {
        let (port, to) = ports(number);
        Talk { scene: &scene, path: &scene.way(via).path, port, to }
    };
    let drops = scene.sum(&DROPS);
    let mut again = Vec::new();
    for (number, row) in socket_rows.iter().enumerate() {
        let before = scene.sum(&["TcpRetransSegs"]);
        faults.catch(row.what, || (row.send)(&talk(number, row.via)));
        again.push(scene.sum(&["TcpRetransSegs"]) - before);
    }
    let (raw, lossy) = (socket_rows.len(), socket_rows.len() + raw_rows.len());
    for (number, row) in raw_rows.iter().enumerate() {
        faults.catch(row.what, || row.send(&talk(raw + number, Via::Plain)));
    }
    for (number, row) in lossy_rows.iter().enumerate() {
        faults.catch(row.what, || (row.send)(&talk(lossy + number, row.via)));
    }
    let dropped = scene.sum(&DROPS) - drops;
    faults.unless(dropped == 0, || format!("{dropped} packets were dropped ({DROPS:?})"));

    let Scene { ways, daemons, hosts: _hosts, _tun, _bed, .. } = scene;
    let heard: Vec<Heard> = ways.into_iter().map(Heard::of).collect();
    let on = |via| heard.iter().find(|h| h.via == via).expect("every way is there");
    let numbered = socket_rows.iter().enumerate().chain((lossy..).zip(&lossy_rows));
    for (number, row) in numbered {
        let (port, to) = ports(number);
        let again = again.get(number).copied().unwrap_or_default();
        faults.catch(row.what, || on(row.via).judge(port, to, strategy, |e| e.nothing_is_lost(again)));
        faults.catch(row.what, || on(row.via).judge(port, to, strategy, row.look));
    }
    for heard in &heard {
        faults.catch("neighbour discovery", || heard.neighbours_are_left_alone());
    }
    for (number, row) in raw_rows.iter().enumerate() {
        let (port, to) = ports(raw + number);
        let (src, dst) = (on(Via::Plain).path.src(port), on(Via::Plain).path.dst(to));
        faults.catch(row.what, || on(Via::Plain).judge(port, to, strategy, |e| row.look(e, src, dst)));
    }
    assert!(faults.0.is_empty(), "{strategy}:\n{}\n{}", faults.0.join("\n"), daemons[0].log());
}

#[test]
fn the_label_is_in_every_packet() {
    require_root!();
    every_packet_is_marked(Strategy::LABEL);
}

#[test]
fn the_destination_option_is_in_every_packet() {
    require_root!();
    every_packet_is_marked(Strategy::DESTINATION);
}

#[test]
fn the_hop_by_hop_option_is_in_every_packet() {
    require_root!();
    every_packet_is_marked(Strategy::HOP_BY_HOP);
}

#[test]
fn both_options_are_in_every_packet() {
    require_root!();
    every_packet_is_marked(Strategy::HOP_BY_HOP | Strategy::DESTINATION);
}

#[test]
fn label_and_destination_option_are_in_every_packet() {
    require_root!();
    every_packet_is_marked(Strategy::LABEL | Strategy::DESTINATION);
}

#[test]
fn every_strategy_works_with_every_hook() {
    require_root!();
    for hook in hooks() {
        let hosts = Hosts::new(&format!("strategies-{hook}"));
        let path = Path::over(&hosts.link);
        for strategy in (1..8).filter_map(Strategy::from_bits) {
            println!("FEATURE strategy {strategy} hook={hook}");
            let daemon = hosts.daemon(&config(strategy, hook));
            let capture = hosts.b.capture("eth0", "ip6").expect("capture");
            let port = 40000 + u16::from(strategy.bits());
            transfer(&mut path.connect(port, 5201), &[7; 200_000]);
            let (sender, receiver) = path.udp(port, 5202);
            sender.send(b"datagram").expect("sent");
            assert_eq!(receiver.recv(&mut [0; 100]).expect("received"), 8);
            let frames = capture.stop().expect("captured").frames().expect("frames");
            let all = on_wire(&frames, LinkType::Ethernet);
            for to in [5201, 5202] {
                let packets = of_flow(&all, path.src(port), path.dst(to));
                assert!(!packets.is_empty(), "{hook} {strategy} to {to}: nothing arrived");
                let fault = packets.iter().find_map(|p| Some(p.fault(our_tag(), strategy)? + &p.story()));
                assert_eq!(fault, None, "{hook} {strategy} to {to}");
            }
            daemon.stop();
        }
    }
}
