//! Fireflies as others send them. The tests of the program, which hold what becomes of them against the schema, have
//! this module, too.
#![allow(clippy::unwrap_used, reason = "helpers of tests are not tests to the lint")]

use flowtag_wire::Firefly;
use flowtag_wire::syslog::{AppName, Header, Hostname};
use jiff::Timestamp;
use serde_json::{Map, json};

pub(crate) const XROOTD: &str = concat!(
    "<134>1 - se01.example.org xrootd - firefly-json - ",
    r#"{"version":1,"flow-lifecycle":{"state":"end","current-time":"2026-03-01T10:05:00.000123+00:00","#,
    r#""start-time":"2026-03-01T10:00:00.500000+00:00","end-time":"2026-03-01T10:05:00.000100+00:00"},"#,
    r#""usage":{"received":1234,"sent":987654321},"netlink":{"rtt":12.345},"#,
    r#""context":{"experiment-id":3,"activity-id":14,"application":"xrootd/v5.7"},"#,
    r#""flow-id":{"afi":"ipv6","src-ip":"2001:db8::1","dst-ip":"2001:db8::2","protocol":"tcp","#,
    r#""src-port":1094,"dst-port":40000}}"#
);
pub(crate) const DCACHE: &str = concat!(
    "<134>1 2026-03-01T10:05:00.123Z 192.0.2.7 dCache - firefly-json - ",
    r#"{"version":1,"flow-lifecycle":{"state":"end","start-time":"2026-03-01T10:00:00Z","#,
    r#""end-time":"2026-03-01T10:05:00.123456789Z","current-time":"2026-03-01T10:05:00.123Z"},"#,
    r#""flow-id":{"afi":"ipv4","src-ip":"192.0.2.7","dst-ip":"198.51.100.9","protocol":"tcp","src-port":40000,"#,
    r#""dst-port":2880,"flow-id":"a1b2"},"context":{"experiment-id":2,"activity-id":9,"application":"http-get"},"#,
    r#""usage":{"received":0,"sent":4096},"storage-stats":{"bytes-transferred":4096,"connection-time":120,"#,
    r#""read-bw":1.5,"write-bw":0,"read-active":"PT1S","read-idle":"PT2S","write-active":"PT0S","write-idle":"PT3S"}}"#
);
pub(crate) const FLOWD: &str = concat!(
    "<134>1 2026-03-01T10:00:00.000000+00:00 host flowd - firefly-json - ",
    r#"{"version": 1, "flow-lifecycle": {"state": "start", "current-time": "2026-03-01T10:00:00+00:00", "#,
    r#""start-time": "2026-03-01T10:00:00.123456+00:00"}, "flow-id": {"afi": "ipv6", "src-ip": "fe80::1%eth0", "#,
    r#""dst-ip": "fe80::2", "protocol": "udp", "src-port": 5001, "dst-port": 5201}, "#,
    r#""context": {"experiment-id": 1, "activity-id": 2, "application": "flowd v1.1.7"}, "#,
    r#""netlink": ["ESTAB", {"tcp_info": {"rtt": 0.25, "opts": ["ts", "sack"]}}]}"#,
    "\n"
);
pub(crate) const FLOWD_GO: &str = concat!(
    "<134>1  host flowd-go-2.4.2 - firefly-json - ",
    r#"{"version":1,"flow-lifecycle":{"state":"end","start-time":"","end-time":"2026-03-01T12:00:00.5+02:00"},"#,
    r#""flow-id":{"afi":"ipv6","src-ip":"::ffff:192.0.2.1","dst-ip":"::ffff:192.0.2.2","protocol":"tcp","#,
    r#""src-port":2345,"dst-port":5777},"context":{"experiment-id":65535,"activity-id":65535,"#,
    r#""application":"flowd-go-2.4.2"},"skOps":{"bytesSent":18446744073709551615}}"#
);

pub(crate) fn read(text: &str) -> Firefly {
    Firefly::from_datagram(text.as_bytes()).unwrap_or_else(|e| panic!("{e}: {text}"))
}

pub(crate) fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

pub(crate) fn header() -> Header {
    Header::new(Hostname::sanitised("se01.example.org"), AppName::sanitised("flowtag-0.1.0"))
}

pub(crate) fn example() -> Firefly {
    read(XROOTD)
}

/// A firefly with every optional part, so that each limit gives up one more.
pub(crate) fn full() -> Firefly {
    Firefly {
        application: Some("a \"quoted\" näme".to_owned()),
        netlink: Some(Map::from_iter([("n".to_owned(), json!("n".repeat(100)))])),
        storage_stats: Some(json!({ "s": "s".repeat(100) })),
        extra: Map::from_iter([("skOps".to_owned(), json!("x".repeat(100)))]),
        ..example()
    }
}
