//! HTTP on the control socket, byte by byte, so that a test can also say what no proper client would.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::Value;

use super::daemon::Daemon;

/// How long an answer may take before the test fails; longer than the daemon's own patience of ten seconds.
const LIMIT: Duration = Duration::from_secs(30);

/// What the daemon answered.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    head: String,
    pub body: Vec<u8>,
}

impl Answer {
    /// The header with this name, in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let line = self.head.lines().find(|l| l.to_ascii_lowercase().starts_with(&format!("{name}:")))?;
        line.split_once(':').map(|(_, value)| value.trim())
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|e| panic!("{e} in {:?}", String::from_utf8_lossy(&self.body)))
    }

    /// The reason of a refusal.
    #[track_caller]
    pub fn error(&self) -> String {
        let body = self.json();
        body["error"].as_str().unwrap_or_else(|| panic!("{body} says no error")).to_owned()
    }

    /// Takes one answer with a Content-Length off the stream.
    #[track_caller]
    pub fn read(stream: &mut impl BufRead) -> Self {
        let head = read_head(stream);
        let mut answer = Self { status: status(&head), head, body: Vec::new() };
        let length = answer.header("content-length").and_then(|l| l.parse().ok()).unwrap_or(0);
        answer.body.resize(length, 0);
        stream.read_exact(&mut answer.body).expect("the whole body");
        answer
    }
}

#[track_caller]
fn read_head(stream: &mut impl BufRead) -> String {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        let read = stream.read_line(&mut head).unwrap_or_else(|e| panic!("no answer ({e}): {head:?}"));
        assert_ne!(read, 0, "the daemon closed the connection after {head:?}");
    }
    head
}

#[track_caller]
fn status(head: &str) -> u16 {
    let status = head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.split(' ').next()?.parse().ok());
    status.unwrap_or_else(|| panic!("not an answer: {head:?}"))
}

/// A connection that waits no longer than [`LIMIT`].
#[track_caller]
pub fn connect(daemon: &Daemon) -> UnixStream {
    let stream = UnixStream::connect(daemon.socket()).expect("the daemon listens");
    stream.set_read_timeout(Some(LIMIT)).expect("a time limit");
    stream.set_write_timeout(Some(LIMIT)).expect("a time limit");
    stream
}

/// The bytes of a request.
pub fn request(method: &str, path: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n");
    [head.as_bytes(), body].concat()
}

/// One request on a connection of its own.
#[track_caller]
pub fn ask(daemon: &Daemon, method: &str, path: &str, body: &[u8]) -> Answer {
    let mut stream = connect(daemon);
    stream.write_all(&request(method, path, body)).expect("the daemon reads to the end");
    Answer::read(&mut BufReader::new(stream))
}

#[track_caller]
pub fn get(daemon: &Daemon, path: &str) -> Answer {
    ask(daemon, "GET", path, b"")
}

#[track_caller]
pub fn post(daemon: &Daemon, path: &str, body: &Value) -> Answer {
    ask(daemon, "POST", path, body.to_string().as_bytes())
}

/// A START of the TCP flow between these two ports.
pub fn start(src: u16, dst: u16) -> Value {
    let (src, dst) = (format!("[2001:db8::1]:{src}"), format!("[2001:db8::2]:{dst}"));
    serde_json::json!({ "protocol": "tcp", "src": src, "dst": dst, "experiment": "cms", "activity": 14 })
}

/// `GET /v1/watch`, read only when the test asks for a line.
pub struct Watch {
    stream: BufReader<UnixStream>,
}

impl Watch {
    /// When this returns, the daemon has taken the request: no later change is missed.
    #[track_caller]
    pub fn open(daemon: &Daemon) -> Self {
        let mut stream = connect(daemon);
        stream.write_all(&request("GET", "/v1/watch", b"")).expect("sent");
        let mut stream = BufReader::new(stream);
        let head = read_head(&mut stream);
        assert_eq!(status(&head), 200, "{head}");
        assert!(head.to_ascii_lowercase().contains("content-type: application/x-ndjson"), "{head}");
        Self { stream }
    }

    /// The next change. Every chunk is one line.
    #[track_caller]
    pub fn line(&mut self) -> Value {
        let mut size = String::new();
        self.stream.read_line(&mut size).expect("the size of a chunk");
        let size = usize::from_str_radix(size.trim_end(), 16).unwrap_or_else(|e| panic!("{e}: {size:?}"));
        let mut chunk = vec![0; size + 2];
        self.stream.read_exact(&mut chunk).expect("a chunk");
        serde_json::from_slice(&chunk).expect("a line of JSON")
    }
}
