//! Metrics as Prometheus scrapes them, read by others' parsers.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::daemon::Daemon;
use crate::common::hosts::{Hosts, transfer};
use crate::common::{api, cli};
use flowtag_testbed::{Host, require_root, wait_until};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(60);
const OPENMETRICS: &str = "application/openmetrics-text;version=1.0.0";
/// Without marking and fireflies, on whichever port is free.
const ALONE: &str = "[mark]\nenabled = false\n[outputs.firefly]\nenabled = false\n\
                     [outputs.prometheus]\nenabled = true\nlisten = \"127.0.0.1:0\"\n";
/// On a host of its own.
const ON_HOST: &str = "[mark]\ninterfaces = [\"eth*\"]\n[outputs.firefly]\nenabled = false\n[statistics]\nperiod = \"1s\"\n\
                       [outputs.prometheus]\nenabled = true\n";
const OF_HOST: &str = "127.0.0.1:9418";

/// One answer to GET.
struct Answer {
    head: String,
    body: String,
}

fn get(at: SocketAddr, path: &str, accept: &str) -> Answer {
    let mut stream = TcpStream::connect(at).expect("it listens");
    stream.set_read_timeout(Some(LIMIT)).expect("a time limit");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\nConnection: close\r\n\r\n")
        .expect("sent");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    Answer { head: head.to_owned(), body: body.to_owned() }
}

/// Where the endpoint of a daemon is that chose its port itself.
fn endpoint(daemon: &Daemon) -> SocketAddr {
    let status = cli::json(daemon, &["status"]);
    let at = status["services"]["outputs.prometheus"]["at"].as_str().expect("an endpoint").to_owned();
    at.trim_start_matches("http://").trim_end_matches("/metrics").parse().expect("an address")
}

/// Samples by name and labels.
type Samples = BTreeMap<(String, BTreeMap<String, String>), f64>;

/// Runs a program of Python that reads the standard input and prints JSON.
fn python(program: &str, input: &str) -> Value {
    let packages = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/python");
    let mut child = Command::new("python3")
        .args(["-c", program])
        .env("PYTHONPATH", packages)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3: run `make setup`");
    child.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("read");
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "python3 refuses (`make setup` installs what it needs):\n{input}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// What the parser of Prometheus' client for Python reads.
#[track_caller]
fn parse(text: &str, parser: &str) -> Samples {
    let program = format!(
        "import sys, json\nfrom {parser} import text_string_to_metric_families as families\n\
         print(json.dumps([[s.name, s.labels, s.value] for f in families(sys.stdin.read()) for s in f.samples]))"
    );
    let samples: Vec<(String, BTreeMap<String, String>, f64)> =
        serde_json::from_value(python(&program, text)).expect("samples");
    let number = samples.len();
    let samples: Samples = samples.into_iter().map(|(name, labels, value)| ((name, labels), value)).collect();
    assert_eq!(samples.len(), number, "no series is there twice");
    samples
}

fn scrape(at: SocketAddr) -> Samples {
    let answer = get(at, "/metrics", OPENMETRICS);
    assert!(answer.head.starts_with("HTTP/1.1 200"), "{}", answer.head);
    parse(&answer.body, "prometheus_client.openmetrics.parser")
}

fn scrape_on(host: &Host) -> Samples {
    host.run(|| scrape(OF_HOST.parse().expect("an address"))).expect("the host")
}

/// What `promtool check metrics` says; it does not like all names of flowd and flowd-go.
#[track_caller]
fn lint(text: &str) -> String {
    let mut child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool: run `make setup`");
    child.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("read");
    let output = child.wait_with_output().expect("it ends");
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

/// Sum of the series of this name that have all of these labels.
fn sum(samples: &Samples, name: &str, labels: &[(&str, &str)]) -> f64 {
    let wanted =
        |has: &BTreeMap<String, String>| labels.iter().all(|(k, v)| has.get(*k).is_some_and(|h| h == v));
    samples.iter().filter(|((n, has), _)| n == name && wanted(has)).map(|(_, value)| value).sum()
}

fn number(samples: &Samples, name: &str) -> usize {
    samples.keys().filter(|(n, _)| n == name).count()
}

/// Counters of `before` that are less in `after`.
fn gone_back(before: &Samples, after: &Samples) -> Vec<String> {
    let less = |(key, value): (&(String, BTreeMap<String, String>), &f64)| {
        let now = after.get(key)?;
        (key.0.ends_with("_total") && now < value).then(|| format!("{key:?}: {value} then {now}"))
    };
    before.iter().filter_map(less).collect()
}

fn start(src: SocketAddr, dst: SocketAddr, tag: &str) -> Vec<String> {
    ["flow", "start", "-t", tag, "tcp", &src.to_string(), &dst.to_string()].map(str::to_owned).to_vec()
}

fn end(src: SocketAddr, dst: SocketAddr) -> Vec<String> {
    ["flow", "end", "tcp", &src.to_string(), &dst.to_string()].map(str::to_owned).to_vec()
}

fn run(daemon: &Daemon, args: &[String]) {
    cli::ok(daemon, &args.iter().map(String::as_str).collect::<Vec<_>>());
}

#[test]
fn what_a_transfer_moved_is_counted_to_its_tag_and_stays_when_the_flow_is_over() {
    require_root!();
    let hosts = Hosts::new("prom-totals");
    let daemon = hosts.daemon(ON_HOST);
    let (src, dst) = (hosts.src(40000), hosts.dst(5201));
    run(&daemon, &start(src, dst, "cms/Analysis Input"));
    let mut connection = hosts.connect(40000, 5201);
    let data = vec![7; 1_000_000];
    transfer(&mut connection, &data);
    let cms = [
        ("experiment", "cms"),
        ("activity", "Analysis Input"),
        ("experiment_id", "3"),
        ("activity_id", "14"),
    ];
    let sent = |samples: &Samples| sum(samples, "flowtag_flow_tx_bytes_total", &cms);
    let counted = || {
        let samples = scrape_on(&hosts.a);
        Ok((sent(&samples) >= 1e6).then_some(samples))
    };
    let before =
        wait_until("the bytes to be counted while the flow goes on", LIMIT, counted).expect("counted");
    assert_eq!(sent(&before), 1e6);
    assert_eq!(sum(&before, "flowtag_flows_open", &cms), 1.0);
    assert!(sum(&before, "flowtag_marked_packets_total", &cms) > 10.0);
    assert!(sum(&before, "flowtag_marked_bytes_total", &cms) > 1e6);
    let marked = [("interface", "eth0"), ("verdict", "marked")];
    assert!(sum(&before, "flowtag_interface_packets_total", &marked) > 10.0);
    assert!(sum(&before, "flowtag_tcp_sent_segments_total", &cms) > 10.0);
    run(&daemon, &end(src, dst));
    drop(connection);
    let after = scrape_on(&hosts.a);
    assert_eq!((sent(&after), sum(&after, "flowtag_flows_open", &cms)), (1e6, 0.0));
    let ended: Vec<_> = cms.into_iter().chain([("reason", "requested")]).collect();
    assert_eq!(sum(&after, "flowtag_flows_ended_total", &ended), 1.0);
    assert_eq!(gone_back(&before, &after), Vec::<String>::new());
}

#[test]
fn parallel_streams_have_series_of_their_own_that_go_when_they_end_and_nothing_is_counted_twice() {
    require_root!();
    let hosts = Hosts::new("prom-flows");
    let daemon = hosts.daemon(&format!("{ON_HOST}per_flow = true\n"));
    let ports = [(40001, 100_000), (40002, 300_000)];
    let mut connections = Vec::new();
    for (port, bytes) in ports {
        run(&daemon, &start(hosts.src(port), hosts.dst(5201), "atlas/perfSONAR"));
        let mut connection = hosts.connect(port, 5201);
        transfer(&mut connection, &vec![1; bytes]);
        connections.push(connection);
    }
    let local = |port: u16| hosts.src(port).to_string();
    let name = "flowtag_connection_tx_bytes_total";
    let counted = || {
        let samples = scrape_on(&hosts.a);
        let own =
            |(port, bytes): &(u16, usize)| sum(&samples, name, &[("local", &local(*port))]) == *bytes as f64;
        Ok(ports.iter().all(own).then_some(samples))
    };
    let before = wait_until("each stream's own bytes", LIMIT, counted).expect("counted");
    assert_eq!(sum(&before, name, &[("local", "other")]), 0.0);
    for metric in ["rtt_seconds", "min_rtt_seconds"] {
        let rtt = sum(&before, &format!("flowtag_connection_{metric}"), &[("local", &local(40001))]);
        assert!(rtt > 1e-6 && rtt < 1.0, "{metric} of a veth is {rtt} s");
    }
    assert!(sum(&before, "flowtag_connection_cwnd_segments", &[("local", &local(40002))]) >= 1.0);
    run(&daemon, &end(hosts.src(40001), hosts.dst(5201)));
    let after = scrape_on(&hosts.a);
    assert_eq!(after.keys().filter(|(_, labels)| labels.get("local") == Some(&local(40001))).count(), 0);
    assert_eq!(sum(&after, name, &[("local", "other")]), 0.0, "what was told in a series is not told again");
    assert_eq!(sum(&after, name, &[("local", &local(40002))]), 300_000.0);
    assert_eq!(gone_back(&before, &after), Vec::<String>::new());
}

/// As `ss -tin` shows the connection on the host.
fn ss(host: &Host, port: u16) -> String {
    let output =
        host.command("ss").args(["-tinHm", "sport", "=", &format!(":{port}")]).output().expect("ss runs");
    String::from_utf8(output.stdout).expect("text")
}

/// The number after `key:` in what ss shows.
fn shown(ss: &str, key: &str) -> f64 {
    let word = ss
        .split_whitespace()
        .find_map(|word| word.strip_prefix(&format!("{key}:")))
        .unwrap_or_else(|| panic!("{key}: {ss}"));
    word.split(['/', ',']).next().expect("a word").parse().unwrap_or_else(|e| panic!("{e}: {word}"))
}

#[test]
fn flowd_go_and_flowd_names_have_their_labels_and_the_values_of_ss() {
    require_root!();
    let hosts = Hosts::new("prom-names");
    let mut daemon = hosts.daemon(&format!("{ON_HOST}names = [\"flowd-go\"]\n"));
    run(&daemon, &start(hosts.src(40001), hosts.dst(5201), "cms/Cache"));
    let mut connection = hosts.connect(40001, 5201);
    transfer(&mut connection, &vec![1; 50_000]);
    let (src, dst) = (hosts.link.a.ipv6.to_string(), hosts.link.b.ipv6.to_string());
    let wait = |labels: &[(&str, &str)]| {
        let counted = || {
            let samples = scrape_on(&hosts.a);
            Ok((sum(&samples, "flow_tcp_bytes_sent_total", labels) == 50_000.0).then_some(samples))
        };
        wait_until("the connection's values", LIMIT, counted).expect("told")
    };
    let labels = [
        ("act", "3"),
        ("exp", "3"),
        ("src", &*src),
        ("dst", &*dst),
        ("flow", "<40001:5201>"),
        ("flavour", "Netlink"),
    ];
    let samples = wait(&labels);
    let seen = ss(&hosts.a, 40001);
    for (name, key) in
        [("mss", "mss"), ("pmtu", "pmtu"), ("advmss", "advmss"), ("segs_out_total", "segs_out")]
    {
        assert_eq!(sum(&samples, &format!("flow_tcp_{name}"), &labels), shown(&seen, key), "{name}: {seen}");
    }
    let algorithm =
        seen.split_whitespace().find(|word| ["cubic", "reno", "bbr"].contains(word)).expect("an algorithm");
    let with_algorithm: Vec<_> = labels.iter().copied().chain([("alg", algorithm)]).collect();
    assert_eq!(sum(&samples, "flow_tcp_rcv_ca_info", &with_algorithm), 1.0, "{seen}");
    let names = samples.keys().filter(|(name, _)| name.starts_with("flow_tcp_")).count();
    assert_eq!((names, number(&samples, "flow_tcp_retrans")), (31, 1), "all of flowd-go, and nothing else");
    assert!(samples.keys().all(|(name, _)| !name.starts_with("flowtag_")), "only what was asked for");

    daemon.reload(&format!("{ON_HOST}names = [\"flowd\"]\n"));
    daemon.wait_for_log("the new configuration is in force");
    let labels = [("act", "Cache"), ("exp", "cms"), ("src", &*src), ("dst", &*dst), ("flow", "40001:5201")];
    let samples = wait(&labels);
    let rtt = sum(&samples, "flow_tcp_rtt", &labels);
    assert!((rtt - shown(&ss(&hosts.a, 40001), "rtt")).abs() < 100.0 && rtt > 0.0, "milliseconds: {rtt}");
    assert_eq!(sum(&samples, "flow_tcp_pmtu", &labels), shown(&seen, "pmtu"));
    assert!(sum(&samples, "flow_tcp_skmem_snd_buf", &labels) > 4096.0);
    assert_eq!(number(&samples, "flow_tcp_retrans_total"), 1);
    run(&daemon, &end(hosts.src(40001), hosts.dst(5201)));
    let after = scrape_on(&hosts.a);
    assert_eq!(after.keys().filter(|(name, _)| name.starts_with("flow_tcp_")).count(), 0, "END removes them");
}

/// An event of the API: one flow of experiment `e` and activity `a`.
fn event(state: &str, port: usize, e: usize, a: usize) -> Value {
    let (src, dst) =
        (format!("[2001:db8::{:x}]:{}", port / 60_000 + 1, port % 60_000 + 1), "[2001:db8:1::1]:1094");
    let mut event = json!({ "state": state, "protocol": "tcp", "src": src, "dst": dst });
    if state == "end" {
        event["usage"] = json!({ "sent": 10, "received": 1 });
    } else {
        event["experiment"] = json!(e);
        event["activity"] = json!(a);
    }
    event
}

fn send(daemon: &Daemon, events: Vec<Value>) {
    let answer = api::post(daemon, "/v1/events", &Value::from(events));
    assert_eq!(answer.json()["rejected"], 0);
}

#[test]
fn tags_beyond_the_limit_are_added_up_and_no_counter_goes_back() {
    let daemon = Daemon::start(&format!("{ALONE}max_series = 10\n"));
    let at = endpoint(&daemon);
    let tags = |from: usize, to: usize| (from..to).map(|i| (i, 1 + i % 100, 1 + i / 100));
    let starts = |from, to| tags(from, to).map(|(i, e, a)| event("start", i, e, a)).collect::<Vec<_>>();
    send(&daemon, starts(20, 25));
    let mut before = scrape(at);
    assert_eq!(number(&before, "flowtag_flows_open"), 5);
    for (from, to) in [(0, 20), (25, 300)] {
        send(&daemon, starts(from, to));
        let ends =
            tags(from, to).filter(|(i, ..)| i % 2 == 0).map(|(i, e, a)| event("end", i, e, a)).collect();
        send(&daemon, ends);
        let after = scrape(at);
        assert_eq!(gone_back(&before, &after), Vec::<String>::new());
        before = after;
    }
    assert_eq!(number(&before, "flowtag_flow_tx_bytes_total"), 11);
    assert_eq!(sum(&before, "flowtag_flow_tx_bytes_total", &[]), 1470.0, "147 ENDs");
    assert_eq!(sum(&before, "flowtag_flow_rx_bytes_total", &[]), 147.0);
    assert_eq!(sum(&before, "flowtag_flows_open", &[]), 153.0);
    assert_eq!(sum(&before, "flowtag_flows_started_total", &[("experiment", "other")]), 290.0);
}

#[test]
fn other_parsers_read_both_formats_and_every_metric_is_documented() {
    // Two scrapes are to tell the same, and what is observed sees the first.
    let daemon = Daemon::start(&format!("{ALONE}per_flow = true\n[observe]\nenabled = false\n"));
    let at = endpoint(&daemon);
    send(&daemon, vec![event("start", 1, 3, 14), event("start", 2, 500, 63), event("end", 2, 0, 0)]);
    let open = get(at, "/metrics", OPENMETRICS);
    assert!(open.head.contains("application/openmetrics-text; version=1.0.0"), "{}", open.head);
    let classic = get(at, "/metrics", "text/plain;version=0.0.4, */*;q=0.1");
    assert!(classic.head.contains("text/plain; version=0.0.4"), "{}", classic.head);
    assert_eq!(lint(&classic.body), "", "promtool has nothing to say");
    let (open, classic) = (
        parse(&open.body, "prometheus_client.openmetrics.parser"),
        parse(&classic.body, "prometheus_client.parser"),
    );
    assert_eq!(open.keys().collect::<Vec<_>>(), classic.keys().collect::<Vec<_>>());
    let documented = include_str!("../../../../docs/prometheus.md");
    for (name, _) in open.keys() {
        let service = ["flowtag_engine_", "flowtag_inputs_", "flowtag_outputs_", "flowtag_statistics_"];
        let described = service.iter().find(|prefix| name.starts_with(**prefix)).copied().unwrap_or(name);
        assert!(documented.contains(described), "{name} is not in docs/prometheus.md");
    }
    let unregistered = [("experiment", "500"), ("experiment_id", "500"), ("activity", "63")];
    assert_eq!(
        sum(&open, "flowtag_flows_started_total", &unregistered),
        1.0,
        "a number where there is no name"
    );
    assert!(get(at, "/", "*/*").head.starts_with("HTTP/1.1 404"));
}

#[test]
fn with_a_hundred_thousand_flows_a_scrape_has_a_thousand_series_and_the_rest() {
    let daemon = Daemon::start(&format!("{ALONE}per_flow = true\n"));
    let at = endpoint(&daemon);
    for chunk in (0..100_000).collect::<Vec<_>>().chunks(10_000) {
        send(&daemon, chunk.iter().map(|i| event("start", *i, 1 + i % 14, 1)).collect());
    }
    let began = Instant::now();
    let text = get(at, "/metrics", OPENMETRICS).body;
    println!("a scrape of {} bytes with 100,000 flows took {:?}", text.len(), began.elapsed());
    let samples = parse(&text, "prometheus_client.openmetrics.parser");
    assert_eq!(sum(&samples, "flowtag_flows_open", &[]), 1e5);
    assert_eq!(number(&samples, "flowtag_connection_start_time_seconds"), 1000);
    assert_eq!(
        number(&samples, "flowtag_connection_tx_bytes_total"),
        1,
        "nobody measured any: only the rest"
    );
}

#[test]
fn silent_clients_do_not_keep_a_scraper_out() {
    let daemon = Daemon::start(ALONE);
    let at = endpoint(&daemon);
    let silent: Vec<_> = (0..300).map(|_| TcpStream::connect(at).expect("it listens")).collect();
    assert!(get(at, "/metrics", "").head.starts_with("HTTP/1.1 200"));
    drop(silent);
    let mut slow = TcpStream::connect(at).expect("it listens");
    slow.write_all(&vec![b'a'; 100_000]).ok(); // no head is that long
    assert!(get(at, "/metrics", "").head.starts_with("HTTP/1.1 200"));
}
