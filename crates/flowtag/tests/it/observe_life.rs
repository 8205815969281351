//! `flowtag life` on connections that end in every way, held against the kernel's own counters.

use std::io::{Read, Write};
use std::net::{Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};

use crate::common::hosts::{Hosts, counter};
use crate::common::observe::{Observing, golden, keys};
use flowtag_testbed::{Host, Impairment, Loss, Testbed, WAIT, require_root, wait_until};
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrStorage, setsockopt, sockopt};
use serde_json::Value;

/// Waits until the host has no TCP socket with a peer any more (TIME-WAIT is no socket).
#[track_caller]
fn wait_for_quiet(host: &Host) {
    let open = || {
        let read =
            |file: &str| std::fs::read_to_string(format!("/proc/thread-self/net/{file}")).expect("sockets");
        let lines = read("tcp") + &read("tcp6");
        // 06: TIME-WAIT, 0A: LISTEN.
        let states = lines.lines().filter_map(|l| l.split_whitespace().nth(3)).filter(|s| *s != "st");
        states.filter(|s| !matches!(*s, "06" | "0A")).count()
    };
    wait_until("all connections to be over", WAIT, || Ok((host.run(open)? == 0).then_some(())))
        .expect("quiet");
}

fn connect_from(host: &Host, to: SocketAddr) -> std::io::Result<TcpStream> {
    host.run(|| TcpStream::connect(to)).expect("the host")
}

/// A socket that is not connected yet.
fn socket_on(host: &Host, flags: SockFlag) -> OwnedFd {
    let make =
        || socket::socket(AddressFamily::Inet6, SockType::Stream, flags | SockFlag::SOCK_CLOEXEC, None);
    host.run(make).expect("the host").expect("a socket")
}

fn try_connect(socket: &OwnedFd, to: SocketAddr) -> nix::Result<()> {
    socket::connect(socket.as_raw_fd(), &SockaddrStorage::from(to))
}

fn reset_on_close(stream: &TcpStream) {
    setsockopt(stream, sockopt::Linger, &nix::libc::linger { l_onoff: 1, l_linger: 0 }).expect("linger");
}

/// Reads until the other end closes.
fn drain(stream: &mut TcpStream) {
    let _ = stream.read_to_end(&mut Vec::new()).expect("to the end");
}

fn pair(client: &Host, listener: &TcpListener) -> (TcpStream, TcpStream) {
    let near = connect_from(client, listener.local_addr().expect("an address")).expect("a connection");
    let (far, _) = listener.accept().expect("accept");
    (near, far)
}

fn count(records: &[Value], key: &str, value: &str) -> u64 {
    records.iter().filter(|r| r[key] == value).count() as u64
}

#[test]
fn every_connection_is_told_once_with_its_bytes() {
    require_root!();
    let hosts = Hosts::new("life");
    let (a, b) = (&hosts.a, &hosts.b);
    let listener = b.run(|| TcpListener::bind(hosts.dst(5000))).expect("host b").expect("bind");
    let opens = || (counter(a, "TcpActiveOpens"), counter(b, "TcpPassiveOpens"));
    let before = opens();
    let near = Observing::start(a, &["--json", "life"]);
    let far = Observing::start(b, &["--json", "life"]);
    let mut expected = Vec::new();
    for n in 0..40_usize {
        let (up, down) = (n * 1500, n * 333);
        let (mut client, mut server) = pair(a, &listener);
        client.write_all(&vec![1; up]).expect("sent");
        server.read_exact(&mut vec![0; up]).expect("received");
        server.write_all(&vec![2; down]).expect("sent");
        client.read_exact(&mut vec![0; down]).expect("received");
        expected.push((client.local_addr().expect("an address").port(), up, down));
        if n % 2 == 0 {
            client.shutdown(Shutdown::Write).expect("closed");
            drain(&mut server);
        } else {
            server.shutdown(Shutdown::Write).expect("closed");
            drain(&mut client);
        }
    }
    for _ in 0..10 {
        connect_from(a, hosts.dst(5001)).expect_err("nobody listens");
    }
    wait_for_quiet(a);
    wait_for_quiet(b);
    let after = opens();
    let ((near, near_summary), (far, far_summary)) = (near.stop_json(), far.stop_json());
    assert_eq!(near.len() as u64, after.0 - before.0, "active: {near:#?}");
    assert_eq!(far.len() as u64, after.1 - before.1, "passive: {far:#?}");
    assert_eq!((near.len(), far.len()), (50, 40));
    assert_eq!((&near_summary["lost"], &far_summary["lost"]), (&0.into(), &0.into()));
    assert_eq!((count(&near, "direction", "active"), count(&far, "direction", "passive")), (50, 40));
    assert_eq!((count(&near, "end", "FIN"), count(&near, "end", "refused")), (40, 10));
    for (n, (port, up, down)) in expected.into_iter().enumerate() {
        let by = if n % 2 == 0 { ["local", "remote"] } else { ["remote", "local"] };
        let end = |records: &[Value], key: &str, by: &str, sent: usize, received: usize| {
            let of: Vec<_> = records.iter().filter(|r| r[key] == port && r["end"] == "FIN").collect();
            assert_eq!(of.len(), 1, "{of:#?}");
            assert_eq!((&of[0]["sent_bytes"], &of[0]["received_bytes"]), (&sent.into(), &received.into()));
            assert_eq!(
                (&of[0]["by"], &of[0]["retransmitted_segments"]),
                (&by.into(), &0.into()),
                "{:#?}",
                of[0]
            );
            assert!(of[0]["connect_us"].is_u64() && of[0]["duration_us"].is_u64(), "{:#?}", of[0]);
            assert!(of[0]["connect_us"].as_u64() <= of[0]["duration_us"].as_u64(), "{:#?}", of[0]);
            assert!(of[0]["start"].as_str() < of[0]["time"].as_str(), "{:#?}", of[0]);
        };
        end(&near, "local_port", by[0], up, down);
        end(&far, "remote_port", by[1], down, up);
    }
}

/// What a connection is recognised by: `(local, remote)` ports seen from host a.
type Ports = (u16, u16);

/// The record of a connection from host a.
#[track_caller]
fn of(records: &[Value], (local, remote): Ports) -> &Value {
    let found: Vec<_> =
        records.iter().filter(|r| r["local_port"] == local && r["remote_port"] == remote).collect();
    assert_eq!(found.len(), 1, "{local} to {remote}: {found:#?} of {records:#?}");
    found[0]
}

fn ports(stream: &TcpStream) -> Ports {
    (stream.local_addr().expect("here").port(), stream.peer_addr().expect("there").port())
}

#[test]
fn how_a_connection_ends_is_told_by_both_ends() {
    require_root!();
    let hosts = Hosts::new("life-ends");
    let (a, b) = (&hosts.a, &hosts.b);
    let listener = b.run(|| TcpListener::bind(hosts.dst(5000))).expect("host b").expect("bind");
    let near = Observing::start(a, &["--json", "life"]);
    let far = Observing::start(b, &["--json", "life"]);
    let mut expected = Vec::new();
    let mut expect = |ports, near, far| expected.push((ports, near, far));

    let (client, server) = pair(a, &listener);
    expect(ports(&client), ("RST", "local"), ("RST", "remote"));
    reset_on_close(&client);
    drop(client);
    wait_for_quiet(b);
    drop(server);

    let (client, server) = pair(a, &listener);
    expect(ports(&client), ("RST", "remote"), ("RST", "local"));
    reset_on_close(&server);
    drop(server);
    wait_for_quiet(a);
    drop(client);

    let (mut client, server) = pair(a, &listener);
    expect(ports(&client), ("RST", "remote"), ("RST", "local"));
    client.write_all(b"nobody reads this").expect("sent");
    let arrived = || Ok((server.peek(&mut [0; 1])? > 0).then_some(()));
    wait_until("the data to arrive", WAIT, arrived).expect("data");
    drop(server);
    wait_for_quiet(a);
    drop(client);

    let (client, server) = pair(a, &listener);
    expect(ports(&client), ("RST", "local"), ("RST", "remote"));
    client.shutdown(Shutdown::Write).expect("half closed");
    let mut server = server;
    drain(&mut server);
    reset_on_close(&client);
    drop(client);
    wait_for_quiet(b);
    drop(server);

    // Nobody accepts it, and its listener goes.
    let other = b.run(|| TcpListener::bind(hosts.dst(5002))).expect("host b").expect("bind");
    let client = connect_from(a, hosts.dst(5002)).expect("a connection");
    expect(ports(&client), ("RST", "remote"), ("RST", "local"));
    drop(other);
    wait_for_quiet(a);
    drop(client);

    wait_for_quiet(b);
    let (near, far) = (near.stop_json().0, far.stop_json().0);
    for ((local, remote), here, there) in expected {
        let here_told = of(&near, (local, remote));
        assert_eq!((&here_told["end"], &here_told["by"]), (&here.0.into(), &here.1.into()), "{here_told:#?}");
        let there_told = of(&far, (remote, local));
        assert_eq!(
            (&there_told["end"], &there_told["by"]),
            (&there.0.into(), &there.1.into()),
            "{there_told:#?}"
        );
    }
}

#[test]
fn attempts_that_fail_are_told_with_their_reason() {
    require_root!();
    let bed = Testbed::new("life-failed").expect("a testbed");
    let (a, b) = (bed.host("a").expect("host a"), bed.host("b").expect("host b"));
    let link = bed.impaired_link(&a, &b, Impairment::default()).expect("a link");
    for (key, value) in [("mcast_solicit", "1"), ("ucast_solicit", "1"), ("retrans_time_ms", "100")] {
        a.set_sysctl(&format!("net/ipv6/neigh/eth0/{key}"), value).expect("neighbours");
    }
    a.set_sysctl("net/ipv4/tcp_syn_retries", "1").expect("SYN retries");
    let listener = b.run(|| TcpListener::bind((link.b.ipv6, 5000))).expect("host b").expect("bind");
    let before = counter(&a, "TcpActiveOpens");
    let watching = Observing::start(&a, &["--json", "life"]);
    let to = |port| SocketAddr::from((link.b.ipv6, port));

    // What is on its way is lost for good, and the user does not want to wait long.
    let (mut client, server) = pair(&a, &listener);
    let all_lost =
        Impairment { loss: Loss::EveryNth(1), loss_back: Loss::EveryNth(1), ..Impairment::default() };
    setsockopt(&client, sockopt::TcpUserTimeout, &300).expect("a time-out");
    let lost = ports(&client);
    link.set(&all_lost);
    client.write_all(&[1; 100]).expect("queued");
    // Not by SO_ERROR: who takes the error may be faster than the kernel's word of it.
    wait_for_quiet(&a);
    drop((client, server));

    connect_from(&a, to(5001)).expect_err("a black hole");
    let hasty = socket_on(&a, SockFlag::SOCK_NONBLOCK);
    try_connect(&hasty, to(5002)).expect_err("not yet");
    drop(hasty);
    link.set(&Impairment::default());
    connect_from(&a, to(5003)).expect_err("nobody listens");
    let mut nobody = link.b.ipv6.segments();
    nobody[7] = 0x99;
    connect_from(&a, (Ipv6Addr::from(nobody), 5004).into()).expect_err("no such host");
    wait_for_quiet(&a);

    let opens = counter(&a, "TcpActiveOpens") - before;
    let (records, _) = watching.stop_json();
    assert_eq!((records.len() as u64, opens), (5, 5), "{records:#?}");
    let told = of(&records, lost);
    assert_eq!((&told["end"], &told["sent_bytes"]), (&"timeout".into(), &0.into()), "{told:#?}");
    assert!(told["retransmitted_segments"].as_u64() > Some(0), "{told:#?}");
    for (port, end, by) in [
        (5001, "timeout", Value::Null),
        (5002, "aborted", "local".into()),
        (5003, "refused", "remote".into()),
        (5004, "unreachable", Value::Null),
    ] {
        let told: Vec<_> = records.iter().filter(|r| r["remote_port"] == port).collect();
        assert_eq!(told.len(), 1, "{told:#?}");
        assert_eq!((&told[0]["end"], &told[0]["by"]), (&end.into(), &by), "{:#?}", told[0]);
        assert_eq!((&told[0]["connect_us"], &told[0]["pid"]), (&Value::Null, &std::process::id().into()));
        let sent = told[0]["sent_segments"].as_u64().expect("a number");
        assert_eq!((&told[0]["syn_retries"], sent >= 1), (&(sent - 1).into(), true), "{:#?}", told[0]);
        assert_eq!(sent > 1, port == 5001, "{:#?}", told[0]);
    }
}

#[test]
fn parts_of_the_handshake_that_were_sent_again_are_counted_at_both_ends() {
    require_root!();
    let bed = Testbed::new("life-syn").expect("a testbed");
    let (a, b) = (bed.host("a").expect("host a"), bed.host("b").expect("host b"));
    // The first SYN-ACK: both ends send theirs again.
    let lossy = Impairment { loss_back: Loss::these(&[1]), ..Impairment::default() };
    let link = bed.impaired_link(&a, &b, lossy).expect("a link");
    let listener = b.run(|| TcpListener::bind((link.b.ipv6, 5000))).expect("host b").expect("bind");
    let near = Observing::start(&a, &["--json", "life"]);
    let far = Observing::start(&b, &["--json", "life"]);
    let (client, server) = pair(&a, &listener);
    drop(client);
    drop(server);
    wait_for_quiet(&a);
    wait_for_quiet(&b);
    let (near, far) = (near.stop_json().0, far.stop_json().0);
    assert_eq!((near.len(), far.len()), (1, 1), "{near:#?}{far:#?}");
    assert_eq!(near[0]["syn_retries"], 1, "{:#?}", near[0]);
    assert!(near[0]["connect_us"].as_u64() > Some(500_000), "{:#?}", near[0]);
    assert!(far[0]["syn_retries"].as_u64() > Some(0), "{:#?}", far[0]);
    assert_eq!(far[0]["connect_us"], Value::Null, "when it began is not known: {:#?}", far[0]);
}

#[test]
fn the_table_and_json_are_as_documented() {
    require_root!();
    let hosts = Hosts::new("life-table");
    let listener = hosts.b.run(|| TcpListener::bind(hosts.dst(5000))).expect("host b").expect("bind");
    // Wide enough for the same columns of the sums, however long the times are.
    let mut table = Observing::start_on(84, &hosts.a, &["life", "--open"]);
    let json = Observing::start(&hosts.a, &["--json", "life", "--open"]);
    let _held = hosts.connect(40001, 5001);
    let (mut client, mut server) = hosts.connect(40000, 5002);
    client.write_all(&[1; 1200]).expect("sent");
    server.read_exact(&mut [0; 1200]).expect("received");
    drop(client);
    drain(&mut server);
    drop(server);
    table.wait_for("FIN");
    drop(listener);
    let (records, summary) = json.stop_json();
    assert_eq!(records.len(), 2, "{records:#?}");
    assert_eq!(summary["events"], 1, "an open connection is no event");
    assert_eq!((&records[1]["end"], &records[1]["local_port"]), (&"open".into(), &40001.into()));
    golden("life.keys", &keys(&records[0]), &[]);
    golden(
        "life.txt",
        &table.stop(),
        &[
            (r"\d\d:\d\d:\d\d\.\d{3}", "12:00:00.000"),
            // Of another length in each testbed.
            (r"fd00:[0-9a-f:]+…", "fd00…"),
            (r" +[0-9.]+(ns|us|ms|s)\b", " 1ms"),
            // A column of sums is as wide as what is in it.
            (" +", " "),
            (r"flows \d+", "flows N"),
        ],
    );
}
