//! `flowtag why` on connections whose limit is known, seen from both ends.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Mutex;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::common::observe::{Observing, golden, keys};
use flowtag_testbed::{Host, ImpairedLink, Impairment, Loss, Testbed, require_root, skip};
use nix::sys::socket::{setsockopt, sockopt};
use serde_json::Value;

/// One at a time: what limits must be the limit, not the machine.
static ALONE: Mutex<()> = Mutex::new(());
/// Long enough that all else takes no time beside it.
const DELAY: Duration = Duration::from_millis(20);
/// How long is looked.
const LOOK: Duration = Duration::from_secs(3);
/// Before the beginning of a connection is over.
const WARM_UP: Duration = Duration::from_secs(1);

/// How the two ends of a connection behave; what is not said is as fast as can be.
#[derive(Default, Clone, Copy)]
struct Ends {
    /// Congestion control; cubic, which every kernel has, if none.
    control: Option<&'static str>,
    sndbuf: Option<usize>,
    rcvbuf: Option<usize>,
    /// Bytes of each call, and the pause after it.
    writes: Option<(usize, Duration)>,
    reads: Option<(usize, Duration)>,
}

/// Data from host a to host b until it is dropped.
struct Traffic {
    streams: [TcpStream; 2],
    threads: Vec<JoinHandle<()>>,
}

impl Traffic {
    fn start(a: &Host, b: &Host, to: SocketAddr, ends: Ends) -> Self {
        let listener = b.run(|| TcpListener::bind(to)).expect("host b").expect("bind");
        ends.rcvbuf.iter().for_each(|size| setsockopt(&listener, sockopt::RcvBuf, size).expect("SO_RCVBUF"));
        let client = a.run(|| TcpStream::connect(to)).expect("host a").expect("connect");
        ends.sndbuf.iter().for_each(|size| setsockopt(&client, sockopt::SndBuf, size).expect("SO_SNDBUF"));
        let control = OsString::from(ends.control.unwrap_or("cubic"));
        setsockopt(&client, sockopt::TcpCongestion, &control).expect("TCP_CONGESTION");
        let (server, _) = listener.accept().expect("accept");
        let streams = [client.try_clone().expect("a copy"), server.try_clone().expect("a copy")];
        let (write, read) = (ends.writes, ends.reads);
        let threads = vec![
            thread::spawn(move || repeat(write, |size| (&client).write(&vec![1; size]))),
            thread::spawn(move || repeat(read, |size| (&server).read(&mut vec![0; size]))),
        ];
        Self { streams, threads }
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.streams.iter().for_each(|stream| drop(stream.shutdown(Shutdown::Both)));
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

fn repeat(how: Option<(usize, Duration)>, mut once: impl FnMut(usize) -> std::io::Result<usize>) {
    let (size, pause) = how.unwrap_or((64 * 1024, Duration::ZERO));
    while once(size).is_ok_and(|moved| moved > 0) {
        thread::sleep(pause);
    }
}

struct Bed {
    _bed: Testbed,
    a: Host,
    b: Host,
    link: ImpairedLink,
}

impl Bed {
    fn new(name: &str, impairment: Impairment) -> Self {
        let bed = Testbed::new(name).expect("a testbed");
        let (a, b) = (bed.host("a").expect("host a"), bed.host("b").expect("host b"));
        let link = bed.impaired_link(&a, &b, impairment).expect("a link");
        Self { _bed: bed, a, b, link }
    }

    fn traffic(&self, ends: Ends) -> Traffic {
        let traffic = Traffic::start(&self.a, &self.b, (self.link.b.ipv6, 5000).into(), ends);
        thread::sleep(WARM_UP);
        traffic
    }
}

/// What `why` says of the connection at the sender and at the receiver.
#[track_caller]
fn verdicts(name: &str, impairment: Impairment, ends: Ends) -> [Value; 2] {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let bed = Bed::new(name, impairment);
    let _traffic = bed.traffic(ends);
    let at = [&bed.a, &bed.b].map(|host| Observing::start(host, &["--json", "why", "port 5000", "-d", "60"]));
    thread::sleep(LOOK);
    at.map(|watching| {
        let (records, summary) = watching.stop_json();
        assert_eq!(records.len(), 1, "{records:#?}");
        assert_eq!((&summary["lost"], &summary["evicted"]), (&0.into(), &0.into()));
        records.into_iter().next().expect("one")
    })
}

fn delayed() -> Impairment {
    Impairment { delay: DELAY, ..Impairment::default() }
}

#[track_caller]
fn limited_by(record: &Value, share: &str, verdict: &str) {
    assert_eq!(record["verdict"], verdict, "{record:#}");
    assert!(record[share].as_f64().expect("a number") > 50.0, "{share} of {record:#}");
    assert_eq!(record["direction"], "sends");
}

#[track_caller]
fn receiver_says(record: &Value, verdict: &str) {
    assert_eq!(record["verdict"], verdict, "{record:#}");
    assert_eq!(record["direction"], "receives");
    assert!(record["share_network_percent"].is_null(), "{record:#}");
}

#[test]
fn a_small_receive_buffer() {
    require_root!();
    let ends = Ends { rcvbuf: Some(32 * 1024), ..Ends::default() };
    let [sender, receiver] = verdicts("why_rcvbuf", delayed(), ends);
    limited_by(&sender, "share_receiver_percent", "peer_receive_buffer");
    receiver_says(&receiver, "receive_buffer");
    assert_eq!(receiver["rcvbuf_fixed"], true);
    assert!(receiver["advice"].as_str().expect("advice").contains("SO_RCVBUF"), "{receiver:#}");
    let shares: f64 = sender
        .as_object()
        .expect("an object")
        .iter()
        .filter(|(key, _)| key.starts_with("share_"))
        .filter_map(|(_, value)| value.as_f64())
        .sum();
    assert!((99.0..=101.0).contains(&shares), "{shares}: {sender:#}");
    golden("why.keys", &keys(&sender), &[]);
}

#[test]
fn a_slow_reader() {
    require_root!();
    let ends = Ends { reads: Some((4096, Duration::from_millis(200))), ..Ends::default() };
    let [sender, receiver] = verdicts("why_reader", delayed(), ends);
    limited_by(&sender, "share_receiver_percent", "peer_reads_slowly");
    receiver_says(&receiver, "reads_slowly");
    assert!(receiver["unread_bytes"].as_u64() > Some(4096), "{receiver:#}");
    assert_eq!(receiver["pid"], std::process::id());
}

#[test]
fn a_small_send_buffer() {
    require_root!();
    let ends = Ends { sndbuf: Some(16 * 1024), ..Ends::default() };
    let [sender, receiver] = verdicts("why_sndbuf", delayed(), ends);
    limited_by(&sender, "share_sndbuf_percent", "send_buffer");
    assert_eq!(sender["sndbuf_fixed"], true);
    receiver_says(&receiver, "peer_or_path");
}

#[test]
fn a_slow_writer() {
    require_root!();
    let ends = Ends { writes: Some((2000, Duration::from_millis(100))), ..Ends::default() };
    let [sender, receiver] = verdicts("why_writer", delayed(), ends);
    limited_by(&sender, "share_application_percent", "application");
    receiver_says(&receiver, "peer_or_path");
}

/// In each round trip something is always in flight, so that the kernel's clock of a busy sender never stops.
#[test]
fn a_slow_writer_on_a_long_way() {
    require_root!();
    let ends = Ends { writes: Some((2000, Duration::from_millis(10))), ..Ends::default() };
    let [sender, _] = verdicts("why_trickle", delayed(), ends);
    limited_by(&sender, "share_application_percent", "application");
}

#[test]
fn loss() {
    require_root!();
    let lossy = Impairment { loss: Loss::percent(3.0, 7), ..delayed() };
    let [sender, receiver] = verdicts("why_loss", lossy, Ends::default());
    assert_eq!(sender["verdict"], "loss", "{sender:#}");
    assert!(sender["share_recovery_percent"].as_f64() > Some(0.0), "{sender:#}");
    assert!(sender["retransmission_percent"].as_f64() > Some(0.5), "{sender:#}");
    receiver_says(&receiver, "peer_or_path");
}

#[test]
fn a_shaped_link() {
    require_root!();
    let shaped = Impairment { rate: Some(10_000_000), queue: 200, ..delayed() };
    let [sender, receiver] = verdicts("why_shaped", shaped, Ends::default());
    assert_eq!(sender["verdict"], "path_queue", "{sender:#}");
    assert!(sender["queueing_us"].as_f64() > Some(20_000.0), "{sender:#}");
    receiver_says(&receiver, "peer_or_path");
}

/// BBR keeps from sending by its own clock, so that the kernel's clocks do not see a full window.
#[test]
fn the_same_with_pacing() {
    require_root!();
    let known = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_available_congestion_control");
    if !known.expect("a sysctl").split_whitespace().any(|name| name == "bbr") {
        skip!("no BBR in this kernel");
    }
    let bbr = Ends { control: Some("bbr"), ..Ends::default() };
    let [sender, _] = verdicts("why_bbr_rcvbuf", delayed(), Ends { rcvbuf: Some(32 * 1024), ..bbr });
    limited_by(&sender, "share_receiver_percent", "peer_receive_buffer");
    let trickle = Ends { writes: Some((2000, Duration::from_millis(10))), ..bbr };
    let [sender, _] = verdicts("why_bbr_writer", delayed(), trickle);
    limited_by(&sender, "share_application_percent", "application");
}

#[test]
fn people_read_it_in_four_lines() {
    require_root!();
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let bed = Bed::new("why_text", delayed());
    let _traffic = bed.traffic(Ends { rcvbuf: Some(32 * 1024), ..Ends::default() });
    let watching = Observing::start(&bed.a, &["why", "port 5000", "-d", "60"]);
    thread::sleep(LOOK);
    let text = watching.stop();
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    let replace = [
        (r"\n {2,4}([^ →])", " $1"),
        (r"\[[0-9a-f:]+\]:\d+ → \[[0-9a-f:]+\]:5000  ?\S+\[\d+\]", "[a]:40000 → [b]:5000  tests[1]"),
        (r"\[[NLTRBQ.]{20}\] [a-z0-9%, ]+%", "[BAR] SHARES"),
        (r"\d+(\.\d+)?( ?[numkKMG]?(s|B|bit/s)\b|%)", "N$2"),
        (r"(cwnd|events|flows) \d+", "$1 N"),
        (r", N[KM]?B not sent", ""),
        ("N [munkKMG]?", "N "),
        ("N[KM]B", "NB"),
    ];
    golden("why.txt", &text, &replace);
}

#[test]
fn a_connection_that_ended_is_told_of() {
    require_root!();
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let bed = Bed::new("why_end", delayed());
    let mut watching = Observing::start(&bed.a, &["--json", "why", "-i", "0.5"]);
    drop(bed.traffic(Ends::default()));
    watching.wait_for("CLOSED");
    let (records, _) = watching.stop_json();
    let sent: u64 = records.iter().filter_map(|record| record["tx_bytes"].as_u64()).sum();
    assert!(sent > 0, "{records:#?}");
}
