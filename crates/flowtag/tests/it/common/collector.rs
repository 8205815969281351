//! Collectors as they are out there, that hold each firefly against schema and RFC 5424.

use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, UdpSocket};
use std::sync::LazyLock;
use std::time::Duration;

use flowtag_testbed::{Host, JsonSchema};
use flowtag_wire::Firefly;
use serde_json::Value;

use super::daemon::{Daemon, is_guest};
use super::{cli, hosts};

const SCHEMA: &str = include_str!("../../../../../data/firefly-schema-v1.0.0.json");
const LIMIT: Duration = Duration::from_secs(60);

static HEADER: LazyLock<regex::Regex> = LazyLock::new(|| {
    let time = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00";
    let header = format!(r"^<134>1 {time} [!-~]{{1,255}} flowtag-[!-~]{{1,40}} - firefly-json - \{{");
    regex::Regex::new(&header).expect("a pattern")
});
/// The schema of fireflies. Not for a guest, which has no Python.
pub static VALIDATOR: LazyLock<JsonSchema> =
    LazyLock::new(|| JsonSchema::new(&serde_json::from_str(SCHEMA).expect("the schema")));

/// One that listens on UDP.
pub struct Collector(pub UdpSocket);

impl Collector {
    #[track_caller]
    pub fn new(host: &Host, addr: SocketAddr) -> Self {
        let socket = host.run(|| hosts::when_free(|| UdpSocket::bind(addr))).expect("host");
        socket.set_read_timeout(Some(LIMIT)).expect("a timeout");
        Self(socket)
    }

    /// The next datagram, as it came.
    #[track_caller]
    pub fn receive_raw(&self) -> Vec<u8> {
        let mut buffer = [0; 65536];
        let length = self.0.recv(&mut buffer).expect("a datagram");
        buffer[..length].to_vec()
    }

    /// The next firefly.
    #[track_caller]
    pub fn receive(&self) -> Firefly {
        read(&self.receive_raw())
    }

    #[track_caller]
    pub fn is_empty(&self) -> bool {
        self.0.set_read_timeout(Some(Duration::from_millis(300))).expect("a timeout");
        let is_empty = self.0.recv(&mut [0; 1]).is_err();
        self.0.set_read_timeout(Some(LIMIT)).expect("a timeout");
        is_empty
    }

    /// How many come until none comes for a while.
    pub fn drain(&self) -> usize {
        self.0.set_read_timeout(Some(Duration::from_millis(500))).expect("a timeout");
        let number = std::iter::from_fn(|| self.0.recv(&mut [0; 2048]).ok()).count();
        self.0.set_read_timeout(Some(LIMIT)).expect("a timeout");
        number
    }
}

/// A firefly that is valid against schema and RFC 5424 and fits a packet.
#[track_caller]
pub fn read(message: &[u8]) -> Firefly {
    assert!(message.len() <= 1232, "within one MTU");
    let text = std::str::from_utf8(message).expect("UTF-8");
    assert!(HEADER.is_match(text), "{text}");
    let json: Value = serde_json::from_str(&text[text.find('{').expect("JSON")..]).expect("JSON");
    // A guest has no Python; the same tests on the host hold the same fireflies against the schema.
    if !is_guest() {
        assert_eq!(VALIDATOR.errors(&json), [""; 0], "{json}");
    }
    Firefly::from_datagram(message).expect("it can be read")
}

/// One message of a stream (RFC 6587 §3.4.1): its length, a space, and it.
#[track_caller]
pub fn read_frame(stream: &mut BufReader<impl Read>) -> Vec<u8> {
    let mut length = Vec::new();
    stream.read_until(b' ', &mut length).expect("a length");
    let text = String::from_utf8(length).expect("digits");
    let mut message = vec![0; text.trim_end().parse().unwrap_or_else(|_| panic!("a length: {text:?}"))];
    stream.read_exact(&mut message).expect("a whole message");
    message
}

/// A counter of an input or output.
#[track_caller]
pub fn count(daemon: &Daemon, service: &str, counter: &str) -> u64 {
    let status = cli::json(daemon, &["status"]);
    let counts = &status["services"][service]["counts"];
    counts[counter].as_u64().unwrap_or_else(|| panic!("no {counter} in {counts}"))
}

/// Waits until a counter is at least that.
#[track_caller]
pub fn wait_for_count(daemon: &Daemon, service: &str, counter: &str, value: u64) {
    let reached = flowtag_testbed::wait_until(counter, LIMIT, || {
        Ok((count(daemon, service, counter) >= value).then_some(()))
    });
    reached.unwrap_or_else(|_| {
        panic!(
            "{service}: {counter} is not {value} but {}\n{}",
            count(daemon, service, counter),
            daemon.log()
        )
    });
}
