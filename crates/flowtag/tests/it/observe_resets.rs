//! `flowtag resets` on real ones: each by what makes TCP send it, with who sent it and why.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;

use crate::common::hosts::{Hosts, Path, counter, listen};
use crate::common::observe::{Observing, golden, keys};
use flowtag_kernel::btf::Vmlinux;
use flowtag_testbed::{Host, Impairment, Loss, Testbed, WAIT, require_root};
use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};
use serde_json::Value;

const PORT: u16 = 5000;

/// Both ends of a link, watched.
struct Watched {
    a: Observing,
    b: Observing,
}

impl Watched {
    fn new(a: &Host, b: &Host) -> Self {
        let start = |host| Observing::start(host, &["--json", "resets"]);
        Self { a: start(a), b: start(b) }
    }

    /// What each end told, as soon as both have told something.
    fn records(mut self) -> [Vec<Value>; 2] {
        [&mut self.a, &mut self.b].into_iter().for_each(|o| o.wait_for("\"direction\":"));
        [self.a, self.b].map(|o| o.stop_json().0)
    }
}

/// The kernel's word, or what is deduced where it has none.
fn reason(kernel: &'static str, deduced: &'static str) -> (&'static str, &'static str) {
    let says = Vmlinux::get().and_then(|k| k.argument_of_enum("tcp_send_reset", "sk_rst_reason"));
    if says.is_some() { (kernel, "kernel") } else { (deduced, "deduced") }
}

#[track_caller]
fn assert_told(record: &Value, direction: &str, (reason, source): (&str, &str), state: Option<&str>) {
    let told = (&record["direction"], &record["reason"], &record["reason_source"], &record["state"]);
    let state = state.map_or(Value::Null, Value::from);
    assert_eq!(told, (&direction.into(), &reason.into(), &source.into(), &state), "{record}");
}

#[track_caller]
fn assert_owned(record: &Value) {
    assert_eq!(record["pid"], std::process::id(), "{record}");
}

#[test]
fn a_closed_port_refuses() {
    require_root!();
    let hosts = Hosts::new("rstport");
    let watched = Watched::new(&hosts.a, &hosts.b);
    let table = Observing::start(&hosts.a, &["resets"]);
    let (v6, v4) = ((hosts.link.b.ipv6, PORT), (hosts.link.b.ipv4, PORT));
    hosts.a.run(|| TcpStream::connect(v6)).expect("host a").expect_err("refused");
    hosts.a.run(|| TcpStream::connect(v4)).expect("host a").expect_err("refused");
    let [received, sent] = watched.records();
    assert_eq!((received.len(), sent.len()), (2, 2), "{received:#?} {sent:#?}");
    for (record, local) in received.iter().zip([hosts.link.a.ipv6.to_string(), hosts.link.a.ipv4.to_string()])
    {
        assert_told(record, "received", ("refused", "deduced"), Some("SYN-SENT"));
        assert_owned(record);
        assert_eq!(
            (&record["local_address"], &record["remote_port"]),
            (&local.into(), &PORT.into()),
            "{record}"
        );
    }
    for (record, client) in sent.iter().zip(&received) {
        assert_told(record, "sent", reason("NO_SOCKET", "no_socket"), None);
        assert!(record["pid"].is_null(), "nobody's: {record}");
        let ends = |r: &Value, this: &str| {
            (r[&format!("{this}_address")].clone(), r[&format!("{this}_port")].clone())
        };
        assert_eq!(ends(record, "local"), ends(client, "remote"));
        assert_eq!(ends(record, "remote"), ends(client, "local"));
        assert_eq!(record["interface"], "eth0", "{record}");
    }
    assert_eq!(counter(&hosts.b, "TcpOutRsts"), 2);
    golden("resets.keys", &keys(&received[0]), &[]);
    let changing = [
        (r" +", " "),
        (r"\d\d:\d\d:\d\d\.\d{3}", "12:00:00.000"),
        (r"\[fd00[^\]]*\]", "[fd00…]"),
        (r"10\.241\.\d+\.", "10.241.1."),
        (r":\d+ →", ":40000 →"),
        (r"flows \d+", "flows N"),
    ];
    golden("resets.txt", &table.stop(), &changing);
}

#[test]
fn what_nobody_read_is_lost_with_a_reset() {
    require_root!();
    let hosts = Hosts::new("rstclose");
    let watched = Watched::new(&hosts.a, &hosts.b);
    let (client, mut server) = hosts.connect(40000, PORT);
    server.write_all(&[1; 100]).expect("sent");
    client.peek(&mut [0; 100]).expect("it came");
    drop(client);
    server.read(&mut [0; 100]).expect_err("reset");
    let [sent, received] = watched.records();
    assert_eq!((sent.len(), received.len()), (1, 1), "{sent:#?} {received:#?}");
    assert_told(&sent[0], "sent", reason("TCP_ABORT_ON_CLOSE", "closed"), Some("CLOSED"));
    assert_told(&received[0], "received", ("by_peer", "deduced"), Some("ESTAB"));
    assert_eq!((&sent[0]["local_port"], &sent[0]["remote_port"]), (&40000.into(), &PORT.into()));
    sent.iter().chain(&received).for_each(assert_owned);
}

#[test]
fn a_linger_of_nothing_resets() {
    require_root!();
    let hosts = Hosts::new("rstlinger");
    let watched = Watched::new(&hosts.a, &hosts.b);
    let (client, mut server) = hosts.connect(40000, PORT);
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    setsockopt(&client.as_fd(), sockopt::Linger, &linger).expect("linger");
    drop(client);
    server.read(&mut [0; 100]).expect_err("reset");
    let [sent, received] = watched.records();
    assert_eq!((sent.len(), received.len()), (1, 1), "{sent:#?} {received:#?}");
    assert_told(&sent[0], "sent", reason("TCP_STATE", "linger"), Some("CLOSED"));
    assert_told(&received[0], "received", ("by_peer", "deduced"), Some("ESTAB"));
    sent.iter().chain(&received).for_each(assert_owned);
}

#[test]
fn keep_alive_gives_up_with_a_reset() {
    require_root!();
    let bed = Testbed::new("rstkeep").expect("a testbed");
    let (a, b) = (bed.host("a").expect("host a"), bed.host("b").expect("host b"));
    let link = bed.impaired_link(&a, &b, Impairment::default()).expect("a link");
    let (mut client, _server) = Path::over(&link).connect(40000, PORT);
    let mut watching = Observing::start(&a, &["--json", "resets"]);
    link.set(&Impairment { loss: Loss::EveryNth(1), loss_back: Loss::EveryNth(1), ..Impairment::default() });
    let fd = client.as_fd();
    setsockopt(&fd, sockopt::TcpKeepIdle, &1).expect("keep-alive");
    setsockopt(&fd, sockopt::TcpKeepInterval, &1).expect("keep-alive");
    setsockopt(&fd, sockopt::TcpKeepCount, &1).expect("keep-alive");
    setsockopt(&fd, sockopt::KeepAlive, &true).expect("keep-alive");
    client.read(&mut [0; 1]).expect_err("timed out");
    watching.wait_for("\"direction\":");
    let (records, _) = watching.stop_json();
    assert_eq!(records.len(), 1, "{records:#?}");
    assert_told(&records[0], "sent", reason("TCP_KEEPALIVE_TIMEOUT", "keepalive"), Some("ESTAB"));
    assert_owned(&records[0]);
}

#[test]
fn each_reset_that_the_kernel_counts_is_told() {
    require_root!();
    let hosts = Hosts::new("rstcount");
    let watching = Observing::start(&hosts.b, &["--json", "resets", "--by", "direction"]);
    let (v6, v4) = ((hosts.link.b.ipv6, PORT), (hosts.link.b.ipv4, PORT));
    let refused = |n: u16| {
        hosts.a.run(|| if n.is_multiple_of(2) { TcpStream::connect(v6) } else { TcpStream::connect(v4) })
    };
    for n in 0..40 {
        refused(n).expect("host a").expect_err("refused");
    }
    // Before 6.10 what answers for a connection in TIME-WAIT, as these may be, is not told.
    let written_to = if reason("", "").1 == "kernel" { 10 } else { 0 };
    (0..written_to).for_each(|_| write_to_closed(&hosts));
    let (records, summary) = watching.stop_json();
    let sent = records.iter().find(|r| r["direction"] == "sent").expect("some");
    let expected = counter(&hosts.b, "TcpOutRsts");
    assert!(expected >= 40 + written_to, "{expected}");
    assert_eq!((&sent["events"], &summary["lost"]), (&expected.into(), &0.into()));
}

/// Who still writes to what was closed is answered with RST.
fn write_to_closed(hosts: &Hosts) {
    let to = (hosts.link.b.ipv6, PORT + 1);
    let listener = hosts.b.run(|| listen(to.into())).expect("host b");
    let mut client = hosts.a.run(|| TcpStream::connect(to)).expect("host a").expect("connect");
    drop(listener.accept().expect("accept").0);
    assert_eq!(client.read(&mut [0; 1]).expect("closed"), 0);
    client.set_read_timeout(Some(WAIT)).expect("a timeout");
    while client.write(&[1]).is_ok() {}
}
