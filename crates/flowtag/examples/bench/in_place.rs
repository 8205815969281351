//! The program where it works: added time per run on real traffic, with caches as they are, by the kernel's own
//! statistics (`kernel.bpf_stats_enabled`).

use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result};
use flowtag_kernel::mark::{HookChoice, Key, Marker, Settings};
use flowtag_testbed::{Host, Link, Testbed, checked};
use flowtag_wire::{Endpoint, Entropy, FlowLabel, Protocol, Tag};

use crate::report::{Figure, Report};

const ROUNDS: usize = 11;
const CONNECTIONS: u16 = 300;
const DATAGRAMS: usize = 20_000;
const SERVER: u16 = 5201;
pub(crate) const SYSCTL: &str = "/proc/sys/kernel/bpf_stats_enabled";

#[derive(Debug, Clone, Copy, PartialEq)]
enum Way {
    Empty,
    Miss,
    Marked,
}

const WAYS: [Way; 3] = [Way::Empty, Way::Miss, Way::Marked];

type Traffic = fn(&Host, &Host, &Link) -> Result<()>;

pub(crate) fn run(report: &mut Report) -> Result<()> {
    report.section(
        "In place",
        "ns per run of the program on real traffic over a veth pair, by the kernel's statistics, whose clock is in all \
         of them; then what is added to an empty program, pair by pair. 10,000 \
         other flows are in the table.",
        &["traffic", "empty", "not announced", "marked", "not announced − empty", "marked − empty"],
    );
    let before = std::fs::read_to_string(SYSCTL).context("the kernel's statistics")?;
    std::fs::write(SYSCTL, "1").context("switching the kernel's statistics on")?;
    let result = measure(report);
    std::fs::write(SYSCTL, before)?;
    result
}

fn measure(report: &mut Report) -> Result<()> {
    let bed = Testbed::new("inplace")?;
    let (a, b) = (bed.host("a")?, bed.host("b")?);
    let link = bed.link(&a, "eth0", &b, "eth0")?;
    let traffics: [(&str, Traffic); 3] =
        [("one bulk TCP stream", bulk), ("short TCP connections", short), ("UDP, 100 bytes", udp)];
    for (name, traffic) in traffics {
        let mut columns = WAYS.map(|_| Vec::new());
        for round in 0..ROUNDS {
            for step in 0..WAYS.len() {
                let index = (round + step) % WAYS.len();
                columns[index].push(one((&a, &b, &link), WAYS[index], traffic)?);
            }
        }
        let added =
            |way: usize| -> Vec<f64> { columns[way].iter().zip(&columns[0]).map(|(x, e)| x - e).collect() };
        let figures =
            [&columns[0], &columns[1], &columns[2], &added(1), &added(2)].map(|c| Figure::of(c).show(0));
        report.row(&[&[name.to_owned()][..], &figures].concat());
    }
    Ok(())
}

fn one((a, b, link): (&Host, &Host, &Link), way: Way, traffic: Traffic) -> Result<f64> {
    let marker = a.run(|| attach(link, way))??;
    traffic(a, b, link)?;
    let (ns, runs) = libbpf_rs::query::ProgInfoIter::default()
        .filter(|p| ["flowtag_mark", "flowtag_empty"].iter().any(|name| p.name == *name))
        .fold((0, 0), |(ns, runs), p| (ns + p.run_time_ns, runs + p.run_cnt));
    a.run(|| drop(marker))?;
    Ok(ns as f64 / runs as f64)
}

fn attach(link: &Link, way: Way) -> Result<Marker> {
    let mut marker = Marker::load(&Settings::default())?;
    let eth0 = flowtag_kernel::link::find("eth0")?;
    if way == Way::Empty {
        marker.attach_empty(&eth0, HookChoice::Auto)?;
        return Ok(marker);
    }
    let label = FlowLabel::from_tag(Tag::new(3, 14)?, Entropy::NONE);
    let key = |protocol, address: std::net::Ipv6Addr, port| {
        let remote = Endpoint::new(link.b.ipv6.into(), SERVER);
        Key { protocol, local: Endpoint::new(address.into(), port), remote }
    };
    let elsewhere = "2001:db8::1".parse()?;
    (1..=10_000).try_for_each(|port| marker.set(&key(Protocol::Tcp, elsewhere, port), label.into(), 0))?;
    if way == Way::Marked {
        let ours = link.a.ipv6;
        (0..CONNECTIONS).try_for_each(|n| marker.set(&key(Protocol::Tcp, ours, port(n)), label.into(), 0))?;
        marker.set(&key(Protocol::Udp, ours, port(0)), label.into(), 0)?;
    }
    marker.attach(&eth0, HookChoice::Auto)?;
    Ok(marker)
}

const fn port(n: u16) -> u16 {
    40000 + n
}

fn bulk(a: &Host, b: &Host, link: &Link) -> Result<()> {
    let mut server = b.command("iperf3");
    server.args(["--server", "--one-off", "--forceflush"]);
    let mut server = b.spawn(server)?;
    server.wait_for_output("Server listening", Duration::from_secs(20))?;
    let mut client = a.command("iperf3");
    client.args(["--client", &link.b.ipv6.to_string(), "--cport", &port(0).to_string(), "--bytes", "1G"]);
    checked(&mut client)?;
    server.wait(Duration::from_secs(20))?;
    Ok(())
}

/// Connect, a few bytes, close; from ports that are known beforehand.
fn short(a: &Host, b: &Host, link: &Link) -> Result<()> {
    let address = SocketAddr::from((link.b.ipv6, SERVER));
    let listener = b.run(|| TcpListener::bind(address))??;
    let server = std::thread::spawn(move || (0..CONNECTIONS).try_for_each(|_| listener.accept().map(drop)));
    a.run(|| (0..CONNECTIONS).try_for_each(|n| connect((link.a.ipv6, port(n)).into(), address)))??;
    server.join().map_err(|_| anyhow::anyhow!("the server panicked"))??;
    Ok(())
}

fn connect(from: SocketAddr, to: SocketAddr) -> Result<()> {
    use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrStorage, sockopt};
    use std::io::{Read, Write};
    use std::os::fd::AsRawFd;
    let socket = socket::socket(AddressFamily::Inet6, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    socket::setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    // The next round uses the port again: RST instead of TIME_WAIT.
    socket::setsockopt(&socket, sockopt::Linger, &nix::libc::linger { l_onoff: 1, l_linger: 0 })?;
    socket::bind(socket.as_raw_fd(), &SockaddrStorage::from(from))?;
    socket::connect(socket.as_raw_fd(), &SockaddrStorage::from(to))?;
    let mut stream = TcpStream::from(socket);
    stream.write_all(b"hello")?;
    let _ = stream.read(&mut [0; 8]); // until the server closes
    Ok(())
}

fn udp(a: &Host, b: &Host, link: &Link) -> Result<()> {
    let to = SocketAddr::from((link.b.ipv6, SERVER));
    let _receiver = b.run(|| UdpSocket::bind(to))??;
    let sender = a.run(|| UdpSocket::bind((link.a.ipv6, port(0))))??;
    sender.connect(to)?;
    for _ in 0..DATAGRAMS {
        sender.send(&[0; 100])?;
    }
    Ok(())
}
