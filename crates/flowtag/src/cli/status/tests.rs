use serde_json::{Value, json};

use super::*;

fn counts_of(pairs: &[(&str, u64)]) -> Value {
    pairs
        .iter()
        .map(|(verdict, n)| ((*verdict).to_owned(), json!({ "packets": n, "bytes": 100 * n })))
        .collect()
}

fn status() -> Value {
    let interface = |name: &str, counts: Value| json!({ "name": name, "index": 2, "hook": "tcx", "shared_counters": false, "counts": counts });
    let tag = |activity: u8, name: &str, flows: u64| {
        json!({ "experiment": 3, "activity": activity, "experiment_name": "cms", "activity_name": name,
            "flows": flows, "sent": 123_456_789_u64, "received": 0 })
    };
    let service = |at: Value, counts: Value, targets: Value| json!({ "at": at, "running": true, "counts": counts, "targets": targets });
    json!({
        "version": "0.1.0", "pid": 4711, "started": "2026-05-04T11:59:00.25Z", "flows": 1234, "max_flows": 100_000,
        "tags": [tag(14, "Analysis Input", 1000), tag(15, "Analysis Output", 200), tag(1, "default", 20)],
        "interfaces": [
            interface("eth0", counts_of(&[("marked", 900), ("no_flow", 90), ("never", 8), ("fragment", 2), ("ipv4", 5000)])),
            interface("eth1", counts_of(&[("marked", 2_000_000), ("no_flow", 0)])),
        ],
        "engine": { "started": 1300, "rejected_full": 0 },
        "services": {
            "inputs.control": service(json!("/run/flowtag/control.sock"), json!({ "requests": 12, "events": 0 }), json!([])),
            "outputs.firefly": service(Value::Null, json!({ "sent": 1200 }),
                json!([{ "name": "[::1]:10514", "address": "[::1]:10514", "error": null }])),
        },
    })
}

fn shown(status: Value) -> Vec<String> {
    let daemon: Daemon = serde_json::from_value(status).expect("a status");
    screen(&daemon, "2026-05-04T15:10:07Z".parse().expect("a time"), Style::new())
}

#[test]
fn a_daemon_without_trouble_is_told_without_warnings() {
    let expected = "\
flowtag 0.1.0 (pid 4711), up 3 h 11 min, since 2026-05-04T11:59:00Z

INTERFACE  HOOK  IPV6 SENT  MARKED  NOT MARKED
eth1       tcx      2.00 M  100.0%
eth0       tcx        1000   90.0%  no flow 9.0%, never 0.8%, …

FLOWS  OF                        SENT  RECEIVED
 1000  cms/Analysis Input      123 MB       0 B
  200  cms/Analysis Output     123 MB       0 B
   20  cms/default             123 MB       0 B
1234 flows of at most 100 k. 14 of them with other tags.

PART             AT                         COUNTS
inputs.control   /run/flowtag/control.sock  requests 12
outputs.firefly  [::1]:10514                sent 1200";
    let lines = shown(status());
    let squeezed = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(squeezed(&lines.join("\n")), squeezed(expected), "{}", lines.join("\n"));
}

#[test]
fn what_to_act_on_comes_first_and_says_what_would_do() {
    let mut status = status();
    status["interfaces"][0]["counts"]["no_room"] = json!({ "packets": 7, "bytes": 700 });
    status["engine"]["rejected_full"] = json!(3);
    status["services"]["outputs.firefly"]["counts"] = json!({ "sent": 5, "dropped": 12, "unresolved": 3 });
    status["services"]["outputs.firefly"]["targets"] =
        json!([{ "name": "collector.invalid:10514", "address": null, "error": "no record found" }]);
    let lines = shown(status);
    assert_eq!(
        lines[1..8],
        [
            "! 7 packets had no room for an options header: lower the MTU of the route, or",
            "  use \"label\"",
            "! 3 announcements were refused, the flow table was full: raise flows.max",
            "  (100000)",
            "! outputs.firefly: nothing reaches collector.invalid:10514: no record found",
            "! outputs.firefly: 12 records were dropped, the queue was full: raise",
            "  outputs.firefly.queue",
        ]
    );
    assert_eq!(lines[8], "");
}

#[test]
fn it_fits_on_a_screen_whatever_there_is() {
    let mut status = status();
    let (tag, interface) = (status["tags"][0].clone(), status["interfaces"][0].clone());
    status["tags"] = vec![tag; 20].into();
    status["interfaces"] = vec![interface; 40].into();
    let names =
        ["control", "control_tcp", "pipe", "flowd_go", "firefly", "xrootd"].map(|n| format!("inputs.{n}"));
    let outputs = ["firefly", "prometheus", "otlp", "json", "ipfix"].map(|n| format!("outputs.{n}"));
    let long = json!({ "at": "/run/a/rather/long/path/of/a/socket.sock", "running": true, "targets": [],
        "counts": { "dropped": 123_456_789_u64, "failed": 99_999, "denied": 1, "sent": 12, "queued": 77_777 } });
    for name in names.into_iter().chain(outputs) {
        status["services"][name] = long.clone();
    }
    let lines = shown(status);
    assert!(lines.len() <= HEIGHT, "{} lines:\n{}", lines.len(), lines.join("\n"));
    assert!(lines.iter().all(|line| line.chars().count() <= WIDTH), "{}", lines.join("\n"));
}

#[test]
fn numbers_and_times_are_short() {
    let cases = [(0, "0"), (99_999, "99999"), (100_000, "100 k"), (1_234_567, "1.23 M")];
    cases.into_iter().for_each(|(number, text)| assert_eq!(count(number), text));
    let cases = [(59, "59 s"), (61, "1 min 1 s"), (7260, "2 h 1 min"), (180_000, "2 d 2 h")];
    cases.into_iter().for_each(|(seconds, text)| assert_eq!(uptime(seconds), text));
}
