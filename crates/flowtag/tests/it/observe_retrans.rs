//! `flowtag retrans` on real loss: each type by what makes TCP send again, and sums that are the kernel's own.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;

use crate::common::hosts::{Path, counter, without_tail_probes};
use crate::common::observe::{Observing, golden, keys};
use flowtag_kernel::btf::Vmlinux;
use flowtag_kernel::socket_queue::unconfirmed;
use flowtag_testbed::{Host, ImpairedLink, Impairment, Loss, Testbed, WAIT, require_root, wait_until};
use serde_json::Value;

const PORT: u16 = 5000;

/// Widths, times, the number of the link, and a window that depends on how soon acknowledgements came.
const CHANGING: &[(&str, &str)] = &[
    (r" +", " "),
    (r"\d\d:\d\d:\d\d\.\d{3}", "12:00:00.000"),
    (r"[0-9.]+[mu]s", "1ms"),
    (r"\[fd00[^\]]*\]", "[fd00…]"),
    (r"(TLP|5000)( 1 1.00K 1( 0)? 1ms) \d+", "$1$2 10"),
    (r"flows \d+", "flows N"),
];

/// Two hosts with a link that loses what a test says.
struct Lossy {
    a: Host,
    b: Host,
    link: ImpairedLink,
    _bed: Testbed,
}

impl Lossy {
    fn new(name: &str, impairment: Impairment) -> Self {
        let bed = Testbed::new(name).expect("a testbed");
        let (a, b) = (bed.host("a").expect("host a"), bed.host("b").expect("host b"));
        let link = bed.impaired_link(&a, &b, impairment).expect("a link");
        Self { a, b, link, _bed: bed }
    }

    fn set(&self, loss: Loss, loss_back: Loss) {
        self.link.set(&Impairment { loss, loss_back, ..Impairment::default() });
    }

    fn path(&self) -> Path {
        Path::over(&self.link)
    }
}

fn everything() -> Loss {
    Loss::EveryNth(1)
}

/// What `--json` told, until this type was among it.
#[track_caller]
fn until_type(mut watching: Observing, wanted: &str) -> Vec<Value> {
    watching.wait_for(&format!("\"type\":\"{wanted}\""));
    watching.stop_json().0
}

#[track_caller]
fn first<'a>(records: &'a [Value], wanted: &str) -> &'a Value {
    records.iter().find(|r| r["type"] == wanted).unwrap_or_else(|| panic!("no {wanted}: {records:#?}"))
}

fn sum(records: &[Value], key: &str) -> u64 {
    records.iter().map(|r| r[key].as_u64().expect("a number")).sum()
}

#[test]
fn a_lost_segment_is_told_with_its_owner() {
    require_root!();
    let bed = Lossy::new("retrans", Impairment::default());
    let watching = Observing::start(&bed.a, &["--json", "retrans"]);
    let mut table = Observing::start(&bed.a, &["retrans"]);
    let by_flow = Observing::start(&bed.a, &["retrans", "-c"]);
    let (mut client, mut server) = bed.path().connect(40000, PORT);
    client.write_all(&[1; 1000]).expect("sent");
    server.read_exact(&mut [0; 1000]).expect("received");
    bed.set(Loss::these(&[1]), Loss::None);
    client.write_all(&[1; 1000]).expect("sent");
    server.read_exact(&mut [0; 1000]).expect("received");
    table.wait_for("ESTAB");
    let (records, summary) = watching.stop_json();
    assert_eq!(records.len(), 1, "{records:#?}");
    assert_eq!((&records[0]["length_bytes"], &records[0]["pid"]), (&1000.into(), &std::process::id().into()));
    assert_eq!((&records[0]["sent_segments"], &records[0]["retransmitted_segments"]), (&3.into(), &1.into()));
    assert_eq!((&summary["events"], &summary["lost"]), (&1.into(), &0.into()));
    golden("retrans.keys", &keys(&records[0]), &[]);
    let table = table.stop();
    let widest = table.lines().take_while(|l| !l.is_empty()).map(|l| l.chars().count()).max();
    assert!(widest <= Some(80), "the lines fit a terminal of 80 columns:\n{table}");
    golden("retrans.txt", &table, CHANGING);
    golden("retrans-c.txt", &by_flow.stop(), CHANGING);
}

#[test]
fn what_was_sent_again_for_nothing_is_told_with_the_next() {
    require_root!();
    let bed = Lossy::new("retrdsack", Impairment::default());
    let (mut client, mut server) = bed.path().connect(40000, PORT);
    let mut watching = Observing::start(&bed.a, &["--json", "retrans"]);
    let by_flow = Observing::start(&bed.a, &["--json", "retrans", "-c"]);
    // The segment arrives, its acknowledgement does not.
    bed.set(Loss::None, everything());
    client.write_all(&[1; 1000]).expect("sent");
    watching.wait_for("\"type\":");
    bed.set(Loss::None, Loss::None);
    server.read_exact(&mut [0; 1000]).expect("received");
    wait_until("it to be acknowledged", WAIT, || Ok((unconfirmed(client.as_fd())? == 0).then_some(())))
        .expect("acknowledged");
    bed.set(Loss::these(&[1]), Loss::None);
    client.write_all(&[1; 1000]).expect("sent");
    server.read_exact(&mut [0; 1000]).expect("received");
    let ((records, _), (flows, _)) = (watching.stop_json(), by_flow.stop_json());
    assert_eq!(records[0]["spurious_segments"], 0, "nobody knows yet");
    let last = records.last().expect("one");
    assert!(last["spurious_segments"].as_u64() >= Some(1), "{records:#?}");
    assert_eq!(flows[0]["spurious_segments"], last["spurious_segments"]);
    golden("retrans-c.keys", &keys(&flows[0]), &[]);
}

#[test]
fn a_syn_is_of_the_type_syn() {
    require_root!();
    let bed = Lossy::new("retrsyn", Impairment { loss: Loss::these(&[1]), ..Impairment::default() });
    let watching = Observing::start(&bed.a, &["--json", "retrans"]);
    let _both = bed.path().connect(40000, PORT);
    let records = until_type(watching, "SYN");
    let syn = first(&records, "SYN");
    assert_eq!((&syn["state"], &syn["length_bytes"]), (&"SYN-SENT".into(), &0.into()), "{syn}");
    assert_eq!((&syn["pid"], &syn["local_port"]), (&std::process::id().into(), &40000.into()), "{syn}");
    assert!(syn["rtt_us"].is_null(), "no answer yet, so no time: {syn}");
    assert_eq!(sum(&records, "segments"), counter(&bed.a, "TcpRetransSegs"));
}

#[test]
fn a_syn_ack_is_told_of_the_listener() {
    require_root!();
    let bed = Lossy::new("retrsynack", Impairment { loss_back: Loss::these(&[1]), ..Impairment::default() });
    let watching = Observing::start(&bed.b, &["--json", "retrans"]);
    let (_client, server) = bed.path().connect(40000, PORT);
    let records = until_type(watching, "SYNACK");
    let told = first(&records, "SYNACK");
    let peer = server.peer_addr().expect("a peer");
    assert_eq!((&told["state"], &told["pid"]), (&"SYN-RECV".into(), &std::process::id().into()), "{told}");
    assert_eq!((&told["local_port"], &told["remote_port"]), (&PORT.into(), &40000.into()), "{told}");
    assert_eq!(told["remote_address"], peer.ip().to_string());
    assert_eq!(sum(&records, "segments"), counter(&bed.b, "TcpRetransSegs"));
}

#[test]
fn what_a_timer_sends_again_is_a_probe_then_a_time_out() {
    require_root!();
    let bed = Lossy::new("retrrto", Impairment::default());
    let (mut client, mut server) = bed.path().connect(40000, PORT);
    let watching = Observing::start(&bed.a, &["--json", "retrans"]);
    bed.set(everything(), Loss::None);
    client.write_all(&[1; 1000]).expect("sent");
    let records = until_type(watching, "RTO");
    bed.set(Loss::None, Loss::None);
    server.read_exact(&mut [0; 1000]).expect("received");
    let types: Vec<_> = records.iter().map(|r| r["type"].as_str().expect("a word")).collect();
    assert_eq!(types[0], "TLP", "the tail is probed for first (RFC 8985 §7): {types:?}");
    assert!(types[1..].iter().all(|t| *t == "RTO"), "{types:?}");
    assert_eq!(first(&records, "RTO")["seq"], records[0]["seq"], "the same segment each time");
}

#[test]
fn without_probes_a_lost_tail_is_a_time_out() {
    require_root!();
    let bed = Lossy::new("retrtail", Impairment::default());
    without_tail_probes(&bed.a);
    let (mut client, mut server) = bed.path().connect(40000, PORT);
    let watching = Observing::start(&bed.a, &["--json", "retrans"]);
    bed.set(Loss::these(&[1]), Loss::None);
    client.write_all(&[1; 1000]).expect("sent");
    server.read_exact(&mut [0; 1000]).expect("received");
    let records = until_type(watching, "RTO");
    assert!(records.iter().all(|r| r["type"] == "RTO"), "{records:#?}");
}

#[test]
fn a_hole_among_many_segments_is_sent_again_fast() {
    require_root!();
    let bed = Lossy::new("retrfast", Impairment::default());
    let path = bed.path();
    // So that no time-out is sooner than the acknowledgements, however busy the machine is.
    path.wait_long(&["dev", "eth0"], &["dev", "eth0"]);
    let (mut client, mut server) = path.connect(40000, PORT);
    let watching = Observing::start(&bed.a, &["--json", "retrans"]);
    bed.set(Loss::these(&[2]), Loss::None);
    let data = vec![1; 13_000];
    client.write_all(&data).expect("sent");
    server.read_exact(&mut vec![0; data.len()]).expect("received");
    let records = until_type(watching, "FAST");
    let fast = first(&records, "FAST");
    assert_eq!((&fast["segments"], &fast["state"]), (&1.into(), &"ESTAB".into()), "{fast}");
    assert_eq!(sum(&records, "segments"), counter(&bed.a, "TcpRetransSegs"));
}

#[test]
fn an_attempt_that_fails_is_not_counted_as_sent() {
    require_root!();
    let bed = Lossy::new("retrfail", Impairment::default());
    let says_errors = Vmlinux::get().and_then(|k| k.arguments("tcp_retransmit_skb")).is_some_and(|n| n > 2);
    let (mut client, _server) = bed.path().connect(40000, PORT);
    let mut watching = Observing::start(&bed.a, &["--json", "retrans"]);
    bed.set(everything(), Loss::None);
    client.write_all(&[1; 1000]).expect("sent");
    let to = format!("{}/128", bed.link.b.ipv6);
    bed.a.ip(&["-6", "route", "add", "unreachable", &to, "metric", "1"]).expect("a route");
    if !says_errors {
        eprintln!("only successes are told here: this kernel's tracepoint has no result");
        bed.a.ip(&["-6", "route", "del", "unreachable", &to, "metric", "1"]).expect("no route");
        watching.wait_for("\"type\":");
        let (records, _) = watching.stop_json();
        assert!(records.iter().all(|r| r["error"].is_null() && r["failed_segments"] == 0), "{records:#?}");
        return;
    }
    watching.wait_for("\"error\":\"");
    let before = counter(&bed.a, "TcpRetransSegs");
    let (records, _) = watching.stop_json();
    let (failed, sent): (Vec<_>, Vec<_>) = records.into_iter().partition(|r| !r["error"].is_null());
    assert!(failed.iter().all(|r| r["error"] == "EHOSTUNREACH"), "{failed:#?}");
    assert!(failed.iter().all(|r| r["segments"] == 0 && r["failed_segments"] == 1), "{failed:#?}");
    assert_eq!(sum(&sent, "segments"), before, "what went out is what the kernel counted");
}

/// A connection for each port, half of them of IPv4; bytes go both ways.
fn talk(bed: &Lossy, ports: &[u16]) {
    const BYTES: usize = 300_000;
    std::thread::scope(|scope| {
        for port in ports {
            let at: IpAddr =
                if port.is_multiple_of(2) { bed.link.b.ipv6.into() } else { bed.link.b.ipv4.into() };
            scope.spawn(move || {
                let listener = bed.b.run(|| TcpListener::bind((at, *port))).expect("host b").expect("bind");
                let to = SocketAddr::new(at, *port);
                let client = bed.a.run(|| TcpStream::connect(to)).expect("host a").expect("connect");
                let (server, _) = listener.accept().expect("accept");
                std::thread::scope(|scope| {
                    scope.spawn(|| exchange(client, BYTES));
                    scope.spawn(|| exchange(server, BYTES / 3));
                });
            });
        }
    });
}

/// Sends so many bytes, and reads until the other end has sent its own.
fn exchange(mut stream: TcpStream, bytes: usize) {
    let mut reader = stream.try_clone().expect("a copy");
    std::thread::scope(|scope| {
        scope.spawn(move || {
            stream.write_all(&vec![1; bytes]).expect("sent");
            stream.shutdown(std::net::Shutdown::Write).expect("closed");
        });
        reader.read_to_end(&mut Vec::new()).expect("received");
    });
}

/// Connections that may still send something again.
fn open_connections(host: &Host) -> usize {
    const TIME_WAIT: &str = "06";
    let files = ["tcp", "tcp6"].map(|f| format!("/proc/thread-self/net/{f}"));
    let read = || files.iter().map(|f| std::fs::read_to_string(f).expect("sockets")).collect::<Vec<_>>();
    let tables = host.run(read).expect("the host");
    let rows = tables.iter().flat_map(|t| t.lines().skip(1));
    rows.filter(|row| row.split_whitespace().nth(3) != Some(TIME_WAIT)).count()
}

#[test]
fn segments_are_together_what_the_kernel_counted() {
    require_root!();
    let loss = |seed| Loss::percent(4.0, seed);
    let bed =
        Lossy::new("retrsum", Impairment { loss: loss(1), loss_back: loss(2), ..Impairment::default() });
    let hosts = [&bed.a, &bed.b];
    let lines = hosts.map(|host| Observing::start(host, &["--json", "retrans"]));
    let by_flow = hosts.map(|host| Observing::start(host, &["--json", "retrans", "-c"]));
    let ports: Vec<u16> = (PORT..PORT + 8).collect();
    talk(&bed, &ports);
    bed.set(Loss::None, Loss::None);
    wait_until("all to be closed", WAIT * 3, || {
        Ok(hosts.iter().all(|host| open_connections(host) == 0).then_some(()))
    })
    .expect("closed");
    let mut types = BTreeSet::new();
    for ((host, lines), by_flow) in hosts.into_iter().zip(lines).zip(by_flow) {
        let expected = counter(host, "TcpRetransSegs");
        let ((records, summary), (flows, _)) = (lines.stop_json(), by_flow.stop_json());
        types.extend(records.iter().map(|r| r["type"].as_str().expect("a word").to_owned()));
        eprintln!("{}: {} events of {expected} segments", host.name(), records.len());
        assert_eq!(summary["lost"], 0);
        assert!(expected > 20, "there was loss on {}: {expected}", host.name());
        assert_eq!(sum(&records, "segments"), expected, "each on {}", host.name());
        assert_eq!(sum(&flows, "segments"), expected, "by flow on {}", host.name());
        assert_eq!(sum(&records, "failed_segments"), 0);
        let again: u64 = flows.iter().filter_map(|f| f["retransmitted_segments"].as_u64()).sum();
        assert!(again <= expected, "{again} of connections, {expected} of the host");
        for flow in &flows {
            let percent = flow["retransmitted_percent"].as_f64().unwrap_or_default();
            assert!((0.0..100.0).contains(&percent), "{flow}");
        }
    }
    assert!(types.contains("FAST"), "{types:?}");
}

#[test]
fn sums_by_type_are_told_at_every_interval() {
    require_root!();
    let bed = Lossy::new("retrby", Impairment { loss: Loss::these(&[1]), ..Impairment::default() });
    let mut watching = Observing::start(&bed.a, &["--json", "retrans", "--by", "type", "-i", "0.2"]);
    let _both = bed.path().connect(40000, PORT);
    watching.wait_for("\"type\":\"SYN\"");
    let (records, _) = watching.stop_json();
    assert!(sum(&records, "events") >= 1 && sum(&records, "segments") >= 1, "{records:#?}");
}
