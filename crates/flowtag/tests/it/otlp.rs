//! Metrics and logs as an OpenTelemetry collector gets them, decoded by the protobuf library of Python.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::common::daemon::Daemon;
use crate::common::{api, cli};
use flowtag_testbed::{require_root, wait_until};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(60);

/// One request as it came.
#[derive(Debug)]
struct Request {
    path: String,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

/// Status, further headers and body.
type Answer = (u16, &'static str, Vec<u8>);

/// A collector that answers as the test says.
struct Collector {
    at: SocketAddr,
    requests: Receiver<Request>,
    /// To the next requests with logs; 200 and nothing when there are none.
    answers: Arc<Mutex<Vec<Answer>>>,
}

impl Collector {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let at = listener.local_addr().expect("an address");
        let (sender, requests) = channel();
        let answers: Arc<Mutex<Vec<_>>> = Arc::default();
        let next = Arc::clone(&answers);
        std::thread::spawn(move || serve(&listener, &sender, &next));
        Self { at, requests, answers }
    }

    fn config(&self, more: &str) -> String {
        format!(
            "[mark]\nenabled = false\n[outputs.firefly]\nenabled = false\n[outputs.otlp]\nenabled = true\n\
             endpoint = \"http://{}\"\nperiod = \"1s\"\n{more}",
            self.at
        )
    }

    /// The next request to this path.
    #[track_caller]
    fn receive(&self, path: &str) -> Request {
        loop {
            let request = self.requests.recv_timeout(LIMIT).expect("a request");
            if request.path == path {
                return request;
            }
        }
    }

    fn answer(&self, answers: &[Answer]) {
        *self.answers.lock().expect("a lock") = answers.to_vec();
    }
}

fn serve(listener: &TcpListener, requests: &Sender<Request>, answers: &Mutex<Vec<Answer>>) {
    for stream in listener.incoming() {
        let mut stream = BufReader::new(stream.expect("a connection"));
        while let Some(request) = read(&mut stream) {
            let is_log = request.path == "/v1/logs";
            let _ = requests.send(request);
            let mut answers = answers.lock().expect("a lock");
            let next = if is_log && !answers.is_empty() { Some(answers.remove(0)) } else { None };
            let (status, headers, body) = next.unwrap_or((200, "", Vec::new()));
            let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n{headers}\r\n", body.len());
            if stream.get_mut().write_all(&[head.as_bytes(), &body].concat()).is_err() {
                break;
            }
        }
    }
}

fn read(stream: &mut impl BufRead) -> Option<Request> {
    let mut line = String::new();
    stream.read_line(&mut line).ok().filter(|read| *read > 0)?;
    let path = line.split(' ').nth(1)?.to_owned();
    assert!(line.starts_with("POST "), "{line}");
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let mut body = vec![0; headers["content-length"].parse().expect("a length")];
    stream.read_exact(&mut body).ok()?;
    Some(Request { path, headers, body })
}

/// What Python's protobuf library makes of a message.
#[track_caller]
fn decode(request: &Request) -> Value {
    let kind = if request.path == "/v1/logs" { "logs" } else { "metrics" };
    let message = format!("Export{}ServiceRequest", if kind == "logs" { "Logs" } else { "Metrics" });
    let program = format!(
        "import sys\nfrom google.protobuf.json_format import MessageToJson\n\
         from opentelemetry.proto.collector.{kind}.v1.{kind}_service_pb2 import {message}\n\
         print(MessageToJson({message}.FromString(sys.stdin.buffer.read())))"
    );
    let packages = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/python");
    let mut child = Command::new("python3")
        .args(["-c", &program])
        .env("PYTHONPATH", packages)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3: run `make setup`");
    child.stdin.take().expect("a pipe").write_all(&request.body).expect("read");
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "the message is not of OTLP (or `make setup` was not run)");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// Attributes by name: strings, numbers as text.
fn attributes(of: &Value) -> BTreeMap<String, String> {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let pair = |attribute: &Value| {
        let value = attribute["value"].as_object().and_then(|v| v.values().next()).expect("a value");
        (attribute["key"].as_str().expect("a key").to_owned(), text(value))
    };
    of["attributes"].as_array().into_iter().flatten().map(pair).collect()
}

fn start(daemon: &Daemon, port: u16) {
    assert_eq!(api::post(daemon, "/v1/flows", &api::start(port, 1094)).status, 201);
}

fn end(daemon: &Daemon, port: u16) {
    let (src, dst) = (format!("[2001:db8::1]:{port}"), "[2001:db8::2]:1094");
    let usage = json!({ "sent": 5_000_000_000_u64, "received": 7 });
    let end = json!({ "protocol": "tcp", "src": src, "dst": dst, "usage": usage });
    assert_eq!(api::post(daemon, "/v1/flows/end", &end).status, 200);
}

fn counts(daemon: &Daemon) -> Value {
    cli::json(daemon, &["status"])["services"]["outputs.otlp"]["counts"].clone()
}

#[track_caller]
fn wait_for(daemon: &Daemon, key: &str, least: u64) {
    let reached = || Ok((counts(daemon)[key].as_u64() >= Some(least)).then_some(()));
    wait_until(key, LIMIT, reached).unwrap_or_else(|_| panic!("{key}: {}", counts(daemon)));
}

/// All log records of a request.
fn records(request: &Request) -> Vec<Value> {
    let logs = decode(request);
    logs["resourceLogs"][0]["scopeLogs"][0]["logRecords"].as_array().expect("records").clone()
}

#[test]
fn a_receiver_gets_metrics_and_the_start_and_end_of_each_flow() {
    let collector = Collector::new();
    let daemon =
        Daemon::start(&collector.config("[outputs.otlp.headers]\nauthorization = \"Bearer sesame\"\n"));
    start(&daemon, 40000);
    end(&daemon, 40000);
    let request = collector.receive("/v1/logs");
    assert_eq!(request.headers["content-type"], "application/x-protobuf");
    assert_eq!(request.headers["authorization"], "Bearer sesame");
    let mut all = records(&request);
    if all.len() == 1 {
        all.extend(records(&collector.receive("/v1/logs")));
    }
    let names: Vec<_> = all.iter().map(|r| r["eventName"].as_str().expect("a name")).collect();
    assert_eq!(names, ["flowtag.flow.start", "flowtag.flow.end"]);
    let last = attributes(&all[1]);
    for (name, value) in [
        ("experiment", "3"),
        ("experiment_name", "cms"),
        ("activity_name", "Analysis Input"),
        ("source_address", "2001:db8::1"),
        ("source_port", "40000"),
        ("end_reason", "requested"),
        ("sent_bytes", "5000000000"),
        ("received_bytes", "7"),
    ] {
        assert_eq!(last.get(&format!("flowtag.{name}")).map(String::as_str), Some(value), "{last:#?}");
    }
    assert_eq!(all[1]["severityText"], "INFO");
    assert!(all[1]["body"]["stringValue"].as_str().expect("text").contains("end of tcp [2001:db8::1]:40000"));
    let moved = || {
        let metrics = decode(&collector.receive("/v1/metrics"));
        let resource = attributes(&metrics["resourceMetrics"][0]["resource"]);
        assert_eq!(resource["service.name"], "flowtag");
        let all =
            metrics["resourceMetrics"][0]["scopeMetrics"][0]["metrics"].as_array().expect("metrics").clone();
        Ok(all.iter().any(|m| m["name"] == "flowtag.flow_tx").then_some(all))
    };
    let all = wait_until("what the flow moved", LIMIT, moved).expect("told");
    let metric =
        |name: &str| all.iter().find(|m| m["name"] == name).unwrap_or_else(|| panic!("no {name}: {all:#?}"));
    let sent = metric("flowtag.flow_tx");
    assert_eq!(sent["unit"], "By");
    assert_eq!(sent["sum"]["aggregationTemporality"], "AGGREGATION_TEMPORALITY_CUMULATIVE");
    assert_eq!(sent["sum"]["isMonotonic"], true);
    let point = &sent["sum"]["dataPoints"][0];
    assert_eq!(attributes(point)["activity"], "Analysis Input");
    let nanos = |key: &str| point[key].as_str().and_then(|n| n.parse::<u64>().ok()).expect("a time");
    assert!(nanos("startTimeUnixNano") < nanos("timeUnixNano"));
    assert!(metric("flowtag.flows_open")["gauge"]["dataPoints"][0]["asInt"].is_string());
    assert_eq!(metric("flowtag.start_time")["unit"], "s");
}

#[test]
fn what_is_observed_comes_as_sums_and_distributions() {
    require_root!();
    let collector = Collector::new();
    let daemon = Daemon::start(&collector.config(""));
    // The daemon's own connection has round trips; this one ends.
    drop(TcpStream::connect(collector.at).expect("the collector listens"));
    let observed = || {
        let metrics = decode(&collector.receive("/v1/metrics"));
        let all =
            metrics["resourceMetrics"][0]["scopeMetrics"][0]["metrics"].as_array().expect("metrics").clone();
        let named = |name: &str| all.iter().find(|m| m["name"] == name).cloned();
        Ok(named("flowtag.tcp_rtt").zip(named("flowtag.tcp_closed")))
    };
    let (times, closed) =
        wait_until("round trips", LIMIT, observed).unwrap_or_else(|e| panic!("{e:#}\n{}", daemon.log()));
    assert_eq!(times["unit"], "s");
    let histogram = &times["histogram"];
    assert_eq!(histogram["aggregationTemporality"], "AGGREGATION_TEMPORALITY_CUMULATIVE");
    let point = &histogram["dataPoints"][0];
    let number = |text: &Value| text.as_str().and_then(|t| t.parse::<u64>().ok()).expect("a number");
    let buckets: Vec<_> = point["bucketCounts"].as_array().expect("buckets").iter().map(number).collect();
    let bounds: Vec<_> =
        point["explicitBounds"].as_array().expect("bounds").iter().filter_map(Value::as_f64).collect();
    assert_eq!(bounds.len() + 1, buckets.len());
    assert!(bounds.is_sorted() && bounds.first() == Some(&1e-5), "{bounds:?}");
    assert_eq!(buckets.iter().sum::<u64>(), number(&point["count"]));
    assert!(point["sum"].as_f64() > Some(0.0), "{point}");
    assert_eq!(closed["sum"]["isMonotonic"], true);
    assert!(attributes(&closed["sum"]["dataPoints"][0]).contains_key("direction"), "{closed}");
}

#[test]
fn logs_are_sent_again_until_the_collector_takes_them_and_what_it_refuses_is_counted() {
    let collector = Collector::new();
    // ExportLogsServiceResponse { partial_success: { rejected_log_records: 1, error_message: "no" } }
    let partial = vec![0x0a, 0x06, 0x08, 0x01, 0x12, 0x02, b'n', b'o'];
    let again = (503, "Retry-After: 1\r\n", Vec::new());
    collector.answer(&[
        again,
        (429, "", Vec::new()),
        (200, "", partial),
        (400, "", b"bad \x1b[31mthing".to_vec()),
    ]);
    let mut daemon = Daemon::start(&collector.config("metrics = false\n"));
    start(&daemon, 1);
    let bodies = [(); 3].map(|()| collector.receive("/v1/logs").body);
    assert!(bodies.iter().all(|body| *body == bodies[0]), "the same again");
    wait_for(&daemon, "rejected", 1);
    daemon.wait_for_log("the collector refused 1 of what it got: no");
    assert_eq!((&counts(&daemon)["logs_sent"], &counts(&daemon)["requests_failed"]), (&json!(1), &json!(2)));
    start(&daemon, 2);
    wait_for(&daemon, "logs_failed", 1);
    assert!(!daemon.log().contains('\x1b'), "what a server says is not printed as it came");
    let targets = cli::json(&daemon, &["status"])["services"]["outputs.otlp"]["targets"].clone();
    assert!(targets[0]["error"].as_str().is_some_and(|e| e.contains("answered 400")), "{targets}");
    start(&daemon, 3);
    wait_for(&daemon, "logs_sent", 2);
    let targets = cli::json(&daemon, &["status"])["services"]["outputs.otlp"]["targets"].clone();
    assert!(targets[0]["error"].is_null(), "{targets}");
}

#[test]
fn without_a_collector_records_are_dropped_and_counted_and_the_daemon_stops_in_time() {
    let collector = Collector::new();
    let nobody = TcpListener::bind("127.0.0.1:0").expect("bind").local_addr().expect("an address");
    let toml = collector.config("queue = 10\n").replace(&collector.at.to_string(), &nobody.to_string());
    let mut daemon = Daemon::start(&toml);
    let event = |port: u16| {
        let mut event = api::start(port, 1094);
        event["state"] = json!("start");
        event
    };
    let events: Vec<_> = (1..=3000).map(event).collect();
    assert_eq!(api::post(&daemon, "/v1/events", &json!(events)).json()["accepted"], 3000);
    wait_for(&daemon, "dropped", 2000);
    wait_for(&daemon, "requests_failed", 2);
    daemon.wait_for_log("logs could not be sent");
    assert_eq!(daemon.log().matches("logs could not be sent").count(), 1, "said once");
    let stopped = daemon.stop();
    assert!(stopped.took < Duration::from_secs(5), "stopped after {:?}", stopped.took);
}

#[test]
fn what_waits_is_sent_before_the_daemon_stops() {
    let collector = Collector::new();
    let daemon = Daemon::start(&collector.config("metrics = false\n"));
    start(&daemon, 1);
    daemon.stop();
    assert_eq!(records(&collector.receive("/v1/logs")).len(), 1);
}
