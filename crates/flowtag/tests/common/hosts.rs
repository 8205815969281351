//! Two hosts, a daemon on the first, and real traffic between them: what the tests of marking share.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::Duration;

use flowtag_testbed::{Captured, Host, Link, Testbed};
use flowtag_wire::{FlowLabel, LinkType, Packet, Tag};

use super::daemon::Daemon;

/// The hooks that this kernel has; what depends on the hook is tested with each.
pub fn hooks() -> Vec<&'static str> {
    let btf = std::fs::read("/sys/kernel/btf/vmlinux").expect("BTF");
    let has_tcx = btf.windows(14).any(|w| w == b"BPF_TCX_EGRESS");
    if has_tcx { vec!["tcx", "clsact"] } else { vec!["clsact"] }
}

/// Two hosts joined by a veth pair.
pub struct Hosts {
    pub a: Host,
    pub b: Host,
    pub link: Link,
    pub bed: Testbed,
}

impl Hosts {
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
        let listener = self.b.run(|| TcpListener::bind(dst)).expect("host b").expect("listen");
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
fn connect_from(src: SocketAddr, dst: SocketAddr) -> TcpStream {
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
        syn: packet.tcp.is_some_and(|t| t.flags.contains(flowtag_wire::packet::TcpFlags::SYN)),
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
