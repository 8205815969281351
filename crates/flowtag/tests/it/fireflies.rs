//! Fireflies as collectors receive them.

use crate::common;
use crate::common::cli;
use crate::common::collector::{Collector, count, wait_for_count};
use crate::common::hosts::Hosts;
use flowtag_testbed::require_root;
use flowtag_wire::firefly::State;

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
    daemon.wait_for_log("name cannot be resolved");
    let status = cli::json(&daemon, &["status"]);
    let fireflies = &status["services"]["outputs.firefly"];
    let targets = fireflies["targets"].as_array().expect("collectors");
    assert_eq!(targets.iter().filter(|c| c["address"].is_null()).count(), 1);
    assert_eq!(fireflies["counts"]["unresolved"], 2);
    assert_eq!(fireflies["counts"]["dropped"], 0);
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
        "[mark]\nenabled = false\n[outputs.firefly]\ndestination = false\n{}{}tags = [\"atlas\"]\n",
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

/// START events of as many flows, in one write.
fn start_many(daemon: &common::daemon::Daemon, hosts: &Hosts, flows: std::ops::Range<u16>, word: &str) {
    let line = |port| {
        let (src, dst) = (hosts.link.a.ipv6, hosts.link.b.ipv6);
        format!("{word} tcp {src} {port} {dst} 5201 3 14\n")
    };
    std::fs::write(daemon.pipe(), flows.map(line).collect::<String>()).expect("the pipe is read");
}

#[test]
fn a_flood_is_limited_for_each_target_and_ends_go_first() {
    require_root!();
    let hosts = Hosts::new("limit");
    let (collector, destination) =
        (Collector::new(&hosts.b, hosts.dst(10515)), Collector::new(&hosts.b, hosts.dst(10514)));
    let toml = config(&[format!("[{}]:10515", hosts.link.b.ipv6)]);
    let toml = toml
        .replace("[[outputs", "[outputs.firefly]\nrate_limit = 40\n[inputs.pipe]\nenabled = true\n[[outputs");
    let daemon = hosts.daemon(&toml);
    start_many(&daemon, &hosts, 1000..2000, "start");
    wait_for_count(&daemon, "inputs.pipe", "events", 1000);
    start_many(&daemon, &hosts, 1000..1010, "end");
    wait_for_count(&daemon, "inputs.pipe", "events", 1010);
    let mut ends = 0;
    let mut all = 0;
    while ends < 10 {
        all += 1;
        ends += usize::from(collector.receive().state == State::End);
    }
    assert!(all < 500, "{all} of 1010");
    assert!(count(&daemon, "outputs.firefly", "limited") > 1000, "of both targets");
    assert!(destination.drain() < 500);
    assert_eq!(count(&daemon, "outputs.firefly", "failed"), 0);
}

#[test]
fn collectors_choose_by_prefix_and_activity() {
    require_root!();
    let hosts = Hosts::new("prefix");
    let collectors = [10515, 10516, 10517].map(|port| Collector::new(&hosts.b, hosts.dst(port)));
    let block = |port: u16, filter: &str| {
        format!("[[outputs.firefly.collectors]]\naddress = \"{}\"\n{filter}\n", hosts.dst(port))
    };
    let toml = [
        "[mark]\nenabled = false\n[outputs.firefly]\ndestination = false\n".to_owned(),
        block(10515, "prefixes = [\"2001:db8:5::/48\", \"192.0.2.0/24\"]"),
        block(10516, "tags = [\"cms/14\"]"),
        block(10517, "tags = [\"cms\", \"atlas\"]\nprefixes = [\"2001:db8:6::/48\"]"),
    ];
    let daemon = hosts.daemon(&toml.concat());
    let flows = [
        ("cms/14", "[2001:db8::1]:1", "[2001:db8:5::1]:1"),
        ("cms/15", "192.0.2.1:2", "198.51.100.1:2"),
        ("atlas/9", "[2001:db8:6::1]:3", "[2001:db8::1]:3"),
    ];
    for (tag, src, dst) in flows {
        cli::ok(&daemon, &["flow", "start", "-t", tag, "tcp", src, dst]);
    }
    let port = |collector: &Collector| collector.receive().flow.src().port();
    assert_eq!([port(&collectors[0]), port(&collectors[0])], [1, 2]);
    assert_eq!(port(&collectors[1]), 1);
    assert_eq!(port(&collectors[2]), 3);
    assert!(collectors.iter().all(Collector::is_empty));
}

#[test]
fn a_collector_that_is_not_there_is_said_once_counted_and_shown() {
    require_root!();
    let hosts = Hosts::new("refused");
    let mut daemon = hosts.daemon(&config(&[format!("[{}]:10515", hosts.link.b.ipv6)]));
    let start = |port: u16| {
        let (src, dst) = (hosts.src(port).to_string(), hosts.dst(9).to_string());
        cli::ok(&daemon, &["flow", "start", "-t", "3/14", "tcp", &src, &dst]);
    };
    (1..=20).for_each(start);
    let unreachable = || count(&daemon, "outputs.firefly", "unreachable");
    flowtag_testbed::wait_until("answers", std::time::Duration::from_secs(60), || {
        start(30);
        cli::ok(&daemon, &["flow", "end", "tcp", &hosts.src(30).to_string(), &hosts.dst(9).to_string()]);
        Ok((unreachable() >= 2).then_some(()))
    })
    .expect("the other host says that nobody listens");
    let status = cli::json(&daemon, &["status"]);
    let target = &status["services"]["outputs.firefly"]["targets"][0];
    assert!(target["error"].as_str().is_some_and(|e| e.contains("refused")), "{target}");
    assert_eq!(daemon.log().matches("a collector cannot be reached").count(), 1, "{}", daemon.log());
    let collector = Collector::new(&hosts.b, hosts.dst(10515));
    start(40);
    assert_eq!(collector.receive().flow.src().port(), 40, "nothing is lost from then on");
    assert!(daemon.is_running());
}

#[test]
fn each_content_is_valid_fits_and_tells_the_round_trip_time() {
    require_root!();
    let hosts = Hosts::new("content");
    let toml = |content: &str| {
        format!(
            "[mark]\nenabled = false\n[flows]\nreport_every = \"1s\"\n[statistics]\nperiod = \"1s\"\n\
             [outputs.firefly]\ncontent = \"{content}\"\n"
        )
    };
    let destination = Collector::new(&hosts.b, hosts.dst(10514));
    let daemon = hosts.daemon(&toml("none"));
    let contents = ["flowtag", "flowd", "flowd-go", "flowd-go-lean", "flowd-go-full"];
    for (port, content) in (5201_u16..).zip(contents) {
        daemon.reload(&toml(content));
        wait_for_log_count(&daemon, "the new configuration is in force", usize::from(port - 5200));
        let mut streams = hosts.connect(port, port);
        let (src, dst) = (hosts.src(port).to_string(), hosts.dst(port).to_string());
        cli::ok(&daemon, &["flow", "start", "-t", "3/14", "tcp", &src, &dst]);
        assert_eq!(destination.receive().state, State::Start);
        common::hosts::transfer(&mut streams, &[7; 100_000]);
        let told = std::iter::repeat_with(|| destination.receive())
            .take(20)
            .find(|told| {
                told.usage.is_some_and(|usage| usage.sent == Some(100_000)) && told.netlink.is_some()
            })
            .expect("what was measured is told within some periods");
        assert_eq!(told.usage.and_then(|usage| usage.received), Some(0), "{content}");
        cli::ok(&daemon, &["flow", "end", "tcp", &src, &dst]);
        let end = std::iter::repeat_with(|| destination.receive()).find(|told| told.state == State::End);
        let end = end.expect("an end");
        assert_eq!(end.usage.and_then(|usage| usage.sent), Some(100_000), "{content}");
        let netlink = serde_json::Value::from(end.netlink.expect("netlink"));
        let rtt =
            [&netlink["rtt"], &netlink["tcpInfo"]["rtt"]].into_iter().find_map(serde_json::Value::as_f64);
        assert!(rtt.is_some_and(|rtt| rtt > 0.0), "{content}: {netlink}");
    }
}

#[track_caller]
fn wait_for_log_count(daemon: &common::daemon::Daemon, text: &str, number: usize) {
    let reached = || Ok((daemon.log().matches(text).count() >= number).then_some(()));
    flowtag_testbed::wait_until(text, std::time::Duration::from_secs(60), reached).expect("it is said");
}
