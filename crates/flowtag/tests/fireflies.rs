//! Fireflies as collectors receive them.

mod common;

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use common::cli;
use common::hosts::Hosts;
use flowtag_testbed::{Host, require_root};
use flowtag_wire::Firefly;
use flowtag_wire::firefly::State;
use serde_json::Value;

const SCHEMA: &str = include_str!("../../../data/firefly-schema-v1.0.0.json");

struct Collector(UdpSocket);

impl Collector {
    fn new(host: &Host, addr: SocketAddr) -> Self {
        let socket = host.run(|| UdpSocket::bind(addr)).expect("host").expect("bind");
        socket.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        Self(socket)
    }

    /// The next datagram, held against schema and RFC 5424.
    #[track_caller]
    fn receive(&self) -> Firefly {
        let mut buffer = [0; 2048];
        let length = self.0.recv(&mut buffer).expect("a firefly");
        assert!(length <= 1232, "within one MTU");
        let text = std::str::from_utf8(&buffer[..length]).expect("UTF-8");
        assert_valid(text);
        Firefly::from_datagram(text.as_bytes()).expect("it can be read")
    }

    fn is_empty(&self) -> bool {
        self.0.set_read_timeout(Some(Duration::from_millis(300))).expect("a timeout");
        self.0.recv(&mut [0; 1]).is_err()
    }
}

#[track_caller]
fn assert_valid(text: &str) {
    let header = r"^<134>1 \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00 [!-~]{1,255} flowtag-[!-~]{1,40} - firefly-json - \{";
    assert!(regex::Regex::new(header).expect("a pattern").is_match(text), "{text}");
    let json: Value = serde_json::from_str(&text[text.find('{').expect("JSON")..]).expect("JSON");
    let schema: Value = serde_json::from_str(SCHEMA).expect("the schema");
    let validator =
        jsonschema::options().should_validate_formats(true).build(&schema).expect("the schema compiles");
    validator.validate(&json).unwrap_or_else(|e| panic!("{e}: {json}"));
}

fn config(collectors: &[String]) -> String {
    let block = |address: &String| format!("[[outputs.firefly.collectors]]\naddress = \"{address}\"\n");
    "[mark]\ninterfaces = [\"eth*\"]\n".to_owned() + &collectors.iter().map(block).collect::<String>()
}

#[test]
fn destination_and_two_collectors_get_both_fireflies_and_a_dead_one_changes_nothing() {
    require_root!();
    let hosts = Hosts::new("fireflies");
    let (v6, v4) = (hosts.link.b.ipv6, hosts.link.b.ipv4);
    let collectors =
        [hosts.dst(10514), hosts.dst(10515), (v4, 10516).into()].map(|a| Collector::new(&hosts.b, a));
    let addresses = [
        format!("[{v6}]:10515"),
        format!("{v4}:10516"),
        format!("{v4}:9"),                    // nobody listens
        "collector.invalid:10514".to_owned(), // RFC 2606: never resolves
        "192.0.2.1:10514".to_owned(),         // no route
    ];
    let mut daemon = hosts.daemon(&config(&addresses));
    let (src, dst) = (hosts.src(40000).to_string(), hosts.dst(5201).to_string());
    cli::ok(&daemon, &["flow", "start", "-t", "cms/14", "--application", "test 1.0", "tcp", &src, &dst]);
    cli::ok(&daemon, &["flow", "end", "tcp", &src, &dst]);
    for collector in &collectors {
        let (start, end) = (collector.receive(), collector.receive());
        assert_eq!((start.state, end.state), (State::Start, State::End));
        for firefly in [&start, &end] {
            assert_eq!((firefly.experiment, firefly.activity), (3, 14));
            assert_eq!(
                (firefly.flow.src().to_string(), firefly.flow.dst().to_string()),
                (src.clone(), dst.clone())
            );
            assert_eq!(firefly.application.as_deref(), Some("test 1.0"));
            assert!(firefly.start_time.is_some() && firefly.current_time.is_some());
        }
        assert_eq!(start.end_time, None);
        assert_eq!(start.start_time, end.start_time, "END keeps START's time");
        assert!(end.end_time >= end.start_time);
        assert!(collector.is_empty(), "two fireflies and no more");
    }
    daemon.wait_for_log("collector cannot be resolved");
    let status = cli::json(&daemon, &["status"]);
    let unresolved =
        status["collectors"].as_array().expect("collectors").iter().filter(|c| c["address"].is_null());
    assert_eq!(unresolved.count(), 1);
    assert_eq!(status["fireflies"]["unresolved"], 2);
    assert_eq!(status["fireflies"]["dropped"], 0);
    daemon.stop();
}

#[test]
fn another_collector_is_followed_by_a_reload() {
    require_root!();
    let hosts = Hosts::new("names");
    let collector = Collector::new(&hosts.b, hosts.dst(10515));
    let mut daemon = hosts.daemon(&config(&["[2001:db8::dead]:10515".to_owned()]));
    daemon.reload(&config(&[format!("[{}]:10515", hosts.link.b.ipv6)]));
    daemon.wait_for_log("the new configuration is in force");
    cli::ok(
        &daemon,
        &["flow", "start", "-t", "3/14", "tcp", &hosts.src(1).to_string(), &hosts.dst(2).to_string()],
    );
    assert_eq!(collector.receive().state, State::Start);
}

#[test]
fn the_destination_copy_can_be_switched_off_and_collectors_choose_experiments() {
    require_root!();
    let hosts = Hosts::new("filter");
    let destination = Collector::new(&hosts.b, hosts.dst(10514));
    let (all, atlas) =
        (Collector::new(&hosts.b, hosts.dst(10515)), Collector::new(&hosts.b, hosts.dst(10516)));
    let address = |port: u16| format!("[[outputs.firefly.collectors]]\naddress = \"{}\"\n", hosts.dst(port));
    let toml = format!(
        "[mark]\nenabled = false\n[outputs.firefly]\ndestination = false\n{}{}experiments = [\"atlas\"]\n",
        address(10515),
        address(10516)
    );
    let daemon = hosts.daemon(&toml);
    for (port, tag) in [(1, "cms/default"), (2, "atlas/default")] {
        cli::ok(
            &daemon,
            &["flow", "start", "-t", tag, "tcp", &hosts.src(port).to_string(), &hosts.dst(9).to_string()],
        );
    }
    assert_eq!([all.receive().experiment, all.receive().experiment], [3, 2]);
    assert_eq!(atlas.receive().experiment, 2);
    assert!(atlas.is_empty() && destination.is_empty());
}

#[test]
fn fireflies_are_never_flows_of_their_own() {
    require_root!();
    let hosts = Hosts::new("loop");
    let daemon = hosts.daemon(&config(&[format!("[{}]:10515", hosts.link.b.ipv6)]));
    for port in [10514, 10515] {
        let (src, dst) = (hosts.src(40000).to_string(), hosts.dst(port).to_string());
        let output = cli::run(&daemon, &["flow", "start", "-t", "3/14", "udp", &src, &dst]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && stderr.contains("firefly traffic"), "{stderr}");
    }
}
