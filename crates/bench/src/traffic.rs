//! Real traffic between two hosts.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use flowtag_testbed::{Host, Link, Process, checked};
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrStorage, sockopt};

/// Of iperf3, and of what is not iperf3.
pub(crate) const IPERF: u16 = 5201;
pub(crate) const SERVER: u16 = 5202;
const LIMIT: Duration = Duration::from_secs(20);

/// An iperf3 server that serves one client after the other. The hosts use Reno, which neither paces nor models the path:
/// the speed is what the CPU gives. Without tail loss probes (RFC 8985 §7), as on a CPU that sender and receiver share an
/// acknowledgement is often late: what is sent again was lost.
pub(crate) fn iperf_server(a: &Host, b: &Host) -> Result<Process> {
    for host in [a, b] {
        host.set_sysctl("net/ipv4/tcp_congestion_control", "reno")?;
        host.set_sysctl("net/ipv4/tcp_early_retrans", "0")?;
    }
    let mut command = b.command("iperf3");
    command.args(["--server", "--forceflush"]);
    let mut server = b.spawn(command)?;
    server.wait_for_output("Server listening", LIMIT)?;
    Ok(server)
}

/// What an iperf3 client says at its end. Its streams come from `port` and the ports after it.
pub(crate) fn iperf(a: &Host, link: &Link, port: u16, args: &[&str]) -> Result<serde_json::Value> {
    let mut client = a.command("iperf3");
    client.args(["--json", "--client", &link.b.ipv6.to_string(), "--cport", &port.to_string()]);
    let said: serde_json::Value = serde_json::from_str(&checked(client.args(args))?)?;
    said.get("end").cloned().context("iperf3 did not say how it ended")
}

/// `count` connections from `first` and the ports after it: a few bytes, then the server closes.
pub(crate) fn connections(a: &Host, b: &Host, link: &Link, first: u16, count: u16) -> Result<()> {
    connections_by(connect, b"hello", (a, b), link, first, count)
}

/// How a connection is opened, which decides how it ends.
pub(crate) type Connect = fn(Option<SocketAddr>, SocketAddr) -> Result<TcpStream>;

/// As [`connections`], sending `data`; what the server does not read makes it end in RST.
pub(crate) fn connections_by(
    connect: Connect,
    data: &[u8],
    (a, b): (&Host, &Host),
    link: &Link,
    first: u16,
    count: u16,
) -> Result<()> {
    let to = SocketAddr::from((link.b.ipv6, SERVER));
    let listener = b.run(|| TcpListener::bind(to))??;
    let server = std::thread::spawn(move || (0..count).try_for_each(|_| listener.accept().map(drop)));
    let one = |n| -> Result<()> {
        let mut stream = connect(Some((link.a.ipv6, first + n).into()), to)?;
        stream.write_all(data)?;
        wait_for_end(&mut stream);
        Ok(())
    };
    a.run(|| (0..count).try_for_each(one))??;
    server.join().map_err(|_| anyhow!("the server panicked"))??;
    Ok(())
}

/// A connection that ends in RST: its port can be used again at once.
pub(crate) fn connect(from: Option<SocketAddr>, to: SocketAddr) -> Result<TcpStream> {
    let socket = socket::socket(AddressFamily::Inet6, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    socket::setsockopt(&socket, sockopt::Linger, &nix::libc::linger { l_onoff: 1, l_linger: 0 })?;
    if let Some(from) = from {
        socket::setsockopt(&socket, sockopt::ReuseAddr, &true)?;
        socket::bind(socket.as_raw_fd(), &SockaddrStorage::from(from))?;
    }
    socket::connect(socket.as_raw_fd(), &SockaddrStorage::from(to))?;
    Ok(TcpStream::from(socket))
}

/// A connection that ends in FIN, as most do; its server is left with TIME-WAIT.
pub(crate) fn connect_politely(from: Option<SocketAddr>, to: SocketAddr) -> Result<TcpStream> {
    let stream = connect(from, to)?;
    socket::setsockopt(&stream, sockopt::Linger, &nix::libc::linger { l_onoff: 0, l_linger: 0 })?;
    Ok(stream)
}

/// `rounds` times 50 datagrams of 100 bytes there, each read at once: none is dropped.
pub(crate) fn datagrams_read(a: &Host, b: &Host, link: &Link, port: u16, rounds: usize) -> Result<()> {
    let to = SocketAddr::from((link.b.ipv6, SERVER));
    let receiver = b.run(|| UdpSocket::bind(to))??;
    let sender = a.run(|| UdpSocket::bind((link.a.ipv6, port)))??;
    sender.connect(to)?;
    for _ in 0..rounds {
        (0..50).try_for_each(|_| sender.send(&[0; 100]).map(drop))?;
        (0..50).try_for_each(|_| receiver.recv(&mut [0; 100]).map(drop))?;
    }
    Ok(())
}

/// Waits until the other end closes.
pub(crate) fn wait_for_end(stream: &mut TcpStream) {
    let _ = stream.read(&mut [0; 8]); // an RST is an end, too
}

/// `count` datagrams of 100 bytes.
pub(crate) fn datagrams(a: &Host, b: &Host, link: &Link, port: u16, count: usize) -> Result<()> {
    let to = SocketAddr::from((link.b.ipv6, SERVER));
    let _receiver = b.run(|| UdpSocket::bind(to))??;
    let sender = a.run(|| UdpSocket::bind((link.a.ipv6, port)))??;
    sender.connect(to)?;
    (0..count).try_for_each(|_| sender.send(&[0; 100]).map(drop))?;
    Ok(())
}
