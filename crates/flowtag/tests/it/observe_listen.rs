//! `flowtag listen` on listeners that fall behind.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, OwnedFd};

use crate::common::hosts::Hosts;
use crate::common::observe::{Observing, golden, keys};
use flowtag_testbed::{Host, WAIT, require_root, wait_until};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, connect, listen, setsockopt, socket,
    sockopt,
};
use serde_json::Value;

fn tcp_on(host: &Host) -> OwnedFd {
    let make = || {
        socket(AddressFamily::Inet6, SockType::Stream, SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC, None)
    };
    host.run(make).expect("the host").expect("a socket")
}

fn listener(host: &Host, at: SocketAddr, backlog: i32) -> TcpListener {
    let socket = tcp_on(host);
    setsockopt(&socket, sockopt::ReusePort, &true).expect("several at one port");
    bind(socket.as_raw_fd(), &SockaddrStorage::from(at)).expect("bind");
    listen(&socket, Backlog::new(backlog).expect("a backlog")).expect("listen");
    TcpListener::from(socket)
}

fn connecting(host: &Host, to: SocketAddr) -> OwnedFd {
    let socket = tcp_on(host);
    connect(socket.as_raw_fd(), &SockaddrStorage::from(to)).expect_err("not at once");
    socket
}

/// A counter of `/proc/net/netstat`.
fn extended(host: &Host, name: &str) -> u64 {
    let text = host
        .run(|| std::fs::read_to_string("/proc/thread-self/net/netstat"))
        .expect("the host")
        .expect("counters");
    let mut lines = text.lines().filter(|l| l.starts_with("TcpExt:"));
    let (names, values) = (lines.next().expect("names"), lines.next().expect("values"));
    let found = names.split_whitespace().zip(values.split_whitespace()).find(|(n, _)| *n == name);
    found.expect("the counter").1.parse().expect("a number")
}

/// The latest row of a port.
fn last(records: &[Value], port: u16) -> &Value {
    records.iter().rfind(|r| r["local_port"] == port).unwrap_or_else(|| panic!("no {port} in {records:#?}"))
}

#[test]
fn a_full_backlog_its_peak_and_every_drop_are_told() {
    require_root!();
    let hosts = Hosts::new("listen");
    // Before and after the command began.
    let slow = listener(&hosts.b, hosts.dst(5000), 1);
    let before = connecting(&hosts.a, hosts.dst(5000));
    let table = Observing::start(&hosts.b, &["listen"]);
    let watching = Observing::start(&hosts.b, &["--json", "listen", "-i", "60"]);
    let idle = listener(&hosts.b, hosts.dst(5001), 7);
    let dropped = extended(&hosts.b, "ListenDrops");
    let clients: Vec<_> = (0..6).map(|_| connecting(&hosts.a, hosts.dst(5000))).collect();
    let all_dropped = || Ok((extended(&hosts.b, "ListenDrops") >= dropped + 5).then_some(()));
    wait_until("five to be dropped", WAIT, all_dropped).expect("drops");
    drop(clients);
    let dropped = extended(&hosts.b, "ListenDrops") - dropped;
    slow.accept().expect("the first");
    let (records, _) = watching.stop_json();
    let told = last(&records, 5000);
    assert_eq!(
        (&told["backlog"], &told["backlog_peak"], &told["backlog_limit"]),
        (&1.into(), &2.into(), &1.into()),
        "{told:#?}"
    );
    assert_eq!((&told["drops"], &told["syn_queue"]), (&dropped.into(), &0.into()), "{told:#?}");
    assert_eq!((&told["pid"], &told["sockets"]), (&std::process::id().into(), &1.into()), "{told:#?}");
    let told = last(&records, 5001);
    assert_eq!((&told["backlog_peak"], &told["backlog_limit"]), (&0.into(), &7.into()), "{told:#?}");
    golden("listen.keys", &keys(told), &[]);
    golden(
        "listen.txt",
        &table.stop(),
        &[
            (r"\d\d:\d\d:\d\d\.\d{3}, in all [0-9.]+s", "12:00:00.000, in all 1.0s"),
            (r"(:5000 .* )\d+( +1\n)", "${1}5$2"),
            (r"events .*", "events"),
        ],
    );
    drop((before, idle));
}

#[test]
fn sockets_of_one_process_at_one_port_are_one_row() {
    require_root!();
    let hosts = Hosts::new("listen-many");
    let many: Vec<_> = (0..3).map(|_| listener(&hosts.b, hosts.dst(5000), 10)).collect();
    let watching = Observing::start(&hosts.b, &["--json", "listen", "--port", "5000"]);
    let other = listener(&hosts.b, hosts.dst(5001), 10);
    let clients: Vec<_> = (0..12).map(|_| connecting(&hosts.a, hosts.dst(5000))).collect();
    let all = || Ok((extended(&hosts.b, "ListenDrops") == 0 && waiting(&hosts.b) == 12).then_some(()));
    wait_until("all to wait", WAIT, all).expect("they wait");
    let (records, _) = watching.stop_json();
    assert_eq!(records.len(), 1, "{records:#?}");
    let told = &records[0];
    assert_eq!(
        (&told["backlog"], &told["backlog_limit"], &told["sockets"]),
        (&12.into(), &30.into(), &3.into())
    );
    drop((many, other, clients));
}

/// Connections that wait for the listeners of port 5000, as the kernel's table has it.
fn waiting(host: &Host) -> u64 {
    let text = host
        .run(|| std::fs::read_to_string("/proc/thread-self/net/tcp6"))
        .expect("the host")
        .expect("sockets");
    let listeners =
        text.lines().map(|l| l.split_whitespace().collect::<Vec<_>>()).filter(|f| f.get(3) == Some(&"0A"));
    let queued = |fields: Vec<&str>| {
        fields.get(4)?.split_once(':').and_then(|(_, rx)| u64::from_str_radix(rx, 16).ok())
    };
    listeners.filter_map(queued).sum()
}
