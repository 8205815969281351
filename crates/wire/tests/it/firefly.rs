//! Fireflies of every sender are understood, and what is written satisfies the schema and RFC 5424.
#![allow(clippy::unwrap_used, reason = "helpers of tests are not tests to the lint")]

use flowtag_wire::firefly::{MAX_DATAGRAM, MAX_DEPTH};
use flowtag_wire::syslog::{AppName, Header, Hostname};
use flowtag_wire::{Firefly, FiveTuple, ReadError, State, Tag, Usage, WriteError};
use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

const XROOTD: &str = concat!(
    "<134>1 - se01.example.org xrootd - firefly-json - ",
    r#"{"version":1,"flow-lifecycle":{"state":"end","current-time":"2026-03-01T10:05:00.000123+00:00","#,
    r#""start-time":"2026-03-01T10:00:00.500000+00:00","end-time":"2026-03-01T10:05:00.000100+00:00"},"#,
    r#""usage":{"received":1234,"sent":987654321},"netlink":{"rtt":12.345},"#,
    r#""context":{"experiment-id":3,"activity-id":14,"application":"xrootd/v5.7"},"#,
    r#""flow-id":{"afi":"ipv6","src-ip":"2001:db8::1","dst-ip":"2001:db8::2","protocol":"tcp","#,
    r#""src-port":1094,"dst-port":40000}}"#
);
const DCACHE: &str = concat!(
    "<134>1 2026-03-01T10:05:00.123Z 192.0.2.7 dCache - firefly-json - ",
    r#"{"version":1,"flow-lifecycle":{"state":"end","start-time":"2026-03-01T10:00:00Z","#,
    r#""end-time":"2026-03-01T10:05:00.123456789Z","current-time":"2026-03-01T10:05:00.123Z"},"#,
    r#""flow-id":{"afi":"ipv4","src-ip":"192.0.2.7","dst-ip":"198.51.100.9","protocol":"tcp","src-port":40000,"#,
    r#""dst-port":2880,"flow-id":"a1b2"},"context":{"experiment-id":2,"activity-id":9,"application":"http-get"},"#,
    r#""usage":{"received":0,"sent":4096},"storage-stats":{"bytes-transferred":4096,"connection-time":120,"#,
    r#""read-bw":1.5,"write-bw":0,"read-active":"PT1S","read-idle":"PT2S","write-active":"PT0S","write-idle":"PT3S"}}"#
);
const FLOWD: &str = concat!(
    "<134>1 2026-03-01T10:00:00.000000+00:00 host flowd - firefly-json - ",
    r#"{"version": 1, "flow-lifecycle": {"state": "start", "current-time": "2026-03-01T10:00:00+00:00", "#,
    r#""start-time": "2026-03-01T10:00:00.123456+00:00"}, "flow-id": {"afi": "ipv6", "src-ip": "fe80::1%eth0", "#,
    r#""dst-ip": "fe80::2", "protocol": "udp", "src-port": 5001, "dst-port": 5201}, "#,
    r#""context": {"experiment-id": 1, "activity-id": 2, "application": "flowd v1.1.7"}, "#,
    r#""netlink": ["ESTAB", {"tcp_info": {"rtt": 0.25, "opts": ["ts", "sack"]}}]}"#,
    "\n"
);
const FLOWD_GO: &str = concat!(
    "<134>1  host flowd-go-2.4.2 - firefly-json - ",
    r#"{"version":1,"flow-lifecycle":{"state":"end","start-time":"","end-time":"2026-03-01T12:00:00.5+02:00"},"#,
    r#""flow-id":{"afi":"ipv6","src-ip":"::ffff:192.0.2.1","dst-ip":"::ffff:192.0.2.2","protocol":"tcp","#,
    r#""src-port":2345,"dst-port":5777},"context":{"experiment-id":65535,"activity-id":65535,"#,
    r#""application":"flowd-go-2.4.2"},"skOps":{"bytesSent":18446744073709551615}}"#
);

fn read(text: &str) -> Firefly {
    Firefly::from_datagram(text.as_bytes()).unwrap_or_else(|e| panic!("{e}: {text}"))
}

fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn header() -> Header {
    Header::new(Hostname::sanitised("se01.example.org"), AppName::sanitised("flowtag-0.1.0"))
}

fn example() -> Firefly {
    read(XROOTD)
}

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

fn schema() -> jsonschema::Validator {
    let schema = include_str!("../../../../data/firefly-schema-v1.0.0.json");
    let schema: Value = serde_json::from_str(schema).unwrap();
    jsonschema::options().should_validate_formats(true).build(&schema).unwrap()
}

#[test]
fn the_schema_check_has_teeth() {
    let valid = json_of(XROOTD.as_bytes());
    assert!(schema().is_valid(&valid));
    for (section, key, value) in [
        ("flow-lifecycle", "start-time", json!("")),
        ("flow-lifecycle", "start-time", json!("2026-03-01 10:00")),
        ("flow-id", "src-ip", json!("2001:db8::1%eth0")),
        ("flow-id", "afi", json!("ipv4")),
        ("context", "user", json!("me")),
    ] {
        let mut broken = valid.clone();
        broken[section][key] = value;
        assert!(!schema().is_valid(&broken), "{section}.{key}");
    }
}

fn json_of(datagram: &[u8]) -> Value {
    let start = datagram.iter().position(|b| *b == b'{').unwrap();
    serde_json::from_slice(&datagram[start..]).unwrap()
}

/// RFC 5424 §6 by hand: PRI VERSION SP TIMESTAMP SP HOST SP APP SP - SP MSGID SP - SP.
#[track_caller]
fn check_header(datagram: &[u8], now: Timestamp) {
    let text = std::str::from_utf8(datagram).unwrap();
    let parts: Vec<&str> = text.splitn(8, ' ').collect();
    assert_eq!((parts[0], parts[4], parts[5], parts[6]), ("<134>1", "-", "firefly-json", "-"));
    let shape: String = parts[1].chars().map(|c| if c.is_ascii_digit() { '9' } else { c }).collect();
    assert_eq!(shape, "9999-99-99T99:99:99.999999+99:99");
    let micros = parts[1].parse::<Timestamp>().unwrap().as_microsecond();
    assert_eq!(micros, now.as_nanosecond().div_euclid(1000) as i64);
    for (field, max) in [(parts[2], 255), (parts[3], 48)] {
        assert!((1..=max).contains(&field.len()) && field.bytes().all(|b| (33..=126).contains(&b)));
    }
    assert!(parts[7].starts_with('{'));
}

#[test]
fn every_dialect_is_relayed_as_a_valid_firefly_and_keeps_what_it_said() {
    let now = time("2026-03-01T10:06:00.999999999Z");
    for dialect in [XROOTD, DCACHE, FLOWD, FLOWD_GO] {
        let firefly = read(dialect).with_required_times(now);
        let datagram = firefly.to_datagram(now, &header(), MAX_DATAGRAM).unwrap();
        check_header(&datagram, now);
        let json = json_of(&datagram);
        if let Err(error) = schema().validate(&json) {
            panic!("{error} in {json}");
        }
        let before = json_of(dialect.trim_end().as_bytes());
        for key in ["usage", "storage-stats", "skOps", "context"] {
            assert_eq!(json.get(key), before.get(key), "{key}");
        }
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

/// A firefly with every optional part, so that each limit gives up one more.
fn full() -> Firefly {
    Firefly {
        application: Some("a \"quoted\" näme".to_owned()),
        netlink: Some(Map::from_iter([("n".to_owned(), json!("n".repeat(100)))])),
        storage_stats: Some(json!({ "s": "s".repeat(100) })),
        extra: Map::from_iter([("skOps".to_owned(), json!("x".repeat(100)))]),
        ..example()
    }
}

#[test]
fn parts_are_given_up_in_order_until_the_datagram_fits() {
    let now = Timestamp::UNIX_EPOCH;
    let whole = full().to_datagram(now, &header(), usize::MAX).unwrap();
    let mut seen = Vec::new();
    for max in (0..=whole.len()).rev() {
        let Ok(datagram) = full().to_datagram(now, &header(), max) else { break };
        assert!(datagram.len() <= max);
        let json = json_of(&datagram);
        assert!(schema().is_valid(&json));
        assert_eq!(json["usage"]["received"], 1234, "what collectors count always stays");
        let name = json["context"]["application"].as_str().unwrap_or_default().to_owned();
        assert!("a \"quoted\" näme".starts_with(&name));
        let parts = ["skOps", "netlink", "storage-stats"].map(|key| json.get(key).is_some());
        let step = (parts, name);
        if seen.last() != Some(&step) {
            seen.push(step);
        }
    }
    let parts: Vec<[bool; 3]> = seen.iter().map(|s| s.0).collect();
    assert_eq!(parts[..4], [[true; 3], [false, true, true], [false, false, true], [false; 3]]);
    assert_eq!(seen.last().unwrap().1, "", "the name goes last, character by character");
    assert_eq!(seen.len(), 4 + "a \"quoted\" näme".chars().count());
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

fn any_time() -> impl Strategy<Value = Timestamp> {
    (-62_000_000_000_000_000_i64..253_000_000_000_000_000)
        .prop_map(|us| Timestamp::from_microsecond(us).unwrap())
}

fn any_flow() -> impl Strategy<Value = FiveTuple> {
    let v4 = (any::<[u8; 4]>(), any::<[u8; 4]>()).prop_map(|(a, b)| (a.into(), b.into()));
    let v6 = (any::<[u8; 16]>(), any::<[u8; 16]>()).prop_map(|(a, b)| (a.into(), b.into()));
    let addrs = prop_oneof![v4, v6];
    (any::<bool>(), addrs, any::<u16>(), any::<u16>()).prop_filter_map("not a flow", |(udp, (a, b), p, q)| {
        let protocol = if udp { flowtag_wire::Protocol::Udp } else { flowtag_wire::Protocol::Tcp };
        let end = flowtag_wire::Endpoint::new;
        FiveTuple::new(protocol, end(a, p), end(b, q)).ok()
    })
}

fn any_json() -> impl Strategy<Value = Value> {
    let number = any::<f64>().prop_filter("not in JSON", |n| n.is_finite());
    let leaf = prop_oneof![
        any::<i64>().prop_map(Value::from),
        number.prop_map(Value::from),
        ".*".prop_map(Value::from)
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(".*", inner, 0..4).prop_map(|m| m.into_iter().collect()),
        ]
    })
}

fn any_firefly() -> impl Strategy<Value = Firefly> {
    let state = prop_oneof![Just(State::Start), Just(State::End), Just(State::Ongoing)];
    let times = (any_time(), any_time(), prop::option::of(any_time()));
    let usage = prop::option::of((any::<Option<u64>>(), any::<Option<u64>>()));
    let more = (prop::option::of(any_json()), prop::option::of(any_json()), any_json());
    let ids = any::<(u32, u32)>();
    (state, times, any_flow(), ids, prop::option::of(".*"), usage, more).prop_map(
        |(state, (start, end, current_time), flow, (experiment, activity), application, usage, more)| {
            Firefly {
                state,
                start_time: Some(start),
                end_time: Some(end),
                current_time,
                flow,
                experiment,
                activity,
                application,
                usage: usage.map(|(received, sent)| Usage { received, sent }),
                netlink: more.0.map(|v| Map::from_iter([("tcpInfo".to_owned(), v)])),
                storage_stats: more.1,
                extra: Map::from_iter([("skOps".to_owned(), more.2)]),
                sender: None,
            }
        },
    )
}

proptest! {
    #[test]
    fn what_is_written_is_read_back_unchanged(firefly in any_firefly(), now in any_time()) {
        let datagram = firefly.to_datagram(now, &header(), usize::MAX).unwrap();
        check_header(&datagram, now);
        prop_assert!(schema().is_valid(&json_of(&datagram)));
        if datagram.len() <= MAX_DATAGRAM {
            prop_assert_eq!(Firefly::from_datagram(&datagram).unwrap(), firefly);
        }
    }

    #[test]
    fn a_shortened_datagram_fits_and_is_valid(firefly in any_firefly(), max in 300..1500_usize) {
        match firefly.to_datagram(Timestamp::UNIX_EPOCH, &header(), max) {
            Ok(datagram) => {
                prop_assert!(datagram.len() <= max);
                prop_assert!(schema().is_valid(&json_of(&datagram)));
            }
            Err(error) => prop_assert!(matches!(error, WriteError::TooLong { .. }), "{}", error),
        }
    }

    #[test]
    fn any_bytes_are_a_firefly_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Firefly::from_datagram(&bytes);
    }
}
