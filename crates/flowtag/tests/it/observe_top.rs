//! `flowtag top` against the counters of the interfaces.

use std::collections::HashMap;
use std::env;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};

use crate::common::hosts::Hosts;
use crate::common::hosts::kernel_has;
use crate::common::observe::{Observing, golden, keys};
use flowtag_testbed::{Host, Process, WAIT, require_root};
use serde_json::Value;

/// What a process of its own is told to send: `tcp ADDRESS BYTES`.
const TASK: &str = "FLOWTAG_TEST_SEND";
const DATAGRAM: usize = 1200;

/// Runs as a process of its own, started by the tests below.
#[test]
#[ignore = "sends what the tests below say"]
fn child() {
    let task = env::var(TASK).expect("a task");
    let [protocol, to, bytes] = task.split(' ').collect::<Vec<_>>()[..] else { panic!("{task:?}") };
    let (to, bytes): (SocketAddr, usize) = (to.parse().expect("to"), bytes.parse().expect("bytes"));
    if protocol == "tcp" {
        let mut stream = TcpStream::connect(to).expect("connect");
        (0..bytes / 100_000).for_each(|_| stream.write_all(&[1; 100_000]).expect("sent"));
        return;
    }
    let socket = UdpSocket::bind("[::]:0").expect("bind");
    for _ in 0..bytes / DATAGRAM {
        socket.send_to(&[1; DATAGRAM], to).expect("sent");
    }
}

fn send(from: &Host, protocol: &str, to: SocketAddr, bytes: usize) -> Process {
    let mut command = from.command(env::current_exe().expect("this program"));
    command
        .args(["--exact", "observe_top::child", "--ignored"])
        .env(TASK, format!("{protocol} {to} {bytes}"));
    Process::spawn(command).expect("a sender")
}

/// Of sent bytes, received bytes, sent packets, received packets.
type Counts = [u64; 4];
const KEYS: [&str; 4] = ["tx_bytes", "rx_bytes", "tx_packets", "rx_packets"];

fn counters(host: &Host, device: &str) -> Counts {
    let text = host.ip(&["-json", "-s", "link", "show", "dev", device]).expect("counters");
    let all: Vec<Value> = serde_json::from_str(&text).expect("JSON");
    let of = |direction: &str, what: &str| all[0]["stats64"][direction][what].as_u64().expect("a number");
    [of("tx", "bytes"), of("rx", "bytes"), of("tx", "packets"), of("rx", "packets")]
}

fn sum<'a>(rows: impl IntoIterator<Item = &'a Value>) -> Counts {
    let mut sums = [0; 4];
    for row in rows {
        sums.iter_mut().zip(KEYS).for_each(|(sum, key)| *sum += row[key].as_u64().expect("a number"));
    }
    sums
}

/// Within 0.01 %, and a few packets that the kernel sends by itself between two looks.
#[track_caller]
fn assert_equal(what: &str, found: Counts, expected: Counts) {
    for ((found, expected), key) in found.into_iter().zip(expected).zip(KEYS) {
        let few = if key.ends_with("packets") { 4 } else { 500 };
        let limit = (expected / 10_000).max(few);
        assert!(found.abs_diff(expected) <= limit, "{what}: {key} {found}, and {expected} by the interface");
    }
}

/// By interface, by process and by peer, until told to stop.
struct Watching<'a> {
    host: &'a Host,
    before: Counts,
    by: HashMap<&'static str, Observing>,
}

impl<'a> Watching<'a> {
    fn start(host: &'a Host) -> Self {
        let start = |by| (by, Observing::start(host, &["--json", "top", "--by", by, "-i", "1h"]));
        let by = ["interface", "pid", "peer"].map(start).into_iter().collect();
        Self { host, before: counters(host, "eth0"), by }
    }

    /// What the interface counted, and the rows by each.
    fn stop(self) -> (Counts, HashMap<&'static str, Vec<Value>>) {
        let after = counters(self.host, "eth0");
        let counted = std::array::from_fn(|n| after[n] - self.before[n]);
        let rows = self.by.into_iter().map(|(by, watching)| (by, watching.stop_json().0)).collect();
        (counted, rows)
    }
}

fn tells_of_senders() -> bool {
    kernel_has("btf_trace_sock_send_length")
}

fn read_all(listener: &TcpListener) -> usize {
    let (mut stream, _) = listener.accept().expect("accept");
    let (mut total, mut buffer) = (0, vec![0; 1 << 20]);
    loop {
        match stream.read(&mut buffer).expect("read") {
            0 => return total,
            read => total += read,
        }
    }
}

#[test]
fn sums_are_those_of_the_interface() {
    require_root!();
    let hosts = Hosts::new("top");
    let (tcp, udp) = (hosts.dst(5001), hosts.dst(5002));
    let listener = hosts.b.run(|| TcpListener::bind(tcp)).expect("host b").expect("bind");
    let _sink = hosts.b.run(|| UdpSocket::bind(udp)).expect("host b").expect("bind");
    assert!(hosts.a.reaches(udp.ip()).expect("ping"));
    let (at_a, at_b) = (Watching::start(&hosts.a), Watching::start(&hosts.b));
    let senders = [
        send(&hosts.a, "tcp", tcp, 60_000_000),
        send(&hosts.a, "tcp", tcp, 40_000_000),
        send(&hosts.a, "udp", udp, 12_000_000),
    ];
    let pids = senders.each_ref().map(Process::pid);
    let received = [read_all(&listener), read_all(&listener)];
    assert_eq!(received.iter().sum::<usize>(), 100_000_000);
    for sender in senders {
        assert!(sender.wait(WAIT).expect("it ends").status.success());
    }
    let (counted, by) = at_a.stop();
    assert!(counted[0] > 112_000_000, "{counted:?}");
    let of_device = by["interface"].iter().filter(|row| row["interface"] == "eth0");
    assert_equal("by interface", sum(of_device), counted);
    for what in ["pid", "peer"] {
        assert_equal(&format!("by {what}"), sum(&by[what]), counted);
    }
    // Who sends datagrams and is gone before anybody looks is only known where the kernel tells of each call (6.3).
    let senders = if tells_of_senders() { 3 } else { 2 };
    for (pid, least) in pids.into_iter().zip([60_000_000, 40_000_000, 12_000_000]).take(senders) {
        let of_pid = sum(by["pid"].iter().filter(|row| row["pid"] == pid));
        assert!(of_pid[0] >= least && of_pid[0] < least + least / 10, "{pid}: {of_pid:?}, {:#?}", by["pid"]);
    }
    golden("top.keys", &keys(&by["pid"][0]), &[]);
    let (counted, by) = at_b.stop();
    assert_equal("by interface, received", sum(&by["interface"]), counted);
    // Datagrams that nobody answers belong to who has the socket.
    let own = sum(by["pid"].iter().filter(|row| row["pid"] == std::process::id()));
    assert!(own[1] >= 112_000_000, "{own:?} of {counted:?}");
}

#[test]
fn the_loopback_interface_and_a_bridge_count_in_their_own_way() {
    require_root!();
    let hosts = Hosts::new("toplo");
    hosts.b.add_bridge("br0", &["eth0"], &["2001:db8:b::2/64"]).expect("a bridge");
    hosts.a.add_address("eth0", "2001:db8:b::1/64").expect("an address");
    let at: SocketAddr = "[2001:db8:b::2]:5001".parse().expect("an address");
    assert!(hosts.a.reaches(at.ip()).expect("ping"));
    for (host, to, device) in
        [(&hosts.a, "[::1]:5001".parse().expect("an address"), "lo"), (&hosts.a, at, "br0")]
    {
        let server = if device == "lo" { host } else { &hosts.b };
        let listener = server.run(|| TcpListener::bind::<SocketAddr>(to)).expect("host").expect("bind");
        let watching = Observing::start(server, &["--json", "top", "--by", "interface", "-i", "1h"]);
        let before = counters(server, device);
        let sender = send(host, "tcp", to, 20_000_000);
        assert_eq!(read_all(&listener), 20_000_000);
        assert!(sender.wait(WAIT).expect("it ends").status.success());
        let after = counters(server, device);
        let rows = watching.stop_json().0;
        let found = sum(rows.iter().filter(|row| row["interface"] == device));
        assert_equal(device, found, std::array::from_fn(|n| after[n] - before[n]));
    }
}

#[test]
fn a_table_says_how_long_it_looked_and_ends_with_all() {
    require_root!();
    let hosts = Hosts::new("toptab");
    let to = hosts.dst(5002);
    let _sink = hosts.b.run(|| UdpSocket::bind(to)).expect("host b").expect("bind");
    let socket = hosts.a.run(|| UdpSocket::bind("[::]:5003")).expect("host a").expect("bind");
    let mut watching = Observing::start(&hosts.a, &["top", "-i", "1", "udp and port 5002"]);
    for _ in 0..100 {
        socket.send_to(&[1; 1000], to).expect("sent");
    }
    watching.wait_for("the last");
    golden(
        "top.txt",
        &watching.stop(),
        &[
            (r" {2,}", "  "),
            (r"\d\d:\d\d:\d\d\.\d{3}", "12:00:00.000"),
            (r"\d+\.\ds:", "1.0s:"),
            (r"(106K.*100  0)  \S+", "$1  106K"),
            (r"flows \d+", "flows 3"),
        ],
    );
}
