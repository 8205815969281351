//! flowd-go's HTTP API, asked as its clients ask it.

use std::io::{BufReader, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::common;
use crate::common::api::{Answer, request};
use crate::common::cli;
use crate::common::daemon::Daemon;
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(30);
const CONFIG: &str = "[mark]\nenabled = false\n[outputs.firefly]\nenabled = false\n[inputs.flowd_go]\nenabled = true\n\
                      listen = \"127.0.0.1:0\"\n";

fn connect(daemon: &Daemon) -> TcpStream {
    let status = cli::json(daemon, &["status"]);
    let at = status["services"]["inputs.flowd_go"]["at"].as_str().expect("where it listens").to_owned();
    let stream = TcpStream::connect(at).expect("it listens");
    stream.set_read_timeout(Some(LIMIT)).expect("a limit");
    stream
}

#[track_caller]
fn send(daemon: &Daemon, bytes: &[u8]) -> Answer {
    let mut stream = connect(daemon);
    stream.write_all(bytes).expect("sent");
    Answer::read(&mut BufReader::new(stream))
}

#[track_caller]
fn ask(daemon: &Daemon, method: &str, path: &str, body: &str) -> Answer {
    send(daemon, &request(method, path, body.as_bytes()))
}

#[track_caller]
fn message(answer: &Answer) -> String {
    answer.json()["message"].as_str().expect("a message").to_owned()
}

fn event(state: Value, src: Value) -> Value {
    json!({
        "State": state, "Protocol": 0, "Family": 10, "Src": src, "Dst": "[2001:db8::2]:5777", "Experiment": 3,
        "Activity": 14, "StartTs": "2026-11-21T12:00:00Z", "EndTs": "0001-01-01T00:00:00Z",
        "CurrentTs": "0001-01-01T00:00:00Z", "Application": "probe 1"
    })
}

fn flows(daemon: &Daemon) -> Vec<Value> {
    let list = cli::ok(daemon, &["--json", "flow", "list"]);
    list.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[track_caller]
fn count(daemon: &Daemon, name: &str) -> u64 {
    let status = cli::json(daemon, &["status"]);
    status["services"]["inputs.flowd_go"]["counts"][name].as_u64().unwrap_or_else(|| panic!("{status}"))
}

#[test]
fn a_flow_starts_goes_on_and_ends_in_both_shapes() {
    let daemon = Daemon::start(CONFIG);
    let plain = json!("[2001:db8::1]:2345");
    let start = event(json!(2), plain.clone());
    let answer = ask(&daemon, "POST", "/flow", &start.to_string());
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.json(), start, "the answer is the event");
    let text = String::from_utf8(answer.body.clone()).expect("text");
    assert!(text.starts_with("{\n    \"State\": 2,\n    \"Protocol\": 0,\n    \"Family\": 10,\n"), "{text}");
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let known = flows(&daemon);
    assert_eq!(known.len(), 1);
    assert_eq!((&known[0]["experiment"], &known[0]["activity"]), (&json!(3), &json!(14)));
    assert_eq!(known[0]["start_time"], "2026-11-21T12:00:00Z");
    assert_eq!((&known[0]["application"], &known[0]["source"]), (&json!("probe 1"), &json!("flowd-go")));

    let object = json!({ "IP": "2001:db8::1", "Port": 2345 });
    assert_eq!(
        ask(&daemon, "POST", "/flow", &event(json!("ongoing"), object.clone()).to_string()).status,
        200
    );
    assert_eq!(flows(&daemon).len(), 1, "the same flow");
    assert_eq!(ask(&daemon, "POST", "/flow", &event(json!("END"), object).to_string()).status, 200);
    assert!(flows(&daemon).is_empty());
    assert_eq!(
        ask(&daemon, "POST", "/flow", &event(json!(3), plain).to_string()).status,
        200,
        "two ENDs are nothing special"
    );
    assert_eq!((count(&daemon, "events"), count(&daemon, "bad_requests")), (4, 0));
}

#[test]
fn many_requests_come_by_one_connection() {
    let daemon = Daemon::start(CONFIG);
    let mut stream = connect(&daemon);
    let mut reader = BufReader::new(stream.try_clone().expect("the same connection"));
    for port in 1..=50 {
        let body = event(json!("START"), json!(format!("[2001:db8::1]:{port}"))).to_string();
        stream.write_all(&request("POST", "/flow", body.as_bytes())).expect("sent");
        assert_eq!(Answer::read(&mut reader).status, 200);
    }
    assert_eq!(flows(&daemon).len(), 50);
}

#[test]
fn nothing_changes_by_a_get_and_the_paths_are_listed() {
    let daemon = Daemon::start(CONFIG);
    let routes = ask(&daemon, "GET", "/", "").json();
    let paths: Vec<_> =
        routes["ApiRoutes"].as_array().expect("a list").iter().map(|r| (&r["method"], &r["path"])).collect();
    assert_eq!(paths, [(&json!("GET"), &json!("/")), (&json!("POST"), &json!("/flow"))]);
    for (method, path) in [("GET", "/dummy/start"), ("GET", "/dummy/end"), ("POST", "/dummy/start")] {
        let answer = ask(&daemon, method, path, "");
        assert_eq!(answer.status, 405, "{path}");
        assert!(message(&answer).contains("a GET changes nothing here"), "{answer:?}");
    }
    let answer = ask(&daemon, "GET", "/flow", "");
    assert_eq!((answer.status, answer.header("allow")), (405, Some("POST")));
    assert!(message(&answer).contains("POST /flow takes flow events"));
    let answer = ask(&daemon, "GET", "/v1/flows", "");
    assert_eq!(answer.status, 404);
    assert!(message(&answer).contains("there is no such path"));
    assert!(flows(&daemon).is_empty());
}

#[test]
fn what_is_no_flow_is_an_error_and_no_event() {
    let daemon = Daemon::start(CONFIG);
    let good = event(json!(2), json!("[2001:db8::1]:2345"));
    let with = |key: &str, value: Value| {
        let mut event = good.clone();
        event[key] = value;
        event.to_string()
    };
    for (body, status, expected) in [
        (String::new(), 400, "no JSON object"),
        ("{}".to_owned(), 400, "State is missing"),
        ("[1, 2]".to_owned(), 400, "no JSON object"),
        (with("State", json!(0)), 400, "State 0 was start before flowd-go 2"),
        (with("State", json!(77)), 400, "State = 77 is not known: use 2 or \"start\""),
        (with("Protocol", json!(9)), 400, "Protocol = 9 is not known"),
        (with("Family", json!(2)), 400, "Family is ipv4"),
        (with("Dst", json!("192.0.2.1:5")), 400, "address families"),
        (with("Dst", json!({ "IP": "::", "Port": 5 })), 400, "not the address of a host"),
        (with("Experiment", json!(65535)), 400, "use 1 to 511"),
        (with("Activity", json!(0)), 400, "use 1 to 63"),
        (with("StartTs", json!("now")), 400, "StartTs = \"now\" is no time"),
        ("x".repeat(100_000), 413, "longer than 65536 bytes"),
    ] {
        let answer = ask(&daemon, "POST", "/flow", &body);
        assert_eq!(answer.status, status, "{body:.100}: {answer:?}");
        assert!(message(&answer).contains(expected), "{body:.100}: {answer:?}");
    }
    assert!(flows(&daemon).is_empty());
    assert_eq!((count(&daemon, "events"), count(&daemon, "bad_requests")), (0, 13));
    assert_eq!(
        daemon.log().matches("a request to flowd-go's API was not understood").count(),
        1,
        "once a minute"
    );
}

#[test]
fn a_web_page_may_not_announce_flows() {
    let daemon = Daemon::start(CONFIG);
    let body = event(json!(2), json!("[2001:db8::1]:2345")).to_string();
    let head = "POST /flow HTTP/1.1\r\nHost: localhost:7777\r\nOrigin: https://evil.example\r\nContent-Type: text/plain\r\n";
    let answer = send(&daemon, format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).as_bytes());
    assert_eq!(answer.status, 403);
    assert!(flows(&daemon).is_empty());
}

#[test]
fn a_full_table_and_an_access_rule_refuse() {
    let daemon = Daemon::start(&format!(
        "{CONFIG}[flows]\nmax = 1\n[[access]]\ninput = [\"flowd-go\"]\ntags = [\"cms\"]\n[[access]]\ninput = [\"control\"]\ntags = [\"atlas\"]\n"
    ));
    let mut atlas = event(json!(2), json!("[2001:db8::1]:1"));
    atlas["Experiment"] = json!("atlas");
    atlas["Activity"] = json!(9);
    let answer = ask(&daemon, "POST", "/flow", &atlas.to_string());
    assert_eq!(answer.status, 403, "{answer:?}");
    assert!(message(&answer).contains("input flowd-go may not tag as 2/9"), "{answer:?}");
    assert_eq!(
        ask(&daemon, "POST", "/flow", &event(json!(2), json!("[2001:db8::1]:1")).to_string()).status,
        200
    );
    let answer = ask(&daemon, "POST", "/flow", &event(json!(2), json!("[2001:db8::1]:2")).to_string());
    assert_eq!(answer.status, 507);
    assert!(message(&answer).contains("the flow table is full"), "{answer:?}");
    assert_eq!(count(&daemon, "refused"), 2);
}

#[test]
fn a_port_that_is_taken_is_an_error_that_says_who_may_have_it() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let at = taken.local_addr().expect("an address");
    let dir = tempfile::tempdir().expect("a directory");
    let config = dir.path().join("flowtag.toml");
    let here = dir.path().display();
    let text = format!(
        "runtime_dir = \"{here}\"\n{}[inputs.control]\npath = \"{here}/control.sock\"\n",
        CONFIG.replace("127.0.0.1:0", &at.to_string())
    );
    std::fs::write(&config, text).expect("written");
    let output =
        std::process::Command::new(common::daemon::binary()).args(["run", "-c"]).arg(&config).output();
    let output = output.expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && said.contains("(inputs.flowd_go.listen): does flowd-go still run?"),
        "{said}"
    );
}

#[test]
fn a_reload_moves_it_and_takes_it_away() {
    let mut daemon = Daemon::start(CONFIG);
    let first = connect(&daemon).peer_addr().expect("an address");
    daemon.reload(&CONFIG.replace("127.0.0.1:0", "[::1]:0"));
    daemon.wait_for_log("the new configuration is in force");
    let second = connect(&daemon).peer_addr().expect("an address");
    assert!(second.ip().is_ipv6() && TcpStream::connect(first).is_err(), "{first} {second}");
    assert_eq!(
        ask(&daemon, "POST", "/flow", &event(json!(2), json!("[2001:db8::1]:1")).to_string()).status,
        200
    );
    daemon.reload(&CONFIG.replace("[inputs.flowd_go]\nenabled = true", "[inputs.flowd_go]\nenabled = false"));
    flowtag_testbed::wait_until("the port to be closed", LIMIT, || {
        Ok(TcpStream::connect(second).is_err().then_some(()))
    })
    .unwrap_or_else(|e| panic!("{e:#}\n{}", daemon.log()));
    assert_eq!(flows(&daemon).len(), 1, "no flow is lost");
    daemon.stop();
}
