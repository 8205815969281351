//! `flowtag latency` on real connections: each of its four times measured where it is known what it must be.

use std::io::{self, Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use crate::common;
use crate::common::observe::{Observing, golden, keys};
use flowtag_kernel::mark::Key;
use flowtag_kernel::tcp_info::Inquiry;
use flowtag_testbed::{Host, Impairment, Loss, Testbed, WAIT, require_root};
use flowtag_wire::Protocol;
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrStorage};
use serde_json::Value;

/// Each way, so that no round trip takes less than twice that.
const DELAY: Duration = Duration::from_millis(20);

fn listen(host: &Host, at: SocketAddr) -> TcpListener {
    host.run(|| common::hosts::listen(at)).expect("the host")
}

fn connect(host: &Host, to: SocketAddr) -> io::Result<TcpStream> {
    host.run(|| TcpStream::connect(to)).expect("the host")
}

/// A connection from a host to an address of another.
fn joined(a: &Host, b: &Host, at: SocketAddr) -> (TcpStream, TcpStream) {
    let listener = listen(b, at);
    let client = connect(a, at).expect("connect");
    let (server, _) = listener.accept().expect("accept");
    [&client, &server].into_iter().for_each(|s| s.set_read_timeout(Some(WAIT)).expect("a timeout"));
    (client, server)
}

/// Sends a byte, and reads one at the other end.
fn pass(from: &mut TcpStream, to: &mut TcpStream) {
    from.write_all(&[1]).expect("sent");
    to.read_exact(&mut [0]).expect("received");
}

fn with<'a>(records: &'a [Value], key: &str, value: &str) -> &'a Value {
    let found = records.iter().find(|r| r[key] == value);
    found.unwrap_or_else(|| panic!("none with {key} {value}: {records:#?}"))
}

fn number(record: &Value, key: &str) -> f64 {
    record[key].as_f64().unwrap_or_else(|| panic!("no number {key} in {record}"))
}

/// What differs from run to run. A router's answer counts at once, or with the SYN that is sent again: as the kernel was busy
/// with the socket when it came.
const VARIES: [(&str, &str); 5] = [
    (r"\d\d:\d\d:\d\d\.\d{3}", "12:00:00.000"),
    (r"[0-9.]+(ns|us|ms|s)\b", "1ms"),
    (r"\]:\d{5} ", "]:40000 "),
    (r"(unreachable (?:1 )?1ms) [01]", "$1 1"),
    (r"flows \d+", "flows 9"),
];

fn squeeze(text: &str) -> String {
    let lines = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
    lines.collect::<Vec<_>>().join("\n") + "\n"
}

#[test]
fn an_attempt_to_connect_is_told_with_what_came_of_it() {
    require_root!();
    let bed = Testbed::new("latency-connect").expect("a testbed");
    let (a, router, b) = (bed.host("a").expect("a"), bed.host("r").expect("r"), bed.host("b").expect("b"));
    let chain = bed.chain((&a, "eth0"), &router, (&b, "eth0"), &Default::default()).expect("links");
    let nowhere: Ipv6Addr = "2001:db8:dead::1".parse().expect("an address");
    a.add_route("2001:db8:dead::/48", &["via", &chain.near.b.ipv6.to_string()]).expect("a route");
    // The router has no route there, and says so.
    a.set_sysctl("net/ipv4/tcp_syn_retries", "1").expect("few retries");
    let table = Observing::start(&a, &["latency", "connect"]);
    let watching = Observing::start(&a, &["--json", "latency", "connect"]);
    let _listener = listen(&b, (chain.far.b.ipv6, 5000).into());
    connect(&a, (chain.far.b.ipv6, 5000).into()).expect("accepted");
    let refused = connect(&a, (chain.far.b.ipv6, 5001).into()).expect_err("nobody listens");
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    connect(&a, (nowhere, 5002).into()).expect_err("no way there");
    // No way at all, and one that the administrator closed: the kernel says so without a SYN.
    let no_route = connect(&a, "[2001:db8:beef::1]:5003".parse().expect("an address")).expect_err("no route");
    assert_eq!(no_route.kind(), io::ErrorKind::NetworkUnreachable);
    a.ip(&["-6", "route", "add", "unreachable", "2001:db8:bad::/48"]).expect("a route");
    let closed = connect(&a, "[2001:db8:bad::1]:5004".parse().expect("an address")).expect_err("no way");
    assert_eq!(closed.kind(), io::ErrorKind::HostUnreachable);
    let (records, summary) = watching.stop_json();
    let outcomes: Vec<_> = records.iter().map(|r| r["outcome"].as_str().expect("an outcome")).collect();
    assert_eq!(outcomes, ["ok", "refused", "unreachable", "unsent", "unsent"], "{records:#?}");
    for record in &records {
        assert_eq!(record["pid"], std::process::id());
    }
    assert!(records[..3].iter().all(|r| number(r, "latency_us") > 0.0), "{records:#?}");
    assert_eq!(
        (&records[4]["remote_address"], &records[4]["latency_us"]),
        (&"2001:db8:bad::1".into(), &Value::Null)
    );
    assert_eq!((&summary["events"], &summary["lost"]), (&5.into(), &0.into()));
    golden("latency-connect.keys", &keys(&records[0]), &[]);
    golden("latency-connect.txt", &squeeze(&table.stop()), &VARIES);
}

#[test]
fn a_connection_that_nobody_answers_times_out_after_its_retries() {
    require_root!();
    let bed = Testbed::new("latency-timeout").expect("a testbed");
    let (a, b) = (bed.host("a").expect("host a"), bed.host("b").expect("host b"));
    let lossy = Impairment { loss: Loss::EveryNth(1), ..Impairment::default() };
    let link = bed.impaired_link(&a, &b, lossy).expect("a link");
    a.set_sysctl("net/ipv4/tcp_syn_retries", "1").expect("few retries");
    let watching = Observing::start(&a, &["--json", "latency", "connect"]);
    let failed = connect(&a, (link.b.ipv6, 5000).into()).expect_err("all is lost");
    assert_eq!(failed.kind(), io::ErrorKind::TimedOut);
    // One that the application gives up.
    let given_up = a.run(|| start_connecting((link.b.ipv6, 5001).into())).expect("host a");
    drop(given_up);
    let (records, _) = watching.stop_json();
    let timeout = with(&records, "outcome", "timeout");
    println!("{timeout}");
    assert!(number(timeout, "syn_retries") >= 1.0, "{timeout}");
    assert!(number(timeout, "latency_us") >= 2e6, "{timeout}");
    assert_eq!(with(&records, "outcome", "aborted")["remote_port"], 5001);
}

/// Without waiting.
fn start_connecting(to: SocketAddr) -> std::os::fd::OwnedFd {
    let family = AddressFamily::Inet6;
    let socket = socket::socket(family, SockType::Stream, SockFlag::SOCK_NONBLOCK, None).expect("a socket");
    let begun = socket::connect(std::os::fd::AsRawFd::as_raw_fd(&socket), &SockaddrStorage::from(to));
    assert_eq!(begun, Err(nix::errno::Errno::EINPROGRESS));
    socket
}

#[test]
fn round_trips_take_as_long_as_the_path() {
    require_root!();
    let bed = Testbed::new("latency-rtt").expect("a testbed");
    let (a, b) = (bed.host("a").expect("host a"), bed.host("b").expect("host b"));
    let link =
        bed.impaired_link(&a, &b, Impairment { delay: DELAY, ..Impairment::default() }).expect("a link");
    // One that is open before anybody looks, and one after.
    let mut old = joined(&a, &b, (link.b.ipv6, 5000).into());
    let mut watching = Observing::start(&a, &["--json", "latency", "rtt", "--by", "flow", "-i", "0.2"]);
    let bars = Observing::start(&a, &["latency", "rtt", "--by", "prefix", "--histogram"]);
    let table = Observing::start(&a, &["latency", "rtt"]);
    let mut new = joined(&a, &b, (link.b.ipv6, 5001).into());
    for _ in 0..10 {
        for (client, server) in [&mut old, &mut new] {
            pass(client, server);
            pass(server, client);
        }
    }
    watching.wait_for("]:5000");
    watching.wait_for("]:5001");
    let (records, summary) = watching.stop_json();
    for port in ["]:5000", "]:5001"] {
        let of = |r: &&Value| r["flow"].as_str().is_some_and(|flow| flow.ends_with(port));
        let samples: f64 = records.iter().filter(of).map(|r| number(r, "samples")).sum();
        assert!((1.0..=40.0).contains(&samples), "{samples} samples of {port}: {records:#?}");
        for record in records.iter().filter(of) {
            assert!(number(record, "min_us") >= 40e3, "{record}");
            assert!(number(record, "p50_us") >= 40e3 * 0.9375, "{record}");
        }
    }
    assert_eq!((&summary["lost"], &summary["evicted"]), (&0.into(), &0.into()));
    golden("latency-rtt.keys", &keys(&records[0]), &[]);
    let samples = [&VARIES[..], &[(r" \d+ 1ms", " 9 1ms")]].concat();
    golden("latency-rtt.txt", &squeeze(&table.stop()), &samples);
    let text = bars.stop();
    let prefix = format!("{}/64", Ipv6Addr::from(link.b.ipv6.to_bits() >> 64 << 64));
    assert!(text.contains(&prefix) && text.contains('█'), "{text}");
}

#[test]
fn the_median_is_that_of_the_kernels_own_estimate() {
    require_root!();
    let bed = Testbed::new("latency-median").expect("a testbed");
    let (a, b) = (bed.host("a").expect("host a"), bed.host("b").expect("host b"));
    let link =
        bed.impaired_link(&a, &b, Impairment { delay: DELAY, ..Impairment::default() }).expect("a link");
    let watching = Observing::start(&a, &["--json", "latency", "rtt"]);
    let (mut client, mut server) = joined(&a, &b, (link.b.ipv6, 5000).into());
    for _ in 0..20 {
        pass(&mut client, &mut server);
        pass(&mut server, &mut client);
    }
    let least = min_rtt(&a, &client);
    let (records, _) = watching.stop_json();
    let record = with(&records, "peer", &link.b.ipv6.to_string());
    assert!(number(record, "samples") >= 5.0, "{record}");
    assert!(number(record, "p50_us") >= least * 0.9375, "not below the kernel's {least}: {record}");
    assert!(number(record, "min_us") >= least, "no sample below the kernel's least, {least}: {record}");
}

/// The shortest round trip in µs that the kernel says it has seen.
fn min_rtt(host: &Host, stream: &TcpStream) -> f64 {
    let (local, remote) = (stream.local_addr().expect("an address"), stream.peer_addr().expect("a peer"));
    let key = Key { protocol: Protocol::Tcp, local: local.into(), remote: remote.into() };
    let ask = || Inquiry::open().expect("sock_diag").one(&key).expect("an answer");
    host.run(ask).expect("the host").expect("the socket").info.min_rtt.into()
}

#[test]
fn data_that_nobody_reads_waits() {
    require_root!();
    let bed = Testbed::new("latency-delay").expect("a testbed");
    let (a, b) = (bed.host("a").expect("host a"), bed.host("b").expect("host b"));
    let link = bed.link(&a, "eth0", &b, "eth0").expect("a link");
    let watching = Observing::start(&b, &["--json", "latency", "delay", "--by", "flow"]);
    let table = Observing::start(&b, &["latency", "delay"]);
    let (mut client, mut server) = joined(&a, &b, (link.b.ipv6, 5000).into());
    for _ in 0..3 {
        client.write_all(&[1; 100]).expect("sent");
        // It is looked at, which is not reading, and waits for what nobody reads in time.
        server.peek(&mut [0; 100]).expect("it came");
        thread::sleep(Duration::from_millis(200));
        server.read_exact(&mut [0; 100]).expect("received");
    }
    let (records, summary) = watching.stop_json();
    assert_eq!(records.len(), 1, "{records:#?}");
    assert_eq!(records[0]["samples"], 3);
    assert!(number(&records[0], "min_us") >= 200e3, "{}", records[0]);
    assert_eq!(summary["lost"], 0);
    golden("latency-delay.keys", &keys(&records[0]), &[]);
    golden("latency-delay.txt", &squeeze(&table.stop()), &VARIES);
}

#[test]
fn a_request_is_timed_on_both_sides_of_the_same_path() {
    require_root!();
    let bed = Testbed::new("latency-request").expect("a testbed");
    let (a, b) = (bed.host("a").expect("host a"), bed.host("b").expect("host b"));
    let link =
        bed.impaired_link(&a, &b, Impairment { delay: DELAY, ..Impairment::default() }).expect("a link");
    let asking = Observing::start(&a, &["--json", "latency", "request", "--by", "flow"]);
    let answering = Observing::start(&b, &["--json", "latency", "request", "--by", "flow"]);
    let table = Observing::start(&a, &["latency", "request"]);
    let (mut client, mut server) = joined(&a, &b, (link.b.ipv6, 5000).into());
    for _ in 0..3 {
        // A burst: only its last byte counts.
        client.write_all(&[1]).expect("sent");
        thread::sleep(Duration::from_millis(50));
        client.write_all(&[1]).expect("sent");
        server.read_exact(&mut [0; 2]).expect("received");
        thread::sleep(Duration::from_millis(100));
        server.write_all(&[1; 3000]).expect("sent");
        client.read_exact(&mut [0; 3000]).expect("received");
    }
    let (asked, _) = asking.stop_json();
    let (answered, _) = answering.stop_json();
    for (records, what, at_least) in
        [(&asked, "answer", 140e3), (&asked, "peer", 90e3), (&answered, "serve", 100e3)]
    {
        let record = with(records, "what", what);
        assert_eq!((&record["samples"], &record["skipped"]), (&3.into(), &0.into()), "{record}");
        assert!(number(record, "min_us") >= at_least, "{record}");
    }
    let (answer, peer) = (number(with(&asked, "what", "answer"), "sum_us"), with(&asked, "what", "peer"));
    assert!(number(peer, "sum_us") <= answer - 3.0 * 40e3, "the round trip is taken off: {asked:#?}");
    assert_eq!((asked.len(), answered.len()), (2, 1), "each end has its own view");
    golden("latency-request.keys", &keys(&asked[0]), &[]);
    golden("latency-request.txt", &squeeze(&table.stop()), &VARIES);
}

#[test]
fn what_is_sent_before_the_reply_is_complete_is_no_request() {
    require_root!();
    let bed = Testbed::new("latency-overlap").expect("a testbed");
    let (a, b) = (bed.host("a").expect("host a"), bed.host("b").expect("host b"));
    let link =
        bed.impaired_link(&a, &b, Impairment { delay: DELAY, ..Impairment::default() }).expect("a link");
    let watching = Observing::start(&a, &["--json", "latency", "request", "--by", "flow"]);
    let (mut client, mut server) = joined(&a, &b, (link.b.ipv6, 5000).into());
    // Neither has what the other sent when it sends itself: the packets cross.
    for _ in 0..3 {
        client.write_all(&[1]).expect("sent");
        server.write_all(&[1]).expect("sent");
        server.read_exact(&mut [0]).expect("received");
        client.read_exact(&mut [0]).expect("received");
    }
    let (records, _) = watching.stop_json();
    let skipped: f64 = records.iter().map(|r| number(r, "skipped")).sum();
    let samples: f64 = records.iter().map(|r| number(r, "samples")).sum();
    assert!(skipped >= 1.0 && samples <= 4.0, "crossing packets are no requests and replies: {records:#?}");
}

#[test]
fn all_of_them_are_in_one_table() {
    require_root!();
    let bed = Testbed::new("latency-all").expect("a testbed");
    let (a, b) = (bed.host("a").expect("host a"), bed.host("b").expect("host b"));
    let link = bed.link(&a, "eth0", &b, "eth0").expect("a link");
    let watching = Observing::start(&a, &["latency"]);
    let (mut client, mut server) = joined(&a, &b, (link.b.ipv6, 5000).into());
    connect(&a, (link.b.ipv6, 5001).into()).expect_err("nobody listens");
    for _ in 0..3 {
        pass(&mut client, &mut server);
        pass(&mut server, &mut client);
    }
    let text = watching.stop();
    let first = |line: &str| line.split("  ").next().unwrap_or_default().to_owned();
    let whats: Vec<_> = text.lines().map(first).take_while(|word| !word.is_empty()).collect();
    assert_eq!(whats, ["WHAT", "connect ok", "connect refused", "rtt", "delay", "answer", "peer"], "{text}");
}

#[test]
fn an_expression_chooses_whose_times_count() {
    require_root!();
    let bed = Testbed::new("latency-filter").expect("a testbed");
    let (a, b) = (bed.host("a").expect("host a"), bed.host("b").expect("host b"));
    let link = bed.link(&a, "eth0", &b, "eth0").expect("a link");
    let watch = |args: &[&str]| Observing::start(&b, &[&["--json", "latency", "delay"], args].concat());
    let by_port = watch(&["port", "5001"]);
    let by_pid = watch(&["--pid", "1"]);
    for port in [5000, 5001] {
        let (mut client, mut server) = joined(&a, &b, (link.b.ipv6, port).into());
        pass(&mut client, &mut server);
    }
    let (records, _) = by_port.stop_json();
    assert_eq!(records.iter().map(|r| number(r, "samples")).sum::<f64>(), 1.0, "{records:#?}");
    assert!(by_pid.stop_json().0.is_empty(), "the data was not for process 1");
}
