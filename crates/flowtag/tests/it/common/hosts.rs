//! Two hosts, a daemon on the first, and real traffic between them: what the tests of marking share.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::Duration;

use flowtag_testbed::{Captured, Frame, Host, Link, Testbed, TunLink, WAIT, wait_until};
use flowtag_wire::option::Place;
use flowtag_wire::packet::{OptionTag, TcpFlags};
use flowtag_wire::{FlowLabel, Found, LinkType, Packet, Strategy, Tag};

use super::daemon::Daemon;

/// The hooks that this kernel has; what depends on the hook is tested with each, with FLOWTAG_ONE_HOOK only the newest.
pub fn hooks() -> Vec<&'static str> {
    let has_tcx = kernel_has("BPF_TCX_EGRESS");
    let mut hooks = if has_tcx { vec!["tcx", "clsact"] } else { vec!["clsact"] };
    if std::env::var_os("FLOWTAG_ONE_HOOK").is_some() {
        hooks.truncate(1);
    }
    hooks
}

/// Whether the kernel's types know this name.
pub fn kernel_has(name: &str) -> bool {
    let btf = std::fs::read("/sys/kernel/btf/vmlinux").expect("BTF");
    // As a text: the standard library searches it fast also where this program is not optimised.
    String::from_utf8_lossy(&btf).contains(name)
}

/// Two hosts joined by a veth pair.
pub struct Hosts {
    pub a: Host,
    pub b: Host,
    pub link: Link,
    pub bed: Testbed,
}

/// A process that another test is just starting may still hold an earlier listener on that port, until it becomes its
/// program.
#[track_caller]
pub fn listen(at: SocketAddr) -> TcpListener {
    when_free(|| TcpListener::bind(at))
}

/// As [`listen`], for whatever binds.
#[track_caller]
pub fn when_free<T>(bind: impl Fn() -> std::io::Result<T>) -> T {
    let bind = || match bind() {
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Ok(None),
        result => Ok(Some(result?)),
    };
    wait_until("the port to be free", Duration::from_secs(10), bind).expect("bound")
}

impl Hosts {
    /// As [`Self::new`], and a packet that nobody marked has label 0.
    pub fn unlabelled(name: &str) -> Self {
        let hosts = Self::new(name);
        [&hosts.a, &hosts.b].into_iter().for_each(without_kernel_labels);
        hosts
    }

    pub fn new(name: &str) -> Self {
        let bed = Testbed::new(name).expect("a testbed");
        let (a, b) = (bed.host("a").expect("host a"), bed.host("b").expect("host b"));
        let link = bed.link(&a, "eth0", &b, "eth0").expect("a link");
        Self { a, b, link, bed }
    }

    /// The daemon on host a, with these lines of configuration after the usual ones.
    pub fn daemon(&self, toml: &str) -> Daemon {
        Daemon::start_with(toml, self.on_a())
    }

    /// Makes a command that runs on host a.
    pub fn on_a(&self) -> impl FnOnce(&[OsString]) -> Command {
        |args| {
            let mut command = self.a.command(&args[0]);
            command.args(&args[1..]);
            command
        }
    }

    pub fn src(&self, port: u16) -> SocketAddr {
        (self.link.a.ipv6, port).into()
    }

    pub fn dst(&self, port: u16) -> SocketAddr {
        (self.link.b.ipv6, port).into()
    }

    /// A TCP connection from a's `port` to b's `to`: client and server end.
    pub fn connect(&self, port: u16, to: u16) -> (TcpStream, TcpStream) {
        let (src, dst) = (self.src(port), self.dst(to));
        let listener = self.b.run(|| listen(dst)).expect("host b");
        let client = self.a.run(|| connect_from(src, dst)).expect("host a");
        let (server, _) = listener.accept().expect("accept");
        server.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        (client, server)
    }

    pub fn udp(&self, port: u16) -> UdpSocket {
        let src = self.src(port);
        self.a.run(|| UdpSocket::bind(src)).expect("host a").expect("bind")
    }
}

/// The standard library cannot bind before it connects.
pub fn connect_from(src: SocketAddr, dst: SocketAddr) -> TcpStream {
    use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrStorage};
    let socket = socket::socket(AddressFamily::Inet6, SockType::Stream, SockFlag::SOCK_CLOEXEC, None);
    let socket = socket.expect("a socket");
    socket::setsockopt(&socket, socket::sockopt::ReuseAddr, &true).expect("reuse");
    let fd = std::os::fd::AsRawFd::as_raw_fd(&socket);
    socket::bind(fd, &SockaddrStorage::from(src)).expect("bind");
    socket::connect(fd, &SockaddrStorage::from(dst)).expect("connect");
    TcpStream::from(socket)
}

/// Sends `data` and reads it at the other end, byte for byte.
pub fn transfer((client, server): &mut (TcpStream, TcpStream), data: &[u8]) {
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut received = vec![0; data.len()];
            server.read_exact(&mut received).expect("all of it");
            received
        });
        client.write_all(data).expect("sent");
        assert!(reader.join().expect("reader") == data, "the payload arrived as it was sent");
    });
}

/// What a test wants to know of a captured packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub src: SocketAddr,
    pub dst: SocketAddr,
    pub protocol: u8,
    pub label: Option<FlowLabel>,
    pub dscp: u8,
    pub ecn: u8,
    pub hop_limit: u8,
    pub payload: usize,
    pub checksum_ok: Option<bool>,
    pub syn: bool,
    /// TCP sequence number.
    pub seq: Option<u32>,
}

/// All IPv6 packets with ports in a capture of an Ethernet.
pub fn seen(capture: &Captured) -> Vec<Seen> {
    seen_on(capture, LinkType::Ethernet)
}

pub fn seen_on(capture: &Captured, link: LinkType) -> Vec<Seen> {
    assert_eq!(capture.dropped, 0, "tcpdump kept up");
    let frames = capture.frames().expect("a capture");
    frames.iter().filter_map(|frame| Packet::parse(link, &frame.data).ok().and_then(|p| look(&p))).collect()
}

fn look(packet: &Packet<'_>) -> Option<Seen> {
    let ports = packet.ports?;
    Some(Seen {
        src: (packet.src, ports.src).into(),
        dst: (packet.dst, ports.dst).into(),
        protocol: packet.protocol,
        label: packet.flow_label,
        dscp: packet.dscp,
        ecn: packet.ecn,
        hop_limit: packet.hop_limit,
        payload: packet.payload_len.unwrap_or(packet.payload.len()),
        checksum_ok: packet.checksum_ok(),
        syn: packet.tcp.is_some_and(|t| t.flags.contains(TcpFlags::SYN)),
        seq: packet.tcp.map(|t| t.seq),
    })
}

/// Packets from one socket to another.
pub fn between(seen: &[Seen], src: SocketAddr, dst: SocketAddr) -> Vec<Seen> {
    seen.iter().filter(|s| s.src == src && s.dst == dst).cloned().collect()
}

/// The one label that all of these packets carry.
#[track_caller]
pub fn one_label(packets: &[Seen]) -> FlowLabel {
    let labels: std::collections::BTreeSet<_> = packets.iter().filter_map(|p| p.label).collect();
    assert_eq!(labels.len(), 1, "one stable label on {} packets, but {labels:?}", packets.len());
    labels.into_iter().next().expect("one")
}

pub fn tag(experiment: u64, activity: u64) -> Tag {
    Tag::new(experiment, activity).expect("in range")
}

/// Without scope, as the daemon prints it.
pub fn plain(addr: Ipv6Addr, port: u16) -> String {
    SocketAddrV6::new(addr, port, 0, 0).to_string()
}

/// Runs a program on a host; for a daemon on another host than a.
pub fn on(host: &Host) -> impl FnOnce(&[OsString]) -> Command {
    |args| {
        let mut command = host.command(&args[0]);
        command.args(&args[1..]);
        command
    }
}

/// From an address of one host to an address of another, whatever is between them.
#[derive(Clone)]
pub struct Path {
    pub from: Host,
    pub src: Ipv6Addr,
    pub to: Host,
    pub dst: Ipv6Addr,
}

impl Path {
    pub fn new(from: &Host, src: Ipv6Addr, to: &Host, dst: Ipv6Addr) -> Self {
        Self { from: from.clone(), src, to: to.clone(), dst }
    }

    /// From the link's first end to its second.
    pub fn over(link: &Link) -> Self {
        Self::new(&link.a.host, link.a.ipv6, &link.b.host, link.b.ipv6)
    }

    pub fn over_tun(from: &Host, to: &Host, link: &TunLink) -> Self {
        Self::new(from, link.ipv6[0], to, link.ipv6[1])
    }

    pub fn src(&self, port: u16) -> SocketAddr {
        (self.src, port).into()
    }

    pub fn dst(&self, port: u16) -> SocketAddr {
        (self.dst, port).into()
    }

    /// A TCP connection: client and server end.
    pub fn connect(&self, port: u16, to: u16) -> (TcpStream, TcpStream) {
        let (src, dst) = (self.src(port), self.dst(to));
        let listener = self.to.run(|| listen(dst)).expect("the far host");
        let client = self.from.run(|| connect_from(src, dst)).expect("the near host");
        let (server, _) = listener.accept().expect("accept");
        server.set_read_timeout(Some(WAIT)).expect("a timeout");
        (client, server)
    }

    /// Lets TCP wait for at least three seconds, there and back, before it takes a segment for lost: on a busy machine an
    /// answer may be late. `near` and `far` are how the routes go, in the words of `ip route`.
    pub fn wait_long(&self, near: &[&str], far: &[&str]) {
        for (host, to, way) in [(&self.from, self.dst, near), (&self.to, self.src, far)] {
            let to = format!("{to}/128");
            host.ip(&[&["-6", "route", "replace", &to], way, &["rto_min", "3s"]].concat()).expect("a route");
        }
    }

    /// Two UDP sockets: the first sends to the second.
    pub fn udp(&self, port: u16, to: u16) -> (UdpSocket, UdpSocket) {
        let (src, dst) = (self.src(port), self.dst(to));
        let receiver = self.to.run(|| UdpSocket::bind(dst)).expect("the far host").expect("bind");
        receiver.set_read_timeout(Some(WAIT)).expect("a timeout");
        let sender = self.from.run(|| UdpSocket::bind(src)).expect("the near host").expect("bind");
        sender.connect(dst).expect("a route");
        (sender, receiver)
    }
}

/// A captured IPv6 packet with the frame that it came in.
#[derive(Clone)]
pub struct OnWire<'a> {
    pub frame: &'a [u8],
    pub packet: Packet<'a>,
}

impl<'a> std::ops::Deref for OnWire<'a> {
    type Target = Packet<'a>;

    fn deref(&self) -> &Packet<'a> {
        &self.packet
    }
}

impl OnWire<'_> {
    /// Whether it is TCP with all of these flags.
    pub fn has(&self, flags: TcpFlags) -> bool {
        self.tcp.is_some_and(|tcp| tcp.flags.contains(flags))
    }

    /// Bytes that the application sent, also of what segmentation offload has not cut yet.
    pub fn sent(&self) -> usize {
        self.payload_len.unwrap_or(self.payload.len())
    }

    /// What is wrong with the mark on it, if anything: exactly the places of the strategy have this tag, and no other
    /// has any.
    pub fn fault(&self, tag: Tag, strategy: Strategy) -> Option<String> {
        let places = [(Strategy::HOP_BY_HOP, Place::HopByHop), (Strategy::DESTINATION, Place::Destination)];
        let places = places.into_iter().filter(|(part, _)| strategy.contains(*part));
        let wanted: Vec<_> = places.map(|(_, place)| OptionTag { place, found: Found::Tag(tag) }).collect();
        let label = self.flow_label.and_then(FlowLabel::tag);
        if let Some(error) = &self.stopped {
            return Some(format!("it cannot be read: {error}"));
        }
        if self.option_tags != wanted {
            return Some(format!("options {:?} where there should be {wanted:?}", self.option_tags));
        }
        (strategy.contains(Strategy::LABEL) && label != Some(tag))
            .then(|| format!("the label says {label:?}"))
    }

    /// As a failing test tells it.
    pub fn story(&self) -> String {
        let tcp = self.tcp.map(|t| format!(" {} seq {}", t.flags, t.seq)).unwrap_or_default();
        let fragment = self.fragment.map(|f| format!(" {f:?}")).unwrap_or_default();
        let (ports, protocol) = (self.ports.map(|p| (p.src, p.dst)), self.protocol);
        let head = &self.frame[..self.frame.len().min(94)];
        format!(
            "{} bytes, protocol {protocol} {ports:?}{tcp}{fragment}, payload {}: {head:02x?}",
            self.frame.len(),
            self.sent()
        )
    }
}

/// The IPv6 packets among the frames of a capture.
pub fn on_wire(frames: &[Frame], link: LinkType) -> Vec<OnWire<'_>> {
    let packets = frames.iter().filter_map(|frame| {
        let packet = Packet::parse(link, &frame.data).ok()?;
        Some(OnWire { frame: &frame.data, packet })
    });
    packets.filter(|p| p.src.is_ipv6()).collect()
}

/// The packets of one direction of a flow, the later fragments among them, which have no ports.
pub fn of_flow<'a>(all: &[OnWire<'a>], src: SocketAddr, dst: SocketAddr) -> Vec<OnWire<'a>> {
    let addresses = |p: &OnWire<'_>| (p.src, p.dst) == (src.ip(), dst.ip());
    let ports = |p: &OnWire<'_>| p.ports.is_some_and(|p| (p.src, p.dst) == (src.port(), dst.port()));
    let ours = |p: &OnWire<'_>| addresses(p) && ports(p);
    let ids: Vec<u32> = all.iter().filter(|p| ours(p)).filter_map(|p| p.fragment.map(|f| f.id)).collect();
    let later = |p: &OnWire<'_>| addresses(p) && p.fragment.is_some_and(|f| ids.contains(&f.id));
    all.iter().filter(|p| ours(p) || later(p)).cloned().collect()
}

/// Labels of these packets, each once.
pub fn labels(packets: &[OnWire<'_>]) -> Vec<FlowLabel> {
    packets
        .iter()
        .filter_map(|p| p.flow_label)
        .collect::<std::collections::BTreeSet<_>>()
        .into_iter()
        .collect()
}

/// A counter of the host's protocols: `TcpRetransSegs`, `Ip6OutDiscards`, as `nstat` calls them.
pub fn counter(host: &Host, name: &str) -> u64 {
    let read = |file: &str| std::fs::read_to_string(format!("/proc/thread-self/net/{file}"));
    let (v4, v6) = host.run(|| (read("snmp"), read("snmp6"))).expect("the host");
    let (v4, v6) = (v4.expect("counters"), v6.expect("counters"));
    let mut lines = v4.lines();
    let tables = std::iter::from_fn(|| Some((lines.next()?, lines.next()?)));
    let in_tables = tables.flat_map(|(names, values)| {
        let group = names.split(':').next().unwrap_or_default();
        let names = names.split_whitespace().skip(1).map(move |n| format!("{group}{n}"));
        names.zip(values.split_whitespace().skip(1).map(str::to_owned))
    });
    let listed = v6.lines().filter_map(|l| l.split_once(char::is_whitespace));
    let mut all = in_tables.chain(listed.map(|(n, v)| (n.to_owned(), v.trim().to_owned())));
    let (_, value) = all.find(|(n, _)| n == name).unwrap_or_else(|| panic!("no counter {name}"));
    value.parse().expect("a number")
}

/// Lets go of the kernel's own flow labels: what nobody marked has label 0.
fn without_kernel_labels(host: &Host) {
    host.set_sysctl("net/ipv6/auto_flowlabels", "0").expect("flow labels of the kernel");
}

/// Lets TCP send again only what was lost: a probe for a lost tail is a retransmission, too, and is sent early on a
/// busy machine (RFC 8985 §7.2).
pub fn without_tail_probes(host: &Host) {
    host.set_sysctl("net/ipv4/tcp_early_retrans", "0").expect("probes of TCP");
}
