//! What the daemon always watches, as it comes out as metrics: held against the kernel's own counters, and the dashboard against
//! the metrics.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::{Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::common::cli;
use crate::common::daemon::{Daemon, binary, is_guest};
use crate::common::hosts::{Hosts, connect_from, counter, listen, on, transfer};
use flowtag_kernel::probes::{Measure, Metric, PROBES};
use flowtag_testbed::{Host, ImpairedLink, Impairment, Loss, Testbed, require_root, skip, wait_until};
use regex::Regex;
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(60);
const AT: &str = "127.0.0.1:9418";
const TOML: &str = "[mark]\ninterfaces = [\"eth*\"]\n[statistics]\nperiod = \"1s\"\n\
                    [outputs.prometheus]\nenabled = true\n";
const CMS: [(&str, &str); 4] =
    [("experiment", "cms"), ("activity", "Analysis Input"), ("experiment_id", "3"), ("activity_id", "14")];
const NOBODY: [(&str, &str); 2] = [("experiment", "none"), ("activity", "none")];

/// Samples by name and labels.
type Samples = BTreeMap<(String, BTreeMap<String, String>), f64>;

/// What the endpoint of a daemon on this host answers.
fn scrape_text(host: &Host, accept: &str) -> String {
    let get = || {
        let mut stream = TcpStream::connect(AT).expect("it listens");
        stream.set_read_timeout(Some(LIMIT)).expect("a time limit");
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\nConnection: close\r\n\r\n")
            .expect("sent");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("an answer");
        text
    };
    let text = host.run(get).expect("the host");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    body.to_owned()
}

/// Runs a program on this input, and gives what it says.
#[track_caller]
fn piped(mut command: Command, input: &str) -> std::process::Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("`make setup`");
    child.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("read");
    child.wait_with_output().expect("it ends")
}

/// Of the classic format, without quotes and commas in values, which these metrics have none of.
fn samples(text: &str) -> Samples {
    let line = |line: &str| {
        let (series, value) = line.rsplit_once(' ').expect("a value");
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let labels = labels.trim_end_matches('}').split("\",").filter_map(|pair| pair.split_once("=\""));
        let labels = labels.map(|(name, value)| (name.to_owned(), value.trim_end_matches('"').to_owned()));
        ((name.to_owned(), labels.collect()), value.parse().expect("a number"))
    };
    text.lines().filter(|line| !line.starts_with('#')).map(line).collect()
}

fn scrape(host: &Host) -> Samples {
    samples(&scrape_text(host, "text/plain"))
}

/// Sum of the series of this name that have all of these labels.
fn sum(samples: &Samples, name: &str, labels: &[(&str, &str)]) -> f64 {
    let has =
        |has: &BTreeMap<String, String>| labels.iter().all(|(k, v)| has.get(*k).is_some_and(|h| h == v));
    samples.iter().filter(|((n, labels), _)| n == name && has(labels)).map(|(_, value)| value).sum()
}

fn names(samples: &Samples) -> BTreeSet<&str> {
    samples.keys().map(|(name, _)| name.as_str()).collect()
}

/// A host that is watched, and another, with a link between them that loses what a test says.
struct Site {
    daemon: Daemon,
    a: Host,
    b: Host,
    link: ImpairedLink,
    /// Keeps the hosts.
    _bed: Testbed,
}

impl Site {
    fn new(name: &str, toml: &str) -> Self {
        let bed = Testbed::new(name).expect("a testbed");
        let (a, b) = (bed.host("a").expect("host a"), bed.host("b").expect("host b"));
        let link = bed.impaired_link(&a, &b, Impairment::default()).expect("a link");
        let daemon = Daemon::start_with(&format!("{TOML}{toml}"), on(&a));
        Self { daemon, a, b, link, _bed: bed }
    }

    fn src(&self, port: u16) -> SocketAddr {
        (self.link.a.ipv6, port).into()
    }

    fn dst(&self, port: u16) -> SocketAddr {
        (self.link.b.ipv6, port).into()
    }

    /// A connection from a to b; a closes it first.
    #[track_caller]
    fn exchange(&self, to: u16, bytes: usize) {
        let at = self.dst(to);
        let listener = self.b.run(|| listen(at)).expect("host b");
        let client = self.a.run(|| TcpStream::connect(at)).expect("host a").expect("connected");
        let (server, _) = listener.accept().expect("accepted");
        let mut both = (client, server);
        transfer(&mut both, &vec![1; bytes]);
        let (client, mut server) = both;
        client.shutdown(Shutdown::Write).expect("shut down");
        server.read_to_end(&mut Vec::new()).expect("all read");
        drop(server);
        (&client).read_to_end(&mut Vec::new()).expect("all read");
    }

    /// Tags the next connections from a to this port of b. The client's port is not known before, so it is chosen.
    #[track_caller]
    fn announce(&self, port: u16, to: u16) {
        let (src, dst) = (self.src(port).to_string(), self.dst(to).to_string());
        cli::ok(&self.daemon, &["flow", "start", "-t", "cms/Analysis Input", "tcp", &src, &dst]);
    }
}

/// The name of a metric in the classic format.
fn exposed(metric: &Metric) -> String {
    let unit = metric.unit.map(|unit| format!("_{unit}")).unwrap_or_default();
    let end = if matches!(metric.measure, Measure::Seconds(_) | Measure::Distribution) {
        "_count"
    } else {
        "_total"
    };
    format!("{}{unit}{end}", metric.name)
}

/// The name without what histograms put behind it.
fn family(name: &str) -> &str {
    ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name)
}

/// Everything that the dashboard asks for.
fn on_dashboard() -> BTreeSet<String> {
    let dashboard = include_str!("../../../../docs/grafana/flowtag.json");
    let dashboard: Value = serde_json::from_str(dashboard).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let (mut ids, mut expressions) = (BTreeSet::new(), Vec::new());
    for panel in panels {
        assert!(ids.insert(panel["id"].as_u64()), "two panels with one id: {panel}");
        let targets = panel["targets"].as_array().into_iter().flatten();
        expressions.extend(targets.map(|target| target["expr"].as_str().expect("an expression")));
    }
    assert!(expressions.len() > 20, "{expressions:#?}");
    let name = Regex::new(r"flowtag_[a-z0-9_]+").expect("a pattern");
    expressions
        .iter()
        .flat_map(|e| name.find_iter(e))
        .map(|found| family(found.as_str()).to_owned())
        .collect()
}

/// A tagged transfer that loses packets, a connection of nobody's, one that is refused and a datagram that nobody wants.
fn traffic(site: &Site) {
    site.announce(40000, 5201);
    // SYN, ACK, and then data, some of it lost twice. More than the test wants: one may be a question for a neighbour, or
    // a segment that a slow machine sent for nothing.
    let lost = Loss::these(&[4, 9, 20, 21, 22, 50, 60, 70, 80, 90, 100]);
    site.link.set(&Impairment { loss: lost, ..Impairment::default() });
    let (src, dst) = (site.src(40000), site.dst(5201));
    let listener = site.b.run(|| listen(dst)).expect("host b");
    let client = site.a.run(|| connect_from(src, dst)).expect("host a");
    let (server, _) = listener.accept().expect("accepted");
    let mut both = (client, server);
    transfer(&mut both, &vec![7; 300_000]);
    drop(both);
    site.exchange(5202, 10);
    let nobody = site.src(9);
    let refused = site.b.run(|| TcpStream::connect(nobody)).expect("host b");
    assert!(refused.is_err(), "nobody listens");
    site.b
        .run(|| UdpSocket::bind(("::", 0)).and_then(|s| s.send_to(b"x", nobody)))
        .expect("host b")
        .expect("sent");
}

#[test]
fn what_happens_to_connections_is_exported_by_whose_they_are_and_is_what_the_kernel_counted() {
    require_root!();
    // An output with a target, which has metrics, too.
    let collector = "[observe]\n[outputs.firefly]\ndestination = false\n\
                     [[outputs.firefly.collectors]]\naddress = \"[::1]:10515\"\n";
    let site = Site::new("obs-daemon", collector);
    let before = (counter(&site.a, "TcpRetransSegs"), scrape(&site.a));
    let first = |name: &str| sum(&before.1, name, &[]);
    traffic(&site);
    let done = || {
        let now = scrape(&site.a);
        let closed = |labels: &[(&str, &str)]| sum(&now, "flowtag_tcp_closed_connections_total", labels);
        let told = closed(&CMS) >= 1.0 && closed(&NOBODY) >= 1.0;
        let drops = sum(&now, "flowtag_skb_drops_packets_total", &[]);
        let moved = sum(&now, "flowtag_flow_tx_bytes_total", &CMS) >= 300_000.0;
        Ok((told && moved && drops >= 1.0 && sum(&now, "flowtag_tcp_resets_total", &[]) >= 1.0)
            .then_some(now))
    };
    let now = wait_until("what happened", LIMIT, done)
        .unwrap_or_else(|e| panic!("{e:#}\n{}\n{}", scrape_text(&site.a, "text/plain"), site.daemon.log()));
    let again = sum(&now, "flowtag_tcp_retransmit_segments_total", &[]);
    assert_eq!(again, (counter(&site.a, "TcpRetransSegs") - before.0) as f64, "as the kernel counts them");
    assert!(sum(&now, "flowtag_skb_drops_packets_total", &[("interface", "eth0")]) >= 1.0, "nobody listens");
    let place = |key: &(String, BTreeMap<String, String>)| key.1.get("location").cloned();
    let places: BTreeSet<_> = now.keys().filter_map(place).collect();
    assert!(places.iter().all(|place| place.contains("+0x")), "functions have names: {places:?}");
    assert!(sum(&now, "flowtag_tcp_retransmit_segments_total", &CMS) >= 6.0);
    assert_eq!(sum(&now, "flowtag_tcp_retransmit_segments_total", &NOBODY), 0.0);
    assert_eq!(
        sum(&now, "flowtag_flow_retransmit_segments_total", &CMS),
        again,
        "the statistics say the same"
    );
    assert_eq!(sum(&now, "flowtag_tcp_closed_connections_total", &CMS), 1.0);
    assert_eq!(sum(&now, "flowtag_tcp_resets_total", &[("direction", "sent")]), 1.0);
    assert_eq!(sum(&now, "flowtag_observe_events_lost_total", &[]), 0.0);
    assert_eq!(sum(&now, "flowtag_series_dropped_total", &[]), 0.0);
    assert_eq!(first("flowtag_tcp_retransmit_segments_total"), 0.0);
    times(&now);
    // A guest has no parsers of others.
    if !is_guest() {
        formats(&site);
    }
    dashboard(&now);
    let status = cli::json(&site.daemon, &["status"]);
    let observe = &status["services"]["observe"];
    assert!(observe["counts"]["events"].as_u64() > Some(3), "{observe}");
    assert_eq!(observe["at"], "life, retrans, resets, drops, rtt");
    assert_eq!(observe["problems"], serde_json::json!([]));
}

/// Distributions are whole, and of the tag.
fn times(now: &Samples) {
    let count = sum(now, "flowtag_tcp_rtt_seconds_count", &CMS);
    assert!(count >= 3.0, "{count} samples of a transfer with hundreds of segments");
    let infinite: Vec<_> = CMS.into_iter().chain([("le", "+Inf")]).collect();
    assert_eq!(sum(now, "flowtag_tcp_rtt_seconds_bucket", &infinite), count);
    let mean = sum(now, "flowtag_tcp_rtt_seconds_sum", &CMS) / count;
    assert!(mean > 1e-6 && mean < 2.0, "{mean} s on a veth");
}

/// Others' parsers read it, too.
fn formats(site: &Site) {
    let mut lint = Command::new("promtool");
    lint.args(["check", "metrics"]);
    let said = piped(lint, &scrape_text(&site.a, "text/plain"));
    assert_eq!(String::from_utf8_lossy(&[said.stdout, said.stderr].concat()), "");
    let mut python = Command::new("python3");
    let packages = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/python");
    python.env("PYTHONPATH", packages).args([
        "-c",
        "import sys\nfrom prometheus_client.openmetrics.parser import text_string_to_metric_families as f\n\
         print([m.type for m in f(sys.stdin.read()) if m.name == 'flowtag_tcp_rtt_seconds'])",
    ]);
    let open = scrape_text(&site.a, "application/openmetrics-text;version=1.0.0");
    let said = piped(python, &open);
    assert_eq!(
        String::from_utf8_lossy(&said.stdout),
        "['histogram']\n",
        "{}",
        String::from_utf8_lossy(&said.stderr)
    );
}

/// The dashboard asks for nothing that there is not, and for everything that probes tell.
fn dashboard(now: &Samples) {
    let asked = on_dashboard();
    let described: BTreeSet<_> = PROBES.iter().flat_map(|probe| probe.metrics).map(exposed).collect();
    let described: BTreeSet<_> = described.iter().map(|name| family(name)).collect();
    let told: BTreeSet<_> = names(now).into_iter().map(family).collect();
    let unknown: Vec<_> = asked
        .iter()
        .filter(|name| !told.contains(name.as_str()) && !described.contains(name.as_str()))
        .collect();
    assert!(unknown.is_empty(), "the dashboard asks for what does not exist: {unknown:?}");
    let ours = ["flowtag_observe_", "flowtag_bpf_", "flowtag_series_"];
    let of_observe = told.iter().filter(|name| ours.iter().any(|prefix| name.starts_with(prefix)));
    let left_out: Vec<_> = of_observe.chain(&described).filter(|name| !asked.contains(**name)).collect();
    assert!(left_out.is_empty(), "not on the dashboard: {left_out:?}");
    let documented = include_str!("../../../../docs/prometheus.md");
    let undocumented: Vec<_> = told
        .iter()
        .chain(&described)
        .filter(|name| is_observed(name) && !documented.contains(**name))
        .collect();
    assert!(undocumented.is_empty(), "not in docs/prometheus.md: {undocumented:?}");
}

fn is_observed(name: &str) -> bool {
    let others = ["flowtag_engine_", "flowtag_inputs_", "flowtag_outputs_", "flowtag_statistics_"];
    !others.iter().any(|prefix| name.starts_with(prefix))
}

#[test]
fn names_of_metrics_mean_one_thing_each_and_are_as_prometheus_wants_them() {
    let all: Vec<_> = PROBES.iter().flat_map(|probe| probe.metrics).collect();
    let names: BTreeSet<_> = all.iter().map(|metric| exposed(metric)).collect();
    assert_eq!(names.len(), all.len(), "{names:?}");
    let pattern = Regex::new("^flowtag_[a-z][a-z0-9_]*[a-z0-9]$").expect("a pattern");
    for metric in all {
        assert!(pattern.is_match(metric.name) && !metric.name.ends_with("_total"), "{}", metric.name);
        assert!(!metric.help.ends_with('.') && !metric.help.is_empty(), "{}: {}", metric.name, metric.help);
        let is_time = matches!(metric.measure, Measure::Seconds(_) | Measure::Distribution);
        assert!(!is_time || metric.unit == Some("seconds"), "{} is in seconds", metric.name);
    }
}

#[test]
fn peers_beyond_the_most_series_are_one_and_a_reload_that_changes_nothing_loses_nothing() {
    require_root!();
    let toml = "[observe]\nprobes = [\"life\"]\nlabels = [\"peer\"]\npeer_ipv6 = 128\nmax_series = 10\n";
    let site = Site::new("obs-bound", toml);
    let name = "flowtag_tcp_closed_connections_total";
    let connect = |to: u16| {
        let addr: Ipv6Addr = format!("fd00:77::{to:x}").parse().expect("an address");
        let at = SocketAddr::from((addr, 5300));
        let listener = site.b.run(|| TcpListener::bind(at)).expect("host b").expect("bound");
        let client = site.a.run(|| TcpStream::connect(at)).expect("host a").expect("connected");
        drop((client, listener.accept().expect("accepted")));
    };
    let to = |now: &Samples, n: u16| sum(now, name, &[("peer", &format!("fd00:77::{n:x}/128"))]);
    for n in 0..15 {
        site.b.add_address("eth0", &format!("fd00:77::{n:x}/64")).expect("an address");
    }
    site.a.add_address("eth0", "fd00:77::ffff/64").expect("an address");
    (0..15).for_each(connect);
    let all = || {
        let now = scrape(&site.a);
        Ok((sum(&now, name, &[]) >= 15.0).then_some(now))
    };
    let now = wait_until("the connections", LIMIT, all).expect("told");
    let series = now.keys().filter(|(n, _)| n == name).count();
    let (own, other) = (series - 1, sum(&now, name, &[("peer", "other")]));
    assert_eq!((own, other), (10, 5.0), "{now:#?}");
    // All came between two scrapes, so it is open which have series.
    let known = (0..15).find(|n| to(&now, *n) == 1.0).expect("one of its own");
    assert_eq!(sum(&now, "flowtag_series_dropped_total", &[]), 5.0);
    site.daemon.reload(&format!("{TOML}{toml}[log]\nlevel = \"debug\"\n"));
    let again = |times: f64| {
        connect(known);
        let told = || Ok((to(&scrape(&site.a), known) >= times).then_some(()));
        wait_until("the connection", LIMIT, told).expect("told");
    };
    again(2.0);
    // Another ring and other programs, and the same series.
    site.daemon.reload(&format!("{TOML}{}", toml.replace("[\"life\"]", "[\"life\", \"retrans\"]")));
    let up = || Ok((sum(&scrape(&site.a), "flowtag_observe_up", &[]) == 2.0).then_some(()));
    wait_until("the other probe", LIMIT, up).expect("it runs");
    again(3.0);
    site.daemon.reload(&format!("{TOML}[observe]\nenabled = false\n"));
    let gone = || Ok((!scrape(&site.a).keys().any(|(n, _)| n == name)).then_some(()));
    wait_until("no more of it", LIMIT, gone).expect("gone");
    let status = cli::json(&site.daemon, &["status"]);
    assert!(status["services"]["observe"].is_null(), "{status}");
}

/// Both shut down, this one first. To close would not do: the next process that a thread starts has a copy for a moment.
#[track_caller]
fn ends_first(this: &TcpStream, that: &TcpStream) {
    this.shutdown(Shutdown::Write).expect("shut down");
    that.shutdown(Shutdown::Write).expect("shut down");
}

#[test]
fn ends_of_connections_are_as_many_as_the_kernel_counts_by_process_and_by_how_they_came() {
    require_root!();
    let site = Site::new("obs-ends", "[observe]\nlabels = [\"process\", \"interface\"]\n");
    let name = "flowtag_tcp_closed_connections_total";
    let opens = || ["TcpActiveOpens", "TcpPassiveOpens"].map(|name| counter(&site.a, name));
    let [active, passive] = opens();
    let listener = site.b.run(|| listen(site.dst(5300))).expect("host b");
    for _ in 0..200 {
        let client = site.a.run(|| TcpStream::connect(site.dst(5300))).expect("host a").expect("connected");
        ends_first(&client, &listener.accept().expect("accepted").0);
        let refused = site.a.run(|| TcpStream::connect(site.dst(9))).expect("host a");
        assert!(refused.is_err(), "nobody listens");
    }
    let ours = site.a.run(|| listen(site.src(5301))).expect("host a");
    for _ in 0..100 {
        let client = site.b.run(|| TcpStream::connect(site.src(5301))).expect("host b").expect("connected");
        ends_first(&ours.accept().expect("accepted").0, &client);
    }
    let [active, passive] = [opens()[0] - active, opens()[1] - passive];
    assert_eq!((active, passive), (400, 100));
    let process = std::fs::read_to_string("/proc/self/comm").expect("a name");
    // Whoever asks for metrics has connections, too; the daemon ends them.
    let ends = [
        ("active", "refused", "remote", 200.0),
        ("active", "FIN", "local", 200.0),
        ("passive", "FIN", "local", 100.0),
    ];
    let of = |now: &Samples, (direction, end, by, _): (&str, &str, &str, f64)| {
        let labels = [
            ("direction", direction),
            ("end", end),
            ("by", by),
            ("process", process.trim()),
            ("interface", "unknown"),
        ];
        sum(now, name, &labels)
    };
    let all = || {
        let now = scrape(&site.a);
        Ok(ends.iter().all(|end| of(&now, *end) >= end.3).then_some(now))
    };
    let now = wait_until("the ends", LIMIT, all)
        .unwrap_or_else(|e| panic!("{e:#}\n{}", scrape_text(&site.a, "text/plain")));
    for end in ends {
        assert_eq!(of(&now, end), end.3, "{end:?}");
    }
    assert_eq!(sum(&now, "flowtag_observe_events_total", &[("probe", "life")]), 0.0, "none came one by one");
}

/// Runs the daemon on a host without what loading programs needs.
fn without_bpf(host: &Host) -> impl FnOnce(&[OsString]) -> Command {
    |args| {
        let mut command = host.command("setpriv");
        command.arg("--bounding-set=-bpf,-perfmon,-sys_admin").args(args);
        command
    }
}

#[test]
fn a_daemon_that_may_load_nothing_says_so_and_does_the_rest() {
    require_root!();
    if is_guest() {
        skip!("BusyBox's setpriv takes no capabilities away");
    }
    let hosts = Hosts::new("obs-none");
    let toml = TOML.replace("interfaces = [\"eth*\"]", "enabled = false");
    let mut daemon = Daemon::start_with(&toml, without_bpf(&hosts.a));
    daemon.wait_for_log("a probe does not run: its metrics are missing");
    let now = scrape(&hosts.a);
    assert_eq!(sum(&now, "flowtag_observe_up", &[]), 0.0);
    let there = now.keys().filter(|(name, _)| name == "flowtag_observe_up").count();
    assert!(there >= 2, "{now:#?}");
    let status = cli::json(&daemon, &["status"]);
    let problems = &status["services"]["observe"]["problems"];
    assert!(problems[0].as_str().is_some_and(|p| p.contains("life does not run: ")), "{problems}");
    let screen = cli::ok(&daemon, &["status"]);
    assert!(screen.contains("! observe: life does not run"), "{screen}");
    drop(daemon);
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("flowtag.toml");
    let here = dir.path().display();
    let named = format!(
        "runtime_dir = \"{here}/run\"\n[inputs.control]\nenabled = false\n{toml}[observe]\nprobes = [\"retrans\"]\n"
    );
    std::fs::write(&path, named).expect("written");
    let args = [binary(), "run".into(), "--config".into(), path.into()];
    let output = without_bpf(&hosts.a)(&args).output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("observe.probes"), "asked for by name: {said}");
}
