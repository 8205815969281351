//! Clients that get it wrong, on purpose or not: each gets a reason, the daemon goes on for all others, and it still
//! stops in time.

use std::io::{BufReader, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::common::api::{self, Answer, Watch};
use crate::common::daemon::Daemon;
use serde_json::{Value, json};

/// Connections that the daemon serves at a time.
const PLACES: usize = 256;

fn daemon(toml: &str) -> Daemon {
    Daemon::start(&format!("[mark]\nenabled = false\n[outputs.firefly]\nenabled = false\n{toml}"))
}

/// The daemon is as well as before, and stops as it should.
#[track_caller]
fn assert_unharmed(daemon: Daemon) {
    assert_eq!(api::get(&daemon, "/v1/health").json(), json!({ "health": "ok" }), "{}", daemon.log());
    let stopped = daemon.stop();
    assert!(stopped.took < Duration::from_secs(1), "it took {:?} to stop\n{}", stopped.took, stopped.log);
    assert!(!stopped.log.contains("panicked"), "{}", stopped.log);
}

#[test]
fn bytes_that_are_not_http_are_a_400_and_the_end_of_the_connection() {
    let daemon = daemon("");
    let tls = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n";
    let long = [&b"GET /v1/health HTTP/1.1\r\nX: "[..], &[b'a'; 1 << 20]].concat();
    let cases: [(&str, &[u8], &str); 7] = [
        ("a greeting", b"hello?\r\n\r\n", "400"),
        ("TLS", tls, "400"),
        ("zeros", &[0; 100], "400"),
        ("a line of the pipe", b"start tcp ::1 1 ::2 2 3 14\n", "400"),
        (
            "two lengths",
            b"POST /v1/flows HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
            "400",
        ),
        ("a length that is none", b"POST /v1/flows HTTP/1.1\r\nContent-Length: -1\r\n\r\n", "400"),
        ("a head without end", &long, "431"),
    ];
    for (what, bytes, status) in cases {
        let answer = converse(&daemon, bytes);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{what}: {answer:?}");
    }
    assert_unharmed(daemon);
}

/// Sends bytes and reads until the daemon closes the connection, which it has to do.
#[track_caller]
fn converse(daemon: &Daemon, bytes: &[u8]) -> String {
    let mut stream = api::connect(daemon);
    // The daemon may have heard enough before it has read everything.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Err(e) if e.kind() != ErrorKind::ConnectionReset => panic!("the connection stays open: {e}"),
        _ => String::from_utf8_lossy(&answer).into_owned(),
    }
}

#[test]
fn flows_that_cannot_be_are_refused_with_the_reason_and_the_remedy() {
    let daemon = daemon("");
    let with = |key: &str, value: Value| {
        let mut start = api::start(1, 2);
        start[key] = value;
        start
    };
    let both_tags = with("scitag", json!(206));
    let cases = [
        (with("experiment", json!(512)), "experiment 512 is out of range: use 1 to 511"),
        (with("experiment", json!(0)), "experiment 0 is out of range: use 1 to 511"),
        (with("experiment", json!(u64::MAX)), "is out of range: use 1 to 511"),
        (with("activity", json!(64)), "activity 64 is out of range: use 1 to 63"),
        (
            with("experiment", json!("cmss")),
            "experiment \"cmss\" is not in the registry; did you mean \"cms\"?",
        ),
        (with("activity", json!("Analysis Inptu")), "did you mean \"Analysis Input\" or"),
        (both_tags, "give experiment and activity, or scitag, and not both"),
        (with("activity", Value::Null), "give experiment and activity, or scitag, and not both"),
        (with("dst", json!("192.0.2.1:2")), "different address families"),
        (with("dst", json!("[2001:db8::2]:0")), "port 0 is not a port of a flow: use 1 to 65535"),
        (with("dst", json!("[2001:db8::2]:65536")), "write 192.0.2.1:443 or [2001:db8::1]:443"),
        (with("dst", json!("2001:db8::2")), "write 192.0.2.1:443 or [2001:db8::1]:443"),
        (with("dst", json!("[ff02::1]:2")), "ff02::1 is not the address of a host"),
        (with("dst", json!("[2001:db8::1]:1")), "source and destination are both [2001:db8::1]:1"),
        (with("protocol", json!("sctp")), "protocol \"sctp\" is not known: use tcp or udp"),
    ];
    for (body, expected) in cases {
        let answer = api::post(&daemon, "/v1/flows", &body);
        assert_eq!(answer.status, 422, "{body}: {}", answer.error());
        assert!(answer.error().contains(expected), "{body}: {}", answer.error());
    }
    assert_eq!(api::get(&daemon, "/v1/flows").json()["total"], 0);
    assert_unharmed(daemon);
}

#[test]
fn an_application_name_cannot_forge_a_line_of_the_log() {
    let daemon = daemon("");
    for name in ["x\n2026-01-01T00:00:00Z  INFO started: everything", "x\u{1b}[2J", "x\u{85}y", "\0"] {
        let mut start = api::start(1, 2);
        start["application"] = json!(name);
        let answer = api::post(&daemon, "/v1/flows", &start);
        assert_eq!(answer.status, 422, "{name:?}");
        assert!(answer.error().contains("control characters"), "{}", answer.error());
        assert!(!answer.error().chars().any(char::is_control), "{}", answer.error());
    }
    let mut start = api::start(1, 2);
    start["experiment"] = json!("x\nERROR forged");
    assert_eq!(api::post(&daemon, "/v1/flows", &start).status, 422);
    assert!(!daemon.log().contains("forged") && !daemon.log().contains("everything"), "{}", daemon.log());
    assert_unharmed(daemon);
}

#[test]
fn bodies_cut_short_or_no_json_are_a_400_that_says_where() {
    let daemon = daemon("");
    let whole = api::start(1, 2).to_string();
    let deep = "[".repeat(100_000);
    let cases: [(&[u8], &str); 7] = [
        (b"", "EOF while parsing"),
        (&whole.as_bytes()[..whole.len() - 1], "EOF while parsing"),
        (&whole.as_bytes()[..whole.len() / 2], "EOF while parsing"),
        (format!("{whole}{whole}").as_bytes().to_vec().leak(), "trailing characters"),
        (b"{\"protocol\":\"\xff\"}", "line 1"),
        (deep.as_bytes(), "invalid type"),
        (b"{\"src\":\"a\",\"src\":\"b\"}", "duplicate field `src`"),
    ];
    for (body, expected) in cases {
        let answer = api::ask(&daemon, "POST", "/v1/flows", body);
        assert_eq!(answer.status, 400, "{expected}: {}", answer.error());
        assert!(answer.error().contains(expected), "{expected}: {}", answer.error());
    }
    let deep = format!("[{{\"state\":{deep}");
    assert_eq!(api::ask(&daemon, "POST", "/v1/events", deep.as_bytes()).status, 400);
    assert_unharmed(daemon);
}

#[test]
fn queries_and_paths_with_strange_escapes_are_answered() {
    let daemon = daemon("");
    api::post(&daemon, "/v1/flows", &api::start(1, 2));
    let long = format!("/v1/flows/{}", "9".repeat(5000));
    for (path, status, expected) in [
        ("/v1/flows?", 200, ""),
        ("/v1/flows?experiment=%63%6Ds&", 200, ""),
        ("/v1/flows?experiment=%zz", 422, "%zz"),
        ("/v1/flows?experiment=%ff", 422, "not in the registry"),
        ("/v1/flows?experiment=%0AERROR", 422, "not in the registry"),
        ("/v1/flows?experiment=", 422, "not in the registry"),
        ("/v1/flows?limit=-1", 400, "limit"),
        ("/v1/flows?limit=99999999999999999999", 400, "limit"),
        ("/v1/flows?experimnet=3", 400, "experimnet"),
        ("/v1/flows?limit=1&limit=2", 400, "duplicate field `limit`"),
        ("/v1/flows/%31", 200, ""),
        ("/v1/flows/%ff", 400, "UTF-8"),
        ("/v1/flows/-1", 400, "\"-1\" is not the number of a flow"),
        (&long, 400, "is not the number of a flow"),
    ] {
        let answer = api::get(&daemon, path);
        assert_eq!(answer.status, status, "{path}: {}", String::from_utf8_lossy(&answer.body));
        assert!(
            String::from_utf8_lossy(&answer.body).contains(expected) || answer.error().contains(expected),
            "{path}"
        );
        assert!(answer.body.len() < 1000, "{path} is not echoed at length");
    }
    assert_unharmed(daemon);
}

#[test]
fn what_is_too_large_is_a_413_and_nothing_of_it_is_taken() {
    let daemon = daemon("");
    let blanks = vec![b' '; 5 << 20];
    for path in ["/v1/flows", "/v1/flows/end", "/v1/flows/find", "/v1/events"] {
        let answer = api::ask(&daemon, "POST", path, &blanks);
        assert_eq!((answer.status, answer.error().contains("4194304 bytes")), (413, true), "{path}");
    }
    let chunked = format!("5000000\r\n{}\r\n0\r\n\r\n", " ".repeat(0x500_0000));
    let head = "POST /v1/events HTTP/1.1\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n";
    let answer = converse(&daemon, format!("{head}{chunked}").as_bytes());
    assert!(answer.starts_with("HTTP/1.1 413 "), "80 MB in one chunk: {answer:?}");

    let events = |n: u16| Value::from_iter((0..n).map(|port| event(api::start(1, port + 1))));
    let answer = api::post(&daemon, "/v1/events", &events(10_001));
    assert_eq!(
        (answer.status, answer.error().starts_with("10001 events")),
        (413, true),
        "{}",
        answer.error()
    );
    assert_eq!(api::get(&daemon, "/v1/status").json()["flows"], 0, "nothing was taken");
    let answer = api::post(&daemon, "/v1/events", &events(10_000)).json();
    assert_eq!(answer, json!({ "accepted": 10_000, "rejected": 0, "errors": [] }));
    assert_unharmed(daemon);
}

fn event(mut start: Value) -> Value {
    start["state"] = json!("start");
    start
}

#[test]
fn of_many_bad_events_the_first_hundred_are_told_by_index() {
    let daemon = daemon("[flows]\nmax = 150\n");
    let one = |index: u16| match index {
        // An unknown name is found out before a full table is: the answer has to put them in order.
        200 => event(
            json!({ "protocol": "tcp", "src": "[::1]:1", "dst": "[::2]:2", "experiment": "x", "activity": 1 }),
        ),
        _ => event(api::start(1, index + 1)),
    };
    let answer = api::post(&daemon, "/v1/events", &Value::from_iter((0..400).map(one))).json();
    assert_eq!((&answer["accepted"], &answer["rejected"]), (&json!(150), &json!(250)));
    let errors = answer["errors"].as_array().expect("a list");
    let indices: Vec<_> = errors.iter().filter_map(|e| e["index"].as_u64()).collect();
    assert_eq!(indices, (150..250).collect::<Vec<_>>());
    assert!(errors[0]["error"].as_str().expect("text").contains("it may hold 150 flows"), "{}", errors[0]);
    assert!(
        errors[50]["error"].as_str().expect("text").contains("\"x\" is not in the registry"),
        "{}",
        errors[50]
    );
    assert_unharmed(daemon);
}

#[test]
fn a_full_table_is_a_507_until_a_flow_ends() {
    let daemon = daemon("[flows]\nmax = 2\n");
    for port in [2, 3] {
        assert_eq!(api::post(&daemon, "/v1/flows", &api::start(1, port)).status, 201);
    }
    let full = api::post(&daemon, "/v1/flows", &api::start(1, 4));
    assert_eq!((full.status, full.error().contains("it may hold 2 flows")), (507, true), "{}", full.error());
    assert_eq!(api::post(&daemon, "/v1/flows", &api::start(1, 3)).status, 200, "known flows are refreshed");
    assert_eq!(api::post(&daemon, "/v1/flows/end", &json!({ "id": 1 })).status, 200);
    assert_eq!(api::post(&daemon, "/v1/flows", &api::start(1, 4)).status, 201);
    assert_unharmed(daemon);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let daemon = daemon("");
    let mut stream = api::connect(&daemon);
    let end = json!({ "id": 1 }).to_string();
    let start = api::start(1, 2).to_string();
    let requests = [
        api::request("POST", "/v1/flows", start.as_bytes()),
        api::request("GET", "/v1/flows/1", b""),
        api::request("POST", "/v1/flows", b"{"),
        api::request("POST", "/v1/flows/end", end.as_bytes()),
        api::request("GET", "/v1/flows/1", b""),
    ];
    stream.write_all(&requests.concat()).expect("sent");
    let mut stream = BufReader::new(stream);
    let statuses = [(); 5].map(|()| Answer::read(&mut stream).status);
    assert_eq!(statuses, [201, 200, 400, 200, 404]);
    assert_unharmed(daemon);
}

#[test]
fn a_client_that_says_nothing_or_too_little_loses_its_place() {
    let daemon = daemon("");
    let begun = Instant::now();
    let silent = api::connect(&daemon);
    let mut half = api::connect(&daemon);
    half.write_all(b"GET /v1/health HTT").expect("sent");
    let mut idle = api::connect(&daemon);
    idle.write_all(&api::request("GET", "/v1/health", b"")).expect("sent");
    let mut idle = BufReader::new(idle);
    assert_eq!(Answer::read(&mut idle).status, 200);
    for (what, mut stream) in [("silent", silent), ("half a head", half), ("idle", idle.into_inner())] {
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap_or_else(|e| panic!("{what}: the connection stays open: {e}"));
    }
    assert!(begun.elapsed() >= Duration::from_secs(9), "they were given their time: {:?}", begun.elapsed());
    assert_unharmed(daemon);
}

#[test]
fn three_hundred_connections_are_served_as_places_become_free() {
    let daemon = daemon("");
    // Watchers stay as long as they like.
    let mut watchers: Vec<_> = (0..PLACES).map(|_| Watch::open(&daemon)).collect();
    let mut waiting: Vec<_> = (PLACES..300).map(|_| health(&daemon)).collect();
    let first = waiting.first_mut().expect("44 wait");
    assert!(!has_answer(first, Duration::from_millis(500)), "the 257th was served");
    drop(watchers.pop());
    for stream in waiting {
        // Each closes its connection when it has its answer, and so makes room for the next.
        assert_eq!(Answer::read(&mut BufReader::new(stream)).status, 200);
    }
    assert_unharmed(daemon);
}

/// Asks for the daemon's health and leaves the answer on the stream.
fn health(daemon: &Daemon) -> UnixStream {
    let mut stream = api::connect(daemon);
    stream
        .write_all(b"GET /v1/health HTTP/1.1\r\nHost: l\r\nConnection: close\r\n\r\n")
        .expect("the socket queues it");
    stream
}

fn has_answer(stream: &UnixStream, within: Duration) -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use std::os::fd::AsFd;
    let timeout = PollTimeout::try_from(within).expect("a short time");
    poll(&mut [PollFd::new(stream.as_fd(), PollFlags::POLLIN)], timeout).expect("poll") > 0
}

#[test]
fn clients_that_go_away_at_any_moment_are_forgotten() {
    let daemon = daemon("");
    let start = api::start(1, 2).to_string();
    let request = api::request("POST", "/v1/flows", start.as_bytes());
    // More than there are places, so that one place that is not given back is noticed.
    for cut in (0..request.len()).chain(0..request.len()) {
        let mut stream = api::connect(&daemon);
        stream.write_all(&request[..cut]).expect("sent");
        if cut % 2 == 0 {
            stream.shutdown(Shutdown::Write).expect("half closed");
        }
    }
    for _ in 0..PLACES {
        drop(Watch::open(&daemon));
    }
    assert_eq!(api::get(&daemon, "/v1/status").json()["flows"], 0, "no request was complete");
    assert_unharmed(daemon);
}

#[test]
fn a_watcher_that_does_not_read_is_told_what_it_lost_and_slows_nobody() {
    const FLOWS: u16 = 10_000;
    let daemon = daemon("");
    let mut sleeper = Watch::open(&daemon);
    let starts = Value::from_iter((0..FLOWS).map(|port| event(api::start(1, port + 1))));
    let ends = Value::from_iter((1..=FLOWS).map(|id| json!({ "state": "end", "id": id })));
    let begun = Instant::now();
    for batch in [starts, ends] {
        assert_eq!(api::post(&daemon, "/v1/events", &batch).json()["accepted"], FLOWS);
    }
    // About a second in a debug build; one that waits for the watcher would never come back.
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());

    let (mut read, mut lost, mut last) = (0, 0, Value::Null);
    while read + lost < 2 * u64::from(FLOWS) {
        last = sleeper.line();
        match last["changes"].as_u64() {
            Some(changes) => lost += changes,
            None => read += 1,
        }
    }
    assert!(lost > 0 && read >= 4096, "{read} read, {lost} lost");
    assert_eq!(
        (&last["change"], &last["flow"]["id"]),
        (&json!("ended"), &json!(FLOWS)),
        "the newest are kept"
    );
    api::post(&daemon, "/v1/flows", &api::start(2, 3));
    assert_eq!(sleeper.line()["change"], "started", "it goes on");
    assert_unharmed(daemon);
}

#[test]
fn sigterm_ends_the_daemon_within_a_second_whatever_its_clients_do() {
    let daemon = daemon("");
    let watchers: Vec<_> = (0..100).map(|_| Watch::open(&daemon)).collect();
    let silent: Vec<_> = (0..100).map(|_| api::connect(&daemon)).collect();
    let mut half = api::connect(&daemon);
    half.write_all(b"POST /v1/flows HTTP/1.1\r\nContent-Length: 10\r\n\r\n{").expect("sent");
    let stopped = daemon.stop();
    assert!(stopped.took < Duration::from_secs(1), "{:?}\n{}", stopped.took, stopped.log);
    drop((watchers, silent, half));
}
