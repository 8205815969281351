//! Flow records as collectors get them, decoded by tshark.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::UdpSocket;
use std::process::Command;
use std::time::Duration;

use crate::common;
use crate::common::hosts::{Hosts, transfer};
use crate::common::{api, cli};
use flowtag_testbed::{Captured, require_root, wait_until};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(60);

fn config(hosts: &Hosts, more: &str) -> String {
    let (v6, v4) = (hosts.link.b.ipv6, hosts.link.b.ipv4);
    format!(
        "[mark]\ninterfaces = [\"eth*\"]\n[outputs.firefly]\nenabled = false\n[outputs.ipfix]\nenabled = true\n\
         collectors = [\"[{v6}]:4739\"]\ntemplate_every = \"1s\"\n# {v4}\n{more}"
    )
}

/// Fields of each data record in order, as `name=value`; elements of the enterprise as `pen:number`.
type Record = Vec<(String, String)>;

/// What tshark reads: the records of all messages, and the sequence numbers.
fn decode(captured: &Captured) -> (Vec<Record>, Vec<u64>) {
    let output = Command::new("tshark")
        .args(["-r", captured.path().to_str().expect("readable"), "-d", "udp.port==4739,cflow", "-2"])
        .args(["-T", "json", "--no-duplicate-keys", "-Y", "cflow"])
        .output()
        .expect("tshark: run `make setup`");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let packets: Vec<Value> = serde_json::from_slice(&output.stdout).expect("JSON");
    let (mut records, mut sequences) = (Vec::new(), Vec::new());
    for packet in &packets {
        let cflow = &packet["_source"]["layers"]["cflow"];
        assert_eq!(cflow["cflow.version"], "10", "{cflow:#}");
        sequences.push(cflow["cflow.sequence"].as_str().expect("a number").parse().expect("a number"));
        flows(cflow, &mut records);
    }
    let text = String::from_utf8_lossy(&output.stdout);
    for complaint in ["_ws.malformed", "cflow.no_template_found", "_ws.expert"] {
        assert!(!text.contains(complaint), "{complaint}: {text}");
    }
    (records, sequences)
}

/// Goes through tshark's tree for its "Flow N".
fn flows(tree: &Value, records: &mut Vec<Record>) {
    match tree {
        Value::Object(fields) => {
            for (name, value) in fields {
                if name.starts_with("Flow ") {
                    let mut record = Vec::new();
                    leaves("", value, &mut record);
                    records.push(record);
                } else {
                    flows(value, records);
                }
            }
        }
        Value::Array(list) => list.iter().for_each(|value| flows(value, records)),
        _ => {}
    }
}

fn leaves(name: &str, tree: &Value, record: &mut Record) {
    match tree {
        Value::Object(fields) => fields.iter().for_each(|(name, value)| leaves(name, value, record)),
        Value::Array(list) => list.iter().for_each(|value| leaves(name, value, record)),
        Value::String(text) => record.push((name.to_owned(), text.clone())),
        other => record.push((name.to_owned(), other.to_string())),
    }
}

/// All values of a field, in order: forward, then reverse.
fn values<'a>(record: &'a Record, name: &str) -> Vec<&'a str> {
    record.iter().filter(|(n, _)| n == name).map(|(_, value)| value.as_str()).collect()
}

fn number(record: &Record, name: &str, which: usize) -> u64 {
    let values = values(record, name);
    let text = values.get(which).unwrap_or_else(|| panic!("no {name} in {record:#?}"));
    text.parse().unwrap_or_else(|e| panic!("{name}: {e}: {text}"))
}

fn counts(daemon: &common::daemon::Daemon) -> Value {
    cli::json(daemon, &["status"])["services"]["outputs.ipfix"]["counts"].clone()
}

#[test]
fn tshark_reads_every_field_of_both_ip_versions() {
    require_root!();
    let hosts = Hosts::new("ipfix");
    let _collector = hosts.b.run(|| UdpSocket::bind(hosts.dst(4739))).expect("host b").expect("bind");
    let capture = hosts.b.capture("eth0", "udp port 4739").expect("a capture");
    let daemon = hosts.daemon(&config(&hosts, ""));
    // A connection of which the kernel knows all.
    let (src, dst) = (hosts.src(40000).to_string(), hosts.dst(5201).to_string());
    cli::ok(&daemon, &["flow", "start", "-t", "cms/14", "tcp", &src, &dst]);
    let mut connection = hosts.connect(40000, 5201);
    transfer(&mut connection, &vec![1; 70_000]);
    (&connection.1).write_all(b"thanks").expect("sent");
    let label = cli::json(&daemon, &["flow", "list"])["label"].as_str().expect("a label").to_owned();
    cli::ok(&daemon, &["flow", "end", "tcp", &src, &dst]);
    // One of which only its announcer knows, and from the far end.
    let (near, far) = (hosts.link.a.ipv4, hosts.link.b.ipv4);
    let flow = json!({ "protocol": "udp", "src": format!("{far}:1000"), "dst": format!("{near}:2000") });
    let with = |more: Value| {
        let mut all = flow.clone();
        all.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        all
    };
    let start = json!({ "experiment": 511, "activity": 63, "start_time": "2026-01-02T03:04:05.678Z" });
    assert_eq!(api::post(&daemon, "/v1/flows", &with(start)).status, 201);
    let end = json!({ "end_time": "2026-01-02T03:05:06.789Z", "usage": { "sent": 5_000_000_000_u64, "received": 77 } });
    assert_eq!(api::post(&daemon, "/v1/flows/end", &with(end)).status, 200);
    wait_until("both records", LIMIT, || Ok((counts(&daemon)["records"] == 2).then_some(()))).expect("sent");
    let (records, _) = decode(&capture.stop().expect("captured"));
    let [v6, v4] = &records[..] else { panic!("{records:#?}") };

    check_measured(v6, &hosts, &label);
    check_told(v4, &near.to_string(), &far.to_string());
}

#[track_caller]
fn all(record: &Record, fields: &[(&str, &str)]) {
    for (name, value) in fields {
        assert_eq!(values(record, name), [*value], "{name} in {record:#?}");
    }
}

fn check_measured(v6: &Record, hosts: &Hosts, label: &str) {
    let ends = (hosts.link.a.ipv6.to_string(), hosts.link.b.ipv6.to_string());
    all(
        v6,
        &[
            ("cflow.srcaddrv6", &ends.0),
            ("cflow.dstaddrv6", &ends.1),
            ("cflow.srcport", "40000"),
            ("cflow.dstport", "5201"),
            ("cflow.protocol", "6"),
            ("cflow.flow_end_reason", "3"),
            ("cflow.biflow_direction", "0"),
            ("cflow.flow_id", "1"),
        ],
    );
    let label = u64::from_str_radix(label.trim_start_matches("0x"), 16).expect("a label");
    assert_eq!(number(v6, "cflow.ipv6flowlabel", 0), label);
    let [forward, reverse] = [0, 1].map(|i| number(v6, "cflow.transport_octet_delta_count", i));
    assert_eq!((forward, reverse), (70_000, 6));
    let [octets, packets] = ["cflow.octets", "cflow.packets"].map(|name| number(v6, name, 0));
    assert!(packets > 2 && octets == 70_000 + packets * (40 + 32), "{octets} bytes in {packets} packets");
    let [octets, packets] = ["cflow.octets", "cflow.packets"].map(|name| number(v6, name, 1));
    assert!(packets > 2 && octets == 6 + packets * (40 + 32), "{octets} bytes in {packets} packets");
    assert_eq!(own(v6), BTreeMap::from([(1, 3), (2, 14)]), "{v6:#?}");
}

fn check_told(v4: &Record, near: &str, far: &str) {
    all(
        v4,
        &[
            ("cflow.srcaddr", near),
            ("cflow.dstaddr", far),
            ("cflow.srcport", "2000"),
            ("cflow.dstport", "1000"),
            ("cflow.protocol", "17"),
            ("cflow.flow_end_reason", "3"),
            ("cflow.flow_id", "2"),
        ],
    );
    assert!(values(v4, "cflow.ipv6flowlabel").is_empty());
    assert_eq!([0, 1].map(|i| number(v4, "cflow.transport_octet_delta_count", i)), [77, 5_000_000_000]);
    assert_eq!(own(v4), BTreeMap::from([(1, 511), (2, 63)]));
    assert!(values(v4, "cflow.abstimestart")[0].contains("03:04:05.678"), "{v4:#?}");
    assert!(values(v4, "cflow.abstimeend")[0].contains("03:05:06.789"), "{v4:#?}");
}

/// Elements under enterprise 32473, which tshark does not know.
fn own(record: &Record) -> BTreeMap<u64, u64> {
    let unknown = values(record, "cflow.enterprise_private_entry");
    let number = |text: &&str| u64::from_str_radix(&text.replace(':', ""), 16).expect("bytes");
    (1..).zip(unknown.iter().map(number)).collect()
}

#[test]
fn a_flow_that_goes_on_is_told_in_parts_that_add_up_and_no_record_is_lost_in_a_burst() {
    require_root!();
    let hosts = Hosts::new("ipfix-burst");
    let collector = hosts.b.run(|| UdpSocket::bind(hosts.dst(4739))).expect("host b").expect("bind");
    let capture = hosts.b.capture("eth0", "udp port 4739").expect("a capture");
    let more = "[flows]\nreport_every = \"1s\"\n[statistics]\nperiod = \"1s\"\n";
    let daemon = hosts.daemon(&config(&hosts, more));
    let (src, dst) = (hosts.src(40000).to_string(), hosts.dst(5201).to_string());
    cli::ok(&daemon, &["flow", "start", "-t", "cms/14", "tcp", &src, &dst]);
    let mut connection = hosts.connect(40000, 5201);
    for wanted in [1, 3] {
        transfer(&mut connection, &vec![1; 100_000]);
        let told = || Ok((counts(&daemon)["records"].as_u64() >= Some(wanted)).then_some(()));
        wait_until("periodic records", LIMIT, told).expect("sent");
    }
    cli::ok(&daemon, &["flow", "end", "tcp", &src, &dst]);
    let event = |state: &str, port: u32| {
        let mut event = api::start(u16::try_from(port).expect("a port"), 1094);
        event["state"] = json!(state);
        if state == "end" {
            for key in ["experiment", "activity"] {
                event.as_object_mut().expect("an object").remove(key);
            }
        }
        event
    };
    let events: Vec<_> = (1..=2000).flat_map(|port| [event("start", port), event("end", port)]).collect();
    assert_eq!(api::post(&daemon, "/v1/events", &json!(events)).json()["accepted"], 4000);
    let told = || Ok(counts(&daemon)["records"].as_u64().filter(|records| *records >= 2003));
    let told = wait_until("all records", LIMIT, told).expect("sent");
    let mut longest = 0;
    collector.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
    let mut buffer = [0; 4096];
    while let Ok(length) = collector.recv(&mut buffer) {
        longest = longest.max(length);
    }
    assert!(
        (1000..=1232).contains(&longest),
        "full messages, and none longer than every path takes: {longest}"
    );
    let (records, sequences) = decode(&capture.stop().expect("captured"));
    assert_eq!(records.len() as u64, told, "all that was counted is on the wire");
    let of_flow: Vec<&Record> = records.iter().filter(|r| values(r, "cflow.srcport") == ["40000"]).collect();
    let sum: u64 = of_flow.iter().map(|r| number(r, "cflow.transport_octet_delta_count", 0)).sum();
    assert_eq!(sum, 200_000, "the parts add up");
    let reasons: Vec<_> = of_flow.iter().map(|r| values(r, "cflow.flow_end_reason")[0]).collect();
    let (last, before) = reasons.split_last().expect("records");
    assert!(*last == "3" && before.len() >= 3 && before.iter().all(|r| *r == "2"), "{reasons:?}");
    assert!(sequences.is_sorted() && sequences.last() <= Some(&told), "{sequences:?}");
}

#[test]
fn a_collector_that_cannot_be_reached_is_counted_and_the_daemon_stops_in_time() {
    require_root!();
    let hosts = Hosts::new("ipfix-gone");
    let toml = "[mark]\nenabled = false\n[outputs.firefly]\nenabled = false\n[outputs.ipfix]\nenabled = true\n\
                collectors = [\"192.0.2.1:4739\", \"collector.invalid:4739\"]\n";
    let mut daemon = hosts.daemon(toml);
    assert_eq!(api::post(&daemon, "/v1/flows", &api::start(1, 2)).status, 201);
    let end = json!({ "id": 1 });
    assert_eq!(api::post(&daemon, "/v1/flows/end", &end).status, 200);
    let told = || {
        let counts = counts(&daemon);
        Ok((counts["records"] == 1
            && counts["failed"].as_u64() >= Some(1)
            && counts["unresolved"].as_u64() >= Some(1))
        .then_some(()))
    };
    wait_until("the failures to be counted", LIMIT, told).expect("counted");
    daemon.wait_for_log("flow records could not be sent");
    assert_eq!(daemon.log().matches("flow records could not be sent").count(), 1, "said once");
    let stopped = daemon.stop();
    assert!(stopped.took < Duration::from_secs(5), "stopped after {:?}", stopped.took);
}
