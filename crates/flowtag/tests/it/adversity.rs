//! Everything goes wrong at once, and the daemon goes on: it says each thing once, counts it, and stops when it is told to.

use std::io::Write;
use std::net::{TcpStream, UdpSocket};
use std::process::Command;
use std::time::Duration;

use crate::common::cli;
use crate::common::daemon::Daemon;
use crate::common::hosts::{Hosts, listen, when_free};
use flowtag_testbed::{require_root, wait_until};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(60);
const GARBAGE: usize = 100_000;

/// A name server that does not answer, collectors that cannot be reached, a disk that is full.
fn config(hosts: &Hosts) -> String {
    format!(
        r#"
        [mark]
        interfaces = ["eth*"]
        exclude_private = false
        [inputs.pipe]
        enabled = true
        [inputs.firefly]
        enabled = true
        sources = ["{near}/64"]
        [outputs.json]
        enabled = true
        path = "/mnt/full/records.json"
        [outputs.ipfix]
        enabled = true
        collectors = ["192.0.2.1:4739"]
        [outputs.otlp]
        enabled = true
        endpoint = "http://[{far}]:4318"
        period = "1s"
        [[outputs.firefly.collectors]]
        address = "192.0.2.1:10514"
        [[outputs.firefly.collectors]]
        address = "collector.example.org:10514"
        [[outputs.firefly.collectors]]
        address = "[{far}]:6514"
        transport = "tcp"
        spool = "/mnt/full/spool"
        [[rules]]
        name = "refused"
        remote_port = 9
        tag = "2/9"
        "#,
        near = hosts.link.a.ipv6.segments().map(|s| format!("{s:x}"))[..4].join(":") + "::",
        far = hosts.link.b.ipv6,
    )
}

/// On host a, with a name server that is not there and a small disk that is full.
fn start(hosts: &Hosts) -> Daemon {
    let script = "[ -e /etc/resolv.conf ] || : > /etc/resolv.conf
        echo 'nameserver 192.0.2.53' > /run/flowtag-test-resolv.conf
        mount -t tmpfs -o size=64k tmpfs /mnt && mkdir /mnt/full && mount -t tmpfs -o size=16k tmpfs /mnt/full
        cp /run/flowtag-test-resolv.conf /mnt/resolv.conf; rm /run/flowtag-test-resolv.conf
        mount --bind /mnt/resolv.conf /etc/resolv.conf
        mkdir /mnt/full/spool; touch /mnt/full/records.json
        dd if=/dev/zero of=/mnt/full/filler bs=1k 2> /dev/null
        exec \"$@\"";
    Daemon::start_with(&config(hosts), |args| {
        let mut command: Command = hosts.a.command("sh");
        command.args(["-c", script, "sh"]).args(args);
        command
    })
}

fn count(status: &Value, service: &str, counter: &str) -> u64 {
    status["services"][service]["counts"][counter].as_u64().unwrap_or_default()
}

#[track_caller]
fn wait_for(daemon: &Daemon, what: &str, reached: impl Fn(&Value) -> bool) {
    let status = || cli::json(daemon, &["status"]);
    wait_until(what, LIMIT, || Ok(reached(&status()).then_some(())))
        .unwrap_or_else(|_| panic!("not so: {what}: {:#}\n{}", status(), daemon.log()));
}

/// Ends twice, ends what never was, and a line that is none.
fn talk_nonsense(hosts: &Hosts, daemon: &Daemon) {
    let mut pipe = std::fs::OpenOptions::new().write(true).open(daemon.pipe()).expect("the pipe is read");
    let line = |state: &str, port: u16| {
        format!("{state} tcp {} {port} {} 1094 3 14\n", hosts.link.a.ipv6, hosts.link.b.ipv6)
    };
    for port in 20_000..20_100 {
        let story =
            [line("start", port), line("end", port), line("end", port), line("end", port + 1000)].concat();
        pipe.write_all(story.as_bytes()).expect("written");
    }
    pipe.write_all(b"what is this?\nend\n").expect("written");
}

/// Datagrams that are no fireflies, some nearly.
fn send_garbage(hosts: &Hosts) {
    let sender = hosts.b.run(|| UdpSocket::bind((hosts.link.b.ipv6, 0))).expect("host b").expect("bind");
    let nearly = br#"<134>1 - h a - firefly-json - {"version":1,"flow-lifecycle":{"state":"start"},"flow-id":{"afi":"ipv6""#;
    let mut noise = [0; 600];
    for n in 0..GARBAGE {
        noise.iter_mut().zip(n..).for_each(|(byte, x)| *byte = ((x * 31) >> 3) as u8);
        let datagram = if n % 3 == 0 { &nearly[..] } else { &noise[..n % noise.len()] };
        let _ = sender.send_to(datagram, hosts.src(10514));
    }
}

/// VmRSS in KiB.
fn resident(daemon: &Daemon) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).expect("it runs");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("it has memory");
    line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number")
}

#[test]
fn what_goes_wrong_is_said_once_and_counted_and_the_daemon_goes_on() {
    require_root!();
    let hosts = Hosts::new("adversity");
    let mut daemon = start(&hosts);
    talk_nonsense(&hosts, &daemon);
    wait_for(&daemon, "100 flows came and went", |s| {
        s["engine"]["started"] == 100 && s["engine"]["ended"] == 100 && s["flows"] == 0
    });
    wait_for(&daemon, "300 ENDs of no flow", |s| s["engine"]["unknown_end"] == 200);
    wait_for(&daemon, "two lines that say nothing", |s| count(s, "inputs.pipe", "bad_lines") == 2);

    let refused = hosts.a.run(|| TcpStream::connect(hosts.dst(9))).expect("host a");
    assert_eq!(refused.expect_err("nobody listens").kind(), std::io::ErrorKind::ConnectionRefused);
    wait_for(&daemon, "the refused connection is over", |s| {
        s["engine"]["started"] == 101 && s["engine"]["ended_closed"] == 1 && s["flows"] == 0
    });

    let before = resident(&daemon);
    send_garbage(&hosts);
    wait_for(&daemon, "a part of the garbage was taken for garbage", |s| {
        count(s, "inputs.firefly", "malformed") > 1000
    });
    assert!(daemon.is_running());
    let grown = resident(&daemon).saturating_sub(before);
    assert!(grown < 16 << 10, "it grew by {grown} KiB");

    // It still does its work.
    let listener = hosts.b.run(|| listen(hosts.dst(1094))).expect("host b");
    let client = hosts.a.run(|| when_free(|| TcpStream::connect(hosts.dst(1094)))).expect("host a");
    let (src, dst) = (client.local_addr().expect("an address").to_string(), hosts.dst(1094).to_string());
    cli::ok(&daemon, &["flow", "start", "-t", "3/14", "tcp", &src, &dst]);
    wait_for(&daemon, "a flow as ever", |s| s["flows"] == 1);
    drop(listener);

    for complaint in ["collector.example.org", "records.json", "192.0.2.1", "6514"] {
        let log = daemon.log();
        let said = log.lines().filter(|line| line.contains(complaint)).count();
        assert!((1..=4).contains(&said), "{complaint} is in {said} lines:\n{log}");
    }
    let status = cli::json(&daemon, &["status"]);
    assert!(count(&status, "outputs.json", "failed") > 0, "{status:#}");
    assert!(count(&status, "outputs.firefly", "unresolved") > 0, "{status:#}");
    assert!(count(&status, "outputs.firefly", "failed") > 0, "{status:#}");
    let stopped = daemon.stop();
    println!("stopped after {:?}", stopped.took);
}
