//! Fireflies of others: what they say comes in, and goes out with the same meaning.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use crate::common::cli;
use crate::common::collector::{Collector, count, wait_for_count};
use crate::common::daemon::Daemon;
use crate::common::hosts::{Hosts, on};
use flowtag_testbed::{Host, require_root};
use flowtag_wire::Firefly;
use flowtag_wire::firefly::State;

const INPUT: &str = "inputs.firefly";

/// What a daemon on host a is told: fireflies of everybody, one collector at b, nothing to the far end of flows.
fn config(hosts: &Hosts, more: &str) -> String {
    format!(
        "[mark]\nenabled = false\n[outputs.firefly]\ndestination = false\n\
         [[outputs.firefly.collectors]]\naddress = \"[{}]:10515\"\n\
         [inputs.firefly]\nenabled = true\nsources = [\"::/0\", \"0.0.0.0/0\"]\n{more}",
        hosts.link.b.ipv6
    )
}

/// A program that sends fireflies.
struct Program(UdpSocket, SocketAddr);

impl Program {
    /// On the host of the daemon, as storage systems are.
    fn local(hosts: &Hosts) -> Self {
        Self::on(&hosts.a, "[::1]:0", "[::1]:10514".parse().expect("an address"))
    }

    fn on(host: &Host, from: &str, to: SocketAddr) -> Self {
        Self(host.run(|| UdpSocket::bind(from)).expect("the host").expect("bind"), to)
    }

    fn send(&self, firefly: impl AsRef<[u8]>) {
        self.0.send_to(firefly.as_ref(), self.1).expect("sent");
    }
}

/// A firefly with these keys besides `version` and `flow-id`, from port to port.
fn firefly(header: &str, (src, dst): (IpAddr, IpAddr), port: u16, rest: &str) -> String {
    let afi = if src.is_ipv6() { "ipv6" } else { "ipv4" };
    format!(
        r#"{header}{{"version":1,"flow-id":{{"afi":"{afi}","src-ip":"{src}","dst-ip":"{dst}","protocol":"tcp","src-port":{port},"dst-port":1094}},{rest}}}"#
    )
}

/// START and END as each of the known programs writes them, and their header.
const DIALECTS: [(&str, &str, &str, &str); 5] = [
    (
        "XRootD",
        "<134>1 - se01.example.org xrootd - firefly-json - ",
        r#""flow-lifecycle":{"state":"start","current-time":"2026-03-01T10:00:00.500001+00:00","start-time":"2026-03-01T10:00:00.500000+00:00"},"context":{"experiment-id":3,"activity-id":14,"application":"xrootd/v5.7"}"#,
        r#""flow-lifecycle":{"state":"end","current-time":"2026-03-01T10:05:00.000123+00:00","start-time":"2026-03-01T10:00:00.500000+00:00","end-time":"2026-03-01T10:05:00.000100+00:00"},"usage":{"received":1234,"sent":987654321},"netlink":{"rtt":12.345},"context":{"experiment-id":3,"activity-id":14,"application":"xrootd/v5.7"}"#,
    ),
    (
        "dCache",
        "<134>1 2026-03-01T10:05:00.123Z 192.0.2.7 dCache - firefly-json - ",
        r#""flow-lifecycle":{"state":"start","start-time":"2026-03-01T10:00:00Z","current-time":"2026-03-01T10:00:00Z"},"context":{"experiment-id":3,"activity-id":14,"application":"http-get"}"#,
        r#""flow-lifecycle":{"state":"end","start-time":"2026-03-01T10:00:00Z","end-time":"2026-03-01T10:05:00.123456789Z","current-time":"2026-03-01T10:05:00.123Z"},"context":{"experiment-id":3,"activity-id":14,"application":"http-get"},"usage":{"received":0,"sent":4096},"storage-stats":{"bytes-transferred":4096,"connection-time":120,"read-bw":1.5,"read-active":"PT1S"}"#,
    ),
    (
        "flowd",
        "<134>1 2026-03-01T10:00:00.000000+00:00 host flowd - firefly-json - ",
        r#""flow-lifecycle": {"state": "start", "current-time": "2026-03-01T10:00:00+00:00", "start-time": "2026-03-01T10:00:00.123456+00:00"}, "context": {"experiment-id": 3, "activity-id": 14, "application": "flowd v1.1.7"}"#,
        r#""flow-lifecycle": {"state": "end", "current-time": "2026-03-01T10:01:00+00:00", "start-time": "2026-03-01T10:00:00.123456+00:00", "end-time": "2026-03-01T10:01:00+00:00"}, "context": {"experiment-id": 3, "activity-id": 14, "application": "flowd v1.1.7"}, "netlink": ["ESTAB", {"tcp_info": {"rtt": 0.25, "opts": ["ts", "sack"]}}]"#,
    ),
    (
        "flowd-go",
        "<134>1  host flowd-go-2.4.2 - firefly-json - ",
        r#""flow-lifecycle":{"state":"start","start-time":"2026-03-01T12:00:00.5+02:00"},"context":{"experiment-id":3,"activity-id":14,"application":"flowd-go-2.4.2"}"#,
        r#""flow-lifecycle":{"state":"end","start-time":"","end-time":"2026-03-01T12:00:10.25+02:00"},"context":{"experiment-id":0,"activity-id":0,"application":"flowd-go-2.4.2"},"skOps":{"bytesSent":18446744073709551615}"#,
    ),
    (
        "no header",
        "",
        r#""flow-lifecycle":{"state":"start","start-time":"2026-03-01T12:00:00Z"},"context":{"experiment-id":3,"activity-id":14}"#,
        r#""flow-lifecycle":{"state":"end","start-time":"2026-03-01T12:00:00Z","end-time":"2026-03-01T12:00:01Z"},"context":{"experiment-id":3,"activity-id":14},"usage":{"sent":1,"received":2}"#,
    ),
];

#[test]
fn every_dialect_goes_out_with_the_meaning_that_it_came_in_with() {
    require_root!();
    let hosts = Hosts::new("dialects");
    let collector = Collector::new(&hosts.b, hosts.dst(10515));
    let daemon = hosts.daemon(&config(&hosts, ""));
    let v6 = (IpAddr::from(hosts.link.a.ipv6), IpAddr::from(hosts.link.b.ipv6));
    let v4 = (IpAddr::from(hosts.link.a.ipv4), IpAddr::from(hosts.link.b.ipv4));
    let programs = [
        (Program::local(&hosts), v6),
        (Program::on(&hosts.a, "127.0.0.1:0", "127.0.0.1:10514".parse().expect("an address")), v4),
    ];
    for ((program, ends), port) in programs.iter().zip([1000, 2000]) {
        for ((name, header, start, end), port) in DIALECTS.iter().zip(port..) {
            let [start, end] = [start, end].map(|rest| firefly(header, *ends, port, rest));
            let told = [&start, &end].map(|text| Firefly::from_datagram(text.as_bytes()).expect("a firefly"));
            program.send(start);
            program.send(end);
            let got = [collector.receive(), collector.receive()];
            for (got, told) in got.iter().zip(&told) {
                assert_eq!((got.state, got.flow), (told.state, told.flow), "{name}");
                assert_eq!((got.experiment, got.activity), (3, 14), "{name}: as STARTed");
                assert_eq!((&got.usage, &got.netlink), (&told.usage, &told.netlink), "{name}");
                assert_eq!((&got.storage_stats, &got.extra), (&told.storage_stats, &told.extra), "{name}");
                assert!(told.application.is_none() || got.application == told.application, "{name}");
                // RFC 3339 to the microsecond is what we write.
                let micros = |t: Option<jiff::Timestamp>| t.map(|t| t.as_microsecond());
                assert_eq!(
                    micros(got.start_time),
                    micros(told.start_time.or(got_start(&got.start_time))),
                    "{name}"
                );
                assert_eq!(micros(got.end_time), micros(told.end_time), "{name}");
                assert!(
                    told.current_time.is_none() || micros(got.current_time) == micros(told.current_time),
                    "{name}"
                );
            }
            assert_eq!(got[0].start_time, got[1].start_time, "{name}: one start in both");
        }
    }
    assert!(collector.is_empty());
    assert_eq!(count(&daemon, INPUT, "events"), 20);
    assert_eq!(count(&daemon, INPUT, "malformed"), 0);
}

/// flowd-go leaves it out of an END; then it is that of the START.
fn got_start(start: &Option<jiff::Timestamp>) -> Option<jiff::Timestamp> {
    *start
}

fn lifecycle(state: &str, second: u32) -> String {
    let time = |second| format!("2026-03-01T10:{:02}:{:02}.000001Z", second / 60 % 60, second % 60);
    let end = if state == "end" { format!(r#","end-time":"{}""#, time(second)) } else { String::new() };
    let (start, now) = (time(0), time(second));
    format!(
        r#""flow-lifecycle":{{"state":"{state}","start-time":"{start}","current-time":"{now}"{end}}},"context":{{"experiment-id":3,"activity-id":14,"application":"test"}}"#
    )
}

#[test]
fn progress_begins_a_flow_that_nobody_started_and_is_told_each_time() {
    require_root!();
    let hosts = Hosts::new("ongoing");
    let collector = Collector::new(&hosts.b, hosts.dst(10515));
    let daemon = hosts.daemon(&config(&hosts, ""));
    let (program, ends) = (Program::local(&hosts), (hosts.src(0).ip(), hosts.dst(0).ip()));
    let ongoing = |second, more: &str| firefly("", ends, 7, &(lifecycle("ongoing", second) + more));
    program.send(ongoing(1, ""));
    assert_eq!(collector.receive().state, State::Start, "it was not known");
    program.send(ongoing(2, r#","usage":{"sent":5,"received":6}"#));
    let told = collector.receive();
    assert_eq!((told.state, told.usage.expect("usage").sent), (State::Ongoing, Some(5)));
    program.send(ongoing(2, r#","usage":{"sent":5,"received":6}"#));
    wait_for_count(&daemon, INPUT, "repeated", 1);
    program.send(firefly("", ends, 7, &lifecycle("end", 3)));
    assert_eq!(collector.receive().state, State::End, "and not the repetition");
}

#[test]
fn only_sources_that_are_listed_are_believed() {
    require_root!();
    let hosts = Hosts::new("sources");
    let collector = Collector::new(&hosts.b, (hosts.link.b.ipv4, 10515).into());
    let v4 = hosts.link.b.ipv4;
    let toml = config(&hosts, "").replace("\"::/0\", \"0.0.0.0/0\"", &format!("\"{v4}/32\""));
    let toml = toml.replace(&format!("[{}]", hosts.link.b.ipv6), &v4.to_string());
    let daemon = hosts.daemon(&toml);
    let ends = (hosts.src(0).ip(), "2001:db8::99".parse().expect("an address"));
    let start = |port| firefly("", ends, port, &lifecycle("start", 0));
    Program::on(&hosts.b, "[::]:0", hosts.src(10514)).send(start(1));
    Program::local(&hosts).send(start(2));
    wait_for_count(&daemon, INPUT, "foreign", 2);
    // Its IPv4 address comes as a mapped one to a socket of both families.
    Program::on(&hosts.b, "0.0.0.0:0", (hosts.link.a.ipv4, 10514).into()).send(start(3));
    wait_for_count(&daemon, INPUT, "events", 1);
    assert!(collector.is_empty(), "the host that told us is not told");
    assert_eq!(count(&daemon, "outputs.firefly", "echoes"), 1);
    let flows = cli::ok(&daemon, &["--json", "flow", "list"]);
    assert_eq!(flows.lines().count(), 1, "{flows}");
    assert_eq!(daemon.log().matches("a datagram was ignored").count(), 1, "said once");
}

#[test]
fn a_flow_that_starts_and_ends_a_thousand_times_is_told_in_order() {
    require_root!();
    let hosts = Hosts::new("order");
    let daemon = hosts.daemon(&config(&hosts, ""));
    let (program, ends) = (Program::local(&hosts), (hosts.src(0).ip(), hosts.dst(0).ip()));
    for second in 0..1000 {
        program.send(firefly("", ends, 7, &lifecycle("start", second)));
        program.send(firefly("", ends, 7, &lifecycle("end", second)));
    }
    wait_for_count(&daemon, INPUT, "events", 2000);
    assert_eq!((count(&daemon, INPUT, "unknown"), count(&daemon, INPUT, "lost")), (0, 0));
    let status = cli::json(&daemon, &["status"]);
    assert!(status.to_string().contains(r#""started":1000"#), "{status}");
    assert_eq!(cli::ok(&daemon, &["--json", "flow", "list"]), "");
}

fn resident(daemon: &Daemon) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[test]
fn a_hundred_thousand_datagrams_of_garbage_change_nothing() {
    require_root!();
    let hosts = Hosts::new("garbage");
    let collector = Collector::new(&hosts.b, hosts.dst(10515));
    let mut daemon = hosts.daemon(&config(&hosts, ""));
    let (program, ends) = (Program::local(&hosts), (hosts.src(0).ip(), hosts.dst(0).ip()));
    let valid = firefly("", ends, 7, &lifecycle("start", 0));
    let deep = format!("{}{}", "{\"a\":".repeat(1000), "}".repeat(1000));
    let mut long = vec![b'{'; 60_000];
    long.push(b'}');
    let garbage: [Vec<u8>; 8] = [
        vec![],
        vec![0; 1],
        vec![0xff; 1400],
        valid.as_bytes()[..valid.len() - 2].to_vec(),
        valid.replace("\"version\":1", "\"version\":9").into_bytes(),
        valid.replace("start", "\u{0}").into_bytes(),
        deep.into_bytes(),
        long,
    ];
    garbage.iter().for_each(|datagram| program.send(datagram));
    wait_for_count(&daemon, INPUT, "malformed", 8);
    let before = resident(&daemon);
    for n in 0..100_000 {
        program.send(&garbage[n % 7]);
    }
    let seen = || count(&daemon, INPUT, "malformed") + count(&daemon, INPUT, "lost");
    flowtag_testbed::wait_until("all of it", std::time::Duration::from_secs(120), || {
        Ok((seen() >= 100_008).then_some(()))
    })
    .expect("each is counted");
    assert_eq!(seen(), 100_008, "once");
    assert!(resident(&daemon) < before + 20_000, "{} KiB and then {}", before, resident(&daemon));
    program.send(&valid);
    assert_eq!(collector.receive().state, State::Start);
    assert!(daemon.is_running() && daemon.log().len() < 20_000, "{}", daemon.log());
    let stopped = daemon.stop();
    assert!(stopped.took < std::time::Duration::from_secs(5), "{:?}", stopped.took);
}

#[test]
fn what_has_no_tag_is_relayed_and_not_marked_and_everything_is_relayed_as_it_came_once() {
    require_root!();
    let hosts = Hosts::new("relay");
    let (first, second) = (
        Collector::new(&hosts.b, hosts.dst(10600)),
        Collector::new(&hosts.b, (hosts.link.b.ipv4, 10601).into()),
    );
    let relay = format!(
        "relay = [\"{}\", \"{}:10601\", \"nobody.invalid:1\"]\n",
        hosts.dst(10600),
        hosts.link.b.ipv4
    );
    let daemon = hosts.daemon(&config(&hosts, &relay));
    let (program, ends) = (Program::local(&hosts), (hosts.src(0).ip(), hosts.dst(0).ip()));
    let header = "<134>1 - h x - firefly-json - ";
    let known = firefly(header, ends, 7, &lifecycle("start", 0)) + "\n";
    let foreign = firefly(header, ends, 8, &lifecycle("start", 0))
        .replace("\"experiment-id\":3", "\"experiment-id\":65535");
    for datagram in [&known, &foreign] {
        program.send(datagram);
        for receiver in [&first, &second] {
            assert_eq!(String::from_utf8_lossy(&receiver.receive_raw()), **datagram);
        }
        program.send(datagram); // once more, without news
    }
    wait_for_count(&daemon, INPUT, "repeated", 2);
    // What comes from where it would go: a circle.
    Program::on(&hosts.b, "[::]:0", hosts.src(10514)).send(firefly(header, ends, 9, &lifecycle("start", 0)));
    wait_for_count(&daemon, INPUT, "relay_repeated", 1);
    assert!(first.is_empty() && second.is_empty());
    assert_eq!(count(&daemon, INPUT, "out_of_range"), 1);
    assert_eq!(count(&daemon, INPUT, "relayed"), 4);
    assert_eq!(count(&daemon, INPUT, "relay_failed"), 2, "the name that nobody knows");
    let flows = cli::ok(&daemon, &["--json", "flow", "list"]);
    assert_eq!(flows.lines().count(), 2, "{flows}");
}

#[test]
fn two_daemons_that_listen_to_each_other_do_not_talk_for_ever() {
    require_root!();
    let hosts = Hosts::new("circle");
    let toml = "[mark]\nenabled = false\n[flows]\nreport_every = \"1s\"\n\
                [inputs.firefly]\nenabled = true\nsources = [\"::/0\"]\n";
    // Each is the other's collector, too, and its own.
    let collectors = |own: IpAddr, other: IpAddr| {
        let block = |ip: IpAddr| format!("[[outputs.firefly.collectors]]\naddress = \"[{ip}]:10514\"\n");
        format!("{}{toml}", block(own) + &block(other))
    };
    let (ip_a, ip_b) = (hosts.src(0).ip(), hosts.dst(0).ip());
    let a = hosts.daemon(&collectors(ip_a, ip_b));
    let b = Daemon::start_with(&collectors(ip_b, ip_a), on(&hosts.b));
    let (src, dst) = (hosts.src(40000).to_string(), hosts.dst(5201).to_string());
    cli::ok(&a, &["flow", "start", "-t", "cms/14", "tcp", &src, &dst]);
    wait_for_count(&b, INPUT, "events", 4);
    let flow = |daemon: &Daemon| cli::ok(daemon, &["--json", "flow", "list"]).lines().count();
    assert_eq!((flow(&a), flow(&b)), (1, 1));
    let sent = |daemon: &Daemon| count(daemon, "outputs.firefly", "sent");
    let records = |daemon: &Daemon| count(daemon, "outputs.firefly", "queued");
    // START and what was due once a second from two clocks, to three targets at most: not a storm.
    assert!(sent(&a) <= 3 * records(&a) && records(&a) < 40, "{} of {}", sent(&a), records(&a));
    assert!(sent(&b) <= 3 * records(&b) && records(&b) < 40, "{} of {}", sent(&b), records(&b));
    cli::ok(&a, &["flow", "end", "tcp", &src, &dst]);
    flowtag_testbed::wait_until("the end at both", std::time::Duration::from_secs(20), || {
        Ok((flow(&a) + flow(&b) == 0).then_some(()))
    })
    .expect("it is over at both");
    let after = (records(&a), records(&b));
    std::thread::sleep(std::time::Duration::from_secs(3)); // three periods, in which nothing may happen
    assert_eq!((records(&a), records(&b)), after, "and nobody speaks of it any more");
    assert!(count(&a, INPUT, "repeated") > 0, "it heard itself");
}

#[test]
fn access_rules_and_reloads_are_for_fireflies_as_well() {
    require_root!();
    let hosts = Hosts::new("access");
    let rule = "[[access]]\ninput = [\"firefly\"]\ntags = [\"atlas\"]\n";
    let daemon = hosts.daemon(&(config(&hosts, "") + rule));
    let (program, ends) = (Program::local(&hosts), (hosts.src(0).ip(), hosts.dst(0).ip()));
    program.send(firefly("", ends, 7, &lifecycle("start", 0)));
    wait_for_count(&daemon, INPUT, "refused", 1);
    assert_eq!(cli::ok(&daemon, &["--json", "flow", "list"]), "");
    assert!(daemon.log().contains("input firefly may not"), "{}", daemon.log());
    daemon.reload(&config(&hosts, "listen = \"[::1]:10700\"\n"));
    let program = Program::on(&hosts.a, "[::1]:0", "[::1]:10700".parse().expect("an address"));
    flowtag_testbed::wait_until("the other port", std::time::Duration::from_secs(60), || {
        // Until somebody listens there, the network says so.
        let _ = program.0.send_to(firefly("", ends, 8, &lifecycle("start", 0)).as_bytes(), program.1);
        Ok((!cli::ok(&daemon, &["--json", "flow", "list"]).is_empty()).then_some(()))
    })
    .expect("it listens there, and the rule is gone");
}
