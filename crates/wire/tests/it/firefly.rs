//! Fireflies of every sender are understood, and written with what matters most. That what is written satisfies the
//! schema is for `firefly_schema` among the tests of the program.
#![allow(clippy::unwrap_used, reason = "helpers of tests are not tests to the lint")]

use flowtag_wire::firefly::{MAX_DATAGRAM, MAX_DEPTH};
use flowtag_wire::{Firefly, ReadError, State, Tag, Usage, WriteError};
use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::{Map, json};

use crate::dialects::{DCACHE, FLOWD, FLOWD_GO, XROOTD, example, full, header, read, time};

#[test]
fn xrootd_sends_a_header_without_a_time_and_a_fractional_rtt() {
    let firefly = read(XROOTD);
    assert_eq!(firefly.state, State::End);
    assert_eq!(firefly.start_time, Some(time("2026-03-01T10:00:00.5Z")));
    assert_eq!(firefly.end_time, Some(time("2026-03-01T10:05:00.0001Z")));
    assert_eq!(firefly.flow.to_string(), "tcp [2001:db8::1]:1094 > [2001:db8::2]:40000");
    assert_eq!(firefly.tag(), Tag::new(3, 14));
    assert_eq!(firefly.usage, Some(Usage { received: Some(1234), sent: Some(987_654_321) }));
    assert_eq!(firefly.netlink.unwrap()["rtt"], json!(12.345));
}

#[test]
fn dcache_sends_z_and_any_number_of_digits_and_storage_stats() {
    let firefly = read(DCACHE);
    assert_eq!(firefly.start_time, Some(time("2026-03-01T10:00:00Z")));
    assert_eq!(firefly.end_time, Some(time("2026-03-01T10:05:00.123456789Z")));
    assert_eq!(firefly.current_time, Some(time("2026-03-01T10:05:00.123Z")));
    assert!(!firefly.flow.is_ipv6());
    assert_eq!(firefly.storage_stats.unwrap()["write-idle"], "PT3S");
    assert!(firefly.extra.is_empty());
}

#[test]
fn flowd_sends_spaces_a_zone_and_netlink_as_a_pair() {
    let firefly = read(FLOWD);
    assert_eq!(firefly.current_time, Some(time("2026-03-01T10:00:00Z")));
    assert_eq!(firefly.flow.to_string(), "udp [fe80::1]:5001 > [fe80::2]:5201");
    assert_eq!(firefly.netlink.unwrap()["value"][0], "ESTAB");
}

#[test]
fn flowd_go_sends_an_empty_start_a_local_zone_mapped_addresses_and_sk_ops() {
    let firefly = read(FLOWD_GO);
    assert_eq!(firefly.start_time, None);
    assert_eq!(firefly.end_time, Some(time("2026-03-01T10:00:00.5Z")));
    assert_eq!(firefly.flow.to_string(), "tcp 192.0.2.1:2345 > 192.0.2.2:5777");
    assert!(firefly.tag().is_err(), "65535 is no experiment, but the firefly can be relayed");
    assert_eq!(firefly.extra["skOps"]["bytesSent"], json!(u64::MAX));
}

#[test]
fn the_header_may_be_missing_and_the_edges_may_be_dirty() {
    let bare = &XROOTD[XROOTD.find('{').unwrap()..];
    for text in [bare.to_owned(), format!("\u{feff}{bare}"), format!("{bare}\r\n\0"), format!("x y z {bare}")]
    {
        assert_eq!(read(&text), example());
    }
}

#[test]
fn keys_come_in_the_order_of_the_schema() {
    let mut json = Vec::new();
    example().write_json(&mut json).unwrap();
    let expected = concat!(
        r#"{"version":1,"flow-lifecycle":{"state":"end","current-time":"2026-03-01T10:05:00.000123+00:00","#,
        r#""start-time":"2026-03-01T10:00:00.500000+00:00","end-time":"2026-03-01T10:05:00.000100+00:00"},"#,
        r#""flow-id":{"afi":"ipv6","src-ip":"2001:db8::1","dst-ip":"2001:db8::2","protocol":"tcp","#,
        r#""src-port":1094,"dst-port":40000},"#,
        r#""context":{"experiment-id":3,"activity-id":14,"application":"xrootd/v5.7"},"#,
        r#""usage":{"received":1234,"sent":987654321},"netlink":{"rtt":12.345}}"#
    );
    assert_eq!(String::from_utf8(json).unwrap(), expected);
}

#[test]
fn a_start_that_nobody_knows_is_an_error_unless_asked_for() {
    let now = time("2026-03-01T10:06:00Z");
    let firefly = read(FLOWD_GO);
    let error = firefly.to_datagram(now, &header(), 1400).unwrap_err();
    assert!(matches!(error, WriteError::NoTime("flow-lifecycle.start-time")), "{error}");
    assert_eq!(firefly.clone().with_required_times(now).start_time, firefly.end_time);

    let end = Firefly { end_time: None, ..example() };
    assert!(matches!(end.write_json(&mut Vec::new()), Err(WriteError::NoTime("flow-lifecycle.end-time"))));
    assert_eq!(end.clone().with_required_times(now).end_time, end.current_time);
}

#[test]
fn a_failed_write_leaves_nothing_half_written() {
    let mut out = b"before".to_vec();
    assert!(read(FLOWD_GO).write_json(&mut out).is_err());
    assert_eq!(out, b"before");
    assert!(read(FLOWD_GO).write_datagram(Timestamp::UNIX_EPOCH, &header(), 1400, &mut out).is_err());
    assert!(out.is_empty());
}

#[test]
fn a_limit_below_the_essentials_is_an_error_that_says_how_much_is_needed() {
    let now = Timestamp::UNIX_EPOCH;
    let WriteError::TooLong { need, max: 10 } = full().to_datagram(now, &header(), 10).unwrap_err() else {
        panic!("not too long")
    };
    assert_eq!(full().to_datagram(now, &header(), need).unwrap().len(), need);
    assert!(full().to_datagram(now, &header(), need - 1).is_err());
}

#[test]
fn extra_keys_never_shadow_those_of_the_schema() {
    let extra = Map::from_iter([("version".to_owned(), json!(2)), ("usage".to_owned(), json!("none"))]);
    let mut json = Vec::new();
    Firefly { extra, ..example() }.write_json(&mut json).unwrap();
    assert_eq!(Firefly::from_datagram(&json).unwrap(), example());
}

/// The XRootD firefly with one text replaced, and the message that this must give.
const BROKEN: [(&str, &str, &str); 14] = [
    (
        r#""version":1"#,
        r#""version":2"#,
        "the firefly's version is 2: it must be 1, the only version there is",
    ),
    (r#""version":1,"#, "", "the firefly has no version: the firefly schema requires it"),
    (
        r#""state":"end""#,
        r#""state":"stop""#,
        "flow-lifecycle.state is \"stop\": it must be start, end or ongoing",
    ),
    (
        "2026-03-01T10:00:00",
        "2026-03-32T10:00:00",
        "flow-lifecycle.start-time \"2026-03-32T10:00:00.500000+00:00\"",
    ),
    ("2026-03-01T10:00:00.500000+00:00", "2026-03-01T10:00:00", "flow-lifecycle.start-time"),
    ("2026-03-01T10:00:00", "-002026-03-01T10:00:00", "a time in the years 0 to 9999"),
    (r#""afi":"ipv6""#, r#""afi":"ipv4""#, "flow-id.src-ip is \"2001:db8::1\": it must be an IPv4 address"),
    (r#""afi":"ipv6""#, r#""afi":6"#, "flow-id.afi is 6: it must be ipv4 or ipv6"),
    ("2001:db8::2", "2001:db8::1::2", "flow-id.dst-ip"),
    (r#""tcp""#, r#""sctp""#, "flow-id.protocol is \"sctp\": it must be tcp or udp"),
    ("1094", "65536", "flow-id.src-port is 65536: it must be a whole number from 1 to 65535"),
    ("1094", "0", "flow-id is not a flow"),
    (
        r#""experiment-id":3"#,
        r#""experiment-id":-3"#,
        "context.experiment-id is -3: it must be a whole number",
    ),
    (r#""sent":987654321"#, r#""sent":1.5"#, "usage.sent is 1.5: it must be a whole number of bytes"),
];

#[test]
fn errors_name_the_key_and_what_belongs_there() {
    for (from, to, message) in BROKEN {
        let text = XROOTD.replacen(from, to, 1);
        assert_ne!(text, XROOTD, "{from}");
        let error = Firefly::from_datagram(text.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(message), "{error:?} does not say {message:?}");
    }
}

#[test]
fn what_is_no_firefly_at_all_is_told_apart() {
    let long = vec![b' '; MAX_DATAGRAM + 1];
    assert!(matches!(Firefly::from_datagram(&long), Err(ReadError::TooLong(_))));
    assert!(matches!(Firefly::from_datagram(b"hello"), Err(ReadError::NoObject)));
    assert!(matches!(Firefly::from_datagram(&XROOTD.as_bytes()[..500]), Err(ReadError::Json(_))));
    let deep = format!(r#""usage":{{}},"x":{}{}"#, "[".repeat(MAX_DEPTH + 1), "]".repeat(MAX_DEPTH + 1));
    let text = XROOTD.replacen(r#""usage":{"received":1234,"sent":987654321}"#, &deep, 1);
    assert!(matches!(Firefly::from_datagram(text.as_bytes()), Err(ReadError::TooDeep(key)) if key == "x"));
}

#[test]
fn every_beginning_of_a_firefly_is_an_error_and_not_a_panic() {
    for dialect in [XROOTD, DCACHE, FLOWD, FLOWD_GO] {
        let text = dialect.trim_end();
        for len in 0..text.len() {
            assert!(Firefly::from_datagram(&text.as_bytes()[..len]).is_err());
        }
    }
}

proptest! {
    #[test]
    fn any_bytes_are_a_firefly_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Firefly::from_datagram(&bytes);
    }
}
